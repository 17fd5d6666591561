// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Endpoints: where a registry's images can be had, and on which terms. Plain data; nothing here opens a connection.

use std::fmt;
use std::sync::Arc;

use stos_spec::ImageRef;
use stos_spec::text::cut;

use crate::credential::{Credentials, Secret};
use crate::error::Error;
use crate::options::ClientOptions;
use crate::proxy::Proxies;
use crate::url::{Scheme, Url};

/// What an endpoint is to the name that the user gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The registry itself. Pushes go here and nowhere else.
    Registry,
    /// Someone who has copies. It gets no credential but its own.
    Mirror,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registry => "registry",
            Self::Mirror => "mirror",
        })
    }
}

/// Which references an endpoint is asked for: `pull-from-mirror` and `mirror-by-digest-only` of
/// containers-registries.conf(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Serves {
    /// All of them.
    #[default]
    All,
    /// Those by digest: a tag may name something else there.
    DigestOnly,
    /// Those by tag.
    TagOnly,
}

/// A client certificate and its key (mutual TLS). It is shown to the endpoint's own host and port, and to nobody that it
/// redirects to or names as its token server.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate, then those that lead to its authority, each in DER.
    pub certificates: Vec<Vec<u8>>,
    /// The key, in DER (PKCS #8, PKCS #1 or SEC 1), not encrypted.
    pub key: Vec<u8>,
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("key", &Secret::new("")).finish_non_exhaustive()
    }
}

/// Where a registry's images can be had, and on which terms.
#[derive(Clone)]
#[non_exhaustive]
pub struct Endpoint {
    /// The host, and maybe a port. `docker.io` is asked where it answers, at `registry-1.docker.io`.
    pub host: String,
    /// The repository's name there; without one it has the name that the user gave.
    pub repository: Option<String>,
    /// The tag's name there, where one is asked for; without one it has the name that the user gave.
    pub tag: Option<String>,
    /// What it is to that name.
    pub role: Role,
    /// Which references it is asked for.
    pub serves: Serves,
    /// Whether certificates are verified and plain HTTP is refused. With `false` HTTPS is tried without verification,
    /// and then plain HTTP, as `insecure` of containers-registries.conf(5) has it; of loopback, where no proxy leads, plain HTTP
    /// is tried first.
    pub tls_verify: bool,
    /// Certificates of authorities that are trusted besides the system's, each in DER.
    pub extra_roots: Vec<Vec<u8>>,
    /// The client certificate that it is shown.
    pub identity: Option<ClientIdentity>,
    /// Which proxy leads to it, to where it redirects and to its token server. `None` is: no proxy at all.
    pub proxies: Option<Arc<dyn Proxies>>,
    /// Who asks. `None` is: nobody in particular.
    pub credentials: Option<Arc<dyn Credentials>>,
}

impl Endpoint {
    /// Makes an endpoint for everything: verified, anonymous, without a proxy.
    pub fn new(host: impl Into<String>, role: Role) -> Self {
        Self {
            host: host.into(),
            repository: None,
            tag: None,
            role,
            serves: Serves::All,
            tls_verify: true,
            extra_roots: Vec::new(),
            identity: None,
            proxies: None,
            credentials: None,
        }
    }

    /// Makes the endpoint that a reference means where nothing else is configured: its registry, as `options` have it.
    pub fn of(reference: &ImageRef, options: &ClientOptions) -> Self {
        Self { tls_verify: options.tls_verify, ..Self::new(reference.registry(), Role::Registry) }
    }

    /// Gives where it answers. Docker Hub does so under another name than it has (docker's own rule).
    pub fn address(&self) -> &str {
        match self.host.as_str() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        }
    }

    /// Refuses a host that is none: it comes from a file, and stands in every address that is asked for.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let address = self.address();
        let parsed = Url::parse(&format!("https://{address}"));
        if parsed.is_ok_and(|url| url == Url::new(Scheme::Https, address, "/")) {
            return Ok(());
        }
        Err(Error::BadOption { option: "host", found: cut(address), expected: "a host, and maybe a port" })
    }

    /// Tells whether it is asked for a reference of that kind.
    pub(crate) fn serves(&self, is_by_digest: bool) -> bool {
        match self.serves {
            Serves::All => true,
            Serves::DigestOnly => is_by_digest,
            Serves::TagOnly => !is_by_digest,
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("host", &self.host)
            .field("repository", &self.repository)
            .field("tag", &self.tag)
            .field("role", &self.role)
            .field("serves", &self.serves)
            .field("tls_verify", &self.tls_verify)
            .field("extra_roots", &self.extra_roots.len())
            .field("identity", &self.identity.is_some())
            .field("proxies", &self.proxies.is_some())
            .field("credentials", &self.credentials.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_host() {
        for host in ["r.example", "R.example:5000", "[::1]:5000", "127.0.0.1", "docker.io"] {
            assert!(Endpoint::new(host, Role::Mirror).check().is_ok(), "{host}");
        }
        for host in ["", "r.example/x", "u:p@r.example", "r.example?x", "r.example#x", "r example", "r:x", "r:0"] {
            let error = Endpoint::new(host, Role::Mirror).check().unwrap_err();
            assert!(matches!(error, Error::BadOption { option: "host", .. }), "{host}: {error}");
        }
    }

    #[test]
    fn endpoints_serve_what_they_are_asked_for() {
        for (serves, by_tag, by_digest) in
            [(Serves::All, true, true), (Serves::DigestOnly, false, true), (Serves::TagOnly, true, false)]
        {
            let endpoint = Endpoint { serves, ..Endpoint::new("r.example", Role::Mirror) };
            assert_eq!((endpoint.serves(false), endpoint.serves(true)), (by_tag, by_digest), "{serves:?}");
        }
    }
}
