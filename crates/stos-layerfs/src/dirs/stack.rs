// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Chains of unpacked layers: `dirs/chains/sha256/<chainID>/`.
//!
//! Each layer was unpacked without those below it. What that cannot know (hard links to lower files, parents that are symlinks
//! or merely implied there) the corrections in `top/` put right: most often none.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_erofs::{Corrections, LayerInput, Stack};
use stos_spec::{BlobDigest, ChainId, DiffId};
use stos_store::files::{self, Durability};
use stos_sys::mount::OVERLAY_LOWERS_MAX;

use super::Dirs;
use super::layer::{DirectorySeal, DirsLayerRecord, ensure_durable_directory};
use super::top::Top;
use crate::error::{Error, Result};
use crate::layers::layer_lock;
use crate::record::read_record;
use crate::seal::Integrity;

/// The contents of `stack.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackRecord {
    /// The chain.
    pub chain_id: ChainId,
    /// The layers, the lowest first.
    pub layers: Vec<StackedLayer>,
    /// The seal of the directory `top`.
    pub top: DirectorySeal,
    /// How many corrections it holds, the root's metadata not counted.
    pub corrections: u64,
}

/// A layer of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackedLayer {
    /// The layer.
    pub diff_id: DiffId,
    /// The length of its tar in bytes.
    pub tar_bytes: u64,
    /// The seal of its directory `diff`.
    pub diff: DirectorySeal,
    /// What its `layer.index` hashed to of which the corrections were made.
    pub index: BlobDigest,
    /// Whether its directory is in the stack: not where it is empty, or comes again above.
    pub stacked: bool,
}

impl StackRecord {
    fn is_of(&self, chain: ChainId, layers: &[DiffId]) -> bool {
        self.chain_id == chain && self.layers.iter().map(|layer| &layer.diff_id).eq(layers)
    }

    /// Tells whether a layer's directory has been replaced since `older`. Then hard links among the corrections may still lead to
    /// files of the one that was replaced, though nothing of `top` itself has changed.
    pub(super) fn has_other_directories_than(&self, older: &Self) -> bool {
        self.layers.iter().zip(&older.layers).any(|(new, old)| new.diff.inode != old.diff.inode)
    }

    /// Tells whether the record can be that of `chain`, whatever its layers.
    pub(super) fn is_itself(&self, chain: ChainId) -> bool {
        let layers: Vec<_> = self.layers.iter().map(|layer| layer.diff_id).collect();
        ChainId::of_layers(&layers) == Some(chain) && self.is_of(chain, &layers)
    }
}

impl Dirs {
    /// Reads the record of the stack of `layers`; `None` where there is none, or it is damaged: it can be made again.
    pub fn stack_record(&self, layers: &[DiffId]) -> Result<Option<StackRecord>> {
        let chain = ChainId::of_layers(layers).ok_or(Error::NoLayers)?;
        let is_own = |record: &StackRecord| record.is_of(chain, layers);
        read_record(&self.stack_record_path(chain), is_own, "the stack is made again")
    }

    /// Reads the record of a stack, whatever its layers.
    pub(super) fn record_of_chain(&self, chain: ChainId) -> Result<Option<StackRecord>> {
        let is_own = |record: &StackRecord| record.is_itself(chain);
        read_record(&self.stack_record_path(chain), is_own, "the stack is made again")
    }

    pub(super) fn stack_record_path(&self, chain: ChainId) -> PathBuf {
        self.chain_dir(chain).join("stack.json")
    }

