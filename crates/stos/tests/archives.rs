// SPDX-License-Identifier: Apache-2.0 OR MIT
//! save, load and kept blobs, with the tools that others use: what one writes the other reads, and digests stay.

mod sandbox;

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use sandbox::{Hub, Sandbox, output, tool};
use serde_json::{Value, json};
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer, digest};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::tree::{Options, Tree};

fn layer(name: &str) -> Vec<u8> {
    TarBuilder::new().entry(Entry::directory("d")).entry(Entry::file(format!("d/{name}"), name).mode(0o755)).finish()
}

fn image(top: &str) -> Image {
    ImageBuilder::new().layer(Layer::gzip(layer("base"))).layer(Layer::gzip(layer(top))).command(&["/d/base"]).build()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The IDs of the images that are listed, sorted.
fn ids(sandbox: &Sandbox) -> Vec<String> {
    let images = sandbox.json(&["images", "--format", "json"]);
    let mut ids: Vec<_> =
        images.as_array().unwrap().iter().map(|image| image["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn inspect(sandbox: &Sandbox, name: &str) -> Value {
    sandbox.json(&["inspect", name])[0].clone()
}

/// The digest of the configuration that skopeo finds: the image ID.
fn skopeo_id(source: &str) -> String {
    digest(tool("skopeo", &["inspect", "--raw", "--config", source]).as_bytes())
}

fn umoci_tree(layout: &Path, tag: &str, into: &Path) -> Tree {
    tool("umoci", &["raw", "unpack", "--image", &format!("{}:{tag}", layout.display()), text(into)]);
    Tree::read(into, &Options::default()).unwrap()
}

#[test]
fn what_save_writes_skopeo_and_umoci_read() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("skopeo"), Need::Tool("umoci"), Need::Image("deb:12"));
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start_over_cache().unwrap();
    let name = format!("{}/deb:12", registry.address());
    sandbox.pull(&name);
    let id = inspect(&sandbox, &name)["id"].as_str().unwrap().to_owned();
    for (format, file, transport) in [
        ("docker-archive", "d.tar", "docker-archive"),
        ("oci-archive", "o.tar", "oci-archive"),
        ("oci-dir", "o", "oci"),
    ] {
        let path = sandbox.path(file);
        let saved = sandbox.run(&["save", "--format", format, "-o", text(&path), &name]);
        assert_eq!((saved.code, saved.stdout.as_str()), (0, ""), "{}", saved.stderr);
        let says = saved.stderr.matches("new manifest digest").count();
        assert_eq!(says, usize::from(format != "docker-archive"), "{}", saved.stderr);
        assert_eq!(skopeo_id(&format!("{transport}:{}:{name}", path.display())), id, "{format}");
    }
    // Through skopeo's own copy, which checks every digest, and umoci, the tree is the original's.
    let copy = sandbox.path("copy");
    let source = format!("docker-archive:{}:{name}", sandbox.path("d.tar").display());
    tool("skopeo", &["copy", "-q", &source, &format!("oci:{}:x", copy.display())]);
    let expected = umoci_tree(&environment::layout(), "deb-12", &sandbox.path("original"));
    assert!(expected.nodes.len() > 2_000);
    expected.assert_same(&umoci_tree(&copy, "x", &sandbox.path("of-archive")));
    expected.assert_same(&umoci_tree(&sandbox.path("o"), &name, &sandbox.path("of-layout")));
}

#[test]
fn what_skopeo_and_umoci_write_load_reads() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("skopeo"), Need::Tool("umoci"), Need::Image("deb:12"));
    let source = format!("oci:{}:deb-12", environment::layout().display());
    let sandbox = Sandbox::new();
    let expected = skopeo_id(&source);
    for (target, file) in [("docker-archive", "d.tar"), ("oci-archive", "o.tar"), ("oci", "o")] {
        let path = sandbox.path(file);
        tool("skopeo", &["copy", "-q", &source, &format!("{target}:{}:a.example/deb:12", path.display())]);
        let said = sandbox.ok(&["load", "-q", "-i", text(&path)]);
        assert_eq!(said, "Loaded image: a.example/deb:12\n", "{target}");
        assert_eq!(inspect(&sandbox, "deb:12")["id"], json!(expected), "{target}");
        assert_eq!(sandbox.ok(&["run", "--rm", "deb:12", "echo", "hello"]), "hello\n");
        sandbox.ok(&["rmi", "-f", &expected]);
        assert_eq!(sandbox.names("layers/sha256"), Vec::<String>::new());
    }
    // umoci adds an image of its own to the layout, and a layer to that.
    let (layout, bundle) = (sandbox.path("o"), sandbox.path("bundle"));
    let image = |tag: &str| format!("{}:{tag}", layout.display());
    tool("umoci", &["config", "--image", &image("a.example/deb:12"), "--tag", "changed", "--config.user", "nobody"]);
    tool("umoci", &["unpack", "--image", &image("changed"), text(&bundle)]);
    fs::write(bundle.join("rootfs/etc/new"), "new").unwrap();
    fs::remove_dir_all(bundle.join("rootfs/usr/share/doc")).unwrap();
    tool("umoci", &["repack", "--image", &image("repacked"), text(&bundle)]);
    let said = sandbox.ok(&["load", "-q", "-i", text(&layout)]);
    assert_eq!(said.lines().count(), 3, "{said}");
    for tag in ["changed", "repacked"] {
        // A tag of the layout is no image's name.
        let id = skopeo_id(&format!("oci:{}", image(tag)));
        assert!(said.contains(&format!("Loaded image: {id}\n")), "{said}");
        sandbox.ok(&["tag", &id, tag]);
    }
    let look = "id -un; cat /etc/new; ls /usr/share/doc 2>/dev/null | wc -l";
    assert_eq!(sandbox.ok(&["run", "--rm", "repacked", "sh", "-c", look]), "nobody\nnew0\n");
}

