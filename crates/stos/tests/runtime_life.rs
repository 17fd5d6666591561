// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's life by runc's command line: create, start, state, kill, delete, and what each refuses.

mod runtime_scene;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::process::Command;

use runtime_scene::{Runtime, eventually, output};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::require;

#[test]
fn a_life() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "echo in the bundle; hostname"]);
    bundle.set("/annotations", json!({"a.example/key": "value"}));
    let id = runtime.id("life");
    let created = runtime.create(&bundle, &id);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let state = runtime.state(&id);
    assert_eq!((&state["status"], &state["id"]), (&json!("created"), &json!(id)));
    assert_eq!(state["bundle"], json!(bundle.dir.canonicalize().unwrap()));
    assert_eq!(state["annotations"]["a.example/key"], "value");
    assert!(state["pid"].as_i64().unwrap() > 0 && state["ociVersion"].as_str().unwrap().starts_with("1."));
    assert_eq!(runtime.said(&id), "", "nothing runs before the start");
    assert_ne!(runtime.create(&bundle, &id).code, 0, "the id is taken");
    runtime.ok(&["start", &id]);
    runtime.wait_for(&id, "stopped");
    assert_eq!(runtime.said(&id), "in the bundle\nruntime\n");
    assert_ne!(runtime.run(&["start", &id]).code, 0, "it has ended");
    runtime.ok(&["delete", &id]);
    assert_ne!(runtime.run(&["state", &id]).code, 0);
    assert_ne!(runtime.run(&["delete", &id]).code, 0);
    runtime.ok(&["delete", "--force", &id]);
}

#[test]
fn run_gives_the_exit_code_and_leaves_nothing() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "echo out; echo err >&2; exit 11"]);
    let ran = runtime.run_bundle(&bundle, "run");
    assert_eq!((ran.code, ran.stdout.as_str()), (11, "out\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("err\n"), "{}", ran.stderr);
    // The first process of a pid namespace ends by no signal of its own.
    let own: Vec<_> = bundle.config()["linux"]["namespaces"].as_array().unwrap().clone();
    bundle.set("/linux/namespaces", own.into_iter().filter(|it| it["type"] != "pid").collect());
    bundle.set("/process/args", json!(["sh", "-c", "kill -9 $$"]));
    assert_eq!(runtime.run_bundle(&bundle, "killed").code, 137);
    assert_eq!(runtime.ok(&["list", "--quiet"]).trim(), "");
    // Where no bundle is named it is the current directory.
    bundle.set("/process/args", json!(["echo", "from here"]));
    let ran = output(runtime.command().current_dir(&bundle.dir).args(["run", &runtime.id("here")]));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "from here\n"), "{}", ran.stderr);
}

#[test]
fn kill_sends_the_signal_and_delete_wants_an_end() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done"]);
    let id = runtime.started(&bundle, "kill");
    assert_eq!(runtime.status(&id), "running");
    runtime_scene::eventually(|| runtime.said(&id).contains("ready"));
    runtime.ok(&["kill", &id, "USR1"]);
    runtime_scene::eventually(|| runtime.said(&id).contains("usr1"));
    assert_ne!(runtime.run(&["delete", &id]).code, 0, "it runs");
    runtime.ok(&["kill", &id, "9"]);
    runtime.wait_for(&id, "stopped");
    assert_ne!(runtime.run(&["kill", &id, "TERM"]).code, 0, "it has ended");
    runtime.ok(&["delete", &id]);
    let id = runtime.started(&bundle, "forced");
    runtime.ok(&["delete", "--force", &id]);
    assert_ne!(runtime.run(&["state", &id]).code, 0);
}

