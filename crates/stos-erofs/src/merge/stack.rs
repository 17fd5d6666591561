// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What layers that were unpacked by themselves lack, stacked by overlayfs, to show what they mean together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};

use super::layer::LayerTree;
use super::tree::{Content, DentryId, Inode, InodeId, NO_LAYER, ROOT, Tree, mark};
use super::{LayerInput, MergeProblem, Merger, merge_error};
use crate::index::{IndexReader, Metadata};
use crate::{Error, Result};

/// One change that a directory on top of the stack makes to what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Correction {
    /// A whiteout: what is shown there is not there.
    Whiteout {
        /// The physical path.
        path: Vec<u8>,
    },
    /// A directory. Some differ from what is shown, others are here for what lies in them; all have their true metadata.
    Directory {
        /// The physical path; empty for the root.
        path: Vec<u8>,
        /// Its metadata.
        metadata: Metadata,
        /// Whether it must be opaque. The root never is.
        opaque: bool,
    },
    /// A name of a file that a layer has: a hard link to it.
    Node {
        /// The physical path.
        path: Vec<u8>,
        /// The layer, counted as the stack's are.
        layer: usize,
        /// The physical path of one of its names in that layer by itself.
        source: Vec<u8>,
        /// The number of its entry.
        number: u64,
    },
    /// A name of a regular file that has none in its layer by itself ([`Step::Orphan`](crate::Step::Orphan),
    /// [`Step::Unplaced`](crate::Step::Unplaced)): a hard link to it.
    Orphan {
        /// The physical path.
        path: Vec<u8>,
        /// The layer, counted as the stack's are.
        layer: usize,
        /// The number of its entry.
        number: u64,
    },
    /// A regular file like another one but not the same: its layer stands in the stack twice, and both files are seen.
    /// It must be copied.
    Copy {
        /// The physical path.
        path: Vec<u8>,
        /// The layer, counted as the stack's are.
        layer: usize,
        /// As of [`Correction::Node`]; `None` for an orphan.
        source: Option<Vec<u8>>,
        /// The number of its entry.
        number: u64,
    },
    /// A file that is not regular and that no layer by itself has: it must be made anew.
    Make {
        /// The physical path.
        path: Vec<u8>,
        /// Its metadata.
        metadata: Metadata,
        /// What it is.
        file: SpecialFile,
    },
    /// One more name of what an earlier [`Correction::Copy`] or [`Correction::Make`] made.
    Link {
        /// The physical path.
        path: Vec<u8>,
        /// The earlier one's path.
        target: Vec<u8>,
    },
}

impl Correction {
    /// The physical path.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Whiteout { path }
            | Self::Directory { path, .. }
            | Self::Node { path, .. }
            | Self::Orphan { path, .. }
            | Self::Copy { path, .. }
            | Self::Make { path, .. }
            | Self::Link { path, .. } => path,
        }
    }
}

/// A file that is neither regular nor a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpecialFile {
    /// A symbolic link to that target.
    Symlink(Vec<u8>),
    /// A character device of that number, in Linux's 32-bit form.
    CharacterDevice(u32),
    /// A block device, likewise.
    BlockDevice(u32),
    /// A FIFO.
    Fifo,
}

/// Compares what layers mean with what overlayfs shows of them where each was unpacked by itself
/// ([`LayerTree`]) and the directories are stacked, and says what a directory on top must hold to make both the same.
///
/// They differ where a layer needs those below it: hard links to their files, parents that are symbolic links there,
/// parents that are merely implied (the real directory hides the lower one's metadata), whiteouts through such parents.
/// Overlayfs does not obey an opaque root either, and lists the whiteouts in a directory that one layer alone has.
///
/// What overlayfs cannot show is a file's number of names: it is that of the inode in the layers' directories.
///
/// Memory is bounded by three times what [`Merger`] may take: the truth, what is shown, one layer at a time. Nothing
/// recurses.
#[derive(Debug)]
pub struct Stack {
    merger: Merger,
    layers: Vec<LayerInput>,
    shown: Tree,
    /// The uppermost layer of each tag.
    last: HashMap<[u8; 32], usize>,
    /// The layers that are stacked.
    lowers: Vec<usize>,
}

