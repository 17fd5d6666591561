// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When the monitor makes a check, and what it does with what was found.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use stos_runtime::RunState;
use stos_spec::Healthcheck;

use super::probe::Probe;
use super::record::{self, HealthStatus};
use super::{is_in_start_period, time};
use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::Result;
use crate::service::OnFailure;

/// How soon a container is looked at again that is frozen when a check is due.
const FROZEN_INTERVAL: Duration = Duration::from_secs(1);

/// The health checks of one life of a container.
#[derive(Debug)]
pub(crate) struct Checker<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    check: &'a Healthcheck,
    run: RunState,
    status: HealthStatus,
    /// When the next check is to begin; `None` while one is being made, and where none is ever made by itself.
    due: Option<Instant>,
    probe: Option<Probe>,
}

impl<'a> Checker<'a> {
    /// Begins with a life: `run` is its state, with its first process. `None` where the container has no check.
    pub(crate) fn begin(
        engine: &'a Engine,
        record: &'a ContainerRecord,
        run: &RunState,
        first: Instant,
    ) -> Option<Self> {
        let check = record.service.healthcheck.as_ref()?;
        if let Err(error) = record::begin(engine, &record.id, run) {
            tracing::warn!(container = %record.name, %error, "its health cannot be written down");
        }
        let due = (check.interval > 0).then_some(first);
        Some(Self { engine, record, check, run: run.clone(), status: HealthStatus::Starting, due, probe: None })
    }

    /// Whether the last check that counts has succeeded.
    pub(crate) fn is_healthy(&self) -> bool {
        self.status == HealthStatus::Healthy
    }

    /// What tells of the end of a check.
    pub(crate) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.probe.as_ref().map(Probe::as_fd)
    }

    /// When something is to be done though nothing has happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.probe.as_ref().map(Probe::deadline).or(self.due)
    }

    /// Takes what a check has found, and begins the next where it is time. Gives what is to be done with the container where it has become
    /// unhealthy just now. What cannot be done is told, and keeps nothing of the container from going on.
    pub(crate) fn step(&mut self) -> Option<OnFailure> {
        let result = if self.probe.is_some() { self.finish() } else { self.begin_if_due().map(|()| None) };
        result.unwrap_or_else(|error| {
            tracing::warn!(container = %self.record.name, %error, "its health cannot be checked");
            self.probe = None;
            self.due = Some(Instant::now() + self.interval());
            None
        })
    }

    fn begin_if_due(&mut self) -> Result<()> {
        if self.due.is_none_or(|due| Instant::now() < due) {
            return Ok(());
        }
        if self.run.cgroup.is_frozen() {
            self.due = Some(Instant::now() + self.interval().min(FROZEN_INTERVAL));
            return Ok(());
        }
        self.due = None;
        self.probe = Some(Probe::start(self.engine, self.record, &self.run, self.check)?);
        Ok(())
    }

    fn finish(&mut self) -> Result<Option<OnFailure>> {
        let Some(found) = self.probe.as_mut().map(Probe::poll).transpose()?.flatten() else { return Ok(None) };
        self.probe = None;
        let noted = record::note(self.engine, self.record, &self.run, self.check, found);
        // Nobody keeps the file of events open for the next line, which is far off.
        self.engine.close_journal();
        let before = self.status;
        // Where it cannot be written down it counts for the next interval all the same.
        self.status = noted.as_ref().ok().copied().flatten().map_or(before, |noted| noted.status);
        self.due = Some(Instant::now() + self.interval());
        noted?;
        let has_become_unhealthy = self.status == HealthStatus::Unhealthy && before != HealthStatus::Unhealthy;
        Ok(has_become_unhealthy.then_some(self.record.service.on_failure))
    }

    /// From the end of a check to the next: while a container starts it may be another one (moby, `StartInterval`).
    fn interval(&self) -> Duration {
        let starts =
            self.status == HealthStatus::Starting && is_in_start_period(self.check, self.run.created, Timestamp::now());
        time(if starts && self.check.start_interval > 0 { self.check.start_interval } else { self.check.interval })
    }
}
