// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A bundle's process in the foreground: signals go to it, its terminal is ours, its end is ours.

use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::stdio::stdin;
use rustix::termios::{tcgetwinsize, tcsetwinsize};
use stos_engine::attach::{DetachKeys, KeyScanner};
use stos_runtime::Readiness;
use stos_runtime::notify::Told;
use stos_sys::process::pidfd::{self, Ended};
use stos_sys::process::reaper::reap;
use stos_sys::signals::{OF_STREAMS, SignalFd, of_foreground, unblock};

use super::own_terminal::{RawTerminal, own_terminal, terminal_stream};
use crate::failure::Failure;

const CHLD: i32 = 17;
const WINCH: i32 = 28;

/// Keeps signals until [`wait`] passes them on. To be called before anything runs, so that none is lost during the start.
pub fn block_signals() -> Result<SignalFd, Failure> {
    Ok(SignalFd::new(&of_foreground())?)
}

/// How a process in the foreground is done with.
pub enum Outcome {
    /// It has ended.
    Ended(Ended),
    /// The keys that leave it were typed: it lives on. Its terminal must be kept open, or the kernel hangs it up.
    Left(OwnedFd),
}

/// Waits for the end of a child of ours, and reaps whatever else becomes ours meanwhile. Its readiness is passed on: a service manager is
/// to watch us, who end with it.
pub fn wait(
    pid: i32,
    process: BorrowedFd<'_>,
    signals: &SignalFd,
    relay: Option<Relay>,
    readiness: Option<Readiness>,
) -> Result<Ended, Failure> {
    match wait_or_leave(pid, process, signals, relay, readiness)? {
        Outcome::Ended(ended) => Ok(ended),
        Outcome::Left(_) => unreachable!("without keys nothing is left"),
    }
}

/// The same for a process that can be left.
pub fn wait_or_leave(
    pid: i32,
    process: BorrowedFd<'_>,
    signals: &SignalFd,
    mut relay: Option<Relay>,
    mut readiness: Option<Readiness>,
) -> Result<Outcome, Failure> {
    let mut told = None;
    loop {
        wait_for_events(signals, relay.as_ref(), readiness.as_ref())?;
        while let Some(signal) = signals.next_signal()? {
            match signal {
                CHLD => {}
                WINCH => relay.iter().for_each(Relay::resize),
                other => drop(pidfd::send_signal(process, other)?),
            }
        }
        if let Some(relay) = &mut relay {
            relay.pass_on()?;
        }
        let ended = Pid::from_raw(pid).map_or(Ok(None), reap)?;
        // After the reaping: what the process has said before its end counts.
        if let Some(listening) = &readiness {
            told = listening.pass_on(rustix::process::getpid().as_raw_nonzero().get())?;
            readiness = readiness.filter(|_| told.is_none());
        }
        if let Some(ended) = ended {
            told.iter().for_each(Told::wait);
            relay.as_mut().map_or(Ok(()), Relay::pass_output)?;
            return Ok(Outcome::Ended(ended));
        }
        relay = match relay {
            Some(relay) if relay.is_left => return Ok(Outcome::Left(relay.leave())),
            other => other,
        };
    }
}