impl Stack {
    /// Starts with all layers, the lowest first.
    pub fn new(layers: &[LayerInput]) -> Self {
        let last = layers.iter().enumerate().map(|(number, layer)| (layer.tag, number)).collect();
        Self { merger: Merger::new(), layers: layers.to_vec(), shown: Tree::new(), last, lowers: Vec::new() }
    }

    /// Adds the next layer, of which `index` is the whole index.
    ///
    /// # Errors
    /// As [`Merger::add_layer`]; [`Error::UsedAfterError`] where there are more indexes than layers.
    pub fn add_layer(&mut self, index: impl Read) -> Result<()> {
        let number = self.merger.layers.len();
        let Some(&layer) = self.layers.get(number) else {
            return Err(Error::UsedAfterError { object: "Stack" });
        };
        // Overlayfs refuses a directory that is there twice. The upper one hides what the lower one would show.
        let again = self.last[&layer.tag] > number;
        let mut alone = LayerTree::new();
        self.merger.add_layer_seen(layer, index, |entry_number, entry| match again {
            true => Ok(()),
            false => {
                alone.apply(u64::from(entry_number), entry, |_| Ok::<_, Error>(())).map_err(|e| of_layer(e, number))
            }
        })?;
        if alone.entries() > 0 {
            let is_lowest = self.lowers.is_empty();
            self.lowers.push(number);
            // What is implied for whiteouts is here alone, and would add up from layer to layer.
            show(&mut self.shown, &alone, number, is_lowest)
                .and_then(|()| self.merger.bounds.check(&self.shown))
                .map_err(|problem| merge_error(number, b"", problem))?;
        }
        Ok(())
    }

    /// Gives the layers whose directories are to be stacked, the lowest first: all of those added that have entries; one
    /// that is there several times once. Where there are none, the corrections make the root.
    pub fn lowers(&self) -> &[usize] {
        &self.lowers
    }

    /// Gives the corrections. `reopen` gives the index of a layer once more; it is asked for those alone of which files are
    /// needed.
    ///
    /// # Errors
    /// [`Error::UsedAfterError`] after an error and where not all layers have been added; [`Error::Index`] where an index
    /// is damaged; [`MergeProblem::TooMany`] where the paths of those files take more memory than their entries account
    /// for; errors of `reopen` and its readers.
    pub fn corrections<R: Read>(self, reopen: impl FnMut(usize) -> io::Result<R>) -> Result<Corrections> {
        if self.merger.failed || self.merger.layers.len() != self.layers.len() {
            return Err(Error::UsedAfterError { object: "Stack" });
        }
        let limit = self.merger.bounds.memory_limit();
        let truth = self.merger.tree;
        let mut plan = Plan::new(&truth, &self.shown);
        if self.lowers.is_empty() {
            plan.need(&truth, ROOT);
        }
        drop(self.shown);
        let sources = Sources::new(&truth, &plan, &self.layers, &self.last, limit, reopen)?;
        let directories = truth.walk(ROOT).filter_map(|dentry| Some((dentry, *plan.directories.get(&dentry)?)));
        let directories = directories.collect();
        Ok(Corrections { directories, whiteouts: plan.whiteouts, files: plan.files, truth, sources })
    }
}

/// What a directory on top of a stack must hold; most stacks need none.
#[derive(Debug)]
pub struct Corrections {
    truth: Tree,
    /// Directories, parents first, and whether they must be opaque.
    directories: Vec<(DentryId, bool)>,
    whiteouts: Vec<(DentryId, Vec<u8>)>,
    files: Vec<DentryId>,
    sources: Sources,
}

