// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers that are unpacked: `dirs/layers/sha256/<diffID>/`.

use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use stos_erofs::{IndexSummary, Indexed, LayerTree, TarIndexer};
use stos_spec::{BlobDigest, DiffId};
use stos_store::files::{self, Durability};
use stos_sys::rooted::Root;

use super::{Dirs, Orphans, UnpackError, Unpacker};
use crate::backend::{Origin, StagedLayer};
use crate::error::{Error, Result};
use crate::ingest::{self, IngestRequest, StageTimes};
use crate::layer_stream::LayerStream;
use crate::record::read_record;
use crate::seal::{Examination, HashingWriter, Integrity, Seal, SealState, break_directory_seal};

/// The contents of an unpacked layer's `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirsLayerRecord {
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
    /// The length of its tar in bytes.
    pub tar_bytes: u64,
    /// How long a file of all its sparse files' data would be, holes included: its index counts so.
    pub extra_bytes: u64,
    /// The seal of `layer.index`.
    pub index: Seal,
    /// The seal of `layer.rest`.
    pub rest: Seal,
    /// The seal of the directory `diff`.
    pub diff: DirectorySeal,
}

/// What a directory was when what it holds was proved. It tells a restored or replaced directory, and not what has changed
/// below it: that, only a look at every byte can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectorySeal {
    /// Inode number.
    pub inode: u64,
    /// Time of the last change of its names: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Time of the last change of its inode: seconds and nanoseconds.
    pub ctime: (i64, i64),
}

