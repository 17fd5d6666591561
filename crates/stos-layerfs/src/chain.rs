// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Chains: the layers of an image merged into one EROFS image, `chains/sha256/<chainID>/`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_erofs::{LayerInput, Merger};
use stos_spec::{ChainId, DiffId};
use stos_store::files::{self, Durability};

use crate::LayerFs;
use crate::error::{Error, Result};
use crate::layer::LayerRecord;
use crate::seal::{HashingWriter, Seal, SealState};

/// How closely an image is looked at before a container is made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Integrity {
    /// Each file has the size, times and inode that it had when it was proved; one that has not is hashed.
    #[default]
    Sealed,
    /// Every byte is hashed.
    Full,
    /// Nothing is looked at.
    None,
}

/// The contents of `chain.json`. It repeats the seals of its layers, so that create reads one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRecord {
    /// The chain.
    pub chain_id: ChainId,
    /// The seal of `image.erofs`.
    pub image: Seal,
    /// How many inodes it has.
    pub inodes: u64,
    /// The layers whose data it uses, in the order of its device table.
    pub devices: Vec<DiffId>,
    /// The layers, the lowest first.
    pub layers: Vec<SealedLayer>,
}

/// A layer of a chain, with its seals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedLayer {
    /// The layer.
    pub diff_id: DiffId,
    /// The seal of `layer.tar`. That of `layer.index`, which no mount reads, is in `layer.json` alone.
    pub tar: Seal,
}

/// What looking at a chain's files found.
enum Looked {
    Intact,
    /// The files are right, and have new seals.
    Resealed(Box<ChainRecord>),
}

