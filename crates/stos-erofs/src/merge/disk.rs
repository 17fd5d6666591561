// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A directory in memory, as plainly as possible: what steps and corrections are done to, and what overlayfs shows.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::tree::{Content, ROOT, Tree, mark};
use super::{Correction, DirectoryState, SpecialFile, Step, device_number};
use crate::index::{DataPlace, Entry, EntryKind, Metadata};
use crate::path::split;

/// What a file is; of a regular one which data it has, by the tag of its layer and the number of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory { opaque: bool },
    Regular(u8, u64),
    Special(SpecialFile),
    Whiteout,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct File {
    kind: Kind,
    metadata: Metadata,
}

/// The same `Rc` is the same inode.
type Node = Rc<RefCell<File>>;

/// A directory, by paths.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) files: BTreeMap<Vec<u8>, Node>,
    /// Regular files without names, by the numbers of their entries.
    pub(super) orphans: BTreeMap<u64, Node>,
    /// Whether a directory's time changes with what is in it.
    pub(super) stamps: bool,
    /// Of a stack the directories with the number of layers that have them, and whether one has a whiteout there.
    parts: BTreeMap<Vec<u8>, (usize, bool)>,
}

fn node(kind: Kind, metadata: &Metadata) -> Node {
    Rc::new(RefCell::new(File { kind, metadata: metadata.clone() }))
}

fn implied() -> Metadata {
    Metadata { mode: 0o755, ..Metadata::default() }
}

fn special(entry: &EntryKind) -> Option<(SpecialFile, &Metadata)> {
    Some(match entry {
        EntryKind::Symlink { metadata, target } => (SpecialFile::Symlink(target.clone()), metadata),
        EntryKind::CharacterDevice { metadata, major, minor } => {
            (SpecialFile::CharacterDevice(device_number(*major, *minor)), metadata)
        }
        EntryKind::BlockDevice { metadata, major, minor } => {
            (SpecialFile::BlockDevice(device_number(*major, *minor)), metadata)
        }
        EntryKind::Fifo(metadata) => (SpecialFile::Fifo, metadata),
        _ => return None,
    })
}

impl Disk {
    pub(super) fn new() -> Self {
        let root = node(Kind::Directory { opaque: false }, &implied());
        Self {
            files: BTreeMap::from([(Vec::new(), root)]),
            orphans: BTreeMap::new(),
            stamps: false,
            parts: BTreeMap::new(),
        }
    }

    /// What a tree in memory says; regular files are of the layers with these tags.
    pub(super) fn of(tree: &Tree, tag: impl Fn(usize) -> u8) -> Self {
        let mut disk = Self { files: BTreeMap::new(), orphans: BTreeMap::new(), stamps: false, parts: BTreeMap::new() };
        let mut nodes: BTreeMap<u32, Node> = BTreeMap::new();
        for dentry in tree.walk(ROOT).filter(|&dentry| !tree.has(dentry, mark::FOREIGN)) {
            let (inode, id) = (tree.inode(dentry), tree.inode_id(dentry));
            let kind = match inode.content {
                _ if tree.has(dentry, mark::WHITEOUT) => Kind::Whiteout,
                Content::Directory => Kind::Directory { opaque: tree.has(dentry, mark::OPAQUE) },
                Content::Regular { .. } => Kind::Regular(tag(usize::from(inode.layer)), u64::from(tree.number(id))),
                Content::Symlink { at, len } => {
                    Kind::Special(SpecialFile::Symlink(tree.symlink_target(at, len).to_vec()))
                }
                Content::CharacterDevice(number) => Kind::Special(SpecialFile::CharacterDevice(number)),
                Content::BlockDevice(number) => Kind::Special(SpecialFile::BlockDevice(number)),
                Content::Fifo => Kind::Special(SpecialFile::Fifo),
            };
            let node = nodes.entry(id).or_insert_with(|| node(kind, &tree.metadata(inode))).clone();
            disk.files.insert(tree.full_path(dentry), node);
        }
        disk
    }

    fn put(&mut self, path: &[u8], node: Node) {
        assert!(!self.files.contains_key(path), "something stands at {}", path.escape_ascii());
        let parent = &self.files[split(path).0];
        assert!(matches!(parent.borrow().kind, Kind::Directory { .. }), "no directory above {}", path.escape_ascii());
        self.stamp(path);
        self.files.insert(path.to_vec(), node);
    }

