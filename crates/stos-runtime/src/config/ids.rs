// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the launch honours of user and time namespaces: mappings of ids, offsets of clocks.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxIdMapping};
use stos_sys::process::user_namespace::{IdMapping, IdMappings, to_host};

use super::{ConfigError, ProcessSettings, Settings};
use crate::config::settings::namespace;

/// More lines a mapping cannot have (user_namespaces(7)).
const LINES: usize = 340;

/// Reads two lists of mappings that belong together; `None` where both are empty.
pub(super) fn mappings(
    name: &str,
    users: Option<&[LinuxIdMapping]>,
    groups: Option<&[LinuxIdMapping]>,
) -> Result<Option<IdMappings>, ConfigError> {
    let read = |key: &str, list: Option<&[LinuxIdMapping]>| -> Result<Vec<IdMapping>, ConfigError> {
        let list = list.unwrap_or_default();
        if list.len() > LINES {
            return Err(ConfigError::invalid(format!("{name}{key}"), "at most 340 ranges", list.len()));
        }
        let read = list.iter().enumerate().map(|(at, range)| {
            let (container, host, size) = (range.container_id(), range.host_id(), range.size());
            let fits = |first: u32| size > 0 && first.checked_add(size - 1).is_some_and(|last| last < u32::MAX);
            if fits(container) && fits(host) {
                Ok(IdMapping { container, host, size })
            } else {
                Err(ConfigError::invalid(format!("{name}{key}[{at}]"), "ids from 0 to 4294967294", range))
            }
        });
        read.collect()
    };
    let mappings = IdMappings { users: read("uidMappings", users)?, groups: read("gidMappings", groups)? };
    match (mappings.users.is_empty(), mappings.groups.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(mappings)),
        (true, false) => {
            Err(ConfigError::invalid(format!("{name}uidMappings"), "as many as gidMappings: some", "none"))
        }
        (false, true) => {
            Err(ConfigError::invalid(format!("{name}gidMappings"), "as many as uidMappings: some", "none"))
        }
    }
}

/// Reads `linux.uidMappings` and `linux.gidMappings`: a new user namespace needs them, an old one has them, and without one they
/// mean nothing.
pub(super) fn of_container(
    linux: &Linux,
    new_namespaces: u64,
    is_joined: bool,
    process: &ProcessSettings,
) -> Result<Option<IdMappings>, ConfigError> {
    let found = mappings("linux.", linux.uid_mappings().as_deref(), linux.gid_mappings().as_deref())?;
    let is_new = new_namespaces & namespace::USER != 0;
    match &found {
        None if is_new => {
            return Err(ConfigError::invalid("linux.uidMappings", "the ids of the new user namespace", "none"));
        }
        Some(_) if !is_new && !is_joined => {
            return Err(ConfigError::invalid("linux.uidMappings", "a namespace of type user", "none"));
        }
        _ => {}
    }
    if let Some(mappings) = &found {
        let mapped = |key: &str, mappings: &[IdMapping], id: u32| match to_host(mappings, id) {
            Some(_) => Ok(()),
            None => Err(ConfigError::invalid(key, "an id that the user namespace maps", id)),
        };
        // The container is set up by its own root.
        mapped("linux.uidMappings", &mappings.users, 0)?;
        mapped("linux.gidMappings", &mappings.groups, 0)?;
        mapped("process.user.uid", &mappings.users, process.uid)?;
        mapped("process.user.gid", &mappings.groups, process.gid)?;
        let mut additional = process.additional_gids.iter();
        additional.try_for_each(|gid| mapped("process.user.additionalGids", &mappings.groups, *gid))?;
    }
    Ok(found)
}

/// Reads `linux.timeOffsets`, as lines of `/proc/PID/timens_offsets` (time_namespaces(7)); empty where there are none.
pub(super) fn time_offsets(linux: &Linux, new_namespaces: u64) -> Result<String, ConfigError> {
    let mut lines = Vec::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let name = format!("linux.timeOffsets.{clock}");
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(ConfigError::invalid("linux.timeOffsets", "monotonic or boottime", clock));
        }
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        if nanoseconds >= 1_000_000_000 {
            return Err(ConfigError::invalid(format!("{name}.nanosecs"), "less than a second", nanoseconds));
        }
        lines.push(format!("{clock} {seconds} {nanoseconds}\n"));
    }
    if !lines.is_empty() && new_namespaces & namespace::TIME == 0 {
        return Err(ConfigError::invalid("linux.timeOffsets", "a new namespace of type time", "none"));
    }
    lines.sort();
    Ok(lines.concat())
}

