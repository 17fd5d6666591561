// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where in the files something stands: for errors, and for people who ask why.

use std::fmt;
use std::path::{Path, PathBuf};

use stos_spec::text::shown;

/// A file, and a key or a line in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1, where the format tells.
    pub line: Option<usize>,
    /// The key as a path: `registry[0].mirror[1].location`. Empty for the document itself.
    pub key: String,
}

impl Place {
    /// Makes the place of a whole file.
    pub fn file(file: &Path) -> Self {
        Self { file: file.to_owned(), line: None, key: String::new() }
    }

    /// Makes the place of a key of a file.
    pub fn key(file: &Path, key: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, key: key.into() }
    }

    pub(crate) fn line(file: &Path, line: usize) -> Self {
        Self { file: file.to_owned(), line: Some(line), key: String::new() }
    }
}

impl fmt::Display for Place {
    /// Writes `FILE:LINE: KEY`, as far as it is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if self.key.is_empty() { Ok(()) } else { write!(f, ": {}", shown(&self.key)) }
    }
}
