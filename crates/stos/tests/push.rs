// SPDX-License-Identifier: Apache-2.0 OR MIT
//! push: which digests stay, what is not sent twice, and what a registry that refuses or breaks leaves.

mod sandbox;

use std::fs;

use sandbox::{Hub, Output, Sandbox, on_both_backends, tool};
use serde_json::Value;
use stos_testkit::docker_registry::{DockerRegistry, DockerRegistryOptions, HTPASSWD, PASSWORD, USER};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Dialect, ImageBuilder, Layer, digest};
use stos_testkit::registry::{Auth, Fault, Options, Rule};
use stos_testkit::require;
use stos_testkit::tar_builder::{Entry, TarBuilder};

const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

fn tar(text: &str) -> Vec<u8> {
    TarBuilder::new().entry(Entry::file(format!("file-{text}"), text.repeat(5000)).mode(0o755)).finish()
}

fn zstd_layer(text: &str) -> Layer {
    let stored = zstd::stream::encode_all(tar(text).as_slice(), 3).unwrap();
    Layer::plain(tar(text)).stored_as(stored).media_type("application/vnd.oci.image.layer.v1.tar+zstd")
}

/// An image of every compression.
fn every_kind() -> ImageBuilder {
    let members = Layer::gzip_members(tar("members"), 700);
    let kinds = [Layer::gzip(tar("gzip")), members, zstd_layer("zstd"), Layer::plain(tar("plain"))];
    kinds.into_iter().fold(ImageBuilder::new(), ImageBuilder::layer).command(&["/file-gzip"])
}

fn push(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    sandbox.run(&[&["push", "--tls-verify=false"], arguments].concat())
}

#[track_caller]
fn pushed(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let output = push(sandbox, arguments);
    assert_eq!(output.code, 0, "{arguments:?}: {}", output.stderr);
    output.stdout.trim().to_owned()
}

/// The manifest of `repository:tag` at a registry of ours.
fn manifest(hub: &Hub, repository: &str, tag: &str) -> Value {
    serde_json::from_slice(&hub.registry.manifest(repository, tag).unwrap().1).unwrap()
}

/// The compressions of the layers of a manifest, by the ends of their media types.
fn kinds(manifest: &Value) -> String {
    let layers = manifest["layers"].as_array().unwrap().iter();
    let types = layers.map(|layer| layer["mediaType"].as_str().unwrap());
    types.map(|kind| kind.rsplit(['.', '+']).next().unwrap()).collect::<Vec<_>>().join(" ")
}

/// How often each method was used since the last time.
fn count(hub: &Hub, method: &str) -> usize {
    hub.registry.requests().iter().filter(|request| request.method == method).count()
}

/// Lets a repository say that it has no blob, as real ones do: ours keeps those of all repositories in one place.
fn lacks_blobs(hub: &Hub, repository: &str) {
    let path = format!("/v2/{repository}/blobs/sha256");
    hub.registry.add_rule(Rule::on(path).method("HEAD").fault(Fault::status(404)));
}

