// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Manifests, indexes and configurations, kept under what they hash to.

use std::fs;
use std::path::PathBuf;

use stos_spec::{BlobDigest, Verified};

use crate::error::{Error, Result};
use crate::files::{self, Durability};
use crate::store::Store;

impl Store {
    /// Gives the file of a blob, there or not.
    pub fn blob_path(&self, digest: BlobDigest) -> PathBuf {
        self.images_dir().join("blobs/sha256").join(digest.hex())
    }

    /// Keeps verified bytes durably. A blob that is there and has the right bytes is left alone; one that is damaged is
    /// replaced.
    pub fn put_blob(&self, blob: &Verified<Vec<u8>>) -> Result<()> {
        let path = self.blob_path(blob.digest());
        if fs::read(&path).is_ok_and(|bytes| bytes == *blob.get()) {
            return Ok(());
        }
        files::replace(&path, &self.staging_area(), blob.get(), Durability::Durable)
    }

    /// Reads a blob and proves it against its name.
    pub fn read_blob(&self, digest: BlobDigest) -> Result<Verified<Vec<u8>>> {
        let path = self.blob_path(digest);
        match fs::read(&path) {
            Ok(bytes) => Verified::check_digest(bytes, digest, "blob")
                .map_err(|source| Error::DamagedBlob { path: path.clone(), source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NoSuchBlob(digest)),
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    }

    /// Lists the blobs that the store holds, sorted.
    pub fn blobs(&self) -> Result<Vec<BlobDigest>> {
        let names = files::list_names(&self.images_dir().join("blobs/sha256"))?;
        Ok(names.iter().filter_map(|name| BlobDigest::from_hex(name)).collect())
    }

    /// Removes a blob. The caller holds the right to sweep.
    pub fn remove_blob(&self, digest: BlobDigest) -> Result<()> {
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
        store.remove_blob(blob.digest()).unwrap();
        assert!(store.blobs().unwrap().is_empty());
    }
}