    /// Makes sure of the stack of `layers`; see [`Backend::ensure_sound_chain`](crate::backend::Backend::ensure_sound_chain).
    pub(crate) fn ensure_sound_stack(&self, layers: &[DiffId], integrity: Integrity) -> Result<StackRecord> {
        let record = self.ensure_stack(layers)?;
        if integrity == Integrity::None || integrity == Integrity::Sealed && self.is_stack_intact(&record) {
            return Ok(record);
        }
        let renewed = self.look_at_layers(&record, integrity)?;
        let top = self.chain_dir(record.chain_id).join("top");
        let is_right = match integrity {
            Integrity::Sealed if record.top.is_intact(&top) && !renewed.has_other_directories_than(&record) => true,
            _ => self.is_top_right(&renewed)?,
        };
        if !is_right || renewed.layers.iter().zip(&record.layers).any(|(new, old)| new.index != old.index) {
            tracing::warn!(chain = %record.chain_id, "the stack's corrections are not what they were: made again");
            return self.replace_stack(layers, &record);
        }
        let renewed = StackRecord { top: DirectorySeal::of(&top)?, ..renewed };
        self.write_seals(&record, &renewed)?;
        Ok(renewed)
    }

    fn ensure_stack(&self, layers: &[DiffId]) -> Result<StackRecord> {
        if let Some(record) = self.stack_record(layers)? {
            return Ok(record);
        }
        let chain = ChainId::of_layers(layers).ok_or(Error::NoLayers)?;
        self.store.with_lock(&stack_lock(chain), || match self.stack_record(layers)? {
            Some(record) => Ok(record),
            None => self.make_stack(chain, layers),
        })
    }

    /// Makes a stack anew that was found damaged as `seen` describes it, unless another process has done so meanwhile.
    fn replace_stack(&self, layers: &[DiffId], seen: &StackRecord) -> Result<StackRecord> {
        self.store.with_lock(&stack_lock(seen.chain_id), || match self.stack_record(layers)? {
            Some(record) if record.top != seen.top => Ok(record),
            _ => self.make_stack(seen.chain_id, layers),
        })
    }

    /// Makes the corrections and puts them in place of what is there. The caller holds the stack's lock.
    #[tracing::instrument(name = "stack", level = "debug", skip_all, fields(chain = %chain, layers = layers.len()))]
    fn make_stack(&self, chain: ChainId, layers: &[DiffId]) -> Result<StackRecord> {
        let started = std::time::Instant::now();
        let records: Vec<_> = layers.iter().map(|&layer| self.need_layer(layer)).collect::<Result<_>>()?;
        let (corrections, stacked) = self.corrections(chain, &records)?;
        let staged = self.store.stage()?;
        let path = staged.path().join("top");
        files::ensure_directory(&path)?;
        let top = Top::new(self, &path, &records)?;
        let made = top.make(&corrections, stacked.last().copied())?;
        let layers = records.iter().enumerate().map(|(number, record)| StackedLayer {
            diff_id: record.diff_id,
            tar_bytes: record.tar_bytes,
            diff: record.diff,
            index: record.index.sha256,
            stacked: stacked.contains(&number),
        });
        let record = StackRecord {
            chain_id: chain,
            layers: layers.collect(),
            top: DirectorySeal::of(&path)?,
            corrections: made,
        };
        files::write_new(&staged.path().join("stack.json"), &files::to_json_line(&record), Durability::Volatile)?;
        staged.sync_filesystem()?;
        ensure_durable_directory(&self.chains_dir(), self.store.root())?;
        staged.replace_and_keep(&self.chain_dir(chain), &self.old_dir(chain.hex())?)?;
        let ms = started.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(corrections = record.corrections, ms, "layers stacked");
        Ok(record)
    }

    /// Computes the corrections from the layers' indexes, and the numbers of the layers whose directories are stacked.
    fn corrections(&self, chain: ChainId, records: &[DirsLayerRecord]) -> Result<(Corrections, Vec<usize>)> {
        let inputs: Vec<_> = records.iter().map(layer_input).collect();
        let merge_error = |source| Error::Merge { chain, source };
        let mut stack = Stack::new(&inputs);
        for record in records {
            let path = self.layer_dir(record.diff_id).join("layer.index");
            stack.add_layer(open_index(&path)?).map_err(|error| self.index_error(chain, record, error))?;
        }
        let stacked = stack.lowers().to_vec();
        // The corrections are one more.
        if stacked.len() >= OVERLAY_LOWERS_MAX {
            let (limit, found) = (OVERLAY_LOWERS_MAX - 1, stacked.len());
            return Err(Error::TooManyLayers { chain, limit, found });
        }
        let reopen = |number: usize| -> io::Result<BufReader<File>> {
            let path = self.layer_dir(records[number].diff_id).join("layer.index");
            Ok(BufReader::with_capacity(64 << 10, File::open(path)?))
        };
        Ok((stack.corrections(reopen).map_err(merge_error)?, stacked))
    }

