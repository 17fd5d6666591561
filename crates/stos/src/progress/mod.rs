// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a command shows what it is doing: `--progress` and `-q`.
//!
//! | module | what it is |
//! |---|---|
//! | `bars` | a bar for each layer, on a terminal |
//! | `plain` | a line for each event, for a log |
//! | `json` | an object for each event, for a program |
//! | `tally` | how much of each layer has come, for the last two |
//! | `text` | amounts, rates and times for people |
//! | `ticker` | a thread that looks from time to time |
//!
//! All of it goes to stderr, so that stdout carries the result alone. Until a first image is announced nothing is shown and no
//! thread runs: a container of an image that is there is created in silence. What shows is gone, threads too, when
//! [`Reporter::watch`] returns: a process that is launched later is launched by a single thread.

mod bars;
mod json;
mod plain;
mod tally;
mod text;
mod ticker;

use std::io::{IsTerminal, Write};

pub use bars::LogBesideBars;
use stos_engine::pull::{PullProgress, Silent};

use crate::cli::{ProgressMode, ProgressOptions};
use crate::failure::Failure;

/// Something that shows progress. Dropped, it has ended.
trait Shown: PullProgress {
    /// The command has failed.
    fn failed(&self, _failure: &Failure) {}
}

impl Shown for Silent {}

/// What shows the progress of one command.
pub struct Reporter(Box<dyn Shown>);

/// Gives what `options` ask for.
///
/// # Errors
/// Bars need a terminal.
pub fn reporter(options: &ProgressOptions) -> Result<Reporter, Failure> {
    Ok(Reporter(match how(options)? {
        ProgressMode::Bars => Box::new(bars::Bars::new()),
        ProgressMode::Json => Box::new(json::Json::new()),
        ProgressMode::None => Box::new(Silent),
        ProgressMode::Plain | ProgressMode::Auto => Box::new(plain::Plain::new()),
    }))
}

fn how(options: &ProgressOptions) -> Result<ProgressMode, Failure> {
    if options.quiet {
        return Ok(ProgressMode::None);
    }
    let is_terminal = std::io::stderr().is_terminal();
    match options.progress {
        // A terminal that cannot move its cursor is like a log (terminfo(5), "dumb").
        ProgressMode::Auto if is_terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb") => {
            Ok(ProgressMode::Bars)
        }
        ProgressMode::Auto => Ok(ProgressMode::Plain),
        ProgressMode::Bars if !is_terminal => {
            Err(Failure::message("--progress bars: stderr is no terminal: use auto or plain", 1))
        }
        other => Ok(other),
    }
}

impl Reporter {
    /// Runs what is to be shown, and tells how it ends. When this returns, nothing shows it any more.
    pub fn watch<T>(self, act: impl FnOnce(&dyn PullProgress) -> Result<T, Failure>) -> Result<T, Failure> {
        let shown = self.0;
        act(&*shown).inspect_err(|failure| shown.failed(failure))
    }
}

/// Writes a line to stderr, by one write: what others write there comes before or after it.
fn write_line(mut line: String) {
    line.push('\n');
    // With stderr closed there is nobody to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
