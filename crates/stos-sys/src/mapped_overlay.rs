// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Overlay mounts for a user namespace: every layer is taken through a mount with mapped ids, and not one file is changed for it.
//!
//! ```text
//! on disk           0 … 65535      the image's ids, and the container's in its upper directory
//!   │ mount_setattr(2), MOUNT_ATTR_IDMAP (overlayfs: Linux 5.19)
//! overlay, host     100000 …       what the mapping says
//!   │ the user namespace of the container, with the same mapping
//! container         0 … 65535
//! ```
//!
//! Overlayfs works on its upper directory as who has mounted it (Documentation/filesystems/overlayfs.rst, "Permission model"), and
//! the host's root has no id there. So it is mounted as the container's root, with the caller's capabilities.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::error::{Result, SysError};
use crate::mount::{
    MountChange, Propagation, attach, attach_at, change_mount, change_mount_at, map_mount_ids, new_filesystem,
    open_tree_clone,
};
use crate::overlay::{MountPlan, UpperDirs, parameters, refuse_read_only};
use crate::process::clone::{CloneError, unshare};
use crate::process::filesystem_ids::FilesystemIds;
use crate::process::user_namespace::{IdMappings, make_user_namespace};

impl MountPlan {
    /// Mounts the plan, detached, with ids as `ids` map them.
    ///
    /// # Errors
    /// `EINVAL` where `ids` have no root, and where a layer's filesystem cannot map ids or the kernel's overlayfs takes none that
    /// are mapped; `EBUSY` for a caller with more than one thread.
    pub(crate) fn mount_mapped(&self, ids: &IdMappings) -> Result<OwnedFd> {
        let root = ids.root().ok_or_else(|| SysError::new("mount_setattr", "no id for root", Errno::INVAL))?;
        let namespace = make_user_namespace(ids).map_err(|error| match error {
            CloneError::Sys(error) => error,
            CloneError::ManyThreads { threads } => SysError::new("clone3", format!("{threads} threads"), Errno::BUSY),
        })?;
        if let ([lower], None) = (self.lowers.as_slice(), &self.upper) {
            let view = open_tree_clone(lower, false)?;
            map_mount_ids(view.as_fd(), namespace.as_fd(), false)?;
            change_mount(view.as_fd(), MountChange { set: libc::MOUNT_ATTR_RDONLY, ..MountChange::default() })?;
            return Ok(view);
        }
        let layers = MappedLayers::open(self, namespace.as_fd())?;
        let mount = match layers.mount(self, root) {
            // Before Linux 6.15 overlayfs takes no directory of a mount that is not attached (`clone_private_mount`).
            Err(error) if error.errno == Errno::INVAL => self.mount_attached(namespace.as_fd(), root)?,
            other => other?,
        };
        if let Some(dirs) = &self.upper {
            refuse_read_only(mount.as_fd(), dirs)?;
        }
        Ok(mount)
    }

    /// The same in a mount namespace of a thread's own, where the layers are attached for as long as it takes.
    fn mount_attached(&self, namespace: BorrowedFd<'_>, root: (u32, u32)) -> Result<OwnedFd> {
        let in_own_namespace = || {
            unshare(libc::CLONE_NEWNS | libc::CLONE_FS)?;
            let private =
                MountChange { propagation: Some(Propagation::Private), recursive: true, ..MountChange::default() };
            change_mount_at(CWD, c"/", private)?;
            // Opened only now: nothing of another mount namespace can be cloned.
            let layers = MappedLayers::open(self, namespace)?;
            let shelf = new_filesystem("tmpfs", &[], MountAttrFlags::empty())?;
            // Any directory would do: nobody else sees this namespace.
            let place = self.lowers.first().ok_or_else(|| SysError::new("mount", "no layer", Errno::INVAL))?;
            attach(shelf.as_fd(), place)?;
            for (number, mount) in layers.mounts().enumerate() {
                let name = number.to_string();
                let shown = || format!("a place for layer {number}");
                mkdirat(&shelf, &name, Mode::RWXU).map_err(SysError::at("mkdirat", shown))?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let place = openat(&shelf, &name, flags, Mode::empty()).map_err(SysError::at("openat", shown))?;
                attach_at(mount, place.as_fd())?;
            }
            layers.mount(self, root)
        };
        let mounted = std::thread::scope(|scope| scope.spawn(in_own_namespace).join());
        mounted.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// The layers of a plan, each a mount with mapped ids.
struct MappedLayers {
    lowers: Vec<OwnedFd>,
    upper: Option<MappedUpper>,
}

/// Both directories lie on one mount, as overlayfs wants it.
struct MappedUpper {
    mount: OwnedFd,
    upper: OwnedFd,
    work: OwnedFd,
}

impl MappedLayers {
    fn open(plan: &MountPlan, namespace: BorrowedFd<'_>) -> Result<Self> {
        let mapped = |path| {
            let mount = open_tree_clone(path, false)?;
            map_mount_ids(mount.as_fd(), namespace, false).map_err(|error| {
                SysError::new(error.call, format!("{}, MOUNT_ATTR_IDMAP", path.display()), error.errno)
            })?;
            Ok::<_, SysError>(mount)
        };
        let lowers = plan.lowers.iter().map(|lower| mapped(lower)).collect::<Result<_>>()?;
        let Some(UpperDirs { upper, work, .. }) = &plan.upper else { return Ok(Self { lowers, upper: None }) };
        let (Some(parent), Some(upper), Some(work)) = (upper.parent(), upper.file_name(), work.file_name()) else {
            return Err(SysError::new("open", upper.display().to_string(), Errno::INVAL));
        };
        let mount = mapped(parent)?;
        let open = |name| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&mount, name, flags, Mode::empty()).map_err(SysError::at("openat", || parent.display().to_string()))
        };
        let (upper, work) = (open(upper)?, open(work)?);
        Ok(Self { lowers, upper: Some(MappedUpper { mount, upper, work }) })
    }

