// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images that break a promise: a clear error with the evidence, and everything else exactly as before.
//!
//! Which rule is broken is told by kind in the tests of the libraries; here the command must name the object, what was
//! expected and what was found, give the right exit code, and leave nothing in DATA-ROOT, in ROOT or outside.

mod sandbox;

use std::fs;
use std::path::PathBuf;

use sandbox::{Hub, Sandbox, stable};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Dialect, Fault, Image, ImageBuilder, Layer, digest};
use stos_testkit::registry::{self, Rule};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, RawHeader, TarBuilder};
use stos_testkit::tree::Tree;

/// A store with one good image and a container of it, a registry, and a tree outside that nobody may touch.
struct Scene {
    sandbox: Sandbox,
    hub: Hub,
    shell: Layer,
    before: [Tree; 3],
}

impl Scene {
    fn new() -> Self {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let shell = Layer::gzip(rootfs::host_programs(&["cat"]).unwrap());
        let good = ImageBuilder::new().layer(shell.clone()).command(&["cat", "/etc/passwd"]).build();
        sandbox.ok(&["create", "--tls-verify=false", "--name", "keeper", &hub.serve(&good, "good", "1")]);
        let canary = sandbox.path("canary");
        fs::create_dir_all(canary.join("directory")).unwrap();
        fs::write(canary.join("file"), "alive").unwrap();
        fs::write(canary.join("directory/file"), "alive").unwrap();
        let mut scene = Self { sandbox, hub, shell, before: [Tree::default(), Tree::default(), Tree::default()] };
        scene.before = scene.now();
        scene
    }

    fn canary(&self) -> PathBuf {
        self.sandbox.path("canary")
    }

    fn now(&self) -> [Tree; 3] {
        [self.sandbox.data_root(), self.sandbox.root(), self.canary()].map(|path| stable(&path))
    }

    #[track_caller]
    fn unchanged(&self, case: &str) {
        for ((before, now), what) in self.before.iter().zip(&self.now()).zip(["DATA-ROOT", "ROOT", "the canary"]) {
            let differences: Vec<_> = before.differences(now).iter().map(ToString::to_string).collect();
            assert!(differences.is_empty(), "{case}: {what} has changed: {differences:#?}");
        }
        assert_eq!(self.sandbox.names("staging"), Vec::<String>::new(), "{case}");
    }

    /// pull, create and run refuse it with their exit codes, say each of `words`, and leave no trace.
    #[track_caller]
    fn refused(&self, case: &str, reference: &str, words: &[&str]) {
        self.refused_with(case, reference, &[], words);
    }

    #[track_caller]
    fn refused_with(&self, case: &str, reference: &str, options: &[&str], words: &[&str]) {
        for (command, code) in [("pull", 1), ("create", 125), ("run", 125)] {
            let arguments = [&[command, "-q", "--tls-verify=false"], options, &[reference]].concat();
            let output = self.sandbox.run(&arguments);
            assert_eq!((output.code, &*output.stdout), (code, ""), "{case}: {command}: {}", output.stderr);
            assert!(output.stderr.starts_with("Error: "), "{case}: {command}: {}", output.stderr);
            for word in words {
                assert!(output.stderr.contains(word), "{case}: {command} does not say {word}: {}", output.stderr);
            }
            self.unchanged(&format!("{case}, {command}"));
        }
    }

    /// Serves an image of the shell and one more layer.
    fn serve(&self, top: &Layer) -> (Image, String) {
        let image = ImageBuilder::new().layer(self.shell.clone()).layer(top.clone()).command(&["sh"]).build();
        let reference = self.hub.serve(&image, "bad", "1");
        (image, reference)
    }

    /// Serves a document as `bad:1`, whatever it is.
    fn serve_document(&self, media_type: &str, document: &Value) -> String {
        self.hub.registry.put_manifest("bad", Some("1"), media_type, document.to_string().as_bytes());
        format!("{}/bad:1", self.hub.registry.address())
    }
}

fn small() -> Vec<u8> {
    TarBuilder::new().entry(Entry::file("file", "some data that can be flipped, cut and stretched")).finish()
}

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
fn manifests_that_are_no_image() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let (image, _) = scene.serve(&Layer::gzip(small()));
    let media_type = Dialect::Oci.manifest();
    let document: Value = serde_json::from_slice(image.manifest.bytes.as_ref().unwrap()).unwrap();
    let changed = |pointer: &str, value: Value| {
        let mut document = document.clone();
        match document.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => document[&pointer[1..]] = value,
        }
        document
    };
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
    scene.refused("deep JSON", &reference, &[]);
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
