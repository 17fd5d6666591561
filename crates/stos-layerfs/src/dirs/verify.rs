// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Proves an unpacked layer: every byte by the digest of its tar made again, and by its index every name in `diff/` and `orphans/`
//! with what stands there: the kind, a file's length, a symlink's target, a device's number; mode, owner, time of the last change
//! and extended attributes; what is opaque; which names are of one file; and that nothing else is there.
//!
//! Not compared are times of access, `security.selinux` (the host's label) and overlayfs's own attributes besides opaque. A
//! filesystem may keep less than a tar says (times beyond its range, an ACL that says no more than the mode): where something
//! differs, the same is made once more in staging, and what becomes of it there is right.

use std::collections::HashMap;
use std::fs::{self, Metadata as Stat};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use stos_erofs::{EntryKind, LayerTree, Metadata, Places, Timestamp};
use stos_spec::{DiffId, DigestHasher};
use stos_store::{Staging, Store, files};
use stos_sys::rooted::Root;
use stos_sys::xattr;

use super::Dirs;
use super::inode::{self, OPAQUE_XATTR, Place, as_path, refused, split};
use super::layer::{DirectorySeal, DirsLayerRecord, check_side_file};
use super::walk;
use crate::error::{Error, Result};
use crate::seal::Integrity;

/// Counts and hashes what is written.
struct Digest {
    hasher: DigestHasher,
}

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Dirs {
    /// Looks at everything that is kept of a layer, and gives its record with the seals that it has now.
    pub(crate) fn prove_layer(&self, record: &DirsLayerRecord) -> Result<DirsLayerRecord> {
        let dir = self.layer_dir(record.diff_id);
        let mut renewed = record.clone();
        // Looked at before it is read: what changes meanwhile breaks the new seal.
        let none = |found| damaged(record, Path::new("diff"), "a directory", found);
        renewed.diff = DirectorySeal::of(&dir.join("diff")).map_err(|error| is_damage_or(error, none))?;
        for name in ["layer.index", "layer.rest"] {
            check_side_file(&dir, &mut renewed, name, Integrity::Full)?;
        }
        let mut digest = Digest { hasher: DigestHasher::default() };
        self.copy_tar(record.diff_id, &mut digest)?;
        let found = DiffId::from_bytes(digest.hasher.finish());
        if found != record.diff_id {
            return Err(damaged(record, Path::new("diff"), record.diff_id.to_string(), found.to_string()));
        }
        self.prove_tree(record, self.layer_tree(record.diff_id)?)?;
        Ok(renewed)
    }

    /// Compares what stands in `diff` and `orphans` with what the layer put there.
    fn prove_tree(&self, record: &DirsLayerRecord, tree: LayerTree) -> Result<()> {
        let dir = self.layer_dir(record.diff_id);
        let open = |name: &str| {
            let wrong = |error| is_damage_or(error, |found| damaged(record, Path::new(name), "a directory", found));
            Root::open(&dir.join(name)).map_err(|error| wrong(error.into()))
        };
        let mut files = Files::default();
        let diff = open("diff")?;
        let mut comparer = Comparer::new(&self.store, &diff, dir.join("diff"));
        for node in tree.nodes() {
            let path = &node.entry.path;
            let wrong = |(wanted, found)| damaged(record, &Path::new("diff").join(as_path(path)), wanted, found);
            let stat = comparer.compare(path, &node.entry.kind, node.opaque)?.map_err(wrong)?;
            if stat.is_dir() {
                comparer.count(path, node.children)?.map_err(wrong)?;
            } else if node.entry.kind != EntryKind::Whiteout {
                files.check(u64::from(node.file), node.names, &stat).map_err(wrong)?;
            }
        }
        let orphans = open("orphans")?;
        let places = tree.places();
        // The tree is the larger of the two, and not needed any more.
        drop(tree);
        let decided = comparer.finish();
        // Damage is told first.
        self.prove_orphans(record, &orphans, &places, &mut files)?;
        decided
    }

    /// Compares the files that have no name in `diff`; their data have been proved.
    fn prove_orphans(
        &self,
        record: &DirsLayerRecord,
        orphans: &Root,
        places: &Places,
        files: &mut Files,
    ) -> Result<()> {
        let mut comparer = Comparer::new(&self.store, orphans, self.layer_dir(record.diff_id).join("orphans"));
        let mut expected = 0;
        self.read_index(record.diff_id, |number, entry| {
            if !matches!(entry.kind, EntryKind::Regular { .. }) || places.path_of(number).is_some() {
                return Ok(());
            }
            expected += 1;
            let name = number.to_string();
            let wrong = |(wanted, found)| damaged(record, &Path::new("orphans").join(&name), wanted, found);
            let stat = comparer.compare(name.as_bytes(), &entry.kind, false)?.map_err(wrong)?;
            // Entries are counted by 32 bits, as the files of the tree are.
            files.check(number | 1 << 32, 1, &stat).map_err(wrong)
        })?;
        let wrong = |(wanted, found)| damaged(record, Path::new("orphans"), wanted, found);
        comparer.count(b"", expected)?.map_err(wrong)?;
        comparer.finish()
    }
}

