// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one process that stands beside a container: the parent of its init.
//!
//! Single-threaded from beginning to end. It writes the container's output to its log, passes signals on where it is
//! attached, records how the process ended by one rename, and removes a container that goes with its process. If it is
//! killed the container lives on, and its exit code is unknown.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use stos_layerfs::Integrity;
use stos_runtime::{
    CgroupRecord, CgroupRequest, Gate, Identity, Init, Launch, Mode as OwnerMode, ProcessRecord, RootSource, RunState,
    RuntimeConfig, Stdio, launch,
};
use stos_store::files::{self, Durability};
use stos_sys::SysError;
use stos_sys::process::pidfd::{self, Ended};
use stos_sys::signals::SignalFd;

use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, ExitRecord, now, run_id, state};
use crate::create::container_mount_plan;
use crate::error::{Error, Result};
use crate::lifecycle::{clear_run_state, with_life_lock};
use crate::log::{LOG_MAX, LogWriter, Stream, read_once};

/// What the monitor is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// The log alone.
    Detached,
    /// The caller's standard output and error too; and its input where that is wanted. Signals are passed on.
    Attached {
        /// Whether the container reads the caller's standard input.
        stdin: bool,
    },
}

/// Signals that an attached monitor passes on.
const FORWARDED: [i32; 6] =
    [libc_signal::HUP, libc_signal::INT, libc_signal::QUIT, libc_signal::TERM, libc_signal::USR1, libc_signal::USR2];

/// The numbers of signal(7) that are the same on every architecture that stos runs on.
mod libc_signal {
    pub(super) const HUP: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const QUIT: i32 = 3;
    pub(super) const USR1: i32 = 10;
    pub(super) const USR2: i32 = 12;
    pub(super) const TERM: i32 = 15;
}

/// Starts the container and stays with it until its process has ended.
///
/// `started` is called when the command has been executed. The caller must be single-threaded and run from a protected
/// binary ([`stos_runtime::protect_binary`]). On an error before the start nothing of it is left running; a container that
/// goes with its process is gone then too.
pub fn run_container(
    engine: &Engine,
    record: &ContainerRecord,
    attachment: Attachment,
    started: impl FnOnce(&ProcessRecord),
) -> Result<ExitRecord> {
    let prepared = Monitor::prepare(engine, record, attachment);
    let running = prepared.and_then(|monitor| monitor.start(started));
    let ended = running.and_then(Running::watch);
    if record.auto_remove {
        // Whatever happened, it goes with its process. The cause is told first.
        let removed = crate::lifecycle::remove_stopped(engine, record);
        return ended.and_then(|exit| removed.map(|()| exit));
    }
    ended
}

struct Monitor<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    attachment: Attachment,
    config: RuntimeConfig,
    run: RunState,
    log: LogWriter,
}

