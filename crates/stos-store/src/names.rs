// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `names/`: a symlink for each name, to the id of its container or pod. symlinkat(2) claims one: `EEXIST` says taken.
//!
//! The id stands there in base64 (RFC 4648, 5), in 43 characters: ext4 keeps up to 59 of a symlink in its inode. One of 64 has a block:
//! without a journal it takes 0.4 ms to remove, with one twice the time. Earlier versions wrote the 64 digits; they are read too.
//!
//! A claim and the rename that makes its container or pod exist happen under one lock. So under that lock a name without either
//! is what a crash left, and may be taken.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::io::Errno;

use crate::container_id::{ContainerId, ContainerName};
use crate::error::{Error, Result};
use crate::files::{self, Durability};
use crate::pods::PodId;
use crate::staging::Staging;
use crate::store::Store;

/// Who has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameHolder {
    /// A container.
    Container(ContainerId),
    /// A pod.
    Pod(PodId),
}

impl NameHolder {
    /// What is said to who wants its name.
    fn refusal(&self, name: &str) -> Error {
        match self {
            Self::Container(id) => Error::NameTaken { name: name.to_owned(), id: id.to_string() },
            Self::Pod(id) => Error::NameOfPod { name: name.to_owned(), id: id.to_string() },
        }
    }
}

impl Store {
    /// Refuses a name that a container or a pod has. A look before the work begins; [`commit_container`](Self::commit_container) decides.
    pub fn check_name_is_free(&self, name: &ContainerName) -> Result<()> {
        match self.holder_of(name.as_str())? {
            Some(holder) => Err(holder.refusal(name.as_str())),
            None => Ok(()),
        }
    }

    /// Makes a staged container exist under its id and its name, or neither.
    ///
    /// With [`Durability::Durable`] both outlast a power cut when this returns.
    pub fn commit_container(
        &self,
        staged: Staging,
        id: &ContainerId,
        name: &ContainerName,
        durability: Durability,
    ) -> Result<()> {
        self.commit_named(staged, &self.container_dir(id), id, name, durability)
    }

