// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One mount per chain and machine, at `ROOT/chains/<chainID>`, shared by all containers of the image and with it one page
//! cache.
//!
//! `ROOT/chains/<chainID>.json` says which inodes the mount was made of. Where repair or pull has replaced one, the next
//! user detaches the mount lazily and mounts anew; containers that run keep the old one.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_erofs::ImageHeader;
use stos_spec::ChainId;
use stos_store::files::{self, Durability};
use stos_sys::mount::{self, MountPlan, UpperDirs};

use crate::LayerFs;
use crate::chain::ChainRecord;
use crate::error::{Error, Result};

/// Which inodes a mount reads.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MountedFrom {
    image: u64,
    devices: Vec<u64>,
}

impl MountedFrom {
    fn of(record: &ChainRecord) -> Self {
        let inode = |device: &stos_spec::DiffId| {
            record
                .layers
                .iter()
                .find(|layer| layer.diff_id == *device)
                .map_or(0, |layer: &crate::chain::SealedLayer| layer.tar.inode)
        };
        Self { image: record.image.inode, devices: record.devices.iter().map(inode).collect() }
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
        let lock = self.store.lock(&format!("chain-{}", record.chain_id.hex()))?;
        let mounted = match self.is_mounted_from(record, &point) {
            Ok(true) => Ok(()),
            Ok(false) => self.mount_chain(record, &point),
            Err(error) => Err(error),
        };
        lock.remove()?;
        mounted.map(|()| point)
    }

    fn is_mounted_from(&self, record: &ChainRecord, point: &Path) -> Result<bool> {
        let is_mounted = mount::mount_identity(point)?.is_some_and(|identity| identity.is_mount_root);
        if !is_mounted {
            return Ok(false);
        }
        let made_from = files::read_json::<MountedFrom>(&self.mount_record_path(record.chain_id)).ok().flatten();
        Ok(made_from.is_some_and(|inodes| inodes == MountedFrom::of(record)))
    }

    fn mount_record_path(&self, chain: ChainId) -> PathBuf {
        self.mounts_dir().join(format!("{}.json", chain.hex()))
    }

    #[tracing::instrument(name = "mount", level = "debug", skip_all, fields(chain = %record.chain_id))]
    fn mount_chain(&self, record: &ChainRecord, point: &Path) -> Result<()> {
        let refuse = |source| Error::Mount { chain: record.chain_id, source };
        files::ensure_directory(point)?;
        if mount::mount_identity(point)?.is_some_and(|identity| identity.is_mount_root) {
            mount::detach(point).map_err(refuse)?;
        }
        mount::ensure_private_area(&self.mounts_dir()).map_err(refuse)?;
        let image_path = self.chain_image_path(record.chain_id);
        let image = files::open(&image_path)?;
        let devices = self.open_devices(record, &image, &image_path)?;
        let detached = mount::mount_erofs(image.as_fd(), &devices).map_err(refuse)?;
        let json = files::to_json(&MountedFrom::of(record));
        files::replace(&self.mount_record_path(record.chain_id), &self.mounts_dir(), &json, Durability::Volatile)?;
        mount::attach(detached.as_fd(), point).map_err(refuse)
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

    /// Detaches a chain's mount, if there is one. Containers that run keep theirs.
    pub fn unmount_chain(&self, chain: ChainId) -> Result<()> {
        let point = self.chain_mount_point(chain);
        if mount::mount_identity(&point)?.is_some_and(|identity| identity.is_mount_root) {
            mount::detach(&point).map_err(|source| Error::Mount { chain, source })?;
        }
        files::remove_file(&self.mount_record_path(chain))?;
        match std::fs::remove_dir(&point) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &point)(error)),
            _ => Ok(()),
        }
    }

    /// Gives the plan of a container's root: the chain below, the container's own directories above.
    pub fn container_plan(&self, chain: ChainId, upper: UpperDirs) -> MountPlan {
        MountPlan { lowers: vec![self.chain_mount_point(chain)], upper: Some(upper) }
    }
}
