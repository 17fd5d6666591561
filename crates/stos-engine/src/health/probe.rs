// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One check, made by a process of its own.
//!
//! That process executes the command in the container, reads what it writes, kills it when its time is over, and sends what it has found
//! over a pipe, in one write. Where it does not come back itself, for the container's filesystem hangs, it is killed too, and the
//! check has failed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use stos_runtime::{
    Console, ExecOptions, Identity, Inherited, Mode, OwnCgroup, ProcessChanges, ProcessRecord, RunState,
};
use stos_spec::Healthcheck;
use stos_store::files::random_hex;
use stos_sys::SysError;
use stos_sys::process::clone::{CloneOptions, Cloned, clone_process, exit_now};
use stos_sys::process::pidfd::{self, Ended};

use super::time;
use crate::Engine;
use crate::container::{ContainerRecord, run_id};
use crate::error::Result;
use crate::relay::{is_ready, wait};

/// How much is kept of what a check writes, in bytes: podman's number.
const OUTPUT_MAX: usize = 500;

/// How long the process between may take, beyond the time that the check has.
const GRACE: Duration = Duration::from_secs(3);

/// How often a check whose time is over is looked at while the container is frozen.
const FROZEN_INTERVAL: Duration = Duration::from_millis(100);

/// How long a container may take to end whose other processes the kernel has killed for that already.
const ENDING: Duration = Duration::from_millis(300);

/// The exit code of a check that did not end by itself.
const KILLED: i32 = -1;

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) exit_code: i32,
    pub(crate) output: String,
}

/// A check that is being made. Dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Probe {
    /// The process between.
    process: OwnedFd,
    is_reaped: bool,
    /// Where it tells what it has found.
    pipe: File,
    start: Timestamp,
    timeout: Duration,
    /// When it is given up.
    deadline: Instant,
    cgroup: Option<OwnCgroup>,
    run: RunState,
}

impl Probe {
    /// Begins a check in a container that runs.
    pub(crate) fn start(
        engine: &Engine,
        record: &ContainerRecord,
        run: &RunState,
        check: &Healthcheck,
    ) -> Result<Self> {
        let made = OwnCgroup::make(&run.cgroup, &format!("health-{}", random_hex::<4>()));
        let cgroup = made.unwrap_or_else(|error| {
            // Then it is killed alone.
            tracing::debug!(container = %record.id, %error, "the health check has no cgroup of its own");
            None
        });
        let (reader, writer) = pipe()?;
        let (start, timeout) = (Timestamp::now(), time(check.timeout));
        match clone_process(CloneOptions::default()).map_err(stos_runtime::Error::from)? {
            Cloned::Child => {
                drop(reader);
                let check = Check { engine, record, run, check, cgroup: cgroup.as_ref(), start };
                // Nobody may want to know any more.
                let _ = serde_json::to_vec(&check.make()).map(|text| File::from(writer).write_all(&text));
                exit_now(0)
            }
            Cloned::Parent { pidfd: process, .. } => Ok(Self {
                process,
                is_reaped: false,
                pipe: File::from(reader),
                start,
                timeout,
                deadline: Instant::now() + timeout.saturating_add(GRACE),
                cgroup,
                run: run.clone(),
            }),
        }
    }

