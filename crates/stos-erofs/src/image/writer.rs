// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Streams an image out as the layout says.

use std::io::Write;

use sha2::{Digest, Sha256};

use super::directory::{self, Shape};
use super::header::hex;
use super::layout::{CHUNK_INDEX_LEN, Cursor, Layout, Place, chunk_bits, within};
use super::{
    BLOCK_BITS, CHECKSUM_END, DEVICE_SLOT_LEN, DEVICE_TABLE_AT, FEATURE_CHUNKED_FILE, FEATURE_COMPAT,
    FEATURE_DEVICE_TABLE, INODE_LEN, ImageSummary, MAGIC, NID_UNIT, SUPERBLOCK_AT, superblock_checksum,
};
use crate::merge::tree::{Content, DentryId, Inode, Tree};
use crate::{BLOCK, Error, LayerInput, Result};

/// Data layouts of an inode, as they stand in its format field, with the bit for an extended inode.
const EXTENDED_PLAIN: u16 = 1;
const EXTENDED_INLINE: u16 = 1 | 2 << 1;
const EXTENDED_CHUNKS: u16 = 1 | 4 << 1;
/// In an inode's chunk format: chunk indexes of 8 bytes.
const CHUNK_INDEXES: u32 = 0x20;
/// Chunk addresses of 32 bits, all ones is a hole.
const MAX_ADDRESS: u64 = u32::MAX as u64 - 1;
/// The uuid changes where the format of our images does.
const UUID_CONTEXT: &[u8] = b"stos image.erofs 2\n";

/// Writes the tree as an image.
pub(crate) fn write(mut tree: Tree, layers: &[LayerInput], out: impl Write) -> Result<ImageSummary> {
    let layout = Layout::new(&mut tree, layers)?;
    let mut writer = ImageWriter { tree: &tree, layout: &layout, out: Out::new(out) };
    writer.out.put(&head(&layout, layers))?;
    writer.inodes()?;
    writer.data_blocks()?;
    writer.out.finish()?;
    let (inodes, bytes) = (layout.order.len() as u64, layout.blocks * BLOCK);
    Ok(ImageSummary { devices: layout.devices, inodes, bytes })
}

/// The superblock and the device table, from byte 0 on.
fn head(layout: &Layout, layers: &[LayerInput]) -> Vec<u8> {
    let devices = &layout.devices;
    let mut head = vec![0; DEVICE_TABLE_AT + DEVICE_SLOT_LEN * devices.len()];
    let root_nid = (layout.inodes_at - layout.meta_block * BLOCK) / NID_UNIT;
    let features = if devices.is_empty() { 0 } else { FEATURE_CHUNKED_FILE | FEATURE_DEVICE_TABLE };
    let superblock = &mut head[SUPERBLOCK_AT..DEVICE_TABLE_AT];
    let mut field = |at: usize, bytes: &[u8]| superblock[at..at + bytes.len()].copy_from_slice(bytes);
    field(0x00, &MAGIC.to_le_bytes());
    field(0x08, &FEATURE_COMPAT.to_le_bytes());
    field(0x0c, &[BLOCK_BITS, 0]);
    // The layout keeps the root's nid within 16 bits, all block addresses within 32.
    field(0x0e, &(root_nid as u16).to_le_bytes());
    field(0x10, &(layout.order.len() as u64).to_le_bytes());
    field(0x24, &(layout.blocks as u32).to_le_bytes());
    field(0x28, &(layout.meta_block as u32).to_le_bytes());
    field(0x30, &uuid(layout, layers));
    field(0x50, &features.to_le_bytes());
    field(0x56, &(devices.len() as u16).to_le_bytes());
    field(0x58, &((DEVICE_TABLE_AT / DEVICE_SLOT_LEN) as u16).to_le_bytes());
    let mut address = layout.blocks;
    for (device, slot) in devices.iter().zip(head[DEVICE_TABLE_AT..].chunks_exact_mut(DEVICE_SLOT_LEN)) {
        slot[..64].copy_from_slice(hex(&device.tag).as_bytes());
        slot[64..68].copy_from_slice(&(device.blocks as u32).to_le_bytes());
        slot[68..72].copy_from_slice(&(address as u32).to_le_bytes());
        address += device.blocks;
    }
    // The inodes start at a block of their own, so nothing of them is under the checksum.
    head.resize(layout.inodes_at as usize, 0);
    let checksum = superblock_checksum(&head[SUPERBLOCK_AT..CHECKSUM_END]);
    head[SUPERBLOCK_AT + 4..][..4].copy_from_slice(&checksum.to_le_bytes());
    head
}

