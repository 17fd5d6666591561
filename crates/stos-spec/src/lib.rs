// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an OCI image is, as types and rules. Pure: no file, no socket, no clock.
//!
//! | module | what it is |
//! |---|---|
//! | [`digest`] | SHA-256 digests under the names that say what they prove: [`BlobDigest`], [`DiffId`], [`ChainId`]; [`Verified`] |
//! | [`mod@reference`] | [`ImageRef`]: registry, repository, tag and digest |
//! | [`platform`] | [`Platform`], its spellings, and which one fits a host |
//! | [`media_type`] | the media types of OCI and Docker that stos knows, and what each means |
//! | [`manifest`] | manifests and indexes, read with suspicion |
//! | [`config`] | the image configuration and the rules it must keep |
//! | [`healthcheck`] | how a container's health is checked |
//! | [`text`] | what others have written, made fit to be shown |
//! | [`user`] | the `User` of a configuration: numbers and names |
//!
//! It stands on nothing of ours. What has passed a check here has another type than what has not.

mod bounded;
pub mod config;
pub mod digest;
mod document;
pub mod healthcheck;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod text;
pub mod user;

pub use config::{ConfigError, ImageConfig};
pub use digest::{BlobDigest, ChainId, DiffId, DigestError, DigestHasher, Verified};
pub use healthcheck::Healthcheck;
pub use manifest::{Descriptor, ImageIndex, ImageManifest, ManifestDocument, ManifestError};
pub use media_type::{LayerCompression, MediaType};
pub use platform::{Platform, PlatformError};
pub use reference::{ImageRef, ReferenceError};
pub use user::{UserError, UserSpec};
