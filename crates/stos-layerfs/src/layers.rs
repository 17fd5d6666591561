// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers of the store, whichever backend keeps them: what is wanted is there, fetched, or made of what the other one keeps.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use stos_erofs::IndexReader;
use stos_spec::{Descriptor, DiffId, LayerCompression};
use stos_store::Staging;

use crate::LayerFs;
use crate::backend::{Backend, BackendKind, Kept, Origin};
use crate::blob::{Keeping, prove_blob, unwrap_keeping_error};
use crate::erofs::layer::check_layer_file;
use crate::error::{Error, LayerLabel, Result};
use crate::ingest::{IngestRequest, StageTimes};
use crate::repair::origin_of;
use crate::seal::{Examination, Integrity};
use crate::tar_reader::TarReader;

/// A layer that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct LayerRequest<'a> {
    /// What it must be.
    pub diff_id: DiffId,
    /// The blob that it comes as.
    pub blob: &'a Descriptor,
    /// How the blob is compressed.
    pub compression: LayerCompression,
    /// Where the blob comes from, for `layer.json`.
    pub source: &'a str,
    /// Whether the blob too is kept.
    pub keep_blob: bool,
}

/// A layer that nobody has described.
#[derive(Debug, Clone, Copy)]
pub struct NewLayer<'a> {
    /// What errors call it.
    pub label: &'a LayerLabel,
    /// How it is compressed.
    pub compression: LayerCompression,
    /// What it must be; `None` where it is new.
    pub diff_id: Option<DiffId>,
    /// The media type of what it comes as, for `layer.json`.
    pub media_type: &'a str,
    /// Where it comes from, for `layer.json`.
    pub source: &'a str,
}

/// What became of a wanted layer.
#[derive(Debug, Clone, Copy)]
pub enum LayerOutcome {
    /// It was there already.
    Present,
    /// It was fetched; the store has it now, and its blob where that was to be kept.
    Fetched(StageTimes),
    /// It was there already, but not the blob that was to be kept: that was fetched.
    BlobFetched,
}

pub(crate) fn layer_lock(layer: DiffId) -> String {
    format!("layer-{}", layer.hex())
}

