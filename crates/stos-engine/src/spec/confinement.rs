// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What confines a container, in its runtime configuration: capabilities, system calls, paths of /proc and /sys, devices.

use std::borrow::Cow;

use serde_json::{Value, json};
use stos_runtime::seccomp::default_profile::default_profile;

use super::seccomp_file;
use crate::error::{Error, Result};
use crate::security::{Capabilities, Seccomp, SecurityOptions, names};

/// Parts of /proc and /sys that tell of the host or change it, hidden as podman 5.8 hides them, or more.
const MASKED_PATHS: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Parts of /proc and /sys that may only be read.
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where the container sees its cgroups: read-only by default too.
const CGROUPS: &str = "/sys/fs/cgroup";

/// How a container is confined, decided before anything is made of it.
#[derive(Debug, Clone)]
pub struct Confinement<'a> {
    options: &'a SecurityOptions,
    capabilities: Capabilities,
    /// The text of `linux.seccomp`.
    seccomp: Option<Cow<'static, str>>,
}

impl<'a> Confinement<'a> {
    /// Decides what options mean on this machine that have passed [`Confinement::check`].
    ///
    /// # Errors
    /// [`Error::Option`] for what cannot be, by its option and value.
    pub fn of(options: &'a SecurityOptions) -> Result<Self> {
        let capabilities = options.capabilities()?;
        let seccomp = match &options.seccomp {
            Seccomp::Default if options.privileged => None,
            Seccomp::Default => Some(default_profile(capabilities.bounding)),
            Seccomp::Unconfined => None,
            Seccomp::File(path) => Some(seccomp_file::read(path, capabilities.bounding)?.into()),
        };
        Ok(Self { options, capabilities, seccomp })
    }

    /// Refuses what cannot be, before anything is fetched for it.
    ///
    /// # Errors
    /// [`Error::Option`] by its option and value.
    pub fn check(options: &SecurityOptions) -> Result<()> {
        check_apparmor(options)?;
        check_paths(options)?;
        let capabilities = options.capabilities()?;
        match &options.seccomp {
            Seccomp::File(path) => seccomp_file::read(path, capabilities.bounding).map(drop),
            Seccomp::Default | Seccomp::Unconfined => Ok(()),
        }
    }

    /// Gives the `process.capabilities` of the user `uid`.
    ///
    /// Who is not root has those that were asked for by name, and keeps them through execve(2) (ambient): podman's rule.
    pub(super) fn capabilities(&self, uid: u32) -> Value {
        let bounding = names(self.capabilities.bounding);
        if uid == 0 {
            return json!({"bounding": bounding, "effective": bounding, "permitted": bounding});
        }
        match names(self.capabilities.of_others) {
            none if none.is_empty() => json!({"bounding": bounding, "effective": [], "permitted": []}),
            own => json!({
                "bounding": bounding, "effective": own, "permitted": own, "inheritable": own, "ambient": own,
            }),
        }
    }

