// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container as a service of the host's manager: where its cgroups are, who says that it is ready, which sockets it gets.

use std::ffi::OsString;
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};
use stos_runtime::notify::{self, Readiness, Told};
use stos_runtime::{CgroupRequest, Inherited, RuntimeConfig, cgroup};

use crate::Engine;
use crate::container::{ContainerRecord, run_id};
use crate::error::{Error, Result};
use crate::service::Service;

/// Where a container's cgroups are (podman's `--cgroups`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupsMode {
    /// Below the roots of the hierarchies.
    #[default]
    Enabled,
    /// Below the cgroup of who starts it, which a service manager has delegated.
    Split,
}

/// Who tells the service manager that the service is ready (podman's `--sdnotify`), where one waits for that (sd_notify(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotifyMode {
    /// The container, on a socket of its own.
    #[default]
    Container,
    /// The monitor, when the command has been executed. The name is podman's.
    Conmon,
    /// The monitor, when the container's health check has succeeded.
    Healthy,
    /// Nobody.
    Ignore,
}

impl NotifyMode {
    /// Refuses what a container that is looked after so can never say.
    pub(crate) fn check(self, service: &Service) -> Result<()> {
        if self == Self::Healthy && service.healthcheck.is_none() {
            let reason = "the container has no health check".to_owned();
            return Err(Error::Option { option: "--sdnotify", value: "healthy".to_owned(), reason });
        }
        Ok(())
    }
}

/// What is decided about it when a container is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitOptions {
    /// Where its cgroups are.
    pub cgroups: CgroupsMode,
    /// Who says that it is ready.
    pub sdnotify: NotifyMode,
}

impl UnitOptions {
    /// Whether all is as it is without options.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Where the cgroups of a container go that is started now. With [`CgroupsMode::Split`] the caller may leave its own for one below.
    pub(crate) fn cgroup(self, record: &ContainerRecord) -> Result<CgroupRequest> {
        match self.cgroups {
            CgroupsMode::Enabled => Ok(CgroupRequest::default()),
            CgroupsMode::Split => Ok(cgroup::below_own(&format!("stos-{}", record.id))?),
        }
    }
}

/// What the process that starts containers has for them of its own caller's.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The service manager's socket.
    pub notify_socket: Option<OsString>,
    /// Who says that they are ready, whatever each was created with.
    pub sdnotify: Option<NotifyMode>,
    /// Descriptors that they get.
    pub inherited: Inherited,
}

/// The word that a service manager waits for, on its way.
#[derive(Debug)]
pub(crate) enum Notifying {
    /// Nobody waits, or nothing is told.
    Nobody,
    /// It is told of the start.
    OfStart(OsString),
    /// It is told what the container says.
    OfContainer(Readiness),
    /// It is told when the container is healthy.
    OfHealth(OsString),
    /// It has been told.
    Told(Told),
}

impl Notifying {
    /// Prepares a start: a container that tells by itself gets a socket, and `config` says so.
    pub fn begin(engine: &Engine, record: &ContainerRecord, bundle: &Path, config: &mut RuntimeConfig) -> Result<Self> {
        let Some(socket) = engine.caller.notify_socket.clone() else { return Ok(Self::Nobody) };
        match engine.caller.sdnotify.unwrap_or(record.unit.sdnotify) {
            NotifyMode::Ignore => Ok(Self::Nobody),
            NotifyMode::Conmon => Ok(Self::OfStart(socket)),
            mode @ NotifyMode::Healthy => {
                mode.check(&record.service)?;
                Ok(Self::OfHealth(socket))
            }
            NotifyMode::Container => {
                let directory = engine.run_states().container(&run_id(&record.id));
                *config = notify::provide(bundle, &directory)?;
                Ok(Readiness::listen(&directory, socket)?.map_or(Self::Nobody, Self::OfContainer))
            }
        }
    }

    /// The command has been executed. With `waits` this returns when the manager knows: who has started it may be about to end.
    pub fn started(&mut self, waits: bool) {
        if let Self::OfStart(socket) = self {
            let told = notify::tell_ready(socket, own_pid());
            if waits {
                told.wait();
            }
            *self = Self::Told(told);
        }
    }

    /// The container is healthy.
    pub fn healthy(&mut self) {
        if let Self::OfHealth(socket) = self {
            *self = Self::Told(notify::tell_ready(socket, own_pid()));
        }
    }

    /// What is waited for.
    pub fn waits_for(&self) -> Option<PollFd<'_>> {
        match self {
            Self::OfContainer(readiness) => Some(PollFd::new(readiness, PollFlags::IN)),
            _ => None,
        }
    }

    /// Passes on what the container has said.
    pub fn step(&mut self) -> Result<()> {
        if let Self::OfContainer(readiness) = self
            && let Some(told) = readiness.pass_on(own_pid())?
        {
            *self = Self::Told(told);
        }
        Ok(())
    }

    /// The container has ended: waits until the manager has read what it was told, for of a process that is gone it may not take it.
    pub fn finish(&mut self) -> Result<()> {
        self.step()?;
        if let Self::Told(told) = self {
            told.wait();
        }
        Ok(())
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}
