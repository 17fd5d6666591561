// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The merged tree in memory: names (dentries) and inodes in arenas, numbered by `u32`.
//!
//! [`Tree::memory`] says what it costs. Nothing here recurses: trees may be as deep as a hostile image makes them.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::xattr_sets::XattrSets;
use crate::error::MergeProblem;
use crate::index::{DataPlace, Metadata, Timestamp};
use crate::xattr;

/// A name in a directory.
pub(crate) type DentryId = u32;
/// A file of any type.
pub(crate) type InodeId = u32;
/// A layer by its number, the lowest is 0.
pub(crate) type LayerId = u16;

/// The root directory's name.
pub(crate) const ROOT: DentryId = 0;
const NONE: u32 = u32::MAX;
/// The layer of what no layer's entry has put there.
pub(crate) const NO_LAYER: LayerId = LayerId::MAX;
/// The entry of a directory that is merely implied.
pub(crate) const NO_ENTRY: u32 = u32::MAX;
/// How many names, inodes or layers there may be.
pub(crate) const MAX_IDS: u64 = u32::MAX as u64 - 1;
pub(crate) const MAX_LAYERS: u64 = NO_LAYER as u64 - 1;
/// What a name takes: itself, and at most 12 bytes in the look-up table.
const DENTRY_MEMORY: usize = size_of::<Dentry>() + 12;
/// What an inode takes: itself, its entry's number, and while an image is written its place in the order, its number, a
/// directory's shape.
const INODE_MEMORY: usize = size_of::<Inode>() + size_of::<u32>() + 24;
/// What a file of one name takes, the name's own bytes aside.
pub(crate) const FILE_MEMORY: usize = DENTRY_MEMORY + INODE_MEMORY;

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Dentry {
    parent: DentryId,
    inode: InodeId,
    name_at: u32,
    previous: DentryId,
    next: DentryId,
    first_child: DentryId,
    /// The last layer that put this name here, or something below it. If it is L, so is every parent's.
    touched: LayerId,
    /// The last layer of which it is known that nothing of the layers below it is left in this directory.
    cleared: LayerId,
    name_len: u8,
    marks: u8,
}

/// What a name can be beside what its inode says, in trees that know less than all layers. The trees of images have none.
pub(crate) mod mark {
    /// A directory in which nothing of the layers below shows.
    pub(crate) const OPAQUE: u8 = 1;
    /// A directory that is not the one of the layers below: where it is merely implied, it has not their metadata.
    pub(crate) const FRESH: u8 = 2;
    /// Nothing stands here, nor shows here of the layers below; the inode is a character device 0:0.
    pub(crate) const WHITEOUT: u8 = 4;
    /// One more name of a file that these layers do not have; the inode is a symbolic link to the hard link's target.
    pub(crate) const FOREIGN: u8 = 8;
    /// Something has been put here, or into or out of this directory.
    pub(crate) const CHANGED: u8 = 16;
    /// In what a stack shows: a directory that one layer alone has there.
    pub(crate) const LONE: u8 = 32;
    /// In what a stack shows: a directory in which one of those layers has a whiteout.
    pub(crate) const WITH_WHITEOUTS: u8 = 64;
}

/// The type of an inode with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    /// The data's first block in that file of that layer.
    Regular {
        block: u64,
        size: u64,
        layer: LayerId,
        place: DataPlace,
    },
    /// Where the target stands among the strings.
    Symlink {
        at: u32,
        len: u16,
    },
    CharacterDevice(u32),
    BlockDevice(u32),
    Fifo,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Inode {
    pub(crate) content: Content,
    pub(crate) mtime: i64,
    pub(crate) nanoseconds: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    xattrs: u32,
    /// How many names it has.
    pub(crate) names: u32,
    pub(crate) mode: u16,
    /// The layer that the metadata are of; [`NO_LAYER`] for a directory that is merely implied.
    pub(crate) layer: LayerId,
}

