// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Why a limit cannot be set.

use std::path::PathBuf;

use stos_sys::SysError;

use super::super::Version;

/// A limit that cannot be set, by its key in `linux.resources`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// The resources are no JSON.
    #[error("resources: {0}")]
    Json(#[from] serde_json::Error),
    /// A value is of another type than its key, or none of the values that the key may have.
    #[error("{key}: {source}")]
    Type {
        /// The key.
        key: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A known wish that this runtime does not fulfil.
    #[error("{key} is not supported")]
    Unsupported {
        /// The key.
        key: String,
    },
    /// A value that breaks a rule of the specification, or that cgroups cannot express.
    #[error("{key}: expected {expected}, found {found}")]
    Invalid {
        /// The key.
        key: String,
        /// The rule.
        expected: String,
        /// The value.
        found: String,
    },
    /// The controller is neither mounted (v1) nor one of the v2 tree's.
    #[error("{key}: no cgroup hierarchy has the controller {controller}")]
    NoController {
        /// The key.
        key: String,
        /// The controller's name.
        controller: String,
    },
    /// The controller knows no such limit in this version of cgroups.
    #[error("{key}: cgroup {version} has no such limit")]
    NotInVersion {
        /// The key.
        key: String,
        /// The version of the hierarchy.
        version: Version,
    },
    /// The kernel offers no such file.
    #[error("{key}: this kernel has no {}", path.display())]
    NoFile {
        /// The key.
        key: String,
        /// The control file.
        path: PathBuf,
    },
    /// The kernel refused the value: too much for this machine, or for what is in use.
    #[error("{key}: the kernel refuses {text:?}: {source}{}", usage.map(|usage| format!(" ({usage} is in use)")).unwrap_or_default())]
    Refused {
        /// The key.
        key: String,
        /// What was written.
        text: String,
        /// The failed call, with the file.
        source: SysError,
        /// For memory: what is in use, in bytes.
        usage: Option<u64>,
    },
    /// The kernel took another value than the one that was written.
    #[error("{key}: {}: expected {text}, but the kernel makes it {found}", path.display())]
    Clamped {
        /// The key.
        key: String,
        /// The control file.
        path: PathBuf,
        /// What was written.
        text: String,
        /// What it holds now.
        found: String,
    },
    /// More is in use than the new limit allows, and `checkBeforeUpdate` forbids to set it then.
    #[error("{key}: expected at least the {usage} in use, found {asked}")]
    InUse {
        /// The key.
        key: String,
        /// What is in use.
        usage: u64,
        /// The limit.
        asked: u64,
    },
}

impl LimitError {
    pub(crate) fn invalid(key: &str, expected: &str, found: impl std::fmt::Debug) -> Self {
        Self::Invalid { key: key.to_owned(), expected: expected.to_owned(), found: format!("{found:?}") }
    }
}
