// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands about the host.

use clap::{Args, Subcommand};

use super::{Format, SystemCheck};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum System {
    /// Show what the kernel can do and what was chosen
    Info(SystemInfo),
    /// Look for damage in the store, and repair it
    Check(SystemCheck),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos system info --format json")]
pub struct SystemInfo {
    /// How it looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}
