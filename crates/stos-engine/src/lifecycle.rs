// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Start, wait, stop, kill, delete: what is done to containers that exist.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use stos_runtime::{ProcessRecord, RunState};
use stos_store::ContainerId;
use stos_sys::SysError;
use stos_sys::process::clone::{CloneOptions, Cloned, clone_process, exit_now};
use stos_sys::process::pidfd;

use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, ExitRecord, run_id, state};
use crate::error::{Error, Result};
use crate::monitor::{Attachment, run_container};

const KILL: i32 = 9;
/// How long a process may take to go after SIGKILL: longer only in an uninterruptible wait.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait between two looks at a container that is being started.
const START_INTERVAL: Duration = Duration::from_millis(5);

/// What a detached monitor tells the command that started it.
#[derive(Serialize, Deserialize)]
enum Report {
    Started,
    Failed { message: String, exit_code: i32 },
}

/// Starts a container and leaves it with a monitor of its own. Returns when its command has been executed.
///
/// The caller must be single-threaded and run from a protected binary.
pub fn start_detached(engine: &Engine, record: &ContainerRecord) -> Result<()> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(SysError::at("pipe2", || "O_CLOEXEC".to_owned()))?;
    match clone_process(CloneOptions::default()).map_err(stos_runtime::Error::from)? {
        Cloned::Child => {
            drop(reader);
            exit_now(monitor_process(engine, record, File::from(writer)));
        }
        Cloned::Parent { .. } => {
            drop(writer);
            let mut text = String::new();
            File::from(reader).read_to_string(&mut text).map_err(stos_store::Error::io("read from", "the monitor"))?;
            match serde_json::from_str(&text) {
                Ok(Report::Started) => Ok(()),
                Ok(Report::Failed { message, exit_code }) => Err(Error::Monitor { message, exit_code }),
                Err(_) => {
                    Err(Error::Monitor { message: "the monitor ended without a word".to_owned(), exit_code: 125 })
                }
            }
        }
    }
}

/// The life of a detached monitor: a session of its own, no streams, one container.
fn monitor_process(engine: &Engine, record: &ContainerRecord, report: File) -> i32 {
    let mut report = Some(report);
    let mut tell = |message: Report| {
        if let Some(mut pipe) = report.take() {
            // The command that started us may be gone: then nobody wants to know.
            let _ = serde_json::to_string(&message).map(|text| pipe.write_all(text.as_bytes()));
        }
    };
    let result = detach().and_then(|()| run_container(engine, record, Attachment::Detached, |_| tell(Report::Started)));
    match result {
        Ok(_) => 0,
        Err(error) => {
            tracing::error!(container = %record.id, %error, "the monitor failed");
            tell(Report::Failed { message: error.to_string(), exit_code: error.exit_code() });
            1
        }
    }
}

/// Leaves the caller's session, directory and streams.
fn detach() -> Result<()> {
    rustix::process::setsid().map_err(SysError::at("setsid", String::new))?;
    rustix::process::chdir("/").map_err(SysError::at("chdir", || "/".to_owned()))?;
    let null =
        File::options().read(true).write(true).open("/dev/null").map_err(stos_store::Error::io("open", "/dev/null"))?;
    let failed = || SysError::at("dup2", || "/dev/null".to_owned());
    rustix::stdio::dup2_stdin(&null).map_err(failed())?;
    rustix::stdio::dup2_stdout(&null).map_err(failed())?;
    rustix::stdio::dup2_stderr(&null).map_err(failed())?;
    Ok(())
}

/// Waits until a container has ended, and tells how. One that does not run tells at once.
///
/// # Errors
/// [`Error::ExitCodeUnknown`] where nobody saw the end; [`Error::ContainerState`] where it was never started.
pub fn wait(engine: &Engine, record: &ContainerRecord) -> Result<ExitRecord> {
    // Opened before the wait: a container that goes with its process leaves its exit record to those who hold it.
    let held = File::open(engine.exit_path(&record.id)).ok();
    loop {
        match state(engine, &record.id)? {
            ContainerState::Running(run) => {
                wait_for_end(&run.creator)?;
                if let Some(init) = &run.init {
                    // Without its monitor the container may live on.
                    wait_for_end(init)?;
                }
            }
            ContainerState::Exited(exit) => return Ok(exit),
            ContainerState::Created if crate::container::record(engine, &record.id)?.is_none() => {
                if record.auto_remove {
                    break;
                }
                return Err(Error::NoSuchContainer(record.name.to_string()));
            }
            ContainerState::Created => {
                return Err(Error::ContainerState {
                    action: "wait for",
                    container: record.name.to_string(),
                    state: "created".to_owned(),
                    expected: "started",
                });
            }
            ContainerState::Stopped => break,
        }
    }
    let mut text = String::new();
    if let Some(mut file) = held {
        file.read_to_string(&mut text).map_err(stos_store::Error::io("read", engine.exit_path(&record.id)))?;
    }
    serde_json::from_str(&text).map_err(|_| Error::ExitCodeUnknown { container: record.name.to_string() })
}

