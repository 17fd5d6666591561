// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A containerd snapshotter over the layers and images of stos: what containerd pulls lies in one store with what the command line
//! pulls, and its containers stand on one mount an image.
//!
//! | module | what it is |
//! |---|---|
//! | [`api`] | the messages and the service of containerd's snapshots API, generated |
//! | [`service`] | the service: gRPC in, [`Snapshotter`] below |
//! | [`snapshots`] | [`Snapshotter`]: what each call does |
//! | [`metadata`] | the snapshots, in memory and on disk |
//! | [`filter`] | containerd's filters |
//! | [`remote`] | layers that need no unpacking: images of the store, and pulls |
//! | [`images`] | images that came for containerd, and go when it needs them no more |
//! | [`mounts`] | how snapshots are mounted |
//! | [`cleanup`] | what removed snapshots have left goes |
//! | [`config`] | the configuration file |
//! | [`listen`] | sockets: made, or inherited from systemd |
//! | [`server`] | connections, their end, and what signals do |
//! | [`metrics`] | counters, told in Prometheus's text format |
//! | [`logging`] | the daemon's log |
//! | [`error`] | [`Error`], and the gRPC code of each |
//!
//! It stands on `stos-engine` and what is below that. All of that blocks, and runs in threads of its own. Nothing here spawns
//! a process, but what the engine sweeps may: networks that nobody needs any more are torn down by netavark. State is the store on disk: a daemon that is killed and started again knows what it knew.

pub mod api;
pub mod cleanup;
pub mod config;
pub mod error;
pub mod filter;
pub mod images;
pub mod listen;
pub mod logging;
pub mod metadata;
pub mod metrics;
pub mod mounts;
pub mod remote;
pub mod server;
pub mod service;
pub mod snapshots;

pub use error::{Error, Result};
pub use snapshots::Snapshotter;
