// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers in the store: `layers/sha256/<diffID>/`.

use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_spec::{BlobDigest, Descriptor, DiffId, LayerCompression};
use stos_store::files::{self, Durability};

use crate::LayerFs;
use crate::error::{Error, LayerLabel, Result};
use crate::ingest::{IngestReport, IngestRequest, StageTimes, ingest_layer};
use crate::record::read_record;
use crate::seal::{HashingWriter, Integrity, Seal, SealState};

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

/// A layer that nobody has described.
#[derive(Debug, Clone, Copy)]
pub struct NewLayer<'a> {
    /// What errors call it.
    pub label: &'a LayerLabel,
    /// How it is compressed.
    pub compression: LayerCompression,
    /// What it must be; `None` where it is new.
    pub diff_id: Option<DiffId>,
    /// The media type of what it comes as, for `layer.json`.
    pub media_type: &'a str,
    /// Where it comes from, for `layer.json`.
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

/// How much of the disk a layer leaves to others where there is plenty, in bytes.
const RESERVE_MAX: u64 = 1 << 30;

impl LayerFs {
    /// Tells whether the store has the layer and its files are what was proved when they came.
    ///
    /// A file whose seal does not hold is hashed; where its bytes are right (a restored backup) it is sealed again. An index
    /// that is wrong or missing is made again from a tar that is right. The caller holds the layer's lock.
    pub fn has_layer(&self, layer: DiffId) -> Result<bool> {
        let Some(record) = self.layer_record(layer)? else { return Ok(false) };
        let mut renewed = record.clone();
        let dir = self.store.layer_dir(layer);
        let mut is_right = |name| match check_layer_file(&dir, &mut renewed, name, Integrity::Sealed) {
            Ok(()) => Ok(true),
            Err(Error::DamagedLayer { .. }) => Ok(false),
            Err(error) => Err(error),
        };
        if !is_right("layer.tar")? {
            return Ok(false);
        }
        if !is_right("layer.index")? {
            tracing::warn!(%layer, "the layer's index is damaged: made again from its tar");
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
    fn is_layer_intact(&self, layer: DiffId) -> Result<bool> {
        let Some(record) = self.layer_record(layer)? else { return Ok(false) };
        let dir = self.store.layer_dir(layer);
        let is_intact = |(name, seal): (&str, &Seal)| matches!(seal.look(&dir.join(name)), Ok(SealState::Intact));
        Ok([("layer.tar", &record.tar), ("layer.index", &record.index)].into_iter().all(is_intact))
    }

    /// Reads a layer's record; `None` where the store does not have the layer, or its record is damaged: not JSON, or of
    /// another layer or tar than the directory's.
    pub fn layer_record(&self, layer: DiffId) -> Result<Option<LayerRecord>> {
        let is_own = |record: &LayerRecord| record.diff_id == layer && record.tar.sha256.as_bytes() == layer.as_bytes();
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

    fn layer_record_path(&self, layer: DiffId) -> PathBuf {
        self.store.layer_dir(layer).join("layer.json")
    }

    pub(crate) fn layer_lock(layer: DiffId) -> String {
        format!("layer-{}", layer.hex())
    }

    /// Writes a layer's record anew. The caller holds the layer's lock.
    pub(crate) fn replace_layer_record(&self, record: &LayerRecord) -> Result<()> {
        let path = self.layer_record_path(record.diff_id);
        Ok(files::replace(&path, &self.store.staging_area(), &files::to_json(record), Durability::Durable)?)
    }

    /// Makes sure that the store has the layer, and fetches it through `open` if it does not.
    ///
    /// Of several processes that want the same layer one fetches and the others wait for it. A layer directory that is
    /// damaged is replaced. `E` is the error of the source.
    pub fn ensure_layer<R: Read, E: From<Error> + From<stos_store::Error>>(
        &self,
        request: LayerRequest<'_>,
        open: impl FnOnce() -> std::result::Result<R, E>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> std::result::Result<LayerOutcome, E> {
        if self.is_layer_intact(request.diff_id)? {
            return Ok(LayerOutcome::Present);
        }
        let lock = Self::layer_lock(request.diff_id);
        self.store.with_lock(&lock, || self.fetch_layer(request, open, progress))
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
        let label = LayerLabel::from(request.blob.digest);
        let ingest = self.ingest_request(&label, request.compression)?;
        let ingest = IngestRequest { blob: Some(request.blob), diff_id: Some(request.diff_id), ..ingest };
        let report = ingest_layer(ingest, open()?, staged.path(), progress)?;
        let times = report.times;
        let provenance = (request.blob.media_type.as_str(), request.source);
        self.commit_layer(report, provenance, staged).map_err(|error| error.while_writing(label))?;
        Ok(LayerOutcome::Fetched(times))
    }

    /// Adds a layer of which no blob digest is known: a tar made here, or one from an archive that promises none.
    ///
    /// What is there already stays as it is. Gives the layer's record.
    pub fn add_layer(&self, new: NewLayer<'_>, from: impl Read) -> Result<LayerRecord> {
        let staged = self.store.stage()?;
        let ingest = IngestRequest { diff_id: new.diff_id, ..self.ingest_request(new.label, new.compression)? };
        let report = ingest_layer(ingest, from, staged.path(), &|_| {})?;
        let layer = report.diff_id;
        self.store.with_lock(&Self::layer_lock(layer), || {
            if !self.has_layer(layer)? {
                self.commit_layer(report, (new.media_type, new.source), staged)
                    .map_err(|error| error.while_writing(new.label.clone()))?;
            }
            self.need_layer(layer)
        })
    }

    /// Begins a request: how much of the disk a layer may take.
    fn ingest_request<'a>(&self, label: &'a LayerLabel, compression: LayerCompression) -> Result<IngestRequest<'a>> {
        let free = self.free_bytes()?;
        let reserve = RESERVE_MAX.min(free / 10);
        Ok(IngestRequest { label, blob: None, compression, diff_id: None, max_size: free - reserve, reserve })
    }

    /// Makes a staged layer durable and visible; `provenance` is the blob's media type, and where it came from.
    fn commit_layer(&self, report: IngestReport, provenance: (&str, &str), staged: stos_store::Staging) -> Result<()> {
        let record = LayerRecord {
            diff_id: report.diff_id,
            blob: report.blob,
            blob_size: report.blob_size,
            media_type: provenance.0.to_owned(),
            source: provenance.1.to_owned(),
            entries: report.summary.entries,
            tar: report.tar,
            index: report.index,
        };
        let started = std::time::Instant::now();
        files::write_new(&staged.path().join("layer.json"), &files::to_json(&record), Durability::Volatile)?;
        files::sync_files_in(staged.path())?;
        staged.replace(&self.store.layer_dir(record.diff_id))?;
        let sync_ms = started.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(layer = %record.diff_id, sync_ms, "layer durable");
        Ok(())
    }

    /// Gives how many bytes the disk has free for us.
    fn free_bytes(&self) -> Result<u64> {
        let root = self.store.root();
        let disk = rustix::fs::statvfs(root).map_err(Error::io("measure the disk of", root))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Makes a layer's index again from its tar, which is proved first. The caller holds the layer's lock.
    pub(crate) fn rebuild_index(&self, layer: DiffId) -> Result<()> {
        let mut record = self.need_layer(layer)?;
        let dir = self.store.layer_dir(layer);
        check_layer_file(&dir, &mut record, "layer.tar", Integrity::Full)?;
        let staged = self.store.stage()?;
        let (tar_path, path) = (dir.join("layer.tar"), staged.path().join("layer.index"));
        let file = files::create_new(&path)?;
        let out = HashingWriter::new(BufWriter::with_capacity(64 << 10, file));
        let refuse = |source| Error::Tar { layer: record.blob.into(), source };
        let (out, _) = stos_erofs::index_tar(files::open(&tar_path)?, out).map_err(refuse)?;
        let (file, digest) = out.finish();
        let file = file.into_inner().map_err(|error| Error::io("write", &path)(error.into_error()))?;
        file.sync_all().map_err(Error::io("sync", &path))?;
        let target = dir.join("layer.index");
        std::fs::rename(&path, &target).map_err(Error::io("rename a file to", &target))?;
        // After the rename, which changes an inode's times on some filesystems.
        record.index = Seal::of(&file, digest, &target)?;
        files::sync_directory(&dir)?;
        self.replace_layer_record(&record)
    }

    /// Removes a layer. The caller holds the right to sweep.
    pub fn remove_layer(&self, layer: DiffId) -> Result<()> {
        Ok(self.store.remove_object(&self.store.layer_dir(layer))?)
    }
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
