// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong, as types: in the caller ([`Error`]) and in a container's first process ([`InitError`]).

use std::path::PathBuf;

use stos_sys::SysError;
use stos_sys::process::clone::CloneError;
use stos_sys::process::pidfd::Ended;

use crate::cgroup::limits::LimitError;
use crate::config::ConfigError;
use crate::dbus::DBusError;
use crate::hooks::HookFailure;
use crate::id::IdError;
use crate::init_error::InitError;
use crate::state::Status;

/// A failed operation on a container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The id cannot be one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The `config.json` asks for what is unknown, impossible, or not offered. Nothing was created.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A limit of `linux.resources` that cannot be set.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The container could not be frozen.
    #[error("cgroup {}: it does not freeze, and goes on", path.display())]
    NotFrozen {
        /// Its directory.
        path: PathBuf,
    },
    /// The caller is in no cgroup of its own.
    #[error(
        "the caller has no cgroup of its own to make the container's in: a unit of systemd with Delegate=yes has one"
    )]
    NoOwnCgroup,
    /// No hierarchy is mounted that can freeze a container.
    #[error("no cgroup hierarchy can freeze a container: no v1 freezer controller and no v2 tree")]
    NoFreezer,
    /// The kernel killed the container's first process for want of memory before it could run its command.
    #[error("the container's first process was killed for want of memory: linux.resources.memory.limit may be too low")]
    InitOutOfMemory,
    /// A step in the caller failed.
    #[error("{stage}: {source}")]
    Sys {
        /// What was being done.
        stage: &'static str,
        /// The failed call.
        source: SysError,
    },
    /// The caller has threads, or the kernel refused a process.
    #[error("start the container's first process: {0}")]
    Clone(#[from] CloneError),
    /// The caller could not connect the container's network namespace.
    #[error("the container's network namespace could not be connected")]
    NotConnected,
    /// The running binary lies on a writable mount, so a container could overwrite it (CVE-2019-5736).
    #[error("the running binary is on a writable mount: execute it from a read-only view before starting a container")]
    UnprotectedBinary,
    /// A hook of the create has failed. All is undone.
    #[error(transparent)]
    Hook(#[from] HookFailure),
    /// The user namespace that the bundle names maps other ids than the bundle says.
    #[error("linux.uidMappings, linux.gidMappings: expected those of the namespace that is joined, found {found}")]
    OtherMappings {
        /// The namespace's own.
        found: String,
    },
    /// A device that a user namespace cannot make, and that cannot be bound from the host.
    #[error("device {}: a user namespace cannot make it, and it cannot be the host's: {reason}", path.display())]
    DeviceOfHost {
        /// Its path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The container's first process reported why it cannot run.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The container's first process ended before it could run its command, without a word.
    #[error("the container's first process ended while it was set up: {}", ended.map_or("unknown".to_owned(), |ended| format!("{ended:?}")))]
    InitDied {
        /// How it ended, where the caller is its parent.
        ended: Option<Ended>,
    },
    /// The container's first process said something that is no report.
    #[error("the container's first process sent a report that cannot be read: {report:?}")]
    InitReport {
        /// What it sent.
        report: String,
    },
    /// A cgroup that the container would get holds processes already.
    #[error("cgroup {}: expected none or an empty one, found processes {found:?}", path.display())]
    CgroupInUse {
        /// Its directory.
        path: PathBuf,
        /// Processes in it.
        found: Vec<i32>,
    },
    /// A cgroup that the container would get is being taken by another launch.
    #[error("cgroup {}: expected none or an empty one, found one that another container is being put into", path.display())]
    CgroupClaimed {
        /// Its directory.
        path: PathBuf,
    },
    /// A cgroup that the container would get is frozen, itself or by one above it.
    #[error("cgroup {}: it is frozen: a container would never start in it", path.display())]
    CgroupFrozen {
        /// Its directory.
        path: PathBuf,
    },
    /// Processes are left in a cgroup after each was killed, for longer than anything but a hanging disk explains.
    #[error("cgroup {}: processes {found:?} do not end", path.display())]
    CgroupBusy {
        /// Its directory.
        path: PathBuf,
        /// Processes in it.
        found: Vec<i32>,
    },
    /// No hierarchy is mounted that a container could be put into.
    #[error("no cgroup hierarchy is mounted below /sys/fs/cgroup")]
    NoCgroups,
    /// systemd is to make the cgroups, and does not run this machine.
    #[error("--systemd-cgroup: systemd does not run this machine: there is no directory {}", path.display())]
    NoSystemd {
        /// What tells whether it does (sd_booted(3)).
        path: PathBuf,
    },
    /// systemd does not do what it is asked for.
    #[error("systemd: cannot {doing} {unit}: {source}")]
    Systemd {
        /// What it is asked for.
        doing: &'static str,
        /// The unit.
        unit: String,
        /// Why not.
        source: DBusError,
    },
    /// systemd has tried to start a unit.
    #[error("systemd: cannot start {unit}: expected the job to be done, found {outcome:?}")]
    SystemdJob {
        /// The unit.
        unit: String,
        /// How the job ended.
        outcome: String,
    },
    /// systemd keeps its units elsewhere, as where it does not see the machine's cgroups but a part of them.
    #[error("systemd: {unit}: expected it in cgroup /{}, found {}", expected.display(), found.display())]
    SystemdPlace {
        /// The unit.
        unit: String,
        /// Where it should be.
        expected: PathBuf,
        /// Where the process is.
        found: PathBuf,
    },
    /// A device rule that this kernel's hierarchy cannot hold.
    #[error(
        "no cgroup hierarchy can hold the rules of linux.resources.devices: no v1 devices controller and no v2 tree"
    )]
    NoDeviceController,
    /// A device rule that cgroup v1 would drop without a word: it keeps one list of exceptions, and a rule can take back a
    /// whole one alone.
    #[error("linux.resources.devices: cgroup v1 cannot punch the hole {rule:?} in {wider:?}")]
    DeviceRuleHole {
        /// The rule, as `devices.allow` and `devices.deny` take it.
        rule: String,
        /// The earlier one that it is a part of.
        wider: String,
    },
    /// The id is in use.
    #[error("container {id} exists already")]
    Exists {
        /// The id.
        id: String,
    },
    /// There is no container of that id.
    #[error("container {id} does not exist")]
    NotFound {
        /// The id.
        id: String,
    },
    /// The operation does not suit the container's status.
    #[error("container {id}: cannot {operation}: expected status {expected}, found {found}")]
    WrongStatus {
        /// The id.
        id: String,
        /// What was asked.
        operation: &'static str,
        /// The statuses that allow it.
        expected: &'static str,
        /// The status it has.
        found: Status,
    },
    /// There is no process to signal. containerd looks for these words.
    #[error("container {id}: cannot kill: container not running, found {found}")]
    NotRunning {
        /// The id.
        id: String,
        /// The status that it has.
        found: Status,
    },
    /// A process with a terminal would be left in the background, and nobody gets the terminal.
    #[error(
        "process.terminal: cannot allocate a tty for a process that is left in the background without a console socket"
    )]
    NoConsoleSocket,
    /// There is a console socket and nothing to send over it.
    #[error("cannot use a console socket: the process has no terminal (process.terminal is false)")]
    NoTerminal,
    /// A cgroup below the container's that cannot be one.
    #[error("cgroup {text:?}: {reason}")]
    SubCgroup {
        /// As given.
        text: String,
        /// Why not.
        reason: String,
    },
    /// A record that cannot be read.
    #[error("{}: {reason}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A signal that Linux does not have.
    #[error("signal {text:?}: expected a name such as TERM or SIGTERM, or a number from 1 to 64")]
    Signal {
        /// As given.
        text: String,
    },
}

impl Error {
    /// Gives a closure for `map_err` that says in which step of the caller a call failed.
    pub(crate) fn sys(stage: &'static str) -> impl FnOnce(SysError) -> Self {
        move |source| Self::Sys { stage, source }
    }

    /// The exit code that container engines give for this error, where it has one: 127 for a command that is not there,
    /// 126 for one that cannot be executed.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Init(error) => error.exit_code(),
            _ => None,
        }
    }
}

/// The result of an operation on a container.
pub type Result<T> = std::result::Result<T, Error>;
