// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of logs.

use clap::Args;
use jiff::Timestamp;
use stos_engine::times::{read_time, read_time_ahead};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  stos logs -f web\n  stos logs --tail 20 --since 10m -t web")]
pub struct Logs {
    /// Go on while the container writes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines, or `all`; then those in time
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
    /// Of several containers: begin each line with the name, instead of the id
    #[arg(short, long)]
    pub names: bool,
    /// The containers: ids, names, or beginnings of ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// How many lines from the end: all of them without a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail(pub Option<u64>);

/// A number below zero means all of them too, as podman has it.
pub(super) fn parse_tail(text: &str) -> Result<Tail, String> {
    match text.parse::<i64>() {
        Ok(count) => Ok(Tail(u64::try_from(count).ok())),
        Err(_) if text == "all" => Ok(Tail(None)),
        Err(_) => Err(format!("expected a number of lines or all, found {text:?}")),
    }
}

const TIMES: &str = "expected a time such as 2026-01-31T12:00:00Z, seconds since 1970, or a duration such as 10m";

pub(super) fn parse_since(text: &str) -> Result<Timestamp, String> {
    read_time(text, Timestamp::now()).ok_or_else(|| TIMES.to_owned())
}

pub(super) fn parse_until(text: &str) -> Result<Timestamp, String> {
    read_time_ahead(text, Timestamp::now()).ok_or_else(|| TIMES.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_a_number_or_all() {
        for (text, expected) in [("0", Some(0)), ("12", Some(12)), ("all", None), ("-1", None)] {
            assert_eq!(parse_tail(text), Ok(Tail(expected)), "{text}");
        }
        for text in ["", "some", "1.5"] {
            assert!(parse_tail(text).is_err(), "{text}");
        }
        assert!(parse_since("soon").is_err() && parse_until("soon").is_err());
        assert!(parse_since("1m").unwrap() < parse_until("1m").unwrap());
    }
}
