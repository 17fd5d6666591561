// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Image references as they are written in configuration: what was really there, before a tag is added.

use stos_spec::{BlobDigest, ImageRef, ReferenceError};

/// A reference that was parsed, and whether its tag was written.
pub(crate) struct Written {
    pub(crate) reference: ImageRef,
    has_tag: bool,
}

impl Written {
    pub(crate) fn parse(text: &str) -> Result<Self, ReferenceError> {
        let reference: ImageRef = text.parse()?;
        // `latest` is added where there is neither tag nor digest. A colon after the last slash starts a tag.
        let before_digest = text.split('@').next().unwrap_or_default();
        let has_tag =
            reference.tag().is_some() && before_digest.rsplit('/').next().is_some_and(|last| last.contains(':'));
        Ok(Self { reference, has_tag })
    }

    pub(crate) fn tag(&self) -> Option<&str> {
        self.reference.tag().filter(|_| self.has_tag)
    }

    pub(crate) fn digest(&self) -> Option<BlobDigest> {
        self.reference.digest()
    }

    /// Tells whether it names a repository alone.
    pub(crate) fn is_name_only(&self) -> bool {
        self.tag().is_none() && self.digest().is_none()
    }
}

/// Writes a reference as podman has it, which drops the tag where there is a digest: `name:tag` or `name@digest`.
pub(crate) fn canonical(reference: &ImageRef) -> String {
    let separator = if reference.digest().is_some() { '@' } else { ':' };
    format!("{}{separator}{}", reference.name(), reference.target())
}

/// Gives the scopes that a reference is in, the most specific first: itself, its repository, each parent, its host, and
/// the wildcards `*.DOMAIN` of its host without the port (containers-policy.json(5), `docker:`).
pub(crate) fn scopes(reference: &ImageRef) -> Vec<String> {
    let mut scopes = vec![canonical(reference)];
    scopes.extend(namespaces(&reference.name()).map(str::to_owned));
    let (mut domain, _) = split_port(reference.registry());
    while let Some((_, parent)) = domain.split_once('.') {
        scopes.push(format!("*.{parent}"));
        domain = parent;
    }
    scopes
}

/// Gives `host/ns/repo`, `host/ns`, `host`.
pub(crate) fn namespaces(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.rsplit_once('/').map(|(parent, _)| parent))
}

/// Leaves out what stands before an `@`, which may be a password, of a text that is not what it should be.
pub(crate) fn without_user(text: &str) -> &str {
    text.rsplit('@').next().unwrap_or_default()
}

/// Splits `host:port`; an IPv6 address stays in its brackets.
pub(crate) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Tells whether a text is a registry: a host that docker's rule knows as one, and maybe a port.
pub(crate) fn is_registry(text: &str) -> bool {
    !text.contains(['/', '@']) && format!("{text}/x").parse::<ImageRef>().is_ok_and(|probe| !probe.is_short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_known() {
        let digest = format!("@{}", BlobDigest::of(b""));
        for (text, tag, digested) in [
            ("a", None, false),
            ("h:5000/a", None, false),
            ("h:5000/a:1", Some("1"), false),
            (&format!("h:5000/a{digest}"), None, true),
            (&format!("h.x/a:1{digest}"), Some("1"), true),
        ] {
            let written = Written::parse(text).unwrap();
            assert_eq!((written.tag(), written.digest().is_some()), (tag, digested), "{text}");
            assert_eq!(written.is_name_only(), tag.is_none() && !digested);
        }
    }

    #[test]
    fn scopes_narrow_to_wide() {
        let reference = "r.example.com:5000/a/b:1".parse().unwrap();
        let expected = [
            "r.example.com:5000/a/b:1",
            "r.example.com:5000/a/b",
            "r.example.com:5000/a",
            "r.example.com:5000",
            "*.example.com",
            "*.com",
        ];
        assert_eq!(scopes(&reference), expected);
        let digest = BlobDigest::of(b"");
        let both = format!("quay.io/a:1@{digest}").parse().unwrap();
        assert_eq!(scopes(&both), [&format!("quay.io/a@{digest}"), "quay.io/a", "quay.io", "*.io"]);
        assert_eq!(scopes(&"[::1]:5000/a".parse().unwrap()), ["[::1]:5000/a:latest", "[::1]:5000/a", "[::1]:5000"]);
    }

    #[test]
    fn registries_are_known() {
        for (text, expected) in [
            ("quay.io", true),
            ("localhost", true),
            ("localhost:5000", true),
            ("[::1]:5000", true),
            ("quay", false),
            ("", false),
            ("quay.io/a", false),
            ("https://quay.io", false),
            ("quay.io:x", false),
            ("..", false),
        ] {
            assert_eq!(is_registry(text), expected, "{text}");
        }
    }
}
