// SPDX-License-Identifier: Apache-2.0 OR MIT
//! podman, with crun.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Act, Engine, PodmanWords};

/// podman with a store of its own.
pub struct Podman {
    place: PathBuf,
}

impl Podman {
    /// `place` is made by the first command.
    pub fn new(place: PathBuf) -> Self {
        Self { place }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.arg("--root").arg(self.place.join("root")).arg("--runroot").arg(self.place.join("run"));
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"]).args(arguments);
        command
    }
}

/// podman's own rules for a container: no network, and less than what it asks for by default, which is more than a caller without
/// CAP_SYS_RESOURCE may give.
const OF_IMAGE: [&str; 6] = ["--network", "none", "--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"];

impl Engine for Podman {
    fn name(&self) -> &'static str {
        "podman"
    }

    fn place(&self) -> &Path {
        &self.place
    }

    fn commands(&self, act: Act<'_>) -> Option<Vec<Command>> {
        let words = PodmanWords { of_image: &OF_IMAGE, delete: &["rm"], destroy: &["rm", "--force", "--time", "0"] };
        Some(vec![words.command(act, |arguments| self.command(arguments))])
    }
}
