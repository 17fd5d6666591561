// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a repository comes to have a layer: it has it, it takes it from another repository, or it is sent.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stos_layerfs::{Kept, SentBlob};
use stos_registry::{Error as RegistryError, Upload, UploadStart};
use stos_spec::manifest::{Descriptor, LayerDescriptor};
use stos_spec::{BlobDigest, DiffId, LayerCompression};
use stos_store::files;

use super::PushOptions;
use super::compress::{Codec, Compressed};
use super::target::Target;
use crate::Engine;
use crate::build::plain_layer;
use crate::counted::Counted;
use crate::error::{Error, Result};
use crate::pull::PullProgress;

/// How many repositories are asked for one blob: each that does not give it costs a round trip or two.
const SIBLINGS_MAX: usize = 4;

/// The layers of an image on their way. Progress calls them by the blobs that the image's manifest names, as whatever they go.
pub(super) struct LayerPush<'a> {
    pub engine: &'a Engine,
    pub target: &'a Target<'a>,
    pub options: &'a PushOptions,
    pub progress: &'a dyn PullProgress,
}

/// A layer that the repository has now.
#[derive(Debug, Clone)]
pub(super) struct PushedLayer {
    /// As which blob.
    pub layer: LayerDescriptor,
    pub way: Way,
}

/// How the repository came to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Present,
    Mounted,
    Sent,
}

/// A blob as which the layer may go.
struct Candidate {
    layer: LayerDescriptor,
    /// The repositories of this registry that may have it.
    siblings: Vec<String>,
}

impl PushedLayer {
    pub fn sent_bytes(&self) -> u64 {
        if self.way == Way::Sent { self.layer.descriptor.size } else { 0 }
    }
}

