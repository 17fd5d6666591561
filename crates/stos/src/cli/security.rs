// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of create and run about how a container from an image is confined, and whose namespaces it has.

use clap::Args;

use super::GoFlag;

// podman's words.
#[derive(Debug, Clone, Args)]
pub struct SecurityArgs {
    /// Add capabilities: names, or `all`
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    pub cap_add: Vec<String>,
    /// Drop capabilities: names, or `all`
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    pub cap_drop: Vec<String>,
    /// Confine by nothing but namespaces: all capabilities, system calls and devices
    #[arg(long, go_flag())]
    pub privileged: bool,
    /// seccomp=unconfined|FILE, no-new-privileges[=true|false], apparmor=PROFILE, label=disable, mask=PATH[:PATH],
    /// unmask=ALL|PATH[:PATH], proc-opts=OPTION[,OPTION]
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// With --read-only: whether /run, /tmp and /var/tmp can be written all the same, in memory
    #[arg(long, hide_short_help = true, go_flag(), default_value = "true", default_missing_value = "true")]
    pub read_only_tmpfs: bool,
    /// Whose processes it sees: private, host or container:CONTAINER
    #[arg(long, hide_short_help = true, value_name = "NAMESPACE")]
    pub pid: Option<String>,
    /// Whose shared memory it sees: private (or shareable), none, host or container:CONTAINER
    #[arg(long, hide_short_help = true, value_name = "NAMESPACE")]
    pub ipc: Option<String>,
    /// Whose host name it has: private, host or container:CONTAINER
    #[arg(long, hide_short_help = true, value_name = "NAMESPACE")]
    pub uts: Option<String>,
    /// Whose cgroups it sees: private, host or container:CONTAINER
    #[arg(long, hide_short_help = true, value_name = "NAMESPACE")]
    pub cgroupns: Option<String>,
}
