// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is mounted in a container from outside, as podman's `inspect` tells it.

use std::path::Path;

use serde::Serialize;
use stos_store::VolumeName;

use super::{DRIVER, UsedVolume};
use crate::Engine;
use crate::changes::{Mount, mounts_of};
use crate::container::ContainerRecord;
use crate::error::Result;

/// A mount, under podman's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ShownMount {
    /// `volume`, `bind` or `image`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    /// The volume's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<VolumeName>,
    /// Where it is on the host.
    pub source: String,
    /// Where it is in the container.
    pub destination: String,
    /// The volume's driver; empty of others.
    pub driver: &'static str,
    /// Always empty: podman has there what was asked for of SELinux.
    pub mode: &'static str,
    /// Its other options.
    pub options: Vec<String>,
    /// Whether the container may write there.
    #[serde(rename = "RW")]
    pub rw: bool,
    /// How mounts below it spread.
    pub propagation: String,
}

/// Gives the volumes, the bind mounts and the images that were asked for, in this order.
pub fn mounts_from_outside(engine: &Engine, record: &ContainerRecord) -> Result<Vec<ShownMount>> {
    let mounts = mounts_of(engine, record)?;
    let used = |mount: &Mount| record.volumes.iter().find(|used| used.target == mount.destination);
    let of_volume = |mount: &Mount| used(mount).map(|used| shown(mount, Some(used), volume_source(engine, used)));
    let volumes = mounts.iter().filter_map(of_volume);
    let dir = engine.store.container_dir(&record.id);
    // Files of a container whose network it has are mounted from beside its own.
    let is_of_another = |mount: &Mount| dir.parent().is_some_and(|all| Path::new(&mount.source).starts_with(all));
    let is_bind = |mount: &&Mount| mount.is_of_host() && used(mount).is_none() && !is_of_another(mount);
    let binds = mounts.iter().filter(is_bind).map(|mount| shown(mount, None, mount.source.clone()));
    // Those of an earlier version's containers lie in their own directories.
    let old = mounts.iter().filter(|mount| mount.source.starts_with("volumes/"));
    let old = old.map(|mount| shown(mount, None, dir.join(&mount.source).display().to_string()));
    let images = record.images.iter().map(|used| ShownMount {
        kind: "image",
        name: None,
        source: used.image.clone(),
        destination: used.target.clone(),
        driver: "",
        mode: "",
        options: Vec::new(),
        rw: used.writable,
        propagation: String::new(),
    });
    Ok(volumes.chain(binds).chain(old).chain(images).collect())
}

fn volume_source(engine: &Engine, used: &UsedVolume) -> String {
    let data = engine.store.volume_data(&used.name);
    let source = used.subpath.as_ref().map_or(data.clone(), |subpath| data.join(subpath));
    source.display().to_string()
}

fn shown(mount: &Mount, used: Option<&UsedVolume>, source: String) -> ShownMount {
    let is_propagation =
        |word: &&String| ["private", "shared", "slave", "unbindable"].iter().any(|kind| word.ends_with(kind));
    let options = mount
        .options
        .iter()
        .filter(|word| !is_propagation(word) && !matches!(word.as_str(), "rw" | "ro" | "rro" | "idmap"));
    ShownMount {
        kind: if used.is_some() { "volume" } else { "bind" },
        name: used.map(|used| used.name.clone()),
        source,
        destination: mount.destination.clone(),
        driver: if used.is_some() { DRIVER } else { "" },
        mode: "",
        options: options.cloned().collect(),
        rw: !mount.is_read_only(),
        propagation: mount.options.iter().rev().find(is_propagation).cloned().unwrap_or_default(),
    }
}
