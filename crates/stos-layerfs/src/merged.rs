// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Several layers become one: a new tar, with a diffID of its own.
//!
//! ```text
//! layer.index × N ─► MergedLayer ─► entries ─┐
//!            data of the files, by backend ──┴─► TarWriter ─► a new layer, or a stream
//! ```
//!
//! The tar follows from the layers alone: their order, their entries, their data. Neither the backend nor the filesystem
//! that keeps them changes a byte of it; where a sparse file has its holes is found by looking at its data.

use std::collections::HashMap;
use std::io::{self, BufReader, Write};

use stos_erofs::{DataPlace, Entry, EntryKind, MergedEntry, MergedLayer, Metadata, TarWriter};
use stos_spec::{ChainId, DiffId};
use stos_store::Objects;

use crate::LayerFs;
use crate::backend::Kept;
use crate::data::LayerData;
use crate::error::{Error, Result};

impl LayerFs {
    /// Makes one layer of several, the lowest first, and keeps it: on any layers below it means what they mean one after the
    /// other, with the exceptions of [`MergedLayer`].
    ///
    /// The layers' files are looked at as `create` looks at them: by their seals. The lease is held meanwhile; afterwards
    /// the new layer is nobody's, and goes with the next sweep unless an image has come to use it.
    ///
    /// A hard link to a file of the layers below has mode 0, root and time 0 in its header, for the index keeps nothing of it:
    /// stos reads none there, and Docker gives them to the file.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::NoSuchLayer`], [`Error::DamagedLayer`]; [`Error::Merge`] where the layers contradict each
    /// other, or what they mean cannot be said without those below.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use stos_layerfs::LayerFs;
    /// use stos_store::Store;
    ///
    /// let store = Store::open("/var/lib/stos".as_ref())?;
    /// let layerfs = LayerFs::new(store, "/run/stos".as_ref());
    /// let layers = layerfs.layers()?;
    /// let merged = layerfs.merge_layers(&layers[..2])?;
    /// println!("{} of {} entries", merged.diff_id, merged.entries);
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge_layers(&self, layers: &[DiffId]) -> Result<Kept> {
        let _lease = self.store().lease()?;
        let origin = format!("{} layer{}, merged", layers.len(), if layers.len() == 1 { "" } else { "s" });
        self.add_written_layer(&origin, |out| self.write_merged(layers, out), is_broken_pipe)
    }

    /// Writes the tar of the layer that [`merge_layers`](Self::merge_layers) would make, and keeps nothing. It is whole only
    /// where this returns.
    ///
    /// # Errors
    /// As there; the writer's.
    pub fn write_merged_layer(&self, layers: &[DiffId], out: impl Write) -> Result<()> {
        let _lease = self.store().lease_of(&Objects::of_layers(layers))?;
        self.write_merged(layers, out)
    }

    fn write_merged(&self, layers: &[DiffId], out: impl Write) -> Result<()> {
        let chain = ChainId::of_layers(layers).ok_or(Error::NoLayers)?;
        let mut merged = MergedLayer::new();
        let mut sources = Vec::with_capacity(layers.len());
        for &layer in layers {
            let kind = self.sound_kind_of(layer)?.ok_or_else(|| self.missing(layer))?;
            let data = self.backend(kind).open_data(layer)?;
            let index = BufReader::with_capacity(64 << 10, data.open_index()?);
            merged.add_layer(index).map_err(|source| match source {
                stos_erofs::Error::Merge { .. } => Error::Merge { chain, source },
                source => {
                    let expected = "the layer's index".to_owned();
                    Error::DamagedLayer { layer, path: data.index_path(), expected, found: source.to_string() }
                }
            })?;
            sources.push(data);
        }
        let mut writer = Writer { chain, tar: TarWriter::new(out), sources, files: HashMap::new() };
        merged.entries(|entry| writer.append(entry).map_err(Stop::Writer)).map_err(|stop| match stop {
            Stop::Merge(source) => Error::Merge { chain, source },
            Stop::Writer(error) => error,
        })?;
        writer.tar.finish().map(drop).map_err(|source| write_error(source, chain))
    }
}

/// Why the entries came to no end.
enum Stop {
    Merge(stos_erofs::Error),
    Writer(Error),
}

impl From<stos_erofs::Error> for Stop {
    fn from(source: stos_erofs::Error) -> Self {
        Self::Merge(source)
    }
}

/// What the tar writer says, where no layer's data are at fault.
fn write_error(source: stos_erofs::Error, chain: ChainId) -> Error {
    match source {
        stos_erofs::Error::Io { source, .. } => Error::io("write", "the merged layer")(source),
        source => Error::Merge { chain, source },
    }
}

/// Writes merged entries, with the data that the layers keep of them.
struct Writer<W: Write> {
    chain: ChainId,
    tar: TarWriter<W>,
    sources: Vec<LayerData>,
    /// What hard links say of their files, which Docker and podman give to the file: by the files' first names.
    files: HashMap<Vec<u8>, Metadata>,
}

impl<W: Write> Writer<W> {
    fn append(&mut self, merged: MergedEntry) -> Result<()> {
        let MergedEntry { entry, source } = merged;
        let chain = self.chain;
        let failed = |source| write_error(source, chain);
        match (&entry.kind, source) {
            (EntryKind::Regular { metadata, size, place, block }, Some((layer, number))) if *size > 0 => {
                self.append_file(&entry, metadata, (layer, number), (*size, *place, *block))?;
            }
            (EntryKind::HardLink { target }, _) => {
                let metadata = self.files.get(target).cloned().unwrap_or_default();
                return self.tar.append_link(&entry.path, &metadata, target).map_err(failed);
            }
            _ => self.tar.append(&entry, io::empty()).map_err(failed)?,
        }
        if let EntryKind::Regular { metadata, .. }
        | EntryKind::Symlink { metadata, .. }
        | EntryKind::CharacterDevice { metadata, .. }
        | EntryKind::BlockDevice { metadata, .. }
        | EntryKind::Fifo(metadata) = entry.kind
        {
            self.files.insert(entry.path, metadata);
        }
        Ok(())
    }

    fn append_file(
        &mut self,
        entry: &Entry,
        metadata: &Metadata,
        (layer, number): (usize, u64),
        (size, place, block): (u64, DataPlace, u64),
    ) -> Result<()> {
        let layer = &self.sources[layer];
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => layer.damaged(number, "fewer bytes"),
            _ => Error::io("read the data of a file in", layer.dir())(error),
        };
        let data = layer.open_file(number, size, place, block)?;
        // In the tars of the others zeros stand as data, and stay so.
        let runs = if place == DataPlace::Extra { data.runs().map_err(failed)? } else { None };
        let appended = match &runs {
            Some(runs) => self.tar.append_sparse(&entry.path, metadata, size, runs, data.reader_of(runs)),
            None => self.tar.append_file(&entry.path, metadata, size, data.reader()),
        };
        appended.map_err(|source| match source {
            stos_erofs::Error::Io { operation: "read a file's data", source } => failed(source),
            source => write_error(source, self.chain),
        })
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    match error {
        Error::Store(stos_store::Error::Io { source, .. }) => source.kind() == io::ErrorKind::BrokenPipe,
        _ => false,
    }
}
