// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an update leaves unsaid, for files of v2 that hold two limits, or one where the specification has the sum of two.
//!
//! v1 keeps each limit by itself. runc takes the other half from the container's record; here it is what the kernel has.

use std::fs;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

/// The limits of a v2 cgroup; -1 for none. `None` where they cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Current {
    /// `memory.max`, in bytes.
    pub(crate) memory: Option<i64>,
    /// `memory.swap.max`, in bytes.
    pub(crate) swap: Option<i64>,
    /// `cpu.max`: quota and period, in microseconds.
    pub(crate) cpu: Option<(i64, u64)>,
}

impl Current {
    /// Reads the files of `directory`.
    pub(crate) fn of(directory: &Path) -> Self {
        let read = |file: &str| fs::read_to_string(directory.join(file)).ok();
        let limit = |text: &str| if text == "max" { Some(-1) } else { text.parse::<i64>().ok() };
        let cpu = read("cpu.max").and_then(|text| {
            let (quota, period) = text.trim().split_once(' ')?;
            Some((limit(quota)?, period.parse().ok()?))
        });
        Self {
            memory: read("memory.max").and_then(|text| limit(text.trim())),
            swap: read("memory.swap.max").and_then(|text| limit(text.trim())),
            cpu,
        }
    }
}

/// Adds to `asked` what it leaves as it is, where that stands in the same file.
pub(crate) fn complete(asked: &mut LinuxResources, current: &Current) {
    if let Some(memory) = asked.memory_mut() {
        let given = |value: Option<i64>| value.filter(|value| *value != 0);
        match (given(memory.limit()), given(memory.swap())) {
            (None, Some(1..)) => {
                memory.set_limit(current.memory);
            }
            // Memory and swap together stay what they were, as on v1.
            (Some(1..), None) => {
                if let (Some(limit @ 0..), Some(swap @ 0..)) = (current.memory, current.swap) {
                    memory.set_swap(Some(limit.saturating_add(swap)));
                }
            }
            _ => {}
        }
    }
    if let (Some(cpu), Some((quota, period))) = (asked.cpu_mut(), current.cpu) {
        match (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period != 0)) {
            (Some(_), None) => {
                cpu.set_period(Some(period));
            }
            (None, Some(_)) => {
                cpu.set_quota(Some(quota));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{planned, v2};
    use super::*;

    #[test]
    fn what_is_unsaid_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [("memory.max", "100\n"), ("memory.swap.max", "50\n"), ("cpu.max", "max 20000\n")] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let current = Current::of(dir.path());
        assert_eq!(current, Current { memory: Some(100), swap: Some(50), cpu: Some((-1, 20_000)) });
        let completed = |asked: Value, current: &Current| {
            let mut asked = serde_json::from_value(asked).unwrap();
            complete(&mut asked, current);
            planned(&v2(), serde_json::to_value(&asked).unwrap())
        };
        for (asked, expected) in [
            (json!({"memory": {"limit": 120}}), "memory.swap.max=30 & memory.max=120"),
            (json!({"memory": {"swap": 170}}), "memory.swap.max=70 & memory.max=100"),
            (json!({"memory": {"limit": -1}}), "memory.swap.max=max & memory.max=max"),
            (json!({"cpu": {"quota": 5000}}), "cpu.max=5000 20000"),
            (json!({"cpu": {"period": 5000}}), "cpu.max=max 5000"),
            (json!({"cpu": {"shares": 1024}, "memory": {"reservation": 3}}), "memory.low=3; cpu.weight=100"),
        ] {
            assert_eq!(completed(asked, &current), expected);
        }
        let said = completed(json!({"memory": {"limit": 151}}), &current);
        assert!(said.starts_with("linux.resources.memory.swap: expected at least memory.limit"), "{said}");
        let unlimited = Current { swap: Some(-1), ..current };
        assert_eq!(completed(json!({"memory": {"limit": 151}}), &unlimited), "memory.max=151");
    }
}
