// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Start, wait, stop, kill, delete: what is done to containers that exist.

mod end;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use stos_runtime::{CgroupRequest, ProcessRecord, RunState, RuntimeConfig, planned_cgroup};
use stos_store::{ContainerId, ContainerName, Lock, Staging, files};
use stos_sys::SysError;
use stos_sys::process::clone::{CloneOptions, Cloned, clone_process, close_inherited_from, exit_now};
use stos_sys::process::pidfd;

use crate::Engine;
use crate::attach::Size;
use crate::attach::session::{self, Session};
use crate::container::{ContainerRecord, ContainerState, ExitRecord, find_id, read_exit, run_id, state};
use crate::error::{Error, Result};
use crate::journal::Status;
use crate::monitor::{Attachment, run_container};
use crate::networking::tear_down;
use crate::restart::end_for_good_or_warn;
use crate::service::LogDriver;
use crate::volumes;

use end::monitor_is_done;
pub(crate) use end::{ask_to_end, finish_stop, not_running};
pub use end::{kill, stop};

const KILL: i32 = 9;
/// How long a process may take to go after SIGKILL: longer only in an uninterruptible wait.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a monitor may take to write down that its container has ended, and a start to get as far as a process: longer
/// only where it is suspended or the disk hangs. A disk that many write to may keep a flush waiting for seconds.
pub(crate) const MONITOR_PATIENCE: Duration = Duration::from_secs(20);
/// How long a monitor that has written everything down is waited for before that is enough: its caller may not read.
const MONITOR_GRACE: Duration = Duration::from_secs(1);
/// How long one that has written down the end, and has not ended, may take to free the container's place and its name.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait between two looks at a container that is being started or is ending.
pub(crate) const START_INTERVAL: Duration = Duration::from_millis(5);
/// How long to wait between two looks at a container that `wait` waits for.
const WAIT_INTERVAL: Duration = Duration::from_millis(100);

/// What a detached monitor tells the command that started it.
#[derive(Serialize, Deserialize)]
enum Report {
    Started,
    Failed { message: String, exit_code: i32 },
}

/// Starts a container and leaves it with a monitor of its own. Returns when its command has been executed; for one that runs
/// already that has been done.
///
/// The caller must be single-threaded and run from a protected binary.
pub fn start_detached(engine: &Engine, record: &ContainerRecord) -> Result<()> {
    fork_monitor(engine, record, None, None).map(drop)
}

/// Starts a container and leaves it with a monitor of its own, to which the caller is the first client: no output is lost, and the
/// container waits for who does not read, as at a pipe. `size` is the terminal's first one.
///
/// The caller must be single-threaded and run from a protected binary.
///
/// # Errors
/// Those of a start; [`Error::ContainerState`] is one of a monitor ([`Error::Monitor`]) where somebody else has started it meanwhile.
pub fn start_with_session(engine: &Engine, record: &ContainerRecord, size: Option<Size>) -> Result<Session> {
    let (own, other) = session::pair()?;
    let own = fork_monitor(engine, record, Some((own, other)), size)?;
    let own = own.unwrap_or_else(|| unreachable!("it was given one"));
    let run = engine.run_state(&record.id)?;
    Session::open(own, record, run.as_ref().and_then(|run| run.init.as_ref()))
}

/// Clones a monitor, and waits until the command has been executed. Of a session's two ends the first is the caller's, and comes back.
fn fork_monitor(
    engine: &Engine,
    record: &ContainerRecord,
    session: Option<(OwnedFd, OwnedFd)>,
    size: Option<Size>,
) -> Result<Option<OwnedFd>> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(SysError::at("pipe2", || "O_CLOEXEC".to_owned()))?;
    // Nobody may be left in a unit's cgroup of v2 when the container gets controllers below it, so we leave it with the monitor. What
    // fails here fails for the monitor too, which tells it.
    let _ = record.unit.cgroup(record);
    match clone_process(CloneOptions::default()).map_err(stos_runtime::Error::from)? {
        Cloned::Child => {
            drop(reader);
            // The caller's end is closed here, or its end would not be told.
            let first = session.map(|(_, other)| other);
            exit_now(monitor_process(engine, record, Attachment::Detached { first, size }, File::from(writer)));
        }
        Cloned::Parent { .. } => {
            drop(writer);
            // Who has a session may stay with it for days.
            engine.close_journal();
            let own = session.map(|(own, _)| own);
            let mut text = String::new();
            File::from(reader).read_to_string(&mut text).map_err(stos_store::Error::io("read from", "the monitor"))?;
            match serde_json::from_str(&text) {
                Ok(Report::Started) => Ok(own),
                Ok(Report::Failed { message, exit_code }) => Err(Error::Monitor { message, exit_code }),
                Err(_) => {
                    Err(Error::Monitor { message: "the monitor ended without a word".to_owned(), exit_code: 125 })
                }
            }
        }
    }
}

