// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask test`: sets up, builds the release binary, runs every test, and sums up.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::Context;
use stos_testkit::environment;

use crate::setup;
use crate::workspace::{build_release, cargo_program, in_workspace, is_ci};

/// Runs `cargo test --workspace` with `arguments` after it; fails where a test does.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    setup::run(false)?;
    let binary = build_release()?;
    let mut test = in_workspace(Command::new("env"));
    // Some tests end commands by these signals; whoever runs us in the background of a script has us ignore them.
    test.arg("--default-signal=INT,QUIT,HUP").arg(cargo_program()).args(["test", "--workspace", "--no-fail-fast"]);
    test.args(arguments).env(environment::BINARY, &binary).env(environment::CACHE, environment::cache());
    if is_ci() {
        test.env(environment::REQUIRED, "1");
    }
    let mut child = test.stdout(Stdio::piped()).spawn().context("running cargo test")?;
    let mut summary = Summary::default();
    // A test may print any bytes.
    for line in BufReader::new(child.stdout.take().context("stdout is a pipe")?).split(b'\n') {
        let line = [line?, b"\n".to_vec()].concat();
        std::io::stdout().write_all(&line)?;
        summary.see(String::from_utf8_lossy(&line).trim_end());
    }
    let status = child.wait()?;
    summary.print();
    anyhow::ensure!(status.success(), "cargo test: {status}");
    anyhow::ensure!(summary.passed > 0 || !arguments.is_empty(), "cargo test has run no test at all");
    Ok(())
}

/// What the closing lines of all test binaries say together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
    failures: Vec<String>,
    results: Vec<String>,
}

impl Summary {
    /// Takes in one line of cargo test's stdout.
    fn see(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let count = |word: &str| {
            let part = result.split([';', '.']).map(str::trim).find_map(|part| part.strip_suffix(word));
            part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        let (passed, failed, ignored) = (count("passed"), count("failed"), count("ignored"));
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
        if passed + failed > 0 {
            self.results.push(line.to_owned());
        }
    }

    /// Prints the sum, the tests that failed, and last cargo test's own closing lines.
    fn print(&self) {
        let Self { passed, failed, ignored, .. } = self;
        println!("\nin all: {passed} passed, {failed} failed, {ignored} ignored");
        for name in &self.failures {
            println!("failed: {name}");
        }
        for line in &self.results {
            println!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_summed_up() {
        let mut summary = Summary::default();
        let lines = [
            "running 3 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.25s",
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 10 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s",
        ];
        lines.iter().for_each(|line| summary.see(line));
        assert_eq!((summary.passed, summary.failed, summary.ignored), (12, 1, 4));
        assert_eq!(summary.failures, ["a::c"]);
        assert_eq!(summary.results, [lines[3], lines[5]]);
    }
}
