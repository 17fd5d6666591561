// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The signature policy: what it does not accept does not come in, by whichever way; nothing of it is fetched, and nothing changes.

mod sandbox;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use sandbox::{Hub, Output, Sandbox, output};
use serde_json::{Value, json};
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{self, Blob, Dialect, Image, ImageBuilder, Layer};
use stos_testkit::require;
use stos_testkit::signing::{self, Signature, Signer};
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn image(text: &str) -> Image {
    let tar = TarBuilder::new().entry(Entry::file("f", text).mode(0o755)).finish();
    ImageBuilder::new().layer(Layer::gzip(tar)).command(&["/f"]).build()
}

fn put(sandbox: &Sandbox, path: &str, text: &str) -> String {
    let path = sandbox.home().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Writes the user's policy, which may speak of `docker` and of files.
fn policy(sandbox: &Sandbox, default: &Value, transports: &Value) -> String {
    let policy = json!({"default": default, "transports": transports});
    put(sandbox, ".config/containers/policy.json", &policy.to_string())
}

/// Has registries asked for signatures.
fn ask_for_signatures(sandbox: &Sandbox) {
    put(sandbox, ".config/containers/registries.d/all.yaml", "default-docker:\n  use-sigstore-attachments: true\n");
}

fn accept() -> Value {
    json!([{"type": "insecureAcceptAnything"}])
}

fn reject() -> Value {
    json!([{"type": "reject"}])
}

/// Writes a signer's public key, and gives the requirement of it.
fn signed_by(sandbox: &Sandbox, name: &str, signer: &Signer) -> Value {
    let path = put(sandbox, name, &signer.public_pem());
    json!({"type": "sigstoreSigned", "keyPath": path})
}

/// Runs what must fail, with these words in the error and nothing changed in the store.
#[track_caller]
fn refused(sandbox: &Sandbox, arguments: &[&str], code: i32, words: &[&str]) -> Output {
    let before = sandbox.listing();
    let output = sandbox.run(arguments);
    assert_eq!(output.code, code, "{arguments:?}: {}", output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "{arguments:?}: {word}: {}", output.stderr);
    }
    assert_eq!(output.stdout, "", "{arguments:?}");
    before.assert_same(&sandbox.listing());
    output
}

/// A store with an image in it, a registry, and who may sign.
struct Scene {
    sandbox: Sandbox,
    hub: Hub,
    signer: Signer,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { sandbox: Sandbox::new(), hub: Hub::new(), signer: Signer::new() };
        let address = scene.hub.registry.address();
        put(&scene.sandbox, "registries.conf", &format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n"));
        scene.sandbox.ok(&["pull", &scene.hub.serve(&image("there before"), "before", "1")]);
        scene.hub.registry.take_requests();
        scene
    }

    /// Serves an image as `team/app:1` with signatures, and gives the reference.
    fn serve(&self, image: &Image, signatures: &[Signature]) -> String {
        signing::attach(&self.hub.registry, "team/app", &image.manifest.digest, signatures);
        self.hub.serve(image, "team/app", "1")
    }

    fn reference(&self) -> String {
        format!("{}/team/app:1", self.hub.registry.address())
    }

    /// Requires the signer's signature of what the registry has.
    fn require_signature(&self) -> String {
        ask_for_signatures(&self.sandbox);
        let requirement = signed_by(&self.sandbox, "signer.pub", &self.signer);
        policy(&self.sandbox, &reject(), &json!({"docker": {self.hub.registry.address(): [requirement]}}))
    }

    /// What was asked for since the last time: `manifest`, `signature`, `payload`, `config`, `layer`.
    fn asked(&self, image: &Image, signatures: &[Signature]) -> Vec<&'static str> {
        let payloads: Vec<_> = signatures.iter().map(|it| image_builder::digest(&it.payload)).collect();
        let requests = self.hub.registry.take_requests();
        let named = |request: &String| match request.rsplit('/').next().unwrap_or_default() {
            what if what.ends_with(".sig") => "signature",
            what if payloads.iter().any(|payload| what == payload) => "payload",
            what if what == image.config.digest => "config",
            what if image.layers.iter().any(|layer| what == layer.digest) => "layer",
            _ if request.contains("/manifests/") => "manifest",
            _ => panic!("{request}"),
        };
        requests.iter().map(named).collect()
    }
}

