// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device rules of a container: v1's control files, or a program on v2.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use stos_sys::cgroup_bpf::{self, DeviceAccess, DeviceKind, DeviceRule};

use super::make::{MadeCgroups, open_control};
use super::{CgroupDirectory, io_error};
use crate::error::{Error, Result};

const STAGE: &str = "set the device rules";

/// What every container may do, after its own rules: make any node, and use the devices that config-linux.md ("Default
/// Devices") puts in each, terminals among them, and tunnels.
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
        // /dev/net/tun: no default device of the specification, but runc allows it (but for 1.2.0 to 1.2.3), and engines count on it.
        character(10, Some(200)),
    ]
}

/// Puts `rules` on the container's cgroup, on top of a denial of everything, before any process is in it.
pub(super) fn apply(cgroups: &MadeCgroups, rules: &[DeviceRule]) -> Result<()> {
    let v1 = cgroups.v1().find(|(directory, _)| directory.controllers.iter().any(|name| name == "devices"));
    if let Some((directory, held)) = v1 {
        return apply_v1(directory, held, rules);
    }
    let cgroup = cgroups.v2().ok_or(Error::NoDeviceController)?;
    let program = cgroup_bpf::load(&cgroup_bpf::assemble(rules)).map_err(Error::sys(STAGE))?;
    cgroup_bpf::attach(program.as_fd(), cgroup).map_err(Error::sys(STAGE))
}

fn apply_v1(directory: &CgroupDirectory, held: BorrowedFd<'_>, rules: &[DeviceRule]) -> Result<()> {
    let wanted = Exceptions::of(rules)?;
    let (allow, deny) = ("devices.allow", "devices.deny");
    let open = |file| open_control(directory, held, file).map_err(Error::sys(STAGE));
    let (mut allow_file, mut deny_file) = (open(allow)?, open(deny)?);
    let mut write = |allowed: bool, line: &str| {
        let (file, name) = if allowed { (&mut allow_file, allow) } else { (&mut deny_file, deny) };
        let failed = |error| io_error(STAGE, "write", &directory.path.join(name).join(line), &error);
        file.write_all(line.as_bytes()).map_err(failed)
    };
    write(false, "a")?;
    if wanted.allow_others {
        write(true, "a")?;
    }
    wanted.list.iter().try_for_each(|exception| write(exception.allow, &line(exception)))
}

/// What rules come to on v1, which knows but a default and exceptions to it (Documentation/admin-guide/cgroup-v1/devices.rst).
#[derive(Debug, PartialEq, Eq)]
struct Exceptions {
    allow_others: bool,
    /// Each says the opposite of the default.
    list: Vec<DeviceRule>,
}

impl Exceptions {
    /// Takes `rules` in their order, as a denial of everything comes first.
    ///
    /// The kernel takes an exception back where it is named exactly, and ignores a rule that is a part of one or reaches
    /// over its edge; such a rule is refused.
    fn of(rules: &[DeviceRule]) -> Result<Self> {
        let mut wanted = Self { allow_others: false, list: Vec::new() };
        for rule in rules {
            if rule.kind == DeviceKind::Any {
                wanted = Self { allow_others: rule.allow, list: Vec::new() };
            } else if rule.allow == wanted.allow_others {
                wanted.take_back(rule)?;
            } else {
                wanted.add(rule);
            }
        }
        Ok(wanted)
    }

    fn add(&mut self, rule: &DeviceRule) {
        let device = |rule: &DeviceRule| (rule.kind, rule.major, rule.minor);
        match self.list.iter_mut().find(|exception| device(exception) == device(rule)) {
            Some(exception) => exception.access = exception.access.union(rule.access),
            None => self.list.push(*rule),
        }
    }

    fn take_back(&mut self, rule: &DeviceRule) -> Result<()> {
        for exception in self.list.iter_mut().filter(|exception| exception.kind == rule.kind) {
            let left = exception.access.without(rule.access);
            let numbers = [(rule.major, exception.major), (rule.minor, exception.minor)];
            let covered = numbers.iter().all(|(rule, exception)| rule.is_none() || rule == exception);
            let apart =
                numbers.iter().any(|(rule, exception)| matches!((rule, exception), (Some(a), Some(b)) if a != b));
            if covered {
                exception.access = left;
            } else if !apart && left != exception.access {
                return Err(Error::DeviceRuleHole { rule: line(rule), wider: line(exception) });
            }
        }
        self.list.retain(|exception| exception.access != DeviceAccess::default());
        Ok(())
    }
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
    use std::fs;

    use super::super::{Hierarchy, Version};
    use super::*;

