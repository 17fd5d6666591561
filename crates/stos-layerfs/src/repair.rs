// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Damaged layers and blobs are made again: of what the store has, or of what the caller hands over. Chains are made again by
//! [`ensure_sound_chain`](LayerFs::ensure_sound_chain).
//!
//! A repair is about one form of a layer, the one that is damaged. What was healed by another process meanwhile is left alone.

use std::io::Read;

use stos_spec::{BlobDigest, DiffId, LayerCompression};

use crate::LayerFs;
use crate::backend::{Backend, BackendKind, Kept, Origin};
use crate::blob::{Keeping, prove_blob, unwrap_keeping_error};
use crate::error::{Error, LayerLabel, Result};
use crate::ingest::IngestRequest;
use crate::layers::{LayerRequest, commit, layer_lock};
use crate::tar_reader::TarReader;

/// Where the layer is said to come from, where nobody knows it any more.
const UNKNOWN_SOURCE: &str = "repaired";

impl LayerFs {
    /// Makes a layer of one backend again of what that backend itself keeps of it, where the tar is still to be had: the index and
    /// what else follows from the tar, and the record. `false` where its tar is not.
    ///
    /// `origin` says where it came from, for a record that does not say so any more; without it, and without a record, it came as
    /// its own tar.
    pub fn remake_of_own(&self, kind: BackendKind, layer: DiffId, origin: Option<Origin<'_>>) -> Result<bool> {
        self.store.with_lock(&layer_lock(layer), || self.remake_of_own_locked(kind, layer, origin))
    }

    /// The same for who holds the layer's lock.
    pub(crate) fn remake_of_own_locked(
        &self,
        kind: BackendKind,
        layer: DiffId,
        origin: Option<Origin<'_>>,
    ) -> Result<bool> {
        let kept = self.backend(kind).kept(layer)?;
        let origin = match (&kept, origin) {
            (Some(kept), _) => origin_of(kept),
            (None, Some(origin)) => origin,
            (None, None) => Origin { media_type: stos_spec::media_type::OCI_LAYER, source: UNKNOWN_SOURCE, blob: None },
        };
        match kind {
            BackendKind::Erofs => self.erofs.rebuild_from_tar(layer, origin),
            BackendKind::Dirs => {
                let backend = self.clone();
                // Its length is not known without its record; its digest is what counts.
                let tar = TarReader::new(layer, u64::MAX, move |mut out| {
                    backend.dirs.copy_tar(layer, &mut out).map(drop).map_err(std::io::Error::other)
                })?;
                self.restage(BackendKind::Dirs, layer, tar, origin)
            }
        }
    }

    /// Makes a layer of one backend again of what the other keeps; `false` where that has none, or no sound one.
    pub fn remake_of_other(&self, kind: BackendKind, layer: DiffId) -> Result<bool> {
        let backend = self.backend(kind);
        self.store.with_lock(&layer_lock(layer), || self.convert(backend, layer))
    }

    /// Makes every form of a layer sound that is kept and looks changed, of what the store has. It costs a few stats where all of
    /// them are intact. A form for which the store has nothing sound stays as it is.
    pub fn heal_forms(&self, layer: DiffId) -> Result<()> {
        for kind in BackendKind::ALL {
            let backend = self.backend(kind);
            if !backend.has_form(layer) || backend.is_layer_intact(layer)? {
                continue;
            }
            self.store.with_lock(&layer_lock(layer), || match backend.has_layer(layer)? {
                true => Ok(()),
                false => self.convert(backend, layer).map(drop),
            })?;
        }
        Ok(())
    }

    /// Makes a layer of one backend again of its blob, which `open` gives. `E` is the error of the source.
    ///
    /// # Errors
    /// Those of [`ensure_layer`](Self::ensure_layer): the blob is proved, as in a pull.
    pub fn remake_of_blob<R: Read, E: From<Error> + From<stos_store::Error>>(
        &self,
        kind: BackendKind,
        request: LayerRequest<'_>,
        open: impl FnOnce() -> std::result::Result<R, E>,
    ) -> std::result::Result<(), E> {
        let backend = self.backend(kind);
        self.store.with_lock(&layer_lock(request.diff_id), || {
            if backend.has_layer(request.diff_id)? {
                return Ok(());
            }
            let label = LayerLabel::from(request.blob.digest);
            let ingest = IngestRequest {
                blob: Some(request.blob),
                diff_id: Some(request.diff_id),
                ..self.ingest_request(&label, request.compression)?
            };
            let origin = Origin { media_type: &request.blob.media_type, source: request.source, blob: None };
            let staged = backend.stage_layer(ingest, origin, &mut open()?, &|_| {})?;
            Ok(commit(backend, staged).map_err(|error| error.while_writing(label))?)
        })
    }

    /// Makes the blob of a layer again, which `open` gives: proved, and put in place of what is there.
    ///
    /// # Errors
    /// [`Error::BlobDigest`], [`Error::BlobSize`]; those of the source and of the disk.
    pub fn replace_blob<R: Read, E: From<Error> + From<stos_store::Error>>(
        &self,
        request: LayerRequest<'_>,
        open: impl FnOnce() -> std::result::Result<R, E>,
    ) -> std::result::Result<(), E> {
        let digest: BlobDigest = request.blob.digest;
        self.store.with_lock(&layer_lock(request.diff_id), || {
            let kept = Some(self.store.stage_blob().map_err(Error::from)?);
            let label = LayerLabel::from(digest);
            let ingest = self.ingest_request(&label, request.compression)?;
            let mut source = Keeping::new(open()?, kept, self.store.root(), ingest);
            prove_blob(&mut source, request.blob, &|_| {}).map_err(unwrap_keeping_error)?;
            Ok(source.commit(&self.store, digest)?)
        })
    }

    /// Makes a layer for a backend of its tar; `false` where the tar is not that of the layer. The caller holds the layer's lock.
    pub(crate) fn restage(
        &self,
        kind: BackendKind,
        layer: DiffId,
        mut tar: TarReader,
        origin: Origin<'_>,
    ) -> Result<bool> {
        let backend: &dyn Backend = self.backend(kind);
        let label = LayerLabel::Origin(format!("the tar of {layer}"));
        let ingest = self.ingest_request(&label, LayerCompression::None)?;
        let ingest = IngestRequest { diff_id: Some(layer), ..ingest };
        let staged = match backend.stage_layer(ingest, origin, &mut tar, &|_| {}) {
            Ok(staged) => staged,
            // What is kept is damaged.
            Err(error @ (Error::DiffId { .. } | Error::Source { .. } | Error::Tar { .. })) => {
                tracing::debug!(%layer, %error, "it cannot be made of what is kept");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        backend.commit_layer(staged)?;
        Ok(true)
    }
}

/// Gives what a record says of where its layer came from.
pub(crate) fn origin_of(kept: &Kept) -> Origin<'_> {
    Origin { media_type: &kept.media_type, source: &kept.source, blob: Some((kept.blob, kept.blob_size)) }
}
