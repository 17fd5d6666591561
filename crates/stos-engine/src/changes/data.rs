// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compares what two files hold. Where both have holes nothing is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, SeekFrom, seek};
use rustix::io::Errno;

use super::Node;
use crate::error::Result;

/// How much is compared at once.
const PIECE: usize = 256 << 10;

/// Compares the data of two files of one size. Times are no proof: images are made with times that somebody has set.
pub(super) fn data_differ(upper: &Node, lower: &Node) -> Result<bool> {
    if upper.file_type() != FileType::RegularFile || upper.size() == 0 {
        return Ok(false);
    }
    let (upper, lower) = (upper.open_data()?, lower.open_data()?);
    Ok(files_differ(&upper, &lower).map_err(stos_store::Error::io("read", "a file to be compared"))?)
}

fn files_differ(upper: &File, lower: &File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        // In what lies before, both read as zeros.
        at = match (next_data(upper, at)?, next_data(lower, at)?) {
            (None, None) => return Ok(false),
            (Some(start), None) | (None, Some(start)) => start,
            (Some(upper), Some(lower)) => upper.min(lower),
        };
        let (read, other) = (read_piece(upper, &mut left, at)?, read_piece(lower, &mut right, at)?);
        if left[..read] != right[..other] {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        at += read as u64;
    }
}

/// Gives where data come from `at` on; `None` where there are none. A filesystem that knows no holes gives `at`.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL) => Ok(Some(at)),
        other => Ok(Some(other?)),
    }
}

/// Fills the buffer from `at` on as far as the file goes.
fn read_piece(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_not_read_and_data_are() {
        let dir = stos_testkit::environment::scratch();
        let file = |name: &str, size: u64, data: &[(u64, &[u8])]| {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_len(size).unwrap();
            data.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
            File::open(path).unwrap()
        };
        let size = 8 << 40;
        let plain = file("plain", size, &[(5, b"x"), (3 << 40, b"y"), (size - 1, b"z")]);
        let same = file("same", size, &[(5, b"x"), (7 << 20, b"\0"), (3 << 40, b"y"), (size - 1, b"z")]);
        assert!(!files_differ(&plain, &same).unwrap(), "zeros that are written are no other data");
        for (name, data) in [
            ("first", &[(3 << 40, &b"y"[..]), (size - 1, b"z")][..]),
            ("middle", &[(5, b"x"), ((3 << 40) + 1, b"y"), (size - 1, b"z")]),
            ("last", &[(5, b"x"), (3 << 40, b"y"), (size - 1, b"Z")]),
            ("more", &[(5, b"x"), (3 << 40, b"y"), (4 << 40, b"y"), (size - 1, b"z")]),
            ("hole", &[]),
        ] {
            let other = file(name, size, data);
            assert!(files_differ(&plain, &other).unwrap() && files_differ(&other, &plain).unwrap(), "{name}");
        }
        let (short, long) = (file("short", 10, &[]), file("long", PIECE as u64 + 10, &[(PIECE as u64 + 9, b"x")]));
        assert!(files_differ(&short, &long).unwrap(), "one that has been cut meanwhile");
    }
}
