// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One mount per chain and machine, at `ROOT/chains/<chainID>`, shared by all containers of the image and with it one page
//! cache.
//!
//! `ROOT/chains/<chainID>.json` says which inodes of which store the mount was made of. Where repair or pull has replaced one,
//! the next user mounts anew and detaches the old mount lazily; containers that run keep it.
//!
//! Data-roots may share a ROOT: whoever changes a mount holds the lock on the directory `ROOT/chains` itself.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_erofs::ImageHeader;
use stos_spec::ChainId;
use stos_store::Lock;
use stos_store::files::{self, Durability};
use stos_sys::mount::{self, MountPlan, UpperDirs};

use crate::LayerFs;
use crate::chain::ChainRecord;
use crate::error::{Error, Result};

/// Which files a mount reads.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MountedFrom {
    store: PathBuf,
    /// Inode numbers, as those of the devices.
    image: u64,
    devices: Vec<u64>,
}

impl MountedFrom {
    fn of(record: &ChainRecord, store: &Path) -> Self {
        let inode = |device: &stos_spec::DiffId| {
            record
                .layers
                .iter()
                .find(|layer| layer.diff_id == *device)
                .map_or(0, |layer: &crate::chain::SealedLayer| layer.tar.inode)
        };
        Self { store: store.to_owned(), image: record.image.inode, devices: record.devices.iter().map(inode).collect() }
    }
}

impl LayerFs {
    fn mounts_dir(&self) -> PathBuf {
        self.run_root.join("chains")
    }

    /// Gives the place where a chain is mounted, or would be.
    pub fn chain_mount_point(&self, chain: ChainId) -> PathBuf {
        self.mounts_dir().join(chain.hex())
    }

    /// Makes sure that the chain is mounted from the very files of `record`, and gives the mount point.
    pub fn ensure_chain_mounted(&self, record: &ChainRecord) -> Result<PathBuf> {
        let point = self.chain_mount_point(record.chain_id);
        if self.is_mounted_from(record, &point)? {
            return Ok(point);
        }
        let _lock = self.lock_mounts()?;
        if !self.is_mounted_from(record, &point)? {
            self.mount_chain(record, &point)?;
        }
        Ok(point)
    }

    /// Waits for the right to change mounts. It is the directory's own lock, which is the same through a mount of it on itself.
    fn lock_mounts(&self) -> Result<Lock> {
        let dir = self.mounts_dir();
        files::ensure_directory(&dir)?;
        Ok(Lock::wait_for_directory(&dir)?)
    }

    fn is_mounted_from(&self, record: &ChainRecord, point: &Path) -> Result<bool> {
        if !is_mount_root(point)? {
            return Ok(false);
        }
        let made_from = self.mounted_from(record.chain_id);
        Ok(made_from.is_some_and(|files| files == MountedFrom::of(record, self.store.root())))
    }

    /// Gives what a chain was mounted from; `None` where nobody has written that, or not whole.
    fn mounted_from(&self, chain: ChainId) -> Option<MountedFrom> {
        files::read_json(&self.mount_record_path(chain)).ok().flatten()
    }

    fn mount_record_path(&self, chain: ChainId) -> PathBuf {
        self.mounts_dir().join(format!("{}.json", chain.hex()))
    }

    /// Mounts the chain; what is mounted there stays until the new mount can take its place. The caller holds the lock.
    #[tracing::instrument(name = "mount", level = "debug", skip_all, fields(chain = %record.chain_id))]
    fn mount_chain(&self, record: &ChainRecord, point: &Path) -> Result<()> {
        let refuse = |source| Error::Mount { chain: record.chain_id, source };
        mount::ensure_private_area(&self.mounts_dir()).map_err(refuse)?;
        files::ensure_directory(point)?;
        let image_path = self.chain_image_path(record.chain_id);
        let image = files::open(&image_path)?;
        let devices = self.open_devices(record, &image, &image_path)?;
        let detached = mount::mount_erofs(image.as_fd(), &devices).map_err(refuse)?;
        if is_mount_root(point)? {
            mount::replace(detached.as_fd(), point).map_err(refuse)?;
        } else {
            mount::attach(detached.as_fd(), point).map_err(refuse)?;
        }
        // Last: a crash before it leaves a mount that nobody knows, and the next user mounts anew.
        let json = files::to_json(&MountedFrom::of(record, self.store.root()));
        Ok(files::replace(&self.mount_record_path(record.chain_id), &self.mounts_dir(), &json, Durability::Volatile)?)
    }