impl LayerPush<'_> {
    /// Makes sure that the repository has a layer, which the image's manifest describes as `layer`.
    pub fn ensure(&self, diff_id: DiffId, layer: &LayerDescriptor) -> Result<PushedLayer> {
        let shown = layer.descriptor.digest;
        for Candidate { layer, siblings } in self.candidates(diff_id, layer)? {
            let blob = &layer.descriptor;
            let done = |way| Ok(PushedLayer { layer: layer.clone(), way });
            if self.target.has_blob(blob)? {
                self.progress.layer_done(shown, true);
                return done(Way::Present);
            }
            let is_kept = self.is_kept(blob);
            let mut upload = None;
            for from in &siblings {
                match self.target.mount(blob, from)? {
                    UploadStart::Mounted => {
                        self.progress.layer_done(shown, true);
                        return done(Way::Mounted);
                    }
                    UploadStart::Started(started) if is_kept => {
                        upload = Some(started);
                        break;
                    }
                    UploadStart::Started(started) => started.abandon(),
                }
            }
            if is_kept {
                self.send_kept(blob, shown, upload)?;
                self.progress.layer_done(shown, false);
                self.note(diff_id, &layer);
                return done(Way::Sent);
            }
        }
        let pushed = self.send_made(diff_id, shown)?;
        self.progress.layer_done(shown, false);
        self.note(diff_id, &pushed.layer);
        Ok(pushed)
    }

    /// Gives how many bytes of a layer progress will count, if it is sent.
    pub fn expected(&self, diff_id: DiffId, layer: &LayerDescriptor) -> Result<u64> {
        let goes_as_it_is = self.is_wanted(layer.compression) && self.is_kept(&layer.descriptor);
        if goes_as_it_is { Ok(layer.descriptor.size) } else { self.tar_bytes(diff_id) }
    }

    fn is_kept(&self, blob: &Descriptor) -> bool {
        self.engine.store.has_blob(blob.digest, blob.size)
    }

    fn is_wanted(&self, compression: LayerCompression) -> bool {
        self.options.compression.is_none_or(|wanted| wanted == compression)
    }

    /// Gives the blobs as which a layer may go, the image's own first: what is kept of it, what it came as, what it has been
    /// sent as; those alone that are compressed as is wanted.
    fn candidates(&self, diff_id: DiffId, layer: &LayerDescriptor) -> Result<Vec<Candidate>> {
        let kept = self.engine.layerfs.kept(diff_id)?;
        let sent = self.engine.layerfs.sent_blobs(diff_id);
        let mut layers = vec![layer.clone()];
        // Another level may have been wanted then.
        let known = if self.options.level.is_none() { sent.as_slice() } else { &[] };
        for &SentBlob { digest, size, compression, .. } in known {
            // Of a layer that cannot go as it is, one that is compressed is wanted.
            let is_new = layers.iter().all(|layer| layer.descriptor.digest != digest);
            if compression == self.compression_of_made() && is_new {
                let descriptor = Descriptor::new(compression.oci_layer(), digest, size);
                layers.push(LayerDescriptor { descriptor, compression });
            }
        }
        if self.options.compression == Some(LayerCompression::None) && layer.compression != LayerCompression::None {
            let descriptor = plain_layer(diff_id, self.tar_bytes(diff_id)?);
            layers.push(LayerDescriptor { descriptor, compression: LayerCompression::None });
        }
        layers.retain(|layer| self.is_wanted(layer.compression));
        Ok(layers.into_iter().map(|layer| self.candidate(layer, kept.as_ref(), &sent)).collect())
    }

    fn candidate(&self, layer: LayerDescriptor, kept: Option<&Kept>, sent: &[SentBlob]) -> Candidate {
        let digest = layer.descriptor.digest;
        let came_from = kept.filter(|kept| kept.blob == digest).map(|kept| kept.source.as_str());
        let sent_to = sent.iter().filter(|known| known.digest == digest).map(|known| known.place.as_str());
        let mut siblings = Vec::new();
        for sibling in came_from.into_iter().chain(sent_to).filter_map(|place| self.target.sibling(place)) {
            if siblings.len() < SIBLINGS_MAX && !siblings.contains(&sibling) {
                siblings.push(sibling);
            }
        }
        Candidate { layer, siblings }
    }

    fn tar_bytes(&self, diff_id: DiffId) -> Result<u64> {
        Ok(self.engine.layerfs.tar_bytes(diff_id)?.ok_or(stos_layerfs::Error::NoSuchLayer(diff_id))?)
    }

    fn compression_of_made(&self) -> LayerCompression {
        self.options.compression.unwrap_or(LayerCompression::Gzip)
    }

    /// Sends a blob that is kept. One that has turned out damaged is removed: it is of no use.
    fn send_kept(&self, blob: &Descriptor, shown: BlobDigest, upload: Option<Box<Upload>>) -> Result<()> {
        let path = self.engine.store.blob_path(blob.digest);
        let open = || -> io::Result<Box<dyn Read + '_>> {
            self.progress.layer_started(shown, blob.size);
            let told = |count| self.progress.layer_advanced(shown, count);
            Ok(Box::new(Counted::new(files::open(&path).map_err(io::Error::other)?, told)))
        };
        match self.target.push_blob(blob, upload, &open) {
            Err(error) if is_of_content(&error) => Err(self.damage_of(blob)?.unwrap_or(error)),
            sent => sent,
        }
    }

    /// Tells whether a kept blob is damaged, which is why the registry did not take it.
    fn damage_of(&self, blob: &Descriptor) -> Result<Option<Error>> {
        let Some((found, _)) = self.engine.store.hash_blob(blob.digest)? else { return Ok(None) };
        if found == blob.digest {
            return Ok(None);
        }
        Ok(Some(self.engine.store.discard_damaged_layer_blob(blob.digest, found)?.into()))
    }

    /// Makes the blob of the layer's tar, which is proved while it is read, and sends it.
    fn send_made(&self, diff_id: DiffId, shown: BlobDigest) -> Result<PushedLayer> {
        let compression = self.compression_of_made();
        let size = self.tar_bytes(diff_id)?;
        let codec = Codec::new(compression, self.options.level);
        let open = || -> io::Result<Box<dyn Read + '_>> {
            self.progress.layer_started(shown, size);
            let tar = self.engine.layerfs.open_tar(diff_id).map_err(io::Error::other)?;
            Ok(match codec {
                None => Box::new(Counted::new(tar, |count| self.progress.layer_advanced(shown, count))),
                Some(codec) => {
                    // Each sending has its own: what one has read in vain is none of the next one's.
                    let read = Arc::<AtomicU64>::default();
                    let compressed = Compressed::new(tar, codec, read.clone())?;
                    let told = move |_| self.progress.layer_advanced(shown, read.swap(0, Ordering::Relaxed));
                    Box::new(Counted::new(compressed, told))
                }
            })
        };
        let descriptor = match codec {
            None => {
                let blob = plain_layer(diff_id, size);
                self.target.push_blob(&blob, None, &open)?;
                blob
            }
            Some(_) => self.target.push_stream(compression.oci_layer(), &open)?,
        };
        Ok(PushedLayer { layer: LayerDescriptor { descriptor, compression }, way: Way::Sent })
    }

    fn note(&self, diff_id: DiffId, layer: &LayerDescriptor) {
        let LayerDescriptor { descriptor: Descriptor { digest, size, .. }, compression } = *layer;
        let sent = SentBlob { digest, size, compression, place: self.target.name() };
        if let Err(error) = self.engine.layerfs.note_sent_blob(diff_id, sent) {
            // The next push compresses it once more.
            tracing::warn!(layer = %diff_id, %error, "cannot note as which blob the layer was sent");
        }
    }
}

/// Tells whether a push may have failed for what was sent.
fn is_of_content(error: &Error) -> bool {
    use RegistryError::{Content, ContentSize, DigestMismatch, UnexpectedStatus};
    let Error::Registry(error) = error else { return false };
    matches!(error, Content { .. } | ContentSize { .. } | DigestMismatch { .. } | UnexpectedStatus { status: 400, .. })
}