    /// The same for what is to be at `place`: a container or a pod.
    pub(crate) fn commit_named(
        &self,
        staged: Staging,
        place: &Path,
        id: &ContainerId,
        name: &ContainerName,
        durability: Durability,
    ) -> Result<()> {
        if durability == Durability::Durable {
            files::sync_directory(staged.path())?;
        }
        let lock = self.lock("names")?;
        let link = self.names_dir().join(name.as_str());
        self.claim(&link, id, name)?;
        let committed = match staged.commit(place, Durability::Volatile) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::ContainerExists(id.to_string())),
            Err(error) => Err(error),
        };
        if let Err(error) = committed {
            files::remove_file(&link)?;
            return Err(error);
        }
        drop(lock);
        if durability == Durability::Durable {
            // The symlink was made before the rename: a filesystem with a journal keeps that order, and a name that is
            // lost all the same is found in the container's own record, or the pod's.
            files::sync_parent(place)?;
        }
        Ok(())
    }

    /// Gives a container that exists a further name.
    pub fn claim_name(&self, name: &ContainerName, id: &ContainerId) -> Result<()> {
        let _lock = self.lock("names")?;
        self.claim(&self.names_dir().join(name.as_str()), id, name)
    }

    fn claim(&self, link: &Path, id: &ContainerId, name: &ContainerName) -> Result<()> {
        loop {
            match rustix::fs::symlink(target_of(id), link) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::io("claim the name", link)(errno)),
            }
            if let Some(holder) = self.holder_of(name.as_str())? {
                return Err(holder.refusal(name.as_str()));
            }
            files::remove_file(link)?;
        }
    }

    /// Finds the container that has the name; `None` where there is none.
    pub fn container_named(&self, name: &str) -> Result<Option<ContainerId>> {
        Ok(self.id_of(name)?.filter(|id| self.container_dir(id).is_dir()))
    }

    /// Finds the pod that has the name; `None` where there is none.
    pub fn pod_named(&self, name: &str) -> Result<Option<PodId>> {
        Ok(self.id_of(name)?.map(PodId::of).filter(|id| self.pod_dir(id).is_dir()))
    }

    /// Finds who has the name; `None` where nobody has.
    pub fn holder_of(&self, name: &str) -> Result<Option<NameHolder>> {
        let Some(id) = self.id_of(name)? else { return Ok(None) };
        if self.container_dir(&id).is_dir() {
            return Ok(Some(NameHolder::Container(id)));
        }
        let pod = PodId::of(id);
        Ok(self.pod_dir(&pod).is_dir().then_some(NameHolder::Pod(pod)))
    }

    /// The id that a name leads to, whatever there is of that.
    fn id_of(&self, name: &str) -> Result<Option<ContainerId>> {
        if name.parse::<ContainerName>().is_err() {
            return Ok(None);
        }
        let link = self.names_dir().join(name);
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            // EINVAL says that it is no symlink: then it leads nowhere.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::INVAL)) => return Ok(None),
            Err(error) => return Err(Error::io("read the name", &link)(error)),
        };
        Ok(id_in(&target))
    }

    /// Frees a name, if it is that of container `id`. Tells whether it was.
    pub fn release_name(&self, name: &ContainerName, id: &ContainerId) -> Result<bool> {
        let _lock = self.lock("names")?;
        let link = self.names_dir().join(name.as_str());
        match fs::read_link(&link) {
            Ok(target) if id_in(&target).as_ref() == Some(id) => files::remove_file(&link).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Removes the names that lead to no container and no pod, and gives them: a claim and its holder's rename happen under the same
    /// lock, so these are what a crash left.
    ///
    /// # Errors
    /// Of the first that cannot be removed, such as a directory; the others are gone.
    pub fn sweep_names(&self) -> Result<Vec<String>> {
        let _lock = self.lock("names")?;
        let names = self.names_without_holder()?;
        let removed: Vec<_> = names.iter().map(|name| files::remove_file(&self.names_dir().join(name))).collect();
        removed.into_iter().collect::<Result<()>>()?;
        Ok(names)
    }

    /// Lists the names that lead to no container and no pod, sorted: what a crash left.
    pub fn dangling_names(&self) -> Result<Vec<String>> {
        let found = self.names_without_holder()?;
        if found.is_empty() || self.is_read_only() {
            return Ok(found);
        }
        // A container that is being made has its name a moment before it is there.
        let _lock = self.lock("names")?;
        self.names_without_holder()
    }

    fn names_without_holder(&self) -> Result<Vec<String>> {
        let leads_nowhere = |name: &String| Ok::<_, Error>(self.holder_of(name)?.is_none());
        let names = files::list_names(&self.names_dir())?.into_iter();
        names.filter_map(|name| leads_nowhere(&name).map(|is| is.then_some(name)).transpose()).collect()
    }

    /// Gives the container's directory its name back where a crash lost the symlink.
    pub fn ensure_name(&self, name: &ContainerName, id: &ContainerId) -> Result<()> {
        let _lock = self.lock("names")?;
        match rustix::fs::symlink(target_of(id), self.names_dir().join(name.as_str())) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Error::io("claim the name", self.names_dir().join(name.as_str()))(errno)),
        }
    }
}

/// What the symlink of a name of container `id` holds.
fn target_of(id: &ContainerId) -> String {
    URL_SAFE_NO_PAD.encode(id.bytes())
}

