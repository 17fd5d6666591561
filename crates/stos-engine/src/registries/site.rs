// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One place where an image is asked for, with all that is needed to ask there.

use std::sync::Arc;

use stos_config::certs::{ClientCertificate, HostCertificates};
use stos_config::credentials::{Credential, CredentialKey};
use stos_config::registries::{Endpoint as Configured, Role as ConfiguredRole, Serves as ConfiguredServes};
use stos_config::{Place, proxy::ProxyAddress};
use stos_registry::{ClientIdentity, Endpoint, Role, Serves};
use stos_spec::ImageRef;

use super::bridge::{FoundLater, Ways, credential_of};
use super::{ConnectionOptions, Loaded};
use crate::error::Result;

/// A registry or a mirror, as it is spoken to.
pub(super) struct Site {
    pub host: String,
    /// The repository there; `None` for a registry as a whole.
    pub repository: Option<String>,
    /// The tag there, where one is asked for.
    pub tag: Option<String>,
    pub role: Role,
    pub serves: Serves,
    /// What says so; `None` where nothing is configured for it.
    pub place: Option<Place>,
    pub tls: Tls,
    pub certificates: HostCertificates,
    pub ways: Ways,
    pub who: Who,
}

/// Whether TLS is verified, and what says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tls {
    pub is_verified: bool,
    pub said_by: TlsSource,
}

/// What says whether TLS is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsSource {
    /// Nothing: it is.
    Default,
    /// `--tls-verify`.
    Option,
    /// `insecure` of the place's table.
    Configured,
}

/// Who asks.
pub(super) enum Who {
    /// The one of `--creds`.
    Given(Credential),
    /// Whom the files and helpers have for it, once it wants to know.
    LookedUp(FoundLater),
}

/// What tells a place from others, before anything of it is read.
struct Named<'a> {
    host: &'a str,
    is_insecure: bool,
    proxy: Option<&'a ProxyAddress>,
    place: Option<&'a Place>,
    key: CredentialKey,
    /// Whether it is the registry that the user names.
    is_users: bool,
}

impl Site {
    /// Takes a place of the route of `reference`, and reads its certificates.
    pub fn of_image(
        options: &ConnectionOptions,
        loaded: &Loaded,
        reference: &ImageRef,
        configured: &Configured,
    ) -> Result<Self> {
        let there = &configured.reference;
        let role = match configured.role {
            ConfiguredRole::Mirror => Role::Mirror,
            ConfiguredRole::Registry => Role::Registry,
        };
        let is_users = role == Role::Registry && there.registry() == reference.registry();
        if options.creds.is_some() && role == Role::Registry && !is_users {
            let (host, there) = (reference.registry(), there.registry());
            tracing::warn!(
                host,
                there,
                "--creds is for the registry that was named, and not sent where its location leads"
            );
        }
        let named = Named {
            host: there.registry(),
            is_insecure: configured.insecure,
            proxy: configured.proxy.as_ref(),
            place: configured.place.as_ref(),
            key: CredentialKey::of(there),
            is_users,
        };
        let site = Self::named(options, loaded, named)?;
        let repository = Some(there.repository().to_owned());
        // A prefix may have a tag, and its location another one.
        let tag = there.tag().filter(|_| reference.digest().is_none()).map(str::to_owned);
        Ok(Self { repository, tag, role, serves: serves(configured.serves), ..site })
    }

    /// Takes a registry as a whole, or a namespace of it, and reads its certificates.
    pub fn of_key(options: &ConnectionOptions, loaded: &Loaded, key: &CredentialKey) -> Result<Self> {
        let table = loaded.registries.table(key.as_str());
        if let Some(table) = table.filter(|table| table.blocked) {
            let (reference, prefix) = (key.to_string(), table.prefix.clone());
            return Err(stos_config::Error::Blocked { reference, prefix, place: table.place.clone() }.into());
        }
        let named = Named {
            host: key.registry(),
            is_insecure: table.is_some_and(|table| table.insecure),
            proxy: table.and_then(|table| table.proxy.as_ref()),
            place: table.map(|table| &table.place),
            key: key.clone(),
            is_users: true,
        };
        Self::named(options, loaded, named)
    }

    fn named(options: &ConnectionOptions, loaded: &Loaded, named: Named<'_>) -> Result<Self> {
        let Named { host, is_insecure, proxy, place, key, is_users } = named;
        let who = match options.creds.as_ref().filter(|_| is_users) {
            Some(given) => Who::Given(given.clone()),
            None => Who::LookedUp(FoundLater { credentials: Arc::clone(&loaded.credentials), key }),
        };
        let certificates = HostCertificates::load(&loaded.environment, options.cert_dir.as_deref(), host)?;
        if let [shown, _, ..] = certificates.clients.as_slice() {
            let certificate = shown.certificate_path.display();
            tracing::warn!(host, %certificate, "of several client certificates the first is shown");
        }
        Ok(Self {
            host: host.to_owned(),
            repository: None,
            tag: None,
            role: Role::Registry,
            serves: Serves::All,
            place: place.cloned(),
            tls: Tls::choose(options.tls_verify, is_insecure),
            certificates,
            ways: Ways { own: proxy.cloned(), environment: Arc::clone(&loaded.proxies) },
            who,
        })
    }

    /// Gives what the client takes.
    pub fn endpoint(&self) -> Endpoint {
        let mut endpoint = Endpoint::new(&self.host, self.role);
        endpoint.repository = self.repository.clone();
        endpoint.tag = self.tag.clone();
        endpoint.serves = self.serves;
        endpoint.tls_verify = self.tls.is_verified;
        endpoint.extra_roots =
            self.certificates.authorities.iter().flat_map(|authority| authority.certificates.clone()).collect();
        endpoint.identity = self
            .client_certificate()
            .map(|client| ClientIdentity { certificates: client.chain.clone(), key: client.key.expose().clone() });
        endpoint.proxies = Some(Arc::new(self.ways.clone()));
        endpoint.credentials = Some(match &self.who {
            Who::Given(given) => Arc::new(credential_of(&given.login)),
            Who::LookedUp(later) => Arc::new(later.clone()),
        });
        endpoint
    }

    /// Gives the client certificate that it is shown.
    pub fn client_certificate(&self) -> Option<&ClientCertificate> {
        self.certificates.clients.first()
    }
}

fn serves(configured: ConfiguredServes) -> Serves {
    match configured {
        ConfiguredServes::All => Serves::All,
        ConfiguredServes::DigestOnly => Serves::DigestOnly,
        ConfiguredServes::TagOnly => Serves::TagOnly,
    }
}

impl Tls {
    /// The option counts more than the configuration, both ways, as for podman (`newDockerClientFromRef` of containers/image).
    fn choose(option: Option<bool>, is_insecure: bool) -> Self {
        match option {
            Some(is_verified) => Self { is_verified, said_by: TlsSource::Option },
            None if is_insecure => Self { is_verified: false, said_by: TlsSource::Configured },
            None => Self { is_verified: true, said_by: TlsSource::Default },
        }
    }
}
