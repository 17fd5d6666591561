// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files go into containers and come out of them, whether they run or not.
//!
//! | module | what it is |
//! |---|---|
//! | `view` | a container's root as its processes see it, held by a descriptor |
//! | `place` | what a path means there, and where a copy goes |
//! | `source` | a tree as a stream of entries |
//! | `sink` | a stream of entries as a tree |
//! | `replace` | a finished file takes its place |
//!
//! The container may be hostile and at work: it swaps directories for symlinks while they are copied (CVE-2018-15664). So no path of
//! it is ever looked up but by the kernel below its root's descriptor (openat2(2), `RESOLVE_IN_ROOT`), files are opened in their
//! directory's descriptor without following their names, and what is changed is what a descriptor refers to. Nothing of the
//! container is loaded or run for it (CVE-2019-14271). On our own side nothing below the target directory is followed.

mod place;
mod replace;
mod sink;
mod source;
mod view;

use std::ffi::OsStr;
use std::io::{BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use stos_erofs::{Names, TarWriter, index_tar_into};
use stos_sys::process::filesystem_ids::FilesystemIds;
use stos_sys::process::user_namespace::IdMappings;
use stos_sys::rooted::Root;

use crate::Engine;
use crate::changes::layer::TreeWriter;
use crate::container::ContainerRecord;
use crate::error::Result;
use crate::source::input::{ImageInput, RawInput, decompressed};

use place::{Place, is_contents};
use sink::{Rules, TreeSink};
use view::{ContainerView, Namespace};

/// How much of a tar is written at once.
const BUFFER: usize = 256 << 10;

/// Why something cannot be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// There is no such file.
    #[error("{path} does not exist in {side}")]
    Missing {
        /// As it was asked for.
        path: String,
        /// Where it was looked for.
        side: String,
    },
    /// A directory, or a tar, is to become what is there as a file.
    #[error("{path} is no directory: the destination of {what} must be one")]
    NoDirectory {
        /// As it was asked for.
        path: String,
        /// What is to go there.
        what: &'static str,
    },
    /// A directory stands in the way of something else, or something else in the way of a directory.
    #[error("cannot replace {path}, {found}, with {wanted}")]
    InTheWay {
        /// The path in the destination.
        path: String,
        /// What is there.
        found: &'static str,
        /// What is to be there.
        wanted: &'static str,
    },
    /// Files of the kernel have no size, and so no end that could be copied.
    #[error("{path} is the kernel's and cannot be copied: it lies on {filesystem}")]
    Kernels {
        /// As it was asked for.
        path: String,
        /// The type of the filesystem.
        filesystem: &'static str,
    },
    /// A directory is to be copied into itself.
    #[error("cannot copy {path} into itself")]
    IntoItself {
        /// As it was asked for.
        path: String,
    },
    /// A tar has a name that only a layer can have.
    #[error("the tar has {path}, which is a layer's mark for what is gone: such a name cannot be copied")]
    Whiteout {
        /// The path without the mark.
        path: String,
    },
    /// Somebody replaced what was just made.
    #[error("{path} was replaced while it was made")]
    Replaced {
        /// The path in the destination.
        path: String,
    },
    /// The container's user namespace has no such id.
    #[error("id {id} is not mapped into the container's user namespace")]
    Unmapped {
        /// The id inside.
        id: u32,
    },
}

/// How to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOptions {
    /// Whether what comes into a container belongs to its user, instead of whom it belonged to.
    pub archive: bool,
    /// Whether a directory may be replaced by something else, and the other way round.
    pub overwrite: bool,
}

/// One end of a copy.
#[derive(Debug, Clone, Copy)]
pub enum Endpoint<'a> {
    /// A path in a container; a relative one counts from its root.
    Container(&'a ContainerRecord, &'a Path),
    /// A path of the caller's own.
    Local(&'a Path),
}

/// An end of a copy that is open.
enum Side {
    Container(Box<ContainerView>),
    Local(Root),
}

