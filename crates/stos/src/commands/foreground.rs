// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A bundle's process in the foreground: signals go to it, its terminal is ours, its end is ours.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use stos_runtime::Readiness;
use stos_runtime::notify::Told;
use stos_sys::process::pidfd::{self, Ended};
use stos_sys::signals::{SignalFd, unblock};
use stos_sys::terminal::RestoreTerminal;

use crate::failure::Failure;

const CHLD: i32 = 17;
const WINCH: i32 = 28;

/// What is not passed on, as runc has it, but for [`CHLD`] and [`WINCH`]: KILL and STOP cannot be, and URG is nobody's wish. ILL, TRAP, BUS,
/// FPE, SEGV and SYS are about what we did ourselves; 32 and 33 are the C library's.
const OUR_OWN: [i32; 11] = [4, 5, 7, 8, 9, 11, 19, 23, 31, 32, 33];

/// What our own use of a terminal may bring: PIPE, TTIN and TTOU. Where the process has one shown on ours they are not passed on.
const OF_TERMINAL: [i32; 3] = [13, 21, 22];

/// What may end us while the terminal is raw, and can be caught: ILL, TRAP, ABRT, BUS, FPE, SEGV, PIPE, SYS.
const FATAL: [i32; 8] = [4, 5, 6, 7, 8, 11, 13, 31];

/// Keeps signals until [`wait`] passes them on. To be called before anything runs, so that none is lost during the start.
pub fn block_signals() -> Result<SignalFd, Failure> {
    let kept: Vec<_> = (1..=64).filter(|signal| !OUR_OWN.contains(signal)).collect();
    Ok(SignalFd::new(&kept)?)
}

/// Waits for the end of a child of ours, and reaps whatever else becomes ours meanwhile. Its readiness is passed on: a service manager is
/// to watch us, who end with it.
pub fn wait(
    pid: i32,
    process: BorrowedFd<'_>,
    signals: &SignalFd,
    mut relay: Option<Relay>,
    mut readiness: Option<Readiness>,
) -> Result<Ended, Failure> {
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
        let ended = reap(pid)?;
        // After the reaping: what the process has said before its end counts.
        if let Some(listening) = &readiness {
            told = listening.pass_on(rustix::process::getpid().as_raw_nonzero().get())?;
            readiness = readiness.filter(|_| told.is_none());
        }
        if let Some(ended) = ended {
            told.iter().for_each(Told::wait);
            relay.as_mut().map_or(Ok(()), Relay::pass_output)?;
            return Ok(ended);
        }
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

/// Reaps children that have ended, and tells how `pid` has where it is among them.
fn reap(pid: i32) -> Result<Option<Ended>, Failure> {
    let mut ended = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) if Pid::from_raw(pid) == Some(child) => {
                let exited = status.exit_status().map(Ended::Exited);
                ended = exited.or_else(|| status.terminating_signal().map(Ended::Signaled));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(ended),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The terminal of a container's process, shown on ours. Ours is raw as long as this lives: every key is the process's.
pub struct Relay {
    master: OwnedFd,
    /// Our own terminal.
    host: BorrowedFd<'static>,
    /// What was typed and has found no room in the process's terminal yet.
    typed: Vec<u8>,
    /// Whether there may be more to type.
    has_input: bool,
    /// Whether somebody has the process's terminal open.
    is_open: bool,
    _restore: RestoreTerminal,
}

impl Relay {
    /// Shows the terminal behind `master` on ours, and gives it the size of ours.
    ///
    /// Any of our standard streams may be redirected; where all are, it is the controlling terminal.
    pub fn new(master: OwnedFd) -> Result<Self, Failure> {
        // In the background we stop, as any program does that wants the terminal.
        unblock(&OF_TERMINAL)?;
        let host = own_terminal()?;
        fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        let restore = RestoreTerminal::keep(host, &FATAL)?;
        let mut modes = tcgetattr(host)?;
        modes.make_raw();
        tcsetattr(host, OptionalActions::Now, &modes)?;
        let relay = Self { master, host, typed: Vec::new(), has_input: true, is_open: true, _restore: restore };
        relay.resize();
        Ok(relay)
    }

    fn resize(&self) {
        // A terminal that has gone, ours or the process's, has no size.
        if let Ok(size) = tcgetwinsize(self.host) {
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
                Ok(count) => self.typed.extend_from_slice(&buffer[..count]),
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

/// Rows and columns of our terminal, where we have one among our standard streams.
pub fn own_size() -> Option<(u16, u16)> {
    let stream = [stderr(), stdout(), stdin()].into_iter().find(|stream| isatty(stream))?;
    tcgetwinsize(stream).ok().map(|size| (size.ws_row, size.ws_col))
}

fn own_terminal() -> Result<BorrowedFd<'static>, Failure> {
    if let Some(stream) = [stderr(), stdout(), stdin()].into_iter().find(|stream| isatty(stream)) {
        return Ok(stream);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open("/dev/tty", flags, Mode::empty()).map_err(|errno| {
        let text = format!("the process has a terminal and we have none to show it on: open /dev/tty: {errno}");
        Failure::message(text, 1)
    })?;
    // One for the process's life, for its modes are given back also by a signal's handler.
    let kept: &'static OwnedFd = Box::leak(Box::new(opened));
    Ok(kept.as_fd())
}
