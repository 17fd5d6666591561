// SPDX-License-Identifier: Apache-2.0 OR MIT
//! podman under the same faults: `podman system check` must find nothing afterwards either.

use std::process::{Command, Output};

use anyhow::{Context, ensure};

use super::peers::{HANGS, SLACK, Store, strike_evenly};
use super::tracer::{Fault, Traced};
use crate::place::disk_use;
use crate::process::output;
use crate::setup;

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

/// Strikes at so many points of each command, killed and with a full disk, and prints what podman loses.
pub fn run(points: usize) -> anyhow::Result<()> {
    println!("{}", output(setup::peers::command(&["podman", "--version"].map(str::to_owned)))?.trim());
    let podman = Podman::new()?;
    COMMANDS.iter().try_for_each(|(name, arguments)| podman.strike_evenly(name, arguments, points))
}

struct Podman(Store);

impl Podman {
    fn new() -> anyhow::Result<Self> {
        let podman = Self(Store::new()?);
        for image in [&podman.0.kept, &podman.0.small] {
            podman.ok(&["pull", "--quiet", "--tls-verify=false", image])?;
        }
        podman.ok(&["save", "--quiet", "--output", &podman.0.seen("small.tar"), &podman.0.small])?;
        podman.0.keep("with")?;
        podman.ok(&[
            "create",
            "--name",
            "source",
            "--network",
            "none",
            "--cgroups",
            "disabled",
            &podman.0.small,
            "true",
        ])?;
        podman.0.keep("container")?;
        podman.ok(&["rm", "source"])?;
        podman.ok(&["rmi", &podman.0.small])?;
        podman.0.keep("without")?;
        Ok(podman)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let store = self.0.seen("store");
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

    fn strike_evenly(&self, name: &str, arguments: &[&str], points: usize) -> anyhow::Result<()> {
        let archive = self.0.seen("small.tar");
        let words: Vec<&str> = arguments
            .iter()
            .map(|word| match *word {
                "SMALL" => self.0.small.as_str(),
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
        self.0.restore(before)?;
        // Whatever it finds without a fault is none of the fault's.
        self.ok(&["system", "check"]).context("podman system check without a fault")?;

        let whole = self.trace(&words, None)?;
        ensure!(whole.succeeded(), "podman {name} without a fault: {}", whole.stderr);
        let losses = |traced: Option<&Traced>, bytes| match traced {
            Some(traced) => self.losses(name, &words, traced, bytes),
            None => Ok(vec![HANGS.to_owned()]),
        };
        strike_evenly(
            name,
            points,
            whole.points.len(),
            || self.0.restore(before),
            |strike| self.trace(&words, strike),
            losses,
        )
    }

    fn trace(&self, words: &[&str], strike: Option<(usize, Fault)>) -> anyhow::Result<Traced> {
        self.0.trace(&self.command(words), "podman", strike)
    }

    fn losses(&self, name: &str, words: &[&str], traced: &Traced, bytes: u64) -> anyhow::Result<Vec<String>> {
        let mut losses = Vec::new();
        let proves = |image: &str, expected: &str| -> anyhow::Result<Option<String>> {
            let run =
                self.run(&["run", "--rm", "--network", "none", "--cgroups", "disabled", image, "cat", "/srv/marker"])?;
            let (said, error) = (String::from_utf8_lossy(&run.stdout), last_line(&run));
            Ok((said != expected).then(|| if error.is_empty() { format!("it says {said:?}") } else { error }))
        };
        if let Some(why) = proves(&self.0.kept, "kept\n")? {
            losses.push(format!("an image that was there before does not run: {why}"));
        }
        let check = self.run(&["system", "check"])?;
        if !check.status.success() {
            losses.push("podman system check finds damage".to_owned());
        }
        let brings = matches!(name, "pull" | "load");
        if brings
            && traced.succeeded()
            && let Some(why) = proves(&self.0.small, "small\n")?
        {
            losses.push(format!("it succeeded, and the image does not run: {why}"));
        }
        if !traced.succeeded() {
            let again = self.run(words)?;
            // What had come about after all is no loss.
            let is_done = name == "rmi" && !self.run(&["image", "exists", &self.0.small])?.status.success();
            let is_there = name == "create" && self.run(&["container", "exists", "victim"])?.status.success();
            if !again.status.success() && !is_done && !is_there {
                losses.push(format!("the same command fails afterwards: {}", last_line(&again)));
            } else if brings && let Some(why) = proves(&self.0.small, "small\n")? {
                losses.push(format!("the image of the next {name} does not run: {why}"));
            }
        }
        // What came of it goes again, and all that podman knows to be needless.
        for container in ["victim", "source"] {
            self.run(&["rm", "--force", "--ignore", container])?;
        }
        for image in [self.0.small.as_str(), "localhost/committed:1"] {
            self.run(&["rmi", "--force", "--ignore", image])?;
        }
        self.run(&["system", "prune", "--force"])?;
        let left = disk_use(&self.0.store())?;
        if left > bytes + SLACK {
            losses.push("bytes stay that no podman rmi or system prune removes".to_owned());
        }
        Ok(losses)
    }
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
