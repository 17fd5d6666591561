// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Create, start, state, kill, pause, resume, update, delete and list: a bundle's life, as runc has it.
//!
//! Each operation is one short-lived process; what they share is ROOT ([`crate::state`]). All but [`create`] and [`start`] work for containers of image mode too; the record says whose a container is.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oci_spec::runtime::LinuxResources;
use stos_sys::process::pidfd;

use crate::cgroup::{CgroupRecord, CgroupRequest, check_booted};
use crate::config::RuntimeConfig;
use crate::console::{Console, PidfdSocket};
use crate::error::{Error, Result};
use crate::gate;
use crate::hooks::{self, HookKind};
use crate::id::ContainerId;
use crate::launch::{Gate, Identity, Inherited, Launch, ProcessRecord, RootSource, launch, planned_cgroup};
use crate::notify;
use crate::state::{Mode, OciState, RunState, STATE_VERSION, StateDirectory, Status};
use crate::tombstones;

/// How long a killed process may take to end before `delete --force` gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the first process of a creator that was killed may take to end.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(2);

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// What `create` is asked for.
#[derive(Debug)]
pub struct CreateOptions<'a> {
    /// The bundle.
    pub bundle: &'a Path,
    /// Where the first process's number goes.
    pub pid_file: Option<&'a Path>,
    /// Who gets its terminal, where it has one.
    pub console: Console<'a>,
    /// Descriptors of the caller's caller that it gets.
    pub inherited: Inherited,
    /// Whether it gets a session keyring of its own; else it has the caller's.
    pub new_keyring: bool,
    /// Who gets a descriptor of its first process, listening on this socket.
    pub pidfd_socket: Option<&'a Path>,
    /// Whether it gets a socket to say on that it is ready ([`notify`]).
    pub notifies: bool,
    /// Whether systemd makes its cgroups.
    pub systemd_cgroup: bool,
}

/// Creates a container from a bundle: afterwards its first process waits for [`start`].
///
/// On any error nothing is left of it. The process is the caller's child, left to the caller's parent when the caller ends.
pub fn create(root: &StateDirectory, id: &ContainerId, options: CreateOptions<'_>) -> Result<OciState> {
    if options.systemd_cgroup {
        check_booted()?;
    }
    let cgroup = CgroupRequest { path: None, by_systemd: options.systemd_cgroup };
    let bundle = canonical(options.bundle)?;
    let bytes = RuntimeConfig::read(&bundle)?;
    let config = if options.notifies {
        RuntimeConfig::from_json(&notify::with_socket(&bytes, &root.container(id))?)?
    } else {
        RuntimeConfig::from_json(&bytes)?
    };
    let rootfs = rootfs(&bundle, &config)?;
    let stdio = options.console.into_stdio(config.settings().process.terminal)?;
    let pidfd_socket = options.pidfd_socket.map(PidfdSocket::connect).transpose()?;
    let mut state = new_state(id, &bundle, &rootfs, &config, &cgroup)?;
    let directory = root.claim(&state)?;
    let created = (|| {
        // What the bundle's says later does not count (runtime.md, "create"): `exec` reads this one.
        root.keep_config(id, &bytes)?;
        if options.notifies {
            notify::make_directory(&directory)?;
        }
        let mut init = launch(Launch {
            id,
            bundle: &bundle,
            config: &config,
            root: RootSource::Directory(rootfs.clone()),
            stdio,
            identity: Identity::FromSpec,
            cgroup,
            gate: Gate::Held(&directory),
            inherited: options.inherited,
            new_keyring: options.new_keyring,
            has_init: false,
            given: &[],
            connect: None,
        })?;
        state.init = Some(init.process.clone());
        state.cgroup = init.cgroup.clone();
        let recorded = root.update(&state).and_then(|()| match options.pid_file {
            Some(path) => write_pid_file(path, init.process.pid),
            None => Ok(()),
        });
        let sent = |()| pidfd_socket.map_or(Ok(()), |socket| socket.send(init.pidfd.as_fd()));
        let recorded = recorded.and_then(sent).and_then(|()| init.confirm());
        recorded.inspect_err(|_| {
            // The cause counts; without a record nobody would find the process.
            drop(kill_first(&state.cgroup, &init.process).and_then(|()| state.cgroup.discard()));
        })
    })();
    match created {
        Ok(()) => Ok(state.to_oci(Status::Created)),
        Err(error) => {
            // runtime.md, "Lifecycle": what fails is destroyed, and that has hooks too.
            hooks::run_all(HookKind::Poststop, &state.hooks.poststop, &state.to_hooks(Status::Stopped));
            // The cause counts; a directory that cannot be removed keeps the id taken, and `delete --force` frees it.
            drop(give_up(root, &state));
            Err(error)
        }
    }
}

