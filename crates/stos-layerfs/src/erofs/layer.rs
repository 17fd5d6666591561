// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers that are their tars: `layers/sha256/<diffID>/`.

use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_spec::{BlobDigest, DiffId};
use stos_store::files::{self, Durability};

use super::Erofs;
use crate::backend::{Origin, StagedLayer};
use crate::error::{Error, Result};
use crate::extra::{ExtraWriter, LAYER_EXTRA, sink_error};
use crate::ingest::{IngestRequest, ingest_layer};
use crate::record::read_record;
use crate::seal::{Examination, HashingWriter, Integrity, Seal, SealState};

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
    /// The seal of `layer.extra`, where the layer has sparse files. Nobody hashes holes: its digest is
    /// [`extra_tag`](stos_erofs::extra_tag) of the layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Seal>,
}

impl Erofs {
    /// Tells whether the store has the layer and its files are what was proved when they came.
    ///
    /// A file whose seal does not hold is hashed; where its bytes are right (a restored backup) it is sealed again. An index
    /// or extra file that is wrong or missing is made again from a tar that is right. The caller holds the layer's lock.
    pub fn has_layer(&self, layer: DiffId) -> Result<bool> {
        let Some(record) = self.layer_record(layer)? else { return Ok(false) };
        let mut renewed = record.clone();
        let how = Examination { integrity: Integrity::Sealed, reseals: true };
        let examined = self.examine_files(&mut renewed, how)?;
        if examined.faults.iter().any(|fault| fault.path.ends_with("layer.tar")) {
            return Ok(false);
        }
        if let Some(fault) = examined.faults.first() {
            tracing::warn!(%layer, path = %fault.path.display(), "the layer's file is damaged: made again from its tar");
            return match self.rebuild_index(layer) {
                Ok(()) => Ok(true),
                // Rot that its seal has hidden until now.
                Err(Error::DamagedLayer { .. }) => Ok(false),
                Err(error) => Err(error),
            };
        }
        if renewed != record {
            tracing::info!(%layer, "files were moved or copied; their bytes are right: sealed again");
            self.replace_layer_record(&renewed)?;
        }
        Ok(true)
    }

    /// Tells by one stat a file whether the layer is there and as it was when it was proved.
    pub(crate) fn is_layer_intact(&self, layer: DiffId) -> Result<bool> {
        let Some(record) = self.layer_record(layer)? else { return Ok(false) };
        let dir = self.store.layer_dir(layer);
        let is_intact = |(name, seal): (&str, &Seal)| matches!(seal.look(&dir.join(name)), Ok(SealState::Intact));
        let always = [("layer.tar", &record.tar), ("layer.index", &record.index)];
        Ok(always.into_iter().chain(record.extra.as_ref().map(|seal| (LAYER_EXTRA, seal))).all(is_intact))
    }

    /// Reads a layer's record; `None` where the store does not have the layer, or its record is damaged: not JSON, or of
    /// another layer or tar than the directory's.
    pub fn layer_record(&self, layer: DiffId) -> Result<Option<LayerRecord>> {
        let is_own = |record: &LayerRecord| is_record_of(record, layer);
        read_record(&self.layer_record_path(layer), is_own, "the layer is taken as missing")
    }

    /// Reads the record of a layer that is needed. One that is not there is told from one whose record is damaged.
    pub(crate) fn need_layer(&self, layer: DiffId) -> Result<LayerRecord> {
        if let Some(record) = self.layer_record(layer)? {
            return Ok(record);
        }
        if !self.store.layer_dir(layer).exists() {
            return Err(Error::NoSuchLayer(layer));
        }
        let path = self.layer_record_path(layer);
        let found = if path.exists() { "something else" } else { "none" };
        Err(Error::DamagedLayer { layer, path, expected: "the layer's record".to_owned(), found: found.to_owned() })
    }

    pub(super) fn layer_record_path(&self, layer: DiffId) -> PathBuf {
        self.store.layer_dir(layer).join("layer.json")
    }

    /// Writes a layer's record anew. The caller holds the layer's lock.
    pub(crate) fn replace_layer_record(&self, record: &LayerRecord) -> Result<()> {
        let path = self.layer_record_path(record.diff_id);
        Ok(files::replace(&path, &self.store.staging_area(), &files::to_json(record), Durability::Durable)?)
    }

