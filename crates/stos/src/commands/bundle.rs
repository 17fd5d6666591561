// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bundle mode's create, run and exec. DATA-ROOT is never opened here.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Id};
use stos_runtime::lifecycle::{self, CreateOptions};
use stos_runtime::{
    Console, ContainerId, ExecOptions, Identity, Inherited, Mode, ProcessChanges, ProcessFile, ProcessRecord,
    Readiness, StateDirectory, console,
};
use stos_sys::process::clone::check_inherited;
use stos_sys::process::credentials::become_subreaper;
use stos_sys::process::pidfd;

use super::foreground::{self, Relay};
use super::own_terminal::own_size;
use crate::cli::{BundleOptions, Exec, Global, ImageOptions, Run, What};
use crate::failure::Failure;
use crate::target;

/// Gives the bundle's directory, where bundle mode is meant.
pub fn directory(global: &Global, options: &BundleOptions) -> Option<PathBuf> {
    options.bundle.clone().or_else(|| global.bundle_mode.then(|| PathBuf::from(".")))
}

/// Refuses, by name, options that are for containers from images: `given` is what stands on the line of a create or run that has a bundle.
pub fn refuse_image_options(given: &[Id]) -> Result<(), Failure> {
    let of_images = ImageOptions::augment_args(clap::Command::new("image"));
    let of_images: Vec<_> = of_images.get_arguments().map(clap::Arg::get_id).collect();
    let is_refused =
        |id: &&Id| of_images.contains(id) || ["rm", "progress", "detach_keys", "sig_proxy"].contains(&id.as_str());
    match given.iter().find(is_refused) {
        Some(id) => {
            let option = id.as_str().replace('_', "-");
            Err(Failure::message(
                format!("--{option} is for containers from images: a bundle's config.json decides"),
                1,
            ))
        }
        None => Ok(()),
    }
}

/// A bundle says itself what runs: nothing may follow the id.
fn parse_id(what: &What) -> Result<ContainerId, Failure> {
    if let Some(word) = what.command().first() {
        let id = what.subject();
        return Err(Failure::message(
            format!("unexpected {word:?} after the id {id:?}: a bundle has its own command"),
            1,
        ));
    }
    Ok(what.subject().parse::<ContainerId>().map_err(stos_runtime::Error::from)?)
}

/// Counts the descriptors that a container gets of our caller's: those of socket activation (sd_listen_fds(3)), where they are meant
/// for us, and `preserved` more.
pub fn inherited(preserved: u32, takes_sockets: bool) -> Result<Inherited, Failure> {
    let variable = |name: &str| std::env::var_os(name).and_then(|value| value.into_string().ok());
    let number = |name: &str| variable(name).and_then(|value| value.parse::<u32>().ok());
    let mut inherited = Inherited { preserved, ..Inherited::default() };
    if takes_sockets && number("LISTEN_PID") == Some(std::process::id()) {
        inherited.listening = number("LISTEN_FDS").unwrap_or(0);
        inherited.names = variable("LISTEN_FDNAMES").and_then(|names| CString::new(names).ok());
    }
    check_inherited(inherited.count())
        .with_context(|| format!("--preserve-fds {preserved} and LISTEN_FDS {}", inherited.listening))?;
    Ok(inherited)
}

/// Who gets the terminal, and where it comes out if that is us.
fn console(detach: bool, socket: Option<&Path>) -> Result<(Console<'_>, Option<OwnedFd>), Failure> {
    match (detach, socket) {
        (true, Some(socket)) => Ok((Console::Socket(socket), None)),
        (true, None) => Ok((Console::None, None)),
        (false, Some(_)) => {
            Err(Failure::message("cannot use a console socket: it is for a process that is left in the background", 1))
        }
        (false, None) => Console::for_caller().map(|(console, end)| (console, Some(end))).map_err(Failure::from),
    }
}

/// Shows the terminal of a process on ours, where the process has one.
fn relay(end: Option<OwnedFd>) -> Result<Option<Relay>, Failure> {
    let master = end.map_or(Ok(None), console::receive)?;
    master.map(Relay::new).transpose()
}

