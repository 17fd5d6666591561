// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers that really run: what each honoured feature does, what each refusal says, and that nothing stays behind.
//!
//! Needs root. A process with threads may not start containers, so this has a small harness of its own: each step of a
//! test runs this binary again as a runtime. Arguments are parts of test names, as with libtest.

mod attacks;
mod command_line;
mod features;
mod fixture;
mod life;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

type Test = (&'static str, fn());

fn say(text: &str) {
    // A closed stderr does not change a test's result.
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((marker, rest)) = arguments.split_first()
        && marker == fixture::MARKER
    {
        return command_line::run(rest);
    }
    let all: Vec<Test> = [features::TESTS, life::TESTS, attacks::TESTS].concat();
    if arguments.iter().any(|argument| argument == "--list") {
        all.iter().for_each(|(name, _)| drop(writeln!(std::io::stdout(), "{name}: test")));
        return ExitCode::SUCCESS;
    }
    if !stos_testkit::guard::met(&[stos_testkit::guard::Need::Root, stos_testkit::guard::Need::Tool("ldd")]) {
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen =
        all.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str())));
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in chosen {
        if catch_unwind(AssertUnwindSafe(test)).is_ok() {
            passed += 1;
            say(&format!("test {name} ... ok"));
        } else {
            say(&format!("test {name} ... FAILED"));
            failed.push(*name);
        }
    }
    say(&format!("\n{passed} passed; {} failed {failed:?}", failed.len()));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
