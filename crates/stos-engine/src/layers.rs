// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The layers of a store as people see them: which there are, who uses them, one found by what a person types; and what only who
//! knows images and containers can do safely: taking one away.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde::Serialize;
use stos_layerfs::{BackendKind, Kept, LayerForm, LayerState, Transfer};
use stos_spec::{BlobDigest, ChainId, DiffId};
use stos_store::Objects;

use crate::Engine;
use crate::container;
use crate::error::{Error, Result};
use crate::gc::used_objects;
use crate::image::load_image;
use crate::save::SaveTarget;
use crate::save::output::OutputFile;

/// A form in which a layer is kept.
#[derive(Debug, Clone, Serialize)]
pub struct FormSummary {
    /// Who keeps it.
    pub backend: BackendKind,
    /// How it looks; nothing is hashed for it.
    pub state: LayerState,
}

/// A line of `stos layer ls`.
#[derive(Debug, Clone, Serialize)]
pub struct LayerSummary {
    /// The layer.
    pub diff_id: DiffId,
    /// The length of its tar in bytes; `None` where no record of it can be read.
    pub size: Option<u64>,
    /// How many entries its tar has.
    pub entries: Option<u64>,
    /// In which forms it is kept.
    pub backends: Vec<FormSummary>,
    /// How many images have it, each counted once whatever its names.
    pub images: usize,
    /// Where it came from.
    pub source: Option<String>,
}

/// A form in which a layer is kept, with what it takes.
#[derive(Debug, Clone, Serialize)]
pub struct FormDetails {
    /// Who keeps it.
    pub backend: BackendKind,
    /// How it looks; nothing is hashed for it.
    pub state: LayerState,
    /// Its directory, below DATA-ROOT.
    pub path: String,
    /// What it takes of the disk in bytes.
    pub disk_bytes: u64,
}

/// An image that has a layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ImageUse {
    /// The image ID.
    pub id: BlobDigest,
    /// Its name, if it has one.
    pub name: Option<String>,
}

/// A container that stands on a layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ContainerUse {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A chain with a layer in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainUse {
    /// The chain.
    pub chain_id: ChainId,
    /// Who has made it: none where nothing was created from its image yet.
    pub backends: Vec<BackendKind>,
}

/// All about a layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerDetails {
    /// The layer.
    pub diff_id: DiffId,
    /// Its record; absent where none can be read.
    #[serde(flatten)]
    pub kept: Option<KeptDetails>,
    /// In which forms it is kept.
    pub backends: Vec<FormDetails>,
    /// The images that have it.
    pub images: Vec<ImageUse>,
    /// The containers that stand on it.
    pub containers: Vec<ContainerUse>,
    /// The chains of those images and containers.
    pub chains: Vec<ChainUse>,
}

/// What a layer's record says.
#[derive(Debug, Clone, Serialize)]
pub struct KeptDetails {
    /// The blob that it came as.
    pub blob: BlobDigest,
    /// The blob's size in bytes.
    pub blob_size: u64,
    /// Whether that blob is kept too.
    pub blob_kept: bool,
    /// The blob's media type.
    pub media_type: String,
    /// Where the blob came from.
    pub source: String,
    /// How many entries its tar has.
    pub entries: u64,
    /// The length of its tar in bytes.
    pub tar_bytes: u64,
}

/// Who uses which layers. An image or container that cannot be read counts for none, and is told in the log.
#[derive(Debug, Default)]
struct Users {
    images: BTreeMap<DiffId, BTreeSet<ImageUse>>,
    containers: BTreeMap<DiffId, BTreeSet<ContainerUse>>,
    chains: BTreeMap<DiffId, BTreeSet<ChainId>>,
}

impl Users {
    fn of_images(engine: &Engine) -> Result<Self> {
        let mut users = Self::default();
        for record in engine.store.images()? {
            let (id, name) = (record.image_id, record.reference.as_ref().map(ToString::to_string));
            match load_image(engine, record) {
                Ok(image) => {
                    let layers = &image.config.diff_ids;
                    for &layer in layers {
                        users.images.entry(layer).or_default().insert(ImageUse { id, name: name.clone() });
                    }
                    users.add_chain(layers);
                }
                Err(error) => tracing::warn!(%error, image = %id, "the image is damaged: its layers are not known"),
            }
        }
        Ok(users)
    }

