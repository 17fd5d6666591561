// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random layers that are legal on those below them.

use super::tree::{ROOT, Tree};
use super::{Apply, LayerInput, MergeProblem};
use crate::index::{DataPlace, Entry, EntryKind, IndexWriter, Metadata, Timestamp};
use crate::xattr::{Namespace, Xattr};

/// A small generator, so that a failure can be had again from its seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn path(&mut self) -> Vec<u8> {
        let names: Vec<_> = (0..1 + self.below(3)).map(|_| ["a", "b", "c"][self.below(3) as usize]).collect();
        names.join("/").into_bytes()
    }

    fn metadata(&mut self) -> Metadata {
        let xattr =
            Xattr { namespace: Namespace::Trusted, name: b"x".to_vec(), value: vec![b'0' + self.below(3) as u8] };
        Metadata {
            mode: 0o700 + self.below(8) as u16,
            uid: self.below(2) as u32,
            gid: 0,
            mtime: Timestamp { seconds: self.below(3) as i64, nanoseconds: 0 },
            xattrs: if self.below(4) == 0 { vec![xattr] } else { Vec::new() },
        }
    }

    pub(super) fn entry(&mut self, links: bool) -> Entry {
        const TARGETS: [&str; 11] = ["a", "b", "/a", "/b/c", "..", "../b/", "c/./a", "c/b/../a", "../../a", ".", "/"];
        let path = if self.below(40) == 0 { Vec::new() } else { self.path() };
        let metadata = self.metadata();
        let kind = match self.below(if links { 16 } else { 13 }) {
            _ if path.is_empty() && self.below(3) == 0 => EntryKind::Opaque,
            _ if path.is_empty() => EntryKind::Directory(metadata),
            0..=2 => EntryKind::Directory(metadata),
            3..=5 => EntryKind::Regular { metadata, size: self.below(3), place: DataPlace::Tar, block: 0 },
            6..=7 => EntryKind::HardLink { target: self.path() },
            8..=9 => EntryKind::Whiteout,
            10 => EntryKind::Opaque,
            11 => EntryKind::Fifo(metadata),
            12 => EntryKind::BlockDevice { metadata, major: 1, minor: self.below(3) as u32 },
            _ => EntryKind::Symlink { metadata, target: TARGETS[self.below(11) as usize].into() },
        };
        Entry { path, kind }
    }

    /// Makes a layer that is legal on the tree, and applies it there.
    pub(super) fn layer(&mut self, tree: &mut Tree, layer: u16, links: bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        for _ in 0..self.below(12) {
            let mut entry = self.entry(links);
            if let EntryKind::HardLink { target } = &mut entry.kind
                && self.below(4) != 0
            {
                let files: Vec<_> = tree.walk(ROOT).filter(|&dentry| !tree.is_directory(dentry)).collect();
                if !files.is_empty() {
                    *target = tree.full_path(files[self.below(files.len() as u64) as usize]);
                }
            }
            let mut next = tree.clone();
            if apply(&mut next, layer, entries.len() as u32, &entry).is_ok() {
                *tree = next;
                entries.push(entry);
            }
        }
        entries
    }
}

/// Applies an entry as the merger does.
pub(super) fn apply(tree: &mut Tree, layer: u16, number: u32, entry: &Entry) -> Result<(), MergeProblem> {
    Apply { tree, layer, device: layer, input: input(0), number }.entry(entry)
}

const TAR_BYTES: u64 = 1 << 20;

/// The layer of that tag.
pub(super) fn input(tag: u8) -> LayerInput {
    LayerInput { tag: [tag; 32], tar_bytes: TAR_BYTES, extra_bytes: 0 }
}

pub(super) fn index(entries: &[Entry]) -> Vec<u8> {
    let mut writer = IndexWriter::new(Vec::new());
    entries.iter().for_each(|entry| writer.write(entry).unwrap());
    writer.finish(TAR_BYTES, 0).unwrap().0
}

/// The entries in a line each, for messages.
pub(super) fn brief<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    let line = |entry: &Entry| {
        let what = match &entry.kind {
            EntryKind::Symlink { target, .. } => format!("symlink to {}", target.escape_ascii()),
            EntryKind::HardLink { target } => format!("hard link to {}", target.escape_ascii()),
            other => format!("{other:?}").split([' ', '(']).next().unwrap_or_default().to_owned(),
        };
        format!("\n  {}: {what}", entry.path.escape_ascii())
    };
    entries.into_iter().map(line).collect()
}
