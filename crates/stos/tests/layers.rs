// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `stos layer`: what it prints, what it writes, and what stays when something is wrong.

mod sandbox;

use std::fs::{self, File};
use std::path::Path;

use sandbox::{Hub, Output, Sandbox, output, tool};
use serde_json::{Value, json};
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer, digest};
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::tree::{Options, Tree};

fn base() -> Vec<u8> {
    TarBuilder::new()
        .entry(Entry::directory("d").mode(0o750))
        .entry(Entry::file("d/kept", "kept"))
        .entry(Entry::file("d/gone", "gone"))
        .finish()
}

fn top() -> Vec<u8> {
    TarBuilder::new().whiteout("d/gone").entry(Entry::file("d/new", "new").mode(0o755)).finish()
}

/// A sandbox with the image `app:1` of the layers [`base`] and [`top`].
fn sandbox() -> Sandbox {
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = ImageBuilder::new().layer(Layer::gzip(base())).layer(Layer::plain(top())).command(&["/d/new"]);
    sandbox.pull(&hub.serve(&image.build(), "app", "1"));
    sandbox
}

/// Runs `layer` with standard input from a file.
fn layer_from(sandbox: &Sandbox, input: &Path, arguments: &[&str]) -> Output {
    output(sandbox.command().arg("layer").args(arguments).stdin(File::open(input).unwrap()))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn hex(diff_id: &str) -> &str {
    diff_id.trim_start_matches("sha256:")
}

#[test]
fn layers_are_listed_with_who_keeps_and_uses_them() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = sandbox();
    sandbox.ok(&["tag", "app:1", "app:2"]);
    let (base, top) = (digest(&base()), digest(&top()));
    let list = sandbox.json(&["layer", "ls", "--format", "json"]);
    let mut expected = [base.clone(), top.clone()];
    expected.sort();
    let listed: Vec<_> = list.as_array().unwrap().iter().map(|layer| layer["diff_id"].as_str().unwrap()).collect();
    assert_eq!(listed, expected);
    assert_eq!(sandbox.ok(&["layer", "ls", "-q"]), format!("{}\n{}\n", expected[0], expected[1]));
    let of = |list: &Value, id: &str| {
        list.as_array().unwrap().iter().find(|layer| layer["diff_id"] == id).cloned().unwrap_or_default()
    };
    let entry = of(&list, &base);
    assert_eq!((&entry["images"], &entry["entries"]), (&json!(1), &json!(3)), "two names are one image: {entry}");
    assert_eq!(entry["size"], json!(self::base().len()));
    assert_eq!(entry["backends"], json!([{"backend": "erofs", "state": "intact"}]));
    assert!(entry["source"].as_str().unwrap().ends_with("/app"), "{entry}");

    // In both forms, and in one of them damaged.
    sandbox.ok(&["--layerfs", "dirs", "image", "mount", "app:1"]);
    fs::write(sandbox.layer_dir(&base).join("layer.json"), "{").unwrap();
    File::options().append(true).open(sandbox.layer_dir(&top).join("layer.tar")).unwrap().set_len(1).unwrap();
    let table = sandbox.ok(&["layer", "ls"]);
    let row = |id: &str| table.lines().find(|line| line.starts_with(&hex(id)[..12])).unwrap().to_owned();
    assert!(table.starts_with("DIFFID") && table.lines().count() == 3, "{table}");
    assert!(row(&base).contains("erofs (damaged), dirs  1"), "{table}");
    assert!(row(&top).contains("erofs (changed), dirs  1"), "{table}");
    fs::remove_dir_all(sandbox.data_root().join("dirs/layers/sha256").join(hex(&base))).unwrap();
    let entry = of(&sandbox.json(&["layer", "ls", "--format", "json"]), &base);
    assert_eq!((&entry["size"], &entry["backends"][0]["state"]), (&Value::Null, &json!("damaged")), "{entry}");
    assert_eq!(sandbox.run(&["layer", "export", hex(&base)]).code, 1);
}

