// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods whose processes are killed, whose machine goes down, and that several commands are at work on: nothing of them stays.

mod sandbox;

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use sandbox::host::{Host, answers, busybox, names, require_networks};
use sandbox::output;
use sandbox::pods::{Pods, SLEEP, kill, kill_with_monitor, parent};
use sandbox::shell::eventually;
use serde_json::{Value, json};

#[test]
fn a_pod_with_shared_processes_has_a_first_one_that_leads_nowhere() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "--share", "+pid"]);
    host.in_pod("web", "one", SLEEP);
    host.in_pod("web", "two", SLEEP);
    let infra = host.infra("web");
    assert!(infra > 0);
    assert_eq!(host.inside("one", "cat /proc/1/comm"), "stos-pause\n");
    let seen = host.inside("one", "cat /proc/*/cmdline | /host-bin/busybox tr '\\0' ' '");
    assert!(seen.contains("stos-pause") && !seen.contains("--data-root"), "{seen}");
    let sleepers = |name: &str| {
        let script = "/host-bin/busybox ps -o comm | /host-bin/busybox grep -c sleep";
        host.run(&["exec", name, "sh", "-c", script]).stdout
    };
    eventually("each sees the other's process", || sleepers("one") == "2\n" && sleepers("two") == "2\n");
    // Not even who may trace finds anything of the host's there.
    let tools = busybox();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let words = [
        &["run", "--rm", "--pod", "web", "--cap-add", "SYS_PTRACE"],
        tools.as_slice(),
        &["shell:1", "sh", "-c", "ls -a /proc/1/root/"],
    ];
    let found = host.ok(&words.concat());
    assert_eq!(found.split_whitespace().collect::<Vec<_>>(), [".", ".."], "{found}");
    assert_ne!(host.run(&["exec", "one", "ls", "/proc/1/root/"]).code, 0);
    // From within nothing ends it, and it has no rights.
    host.inside("one", "kill -KILL 1; kill -TERM 1; true");
    let status = fs::read_to_string(format!("/proc/{infra}/status")).unwrap();
    for line in ["CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_eq!(fs::read_dir(format!("/proc/{infra}/fd")).unwrap().count(), 0);
    // It reaps what loses its parent.
    host.inside("one", "(true & exec sleep 0.01) & exit 0");
    eventually("nothing is left to reap", || !host.inside("one", "/host-bin/busybox ps -o stat,comm").contains("Z"));
    // Killed, it takes all of them along, but not who has other processes; and a new one is made at the next start.
    let words = ["run", "-d", "--pod", "web", "--pid", "host", "--name", "other"];
    host.ok(&[&words[..], &tools, &["shell:1", "sh", "-c", SLEEP]].concat());
    kill(infra);
    eventually("both have ended", || ["one", "two"].iter().all(|name| host.shell.status(name) == "stopped"));
    assert_eq!(host.shell.status("other"), "running");
    host.ok(&["pod", "start", "web"]);
    assert_eq!(host.pod_status("web"), "Running");
    let network = |name: &str| host.inside(name, "/host-bin/busybox readlink /proc/self/ns/net");
    assert_eq!(network("one"), network("other"));
    host.ok(&["rm", "-f", "other"]);
    let second = host.infra("web");
    assert!(second > 0 && second != infra);
    eventually("each sees the other's process again", || sleepers("one") == "2\n");
    host.ok(&["pod", "rm", "-f", "web"]);
    host.assert_no_pod_is_left();
    let line = fs::read_to_string(format!("/proc/{second}/cmdline")).unwrap_or_default();
    assert!(!line.starts_with("stos-pause"), "{line}");
}

#[test]
fn ports_are_held_again_when_their_holder_was_killed() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "-p", "18093:7000"]);
    host.in_pod("web", "one", SLEEP);
    let network = host.inside("one", "/host-bin/busybox readlink /proc/self/ns/net");
    let first = host.infra("web");
    kill(first);
    assert_eq!((host.infra("web"), host.shell.status("one").as_str()), (0, "running"));
    // The next container brings another one, and is where the first is.
    host.in_pod("web", "two", SLEEP);
    assert_eq!(host.inside("two", "/host-bin/busybox readlink /proc/self/ns/net"), network);
    assert!(host.infra("web") > 0);
    host.refused(125, &["18093"], &["run", "--rm", "-p", "18093:80", "shell:1", "ls"]);
    host.ok(&["pod", "rm", "-f", "web"]);
    host.assert_no_pod_is_left();
}

