// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The OCI runtime configuration (runtime-spec, config.md) of a container from an image.

mod confinement;
mod devices;
mod limits;
mod seccomp_file;
mod terminal;
pub(crate) mod users;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stos_spec::ImageConfig;

use crate::error::{Error, Result};
use crate::limits::TmpfsOption;
use crate::namespaces::{NamespaceOf, SHM_OF_ANOTHER};
use crate::networking::{Networking, OwnFiles};
use crate::options::{CreateOptions, MountOption, Network};
use crate::volumes::PlannedVolume;

pub use confinement::Confinement;
pub(crate) use limits::add_limits;

/// The version of the runtime specification that the configuration keeps to.
const OCI_VERSION: &str = "1.2.0";

/// The search path of an image that sets none, as podman gives it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container's process is, when image and user have both been heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessPlan {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// The environment.
    pub env: Vec<String>,
    /// Where it runs.
    pub cwd: String,
    /// uid, gid and further groups, as the image says now.
    pub ids: (u32, u32, Vec<u32>),
    /// The signal that asks it to stop, where the image says one.
    pub stop_signal: Option<String>,
}

/// What the configuration says of the network, besides its kind.
#[derive(Debug, Clone, Copy)]
pub struct NetworkPlan<'a> {
    /// What is recorded.
    pub networking: &'a Networking,
    /// The files of the container or the pod whose network it has, by their names below /etc.
    pub shared: &'a [(&'static str, PathBuf)],
}

impl NetworkPlan<'_> {
    /// The files that are mounted over those of the image, each with its source: the container's own, and those of the container or the pod
    /// whose network it has.
    fn files(&self, network: Network) -> Vec<(&'static str, String)> {
        let own = OwnFiles { hostname: "", network, networking: self.networking, now: None };
        let own = own.names().into_iter().map(|name| (name, name.to_owned()));
        let of_other = self.shared.iter().map(|(name, path)| (*name, path.display().to_string()));
        own.chain(of_other).collect()
    }
}

/// Puts the command together as podman does: an entrypoint of the user's drops the image's Cmd.
pub fn command_line(config: &ImageConfig, options: &CreateOptions) -> Result<Vec<String>> {
    let mut args = options.entrypoint.clone().unwrap_or_else(|| config.entrypoint.clone());
    if !options.command.is_empty() {
        args.extend(options.command.iter().cloned());
    } else if options.entrypoint.is_none() {
        args.extend(config.cmd.iter().cloned());
    }
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::NoCommand);
    }
    Ok(args)
}

