// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compares two file trees by everything that an image promises about each path.
//!
//! Type, mode, uid, gid, mtime with nanoseconds, size and SHA-256, link target, device numbers, xattrs and hard-link
//! groups. A directory's size and link count, inode numbers, atime and ctime belong to the filesystem and not to the
//! image: they are left out.
//!
//! ```no_run
//! use std::path::Path;
//! use stos_testkit::tree::{Options, Tree};
//! let options = Options { exclude: &["proc", "sys", "dev"], ..Options::default() };
//! let (expected, found) = Tree::read_both(Path::new("unpacked"), Path::new("/proc/1/root"), &options).unwrap();
//! expected.assert_same(&found);
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;

use sha2::{Digest, Sha256};

/// What to leave out.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Paths, from the root and without a leading slash, that are left out with all below them.
    pub exclude: &'a [&'a str],
    /// Xattrs whose names begin so are left out. The default leaves out SELinux labels, which the host gives.
    pub ignore_xattrs: &'a [&'a str],
    /// Whether to read and hash the data of regular files.
    pub contents: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { exclude: &[], ignore_xattrs: &["security.selinux"], contents: true }
    }
}

/// All that is compared of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `file`, `directory`, `symlink`, `char device`, `block device`, `fifo` or `socket`.
    pub kind: &'static str,
    /// The permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Time of modification: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Size in bytes of a regular file; 0 for all else.
    pub size: u64,
    /// SHA-256 of a regular file's data in hex; empty for all else, or where contents were not asked for.
    pub sha256: String,
    /// Where a symlink points.
    pub target: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Names and values.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path, in byte order, of the hard links to this file within the tree; `None` where it is the only one.
    pub link_group: Option<Vec<u8>>,
}

/// A tree read into memory: paths from its root (`.` itself is the empty path) and their nodes.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The nodes by path.
    pub nodes: BTreeMap<Vec<u8>, Node>,
}

/// One difference at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path from the root.
    pub path: Vec<u8>,
    /// What differs: `missing`, `unexpected`, or the name of a field of [`Node`].
    pub what: &'static str,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, what, expected, found } = self;
        write!(f, "/{}: {what}: expected {expected}, found {found}", path.escape_ascii())
    }
}

impl Tree {
    /// Reads the tree below `root`. No symlink is followed, `root` itself excepted.
    ///
    /// # Errors
    /// The first path that cannot be read, named.
    pub fn read(root: &Path, options: &Options<'_>) -> io::Result<Self> {
        let mut reader = Reader { root, options, nodes: BTreeMap::new(), inodes: BTreeMap::new() };
        reader.visit(Path::new(""))?;
        let Reader { mut nodes, inodes, .. } = reader;
        for mut paths in inodes.into_values().filter(|paths| paths.len() > 1) {
            paths.sort();
            for path in &paths {
                if let Some(node) = nodes.get_mut(path) {
                    node.link_group = Some(paths[0].clone());
                }
            }
        }
        Ok(Self { nodes })
    }

    /// Reads two trees side by side.
    ///
    /// # Errors
    /// As [`Tree::read`].
    pub fn read_both(expected: &Path, found: &Path, options: &Options<'_>) -> io::Result<(Self, Self)> {
        thread::scope(|scope| {
            let other = scope.spawn(|| Self::read(found, options));
            let expected = Self::read(expected, options);
            Ok((expected?, other.join().expect("reading a tree does not panic")?))
        })
    }

    /// Lists what differs, in the order of the paths.
    pub fn differences(&self, found: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (path, node) in &self.nodes {
            match found.nodes.get(path) {
                Some(other) => node.differences(other, path, &mut differences),
                None => differences.push(one(path, "missing", node.kind.into(), "nothing".into())),
            }
        }
        for (path, node) in found.nodes.iter().filter(|(path, _)| !self.nodes.contains_key(*path)) {
            differences.push(one(path, "unexpected", "nothing".into(), node.kind.into()));
        }
        differences.sort_by(|a, b| a.path.cmp(&b.path));
        differences
    }

    /// Panics with the first 50 differences where there are any.
    ///
    /// # Panics
    /// Where the trees differ, or where both are empty, which would compare nothing.
    #[track_caller]
    pub fn assert_same(&self, found: &Self) {
        assert!(self.nodes.len() > 1, "the expected tree is empty");
        let differences = self.differences(found);
        if differences.is_empty() {
            return;
        }
        let lines: Vec<String> = differences.iter().take(50).map(ToString::to_string).collect();
        panic!("{} differences in {} paths:\n{}", differences.len(), self.nodes.len(), lines.join("\n"));
    }
}

