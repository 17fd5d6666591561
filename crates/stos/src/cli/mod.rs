// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of the command line. podman's where an image is meant, runc's where a bundle is.

// Doc comments here are help texts: their brackets are usage, not links.
#![allow(rustdoc::broken_intra_doc_links)]

mod changes;
mod containers;
mod cp;
mod events;
mod everyday;
mod exists;
mod health;
mod image_limits;
mod images;
mod layers;
mod limits;
mod logs;
mod network;
mod often;
mod pod;
mod pod_of;
mod progress;
mod ps;
mod registries;
mod runtime;
mod security;
mod service;
mod stats;
mod system;
mod terminal;
mod unit;
mod user_namespace;
mod volumes;

pub use changes::*;
pub use containers::*;
pub use cp::*;
pub use events::*;
pub use everyday::*;
pub use exists::*;
pub use health::*;
pub use image_limits::*;
pub use images::*;
pub use layers::*;
pub use limits::*;
pub use logs::*;
pub use network::*;
pub use often::read;
pub use pod::*;
pub use pod_of::*;
pub use progress::*;
pub use ps::*;
pub use registries::*;
pub use runtime::*;
pub use security::*;
pub use service::*;
pub use stats::*;
pub use system::*;
pub use terminal::*;
pub use unit::*;
pub use user_namespace::*;
pub use volumes::*;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What `--version` prints after the name, as runc has it: docker reads both lines.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0");

/// From an image reference to a running container
#[derive(Debug, Parser)]
#[command(name = "stos", version = VERSION, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Example:\n  stos run --rm registry.example/app:1 echo hello")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

// Options that stand before the command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// What lasts: images, layers, containers
    #[arg(long, value_name = "DIR", default_value = "/var/lib/stos", env = "STOS_DATA_ROOT")]
    pub data_root: PathBuf,
    /// What a reboot may lose: mounts and the state of running containers
    #[arg(long, value_name = "DIR", default_value = "/run/stos", env = "STOS_ROOT")]
    pub root: PathBuf,
    /// How layers are kept: `erofs`, tars that are mounted, or `dirs`, directories that are stacked; by default the best that
    /// this host can have
    #[arg(long, value_name = "BACKEND", value_enum, env = "STOS_LAYERFS")]
    pub layerfs: Option<LayerBackend>,
    #[command(flatten)]
    pub networks: NetworkPlacesArgs,
    /// Write the log to FILE instead of stderr
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Log more
    #[arg(long, go_flag())]
    pub debug: bool,
    /// Let systemd make the cgroups of a bundle's container: linux.cgroupsPath is SLICE:PREFIX:NAME then. For create and run with a
    /// bundle; later commands know by themselves
    #[arg(long, go_flag())]
    pub systemd_cgroup: bool,
    /// Whether errors of cgroups are overlooked, as without root's rights; `true` is not supported, and refused
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Rootless::Auto)]
    pub rootless: Rootless,
    /// The CRIU program of engines that checkpoint: there is no use for one here, see `checkpoint`
    #[arg(long, value_name = "PATH", hide = true)]
    pub criu: Option<PathBuf>,
    /// Called by another name: always bundle mode.
    #[arg(skip)]
    pub bundle_mode: bool,
}

/// Options as Go's flags have them: there or not, or `=true` and `=false`.
trait GoFlag {
    /// Makes a switch such an option.
    fn go_flag(self) -> Self;
}

