// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask engines`: the newest podman and containerd with stos as their runtime, and the lifecycle suite on today's runc and crun,
//! all in the root that `setup --peers` made.
//!
//! The engines' scripts compare by themselves and end at the first thing that is not as it should be.

use std::process::Command;

use anyhow::Context;
use serde::Deserialize;
use stos_testkit::environment;

use crate::process::{Run, output, step};
use crate::setup;
use crate::workspace::{build_release, cargo};

/// What all scripts begin with: where things are, and the hierarchy that crun needs on hosts with cgroups of both versions.
const PREAMBLE: &str = include_str!("engines/preamble.sh");
/// podman's.
const PODMAN: &str = include_str!("engines/podman.sh");
/// containerd's.
const CONTAINERD: &str = include_str!("engines/containerd.sh");
/// The suite's; `$RUNTIME` is the runtime, `$SUITE` its binaries.
const SUITE: &str = include_str!("engines/suite.sh");

/// Runs all of it; fails where anything does.
pub fn run() -> anyhow::Result<()> {
    setup::run(true)?;
    let binary = build_release()?;
    let suite = suite()?.join("\n");
    let log = environment::cache().join("engines.log");
    std::fs::write(&log, "").with_context(|| log.display().to_string())?;
    let play = |name: &str, script: &str, runtime: &str| {
        let mut command = in_peers(script);
        command.env("BINARY", format!("/host{}", binary.display())).env("SUITE", &suite).env("RUNTIME", runtime);
        command.env("LAYOUT", format!("/host{}", environment::layout().display()));
        step(name, || command.run_logged(&log)).with_context(|| format!("all of it is in {}", log.display()))
    };
    play("podman on stos", PODMAN, "")?;
    play("containerd on stos", CONTAINERD, "")?;
    play("the lifecycle suite on runc", SUITE, "/usr/sbin/runc")?;
    play("the lifecycle suite on crun", SUITE, "/usr/bin/crun")
}

fn in_peers(script: &str) -> Command {
    let arguments = ["bash", "-c", &format!("{PREAMBLE}\n{script}")].map(str::to_owned);
    let mut command = setup::peers::command(&arguments);
    command.env("RUST_BACKTRACE", "0");
    command
}

/// Builds the suite and gives its binaries as they are seen in the peers' root.
fn suite() -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<String>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    cargo(["test", "--package", "stos", "--no-run"]).run()?;
    let text = output(cargo(["test", "--package", "stos", "--no-run", "--message-format", "json"]))?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let is_of_suite = |target: &Target| target.name.starts_with("runtime_");
    let found = messages.filter(|message| message.target.as_ref().is_some_and(is_of_suite));
    let found: Vec<_> = found.filter_map(|message| message.executable).map(|path| format!("/host{path}")).collect();
    anyhow::ensure!(!found.is_empty(), "cargo has built no runtime_* tests");
    Ok(found)
}
