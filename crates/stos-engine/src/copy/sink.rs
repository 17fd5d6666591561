// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A stream of entries as a tree. Each file is made under a name of ours, gets all that belongs to it through its descriptor, and then
//! its own name by one rename: whoever looks finds the old file or the new one.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use stos_erofs::{Entry, EntryKind, Metadata, TarSink, Timestamp};
use stos_spec::text::escape;
use stos_sys::SysError;
use stos_sys::process::user_namespace::IdMappings;
use stos_sys::rooted::{Root, file_type};

use super::CopyError;
use super::replace::{Attributes, put_in_place, remove_at};
use crate::error::{Error, Result};

/// What a sink does with what it is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Whom everything belongs to; `None` for whom it belonged to.
    pub owner: Option<(u32, u32)>,
    /// Whether a directory may be replaced by something else, and the other way round.
    pub overwrite: bool,
    /// Whether devices are made.
    pub takes_devices: bool,
}

/// What a sink has found wrong, for whoever is told only that it has failed.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure(Rc<RefCell<Option<Error>>>);

impl Failure {
    pub fn take(&self) -> Option<Error> {
        self.0.borrow_mut().take()
    }
}

/// Makes a tree.
#[derive(Debug)]
pub(super) struct TreeSink<'a> {
    root: &'a Root,
    base: PathBuf,
    /// Whether symlinks to directories on the way are followed inside the root.
    follows: bool,
    rules: Rules,
    /// What the numbers of owners mean on the host; empty where they are the host's.
    ids: IdMappings,
    /// The directory that the last entry lay in.
    parent: Option<(Vec<u8>, OwnedFd)>,
    open: Option<OpenFile>,
    /// The directories that were made, and their times: those are set when nothing more is made in them.
    directories: Vec<(Vec<u8>, Timestamp)>,
    failure: Failure,
}

/// A regular file that is being written.
#[derive(Debug)]
struct OpenFile {
    file: File,
    dir: OwnedFd,
    temporary: String,
    path: Vec<u8>,
    metadata: Metadata,
    size: u64,
}

impl<'a> TreeSink<'a> {
    /// Makes it in the directory `base` of a container.
    pub fn following(root: &'a Root, base: &Path, rules: Rules) -> Self {
        Self::new(root, base.to_owned(), true, rules)
    }

    /// Makes it in a directory that is held, and follows nothing below that.
    pub fn below(root: &'a Root, rules: Rules) -> Self {
        Self::new(root, PathBuf::new(), false, rules)
    }

    fn new(root: &'a Root, base: PathBuf, follows: bool, rules: Rules) -> Self {
        let (directories, failure) = (Vec::new(), Failure::default());
        let ids = IdMappings::default();
        Self { root, base, follows, rules, ids, parent: None, open: None, directories, failure }
    }

    /// Takes the numbers of owners for those of a user namespace.
    pub fn with_ids(mut self, ids: IdMappings) -> Self {
        self.ids = ids;
        self
    }

    /// Where it says what it has found wrong.
    pub fn failure(&self) -> Failure {
        self.failure.clone()
    }