/// A uuid of version 8 (RFC 9562) that follows from the layers and the image's size.
fn uuid(layout: &Layout, layers: &[LayerInput]) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix(UUID_CONTEXT);
    for layer in layers {
        hash.update(layer.tag);
        hash.update(layer.tar_bytes.to_le_bytes());
        hash.update(layer.extra_bytes.to_le_bytes());
    }
    hash.update((layout.order.len() as u64).to_le_bytes());
    hash.update(layout.blocks.to_le_bytes());
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hash.finalize()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

struct ImageWriter<'a, W: Write> {
    tree: &'a Tree,
    layout: &'a Layout,
    out: Out<W>,
}

impl<W: Write> ImageWriter<'_, W> {
    /// Writes the inodes, each with its attributes and what follows them.
    fn inodes(&mut self) -> Result<()> {
        let mut cursor = Cursor::new(self.layout.inodes_at);
        let mut shapes = self.layout.shapes.iter().copied();
        for &dentry in &self.layout.order {
            let inode = self.tree.inode(dentry);
            let shape = if self.tree.is_directory(dentry) { shapes.next() } else { None };
            let place = cursor.place(self.tree, inode, shape);
            self.out.pad_to(place.at)?;
            self.out.put(&self.inode(inode, place, shape)?)?;
            self.out.put(self.tree.xattr_body(inode))?;
            match inode.content {
                Content::Regular { size: 1.., .. } => self.chunk_indexes(inode.content)?,
                _ if place.tail > 0 => self.tail(dentry)?,
                _ => {}
            }
        }
        self.out.pad_to(self.layout.data_block * BLOCK)
    }

    /// Writes the blocks that do not follow their inodes.
    fn data_blocks(&mut self) -> Result<()> {
        for &(dentry, mut left) in &self.layout.with_blocks {
            let Self { tree, layout, out } = self;
            for_each_block(tree, layout, dentry, |block| {
                if left > 0 {
                    left -= 1;
                    out.put(block)?;
                    out.pad_to(out.position.next_multiple_of(BLOCK))?;
                }
                Ok(())
            })?;
        }
        self.out.pad_to(self.layout.blocks * BLOCK)
    }

    fn inode(&self, inode: &Inode, place: Place, shape: Option<Shape>) -> Result<[u8; INODE_LEN as usize]> {
        let start_block = if place.blocks == 0 { u32::MAX } else { (self.layout.data_block + place.block) as u32 };
        let in_image = if place.tail == 0 { EXTENDED_PLAIN } else { EXTENDED_INLINE };
        let (format, file_type, size, data, links) = match inode.content {
            Content::Directory => {
                let Shape { size, links } = shape.unwrap_or(Shape { size: 0, links: 2 });
                (in_image, 0o040_000, size, start_block, links)
            }
            Content::Regular { size: 0, .. } => (EXTENDED_PLAIN, 0o100_000, 0, u32::MAX, inode.names),
            Content::Regular { size, .. } => {
                (EXTENDED_CHUNKS, 0o100_000, size, chunk_bits(size) | CHUNK_INDEXES, inode.names)
            }
            Content::Symlink { len, .. } => (in_image, 0o120_000, u64::from(len), start_block, inode.names),
            Content::CharacterDevice(number) => (EXTENDED_PLAIN, 0o020_000, 0, number, inode.names),
            Content::BlockDevice(number) => (EXTENDED_PLAIN, 0o060_000, 0, number, inode.names),
            Content::Fifo => (EXTENDED_PLAIN, 0o010_000, 0, 0, inode.names),
        };
        // Linux knows no other mode of a symbolic link.
        let mode = if file_type == 0o120_000 { 0o777 } else { inode.mode };
        let xattr_len = self.tree.xattr_body(inode).len();
        let xattr_count = if xattr_len == 0 { 0 } else { (xattr_len - 12) / 4 + 1 };
        let mut bytes = [0; INODE_LEN as usize];
        let mut field = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        field(0, &format.to_le_bytes());
        field(2, &(within("attributes of one file", u64::from(u16::MAX), xattr_count as u64)? as u16).to_le_bytes());
        field(4, &(file_type | mode).to_le_bytes());
        field(8, &size.to_le_bytes());
        field(16, &data.to_le_bytes());
        field(24, &inode.uid.to_le_bytes());
        field(28, &inode.gid.to_le_bytes());
        field(32, &inode.mtime.to_le_bytes());
        field(40, &inode.nanoseconds.to_le_bytes());
        field(44, &links.to_le_bytes());
        Ok(bytes)
    }

    /// Writes a file's chunks: for each the block's upper 16 bits, the device, the block's lower 32 bits.
    fn chunk_indexes(&mut self, content: Content) -> Result<()> {
        let Content::Regular { block, size, layer, place } = content else { return Ok(()) };
        self.out.pad_to(self.out.position.next_multiple_of(CHUNK_INDEX_LEN))?;
        let device = self.layout.device(layer, place);
        let last = block + size.div_ceil(BLOCK);
        let step = 1 << chunk_bits(size);
        for block in (block..last).step_by(step) {
            let block = within("block within a layer", MAX_ADDRESS, block)? as u32;
            self.out.put(&[0, 0])?;
            self.out.put(&device.to_le_bytes())?;
            self.out.put(&block.to_le_bytes())?;
        }
        Ok(())
    }

    /// Writes the data that follow the inode: the last, partial block.
    fn tail(&mut self, dentry: DentryId) -> Result<()> {
        let mut last = Vec::new();
        for_each_block(self.tree, self.layout, dentry, |block| {
            last.clear();
            last.extend_from_slice(block);
            Ok(())
        })?;
        self.out.put(&last)
    }
}