/// Frees the id of a container that was not made, where it is still this one's: `delete --force` may have freed it before us.
fn give_up(root: &StateDirectory, state: &RunState) -> Result<()> {
    let _lock = root.lock(&state.id)?;
    if root.read(&state.id)?.creator == state.creator { root.release(&state.id) } else { Ok(()) }
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path)
        .map_err(|source| crate::config::ConfigError::Read { path: path.join("config.json"), source }.into())
}

fn rootfs(bundle: &Path, config: &RuntimeConfig) -> Result<PathBuf> {
    let settings = config.settings();
    let Some(path) = &settings.root_path else {
        return Err(crate::config::ConfigError::invalid("root", "an object with a path", Option::<&str>::None).into());
    };
    let joined = bundle.join(path);
    match fs::canonicalize(&joined) {
        Ok(rootfs) if rootfs.is_dir() => Ok(rootfs),
        Ok(_) | Err(_) => Err(crate::config::ConfigError::invalid("root.path", "a directory", joined).into()),
    }
}

fn new_state(
    id: &ContainerId,
    bundle: &Path,
    rootfs: &Path,
    config: &RuntimeConfig,
    cgroup: &CgroupRequest,
) -> Result<RunState> {
    let annotations: BTreeMap<_, _> =
        config.spec().annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    Ok(RunState {
        version: STATE_VERSION,
        oci_version: config.spec().version().clone(),
        id: id.clone(),
        mode: Mode::Bundle,
        creator: ProcessRecord::of_caller()?,
        init: None,
        bundle: bundle.to_owned(),
        rootfs: rootfs.to_owned(),
        created: Timestamp::now(),
        annotations,
        cgroup: planned_cgroup(id, config, cgroup)?,
        owner: String::new(),
        hooks: config.settings().hooks.of_later_commands(),
    })
}

/// Writes a pid file whole: a reader sees no part of the number. What stands there is replaced, a symlink too.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let failed = |call, path: &Path, error: &std::io::Error| {
        let errno = rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO);
        Error::sys("write the pid file")(stos_sys::SysError::new(call, path.display().to_string(), errno))
    };
    // The directory may be one where others write too: a name that nobody can know before, and nothing is opened that is there.
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{:016x}", RandomState::new().hash_one(pid)));
    let staged = path.with_file_name(name);
    let mut file = fs::File::create_new(&staged).map_err(|error| failed("open", &staged, &error))?;
    let written = file.write_all(pid.to_string().as_bytes()).map_err(|error| failed("write", &staged, &error));
    let written = written.and_then(|()| fs::rename(&staged, path).map_err(|error| failed("rename", path, &error)));
    // The cause counts.
    written.inspect_err(|_| drop(fs::remove_file(&staged)))
}

/// Lets a created container run its command, and returns when it does, or why it cannot. Its poststart hooks have run then; one
/// that fails is told in the log.
pub fn start(root: &StateDirectory, id: &ContainerId) -> Result<()> {
    let state = root.read(id)?;
    let directory = root.container(id);
    let wrong = |found| wrong_status(id, "start", "created", found);
    match state.status(&directory)? {
        Status::Created => {}
        other => return Err(wrong(other)),
    }
    // Between the look and this another start may have come first.
    let Some(init) = &state.init else { return Err(wrong(state.status(&directory)?)) };
    if !gate::open_gate(&directory, init)? {
        return Err(wrong(state.status(&directory)?));
    }
    hooks::run_all(HookKind::Poststart, &state.hooks.poststart, &state.to_hooks(Status::Running));
    Ok(())
}

/// The state of a container, as runc prints it.
pub fn state(root: &StateDirectory, id: &ContainerId) -> Result<OciState> {
    let state = root.read(id)?;
    let status = state.status(&root.container(id))?;
    Ok(state.to_oci(status))
}