    /// Reads a blob and stages its layer, proved, with its record. Nothing is visible or durable yet.
    pub(crate) fn stage_layer(
        &self,
        request: IngestRequest<'_>,
        origin: Origin<'_>,
        source: impl Read,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<StagedLayer> {
        let staged = self.store.stage()?;
        let report = ingest_layer(request, source, staged.path(), progress)?;
        let (blob, blob_size) = origin.blob.unwrap_or((report.blob, report.blob_size));
        let record = LayerRecord {
            diff_id: report.diff_id,
            blob,
            blob_size,
            media_type: origin.media_type.to_owned(),
            source: origin.source.to_owned(),
            entries: report.summary.entries,
            tar: report.tar,
            index: report.index,
            extra: report.extra,
        };
        files::write_new(&staged.path().join("layer.json"), &files::to_json(&record), Durability::Volatile)?;
        Ok(StagedLayer { diff_id: record.diff_id, times: report.times, staged })
    }

    /// Makes a staged layer durable and visible. The caller holds the layer's lock.
    pub(crate) fn commit_layer(&self, layer: StagedLayer) -> Result<()> {
        files::sync_files_in(layer.staged.path())?;
        Ok(layer.staged.replace(&self.store.layer_dir(layer.diff_id))?)
    }

    /// Writes the layer's tar to `out`, and gives its length. Whether its bytes are right is for the caller's digest to say.
    pub(crate) fn copy_tar(&self, layer: DiffId, out: &mut dyn Write) -> Result<u64> {
        self.need_layer(layer)?;
        let path = self.store.layer_dir(layer).join("layer.tar");
        let mut tar = files::open(&path)?;
        std::io::copy(&mut tar, out).map_err(Error::io("copy", &path))
    }

    /// Makes a layer's index again from its tar, which is proved first, and `layer.extra` with it. The caller holds the
    /// layer's lock.
    pub(crate) fn rebuild_index(&self, layer: DiffId) -> Result<()> {
        let mut record = self.need_layer(layer)?;
        let dir = self.store.layer_dir(layer);
        check_layer_file(&dir, &mut record, "layer.tar", Integrity::Full)?;
        self.index_tar(record)
    }

    /// Makes all that follows from a layer's tar again, its record too, which says what `origin` does; `false` where the tar is
    /// missing or not that of the layer. The caller holds the layer's lock.
    pub(crate) fn rebuild_from_tar(&self, layer: DiffId, origin: Origin<'_>) -> Result<bool> {
        let path = self.store.layer_dir(layer).join("layer.tar");
        let digest = BlobDigest::from_bytes(*layer.as_bytes());
        let tar = match files::open(&path) {
            // Looked at before it is read: what is written to it meanwhile breaks the seal.
            Ok(file) => Seal::of(&file, digest, &path)?,
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        match tar.prove(&path) {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Ok(false),
            Err(Error::Store(error)) if error.is_unreadable() => return Ok(false),
            Err(error) => return Err(error),
        }
        let (blob, blob_size) = origin.blob.unwrap_or((digest, tar.size));
        self.index_tar(LayerRecord {
            diff_id: layer,
            blob,
            blob_size,
            media_type: origin.media_type.to_owned(),
            source: origin.source.to_owned(),
            entries: 0,
            index: tar.clone(),
            tar,
            extra: None,
        })?;
        Ok(true)
    }

    /// Makes the index and the extra file of a tar that has been proved, and writes the record with what they are.
    fn index_tar(&self, mut record: LayerRecord) -> Result<()> {
        let layer = record.diff_id;
        let dir = self.store.layer_dir(layer);
        let staged = self.store.stage()?;
        let (tar_path, path) = (dir.join("layer.tar"), staged.path().join("layer.index"));
        let file = files::create_new(&path)?;
        let out = HashingWriter::new(BufWriter::with_capacity(64 << 10, file));
        let refuse = |source| match source {
            stos_erofs::Error::Sink { source } => sink_error(source, staged.path()),
            source => Error::Tar { layer: record.blob.into(), source },
        };
        let extra = ExtraWriter::new(staged.path());
        let indexed = stos_erofs::index_tar_into(files::open(&tar_path)?, out, extra).map_err(refuse)?;
        record.extra = put_extra(indexed.sink, layer, indexed.summary.extra_bytes, staged.path(), &dir)?;
        record.entries = indexed.summary.entries;
        let (file, digest) = indexed.out.finish();
        let file = file.into_inner().map_err(|error| Error::io("write", &path)(error.into_error()))?;
        file.sync_all().map_err(Error::io("sync", &path))?;
        let target = dir.join("layer.index");
        std::fs::rename(&path, &target).map_err(Error::io("rename a file to", &target))?;
        // After the rename, which changes an inode's times on some filesystems.
        record.index = Seal::of(&file, digest, &target)?;
        files::sync_directory(&dir)?;
        self.replace_layer_record(&record)
    }
}

/// Tells whether a record can be that of `layer`.
pub(super) fn is_record_of(record: &LayerRecord, layer: DiffId) -> bool {
    record.diff_id == layer && record.tar.sha256.as_bytes() == layer.as_bytes()
}

/// Puts a staged extra file in its place, and gives its seal; `None` where there is none.
fn put_extra(extra: ExtraWriter, layer: DiffId, extra_bytes: u64, staged: &Path, dir: &Path) -> Result<Option<Seal>> {
    let Some((file, seal)) = extra.finish(layer, extra_bytes)? else { return Ok(None) };
    let target = dir.join(LAYER_EXTRA);
    file.sync_all().map_err(Error::io("sync", &target))?;
    std::fs::rename(staged.join(LAYER_EXTRA), &target).map_err(Error::io("rename a file to", &target))?;
    Seal::of(&file, seal.sha256, &target).map(Some)
}

/// Looks at `layer.tar` or `layer.index` in `dir`, as closely as `integrity` says, and renews its seal in the record.
pub(crate) fn check_layer_file(
    dir: &Path,
    record: &mut LayerRecord,
    name: &'static str,
    integrity: Integrity,
) -> Result<()> {
    let (layer, path) = (record.diff_id, dir.join(name));
    let seal = if name == "layer.tar" { &mut record.tar } else { &mut record.index };
    let damaged = |expected, found| Error::DamagedLayer { layer, path: path.clone(), expected, found };
    seal.check(&path, integrity, damaged)
}
