// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands about the store's health.

use clap::Args;

use super::{ConnectionOptions, Format};

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:\n  0  nothing is damaged, or all of it has been repaired\n  1  damage stays\n\n\
Examples:\n  stos system check --full\n  stos system check --repair --tls-verify=false")]
pub struct SystemCheck {
    /// Hash every byte; else only files whose size, times or inode are not those that were recorded
    #[arg(long)]
    pub full: bool,
    /// Make again what is damaged: of what the store has, else fetched from where it came from
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub connection: ConnectionOptions,
    /// How the result looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:\n  0  all of it is sound\n  1  something is damaged, or there is no such image\n\n\
Example:\n  stos verify --full debian:12")]
pub struct VerifyImage {
    /// Hash every byte; else only files whose size, times or inode are not those that were recorded
    #[arg(long)]
    pub full: bool,
    /// How the result looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
}
