// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a container uses, and when it runs out of memory, as runc's `events` tells it (opencontainers/runc, `types/events.go`).

mod read;
mod stats;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use serde::Serialize;
use stos_sys::SysError;

use crate::cgroup::{CgroupRecord, io_error};
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::lifecycle::{read_with_status, wrong_status};
use crate::state::{RunState, StateDirectory, Status};

pub use stats::Stats;

const STAGE: &str = "watch a container's memory";

/// Something to tell of a container, a line of JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// The container.
    pub id: String,
    /// What it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<Stats>>,
}

/// What an [`Event`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// What the container uses at the moment.
    Stats,
    /// It has run out of memory, and unless that is forbidden the kernel has killed a process of it.
    Oom,
}

/// What a container uses at the moment.
///
/// # Errors
/// Where it has ended. A controller that is not mounted counts nothing.
pub fn stats(root: &StateDirectory, id: &ContainerId) -> Result<Event> {
    Ok(stats_of(&running(root, id)?))
}

/// What the container of this state uses at the moment. What has ended uses nothing.
pub fn usage(state: &RunState) -> Stats {
    read::stats(&state.cgroup)
}

fn stats_of(state: &RunState) -> Event {
    let data = Some(Box::new(usage(state)));
    Event { kind: EventKind::Stats, id: state.id.to_string(), data }
}

fn running(root: &StateDirectory, id: &ContainerId) -> Result<RunState> {
    match read_with_status(root, id)? {
        (state, Status::Created | Status::Running | Status::Paused) => Ok(state),
        (_, found) => Err(wrong_status(id, "watch", "created, running or paused", found)),
    }
}

/// Tells what a container uses each `interval`, and at once when it runs out of memory, until it has ended or `tell` says `false`.
pub fn watch(
    root: &StateDirectory,
    id: &ContainerId,
    interval: Duration,
    mut tell: impl FnMut(&Event) -> io::Result<bool>,
) -> Result<()> {
    let state = running(root, id)?;
    let mut memory = OutOfMemory::watch(&state.cgroup)?;
    let Some(process) = state.init.as_ref().map(crate::ProcessRecord::open).transpose()?.flatten() else {
        return Ok(());
    };
    let oom = Event { kind: EventKind::Oom, id: id.to_string(), data: None };
    let mut tell =
        |event: &Event| tell(event).map_err(|error| io_error("tell events", "write", Path::new("stdout"), &error));
    // An interval that is longer than the clock goes has no end.
    let mut next = Instant::now().checked_add(interval);
    loop {
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
        fds.extend(memory.as_ref().map(|memory| PollFd::new(&memory.notice, PollFlags::IN)));
        let ready = match poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => ready,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(Error::sys("watch a container")(SysError::new("poll", "", errno))),
        };
        let (has_ended, has_notice) =
            (!fds[0].revents().is_empty(), fds.get(1).is_some_and(|fd| !fd.revents().is_empty()));
        for _ in 0..memory.as_mut().map_or(0, |memory| memory.count(has_notice, has_ended)) {
            if !tell(&oom)? {
                return Ok(());
            }
        }
        if has_ended {
            return Ok(());
        }
        if ready == 0 {
            next = Instant::now().checked_add(interval);
            if !tell(&stats_of(&state))? {
                return Ok(());
            }
        }
    }
}

/// Where the kernel says that a container runs out of memory.
struct OutOfMemory {
    cgroup: CgroupRecord,
    notice: OwnedFd,
    is_v1: bool,
    /// Kills at the beginning, and what was told since.
    told: u64,
}

impl OutOfMemory {
    /// `None` where no controller counts the container's memory.
    fn watch(cgroup: &CgroupRecord) -> Result<Option<Self>> {
        let notice = match (cgroup.v1("memory"), cgroup.v2().map(|directory| directory.path.join("memory.events"))) {
            (Some(directory), _) => v1_notice(&directory.path)?,
            (None, Some(file)) if file.exists() => v2_notice(&file)?,
            (None, _) => return Ok(None),
        };
        let is_v1 = cgroup.v1("memory").is_some();
        Ok(Some(Self { cgroup: cgroup.clone(), notice, is_v1, told: cgroup.oom_kills() }))
    }

