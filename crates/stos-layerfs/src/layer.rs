// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers in the store: `layers/sha256/<diffID>/`.

use std::io::Read;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stos_spec::{BlobDigest, Descriptor, DiffId, LayerCompression};
use stos_store::files::{self, Durability};

use crate::LayerFs;
use crate::error::{Error, Result};
use crate::ingest::{IngestReport, IngestRequest, StageTimes, ingest_layer};
use crate::seal::{Seal, SealState};

/// The contents of `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The layer.
    pub diff_id: DiffId,
    /// The blob that it came as.
    pub blob: BlobDigest,
    /// The blob's size in bytes.
    pub blob_size: u64,
    /// The blob's media type.
    pub media_type: String,
    /// Where the blob came from: `registry/repository`.
    pub source: String,
    /// How many entries its tar has.
    pub entries: u64,
    /// The seal of `layer.tar`.
    pub tar: Seal,
    /// The seal of `layer.index`.
    pub index: Seal,
}

/// A layer that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct LayerRequest<'a> {
    /// What it must be.
    pub diff_id: DiffId,
    /// The blob that it comes as.
    pub blob: &'a Descriptor,
    /// How the blob is compressed.
    pub compression: LayerCompression,
    /// Where the blob comes from, for `layer.json`.
    pub source: &'a str,
}

/// What became of a wanted layer.
#[derive(Debug, Clone, Copy)]
pub enum LayerOutcome {
    /// It was there already.
    Present,
    /// It was fetched; the store has it now.
    Fetched(StageTimes),
}

impl LayerFs {
    /// Tells whether the store has the layer and its files look as they did when they were proved.
    pub fn has_layer(&self, layer: DiffId) -> Result<bool> {
        let Some(record) = self.layer_record(layer)? else { return Ok(false) };
        let dir = self.store.layer_dir(layer);
        for (name, seal) in [("layer.tar", &record.tar), ("layer.index", &record.index)] {
            let path = dir.join(name);
            match seal.look(&path) {
                Ok(SealState::Intact) => {}
                Ok(SealState::Changed) if seal.prove(&path)?.is_ok() => {}
                Ok(SealState::Changed) => return Ok(false),
                Err(Error::Store(error)) if error.is_not_found() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads a layer's record; `None` where the store does not have the layer, or its record is damaged.
    pub fn layer_record(&self, layer: DiffId) -> Result<Option<LayerRecord>> {
        match files::read_json::<LayerRecord>(&self.layer_record_path(layer)) {
            Ok(record) => Ok(record.filter(|record| record.diff_id == layer)),
            Err(stos_store::Error::Damaged { path, reason }) => {
                tracing::warn!(path = %path.display(), reason, "the layer's record is damaged: taken as missing");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn layer_record_path(&self, layer: DiffId) -> PathBuf {
        self.store.layer_dir(layer).join("layer.json")
    }

    /// Makes sure that the store has the layer, and fetches it through `open` if it does not.
    ///
    /// Of several processes that want the same layer one fetches and the others wait for it. A layer directory that is
    /// damaged is replaced. `E` is the error of the source.
    pub fn ensure_layer<R: Read, E: From<Error>>(
        &self,
        request: LayerRequest<'_>,
        open: impl FnOnce() -> std::result::Result<R, E>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> std::result::Result<LayerOutcome, E> {
        if self.has_layer(request.diff_id)? {
            return Ok(LayerOutcome::Present);
        }
        let lock = self.store.lock(&format!("layer-{}", request.diff_id.hex())).map_err(Error::from)?;
        let fetched = self.fetch_layer(request, open, progress);
        // Also after a failure: else every layer that could not be fetched would leave a file in locks/.
        lock.remove().map_err(Error::from)?;
        fetched
    }

    /// Fetches the layer, unless another process has done so meanwhile. The caller holds its lock.
    fn fetch_layer<R: Read, E: From<Error>>(
        &self,
        request: LayerRequest<'_>,
        open: impl FnOnce() -> std::result::Result<R, E>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> std::result::Result<LayerOutcome, E> {
        if self.has_layer(request.diff_id)? {
            return Ok(LayerOutcome::Present);
        }
        let staged = self.store.stage().map_err(Error::from)?;
        let ingest = IngestRequest {
            blob: request.blob,
            compression: request.compression,
            diff_id: request.diff_id,
            max_size: self.room()?,
        };
        let report = ingest_layer(ingest, open()?, staged.path(), progress)?;
        let times = report.times;
        self.commit_layer(request, report, staged)?;
        Ok(LayerOutcome::Fetched(times))
    }

    fn commit_layer(&self, request: LayerRequest<'_>, report: IngestReport, staged: stos_store::Staging) -> Result<()> {
        let record = LayerRecord {
            diff_id: request.diff_id,
            blob: request.blob.digest,
            blob_size: request.blob.size,
            media_type: request.blob.media_type.clone(),
            source: request.source.to_owned(),
            entries: report.summary.entries,
            tar: report.tar,
            index: report.index,
        };
        let json = files::to_json(&record);
        files::write_new(&staged.path().join("layer.json"), &json, Durability::Durable)?;
        let target = self.store.layer_dir(request.diff_id);
        if target.exists() {
            // Only a damaged layer gets here: its place is needed.
            self.store.remove_object(&target)?;
        }
        staged.commit(&target, Durability::Durable)?;
        Ok(())
    }

    /// Gives the bytes that a layer may take: nine tenths of what the disk has free.
    fn room(&self) -> Result<u64> {
        let root = self.store.root();
        let disk = rustix::fs::statvfs(root).map_err(Error::io("measure the disk of", root))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize) / 10 * 9)
    }

    /// Removes a layer. The caller holds the right to sweep.
    pub fn remove_layer(&self, layer: DiffId) -> Result<()> {
        Ok(self.store.remove_object(&self.store.layer_dir(layer))?)
    }
}