#[test]
fn killed_monitors_leave_nothing_that_the_next_command_does_not_clear() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "-p", "18094:7000"]);
    for next in
        [&["pod", "stop", "web"][..], &["pod", "restart", "web"], &["pod", "start", "web"], &["pod", "rm", "web"]]
    {
        if host.run(&["container", "exists", "one"]).code == 0 {
            host.ok(&["pod", "start", "web"]);
        } else {
            host.in_pod("web", "one", SLEEP);
        }
        kill_with_monitor(&host, "one");
        assert_eq!(host.pod_status("web"), "Degraded");
        host.ok(next);
        match next[1] {
            "stop" => host.assert_nothing_is_left(),
            "rm" => {}
            _ => assert_eq!(host.pod_status("web"), "Running"),
        }
    }
    host.assert_no_pod_is_left();
    // One that should stop with its last container does so at the next sweep.
    host.pod(&["--name", "web", "--exit-policy", "stop"]);
    host.in_pod("web", "one", SLEEP);
    kill_with_monitor(&host, "one");
    assert!(host.ok(&["system", "gc"]).contains("pod"));
    assert_eq!(host.pod_status("web"), "Exited");
    host.ok(&["pod", "rm", "web"]);
    host.assert_no_pod_is_left();
}

#[test]
fn what_ends_with_its_pod_is_not_started_again_meanwhile() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web"]);
    let run = |name: &str, options: &[&str], trap: &str| {
        let script = format!("trap '{trap}' TERM; echo life; while :; do sleep 0.05; done");
        let words = [&["run", "-d", "--pod", "web", "--name", name], options, &["shell:1", "sh", "-c", &script]];
        host.ok(&words.concat());
        eventually("it hears signals", || host.ok(&["logs", name]) == "life\n");
    };
    run("slow", &["--stop-timeout", "1000"], "sleep 1; exit 3");
    run("quick", &["--stop-timeout", "1000", "--restart", "always"], "exit 3");
    run("deaf", &["--stop-timeout", "1"], "");
    // Each has its own time to end: so it is said of the one that is killed.
    let one_is_killed = |words: &[&str]| {
        let ran = host.run(words);
        assert!(ran.code == 0 && ran.stderr.split_whitespace().any(|word| word == "seconds=1"), "{ran:?}");
    };
    one_is_killed(&["pod", "stop", "web"]);
    for name in ["slow", "quick"] {
        assert_eq!(host.ok(&["logs", name]), "life\n", "{name}");
        assert_eq!(host.json(&["inspect", name])[0]["State"]["ExitCode"], 3, "{name}");
    }
    host.ok(&["pod", "start", "web"]);
    for name in ["slow", "quick", "deaf"] {
        eventually("it hears signals again", || host.ok(&["logs", name]) == "life\nlife\n");
    }
    one_is_killed(&["pod", "restart", "web"]);
    host.ok(&["pod", "stop", "-t", "0", "web"]);
    host.ok(&["pod", "rm", "web"]);
    host.assert_no_pod_is_left();
}

/// Whether the pod has ended and its place in ROOT is gone, which goes last.
fn has_stopped(host: &Host) -> bool {
    host.pod_status("web") == "Exited" && names(&host.shell.sandbox.root().join("pods")).is_empty()
}

#[test]
fn what_is_to_be_started_again_keeps_its_pod() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "--exit-policy", "stop"]);
    let script = "/host-bin/busybox readlink /proc/self/ns/net; exit 1";
    let tools = busybox();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let run = |name: &str, policy: &str| {
        let words = ["run", "-d", "--pod", "web", "--name", name, "--restart", policy];
        host.ok(&[&words[..], &tools, &["shell:1", "sh", "-c", script]].concat());
    };
    let lives = |name: &str| host.ok(&["logs", name]).lines().count();
    run("fails", "always");
    // Each wait is longer: the fourth is most of a second.
    eventually("it waits", || lives("fails") >= 4 && host.shell.status("fails") == "stopped");
    assert_eq!(host.pod_status("web"), "Running");
    assert!(host.json(&["pod", "ls", "--format", "json"])[0]["Containers"][0]["RestartCount"].as_u64() >= Some(3));
    assert_eq!(host.ok(&["pod", "prune", "--force"]), "");
    host.refused(125, &["fails", "running", "hint: "], &["pod", "rm", "web"]);
    // The end of another one does not take it down either.
    run("other", "on-failure:1");
    eventually("the other one has ended", || lives("other") == 2);
    eventually("it was started again", || lives("fails") >= 6);
    let seen = host.ok(&["logs", "fails"]) + &host.ok(&["logs", "other"]);
    assert!(seen.lines().all(|network| Some(network) == seen.lines().next()), "{seen}");
    // Nobody waits for what has failed too often, or was stopped.
    host.ok(&["stop", "fails"]);
    eventually("the pod has stopped", || has_stopped(&host));
    host.assert_nothing_is_left();
    assert_eq!(host.ok(&["pod", "prune", "--force"]).lines().count(), 1);
    host.assert_no_pod_is_left();
}