#[test]
fn what_is_signed_comes_in_and_its_signature_is_looked_at_first() {
    require!(Need::Root, Need::Binary);
    let (scene, image) = (Scene::new(), image("x"));
    let signatures = [scene.signer.sign(&scene.reference(), &image.manifest.digest)];
    let reference = scene.serve(&image, &signatures);
    scene.require_signature();
    assert_eq!(scene.sandbox.ok(&["pull", &reference]).trim(), image.manifest.digest);
    let expected = ["manifest", "signature", "payload", "config", "layer"];
    assert_eq!(scene.asked(&image, &signatures), expected);
    // What is there may be used, and is asked about when it is pulled again.
    scene.sandbox.ok(&["create", &reference]);
    assert_eq!(scene.asked(&image, &signatures), [""; 0]);
    scene.sandbox.ok(&["pull", &reference]);
    assert_eq!(scene.asked(&image, &signatures), expected[..3]);
    scene.sandbox.ok(&["rmi", "--force", &reference]);
    scene.sandbox.ok(&["create", &reference]);
    assert_eq!(scene.asked(&image, &signatures)[1..3], expected[1..3]);
    // By digest any signature of the repository will do.
    let by_digest = format!("{}@{}", reference.strip_suffix(":1").unwrap(), image.manifest.digest);
    scene.sandbox.ok(&["pull", &by_digest]);
}

#[test]
fn each_signature_that_does_not_hold_keeps_the_image_out() {
    require!(Need::Root, Need::Binary);
    let (scene, image) = (Scene::new(), image("x"));
    let (reference, manifest) = (scene.reference(), image.manifest.digest.clone());
    let file = scene.require_signature();
    let place = format!("{file}: transports.docker[\"{}\"][0]", scene.hub.registry.address());
    let good = scene.signer.sign(&reference, &manifest);
    let elsewhere = image_builder::digest(b"elsewhere");
    let tampered = Signature { payload: [&good.payload[..], b" "].concat(), ..good.clone() };
    let attestation = Signature { media_type: "application/vnd.dsse.envelope.v1+json".into(), ..good.clone() };
    let (none, key) = ("has none", "signer.pub");
    let cases: [(&str, Vec<Signature>, &[&str]); 9] = [
        ("none", vec![], &[none, "hint:"]),
        ("an attestation", vec![attestation], &[none]),
        ("another key", vec![Signer::new().sign(&reference, &manifest)], &["by none of the keys of", key]),
        ("tampered", vec![tampered], &["by none of the keys of", key]),
        ("another digest", vec![scene.signer.sign(&reference, &elsewhere)], &["it is for manifest", &elsewhere]),
        (
            "another tag",
            vec![scene.signer.sign(&reference.replace(":1", ":2"), &manifest)],
            &["team/app:2", &reference, "hint:", "signedIdentity"],
        ),
        (
            "a repository",
            vec![scene.signer.sign("r.example/other", &manifest)],
            &["r.example/other", "matchRepository"],
        ),
        ("a broken payload", vec![scene.signer.sign_payload("{}")], &["its payload cannot be used", "critical"]),
        ("no signature", vec![Signature { annotation: None, ..good.clone() }], &[signing::ANNOTATION, "missing"]),
    ];
    for (case, signatures, words) in cases {
        scene.serve(&image, &signatures);
        let words = [words, &[&reference, &place, &manifest]].concat();
        for (arguments, code) in [(["pull", &reference], 1), (["create", &reference], 125), (["run", &reference], 125)]
        {
            refused(&scene.sandbox, &arguments, code, &words);
            let asked = scene.asked(&image, &signatures);
            assert!(!asked.contains(&"config") && !asked.contains(&"layer"), "{case}: {asked:?}");
        }
    }
    // Beside one that holds they do no harm.
    scene.serve(&image, &[Signer::new().sign(&reference, &manifest), good]);
    scene.sandbox.ok(&["pull", &reference]);
}

