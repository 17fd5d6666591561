// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A bundle's process in the foreground: signals go to it, its terminal is ours, its end is ours.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{tcgetwinsize, tcsetwinsize};
use stos_engine::attach::{DetachKeys, KeyScanner};
use stos_runtime::Readiness;
use stos_runtime::notify::Told;
use stos_sys::process::pidfd::{self, Ended};
use stos_sys::process::reaper::reap;
use stos_sys::signals::{OF_CHILDREN_AND_SIZE, OF_STREAMS, SignalFd, of_foreground, unblock};

use super::own_streams::{Output, Typing};
use super::own_terminal::{RawTerminal, own_terminal, terminal_stream};
use crate::failure::Failure;

const CHLD: i32 = OF_CHILDREN_AND_SIZE[0];
const WINCH: i32 = OF_CHILDREN_AND_SIZE[1];

/// How often the process's terminal is read before something else has its turn.
const READS_AT_ONCE: usize = 16;

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
            relay.as_mut().map_or(Ok(()), |relay| relay.finish(signals))?;
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
        relay.add_to(&mut fds);
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
    typing: Typing,
    out: Output,
    /// Whether somebody has the process's terminal open.
    is_open: bool,
    /// Whether the keys that leave the process were typed.
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
        let none = DetachKeys::none();
        let typing = Typing::new(KeyScanner::new(keys.unwrap_or(&none)), keys.is_some());
        Self { raw, typing, ..Self::of(master, terminal_stream()) }.begin()
    }

    fn of(master: OwnedFd, own: Option<BorrowedFd<'static>>) -> Self {
        let typing = Typing::new(KeyScanner::new(&DetachKeys::none()), true);
        let out = Output::new(stdout());
        Self { master, own, raw: None, typed: Vec::new(), typing, out, is_open: true, is_left: false }
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

    /// Appends what is waited for: of the process's terminal, of our input, and of our output where that has no room.
    fn add_to<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let read = if self.out.is_pending() { PollFlags::empty() } else { PollFlags::IN };
        let write = if self.typed.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        if self.is_open && !(read | write).is_empty() {
            fds.push(PollFd::new(&self.master, read | write));
        }
        if self.takes_input() {
            fds.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
        if self.out.is_pending() {
            fds.push(PollFd::from_borrowed_fd(self.out.stream(), PollFlags::OUT));
        }
    }

    fn takes_input(&self) -> bool {
        self.is_open && self.typing.is_open() && self.typed.is_empty()
    }

    /// Passes on what is there, in both directions, without waiting for more.
    fn pass_on(&mut self) -> Result<(), Failure> {
        if self.takes_input() && is_readable(stdin())? {
            self.is_left = self.typing.read(&mut self.typed);
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
        self.pass_output();
        Ok(())
    }

    /// Shows what the process has written as far as there is room, some of it at a time: what is typed must have its turn. Tells whether
    /// there may be more.
    ///
    /// Where who saw it has gone it is thrown away, and the process goes on.
    fn pass_output(&mut self) -> bool {
        let mut buffer = [0; 16384];
        self.out.flush();
        for _ in 0..READS_AT_ONCE {
            if !self.is_open || self.out.is_pending() {
                break;
            }
            match rustix::io::read(&self.master, &mut buffer) {
                Ok(count @ 1..) => self.out.write(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                // EIO: all have closed it.
                Ok(0) | Err(_) => self.is_open = false,
            }
        }
        self.is_open || self.out.is_pending()
    }

    /// Shows what is left when the process has ended. A signal ends that: there is no process any more to pass it on to.
    fn finish(&mut self, signals: &SignalFd) -> Result<(), Failure> {
        while self.pass_output() {
            if self.out.is_pending() {
                let out = PollFd::from_borrowed_fd(self.out.stream(), PollFlags::OUT);
                match poll(&mut [PollFd::new(signals, PollFlags::IN), out], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            while let Some(signal) = signals.next_signal()? {
                if !OF_CHILDREN_AND_SIZE.contains(&signal) {
                    return Ok(());
                }
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
