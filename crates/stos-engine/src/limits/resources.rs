// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of cgroups: the options as `linux.resources`, and the rules that they keep.

use serde_json::{Value, json};
use stos_runtime::cgroup::limits::plan;
use stos_runtime::config::resources_from_json;

use super::machine::{self, Machine};
use super::{DEFAULT_PIDS_LIMIT, object, shown};
use crate::error::{Error, Result};

/// Microseconds of the period that `--cpus` is a part of: the kernel's own (cgroup-v2.rst, `cpu.max`), and podman's.
const PERIOD: u64 = 100_000;

/// The least memory in bytes. The kernel kills what is to become a container's process at much less, and then the cause is harder to
/// see; with so much `true` runs (Linux 6.18). podman has no minimum, and docker 6 MiB (moby/moby, `linuxMinMemory`).
const MEMORY_MIN: i64 = 512 << 10;

/// What a user may ask of a container's cgroups. What is `None` is not limited, but for the processes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResourceOptions {
    /// Memory in bytes; 0 for no limit.
    pub memory: Option<i64>,
    /// Memory and swap together in bytes; -1 for no limit of swap, `None` for twice the memory.
    pub memory_swap: Option<i64>,
    /// Memory that is kept for it where that is scarce, in bytes.
    pub memory_reservation: Option<i64>,
    /// How gladly its memory goes to swap, 0 to 100; cgroup v1 alone has it.
    pub memory_swappiness: Option<u64>,
    /// Whether the kernel kills nothing of it at the limit of memory; cgroup v1 alone has it.
    pub oom_kill_disable: bool,
    /// Processors' worth of time; 0 for no limit.
    pub cpus: Option<f64>,
    /// Share of processor time, by comparison with other containers; 0 for the kernel's own 1,024.
    pub cpu_shares: Option<u64>,
    /// Microseconds of a period, of which the quota is a part.
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in a period; -1 for no limit.
    pub cpu_quota: Option<i64>,
    /// The processors, such as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// The memory nodes, such as `0,1`.
    pub cpuset_mems: Option<String>,
    /// Processes and threads; 0 or below for no limit, `None` for [`DEFAULT_PIDS_LIMIT`].
    pub pids_limit: Option<i64>,
    /// Weight of block input and output, 10 to 1000.
    pub blkio_weight: Option<u16>,
}

impl ResourceOptions {
    /// Gives them as `linux.resources`, with what is asked for alone.
    fn to_resources(&self) -> Value {
        let mut resources = object();
        let mut set = |group: &str, key: &str, value: Option<Value>| {
            if let Some(value) = value {
                resources[group][key] = value;
            }
        };
        let number = |value: Option<i64>| value.filter(|value| *value != 0).map(Value::from);
        set("memory", "limit", number(self.memory));
        set("memory", "swap", number(self.memory_swap));
        set("memory", "reservation", number(self.memory_reservation));
        set("memory", "swappiness", self.memory_swappiness.map(Value::from));
        set("memory", "disableOOMKiller", self.oom_kill_disable.then_some(Value::Bool(true)));
        set("cpu", "shares", self.cpu_shares.filter(|shares| *shares != 0).map(Value::from));
        set("cpu", "period", self.cpu_period.filter(|period| *period != 0).map(Value::from));
        set("cpu", "quota", number(self.cpu_quota));
        if let Some((quota, period)) = self.cpus.and_then(time_of_cpus) {
            set("cpu", "quota", Some(json!(quota)));
            set("cpu", "period", Some(json!(period)));
        }
        set("cpu", "cpus", self.cpuset_cpus.clone().map(Value::from));
        set("cpu", "mems", self.cpuset_mems.clone().map(Value::from));
        set("blockIO", "weight", self.blkio_weight.map(Value::from));
        resources
    }
}

/// Quota and period, in microseconds, that are as much as so many processors; `None` for none at all.
pub fn time_of_cpus(cpus: f64) -> Option<(i64, u64)> {
    // A number of processors is small: no part of it is lost but what is less than a microsecond.
    (cpus > 0.0).then_some(((cpus * PERIOD as f64) as i64, PERIOD))
}

