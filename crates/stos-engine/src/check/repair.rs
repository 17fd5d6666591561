// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where what is damaged comes from again: of what the store has, else from the registry that it came from.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use stos_layerfs::backend::Origin;
use stos_layerfs::{BackendKind, LayerRequest, Remade};
use stos_registry::Registry;
use stos_spec::config::CONFIG_MAX;
use stos_spec::manifest::MANIFEST_MAX;
use stos_spec::media_type::MediaType;
use stos_spec::{BlobDigest, Descriptor, DiffId, ImageConfig, ImageRef, LayerCompression, ManifestDocument};
use stos_store::ImageRecord;

use crate::Engine;
use crate::build::{oci_manifest, plain_layer};
use crate::error::{Error, Result};
use crate::install::unwrap_registry_error;
use crate::registries::RegistryConfig;

use super::owners::Owner;
use super::report::ObjectKind;

/// What a repair needs besides the store.
pub(super) struct Repair<'a> {
    engine: &'a Engine,
    config: &'a RegistryConfig,
    /// Those that have been spoken to, by their places.
    registries: RefCell<BTreeMap<Vec<String>, Registry>>,
}

/// A blob that a layer comes as.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// What `layer.json` says or is to say of where it comes from.
    source: String,
    /// The repository, where it came from one.
    repository: Option<ImageRef>,
    blob: Descriptor,
    compression: LayerCompression,
}

/// A way to make a layer again. They are tried in this order.
pub(super) enum Way {
    /// Of its own tar, where only what follows from that is damaged; with what its record is to say if that is lost.
    Own(Option<Candidate>),
    /// Of the other backend's form.
    Other,
    /// Of a blob that is kept.
    KeptBlob(Candidate),
    /// Of a blob that a registry has.
    Registry(Candidate),
}

/// Gives the ways in which a layer could be made again.
pub(super) fn ways(engine: &Engine, layer: DiffId, owners: &[Owner]) -> Vec<Way> {
    let candidates = candidates(engine, layer, owners);
    let kept = candidates.iter().filter(|candidate| engine.store.has_blob(candidate.blob.digest, candidate.blob.size));
    let kept: Vec<_> = kept.cloned().map(Way::KeptBlob).collect();
    let fetched = candidates.iter().filter(|candidate| candidate.repository.is_some());
    let fetched: Vec<_> = fetched.cloned().map(Way::Registry).collect();
    [Way::Own(candidates.into_iter().next()), Way::Other].into_iter().chain(kept).chain(fetched).collect()
}

/// Gives the blobs that a layer may come as: the one of its record first, then those of images.
fn candidates(engine: &Engine, layer: DiffId, owners: &[Owner]) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for kind in BackendKind::ALL {
        let Ok(Some(kept)) = engine.layerfs.backend(kind).kept(layer) else { continue };
        if let MediaType::Layer(compression) = MediaType::of(&kept.media_type) {
            let blob = Descriptor::new(kept.media_type, kept.blob, kept.blob_size);
            let repository = repository_of(&kept.source);
            candidates.push(Candidate { source: kept.source, repository, blob, compression });
        }
    }
    for owner in owners {
        let Some(manifest) = &owner.document else { continue };
        let places = owner.layers.iter().zip(&manifest.layers).filter(|(diff_id, _)| **diff_id == layer);
        for (_, described) in places {
            let Descriptor { media_type, digest, size, .. } = &described.descriptor;
            let blob = Descriptor::new(media_type.clone(), *digest, *size);
            let source = owner.repository.as_ref().map_or_else(|| "repaired".to_owned(), ImageRef::name);
            let (repository, compression) = (owner.repository.clone(), described.compression);
            candidates.push(Candidate { source, repository, blob, compression });
        }
    }
    let mut seen = BTreeSet::new();
    candidates.retain(|candidate| seen.insert((candidate.source.clone(), candidate.blob.digest)));
    candidates
}

