// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask soak`: pulls, creates, runs, removals and sweeps against each other on one store, for minutes. No command may
//! fail, every byte must be right at the end, and the disk must be as it was.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use stos_testkit::docker_registry::DockerRegistry;

use crate::place::Place;
use crate::setup;
use crate::workspace::build_release;

/// How much more of the disk may be in use at the end: directories that have grown do not shrink.
const SLACK: u64 = 256 << 10;

/// How often each kind of command has run.
type Counts = Mutex<BTreeMap<&'static str, u64>>;
/// What one of the loops does in its n-th turn.
type Work = fn(&Soak, u64) -> anyhow::Result<()>;

/// Runs the loops for so long.
pub fn run(minutes: u64) -> anyhow::Result<()> {
    anyhow::ensure!(minutes > 0, "expected at least one minute");
    setup::run(false)?;
    let place = Place::new(build_release()?)?;
    let registry = DockerRegistry::start_over_cache()?;
    let soak = Soak {
        place,
        address: registry.address().to_owned(),
        is_over: AtomicBool::new(false),
        counts: Counts::default(),
    };
    soak.place.ok(&["pull", "--quiet", "--tls-verify=false", &soak.reference("deb:12")])?;
    soak.place.ok(&["run", "--rm", "deb:12", "true"])?;
    let before = soak.place.disk_use()?;
    soak.loops(Duration::from_secs(minutes * 60))?;
    // What the last create or run has pulled.
    for image in ["many:100", "sci:2"] {
        soak.one("rmi", &["rmi", &soak.reference(image)], &["no such image"])?;
    }
    let images = soak.place.ok(&["images", "--quiet"])?;
    anyhow::ensure!(images.lines().count() == 1, "expected the first image alone, found {images:?}");
    soak.place.ok(&["system", "gc"])?;
    soak.place.check_locks()?;
    soak.place.check()?;
    let after = soak.place.disk_use()?;
    println!("\n{minutes} minutes of commands against each other, all of which succeeded:");
    for (name, count) in soak.counts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("  {count:>6} {name}");
    }
    println!("  check --full is clean; bytes on disk before {before}, after {after}");
    anyhow::ensure!(after <= before + SLACK, "the disk has {} bytes more in use", after - before);
    Ok(())
}

struct Soak {
    place: Place,
    address: String,
    is_over: AtomicBool,
    counts: Counts,
}

impl Soak {
    fn reference(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    fn loops(&self, time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        let failure = Mutex::new(None);
        let repeat = |work: Work| {
            let mut turn = 0;
            while start.elapsed() < time && !self.is_over.load(Ordering::Relaxed) {
                if let Err(error) = work(self, turn) {
                    self.is_over.store(true, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
                turn += 1;
            }
        };
        std::thread::scope(|scope| {
            for work in [Self::pull, Self::create, Self::run, Self::sweep] {
                let repeat = &repeat;
                scope.spawn(move || repeat(work));
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Runs one command, which must succeed, or fail with one of the `allowed` words.
    fn one(&self, name: &'static str, arguments: &[&str], allowed: &[&str]) -> anyhow::Result<String> {
        let output = self.place.run(arguments)?;
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        let said = String::from_utf8_lossy(&output.stderr);
        let is_fine = output.status.success() || allowed.iter().any(|words| said.contains(words));
        anyhow::ensure!(is_fine, "stos {}: {}\n{said}", arguments.join(" "), output.status);
        String::from_utf8(output.stdout).context("stos printed no UTF-8")
    }

    /// The large images come and go.
    fn pull(&self, turn: u64) -> anyhow::Result<()> {
        let reference = self.reference(["many:100", "sci:2"][usize::try_from(turn % 2)?]);
        self.one("pull", &["pull", "--quiet", "--tls-verify=false", &reference], &[])?;
        // The other loops may be using it, or have removed it.
        self.one("rmi", &["rmi", &reference], &["is used by", "no such image"]).map(drop)
    }

    /// Containers come and go, of the image that stays and of one that may be gone at any moment.
    fn create(&self, turn: u64) -> anyhow::Result<()> {
        let reference = self.reference(["deb:12", "many:100"][usize::from(turn.is_multiple_of(16))]);
        let id = self.one("create", &["create", "--tls-verify=false", &reference, "true"], &[])?;
        self.one("delete", &["delete", id.trim()], &[]).map(drop)
    }

    fn run(&self, turn: u64) -> anyhow::Result<()> {
        let (image, script) = match turn.is_multiple_of(16) {
            true => ("many:100", "cat /etc/debian_version && echo done"),
            false => ("deb:12", "echo done >/tmp/file && cat /tmp/file"),
        };
        let reference = self.reference(image);
        let said = self.one("run", &["run", "--rm", "--tls-verify=false", &reference, "sh", "-c", script], &[])?;
        anyhow::ensure!(said.ends_with("done\n"), "the container said {said:?}");
        Ok(())
    }

    fn sweep(&self, turn: u64) -> anyhow::Result<()> {
        match turn % 4 {
            0 => self.one("image prune", &["image", "prune", "--force"], &[]),
            1 => self.one("system df", &["system", "df"], &[]),
            2 => self.one("images", &["images"], &[]),
            _ => self.one("system gc", &["system", "gc"], &[]),
        }
        .map(drop)
    }
}
