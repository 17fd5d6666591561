// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the launch honours of `process`.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process};
use serde_json::{Map, Value, json};
use stos_sys::process::credentials::{CapabilityMasks, capability_bit};

use super::ConfigError;

/// `process`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Rows and columns of its terminal; as the kernel has it where the bundle gives none.
    pub console_size: Option<(u16, u16)>,
    /// The command and its arguments; at least one.
    pub args: Vec<CString>,
    /// The environment as given, without HOME where the bundle gives none.
    pub env: Vec<CString>,
    /// The working directory, absolute.
    pub cwd: PathBuf,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
    /// The mask of permission bits; 0022 where none is given.
    pub umask: u32,
    /// The five sets; empty where the bundle gives none.
    pub capabilities: CapabilityMasks,
    /// `noNewPrivileges`.
    pub no_new_privileges: bool,
    /// Limits.
    pub limits: Vec<Limit>,
    /// `oomScoreAdj`; as the caller's where the bundle gives none.
    pub oom_score_adj: Option<i32>,
    /// `apparmorProfile`.
    pub apparmor_profile: Option<String>,
    /// `selinuxLabel`.
    pub selinux_label: Option<String>,
}

/// One of `rlimits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// `RLIMIT_NOFILE` and the like.
    pub name: String,
    /// The limit that counts.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

impl ProcessSettings {
    pub(super) fn of(process: Option<&Process>) -> Result<Self, ConfigError> {
        let process = process.ok_or_else(|| ConfigError::invalid("process", "an object", Option::<&str>::None))?;
        let args = strings("process.args", process.args().as_deref())?;
        if args.is_empty() {
            return Err(ConfigError::invalid("process.args", "at least one argument", args));
        }
        let cwd = process.cwd();
        if !cwd.is_absolute() {
            return Err(ConfigError::invalid("process.cwd", "an absolute path", cwd));
        }
        let user = process.user();
        let additional_gids = user.additional_gids().clone().unwrap_or_default();
        // u32::MAX means "leave as it is" to setresuid(2): such a container would stay root (CVE-2024-40635).
        for id in [user.uid(), user.gid()].into_iter().chain(additional_gids.iter().copied()) {
            if id == u32::MAX {
                return Err(ConfigError::invalid("process.user", "ids below 4294967295", id));
            }
        }
        let umask = user.umask().unwrap_or(0o022);
        if umask > 0o777 {
            return Err(ConfigError::invalid("process.user.umask", "at most 0777", umask));
        }
        let oom_score_adj = process.oom_score_adj();
        if oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
            return Err(ConfigError::invalid("process.oomScoreAdj", "-1000 to 1000", oom_score_adj));
        }
        Ok(Self {
            terminal: process.terminal().unwrap_or(false),
            console_size: console_size(process)?,
            args,
            env: environment(process.env().as_deref())?,
            cwd: normal(cwd),
            uid: user.uid(),
            gid: user.gid(),
            additional_gids,
            umask,
            capabilities: process.capabilities().as_ref().map(masks).transpose()?.unwrap_or_default(),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            limits: limits(process)?,
            oom_score_adj,
            apparmor_profile: label("process.apparmorProfile", process.apparmor_profile().as_deref())?,
            selinux_label: label("process.selinuxLabel", process.selinux_label().as_deref())?,
        })
    }
}

/// Makes a `process` without `user` root's, as runc has it: the schema demands `cwd` and `args` alone. A `uid` or `gid` that is left out
/// is 0 as well.
pub(super) fn default_user(process: &mut Map<String, Value>) {
    let user = process.entry("user").or_insert(Value::Null);
    if user.is_null() {
        *user = json!({"uid": 0, "gid": 0});
    }
}

