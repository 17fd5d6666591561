// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes a tar again of what a [`TarSink`](super::TarSink) was given.

use std::io::{self, ErrorKind, Read, Write};

use super::indexer::TarIndexer;
use crate::{Error, Result};

/// Writes to `out` the tar whose other bytes than files' data are `raw`, as [`TarSink::raw`](crate::TarSink::raw) was
/// given them; gives its length.
///
/// `data` is asked for the data of each regular file in its turn: the entry's number in the index, the offset in that
/// file, the length, and where to write exactly that many bytes. The bytes of the tar come out again, trailing ones and
/// members without a record included; whether they are right is for the caller's digest to say.
///
/// # Errors
/// [`Error::Tar`] where `raw` is not that of a tar; [`Error::Data`] where `data` fails; [`Error::DataLength`] where it
/// writes too much or too little; [`Error::Io`] of the reader and the writer.
pub fn assemble_tar(
    mut raw: impl Read,
    mut out: impl Write,
    mut data: impl FnMut(u64, u64, u64, &mut dyn Write) -> io::Result<()>,
) -> Result<u64> {
    let mut indexer = TarIndexer::new(io::sink());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match raw.read(&mut buffer) {
            Ok(0) => return indexer.finish().map(|indexed| indexed.summary.tar_bytes),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("read the tar's headers")(error)),
        };
        let mut bytes = &buffer[..read];
        while !bytes.is_empty() {
            let taken = indexer.push_until_data(bytes)?;
            out.write_all(&bytes[..taken]).map_err(Error::io("write the tar"))?;
            bytes = &bytes[taken..];
            while let Some(run) = indexer.next_run() {
                let mut counted = Counted { inner: &mut out, left: run.len, excess: 0 };
                let outcome = data(run.number, run.offset, run.len, &mut counted);
                let (left, excess) = (counted.left, counted.excess);
                if left > 0 && outcome.is_ok() || excess > 0 {
                    let found = run.len - left + excess;
                    return Err(Error::DataLength { number: run.number, expected: run.len, found });
                }
                outcome.map_err(|source| Error::Data { number: run.number, source })?;
                indexer.pass(run.len);
            }
        }
    }
}

/// A writer that lets so many bytes pass and counts what was tried beyond.
struct Counted<'a, W> {
    inner: &'a mut W,
    left: u64,
    excess: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            self.excess = bytes.len() as u64;
            return Err(io::Error::new(ErrorKind::InvalidData, "more data than the file has"));
        }
        let count = self.inner.write(bytes)?;
        self.left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
