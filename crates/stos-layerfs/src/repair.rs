// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Damaged layers and blobs are made again: of what the store has, or of what the caller hands over. Chains are made again by
//! [`ensure_sound_chain`](LayerFs::ensure_sound_chain).
//!
//! A repair is about one form of a layer, the one that is damaged. What was healed by another process meanwhile is left alone: it is
//! looked at first, under its lock, and [`Remade`] tells that.

use std::io::Read;

use stos_spec::{BlobDigest, DiffId, LayerCompression};

use crate::LayerFs;
use crate::backend::{Backend, BackendKind, Kept, Origin};
use crate::blob::{Keeping, prove_blob, unwrap_keeping_error};
use crate::error::{Error, LayerLabel, Result};
use crate::ingest::IngestRequest;
use crate::layers::{LayerRequest, commit, layer_lock};
use crate::seal::{Examination, Integrity};
use crate::tar_reader::TarReader;

/// Where the layer is said to come from, where nobody knows it any more.
const UNKNOWN_SOURCE: &str = "repaired";

/// How an object is looked at that is to be repaired. What a closer look has found wrong has lost its seal by then.
const LOOK: Examination = Examination { integrity: Integrity::Sealed, reseals: false };

/// What came of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remade {
    /// The object was made again.
    Made,
    /// It is sound, and nothing was made: another process has healed it meanwhile.
    WasSound,
    /// It cannot be had in this way: what it would be made of is missing or damaged.
    Impossible,
}

impl Remade {
    fn made_if(made: bool) -> Self {
        if made { Self::Made } else { Self::Impossible }
    }
}

impl LayerFs {
    /// Makes a layer of one backend again of what that backend itself keeps of it, where the tar is still to be had: the index and
    /// what else follows from the tar, and the record.
    ///
    /// `origin` says where it came from, for a record that does not say so any more; without it, and without a record, it came as
    /// its own tar.
    pub fn remake_of_own(&self, kind: BackendKind, layer: DiffId, origin: Option<Origin<'_>>) -> Result<Remade> {
        self.unless_sound(kind, layer, || self.remake_of_own_locked(kind, layer, origin).map(Remade::made_if))
    }

    /// Does something about a form of a layer under the layer's lock, unless that is sound.
    fn unless_sound<E: From<Error> + From<stos_store::Error>>(
        &self,
        kind: BackendKind,
        layer: DiffId,
        make: impl FnOnce() -> std::result::Result<Remade, E>,
    ) -> std::result::Result<Remade, E> {
        self.store.with_lock(&layer_lock(layer), || match self.backend(kind).examine_layer(layer, LOOK)?.is_sound() {
            true => Ok(Remade::WasSound),
            false => make(),
        })
    }

    /// Makes a layer of one backend again as [`remake_of_own`](Self::remake_of_own) does, whatever it is now; `false` where that is
    /// impossible. The caller holds the layer's lock.
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

    /// Makes a layer of one backend again of what the other keeps. That is impossible where it has none, or no sound one.
    pub fn remake_of_other(&self, kind: BackendKind, layer: DiffId) -> Result<Remade> {
        self.unless_sound(kind, layer, || self.convert(self.backend(kind), layer).map(Remade::made_if))
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
    ) -> std::result::Result<Remade, E> {
        let backend = self.backend(kind);
        self.unless_sound(kind, request.diff_id, || {
            let label = LayerLabel::from(request.blob.digest);
            let ingest = IngestRequest {
                blob: Some(request.blob),
                diff_id: Some(request.diff_id),
                ..self.ingest_request(&label, request.compression)?
            };
            let origin = Origin { media_type: &request.blob.media_type, source: request.source, blob: None };
            let staged = backend.stage_layer(ingest, origin, &mut open()?, &|_| {})?;
            commit(backend, staged).map_err(|error| error.while_writing(label))?;
            Ok(Remade::Made)
        })
    }

    /// Makes the blob of a layer again, which `open` gives: proved, and put in place of what is there, unless that is sound.
    ///
    /// # Errors
    /// [`Error::BlobDigest`], [`Error::BlobSize`]; those of the source and of the disk.
    pub fn replace_blob<R: Read, E: From<Error> + From<stos_store::Error>>(
        &self,
        request: LayerRequest<'_>,
        open: impl FnOnce() -> std::result::Result<R, E>,
    ) -> std::result::Result<Remade, E> {
        let digest: BlobDigest = request.blob.digest;
        self.store.with_lock(&layer_lock(request.diff_id), || {
            if matches!(self.store.hash_blob(digest), Ok(Some((found, _))) if found == digest) {
                return Ok(Remade::WasSound);
            }
            let kept = Some(self.store.stage_blob().map_err(Error::from)?);
            let label = LayerLabel::from(digest);
            let ingest = self.ingest_request(&label, request.compression)?;
            let mut source = Keeping::new(open()?, kept, self.store.root(), ingest);
            prove_blob(&mut source, request.blob, &|_| {}).map_err(unwrap_keeping_error)?;
            source.commit(&self.store, digest)?;
            Ok(Remade::Made)
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
