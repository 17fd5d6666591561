// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of the group `pod`: podman's.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use super::everyday::parse_seconds;
use super::logs::{parse_since, parse_tail, parse_until};
use super::{Format, NetworkArgs, Tail};

// Deferred: see `Command`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Pod {
    /// Make a pod: containers that share their network, ports, host name and IPC
    Create(Box<PodCreate>),
    /// List pods
    #[command(visible_aliases = ["ps", "list"])]
    Ls(PodLs),
    /// Show everything about pods, as JSON
    Inspect(PodInspect),
    /// Start all containers of pods
    Start(PodNames),
    /// Stop all containers of pods, and take down what they share
    Stop(PodStop),
    /// Stop pods and start them again
    Restart(PodNames),
    /// Send a signal to all containers of pods
    Kill(PodKill),
    /// Freeze all containers of pods
    Pause(PodNames),
    /// Let the frozen containers of pods go on
    #[command(visible_alias = "resume")]
    Unpause(PodNames),
    /// Print what the containers of a pod wrote
    Logs(PodLogs),
    /// Show the processes of all containers of a pod
    Top(PodTop),
    /// Show what the containers of pods use
    Stats(PodStats),
    /// Remove pods with their containers
    #[command(visible_alias = "remove")]
    Rm(PodRm),
    /// Remove the pods that have ended, with their containers
    Prune(PodPrune),
    /// Tell by the exit code whether there is a pod: 0 or 1
    Exists(PodExists),
}

/// What becomes of a pod when its last container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExitPolicy {
    /// What its containers share stays
    Continue,
    /// It stops too
    Stop,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos pod create --name web -p 8080:80\n  stos run -d --pod web registry.example/web:1\n  stos run -d --pod web registry.example/sidecar:1"
)]
pub struct PodCreate {
    /// Its name; without one it gets one
    #[arg(short, long, value_name = "NAME", conflicts_with = "word")]
    pub name: Option<String>,
    /// The host name of all its containers [default: its name]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    #[command(flatten)]
    pub network: NetworkArgs,
    /// What its containers share: ipc, net, uts, pid, cgroup with commas between, or none; `+pid` adds to the default
    #[arg(long, value_name = "NAMESPACES", default_value = crate::pod_options::DEFAULT_SHARES)]
    pub share: String,
    /// Whether there is anything of its own to share; without that its containers only start and stop together
    #[arg(long, value_name = "true|false", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub infra: Option<bool>,
    /// What becomes of it when its last container has ended
    #[arg(long, value_enum, default_value = "continue")]
    pub exit_policy: ExitPolicy,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Remove a pod of this name first, with its containers
    #[arg(long)]
    pub replace: bool,
    /// Write its id to FILE
    #[arg(long, value_name = "FILE")]
    pub pod_id_file: Option<PathBuf>,
    /// Its name
    #[arg(value_name = "NAME")]
    pub word: Option<String>,
}