impl Corrections {
    /// Tells whether there are none, so that the directory is not needed.
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// Gives them, each after the directory that it lies in: first all directories, then whiteouts, then files.
    pub fn iter(&self) -> impl Iterator<Item = Correction> + '_ {
        let truth = &self.truth;
        let directories = self.directories.iter().map(|&(dentry, opaque)| Correction::Directory {
            path: truth.full_path(dentry),
            metadata: truth.metadata(truth.inode(dentry)),
            opaque,
        });
        let whiteouts = self.whiteouts.iter().map(|(directory, name)| {
            let mut path = truth.full_path(*directory);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            Correction::Whiteout { path }
        });
        let mut made = HashMap::new();
        let files = self.files.iter().map(move |&dentry| self.sources.correction(truth, dentry, &mut made));
        directories.chain(whiteouts).chain(files)
    }
}

/// Says of an error which layer of the stack it is of.
fn of_layer(error: Error, layer: usize) -> Error {
    match error {
        Error::Merge { entry, problem, .. } => Error::Merge { layer, entry, problem },
        other => other,
    }
}

/// Stacks a layer on what is shown, as overlayfs does.
fn show(shown: &mut Tree, alone: &LayerTree, layer: usize, is_lowest: bool) -> Result<(), MergeProblem> {
    let tree = alone.tree();
    let mut dentries: HashMap<DentryId, DentryId> = HashMap::from([(ROOT, ROOT)]);
    let mut inodes: HashMap<InodeId, InodeId> = HashMap::new();
    for dentry in tree.walk(ROOT) {
        if tree.has(dentry, mark::FOREIGN) {
            continue;
        }
        let parent = dentries[&tree.parent(dentry)];
        let name = tree.name(dentry);
        let existing = if dentry == ROOT { Some(ROOT) } else { shown.find(parent, name) };
        if tree.has(dentry, mark::WHITEOUT) {
            shown.remove_all(existing.into_iter().collect());
            shown.mark(parent, mark::WITH_WHITEOUTS);
            continue;
        }
        if !tree.is_directory(dentry) {
            let inode = match inodes.get(&tree.inode_id(dentry)) {
                Some(&inode) => inode,
                None => {
                    let number = tree.number(tree.inode_id(dentry));
                    let inode = shown.new_inode(Content::Fifo, &Metadata::default(), layer as u16, number)?;
                    inodes.insert(tree.inode_id(dentry), inode);
                    inode
                }
            };
            put(shown, parent, name, existing, inode)?;
            continue;
        }
        let below = existing.filter(|&existing| shown.is_directory(existing));
        let directory = match below {
            Some(directory) => directory,
            None => {
                let inode = shown.new_implied_directory()?;
                put(shown, parent, name, existing, inode)?
            }
        };
        let opaque = tree.has(dentry, mark::OPAQUE) && dentry != ROOT;
        if opaque {
            shown.remove_all(shown.children(directory).collect());
        }
        shown.unmark(directory, mark::LONE);
        if opaque || below.is_none() || dentry == ROOT && is_lowest {
            shown.unmark(directory, mark::WITH_WHITEOUTS);
            shown.mark(directory, mark::LONE);
        }
        shown.set_metadata(shown.inode_id(directory), &tree.metadata(tree.inode(dentry)), layer as u16)?;
        dentries.insert(dentry, directory);
    }
    Ok(())
}

fn put(
    tree: &mut Tree,
    parent: DentryId,
    name: &[u8],
    existing: Option<DentryId>,
    inode: InodeId,
) -> Result<DentryId, MergeProblem> {
    match existing {
        Some(existing) => {
            tree.replace(existing, inode, NO_LAYER);
            Ok(existing)
        }
        None => tree.insert(parent, name, inode, NO_LAYER),
    }
}

/// A file by the layer and the number of its entry.
type Identity = (usize, u64);

fn identity(tree: &Tree, dentry: DentryId) -> Identity {
    (usize::from(tree.inode(dentry).layer), u64::from(tree.number(tree.inode_id(dentry))))
}

/// What is to be corrected; names are the truth's.
struct Plan {
    /// Directories with names that are too much in them.
    whiteouts: Vec<(DentryId, Vec<u8>)>,
    /// Directories, and whether they must be opaque.
    directories: BTreeMap<DentryId, bool>,
    files: Vec<DentryId>,
}

