// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The records of a PAX extended header (POSIX.1-2001).

use crate::index::Timestamp;
use crate::xattr::Xattr;

/// Records in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Records(Vec<u8>);

impl Records {
    /// Adds `LENGTH KEY=VALUE\n`, where the length counts its own digits.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let body = key.len() + value.len() + 3;
        // The digits of the length may make it one digit longer.
        let len = body + digits(body + digits(body));
        self.0.extend_from_slice(format!("{len} ").as_bytes());
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    pub(super) fn add_number(&mut self, key: &str, value: impl std::fmt::Display) {
        self.add(key.as_bytes(), value.to_string().as_bytes());
    }

    /// Adds an attribute, its value as it is (`SCHILY.xattr.*`, as star, GNU tar, bsdtar and Go write it).
    pub(super) fn add_xattr(&mut self, xattr: &Xattr) {
        self.add(&[b"SCHILY.xattr.".as_slice(), &xattr.full_name()].concat(), &xattr.value);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// Writes a time as PAX does: decimal seconds, with a fraction where there is one.
pub(super) fn time(mtime: Timestamp) -> String {
    const BILLION: i128 = 1_000_000_000;
    let all = i128::from(mtime.seconds) * BILLION + i128::from(mtime.nanoseconds);
    let sign = if all < 0 { "-" } else { "" };
    let (seconds, fraction) = (all.abs() / BILLION, all.abs() % BILLION);
    if fraction == 0 {
        return format!("{sign}{seconds}");
    }
    format!("{sign}{seconds}.{fraction:09}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        for len in [0, 1, 5, 80, 88, 89, 90, 91, 92, 93, 980, 986, 987, 988, 989, 990, 991, 9980, 9985, 9986] {
            let mut records = Records::default();
            records.add(b"comment", &vec![b'x'; len]);
            let text = String::from_utf8(records.as_bytes().to_vec()).unwrap();
            let stated: usize = text.split_once(' ').unwrap().0.parse().unwrap();
            assert_eq!(stated, text.len(), "{len}");
        }
    }

    #[test]
    fn times_before_and_after_1970() {
        let cases = [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (1_350_244_992, 23_960_108, "1350244992.023960108"),
            (-1, 0, "-1"),
            (-2, 500_000_000, "-1.5"),
            (-1, 999_999_999, "-0.000000001"),
            (i64::MAX, 0, "9223372036854775807"),
        ];
        for (seconds, nanoseconds, expected) in cases {
            assert_eq!(time(Timestamp { seconds, nanoseconds }), expected);
        }
    }
}
