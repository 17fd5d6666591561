// SPDX-License-Identifier: Apache-2.0 OR MIT
//! x
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
