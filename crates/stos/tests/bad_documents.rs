// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Manifests, indexes and configurations that no image should have: refused by name, with nothing lost and nothing left; and
//! those that are merely odd, which work.
//!
//! `docs/validation.md` lists the classes. That each has an error kind of its own is tested in `stos-spec` and `stos-engine`.

mod bad_scene;
mod sandbox;

use bad_scene::{Scene, small};
use sandbox::{Hub, Sandbox};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Dialect, Image, ImageBuilder, Layer, digest};
use stos_testkit::registry::{self, Rule};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// Of most cases a pull says all; that create and run say the same is seen by others.
const PULL: [(&str, i32); 1] = [("pull", 1)];

/// A manifest of a good image, and what changes it.
fn document(scene: &Scene) -> Value {
    let (image, _) = scene.serve(&Layer::gzip(small()));
    serde_json::from_slice(image.manifest.bytes.as_ref().unwrap()).unwrap()
}

/// Puts a value at a place of a document; where there is no such field, at its top.
fn changed(document: &Value, pointer: &str, value: Value) -> Value {
    let mut document = document.clone();
    match document.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => document[&pointer[1..]] = value,
    }
    document
}

/// An index of these entries.
fn index(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": Dialect::Oci.index(), "manifests": entries})
}

/// The entry of an index for this machine.
fn entry(media_type: &str, digest: &str, size: usize) -> Value {
    let platform = json!({"os": "linux", "architecture": stos_testkit::image_builder::architecture()});
    json!({"mediaType": media_type, "digest": digest, "size": size, "platform": platform})
}

#[test]
fn manifests_that_are_no_image() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let (image, _) = scene.serve(&Layer::gzip(small()));
    let media_type = Dialect::Oci.manifest();
    let document: Value = serde_json::from_slice(image.manifest.bytes.as_ref().unwrap()).unwrap();
    let changed = |pointer: &str, value: Value| changed(&document, pointer, value);
    let artifact = "application/vnd.example.chart.config.v1+json";
    let cases = [
        ("an artifact", changed("/config/mediaType", json!(artifact)), vec![artifact]),
        ("manifest and index at once", changed("/manifests", json!([])), vec!["ambiguous"]),
        ("an index by its mediaType", changed("/mediaType", json!(Dialect::Oci.index())), vec![Dialect::Oci.index()]),
        ("schema 1", changed("/schemaVersion", json!(1)), vec!["schemaVersion 1", "expected 2"]),
        ("no layers", changed("/layers", json!([])), vec!["0 layers"]),
        ("an unknown layer", changed("/layers/1/mediaType", json!("text/plain")), vec!["layer 2", "text/plain"]),
        (
            "an encrypted layer",
            changed("/layers/1/mediaType", json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")),
            vec!["layer 2", "encrypted"],
        ),
        (
            "a digest that is a path",
            changed("/layers/1/digest", json!("sha256:../../../../etc/passwd")),
            vec!["layer 2", "../../../../etc/passwd"],
        ),
        ("an unknown algorithm", changed("/config/digest", json!("md5:00")), vec!["md5"]),
        ("a config too large", changed("/config/size", json!(1_u64 << 40)), vec!["8388608"]),
    ];
    for (case, document, words) in cases {
        let reference = scene.serve_document(media_type, &document);
        scene.refused(case, &reference, &words);
    }
    let reference = scene.serve_document(media_type, &json!("no manifest"));
    scene.refused("no object", &reference, &[&digest(b"\"no manifest\"")]);
    scene.hub.registry.put_manifest("bad", Some("1"), media_type, "[".repeat(100_000).as_bytes());
    scene.refused("deep JSON", &reference, &["nested deeper than 100"]);
    scene.hub.registry.put_manifest("bad", Some("1"), media_type, &vec![b' '; 5 << 20]);
    scene.refused("5 MiB", &reference, &["4194304"]);
}

