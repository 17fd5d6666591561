// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers that are frozen: what they do not do, and what can be done to them.

mod runtime_scene;

use std::thread::sleep;
use std::time::Duration;

use runtime_scene::{Runtime, eventually};
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
        assert_eq!(runtime.status(&id), "paused");
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
