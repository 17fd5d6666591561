// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's life: states, ids, signals, deletion, and what two do at once.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use serde_json::json;
use stos_runtime::{ContainerId, StateDirectory, tombstones};

use crate::features::tests;
use crate::fixture::{Bundle, cgroups_named, end, wait_until};

tests![
    a_container_is_created_started_killed_and_deleted,
    the_state_is_runcs,
    ids_are_checked,
    a_taken_id_is_refused,
    of_two_creates_one_wins,
    of_two_starts_one_wins,
    a_failed_create_leaves_nothing,
    a_command_that_is_not_there_is_127,
    a_command_that_cannot_run_is_126,
    an_error_at_start_is_reported,
    an_init_that_died_before_start,
    a_running_container_is_not_deleted,
    a_process_that_ignores_sigterm_is_killed,
    a_frozen_container_is_deleted,
    all_processes_are_signalled_and_gone,
    deleting_what_is_gone,
    a_killed_creator_leaves_nothing_that_stays,
    a_reused_pid_is_seen,
    many_in_turn_leave_nothing,
];

fn a_container_is_created_started_killed_and_deleted() {
    let bundle = Bundle::new("echo started; while :; do sleep 1000; done");
    bundle.create().ok();
    assert_eq!(bundle.state()["status"], "created");
    assert_eq!(bundle.output("stdout"), "");
    let pid = bundle.state()["pid"].as_i64().unwrap();
    assert_eq!(bundle.output("pid"), pid.to_string());
    bundle.start().ok();
    wait_until("it has started", || bundle.output("stdout") == "started\n");
    assert_eq!(bundle.state()["status"], "running");
    assert!(bundle.start().failed(1).contains("expected status created, found running"));
    let listed: serde_json::Value = serde_json::from_str(&bundle.call(&["list"]).ok()).unwrap();
    assert_eq!((&listed[0]["id"], &listed[0]["status"]), (&json!(bundle.id), &json!("running")));
    bundle.call(&["kill", &bundle.id, "KILL"]).ok();
    bundle.await_status("stopped");
    assert_eq!(bundle.state()["pid"], 0);
    assert!(bundle.call(&["kill", &bundle.id, "TERM"]).failed(1).contains("found stopped"));
    bundle.delete(false).ok();
    assert!(bundle.call(&["state", &bundle.id]).failed(1).contains("does not exist"));
}

fn the_state_is_runcs() {
    let bundle = Bundle::with("sleep 1000", |config| config["annotations"] = json!({"org.example.key": "value"}));
    bundle.create().ok();
    let state = bundle.state();
    let mut keys: Vec<_> = state.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["annotations", "bundle", "created", "id", "ociVersion", "owner", "pid", "rootfs", "status"]);
    assert_eq!(state["bundle"], fs::canonicalize(bundle.path()).unwrap().to_str().unwrap());
    assert_eq!(state["rootfs"], fs::canonicalize(bundle.rootfs()).unwrap().to_str().unwrap());
    assert_eq!((&state["ociVersion"], &state["annotations"]["org.example.key"]), (&json!("1.2.0"), &json!("value")));
    bundle.delete(true).ok();
}

fn ids_are_checked() {
    let bundle = Bundle::new("true");
    let path = bundle.path().display().to_string();
    for (id, part) in [("a/b", "found '/'"), ("..", "relative directory"), ("", "empty"), ("x y", "found ' '")] {
        let error = bundle.call(&["create", "--bundle", &path, id]).failed(1);
        assert!(error.contains(part), "{error}");
    }
    let long = "x".repeat(1025);
    assert!(bundle.call(&["create", "--bundle", &path, &long]).failed(1).contains("found 1025"));
    // Legal, and more than a file system takes as a name.
    assert!(bundle.call(&["create", "--bundle", &path, &long[..1024]]).failed(1).contains("renameat2"));
    bundle.assert_nothing_left();
}

fn a_taken_id_is_refused() {
    let bundle = Bundle::new("sleep 1000");
    bundle.create().ok();
    let pid = bundle.state()["pid"].clone();
    assert!(bundle.create().failed(1).contains("exists already"));
    assert_eq!((&bundle.state()["pid"], &bundle.state()["status"]), (&pid, &json!("created")));
    bundle.delete(true).ok();
    bundle.create().ok();
    bundle.delete(true).ok();
}

