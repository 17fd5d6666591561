// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a user may ask of a pull and of a container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_layerfs::Integrity;
use stos_spec::Platform;
use stos_store::ContainerName;

use crate::attach::StreamOptions;
use crate::image_volumes::ImageMountOption;
use crate::limits::LimitOptions;
use crate::namespaces::NamespaceOptions;
use crate::networking::NetworkingOptions;
use crate::pods::PodOption;
use crate::registries::RegistryConfig;
use crate::security::SecurityOptions;
use crate::service::ServiceOptions;
use crate::unit::UnitOptions;
use crate::user_namespace::UserNamespaceOptions;
use crate::volumes::{VolumeOption, VolumesFrom};

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// How to reach registries.
    pub registries: RegistryConfig,
    /// Which platform's image is wanted.
    pub platform: Platform,
    /// How many layers are fetched side by side; `None` for one more than there are processors, at most 8. Each takes at most three threads, 5 MiB of buffers, and in directories 32 MiB
    /// and 384 bytes an entry; of large zstd windows one at a time is unpacked.
    pub jobs: Option<usize>,
    /// Whether the compressed blobs of layers are kept too, so that every digest can be given on.
    pub keep_blobs: bool,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { registries: RegistryConfig::default(), platform: Platform::host(), jobs: None, keep_blobs: false }
    }
}

/// When `create` and `run` ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// When the store does not have the image.
    #[default]
    Missing,
    /// Each time.
    Always,
    /// Not at all.
    Never,
}

/// What network a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A loopback interface of its own.
    #[default]
    None,
    /// The host's.
    Host,
    /// Networks of its own, made by netavark.
    Bridge,
    /// Another container's.
    Container,
    /// A network namespace that is there.
    Path,
}

impl Network {
    /// Its name, as podman's `--network` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
            Self::Bridge => "bridge",
            Self::Container => "container",
            Self::Path => "ns",
        }
    }
}

/// A directory or file of the host that the container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOption {
    /// On the host; absolute.
    pub source: PathBuf,
    /// In the container; absolute.
    pub target: PathBuf,
    /// Whether the container may not write.
    pub read_only: bool,
    /// Whether what is mounted below the source comes along.
    pub recursive: bool,
    /// Further options of the mount: propagation, and attributes such as `noexec`.
    #[serde(default)]
    pub options: Vec<String>,
}

/// What a user may ask of a new container.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Its name; without one it gets one.
    pub name: Option<ContainerName>,
    /// Whether a container that has the name goes for it, running or not.
    pub replaces: bool,
    /// When to ask the registry.
    pub pull_policy: PullPolicy,
    /// How to pull.
    pub pull: PullOptions,
    /// How closely to look at the image's files.
    pub integrity: Integrity,
    /// `NAME=VALUE`, over those of the image.
    pub env: Vec<String>,
    /// Where to run, instead of the image's WorkingDir.
    pub working_dir: Option<String>,
    /// Whom to run as, instead of the image's User.
    pub user: Option<String>,
    /// What to run before the command, instead of the image's Entrypoint; empty for nothing.
    pub entrypoint: Option<Vec<String>>,
    /// The command and its arguments, instead of the image's Cmd.
    pub command: Vec<String>,
    /// The hostname, instead of the id's first digits.
    pub hostname: Option<String>,
    /// Whether the root filesystem may not be written.
    pub read_only: bool,
    /// The kind of its network.
    pub network: Network,
    /// What is asked of the network besides.
    pub networking: NetworkingOptions,
    /// How it is confined.
    pub security: SecurityOptions,
    /// Whose namespaces it has.
    pub namespaces: NamespaceOptions,
    /// Whose users it has.
    pub user_namespace: UserNamespaceOptions,
    /// The pod that it is of.
    pub pod: Option<PodOption>,
    /// Bind mounts.
    pub mounts: Vec<MountOption>,
    /// Volumes, beside those that the image declares.
    pub volumes: Vec<VolumeOption>,
    /// Images that are mounted in it.
    pub images: Vec<ImageMountOption>,
    /// Containers whose volumes and bind mounts it has too.
    pub volumes_from: Vec<VolumesFrom>,
    /// Labels, over those of the image.
    pub labels: BTreeMap<String, String>,
    /// What its standard streams are.
    pub streams: StreamOptions,
    /// Whether its first process is an init of ours, which reaps and passes signals on, and the command is that one's child.
    pub init: bool,
    /// Whether the container goes when its process has ended.
    pub auto_remove: bool,
    /// Whether the caller is about to start it itself (`run`): with `auto_remove` it goes should the caller be killed before.
    pub starts_at_once: bool,
    /// Limits and devices.
    pub limits: LimitOptions,
    /// The signal that asks it to stop, instead of the image's.
    pub stop_signal: Option<i32>,
    /// `NAME=VALUE` of the host, under those of the image.
    pub host_env: Vec<String>,
    /// What it is as a service.
    pub unit: UnitOptions,
    /// How it is looked after.
    pub service: ServiceOptions,
}

impl CreateOptions {
    /// Gives the places in the container where something is mounted that was asked for.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Path> {
        let mounts = self.mounts.iter().map(|mount| mount.target.as_path());
        let volumes = self.volumes.iter().map(|volume| volume.target.as_path());
        let images = self.images.iter().map(|image| image.target.as_path());
        mounts.chain(volumes).chain(images).chain(self.limits.tmpfs.iter().map(|mount| mount.target.as_path()))
    }

    /// Tells whether something is mounted at `target`.
    pub(crate) fn has_mount_at(&self, target: &Path) -> bool {
        self.targets().any(|other| other == target)
    }
}