    /// Opens the tars that the image's device table names, in its order, and checks that they are those.
    ///
    /// The kernel checks only their number: a wrong order would silently serve wrong data.
    fn open_devices(&self, record: &ChainRecord, image: &File, image_path: &Path) -> Result<Vec<OwnedFd>> {
        let header = ImageHeader::read(image).map_err(|source| Error::Merge { chain: record.chain_id, source })?;
        let damaged = |expected: String, found: String| Error::DamagedChain {
            chain: record.chain_id,
            path: image_path.to_owned(),
            expected,
            found,
        };
        if header.devices.len() != record.devices.len() {
            let found = format!("{} devices", header.devices.len());
            return Err(damaged(format!("{} devices", record.devices.len()), found));
        }
        let mut opened = Vec::with_capacity(record.devices.len());
        for (device, &layer) in header.devices.iter().zip(&record.devices) {
            if device.tag != *layer.as_bytes() {
                let found = stos_spec::DiffId::from_bytes(device.tag);
                return Err(damaged(format!("device {layer}"), format!("device {found}")));
            }
            let path = self.store.layer_dir(layer).join("layer.tar");
            let file = files::open(&path)?;
            let size = file.metadata().map_err(Error::io("stat", &path))?.len();
            if size.div_ceil(stos_erofs::BLOCK) != device.blocks {
                let expected = format!("{} blocks", device.blocks);
                return Err(Error::DamagedLayer { layer, path, expected, found: format!("{size} bytes") });
            }
            opened.push(file.into());
        }
        Ok(opened)
    }

    /// Detaches a chain's mount, if there is one, unless another store made it. Containers that run keep theirs.
    pub fn unmount_chain(&self, chain: ChainId) -> Result<()> {
        let _lock = self.lock_mounts()?;
        match self.mounted_from(chain) {
            Some(from) if from.store != self.store.root() => Ok(()),
            _ => self.remove_mount(chain),
        }
    }

    /// The same for who holds the lock.
    fn remove_mount(&self, chain: ChainId) -> Result<()> {
        let point = self.chain_mount_point(chain);
        // More than one, where a crash has stopped a replacement.
        while is_mount_root(&point)? {
            mount::detach(&point).map_err(|source| Error::Mount { chain, source })?;
        }
        files::remove_file(&self.mount_record_path(chain))?;
        match std::fs::remove_dir(&point) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &point)(error)),
            _ => Ok(()),
        }
    }

    /// Detaches the mounts of this store's chains that the store does not hold any more, and removes what mounts have left.
    /// Those of other stores are not touched. The caller holds the right to sweep.
    pub fn sweep_mounts(&self) -> Result<()> {
        let _lock = self.lock_mounts()?;
        for name in files::list_names(&self.mounts_dir())? {
            let Some(chain) = ChainId::from_hex(name.strip_suffix(".json").unwrap_or(&name)) else { continue };
            let is_stray = match self.mounted_from(chain) {
                Some(from) => from.store == self.store.root() && !self.store.chain_dir(chain).exists(),
                // Only a mount could be somebody's.
                None => !is_mount_root(&self.chain_mount_point(chain))?,
            };
            if is_stray {
                self.remove_mount(chain)?;
            }
        }
        Ok(())
    }

    /// Gives the plan of a container's root: the chain below, the container's own directories above.
    ///
    /// The chain must be mounted ([`Self::ensure_chain_mounted`]): a container must not run on the empty directory below.
    pub fn container_plan(&self, chain: ChainId, upper: UpperDirs) -> Result<MountPlan> {
        let point = self.chain_mount_point(chain);
        if !is_mount_root(&point)? {
            return Err(Error::NotMounted { chain, path: point });
        }
        Ok(MountPlan { lowers: vec![point], upper: Some(upper) })
    }
}

fn is_mount_root(path: &Path) -> Result<bool> {
    Ok(mount::mount_identity(path)?.is_some_and(|identity| identity.is_mount_root))
}