/// The socket of our caller's service manager (sd_notify(3)), which may be told when a container is ready.
pub fn notify_socket() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())
}

/// Listens for the readiness of a container that is about to be started, where a service manager waits for it.
fn listen(states: &StateDirectory, id: &ContainerId) -> Result<Option<Readiness>, Failure> {
    match notify_socket() {
        Some(socket) => Ok(Readiness::listen(&states.container(id), socket)?),
        None => Ok(None),
    }
}

/// Starts a container that was created. Where a service manager waits for its readiness, so does this.
pub fn start(states: &StateDirectory, id: &ContainerId) -> Result<(), Failure> {
    let Some(readiness) = listen(states, id)? else { return Ok(lifecycle::start(states, id)?) };
    let state = states.read(id)?;
    let process = state.init.as_ref().map(ProcessRecord::open).transpose()?.flatten();
    lifecycle::start(states, id)?;
    match (state.init, process) {
        (Some(init), Some(process)) => Ok(readiness.wait(process.as_fd(), init.pid)?),
        _ => Ok(()),
    }
}

fn create_options<'a>(
    global: &Global,
    options: &'a BundleOptions,
    bundle: &'a Path,
    console: Console<'a>,
) -> Result<CreateOptions<'a>, Failure> {
    if options.no_pivot {
        return Err(Failure::message(
            "--no-pivot is not supported: a container without pivot_root(2) can get out of its root",
            1,
        ));
    }
    Ok(CreateOptions {
        bundle,
        pid_file: options.pid_file.as_deref(),
        console,
        inherited: inherited(options.preserve_fds, true)?,
        new_keyring: !options.no_new_keyring,
        pidfd_socket: options.pidfd_socket.as_deref(),
        notifies: notify_socket().is_some(),
        systemd_cgroup: global.systemd_cgroup,
    })
}

/// Creates a container whose first process waits for `start`.
pub fn create(global: &Global, what: &What, bundle: &Path, options: &BundleOptions) -> Result<u8, Failure> {
    let (console, _) = console(true, options.console_socket.as_deref())?;
    let create = create_options(global, options, bundle, console)?;
    lifecycle::create(&target::run_states(global), &parse_id(what)?, create)?;
    Ok(0)
}

/// Creates and starts a container; unless detached, stays until it has ended, passes signals on, and deletes it. Where a service manager
/// waits for its readiness, so does a detached one: the manager is told to watch the container, and else us.
pub fn run(global: &Global, args: &Run, bundle: &Path) -> Result<u8, Failure> {
    let id = parse_id(&args.what)?;
    let states = target::run_states(global);
    let signals = if args.detach { None } else { Some(foreground::block_signals()?) };
    let (console, terminal) = console(args.detach, args.bundle.console_socket.as_deref())?;
    let options = create_options(global, &args.bundle, bundle, console)?;
    if signals.is_some() && !args.no_subreaper {
        become_subreaper()?;
    }
    let state = lifecycle::create(&states, &id, options)?;
    let started = (|| {
        let process = ProcessRecord::of(state.pid)?.map(|process| process.open()).transpose()?.flatten();
        let relay = relay(terminal)?;
        let readiness = listen(&states, &id)?;
        lifecycle::start(&states, &id)?;
        Ok((process, relay, readiness))
    })();
    let (process, relay, readiness) = match started {
        Ok(started) => started,
        Err(failure) => {
            lifecycle::delete(&states, &id, true)?;
            return Err(failure);
        }
    };
    let Some(process) = process else { return Ok(0) };
    let Some(signals) = signals else {
        readiness.map_or(Ok(()), |readiness| readiness.wait(process.as_fd(), state.pid))?;
        return Ok(0);
    };
    let ended = foreground::wait(state.pid, process.as_fd(), &signals, relay, readiness)?;
    if !args.keep {
        lifecycle::delete(&states, &id, true)?;
    }
    Ok(u8::try_from(ended.code()).unwrap_or(255))
}

