// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Chains: the layers of an image merged into one EROFS image, `chains/sha256/<chainID>/`.

use std::collections::BTreeSet;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_erofs::{DataPlace, DeviceRef, LayerInput, Merger, extra_tag};
use stos_spec::{BlobDigest, ChainId, DiffId};
use stos_store::files::{self, Durability};

use super::Erofs;
use super::layer::{LayerRecord, check_layer_file};
use crate::error::{Error, Result};
use crate::extra::{LAYER_EXTRA, check_extra};
use crate::layers::layer_lock;
use crate::record::read_record;
use crate::seal::{HashingReader, HashingWriter, Integrity, Seal, SealState};

/// The contents of `chain.json`. It repeats the seals of its layers, so that create reads one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRecord {
    /// The chain.
    pub chain_id: ChainId,
    /// The seal of `image.erofs`.
    pub image: Seal,
    /// How many inodes it has.
    pub inodes: u64,
    /// The layers' files whose data it uses, in the order of its device table.
    pub devices: Vec<ChainDevice>,
    /// The layers, the lowest first.
    pub layers: Vec<SealedLayer>,
}

/// A file that a chain's mount has as a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainDevice {
    /// The layer.
    pub layer: DiffId,
    /// Which of its files.
    pub file: DeviceFile,
}

/// A layer's file that can be a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceFile {
    /// `layer.tar`.
    Tar,
    /// `layer.extra`.
    Extra,
}

impl ChainDevice {
    fn of(device: &DeviceRef, layers: &[SealedLayer]) -> Self {
        let file = match device.place {
            DataPlace::Tar => DeviceFile::Tar,
            DataPlace::Extra => DeviceFile::Extra,
        };
        Self { layer: layers[device.layer].diff_id, file }
    }

    /// The file's name in the layer's directory.
    pub fn file_name(&self) -> &'static str {
        match self.file {
            DeviceFile::Tar => "layer.tar",
            DeviceFile::Extra => LAYER_EXTRA,
        }
    }

    /// The tag that the image's device table has for it.
    pub(crate) fn tag(&self) -> [u8; 32] {
        match self.file {
            DeviceFile::Tar => *self.layer.as_bytes(),
            DeviceFile::Extra => extra_tag(self.layer.as_bytes()),
        }
    }
}

/// A layer of a chain, with its seals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedLayer {
    /// The layer.
    pub diff_id: DiffId,
    /// The seal of `layer.tar`.
    pub tar: Seal,
    /// The seal of `layer.extra`, where the layer has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Seal>,
    /// What the `layer.index` hashed to of which the image was made. No mount reads it: its seal is in `layer.json` alone.
    pub index: BlobDigest,
}

/// A layer's record as it was when its files were looked at, and with the seals that they have now.
pub(super) struct Reseal {
    pub(super) old: LayerRecord,
    pub(super) new: LayerRecord,
}

impl ChainRecord {
    /// Tells whether the record can be that of the chain of `layers`: one that contradicts itself is damaged.
    fn is_of(&self, chain: ChainId, layers: &[DiffId]) -> bool {
        self.chain_id == chain
            && self.layers.iter().map(|layer| &layer.diff_id).eq(layers)
            && self.layers.iter().all(|layer| layer.tar.sha256.as_bytes() == layer.diff_id.as_bytes())
            && self.devices.iter().all(|device| layers.contains(&device.layer))
    }

    /// Tells whether the record can be that of `chain`, whatever its layers.
    pub(super) fn is_itself(&self, chain: ChainId) -> bool {
        let layers: Vec<_> = self.layers.iter().map(|layer| layer.diff_id).collect();
        ChainId::of_layers(&layers) == Some(chain) && self.is_of(chain, &layers)
    }
}

impl Erofs {
    /// Reads the record of the chain of `layers`; `None` where there is none, or it is damaged: it can be made again.
    pub fn chain_record(&self, layers: &[DiffId]) -> Result<Option<ChainRecord>> {
        let chain = ChainId::of_layers(layers).ok_or(Error::NoLayers)?;
        let is_own = |record: &ChainRecord| record.is_of(chain, layers);
        read_record(&self.chain_record_path(chain), is_own, "the chain is made again")
    }

