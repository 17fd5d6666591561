// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A layer's tar, compressed while it is read: by several threads, a block each, so that one large layer takes all processors and
//! the registry waits for none of them.
//!
//! Each block is a member of gzip, or a frame of zstd, of its own. Both formats are made of any number of them (RFC 1952, 2.2; RFC
//! 8878, 3): every engine reads them on, and stargz and zstd:chunked, which all registries carry, are built so.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use libdeflater::{CompressionLvl, Compressor};
use stos_spec::LayerCompression;

use crate::counted::Counted;
use crate::error::{Error, Result};

/// How much of the tar is a member of gzip, in bytes: enough that a member costs nothing beside its bytes.
const GZIP_BLOCK: usize = 1 << 20;

/// How much of it is a frame of zstd, whose windows are larger.
const ZSTD_BLOCK: usize = 2 << 20;

/// The most threads that compress one layer.
const WORKERS_MAX: usize = 8;

/// As hard as this library tries at 5 its output is smaller than that of zlib at 6, at nearly twice the speed.
const GZIP_LEVEL: u32 = 5;

/// zstd's own default.
const ZSTD_LEVEL: u32 = 3;

/// Refuses a level that the compression does not have.
///
/// # Errors
/// [`Error::Option`].
pub(super) fn check_level(compression: Option<LayerCompression>, level: Option<u32>) -> Result<()> {
    let Some(level) = level else { return Ok(()) };
    let (max, name) = match compression {
        None | Some(LayerCompression::Gzip) => (9, "gzip"),
        Some(LayerCompression::Zstd) => (20, "zstd"),
        Some(LayerCompression::None) => (0, "none"),
    };
    if (1..=max).contains(&level) {
        return Ok(());
    }
    let reason = match max {
        0 => "nothing is to be compressed".to_owned(),
        max => format!("expected 1 to {max} for {name}"),
    };
    Err(Error::Option { option: "--compression-level", value: level.to_string(), reason })
}

/// What compresses blocks, and how hard.
#[derive(Debug, Clone, Copy)]
pub(super) enum Codec {
    Gzip(u32),
    Zstd(u32),
}

/// A block that is being compressed, or why there is none.
type Piece = io::Result<Vec<u8>>;

/// Compresses a block.
type Compress = Box<dyn FnMut(&[u8]) -> Piece + Send>;

/// What comes out of the compressors, in order. The same bytes at the same level always give the same.
pub(super) struct Compressed {
    /// The blocks under way; the last one is empty.
    order: Option<Receiver<Receiver<Piece>>>,
    current: Vec<u8>,
    taken: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Codec {
    /// Gives what compresses so at this level, or at the one that it has by default; `None` where nothing is to be compressed.
    pub fn new(compression: LayerCompression, level: Option<u32>) -> Option<Self> {
        match compression {
            LayerCompression::None => None,
            LayerCompression::Gzip => Some(Self::Gzip(level.unwrap_or(GZIP_LEVEL))),
            LayerCompression::Zstd => Some(Self::Zstd(level.unwrap_or(ZSTD_LEVEL))),
        }
    }

    fn block(self) -> usize {
        match self {
            Self::Gzip(_) => GZIP_BLOCK,
            Self::Zstd(_) => ZSTD_BLOCK,
        }
    }

    /// Gives what compresses one block after the other.
    fn compressor(self) -> io::Result<Compress> {
        let level = |level| i32::try_from(level).map_err(io::Error::other);
        Ok(match self {
            Self::Gzip(of) => {
                let mut compressor = Compressor::new(CompressionLvl::new(level(of)?).unwrap_or_default());
                Box::new(move |block| {
                    let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
                    let count = compressor.gzip_compress(block, &mut out).map_err(io::Error::other)?;
                    out.truncate(count);
                    Ok(out)
                })
            }
            Self::Zstd(of) => {
                let mut compressor = zstd::bulk::Compressor::new(level(of)?)?;
                Box::new(move |block| compressor.compress(block))
            }
        })
    }
}

/// Compresses blocks until there are no more. Who does not want one any more has gone.
fn work(mut compress: Compress, blocks: &Receiver<(Vec<u8>, Sender<Piece>)>) {
    for (block, done) in blocks {
        drop(done.send(compress(&block)));
    }
}

impl Compressed {
    /// Begins to compress what `from` gives. `read` counts how much of that has been read.
    pub fn new(from: impl Read + Send + 'static, codec: Codec, read: Arc<AtomicU64>) -> io::Result<Self> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let (to_order, order) = bounded(workers + 1);
        let (to_workers, blocks) = bounded(0);
        let start =
            |name: &str, work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.to_owned()).spawn(work);
        // Whatever has begun by then ends when this is dropped.
        let mut compressed = Self { order: Some(order), current: Vec::new(), taken: 0, threads: Vec::new() };
        for _ in 0..workers {
            let (compress, blocks) = (codec.compressor()?, blocks.clone());
            compressed.threads.push(start("compress", Box::new(move || work(compress, &blocks)))?);
        }
        let count = move |count| {
            read.fetch_add(count, Ordering::Relaxed);
        };
        let mut from = Counted::new(from, count);
        let feed = move || feed(&mut from, codec.block(), &to_order, &to_workers);
        compressed.threads.push(start("compress feed", Box::new(feed))?);
        Ok(compressed)
    }
}

