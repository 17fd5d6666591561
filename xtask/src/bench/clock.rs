// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs commands and says how long they took: from just before the fork to the end of the wait, by CLOCK_MONOTONIC.
//!
//! Every command of every engine is a plain fork and exec from the one process that measures: no shell, no wrapper, nothing that one engine
//! would pay and another would not.

use std::fs::{self, File};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::last_lines;

/// A command that takes longer is taken to hang, and killed.
const PATIENCE: Duration = Duration::from_secs(600);

/// How one thing went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// From just before the first fork to the end of the last wait.
    pub wall: Duration,
    /// What the commands and the children that they have waited for have used of the processors, as user and as kernel.
    pub cpu: Duration,
    /// From just before the first fork to the first byte that the last command wrote to its stdout; where that was asked for.
    pub first_byte: Option<Duration>,
}

/// Runs commands one after the other; fails where one of them does.
pub fn time(commands: &mut [Command]) -> anyhow::Result<Sample> {
    run(commands, false)
}

/// The same, and says when the last one wrote its first byte; fails where it wrote none.
pub fn time_first_byte(commands: &mut [Command]) -> anyhow::Result<Sample> {
    run(commands, true)
}

fn run(commands: &mut [Command], is_read: bool) -> anyhow::Result<Sample> {
    let errors = tempfile::NamedTempFile::new()?;
    let count = commands.len();
    for (number, command) in commands.iter_mut().enumerate() {
        let stdout = if is_read && number + 1 == count { Stdio::piped() } else { Stdio::null() };
        command.stdin(Stdio::null()).stdout(stdout).stderr(File::options().append(true).open(errors.path())?);
    }
    let used = children_cpu()?;
    let start = Instant::now();
    let mut first_byte = None;
    for command in commands {
        let mut child = command.spawn().with_context(|| format!("running {}", command.get_program().display()))?;
        let patience = Patience::begin(&child);
        if let Some(mut stdout) = child.stdout.take() {
            let mut bytes = [0; 4096];
            while let Ok(1..) = stdout.read(&mut bytes) {
                first_byte.get_or_insert_with(|| start.elapsed());
            }
        }
        let status = child.wait()?;
        drop(patience);
        if !status.success() {
            let words = command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
            let said = last_lines(&String::from_utf8_lossy(&fs::read(errors.path())?), 5);
            anyhow::bail!("{} {words}: {status}\n{said}", command.get_program().display());
        }
    }
    let wall = start.elapsed();
    anyhow::ensure!(!is_read || first_byte.is_some(), "nothing came on stdout");
    Ok(Sample { wall, cpu: children_cpu()?.saturating_sub(used), first_byte })
}

/// What a process has used of the processors until now, as user and as kernel; the kernel tells it in hundredths of a second.
pub fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // utime and stime, the 14th and 15th (proc_pid_stat(5)); the name before may have spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11).take(2);
    let ticks = fields.map(str::parse::<u64>).sum::<Result<u64, _>>().with_context(|| format!("{path}: {stat:?}"))?;
    Ok(Duration::from_millis(ticks * 10))
}

/// What all processors have done since the machine was started (proc_stat(5)), in hundredths of a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processes and the kernel.
    pub busy: Duration,
    /// Nothing.
    pub idle: Duration,
    /// What they were kept from by other machines on the same ones.
    pub stolen: Duration,
}

impl Machine {
    /// Until now.
    pub fn now() -> anyhow::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?)
    }

    fn parse(stat: &str) -> anyhow::Result<Self> {
        let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no cpu in /proc/stat")?;
        let fields: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let of = |fields_of: &[usize]| {
            let ticks: u64 = fields_of.iter().filter_map(|at| fields.get(*at)).sum();
            Duration::from_millis(ticks * 10)
        };
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted as user already.
        Ok(Self { busy: of(&[0, 1, 2, 5, 6]), idle: of(&[3, 4]), stolen: of(&[7]) })
    }

    /// What they have done from `before` on.
    pub fn since(self, before: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(before.busy),
            idle: self.idle.saturating_sub(before.idle),
            stolen: self.stolen.saturating_sub(before.stolen),
        }
    }
}

/// Runs a command and gives its stdout, and what it took.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let errors = tempfile::NamedTempFile::new()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.reopen()?);
    let child = command.spawn().with_context(|| format!("running {}", command.get_program().display()))?;
    let patience = Patience::begin(&child);
    let output = child.wait_with_output()?;
    drop(patience);
    let said = || last_lines(&fs::read_to_string(errors.path()).unwrap_or_default(), 5);
    anyhow::ensure!(output.status.success(), "{}: {}\n{}", command.get_program().display(), output.status, said());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn children_cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Ok(Duration::from_micros(micros.iter().sum::<i64>().unsigned_abs()))
}

/// The peak of the resident memory of the children that have been waited for, in bytes. A process that has run but one command knows its.
pub fn children_peak() -> anyhow::Result<u64> {
    Ok(getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss().unsigned_abs() * 1024)
}

/// The running commands, and when each is killed. One thread looks, so that no command waits for a thread to start.
static RUNNING: Mutex<Option<Vec<(i32, Instant)>>> = Mutex::new(None);

/// While it lives its command may run.
struct Patience(i32);

impl Patience {
    fn begin(child: &Child) -> Self {
        let pid = child.id().cast_signed();
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .get_or_insert_with(|| {
                thread::spawn(watch);
                Vec::new()
            })
            .push((pid, Instant::now() + PATIENCE));
        Self(pid)
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        if let Some(running) = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            running.retain(|(pid, _)| *pid != self.0);
        }
    }
}

fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        for (pid, _) in running.iter().flatten().filter(|(_, deadline)| *deadline < Instant::now()) {
            // It may have ended in this instant: then there is nobody to tell.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_first_byte_comes_before_the_end() {
        let sample = time_first_byte(&mut [shell("true"), shell("echo 1; sleep 0.2")]).unwrap();
        assert!(sample.first_byte.unwrap() < sample.wall);
        assert!(time_first_byte(&mut [shell("true")]).is_err());
    }

    #[test]
    fn a_failure_says_what_the_command_said() {
        let error = time(&mut [shell("true"), shell("echo why >&2; exit 3")]).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");
        assert!(output(&mut shell("echo gone >&2; exit 1")).unwrap_err().to_string().ends_with("gone"));
        assert_eq!(output(&mut shell("echo there")).unwrap(), "there\n");
    }

    #[test]
    fn work_costs_processor_time() {
        let spin = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done";
        assert!(time(&mut [shell(spin)]).unwrap().cpu > Duration::ZERO);
        assert!(children_peak().unwrap() > 0);
        assert!(Machine::now().unwrap().busy > cpu_of(std::process::id()).unwrap());
    }

    #[test]
    fn the_machine_s_time_is_told_apart() {
        let before = Machine::parse("cpu  1 2 3 40 5 6 7 8 9 10\ncpu0 1\n").unwrap();
        let [busy, idle, stolen] = [190, 450, 80].map(Duration::from_millis);
        assert_eq!(before, Machine { busy, idle, stolen });
        let after = Machine::parse("cpu  2 2 3 41 5 6 7 9\n").unwrap();
        let tick = Duration::from_millis(10);
        assert_eq!(after.since(before), Machine { busy: tick, idle: tick, stolen: tick });
        assert!(Machine::parse("intr 1\n").is_err());
    }
}