impl<'a> Monitor<'a> {
    /// Claims the container's place in ROOT, and makes sure of its layers.
    fn prepare(engine: &'a Engine, record: &'a ContainerRecord, attachment: Attachment) -> Result<Self> {
        let (config, run) = with_life_lock(engine, &record.id, || claim(engine, record))?;
        let prepared = (|| {
            let chain = engine.layerfs.ensure_sound_chain(&record.layers, Integrity::Sealed)?;
            engine.layerfs.ensure_chain_mounted(&chain)?;
            LogWriter::open(&engine.log_path(&record.id), LOG_MAX)
        })();
        match prepared {
            Ok(log) => Ok(Self { engine, record, attachment, config, run, log }),
            Err(error) => {
                engine.run_states().release(&run.id)?;
                Err(error)
            }
        }
    }
    fn start(mut self, started: impl FnOnce(&ProcessRecord)) -> Result<Running<'a>> {
        let launched = self.launch();
        let (init, signals, stdout, stderr) = match launched {
            Ok(launched) => launched,
            Err(error) => {
                // Nothing ran: the container is what it was before, created or ended as it did the last time.
                if let Err(left) = self.log.discard_empty() {
                    tracing::warn!(error = %left, "cannot remove the empty log");
                }
                self.engine.run_states().release(&self.run.id)?;
                return Err(error);
            }
        };
        self.run.init = Some(init.process.clone());
        self.run.cgroup = init.cgroup.clone();
        if let Err(error) = self.record_start() {
            // Without its record nobody would find the process again.
            stos_runtime::lifecycle::end(&init.cgroup, Some(&init.process))?;
            self.engine.run_states().release(&self.run.id)?;
            return Err(error);
        }
        started(&init.process);
        tracing::info!(container = %self.record.id, pid = init.process.pid, "started");
        Ok(Running {
            monitor: self,
            init,
            signals,
            pipes: [Some((Stream::Stdout, stdout)), Some((Stream::Stderr, stderr))],
            started: now(),
        })
    }

    /// Forgets how the container ended the last time, then records its process: in this order, so that a short life is never
    /// taken for the last one's end.
    fn record_start(&self) -> Result<()> {
        if !self.record.auto_remove {
            files::remove_file(&self.engine.exit_path(&self.record.id))?;
        }
        Ok(self.engine.run_states().update(&self.run)?)
    }

    fn launch(&self) -> Result<(Init, SignalFd, File, File)> {
        let pipe = || {
            pipe_with(PipeFlags::CLOEXEC).map_err(SysError::at("pipe2", || "O_CLOEXEC".to_owned())).map_err(Error::from)
        };
        let ((stdout, container_stdout), (stderr, container_stderr)) = (pipe()?, pipe()?);
        // Blocked before the clone, so that no signal is lost; the runtime unblocks them in the child.
        let signals = SignalFd::new(&FORWARDED)?;
        let plan = container_mount_plan(self.engine, self.record)?;
        let init = launch(Launch {
            id: &self.run.id,
            bundle: &self.run.bundle,
            config: &self.config,
            root: RootSource::Plan(&plan),
            stdio: Stdio::Descriptors { stdin: self.stdin()?, stdout: container_stdout, stderr: container_stderr },
            identity: Identity::LookUp(&self.record.user),
            cgroup: CgroupRequest::default(),
            gate: Gate::Open,
        })?;
        Ok((init, signals, File::from(stdout), File::from(stderr)))
    }

    fn stdin(&self) -> Result<OwnedFd> {
        let failed = |what: &'static str| SysError::at("open", move || what.to_owned());
        if self.attachment == (Attachment::Attached { stdin: true }) {
            return Ok(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(failed("standard input"))?);
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(null.map_err(failed("/dev/null"))?)
    }
}

/// Takes the container's place in ROOT. The caller holds the container's lock, so of two starts one wins.
fn claim(engine: &Engine, record: &ContainerRecord) -> Result<(RuntimeConfig, RunState)> {
    if crate::container::record(engine, &record.id)?.is_none() {
        return Err(Error::NoSuchContainer(record.name.to_string()));
    }
    if let ContainerState::Running(_) = state(engine, &record.id)? {
        return Err(already_running(record));
    }
    // What is still in ROOT is of a monitor that was killed, and its process has ended.
    clear_run_state(engine, &record.id)?;
    let dir = engine.store.container_dir(&record.id);
    let config = RuntimeConfig::load(&dir).map_err(stos_runtime::Error::from)?;
    let run = RunState {
        version: stos_runtime::state::STATE_VERSION,
        oci_version: config.spec().version().clone(),
        id: run_id(&record.id),
        mode: OwnerMode::Image,
        creator: ProcessRecord::of_caller()?,
        init: None,
        rootfs: dir.join("rootfs"),
        bundle: dir,
        created: jiff::Timestamp::now(),
        annotations: record.labels.clone(),
        cgroup: CgroupRecord::default(),
        owner: String::new(),
    };
    match engine.run_states().claim(&run) {
        Err(stos_runtime::Error::Exists { .. }) => Err(already_running(record)),
        Err(error) => Err(error.into()),
        Ok(_) => Ok((config, run)),
    }
}

fn already_running(record: &ContainerRecord) -> Error {
    Error::ContainerState {
        action: "start",
        container: record.name.to_string(),
        state: "running".to_owned(),
        expected: "created or stopped",
    }
}

/// A container that runs, and all that comes from it.
struct Running<'a> {
    monitor: Monitor<'a>,
    init: Init,
    signals: SignalFd,
    pipes: [Option<(Stream, File)>; 2],
    started: String,
}

