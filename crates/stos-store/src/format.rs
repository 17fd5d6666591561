// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `stos.json`: which version of the layout on disk this is, and what a reader must know to use it.
//!
//! Features come in three sets, as in ext4: a version that does not know a *compatible* one may use the store, one that
//! does not know a *read-only compatible* one may read it, one that does not know an *incompatible* one must not touch it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::{self, Durability};

/// The layout's version; features, not this number, decide who may use a store.
pub const VERSION: u32 = 1;
/// What a reader must know: layers are kept as tars with an index, and merged into EROFS images.
pub const INCOMPATIBLE: [&str; 1] = ["layerfs-1"];
/// What a writer must know.
pub const READ_ONLY_COMPATIBLE: [&str; 0] = [];

/// The contents of `stos.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// The layout's version.
    pub version: u32,
    /// Nice to know.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// Needed to write.
    #[serde(default)]
    pub read_only_compatible: Vec<String>,
    /// Needed to read.
    #[serde(default)]
    pub incompatible: Vec<String>,
}

impl Format {
    /// Gives the format that this version writes.
    pub fn current() -> Self {
        Self {
            version: VERSION,
            compatible: Vec::new(),
            read_only_compatible: READ_ONLY_COMPATIBLE.map(str::to_owned).to_vec(),
            incompatible: INCOMPATIBLE.map(str::to_owned).to_vec(),
        }
    }
}

fn unknown(features: Vec<String>, known: &[&str]) -> Vec<String> {
    features.into_iter().filter(|feature| !known.contains(&feature.as_str())).collect()
}

/// Reads `stos.json` and refuses a store that this version must not touch. Gives the features that keep it from writing: none,
/// where it may.
///
/// # Errors
/// [`Error::IncompatibleFormat`]; [`Error::Damaged`].
pub fn check_format(path: &Path) -> Result<Vec<String>> {
    let missing = || Error::Damaged { path: path.to_owned(), reason: "it is missing".to_owned() };
    let format: Format = files::read_json(path)?.ok_or_else(missing)?;
    let features = unknown(format.incompatible, &INCOMPATIBLE);
    if !features.is_empty() {
        return Err(Error::IncompatibleFormat { path: path.to_owned(), features });
    }
    Ok(unknown(format.read_only_compatible, &READ_ONLY_COMPATIBLE))
}

/// Writes the `stos.json` of a new store.
pub fn write_format(path: &Path, scratch: &Path) -> Result<()> {
    files::replace(path, scratch, &files::to_json(&Format::current()), Durability::Durable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_store_is_refused_unharmed_or_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stos.json");
        assert!(matches!(check_format(&path), Err(Error::Damaged { .. })));
        write_format(&path, dir.path()).unwrap();
        assert_eq!(check_format(&path).unwrap(), [""; 0]);
        let newer = |key: &str| {
            let newer = format!(r#"{{"version": 9, "compatible": ["nice"], "{key}": ["from-the-future"]}}"#);
            std::fs::write(&path, &newer).unwrap();
            let checked = check_format(&path);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
            checked
        };
        let error = newer("incompatible").unwrap_err();
        assert!(matches!(&error, Error::IncompatibleFormat { features, .. } if features == &["from-the-future"]));
        assert_eq!(newer("read_only_compatible").unwrap(), ["from-the-future"]);
        std::fs::write(&path, r#"{"version": 1, "compatible": ["nice"]}"#).unwrap();
        check_format(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(matches!(check_format(&path), Err(Error::Damaged { .. })));
    }
}
