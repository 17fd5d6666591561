// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The features document (runtime-spec, features.md and features-linux.md): what this runtime honours of a `config.json`.
//!
//! It tells what was built, not what the host can do. Each list stands beside what honours it; what is refused is left out.

use serde_json::{Value, json};
use stos_sys::process::credentials::CAPABILITY_NAMES;

use crate::{mount_options, seccomp};

/// The first version of runtime-spec that is taken.
pub const OCI_VERSION_MIN: &str = "1.0.0";

/// The last version of runtime-spec that is known whole.
pub const OCI_VERSION_MAX: &str = "1.2.0";

/// Kinds of hooks that are run.
pub const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Kinds of namespaces that a container may have.
pub const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

/// Gives the document.
pub fn document() -> Value {
    let capabilities: Vec<_> = CAPABILITY_NAMES.iter().map(|name| format!("CAP_{name}")).collect();
    let seccomp = seccomp::features();
    json!({
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": OCI_VERSION_MAX,
        "hooks": HOOKS,
        "mountOptions": mount_options::names(),
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": seccomp.actions,
                "operators": seccomp.operators,
                "archs": seccomp.archs,
                "knownFlags": seccomp.known_flags,
                "supportedFlags": seccomp.supported_flags,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
        },
        "annotations": {"org.opencontainers.runc.checkpoint.enabled": "false"},
        "potentiallyUnsafeConfigAnnotations": [],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RuntimeConfig;

    fn config(version: &str, namespaces: &[&str], hooks: Value) -> Value {
        let mappings = namespaces.contains(&"user").then(|| json!([{"containerID": 0, "hostID": 0, "size": 1}]));
        let namespaces: Vec<_> = namespaces.iter().map(|kind| json!({"type": kind})).collect();
        json!({
            "ociVersion": version,
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["x"], "user": {"uid": 0, "gid": 0}},
            "hooks": hooks,
            "linux": {"namespaces": namespaces, "uidMappings": mappings, "gidMappings": mappings},
        })
    }

    fn is_taken(config: &Value) -> bool {
        RuntimeConfig::from_json(config.to_string().as_bytes()).is_ok()
    }

    /// What the document says is what happens to a `config.json`.
    #[test]
    fn the_document_is_true() {
        for version in [OCI_VERSION_MIN, OCI_VERSION_MAX] {
            assert!(is_taken(&config(version, &NAMESPACES, Value::Null)), "{version}");
        }
        for kind in ["user", "time"] {
            let asked = config("1.2.0", &["mount", kind], Value::Null);
            assert_eq!(is_taken(&asked), NAMESPACES.contains(&kind), "{kind}");
        }
        for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
            let asked = config("1.2.0", &["mount"], json!({kind: [{"path": "/bin/true"}]}));
            assert_eq!(is_taken(&asked), HOOKS.contains(&kind), "{kind}");
        }
        let with = |pointer: &str, value: Value| {
            let mut asked = config("1.2.0", &["mount"], Value::Null);
            asked[pointer.split('/').next().unwrap_or_default()][pointer.rsplit('/').next().unwrap_or_default()] =
                value;
            is_taken(&asked)
        };
        let document = document();
        let says = |name: &str| document["linux"][name]["enabled"] == true;
        assert_eq!(with("linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"})), says("seccomp"));
        assert_eq!(with("process/apparmorProfile", json!("x")), says("apparmor"));
        assert_eq!(with("process/selinuxLabel", json!("x")), says("selinux"));
        assert_eq!(with("linux/intelRdt", json!({"closID": "x"})), says("intelRdt"));
    }
}
