// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Networks of containers: how they are configured, who has which address, and netavark, which makes them.
//!
//! | module | what it is |
//! |---|---|
//! | [`subnet`] | subnets and hardware addresses |
//! | [`config`] | a network's configuration, podman's JSON |
//! | [`directory`] | the directory that they lie in, shared with podman |
//! | [`create`] | a new network |
//! | [`host`] | what the host has of networks already |
//! | [`leases`] | who has which address |
//! | [`ports`] | ports of the host that lead into a container |
//! | [`netavark`] | the program that makes interfaces, rules and names |
//! | [`sandbox`] | the networks of one container while it runs, from the first address to the last rule |
//! | [`lock`] | podman's lock, under which all of that is done |
//!
//! It stands on `stos-store` for files and on `stos-sys` for mounts. It knows nothing of images, and of a container only id, name and
//! network namespace. It makes no interface, route or rule itself: that is netavark's.

pub mod config;
pub mod create;
pub mod directory;
pub mod error;
pub mod host;
pub mod leases;
pub mod lock;
pub mod netavark;
pub mod ports;
pub mod sandbox;
pub mod subnet;

pub use error::{Error, Result};
