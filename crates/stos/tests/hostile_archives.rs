// SPDX-License-Identifier: Apache-2.0 OR MIT
//! load of archives and layouts of every make: those that are odd come in whole, those that lie leave nothing.

mod sandbox;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sandbox::Sandbox;
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Dialect, Fault, Image, ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn layer(name: &str) -> Vec<u8> {
    TarBuilder::new().entry(Entry::file(name, name).mode(0o755)).finish()
}

fn builder() -> ImageBuilder {
    ImageBuilder::new().layer(Layer::plain(layer("low"))).layer(Layer::plain(layer("high"))).command(&["/low"])
}

fn bytes(image: &Image, at: usize) -> Vec<u8> {
    image.layers[at].bytes.clone().unwrap()
}

fn config(image: &Image) -> Vec<u8> {
    image.config.bytes.clone().unwrap()
}

fn manifest(config: &str, tags: Value, layers: &[&str]) -> Vec<u8> {
    json!([{ "Config": config, "RepoTags": tags, "Layers": layers }]).to_string().into_bytes()
}

/// A docker-archive of both layers, with one member more or changed.
fn archive(image: &Image, change: impl FnOnce(Vec<Entry>) -> Vec<Entry>) -> Vec<u8> {
    let name = format!("{}.json", image.config.digest.trim_start_matches("sha256:"));
    let entries = vec![
        Entry::file("a.tar", bytes(image, 0)),
        Entry::file("b.tar", bytes(image, 1)),
        Entry::file(&*name, config(image)),
        Entry::file("manifest.json", manifest(&name, json!(["a.example/x:1"]), &["a.tar", "b.tar"])),
    ];
    let tar = TarBuilder::new();
    change(entries).into_iter().fold(tar, TarBuilder::entry).finish()
}