#[test]
fn platforms_that_are_not_there() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let build = |arch| ImageBuilder::new().platform("linux", arch, "").layer(scene.shell.clone()).build();
    let images = [build("riscv64"), build("s390x")];
    let images = images.each_ref();
    let index = Image::index(Dialect::Oci, &images);
    let reference = scene.hub.serve_index(&index, &images, "bad", "1");
    let own = format!("linux/{}", stos_testkit::image_builder::architecture());
    scene.refused("none of an index", &reference, &[&index.digest, &own, "linux/riscv64", "linux/s390x"]);
    scene.refused_with("one asked for", &reference, &["--platform", "linux/mips"], &["linux/mips", "linux/s390x"]);
    let reference = scene.hub.serve(images[0], "bad", "2");
    scene.refused("not the image's", &reference, &[&images[0].config.digest, &own, "linux/riscv64"]);

    // Indexes of indexes, each a document of its own.
    let mut digest = images[0].manifest.digest.clone();
    for level in 0..6 {
        let entry = json!({"mediaType": Dialect::Oci.index(), "digest": digest, "size": 1, "platform":
            {"os": "linux", "architecture": stos_testkit::image_builder::architecture()}, "annotations": {"l": level.to_string()}});
        let mut entry = entry;
        let bytes = scene.hub.registry.manifest("bad", &digest).unwrap();
        entry["size"] = json!(bytes.1.len());
        entry["mediaType"] = json!(bytes.0);
        let document = json!({"schemaVersion": 2, "mediaType": Dialect::Oci.index(), "manifests": [entry]});
        digest =
            scene.hub.registry.put_manifest("bad", Some("deep"), Dialect::Oci.index(), document.to_string().as_bytes());
    }
    scene.refused("too deep", &format!("{}/bad:deep", scene.hub.registry.address()), &["index within 3 indexes"]);
}

#[test]
fn configurations_that_break_a_rule() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let cases = [
        ("/config/Env", json!(["NOTHING"]), vec!["Env[0]", "NOTHING", "NAME=VALUE"]),
        ("/config/User", json!("4294967296"), vec!["User", "4294967296"]),
        ("/config/WorkingDir", json!("srv/app"), vec!["WorkingDir", "srv/app"]),
        ("/config/Volumes", json!({"/a/../../etc": {}}), vec!["Volumes", "/a/../../etc"]),
        ("/config/Volumes", json!({"data": {}}), vec!["Volumes", "data"]),
        ("/config/Entrypoint", json!(["sh\u{0}"]), vec!["Entrypoint", "NUL"]),
        ("/os", json!(""), vec!["no os", "expected platform"]),
        ("/architecture", json!(""), vec!["no architecture", "expected platform"]),
        ("/rootfs/type", json!("tree"), vec!["tree", "layers"]),
        ("/rootfs/diff_ids", json!(["sha256:short"]), vec!["diff_ids[0]"]),
        ("/config", json!("text"), vec!["text"]),
    ];
    for (pointer, value, words) in cases {
        let image = ImageBuilder::new().layer(scene.shell.clone()).command(&["sh"]).set(pointer, value).build();
        let reference = scene.hub.serve(&image, "bad", "1");
        let words: Vec<&str> = words.iter().copied().chain([image.config.digest.as_str()]).collect();
        scene.refused(pointer, &reference, &words);
    }
}

#[test]
fn manifests_that_are_something_else() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let document = document(&scene);
    let oci = Dialect::Oci.manifest();
    let empty = "application/vnd.oci.empty.v1+json";
    let artifact = "application/vnd.oci.artifact.manifest.v1+json";
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let old =
        json!({"schemaVersion": 1, "name": "bad", "tag": "1", "fsLayers": [{"blobSum": digest(b"x")}], "history": []});
    let typed = changed(&changed(&document, "/config/mediaType", json!(empty)), "/artifactType", json!("a/chart"));
    let manifest_type = |text: &str| changed(&document, "/mediaType", json!(text));
    let layer_type = |text: &str| changed(&document, "/layers/1/mediaType", json!(text));
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let restricted = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    for (case, media_type, document, words) in [
        ("an artifact that says so", oci, typed, vec!["artifact of type \"a/chart\"", empty]),
        ("an artifact manifest", artifact, json!({"mediaType": artifact, "blobs": []}), vec![artifact]),
        ("schema 1", signed, old.clone(), vec!["schemaVersion 1", "expected 2", "hint: "]),
        ("schema 1 by another name", oci, old, vec!["schemaVersion 1"]),
        ("a manifest announced as schema 1", signed, document.clone(), vec!["announced", signed]),
        (
            "a manifest announced as an index",
            Dialect::Docker.index(),
            document.clone(),
            vec!["announced", "manifest.list"],
        ),
        ("an index announced as a manifest", oci, index(&[]), vec!["announced", oci]),
        ("an unknown manifest", oci, manifest_type("application/json"), vec!["application/json", "image manifest"]),
        ("a foreign layer", oci, layer_type(foreign), vec!["layer 2", foreign, "foreign layers"]),
        ("a layer that may not be spread", oci, layer_type(restricted), vec!["layer 2", restricted, "foreign layers"]),
        ("neither", oci, json!({"schemaVersion": 2}), vec!["neither"]),
        ("an index with layers", Dialect::Oci.index(), changed(&index(&[]), "/layers", json!([])), vec!["ambiguous"]),
        ("an empty index", Dialect::Oci.index(), index(&[]), vec!["no image for platform", "none"]),
        (
            "an unknown entry",
            Dialect::Oci.index(),
            index(&[entry("a/b", &digest(b"x"), 1)]),
            vec!["no image for platform"],
        ),
    ] {
        let reference = scene.serve_document(media_type, &document);
        scene.refused_by(&PULL, case, &reference, &[], &words);
    }
}