    /// Reads the record of a chain, whatever its layers.
    pub(super) fn record_of_chain(&self, chain: ChainId) -> Result<Option<ChainRecord>> {
        let is_own = |record: &ChainRecord| record.is_itself(chain);
        read_record(&self.chain_record_path(chain), is_own, "the chain is made again")
    }

    pub(super) fn chain_record_path(&self, chain: ChainId) -> PathBuf {
        self.store.chain_dir(chain).join("chain.json")
    }

    pub(crate) fn chain_image_path(&self, chain: ChainId) -> PathBuf {
        self.store.chain_dir(chain).join("image.erofs")
    }

    /// Makes sure that the chain of `layers`, the lowest first, is merged, durable and sealed, and that every file which its
    /// mount reads is what was proved, as closely as `integrity` says. All layers must be present.
    ///
    /// A damaged image is merged again. A damaged layer cannot be made again from what is here: the error names it, and the
    /// next pull fetches it. This is the way of pull, create and start.
    pub fn ensure_sound_chain(&self, layers: &[DiffId], integrity: Integrity) -> Result<ChainRecord> {
        let record = self.ensure_chain(layers)?;
        match self.verify_chain(&record, integrity) {
            Err(Error::DamagedChain { chain, path, expected, found }) => {
                let path = path.display();
                tracing::warn!(%chain, %path, expected, found, "the merged image is damaged: made again");
                let record = self.replace_chain(layers, &record)?;
                self.verify_chain(&record, integrity)
            }
            other => other,
        }
    }

    /// Gives the chain's record, and merges the chain where there is none. Whether its files are there is not looked at.
    pub fn ensure_chain(&self, layers: &[DiffId]) -> Result<ChainRecord> {
        if let Some(record) = self.chain_record(layers)? {
            return Ok(record);
        }
        let chain = ChainId::of_layers(layers).ok_or(Error::NoLayers)?;
        self.store.with_lock(&chain_lock(chain), || match self.chain_record(layers)? {
            Some(record) => Ok(record),
            None => self.merge_chain(chain, layers),
        })
    }

    /// Merges a chain anew whose image was found damaged as `seen` describes it; where another process has done so meanwhile,
    /// its record is the answer.
    fn replace_chain(&self, layers: &[DiffId], seen: &ChainRecord) -> Result<ChainRecord> {
        self.store.with_lock(&chain_lock(seen.chain_id), || match self.chain_record(layers)? {
            Some(record) if record.image != seen.image => Ok(record),
            _ => self.merge_chain(seen.chain_id, layers),
        })
    }

    /// Merges the chain and puts it in place of what is there. The caller holds the chain's lock.
    #[tracing::instrument(name = "merge", level = "debug", skip_all, fields(chain = %chain, layers = layers.len()))]
    fn merge_chain(&self, chain: ChainId, layers: &[DiffId]) -> Result<ChainRecord> {
        let started = std::time::Instant::now();
        let (merger, sealed) = self.merge_indexes(chain, layers)?;
        let staged = self.store.stage()?;
        let path = staged.path().join("image.erofs");
        let file = files::create_new(&path)?;
        let mut writer = HashingWriter::new(BufWriter::with_capacity(256 << 10, file));
        let summary = merger.write(&mut writer).map_err(|source| Error::Merge { chain, source })?;
        let (mut file, digest) = writer.finish();
        file.flush().map_err(Error::io("write", &path))?;
        let record = ChainRecord {
            chain_id: chain,
            image: Seal::of(file.get_ref(), digest, &path)?,
            inodes: summary.inodes,
            devices: summary.devices.iter().map(|device| ChainDevice::of(device, &sealed)).collect(),
            layers: sealed,
        };
        files::write_new(&staged.path().join("chain.json"), &files::to_json_line(&record), Durability::Volatile)?;
        files::sync_files_in(staged.path())?;
        staged.replace(&self.store.chain_dir(chain))?;
        let elapsed = started.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(bytes = record.image.size, inodes = record.inodes, ms = elapsed, "chain merged");
        Ok(record)
    }

