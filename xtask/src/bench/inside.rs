// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a process within a container finds: the first run of a large program, reads, walks, and the copy-up of a large file.

use super::book::{Book, Unit};
use super::clock;
use super::disk;
use super::engines::{Act, Engine};
use super::stand::{Stand, commands, perform, perform_with_output};

/// The group of the rows.
pub const GROUP: &str = "inside";
/// The first run with nothing of the image in memory.
pub const FIRST_RUN: &str = "first run of python3 with scipy.linalg, cold";
/// What loads much and says that it has.
const SCIENCE: [&str; 3] = ["python3", "-c", "import scipy.linalg; print('ready')"];
/// What measures within.
const SCRIPT: &str = include_str!("inside.py");

/// Each round does everything with every engine once.
pub fn measure(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let image = stand.image("sci:2");
    let mut engines = stand.engines_for(Act::Run(&image, "a", &SCIENCE));
    engines.retain(|engine| engine.commands(Act::Pull(&image)).is_some());
    if stand.settings.is_quick {
        // Their pulls take longest of all.
        engines.retain(|engine| ["stos", "podman", "containerd overlayfs"].contains(&engine.name()));
    }
    for engine in &engines {
        book.attempt(GROUP, FIRST_RUN, engine.name(), || stand.ensure_image(*engine, &image))?;
    }
    engines.retain(|engine| !book.has_failed(GROUP, FIRST_RUN, engine.name()));
    for round in 0..stand.settings.rounds {
        for engine in &engines {
            science(book, *engine, &image, round)?;
        }
        for engine in &engines {
            within(book, *engine, &image, round)?;
        }
    }
    Ok(())
}

/// All is cold but the engine's program; then a second container of the same image.
fn science(book: &mut Book, engine: &dyn Engine, image: &str, round: usize) -> anyhow::Result<()> {
    disk::chill()?;
    perform(engine, Act::Nothing)?;
    for what in [FIRST_RUN, "the second container of it"] {
        let id = format!("science-{round}");
        let act = Act::Run(image, &id, &SCIENCE);
        if let Some(sample) = book.attempt(GROUP, what, engine.name(), || perform_with_output(engine, act))? {
            book.add_time(GROUP, what, engine.name(), sample.wall);
        }
    }
    Ok(())
}

fn within(book: &mut Book, engine: &dyn Engine, image: &str, round: usize) -> anyhow::Result<()> {
    disk::chill()?;
    perform(engine, Act::Nothing)?;
    let id = format!("within-{round}");
    let words = ["python3", "-c", SCRIPT];
    let said = book.attempt(GROUP, "reads and walks", engine.name(), || {
        let mut run = commands(engine, Act::Run(image, &id, &words))?;
        clock::output(&mut run.remove(0))
    })?;
    for (what, milliseconds) in said.iter().flat_map(|said| parse(said)) {
        book.add(GROUP, what, engine.name(), Unit::Milliseconds, milliseconds);
    }
    Ok(())
}

/// Reads what the script prints: `cold walk 12.5`.
fn parse(said: &str) -> Vec<(&str, f64)> {
    let line = |line: &'_ str| -> Option<(usize, f64)> {
        let at = line.rfind(' ')?;
        Some((at, line[at + 1..].trim().parse().ok()?))
    };
    said.lines().filter_map(|text| line(text).map(|(at, number)| (&text[..at], number))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_prints_is_read() {
        assert_eq!(parse("cold walk 12.5\nnonsense\ncopy-up 3\n"), [("cold walk", 12.5), ("copy-up", 3.0)]);
    }
}
