// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers of the store: what is recorded of each, what state it is in, and how to find one by what a person types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stos_layerfs::BackendKind;
use stos_runtime::{CgroupRecord, ProcessRecord, RunState, StateDirectory};
use stos_spec::{BlobDigest, ChainId, DiffId, UserSpec};
use stos_store::files::Durability;
use stos_store::{ContainerId, ContainerName, Lock, Staging, files};

use crate::Engine;
use crate::attach::StreamOptions;
use crate::error::{Error, Result};
use crate::image_volumes::UsedImage;
use crate::lifecycle::{remove_locked, with_life_lock};
use crate::namespaces::JoinedContainers;
use crate::networking::Networking;
use crate::options::Network;
use crate::pods::Membership;
use crate::rename::try_free_stale_name;
use crate::restart::is_awaited;
use crate::service::Service;
use crate::unit::UnitOptions;
use crate::user_namespace::UserNamespace;
use crate::volumes::UsedVolume;

/// The contents of `container.json`: all that is decided when a container is created, and never
/// changes but for its name ([`crate::rename`]), its networks ([`crate::networking::connect`]) and its restart policy
/// ([`crate::service::update`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The version of this record.
    pub version: u32,
    /// The container.
    pub id: ContainerId,
    /// Its name.
    pub name: ContainerName,
    /// The image as it was named.
    pub image: String,
    /// The image ID.
    pub image_id: BlobDigest,
    /// The image's manifest.
    pub manifest: BlobDigest,
    /// The image's layers, the lowest first.
    pub layers: Vec<DiffId>,
    /// The chain of those layers.
    pub chain: ChainId,
    /// The backend that shows its layers: the container stays with it.
    #[serde(default = "erofs")]
    pub backend: BackendKind,
    /// When it was created (RFC 3339).
    pub created: String,
    /// What it runs.
    pub command: Vec<String>,
    /// How much of that is its entrypoint. Records of old do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Whom it runs as, looked up at each start.
    pub user: UserSpec,
    /// Labels, the image's among them.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// The kind of its network.
    pub network: Network,
    /// What its network is besides.
    #[serde(default, skip_serializing_if = "Networking::is_default")]
    pub networking: Networking,
    /// The containers whose namespaces it joins at each start.
    #[serde(default, skip_serializing_if = "JoinedContainers::is_empty")]
    pub joins: JoinedContainers,
    /// The pod that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Membership>,
    /// Its users, where they are not the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_namespace: Option<UserNamespace>,
    /// Its volumes. Those of an earlier version's containers lie in their own directories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<UsedVolume>,
    /// Images that are mounted in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<UsedImage>,
    /// Whether it goes when its process has ended.
    pub auto_remove: bool,
    /// How it is looked after.
    #[serde(default, skip_serializing_if = "Service::is_default")]
    pub service: Service,
    /// What its standard streams are.
    #[serde(default)]
    pub streams: StreamOptions,
    /// Whether its first process is an init of ours.
    #[serde(default)]
    pub init: bool,
    /// What it is as a service.
    #[serde(default, skip_serializing_if = "UnitOptions::is_default")]
    pub unit: UnitOptions,
    /// The `run` that made it and is to start it, where it goes with its process: should that be killed before, it goes too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_by: Option<ProcessRecord>,
}

impl ContainerRecord {
    /// Whether nothing of what it writes need outlast a crash, nor its own end: an overlay that is mounted so is mounted once.
    pub(crate) fn is_volatile(&self) -> bool {
        self.auto_remove && !self.service.may_restart()
    }
}

/// The version of `container.json` that this version of stos writes.
pub const RECORD_VERSION: u32 = 1;

/// The backend of records that say none.
fn erofs() -> BackendKind {
    BackendKind::Erofs
}

/// The contents of `exit.json`: how a container's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// What the process gave, or 128 + the signal that ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel ended a process of it for want of memory.
    pub oom_killed: bool,
    /// When it was started (RFC 3339).
    pub started: String,
    /// When it ended (RFC 3339).
    pub finished: String,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// It was never started.
    Created,
    /// It runs.
    Running(Box<RunState>),
    /// It has ended.
    Exited(ExitRecord),
    /// It does not run, and nobody saw how it ended: its monitor was killed, or the machine went down.
    Stopped,
}