#[test]
fn inspect_tells_all_and_a_beginning_is_enough() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = sandbox();
    let container = sandbox.ok(&["create", "--name", "web", "app:1"]).trim().to_owned();
    let (base, image) = (digest(&base()), sandbox.json(&["inspect", "app:1"])[0].clone());
    for query in [&base[..], hex(&base), &hex(&base)[..12], &base[..20]] {
        let found = sandbox.json(&["layer", "inspect", query]);
        let found = &found[0];
        assert_eq!(found["diff_id"], json!(base));
        assert_eq!(found["images"], json!([{"id": image["id"], "name": image["name"]}]));
        assert_eq!(found["containers"], json!([{"id": container, "name": "web"}]));
        assert_eq!(found["chains"], json!([{"chain_id": image["chain_id"], "backends": ["erofs"]}]));
        assert_eq!(found["blob"], image["layers"][0]["blob"]);
        assert_eq!((&found["blob_kept"], &found["tar_bytes"]), (&json!(false), &json!(self::base().len())));
        let form = &found["backends"][0];
        assert_eq!(form["path"], json!(format!("layers/sha256/{}", hex(&base))));
        assert!(form["disk_bytes"].as_u64().unwrap() >= 4096, "{found}");
    }
    // What is found is printed, what is not is told.
    let asked = sandbox.run(&["layer", "inspect", "sha256:", &base, "0000"]);
    assert_eq!(serde_json::from_str::<Value>(&asked.stdout).unwrap().as_array().unwrap().len(), 1);
    assert_eq!((asked.code, asked.stderr.matches("no such layer").count()), (1, 2), "{}", asked.stderr);
    assert!(asked.stderr.contains("hint: `stos layer ls`"), "{}", asked.stderr);
    // Layers until two begin alike.
    let names = || sandbox.names("layers/sha256").into_iter().map(|name| name[..1].to_owned()).collect::<Vec<_>>();
    for number in 0.. {
        let firsts = names();
        if let Some(first) = firsts.iter().enumerate().find(|(at, first)| firsts[..*at].contains(first)) {
            let said = sandbox.run(&["layer", "export", first.1]);
            assert!(said.code == 1 && said.stderr.contains("may mean any of"), "{}", said.stderr);
            break;
        }
        let tar = sandbox.path("import.tar");
        fs::write(&tar, TarBuilder::new().entry(Entry::file("f", format!("{number}"))).finish()).unwrap();
        sandbox.ok(&["import", text(&tar), &format!("import:{number}")]);
    }
}

#[test]
fn apply_is_for_any_directory_and_refuses_whole() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let (root, tar, bad) = (sandbox.path("root"), sandbox.path("layer.tar"), sandbox.path("bad.tar"));
    fs::create_dir(&root).unwrap();
    let image = ImageBuilder::new().layer(Layer::gzip(base())).build();
    fs::write(&tar, image.layers[0].bytes.as_ref().unwrap()).unwrap();
    let applied = layer_from(&sandbox, &tar, &["apply", text(&root)]);
    assert_eq!((applied.code, applied.stdout), (0, format!("{}\n", digest(&base()))), "{}", applied.stderr);
    fs::write(&tar, top()).unwrap();
    assert_eq!(sandbox.ok(&["layer", "apply", "-i", text(&tar), text(&root)]), format!("{}\n", digest(&top())));
    assert!(root.join("d/new").exists() && !root.join("d/gone").exists());
    let before = Tree::read(&root, &Options::default()).unwrap();
    let escape = TarBuilder::new().entry(Entry::file("x", "")).entry(Entry::file("../../escape", "")).finish();
    fs::write(&bad, escape).unwrap();
    for (arguments, said) in [
        (&["apply", text(&root)][..], ["../../escape", "standard input"]),
        (&["apply", "-i", text(&bad), text(&root)], ["../../escape", "bad.tar"]),
        (&["apply", text(&sandbox.path("none"))], ["none", "No such file"]),
        (&["apply", "-i", "/none", text(&root)], ["/none", "No such file"]),
    ] {
        let refused = layer_from(&sandbox, &bad, arguments);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(said.iter().all(|said| refused.stderr.contains(said)), "{arguments:?}: {}", refused.stderr);
    }
    before.assert_same(&Tree::read(&root, &Options::default()).unwrap());
    assert!(!sandbox.data_root().exists() && !sandbox.root().exists(), "it needs neither root");
}

