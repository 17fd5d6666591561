// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's restart policy changes; its monitor reads it when the container has ended.

use super::RestartPolicy;
use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, record, state};
use crate::error::{Error, Result};
use crate::journal::Status;
use crate::lifecycle::with_life_lock;
use crate::restart::note_stop;

/// Gives a container another restart policy. It may run meanwhile.
///
/// # Errors
/// [`Error::Option`] for one that goes with its process: its filesystem is not made for a second life.
pub fn update_restart_policy(engine: &Engine, container: &ContainerRecord, policy: RestartPolicy) -> Result<()> {
    if container.auto_remove && policy != container.service.restart {
        let reason =
            "the container goes with its process (--rm), and keeps the policy that it was made with".to_owned();
        return Err(Error::Option { option: "--restart", value: policy.to_string(), reason });
    }
    with_life_lock(engine, &container.id, |lock| {
        let found = if lock.is_some() { record(engine, &container.id)? } else { None };
        let mut current = found.ok_or_else(|| Error::NoSuchContainer(container.name.to_string()))?;
        // Whether somebody had stopped it was not noted without a policy. Nobody wants what had ended before to be started by the new one.
        let has_ended = || {
            Ok::<_, Error>(matches!(state(engine, &current.id)?, ContainerState::Exited(_) | ContainerState::Stopped))
        };
        if !current.service.may_restart() && policy != RestartPolicy::No && has_ended()? {
            note_stop(engine, &current)?;
        }
        current.service.restart = policy;
        engine.replace_record(&current)?;
        engine.note(Status::Update, &current);
        Ok(())
    })
}
