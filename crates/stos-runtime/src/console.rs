// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the master of a process's terminal goes: to who listens on a socket, or to the caller itself.
//!
//! The process that gets the terminal opens it, inside the container, and sends the master over a Unix socket: one message, the
//! name of the file with the descriptor as SCM_RIGHTS, as runc's docs/terminals.md has it.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use stos_sys::SysError;
use stos_sys::seccomp::send_with_descriptor;

use crate::error::{Error, Result};
use crate::launch::Stdio;

/// The name that is sent along with a terminal: what runc's receivers are used to.
const NAME: &[u8] = b"/dev/ptmx";

/// Who gets the master, should the process have a terminal.
#[derive(Debug, Default)]
pub enum Console<'a> {
    /// Nobody: a process with a terminal is refused, for it will be left in the background.
    #[default]
    None,
    /// Nobody, and the process has no terminal: its streams lead to `/dev/null`, for it will be left in the background.
    Null,
    /// Who listens on this socket. A process without a terminal is refused.
    Socket(&'a Path),
    /// The caller, who reads it from the other end ([`receive`]).
    Caller(OwnedFd),
}

impl Console<'_> {
    /// A console for the caller, and the end where it comes out.
    pub fn for_caller() -> Result<(Self, OwnedFd)> {
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let failed = |errno| Error::sys("open a terminal")(SysError::new("socketpair", "AF_UNIX", errno));
        pair.map(|(own, end)| (Self::Caller(end), own)).map_err(failed)
    }

    /// The standard streams of a process that has a terminal, or has none.
    pub(crate) fn into_stdio(self, has_terminal: bool) -> Result<Stdio> {
        match (self, has_terminal) {
            (Self::None | Self::Caller(_), false) => Ok(Stdio::Inherit),
            (Self::None | Self::Null, true) => Err(Error::NoConsoleSocket),
            (Self::Null, false) => null_streams(),
            (Self::Socket(_), false) => Err(Error::NoTerminal),
            (Self::Socket(path), true) => {
                connect("connect to the console socket", path).map(|socket| Stdio::Terminal { socket })
            }
            (Self::Caller(socket), true) => Ok(Stdio::Terminal { socket }),
        }
    }
}

fn null_streams() -> Result<Stdio> {
    let failed = |call: &'static str| {
        move |errno| Error::sys("open the standard streams")(SysError::new(call, "/dev/null", errno))
    };
    let stdin = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed("openat"))?;
    let another = || fcntl_dupfd_cloexec(&stdin, 3).map_err(failed("fcntl"));
    let (stdout, stderr) = (another()?, another()?);
    Ok(Stdio::Descriptors { stdin, stdout, stderr })
}

fn connect(stage: &'static str, path: &Path) -> Result<OwnedFd> {
    UnixStream::connect(path).map(OwnedFd::from).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
        Error::sys(stage)(SysError::new("connect", path.display().to_string(), errno))
    })
}

/// Who listens on a socket for a descriptor of the process (runc's `--pidfd-socket`), connected before there is a process.
#[derive(Debug)]
pub(crate) struct PidfdSocket(OwnedFd);

impl PidfdSocket {
    const STAGE: &str = "send a descriptor of the process";

    pub(crate) fn connect(path: &Path) -> Result<Self> {
        connect(Self::STAGE, path).map(Self)
    }

    /// Sends it. Where the process is left alone after an error, it is the caller's to end it.
    pub(crate) fn send(&self, process: BorrowedFd<'_>) -> Result<()> {
        send_with_descriptor(&self.0, b"pidfd", process).map_err(Error::sys(Self::STAGE))
    }
}

/// Sends a terminal's master.
pub(crate) fn send(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> std::result::Result<(), SysError> {
    send_with_descriptor(socket, NAME, master)
}

/// Receives the master of a terminal; `None` where the process has none.
pub fn receive(socket: impl AsFd) -> Result<Option<OwnedFd>> {
    let mut name = [0_u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::sys("receive the terminal")(SysError::new("recvmsg", "SCM_RIGHTS", errno)));
            }
        }
    }
    let mut received = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(received.find_map(|mut fds| fds.next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_suits_its_process_or_is_refused() {
        assert!(matches!(Console::None.into_stdio(false), Ok(Stdio::Inherit)));
        assert!(matches!(Console::None.into_stdio(true), Err(Error::NoConsoleSocket)));
        assert!(matches!(Console::Null.into_stdio(false), Ok(Stdio::Descriptors { .. })));
        assert!(matches!(Console::Null.into_stdio(true), Err(Error::NoConsoleSocket)));
        let path = Path::new("/no/such/socket");
        assert!(matches!(Console::Socket(path).into_stdio(false), Err(Error::NoTerminal)));
        assert!(matches!(Console::Socket(path).into_stdio(true), Err(Error::Sys { .. })));
    }

    #[test]
    fn a_descriptor_is_sent_or_its_absence_is_seen() {
        let (console, own) = Console::for_caller().unwrap();
        let Ok(Stdio::Terminal { socket }) = console.into_stdio(true) else { panic!("no socket") };
        let file = std::fs::File::open("/dev/null").unwrap();
        send(socket.as_fd(), file.as_fd()).unwrap();
        assert!(receive(&own).unwrap().is_some());
        drop(socket);
        assert!(receive(&own).unwrap().is_none());
    }
}