impl Side {
    fn open(engine: &Engine, end: Endpoint<'_>, namespace: &mut Namespace) -> Result<(Self, PathBuf)> {
        Ok(match end {
            Endpoint::Container(record, path) => {
                (Self::Container(Box::new(ContainerView::open(engine, record, namespace)?)), path.to_owned())
            }
            Endpoint::Local(path) => {
                let here = std::env::current_dir().map_err(stos_store::Error::io("find", "the current directory"))?;
                // Not `join`: a dot at the end would go.
                let absolute = [here.as_os_str().as_bytes(), path.as_os_str().as_bytes()].join(&b'/');
                let path = if path.is_absolute() { path.to_owned() } else { OsStr::from_bytes(&absolute).into() };
                (Self::Local(Root::open(Path::new("/"))?), path)
            }
        })
    }

    fn root(&self) -> &Root {
        match self {
            Self::Container(view) => view.root(),
            Self::Local(root) => root,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Container(view) => format!("container {}", view.name()),
            Self::Local(_) => "this host".to_owned(),
        }
    }

    /// The numbers of users and groups there; empty where they are the host's.
    fn mappings(&self) -> IdMappings {
        match self {
            Self::Container(view) => view.mappings().clone(),
            Self::Local(_) => IdMappings::default(),
        }
    }

    /// Makes files here as who has an id here, as long as what comes back is held.
    fn filesystem_ids(&self) -> Result<Option<FilesystemIds>> {
        match self {
            Self::Container(view) => view.filesystem_ids(),
            Self::Local(_) => Ok(None),
        }
    }

    /// Whom what is copied here belongs to; `None` for whom it belonged to.
    fn owner(&self, archive: bool) -> Result<Option<(u32, u32)>> {
        match self {
            Self::Container(view) if archive => view.owner().map(Some),
            Self::Container(_) => Ok(None),
            Self::Local(_) => Ok(Some((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()))),
        }
    }
}

/// Copies a file or a directory with all in it, as podman-cp(1) says where it goes:
///
/// - a file to a path that does not exist, or to a file, becomes that; to a directory it goes into it under its own name
/// - a directory to a path that does not exist becomes that; to a directory it goes into it, or with `/.` at its end what is in it
///   does; to a file it cannot go
/// - a path with a slash at its end must be a directory
///
/// Symlinks on the way to either path, and at its end, are followed inside the container; below they are copied as they are.
/// Numbers of owners are each container's own, also where it has users of its own. Copied are modes, times and attributes of users. Where the owner is another, rights that come with a file go: its set-id bits and
/// `security.*` attributes. Out of a container come no devices and no sockets; of its root neither `dev`, `proc` nor `sys`.
/// Each file is there whole or not at all; a copy that fails leaves what it has copied.
///
/// A stopped container cannot be started while it is copied from or to.
pub fn copy(engine: &Engine, from: Endpoint<'_>, to: Endpoint<'_>, options: CopyOptions) -> Result<()> {
    let mut namespace = Namespace::default();
    let (source, target);
    let (from_path, to_path);
    // A container's view moves the process into a mount namespace of its own: paths of the host are looked up after that.
    if matches!(from, Endpoint::Container(..)) {
        (source, from_path) = Side::open(engine, from, &mut namespace)?;
        (target, to_path) = match to {
            // Its lock is held, or it runs.
            Endpoint::Container(record, path) if is_same(from, to) => {
                let Side::Container(view) = &source else { unreachable!("it is a container's") };
                (Side::Container(Box::new(view.again(record)?)), path.to_owned())
            }
            _ => Side::open(engine, to, &mut namespace)?,
        };
    } else {
        (target, to_path) = Side::open(engine, to, &mut namespace)?;
        (source, from_path) = Side::open(engine, from, &mut namespace)?;
    }
    let found = Place::source(source.root(), &from_path, &source.name())?;
    let goal = place::goal(target.root(), &to_path, &target.name(), &found, is_contents(&from_path))?;
    if is_same(from, to) {
        place::refuse_into_itself(target.root(), &goal.base, &found, &from_path)?;
    }
    let rules = Rules {
        owner: target.owner(options.archive)?,
        overwrite: options.overwrite,
        takes_devices: matches!(target, Side::Container(_)),
    };
    // On our own side the directory is held, and nothing below it is followed.
    let pinned;
    let mut sink = match &target {
        Side::Container(view) => TreeSink::following(view.root(), &goal.base, rules).with_ids(target.mappings()),
        Side::Local(root) => {
            pinned = Root::new(root.resolve(&goal.base)?);
            TreeSink::below(&pinned, rules)
        }
    };
    let is_root = source.root().is_root(found.node()?.as_fd())?;
    let _ids = target.filesystem_ids()?;
    source::feed(found.into_node()?, &goal.name, is_root, &source.mappings(), &mut sink)?;
    sink.finish()
}

