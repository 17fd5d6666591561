// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The same with many containers that run, with many at once, and with many layers.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::bare_start::{self, BareStart};
use super::book::{Book, Unit};
use super::containers::{IMAGE, TRUE};
use super::engines::{Act, Engine};
use super::images::CHAINS;
use super::stand::{Stand, perform};

/// The group of the rows about many containers.
pub const GROUP: &str = "scale";
/// The group of the rows about many layers.
pub const LAYERS: &str = "layers";
/// How many containers run.
pub const RUNNING: [usize; 4] = [1, 10, 100, 1000];
/// How many commands run at once.
const AT_ONCE: [usize; 5] = [1, 2, 4, 8, 16];
/// How long nothing is done before what is timed, but for a row of its own. After a container has gone the kernel takes its memory cgroup out of the lists of every mounted
/// file system, under the lock that the next one's cgroups need: with a thousand containers that is 10 ms of work.
const REST: Duration = Duration::from_millis(50);
/// So many containers of others are enough: each of theirs needs two processes of several megabytes.
const OF_OTHERS: usize = 100;

/// Measures beside containers that run, engine by engine, and commands at once.
pub fn measure(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let image = stand.image(IMAGE);
    let mut engines = stand.engines_for(Act::Spawn(&image, "a"));
    engines.retain(|engine| engine.commands(Act::Pull(&image)).is_some());
    for engine in engines {
        // One backend is enough.
        if engine.name() == "stos dirs" {
            continue;
        }
        if book.attempt(GROUP, "pull", engine.name(), || stand.ensure_image(engine, &image))?.is_some() {
            beside_others(stand, book, engine, &image)?;
        }
    }
    at_once(stand, book, &image)
}

fn beside_others(stand: &Stand, book: &mut Book, engine: &dyn Engine, image: &str) -> anyhow::Result<()> {
    let (name, before) = (engine.name(), mounts());
    // Beside stos's: how much longer than the first any start takes there, whoever does it.
    let bare = if name == "stos" { BareStart::prepare(stand)? } else { None };
    let mut running = 0;
    for count in RUNNING {
        let is_too_many = count > if stand.settings.is_quick { 10 } else { 1000 };
        if is_too_many || (!engine.is_ours() && count > OF_OTHERS) {
            continue;
        }
        let spawned = book.attempt(GROUP, &beside(count), name, || {
            while running < count {
                perform(engine, Act::Spawn(image, &format!("beside-{running}")))?;
                running += 1;
            }
            Ok(())
        })?;
        if spawned.is_none() {
            break;
        }
        book.add(GROUP, &format!("mounts of the host for {count} that run"), name, Unit::Count, mounts() - before);
        for round in 0..stand.settings.repeats() {
            let id = format!("scale-{round}");
            let mut timed = |what: &str, rest: Duration, act: Act<'_>| -> anyhow::Result<()> {
                let what = format!("{what} beside {count} that run");
                thread::sleep(rest);
                if let Some(sample) = book.attempt(GROUP, &what, name, || perform(engine, act))? {
                    book.add_time(GROUP, &what, name, sample.wall);
                }
                Ok(())
            };
            timed("run --rm true", REST, Act::Run(image, &id, &TRUE))?;
            timed("run --rm true, right after another,", Duration::ZERO, Act::Run(image, &id, &TRUE))?;
            timed("create", REST, Act::Create(image, &id, &TRUE))?;
            timed("delete", REST, Act::Delete(&id))?;
            timed("exec", REST, Act::Exec("beside-0", &TRUE))?;
            thread::sleep(REST);
            if let Some(bare) = &bare
                && let Some(sample) = book.attempt(GROUP, &beside(count), bare_start::NAME, || bare.run())?
            {
                book.add_time(GROUP, &beside(count), bare_start::NAME, sample.wall);
            }
        }
    }
    for number in 0..running {
        perform(engine, Act::Destroy(&format!("beside-{number}")))?;
    }
    Ok(())
}

/// The name of the row about runs beside so many that run.
pub fn beside(count: usize) -> String {
    format!("run --rm true beside {count} that run")
}