/// Hands blocks to the workers, until the end, the first failure, or until nobody reads any more. The end is an empty piece: no block
/// gives one.
fn feed(from: &mut dyn Read, size: usize, order: &Sender<Receiver<Piece>>, workers: &Sender<(Vec<u8>, Sender<Piece>)>) {
    let mut is_first = true;
    loop {
        let mut block = Vec::with_capacity(size);
        let read = from.take(size as u64).read_to_end(&mut block);
        let (done, piece) = bounded(1);
        if order.send(piece).is_err() {
            return;
        }
        match read {
            // Nothing at all is something once it is compressed.
            Ok(0) if !is_first => return drop(done.send(Ok(Vec::new()))),
            Err(error) => return drop(done.send(Err(error))),
            Ok(_) => is_first = false,
        }
        if workers.send((block, done)).is_err() {
            return;
        }
    }
}

impl Read for Compressed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.current.len() {
            let Some(order) = &self.order else { return Ok(0) };
            // A thread that has ended before the end has panicked: what it would have given is missing.
            let piece = order.recv().and_then(|piece| piece.recv());
            self.current = piece.unwrap_or_else(|_| Err(io::Error::other("the compressor has ended too early")))?;
            self.taken = 0;
            if self.current.is_empty() {
                self.order = None;
            }
        }
        let count = (&self.current[self.taken..]).read(into)?;
        self.taken += count;
        Ok(count)
    }
}

impl Drop for Compressed {
    fn drop(&mut self) {
        // Then the others find that nobody reads.
        self.order = None;
        for thread in self.threads.drain(..) {
            // Had it panicked the reader would have been told.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(bytes: &[u8], codec: Codec) -> Vec<u8> {
        let read = Arc::new(AtomicU64::new(0));
        let from = io::Cursor::new(bytes.to_vec());
        let mut out = Vec::new();
        Compressed::new(from, codec, read.clone()).unwrap().read_to_end(&mut out).unwrap();
        assert_eq!(read.load(Ordering::Relaxed), bytes.len() as u64);
        out
    }

    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn what_is_compressed_is_what_was_read() {
        let bytes: Vec<u8> = (0..1_200_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for size in [0, 1, GZIP_BLOCK, GZIP_BLOCK + 1, 2 * ZSTD_BLOCK] {
            let bytes = &bytes[..size];
            let gzip = compressed(bytes, Codec::Gzip(6));
            assert!(gunzip(&gzip) == bytes && gzip.len() < bytes.len() / 2 + 100, "{size}");
            assert!(compressed(bytes, Codec::Gzip(6)) == gzip, "the same each time");
            let zstd = compressed(bytes, Codec::Zstd(1));
            assert!(zstd::stream::decode_all(zstd.as_slice()).unwrap() == bytes, "{size}");
            assert!(!gzip.is_empty() && !zstd.is_empty(), "nothing is something once it is compressed");
        }
        assert!(compressed(&bytes, Codec::Gzip(9)).len() < compressed(&bytes, Codec::Gzip(1)).len());
    }

    #[test]
    fn a_failure_is_the_readers_and_a_reader_that_goes_ends_it() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("the layer is damaged"))?;
                into.fill(7);
                Ok(into.len())
            }
        }
        let read = Arc::<AtomicU64>::default();
        for codec in [Codec::Gzip(1), Codec::Zstd(1)] {
            for reads in [0, 1, 100] {
                let mut broken = Compressed::new(Broken(reads), codec, read.clone()).unwrap();
                let error = broken.read_to_end(&mut Vec::new()).unwrap_err();
                assert!(error.to_string().contains("the layer is damaged"), "{error}");
            }
            let mut endless = Compressed::new(io::repeat(7), codec, read.clone()).unwrap();
            endless.read_exact(&mut [0; 9]).unwrap();
            drop(endless);
        }
    }

    #[test]
    fn a_thread_that_panics_ends_nothing_early() {
        struct Panics;
        impl Read for Panics {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("a test's own panic");
            }
        }
        let mut lost = Compressed::new(Panics, Codec::Gzip(1), Arc::default()).unwrap();
        let error = lost.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("too early"), "{error}");
    }

    #[test]
    fn levels_are_those_of_the_compression() {
        use LayerCompression::{Gzip, None as Plain, Zstd};
        for (compression, level) in [(None, 1), (Some(Gzip), 9), (Some(Zstd), 20)] {
            check_level(compression, Some(level)).unwrap();
            check_level(compression, None).unwrap();
        }
        for (compression, level) in
            [(None, 10), (Some(Gzip), 0), (Some(Gzip), 10), (Some(Zstd), 21), (Some(Zstd), 0), (Some(Plain), 1)]
        {
            let error = check_level(compression, Some(level)).unwrap_err();
            assert!(matches!(error, Error::Option { option: "--compression-level", .. }), "{error}");
        }
    }
}
