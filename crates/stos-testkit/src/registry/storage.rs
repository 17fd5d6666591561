// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a registry holds: blobs of all repositories, manifests of each, uploads that have not ended.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The bytes of a blob, or where they come from.
#[derive(Debug, Clone)]
pub enum Blob {
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In a file, with this size.
    File(PathBuf, u64),
    /// So many bytes of a pattern that is made while it is sent.
    Pattern(u64),
}

impl<T: AsRef<[u8]>> From<T> for Blob {
    fn from(bytes: T) -> Self {
        Self::Bytes(bytes.as_ref().into())
    }
}

impl Blob {
    /// Gives the size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, size) | Self::Pattern(size) => *size,
        }
    }

    /// Reads it from an offset.
    ///
    /// # Errors
    /// Where its file cannot be read.
    pub fn read_from(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Bytes(bytes) => {
                let mut cursor = io::Cursor::new(Arc::clone(bytes));
                cursor.set_position(offset);
                Box::new(cursor)
            }
            Self::File(path, size) => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(offset))?;
                Box::new(file.take(size.saturating_sub(offset)))
            }
            Self::Pattern(size) => Box::new(Pattern { at: offset, size: *size }),
        })
    }

    /// Hashes it: `sha256:…`.
    ///
    /// # Panics
    /// Where its file cannot be read.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        let mut reader = self.read_from(0).expect("a readable blob");
        let mut buffer = vec![0; 64 << 10];
        loop {
            match reader.read(&mut buffer).expect("a readable blob") {
                0 => return name(&hasher.finalize()),
                n => hasher.update(&buffer[..n]),
            }
        }
    }
}

struct Pattern {
    at: u64,
    size: u64,
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let n = left.min(buffer.len());
        // Each 4 KiB hold their own number, so that neighbours are not alike.
        let mut rest = &mut buffer[..n];
        let mut at = self.at;
        while !rest.is_empty() {
            let (part, after) = rest.split_at_mut(rest.len().min(4096 - (at % 4096) as usize));
            part.fill(((at >> 12) % 251) as u8);
            at += part.len() as u64;
            rest = after;
        }
        self.at += n as u64;
        Ok(n)
    }
}

fn name(hash: &[u8]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

type Manifest = (String, Arc<[u8]>);

#[derive(Debug, Default)]
pub(super) struct Storage {
    blobs: HashMap<String, Blob>,
    manifests: HashMap<(String, String), Manifest>,
    uploads: HashMap<String, Vec<u8>>,
    upload_count: usize,
}

impl Storage {
    pub(super) fn put_blob(&mut self, blob: Blob) -> String {
        let digest = blob.digest();
        self.blobs.insert(digest.clone(), blob);
        digest
    }

    pub(super) fn blob(&self, digest: &str) -> Option<&Blob> {
        self.blobs.get(digest)
    }

    pub(super) fn put_manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> String {
        let digest = name(&Sha256::digest(bytes));
        let manifest: Manifest = (media_type.to_owned(), bytes.into());
        for reference in [Some(digest.as_str()), tag].into_iter().flatten() {
            self.manifests.insert((repository.to_owned(), reference.to_owned()), manifest.clone());
        }
        digest
    }

    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<&Manifest> {
        self.manifests.get(&(repository.to_owned(), reference.to_owned()))
    }

    pub(super) fn move_tag(&mut self, repository: &str, tag: &str, digest: &str) {
        let manifest = self.manifest(repository, digest).expect("the manifest that the tag moves to").clone();
        self.manifests.insert((repository.to_owned(), tag.to_owned()), manifest);
    }

    pub(super) fn tags(&self, repository: &str) -> Vec<String> {
        let names = self.manifests.keys().filter(|(key, name)| key == repository && !name.contains(':'));
        let mut tags: Vec<String> = names.map(|(_, tag)| tag.clone()).collect();
        tags.sort();
        tags
    }

    pub(super) fn start_upload(&mut self) -> String {
        self.upload_count += 1;
        let id = format!("upload-{}", self.upload_count);
        self.uploads.insert(id.clone(), Vec::new());
        id
    }

    /// Adds to an upload, and gives its size. `None` where there is no such upload.
    pub(super) fn append_upload(&mut self, id: &str, bytes: &[u8]) -> Option<u64> {
        let upload = self.uploads.get_mut(id)?;
        upload.extend_from_slice(bytes);
        Some(upload.len() as u64)
    }

    /// Gives how many bytes an upload has.
    pub(super) fn upload_size(&self, id: &str) -> Option<u64> {
        self.uploads.get(id).map(|upload| upload.len() as u64)
    }

    /// Forgets what all uploads have beyond so many bytes.
    pub(super) fn cut_uploads(&mut self, size: u64) {
        for upload in self.uploads.values_mut() {
            upload.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        }
    }

    /// Ends an upload. `None` where there is none, or where it has another digest.
    pub(super) fn finish_upload(&mut self, id: &str, digest: &str) -> Option<()> {
        let blob = Blob::from(self.uploads.remove(id)?);
        (self.put_blob(blob) == digest).then_some(())
    }

    pub(super) fn serve_layout(&mut self, directory: &Path, repository: &str) -> io::Result<()> {
        for entry in std::fs::read_dir(directory.join("blobs/sha256"))? {
            let entry = entry?;
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            self.blobs.insert(digest, Blob::File(entry.path(), entry.metadata()?.len()));
        }
        let index = std::fs::read(directory.join("index.json"))?;
        self.serve_index(&serde_json::from_slice(&index)?, repository)
    }

    fn serve_index(&mut self, index: &Value, repository: &str) -> io::Result<()> {
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let media_type = entry["mediaType"].as_str().unwrap_or_default();
            let digest = entry["digest"].as_str().unwrap_or_default();
            let tag = entry["annotations"]["org.opencontainers.image.ref.name"].as_str();
            let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the layout has no blob {digest}"));
            let mut bytes = Vec::new();
            self.blob(digest).ok_or_else(missing)?.read_from(0)?.read_to_end(&mut bytes)?;
            self.put_manifest(repository, tag, media_type, &bytes);
            self.serve_index(&serde_json::from_slice(&bytes)?, repository)?;
        }
        Ok(())
    }
}
