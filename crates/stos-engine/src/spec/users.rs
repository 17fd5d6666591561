// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A user namespace in a container's runtime configuration, and what is mounted otherwise because of it.
//!
//! A new filesystem that shows a namespace can be mounted only by who has power over that namespace. Of the host's the container sees
//! the host's own mount, as with podman (containers/podman, `pkg/specgen/generate/oci_linux.go`).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stos_sys::process::user_namespace::{IdMapping, to_host};

use crate::namespaces::NamespaceOf;
use crate::options::{CreateOptions, Network};
use crate::user_namespace::{UserNamespace, UserNamespaceMode};
use crate::volumes::PlannedVolume;

/// The group that terminals belong to, in nearly every image.
const TTY: u32 = 5;

/// Where message queues are mounted (mq_overview(7)).
const QUEUES: &str = "/dev/mqueue";

/// Puts the users of a container into its configuration, which is otherwise whole. `sources` are the host's paths of devices that are
/// elsewhere in the container, by the paths there.
pub(crate) fn apply(
    config: &mut Value,
    users: &UserNamespace,
    options: &CreateOptions,
    volumes: &[PlannedVolume],
    sources: &[(PathBuf, PathBuf)],
) {
    let mut namespace = json!({"type": "user"});
    if users.mode == UserNamespaceMode::Container {
        // As with the other kinds: put in at each start, and where nobody does there is no such path.
        namespace["path"] = json!("/proc/0/ns/user");
    }
    let linux = &mut config["linux"];
    if let Some(list) = linux["namespaces"].as_array_mut() {
        list.push(namespace);
    }
    linux["uidMappings"] = mappings(&users.mappings.users);
    linux["gidMappings"] = mappings(&users.mappings.groups);
    bind_renamed_devices(config, sources);
    if options.namespaces.ipc == NamespaceOf::Host
        && !Path::new(QUEUES).is_dir()
        && let Some(mounts) = config["mounts"].as_array_mut()
    {
        // The host has none mounted to be seen.
        mounts.retain(|mount| mount["type"] != "mqueue");
    }
    let has_terminal_group = to_host(&users.mappings.groups, TTY).is_some();
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        let target = mount["destination"].as_str().unwrap_or_default().to_owned();
        let is_it = |volume: &PlannedVolume| volume.used.target == target && mount["source"] == *volume.source;
        if volumes.iter().any(|volume| volume.has_ids_of_container && is_it(volume)) {
            // It holds the image's files as they are, as the upper directory does.
            push(mount, "idmap");
            continue;
        }
        match (target.as_str(), mount["type"].as_str().unwrap_or_default()) {
            ("/dev/pts", "devpts") if !has_terminal_group => {
                retain(mount, |option| option != "gid=5");
            }
            // A network namespace that belongs to other users shows its interfaces to nobody else.
            ("/sys", "sysfs") if !matches!(options.network, Network::None | Network::Bridge) => {
                let access = if is_writable(mount) { "rw" } else { "rro" };
                bind(mount, "/sys", &["rbind", "rprivate", "nosuid", "noexec", "nodev", access]);
            }
            ("/proc", "proc") if options.namespaces.pid == NamespaceOf::Host => {
                bind(mount, "/proc", &["rbind", "rprivate", "nosuid", "noexec", "nodev"]);
            }
            (QUEUES, "mqueue") if options.namespaces.ipc == NamespaceOf::Host => {
                bind(mount, QUEUES, &["bind", "rprivate", "nosuid", "noexec", "nodev"]);
            }
            _ => {}
        }
    }
}

fn mappings(mappings: &[IdMapping]) -> Value {
    let one = |ids: &IdMapping| json!({"containerID": ids.container, "hostID": ids.host, "size": ids.size});
    mappings.iter().map(one).collect()
}

/// No device can be made in a user namespace: the host's own is bound, which has to be named where it has another path.
fn bind_renamed_devices(config: &mut Value, sources: &[(PathBuf, PathBuf)]) {
    let source_of = |path: &Value| {
        let found = sources.iter().find(|(target, _)| target.to_str() == path.as_str())?;
        (found.0 != found.1).then(|| found.1.clone())
    };
    let mut binds = Vec::new();
    if let Some(devices) = config["linux"]["devices"].as_array_mut() {
        devices.retain(|device| match source_of(&device["path"]) {
            None => true,
            Some(source) => {
                let options = ["bind", "rprivate", "nosuid", "noexec"];
                binds
                    .push(json!({"destination": device["path"], "type": "bind", "source": source, "options": options}));
                false
            }
        });
    }
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.append(&mut binds);
    }
}