    /// Reads and proves the index of each layer. One that is not what was sealed, or cannot be read, is made again from its
    /// tar, once, and all are read anew.
    fn merge_indexes(&self, chain: ChainId, layers: &[DiffId]) -> Result<(Merger, Vec<SealedLayer>)> {
        let mut rebuilt = BTreeSet::new();
        loop {
            let mut merger = Merger::new();
            let mut sealed = Vec::with_capacity(layers.len());
            let mut damaged = None;
            for &layer in layers {
                let record = self.need_layer(layer)?;
                if let Err(error) = self.add_index(&mut merger, &record, chain) {
                    damaged = Some((layer, error));
                    break;
                }
                let LayerRecord { tar, extra, index, .. } = record;
                sealed.push(SealedLayer { diff_id: layer, tar, extra, index: index.sha256 });
            }
            let Some((layer, error)) = damaged else { return Ok((merger, sealed)) };
            if !self.is_index_damaged(layer, &error)? || !rebuilt.insert(layer) {
                return Err(error);
            }
            tracing::warn!(%layer, %error, "the layer's index is damaged: made again from its tar");
            self.store.with_lock(&layer_lock(layer), || self.rebuild_index(layer))?;
        }
    }

    /// Merges a layer and proves its index while it goes by: a wrong one that is well formed would give wrong files.
    fn add_index(&self, merger: &mut Merger, record: &LayerRecord, chain: ChainId) -> Result<()> {
        let extra_bytes = record.extra.as_ref().map_or(0, |seal| seal.size);
        let input = LayerInput { tag: *record.diff_id.as_bytes(), tar_bytes: record.tar.size, extra_bytes };
        let path = self.store.layer_dir(record.diff_id).join("layer.index");
        let mut index = HashingReader::new(BufReader::with_capacity(64 << 10, files::open(&path)?));
        merger.add_layer(input, &mut index).map_err(|source| Error::Merge { chain, source })?;
        io::copy(&mut index, &mut io::sink()).map_err(Error::io("read", &path))?;
        let found = index.finish();
        if found != record.index.sha256 {
            let (expected, found) = (record.index.sha256.to_string(), found.to_string());
            return Err(Error::DamagedLayer { layer: record.diff_id, path, expected, found });
        }
        Ok(())
    }

    /// Tells whether a merge failed because a layer's index is not what was written: then its tar can tell what it should be.
    fn is_index_damaged(&self, layer: DiffId, error: &Error) -> Result<bool> {
        Ok(match error {
            Error::Store(error) => error.is_not_found() || error.is_unreadable(),
            Error::DamagedLayer { .. } => true,
            Error::Merge { source: stos_erofs::Error::Index { .. } | stos_erofs::Error::Io { .. }, .. } => true,
            // A conflict of layers, or an index that is whole and another layer's.
            Error::Merge { .. } => {
                let path = self.store.layer_dir(layer).join("layer.index");
                self.need_layer(layer)?.index.prove(&path)?.is_err()
            }
            _ => false,
        })
    }

    /// Looks at every file that the chain's mount reads, as closely as `integrity` says.
    ///
    /// A file whose seal does not match is hashed: right, it is sealed again (a restored backup is healthy); wrong, the
    /// error names its layer, what was expected and what was found.
    pub fn verify_chain(&self, record: &ChainRecord, integrity: Integrity) -> Result<ChainRecord> {
        if integrity == Integrity::Sealed && self.is_intact(record)? {
            return Ok(record.clone());
        }
        let (renewed, layers) = self.look_at_chain(record, integrity)?;
        self.write_seals(record, &renewed, &layers)?;
        Ok(renewed)
    }

