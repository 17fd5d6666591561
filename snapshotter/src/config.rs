// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The configuration file. All of it may be left out; what nobody knows in it is refused by name.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::error::{Error, Result};

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// How registries are reached.
    pub registry: RegistrySettings,
    /// How images are pulled.
    pub pull: PullSettings,
    /// What becomes of images.
    pub images: ImageSettings,
    /// Where metrics are told.
    pub metrics: MetricsSettings,
    /// The log.
    pub log: LogSettings,
    /// The end.
    pub stop: StopSettings,
}

/// How registries are reached, over what `registries.conf` and its like say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegistrySettings {
    /// The one file of credentials (`--authfile` of `stos pull`).
    pub authfile: Option<PathBuf>,
    /// The one directory of certificates (`--cert-dir`).
    pub cert_dir: Option<PathBuf>,
    /// The one file that says which images are accepted (`--signature-policy`).
    pub signature_policy: Option<PathBuf>,
    /// Whether TLS is verified (`--tls-verify`).
    pub tls_verify: Option<bool>,
}

/// How images are pulled.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PullSettings {
    /// Whether the snapshotter pulls at all; else containerd does, but for what the store has.
    pub enabled: bool,
    /// How many layers at a time.
    pub jobs: Option<NonZeroU16>,
    /// Whether the blobs of layers are kept.
    pub keep_blobs: bool,
    /// How long an image whose pull has failed is left to containerd.
    #[serde(rename = "retry-after-seconds", deserialize_with = "seconds")]
    pub retry_after: Duration,
}

impl Default for PullSettings {
    fn default() -> Self {
        Self { enabled: true, jobs: None, keep_blobs: false, retry_after: Duration::from_secs(60) }
    }
}

/// What becomes of images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImageSettings {
    /// Whether images that came for containerd stay when it needs them no more.
    pub keep: bool,
}

/// Where metrics are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MetricsSettings {
    /// `HOST:PORT`, or `unix:PATH`.
    pub address: Option<String>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or parts with a level each: `info,stos_layerfs=debug`.
    pub level: String,
    /// How its lines look.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}

impl LogSettings {
    /// Reads the level.
    ///
    /// # Errors
    /// The reason, where it is none.
    pub fn targets(&self) -> std::result::Result<Targets, String> {
        let targets: Targets = self.level.parse().map_err(|error| format!("log.level is {:?}: {error}", self.level))?;
        let named: Vec<String> = targets.iter().map(|(target, _)| target.to_owned()).collect();
        // Each frame of each connection is nobody's debug log, unless it is asked for by name.
        let quiet = ["h2", "hyper", "tower"].into_iter().filter(|target| !named.iter().any(|name| name == target));
        Ok(targets.with_targets(quiet.map(|target| (target, LevelFilter::WARN))))
    }
}

/// How the log's lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// An object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// The end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StopSettings {
    /// How long calls that are under way are waited for after SIGTERM.
    #[serde(rename = "timeout-seconds", deserialize_with = "seconds")]
    pub timeout: Duration,
}

impl Default for StopSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30) }
    }
}

fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Duration, D::Error> {
    u32::deserialize(deserializer).map(|seconds| Duration::from_secs(seconds.into()))
}

impl Settings {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn read(path: &Path) -> Result<Self> {
        let refuse = |reason: String| Error::Config { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        Self::parse(&text).map_err(refuse)
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let settings: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.log.targets()?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_may_be_left_out() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        assert!(Settings::default().pull.enabled);
    }

    #[test]
    fn the_example_says_what_the_defaults_are() {
        let text = include_str!("../stos-snapshotter.toml");
        assert_eq!(Settings::parse(text).unwrap(), Settings::default());
        let all: String = text.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n").collect();
        let settings = Settings::parse(&all).unwrap();
        assert!(settings.registry.authfile.is_some() && settings.metrics.address.is_some(), "{settings:?}");
        assert_eq!(settings.pull.jobs, NonZeroU16::new(4));
    }

    #[test]
    fn what_nobody_knows_is_refused_by_name() {
        for (text, named) in [
            ("x = 1", "x"),
            ("[pull]\njob = 1", "job"),
            ("[pull]\njobs = 0", "nonzero"),
            ("[log]\nlevel = \"stos=loud\"", "log.level"),
            ("[log]\nformat = \"xml\"", "xml"),
            ("[stop]\ntimeout-seconds = -1", "-1"),
        ] {
            let error = Settings::parse(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Settings::read(Path::new("/no/such.toml")).unwrap_err();
        assert!(matches!(&error, Error::Config { .. }) && error.to_string().contains("/no/such.toml"), "{error}");
    }
}