/// The life of a detached monitor: a session of its own, no streams, one container.
fn monitor_process(engine: &Engine, record: &ContainerRecord, attachment: Attachment, report: File) -> i32 {
    let mut report = Some(report);
    let mut tell = |message: Report| {
        if let Some(mut pipe) = report.take() {
            // The command that started us may be gone: then nobody wants to know.
            let _ = serde_json::to_string(&message).map(|text| pipe.write_all(text.as_bytes()));
        }
    };
    let has_session = matches!(attachment, Attachment::Detached { first: Some(_), .. });
    let kept = engine.caller.inherited.count();
    let left = match record.service.log.driver {
        // They are the container's.
        LogDriver::Passthrough => leave_session(kept),
        _ => leave_caller(kept),
    };
    let result = left.and_then(|()| run_container(engine, record, attachment, |_| tell(Report::Started)));
    match result {
        // A service manager that was told of us sees how the container has ended.
        Ok(exit) => exit.exit_code,
        // Somebody else has started it meanwhile: it runs, as was asked for. But that one has the session.
        Err(Error::ContainerState { action: "start", .. }) if !has_session => {
            tell(Report::Started);
            0
        }
        Err(error) => {
            tracing::error!(container = %record.id, %error, "the monitor failed");
            tell(Report::Failed { message: error.to_string(), exit_code: error.exit_code() });
            1
        }
    }
}

/// Leaves the caller's session, directory, streams, and whatever else it had open but for the first `kept` descriptors after the streams.
pub fn leave_caller(kept: u32) -> Result<()> {
    leave_session(kept)?;
    let null =
        File::options().read(true).write(true).open("/dev/null").map_err(stos_store::Error::io("open", "/dev/null"))?;
    let failed = || SysError::at("dup2", || "/dev/null".to_owned());
    rustix::stdio::dup2_stdin(&null).map_err(failed())?;
    rustix::stdio::dup2_stdout(&null).map_err(failed())?;
    rustix::stdio::dup2_stderr(&null).map_err(failed())?;
    Ok(())
}

/// The same but for its streams.
fn leave_session(kept: u32) -> Result<()> {
    rustix::process::setsid().map_err(SysError::at("setsid", String::new))?;
    rustix::process::chdir("/").map_err(SysError::at("chdir", || "/".to_owned()))?;
    Ok(close_inherited_from(3_i32.saturating_add_unsigned(kept))?)
}

