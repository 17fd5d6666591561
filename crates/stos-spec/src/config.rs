// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The image configuration and the rules it must keep (image-spec, config.md; Docker's is the same with more fields).

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::bounded::{List, Map};
use crate::digest::{DiffId, DigestError};
use crate::document::{self, DEPTH_MAX, DocumentError};
use crate::healthcheck::Healthcheck;
use crate::platform::{Platform, PlatformError};
use crate::text::{cut, shown};
use crate::user::{UserError, UserSpec};

/// The largest configuration, in bytes: a bound for what a registry may make us hold.
pub const CONFIG_MAX: u64 = 8 << 20;

/// An image configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is not the JSON that it should be.
    #[error("the image configuration is not valid: {reason}")]
    Json {
        /// What the parser says, with line and column. It quotes the document, so it is cut.
        reason: String,
    },
    /// Values lie in values deeper than any real document's, which some readers do not survive.
    #[error("the image configuration is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// A name stands twice in an object, maybe once in other case: readers differ in which of them counts.
    #[error("the image configuration is ambiguous: it has {name:?} twice in one object, maybe in other case")]
    DuplicateName {
        /// The name, the second time.
        name: String,
    },
    /// A name of configurations is written in other case: some readers take it for that, others pass it over.
    #[error(
        "the image configuration is ambiguous: it has {found:?}, which some readers take for {expected:?} and others for nothing"
    )]
    NameCase {
        /// What stands there.
        found: String,
        /// The name as it is written.
        expected: &'static str,
    },
    /// Its `rootfs.type` is not `layers`.
    #[error("the image configuration has rootfs.type {found:?}, expected \"layers\"")]
    RootfsType {
        /// The type found.
        found: String,
    },
    /// A diffID is no digest.
    #[error("rootfs.diff_ids[{index}]: {source}")]
    DiffId {
        /// Its place, from 0.
        index: usize,
        /// What is wrong with it.
        source: DigestError,
    },
    /// There are more or fewer diffIDs than layers.
    #[error("the image configuration has {found} diff_ids, but the manifest has {expected} layers")]
    DiffIdCount {
        /// The manifest's layers.
        expected: usize,
        /// The configuration's diffIDs.
        found: usize,
    },
    /// Its platform cannot be one.
    #[error("the image configuration: {0}")]
    BadPlatform(#[source] PlatformError),
    /// It names no platform, though the specification has it do so (config.md: `os` and `architecture` are required).
    #[error("the image configuration has no {missing}, expected platform {expected}")]
    NoPlatform {
        /// What is missing: `os` or `architecture`.
        missing: &'static str,
        /// The platform asked for.
        expected: Platform,
    },
    /// The image is for another platform.
    #[error("the image is for platform {found}, expected {expected}")]
    Platform {
        /// The platform asked for.
        expected: Platform,
        /// The image's.
        found: Platform,
    },
    /// An environment entry is not `NAME=VALUE`.
    #[error("config.Env[{index}] is {found:?}, expected NAME=VALUE")]
    Env {
        /// Its place, from 0.
        index: usize,
        /// What stands there.
        found: String,
    },
    /// The working directory is not absolute.
    #[error("config.WorkingDir is {found:?}, expected an absolute path")]
    WorkingDir {
        /// What stands there.
        found: String,
    },
    /// A volume is not a directory below the container's root.
    #[error("config.Volumes has {found:?}, expected an absolute path below \"/\", without \"..\"")]
    Volume {
        /// What stands there.
        found: String,
    },
    /// The user cannot be used.
    #[error("config.User: {0}")]
    User(#[source] UserError),
    /// A string holds a NUL byte, which no process can be given.
    #[error("config.{field} holds a NUL byte: {found:?}")]
    Nul {
        /// The field's name.
        field: &'static str,
        /// What stands there.
        found: String,
    },
}

/// An image configuration whose rules have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// When the image was made, as written (RFC 3339). What is no time is none.
    pub created: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// What it runs on.
    pub platform: Platform,
    /// Its layers, the lowest first.
    pub diff_ids: Vec<DiffId>,
    /// How each layer came to be.
    pub history: Vec<History>,
    /// Whom it runs as.
    pub user: UserSpec,
    /// The user as written; empty for none.
    pub user_text: String,
    /// The environment, `NAME=VALUE` each.
    pub env: Vec<String>,
    /// What always runs.
    pub entrypoint: Vec<String>,
    /// What follows it unless the user says otherwise.
    pub cmd: Vec<String>,
    /// Where it runs; empty for `/`.
    pub working_dir: String,
    /// Directories that get volumes, sorted.
    pub volumes: Vec<String>,
    /// Ports it listens on, sorted.
    pub exposed_ports: Vec<String>,
    /// The signal that asks it to stop, as written.
    pub stop_signal: Option<String>,
    /// How its health is checked.
    pub healthcheck: Option<Healthcheck>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A line of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, as written (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(default)]
    pub empty_layer: bool,
}

