// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What containers from images use and how that changes: out of memory, update, stats, top.

mod sandbox;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use sandbox::cgroup::{control, is_v1};
use sandbox::shell::{Shell, eventually};
use serde_json::{Value, json};
use stos_testkit::guard::Need;

/// A shell script that takes memory until there is none left.
const HOG: &str = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done";

const MEBIBYTE: u64 = 1 << 20;

const TIGHT: [&str; 4] = ["-m", "24m", "--memory-swap", "24m"];

fn pid(shell: &Shell, name: &str) -> i64 {
    shell.sandbox.json(&["state", name])["pid"].as_i64().unwrap()
}

fn memory(pid: i64) -> String {
    control(pid, "memory", "memory.limit_in_bytes", "memory.max")
}

fn processes(pid: i64) -> String {
    control(pid, "pids", "pids.max", "pids.max")
}

/// Whether the container's end says everywhere that it ran out of memory; `false` where it says so nowhere.
#[track_caller]
fn is_told_as_out_of_memory(shell: &Shell, name: &str) -> bool {
    let sandbox = &shell.sandbox;
    let inspected = sandbox.json(&["inspect", name])[0]["state"]["exit"]["oom_killed"].as_bool().unwrap();
    let annotation = sandbox.json(&["state", name])["annotations"]["dev.stos.oom-killed"].clone();
    let listed = sandbox.json(&["list", "--format", "json"]);
    let listed = listed.as_array().unwrap().iter().find(|line| line["name"] == name).unwrap()["oom_killed"].clone();
    let table = sandbox.ok(&["list"]);
    let line = table.lines().find(|line| line.ends_with(name)).unwrap();
    assert_eq!(annotation, json!(inspected.to_string()));
    let format = "{{.OOMKilled}}";
    let filter = format!("container={name}");
    let events = ["events", "--stream=false", "-f", &filter, "-f", "event=died", "--format", format];
    // It is written after the end, which `wait` has told already.
    eventually("its end is told", || sandbox.ok(&events).lines().last() == Some(&*inspected.to_string()));
    assert_eq!((listed, line.contains("out of memory")), (json!(inspected), inspected));
    assert_eq!(sandbox.run(&["wait", name]).stderr.contains("want of memory"), inspected);
    inspected
}

#[test]
fn running_out_of_memory_is_told() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let run = |name: &str, options: &[&str], script: &str| {
        let words = [&["run", "--name", name], options, &["shell:1", "sh", "-c", script]].concat();
        shell.sandbox.run(&words).code
    };
    assert_eq!(run("init", &TIGHT, HOG), 137);
    assert!(is_told_as_out_of_memory(&shell, "init"));
    assert_eq!(shell.sandbox.ok(&["wait", "init"]), "137\n");
    // A child is killed, and its parent goes on.
    assert_eq!(run("child", &TIGHT, &format!("sh -c '{HOG}'; echo $?; exit 3")), 3);
    assert_eq!(shell.sandbox.ok(&["logs", "child"]), "137\n");
    assert!(is_told_as_out_of_memory(&shell, "child"));
    assert_eq!(run("killed", &TIGHT, "sh -c 'kill -KILL $$'; echo $?; exit 0"), 0);
    assert!(!is_told_as_out_of_memory(&shell, "killed"));
    let id = shell.sandbox.ok(&["run", "-d", "--name", "signalled", "shell:1", "sleep", "1000"]);
    shell.sandbox.ok(&["kill", "-s", "KILL", id.trim()]);
    assert_eq!(shell.sandbox.ok(&["wait", "signalled"]), "137\n");
    assert!(!is_told_as_out_of_memory(&shell, "signalled"));
    // Started again it has a new life.
    let script = format!("test -e /second || {{ : > /second; {HOG}; }}");
    assert_eq!(run("twice", &TIGHT, &script), 137);
    assert_eq!(shell.sandbox.run(&["start", "-a", "twice"]).code, 0);
    assert!(!is_told_as_out_of_memory(&shell, "twice"));
}

