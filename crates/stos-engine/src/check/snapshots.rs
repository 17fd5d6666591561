// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Snapshots: what containerd keeps here. Their records say which layers they need; nothing else does.

use stos_layerfs::Problem;

use crate::error::Result;

use super::Check;
use super::report::{Finding, Item, ObjectKind, Outcome};

impl Check<'_> {
    /// Looks at the records of all snapshots, and reads what they need.
    pub(super) fn examine_snapshots(&mut self) -> Result<()> {
        for (number, record) in self.engine.store.snapshots()? {
            let mut item = Item::new(ObjectKind::Snapshot, number, None);
            match record {
                Ok(record) => self.snapshot_roots.add_layers(&record.layers),
                Err(error) => {
                    let finding = match error {
                        stos_store::Error::Damaged { reason, .. } => {
                            Finding::damage(Problem::Unreadable, "the snapshot's record", reason)
                        }
                        error => Finding::unread("the snapshot's record", &error),
                    };
                    item.findings.push(self.snapshot_stays(number, finding));
                    self.has_unread_owners = true;
                }
            }
            self.items.push(item);
        }
        // Of what only snapshots need nobody may say that nothing does.
        self.has_unread_owners |= !self.snapshot_roots.layers.is_empty();
        Ok(())
    }

    fn snapshot_stays(&self, number: u64, finding: Finding) -> Finding {
        let dir = self.engine.store.snapshot_dir(number);
        let finding = finding.at(self.below_root(&dir.join("snapshot.json")));
        if self.repair.is_none() {
            return finding;
        }
        let why = format!(
            "nothing else has what it says: remove {} while no snapshotter runs, then what containerd kept in it",
            dir.display()
        );
        Finding { outcome: Outcome::Stays { why }, ..finding }
    }
}
