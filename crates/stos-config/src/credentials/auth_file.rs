// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One file of credentials: podman's `auth.json`, docker's `config.json`, `.dockercfg`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::Login;
use super::helper::is_helper_name;
use super::key::{CredentialKey, registry_of};
use super::paths::{AuthPath, Kind};
use crate::document::{Fields, Item, Node};
use crate::error::Error;
use crate::file;
use crate::names::namespaces;
use crate::place::Place;
use crate::secret::Secret;

/// People leave the padding out when they write `auth` by hand.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file that has been read. Only what is looked up is looked at: a broken entry of another registry harms no one.
pub(super) struct AuthFile {
    path: PathBuf,
    is_legacy: bool,
    node: Node,
}

/// What an entry of `auths` holds.
pub(super) enum Entry {
    Login(Login),
    /// No more than the key.
    Empty,
    /// No `USER:PASSWORD`.
    NoColon,
}

impl AuthFile {
    /// Reads a file; one that is missing or empty has nothing.
    pub(super) fn read(found: &AuthPath) -> Result<Option<Self>, Error> {
        let path = &found.path;
        let bytes = match found.kind {
            Kind::Option | Kind::Variable => file::read_named(path)?,
            Kind::Usual | Kind::Legacy | Kind::Private => file::read(path)?,
        };
        match (bytes, found.kind) {
            (None, Kind::Option) => Err(Error::NotThere { path: path.clone(), named_by: "--authfile" }),
            (None, _) => Ok(None),
            (Some(bytes), Kind::Private) => {
                refuse_readable_by_others(path).and_then(|()| Self::parse(path, &bytes, false))
            }
            (Some(bytes), _) => Self::parse(path, &bytes, found.kind == Kind::Legacy),
        }
    }

    /// Reads the file that `login` writes: a regular one, which may be missing.
    pub(super) fn read_to_write(found: &AuthPath) -> Result<Option<Self>, Error> {
        file::read(&found.path)?.map_or(Ok(None), |bytes| Self::parse(&found.path, &bytes, false))
    }

    fn parse(path: &Path, bytes: &[u8], is_legacy: bool) -> Result<Option<Self>, Error> {
        if bytes.trim_ascii().is_empty() {
            return Ok(None);
        }
        let node = Node::of_json(path, bytes)?;
        node.item(path).table()?;
        Ok(Some(Self { path: path.to_owned(), is_legacy, node }))
    }

    fn top(&self) -> Result<Fields<'_>, Error> {
        self.node.item(&self.path).table()
    }

    fn auths(&self) -> Result<Option<Fields<'_>>, Error> {
        match self.is_legacy {
            true => self.top().map(Some),
            false => self.top()?.set("auths").map(|item| item.table()).transpose(),
        }
    }

    /// Gives the helper that `credHelpers` has for a registry, what the registry is called there, and the place.
    pub(super) fn helper_for(&self, key: &CredentialKey) -> Result<Option<(&str, String, Place)>, Error> {
        if self.is_legacy {
            return Ok(None);
        }
        let Some(helpers) = self.top()?.set("credHelpers") else { return Ok(None) };
        let helpers = helpers.table()?;
        // Upstream knows the registry's own name alone, docker the one that it has for Docker Hub.
        let names = [key.registry(), key.docker_server()];
        let Some((server, item)) = names.into_iter().find_map(|name| Some((name, helpers.set(name)?))) else {
            return Ok(None);
        };
        Ok(Some((helper_name(&item)?, server.to_owned(), item.place())))
    }

    /// Gives the keys of `auths`.
    pub(super) fn keys(&self) -> Result<Vec<&str>, Error> {
        Ok(self.auths()?.map_or(Vec::new(), |auths| auths.iter().map(|(name, _)| name).collect()))
    }

    /// Gives all of `credHelpers`: registry, helper, place.
    pub(super) fn helpers(&self) -> Result<Vec<(&str, &str, Place)>, Error> {
        let Some(helpers) = self.top()?.set("credHelpers") else { return Ok(Vec::new()) };
        helpers.table()?.iter().map(|(server, item)| Ok((server, helper_name(&item)?, item.place()))).collect()
    }

    /// Gives the helper in `credsStore`.
    pub(super) fn store(&self) -> Result<Option<(&str, Place)>, Error> {
        let item = if self.is_legacy { None } else { self.top()?.set("credsStore") };
        match item {
            Some(item) if !item.text()?.is_empty() => Ok(Some((helper_name(&item)?, item.place()))),
            _ => Ok(None),
        }
    }

    /// Finds the entry of `auths` that is most specific for `key`.
    pub(super) fn entry_for(&self, key: &CredentialKey) -> Result<Option<(Place, Entry)>, Error> {
        let Some(auths) = self.auths()? else { return Ok(None) };
        let name = if self.is_legacy { key.registry() } else { key.as_str() };
        let exact = namespaces(name).find_map(|name| auths.set(name));
        let other =
            || auths.iter().find(|(name, _)| registry_of(name, self.is_legacy) == key.registry()).map(|(_, item)| item);
        let Some(item) = exact.or_else(other).filter(|item| !item.is_null()) else { return Ok(None) };
        Ok(Some((item.place(), entry(&item)?)))
    }
}

fn helper_name<'a>(item: &Item<'a>) -> Result<&'a str, Error> {
    let name = item.text()?;
    match is_helper_name(name) {
        true => Ok(name),
        false => Err(item.unfit("the end of a program's name after docker-credential-", name)),
    }
}

/// Reads an entry: `identitytoken`, `auth`, and docker's `username` and `password` in plain text.
fn entry(item: &Item<'_>) -> Result<Entry, Error> {
    let fields = item.table()?;
    let text = |name: &str| fields.set(name).map(|item| item.text()).transpose().map(Option::unwrap_or_default);
    let (user, password, is_odd) = match text("auth")? {
        "" => (text("username")?.to_owned(), Secret::from(text("password")?), false),
        auth => match decoded(auth).map_err(|expected| Error::BadSecret { place: item.place(), expected })? {
            Some((user, password)) => (user, password, false),
            None => (String::new(), Secret::from(""), true),
        },
    };
    match text("identitytoken")? {
        "" if is_odd => Ok(Entry::NoColon),
        "" if user.is_empty() && password.expose().is_empty() => Ok(Entry::Empty),
        "" => Ok(Entry::Login(Login::Password { user, password })),
        token => {
            let user = (!user.is_empty()).then_some(user);
            Ok(Entry::Login(Login::IdentityToken { user, token: Secret::from(token) }))
        }
    }
}

/// Decodes `auth`. `None` where there is no colon; docker pads the password with NULs. What is wrong names no text.
fn decoded(auth: &str) -> Result<Option<(String, Secret)>, &'static str> {
    let packed: Zeroizing<String> = Zeroizing::new(auth.chars().filter(|c| !matches!(c, '\r' | '\n')).collect());
    let bytes = BASE64.decode(packed.as_bytes()).map(Zeroizing::new).map_err(|_| "base64 in auth")?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "the base64 of UTF-8 in auth")?;
    Ok(text.split_once(':').map(|(user, password)| (user.to_owned(), Secret::from(password.trim_matches('\0')))))
}

fn refuse_readable_by_others(path: &Path) -> Result<(), Error> {
    let found = std::fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let mode = found.permissions().mode() & 0o7777;
    match mode & 0o044 {
        0 => Ok(()),
        _ => Err(Error::ReadableByOthers { path: path.to_owned(), mode }),
    }
}