impl Plan {
    fn new(truth: &Tree, shown: &Tree) -> Self {
        let mut plan = Self { whiteouts: Vec::new(), directories: BTreeMap::new(), files: Vec::new() };
        let mut pending = vec![(ROOT, Some(ROOT))];
        while let Some((directory, seen)) = pending.pop() {
            let seen = plan.directory(truth, directory, shown, seen);
            for child in truth.children(directory) {
                let found = seen.and_then(|seen| shown.find(seen, truth.name(child)));
                if truth.is_directory(child) {
                    pending.push((child, found.filter(|&found| shown.is_directory(found))));
                } else if !found.is_some_and(|found| is_same_file(truth, child, shown, found)) {
                    plan.files.push(child);
                    plan.need(truth, directory);
                }
            }
        }
        plan
    }

    /// Compares a directory and what is too much in it; gives what is left of that which is seen.
    fn directory(
        &mut self,
        truth: &Tree,
        directory: DentryId,
        shown: &Tree,
        seen: Option<DentryId>,
    ) -> Option<DentryId> {
        let Some(seen) = seen else {
            self.need(truth, directory);
            return None;
        };
        // Overlayfs reads a directory of one layer alone as it is, and its whiteouts are listed.
        let lists_whiteouts = shown.has(seen, mark::LONE) && shown.has(seen, mark::WITH_WHITEOUTS);
        if lists_whiteouts || !has_same_metadata(truth, truth.inode(directory), shown, shown.inode(seen)) {
            self.need(truth, directory);
        }
        let serves = |child: DentryId| {
            truth.find(directory, shown.name(child)).is_some_and(|wanted| {
                match (truth.is_directory(wanted), shown.is_directory(child)) {
                    (false, false) => is_same_file(truth, wanted, shown, child),
                    (wanted, found) => wanted && found,
                }
            })
        };
        let is_empty = shown.children(seen).next().is_none();
        if directory != ROOT && !is_empty && !shown.children(seen).any(serves) {
            self.need(truth, directory);
            self.directories.insert(directory, true);
            return None;
        }
        for child in shown.children(seen).filter(|&child| truth.find(directory, shown.name(child)).is_none()) {
            self.need(truth, directory);
            self.whiteouts.push((directory, shown.name(child).to_vec()));
        }
        Some(seen)
    }

    /// A directory must be there, so its parents too.
    fn need(&mut self, truth: &Tree, mut directory: DentryId) {
        while !self.directories.contains_key(&directory) {
            self.directories.insert(directory, false);
            directory = truth.parent(directory);
        }
    }
}

fn is_same_file(truth: &Tree, wanted: DentryId, shown: &Tree, found: DentryId) -> bool {
    !shown.is_directory(found) && identity(truth, wanted) == identity(shown, found)
}

fn has_same_metadata(left_tree: &Tree, left: &Inode, right_tree: &Tree, right: &Inode) -> bool {
    let plain = |inode: &Inode| (inode.mode, inode.uid, inode.gid, inode.mtime, inode.nanoseconds);
    plain(left) == plain(right) && left_tree.xattr_body(left) == right_tree.xattr_body(right)
}

/// Where the files are that corrections need.
#[derive(Debug)]
struct Sources {
    /// One name of each that has one in its layer by itself.
    places: HashMap<Identity, Vec<u8>>,
    /// Those that must be copied.
    copied: HashSet<Identity>,
}

