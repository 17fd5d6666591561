// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers: their records, directories and names; and those that run on files which have been replaced.

use std::time::{Duration, SystemTime};

use stos_layerfs::{BackendKind, Problem};
use stos_runtime::RuntimeConfig;
use stos_store::{ContainerId, ContainerName, files};
use stos_sys::process::identity::{ticks_per_second, ticks_since_boot};

use crate::container::{self, ContainerRecord, ContainerState};
use crate::error::{Error, Result};
use crate::lifecycle::with_life_lock;

use super::Check;
use super::report::{Finding, Item, ObjectKind, Outcome};

impl Check<'_> {
    /// Looks at every container and every name.
    pub(super) fn examine_containers(&mut self) -> Result<()> {
        for id in self.engine.store.containers()? {
            let mut item = Item::new(ObjectKind::Container, &id, None);
            match container::record(self.engine, &id) {
                // Where its state cannot be read the examination says so.
                Ok(Some(record)) if record.auto_remove && container::is_gone(self.engine, &record).unwrap_or(false) => {
                    let told = self.tell_gone(&id);
                    item.findings.push(told.unwrap_or_else(|error| Finding::unexamined(error.to_string())));
                }
                Ok(Some(record)) if self.repair.is_some() => {
                    // Nobody starts or removes it meanwhile.
                    let looked = with_life_lock(self.engine, &id, |lock| {
                        Ok(lock.map(|_| self.examine_container(&id, &record)).unwrap_or_default())
                    });
                    item.findings = looked.unwrap_or_else(|error| vec![Finding::unexamined(error.to_string())]);
                }
                Ok(Some(record)) => item.findings = self.examine_container(&id, &record),
                Ok(None) => continue,
                Err(error) => {
                    let told = self.tell_unreadable(&id, error);
                    let finding = told.unwrap_or_else(|error| Finding::unexamined(error.to_string()));
                    item.findings.push(finding.at(self.below_root(&self.engine.record_path(&id))));
                }
            }
            // One that has gone meanwhile was not damaged.
            let is_removed = item.findings.iter().any(|finding| matches!(finding.outcome, Outcome::Repaired { .. }));
            if is_removed || self.engine.store.container_dir(&id).symlink_metadata().is_ok() {
                self.items.push(item);
            }
        }
        self.examine_names();
        Ok(())
    }

    /// Looks at all of a container whose record can be read. What fails for one part of it keeps no other from its turn.
    fn examine_container(&self, id: &ContainerId, record: &ContainerRecord) -> Vec<Finding> {
        let unexamined = |error: Error| Some(Finding::unexamined(error.to_string()));
        let mut findings = vec![self.examine_config(id)];
        findings.extend(["upper", "work"].map(|directory| self.examine_directory(id, directory)));
        findings.push(self.examine_name(id, &record.name).unwrap_or_else(unexamined));
        findings.push(self.stands_on_old_files(record).unwrap_or_else(unexamined));
        let mut findings: Vec<_> = findings.into_iter().flatten().collect();
        findings.iter_mut().for_each(|finding| finding.containers.push(record.name.to_string()));
        findings
    }

    /// Tells of a record that cannot be read. Nothing else has what it says.
    fn tell_unreadable(&self, id: &ContainerId, error: Error) -> Result<Finding> {
        Ok(match error {
            Error::RecordVersion { found, .. } => {
                Finding::note(format!("version {found}: another version of stos wrote it"))
            }
            // What is left of one that goes with its process is no container any more.
            Error::Store(stos_store::Error::Damaged { .. }) if self.should_have_gone(id)? => self.tell_gone(id)?,
            Error::Store(stos_store::Error::Damaged { reason, .. }) => {
                let problem = if self.engine.record_path(id).exists() { Problem::Unreadable } else { Problem::Missing };
                let why = format!(
                    "nothing else has what it says: its files are in {}/upper, `stos delete --force {}` removes the container",
                    self.below_root(&self.engine.store.container_dir(id)),
                    id.short()
                );
                self.stays(Finding::damage(problem, "the container's record", reason), &why)
            }
            Error::Store(error) => Finding::unread("the container's record", &error),
            other => Finding::unexamined(other.to_string()),
        })
    }

    /// Tells of a container that should have gone with its process: what is left of it is no damage.
    fn tell_gone(&self, id: &ContainerId) -> Result<Finding> {
        let mut note = Finding::note("it should have gone with its process: the next `stos list` removes it");
        if self.repair.is_some() && container::remove_gone(self.engine, id)? {
            note.outcome = Outcome::Repaired { how: "removed".to_owned() };
        }
        Ok(note)
    }

    fn should_have_gone(&self, id: &ContainerId) -> Result<bool> {
        let exit = self.engine.exit_path(id);
        let is_marked = exit.exists() && !matches!(files::read_json::<container::ExitRecord>(&exit), Ok(Some(_)));
        Ok(is_marked && !matches!(container::state(self.engine, id)?, ContainerState::Running(_)))
    }

    /// Says why damage stays, where a repair was asked for.
    fn stays(&self, finding: Finding, why: &str) -> Finding {
        match self.repair {
            Some(_) => Finding { outcome: Outcome::Stays { why: why.to_owned() }, ..finding },
            None => finding,
        }
    }

    fn examine_config(&self, id: &ContainerId) -> Option<Finding> {
        let path = self.engine.store.container_dir(id).join("config.json");
        let expected = "the container's runtime configuration";
        let finding = match std::fs::read(&path) {
            Ok(bytes) => match RuntimeConfig::from_json(&bytes) {
                Ok(_) => return None,
                Err(error) => Finding::damage(Problem::Unreadable, expected, error.to_string()),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Finding::damage(Problem::Missing, expected, "none")
            }
            Err(error) => {
                let finding = Finding::unread(expected, &stos_store::Error::io("read", &path)(error));
                return Some(finding.at(self.below_root(&path)));
            }
        };
        let why = "nothing else has all that it says: `stos commit` keeps the container's files, then delete it and create it anew";
        Some(self.stays(finding.at(self.below_root(&path)), why))
    }

    /// Looks for a directory of a container. What is empty when nothing runs can be made again.
    fn examine_directory(&self, id: &ContainerId, name: &str) -> Option<Finding> {
        let path = self.engine.store.container_dir(id).join(name);
        if path.is_dir() {
            return None;
        }
        let finding = Finding::damage(Problem::Missing, "a directory", "none").at(self.below_root(&path));
        if name == "upper" {
            let why = "it held what the container has changed: `stos delete` the container and create it anew";
            return Some(self.stays(finding, why));
        }
        let outcome = match self.repair.as_ref().map(|_| files::ensure_directory(&path)) {
            None => Outcome::Found,
            Some(Ok(())) => Outcome::Repaired { how: "made again".to_owned() },
            Some(Err(error)) => Outcome::Stays { why: error.to_string() },
        };
        Some(Finding { outcome, ..finding })
    }

    /// Looks whether a container's name leads to it.
    fn examine_name(&self, id: &ContainerId, name: &ContainerName) -> Result<Option<Finding>> {
        let store = &self.engine.store;
        let holder = store.container_named(name.as_str())?;
        let found = match &holder {
            Some(holder) if holder == id => return Ok(None),
            Some(other) => format!("that of container {}", other.short()),
            None => "none".to_owned(),
        };
        let problem = if holder.is_some() { Problem::Altered } else { Problem::Missing };
        let path = self.below_root(&store.names_dir().join(name.as_str()));
        let mut finding = Finding::damage(problem, "the container's name", found).at(path);
        if self.repair.is_some() {
            let given = self.give_name_back(name, id, holder.as_ref());
            finding.outcome = given.unwrap_or_else(|error| Outcome::Stays { why: error.to_string() });
        }
        Ok(Some(finding))
    }

    fn give_name_back(&self, name: &ContainerName, id: &ContainerId, holder: Option<&ContainerId>) -> Result<Outcome> {
        let store = &self.engine.store;
        if let Some(holder) = holder {
            if container::record(self.engine, holder)?.is_none_or(|other| other.name == *name) {
                let why =
                    format!("container {} has the same name by its own record: delete one of them", holder.short());
                return Ok(Outcome::Stays { why });
            }
            store.release_name(name, holder)?;
        } else if store.names_dir().join(name.as_str()).symlink_metadata().is_ok() {
            // It leads nowhere.
            store.sweep_names()?;
        }
        store.ensure_name(name, id)?;
        Ok(match store.container_named(name.as_str())? {
            Some(found) if found == *id => Outcome::Repaired { how: "given back".to_owned() },
            _ => Outcome::Stays { why: "another container has taken it".to_owned() },
        })
    }

    /// Tells of a container that runs on files which have been replaced since it was started. What it sees is sound: the old files
    /// are there as long as it runs.
    fn stands_on_old_files(&self, record: &ContainerRecord) -> Result<Option<Finding>> {
        let ContainerState::Running(run) = container::state(self.engine, &record.id)? else { return Ok(None) };
        let Some(init) = &run.init else { return Ok(None) };
        let layerfs = &self.engine.layerfs;
        let is_old = match record.backend {
            BackendKind::Erofs => layerfs.erofs().was_replaced_since(record.chain, init.start_time)?,
            BackendKind::Dirs => {
                let used: Vec<_> = record.layers.iter().map(|layer| layer.hex()).chain([record.chain.hex()]).collect();
                let started = time_of(init.start_time);
                let replaced = layerfs.dirs().replaced()?;
                replaced.iter().any(|old| used.contains(&old.digits) && old.since > started)
            }
        };
        let text = "it runs on files that have been replaced since it was started: `stos stop` and `stos start` put it on the new ones";
        Ok(is_old.then(|| Finding::note(text)))
    }

    /// Looks for names that lead nowhere. A crash leaves them, and they keep nobody from taking the name: no damage.
    fn examine_names(&mut self) {
        let store = &self.engine.store;
        let names = match store.dangling_names() {
            Ok(names) => names,
            Err(error) => {
                let finding = Finding::unexamined(error.to_string()).at(self.below_root(&store.names_dir()));
                self.items.push(Item { findings: vec![finding], ..Item::new(ObjectKind::Name, "names", None) });
                return;
            }
        };
        let swept = (self.repair.is_some() && !names.is_empty()).then(|| store.sweep_names());
        for name in names {
            let path = store.names_dir().join(&name);
            let mut finding = Finding::note("it leads to no container").at(self.below_root(&path));
            finding.outcome = match &swept {
                None => Outcome::Found,
                Some(Err(error)) if path.symlink_metadata().is_ok() => Outcome::Stays { why: error.to_string() },
                Some(_) => Outcome::Repaired { how: "removed".to_owned() },
            };
            self.items.push(Item { findings: vec![finding], ..Item::new(ObjectKind::Name, &name, None) });
        }
    }
}

/// Gives the time of day at which a process was started, by its clock ticks since the boot.
fn time_of(start_time: u64) -> SystemTime {
    let milliseconds = ticks_since_boot().saturating_sub(start_time) * 1000 / ticks_per_second();
    SystemTime::now() - Duration::from_millis(milliseconds)
}
