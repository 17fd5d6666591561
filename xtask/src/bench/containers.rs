// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's life, one at a time: create, the first byte of its output, run, exec, stop, delete.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::Settings;
use super::book::{Book, Unit};
use super::clock;
use super::disk::{Disk, tool};
use super::engines::{Act, Engine, Stos};
use super::stand::{Stand, perform, perform_with_output};
use crate::process::output;

/// The group of the rows.
pub const GROUP: &str = "containers";
/// The image.
pub const IMAGE: &str = "deb:12";
/// The row of the creates that are made in turn with those whose flushes are counted.
const BESIDE_FLUSHES: &str = "create, in turn with counting its flushes";
/// What is said by a container that says something.
const HELLO: [&str; 2] = ["/bin/echo", "hello"];
/// What does nothing.
pub const TRUE: [&str; 1] = ["/bin/true"];

/// Each round does everything with every engine once.
pub fn measure(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let image = stand.image(IMAGE);
    for engine in stand.engines_for(Act::Pull(&image)) {
        book.attempt(GROUP, "pull", engine.name(), || stand.ensure_image(engine, &image))?;
    }
    // One that stays, for exec; and everything is warm then.
    let stays = stand.engines_for(Act::Spawn(&image, "stays"));
    for engine in &stays {
        book.attempt(GROUP, "exec", engine.name(), || perform(*engine, Act::Spawn(&image, "stays")))?;
    }
    for round in 0..stand.settings.repeats() {
        let sample = clock::time(&mut [Command::new("/bin/true")])?;
        book.add_time(GROUP, "a program that does nothing", "/bin/true", sample.wall);
        for engine in &stand.engines {
            life(book, engine.as_ref(), &image, &format!("life-{round}"))?;
        }
    }
    for engine in stays {
        if !book.has_failed(GROUP, "exec", engine.name()) {
            perform(engine, Act::Destroy("stays"))?;
        }
    }
    create_of_large(stand, book)
}

/// Everything once, by one engine.
fn life(book: &mut Book, engine: &dyn Engine, image: &str, id: &str) -> anyhow::Result<()> {
    let name = engine.name();
    let mut timed = |what: &str, act: Act<'_>| -> anyhow::Result<bool> {
        // umoci unpacks for it: that has a measure of its own.
        if engine.commands(act).is_none() || name == "umoci+crun" {
            return Ok(false);
        }
        let sample = book.attempt(GROUP, what, name, || perform(engine, act))?;
        if let Some(sample) = sample {
            book.add_time(GROUP, what, name, sample.wall);
        }
        Ok(sample.is_some())
    };
    if timed("create", Act::Create(image, id, &HELLO))? {
        timed("delete of one that never ran", Act::Delete(id))?;
    }
    timed("run --rm true", Act::Run(image, id, &TRUE))?;
    if name == "umoci+crun" {
        return Ok(());
    }
    timed("exec", Act::Exec("stays", &TRUE))?;
    if timed("run --detach", Act::Spawn(image, id))? {
        if timed("stop", Act::Stop(id))? {
            timed("delete", Act::Delete(id))?;
        } else {
            timed("delete of one that runs", Act::Destroy(id))?;
        }
    }
    first_bytes(book, engine, image, id)
}

/// How long it takes from an image, or a bundle that is ready, to the first byte of output.
fn first_bytes(book: &mut Book, engine: &dyn Engine, image: &str, id: &str) -> anyhow::Result<()> {
    let name = engine.name();
    if engine.commands(Act::Run(image, id, &HELLO)).is_some() {
        let what = "run --rm echo, first byte";
        let sample = book.attempt(GROUP, what, name, || perform_with_output(engine, Act::Run(image, id, &HELLO)))?;
        if let Some(first) = sample.and_then(|sample| sample.first_byte) {
            book.add_time(GROUP, what, name, first);
        }
    }
    let acts = [Act::Create(image, id, &HELLO), Act::StartAttached(id)];
    let commands: Option<Vec<_>> = acts.into_iter().map(|act| engine.commands(act)).collect();
    if let Some(commands) = commands {
        let what = "create and start, first byte";
        let mut commands: Vec<Command> = commands.into_iter().flatten().collect();
        if let Some(sample) = book.attempt(GROUP, what, name, || clock::time_first_byte(&mut commands))? {
            book.add_time(GROUP, what, name, sample.first_byte.unwrap_or_default());
            destroy_ended(engine, id)?;
        }
    }
    Ok(())
}

/// Removes a container whose process has ended; containerd's client leaves an ended task or none, as it was quick.
fn destroy_ended(engine: &dyn Engine, id: &str) -> anyhow::Result<()> {
    if engine.daemon().is_none() {
        return perform(engine, Act::Destroy(id)).map(drop);
    }
    let mut commands = engine.commands(Act::Destroy(id)).context("a way to destroy")?;
    let last = commands.pop().context("a last command")?;
    for mut command in commands {
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status()?;
    }
    clock::time(&mut [last]).map(drop)
}

