// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who else may see what a tar holds while it is indexed.

use std::io;

use crate::index::Entry;

/// Takes what a tar holds, in its order, beside the index.
///
/// Every byte of the tar is given once, either to [`data`](Self::data) or to [`raw`](Self::raw), in pieces of any length:
/// who keeps both can make the tar again with [`assemble_tar`](crate::assemble_tar). What was given is proved only once
/// the indexer has finished, and the caller has the tar's digest. After an error nothing more is given.
pub trait TarSink {
    /// Takes the next entry; `number` counts the records of the index from 0. Of a regular file with data its data follow.
    fn entry(&mut self, number: u64, entry: &Entry) -> io::Result<()>;

    /// Takes data of the regular file of the last [`entry`](Self::entry), which belong at `offset` of that file. Offsets
    /// rise. Holes of sparse files are not given.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Takes every other byte of the tar, in its place: headers, padding, sparse maps, data of members that the index has no
    /// record of or that are no regular files, what follows the end.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Takes nothing: the index is all that is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSink;

impl TarSink for NoSink {
    #[inline]
    fn entry(&mut self, _: u64, _: &Entry) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    fn data(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    fn raw(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
