// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Credentials: where they are looked for, in which order, and where `login` stores them.
//!
//! `credential-helpers` of `registries.conf` are asked in their order; without it there is one, `containers-auth.json`, which
//! means these files (containers-auth.json(5), and `pkg/docker/config` of containers/image where it is silent):
//!
//! | file | when |
//! |---|---|
//! | `--authfile FILE` | alone, where it is given; it must be there |
//! | `$REGISTRY_AUTH_FILE` | else alone, where it is set |
//! | `/etc/containers/auth.json` | as root in a systemd service (`$INVOCATION_ID`); only root may be able to read it |
//! | `$XDG_RUNTIME_DIR/containers/auth.json`, else `/run/containers/UID/auth.json` | `login` writes this one |
//! | `$XDG_CONFIG_HOME/containers/auth.json`, else `~/.config/containers/auth.json` | |
//! | `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json` | |
//! | `~/.dockercfg` | keys are whole registries, maybe with a scheme and a path |
//! | `/etc/containers/auth.json` | as root, where it was not read first |
//!
//! The first file that has something decides: a helper in `credHelpers` for the registry; else a key in `auths`, the most
//! specific first (`host/ns/repo`, `host/ns`, `host`, then `https://host/…` and docker.io's other names); else the helper in
//! `credsStore`, which is docker's and which podman does not know.
//!
//! A name or password is never in an error, a log or `Debug`.

mod auth_file;
mod creds;
mod edit;
mod helper;
mod key;
mod login;
mod paths;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use self::auth_file::{AuthFile, Entry};
pub use self::creds::UserPassword;
use self::helper::Helper;
pub use self::helper::is_helper_name;
pub use self::key::CredentialKey;
pub use self::login::Location;
use crate::environment::Environment;
use crate::error::Error;
use crate::place::Place;
use crate::registries::Registries;
use crate::secret::Secret;

/// What `credential-helpers` calls the files.
const AUTH_FILES: &str = "containers-auth.json";

/// How credentials are looked for and stored.
#[derive(Debug, Clone)]
pub struct CredentialOptions {
    /// `--authfile`.
    pub authfile: Option<PathBuf>,
    /// How long a helper may take: it may wait for a person.
    pub helper_limit: Duration,
}

impl Default for CredentialOptions {
    fn default() -> Self {
        Self { authfile: None, helper_limit: Duration::from_secs(60) }
    }
}

/// All places where credentials may be.
#[derive(Debug, Clone)]
pub struct Credentials {
    environment: Environment,
    options: CredentialOptions,
    /// The first, and the others.
    keepers: (Keeper, Vec<Keeper>),
}

/// An entry of `credential-helpers`.
#[derive(Debug, Clone)]
enum Keeper {
    /// The files.
    Files,
    /// A helper, and what names it.
    Helper(String, Place),
}

/// How to prove who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token, which a registry's token server exchanges.
    IdentityToken {
        /// The name, where one is stored beside it.
        user: Option<String>,
        /// The token.
        token: Secret,
    },
}

/// A login, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The login.
    pub login: Login,
    /// Where it comes from.
    pub source: CredentialSource,
}

/// Where a login comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// `--creds`.
    CommandLine,
    /// An entry of a file.
    File(Place),
    /// A helper.
    Helper {
        /// `docker-credential-NAME`.
        program: String,
        /// The registry that it was asked about.
        server: String,
        /// What names the helper.
        named_by: Place,
    },
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The login, if there is one.
    pub credential: Option<Credential>,
    /// What could have held one and was passed over. A registry that refuses makes them interesting.
    pub passed_over: Vec<PassedOver>,
}

