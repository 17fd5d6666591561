// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a repair takes things from, what it leaves where it can take them from nowhere, and what only a close look shows.

mod health_scene;
mod sandbox;

use std::fs;
use std::process::Command;

use health_scene::{Damage, Scene, check_in, damage, findings, image};
use sandbox::Sandbox;
use sandbox::shell::Shell;
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Dialect, Image};
use stos_testkit::registry::{Fault, Rule};

/// The outcomes of all findings, in their order, and what they say.
fn outcomes(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = |finding: &Value| {
        let outcome = &finding["outcome"];
        (text(&outcome["state"]), format!("{}{}", text(&outcome["how"]), text(&outcome["why"])))
    };
    findings(report).iter().map(|(_, finding)| told(finding)).collect()
}

/// Everything has been repaired, in this way; stacks whose links led to what was replaced follow.
#[track_caller]
fn assert_repaired(report: &(i32, Value), how: &str) {
    let told = outcomes(&report.1);
    assert!(report.0 == 0 && told.iter().all(|(state, _)| state == "repaired"), "{:#}", report.1);
    let of_chains = "made again of its layers";
    assert!(told.iter().any(|(_, said)| said.starts_with(how)), "{how}: {told:?}");
    assert!(told.iter().all(|(_, said)| said.starts_with(how) || said == of_chains), "{how}: {told:?}");
}

#[test]
fn silent_rot_is_found_by_a_full_look_and_then_by_everyone() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let cases = [
        ("erofs", "layers/sha256/TOP/layer.tar", 1500, 125, 1),
        ("erofs", "layers/sha256/TOP/layer.index", 20, 0, 0),
        ("erofs", "chains/sha256/CHAIN/image.erofs", 1700, 0, 0),
        ("dirs", "dirs/layers/sha256/TOP/layer.rest", 30, 125, 1),
    ];
    for (backend, file, at, create, fetched) in cases {
        for by_pull in [false, true] {
            sandbox::on_backend(backend, || {
                let scene = Scene::new();
                damage(&scene.path(file), Damage::Rot(at));
                let (code, report) = scene.check(&[]);
                assert_eq!(
                    (code, &report["healthy"], report["hashed_bytes"].as_u64().unwrap() < 5000),
                    (0, &json!(true), true),
                    "{file}: {report:#}"
                );
                assert_eq!(scene.create(&[]).code, 0, "{file}");
                let (code, report) = scene.check(&["--full"]);
                assert_eq!((code, &findings(&report)[0].1["path"]), (1, &json!(scene.filled(file))), "{report:#}");
                // Its seal is broken: who looks at the seals alone finds it from now on.
                assert_eq!(scene.check(&[]).0, 1, "{file}");
                assert_eq!(scene.create(&[]).code, create, "{file}");
                if by_pull {
                    assert_eq!(scene.pull().code, 0, "{file}");
                } else if create != 0 || file.ends_with("index") {
                    assert_eq!(scene.repair(&[]).0, 0, "{file}");
                }
                let blobs = scene.requests().iter().filter(|request| request.starts_with("blobs/")).count();
                assert_eq!(blobs, fetched, "{file}");
                scene.assert_clean(file);
            });
        }
    }
}

#[test]
fn a_copied_store_is_healthy_and_runs() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(|| {
        let shell = Shell::new();
        shell.sandbox.ok(&["create", "--name", "moved", "shell:1", "cat", "/srv/data"]);
        let copy = Sandbox::new();
        let copied =
            Command::new("cp").arg("-a").arg(shell.sandbox.data_root()).arg(copy.data_root()).status().unwrap();
        assert!(copied.success());
        let (code, report) = check_in(&copy, &[]);
        assert_eq!((code, &report["objects"]), (0, &json!([])), "{report:#}");
        assert!(report["hashed_bytes"].as_u64().unwrap() > 1 << 20, "other inodes: only the bytes can tell");
        // By then the copy has seals of its own: nothing but the images' documents is hashed.
        let (code, report) = check_in(&copy, &[]);
        assert!(code == 0 && report["hashed_bytes"].as_u64().unwrap() < 10_000, "{report:#}");
        assert_eq!(copy.ok(&["start", "-a", "moved"]), "from the image\n");
        assert_eq!(copy.ok(&["run", "--rm", "--verify=full", "shell:1", "echo", "it runs"]), "it runs\n");
        assert_eq!(check_in(&copy, &["--full"]).0, 0);
    });
}

