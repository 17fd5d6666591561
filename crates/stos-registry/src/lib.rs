// SPDX-License-Identifier: Apache-2.0 OR MIT
//! OCI distribution client: fetch and push. Blocking, one thread per request, and nothing of it on a disk.
//!
//! | module | what it is |
//! |---|---|
//! | [`client`] | [`Registry`]: manifests, configurations and blobs of one registry and its mirrors |
//! | [`endpoint`] | [`Endpoint`]: where images can be had, and on which terms |
//! | [`push`] | what a repository is given: blobs, mounted or sent, and manifests |
//! | [`upload`] | [`Upload`]: a blob on its way, whole or in chunks |
//! | [`resume`] | [`BlobReader`]: a blob as it arrives, over as many connections as it takes |
//! | [`retry`] | [`RetryPolicy`]: what is tried again, when, and how often |
//! | [`credential`] | [`Credential`]: who asks, and where that is asked |
//! | [`proxy`] | [`Proxy`]: the way through one |
//! | [`error`] | [`Error`]: what went wrong, where, what was expected and what was found |
//! | [`options`] | [`ClientOptions`]: TLS, time limits, tries |
//! | [`challenge`] | reads `WWW-Authenticate`; pure |
//! | `order` | which endpoint is asked after which, and whose failures are waited out |
//! | `login` | whether a registry accepts a credential |
//! | `remote` | one endpoint as it is spoken to: its protocol, its challenges |
//! | `authorize` | answers challenges; who gets the credential |
//! | `token` | bearer tokens: what they allow, how long they are kept |
//! | `exchange` | one request and its redirects; who may see what authorizes it |
//! | `deadline` | an end to what the HTTP library does in one call |
//! | `transport` | sockets and TLS (`ureq`, `rustls`), and what their errors mean |
//! | `tls` | certificates and keys |
//! | `url` | addresses, and how they are shown without what they may hide |
//! | `message` | what a registry says about its own refusal |
//!
//! It stands on `stos-spec`. Every read has a bound: a size that a descriptor promised, or a limit of ours. What it
//! returns whole is [`Verified`](stos_spec::Verified); a streamed blob is bounded here and hashed by who reads it.
//! Certificates of the system are the one thing it reads from files, and only when HTTPS is spoken.

mod authorize;
mod blob;
pub mod challenge;
pub mod client;
pub mod credential;
mod deadline;
pub mod endpoint;
pub mod error;
mod exchange;
mod login;
mod message;
pub mod options;
mod order;
pub mod proxy;
pub mod push;
mod remote;
pub mod resume;
pub mod retry;
mod tls;
mod token;
mod transport;
pub mod upload;
mod url;

pub use client::{FetchedManifest, Registry};
pub use credential::{Credential, CredentialFailure, Credentials, Secret, SourceError};
pub use endpoint::{ClientIdentity, Endpoint, Role, Serves};
pub use error::{Error, PassedOver};
pub use message::RegistryMessage;
pub use options::{ClientOptions, Timeouts};
pub use proxy::{Destination, Proxies, Proxy, ProxyFailure};
pub use push::Reopen;
pub use resume::BlobReader;
pub use retry::RetryPolicy;
pub use upload::{Upload, UploadOptions, UploadStart};
pub use url::ShownUrl;