/// The same with another manifest.json.
fn with_manifest(image: &Image, manifest: Vec<u8>) -> Vec<u8> {
    archive(image, |mut entries| {
        entries[3] = Entry::file("manifest.json", manifest);
        entries
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let image = ImageBuilder::new().layer(Layer::gzip(bytes.to_vec())).build();
    image.layers[0].bytes.clone().unwrap()
}

#[test]
fn odd_docker_archives_come_in_whole() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let image = builder().build();
    let legacy = |links: bool| {
        let (name, tags) = ("x.json", json!(["a.example/x:1"]));
        let mut tar = TarBuilder::new()
            .entry(Entry::file("./manifest.json", manifest(name, tags, &["one/layer.tar", "two/layer.tar"])))
            .entry(Entry::directory("one"))
            .entry(Entry::file("one/VERSION", "1.0"));
        for (directory, at) in [("one", 0), ("two", 1)] {
            let member = format!("{directory}/layer.tar");
            tar = if links {
                tar.entry(Entry::symlink(&*member, format!("../real/{at}.tar")))
                    .entry(Entry::file(format!("real/{at}.tar"), bytes(&image, at)))
            } else {
                tar.entry(Entry::file(&*member, gzip(&bytes(&image, at))))
            };
        }
        tar.entry(Entry::file(name, config(&image))).finish()
    };
    for (case, tar) in [
        ("as podman writes it", archive(&image, |entries| entries)),
        ("in another order", archive(&image, |entries| entries.into_iter().rev().collect())),
        ("layers that are symlinks, as docker writes them", legacy(true)),
        ("compressed layers", legacy(false)),
        ("no end", archive(&image, |entries| entries)[..].strip_suffix(&[0; 1024]).unwrap().to_vec()),
    ] {
        let sandbox = Sandbox::new();
        let path = sandbox.path("x.tar");
        fs::write(&path, tar).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(sandbox.ok(&["load", "-i", path]), "Loaded image: a.example/x:1\n", "{case}");
        assert_eq!(sandbox.names("images/blobs/sha256").len(), 2, "{case}");
        // Its blobs are its tars, however they came.
        sandbox.ok(&["load", "--keep-blobs", "-i", path]);
        for (layer, at) in image.diff_ids.iter().zip(0..) {
            assert_eq!(
                fs::read(blob(&sandbox.data_root().join("images"), layer)).unwrap(),
                bytes(&image, at),
                "{case}"
            );
        }
        let found = &sandbox.json(&["inspect", "x:1"])[0];
        assert_eq!(found["id"], json!(image.config.digest), "{case}");
        for (layer, at) in image.diff_ids.iter().zip(0..) {
            assert_eq!(fs::read(sandbox.layer_dir(layer).join("layer.tar")).unwrap(), bytes(&image, at), "{case}");
        }
        sandbox.ok(&["create", "--verify", "full", "x:1", "/low"]);
    }
}

/// Loads what must be refused, looks that nothing has changed, and gives what was said.
#[track_caller]
fn refused(sandbox: &Sandbox, path: &Path, case: &str) -> String {
    // It makes the store's own locks, which stay for ever.
    sandbox.ok(&["system", "gc"]);
    let before = sandbox.listing();
    for keep in [false, true] {
        let mut arguments = vec!["load", "-q", "-i", path.to_str().unwrap()];
        arguments.extend(keep.then_some("--keep-blobs"));
        let said = sandbox.run(&arguments);
        assert!(said.code == 1 && said.stdout.is_empty(), "{case}: {said:?}");
        before.assert_same(&sandbox.listing());
        if keep {
            return said.stderr;
        }
    }
    unreachable!()
}

#[test]
fn docker_archives_that_lie_leave_nothing() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let image = builder().build();
    // What every store has, the lock of leases too.
    drop(sandbox.run(&["load", "-i", "/dev/null"]));
    let tags = json!(["a.example/x:1"]);
    let name = format!("{}.json", image.config.digest.trim_start_matches("sha256:"));
    let lying = builder().fault(Fault::DiffId(1)).build();
    let extra = |entry: Entry| {
        archive(&image, |mut entries| {
            entries.push(entry);
            entries
        })
    };
    let two = |second: Value| {
        let first = json!({"Config": name, "RepoTags": tags, "Layers": ["a.tar", "b.tar"]});
        with_manifest(&image, json!([first, second]).to_string().into_bytes())
    };
    let large = format!("[{}]", vec!["{\"Config\":\"x\"}"; 1001].join(","));
    let names = |count: usize| (0..count).map(|number| format!("a.example/x:{number}")).collect::<Vec<_>>();
    let names_of_two = {
        let entry = |layers: &[&str]| json!({"Config": name, "RepoTags": names(5001), "Layers": layers});
        json!([entry(&["a.tar", "b.tar"]), entry(&["a.tar", "b.tar"])]).to_string().into_bytes()
    };
    for (case, tar, expected) in [
        (
            "too many names of an image",
            with_manifest(&image, manifest(&name, json!(names(10_001)), &["a.tar", "b.tar"])),
            "at most 10000 names",
        ),
        ("too many names of two", with_manifest(&image, names_of_two), "at most 10000 names"),
        (
            "a user that only some readers see",
            archive(&image, |mut entries| {
                let text = String::from_utf8(config(&image)).unwrap().replacen("\"Cmd\"", "\"user\":\"77\",\"Cmd\"", 1);
                entries[2] = Entry::file("x.json", text);
                entries[3] = Entry::file("manifest.json", manifest("x.json", tags.clone(), &["a.tar", "b.tar"]));
                entries
            }),
            "some readers take for \"User\"",
        ),
        ("a member that leads out", extra(Entry::file("../../etc/passwd", "x")), "leads out"),
        ("an absolute member", extra(Entry::file("/etc/passwd", "x")), "relative name"),
        ("a symlink that leads out", extra(Entry::symlink("x", "../../etc/shadow")), "leads out"),
        ("an absolute symlink", extra(Entry::symlink("x", "/etc/shadow")), "link within"),
        (
            "a layer that leads out",
            with_manifest(&image, manifest(&name, tags.clone(), &["a.tar", "../b.tar"])),
            "leads out",
        ),
        (
            "a layer that is a host's",
            with_manifest(&image, manifest(&name, tags.clone(), &["a.tar", "/etc/passwd"])),
            "relative",
        ),
        ("a layer that is missing", with_manifest(&image, manifest(&name, tags.clone(), &["a.tar", "c.tar"])), "c.tar"),
        (
            "a layer that is a directory",
            {
                let tar =
                    TarBuilder::new().entry(Entry::directory("a.tar")).entry(Entry::file("b.tar", bytes(&image, 1)));
                let tar = tar.entry(Entry::file(&*name, config(&image)));
                tar.entry(Entry::file("manifest.json", manifest(&name, tags.clone(), &["a.tar", "b.tar"]))).finish()
            },
            "a directory",
        ),
        (
            "layers that are swapped",
            with_manifest(&image, manifest(&name, tags.clone(), &["b.tar", "a.tar"])),
            "expected",
        ),
        ("fewer layers than diffIDs", with_manifest(&image, manifest(&name, tags.clone(), &["a.tar"])), "diff_ids"),
        ("no layers", with_manifest(&image, manifest(&name, tags.clone(), &[])), "layers"),
        ("a diffID that is another", archive(&lying, |entries| entries), "expected"),
        (
            "a configuration that is missing",
            with_manifest(&image, manifest("none.json", tags.clone(), &["a.tar", "b.tar"])),
            "none.json",
        ),
        (
            "a configuration that leads out",
            with_manifest(&image, manifest("../x.json", tags.clone(), &["a.tar", "b.tar"])),
            "leads out",
        ),
        (
            "a configuration that is another",
            archive(&image, |mut entries| {
                entries[2] = Entry::file(&*name, config(&builder().user("1").build()));
                entries
            }),
            "expected digest",
        ),
        (
            "a configuration of another platform",
            archive(&builder().platform("linux", "s390x", "").build(), |e| e),
            "s390x",
        ),
        ("a name that is none", with_manifest(&image, manifest(&name, json!(["A//B"]), &["a.tar", "b.tar"])), "A//B"),
        (
            "a name with a digest",
            with_manifest(&image, manifest(&name, json!([format!("a@{}", image.config.digest)]), &["a.tar", "b.tar"])),
            "RepoTags",
        ),
        ("a manifest that is no JSON", with_manifest(&image, b"[".to_vec()), "a list of images"),
        ("a manifest of nothing", with_manifest(&image, b"[]".to_vec()), "an image"),
        ("a manifest of other things", with_manifest(&image, b"[{}]".to_vec()), "a list of images"),
        ("a manifest of too many", with_manifest(&image, large.into_bytes()), "at most 1000 images"),
        ("a manifest that is huge", with_manifest(&image, vec![b' '; 5 << 20]), "at most"),
        (
            "a second image that fails",
            archive(&image, |mut entries| {
                entries.push(Entry::file("y.json", config(&lying)));
                let first = json!({"Config": name, "RepoTags": tags, "Layers": ["a.tar", "b.tar"]});
                let second = json!({"Config": "y.json", "RepoTags": ["b.example/y:1"], "Layers": ["a.tar", "b.tar"]});
                entries[3] = Entry::file("manifest.json", json!([first, second]).to_string());
                entries
            }),
            "expected",
        ),
        ("a second image without its layer", two(json!({"Config": name, "Layers": ["a.tar", "none.tar"]})), "none.tar"),
        (
            "a layer that is no tar",
            {
                let junk = ImageBuilder::new().layer(Layer::plain(layer("low"))).layer(Layer::plain(b"x".repeat(1024)));
                archive(&junk.build(), |entries| entries)
            },
            "layer",
        ),
        ("an archive that is cut", archive(&image, |entries| entries)[..2000].to_vec(), "expected"),
        ("an archive of nothing", TarBuilder::new().finish(), "manifest.json"),
        ("no archive", b"hello".to_vec(), "a tar header"),
        ("an empty file", Vec::new(), "manifest.json"),
        ("gzip that is cut", gzip(&archive(&image, |entries| entries))[..200].to_vec(), "decompressed"),
        ("zstd that is none", b"\x28\xb5\x2f\xfdxxxxxxxx".to_vec(), "decompressed"),
    ] {
        let path = sandbox.path("x.tar");
        fs::write(&path, tar).unwrap();
        let said = refused(&sandbox, &path, case);
        assert!(said.starts_with("Error: ") && said.contains(expected), "{case}: {said}");
    }
    let missing = sandbox.run(&["load", "-i", "/no/such/file"]);
    assert!(missing.code == 1 && missing.stderr.contains("/no/such/file"), "{missing:?}");
}

