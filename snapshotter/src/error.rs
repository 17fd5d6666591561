// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong, and the gRPC code by which containerd knows it.

use std::path::PathBuf;

use stos_config::Place;
use tonic::{Code, Status};

/// What went wrong.
///
/// The codes are those of containerd's own snapshotters (containerd, core/snapshots/storage/bolt.go and errdefs): it decides by them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such snapshot.
    #[error("snapshot {0}: not found")]
    NotFound(String),
    /// There is one already; or its layer is, where a layer was to be unpacked.
    #[error("snapshot {0}: already exists")]
    AlreadyExists(String),
    /// The snapshot is in no state for that.
    #[error("snapshot {name}: {reason}")]
    Precondition {
        /// The snapshot.
        name: String,
        /// Why.
        reason: String,
    },
    /// What was asked for means nothing.
    #[error("{what}: {reason}")]
    Invalid {
        /// The part of the request.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The snapshot's own record cannot be read.
    #[error("snapshot {number}: {source}")]
    Damaged {
        /// Its number in the store.
        number: u64,
        /// Why not.
        source: stos_store::Error,
    },
    /// Another process serves the store.
    #[error("{}: another snapshotter serves this store", path.display())]
    Served {
        /// The directory that it holds.
        path: PathBuf,
    },
    /// A path cannot stand in the options of an overlay.
    #[error("{}: a path with ':', ',' or '\\' cannot stand in the options of an overlay", path.display())]
    UnfitPath {
        /// The path.
        path: PathBuf,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] stos_store::Error),
    /// LayerFS failed.
    #[error(transparent)]
    Layers(#[from] stos_layerfs::Error),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] stos_engine::Error),
    /// The signature policy does not accept the image, or its registry is blocked: nobody may unpack it either.
    #[error("image {image}: {source}")]
    Refused {
        /// The image.
        image: String,
        /// Why not.
        source: Box<stos_engine::Error>,
    },
    /// The signature policy wants a signature of the image, and no pull has shown one: nobody may unpack it either.
    #[error("image {image} is not accepted: {required_by} requires a signature, and none was seen: {reason}")]
    Unproved {
        /// The image.
        image: String,
        /// What requires it.
        required_by: Place,
        /// Why the image was not pulled.
        reason: String,
    },
    /// The configuration file cannot be used.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A socket cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Its address.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// What most functions here give.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an [`Error::Precondition`].
    pub fn precondition(name: &str, reason: impl Into<String>) -> Self {
        Self::Precondition { name: name.to_owned(), reason: reason.into() }
    }

    /// Makes an [`Error::Invalid`].
    pub fn invalid(what: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.to_owned(), reason: reason.into() }
    }

    /// Gives the code by which containerd knows it.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::Precondition { .. } => Code::FailedPrecondition,
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::Damaged { .. } => Code::DataLoss,
            Self::Refused { .. } | Self::Unproved { .. } => Code::PermissionDenied,
            Self::Store(stos_store::Error::RecordTooLarge { .. }) => Code::InvalidArgument,
            Self::Engine(stos_engine::Error::StoreBusy { .. }) | Self::Served { .. } => Code::Unavailable,
            _ => Code::Internal,
        }
    }
}

/// Gives an error with all that caused it, on one line.
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many of ours tell their cause themselves.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), chain_of(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_code_that_containerd_expects() {
        let io = || stos_store::Error::io("read", "/x")(std::io::Error::other("no"));
        for (error, code) in [
            (Error::NotFound("x".into()), Code::NotFound),
            (Error::AlreadyExists("x".into()), Code::AlreadyExists),
            (Error::precondition("x", "no"), Code::FailedPrecondition),
            (Error::invalid("name", "empty"), Code::InvalidArgument),
            (Error::Damaged { number: 1, source: io() }, Code::DataLoss),
            (Error::Store(io()), Code::Internal),
            (Error::Engine(stos_engine::Error::StoreBusy { path: "/".into() }), Code::Unavailable),
            (Error::Served { path: "/".into() }, Code::Unavailable),
            (Error::UnfitPath { path: "/a:b".into() }, Code::Internal),
        ] {
            let text = error.to_string();
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{text}");
            assert!(status.message().starts_with(&text), "{text}");
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let told = chain_of(&Error::Store(stos_store::Error::io("read", "/x")(std::io::Error::other("disk is gone"))));
        assert_eq!(told.matches("disk is gone").count(), 1, "{told}");
    }
}