/// Whether a further process may have a terminal: it has none unless that is asked for, here or in a file.
fn may_have_terminal(args: &Exec) -> bool {
    args.tty || args.process.is_some()
}

/// Runs a further process in a container of bundle mode. Whatever fails before it runs is 255, as runc has it.
pub fn exec(states: &StateDirectory, id: &ContainerId, args: &Exec) -> Result<u8, Failure> {
    let (uid, gid) = args.user.as_deref().map(parse_ids).transpose()?.unwrap_or_default();
    let changes = ProcessChanges { uid, gid, ..changes(args, args.env.clone())? };
    let signals = if args.detach { None } else { Some(foreground::block_signals()?) };
    let socket = args.console_socket.as_deref();
    let needs_console = may_have_terminal(args) || socket.is_some();
    let (console, terminal) = if needs_console { console(args.detach, socket)? } else { (Console::None, None) };
    let options = exec_options(args, Mode::Bundle, &changes, Identity::FromSpec, console)?;
    let executed = stos_runtime::exec(states, id, options)?;
    let Some(signals) = signals else { return Ok(0) };
    let relay = relay(terminal).inspect_err(|_| {
        // The cause counts: without a terminal nobody can talk to it.
        drop(pidfd::send_signal(executed.pidfd.as_fd(), rustix::process::Signal::KILL.as_raw()));
    })?;
    let ended = foreground::wait(executed.pid, executed.pidfd.as_fd(), &signals, relay, None)?;
    Ok(u8::try_from(ended.code()).unwrap_or(255))
}

/// What a further process is executed with.
pub fn exec_options<'a>(
    args: &'a Exec,
    mode: Mode,
    changes: &'a ProcessChanges,
    identity: Identity<'a>,
    console: Console<'a>,
) -> Result<ExecOptions<'a>, Failure> {
    Ok(ExecOptions {
        mode,
        changes,
        identity,
        console,
        cgroups: &args.cgroup,
        ignore_paused: args.ignore_paused,
        pid_file: args.pid_file.as_deref(),
        pidfd_socket: args.pidfd_socket.as_deref(),
        inherited: inherited(args.preserve_fds, false)?,
    })
}

/// What the command line says of a further process, but for its user.
pub fn changes(args: &Exec, env: Vec<String>) -> Result<ProcessChanges, Failure> {
    let read = |path: &PathBuf| -> anyhow::Result<_> {
        let context = || format!("--process {}", path.display());
        let bytes = std::fs::read(path).with_context(context)?;
        Ok(ProcessFile { process: serde_json::from_slice(&bytes).with_context(context)?, path: path.clone() })
    };
    let command = args.command().to_vec();
    match (&args.process, command.first()) {
        (Some(_), Some(word)) => {
            return Err(Failure::message(format!("unexpected {word:?}: --process has its own command"), 1));
        }
        (None, None) => return Err(Failure::message("expected a command after the container, or --process", 1)),
        _ => {}
    }
    Ok(ProcessChanges {
        process: args.process.as_ref().map(read).transpose()?,
        args: command,
        cwd: args.cwd.clone(),
        env,
        default_env: Vec::new(),
        uid: None,
        gid: None,
        additional_gids: args.additional_gids.clone(),
        is_of_another_user: false,
        capabilities: args.cap.clone(),
        no_new_privileges: args.no_new_privs,
        terminal: args.tty,
        // Known before the process asks for it.
        console_size: if may_have_terminal(args) && !args.detach { own_size() } else { None },
        apparmor: args.apparmor.clone(),
        label: args.process_label.clone(),
    })
}

/// Reads `UID[:GID]`. A bundle's users are numbers: its engine knows the names.
fn parse_ids(text: &str) -> Result<(Option<u32>, Option<u32>), Failure> {
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    let number = |text: &str| {
        let refused = || Failure::message(format!("--user {text:?}: expected UID[:GID] in numbers"), 1);
        text.parse::<u32>().map_err(|_| refused())
    };
    Ok((Some(number(uid)?), gid.map(number).transpose()?))
}