/// Waits until a container has ended, and tells how. One that was never started is waited for too; one that has ended tells at
/// once.
///
/// # Errors
/// [`Error::ExitCodeUnknown`] where nobody saw the end.
pub fn wait(engine: &Engine, record: &ContainerRecord) -> Result<ExitRecord> {
    // Opened before the wait: a container that goes with its process leaves its exit record to those who hold it.
    let held = File::open(engine.exit_path(&record.id)).ok();
    loop {
        match state(engine, &record.id)? {
            ContainerState::Running(run) if record.service.may_restart() => wait_for_life(&run)?,
            ContainerState::Running(run) => {
                // Not for long: the monitor writes the end down before it ends itself, and may wait for its reader then. And
                // without its monitor the container may live on.
                for process in [Some(&run.creator), run.init.as_ref()].into_iter().flatten() {
                    if let Some(fd) = process.open()? {
                        pidfd::wait_end(fd.as_fd(), WAIT_INTERVAL)?;
                    }
                }
            }
            ContainerState::Exited(exit) => {
                make_end_last(engine, record)?;
                return Ok(exit);
            }
            ContainerState::Created if crate::container::record(engine, &record.id)?.is_none() => {
                if record.auto_remove {
                    break;
                }
                return Err(Error::NoSuchContainer(record.name.to_string()));
            }
            ContainerState::Created => std::thread::sleep(WAIT_INTERVAL),
            ContainerState::Stopped => break,
        }
    }
    let mut text = String::new();
    match held {
        Some(mut file) => {
            file.read_to_string(&mut text).map_err(stos_store::Error::io("read", engine.exit_path(&record.id)))?;
        }
        // It had gone before.
        None if record.auto_remove => return Err(Error::NoSuchContainer(record.name.to_string())),
        None => {}
    }
    serde_json::from_str(&text).map_err(|_| Error::ExitCodeUnknown { container: record.name.to_string() })
}

/// Waits for a while, or until the life has ended of a container that its monitor may start again soon: its exit record is there for a
/// short time.
fn wait_for_life(run: &RunState) -> Result<()> {
    match run.init.as_ref().map(ProcessRecord::open).transpose()?.flatten() {
        Some(init) => {
            pidfd::wait_end(init.as_fd(), WAIT_INTERVAL)?;
        }
        None => std::thread::sleep(START_INTERVAL),
    }
    Ok(())
}

/// Makes an exit record durable that its monitor has put in place and may not have synced yet: that what is told of an end is still so
/// after a power cut.
fn make_end_last(engine: &Engine, record: &ContainerRecord) -> Result<()> {
    // The monitor releases the run state after the sync.
    if record.auto_remove || engine.run_state(&record.id)?.is_none() {
        return Ok(());
    }
    match files::sync_directory(&engine.store.container_dir(&record.id)) {
        // Somebody has deleted it meanwhile.
        Err(error) if error.is_not_found() => Ok(()),
        other => Ok(other?),
    }
}

/// Gives the run state of a container that runs; `None` where it does not.
///
/// A start that is under way is waited for until there is a process to signal: that takes milliseconds. Where it takes
/// longer than [`MONITOR_PATIENCE`], what comes back has no `init`.
pub(crate) fn running(engine: &Engine, id: &ContainerId) -> Result<Option<RunState>> {
    let deadline = Instant::now() + MONITOR_PATIENCE;
    loop {
        match state(engine, id)? {
            ContainerState::Running(run) if run.init.is_some() || Instant::now() >= deadline => return Ok(Some(*run)),
            ContainerState::Running(_) => std::thread::sleep(START_INTERVAL),
            _ => return Ok(None),
        }
    }
}

/// Removes a container. One that runs is refused, or with `force` killed first.
pub fn delete(engine: &Engine, record: &ContainerRecord, force: bool) -> Result<()> {
    let deadline = Instant::now() + MONITOR_PATIENCE;
    loop {
        if force {
            forget_damaged_run(engine, &record.id)?;
            end_now(engine, &record.id)?;
        }
        match remove(engine, &record.id, Some(record), force) {
            // Somebody has started it meanwhile.
            Err(Error::ContainerState { .. }) if force && Instant::now() < deadline => {}
            other => return other,
        }
    }
}

/// The same; and then the volumes that were made for it and named by nobody, but for those that another container has.
pub fn delete_with_volumes(engine: &Engine, record: &ContainerRecord, force: bool) -> Result<()> {
    delete(engine, record, force)?;
    volumes::remove_anonymous(engine, record);
    Ok(())
}

/// Removes, by force, a container whose record is damaged, and gives its id. `query` finds it by id, name or the beginning of
/// its id.
///
/// # Errors
/// What [`crate::container::find`] says where the record is not damaged: one of another version is no damage.
pub fn delete_damaged(engine: &Engine, query: &str) -> Result<ContainerId> {
    let id = find_id(engine, query)?;
    match crate::container::record(engine, &id) {
        Err(Error::Store(stos_store::Error::Damaged { .. })) => {}
        Ok(Some(record)) => return delete(engine, &record, true).map(|()| id),
        Ok(None) => return Err(Error::NoSuchContainer(query.to_owned())),
        Err(error) => return Err(error),
    }
    end_now(engine, &id)?;
    remove(engine, &id, None, true)?;
    Ok(id)
}

