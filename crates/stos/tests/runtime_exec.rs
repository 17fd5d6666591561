// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `exec` by runc's command line: where a further process runs, as whom, with what, and what it must not get.

mod runtime_scene;

use std::fs;
use std::io::Write;
use std::process::Stdio;

use runtime_scene::{Runtime, cgroup_of, eventually, output};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::require;
use stos_testkit::shell::through_shell;

const FOREVER: [&str; 3] = ["sh", "-c", "while :; do sleep 1; done"];

fn running(runtime: &Runtime, name: &str) -> String {
    runtime.started(&runtime.bundle(&FOREVER), name)
}

/// `exec OPTIONS ID sh -c SCRIPT`.
fn exec(runtime: &Runtime, options: &[&str], id: &str, script: &str) -> runtime_scene::Output {
    runtime.run(&[&["exec"], options, &[id, "sh", "-c", script]].concat())
}

#[track_caller]
fn says(runtime: &Runtime, options: &[&str], id: &str, script: &str) -> String {
    let ran = exec(runtime, options, id, script);
    assert_eq!(ran.code, 0, "{options:?} {script:?}: {}", ran.stderr);
    ran.stdout
}

fn process_file(runtime: &Runtime, process: &Value) -> String {
    let path = runtime.path("process.json");
    fs::write(&path, process.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn its_streams_and_its_end_are_the_caller_s() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = running(&runtime, "streams");
    let ran = exec(&runtime, &[], &id, "echo out; echo err >&2; exit 7");
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "out\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("err\n"), "{}", ran.stderr);
    assert_eq!(exec(&runtime, &[], &id, "kill -9 $$").code, 137);
    let mut cat = runtime.command();
    cat.args(["exec", &id, "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cat = cat.spawn().unwrap();
    cat.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"typed\n");
    assert_eq!(runtime.status(&id), "running", "the container goes on");
}

#[test]
fn it_is_in_the_container_s_namespaces_and_cgroups() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = running(&runtime, "where");
    let kinds = "cgroup ipc mnt net pid uts";
    let of =
        |process: &str| says(&runtime, &[], &id, &format!("for n in {kinds}; do readlink /proc/{process}/ns/$n; done"));
    assert_eq!(of("self"), of("1"));
    assert_eq!(says(&runtime, &[], &id, "hostname; cat /proc/self/cgroup"), {
        format!("runtime\n{}", says(&runtime, &[], &id, "cat /proc/1/cgroup"))
    });
    // Seen from the host, where a cgroup namespace hides nothing.
    let pid_file = runtime.path("pid");
    let mut detached = runtime.command();
    detached.args(["exec", "--detach", "--pid-file"]).arg(&pid_file).args([&id, "sleep", "1000"]);
    let ran = runtime.detached(detached, &id);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let pid: i64 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let init = runtime.state(&id)["pid"].as_i64().unwrap();
    for controller in ["pids", "memory", "freezer", "cpu"] {
        assert_eq!(cgroup_of(pid, controller), cgroup_of(init, controller), "{controller}");
    }
    // It runs when exec returns, and a moment later its words can be read.
    eventually(|| fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sleep\0"));
    runtime.ok(&["kill", &id, "KILL"]);
    runtime.wait_for(&id, "stopped");
}

#[test]
fn options_change_the_process() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&FOREVER);
    fs::create_dir(bundle.rootfs("srv")).unwrap();
    bundle.set("/process/noNewPrivileges", json!(false));
    let id = runtime.started(&bundle, "options");
    let options = ["--user", "1000:1001", "--cwd", "/srv", "-e", "A=1", "-e", "TERM=other", "-e", "PATH=/bin"];
    let script = "id -u; id -g; pwd; echo $A $TERM $HOME";
    // The account file of the root names this user's home.
    assert_eq!(says(&runtime, &options, &id, script), "1000\n1001\n/srv\n1 other /home/user\n");
    assert_eq!(says(&runtime, &["-u", "1000"], &id, "id -u; id -g"), "1000\n0\n", "the group stays the container's");
    assert_eq!(says(&runtime, &["-e", "B=1", "-e", "B=2", "-e", "PATH=/bin"], &id, "echo $B"), "2\n");
    let status = |options: &[&str], key: &str| {
        let status = says(&runtime, options, &id, "cat /proc/self/status");
        status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    };
    let bits = |set: &str| u64::from_str_radix(set, 16).unwrap();
    let net_admin = 1 << 12;
    for set in ["CapBnd:", "CapEff:", "CapPrm:"] {
        assert_eq!(bits(&status(&[], set)) & net_admin, 0);
        assert_ne!(bits(&status(&["--cap", "CAP_NET_ADMIN"], set)) & net_admin, 0, "{set}");
    }
    // CVE-2022-29162: what is inheritable would pass into any file's capabilities.
    assert_eq!(bits(&status(&["--cap", "CAP_NET_ADMIN"], "CapInh:")), 0);
    assert_eq!(status(&[], "NoNewPrivs:"), "0");
    assert_eq!(status(&["--no-new-privs"], "NoNewPrivs:"), "1");
    // crun 1.8 has no such option.
    assert!(runtime.is_called("crun") || status(&["-g", "7", "-g", "8"], "Groups:") == "7 8");
}

