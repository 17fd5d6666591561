// SPDX-License-Identifier: Apache-2.0 OR MIT
//! erofs-utils ≥ 1.8, which Debian has since trixie: its programs with their own libraries, beside the host's.
//!
//! Older ones know neither `mkfs.erofs --tar=i` nor `fsck.erofs --extract` with devices, which are the tests' oracles.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use stos_testkit::environment::tool;
use stos_testkit::tar_builder::{Entry, TarBuilder};

use super::debian;
use crate::process::{Run, output, step};

const OLDEST: (u32, u32) = (1, 8);
const PROGRAMS: [&str; 3] = ["fsck.erofs", "dump.erofs", "mkfs.erofs"];
/// The releases that have it, the most stable first.
const SUITES: [&str; 2] = ["trixie", "sid"];

/// Makes sure that all three programs are there, new enough, and can do what the tests ask.
pub fn ensure(cache: &Path) -> anyhow::Result<()> {
    if PROGRAMS.iter().any(|program| version(program).is_none_or(|version| version < OLDEST)) {
        step("unpacking a newer erofs-utils", || install(cache))?;
    }
    for program in PROGRAMS {
        let found = version(program).with_context(|| format!("{program} does not run"))?;
        anyhow::ensure!(found >= OLDEST, "{program} has version {found:?}, expected at least {OLDEST:?}");
    }
    verify()
}

/// The version of an installed program, by the first line that it prints.
fn version(program: &str) -> Option<(u32, u32)> {
    let output = Command::new(tool(program)?).arg("--version").output().ok()?;
    // Some print to stdout and some to stderr.
    let text = [output.stdout, output.stderr].concat();
    parse_version(&String::from_utf8_lossy(&text))
}

/// Reads `fsck.erofs (erofs-utils) 1.8.6` and `fsck.erofs 1.5`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let word = text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let mut numbers = word.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn install(cache: &Path) -> anyhow::Result<()> {
    let archive = debian::archive(cache)?;
    let mut failures = Vec::new();
    for suite in SUITES {
        match install_from(cache, &archive, suite) {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(format!("{suite}: {error:#}")),
        }
    }
    anyhow::bail!("{}", failures.join("\n"))
}

/// Lets an apt with a state of its own, which believes that nothing is installed, fetch the package and all that it
/// needs, libc included; then unpacks them and renames the result into place.
fn install_from(cache: &Path, archive: &str, suite: &str) -> anyhow::Result<()> {
    let work = tempfile::Builder::new().prefix("erofs-utils-").tempdir_in(cache)?;
    let (apt, tree) = (work.path().join("apt"), work.path().join("tree"));
    for directory in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(directory))?;
    }
    fs::create_dir_all(tree.join("root"))?;
    fs::write(apt.join("status"), "")?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    fs::write(apt.join("sources.list"), format!("deb [signed-by={keyring}] {archive} {suite} main\n"))?;
    let log = cache.join("apt.log");
    debian::update_with(&log, || private_apt(&apt, &[]))?;
    private_apt(&apt, &["install", "--download-only", "--yes", "--no-install-recommends", "erofs-utils"])
        .run_logged(&log)?;
    let mut count = 0;
    for entry in fs::read_dir(apt.join("cache/archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            Command::new("dpkg-deb").arg("-x").arg(&path).arg(tree.join("root")).run_logged(&log)?;
            count += 1;
        }
    }
    anyhow::ensure!(count > 0, "apt has fetched no package");
    let place = cache.join("erofs-utils");
    write_wrappers(&tree, &place)?;
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::rename(&tree, &place).context("moving erofs-utils into place")
}

fn private_apt(apt: &Path, arguments: &[&str]) -> Command {
    let mut command = debian::apt_get(debian::AS_ROOT);
    let places = [
        ("Dir::State", "state"),
        ("Dir::State::lists", "state/lists"),
        ("Dir::State::status", "status"),
        ("Dir::Cache", "cache"),
        ("Dir::Cache::archives", "cache/archives"),
        ("Dir::Etc::SourceList", "sources.list"),
    ];
    for (option, place) in places {
        command.arg("-o").arg(format!("{option}={}", apt.join(place).display()));
    }
    command.args(["-o", "Dir::Etc::SourceParts=/dev/null", "-o", "Acquire::Languages=none"]);
    command.args(["-o", "APT::Get::List-Cleanup=false"]).args(arguments);
    command
}

/// Writes `bin/PROGRAM` into `tree`, each a script that will start it from `place` by its own loader and libraries.
fn write_wrappers(tree: &Path, place: &Path) -> anyhow::Result<()> {
    let root = tree.join("root");
    let moved = |path: &Path| Ok::<_, anyhow::Error>(place.join(path.strip_prefix(tree)?));
    let loader = find(&root, &|name| name.starts_with("ld-linux") && name.contains(".so."))?;
    let loader = loader.first().context("the packages have no loader")?;
    let libraries = find(&root, &|name| name.contains(".so."))?;
    let mut directories: Vec<PathBuf> = libraries.iter().filter_map(|path| path.parent().map(Path::to_owned)).collect();
    directories.dedup();
    let directories: Vec<String> =
        directories.iter().map(|path| Ok(moved(path)?.display().to_string())).collect::<anyhow::Result<_>>()?;
    fs::create_dir_all(tree.join("bin"))?;
    for program in PROGRAMS {
        let found = find(&root, &|name| name == program)?;
        let found = found.first().with_context(|| format!("the packages have no {program}"))?;
        let script = format!(
            "#!/bin/sh\nexec '{}' --library-path '{}' '{}' \"$@\"\n",
            moved(loader)?.display(),
            directories.join(":"),
            moved(found)?.display()
        );
        let path = tree.join("bin").join(program);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The regular files and symlinks below `directory` whose names match, in order.
fn find(directory: &Path, matches: &dyn Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            found.extend(find(&entry.path(), matches)?);
        } else if matches(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Makes a small image over a tar as its device, and takes the file out of it again.
fn verify() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let text = "from a tar, through EROFS\n".repeat(100);
    fs::write(path("tar"), TarBuilder::new().entry(Entry::file("file", &text)).finish())?;
    let command = |name: &str| tool(name).map(Command::new).context("it was found before");
    let mut make = command("mkfs.erofs")?;
    make.arg("--tar=i").arg(path("image")).arg(path("tar"));
    output(make)?;
    let mut check = command("fsck.erofs")?;
    check.arg(format!("--extract={}", path("out").display()));
    check.arg(format!("--device={}", path("tar").display())).arg(path("image"));
    output(check)?;
    anyhow::ensure!(
        fs::read_to_string(path("out/file"))? == text,
        "fsck.erofs has extracted other bytes than it was given"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("fsck.erofs (erofs-utils) 1.8.6\navailable: lz4"), Some((1, 8)));
        assert_eq!(parse_version("mkfs.erofs 1.5\n"), Some((1, 5)));
        assert_eq!(parse_version("dump.erofs 1.10-gabc"), Some((1, 10)));
        assert_eq!(parse_version("no version"), None);
    }
}
