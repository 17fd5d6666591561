// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers in zstd (RFC 8878): frames one after the other, skippable ones among them, within a bound on memory.
//!
//! A decoder keeps a frame's whole window. Up to [`WINDOW_FREE`] each layer may have its own, which is what every level of
//! zstd(1) up to 19 asks for; up to [`WINDOW_MAX`], the most that `zstd -d` takes unasked, one layer of the process after the
//! other. So the windows of N layers at a time take at most N × 8 MiB + 128 MiB, whatever the frames ask for.

use std::io::{self, BufRead, ErrorKind, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

/// The largest window in bytes that a frame has without waiting.
pub(crate) const WINDOW_FREE: u64 = 8 << 20;
/// The largest window in bytes.
pub(crate) const WINDOW_MAX: u64 = 1 << WINDOW_MAX_BITS;
const WINDOW_MAX_BITS: u32 = 27;
const MAGIC: u32 = 0xfd2f_b528;
/// The lowest four bits of a skippable frame's magic number are its own.
const MAGIC_SKIPPABLE: u32 = 0x184d_2a50;
/// The longest frame header: magic number, descriptor, window, dictionary, content size.
const HEADER_MAX: usize = 18;

/// Held by whoever decodes frames with a window above [`WINDOW_FREE`].
static LARGE_WINDOW: Mutex<()> = Mutex::new(());

/// Decodes all frames of a stream.
pub(crate) struct ZstdReader<R> {
    source: R,
    context: DCtx<'static>,
    /// What has been read of the source to look at the frame's header; the first `given` bytes have been decoded.
    header: Vec<u8>,
    given: usize,
    is_in_frame: bool,
    has_frames: bool,
    /// Kept to the end: so is the decoder's memory.
    large: Option<MutexGuard<'static, ()>>,
}

impl<R: BufRead> ZstdReader<R> {
    pub(crate) fn new(source: R) -> io::Result<Self> {
        let mut context = DCtx::try_create().ok_or(ErrorKind::OutOfMemory)?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_MAX_BITS)).map_err(told)?;
        let header = Vec::with_capacity(HEADER_MAX);
        Ok(Self { source, context, header, given: 0, is_in_frame: false, has_frames: false, large: None })
    }

    /// Looks at the next frame's header; `false` says that the stream has ended.
    fn begin_frame(&mut self) -> io::Result<bool> {
        // Of a tiny frame: the next one begins within what has been read.
        self.header.drain(..self.given);
        self.given = 0;
        while self.header.len() < HEADER_MAX {
            let bytes = self.source.fill_buf()?;
            let count = bytes.len().min(HEADER_MAX - self.header.len());
            if count == 0 {
                break;
            }
            self.header.extend_from_slice(&bytes[..count]);
            self.source.consume(count);
        }
        if self.header.is_empty() && self.has_frames {
            return Ok(false);
        }
        let window = window_of(&self.header)?;
        if window > WINDOW_MAX {
            let text = format!("a zstd frame with a window of {window} bytes: expected at most {WINDOW_MAX}");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        if window > WINDOW_FREE && self.large.is_none() {
            // Nothing can be left half-done under it.
            self.large = Some(LARGE_WINDOW.lock().unwrap_or_else(PoisonError::into_inner));
        }
        (self.is_in_frame, self.has_frames) = (true, true);
        Ok(true)
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !into.is_empty() {
            if !self.is_in_frame && !self.begin_frame()? {
                return Ok(0);
            }
            let of_header = self.given < self.header.len();
            let bytes = if of_header { &self.header[self.given..] } else { self.source.fill_buf()? };
            let is_at_end = bytes.is_empty();
            let mut input = InBuffer::around(bytes);
            let mut output = OutBuffer::around(&mut *into);
            let left = self.context.decompress_stream(&mut output, &mut input).map_err(told)?;
            let (taken, given) = (input.pos(), output.pos());
            if of_header {
                self.given += taken;
            } else {
                self.source.consume(taken);
            }
            self.is_in_frame = left != 0;
            if given > 0 {
                return Ok(given);
            }
            if self.is_in_frame && is_at_end {
                return Err(cut_short());
            }
        }
        Ok(0)
    }
}

