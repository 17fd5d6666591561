// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Decodes and proves an index.

use std::io::{ErrorKind, Read};

use super::{DataPlace, Entry, EntryKind, HAS_XATTRS, MAGIC, MAX_MAJOR, MAX_MINOR, Metadata, Timestamp, VERSION, kind};
use crate::error::IndexProblem;
use crate::path::{MAX_COMPONENT, MAX_PATH, MAX_SYMLINK, is_normal};
use crate::xattr::{MAX_BODY, MAX_VALUE, Namespace, Xattr, body_len};
use crate::{BLOCK, Error, Result};

/// What an index says about its layer as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexTotals {
    /// The number of records.
    pub entries: u64,
    /// The length of the tar in bytes, all that follows its end-of-archive included.
    pub tar_bytes: u64,
    /// The length in bytes of the extra file with the data of its sparse files; 0 where there are none.
    pub extra_bytes: u64,
}

/// Reads a `layer.index` record by record.
///
/// **The records are proved only once [`next_entry`](Self::next_entry) has returned `None`**: then the checksum
/// matched, the count was right and nothing followed. What was built from earlier records must be thrown away on an
/// error. Every record by itself is well-formed (path normal, lengths within their limits), so that a damaged index
/// cannot do harm.
#[derive(Debug)]
pub struct IndexReader<R> {
    source: Source<R>,
    path: Vec<u8>,
    entries: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Records,
    Finished(IndexTotals),
    Failed,
}

impl<R: Read> IndexReader<R> {
    /// Reads the magic number and the format version.
    ///
    /// The reader needs no buffer of its own.
    ///
    /// # Errors
    /// [`IndexProblem::Magic`], [`IndexProblem::Version`], [`IndexProblem::Truncated`], or the reader's error.
    pub fn new(inner: R) -> Result<Self> {
        let mut source = Source::new(inner);
        let mut magic = Vec::new();
        source.bytes(MAGIC.len(), &mut magic)?;
        if magic != MAGIC {
            return Err(source.fail(IndexProblem::Magic { found: magic }));
        }
        let found = source.varint()?;
        if found != VERSION {
            return Err(source.fail(IndexProblem::Version { expected: VERSION, found }));
        }
        Ok(Self { source, path: Vec::new(), entries: 0, state: State::Records })
    }