impl Running<'_> {
    /// Copies output and passes signals on until the process has ended and its output is at its end.
    fn watch(mut self) -> Result<ExitRecord> {
        let mut buffer = vec![0; 64 << 10];
        let mut ended = None;
        while ended.is_none() || self.pipes.iter().any(Option::is_some) {
            let ready = self.wait_for_something(ended.is_some())?;
            for (index, is_ready) in ready.pipes.into_iter().enumerate() {
                if is_ready {
                    self.copy_output(index, &mut buffer);
                }
            }
            while let Some(signal) = self.signals.next_signal()? {
                if self.monitor.attachment != Attachment::Detached {
                    pidfd::send_signal(self.init.pidfd.as_fd(), signal)?;
                }
            }
            if ended.is_none() && ready.init {
                ended = pidfd::try_wait(self.init.pidfd.as_fd())?;
            }
            if ended.is_some() && !ready.pipes.contains(&true) {
                // Its processes are gone with it; only one that left its pid namespace could hold a pipe open.
                break;
            }
        }
        self.finish(ended.unwrap_or(Ended::Signaled(9)))
    }

    /// Waits until a pipe, a signal or the end of the process is there. After the end it only looks.
    fn wait_for_something(&self, has_ended: bool) -> Result<Ready> {
        let timeout = has_ended.then_some(rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if !has_ended {
            fds.push(PollFd::new(&self.init.pidfd, PollFlags::IN));
        }
        let first_pipe = fds.len();
        fds.extend(self.pipes.iter().flatten().map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN)));
        loop {
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(SysError::new("poll", format!("{} descriptors", fds.len()), errno).into()),
            }
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let mut pipes = [false; 2];
        let open = self.pipes.iter().enumerate().filter(|(_, pipe)| pipe.is_some());
        for ((index, _), fd) in open.zip(&fds[first_pipe..]) {
            pipes[index] = is_ready(fd);
        }
        Ok(Ready { init: !has_ended && is_ready(&fds[1]), pipes })
    }

    /// Copies what is there from one pipe to the log, and to our own stream where we are attached.
    fn copy_output(&mut self, index: usize, buffer: &mut [u8]) {
        let Some((stream, pipe)) = &self.pipes[index] else { return };
        let count = match read_once(pipe, buffer) {
            Ok(None) => return,
            Ok(Some(0)) | Err(_) => {
                self.pipes[index] = None;
                return;
            }
            Ok(Some(count)) => count,
        };
        let (stream, bytes) = (*stream, &buffer[..count]);
        if self.monitor.attachment != Attachment::Detached {
            // A reader that has gone does not stop the container, and its log goes on.
            let _ = match stream {
                Stream::Stdout => write_flushed(io::stdout().lock(), bytes),
                Stream::Stderr => write_flushed(io::stderr().lock(), bytes),
            };
        }
        let time = log_time();
        if let Err(error) = self.monitor.log.write(stream, bytes, &time) {
            // A full disk must not stop the container: its output is lost, and that is said.
            tracing::warn!(%error, "cannot write the container's log");
        }
    }

    fn finish(self, ended: Ended) -> Result<ExitRecord> {
        let Monitor { engine, record, run, .. } = self.monitor;
        let exit = ExitRecord {
            exit_code: ended.code(),
            signal: match ended {
                Ended::Signaled(signal) => Some(signal),
                Ended::Exited(_) => None,
            },
            oom_killed: self.init.cgroup.oom_kills() > 0,
            started: self.started,
            finished: now(),
        };
        let path = engine.exit_path(&record.id);
        let json = files::to_json(&exit);
        let recorded = if record.auto_remove {
            // In place: who waits holds the file open, and its name goes in a moment.
            std::fs::write(&path, &json).map_err(stos_store::Error::io("write", &path))
        } else {
            files::replace(&path, &engine.store.staging_area(), &json, Durability::Durable)
        };
        // Also where the disk was full: what has ended must not look as if it ran.
        stos_runtime::lifecycle::end(&self.init.cgroup, None)?;
        engine.run_states().release(&run.id)?;
        recorded?;
        tracing::info!(container = %record.id, exit_code = exit.exit_code, "ended");
        Ok(exit)
    }
}

struct Ready {
    init: bool,
    pipes: [bool; 2],
}

fn write_flushed(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// The time in the form of podman's log lines.
fn log_time() -> String {
    let mut time = now();
    time.truncate(time.len() - 1);
    time.push_str("+00:00");
    time
}
