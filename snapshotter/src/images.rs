// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images that came for containerd. It knows images of its own and tells a snapshotter only of snapshots; so an image that was pulled
//! for it goes when its snapshots have, or a node's disk would fill with images that nobody asks for.
//!
//! `DATA-ROOT/snapshots/images.json` lists them: each by its ID, and by the name that its pull has given it. A name alone says nothing,
//! for a person may give it to another image, and an image further names: what is removed is that image by that name, or without one.
//! An image that the store had before the snapshotter was asked for it is not among them, and stays until a person removes it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use stos_engine::Engine;
use stos_engine::image::{load_image, remove_image_entry};
use stos_spec::{BlobDigest, DiffId, ImageRef};
use stos_store::files::{self, Durability};
use stos_store::{ImageRecord, Store};

use crate::error::Result;
use crate::metadata::Snapshot;

/// An image that came for containerd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OwnImage {
    /// The name that its pull has given it; `None` once it leads elsewhere.
    name: Option<String>,
    /// Its ID.
    image_id: BlobDigest,
    /// Whether containerd has had all of it: from then on it goes when its uppermost snapshot does.
    #[serde(default)]
    complete: bool,
}

impl OwnImage {
    /// Finds its entry among those of the store: by its name, else the one without a name.
    fn entry<'a>(&self, images: &'a [ImageRecord]) -> Option<&'a ImageRecord> {
        let find = |name: Option<&str>| {
            images.iter().find(|image| image.image_id == self.image_id && name_of(image).as_deref() == name)
        };
        self.name.as_deref().and_then(|name| find(Some(name))).or_else(|| find(None))
    }
}

fn name_of(image: &ImageRecord) -> Option<String> {
    image.reference.as_ref().map(ToString::to_string)
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
    /// Pulls that are under way, or whose layers no snapshot keeps yet, by a number: the image, once that is known.
    arriving: BTreeMap<u64, Option<BlobDigest>>,
    last_arrival: u64,
}

impl OwnImages {
    /// Reads the list. One that cannot be read is told, and begun anew: then its images stay. So does an image of which only a name
    /// is written, as the first versions did: it may be a person's by now.
    pub fn open(store: &Store) -> Self {
        let path = store.snapshots_dir().join("images.json");
        let entries: Option<Vec<serde_json::Value>> = files::read_json(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "which images came for containerd is not known any more: they stay");
            None
        });
        let read = |entry| match serde_json::from_value(entry) {
            Ok(image) => Some(image),
            Err(error) => {
                tracing::warn!(%error, "an image that came for containerd is not known any more: it stays");
                None
            }
        };
        let images = entries.unwrap_or_default().into_iter().filter_map(read).collect();
        Self { store: store.clone(), path, list: Mutex::new(List { images, ..List::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, list: &mut List, images: Vec<OwnImage>) -> Result<()> {
        if images != list.images {
            let bytes = files::to_json(&images);
            files::replace(&self.path, &self.store.staging_area(), &bytes, Durability::Durable)?;
            list.images = images;
        }
        Ok(())
    }

    /// Says that an image is about to be pulled. Until what is given back is dropped no sweep removes it.
    pub fn arrive(&self) -> Arriving<'_> {
        let mut list = self.lock();
        list.last_arrival += 1;
        let number = list.last_arrival;
        list.arriving.insert(number, None);
        Arriving { images: self, number }
    }

    /// Notes that containerd has all layers of the images that are `layers`.
    pub fn complete(&self, engine: &Engine, layers: &[DiffId]) -> Result<()> {
        let mut list = self.lock();
        let mut images = list.images.clone();
        if images.iter().all(|image| image.complete) {
            return Ok(());
        }
        let entries = self.store.images()?;
        for image in images.iter_mut().filter(|image| !image.complete) {
            let loaded = image.entry(&entries).map(|entry| load_image(engine, entry.clone()));
            image.complete = matches!(loaded, Some(Ok(loaded)) if loaded.config.diff_ids == layers);
        }
        self.put(&mut list, images)
    }

    /// Removes the images that containerd needs no more. One that something else uses, or that cannot be looked at, stays for the
    /// next time. Gives how many went.
    pub fn sweep(&self, engine: &Engine, snapshots: &[Snapshot]) -> Result<usize> {
        let mut list = self.lock();
        let (mut left, mut removed) = (Vec::new(), 0);
        for mut image in list.images.clone() {
            let is_arriving = list.arriving.values().any(|arriving| *arriving == Some(image.image_id));
            // Read for each: the one before may have been another name of the same image.
            match judge(engine, &mut image, &self.store.images()?, snapshots, is_arriving) {
                Verdict::Stays => left.push(image),
                Verdict::Gone => {}
                Verdict::Goes(entry) => match remove_image_entry(engine, &entry) {
                    Ok(_) => {
                        tracing::info!(image = %image.image_id, name = image.name, "containerd needs it no more: removed");
                        removed += 1;
                    }
                    Err(error) => {
                        tracing::debug!(image = %image.image_id, name = image.name, %error, "it stays");
                        left.push(image);
                    }
                },
            }
        }
        self.put(&mut list, left)?;
        Ok(removed)
    }
}

