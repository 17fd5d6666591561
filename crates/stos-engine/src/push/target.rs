// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The repository that an image goes to.

use stos_config::registries::{Role, Route};
use stos_registry::{Registry, Reopen, Upload, UploadStart};
use stos_spec::{BlobDigest, Descriptor, ImageRef};

use super::CHUNK;
use crate::error::Result;
use crate::registries::RegistryConfig;

/// The repository that an image goes to, at the registry itself: mirrors get nothing.
pub(super) struct Target<'a> {
    reference: &'a ImageRef,
    registries: &'a RegistryConfig,
    route: Route,
    registry: Registry,
}

impl<'a> Target<'a> {
    pub fn new(reference: &'a ImageRef, registries: &'a RegistryConfig) -> Result<Self> {
        let route = registries.route(reference)?;
        let registry = registries.client(reference, &route)?;
        Ok(Self { reference, registries, route, registry })
    }

    /// Gives what `layer.json` and `sent.json` call it: `registry/repository`.
    pub fn name(&self) -> String {
        self.reference.name()
    }

    /// Gives the repository `place` (`registry/repository`) as the registry calls it, where it is another one of this registry.
    pub fn sibling(&self, place: &str) -> Option<String> {
        let other: ImageRef = place.parse().ok().filter(|other: &ImageRef| !other.is_short())?;
        let route = self.registries.route(&other).ok()?;
        let (here, there) = (itself(&self.route)?, itself(&route)?);
        let is_sibling = here.registry() == there.registry() && here.repository() != there.repository();
        is_sibling.then(|| there.repository().to_owned())
    }

    pub fn has_blob(&self, blob: &Descriptor) -> Result<bool> {
        Ok(self.registry.has_blob(self.reference.repository(), blob)?)
    }

    /// Asks for a blob of another repository to be mounted.
    pub fn mount(&self, blob: &Descriptor, from: &str) -> Result<UploadStart> {
        Ok(self.registry.begin_upload(self.reference.repository(), blob, Some(from))?)
    }

    pub fn push_blob(&self, blob: &Descriptor, started: Option<Box<Upload>>, open: &Reopen<'_>) -> Result<()> {
        Ok(self.registry.push_blob(self.reference.repository(), blob, started, open, CHUNK)?)
    }

    pub fn push_stream(&self, media_type: &str, open: &Reopen<'_>) -> Result<Descriptor> {
        Ok(self.registry.push_stream(self.reference.repository(), media_type, open, CHUNK)?)
    }

    pub fn put_manifest(&self, media_type: &str, bytes: &[u8]) -> Result<BlobDigest> {
        Ok(self.registry.put_manifest(self.reference.repository(), &self.reference.target(), media_type, bytes)?)
    }

    /// Ends what waits for the registry.
    pub fn cancel(&self) {
        self.registry.cancel();
    }
}

/// Gives what an image is called at its registry.
fn itself(route: &Route) -> Option<&ImageRef> {
    route.endpoints.iter().find(|endpoint| endpoint.role == Role::Registry).map(|endpoint| &endpoint.reference)
}
