// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crate's errors: where it happened (entry, layer, offset) and what was expected and found there.

use std::io;

/// A failure to index a tar, to read an index, to merge layers or to write or check an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's reader or writer failed.
    #[error("cannot {operation}")]
    Io {
        /// What was being done, such as `read the tar`.
        operation: &'static str,
        /// The reader's or writer's own error.
        #[source]
        source: io::Error,
    },
    /// Who takes what the tar holds failed: see [`TarSink`](crate::TarSink).
    #[error("cannot keep what the tar holds")]
    Sink {
        /// The sink's own error, as it gave it.
        #[source]
        source: io::Error,
    },
    /// Who has the files' data failed: see [`assemble_tar`](crate::assemble_tar).
    #[error("cannot get the data of entry {number}")]
    Data {
        /// The entry's record in the index, counted from 0.
        number: u64,
        /// The error, as it was given.
        #[source]
        source: io::Error,
    },
    /// Who has the files' data gave another number of bytes than asked for.
    #[error("data of entry {number}: expected {expected} bytes, found {found}")]
    DataLength {
        /// The entry's record in the index, counted from 0.
        number: u64,
        /// How many bytes were asked for.
        expected: u64,
        /// How many came; where more came, the count at which it was stopped.
        found: u64,
    },
    /// The tar stream breaks a rule of its format, or holds something that an image cannot.
    #[error("tar entry {entry:?} at byte {offset}: {problem}")]
    Tar {
        /// The entry's name as the tar gives it, cut after 256 bytes; empty where no name has been read yet.
        entry: String,
        /// Where in the tar the entry's header starts.
        offset: u64,
        /// What is wrong with it.
        problem: TarProblem,
    },
    /// A `layer.index` is damaged, cut short or of another format version.
    #[error("layer index, byte {offset}: {problem}")]
    Index {
        /// How many bytes of the index had been read.
        offset: u64,
        /// What is wrong with it.
        problem: IndexProblem,
    },
    /// A layer's entry cannot be applied to the layers below it.
    #[error("layer {layer}, entry {entry:?}: {problem}")]
    Merge {
        /// The layer's number, the lowest is 0.
        layer: usize,
        /// The entry's path, cut after 256 bytes; empty for the root and for the layer as a whole.
        entry: String,
        /// What is wrong with it.
        problem: MergeProblem,
    },
    /// The image cannot be written, or is not one of ours.
    #[error("EROFS image: {0}")]
    Image(ImageProblem),
    /// The object was used again after it had returned an error.
    #[error("{object} was used after an error")]
    UsedAfterError {
        /// `TarIndexer`, `IndexReader`, `Merger`, `LayerTree`, `Stack`, `MergedLayer` or `TarWriter`.
        object: &'static str,
    },
}

