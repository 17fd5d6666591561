// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one pass: a blob comes in, a proved layer tar and its index go to disk, and no byte is handled twice.
//!
//! ```text
//! this thread:  read ──────────────┐ buffers        ┌──► used again
//! inflate:      decompress ◄───────┘──┐ buffers     │
//! write:        index, write ◄────────┘             │
//!               hash: diffID, and blob digest ──────┘
//! ```
//!
//! The two hashes are computed in turn, block by block, of buffers that are done with otherwise: that takes the processor hardly longer
//! than the larger of them ([`crate::two_hashers`]).
//!
//! Memory is a fixed number of 256 KiB buffers, and for zstd a window whose size is bounded. Hostile bytes are indexed before their
//! digests are known: they stay in staging, and the result is a success only when size, blob digest and diffID have all matched. Whoever
//! makes them visible makes them durable first.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use stos_erofs::{IndexSummary, Indexed, TarIndexer};
use stos_spec::{BlobDigest, Descriptor, DiffId, LayerCompression};
use stos_store::files;

use crate::error::{Error, LayerLabel, Result};
use crate::extra::{ExtraWriter, sink_error};
use crate::gunzip::gunzip;
use crate::layer_stream::LayerStream;
use crate::pipe::{self, PipeReader, PipeWriter};
use crate::room::Room;
use crate::seal::{HashingWriter, Seal};
use crate::write_behind::WriteBehind;
use crate::zstd_frames::ZstdReader;

/// How many inodes of a filesystem a layer leaves to others where there are plenty.
const INODES_MAX: u64 = 20_000;
/// How many bytes of a blob are still read after its layer has failed, so that a wrong digest is told as the cause.
const DRAIN_MAX: u64 = 64 << 20;

/// A layer to be ingested.
#[derive(Debug, Clone, Copy)]
pub struct IngestRequest<'a> {
    /// What errors call it.
    pub label: &'a LayerLabel,
    /// What the blob must be: digest and size; `None` where nobody has promised any.
    pub blob: Option<&'a Descriptor>,
    /// How the blob is compressed.
    pub compression: LayerCompression,
    /// What the uncompressed layer must hash to; `None` for a new one.
    pub diff_id: Option<DiffId>,
    /// The bound on the uncompressed layer, in bytes.
    pub max_size: u64,
    /// How many bytes of the disk must stay free, whoever else fills it meanwhile.
    pub reserve: u64,
}

/// What an ingest wrote.
#[derive(Debug)]
pub struct IngestReport {
    /// What the uncompressed layer hashes to.
    pub diff_id: DiffId,
    /// What the blob hashes to.
    pub blob: BlobDigest,
    /// The blob's size in bytes.
    pub blob_size: u64,
    /// The seal of `layer.tar`; its digest is the diffID.
    pub tar: Seal,
    /// The seal of `layer.index`.
    pub index: Seal,
    /// The seal of `layer.extra`, where the layer has sparse files.
    pub extra: Option<Seal>,
    /// What the tar holds.
    pub summary: IndexSummary,
    /// How long each part of the work kept its thread busy or waiting.
    pub times: StageTimes,
}

/// Where the time of an ingest went. One thread receives, one inflates, one writes and hashes, all at the same time.
#[derive(Debug, Clone, Copy, Default)]
pub struct StageTimes {
    /// Reading the blob, with waiting for the network and for who inflates.
    pub receive: Duration,
    /// Hashing the layer and its blob, without waiting.
    pub hash: Duration,
    /// Indexing and writing the layer, without waiting.
    pub write: Duration,
    /// The whole.
    pub total: Duration,
}

