// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What removed snapshots have left goes: their files, mounts of images that no snapshot uses, images that containerd needs no more, and
//! with those their layers.
//!
//! It comes after each removal, with containerd's own clean-up, and at the start. What cannot be done while another command is at work
//! on the store is left to the next one, and that comes by itself ([`crate::server::clean_after`]).

use std::collections::BTreeSet;
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use stos_engine::container;
use stos_engine::gc::collect_garbage;
use stos_spec::ChainId;
use stos_store::{SnapshotKind, Staging};

use crate::error::Result;
use crate::mounts::Lower;
use crate::snapshots::Snapshotter;

/// How long a sweep of the store waits for other commands.
const SWEEP_PATIENCE: Duration = Duration::from_millis(200);

/// What is to go.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Directories of removed snapshots.
    pub directories: Vec<Staging>,
    /// Chains that were mounted for snapshots.
    pub chains: BTreeSet<ChainId>,
    /// Whether a snapshot of layers has been removed, or a pull was in vain: perhaps nothing reaches them any more.
    pub has_lost_layers: bool,
}

/// What a clean-up has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// How many directories were deleted.
    pub directories: usize,
    /// How many images were removed.
    pub images: usize,
    /// How many mounts of images went.
    pub mounts: usize,
    /// Whether something could not be done now, and is left to the next clean-up.
    pub is_partial: bool,
}

impl Snapshotter {
    /// Looks for what an earlier process has left: all mounts of the store's chains, for their snapshots may have gone, and images that
    /// are not needed.
    ///
    /// # Errors
    /// Where the mounts cannot be listed.
    pub fn recover(&self) -> Result<()> {
        let mounted = self.engine.layerfs().mounted_chains()?;
        let mut leftovers = self.leftovers();
        leftovers.chains.extend(mounted);
        leftovers.has_lost_layers = true;
        Ok(())
    }

    /// Tells whether images or layers are left that perhaps nothing needs.
    pub fn has_lost_layers(&self) -> bool {
        self.leftovers().has_lost_layers
    }

    /// Removes what is left over, after who does so already. What fails is told in the log and tried again by the next clean-up.
    pub fn clean(&self) -> Cleaned {
        let _cleaning = self.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cleaned = Cleaned::default();
        let directories = self.take_directories();
        cleaned.directories = directories.len();
        drop(directories);
        match self.unmount_unused() {
            Ok(Some(mounts)) => cleaned.mounts = mounts,
            Ok(None) => cleaned.is_partial = true,
            Err(error) => {
                tracing::warn!(%error, "mounts that no snapshot uses stay for now");
                cleaned.is_partial = true;
            }
        }
        if std::mem::take(&mut self.leftovers().has_lost_layers) {
            match self.sweep_images() {
                Ok(images) => cleaned.images = images,
                Err(error) => {
                    tracing::warn!(%error, "images that are not needed stay for now");
                    self.leftovers().has_lost_layers = true;
                    cleaned.is_partial = true;
                }
            }
        }
        cleaned
    }

    /// Unmounts the chains that no snapshot uses any more, and gives their number; `None` where another command may rely on a mount.
    fn unmount_unused(&self) -> Result<Option<usize>> {
        if self.leftovers().chains.is_empty() {
            return Ok(Some(0));
        }
        let _mounting = match self.mounting.try_write() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        let used = self.used_chains()?;
        let unused: Vec<ChainId> = self.leftovers().chains.difference(&used).copied().collect();
        if unused.is_empty() {
            return Ok(Some(0));
        }
        let Some(_right) = self.engine.store().try_sweep_right()? else { return Ok(None) };
        for chain in &unused {
            self.engine.layerfs().unmount_chain(*chain)?;
            self.leftovers().chains.remove(chain);
        }
        Ok(Some(unused.len()))
    }

    /// Gives the chains that snapshots which may be mounted stand on, and containers of the store.
    pub(crate) fn used_chains(&self) -> Result<BTreeSet<ChainId>> {
        let mut used = BTreeSet::new();
        for snapshot in self.metadata.all() {
            if snapshot.record.kind != SnapshotKind::Committed {
                used.extend(Lower::of(&self.metadata, snapshot.record.parent.as_deref())?.chain());
            }
        }
        for record in container::records(&self.engine)? {
            used.extend(record.needed_images().map(|image| image.chain));
        }
        Ok(used)
    }

    fn sweep_images(&self) -> Result<usize> {
        let keeps = self.settings().images.keep;
        let images = if keeps { 0 } else { self.own.sweep(&self.engine, &self.metadata.all())? };
        // Layers may have lost their image before.
        let report = collect_garbage(&self.engine, false, SWEEP_PATIENCE)?;
        self.metrics.count_garbage(report.removed.len(), report.bytes);
        Ok(images)
    }
}
