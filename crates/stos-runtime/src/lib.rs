// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One bundle's life: create, start, state, kill, pause, resume, update, delete.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | a checked `config.json`: honoured, or refused by name |
//! | [`mount_options`] | the option strings of mounts |
//! | [`mod@launch`] | from a checked configuration to a container's first process |
//! | `conversation` | what that process asks its launch for |
//! | `dbus` | how systemd is asked |
//! | `sources` | what the launch takes from the host for it |
//! | `init` | that process, from the clone to its command |
//! | [`init_error`] | what it reports when it cannot run its command |
//! | [`accounts`] | users and groups of the container's own files |
//! | [`console`] | where the master of a process's terminal goes |
//! | [`mod@exec`] | a further process in a container |
//! | [`features`] | what is honoured, as a document |
//! | [`seccomp`] | which system calls a process may make: the compiler of profiles, and the notify listener |
//! | [`gate`] | where a created container waits for `start` |
//! | [`cgroup`] | a container's cgroups on v1, v2 and hybrid machines: limits, freezer, device rules, use |
//! | [`events`] | what a container uses, and when it runs out of memory |
//! | [`hooks`] | programs of the engine at certain moments of a life |
//! | [`processes`] | the processes of a container, as it sees them and as the host does |
//! | [`pause`] | a process that only waits, for what needs one to hold it |
//! | [`notify`] | a container's readiness, passed on to the caller's service manager |
//! | [`state`] | the run state of a container, and where it lies |
//! | [`lifecycle`] | create, start, state, kill, pause, resume, update, delete, list of bundle mode |
//! | [`tombstones`] | ids that bundle mode deleted |
//! | [`id`], [`signal`] | what an id and a signal may be |
//!
//! It stands on `stos-sys` alone (and on `stos-spec` for the form of a user) and never sees an image, a layer or a
//! registry: a root is a directory or a mount plan. Nothing here starts a thread, and no process with threads is cloned.

pub mod accounts;
pub mod cgroup;
pub mod config;
pub mod console;
mod conversation;
mod dbus;
pub mod error;
pub mod events;
pub mod exec;
pub mod features;
pub mod gate;
pub mod given_mount;
pub mod hooks;
pub mod id;
mod init;
pub mod init_error;
pub mod launch;
pub mod lifecycle;
pub mod mount_options;
pub mod notify;
pub mod pause;
pub mod processes;
pub mod seccomp;
pub mod signal;
mod sources;
pub mod state;
pub mod tombstones;

pub use accounts::{Account, look_up_account};
pub use cgroup::{CgroupRecord, CgroupRequest, OwnCgroup, SubCgroup, mounted_hierarchies};
pub use config::{ConfigError, ProcessChanges, ProcessFile, RuntimeConfig};
pub use console::Console;
pub use dbus::DBusError;
pub use error::{Error, Result};
pub use exec::{ExecOptions, Executed, exec};
pub use id::ContainerId;
pub use init_error::InitError;
pub use launch::{
    Gate, Identity, Inherited, Init, Launch, ProcessRecord, RootSource, Stdio, launch, planned_cgroup, protect_binary,
};
pub use notify::Readiness;
pub use signal::{parse_signal, signal_name};
pub use state::{Mode, RunState, StateDirectory, Status};