    fn of_all(engine: &Engine) -> Result<Self> {
        let mut users = Self::of_images(engine)?;
        for (id, record) in container::list(engine)? {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!(container = %id, %error, "its record cannot be read: its layers are not known");
                    continue;
                }
            };
            for image in record.needed_images() {
                for &layer in image.layers {
                    let own = ContainerUse { id: id.to_string(), name: record.name.to_string() };
                    users.containers.entry(layer).or_default().insert(own);
                }
                users.add_chain(image.layers);
            }
        }
        Ok(users)
    }

    fn add_chain(&mut self, layers: &[DiffId]) {
        let Some(chain) = ChainId::of_layers(layers) else { return };
        for &layer in layers {
            self.chains.entry(layer).or_default().insert(chain);
        }
    }
}

/// The first record that can be read.
fn kept_of(forms: &[LayerForm]) -> Option<&Kept> {
    forms.iter().find_map(|form| form.kept.as_ref())
}

/// Lists the layers, sorted. One whose record is damaged is listed with what is known.
pub fn list_layers(engine: &Engine) -> Result<Vec<LayerSummary>> {
    let _lease = engine.store.lease()?;
    let users = Users::of_images(engine)?;
    let summarize = |layer| {
        let forms = engine.layerfs.forms_of(layer)?;
        let kept = kept_of(&forms);
        let images: BTreeSet<_> = users.images.get(&layer).into_iter().flatten().map(|image| image.id).collect();
        Ok(LayerSummary {
            diff_id: layer,
            size: kept.map(|kept| kept.tar_bytes),
            entries: kept.map(|kept| kept.entries),
            images: images.len(),
            source: kept.map(|kept| kept.source.clone()),
            backends: forms.iter().map(|form| FormSummary { backend: form.backend, state: form.state }).collect(),
        })
    };
    engine.layerfs.layers()?.into_iter().map(summarize).collect()
}

/// Finds a layer by its diffID, with or without `sha256:`, or by a beginning of it that only one layer has.
pub fn find_layer(engine: &Engine, query: &str) -> Result<DiffId> {
    let beginning = query.strip_prefix("sha256:").unwrap_or(query);
    let layers = engine.layerfs.layers()?;
    let fits: Vec<_> = layers.into_iter().filter(|layer| layer.hex().starts_with(beginning)).collect();
    match fits.as_slice() {
        [layer] if !beginning.is_empty() => Ok(*layer),
        [_, _, ..] if !beginning.is_empty() => {
            Err(Error::AmbiguousLayer { query: query.to_owned(), candidates: fits.iter().map(DiffId::short).collect() })
        }
        _ => Err(Error::NoSuchLayer(query.to_owned())),
    }
}

/// Tells all about layers, in the order of `layers`.
pub fn inspect_layers(engine: &Engine, layers: &[DiffId]) -> Result<Vec<LayerDetails>> {
    let _lease = engine.store.lease()?;
    let users = Users::of_all(engine)?;
    layers.iter().map(|layer| inspect_layer(engine, &users, *layer)).collect()
}

