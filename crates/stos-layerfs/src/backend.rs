// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What every way of keeping layers must be able to do, and which of them this host can have: found by trying it in the very
//! directory where it would be used.

use std::io::{Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stos_erofs::Merger;
use stos_spec::{BlobDigest, ChainId, DiffId};
use stos_store::files::{self, Durability};
use stos_store::{Staging, Store};
use stos_sys::SysError;
use stos_sys::mount::{MountPlan, UpperDirs};
use stos_sys::probe;

use crate::data::LayerData;
use crate::dirs::StackRecord;
use crate::erofs::chain::ChainRecord;
use crate::error::{Error, Result};
use crate::examine::Examined;
use crate::ingest::{IngestRequest, StageTimes};
use crate::seal::{Examination, Integrity};

/// A way of keeping layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Tars with an index; an image is one EROFS over them. Linux 6.12 with `EROFS_FS_BACKED_BY_FILE`.
    Erofs,
    /// Directories in overlayfs's own form, stacked.
    Dirs,
}

impl BackendKind {
    /// Gives all of them, the best first.
    pub const ALL: [Self; 2] = [Self::Erofs, Self::Dirs];

    /// Gives the other one.
    pub fn other(self) -> Self {
        match self {
            Self::Erofs => Self::Dirs,
            Self::Dirs => Self::Erofs,
        }
    }
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Erofs => "erofs",
            Self::Dirs => "dirs",
        })
    }
}

/// Where a layer comes from, for its record.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The media type of what it comes as.
    pub media_type: &'a str,
    /// `registry/repository`, or a word.
    pub source: &'a str,
    /// What it came as first, digest and size, where that is not what is read now.
    pub blob: Option<(BlobDigest, u64)>,
}

/// What the record of a layer says, whichever backend keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The layer.
    pub diff_id: DiffId,
    /// The blob that it came as.
    pub blob: BlobDigest,
    /// The blob's size in bytes.
    pub blob_size: u64,
    /// The blob's media type.
    pub media_type: String,
    /// Where the blob came from.
    pub source: String,
    /// How many entries its tar has.
    pub entries: u64,
    /// The length of its tar in bytes.
    pub tar_bytes: u64,
}

/// A layer in staging, proved, with its record: dropped, every trace of it goes.
#[derive(Debug)]
pub struct StagedLayer {
    /// The layer.
    pub diff_id: DiffId,
    /// Where the time went.
    pub times: StageTimes,
    pub(crate) staged: Staging,
}

/// The layers of an image as one backend shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    /// One EROFS.
    Erofs(ChainRecord),
    /// Stacked directories.
    Dirs(StackRecord),
}

impl Chain {
    /// Gives the chain's id.
    pub fn chain_id(&self) -> ChainId {
        match self {
            Self::Erofs(record) => record.chain_id,
            Self::Dirs(record) => record.chain_id,
        }
    }

    /// Tells the backend.
    pub fn kind(&self) -> BackendKind {
        match self {
            Self::Erofs(_) => BackendKind::Erofs,
            Self::Dirs(_) => BackendKind::Dirs,
        }
    }

    /// Gives the layers, the lowest first.
    pub fn layers(&self) -> Vec<DiffId> {
        match self {
            Self::Erofs(record) => record.layers.iter().map(|layer| layer.diff_id).collect(),
            Self::Dirs(record) => record.layers.iter().map(|layer| layer.diff_id).collect(),
        }
    }

    /// Gives how many bytes its layers' tars have, and what was made of them.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Erofs(record) => record.image.size + record.layers.iter().map(|layer| layer.tar.size).sum::<u64>(),
            Self::Dirs(record) => record.layers.iter().map(|layer| layer.tar_bytes).sum(),
        }
    }

    pub(crate) fn of_another_backend(&self, expected: BackendKind) -> Error {
        Error::OtherBackend { chain: self.chain_id(), expected, found: self.kind() }
    }
}

