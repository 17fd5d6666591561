// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How people have configured registries, read as podman, skopeo and docker read it: plain data, for who speaks to registries.
//!
//! | module | what it is |
//! |---|---|
//! | [`registries`] | [`Registries`]: `registries.conf`: mirrors, locations, blocked prefixes, short names |
//! | [`credentials`] | [`Credentials`]: `auth.json`, docker's `config.json`, credential helpers; `login` and `logout` |
//! | [`certs`] | [`HostCertificates`]: `certs.d`: authorities and client certificates of one registry |
//! | [`proxy`] | [`Proxies`]: `HTTPS_PROXY`, `NO_PROXY` and their like |
//! | [`policy`] | [`Policy`]: `policy.json`: what must hold for an image before it is accepted |
//! | [`registries_d`] | [`SignatureStores`]: `registries.d`: whether a registry is asked for sigstore attachments |
//! | [`mod@environment`] | [`Environment`]: variables, user and root directory, which all of them are given |
//! | [`place`] | [`Place`]: file, line and key, of every setting and in every error |
//! | [`secret`] | [`Secret`]: what nothing shows |
//! | [`error`] | [`Error`]: what is wrong, where, what was expected and what was found |
//! | `document` | TOML, JSON and YAML as one tree, and one walker over it |
//! | `file` | files and directories of bounded size |
//! | `names` | references as they are written in configuration |
//!
//! It stands on `stos-spec`. It never speaks to a network, never prompts, and reads no variable and no file but through an
//! [`Environment`]. The one program that it runs is a credential helper, with bounded output and time; the one kind of file
//! that it writes is a file of credentials. Each module's page says which files it reads, in which order. Where the manuals are
//! silent, upstream's readers (containers/image) are what it follows; where it does not, the page says so.

pub mod certs;
pub mod credentials;
mod document;
pub mod environment;
pub mod error;
mod file;
mod names;
pub mod place;
pub mod policy;
pub mod proxy;
pub mod registries;
pub mod registries_d;
pub mod secret;

pub use certs::HostCertificates;
pub use credentials::Credentials;
pub use environment::Environment;
pub use error::Error;
pub use file::{FILE_MAX, FILES_MAX};
pub use place::Place;
pub use policy::Policy;
pub use proxy::Proxies;
pub use registries::Registries;
pub use registries_d::SignatureStores;
pub use secret::Secret;
