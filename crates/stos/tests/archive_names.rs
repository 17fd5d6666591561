// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What archives call their images, and what they may make a terminal and a memory do.

mod sandbox;

use std::fs;
use std::path::{Path, PathBuf};

use sandbox::{Output, Sandbox};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// What would clear a terminal, forge a line, and reverse what follows.
const ESCAPES: &str = "\u{1b}[2J\nError: x\r\u{202e}\u{2066}";

fn builder() -> ImageBuilder {
    let layer = TarBuilder::new().entry(Entry::file("low", "low").mode(0o755)).finish();
    ImageBuilder::new().layer(Layer::plain(layer)).command(&["/low"])
}

fn load(sandbox: &Sandbox, path: &Path) -> Output {
    sandbox.run(&["load", "-i", path.to_str().unwrap()])
}

fn config_name(image: &Image) -> String {
    format!("{}.json", image.config.digest.trim_start_matches("sha256:"))
}

/// A docker-archive of images that share their layer.
fn archive(sandbox: &Sandbox, images: &[&Image], manifest: &Value) -> PathBuf {
    let mut tar = TarBuilder::new().entry(Entry::file("a.tar", images[0].layers[0].bytes.clone().unwrap()));
    for image in images {
        tar = tar.entry(Entry::file(config_name(image), image.config.bytes.clone().unwrap()));
    }
    let path = sandbox.path("x.tar");
    fs::write(&path, tar.entry(Entry::file("manifest.json", manifest.to_string())).finish()).unwrap();
    path
}

fn entry(image: &Image, tags: Value) -> Value {
    json!({"Config": config_name(image), "RepoTags": tags, "Layers": ["a.tar"]})
}

/// A layout of images under what `ref.name` says.
fn layout(sandbox: &Sandbox, images: &[(&Image, &str)]) -> PathBuf {
    let directory = tempfile::tempdir_in(sandbox.path("")).unwrap().keep();
    for (at, (image, _)) in images.iter().enumerate() {
        image.write_layout(&directory, &format!("a.example/{at}:1")).unwrap();
    }
    edit_index(&directory, |index| {
        let entries = index["manifests"].as_array_mut().unwrap();
        for (entry, (_, name)) in entries.iter_mut().zip(images) {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
    });
    directory
}

fn edit_index(directory: &Path, change: impl FnOnce(&mut Value)) {
    let path = directory.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut index);
    fs::write(path, index.to_string()).unwrap();
}

/// The repository of each entry in the list of images; null for one without a name.
fn repositories(sandbox: &Sandbox) -> Vec<Value> {
    let images = sandbox.json(&["images", "--format", "json"]);
    images.as_array().unwrap().iter().map(|image| image["repository"].clone()).collect()
}

#[test]
fn a_name_of_two_images_is_refused_and_both_are_told() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let (one, two) = (builder().build(), builder().user("1").build());
    let entries = json!([entry(&one, json!(["dup:1"])), entry(&two, json!(["b:1", "docker.io/library/dup:1"]))]);
    let path = archive(&sandbox, &[&one, &two], &entries);
    let of_docker = |said: Output| {
        assert!(said.code == 1 && said.stdout.is_empty(), "{said:?}");
        for expected in ["dup:1", one.config.digest.as_str(), two.config.digest.as_str()] {
            assert!(said.stderr.contains(expected), "{expected}: {}", said.stderr);
        }
    };
    of_docker(load(&sandbox, &path));
    of_docker(sandbox.run(&["pull", &format!("docker-archive:{}:dup:1", path.display())]));
    // Another name there means one image.
    sandbox.ok(&["pull", "-q", &format!("docker-archive:{}:b:1", path.display())]);
    sandbox.ok(&["rmi", "-f", &two.config.digest]);
    let path = layout(&sandbox, &[(&one, "a.example/dup:1"), (&two, "a.example/dup:1")]);
    for said in [load(&sandbox, &path), sandbox.run(&["pull", &format!("oci:{}:a.example/dup:1", path.display())])] {
        assert!(said.code == 1 && said.stdout.is_empty(), "{said:?}");
        for expected in ["dup:1", one.manifest.digest.as_str(), two.manifest.digest.as_str()] {
            assert!(said.stderr.contains(expected), "{expected}: {}", said.stderr);
        }
    }
    // Under one mere tag too.
    let path = layout(&sandbox, &[(&one, "12"), (&two, "12")]);
    let said = sandbox.run(&["create", &format!("oci:{}:12", path.display())]);
    assert!(said.code == 125 && said.stderr.contains("one image called \"12\""), "{said:?}");
    assert_eq!(sandbox.names("layers/sha256"), Vec::<String>::new());
    // The same image twice is one, under all its names.
    let entries = json!([entry(&one, json!(["dup:1"])), entry(&one, json!(["dup:1", "b:1"]))]);
    let said = load(&sandbox, &archive(&sandbox, &[&one], &entries));
    assert_eq!(said.stdout, "Loaded image: docker.io/library/dup:1\nLoaded image: docker.io/library/b:1\n", "{said:?}");
}