fn damaged(record: &DirsLayerRecord, path: &Path, expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::DamagedLayer { layer: record.diff_id, path: path.to_owned(), expected: expected.into(), found: found.into() }
}

/// Tells whether an error says that something is not what it was: that it is not there, is of another kind, or cannot be read. All
/// others are the process's, or the host's.
pub(super) fn is_damage(error: &Error) -> bool {
    let code = match error {
        Error::Store(stos_store::Error::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
            return true;
        }
        Error::Store(stos_store::Error::Io { source, .. }) => source.raw_os_error(),
        Error::Sys(error) => Some(error.errno.raw_os_error()),
        _ => None,
    };
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::IO].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// Makes of an error that says so the damage that it is.
pub(super) fn is_damage_or(error: Error, damaged: impl FnOnce(String) -> Error) -> Error {
    match is_damage(&error) {
        true => damaged(error.to_string()),
        false => error,
    }
}

/// What was expected and what was found.
pub(super) type Difference = (String, String);
/// What was compared, where it is as it should be.
pub(super) type Compared<T> = std::result::Result<T, Difference>;

/// The inodes of files, to tell which names are of one file.
#[derive(Default)]
struct Files {
    /// By device and inode number: of each that has, or should have, more names than one.
    files: HashMap<(u64, u64), u64>,
    inodes: HashMap<u64, (u64, u64)>,
}

impl Files {
    /// Compares a name of a file with those of it that have been seen.
    fn check(&mut self, file: u64, names: u32, stat: &Stat) -> Compared<()> {
        if names < 2 && stat.nlink() < 2 {
            return Ok(());
        }
        let inode = (stat.dev(), stat.ino());
        if *self.files.entry(inode).or_insert(file) != file {
            return Err(("a file of its own".to_owned(), "a hard link to another one".to_owned()));
        }
        if names > 1 && *self.inodes.entry(file).or_insert(inode) != inode {
            return Err(("a hard link to the same file".to_owned(), "a file of its own".to_owned()));
        }
        Ok(())
    }
}

/// Compares names in one directory tree with entries.
pub(super) struct Comparer<'a> {
    root: &'a Root,
    store: &'a Store,
    /// Where `root` is, for errors.
    place: PathBuf,
    /// The first thing that only trying could decide, in a store that can only be read.
    undecided: Option<Error>,
    /// The last parent that was opened.
    parent: Option<(Vec<u8>, OwnedFd)>,
    staging: Option<Staging>,
}

impl<'a> Comparer<'a> {
    /// Compares below `root`, which is at `place` on the store's filesystem.
    pub(super) fn new(store: &'a Store, root: &'a Root, place: PathBuf) -> Self {
        Self { root, store, place, undecided: None, parent: None, staging: None }
    }

    /// Tells whether everything that was compared could be decided. What could not was taken as right until here.
    ///
    /// # Errors
    /// [`Error::Undecided`], in a store that can only be read.
    pub(super) fn finish(self) -> Result<()> {
        self.undecided.map_or(Ok(()), Err)
    }

    /// Remembers what cannot be decided here, where that is so.
    fn is_undecidable(&mut self, path: &[u8], difference: &Difference) -> bool {
        let is_read_only = self.store.is_read_only();
        if is_read_only && self.undecided.is_none() {
            let (expected, found) = difference.clone();
            self.undecided = Some(Error::Undecided { path: self.place.join(as_path(path)), expected, found });
        }
        is_read_only
    }

    /// Compares what stands at `path` with all that an entry would make there, but for the data of a file.
    ///
    /// # Errors
    /// What the process or the host is to blame for, such as EMFILE and EACCES.
    pub(super) fn compare(&mut self, path: &[u8], kind: &EntryKind, is_opaque: bool) -> Result<Compared<Stat>> {
        let (stat, found) = match self.look(path, kind) {
            Ok(Ok(found)) => found,
            Ok(Err(difference)) => return Ok(Err(difference)),
            Err(error) if is_damage(&error) => return Ok(Err((kind_name(kind).to_owned(), error.to_string()))),
            Err(error) => return Err(error),
        };
        let Some(wanted) = metadata_of(kind) else { return Ok(Ok(stat)) };
        if let Some(difference) = differ(&wanted, &found.metadata)
            && !self.is_undecidable(path, &difference)
        {
            let made = self.make_sample(kind)?;
            if made != found.metadata {
                return Ok(Err(differ(&made, &found.metadata).unwrap_or(difference)));
            }
        }
        let said = |is_opaque| if is_opaque { "an opaque directory" } else { "none that is opaque" }.to_owned();
        match found.is_opaque == is_opaque {
            true => Ok(Ok(stat)),
            false => Ok(Err((said(is_opaque), said(found.is_opaque)))),
        }
    }

