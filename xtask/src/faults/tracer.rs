// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs a command under ptrace(2), with all its threads and children, and lets one of its system calls go wrong.
//!
//! Counted are the calls of [`calls`](super::calls), in the order in which the kernel sees them, over all threads. A program that a child
//! executes (a container's, a helper's) is let go of: it is not ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use stos_testkit::shell::through_shell;

use super::calls::Point;

/// A command that takes longer is taken to hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// The event with which a thread that was seized stops (`PTRACE_EVENT_STOP`).
const EVENT_STOP: i32 = 128;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed before it makes the call.
    Kill,
    /// The call is not made and fails.
    Error(Errno),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kill => f.write_str("SIGKILL"),
            Self::Error(errno) => write!(f, "{errno:?}"),
        }
    }
}

/// A command did not end within [`PATIENCE`], and was killed.
#[derive(Debug)]
pub struct Hung {
    /// What it had said on stderr.
    stderr: String,
}

impl std::fmt::Display for Hung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it hung: {}", self.stderr)
    }
}

impl std::error::Error for Hung {}

/// How a command went.
#[derive(Debug)]
pub struct Traced {
    /// The exit code; `None` where it was killed.
    pub code: Option<i32>,
    /// What it said on stderr.
    pub stderr: String,
    /// What it was about to change, in order.
    pub points: Vec<Point>,
    /// Where it went wrong; `None` where it ended before.
    pub struck: Option<Point>,
}

impl Traced {
    /// Whether the command says that it has done what it was asked for.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs a command and counts from where it has become `program` on; at its call number `at`, counted from 0, `fault` strikes. Calls that only concern `ignored` are not counted.
pub fn trace(
    command: &Command,
    program: &str,
    strike: Option<(usize, Fault)>,
    ignored: &Path,
) -> anyhow::Result<Traced> {
    let stderr = ignored.join("stderr");
    let mut child =
        through_shell("kill -STOP $$", command).stderr(fs::File::create(&stderr)?).stdout(Stdio::null()).spawn()?;
    let first = Pid::from_raw(i32::try_from(child.id())?);
    // It has stopped itself, so that nothing of it is missed.
    waitpid(first, Some(WaitPidFlag::WUNTRACED)).context("waiting for the command to stop")?;
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(first, options).context("PTRACE_SEIZE")?;
    kill(first, Signal::SIGCONT)?;
    let alive = Arc::new(Mutex::new(BTreeSet::from([first.as_raw()])));
    let watchdog = Watchdog::start(Arc::clone(&alive));
    let mut tracer = Tracer {
        first,
        program,
        has_begun: false,
        failing: BTreeMap::new(),
        ignored,
        strike,
        code: None,
        points: Vec::new(),
        struck: None,
        alive,
    };
    let traced = tracer.run();
    let has_hung = watchdog.stop();
    // Reaped above; this only tells Rust so.
    let _ = child.try_wait();
    traced?;
    let Tracer { code, points, struck, .. } = tracer;
    let stderr = fs::read_to_string(stderr).unwrap_or_default();
    if has_hung {
        return Err(Hung { stderr }.into());
    }
    Ok(Traced { code, stderr, points, struck })
}

struct Tracer<'a> {
    first: Pid,
    /// The file name of the program whose calls count.
    program: &'a str,
    /// Whether the shell, and what it starts to get there, has become the program.
    has_begun: bool,
    /// Threads in a system call that is to fail.
    failing: BTreeMap<i32, Errno>,
    ignored: &'a Path,
    strike: Option<(usize, Fault)>,
    code: Option<i32>,
    points: Vec<Point>,
    struck: Option<Point>,
    alive: Arc<Mutex<BTreeSet<i32>>>,
}