#[test]
fn documents_that_two_readers_take_for_two() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let text = document(&scene).to_string();
    let oci = Dialect::Oci.manifest();
    let other = json!([{"mediaType": Dialect::Oci.layer(false), "digest": digest(b"x"), "size": 1}]);
    let before = |field: &str, more: String| text.replacen(&format!("\"{field}\""), &format!("{more},\"{field}\""), 1);
    for (case, text, name) in [
        ("layers twice", before("layers", format!("\"layers\":{other}")), "\"layers\""),
        ("a digest twice", before("digest", format!("\"digest\":\"{}\"", digest(b"x"))), "\"digest\""),
        ("an annotation twice", before("layers", "\"annotations\":{\"a\":\"1\",\"a\":\"2\"}".to_owned()), "\"a\""),
    ] {
        scene.refused_by(&PULL, case, &scene.serve_text(oci, &text), &[], &["ambiguous", name, "twice"]);
    }
    let alone = format!("\"Manifests\":{other},\"MediaType\":\"{}\"", Dialect::Oci.index());
    for (case, text, words) in [
        ("layers in other case", before("layers", format!("\"Layers\":{other}")), ["\"Layers\"", "\"layers\""]),
        ("names of an index in other case", before("schemaVersion", alone), ["\"Manifests\"", "\"manifests\""]),
    ] {
        scene.refused_by(&PULL, case, &scene.serve_text(oci, &text), &[], &["ambiguous", words[0], words[1]]);
    }
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let reference = scene.serve_text(oci, &before("layers", format!("\"x\":{deep}")));
    scene.refused_by(&PULL, "deep inside", &reference, &[], &["nested deeper than 100"]);
    // So it is with configurations.
    let builder = ImageBuilder::new().layer(scene.shell.clone()).command(&["sh"]);
    let good = builder.build();
    let config = String::from_utf8(good.config.bytes.clone().unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(good.manifest.bytes.as_ref().unwrap()).unwrap();
    for (case, config, words) in [
        ("rootfs twice", config.replacen('{', "{\"rootfs\":{},", 1), ["ambiguous", "twice"]),
        ("rootfs in other case", config.replacen('{', "{\"RootFS\":{},", 1), ["ambiguous", "\"rootfs\""]),
        ("user in other case", config.replacen("\"Cmd\"", "\"user\":\"77\",\"Cmd\"", 1), ["\"user\"", "\"User\""]),
        ("env in other case", config.replacen("\"Cmd\"", "\"env\":[\"A=b\"],\"Cmd\"", 1), ["\"env\"", "\"Env\""]),
        ("deep", config.replacen('{', &format!("{{\"x\":{deep},"), 1), ["nested deeper than 100", "configuration"]),
        ("no JSON", config.replacen('{', "[", 1), ["not valid", "configuration"]),
    ] {
        let digest = scene.hub.registry.put_blob(config.clone().into_bytes());
        let descriptor = json!({"mediaType": Dialect::Oci.config(), "digest": digest, "size": config.len()});
        scene.hub.registry.put_blob(good.layers[0].bytes.clone().unwrap());
        let reference = scene.serve_document(oci, &changed(&manifest, "/config", descriptor));
        scene.refused_by(&PULL, case, &reference, &[], &[words[0], words[1], &digest]);
    }
}

