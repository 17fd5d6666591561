// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PAX extended headers (POSIX.1-2001, type `x`): what they override of the next entry.

use std::collections::BTreeMap;

use crate::error::{TarProblem, escaped};
use crate::index::Timestamp;

/// The overrides that one extended header brings. An empty value of a standard keyword means that the header's field
/// holds.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    /// By full name; from `SCHILY.xattr.*`.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// ACLs as text, by the full names of their attributes; from `SCHILY.acl.access` and `SCHILY.acl.default`.
    pub(super) text_acls: BTreeMap<&'static str, Vec<u8>>,
    /// From `GNU.sparse.*`.
    pub(super) sparse: PaxSparse,
}

/// What the header says of a sparse file, as it stands there; empty is as good as absent.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) major: Vec<u8>,
    pub(super) minor: Vec<u8>,
    /// The file's real name: `path` is one that tells old tars what they unpack.
    pub(super) name: Vec<u8>,
    pub(super) size: Vec<u8>,
    pub(super) real_size: Vec<u8>,
    pub(super) num_blocks: Vec<u8>,
    /// The map of 0.1: numbers between commas.
    pub(super) map: Vec<u8>,
    /// That of 0.0: `offset` and `numbytes` in turn, each a record.
    pub(super) pairs: Vec<u64>,
}

impl PaxSparse {
    fn set(&mut self, key: &[u8], value: &[u8], at: usize) -> Result<(), TarProblem> {
        if matches!(key, b"offset" | b"numbytes") {
            if self.pairs.len().is_multiple_of(2) != (key == b"offset") {
                let reason = "GNU.sparse.offset and numbytes do not alternate";
                return Err(TarProblem::PaxRecord { at, reason });
            }
            self.pairs.push(decimal("GNU.sparse.offset or numbytes", value)?);
            return Ok(());
        }
        let field = match key {
            b"major" => &mut self.major,
            b"minor" => &mut self.minor,
            b"name" if value.contains(&0) => return Err(TarProblem::PaxRecord { at, reason: "NUL in a name" }),
            b"name" => &mut self.name,
            b"size" => &mut self.size,
            b"realsize" => &mut self.real_size,
            b"numblocks" => &mut self.num_blocks,
            b"map" => &mut self.map,
            _ => return Ok(()),
        };
        field.clear();
        field.extend_from_slice(value);
        Ok(())
    }
}

impl Pax {
    /// Parses a header's data; of a keyword that stands there twice the last holds.
    pub(super) fn parse(data: &[u8]) -> Result<Self, TarProblem> {
        let mut pax = Self::default();
        let mut at = 0;
        while at < data.len() {
            let (key, value, len) = record(&data[at..]).map_err(|reason| TarProblem::PaxRecord { at, reason })?;
            pax.set(key, value, at)?;
            at += len;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8], at: usize) -> Result<(), TarProblem> {
        let text = (!value.is_empty()).then_some(value);
        if matches!(key, b"path" | b"linkpath" | b"uname" | b"gname") {
            if value.contains(&0) {
                return Err(TarProblem::PaxRecord { at, reason: "NUL in a name" });
            }
        } else if key.contains(&0) {
            return Err(TarProblem::PaxRecord { at, reason: "NUL in the keyword" });
        }
        match key {
            b"path" => self.path = text.map(<[u8]>::to_vec),
            b"linkpath" => self.link_path = text.map(<[u8]>::to_vec),
            b"size" => self.size = text.map(|text| decimal("PAX size", text)).transpose()?,
            b"uid" => self.uid = text.map(|text| decimal("PAX uid", text)).transpose()?,
            b"gid" => self.gid = text.map(|text| decimal("PAX gid", text)).transpose()?,
            b"mtime" => self.mtime = text.map(time).transpose()?,
            b"SCHILY.acl.access" => drop(self.text_acls.insert("system.posix_acl_access", value.to_vec())),
            b"SCHILY.acl.default" => drop(self.text_acls.insert("system.posix_acl_default", value.to_vec())),
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, value, at)?;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

/// Splits the first record `length keyword=value\n` off; the length counts the whole record.
fn record(data: &[u8]) -> Result<(&[u8], &[u8], usize), &'static str> {
    let space = data.iter().take(21).position(|&byte| byte == b' ').ok_or("no length")?;
    let len = digits(&data[..space]).ok_or("the length is no number")?;
    let len =
        usize::try_from(len).ok().filter(|&len| len <= data.len()).ok_or("the length reaches beyond the header")?;
    let body = data.get(space + 1..len).ok_or("the length is too small")?;
    let (&end, body) = body.split_last().ok_or("the length is too small")?;
    if end != b'\n' {
        return Err("no newline at its end");
    }
    let equals = body.iter().position(|&byte| byte == b'=').ok_or("no \"=\"")?;
    if equals == 0 {
        return Err("empty keyword");
    }
    Ok((&body[..equals], &body[equals + 1..], len))
}

pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn decimal(field: &'static str, text: &[u8]) -> Result<u64, TarProblem> {
    digits(text).filter(|&value| i64::try_from(value).is_ok()).ok_or_else(|| TarProblem::Number {
        field,
        expected: "a decimal number of at most 63 bits",
        found: escaped(text),
    })
}

/// Decimal seconds with an optional sign and fraction; digits beyond nanoseconds are cut off.
fn time(text: &[u8]) -> Result<Timestamp, TarProblem> {
    parse_time(text).ok_or_else(|| TarProblem::Number {
        field: "PAX mtime",
        expected: "decimal seconds of at most 63 bits",
        found: escaped(text),
    })
}

fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(digits(whole)?).ok()?;
    let mut nanoseconds = 0u32;
    for at in 0..fraction.len().max(9) {
        let digit = fraction.get(at).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        if at < 9 {
            nanoseconds = nanoseconds * 10 + u32::from(digit - b'0');
        }
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds },
        (true, _) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarball::testing::pax_record;

