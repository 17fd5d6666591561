// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where sigstore signatures are: beside the manifest, in its repository, under a tag that its digest makes.
//!
//! cosign has begun it (SIGNATURE_SPEC.md), containers/image reads it (`getSigstoreAttachmentManifest`,
//! `appendSignaturesFromSigstoreAttachments`): the tag `sha256-HEX.sig` is an OCI image manifest of which each layer of
//! [`SIMPLE_SIGNING`] is a signature: the blob is what is signed, an annotation of the descriptor holds the signature. Other layers,
//! such as attestations, are none. The manifest itself is believed by no one: each signature proves its payload.

use serde::Deserialize;
use stos_registry::{Error as RegistryError, Registry};
use stos_spec::manifest::Descriptor;
use stos_spec::media_type::OCI_MANIFEST;
use stos_spec::text::{cut, shown};
use stos_spec::{BlobDigest, Verified};

use super::error::{PolicyError, SignatureFault};
use crate::error::Result;

/// The media type of a payload.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation that holds a signature, in base64.
pub(super) const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// How many signatures of an image are looked at; more are an error.
pub(super) const SIGNATURES_MAX: usize = 128;
/// The most bytes of a payload that are read.
pub(super) const PAYLOAD_MAX: u64 = 1 << 20;

/// A signature as it lies in a registry. Nothing of it is proved.
pub(super) struct Signature {
    /// What is signed.
    pub payload: Descriptor,
    /// The signature in base64, if it is there.
    pub encoded: Option<String>,
}

/// The signatures of one manifest.
pub(super) struct Attachments<'a> {
    registry: &'a Registry,
    repository: &'a str,
    image: &'a str,
    tag: String,
}

/// As much of the manifest as counts.
#[derive(Deserialize)]
struct Document {
    layers: Vec<Descriptor>,
}

impl<'a> Attachments<'a> {
    /// Prepares to ask for what belongs to a manifest of `repository`; `image` is what errors call it.
    pub fn of(registry: &'a Registry, repository: &'a str, image: &'a str, manifest: BlobDigest) -> Self {
        Self { registry, repository, image, tag: format!("sha256-{}.sig", manifest.hex()) }
    }

    /// Asks for the signatures. There may be none.
    ///
    /// # Errors
    /// Those of the registry, but for that there is no such tag; [`PolicyError::Attachment`].
    pub fn signatures(&self) -> Result<Vec<Signature>> {
        let fetched = match self.registry.fetch_attached(self.repository, &self.tag) {
            Ok(fetched) => fetched,
            Err(error) if is_not_found(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let content_type = fetched.content_type.as_deref().unwrap_or("no media type");
        if content_type.split(';').next().map(str::trim) != Some(OCI_MANIFEST) {
            return Err(self.refuse(OCI_MANIFEST, shown(content_type)).into());
        }
        let document: Document = serde_json::from_slice(fetched.bytes.get())
            .map_err(|error| self.refuse("a manifest of signatures", shown(&error.to_string())))?;
        let signatures = document.layers.into_iter().filter(|layer| layer.media_type == SIMPLE_SIGNING);
        let signatures: Vec<Signature> = signatures
            .map(|mut payload| Signature { encoded: payload.annotations.remove(ANNOTATION), payload })
            .collect();
        if signatures.len() > SIGNATURES_MAX {
            return Err(PolicyError::too_many(self.image, &self.tag, signatures.len()).into());
        }
        Ok(signatures)
    }

    /// Fetches what a signature signs, which has at most [`PAYLOAD_MAX`] bytes. That it is not there, or something else, is a fault of this
    /// signature alone.
    ///
    /// # Errors
    /// All others of the registry.
    pub fn payload(&self, signature: &Signature) -> Result<std::result::Result<Verified<Vec<u8>>, SignatureFault>> {
        match self.registry.fetch_blob_bytes(self.repository, &signature.payload, PAYLOAD_MAX) {
            Ok(payload) => Ok(Ok(payload)),
            Err(error) if is_not_found(&error) || is_other(&error) => {
                Ok(Err(SignatureFault::Unavailable { reason: cut(&error.to_string()) }))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn refuse(&self, expected: &str, found: String) -> PolicyError {
        let (image, tag) = (self.image.to_owned(), self.tag.clone());
        PolicyError::Attachment { image, tag, expected: expected.to_owned(), found: cut(&found) }
    }
}

/// Tells whether nobody who was asked has it. A mirror without it is passed over, so the registry's own word counts.
fn is_not_found(error: &RegistryError) -> bool {
    match error {
        RegistryError::NotFound { .. } => true,
        RegistryError::AllEndpoints { last, .. } => is_not_found(last),
        _ => false,
    }
}

/// Tells whether something else lies where it was asked for.
fn is_other(error: &RegistryError) -> bool {
    match error {
        RegistryError::DigestMismatch { .. } | RegistryError::SizeMismatch { .. } | RegistryError::TooLong { .. } => {
            true
        }
        RegistryError::AllEndpoints { last, .. } => is_other(last),
        _ => false,
    }
}
