// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images, as the kernel shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use stos_erofs::{DataPlace, EntryKind, IndexReader, LayerInput, Merger, device_parts};
use stos_sys::xattr;
use stos_testkit::erofs_image::{Image, Node};
use stos_testkit::merge_model::{list, write};

use crate::kernel::{judge, walk};
use crate::layers::{Layers, image};
use crate::tar::{in_pieces, tar_of};

/// Writes the image of layers, and mounts it.
///
/// The kernel shows what the model says, and `fsck.erofs` finds nothing wrong; each is asked where it is there.
pub fn erofs(data: &[u8]) {
    let layers = Layers::of(data);
    let Some(tree) = &layers.tree else { return };
    let tars: Vec<_> = layers.steps.iter().map(|steps| write(steps)).collect();
    let (image, _) = image(&tars).unwrap();
    judge(&image, |root| assert_eq!(shown(root), list(tree), "{:?}", layers.steps));
}

/// One line a path below the mount, as the model has it.
fn shown(root: &Path) -> Vec<String> {
    let name = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    let found: BTreeMap<_, _> = walk(root).into_iter().map(|(path, metadata)| (name(&path), metadata)).collect();
    let mut first: BTreeMap<u64, &str> = BTreeMap::new();
    let mut lines = Vec::new();
    for (path, metadata) in &found {
        let (file, mode) = (root.join(path), metadata.mode() & 0o7777);
        let first = *first.entry(metadata.ino()).or_insert(path);
        let line = if metadata.is_dir() {
            format!("d {mode:o} {path}")
        } else if first != path {
            format!("= {path} {first}")
        } else if metadata.is_symlink() {
            format!("l {path} {}", fs::read_link(file).unwrap().display())
        } else {
            format!("f {mode:o} {path} {}", fs::read_to_string(file).unwrap())
        };
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// The most of an extra file that is made here, in bytes.
const EXTRA_MAX: u64 = 1 << 20;

/// Writes the image of one layer, which is any tar that [`tar_index`](crate::tar_index) takes, and mounts it.
///
/// The kernel shows of each path what the testkit's reader finds in the bytes: type, mode, owner, time, size, links, device,
/// content and extended attributes; and `fsck.erofs` finds nothing wrong.
pub fn erofs_tar(data: &[u8]) {
    let Some((tar, lengths)) = tar_of(data) else { return };
    let Ok((index, kept)) = in_pieces(&tar, lengths) else { return };
    let totals = {
        let mut reader = IndexReader::new(&*index).unwrap();
        while reader.next_entry().unwrap().is_some() {}
        reader.totals().unwrap()
    };
    // The reader knows names as text; parents may be made where a symbolic link points.
    let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
    let is_text = kept.entries.iter().all(|entry| match &entry.kind {
        EntryKind::Symlink { target, .. } => is_text(&entry.path) && is_text(target),
        _ => is_text(&entry.path),
    });
    if totals.extra_bytes > EXTRA_MAX || !is_text {
        return;
    }
    let mut merger = Merger::new();
    let layer = LayerInput { tag: [7; 32], tar_bytes: totals.tar_bytes, extra_bytes: totals.extra_bytes };
    let mut bytes = Vec::new();
    // Of one layer alone some links lead nowhere.
    let Ok(summary) = merger.add_layer(layer, &*index).and_then(|()| merger.write(&mut bytes)) else { return };
    let device = |place| match place {
        DataPlace::Tar => tar.clone(),
        DataPlace::Extra => kept.extra(totals.extra_bytes),
    };
    let image = Image { bytes, devices: summary.devices.iter().map(|found| device(found.place)).collect() };
    let tree = image.tree();
    let inodes: BTreeSet<_> = tree.values().map(|node| node.nid).collect();
    assert_eq!(inodes.len() as u64, summary.inodes);
    judge(&image, |root| {
        let found = walk(root);
        assert_eq!(found.len() + 1, tree.len());
        for (path, metadata) in found {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            check_node(&tree[name], &path, &metadata);
        }
    });
}

fn check_node(node: &Node, path: &Path, metadata: &fs::Metadata) {
    let expected = (u32::from(node.mode), node.uid, node.gid, node.mtime.0, i64::from(node.mtime.1));
    let found = (metadata.mode(), metadata.uid(), metadata.gid(), metadata.mtime(), metadata.mtime_nsec());
    assert_eq!(found, expected, "{}", path.display());
    assert_eq!(metadata.nlink(), u64::from(node.links), "{}", path.display());
    if metadata.is_symlink() {
        assert_eq!(fs::read_link(path).unwrap().as_os_str().as_encoded_bytes(), node.data);
    } else if metadata.is_file() {
        assert_eq!(fs::read(path).unwrap(), node.data, "{}", path.display());
    }
    if metadata.is_file() || metadata.is_dir() {
        assert_eq!(metadata.len(), node.size);
        check_attributes(node, &File::open(path).unwrap());
    } else if !metadata.is_symlink() {
        let (major, minor) = device_parts(node.device);
        let device = metadata.rdev();
        // As makedev(3) has it.
        assert_eq!(device, u64::from((minor & 0xff) | (major << 8)) | (u64::from(minor & !0xff) << 12));
    }
}

fn check_attributes(node: &Node, file: &File) {
    let name = |(index, rest): &(u8, Vec<u8>)| {
        let prefix = match index {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            other => panic!("name index {other}"),
        };
        [prefix.as_bytes(), rest].concat()
    };
    let expected: BTreeMap<_, _> = node.xattrs.iter().map(|(key, value)| (name(key), value.clone())).collect();
    let names = xattr::list(file).unwrap();
    let value = |name: &CString| xattr::get(file, name).unwrap().unwrap();
    let found: BTreeMap<_, _> = names.iter().map(|name| (name.as_bytes().to_vec(), value(name))).collect();
    assert_eq!(found, expected);
}
