// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One mount per chain and machine, below `ROOT/chains`, shared by all containers of the image and with it one page cache.
//!
//! ```text
//! <chainID>         the merged image of the `erofs` backend; all containers' lower
//! <chainID>.dirs    a view of the stacked directories of the `dirs` backend; its containers stack them themselves
//! <name>.json       which inodes of which store the mount was made of, and when
//! ```
//!
//! Where repair or pull has replaced one of the inodes, the next user mounts anew and detaches the old mount lazily;
//! containers that run keep it. Data-roots may share a ROOT: whoever changes a mount holds the lock on the directory
//! `ROOT/chains` itself.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_spec::ChainId;
use stos_store::Lock;
use stos_store::files::{self, Durability};
use stos_sys::mount::{self, MountChange};

use crate::backend::BackendKind;
use crate::error::{Error, Result};

/// `MOUNT_ATTR_NOSUID` and `MOUNT_ATTR_NODEV` of mount_setattr(2): what an image's files may do is for its containers, whose overlays have
/// attributes of their own.
const NO_SUID_NO_DEVICES: u64 = 0x2 | 0x4;

/// Which files a mount reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountedFrom {
    pub(crate) store: PathBuf,
    /// Inode numbers: of the merged image, or of the corrections.
    pub(crate) image: u64,
    /// Those of the devices, or of the stacked directories.
    pub(crate) devices: Vec<u64>,
}

/// The record of a mount.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MountRecord {
    /// What it reads.
    #[serde(flatten)]
    pub(crate) from: MountedFrom,
    /// When it was mounted, in clock ticks since the boot; 0 where that is not known.
    #[serde(default)]
    pub(crate) mounted: u64,
}

/// The mounts of one store's chains below one ROOT.
#[derive(Debug, Clone)]
pub(crate) struct Mounts {
    dir: PathBuf,
    store: PathBuf,
}

impl Mounts {
    pub(crate) fn new(run_root: &Path, store: &Path) -> Self {
        Self { dir: run_root.join("chains"), store: store.to_owned() }
    }

    /// Gives the place where a chain is mounted, or would be.
    pub(crate) fn point(&self, kind: BackendKind, chain: ChainId) -> PathBuf {
        self.dir.join(name_of(kind, chain))
    }

    /// Makes sure that the chain is mounted from the very files of `from`, by `make` where it is not, and gives the place.
    pub(crate) fn ensure(
        &self,
        kind: BackendKind,
        chain: ChainId,
        from: &MountedFrom,
        make: impl FnOnce() -> Result<OwnedFd>,
    ) -> Result<PathBuf> {
        let name = name_of(kind, chain);
        let point = self.dir.join(&name);
        if self.is_mounted_from(from, &name)? {
            return Ok(point);
        }
        let _lock = self.lock()?;
        if !self.is_mounted_from(from, &name)? {
            self.mount(&name, chain, from, make)?;
        }
        Ok(point)
    }

    /// Waits for the right to change mounts. It is the directory's own lock, which is the same through a mount of it on itself.
    fn lock(&self) -> Result<Lock> {
        files::ensure_directory(&self.dir)?;
        Ok(Lock::wait_for_directory(&self.dir)?)
    }

    fn is_mounted_from(&self, from: &MountedFrom, name: &str) -> Result<bool> {
        if !self.is_mounted(&self.dir.join(name))? {
            return Ok(false);
        }
        Ok(self.mounted_from(name).is_some_and(|files| files == *from))
    }

    /// Gives what a chain was mounted from; `None` where nobody has written that, or not whole.
    fn mounted_from(&self, name: &str) -> Option<MountedFrom> {
        self.read(name).map(|record| record.from)
    }

    fn read(&self, name: &str) -> Option<MountRecord> {
        files::read_json(&self.record_path(name)).ok().flatten()
    }

