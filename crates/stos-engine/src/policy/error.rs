// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Why an image is not accepted though the policy does not reject it: its signatures are not what is required.

use std::fmt;

use stos_config::Place;
use stos_spec::BlobDigest;

use super::attachments::SIGNATURES_MAX;
use super::key;

/// What is wrong with the signatures of an image, or with how they are to be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A signature is required, and none is there.
    #[error("{image} is not accepted: {place} requires a sigstore signature, and manifest {manifest} has none")]
    Unsigned {
        /// The image.
        image: String,
        /// The requirement.
        place: Place,
        /// The manifest that should be signed.
        manifest: BlobDigest,
    },
    /// Signatures are there, and none of them is the one that is required.
    #[error(
        "{image} is not accepted: {place} requires a sigstore signature of manifest {manifest}: {}",
        listed(refused)
    )]
    NoneAccepted {
        /// The image.
        image: String,
        /// The requirement.
        place: Place,
        /// The manifest that should be signed.
        manifest: BlobDigest,
        /// The signatures, each with why it is not the one.
        refused: Vec<RefusedSignature>,
    },
    /// A signature is required, and the registry is not to be asked for any.
    #[error(
        "{image} is not accepted: {place} requires a sigstore signature, and registries.d does not have registries asked for \
         those of this image{}", said_by.as_ref().map(|place| format!(" ({place})")).unwrap_or_default()
    )]
    NotLookedFor {
        /// The image.
        image: String,
        /// The requirement.
        place: Place,
        /// What turns it off; `None` where nothing turns it on.
        said_by: Option<Place>,
    },
    /// A signature is required of what comes from files, where stos looks for none.
    #[error(
        "{image} is not accepted: {place} requires a sigstore signature, and stos looks for those in registries alone"
    )]
    InFiles {
        /// The image.
        image: String,
        /// The requirement.
        place: Place,
    },
    /// A key of a requirement cannot be checked with.
    #[error("{place}: expected {}, found {found}", key::EXPECTED)]
    Key {
        /// The file, or the requirement that holds the key.
        place: Place,
        /// What it is instead.
        found: String,
    },
    /// What lies where an image's signatures should is something else.
    #[error("{image} is not accepted: its signatures at {tag}: expected {expected}, found {found}")]
    Attachment {
        /// The image.
        image: String,
        /// The tag that they lie under, in the image's repository.
        tag: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
}

impl PolicyError {
    /// Gives a hint for people, where there is something that they can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotLookedFor { .. } => Some(
                "set use-sigstore-attachments: true for the image's registry or repository in a file of \
                 /etc/containers/registries.d: containers-registries.d(5)",
            ),
            Self::InFiles { .. } => Some("pull it from a registry that has its signatures"),
            Self::NoneAccepted { refused, .. } if refused.iter().any(RefusedSignature::is_of_identity) => Some(
                "signedIdentity says which identities are accepted; cosign signs repositories, which matchRepository takes",
            ),
            Self::Unsigned { .. } => Some("the image's own manifest must be signed, not an index alone"),
            _ => None,
        }
    }

    pub(super) fn too_many(image: &str, tag: &str, found: usize) -> Self {
        let (expected, found) = (format!("at most {SIGNATURES_MAX} signatures"), found.to_string());
        Self::Attachment { image: image.to_owned(), tag: tag.to_owned(), expected, found }
    }
}

/// A signature that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSignature {
    /// What it signs: the payload, whose digest tells it from others.
    pub payload: BlobDigest,
    /// Why it does not count.
    pub reason: SignatureFault,
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureFault {
    /// It is not there: only what it would sign is.
    #[error("the annotation {ANNOTATION:?} is missing", ANNOTATION = super::attachments::ANNOTATION)]
    Missing,
    /// It is not written in base64.
    #[error("it is not in base64")]
    Encoding,
    /// What it signs is longer than any payload.
    #[error("it signs {size} bytes, expected at most {max}")]
    TooLong {
        /// How many bytes it signs.
        size: u64,
        /// How many are read.
        max: u64,
    },
    /// What it signs is not where it should be, or is not what its digest says.
    #[error("its payload cannot be had: {reason}")]
    Unavailable {
        /// What the registry gives instead, cut.
        reason: String,
    },
    /// None of the keys has made it, or what it signs has been changed since.
    #[error("it is by none of the keys of {}", places(keys))]
    NoKey {
        /// Where the keys are.
        keys: Vec<Place>,
    },
    /// One of the keys has signed something that is no signature of an image.
    #[error("its payload cannot be used: {reason}")]
    Payload {
        /// Which rule it breaks, cut.
        reason: String,
    },
    /// It is for another manifest.
    #[error("it is for manifest {found:?}")]
    Manifest {
        /// The one that it is for, as it is written there, cut.
        found: String,
    },
    /// It is for an image of another name.
    #[error("it is for {found:?}, expected {expected}")]
    Identity {
        /// What is accepted.
        expected: String,
        /// What it is for, cut.
        found: String,
    },
}

impl RefusedSignature {
    fn is_of_identity(&self) -> bool {
        matches!(self.reason, SignatureFault::Identity { .. })
    }
}

impl fmt::Display for RefusedSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the signature of payload {}: {}", &self.payload.hex()[..12], self.reason)
    }
}

/// How many signatures an error tells of.
const TOLD_MAX: usize = 5;

fn listed(refused: &[RefusedSignature]) -> String {
    let mut told: Vec<String> = refused.iter().take(TOLD_MAX).map(ToString::to_string).collect();
    if refused.len() > TOLD_MAX {
        told.push(format!("and {} more", refused.len() - TOLD_MAX));
    }
    told.join("; ")
}

fn places(keys: &[Place]) -> String {
    let mut places: Vec<String> = keys.iter().map(ToString::to_string).collect();
    places.dedup();
    places.join(", ")
}
