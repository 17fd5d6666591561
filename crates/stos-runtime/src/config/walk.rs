// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every key of a `config.json` against a table of what is honoured and what is refused.
//!
//! The table is the schema of runtime-spec 1.2. A refused key with a value that asks for nothing (`null`, `false`, `""`,
//! `[]`, `{}`, or an object of such) is no wish. A key in no row is refused as unknown.

use serde_json::Value;

use super::ConfigError;

/// What to do with a value.
enum Rule {
    /// Honoured as a whole, or free text.
    Take,
    /// Refused unless it asks for nothing.
    Refuse,
    /// An object whose keys have rules of their own.
    Keys(&'static [(&'static str, Rule)]),
    /// A list whose items follow one rule.
    Items(&'static Rule),
}

use Rule::{Items, Keys, Refuse, Take};

const ROOT: Rule = Keys(&[
    ("ociVersion", Take),
    ("root", Keys(&[("path", Take), ("readonly", Take)])),
    ("mounts", Items(&MOUNT)),
    ("process", PROCESS),
    ("hostname", Take),
    ("domainname", Take),
    ("hooks", Refuse),
    ("annotations", Take),
    ("linux", LINUX),
    ("solaris", Refuse),
    ("windows", Refuse),
    ("vm", Refuse),
    ("zos", Refuse),
    ("freebsd", Refuse),
]);

const MOUNT: Rule = Keys(&[
    ("destination", Take),
    ("type", Take),
    ("source", Take),
    ("options", Take),
    ("uidMappings", Refuse),
    ("gidMappings", Refuse),
]);

const PROCESS: Rule = Keys(&[
    ("terminal", Take),
    ("consoleSize", Keys(&[("height", Take), ("width", Take)])),
    ("user", Keys(&[("uid", Take), ("gid", Take), ("umask", Take), ("additionalGids", Take), ("username", Refuse)])),
    ("args", Take),
    ("commandLine", Refuse),
    ("env", Take),
    ("cwd", Take),
    (
        "capabilities",
        Keys(&[("bounding", Take), ("effective", Take), ("inheritable", Take), ("permitted", Take), ("ambient", Take)]),
    ),
    ("rlimits", Items(&Keys(&[("type", Take), ("soft", Take), ("hard", Take)]))),
    ("noNewPrivileges", Take),
    ("oomScoreAdj", Take),
    ("apparmorProfile", Refuse),
    ("selinuxLabel", Refuse),
    ("ioPriority", Refuse),
    ("scheduler", Refuse),
    ("execCPUAffinity", Refuse),
]);

const LINUX: Rule = Keys(&[
    ("namespaces", Items(&Keys(&[("type", Take), ("path", Take)]))),
    ("uidMappings", Refuse),
    ("gidMappings", Refuse),
    ("timeOffsets", Refuse),
    (
        "devices",
        Items(&Keys(&[
            ("path", Take),
            ("type", Take),
            ("major", Take),
            ("minor", Take),
            ("fileMode", Take),
            ("uid", Take),
            ("gid", Take),
        ])),
    ),
    ("netDevices", Refuse),
    ("cgroupsPath", Take),
    ("resources", RESOURCES),
    ("rootfsPropagation", Take),
    ("maskedPaths", Take),
    ("readonlyPaths", Take),
    ("sysctl", Take),
    ("seccomp", Refuse),
    ("mountLabel", Refuse),
    ("intelRdt", Refuse),
    ("memoryPolicy", Refuse),
    ("personality", Refuse),
]);

const RESOURCES: Rule = Keys(&[
    ("devices", Items(&Keys(&[("allow", Take), ("type", Take), ("major", Take), ("minor", Take), ("access", Take)]))),
    ("memory", LIMITS_MEMORY),
    ("cpu", LIMITS_CPU),
    ("pids", Keys(&[("limit", Refuse)])),
    ("blockIO", Refuse),
    ("hugepageLimits", Refuse),
    ("network", Refuse),
    ("rdma", Refuse),
    ("unified", Refuse),
]);

const LIMITS_MEMORY: Rule = Keys(&[
    ("limit", Refuse),
    ("reservation", Refuse),
    ("swap", Refuse),
    ("kernel", Refuse),
    ("kernelTCP", Refuse),
    ("swappiness", Refuse),
    ("disableOOMKiller", Refuse),
    ("useHierarchy", Refuse),
    ("checkBeforeUpdate", Refuse),
]);

const LIMITS_CPU: Rule = Keys(&[
    ("shares", Refuse),
    ("quota", Refuse),
    ("burst", Refuse),
    ("period", Refuse),
    ("realtimeRuntime", Refuse),
    ("realtimePeriod", Refuse),
    ("cpus", Refuse),
    ("mems", Refuse),
    ("idle", Refuse),
]);

