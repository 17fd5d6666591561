// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the files of a save go: into a tar, or into a [directory](super::directory).

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use crate::error::{Error, Result};

/// Takes files one after the other.
pub(super) trait Sink {
    /// Writes a file of `size` bytes. Whoever reads `from` proves them.
    ///
    /// # Errors
    /// Where `from` ends before; what it has beyond is left alone.
    fn add_stream(&mut self, name: &str, size: u64, from: &mut dyn Read) -> Result<()>;

    /// Writes a small file.
    fn add_bytes(&mut self, name: &str, mut bytes: &[u8]) -> Result<()> {
        self.add_stream(name, bytes.len() as u64, &mut bytes)
    }
}

/// Copies `size` bytes; `name` is what errors call them.
pub(super) fn copy(from: &mut dyn Read, size: u64, to: &mut dyn Write, name: &str) -> Result<()> {
    let mut left = size;
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = match from.read(&mut buffer[..most]) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ends {left} bytes early"))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other,
        };
        let count = count.map_err(stos_store::Error::io("read", name))?;
        to.write_all(&buffer[..count]).map_err(Error::output("write", name))?;
        left -= count as u64;
    }
    Ok(())
}

/// A tar in the making: ustar headers, owned by root, of no time, so that the same files give the same bytes.
pub(super) struct TarSink<'a> {
    out: &'a mut dyn Write,
}

impl<'a> TarSink<'a> {
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<()> {
        let ended = self.out.write_all(&[0; 1024]).and_then(|()| self.out.flush());
        ended.map_err(Error::output("write", "the end of the archive"))
    }
}

impl Sink for TarSink<'_> {
    fn add_stream(&mut self, name: &str, size: u64, from: &mut dyn Read) -> Result<()> {
        let write = |error: io::Error| Error::output("write", name)(error);
        let mut header = Header::new_ustar();
        header.set_path(name).map_err(write)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // From 8 GiB on in base 256, which GNU, Go and libarchive read.
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(write)?;
        copy(from, size, self.out, name)?;
        let padding = size.next_multiple_of(512) - size;
        self.out.write_all(&[0; 512][..usize::try_from(padding).unwrap_or_default()]).map_err(write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_of_the_same_files_is_the_same_and_a_reader_that_ends_early_fails() {
        let write = || {
            let mut out = Vec::new();
            let mut sink = TarSink::new(&mut out);
            sink.add_stream("a", 3, &mut &b"abcd"[..]).unwrap();
            sink.add_bytes("blobs/sha256/x", b"").unwrap();
            sink.finish().unwrap();
            out
        };
        assert_eq!(write(), write());
        assert_eq!(write().len(), 512 + 512 + 512 + 1024);
        let mut out = Vec::new();
        let error = TarSink::new(&mut out).add_stream("a", 3, &mut &b"ab"[..]).unwrap_err();
        assert!(error.to_string().contains("1 bytes early"), "{error}");
    }
}
