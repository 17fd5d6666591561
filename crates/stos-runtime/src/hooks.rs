// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hooks: programs of the engine that run at certain moments of a container's life (config.md, "POSIX-platform Hooks").
//!
//! | kind | when | where | a failure |
//! |---|---|---|---|
//! | prestart, createRuntime | create: all is mounted, before pivot_root | the runtime's namespaces | ends create, and all is undone |
//! | createContainer | right after these | the container's namespaces, the host's files | as above |
//! | startContainer | start: before the command | the container, as its user | ends the container |
//! | poststart | start: the command runs | the runtime's namespaces | is logged |
//! | poststop | delete: its processes and cgroups are gone | the runtime's namespaces | is logged |
//!
//! Each gets the container's state on its standard input. The end of what it prints is kept in memory, and told where it fails.
//! startContainer hooks are under the container's seccomp filter and limits, as its command is.

mod talk;

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use stos_sys::process::child::block_no_signals;

use self::talk::Talk;
use crate::state::Status;

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// Its arguments, its own name the first; only the path where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its whole environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// After how many seconds it is killed, with its process group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// The hooks of a container, by their moments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Obsolete, and still what some engines use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    /// See the module.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// See the module.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    /// See the module.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// See the module.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// See the module.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the runtime's own process has some to run while the container is set up.
    pub fn any_before_pivot(&self) -> bool {
        !(self.prestart.is_empty() && self.create_runtime.is_empty() && self.create_container.is_empty())
    }

    /// Those that run after the launch, by other commands: what a container's record keeps.
    #[must_use]
    pub fn of_later_commands(&self) -> Self {
        Self { poststart: self.poststart.clone(), poststop: self.poststop.clone(), ..Self::default() }
    }
}

/// The moment of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookKind {
    /// See the module.
    Prestart,
    /// See the module.
    CreateRuntime,
    /// See the module.
    CreateContainer,
    /// See the module.
    StartContainer,
    /// See the module.
    Poststart,
    /// See the module.
    Poststop,
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        })
    }
}

