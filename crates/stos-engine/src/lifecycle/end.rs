// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kill and stop: containers are asked to end.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use stos_runtime::{ProcessRecord, RunState};
use stos_store::ContainerId;
use stos_sys::process::pidfd;

use super::{
    KILL, KILL_PATIENCE, MONITOR_GRACE, MONITOR_PATIENCE, RELEASE_PATIENCE, START_INTERVAL, clear_run_state, running,
    with_life_lock,
};
use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, state};
use crate::error::{Error, Result};
use crate::journal::Status;
use crate::restart::{end_for_good_or_warn, is_awaited, is_end};

/// Sends a signal to a container's first process. After one that ends it no restart policy starts it again, also where it is in the pause
/// before its next life.
pub fn kill(engine: &Engine, record: &ContainerRecord, signal: i32) -> Result<()> {
    let ends = is_end(record, signal);
    // Noted before it is looked at: it may be started again right now.
    let was_awaited = ends && is_awaited(engine, record)?;
    if was_awaited {
        end_for_good_or_warn(engine, &record.id);
    }
    let run = running(engine, &record.id)?;
    let init = run.as_ref().and_then(|run| run.init.as_ref()).map(ProcessRecord::open).transpose()?.flatten();
    if init.is_some() && ends && !was_awaited {
        end_for_good_or_warn(engine, &record.id);
    }
    match init {
        Some(fd) if pidfd::send_signal(fd.as_fd(), signal)? => {
            // A frozen process dies when it thaws.
            if let (KILL, Some(run)) = (signal, &run) {
                run.cgroup.thaw()?;
            }
            // 0 is no signal: it asks whether there is a process.
            if signal != 0 {
                engine.note(Status::Kill, record);
            }
            Ok(())
        }
        // It has ended, and stays so.
        _ if was_awaited && run.is_none_or(|run| run.init.is_some()) => Ok(()),
        _ => Err(not_running("kill", engine, record)?),
    }
}

pub(crate) fn not_running(action: &'static str, engine: &Engine, record: &ContainerRecord) -> Result<Error> {
    let state = match state(engine, &record.id)? {
        ContainerState::Running(run) if run.init.is_none() => "being started",
        ContainerState::Running(_) => "ending",
        other => other.status(),
    };
    Ok(Error::ContainerState {
        action,
        container: record.name.to_string(),
        state: state.to_owned(),
        expected: "running",
    })
}

/// Asks a container to end by its stop signal, and kills it when it has not within `patience`. One that does not run is
/// stopped already.
///
/// # Errors
/// [`Error::MonitorHangs`] where its process has ended and nobody writes that down; [`Error::WontDie`] where it has not.
pub fn stop(engine: &Engine, record: &ContainerRecord, patience: Duration) -> Result<()> {
    end_for_good_or_warn(engine, &record.id);
    let asked = ask_to_end(engine, record)?;
    finish_stop(engine, record, asked, Instant::now(), patience)
}

/// Sends a container its stop signal, and gives its run state as it was then; `None` where it does not run.
pub(crate) fn ask_to_end(engine: &Engine, record: &ContainerRecord) -> Result<Option<RunState>> {
    let Some(run) = running(engine, &record.id)? else { return Ok(None) };
    let Some(init) = &run.init else { return Err(not_running("stop", engine, record)?) };
    if let Some(init) = init.open()? {
        pidfd::send_signal(init.as_fd(), record.stop_signal)?;
    }
    Ok(Some(run))
}

/// Waits for a container that was asked to end at `since`, kills it when it has not within `patience` of that, and waits until its monitor is
/// done with it.
pub(crate) fn finish_stop(
    engine: &Engine,
    record: &ContainerRecord,
    asked: Option<RunState>,
    since: Instant,
    patience: Duration,
) -> Result<()> {
    let Some(run) = asked else {
        clear_lost_end_or_warn(engine, record);
        return Ok(());
    };
    if let Some(init) = run.init.as_ref().map(ProcessRecord::open).transpose()?.flatten()
        && !pidfd::wait_end(init.as_fd(), patience.saturating_sub(since.elapsed()))?
    {
        tracing::warn!(container = %record.name, seconds = patience.as_secs(), "it did not stop: killed");
        pidfd::send_signal(init.as_fd(), KILL)?;
        run.cgroup.thaw()?;
        if !pidfd::wait_end(init.as_fd(), KILL_PATIENCE)? {
            return Err(Error::WontDie { container: record.name.to_string(), seconds: KILL_PATIENCE.as_secs() });
        }
    }
    if monitor_is_done(engine, &record.id, &run)? {
        clear_lost_end_or_warn(engine, record);
        engine.note(Status::Stop, record);
        return Ok(());
    }
    let (container, seconds) = (record.name.to_string(), MONITOR_PATIENCE.as_secs());
    Err(Error::MonitorHangs { container, pid: run.creator.pid, seconds })
}

fn clear_lost_end_or_warn(engine: &Engine, record: &ContainerRecord) {
    if let Err(error) = clear_lost_end(engine, record) {
        tracing::warn!(container = %record.name, %error, "what its monitor has left stays");
    }
}

/// Clears away what a monitor has left that was killed, of a container that has ended. One that has done its work leaves nothing.
fn clear_lost_end(engine: &Engine, record: &ContainerRecord) -> Result<()> {
    if engine.run_state(&record.id)?.is_none() {
        return Ok(());
    }
    with_life_lock(engine, &record.id, |_| match state(engine, &record.id)? {
        ContainerState::Running(_) => Ok(()),
        _ => clear_run_state(engine, &record.id, Some(record)),
    })
}

/// Waits until the monitor of a container whose process has ended is done with it; `false` where that takes longer than
/// [`MONITOR_PATIENCE`].
pub(super) fn monitor_is_done(engine: &Engine, id: &ContainerId, run: &RunState) -> Result<bool> {
    let Some(monitor) = run.creator.open()? else { return Ok(true) };
    if pidfd::wait_end(monitor.as_fd(), MONITOR_GRACE)? {
        return Ok(true);
    }
    let now = Instant::now();
    let (enough, deadline) = (now + RELEASE_PATIENCE, now + (MONITOR_PATIENCE - MONITOR_GRACE));
    loop {
        match state(engine, id)? {
            // A monitor that has started it again is done with the life before.
            ContainerState::Running(now) if now.creator == run.creator && now.init == run.init => {}
            _ if is_released(engine, id, run)? || Instant::now() >= enough => return Ok(true),
            _ => {}
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        if pidfd::wait_end(monitor.as_fd(), START_INTERVAL)? {
            return Ok(true);
        }
    }
}

/// Tells whether nothing is left of a life that has ended: neither its place in ROOT nor a container that goes with it.
fn is_released(engine: &Engine, id: &ContainerId, run: &RunState) -> Result<bool> {
    let has_place = engine.run_state(id)?.is_some_and(|now| now.init == run.init);
    Ok(!has_place && crate::container::record(engine, id)?.is_none_or(|record| !record.auto_remove))
}
