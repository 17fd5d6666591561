// SPDX-License-Identifier: Apache-2.0 OR MIT
//! exec: a further process in a container of either mode.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use stos_engine::Engine;
use stos_engine::container::{self, ContainerRecord};
use stos_engine::journal::{End, Status};
use stos_engine::security::all_capabilities;
use stos_runtime::{Console, ContainerId, Identity, Mode, console};
use stos_spec::UserSpec;
use stos_sys::process::clone::{CloneOptions, Cloned, clone_process, exit_now};
use stos_sys::process::pidfd;

use super::bundle;
use super::foreground::{self, Outcome, Relay};
use crate::cli::{Exec, Global};
use crate::failure::Failure;
use crate::options;
use crate::target::{self, Target};

/// What runc's exec fails with, whatever fails.
pub const BUNDLE_FAILURE: u8 = 255;

/// Runs a further process. Bundle mode's failures are 255, those of containers from images 125, 126 and 127.
pub fn exec(global: &Global, args: &Exec) -> Result<u8, Failure> {
    if global.bundle_mode {
        // One of an image's is none of an engine's; the record tells, which is read once.
        return exec_in_bundle(&target::run_states(global), args.container().parse(), args);
    }
    let target =
        if args.image.latest { target::latest(global) } else { target::find_to_read(global, args.container()) };
    match target.map_err(|failure| failure.with_exit_code(125))? {
        Target::Bundle(states, id) => exec_in_bundle(&states, Ok(id), args),
        Target::Image(engine, record) => exec_in_image(&engine, args, &record).map_err(|failure| {
            let failure = if failure.is_missing_container() { not_running(&engine, &record, failure) } else { failure };
            let code = exit_code(&failure);
            failure.with_exit_code(code)
        }),
    }
}

/// What it means that ROOT knows nothing of a container: it does not run. Asked only where that is so.
fn not_running(engine: &Engine, record: &ContainerRecord, failure: Failure) -> Failure {
    match container::state(engine, &record.id) {
        Ok(state) => stos_engine::Error::ContainerState {
            action: "execute a process in",
            container: record.name.to_string(),
            state: state.status().to_owned(),
            expected: "running",
        }
        .into(),
        Err(_) => failure,
    }
}

fn exec_in_bundle(
    states: &stos_runtime::StateDirectory,
    id: Result<ContainerId, stos_runtime::id::IdError>,
    args: &Exec,
) -> Result<u8, Failure> {
    let executed = id.map_err(|error| stos_runtime::Error::from(error).into()).and_then(|id| {
        if let Some(option) = args.image.given() {
            return Err(Failure::message(format!("{option} is for containers from images"), BUNDLE_FAILURE));
        }
        bundle::exec(states, &id, args)
    });
    executed.map_err(|failure: Failure| failure.with_exit_code(BUNDLE_FAILURE))
}

fn exit_code(failure: &Failure) -> u8 {
    let code = failure.runtime_error().and_then(stos_runtime::Error::exit_code);
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125)
}

fn exec_in_image(engine: &Engine, args: &Exec, record: &ContainerRecord) -> Result<u8, Failure> {
    let of_bundles = [("--process", args.process.is_some()), ("--console-socket", args.console_socket.is_some())];
    if let Some((option, _)) = of_bundles.iter().find(|(_, is_given)| *is_given) {
        return Err(Failure::message(format!("{option} is for bundle mode"), 125));
    }
    let user = args.user.as_deref().map(str::parse::<UserSpec>).transpose()?;
    let mut changes = bundle::changes(args, options::environment(&args.image.env_file, &args.env)?)?;
    changes.is_of_another_user = user.as_ref().is_some_and(|user| *user != record.user);
    if args.image.privileged {
        changes.capabilities.extend(all_capabilities()?);
    }
    if changes.terminal {
        // As a container with a terminal has it, unless the image or the user says another.
        changes.default_env.push("TERM=xterm".to_owned());
    }
    let identity = Identity::LookUp(user.as_ref().unwrap_or(&record.user));
    let id: ContainerId = record.id.to_string().parse()?;
    let signals = if args.detach { None } else { Some(foreground::block_signals()?) };
    let (console, terminal) = match (args.tty, args.detach) {
        (true, _) => Console::for_caller().map(|(console, end)| (console, Some(end)))?,
        (false, true) => (Console::Null, None),
        (false, false) => {
            if !args.image.interactive {
                rustix::stdio::dup2_stdin(File::open("/dev/null")?.as_fd())?;
            }
            (Console::None, None)
        }
    };
    let executed = stos_runtime::exec(
        &engine.run_states(),
        &id,
        bundle::exec_options(args, Mode::Image, &changes, identity, console)?,
    )?;
    engine.note(Status::Exec, record);
    engine.close_journal();
    let master = terminal.map_or(Ok(None), console::receive)?;
    let Some(signals) = signals else {
        return match master {
            Some(master) => keep_terminal(master, &executed.pidfd),
            None => Ok(0),
        };
    };
    let keys = args.image.detach_keys.clone().unwrap_or_default();
    let keys = args.image.interactive.then_some(&keys);
    let relay = master.map(|master| Relay::of_image(master, keys)).transpose().inspect_err(|_| {
        // The cause counts: without a terminal nobody can talk to it.
        drop(pidfd::send_signal(executed.pidfd.as_fd(), rustix::process::Signal::KILL.as_raw()));
    })?;
    match foreground::wait_or_leave(executed.pid, executed.pidfd.as_fd(), &signals, relay, None)? {
        Outcome::Ended(ended) => {
            let end = End { exit_code: Some(ended.code()), ..End::default() };
            engine.note_end(Status::ExecDied, &engine.renamed(record), end);
            Ok(u8::try_from(ended.code()).unwrap_or(255))
        }
        Outcome::Left(master) => keep_terminal(master, &executed.pidfd),
    }
}

/// Leaves a process with its terminal in the background: a process of ours keeps the terminal open, which the kernel would hang up, and
/// throws away what is written there, until the process has ended.
fn keep_terminal(master: OwnedFd, process: &OwnedFd) -> Result<u8, Failure> {
    match clone_process(CloneOptions::default())? {
        Cloned::Parent { .. } => Ok(0),
        Cloned::Child => exit_now(i32::from(drain_terminal(&master, process).is_err())),
    }
}

fn drain_terminal(master: &OwnedFd, process: &OwnedFd) -> Result<(), Failure> {
    stos_engine::lifecycle::leave_caller(0)?;
    let (mut buffer, mut is_open) = ([0; 4096], true);
    loop {
        let mut fds = vec![PollFd::new(process, PollFlags::IN)];
        if is_open {
            fds.push(PollFd::new(master, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            // EIO: all have closed it.
            is_open = matches!(rustix::io::read(master, &mut buffer), Ok(1..) | Err(Errno::INTR | Errno::AGAIN));
        }
    }
}
