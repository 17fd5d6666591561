// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `signedIdentity`: whether what a signature claims to be for is the image that is wanted.

use stos_spec::ImageRef;

use crate::names::{Written, canonical};

/// Which identity a signature must claim (containers-policy.json(5), `signedIdentity`).
///
/// The image's reference counts as podman has it: with a digest its tag is only a note.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SignedIdentity {
    /// The image's, tag and digest included.
    MatchExact,
    /// The image's, and with a digest any of its repository: the digest is proved anyway.
    #[default]
    MatchRepoDigestOrExact,
    /// Any of the image's repository.
    MatchRepository,
    /// This one, whatever the image is called.
    ExactReference(ImageRef),
    /// Any of this repository, whatever the image is called: `registry/repository`.
    ExactRepository(String),
    /// As [`MatchRepoDigestOrExact`](Self::MatchRepoDigestOrExact), with a prefix of the image's name replaced.
    RemapIdentity {
        /// What the name must begin with; another name stays as it is.
        prefix: String,
        /// What takes its place.
        signed_prefix: String,
    },
}

impl SignedIdentity {
    /// Tells whether a signature that claims `claimed` is for an image. `image` is `None` where the image has no name in a
    /// registry: then only the two kinds that name their own hold.
    ///
    /// What is no reference is claimed by no one. cosign claims repositories without a tag, which only
    /// [`MatchRepository`](Self::MatchRepository) and [`ExactRepository`](Self::ExactRepository) take.
    pub fn accepts(&self, image: Option<&ImageRef>, claimed: &str) -> bool {
        let Ok(claimed) = Written::parse(claimed) else { return false };
        let same_repository = |name: &str| claimed.reference.name() == name;
        match (self, image) {
            (Self::ExactReference(wanted), _) => is_exactly(wanted, &claimed),
            (Self::ExactRepository(wanted), _) => same_repository(wanted),
            (_, None) => false,
            (Self::MatchExact, Some(image)) => is_exactly(image, &claimed),
            (Self::MatchRepository, Some(image)) => same_repository(&image.name()),
            (Self::MatchRepoDigestOrExact, Some(image)) => is_exactly_or_by_digest(image, &claimed),
            (Self::RemapIdentity { prefix, signed_prefix }, Some(image)) => {
                let remapped = remapped(image, prefix, signed_prefix);
                remapped.is_some_and(|image| is_exactly_or_by_digest(&image, &claimed))
            }
        }
    }

    /// Says for people what a signature of an image must claim.
    pub fn expected(&self, image: Option<&ImageRef>) -> String {
        let any_of = |name: &str| format!("any image of {name}");
        let exactly_or_by_digest = |image: &ImageRef| match image.digest() {
            Some(_) => any_of(&image.name()),
            None => canonical(image),
        };
        match (self, image) {
            (Self::ExactReference(wanted), _) => canonical(wanted),
            (Self::ExactRepository(wanted), _) => any_of(wanted),
            (_, None) => "an identity that is named in the policy".to_owned(),
            (Self::MatchExact, Some(image)) => canonical(image),
            (Self::MatchRepository, Some(image)) => any_of(&image.name()),
            (Self::MatchRepoDigestOrExact, Some(image)) => exactly_or_by_digest(image),
            (Self::RemapIdentity { prefix, signed_prefix }, Some(image)) => {
                let nothing = || format!("{image} with {signed_prefix} for {prefix}, which is no image");
                remapped(image, prefix, signed_prefix).map_or_else(nothing, |image| exactly_or_by_digest(&image))
            }
        }
    }
}

/// Compares repositories, tags and digests; a claim of neither tag nor digest is for no image.
fn is_exactly(wanted: &ImageRef, claimed: &Written) -> bool {
    let tag = wanted.tag().filter(|_| wanted.digest().is_none());
    let same = claimed.reference.name() == wanted.name() && claimed.digest() == wanted.digest() && claimed.tag() == tag;
    same && !claimed.is_name_only()
}

fn is_exactly_or_by_digest(wanted: &ImageRef, claimed: &Written) -> bool {
    match wanted.digest() {
        Some(_) => !claimed.is_name_only() && claimed.reference.name() == wanted.name(),
        None => is_exactly(wanted, claimed),
    }
}

/// Replaces a prefix that ends where a host, a namespace or a repository does. `None` where the result is no reference.
fn remapped(image: &ImageRef, prefix: &str, signed_prefix: &str) -> Option<ImageRef> {
    let name = image.name();
    let Some(rest) = name.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return Some(image.clone());
    };
    let separator = if image.digest().is_some() { '@' } else { ':' };
    let written = Written::parse(&format!("{signed_prefix}{rest}{separator}{}", image.target())).ok()?;
    (!written.reference.is_short()).then_some(written.reference)
}

#[cfg(test)]
mod tests {
    use stos_spec::BlobDigest;

    use super::*;

