// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Examines layers and stacks of the `dirs` backend. Nothing is healed.

use std::path::Path;

use stos_spec::{ChainId, DiffId};

use super::Dirs;
use super::layer::{DirectorySeal, DirsLayerRecord};
use super::stack::StackRecord;
use super::verify::is_damage;
use crate::error::{Error, Result};
use crate::examine::Examined;
use crate::layers::layer_lock;
use crate::record::look_at_record;
use crate::seal::{Examination, Integrity, Problem, Wrong, break_directory_seal};

impl Dirs {
    /// Examines a layer's record and all that was unpacked: where its seals hold, only as closely as asked.
    pub(crate) fn examine_layer(&self, layer: DiffId, how: Examination) -> Result<Examined> {
        let dir = self.layer_dir(layer);
        let mut examined = Examined::default();
        let path = self.layer_record_path(layer);
        let record = match look_at_record(&path, |record: &DirsLayerRecord| record.diff_id == layer)? {
            Ok(record) => record,
            Err(wrong) => {
                examined.add(&path, wrong);
                return Ok(examined);
            }
        };
        let proved = self.prove_if_needed(&record, how);
        if !matches!(proved, Ok(None)) {
            examined.hashed = record.tar_bytes + record.index.size + record.rest.size;
        }
        match proved {
            Ok(Some(renewed)) if renewed != record && how.reseals => self.reseal_layer(&record, &renewed)?,
            Ok(_) => {}
            Err(error) => examined.add_error(error, &dir)?,
        }
        examined.tell_size(&dir.join("layer.index"), &record.index);
        examined.tell_size(&dir.join("layer.rest"), &record.rest);
        Ok(examined)
    }

    /// Writes a layer's new seals, unless a pull has replaced it meanwhile.
    fn reseal_layer(&self, old: &DirsLayerRecord, new: &DirsLayerRecord) -> Result<()> {
        self.store.with_lock(&layer_lock(old.diff_id), || match self.layer_record(old.diff_id)? {
            Some(known) if known == *old => self.replace_layer_record(new),
            _ => Ok(()),
        })
    }

    /// Examines a stack's record and corrections.
    pub(crate) fn examine_chain(&self, chain: ChainId, how: Examination) -> Result<Examined> {
        let mut examined = Examined::default();
        let path = self.stack_record_path(chain);
        let record = match look_at_record(&path, |record: &StackRecord| record.is_itself(chain))? {
            Ok(record) => record,
            Err(wrong) => {
                examined.add(&path, wrong);
                return Ok(examined);
            }
        };
        let top = self.chain_dir(chain).join("top");
        let mut renewed = record.clone();
        let mut knows_all = true;
        for layer in &mut renewed.layers {
            let is_own = |record: &DirsLayerRecord| record.diff_id == layer.diff_id;
            // A damaged layer is told as what it is.
            let Ok(known) = look_at_record(&self.layer_record_path(layer.diff_id), is_own)? else {
                knows_all = false;
                continue;
            };
            if known.index.sha256 != layer.index {
                let made_of = |index| format!("those made of the index {index} of layer {}", layer.diff_id);
                let (expected, found) = (made_of(known.index.sha256), made_of(layer.index));
                examined.add(&top, Wrong { problem: Problem::Altered, expected, found });
            }
            if known.diff.is_intact(&self.layer_dir(layer.diff_id).join("diff")) {
                layer.diff = known.diff;
            }
        }
        // Links in it may lead to what was replaced.
        let how_top = match renewed.has_other_directories_than(&record) {
            true => Examination { integrity: Integrity::Full, ..how },
            false => how,
        };
        if let Err(error) = self.examine_top(&mut examined, &mut renewed, &top, knows_all, how_top) {
            examined.add_error(error, &self.chain_dir(chain))?;
        }
        if examined.is_sound() && how.reseals {
            self.write_seals(&record, &renewed)?;
        }
        Ok(examined)
    }

    /// Examines the corrections. What they should be only intact layers can tell: `knows_layers` says whether each has a record.
    fn examine_top(
        &self,
        examined: &mut Examined,
        record: &mut StackRecord,
        top: &Path,
        knows_layers: bool,
        how: Examination,
    ) -> Result<()> {
        let mut wrong = |problem, found: &str| {
            let expected = "the corrections that its layers need".to_owned();
            examined.add(top, Wrong { problem, expected, found: found.to_owned() });
        };
        if !top.is_dir() {
            wrong(Problem::Missing, "none");
            return Ok(());
        }
        let was_intact = record.top.is_intact(top);
        if was_intact && how.integrity != Integrity::Full || !knows_layers {
            return Ok(());
        }
        // Looked at before it is read: what changes meanwhile breaks the new seal.
        let seal = DirectorySeal::of(top)?;
        match self.is_top_right(record) {
            Ok(true) => record.top = seal,
            // Of a layer, which is examined by itself.
            Err(Error::DamagedLayer { .. } | Error::NoSuchLayer(_)) => {}
            Err(error) if is_damage(&error) => {}
            Ok(false) => {
                wrong(Problem::Altered, "others");
                if was_intact && how.reseals {
                    break_directory_seal(top);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