    /// Puts the last file in its place and gives directories their times.
    pub fn finish(mut self) -> Result<()> {
        self.close()?;
        for (path, mtime) in std::mem::take(&mut self.directories).iter().rev() {
            // Whoever has moved it meanwhile has changed its time too.
            if let Ok(dir) = self.open_directory(path) {
                Attributes::set_time(dir.as_fd(), *mtime)?;
            }
        }
        Ok(())
    }

    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> io::Result<()> {
        work(self).map_err(|error| {
            let said = io::Error::other(error.to_string());
            *self.failure.0.borrow_mut() = Some(error);
            said
        })
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd> {
        let path = self.base.join(OsStr::from_bytes(path));
        if self.follows {
            let found = self.root.resolve(&path)?;
            return match file_type(found.as_fd())? {
                FileType::Directory => Ok(found),
                _ => Err(SysError::new("openat2", path.display().to_string(), Errno::NOTDIR).into()),
            };
        }
        Ok(self.root.open_directory(&path)?)
    }

    /// Opens the directory that an entry lies in; one that a tar does not name is made.
    fn open_parent(&mut self, path: &[u8]) -> Result<OwnedFd> {
        if let Some((known, dir)) = &self.parent
            && known == path
        {
            return duplicate(dir);
        }
        let dir = match self.open_directory(path) {
            Err(Error::Sys(error)) if error.errno == Errno::NOENT && self.follows => {
                let path = self.base.join(OsStr::from_bytes(path));
                self.root.create_dir_all(&path, Mode::from_raw_mode(0o755))?
            }
            other => other?,
        };
        self.parent = Some((path.to_vec(), duplicate(&dir)?));
        Ok(dir)
    }

    fn take(&mut self, entry: &Entry) -> Result<()> {
        self.close()?;
        if entry.path.is_empty() {
            // The directory that it all goes into.
            return Ok(());
        }
        let (parent, name) = split(&entry.path);
        let dir = self.open_parent(parent)?;
        let (path, temporary) = (&entry.path, temporary_name());
        let failed = |call| SysError::at(call, || shown(path));
        match &entry.kind {
            EntryKind::Directory(metadata) => return self.take_directory(&dir, name, path, metadata),
            EntryKind::Regular { metadata, size, .. } => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&dir, &temporary, flags, Mode::from_raw_mode(0o600)).map_err(failed("openat"))?;
                let (file, metadata) = (File::from(file), metadata.clone());
                self.open = Some(OpenFile { file, dir, temporary, path: path.clone(), metadata, size: *size });
                return Ok(());
            }
            EntryKind::Symlink { target, metadata } => {
                symlinkat(OsStr::from_bytes(target), &dir, &temporary).map_err(failed("symlinkat"))?;
                self.settle(&dir, &temporary, FileType::Symlink, path, metadata)?;
            }
            EntryKind::Fifo(metadata) => {
                mknodat(&dir, &temporary, FileType::Fifo, Mode::RUSR, 0).map_err(failed("mknodat"))?;
                self.settle(&dir, &temporary, FileType::Fifo, path, metadata)?;
            }
            EntryKind::CharacterDevice { metadata, major, minor }
            | EntryKind::BlockDevice { metadata, major, minor } => {
                if !self.rules.takes_devices {
                    tracing::warn!(path = shown(path), "a device is not copied out of a container: left out");
                    return Ok(());
                }
                let kind = match entry.kind {
                    EntryKind::BlockDevice { .. } => FileType::BlockDevice,
                    _ => FileType::CharacterDevice,
                };
                let device = makedev(*major, *minor);
                mknodat(&dir, &temporary, kind, Mode::RUSR, device).map_err(failed("mknodat"))?;
                self.settle(&dir, &temporary, kind, path, metadata)?;
            }
            EntryKind::HardLink { target } => {
                let (parent, target_name) = split(target);
                let from = self.open_directory(parent)?;
                let from_name = OsStr::from_bytes(target_name);
                linkat(&from, from_name, &dir, &temporary, AtFlags::empty()).map_err(failed("linkat"))?;
            }
            EntryKind::Whiteout | EntryKind::Opaque => {
                return Err(CopyError::Whiteout { path: shown(path) }.into());
            }
        }
        put_in_place(dir.as_fd(), &temporary, name, path, self.rules.overwrite)
    }

    /// Gives what was just made under a name of ours all that belongs to it, or takes it away.
    fn settle(&self, dir: &OwnedFd, name: &str, kind: FileType, path: &[u8], metadata: &Metadata) -> Result<()> {
        let settled = self.give_attributes(dir, name, kind, path, metadata);
        if settled.is_err() {
            // The cause counts.
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
        settled
    }

    /// The directory may be somebody else's to change: what stands there now must be what was made, and have no other name.
    fn give_attributes(
        &self,
        dir: &OwnedFd,
        name: &str,
        kind: FileType,
        path: &[u8],
        metadata: &Metadata,
    ) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(dir, name, flags, Mode::empty()).map_err(SysError::at("openat", || shown(path)))?;
        let stat = rustix::fs::fstat(&made).map_err(SysError::at("fstat", || shown(path)))?;
        if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_nlink != 1 {
            return Err(CopyError::Replaced { path: shown(path) }.into());
        }
        self.attributes(metadata).set(made.as_fd(), kind)
    }

    fn attributes<'m>(&'m self, metadata: &'m Metadata) -> Attributes<'m> {
        Attributes { metadata, owner: self.rules.owner, ids: &self.ids }
    }

    fn take_directory(&mut self, dir: &OwnedFd, name: &[u8], path: &[u8], metadata: &Metadata) -> Result<()> {
        let failed = |call| SysError::at(call, || shown(path));
        let name = OsStr::from_bytes(name);
        loop {
            match mkdirat(dir, name, Mode::RWXU) {
                Ok(()) => break,
                Err(Errno::EXIST) if self.is_directory(dir, name, path)? => return Ok(()),
                Err(Errno::EXIST) if self.rules.overwrite => remove_at(dir.as_fd(), name)?,
                Err(Errno::EXIST) => {
                    let (found, wanted) = ("which is no directory", "a directory");
                    return Err(CopyError::InTheWay { path: shown(path), found, wanted }.into());
                }
                Err(errno) => return Err(failed("mkdirat")(errno).into()),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(dir, name, flags, Mode::empty()).map_err(failed("openat"))?;
        if let Err(error) = self.attributes(metadata).set(made.as_fd(), FileType::Directory) {
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
            return Err(error);
        }
        self.directories.push((path.to_vec(), metadata.mtime));
        Ok(())
    }

    /// Whether a directory is there already; where symlinks are followed also one that they lead to. It stays as it is.
    fn is_directory(&self, dir: &OwnedFd, name: &OsStr, path: &[u8]) -> Result<bool> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat(dir, name, flags, Mode::empty()) {
            // It has gone meanwhile.
            Err(Errno::NOENT) => return Ok(false),
            found => found.map_err(SysError::at("openat", || shown(path)))?,
        };
        match file_type(found.as_fd())? {
            FileType::Directory => Ok(true),
            FileType::Symlink if self.follows => Ok(self.open_directory(path).is_ok()),
            _ => Ok(false),
        }
    }

    /// Ends the file that is being written.
    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let failed = stos_store::Error::io("write", shown(&open.path));
        let settled = open.file.set_len(open.size).map_err(failed).map_err(Error::from);
        let settled = settled
            .and_then(|()| self.attributes(&open.metadata).set(open.file.as_fd(), FileType::RegularFile))
            .and_then(|()| {
                let (_, name) = split(&open.path);
                put_in_place(open.dir.as_fd(), &open.temporary, name, &open.path, self.rules.overwrite)
            });
        if settled.is_err() {
            // The cause counts. Under a name of ours it hides nothing.
            let _ = rustix::fs::unlinkat(&open.dir, &open.temporary, AtFlags::empty());
        }
        settled
    }
}

