// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands that engines use: runc's.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use stos_runtime::SubCgroup;

use super::{GoFlag, ImageExec};

/// Whether errors of cgroups are overlooked, as runc's --rootless has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rootless {
    /// As it is for root: no
    Auto,
    /// Yes: not supported, and refused
    True,
    /// No
    False,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos exec web ps\n  stos exec -it web sh\n  stos exec --detach --pid-file pid --process process.json ID"
)]
pub struct Exec {
    /// Bundle mode: the whole process, as config.json has it, from FILE
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Give the process a terminal
    #[arg(short, long, go_flag())]
    pub tty: bool,
    #[command(flatten)]
    pub image: ImageExec,
    /// Run in the background
    #[arg(short, long, go_flag())]
    pub detach: bool,
    /// Whom the process runs as; in bundle mode numbers, UID[:GID]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Give the process a further group
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Where the process runs
    #[arg(short = 'w', long, visible_alias = "workdir", value_name = "DIR")]
    pub cwd: Option<String>,
    /// Set NAME=VALUE; for a container from an image NAME alone is passed on from here
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Give the process a further capability
    #[arg(short, long, value_name = "CAPABILITY")]
    pub cap: Vec<String>,
    /// Set noNewPrivileges for the process
    #[arg(long, go_flag())]
    pub no_new_privs: bool,
    /// The process's AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// The process's SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Put the process into this cgroup below the container's, which must be there
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    pub cgroup: Vec<SubCgroup>,
    /// Take a container that is paused too: the process waits until it is resumed
    #[arg(long, go_flag())]
    pub ignore_paused: bool,
    /// Write the process's pid to FILE
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// With --detach: send the master of the process's terminal over this Unix socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Send a descriptor of the process over this Unix socket
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Pass on N descriptors from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container, and what runs in it
    #[arg(value_names = ["CONTAINER", "COMMAND"], required = true, num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

impl Exec {
    /// Gives the container; with `--latest` nothing.
    pub fn container(&self) -> &str {
        self.words.first().filter(|_| !self.image.latest).map_or("", String::as_str)
    }

    /// Gives the command and its arguments.
    pub fn command(&self) -> &[String] {
        self.words.get(usize::from(!self.image.latest)..).unwrap_or_default()
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos spec --bundle ./bundle")]
pub struct Spec {
    /// Where config.json goes
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// One that a user without privileges could run
    #[arg(long)]
    pub rootless: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos features")]
pub struct Features {}

// What an engine may give to a command that is only refused.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos checkpoint ID    (an error: containers cannot be checkpointed)")]
pub struct Refused {
    /// Whatever it is
    #[arg(value_name = "ARGUMENT", num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}
