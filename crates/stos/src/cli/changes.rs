// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands about what containers have changed, and about looking into images.

use std::path::PathBuf;

use clap::Args;

use super::Format;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos diff web\n  stos diff --format json app:2 app:1")]
pub struct Diff {
    /// How the list looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// A container, compared with its image; or an image, whose topmost layer is compared with those below it
    #[arg(value_name = "CONTAINER|IMAGE")]
    pub subject: String,
    /// The image that the first one is compared with
    #[arg(value_name = "IMAGE")]
    pub base: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos image diff app:2 app:1")]
pub struct ImageDiff {
    /// How the list looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// What it is compared with, instead of its own layers below the topmost
    #[arg(value_name = "IMAGE")]
    pub base: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The new image is configured as the container's image is, with what the container was created with: entrypoint, \
                  command, \
                  environment, working directory, user and labels. Then come the changes.\n\n\
                  Example:\n  stos commit -m 'with nginx' -c 'CMD [\"nginx\"]' web registry.example/web:2"
)]
pub struct Commit {
    /// Who made it
    #[arg(short, long, value_name = "AUTHOR")]
    pub author: Option<String>,
    /// What its history says
    #[arg(short, long, value_name = "MESSAGE")]
    pub message: Option<String>,
    /// Change its configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR, with a value
    #[arg(short, long, value_name = "INSTRUCTION VALUE")]
    pub change: Vec<String>,
    /// Let the image have volumes where the container has what was mounted by --volume or --mount
    #[arg(long)]
    pub include_volumes: bool,
    /// The form of the image's manifest: oci
    #[arg(short, long, value_name = "FORMAT", default_value = "oci", value_parser = commit_format)]
    pub format: CommitFormat,
    /// Write the new image's ID to FILE too
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Do not tell of what is left out: sockets, attributes that no tar can hold
    #[arg(short, long)]
    pub quiet: bool,
    /// The container; it may run
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// What the image is called: [REGISTRY/]REPOSITORY[:TAG]
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,
}

/// The form of a new image's manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFormat {
    /// OCI's.
    Oci,
}

fn commit_format(text: &str) -> Result<CommitFormat, String> {
    match text {
        "oci" => Ok(CommitFormat::Oci),
        "docker" => Err("new images are OCI's: `stos save --format docker-archive` writes one for Docker".to_owned()),
        _ => Err("expected oci".to_owned()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos export -o web.tar web\n  stos export web | tar -t")]
pub struct Export {
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The container; it may run
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ls $(stos image mount debian:12)/etc")]
pub struct ImageMount {
    /// How the list looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// All images of the store
    #[arg(short, long, conflicts_with = "images")]
    pub all: bool,
    /// Images; those that are mounted are listed if none is given
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos image unmount debian:12")]
pub struct ImageUnmount {
    /// All images that are mounted
    #[arg(short, long, conflicts_with = "images")]
    pub all: bool,
    /// Once for all, however often it was mounted
    #[arg(short, long)]
    pub force: bool,
    /// Images
    #[arg(value_name = "IMAGE", required_unless_present = "all")]
    pub images: Vec<String>,
}
