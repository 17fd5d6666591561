// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of create and run about whose users a container from an image has.

use clap::Args;

// podman's words.
#[derive(Debug, Clone, Args)]
pub struct UserNamespaceArgs {
    /// Whose users it has: host, auto[:size=N,uidmapping=MAPPING,gidmapping=MAPPING], private (with --uidmap),
    /// keep-id[:uid=ID,gid=ID] or container:CONTAINER
    #[arg(long, hide_short_help = true, value_name = "MODE")]
    pub userns: Option<String>,
    /// Give it users of its own: SIZE ids from CONTAINER on are those from HOST on outside
    #[arg(long, hide_short_help = true, value_name = "CONTAINER:HOST[:SIZE]", value_delimiter = ',')]
    pub uidmap: Vec<String>,
    /// The same of groups; without it they are mapped as users are
    #[arg(long, hide_short_help = true, value_name = "CONTAINER:HOST[:SIZE]", value_delimiter = ',')]
    pub gidmap: Vec<String>,
    /// Give it users of its own: all ids that /etc/subuid gives the user NAME
    #[arg(long, hide_short_help = true, value_name = "NAME")]
    pub subuidname: Option<String>,
    /// The same of groups, in /etc/subgid; without it those of the user
    #[arg(long, hide_short_help = true, value_name = "NAME")]
    pub subgidname: Option<String>,
}