impl ContainerState {
    /// Gives the state's name, in the runtime specification's words.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running(run) if run.cgroup.is_frozen() => "paused",
            Self::Running(_) => "running",
            Self::Exited(_) | Self::Stopped => "stopped",
        }
    }
}

/// Gives the time of day in UTC (RFC 3339, nanoseconds).
pub fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

impl Engine {
    pub(crate) fn record_path(&self, id: &ContainerId) -> PathBuf {
        self.store.container_dir(id).join("container.json")
    }

    /// Writes the changed record of a container that is there. Its lock is held.
    pub(crate) fn replace_record(&self, record: &ContainerRecord) -> Result<()> {
        let durability = if record.auto_remove { Durability::Volatile } else { Durability::Durable };
        let path = self.record_path(&record.id);
        Ok(files::replace(&path, &self.store.staging_area(), &files::to_json(record), durability)?)
    }

    pub(crate) fn exit_path(&self, id: &ContainerId) -> PathBuf {
        self.store.container_dir(id).join("exit.json")
    }

    pub(crate) fn log_path(&self, id: &ContainerId) -> PathBuf {
        self.store.container_dir(id).join("log")
    }

    /// Gives the run states of ROOT, where running containers of both modes stand.
    pub fn run_states(&self) -> StateDirectory {
        StateDirectory::new(&self.root)
    }