fn is_writable(mount: &Value) -> bool {
    mount["options"].as_array().is_some_and(|options| options.iter().any(|option| option == "rw"))
}

fn bind(mount: &mut Value, source: &str, options: &[&str]) {
    *mount = json!({"destination": mount["destination"], "type": "bind", "source": source, "options": options});
}

fn push(mount: &mut Value, option: &str) {
    if let Some(options) = mount["options"].as_array_mut() {
        options.push(option.into());
    }
}

fn retain(mount: &mut Value, keep: impl Fn(&str) -> bool) {
    if let Some(options) = mount["options"].as_array_mut() {
        options.retain(|option| option.as_str().is_none_or(&keep));
    }
}

#[cfg(test)]
mod tests {
    use stos_sys::process::user_namespace::IdMappings;

    use super::*;
    use crate::spec::tests::volume;

    fn config() -> Value {
        json!({
            "mounts": [
                {"destination": "/proc", "type": "proc", "options": ["nosuid"]},
                {"destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "gid=5"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "options": []},
                {"destination": "/sys", "type": "sysfs", "options": ["ro"]},
                {"destination": "/v", "type": "bind", "source": "../../volumes/v/_data", "options": ["rbind"]},
                {"destination": "/w", "type": "bind", "source": "/w", "options": ["rbind"]},
            ],
            "linux": {"namespaces": [], "devices": [{"path": "/dev/a"}, {"path": "/dev/b"}]},
        })
    }

    fn applied(size: u32, mode: UserNamespaceMode, options: &CreateOptions) -> Value {
        let ids = vec![IdMapping { container: 0, host: 100_000, size }];
        let users = UserNamespace { mode, mappings: IdMappings { users: ids.clone(), groups: ids } };
        let volumes = [volume("v", "/v")];
        let sources = [("/dev/a".into(), "/dev/a".into()), ("/dev/b".into(), "/dev/c".into())];
        let mut config = config();
        apply(&mut config, &users, options, &volumes, &sources);
        config
    }

    #[test]
    fn users_are_mapped_and_volumes_with_them() {
        let found = applied(1000, UserNamespaceMode::Auto, &CreateOptions::default());
        assert_eq!(found["linux"]["namespaces"], json!([{"type": "user"}]));
        let range = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        assert_eq!((&found["linux"]["uidMappings"], &found["linux"]["gidMappings"]), (&range, &range));
        assert_eq!(found["mounts"][4]["options"], json!(["rbind", "idmap"]));
        for kept in [0, 1, 2, 3, 5] {
            assert_eq!(found["mounts"][kept], config()["mounts"][kept]);
        }
        let joined = applied(1000, UserNamespaceMode::Container, &CreateOptions::default());
        assert_eq!(joined["linux"]["namespaces"], json!([{"type": "user", "path": "/proc/0/ns/user"}]));
    }

    #[test]
    fn what_shows_a_namespace_of_the_host_is_the_host_s_mount() {
        let mut options = CreateOptions { network: Network::Host, ..CreateOptions::default() };
        (options.namespaces.pid, options.namespaces.ipc) = (NamespaceOf::Host, NamespaceOf::Host);
        let found = applied(1, UserNamespaceMode::Private, &options);
        let mount = |at: usize| (found["mounts"][at]["source"].clone(), found["mounts"][at]["options"].clone());
        let (source, has) = mount(0);
        assert_eq!((source, &has[0]), (json!("/proc"), &json!("rbind")));
        assert_eq!(mount(1).1, json!(["newinstance"]), "there is no group 5");
        let has_queues = usize::from(Path::new(QUEUES).is_dir());
        assert_eq!(mount(2).0, json!(if has_queues == 1 { QUEUES } else { "/sys" }));
        assert_eq!((mount(2 + has_queues).0, &mount(2 + has_queues).1[5]), (json!("/sys"), &json!("rro")));
    }

    #[test]
    fn a_device_of_another_name_is_bound_by_its_own() {
        let found = applied(10, UserNamespaceMode::Auto, &CreateOptions::default());
        assert_eq!(found["linux"]["devices"], json!([{"path": "/dev/a"}]));
        let last = &found["mounts"].as_array().unwrap()[6];
        assert_eq!((&last["destination"], &last["source"]), (&json!("/dev/b"), &json!("/dev/c")));
    }
}
