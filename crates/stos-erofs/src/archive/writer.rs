// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entries in, a tar out.

use std::io::{self, ErrorKind, Read, Write};

use super::header::HeaderBlock;
use super::pax::{Records, time};
use super::sparse::{self, DataRange};
use crate::error::{TarProblem, printable};
use crate::index::{Entry, EntryKind, Metadata};
use crate::path::{self, MAX_COMPONENT, MAX_SYMLINK, Named, normalise};
use crate::{BLOCK, Error, MAX_EXTENDED_HEADER, Result};

/// What a file may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// A layer's: what begins with `.wh.` would be a whiteout to whoever reads it, and is refused.
    OfLayer,
    /// Any: the tar is a tree and nobody's layer. Whiteouts and opaque markers are written as a layer's.
    Free,
}

/// Writes a tar, entry by entry: the same entries give the same bytes.
///
/// The form is ustar, with a PAX header before an entry only for what the ustar header cannot say: a long name or one
/// that is not ASCII (its bytes as they are, UTF-8 or not), 8 GiB and more, ids from 2²¹ on, times before 1970, with a
/// fraction or beyond 33 bits, extended attributes (`SCHILY.xattr.*`). Directories end in a slash; a sparse file is
/// PAX's 1.0. No user or group is named. **The tar is whole only after [`finish`](Self::finish)**, which adds the two
/// zero blocks.
///
/// Memory is bounded by one entry's metadata: data pass through one buffer.
#[derive(Debug)]
pub struct TarWriter<W: Write> {
    out: W,
    names: Names,
    position: u64,
    buffer: Vec<u8>,
    has_failed: bool,
}

/// An entry's header in the making, and what does not fit into it.
struct Member {
    header: HeaderBlock,
    records: Records,
}

impl<W: Write> TarWriter<W> {
    /// Starts a layer's tar. The writer gets headers and data in pieces of 512 bytes to 64 KiB.
    pub fn new(out: W) -> Self {
        Self::with_names(out, Names::OfLayer)
    }

    /// Starts a tar whose files may be called so.
    pub fn with_names(out: W, names: Names) -> Self {
        Self { out, names, position: 0, buffer: vec![0; 64 << 10], has_failed: false }
    }

    /// How many bytes of the tar have been written.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes one entry; the data of a regular file come from `data`, which is asked of nothing else.
    ///
    /// `size` is a promise that is kept: where the data end before, zeros follow, and what comes after is left alone. So a file
    /// that changes while it is read never breaks the tar. `place` and `block` are not looked at. The header of a hard link says what the
    /// index knows of it, that is nothing: [`append_link`](Self::append_link) says more.
    ///
    /// # Errors
    /// [`Error::Tar`] for what no reader would take: a name or target of the wrong form, an attribute's name with `=`;
    /// the reader's and the writer's errors. After an error every call fails.
    pub fn append(&mut self, entry: &Entry, data: impl Read) -> Result<()> {
        match &entry.kind {
            EntryKind::Directory(metadata) => self.append_plain(b'5', &entry.path, metadata),
            EntryKind::Regular { metadata, size, .. } => self.append_file(&entry.path, metadata, *size, data),
            EntryKind::Symlink { metadata, target } => self.append_symlink(&entry.path, metadata, target),
            EntryKind::CharacterDevice { metadata, major, minor } => {
                self.append_device(b'3', &entry.path, metadata, (*major, *minor))
            }
            EntryKind::BlockDevice { metadata, major, minor } => {
                self.append_device(b'4', &entry.path, metadata, (*major, *minor))
            }
            EntryKind::Fifo(metadata) => self.append_plain(b'6', &entry.path, metadata),
            EntryKind::HardLink { target } => self.append_link(&entry.path, &Metadata::default(), target),
            EntryKind::Whiteout => self.append_whiteout(&entry.path),
            EntryKind::Opaque => self.guarded(&entry.path, |writer| writer.put_marker(&path::opaque_name(&entry.path))),
        }
    }