#[test]
fn the_real_registry_gives_back_what_it_was_given() {
    require!(Need::Root, Need::Binary, Need::Tool("docker-registry"), Need::Tool("skopeo"));
    on_both_backends(|| {
        let sandbox = Sandbox::new();
        let storage = tempfile::tempdir().unwrap();
        let options = DockerRegistryOptions { htpasswd: Some(HTPASSWD), tls: true, read_only: false };
        let registry = DockerRegistry::start_with(storage.path(), options).unwrap();
        let (certs, address) = (sandbox.certs(registry.ca_pem()), registry.address());
        let certs = certs.as_str();
        let creds = format!("{USER}:{PASSWORD}");
        let access = ["--cert-dir", certs, "--creds", &creds];
        let hub = Hub::new();
        for (number, dialect) in [Dialect::Oci, Dialect::Docker].into_iter().enumerate() {
            let image = match dialect {
                Dialect::Oci => every_kind().build(),
                Dialect::Docker => ImageBuilder::new().dialect(dialect).layer(Layer::gzip(tar("docker"))).build(),
            };
            let from = hub.serve(&image, "app", &number.to_string());
            sandbox.ok(&["pull", "--tls-verify=false", "--keep-blobs", &from]);
            let to = format!("{address}/team/app:{number}");
            // Without a credential nothing is taken, and with one nothing of it is said.
            let refused = sandbox.run(&["push", "--cert-dir", certs, &from, &to]);
            assert!(refused.code == 1 && refused.stderr.contains("stos login"), "{}", refused.stderr);
            let digests = sandbox.path("digest");
            let file = ["--digestfile", digests.to_str().unwrap()];
            let output = sandbox.run(&[&["--debug", "push"], &access[..], &file, &[&from, &to]].concat());
            assert_eq!((output.code, output.stdout.trim()), (0, image.manifest.digest.as_str()), "{}", output.stderr);
            assert_eq!(fs::read_to_string(&digests).unwrap(), image.manifest.digest);
            assert!(!output.stderr.contains(PASSWORD) && !output.stderr.contains("new manifest"), "{}", output.stderr);
            let source = format!("docker://{to}");
            let inspect = ["inspect", "--cert-dir", certs, "--creds", &creds];
            let raw = tool("skopeo", &[&inspect[..], &["--raw", &source]].concat());
            assert_eq!(digest(raw.as_bytes()), image.manifest.digest);
            // skopeo proves each blob that it copies.
            let copy = format!("oci:{}:x", sandbox.path(&format!("copy-{number}")).display());
            let copied = ["copy", "-q", "--src-cert-dir", certs, "--src-creds", &creds, "--preserve-digests"];
            tool("skopeo", &[&copied[..], &[&source, &copy]].concat());
            let other = Sandbox::new();
            let back = other.ok(&[&["pull", "--keep-blobs"], &access[..], &[&to]].concat());
            assert_eq!(back.trim(), image.manifest.digest);
        }
    });
}

