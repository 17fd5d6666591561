// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images of a registry.

use std::io::Read;

use stos_registry::{FetchedManifest, Registry};
use stos_spec::config::CONFIG_MAX;
use stos_spec::manifest::{Descriptor, ManifestDocument};
use stos_spec::{BlobDigest, ImageRef, Platform, Verified};

use super::{DocumentSource, LayerSource, ResolvedImage, WantedLayer, resolve_image};
use crate::Engine;
use crate::error::{Error, Result};
use crate::policy::Admission;
use crate::registries::RegistryConfig;

/// One repository of a registry.
pub(crate) struct RegistrySource<'a> {
    engine: &'a Engine,
    registry: Registry,
    reference: ImageRef,
    admission: Admission,
}

impl<'a> RegistrySource<'a> {
    /// Prepares to ask, where the policy lets the image come.
    pub fn new(engine: &'a Engine, reference: ImageRef, registries: &RegistryConfig) -> Result<Self> {
        let route = registries.route(&reference)?;
        let admission = registries.admission(&reference, &route)?;
        Ok(Self { engine, registry: registries.client(&reference, &route)?, reference, admission })
    }

    /// Gives the image's name, registry and all.
    pub fn reference(&self) -> &ImageRef {
        &self.reference
    }

    /// Asks for what the reference names: an image or an index.
    pub fn fetch_first(&self) -> Result<FetchedManifest> {
        Ok(self.registry.fetch_manifest(self.reference.repository(), &self.reference.target(), None)?)
    }

    /// Gives a document that the store has, so that an image that is there takes one request.
    fn stored(&self, descriptor: &Descriptor) -> Option<Verified<Vec<u8>>> {
        let stored = self.engine.store.read_blob(descriptor.digest).ok();
        stored.filter(|bytes| bytes.get().len() as u64 == descriptor.size)
    }

    /// Follows that to the platform's image.
    pub fn resolve(&self, first: FetchedManifest, platform: &Platform) -> Result<ResolvedImage> {
        resolve_image(self, first.bytes, first.content_type.as_deref(), platform)
    }
}

impl DocumentSource for RegistrySource<'_> {
    /// From the store where it is there, whole; else from the registry, and then what the index calls it counts as much as what
    /// the registry does.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Verified<Vec<u8>>> {
        if let Some(bytes) = self.stored(descriptor) {
            return Ok(bytes);
        }
        let repository = self.reference.repository();
        let fetched = self.registry.fetch_manifest(repository, &descriptor.digest.to_string(), Some(descriptor))?;
        ManifestDocument::parse(fetched.bytes.get(), fetched.content_type.as_deref())
            .map_err(|source| Error::Manifest { digest: descriptor.digest, source })?;
        Ok(fetched.bytes)
    }

    fn admit(&self, manifest: BlobDigest) -> Result<()> {
        self.admission.check(&self.registry, self.reference.repository(), manifest)
    }

    /// From the store where it is there, whole; else from the registry.
    fn config(&self, descriptor: &Descriptor) -> Result<Verified<Vec<u8>>> {
        match self.stored(descriptor) {
            Some(bytes) => Ok(bytes),
            None => Ok(self.registry.fetch_config(self.reference.repository(), descriptor, CONFIG_MAX)?),
        }
    }
}

impl LayerSource for RegistrySource<'_> {
    fn name(&self) -> String {
        self.reference.name()
    }

    fn open_layer(&self, layer: &WantedLayer) -> Result<Box<dyn Read + '_>> {
        let blob = layer.blob.as_ref().ok_or(Error::Layers(stos_layerfs::Error::NoSuchLayer(layer.diff_id)))?;
        Ok(Box::new(self.registry.open_blob(self.reference.repository(), blob)?))
    }

    fn cancel(&self) {
        self.registry.cancel();
    }
}
