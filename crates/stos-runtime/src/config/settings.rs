// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the launch honours of a specification, in types that need no further check.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Spec};
use stos_sys::cgroup_bpf::DeviceRule;
use stos_sys::mount::Propagation;
use stos_sys::process::user_namespace::IdMappings;

use super::attributes::ProcessAttributes;
pub use super::process::{Limit, ProcessSettings};
use super::{ConfigError, devices, hooks, ids};
use crate::hooks::Hooks;
use crate::mount_options::{self, MountOptions};
use crate::seccomp::Filter;

/// Everything that the launch honours.
#[derive(Debug, Clone)]
pub struct Settings {
    /// New namespaces, `CLONE_NEW*` bits, the cgroup namespace not among them.
    pub new_namespaces: u64,
    /// Whether the container gets a cgroup namespace of its own, entered after its cgroups.
    pub new_cgroup_namespace: bool,
    /// Namespaces that exist already.
    pub joined_namespaces: Vec<JoinedNamespace>,
    /// `root.path`, relative to the bundle unless absolute.
    pub root_path: Option<PathBuf>,
    /// `root.readonly`.
    pub root_readonly: bool,
    /// `linux.uidMappings` and `linux.gidMappings`: of the new user namespace, or of the joined one where the bundle says them.
    pub id_mappings: Option<IdMappings>,
    /// `linux.timeOffsets` as `/proc/PID/timens_offsets` takes them; empty where there are none.
    pub time_offsets: String,
    /// How mounts pass on what is mounted below them.
    pub propagation: RootPropagation,
    /// `mounts`, in their order.
    pub mounts: Vec<MountRequest>,
    /// `linux.devices`.
    pub devices: Vec<DeviceNode>,
    /// `linux.resources.devices`, in their order.
    pub device_rules: Vec<DeviceRule>,
    /// `linux.resources`, where it asks for any limit; the device rules count above.
    pub resources: Option<LinuxResources>,
    /// `linux.maskedPaths`.
    pub masked_paths: Vec<PathBuf>,
    /// `linux.readonlyPaths`.
    pub readonly_paths: Vec<PathBuf>,
    /// `linux.sysctl`, each of a namespace that the container has for itself.
    pub sysctl: Vec<SysctlSetting>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `domainname`.
    pub domainname: Option<String>,
    /// `linux.cgroupsPath`, without its leading slash.
    pub cgroups_path: Option<PathBuf>,
    /// `linux.seccomp`, compiled.
    pub seccomp: Option<Filter>,
    /// `process`.
    pub process: ProcessSettings,
    /// How the kernel treats the process.
    pub attributes: ProcessAttributes,
    /// `linux.mountLabel`.
    pub mount_label: Option<String>,
    /// `hooks`.
    pub hooks: Hooks,
}

/// `linux.rootfsPropagation`, as the mounts of the container's namespace get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootPropagation {
    /// What the host's mounts get, as the container's namespace has them; `None` where they go on sharing with the host's.
    pub of_host: Option<Propagation>,
    /// What the container's root gets when all is mounted, and whether the mounts below get it too.
    pub of_root: Option<(Propagation, bool)>,
}

/// A namespace given by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedNamespace {
    /// Its `CLONE_NEW*` bit.
    pub flag: std::ffi::c_int,
    /// Where it is, on the host.
    pub path: PathBuf,
}

/// A setting of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlSetting {
    /// Below `/proc/sys`.
    pub path: PathBuf,
    /// What is written.
    pub value: String,
    /// The `CLONE_NEW*` bit of the namespace that it belongs to.
    pub namespace: u64,
}

/// `CLONE_NEW*` of linux/sched.h.
pub mod namespace {
    /// Clocks.
    pub const TIME: u64 = 0x80;
    /// Users and groups.
    pub const USER: u64 = 0x1000_0000;
    /// Mounts.
    pub const MOUNT: u64 = 0x0002_0000;
    /// Cgroups.
    pub const CGROUP: u64 = 0x0200_0000;
    /// Host name.
    pub const UTS: u64 = 0x0400_0000;
    /// System V IPC and message queues.
    pub const IPC: u64 = 0x0800_0000;
    /// Processes.
    pub const PID: u64 = 0x2000_0000;
    /// Network.
    pub const NETWORK: u64 = 0x4000_0000;
}