/// Writes a layout, changes it, and loads it as a directory and as a tar.
fn layout(sandbox: &Sandbox, image: &Image, change: impl FnOnce(&Path)) -> Vec<std::path::PathBuf> {
    let directory = tempfile::tempdir_in(sandbox.path("")).unwrap().keep();
    image.write_layout(&directory, "a.example/x:1").unwrap();
    change(&directory);
    let tar = directory.with_extension("tar");
    sandbox::tool("tar", &["-C", directory.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]);
    vec![directory, tar]
}

fn blob(directory: &Path, digest: &str) -> std::path::PathBuf {
    directory.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

fn edit_index(directory: &Path, change: impl FnOnce(&mut Value)) {
    let path = directory.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut index);
    fs::write(path, index.to_string()).unwrap();
}

#[test]
fn layouts_that_lie_leave_nothing() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("tar"));
    let sandbox = Sandbox::new();
    let image = builder().build();
    // What every store has, the lock of leases too.
    drop(sandbox.run(&["load", "-i", "/dev/null"]));
    type Change<'a> = Box<dyn Fn(&Path) + 'a>;
    let secret = sandbox.path("secret");
    fs::write(&secret, bytes(&image, 1)).unwrap();
    let set = |pointer: &'static str, value: Value| -> Change<'_> {
        Box::new(move |dir| edit_index(dir, |index| *index.pointer_mut(pointer).unwrap() = value.clone()))
    };
    let foreign = json!({"mediaType": Dialect::Oci.manifest(), "digest": image.manifest.digest, "size": image.manifest.size,
        "platform": {"os": "linux", "architecture": "s390x"}});
    let cases: Vec<(&str, Change<'_>, &str)> = vec![
        (
            "too many names",
            Box::new(|dir| {
                edit_index(dir, |index| {
                    let mut entry = index["manifests"][0].clone();
                    let name = |number: usize| {
                        entry["annotations"] = json!({"org.opencontainers.image.ref.name": format!("a/x:{number}")});
                        entry.clone()
                    };
                    index["manifests"] = (0..10_001).map(name).collect();
                });
            }),
            "at most 10000 names",
        ),
        (
            "an index that only some readers see",
            Box::new(|dir| {
                let text = fs::read_to_string(blob(dir, &image.manifest.digest)).unwrap();
                let text = text.replacen('{', "{\"Manifests\":[],", 1);
                let digest = stos_testkit::image_builder::digest(text.as_bytes());
                edit_index(dir, |index| {
                    index["manifests"][0]["digest"] = json!(digest);
                    index["manifests"][0]["size"] = json!(text.len());
                });
                fs::write(blob(dir, &digest), text).unwrap();
            }),
            "some readers take for \"manifests\"",
        ),
        ("a digest that is a path", set("/manifests/0/digest", json!("sha256:../../../../etc/passwd")), "digest"),
        ("another algorithm", set("/manifests/0/digest", json!("sha512:00")), "sha512"),
        ("a size that is another", set("/manifests/0/size", json!(3)), "expected 3 bytes"),
        (
            "an index that is no index",
            Box::new(|dir| fs::write(dir.join("index.json"), "{}").unwrap()),
            "schemaVersion",
        ),
        ("an index of nothing", set("/manifests", json!([])), "no image for platform"),
        ("another platform", set("/manifests/0", foreign), "s390x"),
        (
            "a layout of the future",
            Box::new(|dir| fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap()),
            "2.0.0",
        ),
        (
            "a manifest that is missing",
            Box::new(|dir| fs::remove_file(blob(dir, &image.manifest.digest)).unwrap()),
            "found none",
        ),
        (
            "a manifest that is huge",
            Box::new(|dir| {
                fs::File::create(blob(dir, &image.manifest.digest)).unwrap().set_len(1 << 30).unwrap();
            }),
            "at most",
        ),
        (
            "a manifest that is another",
            Box::new(|dir| {
                let path = blob(dir, &image.manifest.digest);
                let text = fs::read_to_string(&path).unwrap().replacen("\"size\":", "\"size\": ", 1);
                edit_index(dir, |index| index["manifests"][0]["size"] = json!(text.len()));
                fs::write(path, text).unwrap();
            }),
            "expected digest",
        ),
        (
            "a layer that is missing",
            Box::new(|dir| fs::remove_file(blob(dir, &image.layers[1].digest)).unwrap()),
            "found none",
        ),
        (
            "a layer that is a fifo",
            Box::new(|dir| {
                let path = blob(dir, &image.layers[1].digest);
                fs::remove_file(&path).unwrap();
                sandbox::tool("mkfifo", &[path.to_str().unwrap()]);
            }),
            "a regular file",
        ),
        (
            "a layer that is a symlink out",
            Box::new(|dir| {
                let path = blob(dir, &image.layers[1].digest);
                fs::remove_file(&path).unwrap();
                symlink(&secret, &path).unwrap();
            }),
            "",
        ),
        (
            "layers that are a symlink out",
            Box::new(|dir| {
                let out = sandbox.path("out-blobs");
                drop(fs::remove_dir_all(&out));
                fs::rename(dir.join("blobs"), &out).unwrap();
                symlink(&out, dir.join("blobs")).unwrap();
            }),
            "",
        ),
    ];
    for (case, change, expected) in &cases {
        for path in layout(&sandbox, &image, change) {
            let said = refused(&sandbox, &path, case);
            let is_fifo = *case == "a layer that is a fifo" && path.is_file();
            assert!(said.starts_with("Error: "), "{case}: {said}");
            assert!(said.contains(expected) || (is_fifo && said.contains("regular file")), "{case}: {said}");
        }
    }
    for fault in [
        Fault::LayerBytes(0),
        Fault::LayerTruncated(1),
        Fault::LayerSize(1),
        Fault::LayerMissing(0),
        Fault::DiffId(1),
        Fault::DiffIdExtra,
        Fault::DiffIdLost,
        Fault::ConfigBytes,
        Fault::ConfigSize,
        Fault::ManifestBytes,
    ] {
        for path in layout(&sandbox, &builder().fault(fault).build(), |_| {}) {
            refused(&sandbox, &path, &format!("{fault:?}"));
        }
    }
}