#[test]
fn with_its_blobs_every_digest_of_an_image_stays() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("skopeo"), Need::Tool("umoci"), Need::Image("deb:12"));
    let (one, two) = (Sandbox::new(), Sandbox::new());
    let registry = DockerRegistry::start_over_cache().unwrap();
    let name = format!("{}/deb:12", registry.address());
    let digest_at = |source: &str| tool("skopeo", &["inspect", "--tls-verify=false", "--raw", source]);
    let expected = digest_at(&format!("docker://{name}"));
    one.ok(&["pull", "-q", "--tls-verify=false", "--keep-blobs", &name]);
    assert_eq!(digest_at(&format!("oci:{}:{name}", one.data_root().join("images").display())), expected);
    let archive = one.path("o.tar");
    let saved = one.run(&["save", "--format", "oci-archive", "-o", text(&archive), &name]);
    assert_eq!((saved.code, saved.stderr.as_str()), (0, ""));
    assert_eq!(digest_at(&format!("oci-archive:{}", archive.display())), expected);
    // And through a store once more.
    two.ok(&["load", "-q", "--keep-blobs", "-i", text(&archive)]);
    assert_eq!(inspect(&two, &name)["digest"], json!(digest(expected.as_bytes())));
    let layout = two.path("layout");
    two.ok(&["image", "save", "--format", "oci-dir", "-o", text(&layout), &name]);
    assert_eq!(digest_at(&format!("oci:{}", layout.display())), expected);
    assert!(!umoci_tree(&layout, &name, &two.path("unpacked")).nodes.is_empty());
    // Blobs go with their image.
    two.ok(&["rmi", &name]);
    assert_eq!(two.names("images/blobs/sha256"), Vec::<String>::new());
}

