// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Merges layers, the lowest first, into one tree.

mod bounds;
#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod disk;
mod layer;
mod merged;
mod nodes;
#[cfg(test)]
mod overlay_tests;
#[cfg(test)]
mod random;
mod resolve;
mod stack;
mod step;
#[cfg(test)]
mod tests;
pub(crate) mod tree;
mod xattr_sets;

pub use self::layer::LayerTree;
pub use self::merged::{MergedEntry, MergedLayer};
pub use self::nodes::{Node, Places, device_parts};
pub use self::stack::{Correction, Corrections, SpecialFile, Stack};
pub use self::step::{DirectoryState, Step};

use std::collections::HashMap;
use std::io::{Read, Write};

use self::bounds::Bounds;
use self::resolve::{ensure_directory, find_directory};
use self::tree::{Content, DentryId, InodeId, LayerId, MAX_LAYERS, ROOT, Tree};
use crate::error::{MergeProblem, printable};
use crate::image::{self, ImageSummary};
use crate::index::{DataPlace, Entry, EntryKind, IndexReader, Metadata};
use crate::path::split;
use crate::{BLOCK, Error, Result};

/// A layer's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInput {
    /// The tar's SHA-256, which is the layer's diffID.
    pub tag: [u8; 32],
    /// The tar's length in bytes.
    pub tar_bytes: u64,
    /// The length in bytes of the extra file, as [`IndexSummary`](crate::IndexSummary) says it; 0 where there is none.
    pub extra_bytes: u64,
}

/// Merges the indexes of an image's layers and writes the result as one EROFS image.
///
/// The result is what unpacking the layers one after the other into one directory gives (the oracle is `umoci unpack`):
///
/// - Whiteouts and opaque markers act on lower layers only, wherever in their layer they stand. A directory that
///   is whited out and merely implied in the same layer is a new one. A whiteout of nothing is fine.
/// - Of two entries of the same name the later holds. A directory over a directory keeps its content and takes the
///   new metadata, attributes included; anything else replaces what was there, with all below it. Other names of a
///   replaced file stay.
/// - Parents that are symbolic links are followed within the image's root, the last component never. A parent that is
///   missing, or to which a link points in vain, is made: 0755, root:root, at the epoch; it never overrides a lower
///   directory's metadata.
/// - A hard link's target is looked up in the tree as it is at that moment, lower layers included; the link entry's own
///   metadata are ignored. A link to itself changes nothing.
/// - A root without an entry is implied likewise.
///
/// All layers together may have [`MAX_ENTRIES`](crate::MAX_ENTRIES) entries. Memory is bounded by 32 MiB and 384 bytes an entry;
/// entries of ordinary images take about 130 bytes and their names. Time is bounded likewise, by 16,777,216 steps along
/// parents and 256 an entry. Nothing recurses.
#[derive(Debug)]
pub struct Merger {
    tree: Tree,
    layers: Vec<LayerInput>,
    /// The first layer of each tag: the same tar twice is one device.
    by_tag: HashMap<[u8; 32], LayerId>,
    /// Of the entries of all layers so far.
    bounds: Bounds,
    failed: bool,
}

impl Default for Merger {
    fn default() -> Self {
        Self::new()
    }
}

impl Merger {
    /// Starts with an empty root.
    pub fn new() -> Self {
        Self { tree: Tree::new(), layers: Vec::new(), by_tag: HashMap::new(), bounds: Bounds::new(), failed: false }
    }

    /// Applies the next layer, of which `index` is the whole index; the reader needs no buffer of its own.
    ///
    /// # Errors
    /// [`Error::Index`] where the index is damaged, [`Error::Merge`] where it does not belong to the tar or an entry
    /// cannot be applied, the reader's error. After an error the merger is unusable.
    pub fn add_layer(&mut self, layer: LayerInput, index: impl Read) -> Result<()> {
        self.add_layer_seen(layer, index, |_, _| Ok(()))
    }

