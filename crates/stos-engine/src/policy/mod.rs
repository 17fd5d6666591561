// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The signature policy: which images may come in. `stos-config` reads and weighs `policy.json`; here signatures are fetched and
//! checked.
//!
//! | module | what it is |
//! |---|---|
//! | `attachments` | where signatures are, and how they are fetched |
//! | `payload` | what they sign |
//! | `key` | public keys |
//! | `error` | why an image is not accepted |
//!
//! It is asked about each image that comes in from outside: of a registry by the name that it has there (a short name's candidate
//! in full), of files by their transport and path. What the policy accepts or rejects without a signature is decided before
//! anything is asked for; where it wants a signature, that is checked when the image's manifest is known, before its configuration
//! and its layers are. What is in the store was accepted when it came: nobody asks again, nor about what a repair fetches by a digest
//! that an accepted image has. What is made here (`import`, `commit`) comes from nobody.
//!
//! **Which manifest must be signed.** The one of the image itself, not the index that led to it: so podman does it (`copy.Image`
//! of containers/image asks `copySingleImage` about the chosen instance alone, which is what pulls; only a copy of the whole index,
//! `copyMultipleImages`, asks about the index too). `cosign sign` signs the index alone unless it is told `--recursive`.
//!
//! **When a requirement holds.** Where one signature is by one of its keys, for that manifest, and of an identity that it accepts
//! (`prSigstoreSigned.isRunningImageAllowed`); of a list of requirements each must, maybe by another signature
//! (`PolicyContext.IsRunningImageAllowed`).

mod attachments;
mod error;
#[cfg(test)]
mod fixture;
mod key;
mod payload;

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stos_config::policy::{PolicyImage, SignedIdentity, SigstoreSigned, Verdict};
use stos_config::{Environment, Place, Policy, SignatureStores};
use stos_registry::Registry;
use stos_spec::text::cut;
use stos_spec::{BlobDigest, ImageRef};

pub use self::error::{PolicyError, RefusedSignature, SignatureFault};

use self::attachments::{Attachments, PAYLOAD_MAX, Signature as Attached};
use self::key::PublicKey;
use self::payload::Payload;
use crate::error::Result;

/// What the files say, read when somebody asks.
#[derive(Debug, Default)]
pub(crate) struct PolicyFiles {
    policy: OnceLock<Policy>,
    stores: OnceLock<SignatureStores>,
}

impl PolicyFiles {
    /// Reads the policy. Where another thread was first, both have read the same.
    pub fn policy(&self, environment: impl FnOnce() -> Environment, option: Option<&Path>) -> Result<&Policy> {
        if let Some(policy) = self.policy.get() {
            return Ok(policy);
        }
        let policy = Policy::load(&environment(), option)?;
        Ok(self.policy.get_or_init(|| policy))
    }

    /// Reads where signatures are.
    pub fn stores(&self, environment: impl FnOnce() -> Environment) -> Result<&SignatureStores> {
        if let Some(stores) = self.stores.get() {
            return Ok(stores);
        }
        let stores = SignatureStores::load(&environment())?;
        Ok(self.stores.get_or_init(|| stores))
    }
}

/// Tells whether the registries of an image are asked for its signatures, and what says so: `use-sigstore-attachments` for the
/// image's name, or for one of the names that it is asked for by. podman goes by the name at the place that gives the image
/// (`newDockerClientFromRef` of containers/image); no name more can let anything in, for a signature is proved wherever it comes
/// from.
pub(crate) fn attachments_of<'a>(
    stores: &SignatureStores,
    image: &'a ImageRef,
    places: impl IntoIterator<Item = &'a ImageRef>,
) -> (bool, Option<Place>) {
    let own = stores.of(image).use_sigstore_attachments;
    if own.0 {
        return own;
    }
    let elsewhere = places.into_iter().map(|place| stores.of(place).use_sigstore_attachments);
    elsewhere.into_iter().find(|(are_used, _)| *are_used).unwrap_or(own)
}

/// What the signatures of one image must show before it is accepted: maybe nothing.
#[derive(Debug)]
pub(crate) struct Admission {
    image: String,
    reference: Option<ImageRef>,
    requirements: Vec<Requirement>,
}

/// A requirement whose keys have been read.
struct Requirement {
    keys: Vec<(Place, PublicKey)>,
    identity: SignedIdentity,
    place: Place,
}