/// One of `mounts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// Absolute, inside the container.
    pub destination: PathBuf,
    /// The filesystem type; `bind` for binds.
    pub fstype: String,
    /// The source as given: a host path for binds (relative to the bundle), free text for filesystems.
    pub source: PathBuf,
    /// The options, read.
    pub options: MountOptions,
    /// The options as given, for errors.
    pub raw_options: Vec<String>,
    /// Whose ids the mount shows.
    pub ids: Option<MountIds>,
}

/// How a mount's ids are mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountIds {
    /// `uidMappings` and `gidMappings` of the mount; `None` stands for those of the container's user namespace.
    pub mappings: Option<IdMappings>,
    /// Whether what is mounted below is mapped too.
    pub recursive: bool,
}

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Absolute, inside the container.
    pub path: PathBuf,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits; 0666 where the bundle gives none.
    pub mode: Option<u32>,
    /// Owner; 0 where the bundle gives none.
    pub uid: Option<u32>,
    /// Group; 0 where the bundle gives none.
    pub gid: Option<u32>,
}

/// What a device node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A character device of these numbers.
    Character(u32, u32),
    /// A block device of these numbers.
    Block(u32, u32),
    /// A FIFO.
    Fifo,
}

impl Settings {
    /// The first key that changes the namespace of the kind `flag`, whosever that is: in the caller's it must not.
    pub fn changes_namespace(&self, flag: u64) -> Option<String> {
        let sysctl = self.sysctl.iter().find(|setting| setting.namespace == flag);
        match flag {
            namespace::MOUNT => Some("mounts".to_owned()),
            namespace::UTS if self.hostname.is_some() => Some("hostname".to_owned()),
            namespace::UTS if self.domainname.is_some() => Some("domainname".to_owned()),
            _ => sysctl.map(|setting| format!("linux.sysctl {}", setting.path.display())),
        }
    }

    /// Whether the container has a user namespace, new or old, that is not its caller's.
    pub fn has_user_namespace(&self) -> bool {
        let is_joined = self.joined_namespaces.iter().any(|joined| joined.flag as u64 == namespace::USER);
        is_joined || self.new_namespaces & namespace::USER != 0
    }

    /// Whether `/dev` is bound from the host: then it has all that it should, and stays as it is.
    pub fn binds_dev(&self) -> bool {
        self.mounts.iter().any(|mount| mount.destination == Path::new("/dev") && mount.options.bind.is_some())
    }

    /// Checks `spec` and takes from it what is honoured.
    pub(super) fn of(spec: &Spec, attributes: ProcessAttributes) -> Result<Self, ConfigError> {
        check_version(spec.version())?;
        let Some(linux) = spec.linux() else {
            return Err(ConfigError::invalid("linux", "an object with namespaces", Option::<&str>::None));
        };
        let (new_namespaces, new_cgroup_namespace, joined_namespaces) = namespaces(linux)?;
        let has = |flag: u64| new_namespaces & flag != 0 || joined_namespaces.iter().any(|ns| ns.flag as u64 == flag);
        let in_uts = |name: &str, value: &Option<String>| match value.as_ref().filter(|value| !value.is_empty()) {
            Some(value) if !has(namespace::UTS) => {
                Err(ConfigError::invalid(name, "a namespace of type uts, or the host's name would change", value))
            }
            // 64 bytes is the kernel's limit (__NEW_UTS_LEN).
            Some(value) if value.len() > 64 => Err(ConfigError::invalid(name, "at most 64 bytes", value)),
            other => Ok(other.cloned()),
        };
        let paths = |name: &str, list: &Option<Vec<String>>| match list {
            Some(list) => list.iter().map(|path| absolute(name, Path::new(path))).collect(),
            None => Ok(Vec::new()),
        };
        let process = ProcessSettings::of(spec.process().as_ref())?;
        let joined_user = joined_namespaces.iter().any(|joined| joined.flag as u64 == namespace::USER);
        let id_mappings = ids::of_container(linux, new_namespaces, joined_user, &process)?;
        let mounts = mounts(spec)?;
        let has_ids = joined_user || id_mappings.is_some();
        for (at, mount) in mounts.iter().enumerate() {
            if !has_ids && mount.ids.as_ref().is_some_and(|ids| ids.mappings.is_none()) {
                let name = format!("mounts[{at}].options");
                return Err(ConfigError::invalid(name, "uidMappings and gidMappings, or a user namespace", "idmap"));
            }
        }
        Ok(Self {
            root_path: spec.root().as_ref().map(|root| root.path().clone()),
            root_readonly: spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
            propagation: propagation(linux.rootfs_propagation().as_deref())?,
            mounts,
            time_offsets: ids::time_offsets(linux, new_namespaces)?,
            id_mappings,
            devices: devices::nodes(linux)?,
            device_rules: devices::rules(linux)?,
            resources: limits(linux),
            masked_paths: paths("linux.maskedPaths", linux.masked_paths())?,
            readonly_paths: paths("linux.readonlyPaths", linux.readonly_paths())?,
            sysctl: sysctl(linux, &has)?,
            hostname: in_uts("hostname", spec.hostname())?,
            domainname: in_uts("domainname", spec.domainname())?,
            cgroups_path: cgroups_path(linux)?,
            seccomp: linux.seccomp().as_ref().map(Filter::of).transpose()?,
            process,
            attributes,
            mount_label: linux.mount_label().clone().filter(|label| !label.is_empty()),
            hooks: hooks::of(spec)?,
            new_namespaces,
            new_cgroup_namespace,
            joined_namespaces,
        })
    }
}

