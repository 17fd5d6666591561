// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Writes a merged tree as an EROFS image, and reads the header of such an image.
//!
//! ```text
//! 0       nothing
//! 1024    superblock (128 bytes)
//! 1152    device table: 128 bytes for each tar and each extra file
//! …       inodes, each with its attributes and its chunk indexes or last partial block; the root first
//! …       full blocks of directories and long symbolic links
//! ```
//!
//! Blocks are of 512 bytes like a tar's, so that any file's data start at one. All numbers are little-endian. The
//! format is that of Linux's `fs/erofs/erofs_fs.h`; of it we use extended inodes, plain and inline-tail data, and
//! chunks.

mod directory;
mod header;
mod layout;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod writer;

pub use header::{ImageDevice, ImageHeader};
pub(crate) use writer::write;

use sha2::{Digest, Sha256};

use crate::index::DataPlace;

/// What a tar's digest is hashed with for the tag of its extra file.
const EXTRA_CONTEXT: &[u8] = b"stos layer.extra\n";
/// Where the superblock stands.
const SUPERBLOCK_AT: usize = 1024;
const SUPERBLOCK_LEN: usize = 128;
const DEVICE_TABLE_AT: usize = SUPERBLOCK_AT + SUPERBLOCK_LEN;
const DEVICE_SLOT_LEN: usize = 128;
/// End of what the superblock's checksum covers: its block.
const CHECKSUM_END: usize = 1536;
const MAGIC: u32 = 0xE0F5_E1E2;
const BLOCK_BITS: u8 = 9;
/// Own mtimes. Not 0x1, the superblock's checksum, although there is one: `fsck.erofs` before 1.9 computes the length of
/// what it covers as the block less 1024 and crashes where blocks are smaller. We check it ourselves before each mount.
const FEATURE_COMPAT: u32 = 0x2;
const FEATURE_CHUNKED_FILE: u32 = 0x4;
const FEATURE_DEVICE_TABLE: u32 = 0x8;
/// Inodes start at multiples of this, and their number (nid) counts in it.
const NID_UNIT: u64 = 32;
const INODE_LEN: u64 = 64;

/// A layer's file that an image needs as a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRef {
    /// The layer's number in the order in which the layers were added, the lowest is 0.
    pub layer: usize,
    /// Which of the layer's files.
    pub place: DataPlace,
    /// The SHA-256 of the layer's tar, or [`extra_tag`] of it.
    pub tag: [u8; 32],
    /// The file's length in blocks of 512 bytes, rounded up.
    pub blocks: u64,
}

/// What a written image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The layers' files that some file's data lie in, in the order of the device table, which is that of the `device=`
    /// options and of the layers, of each its tar first. There may be none.
    pub devices: Vec<DeviceRef>,
    /// The number of inodes.
    pub inodes: u64,
    /// The image's length in bytes.
    pub bytes: u64,
}

/// The tag of the device of a layer's extra file, of whose tar `tag` is the SHA-256: what the file holds follows from the
/// tar.
pub fn extra_tag(tag: &[u8; 32]) -> [u8; 32] {
    Sha256::new_with_prefix(EXTRA_CONTEXT).chain_update(tag).finalize().into()
}

/// The superblock's checksum: CRC-32C from all ones without the final inversion, its own field taken as zero.
fn superblock_checksum(block: &[u8]) -> u32 {
    let mut block = block.to_vec();
    block[4..8].fill(0);
    !crc32c::crc32c(&block)
}
