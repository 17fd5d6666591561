// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a written image is, and what its header says.

use super::testing::merge;
use crate::tarball::testing::Tar;
use crate::{DataPlace, Error, ImageDevice, ImageHeader, ImageProblem, LayerInput, Merger, index_tar};

fn image_problem(error: Error) -> ImageProblem {
    match error {
        Error::Image(problem) => problem,
        other => panic!("{other}"),
    }
}

#[test]
fn metadata_arrive_in_the_inodes() {
    let records: &[(&str, &[u8])] = &[
        ("uid", b"4294967294"),
        ("gid", b"70000"),
        ("mtime", b"-1.5"),
        ("SCHILY.xattr.user.a", b"value"),
        ("SCHILY.xattr.security.ima", b"signature"),
    ];
    let tar = Tar::new()
        .pax(records)
        .file("f", &"x".repeat(1200))
        .pax(records)
        .symlink("l", "target")
        .device("c", b'3', 0x123, 0x45678)
        .device("b", b'4', 7, 255)
        .end();
    let tree = merge(&[tar]).unwrap().tree();
    for path in ["f", "l"] {
        let node = &tree[path];
        assert_eq!((node.uid, node.gid, node.mtime), (4_294_967_294, 70_000, (-2, 500_000_000)), "{path}");
        assert_eq!(node.xattrs[&(6, b"ima".to_vec())], b"signature");
    }
    assert_eq!(tree["f"].xattrs[&(1, b"a".to_vec())], b"value");
    assert_eq!(tree["l"].xattrs.len(), 1, "Linux has no user attributes of links");
    assert_eq!(tree["f"].data, [b'x'; 1200]);
    assert_eq!((tree["l"].mode, tree["l"].size), (0o120_777, 6), "Linux has one mode for links");
    assert_eq!(tree["c"].device, 0x78 | 0x123 << 8 | 0x45600 << 12);
    assert_eq!(tree["b"].device, 255 | 7 << 8);
}

#[test]
fn directories_of_all_sizes_are_sorted_with_their_dots() {
    for count in [0, 1, 5, 30, 31, 32, 33, 500] {
        let mut tar = Tar::new().directory("d", 0o700);
        let mut names = vec!["!x".to_owned(), "-x".to_owned(), ".a".to_owned(), "..b".to_owned(), "\u{e9}".to_owned()];
        names.extend((0..count).map(|number| format!("name{number}")));
        names.extend([1, 100 - 2].map(|len| "n".repeat(len)));
        for name in &names {
            tar = tar.header(&format!("d/{name}"), b'6', 0, |_| {});
        }
        // The reader checks the order of all names and where `.` and `..` lead.
        assert_eq!(merge(&[tar]).unwrap().tree().len(), 2 + names.len());
    }
}

#[test]
fn directory_sizes_around_whole_blocks() {
    // `.` and `..` take 27 bytes; names of 12 + 97 bytes fill a block to any number of bytes.
    for tail in 1..=100usize {
        let mut tar = Tar::new();
        for name in 0..4 {
            tar = tar.header(&format!("d/{name}{}", "x".repeat(96)), b'6', 0, |_| {});
        }
        tar = tar.header(&format!("d/{}", "y".repeat(tail.min(98))), b'6', 0, |_| {});
        let tree = merge(&[tar]).unwrap().tree();
        assert_eq!(tree.len(), 7);
        let fits = 27 + 4 * 109 + 12 + tail.min(98) <= 512;
        assert_eq!(tree["d"].size > 512, !fits, "{tail}");
    }
}

#[test]
fn long_links_and_attributes_of_all_lengths() {
    for len in [1, 447, 448, 449, 511, 512, 513, 1024, 1500, 4095] {
        for xattr in [0, 1, 3, 300, 460, 3000] {
            let (target, value) = (vec![b't'; len], vec![b'v'; xattr]);
            let mut records: Vec<(&str, &[u8])> = vec![("linkpath", &target)];
            if xattr > 0 {
                records.push(("SCHILY.xattr.trusted.x", &value));
            }
            let tree = merge(&[Tar::new().pax(&records).symlink("l", "short")]).unwrap().tree();
            assert_eq!(tree["l"].data, target, "{len} {xattr}");
            assert_eq!(tree["l"].xattrs.values().cloned().collect::<Vec<_>>(), vec![value; usize::from(xattr > 0)]);
        }
    }
}

