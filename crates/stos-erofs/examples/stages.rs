// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Indexes a tar and merges layers, the same each time: `cargo xtask guard` counts the instructions of the functions with `guarded` in their
//! names.

use stos_erofs::{Entry, EntryKind, LayerInput, Merger, Metadata, TarWriter, Timestamp, index_tar};

/// The files of a layer.
const FILES: u32 = 2_000;
/// The layers that are merged.
const LAYERS: u8 = 4;

fn main() {
    let tars: Vec<Vec<u8>> = (0..LAYERS).map(tar).collect();
    let indexes: Vec<(Vec<u8>, u64)> = tars.iter().map(|tar| (guarded_index(tar), tar.len() as u64)).collect();
    let image = guarded_merge(&indexes);
    assert!(image.len() > 50_000, "an image of {} bytes", image.len());
}

#[inline(never)]
fn guarded_index(tar: &[u8]) -> Vec<u8> {
    index_tar(tar, Vec::new()).expect("a tar of our own can be indexed").0
}

#[inline(never)]
fn guarded_merge(indexes: &[(Vec<u8>, u64)]) -> Vec<u8> {
    let mut merger = Merger::new();
    for (tag, (index, tar_bytes)) in (0..).zip(indexes) {
        let layer = LayerInput { tag: [tag; 32], tar_bytes: *tar_bytes, extra_bytes: 0 };
        merger.add_layer(layer, &**index).expect("an index of our own can be merged");
    }
    let mut image = Vec::new();
    merger.write(&mut image).expect("an image can be written to memory");
    image
}

/// A layer of directories and files, a quarter of which the layer below has too.
fn tar(layer: u8) -> Vec<u8> {
    let metadata = |mode| Metadata {
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp { seconds: 1_700_000_000, nanoseconds: 0 },
        xattrs: Vec::new(),
    };
    let mut writer = TarWriter::new(Vec::new());
    let mut append = |path: String, kind: EntryKind, data: &[u8]| {
        writer.append(&Entry { path: path.into_bytes(), kind }, data).expect("memory takes everything");
    };
    for directory in 0..FILES / 50 {
        append(format!("usr-{directory}"), EntryKind::Directory(metadata(0o755)), &[]);
    }
    for number in 0..FILES {
        let number = number + u32::from(layer) * FILES / 4 * 3;
        let data = vec![layer; (number % 700) as usize];
        let kind = EntryKind::Regular {
            metadata: metadata(0o644),
            size: data.len() as u64,
            block: 0,
            place: Default::default(),
        };
        append(format!("usr-{}/file-{number}", number % (FILES / 50)), kind, &data);
    }
    writer.finish().expect("memory takes everything")
}