#[test]
fn export_gives_the_bytes_or_no_file() {
    stos_testkit::require!(Need::Root, Need::Binary);
    for backend in ["erofs", "dirs"] {
        let sandbox = sandbox();
        sandbox.ok(&["--layerfs", backend, "image", "mount", "app:1"]);
        if backend == "dirs" {
            fs::remove_dir_all(sandbox.data_root().join("layers/sha256")).unwrap();
        }
        let (base, top) = (digest(&base()), digest(&top()));
        let path = sandbox.path("out.tar");
        sandbox.ok(&["layer", "export", "-o", text(&path), &base]);
        assert!(fs::read(&path).unwrap() == self::base(), "{backend}");
        let stdout = sandbox.command().args(["layer", "export", &top]).output().unwrap().stdout;
        assert!(stdout == self::top(), "{backend}");
        // Damaged under its seal or not: what stood there stays.
        let damaged = match backend {
            "erofs" => sandbox.layer_dir(&top).join("layer.tar"),
            _ => sandbox.data_root().join("dirs/layers/sha256").join(hex(&top)).join("diff/d/new"),
        };
        let mut bytes = fs::read(&damaged).unwrap();
        let at = bytes.windows(3).rposition(|bytes| bytes == b"new").unwrap();
        bytes[at] = b'N';
        fs::write(&damaged, bytes).unwrap();
        let refused = sandbox.run(&["layer", "export", "-o", text(&path), &top]);
        assert_eq!(refused.code, 1);
        let list = sandbox.json(&["layer", "ls", "--format", "json"]);
        let form = list.as_array().unwrap().iter().find(|layer| layer["diff_id"] == top).unwrap()["backends"].clone();
        assert_eq!(form, json!([{"backend": backend, "state": "changed"}]));
        assert!(refused.stderr.contains(&format!("layer {top} is damaged")), "{backend}: {}", refused.stderr);
        assert!(refused.stderr.contains("hint: `stos pull`"), "{backend}: {}", refused.stderr);
        assert!(fs::read(&path).unwrap() == self::base(), "{backend}");
        let left: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".stos")), "{left:?}");
    }
}

#[test]
fn merge_keeps_a_layer_until_the_next_sweep_or_writes_it() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = sandbox();
    let (base, top) = (digest(&base()), digest(&top()));
    let merged = sandbox.run(&["layer", "merge", &base, hex(&top)]);
    let id = merged.stdout.trim().to_owned();
    assert!(merged.code == 0 && merged.stderr.contains("no image uses the layer"), "{}", merged.stderr);
    assert_eq!(sandbox.names("layers/sha256").len(), 3);
    let path = sandbox.path("merged.tar");
    assert_eq!(sandbox.ok(&["layer", "merge", "-o", text(&path), &base, &top]), "");
    assert_eq!(digest(&fs::read(&path).unwrap()), id);
    let stdout = sandbox.command().args(["layer", "merge", "-o", "-", &base, &top]).output().unwrap().stdout;
    assert_eq!(digest(&stdout), id);
    // An image of it is the image of both.
    sandbox.ok(&["import", text(&path), "squashed:1"]);
    let see = |image: &str| {
        let point = sandbox.ok(&["image", "mount", image]);
        Tree::read(Path::new(point.trim()), &Options::default()).unwrap()
    };
    see("app:1").assert_same(&see("squashed:1"));
    sandbox.ok(&["image", "unmount", "--all"]);
    // The layer is an image's now, and stays; another goes.
    let other = sandbox.ok(&["layer", "merge", &top]).trim().to_owned();
    sandbox.ok(&["rmi", "app:1"]);
    assert_eq!(sandbox.ok(&["layer", "ls", "-q"]), format!("{id}\n"));
    assert_ne!(other, id);
    let refused = sandbox.run(&["layer", "merge", "-o", text(&path), &id, "0000"]);
    assert!(refused.code == 1 && refused.stderr.contains("no such layer"), "{}", refused.stderr);
    assert_eq!(digest(&fs::read(&path).unwrap()), id, "what stood there stays");
}

