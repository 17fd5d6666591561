// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of cp.

use clap::Args;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos cp web:/etc/motd .\n  stos cp site/. web:/srv/www\n  tar c site | stos cp - web:/srv"
)]
pub struct Cp {
    /// What comes into a container belongs to its user; with =false to whom it belonged
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub archive: bool,
    /// Replace directories with other files, and other files with directories
    #[arg(long)]
    pub overwrite: bool,
    /// What is copied: a path, CONTAINER:PATH, or - for a tar on standard input
    #[arg(value_name = "[CONTAINER:]SOURCE")]
    pub source: String,
    /// Where it goes: a path, CONTAINER:PATH, or - for a tar on standard output
    #[arg(value_name = "[CONTAINER:]TARGET")]
    pub target: String,
}
