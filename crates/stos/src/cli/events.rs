// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of events: podman's events of containers and images, and runc's of one container.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use stos_engine::journal::filter::Filter;

use super::GoFlag;
use super::logs::{parse_since, parse_until};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos events --filter event=died --format '{{.Name}} {{.ContainerExitCode}}'\n  stos events --since 10m --stream=false\n  stos events --stats web\n  stos events --interval 1s web"
)]
pub struct Events {
    /// Only events that fit, as KEY=VALUE: container, event, image, label, type; of one key any, of each key one
    #[arg(short, long = "filter", value_name = "FILTER", conflicts_with = "container")]
    pub filters: Vec<Filter>,
    /// How an event looks: json, or a template such as '{{.Time}} {{.Type}} {{.Status}} {{.Name}}'
    #[arg(long, value_name = "FORMAT", conflicts_with = "container")]
    pub format: Option<String>,
    /// Begin with what happened after TIME: 2026-01-31T12:00:00Z, seconds since 1970, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = parse_since, conflicts_with = "container")]
    pub since: Option<Timestamp>,
    /// End with what happened before TIME; a duration counts from now on
    #[arg(long, value_name = "TIME", value_parser = parse_until, conflicts_with = "container")]
    pub until: Option<Timestamp>,
    /// Wait for what happens; with =false show what has happened, and end
    #[arg(long, go_flag(), default_value = "true", conflicts_with = "container")]
    pub stream: bool,
    /// Show ids whole; with =false their first 12 digits
    #[arg(long, go_flag(), default_value = "true", conflicts_with = "container")]
    pub no_trunc: bool,
    /// Of one container: tell once what it uses
    #[arg(long, requires = "container")]
    pub stats: bool,
    /// Of one container: how often to tell what it uses
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_interval, requires = "container")]
    pub interval: Duration,
    /// Tell what this container uses, and when it runs out of memory, as runc does: JSON lines
    #[arg(value_name = "CONTAINER")]
    pub container: Option<String>,
}

/// Reads `5s`, `100ms`, `1m30s`.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a time above 0 such as 5s or 100ms, found {text:?}");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn read(line: &str) -> Result<Events, clap::Error> {
        let cli = Cli::try_parse_from(["stos", "events"].into_iter().chain(line.split_whitespace()))?;
        let Command::Events(events) = cli.command else { panic!("{line}") };
        Ok(events)
    }

    #[test]
    fn an_interval_is_some_time() {
        assert_eq!(parse_interval("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_interval("1m30s"), Ok(Duration::from_secs(90)));
        for text in ["0s", "-1s", "5", "x", ""] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_of_one_container_is_not_of_all() {
        let streams = |line: &str| read(line).map(|events| (events.stream, events.no_trunc));
        for (line, expected) in [
            ("", (true, true)),
            ("--stream --no-trunc", (true, true)),
            ("--stream=false --no-trunc=false -f event=died", (false, false)),
            ("web", (true, true)),
            ("--stats --interval 1s web", (true, true)),
        ] {
            assert_eq!(streams(line).unwrap(), expected, "{line}");
        }
        for line in [
            "--stats",
            "--interval 1s",
            "--since 1m web",
            "--until 1m web",
            "-f event=died web",
            "--format json web",
            "--stream=false web",
            "--no-trunc web",
            "-f pod=x",
            "--since soon",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
