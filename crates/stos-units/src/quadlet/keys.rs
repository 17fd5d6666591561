// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keys that are options of a command, by tables.

use crate::error::{Error, Result};
use crate::unit_file::{Entry, UnitFile};
use crate::words;

/// How a key becomes words of a command.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// The last one counts: `--option VALUE`.
    Last(&'static str),
    /// Each counts, as a whole.
    Each(&'static str),
    /// Each word of each counts.
    Words(&'static str),
    /// Yes or no: `--option=true`.
    Switch(&'static str),
    /// Yes or no, where no is the command's own: `--option`.
    Flag(&'static str),
    /// The last one counts, with something before it in the option's value.
    Prefixed(&'static str, &'static str),
    /// Each word of each counts, with something before it in the option's value.
    PrefixedWords(&'static str, &'static str),
    /// Its place is elsewhere.
    Elsewhere,
}

/// What a section may have.
pub(super) struct Table {
    pub(super) keys: &'static [(&'static str, How)],
    /// podman's keys that stos has not, with what helps instead.
    pub(super) not_here: &'static [(&'static str, &'static str)],
}

impl Table {
    /// Refuses the first key that is not in the table.
    pub(super) fn check(&self, unit: &UnitFile, section: &str) -> Result<()> {
        for entry in unit.entries(section) {
            if self.keys.iter().any(|(key, _)| *key == entry.key) {
                continue;
            }
            let advice = self.not_here.iter().find(|(key, _)| *key == entry.key).map(|(_, advice)| *advice);
            return Err(unknown(entry, section, advice.map(str::to_owned).or_else(|| self.meant(&entry.key))));
        }
        Ok(())
    }

    /// The key that differs in case, or by one letter.
    fn meant(&self, found: &str) -> Option<String> {
        let found = found.to_ascii_lowercase();
        let near = |key: &&str| is_near(&key.to_ascii_lowercase(), &found);
        let key = self.keys.iter().map(|(key, _)| *key).find(near)?;
        Some(format!("{key}= perhaps"))
    }

    /// The words of all keys that have a place in the table, in its order.
    pub(super) fn options(&self, unit: &UnitFile, section: &str) -> Result<Vec<String>> {
        let mut options = Vec::new();
        for (key, how) in self.keys {
            let last = || unit.last(section, key);
            match how {
                How::Elsewhere => {}
                How::Last(option) => options.extend(last().into_iter().map(|entry| pair(option, &entry.value))),
                How::Each(option) => {
                    options.extend(unit.all(section, key).into_iter().map(|entry| pair(option, &entry.value)));
                }
                How::Words(option) => {
                    options.extend(all_words(unit, section, key)?.iter().map(|word| pair(option, word)));
                }
                How::PrefixedWords(option, prefix) => {
                    let words = all_words(unit, section, key)?;
                    options.extend(words.iter().map(|word| pair(option, &format!("{prefix}{word}"))));
                }
                How::Switch(option) => {
                    if let Some(entry) = last() {
                        options.push(format!("{option}={}", entry.boolean()?));
                    }
                }
                How::Flag(option) => {
                    if let Some(entry) = last()
                        && entry.boolean()?
                    {
                        options.push((*option).to_owned());
                    }
                }
                How::Prefixed(option, prefix) => {
                    options.extend(last().into_iter().map(|entry| pair(option, &format!("{prefix}{}", entry.value))));
                }
            }
        }
        Ok(options)
    }
}

/// An option with its value, in one word: a value may begin with a dash.
fn pair(option: &str, value: &str) -> String {
    format!("{option}={value}")
}

/// The words of a value.
pub(super) fn split(entry: &Entry) -> Result<Vec<String>> {
    words::split(&entry.value).map_err(|reason| entry.refuse(reason))
}

/// The words of all values of a key.
pub(super) fn all_words(unit: &UnitFile, section: &str, key: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in unit.all(section, key) {
        found.extend(split(entry)?);
    }
    Ok(found)
}

pub(super) fn unknown(entry: &Entry, section: &str, suggestion: Option<String>) -> Error {
    Error::UnknownKey {
        file: entry.file.clone(),
        line: entry.line,
        section: section.to_owned(),
        key: entry.key.clone(),
        suggestion,
    }
}

/// Whether two words are alike but for one letter more, less or other.
fn is_near(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    if long.len() - short.len() > 1 {
        return false;
    }
    let same = short.bytes().zip(long.bytes()).take_while(|(a, b)| a == b).count();
    let rest = |text: &str, from: usize| text.as_bytes().get(from..).unwrap_or_default().to_vec();
    rest(short, same + usize::from(short.len() == long.len())) == rest(long, same + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_differ_by_a_letter_are_near() {
        for (one, other) in [("image", "imag"), ("image", "imagee"), ("image", "imaje"), ("a", "a"), ("ab", "b")] {
            assert!(is_near(one, other), "{one} {other}");
        }
        for (one, other) in [("image", "ima"), ("image", "other"), ("ab", "ba")] {
            assert!(!is_near(one, other), "{one} {other}");
        }
    }
}
