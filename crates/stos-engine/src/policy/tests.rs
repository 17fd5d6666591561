// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::slice;

use serde_json::{Value, json};
use stos_registry::ClientOptions;
use stos_testkit::registry::{self, Fault, Rule};
use stos_testkit::signing::{self, Signature, Signer};

use super::attachments::SIGNATURES_MAX;
use super::fixture::{ED25519_KEY, IMAGE, MANIFEST, PAYLOAD, SKOPEO, key};
use super::*;
use crate::error::Error;

const REPOSITORY: &str = "team/app";

/// A registry, a manifest in it, and who may sign that.
struct Scene {
    registry: registry::Registry,
    signer: Signer,
    manifest: BlobDigest,
}

impl Scene {
    fn new() -> Self {
        let registry = registry::Registry::start(registry::Options::default());
        Self { registry, signer: Signer::new(), manifest: BlobDigest::of(b"a manifest") }
    }

    fn image(&self) -> String {
        format!("{}/{REPOSITORY}:1", self.registry.address())
    }

    /// The signature that is wanted.
    fn signed(&self) -> Signature {
        self.signer.sign(&self.image(), &self.manifest.to_string())
    }

    fn attach(&self, signatures: &[Signature]) {
        signing::attach(&self.registry, REPOSITORY, &self.manifest.to_string(), signatures);
    }

    /// A requirement of the signer's key, with more of its fields.
    fn requirement(&self, signer: &Signer, more: Value) -> Value {
        let mut requirement = json!({"type": "sigstoreSigned", "keyData": STANDARD.encode(signer.public_pem())});
        requirement.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        requirement
    }

    /// Checks the image against requirements.
    fn check(&self, requirements: Value) -> Result<()> {
        let policy = json!({ "default": requirements }).to_string();
        let policy = Policy::parse(Path::new("/policy.json"), policy.as_bytes()).unwrap();
        let reference: ImageRef = self.image().parse().unwrap();
        let admission = Admission::ask(&policy, &PolicyImage::Docker(reference.clone()))?;
        let mut options = ClientOptions::default();
        (options.tls_verify, options.retry.tries) = (false, 1);
        admission.check(&Registry::new(&reference, &options).unwrap(), REPOSITORY, self.manifest)
    }

    fn check_signed(&self) -> Result<()> {
        self.check(json!([self.requirement(&self.signer, json!({}))]))
    }

    /// Lays signatures beside the image and tells why they are not the one that is wanted.
    #[track_caller]
    fn refused(&self, signatures: &[Signature]) -> Vec<SignatureFault> {
        self.attach(signatures);
        match self.check_signed().unwrap_err() {
            Error::Policy(PolicyError::NoneAccepted { image, place, manifest, refused }) => {
                assert_eq!((image, manifest), (self.image(), self.manifest));
                assert_eq!(place.to_string(), "/policy.json: default[0]");
                refused.into_iter().map(|refused| refused.reason).collect()
            }
            error => panic!("{error}"),
        }
    }
}

#[test]
fn a_signature_that_holds_is_enough_and_is_looked_for_once() {
    let scene = Scene::new();
    scene.attach(&[scene.signed()]);
    scene.check_signed().unwrap();
    let tag = signing::tag(&scene.manifest.to_string());
    let payload = BlobDigest::of(&scene.signed().payload);
    let asked = [format!("manifests/{tag}"), format!("blobs/{payload}")];
    let asked = asked.map(|path| format!("GET /v2/{REPOSITORY}/{path}"));
    assert_eq!(scene.registry.take_requests(), asked);
    // Of several one, wherever it stands; what comes after it is not fetched.
    let other = Signer::new().sign(&scene.image(), &scene.manifest.to_string());
    scene.attach(&[other.clone(), scene.signed(), other]);
    scene.check_signed().unwrap();
    assert_eq!(scene.registry.take_requests().len(), 3);
}

