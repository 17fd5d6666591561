// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The files that LayerFS writes, damaged or made by others.

use stos_erofs::{
    Entry, EntryKind, Error, ImageHeader, IndexReader, IndexTotals, LayerInput, LayerTree, MAX_COMPONENT, MAX_PATH,
    MAX_SYMLINK, MergedLayer, Merger, Metadata, Stack,
};

use crate::check_message;

/// Reads a `layer.index`. Where the first byte is odd the checksum is made right.
///
/// Each entry keeps the rules by itself, whether the checksum is right or not. Of a whole index everything is made that is
/// made of indexes: each is an error or a result, and the image's own header is right.
pub fn index_reader(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    let mut index = bytes.to_vec();
    if how % 2 == 1 {
        index.extend(crc32c::crc32c(bytes).to_le_bytes());
    }
    let mut entries = Vec::new();
    match read(&index, &mut entries) {
        Ok(totals) => {
            assert_eq!(totals.entries, entries.len() as u64);
            make(&index, totals, &entries);
        }
        Err(error) => {
            check_message(&error);
            let layer = LayerInput { tag: [0; 32], tar_bytes: 0, extra_bytes: 0 };
            assert!(Merger::new().add_layer(layer, &*index).is_err());
        }
    }
}

fn read(index: &[u8], entries: &mut Vec<Entry>) -> Result<IndexTotals, Error> {
    let mut reader = IndexReader::new(index)?;
    while let Some(entry) = reader.next_entry()? {
        check_entry(&entry);
        entries.push(entry);
    }
    Ok(reader.totals().unwrap())
}

fn check_entry(entry: &Entry) {
    check_path(&entry.path);
    let metadata = match &entry.kind {
        EntryKind::Directory(metadata) | EntryKind::Fifo(metadata) => metadata,
        EntryKind::Regular { metadata, size, block, .. } => {
            assert!(*size > 0 || *block == 0);
            metadata
        }
        EntryKind::Symlink { metadata, target } => {
            assert!((1..=MAX_SYMLINK).contains(&target.len()) && !target.contains(&0));
            metadata
        }
        EntryKind::CharacterDevice { metadata, major, minor } | EntryKind::BlockDevice { metadata, major, minor } => {
            assert!(*major < 1 << 12 && *minor < 1 << 20);
            metadata
        }
        EntryKind::HardLink { target } => return check_path(target),
        EntryKind::Whiteout | EntryKind::Opaque => return,
    };
    let Metadata { mode, mtime, xattrs, .. } = metadata;
    assert!(*mode <= 0o7777 && mtime.nanoseconds < 1_000_000_000);
    let names: Vec<_> = xattrs.iter().map(|xattr| (xattr.namespace, &xattr.name)).collect();
    assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
}

fn check_path(path: &[u8]) {
    assert!(path.len() <= MAX_PATH && !path.contains(&0));
    let fits = |part: &[u8]| (1..=MAX_COMPONENT).contains(&part.len()) && part != b"." && part != b"..";
    assert!(path.is_empty() || path.split(|byte| *byte == b'/').all(fits), "{}", path.escape_ascii());
}

fn make(index: &[u8], totals: IndexTotals, entries: &[Entry]) {
    let layers =
        [0, 1].map(|tag| LayerInput { tag: [tag; 32], tar_bytes: totals.tar_bytes, extra_bytes: totals.extra_bytes });
    // The same layer twice: all of it finds itself below.
    let merged = (|| {
        let mut merger = Merger::new();
        layers.iter().try_for_each(|layer| merger.add_layer(*layer, index))?;
        let mut image = Vec::new();
        merger.write(&mut image).map(|summary| (summary, image))
    })();
    match merged {
        Ok((summary, image)) => {
            let header = ImageHeader::read(&*image).unwrap();
            let devices: Vec<_> = summary.devices.iter().map(|device| (*device).into()).collect();
            header.check_devices(&devices).unwrap();
            assert_eq!((header.inodes, header.bytes), (summary.inodes, image.len() as u64));
        }
        Err(error) => check_message(&error),
    }
    let mut stack = Stack::new(&layers);
    let stacked = layers.iter().try_for_each(|_| stack.add_layer(index));
    if let Err(error) = stacked.and_then(|()| Ok(stack.corrections(|_| Ok(index))?.iter().count())) {
        check_message(&error);
    }
    let mut alone = LayerTree::new();
    let applied = (0..).zip(entries).try_for_each(|(number, entry)| alone.apply(number, entry, |_| Ok::<_, Error>(())));
    match applied {
        Ok(()) => drop(alone.directories().count()),
        Err(error) => check_message(&error),
    }
    let mut layer = MergedLayer::new();
    let added = layers.iter().try_for_each(|_| layer.add_layer(index));
    if let Err(error) = added.and_then(|()| {
        layer.entries(|merged| -> Result<(), Error> {
            check_path(&merged.entry.path);
            Ok(())
        })
    }) {
        check_message(&error);
    }
}

/// Reads the head of an `image.erofs`. Where the first byte is odd the checksum is made right.
///
/// What is accepted names as many devices as the superblock counts, and no others fit.
pub fn image_header(data: &[u8]) {
    const SUPERBLOCK: std::ops::Range<usize> = 1024..1536;
    let Some((how, bytes)) = data.split_first() else { return };
    let mut image = bytes.to_vec();
    if let Some(block) = image.get_mut(SUPERBLOCK).filter(|_| how % 2 == 1) {
        block[4..8].fill(0);
        let checksum = !crc32c::crc32c(block);
        block[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
    let header = match ImageHeader::read(&*image) {
        Ok(header) => header,
        Err(error) => return check_message(&error),
    };
    assert_eq!(header.devices.len(), usize::from(u16::from_le_bytes([image[1024 + 0x56], image[1024 + 0x57]])));
    header.check_devices(&header.devices).unwrap();
    let mut others = header.devices.clone();
    match others.pop() {
        Some(last) => {
            assert!(header.check_devices(&others).is_err());
            others.push(stos_erofs::ImageDevice { blocks: !last.blocks, ..last });
            assert!(header.check_devices(&others).is_err());
        }
        None => assert!(header.devices.is_empty()),
    }
}