    #[test]
    fn rules_are_written_as_the_kernel_reads_them() {
        let lines: Vec<_> = default_rules().iter().map(line).collect();
        assert_eq!(lines[0], "c *:* m");
        assert_eq!(lines[2], "c 1:3 rwm");
        assert_eq!(lines[10..], ["c 136:* rwm", "c 10:200 rwm"]);
        let all =
            DeviceRule { allow: true, kind: DeviceKind::Any, major: None, minor: None, access: DeviceAccess::ALL };
        assert_eq!(line(&all), "a");
    }

    /// Reads `deny a`, `allow c 10:* rwm`.
    fn rules(text: &[&str]) -> Vec<DeviceRule> {
        let number = |text: &str| if text == "*" { None } else { Some(text.parse().unwrap()) };
        let rule = |text: &&str| {
            let words: Vec<&str> = text.split(' ').collect();
            let (allow, access) = (words[0] == "allow", words.get(3).unwrap_or(&"rwm"));
            let kind = match words[1] {
                "a" => DeviceKind::Any,
                "b" => DeviceKind::Block,
                _ => DeviceKind::Character,
            };
            let (major, minor) = words.get(2).unwrap_or(&"*:*").split_once(':').unwrap();
            let [read, write, mknod] = ["r", "w", "m"].map(|letter| access.contains(letter));
            let access = DeviceAccess { read, write, mknod };
            DeviceRule { allow, kind, major: number(major), minor: number(minor), access }
        };
        text.iter().map(rule).collect()
    }

    #[test]
    fn v1_rules_come_to_a_default_and_exceptions() {
        let cases: [(&[&str], bool, &[&str]); 7] = [
            (&["allow b *:* rwm", "deny a", "allow c *:* rwm"], false, &["c *:* rwm"]),
            (&["allow c 1:3 r", "allow c 1:3 w", "allow c 1:5 r"], false, &["c 1:3 rw", "c 1:5 r"]),
            (&["allow c 10:229 rw", "deny c 10:229 w", "deny b 10:229 r"], false, &["c 10:229 r"]),
            (&["allow c 10:229 rw", "deny c 10:* rwm"], false, &[]),
            (&["allow c 10:* r", "deny c 10:200 w", "deny c 11:200 r"], false, &["c 10:* r"]),
            (&["allow a", "deny c 10:200 rwm", "allow c 1:3 rwm"], true, &["c 10:200 rwm"]),
            (&["allow a", "deny c 10:200 rwm", "allow c *:* w"], true, &["c 10:200 rm"]),
        ];
        for (text, allow_others, expected) in cases {
            let found = Exceptions::of(&rules(text)).unwrap();
            let lines: Vec<_> = found.list.iter().map(line).collect();
            assert_eq!((found.allow_others, lines), (allow_others, expected.iter().map(ToString::to_string).collect()));
        }
    }

    #[test]
    fn a_hole_that_v1_would_ignore_is_refused() {
        let cases: [(&[&str], &str, &str); 4] = [
            (&["deny a", "allow c 10:* rwm", "deny c 10:200 rwm"], "c 10:200 rwm", "c 10:* rwm"),
            (&["allow c *:* r", "deny c 10:* r"], "c 10:* r", "c *:* r"),
            (&["allow c 10:* r", "deny c *:200 r"], "c *:200 r", "c 10:* r"),
            (&["allow a", "deny c 10:* rwm", "allow c 10:229 rw"], "c 10:229 rw", "c 10:* rwm"),
        ];
        for (text, expected_rule, expected_wider) in cases {
            let refused = Exceptions::of(&rules(text)).unwrap_err();
            let Error::DeviceRuleHole { rule, wider } = &refused else { panic!("{refused}") };
            assert_eq!((rule.as_str(), wider.as_str()), (expected_rule, expected_wider));
        }
    }

    #[test]
    fn v1_rules_start_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["devices.allow", "devices.deny"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let rule = |allow, kind| DeviceRule { allow, kind, major: None, minor: None, access: DeviceAccess::ALL };
        let rules = [rule(true, DeviceKind::Block), rule(false, DeviceKind::Any), rule(true, DeviceKind::Character)];
        let hierarchy = Hierarchy { version: Version::V1, controllers: Vec::new(), mount_point: dir.path().into() };
        let held = fs::File::open(dir.path()).unwrap();
        apply_v1(&CgroupDirectory::planned(&hierarchy, "".as_ref()), held.as_fd(), &rules).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("devices.deny")).unwrap(), "a");
        assert_eq!(fs::read_to_string(dir.path().join("devices.allow")).unwrap(), "c *:* rwm");
    }
}
