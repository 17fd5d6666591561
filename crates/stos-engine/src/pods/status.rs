// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a pod does, and who is in it.
//!
//! podman tells what a pod does by its containers, the infra container among them (containers/podman, `libpod/pod_status.go`). Here what is
//! shared stands for that one: it runs while it is there.

use std::collections::BTreeMap;
use std::fmt;

use stos_store::PodId;

use super::shared::{self, Up};
use super::{PodRecord, list};
use crate::Engine;
use crate::container::{self, ContainerRecord, ContainerState};
use crate::error::Result;
use crate::restart::{is_still_awaited, restarts};

/// A container of a pod, and what it does.
#[derive(Debug, Clone)]
pub struct Member {
    /// The container.
    pub record: ContainerRecord,
    /// What it does.
    pub state: ContainerState,
    /// Whether its monitor may start it again, also while it has ended.
    pub is_awaited: bool,
    /// How often its monitor has started it again since somebody started it.
    pub restarts: u32,
}

/// What a pod does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodStatus {
    /// Nothing of it was ever started.
    Created,
    /// All of it runs.
    Running,
    /// Some of it runs.
    Degraded,
    /// All of it is paused.
    Paused,
    /// All of it has ended.
    Exited,
    /// Some of it has ended, and nothing runs.
    Stopped,
}

impl PodStatus {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Created, Self::Running, Self::Degraded, Self::Paused, Self::Exited, Self::Stopped];

    /// podman's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Running => "Running",
            Self::Degraded => "Degraded",
            Self::Paused => "Paused",
            Self::Exited => "Exited",
            Self::Stopped => "Stopped",
        }
    }

    /// podman's rules.
    fn of(parts: &[Part]) -> Self {
        let count = |part| parts.iter().filter(|other| **other == part).count();
        match parts.len() {
            0 => Self::Created,
            all if count(Part::Running) == all => Self::Running,
            _ if count(Part::Running) > 0 => Self::Degraded,
            all if count(Part::Paused) == all => Self::Paused,
            all if count(Part::Ended) == all => Self::Exited,
            _ if count(Part::Ended) > 0 => Self::Stopped,
            _ => Self::Created,
        }
    }
}

impl fmt::Display for PodStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one part of a pod does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Created,
    Running,
    Paused,
    Ended,
}

impl Member {
    fn part(&self) -> Part {
        match &self.state {
            ContainerState::Created => Part::Created,
            ContainerState::Running(run) if run.cgroup.is_frozen() => Part::Paused,
            ContainerState::Running(_) => Part::Running,
            // It is in the pause before its next life.
            ContainerState::Exited(_) | ContainerState::Stopped if self.is_awaited => Part::Running,
            ContainerState::Exited(_) | ContainerState::Stopped => Part::Ended,
        }
    }

    /// Tells whether it runs, frozen or not.
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running(_))
    }

    /// Tells whether it runs, or will again by itself after a pause.
    pub fn is_at_work(&self) -> bool {
        self.is_running() || self.is_awaited
    }
}

/// A pod as it is now.
#[derive(Debug, Clone)]
pub struct PodView {
    /// What is recorded of it.
    pub record: PodRecord,
    /// Its containers, the oldest first.
    pub members: Vec<Member>,
    /// What its containers share, where that is there.
    pub up: Option<Up>,
    was_started: bool,
}

impl PodView {
    /// Tells what the pod does.
    pub fn status(&self) -> PodStatus {
        let mut parts: Vec<_> = self.members.iter().map(Member::part).collect();
        if self.record.infra {
            parts.push(self.own_part(&parts));
        }
        PodStatus::of(&parts)
    }

    /// What stands for the infra container. Nothing of it needs to be frozen: it is with the others.
    fn own_part(&self, others: &[Part]) -> Part {
        let are_paused = others.contains(&Part::Paused) && !others.contains(&Part::Running);
        match (&self.up, self.was_started) {
            (Some(_), _) if are_paused => Part::Paused,
            (Some(_), _) => Part::Running,
            (None, true) => Part::Ended,
            (None, false) => Part::Created,
        }
    }

