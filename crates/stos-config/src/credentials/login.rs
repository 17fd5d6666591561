// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `login` and `logout`: storing and removing credentials.
//!
//! What is written is the file of `--authfile`, else of `$REGISTRY_AUTH_FILE`, else podman's own; a helper where one is
//! configured, in `registries.conf` or in that file. That a registry accepts a login is for the caller to ask first.

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::auth_file::AuthFile;
use super::edit::Edit;
use super::key::{CredentialKey, registry_of};
use super::paths::{self, AuthPath};
use super::{Credentials, Keeper};
use crate::error::Error;
use crate::secret::Secret;

/// Where a credential was stored, or removed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file.
    File(PathBuf),
    /// A helper: `docker-credential-NAME`.
    Helper(String),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Helper(program) => f.write_str(program),
        }
    }
}

impl Credentials {
    /// Stores a login in the first place that takes it, over one that is there.
    ///
    /// # Errors
    /// The first place's, where none takes it; [`Error::Creds`] where the name is empty or has a colon.
    pub fn login(&self, key: &CredentialKey, user: &str, password: &Secret) -> Result<Location, Error> {
        if user.is_empty() || user.contains(':') {
            return Err(Error::Creds);
        }
        let store = |keeper: &Keeper| match keeper {
            Keeper::Files => self.store_in_file(key, user, password),
            Keeper::Helper(name, place) => {
                self.store_in_helper(&self.helper(name, place), key, key.registry(), user, password)
            }
        };
        let mut result = store(&self.keepers.0);
        for keeper in &self.keepers.1 {
            if result.is_err() {
                result = store(keeper).or(result);
            }
        }
        result
    }

    fn store_in_helper(
        &self,
        helper: &super::Helper<'_>,
        key: &CredentialKey,
        server: &str,
        user: &str,
        password: &Secret,
    ) -> Result<Location, Error> {
        if key.is_namespaced() {
            return Err(Error::NamespaceInHelper { key: key.to_string(), helper: helper.program().to_owned() });
        }
        helper.store(server, user, password)?;
        Ok(Location::Helper(helper.program().to_owned()))
    }

    fn store_in_file(&self, key: &CredentialKey, user: &str, password: &Secret) -> Result<Location, Error> {
        let path = self.written()?;
        let file = AuthFile::read_to_write(&path)?;
        if let Some((name, server, place)) = file.as_ref().map(|file| file.helper_for(key)).transpose()?.flatten() {
            return self.store_in_helper(&self.helper(name, &place), key, &server, user, password);
        }
        if let Some((name, place)) = file.as_ref().map(AuthFile::store).transpose()?.flatten() {
            let server = key.docker_server();
            let location = self.store_in_helper(&self.helper(name, &place), key, server, user, password)?;
            // docker keeps the key without the secret, and so knows what it is logged in to. A login that stood there would
            // be found before the new one.
            let mut edit = Edit::begin(&path.path)?;
            edit.remove(|name| is_of(name, key));
            edit.set(server, "{}")?.commit()?;
            return Ok(location);
        }
        let auth = Zeroizing::new(STANDARD.encode(Zeroizing::new(format!("{user}:{}", password.expose())).as_bytes()));
        let entry = Zeroizing::new(format!("{{\n\t\t\t\"auth\": \"{}\"\n\t\t}}", *auth));
        Edit::begin(&path.path)?.set(key.as_str(), &entry)?.commit()?;
        Ok(Location::File(path.path))
    }

    /// Removes a login from every place that `login` could have stored it in. Other files are only read: what
    /// [`Credentials::find`] finds afterwards is in one of those.
    ///
    /// # Errors
    /// [`Error::NotLoggedIn`] where there is none; else the first error, when all places have been tried.
    pub fn logout(&self, key: &CredentialKey) -> Result<Vec<Location>, Error> {
        let mut removed = Vec::new();
        let mut first_error = None;
        for keeper in self.keepers() {
            let result = match keeper {
                Keeper::Files => self.remove_from_file(key, &mut removed),
                Keeper::Helper(name, place) => self.erase(&self.helper(name, place), key, key.registry(), &mut removed),
            };
            first_error = first_error.or(result.err());
        }
        match first_error {
            Some(error) => Err(error),
            None if removed.is_empty() => Err(Error::NotLoggedIn { key: key.to_string() }),
            None => Ok(removed),
        }
    }

