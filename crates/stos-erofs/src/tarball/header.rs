// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One 512-byte header block: POSIX.1-1988 ustar, GNU, star and v7.

use crate::error::{TarProblem, escaped};

/// A header block.
pub(super) type Block = [u8; 512];

/// The numeric and text fields that an index needs, as the block has them.
#[derive(Debug)]
pub(super) struct Header<'a> {
    block: &'a Block,
}

const CHECKSUM: std::ops::Range<usize> = 148..156;
const PREFIX: std::ops::Range<usize> = 345..500;
const STAR_PREFIX: std::ops::Range<usize> = 345..476;
const GNU_ATIME: std::ops::Range<usize> = 345..357;
const GNU_CTIME: std::ops::Range<usize> = 357..369;

impl<'a> Header<'a> {
    /// Takes a block whose checksum is right, by the unsigned sum of POSIX or the signed one of old Sun and GNU tars.
    pub(super) fn new(block: &'a Block) -> Result<Self, TarProblem> {
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, &byte) in block.iter().enumerate() {
            let byte = if CHECKSUM.contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        let stated = octal(&block[CHECKSUM]);
        if stated != Some(unsigned) && stated != Some(signed) {
            let found = stated.unwrap_or_default() as u64;
            return Err(TarProblem::Checksum { expected: unsigned as u64, found });
        }
        Ok(Self { block })
    }

    /// Takes a block that has no checksum: what follows GNU's header of a sparse file.
    pub(super) fn unchecked(block: &'a Block) -> Self {
        Self { block }
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[156]
    }

    /// The name, with the prefix where the format has one.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        match self.prefix() {
            b"" => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    pub(super) fn link_name(&self) -> &'a [u8] {
        text(&self.block[157..257])
    }

    pub(super) fn mode(&self) -> Result<i64, TarProblem> {
        self.number("mode", 100..108)
    }

    pub(super) fn uid(&self) -> Result<i64, TarProblem> {
        self.number("uid", 108..116)
    }

    pub(super) fn gid(&self) -> Result<i64, TarProblem> {
        self.number("gid", 116..124)
    }

    pub(super) fn size(&self) -> Result<i64, TarProblem> {
        self.number("size", 124..136)
    }

    pub(super) fn mtime(&self) -> Result<i64, TarProblem> {
        self.number("mtime", 136..148)
    }

    /// The length of a sparse file, in GNU's header.
    pub(super) fn real_size(&self) -> Result<u64, TarProblem> {
        self.unsigned("realsize", 483..495)
    }

    /// Offset and length of the segment that GNU's map has at that byte of the block; `None` where the map ends.
    pub(super) fn sparse_entry(&self, at: usize) -> Result<Option<(u64, u64)>, TarProblem> {
        if self.block[at] == 0 {
            return Ok(None);
        }
        let offset = self.unsigned("sparse offset", at..at + 12)?;
        Ok(Some((offset, self.unsigned("sparse length", at + 12..at + 24)?)))
    }

    /// Tells whether a block of GNU's map follows this one, by the flag at that byte.
    pub(super) fn has_more_at(&self, at: usize) -> bool {
        self.block[at] != 0
    }

    fn unsigned(&self, field: &'static str, range: std::ops::Range<usize>) -> Result<u64, TarProblem> {
        let value = self.number(field, range)?;
        super::entry::non_negative(field, value)
    }

    /// Major and minor. v7 has no such fields, nor devices: to take its bytes, or zeros, for numbers would make some
    /// other device of it, or a whiteout.
    pub(super) fn device(&self) -> Result<(i64, i64), TarProblem> {
        if !self.is_ustar() && !self.is_gnu() {
            return Err(TarProblem::Number {
                field: "devmajor",
                expected: "a ustar or GNU header, which has device numbers",
                found: "a v7 header".to_owned(),
            });
        }
        Ok((self.number("devmajor", 329..337)?, self.number("devminor", 337..345)?))
    }

    fn is_ustar(&self) -> bool {
        &self.block[257..263] == b"ustar\0"
    }

    pub(super) fn is_gnu(&self) -> bool {
        &self.block[257..265] == b"ustar  \0"
    }

    fn prefix(&self) -> &'a [u8] {
        if self.is_ustar() {
            return text(&self.block[if &self.block[508..] == b"tar\0" { STAR_PREFIX } else { PREFIX }]);
        }
        // Go before 1.8, and so old Docker, wrote a ustar prefix into GNU headers, where atime and ctime belong
        // (golang.org/issue/21005): what is no number there is a prefix.
        let times = [&self.block[GNU_ATIME], &self.block[GNU_CTIME]];
        if self.is_gnu() && times.into_iter().any(|field| field[0] != 0 && numeric(field).is_none()) {
            let prefix = text(&self.block[PREFIX]);
            if prefix.is_ascii() {
                return prefix;
            }
        }
        b""
    }

    fn number(&self, field: &'static str, range: std::ops::Range<usize>) -> Result<i64, TarProblem> {
        let bytes = &self.block[range];
        numeric(bytes).ok_or_else(|| TarProblem::Number {
            field,
            expected: "an octal or base-256 number of at most 63 bits",
            found: escaped(bytes),
        })
    }
}

/// A text field up to its NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// An octal number, or GNU's big-endian two's complement where the first bit is set.
fn numeric(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    // The first bit is the mark, the second the sign.
    let low = i64::from(field[0] & 0x3f);
    let first = if field[0] & 0x40 != 0 { low - 0x40 } else { low };
    field[1..].iter().try_fold(first, |value, &byte| {
        let shifted = value.checked_mul(256)?;
        Some(shifted | i64::from(byte))
    })
}

/// An octal number between spaces and NULs; none at all is 0.
fn octal(field: &[u8]) -> Option<i64> {
    let padding = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !padding(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let len = digits.iter().rposition(|byte| !padding(byte)).map_or(0, |last| last + 1);
    text(&digits[..len]).iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_tars_write_them() {
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644 \0\0\0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77777777)),
            (b"0000648\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"0x10\0\0\0\0", None),
            (b"6 4\0\0\0\0\0", None),
            (b"12\x0034\0\0\0", Some(0o12)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\0", Some(-256)),
            (b"\x80\0\0\0\x02\0\0\0\0\0\0\0", Some(1 << 57)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xc0\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
        ];
        for (field, expected) in cases {
            assert_eq!(numeric(field), *expected, "{}", field.escape_ascii());
        }
    }
}