    fn stamp(&self, path: &[u8]) {
        if self.stamps {
            self.files[split(path).0].borrow_mut().metadata.mtime.seconds = i64::MAX;
        }
    }

    fn remove_below(&mut self, path: &[u8]) {
        let below = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        self.files.retain(|other, _| !other.starts_with(&below) || other.is_empty());
    }

    fn remove(&mut self, path: &[u8]) {
        self.remove_below(path);
        self.files.remove(path);
        self.parts.retain(|directory, _| self.files.contains_key(directory));
    }

    /// Does a step of that entry.
    pub(super) fn step(&mut self, tag: u8, number: u64, entry: &Entry, step: Step<'_>) {
        let data = |metadata| node(Kind::Regular(tag, number), metadata);
        match step {
            Step::Imply { path } => self.put(path, node(Kind::Directory { opaque: false }, &implied())),
            Step::Remove { path } => {
                assert!(self.files.contains_key(path), "nothing stands at {}", path.escape_ascii());
                self.remove(path);
                self.stamp(path);
            }
            Step::Orphan { number, path } => {
                let node = self.files[path].clone();
                assert_eq!(node.borrow().kind, Kind::Regular(tag, number));
                assert!(self.orphans.insert(number, node).is_none());
            }
            Step::Unplaced { number: unplaced } => {
                let EntryKind::Regular { metadata, .. } = &entry.kind else { panic!("{entry:?}") };
                assert_eq!(unplaced, number);
                assert!(self.orphans.insert(number, data(metadata)).is_none());
            }
            Step::Create { path } => {
                let node = match &entry.kind {
                    EntryKind::Directory(metadata) => node(Kind::Directory { opaque: false }, metadata),
                    EntryKind::Regular { metadata, .. } => data(metadata),
                    other => {
                        let (file, metadata) = special(other).unwrap();
                        node(Kind::Special(file), metadata)
                    }
                };
                self.put(path, node);
            }
            Step::Update { path } => {
                let EntryKind::Directory(metadata) = &entry.kind else { panic!("{entry:?}") };
                self.files[path].borrow_mut().metadata = metadata.clone();
            }
            Step::Link { path, target } => self.put(path, self.files[target].clone()),
            Step::Whiteout { path } => self.put(path, node(Kind::Whiteout, &Metadata::default())),
            Step::Opaque { path } => {
                let mut file = self.files[path].borrow_mut();
                assert!(matches!(file.kind, Kind::Directory { .. }));
                file.kind = Kind::Directory { opaque: true };
            }
        }
    }

    /// Sets a directory's final state.
    pub(super) fn finish(&mut self, state: DirectoryState) {
        let mut file = self.files[&state.path].borrow_mut();
        assert!(matches!(file.kind, Kind::Directory { .. }));
        *file = File { kind: Kind::Directory { opaque: state.opaque }, metadata: state.metadata };
    }

    /// Makes a correction, in the directory of corrections.
    pub(super) fn correct(&mut self, correction: Correction, layers: &[Disk]) {
        match correction {
            Correction::Whiteout { path } => self.put(&path, node(Kind::Whiteout, &Metadata::default())),
            Correction::Directory { path, metadata, opaque } => {
                if path.is_empty() {
                    self.files.clear();
                    self.files.insert(path, node(Kind::Directory { opaque }, &metadata));
                } else {
                    self.put(&path, node(Kind::Directory { opaque }, &metadata));
                }
            }
            Correction::Node { path, layer, source, .. } => self.put(&path, layers[layer].files[&source].clone()),
            Correction::Orphan { path, layer, number } => self.put(&path, layers[layer].orphans[&number].clone()),
            Correction::Copy { path, layer, source, number } => {
                let original = match source {
                    Some(source) => &layers[layer].files[&source],
                    None => &layers[layer].orphans[&number],
                };
                let original = original.borrow();
                self.put(&path, node(original.kind.clone(), &original.metadata));
            }
            Correction::Make { path, metadata, file } => self.put(&path, node(Kind::Special(file), &metadata)),
            Correction::Link { path, target } => self.put(&path, self.files[&target].clone()),
        }
    }

