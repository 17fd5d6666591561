// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An init for a container whose command should not be the first process: this process stays it, and the command is its child.
//!
//! It executes nothing, so there is no program that a container would have to be lent. What it is confined by is what the command is
//! confined by: ids, capabilities, filter, no descriptor. Its memory is a copy of the launch's, so nobody may trace it or read its
//! `/proc` who lacks CAP_SYS_PTRACE in the host's user namespace, and what the launch was called with is wiped out. The seccomp profile
//! must allow it fork(2), rt_sigtimedwait(2), wait4(2) and kill(2).

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::process::{Pid, getpid, setpgid};
use rustix::stdio::stdin;
use rustix::termios::tcsetpgrp;
use stos_sys::SysError;
use stos_sys::process::clone::{exit_now, reset_signals};
use stos_sys::process::credentials::{become_subreaper, set_dumpable};
use stos_sys::process::identity::caller_areas;
use stos_sys::process::reaper::{block_all_signals, close_streams, fork, serve};

use super::command::Command;
use super::{Channel, Restriction, Step};
use crate::init_error::InitError;

/// What lists of processes have for it.
pub(super) const NAME: &CStr = c"stos-init";

fn step() -> impl Fn(SysError) -> InitError {
    |error| InitError::step("start the container's init")(error)
}

/// Takes what the launch was called with out of this process's memory, where others would read it as the arguments and the environment
/// of the container's first process. It is called `name` then.
pub(super) fn forget_caller(name: &CStr) -> Step {
    wipe(name).map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        step()(SysError::new("write", "/proc/self/mem", errno))
    })?;
    rustix::thread::set_name(name).map_err(|errno| step()(SysError::new("prctl", "PR_SET_NAME", errno)))
}

fn wipe(name: &CStr) -> io::Result<()> {
    let name = name.to_bytes();
    let areas = caller_areas().map_err(|error| io::Error::from(error.errno))?;
    let memory = File::options().write(true).open("/proc/self/mem")?;
    let zeros = |area: &Range<u64>| vec![0; usize::try_from(area.end.saturating_sub(area.start)).unwrap_or(0)];
    let mut arguments = zeros(&areas.arguments);
    // The last byte stays a zero: else the kernel takes the environment for a part of it.
    let room = arguments.len().saturating_sub(1).min(name.len());
    arguments[..room].copy_from_slice(&name[..room]);
    memory.write_all_at(&arguments, areas.arguments.start)?;
    memory.write_all_at(&zeros(&areas.environment), areas.environment.start)
}

/// Runs the command as a child, and ends as it does. Returns only an error, and that in the child too, whose report it is.
pub(super) fn run(
    command: Command,
    has_terminal: bool,
    channel: &Channel,
    restriction: &mut Restriction<'_>,
) -> Step<Infallible> {
    set_dumpable(false).map_err(step())?;
    block_all_signals().map_err(step())?;
    if getpid() != Pid::INIT {
        // The pid namespace is another's, whose first process would have the orphans: prctl(2) makes them ours.
        become_subreaper().map_err(step())?;
    }
    restriction.apply(channel)?;
    let Some(child) = fork().map_err(step())? else {
        lead(has_terminal)?;
        reset_signals();
        return command.execute(|| Ok(()));
    };
    // The child alone has something to say from here on, and who listens waits for the end.
    channel.lead_to(None);
    close_streams();
    exit_now(serve(child).map_or(1, |ended| ended.code()))
}

/// Makes the command the leader of a process group, that of the terminal where there is one: job control works as ever.
fn lead(has_terminal: bool) -> Step {
    setpgid(None, None).map_err(|errno| step()(SysError::new("setpgid", "0, 0", errno)))?;
    if has_terminal {
        tcsetpgrp(stdin(), getpid()).map_err(|errno| step()(SysError::new("tcsetpgrp", "0", errno)))?;
    }
    Ok(())
}
