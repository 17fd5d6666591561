// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's output on its way: from its pipe to the log, and to the caller's stream where the monitor is attached.
//!
//! Nothing here waits for a reader: the monitor polls, so a caller who does not read keeps neither signals from the container
//! nor its end from being recorded. The container itself waits then, as at any pipe.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use stos_sys::SysError;
use stos_sys::signals::SignalFd;

use crate::attach::clients::Clients;
use crate::error::Result as EngineResult;
use crate::log::{Log, Stream, read_once};

/// How much one write takes: what a pipe has room for when poll(2) says so (`PIPE_BUF`, pipe(7)).
const WRITE_MAX: usize = 4096;

/// How much is read after the end, in bytes: more than a pipe holds (`/proc/sys/fs/pipe-max-size`). Only a process that left
/// the container could write more.
const REST_MAX: usize = 4 << 20;

/// One stream of a container.
#[derive(Debug)]
pub(crate) struct Relay {
    stream: Stream,
    /// A pipe, or a terminal's master; `None` after its end.
    pipe: Option<File>,
    /// Whether it is a terminal.
    is_terminal: bool,
    /// Whether all have closed the terminal. Somebody may open it again.
    is_hung_up: bool,
    /// Whether the caller's stream takes what comes: not where the monitor is detached, nor when the reader has gone.
    forwards: bool,
    /// What the caller's stream has not taken yet, from `sent` on.
    pending: Vec<u8>,
    sent: usize,
    /// Whether the log could not be written, which has been said.
    loses_lines: bool,
}

impl Relay {
    pub(crate) fn new(stream: Stream, pipe: File, forwards: bool) -> Self {
        Self {
            stream,
            pipe: Some(pipe),
            is_terminal: false,
            is_hung_up: false,
            forwards,
            pending: Vec::new(),
            sent: 0,
            loses_lines: false,
        }
    }

    /// That of a terminal, whose master does not block. Its output is standard output's, and goes to no stream of the caller's.
    pub(crate) fn of_terminal(master: File) -> Self {
        Self { is_terminal: true, ..Self::new(Stream::Stdout, master, false) }
    }

    /// Whether it is a terminal that nobody has open: poll(2) would tell of that without end.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.is_hung_up
    }

    /// Looks at such a terminal again.
    pub(crate) fn look_again(&mut self) {
        self.is_hung_up = false;
    }

    /// What it waits for: room in the caller's stream while something is pending, else more output. `None` at its end.
    pub(crate) fn waits_for(&self) -> Option<PollFd<'_>> {
        if self.is_pending() {
            return Some(PollFd::from_borrowed_fd(self.caller_stream(), PollFlags::OUT));
        }
        self.pipe.as_ref().filter(|_| !self.is_hung_up).map(|pipe| PollFd::new(pipe, PollFlags::IN))
    }

    /// Does what [`waits_for`](Self::waits_for) waited for.
    pub(crate) fn step(&mut self, log: &mut Log, clients: &mut Clients, buffer: &mut [u8]) {
        if self.is_pending() {
            self.send();
        } else {
            self.receive(log, clients, buffer);
        }
    }

    /// Takes what is left in the pipe when the container's processes have ended.
    pub(crate) fn drain(&mut self, log: &mut Log, clients: &mut Clients, buffer: &mut [u8]) {
        let is_ready = |relay: &Self| {
            let pipe = relay.pipe.as_ref().filter(|_| !relay.is_hung_up);
            pipe.is_some_and(|pipe| is_ready_now(pipe.as_fd(), PollFlags::IN))
        };
        let mut taken = 0;
        while taken < REST_MAX && is_ready(self) {
            taken += self.receive(log, clients, buffer);
        }
        self.pipe = None;
    }

    fn is_pending(&self) -> bool {
        self.sent < self.pending.len()
    }

    fn caller_stream(&self) -> BorrowedFd<'static> {
        match self.stream {
            Stream::Stdout => rustix::stdio::stdout(),
            Stream::Stderr => rustix::stdio::stderr(),
        }
    }

    /// Logs what the pipe has, sends it to the clients, keeps it for the caller's stream, and tells how much that was.
    fn receive(&mut self, log: &mut Log, clients: &mut Clients, buffer: &mut [u8]) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        let count = match read_once(pipe, buffer) {
            Ok(None) => return 0,
            // EIO: all have closed it. Were we to close it too, the kernel would send SIGHUP to those of its session.
            Ok(Some(0)) | Err(_) if self.is_terminal => {
                self.is_hung_up = true;
                return 0;
            }
            Ok(Some(0)) | Err(_) => {
                self.pipe = None;
                return 0;
            }
            Ok(Some(count)) => count,
        };
        if let Err(error) = log.write(self.stream, &buffer[..count]) {
            // A full disk must not stop the container: its output is lost, and that is said, once.
            if !std::mem::replace(&mut self.loses_lines, true) {
                tracing::warn!(%error, "cannot write the container's log: its output is lost");
            }
        }
        clients.send(self.stream, &buffer[..count]);
        if self.forwards {
            self.pending.extend_from_slice(&buffer[..count]);
        }
        count
    }

    fn send(&mut self) {
        match write_now(self.caller_stream(), &self.pending[self.sent..]) {
            Ok(count) => self.sent += count,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => {
                // A reader that has gone does not stop the container, and its log goes on.
                self.forwards = false;
                self.sent = self.pending.len();
            }
        }
        if !self.is_pending() {
            self.pending.clear();
            self.sent = 0;
        }
    }
}