    /// Looks at each file, and gives the record with the seals that they have now, and those of the layers.
    fn look_at_chain(&self, record: &ChainRecord, integrity: Integrity) -> Result<(ChainRecord, Vec<Reseal>)> {
        let mut renewed = record.clone();
        let mut layers = Vec::with_capacity(record.layers.len());
        let chain = record.chain_id;
        let image = self.chain_image_path(chain);
        let damaged = |expected, found| Error::DamagedChain { chain, path: image.clone(), expected, found };
        renewed.image.check(&image, integrity, damaged)?;
        if integrity == Integrity::None {
            return Ok((renewed, layers));
        }
        for layer in &mut renewed.layers {
            let dir = self.store.layer_dir(layer.diff_id);
            let mut known = self.layer_record(layer.diff_id)?;
            if let Some(known) = &known
                && known.tar.look(&dir.join("layer.tar")).is_ok_and(|state| state == SealState::Intact)
            {
                // A pull has replaced the layer since the merge, and proved every byte of it.
                layer.tar = known.tar.clone();
                layer.extra = known.extra.clone();
            }
            check_tar(&dir, layer, integrity)?;
            if !self.is_extra_right(&dir, layer, integrity)? {
                self.store.with_lock(&layer_lock(layer.diff_id), || self.rebuild_index(layer.diff_id))?;
                let made = self.need_layer(layer.diff_id)?;
                layer.extra = made.extra.clone();
                known = Some(made);
            }
            let mut old = match known {
                Some(known) => known,
                // A mount reads neither index nor record: the tars alone decide what a container sees.
                None if integrity != Integrity::Full => continue,
                None => self.need_layer(layer.diff_id)?,
            };
            let mut new = LayerRecord { tar: layer.tar.clone(), extra: layer.extra.clone(), ..old.clone() };
            if integrity == Integrity::Full && !self.is_index_right(&dir, &mut new)? {
                self.store.with_lock(&layer_lock(layer.diff_id), || self.rebuild_index(layer.diff_id))?;
                new = self.need_layer(layer.diff_id)?;
                old = new.clone();
                layer.tar = new.tar.clone();
                layer.extra = new.extra.clone();
            }
            if new.index.sha256 != layer.index {
                let made_of = |index| format!("one made of the index {index} of layer {}", new.diff_id);
                return Err(damaged(made_of(new.index.sha256), made_of(layer.index)));
            }
            layers.push(Reseal { old, new });
        }
        Ok((renewed, layers))
    }

    /// Looks at the extra file of a layer that has one; where it is right its seal is renewed. Its tar has been looked at.
    fn is_extra_right(&self, dir: &Path, layer: &mut SealedLayer, integrity: Integrity) -> Result<bool> {
        let id = layer.diff_id;
        match layer.extra.as_mut().map(|seal| check_extra(seal, id, dir, integrity)) {
            None | Some(Ok(())) => Ok(true),
            Some(Err(error @ Error::DamagedLayer { .. })) => {
                tracing::warn!(layer = %id, %error, "the layer's extra file is damaged: made again from its tar");
                Ok(false)
            }
            Some(Err(error)) => Err(error),
        }
    }

