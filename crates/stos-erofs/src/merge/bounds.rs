// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What entries may ask of a tree, whatever they mean: of its memory and of the time that it takes to build it.

use super::tree::{FILE_MEMORY, Tree};
use crate::error::MergeProblem;
use crate::index::MAX_ENTRIES;
use crate::path::MAX_COMPONENT;

/// What a tree may take in bytes, whatever its entries, for what a few of them can ask for without end: parents
/// that are merely implied, attributes, link targets.
const MEMORY_BASE: u64 = 32 << 20;
/// What it may take beyond that for each entry so far.
const MEMORY_PER_ENTRY: u64 = 384;
/// A file by itself never draws on the base, however long its name.
const _: () = assert!((FILE_MEMORY + MAX_COMPONENT) as u64 <= MEMORY_PER_ENTRY);

/// How many steps along parents entries may ask for, whatever their number: a second or so.
const STEPS_BASE: u64 = 1 << 24;
/// How many beyond that for each entry so far. The paths of real layers have 5 to 30 components.
const STEPS_PER_ENTRY: u64 = 256;
/// What a parent counts that has to be made: who unpacks makes a directory there. One that is removed makes room in memory
/// for others, so without this two entries could have 10,000 made and removed, and the next two again.
pub(super) const STEPS_TO_MAKE: u64 = 32;

/// Counts entries, and holds a tree to what they allow.
#[derive(Debug)]
pub(super) struct Bounds {
    entries: u64,
    pub(super) max_entries: u64,
}

impl Bounds {
    pub(super) fn new() -> Self {
        Self { entries: 0, max_entries: MAX_ENTRIES }
    }

    /// How many entries there were.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Counts one more entry.
    pub(super) fn count(&mut self) -> Result<(), MergeProblem> {
        if self.entries >= self.max_entries {
            return Err(MergeProblem::TooMany { what: "entries of all layers together", limit: self.max_entries });
        }
        self.entries += 1;
        Ok(())
    }

    /// What a tree of the entries so far may take in bytes.
    pub(super) fn memory_limit(&self) -> u64 {
        MEMORY_BASE + MEMORY_PER_ENTRY * self.entries
    }

    /// Checks the tree after an entry. One entry can exceed the bounds by what its own path, links and attributes ask for:
    /// less than 2 MiB, and 20,000 parents.
    pub(super) fn check(&self, tree: &Tree) -> Result<(), MergeProblem> {
        let limit = self.memory_limit();
        if tree.memory() as u64 > limit {
            return Err(MergeProblem::TooMany { what: "bytes of names, attributes and implied parents", limit });
        }
        let limit = STEPS_BASE + STEPS_PER_ENTRY * self.entries;
        if tree.steps() > limit {
            return Err(MergeProblem::TooMany { what: "steps along parents", limit });
        }
        Ok(())
    }
}
