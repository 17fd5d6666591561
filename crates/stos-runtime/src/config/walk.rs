// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every key of a `config.json` against a table of what is honoured and what is refused.
//!
//! The table is the schema of runtime-spec 1.2. A refused key with a value that asks for nothing (`null`, `false`, `""`,
//! `[]`, `{}`, or an object of such) is no wish. A key in no row is unknown: config.md, "Extensibility", has runtimes ignore those,
//! without exception, and lets them tell. So what is misspelt does nothing, also in `linux.seccomp`: it is told.

use serde_json::Value;

use super::ConfigError;

/// A key that is in no row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownKey {
    /// From the root on: `process.umask`.
    pub name: String,
    /// A row that differs in case alone. Runtimes that are written in Go take the key for it.
    pub known: Option<&'static str>,
}

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
    /// An object of any keys, whose values follow one rule.
    Values(&'static Rule),
}

use Rule::{Items, Keys, Refuse, Take, Values};

const ROOT: Rule = Keys(&[
    ("ociVersion", Take),
    ("root", Keys(&[("path", Take), ("readonly", Take)])),
    ("mounts", Items(&MOUNT)),
    ("process", PROCESS),
    ("hostname", Take),
    ("domainname", Take),
    (
        "hooks",
        Keys(&[
            ("prestart", HOOKS),
            ("createRuntime", HOOKS),
            ("createContainer", HOOKS),
            ("startContainer", HOOKS),
            ("poststart", HOOKS),
            ("poststop", HOOKS),
        ]),
    ),
    ("annotations", Take),
    ("linux", LINUX),
    ("solaris", Refuse),
    ("windows", Refuse),
    ("vm", Refuse),
    ("zos", Refuse),
    ("freebsd", Refuse),
]);

const HOOKS: Rule = Items(&Keys(&[("path", Take), ("args", Take), ("env", Take), ("timeout", Take)]));

const ID_MAPPINGS: Rule = Items(&Keys(&[("hostID", Take), ("containerID", Take), ("size", Take)]));

const TIME_OFFSET: Rule = Keys(&[("secs", Take), ("nanosecs", Take)]);

const MOUNT: Rule = Keys(&[
    ("destination", Take),
    ("type", Take),
    ("source", Take),
    ("options", Take),
    ("uidMappings", ID_MAPPINGS),
    ("gidMappings", ID_MAPPINGS),
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
    ("apparmorProfile", Take),
    ("selinuxLabel", Take),
    ("ioPriority", Keys(&[("class", Take), ("priority", Take)])),
    (
        "scheduler",
        Keys(&[
            ("policy", Take),
            ("nice", Take),
            ("priority", Take),
            ("flags", Take),
            ("runtime", Take),
            ("deadline", Take),
            ("period", Take),
        ]),
    ),
    ("execCPUAffinity", Keys(&[("initial", Take), ("final", Take)])),
]);

const LINUX: Rule = Keys(&[
    ("namespaces", Items(&Keys(&[("type", Take), ("path", Take)]))),
    ("uidMappings", ID_MAPPINGS),
    ("gidMappings", ID_MAPPINGS),
    ("timeOffsets", Values(&TIME_OFFSET)),
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
    ("seccomp", SECCOMP),
    ("mountLabel", Take),
    ("intelRdt", Refuse),
    ("memoryPolicy", Refuse),
    ("personality", Keys(&[("domain", Take), ("flags", Take)])),
]);

const SECCOMP: Rule = Keys(&[
    ("defaultAction", Take),
    ("defaultErrnoRet", Take),
    ("architectures", Take),
    ("flags", Take),
    ("listenerPath", Take),
    ("listenerMetadata", Take),
    (
        "syscalls",
        Items(&Keys(&[
            ("names", Take),
            ("action", Take),
            ("errnoRet", Take),
            ("args", Items(&Keys(&[("index", Take), ("value", Take), ("valueTwo", Take), ("op", Take)]))),
        ])),
    ),
]);

