// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Changing a file of credentials: `auths` alone, and everything else kept word for word.
//!
//! A change is a new file in the same directory, durable before it takes the old one's name by one rename. It has mode 0600
//! and the old one's owner. Where the path is a symlink, its target is replaced and the link stays. A lock on the directory
//! keeps two of us from losing each other's entries; podman and docker do not know it.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Uid, fchown, flock};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::document::json::syntax;
use crate::error::Error;
use crate::file;
use crate::place::Place;

/// A file that is being changed, locked until this is dropped.
pub(super) struct Edit {
    target: PathBuf,
    directory: PathBuf,
    lock: File,
    top: RawTable,
    auths: RawTable,
}

/// A JSON object whose values stay as they are written.
#[derive(Default)]
struct RawTable(Vec<(String, Box<RawValue>)>);

impl Edit {
    /// Locks and reads the file. One that is missing or empty has nothing yet; its directory is made, for its user alone.
    pub(super) fn begin(path: &Path) -> Result<Self, Error> {
        let target = followed(path)?;
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| Error::write("make the directory", &directory, source))?;
        let lock = File::open(&directory).map_err(|source| Error::write("open", &directory, source))?;
        match flock(&lock, FlockOperation::LockExclusive) {
            // A file system without locks is no reason to refuse a login.
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOLCK | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(Error::write("lock", &directory, error.into())),
        }
        let bytes = file::read(&target)?.filter(|bytes| !bytes.trim_ascii().is_empty());
        let top = bytes.map_or(Ok(RawTable::default()), |bytes| RawTable::parse(&target, "", &bytes))?;
        let auths = match top.get("auths") {
            Some(raw) if raw.get() != "null" => RawTable::parse(&target, "auths", raw.get().as_bytes())?,
            _ => RawTable::default(),
        };
        Ok(Self { target, directory, lock, top, auths })
    }

    /// Sets an entry to a JSON value. `json` is of this crate's making.
    pub(super) fn set(mut self, key: &str, json: &str) -> Result<Self, Error> {
        let raw = self.raw(json)?;
        match self.auths.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, value)) => *value = raw,
            None => self.auths.0.push((key.to_owned(), raw)),
        }
        Ok(self)
    }

    fn raw(&self, json: &str) -> Result<Box<RawValue>, Error> {
        RawValue::from_string(json.to_owned()).map_err(|error| syntax(&self.target, &error))
    }

    /// Removes entries, and tells whether there were any.
    pub(super) fn remove(&mut self, is_gone: impl Fn(&str) -> bool) -> bool {
        let before = self.auths.0.len();
        self.auths.0.retain(|(name, _)| !is_gone(name));
        self.auths.0.len() < before
    }

    /// Writes the file.
    pub(super) fn commit(mut self) -> Result<(), Error> {
        let raw = self.raw(&self.auths.written("\t"))?;
        match self.top.0.iter_mut().find(|(name, _)| name == "auths") {
            Some((_, value)) => *value = raw,
            None => self.top.0.push(("auths".to_owned(), raw)),
        }
        let text = self.top.written("");
        self.replace(text.as_bytes())
    }

    fn replace(&self, bytes: &[u8]) -> Result<(), Error> {
        let failed = |source| Error::write("write", &self.target, source);
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        // It is made with mode 0600, and removed where anything fails.
        let mut new =
            tempfile::Builder::new().prefix(&format!(".{name}.")).tempfile_in(&self.directory).map_err(failed)?;
        new.write_all(bytes).map_err(failed)?;
        keep_owner(&self.target, new.as_file()).map_err(failed)?;
        new.as_file().sync_all().map_err(failed)?;
        new.persist(&self.target).map_err(|error| failed(error.error))?;
        self.lock.sync_all().map_err(failed)
    }
}

/// Root changes another user's file without taking it away from them.
fn keep_owner(old: &Path, new: &File) -> std::io::Result<()> {
    let old = match fs::metadata(old) {
        Ok(old) => old,
        Err(error) if file::is_missing(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let made = new.metadata()?;
    if (old.uid(), old.gid()) != (made.uid(), made.gid()) {
        fchown(new, Some(Uid::from_raw(old.uid())), Some(Gid::from_raw(old.gid())))?;
    }
    Ok(())
}

/// Follows symlinks, also to a file that is not there yet.
fn followed(path: &Path) -> Result<PathBuf, Error> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            // EINVAL: it is no link.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput || file::is_missing(&error) => {
                return Ok(path);
            }
            Err(source) => return Err(Error::Read { path, source }),
        }
    }
    Err(Error::write("follow", path, rustix::io::Errno::LOOP.into()))
}

impl RawTable {
    fn parse(file: &Path, key: &str, bytes: &[u8]) -> Result<Self, Error> {
        let table: Self = serde_json::from_slice(bytes).map_err(|error| match error.classify() {
            // The library's text quotes what it found.
            serde_json::error::Category::Data => Error::Type {
                place: Place::key(file, key),
                expected: "a table with each key once",
                found: "something else",
            },
            _ => syntax(file, &error),
        })?;
        Ok(table)
    }

    fn get(&self, key: &str) -> Option<&RawValue> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// Writes it with one entry a line, as podman does.
    fn written(&self, indent: &str) -> Zeroizing<String> {
        if self.0.is_empty() {
            return Zeroizing::new("{}".to_owned());
        }
        let mut text = Zeroizing::new("{".to_owned());
        for (number, (name, value)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            text.push_str(&format!("{comma}\n{indent}\t{}: {}", serde_json::Value::from(name.as_str()), value.get()));
        }
        text.push_str(&format!("\n{indent}}}"));
        text
    }
}

impl<'de> Deserialize<'de> for RawTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = RawTable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawTable, A::Error> {
        let mut table = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        while let Some((name, value)) = entries.next_entry::<String, Box<RawValue>>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom("a key stands there twice"));
            }
            table.push((name, value));
        }
        Ok(RawTable(table))
    }
}
