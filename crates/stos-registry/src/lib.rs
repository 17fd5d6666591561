// SPDX-License-Identifier: Apache-2.0 OR MIT
//! OCI distribution client: resolve and fetch. Blocking, one thread per request, and nothing of it on a disk.
//!
//! | module | what it is |
//! |---|---|
//! | [`client`] | [`Registry`]: manifests, configurations and blobs of one registry |
//! | [`blob`] | [`BlobReader`]: a blob as it arrives, never more and never less than its descriptor says |
//! | [`error`] | [`Error`]: what went wrong, where, what was expected and what was found |
//! | [`options`] | [`ClientOptions`]: TLS, time limits |
//! | [`challenge`] | reads `WWW-Authenticate`; pure |
//! | `token` | anonymous bearer tokens: asking for them, keeping them |
//! | `exchange` | one request and its redirects; who may see the token |
//! | `transport` | sockets and TLS (`ureq`, `rustls`), and what their errors mean |
//! | `url` | addresses, and how they are shown without what they may hide |
//! | `message` | what a registry says about its own refusal |
//!
//! It stands on `stos-spec`. Every read has a bound: a size that a descriptor promised, or a limit of ours. What it
//! returns whole is [`Verified`](stos_spec::Verified); a streamed blob is bounded here and hashed by who reads it.
//! Certificates of the system are the one thing it reads from files, and only when HTTPS is spoken.

pub mod blob;
pub mod challenge;
pub mod client;
pub mod error;
mod exchange;
mod message;
pub mod options;
mod token;
mod transport;
mod url;

pub use blob::BlobReader;
pub use client::{FetchedManifest, Registry};
pub use error::Error;
pub use message::RegistryMessage;
pub use options::{ClientOptions, Timeouts};
pub use url::ShownUrl;