    fn mounts(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.lowers.iter().chain(self.upper.as_ref().map(|upper| &upper.mount)).map(AsFd::as_fd)
    }

    /// Mounts them as the user and group `root`.
    fn mount(&self, plan: &MountPlan, root: (u32, u32)) -> Result<OwnedFd> {
        let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let lowers = self.lowers.iter().map(path).collect();
        let upper = self.upper.as_ref().map(|upper| (path(&upper.upper), path(&upper.work)));
        let is_volatile = plan.upper.as_ref().is_some_and(|dirs| dirs.volatile);
        let parameters = parameters(lowers, upper, is_volatile);
        let _ids = FilesystemIds::take(root.0, root.1)?;
        new_filesystem("overlay", &parameters, MountAttrFlags::empty())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, chown};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::process::user_namespace::IdMapping;

    const HOST: u32 = 300_000;

    fn ids() -> IdMappings {
        let range = vec![IdMapping { container: 0, host: HOST, size: 1000 }];
        IdMappings { users: range.clone(), groups: range }
    }

    fn plan(dir: &Path) -> MountPlan {
        for name in ["lower", "more", "upper", "work"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        for (name, uid, gid) in [("lower/file", 5, 6), ("more/far", 5000, 0)] {
            fs::write(dir.join(name), "x").unwrap();
            chown(dir.join(name), Some(uid), Some(gid)).unwrap();
        }
        let upper = UpperDirs { upper: dir.join("upper"), work: dir.join("work"), volatile: false };
        MountPlan { lowers: vec![dir.join("lower"), dir.join("more")], upper: Some(upper), ids: Some(ids()) }
    }

    fn owner(path: impl AsRef<Path>) -> (u32, u32) {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.uid(), metadata.gid())
    }

    fn check(dir: &Path, mount: &OwnedFd) {
        let seen = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        assert_eq!(owner(seen.join("file")), (HOST + 5, HOST + 6));
        assert_eq!(owner(seen.join("far")), (65534, HOST), "an id without a name");
        chown(seen.join("file"), Some(HOST + 7), Some(HOST + 8)).unwrap();
        assert_eq!((owner(dir.join("upper/file")), owner(dir.join("lower/file"))), ((7, 8), (5, 6)));
        assert!(chown(seen.join("file"), Some(5), None).is_err(), "an id of the host's");
        // The host's root has no id there; the container's has.
        assert!(fs::write(seen.join("new"), "").is_err());
        let _ids = FilesystemIds::take(HOST, HOST).unwrap();
        fs::write(seen.join("new"), "").unwrap();
        assert_eq!((owner(seen.join("new")), owner(dir.join("upper/new"))), ((HOST, HOST), (0, 0)));
        fs::remove_file(seen.join("file")).unwrap();
        assert_eq!(owner(dir.join("upper/file")), (0, 0), "a whiteout");
    }

    #[test]
    fn layers_show_mapped_ids_attached_or_not() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let check_one = |mount: &dyn Fn(&MountPlan) -> Result<OwnedFd>| {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let plan = plan(dir.path());
            check(dir.path(), &mount(&plan).unwrap());
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!table.contains(dir.path().to_str().unwrap()), "{table}");
        };
        let namespace = namespace_of_a_child();
        let plan = MountPlan { lowers: vec!["/proc".into(), "/".into()], upper: None, ids: Some(ids()) };
        let Err(error) = MappedLayers::open(&plan, namespace.as_fd()) else { panic!("procfs maps no ids") };
        assert_eq!((error.errno, error.arguments.as_str()), (Errno::INVAL, "/proc, MOUNT_ATTR_IDMAP"));
        check_one(&|plan| plan.mount_attached(namespace.as_fd(), (HOST, HOST)));
        check_one(&|plan| MappedLayers::open(plan, namespace.as_fd())?.mount(plan, (HOST, HOST)));
    }

    /// Makes a user namespace by unshare(1), for a test has threads, and cannot be cloned.
    fn namespace_of_a_child() -> OwnedFd {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        let mut child = Command::new("unshare")
            .args(["--user", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        crate::process::user_namespace::map_ids(pid, &ids()).unwrap();
        let path = format!("/proc/{}/ns/user", child.id());
        let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        namespace
    }

    #[test]
    fn mappings_without_root_are_refused() {
        let plan = MountPlan { lowers: vec!["/".into()], upper: None, ids: Some(IdMappings::default()) };
        assert_eq!(plan.mount_detached().unwrap_err().errno, Errno::INVAL);
    }
}
