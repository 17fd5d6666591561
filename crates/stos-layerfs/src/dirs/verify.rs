// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Proves an unpacked layer: every byte by the digest of its tar made again, every name and what stands there by its index.

use std::ffi::CString;
use std::fs::{self, Metadata as Stat};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use stos_erofs::{Entry, EntryKind, LayerTree, Metadata};
use stos_spec::{DiffId, DigestHasher};
use stos_sys::rooted::Root;
use stos_sys::xattr;

use super::Dirs;
use super::inode::{OPAQUE_XATTR, as_path, split};
use super::layer::{DirectorySeal, DirsLayerRecord, check_side_file};
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
        renewed.diff = match DirectorySeal::of(&dir.join("diff")) {
            Ok(seal) => seal,
            Err(Error::Store(error)) if error.is_not_found() => {
                return Err(damaged(record, b"", "a directory".to_owned(), "none".to_owned()));
            }
            Err(error) => return Err(error),
        };
        for name in ["layer.index", "layer.rest"] {
            check_side_file(&dir, &mut renewed, name, Integrity::Full)?;
        }
        let mut digest = Digest { hasher: DigestHasher::default() };
        self.copy_tar(record.diff_id, &mut digest)?;
        let found = DiffId::from_bytes(digest.hasher.finish());
        if found != record.diff_id {
            return Err(damaged(record, b"", record.diff_id.to_string(), found.to_string()));
        }
        self.prove_tree(record, &self.layer_tree(record)?)?;
        Ok(renewed)
    }

    /// Compares what stands in `diff` with what the layer put there.
    fn prove_tree(&self, record: &DirsLayerRecord, tree: &LayerTree) -> Result<()> {
        let diff = self.layer_dir(record.diff_id).join("diff");
        let root = Root::open(&diff)?;
        let opaque: std::collections::HashSet<_> =
            tree.directories().filter(|state| state.opaque).map(|state| state.path).collect();
        let mut expected = 0;
        for node in tree.nodes() {
            expected += 1;
            let is_opaque = opaque.contains(&node.path);
            if let Some((wanted, found)) = difference(&root, &node, is_opaque)? {
                return Err(damaged(record, &node.path, wanted, found));
            }
        }
        // Each of them is there, so one more is none of the layer's.
        let found = count(&root)?;
        if found != expected {
            return Err(damaged(record, b"", format!("{expected} names"), format!("{found} names")));
        }
        Ok(())
    }
}

fn damaged(record: &DirsLayerRecord, path: &[u8], expected: String, found: String) -> Error {
    Error::DamagedLayer { layer: record.diff_id, path: Path::new("diff").join(as_path(path)), expected, found }
}

/// Gives how many names a tree has, its root included. Its paths may be longer than Linux takes in one piece.
pub(super) fn count(root: &Root) -> Result<u64> {
    let mut names = 1;
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        let open = root.open_directory(&directory)?;
        let list = fs::read_dir(Path::new("/proc/self/fd").join(open.as_raw_fd().to_string()));
        for entry in list.map_err(Error::io("list", &directory))? {
            let entry = entry.map_err(Error::io("list", &directory))?;
            names += 1;
            if entry.file_type().map_err(Error::io("stat", &directory))?.is_dir() {
                pending.push(directory.join(entry.file_name()));
            }
        }
    }
    Ok(names)
}

/// Compares one name; what was expected and what was found.
fn difference(root: &Root, node: &Entry, is_opaque: bool) -> Result<Option<(String, String)>> {
    let (parent, name) = split(&node.path);
    let Ok(dir) = root.open_directory(as_path(parent)) else {
        return Ok(Some(("its directory".to_owned(), "none".to_owned())));
    };
    let name = if node.path.is_empty() { Path::new(".") } else { name };
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let stat = match fs::symlink_metadata(&path) {
        Ok(stat) => stat,
        Err(error) => return Ok(Some((kind_name(&node.kind).to_owned(), error.to_string()))),
    };
    if !is_kind(&node.kind, &stat) {
        return Ok(Some((kind_name(&node.kind).to_owned(), format!("{:?}", stat.file_type()))));
    }
    if let EntryKind::Symlink { target, .. } = &node.kind {
        let found = fs::read_link(&path).map_err(Error::io("read the symlink", &path))?;
        if found.as_os_str().as_bytes() != target {
            return Ok(Some((as_path(target).display().to_string(), found.display().to_string())));
        }
    }
    let Some(metadata) = metadata_of(&node.kind) else { return Ok(None) };
    let (wanted, found) = (shown(metadata, matches!(node.kind, EntryKind::Symlink { .. })), shown_stat(&stat));
    if wanted != found {
        return Ok(Some((wanted, found)));
    }
    for attribute in &metadata.xattrs {
        let full = CString::new(attribute.full_name()).unwrap_or_default();
        let found = xattr::at::get(dir.as_fd(), name, &full)?;
        if found.as_deref() != Some(attribute.value.as_slice()) {
            return Ok(Some((format!("attribute {full:?}"), "another value, or none".to_owned())));
        }
    }
    let found = xattr::at::get(dir.as_fd(), name, OPAQUE_XATTR)?.is_some();
    let said = |is_opaque| if is_opaque { "an opaque directory" } else { "none that is opaque" }.to_owned();
    Ok((found != is_opaque).then(|| (said(is_opaque), said(found))))
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

fn metadata_of(kind: &EntryKind) -> Option<&Metadata> {
    match kind {
        EntryKind::Directory(metadata)
        | EntryKind::Regular { metadata, .. }
        | EntryKind::Symlink { metadata, .. }
        | EntryKind::CharacterDevice { metadata, .. }
        | EntryKind::BlockDevice { metadata, .. }
        | EntryKind::Fifo(metadata) => Some(metadata),
        EntryKind::HardLink { .. } | EntryKind::Whiteout | EntryKind::Opaque => None,
    }
}

/// What is compared of an inode, as people read it. Linux gives symlinks no mode, and times are left out: a filesystem may hold
/// fewer than a tar.
fn shown(metadata: &Metadata, is_symlink: bool) -> String {
    let mode = if is_symlink { 0o777 } else { u32::from(metadata.mode) };
    format!("mode {mode:o}, owner {}:{}", metadata.uid, metadata.gid)
}

fn shown_stat(stat: &Stat) -> String {
    format!("mode {:o}, owner {}:{}", stat.mode() & 0o7777, stat.uid(), stat.gid())
}