/// From the largest image to a container that was created: by engines that keep it ready to be used, and by unpacking it each time.
fn create_of_large(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let name = if stand.settings.is_quick { "deb:12" } else { "sci:2" };
    let (image, what) = (stand.image(name), &*format!("create of {name}"));
    let creating = stand.engines_for(Act::Create(&image, "large", &TRUE));
    for engine in &creating {
        if engine.commands(Act::Pull(&image)).is_some() {
            book.attempt(GROUP, what, engine.name(), || stand.ensure_image(*engine, &image))?;
        }
    }
    for round in 0..stand.settings.repeats() {
        for engine in &creating {
            // Unpacking takes seconds.
            if engine.name() == "umoci+crun" && round >= stand.settings.rounds {
                continue;
            }
            let (name, act) = (engine.name(), Act::Create(&image, "large", &TRUE));
            if let Some(sample) = book.attempt(GROUP, what, name, || perform(*engine, act))? {
                book.add_time(GROUP, what, name, sample.wall);
                perform(*engine, Act::Delete("large"))?;
            }
        }
    }
    Ok(())
}

/// Counts the flushes of a create, and how long they take, by strace of the host. On the same disk, outside the peers' root.
pub fn flushes(binary: &Path, disk: &Disk, settings: &Settings, book: &mut Book) -> anyhow::Result<()> {
    let Ok(strace) = tool("strace") else {
        book.facts.insert("flushes".into(), "not counted: strace is not installed".into());
        return Ok(());
    };
    drop(strace);
    let place = disk.path().join("flushes");
    let (stos, image) =
        (Stos::new("stos", binary.into(), place.clone(), "erofs"), format!("{}/{IMAGE}", settings.registry));
    output(stos.commands(Act::Pull(&image)).context("a pull")?.remove(0))?;
    let log = disk.path().join("flushes.log");
    for round in 0..=settings.repeats() {
        // How long a flush takes hangs on the minute: what it is taken off from is measured in turn.
        let name = format!("plain-{round}");
        let mut create = stos.commands(Act::Create(&image, &name, &TRUE)).context("a create")?;
        let plain = clock::time(&mut create)?;
        output(stos.commands(Act::Delete(&name)).context("a delete")?.remove(0))?;
        let name = format!("flushed-{round}");
        let create = stos.commands(Act::Create(&image, &name, &TRUE)).context("a create")?.remove(0);
        let mut traced = tool("strace")?;
        traced.args(["--follow-forks", "--seccomp-bpf", "-T", "--trace=fsync,fdatasync,syncfs,sync", "--output"]);
        traced.arg(&log).arg(create.get_program()).args(create.get_args());
        output(traced)?;
        let (count, milliseconds) = count_flushes(&fs::read_to_string(&log)?);
        // The first mounts the image.
        if round > 0 {
            book.add_time(GROUP, BESIDE_FLUSHES, "stos", plain.wall);
            book.add(GROUP, "create, flushes", "stos", Unit::Count, count as f64);
            book.add(GROUP, "create, in flushes", "stos", Unit::Milliseconds, milliseconds);
        }
        output(stos.commands(Act::Delete(&name)).context("a delete")?.remove(0))?;
    }
    output(stos.commands(Act::RemoveImage(&image)).context("a removal")?.remove(0)).map(drop)
}

/// How many calls strace's lines tell of, and how many milliseconds they took: `123 fsync(3) = 0 <0.000841>`.
fn count_flushes(log: &str) -> (usize, f64) {
    let seconds = |line: &str| line.rsplit_once('<')?.1.strip_suffix('>')?.parse::<f64>().ok();
    let times: Vec<f64> = log.lines().filter_map(seconds).collect();
    (times.len(), times.iter().sum::<f64>() * 1000.0)
}

/// The median of create without the median of its flushes, in milliseconds.
pub fn create_apart(book: &Book) -> Option<f64> {
    let create = book.median(GROUP, BESIDE_FLUSHES, "stos")?;
    Some(create - book.median(GROUP, "create, in flushes", "stos")?)
}

/// How much of a create is more than a program that does nothing, without flushes; in milliseconds.
pub fn create_above_nothing(book: &Book) -> Option<f64> {
    Some(create_apart(book)? - book.median(GROUP, "a program that does nothing", "/bin/true")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_counted_from_the_trace() {
        let log = "12 fsync(7) = 0 <0.001000>\n12 fdatasync(7)    = 0 <0.000500>\n12 +++ exited with 0 +++\n";
        assert_eq!(count_flushes(log), (2, 1.5));
        assert_eq!(count_flushes(""), (0, 0.0));
    }

    #[test]
    fn flushes_are_apart() {
        let mut book = Book::default();
        assert_eq!(create_above_nothing(&book), None);
        for (what, engine, sample) in [
            (BESIDE_FLUSHES, "stos", 6.0),
            ("create, in flushes", "stos", 3.0),
            ("a program that does nothing", "/bin/true", 1.0),
        ] {
            book.add(GROUP, what, engine, Unit::Milliseconds, sample);
        }
        assert_eq!(create_above_nothing(&book), Some(2.0));
    }
}
