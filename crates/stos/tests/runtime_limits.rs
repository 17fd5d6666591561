// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of `linux.resources`: they bite, they are what the files say, they can be changed while the container runs, and what
//! cannot be is told by key.

mod runtime_scene;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use runtime_scene::{Bundle, Output, Runtime, cgroup_of, control};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::require;

/// A shell script that takes memory until there is none left.
const HOG: &str = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done";

const MEBIBYTE: u64 = 1 << 20;

fn limited(runtime: &Runtime, args: &[&str], resources: &[(&str, Value)]) -> Bundle {
    let bundle = runtime.bundle(args);
    for (key, value) in resources {
        bundle.set(&format!("/linux/resources/{key}"), value.clone());
    }
    bundle
}

fn pid(runtime: &Runtime, id: &str) -> i64 {
    runtime.state(id)["pid"].as_i64().unwrap()
}

#[track_caller]
fn refused(output: &Output, parts: &[&str]) {
    assert_ne!(output.code, 0);
    for part in parts {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
}

#[test]
fn a_memory_limit_bites() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let limit = 24 * MEBIBYTE;
    let bundle = limited(&runtime, &["sh", "-c", HOG], &[("memory", json!({"limit": limit, "swap": limit}))]);
    let ran = runtime.run_bundle(&bundle, "hog");
    assert_eq!(ran.code, 137, "{}", ran.stderr);
    assert_eq!(runtime.ok(&["list", "--quiet"]).trim(), "");
}

#[test]
fn running_out_of_memory_is_told_and_spares_the_others() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.has("events") {
        return;
    }
    let script = format!("sh -c '{HOG}'; echo $?; exec sleep 1000");
    let limit = 24 * MEBIBYTE;
    let bundle = limited(&runtime, &["sh", "-c", &script], &[("memory", json!({"limit": limit, "swap": limit}))]);
    let id = runtime.id("oom");
    assert_eq!(runtime.create(&bundle, &id).code, 0);
    let mut events =
        runtime.command().args(["events", "--interval", "50ms", &id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines().map(|line| {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(line["id"], json!(id));
        line["type"].as_str().unwrap().to_owned()
    });
    assert_eq!(lines.next().as_deref(), Some("stats"), "it watches");
    runtime.ok(&["start", &id]);
    assert!(lines.any(|kind| kind == "oom"));
    runtime_scene::eventually(|| runtime.said(&id).contains("137"));
    assert_eq!(runtime.status(&id), "running");
    runtime.ok(&["delete", "--force", &id]);
    // With the container the events end.
    lines.for_each(drop);
    events.wait().unwrap();
}

#[test]
fn a_pids_limit_bites() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let script = "sleep 1000 & sleep 1000 & sleep 1000 & echo all";
    let bundle = limited(&runtime, &["sh", "-c", script], &[("pids", json!({"limit": 3}))]);
    let ran = runtime.run_bundle(&bundle, "few");
    assert_ne!(ran.code, 0);
    assert_eq!(ran.stdout, "", "{}", ran.stderr);
    bundle.set("/linux/resources/pids/limit", json!(4));
    let ran = runtime.run_bundle(&bundle, "enough");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "all\n"), "{}", ran.stderr);
}

#[test]
fn processors_are_those_of_the_list() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let show = "while read name value; do test $name = Cpus_allowed_list: && echo $value; done </proc/self/status; :";
    let bundle = limited(&runtime, &["sh", "-c", show], &[("cpu", json!({"cpus": "0", "mems": "0"}))]);
    let ran = runtime.run_bundle(&bundle, "first");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "0\n"), "{}", ran.stderr);
}

#[test]
fn each_limit_is_in_its_file() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let limit = 64 * MEBIBYTE;
    let bundle = limited(
        &runtime,
        &["sleep", "1000"],
        &[
            ("memory", json!({"limit": limit, "swap": 2 * limit, "reservation": limit / 2})),
            ("cpu", json!({"shares": 1024, "quota": 40_000, "period": 50_000, "cpus": "0"})),
            ("pids", json!({"limit": 100})),
        ],
    );
    let id = runtime.started(&bundle, "files");
    let pid = pid(&runtime, &id);
    let on_v1 = |controller| cgroup_of(pid, controller).is_some();
    assert_eq!(control(pid, "memory", "memory.limit_in_bytes", "memory.max"), limit.to_string());
    assert_eq!(control(pid, "memory", "memory.soft_limit_in_bytes", "memory.low"), (limit / 2).to_string());
    let swap = if on_v1("memory") { 2 * limit } else { limit };
    assert_eq!(control(pid, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), swap.to_string());
    let quota = if on_v1("cpu") { "40000" } else { "40000 50000" };
    assert_eq!(control(pid, "cpu", "cpu.cfs_quota_us", "cpu.max"), quota);
    let shares = if on_v1("cpu") { "1024" } else { "100" };
    assert_eq!(control(pid, "cpu", "cpu.shares", "cpu.weight"), shares);
    assert_eq!(control(pid, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(control(pid, "pids", "pids.max", "pids.max"), "100");
}

#[test]
fn time_can_be_idle_and_saved_up() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // runc has them since 1.2, and before left them out without a word.
        return;
    }
    let bundle = limited(&runtime, &["sleep", "1000"], &[("cpu", json!({"idle": 1, "quota": 20_000, "burst": 5_000}))]);
    let id = runtime.started(&bundle, "cpu");
    let idle = pid(&runtime, &id);
    assert_eq!(control(idle, "cpu", "cpu.idle", "cpu.idle"), "1");
    assert_eq!(control(idle, "cpu", "cpu.cfs_burst_us", "cpu.max.burst"), "5000");
}