#[test]
fn layers_go_to_another_data_root_and_need_no_download_there() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = ImageBuilder::new().layer(Layer::gzip(base())).layer(Layer::gzip(top())).command(&["/d/new"]).build();
    let reference = hub.serve(&image, "app", "1");
    sandbox.pull(&reference);
    let (base, top) = (digest(&base()), digest(&top()));
    let other = sandbox.path("other");
    let to = ["--to", text(&other)];
    assert_eq!(sandbox.ok(&[&["layer", "copy"], &to[..], &[hex(&base)]].concat()), format!("Copied: {base}\n"));
    assert_eq!(sandbox.ok(&[&["layer", "copy"], &to[..], &[hex(&base)]].concat()), format!("Present: {base}\n"));
    let report = sandbox.json(&[&["layer", "sync", "--format", "json"], &to[..]].concat());
    assert_eq!(report, json!({"copied": [top], "present": [base], "failed": []}));
    hub.take_blob_requests();
    let pulled = output(sandbox.command_on(&other).args(["pull", "-q", "--tls-verify=false", &reference]));
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    let fetched = hub.take_blob_requests();
    assert_eq!(fetched.join(" "), image.config.digest, "the layers are there");

    // What is used stays; what is not goes, once the other one has it.
    let refused = sandbox.run(&[&["layer", "mv"], &to[..], &[&top]].concat());
    assert!(refused.code == 1 && refused.stderr.contains("is used by"), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint:"), "{}", refused.stderr);
    let merged = sandbox.ok(&["layer", "merge", &base, &top]).trim().to_owned();
    let lease = stos_store::Store::open(&sandbox.data_root()).unwrap().lease().unwrap();
    let refused = sandbox.run(&[&["layer", "mv"], &to[..], &[&merged]].concat());
    assert!(refused.code == 1 && refused.stderr.contains("another command is at work"), "{}", refused.stderr);
    assert_eq!(sandbox.names("layers/sha256").len(), 3, "who relies on it keeps it");
    drop(lease);
    assert_eq!(sandbox.ok(&[&["layer", "mv"], &to[..], &[&merged]].concat()), format!("Moved: {merged}\n"));
    assert_eq!(sandbox.names("layers/sha256").len(), 2);
    assert!(output(sandbox.command_on(&other).args(["layer", "ls", "-q"])).stdout.contains(&merged));
    // A store is none of its own targets, and a damaged layer arrives nowhere.
    let refused = sandbox.run(&["layer", "mv", "--to", text(&sandbox.data_root()), &merged]);
    assert_eq!(refused.code, 1);
    let refused = sandbox.run(&["layer", "sync", "--to", text(&sandbox.data_root())]);
    assert!(refused.code == 1 && refused.stderr.contains("expected another one"), "{}", refused.stderr);
    fs::write(sandbox.layer_dir(&top).join("layer.tar"), "rot").unwrap();
    let third = sandbox.path("third");
    let synced = sandbox.run(&["layer", "sync", "--to", text(&third)]);
    assert_eq!((synced.code, synced.stdout), (1, format!("Copied: {base}\n")), "{}", synced.stderr);
    assert!(synced.stderr.contains(&top), "{}", synced.stderr);
}

/// Merges all layers of a real image, and compares what becomes of them with what umoci makes of the image.
fn merge_is_umoci_s(image: &str, backend: &str) {
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start_over_cache().unwrap();
    let reference = format!("{}/{image}", registry.address());
    sandbox.ok(&["--layerfs", backend, "pull", "-q", "--tls-verify=false", &reference]);
    let layers = sandbox.json(&["inspect", &reference])[0]["layers"].clone();
    let layers: Vec<_> = layers.as_array().unwrap().iter().map(|layer| layer["diff_id"].as_str().unwrap()).collect();
    let (merged, root) = (sandbox.path("merged.tar"), sandbox.path("root"));
    sandbox.ok(&[&["layer", "merge", "-o", text(&merged)], &layers[..]].concat());
    fs::create_dir(&root).unwrap();
    sandbox.ok(&["layer", "apply", "-i", text(&merged), text(&root)]);
    let unpacked = sandbox.path("unpacked");
    let source = format!("{}:{}", environment::layout().display(), environment::layout_tag(image));
    tool("umoci", &["raw", "unpack", "--image", &source, text(&unpacked)]);
    let expected = Tree::read(&unpacked, &Options::default()).unwrap();
    assert!(expected.nodes.len() > 2_000);
    without_root_time(&expected).assert_same(&without_root_time(&Tree::read(&root, &Options::default()).unwrap()));
    if backend == "dirs" {
        return;
    }
    // And umoci makes the same of the merged layer.
    let layout = sandbox.path("layout");
    tool("umoci", &["init", "--layout", text(&layout)]);
    let name = format!("{}:m", layout.display());
    tool("umoci", &["new", "--image", &name]);
    tool("umoci", &["raw", "add-layer", "--image", &name, text(&merged)]);
    let again = sandbox.path("again");
    tool("umoci", &["raw", "unpack", "--image", &name, text(&again)]);
    without_root_time(&expected).assert_same(&without_root_time(&Tree::read(&again, &Options::default()).unwrap()));
}

/// The time of the root itself is its maker's where no entry names it.
fn without_root_time(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    if let Some(root) = tree.nodes.get_mut(&b""[..]) {
        root.mtime = (0, 0);
    }
    tree
}

#[test]
fn a_hundred_layers_become_one() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("umoci"), Need::Image("many:100"));
    merge_is_umoci_s("many:100", "erofs");
}

#[test]
fn the_layers_of_sci_become_one() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("umoci"), Need::Image("sci:2"));
    merge_is_umoci_s("sci:2", "dirs");
}