enum Verdict {
    Stays,
    Goes(Box<ImageRecord>),
    /// The store has it no more, or by names alone that a person has given it.
    Gone,
}

fn judge(
    engine: &Engine,
    image: &mut OwnImage,
    entries: &[ImageRecord],
    snapshots: &[Snapshot],
    is_arriving: bool,
) -> Verdict {
    if is_arriving {
        return Verdict::Stays;
    }
    let Some(entry) = image.entry(entries) else { return Verdict::Gone };
    // Once its name leads elsewhere, whoever gives it that again is a person.
    image.name = name_of(entry);
    let layers = match load_image(engine, entry.clone()) {
        Ok(loaded) => loaded.config.diff_ids,
        Err(error) => {
            tracing::warn!(image = %image.image_id, %error, "it cannot be read, and stays");
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
        false => Verdict::Goes(Box::new(entry.clone())),
    }
}

fn is_any(snapshots: &[Snapshot], fits: impl Fn(&[DiffId]) -> bool) -> bool {
    snapshots.iter().map(|snapshot| &snapshot.record.layers).any(|layers| !layers.is_empty() && fits(layers))
}

/// An image on its way: no sweep removes it.
#[derive(Debug)]
pub struct Arriving<'a> {
    images: &'a OwnImages,
    number: u64,
}

impl Arriving<'_> {
    /// Notes which image it is; before the store has it, so that a crash leaves none that nobody knows. One that the store has
    /// already, by that name or without any, and that did not come for containerd, is not noted: it is a person's.
    pub fn is_image(&self, image_id: BlobDigest, name: &ImageRef) -> Result<()> {
        let mut list = self.images.lock();
        list.arriving.insert(self.number, Some(image_id));
        let new = OwnImage { name: Some(name.to_string()), image_id, complete: false };
        let mut images = list.images.clone();
        let is_own = images.iter().any(|image| image.image_id == image_id);
        match images.iter_mut().find(|image| image.image_id == image_id && image.name == new.name) {
            Some(known) => known.complete = false,
            None => {
                let entries = self.images.store.images()?;
                if !new.entry(&entries).is_some_and(|entry| !is_own || entry.reference.is_some()) {
                    images.push(new);
                }
            }
        }
        self.images.put(&mut list, images)
    }

    /// Forgets it: its pull has failed. Whoever pulls it next is a person.
    pub fn is_in_vain(&self) -> Result<()> {
        let mut list = self.images.lock();
        let Some(Some(image_id)) = list.arriving.get(&self.number).copied() else { return Ok(()) };
        let (entries, mut images) = (self.images.store.images()?, list.images.clone());
        images.retain(|image| image.image_id != image_id || image.entry(&entries).is_some());
        self.images.put(&mut list, images)
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.images.lock().arriving.remove(&self.number);
    }
}
