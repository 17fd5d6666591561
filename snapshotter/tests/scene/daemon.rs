// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon by itself, in a directory of its own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use stos_snapshotter::api::snapshots::*;
use stos_testkit::environment;

use super::binary;

/// Nothing takes so long here; a test that waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon in a directory of its own.
pub struct Daemon {
    pub child: Child,
    pub dir: tempfile::TempDir,
}

impl Daemon {
    pub fn start() -> Self {
        let dir = environment::scratch();
        std::fs::write(dir.path().join("config.toml"), config(&dir.path().join("metrics"), "info")).unwrap();
        Self::start_in(dir, |command| command)
    }

    pub fn start_in(dir: tempfile::TempDir, adapt: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut command = command(dir.path());
        let log = std::fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        let child = adapt(&mut command).stderr(log).spawn().unwrap();
        let daemon = Self { child, dir };
        daemon.eventually("serving", |daemon| daemon.log().contains("\"serving\""));
        daemon.eventually("a socket", |daemon| UnixStream::connect(daemon.socket()).is_ok());
        // It says so before it is open; until then it tells no metrics, and reads no configuration again.
        daemon.eventually("metrics", |daemon| UnixStream::connect(daemon.dir.path().join("metrics")).is_ok());
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    #[track_caller]
    pub fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "no {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn end(mut self, signal: rustix::process::Signal) -> (ExitStatus, tempfile::TempDir) {
        self.signal(signal);
        let status = self.child.wait().unwrap();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        (status, dir)
    }

    /// Asks for metrics.
    pub fn metrics(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.dir.path().join("metrics")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(["--address", "socket", "--data-root", "data", "--root", "run", "--config", "config.toml"]);
    for variable in ["STOS_DATA_ROOT", "STOS_ROOT", "STOS_LAYERFS", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"] {
        command.env_remove(variable);
    }
    command.current_dir(dir).stdin(Stdio::null());
    command
}

pub fn config(metrics: &Path, level: &str) -> String {
    format!("[metrics]\naddress = \"unix:{}\"\n[log]\nlevel = \"{level}\"\n", metrics.display())
}

pub fn prepare(key: &str) -> PrepareSnapshotRequest {
    PrepareSnapshotRequest { key: key.to_owned(), ..PrepareSnapshotRequest::default() }
}
