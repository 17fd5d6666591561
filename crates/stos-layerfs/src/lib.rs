// SPDX-License-Identifier: Apache-2.0 OR MIT
//! LayerFS: layers, the chains that images are, and the mounts of both, kept in one of two ways.
//!
//! ```text
//! blob ─► inflate ─┬─► layer.tar, .index, .extra   backend `erofs`   [ingest, pipe, erofs]
//!   │              ├─► a directory and the rest    backend `dirs`    [ingest, pipe, dirs]
//!   └──────────────┴─► SHA-256 of both                               [layer_stream, two_hashers]
//! layer.index × N ─► image.erofs: one mount for all of an image's containers             [erofs::chain]
//! layer.index × N ─► corrections on top of N stacked directories                         [dirs]
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`backend`] | the contract of both, [`Backend`]; which one this host can have |
//! | [`layers`] | layers, whoever keeps them: ensure, add, convert, read again as tars, remove |
//! | [`chains`] | chains, whoever shows them: ensure, mount, the plan of a container's root |
//! | [`merged`] | several layers become one new layer |
//! | [`transfer`] | copy, move and sync of layers between data roots |
//! | [`forms`] | in which forms a layer is kept, how each looks, what it takes of the disk |
//! | [`room`] | what is free on the disk, and how much of it a layer may take |
//! | [`data`] | the data of a layer's files, whichever backend keeps them |
//! | [`ingest`] | the one pass of a blob through its threads |
//! | [`erofs`] | a layer *is* its tar, and the tar is mountable |
//! | [`dirs`] | a layer is a directory, for older kernels and exotic filesystems |
//! | [`examine`] | what is damaged: looks, and heals nothing |
//! | [`repair`] | damaged layers and blobs are made again, of what the store has or what it is handed |
//! | [`sent`] | the blobs as which a layer has been sent to registries |
//! | [`seal`] | how to tell by one stat that a file is still the one that was proved |
//! | `layer_stream`, `two_hashers` | what a layer is written from, hashed with its blob as it goes |
//! | `extra` | `layer.extra`, the data of a layer's sparse files |
//! | `blob` | a blob that is kept while its layer is made of it |
//! | `written` | a layer is added while its tar is written |
//! | `mounts` | one mount per chain and machine |
//!
//! **Promises.** A layer's directory exists only when blob digest, size and diffID matched and its files are durable. Nothing
//! staged is ever mounted. Both backends show identical trees, and both give back the very bytes of each layer's tar. A
//! store may hold both kinds, of one layer too.
//! **Locks.** `locks/layer-<diffID>` while a layer is fetched or its record changes, `locks/chain-<chainID>` and
//! `locks/stack-<chainID>` while a chain is made or its record changes (then perhaps a layer's too, in this order), and
//! `ROOT/chains` itself while a mount changes.
//!
//! It stands on `stos-spec`, `stos-sys`, `stos-erofs` and `stos-store`, and never speaks to a registry: it reads what it is
//! handed.

pub mod backend;
mod blob;
pub mod chains;
pub mod data;
pub mod dirs;
pub mod erofs;
pub mod error;
pub mod examine;
mod extra;
pub mod forms;
mod gunzip;
pub mod ingest;
mod layer_stream;
pub mod layers;
pub mod merged;
mod mounts;
mod pipe;
mod record;
pub mod repair;
pub mod room;
pub mod seal;
pub mod sent;
mod tar_reader;
pub mod transfer;
mod two_hashers;
mod write_behind;
mod written;
mod zstd_frames;

pub use backend::{Backend, BackendKind, BackendReport, Chain, Kept};
pub use dirs::{Dirs, StackRecord};
pub use erofs::Erofs;
pub use erofs::chain::ChainRecord;
pub use erofs::layer::LayerRecord;
pub use error::{Error, LayerLabel, Result};
pub use examine::{Examined, Fault};
pub use forms::{LayerForm, LayerState};
pub use ingest::{IngestReport, IngestRequest};
pub use layers::{LayerOutcome, LayerRequest, NewLayer};
pub use repair::Remade;
pub use room::Room;
pub use seal::{Examination, Integrity, Problem};
pub use sent::SentBlob;
pub use tar_reader::TarReader;
pub use transfer::{SyncReport, Transfer};

use std::path::Path;
use std::sync::{Arc, OnceLock};

use stos_store::Store;

/// LayerFS over one store, with its mounts below one ROOT. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LayerFs {
    store: Store,
    erofs: Erofs,
    dirs: Dirs,
    /// The backend that somebody asked for.
    wanted: Option<BackendKind>,
    /// The best one that this host can have, once it has been tried.
    best: Arc<OnceLock<BackendKind>>,
}

impl LayerFs {
    /// Takes the store that holds the layers, and ROOT, below which chains are mounted.
    pub fn new(store: Store, run_root: &Path) -> Self {
        let (erofs, dirs) = (Erofs::new(&store, run_root), Dirs::new(&store, run_root));
        Self { store, erofs, dirs, wanted: None, best: Arc::default() }
    }

    /// The same over a store that was opened anew.
    pub fn reopened(&self, store: Store, run_root: &Path) -> Self {
        Self { wanted: self.wanted, ..Self::new(store, run_root) }
    }

    /// Keeps and shows layers in this way, whatever the host could have.
    pub fn with_backend(self, kind: BackendKind) -> Self {
        Self { wanted: Some(kind), best: Arc::default(), ..self }
    }

    /// Gives the store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Gives one of the backends.
    pub fn backend(&self, kind: BackendKind) -> &dyn Backend {
        match kind {
            BackendKind::Erofs => &self.erofs,
            BackendKind::Dirs => &self.dirs,
        }
    }

    /// Gives the `erofs` backend.
    pub fn erofs(&self) -> &Erofs {
        &self.erofs
    }

    /// Gives the `dirs` backend.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// Tries what the backends need. Detached mounts only; nothing is left behind.
    pub fn probe_backends(&self) -> Result<BackendReport> {
        backend::try_backends(&self.store)
    }

    /// Tells which backend new layers go to: the one that was asked for, else the best that this host can have.
    ///
    /// # Errors
    /// [`Error::NoBackend`] where the host cannot have it, or none.
    pub fn kind_of_new(&self) -> Result<BackendKind> {
        if let Some(&kind) = self.best.get() {
            return Ok(kind);
        }
        let report = self.probe_backends()?;
        let kind = self.wanted.or(report.best()).unwrap_or(BackendKind::Dirs);
        match report.into_obstacle(kind) {
            Some(source) => Err(Error::NoBackend { kind, path: self.store.root().to_owned(), source }),
            None => Ok(*self.best.get_or_init(|| kind)),
        }
    }
}
