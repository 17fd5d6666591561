// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's standard streams, and the monitor's ends of them.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use stos_runtime::{Stdio, console};
use stos_sys::SysError;

use crate::attach::StreamOptions;
use crate::attach::clients::Input;
use crate::attach::session::pair;
use crate::error::{Error, Result};
use crate::log::Stream;
use crate::monitor::Attachment;
use crate::relay::Relay;

/// Both ends of a container's streams.
pub(crate) struct Streams {
    pub(crate) of_container: Stdio,
    pub(crate) of_monitor: MonitorEnds,
}

/// What the monitor reads and writes.
pub(crate) enum MonitorEnds {
    /// Where a terminal's master comes out when the container has opened it.
    Terminal {
        socket: OwnedFd,
    },
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
        forwards: bool,
    },
    /// Nothing: the container has the caller's own streams.
    Nothing,
}

impl Streams {
    /// Opens what the container is to have; with `passes_through` the streams of the calling process itself.
    pub(crate) fn open(options: StreamOptions, attachment: &Attachment, passes_through: bool) -> Result<Self> {
        if passes_through {
            let own = |stream: BorrowedFd<'_>| {
                let duplicate = rustix::io::fcntl_dupfd_cloexec(stream, 3);
                duplicate.map_err(SysError::at("fcntl", || "a standard stream".to_owned()))
            };
            let (stdin, stdout) = (own(rustix::stdio::stdin())?, own(rustix::stdio::stdout())?);
            let of_container = Stdio::Descriptors { stdin, stdout, stderr: own(rustix::stdio::stderr())? };
            return Ok(Self { of_container, of_monitor: MonitorEnds::Nothing });
        }
        if options.tty {
            let (own, socket) = pair()?;
            return Ok(Self {
                of_container: Stdio::Terminal { socket },
                of_monitor: MonitorEnds::Terminal { socket: own },
            });
        }
        let ((out, container_stdout), (err, container_stderr)) = (pipe()?, pipe()?);
        let (container_stdin, stdin) = match attachment {
            Attachment::Attached { stdin: true } => (own_stdin()?, None),
            // Nobody types here, or nobody yet; who attaches may.
            _ if options.interactive => {
                let (read, write) = pipe()?;
                (read, Some(write))
            }
            _ => (null()?, None),
        };
        let of_container =
            Stdio::Descriptors { stdin: container_stdin, stdout: container_stdout, stderr: container_stderr };
        let forwards = matches!(attachment, Attachment::Attached { .. });
        Ok(Self { of_container, of_monitor: MonitorEnds::Pipes { stdin, stdout: out, stderr: err, forwards } })
    }
}

impl MonitorEnds {
    /// Gives the relays of the output, and where input goes. Called when the container's command runs: then it has sent its terminal.
    pub(crate) fn open(self) -> Result<(Vec<Relay>, Input)> {
        match self {
            Self::Nothing => Ok((Vec::new(), Input::None)),
            Self::Pipes { stdin, stdout, stderr, forwards } => {
                let relay = |stream, pipe: OwnedFd| Relay::new(stream, File::from(pipe), forwards);
                let relays = vec![relay(Stream::Stdout, stdout), relay(Stream::Stderr, stderr)];
                Ok((relays, stdin.map_or(Input::None, |pipe| Input::Pipe(File::from(pipe)))))
            }
            Self::Terminal { socket } => {
                let master = console::receive(&socket)?.ok_or(stos_runtime::Error::NoTerminal)?;
                let master = File::from(master);
                let input = master.try_clone().map_err(stos_store::Error::io("dup", "the terminal"))?;
                Ok((vec![Relay::of_terminal(master)], Input::Terminal(input)))
            }
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(SysError::at("pipe2", || "O_CLOEXEC".to_owned())).map_err(Error::from)
}

fn own_stdin() -> Result<OwnedFd> {
    let duplicate = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
    Ok(duplicate.map_err(SysError::at("open", || "standard input".to_owned()))?)
}

fn null() -> Result<OwnedFd> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    Ok(null.map_err(SysError::at("open", || "/dev/null".to_owned()))?)
}
