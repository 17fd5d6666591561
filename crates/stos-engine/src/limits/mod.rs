// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits and devices of containers from images: what may be asked for, and whether this machine can grant it.
//!
//! | module | what it is |
//! |---|---|
//! | `resources` | limits of cgroups, as `linux.resources`: rules and what contradicts itself |
//! | `machine` | what this machine has: processors, memory nodes, controllers, limits of our own |
//! | `devices` | devices of the host, as the container gets them |
//! | `ulimits` | limits of processes (setrlimit(2)) |
//! | [`update`] | limits of a container that exists |
//!
//! The rules are podman's (podman-run(1); containers/podman, `pkg/specgen/generate/validate_linux.go`), but for one: what cannot
//! be granted is refused, where podman drops some of it with a warning. What is not asked for is never raised: podman gives a
//! container 1,048,576 open files where it may, here it has its caller's limits.

mod devices;
mod machine;
mod resources;
mod ulimits;
pub mod update;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::namespaces::NamespaceOf;
use crate::options::{CreateOptions, Network};
use machine::Machine;

pub use resources::{ResourceOptions, time_of_cpus};
pub use ulimits::{UlimitOption, UlimitValue};

/// How many processes and threads a container may have where nothing is said: podman's default (containers.conf(5),
/// `pids_limit`).
pub const DEFAULT_PIDS_LIMIT: i64 = 2048;

/// The size of `/dev/shm` in bytes where nothing is said: podman's default (containers.conf(5), `shm_size`).
pub const DEFAULT_SHM_SIZE: u64 = 64 << 20;

/// Attributes of a mount that people name.
pub const MOUNT_WORDS: [&str; 14] = [
    "ro",
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "strictatime",
];

/// Options of a tmpfs that take a value (tmpfs(5)).
pub const TMPFS_KEYS: [&str; 6] = ["size", "mode", "nr_inodes", "nr_blocks", "uid", "gid"];

/// What a user may ask of a new container's limits and devices.
#[derive(Debug, Clone, Default)]
pub struct LimitOptions {
    /// Limits of its cgroups.
    pub resources: ResourceOptions,
    /// Limits of its processes.
    pub ulimits: Vec<UlimitOption>,
    /// The size of `/dev/shm` in bytes, 0 for no limit; `None` for [`DEFAULT_SHM_SIZE`].
    pub shm_size: Option<u64>,
    /// Filesystems in memory.
    pub tmpfs: Vec<TmpfsOption>,
    /// Devices of the host.
    pub devices: Vec<DeviceOption>,
    /// Rules about the use of devices, after those of `devices`.
    pub device_rules: Vec<DeviceRuleOption>,
    /// How gladly the kernel kills it where the machine has no memory left, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Settings of the kernel, each of a namespace that the container has for itself.
    pub sysctl: BTreeMap<String, String>,
    /// Annotations of its configuration.
    pub annotations: BTreeMap<String, String>,
}

/// A filesystem in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsOption {
    /// In the container; absolute.
    pub target: PathBuf,
    /// Its options, as mount(8) has them.
    pub options: Vec<String>,
}

/// A device of the host that the container gets, or a directory of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceOption {
    /// On the host.
    pub source: PathBuf,
    /// In the container; absolute.
    pub target: PathBuf,
    /// What may be done with it: letters of `rwm`.
    pub access: String,
}

/// A rule about the use of devices that need not be there (Documentation/admin-guide/cgroup-v1/devices.rst).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRuleOption {
    /// `a`, `b` or `c`.
    pub kind: char,
    /// The major number; `None` for all.
    pub major: Option<u32>,
    /// The minor number; `None` for all.
    pub minor: Option<u32>,
    /// Letters of `rwm`.
    pub access: String,
}

/// Limits and devices that this machine can grant, in the words of a `config.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GrantedLimits {
    /// `linux.resources` without its devices.
    pub resources: Value,
    /// `linux.devices`.
    pub devices: Vec<Value>,
    /// The host's paths of those that were asked for, by their paths in the container.
    pub device_sources: Vec<(PathBuf, PathBuf)>,
    /// `linux.resources.devices`, after the one that forbids all.
    pub device_rules: Vec<Value>,
    /// `process.rlimits`.
    pub rlimits: Vec<Value>,
}

/// Finds out whether this machine can grant what is asked for.
///
/// # Errors
/// [`Error::Option`] names the option, the value, and what is wrong with it.
pub fn grant(options: &CreateOptions) -> Result<GrantedLimits> {
    let limits = &options.limits;
    let resources = match limits.resources == ResourceOptions::default() {
        true => resources::defaults(machine::counts_processes()?),
        false => grant_resources(&limits.resources)?,
    };
    check_sysctl(limits, options.network)?;
    check_shm(options)?;
    check_annotations(limits)?;
    let devices::Found { nodes: devices, rules: mut device_rules, sources: device_sources } =
        devices::find(&limits.devices)?;
    device_rules.extend(limits.device_rules.iter().map(devices::rule));
    let rlimits = ulimits::grant(&limits.ulimits)?;
    Ok(GrantedLimits { resources, devices, device_sources, device_rules, rlimits })
}

