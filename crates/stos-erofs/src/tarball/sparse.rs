// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Maps of sparse members: where in the file the data belong that stand packed in the tar.
//!
//! Four forms: old GNU (type `S`, the map in the header and in blocks after it) and PAX 0.0, 0.1 (the map in the extended
//! header) and 1.0 (the map at the head of the data). See GNU tar's manual, "Sparse Formats".

use super::header::{Block, Header};
use super::pax::{Pax, PaxSparse, digits};
use crate::error::{TarProblem, escaped};

/// The largest map of a sparse file as it stands in the tar, in bytes; PAX 0.0 and 0.1 are bounded by their header.
pub const MAX_SPARSE_MAP: u64 = 1 << 20;

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where in the file it starts.
    pub(super) offset: u64,
    /// How many bytes.
    pub(super) len: u64,
}

/// In which form a member is sparse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SparseForm {
    Gnu,
    /// PAX 0.0 and 0.1.
    Pax0,
    /// PAX 1.0.
    Pax1,
}

impl SparseForm {
    /// Tells whether a member is sparse, and how, as Go's archive/tar does.
    pub(super) fn of(header: &Header<'_>, pax: Option<&Pax>) -> Result<Option<Self>, TarProblem> {
        let form = match header.type_flag() {
            b'V' => return Ok(None),
            b'S' if !header.is_gnu() => {
                return Err(TarProblem::SparseForm { found: "type S in a header that is not GNU's".to_owned() });
            }
            b'S' => return Ok(Some(Self::Gnu)),
            _ => pax.map(|pax| Self::of_pax(&pax.sparse)).transpose()?.flatten(),
        };
        match header.type_flag() {
            0 | b'0' | b'7' => Ok(form),
            _ if form.is_none() => Ok(None),
            other => Err(TarProblem::SparseForm { found: format!("an entry of type {:?}", char::from(other)) }),
        }
    }

    fn of_pax(sparse: &PaxSparse) -> Result<Option<Self>, TarProblem> {
        match (sparse.major.as_slice(), sparse.minor.as_slice()) {
            (b"0", b"0" | b"1") => Ok(Some(Self::Pax0)),
            (b"1", b"0") => Ok(Some(Self::Pax1)),
            // 0.0 and 0.1 do not say which they are.
            (b"", b"") if sparse.has_map() => Ok(Some(Self::Pax0)),
            (b"", b"") => Ok(None),
            (major, minor) => {
                Err(TarProblem::SparseForm { found: format!("PAX {}.{}", escaped(major), escaped(minor)) })
            }
        }
    }
}

/// A map as it is being read.
#[derive(Debug, Default)]
pub(super) struct SparseMap {
    /// The file's length.
    pub(super) real_size: u64,
    /// Those of the map, empty ones left out: offsets rise, and all lie within the file.
    segments: Vec<Segment>,
    /// Where the last one ended, and the sum of their lengths.
    end: u64,
    packed: u64,
    /// How many bytes of the map have been read.
    read: u64,
    text: MapText,
}

/// What is known of a map in the form of PAX 1.0: decimal numbers, each ended by a newline.
#[derive(Debug, Default)]
struct MapText {
    /// A number that goes on in the next block.
    number: Vec<u8>,
    /// How many numbers are still to come; `None` before the first, which says how many segments there are.
    left: Option<u64>,
    offset: Option<u64>,
}

/// The entries of the map in GNU's header, and in each block after it.
const IN_HEADER: std::ops::Range<usize> = 386..482;
const MORE_AFTER_HEADER: usize = 482;
const IN_BLOCK: std::ops::Range<usize> = 0..504;
const MORE_AFTER_BLOCK: usize = 504;
const MAP_ENTRY: usize = 24;
/// No decimal number of 63 bits is longer, leading zeros aside, which nobody writes.
const MAX_DIGITS: usize = 19;

impl SparseMap {
    /// Begins with what GNU's header has; tells whether blocks of the map follow.
    pub(super) fn from_gnu(header: &Header<'_>) -> Result<(Self, bool), TarProblem> {
        let mut map = Self { real_size: header.real_size()?, ..Self::default() };
        map.add_gnu(header, IN_HEADER)?;
        Ok((map, header.has_more_at(MORE_AFTER_HEADER)))
    }

    /// Takes one more block of GNU's map; tells whether another follows.
    pub(super) fn add_gnu_block(&mut self, block: &Block) -> Result<bool, TarProblem> {
        self.count(block.len() as u64)?;
        let block = Header::unchecked(block);
        self.add_gnu(&block, IN_BLOCK)?;
        Ok(block.has_more_at(MORE_AFTER_BLOCK))
    }

    fn add_gnu(&mut self, block: &Header<'_>, range: std::ops::Range<usize>) -> Result<(), TarProblem> {
        for at in range.step_by(MAP_ENTRY) {
            let Some((offset, len)) = block.sparse_entry(at)? else { break };
            self.add(offset, len)?;
        }
        Ok(())
    }

