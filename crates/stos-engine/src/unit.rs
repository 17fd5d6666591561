// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container as a service of the host's manager: where its cgroups are, who says that it is ready, which sockets it gets.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use stos_runtime::notify::{self, Readiness, Told};
use stos_runtime::{CgroupRequest, Inherited, RuntimeConfig, cgroup};
use stos_store::ContainerId;

use crate::Engine;
use crate::container::{ContainerRecord, run_id};
use crate::error::{Error, Result};
use crate::service::Service;

/// Bytes of a file of an id that are read: an id has 64, and no text of this length is one.
pub const ID_FILE_MAX: u64 = 128;

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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitOptions {
    /// Where its cgroups are.
    pub cgroups: CgroupsMode,
    /// Who says that it is ready.
    pub sdnotify: NotifyMode,
    /// The absolute path of the file that its id was written to (podman's `--cidfile`), which goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_file: Option<PathBuf>,
}

impl UnitOptions {
    /// Whether all is as it is without options.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Where the cgroups of a container go that is started now. With [`CgroupsMode::Split`] the caller may leave its own for one below.
    pub(crate) fn cgroup(&self, record: &ContainerRecord) -> Result<CgroupRequest> {
        match self.cgroups {
            CgroupsMode::Enabled => Ok(CgroupRequest::default()),
            CgroupsMode::Split => Ok(cgroup::below_own(&format!("stos-{}", record.id))?),
        }
    }

    /// Removes the file that has a container's id, if it still has that.
    pub(crate) fn remove_id_file(&self, id: &ContainerId) {
        let Some(path) = &self.id_file else { return };
        match read_id(path) {
            Ok(found) if found.trim_end() == id.as_str() => {}
            _ => return,
        }
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "the file of the container's id stays");
        }
    }
}

/// Reads what may be the file of an id, whatever stands there by now: no symlink is followed and no pipe waited for.
fn read_id(path: &Path) -> std::io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut text = String::new();
    file.take(ID_FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
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
