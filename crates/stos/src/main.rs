// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line of stos: from an image reference to a running container.
//!
//! | module | what it is |
//! |---|---|
//! | `cli` | the words of the command line |
//! | `commands` | what each command does, a file each |
//! | `target` | which container an argument means: of bundle mode or of image mode |
//! | `options` | options of a container, read into the engine's types |
//! | `failure` | errors with their chain, a hint and an exit code |
//! | `logging` | where the trace goes |
//! | `progress` | bars on a terminal |
//! | `table` | columns for people |
//!
//! Results go to stdout, everything else to stderr. Image mode talks to `stos-engine`, bundle mode to `stos-runtime` alone:
//! it never opens DATA-ROOT.

mod cli;
mod commands;
mod failure;
mod logging;
mod options;
mod progress;
mod table;
mod target;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::cli::{Cli, Command, LogFormat};
use crate::failure::Failure;

fn main() -> ExitCode {
    let parsed = Cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let mut cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    cli.global.bundle_mode = is_called_by_another_name();
    // Without a log of its own stderr would have each failure twice.
    let has_log = cli.global.log.is_some() || cli.global.log_format == LogFormat::Json;
    let result = prepare(&cli).and_then(|()| commands::run(cli));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if has_log {
                tracing::error!(error = %failure, "failed");
            }
            failure.print();
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Says what is wrong with the command line, or shows the help that was asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    // With the stream closed there is nobody to tell.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    ExitCode::from(if is_called_by_another_name() { 1 } else { usage_exit_code(&arguments) })
}

/// The exit code of a command line that cannot be read: 125 where image mode's create, run or start was meant, whose other
/// codes are the process's; 1 for everything else.
fn usage_exit_code(arguments: &[String]) -> u8 {
    let takes_value = |word: &str| matches!(word, "--data-root" | "--root" | "--log" | "--log-format");
    let mut words = arguments.iter().map(String::as_str);
    let command = loop {
        match words.next() {
            Some(word) if takes_value(word) => drop(words.next()),
            Some(word) if word.starts_with('-') => {}
            word => break word,
        }
    };
    let is_bundle = |word: &str| word == "-b" || word.split('=').next() == Some("--bundle");
    match command {
        Some("create" | "run" | "start") if !words.any(is_bundle) => 125,
        _ => 1,
    }
}

/// Tells whether stos is called through a symlink of another name, as engines call a runtime.
fn is_called_by_another_name() -> bool {
    let name = std::env::args_os().next().map(std::path::PathBuf::from);
    let name = name.as_deref().and_then(std::path::Path::file_name).and_then(|name| name.to_str());
    name.is_some_and(|name| !name.starts_with("stos"))
}

fn prepare(cli: &Cli) -> Result<(), Failure> {
    let launches = match &cli.command {
        // From an image nothing runs before `start`.
        Command::Create(create) => cli.global.bundle_mode || create.bundle.bundle.is_some(),
        Command::Run(_) | Command::Start(_) => true,
        _ => false,
    };
    if launches {
        // Before any thread or file: the program begins again from a view that no container can write.
        stos_runtime::protect_binary()?;
    }
    logging::start(&cli.global)?;
    let needs_root = !matches!(cli.command, Command::System(_));
    if needs_root && !rustix::process::geteuid().is_root() {
        return Err(Failure::message("stos must run as root: rootless containers are not supported yet", 1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_that_cannot_be_read_has_the_exit_code_of_its_command() {
        for (line, expected) in [
            ("run --no-such x", 125),
            ("--root create --debug --log-format=json start", 125),
            ("create --bundle=x --name y id", 1),
            ("run -b x --rm id", 1),
            ("--root /x pull", 1),
            ("", 1),
        ] {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(usage_exit_code(&words), expected, "{line:?}");
        }
    }
}
