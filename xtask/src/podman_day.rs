// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask podman-day`: has today's podman run the lines of a podman user's day, and holds its answers against those that the test of
//! stos expects, or records them.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::Context;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::{environment, podman_day};

use crate::hierarchy::Hierarchy;
use crate::process::output;
use crate::setup;
use crate::workspace::Metadata;

/// What podman is told of this machine: limits that a caller without CAP_SYS_RESOURCE may give, and no systemd.
const CONFIGURATION: &str = "[containers]\ndefault_ulimits = [\"nofile=1000:1000\", \"nproc=1000:1000\"]\nlog_driver = \"k8s-file\"\n\
                             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nhealthcheck_events = false\n";

/// Runs the lines with podman.
pub fn run(records: bool) -> anyhow::Result<()> {
    setup::run(true)?;
    let path = Metadata::load()?.workspace_root.join("crates/stos/tests/data/podman-day.txt");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let lines = podman_day::parse(&text);
    let _hierarchy = Hierarchy::mount();
    // A host of its own: its bridges and rules are nobody else's, and go with it.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let registry = DockerRegistry::start_over_cache()?;
    let place = tempfile::Builder::new().prefix("stos-podman-day-").tempdir_in("/var/tmp")?;
    fs::write(place.path().join("containers.conf"), CONFIGURATION)?;
    fs::create_dir(place.path().join("day"))?;
    let seen = format!("/host{}", place.path().display());
    let prelude = format!(
        "REG={}; cd {seen}/day; export CONTAINERS_CONF={seen}/containers.conf\n\
         podman() {{ command podman --root {seen}/root --runroot {seen}/run --storage-driver overlay \
         --network-config-dir {seen}/networks \"$@\"; }}",
        registry.address()
    );
    let script = podman_day::script(&lines, &prelude);
    let mut shell = setup::peers::command(&["sh".into(), "-c".into(), script]);
    shell
        .env(environment::CACHE, environment::cache())
        .env_remove("TMPDIR")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let day = shell.output().context("running podman's day")?;
    crate::place::detach_below(place.path());
    let answers = podman_day::answers(&lines, &String::from_utf8_lossy(&day.stdout), registry.address());
    anyhow::ensure!(answers.len() == lines.len(), "the shell has ended after {} lines", answers.len());
    if records {
        return fs::write(&path, podman_day::with_answers(&text, &answers)).with_context(|| path.display().to_string());
    }
    let mut count = 0;
    for (line, answer) in lines.iter().zip(&answers).filter(|(line, answer)| line.expected != **answer) {
        println!("$ {}\n-- recorded:\n{}-- podman:\n{answer}", line.command, line.expected);
        count += 1;
    }
    anyhow::ensure!(count == 0, "{count} of {} answers are others than those recorded", lines.len());
    println!("podman answers all {} lines as recorded", lines.len());
    Ok(())
}
