// SPDX-License-Identifier: Apache-2.0 OR MIT
//! save, load, import.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use stos_engine::import::{ImportOptions, import_image, open_input};
use stos_engine::load::{Wanted, load_images};
use stos_engine::save::{SaveFormat, SaveTarget, Saved, save_images};
use stos_engine::{Engine, ImageInput, PullOptions};

use crate::cli::{ArchiveFormat, Global, Import, Load, Save};
use crate::failure::Failure;
use crate::{options, progress, table, target};

/// How much of an archive is written at once.
const BUFFER: usize = 256 << 10;

/// Writes images to a file, a directory or standard output.
pub fn save(global: &Global, args: &Save) -> Result<u8, Failure> {
    let engine = target::engine(global)?;
    let saved = write(&engine, args)?;
    if !args.quiet && !saved.rewritten.is_empty() {
        note(format_args!(
            "layers are written uncompressed, under a new manifest digest: {}; `stos pull --keep-blobs` keeps digests",
            saved.rewritten.join(", ")
        ));
    }
    Ok(0)
}

/// Says something on stderr.
pub(super) fn note(text: fmt::Arguments<'_>) {
    // With stderr closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "note: {text}");
}

fn write(engine: &Engine, args: &Save) -> Result<Saved, Failure> {
    let format = match args.format {
        ArchiveFormat::DockerArchive => SaveFormat::DockerArchive,
        ArchiveFormat::OciArchive => SaveFormat::OciArchive,
        ArchiveFormat::OciDir => SaveFormat::OciDir,
        ArchiveFormat::DockerDir => {
            let text =
                "--format docker-dir: stos does not write it; of oci-dir `skopeo copy oci:DIR dir:OTHER` makes one";
            return Err(Failure::message(text, 1));
        }
    };
    if let Some(path) = &args.output {
        return Ok(save_images(engine, &args.images, format, SaveTarget::Path(path))?);
    }
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(Failure::message("refusing to write an archive to a terminal: use --output, or redirect", 1));
    }
    let mut out = BufWriter::with_capacity(BUFFER, File::from(stdout.as_fd().try_clone_to_owned()?));
    Ok(save_images(engine, &args.images, format, SaveTarget::Stream(&mut out))?)
}

/// Reads images from a file, a directory or standard input, and prints what they are called.
pub fn load(global: &Global, args: &Load) -> Result<u8, Failure> {
    let loaded = progress::reporter(&args.progress)?.watch(|progress| {
        let input = match &args.input {
            Some(path) => ImageInput::Path(path.clone()),
            None => standard_input("--input")?,
        };
        let registries = options::policy(&args.policy);
        let mut options = PullOptions { registries, keep_blobs: args.keep_blobs, ..PullOptions::default() };
        if let Some(platform) = &args.platform {
            options.platform = platform.clone();
        }
        Ok(load_images(&target::engine(global)?, input, &Wanted::All, &options, progress)?)
    })?;
    for image in loaded {
        for record in &image.records {
            match &record.reference {
                Some(name) => table::print_line(format!("Loaded image: {name}"))?,
                None => table::print_line(format!("Loaded image: {}", record.image_id))?,
            }
        }
        if let Some(tag) = image.tag.filter(|_| !args.progress.quiet) {
            note(format_args!("{tag:?} is a tag of the layout, and no image's name: `stos tag` gives it one"));
        }
    }
    Ok(0)
}

/// Makes an image of a root filesystem and prints its ID.
pub fn import(global: &Global, args: &Import) -> Result<u8, Failure> {
    let name = args.name.as_deref().map(str::parse).transpose()?;
    let input = match args.input.as_os_str().as_encoded_bytes() {
        b"-" => standard_input("a file")?,
        input if [&b"http://"[..], b"https://"].iter().any(|scheme| input.to_ascii_lowercase().starts_with(scheme)) => {
            let url = args.input.display();
            let text = format!("{url}: URLs are not supported: use `curl -fL {url} | stos import - NAME`");
            return Err(Failure::message(text, 1));
        }
        _ => open_input(&args.input)?,
    };
    let mut options = ImportOptions {
        name,
        changes: args.change.clone(),
        message: args.message.clone(),
        quiet: args.quiet,
        ..ImportOptions::default()
    };
    if let Some(platform) = &args.platform {
        options.platform = platform.clone();
    }
    table::print_line(import_image(&target::engine(global)?, input, &options)?.image_id)?;
    Ok(0)
}

/// Takes standard input, unless it is a terminal; `option` is what to use then.
fn standard_input(option: &str) -> Result<ImageInput, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::message(format!("cannot read an archive from a terminal: use {option}, or redirect"), 1));
    }
    Ok(ImageInput::Stream(File::from(stdin.as_fd().try_clone_to_owned()?), "standard input".to_owned()))
}
