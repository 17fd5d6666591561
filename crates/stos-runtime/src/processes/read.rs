// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process as `/proc` shows it (proc_pid_stat(5), proc_pid_status(5)).

use std::fs;

/// What is read of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number in our own pid namespace.
    pub(crate) pid: i32,
    /// Its number in ours, and in each namespace below.
    pub(crate) ns_pids: Vec<i32>,
    /// The same of its parent; empty where that is not to be seen.
    pub(crate) ns_parents: Vec<i32>,
    /// The same of its process group.
    pub(crate) ns_groups: Vec<i32>,
    /// What it is called.
    pub(crate) comm: String,
    /// Its command with its arguments; empty for one that has ended.
    pub(crate) args: String,
    /// One letter.
    pub(crate) state: String,
    /// Its terminal's device number; 0 for none.
    pub(crate) tty: u32,
    /// Ticks of processor time.
    pub(crate) cpu_ticks: u64,
    /// How nice it is.
    pub(crate) nice: i64,
    /// When it started, in ticks since the boot.
    pub(crate) start_time: u64,
    /// KiB of address space.
    pub(crate) vsz: u64,
    /// KiB of memory.
    pub(crate) rss: u64,
    /// Real and effective user, as we see them.
    pub(crate) users: [u32; 2],
    /// Real and effective group.
    pub(crate) groups: [u32; 2],
    /// Further groups.
    pub(crate) more_groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub(crate) capabilities: [u64; 5],
    /// `Seccomp` of its status.
    pub(crate) seccomp: u64,
}

impl Process {
    /// Reads the process `pid`; `None` where there is none any more.
    pub(crate) fn read(pid: i32) -> Option<Self> {
        // Names and arguments are any bytes.
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).ok();
        let text = |file: &str| read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let status = text("status")?;
        let mut process = Self::parse(pid, &text("stat")?, &status)?;
        let args = read("cmdline").unwrap_or_default();
        let args: Vec<_> = args.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        process.args = args.join(" ").trim_end().to_owned();
        let parent = line_of(&status, "PPid").and_then(|text| text.parse::<i32>().ok());
        process.ns_parents = parent.filter(|parent| *parent != 0).map(parents).unwrap_or_default();
        Some(process)
    }

    fn parse(pid: i32, stat: &str, status: &str) -> Option<Self> {
        // The name may hold parentheses and blanks: the last parenthesis ends it.
        let (name, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // `fields` begins with field 3.
        let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<i64>().ok());
        let unsigned = |field: usize| number(field).and_then(|number| u64::try_from(number).ok());
        let line = |key: &str| line_of(status, key);
        let list = |key: &str| numbers::<i32>(line(key).unwrap_or_default());
        let mask = |key: &str| line(key).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        let pair = |key: &str| {
            let ids = numbers::<u32>(line(key).unwrap_or_default());
            Some([*ids.first()?, *ids.get(1)?])
        };
        let kibibytes =
            |key: &str| line(key).and_then(|text| text.strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0);
        Some(Self {
            pid,
            ns_pids: list("NSpid"),
            ns_parents: Vec::new(),
            ns_groups: list("NSpgid"),
            comm: name.split_once('(')?.1.to_owned(),
            args: String::new(),
            state: (*fields.first()?).to_owned(),
            // Field 7 is signed, and its bits are a device number.
            tty: u32::try_from(number(7)? & 0xffff_ffff).ok()?,
            cpu_ticks: unsigned(14)? + unsigned(15)?,
            nice: number(19)?,
            start_time: unsigned(22)?,
            vsz: kibibytes("VmSize"),
            rss: kibibytes("VmRSS"),
            users: pair("Uid")?,
            groups: pair("Gid")?,
            more_groups: numbers(line("Groups").unwrap_or_default()),
            capabilities: ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(mask),
            seccomp: line("Seccomp").and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    }
}

/// What a `status` file says of `key`.
fn line_of<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim))
}

fn numbers<T: std::str::FromStr>(text: &str) -> Vec<T> {
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// The numbers of a process in each pid namespace from ours on down.
fn parents(pid: i32) -> Vec<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    line_of(&status, "NSpid").map(numbers).unwrap_or_default()
}

/// How a user namespace sees ids (user_namespaces(7)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IdMap {
    /// The first id inside, the first as we see it, and how many.
    ranges: Vec<[u64; 3]>,
}

impl IdMap {
    /// What ids are seen as that a namespace has no name for (`overflowuid`, by default).
    const UNMAPPED: u32 = 65_534;

    pub(crate) fn read(pid: i32, file: &str) -> Self {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        Self { ranges: text.lines().filter_map(|line| numbers::<u64>(line).try_into().ok()).collect() }
    }

    /// What the namespace calls an id of ours.
    pub(crate) fn inside(&self, id: u32) -> u32 {
        let found = self.ranges.iter().find_map(|[inside, outside, count]| {
            let offset = u64::from(id).checked_sub(*outside).filter(|offset| offset < count)?;
            u32::try_from(inside + offset).ok()
        });
        found.unwrap_or(Self::UNMAPPED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "42 (a) S (b) R 7 40 40 34817 40 4194560 1 0 0 0 150 50 0 0 20 5 1 0 4711 1000 200\n";
        let status = "Name:\ta) S (b\nPPid:\t7\nUid:\t1000\t1001\t1000\t1000\nGid:\t5\t6\t5\t5\nGroups:\t8 9 \nNSpid:\t42\t3\n\
                      NSpgid:\t40\t1\nVmSize:\t    2268 kB\nVmRSS:\t 99 kB\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n";
        let process = Process::parse(42, stat, status).unwrap();
        assert_eq!((process.comm.as_str(), process.state.as_str(), process.tty), ("a) S (b", "R", 34_817));
        assert_eq!((process.cpu_ticks, process.nice, process.start_time), (200, 5, 4711));
        assert_eq!((process.ns_pids, process.ns_groups), (vec![42, 3], vec![40, 1]));
        assert_eq!((process.users, process.groups, process.more_groups), ([1000, 1001], [5, 6], vec![8, 9]));
        assert_eq!((process.vsz, process.rss, process.capabilities[2], process.seccomp), (2268, 99, 0xa804_25fb, 2));
        assert_eq!(Process::parse(42, "42 (x", status), None);
        assert_eq!(Process::read(i32::MAX), None);
    }

    #[test]
    fn ids_are_those_of_the_namespace() {
        let map = IdMap::parse("         0     100000      65536\n     70000          5          1\n");
        assert_eq!([100_000, 100_033, 5, 165_536].map(|id| map.inside(id)), [0, 33, 70_000, IdMap::UNMAPPED]);
        assert_eq!(IdMap::parse("0 0 4294967295").inside(1000), 1000);
    }
}
