// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The blobs that layers come as, where they are kept: written while they pass, seen by nobody before they are proved.

use std::io::{self, Read};
use std::path::Path;

use stos_spec::{BlobDigest, Descriptor, DigestHasher};
use stos_store::{StagedBlob, Store};

use crate::error::{Error, LayerLabel, Result};
use crate::ingest::IngestRequest;
use crate::room::Room;

/// A blob that is written as it is read: in the same pass that makes a layer of it.
pub(crate) struct Keeping<'a, R> {
    source: R,
    /// `None` where nothing is to be kept.
    kept: Option<StagedBlob>,
    root: &'a Path,
    request: IngestRequest<'a>,
    written: u64,
    looked: u64,
}

/// How many bytes are kept between two looks at the disk's room.
const LOOK_AT_ROOM: u64 = 16 << 20;

impl<'a, R: Read> Keeping<'a, R> {
    /// Keeps what is read of `source` in a store at `root`, and leaves as much of its disk as `request` says.
    pub(crate) fn new(source: R, kept: Option<StagedBlob>, root: &'a Path, request: IngestRequest<'a>) -> Self {
        Self { source, kept, root, request, written: 0, looked: 0 }
    }

    /// A blob that makes nothing of its bytes, such as empty members without end, is stopped here and nowhere else.
    fn check_room(&mut self) -> Result<()> {
        if self.written - self.looked < LOOK_AT_ROOM {
            return Ok(());
        }
        self.looked = self.written;
        let disk = rustix::fs::statvfs(self.root).map_err(Error::io("measure the disk of", self.root))?;
        let (free, reserve) = (Room::from(disk).bytes, self.request.reserve);
        if free >= reserve {
            return Ok(());
        }
        Err(Error::NoRoom { layer: self.request.label.clone(), written: self.written, free, reserve })
    }

    /// Makes what has passed visible, durably, as the blob `digest`: the caller has proved that it is.
    pub(crate) fn commit(self, store: &Store, digest: BlobDigest) -> Result<()> {
        match self.kept {
            Some(kept) => Ok(store.commit_blob(kept, digest)?),
            None => Ok(()),
        }
    }
}

impl<R: Read> Read for Keeping<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(into)?;
        if let Some(kept) = &mut self.kept {
            kept.write(&into[..count]).map_err(io::Error::other)?;
            self.written += count as u64;
            self.check_room().map_err(io::Error::other)?;
        }
        Ok(count)
    }
}

/// A disk that refused the kept blob is told as what it is, though its error came through a reader.
pub(crate) fn unwrap_keeping_error(error: Error) -> Error {
    match error {
        Error::Source { layer, source } => match source.downcast::<stos_store::Error>() {
            Ok(source) => Error::Write { layer, source },
            Err(source) => source.downcast::<Error>().unwrap_or_else(|source| Error::Source { layer, source }),
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
    use stos_spec::LayerCompression;

    use super::*;

    fn descriptor(bytes: &[u8]) -> Descriptor {
        Descriptor::new("a/b", BlobDigest::of(bytes), bytes.len() as u64)
    }

    #[test]
    fn a_blob_is_kept_once_it_is_proved() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let blob = descriptor(b"abc");
        let label = LayerLabel::from(blob.digest);
        let request = |reserve| IngestRequest {
            label: &label,
            blob: Some(&blob),
            compression: LayerCompression::None,
            diff_id: None,
            max_size: u64::MAX,
            reserve,
        };
        let mut keeping = Keeping::new(&b"abc"[..], Some(store.stage_blob().unwrap()), dir.path(), request(0));
        prove_blob(&mut keeping, &blob, &|_| {}).unwrap();
        assert!(!store.has_blob(blob.digest, blob.size));
        keeping.commit(&store, blob.digest).unwrap();
        assert_eq!(store.read_blob(blob.digest).unwrap().get(), b"abc");
        for (sent, expected) in [(&b"ab"[..], "BlobSize"), (b"abcd", "BlobSize"), (b"abd", "BlobDigest")] {
            let mut keeping = Keeping::new(sent, Some(store.stage_blob().unwrap()), dir.path(), request(0));
            let error = prove_blob(&mut keeping, &blob, &|_| {}).unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{error:?}");
        }
        // The disk has less than what must stay free.
        let endless = io::repeat(0);
        let mut keeping = Keeping::new(endless, Some(store.stage_blob().unwrap()), dir.path(), request(u64::MAX));
        let endless = Descriptor { size: u64::MAX, ..blob.clone() };
        let error = unwrap_keeping_error(prove_blob(&mut keeping, &endless, &|_| {}).unwrap_err());
        assert!(matches!(error, Error::NoRoom { written: 16_777_216.., .. }), "{error}");
        drop(keeping);
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
