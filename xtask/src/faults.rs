// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask faults`: each command that changes the store is run again and again, and each time the next of its system calls that change
//! a file system goes wrong: the process is killed before it, or the call fails as it does on a full or broken disk. After each the
//! same command must succeed, `check --full` be clean, nothing that had succeeded be gone, and garbage be swept.

mod calls;
mod containerd;
mod peers;
mod podman;
mod scenes;
pub mod tracer;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context;
use nix::errno::Errno;
pub use peers::run as run_peers;
use scenes::{SCENES, Scene, World};
use tracer::{Fault, Traced};

use crate::setup;
use crate::workspace::binary_under_test;

/// How it is gone about.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Each point fails by one of its errors alone, and not by all.
    pub quick: bool,
    /// Each fault is told, with what had come of it.
    pub verbose: bool,
}

/// Strikes at every point of every command, or of those named.
pub fn run(options: Options, only: &[String]) -> anyhow::Result<()> {
    for name in only {
        let known: Vec<_> = SCENES.iter().map(|scene| scene.name).collect();
        anyhow::ensure!(known.contains(&name.as_str()), "{name:?} is none of {}", known.join(", "));
    }
    setup::run(false)?;
    let world = World::new(binary_under_test()?)?;
    println!("{:<12} {:>7} {:>7} {:>9}  what had come of it", "command", "points", "faults", "survived");
    for scene in SCENES.iter().filter(|scene| only.is_empty() || only.iter().any(|name| name == scene.name)) {
        let start = Instant::now();
        let report = strike_everywhere(&world, scene, options)?;
        println!(
            "{:<12} {:>7} {:>7} {:>9}  {:.0} s",
            scene.name,
            report.points,
            report.faults,
            report.faults,
            start.elapsed().as_secs_f64()
        );
        for ((fault, outcome), count) in &report.outcomes {
            println!("{count:>5} × {fault}: {outcome}");
        }
    }
    Ok(())
}

#[derive(Default)]
struct Report {
    points: usize,
    faults: usize,
    outcomes: BTreeMap<(String, &'static str), usize>,
}

/// Goes on until a run ends before the next point.
fn strike_everywhere(world: &World, scene: &Scene, options: Options) -> anyhow::Result<Report> {
    let (whole, _) = world.play(scene, None).with_context(|| format!("{} without a fault", scene.name))?;
    anyhow::ensure!(whole.succeeded(), "{} fails without a fault: {}", scene.name, whole.stderr);
    anyhow::ensure!(!whole.points.is_empty(), "{} changes nothing: is the program another than stos?", scene.name);
    let mut report = Report::default();
    for at in 0.. {
        let Some(struck) = strike(world, scene, at, Fault::Kill, options, &mut report)?.struck else { break };
        report.points += 1;
        let errors: Vec<Errno> = match options.quick {
            true => struck.errors.get(at % struck.errors.len()).copied().into_iter().collect(),
            false => struck.errors.to_vec(),
        };
        for errno in errors {
            strike(world, scene, at, Fault::Error(errno), options, &mut report)?;
        }
    }
    anyhow::ensure!(
        report.points >= whole.points.len() / 2,
        "{} points were met of about {}",
        report.points,
        whole.points.len()
    );
    Ok(report)
}

fn strike(
    world: &World,
    scene: &Scene,
    at: usize,
    fault: Fault,
    options: Options,
    report: &mut Report,
) -> anyhow::Result<Traced> {
    let (traced, outcome) =
        world.play(scene, Some((at, fault))).with_context(|| format!("{}, {fault} at call {at}", scene.name))?;
    if let Some(point) = &traced.struck {
        report.faults += 1;
        let outcome = if traced.succeeded() { "it succeeded all the same" } else { outcome };
        *report.outcomes.entry((fault.to_string(), outcome)).or_default() += 1;
        if options.verbose {
            eprintln!(
                "{} {at} {fault} {} {}: {:?} {outcome} {}",
                scene.name,
                point.call,
                point.path.display(),
                traced.code,
                traced.stderr.trim()
            );
        }
    }
    Ok(traced)
}
