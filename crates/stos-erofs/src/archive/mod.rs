// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Writes a tar: the other way round of `tarball`.

mod header;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;
mod writer;

pub use sparse::DataRange;
pub use writer::{Names, TarWriter};