const RESOURCES: Rule = Keys(&[
    ("devices", Items(&Keys(&[("allow", Take), ("type", Take), ("major", Take), ("minor", Take), ("access", Take)]))),
    ("memory", LIMITS_MEMORY),
    ("cpu", LIMITS_CPU),
    ("pids", Keys(&[("limit", Take)])),
    ("blockIO", LIMITS_IO),
    ("hugepageLimits", Items(&Keys(&[("pageSize", Take), ("limit", Take)]))),
    ("network", Keys(&[("classID", Take), ("priorities", Items(&Keys(&[("name", Take), ("priority", Take)])))])),
    ("rdma", Values(&Keys(&[("hcaHandles", Take), ("hcaObjects", Take)]))),
    ("unified", Take),
]);

const LIMITS_MEMORY: Rule = Keys(&[
    ("limit", Take),
    ("reservation", Take),
    ("swap", Take),
    ("kernel", Take),
    ("kernelTCP", Take),
    ("swappiness", Take),
    ("disableOOMKiller", Take),
    ("useHierarchy", Take),
    ("checkBeforeUpdate", Take),
]);

const LIMITS_CPU: Rule = Keys(&[
    ("shares", Take),
    ("quota", Take),
    ("burst", Take),
    ("period", Take),
    ("realtimeRuntime", Take),
    ("realtimePeriod", Take),
    ("cpus", Take),
    ("mems", Take),
    ("idle", Take),
]);

const LIMITS_IO: Rule = Keys(&[
    ("weight", Take),
    ("leafWeight", Take),
    ("weightDevice", Items(&Keys(&[("major", Take), ("minor", Take), ("weight", Take), ("leafWeight", Take)]))),
    ("throttleReadBpsDevice", THROTTLES),
    ("throttleWriteBpsDevice", THROTTLES),
    ("throttleReadIOPSDevice", THROTTLES),
    ("throttleWriteIOPSDevice", THROTTLES),
]);

const THROTTLES: Rule = Items(&Keys(&[("major", Take), ("minor", Take), ("rate", Take)]));

/// Checks every key of a `linux.resources` by itself, and gives those that are unknown.
pub(super) fn check_resources(resources: &Value) -> Result<Vec<UnknownKey>, ConfigError> {
    let mut unknown = Vec::new();
    check_at(resources, &RESOURCES, "linux.resources", &mut unknown)?;
    Ok(unknown)
}

/// Checks every key of `config`, and gives those that are unknown.
pub(super) fn check(config: &Value) -> Result<Vec<UnknownKey>, ConfigError> {
    let mut unknown = Vec::new();
    check_at(config, &ROOT, "", &mut unknown)?;
    Ok(unknown)
}

