// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers of the store: what is recorded of each, what state it is in, and how to find one by what a person types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stos_runtime::{RunState, StateDirectory};
use stos_spec::{BlobDigest, ChainId, DiffId, UserSpec};
use stos_store::{ContainerId, ContainerName, files};

use crate::Engine;
use crate::error::{Error, Result};
use crate::lifecycle::{clear_run_state, with_life_lock};
use crate::options::Network;

/// The contents of `container.json`: all that is decided when a container is created, and never changes.
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
    /// When it was created (RFC 3339).
    pub created: String,
    /// What it runs.
    pub command: Vec<String>,
    /// Whom it runs as, looked up at each start.
    pub user: UserSpec,
    /// Labels, the image's among them.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// Its network.
    pub network: Network,
    /// Whether it goes when its process has ended.
    pub auto_remove: bool,
}

/// The version of `container.json` that this version of stos writes.
pub const RECORD_VERSION: u32 = 1;

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
pub fn record(engine: &Engine, id: &ContainerId) -> Result<Option<ContainerRecord>> {
    Ok(files::read_json(&engine.record_path(id))?)
}

/// The same; but what a power cut left of a container that goes with its process is removed, and then there is none.
pub(crate) fn record_or_remove(engine: &Engine, id: &ContainerId) -> Result<Option<ContainerRecord>> {
    match record(engine, id) {
        Err(Error::Store(stos_store::Error::Damaged { .. })) if remove_gone(engine, id)? => Ok(None),
        other => other,
    }
}

/// Reads the records of all containers, sorted by id.
pub fn records(engine: &Engine) -> Result<Vec<ContainerRecord>> {
    let mut records = Vec::new();
    for id in engine.store.containers()? {
        records.extend(record_or_remove(engine, &id)?);
    }
    Ok(records)
}

/// Removes a container that should have gone with its process (`--rm`) and has not, because its monitor was killed or the
/// machine went down. Tells whether it was one.
///
/// Nothing of such a container is synced, so after a power cut its record may be empty. It is still told from others by its
/// exit record, which was made beforehand for those who wait: no other container ever has one that is not whole.
pub(crate) fn remove_gone(engine: &Engine, id: &ContainerId) -> Result<bool> {
    with_life_lock(engine, id, || {
        let name = match record(engine, id) {
            Ok(Some(record)) if record.auto_remove => Some(record.name),
            Err(Error::Store(stos_store::Error::Damaged { .. }))
                if engine.exit_path(id).exists() && read_exit(engine, id)?.is_none() =>
            {
                None
            }
            _ => return Ok(false),
        };
        match state(engine, id)? {
            // Made and not started yet.
            ContainerState::Created if name.is_some() => return Ok(false),
            ContainerState::Running(_) => return Ok(false),
            _ => {}
        }
        tracing::info!(container = %id, "it should have gone with its process: removed");
        clear_run_state(engine, id)?;
        engine.store.remove_object(&engine.store.container_dir(id))?;
        if let Some(name) = name {
            engine.store.release_name(&name, id)?;
        }
        Ok(true)
    })
}

/// Gives the id under which the runtime knows the container.
pub(crate) fn run_id(id: &ContainerId) -> stos_runtime::ContainerId {
    id.as_str().parse().unwrap_or_else(|_| unreachable!("64 hexadecimal digits are an id for the runtime too"))
}

/// Tells what a container does, from what processes there really are.
pub fn state(engine: &Engine, id: &ContainerId) -> Result<ContainerState> {
    let run = engine.run_state(id)?;
    if let Some(run) = &run {
        // Between the end of its process and its exit record the monitor still lives: not ended yet.
        let process = run.init.as_ref().unwrap_or(&run.creator);
        if process.is_alive()? || (run.creator.is_alive()? && read_exit(engine, id)?.is_none()) {
            return Ok(ContainerState::Running(Box::new(run.clone())));
        }
    }
    match read_exit(engine, id)? {
        Some(exit) => Ok(ContainerState::Exited(exit)),
        // The monitor opens the log before it starts anything.
        None if engine.log_path(id).exists() => Ok(ContainerState::Stopped),
        None => Ok(ContainerState::Created),
    }
}

fn read_exit(engine: &Engine, id: &ContainerId) -> Result<Option<ExitRecord>> {
    match files::read_json::<ExitRecord>(&engine.exit_path(id)) {
        // `run --rm` makes an empty file beforehand, for those who wait.
        Err(stos_store::Error::Damaged { .. }) => Ok(None),
        other => Ok(other?),
    }
}

/// Finds a container by its id, its name, or the start of its id where only one begins so.
pub fn find(engine: &Engine, query: &str) -> Result<ContainerRecord> {
    let missing = || Error::NoSuchContainer(query.to_owned());
    let id = match query.parse::<ContainerId>() {
        Ok(id) => Some(id),
        Err(_) => match engine.store.container_named(query)? {
            Some(id) => Some(id),
            None => find_by_prefix_or_lost_name(engine, query)?,
        },
    };
    record_or_remove(engine, &id.ok_or_else(missing)?)?.ok_or_else(missing)
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
    for record in records(engine)? {
        if record.name.as_str() == query {
            engine.store.ensure_name(&record.name, &record.id)?;
            return Ok(Some(record.id));
        }
    }
    Ok(None)
}
