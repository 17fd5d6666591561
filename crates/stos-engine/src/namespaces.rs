// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose namespaces a container has: its own, the host's, another container's, or its pod's ([`crate::pods`]).
//!
//! Another's are joined at each start, those of the process that it then has: the record says which container, never which process.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use stos_runtime::config::settings::namespace;
use stos_runtime::given_mount::{GivenMount, clone_mount_in};
use stos_store::{ContainerId, files};
use stos_sys::SysError;

use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, find, record, state};
use crate::error::{Error, Result};

/// Whose a namespace is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NamespaceOf {
    /// The container's own.
    #[default]
    Own,
    /// The host's.
    Host,
    /// Another container's: its id, its name, or the beginning of its id.
    Container(String),
    /// The pod's that the container is of.
    Pod,
}

/// Whose namespaces a new container has, but for its mounts, which are its own, and its network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceOptions {
    /// Processes.
    pub pid: NamespaceOf,
    /// System V IPC, message queues, and shared memory in /dev/shm.
    pub ipc: NamespaceOf,
    /// Whether there is a /dev/shm; only with IPC of the container's own can it be done without.
    pub has_no_shm: bool,
    /// The host name.
    pub uts: NamespaceOf,
    /// The view of the cgroups.
    pub cgroup: NamespaceOf,
}

/// The kinds of namespaces that containers may share, by their names in the runtime specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    /// Processes.
    Pid,
    /// System V IPC and message queues.
    Ipc,
    /// The host name.
    Uts,
    /// The view of the cgroups.
    Cgroup,
    /// Users ([`crate::user_namespace`]).
    User,
    /// The network.
    Network,
}

impl NamespaceKind {
    /// Its name in `/proc/PID/ns`; in the runtime specification too, but for `network`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::User => "user",
            Self::Network => "net",
        }
    }

    /// Its `CLONE_NEW*` bit.
    pub(crate) fn flag(self) -> u64 {
        match self {
            Self::Pid => namespace::PID,
            Self::Ipc => namespace::IPC,
            Self::Uts => namespace::UTS,
            Self::Cgroup => namespace::CGROUP,
            Self::User => namespace::USER,
            Self::Network => namespace::NETWORK,
        }
    }
}

impl NamespaceOptions {
    /// Whose each kind is.
    pub(crate) fn each(&self) -> [(NamespaceKind, &NamespaceOf); 4] {
        [
            (NamespaceKind::Pid, &self.pid),
            (NamespaceKind::Ipc, &self.ipc),
            (NamespaceKind::Uts, &self.uts),
            (NamespaceKind::Cgroup, &self.cgroup),
        ]
    }

    /// Finds the containers whose namespaces are to be joined. They need not run before the new one is started.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`].
    pub fn find(&self, engine: &Engine) -> Result<JoinedContainers> {
        let mut joined = JoinedContainers::new();
        for (kind, of) in self.each() {
            let NamespaceOf::Container(query) = of else { continue };
            joined.insert(kind, find(engine, query)?.id);
        }
        Ok(joined)
    }
}

/// Containers whose namespaces another one joins, by the kind of the namespace.
pub type JoinedContainers = BTreeMap<NamespaceKind, ContainerId>;

/// The source of the bind that shows another container's shared memory: what is mounted there is given to the launch. Without that
/// there is no such path, and nothing else is mounted in its place.
pub(crate) const SHM_OF_ANOTHER: &str = "/proc/0/root/dev/shm";

/// A namespace that is held open to be joined.
#[derive(Debug)]
pub(crate) struct HeldNamespace {
    kind: NamespaceKind,
    fd: OwnedFd,
    /// With that of IPC: what the other has at /dev/shm.
    shm: Option<OwnedFd>,
}

impl HeldNamespace {
    /// One that is open; with that of IPC what is to be at /dev/shm.
    pub(crate) fn of(kind: NamespaceKind, fd: OwnedFd, shm: Option<OwnedFd>) -> Self {
        Self { kind, fd, shm }
    }

    /// Its `CLONE_NEW*` bit.
    pub(crate) fn flag(&self) -> u64 {
        self.kind.flag()
    }

