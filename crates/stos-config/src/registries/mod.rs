// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `registries.conf`, as containers-registries.conf(5) and containers-registries.conf.d(5) have it.
//!
//! | file | when |
//! |---|---|
//! | `$CONTAINERS_REGISTRIES_CONF` | where it is set; it must be there |
//! | `$XDG_CONFIG_HOME/containers/registries.conf`, else `~/.config/…` | else, where it is there |
//! | `/etc/containers/registries.conf` | else |
//! | `/etc/containers/registries.conf.d/*.conf` | then, unless the user's file was taken |
//! | `$XDG_CONFIG_HOME/containers/registries.conf.d/*.conf`, else `~/.config/…` | then |
//! | `/var/cache/containers/short-name-aliases.conf` (root), `~/.cache/containers/…` | aliases that podman has recorded; they win |
//!
//! In a directory the order is that of the bytes of the names. What a later file sets replaces what an earlier one has set:
//! a list as a whole, an alias by its name, a `[[registry]]` by its prefix and as a whole. Upstream's reader is the
//! authority where the manual is silent (`sysregistriesv2` of containers/image). Where it falls short of the manual, the
//! manual is followed: a prefix may end in a tag or digest, which upstream reads and never matches, and a `location` may be
//! missing where there is a prefix, which upstream wants for all but `*.DOMAIN`.

mod parse;
mod prefix;
mod route;
mod short_names;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stos_spec::ImageRef;

pub use self::route::{Endpoint, Role, Route, Serves, WhyNot};
pub use self::short_names::{Candidate, CandidateOrigin};
use crate::document::Node;
use crate::environment::Environment;
use crate::error::Error;
use crate::file;
use crate::place::Place;
use crate::proxy::ProxyAddress;

/// What `registries.conf` and its like say.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    main: Option<PathBuf>,
    tables: BTreeMap<String, Table>,
    search: Option<(Vec<String>, Place)>,
    mode: Option<(ShortNameMode, Place)>,
    aliases: BTreeMap<String, Alias>,
    helpers: Option<(Vec<String>, Place)>,
    unknown: Vec<Place>,
}

/// What is done with a short name that several registries could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShortNameMode {
    /// It is an error: podman would ask, and stos never does.
    Enforcing,
    /// All are tried in order: what podman does without a terminal.
    #[default]
    Permissive,
    /// All are tried in order.
    Disabled,
}

/// What a short name stands for.
#[derive(Debug, Clone)]
struct Alias {
    /// The repository, or `None` where the alias is erased (`name = ""`).
    target: Option<String>,
    place: Place,
}

/// A `[[registry]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What a reference must begin with: `host`, `host/namespace`, `host/repo:tag`, `*.domain`.
    pub prefix: String,
    /// What the prefix is replaced by; `None` leaves the reference as it is.
    pub location: Option<String>,
    /// Whether plain HTTP and certificates that cannot be verified are allowed.
    pub insecure: bool,
    /// The proxy for this registry alone.
    pub proxy: Option<ProxyAddress>,
    /// Whether images with this prefix are refused.
    pub blocked: bool,
    /// The mirrors, in the order in which they are tried.
    pub mirrors: Vec<Mirror>,
    /// Where the table stands.
    pub place: Place,
}

/// A `[[registry.mirror]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// What the table's prefix is replaced by.
    pub location: String,
    /// Whether plain HTTP and certificates that cannot be verified are allowed.
    pub insecure: bool,
    /// The proxy for this mirror alone.
    pub proxy: Option<ProxyAddress>,
    /// Which references it is asked for.
    pub serves: Serves,
    /// Where the table stands.
    pub place: Place,
}

impl Registries {
    /// Reads all files that apply; where there is none, nothing is configured.
    ///
    /// # Errors
    /// Where one cannot be read, is too large or broken, is of version 1, or where `$CONTAINERS_REGISTRIES_CONF` is not
    /// there.
    pub fn load(environment: &Environment) -> Result<Self, Error> {
        let mut registries = Self::default();
        let user = environment.config_home("containers/registries.conf");
        let mut directories = Vec::new();
        let system_directory = environment.system("/etc/containers/registries.conf.d");
        if let Some(named) = environment.get("CONTAINERS_REGISTRIES_CONF").map(Path::new) {
            let Some(bytes) = file::read_named(named)? else {
                return Err(Error::NotThere { path: named.to_owned(), named_by: "CONTAINERS_REGISTRIES_CONF" });
            };
            registries.read_main(named, &bytes)?;
            directories.push(system_directory);
        } else if let Some((path, bytes)) = read_if_there(user)? {
            registries.read_main(&path, &bytes)?;
        } else {
            let system = environment.system("/etc/containers/registries.conf");
            if let Some((path, bytes)) = read_if_there(Some(system))? {
                registries.read_main(&path, &bytes)?;
            }
            directories.push(system_directory);
        }
        directories.extend(environment.config_home("containers/registries.conf.d"));
        for directory in directories {
            for path in file::list(&directory, &[".conf"])? {
                // One that has gone since the directory was listed is as good as one that was never there.
                if let Some(bytes) = file::read(&path)? {
                    registries.merge(parse::file(&path, &bytes)?);
                }
            }
        }
        registries.read_recorded_aliases(environment)?;
        Ok(registries)
    }