#[test]
fn what_is_decided_without_a_signature_is_decided_without_a_request() {
    require!(Need::Root, Need::Binary);
    let (scene, image) = (Scene::new(), image("x"));
    let reference = scene.serve(&image, &[scene.signer.sign(&scene.reference(), &image.manifest.digest)]);
    let requirement = signed_by(&scene.sandbox, "signer.pub", &scene.signer);
    let rekor =
        json!({"type": "sigstoreSigned", "keyPath": requirement["keyPath"], "rekorPublicKeyPath": "/rekor.pub"});
    let key = put(&scene.sandbox, "broken.pub", "no key");
    let broken = json!({"type": "sigstoreSigned", "keyPath": key});
    let missing = json!({"type": "sigstoreSigned", "keyPath": "/no/such.pub"});
    let gpg = json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/gpg"});
    for (requirements, words) in [
        (reject(), &["rejected by the policy", "reject"][..]),
        (json!([requirement, {"type": "reject"}]), &["rejected by the policy"]),
        (json!([requirement]), &["registries.d", "hint:", "use-sigstore-attachments"]),
        (json!([rekor]), &["Rekor", "cannot check", "hint:"]),
        (json!([gpg]), &["signedBy", "cannot check"]),
        (json!([broken]), &[&key, "expected a public key in PEM", "found none"]),
        (json!([missing]), &["/no/such.pub", "is not there"]),
    ] {
        let file = policy(&scene.sandbox, &accept(), &json!({"docker": {scene.reference(): requirements}}));
        for (arguments, code) in [
            (&["pull", &reference][..], 1),
            (&["create", &reference], 125),
            (&["run", "--pull=always", &reference], 125),
        ] {
            let said = refused(&scene.sandbox, arguments, code, words).stderr;
            assert!(said.contains(&reference) && said.contains(&file) || said.contains(".pub"), "{said}");
        }
        assert_eq!(scene.hub.registry.take_requests(), [""; 0], "{words:?}");
    }
    // Other images are not meant, and this one may be used once it is there.
    let other = scene.hub.serve(&self::image("y"), "other", "1");
    scene.sandbox.ok(&["pull", &other]);
    policy(&scene.sandbox, &accept(), &json!({}));
    scene.sandbox.ok(&["pull", &reference]);
    policy(&scene.sandbox, &reject(), &json!({}));
    scene.hub.registry.take_requests();
    scene.sandbox.ok(&["create", &reference]);
    refused(&scene.sandbox, &["pull", &reference], 1, &["rejected"]);
    refused(&scene.sandbox, &["create", "--pull=always", &reference], 125, &["rejected"]);
    assert_eq!(scene.hub.registry.take_requests(), [""; 0]);
}

/// As podman does it: the image's own manifest is what must be signed.
#[test]
fn of_an_index_the_image_that_is_chosen_must_be_signed() {
    require!(Need::Root, Need::Binary);
    let (scene, image) = (Scene::new(), image("x"));
    let index = Image::index(Dialect::Oci, &[&image]);
    let reference = scene.hub.serve_index(&index, &[&image], "team/app", "1");
    scene.require_signature();
    let registry = &scene.hub.registry;
    signing::attach(registry, "team/app", &index.digest, &[scene.signer.sign(&reference, &index.digest)]);
    let said = refused(&scene.sandbox, &["pull", &reference], 1, &["has none", &image.manifest.digest, "hint:"]);
    assert!(!said.stderr.contains(&index.digest));
    let signatures = [scene.signer.sign(&reference, &image.manifest.digest)];
    signing::attach(registry, "team/app", &image.manifest.digest, &signatures);
    scene.asked(&image, &signatures);
    scene.sandbox.ok(&["pull", &reference]);
    assert_eq!(scene.asked(&image, &signatures), ["manifest", "manifest", "signature", "payload", "config", "layer"]);
}

