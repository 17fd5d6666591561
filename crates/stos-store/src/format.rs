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

    /// Gives the features that this version would have to know in order to write.
    fn unknown(&self) -> Vec<String> {
        let is_unknown = |known: &[&str], feature: &&String| !known.contains(&feature.as_str());
        let incompatible = self.incompatible.iter().filter(|feature| is_unknown(&INCOMPATIBLE, feature));
        let read_only = self.read_only_compatible.iter().filter(|feature| is_unknown(&READ_ONLY_COMPATIBLE, feature));
        incompatible.chain(read_only).cloned().collect()
    }
}

/// Reads `stos.json` and refuses a store that this version must not use; a store without one gets it.
pub fn ensure_format(path: &Path, scratch: &Path) -> Result<Format> {
    if let Some(format) = files::read_json::<Format>(path)? {
        let features = format.unknown();
        if features.is_empty() {
            return Ok(format);
        }
        return Err(Error::IncompatibleFormat { path: path.to_owned(), features });
    }
    let format = Format::current();
    files::replace(path, scratch, &files::to_json(&format), Durability::Durable)?;
    Ok(format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_store_is_refused_unharmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stos.json");
        assert_eq!(ensure_format(&path, dir.path()).unwrap(), Format::current());
        assert_eq!(ensure_format(&path, dir.path()).unwrap(), Format::current());
        for key in ["incompatible", "read_only_compatible"] {
            let newer = format!(r#"{{"version": 9, "compatible": ["nice"], "{key}": ["from-the-future"]}}"#);
            std::fs::write(&path, &newer).unwrap();
            let error = ensure_format(&path, dir.path()).unwrap_err();
            assert!(matches!(&error, Error::IncompatibleFormat { features, .. } if features == &["from-the-future"]));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
        }
        std::fs::write(&path, r#"{"version": 1, "compatible": ["nice"]}"#).unwrap();
        ensure_format(&path, dir.path()).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(matches!(ensure_format(&path, dir.path()), Err(Error::Damaged { .. })));
    }
}
