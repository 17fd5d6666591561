// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sigstore signatures of images, as cosign and containers/image lay them beside a manifest: keys, payloads, and the tag
//! `sha256-HEX.sig` in a registry.
//!
//! The same is made by `skopeo copy --sign-by-sigstore-private-key`, which not every distribution has built with it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};
use serde_json::{Value, json};

use crate::image_builder::{Blob, digest};
use crate::registry::Registry;

/// The media type of what is signed.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation that holds the signature.
pub const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A private key on P-256.
#[derive(Debug)]
pub struct Signer(KeyPair);

impl Default for Signer {
    fn default() -> Self {
        Self::new()
    }
}

impl Signer {
    /// Makes one.
    ///
    /// # Panics
    /// Where the system has no randomness.
    pub fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key can be made"))
    }

    /// Gives its public key, as `keyPath` of policy.json takes it.
    pub fn public_pem(&self) -> String {
        self.0.public_key_pem()
    }

    /// Signs a manifest as an image.
    pub fn sign(&self, identity: &str, manifest: &str) -> Signature {
        self.sign_payload(payload(identity, manifest))
    }

    /// Signs whatever it is given.
    ///
    /// # Panics
    /// Where the system has no randomness.
    pub fn sign_payload(&self, payload: impl Into<Vec<u8>>) -> Signature {
        let payload = payload.into();
        let signature = self.0.sign(&payload).expect("a key can sign");
        Signature { annotation: Some(STANDARD.encode(signature)), media_type: SIMPLE_SIGNING.to_owned(), payload }
    }
}

/// A signature, or something in its place.
#[derive(Debug, Clone)]
pub struct Signature {
    /// What is signed.
    pub payload: Vec<u8>,
    /// The signature.
    pub annotation: Option<String>,
    /// What the payload is called.
    pub media_type: String,
}

/// Gives what a signature of a manifest signs.
pub fn payload(identity: &str, manifest: &str) -> String {
    let critical = json!({
        "identity": {"docker-reference": identity},
        "image": {"docker-manifest-digest": manifest},
        "type": "cosign container image signature",
    });
    json!({"critical": critical, "optional": {"creator": "stos-testkit"}}).to_string()
}

/// Gives the tag that the signatures of a manifest lie under.
pub fn tag(manifest: &str) -> String {
    format!("{}.sig", manifest.replace(':', "-"))
}

/// Gives the manifest that holds signatures.
pub fn manifest(signatures: &[Signature]) -> Value {
    let layers = signatures.iter().map(|signature| {
        let mut descriptor = Blob::new(&signature.media_type, signature.payload.clone()).descriptor();
        if let Some(annotation) = &signature.annotation {
            descriptor["annotations"] = json!({ ANNOTATION: annotation });
        }
        descriptor
    });
    let config = json!({"mediaType": OCI_CONFIG, "digest": digest(b"{}"), "size": 2});
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers.collect::<Vec<_>>()})
}

/// Lays signatures beside a manifest of a registry, in place of those that were there.
pub fn attach(registry: &Registry, repository: &str, manifest: &str, signatures: &[Signature]) {
    for signature in signatures {
        registry.put_blob(signature.payload.clone());
    }
    registry.put_blob(b"{}".to_vec());
    attach_document(registry, repository, manifest, OCI_MANIFEST, &self::manifest(signatures));
}

/// Lays a document where the signatures of a manifest are expected.
pub fn attach_document(registry: &Registry, repository: &str, manifest: &str, media_type: &str, document: &Value) {
    registry.put_manifest(repository, Some(&tag(manifest)), media_type, document.to_string().as_bytes());
}
