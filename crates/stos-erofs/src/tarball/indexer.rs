// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state machine that follows a tar through its headers and data.

use std::io::Write;

use super::entry::{Data, Extended, Member, non_negative};
use super::header::{Block, Header, text};
use super::pax::Pax;
use super::sink::{NoSink, TarSink};
use super::sparse::{Segment, Segments, SparseForm, SparseMap};
use super::whole::{IndexSummary, Indexed};
use crate::error::{TarProblem, printable};
use crate::index::{DataPlace, EntryKind, IndexWriter, MAX_ENTRIES};
use crate::{BLOCK, Error, Result};

/// The largest PAX header or GNU long name in bytes, as in Go's archive/tar.
pub const MAX_EXTENDED_HEADER: u64 = 1 << 20;

/// Where sparse files start in the extra file: a multiple of the block size of common filesystems, so that their holes,
/// which start at multiples of it in the file, can be holes there too.
const EXTRA_ALIGNMENT: u64 = 4096;

/// Indexes a tar while it passes by.
///
/// [`push`](Self::push) takes the tar in pieces of any size; file data cost nothing. No entry is kept longer than its
/// record takes to be written, so memory is bounded by a small multiple of [`MAX_EXTENDED_HEADER`], whatever the tar.
/// **The index is complete only after [`finish`](Self::finish)**; what stands in the writer before has no trailer and
/// is refused by every reader.
///
/// The rules are those of Go's archive/tar, which every image builder goes through, where nothing else is said:
///
/// - Formats: v7, ustar, star, GNU (long names and links, base-256 numbers), PAX. Checksums are verified, unsigned or
///   signed. Global PAX headers (`g`) and volume labels (`V`) are passed over. PAX wins over the header, GNU long
///   names win over both.
/// - The data's length is PAX's where it says one (CVE-2025-62518). Links, devices, directories and FIFOs have no data.
/// - A regular file whose name ends in `/` is a directory, and so is GNU's `D`. Type `7` is a regular file. A device
///   needs a ustar or GNU header.
/// - The archive ends with two zero blocks, or with the stream at an entry's boundary; what follows is counted and
///   ignored. One zero block followed by other bytes, a cut header, cut data, a file's data without the padding of their
///   last block, which could not be mounted, an extended header without an entry: errors.
/// - Names: leading `/`, `./`, doubled and trailing slashes are dropped; the archive's root may only be a directory,
///   which needs no name; any `..` component, an empty name of anything else, a component above 255 bytes or a path
///   above 4096 bytes is an error. The same holds for hard link targets. Bytes need not be UTF-8.
/// - `.wh.NAME` is a whiteout, `.wh..wh..opq` an opaque marker, whatever their type; other `.wh..wh.*` is aufs's own
///   and is passed over, with what lies below it; `.wh.`, `.wh..` and `.wh...` are errors. A character device 0:0,
///   overlayfs's own whiteout, is a whiteout of its name.
/// - Extended attributes come from `SCHILY.xattr.*`: `user.` of regular files and directories, `trusted.`, `security.`
///   and the two POSIX ACLs, which must be binary; an ACL that is there as text alone (`SCHILY.acl.*`) counts where it
///   is valid and has a number for each user and group. Dropped are all others, empty ACLs, `trusted.overlay.*`,
///   `user.overlay.*` and `security.selinux`. Binary ACLs and file capabilities that Linux takes for invalid are errors.
/// - Mode and attributes are what a file has on which Linux has set them: an access ACL sets the mode's permission bits (the
///   group's from its mask) and is dropped where it says no more than they do; file capabilities of revision 1 become
///   revision 2, and so do those of revision 3 whose root is user 0.
/// - User and group ids are 0 to 2³² − 2.
/// - Sparse members in GNU's old form and PAX 0.0, 0.1 and 1.0: the map's segments rise, do not overlap, lie within the
///   real size, and add up to the data; a map takes at most [`MAX_SPARSE_MAP`](crate::MAX_SPARSE_MAP) bytes. The real name
///   wins over all others. Their data are not one run in the tar: each has a place in the extra file
///   ([`DataPlace::Extra`]), in the tar's order, at a multiple of 4096 bytes, so that holes stay holes on any host.
/// - A layer has at most [`MAX_ENTRIES`] entries.
/// - Unknown types are [`TarProblem::UnknownType`].
#[derive(Debug)]
pub struct TarIndexer<W: Write, S: TarSink = NoSink> {
    out: IndexWriter<W>,
    sink: S,
    position: u64,
    state: State,
    header: Box<Block>,
    extended: Extended,
    zero_block_seen: bool,
    pub(super) max_entries: u64,
    /// How much of the extra file has been given to sparse members.
    extra_bytes: u64,
    /// Of the sparse member whose data pass by.
    segments: Segments,
    /// The entry in hand: where its first header starts, and its name as the tar gives it.
    entry_at: u64,
    entry_name: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// So many bytes of a header block are there.
    Header { filled: usize },
    /// Data of an entry or of a header without use, then padding. Of a regular file in the index the data are `File`s.
    Skip { part: &'static str, whose: Whose, len: u64, left: u64, padding: u64 },
    /// A block of a sparse file's map.
    Map(Box<MapBlock>),
    /// Data of an extended header, then padding.
    Collect { what: ExtendedKind, data: Vec<u8>, len: u64, padding: u64 },
    /// After the end of the archive.
    Ended { at: u64 },
    /// After an error.
    Failed,
}

/// Whose the data are that pass by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// A regular file's, which the index has.
    File,
    /// A sparse one's, which belong where its segments say.
    Sparse,
    /// Nobody's: they are there and mean nothing.
    Nobody,
}

