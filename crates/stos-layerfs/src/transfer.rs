// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers go from one data root to another: copy, move, sync.
//!
//! A layer travels as its tar, and is proved on the way as one that comes from a registry: what the target keeps has the
//! diffID. So the two stores need not keep layers in the same form, nor lie on the same filesystem. Its record says the same
//! as at home: the blob that it came as, and where from; a blob that is kept stays behind.
//!
//! **Locks.** A lease on either store; `locks/layer-<diffID>` of the target alone, so that two stores that copy from each other
//! never wait for each other.

use std::os::unix::fs::MetadataExt;

use stos_spec::{DiffId, LayerCompression};
use stos_store::{Objects, files};

use crate::LayerFs;
use crate::backend::Origin;
use crate::error::{Error, LayerLabel, Result};
use crate::ingest::IngestRequest;
use crate::layers::layer_lock;

/// What became of a layer that was to be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// It was copied.
    Copied,
    /// The target had it.
    Present,
}

/// What a sync did, each list in the order of the layers.
#[derive(Debug, Default)]
pub struct SyncReport {
    /// What was copied.
    pub copied: Vec<DiffId>,
    /// What the target had.
    pub present: Vec<DiffId>,
    /// What could not be copied, and why.
    pub failed: Vec<(DiffId, Error)>,
}

impl LayerFs {
    /// Copies a layer into another store, in the form of the backend that new layers go to there.
    ///
    /// On success it is there, durably. Nothing there uses it yet: it goes with that store's next sweep, unless an image comes
    /// that has it; such a pull does not fetch it.
    ///
    /// # Errors
    /// [`Error::SameStore`], [`Error::NoSuchLayer`]; [`Error::DamagedLayer`]; the target's disk's.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use stos_layerfs::LayerFs;
    /// use stos_store::Store;
    ///
    /// let open = |data_root: &str| -> Result<LayerFs, stos_store::Error> {
    ///     Ok(LayerFs::new(Store::open(data_root.as_ref())?, "/run/stos".as_ref()))
    /// };
    /// let (here, there) = (open("/var/lib/stos")?, open("/mnt/stos")?);
    /// for layer in here.layers()? {
    ///     here.copy_layer(layer, &there)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn copy_layer(&self, layer: DiffId, to: &Self) -> Result<Transfer> {
        let _lease = self.store().lease_of(&Objects::of_layers(&[layer]))?;
        self.copy_leased(layer, to)
    }

    /// Copies a layer into another store and removes it here. **The caller holds the right to sweep this store** and has seen
    /// that nothing in it uses the layer.
    ///
    /// The layer is removed only when the other store has it durably.
    ///
    /// # Errors
    /// As [`Self::copy_layer`]; then the layer stays where it is.
    ///
    /// ```no_run
    /// # fn example(here: &stos_layerfs::LayerFs, there: &stos_layerfs::LayerFs, layer: stos_spec::DiffId)
    /// #     -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(_right) = here.store().try_sweep_right()? {
    ///     // Here who moves a layer looks whether an image or a container uses it.
    ///     here.move_layer(layer, there)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn move_layer(&self, layer: DiffId, to: &Self) -> Result<Transfer> {
        let done = self.copy_leased(layer, to)?;
        self.remove_layer(layer)?;
        Ok(done)
    }

    /// Copies layers into another store, all of this one's where `layers` is `None`. One that fails keeps none of the rest from
    /// its turn.
    ///
    /// # Errors
    /// [`Error::SameStore`], and where the layers cannot be listed. What befalls a layer is in the report.
    ///
    /// ```no_run
    /// # fn example(here: &stos_layerfs::LayerFs, there: &stos_layerfs::LayerFs) -> stos_layerfs::Result<()> {
    /// let report = here.sync_layers(None, there)?;
    /// println!("{} copied, {} were there", report.copied.len(), report.present.len());
    /// for (layer, error) in &report.failed {
    ///     eprintln!("{layer}: {error}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn sync_layers(&self, layers: Option<&[DiffId]>, to: &Self) -> Result<SyncReport> {
        let mut lease = self.store().lease()?;
        self.refuse_same_store(to)?;
        let all;
        let layers = match layers {
            Some(layers) => layers,
            None => {
                all = self.layers()?;
                &all
            }
        };
        lease.narrow_if_possible(&Objects::of_layers(layers));
        let mut report = SyncReport::default();
        for &layer in layers {
            match self.copy_leased(layer, to) {
                Ok(Transfer::Copied) => report.copied.push(layer),
                Ok(Transfer::Present) => report.present.push(layer),
                Err(error) => report.failed.push((layer, error)),
            }
        }
        Ok(report)
    }

    /// Copies a layer; that it stays here meanwhile is the caller's affair.
    fn copy_leased(&self, layer: DiffId, to: &Self) -> Result<Transfer> {
        self.refuse_same_store(to)?;
        let _lease = to.store().lease_of(&Objects::of_layers(&[layer]))?;
        let kept = self.kept(layer)?.ok_or_else(|| self.missing(layer))?;
        let backend = to.backend(to.kind_of_new()?);
        if backend.is_layer_intact(layer)? {
            return to.present(layer);
        }
        to.store().with_lock(&layer_lock(layer), || {
            if backend.has_layer(layer)? || to.convert(backend, layer)? {
                return to.present(layer);
            }
            let label = LayerLabel::Origin(format!("{layer} of {}", self.store().root().display()));
            let ingest = to.ingest_request(&label, LayerCompression::None)?;
            let ingest = IngestRequest { diff_id: Some(layer), ..ingest };
            let blob = Some((kept.blob, kept.blob_size));
            let origin = Origin { media_type: &kept.media_type, source: &kept.source, blob };
            let staged = match backend.stage_layer(ingest, origin, &mut self.open_tar(layer)?, &|_| {}) {
                // Where the layer is at fault every byte is looked at, so that the damage is told as such and loses its seal.
                Err(error @ Error::Source { .. }) => return self.prove_layer(layer).and(Err(error)),
                staged => staged?,
            };
            backend.commit_layer(staged).map_err(|error| error.while_writing(label))?;
            Ok(Transfer::Copied)
        })
    }

    /// Of a layer that is there: makes its name durable. Who put it there may have been killed before that, or be about to, and once we
    /// have said that it is there it may be removed elsewhere.
    fn present(&self, layer: DiffId) -> Result<Transfer> {
        for place in self.layer_places(layer).iter().filter(|place| place.exists()) {
            files::sync_parent(place)?;
        }
        Ok(Transfer::Present)
    }

    fn refuse_same_store(&self, to: &Self) -> Result<()> {
        let identity = |layerfs: &Self| {
            let root = layerfs.store().root();
            std::fs::metadata(root).map(|stat| (stat.dev(), stat.ino())).map_err(Error::io("stat", root))
        };
        match identity(self)? == identity(to)? {
            true => Err(Error::SameStore { path: to.store().root().to_owned() }),
            false => Ok(()),
        }
    }
}
