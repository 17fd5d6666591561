// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands about the host.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Format, SystemCheck};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum System {
    /// Show what the kernel can do and what was chosen
    Info(SystemInfo),
    /// Remove what neither images nor containers need any more
    Gc(SystemGc),
    /// Remove containers that do not run, images that nobody uses, and with --volumes such volumes
    Prune(SystemPrune),
    /// Show what the store takes of the disk, as du would count it
    Df(SystemDf),
    /// Look for damage in the store, and repair it
    Check(SystemCheck),
    /// Write the manual pages of all commands
    Man(SystemMan),
    /// Remove what a command has left that was killed
    #[command(hide = true)]
    Sweep(SystemSweep),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos system info --format json")]
pub struct SystemInfo {
    /// How it looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos version --format '{{.Client.Version}}'")]
pub struct VersionOf {
    /// How it looks: table, json, or a template such as '{{.Client.Version}}'
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos system man /usr/local/share/man/man1")]
pub struct SystemMan {
    /// Where they go: a page for each command, stos-COMMAND.1
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  source <(stos completion bash)\n  stos completion -f /etc/bash_completion.d/stos bash"
)]
pub struct Completion {
    /// Write it to FILE instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Shells whose command lines can be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash(1)
    Bash,
    /// zsh(1)
    Zsh,
    /// fish(1)
    Fish,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos system gc --dry-run")]
pub struct SystemGc {
    /// Only show what would go
    #[arg(long)]
    pub dry_run: bool,
    /// How the result looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos system prune --all --volumes")]
pub struct SystemPrune {
    /// Images with names too, where no container uses them
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Volumes that no container uses, too
    #[arg(long)]
    pub volumes: bool,
    /// Only what was made before a time (until=24h), with a label (label=KEY[=VALUE]), or without one (label!=KEY[=VALUE]); all
    /// filters must fit
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos system df -v")]
pub struct SystemDf {
    /// Tell it for each image, container, volume and layer
    #[arg(short, long)]
    pub verbose: bool,
    /// How it looks; JSON has all of it, in bytes
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

// What a command becomes that a signal ends.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos system sweep")]
pub struct SystemSweep {
    /// End by this signal, and soon: what takes longer goes on in the background
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..=31))]
    pub signal: Option<i32>,
}
