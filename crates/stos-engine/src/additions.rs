// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a command that makes an image adds to the store. Where it fails, this goes again, and nothing else.

use std::collections::BTreeSet;

use stos_spec::{ChainId, DiffId};
use stos_store::{Lease, Objects};

use crate::Engine;
use crate::build::NewImage;
use crate::error::Result;
use crate::gc::take_back;

/// An image in the making, whose layer is the last thing to come before its documents. Holds a lease.
pub(crate) struct Additions<'a> {
    engine: &'a Engine,
    lease: Lease,
    /// The layers that were there before.
    before: BTreeSet<DiffId>,
    added: Objects,
}

impl<'a> Additions<'a> {
    pub(crate) fn begin(engine: &'a Engine) -> Result<Self> {
        let lease = engine.store.lease()?;
        let before = engine.layerfs.layers()?.into_iter().collect();
        Ok(Self { engine, lease, before, added: Objects::default() })
    }

    /// The layer has been added, unless it was there.
    pub(crate) fn layer(&mut self, layer: DiffId) {
        if !self.before.contains(&layer) {
            self.added.layers.insert(layer);
        }
    }

    /// The image is about to be added.
    pub(crate) fn image(&mut self, image: &NewImage) -> Result<()> {
        let layers = &image.config.diff_ids;
        if !self.engine.layerfs.has_chain(layers)? {
            self.added.chains.extend(ChainId::of_layers(layers));
        }
        for blob in [&image.config_bytes, &image.manifest_bytes] {
            if !self.engine.store.has_blob(blob.digest(), blob.get().len() as u64) {
                self.added.blobs.insert(blob.digest());
            }
        }
        Ok(())
    }

    /// Takes back what was added where `made` is an error, which is given back in any case.
    ///
    /// Where another command is at work it may rely on that already: then it stays for the next sweep.
    pub(crate) fn settle<T>(self, made: Result<T>) -> Result<T> {
        if made.is_err()
            && let Err(error) = self.remove()
        {
            // What failed first is the one to tell.
            tracing::warn!(%error, "cannot remove what a failed command has added: the next sweep does");
        }
        made
    }

    fn remove(self) -> Result<()> {
        let Self { engine, lease, added, .. } = self;
        drop(lease);
        if added == Objects::default() { Ok(()) } else { take_back(engine, &added) }
    }
}
