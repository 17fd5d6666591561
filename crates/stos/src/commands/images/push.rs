// SPDX-License-Identifier: Apache-2.0 OR MIT
//! push.

use stos_engine::push::{PushOptions, push_image};
use stos_engine::save::OutputFile;
use stos_spec::{ImageRef, LayerCompression};

use super::archive::note;
use crate::cli::{Compress, Global, Push};
use crate::failure::Failure;
use crate::{options, progress, table, target};

/// Sends an image to a registry and prints the digest of its manifest there.
pub fn push(global: &Global, args: &Push) -> Result<u8, Failure> {
    let pushed = progress::reporter(&args.progress)?.watch(|progress| {
        // What cannot be written is told before anything is sent.
        let digests = args.digestfile.as_deref().map(|path| OutputFile::create(path, "--digestfile")).transpose()?;
        let destination = args.destination.as_deref().map(parse_destination).transpose()?;
        let push = PushOptions {
            registries: options::push_registries(&args.connection, &args.credential, args.retry)?,
            compression: args.compress.map(|compress| match compress {
                Compress::Gzip => LayerCompression::Gzip,
                Compress::Zstd => LayerCompression::Zstd,
                Compress::None => LayerCompression::None,
            }),
            level: args.compression_level,
            jobs: args.jobs.map(usize::from),
        };
        let pushed = push_image(&target::engine(global)?, &args.image, destination.as_ref(), &push, progress)?;
        // The image is there: neither of them keeps its digest from the other.
        let printed = table::print_line(pushed.manifest);
        if let Some(file) = digests {
            file.write_whole(pushed.manifest.to_string().as_bytes())?;
        }
        printed?;
        Ok(pushed)
    })?;
    if pushed.is_rewritten && args.compress.is_none() && !args.progress.quiet {
        note(format_args!(
            "not every layer could go as it came: the image has a new manifest there; `stos pull --keep-blobs` keeps digests"
        ));
    }
    Ok(0)
}

/// Reads `[docker://]REGISTRY/REPOSITORY[:TAG][@DIGEST]`.
fn parse_destination(text: &str) -> Result<ImageRef, Failure> {
    if let Some(name) = text.strip_prefix("docker://") {
        return Ok(name.parse()?);
    }
    let refused = match text.parse() {
        Ok(reference) => return Ok(reference),
        Err(error) => error,
    };
    let (transport, rest) = text.split_once(':').unwrap_or_default();
    let format = match transport {
        "oci" => "oci-dir",
        "oci-archive" | "docker-archive" => transport,
        _ => return Err(refused.into()),
    };
    let path = rest.split(':').next().unwrap_or(rest);
    let text = format!("{text}: push goes to registries: use `stos save --format {format} -o {path} IMAGE`");
    Err(Failure::message(text, 1))
}