/// What is wrong with a tar entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarProblem {
    /// The stream ends within the entry.
    #[error("the tar ends within its {part}: expected {expected} bytes, found {found}")]
    Truncated {
        /// `header`, `data`, `padding`, `extended header` or `sparse map`.
        part: &'static str,
        /// How many bytes that part has.
        expected: u64,
        /// How many of them were there.
        found: u64,
    },
    /// The header's checksum is not that of its bytes.
    #[error("header checksum: expected {expected}, found {found}")]
    Checksum {
        /// The unsigned sum of the header's bytes.
        expected: u64,
        /// The sum that the header states.
        found: u64,
    },
    /// A numeric field holds no number, or one out of range.
    #[error("field {field}: expected {expected}, found {found:?}")]
    Number {
        /// The field's name in the header, or the PAX keyword.
        field: &'static str,
        /// The range or form that was expected.
        expected: &'static str,
        /// The field's bytes, escaped and cut after 256 bytes.
        found: String,
    },
    /// One zero block, which would begin the end of the archive, is followed by something else.
    #[error("a single zero block is followed by data: expected a second zero block")]
    LoneZeroBlock,
    /// A PAX header or GNU long name is larger than [`crate::MAX_EXTENDED_HEADER`].
    #[error("extended header of {found} bytes: expected at most {limit}")]
    ExtendedHeaderTooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The size that the header states.
        found: u64,
    },
    /// A PAX header or GNU long name is followed by no entry.
    #[error("an extended header is followed by no entry")]
    DanglingExtendedHeader,
    /// A PAX record is not `length keyword=value\n`.
    #[error("malformed PAX record at byte {at} of its header: {reason}")]
    PaxRecord {
        /// The record's offset within the PAX header's data.
        at: usize,
        /// Which part of the form it breaks.
        reason: &'static str,
    },
    /// The name is empty.
    #[error("empty name")]
    EmptyName,
    /// A name or hard link target has a `..` component.
    #[error("{what} {found:?} has a \"..\" component")]
    ParentComponent {
        /// `name` or `hard link target`.
        what: &'static str,
        /// The path, cut after 256 bytes.
        found: String,
    },
    /// A path component is longer than Linux allows.
    #[error("path component of {found} bytes: expected at most 255")]
    ComponentTooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// A path or link target is longer than Linux allows.
    #[error("{what} of {found} bytes: expected at most {limit}")]
    PathTooLong {
        /// `name`, `hard link target` or `symbolic link target`.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
        /// Its length in bytes.
        found: usize,
    },
    /// A link has no target.
    #[error("empty {what}")]
    EmptyTarget {
        /// `hard link target` or `symbolic link target`.
        what: &'static str,
    },
    /// A whiteout names nothing that could be removed: `.wh.`, `.wh..` or `.wh...`.
    #[error("a whiteout of {found:?}")]
    WhiteoutName {
        /// The name that it would remove.
        found: String,
    },
    /// The archive's root is given as something else than a directory.
    #[error("the root is of type {found:?}: expected a directory")]
    RootNotDirectory {
        /// The type flag.
        found: char,
    },
    /// The type flag is none that we know.
    #[error("unknown type flag {found:?}")]
    UnknownType {
        /// The type flag.
        found: char,
    },
    /// A sparse member in a form that we do not know, or where none can be.
    #[error("sparse file: expected a regular file in GNU's old form or PAX 0.0, 0.1 or 1.0, found {found}")]
    SparseForm {
        /// The form, or what it is.
        found: String,
    },
    /// The map of a sparse file says where nothing can be.
    #[error("map of a sparse file: expected {expected}, found {found}")]
    SparseMap {
        /// The rule that it breaks.
        expected: &'static str,
        /// What breaks it.
        found: String,
    },
    /// The map of a sparse file is larger than [`crate::MAX_SPARSE_MAP`].
    #[error("map of a sparse file: expected at most {limit} bytes, found more")]
    SparseMapTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// A sparse file's data are more or less than its map says.
    #[error("data of a sparse file: expected the {expected} bytes of its map, found {found}")]
    SparseData {
        /// The sum of the map's segments in bytes.
        expected: u64,
        /// The length of the data in the tar in bytes.
        found: u64,
    },
    /// The layer has more entries than [`crate::MAX_ENTRIES`].
    #[error("too many entries: expected at most {limit}")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// A tar cannot say it, or would say something else: nothing that [`crate::TarWriter`] writes.
    #[error("cannot be written: {reason}")]
    Unwritable {
        /// Why.
        reason: &'static str,
    },
    /// An extended attribute cannot be kept in an image, or written into a tar.
    #[error("extended attribute {name:?}: {reason}")]
    Xattr {
        /// The attribute's full name.
        name: String,
        /// Why.
        reason: &'static str,
    },
}

/// What is wrong with a layer index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexProblem {
    /// The magic number is not ours.
    #[error("not a layer index: found {found:02x?}")]
    Magic {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// A format version that this release does not read.
    #[error("format version {found}: expected {expected}")]
    Version {
        /// The version that this release reads.
        expected: u64,
        /// The index's version.
        found: u64,
    },
    /// The index ends before its trailer.
    #[error("the index ends before its trailer")]
    Truncated,
    /// Bytes follow the trailer.
    #[error("bytes follow the trailer")]
    TrailingBytes,
    /// A record cannot be one that the indexer wrote.
    #[error("impossible {what}")]
    Record {
        /// The part of the record.
        what: &'static str,
    },
    /// The trailer's count is not the number of records.
    #[error("number of records: expected {expected}, found {found}")]
    Count {
        /// The trailer's count.
        expected: u64,
        /// The records that were there.
        found: u64,
    },
    /// The checksum is not that of the bytes.
    #[error("CRC-32C: expected {expected:08x}, found {found:08x}")]
    Checksum {
        /// The trailer's checksum.
        expected: u32,
        /// The checksum of what was read.
        found: u32,
    },
}