#[test]
fn a_process_file_says_it_all() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = running(&runtime, "file");
    let mut process = json!({
        "args": ["sh", "-c", "id -u; umask; pwd; env; cat /proc/self/oom_score_adj; ulimit -n; cat /proc/self/status"],
        "cwd": "/tmp",
        "env": ["PATH=/bin", "ONLY=this"],
        "user": {"uid": 12, "gid": 13, "umask": 0o77, "additionalGids": [14]},
        "oomScoreAdj": 500,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        "noNewPrivileges": true,
    });
    let run = |process: &Value| runtime.run(&["exec", "--process", &process_file(&runtime, process), &id]);
    let ran = run(&process);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let lines: Vec<_> = ran.stdout.lines().collect();
    // runc takes the umask of the container's own process.
    assert_eq!((lines[0], lines[2]), ("12", "/tmp"), "{}", ran.stdout);
    assert!(!runtime.is_ours() || lines[1] == "0077", "{}", ran.stdout);
    assert!(lines.contains(&"ONLY=this") && !lines.iter().any(|line| line.starts_with("TERM=")), "{}", ran.stdout);
    // runc 1.1 and crun 1.8 leave the score as the caller's.
    assert!(!runtime.is_ours() || lines.contains(&"500"), "{}", ran.stdout);
    for line in ["100", "CapBnd:\t0000000000000020", "NoNewPrivs:\t1"] {
        assert!(lines.contains(&line), "{line}: {}", ran.stdout);
    }
    process["args"] = json!([]);
    let refused = run(&process);
    assert!(!runtime.is_ours() || refused.stderr.contains("process.args"), "{}", refused.stderr);
    assert_ne!(refused.code, 0);
    process["args"] = json!(["sh", "-c", ":"]);
    process["unheardOf"] = json!(1);
    let ran = run(&process);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!runtime.is_ours() || ran.stderr.contains("process.unheardOf"), "{}", ran.stderr);
}

#[test]
fn a_process_file_leaves_the_container_s_confinement() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "while :; do sleep 1; done"]);
    bundle.set("/process/oomScoreAdj", json!(300));
    let id = runtime.started(&bundle, "confined");
    let script = "cat /proc/self/oom_score_adj; while read key value; do case $key in CapEff:) echo $value;; esac; done </proc/self/status";
    let process =
        json!({"cwd": "/", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "user": {"uid": 0, "gid": 0}});
    let said = runtime.ok(&["exec", "--process", &process_file(&runtime, &process), &id]);
    let said: Vec<_> = said.lines().collect();
    let expected = ["300", "0000000020000420"];
    // crun takes the file as it is.
    assert!(said == expected || runtime.is_called("crun"), "{said:?}");
}

