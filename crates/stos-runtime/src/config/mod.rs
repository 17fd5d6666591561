// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A bundle's `config.json`, checked: what is asked for is honoured, or refused by name before anything is created. What no
//! version of the specification that we know asks for is told in the log, and ignored.
//!
//! [`walk`] looks at the raw JSON, so that no key is skipped without a word because a type does not know it; [`settings`] turns what
//! is left into the few types that the launch uses.

mod attributes;
mod changes;
mod devices;
mod hooks;
mod ids;
mod needed;
mod prepared;
mod process;
pub mod settings;
mod walk;

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};
use serde::de::DeserializeOwned;
use stos_spec::text::escape;

pub use attributes::{ExecAffinity, ProcessAttributes};
pub use changes::{ProcessChanges, ProcessFile};
pub use settings::{DeviceNode, JoinedNamespace, MountRequest, ProcessSettings, Settings};

use crate::cgroup::limits::LimitError;
use crate::seccomp::{self, Filter};
use walk::UnknownKey;

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
    /// It is no JSON.
    #[error("{document}: {source}")]
    Json {
        /// Where it stands.
        document: Document,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A value is of another type than its key, or none of the values that the key may have.
    #[error("{document}: {name}: {source}")]
    Type {
        /// Where it stands.
        document: Document,
        /// The key.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A known wish that this runtime does not fulfil.
    #[error("{document}: {name} is not supported")]
    Unsupported {
        /// Where it stands.
        document: Document,
        /// The key, from the root of a `config.json` on (`process.user.username`), with the value where that is what counts.
        name: String,
    },
    /// A value that breaks a rule of the specification.
    #[error("{document}: {name}: expected {expected}, found {found}")]
    Invalid {
        /// Where it stands.
        document: Document,
        /// The key.
        name: String,
        /// The rule.
        expected: String,
        /// The value.
        found: String,
    },
}

/// Where a value stands that cannot be honoured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Document {
    /// A bundle's `config.json`.
    #[default]
    Config,
    /// What describes the process of an `exec`: a file, or options.
    Process(Option<PathBuf>),
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config.json"),
            Self::Process(Some(path)) => path.display().fmt(f),
            Self::Process(None) => f.write_str("the process to execute"),
        }
    }
}

impl From<serde_json::Error> for ConfigError {
    fn from(source: serde_json::Error) -> Self {
        Self::Json { document: Document::default(), source: on_one_line(source) }
    }
}

impl ConfigError {
    pub(crate) fn invalid(name: impl Into<String>, expected: impl Into<String>, found: impl fmt::Debug) -> Self {
        let (name, expected, found) = (name.into(), expected.into(), format!("{found:?}"));
        Self::Invalid { document: Document::default(), name, expected, found }
    }

    pub(crate) fn unsupported(name: impl Into<String>) -> Self {
        Self::Unsupported { document: Document::default(), name: name.into() }
    }

    /// The same of a configuration whose `process` comes from elsewhere, and whose other values have been checked before.
    fn of_process(mut self, found: Document) -> Self {
        match &mut self {
            Self::Json { document, .. } => *document = found,
            Self::Unsupported { document, name }
            | Self::Invalid { document, name, .. }
            | Self::Type { document, name, .. }
                if is_of_process(name) =>
            {
                *document = found;
            }
            Self::Read { .. } | Self::Unsupported { .. } | Self::Invalid { .. } | Self::Type { .. } => {}
        }
        self
    }
}

fn is_of_process(name: &str) -> bool {
    name.strip_prefix("process").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Tells of keys that are ignored.
fn tell<'a>(unknown: impl IntoIterator<Item = &'a UnknownKey>) {
    for UnknownKey { name, known } in unknown {
        let key = name.escape_debug();
        match known {
            Some(known) => tracing::warn!(%key, known, "an unknown key is ignored: keys count in their own case"),
            None => tracing::warn!(%key, "an unknown key is ignored"),
        }
    }
}

/// Reads a `linux.resources` by itself, as `update` is given it. Unknown keys are ignored as in a `config.json`.
pub fn resources_from_json(bytes: &[u8]) -> Result<LinuxResources, LimitError> {
    let raw: serde_json::Value = serde_json::from_slice(bytes)?;
    let unknown = walk::check_resources(&raw).map_err(|error| match error {
        ConfigError::Invalid { name: key, expected, found, .. } => LimitError::Invalid { key, expected, found },
        ConfigError::Unsupported { name: key, .. } => LimitError::Unsupported { key },
        ConfigError::Json { source, .. } | ConfigError::Type { source, .. } => source.into(),
        ConfigError::Read { source, .. } => serde_json::Error::io(source).into(),
    })?;
    tell(&unknown);
    typed(&raw).map_err(|(key, source)| LimitError::Type { key: format!("linux.resources.{key}"), source })
}

