// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong with layers, with what was expected and what was found.

use std::io;
use std::path::PathBuf;

use stos_spec::{BlobDigest, ChainId, DiffId};
use stos_sys::SysError;

use crate::backend::BackendKind;

/// What people call a layer on its way in: by its blob, or by where it comes from if nobody has promised a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerLabel {
    /// The blob that it comes as.
    Blob(BlobDigest),
    /// Where it comes from.
    Origin(String),
}

impl From<BlobDigest> for LayerLabel {
    fn from(blob: BlobDigest) -> Self {
        Self::Blob(blob)
    }
}

impl std::fmt::Display for LayerLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blob(blob) => blob.fmt(f),
            Self::Origin(origin) => f.write_str(origin),
        }
    }
}

/// What LayerFS could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] stos_store::Error),
    /// The blob could not be read from where it comes from.
    #[error("layer {layer}: cannot read the blob: {source}")]
    Source {
        /// The layer.
        layer: LayerLabel,
        /// The reader's error; it may hold a registry's.
        source: io::Error,
    },
    /// The blob's bytes are not those that its descriptor promised.
    #[error("layer {blob}: expected blob digest {blob}, found {found}")]
    BlobDigest {
        /// What was promised.
        blob: BlobDigest,
        /// What came.
        found: BlobDigest,
    },
    /// The blob is longer or shorter than its descriptor promised.
    #[error("layer {blob}: expected {expected} bytes, found {found}")]
    BlobSize {
        /// The blob.
        blob: BlobDigest,
        /// What was promised, in bytes.
        expected: u64,
        /// What came, in bytes; where more came, the count at which reading stopped.
        found: u64,
    },
    /// The uncompressed layer is not the one that the image's configuration names.
    #[error("layer {layer}: expected diffID {expected}, found {found}")]
    DiffId {
        /// The layer.
        layer: LayerLabel,
        /// What the configuration says.
        expected: DiffId,
        /// What came out.
        found: DiffId,
    },
    /// The blob does not inflate.
    #[error("layer {layer}: cannot decompress it: {source}")]
    Decompress {
        /// The layer.
        layer: LayerLabel,
        /// What the decoder says.
        source: io::Error,
    },
    /// The layer would grow beyond what the disk can take: a bomb, or a disk too small.
    #[error("layer {layer}: it grows beyond {limit} bytes when decompressed, which is what the disk has room for")]
    TooLarge {
        /// The layer.
        layer: LayerLabel,
        /// The bound, in bytes.
        limit: u64,
    },
    /// The disk is nearly full while the layer is being written; what is left is not the layer's to take.
    #[error(
        "layer {layer}: the disk is nearly full: {free} bytes are free after {written} of it, and {reserve} must stay"
    )]
    NoRoom {
        /// The layer.
        layer: LayerLabel,
        /// How many bytes of the layer had been written.
        written: u64,
        /// How many bytes the disk had free then.
        free: u64,
        /// How many must stay free.
        reserve: u64,
    },
    /// The filesystem has nearly no inodes left while the layer is being unpacked.
    #[error("layer {layer}: the filesystem is nearly out of inodes: {free} are free, and {reserve} must stay")]
    NoInodes {
        /// The layer.
        layer: LayerLabel,
        /// How many inodes were free then.
        free: u64,
        /// How many must stay free.
        reserve: u64,
    },
    /// More layers than can be stacked.
    #[error("chain {chain}: expected at most {limit} layers, for overlayfs stacks no more, found {found}")]
    TooManyLayers {
        /// The chain.
        chain: ChainId,
        /// How many can be stacked.
        limit: usize,
        /// How many there are.
        found: usize,
    },
    /// The layer could not be written to disk.
    #[error("layer {layer}: {source}")]
    Write {
        /// The layer.
        layer: LayerLabel,
        /// What the disk refused.
        source: stos_store::Error,
    },
    /// The layer's tar cannot be used.
    #[error("layer {layer}: {source}")]
    Tar {
        /// The layer.
        layer: LayerLabel,
        /// Which entry breaks which rule.
        source: stos_erofs::Error,
    },
    /// A layer that is needed is not in the store.
    #[error("layer {0} is not in the store")]
    NoSuchLayer(DiffId),
    /// A layer's file is not what was proved when it came.
    #[error("layer {layer} is damaged: {}: expected {expected}, found {found}", path.display())]
    DamagedLayer {
        /// The layer.
        layer: DiffId,
        /// The file.
        path: PathBuf,
        /// Its size or digest when it was sealed.
        expected: String,
        /// Its size or digest now.
        found: String,
    },
    /// Something that was unpacked differs from what its layer says, and only a store that can be written to can tell by trying
    /// whether that is all that its filesystem keeps.
    #[error(
        "{}: expected {expected}, found {found}: whether that is all that the filesystem keeps of it can be tried only in a store \
         that can be written to", path.display()
    )]
    Undecided {
        /// The file or directory.
        path: PathBuf,
        /// What the layer says.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A chain's image is not what was proved when it was made.
    #[error("the image of chain {chain} is damaged: {}: expected {expected}, found {found}", path.display())]
    DamagedChain {
        /// The chain.
        chain: ChainId,
        /// The file.
        path: PathBuf,
        /// Its size or digest when it was sealed.
        expected: String,
        /// Its size or digest now.
        found: String,
    },
    /// The layers contradict each other, or the image's metadata cannot be written.
    #[error("cannot merge the layers of chain {chain}: {source}")]
    Merge {
        /// The chain.
        chain: ChainId,
        /// Which entry of which layer breaks which rule.
        source: stos_erofs::Error,
    },
    /// The kernel refused a mount.
    #[error("cannot mount chain {chain}: {source}")]
    Mount {
        /// The chain.
        chain: ChainId,
        /// The system call.
        source: SysError,
    },
    /// Something has unmounted the chain between its check and its use.
    #[error("chain {chain} is not mounted at {}: expected its image there, found none", path.display())]
    NotMounted {
        /// The chain.
        chain: ChainId,
        /// Its mount point.
        path: PathBuf,
    },
    /// This host cannot have the backend.
    #[error("this host cannot have the layer backend `{kind}` in {}: {source}", path.display())]
    NoBackend {
        /// The backend.
        kind: BackendKind,
        /// DATA-ROOT.
        path: PathBuf,
        /// What the kernel said when it was tried.
        source: SysError,
    },
    /// A chain of one backend was given to another.
    #[error("chain {chain}: expected one of the backend `{expected}`, found one of `{found}`")]
    OtherBackend {
        /// The chain.
        chain: ChainId,
        /// Whose it must be.
        expected: BackendKind,
        /// Whose it is.
        found: BackendKind,
    },
    /// A layer was being applied to a directory when the disk failed.
    #[error("{} holds a part of the layer now: {source}", target.display())]
    HalfApplied {
        /// The directory.
        target: PathBuf,
        /// What failed.
        source: Box<Error>,
    },
    /// A layer was to go from a store to that store.
    #[error("{} is the data root that the layers are in: expected another one", path.display())]
    SameStore {
        /// The store.
        path: PathBuf,
    },
    /// An image of no layers.
    #[error("the image has no layers")]
    NoLayers,
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// The result of an operation on layers.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Gives a closure for `map_err` that says what was tried with which file.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl AsRef<std::path::Path>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Store(stos_store::Error::io(action, path)(source))
    }

    /// Says of which layer a file is that could not be written.
    pub(crate) fn while_writing(self, layer: impl Into<LayerLabel>) -> Self {
        match self {
            Self::Store(source) => Self::Write { layer: layer.into(), source },
            other => other,
        }
    }
}