#[test]
fn what_cannot_run_is_told() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&FOREVER);
    fs::write(bundle.rootfs("plain"), "no program\n").unwrap();
    let id = runtime.started(&bundle, "cannot");
    // The words by which engines tell 126 from 127.
    for (command, words) in [
        ("no-such-command", "not found in $PATH"),
        ("/no/such", "no such file or directory"),
        ("/plain", if runtime.is_called("crun") { "not executable" } else { "permission denied" }),
    ] {
        let refused = runtime.run(&["exec", &id, command]);
        assert!(
            refused.code != 0 && refused.stderr.to_lowercase().contains(&words.to_lowercase()),
            "{}",
            refused.stderr
        );
        assert!(!runtime.is_ours() || refused.code == 255, "{}", refused.code);
    }
    for arguments in [&["--cwd", "/no/such", &id, "true"][..], &[&id], &["no-such-container", "true"]] {
        assert_ne!(runtime.run(&[&["exec"], arguments].concat()).code, 0, "{arguments:?}");
    }
    assert!(!bundle.rootfs("no").exists(), "a further process makes no directory");
    runtime.ok(&["kill", &id, "KILL"]);
    runtime.wait_for(&id, "stopped");
    assert_ne!(exec(&runtime, &[], &id, "true").code, 0);
}

#[test]
fn a_created_container_takes_a_process_too() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = runtime.id("created");
    assert_eq!(runtime.create(&runtime.bundle(&FOREVER), &id).code, 0);
    assert_eq!(says(&runtime, &[], &id, "hostname"), "runtime\n");
    assert_eq!(runtime.status(&id), "created");
}

#[test]
fn a_paused_container_takes_none_but_by_asking() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    // One that forks at that moment may keep v1's freezer from its end.
    let id = runtime.started(&runtime.bundle(&["sleep", "1000"]), "paused");
    let init = runtime.state(&id)["pid"].as_i64().unwrap();
    let Some(freezer) = cgroup_of(init, "freezer") else { return };
    // runc's start returns before the command runs, and a runtime that is frozen on its way there cannot be helped.
    eventually(|| fs::read(format!("/proc/{init}/cmdline")).unwrap().starts_with(b"sleep\0"));
    fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    runtime.wait_for(&id, "paused");
    let refused = exec(&runtime, &[], &id, "true");
    assert!(refused.code != 0 && refused.stderr.contains("paused"), "{}", refused.stderr);
    if runtime.is_ours() {
        let mut waiting = runtime.command();
        let mut waiting = waiting.args(["exec", "--ignore-paused", &id, "sh", "-c", "exit 5"]).spawn().unwrap();
        assert_eq!(waiting.try_wait().unwrap(), None);
        fs::write(freezer.join("freezer.state"), "THAWED").unwrap();
        assert_eq!(waiting.wait().unwrap().code(), Some(5));
    }
    fs::write(freezer.join("freezer.state"), "THAWED").unwrap();
    runtime.wait_for(&id, "running");
}

#[test]
fn no_descriptor_of_the_host_comes_along() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = running(&runtime, "leak");
    let with_directory = |command: &mut std::process::Command| output(&mut through_shell("exec 7</", command));
    let mut list = runtime.command();
    list.args(["exec", &id, "ls", "/proc/self/fd"]);
    let listed = with_directory(&mut list);
    // 3 is what ls lists by.
    assert_eq!((listed.code, listed.stdout.as_str()), (0, "0\n1\n2\n3\n"), "{}", listed.stderr);
    if runtime.is_called("crun") {
        // 1.8 lets it out.
        return;
    }
    // CVE-2024-21626: a working directory, and a program, by way of a descriptor.
    for number in 3..12 {
        let directory = format!("/proc/self/fd/{number}");
        let mut inside = runtime.command();
        inside.args(["exec", "--cwd", &directory, &id, "ls", "../../../../etc/machine-id", "etc/machine-id"]);
        assert_ne!(with_directory(&mut inside).code, 0, "{directory}");
        let mut program = runtime.command();
        program.args(["exec", &id, &format!("{directory}/bin/true")]);
        assert_ne!(with_directory(&mut program).code, 0, "{directory}");
    }
}

