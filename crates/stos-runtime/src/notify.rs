// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Readiness, from a container to its caller's service manager (sd_notify(3)), as runc's `notify_socket.go` has it.
//!
//! A caller with `NOTIFY_SOCKET` cannot hand its socket in: who notifies must be a process of its unit. So a container that is
//! created with that variable gets a socket of its own in the directory `/run/notify`, which is `notify` of its run directory; who
//! starts it listens there, and passes the readiness on with the pid that the manager is to watch. Nothing else is passed on.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::{fs, path};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};
use stos_sys::SysError;
use stos_sys::seccomp::send_with_descriptor;

use crate::config::{ConfigError, RuntimeConfig};
use crate::error::{Error, Result};

/// The directory of the run directory that the container sees as [`INSIDE`].
const DIRECTORY: &str = "notify";

/// Where the container has it.
const INSIDE: &str = "/run/notify";

/// The socket in it.
const SOCKET: &str = "notify.sock";

/// How many notifications are read before anything else is looked at.
const MOST_AT_ONCE: usize = 64;

/// How long the manager may take to read what it is told, in seconds.
const BARRIER_PATIENCE: i64 = 30;

/// Gives the container whose configuration lies in `bundle` a socket to say on that it is ready: its configuration with the mount and the
/// variable, and the directory in its run directory.
pub fn provide(bundle: &Path, run_directory: &Path) -> Result<RuntimeConfig> {
    let config = RuntimeConfig::from_json(&with_socket(&RuntimeConfig::read(bundle)?, run_directory)?)?;
    make_directory(run_directory)?;
    Ok(config)
}

/// Tells the service manager at `host` that a container is ready, and that `main_pid` is the unit's main process. A manager that cannot be
/// told is told of in the log.
pub fn tell_ready(host: &OsStr, main_pid: i32) -> Told {
    tell_or_warn(host, b"READY=1", main_pid)
}

fn tell_or_warn(host: &OsStr, ready: &[u8], main_pid: i32) -> Told {
    let told = tell(host, ready, main_pid).inspect_err(|error| {
        tracing::warn!(socket = %host.display(), %error, "nobody can be told that the container is ready");
    });
    Told(told.ok())
}

fn tell(host: &OsStr, ready: &[u8], main_pid: i32) -> io::Result<OwnedFd> {
    let client = UnixDatagram::unbound()?;
    client.connect_addr(&address(host)?)?;
    client.send(&[ready, b"\n"].concat())?;
    client.send(format!("MAINPID={main_pid}\n").as_bytes())?;
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC)?;
    send_with_descriptor(&client, b"BARRIER=1", write_end.as_fd())
        .map_err(|error| io::Error::from_raw_os_error(error.errno.raw_os_error()))?;
    Ok(read_end)
}

/// The configuration with the mount and the variable of a container whose run directory is `run_directory`. What is wrong with it
/// is left for its checks to find.
pub(crate) fn with_socket(config: &[u8], run_directory: &Path) -> Result<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(config).map_err(ConfigError::from)?;
    let source = path::absolute(run_directory.join(DIRECTORY)).map_err(failed("getcwd", run_directory))?;
    let mut push = |pointer: [&str; 2], value: Value| {
        let mut at = Some(&mut config);
        for key in pointer.into_iter().filter(|key| !key.is_empty()) {
            at = at.and_then(Value::as_object_mut).map(|object| object.entry(key).or_insert(Value::Null));
        }
        match at {
            Some(Value::Array(list)) => list.push(value),
            Some(list @ Value::Null) => *list = json!([value]),
            _ => {}
        }
    };
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"];
    push(["", "mounts"], json!({"destination": INSIDE, "type": "bind", "source": source, "options": options}));
    push(["process", "env"], json!(format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}")));
    Ok(serde_json::to_vec(&config).map_err(ConfigError::from)?)
}

/// Makes the directory that the mount of [`with_socket`] shows. The container's user must get through it, and nobody of the host
/// gets to it.
pub(crate) fn make_directory(run_directory: &Path) -> Result<()> {
    let path = run_directory.join(DIRECTORY);
    fs::DirBuilder::new().mode(0o755).create(&path).map_err(failed("mkdir", &path))
}

