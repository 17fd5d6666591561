// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `system gc`: what nothing reaches goes, whatever else is going on.

mod sandbox;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sandbox::shell::{Shell, eventually};
use sandbox::{Hub, Sandbox, on_both_backends};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::registry::{Fault, Rule};
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// For minutes, unless the registry is told to hurry.
const SLOW: Fault = Fault::Trickle(1000, Duration::from_secs(1));

fn layer(name: &str, size: usize) -> Layer {
    Layer::plain(TarBuilder::new().entry(Entry::file(name, vec![b'x'; size])).finish())
}

fn image(layers: &[(&str, usize)]) -> Image {
    let builder = ImageBuilder::new().command(&["/none"]);
    layers.iter().fold(builder, |builder, (name, size)| builder.layer(layer(name, *size))).build()
}

/// The hexadecimal digits of a layer, as the store names it.
fn hex(image: &Image, layer: usize) -> String {
    image.diff_ids[layer].trim_start_matches("sha256:").to_owned()
}

/// As a crash between the removal of a name and the sweep leaves it: no image is there any more, and all of its objects are.
fn forget_images(sandbox: &Sandbox) {
    let path = sandbox.data_root().join("images/index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["manifests"] = json!([]);
    fs::write(path, index.to_string()).unwrap();
}

/// The directories of a store in which garbage can lie.
fn objects(sandbox: &Sandbox) -> Vec<String> {
    let areas = ["layers/sha256", "chains/sha256", "dirs/layers/sha256", "dirs/chains/sha256", "images/blobs/sha256"];
    let has_area = |area: &&str| sandbox.data_root().join(area).exists();
    areas.into_iter().filter(has_area).flat_map(|area| sandbox.names(area)).collect()
}

/// The locks of single objects, and the lists of leases. Those of the whole store stay for ever.
fn locks(sandbox: &Sandbox) -> Vec<String> {
    sandbox.names("locks").into_iter().filter(|name| name.contains('-')).collect()
}

fn start(sandbox: &Sandbox, arguments: &[&str]) -> Child {
    let mut command = sandbox.command();
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn succeeds(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_nothing_reaches_is_told_and_then_goes() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        sandbox.pull(&hub.serve(&image(&[("low", 100_000), ("high", 10)]), "app", "1"));
        sandbox.ok(&["image", "mount", "app:1"]);
        sandbox.ok(&["image", "unmount", "app:1"]);
        let kept = sandbox.ok(&["system", "gc"]);
        assert_eq!(kept, "freed 0 B\n");
        forget_images(&sandbox);
        symlink("nowhere", sandbox.data_root().join("names/lost")).unwrap();
        fs::write(sandbox.data_root().join("locks/layer-left"), "").unwrap();
        let (before, mounts) = (sandbox.listing(), sandbox.mounts(""));
        let dry = sandbox.json(&["system", "gc", "--dry-run", "--format", "json"]);
        before.assert_same(&sandbox.listing());
        assert_eq!(sandbox.mounts(""), mounts);
        let mut kinds: Vec<_> = dry["removed"].as_array().unwrap().iter().map(|one| one["kind"].clone()).collect();
        kinds.sort_by_key(Value::to_string);
        assert_eq!(json!(kinds), json!(["blob", "blob", "chain", "layer", "layer", "name"]));
        let bytes: u64 = dry["removed"].as_array().unwrap().iter().map(|one| one["bytes"].as_u64().unwrap()).sum();
        assert_eq!(json!(bytes), dry["bytes"]);
        assert!(bytes > 100_000, "{dry}");
        let done = sandbox.json(&["system", "gc", "--format", "json"]);
        assert_eq!(done, dry, "what was told has gone");
        assert_eq!(objects(&sandbox), [""; 0]);
        for left in [sandbox.names("names"), locks(&sandbox), sandbox.names("staging")] {
            assert_eq!(left, [""; 0]);
        }
        assert!(sandbox.mounts("").is_empty());
    });
}

#[test]
fn a_container_keeps_what_it_stands_on() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let shell = Shell::new();
        let sandbox = &shell.sandbox;
        sandbox.ok(&["create", "--name", "one", "shell:1", "sh", "-c", "cat /srv/data"]);
        sandbox.ok(&["rmi", "--force", "shell:1"]);
        forget_images(sandbox);
        assert_eq!(sandbox.ok(&["system", "gc"]), "freed 0 B\n");
        assert_eq!(sandbox.ok(&["start", "-a", "one"]), "from the image\n");
        sandbox.ok(&["delete", "one"]);
        assert!(!objects(sandbox).is_empty(), "a delete does not sweep");
        sandbox.ok(&["system", "gc"]);
        assert_eq!(objects(sandbox), [""; 0]);
    });
}

