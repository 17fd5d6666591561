// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images that break a promise: a clear error with the evidence, and everything else exactly as before.
//!
//! Which rule is broken is told by kind in the tests of the libraries; here the command must name the object, what was
//! expected and what was found, give the right exit code, and leave nothing in DATA-ROOT, in ROOT or outside.

mod bad_scene;
mod sandbox;

use std::fs;
use std::path::PathBuf;

use bad_scene::{Scene, small};
use serde_json::Value;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Fault, Image, ImageBuilder, Layer, digest};
use stos_testkit::registry::{self, Rule};
use stos_testkit::tar_builder::{Entry, RawHeader, TarBuilder};

#[test]
fn bytes_that_are_not_what_was_promised() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let builder = ImageBuilder::new().layer(scene.shell.clone()).layer(Layer::gzip(small())).command(&["sh"]);
    let good = builder.build();
    let layer = &good.layers[1];
    let found = |image: &Image| digest(image.layers[1].bytes.as_ref().unwrap());
    let serve = |fault| {
        let image = builder.clone().fault(fault).build();
        let reference = scene.hub.serve(&image, "bad", "1");
        (image, reference)
    };
    let (image, reference) = serve(Fault::LayerBytes(1));
    scene.refused("a flipped bit", &reference, &[&layer.digest, &found(&image)]);
    let (image, reference) = serve(Fault::LayerTruncated(1));
    let cut = image.layers[1].bytes.as_ref().unwrap().len();
    scene.refused("half a blob", &reference, &[&layer.digest, &layer.size.to_string(), &cut.to_string()]);
    // The blob must be whole again before the next fault.
    let (_, reference) = serve(Fault::LayerSize(1));
    let sizes = [layer.size.to_string(), (layer.size + 1).to_string()];
    scene.refused("a size too large", &reference, &[&layer.digest, &sizes[0], &sizes[1]]);
    let (_, reference) = serve(Fault::DiffId(1));
    scene.refused("another diffID", &reference, &[&layer.digest, &good.diff_ids[1], &digest(b"another tar")]);
    let (image, reference) = serve(Fault::DiffIdExtra);
    scene.refused("a diffID too many", &reference, &[&image.config.digest, "3 diff_ids", "2 layers"]);
    let (image, reference) = serve(Fault::DiffIdLost);
    scene.refused("a diffID too few", &reference, &[&image.config.digest, "1 diff_ids", "2 layers"]);
    let (image, reference) = serve(Fault::ConfigBytes);
    let found = digest(image.config.bytes.as_ref().unwrap());
    scene.refused("another configuration", &reference, &[&image.config.digest, &found]);
}

#[test]
fn registries_that_lie_about_bytes() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let (image, reference) = scene.serve(&Layer::plain(small()));
    let layer = &image.layers[1];
    let size = layer.size.to_string();
    let on_layer = format!("/blobs/{}", layer.digest);
    let faults = [
        ("longer, announced", vec![registry::Fault::Extra(7)], (layer.size + 7).to_string()),
        ("longer, in chunks", vec![registry::Fault::Extra(7), registry::Fault::Chunked], "more".to_owned()),
        ("without end", vec![registry::Fault::Endless], "more".to_owned()),
        ("shorter", vec![registry::Fault::Truncate(100), registry::Fault::Chunked], "100 bytes".to_owned()),
    ];
    for (case, faults, found) in faults {
        scene.hub.registry.add_rule(faults.into_iter().fold(Rule::on(on_layer.clone()), Rule::fault));
        scene.refused_with(case, &reference, &["--retry=0"], &[&layer.digest, &size, &found]);
        scene.hub.registry.clear_rules();
    }
    scene.hub.registry.add_rule(Rule::on(on_layer).fault(registry::Fault::status(404)));
    scene.refused("a blob that is not there", &reference, &[&layer.digest, "not found"]);
    scene.hub.registry.clear_rules();

    let by_digest = format!("{}/bad@{}", scene.hub.registry.address(), image.manifest.digest);
    scene.hub.registry.add_rule(Rule::on("/manifests/").fault(registry::Fault::Corrupt));
    scene.refused("a manifest of another digest", &by_digest, &[&image.manifest.digest]);
}

