// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `linux.resources.cpu`: shares of time, and which processors.
//!
//! v1: Documentation/scheduler/sched-bwc.rst, sched-rt-group.rst and cgroup-v1/cpusets.rst. v2: cgroup-v2.rst.

use oci_spec::runtime::LinuxCpu;

use super::{Controller, Group, Layout, LimitError, Step, Write, key};

/// The kernel's own period, in microseconds (cgroup-v2.rst, `cpu.max`).
const PERIOD: u64 = 100_000;

/// Shares of v1, 2 to 262,144 with 1,024 by default, as weights of v2, 1 to 10,000 with 100 by default: a curve through all three
/// points (opencontainers/runc pull request 4785, containers/crun issue 1721).
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

fn cpu_key(name: &str) -> String {
    key(&format!("cpu.{name}"))
}

pub(super) fn plan(asked: &LinuxCpu, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    let find = |name: &str| Controller::find(layout, &cpu_key(name), "cpu", Some("cpu"));
    let is_idle = asked.idle();
    let idle = |value: i64| -> Step<Write> { Ok(find("idle")?.write(&cpu_key("idle"), "cpu.idle", value)) };
    let shares = asked.shares().filter(|shares| *shares != 0);
    // An idle cgroup takes no weight: idle goes before the shares where it is put off, and after them where it is put on.
    if let Some(off @ 0) = is_idle {
        groups.push(vec![idle(off)?]);
    }
    if let Some(shares) = shares {
        let cpu = find("shares")?;
        let name = cpu_key("shares");
        if cpu.is_v2() {
            groups.push(vec![cpu.write(&name, "cpu.weight", weight_of_shares(shares))]);
        } else {
            let mut write = cpu.write(&name, "cpu.shares", shares);
            write.is_clamped = true;
            groups.push(vec![write]);
        }
    }
    match is_idle {
        None | Some(0) => {}
        Some(on @ 1) => groups.push(vec![idle(on)?]),
        Some(other) => return Err(LimitError::invalid(&cpu_key("idle"), "0 or 1", other)),
    }
    bandwidth(asked, layout, groups)?;
    realtime(asked, layout, groups)
}

fn bandwidth(asked: &LinuxCpu, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    let quota = asked.quota().filter(|quota| *quota != 0);
    if let Some(refused) = quota.filter(|quota| *quota < -1) {
        return Err(LimitError::invalid(&cpu_key("quota"), "microseconds, or -1 for no limit", refused));
    }
    let period = asked.period().filter(|period| *period != 0);
    let burst = asked.burst();
    let given = [("quota", quota.is_some()), ("period", period.is_some()), ("burst", burst.is_some())];
    let Some((first, _)) = given.iter().find(|(_, given)| *given) else { return Ok(()) };
    let cpu = Controller::find(layout, &cpu_key(first), "cpu", Some("cpu"))?;
    let mut group = Group::new();
    if cpu.is_v2() {
        if quota.is_some() || period.is_some() {
            let quota = quota.filter(|quota| *quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
            let text = format!("{quota} {}", period.unwrap_or(PERIOD));
            group.push(cpu.write(&cpu_key(first), "cpu.max", text));
        }
        group.extend(burst.map(|burst| cpu.write(&cpu_key("burst"), "cpu.max.burst", burst)));
    } else {
        group.extend(period.map(|period| cpu.write(&cpu_key("period"), "cpu.cfs_period_us", period)));
        group.extend(quota.map(|quota| cpu.write(&cpu_key("quota"), "cpu.cfs_quota_us", quota)));
        group.extend(burst.map(|burst| cpu.write(&cpu_key("burst"), "cpu.cfs_burst_us", burst)));
    }
    groups.push(group);
    Ok(())
}

fn realtime(asked: &LinuxCpu, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    let period = asked.realtime_period().filter(|period| *period != 0);
    let runtime = asked.realtime_runtime().filter(|runtime| *runtime != 0);
    let mut group = Group::new();
    let mut add = |name: &str, file: &str, text: String| -> Step {
        let name = cpu_key(name);
        let cpu = Controller::find(layout, &name, "cpu", Some("cpu"))?;
        if cpu.is_v2() {
            return Err(cpu.not_here(&name));
        }
        group.push(cpu.write(&name, file, text));
        Ok(())
    };
    if let Some(period) = period {
        add("realtimePeriod", "cpu.rt_period_us", period.to_string())?;
    }
    if let Some(runtime) = runtime {
        add("realtimeRuntime", "cpu.rt_runtime_us", runtime.to_string())?;
    }
    groups.push(group);
    Ok(())
}

/// `cpus` and `mems`.
pub(super) fn plan_sets(asked: &LinuxCpu, layout: &Layout, groups: &mut Vec<Group>) -> Step {
    let sets = [("cpus", "cpuset.cpus", asked.cpus()), ("mems", "cpuset.mems", asked.mems())];
    for (name, file, value) in sets {
        let Some(list) = value.as_deref().filter(|list| !list.is_empty()) else { continue };
        let set = Controller::find(layout, &cpu_key(name), "cpuset", Some("cpuset"))?;
        groups.push(vec![set.write(&cpu_key(name), file, list)]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{planned, v1, v2};
    use super::weight_of_shares;

    #[test]
    fn shares_become_weights_through_three_points() {
        let pairs = [(1, 1), (2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262_143, 10_000), (262_144, 10_000)];
        for (shares, weight) in pairs {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert_eq!(weight_of_shares(u64::MAX), 10_000);
    }

    #[test]
    fn time_is_converted_as_runc_has_it() {
        let none = "has no such limit";
        let cases: [(Value, &str, &str); 10] = [
            (json!({"shares": 1024}), "cpu.shares=1024", "cpu.weight=100"),
            (json!({"shares": 1024, "idle": 0}), "cpu.idle=0; cpu.shares=1024", "cpu.idle=0; cpu.weight=100"),
            (json!({"shares": 1024, "idle": 1}), "cpu.shares=1024; cpu.idle=1", "cpu.weight=100; cpu.idle=1"),
            (json!({"quota": 50_000}), "cpu.cfs_quota_us=50000", "cpu.max=50000 100000"),
            (json!({"quota": -1}), "cpu.cfs_quota_us=-1", "cpu.max=max 100000"),
            (json!({"period": 20_000}), "cpu.cfs_period_us=20000", "cpu.max=max 20000"),
            (
                json!({"quota": 10_000, "period": 20_000, "burst": 0}),
                "cpu.cfs_period_us=20000 & cpu.cfs_quota_us=10000 & cpu.cfs_burst_us=0",
                "cpu.max=10000 20000 & cpu.max.burst=0",
            ),
            (json!({"realtimeRuntime": 1, "realtimePeriod": 2}), "cpu.rt_period_us=2 & cpu.rt_runtime_us=1", none),
            (json!({"cpus": "0-1", "mems": "0"}), "cpuset.cpus=0-1; cpuset.mems=0", "cpuset.cpus=0-1; cpuset.mems=0"),
            (json!({"idle": 2}), "linux.resources.cpu.idle: expected 0 or 1, found 2", "found 2"),
        ];
        for (cpu, on_v1, on_v2) in cases {
            let resources = json!({"cpu": cpu});
            assert_eq!(planned(&v1(), resources.clone()), on_v1);
            let found = planned(&v2(), resources);
            assert!(found == on_v2 || (found.starts_with("linux.resources") && found.ends_with(on_v2)), "{found}");
        }
        assert!(planned(&v1(), json!({"cpu": {"quota": -2}})).starts_with("linux.resources.cpu.quota: expected"));
    }
}