/// Something that could have held a login.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PassedOver {
    /// `credsStore` names a helper that is not installed, as where a configuration was copied from another machine.
    StoreMissing {
        /// `docker-credential-NAME`.
        program: String,
        /// What names it.
        place: Place,
    },
    /// The helper of `credsStore` fails. Images that everyone may have can be had all the same, and podman and skopeo, which do not know
    /// `credsStore`, have them.
    StoreFailed {
        /// What names it.
        place: Place,
        /// Why it gives nothing. It holds no answer of the helper, only what that says about its failure.
        reason: String,
    },
    /// An entry whose `auth` holds no colon. docker passes over it too.
    NoColon(Place),
    /// The directory of `XDG_RUNTIME_DIR` is not there.
    NoRuntimeDirectory(PathBuf),
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StoreMissing { program, place } => write!(f, "{program} is not in PATH: {place} names it"),
            Self::StoreFailed { place, reason } => write!(f, "{place}: {reason}"),
            Self::NoColon(place) => write!(f, "{place}: expected the base64 of USER:PASSWORD, found no colon in it"),
            Self::NoRuntimeDirectory(path) => write!(f, "{} is not there: XDG_RUNTIME_DIR names it", path.display()),
        }
    }
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("--creds"),
            Self::File(place) => write!(f, "{place}"),
            Self::Helper { program, server, named_by } => write!(f, "{program} for {server} (named by {named_by})"),
        }
    }
}

impl Credentials {
    /// Prepares a search. Nothing is read yet.
    pub fn new(environment: &Environment, registries: &Registries, options: CredentialOptions) -> Self {
        let keeper = |name: &String, place: &Place| match name.as_str() {
            AUTH_FILES => Keeper::Files,
            name => Keeper::Helper(name.to_owned(), place.clone()),
        };
        let keepers = match registries.credential_helpers() {
            Some(([first, others @ ..], place)) => {
                (keeper(first, place), others.iter().map(|name| keeper(name, place)).collect())
            }
            _ => (Keeper::Files, Vec::new()),
        };
        Self { environment: environment.clone(), options, keepers }
    }

    /// Looks for the login of a registry, a namespace or a repository. That nothing is found is no error.
    ///
    /// # Errors
    /// Where a file cannot be read or is broken, or a helper fails. A failed helper of `registries.conf` ends the search only
    /// where no later one has anything (`getCredentialsWithHomeDir` of containers/image), that of `credsStore` never; one that
    /// `credHelpers` has for this very registry does (`findCredentialsInFile` there).
    pub fn find(&self, key: &CredentialKey) -> Result<Found, Error> {
        let mut found = Found::default();
        let mut first_error = None;
        for keeper in self.keepers() {
            let result = match keeper {
                Keeper::Files => self.find_in_files(key, &mut found.passed_over),
                // Helpers know registries, not namespaces.
                Keeper::Helper(name, place) => self.helper(name, place).get(key.registry()),
            };
            match result {
                Ok(None) => {}
                Ok(credential) => return Ok(Found { credential, ..found }),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(found), Err)
    }

    fn keepers(&self) -> impl Iterator<Item = &Keeper> {
        std::iter::once(&self.keepers.0).chain(&self.keepers.1)
    }

    fn helper(&self, name: &str, named_by: &Place) -> Helper<'_> {
        Helper::new(&self.environment, self.options.helper_limit, name, named_by.clone())
    }

    fn find_in_files(
        &self,
        key: &CredentialKey,
        passed_over: &mut Vec<PassedOver>,
    ) -> Result<Option<Credential>, Error> {
        for path in paths::to_read(&self.environment, self.options.authfile.as_deref(), passed_over) {
            let Some(file) = AuthFile::read(&path)? else { continue };
            if let Some(credential) = self.find_in_file(&file, key, passed_over)? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }

    fn find_in_file(
        &self,
        file: &AuthFile,
        key: &CredentialKey,
        passed_over: &mut Vec<PassedOver>,
    ) -> Result<Option<Credential>, Error> {
        if let Some((name, server, place)) = file.helper_for(key)? {
            return self.helper(name, &place).get(&server);
        }
        match file.entry_for(key)? {
            Some((place, Entry::Login(login))) => {
                return Ok(Some(Credential { login, source: CredentialSource::File(place) }));
            }
            Some((place, Entry::NoColon)) => passed_over.push(PassedOver::NoColon(place)),
            // docker leaves `{}` where a helper has the secret.
            Some((_, Entry::Empty)) | None => {}
        }
        let Some((name, place)) = file.store()? else { return Ok(None) };
        let helper = self.helper(name, &place);
        Ok(helper.get(key.docker_server()).unwrap_or_else(|error| {
            passed_over.push(match error {
                Error::HelperMissing { program, .. } => PassedOver::StoreMissing { program, place },
                error => PassedOver::StoreFailed { place, reason: error.to_string() },
            });
            None
        }))
    }
}

#[cfg(test)]
mod tests;
