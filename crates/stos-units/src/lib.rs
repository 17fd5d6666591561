// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Units for systemd: of Quadlet files, and of containers that are there.
//!
//! | module | what it is |
//! |---|---|
//! | [`unit_file`] | files of sections, keys and values (systemd.syntax(7)): read and written |
//! | [`words`] | values of several words, with quotes and escapes |
//! | [`quadlet`] | Quadlet files, podman's: `.container`, `.volume`, `.network` become services |
//! | [`generator`] | all Quadlet files of some directories, as systemd asks a generator for them (systemd.generator(7)) |
//! | [`existing`] | the service of a container that is there |
//!
//! Nothing here runs a program or knows what a container is: words go in, words come out. What the words mean is the command line's.

pub mod error;
pub mod existing;
pub mod generator;
pub mod quadlet;
pub mod unit_file;
pub mod words;

pub use error::{Error, Result};
