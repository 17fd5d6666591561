// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images and containers: the story that stos tells.
//!
//! | module | the part of the story |
//! |---|---|
//! | [`pull`] | [`pull::pull_image_from_registry`]: a reference becomes an image in the store |
//! | [`push`] | [`push::push_image`]: an image of the store becomes one of a registry |
//! | [`registries`] | [`registries::RegistryConfig`]: how registries are reached, as people have configured it |
//! | [`policy`] | which images may come in: signatures, fetched and checked |
//! | `source` | where images come from, in the same words |
//! | `install` | images from anywhere come into the store, whole or not at all |
//! | `counted` | bytes on their way, counted |
//! | `side_by_side` | several layers at a time, until one fails |
//! | `room` | whether images can fit on the disk, decided before anything of them is fetched |
//! | [`layers`] | the layers of the store, who uses them, taking one away |
//! | [`build`] | new images: a changed configuration, one layer more |
//! | `additions` | what a command that makes an image adds, taken back where it fails |
//! | [`tag`] | names of images |
//! | [`history`] | how an image came to be |
//! | [`load`] | images from archives and layouts |
//! | [`import`] | a root filesystem becomes an image |
//! | [`location`] | where an image is to come from, as people write it |
//! | [`save`] | images go out to archives and layouts |
//! | [`image`] | images in the store: load, list, inspect, remove |
//! | [`gc`] | what nothing reaches any more goes, and its space comes back |
//! | [`usage`] | what the store takes of the disk, and who makes it |
//! | [`prune`] | images that nobody uses go |
//! | [`changes`] | what a container has changed against its image, and an image against another |
//! | [`commit`] | a container's changes become a new image |
//! | [`export`] | a container's whole tree as a tar |
//! | [`copy`] | files go into containers and come out of them |
//! | [`image_mount`] | images that a person has mounted to look at |
//! | [`check`] | the store's health: what is damaged is named, and made again on request |
//! | [`validate`] | [`validate::validate_image_before_create`]: manifest, configuration, layers |
//! | [`create`] | [`create::create_container_from_image`]: the stages in their order |
//! | [`security`] | how a container is confined: what may be asked for |
//! | [`namespaces`] | whose namespaces a container has |
//! | [`pods`] | containers that share namespaces, ports and a host name |
//! | [`user_namespace`] | whose users it has, and which ids those have on the host |
//! | [`filesystem`] | a container's own directories and files |
//! | [`image_volumes`] | further images that are mounted in a container |
//! | [`volumes`] | directories that containers share and that outlast them |
//! | [`spec`] | the OCI runtime configuration of an image's container |
//! | [`limits`] | limits and devices: what may be asked for, and whether this machine can grant it |
//! | [`lookup`] | users and commands, looked up inside an image |
//! | [`container`] | containers of the store: records, states, finding one by what a person types |
//! | [`monitor`] | the one process that stands beside a container: output, exit code, `--rm` |
//! | `relay` | output on its way to the log, to clients and to the caller's streams |
//! | `streams` | a container's standard streams, and the monitor's ends of them |
//! | [`attach`] | clients of a monitor: output, input, the terminal's size, detaching |
//! | [`service`] | how a container is looked after: what is asked, and what its record says |
//! | [`health`] | health checks, and what they have found |
//! | [`restart`] | a container is started again when it has ended |
//! | [`lifecycle`] | start, wait, stop, kill, delete |
//! | [`mod@unit`] | a container as a service: its cgroups, its readiness, the sockets that it gets |
//! | [`times`] | points in time, as people write them |
//! | [`rename`] | a container gets another name |
//! | [`stats`] | what containers use |
//! | [`log`] | the log that the monitor writes and `logs` reads |
//! | [`journal`] | what happens to containers and images, told to who asks |
//!
//! It stands on everything below it. It prints nothing and reads no command line.