#[test]
fn descriptors_are_passed_on_by_number() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = running(&runtime, "preserve");
    let (one, two) = (runtime.path("one"), runtime.path("two"));
    fs::write(&one, "first\n").unwrap();
    fs::write(&two, "second\n").unwrap();
    let open = format!("exec 3<{} 4<{} 5<{}", one.display(), two.display(), one.display());
    let mut cat = runtime.command();
    cat.args(["exec", "--preserve-fds", "2", &id, "sh", "-c", "cat <&3; cat <&4; ls /proc/self/fd"]);
    let ran = output(&mut through_shell(&open, &cat));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "first\nsecond\n0\n1\n2\n3\n4\n5\n"), "{}", ran.stderr);
    if runtime.is_ours() {
        // 5 is ls's own; passed on, it would be 6.
        let mut few = runtime.command();
        few.args(["exec", "--preserve-fds", "9", &id, "true"]);
        let refused = output(&mut through_shell(&open, &few));
        assert!(refused.code == 255 && refused.stderr.contains("--preserve-fds"), "{}", refused.stderr);
    }
}

#[test]
fn a_process_may_go_into_a_cgroup_below() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = running(&runtime, "sub");
    let init = runtime.state(&id)["pid"].as_i64().unwrap();
    let Some(pids) = cgroup_of(init, "pids").filter(|_| !runtime.is_called("crun")) else {
        // crun takes a path alone, and v2's.
        return;
    };
    fs::create_dir(pids.join("below")).unwrap();
    let pid_file = runtime.path("pid");
    let mut detached = runtime.command();
    detached.args(["exec", "-d", "--cgroup", "pids:below", "--pid-file"]).arg(&pid_file).args([&id, "sleep", "1000"]);
    let ran = runtime.detached(detached, &id);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let pid: i64 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert_eq!(cgroup_of(pid, "pids"), Some(pids.join("below")));
    assert_eq!(cgroup_of(pid, "memory"), cgroup_of(init, "memory"));
    for cgroup in ["pids:none", "no-such-controller:below", "pids:../.."] {
        assert_ne!(exec(&runtime, &["--cgroup", cgroup], &id, "true").code, 0, "{cgroup}");
    }
    runtime.ok(&["kill", &id, "KILL"]);
    runtime.wait_for(&id, "stopped");
}

/// runtime.md, "create": "Any updates to config.json after this step MUST NOT affect the container".
#[test]
fn a_bundle_changed_later_changes_no_exec() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    // runc and crun read the bundle's process again.
    if !runtime.is_ours() {
        return;
    }
    let bundle = runtime.bundle(&FOREVER);
    let id = runtime.started(&bundle, "later");
    bundle.set("/process/env", json!(["PATH=/bin", "CHANGED=1"])).set("/process/user/uid", json!(77));
    assert_eq!(says(&runtime, &[], &id, "id -u; echo $CHANGED"), "0\n\n");
    fs::remove_file(bundle.dir.join("config.json")).unwrap();
    assert_eq!(says(&runtime, &[], &id, "id -u"), "0\n");
}

#[test]
fn signals_go_to_the_process() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = running(&runtime, "signal");
    let said = runtime.path("said");
    let mut command = runtime.command();
    command.args(["exec", &id, "sh", "-c", "trap 'echo usr1; exit 3' USR1; echo ready; while :; do sleep 0.05; done"]);
    let mut child = command.stdout(fs::File::create(&said).unwrap()).spawn().unwrap();
    eventually(|| fs::read_to_string(&said).unwrap().contains("ready"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(fs::read_to_string(&said).unwrap(), "ready\nusr1\n");
}