    /// A damaged index damages its layer; else the layers contradict each other.
    fn index_error(&self, chain: ChainId, record: &DirsLayerRecord, source: stos_erofs::Error) -> Error {
        match source {
            stos_erofs::Error::Index { .. } | stos_erofs::Error::Io { .. } => Error::DamagedLayer {
                layer: record.diff_id,
                path: self.layer_dir(record.diff_id).join("layer.index"),
                expected: record.index.sha256.to_string(),
                found: source.to_string(),
            },
            source => Error::Merge { chain, source },
        }
    }

    /// Tells by one stat a directory whether the stack is as it was sealed.
    fn is_stack_intact(&self, record: &StackRecord) -> bool {
        let is_layer_intact = |layer: &StackedLayer| layer.diff.is_intact(&self.layer_dir(layer.diff_id).join("diff"));
        record.top.is_intact(&self.chain_dir(record.chain_id).join("top")) && record.layers.iter().all(is_layer_intact)
    }

    /// Looks at each layer, as closely as `integrity` says, and gives the record with the seals that they have now.
    fn look_at_layers(&self, record: &StackRecord, integrity: Integrity) -> Result<StackRecord> {
        let mut renewed = record.clone();
        for layer in &mut renewed.layers {
            let id = layer.diff_id;
            self.store.with_lock(&layer_lock(id), || self.prove_and_reseal(&self.need_layer(id)?, integrity))?;
            let known = self.need_layer(id)?;
            (layer.diff, layer.index) = (known.diff, known.index.sha256);
        }
        Ok(renewed)
    }

    /// Tells whether the corrections on disk are those that the layers need.
    pub(super) fn is_top_right(&self, record: &StackRecord) -> Result<bool> {
        let path = self.chain_dir(record.chain_id).join("top");
        if !path.is_dir() {
            return Ok(false);
        }
        let records: Vec<_> =
            record.layers.iter().map(|layer| self.need_layer(layer.diff_id)).collect::<Result<_>>()?;
        let (corrections, stacked) = self.corrections(record.chain_id, &records)?;
        Top::new(self, &path, &records)?.is_made(&corrections, stacked.last().copied())
    }

    /// Writes the new seals, where the record is still the one that was looked at.
    pub(super) fn write_seals(&self, old: &StackRecord, new: &StackRecord) -> Result<()> {
        if new == old {
            return Ok(());
        }
        tracing::info!(chain = %old.chain_id, "directories were moved or copied; what they hold is right: sealed again");
        let layers: Vec<_> = old.layers.iter().map(|layer| layer.diff_id).collect();
        self.store.with_lock(&stack_lock(old.chain_id), || {
            if self.stack_record(&layers)?.as_ref() != Some(old) {
                return Ok(());
            }
            let path = self.stack_record_path(old.chain_id);
            Ok(files::replace(&path, &self.store.staging_area(), &files::to_json_line(new), Durability::Durable)?)
        })
    }
}

fn stack_lock(chain: ChainId) -> String {
    format!("stack-{}", chain.hex())
}

fn open_index(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::with_capacity(64 << 10, files::open(path)?))
}

fn layer_input(record: &DirsLayerRecord) -> LayerInput {
    LayerInput { tag: *record.diff_id.as_bytes(), tar_bytes: record.tar_bytes, extra_bytes: record.extra_bytes }
}
