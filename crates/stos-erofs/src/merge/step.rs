// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is to be done to a directory, so that it goes on equalling a [`LayerTree`](super::LayerTree).

use super::MergeProblem;
use crate::Metadata;

/// One change of a directory in overlay form.
///
/// All paths are physical: relative to the directory, through no symbolic link, without `.` and `..`; the directory
/// itself is the empty path. The parent is always there, as a directory. A path may be longer than Linux takes in one piece
/// (4,096 bytes): symbolic links of the layer can lead that deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Make the directory; nothing stands there. It is implied by what lies below it: 0755, root:root, at the epoch.
    Imply {
        /// Where.
        path: &'a [u8],
    },
    /// Remove what stands there, with all below it.
    Remove {
        /// Where.
        path: &'a [u8],
    },
    /// The next [`Step::Remove`] takes the last name of the regular file of that entry. Its data are still needed:
    /// they are part of the tar, and the layers below may mean that the file is seen after all.
    Orphan {
        /// The entry's number, the first is 0.
        number: u64,
        /// One of its last names; it still stands there.
        path: &'a [u8],
    },
    /// The regular file of this entry gets no name, for by itself the layer has no directory where its path leads. Its
    /// data are needed as an orphan's are.
    Unplaced {
        /// The entry's number, the first is 0.
        number: u64,
    },
    /// The entry's own inode, with its metadata, goes here; nothing stands there.
    Create {
        /// Where.
        path: &'a [u8],
    },
    /// The entry is a directory and one stands there: it takes the entry's metadata.
    Update {
        /// Where.
        path: &'a [u8],
    },
    /// One more name for the file at `target`; nothing stands at `path`.
    Link {
        /// The new name.
        path: &'a [u8],
        /// A name of the file.
        target: &'a [u8],
    },
    /// Put a whiteout, for the name is removed from the layers below; nothing stands there.
    Whiteout {
        /// Where.
        path: &'a [u8],
    },
    /// Make the directory opaque, for all that the layers below have in it is removed. It may be so already. Overlayfs
    /// does not obey this at the root of a layer.
    Opaque {
        /// Where.
        path: &'a [u8],
    },
}

/// A directory as it must be in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryState {
    /// The physical path; empty for the root.
    pub path: Vec<u8>,
    /// Its metadata; those of a directory that is merely implied are 0755, root:root, the epoch.
    pub metadata: Metadata,
    /// Whether it hides what the layers below have in it.
    pub opaque: bool,
}

/// What stops a step: a problem of the layer or an error of who does the steps.
#[derive(Debug)]
pub(super) enum Fault<E> {
    Problem(MergeProblem),
    Caller(E),
}

impl<E> From<MergeProblem> for Fault<E> {
    fn from(problem: MergeProblem) -> Self {
        Self::Problem(problem)
    }
}
