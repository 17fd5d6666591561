// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Statistics from the control files of a container's cgroups.
//!
//! A file that is not there, or cannot be read any more, counts nothing: the container may end at any moment.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::stats::{
    BlockIo, BlockIoEntry, Cpu, CpuSet, CpuUsage, HugePages, Memory, MemoryEntry, Pids, Stats, Throttling,
};
use crate::cgroup::CgroupRecord;

/// A tick of `cpuacct.stat`, in nanoseconds: USER_HZ is 100 on every architecture that Linux still has.
const TICK: u64 = 1_000_000_000 / 100;

/// The directory of a controller.
#[derive(Clone, Copy)]
enum Source<'a> {
    V1(&'a Path),
    V2(&'a Path),
    Nowhere,
}

pub(super) fn stats(cgroup: &CgroupRecord) -> Stats {
    let source = |controller: &str| match (cgroup.v1(controller), cgroup.v2()) {
        (Some(directory), _) => Source::V1(&directory.path),
        (None, Some(directory)) => Source::V2(&directory.path),
        (None, None) => Source::Nowhere,
    };
    Stats {
        cpu: cpu(source("cpu"), source("cpuacct")),
        cpuset: cpuset(source("cpuset")),
        memory: memory(source("memory")),
        pids: pids(source("pids")),
        blkio: block_io(source("blkio")),
        hugetlb: huge_pages(source("hugetlb")),
        ..Stats::default()
    }
}

fn text(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join(file)).unwrap_or_default()
}

/// A number; `max` is the greatest.
fn number(directory: &Path, file: &str) -> u64 {
    match text(directory, file).trim() {
        "max" => u64::MAX,
        digits => digits.parse().unwrap_or(0),
    }
}