    fn erase(
        &self,
        helper: &super::Helper<'_>,
        key: &CredentialKey,
        server: &str,
        removed: &mut Vec<Location>,
    ) -> Result<(), Error> {
        if !key.is_namespaced() && helper.erase(server)? {
            removed.push(Location::Helper(helper.program().to_owned()));
        }
        Ok(())
    }

    fn remove_from_file(&self, key: &CredentialKey, removed: &mut Vec<Location>) -> Result<(), Error> {
        let path = self.written()?;
        let Some(file) = AuthFile::read_to_write(&path)? else { return Ok(()) };
        let mut first_error = None;
        let by_helper = file.helper_for(key)?;
        let has_entry = || Ok::<_, Error>(file.keys()?.iter().any(|name| is_of(name, key)));
        if let Some((name, server, place)) = by_helper {
            first_error = self.erase(&self.helper(name, &place), key, &server, removed).err();
        } else if let Some((name, place)) = file.store()?
            && has_entry()?
        {
            first_error = self.erase(&self.helper(name, &place), key, key.docker_server(), removed).err();
        }
        let mut edit = Edit::begin(&path.path)?;
        if edit.remove(|name| is_of(name, key)) {
            edit.commit()?;
            removed.push(Location::File(path.path));
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Removes all logins: every entry of `auths` of the file that `login` writes, what its helpers have for the registries
    /// that it names, and all that the helpers of `registries.conf` have. Which helpers are configured stays as it is.
    ///
    /// # Errors
    /// The first, when all places have been tried. A helper of `registries.conf` that is not installed has nothing.
    pub fn logout_all(&self) -> Result<Vec<Location>, Error> {
        let mut removed = Vec::new();
        let mut first_error = None;
        for keeper in self.keepers() {
            let result = match keeper {
                Keeper::Files => self.remove_all_from_file(&mut removed),
                Keeper::Helper(name, place) => match self.erase_all(&self.helper(name, place), &mut removed) {
                    Err(Error::HelperMissing { .. }) => Ok(()),
                    result => result,
                },
            };
            first_error = first_error.or(result.err());
        }
        first_error.map_or(Ok(removed), Err)
    }

    fn erase_all(&self, helper: &super::Helper<'_>, removed: &mut Vec<Location>) -> Result<(), Error> {
        self.erase_each(helper, helper.list()?, removed)
    }

    fn erase_each(
        &self,
        helper: &super::Helper<'_>,
        servers: Vec<String>,
        removed: &mut Vec<Location>,
    ) -> Result<(), Error> {
        let mut had = false;
        for server in servers {
            had |= helper.erase(&server)?;
        }
        if had {
            removed.push(Location::Helper(helper.program().to_owned()));
        }
        Ok(())
    }

    fn remove_all_from_file(&self, removed: &mut Vec<Location>) -> Result<(), Error> {
        let path = self.written()?;
        let Some(file) = AuthFile::read_to_write(&path)? else { return Ok(()) };
        let mut first_error = None;
        for (server, name, place) in file.helpers()? {
            let result = self.erase_each(&self.helper(name, &place), vec![server.to_owned()], removed);
            first_error = first_error.or(result.err());
        }
        if let Some((name, place)) = file.store()? {
            let servers = file.keys()?.into_iter().map(str::to_owned).collect();
            first_error = first_error.or(self.erase_each(&self.helper(name, &place), servers, removed).err());
        }
        let mut edit = Edit::begin(&path.path)?;
        if edit.remove(|_| true) {
            edit.commit()?;
            removed.push(Location::File(path.path));
        }
        first_error.map_or(Ok(()), Err)
    }

    fn written(&self) -> Result<AuthPath, Error> {
        paths::to_write(&self.environment, self.options.authfile.as_deref())
    }
}

/// Tells whether an entry is the one of a key. A registry's may stand under docker's names for it.
fn is_of(name: &str, key: &CredentialKey) -> bool {
    name == key.as_str() || !key.is_namespaced() && registry_of(name, false) == key.registry()
}
