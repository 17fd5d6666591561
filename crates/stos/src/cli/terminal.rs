// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of terminals, attaching and detaching.

use std::path::PathBuf;

use clap::Args;
use stos_engine::attach::DetachKeys;

use super::GoFlag;

// What create and run say of a container's streams and its first process.
#[derive(Debug, Clone, Args)]
pub struct StreamArgs {
    /// Give the container a terminal
    #[arg(short, long, go_flag())]
    pub tty: bool,
    /// Keep the container's standard input open; attached, it is this command's
    #[arg(short, long, go_flag())]
    pub interactive: bool,
    /// Run an init that passes signals on and reaps processes; the command is its child
    #[arg(long, go_flag())]
    pub init: bool,
}

// How to take part in a session.
#[derive(Debug, Clone, Args)]
pub struct SessionOptions {
    /// Keys that leave the container running: one character, or ctrl- and one of a-z, @, [, \, ], ^, _; several with commas; "" for
    /// none [default: ctrl-p,ctrl-q, with a terminal]
    #[arg(long, hide_short_help = true, value_name = "KEYS")]
    pub detach_keys: Option<DetachKeys>,
    /// Pass signals on to the container's process; with =false they end this command, and the container goes on [default: true]
    #[arg(long, hide_short_help = true, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sig_proxy: Option<bool>,
}

impl SessionOptions {
    /// Whether signals are passed on.
    pub fn passes_signals(&self) -> bool {
        self.sig_proxy.unwrap_or(true)
    }

    /// Gives the first of these options that is given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [("--detach-keys", self.detach_keys.is_some()), ("--sig-proxy", self.sig_proxy.is_some())];
        given.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
    }
}

// What only a container from an image has of exec.
#[derive(Debug, Clone, Args)]
pub struct ImageExec {
    /// Images: give the process this command's standard input
    #[arg(short, long, go_flag())]
    pub interactive: bool,
    /// Images: read NAME=VALUE lines from FILE
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Images: give the process every capability that we have
    #[arg(long, go_flag())]
    pub privileged: bool,
    /// Images: the container that was created last; what follows is the command
    #[arg(short, long, go_flag())]
    pub latest: bool,
    /// Images: keys that leave a process with a terminal running, as for run [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<DetachKeys>,
}

impl ImageExec {
    /// Gives the first of these options that is given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--interactive", self.interactive),
            ("--env-file", !self.env_file.is_empty()),
            ("--privileged", self.privileged),
            ("--latest", self.latest),
            ("--detach-keys", self.detach_keys.is_some()),
        ];
        given.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos attach web    (ctrl-p ctrl-q leaves it running)")]
pub struct Attach {
    /// Type nothing: only look
    #[arg(long, go_flag())]
    pub no_stdin: bool,
    #[command(flatten)]
    pub session: SessionOptions,
    /// The container that was created last
    #[arg(short, long, conflicts_with = "container")]
    pub latest: bool,
    /// The container
    #[arg(value_name = "CONTAINER", required_unless_present = "latest")]
    pub container: Option<String>,
}
