// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Volumes: their records and directories; and whether those are there that containers have. What is in them is nobody's to judge.

use std::collections::BTreeMap;

use stos_layerfs::Problem;
use stos_store::VolumeName;

use crate::container;
use crate::error::Result;

use super::Check;
use super::report::{Finding, Item, ObjectKind, Outcome};

impl Check<'_> {
    /// Looks at every volume that is there, or that a container has.
    pub(super) fn examine_volumes(&mut self) -> Result<()> {
        let mut volumes: BTreeMap<VolumeName, Vec<String>> =
            self.engine.store.volumes()?.into_iter().map(|name| (name, Vec::new())).collect();
        for id in self.engine.store.containers()? {
            // One that cannot be read has been told of.
            let Ok(Some(record)) = container::record(self.engine, &id) else { continue };
            for used in &record.volumes {
                volumes.entry(used.name.clone()).or_default().push(record.name.to_string());
            }
        }
        for (name, containers) in volumes {
            let finding = self.examine_volume(&name);
            let mut item = Item::new(ObjectKind::Volume, &name, None);
            item.findings.extend(finding.map(|finding| Finding { containers, ..finding }));
            self.items.push(item);
        }
        Ok(())
    }

    fn examine_volume(&self, name: &VolumeName) -> Option<Finding> {
        let store = &self.engine.store;
        let dir = store.volume_dir(name);
        let data = store.volume_data(name);
        let (finding, path, why) = match store.volume(name) {
            Ok(Some(_)) if data.is_dir() => return None,
            Ok(Some(_)) => {
                let finding = Finding::damage(Problem::Missing, "the volume's files", "none");
                (finding, data, format!("nothing else has them: `stos volume rm --force {name}`, and make it anew"))
            }
            Ok(None) => {
                let finding = Finding::damage(Problem::Missing, "a volume", "none");
                (
                    finding,
                    dir,
                    format!("nothing else has its files: `stos volume create {name}` makes it anew, and empty"),
                )
            }
            Err(error) => {
                let finding = match error {
                    stos_store::Error::Damaged { reason, .. } => {
                        Finding::damage(Problem::Unreadable, "the volume's record", reason)
                    }
                    error => Finding::unread("the volume's record", &error),
                };
                let why = format!(
                    "nothing else has what it says: its files are in {}, `stos volume rm {name}` removes them",
                    self.below_root(&data)
                );
                (finding, dir.join("volume.json"), why)
            }
        };
        let outcome = if self.repair.is_some() { Outcome::Stays { why } } else { Outcome::Found };
        Some(Finding { outcome, ..finding.at(self.below_root(&path)) })
    }
}
