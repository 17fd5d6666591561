// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What tells a process from a later one of the same number: its start time, and which boot that time counts from.

use std::ops::Range;
use std::sync::OnceLock;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::clone::stat_field;
use crate::error::{Result, SysError};

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// When it started, in clock ticks since the boot (field 22).
    pub start_time: u64,
    /// Whether it has ended and only waits to be reaped (states `Z` and `X`). One whose first thread alone has ended shows
    /// `Z` too, and runs on.
    pub is_dead: bool,
}

/// Reads the process `pid`; `None` where there is none.
pub fn process_stat(pid: i32) -> Result<Option<ProcessStat>> {
    let path = format!("/proc/{pid}/stat");
    let stat = match read_small(&path) {
        Ok(stat) => stat,
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    parse_stat(&stat).map(Some).ok_or_else(|| SysError::new("read", path, Errno::INVAL))
}

fn parse_stat(stat: &[u8]) -> Option<ProcessStat> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let state = *stat.get(name_end + 2)?;
    // Field 20 counts the first thread until all others have ended.
    let is_dead = state == b'X' || (state == b'Z' && stat_field(stat, 20)? <= 1);
    Some(ProcessStat { start_time: stat_field(stat, 22)?, is_dead })
}

/// Where the kernel finds what a process was called with: its `cmdline` and `environ` are read from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerAreas {
    /// The arguments, each with its NUL (fields 48 and 49).
    pub arguments: Range<u64>,
    /// The environment, likewise (fields 50 and 51).
    pub environment: Range<u64>,
}

/// Gives where the calling process has its arguments and its environment in memory (proc_pid_stat(5)).
pub fn caller_areas() -> Result<CallerAreas> {
    let path = "/proc/self/stat";
    parse_areas(&read_small(path)?).ok_or_else(|| SysError::new("read", path, Errno::INVAL))
}

fn parse_areas(stat: &[u8]) -> Option<CallerAreas> {
    let field = |number| stat_field(stat, number);
    Some(CallerAreas { arguments: field(48)?..field(49)?, environment: field(50)?..field(51)? })
}

/// Gives how many clock ticks a second has.
pub fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

/// Gives the time since the boot, times of suspension included, in the clock ticks that [`ProcessStat::start_time`] counts.
pub fn ticks_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let per_second = ticks_per_second();
    // Neither is ever negative.
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    // As the kernel counts them (`nsec_to_clock_t`): parts of a tick are left out.
    seconds * per_second + nanoseconds * per_second / 1_000_000_000
}

/// The id of this boot, new with each one: it is read once, for a process does not outlive its boot.
pub fn boot_id() -> Result<&'static str> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id);
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let id = String::from_utf8(read_small(path)?).map_err(|_| SysError::new("read", path, Errno::INVAL))?;
    Ok(BOOT_ID.get_or_init(|| id.trim_end().to_owned()))
}

/// Reads a file of the kernel's that is smaller than a page, by one read(2): such files give no size beforehand, and are whole
/// in the first answer.
pub(super) fn read_small(path: &str) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(SysError::at("open", || path.to_owned()))?;
    let mut text = Vec::with_capacity(4096);
    retry_on_intr(|| rustix::io::read(&file, spare_capacity(&mut text)))
        .map_err(SysError::at("read", || path.to_owned()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognised() {
        let own = process_stat(std::process::id().cast_signed()).unwrap().unwrap();
        assert!(own.start_time > 0 && !own.is_dead);
        assert!(own.start_time <= ticks_since_boot(), "it has started");
        assert_eq!(process_stat(i32::MAX).unwrap(), None);
        assert_eq!(boot_id().unwrap().len(), 36);
    }

    #[test]
    fn a_zombie_is_dead_whatever_its_name() {
        let stat = b"7 (x) S 1) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n";
        assert_eq!(parse_stat(stat), Some(ProcessStat { start_time: 4711, is_dead: true }));
        let with_threads = b"7 (x) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 2 0 4711 0 0\n";
        assert_eq!(parse_stat(with_threads), Some(ProcessStat { start_time: 4711, is_dead: false }));
    }

    #[test]
    fn what_a_process_was_called_with_is_where_the_kernel_says() {
        let areas = caller_areas().unwrap();
        let length = areas.arguments.end - areas.arguments.start;
        assert_eq!(length, std::fs::read("/proc/self/cmdline").unwrap().len() as u64);
        assert!(areas.arguments.start < areas.arguments.end && areas.environment.start <= areas.environment.end);
        let fields: Vec<_> = (3..53).map(|number| number.to_string()).collect();
        let found = parse_areas(format!("7 (a) b) {}", fields.join(" ")).as_bytes());
        assert_eq!(found, Some(CallerAreas { arguments: 48..49, environment: 50..51 }));
        for short in ["7 (a) S 1", "1 (a) b) R 1 2"] {
            assert_eq!(parse_areas(short.as_bytes()), None);
        }
    }
}