impl fmt::Debug for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requirement").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Admission {
    /// Asks the policy about an image. The keys are read.
    ///
    /// # Errors
    /// [`stos_config::Error::Rejected`] and [`stos_config::Error::UnsupportedRequirement`]; [`PolicyError::Key`], or whatever keeps a
    /// key from being read.
    pub fn ask(policy: &Policy, image: &PolicyImage) -> Result<Self> {
        let decision = policy.decision(image);
        let requirements = match decision.verdict()? {
            Verdict::Accept => Vec::new(),
            Verdict::Signed(signed) => signed.into_iter().map(Requirement::read).collect::<Result<_>>()?,
        };
        if let Some(place) = decision.place {
            tracing::debug!(%image, %place, signatures = requirements.len(), "the policy lets it come");
        }
        Ok(Self { image: image.to_string(), reference: image.reference().cloned(), requirements })
    }

    /// Tells where a signature is required, if one is.
    pub fn required_by(&self) -> Option<&Place> {
        self.requirements.first().map(|requirement| &requirement.place)
    }

    /// Gives what errors call the image.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// Checks the signatures of the image's manifest. Where none is required nothing is asked for.
    ///
    /// # Errors
    /// [`PolicyError::Unsigned`], [`PolicyError::NoneAccepted`] of the first requirement that does not hold; [`PolicyError::Attachment`];
    /// those of the registry, but for that of a payload which is not there or is something else.
    pub fn check(&self, registry: &Registry, repository: &str, manifest: BlobDigest) -> Result<()> {
        if self.requirements.is_empty() {
            return Ok(());
        }
        let attachments = Attachments::of(registry, repository, &self.image, manifest);
        let mut left: Vec<(&Requirement, Vec<RefusedSignature>)> =
            self.requirements.iter().map(|requirement| (requirement, Vec::new())).collect();
        for signature in attachments.signatures()? {
            self.weigh(&attachments, &signature, manifest, &mut left)?;
            if left.is_empty() {
                return Ok(());
            }
        }
        let Some((requirement, refused)) = left.into_iter().next() else { return Ok(()) };
        let (image, place) = (self.image.clone(), requirement.place.clone());
        Err(match refused.is_empty() {
            true => PolicyError::Unsigned { image, place, manifest },
            false => PolicyError::NoneAccepted { image, place, manifest, refused },
        }
        .into())
    }

    /// Takes away the requirements that a signature meets, and tells the others why it does not.
    fn weigh(
        &self,
        attachments: &Attachments<'_>,
        signature: &Attached,
        manifest: BlobDigest,
        left: &mut Vec<(&Requirement, Vec<RefusedSignature>)>,
    ) -> Result<()> {
        let proof = match decoded(signature) {
            Ok(bytes) => attachments.payload(signature)?.map(|payload| (payload, bytes)),
            Err(reason) => Err(reason),
        };
        left.retain_mut(|(requirement, refused)| {
            let weighed = match &proof {
                Ok((payload, bytes)) => requirement.accepts(payload.get(), bytes, self.reference.as_ref(), manifest),
                Err(reason) => Err(reason.clone()),
            };
            match weighed {
                Ok(key) => {
                    tracing::debug!(image = %self.image, requirement = %requirement.place, %key, "signed");
                    false
                }
                Err(reason) => {
                    refused.push(RefusedSignature { payload: signature.payload.digest, reason });
                    true
                }
            }
        });
        Ok(())
    }
}

/// Gives the bytes of a signature whose payload can be fetched.
fn decoded(signature: &Attached) -> std::result::Result<Vec<u8>, SignatureFault> {
    let encoded = signature.encoded.as_ref().ok_or(SignatureFault::Missing)?;
    if signature.payload.size > PAYLOAD_MAX {
        return Err(SignatureFault::TooLong { size: signature.payload.size, max: PAYLOAD_MAX });
    }
    STANDARD.decode(encoded).map_err(|_| SignatureFault::Encoding)
}

impl Requirement {
    fn read(signed: &SigstoreSigned) -> Result<Self> {
        let read = |(place, pem): (Place, Vec<u8>)| match PublicKey::from_pem(&pem) {
            Ok(key) => Ok((place, key)),
            Err(found) => Err(PolicyError::Key { place, found }.into()),
        };
        let keys = signed.keys.read(&signed.place)?.into_iter().map(read).collect::<Result<_>>()?;
        Ok(Self { keys, identity: signed.identity.clone(), place: signed.place.clone() })
    }

    /// Tells whether a signature is the one that is required, and gives the place of the key that has made it. What is not signed by
    /// one of the keys is not even read.
    fn accepts(
        &self,
        payload: &[u8],
        signature: &[u8],
        image: Option<&ImageRef>,
        manifest: BlobDigest,
    ) -> std::result::Result<&Place, SignatureFault> {
        let signer = self.keys.iter().find(|(_, key)| key.has_signed(payload, signature));
        let no_key = || SignatureFault::NoKey { keys: self.keys.iter().map(|(place, _)| place.clone()).collect() };
        let (signer, _) = signer.ok_or_else(no_key)?;
        let payload = Payload::parse(payload).map_err(|reason| SignatureFault::Payload { reason: cut(&reason) })?;
        if payload.manifest != manifest.to_string() {
            return Err(SignatureFault::Manifest { found: cut(&payload.manifest) });
        }
        if !self.identity.accepts(image, &payload.identity) {
            return Err(SignatureFault::Identity {
                expected: self.identity.expected(image),
                found: cut(&payload.identity),
            });
        }
        Ok(signer)
    }
}

#[cfg(test)]
mod tests;
