// SPDX-License-Identifier: Apache-2.0 OR MIT
//! All Quadlet files of some directories, as systemd asks a generator for them (systemd.generator(7)).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::quadlet::{Kind, Link, Service, Siblings, Source, convert};
use crate::unit_file::UnitFile;

/// Kinds of podman's files that become no unit here: each is told of.
const OTHER_KINDS: [&str; 4] = ["kube", "pod", "image", "build"];

/// How deep directories are looked through: a link in one may lead back.
const DEPTH_MAX: usize = 8;

/// What became of all files.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The services, by the names of their files.
    pub services: Vec<Service>,
    /// What was wrong with the others.
    pub errors: Vec<Error>,
}

/// Reads all Quadlet files of `directories` and what lies below them; of two with one name that of the earlier directory counts.
/// `program` is the path of stos. A directory that is not there has no files.
pub fn generate(directories: &[PathBuf], program: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut found, mut visited) = (BTreeMap::new(), Vec::new());
    for directory in directories {
        let mut here = Found::default();
        if let Err(error) = look(directory, DEPTH_MAX, &mut here) {
            outcome.errors.push(error);
        }
        visited.append(&mut here.directories);
        for (name, path) in here.files {
            found.entry(name).or_insert(path);
        }
    }
    let mut sources = Vec::new();
    for path in found.into_values() {
        match read(&path, &visited) {
            Ok(source) => sources.push(source),
            Err(error) => outcome.errors.push(error),
        }
    }
    let siblings = Siblings::of(&sources);
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for source in &sources {
        match convert(source, &siblings, program) {
            Ok(service) => match files.get(&service.name) {
                Some(first) => outcome.errors.push(Error::Twice {
                    file: source.file.clone(),
                    first: first.clone(),
                    service: service.name,
                }),
                None => {
                    files.insert(service.name.clone(), source.file.clone());
                    outcome.services.push(service);
                }
            },
            Err(error) => outcome.errors.push(error),
        }
    }
    outcome
}

/// Writes a service and its links into a directory of unit files: the links only when all of the unit is there.
///
/// # Errors
/// [`Error::Io`]; then no half of the unit stays.
pub fn write(service: &Service, directory: &Path) -> Result<()> {
    let path = directory.join(&service.name);
    let begun = directory.join(format!(".{}.new", service.name));
    let written = fs::write(&begun, &service.text).and_then(|()| fs::rename(&begun, &path));
    written.inspect_err(|_| drop(fs::remove_file(&begun))).map_err(Error::io("write", &path))?;
    service.links.iter().try_for_each(|link| make_link(link, directory))
}

fn make_link(link: &Link, directory: &Path) -> Result<()> {
    let path = directory.join(&link.path);
    let parent = path.parent().unwrap_or(directory);
    fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
    match std::os::unix::fs::symlink(&link.target, &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&path).and_then(|()| std::os::unix::fs::symlink(&link.target, &path))
        }
        other => other,
    }
    .map_err(Error::io("link", &path))
}

/// What there is below a directory.
#[derive(Debug, Default)]
struct Found {
    /// The files, by their names; of two with one name the first.
    files: BTreeMap<OsString, PathBuf>,
    /// The directory and all below it: drop-ins may lie in each, as with podman.
    directories: Vec<PathBuf>,
}

/// Finds the files of a directory and of those below it, but for drop-ins.
fn look(directory: &Path, depth: usize, found: &mut Found) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("read", directory))?,
    };
    found.directories.push(directory.to_owned());
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    paths.iter_mut().for_each(|paths| paths.sort());
    for path in paths.map_err(Error::io("read", directory))? {
        let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        if path.is_dir() {
            if kind != "d" && depth > 0 {
                look(&path, depth - 1, found)?;
            }
        } else if (Kind::of(&path).is_some() || OTHER_KINDS.contains(&kind))
            && let Some(name) = path.file_name()
        {
            found.files.entry(name.to_owned()).or_insert(path);
        }
    }
    Ok(())
}

/// Reads a file and its drop-ins.
fn read(file: &Path, directories: &[PathBuf]) -> Result<Source> {
    let text = |path: &Path| fs::read_to_string(path).map_err(Error::io("read", path));
    let mut unit = UnitFile::parse(file, &text(file)?)?;
    for path in drop_ins(file, directories)? {
        unit.append(&path, &text(&path)?)?;
    }
    Ok(Source { file: file.to_owned(), unit })
}

