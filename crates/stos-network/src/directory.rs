// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The directory with the networks' configurations, a file each, which podman has too.
//!
//! ```text
//! /etc/containers/networks/      or what --network-config-dir names
//!   NAME.json                    one network; replaced by a rename, durable before
//! ```
//!
//! Readers take no lock. Who makes or removes a network holds the [`NetworkLock`].

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::config::{DEFAULT_NETWORK, NetworkConfig};
use crate::error::{Error, Result};
use crate::lock::NetworkLock;

/// Where networks are configured, where nobody says otherwise.
pub const CONFIG_DIR: &str = "/etc/containers/networks";

/// The largest file that is read, in bytes.
const CONFIG_MAX: u64 = 1 << 20;

/// The directory.
#[derive(Debug, Clone)]
pub struct NetworkDirectory {
    path: PathBuf,
}

/// Tells whether a text can be the name of a network: podman's rule.
pub fn is_name(text: &str) -> bool {
    // The file's name is longer by `.json`, and by what it has before it is whole.
    text.len() <= 200 && stos_store::container_id::is_name(text)
}

impl NetworkDirectory {
    /// Takes a directory, which need not be there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Gives its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.json"))
    }

    /// Reads all networks, by name; the default one is among them. A file that is none is left out and warned of, as podman does: it
    /// keeps none of the rest from being used.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn load(&self) -> Result<BTreeMap<String, NetworkConfig>> {
        let mut networks = BTreeMap::new();
        for file in stos_store::files::list_names(&self.path)? {
            let Some(name) = file.strip_suffix(".json") else { continue };
            match self.read(name) {
                Ok(Some(network)) => drop(networks.insert(network.name.clone(), network)),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "this is no network"),
            }
        }
        networks.entry(DEFAULT_NETWORK.to_owned()).or_insert_with(NetworkConfig::default_network);
        Ok(networks)
    }

    fn read(&self, name: &str) -> Result<Option<NetworkConfig>> {
        let path = self.file(name);
        let Some(bytes) = stos_store::files::read_bounded(&path, CONFIG_MAX)? else { return Ok(None) };
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let network: NetworkConfig = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if network.name != name || !is_name(name) {
            return Err(damaged(format!("expected the network {name:?}, found {:?}", network.name)));
        }
        let is_id = network.id.len() == 64 && network.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_id {
            return Err(damaged(format!("expected an id of 64 hexadecimal digits, found {:?}", network.id)));
        }
        Ok(Some(network))
    }

    /// Reads one network by its name; no other file is looked at.
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`]; [`Error::Damaged`].
    pub fn named(&self, name: &str) -> Result<NetworkConfig> {
        let found = if is_name(name) { self.read(name)? } else { None };
        match found {
            Some(network) => Ok(network),
            None if name == DEFAULT_NETWORK => Ok(NetworkConfig::default_network()),
            None => Err(Error::NoSuchNetwork(name.to_owned())),
        }
    }

    /// Finds a network by its name, its id, or the beginning of its id where only one begins so.
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`], [`Error::Ambiguous`]; [`Error::Damaged`] for a file of that name that is none.
    pub fn find(&self, query: &str) -> Result<NetworkConfig> {
        match self.named(query) {
            Err(Error::NoSuchNetwork(_)) => {}
            other => return other,
        }
        let networks = self.load()?;
        let mut fitting = networks.values().filter(|network| !query.is_empty() && network.id.starts_with(query));
        match (fitting.next(), fitting.next()) {
            (Some(network), None) => Ok(network.clone()),
            (None, _) => Err(Error::NoSuchNetwork(query.to_owned())),
            (Some(one), Some(two)) => {
                let candidates = [one, two].into_iter().chain(fitting).map(|network| network.name.clone()).collect();
                Err(Error::Ambiguous { query: query.to_owned(), candidates })
            }
        }
    }

    /// Makes a new network's file, durable before it is seen.
    ///
    /// # Errors
    /// [`Error::Exists`].
    pub(crate) fn add(&self, network: &NetworkConfig, _lock: &NetworkLock) -> Result<()> {
        let path = self.file(&network.name);
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists(network.name.clone()));
        }
        fs::create_dir_all(&self.path).map_err(Error::io("make", &self.path))?;
        // No name of a network begins so, and no reader takes a file of another ending.
        let scratch = self.path.join(format!(".{}.new", network.name));
        let written = (|| {
            let mut file = fs::File::create(&scratch).map_err(Error::io("make", &scratch))?;
            file.write_all(&stos_store::files::to_json(network)).map_err(Error::io("write", &scratch))?;
            file.sync_all().map_err(Error::io("sync", &scratch))?;
            fs::rename(&scratch, &path).map_err(Error::io("rename", &scratch))?;
            Ok(stos_store::files::sync_directory(&self.path)?)
        })();
        if written.is_err() {
            // The cause counts.
            drop(fs::remove_file(&scratch));
        }
        written
    }

    /// Removes a network's file.
    ///
    /// # Errors
    /// [`Error::DefaultNetwork`]; what the filesystem says.
    pub(crate) fn remove(&self, name: &str, _lock: &NetworkLock) -> Result<()> {
        if name == DEFAULT_NETWORK {
            return Err(Error::DefaultNetwork(name.to_owned()));
        }
        stos_store::files::remove_file(&self.file(name))?;
        Ok(stos_store::files::sync_directory(&self.path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, id: &str) -> NetworkConfig {
        NetworkConfig { name: name.to_owned(), id: id.repeat(64), ..NetworkConfig::default_network() }
    }

    #[test]
    fn networks_are_found_by_name_and_by_id_and_what_is_none_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let directory = NetworkDirectory::new(dir.path().join("networks"));
        assert_eq!(directory.load().unwrap().len(), 1, "the default one, without any directory");
        let lock = NetworkLock::wait().unwrap();
        for (name, id) in [("a", "1"), ("b", "2"), ("c.d_e-f", "2")] {
            directory.add(&network(name, id), &lock).unwrap();
        }
        assert!(matches!(directory.add(&network("a", "3"), &lock), Err(Error::Exists(name)) if name == "a"));
        fs::write(directory.path().join("bad.json"), "{").unwrap();
        fs::write(directory.path().join("other.json"), serde_json::to_vec(&network("x", "4")).unwrap()).unwrap();
        fs::write(directory.path().join("note.txt"), "x").unwrap();
        let names: Vec<_> = directory.load().unwrap().into_keys().collect();
        assert_eq!(names, ["a", "b", "c.d_e-f", "podman"]);
        assert_eq!(directory.find("111").unwrap().name, "a");
        assert_eq!(directory.find("podman").unwrap().network_interface, "podman0");
        assert!(matches!(directory.find("22"), Err(Error::Ambiguous { candidates, .. }) if candidates.len() == 2));
        assert!(matches!(directory.find("bad"), Err(Error::Damaged { .. })));
        for query in ["none", "", "../a", "9"] {
            assert!(matches!(directory.find(query), Err(Error::NoSuchNetwork(_))), "{query}");
        }
        directory.remove("a", &lock).unwrap();
        assert!(matches!(directory.find("a"), Err(Error::NoSuchNetwork(_))));
        assert!(matches!(directory.remove("podman", &lock), Err(Error::DefaultNetwork(_))));
    }

    #[test]
    fn names_are_podman_s() {
        for name in ["a", "A1", "a.b_c-d", "0"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", ".a", "a/b", "a b", "é", &"a".repeat(201)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
