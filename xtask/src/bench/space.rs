// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What engines take of memory and disk. The mounts of the host are counted where containers run, in [`scale`](super::scale).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::book::{Book, Unit};
use super::clock;
use super::disk;
use super::engines::{Act, Engine};
use super::stand::{Stand, commands, perform};

/// The group of the rows.
pub const GROUP: &str = "space";
/// Reads all that a Debian has below `/usr`.
const READ_ALL: [&str; 3] = ["/bin/sh", "-c", "find /usr -xdev -type f -exec cat {} + | wc -c"];

/// Each round has every engine pull once; the disk's use does not vary.
pub fn measure(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let name = if stand.settings.is_quick { "deb:12" } else { "sci:2" };
    let image = stand.image(name);
    let engines = stand.engines_for(Act::Pull(&image));
    let (peak, kept) = (format!("peak memory of a pull of {name}"), format!("disk after a pull of {name}"));
    for round in 0..stand.settings.rounds {
        for engine in &engines {
            stand.drop_image(*engine, &image)?;
            let before = disk_use(engine.place())?;
            if let Some(bytes) = book.attempt(GROUP, &peak, engine.name(), || peak_of(stand, *engine, &image))? {
                book.add(GROUP, &peak, engine.name(), Unit::Megabytes, bytes as f64 / 1e6);
                if round == 0 {
                    disk::write_back();
                    let bytes = disk_use(engine.place())?.saturating_sub(before);
                    book.add(GROUP, &kept, engine.name(), Unit::Megabytes, bytes as f64 / 1e6);
                }
                perform(*engine, Act::RemoveImage(&image))?;
            }
        }
    }
    shared_pages(stand, book)
}

/// Runs a command, and prints the peak of its memory: this process has had no other child.
pub fn print_peak(program: &str, arguments: &[String]) -> anyhow::Result<()> {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "{program}: {status}");
    println!("{}", clock::children_peak()?);
    Ok(())
}

/// The greatest peak of the commands of a pull; of the daemon where there is one, for it does the work.
fn peak_of(stand: &Stand, engine: &dyn Engine, image: &str) -> anyhow::Result<u64> {
    if let Some(daemon) = engine.daemon() {
        // proc(5): 5 resets the peak to what is resident now.
        fs::write(format!("/proc/{daemon}/clear_refs"), "5")?;
        perform(engine, Act::Pull(image))?;
        return high_water(&fs::read_to_string(format!("/proc/{daemon}/status"))?).context("a daemon's VmHWM");
    }
    let mut greatest = 0;
    for pull in commands(engine, Act::Pull(image))? {
        let mut measured = Command::new(&stand.settings.measurer);
        measured.args([OsStr::new("bench"), OsStr::new("--"), pull.get_program()]).args(pull.get_args());
        for (name, value) in pull.get_envs() {
            match value {
                Some(value) => measured.env(name, value),
                None => measured.env_remove(name),
            };
        }
        let said = clock::output(&mut measured)?;
        greatest = greatest.max(said.trim().parse().with_context(|| format!("a peak: {said:?}"))?);
    }
    Ok(greatest)
}

/// `VmHWM:  12345 kB` in bytes.
fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// How much the page cache grows by a container that reads all its files, and by a second container of that image.
fn shared_pages(stand: &Stand, book: &mut Book) -> anyhow::Result<()> {
    let image = stand.image("deb:12");
    let engines = stand.engines_for(Act::Run(&image, "a", &READ_ALL));
    // Others on this machine read files too: the median tells.
    for engine in (0..stand.settings.rounds).flat_map(|_| engines.clone()) {
        if engine.commands(Act::Pull(&image)).is_none() {
            continue;
        }
        let name = engine.name();
        let [first, second] = ["the first container that reads everything", "the second of that image"]
            .map(|of| format!("page cache for {of}"));
        let grown = book.attempt(GROUP, &first, name, || {
            stand.ensure_image(engine, &image)?;
            perform(engine, Act::Run(&image, "warms", &["/bin/true"]))?;
            disk::chill()?;
            perform(engine, Act::Nothing)?;
            let before = cached()?;
            perform(engine, Act::Run(&image, "reads", &READ_ALL))?;
            let between = cached()?;
            perform(engine, Act::Run(&image, "reads-too", &READ_ALL))?;
            Ok((between.saturating_sub(before), cached()?.saturating_sub(between)))
        })?;
        if let Some((one, two)) = grown {
            book.add(GROUP, &first, name, Unit::Megabytes, one as f64 / 1e6);
            book.add(GROUP, &second, name, Unit::Megabytes, two as f64 / 1e6);
        }
    }
    Ok(())
}

/// The bytes of the page cache.
fn cached() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Cached:")).context("no Cached in /proc/meminfo")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// What a directory takes of its file system, in bytes; hard links once, other file systems mounted below not at all.
pub fn disk_use(directory: &Path) -> anyhow::Result<u64> {
    let Ok(metadata) = fs::symlink_metadata(directory) else { return Ok(0) };
    let mut seen = std::collections::BTreeSet::new();
    add_up(directory, metadata.dev(), &mut seen)
}

fn add_up(path: &Path, device: u64, seen: &mut std::collections::BTreeSet<u64>) -> anyhow::Result<u64> {
    // What goes away meanwhile takes nothing.
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(0) };
    if metadata.dev() != device || !seen.insert(metadata.ino()) {
        return Ok(0);
    }
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
            bytes += add_up(&entry?.path(), device, seen)?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_read_from_the_status() {
        assert_eq!(high_water("Name:\tx\nVmHWM:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(high_water("Name:\tx\n"), None);
        assert!(cached().unwrap() > 0);
    }

    #[test]
    fn a_hard_link_takes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), vec![1; 100_000]).unwrap();
        let one = disk_use(directory.path()).unwrap();
        fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
        assert!(one >= 100_000);
        assert_eq!(disk_use(directory.path()).unwrap(), one);
        assert_eq!(disk_use(Path::new("/no/such")).unwrap(), 0);
    }
}
