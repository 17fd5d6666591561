// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `User` of a configuration: `user`, `uid`, `user:group`, `uid:gid`, `uid:group`, `user:gid`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::cut;

/// The largest user or group number: the kernel keeps 2³² − 1 for "none".
pub const ID_MAX: u32 = u32::MAX - 1;

/// A user that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// A number that no user or group can have. Readers that let it overflow ran such images as root (CVE-2024-40635).
    #[error("user {text:?}: the number {number:?} is beyond {ID_MAX}")]
    OutOfRange {
        /// The user as given.
        text: String,
        /// The number that is too large.
        number: String,
    },
    /// It is no name and no number.
    #[error("user {text:?}: expected a name or a number, and maybe a colon and a group")]
    Malformed {
        /// The user as given.
        text: String,
    },
}

/// A user or a group, by number or by a name that the container's own files explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A number: no file is asked.
    Id(u32),
    /// A name of `/etc/passwd` or `/etc/group`.
    Name(String),
}

/// Whom a container's process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    /// The user.
    pub user: Principal,
    /// The group; without one the user's own.
    pub group: Option<Principal>,
}

impl UserSpec {
    /// Root, as an image without a `User` runs.
    pub fn root() -> Self {
        Self { user: Principal::Id(0), group: None }
    }
}

fn principal(text: &str, whole: &str) -> Result<Principal, UserError> {
    let malformed = || UserError::Malformed { text: cut(whole) };
    if text.is_empty() || text.len() > 256 || text.contains(['\0', '\n', '/']) {
        return Err(malformed());
    }
    // Whatever looks like a number is one: a name that happens to be a large number is how an overflow becomes root.
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let out_of_range = || UserError::OutOfRange { text: cut(whole), number: cut(text) };
        return match text.parse::<u32>() {
            Ok(id) if id <= ID_MAX && text.len() == digits.len() => Ok(Principal::Id(id)),
            _ => Err(out_of_range()),
        };
    }
    Ok(Principal::Name(text.to_owned()))
}

impl FromStr for UserSpec {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        if text.is_empty() {
            return Ok(Self::root());
        }
        let (user, group) = match text.split_once(':') {
            Some((user, group)) if group.contains(':') || user.is_empty() => {
                return Err(UserError::Malformed { text: cut(text) });
            }
            Some((user, "")) => (user, None),
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let group = group.map(|group| principal(group, text)).transpose()?;
        Ok(Self { user: principal(user, text)?, group })
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for UserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.user.fmt(f)?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl Serialize for UserSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UserSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_or_names() {
        for (text, shown) in
            [("", "0"), ("1000:1000", "1000:1000"), ("www-data", "www-data"), ("1:adm", "1:adm"), ("a:", "a")]
        {
            assert_eq!(text.parse::<UserSpec>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn numbers_that_overflow_are_refused() {
        for text in ["4294967295", "4294967296", "18446744073709551616", "0:4294967295", "-1", "+0"] {
            assert!(matches!(text.parse::<UserSpec>(), Err(UserError::OutOfRange { .. })), "{text}");
        }
        for text in [":", ":0", "a:b:c", "a\nb", "a/b"] {
            assert!(matches!(text.parse::<UserSpec>(), Err(UserError::Malformed { .. })), "{text}");
        }
    }
}
