// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which volumes a new container has: those that are asked for, those of other containers, those that its image declares.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_store::VolumeName;

use super::VolumeError;
use super::driver::Backing;
use crate::Engine;
use crate::changes::{Mount, mounts_of};
use crate::container::find;
use crate::error::{Error, Result};
use crate::options::{CreateOptions, MountOption};

/// What the source of a mount begins with that the start takes from elsewhere. No process has the number 0: where nobody puts the mount
/// there is no such path, and nothing else is mounted in its place.
pub(crate) const GIVEN: &str = "/proc/0/volumes/";

/// A volume that a new container is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeOption {
    /// Its name: made where there is none. `None` for one of the container's own.
    pub name: Option<VolumeName>,
    /// In the container; absolute.
    pub target: PathBuf,
    /// Whether the container may not write.
    pub read_only: bool,
    /// Whether an empty volume begins with what the image has at its place.
    pub copies_up: bool,
    /// A directory in it that is mounted instead of all of it; the start follows no symlink out of the volume.
    pub subpath: Option<PathBuf>,
    /// Further options of the mount: propagation, and attributes such as `noexec`.
    pub options: Vec<String>,
    /// Whether it is an error that there is none of that name.
    pub must_exist: bool,
}

impl VolumeOption {
    /// One of the container's own at `target`.
    pub fn anonymous(target: impl Into<PathBuf>) -> Self {
        let (target, options) = (target.into(), Vec::new());
        Self { name: None, target, read_only: false, copies_up: true, subpath: None, options, must_exist: false }
    }
}

/// A container whose volumes a new one is to have too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumesFrom {
    /// The container.
    pub container: String,
    /// Whether they may be written, where that is not to be as the other container has it.
    pub read_only: Option<bool>,
}

/// A volume as a container has it: a part of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedVolume {
    /// The volume.
    pub name: VolumeName,
    /// In the container; absolute.
    pub target: String,
    /// Whether the container may not write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// A directory in it that is mounted instead of all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subpath: Option<PathBuf>,
    /// Further options of the mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Whether it is a filesystem in memory, which each start makes sure of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_memory: bool,
}

impl UsedVolume {
    /// Whether the start takes it by a descriptor: what is mounted has no path that could be trusted, or none at all.
    pub(crate) fn is_given(&self) -> bool {
        self.in_memory || self.subpath.is_some()
    }
}

/// A volume of a new container, and how it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedVolume {
    /// What the container's record says of it.
    pub used: UsedVolume,
    /// What is mounted: below DATA-ROOT relative to the container's directory.
    pub source: String,
    /// Whether its files have the numbers that the container sees, as those of the image have.
    pub has_ids_of_container: bool,
    /// Whether what is mounted below the source comes along.
    pub is_recursive: bool,
}

impl PlannedVolume {
    /// A directory of the store.
    pub fn new(used: UsedVolume) -> Self {
        let source = format!("../../volumes/{}/_data", used.name);
        Self { used, source, has_ids_of_container: true, is_recursive: true }
    }

    /// The volume that stands on `backing`; `number` is its place in the container's record.
    pub(super) fn on(backing: &Backing, used: UsedVolume, number: usize) -> Self {
        let (words, source) = match backing {
            Backing::Own => (&[][..], None),
            Backing::Host { device, words, .. } => (words.as_slice(), Some(device.display().to_string())),
            Backing::Memory { words, .. } => (words.as_slice(), None),
        };
        let read_only = used.read_only
            || words.iter().rev().find(|word| matches!(word.as_str(), "ro" | "rw")).is_some_and(|word| word == "ro");
        // What is asked for of this container counts more.
        let own = words.iter().filter(|word| !matches!(word.as_str(), "ro" | "rw")).cloned();
        let options = own.chain(used.options.iter().cloned()).collect();
        let in_memory = matches!(backing, Backing::Memory { .. });
        let used = UsedVolume { read_only, options, in_memory, ..used };
        let is_given = used.is_given();
        let plan = Self::new(used);
        Self {
            source: if is_given { format!("{GIVEN}{number}") } else { source.unwrap_or(plan.source) },
            has_ids_of_container: matches!(backing, Backing::Own),
            is_recursive: !matches!(backing, Backing::Host { recursive: false, .. }),
            used: plan.used,
        }
    }

    /// Tells whether it is mounted at `target`.
    pub(crate) fn is_at(&self, target: &str) -> bool {
        self.used.target.trim_end_matches('/') == target.trim_end_matches('/')
    }
}

