// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an image has at a volume's place goes into the volume, once, where that is empty.
//!
//! Into a volume that is just being made it is copied before anybody can see that. Into one that is there it is copied in staging first;
//! then the record says that it has begun, each of the names at the top comes by one rename, and the record says that it is done. A crash
//! between leaves `begun`, and the next use brings what is missing: a name is there whole or not at all. A container that has the volume
//! already sees names come, and can lead nothing elsewhere: no path in the volume is ever looked up.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;
use stos_store::{CopyUp, VolumeRecord, files};
use stos_sys::rooted::{Root, file_type};

use super::copy_tree::copy_tree;
use crate::Engine;
use crate::error::Result;
use crate::filesystem::copy_attributes;

/// A directory of an image.
pub(super) struct ImageFiles {
    directory: OwnedFd,
    /// Whether there is nothing in it: then a volume is only its image's user's, and another image may still bring files.
    pub is_empty: bool,
}

impl ImageFiles {
    /// Finds what an image has at `target`. The image decides what lies there; a symlink in it never leads out of it. `None` where there
    /// is no directory.
    ///
    /// # Errors
    /// Where the image cannot be read: then it is not known, and the volume would stay empty for ever.
    pub fn find(image_root: &Path, target: &Path) -> Result<Option<Self>> {
        let directory = match Root::open(image_root)?.resolve(target) {
            Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            other => other?,
        };
        let mut files = Self { directory, is_empty: false };
        if file_type(files.directory.as_fd())? != FileType::Directory {
            return Ok(None);
        }
        files.is_empty = is_empty(&files.path())?;
        Ok(Some(files))
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/.", self.directory.as_raw_fd()))
    }

    /// Copies them into an empty directory that nobody sees yet.
    pub fn copy_to(&self, directory: &Path) -> Result<()> {
        copy_tree(&self.path(), directory)
    }

    /// Copies them, durably, into a volume that is there and has not had its copy yet. The volume itself keeps the user and group of
    /// `owner`, which it was made for. The caller holds its lock.
    pub fn copy_into(&self, engine: &Engine, record: &VolumeRecord, owner: (Option<u32>, Option<u32>)) -> Result<()> {
        let data = engine.store.volume_data(&record.name);
        if self.is_empty {
            return self.own(&data);
        }
        // Somebody's own files: they are what the volume is for.
        if record.copy_up == CopyUp::Pending && !is_empty(&data)? {
            return Ok(());
        }
        let staged = engine.store.stage()?;
        self.copy_to(staged.path())?;
        staged.sync_filesystem()?;
        if record.copy_up == CopyUp::Pending {
            engine.store.note_copy_up(record, CopyUp::Begun)?;
        }
        for name in std::fs::read_dir(staged.path()).map_err(stos_store::Error::io("list", staged.path()))? {
            let name = name.map_err(stos_store::Error::io("list", staged.path()))?.file_name();
            let to = data.join(&name);
            match files::rename_new(&staged.path().join(&name), &to) {
                // It has come before, or a container was quicker.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(stos_store::Error::io("rename a file to", to)(errno).into()),
            }
        }
        // The directory itself: those of the image's own, not of staging's, whose time has changed by now.
        copy_attributes(&self.path(), &data)?;
        chown(&data, owner.0, owner.1).map_err(stos_store::Error::io("chown", &data))?;
        files::sync_directory(&data)?;
        Ok(engine.store.note_copy_up(record, CopyUp::Done)?)
    }
}

impl ImageFiles {
    /// Gives an empty volume that is still nobody's the owner and mode of the image's directory (podman's `fixVolumePermissions`).
    fn own(&self, data: &Path) -> Result<()> {
        let metadata = std::fs::metadata(data).map_err(stos_store::Error::io("stat", data))?;
        if (metadata.uid(), metadata.gid()) != (0, 0) || !is_empty(data)? {
            return Ok(());
        }
        copy_attributes(&self.path(), data)?;
        Ok(files::sync_directory(data)?)
    }
}