impl GoFlag for clap::Arg {
    fn go_flag(self) -> Self {
        self.action(clap::ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .value_name("true|false")
            .hide_possible_values(true)
            .hide_default_value(true)
    }
}

/// How layers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayerBackend {
    /// Tars with an index, mounted as one EROFS
    Erofs,
    /// Directories, stacked by overlayfs
    Dirs,
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
/// The commands.
// Deferred, here and below: a command's options are put together when it is chosen. Those of all commands take several times as
// long, and each start of the binary would. What a struct of options is for is said in plain comments then: clap would take a
// documentation for the command's.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Fetch an image from its registry, verified
    Pull(Pull),
    /// Send an image to a registry
    Push(Push),
    /// List images
    Images(Images),
    /// Show everything about images, containers and pods, as JSON
    Inspect(Inspect),
    /// Remove images
    Rmi(Rmi),
    /// Prove an image: every document, layer and merged index of it
    Verify(VerifyImage),
    /// Give an image further names
    Tag(Tag),
    /// Take names away from an image
    Untag(Untag),
    /// Show how an image came to be
    History(History),
    /// Write images to an archive or a directory
    Save(Save),
    /// Read images from an archive or a directory
    Load(Load),
    /// Make an image of a root filesystem
    Import(Import),
    /// The commands about images
    #[command(subcommand)]
    Image(Image),
    /// Log in to a registry: its credential is verified and stored
    Login(Login),
    /// Remove the stored credential of a registry
    Logout(Logout),
    /// About registries
    #[command(subcommand)]
    Registry(Registry),
    /// Create a container from an image, or from a bundle with --bundle
    Create(Create),
    /// Start containers that were created
    Start(Start),
    /// Create a container and start it
    Run(Run),
    /// Take part in a container that runs: its output, its input, its terminal
    Attach(Attach),
    /// Run a further process in a container
    Exec(Exec),
    /// Wait until containers have ended, and print their exit codes
    Wait(Wait),
    /// Print what containers wrote
    Logs(Logs),
    /// Show a container's state, as JSON
    State(State),
    /// List containers
    List(List),
    /// List containers, or the processes of one
    Ps(Ps),
    /// Show the processes of a container
    Top(Top),
    /// Show which ports of the host lead into a container
    Port(Port),
    /// Show what containers use
    Stats(Stats),
    /// Freeze every process of containers
    Pause(Pause),
    /// Let frozen containers go on
    #[command(visible_alias = "unpause")]
    Resume(Resume),
    /// Change limits of a container
    Update(Update),
    /// Tell what happens to containers and images, or what one container uses
    Events(Events),
    /// Send a signal to containers
    Kill(Kill),
    /// Ask containers to end; kill those that do not
    Stop(Stop),
    /// Stop containers and start them again
    Restart(Restart),
    /// Give a container another name
    Rename(Rename),
    /// Delete containers
    #[command(visible_alias = "rm")]
    Delete(Delete),
    /// Copy files into a container, or out of it
    Cp(Cp),
    /// List what a container has changed, or what an image changes
    Diff(Diff),
    /// Make an image of a container
    Commit(Commit),
    /// Write a container's filesystem as a tar
    Export(Export),
    /// The commands about containers
    #[command(subcommand)]
    Container(Container),
    /// The commands about health checks
    #[command(subcommand)]
    Healthcheck(HealthcheckCommand),
    /// The commands about volumes
    #[command(subcommand)]
    Volume(Volume),
    /// The commands about layers
    #[command(subcommand)]
    Layer(Layer),
    /// The commands about networks
    #[command(subcommand)]
    Network(Network),
    /// Make units for systemd
    #[command(subcommand)]
    Generate(Generate),
    /// The commands about pods: containers that share namespaces
    #[command(subcommand)]
    Pod(Pod),
    /// Write a config.json to begin with
    Spec(Spec),
    /// Print what is honoured of a bundle, as JSON
    Features(Features),
    /// Refused: containers cannot be checkpointed
    #[command(hide = true)]
    Checkpoint(Refused),
    /// Refused: there are no checkpoints to restore
    #[command(hide = true)]
    Restore(Refused),
    /// Print what completes this command line in a shell
    Completion(Completion),
    /// Show what the kernel can do and what was chosen
    Info(SystemInfo),
    /// Print the version
    Version(VersionOf),
    /// About this host and this installation
    #[command(subcommand)]
    System(System),
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
    fn the_version_names_that_of_the_specification() {
        assert!(VERSION.ends_with(&format!("spec: {}", stos_runtime::features::OCI_VERSION_MAX)));
    }