/// The map of a sparse file on its way.
#[derive(Debug)]
struct MapBlock {
    form: SparseForm,
    map: SparseMap,
    block: Block,
    filled: usize,
    /// The length of the data, of PAX 1.0's with the map.
    len: u64,
}

/// Data of a regular file that follow at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// The file's record, counted from 0.
    pub(super) number: u64,
    /// Where in the file they belong.
    pub(super) offset: u64,
    /// How many bytes.
    pub(super) len: u64,
}

#[derive(Debug, Clone, Copy)]
enum ExtendedKind {
    Pax,
    LongName,
    LongLink,
}

impl<W: Write> TarIndexer<W> {
    /// Starts an index; the writer gets it in pieces of about 64 KiB, and what is left in the end.
    pub fn new(out: W) -> Self {
        Self::with_sink(out, NoSink)
    }
}

impl<W: Write, S: TarSink> TarIndexer<W, S> {
    /// Starts an index, and gives what the tar holds to `sink`.
    pub fn with_sink(out: W, sink: S) -> Self {
        Self {
            out: IndexWriter::new(out),
            sink,
            position: 0,
            state: State::Header { filled: 0 },
            header: Box::new([0; 512]),
            extended: Extended::default(),
            zero_block_seen: false,
            max_entries: MAX_ENTRIES,
            extra_bytes: 0,
            segments: Segments::default(),
            entry_at: 0,
            entry_name: Vec::new(),
        }
    }

    /// How many bytes of the tar have been pushed.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Gives the sink a look.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// Takes the tar's next bytes.
    ///
    /// # Errors
    /// [`Error::Tar`] as the type's documentation says; the writer's error; [`Error::Sink`] with the sink's. After an
    /// error every call fails.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let taken = self.take(bytes)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Takes the tar's next bytes up to the data of a regular file; tells how many those are.
    pub(super) fn push_until_data(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() && self.next_run().is_none() {
            taken += self.take(&bytes[taken..])?;
        }
        Ok(taken)
    }