impl Settings {
    /// The host's uid of the container's user, where the container is to own its v2 cgroup (config-linux.md, "Cgroup ownership"): it has a
    /// cgroup namespace of its own, and cgroups mounted at `/sys/fs/cgroup` that it may write. `None` too for root, whose they are anyway,
    /// and for a user of whom the host's uid is not told.
    pub fn cgroup_owner(&self) -> Option<u32> {
        let is_writable = self.mounts.iter().any(|mount| {
            matches!(mount.fstype.as_str(), "cgroup" | "cgroup2")
                && mount.destination == Path::new("/sys/fs/cgroup")
                && !mount.raw_options.iter().any(|option| option == "ro" || option == "rro")
        });
        let uid = self.process.uid;
        let joins_user = self.joined_namespaces.iter().any(|joined| joined.flag as u64 == namespace::USER);
        let owner = match &self.id_mappings {
            Some(mappings) => to_host(&mappings.users, uid),
            None if joins_user => None,
            None => Some(uid),
        };
        owner.filter(|&owner| self.new_cgroup_namespace && is_writable && owner != 0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::config::RuntimeConfig;

    fn config(change: impl FnOnce(&mut Value)) -> Result<RuntimeConfig, String> {
        let range = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        let mut config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "user"}, {"type": "time"}],
                "uidMappings": range, "gidMappings": range
            }
        });
        change(&mut config);
        RuntimeConfig::from_json(config.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn mappings_and_offsets_are_read() {
        let config = config(|config| {
            config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": -5}, "boottime": {"secs": 7, "nanosecs": 3}});
        })
        .unwrap();
        let settings = config.settings();
        let ids = settings.id_mappings.as_ref().unwrap();
        assert_eq!((ids.users[0].host, ids.groups[0].size), (100_000, 1000));
        assert_eq!(settings.time_offsets, "boottime 7 3\nmonotonic -5 0\n");
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let namespaces = json!([{"type": "mount"}]);
        let cases: [(&str, Value, &str); 10] = [
            ("/linux/uidMappings", json!([]), "linux.uidMappings"),
            ("/linux/gidMappings", Value::Null, "linux.gidMappings"),
            ("/linux/namespaces", namespaces, "linux.uidMappings: expected a namespace of type user"),
            ("/linux/uidMappings/0/containerID", json!(1), "linux.uidMappings: expected an id that"),
            ("/linux/uidMappings/0/size", json!(0), "linux.uidMappings[0]"),
            ("/linux/uidMappings/0/hostID", json!(4_294_967_000_u64), "linux.uidMappings[0]"),
            ("/process/user/uid", json!(1000), "process.user.uid"),
            ("/process/user/gid", json!(1000), "process.user.gid"),
            ("/process/user/additionalGids", json!([1, 1000]), "process.user.additionalGids"),
            ("/linux/timeOffsets", json!({"realtime": {"secs": 1}}), "linux.timeOffsets"),
        ];
        for (pointer, value, said) in cases {
            let error = config(|config| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                config.pointer_mut(parent).unwrap()[key] = value;
            });
            let error = error.map(|_| ()).unwrap_err();
            assert!(error.contains(said), "{pointer}: {error}");
        }
        let without = config(|config| {
            config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "user"}]);
            config["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}});
        });
        assert!(without.unwrap_err().contains("a new namespace of type time"));
    }

    #[test]
    fn who_may_write_its_cgroups_owns_them() {
        let wanted = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut config = json!({
                "ociVersion": "1.2.0", "root": {"path": "rootfs"},
                "process": {"args": ["x"], "cwd": "/", "user": {"uid": 1000, "gid": 0}},
                "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw", "nosuid"]}],
                "linux": {"namespaces": [{"type": "mount"}, {"type": "cgroup"}]},
            });
            change(&mut config);
            RuntimeConfig::from_json(config.to_string().as_bytes()).unwrap().settings().cgroup_owner()
        };
        assert_eq!(wanted(&|_| {}), Some(1000));
        assert_eq!(wanted(&|config| config["process"]["user"]["uid"] = 0.into()), None);
        assert_eq!(wanted(&|config| config["mounts"][0]["options"] = json!(["nosuid", "ro"])), None);
        assert_eq!(wanted(&|config| config["mounts"] = json!([])), None);
        assert_eq!(wanted(&|config| config["linux"]["namespaces"] = json!([{"type": "mount"}])), None);
        let mapped = |config: &mut serde_json::Value| {
            let mappings = json!([{"containerID": 0, "hostID": 100_000, "size": 500}]);
            config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}, {"type": "user"}]);
            config["linux"]["uidMappings"] = mappings.clone();
            config["linux"]["gidMappings"] = mappings;
            config["process"]["user"]["uid"] = 7.into();
        };
        assert_eq!(wanted(&mapped), Some(100_007));
    }
}
