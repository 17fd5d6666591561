// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file system that all engines work on: a new ext4 with a journal, in a file of the host's.
//!
//! On the host's own the times hang on its history: ext4 without a journal steps over every inode freed in the last minutes.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use stos_testkit::environment;

use crate::process::output;

/// The bytes of the file system: what all engines need for the largest image at once.
pub const SIZE: u64 = 12 << 30;

/// A file system of the benchmark's own, gone when dropped.
pub struct Disk {
    directory: tempfile::TempDir,
    device: String,
}

impl Disk {
    /// Makes and mounts it. With `is_quick` its file is not written beforehand.
    pub fn new(is_quick: bool) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("stos-bench-").tempdir_in("/var/tmp")?;
        let (image, place) = (directory.path().join("image"), directory.path().join("disk"));
        let mut file = fs::File::create(&image)?;
        if is_quick {
            file.set_len(SIZE)?;
        } else {
            // Written once: the first write to a hole or to preallocated blocks costs several times the second.
            std::io::copy(&mut std::io::repeat(0).take(SIZE), &mut file)
                .with_context(|| image.display().to_string())?;
            file.sync_all()?;
        }
        fs::create_dir(&place)?;
        output(tool("mkfs.ext4")?.args(["-q", "-E", "nodiscard"]).arg(&image))?;
        let device = output(tool("losetup")?.args(["--direct-io=on", "--find", "--show"]).arg(&image))?;
        let disk = Self { directory, device: device.trim().to_owned() };
        output(tool("mount")?.arg(&disk.device).arg(&place))?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What a command that failed has left mounted in it.
        for name in fs::read_dir(self.path()).into_iter().flatten().flatten() {
            crate::place::detach_below(&name.path());
        }
        let unmounted = tool("umount").and_then(|mut umount| output(umount.arg(self.path())));
        let detached = tool("losetup").and_then(|mut losetup| output(losetup.arg("--detach").arg(&self.device)));
        if let Err(error) = unmounted.and(detached) {
            eprintln!("the benchmark's file system stays: {error:#}");
        }
    }
}

/// A program of the host's.
pub fn tool(name: &str) -> anyhow::Result<Command> {
    environment::tool(name).map(Command::new).with_context(|| format!("{name} is not there"))
}

/// Writes back what is dirty, so that no engine pays for the one before it.
pub fn write_back() {
    // A benchmark without it is only noisier.
    let _ = Command::new("sync").status();
}

/// Empties the page cache, and the kernel's caches of names and inodes: all is cold then.
pub fn chill() -> anyhow::Result<()> {
    write_back();
    fs::write("/proc/sys/vm/drop_caches", "3").context("emptying the page cache")
}

/// Has the page cache hold a file.
pub fn warm_file(path: &Path) -> anyhow::Result<()> {
    let mut file = fs::File::open(path).with_context(|| path.display().to_string())?;
    std::io::copy(&mut file, &mut std::io::sink())?;
    Ok(())
}
