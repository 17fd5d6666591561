// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands about the host.

use clap::{Args, Subcommand};

use super::{Format, SystemCheck};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum System {
    /// Show what the kernel can do and what was chosen
    Info(SystemInfo),
    /// Remove what neither images nor containers need any more
    Gc(SystemGc),
    /// Show what the store takes of the disk, as du would count it
    Df(SystemDf),
    /// Look for damage in the store, and repair it
    Check(SystemCheck),
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
#[command(after_help = "Example:\n  stos system df -v")]
pub struct SystemDf {
    /// Tell it for each image, container and layer
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
