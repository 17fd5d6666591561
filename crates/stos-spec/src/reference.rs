// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Image references, as people write them and as registries need them.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{BlobDigest, DigestError};
use crate::text::cut;

/// The registry of a reference that names none, as in docker and podman.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of a reference that names neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";

/// A reference that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// There is nothing.
    #[error("the image reference is empty")]
    Empty,
    /// A transport that this command cannot read.
    #[error("image reference {reference:?}: the transport {transport:?} is not supported here")]
    UnsupportedTransport {
        /// The reference as given.
        reference: String,
        /// What stands before its colon.
        transport: String,
    },
    /// The registry is no host with an optional port.
    #[error(
        "image reference {reference:?}: {found:?} is no registry: expected a host name or address, and maybe a port"
    )]
    Registry {
        /// The reference as given.
        reference: String,
        /// The part that is wrong.
        found: String,
    },
    /// The repository breaks the grammar of the distribution specification.
    #[error(
        "image reference {reference:?}: {found:?} is no repository: expected lower-case words of letters and digits, \
         joined by '.', '_', '__' or '-', separated by '/', at most 255 bytes in all"
    )]
    Repository {
        /// The reference as given.
        reference: String,
        /// The part that is wrong.
        found: String,
    },
    /// The tag breaks the grammar of the distribution specification.
    #[error(
        "image reference {reference:?}: {found:?} is no tag: expected at most 128 letters, digits, '_', '.' and '-', \
         the first neither '.' nor '-'"
    )]
    Tag {
        /// The reference as given.
        reference: String,
        /// The part that is wrong.
        found: String,
    },
    /// The digest cannot be used.
    #[error("image reference {reference:?}: {source}")]
    Digest {
        /// The reference as given.
        reference: String,
        /// What is wrong with its digest.
        source: DigestError,
    },
}

/// An image in a registry: `registry/repository[:tag][@digest]`, normalised.
///
/// A short name is completed as docker does: `alpine` is `docker.io/library/alpine:latest`. Where there is a digest it
/// alone decides which image is meant, and the tag is only a note (as in podman).
///
/// How it was written does not count: `alpine` equals `docker.io/library/alpine:latest`.
#[derive(Debug, Clone)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<BlobDigest>,
    written: Written,
}

/// How much of its name a reference was written with.
#[derive(Debug, Clone, Copy)]
enum Written {
    /// Registry and repository.
    Full,
    /// The repository.
    Short,
    /// The repository without the `library/` that was put before it.
    ShortInLibrary,
}

impl ImageRef {
    /// Gives what a reference is compared by.
    fn key(&self) -> (&str, &str, Option<&str>, Option<BlobDigest>) {
        (&self.registry, &self.repository, self.tag.as_deref(), self.digest)
    }

    /// Gives the registry: a host, and maybe a port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Gives the repository within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Gives the tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Gives the digest, if there is one.
    pub fn digest(&self) -> Option<BlobDigest> {
        self.digest
    }

    /// Tells whether the reference was written without a registry.
    pub fn is_short(&self) -> bool {
        !matches!(self.written, Written::Full)
    }

    /// Gives the repository as it was written, where that was without a registry: `alpine`, `team/app`.
    pub fn short_name(&self) -> Option<&str> {
        match self.written {
            Written::Full => None,
            Written::Short => Some(&self.repository),
            Written::ShortInLibrary => self.repository.strip_prefix("library/"),
        }
    }

    /// Gives what the registry is asked for: the digest, or else the tag.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Gives `registry/repository`, without tag or digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Tells whether `self`, written short, may mean `full`: same tag, and its repository is the end of the other's.
    ///
    /// `deb:12` may mean `127.0.0.1:5000/deb:12`, as it does for podman where only one local image fits.
    pub fn may_mean(&self, full: &Self) -> bool {
        let wanted = self.repository.strip_prefix("library/").unwrap_or(&self.repository);
        let fits = full.repository == wanted || full.repository.ends_with(&format!("/{wanted}"));
        self.is_short() && fits && self.tag == full.tag && (self.digest.is_none() || self.digest == full.digest)
    }
}

