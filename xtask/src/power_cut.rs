// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask power-cut`: commands work on a disk that logs each write and each flush; then the disk is put together again as a power
//! cut at each of its flushes, and in between, would leave it. Each time the file system must mount, and everything be there that a
//! command had reported as done.
//!
//! Before a flush returns a disk may keep, lose or tear whatever it was told since the one before; after it all of that is safe.

mod check;
mod cuts;
mod disk;
mod ledger;
#[cfg(target_arch = "x86_64")]
mod repeats;
mod scenario;
mod stand;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use cuts::{Cut, Replay, Unflushed};
use disk::Event;
use scenario::{Played, World};
use stand::{FORMATS, Format};

use crate::setup;
use crate::workspace::build_release;

/// How many cuts of each turn there are at least with `--quick`.
const QUICK: usize = 60;
/// How many disks that lie are tried at most until one is caught.
const LIARS: usize = 12;

/// One file system, and one way to keep layers on it.
struct Turn {
    name: &'static str,
    format: Format,
    layerfs: &'static str,
}

const TURNS: [Turn; 4] = [
    Turn { name: "ext4", format: FORMATS[0], layerfs: "erofs" },
    Turn { name: "xfs", format: FORMATS[1], layerfs: "erofs" },
    Turn { name: "ext4-dirs", format: FORMATS[0], layerfs: "dirs" },
    Turn { name: "xfs-dirs", format: FORMATS[1], layerfs: "dirs" },
];

/// Cuts the power at all moments, with `quick` at a sample of them; of all file systems or of those named.
pub fn run(quick: bool, seed: Option<u64>, only: &[String]) -> anyhow::Result<()> {
    for name in only {
        let known = TURNS.map(|turn| turn.name);
        anyhow::ensure!(known.contains(&name.as_str()), "{name:?} is none of {}", known.join(", "));
    }
    setup::run(false)?;
    let binary = match std::env::var_os("STOS_BIN") {
        Some(binary) => PathBuf::from(binary),
        None => build_release()?,
    };
    stand::have_private_mounts()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = seed.unwrap_or_else(|| now.as_secs() ^ (u64::from(now.subsec_nanos()) << 32));
    println!("seed {seed:#x}");
    println!(
        "{:<10} {:>8} {:>7} {:>7} {:>6} {:>8} {:>7}",
        "disk", "commands", "writes", "flushes", "cuts", "survived", "seconds"
    );
    let turns = TURNS.iter().filter(|turn| only.is_empty() || only.iter().any(|name| name == turn.name));
    side_by_side(turns.collect(), |turn, has_failed| take(&World::new(binary.clone())?, turn, seed, quick, has_failed))
}

/// Takes turns, as many at once as there are processors. The first failure ends all.
fn side_by_side(
    turns: VecDeque<&Turn>,
    take: impl Fn(&Turn, &AtomicBool) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let (turns, has_failed) = (Mutex::new(turns), AtomicBool::new(false));
    let next = || turns.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        while let Some(turn) = next() {
            let taken = take(turn, &has_failed);
            if taken.is_err() && !has_failed.swap(true, Ordering::SeqCst) {
                return taken;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ends = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a panic")));
        ends.collect::<anyhow::Result<Vec<()>>>().map(drop)
    })
}