#[test]
fn a_blob_is_fetched_once_and_alone_where_only_it_is_missing() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = image("top");
    let name = hub.serve(&image, "app", "1");
    let pull = |keep: bool| {
        let flags: &[&str] = if keep { &["--keep-blobs"] } else { &[] };
        hub.take_blob_requests();
        sandbox.ok(&[&["pull", "-q", "--tls-verify=false"], flags, &[name.as_str()]].concat());
        let mut blobs = hub.take_blob_requests();
        blobs.retain(|blob| image.layers.iter().any(|layer| layer.digest == *blob));
        blobs.len()
    };
    let kept = || image.layers.iter().filter(|layer| blob_path(&sandbox, &layer.digest).exists()).count();
    assert_eq!((pull(false), kept()), (2, 0));
    assert_eq!((pull(true), kept()), (2, 2), "for their blobs");
    assert_eq!((pull(true), pull(false), kept()), (0, 0, 2), "they stay");
    for layer in &image.layers {
        assert_eq!(fs::read(blob_path(&sandbox, &layer.digest)).unwrap(), *layer.bytes.as_ref().unwrap());
    }
    // A blob of the right size and wrong bytes fails the save that reads it, and the next pull fetches it again.
    let damaged = blob_path(&sandbox, &image.layers[1].digest);
    fs::write(&damaged, vec![b'x'; usize::try_from(image.layers[1].size).unwrap()]).unwrap();
    let (target, before) = (sandbox.path("o.tar"), sandbox.listing());
    fs::write(&target, "old").unwrap();
    let saved = sandbox.run(&["save", "--format", "oci-archive", "-o", text(&target), "app:1"]);
    assert!(saved.code == 1 && saved.stderr.contains(&image.layers[1].digest), "{saved:?}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "old");
    assert!(!damaged.exists() && before.nodes.len() == sandbox.listing().nodes.len() + 1);
    assert_eq!((pull(true), kept()), (1, 2));
    // What another image uses too stays.
    let other = hub.serve(&self::image("other"), "app", "2");
    sandbox.ok(&["pull", "-q", "--tls-verify=false", "--keep-blobs", &other]);
    sandbox.ok(&["rmi", &name]);
    assert!(blob_path(&sandbox, &image.layers[0].digest).exists() && !damaged.exists());
}

fn blob_path(sandbox: &Sandbox, digest: &str) -> std::path::PathBuf {
    sandbox.data_root().join("images/blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

#[test]
fn images_go_together_through_streams_of_every_kind() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("gzip"), Need::Tool("zstd"));
    let (one, two, hub) = (Sandbox::new(), Sandbox::new(), Hub::new());
    let images = [image("one"), image("two")];
    let names: Vec<String> = images.iter().zip(["1", "2"]).map(|(image, tag)| hub.serve(image, "app", tag)).collect();
    names.iter().for_each(|name| drop(one.pull(name)));
    one.ok(&["tag", &names[0], "a.example/also:1"]);
    for format in ["docker-archive", "oci-archive"] {
        let plain = one.path(format);
        let mut save = one.command();
        save.args(["save", "-q", "--format", format, &names[0], "also:1", &names[1]]);
        assert!(save.stdout(File::create(&plain).unwrap()).status().unwrap().success());
        // The layer that both images have is there once.
        let layer = images[0].diff_ids[0].trim_start_matches("sha256:");
        assert_eq!(tool("tar", &["tf", text(&plain)]).matches(layer).count(), 1, "{format}");
        for compress in ["cat", "gzip", "zstd"] {
            let packed = one.path("packed");
            let mut packer = std::process::Command::new(compress);
            packer.arg("-c").stdin(File::open(&plain).unwrap()).stdout(File::create(&packed).unwrap());
            if compress == "cat" {
                fs::copy(&plain, &packed).unwrap();
            } else {
                assert!(packer.status().unwrap().success());
            }
            for piped in [false, true] {
                let mut load = two.command();
                load.args(["load", "-q"]);
                let said = if piped {
                    let cat = std::process::Command::new("cat").arg(&packed).stdout(Stdio::piped()).spawn();
                    let mut cat = cat.unwrap();
                    let said = output(load.stdin(cat.stdout.take().unwrap()));
                    assert!(cat.wait().unwrap().success());
                    said
                } else {
                    output(load.stdin(File::open(&packed).unwrap()))
                };
                let expected = [&names[0], "a.example/also:1", &names[1]].map(|name| format!("Loaded image: {name}\n"));
                assert_eq!(
                    (said.code, said.stdout),
                    (0, expected.concat()),
                    "{format} {compress} {piped}: {}",
                    said.stderr
                );
                let mut expected: Vec<_> = [0, 0, 1].map(|at: usize| images[at].config.digest.clone()).to_vec();
                expected.sort();
                assert_eq!(ids(&two), expected);
                expected.dedup();
                let chains = two.names("chains/sha256");
                assert_eq!((chains.len(), two.names("layers/sha256").len()), (2, 3), "whole when load returns");
                expected.iter().for_each(|id| drop(two.ok(&["rmi", "-f", id])));
                assert_eq!(two.names("staging"), Vec::<String>::new());
            }
        }
    }
}

