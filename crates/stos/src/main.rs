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
    let matches = Cli::command().get_matches();
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
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
