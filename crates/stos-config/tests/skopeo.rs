// SPDX-License-Identifier: Apache-2.0 OR MIT
//! skopeo as the oracle: it is upstream's reader of the same files. What it tries, and what its policy says, is what we say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use stos_config::policy::PolicyImage;
use stos_config::{Environment, Error, Policy, Registries};
use stos_spec::BlobDigest;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::{environment, require};

/// Nobody listens on port 1 of any address of loopback, so each place is tried and refuses at once.
const CONFIGURATION: &str = r#"
[[registry]]
location = "127.0.0.2:1"
[[registry.mirror]]
location = "127.0.1.1:1/all"
[[registry.mirror]]
location = "127.0.1.2:1/tags"
pull-from-mirror = "tag-only"
[[registry.mirror]]
location = "127.0.1.3:1"
pull-from-mirror = "digest-only"

[[registry]]
prefix = "127.0.0.2:1/ns"
location = "127.0.0.3:1/moved"
mirror-by-digest-only = true
[[registry.mirror]]
location = "127.0.1.4:1"

[[registry]]
prefix = "127.0.0.2:1/ns/app"
location = "127.0.0.4:1/other"

[[registry]]
prefix = "*.wild.test"
location = "127.0.0.6:1/wild"

[[registry]]
prefix = "x.y.wild.test"
location = "127.0.0.7:1"

[[registry]]
prefix = "docker.io/library"
location = "127.0.0.8:1/hub"

[[registry]]
location = "127.0.0.9:1"
blocked = true

[[registry]]
location = "127.0.0.13:1"
[[registry.mirror]]
location = "127.0.0.9:1/mirror"
[[registry.mirror]]
location = "127.0.1.5:1"

[[registry]]
prefix = "127.0.0.10:1/a"
location = "127.0.0.11:1/Bad"
"#;