#[test]
fn a_layer_of_two_images_is_fetched_once() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(|| {
        let scene = Scene::new();
        let other = scene.hub.serve(&image("another "), "other", "1");
        scene.sandbox.pull(&other);
        let container = scene.sandbox.ok(&["create", "--name", "web", "app:1"]);
        scene.requests();
        for file in ["layers/sha256/BASE/layer.tar", "dirs/layers/sha256/BASE/layer.rest"] {
            if scene.path(file).exists() {
                damage(&scene.path(file), Damage::Cut);
            }
        }
        let (code, report) = scene.check(&["--full"]);
        let found = findings(&report);
        assert_eq!((code, found.len()), (1, 1), "{report:#}");
        let mut images = vec![scene.reference.clone(), other];
        images.sort();
        assert_eq!((&found[0].1["images"], &found[0].1["containers"]), (&json!(images), &json!(["web"])));
        assert_repaired(&scene.repair(&["--full"]), "fetched again from 127.0.0.1:");
        assert_eq!(scene.requests(), [format!("blobs/{}", scene.layers[0].1)]);
        scene.assert_clean("both images");
        scene.sandbox.ok(&["delete", container.trim()]);
    });
}

#[test]
fn without_the_registry_damage_stays_and_nothing_else_changes() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    damage(&scene.path("layers/sha256/TOP/layer.tar"), Damage::Flip(1500));
    damage(&scene.path("layers/sha256/BASE/layer.tar"), Damage::Flip(1500));
    // One of two blobs is not to be had: the other is repaired all the same.
    scene.hub.registry.add_rule(Rule::on(&scene.layers[0].1).fault(Fault::status(404)));
    let (code, report) = scene.repair(&[]);
    assert_eq!(code, 1);
    for (item, finding) in findings(&report) {
        let is_top = item["id"] == scene.layers[1].0;
        assert_eq!(finding["outcome"]["state"], if is_top { "repaired" } else { "stays" }, "{report:#}");
    }
    let Scene { sandbox, hub, layers, .. } = scene;
    drop(hub);
    let before = sandbox.listing();
    let (code, report) = check_in(&sandbox, &["--repair", "--tls-verify=false"]);
    let found = findings(&report);
    assert_eq!((code, found.len(), &found[0].0["id"]), (1, 1, &json!(layers[0].0)), "{report:#}");
    assert!(outcomes(&report)[0].1.contains("refused"), "{report:#}");
    before.assert_same(&sandbox.listing());
    let output = sandbox.run(&["system", "check", "--repair", "--tls-verify=false"]);
    let last = output.stdout.lines().last().unwrap_or_default();
    assert_eq!(
        (output.code, last),
        (1, "damaged, 1 found: 1 image, 2 layers, 1 chain, 0 containers looked at (sealed)")
    );
}

#[test]
fn a_lost_list_of_images_is_made_again_without_names() {
    stos_testkit::require!(Need::Root, Need::Binary);
    for how in [Damage::Empty, Damage::Remove] {
        let scene = Scene::new();
        let image = image("above ");
        let index = Image::index(Dialect::Oci, &[&image]);
        let reference = scene.hub.serve_index(&index, &[&image], "multi", "1");
        scene.sandbox.pull(&reference);
        scene.requests();
        damage(&scene.path("images/index.json"), how);
        let before = scene.sandbox.listing();
        let (code, report) = scene.check(&[]);
        assert_eq!((code, &findings(&report)[0].1["path"]), (1, &json!("images/index.json")), "{report:#}");
        before.assert_same(&scene.sandbox.listing());
        assert_repaired(&scene.repair(&[]), "made again of the documents of 1 image;");
        scene.assert_clean("its images are known again");
        assert_eq!(scene.requests(), [""; 0]);
        let images = scene.sandbox.json(&["images", "--format", "json"]);
        assert_eq!((&images[0]["id"], &images[0]["repository"]), (&json!(scene.config), &Value::Null));
        assert_eq!(scene.sandbox.json(&["inspect", &scene.config])[0]["index_digest"], json!(index.digest));
        scene.sandbox.ok(&["tag", &scene.config, "app:1"]);
        assert_eq!(scene.create(&[]).code, 0);
        // And by the index's own digest it is found again when it is damaged.
        damage(&scene.path("images/blobs/sha256").join(index.digest.trim_start_matches("sha256:")), Damage::Cut);
        assert_eq!(findings(&scene.check(&[]).1)[0].0["object"], json!("index"));
        scene.sandbox.ok(&["pull", "-q", "--tls-verify=false", &reference]);
        scene.assert_clean("the pull has brought the index");
    }
}

