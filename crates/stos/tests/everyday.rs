// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is done to containers every day: restart, rename, wait for a condition, all at once, prune.

mod sandbox;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Stdio};

use sandbox::Sandbox;
use sandbox::shell::{Shell, eventually};
use serde_json::Value;
use stos_testkit::guard::Need;

const POLITE: &str = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done";

fn run(shell: &Shell, name: &str, script: &str) -> String {
    let id = shell.sandbox.ok(&["run", "-d", "--name", name, "shell:1", "sh", "-c", script]);
    if script == POLITE {
        eventually("it is up", || shell.sandbox.ok(&["logs", name]).contains("up"));
    }
    id.trim().to_owned()
}

fn waiter(sandbox: &Sandbox, arguments: &[&str]) -> Child {
    sandbox.command().arg("wait").args(arguments).stdout(Stdio::piped()).spawn().unwrap()
}

fn said(waiter: Child) -> String {
    String::from_utf8(waiter.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn a_container_is_stopped_and_started_again() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    run(&shell, "web", POLITE);
    assert_eq!(sandbox.ok(&["restart", "-t", "20", "web"]), "web\n");
    eventually("it is up again", || sandbox.ok(&["logs", "web"]) == "up\nup\n");
    sandbox.ok(&["stop", "web"]);
    sandbox.ok(&["restart", "web"]);
    assert_eq!(shell.status("web"), "running", "one that does not run is started");
    sandbox.ok(&["create", "--name", "idle", "shell:1", "sh", "-c", "sleep 1000"]);
    sandbox.ok(&["restart", "-t", "0", "--running"]);
    assert_eq!((shell.status("web").as_str(), shell.status("idle").as_str()), ("running", "created"));
    sandbox.ok(&["container", "restart", "-t", "0", "--all"]);
    assert_eq!((shell.status("web").as_str(), shell.status("idle").as_str()), ("running", "running"));
    assert_eq!(sandbox.run(&["restart", "none"]).code, 1);
    assert_eq!(sandbox.run(&["restart"]).code, 1);
    assert_eq!(sandbox.run(&["restart", "--all", "web"]).code, 1);
    sandbox.ok(&["run", "-d", "--rm", "--name", "brief", "shell:1", "sh", "-c", "sleep 1000"]);
    let gone = sandbox.run(&["restart", "-t", "0", "brief"]);
    assert_eq!(gone.code, 125, "{}", gone.stderr);
}

#[test]
fn a_container_gets_another_name() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let id = run(&shell, "old", POLITE);
    sandbox.ok(&["create", "--name", "taken", "shell:1"]);
    sandbox.ok(&["rename", "old", "new"]);
    assert_eq!(sandbox.run(&["state", "old"]).code, 1);
    assert_eq!(sandbox.json(&["state", "new"])["id"], id.as_str());
    assert_eq!(sandbox.names("names"), ["new", "taken"]);
    for refused in ["taken", "new", "a/b", ""] {
        let output = sandbox.run(&["rename", "new", refused]);
        assert_eq!(output.code, 1, "{refused}: {}", output.stderr);
    }
    assert_eq!(sandbox.run(&["rename", "none", "other"]).code, 1);
    sandbox.ok(&["create", "--name", "old", "shell:1"]);
    sandbox.ok(&["stop", "-t", "60", "new"]);
    assert_eq!(sandbox.ok(&["wait", "new"]), "3\n");
    sandbox.ok(&["rm", "new", "old", "taken"]);
    assert_eq!(sandbox.names("names"), Vec::<String>::new());
}

#[test]
fn a_container_that_goes_with_its_process_frees_the_name_that_it_has_then() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    sandbox.ok(&["run", "-d", "--rm", "--name", "old", "shell:1", "sh", "-c", "sleep 1000"]);
    sandbox.ok(&["rename", "old", "new"]);
    sandbox.ok(&["stop", "-t", "0", "new"]);
    eventually("its name is free", || sandbox.names("names").is_empty());
}

#[test]
fn a_rename_that_was_cut_short_leaves_one_name_and_frees_the_other() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let link = |name: &str, id: &str| symlink(id, sandbox.data_root().join("names").join(name)).unwrap();
    let create = |name: &str| sandbox.ok(&["create", "--name", name, "shell:1"]).trim().to_owned();
    // Before the record was replaced.
    let id = create("old");
    link("new", &id);
    assert_eq!(sandbox.json(&["state", "old"])["id"], id.as_str());
    let other = create("new");
    assert_eq!(sandbox.json(&["state", "new"])["id"], other.as_str());
    // After it, and before the old symlink went.
    let record = sandbox.data_root().join("containers").join(&id).join("container.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    json["name"] = "newest".into();
    fs::write(&record, json.to_string()).unwrap();
    link("newest", &id);
    assert_eq!(sandbox.json(&["state", "newest"])["id"], id.as_str());
    assert_eq!(sandbox.run(&["wait", "old"]).code, 1, "it is called otherwise");
    assert_eq!(sandbox.names("names"), ["new", "newest"], "who asks for a name that is none frees it");
    link("old", &id);
    sandbox.ok(&["rename", "new", "old"]);
    assert_eq!(sandbox.json(&["state", "old"])["id"], other.as_str());
    assert_eq!(sandbox.names("names"), ["newest", "old"]);
}

