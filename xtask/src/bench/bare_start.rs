// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program that starts a container and does nothing that it need not (`bare.c`), on a root that tar has unpacked.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::clock::{self, Sample};
use super::containers::TRUE;
use super::disk::Disk;
use super::images;
use super::stand::Stand;
use crate::process::Run;

/// What its rows are called.
pub const NAME: &str = "clone3, mounts, exec";

/// The program and the root that it starts.
pub struct BareStart {
    program: PathBuf,
    place: PathBuf,
}

/// Compiles the program to the disk; `None`, with the reason on stderr, where that does not work.
pub fn compile(disk: &Disk) -> Option<PathBuf> {
    let (source, program) = (disk.path().join("bare.c"), disk.path().join("bin/bare"));
    let compile = || -> anyhow::Result<()> {
        fs::write(&source, include_str!("bare.c"))?;
        fs::create_dir_all(disk.path().join("bin"))?;
        Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(&source).run()
    };
    match compile() {
        Ok(()) => Some(program),
        Err(error) => {
            eprintln!("no bare start: {error:#}");
            None
        }
    }
}

impl BareStart {
    /// Unpacks deb:12 for it; `None` where there is no program.
    pub fn prepare(stand: &Stand) -> anyhow::Result<Option<Self>> {
        let Some(program) = stand.settings.bare.clone() else { return Ok(None) };
        let own = Self { program, place: stand.settings.disk.join("bare") };
        fs::create_dir_all(own.lower())?;
        for layer in images::manifest("deb:12")?.layers {
            let mut unpack = Command::new("tar");
            unpack.args(["--extract", "--gzip", "--numeric-owner", "--file"]).arg(images::blob(&layer.digest));
            unpack.arg("--directory").arg(own.lower());
            clock::time(&mut [unpack])?;
        }
        Ok(Some(own))
    }

    /// Starts a container of it and waits for its end.
    pub fn run(&self) -> anyhow::Result<Sample> {
        let mut command = Command::new(&self.program);
        command.arg(self.lower()).arg(self.place.join("one")).arg(TRUE[0]);
        clock::time(&mut [command])
    }

    fn lower(&self) -> PathBuf {
        self.place.join("lower")
    }
}

impl Drop for BareStart {
    fn drop(&mut self) {
        // What stays does no harm: the disk goes with the run.
        if let Err(error) = fs::remove_dir_all(&self.place) {
            eprintln!("{}: {error}", self.place.display());
        }
    }
}