#[derive(Deserialize)]
struct RawConfig {
    created: Option<String>,
    author: Option<String>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    rootfs: RawRootfs,
    #[serde(default)]
    history: Option<List<History>>,
    #[serde(default)]
    config: Option<RawProcess>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: List<String>,
}

/// Docker writes `null` where the specification leaves a field out.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawProcess {
    user: Option<String>,
    env: Option<List<String>>,
    entrypoint: Option<List<String>>,
    cmd: Option<List<String>>,
    working_dir: Option<String>,
    volumes: Option<Map<IgnoredAny>>,
    exposed_ports: Option<Map<IgnoredAny>>,
    stop_signal: Option<String>,
    healthcheck: Option<Healthcheck>,
    labels: Option<Map<String>>,
}

impl ImageConfig {
    /// Reads a configuration and checks every rule that needs no other document.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        document::check(bytes, &document::CONFIG).map_err(|error| match error {
            DocumentError::Json(reason) => ConfigError::Json { reason },
            DocumentError::TooDeep => ConfigError::TooDeep,
            DocumentError::DuplicateName(name) => ConfigError::DuplicateName { name },
            DocumentError::NameCase { found, expected } => ConfigError::NameCase { found, expected },
        })?;
        let raw: RawConfig =
            serde_json::from_slice(bytes).map_err(|error| ConfigError::Json { reason: shown(&error.to_string()) })?;
        if raw.rootfs.kind != "layers" {
            return Err(ConfigError::RootfsType { found: cut(&raw.rootfs.kind) });
        }
        let diff_ids = raw.rootfs.diff_ids.0.iter().enumerate();
        let diff_ids =
            diff_ids.map(|(index, text)| text.parse().map_err(|source| ConfigError::DiffId { index, source }));
        let process = raw.config.unwrap_or_default();
        let user_text = process.user.unwrap_or_default();
        let config = Self {
            created: raw.created.filter(|time| time.parse::<jiff::Timestamp>().is_ok()),
            author: raw.author,
            platform: Platform::of_image(&raw.os, &raw.architecture, raw.variant.as_deref())
                .map_err(ConfigError::BadPlatform)?,
            diff_ids: diff_ids.collect::<Result<_, _>>()?,
            history: raw.history.unwrap_or_default().0,
            user: user_text.parse().map_err(ConfigError::User)?,
            user_text,
            env: process.env.unwrap_or_default().0,
            entrypoint: process.entrypoint.unwrap_or_default().0,
            cmd: process.cmd.unwrap_or_default().0,
            working_dir: process.working_dir.unwrap_or_default(),
            volumes: process.volumes.unwrap_or_default().0.into_keys().collect(),
            exposed_ports: process.exposed_ports.unwrap_or_default().0.into_keys().collect(),
            stop_signal: process.stop_signal.filter(|signal| !signal.is_empty()),
            healthcheck: process.healthcheck,
            labels: process.labels.unwrap_or_default().0,
        };
        config.check_process()?;
        Ok(config)
    }

    fn check_process(&self) -> Result<(), ConfigError> {
        let fields =
            [("Env", &self.env), ("Entrypoint", &self.entrypoint), ("Cmd", &self.cmd), ("Volumes", &self.volumes)];
        let no_check = Healthcheck::default();
        let test = ("Healthcheck.Test", &self.healthcheck.as_ref().unwrap_or(&no_check).test);
        for (field, values) in fields.into_iter().chain([test]) {
            if let Some(found) = values.iter().find(|value| value.contains('\0')) {
                return Err(ConfigError::Nul { field, found: cut(found) });
            }
        }
        for (index, entry) in self.env.iter().enumerate() {
            if entry.find('=').is_none_or(|at| at == 0) {
                return Err(ConfigError::Env { index, found: cut(entry) });
            }
        }
        if !self.working_dir.is_empty() && (!self.working_dir.starts_with('/') || self.working_dir.contains('\0')) {
            return Err(ConfigError::WorkingDir { found: cut(&self.working_dir) });
        }
        let is_bad = |path: &&String| {
            let is_root = path.split('/').all(|part| part.is_empty() || part == ".");
            is_root || !path.starts_with('/') || path.split('/').any(|part| part == "..")
        };
        match self.volumes.iter().find(is_bad) {
            Some(found) => Err(ConfigError::Volume { found: cut(found) }),
            None => Ok(()),
        }
    }

    /// Checks the configuration against its manifest's number of layers.
    pub fn check_layer_count(&self, layers: usize) -> Result<(), ConfigError> {
        if self.diff_ids.len() == layers {
            return Ok(());
        }
        Err(ConfigError::DiffIdCount { expected: layers, found: self.diff_ids.len() })
    }

    /// Checks that the image runs on `wanted`. The variant counts only where the configuration writes one: many leave it to
    /// the index that led here.
    pub fn check_platform(&self, wanted: &Platform) -> Result<(), ConfigError> {
        if wanted.fit(&self.platform).is_some() {
            return Ok(());
        }
        let expected = wanted.clone();
        let words = [("os", &self.platform.os), ("architecture", &self.platform.architecture)];
        match words.into_iter().find(|(_, word)| word.is_empty()) {
            Some((missing, _)) => Err(ConfigError::NoPlatform { missing, expected }),
            None => Err(ConfigError::Platform { expected, found: self.platform.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config() -> Value {
        json!({"os": "linux", "architecture": "amd64", "config": {"Env": ["PATH=/bin"], "Cmd": null, "Volumes": null,
            "User": "1000:1000", "WorkingDir": "/srv", "Entrypoint": ["sh"], "Healthcheck": {"Test": ["NONE"]}},
            "rootfs": {"type": "layers", "diff_ids": [DiffId::of(b"x").to_string()]},
            "history": [{"created_by": "ADD x", "empty_layer": true}]})
    }

    fn parse(value: &Value) -> Result<ImageConfig, ConfigError> {
        ImageConfig::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_configuration_is_read() {
        let config = parse(&config()).unwrap();
        assert_eq!(config.user.to_string(), "1000:1000");
        assert_eq!(config.cmd, Vec::<String>::new());
        assert_eq!(config.healthcheck.as_ref().unwrap().test, ["NONE"]);
        assert!(config.history[0].empty_layer);
        config.check_layer_count(1).unwrap();
        assert!(matches!(config.check_layer_count(2), Err(ConfigError::DiffIdCount { expected: 2, found: 1 })));
        config.check_platform(&Platform::new("linux", "x86_64", None)).unwrap();
        let other = Platform::new("linux", "arm64", None);
        assert!(matches!(config.check_platform(&other), Err(ConfigError::Platform { .. })));
    }

    #[test]
    fn each_rule_has_its_own_error() {
        let broken = |path: &str, value: Value| {
            let mut config = config();
            *config.pointer_mut(path).unwrap() = value;
            parse(&config).unwrap_err()
        };
        assert!(matches!(broken("/rootfs/type", json!("tree")), ConfigError::RootfsType { .. }));
        assert!(matches!(broken("/rootfs/diff_ids/0", json!("md5:1")), ConfigError::DiffId { index: 0, .. }));
        assert!(matches!(broken("/config/Env", json!(["A=", "B"])), ConfigError::Env { index: 1, .. }));
        assert!(matches!(broken("/config/Env", json!(["=x"])), ConfigError::Env { .. }));
        assert!(matches!(broken("/config/WorkingDir", json!("srv")), ConfigError::WorkingDir { .. }));
        assert!(matches!(broken("/config/Volumes", json!({"/a/../..": {}})), ConfigError::Volume { .. }));
        assert!(matches!(broken("/config/User", json!("4294967296")), ConfigError::User(_)));
        assert!(matches!(broken("/config/Entrypoint", json!(["a\u{0}b"])), ConfigError::Nul { .. }));
        assert!(matches!(broken("/config/Env", json!("x")), ConfigError::Json { .. }));
        assert!(matches!(broken("/config/Healthcheck", json!({"Test": "x"})), ConfigError::Json { .. }));
        assert!(matches!(broken("/config/Healthcheck", json!({"Test": ["a\u{0}"]})), ConfigError::Nul { .. }));
        let deep = serde_json::from_str::<Value>(&format!("{}{}", "[".repeat(101), "]".repeat(101))).unwrap();
        assert!(matches!(broken("/config/Healthcheck", deep), ConfigError::TooDeep));
        assert!(matches!(broken("/os", json!("linux\u{1b}[2J")), ConfigError::BadPlatform(_)));
        for root in ["/", "//", "/.", "/./"] {
            assert!(matches!(broken("/config/Volumes", json!({ root: {} })), ConfigError::Volume { .. }), "{root}");
        }
    }

    #[test]
    fn no_name_stands_twice() {
        let text = config().to_string();
        for (case, document) in [
            ("User", text.replacen("\"User\"", "\"User\":\"0\",\"User\"", 1)),
            ("rootfs", text.replacen("\"rootfs\"", "\"rootfs\":{},\"rootfs\"", 1)),
            ("x", text.replacen('{', "{\"X\":1,\"x\":2,", 1)),
        ] {
            let error = ImageConfig::parse(document.as_bytes()).unwrap_err();
            let ConfigError::DuplicateName { name } = &error else { panic!("{case}: {error}") };
            assert!(name.eq_ignore_ascii_case(case), "{case}: {name}");
        }
        let mut labelled = config();
        labelled["config"]["Labels"] = json!({"Maintainer": "a", "maintainer": "b"});
        assert_eq!(parse(&labelled).unwrap().labels.len(), 2);
    }

    #[test]
    fn names_are_written_in_their_own_case() {
        let text = config().to_string();
        for (document, wrong, right) in [
            (text.replacen("\"User\"", "\"user\"", 1), "user", "User"),
            (text.replacen("\"Env\"", "\"env\"", 1), "env", "Env"),
            (text.replacen("\"User\"", "\"user\":\"0\",\"User\"", 1), "user", "User"),
            (text.replacen("\"rootfs\"", "\"RootFS\":{},\"rootfs\"", 1), "RootFS", "rootfs"),
        ] {
            let error = ImageConfig::parse(document.as_bytes()).unwrap_err();
            let ConfigError::NameCase { found, expected } = &error else { panic!("{wrong}: {error}") };
            assert_eq!((found.as_str(), *expected), (wrong, right));
        }
    }

    #[test]
    fn no_platform_is_told_as_such() {
        let wanted = Platform::new("linux", "amd64", None);
        for (field, others) in [("os", "architecture"), ("architecture", "os")] {
            for nothing in [None, Some(json!(""))] {
                let mut config = config();
                config.as_object_mut().unwrap().remove(field);
                config.as_object_mut().unwrap().extend(nothing.map(|value| (field.to_owned(), value)));
                let error = parse(&config).unwrap().check_platform(&wanted).unwrap_err();
                assert!(matches!(&error, ConfigError::NoPlatform { missing, .. } if *missing == field), "{error}");
                assert!(!error.to_string().contains(&format!("no {others}")), "{error}");
            }
        }
    }

    #[test]
    fn errors_are_short_and_move_no_cursor() {
        let long = format!("\u{1b}[2J{}", "x".repeat(1 << 20));
        for (path, value) in [
            ("/rootfs/type", json!(long)),
            ("/rootfs/diff_ids/0", json!(long)),
            ("/rootfs/diff_ids", json!(long)),
            ("/os", json!(long)),
            ("/config/Env", json!([long])),
            ("/config/Cmd", json!([format!("{long}\0")])),
            ("/config/WorkingDir", json!(long)),
            ("/config/Volumes", json!({ &long: {} })),
            ("/config/User", json!(long)),
            ("/config/User", json!("9".repeat(1 << 20))),
        ] {
            let mut config = config();
            *config.pointer_mut(path).unwrap() = value;
            let error = std::error::Error::source(&parse(&config).unwrap_err())
                .map_or(String::new(), ToString::to_string)
                + &parse(&config).unwrap_err().to_string();
            assert!(error.len() < 2000 && !error.contains('\u{1b}'), "{path}: {} bytes: {error}", error.len());
        }
    }

    #[test]
    fn a_time_is_one_or_none() {
        let created = |time: &str| {
            let mut config = config();
            config["created"] = json!(time);
            parse(&config).unwrap().created
        };
        for time in ["2024-05-01T10:00:00Z", "2024-05-01T10:00:00.123456789+02:00", "0001-01-01T00:00:00Z"] {
            assert_eq!(created(time).as_deref(), Some(time));
        }
        for text in ["", "yesterday", "\u{1b}[2J", "2024-05-01T10:00:00Z\u{1b}[2J", "2024-05-01"] {
            assert_eq!(created(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_variant_counts_where_it_is_written() {
        let fits = |variant: Value, wanted: &str| {
            let mut config = config();
            config["architecture"] = json!("arm");
            config["variant"] = variant;
            parse(&config).unwrap().check_platform(&wanted.parse().unwrap()).is_ok()
        };
        for wanted in ["linux/arm/v5", "linux/arm/v6", "linux/arm", "linux/arm/v8"] {
            assert!(fits(Value::Null, wanted) && fits(json!(""), wanted), "{wanted}");
        }
        assert!(fits(json!("v6"), "linux/arm/v6") && fits(json!("v6"), "linux/arm/v7"));
        assert!(!fits(json!("v7"), "linux/arm/v6") && !fits(Value::Null, "linux/arm64"));
    }
}