    #[test]
    fn flags_take_a_value_as_runc_s_do() {
        for (line, expected) in [
            ("-td id ls", (true, true)),
            ("--tty=true --detach=false id ls", (true, false)),
            ("--detach id true", (false, true)),
            ("id ls -td", (false, false)),
        ] {
            let cli = Cli::try_parse_from(["stos", "exec"].into_iter().chain(line.split(' '))).unwrap();
            let Command::Exec(exec) = cli.command else { panic!("{line}") };
            assert_eq!(((exec.tty, exec.detach), exec.container()), (expected, "id"), "{line}");
        }
    }

    #[test]
    fn global_switches_take_a_value_too() {
        for (words, expected) in [
            ("", (false, false)),
            ("--debug --systemd-cgroup", (true, true)),
            ("--debug=true --systemd-cgroup=false", (true, false)),
        ] {
            let line = ["stos"].into_iter().chain(words.split_whitespace()).chain(["features"]);
            let global = Cli::try_parse_from(line).unwrap().global;
            assert_eq!((global.debug, global.systemd_cgroup), expected, "{words}");
        }
    }

    #[test]
    fn what_belongs_to_an_image_is_refused_for_a_bundle() {
        let refused = |line: &str| {
            let words: Vec<_> = line.split(' ').map(std::ffi::OsString::from).collect();
            crate::commands::bundle::refuse_image_options(&read(&words).unwrap().1)
                .err()
                .map(|failure| failure.to_string())
        };
        for line in ["create --bundle b --pid-file p id", "create id", "run -d -q -b b id", "list --format json"] {
            assert_eq!(refused(&format!("stos {line}")), None, "{line}");
        }
        for (options, named) in [
            ("--name x", "--name"),
            ("--network host", "--network"),
            ("-p 80", "--publish"),
            ("--dns 9.9.9.9", "--dns"),
            ("--pod web", "--pod"),
            ("--pull never", "--pull"),
            ("--verify none", "--verify"),
            ("--platform linux/amd64", "--platform"),
            ("--tls-verify=false", "--tls-verify"),
            ("--creds u:p", "--creds"),
            ("--authfile f", "--authfile"),
            ("--cert-dir d", "--cert-dir"),
            ("--signature-policy f", "--signature-policy"),
            ("--keep-blobs", "--keep-blobs"),
            ("--jobs 2", "--jobs"),
            ("--retry 0", "--retry"),
            ("-e A=b", "--env"),
            ("--env-file f", "--env-file"),
            ("--read-only", "--read-only"),
            ("--rm", "--rm"),
            ("--privileged", "--privileged"),
            ("--cap-add all", "--cap-add"),
            ("--security-opt seccomp=unconfined", "--security-opt"),
            ("--read-only-tmpfs=false", "--read-only-tmpfs"),
            ("--pid host", "--pid"),
            ("--userns auto", "--userns"),
            ("--uidmap 0:1:1", "--uidmap"),
            ("--subuidname me", "--subuidname"),
            ("-i", "--interactive"),
            ("-m 1g", "--memory"),
            ("--cpus 1", "--cpus"),
            ("--ulimit core=0", "--ulimit"),
            ("--tmpfs /x", "--tmpfs"),
            ("--volumes-from x", "--volumes-from"),
            ("--device /dev/null", "--device"),
            ("--sysctl a=b", "--sysctl"),
            ("--cidfile f", "--cidfile"),
            ("--sdnotify ignore", "--sdnotify"),
            ("--health-cmd x", "--health-cmd"),
            ("--no-healthcheck", "--no-healthcheck"),
            ("--health-on-failure none", "--health-on-failure"),
            ("--restart always", "--restart"),
            ("--stop-timeout 3", "--stop-timeout"),
            ("--log-driver none", "--log-driver"),
            ("--log-opt tag=x", "--log-opt"),
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