/// Says why a repair failed, and what may help.
pub(super) fn told(error: &Error) -> String {
    match error {
        Error::Registry(registry) => with_hint(registry, registry.hint()),
        Error::RegistryConfig(config) => with_hint(config, config.hint()),
        other => other.to_string(),
    }
}

fn with_hint(error: &dyn std::error::Error, hint: Option<&str>) -> String {
    hint.map_or_else(|| error.to_string(), |hint| format!("{error} ({hint})"))
}

/// Reads `registry/repository` as records have it. What else may stand there, such as a file's path, is none.
fn repository_of(source: &str) -> Option<ImageRef> {
    source.parse::<ImageRef>().ok().filter(|reference| reference.name() == source)
}

impl<'a> Repair<'a> {
    pub fn new(engine: &'a Engine, config: &'a RegistryConfig) -> Self {
        Self { engine, config, registries: RefCell::default() }
    }

    /// Gives a client for what a repository has under a digest, whatever tag the image came by.
    fn registry(&self, repository: &ImageRef, digest: BlobDigest) -> Result<Registry> {
        let wanted: ImageRef = format!("{}@{digest}", repository.name()).parse()?;
        let route = self.config.route(&wanted)?;
        let places: Vec<_> = route.endpoints.iter().map(|endpoint| endpoint.reference.name()).collect();
        let mut registries = self.registries.borrow_mut();
        if let Some(registry) = registries.get(&places) {
            return Ok(registry.clone());
        }
        let registry = self.config.client(&wanted, &route)?;
        registries.insert(places, registry.clone());
        Ok(registry)
    }

    /// Makes a form of a layer again in one way, and says how; `None` where it cannot be had so.
    pub fn remake_layer(&self, kind: BackendKind, layer: DiffId, way: &Way) -> Result<Option<String>> {
        let layerfs = &self.engine.layerfs;
        match way {
            Way::Own(candidate) => {
                let origin = candidate.as_ref().map(|candidate| Origin {
                    media_type: &candidate.blob.media_type,
                    source: &candidate.source,
                    blob: Some((candidate.blob.digest, candidate.blob.size)),
                });
                let made = layerfs.remake_of_own(kind, layer, origin)?;
                Ok(how_of(made, || "made again of its own tar".to_owned()))
            }
            Way::Other => {
                let made = layerfs.remake_of_other(kind, layer)?;
                Ok(how_of(made, || format!("made of what the backend {} keeps", kind.other())))
            }
            Way::KeptBlob(candidate) => {
                let path = self.engine.store.blob_path(candidate.blob.digest);
                let open = || Ok(File::open(&path).map_err(stos_store::Error::io("open", &path))?);
                let made = layerfs.remake_of_blob(kind, candidate.request(layer), open);
                Ok(how_of(made.map_err(unwrap_registry_error)?, || "made of its blob, which is kept".to_owned()))
            }
            Way::Registry(candidate) => {
                let Some(repository) = &candidate.repository else { return Ok(None) };
                let registry = self.registry(repository, candidate.blob.digest)?;
                let open = || Ok::<_, Error>(registry.open_blob(repository.repository(), &candidate.blob)?);
                let made = layerfs.remake_of_blob(kind, candidate.request(layer), open);
                Ok(how_of(made.map_err(unwrap_registry_error)?, || fetched_from(repository)))
            }
        }
    }

    /// Makes a document of images again where it follows from others, or fetches it, and says how.
    pub fn remake_document(
        &self,
        kind: ObjectKind,
        digest: BlobDigest,
        owners: &[&Owner],
    ) -> std::result::Result<String, String> {
        if kind == ObjectKind::Manifest && owners.iter().any(|owner| remake_manifest(self.engine, owner)) {
            return Ok("made again of the configuration and the layers".to_owned());
        }
        let mut whys = Vec::new();
        for repository in self.repositories(owners) {
            match self.fetch_from(&repository, kind, digest, owners) {
                Ok(true) => return Ok(fetched_from(&repository)),
                Ok(false) => {
                    whys.push("its manifest, which says how long it is, is not there".to_owned());
                    break;
                }
                Err(error) => whys.push(told(&error)),
            }
        }
        if whys.is_empty() {
            whys.push("nothing says where it came from; load or pull the image again".to_owned());
        }
        Err(whys.join("; "))
    }

