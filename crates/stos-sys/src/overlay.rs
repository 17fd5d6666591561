// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Overlay mounts: a typed plan of a container's root, mounted detached, on kernels new and old.
//!
//! ```text
//! lowerdir+ one by one                    Linux 6.8   [MountPlan::mount_by_parameters]
//! lowerdir=N:N:N in one page of options   before      [MountPlan::mount_by_option_page]
//! layers with mapped ids                  Linux 6.8   [crate::mapped_overlay]
//! ```

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, MountAttrFlags, fsconfig_set_string, fsopen};

use crate::error::{Result, SysError, last_errno};
use crate::mount::{
    FSCONFIG_STRING_MAX, FsParameter, MountChange, Propagation, change_mount, change_mount_at, new_filesystem,
    open_tree_clone,
};
use crate::process::clone::unshare;
use crate::process::user_namespace::IdMappings;

/// The most lower directories that overlayfs takes (`fs/overlayfs/ovl_entry.h`: `OVL_MAX_STACK`).
pub const OVERLAY_LOWERS_MAX: usize = 500;
/// How long the options of mount(2) may be, in bytes, with their NUL: one page, and no page is smaller.
const OPTION_PAGE: usize = 4096;
/// What is always off, whatever the kernel's default: diff and commit read the upper directory, and with these it would not
/// say all.
const OFF: [&str; 3] = ["redirect_dir", "metacopy", "index"];

/// What to mount as a container's root: typed, so that no option string is ever spliced.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MountPlan {
    /// The read-only layers, the uppermost first: absolute paths, looked up in the mount namespace that mounts.
    pub lowers: Vec<PathBuf>,
    /// Where changes go; without it the root is a read-only view.
    pub upper: Option<UpperDirs>,
    /// Shows the ids of all of them as those of a user namespace are outside of it ([`crate::mapped_overlay`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<IdMappings>,
}

/// The writable part of an overlay: two directories of one filesystem, which no other overlay uses.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UpperDirs {
    /// Takes the changes.
    pub upper: PathBuf,
    /// Overlayfs's own scratch space.
    pub work: PathBuf,
    /// Never synced, and useless after a crash (`volatile`, Linux 5.10): only for containers that go when they end.
    pub volatile: bool,
}

impl MountPlan {
    /// Mounts the plan, detached.
    ///
    /// # Errors
    /// `E2BIG` where there are more lowers than overlayfs takes ([`OVERLAY_LOWERS_MAX`]); the system call's otherwise.
    pub fn mount_detached(&self) -> Result<OwnedFd> {
        if self.lowers.len() > OVERLAY_LOWERS_MAX {
            let found = format!("{} lower directories, overlayfs takes {OVERLAY_LOWERS_MAX}", self.lowers.len());
            return Err(SysError::new("fsconfig", found, Errno::TOOBIG));
        }
        if let Some(ids) = &self.ids {
            return self.mount_mapped(ids);
        }
        if let ([lower], None) = (self.lowers.as_slice(), &self.upper) {
            // Overlayfs refuses one lower without an upper; a read-only clone of it is the same view.
            let view = open_tree_clone(lower, false)?;
            change_mount(view.as_fd(), MountChange { set: libc::MOUNT_ATTR_RDONLY, ..MountChange::default() })?;
            return Ok(view);
        }
        let mount = match self.mount_by_parameters() {
            // What an old kernel makes of `lowerdir+`; one that knows it has other reasons, and only it can tell them.
            Err(error) if error.errno == Errno::INVAL && !takes_lowers_one_by_one() => self.mount_by_option_page()?,
            other => other?,
        };
        if let Some(dirs) = &self.upper {
            refuse_read_only(mount.as_fd(), dirs)?;
        }
        Ok(mount)
    }

    /// Gives the lowers one by one (`lowerdir+`, Linux 6.8), so that no option meets the limit of a page; paths longer than
    /// an fsconfig string go by descriptor.
    fn mount_by_parameters(&self) -> Result<OwnedFd> {
        let mut held = Vec::new();
        let lowers: Vec<_> = self.lowers.iter().map(|lower| option_path(lower, &mut held)).collect::<Result<_>>()?;
        let upper = match &self.upper {
            Some(dirs) => Some((option_path(&dirs.upper, &mut held)?, option_path(&dirs.work, &mut held)?)),
            None => None,
        };
        let is_volatile = self.upper.as_ref().is_some_and(|dirs| dirs.volatile);
        new_filesystem("overlay", &parameters(lowers, upper, is_volatile), MountAttrFlags::empty())
    }