#[test]
fn what_v1_alone_limits_is_in_its_files() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if cgroup_of(i64::from(std::process::id()), "memory").is_none() {
        return;
    }
    let memory = json!({"swappiness": 7, "disableOOMKiller": true, "limit": 64 * MEBIBYTE});
    let (cpu, io) = (json!({"realtimeRuntime": 10_000, "realtimePeriod": 500_000}), json!({"weight": 200}));
    let limits = [("memory", memory), ("cpu", cpu), ("blockIO", io)];
    let bundle = limited(&runtime, &["sleep", "1000"], &limits);
    let on_v1 = pid(&runtime, &runtime.started(&bundle, "v1"));
    assert_eq!(control(on_v1, "memory", "memory.swappiness", ""), "7");
    assert!(control(on_v1, "memory", "memory.oom_control", "").starts_with("oom_kill_disable 1"));
    assert_eq!(control(on_v1, "cpu", "cpu.rt_period_us", ""), "500000");
    assert_eq!(control(on_v1, "cpu", "cpu.rt_runtime_us", ""), "10000");
    let weight = ["blkio.weight", "blkio.bfq.weight"].map(|file| cgroup_of(on_v1, "blkio").unwrap().join(file));
    assert_eq!(fs::read_to_string(weight.iter().find(|file| file.exists()).unwrap()).unwrap().trim(), "200");
}

/// The root of the v2 tree, and which controllers those below it have: put back as it was at the end, for a controller that is on
/// there cannot be mounted as v1.
struct Controllers {
    root: PathBuf,
    on: String,
}

impl Controllers {
    fn of_v2() -> Option<Self> {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists())?;
        Some(Self { on: fs::read_to_string(root.join("cgroup.subtree_control")).unwrap(), root })
    }

    fn has(&self, name: &str) -> bool {
        let available = fs::read_to_string(self.root.join("cgroup.controllers")).unwrap();
        available.split_whitespace().any(|found| found == name)
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        let file = self.root.join("cgroup.subtree_control");
        for name in fs::read_to_string(&file).unwrap().split_whitespace() {
            // Others may be another test's, which runs meanwhile.
            let is_ours = ["hugetlb", "io"].contains(&name);
            if is_ours && !self.on.split_whitespace().any(|on| on == name) {
                // Somebody else may need it by now: then it stays.
                drop(fs::write(&file, format!("-{name}")));
            }
        }
    }
}

