// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `sent.json` beside a layer: the blobs as which it has been sent to registries.
//!
//! It spares work and proves nothing: what it names is asked for before it is believed. So it is not synced, nobody checks it,
//! and one that cannot be read is as good as none. It goes with its layer.

use serde::{Deserialize, Serialize};
use stos_spec::{BlobDigest, DiffId, LayerCompression};
use stos_store::files::{self, Durability};

use crate::LayerFs;
use crate::error::Result;
use crate::layers::layer_lock;

/// How many blobs are remembered of a layer; the oldest is forgotten first.
const SENT_MAX: usize = 16;

/// A blob as which a layer has been sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentBlob {
    /// The blob.
    pub digest: BlobDigest,
    /// Its size in bytes.
    pub size: u64,
    /// How it is compressed.
    pub compression: LayerCompression,
    /// Where it was sent: `registry/repository`.
    pub place: String,
}

impl LayerFs {
    /// Gives the blobs as which a layer has been sent, the last one first.
    pub fn sent_blobs(&self, layer: DiffId) -> Vec<SentBlob> {
        let paths = self.layer_places(layer).into_iter().map(|place| place.join("sent.json"));
        let mut found = paths.filter_map(|path| files::read_json::<Vec<SentBlob>>(&path).ok().flatten());
        found.next().unwrap_or_default()
    }

    /// Notes a blob as which a layer has been sent.
    pub fn note_sent_blob(&self, layer: DiffId, blob: SentBlob) -> Result<()> {
        self.store.with_lock(&layer_lock(layer), || {
            let mut blobs = self.sent_blobs(layer);
            blobs.retain(|known| *known != blob);
            blobs.insert(0, blob);
            blobs.truncate(SENT_MAX);
            let place = self.layer_places(layer).into_iter().find(|place| place.is_dir());
            if let Some(place) = place {
                let bytes = files::to_json(&blobs);
                files::replace(&place.join("sent.json"), &self.store.staging_area(), &bytes, Durability::Volatile)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use stos_store::Store;

    use super::*;

    fn blob(number: usize) -> SentBlob {
        let (digest, size) = (BlobDigest::of(&number.to_le_bytes()), number as u64);
        SentBlob { digest, size, compression: LayerCompression::Gzip, place: "r.example/app".to_owned() }
    }

    #[test]
    fn the_last_ones_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let layerfs = LayerFs::new(Store::open(&dir.path().join("data")).unwrap(), &dir.path().join("run"));
        let layer = DiffId::of(b"a layer");
        // Of a layer that is not there nothing is.
        layerfs.note_sent_blob(layer, blob(0)).unwrap();
        assert_eq!(layerfs.sent_blobs(layer), []);
        let place = layerfs.layer_places(layer).remove(0);
        fs::create_dir_all(&place).unwrap();
        for number in (0..20).chain([7]) {
            layerfs.note_sent_blob(layer, blob(number)).unwrap();
        }
        let numbers: Vec<u64> = layerfs.sent_blobs(layer).iter().map(|blob| blob.size).collect();
        assert_eq!(numbers, [7, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 6, 5, 4]);
        // What cannot be read is as good as none, and is replaced.
        fs::write(place.join("sent.json"), b"[{").unwrap();
        assert_eq!(layerfs.sent_blobs(layer), []);
        layerfs.note_sent_blob(layer, blob(3)).unwrap();
        assert_eq!(layerfs.sent_blobs(layer), [blob(3)]);
    }
}