#[test]
fn digests_that_are_none() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let document = document(&scene);
    let oci = Dialect::Oci.manifest();
    let path = "sha256:../../../../../../etc/passwd";
    let long = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
    let upper = digest(b"x").to_uppercase().replace("SHA256", "sha256");
    for (digest, word) in
        [(path, "etc/passwd"), (long, "expected the algorithm sha256"), (&upper, "lower-case"), ("", "digest")]
    {
        for (place, whose) in [("/config/digest", "configuration"), ("/layers/0/digest", "layer 1")] {
            let reference = scene.serve_document(oci, &changed(&document, place, json!(digest)));
            scene.refused_by(&PULL, place, &reference, &[], &[word, whose]);
        }
        let reference = scene.serve_document(Dialect::Oci.index(), &index(&[entry(oci, digest, 1)]));
        scene.refused_by(&PULL, "in an index", &reference, &[], &[word, "manifest 1 of the index"]);
        let image = ImageBuilder::new().layer(scene.shell.clone()).set("/rootfs/diff_ids", json!([digest])).build();
        let reference = scene.hub.serve(&image, "bad", "1");
        scene.refused_by(&PULL, "a diffID", &reference, &[], &[word, "diff_ids[0]"]);
    }
    let address = scene.hub.registry.address();
    for digest in [path, long] {
        scene.refused_by(&PULL, "a reference", &format!("{address}/bad@{digest}"), &[], &["digest"]);
    }
}

#[test]
fn sizes_and_digests_of_every_kind_of_document() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let oci = Dialect::Oci.manifest();
    let (image, _) = scene.serve(&Layer::gzip(small()));
    let (manifest, size) = (&image.manifest.digest, image.manifest.bytes.as_ref().unwrap().len());
    let of = |size: usize| scene.serve_document(Dialect::Oci.index(), &index(&[entry(oci, manifest, size)]));
    for wrong in [size - 1, size + 1, 0] {
        let words = [manifest.as_str(), &size.to_string(), &wrong.to_string()];
        scene.refused_by(&PULL, "a manifest's size", &of(wrong), &[], &words);
    }
    scene.refused_by(&PULL, "a manifest of 1 TiB", &of(1 << 40), &[], &[manifest, "4194304"]);
    let document: Value = serde_json::from_slice(image.manifest.bytes.as_ref().unwrap()).unwrap();
    let config = image.config.bytes.as_ref().unwrap().len();
    for wrong in [config - 1, config + 1] {
        let reference = scene.serve_document(oci, &changed(&document, "/config/size", json!(wrong)));
        scene.refused_by(&PULL, "a configuration's size", &reference, &[], &[&image.config.digest, &wrong.to_string()]);
    }
    for odd in [json!(-1), json!(1.5), json!("1"), json!(null)] {
        for place in ["/config/size", "/layers/0/size"] {
            let reference = scene.serve_document(oci, &changed(&document, place, odd.clone()));
            scene.refused_by(&PULL, "a size that is none", &reference, &[], &["not valid"]);
        }
    }
    let reference = scene.serve_document(oci, &changed(&document, "/layers/1/size", json!(u64::MAX)));
    scene.refused_by(&PULL, "a layer of 16 EiB", &reference, &[], &["18446744073709551615"]);
    // Each document that is not what its digest says, by the way that leads to it.
    let by_tag = of(size);
    let list = scene.hub.registry.manifest("bad", "1").unwrap().1;
    let by_digest = format!("{}/bad@{}", scene.hub.registry.address(), digest(&list));
    for (case, reference, path) in [
        ("an index", &by_digest, digest(&list)),
        ("a manifest of an index", &by_tag, manifest.clone()),
        ("a configuration", &by_tag, image.config.digest.clone()),
        ("a layer", &by_tag, image.layers[1].digest.clone()),
    ] {
        scene.hub.registry.add_rule(Rule::on(path.clone()).fault(registry::Fault::Corrupt));
        scene.refused_by(&PULL, case, reference, &[], &[&path]);
        scene.hub.registry.clear_rules();
    }
}

