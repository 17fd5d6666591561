// SPDX-License-Identifier: Apache-2.0 OR MIT
//! podman, with crun.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Act, Engine, STAY};

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

    fn of_image(&self, verb: &[&str], name: &str, image: &str, words: &[&str]) -> Command {
        let mut command = self.command(verb);
        command.args(["--name", name, "--pull", "never", "--user", "0", "--network", "none"]);
        // What podman asks for by default is more than a caller without CAP_SYS_RESOURCE may give.
        command.args(["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"]);
        command.args(["--entrypoint", words[0], image]).args(&words[1..]);
        command
    }
}

impl Engine for Podman {
    fn name(&self) -> &'static str {
        "podman"
    }

    fn place(&self) -> &Path {
        &self.place
    }

    fn commands(&self, act: Act<'_>) -> Option<Vec<Command>> {
        Some(vec![match act {
            Act::Pull(image) => self.command(&["pull", "--quiet", "--tls-verify=false", image]),
            Act::RemoveImage(image) => self.command(&["rmi", image]),
            Act::Create(image, name, words) => self.of_image(&["create"], name, image, words),
            Act::StartAttached(name) => self.command(&["start", "--attach", name]),
            Act::Run(image, name, words) => self.of_image(&["run", "--rm"], name, image, words),
            Act::Spawn(image, name) => self.of_image(&["run", "--detach"], name, image, &STAY),
            Act::Exec(name, words) => {
                let mut command = self.command(&["exec", name]);
                command.args(words);
                command
            }
            Act::Stop(name) => self.command(&["stop", "--time", "0", name]),
            Act::Delete(name) => self.command(&["rm", name]),
            Act::Destroy(name) => self.command(&["rm", "--force", "--time", "0", name]),
            Act::Nothing => self.command(&["--version"]),
        }])
    }
}
