// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our own terminal: finding it, its size, and raw modes that are given back whatever happens.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use stos_sys::terminal::RestoreTerminal;

use crate::failure::Failure;

/// What may end us while the terminal is raw, and can be caught: ILL, TRAP, ABRT, BUS, FPE, SEGV, PIPE, SYS.
const FATAL: [i32; 8] = [4, 5, 6, 7, 8, 11, 13, 31];

/// What else may end us where signals are not passed on: HUP, INT, QUIT, USR1, USR2, ALRM, TERM.
pub const ENDING: [i32; 7] = [1, 2, 3, 10, 12, 14, 15];

/// Our own terminal, raw for as long as this lives: every key is the process's.
pub struct RawTerminal(RestoreTerminal);

impl RawTerminal {
    /// Makes a terminal raw. It is given back also where one of [`FATAL`] or `signals` ends us meanwhile.
    ///
    /// In the background we stop, as any program does that wants the terminal: SIGTTOU must not be blocked.
    pub fn new(host: BorrowedFd<'static>, signals: &[i32]) -> Result<Self, Failure> {
        let restore = RestoreTerminal::keep(host, &[&FATAL, signals].concat())?;
        let mut modes = tcgetattr(host)?;
        modes.make_raw();
        tcsetattr(host, OptionalActions::Now, &modes)?;
        Ok(Self(restore))
    }

    /// The same for standard input, where that is a terminal.
    pub fn of_stdin(signals: &[i32]) -> Result<Option<Self>, Failure> {
        if isatty(stdin()) { Self::new(stdin(), signals).map(Some) } else { Ok(None) }
    }
}

/// Our terminal, where one of our standard streams is one.
pub fn terminal_stream() -> Option<BorrowedFd<'static>> {
    [stderr(), stdout(), stdin()].into_iter().find(|stream| isatty(stream))
}

/// Rows and columns of our terminal, where we have one among our standard streams.
pub fn own_size() -> Option<(u16, u16)> {
    tcgetwinsize(terminal_stream()?).ok().map(|size| (size.ws_row, size.ws_col))
}

/// Our terminal: one of our standard streams, or else the controlling one.
pub fn own_terminal() -> Result<BorrowedFd<'static>, Failure> {
    if let Some(stream) = terminal_stream() {
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