impl Sources {
    fn new<R: Read>(
        truth: &Tree,
        plan: &Plan,
        layers: &[LayerInput],
        last: &HashMap<[u8; 32], usize>,
        limit: u64,
        mut reopen: impl FnMut(usize) -> io::Result<R>,
    ) -> Result<Self> {
        let mut wanted: BTreeMap<usize, HashSet<u64>> = BTreeMap::new();
        for &dentry in &plan.files {
            let (layer, number) = identity(truth, dentry);
            wanted.entry(layer).or_default().insert(number);
        }
        let mut sources = Self { places: HashMap::new(), copied: copied(truth, &wanted, layers, last) };
        let mut bytes = 0;
        for (layer, numbers) in wanted {
            let index = reopen(layer).map_err(Error::io("open the layer index"))?;
            let alone = read_alone(index).map_err(|error| of_layer(error, layer))?;
            let tree = alone.tree();
            for dentry in tree.walk(ROOT) {
                let number = u64::from(tree.number(tree.inode_id(dentry)));
                let stands = !tree.is_directory(dentry) && !tree.has(dentry, mark::FOREIGN | mark::WHITEOUT);
                if stands && numbers.contains(&number) && !sources.places.contains_key(&(layer, number)) {
                    let path = tree.full_path(dentry);
                    bytes += path.len() as u64;
                    sources.places.insert((layer, number), path);
                }
                if bytes > limit {
                    return Err(merge_error(layer, b"", MergeProblem::TooMany { what: "bytes of paths", limit }));
                }
            }
        }
        Ok(sources)
    }

    fn correction(&self, truth: &Tree, dentry: DentryId, made: &mut HashMap<InodeId, DentryId>) -> Correction {
        let path = truth.full_path(dentry);
        let id = identity(truth, dentry);
        let (layer, number) = id;
        let inode = truth.inode(dentry);
        let source = self.places.get(&id).cloned();
        let copied = self.copied.contains(&id);
        let file = match (special(truth, inode), source) {
            (_, Some(source)) if !copied => return Correction::Node { path, layer, source, number },
            (None, None) if !copied => return Correction::Orphan { path, layer, number },
            (file, source) => file.ok_or(source),
        };
        if let Some(&first) = made.get(&truth.inode_id(dentry)) {
            return Correction::Link { path, target: truth.full_path(first) };
        }
        made.insert(truth.inode_id(dentry), dentry);
        match file {
            Ok(file) => Correction::Make { path, metadata: truth.metadata(inode), file },
            Err(source) => Correction::Copy { path, layer, source, number },
        }
    }
}

/// Of a layer that is there several times, the files that are seen of an upper one too.
fn copied(
    truth: &Tree,
    wanted: &BTreeMap<usize, HashSet<u64>>,
    layers: &[LayerInput],
    last: &HashMap<[u8; 32], usize>,
) -> HashSet<Identity> {
    // The uppermost layer of the same tag: one name for all of them.
    let twin = |layer: usize| last[&layers[layer].tag];
    let mut copied = HashSet::new();
    if wanted.keys().all(|&layer| twin(layer) == layer) {
        return copied;
    }
    // The uppermost of which a file is seen.
    let mut seen: HashMap<Identity, usize> = HashMap::new();
    for dentry in truth.walk(ROOT).filter(|&dentry| !truth.is_directory(dentry)) {
        let (layer, number) = identity(truth, dentry);
        let uppermost = seen.entry((twin(layer), number)).or_insert(layer);
        *uppermost = layer.max(*uppermost);
    }
    for (&layer, numbers) in wanted {
        let twin_is_seen = |number| seen.get(&(twin(layer), number)).is_some_and(|&uppermost| uppermost > layer);
        copied.extend(numbers.iter().filter(|&&number| twin_is_seen(number)).map(|&number| (layer, number)));
    }
    copied
}

fn special(tree: &Tree, inode: &Inode) -> Option<SpecialFile> {
    Some(match inode.content {
        Content::Symlink { at, len } => SpecialFile::Symlink(tree.symlink_target(at, len).to_vec()),
        Content::CharacterDevice(number) => SpecialFile::CharacterDevice(number),
        Content::BlockDevice(number) => SpecialFile::BlockDevice(number),
        Content::Fifo => SpecialFile::Fifo,
        Content::Regular { .. } | Content::Directory => return None,
    })
}

fn read_alone(index: impl Read) -> Result<LayerTree> {
    let mut reader = IndexReader::new(index)?;
    let mut alone = LayerTree::new();
    let mut number = 0;
    while let Some(entry) = reader.next_entry()? {
        alone.apply(number, &entry, |_| Ok::<_, Error>(()))?;
        number += 1;
    }
    Ok(alone)
}
