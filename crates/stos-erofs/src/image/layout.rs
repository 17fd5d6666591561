// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Decides where everything stands, before a byte is written.

use super::directory::{self, Shape};
use super::{DEVICE_SLOT_LEN, DEVICE_TABLE_AT, DeviceRef, INODE_LEN, NID_UNIT, extra_tag};
use crate::error::ImageProblem;
use crate::index::DataPlace;
use crate::merge::tree::{Content, DentryId, Inode, LayerId, ROOT, Tree};
use crate::{BLOCK, Error, LayerInput, Result};

/// The largest chunk is 512 bytes << 31, 1 TiB.
const MAX_CHUNK_BITS: u32 = 31;
pub(super) const CHUNK_INDEX_LEN: u64 = 8;
/// The root's nid is a 16-bit field.
const MAX_ROOT_NID: u64 = u16::MAX as u64;
/// Block addresses are of 32 bits, and all ones means a hole.
const MAX_BLOCKS: u64 = u32::MAX as u64 - 1;

/// Where everything stands.
#[derive(Debug)]
pub(super) struct Layout {
    /// One name of each inode, in the order of the inodes; the root first.
    pub(super) order: Vec<DentryId>,
    /// Of each directory, in that order.
    pub(super) shapes: Vec<Shape>,
    /// The files that have blocks after the inodes, and how many, in that order.
    pub(super) with_blocks: Vec<(DentryId, u64)>,
    /// By inode number.
    nids: Vec<u32>,
    /// The layers' files that are devices, in table order.
    pub(super) devices: Vec<DeviceRef>,
    /// By layer, of tar and extra file: the device's number, from 1; 0 where it is none.
    device_of: Vec<[u16; 2]>,
    /// The block that nids count from.
    pub(super) meta_block: u64,
    /// Where the inodes start, in bytes.
    pub(super) inodes_at: u64,
    /// The first block after the inodes.
    pub(super) data_block: u64,
    /// The image's length in blocks.
    pub(super) blocks: u64,
    device_blocks: u64,
}

/// A file's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The inode's first byte.
    pub(super) at: u64,
    /// The data's first block among those after the inodes; 0 where all data follow the inode.
    pub(super) block: u64,
    /// How many blocks the data take there.
    pub(super) blocks: u64,
    /// The length of what follows the inode and its attributes of the data.
    pub(super) tail: u64,
}

/// Where the next inode and the next block of data go. Placing the same files in the same order gives the same
/// places, so they are not kept, but found again when the image is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) at: u64,
    block: u64,
}

impl Cursor {
    pub(super) fn new(inodes_at: u64) -> Self {
        Self { at: inodes_at, block: 0 }
    }

    /// Places an inode whose data, if any, are `size` bytes of the image itself.
    ///
    /// The last partial block follows the inode, if it can lie there within one block; the inode moves on until it
    /// does. Attributes of an odd length may leave no such place: then it becomes a block of its own.
    fn place_data(&mut self, xattr_len: u64, size: u64) -> Place {
        let before_tail = INODE_LEN + xattr_len;
        let tail = size % BLOCK;
        let mut at = self.at.next_multiple_of(NID_UNIT);
        let inline = tail != 0 && (before_tail % NID_UNIT) + tail <= BLOCK;
        if inline {
            while (at + before_tail) % BLOCK + tail > BLOCK {
                at += NID_UNIT;
            }
        }
        let blocks = if inline { size / BLOCK } else { size.div_ceil(BLOCK) };
        let tail = if inline { tail } else { 0 };
        let place = Place { at, block: self.block, blocks, tail };
        self.at = at + before_tail + tail;
        self.block += blocks;
        place
    }

    /// Places an inode that is followed by indexes of chunks, aligned to their size.
    fn place_chunks(&mut self, xattr_len: u64, chunks: u64) -> Place {
        let at = self.at.next_multiple_of(NID_UNIT);
        let tail = chunks * CHUNK_INDEX_LEN;
        self.at = (at + INODE_LEN + xattr_len).next_multiple_of(CHUNK_INDEX_LEN) + tail;
        Place { at, block: 0, blocks: 0, tail }
    }

    /// Places a file; `shape` is the directory's, if it is one.
    pub(super) fn place(&mut self, tree: &Tree, inode: &Inode, shape: Option<Shape>) -> Place {
        let xattr_len = tree.xattr_body(inode).len() as u64;
        match (inode.content, shape) {
            (_, Some(shape)) => self.place_data(xattr_len, shape.size),
            (Content::Symlink { len, .. }, _) => self.place_data(xattr_len, u64::from(len)),
            (Content::Regular { size: 1.., .. }, _) => self.place_chunks(xattr_len, chunks_of(inode.content)),
            _ => self.place_data(xattr_len, 0),
        }
    }
}

/// The bits of a file's chunk size above the block's: the smallest chunk that holds the whole file, if one does.
pub(super) fn chunk_bits(size: u64) -> u32 {
    let blocks = size.div_ceil(BLOCK).max(1);
    blocks.next_power_of_two().trailing_zeros().min(MAX_CHUNK_BITS)
}

fn chunks_of(content: Content) -> u64 {
    match content {
        Content::Regular { size, .. } => size.div_ceil(BLOCK << chunk_bits(size)),
        _ => 0,
    }
}

impl Layout {
    /// Sorts the directories and places everything.
    pub(super) fn new(tree: &mut Tree, layers: &[LayerInput]) -> Result<Self> {
        let mut layout = Self {
            order: vec![ROOT],
            shapes: Vec::new(),
            with_blocks: Vec::new(),
            nids: vec![u32::MAX; tree.inode_limit()],
            devices: Vec::new(),
            device_of: vec![[0; 2]; layers.len()],
            meta_block: 0,
            inodes_at: 0,
            data_block: 0,
            blocks: 0,
            device_blocks: 0,
        };
        layout.visit(tree);
        layout.number_devices(layers)?;
        layout.place_all(tree)?;
        Ok(layout)
    }

