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
    a_killed_start_leaves_the_gate_to_the_next,
    a_start_that_was_killed_after_its_word_has_started_it,
    a_failed_create_leaves_nothing,
    a_command_that_is_not_there_is_127,
    a_command_that_cannot_run_is_126,
    an_error_at_start_is_reported,
    an_init_that_died_before_start,
    a_running_container_is_not_deleted,
    a_process_that_ignores_sigterm_is_killed,
    a_frozen_container_is_deleted,
    what_is_frozen_further_down_is_deleted,
    another_containers_cgroup_is_left_alone,
    a_cgroup_of_the_same_id_is_not_shared,
    a_half_created_container_is_deleted_beside_others,
    parents_come_and_go_meanwhile,
    the_pid_file_is_no_way_to_another_file,
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
    let error = bundle.call(&["kill", &bundle.id, "TERM"]).failed(1);
    assert!(error.contains("container not running, found stopped"), "{error}");
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

/// Opens the gate's FIFO with the lock, as a start does before its word.
fn open_gate_file(bundle: &Bundle) -> fs::File {
    let path = StateDirectory::new(bundle.root()).container(&bundle.id.parse().unwrap()).join("exec.fifo");
    let fifo = fs::OpenOptions::new().write(true).open(path).unwrap();
    rustix::fs::flock(&fifo, rustix::fs::FlockOperation::LockExclusive).unwrap();
    fifo
}

fn a_killed_start_leaves_the_gate_to_the_next() {
    let bundle = Bundle::new("echo once; sleep 1000");
    bundle.create().ok();
    let killed = open_gate_file(&bundle);
    assert_eq!(bundle.state()["status"], "created");
    drop(killed);
    bundle.start().ok();
    wait_until("it has started", || bundle.output("stdout") == "once\n");
    bundle.delete(true).ok();
    // Killed at many moments: each time it runs, or the next start makes it run.
    for delay in (0..20).map(|step| std::time::Duration::from_micros(step * 500)) {
        let bundle = Bundle::new("echo once; sleep 1000");
        bundle.create().ok();
        let start = bundle.command(&["start", &bundle.id]).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(delay);
        end(start);
        if bundle.state()["status"] == "created" {
            drop(bundle.start());
        }
        wait_until("it has started", || bundle.output("stdout") == "once\n");
        bundle.delete(true).ok();
    }
}

fn a_start_that_was_killed_after_its_word_has_started_it() {
    let bundle = Bundle::new("echo once; sleep 1000");
    bundle.create().ok();
    let mut fifo = open_gate_file(&bundle);
    std::io::Write::write_all(&mut fifo, b"+").unwrap();
    drop(fifo);
    bundle.await_status("running");
    assert!(bundle.start().failed(1).contains("found running"));
    wait_until("it has started", || bundle.output("stdout") == "once\n");
    bundle.delete(true).ok();
}

