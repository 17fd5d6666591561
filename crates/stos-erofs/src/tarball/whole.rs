// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Indexes a whole tar, and what comes of it.

use std::io::{ErrorKind, Read, Write};

use super::indexer::TarIndexer;
use super::sink::{NoSink, TarSink};
use crate::{Error, Result};

/// What an index holds, and what it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSummary {
    /// The number of records.
    pub entries: u64,
    /// The length of the tar in bytes, all that followed the end of the archive included.
    pub tar_bytes: u64,
    /// The length in bytes of the extra file that the data of the sparse files are to be put into; 0 where there are none.
    pub extra_bytes: u64,
    /// How many bytes of the tar followed the end of the archive: padding of the last record, or anything.
    pub trailing_bytes: u64,
    /// The length of the index in bytes.
    pub index_bytes: u64,
}

/// A tar that has been indexed to its end.
#[derive(Debug)]
pub struct Indexed<W, S = NoSink> {
    /// Where the index went, flushed, but not synced.
    pub out: W,
    /// Who took what the tar holds.
    pub sink: S,
    /// What the index holds.
    pub summary: IndexSummary,
}

/// Indexes a whole tar; see [`TarIndexer`] for its rules.
///
/// # Errors
/// As [`TarIndexer::push`] and [`TarIndexer::finish`]; the reader's error.
pub fn index_tar<W: Write>(tar: impl Read, out: W) -> Result<(W, IndexSummary)> {
    let indexed = index_tar_into(tar, out, NoSink)?;
    Ok((indexed.out, indexed.summary))
}

/// Indexes a whole tar, and gives what it holds to `sink`.
///
/// # Errors
/// As [`TarIndexer::push`] and [`TarIndexer::finish`]; the reader's error.
pub fn index_tar_into<W: Write, S: TarSink>(mut tar: impl Read, out: W, sink: S) -> Result<Indexed<W, S>> {
    let mut indexer = TarIndexer::with_sink(out, sink);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match tar.read(&mut buffer) {
            Ok(0) => return indexer.finish(),
            Ok(read) => indexer.push(&buffer[..read])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read the tar")(error)),
        }
    }
}