#[test]
fn files_larger_than_a_chunk_have_one_index_for_each() {
    // The data of a merge's input are never read, so its index may promise a tar that no disk holds.
    let size = (1u64 << 40) + 513;
    let mut index = crate::index::IndexWriter::new(Vec::new());
    let kind = crate::EntryKind::Regular { metadata: Default::default(), size, place: DataPlace::Tar, block: 1 };
    index.write(&crate::Entry { path: b"huge".to_vec(), kind }).unwrap();
    let tar_bytes = size + 512;
    let (index, _) = index.finish(tar_bytes, 0).unwrap();
    let mut merger = Merger::new();
    merger.add_layer(LayerInput { tag: [1; 32], tar_bytes, extra_bytes: 0 }, &*index).unwrap();
    let mut image = Vec::new();
    merger.write(&mut image).unwrap();
    // The root is at 1536, with 64 bytes and a tail of two names and "huge": 27 + 16; then the next inode.
    let inode = 1536 + 128;
    assert_eq!(image[inode..inode + 2], [9, 0]);
    assert_eq!(image[inode + 16..inode + 20], [31 | 0x20, 0, 0, 0]);
    let first = [0, 0, 1, 0, 1, 0, 0, 0];
    let second = [0, 0, 1, 0, 1, 0, 0, 0x80];
    assert_eq!(image[inode + 64..inode + 80], [first, second].concat());
}

#[test]
fn layers_beyond_32_bit_addresses_are_refused() {
    let mut index = crate::index::IndexWriter::new(Vec::new());
    let kind =
        crate::EntryKind::Regular { metadata: Default::default(), size: 1, place: DataPlace::Tar, block: 1 << 32 };
    index.write(&crate::Entry { path: b"far".to_vec(), kind }).unwrap();
    let tar_bytes = (2 << 40) + 1024;
    let (index, _) = index.finish(tar_bytes, 0).unwrap();
    let mut merger = Merger::new();
    merger.add_layer(LayerInput { tag: [1; 32], tar_bytes, extra_bytes: 0 }, &*index).unwrap();
    let problem = image_problem(merger.write(Vec::new()).unwrap_err());
    assert!(matches!(problem, ImageProblem::TooLarge { .. }), "{problem}");
}

#[test]
fn only_layers_with_surviving_data_are_devices() {
    let layers = [
        Tar::new().file("a", "0").end(),
        Tar::new().file("b", "1").end(),
        Tar::new().directory("d", 0o700).file("empty", "").symlink("l", "b").end(),
        Tar::new().file("a", "3").file("c", &"3".repeat(600)).end().raw(b"odd"),
    ];
    let image = merge(&layers).unwrap();
    let devices: Vec<_> = image.summary.devices.iter().map(|device| (device.layer, device.blocks)).collect();
    assert_eq!(devices, [(1, 4), (3, 8)]);
    let tree = image.tree();
    assert_eq!((&*tree["a"].data, &*tree["b"].data), (&b"3"[..], &b"1"[..]));
    let header = ImageHeader::read(&*image.bytes).unwrap();
    let expected: Vec<_> = image.summary.devices.iter().copied().map(ImageDevice::from).collect();
    assert_eq!(header.devices, expected);
    assert_eq!((header.inodes, header.bytes), (image.summary.inodes, image.summary.bytes));
    header.check_devices(&expected).unwrap();
    let none = merge(&[Tar::new().directory("d", 0o700).file("empty", "")]).unwrap();
    assert_eq!(none.summary.devices, []);
    assert_eq!(ImageHeader::read(&*none.bytes).unwrap().devices, []);
    none.tree();
}

#[test]
fn the_same_tar_twice_is_one_device() {
    let (one, other) = (Tar::new().file("a", "1").end(), Tar::new().file(".wh.a", "").end());
    let mut merger = Merger::new();
    for (tag, tar) in [(7, &one), (8, &other), (7, &one)] {
        merger.add_layer(tar.layer(tag), &*tar.index().unwrap()).unwrap();
    }
    let summary = merger.write(Vec::new()).unwrap();
    assert_eq!(summary.devices.iter().map(|device| device.layer).collect::<Vec<_>>(), [0]);
}