fn a_failed_create_leaves_nothing() {
    type Change = (&'static str, fn(&mut serde_json::Value));
    let changes: [Change; 4] = [
        ("process.terminal: cannot", |config| config["process"]["terminal"] = json!(true)),
        ("root.path", |config| config["root"]["path"] = json!("missing")),
        ("mounts[7].options: expected uidMappings", |config| {
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
    bundle.start().ok();
    assert!(bundle.delete(false).failed(1).contains("expected status created or stopped, found running"));
    assert_eq!(bundle.state()["status"], "running");
    bundle.delete(true).ok();
    // One that was never started goes without force, as with runc.
    bundle.create().ok();
    let pid = bundle.state()["pid"].as_i64().unwrap();
    bundle.delete(false).ok();
    assert!(!std::path::Path::new(&format!("/proc/{pid}/root")).exists());
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
        (Some(path), _) => freeze_v1(&path),
        (None, Some(path)) => fs::write(path, "1").is_ok(),
        (None, None) => false,
    }
}

/// A process that forks while it is being frozen can keep a v1 freezer at FREEZING for ever: then it is thawed and tried again.
fn freeze_v1(state: &std::path::Path) -> bool {
    for _ in 0..100 {
        if fs::write(state, "FROZEN").is_err() {
            return false;
        }
        for _ in 0..200 {
            if fs::read_to_string(state).is_ok_and(|now| now.trim() == "FROZEN") {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        drop(fs::write(state, "THAWED"));
    }
    false
}

fn a_frozen_container_is_deleted() {
    let bundle = Bundle::new("while :; do sleep 0.01; done");
    bundle.create().ok();
    bundle.start().ok();
    assert!(freeze(&bundle.id), "no freezer");
    bundle.await_status("paused");
    bundle.delete(true).ok();
}

fn what_is_frozen_further_down_is_deleted() {
    let bundle = Bundle::new("while :; do sleep 0.01; done");
    bundle.create().ok();
    bundle.start().ok();
    let pid = bundle.state()["pid"].to_string();
    let file = ["freezer.state", "cgroup.freeze"]
        .into_iter()
        .find(|file| cgroups_named(&bundle.id).iter().any(|dir| dir.join(file).exists()))
        .expect("a freezer");
    let own = cgroups_named(&bundle.id).into_iter().find(|dir| dir.join(file).exists()).unwrap();
    let below = own.join("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("cgroup.procs"), pid).unwrap();
    match file {
        "freezer.state" => assert!(freeze_v1(&below.join(file)), "it does not freeze"),
        _ => fs::write(below.join(file), "1").unwrap(),
    }
    wait_until("it is frozen", || {
        let read = |name: &str| fs::read_to_string(below.join(name)).unwrap_or_default();
        read("freezer.state") == "FROZEN\n" || read("cgroup.events").contains("frozen 1")
    });
    bundle.delete(true).ok();
}

/// The cgroup of a container that has ended was removed, and another one has the same path by now.
fn another_containers_cgroup_is_left_alone() {
    let path = format!("/stos-shared-{}", std::process::id());
    let at_path = || {
        let bundle = Bundle::with("sleep 1000", |config| config["linux"]["cgroupsPath"] = json!(path));
        bundle.create().ok();
        bundle
    };
    let ended = at_path();
    ended.call(&["kill", &ended.id, "KILL"]).ok();
    ended.await_status("stopped");
    StateDirectory::new(ended.root()).read(&ended.id.parse().unwrap()).unwrap().cgroup.remove().unwrap();
    let other = at_path();
    other.start().ok();
    ended.call(&["kill", "--all", &ended.id, "KILL"]).ok();
    ended.delete(true).ok();
    assert_eq!(other.state()["status"], "running");
    let record = StateDirectory::new(other.root()).read(&other.id.parse().unwrap()).unwrap();
    assert!(!record.cgroup.processes().unwrap().is_empty());
    other.delete(true).ok();
    assert!(record.cgroup.directories.iter().all(|directory| !directory.path.exists()));
}

fn a_cgroup_of_the_same_id_is_not_shared() {
    let (first, mut second) = (Bundle::new("sleep 1000"), Bundle::new("sleep 1000"));
    // In another ROOT the id is free.
    second.id.clone_from(&first.id);
    first.create().ok();
    assert!(second.create().failed(1).contains("expected none or an empty one"));
    assert_eq!(first.state()["status"], "created");
    first.delete(true).ok();
    // What a crash left is made anew.
    let record = stos_runtime::CgroupRecord::planned(
        &stos_runtime::mounted_hierarchies().unwrap(),
        format!("stos-{}", first.id).as_ref(),
    );
    record.directories.iter().for_each(|directory| fs::create_dir(&directory.path).unwrap());
    // But not while another launch, which has nothing in it yet, holds it.
    let path = &record.directories[0].path;
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let (held, before) = (fs::File::open(path).unwrap(), inode());
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(second.create().failed(1).contains("another container is being put into"));
    assert_eq!(inode(), before);
    drop(held);
    first.configure(|config| config["process"]["args"] = json!(["/bin/sh", "-c", "true"]));
    first.run().ok();
}

/// Its creator was killed, and the path that its bundle names is somebody else's by now.
fn a_half_created_container_is_deleted_beside_others() {
    let path = format!("/stos-plan-{}", std::process::id());
    let at_path = || Bundle::with("sleep 1000", |config| config["linux"]["cgroupsPath"] = json!(path));
    let (half, other) = (at_path(), at_path());
    other.create().ok();
    let root = StateDirectory::new(half.root());
    let mut state = StateDirectory::new(other.root()).read(&other.id.parse().unwrap()).unwrap();
    state.id = half.id.parse().unwrap();
    state.init = None;
    state.creator.start_time -= 1;
    state.cgroup =
        stos_runtime::CgroupRecord::planned(&stos_runtime::mounted_hierarchies().unwrap(), path[1..].as_ref());
    root.claim(&state).unwrap();
    half.call(&["kill", "--all", &half.id, "KILL"]).ok();
    half.delete(true).ok();
    assert_eq!(other.state()["status"], "created");
    other.start().ok();
    other.delete(true).ok();
}

fn parents_come_and_go_meanwhile() {
    let parent = format!("stos-parent-{}", std::process::id());
    let with_path =
        |number| Bundle::with("true", |config| config["linux"]["cgroupsPath"] = json!(format!("/{parent}/{number}")));
    // All are made before the first runs: a child that begins just then would keep the programs of the next open to write.
    let bundles: Vec<_> = (0..4).map(with_path).collect();
    let live = |bundle: Bundle| std::thread::spawn(move || (0..6).for_each(|_| drop(bundle.run().ok())));
    let lives: Vec<_> = bundles.into_iter().map(live).collect();
    lives.into_iter().for_each(|life| life.join().unwrap());
    // Whoever found the parent there leaves it to its maker, who may have gone before.
    for hierarchy in stos_runtime::mounted_hierarchies().unwrap() {
        drop(fs::remove_dir(hierarchy.mount_point.join(&parent)));
    }
}

/// A pid file in a directory where others write: nothing that they have put there is opened or followed.
fn the_pid_file_is_no_way_to_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let (victim, pid_file) = (dir.path().join("victim"), dir.path().join("pid"));
    fs::write(&victim, "untouched").unwrap();
    for name in [".pid", "pid"] {
        std::os::unix::fs::symlink(&victim, dir.path().join(name)).unwrap();
    }
    stos_runtime::lifecycle::write_pid_file(&pid_file, 42).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(fs::symlink_metadata(&pid_file).unwrap().is_file());
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), "42");
    // One that cannot be put in place leaves nothing.
    let taken = dir.path().join("directory");
    fs::create_dir(&taken).unwrap();
    stos_runtime::lifecycle::write_pid_file(&taken, 42).unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
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
    // Others come and go with other tests.
    let own = bundle.path().display().to_string();
    let mounts =
        || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&own)).count();
    let before = mounts();
    for _ in 0..30 {
        assert_eq!(bundle.run().code, 0);
    }
    assert_eq!(mounts(), before);
}