/// Reads the blob of `request` from `source` and writes `layer.tar`, `layer.index`, and for sparse files `layer.extra` into `dir`.
/// None is synced yet.
///
/// `progress` is told of each count of blob bytes as they come.
pub fn ingest_layer(
    request: IngestRequest<'_>,
    source: impl Read,
    dir: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<IngestReport> {
    let started = Instant::now();
    let (received, written) = flow(request, source, progress, |from| write_layer(request, from, dir))?;
    check_diff_id(request, received.diff_id)?;
    written.finish(received, started).map_err(|error| error.while_writing(request.label.clone()))
}

/// Lets a blob flow through its threads to `write`, which takes the uncompressed layer to its end. The blob is proved when this returns.
///
/// Of several failures the one is told that caused the others.
pub(crate) fn flow<T: Send>(
    request: IngestRequest<'_>,
    source: impl Read,
    progress: &(dyn Fn(u64) + Sync),
    write: impl FnOnce(&mut LayerStream) -> Result<T> + Send,
) -> Result<(Received, T)> {
    let started = Instant::now();
    let trouble = &Trouble::default();
    let (came, time, inflated, (written, hashes)) = std::thread::scope(|scope| {
        let (to, mut stream, inflater) = match request.compression {
            LayerCompression::None => {
                let (to, from) = pipe::pipe();
                (to, LayerStream::plain(from), None)
            }
            compression => {
                let (to, from, spent) = pipe::relay();
                let (layer_to, layer_from) = pipe::pipe();
                let inflater = scope.spawn(move || inflate(from, compression, layer_to, trouble));
                (to, LayerStream::inflated(layer_from, spent), Some(inflater))
            }
        };
        let writer = scope.spawn(move || {
            let written = write(&mut stream);
            match &written {
                // The layer is all of it, whatever of it was of use.
                Ok(_) => stream.skip_rest(),
                Err(Error::Tar { .. }) => drop(trouble.tell(Trouble::OF_THE_BYTES)),
                // No digest of the blob explains a disk that is full.
                Err(_) => drop(trouble.tell(Trouble::OF_OURS)),
            }
            (written, stream.finish())
        });
        let came = receive(request, source, to, trouble, progress);
        (came, started.elapsed(), inflater.map_or(Ok(()), join), join(writer))
    });
    let Arrival { size, is_whole } = came?;
    let blob = BlobDigest::from_bytes(hashes.blob);
    // The cause of whatever went wrong after.
    if let Some(expected) = request.blob.filter(|expected| is_whole && expected.digest != blob) {
        return Err(Error::BlobDigest { blob: expected.digest, found: blob });
    }
    // A stream that stops inflating looks like a tar that ends early.
    inflated.map_err(|source| Error::Decompress { layer: request.label.clone(), source })?;
    let diff_id = DiffId::from_bytes(hashes.layer);
    Ok((Received { blob, size, diff_id, time, hashing: hashes.time }, written?))
}

/// Refuses a layer that is not the one that was promised.
pub(crate) fn check_diff_id(request: IngestRequest<'_>, found: DiffId) -> Result<()> {
    match request.diff_id {
        Some(expected) if expected != found => Err(Error::DiffId { layer: request.label.clone(), expected, found }),
        _ => Ok(()),
    }
}

/// A thread that panicked has a bug of ours to tell: the panic goes on.
fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A blob that has come in whole, and was proved.
pub(crate) struct Received {
    pub(crate) blob: BlobDigest,
    pub(crate) size: u64,
    /// What the uncompressed layer hashes to.
    pub(crate) diff_id: DiffId,
    /// How long it took to come.
    pub(crate) time: Duration,
    /// How long it took to hash it and the layer.
    pub(crate) hashing: Duration,
}

/// What one thread of a flow has met with, for that which receives.
#[derive(Debug, Default)]
struct Trouble(AtomicU8);

impl Trouble {
    /// The bytes are not a layer. Perhaps they are not those that were promised: the rest of them tells.
    const OF_THE_BYTES: u8 = 1;
    /// No byte that may still come would explain it.
    const OF_OURS: u8 = 2;

    /// The worst counts. Says whether it is the first, and so the cause of what others meet with.
    fn tell(&self, trouble: u8) -> bool {
        self.0.fetch_max(trouble, Ordering::AcqRel) == 0
    }

    fn is(&self, trouble: u8) -> bool {
        self.0.load(Ordering::Acquire) >= trouble
    }
}

/// What has come of a blob.
struct Arrival {
    size: u64,
    /// Not so where the rest was of no use.
    is_whole: bool,
}

/// Reads the blob and hands it on.
fn receive(
    request: IngestRequest<'_>,
    mut source: impl Read,
    to: PipeWriter,
    trouble: &Trouble,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Arrival> {
    let mut size = 0_u64;
    let mut drained = 0_u64;
    loop {
        let mut buffer = to.buffer();
        let more = pipe::fill(&mut source, &mut buffer)
            .map_err(|source| Error::Source { layer: request.label.clone(), source })?;
        let count = buffer.len() as u64;
        size = size.saturating_add(count);
        check_size(request.blob, size, |expected| size <= expected)?;
        progress(count);
        if trouble.is(Trouble::OF_THE_BYTES) {
            drained += count;
        }
        // Where no digest was promised, none can be the cause.
        let is_vain = drained > DRAIN_MAX || (drained > 0 && request.blob.is_none()) || trouble.is(Trouble::OF_OURS);
        if !to.send(buffer) || is_vain {
            return Ok(Arrival { size, is_whole: false });
        }
        if !more {
            check_size(request.blob, size, |expected| size == expected)?;
            return Ok(Arrival { size, is_whole: true });
        }
    }
}

fn check_size(blob: Option<&Descriptor>, found: u64, is_right: impl Fn(u64) -> bool) -> Result<()> {
    match blob {
        Some(blob) if !is_right(blob.size) => Err(Error::BlobSize { blob: blob.digest, expected: blob.size, found }),
        _ => Ok(()),
    }
}

/// Decompresses what comes and hands it on. All that comes is given back, also what is not decompressed: it is hashed then.
///
/// Fails only where this is the first to fail: a blob that is not read on, since its layer is of no use, looks like one that ends early.
fn inflate(mut from: PipeReader, compression: LayerCompression, to: PipeWriter, trouble: &Trouble) -> io::Result<()> {
    let outcome = match compression {
        LayerCompression::None => pump(&mut from, &to),
        LayerCompression::Gzip => pump(gunzip(&mut from), &to),
        LayerCompression::Zstd => ZstdReader::new(&mut from).and_then(|inflated| pump(inflated, &to)),
    };
    let outcome = outcome.or_else(|error| if trouble.tell(Trouble::OF_THE_BYTES) { Err(error) } else { Ok(()) });
    // The layer ends here, before its blob does.
    drop(to);
    from.give_back_all();
    outcome
}

fn pump(mut source: impl Read, to: &PipeWriter) -> io::Result<()> {
    loop {
        let mut buffer = to.buffer();
        let more = pipe::fill(&mut source, &mut buffer)?;
        if !to.send(buffer) || !more {
            return Ok(());
        }
    }
}

/// A layer on its way to disk.
struct LayerFiles<'a> {
    tar_path: std::path::PathBuf,
    index_path: std::path::PathBuf,
    tar: File,
    index: HashingWriter<BufWriter<File>>,
    extra: ExtraWriter,
    summary: IndexSummary,
    busy: Duration,
    label: &'a LayerLabel,
}

fn write_layer<'a>(request: IngestRequest<'a>, from: &mut LayerStream, dir: &Path) -> Result<LayerFiles<'a>> {
    let label = request.label;
    let (tar_path, index_path) = (dir.join("layer.tar"), dir.join("layer.index"));
    let on_disk = |error: Error| error.while_writing(label.clone());
    let refuse = |error| match error {
        stos_erofs::Error::Io { source, .. } => on_disk(Error::io("write", &index_path)(source)),
        stos_erofs::Error::Sink { source } => on_disk(sink_error(source, dir)),
        source => Error::Tar { layer: label.clone(), source },
    };
    let mut tar = files::create_new(&tar_path).map_err(|error| on_disk(error.into()))?;
    let index = files::create_new(&index_path).map_err(|error| on_disk(error.into()))?;
    let out = HashingWriter::new(BufWriter::with_capacity(64 << 10, index));
    let mut indexer = TarIndexer::with_sink(out, ExtraWriter::new(dir));
    let mut behind = WriteBehind::default();
    let (mut written, mut busy) = (0_u64, Duration::ZERO);
    while let Some(buffer) = from.next_buffer() {
        let started = Instant::now();
        let grown = written + indexer.sink().written() + buffer.len() as u64;
        if grown > request.max_size {
            return Err(Error::TooLarge { layer: label.clone(), limit: request.max_size });
        }
        indexer.push(buffer).map_err(refuse)?;
        write_or_skip(&mut tar, buffer).map_err(Error::io("write", &tar_path)).map_err(on_disk)?;
        written += buffer.len() as u64;
        behind.advance(&tar, written).map_err(Error::io("write", &tar_path)).map_err(on_disk)?;
        // Each time, for a small buffer can ask for much: a map of single bytes, each in a block of its own.
        check_room(request, &tar, &tar_path, written)?;
        busy += started.elapsed();
    }
    behind.finish().map_err(Error::io("write", &tar_path)).map_err(on_disk)?;
    // What was skipped at the end.
    tar.set_len(written).map_err(Error::io("set the length of", &tar_path)).map_err(on_disk)?;
    let Indexed { out: index, sink: extra, summary } = indexer.finish().map_err(refuse)?;
    Ok(LayerFiles { tar_path, index_path, tar, index, extra, summary, busy, label })
}

