// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages and service of containerd's snapshots API.
//!
//! The files are generated of `proto/` and checked in, so that no build needs protoc (docs/adr/0009).

/// `containerd.services.snapshots.v1`.
#[allow(missing_docs, clippy::all, rust_2018_idioms)]
#[rustfmt::skip]
pub mod snapshots;
/// `containerd.types`.
#[rustfmt::skip]
pub mod types;
