// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line itself, told to shells and to man(1).

use std::fs;
use std::io::{self, Write};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::aot;

use crate::cli::{Cli, Completion, Shell, SystemMan};
use crate::failure::Failure;

/// Prints, or writes to a file, the script that completes command lines.
pub fn completion(args: &Completion) -> Result<u8, Failure> {
    let shell = match args.shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    let mut script = Vec::new();
    aot::generate(shell, &mut Cli::command(), "stos", &mut script);
    match &args.file {
        Some(path) => fs::write(path, script).with_context(|| path.display().to_string())?,
        None => io::stdout().write_all(&script)?,
    }
    Ok(0)
}

/// Writes a manual page for each command into a directory, which is made where it is missing.
pub fn man(args: &SystemMan) -> Result<u8, Failure> {
    fs::create_dir_all(&args.directory).with_context(|| args.directory.display().to_string())?;
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, &args.directory).with_context(|| args.directory.display().to_string())?;
    Ok(0)
}
