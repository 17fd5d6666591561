// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What lies where in DATA-ROOT, and what it takes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use stos_spec::{BlobDigest, ChainId, DiffId};
use stos_store::{ContainerId, VolumeName, usage};

use crate::Engine;
use crate::error::Result;

/// Something that images and containers reach, and that goes when none does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Object {
    Layer(DiffId),
    Chain(ChainId),
    Blob(BlobDigest),
}

/// What an entry of an area is.
enum Place {
    Object(Object),
    /// What a layer or a chain was before it was made anew.
    Replaced(String),
    Container(ContainerId),
    Volume(VolumeName),
    /// A snapshot's own directory.
    Snapshot,
}

/// What each thing in DATA-ROOT takes, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// In whatever forms it is kept.
    pub objects: BTreeMap<Object, u64>,
    /// By the names of their directories.
    pub replaced: Vec<(String, u64)>,
    pub containers: BTreeMap<ContainerId, u64>,
    pub volumes: BTreeMap<VolumeName, u64>,
    /// The snapshots' own directories: how many, and their bytes.
    pub snapshots: (usize, u64),
    /// All else.
    pub rest: u64,
}

impl Places {
    pub fn total(&self) -> u64 {
        let replaced = self.replaced.iter().map(|(_, size)| size);
        self.rest
            + self.snapshots.1
            + self
                .objects
                .values()
                .chain(self.containers.values())
                .chain(self.volumes.values())
                .chain(replaced)
                .sum::<u64>()
    }
}

type Reader = fn(&str) -> Option<Place>;

/// Walks all of DATA-ROOT.
///
/// A corrected stack of directories may have further names of its layers' files: they count as the layers'.
pub(crate) fn measure(engine: &Engine) -> Result<Places> {
    let (store, dirs) = (&engine.store, engine.layerfs.dirs());
    let layer: Reader = |name| DiffId::from_hex(name).map(|layer| Place::Object(Object::Layer(layer)));
    let chain: Reader = |name| ChainId::from_hex(name).map(|chain| Place::Object(Object::Chain(chain)));
    let blob: Reader = |name| BlobDigest::from_hex(name).map(|blob| Place::Object(Object::Blob(blob)));
    let areas: [(PathBuf, Reader); 9] = [
        (store.layers_dir(), layer),
        (dirs.layers_dir(), layer),
        (dirs.replaced_dir(), |name| Some(Place::Replaced(name.to_owned()))),
        (store.chains_dir(), chain),
        (dirs.chains_dir(), chain),
        (store.blobs_dir(), blob),
        (store.containers_dir(), |name| name.parse().ok().map(Place::Container)),
        (store.volumes_dir(), |name| name.parse().ok().map(Place::Volume)),
        (store.snapshots_dir(), |name| name.parse::<u64>().ok().map(|_| Place::Snapshot)),
    ];
    let below = |path: &PathBuf| path.strip_prefix(store.root()).unwrap_or(path).to_owned();
    let paths: Vec<PathBuf> = areas.iter().map(|(path, _)| below(path)).collect();
    let measured = usage::measure_areas(store.root(), &paths)?;
    for problem in &measured.problems {
        tracing::warn!(error = %stos_spec::text::escape(&problem.to_string()), "not all of the store could be counted");
    }
    let mut places = Places { rest: measured.rest, ..Places::default() };
    for ((_, read), entries) in areas.iter().zip(&measured.areas) {
        for (name, size) in entries {
            places.put(name.to_str().and_then(read), *size);
        }
    }
    Ok(places)
}

impl Places {
    fn put(&mut self, place: Option<Place>, size: u64) {
        match place {
            Some(Place::Object(object)) => *self.objects.entry(object).or_default() += size,
            Some(Place::Replaced(name)) => self.replaced.push((name, size)),
            Some(Place::Container(id)) => *self.containers.entry(id).or_default() += size,
            Some(Place::Volume(name)) => *self.volumes.entry(name).or_default() += size,
            Some(Place::Snapshot) => self.snapshots = (self.snapshots.0 + 1, self.snapshots.1 + size),
            // None of ours, and nobody's garbage.
            None => self.rest += size,
        }
    }
}