/// Checks every key of `config`.
pub(super) fn check(config: &Value) -> Result<(), ConfigError> {
    check_at(config, &ROOT, "")
}

fn check_at(value: &Value, rule: &Rule, name: &str) -> Result<(), ConfigError> {
    match (rule, value) {
        (Take, _) => Ok(()),
        (Refuse, value) if asks_for_nothing(value) => Ok(()),
        (Refuse, _) => Err(ConfigError::unsupported(name)),
        (_, Value::Null) => Ok(()),
        (Keys(known), Value::Object(found)) => {
            for (key, value) in found {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                match known.iter().find(|(known, _)| known == key) {
                    Some((_, rule)) => check_at(value, rule, &name)?,
                    None => return Err(ConfigError::Unknown { name }),
                }
            }
            Ok(())
        }
        (Items(rule), Value::Array(found)) => {
            found.iter().enumerate().try_for_each(|(at, value)| check_at(value, rule, &format!("{name}[{at}]")))
        }
        (Keys(_), other) => Err(ConfigError::invalid(name, "an object", other)),
        (Items(_), other) => Err(ConfigError::invalid(name, "a list", other)),
    }
}

fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(keys) => keys.values().all(asks_for_nothing),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(config: Value) -> String {
        match check(&config) {
            Ok(()) => "taken".to_owned(),
            Err(ConfigError::Unknown { name }) => format!("unknown {name}"),
            Err(ConfigError::Unsupported { name }) => format!("unsupported {name}"),
            Err(other) => other.to_string(),
        }
    }

    #[test]
    fn what_is_not_honoured_is_refused_by_name() {
        let cases = [
            (json!({"process": {"apparmorProfile": "p"}}), "process.apparmorProfile"),
            (json!({"process": {"selinuxLabel": "l"}}), "process.selinuxLabel"),
            (json!({"process": {"scheduler": {"policy": "SCHED_BATCH"}}}), "process.scheduler"),
            (json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}}}), "process.ioPriority"),
            (json!({"hooks": {"prestart": [{"path": "/bin/true"}]}}), "hooks"),
            (json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}), "linux.seccomp"),
            (json!({"linux": {"personality": {"domain": "LINUX32"}}}), "linux.personality"),
            (json!({"linux": {"intelRdt": {"closID": "x"}}}), "linux.intelRdt"),
            (json!({"linux": {"uidMappings": [{"hostID": 0, "containerID": 0, "size": 1}]}}), "linux.uidMappings"),
            (json!({"linux": {"timeOffsets": {"boottime": {"secs": 1}}}}), "linux.timeOffsets"),
            (json!({"linux": {"mountLabel": "l"}}), "linux.mountLabel"),
            (json!({"linux": {"resources": {"pids": {"limit": 0}}}}), "linux.resources.pids.limit"),
            (json!({"linux": {"resources": {"memory": {"limit": 1}}}}), "linux.resources.memory.limit"),
            (json!({"linux": {"resources": {"unified": {"memory.max": "1"}}}}), "linux.resources.unified"),
            (json!({"mounts": [{"destination": "/"}, {"uidMappings": [{}, {"size": 1}]}]}), "mounts[1].uidMappings"),
            (json!({"windows": {"servicing": true}}), "windows"),
        ];
        for (config, name) in cases {
            assert_eq!(refusal(config), format!("unsupported {name}"));
        }
    }

    #[test]
    fn what_nobody_knows_is_refused_by_name() {
        let cases = [
            (json!({"Process": {}}), "Process"),
            (json!({"process": {"unheardOf": false}}), "process.unheardOf"),
            (
                json!({"linux": {"resources": {"devices": [{"allow": true, "alow": true}]}}}),
                "linux.resources.devices[0].alow",
            ),
            (json!({"linux": {"resources": {"memory": {"max": null}}}}), "linux.resources.memory.max"),
        ];
        for (config, name) in cases {
            assert_eq!(refusal(config), format!("unknown {name}"));
        }
        assert!(refusal(json!({"process": []})).contains("expected an object"));
        assert!(refusal(json!({"mounts": {}})).contains("expected a list"));
    }

    #[test]
    fn a_wish_for_nothing_is_no_wish() {
        let config = json!({
            "process": {"terminal": false, "apparmorProfile": "", "consoleSize": {"height": 0, "width": 0}},
            "hooks": {"prestart": [], "poststop": null},
            "linux": {"seccomp": null, "resources": {"memory": {"disableOOMKiller": false}, "blockIO": {}}, "mountLabel": ""},
            "annotations": {"any": "thing"}
        });
        assert_eq!(refusal(config), "taken");
    }
}
