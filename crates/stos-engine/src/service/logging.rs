// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a container's output goes: podman's `--log-driver` and `--log-opt`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::error::{Error, Result};
use crate::log::LOG_MAX;
use crate::log::journald;

/// Who takes the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// A file of lines as Kubernetes has them: time, stream, whether it is whole, text.
    #[default]
    K8sFile,
    /// A file of JSON objects, a line each, as docker has them.
    JsonFile,
    /// systemd's journal.
    Journald,
    /// Nobody.
    None,
    /// The caller's own streams are the container's: nothing of it is kept.
    Passthrough,
}

impl LogDriver {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::K8sFile, Self::JsonFile, Self::Journald, Self::None, Self::Passthrough];

    /// podman's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::K8sFile => "k8s-file",
            Self::JsonFile => "json-file",
            Self::Journald => "journald",
            Self::None => "none",
            Self::Passthrough => "passthrough",
        }
    }

    /// Whether it is a file that `logs` reads.
    pub fn is_file(self) -> bool {
        matches!(self, Self::K8sFile | Self::JsonFile)
    }
}

/// What was chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogChoice {
    /// Who takes the output.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: LogDriver,
    /// How large a file grows before it is put aside, in bytes; [`LOG_MAX`] where nothing is said, 0 for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// The file, where it is not in the container's directory; absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// What the journal calls it: `CONTAINER_TAG`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl LogChoice {
    /// How large a file grows before it is put aside, in bytes.
    pub fn max_size(&self) -> u64 {
        match self.max_size {
            None => LOG_MAX,
            Some(0) => u64::MAX,
            Some(bytes) => bytes,
        }
    }

    /// Where the log of a container lies whose own is at `own`; `None` where it is no file.
    pub fn file(&self, own: &Path) -> Option<PathBuf> {
        self.driver.is_file().then(|| self.path.clone().unwrap_or_else(|| own.to_owned()))
    }

    /// # Errors
    /// [`Error::Option`] for what the driver has no use for, a driver that this host does not have, and one that a terminal rules out.
    pub(super) fn check(&self, has_terminal: bool) -> Result<()> {
        let refuse =
            |option, value: &str, reason: String| Err(Error::Option { option, value: value.to_owned(), reason });
        let driver = self.driver.name();
        if !self.driver.is_file() {
            for (key, is_given) in [("max-size", self.max_size.is_some()), ("path", self.path.is_some())] {
                if is_given {
                    return refuse("--log-opt", key, format!("the log driver {driver} keeps no file"));
                }
            }
        }
        if let (Some(tag), true) = (&self.tag, self.driver != LogDriver::Journald) {
            return refuse("--log-opt", &format!("tag={tag}"), format!("it is journald's alone, and this is {driver}"));
        }
        if let Some(path) = &self.path {
            check_path(path).or_else(|reason| refuse("--log-opt", &format!("path={}", path.display()), reason))?;
        }
        match self.driver {
            LogDriver::Passthrough if has_terminal => {
                refuse("--log-driver", driver, "not together with --tty: a terminal is shown by its monitor".to_owned())
            }
            LogDriver::Journald => journald::check().or_else(|reason| refuse("--log-driver", driver, reason)),
            _ => Ok(()),
        }
    }
}

/// A file that can be made when the container starts.
fn check_path(path: &Path) -> std::result::Result<(), String> {
    if !path.is_absolute() || path.file_name().is_none() {
        return Err("expected the absolute path of a file".to_owned());
    }
    if path.is_dir() {
        return Err("expected a file, and it is a directory".to_owned());
    }
    match path.parent() {
        Some(parent) if parent.is_dir() => Ok(()),
        _ => Err("its directory is not there".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_has_its_options() {
        let dir = tempfile::tempdir().unwrap();
        let of = |driver| LogChoice { driver, ..LogChoice::default() };
        let tag = || Some("x".to_owned());
        for choice in [
            LogChoice { max_size: Some(1), ..of(LogDriver::None) },
            LogChoice { path: Some(dir.path().join("x")), ..of(LogDriver::Passthrough) },
            LogChoice { tag: tag(), ..of(LogDriver::K8sFile) },
            LogChoice { tag: tag(), ..of(LogDriver::None) },
            LogChoice { path: Some("relative".into()), ..of(LogDriver::JsonFile) },
            LogChoice { path: Some(dir.path().into()), ..of(LogDriver::JsonFile) },
            LogChoice { path: Some(dir.path().join("no/file")), ..of(LogDriver::K8sFile) },
        ] {
            assert!(matches!(choice.check(false), Err(Error::Option { option: "--log-opt", .. })), "{choice:?}");
        }
        let path = LogChoice { path: Some(dir.path().join("x")), max_size: Some(0), ..of(LogDriver::JsonFile) };
        path.check(true).unwrap();
        assert_eq!((path.max_size(), path.file(Path::new("/own"))), (u64::MAX, Some(dir.path().join("x"))));
        of(LogDriver::Passthrough).check(false).unwrap();
        assert!(matches!(of(LogDriver::Passthrough).check(true), Err(Error::Option { option: "--log-driver", .. })));
        assert_eq!(of(LogDriver::None).file(Path::new("/own")), None);
        assert_eq!(of(LogDriver::K8sFile).file(Path::new("/own")), Some("/own".into()));
        assert_eq!(LogChoice::default().max_size(), LOG_MAX);
    }

    #[test]
    fn a_driver_s_name_is_how_it_is_recorded() {
        for driver in LogDriver::ALL {
            assert_eq!(serde_json::to_value(driver).unwrap(), driver.name());
        }
    }
}
