// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask confinement`: records what a container of today's podman may do by default, for the test that compares ours with it.
//!
//! The program that tries everything is the test's; podman runs it in the root that `setup --peers` made.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use stos_testkit::environment;

use crate::process::{Run, output};
use crate::setup;

/// Where the program's source and the record of podman's answers are.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/stos/tests/data");

/// Runs the program in `$WORK` in a container of an image with nothing else, by a podman whose store is there too.
const SCRIPT: &str = r#"set -e
podman() { command podman --root "$WORK/root" --runroot "$WORK/run" --tmpdir "$WORK/tmp" --storage-driver vfs --cgroup-manager cgroupfs --runtime crun "$@"; }
tar -C "$WORK/image" -c . | podman import --quiet - probe >/dev/null
podman run --rm --network none probe /probe
podman rmi --force probe >/dev/null 2>&1"#;

/// Records podman's answers.
pub fn run() -> anyhow::Result<()> {
    setup::run(true)?;
    let (data, work) = (Path::new(DATA), environment::scratch());
    let image = work.path().join("image");
    fs::create_dir_all(&image)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-static", "-o"]).arg(image.join("probe")).arg(data.join("confinement.c")).run()?;
    let arguments = ["sh", "-c", SCRIPT].map(str::to_owned);
    let mut podman = setup::peers::command(&arguments);
    podman.env("WORK", format!("/host{}", work.path().display()));
    let answers = output(&mut podman)?;
    anyhow::ensure!(answers.lines().count() > 1500, "the program did not come to its end: {answers}");
    let version = output(setup::peers::command(&["podman", "--version"].map(str::to_owned)))?;
    let path = data.join("podman-default.txt");
    fs::write(
        &path,
        format!("# {} by default, on x86_64: made by `cargo xtask confinement`\n{answers}", version.trim()),
    )
    .with_context(|| path.display().to_string())?;
    eprintln!("{}: {} lines", path.display(), answers.lines().count());
    Ok(())
}