/// Gives the blocks of a directory or symbolic link; the last one is as long as it is used.
fn for_each_block(
    tree: &Tree,
    layout: &Layout,
    dentry: DentryId,
    mut emit: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    match tree.inode(dentry).content {
        Content::Directory => directory::for_each_block(tree, dentry, |child| layout.nid(tree, child), emit),
        Content::Symlink { at, len } => tree.symlink_target(at, len).chunks(BLOCK as usize).try_for_each(&mut emit),
        _ => Ok(()),
    }
}

/// A buffered writer that knows its position.
struct Out<W: Write> {
    inner: W,
    buffer: Vec<u8>,
    position: u64,
}

impl<W: Write> Out<W> {
    const CAPACITY: usize = 256 << 10;

    fn new(inner: W) -> Self {
        Self { inner, buffer: Vec::with_capacity(Self::CAPACITY), position: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > Self::CAPACITY {
            self.drain()?;
        }
        self.position += bytes.len() as u64;
        if bytes.len() > Self::CAPACITY {
            return self.inner.write_all(bytes).map_err(Error::io("write the image"));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes zeros up to a position that is less than some blocks away.
    fn pad_to(&mut self, position: u64) -> Result<()> {
        const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        while self.position < position {
            let len = (position - self.position).min(BLOCK) as usize;
            self.put(&ZEROS[..len])?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        self.inner.write_all(&self.buffer).map_err(Error::io("write the image"))?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.drain()?;
        self.inner.flush().map_err(Error::io("write the image"))
    }
}
