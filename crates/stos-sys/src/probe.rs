// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What this kernel can do, found by trying, never by its version: distributions backport, and builds leave things out.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::error::{Result, SysError};
use crate::mount::{MountPlan, UpperDirs, mount_erofs};

/// Tries whether the EROFS image at `image`, which needs no devices, can be mounted from its file.
///
/// The mount is detached and gone when this returns.
pub fn try_file_backed_erofs(image: &Path) -> Result<()> {
    let file = rustix::fs::open(image, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(SysError::at("open", || image.display().to_string()))?;
    mount_erofs(file.as_fd(), &[]).map(drop)
}

/// Tries whether `dir` (empty, writable) can hold the upper directory of an overlay whose lowers go by `lowerdir+`.
///
/// Three directories are left in it for the caller to remove.
pub fn try_overlay_upper(dir: &Path) -> Result<()> {
    for name in ["lower", "upper", "work"] {
        let path = dir.join(name);
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(SysError::at("mkdir", || path.display().to_string()))?;
    }
    let upper = UpperDirs { upper: dir.join("upper"), work: dir.join("work"), volatile: false };
    MountPlan { lowers: vec![dir.join("lower")], upper: Some(upper), ids: None }.mount_detached().map(drop)
}

/// Tries whether `dir` can hold what lower directories of an overlay are made of: whiteouts, and attributes that overlayfs
/// obeys.
///
/// A file is left in it for the caller to remove.
pub fn try_overlay_lower(dir: &Path) -> Result<()> {
    let whiteout = dir.join("whiteout");
    rustix::fs::mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), rustix::fs::makedev(0, 0))
        .map_err(SysError::at("mknodat", || format!("{}, c 0 0", whiteout.display())))?;
    let opened = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(SysError::at("open", || dir.display().to_string()))?;
    crate::xattr::set(&opened, c"trusted.overlay.opaque", b"y")
}

/// The cgroup hierarchies of the host, as mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    /// One v2 tree with every controller.
    V2,
    /// v1 controllers beside a v2 tree.
    Hybrid,
    /// v1 controllers alone.
    V1,
    /// None mounted.
    None,
}

/// Reads from `/proc/self/mounts` which cgroup hierarchies there are.
pub fn cgroup_mode() -> CgroupMode {
    cgroup_mode_of(&std::fs::read_to_string("/proc/self/mounts").unwrap_or_default())
}

fn cgroup_mode_of(mounts: &str) -> CgroupMode {
    let has = |kind| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup"), has("cgroup2")) {
        (false, true) => CgroupMode::V2,
        (true, true) => CgroupMode::Hybrid,
        (true, false) => CgroupMode::V1,
        (false, false) => CgroupMode::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_modes_are_told_apart() {
        let v1 = "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(cgroup_mode_of(v1), CgroupMode::V1);
        assert_eq!(cgroup_mode_of(v2), CgroupMode::V2);
        assert_eq!(cgroup_mode_of(&format!("{v1}{v2}")), CgroupMode::Hybrid);
        assert_eq!(cgroup_mode_of("proc /proc proc rw 0 0\n"), CgroupMode::None);
    }

    #[test]
    fn a_directory_that_takes_no_whiteout_is_named() {
        let error = try_overlay_lower(Path::new("/proc")).unwrap_err();
        assert!(error.call == "mknodat" && error.to_string().contains("/proc"), "{error}");
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        if rustix::process::geteuid().is_root() {
            try_overlay_lower(dir.path()).unwrap();
        }
    }

    #[test]
    fn what_is_no_image_is_no_erofs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, [0_u8; 4096]).unwrap();
        assert!(try_file_backed_erofs(&path).is_err());
        assert_eq!(try_file_backed_erofs(&dir.path().join("none")).unwrap_err().call, "open");
    }
}