/// Writes a file or a directory of a container as a tar, under its own name or, with `/.` at its end, what is in it. Numbers of
/// owners are those that the container sees.
pub fn copy_to_tar(engine: &Engine, container: &ContainerRecord, path: &Path, out: impl Write) -> Result<()> {
    let view = ContainerView::open(engine, container, &mut Namespace::default())?;
    let found = Place::source(view.root(), path, &format!("container {}", container.name))?;
    let prefix = match found.name() {
        Some(name) if !is_contents(path) => name.as_bytes().to_vec(),
        _ => Vec::new(),
    };
    let is_root = view.root().is_root(found.node()?.as_fd())?;
    let tar = TarWriter::with_names(BufWriter::with_capacity(BUFFER, out), Names::Free);
    let tar = TreeWriter::new(tar, format!("container {}", container.name), false);
    let mut tar = tar.with_ids(view.mappings().clone());
    source::write_tar(found.into_node()?, &prefix, is_root, &mut tar)?;
    let mut out = tar.finish()?;
    Ok(out.flush().map_err(stos_store::Error::io("write to", "the output"))?)
}

/// Unpacks a tar, plain or compressed with gzip or zstd, in a directory of a container. What it has read before it finds the tar
/// damaged stays.
pub fn copy_from_tar(
    engine: &Engine,
    input: ImageInput,
    container: &ContainerRecord,
    path: &Path,
    options: CopyOptions,
) -> Result<()> {
    let view = ContainerView::open(engine, container, &mut Namespace::default())?;
    let goal = place::directory(view.root(), path, &format!("container {}", container.name))?;
    let owner = if options.archive { Some(view.owner()?) } else { None };
    let rules = Rules { owner, overwrite: options.overwrite, takes_devices: true };
    let sink = TreeSink::following(view.root(), &goal, rules).with_ids(view.mappings().clone());
    let _ids = view.filesystem_ids()?;
    let (file, label) = match input {
        ImageInput::Stream(file, label) => (file, label),
        ImageInput::Path(path) => {
            let file = std::fs::File::open(&path).map_err(stos_store::Error::io("open", &path))?;
            (file, path.display().to_string())
        }
    };
    let stream = RawInput::new(file, &label)?;
    let compression = stream.compression;
    unpack(decompressed(stream, compression)?, sink)
}

fn unpack(tar: impl Read, sink: TreeSink<'_>) -> Result<()> {
    let failure = sink.failure();
    match index_tar_into(tar, std::io::sink(), sink) {
        Ok(indexed) => indexed.sink.finish(),
        // What the sink found wrong says more than that it did.
        Err(error) => Err(failure.take().unwrap_or_else(|| crate::Error::CopyTar { source: error })),
    }
}

fn is_same(one: Endpoint<'_>, other: Endpoint<'_>) -> bool {
    matches!((one, other), (Endpoint::Container(one, _), Endpoint::Container(other, _)) if one.id == other.id)
}
