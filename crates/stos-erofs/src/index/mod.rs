// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `layer.index`: what one layer's tar holds, entry by entry, in the tar's order.
//!
//! ```text
//! magic "STOSIDX\n"   format version (varint)
//! records             one per entry, in the order of the tar
//! 0x00                end of records
//! number of records, length of the tar, length of the extra file in bytes (varints)
//! CRC-32C of everything before it (u32, little-endian)
//! ```
//!
//! A record starts with a byte: the kind in its low nibble, 0x80 where extended attributes follow. Then the path: how
//! many of its first bytes are the previous record's (varint), the number of the others (varint), the others. Then,
//! by kind:
//!
//! | kind | | what follows |
//! |---|---|---|
//! | 1 | directory | metadata |
//! | 2 | regular file | metadata, size, and where it is not 0 the data's first 512-byte block in the tar |
//! | 3 | symbolic link | metadata, length of the target, target |
//! | 4, 5 | character, block device | metadata, major, minor |
//! | 6 | FIFO | metadata |
//! | 7 | hard link | length of the target, target |
//! | 8 | whiteout | |
//! | 9 | opaque directory | |
//! | 10 | sparse regular file | metadata, size, which is not 0, and the data's first 512-byte block in the extra file |
//!
//! Metadata are mode (permission bits), uid, gid, mtime in seconds (zigzag) and nanoseconds; then the attributes:
//! their number, and of each the EROFS name index, length of the name's rest, rest, length of the value, value. All
//! numbers are LEB128 varints of at most 64 bits. There is nothing in it but what the tar says, so the same tar gives
//! the same bytes.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{IndexReader, IndexTotals};
pub(crate) use writer::IndexWriter;

use crate::xattr::Xattr;

const MAGIC: &[u8; 8] = b"STOSIDX\n";
/// 1 had no sparse files and no extra file, and ACLs and file capabilities as the tar has them: such an index is made again
/// from its tar. Whatever changes what an index says of the same tar needs a new version.
const VERSION: u64 = 2;
const HAS_XATTRS: u8 = 0x80;

/// The largest device numbers that Linux has: 12 and 20 bits.
pub(crate) const MAX_MAJOR: u32 = 0xfff;
pub(crate) const MAX_MINOR: u32 = 0xf_ffff;

/// The kind byte of a record.
mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const DIRECTORY: u8 = 1;
    pub(super) const REGULAR: u8 = 2;
    pub(super) const SYMLINK: u8 = 3;
    pub(super) const CHARACTER: u8 = 4;
    pub(super) const BLOCK: u8 = 5;
    pub(super) const FIFO: u8 = 6;
    pub(super) const HARD_LINK: u8 = 7;
    pub(super) const WHITEOUT: u8 = 8;
    pub(super) const OPAQUE: u8 = 9;
    pub(super) const SPARSE: u8 = 10;
}

/// How many entries a layer may have, and all layers of an image together. The largest images have some two million;
/// a tar of a hundred million empty files is a few megabytes of gzip, and a tree of them would take 15 GB.
pub const MAX_ENTRIES: u64 = 8_000_000;

/// A point in time; the nanoseconds count forward also before 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds, less than 1,000,000,000.
    pub nanoseconds: u32,
}

/// What an entry says about its inode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: at most 0o7777.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last modification.
    pub mtime: Timestamp,
    /// The extended attributes, sorted, none twice.
    pub xattrs: Vec<Xattr>,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path without leading, trailing or double slashes, `.` or `..`; empty for the root. Of a whiteout the path
    /// that goes, of an opaque marker the directory.
    pub path: Vec<u8>,
    /// What stands there.
    pub kind: EntryKind,
}

/// In which of a layer's files the data of a regular file lie, as one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataPlace {
    /// In the tar.
    #[default]
    Tar,
    /// In the extra file, because they are sparse: in the tar they have no holes.
    Extra,
}

/// The type of an entry with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory(Metadata),
    /// A regular file.
    Regular {
        /// The inode's metadata.
        metadata: Metadata,
        /// Length of the data in bytes.
        size: u64,
        /// Where the data lie; in the tar where there are none.
        place: DataPlace,
        /// The data's first 512-byte block there; 0 where there are none.
        block: u64,
    },
    /// A symbolic link.
    Symlink {
        /// The inode's metadata.
        metadata: Metadata,
        /// The target as it stands in the tar, not empty.
        target: Vec<u8>,
    },
    /// A character device, never 0:0: that is a whiteout.
    CharacterDevice {
        /// The inode's metadata.
        metadata: Metadata,
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The inode's metadata.
        metadata: Metadata,
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo(Metadata),
    /// One more name of a file of this or a lower layer; what the header says beside is ignored.
    HardLink {
        /// The target's path, in the same form as [`Entry::path`].
        target: Vec<u8>,
    },
    /// The path's removal from the layers below.
    Whiteout,
    /// The removal of all that the layers below have in the directory.
    Opaque,
}
