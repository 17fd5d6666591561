// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SIGINT and SIGTERM end the measuring between two measures, and not what cleans up after it.
//!
//! They are handled, not blocked: a command that is spawned would inherit a mask, and could not be ended by them.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// Whether a signal has come.
static IS_OVER: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on the signals only say that it is over.
pub fn watch() -> anyhow::Result<()> {
    let is_over = IS_OVER.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(is_over)).context("handling signals")?;
    }
    Ok(())
}

/// Fails when it is over.
pub fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!IS_OVER.get().is_some_and(|is_over| is_over.load(Ordering::Relaxed)), "interrupted");
    Ok(())
}

/// Runs a command that watches, and hands the signals on to it.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("handling signals")?;
    let mut child: Child = command.spawn().context("running what measures")?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    std::thread::spawn(move || {
        // One is enough: it ends by that, and its number may be another's then.
        if signals.forever().next().is_some() {
            let _ = kill(pid, Signal::SIGTERM);
        }
    });
    let status = child.wait().context("waiting for what measures")?;
    anyhow::ensure!(status.success(), "what measures: {status}");
    Ok(())
}