/// Writes what `stream`, one of the caller's, takes without waiting; [`Errno::AGAIN`] where that is nothing. Both of the caller's streams may be one pipe, which the other or another
/// process has filled since poll(2) said that there was room.
pub fn write_now(stream: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    // The offset -1 says: where the file stands (pwritev2(2)).
    match pwritev2(stream, &[IoSlice::new(bytes)], u64::MAX, ReadWriteFlags::NOWAIT) {
        // Terminals cannot say so, nor can pipes before Linux 6.4.
        Err(Errno::OPNOTSUPP) if is_ready_now(stream, PollFlags::OUT) => {
            rustix::io::write(stream, &bytes[..bytes.len().min(WRITE_MAX)])
        }
        Err(Errno::OPNOTSUPP) => Err(Errno::AGAIN),
        other => other,
    }
}

/// Hands the caller what its streams have not taken yet. A signal ends that: there is no process any more to pass it on to.
pub(crate) fn send_rest(relays: &mut [Relay], signals: &SignalFd) -> EngineResult<()> {
    while relays.iter().any(Relay::is_pending) {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        let waiting: Vec<usize> = (0..relays.len()).filter(|&index| relays[index].is_pending()).collect();
        fds.extend(waiting.iter().filter_map(|&index| relays[index].waits_for()));
        wait(&mut fds, None)?;
        let ready: Vec<bool> = fds.iter().map(is_ready).collect();
        if signals.next_signal()?.is_some() {
            return Ok(());
        }
        for (index, _) in waiting.into_iter().zip(&ready[1..]).filter(|(_, is_ready)| **is_ready) {
            relays[index].send();
        }
    }
    Ok(())
}

/// Waits until one of `fds` is ready.
pub(crate) fn wait(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> EngineResult<()> {
    loop {
        match poll(fds, timeout) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("poll", format!("{} descriptors", fds.len()), errno).into()),
        }
    }
}

/// Tells whether something has happened to `fd`; its end and an error count.
pub(crate) fn is_ready(fd: &PollFd<'_>) -> bool {
    !fd.revents().is_empty()
}

fn is_ready_now(fd: BorrowedFd<'_>, for_what: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, for_what)];
    wait(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok() && is_ready(&fds[0])
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::attach::StreamOptions;
    use crate::attach::clients::Input;
    use crate::log::{LOG_MAX, LogWriter};

    #[test]
    fn what_the_pipe_holds_at_the_end_is_logged_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::of_file(LogWriter::open(&path, LOG_MAX).unwrap());
        let mut clients = Clients::new(StreamOptions::default(), Input::None, None).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&b"line\n".repeat(10_000)).unwrap();
        let mut relay = Relay::new(Stream::Stdout, File::from(std::os::fd::OwnedFd::from(reader)), false);
        // The writer is still open: it must not be waited for.
        relay.drain(&mut log, &mut clients, &mut [0; 4096]);
        assert!(relay.waits_for().is_none());
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().filter(|line| line.contains("stdout F line")).count(), 10_000 - splits(&lines));
        drop(writer);
    }

    /// Lines that a read ended within are logged in two parts.
    fn splits(lines: &str) -> usize {
        lines.lines().filter(|line| line.contains("stdout P")).count()
    }
}
