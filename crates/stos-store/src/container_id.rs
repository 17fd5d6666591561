// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ids and names of containers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::files;

/// The id of a container of image mode: 64 lower-case hexadecimal digits, drawn at random.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    /// Draws a new id.
    pub fn random() -> Self {
        Self(files::random_hex::<32>())
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(stos_spec::digest::hex_of(&bytes))
    }

    /// The number that the digits are.
    pub(crate) fn bytes(&self) -> [u8; 32] {
        stos_spec::digest::parse_hex(&self.0).unwrap_or_else(|| unreachable!("an id is 64 digits"))
    }

    /// Gives the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Gives the first twelve digits, as people quote them.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// The name that people give a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerName(String);

impl ContainerName {
    /// Gives the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Tells whether a text is what podman takes for a name, of whatever it be: `[a-zA-Z0-9][a-zA-Z0-9_.-]*` (containers/podman,
/// `libpod/define/config.go`).
pub fn is_name(text: &str) -> bool {
    let is_further = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric()) && text.bytes().all(is_further)
}

pub(crate) fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 64 && text.bytes().all(is_digit) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "expected 64 lower-case hexadecimal digits";
        Err(Error::InvalidName { kind: "container id", text: cut(text), rule })
    }
}

impl FromStr for ContainerName {
    type Err = Error;

    /// podman's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`; and short enough for a file name.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |rule| Err(Error::InvalidName { kind: "container name", text: cut(text), rule });
        if !is_name(text) {
            return invalid("expected a letter or digit, then letters, digits, '_', '.' and '-'");
        }
        if text.len() > 255 {
            return invalid("expected at most 255 bytes");
        }
        if text.parse::<ContainerId>().is_ok() {
            return invalid("it looks like a container id");
        }
        Ok(Self(text.to_owned()))
    }
}

macro_rules! text_type {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use text_type;

text_type!(ContainerId);
text_type!(ContainerName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_digits() {
        let id = ContainerId::random();
        assert_eq!(id.as_str().parse::<ContainerId>().unwrap(), id);
        assert_eq!(id.short().len(), 12);
        for text in ["", "..", "abc", &"g".repeat(64), &"A".repeat(64), &format!("../{}", "a".repeat(61))] {
            assert!(matches!(text.parse::<ContainerId>(), Err(Error::InvalidName { .. })), "{text}");
        }
    }

    #[test]
    fn names_are_file_names() {
        for text in ["web", "a.b_c-D", "0"] {
            assert_eq!(text.parse::<ContainerName>().unwrap().as_str(), text);
        }
        for text in ["", ".", "..", "a/b", "-x", "a b", "ä", &"a".repeat(256), &"a".repeat(64)] {
            assert!(matches!(text.parse::<ContainerName>(), Err(Error::InvalidName { .. })), "{text}");
        }
    }
}