    /// Mounts by mount(2), for kernels that take all lowers in one option only.
    ///
    /// mount(2) cannot make a detached mount, and paths of its options are relative to the caller's directory, which a
    /// process has once: so a thread with a directory and a mount namespace of its own does it, and gives a clone of what it
    /// has mounted. Its directory is `/proc/self/fd`, where each path is as short as the number of a descriptor. An upper
    /// that is read-only for lack of room is not looked for here.
    ///
    /// # Errors
    /// `E2BIG` where the options do not fit a page: [`OVERLAY_LOWERS_MAX`] lowers take half of one, unless the process has
    /// thousands of descriptors open.
    pub fn mount_by_option_page(&self) -> Result<OwnedFd> {
        let mounted = std::thread::scope(|scope| scope.spawn(|| self.mount_in_own_namespace()).join());
        mounted.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn mount_in_own_namespace(&self) -> Result<OwnedFd> {
        unshare(libc::CLONE_NEWNS | libc::CLONE_FS)?;
        let private =
            MountChange { propagation: Some(Propagation::Private), recursive: true, ..MountChange::default() };
        change_mount_at(CWD, c"/", private)?;
        let mut held = Vec::new();
        // Opened only now: overlayfs takes no directory of another mount namespace.
        let mut number = |path: &Path| -> Result<String> {
            let fd = open_path(path)?;
            let number = fd.as_raw_fd().to_string();
            held.push(fd);
            Ok(number)
        };
        let lowers: Vec<_> = self.lowers.iter().map(|lower| number(lower)).collect::<Result<_>>()?;
        let mut options = format!("lowerdir={}", lowers.join(":"));
        if let Some(dirs) = &self.upper {
            options += &format!(",upperdir={},workdir={}", number(&dirs.upper)?, number(&dirs.work)?);
            options += if dirs.volatile { ",volatile" } else { "" };
        }
        for key in OFF {
            options += &format!(",{key}=off");
        }
        if options.len() >= OPTION_PAGE {
            let found = format!("{} bytes of options for {} lower directories", options.len(), self.lowers.len());
            return Err(SysError::new("mount", format!("{found}, mount(2) takes {OPTION_PAGE}"), Errno::TOOBIG));
        }
        // Any directory would do: nobody else sees this namespace.
        let target = self.lowers.first().ok_or_else(|| SysError::new("mount", String::new(), Errno::INVAL))?;
        let target_name = CString::new(target.as_os_str().as_bytes())
            .map_err(|_| SysError::new("mount", target.display().to_string(), Errno::INVAL))?;
        rustix::process::chdir("/proc/self/fd").map_err(SysError::at("chdir", || "/proc/self/fd".to_owned()))?;
        let data = CString::new(options.as_str()).map_err(|_| SysError::new("mount", options.clone(), Errno::INVAL))?;
        // SAFETY: all four are NUL-terminated and outlive the call.
        let answer = unsafe {
            libc::mount(c"overlay".as_ptr(), target_name.as_ptr(), c"overlay".as_ptr(), 0, data.as_ptr().cast())
        };
        if answer != 0 {
            let errno = last_errno();
            return Err(SysError::new("mount", format!("overlay, {}, {options}", target.display()), errno));
        }
        open_tree_clone(target, false)
    }
}

/// The parameters of an overlay; `upper` is the directory for changes and the one for overlayfs itself.
pub(crate) fn parameters(lowers: Vec<String>, upper: Option<(String, String)>, is_volatile: bool) -> Vec<FsParameter> {
    // What mount tables name the filesystem by; without it they say "none".
    let mut parameters = vec![FsParameter::String("source".into(), "overlay".into())];
    parameters.extend(lowers.into_iter().map(|lower| FsParameter::String("lowerdir+".into(), lower)));
    if let Some((upper, work)) = upper {
        parameters.push(FsParameter::String("upperdir".into(), upper));
        parameters.push(FsParameter::String("workdir".into(), work));
        if is_volatile {
            parameters.push(FsParameter::Flag("volatile".into()));
        }
    }
    parameters.extend(OFF.map(|key| FsParameter::String(key.into(), "off".into())));
    parameters
}

/// Tells whether overlayfs knows `lowerdir+` (Linux 6.8): then it looks for the directory at once, and finds none. Before it
/// said nothing yet, or that it does not know the parameter.
fn takes_lowers_one_by_one() -> bool {
    let Ok(context) = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) else { return true };
    fsconfig_set_string(&context, "lowerdir+", "/proc/self/fd/none") == Err(Errno::NOENT)
}

