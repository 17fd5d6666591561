// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images that came for containerd. It knows images of its own and tells a snapshotter only of snapshots; so an image that was pulled
//! for it goes when its snapshots have, or a node's disk would fill with images that nobody asks for.
//!
//! `DATA-ROOT/snapshots/images.json` lists them. An image that the store had before the snapshotter was asked for it is not among
//! them, and stays until a person removes it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use stos_engine::Engine;
use stos_engine::image::{find_image, remove_image};
use stos_spec::DiffId;
use stos_store::files::{self, Durability};
use stos_store::{ImageSelector, Store};

use crate::error::Result;
use crate::metadata::Snapshot;

/// An image that came for containerd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OwnImage {
    /// Its name in the store.
    name: String,
    /// Whether containerd has had all of it: from then on it goes when its uppermost snapshot does.
    #[serde(default)]
    complete: bool,
}

/// The list of them.
#[derive(Debug)]
pub struct OwnImages {
    store: Store,
    path: PathBuf,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    images: Vec<OwnImage>,
    /// Those that are being pulled.
    arriving: BTreeSet<String>,
}

impl OwnImages {
    /// Reads the list. One that cannot be read is told, and begun anew: then its images stay.
    pub fn open(store: &Store) -> Self {
        let path = store.snapshots_dir().join("images.json");
        let images = files::read_json(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "which images came for containerd is not known any more: they stay");
            None
        });
        let list = List { images: images.unwrap_or_default(), arriving: BTreeSet::new() };
        Self { store: store.clone(), path, list: Mutex::new(list) }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, images: &[OwnImage]) -> Result<()> {
        let bytes = files::to_json(images);
        Ok(files::replace(&self.path, &self.store.staging_area(), &bytes, Durability::Durable)?)
    }

    /// Says that an image of this name is about to be pulled; before it is, so that a crash leaves no image that nobody knows. What is
    /// given back says so until it is dropped.
    pub fn arrive(&self, name: &str) -> Result<Arriving<'_>> {
        let is_known = match self.store.find_image(&ImageSelector::new(name)) {
            Ok(_) => true,
            Err(stos_store::Error::NoSuchImage(_)) => false,
            Err(error) => return Err(error.into()),
        };
        let mut list = self.lock();
        if !is_known && !list.images.iter().any(|image| image.name == name) {
            list.images.push(OwnImage { name: name.to_owned(), complete: false });
            self.save(&list.images)?;
        }
        list.arriving.insert(name.to_owned());
        Ok(Arriving { images: self, name: name.to_owned() })
    }

    /// Notes that containerd has all layers of the images that are `layers`.
    pub fn complete(&self, engine: &Engine, layers: &[DiffId]) -> Result<()> {
        let mut list = self.lock();
        let mut images = list.images.clone();
        for image in images.iter_mut().filter(|image| !image.complete) {
            image.complete = find_image(engine, &image.name).is_ok_and(|found| found.config.diff_ids == layers);
        }
        if images != list.images {
            self.save(&images)?;
            list.images = images;
        }
        Ok(())
    }

    /// Removes the images that containerd needs no more. One that something else uses, or that cannot be looked at, stays for the
    /// next time. Gives how many went.
    pub fn sweep(&self, engine: &Engine, snapshots: &[Snapshot]) -> Result<usize> {
        let mut list = self.lock();
        let before = list.images.clone();
        let (mut left, mut removed) = (Vec::new(), 0);
        for mut image in std::mem::take(&mut list.images) {
            let is_arriving = list.arriving.contains(&image.name);
            match judge(engine, &mut image, snapshots, is_arriving) {
                Verdict::Stays => left.push(image),
                Verdict::Gone => {}
                Verdict::Goes => match remove_image(engine, &image.name, false) {
                    Ok(_) => {
                        tracing::info!(image = image.name, "containerd needs it no more: removed");
                        removed += 1;
                    }
                    Err(error) => {
                        tracing::debug!(image = image.name, %error, "it stays");
                        left.push(image);
                    }
                },
            }
        }
        list.images = left;
        if list.images != before {
            self.save(&list.images)?;
        }
        Ok(removed)
    }
}

enum Verdict {
    Stays,
    Goes,
    /// The store has none of that name.
    Gone,
}

fn judge(engine: &Engine, image: &mut OwnImage, snapshots: &[Snapshot], is_arriving: bool) -> Verdict {
    if is_arriving {
        return Verdict::Stays;
    }
    let layers = match find_image(engine, &image.name) {
        Ok(found) => found.config.diff_ids,
        Err(stos_engine::Error::Store(stos_store::Error::NoSuchImage(_))) => return Verdict::Gone,
        Err(error) => {
            tracing::warn!(image = image.name, %error, "it cannot be read, and stays");
            return Verdict::Stays;
        }
    };
    if is_any(snapshots, |shown| shown == layers) {
        image.complete = true;
        return Verdict::Stays;
    }
    // Until the uppermost snapshot is there its lower ones keep it.
    match !image.complete && is_any(snapshots, |shown| layers.starts_with(shown)) {
        true => Verdict::Stays,
        false => Verdict::Goes,
    }
}

fn is_any(snapshots: &[Snapshot], fits: impl Fn(&[DiffId]) -> bool) -> bool {
    snapshots.iter().map(|snapshot| &snapshot.record.layers).any(|layers| !layers.is_empty() && fits(layers))
}

/// An image on its way: no sweep removes it.
#[derive(Debug)]
pub struct Arriving<'a> {
    images: &'a OwnImages,
    name: String,
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.images.lock().arriving.remove(&self.name);
    }
}