#[test]
fn layers_that_do_not_unpack() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let good = Layer::gzip(small());
    let stored = good_bytes(&good);
    let cut = stored[..stored.len() - 9].to_vec();
    let mut corrupt = stored.clone();
    let last = corrupt.len() - 6;
    corrupt[last] ^= 1;
    let cases = [
        ("gzip that ends early", good.clone().stored_as(cut)),
        ("gzip with a wrong checksum", good.clone().stored_as(corrupt)),
        ("garbage after gzip", good.clone().stored_as([&stored[..], b"garbage"].concat())),
        ("no gzip at all", good.clone().stored_as(small())),
        ("a tar that ends in a file", Layer::gzip(small()[..540].to_vec())),
        ("a tar that ends in a header", Layer::gzip(small()[..300].to_vec())),
        ("no tar", Layer::gzip(vec![b'x'; 2048])),
    ];
    for (case, layer) in cases {
        let (image, reference) = scene.serve(&layer);
        scene.refused(case, &reference, &[&image.layers[1].digest]);
    }
    // gzip of another tar: only the diffID tells.
    let other = TarBuilder::new().entry(Entry::file("other", "")).finish();
    let (image, reference) = scene.serve(&good.stored_as(good_bytes(&Layer::gzip(other.clone()))));
    scene.refused("another tar", &reference, &[&image.layers[1].digest, &image.diff_ids[1], &digest(&other)]);
}

/// The bytes that a registry stores for a layer.
fn good_bytes(layer: &Layer) -> Vec<u8> {
    ImageBuilder::new().layer(layer.clone()).build().layers[0].bytes.clone().unwrap()
}

#[test]
fn tars_that_attack() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let outside = format!("{}/file", scene.canary().display());
    let up = format!("../../../../../../../..{outside}");
    let tar = TarBuilder::new;
    let cases = [
        ("a name above the root", tar().entry(Entry::file(&up, "dead")), vec![&*up, ".."]),
        ("a name through ..", tar().entry(Entry::file("a/../../b", "dead")), vec!["a/../../b"]),
        ("a PAX name above the root", tar().entry(Entry::file("x", "dead").pax("path", &up)), vec![&up]),
        ("a hard link above the root", tar().entry(Entry::hard_link("h", &up)), vec![&*up, "\"h\""]),
        ("a hard link to the host's file", tar().entry(Entry::hard_link("h", &outside)), vec!["h", &outside[1..]]),
        ("a hard link to nothing", tar().entry(Entry::hard_link("h", "none")), vec!["h", "none"]),
        (
            "a hard link before its target",
            tar().entry(Entry::hard_link("h", "later")).entry(Entry::file("later", "")),
            vec!["h", "later"],
        ),
        ("a hard link to a directory", tar().entry(Entry::hard_link("h", "bin")), vec!["h", "bin"]),
        (
            "a hard link through a symlink to the host",
            tar().entry(Entry::symlink("s", scene.canary().to_str().unwrap())).entry(Entry::hard_link("h", "s/file")),
            vec!["h", "s/file"],
        ),
        ("a file as a parent", tar().entry(Entry::file("f", "")).entry(Entry::file("f/x", "")), vec!["f/x"]),
        (
            "a loop of symlinks as a parent",
            {
                let links = tar().entry(Entry::symlink("a", "b")).entry(Entry::symlink("b", "a"));
                links.entry(Entry::file("a/x", ""))
            },
            vec!["a/x"],
        ),
        ("a whiteout of nothing", tar().entry(Entry::file("d/.wh.", "")), vec!["d/.wh."]),
        ("a whiteout of .", tar().entry(Entry::file("d/.wh..", "")), vec!["d/.wh.."]),
        ("a whiteout of ..", tar().entry(Entry::file("d/.wh...", "")), vec!["d/.wh..."]),
        ("an empty name", tar().raw_entry(&RawHeader::ustar("").checksum(), b""), vec!["empty name"]),
        ("a name of 256 bytes", tar().entry(Entry::file("n".repeat(256), "")), vec!["256", "255"]),
        ("the root as a file", tar().entry(Entry::symlink("./", "x")), vec!["root"]),
        ("an unknown type", tar().entry(Entry::of_kind(b'Q', "q")), vec!["q", "'Q'"]),
        (
            "a sparse map beyond its file",
            tar().sparse_gnu("holes", 9, &[(8, &[1; 512])]),
            vec!["holes", "512 bytes at 8"],
        ),
        (
            "a size beyond the tar",
            tar().raw_entry(&RawHeader::ustar("huge").size(1 << 32).checksum(), b"data"),
            vec!["huge", "4294967296"],
        ),
        ("a uid beyond 32 bits", tar().entry(Entry::file("u", "").owner(1 << 32, 0)), vec!["u", "4294967296"]),
    ];
    for (case, tar, words) in cases {
        let (_, reference) = scene.serve(&Layer::gzip(tar.finish()));
        scene.refused(case, &reference, &words);
    }
}

