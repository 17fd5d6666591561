// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The store's health: looks at every object, names what is damaged, and on request makes it again.
//!
//! | module | what it looks at, in this order |
//! |---|---|
//! | `format` | `stos.json` |
//! | `documents` | `images/index.json`; of each image its index, manifest and configuration |
//! | `blobs` | all other blobs |
//! | `layers` | the layers that images and containers need, and all others that are there |
//! | `chains` | what was made of layers: merged images, stacks |
//! | `containers` | records, directories, names; containers that run on files which have been replaced |
//! | `volumes` | records and directories of volumes, and whether those are there that containers have |
//! | `pods` | records and names of pods, and whether those are there that containers are of |
//! | `snapshots` | the records of what containerd keeps here |
//!
//! The order is that of repair: a layer is fetched by what a manifest says, a chain is made of sound layers. Without repair nothing
//! is changed but seals (see [`Examination`]). What is repaired is looked at again before it is called so, and what fails for one
//! object keeps no other from its turn.

mod blobs;
mod chains;
mod containers;
mod documents;
mod format;
mod layers;
mod owners;
mod pods;
mod repair;
mod report;
mod snapshots;
mod volumes;

use std::collections::BTreeSet;

use stos_layerfs::{Examination, Integrity};
use stos_spec::{BlobDigest, ChainId};
use stos_store::{ImageSelector, Objects};

use crate::Engine;
use crate::error::Result;
use crate::registries::RegistryConfig;
use crate::stage::stage;

use owners::Owner;
use repair::Repair;
pub use report::{CheckReport, Finding, Item, ObjectKind, Outcome, Severity, Verification};

/// How a store is checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions<'a> {
    /// Whether every byte is hashed; else files whose seals hold are believed.
    pub full: bool,
    /// How to reach registries, where what is damaged is to be repaired.
    pub repair: Option<&'a RegistryConfig>,
}

/// A check under way.
struct Check<'a> {
    engine: &'a Engine,
    how: Examination,
    repair: Option<Repair<'a>>,
    /// Images and containers, which need the rest.
    owners: Vec<Owner>,
    items: Vec<Item>,
    /// What snapshots need.
    snapshot_roots: Objects,
    /// Whether there is an image, a container or a snapshot of which nobody can tell what it needs, beside those in `owners`.
    has_unread_owners: bool,
    hashed: u64,
}

/// How closely, and whether seals may be written meanwhile.
fn examination(engine: &Engine, full: bool) -> Examination {
    let integrity = if full { Integrity::Full } else { Integrity::Sealed };
    Examination { integrity, reseals: !engine.store.is_read_only() }
}

/// Checks a store, and repairs it where that was asked for.
///
/// # Errors
/// Where the store as a whole cannot be read, or can only be read and is to be repaired. Damage is no error: the report names it.
pub fn check_store(engine: &Engine, options: &CheckOptions<'_>) -> Result<CheckReport> {
    let (format, reopened) = format::examine_format(engine, options.repair.is_some()).unzip();
    let reopened = reopened.flatten();
    let engine = reopened.as_ref().unwrap_or(engine);
    if options.repair.is_some() && format.is_none() {
        engine.store.check_writable()?;
    }
    // Nothing is removed meanwhile.
    let _lease = engine.store.lease()?;
    let mut check = Check::new(engine, options);
    check.items.extend(format);
    check.stage("check.documents", |check| {
        check.read_owners()?;
        check.examine_snapshots()?;
        check.examine_documents();
        Ok(())
    })?;
    check.stage("check.blobs", |check| check.examine_blobs(&check.all_blobs()?))?;
    check.stage("check.layers", |check| {
        let mut layers: BTreeSet<_> = engine.layerfs.layers()?.into_iter().collect();
        layers.extend(check.owners.iter().flat_map(|owner| &owner.layers));
        layers.extend(&check.snapshot_roots.layers);
        check.examine_layers(&layers)
    })?;
    check.stage("check.chains", |check| {
        let mut chains: BTreeSet<ChainId> = engine.layerfs.chains()?.into_iter().collect();
        chains.extend(check.owners.iter().filter_map(|owner| owner.chain));
        check.examine_chains(&chains)
    })?;
    check.stage("check.containers", Check::examine_containers)?;
    check.stage("check.volumes", Check::examine_volumes)?;
    check.stage("check.pods", Check::examine_pods)?;
    let images: BTreeSet<BlobDigest> =
        check.owners.iter().filter(|owner| owner.is_image()).map(|owner| owner.config).collect();
    Ok(CheckReport::new(check.items, images.len(), check.how.integrity, check.hashed))
}

/// Proves one image: its documents, its layers in each form that the store has, and what was made of them. Nothing is repaired.
///
/// # Errors
/// Where there is no such image, or the store cannot be read. Damage is no error: what is given names it.
pub fn verify_image(engine: &Engine, name: &str, full: bool) -> Result<Verification> {
    let _lease = engine.store.lease()?;
    let record = engine.store.find_image(&ImageSelector::new(name))?;
    let digest = record.manifest.digest;
    let mut check = Check::new(engine, &CheckOptions { full, repair: None });
    let owner = Owner::of_image(&record);
    let image = owner.label();
    check.owners.push(owner);
    check.stage("verify.documents", |check| {
        check.examine_documents();
        let layers = check.owners.iter().filter_map(|owner| owner.document.as_ref());
        let blobs = layers.flat_map(|manifest| &manifest.layers).map(|layer| layer.descriptor.digest).collect();
        check.examine_blobs(&blobs)
    })?;
    check.stage("verify.layers", |check| {
        let layers = check.owners.iter().flat_map(|owner| owner.layers.clone()).collect();
        check.examine_layers(&layers)
    })?;
    check.stage("verify.chains", |check| {
        let chains = check.owners.iter().filter_map(|owner| owner.chain).collect();
        check.examine_chains(&chains)
    })?;
    let sound = check.items.iter().all(Item::is_sound);
    Ok(Verification { image, digest, full, sound, hashed_bytes: check.hashed, objects: check.items })
}

impl<'a> Check<'a> {
    fn new(engine: &'a Engine, options: &CheckOptions<'a>) -> Self {
        // Where the format stays damaged nothing is written.
        let registries = options.repair.filter(|_| !engine.store.is_read_only());
        let repair = registries.map(|registries| Repair::new(engine, registries));
        let how = examination(engine, options.full);
        let (owners, items, snapshot_roots) = (Vec::new(), Vec::new(), Objects::default());
        Self { engine, how, repair, owners, items, snapshot_roots, has_unread_owners: false, hashed: 0 }
    }

    /// Does one part, and says in the log how many bytes were hashed for it and how long it took.
    fn stage(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        stage(
            name,
            |hashed| *hashed,
            || {
                let before = self.hashed;
                work(self)?;
                Ok(self.hashed - before)
            },
        )
        .map(drop)
    }

    /// Gives a path as findings name it: below DATA-ROOT.
    fn below_root(&self, path: &std::path::Path) -> String {
        path.strip_prefix(self.engine.store.root()).unwrap_or(path).display().to_string()
    }
}