/// A hook that has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("hooks.{hook}[{at}] {}: {reason}", path.display())]
pub struct HookFailure {
    /// Its moment.
    pub hook: HookKind,
    /// Its place in the list.
    pub at: usize,
    /// The program.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// The state that hooks are told (runtime.md, "State").
#[derive(Debug, Clone, Serialize)]
pub struct HookState<'a> {
    /// `ociVersion` of the configuration.
    #[serde(rename = "ociVersion")]
    pub oci_version: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// What it is doing.
    pub status: Status,
    /// Its first process, as the runtime sees it, or the container where the hook runs there; 0 where there is none, and then not told.
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    /// The bundle, absolute.
    pub bundle: &'a Path,
    /// Annotations, where there are any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<&'a str, &'a str>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// Runs the hooks of one moment, one after the other; the first that fails is the last.
pub fn run(kind: HookKind, hooks: &[Hook], state: &HookState<'_>) -> Result<(), HookFailure> {
    hooks.iter().enumerate().try_for_each(|(at, hook)| run_at(kind, at, hook, state))
}

/// Runs all hooks of one moment; those that fail are told in the log.
pub fn run_all(kind: HookKind, hooks: &[Hook], state: &HookState<'_>) {
    for (at, hook) in hooks.iter().enumerate() {
        if let Err(error) = run_at(kind, at, hook, state) {
            tracing::warn!(container = state.id, %error, "a hook has failed");
        }
    }
}

fn run_at(kind: HookKind, at: usize, hook: &Hook, state: &HookState<'_>) -> Result<(), HookFailure> {
    run_one(hook, state).map_err(|reason| HookFailure { hook: kind, at, path: hook.path.clone(), reason })
}

fn run_one(hook: &Hook, state: &HookState<'_>) -> Result<(), String> {
    let state = serde_json::to_vec(state).map_err(|error| error.to_string())?;
    let (mut talk, ends) = Talk::new(&state)?;
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command.env_clear().envs(hook.env.iter().map(|variable| variable.split_once('=').unwrap_or((variable, ""))));
    command.stdin(ends.input).stdout(ends.output).stderr(ends.errors).process_group(0);
    // Who stays with a container in the foreground keeps nearly all for it.
    block_no_signals(&mut command);
    let mut child = command.spawn().map_err(|error| format!("it cannot be executed: {error}"))?;
    // With it go our copies of the hook's ends.
    drop(command);
    let in_time = talk.until_end(&mut child, hook.timeout.map(Duration::from_secs));
    if !matches!(in_time, Ok(true))
        && let Some(pid) = pid_of(&child)
    {
        // It has not been reaped: the group is its own, or gone.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let ended = child.wait().map_err(|error| format!("wait: {error}"))?;
    let what = match (in_time?, ended.code(), ended.signal()) {
        (false, ..) => format!("it did not end within {} s", hook.timeout.unwrap_or_default()),
        (true, Some(0), _) => return Ok(()),
        (true, Some(code), _) => format!("exit code {code}"),
        (true, None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
    };
    Err(match talk.last_words() {
        said if said.is_empty() => what,
        said => format!("{what}: {said}"),
    })
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Whether a path could be a hook's: absolute, and without a NUL byte.
pub(crate) fn is_path(path: &Path) -> bool {
    path.is_absolute() && !path.as_os_str().as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> HookState<'static> {
        HookState {
            oci_version: "1.2.0",
            id: "box",
            status: Status::Stopped,
            pid: 0,
            bundle: Path::new("/bundle"),
            annotations: BTreeMap::new(),
        }
    }

    fn shell(script: &str) -> Hook {
        let args = ["named", "-c", script].map(str::to_owned).to_vec();
        Hook { path: "/bin/sh".into(), args, env: vec!["ONLY=this".into()], timeout: None }
    }

    #[test]
    fn a_hook_has_the_state_its_name_and_its_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let hook = shell(&format!("echo $0 $ONLY $HOME > {0}; /bin/cat >> {0}", out.display()));
        run(HookKind::Poststop, &[hook], &state()).unwrap();
        let said = std::fs::read_to_string(out).unwrap();
        let expected = r#"{"ociVersion":"1.2.0","id":"box","status":"stopped","bundle":"/bundle"}"#;
        assert_eq!(said, format!("named this\n{expected}"));
    }

    #[test]
    fn failures_are_told_with_the_last_words() {
        let later = shell("touch /no/such/file");
        let error = run(HookKind::Prestart, &[shell("true"), shell("echo oh; echo no >&2; exit 7"), later], &state());
        assert_eq!(error.unwrap_err().to_string(), "hooks.prestart[1] /bin/sh: exit code 7: oh; no");
        let error = run(HookKind::Poststart, &[shell("kill -9 $$")], &state()).unwrap_err();
        assert_eq!(error.reason, "killed by signal 9");
        let missing = Hook { path: "/no/such/hook".into(), args: vec![], env: vec![], timeout: None };
        let error = run(HookKind::Poststart, &[missing], &state()).unwrap_err();
        assert!(error.reason.starts_with("it cannot be executed"), "{error}");
    }

    #[test]
    fn hooks_may_leave_the_state_and_print_a_lot() {
        let long = "x".repeat(300_000);
        let annotations = BTreeMap::from([("long", long.as_str())]);
        let state = HookState { annotations, ..state() };
        let print = "head -c 200000 /dev/zero | tr '\\0' y; echo end";
        for script in ["exit 7".to_owned(), format!("{print}; exit 7"), format!("{print}; cat >/dev/null; exit 7")] {
            let error = run(HookKind::Prestart, &[shell(&script)], &state).unwrap_err();
            assert!(error.reason.starts_with("exit code 7") && error.reason.len() < 3000, "{}", error.reason.len());
            assert_eq!(error.reason.ends_with("yend"), script != "exit 7");
        }
        let all = shell("test $(wc -c) -gt 300000 || exit 9");
        run(HookKind::Prestart, &[all], &state).unwrap();
    }

    #[test]
    fn what_a_hook_leaves_behind_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        run(HookKind::Prestart, &[shell(&format!("/bin/sleep 1000 & echo $! > {}", pid.display()))], &state()).unwrap();
        let pid = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        // On a busy machine a second may end before the shell has begun.
        let pid = [1, 5, 30].into_iter().find_map(|seconds| {
            let mut hook = shell(&format!("/bin/sleep 1000 & echo $! > {}; wait", file.display()));
            hook.timeout = Some(seconds);
            let error = run(HookKind::CreateRuntime, &[hook], &state()).unwrap_err();
            assert_eq!(error.reason, format!("it did not end within {seconds} s"));
            std::fs::read_to_string(&file).ok()?.strip_suffix('\n')?.parse::<i32>().ok()
        });
        let pid = pid.unwrap();
        let is_dead = || stos_sys::process::identity::process_stat(pid).unwrap().is_none_or(|stat| stat.is_dead);
        while !is_dead() {
            std::thread::yield_now();
        }
    }
}