fn check_at(value: &Value, rule: &Rule, name: &str, unknown: &mut Vec<UnknownKey>) -> Result<(), ConfigError> {
    match (rule, value) {
        (Take, _) => Ok(()),
        (Refuse, value) if asks_for_nothing(value) => Ok(()),
        (Refuse, _) => Err(ConfigError::unsupported(name)),
        (_, Value::Null) => Ok(()),
        (Keys(known), Value::Object(found)) => {
            for (key, value) in found {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                match known.iter().find(|(known, _)| known == key) {
                    Some((_, rule)) => check_at(value, rule, &name, unknown)?,
                    None => {
                        let known = known.iter().map(|(known, _)| *known).find(|known| known.eq_ignore_ascii_case(key));
                        unknown.push(UnknownKey { name, known });
                    }
                }
            }
            Ok(())
        }
        (Items(rule), Value::Array(found)) => {
            let mut items = found.iter().enumerate();
            items.try_for_each(|(at, value)| check_at(value, rule, &format!("{name}[{at}]"), unknown))
        }
        (Values(rule), Value::Object(found)) => {
            found.iter().try_for_each(|(key, value)| check_at(value, rule, &format!("{name}.{key}"), unknown))
        }
        (Keys(_) | Values(_), other) => Err(ConfigError::invalid(name, "an object", other)),
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
            Ok(unknown) if unknown.is_empty() => "taken".to_owned(),
            Ok(unknown) => {
                let names: Vec<_> = unknown.iter().map(|key| key.name.as_str()).collect();
                format!("unknown {}", names.join(" "))
            }
            Err(ConfigError::Unsupported { name, .. }) => format!("unsupported {name}"),
            Err(other) => other.to_string(),
        }
    }

    #[test]
    fn what_is_not_honoured_is_refused_by_name() {
        let cases = [
            (json!({"linux": {"memoryPolicy": {"mode": "MPOL_BIND"}}}), "linux.memoryPolicy"),
            (json!({"linux": {"netDevices": {"eth0": {"name": "eth0"}}}}), "linux.netDevices"),
            (json!({"vm": {"hypervisor": {"path": "/x"}}}), "vm"),
            (json!({"linux": {"intelRdt": {"closID": "x"}}}), "linux.intelRdt"),
            (json!({"windows": {"servicing": true}}), "windows"),
        ];
        for (config, name) in cases {
            assert_eq!(refusal(config), format!("unsupported {name}"));
        }
    }

    #[test]
    fn what_nobody_knows_is_named() {
        let cases = [
            (json!({"Process": {}}), "Process"),
            (json!({"process": {"unheardOf": false, "no": 1}, "vm": null}), "process.no process.unheardOf"),
            (json!({"hooks": {"prestop": []}}), "hooks.prestop"),
            (json!({"hooks": {"poststop": [{"path": "/x", "user": 0}]}}), "hooks.poststop[0].user"),
            (json!({"linux": {"timeOffsets": {"boottime": {"days": 1}}}}), "linux.timeOffsets.boottime.days"),
            (
                json!({"mounts": [{"destination": "/"}, {"uidMappings": [{}, {"count": 1}]}]}),
                "mounts[1].uidMappings[1].count",
            ),
            (
                json!({"linux": {"resources": {"devices": [{"allow": true, "alow": true}]}}}),
                "linux.resources.devices[0].alow",
            ),
            (json!({"linux": {"resources": {"memory": {"max": null}}}}), "linux.resources.memory.max"),
            (json!({"linux": {"resources": {"rdma": {"a": {"max": 1}}}}}), "linux.resources.rdma.a.max"),
            (
                json!({"linux": {"resources": {"blockIO": {"weightDevice": [{"x": 1}]}}}}),
                "linux.resources.blockIO.weightDevice[0].x",
            ),
            (json!({"linux": {"seccomp": {"defaultAktion": "x"}}}), "linux.seccomp.defaultAktion"),
            (
                json!({"linux": {"seccomp": {"syscalls": [{"names": [], "args": [{"valueThree": 1}]}]}}}),
                "linux.seccomp.syscalls[0].args[0].valueThree",
            ),
        ];
        for (config, name) in cases {
            assert_eq!(refusal(config), format!("unknown {name}"));
        }
        let unknown = check(&json!({"process": {"NoNewPrivileges": true}, "Processes": {}})).unwrap();
        assert_eq!(unknown.iter().map(|key| key.known).collect::<Vec<_>>(), [None, Some("noNewPrivileges")]);
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

    /// Every row of the table as the document writes it: `mounts[].options`, `linux.rdma.*.hcaHandles`.
    fn rows(rule: &Rule, name: String, found: &mut Vec<String>) {
        match rule {
            Take | Refuse => found.push(name),
            Keys(known) => {
                for (key, rule) in *known {
                    let name = if name.is_empty() { (*key).to_owned() } else { format!("{name}.{key}") };
                    rows(rule, name, found);
                }
            }
            Items(rule) => rows(rule, format!("{name}[]"), found),
            Values(rule) => rows(rule, format!("{name}.*"), found),
        }
    }

    fn sources(directory: &std::path::Path, text: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                sources(&entry, text);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(entry).unwrap());
            }
        }
    }

    #[test]
    fn the_document_has_every_key_and_tests_that_are_there() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let document = std::fs::read_to_string(crates.join("../docs/runtime-spec.md")).unwrap();
        let (_, table) = document.split_once("## Every key\n").unwrap();
        let table: Vec<&str> =
            table.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `")).collect();
        let mut keys = Vec::new();
        rows(&ROOT, String::new(), &mut keys);
        for key in keys {
            assert!(table.iter().any(|line| line.contains(&format!("`{key}`"))), "docs/runtime-spec.md lacks {key}");
        }
        let mut text = String::new();
        for place in ["stos/tests", "stos-runtime/src", "stos-runtime/tests"] {
            sources(&crates.join(place), &mut text);
        }
        for test in table.iter().filter_map(|line| line.rsplit(" | ").next()).flat_map(|tests| tests.split('`')) {
            let is_name = test.contains('_');
            assert!(!is_name || text.contains(&format!("fn {test}(")), "docs/runtime-spec.md names a test {test}");
        }
    }
}
