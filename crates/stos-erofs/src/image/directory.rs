// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Directory blocks: entries of 12 bytes, then their names, sorted over the whole directory.

use crate::BLOCK;
use crate::merge::tree::{Content, DentryId, Tree};

const ENTRY_LEN: usize = 12;

/// What the layout needs to know of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Its size in bytes: full blocks, and what the last one uses.
    pub(super) size: u64,
    /// 2 and its subdirectories.
    pub(super) links: u32,
}

/// Gives each name of a directory in order, `.` and `..` included: they are sorted like others (`!x` and `-x` come
/// before them).
fn for_each_entry<'t>(tree: &'t Tree, directory: DentryId, mut take: impl FnMut(&'t [u8], DentryId)) {
    let mut own = [(&b"."[..], directory), (&b".."[..], tree.parent(directory))].into_iter().peekable();
    for child in tree.children(directory) {
        let name = tree.name(child);
        while let Some((own_name, target)) = own.next_if(|(own_name, _)| *own_name < name) {
            take(own_name, target);
        }
        take(name, child);
    }
    own.for_each(|(own_name, target)| take(own_name, target));
}

/// Measures a directory whose children are sorted.
pub(super) fn shape(tree: &Tree, directory: DentryId) -> Shape {
    let (mut size, mut used, mut links) = (0, 0, 0);
    for_each_entry(tree, directory, |name, target| {
        let len = ENTRY_LEN + name.len();
        if used + len > BLOCK as usize {
            size += BLOCK;
            used = 0;
        }
        used += len;
        links += u32::from(tree.is_directory(target));
    });
    Shape { size: size + used as u64, links }
}

/// Makes a directory's blocks one by one; the last one is as long as it is used, the others are full.
pub(super) fn for_each_block<E>(
    tree: &Tree,
    directory: DentryId,
    nid: impl Fn(DentryId) -> u64,
    mut emit: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut block = BlockBuilder::default();
    let mut result = Ok(());
    for_each_entry(tree, directory, |name, target| {
        if result.is_err() {
            return;
        }
        if !block.has_room(name) {
            let mut bytes = block.take();
            bytes.resize(BLOCK as usize, 0);
            result = emit(&bytes);
        }
        block.push(name, nid(target), file_type(tree, target));
    });
    result?;
    emit(&block.take())
}

fn file_type(tree: &Tree, dentry: DentryId) -> u8 {
    match tree.inode(dentry).content {
        Content::Regular { .. } => 1,
        Content::Directory => 2,
        Content::CharacterDevice(_) => 3,
        Content::BlockDevice(_) => 4,
        Content::Fifo => 5,
        Content::Symlink { .. } => 7,
    }
}

#[derive(Default)]
struct BlockBuilder {
    entries: Vec<(u64, u8, u8)>,
    names: Vec<u8>,
}

impl BlockBuilder {
    fn has_room(&self, name: &[u8]) -> bool {
        ENTRY_LEN * (self.entries.len() + 1) + self.names.len() + name.len() <= BLOCK as usize
    }

    fn push(&mut self, name: &[u8], nid: u64, file_type: u8) {
        // No name is longer than 255 bytes.
        self.entries.push((nid, file_type, name.len() as u8));
        self.names.extend_from_slice(name);
    }

    fn take(&mut self) -> Vec<u8> {
        let mut name_at = (ENTRY_LEN * self.entries.len()) as u16;
        let mut bytes = Vec::with_capacity(BLOCK as usize);
        for (nid, file_type, name_len) in self.entries.drain(..) {
            bytes.extend_from_slice(&nid.to_le_bytes());
            bytes.extend_from_slice(&name_at.to_le_bytes());
            bytes.extend_from_slice(&[file_type, 0]);
            name_at += u16::from(name_len);
        }
        bytes.append(&mut self.names);
        bytes
    }
}
