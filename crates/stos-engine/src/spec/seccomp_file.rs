// SPDX-License-Identifier: Apache-2.0 OR MIT
//! seccomp profiles in files, of the form that podman's and docker's have: that of a `linux.seccomp`, with conditions
//! (containers/common, `pkg/seccomp`; docker's "Seccomp security profiles").
//!
//! A rule counts where the machine and the capabilities of the container are among those that it includes, and none that it excludes is.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use stos_sys::process::credentials::capability_bit;

use crate::error::{Error, Result};

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<Architecture>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    errno: Option<String>,
    args: Option<Vec<Value>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// What conditions are about.
struct Machine {
    /// Go's name of the architecture.
    arch: &'static str,
    /// libseccomp's.
    architecture: &'static str,
    kernel: (u32, u32),
    capabilities: u64,
}

/// Reads the profile in `path` for a container whose bounding set is `capabilities`, and gives the text of a `linux.seccomp`.
///
/// # Errors
/// [`Error::Option`] with the file and what is wrong with it. Names, actions and arguments are the runtime's to check.
pub(super) fn read(path: &Path, capabilities: u64) -> Result<String> {
    let refused =
        |reason: String| Error::Option { option: "--security-opt seccomp", value: path.display().to_string(), reason };
    let bytes = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let profile: Profile = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    let is_arm = cfg!(target_arch = "aarch64");
    let machine = Machine {
        arch: if is_arm { "arm64" } else { "amd64" },
        architecture: if is_arm { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" },
        kernel: version(&rustix::system::uname().release().to_string_lossy()).unwrap_or_default(),
        capabilities,
    };
    Ok(convert(profile, &machine).map_err(refused)?.to_string())
}

fn convert(profile: Profile, machine: &Machine) -> std::result::Result<Value, String> {
    let mut seccomp = Map::new();
    let mut set = |key: &str, value: Value| drop(seccomp.insert(key.to_owned(), value));
    set("defaultAction", profile.default_action.into());
    if let Some(errno) = errno(profile.default_errno_ret, profile.default_errno.as_deref())? {
        set("defaultErrnoRet", errno.into());
    }
    let named = profile.architectures.filter(|list| !list.is_empty());
    let mapped = profile.arch_map.filter(|list| !list.is_empty());
    match (named, mapped) {
        (Some(_), Some(_)) => return Err("it has both architectures and archMap".to_owned()),
        (Some(named), None) => set("architectures", named.into()),
        (None, Some(map)) => {
            let own = map.into_iter().find(|entry| entry.architecture == machine.architecture);
            if let Some(own) = own {
                let all = [own.architecture].into_iter().chain(own.sub_architectures.into_iter().flatten());
                set("architectures", all.collect::<Vec<_>>().into());
            }
        }
        (None, None) => {}
    }
    if let Some(flags) = profile.flags {
        set("flags", flags.into());
    }
    for (key, value) in [("listenerPath", profile.listener_path), ("listenerMetadata", profile.listener_metadata)] {
        if let Some(value) = value {
            set(key, value.into());
        }
    }
    let mut rules = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        if rule.counts(machine)? {
            rules.push(rule.into_value()?);
        }
    }
    set("syscalls", rules.into());
    Ok(seccomp.into())
}

impl Rule {
    fn counts(&self, machine: &Machine) -> std::result::Result<bool, String> {
        let has = |name: &String| capability_bit(name).is_some_and(|bit| machine.capabilities & bit != 0);
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        if let Some(excludes) = &self.excludes {
            if list(&excludes.arches).iter().any(|arch| arch == machine.arch) || list(&excludes.caps).iter().any(has) {
                return Ok(false);
            }
            if let Some(kernel) = &excludes.min_kernel
                && machine.kernel >= version(kernel).ok_or_else(|| format!("minKernel {kernel:?} is no version"))?
            {
                return Ok(false);
            }
        }
        let Some(includes) = &self.includes else { return Ok(true) };
        let arches = list(&includes.arches);
        if !(arches.is_empty() || arches.iter().any(|arch| arch == machine.arch))
            || !list(&includes.caps).iter().all(has)
        {
            return Ok(false);
        }
        match &includes.min_kernel {
            Some(kernel) => {
                let least = version(kernel).ok_or_else(|| format!("minKernel {kernel:?} is no version"))?;
                Ok(machine.kernel >= least)
            }
            None => Ok(true),
        }
    }

