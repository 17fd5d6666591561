// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask fuzz`: builds the libFuzzer binaries of `fuzz/` and runs each for so long.
//!
//! It needs neither cargo-fuzz nor a nightly compiler: the flags are those that cargo-fuzz gives, without a sanitizer, for
//! those are still unstable. What fails is left in `fuzz/artifacts/TARGET`, what was found in `fuzz/corpus/TARGET`;
//! `fuzz/seeds/TARGET` is only read.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use stos_testkit::environment;

use crate::process::{Run, output, step};
use crate::workspace::{Metadata, cargo_program, in_workspace};

/// As cargo-fuzz has them: counters for each edge and the program counters that they stand for, and calls at comparisons.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions";

/// No target needs a tenth of it. libFuzzer looks at it once a second, and knows single allocations only by way of a sanitizer.
const MEMORY_MIB: u32 = 512;

/// No input takes a tenth of it, on a machine that stands still for seconds either.
const INPUT_SECONDS: u32 = 60;

/// Builds all targets and runs those that are named, else all, each for `seconds`, `jobs` side by side.
pub fn run(seconds: u64, jobs: Option<usize>, only: &[String]) -> anyhow::Result<()> {
    let fuzz = Metadata::load()?.workspace_root.join("fuzz");
    let all = targets(&fuzz)?;
    let unknown = only.iter().find(|name| !all.contains(name));
    anyhow::ensure!(unknown.is_none(), "no target {}: expected {}", unknown.map_or("", |name| name), all.join(", "));
    let binaries = step("building the fuzz targets", || build(&fuzz))?;
    let chosen: VecDeque<String> = all.into_iter().filter(|name| only.is_empty() || only.contains(name)).collect();
    // No tmpfs, for images are mounted from there.
    let scratch = environment::scratch();
    let jobs = jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let fuzzer = Fuzzer { fuzz: &fuzz, binaries: &binaries, scratch: scratch.path(), seconds };
    let mut outcomes = fuzzer.run_all(chosen, jobs.max(1));
    outcomes.sort_by(|(one, _), (next, _)| one.cmp(next));
    report(&outcomes)
}

/// The targets, sorted.
fn targets(fuzz: &Path) -> anyhow::Result<Vec<String>> {
    let directory = fuzz.join("fuzz_targets");
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
    let names = names.collect::<anyhow::Result<Vec<_>>>()?;
    let mut targets: Vec<_> = names.iter().filter_map(|name| name.strip_suffix(".rs").map(str::to_owned)).collect();
    targets.sort();
    Ok(targets)
}

/// Builds them and gives the directory of the binaries.
fn build(fuzz: &Path) -> anyhow::Result<PathBuf> {
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let target_dir = fuzz.join("target");
    let mut cargo = in_workspace(Command::new(cargo_program()));
    // With a target build scripts and macros of procedures are built without the flags.
    cargo.args(["build", "--release", "--target", host]);
    cargo.arg("--manifest-path").arg(fuzz.join("Cargo.toml")).arg("--target-dir").arg(&target_dir);
    cargo.env("RUSTFLAGS", FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS").run()?;
    Ok(target_dir.join(host).join("release"))
}

struct Fuzzer<'a> {
    fuzz: &'a Path,
    binaries: &'a Path,
    scratch: &'a Path,
    seconds: u64,
}

type Outcome = (String, anyhow::Result<Totals>);

impl Fuzzer<'_> {
    fn run_all(&self, targets: VecDeque<String>, jobs: usize) -> Vec<Outcome> {
        let (left, outcomes) = (Mutex::new(targets), Mutex::new(Vec::new()));
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(target) = next() {
                        eprintln!("{target} for {} s", self.seconds);
                        let outcome = self.run_one(&target);
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((target, outcome));
                    }
                });
            }
        });
        outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_one(&self, target: &str) -> anyhow::Result<Totals> {
        let of = |directory: &str| self.fuzz.join(directory).join(target);
        let (corpus, artifacts, log) = (of("corpus"), of("artifacts"), self.scratch.join(format!("{target}.log")));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let mut command = Command::new(self.binaries.join(target));
        command.arg(format!("-max_total_time={}", self.seconds));
        command.arg(format!("-rss_limit_mb={MEMORY_MIB}")).arg(format!("-timeout={INPUT_SECONDS}"));
        command.arg(format!("-artifact_prefix={}/", artifacts.display())).arg("-print_final_stats=1");
        command.arg(format!("-max_len={}", max_len(target)));
        let words = if target == "erofs_tar" { "tar_index" } else { target };
        let dictionary = self.fuzz.join("dictionaries").join(format!("{words}.dict"));
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        // What only writes files that it reads again need not wait for a disk.
        let memory = Path::new("/dev/shm");
        let is_in_memory = !target.starts_with("erofs") && memory.is_dir();
        let files = tempfile::Builder::new().prefix("stos-fuzz-").tempdir_in(if is_in_memory {
            memory
        } else {
            self.scratch
        })?;
        command.arg(&corpus).arg(of("seeds")).env("TMPDIR", files.path());
        let file = File::create(&log)?;
        let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status();
        let status = status.with_context(|| format!("running {target}"))?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        anyhow::ensure!(status.success(), "{status}\n{}", failure(&text));
        let inputs = fs::read_dir(&corpus)?.count();
        Totals::read(&text, inputs).with_context(|| format!("{target} has ended without totals"))
    }
}

