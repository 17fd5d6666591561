// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads a tar stream and writes its index.

mod assemble;
mod entry;
mod header;
mod indexer;
mod pax;
mod sink;
mod sparse;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod whole;

pub use assemble::assemble_tar;
pub use indexer::{MAX_EXTENDED_HEADER, TarIndexer};
pub use sink::{NoSink, TarSink};
pub use sparse::MAX_SPARSE_MAP;
pub use whole::{IndexSummary, Indexed, index_tar, index_tar_into};