    /// How often it is to be told now. v1 gives its notice before it kills, and gives one where it must not kill too; what comes
    /// while nobody looks is one notice. So what is missing is counted when the container has ended.
    fn count(&mut self, has_notice: bool, has_ended: bool) -> u64 {
        if has_notice {
            let mut buffer = [0_u8; 4096];
            // It only says that there is something to look for.
            let _ = rustix::io::read(&self.notice, &mut buffer);
        }
        // A removed cgroup gives a notice, too.
        let exists = self.cgroup.v1("memory").is_some();
        let missing = self.cgroup.oom_kills().saturating_sub(self.told);
        let now = if self.is_v1 && has_notice && exists && !has_ended {
            missing.max(1)
        } else if has_ended || !self.is_v1 {
            missing
        } else {
            0
        };
        self.told += now;
        now
    }
}

/// cgroup-v1/memory.rst, "OOM Control": an eventfd that is registered in `cgroup.event_control`.
fn v1_notice(directory: &Path) -> Result<OwnedFd> {
    let failed = |path: PathBuf| move |error: io::Error| io_error(STAGE, "write", &path, &error);
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| Error::sys(STAGE)(SysError::new("eventfd2", "0", errno)))?;
    let file = directory.join("memory.oom_control");
    let watched = fs::File::open(&file).map_err(failed(file))?;
    let file = directory.join("cgroup.event_control");
    let line = format!("{} {}", event.as_raw_fd(), watched.as_raw_fd());
    OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|mut control| control.write_all(line.as_bytes()))
        .map_err(failed(file))?;
    Ok(event)
}

/// cgroup-v2.rst, `memory.events`: "a change in the value generates a file modified event".
fn v2_notice(file: &Path) -> Result<OwnedFd> {
    let notice = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .map_err(|errno| Error::sys(STAGE)(SysError::new("inotify_init1", "", errno)))?;
    inotify::add_watch(notice.as_fd(), file, WatchFlags::MODIFY)
        .map_err(|errno| Error::sys(STAGE)(SysError::new("inotify_add_watch", file.display().to_string(), errno)))?;
    Ok(notice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Hierarchy, Version};

    #[test]
    fn v2_tells_each_kill_once() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { version: Version::V2, controllers: Vec::new(), mount_point: dir.path().to_owned() };
        let record = CgroupRecord::planned(&[hierarchy], Path::new(""));
        assert!(OutOfMemory::watch(&record).unwrap().is_none());
        let kills =
            |count: u32| fs::write(dir.path().join("memory.events"), format!("oom 9\noom_kill {count}\n")).unwrap();
        kills(1);
        let mut memory = OutOfMemory::watch(&record).unwrap().unwrap();
        assert_eq!(memory.count(false, false), 0);
        kills(3);
        let mut fds = [PollFd::new(&memory.notice, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })), Ok(1));
        assert_eq!((memory.count(true, false), memory.count(false, true)), (2, 0));
        kills(4);
        assert_eq!(memory.count(false, true), 1);
    }

    #[test]
    fn an_event_is_a_line_as_runc_has_it() {
        let oom = Event { kind: EventKind::Oom, id: "a".into(), data: None };
        assert_eq!(serde_json::to_string(&oom).unwrap(), r#"{"type":"oom","id":"a"}"#);
        let stats = Event { kind: EventKind::Stats, id: "a".into(), data: Some(Box::default()) };
        let json = serde_json::to_value(&stats).unwrap();
        let mut keys: Vec<_> = json["data"].as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["blkio", "cpu", "cpuset", "hugetlb", "intel_rdt", "memory", "network_interfaces", "pids"]);
    }
}