fn check_version(version: &str) -> Result<(), ConfigError> {
    let mut numbers = version.split(['.', '-', '+']).take(3).map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(1)), Some(Ok(_)), Some(Ok(_))) => Ok(()),
        _ => Err(ConfigError::invalid("ociVersion", "1.x.y", version)),
    }
}

pub(super) fn absolute(name: &str, path: &Path) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() { Ok(path.to_owned()) } else { Err(ConfigError::invalid(name, "an absolute path", path)) }
}

/// A path of the container from its root on, without `.` and `..`, as Go's `path.Clean` has it and so runc: what is before a `..` need
/// not exist, and is nothing to follow.
pub(super) fn cleaned(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::from("/"), |mut cleaned, part| {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => drop(cleaned.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
        cleaned
    })
}

type Namespaces = (u64, bool, Vec<JoinedNamespace>);

fn namespaces(linux: &Linux) -> Result<Namespaces, ConfigError> {
    let (mut new, mut new_cgroup, mut joined, mut seen) = (0, false, Vec::new(), Vec::new());
    let list = linux.namespaces().as_deref().unwrap_or_default();
    for (at, asked) in list.iter().enumerate() {
        let name = format!("linux.namespaces[{at}]");
        let kind = asked.typ();
        if seen.contains(&kind) {
            return Err(ConfigError::invalid(name, "each type once", kind));
        }
        seen.push(kind);
        let flag = kind as u32;
        match asked.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => joined
                .push(JoinedNamespace { flag: flag.cast_signed(), path: absolute(&format!("{name}.path"), path)? }),
            None if kind == LinuxNamespaceType::Cgroup => new_cgroup = true,
            None => new |= u64::from(flag),
        }
    }
    if !seen.contains(&LinuxNamespaceType::Mount) {
        // The container's mounts would be made on the host.
        return Err(ConfigError::invalid("linux.namespaces", "a namespace of type mount", &seen));
    }
    Ok((new, new_cgroup, joined))
}

fn propagation(asked: Option<&str>) -> Result<RootPropagation, ConfigError> {
    let asked = asked.unwrap_or_default();
    let bare = asked.strip_prefix('r').unwrap_or(asked);
    let recursive = bare != asked;
    let (of_host, of_root) = match bare {
        "" if !recursive => (Some(Propagation::Slave), None),
        "slave" => (Some(Propagation::Slave), None),
        "private" => (Some(Propagation::Private), None),
        "shared" => (None, Some((Propagation::Shared, recursive))),
        "unbindable" => (Some(Propagation::Private), Some((Propagation::Unbindable, recursive))),
        _ => {
            let expected = "private, slave, shared or unbindable, with or without an r before";
            return Err(ConfigError::invalid("linux.rootfsPropagation", expected, asked));
        }
    };
    Ok(RootPropagation { of_host, of_root })
}

fn mounts(spec: &Spec) -> Result<Vec<MountRequest>, ConfigError> {
    let list = spec.mounts().as_deref().unwrap_or_default();
    list.iter().enumerate().map(|(at, mount)| mount_request(at, mount)).collect()
}