#[test]
fn devices_in_another_order_or_number_or_size_are_noticed() {
    let image = merge(&[Tar::new().file("a", "0"), Tar::new().file("b", "1")]).unwrap();
    let header = ImageHeader::read(&*image.bytes).unwrap();
    let [first, second] = header.devices[..] else { panic!() };
    let check = |devices: &[ImageDevice]| image_problem(header.check_devices(devices).unwrap_err());
    assert_eq!(check(&[first]), ImageProblem::DeviceCount { expected: 1, found: 2 });
    let (expected, found) = ("01".repeat(32), "00".repeat(32));
    assert_eq!(check(&[second, first]), ImageProblem::DeviceTag { device: 1, expected, found });
    let shorter = ImageDevice { blocks: 1, ..second };
    assert_eq!(check(&[first, shorter]), ImageProblem::DeviceBlocks { device: 2, expected: 1, found: 2 });
}

#[test]
fn a_damaged_header_is_refused() {
    let layers: Vec<_> = (0..5).map(|number| Tar::new().file(&format!("f{number}"), "x")).collect();
    let image = merge(&layers).unwrap().bytes.clone();
    let good = ImageHeader::read(&*image).unwrap();
    assert_eq!(good.devices.len(), 5);
    for at in 1024..1536 {
        let mut damaged = image.clone();
        damaged[at] ^= 0x10;
        assert!(ImageHeader::read(&*damaged).is_err(), "byte {at}");
    }
    // What the checksum does not cover must still be a table.
    let mut damaged = image.clone();
    damaged[1152 + 4 * 128] = b'Z';
    assert_eq!(image_problem(ImageHeader::read(&*damaged).unwrap_err()), ImageProblem::Tag { device: 5 });
    for len in [0, 1000, 1535, 1600] {
        let problem = image_problem(ImageHeader::read(&image[..len]).unwrap_err());
        assert!(matches!(problem, ImageProblem::Truncated { found, .. } if found == len as u64), "{problem}");
    }
}

#[test]
fn a_device_table_beyond_the_root_s_reach() {
    // The root's number is of 16 bits, so 2 MiB of table need the number's base moved.
    let mut merger = Merger::new();
    let count = 16_500u32;
    for number in 0..count {
        let tar = Tar::new().file(&format!("f{number}"), "x");
        let mut tag = [0; 32];
        tag[..4].copy_from_slice(&number.to_le_bytes());
        let (index, summary) = index_tar(&*tar.0, Vec::new()).unwrap();
        merger.add_layer(LayerInput { tag, tar_bytes: summary.tar_bytes, extra_bytes: 0 }, &*index).unwrap();
    }
    let mut image = Vec::new();
    let summary = merger.write(&mut image).unwrap();
    assert_eq!((summary.devices.len(), summary.inodes), (16_500, 16_501));
    assert_eq!(ImageHeader::read(&*image).unwrap().devices.len(), 16_500);
    let table_end = (1152usize + 128 * 16_500).next_multiple_of(512);
    let meta_block = u32::from_le_bytes(image[1024 + 0x28..][..4].try_into().unwrap());
    let root = u16::from_le_bytes(image[1024 + 0x0e..][..2].try_into().unwrap());
    assert_eq!(meta_block as usize * 512 + usize::from(root) * 32, table_end);
    assert_ne!(root, 0);
    assert_eq!(image[table_end + 4..table_end + 6], 0o040_755u16.to_le_bytes());
}

#[test]
fn the_same_layers_give_the_same_bytes_and_others_another_uuid() {
    let mut tar = Tar::new();
    for number in 0..300 {
        tar = tar.pax(&[("SCHILY.xattr.user.x", &[number as u8])]).file(&format!("d{}/f{number}", number % 7), "data");
    }
    let layers = [tar, Tar::new().file("x", "1").hard_link("y", "d1/f1")];
    let first = merge(&layers).unwrap();
    assert_eq!(first.bytes, merge(&layers).unwrap().bytes);
    let uuid = |image: &[u8]| ImageHeader::read(image).unwrap().uuid;
    assert_ne!(uuid(&first.bytes), uuid(&merge(&layers[..1]).unwrap().bytes));
    assert_eq!((uuid(&first.bytes)[6] >> 4, uuid(&first.bytes)[8] >> 6), (8, 2));
}