#[test]
fn files_are_asked_about_by_transport_and_path() {
    require!(Need::Root, Need::Binary);
    let (scene, image) = (Scene::new(), image("x"));
    let (layout, sandbox) = (scene.sandbox.path("layout"), &scene.sandbox);
    let (oci, docker) = (sandbox.path("oci.tar"), sandbox.path("docker.tar"));
    sandbox.ok(&["pull", &scene.serve(&image, &[])]);
    for (format, path) in [("oci-dir", &layout), ("oci-archive", &oci), ("docker-archive", &docker)] {
        sandbox.ok(&["save", "--format", format, "-o", path.to_str().unwrap(), &scene.reference()]);
    }
    sandbox.ok(&["rmi", &scene.reference()]);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let link = sandbox.path("link.tar");
    std::os::unix::fs::symlink(&oci, &link).unwrap();
    let directory = text(&fs::canonicalize(layout.parent().unwrap()).unwrap());
    let by_load = |path: &Path| vec!["load".to_owned(), "-i".to_owned(), text(path)];
    let by_pull = |transport: &str, path: &Path| vec!["pull".to_owned(), format!("{transport}:{}", text(path))];
    for (transport, scope, path) in [
        ("oci", directory.clone(), &layout),
        ("oci-archive", format!("{directory}/oci.tar"), &oci),
        ("oci-archive", format!("{directory}/oci.tar"), &link),
        ("docker-archive", String::new(), &docker),
    ] {
        for command in [by_load(path), by_pull(transport, path)] {
            let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
            policy(sandbox, &accept(), &json!({transport: {&scope: reject()}}));
            refused(sandbox, &arguments, 1, &["rejected by the policy", transport]);
            // What is rejected is that, and nothing else.
            policy(sandbox, &reject(), &json!({transport: {&scope: accept()}}));
            sandbox.ok(&arguments);
            sandbox.ok(&["image", "prune", "--all", "--force"]);
            let requirement = signed_by(sandbox, "signer.pub", &scene.signer);
            policy(sandbox, &accept(), &json!({transport: {&scope: [requirement]}}));
            refused(sandbox, &arguments, 1, &["registries alone", transport, "hint:"]);
            sandbox.ok(&["pull", &scene.hub.serve(&self::image("there before"), "before", "1")]);
        }
    }
    // A stream has no path.
    let load = || output(sandbox.command().arg("load").stdin(File::open(&oci).unwrap()));
    policy(sandbox, &accept(), &json!({"oci-archive": {&directory: reject()}}));
    assert_eq!(load().code, 0);
    policy(sandbox, &accept(), &json!({"oci-archive": {"": reject()}}));
    let refused = load();
    assert!(refused.code == 1 && refused.stderr.contains("an oci-archive that is a stream"), "{}", refused.stderr);
    // Neither has a pipe that a path leads to; a file that one leads to has its own.
    let by_path = ["load -i /dev/stdin", "pull oci-archive:/dev/stdin"].map(|text| text.split(' '));
    for arguments in by_path {
        let from = |stdin: Stdio| output(sandbox.command().args(arguments.clone()).stdin(stdin));
        let piped = || {
            let mut cat = Command::new("cat").arg(&oci).stdout(Stdio::piped()).spawn().unwrap();
            let said = from(cat.stdout.take().unwrap().into());
            cat.wait().unwrap();
            said
        };
        policy(sandbox, &accept(), &json!({"oci-archive": {&directory: reject()}}));
        let said = piped();
        assert_eq!(said.code, 0, "{}", said.stderr);
        let refused = from(File::open(&oci).unwrap().into());
        assert!(refused.code == 1 && refused.stderr.contains("rejected by the policy"), "{}", refused.stderr);
        policy(sandbox, &accept(), &json!({"oci-archive": {"": reject()}}));
        let refused = piped();
        assert!(refused.code == 1 && refused.stderr.contains("an oci-archive that is a stream"), "{}", refused.stderr);
    }
    // What is made here comes from nobody.
    policy(sandbox, &reject(), &json!({}));
    let root = sandbox.path("root");
    fs::create_dir(&root).unwrap();
    sandbox.ok(&["import", root.to_str().unwrap(), "own:1"]);
}

#[test]
fn a_short_name_is_asked_about_in_full() {
    require!(Need::Root, Need::Binary);
    let (scene, second, image) = (Scene::new(), Hub::new(), image("x"));
    scene.hub.serve(&image, "app", "1");
    second.serve(&image, "app", "1");
    let [first_address, address] = [&scene.hub, &second].map(|hub| hub.registry.address());
    put(
        &scene.sandbox,
        "registries.conf",
        &format!(
            "unqualified-search-registries = [\"{first_address}\", \"{address}\"]\n[[registry]]\nlocation = \"{address}\"\n\
             insecure = true\n"
        ),
    );
    // One that the policy rejects is passed over, like one that is blocked.
    policy(&scene.sandbox, &accept(), &json!({"docker": {&first_address: reject()}}));
    scene.sandbox.ok(&["pull", "app:1"]);
    assert_eq!(scene.hub.registry.take_requests(), [""; 0]);
    policy(&scene.sandbox, &reject(), &json!({}));
    let words = ["no registry that is searched has app:1", &first_address, &address, "rejected by the policy"];
    refused(&scene.sandbox, &["pull", "app:1"], 1, &words);
}