#[test]
fn kept_blobs_are_looked_at_and_layers_are_made_of_them() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(|| {
        let scene = Scene::pulled(&["--keep-blobs"]);
        let blob =
            |layer: usize| scene.path("images/blobs/sha256").join(scene.layers[layer].1.trim_start_matches("sha256:"));
        for file in ["layers/sha256/BASE/layer.tar", "dirs/layers/sha256/BASE/layer.rest"] {
            if scene.path(file).exists() {
                damage(&scene.path(file), Damage::Flip(100));
            }
        }
        assert_repaired(&scene.repair(&["--full"]), "made of its blob, which is kept");
        assert_eq!(scene.requests(), [""; 0]);
        // The compressed one has to come again; the other one is the layer's own tar.
        for (layer, how, fetched) in [(0, "fetched again from", 1), (1, "made again of the layer's tar", 0)] {
            damage(&blob(layer), Damage::Flip(50));
            assert_eq!(scene.check(&[]).0, 0, "only its bytes tell");
            let (code, report) = scene.check(&["--full"]);
            assert_eq!((code, &findings(&report)[0].0["id"]), (1, &json!(scene.layers[layer].1)));
            assert_repaired(&scene.repair(&["--full"]), how);
            assert_eq!(scene.requests().len(), fetched);
            damage(&blob(layer), Damage::Cut);
            assert_eq!(scene.check(&[]).0, 1, "its size tells");
            assert_repaired(&scene.repair(&[]), how);
            assert_eq!(scene.requests().len(), fetched);
            scene.assert_clean("the blob is whole");
        }
        // One that is gone is none that is kept: a pull that wants it fetches it.
        damage(&blob(0), Damage::Remove);
        scene.assert_clean("not kept");
        scene.sandbox.ok(&["pull", "-q", "--keep-blobs", "--tls-verify=false", &scene.reference]);
        assert!(blob(0).exists());
    });
}

#[test]
fn one_backend_s_form_is_made_of_the_other_s() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    for backend in ["erofs", "dirs"] {
        let container = scene.sandbox.ok(&["--layerfs", backend, "create", "app:1"]);
        scene.sandbox.ok(&["delete", container.trim()]);
    }
    scene.requests();
    for (file, from) in [("layers/sha256/TOP/layer.tar", "dirs"), ("dirs/layers/sha256/TOP/layer.rest", "erofs")] {
        damage(&scene.path(file), Damage::Cut);
        assert_repaired(&scene.repair(&["--full"]), &format!("made of what the backend {from} keeps"));
        scene.assert_clean(file);
    }
    // A pull heals every form of what the image has, too.
    for (file, how) in [
        ("layers/sha256/TOP/layer.tar", Damage::Cut),
        ("dirs/layers/sha256/TOP/layer.rest", Damage::Cut),
        ("layers/sha256/TOP/layer.json", Damage::Empty),
        ("dirs/layers/sha256/TOP/layer.json", Damage::Empty),
        ("chains/sha256/CHAIN/image.erofs", Damage::Cut),
        ("dirs/chains/sha256/CHAIN/stack.json", Damage::Empty),
    ] {
        damage(&scene.path(file), how);
        assert_eq!(scene.pull().code, 0);
        scene.assert_clean(file);
        assert_eq!(scene.requests(), ["manifests/1"], "{file}");
    }
    // Both at once: one is fetched, and the other is made of it.
    damage(&scene.path("layers/sha256/TOP/layer.tar"), Damage::Cut);
    damage(&scene.path("dirs/layers/sha256/TOP/layer.rest"), Damage::Cut);
    assert_eq!(scene.requests(), [""; 0]);
    let (code, report) = scene.repair(&["--full"]);
    assert_eq!((code, scene.requests().len()), (0, 1), "{report:#}");
    scene.assert_clean("both");
}