fn wait_for_end(process: &ProcessRecord) -> Result<()> {
    if let Some(fd) = process.open()? {
        while !pidfd::wait_end(fd.as_fd(), Duration::from_secs(3600))? {}
    }
    Ok(())
}

/// Gives the run state of a container that runs, once its first process is known; `None` where it does not run.
///
/// A start that is under way is waited for: it ends in milliseconds, well or not, and until then there is nothing to signal.
fn running(engine: &Engine, record: &ContainerRecord) -> Result<Option<RunState>> {
    loop {
        match state(engine, &record.id)? {
            ContainerState::Running(run) if run.init.is_some() => return Ok(Some(*run)),
            ContainerState::Running(_) => std::thread::sleep(START_INTERVAL),
            _ => return Ok(None),
        }
    }
}

/// Sends a signal to a container's first process.
pub fn kill(engine: &Engine, record: &ContainerRecord, signal: i32) -> Result<()> {
    let Some(run) = running(engine, record)? else {
        return Err(not_running("kill", engine, record)?);
    };
    let init = run.init.as_ref().map(ProcessRecord::open).transpose()?.flatten();
    match init {
        Some(fd) if pidfd::send_signal(fd.as_fd(), signal)? => Ok(()),
        _ => Err(not_running("kill", engine, record)?),
    }
}

fn not_running(action: &'static str, engine: &Engine, record: &ContainerRecord) -> Result<Error> {
    let state = state(engine, &record.id)?.status().to_owned();
    Ok(Error::ContainerState { action, container: record.name.to_string(), state, expected: "running" })
}

/// Asks a container to end by its stop signal, and kills it when it has not within `patience`. One that does not run is
/// stopped already.
pub fn stop(engine: &Engine, record: &ContainerRecord, patience: Duration) -> Result<()> {
    let Some(run) = running(engine, record)? else { return Ok(()) };
    let Some(init) = run.init.as_ref().map(ProcessRecord::open).transpose()?.flatten() else { return Ok(()) };
    pidfd::send_signal(init.as_fd(), record.stop_signal)?;
    if !pidfd::wait_end(init.as_fd(), patience)? {
        tracing::warn!(container = %record.name, seconds = patience.as_secs(), "it did not stop: killed");
        pidfd::send_signal(init.as_fd(), KILL)?;
        run.cgroup.thaw()?;
        if !pidfd::wait_end(init.as_fd(), KILL_PATIENCE)? {
            return Err(Error::WontDie { container: record.name.to_string(), seconds: KILL_PATIENCE.as_secs() });
        }
    }
    // The monitor writes down how it ended; then it is over.
    wait_for_end(&run.creator)
}

/// Removes a container. One that runs is refused, or with `force` killed first.
pub fn delete(engine: &Engine, record: &ContainerRecord, force: bool) -> Result<()> {
    if force && let Some(run) = running(engine, record)? {
        stos_runtime::lifecycle::end(&run.cgroup, run.init.as_ref())?;
        wait_for_end(&run.creator)?;
        if record.auto_remove && crate::container::record(engine, &record.id)?.is_none() {
            return Ok(());
        }
    }
    remove_stopped(engine, record)
}

/// Removes what is left of a container that does not run: first its run state, then it is gone by one rename, then its
/// name is free. One that runs, by now or again, is refused.
pub(crate) fn remove_stopped(engine: &Engine, record: &ContainerRecord) -> Result<()> {
    with_life_lock(engine, &record.id, || {
        if let ContainerState::Running(_) = state(engine, &record.id)? {
            return Err(Error::ContainerState {
                action: "delete",
                container: record.name.to_string(),
                state: "running".to_owned(),
                expected: "stopped",
            });
        }
        clear_run_state(engine, &record.id)?;
        engine.store.remove_object(&engine.store.container_dir(&record.id))?;
        engine.store.release_name(&record.name, &record.id)?;
        Ok(())
    })
}

/// Does what decides between a start and another start or a delete: of those at once each sees what the others did.
pub(crate) fn with_life_lock<T>(engine: &Engine, id: &ContainerId, decide: impl FnOnce() -> Result<T>) -> Result<T> {
    let lock = engine.store.lock(&format!("container-{id}"))?;
    let decided = decide();
    // Also after a failure, so that locks/ does not grow.
    lock.remove()?;
    decided
}

/// Removes a run state whose processes have ended, with its cgroups. The caller holds the container's lock.
pub(crate) fn clear_run_state(engine: &Engine, id: &ContainerId) -> Result<()> {
    if let Some(run) = engine.run_state(id)? {
        stos_runtime::lifecycle::end(&run.cgroup, run.init.as_ref())?;
        engine.run_states().release(&run_id(id))?;
    }
    Ok(())
}
