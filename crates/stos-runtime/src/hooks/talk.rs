// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A hook's standard streams, and the wait for its end.
//!
//! They are pipes: a file, be it in memory alone, would count for RLIMIT_FSIZE, which a container's process has by the time of its
//! startContainer hooks. Nobody waits for who holds them: neither for a hook that reads late, nor for a process that one leaves behind.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{PIPE_BUF, PipeFlags, pipe_with};
use stos_sys::process::pidfd;

use super::pid_of;

/// How much of a failed hook's last words is told, in bytes.
const LAST_WORDS: usize = 2048;

/// How often it is looked for the end of a hook of which there can be no descriptor.
const INTERVAL: Duration = Duration::from_millis(5);

/// Our side.
pub(super) struct Talk<'a> {
    /// Where the rest of the state goes, while there is any.
    input: Option<OwnedFd>,
    state: &'a [u8],
    /// The hook's end of that, so that a write never is one without a reader (SIGPIPE).
    _held: OwnedFd,
    /// Where its words come from, while it may have some.
    output: Option<OwnedFd>,
    said: Vec<u8>,
}

/// The hook's side.
pub(super) struct Ends {
    pub(super) input: Stdio,
    pub(super) output: Stdio,
    pub(super) errors: Stdio,
}

fn failed(call: &'static str) -> impl Fn(Errno) -> String {
    move |errno| format!("{call}: {errno}")
}

impl<'a> Talk<'a> {
    pub(super) fn new(state: &'a [u8]) -> Result<(Self, Ends), String> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe2"));
        let copy = |fd: &OwnedFd| fd.try_clone().map(Stdio::from).map_err(|error| format!("dup: {error}"));
        let ((held, input), (output, said)) = (pipe()?, pipe()?);
        let ends = Ends { input: copy(&held)?, output: copy(&said)?, errors: said.into() };
        let mut talk = Self { input: Some(input), state, _held: held, output: Some(output), said: Vec::new() };
        // As much as an empty pipe takes in any case; most states are smaller.
        talk.write_some()?;
        Ok((talk, ends))
    }

    /// Waits until the hook has ended; `false` where that takes longer than `timeout`.
    pub(super) fn until_end(&mut self, child: &mut Child, timeout: Option<Duration>) -> Result<bool, String> {
        // A time beyond what there is, is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // Our own child that nobody has reaped: the number is its. Where a container's filter knows no pidfd_open(2) there is none.
        let process = pid_of(child).and_then(|pid| pidfd::open(pid).ok().flatten());
        loop {
            if child.try_wait().map_err(|error| format!("wait: {error}"))?.is_some() {
                self.read_rest();
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            let wait = if process.is_some() { left } else { Some(left.map_or(INTERVAL, |left| left.min(INTERVAL))) };
            self.exchange(process.as_ref(), wait)?;
        }
    }

    /// Waits for something to do, no longer than `wait`, and does it.
    fn exchange(&mut self, process: Option<&OwnedFd>, wait: Option<Duration>) -> Result<(), String> {
        let wait = wait.map(|wait| Timespec {
            tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        });
        let ours = self.input.iter().map(|fd| PollFd::new(fd, PollFlags::OUT));
        let theirs = self.output.iter().chain(process).map(|fd| PollFd::new(fd, PollFlags::IN));
        let mut fds: Vec<_> = ours.chain(theirs).collect();
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("poll")(errno)),
        }
        let is_ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut is_ready = is_ready.into_iter();
        if self.input.is_some() && is_ready.next() == Some(true) {
            self.write_some()?;
        }
        if self.output.is_some() && is_ready.next() == Some(true) {
            self.read_some()?;
        }
        Ok(())
    }

    /// Writes what a pipe with room takes without waiting (pipe(7): PIPE_BUF); behind the last of it the pipe ends.
    fn write_some(&mut self) -> Result<(), String> {
        let Some(input) = &self.input else { return Ok(()) };
        let piece = &self.state[..self.state.len().min(PIPE_BUF)];
        match rustix::io::write(input, piece) {
            Ok(count) => self.state = &self.state[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("write")(errno)),
        }
        if self.state.is_empty() {
            self.input = None;
        }
        Ok(())
    }

    fn read_some(&mut self) -> Result<(), String> {
        let Some(output) = &self.output else { return Ok(()) };
        let mut piece = [0; 4096];
        match rustix::io::read(output, &mut piece) {
            Ok(0) => self.output = None,
            Ok(count) => self.said.extend(&piece[..count]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("read")(errno)),
        }
        let spare = self.said.len().saturating_sub(LAST_WORDS);
        self.said.drain(..spare);
        Ok(())
    }

    /// Reads what the hook has said to its end: what is there, whoever may say more.
    fn read_rest(&mut self) {
        let end = |output: &OwnedFd| ioctl_fionread(output.as_fd()).unwrap_or_default();
        let pieces = self.output.as_ref().map_or(0, end).div_ceil(4096);
        for _ in 0..pieces {
            // What cannot be read is nothing.
            if self.read_some().is_err() {
                return;
            }
        }
    }

    /// The end of what the hook has printed, on one line.
    pub(super) fn last_words(&self) -> String {
        String::from_utf8_lossy(&self.said).trim().replace('\n', "; ")
    }
}