/// The tree.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Tree {
    dentries: Vec<Dentry>,
    inodes: Vec<Inode>,
    /// Of each inode the number of its entry within its layer.
    numbers: Vec<u32>,
    free_dentries: Vec<DentryId>,
    free_inodes: Vec<InodeId>,
    /// Names and link targets.
    strings: Vec<u8>,
    lookup: HashTable<DentryId>,
    /// Seeded at random, so that no image can choose names that collide. The order of the table is never used.
    hasher: RandomState,
    xattrs: XattrSets,
    /// What walks along parents have cost so far.
    steps: Cell<u64>,
}

impl Tree {
    /// Makes a tree of an implied root.
    pub(crate) fn new() -> Self {
        let root = Dentry {
            parent: ROOT,
            inode: 0,
            name_at: 0,
            previous: NONE,
            next: NONE,
            first_child: NONE,
            touched: NO_LAYER,
            cleared: NO_LAYER,
            name_len: 0,
            marks: 0,
        };
        Self {
            dentries: vec![root],
            inodes: vec![Inode { names: 1, ..implied_directory() }],
            numbers: vec![NO_ENTRY],
            free_dentries: Vec::new(),
            free_inodes: Vec::new(),
            strings: Vec::new(),
            lookup: HashTable::new(),
            hasher: RandomState::new(),
            xattrs: XattrSets::new(),
            steps: Cell::new(0),
        }
    }

    pub(crate) fn parent(&self, dentry: DentryId) -> DentryId {
        self.dentries[dentry as usize].parent
    }

    pub(crate) fn inode_id(&self, dentry: DentryId) -> InodeId {
        self.dentries[dentry as usize].inode
    }

    /// The number of the inode's entry within its layer; [`NO_ENTRY`] for a directory that is merely implied.
    pub(crate) fn number(&self, inode: InodeId) -> u32 {
        self.numbers[inode as usize]
    }

    /// Tells whether a name has one of these marks.
    pub(crate) fn has(&self, dentry: DentryId, marks: u8) -> bool {
        self.dentries[dentry as usize].marks & marks != 0
    }

    /// Gives a name one more mark.
    pub(crate) fn mark(&mut self, dentry: DentryId, mark: u8) {
        self.dentries[dentry as usize].marks |= mark;
    }

    /// Takes marks from a name.
    pub(crate) fn unmark(&mut self, dentry: DentryId, marks: u8) {
        self.dentries[dentry as usize].marks &= !marks;
    }

    /// Tells whether the layer put this name here, or something below it.
    pub(crate) fn is_touched(&self, dentry: DentryId, layer: LayerId) -> bool {
        self.dentries[dentry as usize].touched == layer
    }

    pub(crate) fn inode_at(&self, inode: InodeId) -> &Inode {
        &self.inodes[inode as usize]
    }

    pub(crate) fn inode(&self, dentry: DentryId) -> &Inode {
        &self.inodes[self.inode_id(dentry) as usize]
    }

    /// How many bytes the tree takes, and the writing of its image. What has been replaced or removed counts as long as
    /// its place is not used again, and strings and attributes for ever: they are not freed.
    pub(crate) fn memory(&self) -> usize {
        self.dentries.len() * DENTRY_MEMORY
            + self.inodes.len() * INODE_MEMORY
            + self.strings.len()
            + self.xattrs.memory()
    }

    /// Counts what a walk along parents costs; to look at one is one step.
    pub(crate) fn count_steps(&self, steps: u64) {
        self.steps.set(self.steps.get().saturating_add(steps));
    }

    /// What has been counted so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// One more than the largest inode number in use.
    pub(crate) fn inode_limit(&self) -> usize {
        self.inodes.len()
    }

    pub(crate) fn is_directory(&self, dentry: DentryId) -> bool {
        self.inode(dentry).content == Content::Directory
    }

    pub(crate) fn name(&self, dentry: DentryId) -> &[u8] {
        let dentry = &self.dentries[dentry as usize];
        &self.strings[dentry.name_at as usize..][..usize::from(dentry.name_len)]
    }