    /// Hashes a layer's index; where it is right its seal in the record is renewed.
    fn is_index_right(&self, dir: &Path, record: &mut LayerRecord) -> Result<bool> {
        match check_layer_file(dir, record, "layer.index", Integrity::Full) {
            Ok(()) => Ok(true),
            Err(error @ Error::DamagedLayer { .. }) => {
                tracing::warn!(layer = %record.diff_id, %error, "the layer's index is damaged: made again from its tar");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Tells by one stat a file whether everything that the chain's mount reads is as it was sealed: the way of nearly every
    /// create, so each layer is looked up from its parent's descriptor. What is not intact, or missing, is told elsewhere.
    fn is_intact(&self, record: &ChainRecord) -> Result<bool> {
        let image = record.image.look(&self.chain_image_path(record.chain_id));
        if !matches!(image, Ok(SealState::Intact)) {
            return Ok(false);
        }
        let layers = files::open(&self.store.layers_dir())?;
        let is_intact = |layer: &SealedLayer, name: &str, seal: &Seal| {
            let state = seal.look_at(&layers, &format!("{}/{name}", layer.diff_id.hex()));
            matches!(state, Ok(SealState::Intact))
        };
        Ok(record.layers.iter().all(|layer| {
            is_intact(layer, "layer.tar", &layer.tar)
                && layer.extra.as_ref().is_none_or(|seal| is_intact(layer, LAYER_EXTRA, seal))
        }))
    }

    /// Writes the new seals of files that were found to be right, each where the record is still the one that was looked at.
    pub(super) fn write_seals(&self, old: &ChainRecord, new: &ChainRecord, layers: &[Reseal]) -> Result<()> {
        layers.iter().try_for_each(|layer| self.reseal_layer(layer))?;
        if new == old {
            return Ok(());
        }
        tracing::info!(chain = %old.chain_id, "files were replaced, moved or copied; their bytes are right: sealed again");
        let layers: Vec<_> = old.layers.iter().map(|layer| layer.diff_id).collect();
        self.store.with_lock(&chain_lock(old.chain_id), || {
            if self.chain_record(&layers)?.as_ref() != Some(old) {
                return Ok(());
            }
            let path = self.chain_record_path(old.chain_id);
            let json = files::to_json_line(new);
            Ok(files::replace(&path, &self.store.staging_area(), &json, Durability::Durable)?)
        })
    }

    /// Writes the new seals of a layer, unless a pull has replaced it meanwhile.
    pub(super) fn reseal_layer(&self, Reseal { old, new }: &Reseal) -> Result<()> {
        if new == old {
            return Ok(());
        }
        self.store.with_lock(&layer_lock(old.diff_id), || match self.layer_record(old.diff_id)? {
            Some(known) if known == *old => self.replace_layer_record(new),
            _ => Ok(()),
        })
    }
}

fn chain_lock(chain: ChainId) -> String {
    format!("chain-{}", chain.hex())
}

fn check_tar(dir: &Path, layer: &mut SealedLayer, integrity: Integrity) -> Result<()> {
    let (id, path) = (layer.diff_id, dir.join("layer.tar"));
    let damaged = |expected, found| Error::DamagedLayer { layer: id, path: path.clone(), expected, found };
    layer.tar.check(&path, integrity, damaged)
}

#[cfg(test)]
mod tests {
    use stos_spec::media_type::OCI_LAYER;
    use stos_spec::{Descriptor, LayerCompression};
    use stos_store::Store;
    use stos_testkit::tar_builder::{Entry, TarBuilder};

    use super::*;
    use crate::LayerRequest;
    use crate::{BackendKind, LayerFs};

    #[test]
    fn a_layer_that_was_replaced_after_the_look_keeps_its_new_seal() {
        let dir = tempfile::tempdir().unwrap();
        let layerfs = LayerFs::new(Store::open(&dir.path().join("data")).unwrap(), &dir.path().join("run"));
        let layerfs = layerfs.with_backend(BackendKind::Erofs);
        let erofs = layerfs.erofs();
        let tar = TarBuilder::new().entry(Entry::file("x", "x")).finish();
        let layer = DiffId::of(&tar);
        let add = || {
            let blob = Descriptor::new(OCI_LAYER, BlobDigest::of(&tar), tar.len() as u64);
            let request = LayerRequest {
                diff_id: layer,
                blob: &blob,
                compression: LayerCompression::None,
                source: "test",
                keep_blob: false,
            };
            layerfs.ensure_layer(request, || Ok::<_, Error>(tar.as_slice()), &|_| {}).unwrap();
            erofs.layer_record(layer).unwrap().unwrap()
        };
        add();
        let record = erofs.ensure_chain(&[layer]).unwrap();
        let path = layerfs.store.layer_dir(layer).join("layer.tar");
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        let (renewed, layers) = erofs.look_at_chain(&record, Integrity::Sealed).unwrap();
        std::fs::remove_file(&path).unwrap();
        let replaced = add();
        erofs.write_seals(&record, &renewed, &layers).unwrap();
        assert_eq!(erofs.layer_record(layer).unwrap(), Some(replaced));
    }
}