#[test]
fn what_is_not_kept_is_compressed_once() {
    require!(Need::Root);
    on_both_backends(|| {
        let (sandbox, hub, there) = (Sandbox::new(), Hub::new(), Hub::new());
        let image = every_kind().build();
        let from = hub.serve(&image, "app", "1");
        sandbox.pull(&from);
        let to = format!("{}/copy:1", there.registry.address());
        let output = push(&sandbox, &[&from, &to]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert!(output.stderr.contains("new manifest") && output.stderr.contains("--keep-blobs"), "{}", output.stderr);
        let made = manifest(&there, "copy", "1");
        assert_eq!(kinds(&made), "gzip gzip gzip gzip");
        assert_eq!(made["config"]["digest"], image.config.digest, "the image ID stays");
        assert_eq!(made["mediaType"], MANIFEST_TYPES[0]);
        let bytes = there.registry.manifest("copy", "1").unwrap().1;
        assert_eq!(digest(&bytes), output.stdout.trim());
        // Once more nothing is sent, for it is remembered as what each layer went.
        there.registry.take_requests();
        assert_eq!(pushed(&sandbox, &["-q", &from, &to]), output.stdout.trim());
        assert_eq!((count(&there, "POST"), count(&there, "PATCH"), count(&there, "PUT")), (0, 0, 1));
        // To another repository of that registry it is mounted.
        lacks_blobs(&there, "other");
        there.registry.take_requests();
        pushed(&sandbox, &[&from, &format!("{}/other:1", there.registry.address())]);
        let mounted = there.registry.requests();
        let mounted = mounted.iter().filter(|request| request.target.contains("from=copy")).count();
        assert_eq!((mounted, count(&there, "PATCH")), (4, 0));
        // And what was pushed is an image.
        let other = Sandbox::new();
        other.pull(&to);
        let (ours, theirs) = (sandbox.json(&["inspect", &from]), other.json(&["inspect", &to]));
        assert_eq!(ours[0]["Id"], theirs[0]["Id"]);
        sandbox.ok(&["system", "check", "--full"]);
        assert_eq!(sandbox.names("staging"), [""; 0]);
        assert_eq!(sandbox.names("locks"), ["images", "lease"]);
    });
}

#[test]
fn layers_are_compressed_as_is_wanted() {
    require!(Need::Root);
    let (sandbox, hub, there) = (Sandbox::new(), Hub::new(), Hub::new());
    let from = hub.serve(&every_kind().build(), "app", "1");
    sandbox.ok(&["pull", "--tls-verify=false", "--keep-blobs", &from]);
    let to = |tag: &str| format!("{}/copy:{tag}", there.registry.address());
    for (option, expected) in [
        ("--compress=gzip", "gzip gzip gzip gzip"),
        ("--compress=zstd", "zstd zstd zstd zstd"),
        ("--compression-format=none", "tar tar tar tar"),
    ] {
        let digest = pushed(&sandbox, &[option, &from, &to("x")]);
        let made = manifest(&there, "copy", "x");
        assert_eq!(kinds(&made), expected, "{option}");
        // Those that are compressed so already go as they came.
        let kept = manifest(&hub, "app", "1");
        let same = |at: usize| made["layers"][at]["digest"] == kept["layers"][at]["digest"];
        let went: Vec<bool> = (0..4).map(same).collect();
        let is_so = match expected.split(' ').next().unwrap() {
            "gzip" => [true, true, false, false],
            "zstd" => [false, false, true, false],
            _ => [false, false, false, true],
        };
        assert_eq!(went, is_so, "{option}");
        let other = Sandbox::new();
        assert_eq!(other.pull(&to("x")), digest);
    }
    // Effort: another level gives other bytes, and one that there is not is refused before anything is asked.
    let fast = pushed(&sandbox, &["--compress=zstd", "--compression-level=1", &from, &to("1")]);
    let small = pushed(&sandbox, &["--compress=zstd", "--compression-level=19", &from, &to("2")]);
    assert_ne!(fast, small);
    there.registry.take_requests();
    for (options, said) in [
        (&["--compression-level=10"][..], "1 to 9 for gzip"),
        (&["--compress=zstd", "--compression-level=21"], "1 to 20 for zstd"),
        (&["--compress=none", "--compression-level=1"], "nothing is to be compressed"),
    ] {
        let output = push(&sandbox, &[options, &[&from, &to("x")]].concat());
        assert!(output.code == 1 && output.stderr.contains(said), "{}", output.stderr);
    }
    assert_eq!(there.registry.take_requests(), [""; 0]);
}

#[test]
fn what_a_registry_has_goes_as_it_came_though_it_is_not_kept() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = every_kind().build();
    let from = hub.serve(&image, "app", "1");
    sandbox.pull(&from);
    // Into the same repository under another tag, and into another repository, by its blobs there.
    for (to, posts) in [("app:2", 0), ("team/copy:1", 4)] {
        lacks_blobs(&hub, "team/copy");
        hub.registry.take_requests();
        let to = format!("{}/{to}", hub.registry.address());
        let output = push(&sandbox, &[&from, &to]);
        assert_eq!((output.code, output.stdout.trim()), (0, image.manifest.digest.as_str()), "{}", output.stderr);
        assert!(!output.stderr.contains("new manifest"), "{}", output.stderr);
        let mounts = hub.registry.requests();
        assert_eq!(
            mounts.iter().filter(|it| it.target.contains("mount=") && it.target.ends_with("from=app")).count(),
            posts
        );
        assert_eq!(count(&hub, "PATCH"), 0);
    }
    // A registry that mounts nothing gets them made anew.
    lacks_blobs(&hub, "third");
    hub.registry.add_rule(Rule::on("mount=").fault(Fault::status(403)));
    let to = format!("{}/third:1", hub.registry.address());
    pushed(&sandbox, &[&from, &to]);
    assert_eq!(kinds(&manifest(&hub, "third", "1")), "gzip gzip gzip gzip");
}