impl LayerFs {
    /// Reads a chain's record; `None` where there is none, or it is damaged: it can be made again.
    pub fn chain_record(&self, chain: ChainId) -> Result<Option<ChainRecord>> {
        match files::read_json::<ChainRecord>(&self.chain_record_path(chain)) {
            Ok(record) => Ok(record.filter(|record| record.chain_id == chain)),
            Err(stos_store::Error::Damaged { path, reason }) => {
                tracing::warn!(path = %path.display(), reason, "the chain's record is damaged: made again");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn chain_record_path(&self, chain: ChainId) -> PathBuf {
        self.store.chain_dir(chain).join("chain.json")
    }

    pub(crate) fn chain_image_path(&self, chain: ChainId) -> PathBuf {
        self.store.chain_dir(chain).join("image.erofs")
    }

    /// Makes sure that the chain of `layers`, the lowest first, is merged, durable and sealed. All layers must be present.
    pub fn ensure_chain(&self, layers: &[DiffId]) -> Result<ChainRecord> {
        let chain = ChainId::of_layers(layers).ok_or(Error::NoLayers)?;
        if let Some(record) = self.chain_record(chain)?.filter(|_| self.chain_image_path(chain).exists()) {
            return Ok(record);
        }
        let lock = self.store.lock(&format!("chain-{}", chain.hex()))?;
        let record = match self.chain_record(chain) {
            Ok(Some(record)) if self.chain_image_path(chain).exists() => Ok(record),
            Ok(_) => self.merge_chain(chain, layers),
            Err(error) => Err(error),
        };
        lock.remove()?;
        record
    }

    #[tracing::instrument(name = "merge", level = "debug", skip_all, fields(chain = %chain, layers = layers.len()))]
    fn merge_chain(&self, chain: ChainId, layers: &[DiffId]) -> Result<ChainRecord> {
        let started = std::time::Instant::now();
        let refuse = |source| Error::Merge { chain, source };
        let mut merger = Merger::new();
        let mut sealed = Vec::with_capacity(layers.len());
        for &layer in layers {
            let record = self.layer_record(layer)?.ok_or(Error::NoSuchLayer(layer))?;
            let input = LayerInput { tag: *layer.as_bytes(), tar_bytes: record.tar.size };
            let index = files::open(&self.store.layer_dir(layer).join("layer.index"))?;
            merger.add_layer(input, BufReader::with_capacity(64 << 10, index)).map_err(refuse)?;
            sealed.push(SealedLayer { diff_id: layer, tar: record.tar });
        }
        let staged = self.store.stage()?;
        let path = staged.path().join("image.erofs");
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let mut writer = HashingWriter::new(BufWriter::with_capacity(256 << 10, file));
        let summary = merger.write(&mut writer).map_err(refuse)?;
        let (mut file, digest) = writer.finish();
        file.flush().map_err(Error::io("write", &path))?;
        let file = file.get_ref();
        file.sync_all().map_err(Error::io("sync", &path))?;
        let record = ChainRecord {
            chain_id: chain,
            image: Seal::of(file, digest, &path)?,
            inodes: summary.inodes,
            devices: summary.devices.iter().map(|device| DiffId::from_bytes(device.tag)).collect(),
            layers: sealed,
        };
        files::write_new(&staged.path().join("chain.json"), &files::to_json_line(&record), Durability::Durable)?;
        let target = self.store.chain_dir(chain);
        if target.exists() {
            // Whatever is there has no usable record or no image: it can only be replaced.
            self.store.remove_object(&target)?;
        }
        staged.commit(&target, Durability::Durable)?;
        let elapsed = started.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(bytes = record.image.size, inodes = record.inodes, ms = elapsed, "chain merged");
        Ok(record)
    }

    /// Looks at every file that the chain's mount reads, as closely as `integrity` says.
    ///
    /// A file whose seal does not match is hashed: right, it is sealed again (a restored backup is healthy); wrong, the
    /// error names its layer, what was expected and what was found.
    pub fn verify_chain(&self, record: &ChainRecord, integrity: Integrity) -> Result<ChainRecord> {
        match self.look_at_chain(record, integrity)? {
            Looked::Intact => Ok(record.clone()),
            Looked::Resealed(renewed) => {
                tracing::info!(chain = %record.chain_id, "files were moved or copied; their bytes are right: sealed again");
                self.write_seals(&renewed)?;
                Ok(*renewed)
            }
        }
    }

    fn look_at_chain(&self, record: &ChainRecord, integrity: Integrity) -> Result<Looked> {
        if integrity == Integrity::None || (integrity == Integrity::Sealed && self.is_intact(record)?) {
            return Ok(Looked::Intact);
        }
        let mut renewed = record.clone();
        let mut changed = false;
        let image = self.chain_image_path(record.chain_id);
        check_file(&image, &mut renewed.image, integrity, &mut changed, |expected, found| Error::DamagedChain {
            chain: record.chain_id,
            path: image.clone(),
            expected,
            found,
        })?;
        for layer in &mut renewed.layers {
            let id = layer.diff_id;
            let path = self.store.layer_dir(id).join("layer.tar");
            check_file(&path, &mut layer.tar, integrity, &mut changed, |expected, found| Error::DamagedLayer {
                layer: id,
                path: path.clone(),
                expected,
                found,
            })?;
            // A mount reads no index: the tars alone decide what a container sees.
            if integrity == Integrity::Full {
                self.check_index(id)?;
            }
        }
        Ok(if changed { Looked::Resealed(Box::new(renewed)) } else { Looked::Intact })
    }

    /// Hashes a layer's index, and seals it again where only its times have changed.
    fn check_index(&self, layer: DiffId) -> Result<()> {
        let mut record = self.layer_record(layer)?.ok_or(Error::NoSuchLayer(layer))?;
        let path = self.store.layer_dir(layer).join("layer.index");
        let mut changed = false;
        let damaged = |expected, found| Error::DamagedLayer { layer, path: path.clone(), expected, found };
        check_file(&path, &mut record.index, Integrity::Full, &mut changed, damaged)?;
        if changed {
            self.replace_layer_record(&record)?;
        }
        Ok(())
    }

    fn replace_layer_record(&self, record: &LayerRecord) -> Result<()> {
        let path = self.layer_record_path(record.diff_id);
        Ok(files::replace(&path, &self.store.staging_area(), &files::to_json(record), Durability::Durable)?)
    }

    /// Tells by one stat a file whether everything that the chain's mount reads is as it was sealed: the way of nearly every
    /// create, so each layer is looked up from its parent's descriptor. What is not intact, or missing, is told elsewhere.
    fn is_intact(&self, record: &ChainRecord) -> Result<bool> {
        let image = record.image.look(&self.chain_image_path(record.chain_id));
        if !matches!(image, Ok(SealState::Intact)) {
            return Ok(false);
        }
        let layers = files::open(&self.store.layers_dir())?;
        let is_intact = |layer: &SealedLayer| {
            let state = layer.tar.look_at(&layers, &format!("{}/layer.tar", layer.diff_id.hex()));
            matches!(state, Ok(SealState::Intact))
        };
        Ok(record.layers.iter().all(is_intact))
    }

    fn write_seals(&self, record: &ChainRecord) -> Result<()> {
        let scratch = self.store.staging_area();
        for layer in &record.layers {
            let Some(old) = self.layer_record(layer.diff_id)? else { continue };
            let new = LayerRecord { tar: layer.tar.clone(), ..old.clone() };
            if new != old {
                self.replace_layer_record(&new)?;
            }
        }
        let path = self.chain_record_path(record.chain_id);
        Ok(files::replace(&path, &scratch, &files::to_json_line(record), Durability::Durable)?)
    }

    /// Removes a chain that is not mounted. The caller holds the right to sweep.
    pub fn remove_chain(&self, chain: ChainId) -> Result<()> {
        Ok(self.store.remove_object(&self.store.chain_dir(chain))?)
    }
}

/// Looks at one sealed file; `damaged` makes the error from what was expected and what was found.
fn check_file(
    path: &Path,
    seal: &mut Seal,
    integrity: Integrity,
    changed: &mut bool,
    damaged: impl Fn(String, String) -> Error,
) -> Result<()> {
    let state = match seal.look(path) {
        Err(Error::Store(error)) if error.is_not_found() => {
            return Err(damaged("a file".to_owned(), "none".to_owned()));
        }
        other => other?,
    };
    if state == SealState::Intact && integrity != Integrity::Full {
        return Ok(());
    }
    let size = std::fs::metadata(path).map_err(Error::io("stat", path))?.len();
    if size != seal.size {
        return Err(damaged(format!("{} bytes", seal.size), format!("{size} bytes")));
    }
    match seal.prove(path)? {
        Ok(renewed) => {
            *changed |= renewed != *seal;
            *seal = renewed;
            Ok(())
        }
        Err(found) => Err(damaged(seal.sha256.to_string(), found.to_string())),
    }
}