fn is_empty(directory: &Path) -> Result<bool> {
    let mut entries = std::fs::read_dir(directory).map_err(stos_store::Error::io("list", directory))?;
    Ok(entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use stos_store::files::{Durability, list_names};

    use super::*;

    struct Scene {
        dir: tempfile::TempDir,
        engine: Engine,
        record: VolumeRecord,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
            let image = dir.path().join("image/srv/sub");
            fs::create_dir_all(&image).unwrap();
            fs::write(image.join("deep"), "deep").unwrap();
            fs::write(dir.path().join("image/srv/file"), "file").unwrap();
            fs::set_permissions(dir.path().join("image/srv"), fs::Permissions::from_mode(0o2750)).unwrap();
            fs::create_dir(dir.path().join("image/empty")).unwrap();
            std::os::unix::fs::symlink("../../../../../etc", dir.path().join("image/out")).unwrap();
            let record = VolumeRecord::new("v".parse().unwrap(), String::new());
            let staged = engine.store.stage_volume().unwrap();
            assert!(engine.store.commit_volume(staged, &record, Durability::Durable, false).unwrap());
            Self { dir, engine, record }
        }

        fn find(&self, target: &str) -> Option<ImageFiles> {
            ImageFiles::find(&self.dir.path().join("image"), Path::new(target)).unwrap()
        }

        fn data(&self) -> PathBuf {
            self.engine.store.volume_data(&self.record.name)
        }

        fn copy(&self) -> CopyUp {
            let record = || self.engine.store.volume(&self.record.name).unwrap().unwrap();
            self.find("/srv").unwrap().copy_into(&self.engine, &record(), (Some(7), None)).unwrap();
            assert_eq!(list_names(&self.engine.store.staging_area()).unwrap(), [""; 0]);
            record().copy_up
        }
    }

    #[test]
    fn an_empty_volume_gets_what_the_image_has() {
        let scene = Scene::new();
        for nothing in ["/none", "/srv/file", "/out"] {
            assert!(scene.find(nothing).is_none(), "{nothing}");
        }
        // That it is not there is one thing, that nobody can tell another.
        let image = scene.dir.path().join("image");
        std::os::unix::fs::symlink("x".repeat(300), image.join("long")).unwrap();
        assert!(ImageFiles::find(&image, Path::new("/long")).is_err());
        assert_eq!(scene.copy(), CopyUp::Done);
        assert_eq!(fs::read(scene.data().join("sub/deep")).unwrap(), b"deep");
        let metadata = fs::metadata(scene.data()).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o2750, 7, 0), "whose it was made for");
    }

    #[test]
    fn an_empty_directory_makes_a_volume_its_owner_s_and_waits_for_files() {
        let scene = Scene::new();
        let image = scene.dir.path().join("image/empty");
        std::os::unix::fs::chown(&image, Some(100), Some(101)).unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o2770)).unwrap();
        let own = || {
            let record = scene.engine.store.volume(&scene.record.name).unwrap().unwrap();
            scene.find("/empty").unwrap().copy_into(&scene.engine, &record, (None, None)).unwrap();
            let metadata = fs::metadata(scene.data()).unwrap();
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
        };
        assert_eq!(own(), (100, 101, 0o2770));
        // Somebody else has it now, and keeps it.
        std::os::unix::fs::chown(scene.data(), Some(7), Some(8)).unwrap();
        assert_eq!((own().0, own().1), (7, 8));
        assert_eq!(scene.copy(), CopyUp::Done);
    }

    #[test]
    fn a_volume_that_has_files_keeps_them_and_gets_no_others() {
        let scene = Scene::new();
        fs::write(scene.data().join("own"), "own").unwrap();
        assert_eq!(scene.copy(), CopyUp::Pending);
        assert_eq!(list_names(&scene.data()).unwrap(), ["own"]);
    }

    #[test]
    fn a_copy_that_a_crash_cut_short_is_completed() {
        let scene = Scene::new();
        scene.engine.store.note_copy_up(&scene.record, CopyUp::Begun).unwrap();
        // One name had come, and somebody has changed it since.
        fs::write(scene.data().join("file"), "changed").unwrap();
        assert_eq!(scene.copy(), CopyUp::Done);
        assert_eq!(fs::read(scene.data().join("file")).unwrap(), b"changed");
        assert_eq!(fs::read(scene.data().join("sub/deep")).unwrap(), b"deep");
    }
}