#[test]
fn a_layer_without_an_image_comes_from_where_its_record_says() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let other = Sandbox::new();
    scene.sandbox.ok(&["layer", "sync", "--to", other.data_root().to_str().unwrap()]);
    let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    let dir = other.data_root().join("layers/sha256").join(hex(&scene.layers[0].0));
    damage(&dir.join("layer.tar"), Damage::Flip(700));
    let repaired = check_in(&other, &["--repair", "--tls-verify=false"]);
    assert_repaired(&repaired, "fetched again from 127.0.0.1:");
    assert_eq!(scene.requests(), [format!("blobs/{}", scene.layers[0].1)]);
    // Without its record nothing says where it came from; its tar can still tell that it is right.
    damage(&dir.join("layer.json"), Damage::Empty);
    assert_repaired(&check_in(&other, &["--repair"]), "made again of its own tar");
    damage(&dir.join("layer.json"), Damage::Empty);
    damage(&dir.join("layer.tar"), Damage::Flip(700));
    let (code, report) = check_in(&other, &["--repair"]);
    assert_eq!(code, 1);
    let goes = |report: &Value| {
        assert!(outcomes(report).iter().all(|(state, _)| state == "stays"), "{report:#}");
        outcomes(report).iter().all(|(_, why)| why.contains("stos system gc"))
    };
    assert!(goes(&report), "{report:#}");
    // Whether nothing uses it nobody can tell where a container's record is lost.
    let lost = other.data_root().join("containers").join("0".repeat(64));
    fs::create_dir(&lost).unwrap();
    let (_, report) = check_in(&other, &["--repair"]);
    let layer = json!({ "objects": [report["objects"][0]] });
    assert!(report["objects"][0]["object"] == "layer" && !goes(&layer), "{report:#}");
    assert_ne!(other.run(&["system", "gc"]).code, 0);
    fs::remove_dir(&lost).unwrap();
    other.ok(&["system", "gc"]);
    assert_eq!(check_in(&other, &["--full"]).1["objects"], json!([]));
}

#[test]
fn a_damaged_blob_that_nothing_uses_goes_with_the_next_sweep() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let digits = "0".repeat(64);
    let blob = scene.path("images/blobs/sha256").join(&digits);
    let index = scene.path("images/index.json");
    let good = fs::read(&index).unwrap();
    fs::write(&blob, "{}").unwrap();
    let told = |config: Option<&str>| {
        let (code, report) = scene.repair(&["--full"]);
        let blob = findings(&report).into_iter().find(|(item, _)| item["id"] == json!(format!("sha256:{digits}")));
        let outcome = blob.unwrap_or_else(|| panic!("{config:?}: {report:#}")).1["outcome"].clone();
        assert_eq!((code, &outcome["state"]), (1, &json!("stays")), "{report:#}");
        outcome["why"].as_str().unwrap().contains("stos system gc")
    };
    assert!(told(None));
    // Not where another tool has a use for it,
    let mut listed: Value = serde_json::from_slice(&good).unwrap();
    let entry = json!({ "mediaType": "application/json", "digest": format!("sha256:{digits}"), "size": 2 });
    listed["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(&index, listed.to_string()).unwrap();
    assert!(!told(None));
    // nor where an image's configuration is lost, which no registry has any more.
    fs::write(&index, good).unwrap();
    damage(&scene.path("images/blobs/sha256/CONFIG"), Damage::Remove);
    scene.hub.registry.add_rule(Rule::on(&scene.config).fault(Fault::status(404)));
    assert!(!told(Some(&scene.config)));
    scene.sandbox.ok(&["rmi", "app:1"]);
    assert!(!blob.exists());
    scene.assert_clean("swept");
}

/// Changes the entry of the only image in the list of images.
fn change_entry(scene: &Scene, change: impl FnOnce(&mut Value)) {
    let path = scene.path("images/index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut index["manifests"][0]);
    fs::write(path, index.to_string()).unwrap();
}

#[test]
fn an_id_that_is_not_that_of_the_image_is_corrected() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    change_entry(&scene, |entry| entry["annotations"]["dev.stos.image.id"] = json!(scene.manifest));
    let (code, report) = scene.check(&[]);
    let found = findings(&report);
    assert_eq!((code, found.len()), (1, 1), "{report:#}");
    let finding = &found[0].1;
    assert_eq!((&finding["path"], &finding["images"]), (&json!("images/index.json"), &json!([scene.reference])));
    assert_eq!((&finding["problem"], &finding["found"]), (&json!("altered"), &json!(scene.manifest)));
    assert_eq!(scene.sandbox.run(&["verify", "app:1"]).code, 1);
    scene.sandbox.ok(&["system", "gc"]);
    assert!(scene.path("images/blobs/sha256/CONFIG").exists(), "no sweep takes what the image really has");
    assert_repaired(&scene.repair(&[]), "taken from the image's manifest");
    scene.assert_clean("the image has its ID again");
    assert_eq!(scene.sandbox.json(&["inspect", "app:1"])[0]["id"], json!(scene.config));
    // And what the image has was kept all the while.
    scene.sandbox.ok(&["system", "gc"]);
    assert_eq!(scene.create(&[]).code, 0);
    assert_eq!(scene.requests(), [""; 0]);
}

