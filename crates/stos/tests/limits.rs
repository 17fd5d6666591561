// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pause, resume, update, events and ps of containers from images.

mod sandbox;

use sandbox::shell::Shell;
use serde_json::{Value, json};
use stos_testkit::guard::Need;

#[test]
fn a_container_of_an_image_is_paused_limited_and_watched() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("ps"));
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let id = sandbox.ok(&["run", "-d", "--name", "web", "shell:1", "sleep", "1000"]);
    sandbox.ok(&["pause", "web"]);
    assert_eq!(shell.status("web"), "paused");
    assert_eq!(sandbox.json(&["list", "--format", "json"])[0]["status"], "paused");
    sandbox.ok(&["resume", "web"]);
    assert_eq!(shell.status("web"), "running");
    sandbox.ok(&["update", "--memory", "64m", "--pids-limit", "20", "web"]);
    let stats: Value = serde_json::from_str(&sandbox.ok(&["events", "--stats", "web"])).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], json!(64 << 20));
    assert_eq!((&stats["data"]["pids"]["limit"], &stats["id"]), (&json!(20), &json!(id.trim())));
    let pids: Vec<i64> = serde_json::from_str(&sandbox.ok(&["ps", "--format", "json", "web"])).unwrap();
    assert_eq!(json!(pids), json!([sandbox.json(&["state", "web"])["pid"]]));
    assert!(sandbox.ok(&["ps", "web", "-eo", "pid,args"]).contains("sleep 1000"));
    assert!(sandbox.ok(&["ps"]).contains("web"));
    assert_eq!(sandbox.ok(&["ps", "-q", "--no-trunc"]), id);
    // Killed while it is paused.
    sandbox.ok(&["pause", "web"]);
    sandbox.ok(&["kill", "-s", "KILL", "web"]);
    assert_eq!(sandbox.ok(&["wait", "web"]), "137\n");
    for command in ["pause", "resume", "events", "ps"] {
        let refused = sandbox.run(&[command, "web"]);
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("stopped"), "{command}: {}", refused.stderr);
    }
    assert_eq!(sandbox.run(&["ps", "-q", "web"]).code, 1);
    sandbox.ok(&["delete", "web"]);
}
