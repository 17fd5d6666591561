// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Examines layers and chains of the `erofs` backend. Nothing is healed.

use std::path::Path;

use stos_spec::{ChainId, DiffId};

use super::Erofs;
use super::chain::{ChainRecord, Reseal};
use super::layer::{LayerRecord, is_record_of};
use crate::error::Result;
use crate::examine::Examined;
use crate::extra::{LAYER_EXTRA, check_extra};
use crate::record::look_at_record;
use crate::seal::{Examination, Integrity, Problem, SealState, Wrong, break_seal, hash_file};

impl Erofs {
    /// Examines a layer's record, tar, index and extra file.
    pub(crate) fn examine_layer(&self, layer: DiffId, how: Examination) -> Result<Examined> {
        let dir = self.store.layer_dir(layer);
        let mut examined = Examined::default();
        let path = self.layer_record_path(layer);
        let record: LayerRecord = match look_at_record(&path, |record| is_record_of(record, layer))? {
            Ok(record) => record,
            Err(wrong) => {
                examined.add(&path, wrong);
                // Without a record only its bytes can tell.
                examine_tar(&mut examined, layer, &dir.join("layer.tar"))?;
                return Ok(examined);
            }
        };
        let mut renewed = record.clone();
        let examined = self.examine_files(&mut renewed, how)?;
        if examined.is_sound() && how.reseals {
            self.reseal_layer(&Reseal { old: record, new: renewed })?;
        }
        Ok(examined)
    }

    /// Examines the files of a layer, and renews in its record the seals of those that are right.
    pub(super) fn examine_files(&self, record: &mut LayerRecord, how: Examination) -> Result<Examined> {
        let dir = self.store.layer_dir(record.diff_id);
        let mut examined = Examined::default();
        let is_tar_right = examined.examine_file(&mut record.tar, &dir.join("layer.tar"), how)?;
        examined.examine_file(&mut record.index, &dir.join("layer.index"), how)?;
        // What is in it follows from the tar: of a wrong one it follows nothing.
        if is_tar_right {
            examine_extra(&mut examined, record, &dir, how)?;
        }
        Ok(examined)
    }

    /// Examines a chain's record and merged image.
    pub(crate) fn examine_chain(&self, chain: ChainId, how: Examination) -> Result<Examined> {
        let mut examined = Examined::default();
        let path = self.chain_record_path(chain);
        let record: ChainRecord = match look_at_record(&path, |record: &ChainRecord| record.is_itself(chain))? {
            Ok(record) => record,
            Err(wrong) => {
                examined.add(&path, wrong);
                return Ok(examined);
            }
        };
        let mut renewed = record.clone();
        let image = self.chain_image_path(chain);
        examined.examine_file(&mut renewed.image, &image, how)?;
        for layer in &mut renewed.layers {
            let dir = self.store.layer_dir(layer.diff_id);
            let is_own = |record: &LayerRecord| is_record_of(record, layer.diff_id);
            // A damaged layer is told as what it is.
            let Ok(known) = look_at_record(&self.layer_record_path(layer.diff_id), is_own)? else { continue };
            if known.index.sha256 != layer.index {
                let made_of = |index| format!("one made of the index {index} of layer {}", layer.diff_id);
                let (expected, found) = (made_of(known.index.sha256), made_of(layer.index));
                examined.add(&image, Wrong { problem: Problem::Altered, expected, found });
            }
            if known.tar.look(&dir.join("layer.tar")).is_ok_and(|state| state == SealState::Intact) {
                layer.tar = known.tar;
                layer.extra = known.extra;
            }
        }
        if examined.is_sound() && how.reseals {
            self.write_seals(&record, &renewed, &[])?;
        }
        Ok(examined)
    }
}

/// Examines a tar of which nothing is recorded.
fn examine_tar(examined: &mut Examined, layer: DiffId, path: &Path) -> Result<()> {
    let wrong = match hash_file(path) {
        Ok((found, bytes)) => {
            examined.hashed += bytes;
            if found.as_bytes() == layer.as_bytes() {
                return Ok(());
            }
            Wrong { problem: Problem::Altered, expected: layer.to_string(), found: found.to_string() }
        }
        Err(crate::Error::Store(error)) if error.is_not_found() => {
            Wrong { problem: Problem::Missing, expected: "a file".to_owned(), found: "none".to_owned() }
        }
        Err(crate::Error::Store(error)) if error.is_unreadable() => {
            Wrong { problem: Problem::Unreadable, expected: layer.to_string(), found: error.to_string() }
        }
        Err(error) => return Err(error),
    };
    examined.add(path, wrong);
    Ok(())
}

fn examine_extra(examined: &mut Examined, record: &mut LayerRecord, dir: &Path, how: Examination) -> Result<()> {
    let layer = record.diff_id;
    let Some(seal) = &mut record.extra else { return Ok(()) };
    let path = dir.join(LAYER_EXTRA);
    let was_intact = seal.look(&path).is_ok_and(|state| state == SealState::Intact);
    if how.integrity == Integrity::Full || !was_intact {
        // The tar is read for it.
        examined.hashed += record.tar.size;
    }
    if let Err(error) = check_extra(seal, layer, dir, how.integrity) {
        examined.add_error(error, dir)?;
        examined.tell_size(&path, seal);
        if was_intact && how.reseals {
            break_seal(&path);
        }
    }
    Ok(())
}
