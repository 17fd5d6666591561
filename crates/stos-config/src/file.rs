// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reading files of bounded size, and listing directories of bounded length.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::Error;

/// The most bytes of a configuration file, of a file of credentials, of a policy, of a certificate or key.
pub const FILE_MAX: u64 = 1 << 20;
/// The most files that are read of one directory.
pub const FILES_MAX: usize = 1000;

/// Reads a file that may be missing. The bytes are overwritten when they are dropped: they may hold secrets.
///
/// # Errors
/// Where it cannot be read, is no regular file (a FIFO would be waited for), or is larger than [`FILE_MAX`].
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    // A dangling symlink is missing too, as it is for open(2).
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    if !found.is_file() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    read_any(path)
}

/// As [`read`], of a file that the user has named: a pipe is fine (`--authfile <(…)`), a directory is not.
pub(crate) fn read_named(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    if path.is_dir() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    read_any(path)
}

fn read_any(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Error::TooLarge { path: path.to_owned(), limit: FILE_MAX });
    }
    Ok(Some(bytes))
}

/// A path through a file (ENOTDIR) names nothing either.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Lists what in a directory has a suffix and is no directory, in the order of bytes. A missing directory has nothing.
pub(crate) fn list(directory: &Path, suffixes: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map_or(&[][..], OsStr::as_bytes);
        if suffixes.iter().any(|suffix| name.ends_with(suffix.as_bytes())) && !path.is_dir() {
            if files.len() == FILES_MAX {
                return Err(Error::TooManyFiles { directory: directory.to_owned(), limit: FILES_MAX });
            }
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_kinds_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        assert!(read(&path).unwrap().is_none() && read(&path.join("below")).unwrap().is_none());
        fs::write(&path, vec![b'#'; FILE_MAX as usize]).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().len() as u64, FILE_MAX);
        assert!(read(&path.join("below")).unwrap().is_none());
        fs::write(&path, vec![b'#'; FILE_MAX as usize + 1]).unwrap();
        assert!(matches!(read(&path), Err(Error::TooLarge { limit: FILE_MAX, .. })));
        assert!(matches!(read(directory.path()), Err(Error::NotAFile { .. })));
        assert!(matches!(read_named(directory.path()), Err(Error::NotAFile { .. })));
        // It never ends, and no one waits for it.
        assert!(matches!(read(Path::new("/dev/zero")), Err(Error::NotAFile { .. })));
        assert!(matches!(read_named(Path::new("/dev/zero")), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(read(&path), Err(Error::NotAFile { .. })));
    }

    #[test]
    fn lists_are_sorted_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(list(&directory.path().join("none"), &[".conf"]).unwrap(), [] as [PathBuf; 0]);
        for name in ["b.conf", "a.conf", "10.conf", "x.conf.bak"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        fs::create_dir(directory.path().join("d.conf")).unwrap();
        let names = |files: Vec<PathBuf>| -> Vec<String> {
            files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(list(directory.path(), &[".conf"]).unwrap()), ["10.conf", "a.conf", "b.conf"]);
        for number in 0..FILES_MAX {
            fs::write(directory.path().join(format!("{number}.conf")), "").unwrap();
        }
        assert!(matches!(list(directory.path(), &[".conf"]), Err(Error::TooManyFiles { .. })));
    }
}
