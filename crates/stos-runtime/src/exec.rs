// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A further process in a container: the caller's half of `exec`. The child's half is in `init`.
//!
//! One clone out of the single-threaded caller: born in the container's pid namespace and v2 cgroup, the child enters the v1 cgroups
//! by itself and all other namespaces in one call.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use stos_sys::SysError;
use stos_sys::process::clone::{CloneError, CloneOptions, Cloned, clone_process, set_namespace};

use crate::cgroup::{JoinedCgroups, SubCgroup};
use crate::config::{ProcessChanges, RuntimeConfig};
use crate::console::{Console, PidfdSocket};
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::init::streams::give_from_outside;
use crate::init::{self, Joining};
use crate::launch::{
    Identity, Inherited, ProcessRecord, check_caller, check_listener, check_stdio, end_failed, enter_pid_namespace,
    follow, pid_flag,
};
use crate::lifecycle::write_pid_file;
use crate::seccomp::listener::{ContainerOfFilter, Filtered, Processes};
use crate::state::{Mode, RunState, StateDirectory, Status};

const STAGE: &str = "start a process in the container";

/// What `exec` is asked for.
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// Whose the container must be: another's is not found.
    pub mode: Mode,
    /// How the process differs from the container's own.
    pub changes: &'a ProcessChanges,
    /// Whom it runs as.
    pub identity: Identity<'a>,
    /// Who gets its terminal, where it has one.
    pub console: Console<'a>,
    /// Cgroups below the container's that it enters instead; one for each hierarchy at most.
    pub cgroups: &'a [SubCgroup],
    /// Whether a container that is frozen will do: the process then waits for its thaw.
    pub ignore_paused: bool,
    /// Where its number goes.
    pub pid_file: Option<&'a Path>,
    /// Who gets a descriptor of it, listening on this socket.
    pub pidfd_socket: Option<&'a Path>,
    /// Descriptors of the caller's caller that it gets.
    pub inherited: Inherited,
}

/// A further process of a container. Dropping it changes nothing.
#[derive(Debug)]
pub struct Executed {
    /// Its number.
    pub pid: i32,
    /// A descriptor of it, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Runs a further process in a container that is created, runs, or is paused.
///
/// Success means that the command has been executed. On any error there is no process. The new process is the caller's child.
/// Refuses a caller with more than one thread, and one whose binary a container could write
/// ([`crate::launch::protect_binary`]).
pub fn exec(root: &StateDirectory, id: &ContainerId, options: ExecOptions<'_>) -> Result<Executed> {
    check_caller()?;
    let state = root.read(id)?;
    if state.mode != options.mode {
        return Err(Error::NotFound { id: id.to_string() });
    }
    let (number, init) = first_process(root, &state, options.ignore_paused)?;
    let config = RuntimeConfig::of_exec(&root.config(&state)?, options.changes)?;
    let stdio = options.console.into_stdio(config.settings().process.terminal)?;
    check_stdio(&config, &stdio)?;
    check_listener(&config)?;
    let pidfd_socket = options.pidfd_socket.map(PidfdSocket::connect).transpose()?;
    let container = container_of(&state);
    let pid = Pid::from_raw(number).ok_or(Error::InitDied { ended: None })?;
    give_from_outside(config.settings(), &stdio, pid)?;
    let mut cgroups = JoinedCgroups::open(&state.cgroup, options.cgroups)?;
    let joining = Joining {
        config: &config,
        init: init.as_fd(),
        stdio: &stdio,
        identity: options.identity,
        inherited: &options.inherited,
        container: &container,
    };
    let mut executed = clone_joining(&joining, &cgroups, number);
    // cgroups(7): a v2 cgroup whose controllers are its children's takes no process.
    let is_full = |error: &SysError| matches!(error.errno, Errno::BUSY | Errno::OPNOTSUPP);
    if matches!(&executed, Err(Error::Clone(CloneError::Sys(error))) if is_full(error)) && cgroups.follow(number)? {
        executed = clone_joining(&joining, &cgroups, number);
    }
    let executed = executed?;
    let told = options.pid_file.map_or(Ok(()), |path| write_pid_file(path, executed.pid));
    let told = told.and_then(|()| pidfd_socket.map_or(Ok(()), |socket| socket.send(executed.pidfd.as_fd())));
    told.map_err(|error| end_failed(&executed.pidfd, error))?;
    Ok(executed)
}

/// The container's first process, where the container is in a status for which there is one.
fn first_process(root: &StateDirectory, state: &RunState, ignore_paused: bool) -> Result<(i32, OwnedFd)> {
    let wrong = |expected, found| Error::WrongStatus { id: state.id.to_string(), operation: "exec", expected, found };
    let directory = root.container(&state.id);
    let opened = state.init.as_ref().map(ProcessRecord::open).transpose()?.flatten();
    let (Some(init), Some(process)) = (&state.init, opened) else {
        return Err(wrong("created or running", state.status(&directory)?));
    };
    match state.status_of_live(&directory) {
        Status::Paused if !ignore_paused => {
            Err(wrong("created or running (or paused, with --ignore-paused)", Status::Paused))
        }
        _ => Ok((init.pid, process)),
    }
}

/// What the agent of a seccomp listener is told.
fn container_of(state: &RunState) -> ContainerOfFilter {
    ContainerOfFilter {
        oci_version: state.oci_version.clone(),
        id: state.id.to_string(),
        status: Status::Running.to_string(),
        bundle: state.bundle.clone(),
        annotations: state.annotations.clone().into_iter().collect(),
    }
}

/// Clones the process; `init` is the number of the container's first one.
fn clone_joining(joining: &Joining<'_>, cgroups: &JoinedCgroups, init: i32) -> Result<Executed> {
    let pipe = pipe_with(PipeFlags::CLOEXEC);
    let (read_end, write_end) = pipe.map_err(|errno| Error::sys(STAGE)(SysError::new("pipe2", "O_CLOEXEC", errno)))?;
    let has_pids = init::namespaces(joining.config.settings()) & u64::from(pid_flag().cast_unsigned()) != 0;
    let own_pids = if has_pids { Some(enter_pid_namespace(joining.init)?) } else { None };
    let cloned = clone_process(CloneOptions { namespaces: 0, cgroup: cgroups.v2(), as_sibling: false });
    if matches!(cloned, Ok(Cloned::Child)) {
        drop((read_end, own_pids));
        init::run_joining(joining, cgroups, write_end)
    }
    drop(write_end);
    let back = own_pids.map_or(Ok(()), |own| set_namespace(own.as_fd(), pid_flag()).map_err(Error::sys(STAGE)));
    let Cloned::Parent { pid, pidfd } = cloned? else { return back.and(Err(Error::InitDied { ended: None })) };
    let pid = pid.as_raw_nonzero().get();
    let processes = Processes { filtered: Filtered::Held(pidfd.as_fd()), pid, init };
    match back.and_then(|()| follow(&mut File::from(read_end), Vec::new(), processes)) {
        Ok(()) => Ok(Executed { pid, pidfd }),
        Err(error) => Err(end_failed(&pidfd, error)),
    }
}
