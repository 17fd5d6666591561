// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask faults --peers`: podman, and [`containerd`], under the same faults, at points spread evenly over what it changes, each on a fresh copy of a store.
//!
//! What is told apart: something that was there before is lost; it said that it had succeeded, and it had not; the same command does not
//! succeed afterwards; its own `podman system check` finds damage; bytes stay that no command of its own removes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use nix::errno::Errno;
use stos_testkit::registry::{Options, Registry};

use super::containerd;
use super::tracer::{Fault, Traced, trace};
use crate::process::{Run, output};
use crate::setup;
use crate::small_images::{base, image, publish};

/// What more than the store had before is no leftover: directories and databases that have grown do not shrink.
pub(super) const SLACK: u64 = 256 << 10;

/// The commands: a name, and the arguments; `SMALL` is the image, `ARCHIVE` one of it.
const COMMANDS: &[(&str, &[&str])] = &[
    ("pull", &["pull", "--quiet", "--tls-verify=false", "SMALL"]),
    ("load", &["load", "--quiet", "--input", "ARCHIVE"]),
    (
        "create",
        &["create", "--name", "victim", "--network", "none", "--cgroups", "disabled", "SMALL", "sh", "-c", "exit 3"],
    ),
    ("commit", &["commit", "--quiet", "source", "localhost/committed:1"]),
    ("rmi", &["rmi", "SMALL"]),
];

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
        println!("{}", output(setup::peers::command(&["podman", "--version"].map(str::to_owned)))?.trim());
        let podman = Podman::new()?;
        for (name, arguments) in COMMANDS {
            podman.strike_evenly(name, arguments, points)?;
        }
    }
    if is_meant("containerd") { containerd::run(points) } else { Ok(()) }
}

struct Podman {
    scratch: tempfile::TempDir,
    _registry: Registry,
    small: String,
    kept: String,
}

impl Podman {
    fn new() -> anyhow::Result<Self> {
        let registry = Registry::start(Options::default());
        let base = base()?;
        let (small, kept) = (
            publish(&registry, "small", &image(&base, "small\n")),
            publish(&registry, "kept", &image(&base, "kept\n")),
        );
        let scratch = tempfile::Builder::new().prefix("stos-peers-").tempdir_in("/var/tmp")?;
        let podman = Self { scratch, _registry: registry, small, kept };
        fs::create_dir(podman.scratch.path().join("trace"))?;
        for image in [&podman.kept, &podman.small] {
            podman.ok(&["pull", "--quiet", "--tls-verify=false", image])?;
        }
        podman.ok(&["save", "--quiet", "--output", &podman.seen("small.tar"), &podman.small])?;
        podman.keep("with")?;
        podman.ok(&[
            "create",
            "--name",
            "source",
            "--network",
            "none",
            "--cgroups",
            "disabled",
            &podman.small,
            "true",
        ])?;
        podman.keep("container")?;
        podman.ok(&["rm", "source"])?;
        podman.ok(&["rmi", &podman.small])?;
        podman.keep("without")?;
        Ok(podman)
    }

    /// A file of ours as it is seen in the peers' root.
    fn seen(&self, name: &str) -> String {
        format!("/host{}", self.scratch.path().join(name).display())
    }

    fn store(&self) -> PathBuf {
        self.scratch.path().join("store")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let store = self.seen("store");
        let own = [
            "podman",
            "--root",
            &format!("{store}/root"),
            "--runroot",
            &format!("{store}/run"),
            "--tmpdir",
            &format!("{store}/tmp"),
        ]
        .map(str::to_owned);
        let rest =
            ["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--runtime", "crun"].map(str::to_owned);
        let words: Vec<_> =
            own.into_iter().chain(rest).chain(arguments.iter().map(|word| (*word).to_owned())).collect();
        setup::peers::command(&words)
    }

    fn ok(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(self.command(arguments))
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.command(arguments).output().context("running podman")
    }

    /// Keeps the store as it is.
    fn keep(&self, name: &str) -> anyhow::Result<()> {
        Command::new("cp").arg("-a").arg(self.store()).arg(self.scratch.path().join(name)).run()
    }

    /// Makes the store what it was.
    fn restore(&self, name: &str) -> anyhow::Result<u64> {
        let store = self.store();
        Command::new("rm").arg("-rf").arg(&store).run()?;
        Command::new("cp").arg("-a").arg(self.scratch.path().join(name)).arg(&store).run()?;
        size(&store)
    }

