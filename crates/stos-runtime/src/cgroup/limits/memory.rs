// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `linux.resources.memory`.
//!
//! v1: Documentation/admin-guide/cgroup-v1/memory.rst. v2: cgroup-v2.rst, where swap is counted by itself.

use oci_spec::runtime::LinuxMemory;

use super::{Controller, Group, Layout, LimitError, Step, key};

/// -1, 0 or a size.
fn checked(name: &str, value: Option<i64>) -> Step<Option<i64>> {
    match value.filter(|value| *value != 0) {
        Some(value) if value < -1 => Err(LimitError::invalid(&key(name), "bytes, or -1 for no limit", value)),
        value => Ok(value),
    }
}

pub(super) fn plan(asked: &LinuxMemory, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    limits(asked, layout, groups)?;
    if let Some(value) = asked.swappiness() {
        let name = key("memory.swappiness");
        let memory = Controller::find(layout, &name, "memory", Some("memory"))?;
        if value > 100 {
            return Err(LimitError::invalid(&name, "0 to 100", value));
        }
        if memory.is_v2() {
            return Err(memory.not_here(&name));
        }
        groups.push(vec![memory.write(&name, "memory.swappiness", value)]);
    }
    if asked.disable_oom_killer() == Some(true) {
        let name = key("memory.disableOOMKiller");
        let memory = Controller::find(layout, &name, "memory", Some("memory"))?;
        if memory.is_v2() {
            return Err(memory.not_here(&name));
        }
        groups.push(vec![memory.write(&name, "memory.oom_control", 1)]);
    }
    if asked.use_hierarchy() == Some(true) {
        let name = key("memory.useHierarchy");
        let memory = Controller::find(layout, &name, "memory", Some("memory"))?;
        if !memory.is_v2() {
            // Linux 5.11 knows nothing else, and takes the 1.
            groups.push(vec![memory.write(&name, "memory.use_hierarchy", 1)]);
        }
    }
    if asked.kernel().is_some_and(|value| value != 0) {
        // runc has ignored it since 1.0 (its libcontainer/cgroups/fs/memory.go), Linux since 5.16.
        tracing::warn!("linux.resources.memory.kernel has no effect: no kernel limits its own memory any more");
    }
    Ok(())
}

/// The limits that depend on each other.
fn limits(asked: &LinuxMemory, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    let limit = checked("memory.limit", asked.limit())?;
    let swap = checked("memory.swap", asked.swap())?;
    let reservation = checked("memory.reservation", asked.reservation())?;
    let tcp = checked("memory.kernelTCP", asked.kernel_tcp())?;
    let names = [("limit", limit), ("swap", swap), ("reservation", reservation), ("kernelTCP", tcp)];
    let Some((first, _)) = names.iter().find(|(_, value)| value.is_some()) else { return Ok(()) };
    let memory = Controller::find(layout, &key(&format!("memory.{first}")), "memory", Some("memory"))?;
    let [limit_key, swap_key, reservation_key, tcp_key] =
        ["limit", "swap", "reservation", "kernelTCP"].map(|name| key(&format!("memory.{name}")));
    let mut group = Group::new();
    if memory.is_v2() {
        if tcp.is_some() {
            return Err(memory.not_here(&tcp_key));
        }
        let checks = asked.check_before_update() == Some(true);
        if let Some(swap) = swap_without_memory(swap, limit)? {
            let mut write = memory.write(&swap_key, "memory.swap.max", max(swap));
            // Without swap there is none to be limited: all of it, or nothing, is what it has.
            write.is_optional = swap <= 0;
            write.at_least = (checks && swap >= 0).then_some("memory.swap.current");
            group.push(write);
        }
        if let Some(limit) = limit {
            let mut write = memory.write(&limit_key, "memory.max", max(limit));
            write.at_least = (checks && limit > 0).then_some("memory.current");
            group.push(write);
        }
        if let Some(reservation) = reservation {
            group.push(memory.write(&reservation_key, "memory.low", max(reservation)));
        }
    } else {
        if let Some(limit) = limit {
            group.push(memory.write(&limit_key, "memory.limit_in_bytes", limit));
        }
        // No limit of memory is none of memory and swap either, where the kernel counts swap at all.
        if let Some(total) = swap.or((limit == Some(-1)).then_some(-1)) {
            let mut write = memory.write(&swap_key, "memory.memsw.limit_in_bytes", total);
            write.is_optional = swap.is_none();
            group.push(write);
        }
        if let Some(reservation) = reservation {
            group.push(memory.write(&reservation_key, "memory.soft_limit_in_bytes", reservation));
        }
        if let Some(tcp) = tcp {
            group.push(memory.write(&tcp_key, "memory.kmem.tcp.limit_in_bytes", tcp));
        }
    }
    groups.push(group);
    Ok(())
}