    /// The number, from 1, of the device that a layer's file is.
    pub(super) fn device(&self, layer: LayerId, place: DataPlace) -> u16 {
        self.device_of[usize::from(layer)][place as usize]
    }

    /// The number of the inode that a name has.
    pub(super) fn nid(&self, tree: &Tree, dentry: DentryId) -> u64 {
        u64::from(self.nids[tree.inode_id(dentry) as usize])
    }

    /// Orders the inodes by breadth, so that what one `readdir` gives stands together; measures the directories; marks
    /// the layers that are in use.
    fn visit(&mut self, tree: &mut Tree) {
        self.nids[tree.inode_id(ROOT) as usize] = 0;
        let mut next = 0;
        while let Some(&dentry) = self.order.get(next) {
            next += 1;
            match tree.inode(dentry).content {
                Content::Directory => {
                    tree.sort_children(dentry);
                    self.shapes.push(directory::shape(tree, dentry));
                }
                Content::Regular { size: 1.., layer, place, .. } => {
                    self.device_of[usize::from(layer)][place as usize] = 1;
                }
                _ => {}
            }
            for child in tree.children(dentry) {
                let nid = &mut self.nids[tree.inode_id(child) as usize];
                if *nid == u32::MAX {
                    *nid = 0;
                    self.order.push(child);
                }
            }
        }
    }

    fn number_devices(&mut self, layers: &[LayerInput]) -> Result<()> {
        let files = layers.iter().enumerate().flat_map(|(layer, input)| {
            let tar = (DataPlace::Tar, input.tag, input.tar_bytes);
            let extra = (DataPlace::Extra, extra_tag(&input.tag), input.extra_bytes);
            [tar, extra].map(|(place, tag, len)| DeviceRef { layer, place, tag, blocks: len.div_ceil(BLOCK) })
        });
        for device in files {
            let number = &mut self.device_of[device.layer][device.place as usize];
            if *number == 0 {
                continue;
            }
            self.devices.push(device);
            *number = within("number of devices", u64::from(u16::MAX), self.devices.len() as u64)? as u16;
            self.device_blocks += device.blocks;
            within("size of all layers in blocks", MAX_BLOCKS, self.device_blocks)?;
        }
        let table_end = (DEVICE_TABLE_AT + DEVICE_SLOT_LEN * self.devices.len()) as u64;
        self.inodes_at = table_end.next_multiple_of(BLOCK);
        // Behind a huge table the nids count from the block before the root: never 0, which readdir takes for no file.
        if self.inodes_at / NID_UNIT > MAX_ROOT_NID {
            self.meta_block = self.inodes_at / BLOCK - 1;
        }
        Ok(())
    }

    fn place_all(&mut self, tree: &Tree) -> Result<()> {
        let mut cursor = Cursor::new(self.inodes_at);
        let mut shapes = self.shapes.iter().copied();
        for &dentry in &self.order {
            let inode = tree.inode(dentry);
            let shape = if tree.is_directory(dentry) { shapes.next() } else { None };
            let place = cursor.place(tree, inode, shape);
            if place.blocks > 0 {
                self.with_blocks.push((dentry, place.blocks));
            }
            let nid = (place.at - self.meta_block * BLOCK) / NID_UNIT;
            self.nids[tree.inode_id(dentry) as usize] = within("inode number", u64::from(u32::MAX), nid)? as u32;
        }
        self.data_block = cursor.at.div_ceil(BLOCK);
        self.blocks = self.data_block + cursor.block;
        // The devices' unified addresses follow the image's own blocks.
        within("size of the image and all layers in blocks", MAX_BLOCKS, self.blocks + self.device_blocks)?;
        Ok(())
    }
}

pub(super) fn within(what: &'static str, limit: u64, found: u64) -> Result<u64> {
    if found <= limit { Ok(found) } else { Err(Error::Image(ImageProblem::TooLarge { what, limit, found })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_as_small_as_holds_the_file_up_to_a_tebibyte() {
        let tib = 1u64 << 40;
        for (size, bits, chunks) in [
            (1, 0, 1),
            (512, 0, 1),
            (513, 1, 1),
            (1024, 1, 1),
            (1025, 2, 1),
            (tib, 31, 1),
            (tib + 1, 31, 2),
            (tib * 2, 31, 2),
            (tib * 2 + 1, 31, 3),
        ] {
            assert_eq!(chunk_bits(size), bits, "{size}");
            assert_eq!(
                chunks_of(Content::Regular { block: 1, size, layer: 0, place: DataPlace::Tar }),
                chunks,
                "{size}"
            );
        }
    }

    #[test]
    fn tails_lie_within_one_block() {
        for xattr_len in (0..1200).step_by(4) {
            for size in [1, 27, 400, 480, 508, 509, 511, 512, 513, 1023, 1024, 70_000] {
                let mut cursor = Cursor { at: 1312, block: 7 };
                let place = cursor.place_data(xattr_len, size);
                assert_eq!(place.at % NID_UNIT, 0);
                assert_eq!(place.block, 7);
                let tail_at = place.at + INODE_LEN + xattr_len;
                assert!(place.tail == 0 || tail_at / BLOCK == (tail_at + place.tail - 1) / BLOCK);
                if place.tail == 0 {
                    assert_eq!(place.blocks, size.div_ceil(BLOCK));
                } else {
                    assert_eq!(place.blocks * BLOCK + place.tail, size);
                }
                assert_eq!((cursor.at, cursor.block), (tail_at + place.tail, 7 + place.blocks));
            }
        }
    }
}
