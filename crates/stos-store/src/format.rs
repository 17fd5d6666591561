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
/// There are, or were, snapshots ([`crate::snapshots`]): who sweeps and does not read them would remove layers that they stand on. A store
/// that no snapshotter has served is without it, so that older versions write to it.
pub const SNAPSHOTS: &str = "snapshots-1";
/// What a writer must know.
pub const READ_ONLY_COMPATIBLE: [&str; 1] = [SNAPSHOTS];

/// The directories that each store has.
const ALWAYS_THERE: [&str; 7] = ["chains", "containers", "images", "layers", "locks", "names", "staging"];
/// What may lie beside them: the format itself, the layers of another backend, snapshots, volumes, pods, and what a filesystem's own root has.
const SOMETIMES_THERE: [&str; 6] = ["stos.json", "dirs", "snapshots", "volumes", "pods", "lost+found"];

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
    /// Gives the format that this version writes for a store with what asks for each of `read_only_compatible`.
    pub fn current(read_only_compatible: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Self {
            version: VERSION,
            compatible: Vec::new(),
            read_only_compatible: owned(read_only_compatible),
            incompatible: owned(&INCOMPATIBLE),
        }
    }

    /// The same for the store at `root`, of which only that is looked at.
    fn of(root: &Path) -> Self {
        let has_snapshots = root.join("snapshots").exists();
        Self::current(if has_snapshots { &[SNAPSHOTS] } else { &[] })
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
    let format = read(path)?;
    let features = unknown(format.incompatible, &INCOMPATIBLE);
    if !features.is_empty() {
        return Err(Error::IncompatibleFormat { path: path.to_owned(), features });
    }
    Ok(unknown(format.read_only_compatible, &READ_ONLY_COMPATIBLE))
}

/// Tells why a `stos.json` that is damaged, in the store at `root`, must not be written anew: what says, or may say, that another
/// version made the store. `None` where nothing does: the file is empty, or a part of what this version writes is left of it and
/// nothing else that means anything; and beside it lies what this version puts there, and nothing else.
///
/// # Errors
/// Where the file or the directory cannot be read.
pub fn obstacle_to_rewriting(root: &Path) -> Result<Option<String>> {
    let path = root.join("stos.json");
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok() {
        return Ok(Some("it is JSON that another version may have written".to_owned()));
    }
    if let Some(words) = foreign_words(&String::from_utf8_lossy(&bytes)) {
        return Ok(Some(format!("it says {words}, as another version may have written")));
    }
    if let Some(missing) = ALWAYS_THERE.iter().find(|name| !root.join(name).is_dir()) {
        return Ok(Some(format!("there is no directory {missing}, which a store has")));
    }
    let is_known = |name: &String| [&ALWAYS_THERE[..], &SOMETIMES_THERE].concat().contains(&name.as_str());
    let unknown = files::list_names(root)?.into_iter().find(|name| !is_known(name));
    Ok(unknown.map(|name| format!("{name:?} lies beside it, which this version of stos does not know")))
}

/// Gives what stands in a damaged `stos.json` that this version would not have written: a word, or another number of the version.
fn foreign_words(text: &str) -> Option<String> {
    let written = String::from_utf8_lossy(&files::to_json(&Format::current(&READ_ONLY_COMPATIBLE))).into_owned();
    let known: Vec<&str> = written.split('"').skip(1).step_by(2).collect();
    let mut rest = text.split('"').skip(1);
    while let Some(word) = rest.next() {
        // The last one may have been cut.
        let is_whole = rest.next().is_some();
        if !known.iter().any(|own| *own == word || !is_whole && own.starts_with(word)) {
            return Some(format!("{word:?}"));
        }
    }
    let (_, number) = text.split_once("\"version\"")?;
    let number = number.trim_start_matches(|c: char| c == ':' || c.is_whitespace());
    let number = number.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    (!number.is_empty() && number != VERSION.to_string()).then(|| format!("version {number}"))
}

/// Writes the `stos.json` of the store at `root` anew, or for the first time.
pub fn write_format(root: &Path, scratch: &Path) -> Result<()> {
    write(root, scratch, &Format::of(root))
}

