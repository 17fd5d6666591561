// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The mount points that a start has made in a container's upper directory because the image lacked them.
//!
//! They belong to the container's mounts, not to its changes. The start makes a file 0644 or a directory 0755, with the
//! parents that are missing, where the destination leads inside the root, symlinks followed (`stos_sys::rooted`).

use std::collections::{BTreeSet, VecDeque};

use rustix::fs::FileType;
use stos_store::files;

use super::Node;
use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::Result;

/// How many symlinks one path may lead through, as many as the kernel follows.
const LINKS: usize = 40;

/// A mount of a container's `config.json`.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Mount {
    pub(crate) destination: String,
    #[serde(default)]
    pub(crate) source: String,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) options: Vec<String>,
}

impl Mount {
    /// Whether it is a directory or file of the host that was asked for: what every container gets has other options.
    pub(crate) fn is_of_host(&self) -> bool {
        let is_path = self.source.starts_with('/') && !self.source.starts_with("/proc/0/");
        self.kind.as_deref() == Some("bind") && is_path && self.access().is_some()
    }

    /// Whether the container may not write there.
    pub(crate) fn is_read_only(&self) -> bool {
        self.access().is_some_and(|access| access != "rw")
    }

    /// What stands second in a mount that was asked for.
    fn access(&self) -> Option<&str> {
        self.options.get(1).map(String::as_str).filter(|option| matches!(*option, "rw" | "ro" | "rro"))
    }
}

/// Reads a container's mounts.
pub(crate) fn mounts_of(engine: &Engine, container: &ContainerRecord) -> Result<Vec<Mount>> {
    #[derive(serde::Deserialize)]
    struct Configuration {
        #[serde(default)]
        mounts: Vec<Mount>,
    }
    let path = engine.store.container_dir(&container.id).join("config.json");
    let configuration: Option<Configuration> = files::read_json(&path)?;
    Ok(configuration.map(|configuration| configuration.mounts).unwrap_or_default())
}

/// Where a container's mounts are, and the directories on the way there. Paths have no slash at their beginning.
#[derive(Debug, Default)]
pub(crate) struct MountPoints {
    targets: BTreeSet<Vec<u8>>,
    ancestors: BTreeSet<Vec<u8>>,
}

impl MountPoints {
    /// Reads the destinations of a container's mounts from its configuration, and resolves them in its root.
    pub(super) fn read(engine: &Engine, container: &ContainerRecord, upper: &Node, lower: &Node) -> Result<Self> {
        let mut points = Self::default();
        for mount in mounts_of(engine, container)? {
            if let Some(path) = resolve(mount.destination.as_bytes(), upper, lower)? {
                points.add(path);
            }
        }
        Ok(points)
    }

    fn add(&mut self, path: Vec<u8>) {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        self.ancestors.extend(slashes.map(|(at, _)| path[..at].to_vec()));
        self.targets.insert(path);
    }

    /// Tells whether a start may have made `node`, which the image lacks. A directory may still hold something of the container's.
    pub(super) fn made(&self, path: &[u8], node: &Node) -> Result<bool> {
        let is_target = self.targets.contains(path);
        if !is_target && !self.ancestors.contains(path) {
            return Ok(false);
        }
        let allowed = match node.file_type() {
            FileType::Directory => 0o755,
            FileType::RegularFile if is_target && node.size() == 0 => 0o644,
            _ => return Ok(false),
        };
        let metadata = node.metadata()?;
        let is_plain = metadata.mode & !allowed == 0 && metadata.xattrs.is_empty();
        Ok(is_plain && (metadata.uid, metadata.gid) == (0, 0))
    }
}

/// Resolves a path in the overlay of `lower` and `upper`, as far as it exists: what is missing beyond would be made where it says.
/// `None` where it leads nowhere: through a loop of symlinks, or up from what does not exist.
fn resolve(path: &[u8], upper: &Node, lower: &Node) -> Result<Option<Vec<u8>>> {
    let mut names: VecDeque<Vec<u8>> = path.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect();
    let mut resolved: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                resolved.pop();
                continue;
            }
            _ => {}
        }
        resolved.push(name);
        let Some(node) = look_up(&resolved, upper, lower)? else { continue };
        if node.file_type() != FileType::Symlink {
            continue;
        }
        links += 1;
        if links > LINKS {
            return Ok(None);
        }
        let target = node.target()?;
        resolved.pop();
        if target.starts_with(b"/") {
            resolved.clear();
        }
        for part in target.split(|&byte| byte == b'/').rev() {
            names.push_front(part.to_vec());
        }
    }
    Ok(Some(resolved.join(&b'/')).filter(|path| !path.is_empty()))
}

/// Looks up names that lead through no symlink, in what the overlay shows.
fn look_up(names: &[Vec<u8>], upper: &Node, lower: &Node) -> Result<Option<Node>> {
    let Some((first, rest)) = names.split_first() else { return Ok(None) };
    let (mut above, mut below) = (upper.child(first)?, lower.child(first)?);
    for name in rest {
        let hides = match &above {
            Some(node) => !node.is_directory() || node.is_opaque()?,
            None => false,
        };
        let next_above = above.as_ref().map_or(Ok(None), |node| node.child(name))?;
        let next_below = if hides { None } else { below.as_ref().map_or(Ok(None), |node| node.child(name))? };
        (above, below) = (next_above, next_below);
    }
    Ok(match above {
        Some(node) if node.is_whiteout() => None,
        Some(node) => Some(node),
        None => below,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn destinations_are_resolved_in_what_the_overlay_shows() {
        let dir = tempfile::tempdir().unwrap();
        let (upper, lower) = (dir.path().join("upper"), dir.path().join("lower"));
        for path in ["lower/run", "lower/real/deep", "upper/real"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for (at, target) in [("lower/var", "/run"), ("upper/link", "var/../real"), ("lower/loop", "loop")] {
            symlink(target, dir.path().join(at)).unwrap();
        }
        symlink("../../../run", lower.join("real/deep/up")).unwrap();
        fs::write(lower.join("hidden"), "").unwrap();
        symlink("/run", upper.join("hidden")).unwrap();
        let (upper, lower) = (Node::root(&upper).unwrap(), Node::root(&lower).unwrap());
        for (path, expected) in [
            ("/proc", Some("proc")),
            ("/etc//./hosts", Some("etc/hosts")),
            ("/var/lock", Some("run/lock")),
            ("/link/x", Some("real/x")),
            ("/real/deep/up/x", Some("run/x")),
            ("/../../x", Some("x")),
            ("/hidden/x", Some("run/x")),
            ("/loop/x", None),
            ("/", None),
        ] {
            let found = resolve(path.as_bytes(), &upper, &lower).unwrap();
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{path}");
        }
    }
}
