// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask kills`: SIGKILL at moments spread over a pull of sci:2, a create, a delete, and a removal with its sweep. After
//! each the next command must work, every byte be right, what was finished not be fetched again, and nothing lie in staging.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use stos_testkit::environment;
use stos_testkit::registry::{Options, Registry};

use crate::place::Place;
use crate::setup;
use crate::workspace::build_release;

/// How often a command is timed, and how often it is tried to kill it while it runs.
const TRIES: usize = 3;

/// Kills at so many moments of each command.
pub fn run(moments: u32) -> anyhow::Result<()> {
    anyhow::ensure!(moments > 0, "expected at least one moment");
    setup::run(false)?;
    let registry = Registry::start(Options::default());
    registry.serve_layout(&environment::layout(), "cache")?;
    let kills = Kills { place: Place::new(build_release()?)?, registry, moments };
    kills.pulls()?;
    kills.creates_and_deletes()?;
    kills.removals()?;
    kills.place.ok(&["system", "gc"])?;
    kills.place.check_locks()
}

struct Kills {
    place: Place,
    registry: Registry,
    moments: u32,
}

/// What had come about when the command was killed, and how often.
#[derive(Default)]
struct Outcomes {
    counts: BTreeMap<String, u32>,
    kills: u32,
}

impl Outcomes {
    /// Counts an outcome, of a command that was killed or had ended by itself.
    fn add(&mut self, was_killed: bool, outcome: String) {
        self.kills += u32::from(was_killed);
        let outcome = if was_killed { outcome } else { "it had ended by itself".to_owned() };
        *self.counts.entry(outcome).or_default() += 1;
    }

    /// Prints them. Kills that mostly came too late prove nothing.
    fn conclude(&self, command: &str, moments: u32, took: Duration) -> anyhow::Result<()> {
        let kills = self.kills;
        println!(
            "{command}: killed at {kills} of {moments} moments of {:.1} ms, survived all",
            took.as_secs_f64() * 1000.0
        );
        for (outcome, count) in &self.counts {
            println!("  {count:>4} × {outcome}");
        }
        anyhow::ensure!(kills * 10 >= moments * 9, "only {kills} of {moments} kills came while {command} ran");
        Ok(())
    }
}

impl Kills {
    fn reference(&self, image: &str) -> String {
        format!("{}/cache:{}", self.registry.address(), environment::layout_tag(image))
    }

    /// Starts a command and kills it after `delay`; `false` says that it had ended by itself.
    fn kill_after(&self, arguments: &[&str], delay: Duration) -> anyhow::Result<bool> {
        let mut child = self.place.stos(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(delay);
        let had_ended = child.try_wait()?.is_some();
        child.kill()?;
        child.wait()?;
        Ok(!had_ended)
    }

    fn timed(&self, arguments: &[&str]) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.place.ok(arguments)?;
        Ok(start.elapsed())
    }

    /// Kills a command at the `number`th moment, in the middle of its share of `whole`; `false` says that it had ended by itself,
    /// again and again. Then it takes less time than was thought, and `whole` shrinks.
    fn hit(
        &self,
        number: u32,
        whole: &mut Duration,
        arguments: &[&str],
        prepare: impl Fn() -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        for _ in 0..TRIES {
            prepare()?;
            if self.kill_after(arguments, *whole * (2 * number + 1) / (2 * self.moments))? {
                return Ok(true);
            }
            *whole = *whole * 9 / 10;
        }
        Ok(false)
    }

    /// Gives the time of the fastest of a few runs; `undo` is not timed.
    fn fastest(&self, arguments: &[&str], undo: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
        let mut fastest = Duration::MAX;
        for _ in 0..TRIES {
            fastest = fastest.min(self.timed(arguments)?);
            undo()?;
        }
        Ok(fastest)
    }

    /// How often blobs were asked for since the last time, by digest.
    fn take_blob_requests(&self) -> Vec<String> {
        let requests = self.registry.take_requests();
        requests
            .iter()
            .filter_map(|request| Some(request.strip_prefix("GET ")?.split_once("/blobs/")?.1.to_owned()))
            .collect()
    }

    /// Gives the blobs of an image's layers by their diffIDs, in hexadecimal digits.
    fn blobs_by_layer(&self, image: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let inspected: serde_json::Value = serde_json::from_str(&self.place.ok(&["inspect", image])?)?;
        let layers = inspected[0]["layers"].as_array().context("an image without layers")?;
        let digits = |value: &serde_json::Value| Some(value.as_str()?.trim_start_matches("sha256:").to_owned());
        let pair = |layer: &serde_json::Value| Some((digits(&layer["diff_id"])?, layer["blob"].as_str()?.to_owned()));
        layers.iter().map(pair).collect::<Option<_>>().context("a layer without digests")
    }