    /// The data of a regular file that the tar goes on with, if so it does.
    pub(super) fn next_run(&self) -> Option<Run> {
        match self.state {
            State::Skip { whose: Whose::File, len, left, .. } if left > 0 => {
                Some(Run { number: self.out.records() - 1, offset: len - left, len: left })
            }
            State::Skip { whose: Whose::Sparse, left, .. } if left > 0 => {
                let Segment { offset, len } = self.segments.current()?;
                Some(Run { number: self.out.records() - 1, offset, len })
            }
            _ => None,
        }
    }

    /// Passes over so many bytes of the run that [`Self::next_run`] has given, all of it at most.
    pub(super) fn pass(&mut self, count: u64) {
        if let State::Skip { part, whose, len, left, padding } = self.state {
            self.position += count;
            if whose == Whose::Sparse {
                self.segments.pass(count);
            }
            self.state = skip(part, whose, len, left - count, padding);
        }
    }

    /// Takes as much of `bytes` as the state wants, at least one.
    fn take(&mut self, bytes: &[u8]) -> Result<usize> {
        let state = std::mem::replace(&mut self.state, State::Failed);
        let (taken, next) = self.step(state, bytes)?;
        self.position += taken as u64;
        self.state = match next {
            Next::State(state) => state,
            Next::HeaderComplete => self.read_header()?,
            Next::MapBlockComplete(map) => self.read_map_block(map)?,
            Next::ExtendedComplete(what, data, padding) => self.read_extended(what, &data, padding)?,
        };
        Ok(taken)
    }