fn mount_request(at: usize, mount: &oci_spec::runtime::Mount) -> Result<MountRequest, ConfigError> {
    let name = |key: &str| format!("mounts[{at}].{key}");
    let raw_options = mount.options().clone().unwrap_or_default();
    let mut options = mount_options::parse(&raw_options)
        .map_err(|refused| ConfigError::unsupported(format!("{} {}", name("options"), refused.0)))?;
    let mut fstype = mount.typ().clone().unwrap_or_default();
    if options.bind.is_some() || fstype == "bind" || fstype == "rbind" {
        options.bind = options.bind.or(Some(fstype == "rbind"));
        fstype = "bind".to_owned();
    }
    let source = mount.source().clone().unwrap_or_default();
    if fstype.is_empty() && !options.remount {
        return Err(ConfigError::invalid(name("type"), "a filesystem type, or the option bind", fstype));
    }
    if fstype == "bind" && !options.remount && source.as_os_str().is_empty() {
        return Err(ConfigError::invalid(name("source"), "a path to bind", source));
    }
    // mount(2) would drop those of a bind without a word; the cgroups shown are there already.
    if matches!(fstype.as_str(), "bind" | "cgroup" | "cgroup2")
        && let Some(parameter) = options.parameters.first()
    {
        return Err(ConfigError::unsupported(format!("{} {parameter}", name("options"))));
    }
    // runc and crun take a relative destination as seen from the root, as did version 1.0 of the specification.
    let destination = cleaned(mount.destination());
    let ids = mount_ids(at, mount, &options, &fstype)?;
    if options.copy_up && fstype != "tmpfs" {
        return Err(ConfigError::unsupported(format!("{} tmpcopyup for type {fstype}", name("options"))));
    }
    Ok(MountRequest { destination, fstype, source, options, raw_options, ids })
}

/// config.md: "idmap" or "ridmap" among the options, mappings, or both. Only a bind has ids of another filesystem to show.
fn mount_ids(
    at: usize,
    mount: &oci_spec::runtime::Mount,
    options: &MountOptions,
    fstype: &str,
) -> Result<Option<MountIds>, ConfigError> {
    let prefix = format!("mounts[{at}].");
    let mappings = ids::mappings(&prefix, mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref())?;
    if mappings.is_none() && options.map_ids.is_none() {
        return Ok(None);
    }
    if fstype != "bind" || options.remount {
        return Err(ConfigError::unsupported(format!("{prefix}uidMappings for anything but a bind")));
    }
    Ok(Some(MountIds { mappings, recursive: options.map_ids.unwrap_or(false) }))
}

fn limits(linux: &Linux) -> Option<LinuxResources> {
    let mut resources = linux.resources().clone()?;
    resources.set_devices(None);
    (resources != LinuxResources::default()).then_some(resources)
}

/// Names of IPC settings that a namespace has for itself, below `kernel.`.
const IPC_SETTINGS: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

fn sysctl(linux: &Linux, has: &dyn Fn(u64) -> bool) -> Result<Vec<SysctlSetting>, ConfigError> {
    let Some(asked) = linux.sysctl() else { return Ok(Vec::new()) };
    let mut settings = Vec::new();
    for (key, value) in asked {
        let name = format!("linux.sysctl.{key}");
        // As sysctl(8): the first separator decides, so that an interface name may hold the other one.
        let path: String = match key.find(['.', '/']).map(|at| key.as_bytes()[at]) {
            Some(b'.') => key
                .chars()
                .map(|c| {
                    if c == '.' {
                        '/'
                    } else if c == '/' {
                        '.'
                    } else {
                        c
                    }
                })
                .collect(),
            _ => key.clone(),
        };
        let empty_part = path.split('/').any(str::is_empty);
        let path = PathBuf::from(path);
        if empty_part || path.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(ConfigError::invalid(name, "a setting below /proc/sys", key));
        }
        let needed = match path.to_str().and_then(|path| path.split_once('/')) {
            Some(("net", _)) => Some(namespace::NETWORK),
            Some(("fs", rest)) if rest.starts_with("mqueue/") => Some(namespace::IPC),
            Some(("kernel", rest)) if IPC_SETTINGS.contains(&rest) => Some(namespace::IPC),
            Some(("kernel", "domainname")) => Some(namespace::UTS),
            _ => None,
        };
        match needed {
            None => return Err(ConfigError::unsupported(format!("{name} (it belongs to no namespace)"))),
            Some(flag) if !has(flag) => {
                return Err(ConfigError::invalid(name, "a namespace that the setting belongs to", value));
            }
            Some(namespace) => settings.push(SysctlSetting { path, value: value.clone(), namespace }),
        }
    }
    Ok(settings)
}

