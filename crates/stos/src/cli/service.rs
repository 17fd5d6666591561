// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words about how a new container is looked after: podman's. And the group `healthcheck`.

use clap::{Args, Subcommand, ValueEnum};
use stos_engine::service::healthcheck::parse_command;
use stos_engine::service::{HealthOptions, LogChoice, LogDriver, OnFailure, RestartPolicy, ServiceOptions};
use stos_engine::times::read_duration;

use super::limits::parse_size;

// What image mode's create and run share.
#[derive(Debug, Clone, Args)]
pub struct ServiceArgs {
    /// Check its health by this command: a script, a JSON array of words, or `none`
    #[arg(long, hide_short_help = true, value_name = "COMMAND", alias = "healthcheck-command", value_parser = parse_test)]
    pub health_cmd: Option<Test>,
    /// From the end of a health check to the next, such as 30s; `disable` for none but by `healthcheck run` [default: 30s]
    #[arg(long, hide_short_help = true, value_name = "TIME", alias = "healthcheck-interval", value_parser = parse_interval)]
    pub health_interval: Option<i64>,
    /// How long a health check may take, until it is killed and has failed [default: 30s]
    #[arg(long, hide_short_help = true, value_name = "TIME", alias = "healthcheck-timeout", value_parser = parse_time)]
    pub health_timeout: Option<i64>,
    /// How long after the start failed health checks do not count [default: 0s]
    #[arg(long, hide_short_help = true, value_name = "TIME", alias = "healthcheck-start-period", value_parser = parse_time)]
    pub health_start_period: Option<i64>,
    /// How many failed health checks in a row make it unhealthy [default: 3]
    #[arg(long, hide_short_help = true, value_name = "COUNT", alias = "healthcheck-retries")]
    pub health_retries: Option<u32>,
    /// Do not check its health, whatever the image says
    #[arg(long, hide_short_help = true)]
    pub no_healthcheck: bool,
    /// What to do when it has become unhealthy: none, kill, restart or stop
    #[arg(
        long,
        hide_short_help = true,
        value_name = "ACTION",
        value_enum,
        default_value = "none",
        hide_possible_values = true
    )]
    pub health_on_failure: HealthAction,
    /// When to start it again that has ended: no, always, on-failure[:N] or unless-stopped [default: no]
    #[arg(long, hide_short_help = true, value_name = "POLICY", value_parser = parse_policy)]
    pub restart: Option<RestartPolicy>,
    /// Seconds that `stop` and `restart` give it before it is killed [default: 10]
    #[arg(long, hide_short_help = true, value_name = "SECONDS")]
    pub stop_timeout: Option<u64>,
    /// Where its output goes: k8s-file, json-file, journald, none, passthrough [default: k8s-file]
    #[arg(long, hide_short_help = true, value_name = "DRIVER", value_parser = parse_driver)]
    pub log_driver: Option<LogDriver>,
    /// Of a log file: max-size=SIZE (-1 for no limit), path=FILE; of the journal: tag=TEXT
    #[arg(long, hide_short_help = true, value_name = "NAME=VALUE", value_parser = parse_log_option)]
    pub log_opt: Vec<LogOption>,
}

/// What an image's `Test` would say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test(Vec<String>);

/// What is done when a container has become unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HealthAction {
    /// Nothing
    None,
    /// Kill it
    Kill,
    /// Stop it and start it again
    Restart,
    /// Stop it
    Stop,
}

/// An option of a log driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOption {
    /// In bytes; 0 for no limit.
    MaxSize(u64),
    Path(std::path::PathBuf),
    Tag(String),
}

impl ServiceArgs {
    /// Gives them as the engine takes them. Of what is said twice about one log option the last counts.
    pub fn to_options(&self) -> ServiceOptions {
        let mut log = LogChoice { driver: self.log_driver.unwrap_or_default(), ..LogChoice::default() };
        for option in self.log_opt.iter().cloned() {
            match option {
                LogOption::MaxSize(bytes) => log.max_size = Some(bytes),
                LogOption::Path(path) => log.path = Some(path),
                LogOption::Tag(tag) => log.tag = Some(tag),
            }
        }
        ServiceOptions {
            health: HealthOptions {
                test: self.health_cmd.as_ref().map(|test| test.0.clone()),
                interval: self.health_interval,
                timeout: self.health_timeout,
                start_period: self.health_start_period,
                retries: self.health_retries,
                disabled: self.no_healthcheck,
                on_failure: match self.health_on_failure {
                    HealthAction::None => OnFailure::None,
                    HealthAction::Kill => OnFailure::Kill,
                    HealthAction::Restart => OnFailure::Restart,
                    HealthAction::Stop => OnFailure::Stop,
                },
            },
            restart: self.restart.unwrap_or_default(),
            stop_timeout: self.stop_timeout,
            log,
        }
    }
}