#[test]
fn an_image_that_is_there_is_named_and_keeps_its_manifest() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = image("one");
    let name = hub.serve(&image, "app", "1");
    sandbox.pull(&name);
    let archive = sandbox.path("a.tar");
    sandbox.ok(&["save", "-o", text(&archive), &name, &image.config.digest]);
    sandbox.ok(&["load", "-i", text(&archive)]);
    assert_eq!(ids(&sandbox).len(), 1, "the same image, once");
    assert_eq!(inspect(&sandbox, &name)["digest"], json!(image.manifest.digest));
    // By its ID it goes, and comes back, without a name.
    sandbox.ok(&["save", "-o", text(&archive), &image.config.digest]);
    sandbox.ok(&["rmi", &name]);
    assert_eq!(sandbox.ok(&["load", "-i", text(&archive)]), format!("Loaded image: {}\n", image.config.digest));
    assert!(sandbox.ok(&["images"]).contains("<none>"));
    // The same archive gives the same manifest.
    let made = inspect(&sandbox, &image.config.digest)["digest"].clone();
    sandbox.ok(&["rmi", &image.config.digest]);
    sandbox.ok(&["load", "-q", "--keep-blobs", "-i", text(&archive)]);
    assert_eq!(inspect(&sandbox, &image.config.digest)["digest"], made);
    assert_eq!(sandbox.names("images/blobs/sha256").len(), 4, "the tars are its blobs");
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = image("one");
    let name = hub.serve(&image, "app", "1");
    sandbox.pull(&name);
    let out = sandbox.path("out");
    fs::create_dir(&out).unwrap();
    let full = sandbox.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "").unwrap();
    let file = out.join("x");
    for (case, arguments) in [
        ("no image", vec!["save", "-o", text(&file), &name, "no:image"]),
        ("a directory to a stream", vec!["save", "--format", "oci-dir", &name]),
        ("a directory with files", vec!["save", "--format", "oci-dir", "-o", text(&full), &name]),
        ("a file at a directory", vec!["save", "-o", text(&full), &name]),
        ("no such directory", vec!["save", "-o", "/no/such/directory/x", &name]),
    ] {
        let said = sandbox.run(&arguments);
        assert!(said.code == 1 && said.stdout.is_empty() && said.stderr.starts_with("Error: "), "{case}: {said:?}");
    }
    // A layer that is damaged is named, in every form.
    let tar = sandbox.layer_dir(&image.diff_ids[1]).join("layer.tar");
    let mut bytes = fs::read(&tar).unwrap();
    bytes[600] ^= 1;
    fs::write(&tar, bytes).unwrap();
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let said = sandbox.run(&["save", "--format", format, "-o", text(&file), &name]);
        assert!(said.code == 1 && said.stderr.contains(&image.diff_ids[1]), "{format}: {said:?}");
        assert!(said.stderr.contains("hint: `stos pull`"), "{said:?}");
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    // Healed, it goes.
    sandbox.pull(&name);
    sandbox.ok(&["save", "-o", text(&file), &name]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

/// Changes one byte of a layer's tar.
fn damage(sandbox: &Sandbox, layer: &str) {
    let tar = sandbox.layer_dir(layer).join("layer.tar");
    let mut bytes = fs::read(&tar).unwrap();
    bytes[512] ^= 1;
    fs::write(&tar, bytes).unwrap();
}

#[test]
fn a_layer_that_is_damaged_in_one_backend_is_saved_from_the_other() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = image("one");
    let name = hub.serve(&image, "app", "1");
    sandbox.ok(&["--layerfs", "erofs", "pull", "-q", "--tls-verify=false", &name]);
    let expected = sandbox.path("expected.tar");
    sandbox.ok(&["save", "-o", text(&expected), &name]);
    // The other backend makes its own of them.
    sandbox.ok(&["--layerfs", "dirs", "pull", "-q", "--tls-verify=false", &name]);
    image.diff_ids.iter().for_each(|layer| damage(&sandbox, layer));
    for options in [&[][..], &["--layerfs", "erofs"], &["--layerfs", "dirs"]] {
        let found = sandbox.path("found.tar");
        sandbox.ok(&[options, &["save", "-o", text(&found), &name]].concat());
        assert!(fs::read(&found).unwrap() == fs::read(&expected).unwrap(), "{options:?}");
    }
}

