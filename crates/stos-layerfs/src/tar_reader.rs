// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A layer's tar as something to read, wherever its bytes come from.

use std::io::{self, Read, Write};
use std::thread::JoinHandle;

use stos_spec::{DiffId, DigestHasher};

use crate::error::{Error, Result};
use crate::pipe::{self, BUFFER_SIZE, PipeReader, PipeWriter};

/// The tar of a layer. **The last read fails where the bytes were not those of the layer**, so who reads to the end has
/// proved them.
pub struct TarReader {
    layer: DiffId,
    size: u64,
    left: u64,
    hasher: Option<DigestHasher>,
    from: Option<PipeReader>,
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl TarReader {
    /// Reads what `write` writes, in a thread of its own.
    pub(crate) fn new(
        layer: DiffId,
        size: u64,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (to, from) = pipe::pipe();
        let work = move || {
            let mut out = Out { to, buffer: Vec::new() };
            write(&mut out)?;
            out.flush()
        };
        let writer = std::thread::Builder::new().name("layer tar".to_owned()).spawn(work);
        let writer = writer.map_err(Error::io("start a thread to read", format!("layer {layer}")))?;
        let hasher = Some(DigestHasher::default());
        Ok(Self { layer, size, left: size, hasher, from: Some(from), writer: Some(writer) })
    }

    /// Gives the tar's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Looks whether all came and was right.
    fn end(&mut self) -> io::Result<()> {
        self.from = None;
        if let Some(writer) = self.writer.take() {
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let found = DiffId::from_bytes(hasher.finish());
        if found == self.layer {
            return Ok(());
        }
        let said = format!("layer {} is damaged: what the store keeps of it hashes to {found}", self.layer);
        Err(io::Error::new(io::ErrorKind::InvalidData, said))
    }
}

impl Read for TarReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(from) = &mut self.from else { return Ok(0) };
        let count = from.read(into)?;
        if count == 0 && !into.is_empty() {
            self.end()?;
            return Ok(0);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&into[..count]);
        }
        let is_longer = match self.left.checked_sub(count as u64) {
            // Who reads exactly its length learns it too.
            Some(0) => from.read(&mut [0])? > 0,
            Some(left) => {
                self.left = left;
                return Ok(count);
            }
            None => true,
        };
        if is_longer {
            let said = format!("layer {} is damaged: its tar is longer than {} bytes", self.layer, self.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, said));
        }
        self.end()?;
        Ok(count)
    }
}

impl Drop for TarReader {
    fn drop(&mut self) {
        // Then the writer finds that nobody reads.
        self.from = None;
        if let Some(writer) = self.writer.take() {
            // Its error is that.
            drop(writer.join());
        }
    }
}

/// Writes into a pipe by whole buffers.
struct Out {
    to: PipeWriter,
    buffer: Vec<u8>,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == BUFFER_SIZE {
            self.flush()?;
        }
        let count = bytes.len().min(BUFFER_SIZE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut empty = self.to.buffer();
        empty.clear();
        match self.to.send(std::mem::replace(&mut self.buffer, empty)) {
            true => Ok(()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &'static [u8], layer: DiffId, size: u64) -> TarReader {
        TarReader::new(layer, size, move |out| out.write_all(bytes)).unwrap()
    }

    #[test]
    fn what_is_read_to_its_end_is_proved() {
        let bytes: &[u8] = b"the bytes of a tar";
        let (layer, size) = (DiffId::of(bytes), bytes.len() as u64);
        let mut whole = Vec::new();
        reader(bytes, layer, size).read_to_end(&mut whole).unwrap();
        assert_eq!(whole, bytes);
        let mut exact = vec![0; bytes.len()];
        reader(bytes, layer, size).read_exact(&mut exact).unwrap();
        for (case, mut wrong) in [
            ("other bytes", reader(b"the bytes of a tax", layer, size)),
            ("too few", reader(&bytes[1..], layer, size)),
            ("too many", reader(bytes, layer, size - 1)),
        ] {
            let error = wrong.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{case}");
            assert!(error.to_string().contains(&layer.to_string()), "{case}: {error}");
        }
        let error = reader(b"the bytes of a tax", layer, size).read_exact(&mut exact).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_writer_s_error_is_the_reader_s_and_a_reader_that_goes_stops_it() {
        let fails = |_: &mut dyn Write| Err(io::Error::other("broken"));
        let mut reader = TarReader::new(DiffId::of(b""), 9, fails).unwrap();
        assert_eq!(reader.read(&mut [0; 9]).unwrap_err().to_string(), "broken");
        let endless = |out: &mut dyn Write| loop {
            out.write_all(&[0; 4096])?;
        };
        let mut reader = TarReader::new(DiffId::of(b""), u64::MAX, endless).unwrap();
        reader.read_exact(&mut [0; 9]).unwrap();
        drop(reader);
    }
}