#[test]
fn devices_are_throttled_and_huge_pages_counted_where_the_host_has_them() {
    require!(Need::Root, Need::Binary);
    let controllers = Controllers::of_v2();
    let runtime = Runtime::new();
    let numbers = fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .find_map(|entry| fs::read_to_string(entry.path().join("dev")).ok().map(|numbers| numbers.trim().to_owned()));
    let mut resources = Vec::new();
    if let Some((major, minor)) = numbers.as_deref().and_then(|numbers| numbers.split_once(':')) {
        let [major, minor] = [major, minor].map(|number| number.parse::<i64>().unwrap());
        let rates = json!([{"major": major, "minor": minor, "rate": 1_048_576}]);
        resources.push(("blockIO", json!({"throttleReadBpsDevice": rates})));
    }
    let has_pages = runtime.is_ours() && controllers.as_ref().is_some_and(|v2| v2.has("hugetlb"));
    if has_pages {
        resources.push(("hugepageLimits", json!([{"pageSize": "2MB", "limit": 4_194_304}])));
    }
    let bundle = limited(&runtime, &["sleep", "1000"], &resources);
    let pid = pid(&runtime, &runtime.started(&bundle, "io"));
    if let Some(numbers) = numbers {
        let found = control(pid, "blkio", "blkio.throttle.read_bps_device", "io.max");
        assert!(found.starts_with(&numbers) && found.contains("1048576"), "{found}");
    }
    if has_pages {
        assert_eq!(control(pid, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"), "4194304");
    }
}

#[test]
fn what_cannot_be_limited_is_told_and_nothing_stays() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sleep", "1000"]);
    for (key, value, parts) in [
        ("cpu", json!({"cpus": "4096"}), &["cpuset.cpus"][..]),
        ("cpu", json!({"quota": 1}), &["cpu."]),
        ("unified", json!({"no_such.max": "1"}), &[]),
    ] {
        bundle.set("/linux/resources", json!({"devices": [], key: value.clone()}));
        let id = runtime.id("no");
        let created = runtime.create(&bundle, &id);
        refused(&created, parts);
        if runtime.is_ours() {
            refused(&created, &[&format!("linux.resources.{key}.")]);
            let value = value.as_object().unwrap().values().next().unwrap();
            assert!(
                key == "unified" || created.stderr.contains(value.to_string().trim_matches('"')),
                "{}",
                created.stderr
            );
            let name = format!("stos-{id}");
            let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
            assert!(hierarchies.map(|entry| entry.path().join(&name)).all(|path| !path.exists()));
        }
        assert_ne!(runtime.run(&["state", &id]).code, 0);
    }
}

#[test]
fn wishes_that_contradict_themselves_are_told_by_key() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        return;
    }
    let bundle = runtime.bundle(&["sleep", "1000"]);
    for (key, value, named) in [
        ("memory", json!({"swappiness": 101}), "linux.resources.memory.swappiness: expected 0 to 100"),
        ("memory", json!({"limit": -7}), "linux.resources.memory.limit: expected bytes"),
        ("cpu", json!({"shares": 1}), "linux.resources.cpu.shares"),
        ("blockIO", json!({"weight": 9}), "linux.resources.blockIO.weight: expected 10 to 1000"),
        ("blockIO", json!({"throttleReadBpsDevice": [{"major": 4095, "minor": 1, "rate": 1}]}), "4095:1 1"),
        ("hugepageLimits", json!([{"pageSize": "../2MB", "limit": 0}]), "linux.resources.hugepageLimits[0].pageSize"),
        ("memory", json!({"limit": 4096}), "killed for want of memory"),
    ] {
        bundle.set("/linux/resources", json!({"devices": [], key: value}));
        let id = runtime.id("odd");
        refused(&runtime.create(&bundle, &id), &[named]);
        assert_ne!(runtime.run(&["state", &id]).code, 0);
    }
}

