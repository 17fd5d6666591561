// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of the group `volume`: podman's.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Volume {
    /// Make a volume
    Create(VolumeCreate),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(VolumeLs),
    /// Show everything about volumes, as JSON
    Inspect(VolumeInspect),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(VolumeRm),
    /// Remove the volumes that no container uses
    Prune(VolumePrune),
    /// Tell by the exit code whether there is a volume: 0 or 1
    Exists(VolumeExists),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos volume create data\n  stos volume create -o type=none -o o=bind -o device=/srv/www www"
)]
pub struct VolumeCreate {
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Succeed for one that is there
    #[arg(long)]
    pub ignore: bool,
    /// Who keeps it: there is `local` alone
    #[arg(short, long, value_name = "NAME", default_value = "local")]
    pub driver: String,
    /// Set an option of the driver: type=bind|none|tmpfs, device=PATH, o=bind|rbind|ro|size=SIZE|uid=N|gid=N|nocopy, several with commas
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub opt: Vec<String>,
    /// Whom it belongs to, as a number
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,
    /// Which group it belongs to, as a number
    #[arg(long, value_name = "GID")]
    pub gid: Option<u32>,
    /// Its name; without one it gets one
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos volume ls --filter dangling=true\n  stos volume ls --format '{{.Name}} {{.Mountpoint}}'"
)]
pub struct VolumeLs {
    /// Only volumes that fit, as KEY=VALUE: name, label, label!, dangling, driver, anonymous or until
    #[arg(short, long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// How the list looks: table, json, or a template such as '{{.Name}}' or 'table {{.Name}}\t{{.Driver}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Print only names
    #[arg(short, long)]
    pub quiet: bool,
    /// Leave out the header
    #[arg(short, long)]
    pub noheading: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos volume inspect data\n  stos volume inspect --format '{{.Mountpoint}}' data")]
pub struct VolumeInspect {
    /// All volumes
    #[arg(short, long, conflicts_with = "volumes")]
    pub all: bool,
    /// How it looks: json, or a template such as '{{.Mountpoint}}'
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    pub format: String,
    /// The volumes: names, or beginnings of names
    #[arg(value_name = "VOLUME")]
    pub volumes: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos volume rm data")]
pub struct VolumeRm {
    /// All volumes
    #[arg(short, long, conflicts_with = "volumes")]
    pub all: bool,
    /// Delete the containers that use them first; succeed for one that is gone
    #[arg(short, long)]
    pub force: bool,
    /// With --force: seconds to wait before a container that runs is killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub time: u64,
    /// The volumes: names, or beginnings of names
    #[arg(value_name = "VOLUME")]
    pub volumes: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos volume prune --force --filter 'label!=keep'")]
pub struct VolumePrune {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Only volumes that fit, as KEY=VALUE: name, label, label!, driver, anonymous or until; all filters must fit
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos volume exists data || stos volume create data")]
pub struct VolumeExists {
    /// The volume
    #[arg(value_name = "VOLUME")]
    pub volume: String,
}