#[test]
fn documents_that_contradict_each_other_are_named() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    // Each is what its digest says; but this manifest has a layer less than the configuration.
    let mut manifest: Value =
        serde_json::from_slice(&fs::read(scene.path("images/blobs/sha256/MANIFEST")).unwrap()).unwrap();
    manifest["layers"].as_array_mut().unwrap().pop();
    let bytes = manifest.to_string();
    let digest = stos_spec::BlobDigest::of(bytes.as_bytes());
    fs::write(scene.path("images/blobs/sha256").join(digest.hex()), &bytes).unwrap();
    change_entry(&scene, |entry| {
        entry["digest"] = json!(digest.to_string());
        entry["size"] = json!(bytes.len());
    });
    assert_ne!(scene.sandbox.run(&["system", "gc"]).code, 0, "nobody knows what the image needs");
    let (code, report) = scene.repair(&[]);
    let found = findings(&report);
    assert_eq!((code, found.len()), (1, 1), "{report:#}");
    assert_eq!((&found[0].0["object"], &found[0].0["id"]), (&json!("configuration"), &json!(scene.config)));
    assert!(outcomes(&report)[0].1.contains("stos rmi"), "{report:#}");
    scene.sandbox.ok(&["rmi", "app:1"]);
    scene.sandbox.ok(&["system", "gc"]);
    scene.assert_clean("it is gone");
}

#[test]
fn a_damaged_format_is_named_and_written_anew_where_nothing_says_that_the_store_is_newer() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let path = scene.path("stos.json");
    let good = fs::read(&path).unwrap();
    let newer = good.len() - 4;
    for (text, is_ours) in [("", true), ("{\n  \"version\": 1,\n  \"comp", true), (r#"{"version": 2, "inco"#, false)] {
        fs::write(&path, text).unwrap();
        damage(&scene.path("chains/sha256/CHAIN/image.erofs"), Damage::Cut);
        let before = scene.sandbox.listing();
        for command in [&["images"][..], &["verify", "app:1"], &["pull", "-q", "--tls-verify=false", &scene.reference]]
        {
            let refused = scene.sandbox.run(command);
            assert_eq!(refused.code, 1, "{text}");
            assert!(refused.stderr.contains("stos.json is damaged") && refused.stderr.contains("hint:"), "{text}");
        }
        let (code, report) = scene.check(&["--full"]);
        let found = findings(&report);
        assert_eq!((code, found.len()), (1, 2), "{report:#}");
        let (object, finding) = &found[0];
        assert_eq!((&object["object"], &object["id"]), (&json!("record"), &json!("stos.json")), "{report:#}");
        assert_eq!((&finding["path"], &finding["problem"]), (&json!("stos.json"), &json!("unreadable")));
        before.assert_same(&scene.sandbox.listing());
        let (code, report) = scene.repair(&[]);
        if is_ours {
            assert_eq!(code, 0, "{report:#}");
            assert_eq!(fs::read(&path).unwrap(), good);
        } else {
            let told = outcomes(&report);
            assert_eq!((code, told[0].0.as_str(), told[1].0.as_str()), (1, "stays", "found"), "{report:#}");
            assert!(told[0].1.contains("version 2"), "{report:#}");
            before.assert_same(&scene.sandbox.listing());
            fs::write(&path, &good[..newer]).unwrap();
            assert_eq!(scene.repair(&[]).0, 0);
        }
        scene.assert_clean(text);
    }
    assert_eq!(scene.create(&[]).code, 0);
}