    /// Which of the claims an identity takes for an image, as one letter each.
    fn taken(identity: &SignedIdentity, image: &str) -> String {
        let digest = BlobDigest::of(b"");
        let other = BlobDigest::of(b"other");
        let claims = [
            ('t', "r.example/ns/a:1".to_owned()),
            ('u', "r.example/ns/a:2".to_owned()),
            ('n', "r.example/ns/a".to_owned()),
            ('d', format!("r.example/ns/a@{digest}")),
            ('e', format!("r.example/ns/a@{other}")),
            ('b', format!("r.example/ns/a:1@{digest}")),
            ('o', "r.example/ns/b:1".to_owned()),
            ('s', "vendor.example/a:1".to_owned()),
            ('h', "r.example.evil/ns/a:1".to_owned()),
            ('x', "not a reference".to_owned()),
            ('z', String::new()),
        ];
        let image = (!image.is_empty()).then(|| image.replace("DIGEST", &digest.to_string()).parse().unwrap());
        let taken = claims.iter().filter(|(_, claim)| identity.accepts(image.as_ref(), claim));
        taken.map(|(letter, _)| *letter).collect()
    }

    #[test]
    fn identities_take_what_upstream_takes() {
        use SignedIdentity::*;
        let remap = |prefix: &str, signed: &str| RemapIdentity { prefix: prefix.into(), signed_prefix: signed.into() };
        let (tag, digest, both) = ("r.example/ns/a:1", "r.example/ns/a@DIGEST", "r.example/ns/a:1@DIGEST");
        for (identity, image, expected) in [
            (MatchExact, tag, "t"),
            (MatchExact, digest, "d"),
            (MatchExact, both, "d"),
            (MatchRepoDigestOrExact, tag, "t"),
            (MatchRepoDigestOrExact, digest, "tudeb"),
            (MatchRepoDigestOrExact, both, "tudeb"),
            (MatchRepository, tag, "tundeb"),
            (MatchRepository, digest, "tundeb"),
            (MatchExact, "", ""),
            (MatchRepoDigestOrExact, "", ""),
            (MatchRepository, "", ""),
            (remap("r.example", "r.example"), "", ""),
            (ExactReference(tag.parse().unwrap()), "", "t"),
            (ExactReference(tag.parse().unwrap()), "other.example/x:7", "t"),
            (ExactRepository("r.example/ns/a".into()), "", "tundeb"),
            (ExactRepository("r.example/ns/a".into()), "other.example/x:7", "tundeb"),
            (remap("r.example/ns", "vendor.example"), tag, "s"),
            (remap("r.example/ns/a", "vendor.example/a"), tag, "s"),
            (remap("r.example/n", "vendor.example"), tag, "t"),
            (remap("elsewhere.example", "vendor.example"), tag, "t"),
            (remap("r.example/ns", "UPPER/x/"), tag, ""),
            (remap("r.example/ns", "short"), tag, ""),
            (remap("mirror.example", "r.example"), "mirror.example/ns/a@DIGEST", "tudeb"),
        ] {
            assert_eq!(taken(&identity, image), expected, "{identity:?} {image}");
        }
    }

    #[test]
    fn what_is_expected_is_said() {
        use SignedIdentity::*;
        let remap = |prefix: &str, signed: &str| RemapIdentity { prefix: prefix.into(), signed_prefix: signed.into() };
        let tag: ImageRef = "r.example/ns/a:1".parse().unwrap();
        let digest: ImageRef = format!("r.example/ns/a:1@{}", BlobDigest::of(b"")).parse().unwrap();
        for (identity, image, expected) in [
            (MatchExact, &tag, "r.example/ns/a:1"),
            (MatchRepoDigestOrExact, &tag, "r.example/ns/a:1"),
            (MatchRepoDigestOrExact, &digest, "any image of r.example/ns/a"),
            (MatchRepository, &tag, "any image of r.example/ns/a"),
            (ExactReference("v.example/x:2".parse().unwrap()), &tag, "v.example/x:2"),
            (ExactRepository("v.example/x".into()), &tag, "any image of v.example/x"),
            (remap("r.example", "v.example"), &tag, "v.example/ns/a:1"),
            (remap("r.example", "v.example"), &digest, "any image of v.example/ns/a"),
        ] {
            assert_eq!(identity.expected(Some(image)), expected, "{identity:?}");
        }
        assert!(MatchExact.expected(None).contains("named in the policy"));
        assert!(remap("r.example/ns", "short").expected(Some(&tag)).contains("no image"));
    }

    #[test]
    fn docker_hub_has_one_name() {
        let image: ImageRef = "alpine:3".parse().unwrap();
        assert!(SignedIdentity::MatchExact.accepts(Some(&image), "docker.io/library/alpine:3"));
        assert!(SignedIdentity::MatchExact.accepts(Some(&image), "index.docker.io/library/alpine:3"));
    }
}
