// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words about how a command shows what it is doing.

use clap::{Args, ValueEnum};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// Bars on a terminal, lines elsewhere
    Auto,
    /// A bar for each layer, with rate and time left; needs a terminal
    Bars,
    /// A line for each event, and now and then one for a large layer
    Plain,
    /// One JSON object a line
    Json,
    /// Not at all
    None,
}

// How a command that moves layers shows that.
#[derive(Debug, Clone, Args)]
pub struct ProgressOptions {
    /// Print nothing but the result: no progress, no notes
    #[arg(short, long)]
    pub quiet: bool,
    /// How progress is shown, on stderr
    #[arg(long, value_name = "HOW", value_enum, default_value_t = ProgressMode::Auto, conflicts_with = "quiet")]
    pub progress: ProgressMode,
}
