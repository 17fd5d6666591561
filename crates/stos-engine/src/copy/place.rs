// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a path means, and where a copy goes.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use stos_spec::text::escape;
use stos_sys::SysError;
use stos_sys::rooted::{CGROUP_MAGIC, CGROUP2_MAGIC, PROC_MAGIC, Root, SYSFS_MAGIC, filesystem_magic};

use super::CopyError;
use crate::changes::Node;
use crate::error::{Error, Result};

/// How many symlinks a path may end with, one leading to the next (`MAXSYMLINKS`).
const LINKS: usize = 40;

/// What lies at a path, symlinks at its end followed.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory that it lies in, as a path.
    parent: PathBuf,
    /// Its name there; `None` for the root and for `..`.
    name: Option<OsString>,
    node: Option<Node>,
}

/// Where a copy goes.
#[derive(Debug)]
pub(super) struct Goal {
    /// A directory that exists, as a path.
    pub base: PathBuf,
    /// What the copy is called there; empty for what is in a directory, which goes into that one.
    pub name: Vec<u8>,
}

/// Tells whether a path means what is in a directory, not the directory.
pub(super) fn is_contents(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/.") || bytes == b"."
}

fn wants_directory(path: &Path) -> bool {
    is_contents(path) || path.as_os_str().as_bytes().ends_with(b"/")
}

impl Place {
    /// Looks where `path` leads inside a root.
    ///
    /// # Errors
    /// Where the directory that it should lie in is not there.
    fn find(root: &Root, path: &Path, side: &str) -> Result<Self> {
        let mut at = path.to_owned();
        for _ in 0..LINKS {
            let (Some(name), Some(parent)) = (at.file_name(), at.parent()) else {
                let node = missing_as_none(root.resolve(&at))?.map(Node::of).transpose()?;
                return Ok(Self { parent: at, name: None, node });
            };
            let Some(dir) = missing_as_none(root.resolve(parent))? else { return Err(missing(path, side)) };
            let node = open_child(&dir, name)?.map(Node::of).transpose()?;
            match node {
                Some(link) if link.file_type() == FileType::Symlink => {
                    at = parent.join(OsString::from_vec(link.target()?));
                }
                node => return Ok(Self { parent: parent.to_owned(), name: Some(name.to_owned()), node }),
            }
        }
        Err(SysError::new("openat2", path.display().to_string(), Errno::LOOP).into())
    }

    /// The same for what is to be copied.
    pub fn source(root: &Root, path: &Path, side: &str) -> Result<Self> {
        let found = Self::existing(root, path, side)?;
        refuse_kernels(found.node()?, path)?;
        Ok(found)
    }

    /// The same for what must be there.
    pub fn existing(root: &Root, path: &Path, side: &str) -> Result<Self> {
        let found = Self::find(root, path, side)?;
        match &found.node {
            None => Err(missing(path, side)),
            Some(node) if wants_directory(path) && !node.is_directory() => {
                Err(SysError::new("openat2", shown(path), Errno::NOTDIR).into())
            }
            Some(_) => Ok(found),
        }
    }

    pub fn node(&self) -> Result<&Node> {
        self.node.as_ref().ok_or_else(|| missing(&self.parent, "it"))
    }

    pub fn into_node(self) -> Result<Node> {
        self.node.ok_or_else(|| missing(&self.parent, "it"))
    }

    pub fn name(&self) -> Option<&OsStr> {
        self.name.as_deref()
    }

    fn path(&self) -> PathBuf {
        self.name.as_ref().map_or_else(|| self.parent.clone(), |name| self.parent.join(name))
    }

    fn is_directory(&self) -> bool {
        self.node.as_ref().is_some_and(Node::is_directory)
    }
}

/// Files of procfs and sysfs say that they are empty, and nothing more would be copied.
fn refuse_kernels(node: &Node, path: &Path) -> Result<()> {
    let filesystem = match filesystem_magic(node.as_fd())? {
        PROC_MAGIC => "proc",
        SYSFS_MAGIC => "sysfs",
        CGROUP_MAGIC | CGROUP2_MAGIC => "cgroup",
        _ => return Ok(()),
    };
    Err(CopyError::Kernels { path: shown(path), filesystem }.into())
}

fn open_child(dir: &OwnedFd, name: &OsStr) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(dir, name, flags, Mode::empty());
    missing_as_none(opened.map_err(SysError::at("openat", || shown(Path::new(name)))))
}

fn missing_as_none(found: std::result::Result<OwnedFd, SysError>) -> Result<Option<OwnedFd>> {
    match found {
        Err(error) if error.errno == Errno::NOENT => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn missing(path: &Path, side: &str) -> Error {
    CopyError::Missing { path: shown(path), side: side.to_owned() }.into()
}

fn shown(path: &Path) -> String {
    escape(&path.to_string_lossy()).into_owned()
}

/// Says where what was found goes in `root`, for somebody who wants it at `path`.
pub(super) fn goal(root: &Root, path: &Path, side: &str, source: &Place, is_contents: bool) -> Result<Goal> {
    let target = Place::find(root, path, side)?;
    if target.is_directory() {
        let name = source.name().filter(|_| !is_contents).map(|name| name.as_bytes().to_vec());
        return Ok(Goal { base: target.path(), name: name.unwrap_or_default() });
    }
    if target.node.is_none() && wants_directory(path) {
        return Err(missing(path, side));
    }
    if target.node.is_some() && (source.is_directory() || wants_directory(path)) {
        let what = if source.is_directory() { "a directory" } else { "a path that ends with a slash" };
        return Err(CopyError::NoDirectory { path: shown(path), what }.into());
    }
    match target.name {
        Some(name) => Ok(Goal { base: target.parent, name: name.into_vec() }),
        None => Err(missing(path, side)),
    }
}

/// Gives the directory that a tar is unpacked in.
pub(super) fn directory(root: &Root, path: &Path, side: &str) -> Result<PathBuf> {
    let target = Place::existing(root, path, side)?;
    match target.is_directory() {
        true => Ok(target.path()),
        false => Err(CopyError::NoDirectory { path: shown(path), what: "a tar" }.into()),
    }
}

/// Refuses to copy a directory to where it holds the copy itself, which would have no end.
pub(super) fn refuse_into_itself(root: &Root, base: &Path, source: &Place, path: &Path) -> Result<()> {
    let failed = |call| SysError::at(call, || shown(base));
    let of = fstat(source.node()?).map_err(failed("fstat"))?;
    let mut at = root.resolve(base)?;
    if !source.is_directory() {
        return Ok(());
    }
    loop {
        let stat = fstat(&at).map_err(failed("fstat"))?;
        if (stat.st_dev, stat.st_ino) == (of.st_dev, of.st_ino) {
            return Err(CopyError::IntoItself { path: shown(path) }.into());
        }
        if root.is_root(at.as_fd())? {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = openat(&at, "..", flags, Mode::empty()).map_err(failed("openat"))?;
        let up = fstat(&above).map_err(failed("fstat"))?;
        if (up.st_dev, up.st_ino) == (stat.st_dev, stat.st_ino) {
            return Ok(());
        }
        at = above;
    }
}
