// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask faults --peers`: [`podman`] and [`containerd`] under the same faults, at points spread evenly over what they change, each on a
//! fresh copy of a store.
//!
//! What is told apart: something that was there before is lost; it said that it had succeeded, and it had not; the same command does not
//! succeed afterwards; bytes stay that no command of its own removes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;
use nix::errno::Errno;
use stos_testkit::registry::{Options, Registry};

use super::tracer::{Fault, Hung, Traced, trace};
use super::{containerd, podman};
use crate::place::disk_use;
use crate::process::Run;
use crate::setup;
use crate::small_images::{base, image, publish};

/// What more than the store had before is no leftover: directories and databases that have grown do not shrink.
pub const SLACK: u64 = 256 << 10;

/// What is lost with a command that does not end.
pub const HANGS: &str = "it hangs for a minute, and is killed";

/// Strikes at `points` points of each command, killed and with a full disk, and prints what podman and containerd lose, or those of them that
/// are named.
pub fn run(points: usize, only: &[String]) -> anyhow::Result<()> {
    ensure!(
        only.iter().all(|name| ["podman", "containerd"].contains(&name.as_str())),
        "the peers are podman and containerd"
    );
    setup::run(true)?;
    let is_meant = |name: &str| only.is_empty() || only.iter().any(|meant| meant == name);
    println!("{:<8} {:>7} {:>7} {:>9}", "command", "calls", "faults", "survived");
    if is_meant("podman") {
        podman::run(points)?;
    }
    if is_meant("containerd") { containerd::run(points) } else { Ok(()) }
}

/// A peer's store, copies of it, and the images that the peer pulls.
pub struct Store {
    scratch: tempfile::TempDir,
    _registry: Registry,
    /// The image that the commands are about.
    pub small: String,
    /// The image that must outlive everything.
    pub kept: String,
}

impl Store {
    /// Publishes the images; the store is the peer's to make.
    pub fn new() -> anyhow::Result<Self> {
        let registry = Registry::start(Options::default());
        let base = base()?;
        let (small, kept) = (
            publish(&registry, "small", &image(&base, "small\n")),
            publish(&registry, "kept", &image(&base, "kept\n")),
        );
        let scratch = tempfile::Builder::new().prefix("stos-peers-").tempdir_in("/var/tmp")?;
        fs::create_dir(scratch.path().join("trace"))?;
        Ok(Self { scratch, _registry: registry, small, kept })
    }

    /// A file of ours as it is seen in the peers' root.
    pub fn seen(&self, name: &str) -> String {
        format!("/host{}", self.scratch.path().join(name).display())
    }

    /// Where the store is.
    pub fn store(&self) -> PathBuf {
        self.scratch.path().join("store")
    }

    /// Keeps the store as it is.
    pub fn keep(&self, name: &str) -> anyhow::Result<()> {
        Command::new("cp").arg("-a").arg(self.store()).arg(self.scratch.path().join(name)).run()
    }

    /// Makes the store what it was, and gives what it takes of the disk.
    pub fn restore(&self, name: &str) -> anyhow::Result<u64> {
        let store = self.store();
        Command::new("rm").arg("-rf").arg(&store).run()?;
        Command::new("cp").arg("-a").arg(self.scratch.path().join(name)).arg(&store).run()?;
        disk_use(&store)
    }

    /// Traces a command from where it has become `program` on.
    pub fn trace(&self, command: &Command, program: &str, strike: Option<(usize, Fault)>) -> anyhow::Result<Traced> {
        trace(command, program, strike, &self.scratch.path().join("trace"))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // What a peer has mounted went with the mount namespaces of its commands.
        let _ = Command::new("rm").arg("-rf").arg(self.scratch.path()).status();
    }
}

/// Strikes at `points` points of a command that makes so many `calls`, killed and with a full disk, and prints what is lost. `losses` gets
/// the command, `None` where it hung, and what the store took of the disk before.
pub fn strike_evenly(
    name: &str,
    points: usize,
    calls: usize,
    restore: impl Fn() -> anyhow::Result<u64>,
    play: impl Fn(Option<(usize, Fault)>) -> anyhow::Result<Traced>,
    losses: impl Fn(Option<&Traced>, u64) -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<()> {
    let (mut faults, mut found) = (0, BTreeMap::<String, usize>::new());
    for number in 0..points {
        for fault in [Fault::Kill, Fault::Error(Errno::ENOSPC)] {
            let bytes = restore()?;
            let traced = match play(Some((calls * (2 * number + 1) / (2 * points), fault))) {
                Ok(traced) if traced.struck.is_none() => continue,
                Ok(traced) => Some(traced),
                Err(error) if error.is::<Hung>() => None,
                Err(error) => return Err(error),
            };
            faults += 1;
            for loss in losses(traced.as_ref(), bytes)? {
                *found.entry(format!("{fault}: {loss}")).or_default() += 1;
            }
        }
    }
    let survived = if found.is_empty() { "all" } else { "not all" };
    println!("{name:<8} {calls:>7} {faults:>7} {survived:>9}");
    for (loss, count) in &found {
        println!("{count:>5} × {loss}");
    }
    Ok(())
}
