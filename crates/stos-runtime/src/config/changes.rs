// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's configuration with the process of an `exec` in place of its own.
//!
//! All else stays as it is, and what a process needs of it is checked again by the same rules: what confines the container confines the
//! further process too.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{ConfigError, Document, RuntimeConfig, is_of_process, needed, prepared, process, tell};

/// What a further process has that the container's own has not. What is `None` or empty stays as the container has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessChanges {
    /// Instead of the container's `process`. Of that only what confines is taken then, where this one says nothing of it
    /// ([`CONFINEMENT`]).
    pub process: Option<ProcessFile>,
    /// `args`.
    pub args: Vec<String>,
    /// `cwd`.
    pub cwd: Option<String>,
    /// Variables; each takes the place of one of its name.
    pub env: Vec<String>,
    /// Variables where there is none of the name.
    pub default_env: Vec<String>,
    /// `user.uid`.
    pub uid: Option<u32>,
    /// `user.gid`.
    pub gid: Option<u32>,
    /// More `user.additionalGids`.
    pub additional_gids: Vec<u32>,
    /// Whether the user is another than the container's. Then its capabilities are not: root has those of the bounding set, and others
    /// have none, as podman has it (containers/podman, `libpod/oci_conmon_exec_linux.go`).
    pub is_of_another_user: bool,
    /// More capabilities: bounding, effective and permitted ones, as runc's `exec --cap` has it.
    pub capabilities: Vec<String>,
    /// `noNewPrivileges`, where it is wanted.
    pub no_new_privileges: bool,
    /// `terminal`: a further process has one only by asking.
    pub terminal: bool,
    /// `consoleSize`, rows and columns: of the terminal that the process's is shown on, which counts more than any other.
    pub console_size: Option<(u16, u16)>,
    /// `apparmorProfile`.
    pub apparmor: Option<String>,
    /// `selinuxLabel`.
    pub label: Option<String>,
}

/// A `process` in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFile {
    /// The file, for errors.
    pub path: PathBuf,
    /// What it holds.
    pub process: Value,
}

/// Keys of `process` that a further process has from the container where its own `process` lacks them, or has them empty.
///
/// They are those that runc's libcontainer has of the container (`newInitConfig`, `finalizeNamespace`). `rlimits` and `user.umask` are not
/// among them there, nor is `noNewPrivileges`: engines leave it out for `false`.
pub const CONFINEMENT: [&str; 7] =
    ["apparmorProfile", "capabilities", "execCPUAffinity", "ioPriority", "oomScoreAdj", "scheduler", "selinuxLabel"];

/// Puts what confines the container into the `process` of a further one.
fn confine(process: &mut Value, container: Option<&Value>) {
    let (Some(own), Some(container)) = (process.as_object_mut(), container.and_then(Value::as_object)) else { return };
    for key in CONFINEMENT {
        // An empty object says something: no capability at all.
        let says_nothing = match own.get(key) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        };
        if let Some(value) = container.get(key).filter(|_| says_nothing) {
            own.insert(key.to_owned(), value.clone());
        }
    }
}

impl RuntimeConfig {
    /// Checks the bytes of a container's `config.json` with `changes` of its process. What is of its creation alone is left out.
    pub fn of_exec(bytes: &[u8], changes: &ProcessChanges) -> Result<Self, ConfigError> {
        let (mut raw, filter) = prepared::read(bytes, needed::by_exec)?;
        let Some(config) = raw.as_object_mut() else {
            return Err(ConfigError::invalid("config.json", "an object", raw));
        };
        if let Some(file) = &changes.process {
            let mut process = file.process.clone();
            confine(&mut process, config.get("process"));
            config.insert("process".to_owned(), process);
        }
        let found = || Document::Process(changes.process.as_ref().map(|file| file.path.clone()));
        match config.entry("process").or_insert(Value::Null) {
            Value::Object(process) => changes.apply(process),
            other => return Err(ConfigError::invalid("process", "an object", other).of_process(found())),
        }
        let (config, unknown) = Self::from_value(raw, filter).map_err(|error| error.of_process(found()))?;
        if changes.process.is_some() {
            // The container's own were told when it was created.
            tell(unknown.iter().filter(|key| is_of_process(&key.name)));
        }
        Ok(config)
    }
}

impl ProcessChanges {
    fn apply(&self, process: &mut Map<String, Value>) {
        process::default_user(process);
        if self.process.is_none() {
            process.insert("terminal".to_owned(), self.terminal.into());
        } else if self.terminal {
            process.insert("terminal".to_owned(), true.into());
        }
        if !self.args.is_empty() {
            process.insert("args".to_owned(), json!(self.args));
        }
        for (key, value) in [("cwd", &self.cwd), ("apparmorProfile", &self.apparmor), ("selinuxLabel", &self.label)] {
            if let Some(value) = value {
                process.insert(key.to_owned(), json!(value));
            }
        }
        if let Some((height, width)) = self.console_size {
            process.insert("consoleSize".to_owned(), json!({"height": height, "width": width}));
        }
        if self.no_new_privileges {
            process.insert("noNewPrivileges".to_owned(), true.into());
        }
        if let Some(env) = list(process, "env").filter(|_| !self.env.is_empty() || !self.default_env.is_empty()) {
            for variable in &self.default_env {
                if !env.iter().any(|known| has_name_of(known, variable)) {
                    env.push(variable.as_str().into());
                }
            }
            self.env.iter().for_each(|variable| set_variable(env, variable));
        }
        self.apply_user(process);
        self.apply_capabilities(process);
    }