/// Lines of a name and a number.
fn table(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn get(table: &BTreeMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

fn cpu(cpu: Source<'_>, account: Source<'_>) -> Cpu {
    let throttling = match cpu {
        Source::Nowhere => Throttling::default(),
        Source::V1(directory) | Source::V2(directory) => {
            let stat = table(&text(directory, "cpu.stat"));
            Throttling {
                periods: get(&stat, "nr_periods"),
                throttled_periods: get(&stat, "nr_throttled"),
                // Nanoseconds on v1, microseconds on v2.
                throttled_time: get(&stat, "throttled_time").max(get(&stat, "throttled_usec").saturating_mul(1000)),
            }
        }
    };
    let usage = match account {
        Source::Nowhere => CpuUsage::default(),
        Source::V1(directory) => v1_cpu_usage(directory),
        Source::V2(directory) => {
            let stat = table(&text(directory, "cpu.stat"));
            let nanoseconds = |name| get(&stat, name).saturating_mul(1000);
            CpuUsage {
                total: nanoseconds("usage_usec"),
                kernel: nanoseconds("system_usec"),
                user: nanoseconds("user_usec"),
                ..CpuUsage::default()
            }
        }
    };
    Cpu { usage, throttling }
}

fn v1_cpu_usage(directory: &Path) -> CpuUsage {
    let stat = table(&text(directory, "cpuacct.stat"));
    let mut usage = CpuUsage {
        total: number(directory, "cpuacct.usage"),
        kernel: get(&stat, "system").saturating_mul(TICK),
        user: get(&stat, "user").saturating_mul(TICK),
        percpu: text(directory, "cpuacct.usage_percpu").split_whitespace().filter_map(|n| n.parse().ok()).collect(),
        ..CpuUsage::default()
    };
    // `cpu user system`, under a header.
    for line in text(directory, "cpuacct.usage_all").lines().skip(1) {
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap_or(0));
        if let (Some(_), Some(user), Some(system)) = (numbers.next(), numbers.next(), numbers.next()) {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(system);
        }
    }
    usage
}

/// `0-2,4` as its members.
fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

fn cpuset(source: Source<'_>) -> CpuSet {
    match source {
        Source::Nowhere => CpuSet::default(),
        Source::V2(directory) => CpuSet {
            cpus: list(&text(directory, "cpuset.cpus")),
            mems: list(&text(directory, "cpuset.mems")),
            ..CpuSet::default()
        },
        Source::V1(directory) => {
            let flag = |name: &str| number(directory, &format!("cpuset.{name}"));
            CpuSet {
                cpus: list(&text(directory, "cpuset.cpus")),
                cpu_exclusive: flag("cpu_exclusive"),
                mems: list(&text(directory, "cpuset.mems")),
                mem_hardwall: flag("mem_hardwall"),
                mem_exclusive: flag("mem_exclusive"),
                memory_migrate: flag("memory_migrate"),
                memory_spread_page: flag("memory_spread_page"),
                memory_spread_slab: flag("memory_spread_slab"),
                memory_pressure: flag("memory_pressure"),
                sched_load_balance: flag("sched_load_balance"),
                sched_relax_domain_level: text(directory, "cpuset.sched_relax_domain_level")
                    .trim()
                    .parse()
                    .unwrap_or(0),
            }
        }
    }
}

fn memory(source: Source<'_>) -> Memory {
    match source {
        Source::Nowhere => Memory::default(),
        Source::V1(directory) => {
            let raw = table(&text(directory, "memory.stat"));
            let entry = |kind: &str| {
                let value = |name: &str| number(directory, &format!("memory.{kind}{name}"));
                MemoryEntry {
                    limit: value("limit_in_bytes"),
                    usage: value("usage_in_bytes"),
                    max: value("max_usage_in_bytes"),
                    failcnt: value("failcnt"),
                }
            };
            Memory {
                cache: get(&raw, "cache"),
                usage: entry(""),
                swap: entry("memsw."),
                kernel: entry("kmem."),
                kernel_tcp: entry("kmem.tcp."),
                raw,
            }
        }
        Source::V2(directory) => {
            let raw = table(&text(directory, "memory.stat"));
            let events = |file| get(&table(&text(directory, file)), "max");
            let usage = MemoryEntry {
                limit: number(directory, "memory.max"),
                usage: number(directory, "memory.current"),
                max: number(directory, "memory.peak"),
                failcnt: events("memory.events"),
            };
            let swap = MemoryEntry {
                limit: number(directory, "memory.swap.max").saturating_add(usage.limit),
                usage: number(directory, "memory.swap.current").saturating_add(usage.usage),
                max: 0,
                failcnt: events("memory.swap.events"),
            };
            Memory { cache: get(&raw, "file"), usage, swap, raw, ..Memory::default() }
        }
    }
}

fn pids(source: Source<'_>) -> Pids {
    match source {
        Source::Nowhere => Pids::default(),
        Source::V1(directory) | Source::V2(directory) => {
            let limit = number(directory, "pids.max");
            Pids { current: number(directory, "pids.current"), limit: if limit == u64::MAX { 0 } else { limit } }
        }
    }
}

fn block_io(source: Source<'_>) -> BlockIo {
    match source {
        Source::Nowhere => BlockIo::default(),
        Source::V1(directory) => {
            // BFQ's own numbers, where it schedules a device of the container's, are the better ones.
            let first = |name: &str| {
                let files = [
                    format!("blkio.bfq.{name}_recursive"),
                    format!("blkio.throttle.{name}_recursive"),
                    format!("blkio.throttle.{name}"),
                ];
                let found = files.iter().map(|file| v1_io(&text(directory, file)));
                found.into_iter().find(|entries| !entries.is_empty()).unwrap_or_default()
            };
            BlockIo {
                io_service_bytes_recursive: first("io_service_bytes"),
                io_serviced_recursive: first("io_serviced"),
            }
        }
        Source::V2(directory) => v2_io(&text(directory, "io.stat")),
    }
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `8:0 Read 4096`; the last line is a total of all.
fn v1_io(text: &str) -> Vec<BlockIoEntry> {
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = device(words.next()?)?;
        Some(BlockIoEntry { major, minor, op: words.next()?.to_owned(), value: words.next()?.parse().ok()? })
    };
    text.lines().filter_map(entry).collect()
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn v2_io(text: &str) -> BlockIo {
    let mut io = BlockIo::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let (list, op) = match name {
                "rbytes" => (&mut io.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut io.io_service_bytes_recursive, "Write"),
                "dbytes" => (&mut io.io_service_bytes_recursive, "Discard"),
                "rios" => (&mut io.io_serviced_recursive, "Read"),
                "wios" => (&mut io.io_serviced_recursive, "Write"),
                "dios" => (&mut io.io_serviced_recursive, "Discard"),
                _ => continue,
            };
            list.push(BlockIoEntry { major, minor, op: op.to_owned(), value });
        }
    }
    io
}