    /// Gives the next entry, or `None` after the last one, with the whole index proved.
    ///
    /// # Errors
    /// [`Error::Index`] where the index is damaged or cut short; the reader's error. After an error the reader is
    /// unusable.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        match self.state {
            State::Records => {}
            State::Finished(_) => return Ok(None),
            State::Failed => return Err(Error::UsedAfterError { object: "IndexReader" }),
        }
        self.state = State::Failed;
        let code = self.source.byte()?;
        if code == kind::END {
            self.state = State::Finished(self.trailer()?);
            return Ok(None);
        }
        let entry = self.record(code)?;
        self.entries += 1;
        self.state = State::Records;
        Ok(Some(entry))
    }

    /// Gives the totals once [`next_entry`](Self::next_entry) has returned `None`.
    pub fn totals(&self) -> Option<IndexTotals> {
        match self.state {
            State::Finished(totals) => Some(totals),
            _ => None,
        }
    }

    fn record(&mut self, code: u8) -> Result<Entry> {
        self.read_path()?;
        let has_xattrs = code & HAS_XATTRS != 0;
        let kind = match code & !HAS_XATTRS {
            kind::HARD_LINK | kind::WHITEOUT | kind::OPAQUE if has_xattrs => {
                return Err(self.source.bad("record kind"));
            }
            kind::DIRECTORY => EntryKind::Directory(self.metadata(has_xattrs)?),
            kind::REGULAR => self.regular(has_xattrs, DataPlace::Tar)?,
            kind::SPARSE => self.regular(has_xattrs, DataPlace::Extra)?,
            kind::SYMLINK => {
                EntryKind::Symlink { metadata: self.metadata(has_xattrs)?, target: self.target(MAX_SYMLINK)? }
            }
            kind::CHARACTER => {
                let (metadata, major, minor) = self.device(has_xattrs)?;
                EntryKind::CharacterDevice { metadata, major, minor }
            }
            kind::BLOCK => {
                let (metadata, major, minor) = self.device(has_xattrs)?;
                EntryKind::BlockDevice { metadata, major, minor }
            }
            kind::FIFO => EntryKind::Fifo(self.metadata(has_xattrs)?),
            kind::HARD_LINK => self.hard_link()?,
            kind::WHITEOUT => EntryKind::Whiteout,
            kind::OPAQUE => EntryKind::Opaque,
            _ => return Err(self.source.bad("record kind")),
        };
        if self.path.is_empty() && !matches!(kind, EntryKind::Directory(_) | EntryKind::Opaque) {
            return Err(self.source.bad("type of the root"));
        }
        Ok(Entry { path: self.path.clone(), kind })
    }

    fn read_path(&mut self) -> Result<()> {
        let shared = self.source.bounded(self.path.len(), "shared path length")?;
        let rest = self.source.bounded(MAX_PATH - shared, "path length")?;
        self.path.truncate(shared);
        self.source.bytes(rest, &mut self.path)?;
        if is_normal(&self.path) { Ok(()) } else { Err(self.source.bad("path")) }
    }

    fn metadata(&mut self, has_xattrs: bool) -> Result<Metadata> {
        let mode = self.source.bounded(0o7777, "mode")? as u16;
        let uid = self.source.bounded(u32::MAX as usize, "uid")? as u32;
        let gid = self.source.bounded(u32::MAX as usize, "gid")? as u32;
        let zigzag = self.source.varint()?;
        let seconds = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        let nanoseconds = self.source.bounded(999_999_999, "nanoseconds")? as u32;
        let xattrs = if has_xattrs { self.xattrs()? } else { Vec::new() };
        Ok(Metadata { mode, uid, gid, mtime: Timestamp { seconds, nanoseconds }, xattrs })
    }

    fn xattrs(&mut self) -> Result<Vec<Xattr>> {
        let count = self.source.bounded(MAX_BODY / 4, "number of attributes")?;
        let mut xattrs: Vec<Xattr> = Vec::new();
        for _ in 0..count {
            let Some(namespace) = Namespace::from_index(self.source.byte()?) else {
                return Err(self.source.bad("attribute namespace"));
            };
            let (mut name, mut value) = (Vec::new(), Vec::new());
            let len = self.source.bounded(MAX_COMPONENT, "attribute name length")?;
            self.source.bytes(len, &mut name)?;
            let len = self.source.bounded(MAX_VALUE, "attribute value length")?;
            self.source.bytes(len, &mut value)?;
            let xattr = Xattr { namespace, name, value };
            if xattrs.last().is_some_and(|last| (last.namespace, &last.name) >= (xattr.namespace, &xattr.name)) {
                return Err(self.source.bad("order of attributes"));
            }
            xattrs.push(xattr);
        }
        if xattrs.is_empty() || body_len(&xattrs) > MAX_BODY {
            return Err(self.source.bad("size of all attributes"));
        }
        Ok(xattrs)
    }

    fn regular(&mut self, has_xattrs: bool, place: DataPlace) -> Result<EntryKind> {
        let metadata = self.metadata(has_xattrs)?;
        let size = self.source.varint()?;
        if size == 0 && place == DataPlace::Extra {
            return Err(self.source.bad("size of a sparse file"));
        }
        let block = if size == 0 { 0 } else { self.source.varint()? };
        if block.checked_mul(BLOCK).and_then(|start| start.checked_add(size)).is_none_or(|end| end > i64::MAX as u64) {
            return Err(self.source.bad("extent"));
        }
        Ok(EntryKind::Regular { metadata, size, place, block })
    }

    fn device(&mut self, has_xattrs: bool) -> Result<(Metadata, u32, u32)> {
        let metadata = self.metadata(has_xattrs)?;
        let major = self.source.bounded(MAX_MAJOR as usize, "major number")? as u32;
        let minor = self.source.bounded(MAX_MINOR as usize, "minor number")? as u32;
        Ok((metadata, major, minor))
    }

    fn hard_link(&mut self) -> Result<EntryKind> {
        let target = self.target(MAX_PATH)?;
        if !is_normal(&target) {
            return Err(self.source.bad("hard link target"));
        }
        Ok(EntryKind::HardLink { target })
    }

    fn target(&mut self, limit: usize) -> Result<Vec<u8>> {
        let len = self.source.bounded(limit, "length of a link target")?;
        let mut target = Vec::new();
        self.source.bytes(len, &mut target)?;
        if target.is_empty() || target.contains(&0) {
            return Err(self.source.bad("link target"));
        }
        Ok(target)
    }

    fn trailer(&mut self) -> Result<IndexTotals> {
        let expected = self.source.varint()?;
        let tar_bytes = self.source.varint()?;
        let extra_bytes = self.source.varint()?;
        let found_crc = self.source.checksum();
        let mut stated = Vec::new();
        self.source.bytes(4, &mut stated)?;
        let expected_crc = u32::from_le_bytes([stated[0], stated[1], stated[2], stated[3]]);
        if expected_crc != found_crc {
            return Err(self.source.fail(IndexProblem::Checksum { expected: expected_crc, found: found_crc }));
        }
        if expected != self.entries {
            return Err(self.source.fail(IndexProblem::Count { expected, found: self.entries }));
        }
        if !self.source.at_end()? {
            return Err(self.source.fail(IndexProblem::TrailingBytes));
        }
        Ok(IndexTotals { entries: self.entries, tar_bytes, extra_bytes })
    }
}