/// The longest input in bytes: what the format's interesting parts fit into.
fn max_len(target: &str) -> usize {
    match target {
        "tar_index" | "erofs_tar" => 16 << 10,
        "merge" | "erofs" => 1 << 10,
        "challenge" => 12 << 10,
        _ => 4 << 10,
    }
}

/// What the log says of a failure: the panic, libFuzzer's own words, and where the input is.
fn failure(log: &str) -> String {
    let panic = log
        .lines()
        .skip_while(|line| !line.contains(" panicked at "))
        .take_while(|line| !line.contains("stack backtrace"));
    let own = log.lines().filter(|line| line.starts_with("SUMMARY: ") || line.contains("Test unit written to"));
    panic.take(20).chain(own).collect::<Vec<_>>().join("\n")
}

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
struct Totals {
    executions: u64,
    seconds: u64,
    /// Edges that were executed.
    edges: u64,
    /// The inputs that the run began with, and what it has added.
    files: usize,
    peak_mib: u64,
}

impl Totals {
    /// Reads libFuzzer's last lines: `#31 DONE   cov: 12 ft: 12 corp: 5/17b …`, `Done 31 runs in 3 second(s)` and `stat::…`.
    fn read(log: &str, files: usize) -> Option<Self> {
        let word_after = |line: &str, name: &str| {
            let rest = line.split_once(name)?.1;
            rest.split_whitespace().next()?.parse::<u64>().ok()
        };
        let last = |name: &str, of: &str| {
            log.lines().rev().filter(|line| line.contains(of)).find_map(|line| word_after(line, name))
        };
        Some(Self {
            executions: last("stat::number_of_executed_units:", "stat::")?,
            seconds: last(" runs in ", "Done ")?,
            edges: last(" cov: ", "DONE")?,
            files,
            peak_mib: last("stat::peak_rss_mb:", "stat::")?,
        })
    }
}

fn report(outcomes: &[Outcome]) -> anyhow::Result<()> {
    println!(
        "\n{:<16} {:>12} {:>8} {:>7} {:>7} {:>7} {:>9}",
        "target", "executions", "per s", "edges", "corpus", "seconds", "peak MiB"
    );
    for (target, outcome) in outcomes {
        match outcome {
            Ok(Totals { executions, seconds, edges, files, peak_mib }) => {
                let per_second = executions / (*seconds).max(1);
                println!(
                    "{target:<16} {executions:>12} {per_second:>8} {edges:>7} {files:>7} {seconds:>7} {peak_mib:>9}"
                );
            }
            Err(_) => println!("{target:<16} {:>12}", "FAILED"),
        }
    }
    let done = || outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
    let (executions, seconds) =
        done().fold((0, 0), |(sum, time), totals| (sum + totals.executions, time + totals.seconds));
    println!("{:<16} {executions:>12} {:>8} {:>7} {:>7} {seconds:>7}", "all", "", "", "");
    for (target, outcome) in outcomes {
        if let Err(error) = outcome {
            eprintln!("\n{target}: {error:#}");
        }
    }
    let failed = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count();
    anyhow::ensure!(failed == 0, "{failed} of {} targets failed; the inputs are in fuzz/artifacts", outcomes.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read_from_the_last_lines() {
        let log = "#2\tINITED cov: 7 ft: 9 corp: 1/1b exec/s: 0 rss: 27Mb\n\
            #31\tDONE   cov: 12 ft: 13 corp: 5/17b lim: 4096 exec/s: 10 rss: 27Mb\nDone 31 runs in 3 second(s)\n\
            stat::number_of_executed_units: 31\nstat::average_exec_per_sec:     10\nstat::peak_rss_mb:              28\n";
        let expected = Totals { executions: 31, seconds: 3, edges: 12, files: 4, peak_mib: 28 };
        assert_eq!(Totals::read(log, 4), Some(expected));
        assert_eq!(Totals::read("==7== ERROR: libFuzzer: deadly signal", 4), None);
    }

    #[test]
    fn a_failure_is_told_by_its_panic_and_its_input() {
        let log = "#2\tINITED cov: 7\nthread '<unnamed>' (7) panicked at a.rs:1:2:\nindex out of bounds\nstack backtrace:\n   0: x\n\
            SUMMARY: libFuzzer: deadly signal\nartifact_prefix='a/'; Test unit written to a/crash-1\n";
        let lines: Vec<_> = failure(log).lines().map(str::to_owned).collect();
        assert_eq!((lines.len(), lines[1].as_str()), (4, "index out of bounds"));
        assert!(lines[3].ends_with("a/crash-1"));
    }

    #[test]
    fn every_target_of_the_repository_is_found() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let found = targets(&fuzz).unwrap();
        assert!(found.contains(&"tar_index".to_owned()) && found.is_sorted(), "{found:?}");
    }
}