#[test]
fn where_no_signature_is_required_nothing_is_asked_for() {
    let scene = Scene::new();
    scene.check(json!([{"type": "insecureAcceptAnything"}])).unwrap();
    let rejected = scene.check(json!([{"type": "reject"}])).unwrap_err();
    assert!(matches!(rejected, Error::RegistryConfig(stos_config::Error::Rejected { .. })), "{rejected}");
    let both = scene.check(json!([scene.requirement(&scene.signer, json!({})), {"type": "reject"}])).unwrap_err();
    assert!(matches!(both, Error::RegistryConfig(stos_config::Error::Rejected { .. })), "{both}");
    let rekor = json!({"rekorPublicKeyData": STANDARD.encode(scene.signer.public_pem())});
    let rekor = scene.check(json!([scene.requirement(&scene.signer, rekor)])).unwrap_err();
    let unsupported = matches!(rekor, Error::RegistryConfig(stos_config::Error::UnsupportedRequirement { .. }));
    assert!(unsupported, "{rekor}");
    let key = json!([{"type": "sigstoreSigned", "keyData": STANDARD.encode("no key")}]);
    let Error::Policy(PolicyError::Key { place, found }) = scene.check(key).unwrap_err() else { panic!() };
    assert_eq!((place.to_string().as_str(), found.as_str()), ("/policy.json: default[0]", "none"));
    assert!(scene.registry.requests().is_empty());
}

#[test]
fn an_image_without_signatures_is_not_signed() {
    let scene = Scene::new();
    let unsigned = |scene: &Scene| match scene.check_signed().unwrap_err() {
        Error::Policy(PolicyError::Unsigned { image, place, manifest }) => {
            assert_eq!((image, manifest), (scene.image(), scene.manifest));
            assert_eq!(place.to_string(), "/policy.json: default[0]");
        }
        error => panic!("{error}"),
    };
    unsigned(&scene);
    scene.attach(&[]);
    unsigned(&scene);
    // What is no signature is not one, and is not fetched.
    scene.attach(&[Signature { media_type: "application/vnd.dsse.envelope.v1+json".into(), ..scene.signed() }]);
    scene.registry.take_requests();
    unsigned(&scene);
    assert_eq!(scene.registry.take_requests().len(), 1);
    // Those of another manifest lie elsewhere.
    signing::attach(&scene.registry, REPOSITORY, &BlobDigest::of(b"other").to_string(), &[scene.signed()]);
    unsigned(&scene);
}

#[test]
fn each_signature_that_does_not_hold_says_why() {
    let scene = Scene::new();
    let (image, manifest) = (scene.image(), scene.manifest.to_string());
    let no_key = SignatureFault::NoKey { keys: vec![Place::key(Path::new("/policy.json"), "default[0]")] };
    let other = Signer::new().sign(&image, &manifest);
    let tampered = Signature { payload: [&scene.signed().payload[..], b" "].concat(), ..scene.signed() };
    let swapped = Signature { annotation: other.annotation.clone(), ..scene.signed() };
    for signature in [other, tampered, swapped] {
        assert_eq!(scene.refused(&[signature]), slice::from_ref(&no_key));
    }
    let elsewhere = BlobDigest::of(b"other").to_string();
    let fault = SignatureFault::Manifest { found: elsewhere.clone() };
    assert_eq!(scene.refused(&[scene.signer.sign(&image, &elsewhere)]), [fault]);
    for claimed in ["r.example/other:1".to_owned(), image.replace(":1", ":2"), image.replace(":1", "")] {
        let fault = SignatureFault::Identity { expected: image.clone(), found: claimed.clone() };
        assert_eq!(scene.refused(&[scene.signer.sign(&claimed, &manifest)]), [fault]);
    }
    for payload in ["", "{}", "\u{1b}[2J", &signing::payload(&image, &manifest).replace("cosign", "atomic")] {
        let faults = scene.refused(&[scene.signer.sign_payload(payload)]);
        assert!(matches!(faults[..], [SignatureFault::Payload { .. }]), "{faults:?}");
    }
    assert_eq!(scene.refused(&[Signature { annotation: None, ..scene.signed() }]), [SignatureFault::Missing]);
    for annotation in ["", "AAEC", "no base64"] {
        let expected = if annotation == "no base64" { &SignatureFault::Encoding } else { &no_key };
        let signature = Signature { annotation: Some(annotation.to_owned()), ..scene.signed() };
        assert_eq!(scene.refused(&[signature]), slice::from_ref(expected));
    }
    let long = vec![b' '; PAYLOAD_MAX as usize + 1];
    let fault = SignatureFault::TooLong { size: PAYLOAD_MAX + 1, max: PAYLOAD_MAX };
    assert_eq!(scene.refused(&[scene.signer.sign_payload(long)]), [fault]);
    // One of the greatest length is read.
    let mut padded = signing::payload(&image, &manifest).into_bytes();
    padded.resize(PAYLOAD_MAX as usize, b' ');
    scene.attach(&[scene.signer.sign_payload(padded)]);
    scene.check_signed().unwrap();
    let several: Vec<_> = (0..7).map(|_| Signer::new().sign(&image, &manifest)).collect();
    scene.attach(&several);
    let told = scene.check_signed().unwrap_err().to_string();
    assert!(told.contains("and 2 more") && told.matches("none of the keys").count() == 5, "{told}");
}