#[test]
fn limits_are_changed_while_it_runs() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let limit = 64 * MEBIBYTE;
    let bundle = limited(&runtime, &["sleep", "1000"], &[("memory", json!({"limit": limit, "swap": limit}))]);
    let id = runtime.started(&bundle, "live");
    let pid = pid(&runtime, &id);
    let memory = || control(pid, "memory", "memory.limit_in_bytes", "memory.max");
    let pids = || control(pid, "pids", "pids.max", "pids.max");
    // More than memory and swap together were: neither can be set before the other.
    runtime.ok(&["update", "--memory", "134217728", "--memory-swap", "268435456", "--pids-limit", "77", &id]);
    assert_eq!((memory(), pids()), ((128 * MEBIBYTE).to_string(), "77".to_owned()));
    let swap = if cgroup_of(pid, "memory").is_some() { 256 } else { 128 } * MEBIBYTE;
    assert_eq!(control(pid, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), swap.to_string());
    runtime.ok(&["update", "--cpu-period", "50000", "--cpu-quota", "25000", "--cpuset-cpus", "0", &id]);
    assert!(control(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("25000"));
    assert_eq!(control(pid, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    let json = json!({"memory": {"limit": 96 * MEBIBYTE}, "pids": {"limit": 55}, "cpu": {"shares": 512}}).to_string();
    let updated = runtime.run_with_input(&["update", "--resources", "-", &id], &json);
    assert_eq!(updated.code, 0, "{}", updated.stderr);
    assert_eq!((memory(), pids()), ((96 * MEBIBYTE).to_string(), "55".to_owned()));
    assert!(control(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("25000"), "what is not named stays");
    let file = runtime.path("resources.json");
    fs::write(&file, json!({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}}).to_string()).unwrap();
    runtime.ok(&["update", "--resources", file.to_str().unwrap(), &id]);
    assert_eq!(pids(), "max");
    assert_ne!(memory(), (96 * MEBIBYTE).to_string());
    runtime.ok(&["kill", &id, "KILL"]);
    runtime.wait_for(&id, "stopped");
    // crun writes into no cgroup then, and says nothing.
    let late = runtime.run(&["update", "--pids-limit", "5", &id]);
    assert!(late.code != 0 || runtime.is_called("crun"), "it has ended");
}

#[test]
fn an_update_changes_all_or_nothing() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle =
        limited(&runtime, &["sleep", "1000"], &[("cpu", json!({"shares": 777})), ("pids", json!({"limit": 9}))]);
    let id = runtime.started(&bundle, "whole");
    let pid = pid(&runtime, &id);
    let held = || (control(pid, "cpu", "cpu.shares", "cpu.weight"), control(pid, "pids", "pids.max", "pids.max"));
    let before = held();
    let failed = runtime.run(&["update", "--cpu-share", "2000", "--pids-limit", "5", "--cpuset-cpus", "4096", &id]);
    refused(&failed, &["cpuset.cpus"]);
    let unknown = runtime.run_with_input(&["update", "--resources", "-", &id], "{\"memory\": {\"limit\": \"much\"}}");
    let no_number = runtime.run(&["update", "--cpu-quota", "x", &id]);
    // crun takes what is no number for none.
    assert!((unknown.code != 0 && no_number.code != 0) || runtime.is_called("crun"));
    if !runtime.is_ours() {
        return;
    }
    assert_eq!(held(), before);
    refused(&failed, &["linux.resources.cpu.cpus", "4096"]);
    refused(&runtime.run(&["update", "--memory", "4k", &id]), &["linux.resources.memory.limit", "4096"]);
    // Engines send a container's device rules along.
    let rules = json!({"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 8, "max": 5}}).to_string();
    let updated = runtime.run_with_input(&["update", "-r", "-", &id], &rules);
    assert_eq!(updated.code, 0, "{}", updated.stderr);
    assert!(updated.stderr.contains("linux.resources.pids.max"), "what is unknown is told: {}", updated.stderr);
    assert_eq!(held(), (before.0, "8".to_owned()));
}

#[test]
fn what_a_container_uses_is_told() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.has("events") {
        return;
    }
    let limit = 64 * MEBIBYTE;
    let resources = [("memory", json!({"limit": limit, "swap": limit})), ("pids", json!({"limit": 9}))];
    let bundle = limited(&runtime, &["sh", "-c", "sleep 1000 & echo on; wait"], &resources);
    let id = runtime.started(&bundle, "use");
    runtime_scene::eventually(|| runtime.said(&id).contains("on"));
    let line: Value = serde_json::from_str(&runtime.ok(&["events", "--stats", &id])).unwrap();
    assert_eq!((&line["type"], &line["id"]), (&json!("stats"), &json!(id)));
    let data = &line["data"];
    assert_eq!(data["memory"]["usage"]["limit"], json!(limit));
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
    assert!(data["memory"]["raw"].as_object().unwrap().len() > 5);
    assert_eq!((&data["pids"]["current"], &data["pids"]["limit"]), (&json!(2), &json!(9)));
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    assert!(data["cpu"]["throttling"].is_object() && data["hugetlb"].is_object() && data["blkio"].is_object());
    runtime.ok(&["kill", &id, "KILL"]);
    runtime.wait_for(&id, "stopped");
    assert_ne!(runtime.run(&["events", "--stats", &id]).code, 0, "it has ended");
}

#[test]
fn processes_are_listed() {
    require!(Need::Root, Need::Binary, Need::Tool("ps"));
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "sleep 1000 & echo on; wait"]);
    let id = runtime.started(&bundle, "list");
    runtime_scene::eventually(|| runtime.said(&id).contains("on"));
    let pids: Vec<i64> = serde_json::from_str(&runtime.ok(&["ps", "--format", "json", &id])).unwrap();
    assert_eq!(pids.len(), 2);
    assert!(pids.contains(&pid(&runtime, &id)));
    // The shell says so before the other is what it becomes.
    let command = |pid: &i64| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    runtime_scene::eventually(|| pids.iter().any(|pid| command(pid).starts_with(b"sleep\0")));
    let table = runtime.ok(&["ps", &id]);
    assert!(table.lines().next().unwrap().contains("PID"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    let table = runtime.run(&["ps", &id, "-eo", "pid,args"]);
    if table.stderr.contains("maximum of 1 argument") {
        // crun shows what it shows.
        return;
    }
    let table = table.stdout;
    assert!(table.lines().any(|line| line.ends_with("sleep 1000")), "{table}");
    if runtime.is_ours() {
        let table = runtime.ok(&["ps", &id, "-eo", "args,pid"]);
        assert!(table.lines().any(|line| line.starts_with("sleep 1000 ")), "{table}");
        assert_ne!(runtime.run(&["ps"]).code, 0, "of which container?");
        assert_ne!(runtime.run(&["ps", &id, "-eo", "args"]).code, 0, "without a number nothing is known");
    }
}
