// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands about images.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use stos_config::Secret;
use stos_spec::Platform;

use super::{Format, ProgressOptions};

// How to reach registries.
#[derive(Debug, Clone, Args)]
pub struct ConnectionOptions {
    /// Verify certificates and refuse plain HTTP [default: true, but for what registries.conf calls insecure]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    pub tls_verify: Option<bool>,
    /// The file of credentials, instead of podman's and docker's
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// The directory of certificates, instead of those of certs.d: *.crt, and NAME.cert with NAME.key
    #[arg(long, hide_short_help = true, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
}

// Who asks a registry that the command names.
#[derive(Debug, Clone, Args)]
pub struct CredentialOptions {
    /// Who asks; without a password it is asked for. For the registry that is named, and none of its mirrors
    #[arg(long, hide_short_help = true, value_name = "USER[:PASSWORD]")]
    pub creds: Option<Secret>,
}

// Which images may come in.
#[derive(Debug, Clone, Args)]
pub struct PolicyOptions {
    /// The file that says which images are accepted, instead of policy.json of ~/.config/containers or /etc/containers
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub signature_policy: Option<PathBuf>,
}

// What is wanted of a registry.
#[derive(Debug, Clone, Args)]
pub struct RegistryOptions {
    #[command(flatten)]
    pub connection: ConnectionOptions,
    #[command(flatten)]
    pub credential: CredentialOptions,
    #[command(flatten)]
    pub policy: PolicyOptions,
    /// The platform of the image, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,
    /// Keep the layers' compressed blobs too, so that `save` can give every digest on
    #[arg(long, hide_short_help = true)]
    pub keep_blobs: bool,
    /// How many layers are fetched at a time, 1 to 64 [default: one more than there are processors, at most 8]
    #[arg(long, hide_short_help = true, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: Option<u8>,
    /// How often in a row a request that brought nothing is sent again; a layer that came in part goes on in any case, but with 0
    #[arg(long, hide_short_help = true, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(..=100))]
    pub retry: u32,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos pull --tls-verify=false 127.0.0.1:5000/debian:12\n  stos pull --progress json registry.example/app:1 2>events"
)]
pub struct Pull {
    #[command(flatten)]
    pub progress: ProgressOptions,
    #[command(flatten)]
    pub registry: RegistryOptions,
    /// The image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]
    #[arg(value_name = "REF")]
    pub reference: String,
}