    /// Compares how many names a directory has.
    fn count(&self, path: &[u8], expected: u64) -> Result<Compared<()>> {
        let directory = self.root.open_directory(as_path(path)).map_err(|error| refused("open", path)(error.errno))?;
        let found = walk::count(&directory, path)?;
        match found == expected {
            true => Ok(Ok(())),
            false => Ok(Err((format!("{expected} names in it"), format!("{found} names")))),
        }
    }

    /// Opens what `path` lies in.
    pub(super) fn place<'b>(&'b mut self, path: &'b [u8]) -> Result<Place<'b>> {
        let (parent, name) = split(path);
        let name = if path.is_empty() { Path::new(".") } else { name };
        let dir = match self.parent.take() {
            Some((known, dir)) if known == parent => dir,
            _ => self.root.open_directory(as_path(parent)).map_err(|error| refused("open", parent)(error.errno))?,
        };
        let (_, dir) = &*self.parent.insert((parent.to_vec(), dir));
        Ok(Place { dir: dir.as_fd(), name, path })
    }

    /// Reads what stands at `path`, if it is of that kind.
    fn look(&mut self, path: &[u8], kind: &EntryKind) -> Result<Compared<(Stat, Found)>> {
        let place = self.place(path)?;
        let stat = place.stat()?;
        if !is_kind(kind, &stat) {
            return Ok(Err((shown_kind(kind), shown_stat(&stat))));
        }
        if let EntryKind::Symlink { target, .. } = kind {
            let found = fs::read_link(place.in_proc()).map_err(refused("read the symlink", path))?;
            if found.as_os_str().as_bytes() != target {
                return Ok(Err((as_path(target).display().to_string(), found.display().to_string())));
            }
        }
        let opaque = xattr::at::get(place.dir, place.name, OPAQUE_XATTR);
        let opaque = opaque.map_err(|error| refused("read the extended attributes of", path)(error.errno))?;
        let metadata = place.metadata(&stat)?;
        Ok(Ok((stat, Found { metadata, is_opaque: opaque.is_some() })))
    }

    /// Makes the same in staging, and gives what this filesystem makes of it.
    fn make_sample(&mut self, kind: &EntryKind) -> Result<Metadata> {
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => self.store.stage()?,
        };
        let directory = files::open(self.staging.insert(staging).path())?;
        let place = Place { dir: directory.as_fd(), name: Path::new("sample"), path: b"a sample in staging" };
        if let EntryKind::Directory(metadata) = kind {
            place.make_directory()?;
            let made = files::open(&place.in_proc())?;
            inode::finish_directory(&made.into(), metadata, false, place.path)?;
        } else if let (Some(file), Some(metadata)) = (place.make(kind)?, metadata_of(kind)) {
            inode::finish_file(&file, &metadata, place.path)?;
        }
        let stat = place.stat()?;
        let made = place.metadata(&stat)?;
        let flags = if stat.is_dir() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        unlinkat(place.dir, place.name, flags).map_err(refused("remove", place.path))?;
        Ok(made)
    }

    /// Tells whether the filesystem gives a file no more names, by trying.
    pub(super) fn has_all_names(&mut self, file: Place<'_>) -> Result<bool> {
        if self.is_undecidable(file.path, &("a hard link to the layer's file".to_owned(), "a copy of it".to_owned())) {
            return Ok(true);
        }
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => self.store.stage()?,
        };
        let directory = files::open(self.staging.insert(staging).path())?;
        let place = Place { dir: directory.as_fd(), name: Path::new("link"), path: file.path };
        match place.link_to(file) {
            Err(Errno::MLINK) => Ok(true),
            made => {
                made.map_err(refused("make another name of", file.path))?;
                unlinkat(place.dir, place.name, AtFlags::empty())
                    .map_err(refused("remove the new name of", file.path))?;
                Ok(false)
            }
        }
    }
}

/// What stands at a name.
struct Found {
    metadata: Metadata,
    is_opaque: bool,
}

