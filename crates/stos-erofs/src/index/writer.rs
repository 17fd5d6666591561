// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Encodes records.

use std::io::Write;

use super::{DataPlace, Entry, EntryKind, HAS_XATTRS, MAGIC, Metadata, VERSION, kind};
use crate::{Error, Result};

const FLUSH_AT: usize = 64 << 10;

/// Writes a layer index; keeps a buffer and the previous path, nothing else.
#[derive(Debug)]
pub(crate) struct IndexWriter<W: Write> {
    out: W,
    buffer: Vec<u8>,
    previous: Vec<u8>,
    records: u64,
    written: u64,
    crc: u32,
}

impl<W: Write> IndexWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        let mut buffer = Vec::with_capacity(FLUSH_AT + (FLUSH_AT >> 2));
        buffer.extend_from_slice(MAGIC);
        put(&mut buffer, VERSION);
        Self { out, buffer, previous: Vec::new(), records: 0, written: 0, crc: 0 }
    }

    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    pub(crate) fn write(&mut self, entry: &Entry) -> Result<()> {
        let (code, metadata) = code_and_metadata(&entry.kind);
        let has_xattrs = metadata.is_some_and(|metadata| !metadata.xattrs.is_empty());
        self.buffer.push(if has_xattrs { code | HAS_XATTRS } else { code });
        let shared = entry.path.iter().zip(&self.previous).take_while(|(new, old)| new == old).count();
        put(&mut self.buffer, shared as u64);
        put_bytes(&mut self.buffer, &entry.path[shared..]);
        if let Some(metadata) = metadata {
            put_metadata(&mut self.buffer, metadata);
        }
        match &entry.kind {
            EntryKind::Regular { size, block, .. } => {
                put(&mut self.buffer, *size);
                if *size != 0 {
                    put(&mut self.buffer, *block);
                }
            }
            EntryKind::Symlink { target, .. } | EntryKind::HardLink { target } => put_bytes(&mut self.buffer, target),
            EntryKind::CharacterDevice { major, minor, .. } | EntryKind::BlockDevice { major, minor, .. } => {
                put(&mut self.buffer, u64::from(*major));
                put(&mut self.buffer, u64::from(*minor));
            }
            EntryKind::Directory(_) | EntryKind::Fifo(_) | EntryKind::Whiteout | EntryKind::Opaque => {}
        }
        self.previous.truncate(shared);
        self.previous.extend_from_slice(&entry.path[shared..]);
        self.records += 1;
        if self.buffer.len() >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    /// Writes the trailer; gives the writer back, flushed, and the index's length.
    pub(crate) fn finish(mut self, tar_bytes: u64, extra_bytes: u64) -> Result<(W, u64)> {
        self.buffer.push(kind::END);
        put(&mut self.buffer, self.records);
        put(&mut self.buffer, tar_bytes);
        put(&mut self.buffer, extra_bytes);
        self.flush()?;
        self.out.write_all(&self.crc.to_le_bytes()).map_err(Error::io("write the layer index"))?;
        self.out.flush().map_err(Error::io("write the layer index"))?;
        Ok((self.out, self.written + 4))
    }

    fn flush(&mut self) -> Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.written += self.buffer.len() as u64;
        self.out.write_all(&self.buffer).map_err(Error::io("write the layer index"))?;
        self.buffer.clear();
        Ok(())
    }
}

fn code_and_metadata(entry: &EntryKind) -> (u8, Option<&Metadata>) {
    match entry {
        EntryKind::Directory(metadata) => (kind::DIRECTORY, Some(metadata)),
        EntryKind::Regular { metadata, place: DataPlace::Tar, .. } => (kind::REGULAR, Some(metadata)),
        EntryKind::Regular { metadata, place: DataPlace::Extra, .. } => (kind::SPARSE, Some(metadata)),
        EntryKind::Symlink { metadata, .. } => (kind::SYMLINK, Some(metadata)),
        EntryKind::CharacterDevice { metadata, .. } => (kind::CHARACTER, Some(metadata)),
        EntryKind::BlockDevice { metadata, .. } => (kind::BLOCK, Some(metadata)),
        EntryKind::Fifo(metadata) => (kind::FIFO, Some(metadata)),
        EntryKind::HardLink { .. } => (kind::HARD_LINK, None),
        EntryKind::Whiteout => (kind::WHITEOUT, None),
        EntryKind::Opaque => (kind::OPAQUE, None),
    }
}

fn put_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    put(out, u64::from(metadata.mode));
    put(out, u64::from(metadata.uid));
    put(out, u64::from(metadata.gid));
    let seconds = metadata.mtime.seconds;
    put(out, ((seconds << 1) ^ (seconds >> 63)) as u64);
    put(out, u64::from(metadata.mtime.nanoseconds));
    if metadata.xattrs.is_empty() {
        return;
    }
    put(out, metadata.xattrs.len() as u64);
    for xattr in &metadata.xattrs {
        out.push(xattr.namespace as u8);
        put_bytes(out, &xattr.name);
        put_bytes(out, &xattr.value);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
