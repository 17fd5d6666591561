// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads an image's superblock and device table back.

use std::io::{ErrorKind, Read};

use super::{
    BLOCK_BITS, CHECKSUM_END, DEVICE_SLOT_LEN, DEVICE_TABLE_AT, DeviceRef, FEATURE_CHUNKED_FILE, FEATURE_COMPAT,
    FEATURE_DEVICE_TABLE, MAGIC, SUPERBLOCK_AT, superblock_checksum,
};
use crate::error::ImageProblem;
use crate::{BLOCK, Error, Result};

/// A device as an image's device table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageDevice {
    /// The SHA-256 of the layer's tar, or [`extra_tag`](crate::extra_tag) of it.
    pub tag: [u8; 32],
    /// The file's length in blocks of 512 bytes, rounded up.
    pub blocks: u64,
}

impl From<DeviceRef> for ImageDevice {
    fn from(DeviceRef { tag, blocks, .. }: DeviceRef) -> Self {
        Self { tag, blocks }
    }
}

/// What an image of ours says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageHeader {
    /// The devices in the order in which a mount must name them.
    pub devices: Vec<ImageDevice>,
    /// The number of inodes.
    pub inodes: u64,
    /// The image's length in bytes.
    pub bytes: u64,
    /// Follows from the layers' digests.
    pub uuid: [u8; 16],
}

impl ImageHeader {
    /// Reads the first blocks of an image and checks what can be checked of them: the magic number, the checksum (it
    /// covers the superblock and the first three devices), features and block size as our writer sets them.
    ///
    /// **A mount with the devices in a wrong order serves wrong data and no error**, so compare the devices with
    /// [`check_devices`](Self::check_devices) before each mount.
    ///
    /// # Errors
    /// [`Error::Image`], and the reader's error.
    pub fn read(mut image: impl Read) -> Result<Self> {
        let mut head = vec![0; CHECKSUM_END];
        read_exactly(&mut image, &mut head, 0)?;
        let superblock = &head[SUPERBLOCK_AT..];
        let u16_at = |at: usize| u16::from_le_bytes([superblock[at], superblock[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let count = u16_at(0x56);
        let features = if count == 0 { 0 } else { FEATURE_CHUNKED_FILE | FEATURE_DEVICE_TABLE };
        expect("magic", u64::from(MAGIC), u64::from(u32_at(0)))?;
        expect("checksum", u64::from(superblock_checksum(superblock)), u64::from(u32_at(4)))?;
        expect("compatible features", u64::from(FEATURE_COMPAT), u64::from(u32_at(8)))?;
        expect("block size bits", u64::from(BLOCK_BITS), u64::from(superblock[0x0c]))?;
        expect("incompatible features", u64::from(features), u64::from(u32_at(0x50)))?;
        expect("device table", (DEVICE_TABLE_AT / DEVICE_SLOT_LEN) as u64, u64::from(u16_at(0x58)))?;
        let (inodes, bytes) = (u64_at(0x10), u64::from(u32_at(0x24)) * BLOCK);
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&superblock[0x30..0x40]);
        let devices = read_devices(image, head, usize::from(count))?;
        Ok(Self { devices, inodes, bytes, uuid })
    }

    /// Compares the device table with the layers that a mount is about to name, in that order.
    ///
    /// # Errors
    /// [`ImageProblem::DeviceCount`], [`ImageProblem::DeviceTag`], [`ImageProblem::DeviceBlocks`].
    pub fn check_devices(&self, expected: &[ImageDevice]) -> Result<()> {
        if self.devices.len() != expected.len() {
            let problem = ImageProblem::DeviceCount { expected: expected.len(), found: self.devices.len() };
            return Err(Error::Image(problem));
        }
        for (at, (expected, found)) in expected.iter().zip(&self.devices).enumerate() {
            let device = at + 1;
            if expected.tag != found.tag {
                let (expected, found) = (hex(&expected.tag), hex(&found.tag));
                return Err(Error::Image(ImageProblem::DeviceTag { device, expected, found }));
            }
            if expected.blocks != found.blocks {
                let (expected, found) = (expected.blocks, found.blocks);
                return Err(Error::Image(ImageProblem::DeviceBlocks { device, expected, found }));
            }
        }
        Ok(())
    }
}

fn expect(field: &'static str, expected: u64, found: u64) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::Image(ImageProblem::Field { field, expected, found })) }
}

fn read_devices(mut image: impl Read, mut head: Vec<u8>, count: usize) -> Result<Vec<ImageDevice>> {
    let table_end = DEVICE_TABLE_AT + DEVICE_SLOT_LEN * count;
    if table_end > head.len() {
        head.resize(table_end, 0);
        read_exactly(&mut image, &mut head[CHECKSUM_END..], CHECKSUM_END)?;
    }
    let slots = head[DEVICE_TABLE_AT..table_end].chunks_exact(DEVICE_SLOT_LEN).enumerate();
    slots
        .map(|(at, slot)| {
            let tag = unhex(&slot[..64]).ok_or(Error::Image(ImageProblem::Tag { device: at + 1 }))?;
            let blocks = u64::from(u32::from_le_bytes([slot[64], slot[65], slot[66], slot[67]]));
            Ok(ImageDevice { tag, blocks })
        })
        .collect()
}

fn read_exactly(image: &mut impl Read, buffer: &mut [u8], before: usize) -> Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match image.read(&mut buffer[filled..]) {
            Ok(0) => {
                let (expected, found) = ((before + buffer.len()) as u64, (before + filled) as u64);
                return Err(Error::Image(ImageProblem::Truncated { expected, found }));
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read the image's header")(error)),
        }
    }
    Ok(())
}

pub(super) fn hex(tag: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    tag.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn unhex(text: &[u8]) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut tag = [0; 32];
    for (byte, pair) in tag.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(tag)
}