    /// Takes the map of PAX 0.0 or 0.1, which is whole.
    pub(super) fn from_pax_0(sparse: &PaxSparse) -> Result<Self, TarProblem> {
        let mut map = Self { real_size: sparse.real_size()?, ..Self::default() };
        let count = number("GNU.sparse.numblocks", &sparse.num_blocks)?;
        let from_text: Vec<u64>;
        let numbers = if sparse.pairs.is_empty() && !sparse.map.is_empty() {
            let parts = sparse.map.split(|&byte| byte == b',');
            from_text = parts.map(|part| number("GNU.sparse.map", part)).collect::<Result<_, _>>()?;
            &from_text
        } else {
            &sparse.pairs
        };
        if numbers.len() as u64 != count.saturating_mul(2) {
            let found = format!("{} numbers for {count} segments", numbers.len());
            return Err(TarProblem::SparseMap { expected: "an offset and a length for each segment", found });
        }
        numbers.chunks_exact(2).try_for_each(|pair| map.add(pair[0], pair[1]))?;
        Ok(map)
    }

    /// Begins the map of PAX 1.0, which stands in the data.
    pub(super) fn from_pax_1(sparse: &PaxSparse) -> Result<Self, TarProblem> {
        Ok(Self { real_size: sparse.real_size()?, ..Self::default() })
    }

    /// Takes one more block of PAX 1.0's map; tells whether another follows.
    pub(super) fn add_text_block(&mut self, block: &Block) -> Result<bool, TarProblem> {
        self.count(block.len() as u64)?;
        for &byte in block {
            if self.text.left == Some(0) {
                break;
            }
            if byte != b'\n' {
                self.text.number.push(byte);
                if self.text.number.len() > MAX_DIGITS {
                    return Err(not_a_number("sparse map", &self.text.number));
                }
                continue;
            }
            let value = number("sparse map", &self.text.number)?;
            self.text.number.clear();
            self.take_number(value)?;
        }
        Ok(self.text.left != Some(0))
    }

    fn take_number(&mut self, value: u64) -> Result<(), TarProblem> {
        let Some(left) = self.text.left else {
            // The shortest segment takes four bytes.
            if value > MAX_SPARSE_MAP / 4 {
                return Err(TarProblem::SparseMapTooLarge { limit: MAX_SPARSE_MAP });
            }
            self.text.left = Some(2 * value);
            return Ok(());
        };
        self.text.left = Some(left - 1);
        match self.text.offset.take() {
            None => self.text.offset = Some(value),
            Some(offset) => self.add(offset, value)?,
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), TarProblem> {
        self.read += bytes;
        if self.read > MAX_SPARSE_MAP {
            return Err(TarProblem::SparseMapTooLarge { limit: MAX_SPARSE_MAP });
        }
        Ok(())
    }

    /// Takes one segment, by the rules of Go's archive/tar and BSD tar.
    fn add(&mut self, offset: u64, len: u64) -> Result<(), TarProblem> {
        let refuse = |expected| {
            Err(TarProblem::SparseMap { expected, found: format!("{len} bytes at {offset} of {}", self.real_size) })
        };
        if offset < self.end {
            return refuse("segments in rising order that do not overlap");
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.real_size => self.end = end,
            _ => return refuse("segments within the file's real size"),
        }
        if len > 0 {
            self.packed += len;
            self.segments.push(Segment { offset, len });
        }
        Ok(())
    }

    /// Ends the map of a member whose packed data are `packed` bytes.
    pub(super) fn finish(self, packed: u64) -> Result<Segments, TarProblem> {
        if self.packed != packed {
            return Err(TarProblem::SparseData { expected: self.packed, found: packed });
        }
        Ok(Segments { segments: self.segments, next: 0 })
    }

    /// How many bytes of the map have been read.
    pub(super) fn len(&self) -> u64 {
        self.read
    }
}

/// The segments of the member whose data pass by.
#[derive(Debug, Default)]
pub(super) struct Segments {
    segments: Vec<Segment>,
    next: usize,
}

impl Segments {
    /// What is left of the segment that the tar goes on with.
    pub(super) fn current(&self) -> Option<Segment> {
        self.segments.get(self.next).copied()
    }

    /// Passes over so many bytes of the current segment, all of it at most.
    pub(super) fn pass(&mut self, count: u64) {
        if let Some(segment) = self.segments.get_mut(self.next) {
            segment.offset += count;
            segment.len -= count;
            if segment.len == 0 {
                self.next += 1;
            }
        }
    }
}

fn number(field: &'static str, text: &[u8]) -> Result<u64, TarProblem> {
    let value = Some(text).filter(|text| text.len() <= MAX_DIGITS).and_then(digits);
    value.filter(|&value| i64::try_from(value).is_ok()).ok_or_else(|| not_a_number(field, text))
}

fn not_a_number(field: &'static str, text: &[u8]) -> TarProblem {
    TarProblem::Number { field, expected: "decimal numbers of at most 63 bits and 19 digits", found: escaped(text) }
}

impl PaxSparse {
    fn has_map(&self) -> bool {
        !self.map.is_empty() || !self.pairs.is_empty() || !self.num_blocks.is_empty()
    }

    /// The file's length: `GNU.sparse.size` of 0.x, `GNU.sparse.realsize` of 1.0.
    fn real_size(&self) -> Result<u64, TarProblem> {
        let size = if self.size.is_empty() { &self.real_size } else { &self.size };
        number("GNU.sparse.realsize", size)
    }
}

#[cfg(test)]
mod tests;
