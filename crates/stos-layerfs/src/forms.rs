// SPDX-License-Identifier: Apache-2.0 OR MIT
//! In which forms a layer is kept, how each looks, and what it takes of the disk.

use std::path::PathBuf;

use serde::Serialize;
use stos_spec::DiffId;

use crate::LayerFs;
use crate::backend::{BackendKind, Kept};
use crate::error::Result;

/// How a layer looks, by its record and a few stats: nothing is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// As it was when it was proved.
    Intact,
    /// A seal does not hold, or a file is missing: it is proved anew before it is used.
    Changed,
    /// Its record cannot be read: as good as no layer.
    Damaged,
}

/// A form in which a layer is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerForm {
    /// Who keeps it.
    pub backend: BackendKind,
    /// How it looks.
    pub state: LayerState,
    /// Its directory.
    pub path: PathBuf,
    /// Its record; `None` where that is damaged.
    pub kept: Option<Kept>,
}

impl LayerFs {
    /// Tells in which forms a layer is kept, damaged ones too; none where the layer is not there.
    pub fn forms_of(&self, layer: DiffId) -> Result<Vec<LayerForm>> {
        let mut forms = Vec::new();
        for (backend, path) in
            [(BackendKind::Erofs, self.store().layer_dir(layer)), (BackendKind::Dirs, self.dirs().layer_dir(layer))]
        {
            if std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
                continue;
            }
            let kept = self.backend(backend).kept(layer)?;
            let state = match kept {
                None => LayerState::Damaged,
                Some(_) if self.backend(backend).is_layer_intact(layer)? => LayerState::Intact,
                Some(_) => LayerState::Changed,
            };
            forms.push(LayerForm { backend, state, path, kept });
        }
        Ok(forms)
    }
}

impl LayerForm {
    /// Gives how many bytes it takes of the disk: blocks that are allocated, each file once, however many names it has.
    ///
    /// # Errors
    /// What cannot be read of it.
    pub fn disk_bytes(&self) -> Result<u64> {
        let mut usage = stos_store::usage::measure_tree(&self.path)?;
        match usage.problems.pop() {
            None => Ok(usage.bytes()),
            Some(problem) => Err(problem.into()),
        }
    }
}
