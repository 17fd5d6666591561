// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SIGINT and SIGTERM end the measuring between two measures, and not what cleans up after it.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

static IS_OVER: AtomicBool = AtomicBool::new(false);

/// From here on the signals only say that it is over. Commands that are spawned have them as ever: std unblocks them.
fn block() -> anyhow::Result<SigSet> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().context("blocking signals")?;
    Ok(signals)
}

/// Waits for the signals in a thread of its own.
pub fn watch() -> anyhow::Result<()> {
    let signals = block()?;
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            IS_OVER.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Fails when it is over.
pub fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!IS_OVER.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Runs a command that watches, and hands the signals on to it.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let signals = block()?;
    let mut child: Child = command.spawn().context("running what measures")?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    std::thread::spawn(move || {
        // One is enough: it ends by that, and its number may be another's then.
        if signals.wait().is_ok() {
            let _ = kill(pid, Signal::SIGTERM);
        }
    });
    let status = child.wait().context("waiting for what measures")?;
    anyhow::ensure!(status.success(), "what measures: {status}");
    Ok(())
}
