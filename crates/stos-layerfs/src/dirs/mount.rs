// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stacks the directories of a chain: for people and lookups as a view that is mounted once, for each container anew.

use std::path::PathBuf;

use stos_sys::mount::MountPlan;

use super::Dirs;
use super::stack::StackRecord;
use crate::backend::BackendKind;
use crate::error::{Error, Result};
use crate::mounts::MountedFrom;

impl Dirs {
    /// Gives the directories that show the chain, the uppermost first. Never less than two: overlayfs shows whiteouts and its
    /// own attributes of a directory that it does not merge with another.
    pub(crate) fn lowers(&self, record: &StackRecord) -> Vec<PathBuf> {
        let top = self.chain_dir(record.chain_id).join("top");
        let layers = record.layers.iter().rev().filter(|layer| layer.stacked);
        let layers = layers.map(|layer| self.layer_dir(layer.diff_id).join("diff"));
        std::iter::once(top).chain(layers).collect()
    }

    /// Makes sure that the view of the stack is mounted from the very directories of `record`, and gives the place.
    pub(crate) fn ensure_stack_mounted(&self, record: &StackRecord) -> Result<PathBuf> {
        let from = MountedFrom {
            store: self.store.root().to_owned(),
            image: record.top.inode,
            devices: record.layers.iter().map(|layer| layer.diff.inode).collect(),
        };
        let refuse = |source| Error::Mount { chain: record.chain_id, source };
        self.mounts.ensure(BackendKind::Dirs, record.chain_id, &from, || {
            MountPlan { lowers: self.lowers(record), upper: None, ids: None }.mount_detached().map_err(refuse)
        })
    }
}