    #[test]
    fn times_with_signs_and_fractions() {
        let cases: &[(&str, Option<(i64, u32)>)] = &[
            ("0", Some((0, 0))),
            ("1350244992.023960108", Some((1_350_244_992, 23_960_108))),
            ("1.5", Some((1, 500_000_000))),
            ("1.", Some((1, 0))),
            ("1.0000000019", Some((1, 1))),
            ("-1", Some((-1, 0))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.000000001", Some((-1, 999_999_999))),
            ("9223372036854775807", Some((i64::MAX, 0))),
            ("-9223372036854775807.5", Some((i64::MIN, 500_000_000))),
            ("9223372036854775808", None),
            ("", None),
            (".5", None),
            ("1.5x", None),
            ("1.0000000000x", None),
            ("+5.5", Some((5, 500_000_000))),
            ("--1", None),
            ("+-1", None),
            ("+", None),
            ("1e9", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds });
            assert_eq!(parse_time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn records_are_parsed_strictly() {
        let good = [
            pax_record("path", b"ab"),
            pax_record("SCHILY.xattr.user.a", b"b\n=\nc\0"),
            pax_record("size", b"123"),
            pax_record("comment", &[b'x'; 2000]),
            pax_record("hdrcharset", b"BINARY"),
        ];
        let pax = Pax::parse(&good.concat()).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"ab"[..]));
        assert_eq!(pax.size, Some(123));
        assert_eq!(pax.xattrs[&b"user.a"[..]], b"b\n=\nc\0");
        let cases: &[(&[u8], &str)] = &[
            (b"path=ab\n", "no length"),
            (b" path=ab\n", "the length is no number"),
            (b"x1 path=ab\n", "the length is no number"),
            (b"12 path=ab\n", "the length reaches beyond the header"),
            (b"99999999999999999999 path=ab\n", "the length is no number"),
            (b"1 path=ab\n", "the length is too small"),
            (b"2 path=ab\n", "the length is too small"),
            (b"3 path=ab\n", "no newline at its end"),
            (b"10 path=ab\n", "no newline at its end"),
            (b"7 path\n\n", "no \"=\""),
            (b"6 =ab\n", "empty keyword"),
            (b"12 path=a\0b\n", "NUL in a name"),
            (b"8 a\0b=c\n", "NUL in the keyword"),
            (b"\0\0\0\0\0\0\0\0", "no length"),
        ];
        for (data, expected) in cases {
            match Pax::parse(data) {
                Err(TarProblem::PaxRecord { reason, .. }) => assert_eq!(reason, *expected, "{}", data.escape_ascii()),
                other => panic!("{}: {other:?}", data.escape_ascii()),
            }
        }
        let second = [pax_record("path", b"ab"), b"12 path".to_vec()].concat();
        assert!(matches!(Pax::parse(&second), Err(TarProblem::PaxRecord { at: 11, .. })));
    }

    #[test]
    fn empty_values_leave_the_header_s_field_and_the_last_one_holds() {
        let records = [("size", "1"), ("size", "2"), ("uid", "7"), ("path", "a"), ("path", "")];
        let data = records.map(|(key, value)| pax_record(key, value.as_bytes())).concat();
        let pax = Pax::parse(&data).unwrap();
        assert_eq!((pax.size, pax.uid, pax.path), (Some(2), Some(7), None));
        for (key, value) in [("size", "-1"), ("uid", "0x7"), ("gid", "9223372036854775808"), ("mtime", "now")] {
            let error = Pax::parse(&pax_record(key, value.as_bytes())).unwrap_err();
            assert!(matches!(error, TarProblem::Number { .. }), "{key}={value}: {error}");
        }
    }

    #[test]
    fn sparse_keywords_are_kept_and_pairs_must_alternate() {
        let parse = |records: &[(&str, &str)]| {
            let data: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value.as_bytes())).collect();
            Pax::parse(&data).map(|pax| pax.sparse)
        };
        let (offset, len) = ("GNU.sparse.offset", "GNU.sparse.numbytes");
        let sparse = parse(&[(offset, "0"), (len, "5"), (offset, "9"), (len, "1"), ("GNU.sparse.name", "n")]).unwrap();
        assert_eq!((sparse.pairs, sparse.name), (vec![0, 5, 9, 1], b"n".to_vec()));
        assert!(parse(&[("GNU.sparse.unknown", "x")]).unwrap().map.is_empty());
        for records in [&[(len, "5")][..], &[(offset, "0"), (offset, "1")], &[(offset, "0"), (len, "1"), (len, "1")]] {
            let error = parse(records).unwrap_err();
            assert!(matches!(error, TarProblem::PaxRecord { reason, .. } if reason.contains("alternate")), "{error}");
        }
        for value in ["-1", "", "1,2", "9223372036854775808"] {
            assert!(matches!(parse(&[(offset, value)]), Err(TarProblem::Number { .. })), "{value}");
        }
        assert!(matches!(parse(&[("GNU.sparse.name", "a\0b")]), Err(TarProblem::PaxRecord { .. })));
    }
}