#[test]
fn an_update_counts_at_once_and_for_the_next_start() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let id = sandbox.ok(&["run", "-d", "--name", "web", "-m", "64m", "shell:1", "sleep", "1000"]);
    let first = pid(&shell, "web");
    let printed = sandbox.ok(&["update", "-m", "32m", "--cpus", "0.25", "-c", "512", "--pids-limit", "55", "web"]);
    assert_eq!(printed, id);
    let check = |pid| {
        assert_eq!((memory(pid), processes(pid)), ((32 * MEBIBYTE).to_string(), "55".to_owned()));
        let swap = if is_v1("memory") { 64 } else { 32 } * MEBIBYTE;
        assert_eq!(control(pid, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), swap.to_string());
        assert!(control(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("25000"));
        let shares = if is_v1("cpu") { "512" } else { "59" };
        assert_eq!(control(pid, "cpu", "cpu.shares", "cpu.weight"), shares);
    };
    check(first);
    let restarted = || {
        sandbox.ok(&["stop", "-t", "0", "web"]);
        sandbox.ok(&["start", "web"]);
        pid(&shell, "web")
    };
    check(restarted());
    // Of one that does not run it is kept.
    sandbox.ok(&["stop", "-t", "0", "web"]);
    sandbox.ok(&["update", "--pids-limit=-1", "--memory=-1", "web"]);
    sandbox.ok(&["start", "web"]);
    let unlimited = pid(&shell, "web");
    assert_eq!(processes(unlimited), "max");
    assert_ne!(memory(unlimited), (32 * MEBIBYTE).to_string());
    let swap = control(unlimited, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
    assert!(![32, 64].contains(&swap.parse().map_or(0, |swap: u64| swap / MEBIBYTE)), "{swap}");
    assert!(control(unlimited, "cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("25000"), "what is not named stays");
    let file = sandbox.path("resources.json");
    std::fs::write(&file, json!({"pids": {"limit": 44}, "devices": [{"allow": true}]}).to_string()).unwrap();
    sandbox.ok(&["update", "--resources", file.to_str().unwrap(), "web"]);
    assert_eq!(processes(unlimited), "44");
    let devices = &sandbox.json(&["inspect", "web"])[0]["config"]["linux"]["resources"]["devices"];
    assert_eq!(*devices, json!([{"allow": false, "access": "rwm"}]), "device rules stay");
    assert_eq!(sandbox.names("staging"), [""; 0]);
}

#[test]
fn an_update_that_cannot_be_granted_changes_nothing() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    sandbox.ok(&["run", "-d", "--name", "web", "-m", "64m", "shell:1", "sleep", "1000"]);
    let web = pid(&shell, "web");
    let config = || sandbox.json(&["inspect", "web"])[0]["config"].clone();
    let before = (config(), memory(web), processes(web));
    for (options, said) in [
        (&["--memory=4k"][..], "--memory \"4096\": expected at least 524288"),
        (&["--pids-limit=5", "--memory-swap=32m"], "--memory-swap"),
        (&["--pids-limit=5", "--memory-reservation=65m"], "--memory-reservation"),
        (&["--cpus=4096"], "--cpus \"4096\": this machine has"),
        (&["--pids-limit=5", "--cpuset-cpus=4095"], "--cpuset-cpus"),
        (&["--cpu-shares=1"], "--cpu-shares"),
        (&["--cpus=1", "--cpu-quota=50000"], "--cpu-quota"),
    ] {
        for name in ["web", "no-such"] {
            let refused = sandbox.run(&[&["update"], options, &[name]].concat());
            assert_eq!(refused.code, 1, "{options:?}");
            assert!(name == "no-such" || refused.stderr.contains(said), "{options:?}: {}", refused.stderr);
        }
        assert_eq!((config(), memory(web), processes(web)), before, "{options:?}");
    }
    if is_v1("memory") {
        // The kernel refuses it: so much is in use. What would have been kept is not.
        sandbox.ok(&["exec", "web", "sh", "-c", "head -c 20000000 /dev/zero > /dev/shm/x"]);
        let refused = sandbox.run(&["update", "--pids-limit=5", "--memory=1m", "web"]);
        assert!(refused.code == 1 && refused.stderr.contains("linux.resources.memory.limit"), "{refused:?}");
        assert_eq!((config(), memory(web), processes(web)), before);
    }
}

#[test]
fn what_containers_use_is_told() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let id = sandbox.ok(&["run", "-d", "--name", "web", "-m", "64m", "shell:1", "sh", "-c", "sleep 1000 & wait"]);
    sandbox.ok(&["run", "-d", "--name", "open", "--network", "host", "shell:1", "sleep", "1000"]);
    sandbox.ok(&["create", "--name", "new", "shell:1"]);
    let once = |words: &[&str]| -> Vec<Value> {
        let text = sandbox.ok(&[&["stats", "--no-stream", "--format", "json"], words].concat());
        serde_json::from_str(&text).unwrap()
    };
    eventually("two processes", || once(&["web"])[0]["pids"] == json!(2));
    let web = &once(&["web"])[0];
    assert_eq!((&web["id"], &web["name"]), (&json!(id.trim()), &json!("web")));
    assert_eq!(web["mem_limit"], json!(64 * MEBIBYTE));
    let number = |key: &str| web[key].as_f64().unwrap();
    assert!(number("mem_usage") > 0.0 && number("mem_percent") > 0.0 && number("mem_percent") < 100.0, "{web}");
    assert!(number("cpu_time") > 0.0 && number("cpu_percent") > 0.0 && number("avg_cpu") > 0.0, "{web}");
    assert_eq!((&web["net_input"], &web["block_input"].is_u64()), (&json!(0), &true));
    let names = |lines: &[Value]| {
        let mut names: Vec<_> = lines.iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect();
        names.sort_unstable();
        names.join(" ")
    };
    assert_eq!(names(&once(&[])), "open web");
    assert_eq!(names(&once(&["-a"])), "new open web");
    let both = once(&["open", "new"]);
    assert_eq!(names(&both), "new open");
    assert!(both[0]["net_input"].is_null() && both[0]["mem_limit"].as_u64() > Some(64 * MEBIBYTE), "{both:?}");
    assert_eq!((&both[1]["pids"], &both[1]["cpu_time"]), (&json!(0), &json!(0)));
    let table = sandbox.ok(&["stats", "--no-stream", "web"]);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[0].contains("MEM USAGE / LIMIT") && lines.len() == 2, "{table}");
    assert!(
        lines[1].starts_with(&id[..12]) && lines[1].contains("67.109 MB") && !lines[1].contains(id.trim()),
        "{table}"
    );
    assert!(sandbox.ok(&["stats", "--no-stream", "--no-trunc", "web"]).contains(id.trim()));
    assert_eq!(sandbox.run(&["stats", "--no-stream", "none"]).code, 1);
    assert_ne!(sandbox.run(&["stats", "-a", "web"]).code, 0);
}

