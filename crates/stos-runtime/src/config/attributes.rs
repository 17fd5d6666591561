// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the launch honours of how the kernel treats a process: scheduling, input and output, personality, processors.

use serde::Deserialize;
use serde_json::Value;
use stos_sys::process::attributes::SchedulerAttributes;

use super::ConfigError;

/// `process.scheduler`, `process.ioPriority`, `process.execCPUAffinity` and `linux.personality`, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessAttributes {
    /// `process.scheduler`.
    pub scheduler: Option<SchedulerAttributes>,
    /// `process.ioPriority`: class and priority.
    pub io_priority: Option<(u8, u16)>,
    /// `linux.personality`: the execution domain of personality(2).
    pub personality: Option<u32>,
    /// `process.execCPUAffinity`. It is of no concern to a container's first process (config.md).
    pub exec_affinity: ExecAffinity,
}

/// Where processes run that are executed in a container later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecAffinity {
    /// Before it is in the container's cgroups; empty where nothing is asked.
    pub initial: Vec<u32>,
    /// From then on; empty where nothing is asked.
    pub last: Vec<u32>,
}

const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const FLAGS: [(&str, u64); 5] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
];

/// Their values have no key in config.json.
const FLAGS_WITHOUT_VALUE: [&str; 2] = ["SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"];

const IO_CLASSES: [(&str, u8); 3] = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

/// linux/personality.h.
const DOMAINS: [(&str, u32); 2] = [("LINUX", 0), ("LINUX32", 8)];

/// As config.md has it; numbers are as wide as the kernel's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Scheduler {
    policy: String,
    nice: i32,
    priority: i64,
    flags: Vec<String>,
    runtime: u64,
    deadline: u64,
    period: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IoPriority {
    class: String,
    priority: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Personality {
    domain: String,
    flags: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Affinity {
    initial: String,
    r#final: String,
}

impl ProcessAttributes {
    /// Takes these keys out of `raw`, a whole configuration: it is read from the JSON itself, for the crate's types lack some names.
    pub(super) fn take_from(raw: &mut Value) -> Result<Self, ConfigError> {
        let scheduler: Option<Scheduler> = take(raw, "process", "scheduler")?;
        let io_priority: Option<IoPriority> = take(raw, "process", "ioPriority")?;
        let personality: Option<Personality> = take(raw, "linux", "personality")?;
        let affinity: Option<Affinity> = take(raw, "process", "execCPUAffinity")?;
        Ok(Self {
            scheduler: scheduler.as_ref().map(read_scheduler).transpose()?,
            io_priority: io_priority.as_ref().map(read_io_priority).transpose()?,
            personality: personality.as_ref().map(read_personality).transpose()?,
            exec_affinity: affinity.as_ref().map(read_affinity).transpose()?.unwrap_or_default(),
        })
    }
}

fn take<T: for<'a> Deserialize<'a>>(raw: &mut Value, parent: &str, key: &str) -> Result<Option<T>, ConfigError> {
    let Some(found) = raw.get_mut(parent).and_then(|parent| parent.get_mut(key)) else { return Ok(None) };
    let found = found.take();
    if found.is_null() {
        return Ok(None);
    }
    let shown = found.clone();
    let wrong = |error: serde_json::Error| ConfigError::invalid(format!("{parent}.{key}"), error.to_string(), &shown);
    serde_json::from_value(found).map(Some).map_err(wrong)
}

fn one_of<T: Copy>(name: &str, known: &[(&str, T)], found: &str) -> Result<T, ConfigError> {
    known.iter().find(|(name, _)| *name == found).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        ConfigError::invalid(name, names.join(", "), found)
    })
}

fn read_scheduler(asked: &Scheduler) -> Result<SchedulerAttributes, ConfigError> {
    let name = |key: &str| format!("process.scheduler.{key}");
    let policy = one_of(&name("policy"), &POLICIES, &asked.policy)?;
    let mut flags = 0;
    for flag in &asked.flags {
        if FLAGS_WITHOUT_VALUE.contains(&flag.as_str()) {
            return Err(ConfigError::unsupported(format!("{} {flag}", name("flags"))));
        }
        flags |= one_of(&name("flags"), &FLAGS, flag)?;
    }
    // The kernel ignores what does not belong to the policy: such a wish is named here.
    let (is_nice, is_real_time, is_deadline) = (matches!(policy, 0 | 3), matches!(policy, 1 | 2), policy == 6);
    let misplaced = [
        ("nice", asked.nice != 0 && !is_nice),
        ("priority", asked.priority != 0 && !is_real_time),
        ("runtime", asked.runtime != 0 && !is_deadline),
        ("deadline", asked.deadline != 0 && !is_deadline),
        ("period", asked.period != 0 && !is_deadline),
    ];
    if let Some((key, _)) = misplaced.iter().find(|(_, is_misplaced)| *is_misplaced) {
        return Err(ConfigError::invalid(name(key), "nothing for this policy", &asked.policy));
    }
    if !(-20..=19).contains(&asked.nice) {
        return Err(ConfigError::invalid(name("nice"), "-20 to 19", asked.nice));
    }
    let priority = u32::try_from(asked.priority).ok().filter(|priority| *priority <= 99);
    let priority = priority.ok_or_else(|| ConfigError::invalid(name("priority"), "0 to 99", asked.priority))?;
    let Scheduler { nice, runtime, deadline, period, .. } = *asked;
    Ok(SchedulerAttributes { policy, flags, nice, priority, runtime, deadline, period })
}