/// Gives `linux.resources` for a new container of which nothing is asked.
pub(super) fn defaults(counts_processes: bool) -> Value {
    if counts_processes { json!({"pids": {"limit": DEFAULT_PIDS_LIMIT}}) } else { json!({}) }
}

/// Gives `linux.resources` for a new container: what is asked for, and podman's defaults of what is not.
pub(super) fn with_defaults(options: &ResourceOptions, machine: &Machine) -> Value {
    let mut resources = options.to_resources();
    match options.pids_limit {
        Some(limit) if limit <= 0 => {}
        Some(limit) => resources["pids"]["limit"] = json!(limit),
        None if machine.has("pids") => resources["pids"]["limit"] = json!(DEFAULT_PIDS_LIMIT),
        None => {}
    }
    complete_swap(&mut resources, options.memory_swap.is_some(), machine);
    resources
}

/// Limits swap too where memory alone was asked for: podman's twice as much. A kernel that does not count it has none to limit.
pub(super) fn complete_swap(resources: &mut Value, is_given: bool, machine: &Machine) {
    if let Some(limit @ 1..) = resources["memory"]["limit"].as_i64().filter(|_| !is_given)
        && machine.counts_swap()
    {
        resources["memory"]["swap"] = json!(limit.saturating_mul(2));
    }
}

/// Refuses more processors than there are: docker's rule (moby/moby, `daemon/daemon_unix.go`), podman has none.
pub(super) fn check_cpus(cpus: Option<f64>, machine: &Machine) -> Result<()> {
    let Some(cpus) = cpus else { return Ok(()) };
    let count = machine.cpus().len();
    if cpus > count as f64 {
        let reason = format!("this machine has {count}");
        return Err(Error::Option { option: "--cpus", value: cpus.to_string(), reason });
    }
    Ok(())
}

/// Which option stands for a key of `linux.resources`.
const OPTIONS: [(&str, &str, &str); 12] = [
    ("memory", "limit", "--memory"),
    ("memory", "swap", "--memory-swap"),
    ("memory", "reservation", "--memory-reservation"),
    ("memory", "swappiness", "--memory-swappiness"),
    ("memory", "disableOOMKiller", "--oom-kill-disable"),
    ("cpu", "shares", "--cpu-shares"),
    ("cpu", "period", "--cpu-period"),
    ("cpu", "quota", "--cpu-quota"),
    ("cpu", "cpus", "--cpuset-cpus"),
    ("cpu", "mems", "--cpuset-mems"),
    ("pids", "limit", "--pids-limit"),
    ("blockIO", "weight", "--blkio-weight"),
];

/// Refuses, by the option's name, what contradicts itself, what no container could live with, and what this machine lacks.
///
/// # Errors
/// [`Error::Option`].
pub(super) fn check(resources: &Value, machine: &Machine) -> Result<()> {
    check_memory(resources)?;
    check_time(resources, machine)?;
    check_sets(resources, machine)?;
    let parsed = resources_from_json(resources.to_string().as_bytes());
    let planned = parsed.and_then(|parsed| plan(&parsed, &machine.layout));
    match planned {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(name_option(&error.to_string(), resources).unwrap_or_else(|| stos_runtime::Error::from(error).into()))
        }
    }
}

/// The refusal of a key, as one of the option that stands for it.
fn name_option(said: &str, resources: &Value) -> Option<Error> {
    let said = said.strip_prefix("linux.resources.")?;
    let (group, key, _) = OPTIONS.iter().find(|(group, key, _)| {
        said.strip_prefix(group)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|rest| rest.starts_with(&format!("{key}: ")))
    })?;
    Some(refuse(resources, group, key, said.split_once(": ")?.1))
}

fn refuse(resources: &Value, group: &str, key: &str, reason: impl Into<String>) -> Error {
    let option = OPTIONS.iter().find(|known| (known.0, known.1) == (group, key)).map_or("", |known| known.2);
    Error::Option { option, value: shown(&resources[group][key]), reason: reason.into() }
}

