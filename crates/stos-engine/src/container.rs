// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers of the store: what is recorded of each, what state it is in, and how to find one by what a person types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stos_runtime::{CgroupRecord, ProcessRecord};
use stos_spec::{BlobDigest, ChainId, DiffId, UserSpec};
use stos_store::{ContainerId, ContainerName, files};

use crate::Engine;
use crate::error::{Error, Result};
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

/// The contents of ROOT's `state.json` while a container of image mode runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The container's first process.
    pub init: ProcessRecord,
    /// The monitor that stands beside it.
    pub monitor: ProcessRecord,
    /// Its cgroups.
    pub cgroup: CgroupRecord,
    /// When it was started (RFC 3339).
    pub started: String,
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
    Running(RunRecord),
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

    /// Gives the directory in ROOT of a running container.
    pub(crate) fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    pub(crate) fn run_record_path(&self, id: &ContainerId) -> PathBuf {
        self.run_dir(id).join("image-state.json")
    }
}

/// Reads a container's record; `None` where there is no such container.
pub fn record(engine: &Engine, id: &ContainerId) -> Result<Option<ContainerRecord>> {
    Ok(files::read_json(&engine.record_path(id))?)
}

/// Reads the records of all containers, sorted by id.
pub fn records(engine: &Engine) -> Result<Vec<ContainerRecord>> {
    let mut records = Vec::new();
    for id in engine.store.containers()? {
        records.extend(record(engine, &id)?);
    }
    Ok(records)
}

/// Tells what a container does, from what processes there really are.
pub fn state(engine: &Engine, id: &ContainerId) -> Result<ContainerState> {
    let run: Option<RunRecord> = files::read_json(&engine.run_record_path(id))?;
    if let Some(run) = run.clone().filter(|run| run.init.is_alive().unwrap_or(false)) {
        return Ok(ContainerState::Running(run));
    }
    // `run --rm` makes an empty file beforehand, for those who wait.
    let exit = match files::read_json::<ExitRecord>(&engine.exit_path(id)) {
        Ok(exit) => exit,
        Err(stos_store::Error::Damaged { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    match exit {
        Some(exit) => Ok(ContainerState::Exited(exit)),
        None if run.is_some() || engine.store.container_dir(id).join("started").exists() => Ok(ContainerState::Stopped),
        None => Ok(ContainerState::Created),
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
    record(engine, &id.ok_or_else(missing)?)?.ok_or_else(missing)
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