fn cgroups_path(linux: &Linux) -> Result<Option<PathBuf>, ConfigError> {
    let Some(path) = linux.cgroups_path().as_ref().filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
    let parts = path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
    let relative: PathBuf = parts
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(ConfigError::invalid("linux.cgroupsPath", "a path without ..", path)),
        })
        .collect::<Result<_, _>>()?;
    if relative.as_os_str().is_empty() {
        return Err(ConfigError::invalid("linux.cgroupsPath", "a cgroup of the container's own", path));
    }
    Ok(Some(relative))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::config::RuntimeConfig;

    fn config(change: impl FnOnce(&mut Value)) -> Result<RuntimeConfig, String> {
        let mut config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}]}
        });
        change(&mut config);
        RuntimeConfig::from_json(config.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let cases: [(&str, &str, Value); 20] = [
            ("/ociVersion", "ociVersion", json!("2.0.0")),
            ("/ociVersion", "ociVersion", json!("one")),
            ("/linux", "linux: expected an object", json!(null)),
            ("/linux/namespaces", "a namespace of type mount", json!([{"type": "pid"}])),
            ("/linux/namespaces/1", "linux.uidMappings: expected the ids", json!({"type": "user"})),
            ("/linux/namespaces/1", "linux.namespaces[1]: expected each type once", json!({"type": "mount"})),
            ("/linux/namespaces/1", "an absolute path", json!({"type": "pid", "path": "ns/pid"})),
            ("/linux/namespaces/1", "unknown variant", json!({"type": "dream"})),
            ("/linux/cgroupsPath", "without ..", json!("/a/../../b")),
            ("/linux/cgroupsPath", "of the container's own", json!("/")),
            ("/linux/rootfsPropagation", "linux.rootfsPropagation", json!("rrshared")),
            ("/hooks", "hooks.poststop[0].path", json!({"poststop": [{"path": "bin/true"}]})),
            ("/hooks", "hooks.prestart[0].timeout", json!({"prestart": [{"path": "/bin/true", "timeout": 0}]})),
            ("/hooks", "hooks.prestart[0].env", json!({"prestart": [{"path": "/bin/true", "env": ["X"]}]})),
            (
                "/mounts",
                "mounts[0].options: expected uidMappings",
                json!([{"destination": "/x", "source": "/x", "options": ["bind", "idmap"]}]),
            ),
            (
                "/linux/devices",
                "linux.devices[0].major",
                json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 0}]),
            ),
            ("/process/args", "process.args", json!([])),
            ("/process/cwd", "process.cwd", json!("relative")),
            ("/process/user/umask", "process.user.umask", json!(0o1000)),
            ("/hostname", "hostname: expected a namespace of type uts", json!("box")),
        ];
        for (pointer, part, value) in cases {
            let error = config(|config| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                match config.pointer_mut(parent).unwrap() {
                    Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
                    object => object[key] = value,
                }
            });
            let error = error.map(|_| ()).unwrap_err();
            assert!(error.contains(part), "{pointer}: {error}");
        }
    }

    #[test]
    fn paths_of_the_container_are_cleaned() {
        for (given, expected) in [
            ("/x/../y", "/y"),
            ("x/./y/", "/x/y"),
            ("/", "/"),
            ("..", "/"),
            ("/../../a/..", "/"),
            ("/proc/../proc/self", "/proc/self"),
            ("", "/"),
        ] {
            let cleaned = super::cleaned(given.as_ref());
            assert_eq!(cleaned.as_os_str(), expected, "{given}");
        }
    }

    #[test]
    fn namespaces_are_split_into_new_and_joined() {
        let config = config(|config| {
            config["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": "network", "path": "/run/netns/x"}));
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "uts", "path": ""}));
        })
        .unwrap();
        let settings = config.settings();
        assert_eq!(settings.new_namespaces, super::namespace::MOUNT | super::namespace::PID | super::namespace::UTS);
        assert!(settings.new_cgroup_namespace);
        assert_eq!(settings.joined_namespaces.len(), 1);
        assert_eq!(settings.joined_namespaces[0].path.to_str(), Some("/run/netns/x"));
    }
}
