// SPDX-License-Identifier: Apache-2.0 OR MIT
//! cp: files go into containers from images, and come out of them.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;

use stos_engine::container::{self, ContainerRecord};
use stos_engine::copy::{CopyOptions, Endpoint, copy, copy_from_tar, copy_to_tar};
use stos_engine::{Engine, ImageInput};

use super::life::only_image_mode;
use crate::cli::{Cp, Global};
use crate::failure::Failure;
use crate::target::{self, Target};

/// One end of a copy, as it was typed.
#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    Container(&'a str, &'a Path),
    Local(&'a Path),
    Stream,
}

/// Copies.
pub fn cp(global: &Global, args: &Cp) -> Result<u8, Failure> {
    let options = CopyOptions { archive: args.archive, overwrite: args.overwrite };
    let refuse = |reason: &str| Err(Failure::message(format!("cp: {reason}"), 1));
    match (read_end(&args.source), read_end(&args.target)) {
        (End::Container(name, path), End::Stream) => {
            if io::stdout().is_terminal() {
                return refuse("a tar is nothing for a terminal: redirect, or give a path");
            }
            let (engine, record) = find(global, name)?;
            // Not through the line buffer of `io::stdout`.
            copy_to_tar(&engine, &record, path, File::from(io::stdout().as_fd().try_clone_to_owned()?))?;
        }
        (End::Stream, End::Container(name, path)) => {
            if io::stdin().is_terminal() {
                return refuse("expected a tar on standard input, which is a terminal");
            }
            let (engine, record) = find(global, name)?;
            let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
            let input = ImageInput::Stream(input, "standard input".to_owned());
            copy_from_tar(&engine, input, &record, path, options)?;
        }
        (End::Container(name, path), End::Local(local)) => {
            let (engine, record) = find(global, name)?;
            copy(&engine, Endpoint::Container(&record, path), Endpoint::Local(local), options)?;
        }
        (End::Local(local), End::Container(name, path)) => {
            let (engine, record) = find(global, name)?;
            copy(&engine, Endpoint::Local(local), Endpoint::Container(&record, path), options)?;
        }
        (End::Container(from, source), End::Container(to, path)) => {
            let (engine, from) = find(global, from)?;
            let to = container::find(&engine, to)?;
            copy(&engine, Endpoint::Container(&from, source), Endpoint::Container(&to, path), options)?;
        }
        _ => return refuse("expected a container on one side, as CONTAINER:PATH"),
    }
    Ok(0)
}

fn find(global: &Global, query: &str) -> Result<(Box<Engine>, Box<ContainerRecord>), Failure> {
    match target::find(global, query)? {
        Target::Image(engine, record) => Ok((engine, record)),
        Target::Bundle(_, id) => Err(only_image_mode("cp", &id)),
    }
}

/// Tells a container's path by its colon; what begins with a dot or a slash is none (podman-cp(1)).
fn read_end(text: &str) -> End<'_> {
    if text == "-" {
        return End::Stream;
    }
    match text.split_once(':') {
        Some((container, path)) if !container.is_empty() && !text.starts_with(['.', '/']) => {
            End::Container(container, Path::new(if path.is_empty() { "/" } else { path }))
        }
        _ => End::Local(Path::new(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_tells_a_container() {
        for (text, expected) in [
            ("-", End::Stream),
            ("web:/etc", End::Container("web", Path::new("/etc"))),
            ("web:etc/.", End::Container("web", Path::new("etc/."))),
            ("web:", End::Container("web", Path::new("/"))),
            ("./web:x", End::Local(Path::new("./web:x"))),
            ("/a:b", End::Local(Path::new("/a:b"))),
            ("../a:b", End::Local(Path::new("../a:b"))),
            ("file", End::Local(Path::new("file"))),
            (":x", End::Local(Path::new(":x"))),
        ] {
            assert_eq!(read_end(text), expected, "{text}");
        }
    }
}