/// The id that a name's symlink holds; `None` where it holds something else.
fn id_in(target: &Path) -> Option<ContainerId> {
    let text = target.to_str()?;
    let encoded = || URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(ContainerId::from_bytes);
    text.parse().ok().or_else(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(store: &Store, name: &str) -> Result<ContainerId> {
        let id = ContainerId::random();
        store.commit_container(store.stage()?, &id, &name.parse()?, Durability::Durable)?;
        Ok(id)
    }

    #[test]
    fn a_name_has_one_container() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = commit(&store, "web").unwrap();
        let name: ContainerName = "web".parse().unwrap();
        assert_eq!(store.container_named("web").unwrap(), Some(id.clone()));
        assert!(matches!(store.check_name_is_free(&name), Err(Error::NameTaken { .. })));
        let error = commit(&store, "web").unwrap_err();
        assert!(matches!(&error, Error::NameTaken { id: holder, .. } if *holder == id.to_string()));
        assert_eq!(store.containers().unwrap(), std::slice::from_ref(&id));
        store.release_name(&name, &ContainerId::random()).unwrap();
        assert!(store.container_named("web").unwrap().is_some());
        store.release_name(&name, &id).unwrap();
        assert_eq!(store.container_named("web").unwrap(), None);
        store.ensure_name(&name, &id).unwrap();
        assert_eq!(store.container_named("web").unwrap(), Some(id.clone()));
        let further: ContainerName = "further".parse().unwrap();
        store.claim_name(&further, &id).unwrap();
        assert_eq!(store.container_named("further").unwrap(), Some(id.clone()));
        assert!(matches!(store.claim_name(&further, &id), Err(Error::NameTaken { .. })));
        assert!(store.release_name(&further, &id).unwrap() && !store.release_name(&further, &id).unwrap());
    }

    #[test]
    fn a_name_that_a_crash_left_can_be_taken() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::os::unix::fs::symlink(ContainerId::random().as_str(), store.names_dir().join("web")).unwrap();
        assert_eq!(store.container_named("web").unwrap(), None);
        let id = commit(&store, "web").unwrap();
        assert_eq!(store.container_named("web").unwrap(), Some(id));
        assert_eq!(store.container_named("../web").unwrap(), None);
    }

    #[test]
    fn the_sweep_takes_what_a_crash_left_of_names_and_locks() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        commit(&store, "web").unwrap();
        std::os::unix::fs::symlink(ContainerId::random().as_str(), store.names_dir().join("lost")).unwrap();
        drop(store.lock("layer-left").unwrap());
        let held = store.lock("layer-held").unwrap();
        assert_eq!(store.dangling_names().unwrap(), ["lost"]);
        assert_eq!(store.sweep_names().unwrap(), ["lost"]);
        store.sweep_locks().unwrap();
        assert_eq!(store.dangling_names().unwrap(), Vec::<String>::new());
        assert_eq!(files::list_names(&store.names_dir()).unwrap(), ["web"]);
        assert_eq!(files::list_names(&dir.path().join("locks")).unwrap(), ["layer-held", "names"]);
        drop(held);
    }

    #[test]
    fn a_name_s_symlink_is_short_and_the_long_one_is_read_too() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = commit(&store, "web").unwrap();
        assert_eq!(fs::read_link(store.names_dir().join("web")).unwrap().as_os_str().len(), 43);
        std::os::unix::fs::symlink(id.as_str(), store.names_dir().join("old")).unwrap();
        assert_eq!(store.container_named("old").unwrap(), Some(id.clone()));
        assert!(store.release_name(&"old".parse().unwrap(), &id).unwrap());
        for target in ["", "x", &"_".repeat(42), &"_".repeat(44), &id.as_str()[1..], "../containers"] {
            assert_eq!(id_in(Path::new(target)), None, "{target}");
        }
        for bytes in [[0; 32], [0xff; 32]] {
            let id = ContainerId::from_bytes(bytes);
            assert_eq!(id_in(Path::new(&target_of(&id))), Some(id));
        }
    }

    #[test]
    fn what_is_no_symlink_is_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for name in ["file", "web"] {
            std::fs::write(store.names_dir().join(name), "").unwrap();
        }
        std::fs::create_dir(store.names_dir().join("directory")).unwrap();
        assert_eq!(store.container_named("web").unwrap(), None);
        let id = commit(&store, "web").unwrap();
        assert_eq!(store.container_named("web").unwrap(), Some(id));
        assert_eq!(store.dangling_names().unwrap(), ["directory", "file"]);
        // What cannot go keeps nothing else from going.
        let error = store.sweep_names().unwrap_err();
        assert!(error.to_string().contains("names/directory"), "{error}");
        assert_eq!(store.dangling_names().unwrap(), ["directory"]);
    }

    #[test]
    fn a_container_that_exists_keeps_its_place_and_frees_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = commit(&store, "one").unwrap();
        files::write_new(&store.container_dir(&id).join("x"), b"", Durability::Volatile).unwrap();
        let again = store.commit_container(store.stage().unwrap(), &id, &"two".parse().unwrap(), Durability::Volatile);
        assert!(matches!(again, Err(Error::ContainerExists(_))));
        assert_eq!(files::list_names(&store.names_dir()).unwrap(), ["one"]);
    }

    #[test]
    fn of_many_at_once_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let results: Vec<_> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..8).map(|_| scope.spawn(|| commit(&store, "web").is_ok())).collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|won| **won).count(), 1);
        assert_eq!(store.containers().unwrap().len(), 1);
    }
}
