// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The repository that an image goes to.

use stos_registry::{Registry, Reopen, Upload, UploadStart};
use stos_spec::{BlobDigest, Descriptor, ImageRef};

use super::CHUNK;
use crate::error::Result;
use crate::registries::RegistryConfig;

/// The repository that an image goes to, at the registry that it names: mirrors get nothing, and locations are for reading.
pub(super) struct Target<'a> {
    reference: &'a ImageRef,
    registry: Registry,
}

impl<'a> Target<'a> {
    pub fn new(reference: &'a ImageRef, registries: &'a RegistryConfig) -> Result<Self> {
        let route = registries.destination(reference)?;
        Ok(Self { reference, registry: registries.client(reference, &route)? })
    }

    /// Gives what `layer.json` and `sent.json` call it: `registry/repository`.
    pub fn name(&self) -> String {
        self.reference.name()
    }

    /// Gives the repository of `place` (`registry/repository`), where it is another one of this registry.
    pub fn sibling(&self, place: &str) -> Option<String> {
        let other: ImageRef = place.parse().ok().filter(|other: &ImageRef| !other.is_short())?;
        let is_sibling =
            self.reference.registry() == other.registry() && self.reference.repository() != other.repository();
        is_sibling.then(|| other.repository().to_owned())
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