    /// Writes a regular file whose data come from `data`: `size` bytes, no more, and zeros for those that do not come.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_file(&mut self, path: &[u8], metadata: &Metadata, size: u64, data: impl Read) -> Result<()> {
        self.guarded(path, |writer| {
            let mut member = writer.member(b'0', path, metadata)?;
            member.size(size);
            member.attributes(metadata)?;
            writer.put_member(member)?;
            writer.copy(data, size)?;
            writer.pad(size)
        })
    }

    /// Writes a hard link with the metadata of its file: stos reads none there, while Docker and podman give them to the file.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_link(&mut self, path: &[u8], metadata: &Metadata, target: &[u8]) -> Result<()> {
        self.guarded(path, |writer| {
            let mut member = writer.member(b'1', path, metadata)?;
            let what = "hard link target";
            if normalise(target, what)? != target || target.is_empty() {
                return Err(TarProblem::Unwritable { reason: "the link's target is not in normal form" }.into());
            }
            member.link(target);
            member.attributes(metadata)?;
            writer.put_member(member)
        })
    }

    /// Writes a regular file of which only `ranges` hold data, which `data` gives one after the other; the rest are zeros.
    ///
    /// # Errors
    /// As [`Self::append`]; for ranges that are empty, not in order, not within `size`, or not of whole blocks.
    pub fn append_sparse(
        &mut self,
        path: &[u8],
        metadata: &Metadata,
        size: u64,
        ranges: &[DataRange],
        data: impl Read,
    ) -> Result<()> {
        self.guarded(path, |writer| {
            let (map, data_len) = sparse::encode(size, ranges)?;
            // Who knows no sparse files unpacks map and data under this name, as with GNU tar's own archives.
            let (parent, name) = path::split(path);
            let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
            let stand_in = [parent, slash, b"GNUSparseFile.0/", name].concat();
            writer.check_name(path)?;
            let mut member = Member::new(b'0', metadata);
            // Cut where it is long: the record says the name.
            member.header.set_name(&stand_in);
            member.records.add_number("GNU.sparse.major", 1);
            member.records.add_number("GNU.sparse.minor", 0);
            member.records.add(b"GNU.sparse.name", path);
            member.records.add_number("GNU.sparse.realsize", size);
            let stored = map.len() as u64 + data_len;
            member.size(stored);
            member.attributes(metadata)?;
            writer.put_member(member)?;
            writer.put(&map)?;
            writer.copy(data, data_len)?;
            writer.pad(stored)
        })
    }

    /// Ends the archive; gives the writer back, flushed.
    ///
    /// # Errors
    /// The writer's error.
    pub fn finish(mut self) -> Result<W> {
        if self.has_failed {
            return Err(Error::UsedAfterError { object: "TarWriter" });
        }
        let ended = self.out.write_all(&[0; 2 * BLOCK as usize]).and_then(|()| self.out.flush());
        ended.map_err(Error::io("write the tar"))?;
        Ok(self.out)
    }

    fn append_plain(&mut self, type_flag: u8, path: &[u8], metadata: &Metadata) -> Result<()> {
        self.guarded(path, |writer| {
            let mut member = writer.member(type_flag, path, metadata)?;
            member.attributes(metadata)?;
            writer.put_member(member)
        })
    }

    fn append_symlink(&mut self, path: &[u8], metadata: &Metadata, target: &[u8]) -> Result<()> {
        self.guarded(path, |writer| {
            let mut member = writer.member(b'2', path, metadata)?;
            let what = "symbolic link target";
            match target.len() {
                0 => return Err(TarProblem::EmptyTarget { what }.into()),
                1..=MAX_SYMLINK if !target.contains(&0) => member.link(target),
                1..=MAX_SYMLINK => return Err(TarProblem::Unwritable { reason: "NUL in the link's target" }.into()),
                found => return Err(TarProblem::PathTooLong { what, limit: MAX_SYMLINK, found }.into()),
            }
            member.attributes(metadata)?;
            writer.put_member(member)
        })
    }

    fn append_device(
        &mut self,
        type_flag: u8,
        path: &[u8],
        metadata: &Metadata,
        (major, minor): (u32, u32),
    ) -> Result<()> {
        use crate::index::{MAX_MAJOR, MAX_MINOR};
        self.guarded(path, |writer| {
            if major > MAX_MAJOR || minor > MAX_MINOR {
                return Err(TarProblem::Unwritable { reason: "a device number beyond 4095:1048575" }.into());
            }
            if type_flag == b'3' && (major, minor) == (0, 0) && writer.names == Names::OfLayer {
                return Err(TarProblem::Unwritable { reason: "the character device 0:0 would be a whiteout" }.into());
            }
            let mut member = writer.member(type_flag, path, metadata)?;
            member.header.set_device(major, minor);
            member.attributes(metadata)?;
            writer.put_member(member)
        })
    }

    /// Writes `.wh.NAME`; where that is longer than a name can be, overlayfs's own whiteout, the character device 0:0, which
    /// every engine that stands on overlayfs obeys.
    fn append_whiteout(&mut self, path: &[u8]) -> Result<()> {
        self.guarded(path, |writer| match path::whiteout_name(path) {
            Err(TarProblem::ComponentTooLong { .. }) if path::split(path).1.len() <= MAX_COMPONENT => {
                let mut member = Member::new(b'3', &Metadata::default());
                member.name(path);
                writer.put_member(member)
            }
            name => writer.put_marker(&name?),
        })
    }

    /// Writes an empty file of that name, mode 0, root's, at time 0.
    fn put_marker(&mut self, name: &[u8]) -> Result<(), Problem> {
        let mut member = Member::new(b'0', &Metadata::default());
        member.name(name);
        self.put_member(member)
    }

    /// Starts the header of an entry of that name.
    fn member(&self, type_flag: u8, path: &[u8], metadata: &Metadata) -> Result<Member, Problem> {
        if type_flag != b'5' && path.is_empty() {
            return Err(TarProblem::RootNotDirectory { found: char::from(type_flag) }.into());
        }
        self.check_name(path)?;
        let mut member = Member::new(type_flag, metadata);
        match (type_flag, path) {
            (b'5', b"") => member.name(b"./"),
            (b'5', path) => member.name(&[path, b"/"].concat()),
            (_, path) => member.name(path),
        }
        Ok(member)
    }

    /// The name must come out of a reader as it went in.
    fn check_name(&self, path: &[u8]) -> Result<(), TarProblem> {
        if path.contains(&0) {
            return Err(TarProblem::Unwritable { reason: "NUL in the name" });
        }
        match (self.names, path::classify(if path.is_empty() { b"." } else { path })) {
            (_, Ok(Named::Path(normal))) if normal == path => Ok(()),
            (_, Ok(Named::Path(_))) => Err(TarProblem::Unwritable { reason: "the name is not in normal form" }),
            (Names::Free, Ok(_) | Err(TarProblem::WhiteoutName { .. })) => Ok(()),
            (Names::OfLayer, Ok(_)) => Err(TarProblem::Unwritable {
                reason: "a name that begins with \".wh.\" is a whiteout in a layer, never a file",
            }),
            (_, Err(problem)) => Err(problem),
        }
    }

    /// Writes the PAX header where one is needed, and the header.
    fn put_member(&mut self, member: Member) -> Result<(), Problem> {
        let Member { header, records } = member;
        if !records.is_empty() {
            let found = records.as_bytes().len() as u64;
            if found > MAX_EXTENDED_HEADER {
                return Err(TarProblem::ExtendedHeaderTooLarge { limit: MAX_EXTENDED_HEADER, found }.into());
            }
            let mut extended = HeaderBlock::new(b'x');
            extended.set_name(b"././@PaxHeader");
            extended.set_mode(0o644);
            extended.set_size(found);
            self.put(&extended.finish())?;
            self.put(records.as_bytes())?;
            self.pad(found)?;
        }
        self.put(&header.finish())
    }

    /// Copies `len` bytes of the data, and zeros for those that do not come.
    fn copy(&mut self, mut data: impl Read, len: u64) -> Result<(), Problem> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = len;
        while left > 0 {
            let wanted = left.min(buffer.len() as u64) as usize;
            let read = fill(&mut data, &mut buffer[..wanted]).map_err(Error::io("read a file's data"))?;
            if read == 0 {
                buffer.fill(0);
                while left > 0 {
                    let count = left.min(buffer.len() as u64) as usize;
                    self.put(&buffer[..count])?;
                    left -= count as u64;
                }
                break;
            }
            self.put(&buffer[..read])?;
            left -= read as u64;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Fills the last block of `len` bytes with zeros.
    fn pad(&mut self, len: u64) -> Result<(), Problem> {
        let padding = (len.wrapping_neg() % BLOCK) as usize;
        self.put(&[0; BLOCK as usize][..padding])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.out.write_all(bytes).map_err(Error::io("write the tar"))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Runs what writes one entry; an error of it names the entry.
    fn guarded(&mut self, path: &[u8], write: impl FnOnce(&mut Self) -> Result<(), Problem>) -> Result<()> {
        if self.has_failed {
            return Err(Error::UsedAfterError { object: "TarWriter" });
        }
        let offset = self.position;
        write(self).map_err(|problem| {
            self.has_failed = true;
            match problem {
                Problem::Entry(problem) => Error::Tar { entry: printable(path), offset, problem },
                Problem::Other(error) => error,
            }
        })
    }
}

/// Why an entry was not written: it is at fault, or the reader or writer.
enum Problem {
    Entry(TarProblem),
    Other(Error),
}

impl From<TarProblem> for Problem {
    fn from(problem: TarProblem) -> Self {
        Self::Entry(problem)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Member {
    /// Starts a header with mode, owner and time.
    fn new(type_flag: u8, metadata: &Metadata) -> Self {
        let mut member = Self { header: HeaderBlock::new(type_flag), records: Records::default() };
        member.header.set_mode(metadata.mode);
        member
    }

    fn name(&mut self, name: &[u8]) {
        if !self.header.set_name(name) {
            self.records.add(b"path", name);
        }
    }

    fn link(&mut self, target: &[u8]) {
        if !self.header.set_link(target) {
            self.records.add(b"linkpath", target);
        }
    }

    fn size(&mut self, size: u64) {
        if !self.header.set_size(size) {
            self.records.add_number("size", size);
        }
    }

    /// Puts in owner, time and extended attributes.
    fn attributes(&mut self, metadata: &Metadata) -> Result<(), TarProblem> {
        if !self.header.set_uid(metadata.uid) {
            self.records.add_number("uid", metadata.uid);
        }
        if !self.header.set_gid(metadata.gid) {
            self.records.add_number("gid", metadata.gid);
        }
        if !self.header.set_mtime(metadata.mtime.seconds) || metadata.mtime.nanoseconds != 0 {
            self.records.add_number("mtime", time(metadata.mtime));
        }
        for xattr in &metadata.xattrs {
            if xattr.name.contains(&b'=') {
                let reason = "a PAX header cannot hold a name with \"=\"";
                return Err(TarProblem::Xattr { name: printable(&xattr.full_name()), reason });
            }
            self.records.add_xattr(xattr);
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the data end.
fn fill(data: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match data.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