#[test]
fn what_a_push_does_is_shown() {
    require!(Need::Root);
    let (sandbox, hub, there) = (Sandbox::new(), Hub::new(), Hub::new());
    let image = every_kind().build();
    let from = hub.serve(&image, "app", "1");
    sandbox.ok(&["pull", "--tls-verify=false", "--keep-blobs", &from]);
    let to = format!("{}/copy:1", there.registry.address());
    let events = |arguments: &[&str]| -> Vec<Value> {
        let output = push(&sandbox, &[&["--progress=json"], arguments].concat());
        let objects = output.stderr.lines().filter(|line| line.starts_with("{\"event\""));
        objects.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let named =
        |events: &[Value], name: &str| events.iter().filter(|it| it["event"] == name).cloned().collect::<Vec<_>>();
    for (bytes_sent, present) in [(image.layers.iter().map(|layer| layer.size).sum::<u64>(), 0), (0, 4)] {
        let events = events(&[&from, &to]);
        let (first, last) = (&events[0], events.last().unwrap());
        assert_eq!((&first["event"], &first["image"]), (&"resolved".into(), &to.as_str().into()));
        assert_eq!(
            (&last["event"], &last["bytes"], &last["present"]),
            (&"done".into(), &bytes_sent.into(), &present.into())
        );
        let mut done: Vec<Value> = named(&events, "layer-done").into_iter().map(|it| it["layer"].clone()).collect();
        let mut expected: Vec<Value> = image.layers.iter().map(|layer| layer.digest.clone().into()).collect();
        done.sort_by_key(Value::to_string);
        expected.sort_by_key(Value::to_string);
        assert_eq!(done, expected);
    }
    // Of what is compressed on the way the bytes of the tars count.
    let events = events(&["--compress=zstd", &from, &to]);
    let tars: usize = ["gzip", "members", "plain"].iter().map(|text| tar(text).len()).sum();
    assert_eq!(events.last().unwrap()["bytes"], tars);
    assert!(named(&events, "layer-start").iter().all(|start| start["total"].as_u64() > Some(0)), "{events:?}");
    let plain = push(&sandbox, &["--compress=gzip", &from, &to]);
    assert!(plain.stderr.contains("done: ") && plain.stderr.contains("already there"), "{}", plain.stderr);
    assert_eq!(push(&sandbox, &["-q", &from, &to]).stderr, "");
    let failed = push(&sandbox, &["--progress=json", "--retry=0", &from, "127.0.0.1:1/x:1"]);
    let last = failed.stderr.lines().rfind(|line| line.starts_with("{\"event\"")).unwrap();
    assert!(failed.code == 1 && last.contains("\"failed\"") && last.contains("127.0.0.1:1"), "{}", failed.stderr);
}

#[test]
fn a_committed_image_goes_over_its_base() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = ImageBuilder::new().layer(Layer::gzip(tar("base"))).command(&["/file-base"]).build();
    let from = hub.serve(&image, "base", "1");
    sandbox.pull(&from);
    let id = sandbox.ok(&["create", &from]);
    fs::write(sandbox.data_root().join("containers").join(id.trim()).join("upper/new"), "new").unwrap();
    let name = format!("{}/team/mine:1", hub.registry.address());
    sandbox.ok(&["commit", id.trim(), &name]);
    hub.registry.take_requests();
    // Its own name says where it goes.
    let digest = pushed(&sandbox, &[&name]);
    let made = manifest(&hub, "team/mine", "1");
    assert_eq!(kinds(&made), "gzip gzip");
    assert_eq!(made["layers"][0]["digest"], image.layers[0].digest);
    assert_eq!(Sandbox::new().pull(&name), digest);
}