    /// The names of those of its containers that run, or will again.
    pub(super) fn running(&self) -> Vec<String> {
        self.members.iter().filter(|member| member.is_at_work()).map(|member| member.record.name.to_string()).collect()
    }
}

/// Gives the containers of all pods. One that cannot be read is warned of, and is nobody's.
fn members_of_all(engine: &Engine) -> Result<BTreeMap<PodId, Vec<Member>>> {
    let mut all: BTreeMap<PodId, Vec<Member>> = BTreeMap::new();
    for (id, record) in container::list(engine)? {
        let found = record.and_then(|record| {
            let Some(pod) = record.pod.as_ref().map(|membership| membership.id.clone()) else { return Ok(None) };
            let state = container::state(engine, &id)?;
            let known = restarts(engine, &id)?.unwrap_or_default();
            let is_awaited = is_still_awaited(&record, &known)?;
            Ok(Some((pod, Member { record, state, is_awaited, restarts: known.count })))
        });
        match found {
            Ok(Some((pod, member))) => all.entry(pod).or_default().push(member),
            Ok(None) => {}
            Err(error) => tracing::warn!(container = %id, %error, "it cannot be read: of which pod it is is unknown"),
        }
    }
    all.values_mut().for_each(|members| members.sort_by(|a, b| a.record.created.cmp(&b.record.created)));
    Ok(all)
}

/// Gives the containers of a pod, the oldest first.
pub(super) fn members(engine: &Engine, id: &PodId) -> Result<Vec<Member>> {
    Ok(members_of_all(engine)?.remove(id).unwrap_or_default())
}

pub(super) fn has_running_members(members: &[Member]) -> bool {
    members.iter().any(Member::is_at_work)
}

fn view(engine: &Engine, record: PodRecord, members: Vec<Member>) -> Result<PodView> {
    let (up, was_started) = (shared::up(engine, &record.id)?, shared::was_started(engine, &record.id));
    Ok(PodView { record, members, up, was_started })
}

/// Tells what a pod does.
pub fn look(engine: &Engine, record: PodRecord) -> Result<PodView> {
    let members = members(engine, &record.id)?;
    view(engine, record, members)
}

/// Tells what all pods do, sorted by id. One whose record cannot be read is warned of and left out.
pub fn look_at_all(engine: &Engine) -> Result<Vec<PodView>> {
    let mut members = members_of_all(engine)?;
    let mut views = Vec::new();
    for (id, record) in list(engine)? {
        match record {
            Ok(record) => views.push(view(engine, record, members.remove(&id).unwrap_or_default())?),
            Err(error) => tracing::warn!(pod = %id, %error, "its record cannot be read"),
        }
    }
    Ok(views)
}

#[cfg(test)]
mod tests {
    use super::Part::{Created, Ended, Paused, Running};
    use super::*;

    #[test]
    fn a_status_is_podman_s() {
        for (parts, expected) in [
            (&[][..], PodStatus::Created),
            (&[Created], PodStatus::Created),
            (&[Created, Created], PodStatus::Created),
            (&[Running, Running], PodStatus::Running),
            (&[Running, Ended], PodStatus::Degraded),
            (&[Running, Created], PodStatus::Degraded),
            (&[Running, Paused], PodStatus::Degraded),
            (&[Paused, Paused], PodStatus::Paused),
            (&[Ended, Ended], PodStatus::Exited),
            (&[Ended, Created], PodStatus::Stopped),
            (&[Ended, Paused], PodStatus::Stopped),
            (&[Paused, Created], PodStatus::Created),
        ] {
            assert_eq!(PodStatus::of(parts), expected, "{parts:?}");
        }
        assert!(PodStatus::ALL.iter().all(|status| status.to_string() == status.name()));
    }
}
