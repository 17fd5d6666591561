// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods: containers that share namespaces, ports and a host name.
//!
//! | module | what it does |
//! |---|---|
//! | here | what is recorded of a pod, and finding one by what a person types |
//! | `create` | a new pod |
//! | `member` | a new container of a pod |
//! | `shared` | what its containers share: made at the first start, held, taken down |
//! | `life` | start, stop, kill, pause, remove |
//! | `status` | what a pod does, and who is in it |
//!
//! ```text
//! DATA-ROOT/pods/ID/       what lasts ([`stos_store::pods`])
//! ROOT/pods/ID/            what its containers share now
//!   state.json             whose it is, and the infra process where there is one
//!   net ipc uts cgroup     the namespaces, mounted here
//!   shm/                   the memory of all its containers
//! ROOT/pod-networks/ID/    its networks ([`stos_network::sandbox`])
//! ```
//!
//! Namespaces are held by their mounts, not by a process. Only where something else must hold what is shared there is an infra process
//! ([`stos_runtime::pause`]): a pid namespace lives as long as its first process, and ports of the host belong to who has them open
//! (docs/adr/0011-pods.md).

mod create;
mod error;
mod life;
mod member;
mod shared;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stos_network::sandbox::Sandboxes;
use stos_store::{ContainerName, Lock, PodId, files};

use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::{Error, Result};
use crate::namespaces::NamespaceKind;
use crate::networking::Networking;
use crate::options::Network;

pub use create::{PodOptions, create_pod};
pub use error::PodError;
pub use life::{Attempts, kill, pause, prune, remove, remove_damaged, start, stop, unpause};
pub use member::{Membership, PodOption};
pub(crate) use member::{find_for, hold, shared_files};
pub use shared::Up;
pub(crate) use shared::{member_ended, open_namespaces, sweep};
pub use status::{Member, PodStatus, PodView, look, look_at_all};

/// The version of `pod.json` that this version of stos writes.
pub const POD_VERSION: u32 = 1;

/// What becomes of a pod when its last container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitPolicy {
    /// What is shared stays.
    #[default]
    Continue,
    /// It stops too.
    Stop,
}

impl ExitPolicy {
    /// podman's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Stop => "stop",
        }
    }
}

/// The contents of `pod.json`: all that is decided when a pod is made, and never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The version of this record.
    pub version: u32,
    /// The pod.
    pub id: PodId,
    /// Its name.
    pub name: ContainerName,
    /// When it was made (RFC 3339).
    pub created: String,
    /// The host's name for all its containers.
    pub hostname: String,
    /// What its containers share.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub shares: BTreeSet<NamespaceKind>,
    /// Whether it has anything of its own that is started and stopped.
    pub infra: bool,
    /// The kind of its network, where that is shared.
    pub network: Network,
    /// What its network is besides.
    #[serde(default, skip_serializing_if = "Networking::is_default")]
    pub networking: Networking,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What becomes of it when its last container has ended.
    #[serde(default)]
    pub exit_policy: ExitPolicy,
    /// What made it, word by word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

impl PodRecord {
    /// Whether its containers share it.
    pub fn shares(&self, kind: NamespaceKind) -> bool {
        self.shares.contains(&kind)
    }

    /// The namespaces that are held by mounts: all that are shared and not the host's, or of a path, or of processes.
    pub(crate) fn pinned(&self) -> impl Iterator<Item = NamespaceKind> + '_ {
        let has_network = matches!(self.network, Network::None | Network::Bridge);
        self.shares.iter().copied().filter(move |kind| match kind {
            NamespaceKind::Network => has_network,
            NamespaceKind::Ipc | NamespaceKind::Uts | NamespaceKind::Cgroup => true,
            NamespaceKind::Pid | NamespaceKind::User => false,
        })
    }

    /// Whether it has networks of its own.
    pub(crate) fn has_networks(&self) -> bool {
        self.shares(NamespaceKind::Network) && self.network == Network::Bridge
    }

    /// Whether something of it must be held by a process.
    pub(crate) fn needs_process(&self) -> bool {
        self.shares(NamespaceKind::Pid) || (self.has_networks() && !self.networking.ports.is_empty())
    }
}

