// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a layer by itself consists of in the end: for who compares a directory with it.

use std::collections::HashMap;

use super::layer::LayerTree;
use super::tree::{Content, DentryId, Inode, NO_ENTRY, ROOT, Tree, mark};
use crate::index::{Entry, EntryKind};

/// A name of a layer by itself, with what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// As an entry that would make it, whiteouts as [`EntryKind::Whiteout`]. Each of several names of a file has the file's own
    /// kind.
    pub entry: Entry,
    /// Which file it is: names of one file have the same number here, and no others.
    pub file: u32,
    /// How many names the file has.
    pub names: u32,
    /// Whether it is a directory that hides what the layers below have in it.
    pub opaque: bool,
    /// How many names stand in it.
    pub children: u64,
}

/// Where a layer's regular files stand: by names, for whole paths could take 4,096 bytes each and more.
#[derive(Debug)]
pub struct Places {
    /// The files by the numbers of their entries, sorted, and where their names are.
    pub(super) files: Vec<(u32, u32)>,
    /// Of directories and files; the root is the first.
    names: Vec<Name>,
    strings: Vec<u8>,
}

#[derive(Debug)]
struct Name {
    parent: u32,
    end: u32,
}

impl Places {
    /// Gives one name of the regular file of that entry; `None` where it has none in the layer by itself.
    pub fn path_of(&self, number: u64) -> Option<Vec<u8>> {
        let number = u32::try_from(number).ok()?;
        let found = self.files.binary_search_by_key(&number, |&(number, _)| number).ok()?;
        let mut at = self.files[found].1 as usize;
        let mut names = Vec::new();
        while at != 0 {
            names.push(self.name(at));
            at = self.names[at].parent as usize;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    fn name(&self, at: usize) -> &[u8] {
        &self.strings[self.names[at - 1].end as usize..self.names[at].end as usize]
    }

    fn add(&mut self, parent: u32, name: &[u8]) -> u32 {
        self.strings.extend_from_slice(name);
        // A tree's names take less than 4 GiB, and here each is kept once.
        self.names.push(Name { parent, end: self.strings.len() as u32 });
        (self.names.len() - 1) as u32
    }
}

impl LayerTree {
    /// Gives every name with what stands there, parents first, the root included. Hard links to files that the layer does not
    /// have stand nowhere.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        let tree = &self.tree;
        let stands = |&dentry: &DentryId| !tree.has(dentry, mark::FOREIGN);
        tree.walk(ROOT).filter(stands).map(move |dentry| {
            let kind = match tree.has(dentry, mark::WHITEOUT) {
                true => EntryKind::Whiteout,
                false => kind_of(tree, tree.inode(dentry)),
            };
            Node {
                entry: Entry { path: tree.full_path(dentry), kind },
                file: tree.inode_id(dentry),
                names: tree.inode(dentry).names,
                opaque: tree.has(dentry, mark::OPAQUE),
                children: tree.children(dentry).filter(stands).count() as u64,
            }
        })
    }

    /// Gives the places of the regular files that the layer has put and that still have a name.
    pub fn places(&self) -> Places {
        let tree = &self.tree;
        let mut places = Places { files: Vec::new(), names: vec![Name { parent: 0, end: 0 }], strings: Vec::new() };
        let mut directories = HashMap::from([(ROOT, 0)]);
        for dentry in tree.walk(ROOT).skip(1) {
            let parent = directories[&tree.parent(dentry)];
            if tree.is_directory(dentry) {
                directories.insert(dentry, places.add(parent, tree.name(dentry)));
            } else if let Content::Regular { .. } = tree.inode(dentry).content {
                let number = tree.number(tree.inode_id(dentry));
                // What was there before the layer has no entry.
                if number != NO_ENTRY {
                    let name = places.add(parent, tree.name(dentry));
                    places.files.push((number, name));
                }
            }
        }
        places.files.sort_unstable();
        places.files.dedup_by_key(|&mut (number, _)| number);
        places
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
        found.sort_by(|left, right| left.entry.path.cmp(&right.entry.path));
        let implied = || EntryKind::Directory(Metadata { mode: 0o755, ..Metadata::default() });
        let expected = [
            (entry("", implied()), 1, 2),
            (entry("d", implied()), 1, 2),
            (entry("d/f", file()), 2, 0),
            (entry("d/g", file()), 2, 0),
            (entry("gone", EntryKind::Whiteout), 1, 0),
        ];
        let seen: Vec<_> = found.iter().map(|node| (node.entry.clone(), node.names, node.children)).collect();
        assert_eq!(seen, expected);
        assert_eq!(found[2].file, found[3].file);
        assert_ne!(found[1].file, found[2].file);
        let places = tree.places();
        assert!(matches!(places.path_of(0).as_deref(), Some(b"d/f" | b"d/g")));
        assert_eq!((places.path_of(1), places.path_of(2), places.path_of(u64::MAX)), (None, None, None));
    }

    #[test]
    fn opaque_directories_are_said_to_be_so() {
        let entry = |path: &str, kind| Entry { path: path.into(), kind };
        let directory = || EntryKind::Directory(Metadata { mode: 0o755, ..Metadata::default() });
        let mut tree = LayerTree::new();
        for (number, entry) in
            (0..).zip([entry("d", directory()), entry("d", EntryKind::Opaque), entry("e", directory())])
        {
            tree.apply(number, &entry, |_| Ok::<_, crate::Error>(())).unwrap();
        }
        let mut opaque: Vec<_> = tree.nodes().map(|node| (node.entry.path, node.opaque)).collect();
        opaque.sort();
        assert_eq!(opaque, [(b"".to_vec(), false), (b"d".to_vec(), true), (b"e".to_vec(), false)]);
    }
}