    fn apply_user(&self, process: &mut Map<String, Value>) {
        if self.uid.is_none() && self.gid.is_none() && self.additional_gids.is_empty() {
            return;
        }
        let Some(user) = object(process, "user") else { return };
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if let Some(id) = id {
                user.insert(key.to_owned(), id.into());
            }
        }
        if let Some(gids) = list(user, "additionalGids") {
            gids.extend(self.additional_gids.iter().map(|gid| json!(gid)));
        }
    }

    fn apply_capabilities(&self, process: &mut Map<String, Value>) {
        if self.capabilities.is_empty() && !self.is_of_another_user {
            return;
        }
        let Some(sets) = object(process, "capabilities") else { return };
        if self.is_of_another_user {
            // Who is not root loses them by execve(2): nothing is ambient.
            let bounding = sets.get("bounding").cloned().unwrap_or_else(|| json!([]));
            *sets = ["bounding", "effective", "permitted"]
                .map(|key| (key.to_owned(), bounding.clone()))
                .into_iter()
                .collect();
        }
        for key in ["bounding", "effective", "permitted"] {
            let Some(set) = list(sets, key) else { continue };
            for name in &self.capabilities {
                let name = json!(name);
                if !set.contains(&name) {
                    set.push(name);
                }
            }
        }
    }
}

/// The list at `key`, made where there is none. `None` where something else is there: the checks will tell.
fn list<'a>(object: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Vec<Value>> {
    let value = object.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut()
}

/// The object at `key`, as [`list`].
fn object<'a>(object: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    let value = object.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

fn set_variable(env: &mut Vec<Value>, variable: &str) {
    env.retain(|known| !has_name_of(known, variable));
    env.push(variable.into());
}