#[test]
fn a_mirror_gives_signatures_and_the_name_stays() {
    require!(Need::Root, Need::Binary);
    let (scene, image) = (Scene::new(), image("x"));
    let origin = &scene.hub.registry;
    scene.hub.serve(&image, "team/app", "1");
    let name = "r.example/app:1";
    let signatures = [scene.signer.sign(name, &image.manifest.digest)];
    let requirement = signed_by(&scene.sandbox, "signer.pub", &scene.signer);
    policy(&scene.sandbox, &reject(), &json!({"docker": {"r.example": [requirement]}}));
    let mirrored_by = |mirror: &Hub, more: &str| {
        mirror.serve(&image, "cache/app", "1");
        let (origin, mirror) = (origin.address(), mirror.registry.address());
        let table = format!("[[registry]]\nprefix = \"r.example\"\nlocation = \"{origin}/team\"\ninsecure = true\n");
        let mirror = format!("[[registry.mirror]]\nlocation = \"{mirror}/cache\"\ninsecure = true\n{more}\n");
        put(&scene.sandbox, "registries.conf", &format!("{table}{mirror}"));
    };
    let asked_for_at = |scope: &str| {
        let text = format!("docker:\n  {scope}:\n    use-sigstore-attachments: true\n");
        put(&scene.sandbox, ".config/containers/registries.d/all.yaml", &text);
    };
    // It gives them with the image, and that its own name is known for them is enough.
    let mirror = Hub::new();
    mirrored_by(&mirror, "");
    signing::attach(&mirror.registry, "cache/app", &image.manifest.digest, &signatures);
    asked_for_at(&format!("{}/cache", mirror.registry.address()));
    scene.sandbox.ok(&["pull", name]);
    // One that serves no tags gives those of what it has given by digest.
    mirrored_by(&mirror, "pull-from-mirror = \"digest-only\"");
    scene.sandbox.ok(&["pull", &format!("r.example/app@{}", image.manifest.digest)]);
    assert_eq!(origin.take_requests(), [""; 0]);
    // One without them is passed over, for them alone.
    let mirror = Hub::new();
    mirrored_by(&mirror, "");
    asked_for_at("r.example");
    scene.sandbox.ok(&["image", "prune", "--all", "--force"]);
    scene.sandbox.ok(&["system", "gc"]);
    refused(&scene.sandbox, &["pull", name], 1, &["has none", name]);
    signing::attach(origin, "team/app", &image.manifest.digest, &signatures);
    origin.take_requests();
    mirror.registry.take_requests();
    scene.sandbox.ok(&["pull", name]);
    assert_eq!(scene.asked(&image, &signatures), ["signature", "payload"]);
    assert!(mirror.registry.take_requests().iter().any(|request| request.ends_with(&image.config.digest)));
}

