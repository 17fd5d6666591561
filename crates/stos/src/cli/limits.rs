// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The words of commands about what containers may use: pause, resume, update.

use std::path::PathBuf;

use clap::Args;

use stos_engine::service::RestartPolicy;

use super::image_limits::parse_cpus;
use super::service::parse_policy;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos pause web")]
pub struct Pause {
    /// All containers that run
    #[arg(short, long, conflicts_with = "containers")]
    pub all: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  stos resume web")]
pub struct Resume {
    /// All containers that are frozen
    #[arg(short, long, conflicts_with = "containers")]
    pub all: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stos update --memory 512m --cpus 1.5 --pids-limit 100 web\n  echo '{\"cpu\": {\"shares\": 512}}' | stos update --resources - web"
)]
pub struct Update {
    /// Read the limits from FILE, or `-` for standard input: JSON, as linux.resources of a config.json; device rules stay as they are
    #[arg(short, long, value_name = "FILE", conflicts_with = "limits")]
    pub resources: Option<PathBuf>,
    #[command(flatten)]
    pub limits: Limits,
    /// Of containers from images: when to start it again that has ended: no, always, on-failure[:N] or unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = parse_policy)]
    pub restart: Option<RestartPolicy>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

// Numbers as runc has them: 0 leaves a limit as it is, -1 takes it away.
#[derive(Debug, Clone, Args)]
#[group(id = "limits", multiple = true)]
pub struct Limits {
    /// Weight of block input and output, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Microseconds of a period, of which the quota is a part
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in a period; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Microseconds that may be saved up from periods that did not use their quota
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_burst: Option<u64>,
    /// Share of processor time, by comparison with other containers
    #[arg(short = 'c', long = "cpu-shares", alias = "cpu-share", value_name = "SHARES")]
    pub cpu_share: Option<u64>,
    /// Processors' worth of time, such as 1.5: quota and period in one; 0 leaves them as they are
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["cpu_period", "cpu_quota"], value_parser = parse_cpus)]
    pub cpus: Option<f64>,
    /// Microseconds of a realtime period
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_rt_period: Option<u64>,
    /// Microseconds of realtime scheduling in a realtime period
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// 1: only where nobody else wants the processor (SCHED_IDLE); 0: as others
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    pub cpu_idle: Option<i64>,
    /// The processors, such as 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// The memory nodes, such as 0,1
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Memory, in bytes or with k, m, g; -1 for no limit
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size)]
    pub memory: Option<i64>,
    /// Memory that is kept for the container where it is scarce
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size)]
    pub memory_reservation: Option<i64>,
    /// Memory and swap together; -1 for no limit of swap [default, for containers from images: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size)]
    pub memory_swap: Option<i64>,
    /// How gladly memory is swapped, 0 to 100 (cgroup v1)
    #[arg(long, value_name = "NUMBER")]
    pub memory_swappiness: Option<u64>,
    // Has no effect on any kernel of today, and says so.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size, hide = true)]
    pub kernel_memory: Option<i64>,
    // TCP buffers; cgroup v1 alone has it.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_size, hide = true)]
    pub kernel_memory_tcp: Option<i64>,
    // What is not supported, and refused by name.
    #[arg(long, value_name = "SCHEMA", hide = true)]
    pub l3_cache_schema: Option<String>,
    #[arg(long, value_name = "SCHEMA", hide = true)]
    pub mem_bw_schema: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
}

/// Reads a size as docker and runc do (docker/go-units, `RAMInBytes`): powers of 1,024 by k, m, g, t or p, with `b` or `ib` after it
/// or without. -1 is no limit.
pub(super) fn parse_size(text: &str) -> Result<i64, String> {
    let wrong = || format!("expected bytes, a size such as 512m, or -1, found {text:?}");
    if text == "-1" {
        return Ok(-1);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit == "ib" => return Err(wrong()),
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let Some((whole, part)) = digits.split_once('.') else {
        return digits.parse::<i64>().ok().and_then(|number| number.checked_mul(1 << power)).ok_or_else(wrong);
    };
    // A part of a byte is none. More than 18 digits say nothing more, and would not fit.
    let part = part.get(..part.len().min(18)).unwrap_or_default();
    let denominator = 10_i128.pow(u32::try_from(part.len()).map_err(|_| wrong())?);
    let number = format!("{whole}{part}").parse::<i128>().map_err(|_| wrong())?;
    // Something that comes to nothing would be taken for no limit.
    let bytes =
        number.checked_mul(1 << power).map(|bytes| bytes / denominator).filter(|bytes| (*bytes == 0) == (number == 0));
    bytes.and_then(|bytes| i64::try_from(bytes).ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("-1", -1),
            ("1024", 1024),
            ("3b", 3),
            ("1k", 1024),
            ("2KB", 2048),
            ("512m", 512 << 20),
            ("1 GiB", 1 << 30),
            ("1p", 1 << 50),
            ("1.5g", 3 << 29),
            ("0.5k", 512),
            (".5k", 512),
            ("1.", 1),
            ("1.0009", 1),
            ("0.0g", 0),
        ] {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "k", "-2", "1x", "1ib", "1mm", ".", "1.2.3", "0.5", "0.0001k", "9223372036854775807k", "１"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