/// The window in bytes that a frame's header asks for; 0 of a skippable frame.
fn window_of(header: &[u8]) -> io::Result<u64> {
    let number = |at: usize, len: usize| -> io::Result<u64> {
        let bytes = header.get(at..at + len).ok_or_else(cut_short)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    let magic = number(0, 4)? as u32;
    if magic & !0xf == MAGIC_SKIPPABLE {
        return Ok(0);
    }
    if magic != MAGIC {
        let text = format!("expected a zstd frame, found bytes that begin with {magic:#010x}");
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    let descriptor = number(4, 1)?;
    let is_single_segment = descriptor & 0x20 != 0;
    if !is_single_segment {
        let window = number(5, 1)?;
        let base = 1 << (10 + (window >> 3));
        return Ok(base + base / 8 * (window & 7));
    }
    // The content is the window.
    let dictionary_len = [0, 1, 2, 4][(descriptor & 3) as usize];
    let size_at = 5 + dictionary_len;
    match descriptor >> 6 {
        0 => number(size_at, 1),
        1 => Ok(number(size_at, 2)? + 256),
        2 => number(size_at, 4),
        _ => number(size_at, 8),
    }
}

fn cut_short() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the zstd frame is cut short")
}

fn told(code: usize) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, get_error_name(code))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zstd::stream::write::Encoder;

    use super::*;

    fn frame(bytes: &[u8], window_log: Option<u32>) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        if let Some(bits) = window_log {
            encoder.window_log(bits).unwrap();
        }
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn skippable(len: usize) -> Vec<u8> {
        [&0x184d_2a5b_u32.to_le_bytes()[..], &(len as u32).to_le_bytes(), &vec![0xfd; len]].concat()
    }

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // Pieces that split headers.
        ZstdReader::new(io::BufReader::with_capacity(7, bytes))?.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn frames_are_one_stream_and_skippable_ones_are_skipped() {
        let text: Vec<u8> = (0..300_000_u32).map(|number| (number / 3) as u8).collect();
        let parts =
            [skippable(0), frame(&text[..5], None), frame(b"", None), skippable(70_000), frame(&text[5..], None)];
        assert!(decode(&parts.concat()).unwrap() == text);
        let small = zstd::bulk::compress(&text[..100], 1).unwrap();
        assert!(
            decode(&[&small[..], &skippable(3), &small].concat()).unwrap() == [&text[..100], &text[..100]].concat()
        );
        assert_eq!(decode(&skippable(9)).unwrap(), b"");
    }

    #[test]
    fn what_is_no_whole_frame_is_refused() {
        let whole = frame(&[b'x'; 10_000], None);
        for cut in 0..whole.len() {
            let error = decode(&whole[..cut]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{cut}: {error}");
        }
        for garbage in [&b"garbage"[..], &[0; 512], b"x", &whole[..3]] {
            decode(&[&whole[..], garbage].concat()).unwrap_err();
        }
        let skip = skippable(100);
        assert_eq!(decode(&skip[..50]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        let mut wrong = whole.clone();
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        assert!(decode(&wrong).unwrap_err().to_string().contains("checksum"));
    }

    #[test]
    fn windows_are_bounded_in_every_frame() {
        for bits in [10, 23, 24, 27] {
            assert_eq!(window_of(&frame(b"x", Some(bits))).unwrap(), 1 << bits);
            assert_eq!(decode(&frame(b"x", Some(bits))).unwrap(), b"x");
        }
        let far = frame(b"x", Some(28));
        for stream in [far.clone(), [frame(b"x", None), far].concat()] {
            let error = decode(&stream).unwrap_err().to_string();
            assert!(error.contains("268435456") && error.contains("134217728"), "{error}");
        }
        // A single segment states its content's size instead: 2³² bytes in 8.
        let single = [&MAGIC.to_le_bytes()[..], &[0xe0], &(1_u64 << 32).to_le_bytes()].concat();
        assert_eq!(window_of(&single).unwrap(), 1 << 32);
        assert!(decode(&single).unwrap_err().to_string().contains("4294967296"));
    }

    #[test]
    fn a_large_window_is_held_to_the_end_of_the_stream_and_a_small_one_waits_for_none() {
        let read_one = |reader: &mut ZstdReader<&[u8]>| {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            byte
        };
        let (large, small) = (frame(b"x", Some(24)), frame(b"y", Some(23)));
        let stream = [&large[..], &small].concat();
        let mut holder = ZstdReader::new(&stream[..]).unwrap();
        for expected in [b"x", b"y"] {
            assert_eq!(read_one(&mut holder), *expected);
            assert!(LARGE_WINDOW.try_lock().is_err(), "held");
            let mut other = ZstdReader::new(&small[..]).unwrap();
            assert_eq!(read_one(&mut other), *b"y");
            assert!(other.large.is_none());
        }
    }
}