    /// Reads the run state of a container; `None` where it does not run, as far as ROOT knows.
    pub(crate) fn run_state(&self, id: &ContainerId) -> Result<Option<RunState>> {
        match self.run_states().read(&run_id(id)) {
            Ok(state) => Ok(Some(state)),
            Err(stos_runtime::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads a container's record; `None` where there is no such container.
///
/// # Errors
/// [`Error::RecordVersion`] for a record of another version of stos, which may have any form;
/// [`stos_store::Error::Damaged`] for one that has no form, is missing from a container's directory, or contradicts it or itself:
/// what it says of the container's id and chain follows from the directory's name and its layers.
pub fn record(engine: &Engine, id: &ContainerId) -> Result<Option<ContainerRecord>> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let path = engine.record_path(id);
    let damaged = |reason: String| stos_store::Error::Damaged { path: path.clone(), reason };
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Directory and record come and go together, by one rename.
            let is_left = engine.store.container_dir(id).exists();
            return if is_left { Err(damaged("it is missing".to_owned()).into()) } else { Ok(None) };
        }
        Err(error) => return Err(stos_store::Error::io("read", &path)(error).into()),
    };
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if version != u64::from(RECORD_VERSION) {
        return Err(Error::RecordVersion { path, expected: RECORD_VERSION, found: version });
    }
    let record: ContainerRecord = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if record.id != *id {
        return Err(damaged(format!("it is that of container {}", record.id)).into());
    }
    for image in record.needed_images() {
        if ChainId::of_layers(image.layers) != Some(image.chain) {
            return Err(damaged(format!("its layers are not those of chain {}", image.chain)).into());
        }
    }
    Ok(Some(record))
}

/// The same; but what is left of a container that goes with its process is removed, and then there is none.
fn record_or_remove(engine: &Engine, id: &ContainerId) -> Result<Option<ContainerRecord>> {
    let found = record(engine, id);
    let may_be_gone = match &found {
        Ok(Some(record)) => record.auto_remove && is_gone(engine, record)?,
        Err(Error::Store(stos_store::Error::Damaged { .. })) => true,
        _ => false,
    };
    if may_be_gone && !engine.store.is_read_only() && remove_gone(engine, id)? { Ok(None) } else { found }
}

/// Lists all containers, sorted by id, each with its record, or with why that cannot be read.
pub fn list(engine: &Engine) -> Result<Vec<(ContainerId, Result<ContainerRecord>)>> {
    let ids = engine.store.containers()?.into_iter();
    Ok(ids.filter_map(|id| Some((id.clone(), record_or_remove(engine, &id).transpose()?))).collect())
}

/// Reads the records of all containers, sorted by id, or fails: for those who must not overlook one.
pub fn records(engine: &Engine) -> Result<Vec<ContainerRecord>> {
    list(engine)?.into_iter().map(|(_, record)| record).collect()
}

/// Tells whether a container that goes with its process should have gone: it has ended, or who was starting it was killed.
pub(crate) fn is_gone(engine: &Engine, record: &ContainerRecord) -> Result<bool> {
    match state(engine, &record.id)? {
        ContainerState::Running(_) => Ok(false),
        // With a restart policy it may have ended for a moment only.
        ContainerState::Exited(_) | ContainerState::Stopped => Ok(!is_awaited(engine, record)?),
        ContainerState::Created => {
            let run = engine.run_state(&record.id)?;
            match run.as_ref().map(|run| &run.creator).or(record.run_by.as_ref()) {
                Some(starter) => Ok(!starter.is_alive()?),
                // `create --rm`: it waits for its first start.
                None => Ok(false),
            }
        }
    }
}

/// Removes a container that should have gone with its process (`--rm`) and has not, because its monitor was killed or the
/// machine went down. Tells whether it was one.
///
/// Nothing of such a container is synced, so after a power cut its record may be empty. It is still told from others by its
/// exit record, which was made beforehand for those who wait: no other container ever has one that is not whole.
pub(crate) fn remove_gone(engine: &Engine, id: &ContainerId) -> Result<bool> {
    with_life_lock(engine, id, |lock| take_remainder(engine, id, lock)).map(|taken| taken.is_some())
}

/// The same for a sweep, which waits for nobody: one that somebody is at work on stays. Its files are deleted when what comes back
/// is dropped; `None` where it was none.
pub(crate) fn take_gone(engine: &Engine, id: &ContainerId) -> Result<Option<Vec<Staging>>> {
    match Lock::try_directory(&engine.store.container_dir(id))? {
        Some(lock) => take_remainder(engine, id, Some(&lock)),
        None => Ok(None),
    }
}

fn take_remainder(engine: &Engine, id: &ContainerId, lock: Option<&Lock>) -> Result<Option<Vec<Staging>>> {
    let Some(record) = remainder(engine, id)? else { return Ok(None) };
    tracing::info!(container = %id, "it should have gone with its process: removed");
    Ok(Some(remove_locked(engine, id, record.as_ref(), lock)?.into_iter().collect()))
}

/// Tells whether a container should have gone with its process: [`remove_gone`] would remove it.
pub(crate) fn is_remainder(engine: &Engine, id: &ContainerId) -> Result<bool> {
    Ok(remainder(engine, id)?.is_some())
}

/// Gives a container that should have gone with its process; `Some(None)` where its record is lost.
fn remainder(engine: &Engine, id: &ContainerId) -> Result<Option<Option<ContainerRecord>>> {
    Ok(match record(engine, id) {
        Ok(Some(record)) if record.auto_remove && is_gone(engine, &record)? => Some(Some(record)),
        Err(Error::Store(stos_store::Error::Damaged { .. }))
            if engine.exit_path(id).exists()
                && read_exit(engine, id)?.is_none()
                && !matches!(state(engine, id)?, ContainerState::Running(_)) =>
        {
            Some(None)
        }
        _ => None,
    })
}

/// Gives the id under which the runtime knows the container.
pub(crate) fn run_id(id: &ContainerId) -> stos_runtime::ContainerId {
    id.as_str().parse().unwrap_or_else(|_| unreachable!("64 hexadecimal digits are an id for the runtime too"))
}

/// Tells what a container does, from what processes there really are.
pub fn state(engine: &Engine, id: &ContainerId) -> Result<ContainerState> {
    loop {
        let run = engine.run_state(id)?;
        if let Some(run) = &run
            && let Some(living) = living(engine, id, run)?
        {
            return Ok(ContainerState::Running(Box::new(living)));
        }
        if let Some(exit) = read_exit(engine, id)? {
            return Ok(ContainerState::Exited(exit));
        }
        // The monitor opens the log before it starts anything.
        let was_started = engine.log_path(id).exists();
        // A start between the two looks removes the last life's exit record: then this was neither the old state nor the new.
        if engine.run_state(id)? == run {
            return Ok(if was_started { ContainerState::Stopped } else { ContainerState::Created });
        }
    }
}

/// Gives the run state of a container of which a process lives, the monitor among them; `None` where none does.
fn living(engine: &Engine, id: &ContainerId, run: &RunState) -> Result<Option<RunState>> {
    let lives = match &run.init {
        Some(init) if init.is_alive()? => true,
        // Between the end of its process and its exit record the monitor still lives: not ended yet.
        Some(_) => run.creator.is_alive()? && read_exit(engine, id)?.is_none(),
        None => run.creator.is_alive()?,
    };
    if lives {
        return Ok(Some(run.clone()));
    }
    if run.init.is_some() {
        return Ok(None);
    }
    // The monitor was killed before it wrote the process down.
    let init = oldest_process(&run.cgroup)?;
    Ok(init.map(|init| RunState { init: Some(init), ..run.clone() }))
}

/// Gives the oldest process in a container's cgroups: all others descend from it.
fn oldest_process(cgroup: &CgroupRecord) -> Result<Option<ProcessRecord>> {
    let mut oldest: Option<ProcessRecord> = None;
    for pid in cgroup.processes()? {
        let Some(found) = ProcessRecord::of(pid)? else { continue };
        let is_older = oldest.as_ref().is_none_or(|other| (found.start_time, pid) < (other.start_time, other.pid));
        if is_older && found.is_alive()? {
            oldest = Some(found);
        }
    }
    Ok(oldest)
}

pub(crate) fn read_exit(engine: &Engine, id: &ContainerId) -> Result<Option<ExitRecord>> {
    match files::read_json::<ExitRecord>(&engine.exit_path(id)) {
        // `run --rm` makes an empty file beforehand, for those who wait.
        Err(stos_store::Error::Damaged { .. }) => Ok(None),
        other => Ok(other?),
    }
}

/// Finds a container by its id, its name, or the start of its id where only one begins so.
pub fn find(engine: &Engine, query: &str) -> Result<ContainerRecord> {
    let id = find_id(engine, query)?;
    record_or_remove(engine, &id)?.ok_or_else(|| Error::NoSuchContainer(query.to_owned()))
}

/// The same for the id alone: it is known also where the record cannot be read.
pub(crate) fn find_id(engine: &Engine, query: &str) -> Result<ContainerId> {
    let id = match query.parse::<ContainerId>() {
        Ok(id) => Some(id),
        Err(_) => match engine.store.container_named(query)? {
            Some(id) if goes_by(engine, &id, query) => Some(id),
            Some(id) => {
                if let (Ok(name), false) = (query.parse(), engine.store.is_read_only()) {
                    try_free_stale_name(engine, &id, &name)?;
                }
                find_by_prefix_or_lost_name(engine, query)?
            }
            None => find_by_prefix_or_lost_name(engine, query)?,
        },
    };
    id.ok_or_else(|| Error::NoSuchContainer(query.to_owned()))
}

/// Tells whether a container's own record agrees with the symlink of a name that leads to it. One that cannot be read has no say.
fn goes_by(engine: &Engine, id: &ContainerId, name: &str) -> bool {
    record(engine, id).ok().flatten().is_none_or(|record| record.name.as_str() == name)
}

fn find_by_prefix_or_lost_name(engine: &Engine, query: &str) -> Result<Option<ContainerId>> {
    let ids = engine.store.containers()?;
    let fitting: Vec<_> = ids.iter().filter(|id| !query.is_empty() && id.as_str().starts_with(query)).collect();
    match fitting.as_slice() {
        [id] => return Ok(Some((*id).clone())),
        [] => {}
        several => {
            let candidates = several.iter().map(|id| id.short().to_owned()).collect();
            return Err(Error::AmbiguousContainer { query: query.to_owned(), candidates });
        }
    }
    // A power cut may have kept a container and lost the symlink of its name: the record knows it still.
    let mut records = list(engine)?.into_iter().filter_map(|(_, record)| record.ok());
    let Some(record) = records.find(|record| record.name.as_str() == query) else { return Ok(None) };
    if !engine.store.is_read_only() {
        engine.store.ensure_name(&record.name, &record.id)?;
    }
    Ok(Some(record.id))
}
