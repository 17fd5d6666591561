// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Chains of the store, whichever backend shows them.

use std::path::PathBuf;

use stos_spec::{ChainId, DiffId};
use stos_store::Staging;
use stos_sys::mount::{MountPlan, UpperDirs};

use crate::LayerFs;
use crate::backend::{Backend, BackendKind, Chain};
use crate::error::{Error, Result};
use crate::seal::Integrity;

impl LayerFs {
    /// Makes sure that the chain of `layers`, the lowest first, is made, durable and sealed, and that every file that its mount
    /// reads is what was proved, as closely as `integrity` says. This is the way of pull and create.
    ///
    /// The backend is the one that was asked for; else the one that has made the chain before; else one that keeps all the
    /// layers; else the one for new layers. Layers that only the other one keeps are converted.
    pub fn ensure_sound_chain(&self, layers: &[DiffId], integrity: Integrity) -> Result<Chain> {
        let kind = self.kind_for(layers)?;
        self.ensure_sound_chain_of(kind, layers, integrity)
    }

    /// The same of a certain backend: a container stays with the one that it was created on.
    pub fn ensure_sound_chain_of(&self, kind: BackendKind, layers: &[DiffId], integrity: Integrity) -> Result<Chain> {
        let backend = self.backend(kind);
        let mut made = Vec::new();
        loop {
            match backend.ensure_sound_chain(layers, integrity) {
                // Missing, or damaged: perhaps the other backend has it.
                Err(error @ (Error::NoSuchLayer(layer) | Error::DamagedLayer { layer, .. }))
                    if !made.contains(&layer) =>
                {
                    if !self.remake(kind, layer)? {
                        return Err(error);
                    }
                    made.push(layer);
                }
                other => return other,
            }
        }
    }

    /// Makes every other form of a sound chain sound too that was made of it before, as closely as seals tell.
    pub fn heal_chains(&self, sound: &Chain) -> Result<()> {
        let other = sound.kind().other();
        if self.backend(other).holds_chain(sound.chain_id()) {
            self.ensure_sound_chain_of(other, &sound.layers(), Integrity::Sealed)?;
        }
        Ok(())
    }

    fn kind_for(&self, layers: &[DiffId]) -> Result<BackendKind> {
        if let Some(wanted) = self.wanted {
            return Ok(wanted);
        }
        let chain = ChainId::of_layers(layers).ok_or(Error::NoLayers)?;
        for kind in BackendKind::ALL {
            // Where this host has been tried, it is known what it cannot have; else the mount will tell.
            let is_possible = self.best.get().is_none_or(|best| kind == *best || kind == BackendKind::Dirs);
            if is_possible && self.backend(kind).has_chain(chain) {
                return Ok(kind);
            }
        }
        let best = self.kind_of_new()?;
        for kind in [best, best.other()] {
            // EROFS is no answer where it cannot be mounted.
            if kind == BackendKind::Erofs && best == BackendKind::Dirs {
                continue;
            }
            let mut has_all = true;
            for &layer in layers {
                has_all = has_all && self.backend(kind).kept(layer)?.is_some();
            }
            if has_all {
                return Ok(kind);
            }
        }
        Ok(best)
    }

    /// Tells whether a backend has made the chain of `layers`.
    pub fn has_chain(&self, layers: &[DiffId]) -> Result<bool> {
        let chain = ChainId::of_layers(layers).ok_or(Error::NoLayers)?;
        Ok(self.erofs.has_chain(chain) || self.dirs.has_chain(chain))
    }

    /// Gives the chain that stands in for one that this host cannot mount, if nobody asked for that backend: the store comes
    /// from a host that could. `None` where there is no better one.
    pub fn stand_in(&self, chain: &Chain, integrity: Integrity) -> Result<Option<Chain>> {
        if self.wanted.is_some() || self.probe_backends()?.obstacle(chain.kind()).is_none() {
            return Ok(None);
        }
        let kind = self.kind_of_new()?;
        tracing::warn!(chain = %chain.chain_id(), from = %chain.kind(), to = %kind, "this host cannot mount the image so");
        self.ensure_sound_chain_of(kind, &chain.layers(), integrity).map(Some)
    }

    /// Gives the place where a read-only view of the chain is mounted, or would be.
    pub fn chain_mount_point(&self, kind: BackendKind, chain: ChainId) -> PathBuf {
        self.backend(kind).chain_mount_point(chain)
    }

    /// Makes sure that the chain's view is mounted from the very files of `chain`, and gives the place.
    pub fn ensure_chain_mounted(&self, chain: &Chain) -> Result<PathBuf> {
        self.backend(chain.kind()).ensure_chain_mounted(chain)
    }

    /// Gives the plan of a container's root: the chain below, the container's own directories above.
    pub fn container_plan(&self, chain: &Chain, upper: UpperDirs) -> Result<MountPlan> {
        self.backend(chain.kind()).container_plan(chain, upper)
    }

    /// Lists the chains that any backend has made, sorted.
    pub fn chains(&self) -> Result<Vec<ChainId>> {
        let mut chains = self.erofs.chains()?;
        chains.extend(self.dirs.chains()?);
        chains.sort_unstable();
        chains.dedup();
        Ok(chains)
    }

    /// Lists the chains that this store has mounted, or had before a reboot that has left ROOT. The mounts of other stores that share
    /// it are not among them.
    pub fn mounted_chains(&self) -> Result<Vec<ChainId>> {
        self.erofs.mounts.own_chains()
    }

    /// Detaches a chain's mounts, if there are any, unless another store made them.
    pub fn unmount_chain(&self, chain: ChainId) -> Result<()> {
        BackendKind::ALL.into_iter().try_for_each(|kind| self.backend(kind).unmount_chain(chain))
    }

    /// Unmounts and removes a chain, whoever has made it. The caller holds the right to sweep.
    pub fn remove_chain(&self, chain: ChainId) -> Result<()> {
        self.take_chain(chain).map(drop)
    }

    /// Unmounts a chain and takes it out of the store, whoever has made it: it is gone, and deleted when what comes back is
    /// dropped. The caller holds the right to sweep.
    pub fn take_chain(&self, chain: ChainId) -> Result<Vec<Staging>> {
        let taken = BackendKind::ALL.into_iter().map(|kind| self.backend(kind).take_chain(chain).transpose());
        taken.flatten().collect()
    }

    /// Gives the directories in which a chain is kept, or would be.
    pub fn chain_places(&self, chain: ChainId) -> Vec<PathBuf> {
        vec![self.store.chain_dir(chain), self.dirs.chain_dir(chain)]
    }

    /// Detaches the mounts of this store's chains that the store does not hold any more, and removes what mounts have left; with
    /// `dry_run` nothing. Gives their names. Those of other stores are not touched. The caller holds the right to sweep.
    pub fn sweep_mounts(&self, dry_run: bool) -> Result<Vec<String>> {
        let is_held = |kind, chain| match kind {
            BackendKind::Erofs => self.store.chain_dir(chain).exists(),
            BackendKind::Dirs => self.dirs.chain_dir(chain).exists(),
        };
        self.erofs.mounts.sweep(is_held, dry_run)
    }
}