fn huge_pages(source: Source<'_>) -> BTreeMap<String, HugePages> {
    let (directory, suffix) = match source {
        Source::Nowhere => return BTreeMap::new(),
        Source::V1(directory) => (directory, ".usage_in_bytes"),
        Source::V2(directory) => (directory, ".current"),
    };
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let sizes = names.filter_map(|name| {
        let size = name.to_str()?.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.to_owned();
        (!size.contains('.')).then_some(size)
    });
    sizes
        .map(|size| {
            let file = |name: &str| format!("hugetlb.{size}{name}");
            let failcnt = match source {
                Source::V1(_) => number(directory, &file(".failcnt")),
                _ => get(&table(&text(directory, &file(".events"))), "max"),
            };
            let (usage, max) = (number(directory, &file(suffix)), number(directory, &file(".max_usage_in_bytes")));
            (size, HugePages { usage, max, failcnt })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Hierarchy, Version};

    fn stats_of(version: Version, files: &[(&str, &str)]) -> Stats {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let names = ["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb"];
        let controllers = if version == Version::V1 { names.map(str::to_owned).to_vec() } else { Vec::new() };
        let hierarchy = Hierarchy { version, controllers, mount_point: dir.path().to_owned() };
        stats(&CgroupRecord::planned(&[hierarchy], Path::new("")))
    }

    #[test]
    fn v1_is_read() {
        let found = stats_of(
            Version::V1,
            &[
                ("cpu.stat", "nr_periods 7\nnr_throttled 2\nthrottled_time 12345\n"),
                ("cpuacct.usage", "1000\n"),
                ("cpuacct.usage_percpu", "400 600 \n"),
                ("cpuacct.usage_all", "cpu user system\n0 300 100\n1 500 100\n"),
                ("cpuacct.stat", "user 3\nsystem 2\n"),
                ("cpuset.cpus", "0-1,3\n"),
                ("cpuset.sched_relax_domain_level", "-1\n"),
                ("memory.stat", "cache 5\nrss 6\n"),
                ("memory.usage_in_bytes", "11\n"),
                ("memory.limit_in_bytes", "100\n"),
                ("memory.max_usage_in_bytes", "12\n"),
                ("memory.failcnt", "4\n"),
                ("memory.memsw.usage_in_bytes", "13\n"),
                ("pids.current", "3\n"),
                ("pids.max", "max\n"),
                ("blkio.throttle.io_serviced_recursive", "8:0 Read 5\n8:0 Write 6\nTotal 11\n"),
                ("hugetlb.2MB.usage_in_bytes", "9\n"),
                ("hugetlb.2MB.rsvd.usage_in_bytes", "8\n"),
            ],
        );
        assert_eq!(found.cpu.throttling, Throttling { periods: 7, throttled_periods: 2, throttled_time: 12345 });
        assert_eq!(
            (found.cpu.usage.total, found.cpu.usage.kernel, found.cpu.usage.user),
            (1000, 20_000_000, 30_000_000)
        );
        assert_eq!((found.cpu.usage.percpu, found.cpu.usage.percpu_user), (vec![400, 600], vec![300, 500]));
        assert_eq!((found.cpuset.cpus, found.cpuset.sched_relax_domain_level), (vec![0, 1, 3], -1));
        assert_eq!(found.memory.usage, MemoryEntry { limit: 100, usage: 11, max: 12, failcnt: 4 });
        assert_eq!((found.memory.cache, found.memory.swap.usage, found.memory.raw["rss"]), (5, 13, 6));
        assert_eq!(found.pids, Pids { current: 3, limit: 0 });
        let io: Vec<_> = found.blkio.io_serviced_recursive.iter().map(|e| (e.major, e.op.as_str(), e.value)).collect();
        assert_eq!(io, [(8, "Read", 5), (8, "Write", 6)]);
        assert_eq!(found.hugetlb.keys().collect::<Vec<_>>(), ["2MB"]);
        assert_eq!(found.hugetlb["2MB"].usage, 9);
    }

    #[test]
    fn v2_is_read_into_the_same_form() {
        let found = stats_of(
            Version::V2,
            &[
                (
                    "cpu.stat",
                    "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 1\nnr_throttled 1\nthrottled_usec 2\n",
                ),
                ("memory.stat", "anon 6\nfile 5\n"),
                ("memory.current", "11\n"),
                ("memory.max", "100\n"),
                ("memory.swap.current", "2\n"),
                ("memory.swap.max", "max\n"),
                ("memory.events", "low 0\nmax 4\noom_kill 1\n"),
                ("pids.max", "9\n"),
                ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"),
                ("hugetlb.1GB.current", "9\n"),
                ("hugetlb.1GB.events", "max 3\n"),
            ],
        );
        assert_eq!((found.cpu.usage.total, found.cpu.usage.user, found.cpu.usage.kernel), (10_000, 6000, 4000));
        assert_eq!(found.cpu.throttling.throttled_time, 2000);
        assert_eq!(found.memory.usage, MemoryEntry { limit: 100, usage: 11, max: 0, failcnt: 4 });
        assert_eq!((found.memory.swap.usage, found.memory.swap.limit, found.memory.cache), (13, u64::MAX, 5));
        assert_eq!(found.pids.limit, 9);
        let bytes: Vec<_> = found.blkio.io_service_bytes_recursive.iter().map(|e| (e.op.as_str(), e.value)).collect();
        assert_eq!(bytes, [("Read", 1), ("Write", 2), ("Discard", 5)]);
        assert_eq!((found.hugetlb["1GB"].usage, found.hugetlb["1GB"].failcnt), (9, 3));
    }
}