    fn fetch_from(&self, from: &ImageRef, kind: ObjectKind, digest: BlobDigest, owners: &[&Owner]) -> Result<bool> {
        let registry = self.registry(from, digest)?;
        let bytes = match kind {
            ObjectKind::Configuration => {
                let Some(manifest) = owners.iter().find_map(|owner| owner.document.as_ref()) else { return Ok(false) };
                registry.fetch_config(from.repository(), &manifest.config, CONFIG_MAX)?
            }
            _ => registry.fetch_manifest(from.repository(), &digest.to_string(), None)?.bytes,
        };
        self.engine.store.put_blob(&bytes)?;
        Ok(true)
    }

    /// Gives the repositories that images may have come from: those of their names, else those of their layers.
    fn repositories(&self, owners: &[&Owner]) -> Vec<ImageRef> {
        let mut repositories: Vec<ImageRef> = Vec::new();
        let mut add = |repository: ImageRef| {
            if repositories.iter().all(|known| known.name() != repository.name()) {
                repositories.push(repository);
            }
        };
        owners.iter().filter_map(|owner| owner.repository.clone()).for_each(&mut add);
        let blobs: BTreeSet<BlobDigest> = owners
            .iter()
            .flat_map(|owner| owner.document.iter())
            .flat_map(|manifest| manifest.layers.iter().map(|layer| layer.descriptor.digest))
            .collect();
        for layer in self.engine.layerfs.layers().unwrap_or_default() {
            let Ok(Some(kept)) = self.engine.layerfs.kept(layer) else { continue };
            if blobs.contains(&kept.blob) || owners.iter().any(|owner| owner.layers.contains(&layer)) {
                repository_of(&kept.source).into_iter().for_each(&mut add);
            }
        }
        repositories
    }

    /// Makes a kept blob of a layer again: of the layer's tar where it is that, else of what its registry has.
    pub fn refetch_blob(&self, digest: BlobDigest, owners: &[Owner]) -> std::result::Result<String, String> {
        let mut layer = None;
        for owner in owners {
            let described = owner.document.iter().flat_map(|manifest| &manifest.layers);
            let mut places = owner.layers.iter().zip(described);
            layer = layer.or(places.find(|(_, described)| described.descriptor.digest == digest).map(|(id, _)| *id));
        }
        let Some(layer) = layer else {
            return Err("no image says where it came from".to_owned());
        };
        let mut whys = Vec::new();
        for candidate in candidates(self.engine, layer, owners).iter().filter(|known| known.blob.digest == digest) {
            match self.replace_blob(layer, candidate) {
                Ok(Some(how)) => return Ok(how),
                Ok(None) => {}
                Err(error) => whys.push(told(&error)),
            }
        }
        if whys.is_empty() {
            whys.push("nothing says where it came from".to_owned());
        }
        Err(whys.join("; "))
    }

    fn replace_blob(&self, layer: DiffId, candidate: &Candidate) -> Result<Option<String>> {
        let (layerfs, request) = (&self.engine.layerfs, candidate.request(layer));
        if candidate.blob.digest.as_bytes() == layer.as_bytes()
            && let Ok(made) = layerfs.replace_blob(request, || Ok::<_, Error>(layerfs.open_tar(layer)?))
        {
            return Ok(how_of(made, || "made again of the layer's tar".to_owned()));
        }
        let Some(repository) = &candidate.repository else { return Ok(None) };
        let registry = self.registry(repository, candidate.blob.digest)?;
        let open = || Ok::<_, Error>(registry.open_blob(repository.repository(), &candidate.blob)?);
        let made = layerfs.replace_blob(request, open).map_err(unwrap_registry_error)?;
        Ok(how_of(made, || fetched_from(repository)))
    }
}

