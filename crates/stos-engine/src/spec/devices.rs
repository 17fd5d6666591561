// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The host's devices, for a privileged container.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{major, minor};
use serde_json::{Value, json};

use crate::error::Result;

/// Names in /dev that are no devices of the machine: the container has terminals, memory and queues of its own (podman's and runc's
/// list, `devices.GetDevices`).
const LEFT_OUT: [&str; 9] = ["pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts", ".udev"];

/// What every container has already.
const DEFAULT: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Gives the devices in the host's /dev, at any depth, as `linux.devices`, sorted by path. Symlinks are not followed.
pub(super) fn of_host() -> Result<Value> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), true, &mut found)?;
    found.sort_by_key(|device| device["path"].as_str().map(str::to_owned));
    Ok(found.into())
}

fn walk(directory: &Path, is_top: bool, found: &mut Vec<Value>) -> Result<()> {
    let failed = |error| stos_store::Error::io("read", directory)(error);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, name) = (entry.path(), entry.file_name());
        let is = |names: &[&str]| names.iter().any(|known| name == *known);
        if is(&LEFT_OUT) || (is_top && is(&DEFAULT)) {
            continue;
        }
        // What is gone meanwhile is no device of the machine any more.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let kind = metadata.file_type();
        let letter = match (kind.is_char_device(), kind.is_block_device()) {
            (true, _) => "c",
            (_, true) => "b",
            _ if kind.is_dir() => {
                walk(&path, false, found)?;
                continue;
            }
            _ => continue,
        };
        // Overlay's whiteouts are devices of these numbers, and no driver's.
        let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
        if let Some(path) = path.to_str().filter(|_| (major, minor) != (0, 0)) {
            found.push(json!({
                "path": path, "type": letter, "major": major, "minor": minor, "fileMode": metadata.mode() & 0o7777,
                "uid": metadata.uid(), "gid": metadata.gid(),
            }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_at_any_depth_and_what_is_the_container_s_own_is_not() {
        let found = of_host().unwrap();
        let paths: Vec<_> = found.as_array().unwrap().iter().map(|device| device["path"].as_str().unwrap()).collect();
        assert!(paths.is_sorted());
        for path in ["/dev/null", "/dev/ptmx", "/dev/pts/ptmx", "/dev/console"] {
            assert!(!paths.contains(&path), "{path}");
        }
        if Path::new("/dev/net/tun").exists() {
            let tun = found.as_array().unwrap().iter().find(|device| device["path"] == "/dev/net/tun").unwrap();
            assert_eq!((&tun["type"], &tun["major"], &tun["minor"]), (&json!("c"), &json!(10), &json!(200)));
        }
    }
}
