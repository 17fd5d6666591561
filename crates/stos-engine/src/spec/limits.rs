// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits and devices in a container's runtime configuration.

use serde_json::{Value, json};

use crate::limits::{DEFAULT_SHM_SIZE, GrantedLimits, LimitOptions, TmpfsOption};

/// Puts what was granted into the configuration of a new container.
pub(crate) fn add_limits(config: &mut Value, granted: &GrantedLimits, limits: &LimitOptions) {
    let resources = &mut config["linux"]["resources"];
    for (key, value) in granted.resources.as_object().into_iter().flatten() {
        resources[key] = value.clone();
    }
    append(resources, "devices", &granted.device_rules);
    append(&mut config["linux"], "devices", &granted.devices);
    append(&mut config["process"], "rlimits", &granted.rlimits);
    if let Some(score) = limits.oom_score_adj {
        config["process"]["oomScoreAdj"] = json!(score);
    }
    for (name, value) in &limits.sysctl {
        config["linux"]["sysctl"][name] = json!(value);
    }
    for (key, value) in &limits.annotations {
        config["annotations"][key] = json!(value);
    }
}

/// Nothing is appended to a list that is not there: an empty one would ask for nothing in more words.
fn append(object: &mut Value, key: &str, more: &[Value]) {
    match object.get_mut(key).and_then(Value::as_array_mut) {
        Some(list) => list.extend_from_slice(more),
        None if more.is_empty() => {}
        None => object[key] = Value::Array(more.to_vec()),
    }
}

/// The option of `/dev/shm` that says how large it may be.
pub(super) fn shm_size(limits: &LimitOptions) -> String {
    format!("size={}k", limits.shm_size.unwrap_or(DEFAULT_SHM_SIZE).div_ceil(1024))
}

/// Options that say no more than that a default is not wanted.
const WORDS_ALONE: [&str; 4] = ["suid", "dev", "notmpcopyup", "tmpcopyup"];

/// A filesystem in memory with podman's options: neither set-user-ID programs nor devices count, unless that is asked for, and it
/// begins with what the image has at its place (podman 5.8; containers/podman, `pkg/util/mount_opts.go`).
pub(super) fn tmpfs(mount: &TmpfsOption) -> Value {
    let has = |word: &str| mount.options.iter().any(|option| option == word);
    let mut options: Vec<&str> =
        mount.options.iter().map(String::as_str).filter(|word| !WORDS_ALONE.contains(word)).collect();
    for (word, against) in [("nosuid", "suid"), ("nodev", "dev"), ("tmpcopyup", "notmpcopyup")] {
        if !has(against) && !options.contains(&word) {
            options.push(word);
        }
    }
    json!({"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_was_granted_is_in_the_configuration() {
        let mut config = json!({
            "process": {}, "annotations": {"dev.stos.container": "id"},
            "linux": {"resources": {"devices": [{"allow": false}]}},
        });
        let before = config.clone();
        add_limits(&mut config, &GrantedLimits::default(), &LimitOptions::default());
        assert_eq!(config, before, "nothing is asked for");
        let granted = GrantedLimits {
            resources: json!({"pids": {"limit": 5}}),
            devices: vec![json!({"path": "/dev/x"})],
            device_sources: Vec::new(),
            device_rules: vec![json!({"allow": true})],
            rlimits: vec![json!({"type": "RLIMIT_CORE"})],
        };
        let limits = LimitOptions {
            oom_score_adj: Some(500),
            sysctl: BTreeMap::from([("kernel.shmmni".to_owned(), "7".to_owned())]),
            annotations: BTreeMap::from([("a.b".to_owned(), "c".to_owned())]),
            ..LimitOptions::default()
        };
        add_limits(&mut config, &granted, &limits);
        let expected = json!({
            "process": {"rlimits": [{"type": "RLIMIT_CORE"}], "oomScoreAdj": 500},
            "annotations": {"dev.stos.container": "id", "a.b": "c"},
            "linux": {
                "resources": {"devices": [{"allow": false}, {"allow": true}], "pids": {"limit": 5}},
                "devices": [{"path": "/dev/x"}], "sysctl": {"kernel.shmmni": "7"},
            },
        });
        assert_eq!(config, expected);
    }

    #[test]
    fn a_tmpfs_has_podman_s_options() {
        let of = |options: &[&str]| {
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            tmpfs(&TmpfsOption { target: "/x".into(), options })["options"].clone()
        };
        assert_eq!(of(&[]), json!(["nosuid", "nodev", "tmpcopyup"]));
        assert_eq!(of(&["size=1m", "suid", "noexec"]), json!(["size=1m", "noexec", "nodev", "tmpcopyup"]));
        assert_eq!(of(&["dev", "nosuid", "notmpcopyup"]), json!(["nosuid"]));
    }

    #[test]
    fn the_size_of_shared_memory_is_told() {
        let of = |size| shm_size(&LimitOptions { shm_size: size, ..LimitOptions::default() });
        assert_eq!((of(None), of(Some(0)), of(Some(1))), ("size=65536k".into(), "size=0k".into(), "size=1k".into()));
    }
}
