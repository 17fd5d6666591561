// SPDX-License-Identifier: Apache-2.0 OR MIT
//! User namespaces: their mappings, and one that exists for its mappings alone (user_namespaces(7)).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::clone::{CloneError, CloneOptions, Cloned, clone_process, exit_now};
use super::pidfd;
use crate::error::{Result, SysError};

/// A range of ids: `size` of them, from `container` on inside, are those from `host` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdMapping {
    /// The first id inside.
    pub container: u32,
    /// The first id outside.
    pub host: u32,
    /// How many there are.
    pub size: u32,
}

/// The mappings of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdMappings {
    /// Of users.
    pub users: Vec<IdMapping>,
    /// Of groups.
    pub groups: Vec<IdMapping>,
}

/// The id outside for `id` inside, where `mappings` have it.
pub fn to_host(mappings: &[IdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let at = id.checked_sub(mapping.container).filter(|at| *at < mapping.size)?;
        mapping.host.checked_add(at)
    })
}

/// The id inside for `id` outside, where `mappings` have it.
pub fn to_container(mappings: &[IdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let at = id.checked_sub(mapping.host).filter(|at| *at < mapping.size)?;
        mapping.container.checked_add(at)
    })
}

impl IdMappings {
    /// The ids outside of the namespace's user 0 and group 0, where it has both.
    pub fn root(&self) -> Option<(u32, u32)> {
        Some((to_host(&self.users, 0)?, to_host(&self.groups, 0)?))
    }
}

fn lines(mappings: &[IdMapping]) -> String {
    mappings.iter().map(|IdMapping { container, host, size }| format!("{container} {host} {size}\n")).collect()
}

/// Writes text into a file of `/proc/PID` with one write(2), which such files want.
pub fn write_process_file(pid: Pid, name: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
    let failed = |call| SysError::at(call, || format!("{path}, {text:?}"));
    let file = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open"))?;
    rustix::io::write(&file, text.as_bytes()).map(drop).map_err(failed("write"))
}

/// Maps the ids of the user namespace that the process `pid` has been put into. Only once.
pub fn map_ids(pid: Pid, mappings: &IdMappings) -> Result<()> {
    write_process_file(pid, "uid_map", &lines(&mappings.users))?;
    write_process_file(pid, "gid_map", &lines(&mappings.groups))
}

/// Reads the mappings of the calling process's own user namespace: its ids, and those of the namespace above.
pub fn own_mappings() -> Result<IdMappings> {
    read_mappings(rustix::process::getpid())
}

/// Reads the mappings of the user namespace of the process `pid`, as the caller's own namespace sees them.
pub fn read_mappings(pid: Pid) -> Result<IdMappings> {
    let read = |name: &str| {
        let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
        let text = fs::read_to_string(&path)
            .map_err(|error| SysError::new("read", path.as_str(), Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        Ok(parse(&text))
    };
    Ok(IdMappings { users: read("uid_map")?, groups: read("gid_map")? })
}

fn parse(text: &str) -> Vec<IdMapping> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        Some(IdMapping { container: next()?, host: next()?, size: next()? })
    };
    text.lines().filter_map(line).collect()
}

/// Makes a user namespace with these mappings and gives a descriptor of it: what mount_setattr(2) takes for a mount with mapped ids.
///
/// A child is born into it, which does nothing and ends before this returns. Refuses a caller with more than one thread.
pub fn make_user_namespace(mappings: &IdMappings) -> std::result::Result<OwnedFd, CloneError> {
    let (held, hold) = pipe_with(PipeFlags::CLOEXEC).map_err(SysError::at("pipe2", || "O_CLOEXEC".to_owned()))?;
    match clone_process(CloneOptions { namespaces: libc::CLONE_NEWUSER as u64, ..CloneOptions::default() })? {
        Cloned::Child => {
            drop(hold);
            // Until the caller lets go, or is gone.
            while matches!(rustix::io::read(&held, &mut [0_u8]), Err(Errno::INTR)) {}
            exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => {
            let made = map_ids(pid, mappings).and_then(|()| open_user_namespace(pid));
            drop(hold);
            // Where the caller ignores SIGCHLD there is nothing to reap.
            drop(pidfd::wait(pidfd.as_fd()));
            Ok(made?)
        }
    }
}

fn open_user_namespace(pid: Pid) -> Result<OwnedFd> {
    let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
    rustix::fs::open(Path::new(&path), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(SysError::at("open", || path.clone()))
}

/// Makes the calling process user 0, group 0 of its user namespace, without further groups.
pub fn become_namespace_root() -> Result<()> {
    super::credentials::set_ids(0, 0, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_by_ranges() {
        let mappings = [
            IdMapping { container: 0, host: 100_000, size: 1000 },
            IdMapping { container: 5000, host: 7, size: 1 },
            IdMapping { container: u32::MAX - 1, host: u32::MAX, size: 2 },
        ];
        let cases = [(0, Some(100_000)), (999, Some(100_999)), (1000, None), (5000, Some(7)), (u32::MAX, None)];
        for (id, host) in cases {
            assert_eq!(to_host(&mappings, id), host, "{id}");
        }
        let back = [(100_000, Some(0)), (100_999, Some(999)), (7, Some(5000)), (8, None), (0, None)];
        for (id, container) in back {
            assert_eq!(to_container(&mappings, id), container, "{id}");
        }
        let both = IdMappings { users: mappings[..1].to_vec(), groups: mappings[..2].to_vec() };
        assert_eq!(both.root(), Some((100_000, 100_000)));
        assert_eq!(IdMappings { groups: mappings[1..2].to_vec(), ..both }.root(), None);
        assert_eq!(lines(&mappings[..2]), "0 100000 1000\n5000 7 1\n");
        assert_eq!(parse("         0     100000       1000\n 5000 7 1\n"), &mappings[..2]);
    }
}