impl Drop for TreeSink<'_> {
    fn drop(&mut self) {
        // A file that was cut short is none.
        if let Some(open) = self.open.take() {
            let _ = rustix::fs::unlinkat(&open.dir, &open.temporary, AtFlags::empty());
        }
    }
}

impl TarSink for TreeSink<'_> {
    fn entry(&mut self, _: u64, entry: &Entry) -> io::Result<()> {
        self.guarded(|sink| sink.take(entry))
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match &self.open {
            Some(open) => open.file.write_all_at(bytes, offset),
            None => Ok(()),
        }
    }

    fn raw(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    let borrowed: BorrowedFd<'_> = fd.as_fd();
    Ok(borrowed.try_clone_to_owned().map_err(stos_store::Error::io("duplicate", "a descriptor"))?)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A name that nobody has, and nobody can know beforehand.
fn temporary_name() -> String {
    format!(".stos-cp-{}", &stos_store::ContainerId::random().as_str()[..24])
}

pub(super) fn shown(path: &[u8]) -> String {
    escape(&String::from_utf8_lossy(path)).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RULES: Rules = Rules { owner: None, overwrite: false, takes_devices: false };

    fn metadata() -> Metadata {
        Metadata { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp { seconds: 1, nanoseconds: 2 }, xattrs: Vec::new() }
    }

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry { path: path.as_bytes().to_vec(), kind }
    }

    fn refusal(sink: &mut TreeSink<'_>, entry: &Entry) -> CopyError {
        let failure = sink.failure();
        sink.entry(0, entry).unwrap_err();
        match failure.take() {
            Some(Error::Copy(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_somebody_put_in_place_of_what_was_made_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let sink = TreeSink::below(&root, RULES);
        fs::write(dir.path().join("theirs"), "").unwrap();
        fs::hard_link(dir.path().join("theirs"), dir.path().join("made")).unwrap();
        let held = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        for (name, kind) in [("made", FileType::RegularFile), ("theirs", FileType::Fifo)] {
            let settled = sink.settle(&held, name, kind, b"path", &metadata());
            assert!(matches!(settled, Err(Error::Copy(CopyError::Replaced { path })) if path == "path"));
        }
    }

    #[test]
    fn what_cannot_be_given_its_owner_leaves_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let root_alone = vec![stos_sys::process::user_namespace::IdMapping { container: 0, host: 0, size: 1 }];
        let ids = IdMappings { users: root_alone.clone(), groups: root_alone };
        let mut sink = TreeSink::below(&root, Rules { takes_devices: true, ..RULES }).with_ids(ids);
        let metadata = Metadata { uid: 7, ..metadata() };
        for kind in [
            EntryKind::Symlink { metadata: metadata.clone(), target: b"/etc".to_vec() },
            EntryKind::Fifo(metadata.clone()),
            EntryKind::CharacterDevice { metadata: metadata.clone(), major: 1, minor: 3 },
            EntryKind::Directory(metadata),
        ] {
            sink.entry(0, &entry("new", kind)).unwrap_err();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_layer_s_marks_are_refused_and_devices_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut sink = TreeSink::below(&root, RULES);
        let found = refusal(&mut sink, &entry("gone", EntryKind::Whiteout));
        assert!(matches!(found, CopyError::Whiteout { path } if path == "gone"));
        let device = EntryKind::CharacterDevice { metadata: metadata(), major: 1, minor: 3 };
        sink.entry(0, &entry("null", device)).unwrap();
        sink.finish().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_cut_short_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut sink = TreeSink::below(&root, RULES);
        let kind = EntryKind::Regular { metadata: metadata(), size: 5, place: Default::default(), block: 0 };
        sink.entry(0, &entry("file", kind.clone())).unwrap();
        sink.data(0, b"te").unwrap();
        drop(sink);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut sink = TreeSink::below(&root, RULES);
        sink.entry(0, &entry("file", kind)).unwrap();
        sink.data(1, b"x").unwrap();
        sink.finish().unwrap();
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"\0x\0\0\0", "what was not given is a hole");
        fs::create_dir(dir.path().join("dir")).unwrap();
        let mut sink = TreeSink::below(&root, RULES);
        let link = EntryKind::Symlink { metadata: metadata(), target: b"/etc".to_vec() };
        let found = refusal(&mut sink, &entry("dir", link));
        assert!(matches!(found, CopyError::InTheWay { found: "a directory", .. }));
    }
}