#[test]
fn a_pull_in_flight_keeps_what_it_relies_on_and_nothing_else() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let old = image(&[("shared", 5000), ("other", 10)]);
    sandbox.pull(&hub.serve(&old, "old", "1"));
    forget_images(&sandbox);
    // It finds `shared`, that nothing reaches; fetches `quick`; and waits for `slow`.
    let new = image(&[("shared", 5000), ("quick", 20), ("slow", 200_000)]);
    let reference = hub.serve(&new, "new", "1");
    hub.registry.add_rule(Rule::on(&new.layers[2].digest).fault(SLOW));
    let pull = start(&sandbox, &["pull", "--tls-verify=false", &reference]);
    let quick = sandbox.layer_dir(&new.diff_ids[1]);
    eventually("the small layer is there", || quick.exists());
    let mut expected = vec![old.config.digest.clone(), old.manifest.digest.clone(), old.diff_ids[1].clone()];
    expected.sort();
    let done = sandbox.json(&["system", "gc", "--format", "json"]);
    let removed = done["removed"].as_array().unwrap().iter().filter(|one| one["kind"] != json!("chain"));
    let mut removed: Vec<_> = removed.map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    removed.sort();
    assert_eq!(removed, expected);
    assert!(quick.exists() && sandbox.layer_dir(&new.diff_ids[0]).exists());
    assert!(!sandbox.layer_dir(&new.diff_ids[2]).exists(), "the pull has come no further");
    hub.take_blob_requests();
    hub.registry.hurry();
    succeeds(pull);
    assert_eq!(sandbox.names("layers/sha256").len(), 3);
    assert_eq!(sandbox.ok(&["system", "gc"]), "freed 0 B\n");
    assert_eq!(locks(&sandbox), [""; 0]);
}

#[test]
fn a_pull_that_fails_takes_nothing_from_another_one() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let slow = image(&[("shared", 5000), ("slow", 200_000)]);
    let bad = image(&[("shared", 5000), ("bad", 50)]);
    let [slow_reference, bad_reference] = [hub.serve(&slow, "slow", "1"), hub.serve(&bad, "bad", "1")];
    hub.registry.add_rule(Rule::on(&slow.layers[1].digest).fault(SLOW));
    hub.registry.add_rule(Rule::on(&bad.layers[1].digest).fault(Fault::Corrupt));
    let pull = start(&sandbox, &["pull", "--tls-verify=false", &slow_reference]);
    let shared = sandbox.layer_dir(&slow.diff_ids[0]);
    eventually("the shared layer is there", || shared.exists());
    assert_eq!(sandbox.run(&["pull", "--tls-verify=false", &bad_reference]).code, 1);
    assert_eq!(sandbox.names("layers/sha256"), [hex(&slow, 0)]);
    hub.take_blob_requests();
    hub.registry.hurry();
    succeeds(pull);
    assert_eq!(hub.take_blob_requests(), [""; 0], "nothing was fetched twice");
    assert_eq!(sandbox.names("layers/sha256").len(), 2);
}

#[test]
fn what_a_killed_pull_has_listed_is_kept_no_longer_and_its_layers_wait_for_the_next_one() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let new = image(&[("quick", 20), ("slow", 200_000)]);
    let reference = hub.serve(&new, "new", "1");
    for is_collected in [false, true] {
        hub.registry.add_rule(Rule::on(&new.layers[1].digest).fault(SLOW));
        let mut pull = start(&sandbox, &["pull", "--tls-verify=false", &reference]);
        let quick = sandbox.layer_dir(&new.diff_ids[0]);
        eventually("the small layer is there", || quick.exists());
        eventually("the other one comes", || !sandbox.names("staging").is_empty());
        pull.kill().unwrap();
        pull.wait().unwrap();
        hub.registry.clear_rules();
        hub.take_blob_requests();
        if is_collected {
            let done = sandbox.json(&["system", "gc", "--format", "json"]);
            assert_eq!(done["removed"][0]["id"], json!(new.diff_ids[0]));
            assert_eq!(objects(&sandbox), [""; 0]);
            assert_eq!(locks(&sandbox), [""; 0]);
        } else {
            sandbox.pull(&reference);
            assert_eq!(hub.take_blob_requests().len(), 2, "the configuration and the layer that was not finished");
            sandbox.ok(&["rmi", "new:1"]);
        }
        assert_eq!(sandbox.names("staging"), [""; 0]);
    }
}