    pub(crate) fn symlink_target(&self, at: u32, len: u16) -> &[u8] {
        &self.strings[at as usize..][..usize::from(len)]
    }

    /// The encoded attributes of an inode, as they follow it in an image.
    pub(crate) fn xattr_body(&self, inode: &Inode) -> &[u8] {
        self.xattrs.body(inode.xattrs)
    }

    pub(crate) fn children(&self, directory: DentryId) -> impl Iterator<Item = DentryId> + '_ {
        let id = |id: DentryId| (id != NONE).then_some(id);
        std::iter::successors(id(self.dentries[directory as usize].first_child), move |&child| {
            id(self.dentries[child as usize].next)
        })
    }

    /// The whole path.
    pub(crate) fn full_path(&self, mut dentry: DentryId) -> Vec<u8> {
        let mut names = Vec::new();
        while dentry != ROOT {
            names.push(self.name(dentry));
            dentry = self.parent(dentry);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// A directory with all that lies below it, every directory before what is in it.
    pub(crate) fn walk(&self, top: DentryId) -> impl Iterator<Item = DentryId> + '_ {
        let mut next = Some(top);
        std::iter::from_fn(move || {
            let at = next?;
            next = self.after(at, top);
            Some(at)
        })
    }

    /// The name that follows in a walk below `top`.
    fn after(&self, mut at: DentryId, top: DentryId) -> Option<DentryId> {
        let first = self.dentries[at as usize].first_child;
        if first != NONE {
            return Some(first);
        }
        while at != top {
            let next = self.dentries[at as usize].next;
            if next != NONE {
                return Some(next);
            }
            at = self.parent(at);
        }
        None
    }

    /// What an inode's entry said of it.
    pub(crate) fn metadata(&self, inode: &Inode) -> Metadata {
        Metadata {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: Timestamp { seconds: inode.mtime, nanoseconds: inode.nanoseconds },
            xattrs: xattr::decode_body(self.xattr_body(inode)),
        }
    }

    /// The path for an error message; of one deeper than 64 components the last 64.
    pub(crate) fn path(&self, mut dentry: DentryId) -> Vec<u8> {
        let mut names = Vec::new();
        while dentry != ROOT && names.len() < 64 {
            names.push(self.name(dentry));
            dentry = self.parent(dentry);
        }
        names.reverse();
        names.join(&b'/')
    }

    pub(crate) fn find(&self, parent: DentryId, name: &[u8]) -> Option<DentryId> {
        let hash = self.hasher.hash_one((parent, name));
        self.lookup.find(hash, |&id| self.parent(id) == parent && self.name(id) == name).copied()
    }

    /// Finds the name of a physical path.
    pub(crate) fn find_path(&self, path: &[u8]) -> Option<DentryId> {
        path.split(|&byte| byte == b'/').try_fold(ROOT, |at, name| self.find(at, name))
    }

    /// Tells whether `dentry` lies below `ancestor` or is it.
    pub(crate) fn is_within(&self, mut dentry: DentryId, ancestor: DentryId) -> bool {
        while dentry != ancestor && dentry != ROOT {
            dentry = self.parent(dentry);
        }
        dentry == ancestor
    }

    /// Adds a name that is not there yet.
    pub(crate) fn insert(
        &mut self,
        parent: DentryId,
        name: &[u8],
        inode: InodeId,
        layer: LayerId,
    ) -> Result<DentryId, MergeProblem> {
        let name_at = self.add_string(name)?;
        let next = self.dentries[parent as usize].first_child;
        let dentry = Dentry {
            parent,
            inode,
            name_at,
            previous: NONE,
            next,
            first_child: NONE,
            touched: NO_LAYER,
            cleared: layer,
            name_len: name.len() as u8,
            marks: 0,
        };
        let id = allocate(&mut self.dentries, &mut self.free_dentries, dentry, "names")?;
        if next != NONE {
            self.dentries[next as usize].previous = id;
        }
        self.dentries[parent as usize].first_child = id;
        self.inodes[inode as usize].names += 1;
        let hash = self.hasher.hash_one((parent, name));
        let Self { lookup, dentries, strings, hasher, .. } = self;
        lookup.insert_unique(hash, id, |&id| {
            let dentry = &dentries[id as usize];
            hasher.hash_one((dentry.parent, &strings[dentry.name_at as usize..][..usize::from(dentry.name_len)]))
        });
        self.touch(id, layer);
        Ok(id)
    }

    /// Gives an existing name another inode; what it named before, tree and all, loses that name.
    pub(crate) fn replace(&mut self, dentry: DentryId, inode: InodeId, layer: LayerId) {
        let below: Vec<_> = self.children(dentry).collect();
        self.remove_all(below);
        let old = std::mem::replace(&mut self.dentries[dentry as usize].inode, inode);
        self.inodes[inode as usize].names += 1;
        self.release(old);
        self.dentries[dentry as usize].cleared = layer;
        self.dentries[dentry as usize].marks = 0;
        self.touch(dentry, layer);
    }

    /// Marks a name and its parents as the layer's.
    pub(crate) fn touch(&mut self, mut dentry: DentryId, layer: LayerId) {
        while self.dentries[dentry as usize].touched != layer {
            self.dentries[dentry as usize].touched = layer;
            dentry = self.parent(dentry);
        }
    }

    /// Removes what the layers below have at this name; what the layer itself put there stays.
    pub(crate) fn white_out(&mut self, dentry: DentryId, layer: LayerId) {
        if self.dentries[dentry as usize].touched != layer {
            return self.remove_all(vec![dentry]);
        }
        if self.is_directory(dentry) {
            self.forget_lower_metadata(dentry, layer);
            self.clear_lower(dentry, layer);
        }
    }

    /// Removes what the layers below have in this directory.
    ///
    /// A directory is walked once per layer: afterwards it holds nothing of the lower layers, nor will it before the
    /// next.
    pub(crate) fn clear_lower(&mut self, directory: DentryId, layer: LayerId) {
        let gone = self.lower_names(directory, layer);
        self.remove_all(gone);
    }

    /// Gives the names that [`clear_lower`](Self::clear_lower) removes, with all below them, and does the rest of it.
    pub(crate) fn lower_names(&mut self, directory: DentryId, layer: LayerId) -> Vec<DentryId> {
        let mut pending = vec![directory];
        let mut gone = Vec::new();
        while let Some(directory) = pending.pop() {
            if std::mem::replace(&mut self.dentries[directory as usize].cleared, layer) == layer {
                continue;
            }
            let first = pending.len();
            for child in self.children(directory) {
                if self.dentries[child as usize].touched != layer {
                    gone.push(child);
                } else if self.is_directory(child) {
                    pending.push(child);
                }
            }
            for &child in &pending[first..] {
                self.forget_lower_metadata(child, layer);
            }
        }
        gone
    }

    /// Gives an inode a layer's metadata, attributes included.
    pub(crate) fn set_metadata(
        &mut self,
        inode: InodeId,
        metadata: &Metadata,
        layer: LayerId,
    ) -> Result<(), MergeProblem> {
        let xattrs = self.xattrs.intern(&metadata.xattrs, &self.hasher)?;
        let inode = &mut self.inodes[inode as usize];
        let Timestamp { seconds, nanoseconds } = metadata.mtime;
        (inode.mtime, inode.nanoseconds) = (seconds, nanoseconds);
        (inode.mode, inode.uid, inode.gid) = (metadata.mode, metadata.uid, metadata.gid);
        (inode.xattrs, inode.layer) = (xattrs, layer);
        Ok(())
    }

    /// Makes an inode without a name, of the entry of that number.
    pub(crate) fn new_inode(
        &mut self,
        content: Content,
        metadata: &Metadata,
        layer: LayerId,
        number: u32,
    ) -> Result<InodeId, MergeProblem> {
        let id = self.new_implied_directory()?;
        self.inodes[id as usize].content = content;
        self.numbers[id as usize] = number;
        self.set_metadata(id, metadata, layer)?;
        Ok(id)
    }

    /// Makes the inode of a directory that no entry describes.
    pub(crate) fn new_implied_directory(&mut self) -> Result<InodeId, MergeProblem> {
        let id = allocate(&mut self.inodes, &mut self.free_inodes, implied_directory(), "files")?;
        self.numbers.resize(self.inodes.len(), NO_ENTRY);
        self.numbers[id as usize] = NO_ENTRY;
        Ok(id)
    }

    /// Keeps a name or link target.
    pub(crate) fn add_string(&mut self, string: &[u8]) -> Result<u32, MergeProblem> {
        let at = self.strings.len();
        if (at + string.len()) as u64 > MAX_IDS {
            return Err(MergeProblem::TooMany { what: "bytes of names", limit: MAX_IDS });
        }
        self.strings.extend_from_slice(string);
        Ok(at as u32)
    }

    /// Sorts the children of a directory by their names' bytes.
    pub(crate) fn sort_children(&mut self, directory: DentryId) {
        let mut children: Vec<_> = self.children(directory).collect();
        children.sort_unstable_by(|&left, &right| self.name(left).cmp(self.name(right)));
        let mut previous = NONE;
        for &child in &children {
            self.dentries[child as usize].previous = previous;
            match previous {
                NONE => self.dentries[directory as usize].first_child = child,
                _ => self.dentries[previous as usize].next = child,
            }
            previous = child;
        }
        if previous != NONE {
            self.dentries[previous as usize].next = NONE;
        }
    }

    /// Makes a directory that the layer has no entry for an implied one.
    pub(crate) fn forget_lower_metadata(&mut self, directory: DentryId, layer: LayerId) {
        let inode = self.inode_id(directory) as usize;
        if self.inodes[inode].layer != layer {
            let names = self.inodes[inode].names;
            self.inodes[inode] = Inode { names, ..implied_directory() };
        }
    }

    /// Removes names with all that lies below them.
    pub(crate) fn remove_all(&mut self, mut pending: Vec<DentryId>) {
        while let Some(dentry) = pending.pop() {
            pending.extend(self.children(dentry));
            self.remove_from_lookup(dentry);
            self.unlink(dentry);
            self.release(self.inode_id(dentry));
            self.free_dentries.push(dentry);
        }
    }

    fn remove_from_lookup(&mut self, dentry: DentryId) {
        let hash = self.hasher.hash_one((self.parent(dentry), self.name(dentry)));
        if let Ok(found) = self.lookup.find_entry(hash, |&id| id == dentry) {
            found.remove();
        }
    }

    fn unlink(&mut self, dentry: DentryId) {
        let Dentry { parent, previous, next, .. } = self.dentries[dentry as usize];
        if next != NONE {
            self.dentries[next as usize].previous = previous;
        }
        match previous {
            NONE => self.dentries[parent as usize].first_child = next,
            _ => self.dentries[previous as usize].next = next,
        }
    }

    fn release(&mut self, inode: InodeId) {
        let names = &mut self.inodes[inode as usize].names;
        *names -= 1;
        if *names == 0 {
            self.free_inodes.push(inode);
        }
    }
}

/// What a directory is that only its content implies: mkdir's usual mode, root's, at the epoch, so that it is the same
/// for everyone.
fn implied_directory() -> Inode {
    Inode {
        content: Content::Directory,
        mtime: 0,
        nanoseconds: 0,
        uid: 0,
        gid: 0,
        xattrs: 0,
        names: 0,
        mode: 0o755,
        layer: NO_LAYER,
    }
}

fn allocate<T>(all: &mut Vec<T>, free: &mut Vec<u32>, value: T, what: &'static str) -> Result<u32, MergeProblem> {
    if let Some(id) = free.pop() {
        all[id as usize] = value;
        return Ok(id);
    }
    if all.len() as u64 >= MAX_IDS {
        return Err(MergeProblem::TooMany { what, limit: MAX_IDS });
    }
    all.push(value);
    Ok((all.len() - 1) as u32)
}