fn has_name_of(known: &Value, variable: &str) -> bool {
    let name = variable.split('=').next();
    known.as_str().is_some_and(|text| text.split('=').next() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Vec<u8> {
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "terminal": true, "args": ["init"], "env": ["A=1", "B=2"], "user": {"uid": 5, "gid": 6}},
            "linux": {"namespaces": [{"type": "mount"}]},
        })
        .to_string()
        .into_bytes()
    }

    fn settings(changes: &ProcessChanges) -> crate::config::ProcessSettings {
        RuntimeConfig::of_exec(&container(), changes).unwrap().settings().process.clone()
    }

    #[test]
    fn what_is_not_changed_is_the_container_s() {
        let args = vec!["ls".to_owned(), "-l".to_owned()];
        let process = settings(&ProcessChanges { args, ..ProcessChanges::default() });
        assert_eq!((process.uid, process.gid, process.terminal), (5, 6, false));
        assert_eq!(process.args, [c"ls".to_owned(), c"-l".to_owned()]);
        assert_eq!(process.env, [c"A=1".to_owned(), c"B=2".to_owned()]);
    }

    #[test]
    fn each_change_is_made() {
        let process = settings(&ProcessChanges {
            args: vec!["x".into()],
            cwd: Some("/srv".into()),
            env: vec!["A=3".into(), "C=".into()],
            default_env: vec!["B=4".into(), "C=5".into(), "D=6".into()],
            uid: Some(7),
            additional_gids: vec![8],
            capabilities: vec!["CAP_KILL".into()],
            no_new_privileges: true,
            terminal: true,
            ..ProcessChanges::default()
        });
        assert_eq!((process.uid, process.gid, process.additional_gids), (7, 6, vec![8]));
        assert_eq!(process.env, [c"B=2".to_owned(), c"D=6".to_owned(), c"A=3".to_owned(), c"C=".to_owned()]);
        assert!(process.terminal && process.no_new_privileges && process.cwd.ends_with("srv"));
        let kill = 1 << 5;
        let masks = process.capabilities;
        assert_eq!((masks.bounding, masks.effective, masks.permitted, masks.inheritable), (kill, kill, kill, 0));
    }

    #[test]
    fn another_user_has_not_the_capabilities_of_the_container_s() {
        let container = |sets: Value| {
            let mut config: Value = serde_json::from_slice(&container()).unwrap();
            config["process"]["capabilities"] = sets;
            config.to_string().into_bytes()
        };
        let (kill, chown) = (["CAP_KILL"], ["CAP_KILL", "CAP_CHOWN"]);
        let own = container(json!({
            "bounding": chown, "effective": kill, "permitted": kill, "inheritable": kill, "ambient": kill,
        }));
        let changes = ProcessChanges { is_of_another_user: true, ..ProcessChanges::default() };
        let masks = |bytes: &[u8]| RuntimeConfig::of_exec(bytes, &changes).unwrap().settings().process.capabilities;
        let found = masks(&own);
        assert_eq!((found.bounding, found.effective, found.permitted), (0x21, 0x21, 0x21));
        assert_eq!((found.inheritable, found.ambient), (0, 0));
        assert_eq!(masks(&container(Value::Null)), masks(&container(json!({}))));
    }

    #[test]
    fn a_whole_process_takes_from_the_container_what_confines_it() {
        let file = |process| Some(ProcessFile { path: "p.json".into(), process });
        let container = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {
                "cwd": "/", "args": ["init"], "env": ["A=1"], "user": {"uid": 5, "gid": 6, "umask": 63},
                "noNewPrivileges": true, "oomScoreAdj": 300, "apparmorProfile": "p", "selinuxLabel": "l",
                "capabilities": {"bounding": ["CAP_KILL"]}, "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}],
                "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
                "scheduler": {"policy": "SCHED_BATCH"}, "execCPUAffinity": {"final": "0"},
            },
            "linux": {"namespaces": [{"type": "mount"}]},
        });
        let settings = |process: Value| {
            let changes = ProcessChanges { process: file(process), ..ProcessChanges::default() };
            RuntimeConfig::of_exec(container.to_string().as_bytes(), &changes).unwrap().settings().clone()
        };
        let all = settings(
            json!({"cwd": "/", "args": ["y"], "user": {"uid": 0, "gid": 0}, "apparmorProfile": "", "rlimits": []}),
        );
        let process = &all.process;
        assert_eq!((process.uid, process.umask, process.oom_score_adj), (0, 0o22, Some(300)));
        assert_eq!((process.apparmor_profile.as_deref(), process.selinux_label.as_deref()), (Some("p"), Some("l")));
        assert_eq!((process.capabilities.bounding, process.limits.len()), (1 << 5, 0));
        assert_eq!((all.attributes.exec_affinity.last.as_slice(), process.env.len()), (&[0][..], 0));
        assert!(all.attributes.io_priority.is_some() && all.attributes.scheduler.is_some());
        assert!(!process.no_new_privileges);
        let own =
            json!({"cwd": "/", "args": ["y"], "user": {"uid": 0, "gid": 0}, "oomScoreAdj": 0, "capabilities": {}});
        let process = settings(own).process;
        assert_eq!((process.oom_score_adj, process.capabilities.bounding), (Some(0), 0));
    }

    #[test]
    fn a_whole_process_is_checked_as_the_container_s() {
        let file = |process| Some(ProcessFile { path: "p.json".into(), process });
        let process = file(json!({"cwd": "/", "args": ["y"], "user": {"uid": 1, "gid": 2}, "no": 1}));
        let process = settings(&ProcessChanges { process, ..ProcessChanges::default() });
        assert_eq!((process.uid, process.gid, process.env.len(), process.terminal), (1, 2, 0, false));
        let bad = |process: Value| {
            let changes = ProcessChanges { process: file(process), ..ProcessChanges::default() };
            RuntimeConfig::of_exec(&container(), &changes).unwrap_err().to_string()
        };
        assert!(bad(json!([])).starts_with("p.json: process: expected an object"));
        assert!(bad(json!({"cwd": "/", "user": {"uid": 0, "gid": 0}})).starts_with("p.json: process.args"));
        assert!(bad(json!({"args": ["y"], "cwd": 1})).starts_with("p.json: "));
        assert!(bad(json!({"args": ["y"], "cwd": "/", "commandLine": "y"})).starts_with("p.json: process.commandLine"));
    }

    #[test]
    fn a_process_without_user_is_root_s() {
        let user = |process: Value, uid| {
            let file = ProcessFile { path: "p.json".into(), process };
            let changes = ProcessChanges { process: Some(file), uid, ..ProcessChanges::default() };
            let config = RuntimeConfig::of_exec(&container(), &changes);
            let config = config.unwrap();
            (config.settings().process.uid, config.settings().process.gid)
        };
        assert_eq!(user(json!({"cwd": "/", "args": ["y"]}), None), (0, 0));
        assert_eq!(user(json!({"cwd": "/", "args": ["y"], "user": null}), Some(7)), (7, 0));
        assert_eq!(user(json!({"cwd": "/", "args": ["y"], "user": {"gid": 7}}), None), (0, 7));
    }

    #[test]
    fn an_option_that_cannot_be_is_no_fault_of_config_json() {
        let changes = ProcessChanges { cwd: Some("srv".into()), ..ProcessChanges::default() };
        let error = RuntimeConfig::of_exec(&container(), &changes).unwrap_err().to_string();
        assert!(error.starts_with("the process to execute: process.cwd: expected"), "{error}");
    }
}
