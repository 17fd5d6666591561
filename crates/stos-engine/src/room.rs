// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether images can fit on the disk, decided before any layer is fetched.
//!
//! Only what can hardly fit is refused. Manifests tell the sizes of blobs: an uncompressed layer has that length, a
//! compressed one at least; holes, and filesystems that compress, are not reckoned with. How much more it will take nobody knows before it is there, so a pull that passes may still run out
//! of room, and is then told by the layer that did.

use std::collections::BTreeSet;

use stos_layerfs::{BackendKind, Room};
use stos_spec::{ChainId, DiffId};
use stos_store::Store;

use crate::Engine;
use crate::error::{Error, Result, Scarce};
use crate::install::NamedImage;
use crate::source::{ResolvedImage, WantedLayer};

/// What a layer that is missing takes at least, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LayerNeed {
    /// As a layer; 0 where it is there and only its blob is missing.
    layer: u64,
    /// As a blob that is kept; 0 where none is.
    blob: u64,
}

/// Refuses images whose missing layers cannot fit, with all that makes them images: nothing has been fetched of them then.
///
/// Layers of unknown size, as compressed ones of a docker-archive, count for nothing.
///
/// # Errors
/// [`Error::NoRoomForImage`]
pub(crate) fn check_room(engine: &Engine, images: &[NamedImage], keep_blobs: bool) -> Result<()> {
    let kind = engine.layerfs.kind_of_new()?;
    let needs = missing_layers(engine, images, keep_blobs)?;
    if needs.is_empty() {
        return Ok(());
    }
    let room = engine.layerfs.room()?;
    let refuse = |scarce, needed, free| {
        Err(Error::NoRoomForImage { image: called(images), path: engine.store.root().to_owned(), scarce, needed, free })
    };
    if let Some(needed) = lacking_bytes(&needs, room) {
        return refuse(Scarce::Bytes, needed, room.bytes);
    }
    let needed = least_inodes(engine, images, &needs, kind);
    match room.inodes {
        Some(free) if needed > free => refuse(Scarce::Inodes, needed, free),
        _ => Ok(()),
    }
}

/// What errors call them: the first one, and how many more there are.
fn called(images: &[NamedImage]) -> String {
    let name = |named: &NamedImage| named.names.first().map_or(named.image.digest().to_string(), ToString::to_string);
    match images {
        [] => String::new(),
        [only] => name(only),
        [first, rest @ ..] => format!("{} and {} more", name(first), rest.len()),
    }
}

fn missing_layers(engine: &Engine, images: &[NamedImage], keep_blobs: bool) -> Result<Vec<LayerNeed>> {
    let (mut layers, mut blobs) = (BTreeSet::<DiffId>::new(), BTreeSet::new());
    let mut needs = Vec::new();
    let described = images.iter().flat_map(|named| &named.image.layers);
    for (layer, blob) in described.filter_map(|layer: &WantedLayer| Some((layer.diff_id, layer.blob.as_ref()?))) {
        let is_missing = layers.insert(layer) && !engine.layerfs.is_kept(layer)?;
        let is_wanted = keep_blobs && blobs.insert(blob.digest) && !engine.store.has_blob(blob.digest, blob.size);
        if is_missing || is_wanted {
            let size = |counts| if counts { blob.size } else { 0 };
            needs.push(LayerNeed { layer: size(is_missing), blob: size(is_wanted) });
        }
    }
    Ok(needs)
}

/// Gives how many bytes must be free for these layers, where so many are not.
///
/// They come one after the other here, the largest first: whoever comes side by side finds no more room, and each leaves the
/// reserve that it would.
fn lacking_bytes(needs: &[LayerNeed], room: Room) -> Option<u64> {
    let mut needs = needs.to_vec();
    needs.sort_by_key(|need| std::cmp::Reverse(need.layer));
    let all = needs.iter().fold(0_u64, |sum, need| sum.saturating_add(need.layer).saturating_add(need.blob));
    let mut left = room;
    for LayerNeed { layer, blob } in needs {
        if layer > left.largest_layer() || layer.saturating_add(blob) > left.bytes {
            // Of those that are all but too large the reserve is what is lacking.
            return Some(all.saturating_add(if all > room.bytes { 0 } else { left.reserve() }));
        }
        left.bytes -= layer + blob;
    }
    None
}

/// Gives how many inodes these images take at least.
fn least_inodes(engine: &Engine, images: &[NamedImage], needs: &[LayerNeed], kind: BackendKind) -> u64 {
    let of_layer = |need: &LayerNeed| {
        let layer = if need.layer > 0 { kind.least_inodes_of_layer() } else { 0 };
        layer + u64::from(need.blob > 0)
    };
    let chains: BTreeSet<ChainId> =
        images.iter().filter_map(|named| ChainId::of_layers(&named.image.diff_ids())).collect();
    let chains = chains.into_iter().filter(|chain| !engine.layerfs.backend(kind).has_chain(*chain)).count() as u64;
    let documents: BTreeSet<_> =
        images.iter().flat_map(|named| missing_documents(&engine.store, &named.image)).collect();
    let layers: u64 = needs.iter().map(of_layer).sum();
    layers + chains * kind.least_inodes_of_chain() + documents.len() as u64
}

fn missing_documents(store: &Store, image: &ResolvedImage) -> Vec<stos_spec::BlobDigest> {
    let manifest = image.manifest.as_ref().map(|manifest| &manifest.bytes);
    let documents = [manifest, Some(&image.config_bytes), image.index.as_ref()];
    let missing = documents.into_iter().flatten();
    let missing = missing.filter(|bytes| !store.has_blob(bytes.digest(), bytes.get().len() as u64));
    missing.map(stos_spec::Verified::digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking(needs: &[(u64, u64)], free: u64) -> Option<u64> {
        let needs: Vec<_> = needs.iter().map(|&(layer, blob)| LayerNeed { layer, blob }).collect();
        lacking_bytes(&needs, Room { bytes: free, inodes: None })
    }

    #[test]
    fn what_cannot_fit_is_refused_and_nothing_else() {
        // One layer leaves a tenth.
        assert_eq!(lacking(&[(900, 0)], 1000), None);
        assert_eq!(lacking(&[(901, 0)], 1000), Some(1001));
        assert_eq!(lacking(&[(5000, 0)], 1000), Some(5000));
        // Several leave a tenth of what is left for the last of them, whatever their order.
        assert_eq!(lacking(&[(90, 0), (900, 0)], 1000), None);
        assert_eq!(lacking(&[(95, 0), (900, 0)], 1000), Some(1005));
        assert_eq!(lacking(&[(600, 0), (600, 0)], 1000), Some(1200));
        // A blob that is kept takes room, and leaves none.
        assert_eq!(lacking(&[(400, 400)], 1000), None);
        assert_eq!(lacking(&[(0, 1000)], 1000), None);
        assert_eq!(lacking(&[(0, 1001)], 1000), Some(1001));
        assert_eq!(lacking(&[(600, 600)], 1000), Some(1200));
        // Sizes that lie make no sum small.
        assert_eq!(lacking(&[(u64::MAX, u64::MAX), (1, 1)], u64::MAX), Some(u64::MAX));
        assert_eq!(lacking(&[], 0), None);
    }
}