/// Adds what the containers that `options` names have: their volumes, and what is bound into them of the host. Of one place the last
/// container's counts, and what is mounted there by name counts more.
///
/// # Errors
/// [`VolumeError::From`] where there is no such container.
pub(crate) fn with_volumes_of_others(engine: &Engine, options: &CreateOptions) -> Result<CreateOptions> {
    let (mut volumes, mut binds) = (Vec::<VolumeOption>::new(), Vec::<MountOption>::new());
    for from in &options.volumes_from {
        let failed = |source: Error| VolumeError::From { container: from.container.clone(), source: Box::new(source) };
        let record = find(engine, &from.container).map_err(failed)?;
        let mounts = mounts_of(engine, &record).map_err(failed)?;
        let read_only = |own: bool| from.read_only.unwrap_or(own);
        let of_volume = |target: &str| record.volumes.iter().any(|used| used.target == target);
        let (new_volumes, new_binds): (Vec<_>, Vec<_>) = (
            record.volumes.iter().map(|used| again(used, read_only(used.read_only))).collect(),
            mounts
                .iter()
                .filter(|mount| mount.is_of_host() && !of_volume(&mount.destination))
                .map(|mount| bind_again(mount, read_only(mount.is_read_only())))
                .collect(),
        );
        let is_new = |target: &Path| {
            new_volumes.iter().any(|volume| volume.target == target)
                || new_binds.iter().any(|bind| bind.target == target)
        };
        volumes.retain(|volume| !is_new(&volume.target));
        binds.retain(|bind| !is_new(&bind.target));
        volumes.extend(new_volumes);
        binds.extend(new_binds);
    }
    volumes.retain(|volume| !options.has_mount_at(&volume.target));
    binds.retain(|bind| !options.has_mount_at(&bind.target));
    let mut all = options.clone();
    all.volumes.extend(volumes);
    all.mounts.extend(binds);
    Ok(all)
}

fn again(used: &UsedVolume, read_only: bool) -> VolumeOption {
    VolumeOption {
        name: Some(used.name.clone()),
        target: PathBuf::from(&used.target),
        read_only,
        copies_up: true,
        subpath: used.subpath.clone(),
        options: used.options.clone(),
        must_exist: true,
    }
}

fn bind_again(mount: &Mount, read_only: bool) -> MountOption {
    MountOption {
        source: PathBuf::from(&mount.source),
        target: PathBuf::from(&mount.destination),
        read_only,
        recursive: mount.options.iter().any(|option| option == "rbind"),
        options: mount.options.get(2..).unwrap_or_default().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(subpath: Option<&str>) -> UsedVolume {
        UsedVolume {
            name: "v".parse().unwrap(),
            target: "/x".to_owned(),
            read_only: false,
            subpath: subpath.map(PathBuf::from),
            options: vec!["noexec".to_owned()],
            in_memory: false,
        }
    }

    #[test]
    fn a_volume_is_mounted_from_where_it_stands() {
        let own = PlannedVolume::on(&Backing::Own, used(None), 3);
        assert_eq!((own.source.as_str(), own.has_ids_of_container), ("../../volumes/v/_data", true));
        assert!(own.is_at("/x/") && !own.is_at("/x/y"));
        let words = vec!["ro".to_owned(), "nodev".to_owned()];
        let host = Backing::Host { device: "/srv".into(), recursive: false, words };
        let host = PlannedVolume::on(&host, used(None), 3);
        assert_eq!((host.source.as_str(), host.has_ids_of_container, host.is_recursive), ("/srv", false, false));
        assert_eq!((host.used.read_only, host.used.options), (true, vec!["nodev".to_owned(), "noexec".to_owned()]));
        let memory = Backing::Memory { parameters: Vec::new(), words: Vec::new() };
        for given in [PlannedVolume::on(&memory, used(None), 3), PlannedVolume::on(&Backing::Own, used(Some("a")), 3)] {
            assert_eq!(given.source, "/proc/0/volumes/3");
            assert!(given.used.is_given());
        }
    }

    #[test]
    fn a_record_says_only_what_there_is_to_say() {
        let plain = UsedVolume { options: Vec::new(), ..used(None) };
        let json = serde_json::to_value(&plain).unwrap();
        assert_eq!(json, serde_json::json!({"name": "v", "target": "/x"}));
        assert_eq!(serde_json::from_value::<UsedVolume>(json).unwrap(), plain);
    }
}
