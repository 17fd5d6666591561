// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of `image exists` and `container exists`.

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos image exists debian:12 || stos pull debian:12")]
pub struct ImageExists {
    /// The image: a name, or an ID
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos container exists web && stos logs web")]
pub struct ContainerExists {
    /// Containers of bundles count too
    #[arg(long)]
    pub external: bool,
    /// The container: id, name, or the beginning of its id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}
