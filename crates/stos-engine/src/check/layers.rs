// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers, each form of each.

use std::collections::BTreeSet;

use stos_layerfs::{BackendKind, Examined, Problem};
use stos_spec::DiffId;

use crate::error::Result;

use super::owners::users;
use super::report::{Finding, Item, ObjectKind, Outcome, Users};
use super::{Check, repair};

impl Check<'_> {
    /// Looks at layers: those that are there, and those that are needed and are not.
    pub(super) fn examine_layers(&mut self, layers: &BTreeSet<DiffId>) -> Result<()> {
        for &layer in layers {
            let layerfs = &self.engine.layerfs;
            let kinds: Vec<_> =
                BackendKind::ALL.into_iter().filter(|&kind| layerfs.backend(kind).has_form(layer)).collect();
            if kinds.is_empty() {
                let item = self.settle_missing_layer(layer);
                self.items.push(item);
                continue;
            }
            // One that is made of another needs that one sound: the sound ones first.
            let mut forms: Vec<_> = kinds.into_iter().map(|kind| (kind, self.examine_form(kind, layer))).collect();
            forms.sort_by_key(|(_, findings)| !findings.is_empty());
            for (kind, findings) in forms {
                let item = self.settle_form(kind, layer, findings);
                self.items.push(item);
            }
        }
        Ok(())
    }

    /// Looks at one form of a layer.
    fn examine_form(&mut self, kind: BackendKind, layer: DiffId) -> Vec<Finding> {
        let examined = self.engine.layerfs.backend(kind).examine_layer(layer, self.how);
        self.findings_of(examined)
    }

    /// Makes findings of what an examination gave. One that failed is told as what it is, and no object is sound by it.
    pub(super) fn findings_of(&mut self, examined: stos_layerfs::Result<Examined>) -> Vec<Finding> {
        match examined {
            Ok(examined) => {
                self.hashed += examined.hashed;
                let faults = examined.faults.into_iter();
                let told = |fault: stos_layerfs::Fault| {
                    Finding::damage(fault.problem, fault.expected, fault.found).at(self.below_root(&fault.path))
                };
                let undecided = examined.undecided.into_iter().map(|fault| {
                    let (expected, found) = (fault.expected, fault.found);
                    let text = "whether that is all that the filesystem keeps can be tried only in a store that can be written to";
                    Finding::note(format!("expected {expected}, found {found}: {text}")).at(self.below_root(&fault.path))
                });
                faults.map(told).chain(undecided).collect()
            }
            Err(error) => vec![Finding::unexamined(error.to_string())],
        }
    }

    /// Tells whether findings say that an object is damaged, and not merely that nobody could tell.
    pub(super) fn are_of_damage(findings: &[Finding]) -> bool {
        findings.iter().all(|finding| finding.problem.is_some())
    }

    fn users_of(&self, layer: DiffId) -> Users {
        users(&self.owners, |owner| owner.layers.contains(&layer))
    }

    fn settle_form(&mut self, kind: BackendKind, layer: DiffId, findings: Vec<Finding>) -> Item {
        let mut item = Item::new(ObjectKind::Layer, layer, Some(kind));
        if findings.is_empty() {
            return item;
        }
        let needs = self.users_of(layer);
        item.findings = findings.into_iter().map(|finding| finding.needed_by(&needs)).collect();
        if self.repair.is_some() && Self::are_of_damage(&item.findings) {
            let outcome = self.repair_form(kind, layer);
            let outcome = self.of_unused(outcome, &needs);
            item.settle(&outcome);
        }
        item
    }

    /// Gives the backend to which what is missing would go.
    pub(super) fn likely_kind(&self) -> BackendKind {
        // Where it cannot be tried, as in a store that may only be read, it is most often this one.
        self.engine.layerfs.kind_of_new().unwrap_or(BackendKind::Erofs)
    }

    fn settle_missing_layer(&mut self, layer: DiffId) -> Item {
        let mut item = Item::new(ObjectKind::Layer, layer, None);
        let path = match self.likely_kind() {
            BackendKind::Erofs => self.engine.store.layer_dir(layer),
            BackendKind::Dirs => self.engine.layerfs.dirs().layer_dir(layer),
        };
        let path = self.below_root(&path);
        item.findings
            .push(Finding::damage(Problem::Missing, "a layer", "none").at(path).needed_by(&self.users_of(layer)));
        if self.repair.is_some() {
            let outcome = match self.engine.layerfs.kind_of_new() {
                Ok(kind) => self.repair_form(kind, layer),
                Err(error) => Outcome::Stays { why: error.to_string() },
            };
            item.settle(&outcome);
        }
        item
    }

    /// Tries one way after another to make a form of a layer again, until it is sound.
    fn repair_form(&mut self, kind: BackendKind, layer: DiffId) -> Outcome {
        let mut whys = Vec::new();
        for way in repair::ways(self.engine, layer, &self.owners) {
            let Some(repair) = &self.repair else { break };
            match repair.remake_layer(kind, layer, &way) {
                Ok(None) => {}
                Ok(Some(how)) => match self.examine_form(kind, layer).first() {
                    None => {
                        tracing::info!(%layer, backend = %kind, how, "layer repaired");
                        return Outcome::Repaired { how };
                    }
                    Some(left) => whys.push(format!("{how}, and still found {}", left.found)),
                },
                Err(error) => whys.push(repair::told(&error)),
            }
        }
        if whys.is_empty() {
            whys.push("nothing says where it came from; load or pull its image again".to_owned());
        }
        Outcome::Stays { why: whys.join("; ") }
    }
}
