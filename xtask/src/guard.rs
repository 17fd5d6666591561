// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask guard`: what a command costs in numbers that do not vary with the machine's mood, held against the recorded ones.
//!
//! Counted are the system calls of `create` and of `run --rm`, by strace, and the instructions of the stages that are pure, by callgrind: the
//! functions with `guarded` in their names of `crates/stos-erofs/examples/stages.rs` and `crates/stos-spec/examples/documents.rs`. Both hang on
//! the processor's kind and on the host's cgroups, so each kind of host has a record of its own.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use stos_testkit::environment::{scratch, tool};
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

use crate::place::Place;
use crate::process::{Run, output, step};
use crate::setup;
#[cfg(target_arch = "x86_64")]
use crate::startup_order;
use crate::workspace::{Metadata, binary_under_test, cargo};

/// A rise by more than this fails.
const TOLERANCE: f64 = 0.05;
/// The least of so many is taken: who waits for something makes more calls on a busy machine.
const TIMES: usize = 5;
/// Calls whose number hangs on who is faster.
const VARYING: [&str; 6] = ["brk", "futex", "ppoll", "restart_syscall", "rt_sigreturn", "sched_yield"];
/// A program that does nothing but end: what a C library's loader does is no matter of ours.
const PROGRAM: &str = "int main(void) { return 0; }\n";
/// Which functions of which example are counted.
const STAGES: [(&str, &str); 4] =
    [("index", "stages"), ("merge", "stages"), ("manifest", "documents"), ("config", "documents")];

/// What one kind of host has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    /// With which compiler; instructions hang on it.
    rustc: String,
    /// On which kernel.
    kernel: String,
    /// How many of each call a command makes.
    system_calls: BTreeMap<String, BTreeMap<String, u64>>,
    /// How many instructions a stage takes.
    instructions: BTreeMap<String, u64>,
}

type Record = BTreeMap<String, Counts>;

/// Counts, and fails where something has risen over the record; with `is_recording` that is written anew instead.
pub fn run(is_recording: bool) -> anyhow::Result<()> {
    setup::run(false)?;
    let found = count()?;
    let path = Metadata::load()?.workspace_root.join("bench/guard.json");
    let mut record: Record = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Record::new(),
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    let host = host();
    if is_recording {
        record.insert(host, found);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::write(&path, serde_json::to_string_pretty(&record)? + "\n")?;
        println!("recorded in {}", path.display());
        return Ok(());
    }
    let Some(recorded) = record.get(&host) else {
        println!("nothing is recorded for {host}: `cargo xtask guard --record` does it");
        return Ok(());
    };
    #[cfg(target_arch = "x86_64")]
    startup_order::check(&binary_under_test()?)?;
    let rises = compare(recorded, &found);
    anyhow::ensure!(
        rises.is_empty(),
        "more than {:.0} % over bench/guard.json:\n{}\nrecorded with {} on {}; where a rise is meant: `cargo xtask guard --record`",
        TOLERANCE * 100.0,
        rises.join("\n"),
        recorded.rustc,
        recorded.kernel
    );
    Ok(())
}

/// The kind of host, on which the counts hang.
fn host() -> String {
    let has = |name: &str| Path::new("/sys/fs/cgroup").join(name).exists();
    let cgroups = match (has("cgroup.controllers"), has("unified")) {
        (true, _) => "v2",
        (false, true) => "v1 and v2",
        (false, false) => "v1",
    };
    format!("{}, cgroups {cgroups}", env::consts::ARCH)
}

fn count() -> anyhow::Result<Counts> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let rustc = output(Command::new("rustc").arg("--version"))?.trim().to_owned();
    let system_calls = step("counting system calls", count_system_calls)?;
    let instructions = step("counting instructions", count_instructions)?;
    Ok(Counts { rustc, kernel, system_calls, instructions })
}

fn count_system_calls() -> anyhow::Result<BTreeMap<String, BTreeMap<String, u64>>> {
    let directory = scratch();
    let (source, program) = (directory.path().join("program.c"), directory.path().join("program"));
    fs::write(&source, PROGRAM)?;
    Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(&source).run()?;
    let tar = TarBuilder::new().entry(Entry::file("program", fs::read(&program)?).mode(0o755));
    let directories =
        ["dev", "etc", "proc", "sys"].into_iter().fold(tar, |tar, name| tar.entry(Entry::directory(name)));
    let image = ImageBuilder::new().command(&["/program"]).layer(Layer::gzip(directories.finish())).build();
    let layout = directory.path().join("layout");
    image.write_layout(&layout, "guarded")?;
    let place = Place::new(binary_under_test()?)?;
    place.ok(&["pull", "--quiet", &format!("oci:{}:guarded", layout.display())])?;
    let id = place.ok(&["images", "--quiet"])?;
    let id = id.trim();
    // The first one mounts the image.
    place.ok(&["run", "--rm", "--pull", "never", id])?;
    let commands: [(&str, &[&str]); 2] =
        [("create", &["create", "--pull", "never", id]), ("run --rm", &["run", "--rm", "--pull", "never", id])];
    let log = directory.path().join("trace");
    let mut counted = BTreeMap::new();
    for (name, words) in commands {
        let mut counts = Vec::new();
        for _ in 0..TIMES {
            let command = place.stos(words);
            let mut traced = Command::new(tool("strace").context("strace is not installed")?);
            traced.args(["--follow-forks", "--output"]).arg(&log).arg(command.get_program()).args(command.get_args());
            traced.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            output(traced)?;
            counts.push(calls(&fs::read_to_string(&log)?));
        }
        counts.sort_by_key(total);
        counted.insert(name.to_owned(), counts.swap_remove(0));
    }
    Ok(counted)
}

