// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `dirs` backend: each layer unpacked to a directory of its own in overlayfs's form, the directories stacked. For kernels
//! that cannot mount EROFS from a file, and for filesystems that cannot back such a mount.
//!
//! ```text
//! DATA-ROOT/dirs/layers/sha256/<diffID>/   diff/         what the layer puts, whiteouts and all             [unpack, inode]
//!                                          orphans/<n>   files of entries that have no name in diff/
//!                                          layer.index   what the tar holds
//!                                          layer.rest    the tar without the data of files, gzipped        [rest]
//!                                          layer.json    what was seen, the seals                          [layer]
//! DATA-ROOT/dirs/old/<hex>-<n>/            what was replaced, until no container can stand on it
//! DATA-ROOT/dirs/chains/sha256/<chainID>/  top/          corrections: what no layer could know alone       [stack]
//!                                          stack.json    which directories, and their seals
//! ROOT/chains/<chainID>.dirs               a read-only view of the stack                                   [mount]
//! ```
//!
//! A layer can be applied to any directory in the same way: [`apply_tar`].
//!
//! `diff/` and `layer.rest` together are the tar: it is made again, and hashed, where every byte is to be proved.
//!
//! **What a filesystem cannot hold** that EROFS can: times before 1901 or after 2446 (ext4), attributes of more than a block
//! (ext4, ENOSPC). A stack has at most 499 layers.

mod apply;
mod copy;
mod examine;
mod inode;
mod layer;
mod mount;
mod rest;
mod stack;
mod top;
mod unpack;
mod verify;
mod walk;

pub use apply::{Applied, apply_tar};
pub use layer::DirsLayerRecord;
pub(crate) use rest::{Files, Places};
pub use stack::{StackRecord, StackedLayer};
pub(crate) use unpack::{Orphans, UnpackError, Unpacker};

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stos_spec::{ChainId, DiffId};
use stos_store::{Staging, Store, files};
use stos_sys::mount::{MountPlan, UpperDirs};

use crate::backend::{Backend, BackendKind, Chain, Kept, Origin, StagedLayer};
use crate::data::LayerData;
use crate::error::Result;
use crate::examine::Examined;
use crate::ingest::IngestRequest;
use crate::mounts::Mounts;
use crate::seal::{Examination, Integrity};

/// The backend, over one store and one ROOT.
#[derive(Debug, Clone)]
pub struct Dirs {
    pub(crate) store: Store,
    pub(crate) mounts: Mounts,
}

/// A layer or a chain that was made anew while somebody may have stood on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Its digest's hexadecimal digits.
    pub digits: String,
    /// Where it lies.
    pub path: PathBuf,
    /// When it was replaced: the rename that moved it here changed its inode.
    pub since: SystemTime,
}

impl Dirs {
    pub(crate) fn new(store: &Store, run_root: &Path) -> Self {
        Self { store: store.clone(), mounts: Mounts::new(run_root, store.root()) }
    }

    /// Gives the directory of all layers, there or not.
    pub fn layers_dir(&self) -> PathBuf {
        self.store.root().join("dirs/layers/sha256")
    }

    /// Gives the directory of all chains, there or not.
    pub fn chains_dir(&self) -> PathBuf {
        self.store.root().join("dirs/chains/sha256")
    }

    /// Gives the directory of what was replaced, there or not. A name in it begins with the digits of a layer or chain, and a `-`.
    pub fn replaced_dir(&self) -> PathBuf {
        self.store.root().join("dirs/old")
    }

    /// Gives a place for an object that is replaced: unlike a mounted image, a stack loses what is removed below it.
    fn old_dir(&self, hex: impl std::fmt::Display) -> Result<PathBuf> {
        let dir = self.replaced_dir();
        files::ensure_directory(&dir)?;
        Ok(dir.join(format!("{hex}-{}", files::unique_name())))
    }

    /// Lists what was replaced, until no container stands on it.
    pub fn replaced(&self) -> Result<Vec<Replaced>> {
        let dir = self.replaced_dir();
        let mut found = Vec::new();
        for name in files::list_names(&dir)? {
            let path = dir.join(&name);
            // One that has gone meanwhile is none.
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
            let since = UNIX_EPOCH + Duration::new(metadata.ctime().unsigned_abs(), nanoseconds);
            let digits = name.split('-').next().unwrap_or_default().to_owned();
            found.push(Replaced { digits, path, since });
        }
        Ok(found)
    }

    /// Gives the directory of a layer, there or not.
    pub fn layer_dir(&self, layer: DiffId) -> PathBuf {
        self.layers_dir().join(layer.hex())
    }

