// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A layer whose tar is written here goes to LayerFS while it is written: no copy of it is made on the way.

use std::io::{self, BufWriter, PipeReader, PipeWriter, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use stos_layerfs::{Kept, LayerLabel, NewLayer};
use stos_spec::LayerCompression;
use stos_spec::media_type::OCI_LAYER;

use crate::Engine;
use crate::error::{Error, Result};

/// Adds the layer whose tar `write` writes, in a thread of its own; `origin` is what people call where it comes from.
///
/// Where `write` fails there is no layer, and its error is told.
pub(crate) fn add_written_layer(
    engine: &Engine,
    origin: &str,
    write: impl FnOnce(BufWriter<&PipeWriter>) -> Result<()> + Send,
) -> Result<Kept> {
    let (reader, writer) = io::pipe().map_err(stos_store::Error::io("make", "a pipe"))?;
    let is_whole = AtomicBool::new(false);
    let (written, added) = std::thread::scope(|scope| {
        let is_whole = &is_whole;
        let span = tracing::Span::current();
        let write = scope.spawn(move || {
            let _entered = span.entered();
            // The pipe's end is held until it is known what it means.
            let result = write(BufWriter::with_capacity(64 << 10, &writer));
            is_whole.store(result.is_ok(), Ordering::Release);
            drop(writer);
            result
        });
        let label = LayerLabel::Origin(origin.to_owned());
        let new = NewLayer {
            label: &label,
            compression: LayerCompression::None,
            diff_id: None,
            media_type: OCI_LAYER,
            source: origin,
        };
        // The reader goes with the call: a writer whose layer has failed sees that.
        let added = engine.layerfs.add_layer(new, WholeOnly { reader, is_whole });
        let written = write.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (written, added)
    });
    match (written, added) {
        (Ok(()), added) => Ok(added?),
        // Nobody reads any more: the layer's own error is the cause.
        (Err(error), Err(cause)) if is_broken_pipe(&error) => Err(cause.into()),
        (Err(error), _) => Err(error),
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    match error {
        Error::WriteTar { source: stos_erofs::Error::Io { source, .. }, .. } => {
            source.kind() == io::ErrorKind::BrokenPipe
        }
        _ => false,
    }
}

/// A pipe whose end counts only where its writer has come to its end: a tar that stops short looks whole.
struct WholeOnly<'a> {
    reader: PipeReader,
    is_whole: &'a AtomicBool,
}

impl Read for WholeOnly<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(into)?;
        if read == 0 && !into.is_empty() && !self.is_whole.load(Ordering::Acquire) {
            return Err(io::Error::other("what it is made of could not be read to its end"));
        }
        Ok(read)
    }
}
