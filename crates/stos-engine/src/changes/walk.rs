// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Walks through two trees side by side, the upper one deciding.
//!
//! Memory is the names of one directory for each level, and two descriptors. No path is ever looked up: each name is opened in its
//! directory's descriptor, without following it.

use std::collections::HashSet;

use super::data::data_differ;
use super::node::Node;
use super::{ChangeKind, MountPoints, hash_name};
use crate::error::{Error, Result};

/// How deep a tree may be: as many names as fit a path (`PATH_MAX`). A container can nest deeper by moving directories; no image
/// can hold that, and nobody can name it.
const DEPTH_MAX: usize = 2048;

/// What the two trees are to each other, and what is told of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The upper is an overlay's upper directory: changes are told. Every file in it is one.
    Overlay,
    /// Both are whole trees: differences are told.
    Trees,
    /// The upper is an overlay's upper directory: the whole of what the overlay shows is told, as if all were added.
    Union,
}

/// What is met on the way. Paths have no slash at their beginning; the root's is empty.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A file that is added or modified; a directory comes before what lies in it.
    Entry { kind: ChangeKind, path: &'a [u8], node: &'a Node },
    /// The directory just told of hides all that the lower one has.
    Opaque { path: &'a [u8] },
    /// A name of the lower tree that is gone. `is_hidden` says that an opaque directory above says so already.
    Deleted { path: &'a [u8], is_hidden: bool },
    /// A file that something is mounted on: what is below cannot be seen. Only where the walk stays on its mount.
    Covered { path: &'a [u8] },
}

type Visit<'a> = dyn FnMut(Event<'_>) -> Result<()> + 'a;

/// A directory on the way.
struct Frame {
    upper: Node,
    /// The lower tree's directory of the same path, if it has one.
    lower: Option<Node>,
    /// Whether the overlay shows what the lower one has.
    is_merged: bool,
    /// The names still to come.
    names: std::vec::IntoIter<Vec<u8>>,
    path_len: usize,
    /// What is to be told of the directory itself, once something in it is.
    pending: Option<ChangeKind>,
}

/// A walk in the making.
pub(crate) struct Walk {
    mode: Mode,
    points: MountPoints,
    path: Vec<u8>,
    frames: Vec<Frame>,
    roots: Option<(Node, Option<Node>)>,
    /// The hashes of the names whose files may have other data under the same metadata; `None`: all.
    pub(crate) written: Option<HashSet<u64>>,
    /// Whether what is mounted in the upper tree is left alone: a directory that is a mount point comes empty.
    pub(crate) stays_on_mount: bool,
    /// Names in the root that are passed over.
    pub(crate) leaves_out: &'static [&'static [u8]],
}

impl Walk {
    pub(crate) fn new(upper: Node, lower: Option<Node>, mode: Mode, points: MountPoints) -> Self {
        let roots = Some((upper, lower));
        Self {
            mode,
            points,
            path: Vec::new(),
            frames: Vec::new(),
            roots,
            written: None,
            stays_on_mount: false,
            leaves_out: &[],
        }
    }

    /// Walks from the roots to the end; ends early with the visitor's error.
    pub(crate) fn run(mut self, visit: &mut Visit<'_>) -> Result<()> {
        let Some((upper, lower)) = self.roots.take() else { return Ok(()) };
        let is_added = self.mode == Mode::Union || lower.is_none();
        let kind = if is_added { ChangeKind::Added } else { ChangeKind::Modified };
        let is_changed = self.mode == Mode::Union || lower.as_ref().map_or(Ok(true), |lower| differs(&upper, lower))?;
        self.enter(upper, lower, (self.mode != Mode::Trees, kind, is_changed), visit)?;
        while let Some(frame) = self.frames.last_mut() {
            self.path.truncate(frame.path_len);
            match frame.names.next() {
                Some(name) => self.visit_name(&name, visit).map_err(|error| self.at_path(error))?,
                None => drop(self.frames.pop()),
            }
        }
        Ok(())
    }

    /// A failed system call says the path that a person knows.
    fn at_path(&self, error: Error) -> Error {
        match error {
            Error::Sys(source) => Error::Tree { path: shown(&self.path), source },
            other => other,
        }
    }

    /// Goes into a directory: tells of it, or does so later.
    fn enter(
        &mut self,
        upper: Node,
        lower: Option<Node>,
        (is_merged, kind, is_changed): (bool, ChangeKind, bool),
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        if self.frames.len() == DEPTH_MAX {
            return Err(Error::TooDeep { path: shown(&self.path), limit: DEPTH_MAX });
        }
        if self.frames.len() == DESCRIPTORS_ASKED {
            ask_for_descriptors();
        }
        let mut names = upper.names()?;
        if let Some(lower) = lower.as_ref().filter(|_| self.needs_lower_names(is_merged)) {
            names.extend(lower.names()?);
            names.sort_unstable();
            names.dedup();
        }
        let (names, path_len) = (names.into_iter(), self.path.len());
        self.frames.push(Frame { upper, lower, is_merged, names, path_len, pending: Some(kind) });
        if is_changed { self.announce(visit) } else { Ok(()) }
    }

