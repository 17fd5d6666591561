// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Copies what an image has at a volume's place into the volume.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use stos_store::Error as StoreError;

use crate::error::Result;
use crate::filesystem::{copy_attributes, copy_xattrs, set_mtime};

/// Copies the directory `from` into the directory `to`, which is there and empty: types, owners, modes, times, attributes and hard
/// links.
///
/// `from` lies on an image, which cannot change, and nobody else sees `to` yet: paths are safe here. Symlinks are copied,
/// never followed. Nothing recurses, so no depth of directories can exhaust the stack.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut directories = vec![(from.to_owned(), to.to_owned())];
    let mut next = 0;
    while let Some((from, to)) = directories.get(next).cloned() {
        for entry in fs::read_dir(&from).map_err(StoreError::io("list", &from))? {
            let name = entry.map_err(StoreError::io("list", &from))?.file_name();
            let (source, target) = (from.join(&name), to.join(&name));
            let metadata = fs::symlink_metadata(&source).map_err(StoreError::io("stat", &source))?;
            if metadata.is_dir() {
                fs::create_dir(&target).map_err(StoreError::io("create the directory", &target))?;
                directories.push((source, target));
            } else if let Some(first) = links.get(&(metadata.dev(), metadata.ino())) {
                fs::hard_link(first, &target).map_err(StoreError::io("link", &target))?;
            } else {
                copy_file(&source, &target, &metadata)?;
                if metadata.nlink() > 1 {
                    links.insert((metadata.dev(), metadata.ino()), target);
                }
            }
        }
        next += 1;
    }
    // Children change their directory's mtime: the deepest first, after everything is in place.
    directories.iter().rev().try_for_each(|(from, to)| copy_attributes(from, to))
}

fn copy_file(source: &Path, target: &Path, metadata: &fs::Metadata) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        let link = fs::read_link(source).map_err(StoreError::io("read the link", source))?;
        std::os::unix::fs::symlink(link, target).map_err(StoreError::io("make the link", target))?;
    } else if kind.is_file() {
        fs::copy(source, target).map_err(StoreError::io("copy to", target))?;
    } else {
        let node = match kind {
            kind if kind.is_fifo() => FileType::Fifo,
            kind if kind.is_block_device() => FileType::BlockDevice,
            kind if kind.is_char_device() => FileType::CharacterDevice,
            _ => FileType::Socket,
        };
        let made = mknodat(CWD, target, node, Mode::from_raw_mode(0o600), metadata.rdev());
        made.map_err(StoreError::io("make the node", target))?;
    }
    lchown(target, Some(metadata.uid()), Some(metadata.gid())).map_err(StoreError::io("chown", target))?;
    if !kind.is_symlink() {
        let mode = fs::Permissions::from_mode(metadata.mode() & 0o7777);
        fs::set_permissions(target, mode).map_err(StoreError::io("chmod", target))?;
    }
    if kind.is_file() {
        copy_xattrs(source, target)?;
    }
    set_mtime(target, metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_copied_with_all_that_it_is() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("sub")).unwrap();
        fs::write(from.path().join("sub/a"), b"data").unwrap();
        fs::hard_link(from.path().join("sub/a"), from.path().join("b")).unwrap();
        fs::set_permissions(from.path().join("b"), fs::Permissions::from_mode(0o4750)).unwrap();
        lchown(from.path().join("sub"), Some(7), Some(8)).unwrap();
        std::os::unix::fs::symlink("/no/where", from.path().join("link")).unwrap();
        mknodat(CWD, from.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        copy_tree(from.path(), to.path()).unwrap();
        let stat = |path: &str| fs::symlink_metadata(to.path().join(path)).unwrap();
        assert_eq!((stat("b").mode() & 0o7777, stat("b").nlink()), (0o4750, 2));
        assert_eq!(stat("b").ino(), stat("sub/a").ino());
        assert_eq!((stat("sub").uid(), stat("sub").gid()), (7, 8));
        let original = fs::metadata(from.path().join("sub")).unwrap();
        assert_eq!((stat("sub").mtime(), stat("sub").mtime_nsec()), (original.mtime(), original.mtime_nsec()));
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), Path::new("/no/where"));
        assert!(stat("fifo").file_type().is_fifo());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let to = tempfile::tempdir().unwrap();
        let error = copy_tree(Path::new("/no/such"), to.path()).unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
    }
}