    /// Ends the tar and writes the index's trailer.
    ///
    /// # Errors
    /// [`TarProblem::Truncated`] or [`TarProblem::DanglingExtendedHeader`] where the tar ends within an entry; the
    /// writer's error.
    pub fn finish(mut self) -> Result<Indexed<W, S>> {
        let truncated = |part, expected, found| TarProblem::Truncated { part, expected, found };
        let mut ended_at = self.position;
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Header { filled: 0 } if self.extended.is_empty() => {}
            State::Header { filled: 0 } => return Err(self.tar_error(TarProblem::DanglingExtendedHeader)),
            State::Header { filled } => {
                if self.extended.is_empty() {
                    (self.entry_at, self.entry_name) = (self.position - filled as u64, Vec::new());
                }
                return Err(self.tar_error(truncated("header", BLOCK, filled as u64)));
            }
            State::Skip { part, len, left, .. } if left > 0 => {
                return Err(self.tar_error(truncated(part, len, len - left)));
            }
            // The kernel reads whole blocks of the tar, and fails where the last one is cut.
            State::Skip { whose: Whose::File, padding, len, .. } if padding > 0 => {
                return Err(self.tar_error(truncated("padding", padding_of(len), padding_of(len) - padding)));
            }
            State::Skip { .. } if self.extended.is_empty() => {}
            State::Skip { .. } => return Err(self.tar_error(TarProblem::DanglingExtendedHeader)),
            State::Collect { data, len, .. } => {
                return Err(self.tar_error(truncated("extended header", len, data.len() as u64)));
            }
            State::Map(block) => {
                let (expected, found) = (block.map.len() + BLOCK, block.map.len() + block.filled as u64);
                return Err(self.tar_error(truncated("sparse map", expected, found)));
            }
            State::Ended { at } => ended_at = at,
            State::Failed => return Err(Error::UsedAfterError { object: "TarIndexer" }),
        }
        let entries = self.out.records();
        let (out, index_bytes) = self.out.finish(self.position, self.extra_bytes)?;
        let summary = IndexSummary {
            entries,
            tar_bytes: self.position,
            extra_bytes: self.extra_bytes,
            trailing_bytes: self.position - ended_at,
            index_bytes,
        };
        Ok(Indexed { out, sink: self.sink, summary })
    }

    /// Takes what the state wants of the bytes.
    fn step(&mut self, state: State, bytes: &[u8]) -> Result<(usize, Next)> {
        Ok(match state {
            State::Header { filled } => {
                let taken = bytes.len().min(BLOCK as usize - filled);
                self.header[filled..filled + taken].copy_from_slice(&bytes[..taken]);
                self.raw(&bytes[..taken])?;
                let filled = filled + taken;
                let complete = filled == BLOCK as usize;
                (taken, if complete { Next::HeaderComplete } else { Next::State(State::Header { filled }) })
            }
            State::Skip { part, whose, len, left, padding } => {
                let taken = (bytes.len() as u64).min(left + padding);
                let (data, pad) = bytes[..taken as usize].split_at(taken.min(left) as usize);
                match whose {
                    Whose::File if !data.is_empty() => self.sink.data(len - left, data).map_err(Error::sink)?,
                    Whose::File => {}
                    Whose::Sparse => self.sparse_data(data)?,
                    Whose::Nobody => self.raw(data)?,
                }
                self.raw(pad)?;
                let (left, padding) = (left - data.len() as u64, padding - pad.len() as u64);
                (taken as usize, Next::State(skip(part, whose, len, left, padding)))
            }
            State::Map(mut map) => {
                let taken = bytes.len().min(BLOCK as usize - map.filled);
                self.raw(&bytes[..taken])?;
                map.block[map.filled..map.filled + taken].copy_from_slice(&bytes[..taken]);
                map.filled += taken;
                let complete = map.filled == BLOCK as usize;
                (taken, if complete { Next::MapBlockComplete(map) } else { Next::State(State::Map(map)) })
            }
            State::Collect { what, mut data, len, padding } => {
                let taken = (bytes.len() as u64).min(len - data.len() as u64) as usize;
                self.raw(&bytes[..taken])?;
                data.extend_from_slice(&bytes[..taken]);
                let complete = data.len() as u64 == len;
                let next = if complete {
                    Next::ExtendedComplete(what, data, padding)
                } else {
                    Next::State(State::Collect { what, data, len, padding })
                };
                (taken, next)
            }
            State::Ended { at } => {
                self.raw(bytes)?;
                (bytes.len(), Next::State(State::Ended { at }))
            }
            State::Failed => return Err(Error::UsedAfterError { object: "TarIndexer" }),
        })
    }

    /// Gives a sparse file's data to where they belong.
    fn sparse_data(&mut self, mut data: &[u8]) -> Result<()> {
        while let Some(Segment { offset, len }) = self.segments.current().filter(|_| !data.is_empty()) {
            let (of_segment, rest) = data.split_at(len.min(data.len() as u64) as usize);
            self.sink.data(offset, of_segment).map_err(Error::sink)?;
            self.segments.pass(of_segment.len() as u64);
            data = rest;
        }
        Ok(())
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() { Ok(()) } else { self.sink.raw(bytes).map_err(Error::sink) }
    }

    /// Reads the complete header block; gives the state for what follows it.
    fn read_header(&mut self) -> Result<State> {
        let header_at = self.position - BLOCK;
        if self.extended.is_empty() {
            self.entry_at = header_at;
            self.entry_name.clear();
        }
        if self.header.iter().all(|&byte| byte == 0) {
            if !self.extended.is_empty() {
                return Err(self.tar_error(TarProblem::DanglingExtendedHeader));
            }
            if self.zero_block_seen {
                return Ok(State::Ended { at: self.position });
            }
            self.zero_block_seen = true;
            return Ok(State::Header { filled: 0 });
        }
        if self.zero_block_seen {
            return Err(self.tar_error(TarProblem::LoneZeroBlock));
        }
        let block = *self.header;
        let header = Header::new(&block).map_err(|problem| self.tar_error(problem))?;
        self.read_member(&header)
    }

    fn read_member(&mut self, header: &Header<'_>) -> Result<State> {
        let extended_kind = match header.type_flag() {
            b'x' => ExtendedKind::Pax,
            b'L' => ExtendedKind::LongName,
            b'K' => ExtendedKind::LongLink,
            b'g' => return self.skip_global(header),
            _ => return self.read_entry(header),
        };
        if self.extended.is_empty() {
            self.entry_name = header.name();
        }
        let len = header.size().and_then(|size| non_negative("size", size));
        let len = len.map_err(|problem| self.tar_error(problem))?;
        if len > MAX_EXTENDED_HEADER {
            return Err(self.tar_error(TarProblem::ExtendedHeaderTooLarge { limit: MAX_EXTENDED_HEADER, found: len }));
        }
        if len == 0 {
            return self.read_extended(extended_kind, &[], 0);
        }
        Ok(State::Collect { what: extended_kind, data: Vec::new(), len, padding: padding_of(len) })
    }

    /// Neither Docker nor umoci apply a global header to the entries after it.
    fn skip_global(&mut self, header: &Header<'_>) -> Result<State> {
        if self.extended.is_empty() {
            self.entry_name = header.name();
        }
        let len = header.size().and_then(|size| non_negative("size", size));
        let len = len.map_err(|problem| self.tar_error(problem))?;
        self.check_end(len)?;
        Ok(skip("extended header", Whose::Nobody, len, len, padding_of(len)))
    }

    fn read_entry(&mut self, header: &Header<'_>) -> Result<State> {
        self.entry_name = self.extended.name(header, None);
        let form = SparseForm::of(header, self.extended.pax.as_ref()).map_err(|problem| self.tar_error(problem))?;
        let len = self.extended.data_len(header).map_err(|problem| self.tar_error(problem))?;
        self.check_end(len)?;
        let Some(form) = form else { return self.write_entry(header, None, len) };
        self.entry_name = self.extended.name(header, Some(form));
        match self.read_map(header, form, len).map_err(|problem| self.tar_error(problem))? {
            (map, true) => Ok(State::Map(Box::new(MapBlock { form, map, block: [0; 512], filled: 0, len }))),
            (map, false) => self.write_entry(header, Some(map), len),
        }
    }

    /// Begins the map of a sparse file; tells whether blocks of it follow.
    fn read_map(&self, header: &Header<'_>, form: SparseForm, len: u64) -> Result<(SparseMap, bool), TarProblem> {
        match (form, &self.extended.pax) {
            (SparseForm::Pax0, Some(pax)) => Ok((SparseMap::from_pax_0(&pax.sparse)?, false)),
            (SparseForm::Pax1, Some(pax)) => {
                check_map_follows(len)?;
                Ok((SparseMap::from_pax_1(&pax.sparse)?, true))
            }
            _ => SparseMap::from_gnu(header),
        }
    }

    /// Reads a complete block of a map; gives the state for what follows it.
    fn read_map_block(&mut self, mut block: Box<MapBlock>) -> Result<State> {
        let is_text = block.form == SparseForm::Pax1;
        let more = if is_text { block.map.add_text_block(&block.block) } else { block.map.add_gnu_block(&block.block) };
        // PAX counts the map among the data.
        let left = if is_text { block.len - block.map.len() } else { block.len };
        let more = more.and_then(|more| {
            if more && is_text {
                check_map_follows(left)?;
            }
            Ok(more)
        });
        if more.map_err(|problem| self.tar_error(problem))? {
            block.filled = 0;
            return Ok(State::Map(block));
        }
        self.check_end(left)?;
        // Its checksum has been verified.
        let header = *self.header;
        self.write_entry(&Header::unchecked(&header), Some(block.map), left)
    }

    /// Writes the entry of the header, whose map is complete if it has one; gives the state for its `len` bytes of data.
    fn write_entry(&mut self, header: &Header<'_>, map: Option<SparseMap>, len: u64) -> Result<State> {
        let extended = std::mem::take(&mut self.extended);
        let data = match &map {
            None => Data::Tar { at: self.position },
            Some(map) => Data::Extra { at: self.extra_bytes, real_size: map.real_size },
        };
        let member = Member::new(header, &self.entry_name, len, extended);
        let entry = member.entry(data).map_err(|problem| self.tar_error(problem))?;
        let mut whose = Whose::Nobody;
        if let Some(entry) = &entry
            && let EntryKind::Regular { size, place, .. } = entry.kind
        {
            whose = if map.is_some() { Whose::Sparse } else { Whose::File };
            if place == DataPlace::Extra {
                self.extra_bytes = self.after_extra(size)?;
            }
        }
        self.segments = match map {
            Some(map) => map.finish(len).map_err(|problem| self.tar_error(problem))?,
            None => Segments::default(),
        };
        if let Some(entry) = entry {
            if self.out.records() >= self.max_entries {
                return Err(self.tar_error(TarProblem::TooManyEntries { limit: self.max_entries }));
            }
            self.sink.entry(self.out.records(), &entry).map_err(Error::sink)?;
            self.out.write(&entry)?;
        }
        Ok(skip("data", whose, len, len, padding_of(len)))
    }

    /// The length of the extra file after one more sparse file. It must fit 63 bits, as a file's does.
    fn after_extra(&self, size: u64) -> Result<u64> {
        let end = self.extra_bytes.checked_add(size).and_then(|end| end.checked_next_multiple_of(EXTRA_ALIGNMENT));
        end.filter(|&end| i64::try_from(end).is_ok()).ok_or_else(|| {
            self.tar_error(TarProblem::Number {
                field: "realsize",
                expected: "sparse files of less than 63 bits altogether",
                found: size.to_string(),
            })
        })
    }

    /// Reads a complete extended header; gives the state for its padding.
    fn read_extended(&mut self, what: ExtendedKind, data: &[u8], padding: u64) -> Result<State> {
        let name = || Some(text(data).to_vec()).filter(|name| !name.is_empty());
        match what {
            ExtendedKind::Pax => {
                self.extended.pax = Some(Pax::parse(data).map_err(|problem| self.tar_error(problem))?);
            }
            ExtendedKind::LongName => self.extended.long_name = name(),
            ExtendedKind::LongLink => self.extended.long_link = name(),
        }
        // Only what this header has brought: a long name before a million headers is not copied for each.
        let path = match what {
            ExtendedKind::LongName => self.extended.long_name.as_ref(),
            ExtendedKind::Pax if self.extended.long_name.is_none() => {
                self.extended.pax.as_ref().and_then(|p| p.path.as_ref())
            }
            ExtendedKind::Pax | ExtendedKind::LongLink => None,
        };
        if let Some(path) = path {
            self.entry_name.clone_from(path);
        }
        Ok(skip("extended header", Whose::Nobody, 0, 0, padding))
    }

    /// The tar's length must fit 63 bits, so that no sum of ours can overflow.
    fn check_end(&self, len: u64) -> Result<()> {
        match self.position.checked_add(len).and_then(|end| end.checked_add(BLOCK)) {
            Some(end) if i64::try_from(end).is_ok() => Ok(()),
            _ => Err(self.tar_error(TarProblem::Number {
                field: "size",
                expected: "data that end within 63 bits",
                found: len.to_string(),
            })),
        }
    }

    fn tar_error(&self, problem: TarProblem) -> Error {
        Error::Tar { entry: printable(&self.entry_name), offset: self.entry_at, problem }
    }
}

/// What a step leads to.
enum Next {
    State(State),
    HeaderComplete,
    MapBlockComplete(Box<MapBlock>),
    ExtendedComplete(ExtendedKind, Vec<u8>, u64),
}

fn skip(part: &'static str, whose: Whose, len: u64, left: u64, padding: u64) -> State {
    if left + padding == 0 { State::Header { filled: 0 } } else { State::Skip { part, whose, len, left, padding } }
}

/// The map of PAX 1.0 consists of whole blocks of the data.
fn check_map_follows(left: u64) -> Result<(), TarProblem> {
    if left >= BLOCK {
        return Ok(());
    }
    let found = format!("{left} bytes of data left");
    Err(TarProblem::SparseMap { expected: "one more block of it", found })
}

fn padding_of(len: u64) -> u64 {
    len.wrapping_neg() % BLOCK
}
