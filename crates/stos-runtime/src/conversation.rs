// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a container's first process asks its launch for: what only the launch may do, or only it can.
//!
//! Over the pipe of its reports the process sends one byte, the launch acts and answers with one byte over another pipe; where it
//! fails it answers nothing, and the process ends with that pipe. Most containers ask nothing, and have no second pipe.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Pid;
use stos_sys::SysError;
use stos_sys::process::credentials::set_limit;
use stos_sys::process::pidfd;
use stos_sys::process::user_namespace::{IdMappings, map_ids, read_mappings, write_process_file};

use crate::cgroup::Scope;
use crate::config::Settings;
use crate::config::settings::namespace;
use crate::error::{Error, Result};
use crate::hooks::{self, HookKind, HookState};
use crate::init::streams::give_from_outside;
use crate::launch::{Connect, Launch, NotConnected, follow, read_report};
use crate::seccomp::listener::{Filtered, Processes};
use crate::state::Status;

/// The process is in its user namespace or has made its time namespace: both want to be written before they are used.
pub(crate) const PREPARE: u8 = b'm';

/// systemd is to put the process into its scope.
pub(crate) const SCOPE: u8 = b's';

/// All is mounted, and pivot_root is next: the hooks of that moment.
pub(crate) const HOOKS: u8 = b'h';

/// The limits of the process: those of a user namespace have no power over hard limits.
pub(crate) const LIMITS: u8 = b'l';

/// It is in its network namespace, which is to be connected.
pub(crate) const NETWORK: u8 = b'n';

/// Four bytes follow, little-endian: the number of the first process, which what stood between has made. That one ends.
pub(crate) const SUCCESSOR: u8 = b'p';

/// The answer.
pub(crate) const DONE: u8 = b'.';

/// Whether the first process of such a container has something to ask.
pub(crate) fn is_needed(settings: &Settings, launch: &Launch<'_>) -> bool {
    launch.connect.is_some()
        || settings.has_user_namespace()
        || crate::init::stage::is_needed(settings)
        || settings.hooks.any_before_pivot()
}

/// The launch's side.
pub(crate) struct Conversation<'a> {
    launch: &'a Launch<'a>,
    child: (Pid, OwnedFd),
    reports: File,
    answers: Option<OwnedFd>,
    /// Whether the child is not yet the first process, but what stands between.
    is_between: bool,
    scope: Option<&'a mut Scope>,
}

fn io(error: &std::io::Error) -> Error {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    Error::sys("wait for the container's first process")(SysError::new("read", "a pipe", errno))
}

impl<'a> Conversation<'a> {
    pub(crate) fn new(
        launch: &'a Launch<'a>,
        pid: Pid,
        pidfd: OwnedFd,
        reports: OwnedFd,
        answers: Option<OwnedFd>,
        is_between: bool,
    ) -> Self {
        Self { launch, child: (pid, pidfd), reports: reports.into(), answers, is_between, scope: None }
    }

    /// What the process is put into when it asks.
    pub(crate) fn with_scope(self, scope: Option<&'a mut Scope>) -> Self {
        Self { scope, ..self }
    }

    /// The process as known by now.
    pub(crate) fn into_child(self) -> (Pid, OwnedFd) {
        self.child
    }

    /// Waits for the first process to be ready, to run its command, or to say why it cannot. What it asks meanwhile is done.
    pub(crate) fn await_report(&mut self) -> Result<()> {
        if self.answers.is_none() {
            return self.follow(Vec::new());
        }
        let outcome = self.answer_all();
        // Without an answer whoever waits for one ends.
        self.answers = None;
        outcome
    }

    fn answer_all(&mut self) -> Result<()> {
        loop {
            if self.is_between {
                self.wait_for_more()?;
            }
            let Some(byte) = self.read_byte()? else { return read_report(&[]) };
            match byte {
                PREPARE => self.prepare()?,
                SCOPE => self.take_into_scope()?,
                HOOKS => self.run_hooks()?,
                NETWORK => self.connect()?,
                LIMITS => self.set_limits()?,
                SUCCESSOR => self.take_successor()?,
                other => return self.follow(vec![other]),
            }
            if let Some(answers) = &self.answers {
                let failed = SysError::at("write", || "a pipe".to_owned());
                rustix::io::write(answers, &[DONE])
                    .map_err(failed)
                    .map_err(Error::sys("answer the container's first process"))?;
            }
        }
    }

    /// Waits for what the process says at last; `report` is what it has said of that.
    fn follow(&mut self, report: Vec<u8>) -> Result<()> {
        let pid = self.child.0.as_raw_nonzero().get();
        let processes = Processes { filtered: Filtered::Held(self.child.1.as_fd()), pid, init: pid };
        follow(&mut self.reports, report, processes)
    }

