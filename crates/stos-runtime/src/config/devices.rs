// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the launch honours of devices: nodes to make, and rules about their use.

use oci_spec::runtime::{Linux, LinuxDeviceCgroup, LinuxDeviceType};
use stos_sys::cgroup_bpf::{DeviceAccess, DeviceKind, DeviceRule};

use super::ConfigError;
use super::settings::{DeviceNode, NodeKind, absolute, cleaned};

/// `linux.devices`: nodes to make.
pub(super) fn nodes(linux: &Linux) -> Result<Vec<DeviceNode>, ConfigError> {
    let list = linux.devices().as_deref().unwrap_or_default();
    list.iter()
        .enumerate()
        .map(|(at, device)| {
            let name = format!("linux.devices[{at}]");
            let number = |key: &str, value: i64| {
                u32::try_from(value)
                    .map_err(|_| ConfigError::invalid(format!("{name}.{key}"), "a device number", value))
            };
            let numbers = || -> Result<_, ConfigError> {
                Ok((number("major", device.major())?, number("minor", device.minor())?))
            };
            let kind = match device.typ() {
                LinuxDeviceType::C | LinuxDeviceType::U => numbers().map(|(a, b)| NodeKind::Character(a, b))?,
                LinuxDeviceType::B => numbers().map(|(a, b)| NodeKind::Block(a, b))?,
                LinuxDeviceType::P => NodeKind::Fifo,
                LinuxDeviceType::A => {
                    return Err(ConfigError::invalid(format!("{name}.type"), "c, b, u or p", "a"));
                }
            };
            Ok(DeviceNode {
                path: absolute(&format!("{name}.path"), device.path()).map(|path| cleaned(&path))?,
                kind,
                // Some engines put the file type's bits in; the kind says that already.
                mode: device.file_mode().map(|mode| mode & 0o7777),
                uid: device.uid(),
                gid: device.gid(),
            })
        })
        .collect()
}

/// `linux.resources.devices`: which devices may be used.
pub(super) fn rules(linux: &Linux) -> Result<Vec<DeviceRule>, ConfigError> {
    let list = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    list.iter().enumerate().map(|(at, rule)| self::rule(at, rule)).collect()
}

fn rule(at: usize, rule: &LinuxDeviceCgroup) -> Result<DeviceRule, ConfigError> {
    let name = |key: &str| format!("linux.resources.devices[{at}].{key}");
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => DeviceKind::Any,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Character,
        LinuxDeviceType::P => return Err(ConfigError::invalid(name("type"), "a, b or c", "p")),
    };
    // -1 is how some engines write "all".
    let number = |key: &str, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => {
            u32::try_from(value).map(Some).map_err(|_| ConfigError::invalid(name(key), "a device number", value))
        }
    };
    let access = access(rule.access().as_deref().unwrap_or("rwm"))
        .ok_or_else(|| ConfigError::invalid(name("access"), "letters of rwm", rule.access()))?;
    let rule = DeviceRule {
        allow: rule.allow(),
        kind,
        major: number("major", rule.major())?,
        minor: number("minor", rule.minor())?,
        access,
    };
    let whole = rule.major.is_none() && rule.minor.is_none() && rule.access == DeviceAccess::ALL;
    if rule.kind == DeviceKind::Any && !whole {
        // cgroup v1 takes any rule of type "a" as one for everything: half of such a wish cannot be kept.
        return Err(ConfigError::invalid(name("type"), "b or c in a rule for some devices or accesses", "a"));
    }
    Ok(rule)
}

fn access(letters: &str) -> Option<DeviceAccess> {
    let mut access = DeviceAccess::default();
    for letter in letters.chars() {
        match letter {
            'r' => access.read = true,
            'w' => access.write = true,
            'm' => access.mknod = true,
            _ => return None,
        }
    }
    if access == DeviceAccess::default() { Some(DeviceAccess::ALL) } else { Some(access) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::RuntimeConfig;

    fn of(devices: &serde_json::Value, rules: &serde_json::Value) -> crate::config::Settings {
        let config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "linux": {"namespaces": [{"type": "mount"}], "devices": devices, "resources": {"devices": rules}}
        });
        RuntimeConfig::from_json(config.to_string().as_bytes()).unwrap().settings().clone()
    }

    #[test]
    fn device_rules_take_their_defaults() {
        let rules = json!([{"allow": false}, {"allow": true, "type": "c", "major": 5, "minor": -1, "access": "rw"}]);
        let [all, terminals] = of(&json!([]), &rules).device_rules[..] else { panic!("two rules") };
        assert_eq!((all.allow, all.kind, all.access), (false, super::DeviceKind::Any, super::DeviceAccess::ALL));
        assert_eq!((terminals.major, terminals.minor, terminals.access.mknod), (Some(5), None, false));
    }

    #[test]
    fn a_node_has_its_path_cleaned_and_its_mode_alone() {
        let node = json!({"path": "/no/../dev/./x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o020_640});
        let nodes = of(&json!([node]), &json!([])).devices;
        assert_eq!((nodes[0].path.as_os_str(), nodes[0].mode), ("/dev/x".as_ref(), Some(0o640)));
    }
}
