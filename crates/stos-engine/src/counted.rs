// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bytes on their way, counted.

use std::io::{self, Read};

/// Something to read, of which each piece is told by its length: what has been read of it, and not what has arrived anywhere.
pub(crate) struct Counted<R, F> {
    from: R,
    told: F,
}

impl<R: Read, F: Fn(u64)> Counted<R, F> {
    pub fn new(from: R, told: F) -> Self {
        Self { from, told }
    }
}

impl<R: Read, F: Fn(u64)> Read for Counted<R, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        if count > 0 {
            (self.told)(count as u64);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn each_piece_is_told_once() {
        let told = RefCell::new(Vec::new());
        let mut counted = Counted::new(&b"0123456789"[..], |count| told.borrow_mut().push(count));
        let mut piece = [0; 4];
        while counted.read(&mut piece).unwrap() > 0 {}
        assert_eq!(*told.borrow(), [4, 4, 2]);
    }
}
