// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What containerd keeps in the store through a snapshotter: the command line knows it, and removes nothing of it.

mod sandbox;

use std::fs;

use sandbox::{Hub, Sandbox, on_both_backends};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn image() -> Image {
    let layer = |name: &str| Layer::plain(TarBuilder::new().entry(Entry::file(name, vec![b'x'; 50_000])).finish());
    ImageBuilder::new().command(&["/none"]).layer(layer("low")).layer(layer("high")).build()
}

/// Writes a snapshot as the snapshotter does.
fn put(sandbox: &Sandbox, number: u32, record: &Value) {
    let dir = sandbox.data_root().join("snapshots").join(number.to_string());
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("snapshot.json"), record.to_string()).unwrap();
}

fn committed(image: &Image) -> Value {
    let time = "2026-01-01T00:00:00Z";
    json!({"version": 1, "name": "sha256:x", "kind": "committed", "created": time, "updated": time, "layers": image.diff_ids})
}

#[test]
fn layers_of_snapshots_outlast_their_image() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let (sandbox, hub, image) = (Sandbox::new(), Hub::new(), image());
        let name = hub.serve(&image, "app", "1");
        sandbox.pull(&name);
        put(&sandbox, 1, &committed(&image));
        let active =
            json!({"version": 1, "name": "one", "kind": "active", "parent": "sha256:x", "created": "", "updated": ""});
        put(&sandbox, 2, &active);
        let usage = sandbox.json(&["system", "df", "--format", "json"]);
        assert_eq!(
            (&usage["summary"]["images"]["active"], &usage["summary"]["snapshots"]["total"]),
            (&json!(1), &json!(2))
        );
        assert!(sandbox.ok(&["system", "df"]).lines().any(|line| line.starts_with("Snapshots ")));
        sandbox.ok(&["image", "prune", "--all", "--force"]);
        assert!(sandbox.ok(&["images"]).contains("app"), "a snapshot uses it");
        sandbox.ok(&["rmi", &name]);
        assert_eq!(sandbox.json(&["layer", "ls", "--format", "json"]).as_array().unwrap().len(), 2);
        assert_eq!(sandbox.json(&["system", "gc", "--format", "json"])["removed"], json!([]));
        let report = sandbox.json(&["system", "check", "--format", "json"]);
        assert_eq!((&report["healthy"], &report["layers"]), (&json!(true), &json!(2)));
        let usage = sandbox.json(&["system", "df", "--format", "json"]);
        assert_eq!(usage["summary"]["unused"]["size"], json!(0), "{usage}");
        assert_eq!(usage["summary"]["images"]["reclaimable"], json!(0), "{usage}");
        fs::remove_dir_all(sandbox.data_root().join("snapshots")).unwrap();
        sandbox.ok(&["system", "gc"]);
        assert_eq!(sandbox.json(&["layer", "ls", "--format", "json"]), json!([]));
    });
}

#[test]
fn a_snapshot_that_cannot_be_read_is_told_and_nothing_is_swept() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub, image) = (Sandbox::new(), Hub::new(), image());
    let name = hub.serve(&image, "app", "1");
    sandbox.pull(&name);
    put(&sandbox, 7, &json!({"version": 1}));
    sandbox.ok(&["rmi", &name]);
    let refused = sandbox.run(&["system", "gc"]);
    assert!(refused.code == 1 && refused.stderr.contains("snapshots/7/snapshot.json"), "{}", refused.stderr);
    assert_eq!(sandbox.json(&["layer", "ls", "--format", "json"]).as_array().unwrap().len(), 2);
    let report: Value = serde_json::from_str(&sandbox.run(&["system", "check", "--format", "json"]).stdout).unwrap();
    assert_eq!(report["healthy"], json!(false), "{report}");
    let found = report["objects"].as_array().unwrap().iter().find(|item| item["object"] == json!("snapshot")).unwrap();
    assert_eq!((&found["id"], &found["findings"][0]["problem"]), (&json!("7"), &json!("unreadable")), "{found}");
    let usage = sandbox.json(&["system", "df", "--format", "json"]);
    assert_eq!(usage["summary"]["unused"]["reclaimable"], json!(0), "{usage}");
    assert!(usage["summary"]["unused"]["size"].as_u64().unwrap() > 0, "{usage}");
}

#[test]
fn a_damaged_layer_that_only_a_snapshot_needs_is_damage() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub, image) = (Sandbox::new(), Hub::new(), image());
    let name = hub.serve(&image, "app", "1");
    sandbox.pull(&name);
    put(&sandbox, 1, &committed(&image));
    sandbox.ok(&["rmi", &name]);
    fs::remove_dir_all(sandbox.layer_dir(&image.diff_ids[0])).unwrap();
    let report: Value = serde_json::from_str(&sandbox.run(&["system", "check", "--format", "json"]).stdout).unwrap();
    assert_eq!(report["healthy"], json!(false), "{report}");
    let text = report.to_string();
    assert!(text.contains(&image.diff_ids[0]) && !text.contains("nothing uses it"), "{report}");
}
