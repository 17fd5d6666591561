// SPDX-License-Identifier: Apache-2.0 OR MIT
//! diff, commit, export: what a container has made of its image.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use serde::Serialize;
use stos_engine::changes::{self, ChangeKind};
use stos_engine::commit::{CommitOptions, commit_container};
use stos_engine::container::ContainerRecord;
use stos_engine::export::{export_container, export_container_to};
use stos_engine::image::{LoadedImage, find_image};
use stos_engine::{Engine, Error as EngineError};

use crate::cli::{Commit, CommitFormat, Diff, Export, Format, Global, ImageDiff};
use crate::failure::Failure;
use crate::table;
use crate::target::{self, Target};

/// Finds a container from an image.
fn find(global: &Global, query: &str, what: &str) -> Result<(Engine, Box<ContainerRecord>), Failure> {
    match target::find(global, query)? {
        Target::Image(engine, record) => Ok((*engine, record)),
        Target::Bundle(_, id) => {
            Err(Failure::message(format!("container {id} is a bundle's: {what} is for containers from images"), 1))
        }
    }
}

/// The changes as podman's JSON has them.
#[derive(Default, Serialize)]
struct Changes {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    added: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deleted: Vec<String>,
}

impl Changes {
    fn list(&mut self, kind: ChangeKind) -> &mut Vec<String> {
        match kind {
            ChangeKind::Added => &mut self.added,
            ChangeKind::Modified => &mut self.changed,
            ChangeKind::Deleted => &mut self.deleted,
        }
    }
}

/// Prints what a container or an image changes, a line for each path as it is found.
pub fn diff(global: &Global, args: &Diff) -> Result<u8, Failure> {
    print_changes(args.format, |tell| {
        match find(global, &args.subject, "diff") {
            Ok((_, container)) if args.base.is_some() => {
                let text = format!("{} is a container: it is compared with its own image alone", container.name);
                return Err(Failure::message(text, 1));
            }
            Ok((engine, container)) => return Ok(changes::container_changes(&engine, &container, tell)?),
            Err(failure) if failure.is_missing_container() && global.data_root.is_dir() => {}
            Err(failure) => return Err(failure),
        }
        let engine = target::engine(global)?;
        match find_image(&engine, &args.subject) {
            Err(EngineError::Store(stos_store::Error::NoSuchImage(_))) if args.base.is_none() => {
                Err(Failure::message(format!("no such image or container: {:?}", args.subject), 1))
            }
            image => compare_images(&engine, &image?, args.base.as_deref(), tell),
        }
    })
}

/// Prints what an image changes; a container's name is none.
pub fn diff_images(global: &Global, args: &ImageDiff) -> Result<u8, Failure> {
    print_changes(args.format, |tell| {
        let engine = target::engine(global)?;
        compare_images(&engine, &find_image(&engine, &args.image)?, args.base.as_deref(), tell)
    })
}

type Tell<'a> = dyn FnMut(ChangeKind, &[u8]) -> Result<(), EngineError> + 'a;

fn compare_images(
    engine: &Engine,
    image: &LoadedImage,
    base: Option<&str>,
    tell: &mut Tell<'_>,
) -> Result<(), Failure> {
    let base = base.map(|base| find_image(engine, base)).transpose()?;
    Ok(changes::image_changes(engine, image, base.as_ref(), tell)?)
}

/// Prints what `compare` tells.
fn print_changes(format: Format, compare: impl FnOnce(&mut Tell<'_>) -> Result<(), Failure>) -> Result<u8, Failure> {
    if format == Format::Json {
        let mut changes = Changes::default();
        compare(&mut |kind, path| {
            changes.list(kind).push(std::str::from_utf8(path).map_or_else(|_| printable(path), str::to_owned));
            Ok(())
        })?;
        table::print_json(&changes)?;
        return Ok(0);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let told = compare(&mut |kind, path| {
        let letter = match kind {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'C',
            ChangeKind::Deleted => 'D',
        };
        let line = writeln!(out, "{letter} {}", printable(path));
        Ok(line.map_err(stos_store::Error::io("write to", "standard output"))?)
    });
    // What was found before a failure is told too.
    match out.flush() {
        // Who reads us has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
        flushed => told.and(Ok(flushed?))?,
    }
    Ok(0)
}

/// A path on one line: control characters, backslashes and what is not UTF-8 are escaped.
fn printable(path: &[u8]) -> String {
    let mut shown = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => shown.push_str("\\\\"),
                c if c.is_control() => shown.extend(c.escape_default()),
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// Makes an image of a container and prints its ID.
pub fn commit(global: &Global, args: &Commit) -> Result<u8, Failure> {
    let options = CommitOptions {
        name: args.image.as_deref().map(str::parse).transpose()?,
        author: args.author.clone(),
        message: args.message.clone(),
        changes: args.change.clone(),
        include_volumes: args.include_volumes,
        quiet: args.quiet,
    };
    // There is no other.
    let CommitFormat::Oci = args.format;
    let (engine, container) = find(global, &args.container, "commit")?;
    let image = commit_container(&engine, &container, &options)?;
    table::print_line(image.image_id.hex())?;
    if let Some(path) = &args.iidfile {
        std::fs::write(path, image.image_id.hex()).map_err(stos_store::Error::io("write", path))?;
    }
    Ok(0)
}

/// Writes a container's tree as a tar to a file or to standard output.
pub fn export(global: &Global, args: &Export) -> Result<u8, Failure> {
    let (engine, container) = find(global, &args.container, "export")?;
    if let Some(path) = &args.output {
        export_container_to(&engine, &container, path)?;
        return Ok(0);
    }
    if io::stdout().is_terminal() {
        return Err(Failure::message("a tar is nothing for a terminal: use -o FILE, or redirect", 1));
    }
    // Not through the line buffer of `io::stdout`.
    export_container(&engine, &container, File::from(io::stdout().as_fd().try_clone_to_owned()?))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_takes_one_line_and_hides_nothing() {
        let cases: &[(&[u8], &str)] = &[
            (b"/etc/motd", "/etc/motd"),
            ("/naïve — ok".as_bytes(), "/naïve — ok"),
            (b"/a\nD /b", "/a\\nD /b"),
            (b"/\x1b[31m", "/\\u{1b}[31m"),
            (b"/a\\x41", "/a\\\\x41"),
            (b"/\xff\xc3", "/\\xff\\xc3"),
        ];
        for (path, expected) in cases {
            assert_eq!(printable(path), *expected);
        }
    }
}