/// What skopeo tries, in its order, without what it finds blocked then. Its debug log is the one place where it says so.
fn tried_by_skopeo(home: &Path, image: &str) -> Vec<String> {
    let mut skopeo = Command::new(environment::tool("skopeo").unwrap());
    skopeo.env("HOME", home).env_remove("XDG_CONFIG_HOME").args(["--debug", "inspect"]);
    let output = skopeo.arg(format!("docker://{image}")).output().unwrap();
    assert!(!output.status.success(), "no one should listen there");
    let log = String::from_utf8(output.stderr).unwrap();
    let tried = |line: &str| Some(line.split_once(r#"msg="Trying to access \""#)?.1.split_once('\\')?.0.to_owned());
    let is_blocked = |place: &String| {
        let refused = format!(r#"Accessing \"{place}\" failed: registry"#);
        log.lines().any(|line| line.contains(&refused) && line.contains("is blocked in"))
    };
    log.lines().filter_map(tried).filter(|place| !is_blocked(place)).collect()
}

#[test]
fn the_same_places_are_tried() {
    require!(Need::Tool("skopeo"));
    let home = tempfile::tempdir().unwrap();
    fs::create_dir_all(home.path().join(".config/containers")).unwrap();
    fs::write(home.path().join(".config/containers/registries.conf"), CONFIGURATION).unwrap();
    let registries = Registries::load(&Environment::new("/no/such", 0).with("HOME", home.path())).unwrap();
    let digest = BlobDigest::of(b"");
    let mut places = 0;
    for image in [
        "127.0.0.2:1/x:1".to_owned(),
        format!("127.0.0.2:1/x@{digest}"),
        "127.0.0.2:1/nsx/y".into(),
        "127.0.0.2:1/ns/x:1".into(),
        format!("127.0.0.2:1/ns/x/y@{digest}"),
        "127.0.0.2:1/ns/app:1".into(),
        "127.0.0.2:1/ns/app/deep:1".into(),
        format!("127.0.0.2:1/ns/app@{digest}"),
        "127.0.0.9:1/x:1".into(),
        "127.0.0.13:1/x:1".into(),
        "127.0.0.10:1/a/x:1".into(),
        "a.wild.test/x:1".into(),
        "a.b.wild.test/x/y:1".into(),
        "a.wild.test:5000/x:1".into(),
        "x.y.wild.test/z:1".into(),
        "alpine:3".into(),
        "docker.io/library/alpine".into(),
        "127.0.0.12:1/unknown:1".into(),
    ] {
        let route = registries.route(&image.parse().unwrap());
        let ours: Vec<String> = match &route {
            Ok(route) => route.endpoints.iter().map(|endpoint| endpoint.reference.to_string()).collect(),
            Err(_) => Vec::new(),
        };
        assert_eq!(ours, tried_by_skopeo(home.path(), &image), "{image}: {route:?}");
        places += ours.len();
    }
    assert!(places > 20);
}

/// What a policy says of an image.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    Accepted,
    Rejected,
    Invalid,
}

fn our_word(policy: &Path, image: &PolicyImage) -> Word {
    let environment = Environment::new("/no/such", 0);
    match Policy::load(&environment, Some(policy)).map(|policy| policy.decision(image).verdict().map(|_| ())) {
        Ok(Ok(())) => Word::Accepted,
        Ok(Err(Error::Rejected { .. })) => Word::Rejected,
        Ok(Err(error)) => panic!("{error}"),
        Err(_) => Word::Invalid,
    }
}

/// Lets skopeo copy the image, which it does where its policy accepts it.
fn word_of_skopeo(policy: &Path, source: &str, scratch: &Path) -> Word {
    let mut skopeo = Command::new(environment::tool("skopeo").unwrap());
    skopeo.arg("--policy").arg(policy).args(["copy", "--src-tls-verify=false", source]);
    let output = skopeo.arg(format!("dir:{}", scratch.display())).env("HOME", scratch).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    match output.status.success() {
        true => Word::Accepted,
        false if said.contains("Source image rejected") => Word::Rejected,
        false if said.contains("Error loading trust policy") => Word::Invalid,
        false => panic!("{said}"),
    }
}

struct Images {
    directory: tempfile::TempDir,
    _registry: DockerRegistry,
    /// What skopeo calls them, and what we do.
    images: Vec<(String, PolicyImage)>,
}

fn images() -> Images {
    let directory = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(&directory.path().join("storage")).unwrap();
    let tar = TarBuilder::new().entry(Entry::file("f", "data")).finish();
    let image = ImageBuilder::new().layer(Layer::gzip(tar)).build();
    let name = format!("{}/team/app", registry.address());
    image.push(registry.address(), "team/app", "1").unwrap();
    let layout = fs::canonicalize(directory.path()).unwrap().join("layouts/one");
    image.write_layout(&layout, "1").unwrap();
    let digest = &image.manifest.digest;
    let images = vec![
        (format!("docker://{name}:1"), PolicyImage::Docker(format!("{name}:1").parse().unwrap())),
        (format!("docker://{name}@{digest}"), PolicyImage::Docker(format!("{name}@{digest}").parse().unwrap())),
        (format!("oci:{}:1", layout.display()), PolicyImage::Oci(layout)),
    ];
    Images { directory, _registry: registry, images }
}

impl Images {
    /// Asks both of us about each image, and wants one answer. Gives how often each was given.
    fn compare(&self, policy: &str) -> (usize, usize, usize) {
        let path: PathBuf = self.directory.path().join("policy.json");
        fs::write(&path, policy).unwrap();
        let mut counts = (0, 0, 0);
        for (number, (source, image)) in self.images.iter().enumerate() {
            let scratch = self.directory.path().join(format!("copy-{number}"));
            let ours = our_word(&path, image);
            assert_eq!(ours, word_of_skopeo(&path, source, &scratch), "{source} {policy}");
            match ours {
                Word::Accepted => counts.0 += 1,
                Word::Rejected => counts.1 += 1,
                Word::Invalid => counts.2 += 1,
            }
        }
        counts
    }
}

#[test]
fn policies_say_the_same() {
    require!(Need::Tool("skopeo"), Need::Tool("docker-registry"));
    let images = images();
    let PolicyImage::Docker(reference) = &images.images[0].1 else { panic!() };
    let (host, name) = (reference.registry(), reference.name());
    let PolicyImage::Oci(layout) = &images.images[2].1 else { panic!() };
    let layout = layout.display().to_string();
    let mut counts = (0, 0, 0);
    for (transport, scope) in [
        ("docker", String::new()),
        ("docker", format!("{name}:1")),
        ("docker", name.clone()),
        ("docker", format!("{host}/team")),
        ("docker", format!("{host}/tea")),
        ("docker", host.to_owned()),
        ("docker", "127.0.0.1".to_owned()),
        ("docker", "*.0.0.1".to_owned()),
        ("docker", "*.1".to_owned()),
        ("docker", format!("{name}:2")),
        ("oci", String::new()),
        ("oci", layout.clone()),
        ("oci", layout.rsplit_once('/').unwrap().0.to_owned()),
        ("oci", format!("{layout}/below")),
        ("oci", format!("{layout}/")),
        ("oci", "/".to_owned()),
        ("oci", "relative".to_owned()),
        ("dir", "/x".to_owned()),
        ("docker-archive", "x".to_owned()),
        ("no-such-transport", "anything".to_owned()),
    ] {
        let accept = format!(r#"{{"{transport}": {{"{scope}": [{{"type": "insecureAcceptAnything"}}]}}}}"#);
        let found = images.compare(&format!(r#"{{"default": [{{"type": "reject"}}], "transports": {accept}}}"#));
        counts = (counts.0 + found.0, counts.1 + found.1, counts.2 + found.2);
    }
    assert!(counts.0 > 10 && counts.1 > 10 && counts.2 > 5, "{counts:?}");
}

#[test]
fn the_same_policies_are_invalid() {
    require!(Need::Tool("skopeo"), Need::Tool("docker-registry"));
    let mut images = images();
    images.images.drain(..2);
    let accept = r#"[{"type": "insecureAcceptAnything"}]"#;
    // In a scope that no image here is in, so that a requirement that is read well is not asked for.
    let elsewhere = |requirement: &str| {
        format!(r#"{{"default": {accept}, "transports": {{"docker": {{"a.b": [{requirement}]}}}}}}"#)
    };
    let identity = |identity: &str| {
        elsewhere(&format!(r#"{{"type": "sigstoreSigned", "keyPath": "/k", "signedIdentity": {identity}}}"#))
    };
    let (mut valid, mut invalid) = (0, 0);
    for policy in [
        "{}".to_owned(),
        "[]".into(),
        r#"{"default": []}"#.into(),
        format!(r#"{{"default": {accept}, "x": 1}}"#),
        format!(r#"{{"default": {accept}, "default": {accept}}}"#),
        format!(r#"{{"default": {accept}, "transports": {{"docker": {{"a": {accept}, "a": {accept}}}}}}}"#),
        format!(r#"{{"default": {accept}, "transports": {{"docker": {{"a": []}}}}}}"#),
        format!(r#"{{"default": {accept}}} x"#),
        format!("\u{feff}{{\"default\": {accept}}}"),
        elsewhere(r#"{"type": "reject"}"#),
        elsewhere(r#"{"type": "reject", "x": 1}"#),
        elsewhere(r#"{"type": "Reject"}"#),
        elsewhere("{}"),
        elsewhere(r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}"#),
        elsewhere(r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": ["/k"]}"#),
        elsewhere(r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k", "keyData": "AAEC"}"#),
        elsewhere(r#"{"type": "signedBy", "keyType": "PGP", "keyPath": "/k"}"#),
        elsewhere(r#"{"type": "signedBy", "keyPath": "/k"}"#),
        elsewhere(r#"{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}"#),
        elsewhere(r#"{"type": "signedBaseLayer"}"#),
        elsewhere(r#"{"type": "sigstoreSigned", "keyPath": "/k"}"#),
        elsewhere(r#"{"type": "sigstoreSigned", "keyData": "AAEC"}"#),
        elsewhere(r#"{"type": "sigstoreSigned", "keyData": "AAE"}"#),
        elsewhere(r#"{"type": "sigstoreSigned", "keyData": "AAEC", "keyPath": "/k"}"#),
        elsewhere(r#"{"type": "sigstoreSigned"}"#),
        elsewhere(r#"{"type": "sigstoreSigned", "keyPath": 1}"#),
        identity(r#"{"type": "matchExact"}"#),
        identity(r#"{"type": "matchRepoDigestOrExact"}"#),
        identity(r#"{"type": "matchRepository", "x": 1}"#),
        identity(r#"{"type": "matchAll"}"#),
        identity(r#"{"type": "exactReference", "dockerReference": "busybox:1"}"#),
        identity(r#"{"type": "exactReference", "dockerReference": "busybox"}"#),
        identity(r#"{"type": "exactRepository", "dockerRepository": "quay.io/x"}"#),
        identity(r#"{"type": "exactRepository", "dockerRepository": "quay.io/x:1"}"#),
        identity(r#"{"type": "exactRepository", "dockerRepository": "quay.io/X"}"#),
        identity(r#"{"type": "exactRepository"}"#),
        identity(r#"{"type": "remapIdentity", "prefix": "quay.io", "signedPrefix": "docker.io/library"}"#),
        identity(r#"{"type": "remapIdentity", "prefix": "quay.io:5000/a/b", "signedPrefix": "localhost"}"#),
        identity(r#"{"type": "remapIdentity", "prefix": "quay.io/a:1", "signedPrefix": "localhost"}"#),
        identity(r#"{"type": "remapIdentity", "prefix": "", "signedPrefix": "localhost"}"#),
        identity(r#"{"type": "remapIdentity", "prefix": "quay.io"}"#),
    ] {
        match images.compare(&policy) {
            (1, 0, 0) => valid += 1,
            (0, 0, 1) => invalid += 1,
            counts => panic!("{policy}: {counts:?}"),
        }
    }
    assert!(valid > 10 && invalid > 10, "{valid} {invalid}");
}