fn parse_test(text: &str) -> Result<Test, String> {
    parse_command(text).map(Test)
}

/// Reads a time as Go writes it, into nanoseconds. moby takes nothing between 0 and a millisecond either.
fn parse_time(text: &str) -> Result<i64, String> {
    let time = if text == "0" { Some(jiff::SignedDuration::ZERO) } else { read_duration(text) };
    let nanoseconds = time.and_then(|time| i64::try_from(time.as_nanos()).ok());
    match nanoseconds {
        Some(time) if time == 0 || time >= 1_000_000 => Ok(time),
        _ => Err(format!("expected a time such as 30s, 1m30s or 500ms, found {text:?}")),
    }
}

fn parse_interval(text: &str) -> Result<i64, String> {
    if text == "disable" { Ok(0) } else { parse_time(text) }
}

pub(super) fn parse_policy(text: &str) -> Result<RestartPolicy, String> {
    text.parse()
}

fn parse_driver(text: &str) -> Result<LogDriver, String> {
    LogDriver::ALL.into_iter().find(|driver| driver.name() == text).ok_or_else(|| {
        let names: Vec<_> = LogDriver::ALL.iter().map(|driver| driver.name()).collect();
        format!("expected one of {}, found {text:?}", names.join(", "))
    })
}

fn parse_log_option(text: &str) -> Result<LogOption, String> {
    let wrong = || format!("expected max-size=SIZE, path=FILE or tag=TEXT, found {text:?}");
    match text.split_once('=').filter(|(_, value)| !value.is_empty() && !value.contains('\0')).ok_or_else(wrong)? {
        ("max-size", size) => match parse_size(size)? {
            -1 => Ok(LogOption::MaxSize(0)),
            bytes @ 1.. => Ok(LogOption::MaxSize(bytes.unsigned_abs())),
            _ => Err(format!("expected a size above 0 such as 10m, or -1 for no limit, found {size:?}")),
        },
        ("path", path) => Ok(LogOption::Path(path.into())),
        ("tag", tag) => Ok(LogOption::Tag(tag.to_owned())),
        _ => Err(wrong()),
    }
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum HealthcheckCommand {
    /// Check a container's health at once: 0 healthy, 1 not
    Run(HealthcheckRun),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:\n  0    the check has succeeded\n  1    it has failed\n  125  there was none: no health check is defined, or the container does not run\n\n\
Example:\n  stos healthcheck run web")]
pub struct HealthcheckRun {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_go_s_and_not_below_a_millisecond() {
        for (text, expected) in [("0", 0), ("30s", 30_000_000_000), ("1m30s", 90_000_000_000), ("1ms", 1_000_000)] {
            assert_eq!(parse_time(text), Ok(expected), "{text}");
        }
        for text in ["", "5", "-1s", "1ns", "soon", "999999999h", "disable"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        assert_eq!(parse_interval("disable"), Ok(0));
    }

    #[test]
    fn log_options_are_known_or_refused() {
        assert_eq!(parse_log_option("max-size=10k"), Ok(LogOption::MaxSize(10 << 10)));
        assert_eq!(parse_log_option("max-size=-1"), Ok(LogOption::MaxSize(0)));
        assert_eq!(parse_log_option("path=/x=y"), Ok(LogOption::Path("/x=y".into())));
        assert_eq!(parse_log_option("tag={{.ID}}"), Ok(LogOption::Tag("{{.ID}}".into())));
        for text in ["max-size", "max-size=", "max-size=0", "max-size=x", "tag", "labels=x", "=x", ""] {
            assert!(parse_log_option(text).is_err(), "{text}");
        }
        assert_eq!(parse_driver("json-file"), Ok(LogDriver::JsonFile));
        assert!(parse_driver("syslog").unwrap_err().contains("k8s-file"));
    }
}
