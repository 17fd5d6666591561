// SPDX-License-Identifier: Apache-2.0 OR MIT
//! For tests only: what a test builds, serves, compares and needs.
//!
//! | module | what it gives |
//! |---|---|
//! | [`tar_builder`] | layer tars of every kind, correct and hostile |
//! | [`image_builder`] | images over them, with a fault where asked; as a layout, or pushed to a registry |
//! | [`rootfs`] | a root filesystem made of the host's own shell |
//! | [`service_manager`] | who is told that a service is ready |
//! | [`shell`] | commands as a shell executes them |
//! | [`registry`] | registries in this process, plain and hostile |
//! | [`signing`] | sigstore signatures, and where a registry has them |
//! | [`podman_day`] | command lines of a podman user, with what podman prints |
//! | [`proxy`] | a TCP proxy before any server: resets, latency, a cap on throughput, counters |
//! | [`docker_registry`] | the real one, Debian's docker-registry, as a child process |
//! | [`http_proxy`] | an HTTP proxy in this process |
//! | [`merge_model`] | what merging layers gives, as plainly as possible |
//! | [`erofs_image`] | a reader of the EROFS images that stos writes |
//! | [`tree`] | the comparison of two file trees |
//! | [`guard`] | skips, or fails, a test whose needs are not met |
//! | [`environment`] | where the binary, the tools and the real images are |
//!
//! It stands on no other crate of the workspace: what judges them shares no code with them, so a fault of theirs cannot
//! hide itself. Nothing but `xtask`, `stos-fuzz-targets` and `[dev-dependencies]` may depend on it.

pub mod docker_registry;
pub mod environment;
pub mod erofs_image;
pub mod guard;
pub mod http_proxy;
pub mod image_builder;
pub mod merge_model;
pub mod podman_day;
pub mod proxy;
pub mod registry;
pub mod rootfs;
pub mod service_manager;
pub mod shell;
pub mod signing;
pub mod tar_builder;
pub mod tree;
