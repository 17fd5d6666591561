// SPDX-License-Identifier: Apache-2.0 OR MIT
//! spec and features: what a bundle's configuration may look like, and what is honoured of one; version.

use std::io::Write;

use serde_json::{Value, json};
use stos_runtime::features;

use crate::cli::{Spec, VersionOf};
use crate::failure::Failure;
use crate::table;
use crate::template::{Context, Template};

/// Writes a `config.json` to begin with, as runc's has it. One that is there stays.
pub fn spec(args: &Spec) -> Result<u8, Failure> {
    let path = args.bundle.join("config.json");
    let mut file = std::fs::File::create_new(&path)
        .map_err(|error| Failure::message(format!("cannot make {}: {error}", path.display()), 1))?;
    serde_json::to_writer_pretty(&mut file, &default_config(args.rootless))?;
    writeln!(file)?;
    Ok(0)
}

/// Prints the features document (runtime-spec, features.md).
pub fn features() -> Result<u8, Failure> {
    table::print_json(&features::document())?;
    Ok(0)
}

/// Prints the version, with podman's names for templates.
pub fn version(args: &VersionOf) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let platform = stos_spec::Platform::host();
    let os_arch = format!("{}/{}", platform.os, platform.architecture);
    let client =
        json!({"Version": version, "OciVersion": features::OCI_VERSION_MAX, "OsArch": os_arch, "Os": platform.os});
    match args.format.as_str() {
        "table" => {
            for (name, value) in
                [("Version", version), ("OCI Version", features::OCI_VERSION_MAX), ("OS/Arch", &os_arch)]
            {
                table::print_line(format!("{:<14}{value}", format!("{name}:")))?;
            }
        }
        "json" => table::print_json(&json!({"Client": client}))?,
        text => {
            let context = Context { document: json!({"Client": client}), shown: Value::Null };
            table::print_line(Template::parse(text)?.render(&context)?)?;
        }
    }
    Ok(0)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    let mut mount = json!({"destination": destination, "type": kind, "source": source});
    if !options.is_empty() {
        mount["options"] = json!(options);
    }
    mount
}

fn default_config(rootless: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut devpts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    let sysfs = if rootless {
        mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"])
    } else {
        devpts.push("gid=5");
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    let mut linux = json!({
        "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    let more = if rootless { "user" } else { "network" };
    linux["namespaces"].as_array_mut().into_iter().for_each(|list| list.push(json!({"type": more})));
    if rootless {
        // As whoever writes it.
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
        linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    } else {
        linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    }
    json!({
        "ociVersion": features::OCI_VERSION_MAX,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "stos",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &devpts),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            sysfs,
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": linux,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_run() {
        let bytes = serde_json::to_vec(&default_config(false)).unwrap();
        let config = stos_runtime::RuntimeConfig::from_json(&bytes).unwrap();
        assert!(config.settings().process.terminal && config.settings().root_readonly);
        let rootless = default_config(true);
        assert!(rootless["linux"].get("resources").is_none() && rootless["linux"]["uidMappings"].is_array());
    }
}