#[test]
fn a_layout_of_several_images_and_platforms_gives_those_that_run_here() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let directory = sandbox.path("layout");
    let own = builder().build();
    let other = builder().platform("linux", "s390x", "").user("2").build();
    let index = Image::index(Dialect::Oci, &[&other, &own]);
    Image::write_index_layout(&index, &[&other, &own], &directory, "a.example/list:1").unwrap();
    let plain = builder().user("3").build();
    plain.write_layout(&directory, "a.example/plain:1").unwrap();
    let nameless = builder().user("4").build();
    nameless.write_layout(&directory, "no/Name").unwrap();
    other.write_layout(&directory, "a.example/foreign:1").unwrap();
    edit_index(&directory, |index| {
        let entries = index["manifests"].as_array_mut().unwrap();
        let platform = json!({"os": "linux", "architecture": "s390x"});
        entries
            .iter_mut()
            .filter(|e| e["digest"] == json!(other.manifest.digest))
            .for_each(|e| e["platform"] = platform.clone());
        // A second name, as containerd and Docker write it beside a tag; and what is no image.
        let mut second = entries.iter().find(|entry| entry["digest"] == json!(plain.manifest.digest)).unwrap().clone();
        second["annotations"] =
            json!({"io.containerd.image.name": "b.example/second:2", "org.opencontainers.image.ref.name": "2"});
        let odd = json!({"mediaType": "application/x-odd", "digest": plain.config.digest, "size": 1});
        entries.extend([second, odd]);
    });
    // Docker writes both kinds into one archive: the layout is what counts.
    fs::write(directory.join("manifest.json"), "[]").unwrap();
    let said = sandbox.ok(&["load", "-i", directory.to_str().unwrap()]);
    let expected = format!(
        "Loaded image: a.example/list:1\nLoaded image: a.example/plain:1\nLoaded image: b.example/second:2\nLoaded image: {}\n",
        nameless.config.digest
    );
    assert_eq!(said, expected);
    let found = &sandbox.json(&["inspect", "list:1"])[0];
    assert_eq!((&found["digest"], &found["index_digest"]), (&json!(own.manifest.digest), &json!(index.digest)));
    let said = sandbox.ok(&["load", "--platform", "linux/s390x", "-i", directory.to_str().unwrap()]);
    assert!(said.contains("a.example/foreign:1"), "{said}");
}

