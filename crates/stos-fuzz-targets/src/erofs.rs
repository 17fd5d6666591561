// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images, judged by those who read them.

use std::collections::BTreeMap;
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
use stos_testkit::merge_model::{list, write};
use tempfile::TempDir;

use crate::layers::{Layers, image};

/// Writes the image of layers, and mounts it.
///
/// The kernel shows what the model says, and `fsck.erofs` finds nothing wrong. Each is asked where it is there: the kernel
/// by root on a machine that mounts EROFS from files, `fsck.erofs` where erofs-utils are at least of version 1.8.
pub fn erofs(data: &[u8]) {
    thread_local!(static SCRATCH: TempDir = environment::scratch());
    let layers = Layers::of(data);
    let Some(tree) = &layers.tree else { return };
    let tars: Vec<_> = layers.steps.iter().map(|steps| write(steps)).collect();
    let (image, _) = image(&tars).unwrap();
    SCRATCH.with(|scratch| {
        let path = scratch.path().join("image.erofs");
        fs::write(&path, &image.bytes).unwrap();
        let device = |(number, bytes): (usize, &Vec<u8>)| {
            let path = scratch.path().join(format!("{number}.tar"));
            fs::write(&path, bytes).unwrap();
            path
        };
        let devices: Vec<_> = image.devices.iter().enumerate().map(device).collect();
        if let Some(fsck) = fsck() {
            check(fsck, &path, &devices);
        }
        if kernel_mounts(scratch.path()) {
            let mount = mount(&path, &devices).unwrap();
            assert_eq!(shown(&mount), list(tree), "{:?}", layers.steps);
        }
    });
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
        fs::write(&path, image(&[]).unwrap().0.bytes).unwrap();
        mount(&path, &[]).is_ok()
    })
}

/// One line a path below the mount, as the model has it.
fn shown(mount: &OwnedFd) -> Vec<String> {
    let root = PathBuf::from(format!("/proc/self/fd/{}/", mount.as_raw_fd()));
    let mut found = BTreeMap::new();
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                open.push(path.clone());
            }
            found.insert(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), metadata);
        }
    }
    let mut first: BTreeMap<u64, &str> = BTreeMap::new();
    let mut lines = Vec::new();
    for (path, metadata) in &found {
        let (file, mode) = (root.join(path), metadata.mode() & 0o7777);
        let first = *first.entry(metadata.ino()).or_insert(path);
        let line = if metadata.is_dir() {
            format!("d {mode:o} {path}")
        } else if first != path {
            format!("= {path} {first}")
        } else if metadata.is_symlink() {
            format!("l {path} {}", fs::read_link(file).unwrap().display())
        } else {
            format!("f {mode:o} {path} {}", fs::read_to_string(file).unwrap())
        };
        lines.push(line.trim_end().to_owned());
    }
    lines
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
