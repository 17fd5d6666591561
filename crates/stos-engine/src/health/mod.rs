// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a container does what it is for: its health checks, and what they have found.
//!
//! | module | what it is |
//! |---|---|
//! | `probe` | one check, made by a process of its own |
//! | `checker` | when the monitor makes one, and what it does with what was found |
//! | `action` | what the monitor does with a container that has become unhealthy |
//! | `record` | `health.json`: the status, and the last checks |
//!
//! **Who checks.** The container's monitor: the first time when the container has lived for a moment, then an interval after the end of
//! each check; and `stos healthcheck run` whenever somebody asks. Both note what they find under the container's lock.
//!
//! **How.** A check is a further process of the container, as `exec` makes one: its cgroups, namespaces, user and confinement. It is made by
//! a process between, for the monitor must neither wait for a container's filesystem that hangs nor for one that is
//! frozen. It lies in a cgroup of its own below the container's: when its time is over it is killed with all that it has started.
//!
//! **What is told.** `starting` from each start on; `healthy` after a check that has succeeded; `unhealthy` after so many failures in a row
//! as `retries` says, but not of those in the start period. Of a container that does not run it is `stopped`. A status is only as true
//! as there is somebody who checks: where the monitor was killed and the container lives on it is `unknown`, whatever was
//! found last.

pub(crate) mod action;
pub(crate) mod checker;
pub(crate) mod probe;
pub mod record;

use std::time::Duration;

use rustix::process::Signal;
use stos_runtime::RunState;
use stos_spec::Healthcheck;

pub use self::record::{Health, HealthLog, HealthStatus, health};
use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, state};
use crate::error::{Error, Result};
use crate::journal::Status;
use crate::lifecycle;
use crate::service::OnFailure;
use probe::Probe;

/// A time of a [`Healthcheck`], which are nanoseconds.
pub(crate) fn time(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

/// Makes a check at once, and notes what it has found. Returns when it has ended, and tells whether it has succeeded. Where no check is made by
/// itself, and the container has become unhealthy by this one, what is to be done then is done.
///
/// The caller must be single-threaded and run from a protected binary.
///
/// # Errors
/// [`Error::NoHealthcheck`] where there is none; [`Error::ContainerState`] for a container that does not run.
pub fn run(engine: &Engine, record: &ContainerRecord) -> Result<bool> {
    let Some(check) = &record.service.healthcheck else {
        return Err(Error::NoHealthcheck { container: record.name.to_string() });
    };
    let run = running(engine, record)?;
    let mut probe = Probe::start(engine, record, &run, check)?;
    let found = probe.wait()?;
    let succeeded = found.exit_code == 0;
    let noted = record::note(engine, record, &run, check, found)?;
    let has_become_unhealthy =
        noted.is_some_and(|noted| noted.status == HealthStatus::Unhealthy && noted.before != HealthStatus::Unhealthy);
    // A monitor that checks too finds it unhealthy the next time.
    if has_become_unhealthy && check.interval == 0 {
        act(engine, record)?;
    }
    Ok(succeeded)
}

/// Does with a container that has become unhealthy what its monitor would.
fn act(engine: &Engine, record: &ContainerRecord) -> Result<()> {
    let action = record.service.on_failure;
    if action != OnFailure::None {
        tracing::warn!(container = %record.name, action = action.name(), "it has become unhealthy");
    }
    let stop = || lifecycle::stop(engine, record, Duration::from_secs(record.service.stop_timeout()));
    match action {
        OnFailure::None => Ok(()),
        OnFailure::Kill => lifecycle::kill(engine, record, Signal::KILL.as_raw()),
        OnFailure::Stop => stop(),
        OnFailure::Restart => {
            stop()?;
            lifecycle::start_detached(engine, record)?;
            engine.note(Status::Restart, record);
            Ok(())
        }
    }
}

fn running(engine: &Engine, record: &ContainerRecord) -> Result<RunState> {
    let not_running = |found: &str| Error::ContainerState {
        action: "check the health of",
        container: record.name.to_string(),
        state: found.to_owned(),
        expected: "running",
    };
    match state(engine, &record.id)? {
        ContainerState::Running(run) if run.init.is_none() => Err(not_running("being started")),
        ContainerState::Running(run) if run.cgroup.is_frozen() => Err(not_running("paused")),
        ContainerState::Running(run) => Ok(*run),
        other => Err(not_running(other.status())),
    }
}

/// Whether failures do not count yet.
fn is_in_start_period(check: &Healthcheck, started: jiff::Timestamp, now: jiff::Timestamp) -> bool {
    let since = Duration::try_from(now.duration_since(started)).unwrap_or_default();
    check.start_period > 0 && since < time(check.start_period)
}
