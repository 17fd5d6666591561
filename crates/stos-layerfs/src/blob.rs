// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The blobs that layers come as, where they are kept: written while they pass, seen by nobody before they are proved.

use std::io::{self, Read};

use stos_spec::{BlobDigest, Descriptor, DigestHasher};
use stos_store::{StagedBlob, Store};

use crate::error::{Error, LayerLabel, Result};

/// A blob that is written as it is read: in the same pass that makes a layer of it.
pub(crate) struct Keeping<R> {
    source: R,
    /// `None` where nothing is to be kept.
    kept: Option<StagedBlob>,
}

impl<R: Read> Keeping<R> {
    pub(crate) fn new(source: R, kept: Option<StagedBlob>) -> Self {
        Self { source, kept }
    }

    /// Makes what has passed visible, durably, as the blob `digest`: the caller has proved that it is.
    pub(crate) fn commit(self, store: &Store, digest: BlobDigest) -> Result<()> {
        match self.kept {
            Some(kept) => Ok(store.commit_blob(kept, digest)?),
            None => Ok(()),
        }
    }
}

impl<R: Read> Read for Keeping<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(into)?;
        if let Some(kept) = &mut self.kept {
            kept.write(&into[..count]).map_err(io::Error::other)?;
        }
        Ok(count)
    }
}

/// A disk that refused the kept blob is told as what it is, though its error came through a reader.
pub(crate) fn unwrap_keeping_error(error: Error) -> Error {
    match error {
        Error::Source { layer, source } => match source.downcast::<stos_store::Error>() {
            Ok(source) => Error::Write { layer, source },
            Err(source) => Error::Source { layer, source },
        },
        other => other,
    }
}

/// Reads a blob to its end and proves its size and digest.
pub(crate) fn prove_blob(source: &mut impl Read, blob: &Descriptor, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let mut hasher = DigestHasher::default();
    let mut found = 0_u64;
    let mut buffer = vec![0; 256 << 10];
    let refuse_size = |found| Error::BlobSize { blob: blob.digest, expected: blob.size, found };
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(Error::Source { layer: LayerLabel::from(blob.digest), source }),
        };
        found += count as u64;
        if found > blob.size {
            return Err(refuse_size(found));
        }
        hasher.update(&buffer[..count]);
        progress(count as u64);
    }
    if found != blob.size {
        return Err(refuse_size(found));
    }
    let found = BlobDigest::from_bytes(hasher.finish());
    if found != blob.digest {
        return Err(Error::BlobDigest { blob: blob.digest, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(bytes: &[u8]) -> Descriptor {
        Descriptor::new("a/b", BlobDigest::of(bytes), bytes.len() as u64)
    }

    #[test]
    fn a_blob_is_kept_once_it_is_proved() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let blob = descriptor(b"abc");
        let mut keeping = Keeping::new(&b"abc"[..], Some(store.stage_blob().unwrap()));
        prove_blob(&mut keeping, &blob, &|_| {}).unwrap();
        assert!(!store.has_blob(blob.digest, blob.size));
        keeping.commit(&store, blob.digest).unwrap();
        assert_eq!(store.read_blob(blob.digest).unwrap().get(), b"abc");
        for (sent, expected) in [(&b"ab"[..], "BlobSize"), (b"abcd", "BlobSize"), (b"abd", "BlobDigest")] {
            let mut keeping = Keeping::new(sent, Some(store.stage_blob().unwrap()));
            let error = prove_blob(&mut keeping, &blob, &|_| {}).unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{error:?}");
        }
        assert_eq!(stos_store::files::list_names(&store.staging_area()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_disk_that_refuses_is_told_as_what_it_is() {
        let refused = stos_store::Error::io("write", "x")(io::Error::from(io::ErrorKind::StorageFull));
        let layer = LayerLabel::from(BlobDigest::of(b""));
        let error = Error::Source { layer: layer.clone(), source: io::Error::other(refused) };
        assert!(matches!(unwrap_keeping_error(error), Error::Write { source, .. } if source.is_full()));
        let error = Error::Source { layer, source: io::Error::other("reset") };
        assert!(matches!(unwrap_keeping_error(error), Error::Source { .. }));
    }
}