mod additions;
pub mod attach;
pub mod build;
pub mod changes;
pub mod check;
pub mod commit;
pub mod container;
pub mod copy;
mod counted;
pub mod create;
pub mod error;
pub mod export;
pub mod filesystem;
pub mod gc;
pub mod health;
pub mod history;
pub mod image;
pub mod image_mount;
pub mod image_volumes;
pub mod import;
mod install;
pub mod journal;
pub mod layers;
pub mod lifecycle;
pub mod limits;
pub mod load;
pub mod location;
pub mod log;
pub mod lookup;
pub mod monitor;
pub mod namespaces;
pub mod networking;
pub mod options;
pub mod pods;
pub mod policy;
pub mod prune;
pub mod pull;
pub mod push;
pub mod registries;
mod relay;
pub mod rename;
pub mod restart;
mod room;
pub mod save;
pub mod security;
pub mod service;
mod side_by_side;
mod source;
pub mod spec;
mod stage;
pub mod stats;
mod streams;
pub mod tag;
pub mod times;
pub mod unit;
pub mod usage;
pub mod user_namespace;
pub mod validate;
pub mod volumes;
mod written_layer;

pub use attach::StreamOptions;
pub use error::{Error, Result, Scarce, Stage};
pub use options::{CreateOptions, MountOption, Network, PullOptions, PullPolicy};
pub use source::input::ImageInput;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use stos_layerfs::{BackendKind, Chain, LayerFs};
use stos_runtime::RuntimeConfig;
use stos_store::{ContainerId, Store};

/// Everything that a command needs: the store, LayerFS over it, and ROOT. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    store: Store,
    layerfs: LayerFs,
    root: PathBuf,
    journal: Arc<journal::writer::Journal>,
    networks: networking::NetworkPlaces,
    just_created: Arc<Mutex<Option<JustCreated>>>,
    caller: Arc<unit::Caller>,
}

/// What a create has made, for the start that follows it at once in the same process: what was just proved is not read again.
#[derive(Debug)]
struct JustCreated {
    id: ContainerId,
    /// Sound, and mounted: nobody takes from a container that exists what it stands on.
    chain: Chain,
    config: RuntimeConfig,
}

impl Engine {
    /// Opens the store at `data_root` (what lasts) with ROOT at `root` (what a reboot may lose).
    pub fn open(data_root: &Path, root: &Path) -> Result<Self> {
        Self::over(Store::open(data_root)?, root)
    }

    /// The same to look at what is there: a store that can only be read is no error ([`Store::open_for_reading`]).
    pub fn open_for_reading(data_root: &Path, root: &Path) -> Result<Self> {
        Self::over(Store::open_for_reading(data_root)?, root)
    }

    /// The same to look for damage: nor is a damaged `stos.json` an error ([`Store::open_to_check`]).
    pub fn open_to_check(data_root: &Path, root: &Path) -> Result<Self> {
        Self::over(Store::open_to_check(data_root)?, root)
    }

    fn over(store: Store, root: &Path) -> Result<Self> {
        stos_store::files::ensure_directory(root)?;
        let root = std::fs::canonicalize(root).map_err(stos_store::Error::io("find", root))?;
        let layerfs = LayerFs::new(store.clone(), &root);
        let journal = Arc::new(journal::writer::Journal::new(&root, store.root()));
        let networks = networking::NetworkPlaces::default();
        Ok(Self { store, layerfs, root, journal, networks, just_created: Arc::default(), caller: Arc::default() })
    }

    /// Keeps and shows layers by this backend, whatever the host could have.
    pub fn with_backend(self, kind: BackendKind) -> Self {
        Self { layerfs: self.layerfs.with_backend(kind), ..self }
    }

    /// Has containers that it starts get what the process's caller has for them.
    pub fn with_caller(self, caller: unit::Caller) -> Self {
        Self { caller: Arc::new(caller), ..self }
    }

    fn remember(&self, created: JustCreated) {
        *self.just_created.lock().unwrap_or_else(PoisonError::into_inner) = Some(created);
    }

    /// Gives what [`remember`](Self::remember) was given of this container, once.
    fn take_just_created(&self, id: &ContainerId) -> Option<JustCreated> {
        let mut created = self.just_created.lock().unwrap_or_else(PoisonError::into_inner);
        created.take_if(|created| created.id == *id)
    }

    /// Gives the store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Gives LayerFS.
    pub fn layerfs(&self) -> &LayerFs {
        &self.layerfs
    }
}
