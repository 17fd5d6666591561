// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Several layers made one, without those below them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;

use super::layer::LayerTree;
use super::nodes::kind_of;
use super::tree::{Content, DentryId, InodeId, LayerId, NO_LAYER, ROOT, Tree, mark};
use super::{MergeProblem, merge_error};
use crate::error::printable;
use crate::index::{Entry, EntryKind, IndexReader};
use crate::path::MAX_PATH;
use crate::{Error, Result};

/// An entry of a merged layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedEntry {
    /// The entry. The place of a regular file's data is that in the tar of its own layer.
    pub entry: Entry,
    /// Of an entry with an inode, a directory's aside, its layer, counted as they were added, and its number there.
    pub source: Option<(usize, u64)>,
}

/// Merges the indexes of several layers into one layer that, on any layers below, means what they mean one after the
/// other.
///
/// What an upper layer removes of a lower one's is left out, and its whiteout stays, for the layers below may have the name
/// too. Hard links to files that only the layers below can have stay hard links. Directories that are merely implied give
/// no entries.
///
/// Three things that layers mean cannot be said without those below them:
///
/// - Where a parent that these layers merely imply is a symbolic link below, the entries go where it leads, but which of
///   them removes which was decided without it.
/// - An implied directory that a later layer empties is there afterwards only where the layers below have it.
/// - [`MergeProblem::DependsOnLower`]: a file of the layers below would have to keep a name while something else takes
///   the only place it can be linked from (two names that change places), or something lies below a hard link to such a
///   file.
///
/// Entries, memory and time are bounded as [`Merger`](crate::Merger)'s; nothing recurses.
#[derive(Debug)]
pub struct MergedLayer {
    pub(super) layers: LayerTree,
    count: usize,
    failed: bool,
}

impl Default for MergedLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl MergedLayer {
    /// Starts without layers.
    pub fn new() -> Self {
        Self { layers: LayerTree::merged(), count: 0, failed: false }
    }

    /// Adds the next layer, of which `index` is the whole index; the lowest comes first.
    ///
    /// # Errors
    /// [`Error::Index`] where the index is damaged, [`Error::Merge`] where an entry cannot be merged, the reader's error.
    /// After an error nothing more can be done.
    pub fn add_layer(&mut self, index: impl Read) -> Result<()> {
        if std::mem::replace(&mut self.failed, true) {
            return Err(Error::UsedAfterError { object: "MergedLayer" });
        }
        if self.count > 0 {
            self.layers.next_layer().map_err(|problem| merge_error(self.count, b"", problem))?;
        }
        self.count += 1;
        let mut reader = IndexReader::new(index)?;
        let mut number = 0;
        while let Some(entry) = reader.next_entry()? {
            self.layers.apply(number, &entry, |_| Ok::<_, Error>(()))?;
            number += 1;
        }
        self.failed = false;
        Ok(())
    }

