// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The pod of a new container.

use std::path::PathBuf;

use clap::Args;

// The pod of a new container.
#[derive(Debug, Clone, Args)]
pub struct PodArgs {
    /// The pod that it is of; `new:NAME` makes that first, with the ports, networks and host name that are given here
    #[arg(long, value_name = "[new:]POD", hide_short_help = true)]
    pub pod: Option<String>,
    /// Read the id of the pod that it is of from FILE
    #[arg(long, value_name = "FILE", conflicts_with = "pod", hide_short_help = true)]
    pub pod_id_file: Option<PathBuf>,
}
