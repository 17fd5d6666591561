// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a command that makes an image adds to the store. Where it fails, this goes again, and nothing else.

use std::collections::BTreeSet;

use stos_spec::{BlobDigest, ChainId, DiffId};
use stos_store::Lock;

use crate::Engine;
use crate::build::NewImage;
use crate::error::Result;

/// An image in the making, whose layer is the last thing to come before its documents. Holds a lease.
pub(crate) struct Additions<'a> {
    engine: &'a Engine,
    lease: Lock,
    /// The layers that were there before.
    before: BTreeSet<DiffId>,
    layer: Option<DiffId>,
    chain: Option<ChainId>,
    blobs: Vec<BlobDigest>,
}

impl<'a> Additions<'a> {
    pub(crate) fn begin(engine: &'a Engine) -> Result<Self> {
        let lease = engine.store.lease()?;
        let before = engine.layerfs.layers()?.into_iter().collect();
        Ok(Self { engine, lease, before, layer: None, chain: None, blobs: Vec::new() })
    }

    /// The layer has been added, unless it was there.
    pub(crate) fn layer(&mut self, layer: DiffId) {
        self.layer = Some(layer).filter(|layer| !self.before.contains(layer));
    }

    /// The image is about to be added.
    pub(crate) fn image(&mut self, image: &NewImage) -> Result<()> {
        let layers = &image.config.diff_ids;
        let is_new = !self.engine.layerfs.has_chain(layers)?;
        self.chain = ChainId::of_layers(layers).filter(|_| is_new);
        for blob in [&image.config_bytes, &image.manifest_bytes] {
            if !self.engine.store.has_blob(blob.digest(), blob.get().len() as u64) {
                self.blobs.push(blob.digest());
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
        let Self { engine, lease, layer, chain, blobs, .. } = self;
        drop(lease);
        if layer.is_none() && chain.is_none() && blobs.is_empty() {
            return Ok(());
        }
        let Some(_right) = engine.store.try_sweep_right()? else { return Ok(()) };
        let used = crate::image::used_objects(engine)?;
        if let Some(chain) = chain.filter(|chain| !used.chains.contains(chain)) {
            engine.layerfs.unmount_chain(chain)?;
            engine.layerfs.remove_chain(chain)?;
        }
        if let Some(layer) = layer.filter(|layer| !used.layers.contains(layer)) {
            engine.layerfs.remove_layer(layer)?;
        }
        blobs
            .into_iter()
            .filter(|blob| !used.blobs.contains(blob))
            .try_for_each(|blob| engine.store.remove_blob(blob))?;
        Ok(())
    }
}