/// The drop-ins of a file, in the order of their names; of two with one name the one closest to the file counts (systemd.unit(5)).
fn drop_ins(file: &Path, directories: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for name in drop_in_directories(file) {
        for directory in directories.iter().rev() {
            let directory = directory.join(&name);
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(Error::io("read", &directory))?,
            };
            for entry in entries {
                let path = entry.map_err(Error::io("read", &directory))?.path();
                if path.extension().is_some_and(|kind| kind == "conf")
                    && let Some(name) = path.file_name()
                {
                    found.insert(name.to_owned(), path);
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

/// The names of the directories that a file's drop-ins may lie in, the closest last: of `a-b@c.container` these are `container.d`,
/// `a-.container.d`, `a-b@.container.d` and `a-b@c.container.d`.
fn drop_in_directories(file: &Path) -> Vec<String> {
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, kind) = (part(file.file_stem()), part(file.extension()));
    let mut names = vec![format!("{kind}.d")];
    names.extend(stem.match_indices('-').map(|(at, _)| format!("{}.{kind}.d", &stem[..=at])));
    if let Some((template, instance)) = stem.split_once('@')
        && !instance.is_empty()
    {
        names.push(format!("{template}@.{kind}.d"));
    }
    names.push(format!("{stem}.{kind}.d"));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn earlier_directories_and_closer_drop_ins_count() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put(first.path(), "a-b.container", "[Container]\nImage=first\n");
        put(second.path(), "a-b.container", "[Container]\nImage=second\n");
        put(second.path(), "below/c.volume", "[Volume]\n");
        put(second.path(), "container.d/10.conf", "[Container]\nLabel=all=1\n");
        put(second.path(), "a-.container.d/20.conf", "[Container]\nLabel=prefix=1\n");
        put(second.path(), "a-b.container.d/20.conf", "[Container]\nLabel=own=1\n");
        put(first.path(), "a-b.container.d/05.conf", "[Container]\nHostName=h\n");
        put(first.path(), "a-b.container.d/note.txt", "nothing");
        put(second.path(), "below/deeper/c.volume.d/1.conf", "[Volume]\nLabel=beside=1\n");
        let directories = [first.path().to_owned(), second.path().to_owned(), "/no/such".into()];
        let outcome = generate(&directories, "stos");
        assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
        let names: Vec<_> = outcome.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["a-b.service", "c-volume.service"]);
        let start = outcome.services[0].text.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        assert!(start.ends_with("--hostname=h --label=all=1 --label=own=1 first"), "{start}");
        assert!(outcome.services[1].text.contains("--label=beside=1"), "{}", outcome.services[1].text);
    }

    #[test]
    fn a_bad_file_is_told_of_and_others_become_units() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "bad.container", "[Container]\nNo=1\n");
        put(dir.path(), "good.container", "[Container]\nImage=i\nServiceName=one\n");
        put(dir.path(), "one.container", "[Container]\nImage=i\n");
        put(dir.path(), "x.kube", "[Kube]\n");
        fs::write(dir.path().join("bytes.volume"), b"\xff").unwrap();
        let outcome = generate(&[dir.path().to_owned()], "stos");
        assert_eq!(outcome.services.len(), 1);
        let said: Vec<_> = outcome.errors.iter().map(ToString::to_string).collect();
        let has = |part: &str| assert!(said.iter().any(|said| said.contains(part)), "{part} in {said:?}");
        has("bad.container:2: No= of [Container] is not known");
        has("one.container: one.service is ");
        has("x.kube: expected a .container, .volume or .network file");
        has("cannot read ");
        assert_eq!(said.len(), 4);
    }

    #[test]
    fn a_service_is_written_with_its_links_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let link = Link { path: "a.target.wants/x.service".into(), target: "../x.service".into() };
        let service = Service { name: "x.service".into(), text: "[Unit]\n".into(), links: vec![link] };
        for _ in 0..2 {
            write(&service, dir.path()).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("a.target.wants/x.service")).unwrap(), "[Unit]\n");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let error = write(&service, &dir.path().join("none")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.contains("none/x.service"), "{error}");
    }

    #[test]
    fn the_directories_of_drop_ins_are_systemds() {
        assert_eq!(
            drop_in_directories(Path::new("/x/a-b@c.container")),
            ["container.d", "a-.container.d", "a-b@.container.d", "a-b@c.container.d"]
        );
        assert_eq!(drop_in_directories(Path::new("a.volume")), ["volume.d", "a.volume.d"]);
    }
}
