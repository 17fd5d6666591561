// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images in files, given to those who read them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use stos_sys::SysError;
use stos_sys::mount::mount_erofs;
use stos_testkit::environment;
use stos_testkit::erofs_image::Image;
use tempfile::TempDir;

use crate::layers;

/// Has `fsck.erofs` look at an image where erofs-utils are at least of version 1.8, and has the kernel mount it, where it
/// does so and we are root. `look` is given the root of the mount.
pub(crate) fn judge(image: &Image, look: impl FnOnce(&Path)) {
    thread_local!(static SCRATCH: TempDir = environment::scratch());
    SCRATCH.with(|scratch| {
        let path = scratch.path().join("image.erofs");
        fs::write(&path, &image.bytes).unwrap();
        let device = |(number, bytes): (usize, &Vec<u8>)| {
            let path = scratch.path().join(format!("{number}.device"));
            fs::write(&path, bytes).unwrap();
            path
        };
        let devices: Vec<_> = image.devices.iter().enumerate().map(device).collect();
        if let Some(fsck) = fsck() {
            check(fsck, &path, &devices);
        }
        if kernel_mounts(scratch.path()) {
            let mount = mount(&path, &devices).unwrap();
            look(&PathBuf::from(format!("/proc/self/fd/{}/", mount.as_raw_fd())));
        }
    });
}

/// Gives the paths below the root, directories before what they hold.
pub(crate) fn walk(root: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert_ne!(metadata.ino(), 0);
            if metadata.is_dir() {
                open.push(path.clone());
            }
            found.push((path, metadata));
        }
    }
    found
}

fn mount(image: &Path, devices: &[PathBuf]) -> Result<OwnedFd, SysError> {
    let open = |path: &PathBuf| File::open(path).unwrap().into();
    let devices: Vec<OwnedFd> = devices.iter().map(open).collect();
    mount_erofs(File::open(image).unwrap().as_fd(), &devices)
}

/// Whether the kernel can be asked: tried once, with the smallest image.
fn kernel_mounts(scratch: &Path) -> bool {
    static MOUNTS: OnceLock<bool> = OnceLock::new();
    *MOUNTS.get_or_init(|| {
        let path = scratch.join("empty.erofs");
        fs::write(&path, layers::image(&[]).unwrap().0.bytes).unwrap();
        mount(&path, &[]).is_ok()
    })
}

/// fsck.erofs before 1.8 reads no devices of 512-byte blocks.
fn fsck() -> Option<&'static Path> {
    static FSCK: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let path = environment::tool("fsck.erofs")?;
        let output = Command::new(&path).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next()?.split_whitespace().last()?.to_owned();
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        ((numbers.next(), numbers.next()) >= (Some(1), Some(8))).then_some(path)
    };
    FSCK.get_or_init(find).as_deref()
}

fn check(fsck: &Path, image: &Path, devices: &[PathBuf]) {
    let mut command = Command::new(fsck);
    for device in devices {
        let mut option = OsString::from("--device=");
        option.push(device);
        command.arg(option);
    }
    let output = command.arg("--extract").arg(image).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