    /// Where the lower names are hidden, those that the upper lacks are gone; where a union is shown, they are part of it.
    fn needs_lower_names(&self, is_merged: bool) -> bool {
        match self.mode {
            Mode::Overlay => !is_merged,
            Mode::Trees => true,
            Mode::Union => is_merged,
        }
    }

    /// Tells of every directory on the way that has not been told of.
    fn announce(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        for frame in &mut self.frames {
            if let Some(kind) = frame.pending.take() {
                visit(Event::Entry { kind, path: &self.path[..frame.path_len], node: &frame.upper })?;
            }
        }
        Ok(())
    }

    fn visit_name(&mut self, name: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        if self.frames.len() == 1 && self.leaves_out.contains(&name) {
            return Ok(());
        }
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let is_merged = frame.is_merged;
        let lower = frame.lower.as_ref().map_or(Ok(None), |lower| lower.child(name))?;
        let upper = frame.upper.child(name)?;
        let is_whiteout = self.mode != Mode::Trees && upper.as_ref().is_some_and(Node::is_whiteout);
        match (upper, lower) {
            (Some(upper), lower) if !is_whiteout => self.visit_upper(upper, lower, is_merged, visit),
            (None, Some(lower)) if self.mode == Mode::Union && is_merged => self.visit_upper(lower, None, false, visit),
            // Where only the upper once had the name, nothing of it shows. And one that has gone since it was listed is no whiteout.
            (_, None) => Ok(()),
            (None, _) if self.mode == Mode::Overlay && is_merged => Ok(()),
            _ if self.mode == Mode::Union => Ok(()),
            (_, Some(_)) => {
                self.announce(visit)?;
                let is_hidden = self.mode == Mode::Overlay && !is_merged;
                visit(Event::Deleted { path: &self.path, is_hidden })
            }
        }
    }

    fn visit_upper(&mut self, upper: Node, lower: Option<Node>, is_merged: bool, visit: &mut Visit<'_>) -> Result<()> {
        let kind = match (self.mode, &lower) {
            (Mode::Union, _) | (_, None) => ChangeKind::Added,
            _ => ChangeKind::Modified,
        };
        if self.stays_on_mount && upper.is_mount_root()? {
            self.announce(visit)?;
            return match upper.is_directory() {
                true => visit(Event::Entry { kind, path: &self.path, node: &upper }),
                false => visit(Event::Covered { path: &self.path }),
            };
        }
        let is_of_stos = lower.is_none() && self.mode == Mode::Overlay && self.points.made(&self.path, &upper)?;
        if !upper.is_directory() {
            let is_same = match (self.mode, &lower) {
                (Mode::Trees, Some(lower)) => {
                    let may_differ = self.written.as_ref().is_none_or(|names| names.contains(&hash_name(&self.path)));
                    !(differs(&upper, lower)? || may_differ && data_differ(&upper, lower)?)
                }
                _ => is_of_stos,
            };
            if is_same {
                return Ok(());
            }
            self.announce(visit)?;
            return visit(Event::Entry { kind, path: &self.path, node: &upper });
        }
        let had_lower = lower.is_some();
        let lower = lower.filter(Node::is_directory);
        let is_opaque = is_merged && lower.is_some() && self.mode != Mode::Trees && upper.is_opaque()?;
        let is_changed = match &lower {
            _ if self.mode == Mode::Union => true,
            Some(lower) => is_opaque || differs(&upper, lower)?,
            None => had_lower || !is_of_stos,
        };
        let shows_lower = is_merged && lower.is_some() && !is_opaque;
        self.enter(upper, lower, (shows_lower, kind, is_changed), visit)?;
        if is_opaque && self.mode == Mode::Overlay { visit(Event::Opaque { path: &self.path }) } else { Ok(()) }
    }
}

/// From this depth on the usual 1,024 descriptors may not be enough: two for each level.
const DESCRIPTORS_ASKED: usize = 256;

/// Takes as many descriptors as the process may have. Where that is not enough, the walk fails with EMFILE.
fn ask_for_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Tells whether two files differ in what an image says of them, their data left aside. Of directories the size is none.
fn differs(upper: &Node, lower: &Node) -> Result<bool> {
    use rustix::fs::FileType;
    let kind = upper.file_type();
    let is_same = kind == lower.file_type()
        && match kind {
            FileType::RegularFile => upper.size() == lower.size(),
            FileType::Symlink => upper.target()? == lower.target()?,
            FileType::CharacterDevice | FileType::BlockDevice => upper.device() == lower.device(),
            _ => true,
        };
    Ok(!is_same || upper.metadata()? != lower.metadata()?)
}

/// A path for a message.
fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).escape_debug())
}
