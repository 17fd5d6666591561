// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands about containers, of both modes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use stos_store::ContainerName;

use super::everyday::parse_seconds;
use super::{
    Format, GoFlag, ImageLimits, NetworkArgs, NotifyChoice, PodArgs, ProgressOptions, RegistryOptions, SecurityArgs,
    ServiceArgs, SessionOptions, StreamArgs, UnitArgs, UserNamespaceArgs,
};

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PullWhen {
    /// When the store lacks the image
    Missing,
    /// Each time
    Always,
    /// Not at all
    Never,
}

/// How closely to look at the image's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// By size and times; hash what has changed
    Sealed,
    /// Hash every byte
    Full,
    /// Not at all
    None,
}

// What image mode's create and run share.
#[derive(Debug, Clone, Args)]
pub struct ImageOptions {
    /// Give the container a name
    #[arg(long)]
    pub name: Option<ContainerName>,
    /// When to ask the registry
    #[arg(long, value_enum, default_value = "missing")]
    pub pull: PullWhen,
    /// How closely to look at the image's files
    #[arg(long, hide_short_help = true, value_enum, default_value = "sealed")]
    pub verify: Verify,
    #[command(flatten)]
    pub registry: RegistryOptions,
    #[command(flatten)]
    pub streams: StreamArgs,
    /// Set NAME=VALUE, or pass NAME on from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read NAME=VALUE lines from FILE
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Where the command runs
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Whom the command runs as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// What runs instead of the image's entrypoint: a word, or a JSON array
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// The container's hostname
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Make the root filesystem read-only
    #[arg(long)]
    pub read_only: bool,
    #[command(flatten)]
    pub security: SecurityArgs,
    #[command(flatten)]
    pub users: UserNamespaceArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub pod: PodArgs,
    /// Mount: type=volume|bind|tmpfs|image,src=SOURCE,dst=PATH[,ro]
    #[arg(long, value_name = "OPTIONS")]
    pub mount: Vec<String>,
    /// Mount at DST a volume, by its name, or a path of the host
    ///
    /// A volume is made where there is none of that name
    #[arg(short, long, value_name = "[SRC:]DST[:OPTIONS]")]
    pub volume: Vec<String>,
    /// Mount what another container has: its volumes and paths of the host
    #[arg(long, hide_short_help = true, value_name = "CONTAINER[:ro]")]
    pub volumes_from: Vec<String>,
    /// Set a label
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    #[command(flatten)]
    pub limits: ImageLimits,
    #[command(flatten)]
    pub unit: UnitArgs,
    #[command(flatten)]
    pub service: ServiceArgs,
}

// What bundle mode's create and run share.
#[derive(Debug, Clone, Args)]
pub struct BundleOptions {
    /// Bundle mode: the directory with config.json
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Bundle mode: write the container's pid to FILE
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Bundle mode: send the master of the container's terminal over this Unix socket
    #[arg(long, hide_short_help = true, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Bundle mode: send a descriptor of the container's process over this Unix socket
    #[arg(long, hide_short_help = true, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Pass on N descriptors from 3 on, after those of LISTEN_FDS
    #[arg(long, hide_short_help = true, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Bundle mode: let the container have the caller's session keyring
    #[arg(long, hide_short_help = true, go_flag())]
    pub no_new_keyring: bool,
    /// Bundle mode: not supported, and refused
    #[arg(long, hide_short_help = true, go_flag())]
    pub no_pivot: bool,
}

