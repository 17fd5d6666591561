// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container as a service: options of create and run, and units for systemd.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

// What create and run share.
#[derive(Debug, Clone, Args)]
pub struct UnitArgs {
    /// Remove a container that has the name, whatever it does; only when the new one has all that it needs
    #[arg(long, hide_short_help = true, requires = "name")]
    pub replace: bool,
    /// Write the container's id to FILE, which is of no container that is there
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// The signal that asks it to stop, instead of the image's
    #[arg(long, hide_short_help = true, value_name = "SIGNAL", value_parser = signal)]
    pub stop_signal: Option<i32>,
    /// Give it this command's environment too, under that of the image
    #[arg(long, hide_short_help = true)]
    pub env_host: bool,
    /// The time zone, such as Europe/Vienna; `local` is the host's
    #[arg(long, hide_short_help = true, value_name = "ZONE")]
    pub tz: Option<String>,
    /// Where its cgroups are; `split`: below that of who starts it, such as a unit of systemd with Delegate=yes
    #[arg(long, hide_short_help = true, value_name = "MODE", value_enum, default_value = "enabled")]
    pub cgroups: CgroupsChoice,
    /// With NOTIFY_SOCKET: who says that it is ready
    #[arg(long, hide_short_help = true, value_name = "MODE", value_enum, default_value = "container")]
    pub sdnotify: NotifyChoice,
}

fn signal(text: &str) -> Result<i32, String> {
    stos_runtime::parse_signal(text).map_err(|error| error.to_string())
}

/// Where cgroups are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CgroupsChoice {
    /// Below the roots of the hierarchies
    Enabled,
    /// The same: the monitor stays in its caller's in any case
    NoConmon,
    /// Below the caller's own
    Split,
}

/// Who says that a service is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NotifyChoice {
    /// The container, on a socket that it gets in NOTIFY_SOCKET
    Container,
    /// stos, when the command has been executed
    Conmon,
    /// stos, when the health check has succeeded
    Healthy,
    /// Nobody
    Ignore,
}

/// Make units for systemd
#[derive(Debug, Subcommand)]
pub enum Generate {
    /// Print the service of a container that is there
    Systemd(GenerateSystemd),
    /// Make services of Quadlet files, as a generator of systemd
    Quadlet(GenerateQuadlet),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos generate systemd --name --files web")]
pub struct GenerateSystemd {
    /// Call the container and the unit by its name, not its id
    #[arg(short, long)]
    pub name: bool,
    /// Write NAME.service here, and print its path
    #[arg(short, long)]
    pub files: bool,
    /// Seconds that the container has to end in; without it, the container's own
    #[arg(short = 't', long, visible_alias = "time", value_name = "SECONDS")]
    pub stop_timeout: Option<u64>,
    /// Seconds that the start may take
    #[arg(long, value_name = "SECONDS")]
    pub start_timeout: Option<u64>,
    /// When systemd starts it again: no, always, on-success, on-failure, on-abnormal, on-watchdog, on-abort
    #[arg(long, value_name = "POLICY", default_value = "on-failure", value_parser = stos_units::existing::RESTARTS)]
    pub restart_policy: String,
    /// Seconds before it is started again
    #[arg(long, value_name = "SECONDS")]
    pub restart_sec: Option<u64>,
    /// What the unit's name begins with
    #[arg(long, value_name = "TEXT", default_value = "container")]
    pub container_prefix: String,
    /// What stands between that and the container
    #[arg(long, value_name = "TEXT", default_value = "-")]
    pub separator: String,
    /// A unit that is wanted; may be repeated
    #[arg(long, value_name = "UNIT")]
    pub wants: Vec<String>,
    /// A unit that it comes after; may be repeated
    #[arg(long, value_name = "UNIT")]
    pub after: Vec<String>,
    /// A unit that it needs; may be repeated
    #[arg(long, value_name = "UNIT")]
    pub requires: Vec<String>,
    /// Set NAME=VALUE for stos; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Leave out the comment with the version and the time
    #[arg(long)]
    pub no_header: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos generate quadlet --dry-run\n  ln -s /usr/bin/stos \
                  /usr/lib/systemd/system-generators/stos-system-generator")]
pub struct GenerateQuadlet {
    /// Print the services and write nothing
    #[arg(long, visible_alias = "dryrun")]
    pub dry_run: bool,
    /// Where the files lie; may be repeated, and the first with a name counts
    #[arg(long, value_name = "DIR", env = "QUADLET_UNIT_DIRS", value_delimiter = ':',
        default_values = ["/run/stos/quadlet", "/etc/stos/quadlet", "/usr/share/stos/quadlet"])]
    pub source: Vec<PathBuf>,
    /// Where services go: of the three that systemd gives, the first
    #[arg(value_name = "DIR", num_args = 1..=3, required_unless_present = "dry_run")]
    pub directories: Vec<PathBuf>,
}