#[test]
fn a_load_heals_the_layer_that_is_damaged() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let hub = Hub::new();
    let images = [image("one"), image("two")];
    for (format, zipped) in [("docker-archive", false), ("docker-archive", true), ("oci-archive", false)] {
        let sandbox = Sandbox::new();
        let names: Vec<_> = images.iter().zip(["1", "2"]).map(|(image, tag)| hub.serve(image, "app", tag)).collect();
        names.iter().for_each(|name| drop(sandbox.pull(name)));
        let archive = sandbox.path("x.tar");
        sandbox.ok(&["save", "-q", "--format", format, "-o", text(&archive), &names[0], &names[1]]);
        if zipped {
            // Of compressed layers only the diffIDs are promised.
            let files = sandbox.path("files");
            fs::create_dir(&files).unwrap();
            tool("tar", &["-C", text(&files), "-xf", text(&archive)]);
            let layers = images.iter().flat_map(|image| &image.diff_ids);
            for layer in layers.map(|layer| files.join(format!("{}.tar", layer.trim_start_matches("sha256:")))) {
                // The one that both have is compressed already.
                if fs::read(&layer).unwrap()[0] != 0x1f {
                    tool("gzip", &["-n", text(&layer)]);
                    fs::rename(layer.with_extension("tar.gz"), &layer).unwrap();
                }
            }
            tool("tar", &["-C", text(&files), "-cf", text(&archive), "."]);
        }
        let top = &images[1].diff_ids[1];
        let tar = sandbox.layer_dir(top).join("layer.tar");
        let whole = fs::read(&tar).unwrap();
        damage(&sandbox, top);
        assert_ne!(sandbox.run(&["create", "--verify", "full", &names[1], "/d/two"]).code, 0);
        sandbox.ok(&["load", "-q", "-i", text(&archive)]);
        assert!(fs::read(&tar).unwrap() == whole, "{format} {zipped}");
        sandbox.ok(&["create", "--verify", "full", &names[1], "/d/two"]);
    }
}

#[test]
fn pull_and_run_take_skopeos_transports() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let (one, hub) = (Sandbox::new(), Hub::new());
    let base = || ImageBuilder::new().layer(Layer::gzip(rootfs::host_shell().unwrap()));
    let images = [base().build(), base().user("1000").build()];
    let names: Vec<String> = images.iter().zip(["1", "2"]).map(|(image, tag)| hub.serve(image, "app", tag)).collect();
    names.iter().for_each(|name| drop(one.ok(&["pull", "-q", "--tls-verify=false", "--keep-blobs", name])));
    for (format, file) in [("docker-archive", "d.tar"), ("oci-archive", "o.tar"), ("oci-dir", "o")] {
        one.ok(&["save", "--format", format, "-o", text(&one.path(file)), &names[0], &names[1]]);
    }
    for (transport, file) in [("docker-archive", "d.tar"), ("oci-archive", "o.tar"), ("oci", "o")] {
        let two = Sandbox::new();
        let place = format!("{transport}:{}", one.path(file).display());
        let chosen = format!("{place}:{}", names[1]);
        let several = two.run(&["pull", &place]);
        assert!(several.code == 1 && several.stderr.contains("found 2 images"), "{several:?}");
        let missing = two.run(&["pull", &format!("{place}:no.example/x:1")]);
        assert!(missing.code == 1 && missing.stderr.contains("no.example/x:1"), "{missing:?}");
        assert_eq!(two.names("layers/sha256"), Vec::<String>::new());
        let never = two.run(&["run", "--pull=never", "--rm", &chosen, "/bin/sh", "-c", "id -u"]);
        assert_eq!(never.code, 125, "{never:?}");
        assert_eq!(two.ok(&["run", "-q", "--rm", &chosen, "/bin/sh", "-c", "echo $((40 + 2))"]), "42\n", "{transport}");
        let digest = two.ok(&["pull", "-q", &chosen]).trim().to_owned();
        assert_eq!(digest == images[1].manifest.digest, transport != "docker-archive", "{transport}: {digest}");
        assert_eq!(ids(&two), [images[1].config.digest.as_str()]);
    }
}