    /// Gives the directory of a chain, there or not.
    pub fn chain_dir(&self, chain: ChainId) -> PathBuf {
        self.chains_dir().join(chain.hex())
    }
}

impl Backend for Dirs {
    fn kind(&self) -> BackendKind {
        BackendKind::Dirs
    }

    fn layers(&self) -> Result<Vec<DiffId>> {
        let names = files::list_names(&self.layers_dir())?;
        Ok(names.iter().filter_map(|name| DiffId::from_hex(name)).collect())
    }

    fn chains(&self) -> Result<Vec<ChainId>> {
        let names = files::list_names(&self.chains_dir())?;
        Ok(names.iter().filter_map(|name| ChainId::from_hex(name)).collect())
    }

    fn kept(&self, layer: DiffId) -> Result<Option<Kept>> {
        let kept = |record: DirsLayerRecord| Kept {
            diff_id: record.diff_id,
            blob: record.blob,
            blob_size: record.blob_size,
            media_type: record.media_type,
            source: record.source,
            entries: record.entries,
            tar_bytes: record.tar_bytes,
        };
        Ok(self.layer_record(layer)?.map(kept))
    }

    fn is_layer_intact(&self, layer: DiffId) -> Result<bool> {
        Self::is_layer_intact(self, layer)
    }

    fn has_layer(&self, layer: DiffId) -> Result<bool> {
        Self::has_layer(self, layer)
    }

    fn stage_layer(
        &self,
        request: IngestRequest<'_>,
        origin: Origin<'_>,
        source: &mut dyn Read,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<StagedLayer> {
        Self::stage_layer(self, request, origin, source, progress)
    }

    fn commit_layer(&self, layer: StagedLayer) -> Result<()> {
        Self::commit_layer(self, layer)
    }

    fn copy_tar(&self, layer: DiffId, out: &mut dyn Write) -> Result<u64> {
        self.need_layer(layer)?;
        Self::copy_tar(self, layer, out)
    }

    fn open_data(&self, layer: DiffId) -> Result<LayerData> {
        self.need_layer(layer)?;
        let places = self.places(layer)?;
        Ok(LayerData::of_directory(layer, self.layer_dir(layer), places))
    }

    fn take_layer(&self, layer: DiffId) -> Result<Option<Staging>> {
        Ok(self.store.take_object(&self.layer_dir(layer))?)
    }

    fn has_chain(&self, chain: ChainId) -> bool {
        self.stack_record_path(chain).exists()
    }

    fn ensure_sound_chain(&self, layers: &[DiffId], integrity: Integrity) -> Result<Chain> {
        self.ensure_sound_stack(layers, integrity).map(Chain::Dirs)
    }

    fn examine_layer(&self, layer: DiffId, how: Examination) -> Result<Examined> {
        Self::examine_layer(self, layer, how)
    }

    fn examine_chain(&self, chain: ChainId, how: Examination) -> Result<Examined> {
        Self::examine_chain(self, chain, how)
    }

    fn layers_of_chain(&self, chain: ChainId) -> Result<Option<Vec<DiffId>>> {
        Ok(self.record_of_chain(chain)?.map(|record| record.layers.iter().map(|layer| layer.diff_id).collect()))
    }

    fn has_form(&self, layer: DiffId) -> bool {
        self.layer_dir(layer).is_dir()
    }

    fn holds_chain(&self, chain: ChainId) -> bool {
        self.chain_dir(chain).is_dir()
    }

    fn take_chain(&self, chain: ChainId) -> Result<Option<Staging>> {
        self.mounts.unmount(BackendKind::Dirs, chain)?;
        Ok(self.store.take_object(&self.chain_dir(chain))?)
    }

    fn chain_mount_point(&self, chain: ChainId) -> PathBuf {
        self.mounts.point(BackendKind::Dirs, chain)
    }

    fn ensure_chain_mounted(&self, chain: &Chain) -> Result<PathBuf> {
        match chain {
            Chain::Dirs(record) => self.ensure_stack_mounted(record),
            Chain::Erofs(_) => Err(chain.of_another_backend(BackendKind::Dirs)),
        }
    }

    fn unmount_chain(&self, chain: ChainId) -> Result<()> {
        self.mounts.unmount(BackendKind::Dirs, chain)
    }

    fn container_plan(&self, chain: &Chain, upper: UpperDirs) -> Result<MountPlan> {
        match chain {
            Chain::Dirs(record) => Ok(MountPlan { lowers: self.lowers(record), upper: Some(upper), ids: None }),
            Chain::Erofs(_) => Err(chain.of_another_backend(BackendKind::Dirs)),
        }
    }
}
