// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of the command line. podman's where an image is meant, runc's where a bundle is.

// Doc comments here are help texts: their brackets are usage, not links.
#![allow(rustdoc::broken_intra_doc_links)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stos_spec::Platform;
use stos_store::ContainerName;

/// From an image reference to a running container
#[derive(Debug, Parser)]
#[command(name = "stos", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Example:\n  stos run --rm registry.example/app:1 echo hello")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that stand before the command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// What lasts: images, layers, containers
    #[arg(long, value_name = "DIR", default_value = "/var/lib/stos", env = "STOS_DATA_ROOT")]
    pub data_root: PathBuf,
    /// What a reboot may lose: mounts and the state of running containers
    #[arg(long, value_name = "DIR", default_value = "/run/stos", env = "STOS_ROOT")]
    pub root: PathBuf,
    /// Write the log to FILE instead of stderr
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Log more
    #[arg(long)]
    pub debug: bool,
    /// Called by another name: always bundle mode.
    #[arg(skip)]
    pub bundle_mode: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One object a line
    Json,
}

/// How a result looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// How `inspect` prints: there is one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InspectFormat {
    /// For programs
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch an image from its registry, verified
    Pull(Pull),
    /// List images
    Images(Images),
    /// Show everything about an image or a container, as JSON
    Inspect(Inspect),
    /// Remove images
    Rmi(Rmi),
    /// Create a container from an image, or from a bundle with --bundle
    Create(Create),
    /// Start containers that were created
    Start(Start),
    /// Create a container and start it
    Run(Run),
    /// Wait until containers have ended, and print their exit codes
    Wait(Wait),
    /// Print what a container wrote
    Logs(Logs),
    /// Show a container's state, as JSON
    State(State),
    /// List containers
    #[command(visible_alias = "ps")]
    List(List),
    /// Send a signal to a container
    Kill(Kill),
    /// Ask containers to end; kill those that do not
    Stop(Stop),
    /// Delete containers
    #[command(visible_alias = "rm")]
    Delete(Delete),
    /// About this host and this installation
    #[command(subcommand)]
    System(System),
}

/// How to reach a registry.
#[derive(Debug, Clone, Args)]
pub struct RegistryOptions {
    /// Verify certificates and refuse plain HTTP
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// The platform of the image, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,
}

/// stos pull
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pull --tls-verify=false 127.0.0.1:5000/debian:12")]
pub struct Pull {
    /// Print nothing but the digest
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryOptions,
    /// The image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    #[arg(value_name = "REF")]
    pub reference: String,
}

/// stos images
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos images --format json")]
pub struct Images {
    /// Print only IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// How the list looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// stos inspect
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos inspect web")]
pub struct Inspect {
    /// How it looks
    #[arg(long, value_enum, default_value_t = InspectFormat::Json)]
    pub format: InspectFormat,
    /// Images and containers
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// stos rmi
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos rmi debian:12")]
pub struct Rmi {
    /// Remove it although it has several names, or a container uses it
    #[arg(short, long)]
    pub force: bool,
    /// How the result looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

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

/// The network of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetworkMode {
    /// A loopback interface of its own
    None,
    /// The host's
    Host,
}

/// What image mode's create and run share.
#[derive(Debug, Clone, Args)]
pub struct ImageOptions {
    /// Give the container a name
    #[arg(long)]
    pub name: Option<ContainerName>,
    /// When to ask the registry
    #[arg(long, value_enum, default_value = "missing")]
    pub pull: PullWhen,
    /// How closely to look at the image's files
    #[arg(long, value_enum, default_value = "sealed")]
    pub verify: Verify,
    #[command(flatten)]
    pub registry: RegistryOptions,
    /// Set NAME=VALUE, or pass NAME on from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read NAME=VALUE lines from FILE
    #[arg(long, value_name = "FILE")]
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
    /// The network
    #[arg(long, value_enum, default_value = "none")]
    pub network: NetworkMode,
    /// Mount: type=bind,src=PATH,dst=PATH[,ro]
    #[arg(long, value_name = "OPTIONS")]
    pub mount: Vec<String>,
    /// Mount a path of the host
    #[arg(short, long, value_name = "PATH:PATH[:ro|rw]")]
    pub volume: Vec<String>,
    /// Set a label
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
}

/// What bundle mode's create and run share.
#[derive(Debug, Clone, Args)]
pub struct BundleOptions {
    /// Bundle mode: the directory with config.json
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Bundle mode: write the container's pid to FILE
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
}

/// What a container is made of. One list, for whatever follows the image belongs to the command, `--rm` too.
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

/// stos create
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
    /// Print nothing but the id
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub what: What,
}

/// stos run
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos run --rm debian:12 echo hello\n  stos run -d --name web registry.example/web:1"
)]
pub struct Run {
    #[command(flatten)]
    pub image_options: ImageOptions,
    #[command(flatten)]
    pub bundle: BundleOptions,
    /// Run in the background, and print the id
    #[arg(short, long)]
    pub detach: bool,
    /// Give the container this command's standard input
    #[arg(short, long, conflicts_with = "detach")]
    pub interactive: bool,
    /// Delete the container when its process has ended
    #[arg(long)]
    pub rm: bool,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub what: What,
}