impl Engine {
    /// Where lies what is shared now, of all pods.
    pub(crate) fn shared_dir(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Gives the networks of all pods.
    pub fn pod_sandboxes(&self) -> Sandboxes {
        self.sandboxes().below(self.root.join("pod-networks"))
    }
}

fn not_found(query: &str) -> Error {
    PodError::NotFound(query.to_owned()).into()
}

/// Reads a pod's record; `None` where there is no such pod.
///
/// # Errors
/// [`Error::RecordVersion`] for a record of another version of stos; [`stos_store::Error::Damaged`] for one that is missing or cannot be read
/// as what it should be.
pub fn record(engine: &Engine, id: &PodId) -> Result<Option<PodRecord>> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let path = engine.store.pod_dir(id).join("pod.json");
    let damaged = |reason: String| stos_store::Error::Damaged { path: path.clone(), reason };
    let found: Option<serde_json::Value> = files::read_json(&path)?;
    let Some(found) = found else {
        let is_left = engine.store.pod_dir(id).exists();
        return if is_left { Err(damaged("it is missing".to_owned()).into()) } else { Ok(None) };
    };
    let Versioned { version } = Versioned::deserialize(&found).map_err(|error| damaged(error.to_string()))?;
    if version != u64::from(POD_VERSION) {
        return Err(Error::RecordVersion { path, expected: POD_VERSION, found: version });
    }
    let record = PodRecord::deserialize(found).map_err(|error| damaged(error.to_string()))?;
    if record.id != *id {
        return Err(damaged(format!("it is that of pod {}", record.id)).into());
    }
    Ok(Some(record))
}

/// Lists all pods, sorted by id, each with its record, or with why that cannot be read.
pub fn list(engine: &Engine) -> Result<Vec<(PodId, Result<PodRecord>)>> {
    let ids = engine.store.pods()?.into_iter();
    Ok(ids.filter_map(|id| Some((id.clone(), record(engine, &id).transpose()?))).collect())
}

/// Finds a pod by its id, its name, or the start of its id where only one begins so.
///
/// # Errors
/// [`PodError::NotFound`], [`PodError::Ambiguous`]; those of [`record`].
pub fn find(engine: &Engine, query: &str) -> Result<PodRecord> {
    record(engine, &find_id(engine, query)?)?.ok_or_else(|| not_found(query))
}

/// The same for the id alone: it is known also where the record cannot be read.
pub fn find_id(engine: &Engine, query: &str) -> Result<PodId> {
    let ids = engine.store.pods()?;
    if let Ok(id) = query.parse::<PodId>() {
        return if ids.contains(&id) { Ok(id) } else { Err(not_found(query)) };
    }
    if let Some(id) = engine.store.pod_named(query)? {
        return Ok(id);
    }
    let fitting: Vec<_> = ids.iter().filter(|id| !query.is_empty() && id.as_str().starts_with(query)).collect();
    match fitting.as_slice() {
        [id] => return Ok((*id).clone()),
        [] => {}
        several => {
            let candidates = several.iter().map(|id| id.short().to_owned()).collect();
            return Err(PodError::Ambiguous { query: query.to_owned(), candidates }.into());
        }
    }
    // A power cut may have kept a pod and lost the symlink of its name: the record knows it still.
    let mut records = list(engine)?.into_iter().filter_map(|(_, record)| record.ok());
    let Some(record) = records.find(|record| record.name.as_str() == query) else { return Err(not_found(query)) };
    if !engine.store.is_read_only() {
        engine.store.ensure_name(&record.name, record.id.digits())?;
    }
    Ok(record.id)
}

/// Gives the pod that a container is of; `None` for one of none.
///
/// # Errors
/// [`PodError::Gone`]; those of [`record`].
pub fn of_container(engine: &Engine, container: &ContainerRecord) -> Result<Option<PodRecord>> {
    let Some(membership) = &container.pod else { return Ok(None) };
    record(engine, &membership.id)?.map(Some).ok_or_else(|| gone(container, &membership.id))
}