fn wait_for_events(signals: &SignalFd, relay: Option<&Relay>, readiness: Option<&Readiness>) -> Result<(), Failure> {
    // The end of a child is a signal too.
    let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
    fds.extend(readiness.map(|readiness| PollFd::new(readiness, PollFlags::IN)));
    if let Some(relay) = relay {
        let (master, input) = relay.wishes();
        if let Some(wish) = master {
            fds.push(PollFd::new(&relay.master, wish));
        }
        if input {
            fds.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
    }
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The terminal of a container's process, shown on ours. Where something can be typed ours is raw as long as this lives: every key is the
/// process's.
pub struct Relay {
    master: OwnedFd,
    /// Our own terminal, where there is one.
    own: Option<BorrowedFd<'static>>,
    raw: Option<RawTerminal>,
    /// What was typed and has found no room in the process's terminal yet.
    typed: Vec<u8>,
    /// Whether there may be more to type.
    has_input: bool,
    /// Whether somebody has the process's terminal open.
    is_open: bool,
    /// The keys that leave the process, where there are any.
    keys: Option<KeyScanner>,
    /// Whether they were typed.
    is_left: bool,
}

impl Relay {
    /// Shows the terminal behind `master` on ours, and gives it the size of ours.
    ///
    /// Any of our standard streams may be redirected; where all are, it is the controlling terminal.
    pub fn new(master: OwnedFd) -> Result<Self, Failure> {
        unblock(&OF_STREAMS)?;
        let host = own_terminal()?;
        let raw = RawTerminal::new(host, &[])?;
        Self { raw: Some(raw), ..Self::of(master, Some(host)) }.begin()
    }

    /// The same for a container from an image: what has no terminal is shown on any stream, and only what has standard input to be
    /// typed on (`keys` leave it then) makes it raw. Else Ctrl-C is a signal, as it is without a terminal in between.
    pub fn of_image(master: OwnedFd, keys: Option<&DetachKeys>) -> Result<Self, Failure> {
        unblock(&OF_STREAMS)?;
        let raw = keys.map_or(Ok(None), |_| RawTerminal::of_stdin(&[]))?;
        let keys = keys.map(KeyScanner::new);
        Self { raw, has_input: keys.is_some(), keys, ..Self::of(master, terminal_stream()) }.begin()
    }

    fn of(master: OwnedFd, own: Option<BorrowedFd<'static>>) -> Self {
        Self { master, own, raw: None, typed: Vec::new(), has_input: true, is_open: true, keys: None, is_left: false }
    }

    fn begin(self) -> Result<Self, Failure> {
        fcntl_setfl(&self.master, fcntl_getfl(&self.master)? | OFlags::NONBLOCK)?;
        self.resize();
        Ok(self)
    }

    /// Gives our terminal back, and the process's to whom keeps it open.
    fn leave(self) -> OwnedFd {
        drop(self.raw);
        self.master
    }

    fn resize(&self) {
        // A terminal that has gone, ours or the process's, has no size.
        if let Some(Ok(size)) = self.own.map(tcgetwinsize) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// What is waited for of the process's terminal, and whether anything is of our input.
    fn wishes(&self) -> (Option<PollFlags>, bool) {
        let master = if self.typed.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        (self.is_open.then_some(master), self.is_open && self.has_input && self.typed.is_empty())
    }

    /// Passes on what is there, in both directions, without waiting for more.
    fn pass_on(&mut self) -> Result<(), Failure> {
        if self.is_open && self.has_input && self.typed.is_empty() && is_readable(stdin())? {
            let mut buffer = [0; 4096];
            match rustix::io::read(stdin(), &mut buffer) {
                Ok(0) | Err(Errno::IO) => self.has_input = false,
                Ok(count) => match &mut self.keys {
                    Some(keys) => self.is_left = keys.scan(&buffer[..count], &mut self.typed),
                    None => self.typed.extend_from_slice(&buffer[..count]),
                },
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        while !self.typed.is_empty() {
            match rustix::io::write(&self.master, &self.typed) {
                Ok(count) => drop(self.typed.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Nobody will read it any more.
                Err(_) => self.typed.clear(),
            }
        }
        self.pass_output()
    }

    fn pass_output(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; 16384];
        let mut out = std::io::stdout().lock();
        while self.is_open {
            match rustix::io::read(&self.master, &mut buffer) {
                Ok(count @ 1..) => {
                    let shown = out.write_all(&buffer[..count]).and_then(|()| out.flush());
                    if shown.is_err() {
                        // Who saw it has gone; the process goes on, as it would with its own terminal closed.
                        self.is_open = false;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                // EIO: all have closed it.
                Ok(0) | Err(_) => self.is_open = false,
            }
        }
        Ok(())
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> Result<bool, Failure> {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
