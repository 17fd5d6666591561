// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Proxies and credentials of the configuration, as the client asks for them.

use std::sync::Arc;

use stos_config::credentials::{CredentialKey, Credentials, Found, Login, PassedOver};
use stos_config::proxy::{ProxyAddress, ProxyChoice, ProxyScheme, Scheme};
use stos_registry::{Credential, CredentialFailure, Destination, Proxy, ProxyFailure, Secret};

use crate::error::{Error, Result};

/// Which proxy leads where, for what begins at one place: the place's own leads everywhere, and else the environment decides for
/// each connection.
#[derive(Debug, Clone)]
pub(super) struct Ways {
    /// `proxy` of `registries.conf`.
    pub own: Option<ProxyAddress>,
    pub environment: Arc<stos_config::Proxies>,
}

/// What says which way is taken.
pub(super) enum Way {
    /// `proxy` of `registries.conf`.
    Own(ProxyAddress),
    /// The environment.
    Environment(ProxyChoice),
}

impl Way {
    /// Gives the proxy, if the way leads through one.
    pub fn proxy(&self) -> Option<&ProxyAddress> {
        match self {
            Self::Own(proxy) | Self::Environment(ProxyChoice::Through { proxy, .. }) => Some(proxy),
            Self::Environment(_) => None,
        }
    }
}

impl Ways {
    /// Gives the way to a host, which may have a port.
    pub fn choose(&self, is_https: bool, host: &str) -> Result<Way> {
        if let Some(own) = &self.own {
            return Ok(Way::Own(own.clone()));
        }
        let scheme = if is_https { Scheme::Https } else { Scheme::Http };
        Ok(Way::Environment(self.environment.choose(scheme, host)?))
    }
}

impl stos_registry::Proxies for Ways {
    fn proxy(&self, destination: Destination<'_>) -> std::result::Result<Option<Proxy>, ProxyFailure> {
        let way = self.choose(destination.is_https, &format!("{}:{}", destination.host, destination.port))?;
        Ok(way.proxy().map(proxy_of).transpose()?)
    }
}

/// Gives the proxy as the client takes it.
pub(super) fn proxy_of(address: &ProxyAddress) -> Result<Proxy> {
    let is_https = match address.scheme {
        ProxyScheme::Http => false,
        ProxyScheme::Https => true,
        ProxyScheme::Socks5 => return Err(Error::UnsupportedProxy { proxy: address.to_string() }),
    };
    let password = address.password.as_ref().map(|password| password.expose().as_str()).unwrap_or_default();
    let login = address.user.as_ref().map(|user| (Secret::new(user), Secret::new(password)));
    Ok(Proxy::new(is_https, &format!("{}:{}", address.host, address.port), login)?)
}

/// A credential that is looked for when somebody wants it: files are read then, and a helper is run.
#[derive(Debug, Clone)]
pub(super) struct FoundLater {
    pub credentials: Arc<Credentials>,
    pub key: CredentialKey,
}

impl stos_registry::Credentials for FoundLater {
    fn credential(&self) -> std::result::Result<Option<Credential>, CredentialFailure> {
        let found = self.credentials.find(&self.key)?;
        tell_passed_over(&self.key, &found);
        let source = found.credential.as_ref().map(|credential| &credential.source);
        match source {
            Some(source) => tracing::debug!(key = %self.key, %source, "a credential"),
            None => tracing::debug!(key = %self.key, "no credential"),
        }
        Ok(found.credential.map(|credential| credential_of(&credential.login)))
    }
}

/// Tells what could have held a credential: with a warning where a person may be able to mend it.
pub(super) fn tell_passed_over(key: &CredentialKey, found: &Found) {
    for passed_over in &found.passed_over {
        match passed_over {
            PassedOver::StoreFailed { .. } => tracing::warn!(%key, %passed_over, "no credential here"),
            _ => tracing::debug!(%key, %passed_over, "no credential here"),
        }
    }
}

/// Gives a credential as the client takes it.
pub(super) fn credential_of(login: &Login) -> Credential {
    match login {
        Login::Password { user, password } => Credential::password(user, password.expose()),
        Login::IdentityToken { token, .. } => Credential::identity_token(token.expose()),
    }
}
