// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of wait, stop, restart, rename and of the group `container`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use stos_store::ContainerName;

/// What a container can be waited for to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Condition {
    /// Created, and not started yet
    Created,
    /// Running
    Running,
    /// Frozen
    Paused,
    /// Ended
    #[value(alias = "exited")]
    Stopped,
    /// Running, and found healthy
    Healthy,
    /// Running, and found unhealthy
    Unhealthy,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos wait web\n  stos wait --condition running --condition stopped web")]
pub struct Wait {
    /// Wait for created, running, paused, stopped, healthy or unhealthy, also several: whichever comes first. Of what does not stop
    /// the code is -1
    #[arg(long, value_name = "CONDITION", value_enum, default_value = "stopped", hide_possible_values = true)]
    pub condition: Vec<Condition>,
    /// How often to look for a condition other than the end: 250ms, 2s, or milliseconds
    #[arg(short, long, value_name = "TIME", default_value = "250ms", value_parser = parse_interval)]
    pub interval: Duration,
    /// The exit code of one that is gone is -1
    #[arg(long)]
    pub ignore: bool,
    /// The containers: ids, names, or beginnings of ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// Below zero it is for ever; and what is larger than any number of seconds here is as long.
pub(super) fn parse_seconds(text: &str) -> Result<i64, String> {
    let wrong = |_| format!("expected a number of seconds, or -1 for ever, found {text:?}");
    match text.parse::<u64>() {
        Ok(seconds) => Ok(i64::try_from(seconds).unwrap_or(i64::MAX)),
        Err(_) => text.parse::<i64>().map_err(wrong),
    }
}

/// A number alone is one of milliseconds (podman-wait(1)).
fn parse_interval(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a time above 0 such as 250ms or 2s, found {text:?}");
    let time = match text.parse::<u64>() {
        Ok(milliseconds) => Some(Duration::from_millis(milliseconds)),
        Err(_) => {
            let duration: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
            Duration::try_from(duration).ok()
        }
    };
    time.filter(|time| !time.is_zero()).ok_or_else(wrong)
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos stop -t 3 web")]
pub struct Stop {
    /// Seconds to wait before it is killed, -1 for ever [default: its own --stop-timeout, 10]
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_seconds)]
    pub time: Option<i64>,
    /// All containers that run
    #[arg(short, long, conflicts_with_all = ["containers", "cidfile"])]
    pub all: bool,
    /// Succeed for one that is gone
    #[arg(short, long)]
    pub ignore: bool,
    /// The container whose id is in FILE (--cidfile of create and run); may be repeated
    #[arg(long, value_name = "FILE")]
    pub cidfile: Vec<PathBuf>,
    /// The containers
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "cidfile"])]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos restart -t 3 web")]
pub struct Restart {
    /// Seconds to wait before one that runs is killed, -1 for ever [default: its own --stop-timeout, 10]
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_seconds)]
    pub time: Option<i64>,
    /// All containers
    #[arg(short, long, conflicts_with_all = ["containers", "running"])]
    pub all: bool,
    /// All containers that run
    #[arg(long, conflicts_with = "containers")]
    pub running: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "running"])]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos rename web web-old")]
pub struct Rename {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Its new name
    #[arg(value_name = "NAME")]
    pub name: ContainerName,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos container prune --force --filter until=24h --filter 'label!=keep'")]
pub struct ContainerPrune {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Only containers created before a time (until=2026-01-31T12:00:00Z, until=24h), with a label (label=KEY[=VALUE]), or without
    /// one (label!=KEY[=VALUE]); all filters must fit
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Container {
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(super::Ps),
    /// Remove all containers that do not run
    Prune(ContainerPrune),
    /// Show everything about containers, as JSON
    Inspect(super::Inspect),
    /// Start containers that were created
    Start(super::Start),
    /// Ask containers to end; kill those that do not
    Stop(Stop),
    /// Stop containers and start them again
    Restart(Restart),
    /// Send a signal to containers
    Kill(super::Kill),
    /// Freeze every process of containers
    Pause(super::Pause),
    /// Let frozen containers go on
    #[command(visible_alias = "resume")]
    Unpause(super::Resume),
    /// Wait until containers have ended, and print their exit codes
    Wait(Wait),
    /// Copy files into a container, or out of it
    Cp(super::Cp),
    /// Print what containers wrote
    Logs(super::Logs),
    /// Give a container another name
    Rename(Rename),
    /// Delete containers
    #[command(visible_alias = "delete")]
    Rm(super::Delete),
    /// Tell by the exit code whether there is a container: 0 or 1
    Exists(super::ContainerExists),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_end_may_be_for_ever() {
        for (text, expected) in [("0", 0), ("3", 3), ("-1", -1), ("18446744073709551615", i64::MAX)] {
            assert_eq!(parse_seconds(text), Ok(expected), "{text}");
        }
        assert!(parse_seconds("soon").is_err() && parse_seconds("").is_err() && parse_seconds("1.5").is_err());
    }

    #[test]
    fn an_interval_may_be_milliseconds() {
        for (text, expected) in [("250", 250), ("2s", 2000), ("1m", 60_000)] {
            assert_eq!(parse_interval(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for text in ["0", "0s", "-1s", "soon", ""] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }
}
