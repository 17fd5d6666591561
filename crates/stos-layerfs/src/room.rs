// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is free on DATA-ROOT's disk, and how much of it a layer may take.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::StatVfs;
use stos_spec::DiffId;

use crate::LayerFs;
use crate::backend::BackendKind;
use crate::error::{Error, Result};

/// How much of the disk a layer leaves to others where there is plenty, in bytes.
const RESERVE_MAX: u64 = 1 << 30;

/// What is free on DATA-ROOT's disk for those who are not its administrator's emergency reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// Inodes; `None` where the filesystem does not count them.
    pub inodes: Option<u64>,
}

impl Room {
    /// Looks how much is free on the disk that an open file is on.
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(rustix::fs::fstatvfs(file)?.into())
    }

    /// Gives how many bytes a layer that begins now leaves to others: a tenth, and at most 1 GiB.
    pub fn reserve(self) -> u64 {
        RESERVE_MAX.min(self.bytes / 10)
    }

    /// Gives how many bytes a layer that begins now may have.
    pub fn largest_layer(self) -> u64 {
        self.bytes - self.reserve()
    }
}

impl From<StatVfs> for Room {
    fn from(disk: StatVfs) -> Self {
        let inodes = (disk.f_files > 0).then_some(disk.f_favail);
        Self { bytes: disk.f_bavail.saturating_mul(disk.f_frsize), inodes }
    }
}

impl LayerFs {
    /// Looks how much is free.
    pub fn room(&self) -> Result<Room> {
        let root = self.store().root();
        Ok(rustix::fs::statvfs(root).map_err(Error::io("measure the disk of", root))?.into())
    }

    /// Tells by a look for its record whether any backend keeps a layer. Whether it is sound, and in the form that is wanted, is
    /// not looked at: what can be proved or made again takes no download.
    pub fn is_kept(&self, layer: DiffId) -> Result<bool> {
        Ok(self.kept(layer)?.is_some())
    }
}

impl BackendKind {
    /// Gives how many inodes a layer takes at least: its directory and what is always in it.
    pub fn least_inodes_of_layer(self) -> u64 {
        match self {
            // layer.tar, layer.index, layer.json
            Self::Erofs => 4,
            // diff, orphans, layer.index, layer.rest, layer.json
            Self::Dirs => 6,
        }
    }

    /// The same for a chain.
    pub fn least_inodes_of_chain(self) -> u64 {
        // image.erofs, chain.json; or top, stack.json
        3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_leaves_a_tenth_or_a_gibibyte() {
        let room = |bytes| Room { bytes, inodes: None };
        assert_eq!((room(1000).reserve(), room(1000).largest_layer()), (100, 900));
        assert_eq!(room(1 << 40).reserve(), 1 << 30);
        assert_eq!(room(0).largest_layer(), 0);
        assert!(Room::of(tempfile::tempfile().unwrap()).unwrap().bytes > 0);
    }
}