#[test]
fn with_exit_policy_stop_a_pod_ends_with_its_last_container() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "--exit-policy", "stop", "-p", "18095:7000"]);
    host.in_pod("web", "one", SLEEP);
    host.in_pod("web", "two", SLEEP);
    host.ok(&["stop", "one"]);
    assert_eq!(host.pod_status("web"), "Degraded");
    host.ok(&["stop", "two"]);
    eventually("the pod has stopped", || has_stopped(&host));
    host.assert_nothing_is_left();
    host.ok(&["start", "one"]);
    assert_eq!(host.pod_status("web"), "Degraded");
    host.ok(&["rm", "-f", "one", "two"]);
    eventually("the pod has stopped", || has_stopped(&host));
    host.ok(&["pod", "rm", "web"]);
    host.assert_no_pod_is_left();
}

/// Ends a pod with one container as a power cut does: its processes and all mounts are gone. ROOT is gone too, or on a disk it tells of
/// another boot.
fn reboot(host: &Host, keeps_root: bool) {
    let infra = host.infra("web");
    let pid = host.json(&["state", "one"])["pid"].as_i64().unwrap();
    for pid in [parent(pid), pid, infra].into_iter().filter(|pid| *pid > 1) {
        kill(pid);
    }
    let sandbox = &host.shell.sandbox;
    for mount in sandbox.mounts("").iter().rev() {
        stos_sys::mount::detach(mount).unwrap();
    }
    if !keeps_root {
        fs::remove_dir_all(sandbox.root()).unwrap();
        return;
    }
    let other = json!("8d4a02b8-0000-4000-8000-5f7a5a2f6f2c");
    for (directory, keys) in [("containers", &["creator", "init"][..]), ("pods", &["infra"])] {
        for name in names(&sandbox.root().join(directory)) {
            let path = sandbox.root().join(directory).join(name).join("state.json");
            let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            for key in keys.iter().filter(|key| !state[**key].is_null()).collect::<Vec<_>>() {
                // The number is that of a living process of this boot.
                state[*key]["pid"] = json!(std::process::id());
                state[*key]["boot_id"] = other.clone();
            }
            if directory == "pods" {
                state["boot_id"] = other.clone();
            }
            fs::write(&path, state.to_string()).unwrap();
        }
    }
}

#[test]
fn a_pod_starts_again_after_a_reboot() {
    require_networks!();
    for (keeps_root, share) in [(true, "+pid"), (false, "ipc,net,uts")] {
        let host = Host::new();
        host.pod(&["--name", "web", "-p", "18096:7000", "--share", share]);
        host.in_pod("web", "one", &answers(7000, "again"));
        reboot(&host, keeps_root);
        // The host's side of the network went with the machine.
        for link in host.on(&["ip", "-o", "link"]).lines().filter_map(|line| line.split(": ").nth(1)) {
            if link != "lo" {
                let _ = output(&mut host.command(&["ip", "link", "delete", link.split('@').next().unwrap()]));
            }
        }
        // Its lock is all hosts'.
        host.on(&["iptables", "-w", "-t", "nat", "-F"]);
        assert_eq!(host.pod_status("web"), "Exited", "{share}");
        host.ok(&["pod", "start", "web"]);
        assert_eq!(host.pod_status("web"), "Running", "{share}");
        let words = ["busybox", "nc", "-w", "5", "127.0.0.1", "18096"];
        eventually("the port answers", || output(host.command(&words).stdin(Stdio::null())).stdout == "again\n");
        host.ok(&["pod", "rm", "-f", "web"]);
        assert_eq!(host.shell.sandbox.names("pods"), [""; 0]);
    }
}

