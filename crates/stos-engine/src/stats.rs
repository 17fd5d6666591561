// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What containers use, as podman's `stats` tells it (podman-stats(1)): processor, memory, network, block devices, processes.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

use serde::Serialize;
use stos_runtime::events::{Stats, usage};
use stos_runtime::{ProcessRecord, RunState};
use stos_sys::process::identity::{ticks_per_second, ticks_since_boot};

/// What a container uses at a moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ContainerUsage {
    /// Nanoseconds of processor time since its start.
    pub cpu_time: u64,
    /// Processor time since the last look, or since its start, in hundredths of one processor's.
    pub cpu_percent: f64,
    /// The same since its start.
    pub avg_cpu: f64,
    /// Bytes of memory, without what is only cached and has not been used of late.
    pub mem_usage: u64,
    /// Bytes of memory that it may have: its limit, or all of the machine's.
    pub mem_limit: u64,
    /// The part of that which it uses, in hundredths.
    pub mem_percent: f64,
    /// Bytes received and sent by its interfaces but the loopback; `None` where it has no network of its own.
    pub net_input: Option<u64>,
    /// See `net_input`.
    pub net_output: Option<u64>,
    /// Bytes read from block devices.
    pub block_input: u64,
    /// Bytes written to block devices.
    pub block_output: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Looks at containers again and again: what a rate is counted from is remembered.
#[derive(Debug, Default)]
pub struct Sampler {
    last: HashMap<String, (Instant, u64)>,
}

impl Sampler {
    /// Tells what the container of this state uses. One that ends meanwhile uses nothing.
    pub fn sample(&mut self, run: &RunState) -> ContainerUsage {
        let (stats, now) = (usage(run), Instant::now());
        let cpu_time = stats.cpu.usage.total;
        let avg_cpu = run.init.as_ref().map_or(0.0, |init| percent(cpu_time as f64, nanoseconds_since(init)));
        let last = self.last.insert(run.id.to_string(), (now, cpu_time));
        let cpu_percent = last.map_or(avg_cpu, |(then, before)| {
            percent(cpu_time.saturating_sub(before) as f64, now.duration_since(then).as_nanos() as f64)
        });
        let (mem_usage, mem_limit) = memory(&stats, machine_memory());
        let network = run.init.as_ref().and_then(|init| network(init.pid));
        let block = |op: &str| {
            let entries = stats.blkio.io_service_bytes_recursive.iter();
            entries.filter(|entry| entry.op.eq_ignore_ascii_case(op)).map(|entry| entry.value).sum()
        };
        ContainerUsage {
            cpu_time,
            cpu_percent,
            avg_cpu,
            mem_usage,
            mem_limit,
            mem_percent: percent(mem_usage as f64, mem_limit as f64),
            net_input: network.map(|(received, _)| received),
            net_output: network.map(|(_, sent)| sent),
            block_input: block("Read"),
            block_output: block("Write"),
            pids: stats.pids.current,
        }
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole * 100.0 } else { 0.0 }
}

fn nanoseconds_since(process: &ProcessRecord) -> f64 {
    let ticks = ticks_since_boot().saturating_sub(process.start_time);
    ticks as f64 / ticks_per_second() as f64 * 1e9
}

/// What is used and what may be. Files that were read once and wait to be dropped are left out, as docker and podman have it: v1's
/// `total_` counts cgroups below too, v2 always does.
fn memory(stats: &Stats, machine: u64) -> (u64, u64) {
    let raw = &stats.memory.raw;
    let inactive = raw.get("total_inactive_file").or_else(|| raw.get("inactive_file")).copied().unwrap_or(0);
    let limit = stats.memory.usage.limit;
    let limit = if limit == 0 || (machine != 0 && limit > machine) { machine } else { limit };
    (stats.memory.usage.usage.saturating_sub(inactive), limit)
}

/// `MemTotal` of /proc/meminfo in bytes; 0 where it cannot be read.
fn machine_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    kibibytes.map_or(0, |kibibytes: u64| kibibytes << 10)
}

/// Bytes received and sent in a process's network namespace, where that is not our own.
fn network(pid: i32) -> Option<(u64, u64)> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    if namespace(&pid.to_string())? == namespace("self")? {
        return None;
    }
    Some(interfaces(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?))
}

/// Sums up lines of `name: bytes packets … bytes packets …` (proc_pid_net(5)) under two of headings, but for the loopback's.
fn interfaces(table: &str) -> (u64, u64) {
    let lines = table.lines().filter_map(|line| line.split_once(':'));
    let counted = lines.filter(|(name, _)| name.trim() != "lo").map(|(_, numbers)| {
        let numbers: Vec<u64> = numbers.split_whitespace().map(|number| number.parse().unwrap_or(0)).collect();
        let at = |place: usize| numbers.get(place).copied().unwrap_or(0);
        (at(0), at(8))
    });
    counted.fold((0, 0), |(received, sent), (more_received, more_sent)| (received + more_received, sent + more_sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_summed_up_without_the_loopback() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
                     lo:    9999      10    0    0    0     0          0         0     9999      10    0\n  \
                     eth0:    1000      10    0    0    0     0          0         0      500       7    0\n  \
                     eth1:      24       1    0    0    0     0          0         0       12       1    0\n";
        assert_eq!(interfaces(table), (1024, 512));
        assert_eq!(interfaces(""), (0, 0));
        assert_eq!(network(std::process::id().cast_signed()), None, "it is our own");
    }

    #[test]
    fn memory_is_what_is_really_used() {
        let mut stats = Stats::default();
        stats.memory.usage.usage = 100;
        stats.memory.usage.limit = u64::MAX;
        stats.memory.raw = [("inactive_file".to_owned(), 10), ("total_inactive_file".to_owned(), 30)].into();
        assert_eq!(memory(&stats, 1000), (70, 1000));
        stats.memory.usage.limit = 500;
        stats.memory.raw.remove("total_inactive_file");
        assert_eq!(memory(&stats, 1000), (90, 500));
        assert!(machine_memory() > 0);
        assert!((percent(1.0, 4.0) - 25.0).abs() < 1e-9 && percent(1.0, 0.0) == 0.0);
    }
}
