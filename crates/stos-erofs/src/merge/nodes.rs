// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a layer by itself consists of in the end: for who compares a directory with it.

use super::layer::LayerTree;
use super::tree::{Content, Inode, ROOT, Tree, mark};
use crate::index::{Entry, EntryKind};

impl LayerTree {
    /// Gives every name with what stands there, parents first, the root included: as an entry that would make it, whiteouts as
    /// [`EntryKind::Whiteout`]. Each of several names of a file gives the file's own kind. Hard links to files that the
    /// layer does not have stand nowhere.
    pub fn nodes(&self) -> impl Iterator<Item = Entry> + '_ {
        let tree = &self.tree;
        let stands = |&dentry: &_| !tree.has(dentry, mark::FOREIGN);
        tree.walk(ROOT).filter(stands).map(|dentry| {
            let kind = match tree.has(dentry, mark::WHITEOUT) {
                true => EntryKind::Whiteout,
                false => kind_of(tree, tree.inode(dentry)),
            };
            Entry { path: tree.full_path(dentry), kind }
        })
    }
}

/// What an inode is, as an entry that would make it.
pub(super) fn kind_of(tree: &Tree, inode: &Inode) -> EntryKind {
    let metadata = tree.metadata(inode);
    match inode.content {
        Content::Directory => EntryKind::Directory(metadata),
        Content::Regular { block, size, place, .. } => EntryKind::Regular { metadata, size, place, block },
        Content::Symlink { at, len } => EntryKind::Symlink { metadata, target: tree.symlink_target(at, len).to_vec() },
        Content::CharacterDevice(device) => {
            let (major, minor) = device_parts(device);
            EntryKind::CharacterDevice { metadata, major, minor }
        }
        Content::BlockDevice(device) => {
            let (major, minor) = device_parts(device);
            EntryKind::BlockDevice { metadata, major, minor }
        }
        Content::Fifo => EntryKind::Fifo(metadata),
    }
}

/// Gives major and minor of a device number in Linux's 32-bit form.
pub fn device_parts(device: u32) -> (u32, u32) {
    (major(device), minor(device))
}

fn major(device: u32) -> u32 {
    device >> 8 & 0xfff
}

fn minor(device: u32) -> u32 {
    device & 0xff | device >> 12 & 0xf_ff00
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{DataPlace, Metadata};
    use crate::merge::device_number;

    #[test]
    fn device_numbers_come_apart_as_they_were_put_together() {
        for (high, low) in [(0, 0), (1, 3), (0xfff, 0xf_ffff), (8, 256), (259, 0x1_2345)] {
            let device = device_number(high, low);
            assert_eq!(device_parts(device), (high, low));
        }
    }

    #[test]
    fn every_name_is_given_as_an_entry_that_would_make_it() {
        let file = || EntryKind::Regular {
            metadata: Metadata { mode: 0o640, ..Metadata::default() },
            size: 3,
            place: DataPlace::Tar,
            block: 1,
        };
        let entry = |path: &str, kind| Entry { path: path.into(), kind };
        let entries = [
            entry("d/f", file()),
            entry("d/g", EntryKind::HardLink { target: b"d/f".to_vec() }),
            entry("gone", EntryKind::Whiteout),
            entry("far", EntryKind::HardLink { target: b"below".to_vec() }),
        ];
        let mut tree = LayerTree::new();
        for (number, entry) in (0..).zip(&entries) {
            tree.apply(number, entry, |_| Ok::<_, crate::Error>(())).unwrap();
        }
        let mut found: Vec<_> = tree.nodes().collect();
        found.sort_by(|left, right| left.path.cmp(&right.path));
        let implied = || EntryKind::Directory(Metadata { mode: 0o755, ..Metadata::default() });
        let expected = [
            entry("", implied()),
            entry("d", implied()),
            entry("d/f", file()),
            entry("d/g", file()),
            entry("gone", EntryKind::Whiteout),
        ];
        assert_eq!(found, expected);
    }
}
