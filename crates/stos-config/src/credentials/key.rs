// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a credential is for.

use std::fmt;
use std::str::FromStr;

use stos_spec::reference::DEFAULT_REGISTRY;
use stos_spec::{ImageRef, text::cut};

use crate::error::Error;
use crate::names::{Written, without_user};

/// Docker Hub's name in docker's files and helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A registry, a namespace or a repository: `host[:port][/ns…]`.
///
/// As podman, takes a registry also as an address (`https://host/v2/`), of which the host counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialKey(String);

impl CredentialKey {
    /// Makes the key of an image's repository.
    pub fn of(reference: &ImageRef) -> Self {
        Self(reference.name())
    }

    /// Gives the whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Gives its registry.
    pub fn registry(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    pub(super) fn is_namespaced(&self) -> bool {
        self.0.contains('/')
    }

    /// Gives what docker calls the registry.
    pub(super) fn docker_server(&self) -> &str {
        if self.registry() == DEFAULT_REGISTRY { DOCKER_HUB_KEY } else { self.registry() }
    }
}

impl FromStr for CredentialKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const EXPECTED: &str = "HOST[:PORT][/NAMESPACE…] without tag and digest";
        // What stands before an `@` may be a password.
        let unfit = || Error::LoginKey { found: cut(without_user(text)), expected: EXPECTED };
        let name = match text.split_once("://") {
            _ if text.contains('@') => return Err(unfit()),
            Some(("http" | "https", rest)) => rest.split('/').next().unwrap_or_default(),
            Some(_) => return Err(unfit()),
            None => text.trim_end_matches('/'),
        };
        let Some((_, _)) = name.split_once('/') else {
            let host = normalized(name);
            return if crate::names::is_registry(name) { Ok(Self(host.to_owned())) } else { Err(unfit()) };
        };
        match Written::parse(name) {
            // `docker.io/team` is a namespace, and no image `docker.io/library/team`.
            Ok(written) if written.is_name_only() && !written.reference.is_short() => Ok(Self(name.to_owned())),
            _ => Err(unfit()),
        }
    }
}

impl fmt::Display for CredentialKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives the registry that a key of a file means. Those of docker's files may be addresses; in `.dockercfg` all have a path.
pub(super) fn registry_of(key: &str, is_legacy: bool) -> &str {
    let address = key.strip_prefix("http://").or_else(|| key.strip_prefix("https://"));
    let host = match address {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None if is_legacy => key.split('/').next().unwrap_or_default(),
        None => key,
    };
    normalized(host)
}

/// Docker Hub has three names.
fn normalized(registry: &str) -> &str {
    match registry {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_registries_and_namespaces() {
        for (text, expected) in [
            ("quay.io", Some("quay.io")),
            ("quay.io/", Some("quay.io")),
            ("quay.io/a/b", Some("quay.io/a/b")),
            ("localhost:5000/a", Some("localhost:5000/a")),
            ("https://quay.io/v2/", Some("quay.io")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("docker.io/team", Some("docker.io/team")),
            ("docker.io", Some("docker.io")),
            ("quay.io/a:1", None),
            ("quay.io/a@sha256:0", None),
            ("quay.io/A", None),
            ("team/app", None),
            ("quay", None),
            ("", None),
            ("ftp://user:hunter2@quay.io", None),
            ("https://user:hunter2@quay.io/", None),
            ("https://user:80/hunter2@quay.io/", None),
            ("user:hunter2@quay.io", None),
            ("user:hunter2@quay.io/team", None),
            ("user:hunter2@quay", None),
        ] {
            let key = text.parse::<CredentialKey>();
            if let Err(error) = &key {
                assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
            }
            assert_eq!(key.ok().as_ref().map(CredentialKey::as_str), expected, "{text}");
        }
        assert_eq!("docker.io/a".parse::<CredentialKey>().unwrap().docker_server(), DOCKER_HUB_KEY);
    }

    #[test]
    fn old_keys_mean_registries() {
        for (key, is_legacy, expected) in [
            ("https://index.docker.io/v1/", false, "docker.io"),
            ("http://quay.io:80/v1/", false, "quay.io:80"),
            ("quay.io/v1/", false, "quay.io/v1/"),
            ("quay.io/v1/", true, "quay.io"),
            ("registry-1.docker.io", false, "docker.io"),
        ] {
            assert_eq!(registry_of(key, is_legacy), expected);
        }
    }
}