    /// Applies the next layer, and shows each entry with its number to someone else too.
    fn add_layer_seen(
        &mut self,
        layer: LayerInput,
        index: impl Read,
        mut seen: impl FnMut(u32, &Entry) -> Result<()>,
    ) -> Result<()> {
        if std::mem::replace(&mut self.failed, true) {
            return Err(Error::UsedAfterError { object: "Merger" });
        }
        let number = self.layers.len();
        let whole = |problem| Error::Merge { layer: number, entry: String::new(), problem };
        if number as u64 >= MAX_LAYERS {
            return Err(whole(MergeProblem::TooMany { what: "layers", limit: MAX_LAYERS }));
        }
        self.layers.push(layer);
        let device = *self.by_tag.entry(layer.tag).or_insert(number as LayerId);
        let mut reader = IndexReader::new(index)?;
        // The bound of all entries keeps it far below the largest.
        let mut entry_number = 0;
        while let Some(entry) = reader.next_entry()? {
            self.bounds.count().map_err(whole)?;
            Apply { tree: &mut self.tree, layer: number as LayerId, device, input: layer, number: entry_number }
                .entry(&entry)
                .and_then(|()| self.bounds.check(&self.tree))
                .map_err(|problem| merge_error(number, &entry.path, problem))?;
            seen(entry_number, &entry)?;
            entry_number += 1;
        }
        match reader.totals() {
            Some(totals) if totals.tar_bytes != layer.tar_bytes => {
                Err(whole(MergeProblem::TarLength { expected: layer.tar_bytes, found: totals.tar_bytes }))
            }
            Some(totals) if totals.extra_bytes != layer.extra_bytes => {
                Err(whole(MergeProblem::ExtraLength { expected: layer.extra_bytes, found: totals.extra_bytes }))
            }
            _ => {
                self.failed = false;
                Ok(())
            }
        }
    }

    /// Writes the merged tree as an EROFS image and says which layers it needs as devices; flushes, but does not sync.
    ///
    /// The writer needs no buffer of its own.
    ///
    /// # Errors
    /// [`Error::Image`] where something does not fit the format, the writer's error, and [`Error::UsedAfterError`].
    pub fn write(self, out: impl Write) -> Result<ImageSummary> {
        if self.failed {
            return Err(Error::UsedAfterError { object: "Merger" });
        }
        image::write(self.tree, &self.layers, out)
    }
}

/// Applies one layer's entries.
struct Apply<'a> {
    tree: &'a mut Tree,
    layer: LayerId,
    /// The layer whose files hold the data: this one, or an earlier one of the same tag.
    device: LayerId,
    input: LayerInput,
    /// The entry's number within its layer.
    number: u32,
}