fn read_io_priority(asked: &IoPriority) -> Result<(u8, u16), ConfigError> {
    let class = one_of("process.ioPriority.class", &IO_CLASSES, &asked.class)?;
    let priority = u16::try_from(asked.priority).ok().filter(|priority| *priority <= 7);
    match priority {
        Some(priority) => Ok((class, priority)),
        None => Err(ConfigError::invalid("process.ioPriority.priority", "0 to 7", asked.priority)),
    }
}

fn read_personality(asked: &Personality) -> Result<u32, ConfigError> {
    if let Some(flag) = asked.flags.first() {
        // config-linux.md: "currently no flag values are supported".
        return Err(ConfigError::unsupported(format!("linux.personality.flags {flag}")));
    }
    one_of("linux.personality.domain", &DOMAINS, &asked.domain)
}

fn read_affinity(asked: &Affinity) -> Result<ExecAffinity, ConfigError> {
    let list = |key: &str, text: &str| {
        cpu_list(text)
            .ok_or_else(|| ConfigError::invalid(format!("process.execCPUAffinity.{key}"), "a list such as 0-3,7", text))
    };
    Ok(ExecAffinity { initial: list("initial", &asked.initial)?, last: list("final", &asked.r#final)? })
}

/// Reads a list of processors: numbers and ranges with commas between. Empty text is an empty list.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    // As many as `cpu_set_t` has.
    const CPUS: u32 = 1024;
    let mut cpus = Vec::new();
    if text.is_empty() {
        return Some(cpus);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        if first > last || last >= CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(key: &str, value: Value) -> Result<ProcessAttributes, String> {
        let mut raw = json!({"process": {}, "linux": {}});
        let parent = if key == "personality" { "linux" } else { "process" };
        raw[parent][key] = value;
        ProcessAttributes::take_from(&mut raw).map_err(|error| error.to_string())
    }

    #[test]
    fn attributes_become_the_kernels_numbers() {
        let deadline = json!({
            "policy": "SCHED_DEADLINE", "runtime": 10_000_000_u64, "deadline": 30_000_000_u64, "period": 30_000_000_u64,
            "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"]
        });
        let expected = SchedulerAttributes {
            policy: 6,
            flags: 5,
            runtime: 10_000_000,
            deadline: 30_000_000,
            period: 30_000_000,
            ..SchedulerAttributes::default()
        };
        assert_eq!(of("scheduler", deadline).unwrap().scheduler, Some(expected));
        let batch = of("scheduler", json!({"policy": "SCHED_BATCH", "nice": -5})).unwrap().scheduler.unwrap();
        assert_eq!((batch.policy, batch.nice), (3, -5));
        let priority = of("ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6})).unwrap().io_priority;
        assert_eq!(priority, Some((2, 6)));
        assert_eq!(of("personality", json!({"domain": "LINUX32"})).unwrap().personality, Some(8));
        let affinity = of("execCPUAffinity", json!({"initial": "3,0-1,1", "final": ""})).unwrap().exec_affinity;
        assert_eq!((affinity.initial, affinity.last), (vec![0, 1, 3], vec![]));
        assert_eq!(of("scheduler", Value::Null).unwrap(), ProcessAttributes::default());
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (key, value, said) in [
            ("scheduler", json!({"policy": "SCHED_NONE"}), "process.scheduler.policy"),
            ("scheduler", json!({}), "process.scheduler.policy"),
            ("scheduler", json!({"policy": "SCHED_FIFO", "nice": 1}), "process.scheduler.nice"),
            ("scheduler", json!({"policy": "SCHED_OTHER", "nice": 20}), "process.scheduler.nice"),
            ("scheduler", json!({"policy": "SCHED_OTHER", "priority": 1}), "process.scheduler.priority"),
            ("scheduler", json!({"policy": "SCHED_RR", "priority": 100}), "process.scheduler.priority"),
            ("scheduler", json!({"policy": "SCHED_BATCH", "runtime": 1}), "process.scheduler.runtime"),
            ("scheduler", json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_NONE"]}), "process.scheduler.flags"),
            (
                "scheduler",
                json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN"]}),
                "SCHED_FLAG_UTIL_CLAMP_MIN is not supported",
            ),
            ("scheduler", json!([]), "process.scheduler"),
            ("ioPriority", json!({"class": "IOPRIO_CLASS_NONE"}), "process.ioPriority.class"),
            ("ioPriority", json!({"class": "IOPRIO_CLASS_RT", "priority": 8}), "process.ioPriority.priority"),
            ("personality", json!({"domain": "PLAN9"}), "linux.personality.domain"),
            ("personality", json!({"domain": "LINUX", "flags": ["X"]}), "linux.personality.flags X is not supported"),
            ("execCPUAffinity", json!({"initial": "1-0"}), "process.execCPUAffinity.initial"),
            ("execCPUAffinity", json!({"final": "a"}), "process.execCPUAffinity.final"),
            ("execCPUAffinity", json!({"final": "1024"}), "process.execCPUAffinity.final"),
        ] {
            let error = of(key, value).unwrap_err();
            assert!(error.contains(said), "{key}: {error}");
        }
    }
}