    /// What is ready when it has ended.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// When it is to be asked even where nothing is ready.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Gives what it has found, where it has ended or is given up by now.
    pub(crate) fn poll(&mut self) -> Result<Option<Found>> {
        let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
        wait(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        if is_ready(&fds[0]) {
            return self.receive().map(Some);
        }
        if Instant::now() < self.deadline {
            return Ok(None);
        }
        if self.run.cgroup.is_frozen() {
            // Nothing of it can go on, nor end.
            self.deadline = Instant::now() + GRACE;
            return Ok(None);
        }
        self.end();
        Ok(Some(Found { output: timed_out(self.timeout), ..self.failure() }))
    }

    /// Waits for what it finds.
    pub(crate) fn wait(&mut self) -> Result<Found> {
        loop {
            if let Some(found) = self.poll()? {
                return Ok(found);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            wait(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Timespec::try_from(left).ok().as_ref())?;
        }
    }

    fn failure(&self) -> Found {
        Found { start: self.start, end: Timestamp::now(), exit_code: KILLED, output: String::new() }
    }

    /// Reads what was sent. It is one write, and its writer ends right after it.
    fn receive(&mut self) -> Result<Found> {
        let mut text = Vec::new();
        self.pipe.read_to_end(&mut text).map_err(stos_store::Error::io("read from", "the health check"))?;
        let Ok(found) = serde_json::from_slice(&text) else {
            self.end();
            return Ok(Found { output: "the health check was killed".to_owned(), ..self.failure() });
        };
        self.is_reaped = true;
        pidfd::wait(self.process.as_fd())?;
        Ok(found)
    }

    /// Ends a check that has told nothing, and the process between. What cannot be done here goes with the container.
    fn end(&mut self) {
        if std::mem::replace(&mut self.is_reaped, true) {
            return;
        }
        drop(pidfd::send_signal(self.process.as_fd(), KILL));
        drop(pidfd::wait(self.process.as_fd()));
        if let Some(cgroup) = &self.cgroup {
            drop(cgroup.kill().and_then(|()| cgroup.dissolve()));
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.end();
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC).map_err(SysError::at("pipe2", || "O_CLOEXEC".to_owned()))?)
}

/// podman's words.
fn timed_out(timeout: Duration) -> String {
    format!("healthcheck command exceeded timeout of {timeout:?}")
}

/// What the process between works on.
struct Check<'a> {
    engine: &'a Engine,
    record: &'a ContainerRecord,
    run: &'a RunState,
    check: &'a Healthcheck,
    cgroup: Option<&'a OwnCgroup>,
    start: Timestamp,
}

impl Check<'_> {
    /// A check that cannot be executed has failed, and says why.
    fn make(&self) -> Found {
        let (exit_code, output) = self.execute().unwrap_or_else(|error| (error.exit_code(), error.to_string()));
        if let Some(Err(error)) = self.cgroup.map(OwnCgroup::dissolve) {
            tracing::debug!(container = %self.record.id, %error, "the cgroup of the health check stays");
        }
        Found { start: self.start, end: Timestamp::now(), exit_code, output: cut(output.as_bytes()) }
    }

    fn execute(&self) -> Result<(i32, String)> {
        // No terminal of our caller's can be reached from a session of its own.
        let _ = rustix::process::setsid();
        let (reader, writer) = pipe()?;
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(stos_store::Error::io("open", "/dev/null"))?;
        lead_streams_to(null.as_fd(), writer.as_fd())?;
        drop(writer);
        let changes = ProcessChanges { args: self.check.command().unwrap_or_default(), ..ProcessChanges::default() };
        let cgroups: Vec<_> = self.cgroup.iter().map(|cgroup| cgroup.sub().clone()).collect();
        let options = ExecOptions {
            mode: Mode::Image,
            changes: &changes,
            identity: Identity::LookUp(&self.record.user),
            console: Console::None,
            cgroups: &cgroups,
            ignore_paused: false,
            pid_file: None,
            pidfd_socket: None,
            inherited: Inherited::default(),
        };
        let executed = stos_runtime::exec(&self.engine.run_states(), &run_id(&self.record.id), options);
        // The pipe's end comes when the check and its children have closed it.
        lead_streams_to(null.as_fd(), null.as_fd())?;
        let executed = executed?;
        self.follow(&executed.pidfd, File::from(reader))
    }

