// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Container ids: what one may look like.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest id, in bytes, as runc has it. The file system's own limit for names (255 on Linux) still holds.
pub const ID_MAX: usize = 1024;

/// A text that is no container id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// It is empty.
    #[error("the container id is empty")]
    Empty,
    /// It is longer than [`ID_MAX`].
    #[error("container id: expected at most {ID_MAX} bytes, found {found}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// It would name the directory itself or its parent.
    #[error("container id {id:?}: expected a name, found a relative directory")]
    Dots {
        /// The id.
        id: String,
    },
    /// A character outside the set.
    #[error("container id {id:?}: expected letters, digits and _+.- only, found {found:?}")]
    Character {
        /// The id.
        id: String,
        /// The first wrong character.
        found: char,
    },
}

/// The id of a container: letters, digits and `_+.-`, neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = IdError;

    fn from_str(id: &str) -> Result<Self, IdError> {
        if id.is_empty() {
            return Err(IdError::Empty);
        }
        if id.len() > ID_MAX {
            return Err(IdError::TooLong { found: id.len() });
        }
        if let Some(found) = id.chars().find(|c| !c.is_ascii_alphanumeric() && !"_+.-".contains(*c)) {
            return Err(IdError::Character { id: id.to_owned(), found });
        }
        match id {
            "." | ".." => Err(IdError::Dots { id: id.to_owned() }),
            _ => Ok(Self(id.to_owned())),
        }
    }
}

impl TryFrom<String> for ContainerId {
    type Error = IdError;

    fn try_from(id: String) -> Result<Self, IdError> {
        id.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_name_a_directory_entry_are_taken() {
        for id in ["a", "web-1", "A_b+c.d", "...", &"x".repeat(ID_MAX)] {
            assert_eq!(id.parse::<ContainerId>().unwrap().as_str(), id);
        }
    }

    #[test]
    fn ids_that_could_leave_the_directory_are_refused() {
        assert_eq!("".parse::<ContainerId>(), Err(IdError::Empty));
        assert_eq!("x".repeat(1025).parse::<ContainerId>(), Err(IdError::TooLong { found: 1025 }));
        for id in [".", ".."] {
            assert!(matches!(id.parse::<ContainerId>(), Err(IdError::Dots { .. })));
        }
        for (id, found) in [("a/b", '/'), ("../a", '/'), ("a b", ' '), ("a\n", '\n'), ("ä", 'ä'), ("a\0", '\0')] {
            assert!(
                matches!(id.parse::<ContainerId>(), Err(IdError::Character { found: f, .. }) if f == found),
                "{id:?}"
            );
        }
        assert!(serde_json::from_str::<ContainerId>("\"../x\"").is_err());
    }
}