/// Reads a value into its type. What does not fit is told with its key.
fn typed<T: DeserializeOwned>(raw: &serde_json::Value) -> Result<T, (String, serde_json::Error)> {
    // The way to each value is followed only where that is needed.
    T::deserialize(raw).or_else(|_| {
        serde_path_to_error::deserialize(raw)
            .map_err(|error| (escape(&error.path().to_string()).into_owned(), on_one_line(error.into_inner())))
    })
}

/// Escapes what the error quotes of the document as it stands there: serde's own messages do.
fn on_one_line(error: serde_json::Error) -> serde_json::Error {
    let text = error.to_string();
    match escape(&text) {
        Cow::Borrowed(_) => error,
        Cow::Owned(escaped) => serde::de::Error::custom(escaped),
    }
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

    /// Gives the process's terminal rows and columns instead of `process.consoleSize`.
    pub fn set_console_size(&mut self, size: (u16, u16)) {
        self.settings.process.console_size = Some(size);
    }

    /// Reads `config.json` in the directory `bundle`, unchecked.
    pub fn read(bundle: &Path) -> Result<Vec<u8>, ConfigError> {
        let path = bundle.join("config.json");
        fs::read(&path).map_err(|source| ConfigError::Read { path, source })
    }

    /// Checks the bytes of a `config.json`. Keys that are unknown are ignored, and told in the log.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        let (raw, filter) = prepared::read(bytes, |bytes| serde_json::from_slice(bytes))?;
        let (config, unknown) = Self::from_value(raw, filter)?;
        tell(&unknown);
        Ok(config)
    }

    /// Checks a configuration that an engine has put together, whose `linux.seccomp` is the text `profile`: by the same rules as its JSON,
    /// which need not be read again.
    pub fn of_parts(mut raw: serde_json::Value, profile: Option<&str>) -> Result<Self, ConfigError> {
        let filter = profile.and_then(seccomp::prepared::filter_of);
        if let (Some(profile), None) = (profile, &filter) {
            raw["linux"]["seccomp"] = serde_json::from_str(profile)?;
        }
        let (config, unknown) = Self::from_value(raw, filter)?;
        tell(&unknown);
        Ok(config)
    }

    /// Checks a value. `filter` is that of its `linux.seccomp`, where that has been taken out.
    fn from_value(mut raw: serde_json::Value, filter: Option<Filter>) -> Result<(Self, Vec<UnknownKey>), ConfigError> {
        let unknown = walk::check(&raw)?;
        if let Some(process) = raw.get_mut("process").and_then(serde_json::Value::as_object_mut) {
            process::default_user(process);
            process::leave_out_unknown_capabilities(process);
        }
        let attributes = ProcessAttributes::take_from(&mut raw)?;
        let spec: Spec =
            typed(&raw).map_err(|(name, source)| ConfigError::Type { document: Document::default(), name, source })?;
        let mut settings = Settings::of(&spec, attributes)?;
        settings.seccomp = filter.or(settings.seccomp);
        Ok((Self { spec, settings }, unknown))
    }

    /// Checks a specification built in memory, by the same rules as its JSON.
    pub fn from_spec(spec: &Spec) -> Result<Self, ConfigError> {
        Self::from_json(&serde_json::to_vec(spec)?)
    }

    /// Gives the path of a namespace that the configuration says is joined, of the kind `flag` (its `CLONE_NEW*` bit): an engine knows it
    /// only at the start. What the configuration does not join stays as it is.
    pub fn join_namespace(&mut self, flag: u64, path: PathBuf) {
        let joined = self.settings.joined_namespaces.iter_mut().find(|joined| joined.flag as u64 == flag);
        if let Some(joined) = joined {
            joined.path = path;
        }
    }

    /// The specification as given, without what [`ProcessAttributes`] holds, and without a `linux.seccomp` whose filter is
    /// [prepared](crate::seccomp::default_profile).
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What the launch honours of it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_quotes_breaks_no_line() {
        let with = |linux: &str| {
            let config = format!(r#"{{"ociVersion":"1.2.0","root":{{"path":"/"}},"linux":{{{linux}}}}}"#);
            RuntimeConfig::from_json(config.as_bytes()).unwrap_err().to_string()
        };
        for (linux, quoted) in [
            (r#""seccomp":{"defaultAction":"x\nhint: y\u007f"}"#, r"`x\nhint: y\u{7f}`"),
            (r#""sysctl":{"a\u001b[2J":1}"#, r"a\u{1b}[2J"),
        ] {
            let error = with(linux);
            assert!(error.contains(quoted) && !error.contains(char::is_control), "{error:?}");
        }
    }
}