    /// Stacks another directory on this one, as overlayfs does.
    pub(super) fn stack(&mut self, upper: &Disk) {
        for (path, node) in &upper.files {
            let file = node.borrow();
            if file.kind == Kind::Whiteout {
                self.parts.get_mut(split(path).0).unwrap().1 = true;
            }
            let lower_is_directory =
                self.files.get(path).is_some_and(|lower| matches!(lower.borrow().kind, Kind::Directory { .. }));
            match file.kind {
                // Nobody looks whether a layer's root is opaque.
                Kind::Directory { opaque } if lower_is_directory && (!opaque || path.is_empty()) => {}
                _ => self.remove(path),
            }
            match file.kind {
                Kind::Whiteout => {}
                Kind::Directory { .. } => {
                    self.parts.entry(path.clone()).or_default().0 += 1;
                    let shown = node_of(&Kind::Directory { opaque: false }, &file.metadata);
                    self.files.insert(path.clone(), shown);
                }
                _ => drop(self.files.insert(path.clone(), node.clone())),
            }
        }
    }

    /// The entries of a layer that makes all this; regular files have the tag 0.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut first: BTreeMap<*const RefCell<File>, &[u8]> = BTreeMap::new();
        let mut entries = Vec::new();
        for (path, node) in &self.files {
            let File { kind, metadata } = &*node.borrow();
            let metadata = metadata.clone();
            let linked = *first.entry(Rc::as_ptr(node)).or_insert(path);
            let kind = match kind {
                _ if linked != path => EntryKind::HardLink { target: linked.to_vec() },
                Kind::Directory { .. } => EntryKind::Directory(metadata),
                Kind::Regular(..) => EntryKind::Regular { metadata, size: 0, place: DataPlace::Tar, block: 0 },
                Kind::Special(SpecialFile::Symlink(target)) => EntryKind::Symlink { metadata, target: target.clone() },
                Kind::Special(SpecialFile::BlockDevice(minor)) => {
                    EntryKind::BlockDevice { metadata, major: 1, minor: minor & 0xff }
                }
                Kind::Special(SpecialFile::Fifo) => EntryKind::Fifo(metadata),
                Kind::Special(SpecialFile::CharacterDevice(_)) | Kind::Whiteout => EntryKind::Whiteout,
            };
            entries.push(Entry { path: path.clone(), kind });
        }
        entries
    }

    /// Tells whether overlayfs lists whiteouts: in a directory of one layer alone it does not look for them.
    pub(super) fn lists_whiteouts(&self) -> bool {
        self.parts.values().any(|&(layers, whiteouts)| layers == 1 && whiteouts)
    }

    /// Names data by where they are from.
    pub(super) fn rename(&mut self, source: impl Fn(u8, u64) -> (u8, u64)) {
        let mut seen = std::collections::BTreeSet::new();
        for node in self.files.values().filter(|node| seen.insert(Rc::as_ptr(node))) {
            let mut file = node.borrow_mut();
            if let Kind::Regular(tag, number) = file.kind {
                let (tag, number) = source(tag, number);
                file.kind = Kind::Regular(tag, number);
            }
        }
    }

    /// Tells whether a symbolic link stands there.
    pub(super) fn is_symlink(&self, path: &[u8]) -> bool {
        self.files.get(path).is_some_and(|node| matches!(node.borrow().kind, Kind::Special(SpecialFile::Symlink(_))))
    }

    /// Says all that can be seen: of each path the file, and the first path of the same inode.
    pub(super) fn list(&self) -> Vec<String> {
        let mut first: BTreeMap<*const RefCell<File>, &[u8]> = BTreeMap::new();
        let line = |(path, node): (&'_ Vec<u8>, &'_ Node)| format!("{} {:?}", path.escape_ascii(), node.borrow());
        let mut lines = Vec::new();
        for (path, node) in &self.files {
            let linked = *first.entry(Rc::as_ptr(node)).or_insert(path);
            lines.push(format!("{} = {}", line((path, node)), linked.escape_ascii()));
        }
        lines
    }
}

fn node_of(kind: &Kind, metadata: &Metadata) -> Node {
    node(kind.clone(), metadata)
}
