// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One ustar header block (POSIX.1-1988).

use crate::BLOCK;

/// The longest name and link name that the header's own fields take.
pub(super) const NAME_LEN: usize = 100;
const PREFIX_LEN: usize = 155;

/// The largest numbers of 7 and of 11 octal digits.
pub(super) const MAX_ID: u32 = 0o7_777_777;
pub(super) const MAX_LONG: u64 = 0o77_777_777_777;

/// A header in the making: what is not set is 0 or empty.
#[derive(Debug)]
pub(super) struct HeaderBlock([u8; BLOCK as usize]);

impl HeaderBlock {
    pub(super) fn new(type_flag: u8) -> Self {
        let mut header = Self([0; BLOCK as usize]);
        header.0[156] = type_flag;
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        for (at, len) in [(100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (329, 8), (337, 8)] {
            header.octal(at, len, 0);
        }
        header
    }

    /// Puts the name into the name field, or into prefix and name; `false` where it fits neither, and its beginning is there.
    pub(super) fn set_name(&mut self, name: &[u8]) -> bool {
        if let Some((prefix, rest)) = fit_name(name) {
            self.0[345..345 + prefix.len()].copy_from_slice(prefix);
            self.0[..rest.len()].copy_from_slice(rest);
            return true;
        }
        // Nobody reads it but a tool that knows no PAX.
        for (field, byte) in self.0[..NAME_LEN].iter_mut().zip(name) {
            *field = if byte.is_ascii() { *byte } else { b'_' };
        }
        false
    }

    /// Puts the target into the link field; `false` where it does not fit.
    pub(super) fn set_link(&mut self, target: &[u8]) -> bool {
        let fits = target.len() <= NAME_LEN && target.is_ascii();
        if fits {
            self.0[157..157 + target.len()].copy_from_slice(target);
        }
        fits
    }

    pub(super) fn set_mode(&mut self, mode: u16) {
        self.octal(100, 8, u64::from(mode));
    }

    /// Puts the owner in; `false` where the number is too large, and 0 stands there.
    pub(super) fn set_uid(&mut self, uid: u32) -> bool {
        self.bounded(108, 8, u64::from(uid), u64::from(MAX_ID))
    }

    /// As [`Self::set_uid`].
    pub(super) fn set_gid(&mut self, gid: u32) -> bool {
        self.bounded(116, 8, u64::from(gid), u64::from(MAX_ID))
    }

    /// As [`Self::set_uid`].
    pub(super) fn set_size(&mut self, size: u64) -> bool {
        self.bounded(124, 12, size, MAX_LONG)
    }

    /// Puts the seconds in; `false` where they are negative or too large, and 0 stands there.
    pub(super) fn set_mtime(&mut self, seconds: i64) -> bool {
        u64::try_from(seconds).is_ok_and(|seconds| self.bounded(136, 12, seconds, MAX_LONG))
    }

    /// The numbers are Linux's, which fit always.
    pub(super) fn set_device(&mut self, major: u32, minor: u32) {
        self.octal(329, 8, u64::from(major));
        self.octal(337, 8, u64::from(minor));
    }

    /// Sets the checksum: the sum of all bytes, with spaces in its own place.
    pub(super) fn finish(mut self) -> [u8; BLOCK as usize] {
        self.0[148..156].fill(b' ');
        let sum = self.0.iter().map(|&byte| u64::from(byte)).sum();
        self.octal(148, 7, sum);
        self.0
    }

    fn bounded(&mut self, at: usize, len: usize, value: u64, limit: u64) -> bool {
        let fits = value <= limit;
        if fits {
            self.octal(at, len, value);
        }
        fits
    }

    /// Writes `len - 1` octal digits and a NUL.
    fn octal(&mut self, at: usize, len: usize, mut value: u64) {
        for digit in self.0[at..at + len - 1].iter_mut().rev() {
            *digit = b'0' + (value & 7) as u8;
            value >>= 3;
        }
        self.0[at + len - 1] = 0;
    }
}

/// Splits a name into prefix and name at the first slash that lets both fit; the slash itself is implied.
fn fit_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= NAME_LEN {
        return Some((b"", name));
    }
    // A directory's last slash cannot be the one: the name would be empty.
    let first = name.len() - NAME_LEN - 1;
    let slash = first + name.get(first..name.len() - 1)?.iter().position(|&byte| byte == b'/')?;
    (1..=PREFIX_LEN).contains(&slash).then(|| (&name[..slash], &name[slash + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_where_both_parts_fit() {
        let long = |len: usize| "x".repeat(len);
        let cases = [
            (long(100), true),
            (long(101), false),
            (format!("{}/{}", long(155), long(100)), true),
            (format!("{}/{}", long(156), long(100)), false),
            (format!("{}/{}", long(20), long(101)), false),
            (format!("{}/{}/", long(20), long(99)), true),
            (format!("{}/{}/", long(20), long(100)), false),
            (format!("{}/", long(100)), false),
            ("é".to_owned(), false),
        ];
        for (name, fits) in cases {
            let mut header = HeaderBlock::new(b'0');
            assert_eq!(header.set_name(name.as_bytes()), fits, "{name}");
            if let Some((prefix, rest)) = fit_name(name.as_bytes()) {
                let slash: &[u8] = if prefix.is_empty() { b"" } else { b"/" };
                assert_eq!([prefix, slash, rest].concat(), name.as_bytes());
                assert!(!rest.is_empty());
            }
        }
    }
}
