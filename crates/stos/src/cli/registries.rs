// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands about registries.

use clap::{Args, Subcommand};
use stos_config::Secret;

use super::{ConnectionOptions, CredentialOptions, Format, PolicyOptions};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos login registry.example\n  stos login -u ci --password-stdin registry.example/team < token"
)]
pub struct Login {
    #[command(flatten)]
    pub connection: ConnectionOptions,
    /// The user; asked for if not given
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// The password; asked for if not given. Whoever lists processes sees it here
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub password: Option<Secret>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Only print the user that is logged in
    #[arg(long, conflicts_with_all = ["username", "password", "password_stdin"])]
    pub get_login: bool,
    /// The registry, or a namespace of it; the first of unqualified-search-registries if not given
    #[arg(value_name = "REGISTRY")]
    pub registry: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos logout registry.example")]
pub struct Logout {
    /// The file of credentials, instead of podman's
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<std::path::PathBuf>,
    /// Log out of all registries
    #[arg(short, long, conflicts_with = "registry")]
    pub all: bool,
    /// The registry, or a namespace of it; the first of unqualified-search-registries if not given
    #[arg(value_name = "REGISTRY")]
    pub registry: Option<String>,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Registry {
    /// Show where an image would be asked for, in which order and on which terms; nothing is asked
    Explain(RegistryExplain),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos registry explain debian:12")]
pub struct RegistryExplain {
    #[command(flatten)]
    pub connection: ConnectionOptions,
    #[command(flatten)]
    pub credential: CredentialOptions,
    #[command(flatten)]
    pub policy: PolicyOptions,
    /// How it looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// The image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    #[arg(value_name = "REF")]
    pub reference: String,
}