#[test]
fn an_image_goes_where_it_is_told() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let image = ImageBuilder::new().layer(Layer::gzip(tar("x"))).build();
    let from = hub.serve(&image, "app", "1");
    sandbox.ok(&["pull", "--tls-verify=false", "--keep-blobs", &from]);
    let address = hub.registry.address();
    assert_eq!(pushed(&sandbox, &["app:1", &format!("docker://{address}/a:7")]), image.manifest.digest);
    assert!(hub.registry.manifest("a", "7").is_some());
    // A digest as the destination must be the image's.
    let right = format!("{address}/b@{}", image.manifest.digest);
    assert_eq!(pushed(&sandbox, &["app:1", &right]), image.manifest.digest);
    let wrong = push(&sandbox, &["app:1", &format!("{address}/b@{}", digest(b"other"))]);
    assert!(wrong.code == 1 && wrong.stderr.contains(&image.manifest.digest), "{}", wrong.stderr);
    for (arguments, said) in [
        (&["nobody:1"][..], "nobody:1"),
        (&["app:1", "oci-archive:/x.tar"], "stos save --format oci-archive -o /x.tar"),
        (&["app:1", "oci:/x:1"], "stos save --format oci-dir -o /x"),
        (&["app:1", "NOT A NAME"], "NOT A NAME"),
        (&["app:1", "localhost:1/x:1"], "localhost:1"),
    ] {
        let output = push(&sandbox, &[&["--retry=0"], arguments].concat());
        assert!(output.code == 1 && output.stderr.contains(said), "{arguments:?}: {}", output.stderr);
    }
    // By its ID alone it has no name.
    sandbox.ok(&["untag", "app:1"]);
    let output = push(&sandbox, &[image.config.digest.trim_start_matches("sha256:")]);
    assert!(output.code == 1 && output.stderr.contains("no name that says where"), "{}", output.stderr);
    assert!(output.stderr.contains("hint: give it one"), "{}", output.stderr);
}

#[test]
fn a_location_is_for_reading() {
    require!(Need::Root);
    let (sandbox, hub, elsewhere) = (Sandbox::new(), Hub::new(), Hub::new());
    let image = ImageBuilder::new().layer(Layer::gzip(tar("x"))).build();
    elsewhere.serve(&image, "copies/app", "1");
    let (named, there) = (hub.registry.address(), elsewhere.registry.address());
    sandbox.ok(&["images"]);
    let conf = format!(
        "[[registry]]\nprefix = \"{named}\"\nlocation = \"{there}/copies\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"{there}/copies\"\ninsecure = true\n"
    );
    fs::write(sandbox.home().join("registries.conf"), conf).unwrap();
    let name = format!("{named}/app:1");
    sandbox.ok(&["pull", "--keep-blobs", &name]);
    assert!(hub.registry.requests().is_empty() && !elsewhere.registry.take_requests().is_empty());
    sandbox.ok(&["push", "app:1", &format!("{named}/other:2")]);
    assert!(hub.registry.manifest("other", "2").is_some());
    assert_eq!(elsewhere.registry.take_requests(), [""; 0]);
}

#[test]
fn a_push_that_fails_names_nothing() {
    require!(Need::Root);
    on_both_backends(|| {
        let (sandbox, hub) = (Sandbox::new(), Hub::new());
        let from = hub.serve(&every_kind().build(), "app", "1");
        sandbox.pull(&from);
        let before = sandbox.listing();
        for (rule, said) in [
            (Rule::on("/uploads").method("POST").fault(Fault::status(403)), "status 403"),
            (Rule::on("/uploads/").method("PATCH").fault(Fault::CutUploads(0)).fault(Fault::status(500)), "status 500"),
            (Rule::on("digest=").method("PUT").fault(Fault::status(403)), "status 403"),
            (
                Rule::on("digest=").method("PUT").fault(Fault::Header("docker-content-digest", Some(digest(b"x")))),
                "digest",
            ),
            (Rule::on("/manifests/").method("PUT").fault(Fault::status(400)), "status 400"),
        ] {
            let there = Hub::new();
            there.registry.add_rule(rule.clone());
            let to = format!("{}/copy:1", there.registry.address());
            let output = push(&sandbox, &["--retry=0", &from, &to]);
            assert!(output.code == 1 && output.stderr.contains(said), "{rule:?}: {}", output.stderr);
            assert_eq!(output.stdout, "");
            // The registry has taken what it refuses then, and layers that had arrived are remembered.
            if said != "status 400" {
                assert!(there.registry.manifest("copy", "1").is_none(), "{rule:?}");
                sandbox.listing().assert_same(&before);
            }
        }
    });
}

