// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inflating gzip: by zlib-rs, or with the feature `isal` by Intel's igzip. Both refuse the same.
//!
//! Several members are one stream (RFC 1952 §2.2); whatever else follows the last one is an error.

use std::io::{BufRead, Read};

/// Reads what was compressed.
#[cfg(not(feature = "isal"))]
pub(crate) fn gunzip(source: impl BufRead) -> impl Read {
    flate2::bufread::MultiGzDecoder::new(source)
}

/// Reads what was compressed.
#[cfg(feature = "isal")]
pub(crate) fn gunzip(source: impl BufRead) -> impl Read {
    igzip::Reader::new(source)
}

#[cfg(feature = "isal")]
mod igzip {
    use std::io::{self, BufRead, ErrorKind, Read};

    use stos_sys::igzip::Inflater;

    pub(super) struct Reader<R> {
        source: R,
        inflater: Inflater,
        /// A member has ended, and nothing of another has come.
        is_between: bool,
    }

    impl<R: BufRead> Reader<R> {
        pub(super) fn new(source: R) -> Self {
            Self { source, inflater: Inflater::new(), is_between: false }
        }
    }

    impl<R: BufRead> Read for Reader<R> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            while !into.is_empty() {
                let input = self.source.fill_buf()?;
                let is_over = input.is_empty();
                if self.is_between {
                    if is_over {
                        return Ok(0);
                    }
                    self.inflater.reset();
                    self.is_between = false;
                }
                let step = self.inflater.step(input, into);
                let step = step.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                self.source.consume(step.taken);
                self.is_between = step.is_end;
                if step.put > 0 {
                    return Ok(step.put);
                }
                if is_over && !step.is_end {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn member(text: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Inflates by reads of `size`, from buffers of `buffer`.
    fn inflate(bytes: &[u8], buffer: usize, size: usize) -> Result<Vec<u8>, std::io::Error> {
        let mut reader = gunzip(BufReader::with_capacity(buffer, bytes));
        let (mut text, mut part) = (Vec::new(), vec![0; size]);
        loop {
            match reader.read(&mut part)? {
                0 => return Ok(text),
                count => text.extend_from_slice(&part[..count]),
            }
        }
    }

    #[test]
    fn members_are_one_stream_however_they_come() {
        let noise: Vec<u8> = (0..200_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let text = [&noise[..], &b"layers and tars ".repeat(20_000), &[0; 100_000]].concat();
        for level in [0, 1, 6, 9] {
            let bytes = [member(&text, level), member(b"", level), member(b"x", level), member(&text, level)].concat();
            let expected = [&text[..], b"x", &text].concat();
            for (buffer, size) in [(1 << 18, 1 << 18), (1, 100_000), (7, 4096), (100, 33), (1 << 16, 1)] {
                assert!(inflate(&bytes, buffer, size).unwrap() == expected, "{level} {buffer} {size}");
            }
        }
    }

    #[test]
    fn what_is_not_whole_or_not_right_is_refused() {
        let good = member(&b"a text that is long enough ".repeat(500), 6);
        for cut in 0..good.len() {
            assert!(inflate(&good[..cut], 64, 512).is_err(), "cut at {cut}");
        }
        for (case, bytes) in [
            ("zeros after it", [&good[..], &[0; 512]].concat()),
            ("text after it", [&good[..], b"more"].concat()),
            ("half of a member after it", [&good[..], &good[..good.len() / 2]].concat()),
            ("one byte of a member after it", [&good[..], &good[..1]].concat()),
            ("no gzip", b"plain text".to_vec()),
            ("nothing", Vec::new()),
        ] {
            assert!(inflate(&bytes, 64, 512).is_err(), "{case}");
        }
        for at in [0, 1, 2, 12, good.len() - 8, good.len() - 1] {
            let mut bytes = good.clone();
            bytes[at] ^= 0xff;
            assert!(inflate(&bytes, 64, 512).is_err(), "byte {at}");
        }
    }
}
