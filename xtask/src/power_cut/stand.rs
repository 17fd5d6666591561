// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Loop devices and mounts that go by themselves, also where this process is killed: its mounts are in a namespace of their own, and a
//! loop device goes with the last mount that uses it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::disk::Disk;
use crate::place::detach_below;
use crate::process::{Run, output};

/// How long a file system may be busy after the last process that used it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file system that a disk is formatted with.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// As mount(2) calls it.
    pub name: &'static str,
    /// What makes it; the device comes last. Zeros need not be written, for the disk is new.
    pub mkfs: &'static [&'static str],
    /// How large the disk is, in bytes.
    pub size: u64,
}

/// Those that are tried, with their default options.
pub const FORMATS: [Format; 2] = [
    Format { name: "ext4", mkfs: &["mkfs.ext4", "-q", "-E", "nodiscard"], size: 128 << 20 },
    Format { name: "xfs", mkfs: &["mkfs.xfs", "-q", "-K"], size: 320 << 20 },
];

/// Gives this process, which must have one thread yet, mounts of its own that end with it.
pub fn have_private_mounts() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unsharing mounts")?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("making mounts private")
}

/// A loop device that is no longer attached when this goes, or when its mount does.
pub struct Loop {
    device: PathBuf,
}

impl Loop {
    /// Attaches one to a file: past the page cache where its file system can do that.
    pub fn attach(file: &Path) -> anyhow::Result<Self> {
        let attach = |direct: &str| {
            output(Command::new("losetup").args(["--find", "--show", direct]).arg(file))
                .map(|printed| Self { device: PathBuf::from(printed.trim()) })
        };
        attach("--direct-io=on").or_else(|_| attach("--direct-io=off"))
    }

    /// Makes a file system on it.
    pub fn format(&self, format: &Format) -> anyhow::Result<()> {
        Command::new(format.mkfs[0]).args(&format.mkfs[1..]).arg(&self.device).run()
    }

    /// Mounts it. The device goes with the mount.
    pub fn mount(self, format: &Format, point: &Path) -> anyhow::Result<Mount> {
        mount(Some(&self.device), point, Some(format.name), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {}", format.name))?;
        // `self` is detached now, which the kernel puts off until nobody uses it.
        Ok(Mount { point: Some(point.to_owned()) })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// Waits until no loop device is attached to a file: after an unmount that takes a moment.
pub fn wait_until_detached(file: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let attached = output(Command::new("losetup").arg("--associated").arg(file))?;
        if attached.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(start.elapsed() < PATIENCE, "still attached: {attached}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What is unmounted when this goes.
pub struct Mount {
    point: Option<PathBuf>,
}

impl Mount {
    /// Mounts an empty file system in memory.
    pub fn in_memory(point: &Path) -> anyhow::Result<Self> {
        mount(Some("tmpfs"), point, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).context("mounting a tmpfs")?;
        Ok(Self { point: Some(point.to_owned()) })
    }

    /// Unmounts it, and waits until that is possible.
    pub fn unmount(mut self) -> anyhow::Result<()> {
        let Some(point) = self.point.take() else { return Ok(()) };
        let start = Instant::now();
        loop {
            match umount2(&point, MntFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(nix::errno::Errno::EBUSY) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(errno) => {
                    detach_below(&point);
                    return Err(errno).with_context(|| format!("unmounting {}", point.display()));
                }
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(point) = &self.point {
            detach_below(point);
        }
    }
}

/// Fails where an fsync(2) on the file system at `point` does not reach the disk as a flush with all that was written before it.
pub fn check_that_flushes_arrive(disk: &Disk, point: &Path) -> anyhow::Result<()> {
    let path = point.join("probe");
    let mut early = 0;
    for round in 0..3 {
        let text = format!("flushed {round} {:?}\n", std::time::SystemTime::now());
        let mut file = File::create(&path)?;
        file.write_all(text.as_bytes())?;
        file.write_all_at(&[round; 4096], 8192)?;
        early += usize::from(disk.has_flushed(text.as_bytes()));
        file.sync_all()?;
        anyhow::ensure!(disk.has_flushed(text.as_bytes()), "an fsync does not reach the disk as a flush");
    }
    // Now and then the kernel writes by itself.
    anyhow::ensure!(early < 3, "writes are on the disk before their fsync");
    std::fs::remove_file(&path)?;
    Ok(())
}
