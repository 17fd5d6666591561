// SPDX-License-Identifier: Apache-2.0 OR MIT
//! OCI distribution client: resolve and fetch. Blocking, one thread per request, and nothing of it on a disk.
//!
//! | module | what it is |
//! |---|---|
//! | [`client`] | [`Registry`]: manifests, configurations and blobs of one registry |
//! | [`resume`] | [`BlobReader`]: a blob as it arrives, over as many connections as it takes |
//! | [`retry`] | [`RetryPolicy`]: what is tried again, when, and how often |
//! | `blob` | bodies: never more and never less than was promised, and never standing still |
//! | [`error`] | [`Error`]: what went wrong, where, what was expected and what was found |
//! | [`options`] | [`ClientOptions`]: TLS, time limits, tries |
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

mod blob;
pub mod challenge;
pub mod client;
pub mod error;
mod exchange;
mod message;
pub mod options;
pub mod resume;
pub mod retry;
mod token;
mod transport;
mod url;

pub use client::{FetchedManifest, Registry};
pub use error::Error;
pub use message::RegistryMessage;
pub use options::{ClientOptions, Timeouts};
pub use resume::BlobReader;
pub use retry::RetryPolicy;
pub use url::ShownUrl;