fn gone(container: &ContainerRecord, pod: &PodId) -> Error {
    PodError::Gone { container: container.name.to_string(), pod: pod.short().to_owned() }.into()
}

/// Gives the pods that have a part in a network: for those who only look. One whose record cannot be read is told in the log.
///
/// # Errors
/// Where the store cannot be read.
pub fn users_of_network(engine: &Engine, network: &str) -> Result<Vec<PodRecord>> {
    let mut users = Vec::new();
    for (id, record) in list(engine)? {
        match record {
            Ok(record) if record.networking.has_part_in(network) => users.push(record),
            Ok(_) => {}
            Err(error) => tracing::warn!(pod = %id, %error, "which networks it uses is not known"),
        }
    }
    Ok(users)
}

/// Takes a pod's lock, and reads its record again: whatever was decided of it before may be another's decision by now.
fn locked(engine: &Engine, id: &PodId) -> Result<(Lock, PodRecord)> {
    let lock = engine.store.lock_pod(id)?.ok_or_else(|| not_found(id.short()))?;
    let record = record(engine, id)?.ok_or_else(|| not_found(id.short()))?;
    Ok((lock, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn engine() -> (tempfile::TempDir, Engine) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        (dir, engine)
    }

    pub(super) fn pod(engine: &Engine, name: &str) -> PodRecord {
        let options = PodOptions { name: Some(name.parse().unwrap()), ..PodOptions::default() };
        create_pod(engine, &options).unwrap()
    }

    #[test]
    fn a_pod_is_found_by_name_id_and_the_beginning_of_its_id() {
        let (_dir, engine) = engine();
        let (web, db) = (pod(&engine, "web"), pod(&engine, "db"));
        for query in ["web", web.id.as_str(), web.id.short()] {
            assert_eq!(find(&engine, query).unwrap(), web, "{query}");
        }
        for query in ["we", "", "none", &"0".repeat(64)] {
            assert!(matches!(find(&engine, query), Err(Error::Pod(PodError::NotFound(_)))), "{query:?}");
        }
        // As a power cut may leave it.
        files::remove_file(&engine.store().names_dir().join("db")).unwrap();
        assert_eq!(find(&engine, "db").unwrap(), db);
        assert_eq!(engine.store().pod_named("db").unwrap(), Some(db.id));
    }

    #[test]
    fn a_record_that_is_none_is_damage_and_another_version_is_not() {
        let (_dir, engine) = engine();
        let web = pod(&engine, "web");
        let path = engine.store().pod_dir(&web.id).join("pod.json");
        let damaged = |error: &Error| matches!(error, Error::Store(stos_store::Error::Damaged { .. }));
        for bytes in [
            b"{".to_vec(),
            b"{\"version\":1}".to_vec(),
            files::to_json(&PodRecord { id: PodId::random(), ..web.clone() }),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(damaged(&find(&engine, "web").unwrap_err()));
        }
        std::fs::write(&path, "{\"version\":2}").unwrap();
        assert!(matches!(find(&engine, "web"), Err(Error::RecordVersion { found: 2, .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(damaged(&find(&engine, "web").unwrap_err()));
    }

    #[test]
    fn only_processes_and_ports_need_a_process() {
        let (_dir, engine) = engine();
        let plain = pod(&engine, "web");
        assert!(!plain.needs_process());
        assert_eq!(plain.pinned().count(), 3);
        let with_pids = PodRecord { shares: [NamespaceKind::Pid].into(), ..plain.clone() };
        assert!(with_pids.needs_process() && with_pids.pinned().next().is_none());
        let mut published = PodRecord { network: Network::Bridge, ..plain.clone() };
        published.networking.ports = vec!["80:80".parse().unwrap()];
        assert!(published.needs_process());
        let of_host = PodRecord { network: Network::Host, ..plain };
        assert_eq!(of_host.pinned().collect::<Vec<_>>(), [NamespaceKind::Ipc, NamespaceKind::Uts]);
    }
}
