// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `pods/`: groups of containers that share namespaces.
//!
//! ```text
//! DATA-ROOT/pods/                 missing where there never was one
//!   <id>/pod.json                 what it is (filled by stos-engine)
//!   <id>/hosts, resolv.conf       of all its containers
//!   <id>/started                  it was started once
//! ```
//!
//! **Names**: pods and containers share `names/` ([`crate::names`]): what a person types means one of them.
//! **Locks**: a pod's directory is itself the lock of its life. Who makes a container of it holds that until the container's record is there;
//! who removes it, until it has looked at all records; and who makes or takes down what its containers share, meanwhile. Where a container's
//! lock is taken too, the pod's comes first.
//! **Durability**: a pod is made in staging, synced, and appears by one rename; it goes by one into staging.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::container_id::{ContainerId, ContainerName};
use crate::error::{Error, Result};
use crate::files;
use crate::lock::Lock;
use crate::staging::Staging;
use crate::store::Store;

/// The id of a pod: 64 lower-case hexadecimal digits, drawn at random, as a container's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodId(ContainerId);

impl PodId {
    /// Draws a new id.
    pub fn random() -> Self {
        Self(ContainerId::random())
    }

    /// Gives the digits.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Gives the first twelve digits, as people quote them.
    pub fn short(&self) -> &str {
        self.0.short()
    }

    /// The same digits, for what is asked by an id of either kind.
    pub fn digits(&self) -> &ContainerId {
        &self.0
    }

    pub(crate) fn of(id: ContainerId) -> Self {
        Self(id)
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PodId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self).map_err(|error| match error {
            Error::InvalidName { text, rule, .. } => Error::InvalidName { kind: "pod id", text, rule },
            other => other,
        })
    }
}

impl Store {
    /// Gives the directory of all pods, there or not.
    pub fn pods_dir(&self) -> PathBuf {
        self.root().join("pods")
    }

    /// Gives the directory of a pod, there or not.
    pub fn pod_dir(&self, id: &PodId) -> PathBuf {
        self.pods_dir().join(id.as_str())
    }

    /// Lists the pods, sorted.
    pub fn pods(&self) -> Result<Vec<PodId>> {
        let names = files::list_names(&self.pods_dir())?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Makes a staged pod exist under its id and its name, or neither; durably.
    ///
    /// # Errors
    /// [`Error::NameTaken`] and [`Error::NameOfPod`].
    pub fn commit_pod(&self, staged: Staging, id: &PodId, name: &ContainerName) -> Result<()> {
        let parent = self.pods_dir();
        let is_first = !parent.exists();
        files::ensure_directory(&parent)?;
        if is_first {
            files::sync_directory(self.root())?;
        }
        self.commit_named(staged, &self.pod_dir(id), id.digits(), name, files::Durability::Durable)
    }

    /// Waits for the lock of a pod's life; `None` where there is no such pod.
    pub fn lock_pod(&self, id: &PodId) -> Result<Option<Lock>> {
        self.check_writable()?;
        match Lock::wait_for_directory(&self.pod_dir(id)) {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Takes that lock if it needs no waiting; `None` also where there is no such pod.
    pub fn try_lock_pod(&self, id: &PodId) -> Result<Option<Lock>> {
        self.check_writable()?;
        Lock::try_directory(&self.pod_dir(id))
    }

    /// Takes a pod out of the store, whose lock the caller holds: it is gone, then its name is free. Its files are deleted when what comes
    /// back is dropped.
    pub fn take_pod(&self, id: &PodId, name: Option<&ContainerName>, held: &Lock) -> Result<Option<Staging>> {
        let taken = self.take_held_object(&self.pod_dir(id), held)?;
        match name {
            Some(name) => self.release_name(name, id.digits()).map(drop)?,
            // Its record is damaged: whatever name leads to it leads nowhere now.
            None => self.sweep_names().map(drop)?,
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Durability;
    use crate::names::NameHolder;

    fn commit(store: &Store, name: &str) -> Result<PodId> {
        let (id, staged) = (PodId::random(), store.stage()?);
        files::write_new(&staged.path().join("pod.json"), b"{}", Durability::Volatile)?;
        store.commit_pod(staged, &id, &name.parse()?)?;
        Ok(id)
    }

    #[test]
    fn a_pod_comes_and_goes_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.pods().unwrap(), []);
        let id = commit(&store, "web").unwrap();
        assert_eq!(store.pods().unwrap(), std::slice::from_ref(&id));
        assert_eq!(id.as_str().parse::<PodId>().unwrap(), id);
        assert!(matches!("web".parse::<PodId>(), Err(Error::InvalidName { kind: "pod id", .. })));
        let held = store.lock_pod(&id).unwrap().unwrap();
        assert!(store.try_lock_pod(&id).unwrap().is_none());
        drop(store.take_pod(&id, Some(&"web".parse().unwrap()), &held).unwrap());
        assert_eq!((store.pods().unwrap(), files::list_names(&store.names_dir()).unwrap()), (vec![], vec![]));
        assert!(store.lock_pod(&id).unwrap().is_none());
        assert_eq!(files::list_names(&store.staging_area()).unwrap(), [""; 0]);
    }

    #[test]
    fn a_name_is_a_pod_s_or_a_container_s() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let pod = commit(&store, "web").unwrap();
        let contain = |name: &str| {
            let id = ContainerId::random();
            let staged = store.stage().unwrap();
            store.commit_container(staged, &id, &name.parse().unwrap(), Durability::Durable).map(|()| id)
        };
        let error = contain("web").unwrap_err();
        assert!(matches!(&error, Error::NameOfPod { id, .. } if *id == pod.to_string()), "{error}");
        assert!(matches!(commit(&store, "web"), Err(Error::NameOfPod { .. })));
        let container = contain("db").unwrap();
        assert!(matches!(commit(&store, "db"), Err(Error::NameTaken { id, .. }) if id == container.to_string()));
        assert_eq!(store.holder_of("web").unwrap(), Some(NameHolder::Pod(pod.clone())));
        assert_eq!(store.holder_of("db").unwrap(), Some(NameHolder::Container(container)));
        assert_eq!((store.container_named("web").unwrap(), store.pod_named("db").unwrap()), (None, None));
        assert_eq!(store.dangling_names().unwrap(), [""; 0]);
        assert_eq!(store.pods().unwrap(), [pod]);
        assert_eq!(files::list_names(&store.staging_area()).unwrap(), [""; 0]);
    }

    #[test]
    fn the_name_of_a_pod_whose_record_is_lost_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = commit(&store, "web").unwrap();
        let held = store.lock_pod(&id).unwrap().unwrap();
        drop(store.take_pod(&id, None, &held).unwrap());
        assert_eq!(store.holder_of("web").unwrap(), None);
        assert_eq!(files::list_names(&store.names_dir()).unwrap(), [""; 0]);
    }
}