fn failed(call: &'static str, shown: &Path) -> impl Fn(io::Error) -> Error {
    let shown = shown.display().to_string();
    move |error| step(call, &shown)(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn step(call: &'static str, shown: &str) -> impl Fn(Errno) -> Error {
    move |errno| Error::sys("listen for the container's readiness")(SysError::new(call, shown, errno))
}

/// Listens for a container's readiness, and passes it on.
#[derive(Debug)]
pub struct Readiness {
    socket: UnixDatagram,
    /// The manager's: a path, or `@NAME` of an abstract socket.
    host: OsString,
}

/// The manager has been told, or cannot be. Dropping it changes nothing.
#[derive(Debug)]
pub struct Told(Option<OwnedFd>);

impl Readiness {
    /// Listens in the run directory of a container that is not started yet; `None` where it was created without a socket.
    pub fn listen(run_directory: &Path, host: OsString) -> Result<Option<Self>> {
        let path = run_directory.join(DIRECTORY);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(step("open", &path.display().to_string()))?,
        };
        // By the descriptor: with a long id the path is longer than the 108 bytes of unix(7).
        let name = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(SOCKET);
        match fs::remove_file(&name) {
            // Of a start that was killed.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("unlink", &path)(error)),
        }
        let socket = UnixDatagram::bind(&name).map_err(failed("bind", &path))?;
        fs::set_permissions(&name, fs::Permissions::from_mode(0o777)).map_err(failed("chmod", &path))?;
        socket.set_nonblocking(true).map_err(failed("fcntl", &path))?;
        Ok(Some(Self { socket, host }))
    }

    /// Tells the manager that the container is ready, and that `main_pid` is the unit's main process, where the container has said so.
    ///
    /// `None` where it has not. A manager that cannot be told is told of in the log: the container runs all the same.
    pub fn pass_on(&self, main_pid: i32) -> Result<Option<Told>> {
        let mut datagram = [0; 4096];
        // A container that sends without end must not keep its caller from signals, and from seeing it end.
        for _ in 0..MOST_AT_ONCE {
            match self.socket.recv(&mut datagram) {
                Ok(length) => {
                    let Some(line) = ready_line(&datagram[..length]) else { continue };
                    return Ok(Some(tell_or_warn(&self.host, line, main_pid)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("recv", Path::new(SOCKET))(error)),
            }
        }
        Ok(None)
    }

    /// Waits until the container has said that it is ready, and passes it on, or until its first process has ended.
    pub fn wait(&self, process: BorrowedFd<'_>, main_pid: i32) -> Result<()> {
        loop {
            let mut fds = [PollFd::new(self, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(step("poll", SOCKET)(errno)),
            }
            let has_ended = !fds[1].revents().is_empty();
            if !fds[0].revents().is_empty() {
                if let Some(told) = self.pass_on(main_pid)? {
                    told.wait();
                    return Ok(());
                }
            } else if has_ended {
                return Ok(());
            }
        }
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Told {
    /// Waits until the manager has read what it was told (sd_notify_barrier(3)): what comes from a process that is gone it may not
    /// take for its unit's. One that does not know of barriers keeps nobody waiting for more than 30 s.
    pub fn wait(&self) {
        let Some(read_end) = &self.0 else { return };
        let patience = Timespec { tv_sec: BARRIER_PATIENCE, tv_nsec: 0 };
        match poll(&mut [PollFd::new(read_end, PollFlags::IN)], Some(&patience)) {
            Ok(1..) => {}
            Ok(0) => tracing::warn!("the service manager does not say that it has read of the container's readiness"),
            Err(error) => tracing::warn!(%error, "the service manager cannot be waited for"),
        }
    }
}

/// The line of a notification that says that the service is ready. Its other lines are about the process that sends it.
fn ready_line(datagram: &[u8]) -> Option<&[u8]> {
    datagram.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="))
}

fn address(host: &OsStr) -> io::Result<SocketAddr> {
    match host.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_and_the_variable_come_last() {
        let with = |config: Value| {
            let with = with_socket(config.to_string().as_bytes(), Path::new("/run/x")).unwrap();
            serde_json::from_slice::<Value>(&with).unwrap()
        };
        let mount = json!({
            "destination": "/run/notify", "type": "bind", "source": "/run/x/notify",
            "options": ["bind", "nosuid", "noexec", "nodev", "ro"],
        });
        let variable = json!("NOTIFY_SOCKET=/run/notify/notify.sock");
        let found = with(json!({"mounts": [1], "process": {"env": ["A=1"]}}));
        assert_eq!(found, json!({"mounts": [1, mount], "process": {"env": ["A=1", variable]}}));
        assert_eq!(with(json!({"process": {}})), json!({"mounts": [mount], "process": {"env": [variable]}}));
        // It is refused for what it is.
        assert_eq!(with(json!({"mounts": "x", "process": 1}))["process"], 1);
        assert!(with_socket(b"{", Path::new("/")).is_err());
    }

    #[test]
    fn readiness_is_a_line_of_its_own() {
        assert_eq!(ready_line(b"READY=1"), Some(&b"READY=1"[..]));
        assert_eq!(ready_line(b"STATUS=up\nREADY=1\nMAINPID=7\n"), Some(&b"READY=1"[..]));
        for other in [&b"STATUS=READY=1"[..], b"WATCHDOG=1", b""] {
            assert_eq!(ready_line(other), None);
        }
    }

    #[test]
    fn a_container_without_a_directory_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Readiness::listen(dir.path(), "/x".into()).unwrap().is_none());
    }
}