/// Ends a container whose run state is damaged, and frees its place in ROOT: its processes are found by the cgroups that its configuration
/// names.
fn forget_damaged_run(engine: &Engine, id: &ContainerId) -> Result<()> {
    if !matches!(engine.run_state(id), Err(Error::Runtime(stos_runtime::Error::Record { .. }))) {
        return Ok(());
    }
    let config = RuntimeConfig::load(&engine.store.container_dir(id)).map_err(stos_runtime::Error::from)?;
    let cgroup = planned_cgroup(&run_id(id), &config, &CgroupRequest::default())?;
    stos_runtime::lifecycle::end(&cgroup, None)?;
    tear_down(engine, id, None)?;
    Ok(engine.run_states().release(&run_id(id))?)
}

/// Kills a container that runs or is being started; and its monitor, where that does not end by itself then.
fn end_now(engine: &Engine, id: &ContainerId) -> Result<()> {
    let Some(run) = running(engine, id)? else { return Ok(()) };
    end_for_good_or_warn(engine, id);
    if run.init.is_some() {
        stos_runtime::lifecycle::end(&run.cgroup, run.init.as_ref())?;
        if monitor_is_done(engine, id, &run)? {
            return Ok(());
        }
    }
    if let Some(monitor) = run.creator.open()? {
        pidfd::send_signal(monitor.as_fd(), KILL)?;
        if !pidfd::wait_end(monitor.as_fd(), KILL_PATIENCE)? {
            return Err(Error::WontDie { container: id.short().to_owned(), seconds: KILL_PATIENCE.as_secs() });
        }
    }
    Ok(())
}

/// Removes what is left of a container that does not run.
pub(crate) fn remove_stopped(engine: &Engine, record: &ContainerRecord) -> Result<()> {
    remove(engine, &record.id, Some(record), false)
}

/// One that runs, by now or again, is refused; but with `force` not one that has lost its monitor.
fn remove(engine: &Engine, id: &ContainerId, record: Option<&ContainerRecord>, force: bool) -> Result<()> {
    with_life_lock(engine, id, |lock| {
        if let ContainerState::Running(run) = state(engine, id)?
            && (!force || run.creator.is_alive()?)
        {
            return Err(Error::ContainerState {
                action: "delete",
                container: record.map_or_else(|| id.short().to_owned(), |record| record.name.to_string()),
                state: "running".to_owned(),
                expected: "stopped",
            });
        }
        remove_locked(engine, id, record, lock)
    })
    .map(drop)
}

/// Removes a container: first its run state, then it is gone by one rename, then its name is free. The caller holds its
/// lock, unless it is gone.
///
/// Without a `record`, for one that is damaged, every name that leads to it goes; so where it has another by now. Its files are deleted when what comes
/// back is dropped.
pub(crate) fn remove_locked(
    engine: &Engine,
    id: &ContainerId,
    record: Option<&ContainerRecord>,
    lock: Option<&Lock>,
) -> Result<Option<Staging>> {
    clear_run_state(engine, id, record)?;
    let dir = engine.store.container_dir(id);
    let taken = lock.map(|lock| engine.store.take_held_object(&dir, lock)).transpose()?.flatten();
    let is_freed = record.map_or(Ok(false), |record| engine.store.release_name(&record.name, id))?;
    if !is_freed {
        // Its record is damaged, or it was renamed since that was read.
        let names = files::list_names(&engine.store.names_dir())?;
        let names = names.iter().filter_map(|name| name.parse().ok()).collect::<Vec<ContainerName>>();
        for name in names {
            engine.store.release_name(&name, id)?;
        }
    }
    if let Some(record) = record {
        record.unit.remove_id_file(id);
        volumes::memory::release(engine, record);
        if record.auto_remove {
            volumes::remove_anonymous(engine, record);
        }
    }
    if let (Some(taken), Some(record)) = (&taken, record) {
        let renamed: Option<ContainerRecord> = match is_freed {
            true => None,
            false => files::read_json(&taken.path().join("container.json")).ok().flatten(),
        };
        engine.note(Status::Remove, renamed.as_ref().unwrap_or(record));
    }
    Ok(taken)
}

