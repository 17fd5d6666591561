// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stores that can only be read, and stores that a newer version has made.

mod sandbox;

use std::fs;
use std::path::{Path, PathBuf};

use sandbox::shell::Shell;
use sandbox::{Hub, Sandbox, on_both_backends, tool};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// Adds a feature to one of the sets of `stos.json`, as a newer version would.
fn add_feature(data_root: &Path, set: &str, feature: &str) {
    let path = data_root.join("stos.json");
    let mut format: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    format[set].as_array_mut().unwrap().push(json!(feature));
    fs::write(path, format.to_string()).unwrap();
}

/// A directory that is mounted on itself, read-only.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn new(path: PathBuf) -> Self {
        let text = path.to_str().unwrap();
        tool("mount", &["--bind", text, text]);
        tool("mount", &["-o", "remount,bind,ro", text]);
        Self(path)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        tool("umount", &[&self.0]);
    }
}

/// What only looks works, what would change something is refused with `reason`, and nothing is changed.
fn assert_can_only_be_read(shell: &Shell, reason: &str) {
    let sandbox = &shell.sandbox;
    let before = sandbox.listing();
    for arguments in [
        &["images"][..],
        &["image", "ls", "--format", "json"],
        &["inspect", "shell:1"],
        &["inspect", "kept"],
        &["image", "inspect", "shell:1"],
        &["history", "shell:1"],
        &["list"],
        &["ps", "--format", "json"],
        &["state", "kept"],
        &["logs", "kept"],
        &["layer", "ls"],
        &["layer", "inspect", &shell.image.diff_ids[0]],
        &["system", "info"],
        &["system", "df", "--verbose"],
        &["system", "check", "--full"],
        &["verify", "--full", "shell:1"],
    ] {
        let output = sandbox.run(arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {}", output.stderr);
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(sandbox.ok(&["logs", "kept"]), "out\n");
    let reference = format!("{}/shell:1", shell.hub.registry.address());
    for (arguments, code) in [
        (&["pull", "--tls-verify=false", &reference][..], 1),
        (&["create", "shell:1"], 125),
        (&["run", "--rm", "shell:1", "true"], 125),
        (&["start", "kept"], 125),
        (&["delete", "kept"], 1),
        (&["delete", "--force", "kept"], 1),
        (&["tag", "shell:1", "other:1"], 1),
        (&["rmi", "--force", "shell:1"], 1),
        (&["commit", "kept", "other:1"], 1),
        (&["layer", "merge", &shell.image.diff_ids[0]], 1),
        (&["image", "mount", "shell:1"], 1),
        (&["system", "gc"], 1),
        (&["system", "check", "--repair"], 1),
    ] {
        let output = sandbox.run(arguments);
        assert_eq!(output.code, code, "{arguments:?}: {}", output.stderr);
        assert!(output.stderr.contains(reason), "{arguments:?}: {}", output.stderr);
    }
    before.assert_same(&sandbox.listing());
}

#[test]
fn a_store_that_only_newer_versions_may_write_is_listed_and_inspected() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let shell = Shell::new();
        let data_root = shell.sandbox.data_root();
        shell.sandbox.ok(&["run", "--name", "kept", "shell:1", "echo", "out"]);
        let format = fs::read(data_root.join("stos.json")).unwrap();
        // What a crash has left is not ours to sweep.
        add_feature(&data_root, "read_only_compatible", "quota-2");
        fs::create_dir(data_root.join("staging/left")).unwrap();
        assert_can_only_be_read(&shell, "quota-2");
        fs::write(data_root.join("stos.json"), format).unwrap();
        shell.sandbox.ok(&["delete", "kept"]);
    });
}

#[test]
fn a_store_on_a_read_only_filesystem_is_listed_and_inspected() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("mount"));
    let shell = Shell::new();
    shell.sandbox.ok(&["run", "--name", "kept", "shell:1", "echo", "out"]);
    let read_only = ReadOnly::new(shell.sandbox.data_root());
    assert_can_only_be_read(&shell, "mounted read-only");
    drop(read_only);
    shell.sandbox.ok(&["start", "-a", "kept"]);
}

#[test]
fn a_store_that_is_no_more_to_be_understood_is_refused_unharmed() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    shell.sandbox.ok(&["run", "--name", "kept", "shell:1", "echo", "out"]);
    add_feature(&shell.sandbox.data_root(), "incompatible", "layerfs-2");
    fs::create_dir(shell.sandbox.data_root().join("staging/left")).unwrap();
    let before = shell.sandbox.listing();
    for (arguments, code) in [
        (&["images"][..], 1),
        (&["list"], 1),
        (&["inspect", "shell:1"], 1),
        (&["state", "kept"], 1),
        (&["create", "shell:1"], 125),
        (&["delete", "kept"], 1),
        (&["system", "gc"], 1),
        (&["system", "info"], 1),
    ] {
        let output = shell.sandbox.run(arguments);
        assert_eq!(output.code, code, "{arguments:?}: {}", output.stderr);
        for told in ["stos.json", "layerfs-2", "hint:"] {
            assert!(output.stderr.contains(told), "{arguments:?}: {}", output.stderr);
        }
    }
    before.assert_same(&shell.sandbox.listing());
}

#[test]
fn what_a_filesystem_may_not_keep_is_no_damage_where_nothing_can_be_tried() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_backend("dirs", || {
        // An ACL that says no more than the mode is kept by none.
        let acl = [
            2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
        ];
        let odd = Entry::file("odd", "").mode(0o644).mtime(1 << 40, 0).xattr("system.posix_acl_access", acl);
        let image = ImageBuilder::new().layer(Layer::plain(TarBuilder::new().entry(odd).finish())).build();
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        sandbox.pull(&hub.serve(&image, "odd", "1"));
        assert_eq!(sandbox.json(&["system", "check", "--full", "--format", "json"])["objects"], json!([]));
        add_feature(&sandbox.data_root(), "read_only_compatible", "quota-2");
        let before = sandbox.listing();
        let report = sandbox.json(&["system", "check", "--full", "--format", "json"]);
        let finding = &report["objects"][0]["findings"][0];
        assert_eq!((&report["healthy"], &finding["severity"]), (&json!(true), &json!("note")), "{report:#}");
        assert!(finding["path"].as_str().unwrap().ends_with("/diff/odd"), "{report:#}");
        sandbox.ok(&["verify", "--full", "odd:1"]);
        before.assert_same(&sandbox.listing());
    });
}