#[test]
fn a_stream_of_statistics_goes_on_until_nobody_reads() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    shell.sandbox.ok(&["run", "-d", "--name", "web", "shell:1", "sleep", "1000"]);
    let mut command = shell.sandbox.command();
    let words = ["stats", "--interval", "1", "--format", "json", "web"];
    let mut stats = command.args(words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(stats.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line[0]["name"], json!("web"));
    }
    drop(lines);
    assert!(stats.wait().unwrap().success());
}

#[test]
fn processes_are_shown_as_the_container_sees_them() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let script = "sleep 1000 & sleep 1001 & wait";
    sandbox.ok(&["run", "-d", "--name", "web", "-u", "user", "shell:1", "sh", "-c", script]);
    // Each is the shell for a moment.
    eventually("two that sleep", || sandbox.ok(&["top", "web", "comm,state"]).matches("sleep    S").count() == 2);
    let table = sandbox.ok(&["top", "web"]);
    let header: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["USER", "PID", "PPID", "%CPU", "ELAPSED", "TTY", "TIME", "COMMAND"]);
    let words = "pid,ppid,hpid,user,huser,uid,comm,args,state,seccomp,pgid,nice,capeff,rss,vsz".to_owned();
    let lines = sandbox.json(&["top", "--format", "json", "web", &words]);
    let lines = lines.as_array().unwrap();
    let of = |pid: &str| lines.iter().find(|line| line["pid"] == pid).unwrap();
    let first = of("1");
    assert_eq!(first["hpid"], json!(pid(&shell, "web").to_string()));
    assert_eq!((&first["ppid"], &first["user"], &first["uid"]), (&json!("0"), &json!("user"), &json!("1000")));
    assert_eq!(first["capeff"], json!("none"));
    // What the host calls the user is none of the container's names.
    let host = std::fs::read_to_string("/etc/passwd").unwrap();
    let host = host.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[2] == "1000");
    assert_eq!(first["huser"], json!(host.map_or("1000", |fields| fields[0])));
    assert!(first["args"].as_str().unwrap().starts_with("sh -c sleep 1000"), "{first}");
    let children: Vec<_> = lines.iter().filter(|line| line["ppid"] == "1").collect();
    assert_eq!(children.len(), 2);
    assert!(
        children.iter().all(|line| line["comm"] == "sleep" && line["pgid"] == "1" && line["state"] == "S"),
        "{lines:?}"
    );
    assert!(lines.iter().all(|line| line["rss"].as_str().unwrap().parse::<u64>().unwrap() > 0));
    let codes = sandbox.ok(&["top", "web", "%p", "%c"]);
    assert!(codes.starts_with("PID  COMMAND\n1    sh\n"), "{codes}");
    // ps(1) of the host is asked where its options are given.
    if stos_testkit::environment::tool("ps").is_some() {
        assert!(sandbox.ok(&["top", "web", "-eo", "pid,args"]).contains("sleep 1001"));
    }
    let unknown = sandbox.run(&["top", "web", "bogus"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("\"bogus\" is no descriptor"), "{unknown:?}");
    sandbox.ok(&["stop", "-t", "0", "web"]);
    let stopped = sandbox.run(&["top", "web"]);
    assert!(stopped.code == 1 && stopped.stderr.contains("stopped"), "{stopped:?}");
}