#[test]
fn legal_layers_reach_nothing_outside() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let canary = scene.canary().to_str().unwrap().to_owned();
    let top = TarBuilder::new()
        .entry(Entry::symlink("out", &canary))
        .entry(Entry::file("out/file", "inside"))
        .entry(Entry::symlink("up", format!("../../../../../../../..{canary}/directory")))
        .entry(Entry::file("up/file", "inside"))
        .entry(Entry::file(format!("/{canary}/absolute"), "inside"))
        .entry(Entry::file("out/.wh.none", ""))
        .entry(Entry::symlink("etc/passwd", format!("{canary}/file")))
        .finish();
    let (image, reference) = scene.serve(&Layer::gzip(top));
    let names = ["file", "directory/file", "absolute"].map(|name| format!("{canary}/{name}"));
    let run = ["run", "--rm", "--tls-verify=false", &reference, "cat"];
    let printed = scene.sandbox.ok(&[&run[..], &names.each_ref().map(String::as_str)].concat());
    assert_eq!(printed, "insideinsideinside");
    let through = scene.sandbox.ok(&[&run[..], &["/out/file", "/up/file", "/out/absolute"]].concat());
    assert_eq!(through, "insideinsideinside");
    scene.sandbox.ok(&["rmi", &image.config.digest]);
    // The list of images was written twice: its contents are the same, its time is not.
    let list = &b"images/index.json"[..];
    let mut before = scene.before[0].clone();
    let [now, _, canary] = scene.now();
    before.nodes.get_mut(list).unwrap().mtime = now.nodes[list].mtime;
    before.assert_same(&now);
    scene.before[2].assert_same(&canary);
}

#[test]
fn references_that_lead_nowhere() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let address = scene.hub.registry.address();
    scene.refused("a tag that is not there", &format!("{address}/good:404"), &["/good/manifests/404", "not found"]);
    scene.refused("a repository that is not there", &format!("{address}/none:1"), &["/none/manifests/1", "not found"]);
    let absent = digest(b"no manifest");
    scene.refused("a digest that is not there", &format!("{address}/good@{absent}"), &[&absent, "not found"]);
    // A port that is closed, and that nobody is given meanwhile.
    scene.refused_with("nobody listens", "127.0.0.1:1/good:1", &["--retry=0"], &["127.0.0.1:1", "cannot reach"]);
    for invalid in ["Upper:1", "a//b", "good@sha256:short", "good:../x", "good@md5:00", "", "a/../b"] {
        scene.refused("no reference", invalid, &[invalid]);
    }
    let output = scene.sandbox.run(&["create", "--pull", "never", &format!("{address}/other:1")]);
    assert_eq!(output.code, 125);
    assert!(output.stderr.contains("/other:1"), "{}", output.stderr);
    scene.unchanged("--pull never");
}