/// Refuses an overlay with an upper that the kernel has made read-only: it does so without a word where it cannot make its own
/// directory below `workdir`, on a full disk say (`ovl_make_workdir`).
pub(crate) fn refuse_read_only(mount: BorrowedFd<'_>, dirs: &UpperDirs) -> Result<()> {
    let shown =
        || format!("overlay over {}: read-only, for {} takes no file", dirs.upper.display(), dirs.work.display());
    let found = rustix::fs::fstatvfs(mount).map_err(SysError::at("fstatvfs", shown))?;
    if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Err(SysError::new("fsmount", shown(), Errno::NOSPC));
    }
    Ok(())
}

/// Gives `path` as a mount option: itself, or by a descriptor in `held` where it is too long for fsconfig(2).
fn option_path(path: &Path, held: &mut Vec<OwnedFd>) -> Result<String> {
    if let Some(text) = path.to_str().filter(|text| text.len() <= FSCONFIG_STRING_MAX) {
        return Ok(text.to_owned());
    }
    let fd = open_path(path)?;
    let text = format!("/proc/self/fd/{}", fd.as_raw_fd());
    held.push(fd);
    Ok(text)
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(SysError::at("open", || path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use rustix::process::geteuid;

    use super::*;

    #[test]
    fn an_overlay_without_room_for_its_work_is_refused_not_read_only() {
        if !geteuid().is_root() {
            return;
        }
        let lower = tempfile::tempdir().unwrap();
        for (inodes, is_refused) in [("3", true), ("30", false)] {
            let size = FsParameter::String("nr_inodes".into(), inodes.into());
            let disk = new_filesystem("tmpfs", &[size], MountAttrFlags::empty()).unwrap();
            let place = PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
            let upper = UpperDirs { upper: place.join("upper"), work: place.join("work"), volatile: false };
            std::fs::create_dir(&upper.upper).unwrap();
            std::fs::create_dir(&upper.work).unwrap();
            let mounted =
                MountPlan { lowers: vec![lower.path().into()], upper: Some(upper), ids: None }.mount_detached();
            match mounted {
                Ok(_) => assert!(!is_refused),
                Err(error) => assert!(is_refused && error.errno == Errno::NOSPC, "{error}"),
            }
        }
    }

    /// Layers whose directories have names that option strings would split.
    fn layers(dir: &Path, count: usize) -> Vec<PathBuf> {
        let layer = |number: usize| {
            let path = dir.join(format!("layer:{number},\\ of many"));
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join(format!("file {number}")), number.to_string()).unwrap();
            std::fs::write(path.join("every"), number.to_string()).unwrap();
            path
        };
        (0..count).map(layer).collect()
    }

    fn see(mount: &OwnedFd, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/self/fd/{}/{name}", mount.as_raw_fd())).unwrap()
    }

    #[test]
    fn both_ways_to_mount_show_the_same_and_leave_no_mount_behind() {
        if !geteuid().is_root() {
            return;
        }
        assert!(takes_lowers_one_by_one());
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let lowers = layers(dir.path(), 400);
        for name in ["upper", "work"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let upper = UpperDirs { upper: dir.path().join("upper"), work: dir.path().join("work"), volatile: false };
        let cwd = std::env::current_dir().unwrap();
        for upper in [None, Some(upper)] {
            let plan = MountPlan { lowers: lowers.clone(), upper, ids: None };
            for mount in [MountPlan::mount_by_parameters, MountPlan::mount_by_option_page] {
                let mount = mount(&plan).unwrap();
                assert_eq!((see(&mount, "every"), see(&mount, "file 399")), ("0".to_owned(), "399".to_owned()));
                if plan.upper.is_some() {
                    let new = format!("/proc/self/fd/{}/new", mount.as_raw_fd());
                    std::fs::write(&new, "x").unwrap();
                    assert_eq!(std::fs::read(dir.path().join("upper/new")).unwrap(), b"x");
                }
            }
        }
        assert_eq!(std::env::current_dir().unwrap(), cwd);
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(dir.path().to_str().unwrap()), "{table}");
    }

    #[test]
    fn more_lowers_than_overlayfs_takes_are_counted() {
        let lowers = vec![PathBuf::from("/"); OVERLAY_LOWERS_MAX + 1];
        let plan = MountPlan { lowers, upper: None, ids: None };
        let error = plan.mount_detached().unwrap_err();
        assert!(error.errno == Errno::TOOBIG && error.to_string().contains("501"), "{error}");
    }
}
