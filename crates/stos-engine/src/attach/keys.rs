// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The keys that leave a container and let it run: podman's `--detach-keys` (podman-attach(1)).

use std::str::FromStr;

/// A sequence of keys; by default ctrl-p, ctrl-q. An empty one is never typed.
///
/// It is written as keys with commas between: a single character, or `ctrl-` and one of `a` to `z`, `@`, `[`, `\`, `]`, `^`, `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

/// A sequence that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{key:?} is no key: expected one character, or ctrl- and one of a to z, @, [, \\, ], ^, _; keys are separated by commas"
)]
pub struct KeyError {
    key: String,
}

impl DetachKeys {
    /// No keys: nothing is ever left.
    pub fn none() -> Self {
        Self(Vec::new())
    }
}

impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl FromStr for DetachKeys {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Ok(Self::none());
        }
        text.split(',').map(parse_key).collect::<Result<_, _>>().map(Self)
    }
}

/// A control character is its letter without bits 5 and 6 (ECMA-48).
fn parse_key(key: &str) -> Result<u8, KeyError> {
    let refused = || KeyError { key: key.to_owned() };
    let of_one = |text: &str| match text.as_bytes() {
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err(refused()),
    };
    match key.strip_prefix("ctrl-") {
        Some(letter) => match of_one(letter)? {
            byte @ (b'a'..=b'z' | b'@' | b'['..=b'_') => Ok(byte & 0x1f),
            _ => Err(refused()),
        },
        None => of_one(key),
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug, Clone)]
pub struct KeyScanner {
    keys: Vec<u8>,
    /// How many of them were typed last, and are held back.
    matched: usize,
}

impl KeyScanner {
    /// Looks for these.
    pub fn new(keys: &DetachKeys) -> Self {
        Self { keys: keys.0.clone(), matched: 0 }
    }

    /// Appends to `passed` what is for the container, and tells whether the keys were typed: what follows them is nobody's.
    ///
    /// The beginning of the sequence is held back until another key follows.
    pub fn scan(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> bool {
        for &byte in typed {
            loop {
                if self.keys.get(self.matched) == Some(&byte) {
                    self.matched += 1;
                    break;
                }
                if self.matched == 0 {
                    passed.push(byte);
                    break;
                }
                // What was held back is no beginning; but some later part of it may be.
                let next =
                    (1..self.matched).find(|&at| self.keys[..self.matched].ends_with(&self.keys[..self.matched - at]));
                let kept = next.map_or(0, |at| self.matched - at);
                passed.extend_from_slice(&self.keys[..self.matched - kept]);
                self.matched = kept;
            }
            if self.matched > 0 && self.matched == self.keys.len() {
                self.matched = 0;
                return true;
            }
        }
        false
    }

    /// Appends what is held back: nothing more is typed.
    pub fn finish(&mut self, passed: &mut Vec<u8>) {
        passed.extend_from_slice(&self.keys[..std::mem::take(&mut self.matched)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_podman_s() {
        for (text, keys) in [
            ("ctrl-p,ctrl-q", &[16, 17][..]),
            ("ctrl-@", &[0]),
            ("a,B,1", b"aB1"),
            ("ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", &[27, 28, 29, 30, 31]),
            ("", &[]),
        ] {
            assert_eq!(text.parse(), Ok(DetachKeys(keys.to_vec())), "{text:?}");
        }
        for text in ["ctrl-P", "ctrl-", "ctrl-1", "ab", "a,", ",", "ü", "ctrl-ab", "ctrl-`"] {
            let error = text.parse::<DetachKeys>().unwrap_err().to_string();
            assert!(error.contains("is no key"), "{text:?}: {error}");
        }
    }

    fn scan(keys: &str, typed: &[&str]) -> (String, bool) {
        let mut scanner = KeyScanner::new(&keys.parse().unwrap());
        let mut passed = Vec::new();
        let found = typed.iter().any(|typed| scanner.scan(typed.as_bytes(), &mut passed));
        (String::from_utf8(passed).unwrap(), found)
    }

    #[test]
    fn what_is_held_back_comes_at_the_end() {
        let (mut scanner, mut passed) = (KeyScanner::new(&DetachKeys::default()), Vec::new());
        assert!(!scanner.scan(b"x\x10", &mut passed));
        assert_eq!(passed, b"x");
        scanner.finish(&mut passed);
        assert_eq!(passed, b"x\x10");
        assert!(!scanner.scan(b"\x11", &mut passed));
    }

    #[test]
    fn keys_are_found_and_nothing_else_is_lost() {
        for (keys, typed, passed, found) in [
            ("a,b", &["xaby"][..], "x", true),
            ("a,b", &["xa", "by"], "x", true),
            ("a,b", &["aab"], "a", true),
            ("a,b", &["acab"], "ac", true),
            ("a,a,b", &["aaab"], "a", true),
            ("a,b,a,c", &["ababac"], "ab", true),
            ("a,b", &["a"], "", false),
            ("a,b", &["a", "c"], "ac", false),
            ("", &["abc"], "abc", false),
            ("a", &["ba"], "b", true),
        ] {
            assert_eq!(scan(keys, typed), (passed.to_owned(), found), "{keys} {typed:?}");
        }
    }
}
