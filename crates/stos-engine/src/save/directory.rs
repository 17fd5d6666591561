// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A layout in a directory of the user's.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use stos_store::files;

use super::output::{beside, refused};
use super::sink::{Sink, copy};
use crate::error::{Error, Result};

/// What a new filesystem may have, and is empty all the same (mke2fs(8)).
const LOST_AND_FOUND: &str = "lost+found";

/// A layout in the making, where it is to stand: its blobs come first and become durable; then the files that make it one get
/// their names, `oci-layout` the last. Until then nobody takes it for a layout.
///
/// Dropped uncommitted, it takes back the files and directories that it has made, and nothing else.
pub(super) struct DirectorySink {
    target: PathBuf,
    /// What it has made, in this order.
    made: Vec<Made>,
    /// The files outside `blobs`: where each is, and where it is to be.
    pending: Vec<(PathBuf, PathBuf)>,
    is_committed: bool,
}

enum Made {
    File(PathBuf),
    Directory(PathBuf),
}

impl DirectorySink {
    /// Begins a layout in `target`, where nothing is yet, or an empty directory.
    pub fn new(target: &Path) -> Result<Self> {
        let given = target;
        // Through symlinks, and whatever becomes of the directory that we are in.
        let target = fs::canonicalize(given).or_else(|_| std::path::absolute(given));
        let target = target.map_err(Error::output("find", given))?;
        let mut sink = Self { target, made: Vec::new(), pending: Vec::new(), is_committed: false };
        match fs::read_dir(&sink.target) {
            Ok(entries) => check_is_empty(&sink.target, entries)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => sink.make_directory("")?,
            Err(error) => return Err(refused(given, error.to_string())),
        }
        // Made here, and not found: what another save makes at the same time is its own.
        sink.make_directory("blobs")?;
        sink.make_directory("blobs/sha256")?;
        Ok(sink)
    }

    fn make_directory(&mut self, name: &str) -> Result<()> {
        let path = if name.is_empty() { self.target.clone() } else { self.target.join(name) };
        let made = fs::DirBuilder::new().mode(0o755).create(&path);
        made.map_err(Error::output("create the directory", &path))?;
        self.made.push(Made::Directory(path));
        Ok(())
    }

    /// Makes it a layout, durably.
    pub fn commit(mut self) -> Result<()> {
        let durable = |done: stos_store::Result<()>, path: &Path| done.map_err(|error| Error::of_output(error, path));
        let blobs = self.target.join("blobs/sha256");
        durable(files::sync_files_in(&blobs), &blobs)?;
        for directory in [&*blobs, &self.target.join("blobs")] {
            durable(files::sync_directory(directory), directory)?;
        }
        for (staged, path) in std::mem::take(&mut self.pending) {
            fs::rename(&staged, &path).map_err(Error::output("rename a file to", &path))?;
            self.made.push(Made::File(path));
        }
        durable(files::sync_directory(&self.target), &self.target)?;
        self.is_committed = true;
        durable(files::sync_parent(&self.target), &self.target)
    }
}

fn check_is_empty(target: &Path, entries: fs::ReadDir) -> Result<()> {
    for entry in entries {
        let entry = entry.map_err(Error::output("read the directory", target))?;
        if entry.file_name() != LOST_AND_FOUND {
            let reason = format!("expected a directory that is new or empty, found {:?} in it", entry.file_name());
            return Err(refused(target, reason));
        }
    }
    Ok(())
}

impl Sink for DirectorySink {
    fn add_stream(&mut self, name: &str, size: u64, from: &mut dyn Read) -> Result<()> {
        let place = self.target.join(name);
        let is_blob = name.starts_with("blobs/");
        let path = if is_blob { place.clone() } else { beside(&place) };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
        let mut file = file.map_err(Error::output("create", &path))?;
        self.made.push(Made::File(path.clone()));
        copy(from, size, &mut file, name)?;
        if !is_blob {
            file.sync_all().map_err(Error::output("sync", &path))?;
            self.pending.push((path, place));
        }
        Ok(())
    }
}

impl Drop for DirectorySink {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        for made in self.made.iter().rev() {
            let removed = match made {
                Made::File(path) => fs::remove_file(path),
                Made::Directory(path) => fs::remove_dir(path),
            };
            match removed {
                Ok(()) => {}
                // It has got its name in the meantime.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, "cannot remove what a failed save has written"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        files::list_names(path).unwrap()
    }

    #[test]
    fn a_layout_is_one_when_it_is_whole_and_leaves_nothing_before() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("linked", dir.path().join("link")).unwrap();
        for (target, real) in [("new", "new"), ("empty", "empty"), ("link", "linked"), ("ext4", "ext4")] {
            let (path, real) = (dir.path().join(target), dir.path().join(real));
            if target != "new" {
                fs::create_dir(&real).unwrap();
            }
            if target == "ext4" {
                fs::create_dir(real.join(LOST_AND_FOUND)).unwrap();
            }
            let before = if target == "new" { vec![] } else { names(&real) };
            let begin = || {
                let mut sink = DirectorySink::new(&path).unwrap();
                sink.add_bytes("blobs/sha256/x", b"x").unwrap();
                sink.add_bytes("index.json", b"{}").unwrap();
                sink.add_bytes("oci-layout", b"{}").unwrap();
                sink
            };
            let sink = begin();
            assert!(!real.join("index.json").exists() && !real.join("oci-layout").exists(), "{target}");
            drop(sink);
            assert_eq!((real.exists(), names(&real)), (target != "new", before.clone()), "{target}");
            begin().commit().unwrap();
            let written = ["blobs", "index.json", "oci-layout"].map(str::to_owned);
            let mut expected: Vec<_> = written.into_iter().chain(before).collect();
            expected.sort();
            assert_eq!(names(&real), expected, "{target}");
            assert_eq!(fs::read(real.join("blobs/sha256/x")).unwrap(), b"x");
            assert!(matches!(DirectorySink::new(&path), Err(Error::Option { .. })), "{target} has files");
        }
    }

    #[test]
    fn what_is_no_directory_or_has_files_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("full")).unwrap();
        fs::write(dir.path().join("full/mine"), b"x").unwrap();
        fs::write(dir.path().join("file"), b"x").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        for target in ["full", "file", "dangling", "none/x"] {
            assert!(DirectorySink::new(&dir.path().join(target)).is_err(), "{target}");
        }
        assert_eq!(names(dir.path()), ["dangling", "file", "full"]);
        assert_eq!(names(&dir.path().join("full")), ["mine"]);
        // What somebody else has put there while it was written stays.
        let sink = DirectorySink::new(&dir.path().join("new")).unwrap();
        fs::write(dir.path().join("new/theirs"), b"x").unwrap();
        drop(sink);
        assert_eq!(names(&dir.path().join("new")), ["theirs"]);
    }
}