fn check_memory(resources: &Value) -> Result<()> {
    let refuse = |key: &str, reason: String| Err(refuse(resources, "memory", key, reason));
    let number = |key: &str| resources["memory"][key].as_i64().filter(|number| *number > 0);
    let limit = number("limit");
    if limit.is_some_and(|limit| limit < MEMORY_MIN) {
        return refuse(
            "limit",
            format!("expected at least {MEMORY_MIN} bytes (512k): hardly any command could be started"),
        );
    }
    match (number("swap"), limit) {
        (Some(_), None) => return refuse("swap", "it is memory and swap together, and needs a --memory".to_owned()),
        (Some(swap), Some(limit)) if swap < limit => {
            return refuse(
                "swap",
                format!("it is memory and swap together: expected at least the {limit} of --memory"),
            );
        }
        _ => {}
    }
    match (number("reservation"), limit) {
        (Some(reservation), Some(limit)) if reservation > limit => {
            refuse("reservation", format!("expected at most the {limit} of --memory"))
        }
        _ => Ok(()),
    }
}

fn check_time(resources: &Value, machine: &Machine) -> Result<()> {
    let cpu = &resources["cpu"];
    let refuse = |key: &str, reason: String| Err(refuse(resources, "cpu", key, reason));
    // v1 rounds without a word what is outside (kernel/sched/sched.h, MIN_SHARES and MAX_SHARES).
    if cpu["shares"].as_u64().is_some_and(|shares| shares != 0 && !(2..=262_144).contains(&shares)) {
        return refuse("shares", "expected 2 to 262144".to_owned());
    }
    let period = cpu["period"].as_u64().filter(|period| *period != 0);
    if period.is_some_and(|period| !(1000..=1_000_000).contains(&period)) {
        return refuse("period", "expected 1000 to 1000000 microseconds".to_owned());
    }
    let Some(quota @ 1..) = cpu["quota"].as_i64() else { return Ok(()) };
    if quota < 1000 {
        return refuse("quota", "expected at least 1000 microseconds".to_owned());
    }
    let period = period.unwrap_or(PERIOD);
    let most = period.saturating_mul(machine.cpus().len() as u64);
    if quota.unsigned_abs() > most {
        let (count, asked) = (machine.cpus().len(), quota as f64 / period as f64);
        return refuse(
            "quota",
            format!("{asked} processors in periods of {period} microseconds, and this machine has {count}"),
        );
    }
    Ok(())
}