#[test]
fn an_index_of_another_platform_beside_an_image_is_left_out() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("tar"));
    let sandbox = Sandbox::new();
    let own = builder().build();
    let other = builder().platform("linux", "s390x", "").user("2").build();
    let index = Image::index(Dialect::Oci, &[&other]);
    let add = |dir: &Path| Image::write_index_layout(&index, &[&other], dir, "a.example/other:1").unwrap();
    for path in layout(&sandbox, &own, add) {
        let said = sandbox.ok(&["load", "-i", path.to_str().unwrap()]);
        assert_eq!(said, "Loaded image: a.example/x:1\n");
    }
    // It is told where nothing else is left.
    let alone = |dir: &Path| edit_index(dir, |index| drop(index["manifests"].as_array_mut().unwrap().remove(0)));
    for path in layout(&sandbox, &own, |dir| {
        add(dir);
        alone(dir);
    }) {
        let said = sandbox.run(&["load", "-i", path.to_str().unwrap()]);
        assert!(said.code == 1 && said.stderr.contains("no image for platform"), "{said:?}");
    }
}

#[test]
fn several_loads_at_once_make_one_image() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let image = builder().build();
    let packed = archive(&image, |mut entries| {
        // Only the diffID of a compressed layer is promised.
        entries[0] = Entry::file("a.tar", gzip(&bytes(&image, 0)));
        entries
    });
    let path = sandbox.path("x.tar");
    fs::write(&path, packed).unwrap();
    let load = || sandbox.command().args(["load", "-q", "--keep-blobs", "-i"]).arg(&path).spawn().unwrap();
    let children: Vec<_> = (0..6).map(|_| load()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(sandbox.json(&["images", "--format", "json"]).as_array().unwrap().len(), 1);
    assert_eq!((sandbox.names("layers/sha256").len(), sandbox.names("images/blobs/sha256").len()), (2, 4));
    assert_eq!(sandbox.names("staging"), Vec::<String>::new());
    sandbox.ok(&["create", "--verify", "full", "x:1", "/low"]);
}