/// How many of each call strace's lines tell of; those that vary are left out.
fn calls(trace: &str) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::new();
    for line in trace.lines() {
        // `123 openat(…`; not `123 <... read resumed>…`, `123 --- SIGCHLD …`, `123 +++ exited …`.
        let call = line.split_once(' ').map_or("", |(_, rest)| rest.trim_start());
        let name = call.split_once('(').map_or("", |(name, _)| name);
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_name && !VARYING.contains(&name) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}

fn total(calls: &BTreeMap<String, u64>) -> u64 {
    calls.values().sum()
}

fn count_instructions() -> anyhow::Result<BTreeMap<String, u64>> {
    cargo(["build", "--quiet", "--release", "--package", "stos-erofs", "--package", "stos-spec", "--examples"])
        .run()?;
    let examples = Metadata::load()?.target_directory.join("release/examples");
    let directory = scratch();
    STAGES
        .into_iter()
        .map(|(stage, example)| {
            Ok((stage.to_owned(), instructions_of(stage, &examples.join(example), directory.path())?))
        })
        .collect()
}

fn instructions_of(stage: &str, program: &Path, directory: &Path) -> anyhow::Result<u64> {
    let out: PathBuf = directory.join(stage);
    let mut valgrind = Command::new(tool("valgrind").context("valgrind is not installed")?);
    valgrind.args(["--quiet", "--tool=callgrind", &format!("--toggle-collect=*guarded_{stage}*")]);
    output(valgrind.arg(format!("--callgrind-out-file={}", out.display())).arg(program))?;
    let text = fs::read_to_string(&out)?;
    instructions(&text).with_context(|| format!("callgrind has counted nothing of guarded_{stage}"))
}

/// The sum that callgrind writes: `summary: 123`; `None` where it is 0, for then no function had that name.
fn instructions(out: &str) -> Option<u64> {
    let line = out.lines().find_map(|line| line.strip_prefix("summary:"))?;
    line.trim().parse().ok().filter(|count| *count > 0)
}

/// Prints everything beside its record, and gives what has risen too much.
fn compare(recorded: &Counts, found: &Counts) -> Vec<String> {
    let mut rises = Vec::new();
    for (command, calls) in &found.system_calls {
        let before = recorded.system_calls.get(command);
        let what = format!("system calls of {command}");
        if is_risen(&what, before.map(total), total(calls)) {
            rises.push(format!("{what}: {}", differences(before, calls)));
        }
    }
    for (stage, count) in &found.instructions {
        let what = format!("instructions of {stage}");
        if is_risen(&what, recorded.instructions.get(stage).copied(), *count) {
            rises.push(what);
        }
    }
    rises
}

fn is_risen(what: &str, recorded: Option<u64>, found: u64) -> bool {
    let Some(recorded) = recorded else {
        println!("{what:<32} {found:>12}, not recorded");
        return false;
    };
    let rise = found as f64 / recorded as f64 - 1.0;
    println!("{what:<32} {found:>12}, {:+.1} % of {recorded}", rise * 100.0);
    found as f64 > recorded as f64 * (1.0 + TOLERANCE)
}

/// The calls whose number is another one, with both numbers.
fn differences(recorded: Option<&BTreeMap<String, u64>>, found: &BTreeMap<String, u64>) -> String {
    let before = |name: &str| recorded.and_then(|calls| calls.get(name)).copied().unwrap_or_default();
    let changed = found.iter().filter(|(name, count)| before(name) != **count);
    changed.map(|(name, count)| format!("{name} {} → {count}", before(name))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_from_the_trace() {
        let trace = "12 execve(\"/a\", [\"a\"], 0x7ff /* 3 vars */) = 0\n\
                     12 read(3,  <unfinished ...>\n\
                     13 futex(0x1, FUTEX_WAIT) = 0\n\
                     12 <... read resumed>\"x\", 1) = 1\n\
                     12 --- SIGCHLD {si_signo=SIGCHLD} ---\n\
                     12    read(3, \"\", 1) = 0\n\
                     12 +++ exited with 0 +++\n";
        let expected = [("execve".to_owned(), 1), ("read".to_owned(), 2)];
        assert_eq!(calls(trace).into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_sum_is_read_and_zero_is_none() {
        assert_eq!(instructions("version: 1\nsummary: 1234\n"), Some(1234));
        assert_eq!(instructions("summary: 0\n"), None);
        assert_eq!(instructions("totals: 3\n"), None);
    }

    #[test]
    fn only_a_rise_beyond_the_tolerance_counts() {
        let counts = |open: u64, index: u64| Counts {
            system_calls: [("create".to_owned(), [("openat".to_owned(), open), ("read".to_owned(), 60)].into())].into(),
            instructions: [("index".to_owned(), index)].into(),
            ..Counts::default()
        };
        let recorded = counts(40, 1000);
        assert!(compare(&recorded, &counts(45, 1050)).is_empty());
        assert!(compare(&recorded, &counts(1, 1)).is_empty());
        assert_eq!(
            compare(&recorded, &counts(46, 1051)),
            ["system calls of create: openat 40 → 46", "instructions of index"]
        );
        assert!(compare(&Counts::default(), &counts(46, 1051)).is_empty());
    }
}