fn take(world: &World, turn: &Turn, seed: u64, quick: bool, has_failed: &AtomicBool) -> anyhow::Result<()> {
    let start = Instant::now();
    let played = world.play(&turn.format, turn.layerfs).with_context(|| format!("{} without a cut", turn.name))?;
    let returns: Vec<usize> = played.steps.iter().map(|step| step.ended).collect();
    let cuts = cuts::choose(&played.record.log, &returns, seed, quick.then_some(QUICK));
    let mut replay = Replay::new(&played.record);
    let mut survived = BTreeMap::<&str, usize>::new();
    for (number, cut) in cuts.iter().enumerate() {
        anyhow::ensure!(!has_failed.load(Ordering::SeqCst), "stopped, for another has failed");
        progress(turn, number, cuts.len());
        survive(world, turn, &played, &mut replay, cut, number)?;
        let kind = match cut.unflushed {
            Unflushed::Kept => "kept",
            Unflushed::Lost => "lost",
            Unflushed::Some => "kept or lost",
            Unflushed::Torn(_) => "torn",
        };
        *survived.entry(kind).or_default() += 1;
    }
    let caught = catch_liars(world, turn, &played, seed)?;
    let last = returns.last().copied().unwrap_or(0);
    let flushes = played.record.log[..last].iter().filter(|event| **event == Event::Flush).count();
    println!(
        "{:<10} {:>8} {:>7} {:>7} {:>6} {:>8} {:>7.0}",
        turn.name,
        played.steps.len() - 1,
        last - flushes,
        flushes,
        cuts.len(),
        cuts.len(),
        start.elapsed().as_secs_f64()
    );
    let kinds: Vec<_> = survived.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    println!("  {}: unflushed writes {}; {caught}", turn.name, kinds.join(", "));
    Ok(())
}

/// Makes the disk as the cut leaves it, and fails where anything is lost; then the disk is kept.
fn survive(
    world: &World,
    turn: &Turn,
    played: &Played,
    replay: &mut Replay<'_>,
    cut: &Cut,
    number: usize,
) -> anyhow::Result<()> {
    let (image, file) = world.new_image()?;
    replay.write(cut, &file)?;
    let checked = check::check(world, &turn.format, turn.layerfs, &image, played, cut.position, number);
    let Err(error) = checked else { return Ok(()) };
    let kept = PathBuf::from(format!("/var/tmp/stos-power-cut-{}-{}.img", turn.name, cut.position));
    replay.write(cut, &scenario::create(&kept)?)?;
    let (done, under_way) = ledger::moment(&played.steps, cut.position);
    let under_way = under_way.map_or("nothing".to_owned(), |step| step.words.replace('\n', "\\n"));
    Err(error.context(format!(
        "{}: a loss {cut} of {}; done: {}; under way: {under_way}; the disk is kept as {}",
        turn.name,
        played.record.log.len(),
        done.words.replace('\n', "\\n"),
        kept.display(),
    )))
}

/// Shows that losses are found: a disk that takes flushes and does nothing, and one that is late by a command, are caught.
fn catch_liars(world: &World, turn: &Turn, played: &Played, seed: u64) -> anyhow::Result<String> {
    let steps = &played.steps;
    let mut caught = [0, 0];
    let mut tried = [0, 0];
    for number in 0..LIARS {
        let (at, kind) = (1 + number * (steps.len() - 1) / LIARS, number % 2);
        let position = steps[at].ended;
        let (mut replay, shown) = match kind {
            0 => (Replay::without_flushes(&played.record), position),
            _ => (Replay::new(&played.record), steps[at].begun),
        };
        let unflushed = if kind == 0 { Unflushed::Some } else { Unflushed::Kept };
        let (image, file) = world.new_image()?;
        replay.write(&Cut { position: shown, unflushed, seed: seed ^ number as u64 }, &file)?;
        tried[kind] += 1;
        let checked = check::check(world, &turn.format, turn.layerfs, &image, played, position, number);
        caught[kind] += usize::from(checked.is_err());
    }
    for (kind, name) in ["ignores flushes", "is late by a command"].into_iter().enumerate() {
        anyhow::ensure!(caught[kind] > 0, "{}: nothing is lost on a disk that {name}: this proves nothing", turn.name);
    }
    Ok(format!(
        "losses found on {} of {} disks that ignore flushes, on {} of {} that are late by a command",
        caught[0], tried[0], caught[1], tried[1]
    ))
}

fn progress(turn: &Turn, number: usize, of: usize) {
    if number > 0 && number.is_multiple_of(100) {
        eprintln!("{}: {number} of {of} cuts survived", turn.name);
    }
}
