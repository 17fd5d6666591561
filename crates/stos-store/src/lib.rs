// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DATA-ROOT: the directory that lasts. The filesystem is the database; readers take no lock and scan nothing they need
//! not.
//!
//! ```text
//! DATA-ROOT/
//!   stos.json                       format version and feature sets            [format]
//!   images/                         an OCI image layout: oci-layout, index.json, blobs/sha256/…   [images, blobs]
//!   layers/sha256/<diffID>/         layer.tar, .index, .extra, layer.json      (filled by stos-layerfs)
//!   chains/sha256/<chainID>/        image.erofs, chain.json                    (filled by stos-layerfs)
//!   containers/<id>/                container.json, config.json, upper/ …      (filled by stos-engine)
//!   names/<name>                    symlink to the id, in base64               [names]
//!   pods/<id>/                      pod.json, hosts, resolv.conf               [pods] (filled by stos-engine)
//!   volumes/<name>/                 volume.json, _data/                        [volumes]
//!   snapshots/<number>/             what containerd keeps here                 [snapshots] (filled by stos-snapshotter)
//!   staging/                        everything is built here first             [staging]
//!   locks/                          one lock file per object, flock            [lock, lease]
//! ```
//!
//! What it all takes of the disk is counted in [`usage`].
//!
//! **Roots**: `images/index.json`, `containers/`, `snapshots/` and leases. A blob, layer or chain that none of them reaches is garbage.
//! **Locks**: `locks/lease` is shared by whoever adds objects and exclusive for whoever removes them, and `locks/lease-…` lists
//! what a command that goes on for long relies on; `locks/images` guards `index.json`; `locks/names` guards names; `locks/layer-…` and `locks/chain-…` make two processes share one download or one
//! merge; a container's directory is itself the lock of its life, and so are a volume's and a pod's. A crash releases them all, for the kernel does.
//! **Read-only**: a store on a read-only filesystem, or one that this version may only read, is opened by
//! [`Store::open_for_reading`] and never written to: locks, staging and removals refuse. So is one whose `stos.json` is damaged, by
//! [`Store::open_to_check`].
//! **Durability**: data are fsynced, then renamed into place or exchanged with what stands there, then the parent directory is fsynced.
//!
//! It stands on `stos-spec` and `stos-sys`, and never speaks to a registry or mounts anything.

pub mod blobs;
pub mod container_id;
pub mod error;
pub mod files;
pub mod format;
pub mod images;
pub mod lease;
pub mod lock;
pub mod names;
pub mod pods;
pub mod snapshots;
pub mod staging;
pub mod store;
pub mod usage;
pub mod volumes;

pub use blobs::StagedBlob;
pub use container_id::{ContainerId, ContainerName};
pub use error::{Error, Result};
pub use images::{ImageRecord, ImageSelector};
pub use lease::{Lease, Objects};
pub use lock::Lock;
pub use names::NameHolder;
pub use pods::PodId;
pub use snapshots::{SnapshotKind, SnapshotRecord, SnapshotUsage};
pub use staging::Staging;
pub use store::Store;
pub use usage::{AreaUsage, TreeUsage};
pub use volumes::{CopyUp, StagedVolume, VolumeName, VolumeRecord};
