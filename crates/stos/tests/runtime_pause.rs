// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers that are frozen: what they do not do, and what can be done to them.

mod runtime_scene;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use runtime_scene::{Runtime, eventually};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::require;

/// Says something again and again, and says so when it is told to end.
const TALK: &str = "trap 'echo ended; exit 3' TERM; while :; do echo on; sleep 0.01; done";

#[test]
fn a_paused_container_does_nothing_until_it_is_resumed() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = runtime.started(&runtime.bundle(&["sh", "-c", TALK]), "talk");
    eventually(|| runtime.said(&id).contains("on"));
    // crun thaws what is not frozen.
    assert!(runtime.run(&["resume", &id]).code != 0 || runtime.is_called("crun"), "it is not paused");
    runtime.ok(&["pause", &id]);
    assert_eq!(runtime.status(&id), "paused");
    assert!(runtime.ok(&["list"]).contains("paused"));
    let said = runtime.said(&id).len();
    sleep(Duration::from_millis(200));
    assert_eq!(runtime.said(&id).len(), said);
    assert_ne!(runtime.run(&["delete", &id]).code, 0, "it has not ended");
    runtime.ok(&["resume", &id]);
    assert_eq!(runtime.status(&id), "running");
    eventually(|| runtime.said(&id).len() > said);
    runtime.ok(&["kill", &id, "KILL"]);
    runtime.wait_for(&id, "stopped");
    assert_ne!(runtime.run(&["pause", &id]).code, 0, "it has ended");
    assert_ne!(runtime.run(&["resume", &id]).code, 0, "it has ended");
}

#[test]
fn a_paused_container_can_be_killed() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", TALK]);
    let id = runtime.started(&bundle, "killed");
    runtime.ok(&["pause", &id]);
    runtime.ok(&["kill", &id, "KILL"]);
    if runtime.is_called("crun") {
        // On v1 it leaves the thaw to whoever has paused.
        runtime.ok(&["resume", &id]);
    }
    runtime.wait_for(&id, "stopped");
    runtime.ok(&["delete", &id]);
    let id = runtime.started(&bundle, "deleted");
    runtime.ok(&["pause", &id]);
    runtime.ok(&["delete", "--force", &id]);
    assert_ne!(runtime.run(&["state", &id]).code, 0);
}

#[test]
fn another_signal_waits_for_the_end_of_the_pause() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = runtime.started(&runtime.bundle(&["sh", "-c", TALK]), "told");
    eventually(|| runtime.said(&id).contains("on"));
    runtime.ok(&["pause", &id]);
    runtime.ok(&["kill", &id, "TERM"]);
    assert_eq!(runtime.status(&id), "paused");
    runtime.ok(&["resume", &id]);
    runtime.wait_for(&id, "stopped");
    assert!(runtime.said(&id).ends_with("ended\n"));
}

#[test]
fn many_processes_that_fork_freeze_all() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let script = "for i in 1 2 3 4 5 6 7 8; do while :; do (:); done & done; echo on; wait";
    let id = runtime.started(&runtime.bundle(&["sh", "-c", script]), "fork");
    eventually(|| runtime.said(&id).contains("on"));
    for _ in 0..20 {
        runtime.ok(&["pause", &id]);
        // On v1 crun does not wait until all are frozen.
        assert!(runtime.status(&id) == "paused" || runtime.is_called("crun"));
        runtime.ok(&["resume", &id]);
        assert_eq!(runtime.status(&id), "running");
    }
}

#[test]
fn a_container_that_was_not_started_can_be_paused() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = runtime.id("early");
    let created = runtime.create(&runtime.bundle(&["sh", "-c", "echo started"]), &id);
    assert_eq!(created.code, 0, "{}", created.stderr);
    runtime.ok(&["pause", &id]);
    // To crun it is created, frozen or not.
    assert_eq!(runtime.status(&id), if runtime.is_called("crun") { "created" } else { "paused" });
    if runtime.is_ours() {
        assert_ne!(runtime.run(&["start", &id]).code, 0, "it would wait for the end of the pause");
    }
    runtime.ok(&["resume", &id]);
    assert_eq!(runtime.status(&id), "created");
    runtime.ok(&["start", &id]);
    runtime.wait_for(&id, "stopped");
    assert_eq!(runtime.said(&id), "started\n");
}