/// Puts the environment together: the host's where it is asked for, the image's, then the user's; the last of each name counts.
pub fn environment(config: &ImageConfig, options: &CreateOptions, hostname: &str) -> Vec<String> {
    let own = [DEFAULT_PATH.to_owned(), "container=stos".to_owned(), format!("HOSTNAME={hostname}")];
    let mut env: Vec<String> = Vec::new();
    for entry in own
        .iter()
        .chain(&options.host_env)
        .chain(&terminal::environment(options.streams))
        .chain(&config.env)
        .chain(&options.env)
    {
        let name = entry.split('=').next().unwrap_or_default();
        match env.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    env
}

/// Gives the configuration as JSON. Sources below the container's own directory are relative to it, so that the directory can move.
pub fn runtime_config(
    process: &ProcessPlan,
    options: &CreateOptions,
    network: NetworkPlan<'_>,
    volumes: &[PlannedVolume],
    confinement: &Confinement<'_>,
    id: &str,
    hostname: &str,
) -> Result<Value> {
    let (uid, gid, groups) = &process.ids;
    let mut annotations = json!({"dev.stos.container": id});
    if let Some(signal) = &process.stop_signal {
        // As the image specification has it (conversion.md).
        annotations["org.opencontainers.image.stopSignal"] = json!(signal);
    }
    let mut config = json!({
        "ociVersion": OCI_VERSION,
        "root": {"path": "rootfs", "readonly": options.read_only},
        "process": {
            "user": {"uid": uid, "gid": gid, "additionalGids": groups},
            "args": process.args,
            "env": process.env,
            "cwd": process.cwd,
            "capabilities": confinement.capabilities(*uid),
        },
        "mounts": mounts(options, network, volumes),
        "annotations": annotations,
        "linux": {
            "namespaces": namespaces(options),
            // One directory in each hierarchy: a common one above them would be made and removed with the first and last container.
            "cgroupsPath": format!("/stos-{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    });
    if options.namespaces.uts == NamespaceOf::Own {
        config["hostname"] = json!(hostname);
    }
    terminal::apply(&mut config, options.streams);
    confinement.apply(&mut config)?;
    if options.read_only
        && !options.security.read_only_tmpfs
        && let Some(paths) = config["linux"]["readonlyPaths"].as_array_mut()
    {
        // Once its devices are made; what is mounted below goes with it.
        paths.push(json!("/dev"));
    }
    Ok(config)
}

/// Gives `linux.namespaces`. Of one that is another container's, or the pod's, the path is put in at each start; where nobody does, there is no such
/// path, and nothing else is joined in its place.
fn namespaces(options: &CreateOptions) -> Value {
    let mut namespaces = vec![json!({"type": "mount"})];
    match (options.network, &options.networking.namespace) {
        (Network::None | Network::Bridge, _) => namespaces.push(json!({"type": "network"})),
        (Network::Container, _) => namespaces.push(json!({"type": "network", "path": "/proc/0/ns/net"})),
        (Network::Path, path) => namespaces.push(json!({"type": "network", "path": path})),
        (Network::Host, _) => {}
    }
    for (kind, of) in options.namespaces.each() {
        match of {
            NamespaceOf::Own => namespaces.push(json!({"type": kind.name()})),
            NamespaceOf::Host => {}
            NamespaceOf::Container(_) | NamespaceOf::Pod => {
                namespaces.push(json!({"type": kind.name(), "path": format!("/proc/0/ns/{}", kind.name())}));
            }
        }
    }
    namespaces.into()
}

fn mounts(options: &CreateOptions, network: NetworkPlan<'_>, volumes: &[PlannedVolume]) -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let shm_size = limits::shm_size(&options.limits);
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        match options.namespaces.ipc {
            // It belongs to what is shared.
            NamespaceOf::Host => {
                mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate", "nosuid", "noexec", "nodev"])
            }
            NamespaceOf::Container(_) | NamespaceOf::Pod => {
                mount("/dev/shm", "bind", SHM_OF_ANOTHER, &["bind", "rprivate", "nosuid", "noexec", "nodev"])
            }
            NamespaceOf::Own => {
                mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm_size])
            }
        },
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
    let file = |(name, source): (&'static str, String)| {
        let target = format!("/etc/{name}");
        let access = if options.read_only { "ro" } else { "rw" };
        let value = mount(&target, "bind", &source, &["bind", access, "nosuid", "nodev", "noexec"]);
        (target, value)
    };
    let is_seen = |(name, _): &(&str, String)| !is_covered(options, Path::new("/etc").join(name).as_path());
    let own = network.files(options.network).into_iter().filter(is_seen).map(file);
    let volume = |volume: &PlannedVolume| (volume.used.target.clone(), volume_mount(volume));
    let bind = |mount: &MountOption| (mount.target.display().to_string(), bind_mount(mount));
    let tmpfs = |mount: &TmpfsOption| (mount.target.display().to_string(), limits::tmpfs(mount));
    if options.namespaces.has_no_shm {
        mounts.retain(|own| own["destination"] != "/dev/shm");
    }
    // What the user has put in its place.
    mounts.retain(|own| !options.limits.tmpfs.iter().any(|mount| mount.target.to_str() == own["destination"].as_str()));
    let of_user = options.mounts.iter().map(bind).chain(options.limits.tmpfs.iter().map(tmpfs));
    let of_user = of_user.chain(crate::image_volumes::mounts(options));
    let mut more: Vec<_> = own.chain(volumes.iter().map(volume)).chain(of_user).collect();
    if options.read_only && options.security.read_only_tmpfs {
        more.extend(
            writable_directories(options, volumes)
                .map(|target| (target.to_owned(), mount(target, "tmpfs", "tmpfs", &IN_MEMORY))),
        );
    }
    // What lies deeper is mounted later, or it would be hidden.
    more.sort_by_key(|(target, _)| target.trim_end_matches('/').matches('/').count());
    mounts.extend(more.into_iter().map(|(_, mount)| mount));
    mounts
}

/// How directories in memory are mounted over those of a read-only root (podman's options): with what the image has in them.
const IN_MEMORY: [&str; 5] = ["rw", "rprivate", "nosuid", "nodev", "tmpcopyup"];

/// Gives the directories of a read-only root that can be written all the same: podman's, unless something else is mounted there.
fn writable_directories<'a>(
    options: &'a CreateOptions,
    volumes: &'a [PlannedVolume],
) -> impl Iterator<Item = &'static str> + 'a {
    ["/run", "/tmp", "/var/tmp"].into_iter().filter(|target| {
        let is_volume = volumes.iter().any(|volume| volume.is_at(target));
        !is_volume && !options.has_mount_at(Path::new(target))
    })
}

/// Tells whether one of the user's mounts takes the place of our file at `target`: one right there; or one above that has no
/// such file, for nothing is made in a directory of the host's.
fn is_covered(options: &CreateOptions, target: &Path) -> bool {
    let is_there = |other: &Path| other == target;
    let mut volumes = options.volumes.iter().map(|volume| volume.target.as_path());
    if options.limits.tmpfs.iter().any(|mount| is_there(&mount.target)) || volumes.any(is_there) {
        return true;
    }
    options.mounts.iter().any(|mount| match target.strip_prefix(&mount.target) {
        Ok(rest) => rest.as_os_str().is_empty() || !mount.source.join(rest).is_file(),
        Err(_) => false,
    })
}

fn bind_mount(mount: &MountOption) -> Value {
    let kind = if mount.recursive { "rbind" } else { "bind" };
    let access = match (mount.read_only, mount.recursive) {
        // A recursive bind is read-only all through, or a mount below the source would be writable.
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let options = with_defaults(&[kind, access], &["rprivate"], &mount.options);
    json!({"destination": mount.target, "type": "bind", "source": mount.source, "options": options})
}

/// A volume with podman's options: neither set-user-ID programs nor devices count, unless that is asked for
/// (containers/podman, `pkg/util/mount_opts.go`).
fn volume_mount(volume: &PlannedVolume) -> Value {
    let kind = if volume.is_recursive { "rbind" } else { "bind" };
    let access = match (volume.used.read_only, volume.is_recursive) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let options = with_defaults(&[kind, access], &["nosuid", "nodev", "rprivate"], &volume.used.options);
    json!({"destination": volume.used.target, "type": "bind", "source": volume.source, "options": options})
}

/// Options of a mount: those that it has in any case, those of `defaults` that nothing else was asked for against, what was asked for.
fn with_defaults<'a>(fixed: &[&'a str], defaults: &[&'a str], asked: &'a [String]) -> Vec<&'a str> {
    let is_propagation =
        |word: &str| ["private", "shared", "slave", "unbindable"].iter().any(|kind| word.ends_with(kind));
    let is_against = |default: &str, word: &str| match default.strip_prefix("no") {
        Some(opposite) => word == opposite || word == default,
        None => is_propagation(word),
    };
    let free = defaults.iter().filter(|default| !asked.iter().any(|word| is_against(default, word)));
    fixed.iter().chain(free).copied().chain(asked.iter().map(String::as_str)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn image(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
        let json = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Entrypoint": entrypoint, "Cmd": cmd, "Env": ["A=1", "PATH=/x"]}});
        ImageConfig::parse(json.to_string().as_bytes()).unwrap()
    }

    pub(crate) fn volume(name: &str, target: &str) -> PlannedVolume {
        let used = json!({"name": name, "target": target});
        PlannedVolume::new(serde_json::from_value(used).unwrap())
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_command_follows_podman_s_rules() {
        for (entrypoint, command, expected) in [
            (None, &[][..], &["e", "c"][..]),
            (None, &["x"][..], &["e", "x"][..]),
            (Some(&["n"][..]), &[][..], &["n"][..]),
            (Some(&["n"][..]), &["x"][..], &["n", "x"][..]),
            (Some(&[][..]), &["x"][..], &["x"][..]),
        ] {
            let options = CreateOptions {
                entrypoint: entrypoint.map(strings),
                command: strings(command),
                ..CreateOptions::default()
            };
            assert_eq!(command_line(&image(&["e"], &["c"]), &options).unwrap(), strings(expected));
        }
        let nothing = CreateOptions::default();
        assert!(matches!(command_line(&image(&[], &[]), &nothing), Err(Error::NoCommand)));
        assert!(matches!(command_line(&image(&[""], &[]), &nothing), Err(Error::NoCommand)));
    }

    #[test]
    fn the_last_of_each_name_counts() {
        let options = CreateOptions { env: strings(&["A=2", "B=3"]), ..CreateOptions::default() };
        let env = environment(&image(&[], &[]), &options, "h");
        assert_eq!(env, strings(&["PATH=/x", "container=stos", "HOSTNAME=h", "A=2", "B=3"]));
    }

    #[test]
    fn a_user_without_root_has_no_capabilities_and_mounts_go_by_depth() {
        let process = ProcessPlan {
            args: strings(&["x"]),
            env: vec![],
            cwd: "/".into(),
            ids: (1000, 1000, vec![]),
            stop_signal: Some("SIGUSR1".into()),
        };
        let bind = |source: &str, target: &str, flag| MountOption {
            source: source.into(),
            target: target.into(),
            read_only: flag,
            recursive: flag,
            options: Vec::new(),
        };
        let (deep, hosts) = (bind("/a", "/v/deep", true), bind("/h", "/etc/hosts", false));
        let options = CreateOptions { mounts: vec![deep, hosts], ..CreateOptions::default() };
        let volumes = [volume("v", "/v")];
        let confinement = Confinement::of(&options.security).unwrap();
        let networking = Networking::default();
        let network = NetworkPlan { networking: &networking, shared: &[] };
        let config = runtime_config(&process, &options, network, &volumes, &confinement, "id", "host").unwrap();
        assert_eq!(config["process"]["capabilities"]["effective"], json!([]));
        let signal = &config["annotations"]["org.opencontainers.image.stopSignal"];
        assert_eq!(*signal, json!("SIGUSR1"));
        let targets: Vec<_> =
            config["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
        let place = |target: &str| targets.iter().position(|other| *other == target).unwrap();
        assert!(place("/v") < place("/v/deep"));
        assert_eq!(targets.iter().filter(|target| **target == "/etc/hosts").count(), 1);
        stos_runtime::RuntimeConfig::from_json(config.to_string().as_bytes()).unwrap();
    }

    #[test]
    fn a_mount_has_podman_s_options_unless_others_are_asked_for() {
        let of = |words: &[&str]| {
            with_defaults(&["rbind", "rw"], &["nosuid", "nodev", "rprivate"], &strings(words)).join(" ")
        };
        assert_eq!(of(&[]), "rbind rw nosuid nodev rprivate");
        assert_eq!(of(&["suid", "rslave", "noexec"]), "rbind rw nodev suid rslave noexec");
        assert_eq!(of(&["nodev", "shared"]), "rbind rw nosuid nodev shared");
    }
}
