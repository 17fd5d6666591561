// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Start, stop, kill, pause, remove: what is done to a pod is done to each of its containers, and to what they share.
//!
//! What fails for one container keeps no other from its turn.

use std::time::{Duration, Instant};

use stos_store::PodId;

use super::shared::{ensure_up, lower, lower_if_idle};
use super::status::{Member, PodStatus, look, look_at_all, members};
use super::{PodError, PodRecord, find_id, locked, not_found, record};
use crate::Engine;
use crate::container::{ContainerRecord, run_id};
use crate::error::{Error, Result};
use crate::journal::Status;
use crate::lifecycle;
use crate::restart::{end_for_good_or_warn, is_end};

/// How often a pod's containers are deleted that somebody starts meanwhile.
const TRIES: usize = 10;

/// What came of it for several containers, or pods.
#[derive(Debug, Default)]
pub struct Attempts {
    /// Why some failed; each names its own.
    pub failed: Vec<Error>,
}

impl Attempts {
    fn each(members: Vec<Member>, mut act: impl FnMut(&Member) -> Result<()>) -> Self {
        Self { failed: members.iter().filter_map(|member| act(member).err()).collect() }
    }
}

/// Makes what the containers of a pod share, and starts all that do not run.
///
/// The caller must be single-threaded and run from a protected binary.
///
/// # Errors
/// Where what is shared cannot be made: nothing is started then.
pub fn start(engine: &Engine, pod: &PodRecord) -> Result<Attempts> {
    let (lock, pod) = locked(engine, &pod.id)?;
    ensure_up(engine, &pod, &lock)?;
    drop(lock);
    Ok(Attempts::each(members(engine, &pod.id)?, |member| match member.is_running() {
        true => Ok(()),
        false => lifecycle::start_detached(engine, &member.record),
    }))
}

/// Asks all containers of a pod to end, kills each that has not within its `patience`, and takes down what they share.
///
/// # Errors
/// Where what is shared cannot be taken down.
pub fn stop(engine: &Engine, pod: &PodRecord, patience: impl Fn(&ContainerRecord) -> Duration) -> Result<Attempts> {
    let members = members(engine, &pod.id)?;
    // Of all, and before any is asked: else those that end first are started again while the others have their time.
    members.iter().for_each(|member| end_for_good_or_warn(engine, &member.record.id));
    // All are asked at once: each has all the time.
    let asked: Vec<_> =
        members.iter().map(|member| (lifecycle::ask_to_end(engine, &member.record), Instant::now())).collect();
    let stopped = members.iter().zip(asked).map(|(member, (asked, since))| {
        // Of one that has ended it clears away what a killed monitor has left.
        lifecycle::finish_stop(engine, &member.record, asked?, since, patience(&member.record))
    });
    let attempts = Attempts { failed: stopped.filter_map(Result::err).collect() };
    let (_lock, pod) = locked(engine, &pod.id)?;
    lower_if_idle(engine, &pod.id)?;
    Ok(attempts)
}

/// Sends a signal to the first process of each container that runs. One that ends them ends the wait for a next life too.
pub fn kill(engine: &Engine, pod: &PodRecord, signal: i32) -> Result<Attempts> {
    let is_meant = |member: &Member| member.is_running() || (member.is_awaited && is_end(&member.record, signal));
    let running = members(engine, &pod.id)?.into_iter().filter(is_meant).collect();
    Ok(Attempts::each(running, |member| lifecycle::kill(engine, &member.record, signal)))
}

/// Freezes each container that runs.
pub fn pause(engine: &Engine, pod: &PodRecord) -> Result<Attempts> {
    change(engine, pod, "running", |member| {
        stos_runtime::lifecycle::pause(&engine.run_states(), &run_id(&member.record.id))?;
        engine.note(Status::Pause, &member.record);
        Ok(())
    })
}

/// Lets each frozen container go on.
pub fn unpause(engine: &Engine, pod: &PodRecord) -> Result<Attempts> {
    change(engine, pod, "paused", |member| {
        stos_runtime::lifecycle::resume(&engine.run_states(), &run_id(&member.record.id))?;
        engine.note(Status::Unpause, &member.record);
        Ok(())
    })
}

/// Does it to each container that does `status`; one that does something else is none of it, as with podman.
fn change(engine: &Engine, pod: &PodRecord, status: &str, act: impl FnMut(&Member) -> Result<()>) -> Result<Attempts> {
    let members = members(engine, &pod.id)?.into_iter();
    Ok(Attempts::each(members.filter(|member| member.state.status() == status).collect(), act))
}

