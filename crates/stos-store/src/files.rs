// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Small files, whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Whether a write must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// fsynced before it is relied on.
    Durable,
    /// Not synced: for what goes with its process.
    Volatile,
}

/// Makes the directory `path`, mode 0700, and those above it, unless they are there.
pub fn ensure_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("create the directory", path))
}

/// Creates a new file, mode 0600, to write to.
pub fn create_new(path: &Path) -> Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(Error::io("create", path))
}

/// Writes a new file, mode 0600, in a directory that nobody else sees yet.
pub fn write_new(path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    write_to(&mut create_new(path)?, path, bytes, durability)
}

fn write_to(file: &mut File, path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    file.write_all(bytes).map_err(Error::io("write", path))?;
    if durability == Durability::Durable {
        file.sync_all().map_err(Error::io("sync", path))?;
    }
    Ok(())
}

/// Makes a file in `scratch` and holds it locked until it is closed: what nobody holds there a sweep removes.
pub(crate) fn create_held(scratch: &Path) -> Result<(PathBuf, File)> {
    loop {
        let path = scratch.join(unique_name());
        let file = create_new(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A sweep may take the file before it is locked: then there is nothing to lose, and we begin anew.
            Ok(()) if file.metadata().map_err(Error::io("stat", &path))?.nlink() == 0 => {}
            Ok(()) => return Ok((path, file)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(errno) => return Err(Error::io("lock", &path)(errno)),
        }
    }
}

/// Replaces or makes the file `path` by a rename, so that a reader sees the old or the new contents and nothing between.
///
/// `scratch` is a directory of the same filesystem for the file until it is whole.
pub fn replace(path: &Path, scratch: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    let (temporary, mut file) = create_held(scratch)?;
    let written = write_to(&mut file, &temporary, bytes, durability)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("rename a file to", path)));
    if let Err(error) = written {
        // The rename did not happen: what is left is ours alone. If even this fails the sweep takes it.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    match durability {
        Durability::Durable => sync_parent(path),
        Durability::Volatile => Ok(()),
    }
}

/// Moves `from` to `to`, which must not exist (`RENAME_NOREPLACE`).
pub fn rename_new(from: &Path, to: &Path) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
}

/// Makes the name of `path` durable.
pub fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    sync_directory(parent)
}

/// Makes the names in the directory `path` durable.
pub fn sync_directory(path: &Path) -> Result<()> {
    stos_sys::sync::sync_directory(path).map_err(Error::io("sync the directory", path))
}

/// Makes the files that lie in `directory` durable, those in directories below it not.
pub fn sync_files_in(directory: &Path) -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        let path = entry.path();
        if entry.file_type().map_err(Error::io("stat", &path))?.is_file() {
            paths.push(path);
        }
    }
    sync_files(paths)
}

/// Makes files durable.
///
/// Writing all of them begins before any is waited for: then a filesystem with a journal commits once, not once a file.
pub fn sync_files(paths: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    let mut files = Vec::new();
    for path in paths {
        let file = open(&path)?;
        stos_sys::sync::start_write_behind(&file, 0, 0);
        files.push((path, file));
    }
    files.iter().try_for_each(|(path, file)| file.sync_all().map_err(Error::io("sync", path)))
}

/// Makes everything durable that is on the filesystem of `directory` (syncfs(2)): for whole trees.
pub fn sync_filesystem_of(directory: &Path) -> Result<()> {
    rustix::fs::syncfs(open(directory)?).map_err(Error::io("sync the filesystem of", directory))
}

/// The largest record that is read, in bytes: an index of a hundred thousand images has less. Tests reach a smaller one.
const RECORD_MAX: u64 = if cfg!(test) { 1 << 20 } else { 256 << 20 };

/// Reads a file whole, unless it has more than `max` bytes, which is damage. `None` where there is none.
pub fn read_bounded(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let size = file.metadata().map_err(Error::io("stat", path))?.len();
    if size > max {
        return Err(Error::Damaged {
            path: path.to_owned(),
            reason: format!("expected at most {max} bytes, found {size}"),
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(Some(bytes))
}

/// Reads a JSON file. `None` where there is none; what is not the JSON that it should be is damage.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read_bounded(path, RECORD_MAX)? else { return Ok(None) };
    let damaged = |error: serde_json::Error| Error::Damaged { path: path.to_owned(), reason: error.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Gives a value as JSON for people and programs: indented, one newline at the end.
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    // Our records are plain structs with string keys: they always have a JSON form.
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_else(|error| format!("{error:?}").into_bytes());
    bytes.push(b'\n');
    bytes
}

/// Gives a value as [`to_json`] does, for the file `path`.
///
/// # Errors
/// [`Error::RecordTooLarge`] for more than [`read_json`] takes.
pub fn to_record<T: Serialize + ?Sized>(value: &T, path: &Path) -> Result<Vec<u8>> {
    let bytes = to_json(value);
    match bytes.len() as u64 > RECORD_MAX {
        true => Err(Error::RecordTooLarge { path: path.to_owned(), max: RECORD_MAX, found: bytes.len() as u64 }),
        false => Ok(bytes),
    }
}

/// Gives a value as JSON on one line, for records that are long and read at each create.
pub fn to_json_line<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    // As above: our records always have a JSON form.
    let mut bytes = serde_json::to_vec(value).unwrap_or_else(|error| format!("{error:?}").into_bytes());
    bytes.push(b'\n');
    bytes
}

/// How many levels of a tree are removed by path before what lies deeper is moved up: 12 names of 255 bytes stay well
/// below `PATH_MAX`.
const REMOVE_DEPTH: usize = 12;

/// Removes a tree that nobody else changes. What is not there is removed already.
///
/// A container may have left directories nested thousands deep: what lies deeper than [`REMOVE_DEPTH`] levels is moved up
/// to the top first, so neither the stack, nor descriptors, nor the length of a path can run out.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if !metadata.is_dir() => return remove_file(path),
        _ => {}
    }
    while empty_directory(path, path, 0)? {}
    fs::remove_dir(path).map_err(Error::io("remove", path))
}