impl DirectorySeal {
    /// Seals a directory.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io("stat", path))?;
        Ok(Self {
            inode: metadata.ino(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Tells whether the directory is as it was.
    pub(crate) fn is_intact(self, path: &Path) -> bool {
        Self::of(path).is_ok_and(|now| now == self)
    }
}

/// A layer that has been unpacked into staging.
struct Unpacked {
    summary: IndexSummary,
    index: Seal,
    rest: Seal,
    busy: Duration,
}

impl Dirs {
    /// Reads a layer's record; `None` where there is none, or it is damaged.
    pub fn layer_record(&self, layer: DiffId) -> Result<Option<DirsLayerRecord>> {
        let is_own = |record: &DirsLayerRecord| record.diff_id == layer;
        read_record(&self.layer_record_path(layer), is_own, "the layer is taken as missing")
    }

    pub(super) fn layer_record_path(&self, layer: DiffId) -> PathBuf {
        self.layer_dir(layer).join("layer.json")
    }

    /// Reads the record of a layer that is needed.
    pub(crate) fn need_layer(&self, layer: DiffId) -> Result<DirsLayerRecord> {
        self.layer_record(layer)?.ok_or(Error::NoSuchLayer(layer))
    }

    pub(crate) fn is_layer_intact(&self, layer: DiffId) -> Result<bool> {
        let Some(record) = self.layer_record(layer)? else { return Ok(false) };
        Ok(self.looks_intact(&record))
    }

    /// Tells by three stats whether a layer is as it was sealed.
    pub(crate) fn looks_intact(&self, record: &DirsLayerRecord) -> bool {
        let dir = self.layer_dir(record.diff_id);
        let is_file_intact = |name: &str, seal: &Seal| matches!(seal.look(&dir.join(name)), Ok(SealState::Intact));
        record.diff.is_intact(&dir.join("diff"))
            && is_file_intact("layer.index", &record.index)
            && is_file_intact("layer.rest", &record.rest)
    }

    /// Tells whether the layer is there and what was proved when it came. One that looks changed is proved anew, every byte, and
    /// sealed again. The caller holds the layer's lock.
    pub(crate) fn has_layer(&self, layer: DiffId) -> Result<bool> {
        let Some(record) = self.layer_record(layer)? else { return Ok(false) };
        match self.prove_and_reseal(&record, Integrity::Sealed) {
            Ok(()) => Ok(true),
            Err(error @ Error::DamagedLayer { .. }) => {
                tracing::warn!(%layer, %error, "the unpacked layer is damaged");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at a layer as closely as `integrity` says, and writes its record with the seals that it has now. The caller holds the
    /// layer's lock.
    pub(crate) fn prove_and_reseal(&self, record: &DirsLayerRecord, integrity: Integrity) -> Result<()> {
        let Some(renewed) = self.prove_if_needed(record, Examination { integrity, reseals: true })? else {
            return Ok(());
        };
        if renewed != *record {
            tracing::info!(layer = %record.diff_id, "the layer was moved or copied; its bytes are right: sealed again");
            self.replace_layer_record(&renewed)?;
        }
        Ok(())
    }

    /// Proves a layer whose seals do not hold, or of which every byte is asked for, and gives its record with the seals that it has
    /// now; `None` where a look was enough.
    ///
    /// Where it turns out damaged under intact seals, or by the closest look, the seal of its directory is broken, if `how` lets it
    /// be, by touching it, durably: who looks at it proves it from now on, so no container runs from it and a pull fetches it again.
    pub(crate) fn prove_if_needed(
        &self,
        record: &DirsLayerRecord,
        how: Examination,
    ) -> Result<Option<DirsLayerRecord>> {
        let is_intact = self.looks_intact(record);
        if is_intact && how.integrity != Integrity::Full {
            return Ok(None);
        }
        let proved = self.prove_layer(record);
        // A create looks at the seal of the directory alone, which may hold where another does not.
        let hides = is_intact || how.integrity == Integrity::Full;
        if hides && how.reseals && matches!(proved, Err(Error::DamagedLayer { .. })) {
            break_directory_seal(&self.layer_dir(record.diff_id).join("diff"));
        }
        proved.map(Some)
    }

    /// Writes a layer's record anew. The caller holds the layer's lock.
    pub(crate) fn replace_layer_record(&self, record: &DirsLayerRecord) -> Result<()> {
        let path = self.layer_record_path(record.diff_id);
        Ok(files::replace(&path, &self.store.staging_area(), &files::to_json(record), Durability::Durable)?)
    }

    /// Reads a blob and unpacks its layer in staging, proved, with its record.
    pub(crate) fn stage_layer(
        &self,
        request: IngestRequest<'_>,
        origin: Origin<'_>,
        source: impl Read,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<StagedLayer> {
        let started = Instant::now();
        let staged = self.store.stage()?;
        let dir = staged.path();
        let (received, unpacked) = ingest::flow(request, source, progress, |from| unpack(request, from, dir))?;
        let diff_id = received.diff_id;
        ingest::check_diff_id(request, diff_id)?;
        let (blob, blob_size) = origin.blob.unwrap_or((received.blob, received.size));
        let record = DirsLayerRecord {
            diff_id,
            blob,
            blob_size,
            media_type: origin.media_type.to_owned(),
            source: origin.source.to_owned(),
            entries: unpacked.summary.entries,
            tar_bytes: unpacked.summary.tar_bytes,
            extra_bytes: unpacked.summary.extra_bytes,
            index: unpacked.index,
            rest: unpacked.rest,
            diff: DirectorySeal::of(&dir.join("diff"))?,
        };
        files::write_new(&dir.join("layer.json"), &files::to_json(&record), Durability::Volatile)?;
        let times = StageTimes {
            receive: received.time,
            hash: received.hashing,
            write: unpacked.busy,
            total: started.elapsed(),
        };
        let [hash_ms, write_ms, total_ms] = [times.hash, times.write, times.total].map(|time| time.as_millis());
        tracing::debug!(
            layer = %request.label, blob_bytes = received.size, tar_bytes = record.tar_bytes, hash_ms, write_ms, total_ms,
            "layer unpacked"
        );
        Ok(StagedLayer { diff_id, times, staged })
    }

    /// Makes a staged layer durable and visible: every file of it, by one call for the whole filesystem.
    pub(crate) fn commit_layer(&self, layer: StagedLayer) -> Result<()> {
        layer.staged.sync_filesystem()?;
        ensure_durable_directory(&self.layers_dir(), self.store.root())?;
        let old = self.old_dir(layer.diff_id.hex());
        Ok(layer.staged.replace_and_keep(&self.layer_dir(layer.diff_id), &old?)?)
    }
}

/// Makes the directory `path` below `root` and those between, durably.
pub(super) fn ensure_durable_directory(path: &Path, root: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| parent.starts_with(root) && *parent != root) {
        ensure_durable_directory(parent, root)?;
    }
    files::ensure_directory(path)?;
    Ok(files::sync_parent(path)?)
}

/// Unpacks what comes into `dir`.
fn unpack(request: IngestRequest<'_>, from: &mut LayerStream, dir: &Path) -> Result<Unpacked> {
    let on_disk = |error: Error| error.while_writing(request.label.clone());
    unpack_into(request, from, dir).map_err(on_disk)
}

fn unpack_into(request: IngestRequest<'_>, from: &mut LayerStream, dir: &Path) -> Result<Unpacked> {
    let (diff, orphans) = (dir.join("diff"), dir.join("orphans"));
    for path in [&diff, &orphans] {
        files::ensure_directory(path)?;
    }
    let orphans = files::open(&orphans)?;
    let (index_path, rest_path) = (dir.join("layer.index"), dir.join("layer.rest"));
    let room = files::create_new(&index_path)?;
    let index = room.try_clone().map_err(Error::io("write", &index_path))?;
    let index = HashingWriter::new(BufWriter::with_capacity(64 << 10, index));
    let rest = HashingWriter::new(BufWriter::with_capacity(64 << 10, files::create_new(&rest_path)?));
    let rest = GzEncoder::new(rest, Compression::fast());
    let unpacker = Unpacker::new(Root::open(&diff)?, LayerTree::new(), Orphans::Keep(orphans.into()), rest);
    let mut indexer = TarIndexer::with_sink(index, unpacker);
    let refuse = |error| unpack_failure(request, &index_path, error);
    let (mut written, mut busy) = (0_u64, Duration::ZERO);
    while let Some(buffer) = from.next_buffer() {
        let started = Instant::now();
        if written + buffer.len() as u64 > request.max_size {
            return Err(Error::TooLarge { layer: request.label.clone(), limit: request.max_size });
        }
        indexer.push(buffer).map_err(refuse)?;
        written += buffer.len() as u64;
        ingest::check_room(request, &room, &index_path, written)?;
        ingest::check_inodes(request, &room, &index_path)?;
        busy += started.elapsed();
    }
    let started = Instant::now();
    let Indexed { out: index, sink: unpacker, summary } = indexer.finish().map_err(refuse)?;
    let (_, rest) = unpacker.finish()?;
    let rest = rest.finish().map_err(Error::io("write", &rest_path))?;
    Ok(Unpacked {
        summary,
        index: seal_written(index, &index_path)?,
        rest: seal_written(rest, &rest_path)?,
        busy: busy + started.elapsed(),
    })
}

/// Says whose fault it was: the tar's, or the disk's.
pub(crate) fn unpack_failure(request: IngestRequest<'_>, path: &Path, error: stos_erofs::Error) -> Error {
    let refuse = |source| Error::Tar { layer: request.label.clone(), source };
    match error {
        stos_erofs::Error::Io { source, .. } => Error::io("write", path)(source),
        stos_erofs::Error::Sink { source } => match source.downcast::<UnpackError>() {
            Ok(UnpackError::Disk(error)) => Error::Store(error),
            Ok(UnpackError::Layer(error)) => refuse(error),
            // What is left of the tar could not be written.
            Err(source) => Error::io("write", path.with_file_name("layer.rest"))(source),
        },
        error => refuse(error),
    }
}

fn seal_written(writer: HashingWriter<BufWriter<std::fs::File>>, path: &Path) -> Result<Seal> {
    let (mut out, digest) = writer.finish();
    out.flush().map_err(Error::io("write", path))?;
    Seal::of(out.get_ref(), digest, path)
}

/// How closely a layer's own files are looked at beside `diff`.
pub(crate) fn check_side_file(
    dir: &Path,
    record: &mut DirsLayerRecord,
    name: &'static str,
    integrity: Integrity,
) -> Result<()> {
    let (layer, path) = (record.diff_id, dir.join(name));
    let seal = if name == "layer.index" { &mut record.index } else { &mut record.rest };
    let damaged = |expected, found| Error::DamagedLayer { layer, path: path.clone(), expected, found };
    seal.check(&path, integrity, damaged)
}