/// A cgroup of the host in a hierarchy that freezes: thawed and removed in the end, whatever is in it.
struct HostCgroup(PathBuf);

impl HostCgroup {
    fn make(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn freeze(&self, frozen: bool) {
        let v1 = self.0.join("freezer.state");
        let (file, texts) =
            if v1.exists() { (v1, ["THAWED", "FROZEN"]) } else { (self.0.join("cgroup.freeze"), ["0", "1"]) };
        // Whoever is dropped cannot fail.
        drop(fs::write(file, texts[usize::from(frozen)]));
    }
}

impl Drop for HostCgroup {
    fn drop(&mut self) {
        self.freeze(false);
        let until = std::time::Instant::now() + runtime_scene::PATIENCE;
        while self.0.exists() && std::time::Instant::now() < until {
            let below: Vec<_> =
                fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            for directory in below.iter().filter(|path| path.is_dir()).chain([&self.0]) {
                for pid in fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default().lines() {
                    drop(Command::new("sh").arg("-c").arg(format!("kill -KILL {pid}")).status());
                }
                drop(fs::remove_dir(directory));
            }
            sleep(Duration::from_millis(5));
        }
    }
}

/// The mount points of hierarchies that freeze: v1's freezer, and the v2 tree.
fn freezers() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let freezes = |fields: &Vec<&str>| {
        fields[1].starts_with("/sys/fs/cgroup")
            && (fields[2] == "cgroup2" || fields[2] == "cgroup" && fields[3].split(',').any(|it| it == "freezer"))
    };
    mounts.filter(freezes).map(|fields| PathBuf::from(fields[1])).collect()
}

#[test]
fn nothing_is_created_in_a_frozen_cgroup() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        // It waits for the thaw.
        return;
    }
    for mount in freezers() {
        let is_v2 = !mount.join("freezer.state").exists() && mount.join("cgroup.controllers").exists();
        for below in ["", "/below"] {
            if (is_v2 || !below.is_empty()) && !runtime.is_ours() {
                // runc 1.1 looks at the container's own directory in v1's freezer alone, and else waits for the thaw.
                continue;
            }
            let name = runtime.id("frozen");
            let bundle = runtime.bundle(&["sh", "-c", ":"]);
            bundle.set("/linux/cgroupsPath", json!(format!("/{name}{below}")));
            let cgroup = HostCgroup::make(mount.join(&name));
            cgroup.freeze(true);
            let created = runtime.create(&bundle, &name);
            assert!(created.code != 0 && created.stderr.contains("frozen"), "{}", created.stderr);
            assert_ne!(runtime.run(&["state", &name]).code, 0);
            cgroup.freeze(false);
            assert_eq!(fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap(), "");
            assert!(below.is_empty() || !runtime.is_ours() || !cgroup.0.join("below").exists());
        }
    }
}

#[test]
fn a_creation_that_is_frozen_on_the_way_can_be_deleted() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        return;
    }
    for mount in freezers() {
        let id = runtime.id("stuck");
        let bundle = runtime.bundle(&["sh", "-c", ":"]);
        // A hook of the container's own namespaces: the first process is in its cgroup and waits for it.
        // It ends with the test.
        let script = format!("touch {0}; while test -e {0}; do sleep 0.01; done", runtime.path(&id).display());
        bundle.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
        bundle.set("/linux/cgroupsPath", json!(format!("/{id}")));
        let cgroup = HostCgroup(mount.join(&id));
        let mut create = runtime.command();
        create.arg("create").arg("--bundle").arg(&bundle.dir).arg(&id);
        let mut create =
            create.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        eventually(|| runtime.path(&id).exists());
        cgroup.freeze(true);
        let pid = fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap();
        let reaped = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| create.wait().unwrap());
            let deleted = runtime.run(&["delete", "--force", &id]);
            assert_eq!(deleted.code, 0, "{}", deleted.stderr);
            waiting.join().unwrap()
        });
        assert!(!reaped.success() && !pid.is_empty());
        eventually(|| pid.lines().all(|pid| !Path::new("/proc").join(pid).join("exe").exists()));
        assert!(!cgroup.0.exists() && runtime.run(&["state", &id]).code != 0);
    }
}
