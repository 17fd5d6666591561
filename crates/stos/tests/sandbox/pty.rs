// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A terminal with a program on it, as a person at the keyboard has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::rootfs;

use super::{Hub, Sandbox};

/// How long anything may take; an upper bound, not a pace.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sandbox with an image called `term:1`: this machine's sh, bash, busybox and what terminals are looked at with.
pub fn sandbox() -> Sandbox {
    let programs =
        ["bash", "busybox", "cat", "echo", "env", "head", "id", "ls", "ps", "seq", "sleep", "stat", "stty", "tty"];
    let image = ImageBuilder::new().layer(Layer::gzip(rootfs::host_programs(&programs).unwrap()));
    let (sandbox, hub) = (Sandbox::new(), Hub::new());
    sandbox.pull(&hub.serve(&image.command(&["/bin/sh"]).build(), "term", "1"));
    sandbox
}

/// A terminal, and the session leader on it.
pub struct Pty {
    master: File,
    /// Open, so that what was shown can be read when the program has ended.
    slave: OwnedFd,
    /// The modes before the program began, as they read.
    before: String,
    pub child: Child,
    /// What was shown and not expected yet.
    pub shown: String,
}

impl Pty {
    /// Runs `command` on a terminal of so many rows and columns.
    pub fn spawn(command: &Command, rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        // setsid(1) is replaced by the program: its number is the child's.
        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(name, value),
                None => leader.env_remove(name),
            };
        }
        let [stdin, stdout, stderr] = [(); 3].map(|()| slave.try_clone().unwrap());
        let before = modes(&slave);
        // Before the program looks at it.
        set_size(&master, rows, columns);
        Self {
            master: master.into(),
            child: leader.stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap(),
            slave,
            before,
            shown: String::new(),
        }
    }

    /// Gives the terminal another size.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` is shown, and gives what was up to its end.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            assert!(self.read(deadline), "{text:?} was never shown: {:?}", self.shown);
        }
    }

    /// Reads what is shown next; `false` where nothing is before `deadline`.
    fn read(&mut self, deadline: Instant) -> bool {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
        if poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&left)).unwrap() == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        let count = self.master.read(&mut buffer).unwrap();
        self.shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
        true
    }

    /// Waits for the program's end, and gives its exit code (of a signal, less than 0) once the terminal has its modes again.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it runs still: {:?}", self.shown);
            self.read(Instant::now() + Duration::from_millis(10));
        };
        while self.read(Instant::now()) {}
        assert_eq!(modes(&self.slave), self.before, "the terminal is given back");
        status.code().unwrap_or_else(|| -status.signal().unwrap())
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn set_size(terminal: impl AsFd, rows: u16, columns: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

fn modes(terminal: &OwnedFd) -> String {
    let Termios { input_modes, output_modes, control_modes, local_modes, .. } = tcgetattr(terminal).unwrap();
    format!("{input_modes:?} {output_modes:?} {control_modes:?} {local_modes:?}")
}
