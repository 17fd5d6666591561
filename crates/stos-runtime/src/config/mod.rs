// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A bundle's `config.json`, checked: what is asked for is honoured, or refused by name before anything is created.
//!
//! [`walk`] looks at the raw JSON, so that no key is skipped because a type does not know it; [`settings`] turns what is
//! left into the few types that the launch uses.

mod attributes;
mod changes;
mod hooks;
mod ids;
mod process;
pub mod settings;
mod walk;

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

pub use attributes::{ExecAffinity, ProcessAttributes};
pub use changes::ProcessChanges;
pub use settings::{DeviceNode, JoinedNamespace, MountRequest, ProcessSettings, Settings};

use crate::cgroup::limits::LimitError;

/// Why a `config.json` cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no JSON, or a value has the wrong type.
    #[error("config.json: {0}")]
    Json(#[from] serde_json::Error),
    /// A key that this runtime does not know. To leave it out could leave out what keeps a container in.
    #[error("config.json: {name}: unknown key")]
    Unknown {
        /// The key, from the root on: `process.umask`.
        name: String,
    },
    /// A known wish that this runtime does not fulfil.
    #[error("config.json: {name} is not supported")]
    Unsupported {
        /// The key, with the value where that is what counts.
        name: String,
    },
    /// A value that breaks a rule of the specification.
    #[error("config.json: {name}: expected {expected}, found {found}")]
    Invalid {
        /// The key.
        name: String,
        /// The rule.
        expected: String,
        /// The value.
        found: String,
    },
}

impl ConfigError {
    pub(crate) fn invalid(name: impl Into<String>, expected: impl Into<String>, found: impl std::fmt::Debug) -> Self {
        Self::Invalid { name: name.into(), expected: expected.into(), found: format!("{found:?}") }
    }

    pub(crate) fn unsupported(name: impl Into<String>) -> Self {
        Self::Unsupported { name: name.into() }
    }
}

/// Reads a `linux.resources` by itself, as `update` is given it. What no key is known for is refused as in a `config.json`.
pub fn resources_from_json(bytes: &[u8]) -> Result<LinuxResources, LimitError> {
    let raw: serde_json::Value = serde_json::from_slice(bytes)?;
    walk::check_resources(&raw).map_err(|error| match error {
        ConfigError::Invalid { name: key, expected, found } => LimitError::Invalid { key, expected, found },
        ConfigError::Unknown { name: key } | ConfigError::Unsupported { name: key } => LimitError::Unknown { key },
        ConfigError::Json(error) => error.into(),
        ConfigError::Read { source, .. } => serde_json::Error::io(source).into(),
    })?;
    Ok(serde_json::from_value(raw)?)
}

/// A `config.json` that has passed every check: what it asks for can be honoured by this runtime.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    spec: Spec,
    settings: Settings,
}

impl RuntimeConfig {
    /// Reads and checks `config.json` in the directory `bundle`.
    pub fn load(bundle: &Path) -> Result<Self, ConfigError> {
        Self::from_json(&Self::read(bundle)?)
    }

    /// Reads `config.json` in the directory `bundle`, unchecked.
    pub fn read(bundle: &Path) -> Result<Vec<u8>, ConfigError> {
        let path = bundle.join("config.json");
        fs::read(&path).map_err(|source| ConfigError::Read { path, source })
    }

    /// Checks the bytes of a `config.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::from_value(serde_json::from_slice(bytes)?)
    }

    fn from_value(mut raw: serde_json::Value) -> Result<Self, ConfigError> {
        walk::check(&raw)?;
        let attributes = ProcessAttributes::take_from(&mut raw)?;
        let spec: Spec = serde_json::from_value(raw)?;
        let settings = Settings::of(&spec, attributes)?;
        Ok(Self { spec, settings })
    }

    /// Checks a specification built in memory, by the same rules as its JSON.
    pub fn from_spec(spec: &Spec) -> Result<Self, ConfigError> {
        Self::from_json(&serde_json::to_vec(spec)?)
    }

    /// The specification as given, without what [`ProcessAttributes`] holds.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What the launch honours of it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