#[test]
fn a_way_that_breaks_now_and_then_is_no_hindrance() {
    require!(Need::Root);
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    let from = hub.serve(&every_kind().build(), "app", "1");
    sandbox.ok(&["pull", "--tls-verify=false", "--keep-blobs", &from]);
    for compress in [&[][..], &["--compress=zstd"]] {
        let there = Hub::new();
        for (part, method) in
            [("/blobs/sha", "HEAD"), ("/uploads/", "POST"), ("/uploads/", "PATCH"), ("digest=", "PUT")]
        {
            there.registry.add_rule(Rule::on(part).method(method).times(1).fault(Fault::status(503)));
            there.registry.add_rule(Rule::on(part).method(method).after(2).times(1).fault(Fault::Raw(Vec::new())));
        }
        let to = format!("{}/copy:1", there.registry.address());
        let digest = pushed(&sandbox, &[compress, &[&from, &to]].concat());
        assert_eq!(Sandbox::new().pull(&to), digest, "{compress:?}");
    }
}

#[test]
fn what_is_damaged_here_is_not_pushed() {
    require!(Need::Root);
    let (sandbox, hub, there) = (Sandbox::new(), Hub::new(), Hub::new());
    let image = ImageBuilder::new().layer(Layer::gzip(tar("x"))).build();
    let from = hub.serve(&image, "app", "1");
    sandbox.ok(&["pull", "--tls-verify=false", "--keep-blobs", &from]);
    let to = format!("{}/copy:1", there.registry.address());
    let kept =
        sandbox.data_root().join("images/blobs/sha256").join(image.layers[0].digest.trim_start_matches("sha256:"));
    let mut bytes = fs::read(&kept).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&kept, &bytes).unwrap();
    let output = push(&sandbox, &[&from, &to]);
    let says_both = output.stderr.contains(&image.layers[0].digest) && output.stderr.contains(&digest(&bytes));
    assert!(output.code == 1 && says_both, "{}", output.stderr);
    assert!(there.registry.manifest("copy", "1").is_none());
    // It is of no use and gone; the layer itself is sound.
    assert!(!kept.exists());
    pushed(&sandbox, &[&from, &to]);
    let tar = sandbox.layer_dir(&image.diff_ids[0]).join("layer.tar");
    if tar.exists() {
        let mut bytes = fs::read(&tar).unwrap();
        bytes[600] ^= 1;
        fs::write(&tar, &bytes).unwrap();
        let there = Hub::new();
        let output = push(&sandbox, &["--compress=zstd", &from, &format!("{}/second:1", there.registry.address())]);
        let is_named = output.stderr.contains("damaged") && output.stderr.contains(&image.diff_ids[0]);
        assert!(output.code == 1 && is_named, "{}", output.stderr);
        assert!(there.registry.manifest("second", "1").is_none());
        sandbox.ok(&["pull", "--tls-verify=false", &from]);
        pushed(&sandbox, &["--compress=zstd", &from, &format!("{}/second:1", there.registry.address())]);
    }
}

#[test]
fn a_token_and_a_password_go_to_the_registry_alone() {
    require!(Need::Root);
    let sandbox = Sandbox::new();
    let (source, elsewhere) = (Hub::new(), Hub::new());
    let from = source.serve(&ImageBuilder::new().layer(Layer::gzip(tar("x"))).build(), "app", "1");
    sandbox.pull(&from);
    for auth in [Auth::bearer_for(USER, PASSWORD), Auth::Basic(USER.into(), PASSWORD.into())] {
        let there = Hub::with(Options { auth, ..Options::default() });
        let location = format!("{}/v2/x/blobs/uploads/upload-1", elsewhere.registry.base_url());
        let away = Fault::Header("location", Some(location));
        there.registry.add_rule(Rule::on("/uploads/").method("POST").fault(away));
        let creds = format!("{USER}:{PASSWORD}");
        let to = format!("{}/copy:1", there.registry.address());
        let output =
            sandbox.run(&["--debug", "push", "--tls-verify=false", "--retry=0", "--creds", &creds, &from, &to]);
        assert_eq!(output.code, 1, "there is no such upload: {}", output.stderr);
        assert!(!output.stderr.contains(PASSWORD), "{}", output.stderr);
        assert!(!elsewhere.registry.requests().is_empty());
    }
    let seen = elsewhere.registry.requests();
    assert!(seen.iter().all(|request| request.header("authorization").is_none()), "{seen:?}");
}