fn grant_resources(options: &ResourceOptions) -> Result<Value> {
    let machine = Machine::probe()?;
    let resources = resources::with_defaults(options, &machine);
    resources::check_cpus(options.cpus, &machine)?;
    resources::check(&resources, &machine)?;
    Ok(resources)
}

/// Refuses a size of shared memory that the container has not for itself.
fn check_shm(options: &CreateOptions) -> Result<()> {
    match options.limits.shm_size {
        Some(size) => {
            let reason = match &options.namespaces.ipc {
                NamespaceOf::Host => "the container has the host's shared memory (--ipc host)".to_owned(),
                NamespaceOf::Container(other) => {
                    format!("the container has another's shared memory (--ipc container:{other})")
                }
                NamespaceOf::Pod => "the container has its pod's shared memory".to_owned(),
                NamespaceOf::Own if options.namespaces.has_no_shm => {
                    "the container has no shared memory (--ipc none)".to_owned()
                }
                NamespaceOf::Own => return Ok(()),
            };
            Err(Error::Option { option: "--shm-size", value: size.to_string(), reason })
        }
        None => Ok(()),
    }
}

/// Refuses a setting of the network where the container has the host's: it would be the host's setting. What else belongs to no
/// namespace of the container's is refused when the configuration is checked.
fn check_sysctl(limits: &LimitOptions, network: Network) -> Result<()> {
    let is_of_network = |name: &&String| name.starts_with("net.") || name.starts_with("net/");
    match limits.sysctl.keys().find(is_of_network) {
        Some(name) if matches!(network, Network::Container | Network::Path) => Err(Error::Option {
            option: "--sysctl",
            value: name.clone(),
            reason: "the network namespace is not the container's own: the setting would be another's".to_owned(),
        }),
        Some(name) if network == Network::Host => Err(Error::Option {
            option: "--sysctl",
            value: name.clone(),
            reason: "the container has the host's network: the setting would be the host's".to_owned(),
        }),
        _ => Ok(()),
    }
}

fn check_annotations(limits: &LimitOptions) -> Result<()> {
    match limits.annotations.keys().find(|key| key.starts_with("dev.stos.")) {
        Some(key) => Err(Error::Option {
            option: "--annotation",
            value: key.clone(),
            reason: "keys that begin with dev.stos. are stos's own".to_owned(),
        }),
        None => Ok(()),
    }
}

/// Names the option instead of the configuration's key, where a check of the configuration has refused a setting of the kernel.
pub(crate) fn name_option(error: stos_runtime::ConfigError) -> Error {
    use stos_runtime::ConfigError as Config;
    const SYSCTL: &str = "linux.sysctl.";
    let (name, reason) = match &error {
        Config::Unsupported { name, .. } => (name, "it belongs to no namespace, and would be the host's".to_owned()),
        Config::Invalid { name, expected, .. } => (name, format!("expected {expected}")),
        _ => return stos_runtime::Error::from(error).into(),
    };
    match name.strip_prefix(SYSCTL).and_then(|name| name.split(' ').next()) {
        Some(name) => Error::Option { option: "--sysctl", value: name.to_owned(), reason },
        None => stos_runtime::Error::from(error).into(),
    }
}

/// The value of an option as JSON, for an error.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// An empty object.
fn object() -> Value {
    json!({})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(limits: LimitOptions, network: Network) -> String {
        grant(&CreateOptions { limits, network, ..CreateOptions::default() }).unwrap_err().to_string()
    }

    #[test]
    fn settings_of_the_host_and_keys_of_ours_are_refused() {
        let sysctl = BTreeMap::from([("net.core.somaxconn".to_owned(), "5".to_owned())]);
        let limits = LimitOptions { sysctl, ..LimitOptions::default() };
        assert!(grant(&CreateOptions { limits: limits.clone(), ..CreateOptions::default() }).is_ok());
        assert!(refused(limits, Network::Host).starts_with("--sysctl \"net.core.somaxconn\": "));
        let annotations = BTreeMap::from([("dev.stos.container".to_owned(), "x".to_owned())]);
        let said = refused(LimitOptions { annotations, ..LimitOptions::default() }, Network::None);
        assert!(said.starts_with("--annotation \"dev.stos.container\": "), "{said}");
        let mut options = CreateOptions {
            limits: LimitOptions { shm_size: Some(1 << 20), ..LimitOptions::default() },
            ..CreateOptions::default()
        };
        assert!(grant(&options).is_ok());
        options.namespaces.ipc = NamespaceOf::Host;
        assert!(grant(&options).unwrap_err().to_string().starts_with("--shm-size \"1048576\": "));
    }

    #[test]
    fn a_setting_that_the_configuration_refuses_is_told_as_the_option() {
        let config = |sysctl: Value| {
            let config = json!({
                "ociVersion": "1.2.0", "root": {"path": "rootfs"},
                "process": {"args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
                "linux": {"namespaces": [{"type": "mount"}], "sysctl": sysctl},
            });
            name_option(stos_runtime::RuntimeConfig::from_json(config.to_string().as_bytes()).unwrap_err()).to_string()
        };
        assert!(
            config(json!({"kernel.panic": "5"})).starts_with("--sysctl \"kernel.panic\": it belongs to no namespace")
        );
        assert!(config(json!({"kernel.sem": "5"})).starts_with("--sysctl \"kernel.sem\": expected a namespace"));
    }
}
