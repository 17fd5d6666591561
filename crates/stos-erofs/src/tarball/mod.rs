// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads a tar stream and writes its index.

mod entry;
mod header;
mod indexer;
mod pax;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use indexer::{IndexSummary, MAX_EXTENDED_HEADER, TarIndexer, index_tar};
