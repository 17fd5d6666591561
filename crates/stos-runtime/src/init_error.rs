// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a container's first process reports when it cannot run its command: JSON over a pipe, typed on both sides.

use std::path::PathBuf;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stos_sys::SysError;

use crate::hooks::HookFailure;

/// A failed system call, as it travels between processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{call}({arguments}): {}", Errno::from_raw_os_error(*errno))]
pub struct SysFailure {
    /// The system call.
    pub call: String,
    /// Its arguments.
    pub arguments: String,
    /// The kernel's answer.
    pub errno: i32,
}

impl SysFailure {
    /// The kernel's answer.
    pub fn errno(&self) -> Errno {
        Errno::from_raw_os_error(self.errno)
    }
}

impl From<SysError> for SysFailure {
    fn from(error: SysError) -> Self {
        Self { call: error.call.to_owned(), arguments: error.arguments, errno: error.errno.raw_os_error() }
    }
}

/// Why a process of a container cannot run its command.
///
/// Engines tell errors by runc's words: podman (`getOCIRuntimeError`) and moby look for "executable file not found in $PATH", "no such
/// file or directory" and "permission denied" to give 127 and 126. So those are said too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum InitError {
    /// The command is in no directory of PATH.
    #[error("command {command:?} not found in PATH={path} (executable file not found in $PATH)")]
    CommandNotInPath {
        /// As asked for.
        command: String,
        /// Where it was looked for.
        path: String,
    },
    /// The command is a path, and part of it is not there.
    #[error("command {command:?} not found: {} does not exist (no such file or directory)", missing.display())]
    CommandMissing {
        /// As asked for.
        command: String,
        /// The first part of its path that is missing.
        missing: PathBuf,
    },
    /// The command is there, and what should interpret it is not.
    #[error("command {command:?} cannot run: its interpreter {} does not exist", interpreter.display())]
    InterpreterMissing {
        /// As asked for.
        command: String,
        /// The missing script interpreter or dynamic linker.
        interpreter: PathBuf,
    },
    /// The command is there and cannot be executed.
    #[error("command {command:?} cannot be executed: {reason}")]
    NotExecutable {
        /// As asked for.
        command: String,
        /// Why not.
        reason: String,
    },
    /// The working directory cannot be one.
    #[error("working directory {}: {reason}", cwd.display())]
    WorkingDirectory {
        /// As asked for.
        cwd: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A user or group name that the container's own files do not explain.
    #[error("{what} {name:?} not found in the container's {file}")]
    NoSuchPrincipal {
        /// "user" or "group".
        what: String,
        /// The name.
        name: String,
        /// The file that was read.
        file: String,
    },
    /// `/etc/passwd` or `/etc/group` is nothing that can be read: no regular file, or too large (CVE-2024-9676).
    #[error("the container's {file} cannot be read: {reason}")]
    AccountFile {
        /// The file.
        file: String,
        /// Why not.
        reason: String,
    },
    /// A mount of `mounts` failed.
    #[error("mount {fstype} from {mount_source:?} at {destination:?} (options {}): {reason}", options.join(","))]
    Mount {
        /// Where it should be, inside the container.
        destination: PathBuf,
        /// From where.
        mount_source: PathBuf,
        /// The filesystem type, `bind` for binds.
        fstype: String,
        /// The options asked for.
        options: Vec<String>,
        /// What failed.
        reason: SysFailure,
    },
    /// A mount in procfs that could hide or fake what the kernel says (CVE-2019-19921, CVE-2019-16884).
    #[error("mount at {destination:?} refused: {rule}")]
    MountRefused {
        /// Where it should be.
        destination: PathBuf,
        /// The rule that it breaks.
        rule: String,
    },
    /// The bundle wants to change a namespace that is its caller's, given by path.
    #[error("{key}: it would change the host, whose namespace {} is", path.display())]
    HostNamespace {
        /// The key of `config.json`.
        key: String,
        /// The namespace.
        path: PathBuf,
    },
    /// What should be masked, or made read-only, is not what it must be (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881).
    #[error("{path:?} is not on {expected}: it cannot be protected")]
    NotProtected {
        /// The path inside the container.
        path: PathBuf,
        /// The filesystem that it must be on.
        expected: String,
    },
    /// A device node whose name is taken by something else.
    #[error("device {path:?} cannot be made: {reason}")]
    Device {
        /// Its path inside the container.
        path: PathBuf,
        /// Why not.
        reason: SysFailure,
    },
    /// A hook that the first process runs has failed.
    #[error(transparent)]
    Hook(#[from] HookFailure),
    /// A label for a security module that this machine does not have.
    #[error("{key}: {module} is not enabled on this machine")]
    NoSecurityModule {
        /// The key of `config.json`.
        key: String,
        /// The module.
        module: String,
    },
    /// A step of the setup failed.
    #[error("{stage}: {reason}")]
    Step {
        /// What was being done.
        stage: String,
        /// What failed.
        reason: SysFailure,
    },
    /// The setup code panicked.
    #[error("the setup of the container's first process panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
}

impl InitError {
    /// Gives a closure for `map_err` that says in which step a call failed.
    pub(crate) fn step(stage: impl Into<String>) -> impl FnOnce(SysError) -> Self {
        let stage = stage.into();
        move |error| Self::Step { stage, reason: error.into() }
    }

    /// 127 for a command that is not there, 126 for one that cannot be executed, as shells and engines have it.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::CommandNotInPath { .. } | Self::CommandMissing { .. } | Self::InterpreterMissing { .. } => Some(127),
            Self::NotExecutable { .. } => Some(126),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_pipe() {
        let failure = SysFailure { call: "openat2".into(), arguments: "/x".into(), errno: Errno::LOOP.raw_os_error() };
        let sent = InitError::Mount {
            destination: "/data".into(),
            mount_source: "/srv".into(),
            fstype: "bind".into(),
            options: vec!["rbind".into()],
            reason: failure,
        };
        let received: InitError = serde_json::from_slice(&serde_json::to_vec(&sent).unwrap()).unwrap();
        assert_eq!(received, sent);
        assert!(received.to_string().contains("/data"), "{received}");
        assert_eq!(received.exit_code(), None);
    }

    #[test]
    fn what_is_not_there_is_127_and_what_cannot_run_is_126() {
        let gone = InitError::CommandMissing { command: "/a/b".into(), missing: "/a".into() };
        assert_eq!(gone.exit_code(), Some(127));
        let data = InitError::NotExecutable { command: "/a".into(), reason: "no permission".into() };
        assert_eq!(data.exit_code(), Some(126));
    }
}