/// Says how something has become sound; `None` where it has not.
fn how_of(made: Remade, how: impl FnOnce() -> String) -> Option<String> {
    match made {
        Remade::Made => Some(how()),
        Remade::WasSound => Some("another command has healed it meanwhile".to_owned()),
        Remade::Impossible => None,
    }
}

fn fetched_from(repository: &ImageRef) -> String {
    format!("fetched again from {}", repository.name())
}

impl Candidate {
    fn request(&self, layer: DiffId) -> LayerRequest<'_> {
        let (compression, source) = (self.compression, self.source.as_str());
        LayerRequest { diff_id: layer, blob: &self.blob, compression, source, keep_blob: false }
    }
}

/// Makes the manifest of an image again that was made here, of plain layers: it follows from the configuration and the lengths of
/// the layers' tars. Tells whether it is the one that the image had, and has it again.
fn remake_manifest(engine: &Engine, owner: &Owner) -> bool {
    let made = (|| {
        let bytes = engine.store.read_blob(owner.config).ok()?;
        let config = ImageConfig::parse(bytes.get()).ok()?;
        let describe = |layer: &DiffId| Some(plain_layer(*layer, engine.layerfs.tar_bytes(*layer).ok()??));
        let layers: Option<Vec<_>> = config.diff_ids.iter().map(describe).collect();
        oci_manifest(&bytes, &layers?).ok()
    })();
    made.is_some_and(|made| made.digest() == owner.manifest && engine.store.put_blob(&made).is_ok())
}

/// Makes the list of images again, of the manifests among the blobs whose configuration is there too. Names it cannot know. Gives
/// how many images it has.
pub(super) fn rebuild_index(engine: &Engine) -> Result<usize> {
    let mut images = Vec::new();
    let mut indexes = BTreeMap::new();
    for digest in engine.store.blobs()? {
        let is_small = std::fs::metadata(engine.store.blob_path(digest)).is_ok_and(|file| file.len() <= MANIFEST_MAX);
        let Some(bytes) = is_small.then(|| engine.store.read_blob(digest).ok()).flatten() else { continue };
        match ManifestDocument::parse(bytes.get(), None) {
            Ok(ManifestDocument::Image(manifest)) => {
                let Ok(config_bytes) = engine.store.read_blob(manifest.config.digest) else { continue };
                let Ok(config) = ImageConfig::parse(config_bytes.get()) else { continue };
                if config.check_layer_count(manifest.layers.len()).is_err() {
                    continue;
                }
                let size = bytes.get().len() as u64;
                images.push(ImageRecord {
                    reference: None,
                    manifest: Descriptor {
                        platform: Some(config.platform),
                        ..Descriptor::new(manifest.media_type, digest, size)
                    },
                    image_id: manifest.config.digest,
                    index_digest: None,
                    pulled: crate::container::now(),
                });
            }
            Ok(ManifestDocument::Index(index)) => {
                indexes.extend(index.manifests.iter().map(|entry| (entry.digest, digest)));
            }
            Err(_) => {}
        }
    }
    for image in &mut images {
        image.index_digest = indexes.get(&image.manifest.digest).copied();
    }
    engine.store.replace_damaged_index(&images)?;
    Ok(images.len())
}

/// Writes the ID of an image anew, unless what the list of images says of the image has changed meanwhile.
pub(super) fn correct_id(engine: &Engine, entry: &ImageRecord, right: BlobDigest) -> Result<()> {
    if engine.store.images()?.contains(entry) {
        engine.store.put_image(&ImageRecord { image_id: right, ..entry.clone() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_repository_with_its_registry_is_one() {
        let name = |source: &str| repository_of(source).map(|found| found.name());
        for source in ["127.0.0.1:5000/team/app", "docker.io/library/debian", "localhost/x"] {
            assert_eq!(name(source).as_deref(), Some(source));
        }
        for source in ["repaired", "2 layers, merged", "/tmp/app.tar", "app.tar", "", "library/debian", "x/y:1"] {
            assert_eq!(name(source), None, "{source}");
        }
    }
}