/// How many mounts our mount table has.
pub fn mounts() -> f64 {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().count() as f64
}

/// So many commands at a time, each several times: what one has taken of the whole.
fn at_once(stand: &Stand, book: &mut Book, image: &str) -> anyhow::Result<()> {
    let (rounds, each) = if stand.settings.is_quick { (1, 1) } else { (5, 4) };
    let engines = stand.engines_for(Act::Run(image, "a", &TRUE));
    for _ in 0..rounds {
        for count in AT_ONCE {
            let what = format!("run --rm true, {count} at a time, each");
            for engine in &engines {
                let name = engine.name();
                if name == "stos dirs" {
                    continue;
                }
                if let Some(whole) = book.attempt(GROUP, &what, name, || together(*engine, image, count, each))? {
                    book.add(GROUP, &what, name, Unit::Milliseconds, whole / (count * each) as f64);
                }
            }
        }
    }
    Ok(())
}

/// Milliseconds until `count` threads have run `each` containers one after the other.
fn together(engine: &dyn Engine, image: &str, count: usize, each: usize) -> anyhow::Result<f64> {
    let start = Instant::now();
    thread::scope(|scope| {
        let work = |thread: usize| {
            move || -> anyhow::Result<()> {
                for turn in 0..each {
                    perform(engine, Act::Run(image, &format!("at-once-{thread}-{turn}"), &TRUE))?;
                }
                Ok(())
            }
        };
        let threads: Vec<_> = (0..count).map(|thread| scope.spawn(work(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// Creates and runs from images of so many layers, in turn.
pub fn measure_layers(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let chains: &[usize] = if stand.settings.is_quick { &[1, 100] } else { &CHAINS };
    for &count in chains {
        let image = stand.image(&format!("chain:{count}"));
        let pulled = format!("pull, {count} layers");
        for engine in stand.engines_for(Act::Pull(&image)) {
            // The tools that only unpack start nothing.
            if engine.commands(Act::Create(&image, "a", &TRUE)).is_none() {
                continue;
            }
            let name = engine.name();
            if let Some(()) = book.attempt(LAYERS, &pulled, name, || perform(engine, Act::Pull(&image)).map(drop))? {
                // The first mounts what is mounted once.
                book.attempt(LAYERS, &with("run --rm true", count), name, || {
                    perform(engine, Act::Run(&image, "first", &TRUE)).map(drop)
                })?;
            }
        }
    }
    for round in 0..stand.settings.repeats() {
        for &count in chains {
            let image = stand.image(&format!("chain:{count}"));
            for engine in stand.engines_for(Act::Pull(&image)) {
                let (name, id) = (engine.name(), format!("layers-{round}"));
                if engine.commands(Act::Create(&image, &id, &TRUE)).is_none()
                    || book.has_failed(LAYERS, &format!("pull, {count} layers"), name)
                {
                    continue;
                }
                let acts = [
                    ("run --rm true", Act::Run(&image, &id, &TRUE)),
                    ("create", Act::Create(&image, &id, &TRUE)),
                    ("delete", Act::Delete(&id)),
                ];
                for (what, act) in acts {
                    let what = with(what, count);
                    if let Some(sample) = book.attempt(LAYERS, &what, name, || perform(engine, act))? {
                        book.add_time(LAYERS, &what, name, sample.wall);
                    }
                }
            }
        }
    }
    for &count in chains.iter().rev() {
        let image = stand.image(&format!("chain:{count}"));
        for engine in stand.engines_for(Act::Pull(&image)) {
            let is_there = engine.commands(Act::Create(&image, "a", &TRUE)).is_some()
                && !book.has_failed(LAYERS, &format!("pull, {count} layers"), engine.name());
            if is_there {
                book.attempt(LAYERS, &with("rmi", count), engine.name(), || perform(engine, Act::RemoveImage(&image)))?;
            }
        }
    }
    Ok(())
}

/// The name of a row about an image of so many layers.
pub fn with(what: &str, layers: usize) -> String {
    format!("{what}, {layers} layers")
}
