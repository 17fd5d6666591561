// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds layer tars, byte by byte, of every kind that the field has seen and some that it should not.
//!
//! The headers are written here and not by a tar library: a test must be able to say exactly which bytes stand where,
//! also the wrong ones. The layouts are those of POSIX.1-1988 (ustar), POSIX.1-2001 (PAX) and GNU tar.
//!
//! ```
//! use stos_testkit::tar_builder::{Entry, TarBuilder};
//! let tar = TarBuilder::new()
//!     .entry(Entry::directory("etc").mode(0o755))
//!     .entry(Entry::file("etc/motd", "hello\n").owner(0, 0).mtime(1_700_000_000, 5))
//!     .whiteout("etc/issue")
//!     .finish();
//! assert_eq!(tar.len() % 512, 0);
//! ```

mod entry;
mod header;
mod sparse;

pub use entry::{Entry, Format};
pub use header::RawHeader;

/// The unit of a tar: headers are one, data are padded to it.
pub const BLOCK: usize = 512;

/// A tar in the making; [`TarBuilder::finish`] gives its bytes.
#[derive(Clone, Debug, Default)]
pub struct TarBuilder {
    bytes: Vec<u8>,
}

impl TarBuilder {
    /// Starts an empty tar.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one entry, with the PAX or GNU headers that its values ask for before it.
    #[must_use]
    pub fn entry(mut self, entry: Entry) -> Self {
        self.push(&entry);
        self
    }

    /// Appends one entry to a builder that is kept in a variable (for loops).
    pub fn push(&mut self, entry: &Entry) {
        entry.write_to(&mut self.bytes);
    }

    /// Appends a whiteout: the empty file `.wh.NAME` beside `path`, which hides `path` of the layers below.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let marker = match path.rsplit_once('/') {
            Some((parent, name)) => format!("{parent}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.entry(Entry::file(marker, "").mode(0o000))
    }

    /// Appends `directory/.wh..wh..opq`, which hides all that the layers below have in `directory`.
    #[must_use]
    pub fn opaque(self, directory: &str) -> Self {
        self.entry(Entry::file(format!("{directory}/.wh..wh..opq"), "").mode(0o000))
    }

    /// Appends a PAX global header (type `g`), which holds for every entry after it.
    #[must_use]
    pub fn pax_global(mut self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            header::pax_record(&mut body, key.as_bytes(), value);
        }
        header::extension(&mut self.bytes, b'g', b"pax_global_header", &body);
        self
    }

    /// Appends a header that was made by hand, and `data` padded to a block.
    #[must_use]
    pub fn raw_entry(mut self, header: &RawHeader, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(header.as_bytes());
        header::padded(&mut self.bytes, data);
        self
    }

    /// Appends bytes as they are, without padding.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a sparse file in the old GNU form (type `S`): `segments` are (offset, data), rising, and `size` is the
    /// length of the file as a reader sees it.
    #[must_use]
    pub fn sparse_gnu(mut self, path: &str, size: u64, segments: &[(u64, &[u8])]) -> Self {
        sparse::gnu(&mut self.bytes, path, size, segments);
        self
    }

    /// Appends a sparse file in the PAX form 1.0 (map at the head of the data), as `tar --posix --sparse` writes it.
    #[must_use]
    pub fn sparse_pax(mut self, path: &str, size: u64, segments: &[(u64, &[u8])]) -> Self {
        sparse::pax_1_0(&mut self.bytes, path, size, segments);
        self
    }

    /// Appends a sparse file in the PAX form 0.0 (a record for each number of the map), as `--sparse-version=0.0` does.
    #[must_use]
    pub fn sparse_pax_0_0(mut self, path: &str, size: u64, segments: &[(u64, &[u8])]) -> Self {
        sparse::pax_0_0(&mut self.bytes, path, size, segments);
        self
    }

    /// Appends a sparse file in the PAX form 0.1 (the map in one record), as `--sparse-version=0.1` does.
    #[must_use]
    pub fn sparse_pax_0_1(mut self, path: &str, size: u64, segments: &[(u64, &[u8])]) -> Self {
        sparse::pax_0_1(&mut self.bytes, path, size, segments);
        self
    }

    /// The number of bytes so far: the offset at which the next header will stand.
    pub fn offset(&self) -> usize {
        self.bytes.len()
    }

    /// Ends the tar with two zero blocks and gives its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    /// Gives the bytes without an end-of-archive mark, which a reader must accept as the end all the same.
    pub fn finish_unterminated(self) -> Vec<u8> {
        self.bytes
    }
}

/// The value of `security.capability` (VFS_CAP_REVISION_2) that permits `capabilities` (a bit set) and makes them
/// effective at exec.
pub fn file_capability(capabilities: u64) -> Vec<u8> {
    const REVISION_2_EFFECTIVE: u32 = 0x0200_0000 | 1;
    let mut value = REVISION_2_EFFECTIVE.to_le_bytes().to_vec();
    for half in [capabilities as u32, (capabilities >> 32) as u32] {
        value.extend_from_slice(&half.to_le_bytes());
        value.extend_from_slice(&0_u32.to_le_bytes());
    }
    value
}

/// The value of `system.posix_acl_access` or `…_default` (version 2) from entries (tag, permissions, id); the id of a tag
/// that has none is `u32::MAX`. Tags: 1 owner, 2 user, 4 group of the owner, 8 group, 16 mask, 32 others.
pub fn posix_acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

#[cfg(test)]
mod tests;