    fn read_main(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        self.merge(parse::file(path, bytes)?);
        self.main = Some(path.to_owned());
        Ok(())
    }

    /// Reads what podman has recorded when someone chose an image for a short name.
    fn read_recorded_aliases(&mut self, environment: &Environment) -> Result<(), Error> {
        const NAME: &str = "containers/short-name-aliases.conf";
        let path = match environment.is_root() {
            true => Some(environment.system("/var/cache").join(NAME)),
            false => environment.cache_home(NAME),
        };
        if let Some((path, bytes)) = read_if_there(path)? {
            let node = Node::of_toml(&path, &bytes)?;
            if let Some(aliases) = node.item(&path).table()?.get("aliases") {
                self.aliases.extend(parse::aliases(&aliases)?);
            }
        }
        Ok(())
    }

    /// Puts a later file over what is there.
    fn merge(&mut self, later: Self) {
        self.tables.extend(later.tables);
        self.aliases.extend(later.aliases);
        self.unknown.extend(later.unknown);
        self.search = later.search.or(self.search.take());
        self.mode = later.mode.or(self.mode.take());
        self.helpers = later.helpers.or(self.helpers.take());
    }

    /// Gives the table with the longest prefix of `name`: a registry, a namespace or a repository, without tag or digest.
    /// For `login`, and for whatever else has no image.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.longest(name).map(|(table, _)| table)
    }

    /// Gives where each part of the image is asked for: mirrors first, then the registry itself.
    ///
    /// # Errors
    /// [`Error::Blocked`], and [`Error::Rewrite`] where a location does not make a reference.
    pub fn route(&self, reference: &ImageRef) -> Result<Route, Error> {
        route::for_reading(self, reference)
    }

    /// Gives where the image is pushed to: the registry that it names. Locations and mirrors are for reading alone
    /// (containers-registries.conf(5), the note on `mirror`).
    ///
    /// # Errors
    /// [`Error::Blocked`].
    pub fn destination(&self, reference: &ImageRef) -> Result<Endpoint, Error> {
        route::for_writing(self.longest(&reference.name()).map(|(table, _)| table), reference)
    }

    /// Gives the images that a reference may mean, in the order in which they are to be tried: see [`Candidate`].
    ///
    /// # Errors
    /// [`Error::ShortNameUnresolved`] and [`Error::ShortNameAmbiguous`].
    pub fn candidates(&self, reference: &ImageRef) -> Result<Vec<Candidate>, Error> {
        short_names::candidates(self, reference)
    }

    /// Gives `unqualified-search-registries`, and where it is set.
    pub fn search_registries(&self) -> Option<(&[String], &Place)> {
        self.search.as_ref().map(|(registries, place)| (registries.as_slice(), place))
    }

    /// Gives `credential-helpers`, and where it is set. An empty list counts as not set.
    pub fn credential_helpers(&self) -> Option<(&[String], &Place)> {
        self.helpers
            .as_ref()
            .map(|(helpers, place)| (helpers.as_slice(), place))
            .filter(|(helpers, _)| !helpers.is_empty())
    }

    /// Gives the places of keys that no one reads: typing errors, and what newer versions have. Upstream ignores them too.
    pub fn unknown_keys(&self) -> &[Place] {
        &self.unknown
    }

    /// Finds the table with the longest prefix, and how long the part of `name` is that it matches.
    fn longest(&self, name: &str) -> Option<(&Table, usize)> {
        let matching = self.tables.values().filter_map(|table| Some((table, prefix::matched(name, &table.prefix)?)));
        // `x.example.com` and `*.example.com` are equally long: who names the host means it.
        matching.max_by_key(|(table, _)| (table.prefix.len(), !table.prefix.starts_with('*')))
    }
}

type FileBytes = (PathBuf, zeroize::Zeroizing<Vec<u8>>);

fn read_if_there(path: Option<PathBuf>) -> Result<Option<FileBytes>, Error> {
    let Some(path) = path else { return Ok(None) };
    Ok(file::read(&path)?.map(|bytes| (path, bytes)))
}

#[cfg(test)]
mod tests;
