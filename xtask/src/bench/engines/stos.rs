// SPDX-License-Identifier: Apache-2.0 OR MIT
//! stos.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Act, Engine, PodmanWords};

/// One build of stos with one backend.
pub struct Stos {
    name: String,
    binary: PathBuf,
    place: PathBuf,
    backend: &'static str,
    only_pulls: bool,
}

impl Stos {
    /// `place` is made by the first command.
    pub fn new(name: &str, binary: PathBuf, place: PathBuf, backend: &'static str) -> Self {
        Self { name: name.to_owned(), binary, place, backend, only_pulls: false }
    }

    /// A build that differs in how it pulls, and is not asked for anything else.
    pub fn only_pulls(mut self) -> Self {
        self.only_pulls = true;
        self
    }

    /// stos with the options that lead it to its place.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_remove("STOS_DATA_ROOT").env_remove("STOS_ROOT").env_remove("STOS_LAYERFS");
        command.env("STOS_NETWORK", "none");
        command.arg("--data-root").arg(self.place.join("data")).arg("--root").arg(self.place.join("run"));
        command.args(["--layerfs", self.backend]).args(arguments);
        command
    }
}

impl Engine for Stos {
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> &Path {
        &self.place
    }

    fn commands(&self, act: Act<'_>) -> Option<Vec<Command>> {
        if self.only_pulls && !matches!(act, Act::Pull(_) | Act::RemoveImage(_) | Act::Nothing) {
            return None;
        }
        let words = PodmanWords { of_image: &[], delete: &["delete"], destroy: &["delete", "--force"] };
        Some(vec![words.command(act, |arguments| self.command(arguments))])
    }
}