#[test]
fn a_tag_of_a_layout_is_no_images_name() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let (one, two, three) = (builder().build(), builder().user("1").build(), builder().user("2").build());
    let path = layout(&sandbox, &[(&one, "12"), (&two, "nginx"), (&three, "a.example/three")]);
    let said = load(&sandbox, &path);
    let expected = format!(
        "Loaded image: {}\nLoaded image: {}\nLoaded image: a.example/three:latest\n",
        one.config.digest, two.config.digest
    );
    assert_eq!((said.code, said.stdout.as_str()), (0, expected.as_str()), "{said:?}");
    for tag in ["\"12\"", "\"nginx\""] {
        assert!(said.stderr.contains(&format!("note: {tag} is a tag")), "{said:?}");
    }
    assert_eq!(repositories(&sandbox).iter().filter(|name| name.is_null()).count(), 2);
    // Neither by a pull that asks for it.
    let pulled = sandbox.run(&["pull", &format!("oci:{}:nginx", path.display())]);
    let id = &two.config.digest.trim_start_matches("sha256:")[..12];
    assert!(pulled.code == 0 && pulled.stderr.contains(&format!("`stos tag {id} NAME`")), "{pulled:?}");
    assert_ne!(sandbox.run(&["inspect", "nginx"]).code, 0);
    let quiet = sandbox.run(&["load", "-q", "-i", path.to_str().unwrap()]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
}

#[test]
fn what_is_no_name_is_refused_but_dockers_for_none() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let (one, two) = (builder().build(), builder().user("1").build());
    let entries = json!([entry(&one, json!(["<none>:<none>"])), entry(&two, json!(["b.example/y:1"]))]);
    let said = load(&sandbox, &archive(&sandbox, &[&one, &two], &entries));
    let expected = format!("Loaded image: {}\nLoaded image: b.example/y:1\n", one.config.digest);
    assert_eq!((said.code, said.stdout), (0, expected), "{}", said.stderr);
    let entries = json!([entry(&one, json!(["A//B"])), entry(&two, json!(["c.example/y:1"]))]);
    let path = archive(&sandbox, &[&one, &two], &entries);
    let said = load(&sandbox, &path);
    assert!(
        said.code == 1 && said.stderr.contains("x.tar: manifest.json: ") && said.stderr.contains("A//B"),
        "{said:?}"
    );
    // It is no reason to refuse the other image.
    sandbox.ok(&["pull", "-q", &format!("docker-archive:{}:c.example/y:1", path.display())]);
}

#[test]
fn nothing_of_an_archive_moves_the_cursor() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let image = builder().build();
    let mut cases = Vec::new();
    for (at, manifest) in [
        json!([entry(&image, json!([ESCAPES]))]),
        json!([{"Config": ESCAPES, "Layers": ["a.tar"]}]),
        json!([{"Config": config_name(&image), "Layers": [ESCAPES]}]),
        json!([{"Config": config_name(&image), "Layers": [format!("../{ESCAPES}")]}]),
        json!([{ ESCAPES: 1 }]),
        json!(ESCAPES),
    ]
    .iter()
    .enumerate()
    {
        let path = sandbox.path(&format!("{at}.tar"));
        fs::rename(archive(&sandbox, &[&image], manifest), &path).unwrap();
        cases.push(path);
    }
    let links = TarBuilder::new().entry(Entry::symlink(format!("n{ESCAPES}"), format!("/{ESCAPES}"))).finish();
    let path = sandbox.path("links.tar");
    fs::write(&path, links).unwrap();
    cases.push(path);
    for pointer in
        ["/manifests/0/digest", "/manifests/0/mediaType", "/manifests/0/platform", "/manifests/0/annotations"]
    {
        let directory = layout(&sandbox, &[(&image, "a.example/x:1")]);
        edit_index(&directory, |index| {
            index["manifests"][0]["platform"] = json!({"os": "linux", "architecture": "amd64"});
            let is_platform = pointer.ends_with("platform");
            let odd = if is_platform { json!({"os": ESCAPES, "architecture": ESCAPES}) } else { json!(ESCAPES) };
            *index.pointer_mut(pointer).unwrap() = odd;
        });
        cases.push(directory);
    }
    let directory = layout(&sandbox, &[(&image, "a.example/x:1")]);
    fs::write(directory.join("oci-layout"), json!({ "imageLayoutVersion": ESCAPES }).to_string()).unwrap();
    cases.push(directory);
    for path in cases {
        let said = load(&sandbox, &path);
        assert!(said.code == 1 && said.stderr.starts_with("Error: "), "{said:?}");
        let is_odd = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        for line in said.stderr.lines() {
            assert!(!line.contains(is_odd), "{line:?}");
            assert!(
                line.starts_with("hint: ") || line.matches("Error: x").count() == 0 || line.contains(r"\n"),
                "{line}"
            );
        }
        assert!(said.stderr.lines().filter(|line| line.starts_with("Error: ")).count() == 1, "{}", said.stderr);
    }
    // A tag that is told, and one that is asked for.
    let directory = layout(&sandbox, &[(&image, "\u{1b}[2J")]);
    let missing = sandbox.run(&["pull", &format!("oci:{}:none", directory.display())]);
    for said in [load(&sandbox, &directory), missing] {
        assert!(!said.stderr.contains('\u{1b}') && said.stderr.contains(r"\u{1b}[2J"), "{said:?}");
    }
}

