// SPDX-License-Identifier: Apache-2.0 OR MIT
//! image prune.

use std::io::{self, BufRead, Read, Write};

use stos_engine::prune::{PruneFilter, PruneOptions, prune_images};

use crate::cli::{Format, Global, ImagePrune};
use crate::failure::Failure;
use crate::{table, target};

/// Removes images that nobody uses and prints their IDs. Asks first, unless by force.
pub fn prune(global: &Global, args: &ImagePrune) -> Result<u8, Failure> {
    let filters = args.filters.iter().map(|text| text.parse::<PruneFilter>()).collect::<Result<_, _>>()?;
    if !args.force && !is_wanted(args)? {
        return Ok(0);
    }
    let pruned = prune_images(&target::engine(global)?, &PruneOptions { all: args.all, filters })?;
    match args.format {
        Format::Json => table::print_json(&pruned)?,
        Format::Table => pruned.deleted.iter().try_for_each(table::print_line)?,
    }
    // With stderr closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "Freed: {}", table::size(pruned.freed));
    Ok(0)
}

/// How much of an answer is read, in bytes.
const ANSWER_MAX: u64 = 1024;

/// Asks whether what `args` say is to go.
fn is_wanted(args: &ImagePrune) -> Result<bool, Failure> {
    let what = match args.all {
        true => "all images without at least one container associated with them",
        false => "all dangling images",
    };
    let which = match args.filters.is_empty() {
        true => String::new(),
        false => format!(" that fit {}", stos_spec::text::shown(&args.filters.join(", "))),
    };
    is_answered_yes(&format!("{what}{which}"))
}

/// Asks on stderr whether `what` is to be removed, and reads the answer from standard input, be it a terminal or not.
pub(in crate::commands) fn is_answered_yes(what: &str) -> Result<bool, Failure> {
    let question = format!("WARNING! This command removes {what}.\nAre you sure you want to continue? [y/N] ");
    // Whoever cannot be asked can still answer.
    let _ = io::stderr().write_all(question.as_bytes());
    let mut answer = String::new();
    if io::stdin().lock().take(ANSWER_MAX).read_line(&mut answer)? == 0 {
        return Err(Failure::message(
            "standard input ended without an answer: nothing was removed; --force does not ask",
            1,
        ));
    }
    Ok(answer.trim_start().starts_with(['y', 'Y']))
}