/// What a list of pods is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PodSort {
    /// When they were made
    Created,
    /// Their ids
    Id,
    /// Their names
    Name,
    /// What they do
    Status,
    /// How many containers they have
    Number,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos pod ps --filter status=running\n  stos pod ls --format '{{.Name}} {{.Status}}'"
)]
pub struct PodLs {
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Only pods that fit, as KEY=VALUE: id, name, label, label!, status, network or until
    #[arg(short, long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// How the list looks: table, json, or a template such as '{{.ID}} {{.Name}}' or 'table {{.Name}}\t{{.Status}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Show ids whole
    #[arg(long)]
    pub no_trunc: bool,
    /// Leave out the header
    #[arg(long, visible_alias = "noheading")]
    pub noheadings: bool,
    /// Sort the list by created, id, name, status or number
    #[arg(long, value_name = "BY", value_enum, default_value_t = PodSort::Created, hide_possible_values = true)]
    pub sort: PodSort,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pod inspect --format '{{.State}}' web")]
pub struct PodInspect {
    /// json, or a template
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    pub format: String,
    /// The pods: ids, names, or beginnings of ids
    #[arg(value_name = "POD", required = true)]
    pub pods: Vec<String>,
}

// Which pods are meant.
#[derive(Debug, Args)]
pub struct WhichPods {
    /// All pods
    #[arg(short, long, conflicts_with_all = ["pods", "pod_id_file"])]
    pub all: bool,
    /// Read the id of a pod from FILE
    #[arg(long, value_name = "FILE")]
    pub pod_id_file: Vec<PathBuf>,
    /// The pods: ids, names, or beginnings of ids
    #[arg(value_name = "POD", required_unless_present_any = ["all", "pod_id_file"])]
    pub pods: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pod start web")]
pub struct PodNames {
    #[command(flatten)]
    pub which: WhichPods,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pod stop -t 2 web")]
pub struct PodStop {
    /// Seconds to wait before a container is killed, -1 for ever [default: its own --stop-timeout, 10]
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_seconds)]
    pub time: Option<i64>,
    /// Succeed for one that is gone
    #[arg(short, long)]
    pub ignore: bool,
    #[command(flatten)]
    pub which: WhichPods,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pod kill -s HUP web")]
pub struct PodKill {
    /// The signal, as a name or a number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,
    #[command(flatten)]
    pub which: WhichPods,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pod logs -f --names web")]
pub struct PodLogs {
    /// Only of this container
    #[arg(short, long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Go on while they write
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines of each, or `all`
    #[arg(long, value_name = "N|all", default_value = "all", allow_negative_numbers = true, value_parser = parse_tail)]
    pub tail: Tail,
    /// Only what was written after TIME: 2026-01-31T12:00:00Z, seconds since 1970, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<Timestamp>,
    /// Only what was written before TIME; a duration counts from now on
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    pub until: Option<Timestamp>,
    /// Say when each line was written
    #[arg(short, long)]
    pub timestamps: bool,
    /// Begin each line with the container's name, instead of its id
    #[arg(short, long)]
    pub names: bool,
    /// The pod
    #[arg(value_name = "POD")]
    pub pod: String,
}

#[derive(Debug, Args)]
#[command(after_help = "The descriptors are those of `stos top`.\n\nExample:\n  stos pod top web pid,hpid,user,args")]
pub struct PodTop {
    /// How the list looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// The pod
    #[arg(value_name = "POD")]
    pub pod: String,
    /// What to show of processes [default: user,pid,ppid,pcpu,etime,tty,time,args]
    #[arg(value_name = "DESCRIPTOR")]
    pub descriptors: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pod stats --no-stream web")]
pub struct PodStats {
    /// All pods, as without any
    #[arg(short, long, conflicts_with = "pods")]
    pub all: bool,
    /// How the list looks: table, json (an array a line, sizes in bytes and times in nanoseconds), or a template such as
    /// '{{.Pod}} {{.Name}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Look once
    #[arg(long)]
    pub no_stream: bool,
    /// Print below the last look, and not over it
    #[arg(long)]
    pub no_reset: bool,
    /// Print whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// The pods; by default all
    #[arg(value_name = "POD")]
    pub pods: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pod rm -f web")]
pub struct PodRm {
    /// Kill containers that run
    #[arg(short, long)]
    pub force: bool,
    /// Succeed for one that is gone
    #[arg(short, long)]
    pub ignore: bool,
    /// With --force: ask containers that run to end, and kill them only after so many seconds
    #[arg(short, long, value_name = "SECONDS", requires = "force")]
    pub time: Option<u64>,
    #[command(flatten)]
    pub which: WhichPods,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pod prune --force")]
pub struct PodPrune {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pod exists web || stos pod create web")]
pub struct PodExists {
    /// The pod
    #[arg(value_name = "POD")]
    pub pod: String,
}