#[test]
fn a_failed_pull_takes_back_the_layers_that_had_come() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let unique = |text: &str| Layer::gzip(TarBuilder::new().entry(Entry::file("unique", text)).finish());
    let builder = (0..8).fold(ImageBuilder::new(), |image, number| image.layer(unique(&number.to_string())));
    let image = builder.layer(Layer::gzip(small())).fault(Fault::LayerBytes(8)).command(&["sh"]).build();
    let reference = scene.hub.serve(&image, "bad", "1");
    for _ in 0..3 {
        scene.refused("the last of nine layers", &reference, &[&image.layers[8].digest]);
    }
    // A merge that fails comes after every layer has been proved and stored.
    let link = Layer::gzip(TarBuilder::new().entry(Entry::hard_link("h", "none")).finish());
    let (_, reference) = scene.serve(&link);
    scene.refused("layers that contradict each other", &reference, &["none"]);
    // The name still means the good image, and it still runs.
    assert!(scene.sandbox.ok(&["start", "-a", "keeper"]).contains("root:"));
}

#[test]
fn damage_on_disk_is_found_before_anything_runs_and_healed_by_a_pull() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let sandbox = &scene.sandbox;
    let reference = format!("{}/good:1", scene.hub.registry.address());
    let inspected = sandbox.json(&["inspect", "good:1"])[0].clone();
    let layer = inspected["layers"][0]["diff_id"].as_str().unwrap();
    let tar = sandbox.layer_dir(layer).join("layer.tar");
    let flip = |path: &PathBuf, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    flip(&tar, 600);
    let found = format!("sha256:{}", stos_testkit::tree::sha256_of_file(&tar).unwrap());
    let before = sandbox.listing();
    for arguments in [&["run", "--rm"][..], &["create"], &["create", "--verify", "full"]] {
        let output = sandbox.run(&[arguments, &["good:1"]].concat());
        assert_eq!((output.code, &*output.stdout), (125, ""), "{arguments:?}: {}", output.stderr);
        for word in [layer, tar.to_str().unwrap(), &*found, "stos pull"] {
            assert!(output.stderr.contains(word), "{arguments:?} does not say {word}: {}", output.stderr);
        }
        before.assert_same(&sandbox.listing());
    }
    sandbox.pull(&reference);
    assert!(sandbox.ok(&["run", "--rm", "--verify", "full", "good:1"]).contains("root:"));

    // The merged index needs no registry: it is made again.
    let image = sandbox.chain_dir(inspected["chain_id"].as_str().unwrap()).join("image.erofs");
    let good = fs::read(&image).unwrap();
    flip(&image, 1700);
    assert!(sandbox.ok(&["run", "--rm", "--pull", "never", "good:1"]).contains("root:"));
    assert_eq!(fs::read(&image).unwrap(), good);
}

#[test]
fn a_copy_of_the_data_root_runs() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("cp"));
    let scene = Scene::new();
    let copy = scene.sandbox.path("copy");
    let [from, to] = [scene.sandbox.data_root(), copy.clone()].map(|path| path.to_str().unwrap().to_owned());
    sandbox::tool("cp", &["-a", &from, &to]);
    let chain = scene.sandbox.names("chains/sha256")[0].clone();
    let seal = |root: &PathBuf| -> Value {
        serde_json::from_slice(&fs::read(root.join("chains/sha256").join(&chain).join("chain.json")).unwrap()).unwrap()
    };
    let on_copy = |arguments: &[&str]| sandbox::output(scene.sandbox.command_on(&copy).args(arguments));
    let output = on_copy(&["run", "--rm", "--pull", "never", "good:1"]);
    assert!(output.code == 0 && output.stdout.contains("root:"), "{}", output.stderr);
    let (old, new) = (seal(&scene.sandbox.data_root()), seal(&copy));
    assert_eq!(old["image"]["sha256"], new["image"]["sha256"]);
    assert_ne!(old["image"]["inode"], new["image"]["inode"], "the copy is sealed as it is");
    let output = on_copy(&["run", "--rm", "--pull", "never", "--verify", "full", "good:1"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
}