impl PartialEq for ImageRef {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ImageRef {}

impl PartialOrd for ImageRef {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ImageRef {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl Hash for ImageRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let reference = || cut(text);
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let rest = without_transport(text)?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|source| ReferenceError::Digest { reference: reference(), source });
                (rest, Some(digest?))
            }
            None => (rest, None),
        };
        // A colon after the last slash starts a tag; before it, a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(found) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag { reference: reference(), found: cut(found) });
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if looks_like_host(first) => (Some(first), rest),
            _ => (None, name),
        };
        if let Some(found) = registry.filter(|registry| !is_host_and_port(registry)) {
            return Err(ReferenceError::Registry { reference: reference(), found: cut(found) });
        }
        let is_docker_hub = registry.is_none_or(|name| matches!(name, DEFAULT_REGISTRY | "index.docker.io"));
        let registry = if is_docker_hub { DEFAULT_REGISTRY } else { registry.unwrap_or(DEFAULT_REGISTRY) };
        let in_library = is_docker_hub && !repository.contains('/');
        let repository = if in_library { format!("library/{repository}") } else { repository.to_owned() };
        if !is_repository(&repository) || registry.len() + repository.len() > 255 {
            return Err(ReferenceError::Repository { reference: reference(), found: cut(&repository) });
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        let written = match name.split_once('/') {
            Some((first, _)) if looks_like_host(first) => Written::Full,
            Some(_) => Written::Short,
            None => Written::ShortInLibrary,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest, written })
    }
}

/// Drops skopeo's `docker://`, and refuses the transports of the field that are not registries.
fn without_transport(text: &str) -> Result<&str, ReferenceError> {
    /// Words that are short names of Docker Hub as well: `oci:1.0`. A path has a slash, or a dot first.
    const MAYBE_NAMES: [&str; 2] = ["oci", "dir"];
    const OTHERS: [&str; 4] = ["oci-archive", "docker-archive", "docker-daemon", "containers-storage"];
    if let Some(rest) = text.strip_prefix("docker://") {
        return Ok(rest);
    }
    match text.split_once(':') {
        Some((transport, rest))
            if OTHERS.contains(&transport)
                || MAYBE_NAMES.contains(&transport) && (rest.contains('/') || rest.starts_with('.')) =>
        {
            Err(ReferenceError::UnsupportedTransport { reference: cut(text), transport: transport.to_owned() })
        }
        _ => Ok(text),
    }
}

/// Tells a registry from the first word of a repository, by docker's rule.
fn looks_like_host(word: &str) -> bool {
    word.contains(['.', ':']) || word == "localhost" || word.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => return address.parse::<std::net::Ipv6Addr>().is_ok(),
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port.strip_prefix(':')),
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("1")),
        },
    };
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        !label.is_empty() && label.len() <= 63 && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    let port_is_good =
        port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0) && !port.starts_with('+'));
    host.split('.').all(label) && port_is_good
}

