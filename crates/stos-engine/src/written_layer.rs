// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers whose tars are written here: see [`LayerFs::add_written_layer`](stos_layerfs::LayerFs::add_written_layer).

use std::io::{self, BufWriter, PipeWriter};

use stos_layerfs::Kept;

use crate::Engine;
use crate::error::{Error, Result};

/// Adds the layer whose tar `write` writes; `origin` is what people call where it comes from.
pub(crate) fn add_written_layer(
    engine: &Engine,
    origin: &str,
    write: impl FnOnce(BufWriter<&PipeWriter>) -> Result<()> + Send,
) -> Result<Kept> {
    engine.layerfs.add_written_layer(origin, write, is_broken_pipe)
}

fn is_broken_pipe(error: &Error) -> bool {
    match error {
        Error::WriteTar { source: stos_erofs::Error::Io { source, .. }, .. } => {
            source.kind() == io::ErrorKind::BrokenPipe
        }
        _ => false,
    }
}
