// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attributes of the process: scheduling, input and output, personality, limits, labels.

mod runtime_scene;

use std::fs;

use runtime_scene::{Runtime, eventually};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::require;

/// Fields of `/proc/PID/stat` after the name, the first of which is number 3.
fn stat_fields(pid: i64) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_scheduler_is_set() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // runc 1.1 and crun 1.8 know no scheduler.
        return;
    }
    for (scheduler, policy, nice) in [
        (json!({"policy": "SCHED_BATCH", "nice": 7}), "3", "7"),
        (json!({"policy": "SCHED_IDLE"}), "5", "0"),
        (json!({"policy": "SCHED_OTHER", "nice": -3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}), "0", "-3"),
    ] {
        let bundle = runtime.bundle(&["sleep", "1000"]);
        bundle.set("/process/scheduler", scheduler);
        let id = runtime.started(&bundle, "scheduler");
        let fields = stat_fields(runtime.state(&id)["pid"].as_i64().unwrap());
        // nice is field 19, policy 41 (proc_pid_stat(5)).
        assert_eq!((fields[16].as_str(), fields[38].as_str()), (nice, policy));
        runtime.ok(&["delete", "--force", &id]);
    }
}

#[test]
fn what_the_kernel_refuses_is_named() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        return;
    }
    for (pointer, value, said) in [
        // No policy of that number is in the kernel.
        ("/process/scheduler", json!({"policy": "SCHED_ISO"}), "set process.scheduler: sched_setattr"),
        ("/process/scheduler", json!({"policy": "SCHED_DEADLINE"}), "set process.scheduler: sched_setattr"),
        ("/process/scheduler", json!({"policy": "SCHED_FIFO", "nice": 1}), "process.scheduler.nice"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), "process.ioPriority.priority"),
        ("/linux/personality", json!({"domain": "LINUX", "flags": ["X"]}), "linux.personality.flags X"),
        ("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": u64::MAX}]), "RLIMIT_NOFILE"),
        ("/process/apparmorProfile", json!("profile"), "process.apparmorProfile: AppArmor"),
        ("/process/selinuxLabel", json!("a:b:c"), "process.selinuxLabel: SELinux"),
        ("/linux/mountLabel", json!("a:b:c"), "linux.mountLabel: SELinux"),
    ] {
        if said.contains("SELinux") && fs::metadata("/sys/fs/selinux/status").is_ok()
            || said.contains("AppArmor") && fs::metadata("/sys/module/apparmor").is_ok()
        {
            continue;
        }
        let bundle = runtime.bundle(&["sh", "-c", ":"]);
        bundle.set(pointer, value);
        let ran = runtime.run_bundle(&bundle, "refused");
        assert_ne!(ran.code, 0, "{pointer}");
        assert!(ran.stderr.contains(said), "{pointer}: {}", ran.stderr);
    }
}

#[test]
fn the_io_priority_is_set() {
    require!(Need::Root, Need::Binary, Need::Tool("ionice"));
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        return;
    }
    for (class, priority, said) in [
        ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
        ("IOPRIO_CLASS_RT", 2, "realtime: prio 2"),
    ] {
        let bundle = runtime.bundle(&["sleep", "1000"]);
        bundle.set("/process/ioPriority", json!({"class": class, "priority": priority}));
        let id = runtime.started(&bundle, "ioprio");
        let pid = runtime.state(&id)["pid"].to_string();
        let found = runtime_scene::output(std::process::Command::new("ionice").args(["-p", &pid]));
        assert_eq!(found.stdout.trim(), said, "{}", found.stderr);
        runtime.ok(&["delete", "--force", &id]);
    }
}

#[test]
fn the_personality_is_set() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    for (domain, expected) in [("LINUX32", "00000008\n"), ("LINUX", "00000000\n")] {
        let bundle = runtime.bundle(&["cat", "/proc/self/personality"]);
        bundle.set("/linux/personality", json!({"domain": domain}));
        let ran = runtime.run_bundle(&bundle, "personality");
        if !runtime.is_ours() && ran.stdout != expected {
            // runc has it since 1.2.
            return;
        }
        assert_eq!((ran.code, ran.stdout.as_str()), (0, expected), "{}", ran.stderr);
    }
}

#[test]
fn later_processes_run_where_they_are_told_to() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    // runc has it since 1.3.
    if !runtime.is_ours() {
        return;
    }
    let tell = "while read key value; do case $key in Cpus_allowed_list:) echo $value;; esac; done </proc/self/status";
    let bundle = runtime.bundle(&["sh", "-c", &format!("{tell}; while :; do sleep 1; done")]);
    bundle.set("/process/execCPUAffinity", json!({"initial": "0", "final": "0"}));
    let id = runtime.started(&bundle, "affinity");
    assert_eq!(runtime.ok(&["exec", &id, "sh", "-c", tell]).trim(), "0");
    eventually(|| runtime.said(&id).ends_with('\n'));
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    assert_eq!(runtime.said(&id).trim(), own.trim(), "the first process is no later one");
    bundle.set("/process/execCPUAffinity", json!({"initial": "x"}));
    let created = runtime.create(&bundle, &runtime.id("wrong"));
    assert!(created.code != 0 && created.stderr.contains("process.execCPUAffinity.initial"), "{}", created.stderr);
}

#[test]
fn limits_umask_and_the_oom_score_are_set() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "ulimit -n; ulimit -Hn; umask; cat /proc/self/oom_score_adj"]);
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]));
    bundle.set("/process/user/umask", json!(0o27));
    bundle.set("/process/oomScoreAdj", json!(123));
    let ran = runtime.run_bundle(&bundle, "attributes");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "77\n88\n0027\n123\n"), "{}", ran.stderr);
}

#[test]
fn a_user_can_open_its_streams_again() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let script = "id -u; echo out > /dev/stdout; echo err > /dev/stderr";
    let bundle = runtime.bundle(&["sh", "-c", script]);
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let ran = runtime.run_bundle(&bundle, "streams");
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "1000\nout\n", "err\n"));
    bundle.set("/process/args", json!(["sh", "-c", "while :; do sleep 1; done"]));
    let id = runtime.started(&bundle, "streams");
    for (user, uid) in [(&[][..], 1000), (&["--user", "1001:1001"], 1001), (&["--user", "0:0"], 0)] {
        let ran = runtime.run(&[&["exec"], user, &[&id, "sh", "-c", script]].concat());
        let expected = format!("{uid}\nout\n");
        assert_eq!((ran.code, ran.stdout, ran.stderr.as_str()), (0, expected, "err\n"), "{user:?}");
    }
}