impl Apply<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<(), MergeProblem> {
        let path = &entry.path;
        let (content, metadata) = match &entry.kind {
            EntryKind::Whiteout => return self.whiteout(path),
            EntryKind::Opaque => return self.opaque(path),
            EntryKind::HardLink { target } => return self.hard_link(path, target),
            EntryKind::Directory(metadata) => return self.directory(path, metadata),
            EntryKind::Regular { metadata, size, place, block } => (self.regular(*size, *place, *block)?, metadata),
            EntryKind::Symlink { metadata, target } => {
                // The indexer and the reader bound the length.
                let len = target.len() as u16;
                (Content::Symlink { at: self.tree.add_string(target)?, len }, metadata)
            }
            EntryKind::CharacterDevice { metadata, major, minor } => {
                (Content::CharacterDevice(device_number(*major, *minor)), metadata)
            }
            EntryKind::BlockDevice { metadata, major, minor } => {
                (Content::BlockDevice(device_number(*major, *minor)), metadata)
            }
            EntryKind::Fifo(metadata) => (Content::Fifo, metadata),
        };
        let (parent, name) = self.parent_of(path)?;
        let inode = self.tree.new_inode(content, metadata, self.layer, self.number)?;
        self.put(parent, name, inode)
    }

    /// Puts an inode at a name, whatever was there.
    fn put(&mut self, parent: DentryId, name: &[u8], inode: InodeId) -> Result<(), MergeProblem> {
        match self.tree.find(parent, name) {
            Some(existing) => self.tree.replace(existing, inode, self.layer),
            None => {
                self.tree.insert(parent, name, inode, self.layer)?;
            }
        }
        Ok(())
    }

    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<(DentryId, &'p [u8]), MergeProblem> {
        let (parent, name) = split(path);
        Ok((ensure_directory(self.tree, parent, self.layer)?, name))
    }

    fn directory(&mut self, path: &[u8], metadata: &Metadata) -> Result<(), MergeProblem> {
        if path.is_empty() {
            self.tree.touch(ROOT, self.layer);
            return self.tree.set_metadata(self.tree.inode_id(ROOT), metadata, self.layer);
        }
        let (parent, name) = self.parent_of(path)?;
        match self.tree.find(parent, name) {
            Some(existing) if self.tree.is_directory(existing) => {
                self.tree.touch(existing, self.layer);
                self.tree.set_metadata(self.tree.inode_id(existing), metadata, self.layer)
            }
            _ => {
                let inode = self.tree.new_inode(Content::Directory, metadata, self.layer, self.number)?;
                self.put(parent, name, inode)
            }
        }
    }

    fn regular(&self, size: u64, place: DataPlace, block: u64) -> Result<Content, MergeProblem> {
        let end = block.saturating_mul(BLOCK).saturating_add(size);
        let LayerInput { tar_bytes, extra_bytes, .. } = self.input;
        match place {
            DataPlace::Tar if end > tar_bytes => Err(MergeProblem::DataOutsideTar { end, tar_bytes }),
            DataPlace::Extra if end > extra_bytes => Err(MergeProblem::DataOutsideExtra { end, extra_bytes }),
            _ => Ok(Content::Regular { block, size, layer: self.device, place }),
        }
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), MergeProblem> {
        let missing = || MergeProblem::LinkTargetMissing { target: printable(target) };
        let (target_parent, target_name) = split(target);
        let directory = find_directory(self.tree, target_parent)?.ok_or_else(missing)?;
        let found = self.tree.find(directory, target_name).ok_or_else(missing)?;
        if self.tree.is_directory(found) {
            return Err(MergeProblem::LinkTargetDirectory { target: printable(target) });
        }
        let inode = self.tree.inode_id(found);
        let (parent, name) = self.parent_of(path)?;
        match self.tree.find(parent, name) {
            // The same file already, perhaps by this very name: to replace it would free it.
            Some(existing) if self.tree.inode_id(existing) == inode => self.tree.touch(existing, self.layer),
            // The link replaces the directory that its target lies in.
            Some(existing) if self.tree.is_within(found, existing) => return Err(missing()),
            Some(existing) => self.tree.replace(existing, inode, self.layer),
            None => {
                self.tree.insert(parent, name, inode, self.layer)?;
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), MergeProblem> {
        let (parent, name) = split(path);
        if let Some(parent) = self.existing_directory(parent)?
            && let Some(existing) = self.tree.find(parent, name)
        {
            self.tree.white_out(existing, self.layer);
        }
        Ok(())
    }

    fn opaque(&mut self, path: &[u8]) -> Result<(), MergeProblem> {
        if let Some(directory) = self.existing_directory(path)? {
            self.tree.clear_lower(directory, self.layer);
        }
        Ok(())
    }

    /// A whiteout below something that is no directory removes nothing, like one below something missing.
    fn existing_directory(&self, path: &[u8]) -> Result<Option<DentryId>, MergeProblem> {
        match find_directory(self.tree, path) {
            Err(MergeProblem::ParentNotDirectory { .. }) => Ok(None),
            found => found,
        }
    }
}

fn merge_error(layer: usize, entry: &[u8], problem: MergeProblem) -> Error {
    Error::Merge { layer, entry: printable(entry), problem }
}

/// Linux's 32-bit form of a device number, as EROFS stores it; the index bounds both parts.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}