    fn strike_evenly(&self, name: &str, arguments: &[&str], points: usize) -> anyhow::Result<()> {
        let archive = self.seen("small.tar");
        let words: Vec<&str> = arguments
            .iter()
            .map(|word| match *word {
                "SMALL" => self.small.as_str(),
                "ARCHIVE" => &archive,
                word => word,
            })
            .collect();
        // A pull and a load bring what is not there; the others need it.
        let before = match name {
            "pull" | "load" => "without",
            "commit" => "container",
            _ => "with",
        };
        self.restore(before)?;
        // Whatever it finds without a fault is none of the fault's.
        self.ok(&["system", "check"]).context("podman system check without a fault")?;

        let whole = self.trace(&words, None)?;
        ensure!(whole.succeeded(), "podman {name} without a fault: {}", whole.stderr);
        let calls = whole.points.len();
        let (mut faults, mut losses) = (0, BTreeMap::<String, usize>::new());
        for number in 0..points {
            for fault in [Fault::Kill, Fault::Error(Errno::ENOSPC)] {
                let bytes = self.restore(before)?;
                let at = calls * (2 * number + 1) / (2 * points);
                let traced = match self.trace(&words, Some((at, fault))) {
                    Ok(traced) if traced.struck.is_none() => continue,
                    Ok(traced) => traced,
                    Err(error) if error.to_string().starts_with("it hung") => {
                        faults += 1;
                        *losses.entry(format!("{fault}: it hangs for a minute, and is killed")).or_default() += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                faults += 1;
                for loss in self.losses(name, &words, &traced, bytes)? {
                    *losses.entry(format!("{fault}: {loss}")).or_default() += 1;
                }
            }
        }
        let lost: usize = losses.values().sum();
        println!(
            "{name:<8} {calls:>7} {faults:>7} {:>9}",
            if lost == 0 { "all".to_owned() } else { "not all".to_owned() }
        );
        for (loss, count) in &losses {
            println!("{count:>5} × {loss}");
        }
        Ok(())
    }

    fn trace(&self, words: &[&str], strike: Option<(usize, Fault)>) -> anyhow::Result<Traced> {
        trace(&self.command(words), "podman", strike, &self.scratch.path().join("trace"))
    }

    fn losses(&self, name: &str, words: &[&str], traced: &Traced, bytes: u64) -> anyhow::Result<Vec<String>> {
        let mut losses = Vec::new();
        let proves = |image: &str, expected: &str| -> anyhow::Result<Option<String>> {
            let run =
                self.run(&["run", "--rm", "--network", "none", "--cgroups", "disabled", image, "cat", "/srv/marker"])?;
            let (said, error) = (String::from_utf8_lossy(&run.stdout), last_line(&run));
            Ok((said != expected).then(|| if error.is_empty() { format!("it says {said:?}") } else { error }))
        };
        if let Some(why) = proves(&self.kept, "kept\n")? {
            losses.push(format!("an image that was there before does not run: {why}"));
        }
        let check = self.run(&["system", "check"])?;
        if !check.status.success() {
            losses.push("podman system check finds damage".to_owned());
        }
        let brings = matches!(name, "pull" | "load");
        if brings
            && traced.succeeded()
            && let Some(why) = proves(&self.small, "small\n")?
        {
            losses.push(format!("it succeeded, and the image does not run: {why}"));
        }
        if !traced.succeeded() {
            let again = self.run(words)?;
            // What had come about after all is no loss.
            let is_done = name == "rmi" && !self.run(&["image", "exists", &self.small])?.status.success();
            let is_there = name == "create" && self.run(&["container", "exists", "victim"])?.status.success();
            if !again.status.success() && !is_done && !is_there {
                losses.push(format!("the same command fails afterwards: {}", last_line(&again)));
            } else if brings && let Some(why) = proves(&self.small, "small\n")? {
                losses.push(format!("the image of the next {name} does not run: {why}"));
            }
        }
        // What came of it goes again, and all that podman knows to be needless.
        for container in ["victim", "source"] {
            self.run(&["rm", "--force", "--ignore", container])?;
        }
        for image in [self.small.as_str(), "localhost/committed:1"] {
            self.run(&["rmi", "--force", "--ignore", image])?;
        }
        self.run(&["system", "prune", "--force"])?;
        let left = size(&self.store())?;
        if left > bytes + SLACK {
            losses.push("bytes stay that no podman rmi or system prune removes".to_owned());
        }
        Ok(losses)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What podman has mounted went with the mount namespaces of its commands.
        let _ = Command::new("rm").arg("-rf").arg(self.scratch.path()).status();
    }
}

/// What it takes of the disk in bytes, by `du`.
pub(super) fn size(directory: &Path) -> anyhow::Result<u64> {
    let printed = output(Command::new("du").args(["-s", "-B1"]).arg(directory))?;
    printed.split_whitespace().next().and_then(|word| word.parse().ok()).with_context(|| format!("du: {printed:?}"))
}

/// The last line of what it said on stderr, without what differs each time.
fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let is_id = |word: &str| word.len() >= 12 && word.chars().all(|letter| letter.is_ascii_hexdigit());
    let words = line.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| is_id(word));
    let plain = words.fold(line.to_owned(), |line, id| line.replace(id, "ID"));
    plain.chars().take(160).collect()
}
