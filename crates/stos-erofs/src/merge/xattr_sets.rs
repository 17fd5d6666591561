// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The extended attributes of a tree's inodes.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::tree::MAX_IDS;
use crate::error::MergeProblem;
use crate::xattr::{self, Xattr};

/// Encoded sets of attributes, each kept once: most files that have any share theirs with others.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct XattrSets {
    /// Where each set's body ends; it starts where the one before ends. Set 0 is empty.
    ends: Vec<usize>,
    bodies: Vec<u8>,
    lookup: HashTable<u32>,
}

/// What a set takes beside its body: its end, and at most 12 bytes in the look-up table.
const SET_MEMORY: usize = size_of::<usize>() + 12;

impl XattrSets {
    pub(super) fn new() -> Self {
        Self { ends: vec![0], bodies: Vec::new(), lookup: HashTable::new() }
    }

    pub(super) fn memory(&self) -> usize {
        self.bodies.len() + self.ends.len() * SET_MEMORY
    }

    pub(super) fn body(&self, set: u32) -> &[u8] {
        body_of(&self.ends, &self.bodies, set)
    }

    pub(super) fn intern(&mut self, xattrs: &[Xattr], hasher: &RandomState) -> Result<u32, MergeProblem> {
        if xattrs.is_empty() {
            return Ok(0);
        }
        let start = self.bodies.len();
        if let Err(problem) = xattr::encode_body(xattrs, &mut self.bodies) {
            self.bodies.truncate(start);
            return Err(problem);
        }
        let hash = hasher.hash_one(&self.bodies[start..]);
        let Self { ends, bodies, lookup } = self;
        if let Some(&set) = lookup.find(hash, |&set| body_of(ends, bodies, set) == &bodies[start..]) {
            bodies.truncate(start);
            return Ok(set);
        }
        let set = ends.len() as u32;
        if u64::from(set) >= MAX_IDS {
            return Err(MergeProblem::TooMany { what: "sets of attributes", limit: MAX_IDS });
        }
        ends.push(bodies.len());
        lookup.insert_unique(hash, set, |&set| hasher.hash_one(body_of(ends, bodies, set)));
        Ok(set)
    }
}

fn body_of<'a>(ends: &[usize], bodies: &'a [u8], set: u32) -> &'a [u8] {
    let set = set as usize;
    let start = if set == 0 { 0 } else { ends[set - 1] };
    &bodies[start..ends[set]]
}