#[test]
fn what_cannot_be_decompressed_is_told_with_the_tool_that_can() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("xz"), Need::Tool("bzip2"));
    let sandbox = Sandbox::new();
    let image = builder().build();
    let path = archive(&sandbox, &[&image], &json!([entry(&image, json!(["a.example/x:1"]))]));
    for (tool, extension) in [("xz", "xz"), ("bzip2", "bz2")] {
        sandbox::tool(tool, &["-k", path.to_str().unwrap()]);
        let packed = format!("{}.{extension}", path.display());
        for command in [&["load", "-i", packed.as_str()][..], &["import", packed.as_str()]] {
            let said = sandbox.run(command);
            assert!(said.code == 1 && said.stderr.contains(&format!("compressed with {tool}")), "{said:?}");
            assert!(said.stderr.contains(&format!("hint: `{tool} -dc FILE | stos load`")), "{said:?}");
        }
        // As a layer.
        let layer = sandbox.path("layer");
        fs::write(&layer, image.layers[0].bytes.as_ref().unwrap()).unwrap();
        sandbox::tool(tool, &["-f", layer.to_str().unwrap()]);
        let layer = fs::read(format!("{}.{extension}", layer.display())).unwrap();
        let tar = TarBuilder::new()
            .entry(Entry::file("a.tar", layer))
            .entry(Entry::file(config_name(&image), image.config.bytes.clone().unwrap()))
            .entry(Entry::file("manifest.json", json!([entry(&image, json!([]))]).to_string()));
        fs::write(sandbox.path("layers.tar"), tar.finish()).unwrap();
        let said = load(&sandbox, &sandbox.path("layers.tar"));
        assert!(said.code == 1 && said.stderr.contains("a.tar: expected a layer that is plain"), "{said:?}");
    }
}

#[test]
fn documents_are_counted_before_they_are_read_into_memory() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let image = builder().build();
    let config = |bytes: usize, arch: &str| {
        let mut config: Value = serde_json::from_slice(image.config.bytes.as_ref().unwrap()).unwrap();
        config["architecture"] = json!(arch);
        config["padding"] = json!("x".repeat(bytes));
        config.to_string().into_bytes()
    };
    // One configuration under many entries is one image.
    let own: Value = serde_json::from_slice(image.config.bytes.as_ref().unwrap()).unwrap();
    let own = own["architecture"].as_str().unwrap();
    let entries: Vec<_> = (0..1000)
        .map(|at| json!({"Config": "c.json", "RepoTags": [format!("a.example/x:{at}")], "Layers": ["a.tar"]}))
        .collect();
    let write = |config: Vec<u8>, entries: &[Value]| {
        let tar = TarBuilder::new()
            .entry(Entry::file("a.tar", image.layers[0].bytes.clone().unwrap()))
            .entry(Entry::file("c.json", config))
            .entry(Entry::file("manifest.json", json!(entries).to_string()));
        fs::write(sandbox.path("x.tar"), tar.finish()).unwrap();
        sandbox.path("x.tar")
    };
    let said = load(&sandbox, &write(config(1000, own), &entries));
    assert_eq!((said.code, said.stdout.lines().count()), (0, 1000), "{}", said.stderr);
    assert_eq!(repositories(&sandbox).len(), 1000, "a line for each name");
    let said = load(&sandbox, &write(config(100_000, own), &entries));
    assert!(said.code == 1 && said.stderr.contains("bytes of manifests and configurations"), "{said:?}");
    // What is for another platform, as only its configuration tells, has been read all the same.
    let directory = sandbox.path("layout");
    image.write_layout(&directory, "a.example/x:1").unwrap();
    let put = |bytes: &[u8]| {
        let digest = stos_spec::BlobDigest::of(bytes);
        fs::write(directory.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"digest": digest.to_string(), "size": bytes.len()})
    };
    let mut foreign = put(&config(7 << 20, "s390x"));
    foreign["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    let manifest: Value = serde_json::from_slice(image.manifest.bytes.as_ref().unwrap()).unwrap();
    let many: Vec<_> = (0..20)
        .map(|at| {
            let mut own = manifest.clone();
            own["config"] = foreign.clone();
            own["annotations"] = json!({ "at": at.to_string() });
            let mut entry = put(own.to_string().as_bytes());
            entry["mediaType"] = manifest["mediaType"].clone();
            entry
        })
        .collect();
    edit_index(&directory, |index| index["manifests"].as_array_mut().unwrap().extend(many));
    let said = load(&sandbox, &directory);
    assert!(said.code == 1 && said.stderr.contains("bytes of manifests and configurations"), "{said:?}");
}