#[test]
fn indexes_that_lead_back_or_call_things_by_wrong_names() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let (oci, list) = (Dialect::Oci.manifest(), Dialect::Oci.index());
    let (image, _) = scene.serve(&Layer::gzip(small()));
    let manifest = scene.hub.registry.manifest("bad", &image.manifest.digest).unwrap().1;
    let size = manifest.len();
    // A circle needs a digest that is not the document's.
    let circle = index(&[entry(list, &image.manifest.digest, size)]);
    let reference = scene.serve_document(list, &circle);
    let padded = format!("{circle:width$}", circle = circle.to_string(), width = size);
    scene.hub.registry.add_rule(Rule::on(&*image.manifest.digest).fault(registry::Fault::body(padded)));
    scene.refused_by(&PULL, "a circle", &reference, &[], &[&image.manifest.digest]);
    scene.hub.registry.clear_rules();
    // An index that calls a manifest an index, also where the manifest has no name of its own.
    for announced in [oci, "application/octet-stream"] {
        let mut nameless: Value = serde_json::from_slice(&manifest).unwrap();
        nameless.as_object_mut().unwrap().remove("mediaType");
        for document in [nameless.to_string().into_bytes(), manifest.clone()] {
            let digest = scene.hub.registry.put_manifest("bad", None, announced, &document);
            let reference = scene.serve_document(list, &index(&[entry(list, &digest, document.len())]));
            scene.refused_by(&PULL, "a manifest called an index", &reference, &[], &["ambiguous", &digest]);
        }
    }
    let inner = index(&[entry(oci, &image.manifest.digest, size)]).to_string();
    let digest = scene.hub.registry.put_manifest("bad", None, list, inner.as_bytes());
    let reference = scene.serve_document(list, &index(&[entry(oci, &digest, inner.len())]));
    scene.refused_by(&PULL, "an index called a manifest", &reference, &[], &["ambiguous", &digest]);
}

#[test]
fn odd_images_that_are_legal_work() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let sandbox = &scene.sandbox;
    let builder = ImageBuilder::new().layer(scene.shell.clone()).command(&["cat", "/etc/passwd"]);
    let run = |reference: &str, options: &[&str]| {
        let said = sandbox.ok(&[&["run", "-q", "--rm", "--tls-verify=false"], options, &[reference]].concat());
        assert!(said.contains("root:"), "{reference}: {said}");
    };
    // x86_64 is amd64, in indexes and configurations, and a wish.
    if stos_testkit::image_builder::architecture() == "amd64" {
        let image = builder.clone().platform("linux", "x86_64", "").build();
        let reference = scene.hub.serve_index(&Image::index(Dialect::Oci, &[&image]), &[&image], "odd", "x86");
        run(&reference, &[]);
        run(&reference, &["--platform", "linux/x86_64"]);
        assert_eq!(
            sandbox.json(&["inspect", "odd:x86"])[0]["platform"],
            json!({"os": "linux", "architecture": "amd64"})
        );
        // An image without a variant is for every host of the architecture; one for another variant is not.
        run(&reference, &["--platform", "linux/amd64/v2"]);
        let newer = builder.clone().platform("linux", "amd64", "v3").build();
        let reference = scene.hub.serve(&newer, "odd", "v3");
        let words = ["linux/amd64", "linux/amd64/v3"];
        let refused = sandbox.run(&["pull", "-q", "--tls-verify=false", &reference]);
        assert!(refused.code == 1 && words.iter().all(|word| refused.stderr.contains(word)), "{refused:?}");
    }
    // A variant that only the index tells.
    let arm = builder.clone().platform("linux", "arm", "").build();
    let mut list: Value = serde_json::from_slice(Image::index(Dialect::Oci, &[&arm]).bytes.as_ref().unwrap()).unwrap();
    list["manifests"][0]["platform"]["variant"] = json!("v6");
    scene.hub.serve(&arm, "odd", "arm");
    scene.hub.registry.put_manifest("odd", Some("arm"), Dialect::Oci.index(), list.to_string().as_bytes());
    let reference = format!("{}/odd:arm", scene.hub.registry.address());
    for wanted in ["linux/arm/v6", "linux/arm/v7", "linux/arm"] {
        sandbox.ok(&["pull", "-q", "--tls-verify=false", "--platform", wanted, &reference]);
    }
    let refused = sandbox.run(&["pull", "-q", "--tls-verify=false", "--platform", "linux/arm/v5", &reference]);
    assert!(refused.code == 1 && refused.stderr.contains("linux/arm/v6"), "{refused:?}");
    // Steps without a layer, more steps than layers, and none at all; a layer twice; names and types beside an image.
    let empty = json!([{"created_by": "ENV A=b", "empty_layer": true}, {"created_by": "ADD x"}, {"created_by": "CMD", "empty_layer": true}]);
    let cases = [
        ("steps", builder.clone().set("/history", empty)),
        ("many-steps", builder.clone().set("/history", json!([{}, {}, {}, {}]))),
        ("no-steps", builder.clone().set("/history", json!([]))),
        ("twice", builder.clone().layer(Layer::gzip(small())).layer(Layer::gzip(small()))),
        ("cases", builder.clone().set("/config/Labels", json!({"a": "1", "A": "2"}))),
        ("unknown-fields", builder.clone().set("/x", json!({"y": [{"z": {}}]}))),
    ];
    for (tag, builder) in cases {
        let reference = scene.hub.serve(&builder.build(), "odd", tag);
        run(&reference, &[]);
        sandbox.ok(&["history", &format!("odd:{tag}")]);
        sandbox.ok(&["inspect", &format!("odd:{tag}")]);
    }
    let image = builder.build();
    let mut typed: Value = serde_json::from_slice(image.manifest.bytes.as_ref().unwrap()).unwrap();
    typed["artifactType"] = json!("application/vnd.example.app");
    typed["annotations"] = json!({"a": "1", "A": "2"});
    typed["subject"] = json!({"mediaType": Dialect::Oci.manifest(), "digest": digest(b"x"), "size": 1});
    scene.hub.serve(&image, "odd", "typed");
    scene.hub.registry.put_manifest("odd", Some("typed"), "text/plain", typed.to_string().as_bytes());
    run(&format!("{}/odd:typed", scene.hub.registry.address()), &[]);
}