/// stos start
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos start -a web")]
pub struct Start {
    /// Stay with it: its output comes here, signals go there, its exit code is ours
    #[arg(short, long)]
    pub attach: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// stos state
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos state web")]
pub struct State {
    /// The container: id, name, or the beginning of its id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// stos wait
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos wait web")]
pub struct Wait {
    /// The containers: ids, names, or beginnings of ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// stos logs
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos logs -f web")]
pub struct Logs {
    /// Go on while the container writes
    #[arg(short, long)]
    pub follow: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// stos list
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

/// stos kill
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos kill -s HUP web")]
pub struct Kill {
    /// The signal, as a name or a number
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,
    /// Bundle mode: signal every process of the container
    #[arg(short, long)]
    pub all: bool,
    /// The containers; or, as runc has it, one container and the signal [default: TERM]
    #[arg(value_name = "CONTAINER", required = true)]
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

/// stos stop
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos stop -t 3 web")]
pub struct Stop {
    /// Seconds to wait before it is killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub time: u64,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// stos delete
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos delete -f web")]
pub struct Delete {
    /// Kill one that runs; succeed for one that is gone
    #[arg(short, long)]
    pub force: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// stos system
#[derive(Debug, Subcommand)]
pub enum System {
    /// Show what the kernel can do and what was chosen
    Info(SystemInfo),
}

/// stos system info
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos system info --format json")]
pub struct SystemInfo {
    /// How it looks
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_belongs_to_an_image_is_refused_for_a_bundle() {
        let refused = |line: &str| {
            let matches = Cli::command().try_get_matches_from(line.split(' ')).unwrap();
            crate::commands::bundle::refuse_image_options(&matches).err().map(|failure| failure.to_string())
        };
        for line in ["create --bundle b --pid-file p id", "create id", "run -d -q -b b id", "list --format json"] {
            assert_eq!(refused(&format!("stos {line}")), None, "{line}");
        }
        for (options, named) in [
            ("--name x", "--name"),
            ("--network host", "--network"),
            ("--pull never", "--pull"),
            ("--verify none", "--verify"),
            ("--platform linux/amd64", "--platform"),
            ("--tls-verify=false", "--tls-verify"),
            ("-e A=b", "--env"),
            ("--env-file f", "--env-file"),
            ("--read-only", "--read-only"),
            ("--rm", "--rm"),
            ("-i", "--interactive"),
        ] {
            let said = refused(&format!("stos run {options} id")).unwrap_or_else(|| panic!("{options} was accepted"));
            assert!(said.starts_with(&format!("{named} ")), "{options}: {said}");
        }
        assert!(Cli::try_parse_from(["stos", "create", "--name", "a/b", "image"]).is_err());
    }

    #[test]
    fn the_signal_of_kill_is_an_option_or_as_runc_has_it() {
        let kill = |line: &str, bundle_mode| {
            let cli = Cli::try_parse_from(["stos", "kill"].into_iter().chain(line.split(' '))).unwrap();
            let Command::Kill(kill) = cli.command else { panic!("{line}") };
            let (containers, signal) = kill.containers_and_signal(bundle_mode);
            (containers.join(" "), signal.map(str::to_owned))
        };
        for (line, bundle_mode, containers, signal) in [
            ("web", false, "web", None),
            ("web HUP", false, "web", Some("HUP")),
            ("web SIGNONE", false, "web", Some("SIGNONE")),
            ("web 99", false, "web", Some("99")),
            ("web none", true, "web", Some("none")),
            ("web db", false, "web db", None),
            ("-s HUP web TERM", false, "web TERM", Some("HUP")),
            ("a b c", false, "a b c", None),
        ] {
            assert_eq!(kill(line, bundle_mode), (containers.to_owned(), signal.map(str::to_owned)), "{line}");
        }
    }

    #[test]
    fn what_follows_the_image_is_the_command() {
        let parse = |words: &[&str]| Cli::try_parse_from(["stos", "run"].iter().chain(words)).map(|cli| cli.command);
        for command in [&[][..], &["ls", "-l", "--rm"], &["--rm", "-d"], &["-c", "--", "x"], &["--no-such"]] {
            let Ok(Command::Run(run)) = parse(&[&["image"], command].concat()) else { panic!("{command:?}") };
            assert_eq!(
                (run.what.subject(), run.what.command()),
                ("image", &command.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()[..])
            );
            assert!(!run.rm && !run.detach);
        }
        assert!(parse(&["--no-such", "image"]).is_err() && parse(&[]).is_err());
    }
}
