// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of ps: podman's list of containers, and runc's list of a container's processes.

use clap::{Args, ValueEnum};

/// What a list of containers is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PsSort {
    /// What they run
    Command,
    /// When they were created
    Created,
    /// Their ids
    Id,
    /// Their images
    Image,
    /// Their names
    Names,
    /// For how long they have been there
    Runningfor,
    /// What they have written
    Size,
    /// What they do
    Status,
}

// One list at the end: whatever follows a container belongs to ps(1).
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos ps -a --filter status=exited\n  stos ps --format '{{.Names}} {{.Status}}'\n  stos ps web -eo pid,args"
)]
pub struct Ps {
    /// Containers that do not run too
    #[arg(short, long)]
    pub all: bool,
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Only containers that fit, as KEY=VALUE: id, name, label, label!, status, exited, ancestor, before, since, until, volume,
    /// network, pod, health, restart-policy, should-start-on-boot; of a container's processes, -f is --format as runc has it
    #[arg(short, long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// How the list looks: table, json, or a template such as '{{.ID}} {{.Names}}' or 'table {{.Names}}\t{{.Status}}'
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show ids and commands whole
    #[arg(long)]
    pub no_trunc: bool,
    /// Only the container created last, whatever it does
    #[arg(short, long, conflicts_with = "last")]
    pub latest: bool,
    /// Only the N containers created last, whatever they do
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Sort the list by command, created, id, image, names, runningfor, size or status
    #[arg(long, value_name = "BY", value_enum, default_value_t = PsSort::Created, hide_possible_values = true)]
    pub sort: PsSort,
    /// Show what containers have written, and what they have of their images besides
    #[arg(short, long, conflicts_with = "quiet")]
    pub size: bool,
    /// Show of which pods they are
    #[arg(short, long)]
    pub pod: bool,
    /// Leave out the header
    #[arg(long)]
    pub noheading: bool,
    /// The container whose processes are listed, and options for ps(1) [default: -ef]; without it containers are listed
    #[arg(value_names = ["CONTAINER", "OPTION"], num_args = 0.., trailing_var_arg = true)]
    pub words: Vec<String>,
}

impl Ps {
    /// Gives the first of the options that are only for a list of containers, where one is given.
    pub fn option_of_list(&self) -> Option<&'static str> {
        let given = [
            ("--all", self.all),
            ("--quiet", self.quiet),
            ("--no-trunc", self.no_trunc),
            ("--latest", self.latest),
            ("--last", self.last.is_some()),
            ("--sort", self.sort != PsSort::Created),
            ("--size", self.size),
            ("--pod", self.pod),
            ("--noheading", self.noheading),
        ];
        given.iter().find(|(_, is_given)| *is_given).map(|(option, _)| *option)
    }
}
