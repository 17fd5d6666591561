// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What this machine can grant.

use std::cell::OnceCell;
use std::fs;
use std::path::Path;

use stos_runtime::cgroup::limits::Layout;
use stos_runtime::cgroup::{CGROUP_ROOT, Hierarchy, Version};
use stos_runtime::mounted_hierarchies;
use stos_sys::rooted::{CGROUP_MAGIC, CGROUP2_MAGIC};

use crate::error::Result;

/// What this machine can grant, as far as limits of cgroups depend on it. Most is looked for when it is asked for: a container
/// without limits needs to know where its processes are counted, and no more.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    /// Which controllers are where.
    pub(super) layout: Layout,
    pub(super) hierarchies: Vec<Hierarchy>,
    pub(super) cpus: OnceCell<Vec<u32>>,
    pub(super) memory_nodes: OnceCell<Vec<u32>>,
    pub(super) counts_swap: OnceCell<bool>,
}

impl Machine {
    /// Looks at the mounted hierarchies.
    pub(super) fn probe() -> Result<Self> {
        let hierarchies = mounted_hierarchies()?;
        Ok(Self { layout: Layout::of(&hierarchies), hierarchies, ..Self::default() })
    }

    /// The processors that a container can have.
    pub(super) fn cpus(&self) -> &[u32] {
        self.cpus.get_or_init(|| set(&self.hierarchies, "cpus", "/sys/devices/system/cpu/online"))
    }

    /// The memory nodes that a container can have.
    pub(super) fn memory_nodes(&self) -> &[u32] {
        self.memory_nodes.get_or_init(|| set(&self.hierarchies, "mems", "/sys/devices/system/node/online"))
    }

    /// Whether the kernel counts what a container has in swap.
    pub(super) fn counts_swap(&self) -> bool {
        *self.counts_swap.get_or_init(|| counts_swap(&self.hierarchies))
    }

    /// Whether any hierarchy has the controller, which has the same name in v1 and v2.
    pub(super) fn has(&self, controller: &str) -> bool {
        let is_it = |name: &String| name == controller;
        self.layout.v1.iter().any(is_it) || self.layout.v2.iter().flatten().any(is_it)
    }
}

/// Whether this machine counts processes. Where hierarchies usually are two calls tell, without a look at the table of all mounts,
/// which is long where many containers run.
pub(super) fn counts_processes() -> Result<bool> {
    let is = |path: &Path, magic| rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == magic);
    let root = Path::new(CGROUP_ROOT);
    let has_pids = |list: String| list.split_whitespace().any(|name| name == "pids");
    if is(&root.join("pids"), CGROUP_MAGIC)
        || is(root, CGROUP2_MAGIC) && fs::read_to_string(root.join("cgroup.controllers")).is_ok_and(has_pids)
    {
        return Ok(true);
    }
    Ok(Machine::probe()?.has("pids"))
}

fn of_v1<'a>(hierarchies: &'a [Hierarchy], controller: &str) -> Option<&'a Hierarchy> {
    let has = |hierarchy: &&Hierarchy| {
        hierarchy.version == Version::V1 && hierarchy.controllers.iter().any(|name| name == controller)
    };
    hierarchies.iter().find(has)
}

/// The members of the topmost cpuset, or what the kernel has at all. A machine without nodes has node 0.
fn set(hierarchies: &[Hierarchy], name: &str, online: &str) -> Vec<u32> {
    let read = |path: &Path| fs::read_to_string(path).ok().and_then(|text| parse_list(text.trim()));
    let v1 = of_v1(hierarchies, "cpuset").map(|found| found.mount_point.join(format!("cpuset.{name}")));
    let v2 = hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2);
    let v2 = v2.map(|found| found.mount_point.join(format!("cpuset.{name}.effective")));
    let found = v1.and_then(|path| read(&path)).or_else(|| v2.and_then(|path| read(&path)));
    found.filter(|found| !found.is_empty()).or_else(|| read(Path::new(online))).unwrap_or_else(|| vec![0])
}

/// v1 has the file where it counts swap (cgroup-v1/memory.rst, "Memory+swap"); v2 counts it wherever the kernel has any, and then
/// there is `/proc/swaps`.
fn counts_swap(hierarchies: &[Hierarchy]) -> bool {
    match of_v1(hierarchies, "memory") {
        Some(memory) => memory.mount_point.join("memory.memsw.limit_in_bytes").exists(),
        None => Path::new("/proc/swaps").exists(),
    }
}

/// The largest number that a list is read for: more processors than Linux can have.
const NUMBER_MAX: u32 = 65_535;

/// Reads `0-2,4` (cpuset(7), "List format"); `None` where it is none.
pub(super) fn parse_list(text: &str) -> Option<Vec<u32>> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| is_number && *number <= NUMBER_MAX)
    };
    let mut found = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        found.extend(first..=last);
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

/// Writes numbers, sorted, as a list.
pub(super) fn show_list(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let shown =
        ranges.iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, numbers) in [("0", vec![0]), ("0-2,4", vec![0, 1, 2, 4]), ("4,0,0", vec![0, 4])] {
            assert_eq!(parse_list(text), Some(numbers));
        }
        for text in ["", "x", "2-1", "1,", "-1", "+1", "0-4294967295"] {
            assert_eq!(parse_list(text), None, "{text}");
        }
        assert_eq!(show_list(&[0, 1, 2, 4, 6, 7]), "0-2,4,6-7");
    }

    #[test]
    fn this_machine_has_a_processor_and_a_node() {
        let machine = Machine::probe().unwrap();
        assert!(!machine.cpus().is_empty() && !machine.memory_nodes().is_empty());
        assert!(!machine.has("no-such-controller"));
        assert_eq!(counts_processes().unwrap(), machine.has("pids"));
    }
}
