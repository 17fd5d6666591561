// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mounts the image of a chain: one EROFS over the tars of its layers.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use stos_erofs::ImageHeader;
use stos_spec::{ChainId, DiffId};
use stos_store::files;
use stos_sys::mount::{MountPlan, UpperDirs, mount_erofs};

use super::Erofs;
use super::chain::{ChainDevice, ChainRecord, DeviceFile};
use crate::backend::BackendKind;
use crate::error::{Error, Result};
use crate::mounts::MountedFrom;

impl Erofs {
    /// Gives the place where a chain is mounted, or would be.
    pub fn chain_mount_point(&self, chain: ChainId) -> PathBuf {
        self.mounts.point(BackendKind::Erofs, chain)
    }

    /// Makes sure that the chain is mounted from the very files of `record`, and gives the mount point.
    pub fn ensure_chain_mounted(&self, record: &ChainRecord) -> Result<PathBuf> {
        let inode = |device: &ChainDevice| {
            let layer = record.layers.iter().find(|layer| layer.diff_id == device.layer)?;
            let seal = match device.file {
                DeviceFile::Tar => Some(&layer.tar),
                DeviceFile::Extra => layer.extra.as_ref(),
            };
            seal.map(|seal| seal.inode)
        };
        let devices = record.devices.iter().map(|device| inode(device).unwrap_or(0)).collect();
        let from = MountedFrom { store: self.store.root().to_owned(), image: record.image.inode, devices };
        self.mounts.ensure(BackendKind::Erofs, record.chain_id, &from, || self.mount_image(record))
    }

    /// Tells whether who has stood on the chain since `started`, in clock ticks since the boot, may stand on other files than
    /// those that are there now: its mount has been replaced since then, or would be by the next start. `false` where that
    /// cannot be told.
    pub fn was_replaced_since(&self, chain: ChainId, started: u64) -> Result<bool> {
        let Some(mount) = self.mounts.own_record(BackendKind::Erofs, chain)? else { return Ok(false) };
        if mount.mounted > started {
            return Ok(true);
        }
        let Some(record) = self.record_of_chain(chain)? else { return Ok(false) };
        let inode = |path: &Path| std::fs::metadata(path).map(|file| file.ino()).ok();
        let device = |device: &ChainDevice| inode(&self.store.layer_dir(device.layer).join(device.file_name()));
        let devices: Option<Vec<_>> = record.devices.iter().map(device).collect();
        // What is missing has not been replaced.
        let now = inode(&self.chain_image_path(chain)).zip(devices);
        Ok(now.is_some_and(|now| now != (mount.from.image, mount.from.devices)))
    }

    /// Mounts the chain's image, detached.
    fn mount_image(&self, record: &ChainRecord) -> Result<OwnedFd> {
        let image_path = self.chain_image_path(record.chain_id);
        let image = files::open(&image_path)?;
        let devices = self.open_devices(record, &image, &image_path)?;
        mount_erofs(image.as_fd(), &devices).map_err(|source| Error::Mount { chain: record.chain_id, source })
    }

    /// Opens the layers' files that the image's device table names, in its order, and checks that they are those.
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
        for (device, wanted) in header.devices.iter().zip(&record.devices) {
            if device.tag != wanted.tag() {
                let shown = |tag| format!("device {}", DiffId::from_bytes(tag));
                return Err(damaged(shown(wanted.tag()), shown(device.tag)));
            }
            let layer = wanted.layer;
            let path = self.store.layer_dir(layer).join(wanted.file_name());
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
        self.mounts.unmount(BackendKind::Erofs, chain)
    }

    /// Gives the plan of a container's root: the chain below, the container's own directories above.
    ///
    /// The chain must be mounted ([`Self::ensure_chain_mounted`]): a container must not run on the empty directory below.
    pub fn container_plan(&self, chain: ChainId, upper: UpperDirs) -> Result<MountPlan> {
        let point = self.chain_mount_point(chain);
        if !self.mounts.is_mounted(&point)? {
            return Err(Error::NotMounted { chain, path: point });
        }
        Ok(MountPlan { lowers: vec![point], upper: Some(upper), ids: None })
    }
}
