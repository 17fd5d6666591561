// SPDX-License-Identifier: Apache-2.0 OR MIT
//! LayerFS: the layer *is* the tar, and the tar is mountable.
//!
//! ```text
//! blob ─► SHA-256 ─► inflate ─► SHA-256 ─┬─► layer.tar      [ingest, pipe]
//!                                        └─► layer.index
//! layer.index × N ─► image.erofs                            [chain]
//! image.erofs + layer.tar × N ─► one mount for all of an image's containers   [mounts]
//! ```
//!
//! ```text
//! DATA-ROOT/layers/sha256/<diffID>/   layer.tar, layer.index, layer.json (what was seen, the seal)   [layer, record]
//! DATA-ROOT/chains/sha256/<chainID>/  image.erofs, chain.json (its seal, and those of its layers)    [chain, record]
//! ROOT/chains/<chainID>/              the mount; <chainID>.json says which inodes it was made of     [mounts]
//! ```
//!
//! **Promises.** A layer directory exists only when blob digest, size and diffID matched and its files are durable. Nothing
//! staged is ever mounted. A [`seal`] says that a file is the one that was proved; where its size or times have changed it
//! is hashed again before it is used. What can be made again is: an index from its tar, a chain from its indexes.
//! **Locks.** `locks/layer-<diffID>` while a layer is fetched or its record changes, `locks/chain-<chainID>` while a chain is
//! merged or its record changes (then perhaps a layer's too, in this order), and `ROOT/chains` itself while a mount changes.
//!
//! It stands on `stos-spec`, `stos-sys`, `stos-erofs` and `stos-store`, and never speaks to a registry: it reads what it is
//! handed.

pub mod backend;
pub mod chain;
pub mod error;
pub mod ingest;
pub mod layer;
pub mod mounts;
mod pipe;
mod record;
pub mod seal;

pub use backend::BackendReport;
pub use chain::ChainRecord;
pub use error::{Error, LayerLabel, Result};
pub use ingest::{IngestReport, IngestRequest};
pub use layer::{LayerOutcome, LayerRecord};
pub use seal::Integrity;

use std::path::{Path, PathBuf};

use stos_store::Store;

/// LayerFS over one store, with its mounts below one ROOT. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LayerFs {
    store: Store,
    run_root: PathBuf,
}

impl LayerFs {
    /// Takes the store that holds the layers, and ROOT, below which chains are mounted.
    pub fn new(store: Store, run_root: &Path) -> Self {
        Self { store, run_root: run_root.to_owned() }
    }

    /// Gives the store.
    pub fn store(&self) -> &Store {
        &self.store
    }
}
