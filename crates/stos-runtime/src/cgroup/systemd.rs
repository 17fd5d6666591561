// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container as a unit of systemd's: its name, where its cgroup is, and the properties that its limits become.
//!
//! Pure: the rules are runc's (opencontainers/runc, `docs/systemd.md`) and systemd.slice(5)'s, the properties those of
//! org.freedesktop.systemd1(5). Nothing here speaks to a manager: `scope` does.

use std::path::PathBuf;

use super::Version;
use super::limits::{Group, LimitError, Write};
pub use crate::dbus::Value;

/// The slice of a container that names none.
const DEFAULT_SLICE: &str = "system.slice";

/// The key that names a unit.
const KEY: &str = "linux.cgroupsPath";

/// The unit that a container becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name: `PREFIX-NAME.scope`.
    pub name: String,
    /// The slice that it is in; `-.slice` is the root.
    pub slice: String,
}

impl Unit {
    /// Reads `linux.cgroupsPath`, `SLICE:PREFIX:NAME`; an empty one is `:stos:ID`.
    pub fn parse(cgroups_path: &str, id: &str) -> Result<Self, LimitError> {
        let invalid = |expected| Err(LimitError::invalid(KEY, expected, cgroups_path));
        let parts: Vec<&str> = match cgroups_path {
            "" => vec!["", "stos", id],
            path => path.split(':').collect(),
        };
        let [slice, prefix, name] = parts[..] else { return invalid("SLICE:PREFIX:NAME") };
        if name.is_empty() || parts.iter().any(|part| part.contains(['/', '\0'])) {
            return invalid("a slice and a name without slashes");
        }
        let slice = match slice {
            "" => DEFAULT_SLICE,
            "-" => "-.slice",
            other => other,
        };
        if name.ends_with(".slice") {
            // A slice holds units, and no processes.
            return invalid("a scope: a name without .slice");
        }
        let name = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
        if slice_path(slice).is_none() {
            return invalid("a slice as systemd.slice(5) names it");
        }
        Ok(Self { name, slice: slice.to_owned() })
    }

    /// Where its cgroup is, below the root of a hierarchy.
    pub fn cgroup(&self) -> PathBuf {
        slice_path(&self.slice).unwrap_or_default().join(&self.name)
    }

    /// What the unit is started with, beside its limits: it holds `pid`, everything is counted, its cgroups below are the container's
    /// own, and it goes when it is empty. `manager` is systemd's version.
    pub fn properties(&self, id: &str, pid: u32, version: Version, manager: u32) -> Vec<(&'static str, Value)> {
        let io = if version == Version::V1 { "BlockIOAccounting" } else { "IOAccounting" };
        let mut properties = vec![
            ("Description", Value::Text(format!("stos container {id}"))),
            ("Slice", Value::Text(self.slice.clone())),
            ("Delegate", Value::Bool(true)),
            ("PIDs", Value::Pids(vec![pid])),
            ("DefaultDependencies", Value::Bool(false)),
            ("CPUAccounting", Value::Bool(true)),
            (io, Value::Bool(true)),
            ("MemoryAccounting", Value::Bool(true)),
            ("TasksAccounting", Value::Bool(true)),
        ];
        if manager >= 236 {
            properties.push(("CollectMode", Value::Text("inactive-or-failed".to_owned())));
        }
        properties
    }
}

/// `a-b.slice` is in `a.slice`: each dash is a level. `None` where it is no slice's name.
fn slice_path(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    if name.contains('/') || name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Some(ends.map(|end| format!("{}.slice", &name[..end])).collect())
}