/// A buffered reader that sums up what has been taken from it.
#[derive(Debug)]
struct Source<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    summed: usize,
    crc: u32,
    before: u64,
}

impl<R: Read> Source<R> {
    fn new(inner: R) -> Self {
        Self { inner, buffer: vec![0; 64 << 10], start: 0, end: 0, summed: 0, crc: 0, before: 0 }
    }

    fn fail(&self, problem: IndexProblem) -> Error {
        Error::Index { offset: self.before + self.start as u64, problem }
    }

    fn bad(&self, what: &'static str) -> Error {
        self.fail(IndexProblem::Record { what })
    }

    /// The CRC-32C of everything taken so far.
    fn checksum(&mut self) -> u32 {
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer[self.summed..self.start]);
        self.summed = self.start;
        self.crc
    }

    /// Refills the empty buffer; tells whether there was anything left.
    fn refill(&mut self) -> Result<bool> {
        self.checksum();
        self.before += self.start as u64;
        (self.start, self.end, self.summed) = (0, 0, 0);
        loop {
            match self.inner.read(&mut self.buffer) {
                Ok(read) => {
                    self.end = read;
                    return Ok(read != 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read the layer index")(error)),
            }
        }
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(self.start == self.end && !self.refill()?)
    }

    fn byte(&mut self) -> Result<u8> {
        if self.at_end()? {
            return Err(self.fail(IndexProblem::Truncated));
        }
        self.start += 1;
        Ok(self.buffer[self.start - 1])
    }

    fn bytes(&mut self, mut len: usize, out: &mut Vec<u8>) -> Result<()> {
        while len > 0 {
            if self.at_end()? {
                return Err(self.fail(IndexProblem::Truncated));
            }
            let taken = len.min(self.end - self.start);
            out.extend_from_slice(&self.buffer[self.start..self.start + taken]);
            self.start += taken;
            len -= taken;
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.bad("number"))
    }

    fn bounded(&mut self, limit: usize, what: &'static str) -> Result<usize> {
        let value = self.varint()?;
        if value > limit as u64 {
            return Err(self.bad(what));
        }
        Ok(value as usize)
    }
}