fn is_repository(text: &str) -> bool {
    text.split('/').all(is_repository_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` (distribution-spec, "Pulling manifests").
fn is_repository_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_well = bytes.first().copied().is_some_and(is_word) && bytes.last().copied().is_some_and(is_word);
    let good_bytes = bytes.iter().all(|&byte| is_word(byte) || b"._-".contains(&byte));
    let good_joins = text
        .split(|c: char| c.is_ascii_alphanumeric())
        .filter(|join| !join.is_empty())
        .all(|join| matches!(join, "." | "_" | "__") || join.bytes().all(|byte| byte == b'-'));
    ends_well && good_bytes && good_joins
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&text.len())
        && is_word(text.as_bytes()[0])
        && text.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

impl Serialize for ImageRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_reference_was_written_does_not_count() {
        let short: ImageRef = "alpine".parse().unwrap();
        let full: ImageRef = "docker.io/library/alpine:latest".parse().unwrap();
        assert!(short.is_short() && !full.is_short());
        assert_eq!((short.short_name(), full.short_name()), (Some("alpine"), None));
        assert_eq!("library/alpine:3".parse::<ImageRef>().unwrap().short_name(), Some("library/alpine"));
        assert_eq!(short, full);
        assert_eq!(short.cmp(&full), Ordering::Equal);
        assert_eq!(std::collections::HashSet::from([short.clone(), full]).len(), 1);
        assert_ne!(short, "alpine:3".parse().unwrap());
        assert_ne!(short, "quay.io/library/alpine".parse().unwrap());
    }

    #[test]
    fn references_are_normalised() {
        let digest = BlobDigest::of(b"").to_string();
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3.20", "docker.io/library/alpine:3.20".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest".to_owned()),
            ("docker://quay.io/a/b:v1", "quay.io/a/b:v1".to_owned()),
            ("localhost/a", "localhost/a:latest".to_owned()),
            ("localhost:5000/a", "localhost:5000/a:latest".to_owned()),
            ("127.0.0.1:5000/sci:2", "127.0.0.1:5000/sci:2".to_owned()),
            ("[::1]:5000/a__b/c--d:X", "[::1]:5000/a__b/c--d:X".to_owned()),
            ("oci:1.0", "docker.io/library/oci:1.0".to_owned()),
            (&format!("quay.io/a@{digest}"), format!("quay.io/a@{digest}")),
            (&format!("quay.io/a:1@{digest}"), format!("quay.io/a:1@{digest}")),
        ] {
            let parsed: ImageRef = text.parse().unwrap();
            assert_eq!(parsed.to_string(), full, "{text}");
            assert_eq!(parsed.to_string().parse::<ImageRef>().unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn a_digest_decides_what_is_asked_for() {
        let digest = BlobDigest::of(b"").to_string();
        assert_eq!(format!("a:1@{digest}").parse::<ImageRef>().unwrap().target(), digest);
        assert_eq!("a:1".parse::<ImageRef>().unwrap().target(), "1");
    }

    #[test]
    fn bad_references_say_which_part_is_wrong() {
        let kind = |text: &str| match text.parse::<ImageRef>().expect_err(text) {
            ReferenceError::Empty => "empty",
            ReferenceError::UnsupportedTransport { .. } => "transport",
            ReferenceError::Registry { .. } => "registry",
            ReferenceError::Repository { .. } => "repository",
            ReferenceError::Tag { .. } => "tag",
            ReferenceError::Digest { .. } => "digest",
        };
        for (text, expected) in [
            ("", "empty"),
            ("oci:./dir", "transport"),
            ("docker-archive:/tmp/x.tar", "transport"),
            ("docker-archive:x.tar", "transport"),
            ("oci-archive:x", "transport"),
            ("containers-storage:x", "transport"),
            ("registry.example:99999/a", "registry"),
            ("-bad.example/a", "registry"),
            ("a//b", "repository"),
            ("a/../b", "repository"),
            ("a/B", "repository"),
            ("a___b", "repository"),
            ("a:", "tag"),
            ("a:-x", "tag"),
            (&format!("a:{}", "x".repeat(129)), "tag"),
            (&"a".repeat(256), "repository"),
            ("a@sha256:12", "digest"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn a_short_name_may_mean_a_local_image() {
        let full: ImageRef = "127.0.0.1:5000/team/deb:12".parse().unwrap();
        for (text, expected) in [("deb:12", true), ("team/deb:12", true), ("eb:12", false), ("deb:13", false)] {
            assert_eq!(text.parse::<ImageRef>().unwrap().may_mean(&full), expected, "{text}");
        }
        assert!(!"quay.io/deb:12".parse::<ImageRef>().unwrap().may_mean(&full));
    }
}