fn max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// The specification's swap is memory and swap together, v2's is swap alone.
fn swap_without_memory(swap: Option<i64>, limit: Option<i64>) -> Step<Option<i64>> {
    let invalid = |expected| Err(LimitError::invalid(&key("memory.swap"), expected, swap));
    match (swap, limit) {
        (None, Some(-1)) => Ok(Some(-1)),
        (None | Some(-1), _) | (_, Some(-1)) => Ok(swap),
        (Some(_), None) => invalid("a memory.limit beside it"),
        (Some(swap), Some(limit)) if swap < limit => invalid("at least memory.limit"),
        (Some(swap), Some(limit)) => Ok(Some(swap - limit)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{planned, v1, v2};

    fn both(memory: Value) -> (String, String) {
        let resources = json!({"memory": memory});
        (planned(&v1(), resources.clone()), planned(&v2(), resources))
    }

    #[test]
    fn limits_are_converted_as_runc_has_it() {
        let cases = [
            (json!({"limit": 100}), "memory.limit_in_bytes=100", "memory.max=100"),
            (
                json!({"limit": -1}),
                "memory.limit_in_bytes=-1 & memory.memsw.limit_in_bytes=-1",
                "memory.swap.max=max & memory.max=max",
            ),
            (
                json!({"limit": 100, "swap": 150}),
                "memory.limit_in_bytes=100 & memory.memsw.limit_in_bytes=150",
                "memory.swap.max=50 & memory.max=100",
            ),
            (
                json!({"limit": 100, "swap": 100}),
                "memory.limit_in_bytes=100 & memory.memsw.limit_in_bytes=100",
                "memory.swap.max=0 & memory.max=100",
            ),
            (json!({"swap": -1}), "memory.memsw.limit_in_bytes=-1", "memory.swap.max=max"),
            (json!({"reservation": 7}), "memory.soft_limit_in_bytes=7", "memory.low=7"),
            (json!({"reservation": -1}), "memory.soft_limit_in_bytes=-1", "memory.low=max"),
            (json!({"useHierarchy": true}), "memory.use_hierarchy=1", ""),
            (json!({"kernel": 1}), "", ""),
            (
                json!({"kernelTCP": 9}),
                "memory.kmem.tcp.limit_in_bytes=9",
                "linux.resources.memory.kernelTCP: cgroup v2 has no such limit",
            ),
            (
                json!({"swappiness": 60}),
                "memory.swappiness=60",
                "linux.resources.memory.swappiness: cgroup v2 has no such limit",
            ),
            (
                json!({"disableOOMKiller": true}),
                "memory.oom_control=1",
                "linux.resources.memory.disableOOMKiller: cgroup v2 has no such limit",
            ),
        ];
        for (asked, on_v1, on_v2) in cases {
            assert_eq!(both(asked), (on_v1.to_owned(), on_v2.to_owned()));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let (_, refused) = both(json!({"limit": 100, "swap": 99}));
        assert_eq!(refused, "linux.resources.memory.swap: expected at least memory.limit, found Some(99)");
        let (_, refused) = both(json!({"swap": 99}));
        assert!(refused.contains("a memory.limit beside it"), "{refused}");
        let (refused, _) = both(json!({"limit": -2}));
        assert!(refused.starts_with("linux.resources.memory.limit: expected"), "{refused}");
        let (refused, _) = both(json!({"swappiness": 101}));
        assert!(refused.contains("0 to 100"), "{refused}");
    }
}