    fn read_byte(&mut self) -> Result<Option<u8>> {
        let mut byte = [0_u8];
        match self.reports.read_exact(&mut byte) {
            Ok(()) => Ok(Some(byte[0])),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(io(&error)),
        }
    }

    /// Waits until there is something to read. Where what stands between is killed instead, nobody can say any more who the first
    /// process is, though it may hold the pipe open: it ends, for it gets no answer.
    fn wait_for_more(&self) -> Result<()> {
        loop {
            let mut fds = [
                PollFd::new(&self.reports, PollFlags::IN),
                PollFd::from_borrowed_fd(self.child.1.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => return Ok(()),
                Ok(_) => return Err(Error::InitDied { ended: None }),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    let failed = SysError::new("poll", "a pipe", errno);
                    return Err(Error::sys("wait for the container's first process")(failed));
                }
            }
        }
    }

    /// Maps ids, sets clocks, and does what root of a user namespace may not.
    fn prepare(&self) -> Result<()> {
        let (pid, settings) = (self.child.0, self.launch.config.settings());
        if settings.new_namespaces & namespace::USER != 0 {
            let mappings = settings.id_mappings.clone().unwrap_or_default();
            map_ids(pid, &mappings).map_err(Error::sys("set linux.uidMappings and linux.gidMappings"))?;
        } else if let Some(expected) = &settings.id_mappings {
            check_mappings(pid, expected)?;
        }
        if !settings.time_offsets.is_empty() {
            let set = write_process_file(pid, "timens_offsets", &settings.time_offsets);
            set.map_err(Error::sys("set linux.timeOffsets"))?;
        }
        if !settings.has_user_namespace() {
            return Ok(());
        }
        if let Some(score) = settings.process.oom_score_adj {
            write_process_file(pid, "oom_score_adj", &score.to_string())
                .map_err(Error::sys("set process.oomScoreAdj"))?;
        }
        give_from_outside(settings, &self.launch.stdio, pid)
    }

    fn take_into_scope(&mut self) -> Result<()> {
        let pid = self.child.0.as_raw_nonzero().get();
        self.scope.as_mut().map_or(Ok(()), |scope| scope.take_in(pid))
    }

    fn run_hooks(&self) -> Result<()> {
        let hooks = &self.launch.config.settings().hooks;
        let state = hook_state(self.launch, Status::Creating, self.child.0.as_raw_nonzero().get());
        hooks::run(HookKind::Prestart, &hooks.prestart, &state)?;
        Ok(hooks::run(HookKind::CreateRuntime, &hooks.create_runtime, &state)?)
    }

    fn connect(&self) -> Result<()> {
        let namespace = format!("/proc/{}/ns/net", self.child.0.as_raw_nonzero());
        let connect = self.launch.connect.map(|Connect(connect)| connect);
        connect.map_or(Ok(()), |connect| connect(Path::new(&namespace))).map_err(|NotConnected| Error::NotConnected)
    }

    fn set_limits(&self) -> Result<()> {
        for limit in &self.launch.config.settings().process.limits {
            set_limit(Some(self.child.0), &limit.name, limit.soft, limit.hard)
                .map_err(Error::sys("set process.rlimits"))?;
        }
        Ok(())
    }

    fn take_successor(&mut self) -> Result<()> {
        let stage = "find the container's first process";
        let mut number = [0_u8; 4];
        self.reports.read_exact(&mut number).map_err(|error| io(&error))?;
        let number = i32::from_le_bytes(number);
        let gone = || Error::InitDied { ended: None };
        let pid = Pid::from_raw(number).ok_or_else(gone)?;
        // Our child too, and not reaped: the number is its.
        let process = pidfd::open(pid).map_err(Error::sys(stage))?.ok_or_else(gone)?;
        let before = std::mem::replace(&mut self.child, (pid, process));
        self.is_between = false;
        // It ends by itself; where the caller ignores SIGCHLD there is nothing to reap.
        drop(pidfd::wait(before.1.as_fd()));
        Ok(())
    }
}

/// Where the bundle says mappings of a namespace that it joins, they are what the bundle's files were prepared for.
fn check_mappings(pid: Pid, expected: &IdMappings) -> Result<()> {
    let found = read_mappings(pid).map_err(Error::sys("read the mappings of the user namespace"))?;
    if found == *expected { Ok(()) } else { Err(Error::OtherMappings { found: format!("{found:?}") }) }
}

/// What hooks are told while a container is launched.
pub(crate) fn hook_state<'a>(launch: &'a Launch<'_>, status: Status, pid: i32) -> HookState<'a> {
    let spec = launch.config.spec();
    let annotations = spec.annotations().iter().flatten();
    HookState {
        oci_version: spec.version(),
        id: launch.id.as_str(),
        status,
        pid,
        bundle: launch.bundle,
        annotations: annotations.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
    }
}
