// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Writing what was planned, and taking it back where a part is refused.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use stos_sys::SysError;

use super::{Group, LimitError, Step, Write};
use crate::cgroup::{CgroupDirectory, Version};

/// A container's directory in one hierarchy, held open: whatever becomes of its path, no other's limits are changed.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) directory: &'a CgroupDirectory,
    pub(crate) held: BorrowedFd<'a>,
}

/// What a file held before it was written.
struct Undo<'a> {
    target: Target<'a>,
    file: &'a str,
    text: String,
}

/// Writes all of `groups`, in their order.
///
/// With `keeps` what was written is taken back where a later write is refused, so that all limits are changed or none.
pub(crate) fn apply(groups: &[Group], targets: &[Target<'_>], keeps: bool) -> Step {
    let mut done = Vec::new();
    let applied = groups.iter().try_for_each(|group| apply_group(group, targets, keeps.then_some(&mut done)));
    if applied.is_err() {
        for undo in done.iter().rev() {
            let written = open(undo.target, undo.file, OFlags::WRONLY)
                .and_then(|mut file| file.write_all(undo.text.as_bytes()).map_err(|error| errno(&error)));
            if let Err(error) = written {
                // The cause counts.
                tracing::warn!(file = undo.file, %error, "a limit cannot be set back");
            }
        }
    }
    applied
}

fn apply_group<'a>(group: &'a Group, targets: &[Target<'a>], mut done: Option<&mut Vec<Undo<'a>>>) -> Step {
    let mut pending: Vec<&Write> = group.iter().collect();
    loop {
        let count = pending.len();
        let (mut refused, mut first) = (Vec::new(), None);
        for write in pending {
            match write_one(write, targets, done.as_deref_mut()) {
                Ok(()) => {}
                Err(error) if is_invalid(&error) => {
                    refused.push(write);
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match first {
            None => return Ok(()),
            Some(error) if refused.len() == count => return Err(error),
            Some(_) => pending = refused,
        }
    }
}

fn is_invalid(error: &LimitError) -> bool {
    matches!(error, LimitError::Refused { source, .. } if source.errno == Errno::INVAL)
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn open(target: Target<'_>, file: &str, flags: OFlags) -> Result<File, Errno> {
    openat(target.held, file, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).map(File::from)
}

fn read(target: Target<'_>, file: &str) -> Option<String> {
    let mut text = String::new();
    open(target, file, OFlags::RDONLY).ok()?.read_to_string(&mut text).ok()?;
    Some(text)
}

fn read_number(target: Target<'_>, file: &str) -> Option<u64> {
    read(target, file)?.trim().parse().ok()
}

fn write_one<'a>(write: &'a Write, targets: &[Target<'a>], done: Option<&mut Vec<Undo<'a>>>) -> Step {
    let key = || write.key.clone();
    let Some(target) = targets.iter().copied().find(|target| is_meant(write, target.directory)) else {
        return Err(LimitError::NoController { key: key(), controller: write.controller.clone() });
    };
    let path = |file: &str| target.directory.path.join(file);
    if let Some(usage) = write.at_least.and_then(|file| read_number(target, file))
        && let Some(asked) = write.forms.first().and_then(|(_, text)| text.parse().ok()).filter(|asked| usage > *asked)
    {
        return Err(LimitError::InUse { key: key(), usage, asked });
    }
    for (file, text) in &write.forms {
        let refused = |call, errno| {
            let usage = (errno == Errno::BUSY && write.controller == "memory")
                .then(|| read_number(target, "memory.usage_in_bytes"))
                .flatten();
            let source = SysError::new(call, path(file).display().to_string(), errno);
            LimitError::Refused { key: key(), text: text.clone(), source, usage }
        };
        let mut opened = match open(target, file, OFlags::WRONLY) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(refused("openat", errno)),
        };
        let before = done.is_some().then(|| read(target, file)).flatten();
        opened.write_all(text.as_bytes()).map_err(|error| refused("write", errno(&error)))?;
        if let (Some(done), Some(before)) =
            (done, before.and_then(|before| restoring(file, text, &before, write.is_table)))
        {
            done.push(Undo { target, file, text: before });
        }
        let found = if write.is_clamped { read(target, file) } else { None };
        return match found.as_deref().map(str::trim).filter(|found| found != text) {
            Some(found) => {
                Err(LimitError::Clamped { key: key(), path: path(file), text: text.clone(), found: found.to_owned() })
            }
            None => Ok(()),
        };
    }
    if write.is_optional {
        return Ok(());
    }
    let file = write.forms.first().map_or("", |(file, _)| file);
    Err(LimitError::NoFile { key: key(), path: path(file) })
}

fn is_meant(write: &Write, directory: &CgroupDirectory) -> bool {
    let has = || directory.controllers.contains(&write.controller);
    directory.version == write.version && (write.version == Version::V2 || has())
}

/// What sets `file` back, after `text`, to what it was before; `None` where it cannot be said.
fn restoring(file: &str, text: &str, before: &str, is_table: bool) -> Option<String> {
    if file == "memory.oom_control" {
        return before.lines().find_map(|line| line.strip_prefix("oom_kill_disable ")).map(str::to_owned);
    }
    if !is_table {
        // An empty one takes a line's end alone: of nothing written the kernel hears nothing.
        return Some(if before.trim().is_empty() { "\n".to_owned() } else { before.trim().to_owned() });
    }
    let mut words = text.split(' ');
    let device = words.next()?;
    let held = before.lines().find(|line| line.split(' ').next() == Some(device));
    let unlimited = |word: &str| match (word.split_once('='), file) {
        (Some((key, _)), _) => format!("{key}=max"),
        (None, "io.weight") => "default".to_owned(),
        (None, _) => "0".to_owned(),
    };
    Some(held.map_or_else(
        || [device.to_owned()].into_iter().chain(words.map(unlimited)).collect::<Vec<_>>().join(" "),
        str::to_owned,
    ))
}

/// Lets the v2 `directory` have the controllers that `groups` need, and with `all` every one that there is: in each cgroup above it
/// they are put on for those below (cgroup-v2.rst, "Enabling and Disabling").
///
/// # Errors
/// For a controller that is needed and not to be had.
pub(crate) fn enable_controllers(directory: &CgroupDirectory, groups: &[Group], all: bool) -> Step {
    let needed = groups.iter().flatten().filter(|write| write.version == Version::V2 && !write.controller.is_empty());
    let needed: Vec<(&str, &str)> = needed.map(|write| (write.controller.as_str(), write.key.as_str())).collect();
    if needed.is_empty() && !all {
        return Ok(());
    }
    let below = directory.path.strip_prefix(&directory.mount_point).unwrap_or(Path::new(""));
    let mut level = directory.mount_point.clone();
    for part in below.components() {
        enable_at(&level, &needed, all)?;
        level.push(part);
    }
    Ok(())
}

fn enable_at(level: &Path, needed: &[(&str, &str)], all: bool) -> Step {
    let file = level.join("cgroup.subtree_control");
    let words = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let (on, available) = (words(&file), if all { words(&level.join("cgroup.controllers")) } else { String::new() });
    let is_off = |name: &&str| !on.split_whitespace().any(|on| on == *name);
    let mut missing: Vec<&str> =
        needed.iter().map(|(name, _)| *name).chain(available.split_whitespace()).filter(is_off).collect();
    missing.sort_unstable();
    missing.dedup();
    let write = |text: String| fs::write(&file, text).map_err(|error| errno(&error));
    let signed = |name: &&str| format!("+{name}");
    if missing.is_empty() || write(missing.iter().map(signed).collect::<Vec<_>>().join(" ")).is_ok() {
        return Ok(());
    }
    // One that cannot be had (a realtime process keeps `cpu` out) must not take the others along.
    for name in missing {
        let failed = write(signed(&name)).err();
        if let (Some(errno), Some((_, key))) = (failed, needed.iter().find(|(needed, _)| *needed == name)) {
            let source = SysError::new("write", file.display().to_string(), errno);
            return Err(LimitError::Refused { key: (*key).to_owned(), text: signed(&name), source, usage: None });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use serde_json::{Value, json};

    use super::super::plan;
    use super::super::tests::{v1, v2};
    use super::*;
    use crate::cgroup::Hierarchy;

    /// A directory that stands for a cgroup with these files.
    fn cgroup(version: Version, files: &[(&str, &str)]) -> (tempfile::TempDir, CgroupDirectory) {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let controllers = if version == Version::V1 { v1().v1 } else { Vec::new() };
        let hierarchy = Hierarchy { version, controllers, mount_point: dir.path().to_owned() };
        (dir, CgroupDirectory::planned(&hierarchy, Path::new("")))
    }

    fn write(directory: &CgroupDirectory, resources: Value) -> Result<(), LimitError> {
        let layout = if directory.version == Version::V1 { v1() } else { v2() };
        let groups = plan(&serde_json::from_value(resources).unwrap(), &layout).unwrap();
        let held = File::open(&directory.path).unwrap();
        apply(&groups, &[Target { directory, held: held.as_fd() }], true)
    }

    #[test]
    fn of_several_names_the_first_that_exists_is_written() {
        let (dir, directory) = cgroup(Version::V2, &[("io.weight", "default 100\n")]);
        write(&directory, json!({"blockIO": {"weight": 1000}})).unwrap();
        assert!(fs::read_to_string(dir.path().join("io.weight")).unwrap().starts_with("10000"));
    }

    #[test]
    fn a_file_that_is_not_there_is_told_and_what_was_written_is_taken_back() {
        let (dir, directory) = cgroup(Version::V1, &[("pids.max", "max\n"), ("cpu.shares", "1024\n")]);
        let asked = json!({"cpu": {"shares": 2048}, "pids": {"limit": 5}, "blockIO": {"weight": 10}});
        let refused = write(&directory, asked).unwrap_err();
        assert!(matches!(&refused, LimitError::NoFile { path, .. } if path.ends_with("blkio.weight")), "{refused}");
        let said = refused.to_string();
        assert!(said.starts_with("linux.resources.blockIO.weight: "), "{said}");
        for (file, text) in [("pids.max", "max"), ("cpu.shares", "1024")] {
            assert!(fs::read_to_string(dir.path().join(file)).unwrap().starts_with(text), "{file}");
        }
    }

    #[test]
    fn a_limit_that_swap_has_no_file_for_is_told_unless_nothing_is_limited() {
        let (_dir, directory) = cgroup(Version::V2, &[("memory.max", "max\n")]);
        write(&directory, json!({"memory": {"limit": 100, "swap": 100}})).unwrap();
        let refused = write(&directory, json!({"memory": {"limit": 100, "swap": 200}})).unwrap_err();
        assert!(matches!(refused, LimitError::NoFile { .. }), "{refused}");
    }

    #[test]
    fn what_is_in_use_is_asked_first_where_that_is_wished() {
        let (dir, directory) = cgroup(Version::V2, &[("memory.max", "max\n"), ("memory.current", "101\n")]);
        let refused = write(&directory, json!({"memory": {"limit": 100, "checkBeforeUpdate": true}})).unwrap_err();
        assert!(matches!(refused, LimitError::InUse { usage: 101, asked: 100, .. }), "{refused}");
        assert_eq!(fs::read_to_string(dir.path().join("memory.max")).unwrap(), "max\n");
        write(&directory, json!({"memory": {"limit": 100}})).unwrap();
    }

    #[test]
    fn tables_are_set_back_by_device() {
        let cases = [
            ("io.max", "8:0 rbps=1", "8:16 rbps=5 wbps=max\n", "8:0 rbps=max"),
            ("io.max", "8:0 rbps=1", "8:0 rbps=5 wbps=max\n", "8:0 rbps=5 wbps=max"),
            ("blkio.throttle.read_bps_device", "8:0 7", "", "8:0 0"),
            ("io.weight", "8:0 7", "default 100\n", "8:0 default"),
            ("net_prio.ifpriomap", "lo 7", "eth0 1\nlo 3\n", "lo 3"),
        ];
        for (file, text, before, expected) in cases {
            assert_eq!(restoring(file, text, before, true).as_deref(), Some(expected));
        }
        assert_eq!(restoring("cpuset.cpus", "0", "\n", false).as_deref(), Some("\n"));
        let oom = "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n";
        assert_eq!(restoring("memory.oom_control", "1", oom, false).as_deref(), Some("0"));
    }

    #[test]
    fn controllers_are_put_on_in_every_cgroup_above() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for level in ["", "a"] {
            let level = dir.path().join(level);
            fs::write(level.join("cgroup.controllers"), "cpu io memory\n").unwrap();
            fs::write(level.join("cgroup.subtree_control"), "memory\n").unwrap();
        }
        let hierarchy = Hierarchy { version: Version::V2, controllers: Vec::new(), mount_point: dir.path().to_owned() };
        let directory = CgroupDirectory::planned(&hierarchy, Path::new("a/b"));
        let on = |level: &str| fs::read_to_string(dir.path().join(level).join("cgroup.subtree_control")).unwrap();
        let groups = |resources: Value| plan(&serde_json::from_value(resources).unwrap(), &v2()).unwrap();
        enable_controllers(&directory, &groups(json!({"memory": {"limit": 1}})), false).unwrap();
        assert_eq!((on(""), on("a")), ("memory\n".to_owned(), "memory\n".to_owned()));
        enable_controllers(&directory, &groups(json!({"cpu": {"shares": 2}})), false).unwrap();
        assert_eq!((on(""), on("a")), ("+cpu".to_owned(), "+cpu".to_owned()));
        fs::write(dir.path().join("cgroup.subtree_control"), "memory\n").unwrap();
        enable_controllers(&directory, &[], true).unwrap();
        assert_eq!(on(""), "+cpu +io");
        assert!(!dir.path().join("a/b/cgroup.subtree_control").exists());
    }
}