/// Gives the first of its metadata that differs.
pub(super) fn differ(wanted: &Metadata, found: &Metadata) -> Option<Difference> {
    let owner = |of: &Metadata| format!("mode {:o}, owner {}:{}", of.mode, of.uid, of.gid);
    let time = |Timestamp { seconds, nanoseconds }: Timestamp| format!("time {seconds}.{nanoseconds:09}");
    if owner(wanted) != owner(found) {
        return Some((owner(wanted), owner(found)));
    }
    if wanted.mtime != found.mtime {
        return Some((time(wanted.mtime), time(found.mtime)));
    }
    let name = |name: Vec<u8>| name.escape_ascii().to_string();
    if let Some(missing) = wanted.xattrs.iter().find(|attribute| !found.xattrs.contains(attribute)) {
        return Some((format!("attribute {}", name(missing.full_name())), "another value, or none".to_owned()));
    }
    let more = found.xattrs.iter().find(|attribute| !wanted.xattrs.contains(attribute))?;
    let name = name(more.full_name());
    Some((format!("no attribute {name}"), format!("attribute {name}")))
}

fn kind_name(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Directory(_) => "a directory",
        EntryKind::Regular { .. } => "a regular file",
        EntryKind::Symlink { .. } => "a symlink",
        EntryKind::CharacterDevice { .. } => "a character device",
        EntryKind::BlockDevice { .. } => "a block device",
        EntryKind::Fifo(_) => "a FIFO",
        EntryKind::HardLink { .. } => "a hard link",
        EntryKind::Whiteout => "a whiteout",
        EntryKind::Opaque => "an opaque marker",
    }
}

fn is_kind(kind: &EntryKind, stat: &Stat) -> bool {
    let device = |major: u32, minor: u32| stat.rdev() == rustix::fs::makedev(major, minor);
    let found = stat.file_type();
    match kind {
        EntryKind::Directory(_) => found.is_dir(),
        EntryKind::Regular { size, .. } => found.is_file() && stat.len() == *size,
        EntryKind::Symlink { .. } => found.is_symlink(),
        EntryKind::CharacterDevice { major, minor, .. } => found.is_char_device() && device(*major, *minor),
        EntryKind::BlockDevice { major, minor, .. } => found.is_block_device() && device(*major, *minor),
        EntryKind::Fifo(_) => found.is_fifo(),
        EntryKind::Whiteout => found.is_char_device() && device(0, 0),
        EntryKind::HardLink { .. } | EntryKind::Opaque => false,
    }
}

/// Gives what an inode would be found to have; Linux gives symlinks no mode of their own.
fn metadata_of(kind: &EntryKind) -> Option<Metadata> {
    let mut metadata = match kind {
        EntryKind::Directory(metadata)
        | EntryKind::Regular { metadata, .. }
        | EntryKind::Symlink { metadata, .. }
        | EntryKind::CharacterDevice { metadata, .. }
        | EntryKind::BlockDevice { metadata, .. }
        | EntryKind::Fifo(metadata) => metadata.clone(),
        EntryKind::HardLink { .. } | EntryKind::Whiteout | EntryKind::Opaque => return None,
    };
    if let EntryKind::Symlink { .. } = kind {
        metadata.mode = 0o777;
    }
    metadata.xattrs.sort();
    Some(metadata)
}

fn shown_kind(kind: &EntryKind) -> String {
    match kind {
        EntryKind::Regular { size, .. } => format!("{} of {size} bytes", kind_name(kind)),
        EntryKind::CharacterDevice { major, minor, .. } | EntryKind::BlockDevice { major, minor, .. } => {
            format!("{} {major}:{minor}", kind_name(kind))
        }
        _ => kind_name(kind).to_owned(),
    }
}

fn shown_stat(stat: &Stat) -> String {
    let kind = stat.file_type();
    let device = || format!("{}:{}", rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
    match () {
        () if kind.is_dir() => "a directory".to_owned(),
        () if kind.is_file() => format!("a regular file of {} bytes", stat.len()),
        () if kind.is_symlink() => "a symlink".to_owned(),
        () if kind.is_char_device() => format!("a character device {}", device()),
        () if kind.is_block_device() => format!("a block device {}", device()),
        () if kind.is_fifo() => "a FIFO".to_owned(),
        () => "a socket".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_something_of_the_file_is_damage() {
        let of = |errno: Errno| {
            [refused("open", b"f")(errno).into(), stos_sys::SysError::new("openat2", "f".to_owned(), errno).into()]
        };
        let no_file = io::Error::from(io::ErrorKind::InvalidData);
        assert!(is_damage(&refused("read", b"f")(no_file).into()));
        for errno in [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::IO] {
            assert!(of(errno).iter().all(is_damage), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::ACCESS, Errno::PERM, Errno::NOSPC] {
            let errors = of(errno);
            assert!(!errors.iter().any(is_damage), "{errno}");
            for error in errors {
                let same = error.to_string();
                let passed = is_damage_or(error, |_| Error::NoLayers);
                assert_eq!(passed.to_string(), same);
            }
        }
    }
}
