// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A layer's tar, compressed while it is read: by a thread of its own, so that the registry waits for no compressor and the
//! compressor for no registry.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use flate2::Compression;
use flate2::read::GzEncoder;
use stos_spec::LayerCompression;

use crate::error::{Error, Result};

/// How much is handed over at once, in bytes.
const PIECE: usize = 256 << 10;

/// How many pieces may wait to be read.
const PIECES: usize = 8;

/// gzip's own middle between speed and size.
const GZIP_LEVEL: u32 = 6;

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

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

/// What comes out of a compressor. The same bytes at the same level always give the same.
pub(super) struct Compressed {
    pieces: Option<Receiver<io::Result<Vec<u8>>>>,
    current: Vec<u8>,
    taken: usize,
    worker: Option<JoinHandle<()>>,
}

impl Compressed {
    /// Begins to compress what `from` gives. `read` counts how much of that has been read.
    pub fn new(
        from: impl Read + Send + 'static,
        compression: LayerCompression,
        level: Option<u32>,
        read: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let counted = Counted { from, read };
        let compressor: Box<dyn Read + Send> = match compression {
            LayerCompression::None => Box::new(counted),
            LayerCompression::Gzip => {
                Box::new(GzEncoder::new(counted, Compression::new(level.unwrap_or(GZIP_LEVEL).min(9))))
            }
            LayerCompression::Zstd => {
                let level = level.map_or(ZSTD_LEVEL, |level| i32::try_from(level).unwrap_or(ZSTD_LEVEL));
                Box::new(zstd::stream::read::Encoder::new(counted, level)?)
            }
        };
        let (to, pieces) = sync_channel(PIECES);
        let worker = std::thread::Builder::new().name("compress".to_owned()).spawn(move || run(compressor, &to))?;
        Ok(Self { pieces: Some(pieces), current: Vec::new(), taken: 0, worker: Some(worker) })
    }
}

/// Hands on what the compressor gives, until its end, its first failure, or until nobody reads any more.
fn run(mut from: Box<dyn Read + Send>, to: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = from.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let is_last = piece.is_empty() || read.is_err();
        let piece = read.map(|_| piece);
        if to.send(piece).is_err() || is_last {
            return;
        }
    }
}

impl Read for Compressed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.current.len() {
            let Some(pieces) = &self.pieces else { return Ok(0) };
            // The last piece is empty, so a channel that ends before has lost its worker.
            let lost = || Err(io::Error::other("the compressor has ended too early"));
            self.current = pieces.recv().unwrap_or_else(|_| lost())?;
            self.taken = 0;
            if self.current.is_empty() {
                self.pieces = None;
            }
        }
        let count = (&self.current[self.taken..]).read(into)?;
        self.taken += count;
        Ok(count)
    }
}

impl Drop for Compressed {
    fn drop(&mut self) {
        // Then the worker finds that nobody reads.
        self.pieces = None;
        if let Some(worker) = self.worker.take() {
            // Had it panicked the reader would have been told.
            drop(worker.join());
        }
    }
}

struct Counted<R> {
    from: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(bytes: &[u8], compression: LayerCompression, level: Option<u32>) -> Vec<u8> {
        let read = Arc::new(AtomicU64::new(0));
        let from = io::Cursor::new(bytes.to_vec());
        let mut out = Vec::new();
        Compressed::new(from, compression, level, read.clone()).unwrap().read_to_end(&mut out).unwrap();
        assert_eq!(read.load(Ordering::Relaxed), bytes.len() as u64);
        out
    }

    #[test]
    fn what_is_compressed_is_what_was_read() {
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let gzip = compressed(&bytes, LayerCompression::Gzip, None);
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(gzip.as_slice()).read_to_end(&mut back).unwrap();
        assert!(back == bytes && gzip.len() < bytes.len() / 2);
        assert!(compressed(&bytes, LayerCompression::Gzip, None) == gzip, "the same each time");
        let zstd = compressed(&bytes, LayerCompression::Zstd, Some(1));
        assert!(zstd::stream::decode_all(zstd.as_slice()).unwrap() == bytes && zstd.len() < bytes.len() / 2);
        assert!(compressed(&bytes, LayerCompression::None, None) == bytes);
        for compression in [LayerCompression::Gzip, LayerCompression::Zstd] {
            assert!(!compressed(b"", compression, None).is_empty(), "nothing is something once it is compressed");
        }
        assert_eq!(compressed(b"", LayerCompression::None, None), b"");
    }

    #[test]
    fn a_failure_is_the_readers_and_a_reader_that_goes_ends_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the layer is damaged"))
            }
        }
        let read = Arc::<AtomicU64>::default();
        for compression in [LayerCompression::None, LayerCompression::Gzip, LayerCompression::Zstd] {
            let mut broken = Compressed::new(Broken, compression, None, read.clone()).unwrap();
            let error = broken.read_to_end(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("the layer is damaged"), "{error}");
        }
        let mut endless = Compressed::new(io::repeat(7), LayerCompression::None, None, read).unwrap();
        endless.read_exact(&mut [0; 9]).unwrap();
        drop(endless);
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