/// A way of keeping layers: the one contract of `erofs` and `dirs`. Both show identical trees.
///
/// **Locks** are the caller's: the layer's for what changes one, the right to sweep for what removes; a chain's own lock is
/// taken inside.
pub trait Backend {
    /// Tells which it is.
    fn kind(&self) -> BackendKind;
    /// Lists the layers it keeps, sorted.
    fn layers(&self) -> Result<Vec<DiffId>>;
    /// Lists the chains it has made, sorted.
    fn chains(&self) -> Result<Vec<ChainId>>;
    /// Reads a layer's record; `None` where it does not keep the layer, or the record is damaged.
    fn kept(&self, layer: DiffId) -> Result<Option<Kept>>;
    /// Tells by a few stats whether the layer is there and as it was when it was proved.
    fn is_layer_intact(&self, layer: DiffId) -> Result<bool>;
    /// Tells whether the layer is there and what was proved when it came: what looks changed is hashed, what can be made again
    /// is.
    fn has_layer(&self, layer: DiffId) -> Result<bool>;
    /// Reads a blob and stages its layer, proved.
    fn stage_layer(
        &self,
        request: IngestRequest<'_>,
        origin: Origin<'_>,
        source: &mut dyn Read,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<StagedLayer>;
    /// Makes a staged layer durable and visible, in place of a damaged one.
    fn commit_layer(&self, layer: StagedLayer) -> Result<()>;
    /// Writes the layer's tar to `out`, every byte of it, and gives its length. The caller hashes what it gets.
    fn copy_tar(&self, layer: DiffId, out: &mut dyn Write) -> Result<u64>;
    /// Opens what a layer consists of: its index, and the data of its files by the numbers of its entries. The layer must be
    /// intact.
    fn open_data(&self, layer: DiffId) -> Result<LayerData>;
    /// Takes a layer out of the store: it is gone, and deleted when what comes back is dropped. `None` where it is not there.
    fn take_layer(&self, layer: DiffId) -> Result<Option<Staging>>;
    /// Tells by a look for its record whether the chain has been made.
    fn has_chain(&self, chain: ChainId) -> bool;
    /// Makes sure that the chain of `layers`, the lowest first, is made, durable and sealed, and that every file that its mount
    /// reads is what was proved, as closely as `integrity` says. The backend must keep all of them.
    fn ensure_sound_chain(&self, layers: &[DiffId], integrity: Integrity) -> Result<Chain>;
    /// Tells whether there is something kept of the layer, damaged or not.
    fn has_form(&self, layer: DiffId) -> bool;
    /// Examines all that is kept of a layer, and heals nothing.
    ///
    /// # Errors
    /// What the process or the host is to blame for; damage is what is given.
    fn examine_layer(&self, layer: DiffId, how: Examination) -> Result<Examined>;
    /// Tells whether there is something kept of the chain, damaged or not.
    fn holds_chain(&self, chain: ChainId) -> bool;
    /// Gives the layers of a chain as its record says, the lowest first; `None` where there is none, or it is damaged.
    fn layers_of_chain(&self, chain: ChainId) -> Result<Option<Vec<DiffId>>>;
    /// Examines what was made of a chain's layers, and heals nothing. The layers are examined by themselves.
    ///
    /// # Errors
    /// What the process or the host is to blame for; damage is what is given.
    fn examine_chain(&self, chain: ChainId, how: Examination) -> Result<Examined>;
    /// Unmounts a chain and takes it out of the store, as [`take_layer`](Self::take_layer) does.
    fn take_chain(&self, chain: ChainId) -> Result<Option<Staging>>;
    /// Gives the place where a read-only view of the chain is mounted, or would be.
    fn chain_mount_point(&self, chain: ChainId) -> PathBuf;
    /// Makes sure that the view is mounted from the very files of `chain`, and gives the place.
    fn ensure_chain_mounted(&self, chain: &Chain) -> Result<PathBuf>;
    /// Detaches the view's mount, if there is one, unless another store made it.
    fn unmount_chain(&self, chain: ChainId) -> Result<()>;
    /// Gives the plan of a container's root: the chain, mounted, below, and the container's own directories above.
    fn container_plan(&self, chain: &Chain, upper: UpperDirs) -> Result<MountPlan>;
}

/// What trying found.
#[derive(Debug)]
pub struct BackendReport {
    /// Whether an EROFS image in DATA-ROOT can be mounted from its file.
    pub erofs: std::result::Result<(), SysError>,
    /// Whether DATA-ROOT can hold the upper directory of an overlay.
    pub overlay: std::result::Result<(), SysError>,
    /// Whether DATA-ROOT can hold what lower directories are made of, whiteouts above all.
    pub whiteouts: std::result::Result<(), SysError>,
}

impl BackendReport {
    /// Gives what stands in the way of a backend.
    pub fn obstacle(&self, kind: BackendKind) -> Option<&SysError> {
        let own = match kind {
            BackendKind::Erofs => &self.erofs,
            BackendKind::Dirs => &self.whiteouts,
        };
        own.as_ref().err().or(self.overlay.as_ref().err())
    }

    /// Gives what stands in the way of a backend, to be told.
    pub fn into_obstacle(self, kind: BackendKind) -> Option<SysError> {
        let own = match kind {
            BackendKind::Erofs => self.erofs,
            BackendKind::Dirs => self.whiteouts,
        };
        own.err().or(self.overlay.err())
    }

    /// Gives the best backend that nothing stands in the way of.
    pub fn best(&self) -> Option<BackendKind> {
        BackendKind::ALL.into_iter().find(|kind| self.obstacle(*kind).is_none())
    }
}

/// Tries what the backends need. Detached mounts only; nothing is left behind.
pub(crate) fn try_backends(store: &Store) -> Result<BackendReport> {
    let staged = store.stage()?;
    let image = staged.path().join("probe.erofs");
    let mut bytes = Vec::new();
    let empty = ChainId::of(b"");
    Merger::new().write(&mut bytes).map_err(|source| Error::Merge { chain: empty, source })?;
    files::write_new(&image, &bytes, Durability::Volatile)?;
    let erofs = probe::try_file_backed_erofs(&image);
    let overlay = probe::try_overlay_upper(staged.path());
    let whiteouts = probe::try_overlay_lower(staged.path());
    Ok(BackendReport { erofs, overlay, whiteouts })
}