    /// Gives the mount that comes with it, where there is one.
    pub(crate) fn take_mount(&mut self) -> Option<GivenMount> {
        Some(GivenMount { source: SHM_OF_ANOTHER.into(), mount: self.shm.take()? })
    }

    /// Where this process, and one that it clones, finds it.
    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }
}

/// Opens the namespaces of the processes that the containers now have.
///
/// # Errors
/// [`Error::NoSuchContainer`] and [`Error::ContainerState`], of the other container.
pub(crate) fn open(engine: &Engine, joined: &JoinedContainers) -> Result<Vec<HeldNamespace>> {
    joined.iter().map(|(kind, id)| open_one(engine, *kind, id)).collect()
}

fn open_one(engine: &Engine, kind: NamespaceKind, id: &ContainerId) -> Result<HeldNamespace> {
    let Some(other) = record(engine, id)? else { return Err(Error::NoSuchContainer(id.short().to_owned())) };
    let not_running = |state: &str| Error::ContainerState {
        action: match kind {
            NamespaceKind::Pid => "join the pid namespace of",
            NamespaceKind::Ipc => "join the ipc namespace of",
            NamespaceKind::Uts => "join the uts namespace of",
            NamespaceKind::Cgroup => "join the cgroup namespace of",
            NamespaceKind::User => "join the user namespace of",
            NamespaceKind::Network => "join the network of",
        },
        container: other.name.to_string(),
        state: state.to_owned(),
        expected: "running",
    };
    let init = match state(engine, id)? {
        ContainerState::Running(run) => run.init.ok_or_else(|| not_running("being started"))?,
        other => return Err(not_running(other.status())),
    };
    let open = |name| {
        let path = format!("/proc/{}/ns/{name}", init.pid);
        let opened = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        opened.map_err(SysError::at("open", || path))
    };
    let opened = open(kind.name());
    let mounts = (kind == NamespaceKind::Ipc).then(|| open("mnt")).transpose();
    // Looked at after they were opened: the number is no other process's as long as it is this one that lives.
    if !init.is_alive()? {
        return Err(not_running("ending"));
    }
    let shm = mounts?.map(|mounts| clone_mount_in(mounts.as_fd(), Path::new("/dev/shm"))).transpose()?;
    Ok(HeldNamespace { kind, fd: opened?, shm })
}

/// Gives the name that a container finds its host to have: its own, that of the pod or the container whose name it has too, or the host's.
pub(crate) fn seen_hostname(engine: &Engine, record: &ContainerRecord) -> Result<String> {
    if record.pod.as_ref().is_some_and(|pod| pod.joins.contains(&NamespaceKind::Uts))
        && let Some(pod) = crate::pods::of_container(engine, record)?
    {
        return Ok(pod.hostname);
    }
    let other = record.joins.get(&NamespaceKind::Uts);
    for id in [Some(&record.id), other].into_iter().flatten() {
        if let Some(hostname) = hostname_of(engine, id)? {
            return Ok(hostname);
        }
    }
    Ok(name_of_host())
}

/// Gives the host's own name.
pub(crate) fn name_of_host() -> String {
    String::from_utf8_lossy(rustix::system::uname().nodename().to_bytes()).into_owned()
}

/// Gives the host name that a container was created with.
pub(crate) fn hostname_of(engine: &Engine, id: &ContainerId) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Configuration {
        hostname: Option<String>,
    }
    let found: Option<Configuration> = files::read_json(&engine.store.container_dir(id).join("config.json"))?;
    Ok(found.and_then(|found| found.hostname))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_joined_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        let other = || NamespaceOf::Container("web".to_owned());
        let options = NamespaceOptions { pid: other(), ..NamespaceOptions::default() };
        assert!(matches!(options.find(&engine), Err(Error::NoSuchContainer(name)) if name == "web"));
        let options = NamespaceOptions { uts: NamespaceOf::Host, ..NamespaceOptions::default() };
        assert!(options.find(&engine).unwrap().is_empty());
        let joined = JoinedContainers::from([(NamespaceKind::Pid, ContainerId::random())]);
        assert!(matches!(open(&engine, &joined), Err(Error::NoSuchContainer(_))));
    }
}