/// Says in the `stos.json` of the store at `root` that whoever writes there must know `feature`, durably. What it says else stays.
///
/// # Errors
/// [`Error::Damaged`].
pub fn require_of_writers(root: &Path, scratch: &Path, feature: &str) -> Result<()> {
    let mut format = read(&root.join("stos.json"))?;
    if format.read_only_compatible.iter().any(|known| known == feature) {
        return Ok(());
    }
    format.read_only_compatible.push(feature.to_owned());
    write(root, scratch, &format)
}

fn write(root: &Path, scratch: &Path, format: &Format) -> Result<()> {
    files::replace(&root.join("stos.json"), scratch, &files::to_json(format), Durability::Durable)
}

fn read(path: &Path) -> Result<Format> {
    let missing = || Error::Damaged { path: path.to_owned(), reason: "it is missing".to_owned() };
    files::read_json(path)?.ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_store_is_refused_unharmed_or_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stos.json");
        assert!(matches!(check_format(&path), Err(Error::Damaged { .. })));
        write_format(dir.path(), dir.path()).unwrap();
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

    #[test]
    fn writers_must_know_what_is_said_once_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (root, path) = (dir.path(), dir.path().join("stos.json"));
        write_format(root, root).unwrap();
        let read_again = || read(&path).unwrap();
        assert_eq!(read_again(), Format::current(&[]), "an older version may write to it");
        for _ in 0..2 {
            require_of_writers(root, root, SNAPSHOTS).unwrap();
            assert_eq!(read_again(), Format::current(&[SNAPSHOTS]));
        }
        assert_eq!(check_format(&path).unwrap(), [""; 0], "this version knows it");
        // As a version from before snapshots reads it.
        assert_eq!(unknown(read_again().read_only_compatible, &[]), [SNAPSHOTS]);
        std::fs::write(&path, r#"{"version": 1, "compatible": ["nice"], "read_only_compatible": ["quota"]}"#).unwrap();
        require_of_writers(root, root, SNAPSHOTS).unwrap();
        assert_eq!(read_again().compatible, ["nice"]);
        assert_eq!(check_format(&path).unwrap(), ["quota"]);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(require_of_writers(root, root, SNAPSHOTS), Err(Error::Damaged { .. })));
    }

    #[test]
    fn only_what_nothing_says_to_be_newer_may_be_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stos.json");
        let good = String::from_utf8(files::to_json(&Format::current(&READ_ONLY_COMPATIBLE))).unwrap();
        let obstacle = |text: &str| {
            std::fs::write(&path, text).unwrap();
            obstacle_to_rewriting(dir.path()).unwrap()
        };
        assert!(obstacle("").unwrap().contains("chains"), "it is no store");
        ALWAYS_THERE.iter().for_each(|name| std::fs::create_dir(dir.path().join(name)).unwrap());
        // Wherever it was cut.
        for end in 0..good.trim_end().len() {
            assert_eq!(obstacle(&good[..end]), None, "{:?}", &good[..end]);
        }
        for text in ["\0\0\0\0", "not JSON", &good.replace(':', ";"), &good.replace('{', "[")] {
            assert_eq!(obstacle(text), None, "{text:?}");
        }
        let newer = [
            good.as_str(),
            "{}",
            "[]",
            r#"{"version": 2, "incompat"#,
            r#"{"version": 12"#,
            r#"{"version": 1, "incompatible": ["layerfs-2"#,
            r#"{"version": 1, "incompatible": ["layerfs-1", "layerfs-1x"], "#,
            r#"{"version": 1, "quota"#,
        ];
        for text in newer {
            assert!(obstacle(text).is_some(), "{text:?}");
        }
        for name in ["dirs", "snapshots", "volumes", "pods"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            assert_eq!(obstacle(""), None);
        }
        write_format(dir.path(), dir.path()).unwrap();
        assert_eq!(read(&dir.path().join("stos.json")).unwrap(), Format::current(&[SNAPSHOTS]), "it has snapshots");
        std::fs::create_dir(dir.path().join("quotas")).unwrap();
        assert!(obstacle("").unwrap().contains("quotas"));
    }
}