/// Leaves out, and tells of, capabilities that we do not know, as runc does: an engine may be newer than we are.
pub(super) fn leave_out_unknown_capabilities(process: &mut Map<String, Value>) {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return };
    let mut unknown = BTreeSet::new();
    for list in sets.values_mut().filter_map(Value::as_array_mut) {
        list.retain(|capability| {
            let name = capability.as_str().filter(|name| capability_bit(name).is_none());
            unknown.extend(name.map(str::to_owned));
            name.is_none()
        });
    }
    for capability in unknown {
        tracing::warn!(capability, "an unknown capability is ignored");
    }
}

/// "NAME=VALUE", as runc demands it.
fn environment(list: Option<&[String]>) -> Result<Vec<CString>, ConfigError> {
    if let Some(variable) = list.unwrap_or_default().iter().find(|text| text.find('=').is_none_or(|at| at == 0)) {
        return Err(ConfigError::invalid("process.env", "NAME=VALUE", variable));
    }
    strings("process.env", list)
}

fn label(name: &str, asked: Option<&str>) -> Result<Option<String>, ConfigError> {
    match asked.filter(|text| !text.is_empty()) {
        Some(text) if text.contains(['\0', '\n']) => {
            Err(ConfigError::invalid(name, "a name without NUL bytes and newlines", text))
        }
        other => Ok(other.map(str::to_owned)),
    }
}

/// "MUST be ignored if terminal is false or unset" (config.md); sizes of a terminal have 16 bits.
fn console_size(process: &Process) -> Result<Option<(u16, u16)>, ConfigError> {
    let Some(size) = process.console_size().filter(|_| process.terminal() == Some(true)) else {
        return Ok(None);
    };
    let number = |key: &str, value: u64| {
        u16::try_from(value)
            .map_err(|_| ConfigError::invalid(format!("process.consoleSize.{key}"), "at most 65535", value))
    };
    Ok(Some((number("height", size.height())?, number("width", size.width())?)))
}

fn normal(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from("/") } else { path.to_owned() }
}

fn strings(name: &str, list: Option<&[String]>) -> Result<Vec<CString>, ConfigError> {
    let list = list.unwrap_or_default().iter();
    list.map(|text| {
        CString::new(text.as_str()).map_err(|_| ConfigError::invalid(name, "strings without NUL bytes", text))
    })
    .collect()
}

fn masks(capabilities: &LinuxCapabilities) -> Result<CapabilityMasks, ConfigError> {
    let mask = |name: &str, set: &Option<Capabilities>| {
        set.iter().flatten().try_fold(0, |mask, capability| {
            capability_bit(&capability.to_string())
                .map(|bit| mask | bit)
                .ok_or_else(|| ConfigError::invalid(format!("process.capabilities.{name}"), "a capability", capability))
        })
    };
    let mut masks = CapabilityMasks {
        bounding: mask("bounding", capabilities.bounding())?,
        effective: mask("effective", capabilities.effective())?,
        permitted: mask("permitted", capabilities.permitted())?,
        inheritable: mask("inheritable", capabilities.inheritable())?,
        ambient: mask("ambient", capabilities.ambient())?,
    };
    if masks.effective & !masks.permitted != 0 {
        return Err(ConfigError::invalid("process.capabilities.effective", "a part of permitted", capabilities));
    }
    // A capability is ambient only while it is permitted and inheritable (capabilities(7)); `crun spec` writes ambient ones
    // that are not inheritable, and every runtime starts that bundle without them.
    masks.ambient &= masks.permitted & masks.inheritable;
    Ok(masks)
}

fn limits(process: &Process) -> Result<Vec<Limit>, ConfigError> {
    let mut limits: Vec<Limit> = Vec::new();
    for (at, limit) in process.rlimits().iter().flatten().enumerate() {
        let name = limit.typ().to_string();
        if limits.iter().any(|seen| seen.name == name) {
            // config.md: "runtimes MUST generate an error" for a type that is given twice.
            return Err(ConfigError::invalid(format!("process.rlimits[{at}].type"), "each type once", name));
        }
        if limit.soft() > limit.hard() {
            return Err(ConfigError::invalid(format!("process.rlimits[{at}].soft"), "at most hard", limit.soft()));
        }
        limits.push(Limit { name, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(limits)
}