/// Does what decides between a start and another start, an end or a delete: of those at once each sees what the others did.
pub(crate) fn with_life_lock<T>(
    engine: &Engine,
    id: &ContainerId,
    decide: impl FnOnce(Option<&Lock>) -> Result<T>,
) -> Result<T> {
    let lock = life_lock(engine, id)?;
    decide(lock.as_ref())
}

/// Waits for the lock of [`with_life_lock`]: that on the container's own directory, so a disk without room for any more file
/// keeps nobody from it. `None` where the container is gone: its id does not come back, so there is nothing to decide.
pub(crate) fn life_lock(engine: &Engine, id: &ContainerId) -> Result<Option<Lock>> {
    match Lock::wait_for_directory(&engine.store.container_dir(id)) {
        Err(error) if error.is_not_found() => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// Removes a run state whose processes have ended, with its cgroups. The caller holds the container's lock.
///
/// Where there is one, its monitor was killed before it could say that the process has ended: that is told here, unless its `record` is
/// lost.
pub(crate) fn clear_run_state(engine: &Engine, id: &ContainerId, record: Option<&ContainerRecord>) -> Result<()> {
    if let Some(run) = engine.run_state(id)? {
        stos_runtime::lifecycle::end(&run.cgroup, run.init.as_ref())?;
        tear_down(engine, id, record.map(|record| record.network))?;
        engine.run_states().release(&run_id(id))?;
        if let (Some(record), Some(_), None) = (record, &run.init, read_exit(engine, id)?) {
            engine.note(Status::Died, &engine.renamed(record));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An engine with a container of which there is only the directory.
    fn bare_container() -> (tempfile::TempDir, Engine, ContainerId) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        let id = ContainerId::random();
        std::fs::create_dir(engine.store.container_dir(&id)).unwrap();
        (dir, engine, id)
    }

    #[test]
    fn who_waits_for_a_container_that_had_gone_is_told_so() {
        let (_dir, engine, id) = bare_container();
        std::fs::remove_dir(engine.store.container_dir(&id)).unwrap();
        let layers = [stos_spec::DiffId::of(b"")];
        let record = serde_json::from_value(serde_json::json!({
            "version": 1, "id": id, "name": "test", "image": "x", "image_id": stos_spec::BlobDigest::of(b""),
            "manifest": stos_spec::BlobDigest::of(b""), "layers": layers, "chain": stos_spec::ChainId::of_layers(&layers),
            "created": "", "command": ["x"], "user": "0", "labels": {}, "stop_signal": 15, "network": "none", "auto_remove": true,
        }));
        assert!(matches!(wait(&engine, &record.unwrap()), Err(Error::NoSuchContainer(_))));
    }

    #[test]
    fn a_delete_needs_no_new_file() {
        let (dir, engine, id) = bare_container();
        // No lock can be made, as on a disk without a free inode.
        std::fs::remove_dir(dir.path().join("data/locks")).unwrap();
        remove(&engine, &id, None, false).unwrap();
        assert!(!engine.store.container_dir(&id).exists());
        remove(&engine, &id, None, false).unwrap();
    }

    #[test]
    fn who_waited_for_a_container_that_goes_finds_it_gone() {
        let (_dir, engine, id) = bare_container();
        let held = life_lock(&engine, &id).unwrap().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| with_life_lock(&engine, &id, |lock| Ok(lock.is_some())));
            drop(remove_locked(&engine, &id, None, Some(&held)).unwrap());
            drop(held);
            assert!(!waiter.join().unwrap().unwrap());
        });
        assert!(!engine.store.container_dir(&id).exists());
        assert_eq!(files::list_names(&engine.store.staging_area()).unwrap(), [""; 0]);
    }
}
