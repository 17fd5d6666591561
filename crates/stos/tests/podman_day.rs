// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A podman user's day: the same command lines, and the same answers where they matter.

mod sandbox;

use std::fs::{self, File};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use sandbox::{Sandbox, output};
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::guard::Need;
use stos_testkit::podman_day;

/// The lines, with what podman has answered.
const DAY: &str = include_str!("data/podman-day.txt");

#[test]
fn a_podman_user_s_day_runs_unchanged_but_for_the_name() {
    stos_testkit::require!(
        Need::Root,
        Need::Binary,
        Need::Image("deb:12"),
        Need::Tool("netavark"),
        Need::Tool("aardvark-dns")
    );
    // Its bridges and their addresses are this machine's: one day at a time.
    let lock = File::create(std::env::temp_dir().join("stos-test-podman-day.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let (sandbox, registry) = (Sandbox::new(), DockerRegistry::start_over_cache().unwrap());
    let lines = podman_day::parse(DAY);
    assert!(lines.len() >= 80);
    let mut stos = sandbox.command();
    stos.arg("--network-config-dir").arg(sandbox.path("networks"));
    let words = stos.get_args().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let directory = sandbox.path("day");
    fs::create_dir(&directory).unwrap();
    let prelude = format!(
        "REG={}; cd {}; podman() {{ {} {words} \"$@\"; }}",
        registry.address(),
        directory.display(),
        stos.get_program().display()
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &podman_day::script(&lines, &prelude)]);
    shell.envs(stos.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("STOS_NETWORK");
    let day = output(&mut shell);
    let answers = podman_day::answers(&lines, &day.stdout, registry.address());
    assert_eq!(answers.len(), lines.len(), "the shell has ended early: {}", day.stderr);
    let mut differ = String::new();
    for (line, answer) in lines.iter().zip(&answers) {
        if *answer != line.expected {
            differ.push_str(&format!("$ {}\n-- podman:\n{}-- stos:\n{answer}\n", line.command, line.expected));
        }
    }
    assert!(differ.is_empty(), "{differ}\nstderr:\n{}", day.stderr);
}