/// How the layers of an image that is pushed are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    /// As every registry and engine reads it
    Gzip,
    /// Smaller and faster, for newer ones
    Zstd,
    /// Not at all
    None,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos push registry.example/team/app:1\n  stos push --compress zstd app:1 registry.example/team/app:1"
)]
pub struct Push {
    #[command(flatten)]
    pub progress: ProgressOptions,
    #[command(flatten)]
    pub connection: ConnectionOptions,
    #[command(flatten)]
    pub credential: CredentialOptions,
    /// Compress all layers so [default: those that are kept or there already go as they are, others with gzip]
    #[arg(long, value_name = "FORMAT", value_enum, visible_alias = "compression-format")]
    pub compress: Option<Compress>,
    /// How much effort goes into that: 1 to 9 for gzip, 1 to 20 for zstd
    #[arg(long, value_name = "LEVEL")]
    pub compression_level: Option<u32>,
    /// Write the digest of the manifest there to FILE
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,
    /// How many layers are sent at a time, 1 to 64 [default: one more than there are processors, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: Option<u8>,
    /// How often in a row a request that achieved nothing is sent again
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(..=100))]
    pub retry: u32,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where it goes, instead of where its name says: [docker://]REGISTRY/REPOSITORY[:TAG]
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos images --format json\n  stos images --format '{{.ID}} {{.Repository}}:{{.Tag}}'"
)]
pub struct Images {
    /// Print only IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// How the list looks: table, json, or a template such as '{{.ID}} {{.Repository}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Only those of which this holds: reference=PATTERN, dangling=true|false, id=PREFIX; of several all must
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Print whole IDs
    #[arg(long)]
    pub no_trunc: bool,
    /// Leave out the line with the columns' names
    #[arg(short, long)]
    pub noheading: bool,
    /// All of them, as without: a build leaves none between
    #[arg(short, long)]
    pub all: bool,
    /// Only those of this name, or of names that a pattern with * fits
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos inspect web\n  stos inspect -f '{{.State.Status}} {{.State.ExitCode}}' web")]
pub struct Inspect {
    /// How it looks: json, or a template such as '{{.Id}}'
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    pub format: String,
    /// Images, containers and pods
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos rmi debian:12")]
pub struct Rmi {
    /// Remove it although it has several names, or a container uses it
    #[arg(short, long)]
    pub force: bool,
    /// How the result looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// All images
    #[arg(short, long, conflicts_with = "images")]
    pub all: bool,
    /// Succeed for one that is gone
    #[arg(short, long)]
    pub ignore: bool,
    /// Images
    #[arg(value_name = "IMAGE", required_unless_present = "all")]
    pub images: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos tag registry.example/app:1 app:stable")]
pub struct Tag {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Its new names: [REGISTRY/]REPOSITORY[:TAG]
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos untag app:stable")]
pub struct Untag {
    /// The image; it stays
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The names to take away; all of them if none is given
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos history --no-trunc debian:12")]
pub struct History {
    /// Print only IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Sizes and times for people
    #[arg(short = 'H', long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub human: bool,
    /// Cut nothing short
    #[arg(long)]
    pub no_trunc: bool,
    /// How the list looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// How `save` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArchiveFormat {
    /// A docker-archive, which every engine reads
    DockerArchive,
    /// A tar of an OCI image layout
    OciArchive,
    /// A directory with an OCI image layout
    OciDir,
    /// podman's directory of Docker's kind, which is not written
    #[value(hide = true)]
    DockerDir,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos save -o app.tar app:1\n  stos save --format oci-archive app:1 app:2 | ssh host stos load"
)]
pub struct Save {
    /// What is written
    #[arg(long, value_enum, default_value = "docker-archive")]
    pub format: ArchiveFormat,
    /// Write to FILE instead of standard output; a directory for oci-dir
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Say nothing
    #[arg(short, long)]
    pub quiet: bool,
    /// Take all arguments for images, as is always done
    #[arg(short, long)]
    pub multi_image_archive: bool,
    /// Accept uncompressed layers, as is always done
    #[arg(long)]
    pub uncompressed: bool,
    /// Images; by a name they go under it, by an ID under none
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos load -i app.tar")]
pub struct Load {
    /// Read FILE instead of standard input: a docker-archive or an OCI layout, in a tar or a directory
    #[arg(short, long, value_name = "FILE|DIR")]
    pub input: Option<PathBuf>,
    #[command(flatten)]
    pub progress: ProgressOptions,
    /// Keep the layers' compressed blobs too, so that `save` can give every digest on
    #[arg(long)]
    pub keep_blobs: bool,
    /// The platform of the images, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,
    #[command(flatten)]
    pub policy: PolicyOptions,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos import -c 'CMD [\"/bin/sh\"]' root.tar.gz base:1\n  mmdebstrap trixie - | stos import - debian:own"
)]
pub struct Import {
    /// Set CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR, as a Dockerfile does
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// A note for the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// What the image runs on, such as linux/arm64; this host's if not given
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,
    /// Do not tell of what is left out: sockets above all
    #[arg(short, long)]
    pub quiet: bool,
    /// The root filesystem: a directory, or a tar, plain or compressed with gzip or zstd; - for standard input. What is
    /// mounted in a directory is not in the image: mount points are empty
    #[arg(value_name = "FILE|DIR|-")]
    pub input: PathBuf,
    /// The image's name: [REGISTRY/]REPOSITORY[:TAG]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos image prune --all --force --filter until=240h --filter 'label!=keep'")]
pub struct ImagePrune {
    /// Remove images with names too, where no container uses them
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Only images made before a time (until=2026-01-31T12:00:00Z, until=24h), with a label (label=KEY[=VALUE]), or without
    /// one (label!=KEY[=VALUE]); all filters must fit
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// How the result looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Image {
    /// List images
    #[command(visible_alias = "list")]
    Ls(Images),
    /// Fetch an image from its registry, verified
    Pull(Pull),
    /// Send an image to a registry
    Push(Push),
    /// Show everything about images, as JSON
    Inspect(Inspect),
    /// Remove images
    Rm(Rmi),
    /// Give an image further names
    Tag(Tag),
    /// Take names away from an image
    Untag(Untag),
    /// Show how an image came to be
    History(History),
    /// Write images to an archive or a directory
    Save(Save),
    /// Read images from an archive or a directory
    Load(Load),
    /// List what an image changes against the layers below, or another image
    Diff(super::ImageDiff),
    /// Mount images to look at them, and print where
    Mount(super::ImageMount),
    /// Unmount images
    #[command(visible_alias = "umount")]
    Unmount(super::ImageUnmount),
    /// Make an image of a root filesystem
    Import(Import),
    /// Remove images that have no name, or with --all those that no container uses
    Prune(ImagePrune),
    /// Prove an image: every document, layer and merged index of it
    Verify(super::VerifyImage),
    /// Tell by the exit code whether there is an image: 0 or 1
    Exists(super::ImageExists),
}