#[test]
fn layers_that_are_there_make_no_claim_of_a_manifest_true() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let (image, reference) = scene.serve(&Layer::gzip(small()));
    scene.sandbox.pull(&reference);
    // The layers are not fetched, so nobody can tell; but no sum of such sizes may hurt.
    let mut document: Value = serde_json::from_slice(image.manifest.bytes.as_ref().unwrap()).unwrap();
    for layer in document["layers"].as_array_mut().unwrap() {
        layer["size"] = json!(u64::MAX);
    }
    let reference = scene.serve_document(Dialect::Oci.manifest(), &document);
    for how in ["plain", "json"] {
        let pulled = scene.sandbox.run(&["pull", "--tls-verify=false", "--progress", how, &reference]);
        assert_eq!(pulled.code, 0, "{how}: {}", pulled.stderr);
    }
    scene.sandbox.ok(&["images"]);
    scene.sandbox.ok(&["inspect", "bad:1"]);
    scene.sandbox.ok(&["system", "df"]);
    let kept = scene.sandbox.run(&["pull", "-q", "--tls-verify=false", "--keep-blobs", &reference]);
    assert!(kept.code == 1 && kept.stderr.contains("18446744073709551615"), "{kept:?}");
}

#[test]
fn account_files_that_are_no_files() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let line = "web:x:1234:5678::/srv:/bin/sh\n";
    let over = |entry: Entry| Layer::plain(TarBuilder::new().entry(entry).finish());
    let huge = || "#".repeat(33 << 20) + "\n" + line;
    for (case, layer, expected) in [
        ("a FIFO", over(Entry::fifo("etc/passwd")), Err("regular file")),
        ("a device", over(Entry::char_device("etc/passwd", 1, 5)), Err("regular file")),
        ("huge", over(Entry::file("etc/passwd", huge())), Err("at most")),
        (
            "a symlink inside",
            {
                let tar = TarBuilder::new().entry(Entry::symlink("etc/passwd", "/../../../srv/users"));
                Layer::plain(tar.entry(Entry::file("srv/users", line)).finish())
            },
            Ok("1234\n5678"),
        ),
        ("a symlink that leads nowhere inside", over(Entry::symlink("etc/passwd", "/no/such")), Err("web")),
        ("a number that overflows", over(Entry::file("etc/passwd", "web:x:4294967296:0::/:/bin/sh\n")), Err("web")),
        ("a number below 0", over(Entry::file("etc/passwd", "web:x:-1:0::/:/bin/sh\n")), Err("web")),
    ] {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let image = ImageBuilder::new().layer(Layer::gzip(rootfs::host_shell().unwrap())).layer(layer).build();
        sandbox.pull(&hub.serve(&image, "shell", "1"));
        let script = "while read name id rest; do case $name in Uid:|Gid:) echo $id;; esac; done < /proc/self/status";
        let ran = sandbox.run(&["run", "--rm", "-u", "web", "shell:1", "sh", "-c", script]);
        match expected {
            Ok(said) => assert_eq!((ran.code, ran.stdout.trim()), (0, said), "{case}: {}", ran.stderr),
            Err(word) => {
                assert_eq!((ran.code, ran.stdout.as_str()), (125, ""), "{case}: {}", ran.stderr);
                assert!(ran.stderr.contains("/etc/passwd") && ran.stderr.contains(word), "{case}: {}", ran.stderr);
            }
        }
        assert!(sandbox.names("containers").is_empty(), "{case}");
    }
}

