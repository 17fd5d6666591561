// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A layer whose tar is written here is added while it is written: no copy of it is made on the way.

use std::io::{self, BufWriter, PipeReader, PipeWriter, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use stos_spec::LayerCompression;
use stos_spec::media_type::OCI_LAYER;

use crate::LayerFs;
use crate::backend::Kept;
use crate::error::{Error, LayerLabel};
use crate::layers::NewLayer;

impl LayerFs {
    /// Adds the layer whose tar `write` writes, in a thread of its own; `origin` is what people call where it comes from.
    ///
    /// Where `write` fails there is no layer, and its error is told; but where it says that nobody reads any more
    /// (`is_broken_pipe`), the layer's own error is the cause.
    pub fn add_written_layer<E: From<Error> + Send>(
        &self,
        origin: &str,
        write: impl FnOnce(BufWriter<&PipeWriter>) -> Result<(), E> + Send,
        is_broken_pipe: impl FnOnce(&E) -> bool,
    ) -> Result<Kept, E> {
        let (reader, writer) = io::pipe().map_err(Error::io("make", "a pipe"))?;
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
            let added = self.add_layer(new, WholeOnly { reader, is_whole });
            (write.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), added)
        });
        match (written, added) {
            (Ok(()), added) => Ok(added?),
            (Err(error), Err(cause)) if is_broken_pipe(&error) => Err(cause.into()),
            (Err(error), _) => Err(error),
        }
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use stos_spec::DiffId;
    use stos_store::Store;
    use stos_testkit::tar_builder::{Entry, TarBuilder};

    use super::*;

    fn broken(error: &Error) -> bool {
        matches!(error, Error::Store(stos_store::Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    #[test]
    fn a_layer_is_there_where_its_writer_came_to_its_end() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let layerfs = LayerFs::new(Store::open(&dir.path().join("data")).unwrap(), &dir.path().join("run"));
        let layerfs = layerfs.with_backend(crate::BackendKind::Erofs);
        let tar = TarBuilder::new().entry(Entry::file("f", vec![1; 1 << 20])).finish();
        let write = |bytes: &[u8], mut out: BufWriter<&PipeWriter>| {
            out.write_all(bytes).and_then(|()| out.flush()).map_err(Error::io("write", "the tar"))
        };
        let kept = layerfs.add_written_layer("test", |out| write(&tar, out), broken).unwrap();
        assert_eq!((kept.diff_id, kept.source.as_str()), (DiffId::of(&tar), "test"));

        // It ends where a tar may end, but its writer has failed.
        let failed = |out: BufWriter<&PipeWriter>| write(&tar[..0], out).and(Err(Error::NoLayers));
        assert!(matches!(layerfs.add_written_layer("test", failed, broken).unwrap_err(), Error::NoLayers));
        // The layer fails first: the writer finds that nobody reads, and that is no cause.
        let bad = [&b"no tar".repeat(200)[..], &tar].concat();
        let error = layerfs.add_written_layer("a bad one", |out| write(&bad, out), broken).unwrap_err();
        assert!(matches!(error, Error::Tar { .. }) && error.to_string().contains("a bad one"), "{error}");
    }
}
