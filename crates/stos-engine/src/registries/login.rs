// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Credentials that are verified by their registry, stored, and removed: `login` and `logout`, with podman's rules
//! (podman-login(1), podman-logout(1)).

use stos_config::Secret;
use stos_config::credentials::{CredentialKey, Found, Location, Login};
use stos_registry::{Error as RegistryError, Registry};

use super::RegistryConfig;
use super::bridge::{credential_of, tell_passed_over};
use super::site::Site;
use crate::error::{Error, Result};

impl RegistryConfig {
    /// Gives the registry that is meant where none is named: the first that is searched for short names, as for podman.
    ///
    /// # Errors
    /// [`Error::NoDefaultRegistry`].
    pub fn default_registry(&self) -> Result<CredentialKey> {
        let registries = &self.loaded()?.registries;
        match registries.search_registries().and_then(|(registries, _)| registries.first()) {
            Some(first) => Ok(first.parse()?),
            None => Err(Error::NoDefaultRegistry),
        }
    }

    /// Gives what is stored for a registry or a namespace. That nothing is stored is no error, nor that `--authfile` is not there
    /// yet.
    ///
    /// # Errors
    /// Where a file cannot be read or a helper fails, but for that of `credsStore`: then a warning tells.
    pub fn stored_login(&self, key: &CredentialKey) -> Result<Found> {
        match self.loaded()?.credentials.find(key) {
            Err(stos_config::Error::NotThere { .. }) => Ok(Found::default()),
            found => {
                let found = found?;
                tell_passed_over(key, &found);
                Ok(found)
            }
        }
    }

    /// Asks a registry whether it accepts a login.
    ///
    /// # Errors
    /// [`Error::LoginRefused`] where it does not; others where it cannot be asked.
    pub fn verify_login(&self, key: &CredentialKey, login: &Login) -> Result<()> {
        let mut endpoint = Site::of_key(&self.shared.options, self.loaded()?, key)?.endpoint();
        endpoint.credentials = Some(std::sync::Arc::new(credential_of(login)));
        let registry = Registry::over(vec![endpoint], &self.shared.options.client)?;
        match registry.check_credential() {
            Err(source @ RegistryError::Unauthorized { .. }) => {
                Err(Error::LoginRefused { key: key.to_string(), source })
            }
            result => Ok(result?),
        }
    }

    /// Stores a user and a password for a registry or a namespace, and says where.
    ///
    /// # Errors
    /// Where no place takes it.
    pub fn store_login(&self, key: &CredentialKey, user: &str, password: &Secret) -> Result<Location> {
        Ok(self.loaded()?.credentials.login(key, user, password)?)
    }

    /// Removes what is stored for a registry or a namespace.
    ///
    /// # Errors
    /// [`Error::LoggedInElsewhere`] where another tool has stored it, `NotLoggedIn` of the configuration where nobody has; the
    /// first error of any place.
    pub fn logout(&self, key: &CredentialKey) -> Result<Vec<Location>> {
        let credentials = &self.loaded()?.credentials;
        match credentials.logout(key) {
            Err(error @ stos_config::Error::NotLoggedIn { .. }) => match self.stored_login(key)?.credential {
                Some(left) => Err(Error::LoggedInElsewhere { key: key.to_string(), kept_in: left.source.to_string() }),
                None => Err(error.into()),
            },
            result => Ok(result?),
        }
    }

    /// Removes all that is stored.
    ///
    /// # Errors
    /// The first error of any place, when all have been tried.
    pub fn logout_all(&self) -> Result<Vec<Location>> {
        Ok(self.loaded()?.credentials.logout_all()?)
    }
}