    /// Gives the entries in an order that a tar can have: parents before what lies in them, the targets of links before
    /// the links, an opaque marker after its directory.
    ///
    /// # Errors
    /// [`Error::Merge`] of the uppermost layer with [`MergeProblem::DependsOnLower`], or where a path is longer than a
    /// tar's may be; what `emit` returns; [`Error::UsedAfterError`].
    pub fn entries<E: From<Error>>(self, mut emit: impl FnMut(MergedEntry) -> Result<(), E>) -> Result<(), E> {
        if self.failed {
            return Err(Error::UsedAfterError { object: "MergedLayer" }.into());
        }
        let layer = self.count.saturating_sub(1);
        let mut tree = self.layers.into_tree();
        let directories: Vec<_> = tree.walk(ROOT).filter(|&dentry| tree.is_directory(dentry)).collect();
        directories.into_iter().for_each(|directory| tree.sort_children(directory));
        let mut writer = Writer::new(&tree);
        for entry in writer.foreign_links().map_err(|(path, problem)| merge_error(layer, &path, problem))? {
            emit(entry)?;
        }
        for dentry in tree.walk(ROOT) {
            for entry in writer.name(dentry).map_err(|(path, problem)| merge_error(layer, &path, problem))? {
                emit(entry)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl MergedLayer {
    /// Tells whether there is an implied directory that nothing implies any more.
    pub(super) fn has_emptied_directory(&self) -> bool {
        let tree = self.layers.tree();
        let writer = Writer::new(tree);
        let gives_entry = |dentry| match tree.is_directory(dentry) {
            true => writer.has_entry(dentry),
            false => !tree.has(dentry, mark::WHITEOUT),
        };
        let emptied = |dentry| {
            dentry != ROOT
                && tree.is_directory(dentry)
                && !tree.is_touched(dentry, NO_LAYER)
                && !tree.walk(dentry).any(gives_entry)
        };
        tree.walk(ROOT).any(emptied)
    }
}

type Fallible<T> = Result<T, (Vec<u8>, MergeProblem)>;

/// Gives the entries of a tree.
struct Writer<'a> {
    tree: &'a Tree,
    /// Directories of which the entry has been given.
    emitted: HashSet<DentryId>,
    /// Where files with several names have been given.
    first_names: HashMap<InodeId, DentryId>,
    /// Names at which nothing of the layers below shows, because of a directory above them.
    hidden: HashSet<DentryId>,
    /// Directories that can be made, with their parents, without removing a file that is still to be linked.
    safe: HashSet<DentryId>,
}

impl<'a> Writer<'a> {
    fn new(tree: &'a Tree) -> Self {
        let mut hidden = HashSet::new();
        for dentry in tree.walk(ROOT).skip(1) {
            let parent = tree.parent(dentry);
            if tree.has(parent, mark::OPAQUE) || hidden.contains(&parent) {
                hidden.insert(dentry);
            }
        }
        Self { tree, emitted: HashSet::new(), first_names: HashMap::new(), hidden, safe: HashSet::new() }
    }

    /// Tells whether a directory needs an entry: where it is merely implied only if it cannot be the lower layers'.
    fn has_entry(&self, directory: DentryId) -> bool {
        let tree = self.tree;
        let implied = tree.inode(directory).layer == NO_LAYER;
        let for_whiteouts = tree.is_touched(directory, NO_LAYER);
        let is_new = tree.has(directory, mark::FRESH) || self.hidden.contains(&directory);
        !implied || !for_whiteouts && is_new
    }

    fn path(&self, dentry: DentryId) -> Fallible<Vec<u8>> {
        let path = self.tree.full_path(dentry);
        match path.len() > MAX_PATH {
            true => Err((path, MergeProblem::TooMany { what: "bytes of a path", limit: MAX_PATH as u64 })),
            false => Ok(path),
        }
    }

    /// What a name gives, which comes after its parents.
    fn name(&mut self, dentry: DentryId) -> Fallible<Vec<MergedEntry>> {
        let tree = self.tree;
        if tree.has(dentry, mark::WHITEOUT) {
            return Ok(if self.hidden.contains(&dentry) {
                Vec::new()
            } else {
                vec![plain(self.path(dentry)?, EntryKind::Whiteout)]
            });
        }
        if tree.is_directory(dentry) {
            let mut entries: Vec<_> = self.directory(dentry)?.into_iter().collect();
            if tree.has(dentry, mark::OPAQUE) && !self.hidden.contains(&dentry) {
                entries.push(plain(self.path(dentry)?, EntryKind::Opaque));
            }
            return Ok(entries);
        }
        let (id, inode) = (tree.inode_id(dentry), tree.inode(dentry));
        match self.first_names.get(&id) {
            Some(&first) if first == dentry => return Ok(Vec::new()),
            Some(&first) => {
                let target = self.path(first)?;
                return Ok(vec![plain(self.path(dentry)?, EntryKind::HardLink { target })]);
            }
            None if inode.names > 1 => drop(self.first_names.insert(id, dentry)),
            None => {}
        }
        let kind = kind_of(tree, inode);
        let source = Some((usize::from(inode.layer), u64::from(tree.number(id))));
        Ok(vec![MergedEntry { entry: Entry { path: self.path(dentry)?, kind }, source }])
    }

    /// A directory's own entry; `None` where it needs none, or has been given.
    fn directory(&mut self, dentry: DentryId) -> Fallible<Option<MergedEntry>> {
        if !self.has_entry(dentry) || !self.emitted.insert(dentry) {
            return Ok(None);
        }
        let kind = EntryKind::Directory(self.tree.metadata(self.tree.inode(dentry)));
        Ok(Some(plain(self.path(dentry)?, kind)))
    }

    /// The hard links to files that only the layers below have, one name of each. They come before all that could
    /// remove their targets, but after their own parents.
    fn foreign_links(&mut self) -> Fallible<Vec<MergedEntry>> {
        let mut pending = foreign_groups(self.tree);
        let mut targets = Targets::new(self.tree, &pending);
        let mut entries = Vec::new();
        // A few rounds are enough where links were made in the order of their layers; one that gives none is the last.
        for _ in 0..MAX_ROUNDS {
            let before = pending.len();
            let mut blocked = Vec::new();
            for group in pending {
                match group.names.iter().copied().find(|&name| self.is_safe(name, &group.target, &targets)) {
                    Some(name) => {
                        self.foreign_link(name, &group.target, &mut entries)?;
                        self.first_names.insert(group.inode, name);
                        targets.remove(self.tree, &group.target);
                    }
                    None => blocked.push(group),
                }
            }
            pending = blocked;
            match pending.len() {
                0 => return Ok(entries),
                left if left == before => break,
                _ => {}
            }
        }
        let path = pending.swap_remove(0).target;
        let problem = MergeProblem::DependsOnLower { path: printable(&path) };
        Err((path, problem))
    }

    fn foreign_link(&mut self, name: DentryId, target: &[u8], entries: &mut Vec<MergedEntry>) -> Fallible<()> {
        let mut parents: Vec<_> = parents(self.tree, name).collect();
        while let Some(parent) = parents.pop() {
            entries.extend(self.directory(parent)?);
        }
        entries.push(plain(self.path(name)?, EntryKind::HardLink { target: target.to_vec() }));
        Ok(())
    }

    /// Tells whether a link and its parents can be made without removing a file that is still to be linked.
    fn is_safe(&mut self, name: DentryId, target: &[u8], targets: &Targets) -> bool {
        let path = self.tree.full_path(name);
        if path != target && (targets.has(&path) || targets.has_below(&path)) {
            return false;
        }
        let mut parents: Vec<_> = parents(self.tree, name).collect();
        let known = parents.iter().position(|parent| self.safe.contains(parent)).unwrap_or(parents.len());
        parents.truncate(known);
        if parents.iter().any(|&parent| targets.names.contains(&parent) && self.has_entry(parent)) {
            return false;
        }
        self.safe.extend(parents);
        true
    }
}

/// How often those links that were not safe are tried again.
const MAX_ROUNDS: usize = 64;

fn plain(path: Vec<u8>, kind: EntryKind) -> MergedEntry {
    MergedEntry { entry: Entry { path, kind }, source: None }
}

/// The parents of a name without the root, the deepest first.
fn parents(tree: &Tree, name: DentryId) -> impl Iterator<Item = DentryId> + '_ {
    let parent = |&dentry: &DentryId| Some(tree.parent(dentry)).filter(|&parent| parent != ROOT);
    std::iter::successors(parent(&name), parent)
}

/// A file of the layers below with the names that it has here.
struct Foreign {
    inode: InodeId,
    target: Vec<u8>,
    names: Vec<DentryId>,
}

/// In the order in which they were first linked.
fn foreign_groups(tree: &Tree) -> Vec<Foreign> {
    let mut groups: BTreeMap<(LayerId, u32), Foreign> = BTreeMap::new();
    for dentry in tree.walk(ROOT).filter(|&dentry| tree.has(dentry, mark::FOREIGN)) {
        let (id, inode) = (tree.inode_id(dentry), tree.inode(dentry));
        let Content::Symlink { at, len } = inode.content else { continue };
        let group = groups.entry((inode.layer, tree.number(id))).or_insert_with(|| Foreign {
            inode: id,
            target: tree.symlink_target(at, len).to_vec(),
            names: Vec::new(),
        });
        group.names.push(dentry);
    }
    groups.into_values().collect()
}

/// The files that are still to be linked.
struct Targets {
    /// Their paths, and how many links need each.
    paths: BTreeMap<Vec<u8>, usize>,
    /// What has such a path in the tree: for the parents of a link, whose paths would take long to compare one by one.
    names: HashSet<DentryId>,
}

impl Targets {
    fn new(tree: &Tree, groups: &[Foreign]) -> Self {
        let mut paths: BTreeMap<_, usize> = BTreeMap::new();
        groups.iter().for_each(|group| *paths.entry(group.target.clone()).or_default() += 1);
        let names = paths.keys().filter_map(|path| tree.find_path(path)).collect();
        Self { paths, names }
    }

    fn remove(&mut self, tree: &Tree, target: &[u8]) {
        if let Some(count) = self.paths.get_mut(target) {
            *count -= 1;
            if *count == 0 {
                self.paths.remove(target);
                tree.find_path(target).map(|name| self.names.remove(&name));
            }
        }
    }

    fn has(&self, path: &[u8]) -> bool {
        self.paths.contains_key(path)
    }

    fn has_below(&self, path: &[u8]) -> bool {
        let below = [path, b"/"].concat();
        self.paths.range(below.clone()..).next().is_some_and(|(target, _)| target.starts_with(&below))
    }
}