#[test]
fn the_documents_of_an_image_made_here_follow_from_each_other() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let root = sandbox.path("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/app"), "an application").unwrap();
    sandbox.ok(&["import", "-q", "-c", "CMD [\"/bin/app\"]", root.to_str().unwrap(), "made.invalid/own:1"]);
    let image = &sandbox.json(&["inspect", "own:1"])[0];
    let blob = |digest: &Value| {
        let digits = digest.as_str().unwrap().trim_start_matches("sha256:");
        sandbox.data_root().join("images/blobs/sha256").join(digits)
    };
    damage(&blob(&image["digest"]), Damage::Empty);
    assert_repaired(&check_in(&sandbox, &["--repair"]), "made again of the configuration and the layers");
    assert_eq!(check_in(&sandbox, &["--full"]).0, 0);
    // Nothing else has the configuration.
    damage(&blob(&image["id"]), Damage::Remove);
    let (code, report) = check_in(&sandbox, &["--repair"]);
    assert_eq!((code, findings(&report)[0].0["object"].as_str()), (1, Some("configuration")), "{report:#}");
    assert!(outcomes(&report)[0].1.contains("made.invalid"), "it was looked for: {report:#}");
}

#[test]
fn an_image_is_verified_object_by_object() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let other = scene.hub.serve(&image("another "), "other", "1");
    scene.sandbox.pull(&other);
    let (base, top) = (&scene.layers[0].0, &scene.layers[1].0);
    let (base, top) = if base < top { (base, top) } else { (top, base) };
    let expected = format!(
        "manifest {}: ok\nconfiguration {}: ok\nlayer {base} (erofs): ok\nlayer {top} (erofs): ok\nchain {} (erofs): ok\nsound: {} {} (full)\n",
        scene.manifest, scene.config, scene.chain, scene.reference, scene.manifest
    );
    for command in [&["verify", "--full", "app:1"][..], &["image", "verify", "--full", "app:1"]] {
        assert_eq!(scene.sandbox.ok(command), expected);
    }
    // Of another image's damage it tells nothing.
    let others = scene.sandbox.json(&["inspect", "other:1"])[0]["layers"][1]["diff_id"].as_str().unwrap().to_owned();
    damage(&scene.sandbox.layer_dir(&others).join("layer.tar"), Damage::Cut);
    scene.sandbox.ok(&["verify", "app:1"]);
    let refused = scene.sandbox.run(&["verify", "--format", "json", "other:1"]);
    let told: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!((refused.code, &told["sound"], &told["image"]), (1, &json!(false), &json!(other)));
    let object = told["objects"].as_array().unwrap().iter().find(|object| object["id"] == json!(others)).unwrap();
    assert_eq!(object["findings"][0]["problem"], "size");
    assert_eq!(scene.sandbox.run(&["verify", "none:1"]).code, 1);
}

#[test]
fn what_cannot_be_looked_at_is_named_and_left() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let record = scene.path("layers/sha256/TOP/layer.json");
    damage(&record, Damage::Remove);
    // It cannot be read, and that says nothing of the layer.
    fs::create_dir(&record).unwrap();
    let (code, report) = scene.repair(&[]);
    assert_eq!((code, &report["healthy"]), (1, &json!(false)), "{report:#}");
    let found = findings(&report);
    assert!(found.iter().any(|(item, _)| item["id"] == scene.layers[1].0), "{report:#}");
    for (_, finding) in found {
        assert_eq!((&finding["problem"], &finding["outcome"]["state"]), (&Value::Null, &json!("found")), "{report:#}");
        assert!(finding["found"].as_str().unwrap().contains("layer.json"), "{report:#}");
    }
    assert_eq!(scene.requests(), [""; 0]);
    fs::remove_dir(&record).unwrap();
    assert_eq!(scene.repair(&[]).0, 0);
    scene.assert_clean("it can be looked at again");
    for name in ["images/index.json", "images/blobs/sha256/MANIFEST"] {
        let path = scene.path(name);
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let (code, report) = scene.repair(&[]);
        let found = findings(&report);
        assert_eq!((code, found.len()), (1, 1), "{name}: {report:#}");
        assert_eq!((&found[0].1["path"], &found[0].1["problem"]), (&json!(scene.filled(name)), &Value::Null));
        assert_eq!(scene.requests(), [""; 0]);
        fs::remove_dir(&path).unwrap();
        fs::write(&path, good).unwrap();
        scene.assert_clean(name);
    }
}