/// Removes a pod with all its containers, and the volumes that were made for them and named by nobody. Where some run that is refused, or
/// with `force` they are killed first; asked to end before, where there is a `patience`.
///
/// # Errors
/// [`PodError::Running`]; whatever else it is, what is left of the pod can be removed again.
pub fn remove(engine: &Engine, pod: &PodRecord, force: bool, patience: Option<Duration>) -> Result<()> {
    let view = look(engine, pod.clone())?;
    let running = view.running();
    if !running.is_empty() && !force {
        return Err(PodError::Running { pod: pod.name.to_string(), containers: running }.into());
    }
    if let (Some(patience), false) = (patience, running.is_empty()) {
        stop(engine, pod, |_| patience)?;
    }
    // Not under the pod's lock: who starts one of them may wait for that.
    for _ in 0..TRIES {
        for member in members(engine, &pod.id)? {
            match lifecycle::delete_with_volumes(engine, &member.record, force) {
                Ok(()) | Err(Error::NoSuchContainer(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let (lock, pod) = locked(engine, &pod.id)?;
        let left = members(engine, &pod.id)?;
        if left.is_empty() {
            lower(engine, &pod.id)?;
            engine.store.take_pod(&pod.id, Some(&pod.name), &lock)?;
            return Ok(());
        }
        if !force {
            let containers = left.iter().map(|member| member.record.name.to_string()).collect();
            return Err(PodError::Running { pod: pod.name.to_string(), containers }.into());
        }
    }
    let running = members(engine, &pod.id)?.iter().map(|member| member.record.name.to_string()).collect();
    Err(PodError::Running { pod: pod.name.to_string(), containers: running }.into())
}

/// Removes, by force, a pod whose record is damaged, with its containers, and gives its id. `query` is what finds it.
///
/// # Errors
/// What [`super::find`] says where the record is not damaged.
pub fn remove_damaged(engine: &Engine, query: &str) -> Result<PodId> {
    let id = find_id(engine, query)?;
    match record(engine, &id) {
        Err(Error::Store(stos_store::Error::Damaged { .. })) => {}
        Ok(Some(record)) => return remove(engine, &record, true, None).map(|()| id),
        Ok(None) => return Err(not_found(query)),
        Err(error) => return Err(error),
    }
    for member in members(engine, &id)? {
        lifecycle::delete_with_volumes(engine, &member.record, true)?;
    }
    let lock = engine.store.lock_pod(&id)?.ok_or_else(|| not_found(query))?;
    lower(engine, &id)?;
    engine.store.take_pod(&id, None, &lock)?;
    Ok(id)
}

/// Removes the pods that have ended, with their containers, and gives their ids; and what could not be removed. podman keeps those that were
/// never started.
pub fn prune(engine: &Engine, fits: impl Fn(&PodRecord) -> bool) -> Result<(Vec<PodId>, Attempts)> {
    let (mut removed, mut attempts) = (Vec::new(), Attempts::default());
    for view in look_at_all(engine)? {
        if !matches!(view.status(), PodStatus::Exited | PodStatus::Stopped) || !fits(&view.record) {
            continue;
        }
        match remove(engine, &view.record, false, None) {
            Ok(()) => removed.push(view.record.id),
            // Somebody has started it, or removed it, meanwhile.
            Err(Error::Pod(PodError::Running { .. } | PodError::NotFound(_)) | Error::ContainerState { .. }) => {}
            Err(error) => attempts.failed.push(error),
        }
    }
    Ok((removed, attempts))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{engine, pod};
    use super::super::{find, record};
    use super::*;

    #[test]
    fn a_pod_without_containers_goes_with_its_name() {
        let (_dir, engine) = engine();
        let web = pod(&engine, "web");
        assert!(pause(&engine, &web).unwrap().failed.is_empty());
        remove(&engine, &web, false, None).unwrap();
        assert!(matches!(find(&engine, "web"), Err(Error::Pod(PodError::NotFound(_)))));
        assert!(remove(&engine, &web, false, None).is_err());
        pod(&engine, "web");
    }

    #[test]
    fn a_pod_that_was_never_started_is_not_pruned() {
        let (_dir, engine) = engine();
        let (web, ended) = (pod(&engine, "web"), pod(&engine, "ended"));
        std::fs::write(engine.store().pod_dir(&ended.id).join("started"), "").unwrap();
        assert_eq!(look(&engine, ended.clone()).unwrap().status(), PodStatus::Exited);
        assert!(prune(&engine, |_| false).unwrap().0.is_empty());
        let (removed, attempts) = prune(&engine, |_| true).unwrap();
        assert_eq!((removed, attempts.failed.len()), (vec![ended.id], 0));
        assert!(record(&engine, &web.id).unwrap().is_some());
    }

    #[test]
    fn a_damaged_pod_goes_by_force() {
        let (_dir, engine) = engine();
        let web = pod(&engine, "web");
        std::fs::write(engine.store().pod_dir(&web.id).join("pod.json"), "{").unwrap();
        assert_eq!(remove_damaged(&engine, "web").unwrap(), web.id);
        assert!(engine.store().pods().unwrap().is_empty());
        assert_eq!(engine.store().holder_of("web").unwrap(), None);
    }
}