#[test]
fn directories_of_a_configuration_are_made_inside() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let outside = format!("/tmp/stos-outside-{}", std::process::id());
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    // By its text it leads to the host's /tmp; as a container sees it, to its own.
    let escape = TarBuilder::new().entry(Entry::symlink("escape", "../../../../../../../../tmp")).finish();
    let image = ImageBuilder::new()
        .layer(Layer::gzip(rootfs::host_shell().unwrap()))
        .layer(Layer::plain(escape))
        .command(&["sh", "-c", "pwd -P; cd / && cd /tmp/stos-outside-*/volume && pwd -P"])
        .working_dir(&outside.replace("/tmp", "/escape/../escape/."))
        .set("/config/Volumes", json!({outside.replace("/tmp", "/escape") + "/volume": {}}))
        .build();
    let reference = hub.serve(&image, "inside", "1");
    let said = sandbox.ok(&["run", "-q", "--rm", "--tls-verify=false", &reference]);
    assert_eq!(said, format!("{outside}\n{outside}/volume\n"));
    assert!(!std::path::Path::new(&outside).exists());
}

#[test]
fn what_a_command_of_the_image_lacks_is_named() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let program = std::fs::read("/proc/self/exe").unwrap();
    let tar = TarBuilder::new()
        .entry(Entry::file("bin/program", program).mode(0o755))
        .entry(Entry::file("bin/script", "#! /opt/python/bin/python3 -u\n").mode(0o755))
        .entry(Entry::symlink("bin/dangling", "/opt/none"))
        .finish();
    let layer = Layer::gzip(tar);
    // This test is a program of this machine, and the image has no loader for it.
    let loader = if cfg!(all(target_arch = "x86_64", target_env = "gnu")) {
        "/lib64/ld-linux-x86-64.so.2"
    } else {
        "/bin/program"
    };
    for (entrypoint, code, missing) in [
        ("/bin/program", 127, loader),
        ("program", 127, loader),
        ("/bin/script", 127, "/opt/python/bin/python3"),
        ("/opt/app/bin/run", 127, "/opt"),
        ("/bin/none", 127, "/bin/none"),
        ("/bin/dangling", 127, "/bin/dangling"),
        ("none", 127, "PATH"),
        ("/bin", 126, "not a file"),
    ] {
        let image = ImageBuilder::new().layer(layer.clone()).entrypoint(&[entrypoint]).build();
        let reference = hub.serve(&image, "lacks", "1");
        let ran = sandbox.run(&["run", "-q", "--rm", "--pull=always", "--tls-verify=false", &reference]);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{entrypoint}: {}", ran.stderr);
        assert!(ran.stderr.contains(missing) && ran.stderr.contains(entrypoint), "{entrypoint}: {}", ran.stderr);
        assert!(sandbox.names("containers").is_empty(), "{entrypoint}");
    }
    let nothing = hub.serve(&ImageBuilder::new().layer(layer).build(), "lacks", "nothing");
    let ran = sandbox.run(&["run", "-q", "--rm", "--tls-verify=false", &nothing]);
    assert!(ran.code == 125 && ran.stderr.contains("hint: give a command"), "{ran:?}");
}
