// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods: their records and names; and whether those are there that containers are of.

use std::collections::BTreeMap;

use stos_layerfs::Problem;
use stos_store::{NameHolder, PodId};

use crate::container;
use crate::error::{Error, Result};
use crate::pods::{self, PodRecord};

use super::Check;
use super::report::{Finding, Item, ObjectKind, Outcome};

impl Check<'_> {
    /// Looks at every pod, and at every one that a container is of.
    pub(super) fn examine_pods(&mut self) -> Result<()> {
        let mut pods: BTreeMap<PodId, Vec<String>> =
            self.engine.store.pods()?.into_iter().map(|id| (id, Vec::new())).collect();
        for id in self.engine.store.containers()? {
            // One that cannot be read has been told of.
            let Ok(Some(record)) = container::record(self.engine, &id) else { continue };
            if let Some(membership) = record.pod {
                pods.entry(membership.id).or_default().push(record.name.to_string());
            }
        }
        for (id, containers) in pods {
            let finding = self.examine_pod(&id);
            let mut item = Item::new(ObjectKind::Pod, &id, None);
            item.findings.extend(finding.map(|finding| Finding { containers, ..finding }));
            self.items.push(item);
        }
        Ok(())
    }

    fn examine_pod(&self, id: &PodId) -> Option<Finding> {
        let dir = self.engine.store.pod_dir(id);
        let (finding, path, why) = match pods::record(self.engine, id) {
            Ok(Some(record)) => return self.examine_pod_name(&record),
            Ok(None) => {
                let finding = Finding::damage(Problem::Missing, "a pod", "none");
                let why = "nothing else has what it says: delete its containers, and create them anew".to_owned();
                (finding, dir, why)
            }
            Err(Error::RecordVersion { found, .. }) => {
                let text = format!("version {found}: another version of stos wrote it");
                return Some(Finding::note(text).at(self.below_root(&dir.join("pod.json"))));
            }
            Err(error) => {
                let finding = match error {
                    Error::Store(stos_store::Error::Damaged { reason, .. }) => {
                        Finding::damage(Problem::Unreadable, "the pod's record", reason)
                    }
                    Error::Store(error) => Finding::unread("the pod's record", &error),
                    other => Finding::unexamined(other.to_string()),
                };
                let why = format!(
                    "nothing else has what it says: `stos pod rm --force {}` removes the pod with its containers",
                    id.short()
                );
                (finding, dir.join("pod.json"), why)
            }
        };
        let outcome = if self.repair.is_some() { Outcome::Stays { why } } else { Outcome::Found };
        Some(Finding { outcome, ..finding.at(self.below_root(&path)) })
    }

    /// Looks whether a pod's name leads to it.
    fn examine_pod_name(&self, pod: &PodRecord) -> Option<Finding> {
        let store = &self.engine.store;
        let holder = match store.holder_of(pod.name.as_str()) {
            Ok(Some(NameHolder::Pod(id))) if id == pod.id => return None,
            Ok(holder) => holder,
            Err(error) => return Some(Finding::unexamined(error.to_string())),
        };
        let (problem, found) = match &holder {
            Some(NameHolder::Pod(id)) => (Problem::Altered, format!("that of pod {}", id.short())),
            Some(NameHolder::Container(id)) => (Problem::Altered, format!("that of container {}", id.short())),
            None => (Problem::Missing, "none".to_owned()),
        };
        let path = self.below_root(&store.names_dir().join(pod.name.as_str()));
        let finding = Finding::damage(problem, "the pod's name", found).at(path);
        let outcome = match (&self.repair, holder) {
            (None, _) => Outcome::Found,
            (Some(_), Some(_)) => {
                Outcome::Stays { why: "another has the name: remove that, or the pod by its id".to_owned() }
            }
            (Some(_), None) => match store.ensure_name(&pod.name, pod.id.digits()) {
                Ok(()) => Outcome::Repaired { how: "given back".to_owned() },
                Err(error) => Outcome::Stays { why: error.to_string() },
            },
        };
        Some(Finding { outcome, ..finding })
    }
}