impl Tracer<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => continue,
                other => other.context("waitpid")?,
            };
            match status {
                WaitStatus::Exited(pid, code) => self.ended(pid, Some(code)),
                WaitStatus::Signaled(pid, ..) => self.ended(pid, None),
                WaitStatus::PtraceSyscall(pid) => {
                    self.system_call(pid)?;
                    go_on(pid, None)?;
                }
                WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => self.executed(pid)?,
                WaitStatus::PtraceEvent(pid, _, EVENT_STOP) => {
                    self.alive().insert(pid.as_raw());
                    go_on(pid, None)?;
                }
                WaitStatus::PtraceEvent(pid, ..) => go_on(pid, None)?,
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal))?,
                _ => {}
            }
        }
    }

    fn alive(&self) -> std::sync::MutexGuard<'_, BTreeSet<i32>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&mut self, pid: Pid, code: Option<i32>) {
        self.alive().remove(&pid.as_raw());
        self.failing.remove(&pid.as_raw());
        if pid == self.first {
            self.code = code;
        }
    }

    fn executed(&mut self, pid: Pid) -> anyhow::Result<()> {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let is_ours = program.file_name().is_some_and(|name| name == self.program);
        self.has_begun |= is_ours;
        if is_ours || !self.has_begun {
            return go_on(pid, None);
        }
        self.alive().remove(&pid.as_raw());
        ended_is_fine(ptrace::detach(pid, None))
    }

    /// A stop before or after a call.
    fn system_call(&mut self, pid: Pid) -> anyhow::Result<()> {
        // Killed meanwhile.
        let (Ok(info), Ok(mut registers)) = (ptrace::syscall_info(pid), ptrace::getregs(pid)) else { return Ok(()) };
        if let Some(errno) = self.failing.remove(&pid.as_raw()) {
            registers.rax = i64::from(-(errno as i32)).cast_unsigned();
            return ended_is_fine(ptrace::setregs(pid, registers));
        }
        if !self.has_begun || info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return Ok(());
        }
        let number = registers.orig_rax.cast_signed();
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        let Some(point) = Point::of(pid.as_raw(), number, &arguments) else { return Ok(()) };
        if point.path.starts_with(self.ignored) {
            return Ok(());
        }
        let here = self.points.len();
        self.points.push(point.clone());
        let Some((_, fault)) = self.strike.filter(|(at, _)| *at == here) else { return Ok(()) };
        match fault {
            Fault::Kill => {
                self.struck = Some(point);
                ended_is_fine(kill(thread_group(pid), Signal::SIGKILL))
            }
            Fault::Error(errno) => {
                // Another run may make another call here, which has other errors.
                let errno = if point.errors.contains(&errno) { errno } else { Errno::EIO };
                self.struck = Some(point);
                self.failing.insert(pid.as_raw(), errno);
                // No call has this number: none is made.
                registers.orig_rax = u64::MAX;
                ended_is_fine(ptrace::setregs(pid, registers))
            }
        }
    }
}

fn go_on(pid: Pid, signal: Option<Signal>) -> anyhow::Result<()> {
    // What follows SIGTRAP is not the command's.
    ended_is_fine(ptrace::syscall(pid, signal.filter(|signal| *signal != Signal::SIGTRAP)))
}

/// A process can be gone at any moment.
pub fn ended_is_fine(result: nix::Result<()>) -> anyhow::Result<()> {
    match result {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).context("ptrace"),
    }
}

/// The process that a thread belongs to.
fn thread_group(tid: Pid) -> Pid {
    let status = fs::read_to_string(PathBuf::from(format!("/proc/{tid}/status"))).unwrap_or_default();
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    group.map_or(tid, Pid::from_raw)
}

/// Kills what is traced where that takes too long.
struct Watchdog {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(alive: Arc<Mutex<BTreeSet<i32>>>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let has_hung = stopped.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if has_hung {
                for pid in alive.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
                }
            }
            has_hung
        });
        Self { stop, thread }
    }

    /// Tells whether it has had to.
    fn stop(self) -> bool {
        let _ = self.stop.send(());
        self.thread.join().unwrap_or(true)
    }
}