#[test]
fn of_several_requirements_each_must_hold() {
    let scene = Scene::new();
    let reviewer = Signer::new();
    let matching = json!({"signedIdentity": {"type": "exactRepository", "dockerRepository": "review.example/ok"}});
    let requirements =
        json!([scene.requirement(&scene.signer, json!({})), scene.requirement(&reviewer, matching.clone())]);
    let reviewed = reviewer.sign("review.example/ok", &scene.manifest.to_string());
    scene.attach(&[reviewed.clone(), scene.signed()]);
    scene.check(requirements.clone()).unwrap();
    for (signatures, left) in [(vec![reviewed], "default[0]"), (vec![scene.signed()], "default[1]")] {
        scene.attach(&signatures);
        match scene.check(requirements.clone()).unwrap_err() {
            Error::Policy(PolicyError::NoneAccepted { place, refused, .. }) => {
                assert_eq!((place.key.as_str(), refused.len()), (left, 1));
            }
            error => panic!("{error}"),
        }
    }
    // Any of the keys of one requirement will do.
    let keys = [reviewer.public_pem(), scene.signer.public_pem()].map(|pem| STANDARD.encode(pem));
    scene.attach(&[scene.signed()]);
    scene.check(json!([{"type": "sigstoreSigned", "keyDatas": keys}])).unwrap();
}

#[test]
fn what_lies_where_signatures_should_is_believed_by_no_one() {
    let scene = Scene::new();
    let manifest = scene.manifest.to_string();
    let attach = |media_type: &str, document: &Value| {
        signing::attach_document(&scene.registry, REPOSITORY, &manifest, media_type, document);
    };
    let attachment = |scene: &Scene| match scene.check_signed().unwrap_err() {
        Error::Policy(PolicyError::Attachment { image, tag, expected, found }) => {
            assert_eq!((image, tag), (scene.image(), signing::tag(&manifest)));
            format!("{expected}: {found}")
        }
        error => panic!("{error}"),
    };
    let good = signing::manifest(&[scene.signed()]);
    attach("application/vnd.docker.distribution.manifest.v2+json", &good);
    assert!(attachment(&scene).contains("application/vnd.docker"));
    for broken in [json!([]), json!({}), json!({"layers": null}), json!({"layers": [{"mediaType": "x"}]})] {
        attach("application/vnd.oci.image.manifest.v1+json", &broken);
        assert!(attachment(&scene).starts_with("a manifest of signatures: "), "{broken}");
    }
    scene.attach(&vec![scene.signed(); SIGNATURES_MAX + 1]);
    assert_eq!(attachment(&scene), "at most 128 signatures: 129");
    scene.attach(&vec![scene.signed(); SIGNATURES_MAX]);
    scene.check_signed().unwrap();
}