fn inspect_layer(engine: &Engine, users: &Users, layer: DiffId) -> Result<LayerDetails> {
    let forms = engine.layerfs.forms_of(layer)?;
    let kept = kept_of(&forms).map(|kept| KeptDetails {
        blob: kept.blob,
        blob_size: kept.blob_size,
        blob_kept: engine.store.has_blob(kept.blob, kept.blob_size),
        media_type: kept.media_type.clone(),
        source: kept.source.clone(),
        entries: kept.entries,
        tar_bytes: kept.tar_bytes,
    });
    let details = |form: &LayerForm| {
        let path = form.path.strip_prefix(engine.store.root()).unwrap_or(&form.path).display().to_string();
        Ok(FormDetails { backend: form.backend, state: form.state, path, disk_bytes: form.disk_bytes()? })
    };
    let mut made = Vec::new();
    for kind in BackendKind::ALL {
        made.push((kind, engine.layerfs.backend(kind).chains()?));
    }
    let chain = |&chain_id: &ChainId| {
        let has = |(_, chains): &&(BackendKind, Vec<ChainId>)| chains.contains(&chain_id);
        ChainUse { chain_id, backends: made.iter().filter(has).map(|(kind, _)| *kind).collect() }
    };
    Ok(LayerDetails {
        diff_id: layer,
        kept,
        backends: forms.iter().map(details).collect::<Result<_>>()?,
        images: users.images.get(&layer).into_iter().flatten().cloned().collect(),
        containers: users.containers.get(&layer).into_iter().flatten().cloned().collect(),
        chains: users.chains.get(&layer).into_iter().flatten().map(chain).collect(),
    })
}

/// Writes a layer's tar: the very bytes that its diffID was taken of. A file is made or replaced only when they were that.
///
/// # Errors
/// [`stos_layerfs::Error::DamagedLayer`] where the bytes were not; to a stream they have been written then.
pub fn export_layer(engine: &Engine, layer: DiffId, target: SaveTarget<'_>) -> Result<()> {
    let _lease = engine.store.lease_of(&Objects::of_layers(&[layer]))?;
    write_to(target, |out| {
        let mut tar = engine.layerfs.open_tar(layer)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match tar.read(&mut buffer).map_err(|error| export_error(engine, layer, error))? {
                0 => return Ok(()),
                count => out.write_all(&buffer[..count]).map_err(Error::output("write", "the layer's tar"))?,
            }
        }
    })
}

/// Where the layer is at fault every byte is looked at, so that the damage is told as such, and the next pull heals it.
fn export_error(engine: &Engine, layer: DiffId, error: io::Error) -> Error {
    match engine.layerfs.prove_layer(layer) {
        Err(error) => error.into(),
        Ok(()) => stos_store::Error::io("read", format!("layer {layer}"))(error).into(),
    }
}

/// Writes the tar of the layer that several layers become, the lowest first, and keeps nothing.
///
/// # Errors
/// Those of [`LayerFs::write_merged_layer`](stos_layerfs::LayerFs::write_merged_layer).
pub fn export_merged_layer(engine: &Engine, layers: &[DiffId], target: SaveTarget<'_>) -> Result<()> {
    write_to(target, |out| Ok(engine.layerfs.write_merged_layer(layers, out)?))
}

fn write_to(target: SaveTarget<'_>, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    match target {
        SaveTarget::Stream(out) => {
            write(out)?;
            out.flush().map_err(Error::output("write", "the tar"))
        }
        SaveTarget::Path(path) => {
            let mut file = OutputFile::create(path, "--output")?;
            let mut out = io::BufWriter::with_capacity(256 << 10, &mut file);
            write(&mut out)?;
            out.flush().map_err(Error::output("write", path))?;
            drop(out);
            file.commit()
        }
    }
}

/// Moves a layer to another store, unless an image or a container of this one uses it.
///
/// # Errors
/// [`Error::LayerInUse`]; [`Error::StoreBusy`] where another command is at work on this store: then the other store has the
/// layer too. Those of a copy.
pub fn move_layer(engine: &Engine, layer: DiffId, to: &Engine) -> Result<Transfer> {
    refuse_used(engine, layer)?;
    // Before the right to sweep is taken, which keeps others waiting.
    let copied = engine.layerfs.copy_layer(layer, &to.layerfs)?;
    let Some(_right) = engine.store.try_sweep_right()? else {
        return Err(Error::StoreBusy { path: engine.store.root().to_owned() });
    };
    refuse_used(engine, layer)?;
    engine.layerfs.move_layer(layer, &to.layerfs)?;
    Ok(copied)
}

fn refuse_used(engine: &Engine, layer: DiffId) -> Result<()> {
    match used_objects(engine)?.layers.contains(&layer) {
        true => Err(Error::LayerInUse { layer }),
        false => Ok(()),
    }
}