/// Empties `directory`; `true` says that something was moved to `top` and is still to be removed.
fn empty_directory(directory: &Path, top: &Path, depth: usize) -> Result<bool> {
    let mut moved = false;
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        let path = entry.path();
        if !entry.file_type().map_err(Error::io("stat", &path))?.is_dir() {
            remove_file(&path)?;
        } else if depth == REMOVE_DEPTH {
            fs::rename(&path, top.join(unique_name())).map_err(Error::io("move up", &path))?;
            moved = true;
        } else {
            moved |= empty_directory(&path, top, depth + 1)?;
            fs::remove_dir(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(moved)
}

/// Removes a file. What is not there is removed already.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Opens a file for reading.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(Error::io("open", path))
}

/// Lists the names in a directory, sorted; those that are not UTF-8 are none of ours and left out. None where it is not there.
pub fn list_names(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", path))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// Gives 128 random bits as hexadecimal digits.
pub fn unique_name() -> String {
    random_hex::<16>()
}

/// Gives `N` random bytes as hexadecimal digits.
pub fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // Blocks until the kernel has entropy, and is interrupted only by signals.
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_is_whole_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        replace(&path, dir.path(), b"one", Durability::Durable).unwrap();
        replace(&path, dir.path(), b"two", Durability::Volatile).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        // A directory cannot be replaced by a file: the error names it and nothing is left over.
        let occupied = dir.path().join("directory");
        ensure_directory(&occupied.join("x")).unwrap();
        let error = replace(&occupied, dir.path(), b"x", Durability::Volatile).unwrap_err();
        assert!(error.to_string().contains("directory"), "{error}");
        assert_eq!(list_names(dir.path()).unwrap(), ["directory", "record"]);
    }

    #[test]
    fn json_that_is_none_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), None);
        fs::write(&path, to_json(&[1, 2])).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), Some(vec![1, 2]));
        fs::write(&path, b"").unwrap();
        assert!(matches!(read_json::<Vec<u8>>(&path), Err(Error::Damaged { .. })));
    }

    #[test]
    fn what_is_too_large_is_damage_and_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert_eq!(read_bounded(&path, 3).unwrap(), None);
        fs::write(&path, b"abc").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap().unwrap(), b"abc");
        assert!(matches!(read_bounded(&path, 2), Err(Error::Damaged { .. })));
        // Holes cost no disk, and would cost memory.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(read_json::<Vec<u8>>(&path), Err(Error::Damaged { .. })));
        assert!(read_bounded(Path::new("/proc/self/mem"), 3).is_err(), "what cannot be read is told");
    }

    #[test]
    fn removing_what_is_gone_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        remove_tree(&dir.path().join("none")).unwrap();
        remove_file(&dir.path().join("none")).unwrap();
        assert!(remove_file(dir.path()).is_err());
        assert_eq!(list_names(&dir.path().join("none")).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_tree_of_any_depth_is_removed_and_symlinks_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::write(&kept, b"x").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        std::os::unix::fs::symlink(dir.path(), tree.join("link")).unwrap();
        // Longer than any path may be: built from the inside out.
        let name = "n".repeat(255);
        fs::create_dir(dir.path().join("inner")).unwrap();
        for _ in 0..3000 {
            fs::create_dir(dir.path().join("outer")).unwrap();
            fs::rename(dir.path().join("inner"), dir.path().join("outer").join(&name)).unwrap();
            fs::rename(dir.path().join("outer"), dir.path().join("inner")).unwrap();
        }
        fs::rename(dir.path().join("inner"), tree.join("deep")).unwrap();
        remove_tree(&tree).unwrap();
        assert_eq!(list_names(dir.path()).unwrap(), ["kept"]);
    }

    #[test]
    fn what_is_to_last_is_there_or_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"x").unwrap();
        ensure_directory(&dir.path().join("directory")).unwrap();
        std::os::unix::fs::symlink("/no/where", dir.path().join("link")).unwrap();
        sync_files_in(dir.path()).unwrap();
        sync_filesystem_of(dir.path()).unwrap();
        let none = dir.path().join("none");
        for error in [sync_files_in(&none).unwrap_err(), sync_filesystem_of(&none).unwrap_err()] {
            assert!(error.to_string().contains("none"), "{error}");
        }
    }

    #[test]
    fn names_do_not_repeat() {
        assert_ne!(unique_name(), unique_name());
        assert_eq!(random_hex::<32>().len(), 64);
    }
}