#[test]
fn who_keeps_everything_is_waited_for() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    sandbox.pull(&hub.serve(&image(&[("low", 10)]), "app", "1"));
    let lease = fs::File::open(sandbox.data_root().join("locks/lease")).unwrap();
    flock(&lease, FlockOperation::LockShared).unwrap();
    let removed = sandbox.ok(&["rmi", "app:1"]);
    assert!(removed.contains("Deleted: ") && !objects(&sandbox).is_empty(), "the image is gone, its layers stay");
    let gc = start(&sandbox, &["system", "gc"]);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!objects(&sandbox).is_empty());
    drop(lease);
    succeeds(gc);
    assert_eq!(objects(&sandbox), [""; 0]);
}

#[test]
fn where_it_is_unknown_what_is_needed_nothing_goes() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let (gone, kept) = (image(&[("gone", 10)]), image(&[("kept", 20)]));
    sandbox.pull(&hub.serve(&gone, "gone", "1"));
    forget_images(&sandbox);
    sandbox.pull(&hub.serve(&kept, "kept", "1"));
    let config = sandbox.data_root().join("images/blobs/sha256").join(kept.config.digest.trim_start_matches("sha256:"));
    let bytes = fs::read(&config).unwrap();
    fs::write(&config, b"{}").unwrap();
    let refused = sandbox.run(&["system", "gc"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains(&kept.config.digest[7..]) && refused.stderr.contains("hint:"),
        "{}",
        refused.stderr
    );
    assert_eq!(sandbox.names("layers/sha256").len(), 2);
    fs::write(&config, bytes).unwrap();
    sandbox.ok(&["system", "gc"]);
    assert_eq!(sandbox.names("layers/sha256"), [hex(&kept, 0)]);
}

#[test]
fn a_lost_or_damaged_index_is_no_empty_one() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let reference = hub.serve(&image(&[("low", 10)]), "app", "1");
    sandbox.pull(&reference);
    let before = objects(&sandbox);
    let index = sandbox.data_root().join("images/index.json");
    let good = fs::read_to_string(&index).unwrap();
    let damages: [&dyn Fn(); 3] = [&|| fs::remove_file(&index).unwrap(), &|| fs::write(&index, "").unwrap(), &|| {
        fs::write(&index, good.replace("dev.stos.image.id", "dev.stos.imagf.id")).unwrap()
    }];
    for damage in damages {
        damage();
        for arguments in [
            &["images"][..],
            &["system", "gc"],
            &["image", "prune", "--all", "--force"],
            &["rmi", "--force", "app:1"],
            &["pull", "--tls-verify=false", &reference],
            &["tag", "app:1", "other:1"],
        ] {
            let refused = sandbox.run(arguments);
            assert_eq!(refused.code, 1, "{arguments:?}: {}", refused.stderr);
            assert!(
                refused.stderr.contains("index.json") && refused.stderr.contains("check --repair"),
                "{}",
                refused.stderr
            );
            assert_eq!(objects(&sandbox), before, "{arguments:?}");
        }
        assert_eq!(sandbox.run(&["system", "check"]).code, 1);
        sandbox.ok(&["system", "check", "--repair"]);
        sandbox.pull(&reference);
        sandbox.ok(&["system", "gc"]);
        assert_eq!(objects(&sandbox), before);
    }
}

#[test]
fn a_registry_that_does_not_answer_keeps_nobody_from_a_sweep() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    sandbox.pull(&hub.serve(&image(&[("old", 10)]), "old", "1"));
    forget_images(&sandbox);
    let reference = hub.serve(&image(&[("new", 10)]), "new", "1");
    hub.registry.take_requests();
    hub.registry.add_rule(Rule::on("/manifests/").fault(Fault::Stall(0)));
    let mut pull = start(&sandbox, &["pull", "--tls-verify=false", &reference]);
    eventually("the registry is asked", || !hub.registry.requests().is_empty());
    sandbox.ok(&["system", "gc"]);
    assert_eq!(objects(&sandbox), [""; 0]);
    assert!(pull.try_wait().unwrap().is_none(), "it still waits");
    pull.kill().unwrap();
    pull.wait().unwrap();
}
