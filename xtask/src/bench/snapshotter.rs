// SPDX-License-Identifier: Apache-2.0 OR MIT
//! containerd with stos's snapshotter, beside containerd with its own: a cold pull, the first container of what was pulled, and the
//! hundredth.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use stos_testkit::environment;

use super::book::Book;
use super::containers::TRUE;
use super::engines::{Act, Containerd, Engine};
use super::stand::{Stand, perform};
use crate::process::Run;
use crate::workspace::{Metadata, cargo};

/// The group of the rows.
pub const GROUP: &str = "snapshotter";
/// containerd with stos's snapshotter.
pub const OURS: &str = "containerd stos";
/// With its own.
pub const PEERS: [&str; 2] = ["containerd overlayfs", "containerd erofs"];
/// The image.
const IMAGE: &str = "sci:2";
/// The rows about it.
pub const PULL: &str = "sci:2 gzip";
/// Its first container, to the end.
pub const RUN: &str = "first run --rm true";
/// From nothing to the end of its first container.
pub const READY: &str = "sci:2 gzip, and first run --rm true";
/// And until all of it is on disk.
const DURABLE: &str = "the same, durable";
/// The first container that stays.
pub const FIRST: &str = "run --detach of the 1st container";
/// The last of those.
pub const LAST: &str = "run --detach of the 96th to 100th container";
/// How many count as the last: one start of a tenth of a second says little.
const LAST_ONES: usize = 5;
/// How long a removal may go on after `ctr` has ended: the snapshotter hears of it from containerd.
const PATIENCE: Duration = Duration::from_secs(30);

/// Builds the snapshotter as stos is built, unless `$STOS_BIN` says that nothing is: then it is the last one that was.
pub fn program() -> anyhow::Result<PathBuf> {
    let workspace = Metadata::load()?.workspace_root.join("snapshotter");
    let program = workspace.join("target/release/stos-snapshotter");
    if env::var_os(environment::BINARY).is_none() {
        let mut build = cargo(["build", "--release", "--manifest-path"]);
        build.arg(workspace.join("Cargo.toml")).run()?;
    }
    anyhow::ensure!(
        program.exists(),
        "{} is missing: cargo build --release in {}",
        program.display(),
        workspace.display()
    );
    Ok(program)
}

/// Each round pulls by each, runs the first container, and removes the image; and has a hundred containers stay.
pub fn measure(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let Some(program) = &stand.settings.snapshotter else {
        eprintln!("  without peers there is no containerd");
        return Ok(());
    };
    let ours = Containerd::start_with_stos(OURS, stand.settings.disk.join("containerd-stos"), program)?;
    let peers = PEERS.iter().filter_map(|name| stand.engine(name));
    let engines: Vec<&dyn Engine> = std::iter::once(&ours as &dyn Engine).chain(peers).collect();
    for round in 0..stand.settings.rounds {
        for engine in &engines {
            pull_and_run(stand, book, *engine, &format!("first-{round}"))?;
        }
    }
    for round in 0..stand.settings.rounds {
        for engine in &engines {
            // What containerd's own time does from the first to the hundredth is told by one peer; ours is measured twice as often, since
            // a round has one first container only.
            let times = if engine.name() == OURS { 2 } else { usize::from(engine.name() == PEERS[0]) };
            for time in 0..times {
                hundred_that_stay(stand, book, *engine, &format!("stays-{round}-{time}"))?;
            }
        }
    }
    Ok(())
}

/// Has a hundred containers of a fresh image, and removes them with it. The first one pays for the mount.
fn hundred_that_stay(stand: &Stand, book: &mut Book, engine: &dyn Engine, id: &str) -> anyhow::Result<()> {
    let (image, peer) = (stand.image(IMAGE), engine.name());
    let count = if stand.settings.is_quick { 10 } else { 100 };
    let name = |number: usize| format!("{id}-{number}");
    stand.drop_image(engine, &image)?;
    perform(engine, Act::Pull(&image))?;
    for number in 1..=count {
        let sample = perform(engine, Act::Spawn(&image, &name(number)))?;
        if number == 1 {
            book.add_time(GROUP, FIRST, peer, sample.wall);
        } else if number > count - LAST_ONES {
            book.add_time(GROUP, LAST, peer, sample.wall);
        }
    }
    for number in 1..=count {
        perform(engine, Act::Destroy(&name(number)))?;
    }
    perform(engine, Act::RemoveImage(&image))?;
    if peer == OURS { wait_until_empty(engine) } else { Ok(()) }
}

fn pull_and_run(stand: &Stand, book: &mut Book, engine: &dyn Engine, id: &str) -> anyhow::Result<()> {
    let (name, image) = (engine.name(), stand.image(IMAGE));
    stand.drop_image(engine, &image)?;
    stand.chill(engine, IMAGE)?;
    let Some(pulled) = book.attempt(GROUP, PULL, name, || perform(engine, Act::Pull(&image)))? else { return Ok(()) };
    book.add_time(GROUP, PULL, name, pulled.wall);
    // At once, as a node does: while the kernel still writes what the pull has left dirty.
    let ran = book.attempt(GROUP, RUN, name, || perform(engine, Act::Run(&image, id, &TRUE)))?;
    let start = Instant::now();
    nix::unistd::syncfs(File::open(&stand.settings.disk)?)?;
    if let Some(ran) = ran {
        book.add_time(GROUP, RUN, name, ran.wall);
        book.add_time(GROUP, READY, name, pulled.wall + ran.wall);
        book.add_time(GROUP, DURABLE, name, pulled.wall + ran.wall + start.elapsed());
    }
    let again = format!("{id}-again");
    if let Some(sample) =
        book.attempt(GROUP, "run --rm true", name, || perform(engine, Act::Run(&image, &again, &TRUE)))?
    {
        book.add_time(GROUP, "run --rm true", name, sample.wall);
    }
    book.attempt(GROUP, "rmi", name, || perform(engine, Act::RemoveImage(&image)))?;
    if name == OURS { wait_until_empty(engine) } else { Ok(()) }
}

/// Waits until the store has no layer: else the next pull is none.
fn wait_until_empty(engine: &dyn Engine) -> anyhow::Result<()> {
    let layers = engine.place().join("stos/layers/sha256");
    let start = Instant::now();
    while fs::read_dir(&layers).with_context(|| layers.display().to_string())?.next().is_some() {
        anyhow::ensure!(start.elapsed() < PATIENCE, "{} is not empty after the image's removal", layers.display());
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
