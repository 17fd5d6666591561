// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs programs, names the one that failed with its last lines, and times steps.

use std::borrow::BorrowMut;
use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::Context;

/// Running a command to its end.
pub trait Run {
    /// Runs with our own stdio; fails where the command does.
    fn run(&mut self) -> anyhow::Result<()>;

    /// Runs with stdout and stderr in the file `log`; where it fails the error carries the file's last lines.
    fn run_logged(&mut self, log: &Path) -> anyhow::Result<()>;
}

impl Run for Command {
    fn run(&mut self) -> anyhow::Result<()> {
        let status = self.status().with_context(|| format!("running {}", shown(self)))?;
        check(self, status, "")
    }

    fn run_logged(&mut self, log: &Path) -> anyhow::Result<()> {
        let file = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        self.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let status = self.status().with_context(|| format!("running {}", shown(self)))?;
        let text = if status.success() { String::new() } else { last_lines(&std::fs::read_to_string(log)?, 15) };
        check(self, status, &text)
    }
}

/// Runs a command and gives its stdout; where it fails, the error carries its stderr.
pub fn output(mut command: impl BorrowMut<Command>) -> anyhow::Result<String> {
    let command = command.borrow_mut();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {}", shown(command)))?;
    check(command, output.status, &last_lines(&String::from_utf8_lossy(&output.stderr), 15))?;
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// Does one step and prints its name with the time it took.
pub fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprint!("{name} … ");
    let start = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "failed" };
    eprintln!("{outcome} ({:.1} s)", start.elapsed().as_secs_f64());
    result.with_context(|| name.to_owned())
}

fn check(command: &Command, status: ExitStatus, said: &str) -> anyhow::Result<()> {
    anyhow::ensure!(status.success(), "{}: {status}{}{said}", shown(command), if said.is_empty() { "" } else { "\n" });
    Ok(())
}

/// The command line for people: the program's name and its first arguments.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arguments = command.get_args().take(8).map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// The last lines of a text, at most `count`.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = output(shell("echo why >&2; exit 3")).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("exit status: 3") && error.ends_with("why"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let error = shell("seq 30; exit 1").run_logged(&log).unwrap_err().to_string();
        assert!(error.ends_with("29\n30") && !error.contains("\n10\n"), "{error}");
        assert!(shell("exit 1").run().is_err());
    }

    #[test]
    fn a_success_gives_stdout() {
        assert_eq!(output(shell("echo 1; echo 2 >&2")).unwrap(), "1\n");
    }
}
