// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `erofs` backend: a layer is its tar, an image one EROFS over the tars of its layers.
//!
//! ```text
//! DATA-ROOT/layers/sha256/<diffID>/   layer.tar, layer.index, layer.json (what was seen, the seals)       [layer]
//! DATA-ROOT/chains/sha256/<chainID>/  image.erofs, chain.json (its seal, and those of its layers)         [chain]
//! ROOT/chains/<chainID>               the mount                                                           [mount]
//! ```

pub mod chain;
mod examine;
pub mod layer;
mod mount;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use stos_spec::{ChainId, DiffId};
use stos_store::{Staging, Store};
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
pub struct Erofs {
    pub(crate) store: Store,
    pub(crate) mounts: Mounts,
}

impl Erofs {
    pub(crate) fn new(store: &Store, run_root: &Path) -> Self {
        Self { store: store.clone(), mounts: Mounts::new(run_root, store.root()) }
    }
}

impl Backend for Erofs {
    fn kind(&self) -> BackendKind {
        BackendKind::Erofs
    }

    fn layers(&self) -> Result<Vec<DiffId>> {
        Ok(self.store.layers()?)
    }

    fn chains(&self) -> Result<Vec<ChainId>> {
        Ok(self.store.chains()?)
    }

    fn kept(&self, layer: DiffId) -> Result<Option<Kept>> {
        let kept = |record: layer::LayerRecord| Kept {
            diff_id: record.diff_id,
            blob: record.blob,
            blob_size: record.blob_size,
            media_type: record.media_type,
            source: record.source,
            entries: record.entries,
            tar_bytes: record.tar.size,
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
        Self::copy_tar(self, layer, out)
    }

    fn open_data(&self, layer: DiffId) -> Result<LayerData> {
        self.need_layer(layer)?;
        Ok(LayerData::of_tar(layer, self.store.layer_dir(layer)))
    }

    fn take_layer(&self, layer: DiffId) -> Result<Option<Staging>> {
        Ok(self.store.take_object(&self.store.layer_dir(layer))?)
    }

    fn has_chain(&self, chain: ChainId) -> bool {
        self.chain_record_path(chain).exists()
    }

    fn ensure_sound_chain(&self, layers: &[DiffId], integrity: Integrity) -> Result<Chain> {
        Self::ensure_sound_chain(self, layers, integrity).map(Chain::Erofs)
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
        self.store.layer_dir(layer).is_dir()
    }

    fn holds_chain(&self, chain: ChainId) -> bool {
        self.store.chain_dir(chain).is_dir()
    }

    fn take_chain(&self, chain: ChainId) -> Result<Option<Staging>> {
        Self::unmount_chain(self, chain)?;
        Ok(self.store.take_object(&self.store.chain_dir(chain))?)
    }

    fn chain_mount_point(&self, chain: ChainId) -> PathBuf {
        Self::chain_mount_point(self, chain)
    }

    fn ensure_chain_mounted(&self, chain: &Chain) -> Result<PathBuf> {
        match chain {
            Chain::Erofs(record) => Self::ensure_chain_mounted(self, record),
            Chain::Dirs(_) => Err(chain.of_another_backend(BackendKind::Erofs)),
        }
    }

    fn unmount_chain(&self, chain: ChainId) -> Result<()> {
        Self::unmount_chain(self, chain)
    }

    fn container_plan(&self, chain: &Chain, upper: UpperDirs) -> Result<MountPlan> {
        Self::container_plan(self, chain.chain_id(), upper)
    }
}