    /// Puts the rest into a configuration that is otherwise whole.
    pub(super) fn apply(&self, config: &mut Value) -> Result<()> {
        let options = self.options;
        if options.no_new_privileges {
            config["process"]["noNewPrivileges"] = true.into();
        }
        if let Some(profile) = options.apparmor.as_ref().filter(|profile| *profile != "unconfined" || has_apparmor()) {
            config["process"]["apparmorProfile"] = json!(profile);
        }
        self.change_mounts(config);
        let linux = &mut config["linux"];
        let kept = |paths: &[&str]| -> Vec<String> {
            let kept = paths.iter().filter(|path| !options.privileged && !self.is_unmasked(path));
            kept.map(|path| (*path).to_owned()).collect()
        };
        let mut masked = kept(&MASKED_PATHS);
        masked.extend(options.mask.iter().cloned());
        linux["maskedPaths"] = json!(masked);
        linux["readonlyPaths"] = json!(kept(&READ_ONLY_PATHS));
        if options.privileged {
            linux["devices"] = super::devices::of_host()?;
            linux["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
        }
        Ok(())
    }

    /// /proc with the options that were asked for; /sys and the cgroups writable, for whom they are.
    fn change_mounts(&self, config: &mut Value) {
        let options = self.options;
        for mount in config["mounts"].as_array_mut().into_iter().flatten() {
            let is_writable = match mount["destination"].as_str().unwrap_or_default() {
                "/proc" => false,
                "/sys" => options.privileged,
                CGROUPS => options.privileged || self.is_unmasked(CGROUPS),
                _ => continue,
            };
            let is_proc = mount["destination"] == "/proc";
            let Some(list) = mount["options"].as_array_mut() else { continue };
            if is_writable {
                list.retain(|option| option != "ro");
                list.push("rw".into());
            }
            if is_proc {
                list.extend(options.proc_options.iter().map(|option| json!(option)));
            }
        }
    }

    fn is_unmasked(&self, path: &str) -> bool {
        self.options.unmask.iter().any(|pattern| pattern.eq_ignore_ascii_case("all") || matches(pattern, path))
    }

    /// Gives the text of `linux.seccomp`.
    pub fn profile(&self) -> Option<&str> {
        self.seccomp.as_deref()
    }

    /// Gives the text of a configuration, with the profile of its system calls.
    ///
    /// That is put in as it is: of the default profile the runtime knows the text again, and neither parses nor compiles it.
    pub fn text(&self, config: &Value) -> Vec<u8> {
        const LINUX: &str = "\"linux\":{";
        let text = format!("{config}\n");
        match (&self.seccomp, text.find(LINUX)) {
            // In no string is there such a text, for its quotes would be escaped; and no other value here is an object of that name.
            (Some(profile), Some(at)) => {
                let (before, after) = text.split_at(at + LINUX.len());
                [before, "\"seccomp\":", profile, ",", after].concat().into_bytes()
            }
            _ => text.into_bytes(),
        }
    }
}

fn refused(option: &'static str, value: &str, reason: &str) -> Error {
    Error::Option { option, value: value.to_owned(), reason: reason.to_owned() }
}

fn check_apparmor(options: &SecurityOptions) -> Result<()> {
    match &options.apparmor {
        Some(profile) if profile != "unconfined" && !has_apparmor() => {
            Err(refused("--security-opt apparmor", profile, "AppArmor is not enabled on this machine"))
        }
        _ => Ok(()),
    }
}

fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

fn check_paths(options: &SecurityOptions) -> Result<()> {
    if let Some(path) = options.mask.iter().find(|path| !path.starts_with('/')) {
        return Err(refused("--security-opt mask", path, "expected an absolute path"));
    }
    let is_good = |pattern: &str| pattern.eq_ignore_ascii_case("all") || pattern.starts_with('/');
    match options.unmask.iter().find(|pattern| !is_good(pattern)) {
        Some(pattern) => Err(refused("--security-opt unmask", pattern, "expected ALL or an absolute path")),
        None => Ok(()),
    }
}

/// Whether a path fits a pattern of a shell: `*` and `?` stand for what is between slashes. Without slashes at their ends both.
fn matches(pattern: &str, path: &str) -> bool {
    fn rest(pattern: &[u8], path: &[u8]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((b'*', after)), _) if rest(after, path) => true,
            (Some((b'*', _)), Some((byte, left))) => *byte != b'/' && rest(pattern, left),
            (Some((b'?', after)), Some((byte, left))) => *byte != b'/' && rest(after, left),
            (Some((wanted, after)), Some((byte, left))) => wanted == byte && rest(after, left),
            _ => false,
        }
    }
    let pattern = if pattern.len() > 1 { pattern.trim_end_matches('/') } else { pattern };
    rest(pattern.as_bytes(), path.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Value {
        json!({
            "process": {"args": ["\"linux\":{"]},
            "mounts": [
                {"destination": "/proc", "options": ["nosuid"]},
                {"destination": "/sys", "options": ["nosuid", "ro"]},
                {"destination": "/sys/fs/cgroup", "options": ["ro"]},
            ],
            "linux": {"namespaces": [], "resources": {"devices": [{"allow": false, "access": "rwm"}]}},
        })
    }

    fn applied(options: &SecurityOptions) -> Value {
        let mut config = config();
        Confinement::of(options).unwrap().apply(&mut config).unwrap();
        config
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn paths_are_hidden_unless_they_are_named() {
        let hidden = |unmask: &[&str], mask: &[&str]| {
            let options = SecurityOptions { unmask: words(unmask), mask: words(mask), ..SecurityOptions::default() };
            let config = applied(&options);
            let is_in = |key: &str, path: &str| config["linux"][key].as_array().unwrap().contains(&json!(path));
            let cgroups = config["mounts"][2]["options"].clone();
            (
                is_in("maskedPaths", "/proc/kcore"),
                is_in("maskedPaths", "/x"),
                is_in("readonlyPaths", "/proc/sys"),
                cgroups,
            )
        };
        assert_eq!(hidden(&[], &[]), (true, false, true, json!(["ro"])));
        assert_eq!(hidden(&["all"], &["/x"]), (false, true, false, json!(["rw"])));
        assert_eq!(hidden(&["/proc/k*"], &["/proc/kcore"]), (true, false, true, json!(["ro"])));
        assert_eq!(hidden(&["/proc/k*", "/proc/sys/"], &[]), (false, false, false, json!(["ro"])));
        assert_eq!(hidden(&["/sys/fs/cgroup"], &[]), (true, false, true, json!(["rw"])));
        for (pattern, path, fits) in [
            ("/proc/*", "/proc/sys", true),
            ("/proc/*", "/proc/sys/net", false),
            ("/proc/s??", "/proc/sys", true),
            ("*", "/proc", false),
            ("/proc", "/proc/sys", false),
            ("/proc/*s", "/proc/sys", true),
        ] {
            assert_eq!(matches(pattern, path), fits, "{pattern} {path}");
        }
    }

    #[test]
    fn a_privileged_container_has_what_the_host_has() {
        let config = applied(&SecurityOptions { privileged: true, mask: words(&["/x"]), ..SecurityOptions::default() });
        assert_eq!(config["linux"]["maskedPaths"], json!(["/x"]));
        assert_eq!(config["linux"]["readonlyPaths"], json!([]));
        assert_eq!(config["mounts"][1]["options"], json!(["nosuid", "rw"]));
        assert_eq!(config["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
        let privileged = SecurityOptions { privileged: true, ..SecurityOptions::default() };
        assert!(Confinement::of(&privileged).unwrap().seccomp.is_none());
    }

    #[test]
    fn the_profile_stands_in_linux_and_nowhere_else() {
        let options = SecurityOptions { proc_options: words(&["hidepid=2"]), ..SecurityOptions::default() };
        let confinement = Confinement::of(&options).unwrap();
        let mut config = config();
        confinement.apply(&mut config).unwrap();
        let text: Value = serde_json::from_slice(&confinement.text(&config)).unwrap();
        assert_eq!(text["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(text["process"], config["process"]);
        assert_eq!(text["mounts"][0]["options"], json!(["nosuid", "hidepid=2"]));
        let options = SecurityOptions { seccomp: Seccomp::Unconfined, ..SecurityOptions::default() };
        let text: Value = serde_json::from_slice(&Confinement::of(&options).unwrap().text(&config)).unwrap();
        assert!(text["linux"].get("seccomp").is_none());
    }

    #[test]
    fn others_than_root_have_what_was_asked_for() {
        let capabilities = |add: &[&str], uid| {
            let options = SecurityOptions { cap_add: words(add), ..SecurityOptions::default() };
            Confinement::of(&options).unwrap().capabilities(uid)
        };
        assert_eq!(capabilities(&[], 7)["effective"], json!([]));
        assert_eq!(capabilities(&["KILL"], 7)["ambient"], json!(["CAP_KILL"]));
        assert_eq!(capabilities(&["KILL"], 0)["ambient"], Value::Null);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let said = |options: SecurityOptions| Confinement::check(&options).unwrap_err().to_string();
        let mask = SecurityOptions { mask: words(&["proc"]), ..SecurityOptions::default() };
        assert_eq!(said(mask), "--security-opt mask \"proc\": expected an absolute path");
        let unmask = SecurityOptions { unmask: words(&["some"]), ..SecurityOptions::default() };
        assert!(said(unmask).starts_with("--security-opt unmask \"some\""));
        if !has_apparmor() {
            let apparmor = SecurityOptions { apparmor: Some("p".into()), ..SecurityOptions::default() };
            assert_eq!(said(apparmor), "--security-opt apparmor \"p\": AppArmor is not enabled on this machine");
        }
        let none = SecurityOptions { apparmor: Some("unconfined".into()), ..SecurityOptions::default() };
        assert!(Confinement::check(&none).is_ok());
    }
}