    fn pulls(&self) -> anyhow::Result<()> {
        let reference = self.reference("sci:2");
        let pull = ["pull", "--quiet", "--tls-verify=false", &reference];
        self.place.ok(&pull)?;
        let blobs = self.blobs_by_layer(&reference)?;
        let remove = || self.place.ok(&["rmi", &reference]).map(drop);
        remove()?;
        let mut whole = self.fastest(&pull, remove)?;
        // What came before the kill is no part of the image's second pull.
        let begin = || {
            self.place.run(&["rmi", &reference])?;
            anyhow::ensure!(self.place.names("layers/sha256")?.is_empty(), "rmi has left layers");
            Ok(())
        };
        let mut outcomes = Outcomes::default();
        for number in 0..self.moments {
            let was_killed = self.hit(number, &mut whole, &pull, begin)?;
            let is_there = !self.place.ok(&["images", "--quiet"])?.is_empty();
            let finished = self.place.names("layers/sha256")?;
            self.place.check().with_context(|| format!("after the kill at moment {number}"))?;
            self.take_blob_requests();
            self.place.ok(&pull)?;
            let requests = self.take_blob_requests();
            for layer in &finished {
                let blob = blobs.get(layer).with_context(|| format!("layer {layer} is none of the image's"))?;
                anyhow::ensure!(!requests.contains(blob), "layer {layer} was finished and fetched again");
            }
            self.place.check().with_context(|| format!("after the pull that followed moment {number}"))?;
            let state = if is_there { "the image was there" } else { "no image yet" };
            outcomes.add(was_killed, format!("{state}, {} of {} layers finished", finished.len(), blobs.len()));
        }
        remove()?;
        outcomes.conclude("pull sci:2", self.moments, whole)
    }

    fn creates_and_deletes(&self) -> anyhow::Result<()> {
        let reference = self.reference("deb:12");
        self.place.ok(&["pull", "--quiet", "--tls-verify=false", &reference])?;
        let create = ["create", "--name", "victim", &reference, "true"];
        let delete = ["delete", "victim"];
        let make = || self.place.ok(&create).map(drop);
        let remove = || self.place.ok(&["delete", "--force", "victim"]).map(drop);
        let mut whole = self.fastest(&create, remove)?;
        let mut outcomes = Outcomes::default();
        for number in 0..self.moments {
            let was_killed = self.hit(number, &mut whole, &create, remove)?;
            outcomes.add(was_killed, self.settle_container(number)?);
        }
        outcomes.conclude("create", self.moments, whole)?;
        make()?;
        let mut whole = self.fastest(&delete, make)?;
        remove()?;
        let mut outcomes = Outcomes::default();
        for number in 0..self.moments {
            let was_killed = self.hit(number, &mut whole, &delete, make)?;
            outcomes.add(was_killed, self.settle_container(number)?);
        }
        outcomes.conclude("delete", self.moments, whole)
    }

    /// The container is there whole, or not at all and its name is free; then it goes.
    fn settle_container(&self, number: u32) -> anyhow::Result<String> {
        let list = self.place.ok(&["list", "--quiet"])?;
        self.place.check().with_context(|| format!("after the kill at moment {number}"))?;
        let is_there = match list.lines().count() {
            0 => false,
            1 => true,
            _ => anyhow::bail!("expected at most one container, found {list:?}"),
        };
        if is_there {
            self.place.ok(&["start", "--attach", "victim"])?;
        } else {
            self.place.ok(&["create", "--name", "victim", &self.reference("deb:12"), "true"])?;
        }
        self.place.ok(&["delete", "victim"])?;
        let left = [self.place.names("containers")?, self.place.names("names")?].concat();
        anyhow::ensure!(left.is_empty(), "delete has left {left:?}");
        Ok(if is_there { "the container was there, whole" } else { "no container" }.to_owned())
    }

    /// An image goes whole or not at all, and what it leaves goes with the next sweep.
    fn removals(&self) -> anyhow::Result<()> {
        let reference = self.reference("many:100");
        let pull = ["pull", "--quiet", "--tls-verify=false", &reference];
        let remove = ["rmi", &reference];
        let kept = self.place.names("layers/sha256")?;
        let begin = || self.place.ok(&pull).map(drop);
        begin()?;
        let mut whole = self.fastest(&remove, begin)?;
        let mut outcomes = Outcomes::default();
        for number in 0..self.moments {
            let was_killed = self.hit(number, &mut whole, &remove, begin)?;
            let is_there = self.place.ok(&["images"])?.contains("many-100");
            self.place.check().with_context(|| format!("after the kill at moment {number}"))?;
            if is_there {
                self.place.ok(&["run", "--rm", &reference, "cat", "/etc/debian_version"])?;
                self.place.ok(&remove)?;
            } else {
                self.place.ok(&["system", "gc"])?;
            }
            anyhow::ensure!(self.place.names("layers/sha256")? == kept, "rmi has left layers, or taken others");
            outcomes.add(was_killed, if is_there { "the image was there, whole" } else { "no image" }.to_owned());
        }
        outcomes.conclude("rmi many:100", self.moments, whole)
    }
}