#[test]
fn an_option_or_a_variable_names_another_policy() {
    require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let reference = scene.serve(&image("x"), &[]);
    policy(&scene.sandbox, &accept(), &json!({}));
    let other = put(&scene.sandbox, "other.json", &json!({"default": reject()}).to_string());
    let explain = |arguments: &[&str]| {
        scene.sandbox.json(&[&["registry", "explain", "--format", "json", &reference], arguments].concat())
    };
    let words = ["rejected by the policy", &other];
    refused(&scene.sandbox, &["pull", "--signature-policy", &other, &reference], 1, &words);
    refused(&scene.sandbox, &["create", "--signature-policy", &other, &reference], 125, &words);
    refused(&scene.sandbox, &["run", "--signature-policy", &other, &reference], 125, &words);
    let archive = scene.sandbox.path("a.tar");
    scene.sandbox.ok(&["save", "-o", archive.to_str().unwrap(), &format!("{}/before:1", scene.hub.registry.address())]);
    let archive = archive.to_str().unwrap();
    refused(&scene.sandbox, &["load", "--signature-policy", &other, "-i", archive], 1, &words);
    let told = &explain(&["--signature-policy", &other])["candidates"][0];
    assert!(told["refused"].as_str().unwrap().contains(&other), "{told:#}");
    let with_variable = |value: &str, arguments: &[&str]| {
        output(scene.sandbox.command().env("CONTAINERS_POLICY_CONF", value).args(arguments))
    };
    let pulled = with_variable(&other, &["pull", &reference]);
    assert!(pulled.code == 1 && pulled.stderr.contains(&other), "{}", pulled.stderr);
    // What is named must be there, and a file that is broken lets nothing in.
    for value in ["/no/such.json", &put(&scene.sandbox, "broken.json", r#"{"default": []}"#)] {
        assert!(
            refused(&scene.sandbox, &["pull", "--signature-policy", value, &reference], 1, &[value]).stdout.is_empty()
        );
        let pulled = with_variable(value, &["pull", &reference]);
        assert!(pulled.code == 1 && pulled.stderr.contains(value), "{}", pulled.stderr);
    }
    assert_eq!(scene.hub.registry.take_requests(), [""; 0]);
    let accepts = put(&scene.sandbox, "accepts.json", &json!({"default": accept()}).to_string());
    policy(&scene.sandbox, &reject(), &json!({}));
    assert_eq!(with_variable(&other, &["pull", "--signature-policy", &accepts, &reference]).code, 0);
}

#[test]
fn what_the_policy_says_is_explained() {
    require!(Need::Root, Need::Binary);
    let scene = Scene::new();
    let reference = scene.reference();
    let explain =
        || scene.sandbox.json(&["registry", "explain", "--format", "json", &reference])["candidates"][0].take();
    let text = || scene.sandbox.ok(&["registry", "explain", &reference]);
    let file = policy(&scene.sandbox, &accept(), &json!({}));
    let expected = json!({"configured_by": format!("{file}: default"), "attachments": null, "requirements": [
        {"type": "insecureAcceptAnything", "keys": [], "expected": null, "configured_by": null}]});
    assert_eq!(explain()["policy"], expected);
    assert!(text().contains(&format!("policy       accepts it ({file}: default)")), "{}", text());
    let requirement = signed_by(&scene.sandbox, "signer.pub", &scene.signer);
    let key = requirement["keyPath"].as_str().unwrap();
    policy(&scene.sandbox, &reject(), &json!({"docker": {scene.hub.registry.address(): [requirement]}}));
    let place = format!("{file}: transports.docker[\"{}\"]", scene.hub.registry.address());
    let told = explain();
    let expected = json!({"configured_by": place, "attachments": {"used": false, "configured_by": null}, "requirements": [
        {"type": "sigstoreSigned", "keys": [key], "expected": reference, "configured_by": format!("{place}[0]")}]});
    assert_eq!(told["policy"], expected);
    assert!(told["refused"].as_str().unwrap().contains("registries.d") && told["endpoints"] == json!([]), "{told:#}");
    ask_for_signatures(&scene.sandbox);
    let told = explain();
    assert_eq!((&told["policy"]["attachments"]["used"], &told["refused"]), (&json!(true), &json!(null)), "{told:#}");
    assert_eq!(told["endpoints"].as_array().unwrap().len(), 1);
    let said = text();
    for words in [
        &format!("wants a signature by {key}, for {reference} ({place}[0])"),
        "signatures   registries are asked for them",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    policy(&scene.sandbox, &reject(), &json!({}));
    let told = explain();
    assert_eq!(told["policy"]["requirements"][0]["type"], "reject");
    assert!(told["refused"].as_str().unwrap().contains("rejected by the policy"));
    assert_eq!(scene.hub.registry.take_requests(), [""; 0]);
}

/// The CNCF's registry takes signatures as any other image, and gives them back.
#[test]
fn signatures_in_a_real_registry_are_found() {
    require!(Need::Root, Need::Binary, Need::Tool("docker-registry"));
    let (scene, storage, image) = (Scene::new(), tempfile::tempdir().unwrap(), image("x"));
    let registry = DockerRegistry::start(storage.path()).unwrap();
    let address = registry.address();
    let reference = format!("{address}/team/app:1");
    image.push(address, "team/app", "1").unwrap();
    put(&scene.sandbox, "registries.conf", &format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n"));
    ask_for_signatures(&scene.sandbox);
    policy(&scene.sandbox, &json!([signed_by(&scene.sandbox, "signer.pub", &scene.signer)]), &json!({}));
    refused(&scene.sandbox, &["pull", &reference], 1, &["has none"]);
    let signature = scene.signer.sign(&reference, &image.manifest.digest);
    for bytes in [b"{}".to_vec(), signature.payload.clone()] {
        image_builder::push_blob(address, "team/app", &Blob::new("application/octet-stream", bytes)).unwrap();
    }
    let document = signing::manifest(&[signature]).to_string().into_bytes();
    let document = Blob::new("application/vnd.oci.image.manifest.v1+json", document);
    image_builder::push_manifest(address, "team/app", &signing::tag(&image.manifest.digest), &document).unwrap();
    assert_eq!(scene.sandbox.ok(&["pull", &reference]).trim(), image.manifest.digest);
}