#[test]
fn of_renames_at_once_one_has_the_name() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let names = ["a", "b", "c", "d"];
    for name in names {
        sandbox.ok(&["create", "--name", name, "shell:1"]);
    }
    let renames = names.map(|name| sandbox.command().args(["rename", name, "wanted"]).stderr(Stdio::null()).spawn());
    let won = renames.into_iter().filter_map(|child| child.unwrap().wait().ok()).filter(|status| status.success());
    assert_eq!(won.count(), 1);
    let left = sandbox.names("names");
    assert_eq!((left.len(), left.contains(&"wanted".to_owned())), (4, true), "{left:?}");
}

#[test]
fn who_waits_for_a_condition_is_told_when_it_comes() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    sandbox.ok(&["create", "--name", "web", "shell:1", "sh", "-c", POLITE]);
    assert_eq!(sandbox.ok(&["wait", "--condition", "created", "web"]), "-1\n");
    let running = waiter(sandbox, &["--condition", "running", "--interval", "10ms", "web"]);
    sandbox.ok(&["start", "web"]);
    assert_eq!(said(running), "-1\n");
    let paused = waiter(sandbox, &["--condition=paused", "-i", "10", "web"]);
    sandbox.ok(&["pause", "web"]);
    assert_eq!(said(paused), "-1\n");
    sandbox.ok(&["unpause", "web"]);
    eventually("it is up", || sandbox.ok(&["logs", "web"]) == "up\n");
    let ended = waiter(sandbox, &["--condition=paused", "--condition=exited", "web"]);
    sandbox.ok(&["stop", "-t", "60", "web"]);
    assert_eq!(said(ended), "3\n");
    assert_eq!(sandbox.run(&["wait", "none"]).code, 1);
    assert_eq!(sandbox.ok(&["wait", "--ignore", "none"]), "-1\n");
    assert_eq!(sandbox.run(&["wait", "--condition", "happy", "web"]).code, 1);
}

#[test]
fn all_of_them_are_meant_at_once() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let ids: Vec<_> = ["one", "two"].iter().map(|name| run(&shell, name, POLITE)).collect();
    sandbox.ok(&["create", "--name", "idle", "shell:1", "sh", "-c", "sleep 1000"]);
    let statuses = || ["one", "two", "idle"].map(|name| shell.status(name)).join(" ");
    sandbox.ok(&["pause", "--all"]);
    assert_eq!(statuses(), "paused paused created");
    sandbox.ok(&["unpause", "-a"]);
    assert_eq!(statuses(), "running running created");
    let mut stopped: Vec<_> = sandbox.ok(&["stop", "-a"]).lines().map(str::to_owned).collect();
    stopped.sort();
    let mut expected = ids.clone();
    expected.sort();
    assert_eq!(stopped, expected);
    assert_eq!(statuses(), "stopped stopped created");
    sandbox.ok(&["start", "--all"]);
    assert_eq!(statuses(), "running running running");
    sandbox.ok(&["kill", "-a", "-s", "KILL"]);
    for name in ["one", "two", "idle"] {
        assert_eq!(sandbox.ok(&["wait", name]), "137\n");
    }
    assert_eq!(sandbox.run(&["kill", "--all", "one"]).code, 1);
    assert_eq!(sandbox.run(&["stop", "none"]).code, 1);
    assert_eq!(sandbox.ok(&["stop", "--ignore", "none"]), "");
    assert_eq!(sandbox.run(&["rm", "none"]).code, 1);
    sandbox.ok(&["rm", "--ignore", "none"]);
    assert_eq!(sandbox.run(&["rm", "-t", "3", "one"]).code, 1, "--time is for --force");
    sandbox.ok(&["start", "one"]);
    assert_eq!(sandbox.run(&["rm", "--all"]).code, 1, "one runs");
    assert_eq!(sandbox.names("names"), ["one"]);
    eventually("it is up", || sandbox.ok(&["logs", "--tail", "1", "one"]) == "up\n");
    sandbox.ok(&["rm", "-f", "-t", "20", "-v", "one"]);
    sandbox.ok(&["rm", "--all"]);
    for command in ["stop", "start", "rm", "kill", "pause", "unpause"] {
        assert_eq!(sandbox.run(&[command]).code, if command == "start" { 125 } else { 1 }, "{command} of what?");
    }
}

#[test]
fn what_does_not_run_is_pruned() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    run(&shell, "up", "sleep 1000");
    for (name, label) in [("plain", "a=1"), ("kept", "keep")] {
        sandbox.ok(&["create", "--name", name, "--label", label, "shell:1"]);
    }
    sandbox.run(&["run", "--name", "ended", "shell:1", "sh", "-c", "exit 1"]);
    assert_eq!(sandbox.run(&["container", "prune"]).code, 1, "nobody answers");
    assert_eq!(sandbox.ok(&["container", "prune", "-f", "--filter", "until=1h"]), "");
    let pruned = sandbox.ok(&["container", "prune", "-f", "--filter", "label!=keep"]);
    assert_eq!((pruned.lines().count(), sandbox.names("names")), (2, vec!["kept".to_owned(), "up".to_owned()]));
    assert_eq!(sandbox.run(&["container", "prune", "-f", "--filter", "colour=red"]).code, 1);
    assert_eq!(sandbox.ok(&["container", "prune", "--force"]).lines().count(), 1);
    assert_eq!(sandbox.names("names"), ["up"]);
    assert_eq!(sandbox.ok(&["container", "ls", "--format", "{{.Names}}"]), "up\n");
}