    /// Gives the record of a chain's mount, if it is mounted and this store has mounted it.
    pub(crate) fn own_record(&self, kind: BackendKind, chain: ChainId) -> Result<Option<MountRecord>> {
        let name = name_of(kind, chain);
        if !self.is_mounted(&self.dir.join(&name))? {
            return Ok(None);
        }
        Ok(self.read(&name).filter(|record| record.from.store == self.store))
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    /// Mounts the chain; what is mounted there stays until the new mount can take its place. The caller holds the lock.
    #[tracing::instrument(name = "mount", level = "debug", skip_all, fields(chain = %chain))]
    fn mount(
        &self,
        name: &str,
        chain: ChainId,
        from: &MountedFrom,
        make: impl FnOnce() -> Result<OwnedFd>,
    ) -> Result<()> {
        let refuse = |source| Error::Mount { chain, source };
        let point = self.dir.join(name);
        mount::ensure_private_area(&self.dir).map_err(refuse)?;
        files::ensure_directory(&point)?;
        let detached = make()?;
        let closed = MountChange { set: NO_SUID_NO_DEVICES, ..MountChange::default() };
        mount::change_mount(detached.as_fd(), closed).map_err(refuse)?;
        if self.is_mounted(&point)? {
            mount::replace(detached.as_fd(), &point).map_err(refuse)?;
        } else {
            mount::attach(detached.as_fd(), &point).map_err(refuse)?;
        }
        // Last: a crash before it leaves a mount that nobody knows, and the next user mounts anew.
        let record = MountRecord { from: from.clone(), mounted: stos_sys::process::identity::ticks_since_boot() };
        Ok(files::replace(&self.record_path(name), &self.dir, &files::to_json(&record), Durability::Volatile)?)
    }

    /// Detaches a chain's mount, if there is one, unless another store made it. Containers that run keep theirs.
    pub(crate) fn unmount(&self, kind: BackendKind, chain: ChainId) -> Result<()> {
        let name = name_of(kind, chain);
        let _lock = self.lock()?;
        match self.mounted_from(&name) {
            Some(from) if from.store != self.store => Ok(()),
            _ => self.remove(&name, chain),
        }
    }

    /// The same for who holds the lock.
    fn remove(&self, name: &str, chain: ChainId) -> Result<()> {
        let point = self.dir.join(name);
        // More than one, where a crash has stopped a replacement.
        while self.is_mounted(&point)? {
            mount::detach(&point).map_err(|source| Error::Mount { chain, source })?;
        }
        files::remove_file(&self.record_path(name))?;
        match std::fs::remove_dir(&point) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &point)(error)),
            _ => Ok(()),
        }
    }

    /// Lists the chains that this store has mounted.
    pub(crate) fn own_chains(&self) -> Result<Vec<ChainId>> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let names = files::list_names(&self.dir)?;
        let own = names.iter().filter_map(|name| Some((name, parse_name(name)?.1)));
        let is_own = |name: &str| self.mounted_from(name).is_some_and(|from| from.store == self.store);
        Ok(own.filter(|(name, _)| is_own(name)).map(|(_, chain)| chain).collect())
    }

    /// Detaches the mounts of this store's chains that it does not hold any more, as `is_held` tells, and removes what mounts
    /// have left; with `dry_run` it only tells which. Those of other stores are not touched. The caller holds the right to sweep.
    pub(crate) fn sweep(&self, is_held: impl Fn(BackendKind, ChainId) -> bool, dry_run: bool) -> Result<Vec<String>> {
        let mut strays = Vec::new();
        if !self.dir.exists() {
            return Ok(strays);
        }
        let _lock = self.lock()?;
        for file in files::list_names(&self.dir)? {
            let name = file.strip_suffix(".json").unwrap_or(&file);
            let Some((kind, chain)) = parse_name(name) else { continue };
            let is_stray = match self.mounted_from(name) {
                Some(from) => from.store == self.store && !is_held(kind, chain),
                // Only a mount could be somebody's.
                None => !self.is_mounted(&self.dir.join(name))?,
            };
            // A mount and its record have one name.
            if is_stray && strays.last().is_none_or(|last| last != name) {
                if !dry_run {
                    self.remove(name, chain)?;
                }
                strays.push(name.to_owned());
            }
        }
        Ok(strays)
    }

    /// Tells whether something is mounted at a place.
    pub(crate) fn is_mounted(&self, path: &Path) -> Result<bool> {
        Ok(mount::mount_identity(path)?.is_some_and(|identity| identity.is_mount_root))
    }
}

/// What the names of the `dirs` backend's views end with.
const DIRS_SUFFIX: &str = ".dirs";

fn name_of(kind: BackendKind, chain: ChainId) -> String {
    match kind {
        BackendKind::Erofs => chain.hex().to_string(),
        BackendKind::Dirs => format!("{}{DIRS_SUFFIX}", chain.hex()),
    }
}

fn parse_name(name: &str) -> Option<(BackendKind, ChainId)> {
    match name.strip_suffix(DIRS_SUFFIX) {
        Some(hex) => Some((BackendKind::Dirs, ChainId::from_hex(hex)?)),
        None => Some((BackendKind::Erofs, ChainId::from_hex(name)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_without_a_time_is_older_than_any_container() {
        let from = MountedFrom { store: "/s".into(), image: 1, devices: vec![2] };
        let old: MountRecord = serde_json::from_slice(&files::to_json(&from)).unwrap();
        assert_eq!((&old.from, old.mounted), (&from, 0));
        let json = files::to_json(&MountRecord { from: from.clone(), mounted: 7 });
        let read: MountRecord = serde_json::from_slice(&json).unwrap();
        assert_eq!((read.from, read.mounted), (from, 7));
    }

    #[test]
    fn names_of_mounts_tell_the_backend() {
        let chain = ChainId::of(b"x");
        for kind in [BackendKind::Erofs, BackendKind::Dirs] {
            assert_eq!(parse_name(&name_of(kind, chain)), Some((kind, chain)));
        }
        for name in ["", "x", ".dirs", "00.dirs", "chains.json"] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