impl LayerFs {
    /// Makes sure that the store has the layer, and fetches it through `open` if no backend has it.
    ///
    /// It is fetched into the form that is there and damaged, else into that of the backend for new layers; where somebody
    /// asked for a backend it is that one's form that must be there, made of the other's if need be.
    ///
    /// Of several processes that want the same layer one fetches and the others wait for it. Where the blob is to be kept it is written in the same pass, and fetched alone where only it is missing. `E` is
    /// the error of the source.
    pub fn ensure_layer<R: Read, E: From<Error> + From<stos_store::Error>>(
        &self,
        request: LayerRequest<'_>,
        open: impl FnOnce() -> std::result::Result<R, E>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> std::result::Result<LayerOutcome, E> {
        let kinds = self.kinds_that_serve()?;
        if !self.lacks_blob(&request) {
            for &kind in &kinds {
                if self.backend(kind).is_layer_intact(request.diff_id)? {
                    return Ok(LayerOutcome::Present);
                }
            }
        }
        self.store.with_lock(&layer_lock(request.diff_id), || {
            let (media_type, blob) = (request.blob.media_type.as_str(), (request.blob.digest, request.blob.size));
            let origin = Origin { media_type, source: request.source, blob: Some(blob) };
            let (backend, has_layer) = self.look_for_layer(&kinds, request.diff_id, origin)?;
            let lacks_blob = self.lacks_blob(&request);
            if has_layer && !lacks_blob {
                return Ok(LayerOutcome::Present);
            }
            let kept = lacks_blob.then(|| self.store.stage_blob()).transpose().map_err(Error::from)?;
            let label = LayerLabel::from(request.blob.digest);
            let ingest = self.ingest_request(&label, request.compression)?;
            let mut source = Keeping::new(open()?, kept, self.store.root(), ingest);
            if has_layer {
                prove_blob(&mut source, request.blob, progress).map_err(unwrap_keeping_error)?;
                source.commit(&self.store, request.blob.digest)?;
                return Ok(LayerOutcome::BlobFetched);
            }
            let ingest = IngestRequest { blob: Some(request.blob), diff_id: Some(request.diff_id), ..ingest };
            let origin = Origin { blob: None, ..origin };
            let staged = backend.stage_layer(ingest, origin, &mut source, progress).map_err(unwrap_keeping_error)?;
            source.commit(&self.store, request.blob.digest)?;
            let times = staged.times;
            commit(backend, staged).map_err(|error| error.while_writing(label))?;
            Ok(LayerOutcome::Fetched(times))
        })
    }

    /// Gives the backends whose form of a layer is as good as any: that which was asked for alone, else all that this host can
    /// have, the one for new layers first.
    fn kinds_that_serve(&self) -> Result<Vec<BackendKind>> {
        let best = self.kind_of_new()?;
        // EROFS is the better one: where it is not the best, this host cannot have it.
        let serves = |kind: &BackendKind| *kind == best || self.wanted.is_none() && *kind == BackendKind::Dirs;
        let mut kinds: Vec<_> = BackendKind::ALL.into_iter().filter(serves).collect();
        kinds.sort_by_key(|kind| *kind != best);
        Ok(kinds)
    }

    /// Tells whether a form of the layer is sound, and which backend is to have it else. Of a form that has lost its record what
    /// it keeps is proved, and is sound again where it is right: then `origin` is what the record says. The caller holds the
    /// layer's lock.
    fn look_for_layer(&self, kinds: &[BackendKind], layer: DiffId, origin: Origin<'_>) -> Result<(&dyn Backend, bool)> {
        let mut target = None;
        for &kind in kinds {
            let backend = self.backend(kind);
            if backend.has_layer(layer)? {
                return Ok((backend, true));
            }
            let has_lost_record = backend.has_form(layer) && backend.kept(layer)?.is_none();
            if has_lost_record && self.remake_of_own_locked(kind, layer, Some(origin))? {
                tracing::warn!(%layer, "the layer's record was damaged: made again, for the layer is right");
                return Ok((backend, true));
            }
            if target.is_none() && backend.kept(layer)?.is_some() {
                target = Some(backend);
            }
        }
        let backend = target.unwrap_or(self.backend(kinds[0]));
        Ok((backend, self.convert(backend, layer)?))
    }

    fn lacks_blob(&self, request: &LayerRequest<'_>) -> bool {
        request.keep_blob && !self.store.has_blob(request.blob.digest, request.blob.size)
    }

    /// Adds a layer of which no blob digest is known: a tar made here, or one from an archive that promises none.
    ///
    /// What is there already stays as it is. Gives the layer's record.
    pub fn add_layer(&self, new: NewLayer<'_>, mut from: impl Read) -> Result<Kept> {
        let backend = self.backend(self.kind_of_new()?);
        let ingest = IngestRequest { diff_id: new.diff_id, ..self.ingest_request(new.label, new.compression)? };
        let origin = Origin { media_type: new.media_type, source: new.source, blob: None };
        let staged = backend.stage_layer(ingest, origin, &mut from, &|_| {})?;
        let layer = staged.diff_id;
        self.store.with_lock(&layer_lock(layer), || {
            if !backend.has_layer(layer)? {
                commit(backend, staged).map_err(|error| error.while_writing(new.label.clone()))?;
            }
            backend.kept(layer)?.ok_or(Error::NoSuchLayer(layer))
        })
    }

    /// Begins a request: how much of the disk a layer may take.
    pub(crate) fn ingest_request<'a>(
        &self,
        label: &'a LayerLabel,
        compression: LayerCompression,
    ) -> Result<IngestRequest<'a>> {
        let room = self.room()?;
        let (max_size, reserve) = (room.largest_layer(), room.reserve());
        Ok(IngestRequest { label, blob: None, compression, diff_id: None, max_size, reserve })
    }

    /// Makes the layer for `backend` of what another one keeps; `false` where none does. The caller holds the layer's lock.
    pub(crate) fn convert(&self, backend: &dyn Backend, layer: DiffId) -> Result<bool> {
        let other = self.backend(backend.kind().other());
        // The bytes are proved while they are read.
        let Some(kept) = other.kept(layer)? else { return Ok(false) };
        tracing::info!(%layer, from = %other.kind(), to = %backend.kind(), "the layer is made of what the other backend keeps");
        let tar = self.tar_of(other.kind(), &kept)?;
        self.restage(backend.kind(), layer, tar, origin_of(&kept))
    }

    /// Makes the layer anew for a backend of what the other one keeps; `false` where that has none, or no sound one.
    pub(crate) fn remake(&self, kind: BackendKind, layer: DiffId) -> Result<bool> {
        let backend = self.backend(kind);
        self.store.with_lock(&layer_lock(layer), || match backend.has_layer(layer)? {
            true => Ok(true),
            false => self.convert(backend, layer),
        })
    }

    /// Tells whether a backend has the layer as it was when it was proved; what looks changed is proved anew.
    pub fn ensure_layer_is_sound(&self, layer: DiffId) -> Result<bool> {
        Ok(self.sound_kind_of(layer)?.is_some())
    }

    /// Tells which backend has the layer as it was when it was proved; what looks changed is proved anew.
    pub(crate) fn sound_kind_of(&self, layer: DiffId) -> Result<Option<BackendKind>> {
        for kind in BackendKind::ALL {
            let backend = self.backend(kind);
            if backend.kept(layer)?.is_none() {
                continue;
            }
            if backend.is_layer_intact(layer)?
                || self.store.with_lock(&layer_lock(layer), || backend.has_layer(layer))?
            {
                return Ok(Some(kind));
            }
        }
        Ok(None)
    }

    /// Hashes every byte that is kept of a layer. What is wrong loses its seal, so that nothing is created from it and the next
    /// pull fetches it again.
    ///
    /// # Errors
    /// [`Error::DamagedLayer`] of the first form that is wrong; [`Error::NoSuchLayer`].
    pub fn prove_layer(&self, layer: DiffId) -> Result<()> {
        let erofs = self.erofs.layer_record(layer)?;
        let dirs = self.dirs.layer_record(layer)?;
        if erofs.is_none() && dirs.is_none() {
            return Err(self.missing(layer));
        }
        let in_tar = erofs.map_or(Ok(()), |mut record| {
            check_layer_file(&self.store.layer_dir(layer), &mut record, "layer.tar", Integrity::Full)
        });
        let how = Examination { integrity: Integrity::Full, reseals: !self.store.is_read_only() };
        let in_directory = dirs.map_or(Ok(()), |record| match self.dirs.prove_if_needed(&record, how) {
            // Nothing says that it is damaged.
            Ok(_) | Err(Error::Undecided { .. }) => Ok(()),
            Err(error) => Err(error),
        });
        in_tar.and(in_directory)
    }

    /// Says why a layer cannot be had: it is not there, or no form of it is sound.
    pub(crate) fn missing(&self, layer: DiffId) -> Error {
        let paths = [self.store.layer_dir(layer), self.dirs.layer_dir(layer)];
        match paths.into_iter().find(|path| path.exists()) {
            None => Error::NoSuchLayer(layer),
            Some(path) => {
                let (expected, found) = ("the layer as it came".to_owned(), "something else".to_owned());
                Error::DamagedLayer { layer, path, expected, found }
            }
        }
    }

    /// Reads a layer's record; `None` where no backend keeps the layer.
    pub fn kept(&self, layer: DiffId) -> Result<Option<Kept>> {
        match self.erofs.kept(layer)? {
            None => self.dirs.kept(layer),
            found => Ok(found),
        }
    }

    /// Gives the length of a layer's tar in bytes, by one stat where there is a tar; `None` where no backend keeps the layer.
    pub fn tar_bytes(&self, layer: DiffId) -> Result<Option<u64>> {
        match std::fs::metadata(self.store.layer_dir(layer).join("layer.tar")) {
            Ok(tar) => Ok(Some(tar.len())),
            Err(_) => Ok(self.kept(layer)?.map(|kept| kept.tar_bytes)),
        }
    }

    /// Tells which backends keep a layer.
    pub fn kinds_of(&self, layer: DiffId) -> Result<Vec<BackendKind>> {
        let mut kinds = Vec::new();
        for kind in BackendKind::ALL {
            if self.backend(kind).kept(layer)?.is_some() {
                kinds.push(kind);
            }
        }
        Ok(kinds)
    }

    /// Lists the layers of the store, sorted.
    pub fn layers(&self) -> Result<Vec<DiffId>> {
        let mut layers = self.erofs.layers()?;
        layers.extend(self.dirs.layers()?);
        layers.sort_unstable();
        layers.dedup();
        Ok(layers)
    }

    /// Removes a layer, whoever keeps it. The caller holds the right to sweep.
    pub fn remove_layer(&self, layer: DiffId) -> Result<()> {
        self.take_layer(layer).map(drop)
    }

    /// Takes a layer out of the store, whoever keeps it: it is gone, and deleted when what comes back is dropped. The caller
    /// holds the right to sweep.
    pub fn take_layer(&self, layer: DiffId) -> Result<Vec<Staging>> {
        let taken = BackendKind::ALL.into_iter().map(|kind| self.backend(kind).take_layer(layer).transpose());
        taken.flatten().collect()
    }

    /// Gives the directories in which a layer is kept, or would be.
    pub fn layer_places(&self, layer: DiffId) -> Vec<PathBuf> {
        vec![self.store.layer_dir(layer), self.dirs.layer_dir(layer)]
    }

    /// Gives a layer's tar to read: the very bytes that it came as, uncompressed. The reader hashes what it gives, and ends in
    /// an error where that is not the layer.
    pub fn open_tar(&self, layer: DiffId) -> Result<TarReader> {
        let mut found = None;
        for kind in BackendKind::ALL {
            let backend = self.backend(kind);
            let Some(kept) = backend.kept(layer)? else { continue };
            if backend.is_layer_intact(layer)? {
                return self.tar_of(kind, &kept);
            }
            found.get_or_insert((kind, kept));
        }
        // What looks changed may be right: the reader will tell.
        let (kind, kept) = found.ok_or(Error::NoSuchLayer(layer))?;
        self.tar_of(kind, &kept)
    }

    /// Opens a layer's index, whoever keeps it; `None` where there is none. Only its own checksum tells, at its end, whether it
    /// is sound: nothing that is kept may be made of it.
    pub fn open_index(&self, layer: DiffId) -> Result<Option<IndexReader<BufReader<File>>>> {
        for dir in [self.store.layer_dir(layer), self.dirs().layer_dir(layer)] {
            let path = dir.join("layer.index");
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(Error::io("open", &path))?,
            };
            let label = LayerLabel::Origin(path.display().to_string());
            let reader = IndexReader::new(BufReader::new(file));
            return Ok(Some(reader.map_err(|source| Error::Tar { layer: label, source })?));
        }
        Ok(None)
    }

    fn tar_of(&self, kind: BackendKind, kept: &Kept) -> Result<TarReader> {
        let layerfs = self.clone();
        let layer = kept.diff_id;
        TarReader::new(layer, kept.tar_bytes, move |mut out| {
            layerfs.backend(kind).copy_tar(layer, &mut out).map(drop).map_err(io::Error::other)
        })
    }
}

pub(crate) fn commit(backend: &dyn Backend, staged: crate::backend::StagedLayer) -> Result<()> {
    let (layer, started) = (staged.diff_id, std::time::Instant::now());
    backend.commit_layer(staged)?;
    let sync_ms = started.elapsed().as_secs_f64() * 1000.0;
    tracing::debug!(%layer, sync_ms, "layer durable");
    Ok(())
}
