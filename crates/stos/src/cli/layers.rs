// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands about layers.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Format;

/// How `layer inspect` prints: there is one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InspectFormat {
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Layer {
    /// List layers
    #[command(visible_alias = "list")]
    Ls(LayerLs),
    /// Show everything about layers, as JSON
    Inspect(LayerInspect),
    /// Unpack a layer tar into a directory, with the safety of a pull
    Apply(LayerApply),
    /// Write a layer's tar, byte for byte
    Export(LayerExport),
    /// Make one layer of several
    Merge(LayerMerge),
    /// Copy layers to another data root
    #[command(visible_alias = "cp")]
    Copy(LayerCopy),
    /// Move layers that nothing uses to another data root
    Mv(LayerMv),
    /// Copy to another data root the layers that it lacks
    Sync(LayerSync),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos layer ls --format json")]
pub struct LayerLs {
    /// Print only diffIDs
    #[arg(short, long)]
    pub quiet: bool,
    /// How the list looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos layer inspect 0f1e2d")]
pub struct LayerInspect {
    /// How it looks
    #[arg(long, value_enum, default_value_t = InspectFormat::Json)]
    pub format: InspectFormat,
    /// Layers: the diffID, with or without sha256:, or a beginning that only one has
    #[arg(value_name = "DIFFID", required = true)]
    pub layers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos layer apply root <layer.tar.gz\n  stos layer apply -i layer.tar root")]
pub struct LayerApply {
    /// Read FILE instead of standard input
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// The directory, which must be there; the tar may be plain or compressed with gzip or zstd
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos layer export -o layer.tar 0f1e2d\n  stos layer export 0f1e2d | sha256sum")]
pub struct LayerExport {
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The layer: its diffID, with or without sha256:, or a beginning that only one has
    #[arg(value_name = "DIFFID")]
    pub layer: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos layer merge 0f1e2d 3c4b5a\n  stos layer merge -o merged.tar 0f1e2d 3c4b5a")]
pub struct LayerMerge {
    /// Write the merged layer's tar to FILE, or to standard output if it is -, and keep nothing in the store
    #[arg(short, long, value_name = "FILE|-")]
    pub output: Option<PathBuf>,
    /// Layers, the lowest first: diffIDs, with or without sha256:, or beginnings that only one has
    #[arg(value_name = "DIFFID", required = true)]
    pub layers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos layer copy --to /mnt/stos 0f1e2d")]
pub struct LayerCopy {
    /// The other data root; it is made where there is none
    #[arg(long, value_name = "DATA-ROOT")]
    pub to: PathBuf,
    /// Layers: diffIDs, with or without sha256:, or beginnings that only one has
    #[arg(value_name = "DIFFID", required = true)]
    pub layers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos layer mv --to /mnt/stos 0f1e2d")]
pub struct LayerMv {
    /// The other data root; it is made where there is none
    #[arg(long, value_name = "DATA-ROOT")]
    pub to: PathBuf,
    /// Layers: diffIDs, with or without sha256:, or beginnings that only one has
    #[arg(value_name = "DIFFID", required = true)]
    pub layers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos layer sync --to /mnt/stos")]
pub struct LayerSync {
    /// The other data root; it is made where there is none
    #[arg(long, value_name = "DATA-ROOT")]
    pub to: PathBuf,
    /// How the report looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Layers: diffIDs, with or without sha256:, or beginnings that only one has; all if none is given
    #[arg(value_name = "DIFFID")]
    pub layers: Vec<String>,
}
