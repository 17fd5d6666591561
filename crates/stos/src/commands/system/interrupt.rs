// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ctrl-C in a command that adds to the store: it ends at once, and leaves nothing half done.
//!
//! A command may be waiting for a network, a disk, or another command; and it may have several threads that write. So it is not
//! asked to end: on SIGHUP, SIGINT and SIGTERM it *becomes* `stos system sweep`. execve(2) ends all its threads at one instant and
//! gives up its locks, which leaves what `kill -9` would: the store as it was, whole layers that the next pull uses, and staging
//! directories and lists of leases that nobody holds. Those the sweep removes, and then ends by the signal that came, so that a
//! shell says 129, 130 or 143, and ends its script too.
//!
//! A staged layer of `erofs` is a few files. One of `dirs` is as many as the image has, and their removal may take seconds: then
//! the rest goes on in the background. It is garbage that nobody sees, and that any other command would remove as well.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::panic;
use std::process::{self, Stdio};
use std::sync::Once;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Pid;
use stos_store::Store;
use stos_sys::process::pidfd;
use stos_sys::signals::{self, ExecuteOn};

use crate::cli::{Command, Global, Image, SystemSweep};
use crate::failure::Failure;

/// How long a person who has pressed Ctrl-C waits for the sweep.
const PATIENCE: Duration = Duration::from_millis(120);

/// SIGHUP, SIGINT, SIGTERM.
const SIGNALS: [i32; 3] = [1, 2, 15];

/// Tells whether a command adds to the store for as long as it runs. create and run do so for a while only, and begin and end it
/// themselves.
pub fn is_long(command: &Command) -> bool {
    matches!(
        command,
        Command::Pull(_)
            | Command::Push(_)
            | Command::Save(_)
            | Command::Load(_)
            | Command::Import(_)
            | Command::Commit(_)
            | Command::Image(Image::Pull(_) | Image::Push(_) | Image::Save(_) | Image::Load(_) | Image::Import(_))
    )
}

/// From now on, and until what comes back is dropped, signals that end the command sweep the store first.
pub fn sweep_at_signals(global: &Global) -> Result<ExecuteOn, Failure> {
    silence_the_last_panics();
    let c_string = |text: &OsStr| CString::new(text.as_bytes());
    let mut words = Vec::new();
    for word in ["stos", "--data-root"].map(OsStr::new).into_iter().chain([
        global.data_root.as_os_str(),
        OsStr::new("--root"),
        global.root.as_os_str(),
    ]) {
        words.push(c_string(word)?);
    }
    for word in ["system", "sweep", "--signal"] {
        words.push(c_string(OsStr::new(word))?);
    }
    let with_signal = |signal: i32| {
        let number = CString::new(signal.to_string()).unwrap_or_default();
        words.iter().cloned().chain([number]).collect()
    };
    let variable = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec())
    };
    let env = std::env::vars_os().map(variable).collect::<Result<Vec<_>, _>>()?;
    // Not by its name: that may lead to another version by now.
    Ok(ExecuteOn::new(&SIGNALS, c"/proc/self/exe", with_signal, &env)?)
}

/// A thread that cannot be started because the process is becoming another program would make this one panic, which would end it
/// before: whoever panics then waits for that.
fn silence_the_last_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            while signals::is_executing() {
                thread::park();
            }
            usual(info);
        }));
    });
}

/// Removes what nobody holds; for a signal only as long as a person waits, and then ends by it.
pub fn sweep(global: &Global, args: &SystemSweep) -> Result<u8, Failure> {
    let Some(signal) = args.signal else {
        sweep_store(global);
        return Ok(0);
    };
    match sweep_beside(global) {
        Ok(sweeper) => drop(pidfd::wait_end(sweeper.as_fd(), PATIENCE)?),
        Err(error) => {
            tracing::warn!(%error, "cannot sweep in the background");
            sweep_store(global);
        }
    }
    signals::end_by(signal)?;
    // The first process of a pid namespace goes on.
    Ok(u8::try_from(128 + signal).unwrap_or(255))
}

fn sweep_store(global: &Global) {
    // A store that was not made yet is not made now.
    if !global.data_root.join("stos.json").exists() {
        return;
    }
    match Store::open(&global.data_root).and_then(|store| store.sweep_locks()) {
        // In a store that can only be read nothing can have been left.
        Ok(()) | Err(stos_store::Error::ReadOnly { .. }) => {}
        Err(error) => tracing::warn!(%error, "not everything could be removed: the next command tries again"),
    }
}

/// Starts a process that sweeps, in a group of its own: no further Ctrl-C reaches it. Gives a descriptor of it.
fn sweep_beside(global: &Global) -> anyhow::Result<OwnedFd> {
    let mut command = process::Command::new("/proc/self/exe");
    command.arg0("stos").arg("--data-root").arg(&global.data_root).arg("--root").arg(&global.root);
    command.args(["system", "sweep"]).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process without a number")?;
    // It is our child, so its number is its own until we have waited for it.
    pidfd::open(pid)?.context("a child that is gone before it was waited for")
}