/// runc's `signals.go`: whatever its caller sends it, but for CHLD, WINCH and URG, is the process's.
#[test]
fn signals_in_the_foreground_go_to_the_process() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    // 37 is RTMIN+3, for systemd "halt".
    let mut signals = vec![1, 2, 3, 6, 10, 12, 13, 14, 16, 18, 20, 21, 22, 24, 25, 26, 29, 30, 37, 64];
    if runtime.is_ours() {
        // Go keeps PROF for itself.
        signals.push(27);
    }
    let traps: String = signals.iter().map(|signal| format!("trap 'echo {signal}' {signal}; ")).collect();
    let script = format!("{traps} trap 'echo 15; exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    let bundle = runtime.bundle(&["sh", "-c", &script]);
    let said = runtime.path("said");
    let mut run = runtime.command();
    run.args(["run", "--bundle"]).arg(&bundle.dir).arg(runtime.id("signals"));
    let mut child = run.stdout(fs::File::create(&said).unwrap()).spawn().unwrap();
    let says = |line: &str| {
        eventually(|| fs::read_to_string(&said).unwrap().lines().any(|said| said == line));
    };
    says("ready");
    let send = |signal: i32| {
        let sent = output(Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", child.id())));
        assert_eq!(sent.code, 0, "{signal}: {}", sent.stderr);
    };
    for &signal in &signals {
        send(signal);
        says(&signal.to_string());
    }
    for harmless in [23, 28] {
        send(harmless);
    }
    send(15);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let expected: Vec<_> = signals.iter().map(i32::to_string).collect();
    assert_eq!(fs::read_to_string(&said).unwrap(), format!("ready\n{}\n15\n", expected.join("\n")));
}

#[test]
fn an_id_is_a_name_and_no_path() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh"]);
    for id in ["..", ".", "a/b", "../x", &"x".repeat(1025)] {
        assert_ne!(output(runtime.command().args(["create", "--bundle"]).arg(&bundle.dir).arg(id)).code, 0, "{id}");
    }
}

#[test]
fn a_container_is_deleted_once_where_its_id_cannot_be_remembered() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        // It takes the directory below for a container's, and now and then dies of it.
        return;
    }
    let bundle = runtime.bundle(&["sh", "-c", ":"]);
    let told = runtime.path("told");
    let script = format!("echo told >>{}", told.display());
    bundle.set("/hooks/poststop", serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
    let id = runtime.started(&bundle, "forgotten");
    runtime.wait_for(&id, "stopped");
    // Where stos remembers ids. Like a full disk, it takes no line.
    std::fs::create_dir(runtime.root().join("tombstones")).unwrap();
    runtime.ok(&["delete", "--force", &id]);
    assert_ne!(runtime.run(&["state", &id]).code, 0);
    assert_eq!(fs::read_to_string(told).unwrap(), "told\n");
}

/// runc 1.2 sends a descriptor of the process, by which an engine knows it without its number.
#[test]
fn a_descriptor_of_the_process_is_sent() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.run(&["create", "--help"]).stdout.contains("--pidfd-socket") {
        return;
    }
    let path = runtime.path("pidfd");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = path.to_str().unwrap();
    let sent = || {
        let (stream, _) = listener.accept().unwrap();
        let process = stos_runtime::console::receive(&stream).unwrap().expect("a descriptor");
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).unwrap();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).expect("a process");
        pid.trim().parse::<i64>().unwrap()
    };
    let bundle = runtime.bundle(&["sleep", "1000"]);
    let id = runtime.id("pidfd");
    let created = runtime.create_with(&bundle, &id, &["--pidfd-socket", socket]);
    assert_eq!(created.code, 0, "{}", created.stderr);
    assert_eq!(json!(sent()), runtime.state(&id)["pid"]);
    runtime.ok(&["start", &id]);
    let file = runtime.path("pid");
    let mut exec = runtime.command();
    exec.args(["exec", "--detach", "--pid-file"]).arg(&file).args(["--pidfd-socket", socket, &id, "sleep", "1000"]);
    let executed = runtime.detached(exec, "executed");
    assert_eq!(executed.code, 0, "{}", executed.stderr);
    assert_eq!(sent().to_string(), fs::read_to_string(&file).unwrap());
    // Where nobody listens there is no process.
    drop(listener);
    let id = runtime.id("nobody");
    assert_ne!(runtime.create_with(&bundle, &id, &["--pidfd-socket", socket]).code, 0);
    assert_ne!(runtime.run(&["state", &id]).code, 0);
}
