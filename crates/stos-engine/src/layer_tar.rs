// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one way to the bytes of a layer: its tar, exactly as its diffID was taken of it, whichever backend keeps it.

use stos_spec::DiffId;

use crate::Engine;
use crate::error::Result;

/// A layer's tar. **The last read fails where the bytes were not those of the layer.**
pub type LayerTar = stos_layerfs::TarReader;

/// Opens the tar of a layer.
///
/// # Errors
/// A layer that the store does not have, or whose record is damaged. Damage of its bytes shows when they are read.
pub fn open_layer_tar(engine: &Engine, layer: DiffId) -> Result<LayerTar> {
    Ok(engine.layerfs.open_tar(layer)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_layer_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        assert_eq!(engine.root(), std::fs::canonicalize(dir.path().join("run")).unwrap().as_path() as &Path);
        let layer = DiffId::of(b"none");
        let Err(error) = open_layer_tar(&engine, layer) else { panic!("it was opened") };
        assert!(error.to_string().contains(&layer.to_string()), "{error}");
    }
}
