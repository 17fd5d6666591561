// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device rules of a container: v1's control files, or a program on v2.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use stos_sys::SysError;
use stos_sys::cgroup_bpf::{self, DeviceAccess, DeviceKind, DeviceRule};

use super::{CgroupRecord, Version, io_error};
use crate::error::{Error, Result};

/// What every container may do, after its own rules: make any node, and use the devices that config-linux.md ("Default
/// Devices") puts in each, terminals among them.
pub(crate) fn default_rules() -> Vec<DeviceRule> {
    let mknod = DeviceAccess { read: false, write: false, mknod: true };
    let any = |kind| DeviceRule { allow: true, kind, major: None, minor: None, access: mknod };
    let character = |major, minor| DeviceRule {
        allow: true,
        kind: DeviceKind::Character,
        major: Some(major),
        minor,
        access: DeviceAccess::ALL,
    };
    vec![
        any(DeviceKind::Character),
        any(DeviceKind::Block),
        character(1, Some(3)),
        character(1, Some(5)),
        character(1, Some(7)),
        character(1, Some(8)),
        character(1, Some(9)),
        character(5, Some(0)),
        character(5, Some(1)),
        character(5, Some(2)),
        character(136, None),
    ]
}

/// Puts `rules` on the container's cgroup, on top of a denial of everything, before any process is in it.
pub(super) fn apply(record: &CgroupRecord, rules: &[DeviceRule]) -> Result<()> {
    let v1 = record.directories.iter().find(|directory| directory.controllers.iter().any(|name| name == "devices"));
    if let Some(directory) = v1 {
        return apply_v1(&directory.path, rules);
    }
    let Some(directory) = record.directories.iter().find(|directory| directory.version == Version::V2) else {
        return Err(Error::NoDeviceController);
    };
    let stage = "set the device rules";
    let program = cgroup_bpf::load(&cgroup_bpf::assemble(rules)).map_err(Error::sys(stage))?;
    let cgroup = rustix::fs::open(&directory.path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::sys(stage)(SysError::new("open", directory.path.display().to_string(), errno)))?;
    cgroup_bpf::attach(program.as_fd(), cgroup.as_fd()).map_err(Error::sys(stage))
}

fn apply_v1(directory: &Path, rules: &[DeviceRule]) -> Result<()> {
    let (allow, deny) = (directory.join("devices.allow"), directory.join("devices.deny"));
    let open = |path: &Path| {
        fs::OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(|error| io_error("set the device rules", "open", path, &error))
    };
    let (mut allow_file, mut deny_file) = (open(&allow)?, open(&deny)?);
    let mut write = |allowed: bool, line: &str| {
        let (file, path) = if allowed { (&mut allow_file, &allow) } else { (&mut deny_file, &deny) };
        file.write_all(line.as_bytes()).map_err(|error| {
            let with_line = path.join(line);
            io_error("set the device rules", "write", &with_line, &error)
        })
    };
    write(false, "a")?;
    // A denial of everything undoes what stands before it, so only what follows the last one is written.
    let whole = |rule: &DeviceRule| rule.kind == DeviceKind::Any && !rule.allow;
    let start = rules.iter().rposition(whole).map_or(0, |at| at + 1);
    rules[start..].iter().try_for_each(|rule| write(rule.allow, &line(rule)))
}

/// A rule as `devices.allow` and `devices.deny` take it: `c 136:* rwm`.
fn line(rule: &DeviceRule) -> String {
    let kind = match rule.kind {
        DeviceKind::Any => return "a".to_owned(),
        DeviceKind::Block => 'b',
        DeviceKind::Character => 'c',
    };
    let number = |value: Option<u32>| value.map_or("*".to_owned(), |value| value.to_string());
    let letters = [(rule.access.read, 'r'), (rule.access.write, 'w'), (rule.access.mknod, 'm')];
    let access: String = letters.iter().filter(|(has, _)| *has).map(|(_, letter)| letter).collect();
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_the_kernel_reads_them() {
        let lines: Vec<_> = default_rules().iter().map(line).collect();
        assert_eq!(lines[0], "c *:* m");
        assert_eq!(lines[2], "c 1:3 rwm");
        assert_eq!(lines[10], "c 136:* rwm");
        let all =
            DeviceRule { allow: true, kind: DeviceKind::Any, major: None, minor: None, access: DeviceAccess::ALL };
        assert_eq!(line(&all), "a");
    }

    #[test]
    fn v1_rules_start_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["devices.allow", "devices.deny"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let rule = |allow, kind| DeviceRule { allow, kind, major: None, minor: None, access: DeviceAccess::ALL };
        let rules = [rule(true, DeviceKind::Block), rule(false, DeviceKind::Any), rule(true, DeviceKind::Character)];
        apply_v1(dir.path(), &rules).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("devices.deny")).unwrap(), "a");
        assert_eq!(fs::read_to_string(dir.path().join("devices.allow")).unwrap(), "c *:* rwm");
    }
}
