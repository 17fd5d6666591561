// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Indexes a tar stream, merges layers, writes and checks EROFS metadata. Pure: `Read` in, `Write` out.
//!
//! ```text
//! layer.tar ─► TarIndexer ─► layer.index ─┐
//! layer.tar ─► TarIndexer ─► layer.index ─┼─► Merger ─► image.erofs ─► ImageHeader
//! layer.tar ─► TarIndexer ─► layer.index ─┘
//! ```
//!
//! - [`TarIndexer`] (module `tarball`) takes the bytes of one uncompressed layer as they arrive and writes one record
//!   per entry; file data are passed over, never copied. Its documentation is the list of tar rules. A [`TarSink`] may
//!   take what the tar holds on the way, and [`assemble_tar`] makes the tar again of what it took.
//! - [`IndexReader`] (module `index`) reads such an index again and proves it by its checksum.
//! - [`Merger`] (module `merge`) applies indexes, the lowest layer first, to a tree in memory: whiteouts, opaque
//!   directories, hard links, implied parents, parents that are symbolic links.
//! - [`LayerTree`] (module `merge`) is one layer by itself in overlayfs's form, or applied to a directory, and says step by
//!   step what to do there; [`Stack`] says what such layers lack, stacked, to show what the merger says; [`MergedLayer`]
//!   makes one layer of several.
//! - [`Merger::write`] (module `image`) writes the tree as one EROFS image of 512-byte blocks whose file data are
//!   extents of the layers' tars, each tar one device, and so is each file with the data of a layer's sparse files;
//!   [`ImageHeader`] reads the header back, so that devices can be
//!   checked before mounting.
//! - [`TarWriter`] (module `archive`) writes a tar of entries and their data, the same bytes for the same entries.
//!
//! The crate knows no paths of the host and makes no system calls. The same input gives the same bytes.

mod acl;
mod archive;
mod error;
mod image;
mod index;
mod merge;
mod path;
mod tarball;
mod xattr;

pub use archive::{DataRange, Names, TarWriter};
pub use error::{Error, ImageProblem, IndexProblem, MergeProblem, TarProblem};
pub use image::{DeviceRef, ImageDevice, ImageHeader, ImageSummary, extra_tag};
pub use index::{DataPlace, Entry, EntryKind, IndexReader, IndexTotals, MAX_ENTRIES, Metadata, Timestamp};
pub use merge::{
    Correction, Corrections, DirectoryState, LayerInput, LayerTree, MergedEntry, MergedLayer, Merger, Node, Places,
    SpecialFile, Stack, Step, device_parts,
};
pub use path::{MAX_COMPONENT, MAX_PATH, MAX_SYMLINK};
pub use tarball::{
    IndexSummary, Indexed, MAX_EXTENDED_HEADER, MAX_SPARSE_MAP, NoSink, TarIndexer, TarSink, assemble_tar, index_tar,
    index_tar_into,
};
pub use xattr::{Namespace, Xattr};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The block size of images, devices and tars in bytes.
pub const BLOCK: u64 = 512;
