// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The client's half of a session with a container's monitor.
//!
//! Nothing here waits: the caller polls for what is there to read, and for room where [`Session::is_pending`] says so.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use stos_runtime::ProcessRecord;
use stos_sys::SysError;
use stos_sys::process::pidfd;

use super::Size;
use super::clients::{CLIENTS_MAX, connect_in};
use super::frame::{Frame, FrameReader};
use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, run_id, state};
use crate::error::{Error, Result};
use crate::journal::Status;
use crate::lifecycle::{MONITOR_PATIENCE, START_INTERVAL};
use crate::log::Stream;
use crate::relay::wait;

/// What comes from the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Output.
    Output(Stream, &'a [u8]),
    /// So many bytes of output were left out here: they came faster than we read.
    Skipped(u64),
    /// It has ended, with what a shell would tell.
    Exited(i32),
    /// The monitor is gone without a word: it was killed, and the container may live on.
    Lost,
}

/// A connection to the monitor of a container that runs.
#[derive(Debug)]
pub struct Session {
    socket: OwnedFd,
    reader: FrameReader,
    /// What the monitor has not taken yet, from `sent` on.
    pending: Vec<u8>,
    sent: usize,
    has_terminal: bool,
    takes_input: bool,
    /// The container's first process; `None` where it is gone.
    process: Option<OwnedFd>,
    is_over: bool,
}

/// Connects to the monitor of a container that runs.
///
/// # Errors
/// [`Error::ContainerState`] where it does not run; [`Error::NoMonitor`] where its monitor was killed.
pub fn connect(engine: &Engine, record: &ContainerRecord) -> Result<Session> {
    let directory = engine.run_states().container(&run_id(&record.id));
    let deadline = Instant::now() + MONITOR_PATIENCE;
    loop {
        let run = match state(engine, &record.id)? {
            ContainerState::Running(run) => run,
            other => {
                return Err(Error::ContainerState {
                    action: "attach to",
                    container: record.name.to_string(),
                    state: other.status().to_owned(),
                    expected: "running",
                });
            }
        };
        if let Some(stream) = connect_in(&directory)? {
            let session = Session::open(stream.into(), record, run.init.as_ref())?;
            engine.note(Status::Attach, record);
            engine.close_journal();
            return Ok(session);
        }
        // A monitor listens when its container has lived for a moment; one that has ended is about to say so.
        if !run.creator.is_alive()? || Instant::now() >= deadline {
            return Err(Error::NoMonitor { container: record.name.to_string() });
        }
        std::thread::sleep(START_INTERVAL);
    }
}

/// Gives the exit code of a container whose session ended without a word.
///
/// # Errors
/// [`Error::NoMonitor`] where the monitor was killed and the container lives on; [`Error::ExitCodeUnknown`] where it has ended and nobody
/// saw how.
pub fn code_after_loss(engine: &Engine, record: &ContainerRecord) -> Result<i32> {
    let container = record.name.to_string();
    match state(engine, &record.id)? {
        // The monitor would not wait any longer until we had read everything.
        ContainerState::Exited(exit) => Ok(exit.exit_code),
        ContainerState::Running(_) => Err(Error::NoMonitor { container }),
        _ => Err(Error::ExitCodeUnknown { container }),
    }
}

/// Two ends of a session: the monitor's, and the client's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let failed = |error: std::io::Error| {
        SysError::new("socketpair", "AF_UNIX", Errno::from_io_error(&error).unwrap_or(Errno::IO))
    };
    let (own, other) = UnixStream::pair().map_err(failed)?;
    Ok((own.into(), other.into()))
}

impl Session {
    /// Waits for the monitor's first word. `process` is the container's first one.
    pub(crate) fn open(socket: OwnedFd, record: &ContainerRecord, process: Option<&ProcessRecord>) -> Result<Self> {
        let container = || record.name.to_string();
        let deadline = Instant::now() + MONITOR_PATIENCE;
        let process = process.map(ProcessRecord::open).transpose()?.flatten();
        let mut session = Self {
            socket,
            reader: FrameReader::default(),
            pending: Vec::new(),
            sent: 0,
            has_terminal: false,
            takes_input: false,
            process,
            is_over: false,
        };
        loop {
            if let Ok(Some(Frame::Hello { tty, input })) = session.reader.next() {
                (session.has_terminal, session.takes_input) = (tty, input);
                return Ok(session);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::MonitorSilent { container: container(), seconds: MONITOR_PATIENCE.as_secs() });
            }
            wait(&mut [PollFd::new(&session.socket, PollFlags::IN)], Timespec::try_from(left).ok().as_ref())?;
            if !session.fill()? {
                return Err(Error::NoSession { container: container(), max: CLIENTS_MAX });
            }
        }
    }

    /// Whether the container has a terminal.
    pub fn has_terminal(&self) -> bool {
        self.has_terminal
    }

    /// Whether what is typed goes to the container.
    pub fn takes_input(&self) -> bool {
        self.takes_input
    }

    /// Whether there is something that the monitor has not taken yet.
    pub fn is_pending(&self) -> bool {
        self.sent < self.pending.len()
    }

    /// Types.
    pub fn send_input(&mut self, bytes: &[u8]) {
        self.push(Frame::Input(bytes));
    }

    /// Ends the container's input, for all clients. That of a terminal goes on.
    pub fn end_input(&mut self) {
        self.push(Frame::EndOfInput);
    }

    /// Gives the container's terminal a size.
    pub fn resize(&mut self, (rows, columns): Size) {
        self.push(Frame::Size(rows, columns));
    }

    /// Sends a signal to the container's first process. One that is gone needs none.
    pub fn send_signal(&self, signal: i32) -> Result<()> {
        if let Some(process) = &self.process {
            pidfd::send_signal(process.as_fd(), signal)?;
        }
        Ok(())
    }

    fn push(&mut self, frame: Frame<'_>) {
        frame.write_to(&mut self.pending);
        self.flush();
    }

    /// Sends what the monitor takes without waiting.
    pub fn flush(&mut self) {
        while self.is_pending() {
            match send(&self.socket, &self.pending[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // Reading tells of it.
                Err(_) => self.sent = self.pending.len(),
            }
        }
        self.pending.clear();
        self.sent = 0;
    }

    /// Takes what has come, and hands it to `take` in its order. [`Event::Exited`] and [`Event::Lost`] come last.
    pub fn receive(&mut self, take: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let is_open = self.fill()?;
        while !self.is_over {
            match self.reader.next() {
                Ok(Some(Frame::Output(stream, bytes))) => take(Event::Output(stream, bytes)),
                Ok(Some(Frame::Skipped(count))) => take(Event::Skipped(count)),
                Ok(Some(Frame::Exited(code))) => {
                    self.is_over = true;
                    take(Event::Exited(code));
                }
                Ok(None) if is_open => return Ok(()),
                Ok(_) | Err(_) => {
                    self.is_over = true;
                    take(Event::Lost);
                }
            }
        }
        Ok(())
    }

    /// Reads what is there; `false` at the end.
    fn fill(&mut self) -> Result<bool> {
        let mut buffer = [0; 64 << 10];
        match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET) => Ok(false),
            Ok((count, _)) => {
                self.reader.push(&buffer[..count]);
                Ok(true)
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(true),
            Err(errno) => Err(SysError::new("recv", "the monitor's socket", errno).into()),
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
