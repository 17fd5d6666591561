// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Chains: what was made of layers. All of it can be made again where the layers are sound.

use std::collections::BTreeSet;

use stos_layerfs::{BackendKind, Integrity, Problem};
use stos_spec::{ChainId, DiffId};

use crate::error::Result;

use super::Check;
use super::owners::users;
use super::report::{Finding, Item, ObjectKind, Outcome};

impl Check<'_> {
    /// Looks at chains: those that are there, and those that are needed and are not.
    pub(super) fn examine_chains(&mut self, chains: &BTreeSet<ChainId>) -> Result<()> {
        for &chain in chains {
            let layerfs = &self.engine.layerfs;
            let kinds: Vec<_> =
                BackendKind::ALL.into_iter().filter(|&kind| layerfs.backend(kind).holds_chain(chain)).collect();
            let missing = self.missing_kinds(chain, &kinds);
            for kind in kinds {
                let findings = self.examine_chain(kind, chain);
                let item = self.settle_chain(Some(kind), chain, findings);
                self.items.push(item);
            }
            for kind in missing {
                let item = self.settle_chain(kind, chain, vec![self.missing_chain(kind, chain)]);
                self.items.push(item);
            }
        }
        Ok(())
    }

    /// Tells in which forms a chain is needed and is not there: in that of each container, and in any for an image.
    fn missing_kinds(&self, chain: ChainId, there: &[BackendKind]) -> Vec<Option<BackendKind>> {
        let owners = self.owners.iter().filter(|owner| owner.chain == Some(chain));
        let is_missing = |wanted: &Option<BackendKind>| match wanted {
            Some(kind) => !there.contains(kind),
            None => there.is_empty(),
        };
        let missing: BTreeSet<_> = owners.map(|owner| owner.backend).filter(is_missing).collect();
        // What is made for a container is there for its image too.
        let is_enough = missing.len() > 1;
        missing.into_iter().filter(|kind| kind.is_some() || !is_enough).collect()
    }

    fn missing_chain(&self, kind: Option<BackendKind>, chain: ChainId) -> Finding {
        let path = match kind.unwrap_or_else(|| self.likely_kind()) {
            BackendKind::Dirs => self.engine.layerfs.dirs().chain_dir(chain),
            BackendKind::Erofs => self.engine.store.chain_dir(chain),
        };
        Finding::damage(Problem::Missing, "what was made of the image's layers", "none").at(self.below_root(&path))
    }

    fn examine_chain(&mut self, kind: BackendKind, chain: ChainId) -> Vec<Finding> {
        let examined = self.engine.layerfs.backend(kind).examine_chain(chain, self.how);
        self.findings_of(examined)
    }

    fn settle_chain(&mut self, kind: Option<BackendKind>, chain: ChainId, findings: Vec<Finding>) -> Item {
        let mut item = Item::new(ObjectKind::Chain, chain, kind);
        if findings.is_empty() {
            return item;
        }
        let needs = users(&self.owners, |owner| owner.chain == Some(chain));
        item.findings = findings.into_iter().map(|finding| finding.needed_by(&needs)).collect();
        if self.repair.is_some() && Self::are_of_damage(&item.findings) {
            let outcome = self.repair_chain(kind, chain);
            let outcome = self.of_unused(outcome, &needs);
            item.settle(&outcome);
        }
        item
    }

    fn repair_chain(&mut self, kind: Option<BackendKind>, chain: ChainId) -> Outcome {
        let Some(layers) = self.layers_of(kind, chain) else {
            return Outcome::Stays { why: "nothing says which layers it is of".to_owned() };
        };
        // What no stat shows is met only by the closest look, which takes longer.
        for integrity in [Integrity::Sealed, Integrity::Full] {
            let layerfs = &self.engine.layerfs;
            let made = match kind {
                Some(kind) => layerfs.ensure_sound_chain_of(kind, &layers, integrity),
                None => layerfs.ensure_sound_chain(&layers, integrity),
            };
            let made = match made {
                Ok(made) => made.kind(),
                Err(error) => return Outcome::Stays { why: error.to_string() },
            };
            if self.examine_chain(made, chain).is_empty() {
                tracing::info!(%chain, backend = %made, "chain repaired");
                return Outcome::Repaired { how: "made again of its layers".to_owned() };
            }
        }
        Outcome::Stays { why: "made again of its layers, and it is still damaged".to_owned() }
    }

    /// Gives the layers of a chain, as an image, a container or its own record says.
    fn layers_of(&self, kind: Option<BackendKind>, chain: ChainId) -> Option<Vec<DiffId>> {
        let owner = self.owners.iter().find(|owner| owner.chain == Some(chain));
        let recorded = || self.engine.layerfs.backend(kind?).layers_of_chain(chain).ok().flatten();
        owner.map(|owner| owner.layers.clone()).or_else(recorded)
    }
}