#[test]
fn a_registry_that_fails_lets_nothing_in() {
    let scene = Scene::new();
    scene.attach(&[scene.signed()]);
    for (path, status) in [(".sig", 500), (".sig", 403), ("/blobs/", 403), ("/blobs/", 500)] {
        scene.registry.clear_rules();
        scene.registry.add_rule(Rule::on(path).fault(Fault::status(status)));
        let error = scene.check_signed().unwrap_err();
        assert!(matches!(error, Error::Registry(_)), "{path} {status}: {error}");
    }
    scene.registry.clear_rules();
    scene.check_signed().unwrap();
    // Bytes that are not the payload's are none.
    let mut descriptor = signing::manifest(&[scene.signed()]);
    descriptor["layers"][0]["digest"] = json!(scene.registry.put_blob(b"other".to_vec()));
    let manifest = scene.manifest.to_string();
    signing::attach_document(
        &scene.registry,
        REPOSITORY,
        &manifest,
        "application/vnd.oci.image.manifest.v1+json",
        &descriptor,
    );
    let Error::Policy(PolicyError::NoneAccepted { refused, .. }) = scene.check_signed().unwrap_err() else { panic!() };
    assert!(matches!(refused[0].reason, SignatureFault::Unavailable { .. }), "{refused:?}");
}

#[test]
fn a_payload_that_cannot_be_had_is_its_signatures_fault() {
    let scene = Scene::new();
    let absent = scene.signer.sign("r.example/absent", &scene.manifest.to_string());
    let path = format!("/blobs/{}", BlobDigest::of(&absent.payload));
    for fault in [Fault::status(404), Fault::Corrupt, Fault::Extra(1), Fault::Endless, Fault::ContentLength(3)] {
        scene.registry.clear_rules();
        scene.registry.add_rule(Rule::on(&path).fault(fault.clone()));
        let faults = scene.refused(slice::from_ref(&absent));
        assert!(matches!(&faults[..], [SignatureFault::Unavailable { .. }]), "{fault:?}: {faults:?}");
        // The one after it counts.
        scene.attach(&[absent.clone(), scene.signed()]);
        scene.check_signed().unwrap();
    }
    // What may pass is no fault of the signature.
    for fault in [Fault::status(503), Fault::Truncate(3), Fault::Reset(3)] {
        scene.registry.clear_rules();
        scene.registry.add_rule(Rule::on(&path).fault(fault.clone()));
        let error = scene.check_signed().unwrap_err();
        assert!(matches!(&error, Error::Registry(error) if error.is_transient()), "{fault:?}: {error}");
    }
}

#[test]
fn what_skopeo_signs_is_accepted() {
    let manifest: BlobDigest = MANIFEST.parse().unwrap();
    let requirement = |identity| Requirement {
        keys: vec![
            (Place::file(Path::new("/other.pub")), key(ED25519_KEY.0)),
            (Place::file(Path::new("/skopeo.pub")), key(SKOPEO.0)),
        ],
        identity,
        place: Place::key(Path::new("/policy.json"), "default[0]"),
    };
    let signature = STANDARD.decode(SKOPEO.1).unwrap();
    let accepts = |identity, image: &str, manifest| {
        let image: ImageRef = image.parse().unwrap();
        requirement(identity).accepts(PAYLOAD.as_bytes(), &signature, Some(&image), manifest).map(ToString::to_string)
    };
    let by = Ok("/skopeo.pub".to_owned());
    assert_eq!(accepts(SignedIdentity::default(), IMAGE, manifest), by);
    let by_digest = format!("127.0.0.1:5599/t/signed@{MANIFEST}");
    assert_eq!(accepts(SignedIdentity::default(), &by_digest, manifest), by);
    assert_eq!(accepts(SignedIdentity::MatchRepository, "127.0.0.1:5599/t/signed:2", manifest), by);
    let other = accepts(SignedIdentity::default(), "127.0.0.1:5599/t/signed:2", manifest);
    assert!(matches!(other, Err(SignatureFault::Identity { .. })));
    let other = accepts(SignedIdentity::default(), IMAGE, BlobDigest::of(b"other"));
    assert!(matches!(other, Err(SignatureFault::Manifest { .. })));
    // A file has no name that a signature could be for, unless the policy gives one.
    let of_file = |identity| {
        let requirement = requirement(identity);
        requirement.accepts(PAYLOAD.as_bytes(), &signature, None, manifest).is_ok()
    };
    assert!(!of_file(SignedIdentity::MatchRepository));
    assert!(of_file(SignedIdentity::ExactReference(IMAGE.parse().unwrap())));
}