/// Writes a buffer; a whole one of zeros becomes a hole, so that zeros without end cost no disk.
fn write_or_skip(tar: &mut File, buffer: &[u8]) -> io::Result<()> {
    if buffer.len() == pipe::BUFFER_SIZE && pipe::is_zero(buffer) {
        return tar.seek(SeekFrom::Current(buffer.len() as i64)).map(drop);
    }
    tar.write_all(buffer)
}

/// Stops a layer before the disk is full: others write to it as well, other layers of the same image first of all.
pub(crate) fn check_room(request: IngestRequest<'_>, tar: &File, path: &Path, written: u64) -> Result<()> {
    let free = Room::of(tar).map_err(Error::io("measure the disk of", path))?.bytes;
    if free >= request.reserve {
        return Ok(());
    }
    Err(Error::NoRoom { layer: request.label.clone(), written, free, reserve: request.reserve })
}

/// Stops a layer of many files before the filesystem has no inode left for others. Some filesystems do not count them.
pub(crate) fn check_inodes(request: IngestRequest<'_>, file: &File, path: &Path) -> Result<()> {
    let disk = rustix::fs::fstatvfs(file).map_err(Error::io("measure the disk of", path))?;
    let reserve = INODES_MAX.min(disk.f_files / 20);
    if request.reserve == 0 || disk.f_files == 0 || disk.f_favail >= reserve {
        return Ok(());
    }
    Err(Error::NoInodes { layer: request.label.clone(), free: disk.f_favail, reserve })
}

impl LayerFiles<'_> {
    /// Writes what is left of the index, and seals the files.
    fn finish(self, received: Received, started: Instant) -> Result<IngestReport> {
        let Received { blob, size: blob_size, diff_id, time, hashing } = received;
        let (index, index_digest) = self.index.finish();
        let index = index.into_inner().map_err(|error| Error::io("write", &self.index_path)(error.into_error()))?;
        let tar = Seal::of(&self.tar, BlobDigest::from_bytes(*diff_id.as_bytes()), &self.tar_path)?;
        let index = Seal::of(&index, index_digest, &self.index_path)?;
        let extra = self.extra.finish(diff_id, self.summary.extra_bytes)?.map(|(_, seal)| seal);
        let times = StageTimes { receive: time, hash: hashing, write: self.busy, total: started.elapsed() };
        tracing::debug!(
            layer = %self.label, blob_bytes = blob_size, tar_bytes = tar.size, index_bytes = index.size,
            receive_ms = ms(times.receive), hash_ms = ms(times.hash), write_ms = ms(times.write), total_ms = ms(times.total),
            "layer ingested"
        );
        Ok(IngestReport { diff_id, blob, blob_size, tar, index, extra, summary: self.summary, times })
    }
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