fn check_sets(resources: &Value, machine: &Machine) -> Result<()> {
    for (key, available) in [("cpus", Machine::cpus as fn(&Machine) -> &[u32]), ("mems", Machine::memory_nodes)] {
        let Some(text) = resources["cpu"][key].as_str().filter(|text| !text.is_empty()) else { continue };
        let available = available(machine);
        let refuse = |reason: String| Err(refuse(resources, "cpu", key, reason));
        let Some(asked) = machine::parse_list(text) else {
            return refuse("expected numbers and ranges, such as 0-2,4".to_owned());
        };
        if let Some(missing) = asked.iter().find(|number| !available.contains(number)) {
            return refuse(format!("{missing} is not available: this machine has {}", machine::show_list(available)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stos_runtime::cgroup::limits::Layout;

    use super::*;

    fn machine() -> Machine {
        let names = ["cpu", "cpuset", "memory", "pids", "blkio"];
        Machine {
            layout: Layout { v1: names.map(str::to_owned).to_vec(), v2: None },
            cpus: vec![0, 1].into(),
            memory_nodes: vec![0].into(),
            counts_swap: true.into(),
            ..Machine::default()
        }
    }

    fn of(options: ResourceOptions) -> Value {
        with_defaults(&options, &machine())
    }

    #[test]
    fn what_is_not_asked_for_is_podman_s_default() {
        assert_eq!(of(ResourceOptions::default()), json!({"pids": {"limit": 2048}}));
        let nothing = Machine { layout: Layout::default(), ..machine() };
        assert_eq!(with_defaults(&ResourceOptions::default(), &nothing), json!({}));
        for unlimited in [0, -1] {
            assert_eq!(of(ResourceOptions { pids_limit: Some(unlimited), ..ResourceOptions::default() }), json!({}));
        }
        let memory = |memory_swap, machine: &Machine| {
            let options = ResourceOptions { memory: Some(100), memory_swap, ..ResourceOptions::default() };
            with_defaults(&options, machine)["memory"].clone()
        };
        assert_eq!(memory(None, &machine()), json!({"limit": 100, "swap": 200}));
        assert_eq!(memory(Some(-1), &machine()), json!({"limit": 100, "swap": -1}));
        assert_eq!(memory(None, &Machine { counts_swap: false.into(), ..machine() }), json!({"limit": 100}));
    }

    #[test]
    fn processors_become_time() {
        for (cpus, expected) in [(0.0, None), (0.5, Some((50_000, 100_000))), (1.25, Some((125_000, 100_000)))] {
            assert_eq!(time_of_cpus(cpus), expected);
        }
        check_cpus(Some(2.0), &machine()).unwrap();
        assert_eq!(check_cpus(Some(2.5), &machine()).unwrap_err().to_string(), "--cpus \"2.5\": this machine has 2");
        let resources = of(ResourceOptions { cpus: Some(1.5), ..ResourceOptions::default() });
        assert_eq!(resources["cpu"], json!({"quota": 150_000, "period": 100_000}));
    }

    #[test]
    fn what_cannot_be_granted_is_told_by_option() {
        for (resources, said) in [
            (json!({"memory": {"limit": 4096}}), "--memory \"4096\": expected at least 524288 bytes"),
            (
                json!({"memory": {"swap": 1 << 30}}),
                "--memory-swap \"1073741824\": it is memory and swap together, and needs",
            ),
            (
                json!({"memory": {"limit": 1 << 21, "swap": 1 << 20}}),
                "--memory-swap \"1048576\": it is memory and swap",
            ),
            (
                json!({"memory": {"limit": 1 << 21, "reservation": 1 << 22}}),
                "--memory-reservation \"4194304\": expected at most",
            ),
            (json!({"memory": {"swappiness": 101}}), "--memory-swappiness \"101\": expected 0 to 100"),
            (json!({"cpu": {"shares": 1}}), "--cpu-shares \"1\": expected 2 to 262144"),
            (json!({"cpu": {"period": 5}}), "--cpu-period \"5\": expected 1000 to 1000000"),
            (json!({"cpu": {"quota": 5}}), "--cpu-quota \"5\": expected at least 1000"),
            (json!({"cpu": {"quota": 200_001}}), "--cpu-quota \"200001\": 2.00001 processors in periods of 100000"),
            (json!({"cpu": {"cpus": "0-2"}}), "--cpuset-cpus \"0-2\": 2 is not available: this machine has 0-1"),
            (json!({"cpu": {"cpus": "x"}}), "--cpuset-cpus \"x\": expected numbers and ranges"),
            (json!({"cpu": {"mems": "1"}}), "--cpuset-mems \"1\": 1 is not available: this machine has 0"),
            (json!({"blockIO": {"weight": 9}}), "--blkio-weight \"9\": expected 10 to 1000"),
        ] {
            let refused = check(&resources, &machine()).unwrap_err().to_string();
            assert!(refused.starts_with(said), "{refused}");
        }
        let whole = json!({"memory": {"limit": 1 << 21, "swap": 1 << 21}, "cpu": {"quota": 200_000, "cpus": "0,1"}});
        check(&whole, &machine()).unwrap();
    }

    #[test]
    fn a_controller_that_the_machine_lacks_is_told_by_option() {
        let bare = Machine { layout: Layout::default(), ..machine() };
        for (resources, said) in [
            (
                json!({"memory": {"limit": 1 << 30}}),
                "--memory \"1073741824\": no cgroup hierarchy has the controller memory",
            ),
            (json!({"pids": {"limit": 5}}), "--pids-limit \"5\": no cgroup hierarchy has the controller pids"),
            (json!({"cpu": {"cpus": "0"}}), "--cpuset-cpus \"0\": no cgroup hierarchy has the controller cpuset"),
        ] {
            assert_eq!(check(&resources, &bare).unwrap_err().to_string(), said);
        }
        let v2 = Layout { v1: Vec::new(), v2: Some(vec!["memory".to_owned()]) };
        let refused = check(&json!({"memory": {"disableOOMKiller": true}}), &Machine { layout: v2, ..machine() });
        assert_eq!(refused.unwrap_err().to_string(), "--oom-kill-disable \"true\": cgroup v2 has no such limit");
    }
}