/// What of planned limits the manager of this version can be told; it would else set them back whenever it looks at the unit. What
/// it knows no property for is written into the files alone, as the rest is too.
pub fn limit_properties(groups: &[Group], manager: u32) -> Vec<(&'static str, Value)> {
    let mut properties: Vec<(&'static str, Value)> = Vec::new();
    let (mut quota, mut period) = (None, None);
    for write in groups.iter().flatten() {
        let Some((file, text)) = write.forms.first() else { continue };
        match (file.as_str(), text.split_once(' ')) {
            ("cpu.max", Some((asked, length))) => (quota, period) = (number(asked), length.parse().ok()),
            ("cpu.cfs_quota_us", _) => quota = number(text),
            ("cpu.cfs_period_us", _) => period = text.parse().ok(),
            // Before v252 no unit can be idle, and any weight would end that.
            ("cpu.idle", _) if text == "1" => {
                properties.retain(|(name, _)| *name != "CPUWeight");
                properties.extend((manager >= 252).then_some(("CPUWeight", Value::Number(0))));
            }
            _ => properties.extend(property(write, file, text, manager)),
        }
    }
    if quota.is_some() || period.is_some() {
        properties
            .extend(period.filter(|_| manager >= 242).map(|period| ("CPUQuotaPeriodUSec", Value::Number(period))));
        properties.push(("CPUQuotaPerSecUSec", Value::Number(quota_a_second(quota, period))));
    }
    properties
}

fn property(write: &Write, file: &str, text: &str, manager: u32) -> Option<(&'static str, Value)> {
    let name = match (file, write.version) {
        ("memory.limit_in_bytes", Version::V1) => "MemoryLimit",
        ("memory.max", Version::V2) => "MemoryMax",
        ("memory.low", Version::V2) => "MemoryLow",
        ("memory.min", Version::V2) => "MemoryMin",
        ("memory.high", Version::V2) => "MemoryHigh",
        ("memory.swap.max", Version::V2) => "MemorySwapMax",
        ("cpu.shares", Version::V1) => "CPUShares",
        ("cpu.weight", Version::V2) => "CPUWeight",
        ("blkio.weight", Version::V1) => "BlockIOWeight",
        ("pids.max", _) => "TasksMax",
        ("cpuset.cpus", _) if manager >= 244 => return Some(("AllowedCPUs", Value::Set(set(text)?))),
        ("cpuset.mems", _) if manager >= 244 => return Some(("AllowedMemoryNodes", Value::Set(set(text)?))),
        _ => return None,
    };
    Some((name, Value::Number(number(text)?)))
}

/// A number of a control file; no limit is the greatest.
fn number(text: &str) -> Option<u64> {
    match text {
        "max" | "-1" => Some(u64::MAX),
        digits => digits.parse().ok(),
    }
}

/// Microseconds of a quota in a second. systemd rounds to 10 ms; up, so that the container never has less than it was given.
fn quota_a_second(quota: Option<u64>, period: Option<u64>) -> u64 {
    const STEP: u64 = 10_000;
    match quota {
        None | Some(u64::MAX) => u64::MAX,
        Some(quota) => {
            let a_second = quota.saturating_mul(1_000_000) / period.filter(|period| *period > 0).unwrap_or(100_000);
            a_second.div_ceil(STEP) * STEP
        }
    }
}

/// `0-2,4` as bits. `None` where it is no such list, or names a number that no machine has.
fn set(list: &str) -> Option<Vec<u8>> {
    const MOST: usize = 1 << 16;
    let mut bytes = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        for member in first..=last {
            if bytes.len() <= member / 8 {
                bytes.resize(member / 8 + 1, 0);
            }
            bytes[member / 8] |= 1 << (member % 8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::limits::{Layout, plan};
    use super::*;

    #[test]
    fn units_are_named_and_placed_as_runc_has_it() {
        for (path, name, cgroup) in [
            ("", "stos-c1.scope", "system.slice/stos-c1.scope"),
            (":runc:x", "runc-x.scope", "system.slice/runc-x.scope"),
            ("::x", "x.scope", "system.slice/x.scope"),
            ("-:p:x", "p-x.scope", "p-x.scope"),
            ("user-1000.slice:p:x", "p-x.scope", "user.slice/user-1000.slice/p-x.scope"),
            ("a-b-c.slice:p:x", "p-x.scope", "a.slice/a-b.slice/a-b-c.slice/p-x.scope"),
        ] {
            let unit = Unit::parse(path, "c1").unwrap();
            assert_eq!((unit.name.as_str(), unit.cgroup()), (name, PathBuf::from(cgroup)), "{path}");
        }
        for path in [
            "/a/b",
            "a.slice:x",
            "a.slice:b:c:d",
            "a.slice:p:",
            "a.slice/b.slice:p:x",
            "a--b.slice:p:x",
            "-a.slice:p:x",
            "a:p:x",
            "::../x",
            "machine.slice::pod.slice",
        ] {
            let refused = Unit::parse(path, "c1").unwrap_err().to_string();
            assert!(refused.starts_with("linux.cgroupsPath: expected"), "{refused}");
        }
    }

    #[test]
    fn a_scope_is_in_a_slice_and_holds_the_process() {
        let unit = Unit::parse("", "c1").unwrap();
        let scope = unit.properties("c1", 7, Version::V2, 252);
        for expected in [
            ("Slice", Value::Text("system.slice".into())),
            ("Delegate", Value::Bool(true)),
            ("PIDs", Value::Pids(vec![7])),
            ("IOAccounting", Value::Bool(true)),
            ("CollectMode", Value::Text("inactive-or-failed".into())),
        ] {
            assert!(scope.contains(&expected), "{expected:?}");
        }
        let old = unit.properties("c1", 7, Version::V1, 235);
        assert!(old.contains(&("BlockIOAccounting", Value::Bool(true))));
        assert!(old.iter().all(|(name, _)| *name != "CollectMode"));
    }

    #[test]
    fn limits_become_the_properties_that_the_manager_knows() {
        let names = ["cpuset", "cpu", "memory", "pids", "blkio", "io"].map(str::to_owned).to_vec();
        let v1 = Layout { v1: names.clone(), v2: None };
        let v2 = Layout { v1: Vec::new(), v2: Some(names) };
        let told = |layout: &Layout, resources: serde_json::Value, manager| {
            limit_properties(&plan(&serde_json::from_value(resources).unwrap(), layout).unwrap(), manager)
        };
        let asked = json!({
            "memory": {"limit": 100, "swap": 150, "reservation": 7},
            "cpu": {"shares": 1024, "quota": 25_001, "period": 50_000, "cpus": "0-2,9", "mems": "0"},
            "pids": {"limit": -1}, "blockIO": {"weight": 10}
        });
        let number = Value::Number;
        let sets = [("AllowedCPUs", Value::Set(vec![0b111, 0b10])), ("AllowedMemoryNodes", Value::Set(vec![1]))];
        let quota = [("CPUQuotaPeriodUSec", number(50_000)), ("CPUQuotaPerSecUSec", number(510_000))];
        let on_v2 = [
            ("MemorySwapMax", number(50)),
            ("MemoryMax", number(100)),
            ("MemoryLow", number(7)),
            ("CPUWeight", number(100)),
            sets[0].clone(),
            sets[1].clone(),
            ("TasksMax", number(u64::MAX)),
            quota[0].clone(),
            quota[1].clone(),
        ];
        assert_eq!(told(&v2, asked.clone(), 250), on_v2);
        let on_v1 = [
            ("MemoryLimit", number(100)),
            ("CPUShares", number(1024)),
            ("TasksMax", number(u64::MAX)),
            ("BlockIOWeight", number(10)),
            quota[1].clone(),
        ];
        assert_eq!(told(&v1, asked, 241), on_v1);
        let unlimited = json!({"cpu": {"quota": -1}});
        assert_eq!(told(&v1, unlimited, 250), [("CPUQuotaPerSecUSec", number(u64::MAX))]);
        let idle = json!({"cpu": {"shares": 5, "idle": 1}});
        assert_eq!(told(&v2, idle.clone(), 252), [("CPUWeight", number(0))]);
        assert_eq!(told(&v2, idle, 251), []);
        let unified = json!({"unified": {"memory.high": "5", "memory.min": "4", "cgroup.max.depth": "3"}});
        assert_eq!(told(&v2, unified, 250), [("MemoryHigh", number(5)), ("MemoryMin", number(4))]);
        assert_eq!(set("9-1"), None);
        assert_eq!(set("0-99999999"), None);
    }
}
