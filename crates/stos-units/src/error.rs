// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can be wrong with a unit file.

use std::io;
use std::path::{Path, PathBuf};

/// Why a file gives no unit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A line is none of systemd.syntax(7).
    #[error("{}:{line}: {reason}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Its line, from 1 on.
        line: usize,
        /// What was expected and found.
        reason: String,
    },
    /// A key that stos does not have.
    #[error("{}:{line}: {key}= of [{section}] is not known{}", file.display(), advice(suggestion.as_deref()))]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// Its line, from 1 on.
        line: usize,
        /// The section.
        section: String,
        /// The key.
        key: String,
        /// A key that is meant perhaps, or what to do instead.
        suggestion: Option<String>,
    },
    /// A value that a key cannot have.
    #[error("{}:{line}: {key}={value}: {reason}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// Its line, from 1 on.
        line: usize,
        /// The key.
        key: String,
        /// As it stands there.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// Something that must be there is not.
    #[error("{}: {what} is missing", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// A key with its section, or another file.
        what: String,
    },
    /// The file is of a kind that stos makes no unit of.
    #[error("{}: expected a .container, .volume or .network file", file.display())]
    Kind {
        /// The file.
        file: PathBuf,
    },
    /// Two files give a service of one name.
    #[error("{}: {service} is {}'s already", file.display(), first.display())]
    Twice {
        /// The second file.
        file: PathBuf,
        /// The first.
        first: PathBuf,
        /// The service of both.
        service: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What functions here give.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an error of the system's.
    pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

fn advice(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |text| format!(": {text}"))
}
