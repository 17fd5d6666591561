// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

use stos_spec::{BlobDigest, DigestError};

use crate::store::ReadOnlyReason;

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The store was made by a version that this one does not understand.
    #[error("{}: the store needs {features:?}, which this version of stos does not know", path.display())]
    IncompatibleFormat {
        /// The format file.
        path: PathBuf,
        /// The features that are unknown.
        features: Vec<String>,
    },
    /// The format file is damaged, and must not be written anew.
    #[error("{} is not written anew: {reason}", path.display())]
    OtherFormat {
        /// The format file.
        path: PathBuf,
        /// What says, or may say, that another version wrote it.
        reason: String,
    },
    /// The store cannot be written to.
    #[error("{} can only be read: {reason}", path.display())]
    ReadOnly {
        /// DATA-ROOT.
        path: PathBuf,
        /// Why.
        reason: ReadOnlyReason,
    },
    /// A file of the store cannot be read as what it should be.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the store would be larger than what can be read again. It stays as it was.
    #[error("{} is not written: it would have {found} bytes, expected at most {max}", path.display())]
    RecordTooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        max: u64,
        /// How many it would have.
        found: u64,
    },
    /// A blob does not hash to its name.
    #[error("{} is damaged: {source}", path.display())]
    DamagedBlob {
        /// The blob's file.
        path: PathBuf,
        /// Expected and found.
        source: DigestError,
    },
    /// The store has no such blob.
    #[error("the store has no blob {0}")]
    NoSuchBlob(BlobDigest),
    /// The store has no such image.
    #[error("no such image: {0:?}")]
    NoSuchImage(String),
    /// More than one image fits.
    #[error("{query:?} may mean any of {candidates:?}")]
    AmbiguousImage {
        /// What was asked for.
        query: String,
        /// What fits.
        candidates: Vec<String>,
    },
    /// A container's id or name breaks the rules.
    #[error("{kind} {text:?} is not valid: {rule}")]
    InvalidName {
        /// `container id` or `container name`.
        kind: &'static str,
        /// As given, cut to 100 characters.
        text: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The name belongs to another container.
    #[error("the name {name:?} is taken by container {id}")]
    NameTaken {
        /// The name.
        name: String,
        /// Its container.
        id: String,
    },
    /// The name belongs to a pod.
    #[error("the name {name:?} is in use by pod {id}: pod already exists")]
    NameOfPod {
        /// The name.
        name: String,
        /// Its pod.
        id: String,
    },
    /// The container exists already.
    #[error("container {0} exists already")]
    ContainerExists(String),
}

/// The result of an operation on the store.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Gives a closure for `map_err` that says what was tried with which file.
    pub fn io<E: Into<io::Error>>(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// Tells whether a file or directory was simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Tells whether the disk could not give what it holds: `EIO`.
    pub fn is_unreadable(&self) -> bool {
        let eio = Some(rustix::io::Errno::IO.raw_os_error());
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == eio)
    }

    /// Tells whether the filesystem had no room left: `ENOSPC`, `EDQUOT`.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}
