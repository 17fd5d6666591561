// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Devices of the host, as a container gets them: a node of the same numbers, mode and owner, and a rule that lets it be used.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};
use serde_json::{Value, json};

use super::{DeviceOption, DeviceRuleOption};
use crate::error::{Error, Result};

/// How deep a directory of devices is looked into: `/dev` itself is two deep.
const DEPTH: usize = 8;

/// What is given of devices.
#[derive(Debug)]
pub(super) struct Found {
    /// `linux.devices`.
    pub(super) nodes: Vec<Value>,
    /// `linux.resources.devices`.
    pub(super) rules: Vec<Value>,
    /// The host's path of each, by its path in the container.
    pub(super) sources: Vec<(PathBuf, PathBuf)>,
}

/// Gives nodes and rules for what is asked for. A symlink is followed; of a directory every device in it is given, as podman has
/// it (containers/podman, `pkg/specgen/generate/config_linux.go`).
pub(super) fn find(asked: &[DeviceOption]) -> Result<Found> {
    let (mut nodes, mut rules, mut sources) = (Vec::new(), Vec::new(), Vec::new());
    for device in asked {
        let refuse =
            |reason: String| Error::Option { option: "--device", value: device.source.display().to_string(), reason };
        let source = fs::canonicalize(&device.source).map_err(|error| refuse(error.to_string()))?;
        let mut found = Vec::new();
        collect(&source, &device.target, DEPTH, &mut found).map_err(|error| refuse(error.to_string()))?;
        if found.is_empty() {
            return Err(refuse("it is no device, and no directory with any".to_owned()));
        }
        for (source, target, metadata) in found {
            if nodes.iter().any(|node: &Value| node["path"].as_str() == target.to_str()) {
                return Err(refuse(format!("another --device is at {} in the container", target.display())));
            }
            let kind = kind(&metadata).unwrap_or_default();
            let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
            nodes.push(json!({
                "path": target, "type": kind, "major": major, "minor": minor,
                "fileMode": metadata.mode() & 0o777, "uid": metadata.uid(), "gid": metadata.gid(),
            }));
            rules.push(json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": device.access}));
            sources.push((target, source));
        }
    }
    Ok(Found { nodes, rules, sources })
}

fn kind(metadata: &fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_char_device() { Some("c") } else { kind.is_block_device().then_some("b") }
}

/// Gathers a device, or those below a directory. In a directory symlinks are left out: they lead to devices by other names.
fn collect(
    source: &Path,
    target: &Path,
    depth: usize,
    found: &mut Vec<(PathBuf, PathBuf, fs::Metadata)>,
) -> std::io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    if kind(&metadata).is_some() {
        found.push((source.to_owned(), target.to_owned(), metadata));
    } else if metadata.is_dir() && depth > 0 {
        let mut names: Vec<_> =
            fs::read_dir(source)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
        names.sort_unstable();
        for name in names {
            collect(&source.join(&name), &target.join(&name), depth - 1, found)?;
        }
    }
    Ok(())
}

/// The rule in the words of `linux.resources.devices`.
pub(super) fn rule(asked: &DeviceRuleOption) -> Value {
    let mut rule = json!({"allow": true, "type": asked.kind.to_string(), "access": asked.access});
    for (key, number) in [("major", asked.major), ("minor", asked.minor)] {
        if let Some(number) = number {
            rule[key] = json!(number);
        }
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(source: &str, target: &str) -> DeviceOption {
        DeviceOption { source: source.into(), target: target.into(), access: "rw".into() }
    }

    #[test]
    fn a_device_is_given_with_its_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let Found { nodes, rules, sources } = find(&[device(link.to_str().unwrap(), "/dev/x")]).unwrap();
        assert_eq!(sources, [("/dev/x".into(), "/dev/null".into())]);
        assert_eq!(
            (&nodes[0]["path"], &nodes[0]["major"], &nodes[0]["minor"]),
            (&json!("/dev/x"), &json!(1), &json!(3))
        );
        assert_eq!(rules, [json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"})]);
    }

    #[test]
    fn what_is_no_device_is_told_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for (source, reason) in [
            ("/dev/no-such", "No such file"),
            ("/proc/version", "no device"),
            (dir.path().to_str().unwrap(), "no device"),
        ] {
            let said = find(&[device(source, "/dev/x")]).unwrap_err().to_string();
            assert!(said.starts_with(&format!("--device {source:?}: ")) && said.contains(reason), "{said}");
        }
        let twice = find(&[device("/dev/null", "/dev/x"), device("/dev/zero", "/dev/x")]).unwrap_err().to_string();
        assert!(twice.contains("another --device is at /dev/x"), "{twice}");
    }

    #[test]
    fn a_rule_names_what_it_is_about() {
        let asked = DeviceRuleOption { kind: 'c', major: Some(10), minor: None, access: "rwm".into() };
        assert_eq!(rule(&asked), json!({"allow": true, "type": "c", "major": 10, "access": "rwm"}));
    }
}
