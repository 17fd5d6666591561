// SPDX-License-Identifier: Apache-2.0 OR MIT
//! history.

use stos_engine::history::{HistoryStep, image_history};
use stos_engine::image;

use crate::cli::{Format, Global, History};
use crate::failure::Failure;
use crate::{table, target};

/// How many characters of a command are shown, as podman.
const COMMAND_MAX: usize = 45;

/// Prints how an image came to be, the last step first.
pub fn history(global: &Global, args: &History) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    let image = image::find_image(&engine, &args.image)?;
    let steps = image_history(&engine, &image);
    match args.format {
        Format::Json => table::print_json(&steps)?,
        Format::Table if args.quiet => steps.iter().try_for_each(|step| table::print_line(id(step, args)))?,
        Format::Table => {
            let rows: Vec<_> = steps.iter().map(|step| row(step, args)).collect();
            table::print(&["ID", "CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows)?;
        }
    }
    Ok(0)
}

fn row(step: &HistoryStep, args: &History) -> Vec<String> {
    let created = step.created.as_deref();
    vec![
        id(step, args),
        created.map_or_else(|| "-".to_owned(), |time| if args.human { table::ago(time) } else { time.to_owned() }),
        if args.no_trunc { step.created_by.clone() } else { cut(&step.created_by) },
        if args.human { table::size(step.size) } else { step.size.to_string() },
        step.comment.clone(),
    ]
}

fn id(step: &HistoryStep, args: &History) -> String {
    match step.id {
        None => "<missing>".to_owned(),
        Some(id) if args.no_trunc => id.to_string(),
        Some(id) => id.short(),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(COMMAND_MAX) {
        None => text.to_owned(),
        Some(_) => text.chars().take(COMMAND_MAX - 3).chain("...".chars()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(COMMAND_MAX)), "ä".repeat(COMMAND_MAX));
        assert_eq!(cut(&"ä".repeat(COMMAND_MAX + 1)), format!("{}...", "ä".repeat(COMMAND_MAX - 3)));
    }
}
