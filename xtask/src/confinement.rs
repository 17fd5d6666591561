// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask confinement`: holds what a container may do by default against what one of today's podman may that is run beside it.
//!
//! The program that tries everything is the test's; podman runs it in the root that `setup --peers` made. With `--record` its answers
//! become those that the test holds ours against where there is no podman.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use stos_testkit::environment;

use crate::process::{Run, output};
use crate::setup;
use crate::workspace::{build_release, cargo};

/// Where the program's source and the record of podman's answers are.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/stos/tests/data");

/// Runs the program in `$WORK` in a container of an image with nothing else, by a podman whose store is there too.
const SCRIPT: &str = r#"set -e
podman() { command podman --root "$WORK/root" --runroot "$WORK/run" --tmpdir "$WORK/tmp" --storage-driver vfs --cgroup-manager cgroupfs --runtime crun "$@"; }
tar -C "$WORK/image" -c . | podman import --quiet - probe >/dev/null
podman run --rm --network none probe /probe
podman rmi --force probe >/dev/null 2>&1"#;

/// Asks podman, then runs the tests with its answers; or records them.
pub fn run(record: bool) -> anyhow::Result<()> {
    setup::run(true)?;
    let answers = ask_podman()?;
    let path = Path::new(DATA).join("podman-default.txt");
    if record {
        fs::write(&path, &answers).with_context(|| path.display().to_string())?;
        eprintln!("{}: {} lines", path.display(), answers.lines().count());
        return Ok(());
    }
    let live = environment::scratch();
    let live = live.path().join("podman-live.txt");
    fs::write(&live, &answers).with_context(|| live.display().to_string())?;
    cargo(["test", "--package", "stos", "--test", "confinement"])
        .env(environment::BINARY, build_release()?)
        .env("STOS_PODMAN_ANSWERS", &live)
        .run()?;
    let recorded = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let changed = answers.lines().filter(|line| !recorded.lines().any(|known| known == *line)).count();
    eprintln!("{} answers of podman; {changed} are not as they are recorded", answers.lines().count());
    Ok(())
}

/// Runs the program in a container of podman, and gives its answers below a line that says whose they are.
fn ask_podman() -> anyhow::Result<String> {
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
    Ok(format!("# {} by default, on x86_64: made by `cargo xtask confinement --record`\n{answers}", version.trim()))
}