    fn into_value(self) -> std::result::Result<Value, String> {
        let names = match (self.name.filter(|name| !name.is_empty()), self.names.filter(|names| !names.is_empty())) {
            (Some(name), Some(_)) => return Err(format!("a rule has both name {name:?} and names")),
            (Some(name), None) => vec![name],
            (None, names) => names.unwrap_or_default(),
        };
        let errno = errno(self.errno_ret, self.errno.as_deref())?;
        let mut rule = json!({"names": names, "action": self.action});
        if let Some(errno) = errno {
            rule["errnoRet"] = errno.into();
        }
        if let Some(args) = self.args.filter(|args| !args.is_empty()) {
            rule["args"] = args.into();
        }
        Ok(rule)
    }
}

/// The numbers of the errnos that profiles name (errno-base.h and errno.h; the same on all our machines).
const ERRNOS: [(&str, u32); 12] = [
    ("EACCES", 13),
    ("EAGAIN", 11),
    ("EBADF", 9),
    ("EBUSY", 16),
    ("EFAULT", 14),
    ("EINVAL", 22),
    ("ENODEV", 19),
    ("ENOENT", 2),
    ("ENOMEM", 12),
    ("ENOSYS", 38),
    ("EOPNOTSUPP", 95),
    ("EPERM", 1),
];

/// An errno by its number, which is the older form, or by its name.
fn errno(number: Option<u32>, name: Option<&str>) -> std::result::Result<Option<u32>, String> {
    match (number, name.filter(|name| !name.is_empty())) {
        (Some(number), _) => Ok(Some(number)),
        (None, None) => Ok(None),
        (None, Some(name)) => match ERRNOS.iter().find(|(known, _)| *known == name) {
            Some((_, number)) => Ok(Some(*number)),
            None => Err(format!("errno {name:?} is unknown: give its number as errnoRet")),
        },
    }
}

/// The first two numbers of a kernel's version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(profile: &Value, capabilities: &[&str]) -> std::result::Result<Value, String> {
        let machine = Machine {
            arch: "amd64",
            architecture: "SCMP_ARCH_X86_64",
            kernel: (6, 8),
            capabilities: capabilities.iter().map(|name| capability_bit(name).unwrap()).sum(),
        };
        convert(serde_json::from_value(profile.clone()).unwrap(), &machine)
    }

    #[test]
    fn rules_count_where_their_conditions_hold() {
        let rule = |includes: Value, excludes: Value| json!({"names": ["x"], "action": "A", "args": null, "includes": includes, "excludes": excludes});
        let counts = |includes: Value, excludes: Value, capabilities: &[&str]| {
            let profile = json!({"defaultAction": "A", "syscalls": [rule(includes, excludes)]});
            converted(&profile, capabilities).unwrap()["syscalls"].as_array().unwrap().len() == 1
        };
        assert!(counts(json!({}), json!(null), &[]));
        assert!(
            counts(json!({"arches": ["arm64", "amd64"]}), json!({}), &[])
                && !counts(json!({"arches": ["s390"]}), json!({}), &[])
        );
        assert!(!counts(json!({}), json!({"arches": ["amd64"]}), &[]));
        let caps = json!({"caps": ["CAP_KILL", "CAP_BPF"]});
        // All that are included, any that is excluded.
        assert!(!counts(caps.clone(), json!({}), &["KILL"]) && counts(caps.clone(), json!({}), &["KILL", "BPF"]));
        assert!(!counts(json!({}), caps.clone(), &["KILL"]) && counts(json!({}), caps, &["CHOWN"]));
        assert!(
            counts(json!({"minKernel": "6.8"}), json!({}), &[])
                && !counts(json!({"minKernel": "6.10"}), json!({}), &[])
        );
        assert!(!counts(json!({}), json!({"minKernel": "4.8"}), &[]));
    }

    #[test]
    fn a_profile_becomes_the_runtime_s() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS", "comment": "x",
            "archMap": [
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            ],
            "syscalls": [
                {"name": "read", "action": "SCMP_ACT_ALLOW"},
                {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errno": "EPERM", "errnoRet": 1, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            ],
        });
        let expected = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            ],
        });
        assert_eq!(converted(&profile, &[]).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let arch = json!([{"architecture": "SCMP_ARCH_X86_64"}]);
        for (profile, said) in [
            (json!({"architectures": ["SCMP_ARCH_X86_64"], "archMap": arch}), "both architectures"),
            (json!({"syscalls": [{"name": "a", "names": ["b"]}]}), "both name"),
            (json!({"syscalls": [{"name": "a", "errno": "EWHAT"}]}), "EWHAT"),
            (json!({"syscalls": [{"name": "a", "includes": {"minKernel": "new"}}]}), "minKernel"),
        ] {
            let error = converted(&profile, &[]).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(read(file.path(), 0).unwrap_err().to_string().contains(&file.path().display().to_string()));
        assert!(read(Path::new("/no/such"), 0).unwrap_err().to_string().starts_with("--security-opt seccomp"));
    }
}