// What a container is made of. One list, for whatever follows the image belongs to the command, `--rm` too.
#[derive(Debug, Clone, Args)]
pub struct What {
    /// The image, and maybe a command with its arguments instead of the image's; with --bundle the new container's id
    #[arg(value_names = ["IMAGE|ID", "COMMAND"], required = true, num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

impl What {
    /// Gives the image, or the id of a bundle's container.
    pub fn subject(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Gives the command and its arguments; empty for the image's own.
    pub fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos create --name web registry.example/web:1\n  stos create --bundle ./bundle ID"
)]
pub struct Create {
    #[command(flatten)]
    pub image_options: ImageOptions,
    #[command(flatten)]
    pub bundle: BundleOptions,
    /// Go when the process has ended
    #[arg(long)]
    pub rm: bool,
    #[command(flatten)]
    pub progress: ProgressOptions,
    #[command(flatten)]
    pub what: What,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos run --rm debian:12 echo hello\n  stos run -it --rm debian:12\n  stos run -d --name web registry.example/web:1"
)]
pub struct Run {
    #[command(flatten)]
    pub image_options: ImageOptions,
    #[command(flatten)]
    pub bundle: BundleOptions,
    /// Run in the background, and print the id
    #[arg(short, long, go_flag())]
    pub detach: bool,
    #[command(flatten)]
    pub session: SessionOptions,
    /// Delete the container when its process has ended
    #[arg(long)]
    pub rm: bool,
    /// Bundle mode: keep the container when its process has ended
    #[arg(long, hide_short_help = true, go_flag())]
    pub keep: bool,
    /// Bundle mode: in the foreground, leave processes that lose their parent to somebody else
    #[arg(long, hide_short_help = true, go_flag())]
    pub no_subreaper: bool,
    #[command(flatten)]
    pub progress: ProgressOptions,
    #[command(flatten)]
    pub what: What,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos start web\n  stos start -ai shell\n  stos start --all --filter restart-policy=always"
)]
pub struct Start {
    /// Stay with it: its output comes here, signals go there, its exit code is ours
    #[arg(short, long)]
    pub attach: bool,
    /// All containers that do not run
    #[arg(long, conflicts_with_all = ["containers", "attach"])]
    pub all: bool,
    /// All containers that do not run and fit, as KEY=VALUE: the filters of ps, such as restart-policy=always
    #[arg(short, long = "filter", value_name = "FILTER", conflicts_with_all = ["containers", "attach", "interactive"])]
    pub filters: Vec<String>,
    /// Stay with it, and give it this command's standard input, where it was created with --interactive
    #[arg(short, long)]
    pub interactive: bool,
    #[command(flatten)]
    pub session: SessionOptions,
    /// With NOTIFY_SOCKET: who says that they are ready, whatever they were created with
    #[arg(long, value_name = "MODE", value_enum)]
    pub sdnotify: Option<NotifyChoice>,
    /// The containers
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "filters"])]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos state web")]
pub struct State {
    /// The container: id, name, or the beginning of its id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos list --format json")]
pub struct List {
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// How the list looks
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos kill -s HUP web")]
pub struct Kill {
    /// The signal, as a name or a number
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,
    /// Without a container: signal all that run. Bundle mode: signal every process of the container
    #[arg(short, long)]
    pub all: bool,
    /// The containers; or, as runc has it, one container and the signal [default: KILL, of bundles TERM]
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    words: Vec<String>,
}

impl Kill {
    /// Gives the containers, and the signal where one is given. The second of two words may be it, as runc has it: always in
    /// bundle mode, elsewhere where it looks like one.
    pub fn containers_and_signal(&self, bundle_mode: bool) -> (&[String], Option<&str>) {
        match (self.words.as_slice(), &self.signal) {
            ([container, word], None) if bundle_mode || looks_like_signal(word) => {
                (std::slice::from_ref(container), Some(word))
            }
            (containers, signal) => (containers, signal.as_deref()),
        }
    }
}

fn looks_like_signal(word: &str) -> bool {
    let starts_so = word.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("SIG"));
    starts_so || word.parse::<i64>().is_ok() || stos_runtime::parse_signal(word).is_ok()
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos delete -f web\n  stos rm --all --ignore")]
pub struct Delete {
    /// Kill one that runs; succeed for one that is gone
    #[arg(short, long, go_flag())]
    pub force: bool,
    /// All containers from images
    #[arg(short, long, conflicts_with_all = ["containers", "cidfile"])]
    pub all: bool,
    /// Succeed for one that is gone
    #[arg(short, long)]
    pub ignore: bool,
    /// The container whose id is in FILE (--cidfile of create and run); may be repeated
    #[arg(long, value_name = "FILE")]
    pub cidfile: Vec<PathBuf>,
    /// With --force: ask one that runs to end, and kill it only after so many seconds
    #[arg(short, long, value_name = "SECONDS", requires = "force", allow_negative_numbers = true, value_parser = parse_seconds)]
    pub time: Option<i64>,
    /// Its anonymous volumes too, but for those that another container has; named ones stay
    #[arg(short, long)]
    pub volumes: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "cidfile"])]
    pub containers: Vec<String>,
}