/// Starts a command and goes on.
fn begin(host: &Host, words: &[&str]) -> Child {
    host.stos_command(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn commands_at_once_on_one_pod_agree() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "-p", "18097:7000", "--share", "+pid"]);
    for name in ["a", "b", "c"] {
        host.ok(&["create", "--pod", "web", "--name", name, "shell:1", "sh", "-c", SLEEP]);
    }
    // One of them makes what is shared, the others find it.
    let all = ["start a", "start b", "start c", "pod start web", "pod start web"];
    let started: Vec<_> = all.iter().map(|line| begin(&host, &line.split(' ').collect::<Vec<_>>())).collect();
    for child in started {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!(host.pod_status("web"), "Running");
    assert_eq!(host.inside("a", "cat /proc/1/comm"), "stos-pause\n");
    let same = |name: &str| {
        let pid = host.json(&["state", name])["pid"].as_i64().unwrap();
        ["net", "ipc", "uts", "pid"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap())
    };
    assert!(same("a") == same("b") && same("b") == same("c"));
    // Who comes while it goes is in time, or is told; and nothing of it stays.
    for _ in 0..5 {
        let mut children = vec![begin(&host, &["pod", "rm", "-f", "web"])];
        for _ in 0..3 {
            children.push(begin(&host, &["run", "-d", "--rm", "--pod", "web", "shell:1", "sleep", "1000"]));
        }
        children.push(begin(&host, &["pod", "stop", "-t", "0", "web"]));
        for child in children {
            drop(child.wait_with_output().unwrap());
        }
        host.ok(&["pod", "rm", "-f", "--ignore", "web"]);
        assert_eq!(host.ok(&["ps", "-aq"]), "");
        host.assert_no_pod_is_left();
        host.pod(&["--name", "web"]);
    }
}

#[test]
fn a_command_that_is_killed_at_any_moment_leaves_what_the_next_one_clears() {
    require_networks!();
    let host = Host::new();
    let moments = (0..24_u64).map(|step| Duration::from_millis(step * step));
    for (number, moment) in moments.enumerate() {
        let share = if number % 2 == 0 { "+pid" } else { "ipc,net,uts" };
        host.pod(&["--name", "web", "-p", "18098:7000", "--share", share]);
        host.ok(&["create", "--pod", "web", "--name", "one", "shell:1", "sh", "-c", SLEEP]);
        let command = match number % 3 {
            0 => vec!["pod", "start", "web"],
            1 => vec!["run", "-d", "--rm", "--pod", "web", "shell:1", "sleep", "1000"],
            _ => {
                host.ok(&["pod", "start", "web"]);
                vec!["pod", "stop", "-t", "0", "web"]
            }
        };
        let mut child = begin(&host, &command);
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        // Whatever is there, it starts; and all of it goes.
        if number % 4 == 0 {
            host.ok(&["pod", "start", "web"]);
            eventually("it runs", || host.shell.status("one") == "running");
            assert_eq!(host.pod_status("web"), "Running", "{command:?} killed after {moment:?}");
        }
        host.ok(&["pod", "rm", "-f", "web"]);
        // A container that was on its way into staging, or had its name and nothing else.
        host.ok(&["system", "gc"]);
        host.assert_taken_down();
        host.assert_nothing_is_recorded();
    }
}

#[test]
fn twenty_pods_come_and_go_and_leave_nothing() {
    require_networks!();
    let host = Host::new();
    host.ok(&["network", "create", "many"]);
    for number in 0..20 {
        let name = format!("p{number}");
        let port = format!("127.0.0.1:{}:80", 18100 + number);
        // Each kind that there is: with a process or without.
        let options = match number % 4 {
            0 => vec!["-p", &port],
            1 => vec!["--share", "+pid,cgroup"],
            2 => vec!["--network", "none"],
            _ => vec![],
        };
        let network = if number % 4 == 2 { vec![] } else { vec!["--network", "many"] };
        host.pod(&[&["--name", name.as_str()], options.as_slice(), network.as_slice()].concat());
        host.ok(&["run", "-d", "--pod", &name, "--name", &format!("c{number}"), "shell:1", "sleep", "1000"]);
    }
    assert_eq!(host.ok(&["pod", "ps", "-q", "--filter", "status=running"]).lines().count(), 20);
    let found = host.json(&["network", "inspect", "many"]);
    assert_eq!(found[0]["containers"].as_object().unwrap().len(), 15);
    host.refused(2, &["many", "p0"], &["network", "rm", "many"]);
    assert_eq!(host.ok(&["network", "prune", "--force"]), "");
    host.ok(&["pod", "stop", "-t", "0", "--all"]);
    host.assert_nothing_is_left();
    host.ok(&["pod", "start", "--all"]);
    host.ok(&["network", "rm", "-f", "many"]);
    assert_eq!(host.ok(&["pod", "ls", "-q"]).lines().count(), 5);
    host.ok(&["pod", "rm", "-f", "--all"]);
    host.assert_no_pod_is_left();
}