    /// Reads what the process writes until it has ended or its time is over.
    fn follow(&self, process: &OwnedFd, mut output: File) -> Result<(i32, String)> {
        let deadline = Instant::now() + time(self.check.timeout);
        let mut read = Output::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let mut fds = vec![PollFd::new(process, PollFlags::IN)];
            if !read.has_ended {
                fds.push(PollFd::new(&output, PollFlags::IN));
            }
            wait(&mut fds, Timespec::try_from(left).ok().as_ref())?;
            let ready: Vec<_> = fds.iter().map(is_ready).collect();
            drop(fds);
            if ready.get(1) == Some(&true) {
                read.step(&mut output);
            }
            if ready[0]
                && let Some(ended) = pidfd::try_wait(process.as_fd())?
            {
                read.rest(&mut output)?;
                self.await_end(ended)?;
                return Ok((ended.code(), read.text()));
            }
        }
        while self.run.cgroup.is_frozen() {
            std::thread::sleep(FROZEN_INTERVAL);
        }
        match self.cgroup {
            Some(cgroup) => cgroup.end()?,
            None => {
                pidfd::send_signal(process.as_fd(), KILL)?;
            }
        }
        pidfd::wait(process.as_fd())?;
        read.rest(&mut output)?;
        let said = timed_out(time(self.check.timeout));
        let text = read.text();
        Ok((KILLED, if text.is_empty() { said } else { format!("{said}\n{text}") }))
    }
}

impl Check<'_> {
    /// Where a check was killed that may have been so because the container ends, waits until it has: then nobody notes it.
    fn await_end(&self, ended: Ended) -> Result<()> {
        if ended == Ended::Signaled(KILL)
            && let Some(init) = self.run.init.as_ref().map(ProcessRecord::open).transpose()?.flatten()
        {
            pidfd::wait_end(init.as_fd(), ENDING)?;
        }
        Ok(())
    }
}

/// Makes our standard input `input`, and both outputs `output`: what is executed inherits them.
fn lead_streams_to(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> Result<()> {
    let failed = || SysError::at("dup2", || "the streams of a health check".to_owned());
    rustix::stdio::dup2_stdin(input).map_err(failed())?;
    rustix::stdio::dup2_stdout(output).map_err(failed())?;
    rustix::stdio::dup2_stderr(output).map_err(failed())?;
    Ok(())
}

/// What was written, as far as it is kept.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    has_ended: bool,
}

impl Output {
    /// Reads what is there, at most a bufferful.
    fn step(&mut self, pipe: &mut File) {
        let mut buffer = [0; 4096];
        match pipe.read(&mut buffer) {
            Ok(0) => self.has_ended = true,
            Ok(count) => {
                let room = OUTPUT_MAX.saturating_sub(self.bytes.len());
                self.bytes.extend_from_slice(&buffer[..count.min(room)]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => self.has_ended = true,
        }
    }

    /// Reads what is still there and kept. Somebody whom the check has started may hold the pipe open.
    fn rest(&mut self, pipe: &mut File) -> Result<()> {
        while !self.has_ended && self.bytes.len() < OUTPUT_MAX {
            let mut fds = [PollFd::new(pipe, PollFlags::IN)];
            wait(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            if !is_ready(&fds[0]) {
                break;
            }
            self.step(pipe);
        }
        Ok(())
    }

    fn text(&self) -> String {
        cut(&self.bytes)
    }
}

/// The beginning, as text.
fn cut(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(OUTPUT_MAX)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_the_output_is_kept_and_the_rest_is_read() {
        let (reader, writer) = pipe().unwrap();
        let (mut reader, mut writer) = (File::from(reader), File::from(writer));
        writer.write_all(&[b'x'; 5000]).unwrap();
        let mut output = Output::default();
        output.step(&mut reader);
        assert_eq!(output.text(), "x".repeat(OUTPUT_MAX));
        output.step(&mut reader);
        drop(writer);
        output.step(&mut reader);
        assert!(output.has_ended && output.bytes.len() == OUTPUT_MAX);
        assert_eq!(cut(b"a\xff"), "a\u{fffd}");
    }

    #[test]
    fn who_holds_the_pipe_open_is_not_waited_for() {
        let (reader, writer) = pipe().unwrap();
        let mut writer = File::from(writer);
        writer.write_all(b"said\n").unwrap();
        let mut output = Output::default();
        output.rest(&mut File::from(reader)).unwrap();
        assert_eq!((output.text().as_str(), output.has_ended), ("said\n", false));
    }

    #[test]
    fn a_timeout_is_told_as_people_write_it() {
        assert_eq!(timed_out(Duration::from_secs(3)), "healthcheck command exceeded timeout of 3s");
        assert_eq!(timed_out(Duration::from_millis(500)), "healthcheck command exceeded timeout of 500ms");
    }
}
