// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Manifests, indexes and configurations, kept under what they hash to; and layers as registries have them, where those are
//! kept too.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;

use stos_spec::{BlobDigest, DigestError, DigestHasher, Verified};

use crate::error::{Error, Result};
use crate::files::{self, Durability};
use crate::staging::Staging;
use crate::store::Store;

/// The largest document that is read whole, in bytes: many times what a manifest or a configuration may have.
const DOCUMENT_MAX: u64 = 64 << 20;
/// How far a blob's file may be ahead of the disk, in bytes.
const WRITE_BEHIND: u64 = 16 << 20;

/// A blob under construction, of any size. Nobody sees it before it is committed; it goes when dropped.
#[derive(Debug)]
pub struct StagedBlob {
    /// The directory that holds the file, and with it the lock that keeps the sweep away.
    staged: Staging,
    file: File,
    written: u64,
    flushed: u64,
}

impl StagedBlob {
    fn path(&self) -> PathBuf {
        self.staged.path().join("blob")
    }

    /// Writes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io("write", self.path())(error))?;
        self.written += bytes.len() as u64;
        if self.written - self.flushed >= WRITE_BEHIND {
            stos_sys::sync::start_write_behind(&self.file, self.flushed, self.written - self.flushed);
            self.flushed = self.written;
        }
        Ok(())
    }
}

impl Store {
    /// Gives the directory of all blobs.
    pub fn blobs_dir(&self) -> PathBuf {
        self.images_dir().join("blobs/sha256")
    }

    /// Gives the file of a blob, there or not.
    pub fn blob_path(&self, digest: BlobDigest) -> PathBuf {
        self.blobs_dir().join(digest.hex())
    }

    /// Keeps verified bytes durably. A blob that is there and has the right bytes is left alone; one that is damaged is
    /// replaced.
    pub fn put_blob(&self, blob: &Verified<Vec<u8>>) -> Result<()> {
        self.check_writable()?;
        let path = self.blob_path(blob.digest());
        if fs::read(&path).is_ok_and(|bytes| bytes == *blob.get()) {
            return Ok(());
        }
        files::replace(&path, &self.staging_area(), blob.get(), Durability::Durable)
    }

    /// Reads a blob and proves it against its name. One that is larger than any document is not read.
    pub fn read_blob(&self, digest: BlobDigest) -> Result<Verified<Vec<u8>>> {
        let path = self.blob_path(digest);
        match files::read_bounded(&path, DOCUMENT_MAX) {
            Ok(Some(bytes)) => Verified::check_digest(bytes, digest, "blob")
                .map_err(|source| Error::DamagedBlob { path: path.clone(), source }),
            Ok(None) => Err(Error::NoSuchBlob(digest)),
            Err(error) => Err(error),
        }
    }

    /// Hashes a blob of any size: gives what it hashes to and its size in bytes, or `None` where there is none.
    pub fn hash_blob(&self, digest: BlobDigest) -> Result<Option<(BlobDigest, u64)>> {
        let path = self.blob_path(digest);
        let mut file = match files::open(&path) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let (mut hasher, mut size) = (DigestHasher::default(), 0);
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer).map_err(Error::io("read", &path))? {
                0 => return Ok(Some((BlobDigest::from_bytes(hasher.finish()), size))),
                count => {
                    hasher.update(&buffer[..count]);
                    size += count as u64;
                }
            }
        }
    }

    /// Removes a layer's kept blob that hashes to `found`: it is of no use, and the next pull that keeps blobs fetches it again. Gives
    /// the error that says so.
    pub fn discard_damaged_layer_blob(&self, digest: BlobDigest, found: BlobDigest) -> Result<Error> {
        let path = self.blob_path(digest);
        files::remove_file(&path)?;
        let source = DigestError::Mismatch { what: "layer".to_owned(), expected: digest, found };
        Ok(Error::DamagedBlob { path, source })
    }

    /// Tells whether the store has a blob of this digest and size. Its bytes are proved when they are read.
    pub fn has_blob(&self, digest: BlobDigest, size: u64) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|file| file.is_file() && file.len() == size)
    }

    /// Begins a blob of any size.
    pub fn stage_blob(&self) -> Result<StagedBlob> {
        let staged = self.stage()?;
        let file = files::create_new(&staged.path().join("blob"))?;
        Ok(StagedBlob { staged, file, written: 0, flushed: 0 })
    }

    /// Makes a staged blob visible under `digest`, durably. The caller has proved that it hashes to that.
    pub fn commit_blob(&self, staged: StagedBlob, digest: BlobDigest) -> Result<()> {
        let (from, path) = (staged.path(), self.blob_path(digest));
        staged.file.sync_all().map_err(Error::io("sync", &from))?;
        fs::rename(&from, &path).map_err(Error::io("rename a file to", &path))?;
        files::sync_parent(&path)
    }

    /// Lists the blobs that the store holds, sorted.
    pub fn blobs(&self) -> Result<Vec<BlobDigest>> {
        let names = files::list_names(&self.blobs_dir())?;
        Ok(names.iter().filter_map(|name| BlobDigest::from_hex(name)).collect())
    }

    /// Removes a blob. The caller holds the right to sweep.
    pub fn remove_blob(&self, digest: BlobDigest) -> Result<()> {
        self.check_writable()?;
        files::remove_file(&self.blob_path(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_proved_when_it_is_read_and_healed_when_it_is_put() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let blob = Verified::trust(b"{}".to_vec());
        assert!(matches!(store.read_blob(blob.digest()), Err(Error::NoSuchBlob(_))));
        store.put_blob(&blob).unwrap();
        assert_eq!(store.read_blob(blob.digest()).unwrap(), blob);
        fs::write(store.blob_path(blob.digest()), b"[]").unwrap();
        assert!(matches!(store.read_blob(blob.digest()), Err(Error::DamagedBlob { .. })));
        store.put_blob(&blob).unwrap();
        assert_eq!(store.read_blob(blob.digest()).unwrap(), blob);
        assert_eq!(store.blobs().unwrap(), [blob.digest()]);
        assert_eq!(store.hash_blob(blob.digest()).unwrap(), Some((blob.digest(), 2)));
        fs::write(store.blob_path(blob.digest()), b"[]!").unwrap();
        assert_eq!(store.hash_blob(blob.digest()).unwrap(), Some((BlobDigest::of(b"[]!"), 3)));
        assert_eq!(store.hash_blob(BlobDigest::of(b"none")).unwrap(), None);
        store.remove_blob(blob.digest()).unwrap();
        assert!(store.blobs().unwrap().is_empty());
    }

    #[test]
    fn a_staged_blob_is_seen_when_it_is_committed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = BlobDigest::of(b"abc");
        let begin = || {
            let mut staged = store.stage_blob().unwrap();
            staged.write(b"ab").unwrap();
            staged.write(b"c").unwrap();
            staged
        };
        drop(begin());
        assert!(!store.has_blob(digest, 3) && files::list_names(&store.staging_area()).unwrap().is_empty());
        store.commit_blob(begin(), digest).unwrap();
        assert!(store.has_blob(digest, 3) && !store.has_blob(digest, 4));
        assert_eq!(store.read_blob(digest).unwrap().get(), b"abc");
        // One that is damaged is replaced.
        fs::write(store.blob_path(digest), b"abd").unwrap();
        store.commit_blob(begin(), digest).unwrap();
        assert!(store.read_blob(digest).is_ok() && files::list_names(&store.staging_area()).unwrap().is_empty());
    }
}
