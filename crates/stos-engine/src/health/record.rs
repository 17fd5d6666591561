// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `health.json` in a container's directory: what its checks have found.
//!
//! It is replaced by a rename, under the container's lock, and not synced: it tells of a life that a power cut ends.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stos_runtime::{ProcessRecord, RunState};
use stos_spec::Healthcheck;
use stos_store::ContainerId;
use stos_store::files::{self, Durability};

use super::is_in_start_period;
use super::probe::Found;
use crate::Engine;
use crate::container::{ContainerRecord, ContainerState};
use crate::error::Result;
use crate::lifecycle::with_life_lock;

/// How many checks are kept: podman's number.
const LOG_LENGTH: usize = 5;

/// How a container is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No check has decided it since the start.
    #[default]
    Starting,
    /// The last check has succeeded, or too few have failed since.
    Healthy,
    /// Too many have failed in a row.
    Unhealthy,
    /// The container does not run.
    Stopped,
    /// It runs, and its monitor was killed: nobody checks it.
    Unknown,
}

impl HealthStatus {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What is known, in podman's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// How the container is.
    pub status: HealthStatus,
    /// How many checks in a row have failed that count.
    pub failing_streak: u32,
    /// The last checks, the newest at the end.
    #[serde(default)]
    pub log: Vec<HealthLog>,
}

/// A check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthLog {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// How it ended: 0 is healthy. -1 where its time was over.
    pub exit_code: i32,
    /// The beginning of what it wrote, or why there was no check.
    pub output: String,
}

/// The contents of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct HealthFile {
    health: Health,
    /// The first process of the life that it tells of.
    life: Option<ProcessRecord>,
}

fn path(engine: &Engine, id: &ContainerId) -> PathBuf {
    engine.store.container_dir(id).join("health.json")
}

fn read(engine: &Engine, id: &ContainerId) -> Result<HealthFile> {
    match files::read_json(&path(engine, id)) {
        // A power cut has taken it.
        Err(stos_store::Error::Damaged { .. }) => Ok(HealthFile::default()),
        other => Ok(other?.unwrap_or_default()),
    }
}

fn write(engine: &Engine, id: &ContainerId, file: &HealthFile) -> Result<()> {
    Ok(files::replace(&path(engine, id), &engine.store.staging_area(), &files::to_json(file), Durability::Volatile)?)
}

/// What is known of a container's health in this state; `None` where it has no check.
pub fn health(engine: &Engine, record: &ContainerRecord, state: &ContainerState) -> Result<Option<Health>> {
    let Some(check) = &record.service.healthcheck else { return Ok(None) };
    let file = read(engine, &record.id)?;
    let status = match state {
        ContainerState::Running(run) if check.interval > 0 && !run.creator.is_alive()? => HealthStatus::Unknown,
        ContainerState::Running(run) if run.init.is_some() && file.life == run.init => file.health.status,
        ContainerState::Running(_) | ContainerState::Created => HealthStatus::Starting,
        ContainerState::Exited(_) | ContainerState::Stopped => HealthStatus::Stopped,
    };
    Ok(Some(Health { status, ..file.health }))
}

/// Begins a life: nothing is known of it, unless somebody has asked for a check already. The last checks of the one before stay to be read.
pub(super) fn begin(engine: &Engine, id: &ContainerId, run: &RunState) -> Result<()> {
    with_life_lock(engine, id, |lock| {
        if lock.is_none() {
            return Ok(());
        }
        let file = read(engine, id)?;
        if run.init.is_some() && file.life == run.init {
            return Ok(());
        }
        let health = Health { log: file.health.log, ..Health::default() };
        write(engine, id, &HealthFile { health, life: run.init.clone() })
    })
}

/// What a check has changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noted {
    /// The container's status before.
    pub(super) before: HealthStatus,
    /// The status that it has by that.
    pub(super) status: HealthStatus,
}

/// Notes what a check has found, and tells who listens; `None` where the container has gone, or another life of it has begun.
pub(super) fn note(
    engine: &Engine,
    record: &ContainerRecord,
    run: &RunState,
    check: &Healthcheck,
    found: Found,
) -> Result<Option<Noted>> {
    let noted = with_life_lock(engine, &record.id, |lock| {
        let current = engine.run_state(&record.id)?;
        if lock.is_none() || current.and_then(|current| current.init) != run.init {
            return Ok(None);
        }
        // A check that has failed because the container was ending says nothing of it.
        let lives = run.init.as_ref().map_or(Ok(false), ProcessRecord::is_alive)?;
        if found.exit_code != 0 && !lives {
            return Ok(None);
        }
        let mut file = read(engine, &record.id)?;
        if file.life != run.init {
            let log = file.health.log;
            file = HealthFile { health: Health { log, ..Health::default() }, life: run.init.clone() };
        }
        let before = file.health.status;
        let counts = !is_in_start_period(check, run.created, found.start);
        file.health.take(found, counts, check.retries);
        write(engine, &record.id, &file)?;
        Ok(Some((before, file.health)))
    })?;
    let Some((before, health)) = noted else { return Ok(None) };
    engine.note_health(&engine.renamed(record), (health.status.word(), health.failing_streak));
    Ok(Some(Noted { before, status: health.status }))
}

impl Health {
    /// Takes a check into account; a failure that `counts` may make the container unhealthy.
    fn take(&mut self, found: Found, counts: bool, retries: i64) {
        if found.exit_code == 0 {
            self.status = HealthStatus::Healthy;
            self.failing_streak = 0;
        } else if counts {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if i64::from(self.failing_streak) >= retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        let Found { start, end, exit_code, output } = found;
        self.log.push(HealthLog { start, end, exit_code, output });
        self.log.drain(..self.log.len().saturating_sub(LOG_LENGTH));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(exit_code: i32) -> Found {
        let time = Timestamp::UNIX_EPOCH;
        Found { start: time, end: time, exit_code, output: exit_code.to_string() }
    }

    #[test]
    fn only_so_many_failures_in_a_row_make_it_unhealthy() {
        let mut health = Health::default();
        let mut after = |code, counts| {
            health.take(found(code), counts, 2);
            (health.status, health.failing_streak)
        };
        assert_eq!(after(1, false), (HealthStatus::Starting, 0), "in the start period");
        assert_eq!(after(1, true), (HealthStatus::Starting, 1));
        assert_eq!(after(0, true), (HealthStatus::Healthy, 0));
        assert_eq!(after(127, true), (HealthStatus::Healthy, 1));
        assert_eq!(after(-1, true), (HealthStatus::Unhealthy, 2));
        assert_eq!(after(3, false), (HealthStatus::Unhealthy, 2));
        assert_eq!(after(0, false), (HealthStatus::Healthy, 0));
        let kept: Vec<_> = health.log.iter().map(|entry| entry.exit_code).collect();
        assert_eq!(kept, [0, 127, -1, 3, 0]);
    }

    #[test]
    fn it_is_written_in_podman_s_words() {
        let mut health = Health::default();
        health.take(found(7), true, 1);
        let expected = serde_json::json!({"Status": "unhealthy", "FailingStreak": 1, "Log": [
            {"Start": "1970-01-01T00:00:00Z", "End": "1970-01-01T00:00:00Z", "ExitCode": 7, "Output": "7"}]});
        assert_eq!(serde_json::to_value(&health).unwrap(), expected);
    }
}
