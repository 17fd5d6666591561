// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's own directories and files.
//!
//! ```text
//! upper/  work/       overlay's writable part, made in staging
//! hosts  hostname  resolv.conf
//!                     made where the container is used first
//! log  exit.json      written by the monitor
//! ```

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{AtFlags, Timespec, Timestamps, utimensat};
use stos_store::Error as StoreError;
use stos_store::files;
use stos_sys::xattr;

use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::Result;
use crate::namespaces::seen_hostname;
use crate::networking::{Networking, OwnFiles, write_own_file};
use crate::options::Network;
use crate::user_namespace::UserNamespace;

/// Makes the directories of a new container in `dir`.
///
/// The upper directory gets mode, owner and attributes of the image's root, the directory where its chain is mounted: overlayfs shows
/// the upper's. The files that the container brings itself come later ([`ensure_own_files`]).
pub fn create_container_filesystem(dir: &Path, image_root: &Path) -> Result<()> {
    for name in ["upper", "work"] {
        files::ensure_directory(&dir.join(name))?;
    }
    copy_attributes(image_root, &dir.join("upper"))
}

/// Writes those of a container's own files that it does not have: before it is used first, and where a power cut has taken or emptied
/// them, for nobody waits until they are on disk. The caller holds its lock.
///
/// `hostname` is the container's, where the caller knows it.
pub(crate) fn ensure_own_files(engine: &Engine, record: &ContainerRecord, hostname: Option<&str>) -> Result<()> {
    let hostname = || hostname.map_or_else(|| seen_hostname(engine, record), |it| Ok(it.to_owned()));
    let root = record.user_namespace.as_ref().map(UserNamespace::root);
    complete(&engine.store.container_dir(&record.id), hostname, (record.network, &record.networking), root)
}

/// The same in a directory. `root` is the container's, by the numbers that the host has for it.
fn complete(
    dir: &Path,
    hostname: impl FnOnce() -> Result<String>,
    (network, networking): (Network, &Networking),
    root: Option<(u32, u32)>,
) -> Result<()> {
    let is_lost = |name: &&str| fs::metadata(dir.join(name)).map_or(true, |metadata| metadata.len() == 0);
    let own = OwnFiles { hostname: "", network, networking, now: None };
    let lost: Vec<_> = own.names().into_iter().filter(is_lost).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let hostname = hostname()?;
    lost.into_iter().try_for_each(|name| write_own_file(dir, name, OwnFiles { hostname: &hostname, ..own }, root))
}

/// Gives `to` the owner, mode, attributes and mtime of `from`, both directories.
///
/// # Errors
/// What the filesystem says.
pub fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    let metadata = fs::metadata(from).map_err(StoreError::io("stat", from))?;
    chown(to, Some(metadata.uid()), Some(metadata.gid())).map_err(StoreError::io("chown", to))?;
    let mode = fs::Permissions::from_mode(metadata.mode() & 0o7777);
    fs::set_permissions(to, mode).map_err(StoreError::io("chmod", to))?;
    copy_xattrs(from, to)?;
    set_mtime(to, &metadata)
}

/// Copies the extended attributes of a directory or regular file.
pub(crate) fn copy_xattrs(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from).map_err(StoreError::io("open", from))?;
    let names = xattr::list(&source)?;
    if names.is_empty() {
        return Ok(());
    }
    let target = File::open(to).map_err(StoreError::io("open", to))?;
    for name in names {
        if let Some(value) = xattr::get(&source, &name)? {
            xattr::set(&target, &name, &value)?;
        }
    }
    Ok(())
}

pub(crate) fn set_mtime(path: &Path, metadata: &fs::Metadata) -> Result<()> {
    let time = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    let set = utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
    Ok(set.map_err(StoreError::io("set the times of", path))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_directory_looks_like_the_image_s_root() {
        let image = tempfile::tempdir().unwrap();
        fs::set_permissions(image.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        create_container_filesystem(dir.path(), image.path()).unwrap();
        assert_eq!(fs::metadata(dir.path().join("upper")).unwrap().mode() & 0o7777, 0o711);
        assert!(dir.path().join("work").is_dir());
    }

    #[test]
    fn what_is_missing_of_the_own_files_is_written_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let networking = Networking::default();
        let network = (Network::None, &networking);
        let again = |root| complete(dir.path(), || Ok("h".to_owned()), network, root);
        again(None).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\th\n";
        assert_eq!((read("hostname").as_str(), read("hosts").as_str()), ("h\n", hosts));
        fs::write(dir.path().join("hosts"), "by the container").unwrap();
        fs::write(dir.path().join("hostname"), "").unwrap();
        again(Some((1, 2))).unwrap();
        assert_eq!((read("hostname").as_str(), read("hosts").as_str()), ("h\n", "by the container"));
        let hostname = fs::metadata(dir.path().join("hostname")).unwrap();
        assert_eq!((hostname.mode() & 0o7777, hostname.uid(), hostname.gid()), (0o644, 1, 2));
        let unused = || -> Result<String> { panic!("nothing is lost") };
        complete(dir.path(), unused, network, None).unwrap();
        assert!(!dir.path().join("resolv.conf").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = create_container_filesystem(Path::new("/proc/none"), Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("/proc/none"), "{error}");
    }
}
