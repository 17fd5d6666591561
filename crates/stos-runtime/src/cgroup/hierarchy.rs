// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which cgroup hierarchies are mounted, and where.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stos_sys::SysError;

use crate::error::{Error, Result};

/// Where hierarchies are looked for.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The version of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// One tree for each controller.
    V1,
    /// One tree for all.
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// v1 or v2.
    pub version: Version,
    /// Controllers of v1, `name=…` for a named hierarchy; empty for v2.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
}

/// Room for the mount table of most hosts. The kernel writes it out anew for each read(2), under the lock of all mounts.
const TABLE_SIZE: usize = 32 << 10;

/// Lists the hierarchies mounted at and below `/sys/fs/cgroup`, in the order of the mount table. Looked for once in a process's life.
pub fn mounted_hierarchies() -> Result<Vec<Hierarchy>> {
    static FOUND: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let path = "/proc/self/mountinfo";
    let mut table = Vec::with_capacity(TABLE_SIZE);
    File::open(path).and_then(|mut file| file.read_to_end(&mut table)).map_err(|error| {
        Error::sys("find cgroups")(SysError::new("read", path, Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    })?;
    Ok(FOUND.get_or_init(|| parse(&table)).clone())
}

/// Options of a v1 superblock that name no controller.
const NO_CONTROLLERS: [&str; 10] = [
    "rw",
    "ro",
    "xattr",
    "clone_children",
    "noprefix",
    "none",
    "cpuset_v2_mode",
    "release_agent",
    "favordynmods",
    "all",
];

fn parse(table: &[u8]) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in table.split(|byte| *byte == b'\n') {
        let Some(hierarchy) = parse_line(line) else { continue };
        // A later mount on the same place hides the earlier one; one tree mounted twice is used once.
        found.retain(|earlier| earlier.mount_point != hierarchy.mount_point);
        if !found.iter().any(|e| e.version == hierarchy.version && e.controllers == hierarchy.controllers) {
            found.push(hierarchy);
        }
    }
    found
}

/// Reads a line of mountinfo: `id parent dev root mount-point options [tags] - type source super-options`.
fn parse_line(line: &[u8]) -> Option<Hierarchy> {
    let separator = line.windows(3).position(|window| window == b" - ")?;
    let mount_point = unescape(line[..separator].split(|byte| *byte == b' ').nth(4)?);
    if !mount_point.starts_with(CGROUP_ROOT) {
        return None;
    }
    let after = std::str::from_utf8(&line[separator + 3..]).ok()?;
    let mut fields = after.split(' ');
    let (fstype, _source, options) = (fields.next()?, fields.next()?, fields.next()?);
    let (version, controllers) = match fstype {
        "cgroup2" => (Version::V2, Vec::new()),
        "cgroup" => (Version::V1, controllers(options)),
        _ => return None,
    };
    Some(Hierarchy { version, controllers, mount_point })
}

fn controllers(options: &str) -> Vec<String> {
    let named = options.split(',').filter(|option| {
        let key = option.split('=').next().unwrap_or_default();
        !NO_CONTROLLERS.contains(&key)
    });
    named.map(ToOwned::to_owned).collect()
}

/// Undoes mountinfo's octal escapes (`\040` for a space).
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\').then(|| after.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const HYBRID: &[u8] = b"25 20 0:22 / /sys rw - sysfs sysfs rw\n\
        30 25 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw,mode=755\n\
        31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct\n\
        32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
        33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
        34 20 0:29 / /mnt/cgroup rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_hybrid_machine_is_read() {
        let found = parse(HYBRID);
        let shown: Vec<_> =
            found.iter().map(|h| (h.version, h.controllers.join("+"), h.mount_point.to_str().unwrap())).collect();
        assert_eq!(
            shown,
            [
                (Version::V1, "cpu+cpuacct".to_owned(), "/sys/fs/cgroup/cpu,cpuacct"),
                (Version::V1, "name=systemd".to_owned(), "/sys/fs/cgroup/systemd"),
                (Version::V2, String::new(), "/sys/fs/cgroup/unified"),
            ]
        );
    }

    #[test]
    fn a_pure_v2_machine_is_read() {
        let found = parse(b"30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot\n");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].version, found[0].mount_point.as_path()), (Version::V2, Path::new(CGROUP_ROOT)));
    }

    #[test]
    fn what_hides_another_mount_counts_and_escapes_are_undone() {
        let table = b"1 0 0:1 / /sys/fs/cgroup/a\\040b rw - cgroup x rw,pids\n2 0 0:2 / /sys/fs/cgroup/a\\040b rw - cgroup x rw,cpu\nbad\n";
        let found = parse(table);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].controllers.as_slice(), found[0].mount_point.as_path()),
            (&["cpu".to_owned()][..], Path::new("/sys/fs/cgroup/a b"))
        );
    }
}