/// The states of all containers of bundle mode, by id. One that goes meanwhile is left out, and one that cannot be read is told
/// in the log.
pub fn list_bundles(root: &StateDirectory, is_other: impl Fn(&ContainerId) -> bool) -> Result<Vec<OciState>> {
    let look = |id: &ContainerId| -> Result<Option<OciState>> {
        let state = root.read(id)?;
        if state.mode != Mode::Bundle {
            return Ok(None);
        }
        let status = state.status(&root.container(id))?;
        Ok(Some(state.to_oci(status)))
    };
    let mut found = Vec::new();
    for id in root.ids()?.into_iter().filter(|id| !is_other(id)) {
        match look(&id) {
            Ok(state) => found.extend(state),
            Err(Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!(container = %id, %error, "it cannot be listed"),
        }
    }
    Ok(found)
}

/// Sends a signal to the container's first process, or to `all` of its processes. A paused one hears KILL at once, and others when it
/// goes on.
pub fn kill(root: &StateDirectory, id: &ContainerId, signal: i32, all: bool) -> Result<()> {
    let state = root.read(id)?;
    let not_running = |found| Error::NotRunning { id: id.to_string(), found };
    let status = state.status(&root.container(id))?;
    if all && state.init.is_none() && state.mode == Mode::Bundle {
        // It has no processes: what is at the planned path is somebody else's.
        return Ok(());
    }
    if all {
        // Without a pid namespace of its own a container's processes outlive the first.
        state.cgroup.signal_all(signal)?;
        return if status == Status::Paused && signal == KILL { state.cgroup.thaw() } else { Ok(()) };
    }
    let process = match (&state.init, status) {
        (Some(init), Status::Created | Status::Running | Status::Paused) => init.open()?,
        _ => return Err(not_running(status)),
    };
    let Some(process) = process else { return Err(not_running(Status::Stopped)) };
    match pidfd::send_signal(process.as_fd(), signal).map_err(Error::sys("signal the container"))? {
        true if status == Status::Paused && signal == KILL => state.cgroup.thaw(),
        true => Ok(()),
        false => Err(not_running(Status::Stopped)),
    }
}

/// Freezes every process of a created or running container, and returns when all are.
pub fn pause(root: &StateDirectory, id: &ContainerId) -> Result<()> {
    let (state, status) = read_with_status(root, id)?;
    match status {
        Status::Created | Status::Running => state.cgroup.freeze(),
        found => Err(wrong_status(id, "pause", "created or running", found)),
    }
}

/// Lets a paused container go on.
pub fn resume(root: &StateDirectory, id: &ContainerId) -> Result<()> {
    let (state, status) = read_with_status(root, id)?;
    match status {
        Status::Paused => state.cgroup.thaw(),
        found => Err(wrong_status(id, "resume", "paused", found)),
    }
}

/// Changes limits of a container that has not ended: all that `resources` asks for, or none ([`CgroupRecord::update`]).
pub fn update(root: &StateDirectory, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
    let (state, status) = read_with_status(root, id)?;
    match status {
        Status::Created | Status::Running | Status::Paused => state.cgroup.update(resources),
        found => Err(wrong_status(id, "update", "created, running or paused", found)),
    }
}

/// Every process of a container that has not ended, as pids of the caller's namespace.
pub fn processes(root: &StateDirectory, id: &ContainerId) -> Result<Vec<i32>> {
    let (state, status) = read_with_status(root, id)?;
    match status {
        Status::Created | Status::Running | Status::Paused => state.cgroup.processes(),
        found => Err(wrong_status(id, "list the processes", "created, running or paused", found)),
    }
}

pub(crate) fn read_with_status(root: &StateDirectory, id: &ContainerId) -> Result<(RunState, Status)> {
    let state = root.read(id)?;
    let status = state.status(&root.container(id))?;
    Ok((state, status))
}

pub(crate) fn wrong_status(id: &ContainerId, operation: &'static str, expected: &'static str, found: Status) -> Error {
    Error::WrongStatus { id: id.to_string(), operation, expected, found }
}

/// Deletes a container that has ended, or was never started: its cgroups, what is left in them, and its state.
///
/// `force` kills one that runs, and succeeds for one that does not exist. The id of a bundle's container is remembered
/// ([`tombstones`]). Of several at once on one container each waits for the one before, and finds it gone.
pub fn delete(root: &StateDirectory, id: &ContainerId, force: bool) -> Result<()> {
    match root.lock(id).and_then(|_lock| delete_locked(root, id, force)) {
        Err(Error::NotFound { .. }) if force => Ok(()),
        other => other,
    }
}

fn delete_locked(root: &StateDirectory, id: &ContainerId, force: bool) -> Result<()> {
    let mut state = root.read(id)?;
    let status = state.status(&root.container(id))?;
    if !force && !matches!(status, Status::Created | Status::Stopped) {
        return Err(wrong_status(id, "delete", "created or stopped", status));
    }
    if state.init.is_none() {
        if let Some(creator) = state.creator.open()? {
            pidfd::send_signal(creator.as_fd(), KILL).map_err(Error::sys("end the container's creator"))?;
            pidfd::wait_end(creator.as_fd(), PATIENCE).map_err(Error::sys("end the container's creator"))?;
        }
        // Its last act may have been to record a first process, which then lives on, or to clean up after itself.
        state = root.read(id)?;
    }
    match (&state.init, state.mode) {
        (None, Mode::Bundle) => end_orphan(&state.cgroup, &root.container(id))?,
        (init, _) => end(&state.cgroup, init.as_ref())?,
    }
    // Before the id is free: who is killed here deletes again, and a new container of this name does not meet them.
    hooks::run_all(HookKind::Poststop, &state.hooks.poststop, &state.to_hooks(Status::Stopped));
    let remembered = if state.mode == Mode::Bundle { tombstones::add(root, id) } else { Ok(()) };
    root.release(id)?;
    // Where ROOT is full, what was released has made room. A container that is gone is deleted, remembered or not.
    if remembered.is_err()
        && let Err(error) = tombstones::add(root, id)
    {
        tracing::warn!(container = %id, %error, "its id is not remembered as deleted");
    }
    Ok(())
}

/// Ends what a creator that was killed has left: a first process that nobody recorded, and cgroups that are only planned.
///
/// The process ends by itself when it hears that its creator has gone; one that somebody has frozen meanwhile hears nothing. It is known
/// by the container's gate, which it alone holds open. What else may live at the planned path is not ours to kill, or to wait for.
fn end_orphan(cgroup: &CgroupRecord, directory: &Path) -> Result<()> {
    let deadline = Instant::now() + ORPHAN_PATIENCE;
    while !cgroup.remove_unused()? {
        let mut orphans = Vec::new();
        for pid in cgroup.processes()? {
            let Some(process) = rustix::process::Pid::from_raw(pid) else { continue };
            let Some(process) = pidfd::open(process).map_err(Error::sys("open a process"))? else { continue };
            // Looked at after it was opened: the number can be no other process's.
            if gate::is_held_by(directory, pid) {
                pidfd::send_signal(process.as_fd(), KILL).map_err(Error::sys("end the container's first process"))?;
                orphans.push(pid);
            }
        }
        if !orphans.is_empty() {
            // A frozen process dies when it thaws.
            cgroup.thaw()?;
        }
        if Instant::now() >= deadline {
            let busy = || Error::CgroupBusy { path: cgroup.path.clone(), found: orphans.clone() };
            return if orphans.is_empty() { Ok(()) } else { Err(busy()) };
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Kills what is left of a container, its first process first, and removes its cgroups.
///
/// Of cgroups that are only planned ([`CgroupRecord::planned`]) whatever is in them is killed: the path must be one that no other
/// container can have.
pub fn end(cgroup: &CgroupRecord, init: Option<&ProcessRecord>) -> Result<()> {
    init.map_or(Ok(()), |init| kill_first(cgroup, init))?;
    // Mostly nothing is left to kill: the kernel removes no cgroup that has a process.
    if !cgroup.remove_empty()? {
        cgroup.kill_all()?;
    }
    cgroup.remove()
}

/// Kills a container's first process, and waits for its end.
fn kill_first(cgroup: &CgroupRecord, init: &ProcessRecord) -> Result<()> {
    if let Some(process) = init.open()? {
        pidfd::send_signal(process.as_fd(), KILL).map_err(Error::sys("end the container"))?;
        cgroup.thaw()?;
        if !pidfd::wait_end(process.as_fd(), PATIENCE).map_err(Error::sys("wait for the container's end"))? {
            let found = cgroup.processes()?;
            return Err(Error::CgroupBusy { path: cgroup.path.clone(), found });
        }
    }
    Ok(())
}