/// Why an entry cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeProblem {
    /// The index belongs to a tar of another length.
    #[error("length of the tar: expected {expected}, the index says {found}")]
    TarLength {
        /// The length that the caller gave.
        expected: u64,
        /// The length in the index.
        found: u64,
    },
    /// A file's data lie outside its tar.
    #[error("data end at byte {end}, the tar at {tar_bytes}")]
    DataOutsideTar {
        /// Where the data would end.
        end: u64,
        /// The tar's length.
        tar_bytes: u64,
    },
    /// The index belongs to an extra file of another length.
    #[error("length of the extra file: expected {expected}, the index says {found}")]
    ExtraLength {
        /// The length that the caller gave.
        expected: u64,
        /// The length in the index.
        found: u64,
    },
    /// A sparse file's data lie outside its layer's extra file.
    #[error("data end at byte {end}, the extra file at {extra_bytes}")]
    DataOutsideExtra {
        /// Where the data would end.
        end: u64,
        /// The extra file's length.
        extra_bytes: u64,
    },
    /// A parent of the entry is neither a directory nor a link to one.
    #[error("its parent {parent:?} is not a directory")]
    ParentNotDirectory {
        /// The parent's path in the merged tree.
        parent: String,
    },
    /// More symbolic links than Linux follows, most often a loop.
    #[error("more than {limit} symbolic links among its parents")]
    TooManyLinks {
        /// The limit.
        limit: u32,
    },
    /// The targets of those links are too long to be followed for one entry.
    #[error("symbolic links among its parents with targets of more than {limit} bytes altogether")]
    LinksTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A hard link's target does not exist in the tree as merged so far.
    #[error("hard link to {target:?}, which does not exist")]
    LinkTargetMissing {
        /// The target as the tar gives it.
        target: String,
    },
    /// A hard link's target is a directory.
    #[error("hard link to {target:?}, which is a directory")]
    LinkTargetDirectory {
        /// The target as the tar gives it.
        target: String,
    },
    /// What layers mean together, without those below them, cannot be said by one layer.
    #[error("{path:?} depends on the layers below: these layers cannot be merged without them")]
    DependsOnLower {
        /// The path.
        path: String,
    },
    /// More layers or entries than are taken, or a tree that takes more memory or more work than its entries account for.
    #[error("too many {what}: expected at most {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// Why an image cannot be written, or is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageProblem {
    /// The image ends within its header or device table.
    #[error("cut short: expected at least {expected} bytes, found {found}")]
    Truncated {
        /// How many bytes the header needs.
        expected: u64,
        /// How many there were.
        found: u64,
    },
    /// A field of the superblock has a value that our writer never writes.
    #[error("superblock field {field}: expected {expected:#x}, found {found:#x}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// Our value.
        expected: u64,
        /// The image's value.
        found: u64,
    },
    /// A device's tag is not the hex form of a SHA-256.
    #[error("device {device}: tag is not a SHA-256 in hex")]
    Tag {
        /// The device's number, the first is 1.
        device: usize,
    },
    /// The number of devices differs.
    #[error("number of devices: expected {expected}, found {found}")]
    DeviceCount {
        /// How many were expected.
        expected: usize,
        /// How many the image has.
        found: usize,
    },
    /// A device is another layer than expected.
    #[error("device {device}: expected layer {expected}, found {found}")]
    DeviceTag {
        /// The device's number, the first is 1.
        device: usize,
        /// The expected layer's SHA-256.
        expected: String,
        /// The SHA-256 in the image.
        found: String,
    },
    /// A device's size differs.
    #[error("device {device}: expected {expected} blocks, found {found}")]
    DeviceBlocks {
        /// The device's number, the first is 1.
        device: usize,
        /// Blocks of 512 bytes that the layer has.
        expected: u64,
        /// Blocks that the image states.
        found: u64,
    },
    /// Something does not fit the fields of the format.
    #[error("{what} of {found}: expected at most {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// The value.
        found: u64,
    },
}

impl Error {
    pub(crate) fn sink(source: io::Error) -> Self {
        Self::Sink { source }
    }

    /// Makes the closure that wraps an I/O error.
    pub(crate) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}

/// How much of a name or value a message repeats, in bytes: a hostile one may be a mebibyte long.
const MAX_SHOWN: usize = 256;

/// Gives a path for a message: lossy where it is not UTF-8, cut after 256 bytes. Control characters stay, so it must
/// be printed as `{:?}`.
pub(crate) fn printable(path: &[u8]) -> String {
    shown(path, |bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// Gives a value for a message: escaped where it is not printable ASCII, cut after 256 bytes.
pub(crate) fn escaped(value: &[u8]) -> String {
    shown(value, |bytes| bytes.escape_ascii().to_string())
}

fn shown(bytes: &[u8], format: impl Fn(&[u8]) -> String) -> String {
    match bytes.get(..MAX_SHOWN) {
        Some(start) if bytes.len() > MAX_SHOWN => format(start) + "…",
        _ => format(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_repeats_is_cut_and_harmless() {
        assert_eq!(printable(b"a\xff"), "a\u{fffd}");
        assert_eq!(printable(&[b'x'; 256]), "x".repeat(256));
        assert_eq!(printable(&[b'x'; 257]), "x".repeat(256) + "…");
        assert_eq!(escaped(b"\x1b[31m\n"), "\\x1b[31m\\n");
        assert_eq!(escaped(&[b'x'; 1 << 20]), "x".repeat(256) + "…");
    }
}