impl Node {
    fn differences(&self, found: &Self, path: &[u8], out: &mut Vec<Difference>) {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let group = |node: &Self| node.link_group.as_deref().map_or("none".into(), text);
        let xattrs = |node: &Self| {
            let pairs: Vec<_> =
                node.xattrs.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect();
            format!("[{}]", pairs.join(", "))
        };
        let time = |node: &Self| format!("{}.{:09}", node.mtime.0, node.mtime.1);
        let fields = [
            ("kind", self.kind.to_owned(), found.kind.to_owned()),
            ("mode", format!("{:04o}", self.mode), format!("{:04o}", found.mode)),
            ("uid", self.uid.to_string(), found.uid.to_string()),
            ("gid", self.gid.to_string(), found.gid.to_string()),
            ("mtime", time(self), time(found)),
            ("size", self.size.to_string(), found.size.to_string()),
            ("sha256", self.sha256.clone(), found.sha256.clone()),
            ("target", text(&self.target), text(&found.target)),
            ("device", format!("{:?}", self.device), format!("{:?}", found.device)),
            ("xattrs", xattrs(self), xattrs(found)),
            ("link_group", group(self), group(found)),
        ];
        out.extend(fields.into_iter().filter(|(_, a, b)| a != b).map(|(what, a, b)| one(path, what, a, b)));
    }
}

fn one(path: &[u8], what: &'static str, expected: String, found: String) -> Difference {
    Difference { path: path.to_vec(), what, expected, found }
}

struct Reader<'a> {
    root: &'a Path,
    options: &'a Options<'a>,
    nodes: BTreeMap<Vec<u8>, Node>,
    inodes: BTreeMap<(u64, u64), Vec<Vec<u8>>>,
}

impl Reader<'_> {
    fn visit(&mut self, path: &Path) -> io::Result<()> {
        // With a dot a link is followed by the kernel: /proc/PID/root leads to another place than what it reads as.
        let full = self.root.join(if path.as_os_str().is_empty() { Path::new(".") } else { path });
        let metadata = fs::symlink_metadata(&full).map_err(|error| named(&full, error))?;
        let node = self.node(&full, &metadata).map_err(|error| named(&full, error))?;
        let name = path.as_os_str().as_bytes().to_vec();
        if !metadata.is_dir() && metadata.nlink() > 1 {
            self.inodes.entry((metadata.dev(), metadata.ino())).or_default().push(name.clone());
        }
        self.nodes.insert(name, node);
        if metadata.is_dir() {
            for entry in fs::read_dir(&full).map_err(|error| named(&full, error))? {
                let below = path.join(entry?.file_name());
                if !self.options.exclude.iter().any(|excluded| below == Path::new(excluded)) {
                    self.visit(&below)?;
                }
            }
        }
        Ok(())
    }

    fn node(&self, full: &Path, metadata: &Metadata) -> io::Result<Node> {
        let kind = metadata.file_type();
        let is_device = kind.is_char_device() || kind.is_block_device();
        let rdev = metadata.rdev();
        Ok(Node {
            kind: kind_name(kind),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            size: if kind.is_file() { metadata.len() } else { 0 },
            sha256: if kind.is_file() && self.options.contents { sha256_of_file(full)? } else { String::new() },
            target: if kind.is_symlink() { fs::read_link(full)?.into_os_string().into_vec() } else { Vec::new() },
            device: if is_device { (rustix::fs::major(rdev), rustix::fs::minor(rdev)) } else { (0, 0) },
            xattrs: self.xattrs(full)?,
            link_group: None,
        })
    }

    fn xattrs(&self, full: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        // 64 KiB is the kernel's own limit for the list and for a value (XATTR_LIST_MAX, XATTR_SIZE_MAX).
        let mut buffer = vec![0; 65_536];
        let length = match rustix::fs::llistxattr(full, &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::NOTSUP) => return Ok(BTreeMap::new()),
            Err(errno) => return Err(errno.into()),
        };
        let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let mut xattrs = BTreeMap::new();
        let mut value = vec![0; if length == 0 { 0 } else { 65_536 }];
        for name in names {
            if self.options.ignore_xattrs.iter().any(|ignored| name.starts_with(ignored.as_bytes())) {
                continue;
            }
            let length = rustix::fs::lgetxattr(full, OsStr::from_bytes(name), &mut value)?;
            xattrs.insert(name.to_vec(), value[..length].to_vec());
        }
        Ok(xattrs)
    }
}

fn kind_name(kind: fs::FileType) -> &'static str {
    match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () if kind.is_char_device() => "char device",
        () if kind.is_block_device() => "block device",
        () if kind.is_fifo() => "fifo",
        () => "socket",
    }
}

/// SHA-256 of a file's data, in hex.
///
/// # Errors
/// What opening and reading say.
pub fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", PathBuf::from(path).display()))
}

#[cfg(test)]
mod tests;