fn of_two_creates_one_wins() {
    let bundle = Bundle::new("sleep 1000");
    let path = bundle.path().display().to_string();
    let children: Vec<_> = (0..6)
        .map(|_| {
            let mut command = bundle.command(&["create", "--bundle", &path, &bundle.id]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    let won = children.into_iter().map(|mut child| child.wait().unwrap().success()).filter(|won| *won).count();
    assert_eq!(won, 1);
    assert_eq!(bundle.state()["status"], "created");
    bundle.delete(true).ok();
}

fn of_two_starts_one_wins() {
    let bundle = Bundle::new("echo once; sleep 1000");
    bundle.create().ok();
    let starts: Vec<_> = (0..4)
        .map(|_| bundle.command(&["start", &bundle.id]).stderr(std::process::Stdio::null()).spawn().unwrap())
        .collect();
    let won = starts.into_iter().map(|mut child| child.wait().unwrap().success()).filter(|won| *won).count();
    assert_eq!(won, 1);
    wait_until("it has started", || bundle.output("stdout") == "once\n");
    bundle.delete(true).ok();
}

fn a_failed_create_leaves_nothing() {
    type Change = (&'static str, fn(&mut serde_json::Value));
    let changes: [Change; 5] = [
        ("process.terminal is not supported", |config| config["process"]["terminal"] = json!(true)),
        ("process.unheardOf: unknown key", |config| config["process"]["unheardOf"] = json!(1)),
        ("root.path", |config| config["root"]["path"] = json!("missing")),
        ("mounts[7].options idmap", |config| {
            let mount = json!({"destination": "/x", "type": "bind", "source": "/", "options": ["bind", "idmap"]});
            config["mounts"].as_array_mut().unwrap().push(mount);
        }),
        ("no-such-fs", |config| {
            let mount = json!({"destination": "/x", "type": "no-such-fs", "source": "x"});
            config["mounts"].as_array_mut().unwrap().push(mount);
        }),
    ];
    for (part, change) in changes {
        let bundle = Bundle::with("true", change);
        let error = bundle.create().failed(1);
        assert!(error.contains(part), "{error}");
        bundle.assert_nothing_left();
        assert!(!bundle.path().join("pid").exists());
    }
}

fn a_command_that_is_not_there_is_127() {
    let with_args = |args: serde_json::Value| Bundle::with("", |config| config["process"]["args"] = args);
    let error = with_args(json!(["no-such"])).run().failed(127);
    assert!(error.contains("\"no-such\" not found in PATH=/usr/local/sbin"), "{error}");
    let error = with_args(json!(["/opt/app/run"])).run().failed(127);
    assert!(error.contains("/opt does not exist"), "{error}");
    let script = with_args(json!(["/bin/script"]));
    fs::copy(script.rootfs().join("bin/sh"), script.rootfs().join("bin/script")).unwrap();
    fs::write(script.rootfs().join("bin/script"), "#!/usr/bin/python9 -x\n").unwrap();
    let error = script.launch(&[]).failed(127);
    assert!(error.contains("/usr/bin/python9"), "{error}");
}

fn a_command_that_cannot_run_is_126() {
    let with_args = |args: serde_json::Value| Bundle::with("", |config| config["process"]["args"] = args);
    assert!(with_args(json!(["/etc/passwd"])).run().failed(126).contains("permission"));
    assert!(with_args(json!(["/etc"])).run().failed(126).contains("directory"));
    let data = with_args(json!(["/bin/data"]));
    fs::copy(data.rootfs().join("bin/sh"), data.rootfs().join("bin/data")).unwrap();
    fs::write(data.rootfs().join("bin/data"), "plain text\n").unwrap();
    let error = data.run().failed(126);
    assert!(error.contains("neither a program"), "{error}");
}

fn an_error_at_start_is_reported() {
    let bundle = Bundle::with("", |config| config["process"]["args"] = json!(["/bin/script"]));
    fs::copy(bundle.rootfs().join("bin/sh"), bundle.rootfs().join("bin/script")).unwrap();
    fs::write(bundle.rootfs().join("bin/script"), "#!/no/interpreter\n").unwrap();
    bundle.create().ok();
    assert!(bundle.start().failed(127).contains("/no/interpreter"));
    bundle.await_status("stopped");
    bundle.delete(false).ok();
}

fn an_init_that_died_before_start() {
    let bundle = Bundle::new("true");
    bundle.create().ok();
    bundle.call(&["kill", &bundle.id, "KILL"]).ok();
    bundle.await_status("stopped");
    assert!(bundle.start().failed(1).contains("found stopped"));
    bundle.delete(false).ok();
}

fn a_running_container_is_not_deleted() {
    let bundle = Bundle::new("sleep 1000");
    bundle.create().ok();
    assert!(bundle.delete(false).failed(1).contains("found created"));
    bundle.start().ok();
    assert!(bundle.delete(false).failed(1).contains("expected status stopped, found running"));
    assert_eq!(bundle.state()["status"], "running");
    bundle.delete(true).ok();
}

fn a_process_that_ignores_sigterm_is_killed() {
    let bundle = Bundle::new("trap '' TERM; echo ready; while :; do sleep 0.05; done");
    bundle.create().ok();
    bundle.start().ok();
    wait_until("it ignores SIGTERM", || bundle.output("stdout") == "ready\n");
    bundle.call(&["kill", &bundle.id, "TERM"]).ok();
    assert_eq!(bundle.state()["status"], "running");
    bundle.delete(true).ok();
}

/// Freezes or thaws a container by hand, as pause does.
fn freeze(id: &str) -> bool {
    let directories = cgroups_named(id);
    let v1 = directories.iter().map(|dir| dir.join("freezer.state")).find(|path| path.exists());
    let v2 = directories.iter().map(|dir| dir.join("cgroup.freeze")).find(|path| path.exists());
    match (v1, v2) {
        (Some(path), _) => fs::write(path, "FROZEN").is_ok(),
        (None, Some(path)) => fs::write(path, "1").is_ok(),
        (None, None) => false,
    }
}

fn a_frozen_container_is_deleted() {
    let bundle = Bundle::new("while :; do sleep 0.01; done");
    bundle.create().ok();
    bundle.start().ok();
    assert!(freeze(&bundle.id), "no freezer");
    bundle.await_status("paused");
    bundle.delete(true).ok();
}

fn all_processes_are_signalled_and_gone() {
    // Without a pid namespace of its own the others outlive the first.
    let bundle = Bundle::with("sleep 1000 & sleep 1000 & echo ready; wait", |config| {
        config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);
    });
    bundle.create().ok();
    bundle.start().ok();
    wait_until("all run", || bundle.output("stdout") == "ready\n");
    bundle.call(&["kill", &bundle.id, "KILL"]).ok();
    bundle.await_status("stopped");
    let record = StateDirectory::new(bundle.root()).read(&bundle.id.parse().unwrap()).unwrap();
    assert_eq!(record.cgroup.processes().unwrap().len(), 2);
    bundle.call(&["kill", "--all", &bundle.id, "KILL"]).ok();
    wait_until("all are gone", || record.cgroup.processes().unwrap().is_empty());
    bundle.delete(false).ok();
}

fn deleting_what_is_gone() {
    let bundle = Bundle::new("true");
    assert!(bundle.delete(false).failed(1).contains("does not exist"));
    bundle.delete(true).ok();
    let (root, id) = (StateDirectory::new(bundle.root()), bundle.id.parse::<ContainerId>().unwrap());
    assert!(!tombstones::contains(&root, &id).unwrap());
    bundle.create().ok();
    bundle.delete(true).ok();
    assert!(tombstones::contains(&root, &id).unwrap());
    bundle.delete(true).ok();
}

fn a_killed_creator_leaves_nothing_that_stays() {
    // Killed at many moments of the create: each time `delete --force` must find a clean or a cleanable place.
    for delay in (0..30).map(|step| std::time::Duration::from_micros(step * 300)) {
        let bundle = Bundle::new("sleep 1000");
        let path = bundle.path().display().to_string();
        let mut command = bundle.command(&["create", "--bundle", &path, &bundle.id]);
        let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(delay);
        end(child);
        bundle.call(&["delete", "--force", &bundle.id]).ok();
        let id = bundle.id.clone();
        wait_until("its cgroups are gone", || cgroups_named(&id).is_empty());
        assert!(!bundle.root().join("containers").join(&bundle.id).exists());
    }
}

fn a_reused_pid_is_seen() {
    let bundle = Bundle::new("sleep 1000");
    bundle.create().ok();
    let root = StateDirectory::new(bundle.root());
    let id: ContainerId = bundle.id.parse().unwrap();
    let right = root.read(&id).unwrap();
    let mut wrong = right.clone();
    wrong.init.as_mut().unwrap().start_time += 1;
    root.update(&wrong).unwrap();
    assert_eq!(bundle.state()["status"], "stopped");
    assert!(bundle.call(&["kill", &bundle.id, "KILL"]).failed(1).contains("found stopped"));
    root.update(&right).unwrap();
    assert_eq!(bundle.state()["status"], "created");
    assert!(fs::metadata(root.container(&id).join("exec.fifo")).unwrap().file_type().is_fifo());
    bundle.delete(true).ok();
}

fn many_in_turn_leave_nothing() {
    let bundle = Bundle::new("true");
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let before = mounts();
    for _ in 0..30 {
        assert_eq!(bundle.run().code, 0);
    }
    assert_eq!(mounts(), before);
}
