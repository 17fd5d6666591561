// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files under their names, in a directory or in an archive: what layouts and docker-archives are made of.
//!
//! No name leads out: a directory's are resolved by the kernel below its descriptor, an archive's are never paths.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use stos_spec::LayerCompression;
use stos_spec::text::{escape, shown};
use stos_sys::rooted::Root;

use super::archive::Archive;
use crate::error::{Error, Result};

/// Where the files are.
pub(crate) enum Files {
    /// A directory.
    Directory(Root, PathBuf),
    /// A tar.
    Archive(Archive),
}

impl Files {
    /// Takes a directory that is open, and what people call it.
    pub fn of_directory(directory: File, path: PathBuf) -> Self {
        Self::Directory(Root::new(directory.into()), path)
    }

    /// Gives what people call it.
    pub fn label(&self) -> String {
        match self {
            Self::Directory(_, path) => path.display().to_string(),
            Self::Archive(archive) => archive.label().to_owned(),
        }
    }

    /// Opens a file; `None` where there is none.
    pub fn find(&self, name: &str) -> Result<Option<SourceFile>> {
        match self {
            Self::Archive(archive) => archive.find(name),
            Self::Directory(root, _) => {
                if name.split('/').any(|part| part == "..") || name.starts_with('/') {
                    return Err(self.bad(name, "a path within it", "one that leads out"));
                }
                let fd = match root.open_to_read(Path::new(name)) {
                    Ok(fd) => fd,
                    Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                    Err(error) => return Err(error.into()),
                };
                let file = File::from(fd);
                let metadata = file.metadata().map_err(|error| self.unreadable(name, &error))?;
                if !metadata.is_file() {
                    return Err(self.bad(name, "a regular file", "another kind"));
                }
                Ok(Some(SourceFile { file: Arc::new(file), at: 0, left: metadata.len() }))
            }
        }
    }

    /// Opens a file that must be there.
    pub fn open(&self, name: &str) -> Result<SourceFile> {
        self.find(name)?.ok_or_else(|| self.bad(name, "a file", "none"))
    }

    /// Reads a document of at most `max` bytes.
    pub fn read(&self, name: &str, max: u64) -> Result<Vec<u8>> {
        let mut file = self.open(name)?;
        if file.size() > max {
            return Err(self.bad(name, format!("at most {max} bytes"), format!("{} bytes", file.size())));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| self.unreadable(name, &error))?;
        Ok(bytes)
    }

    /// Tells how a layer's file is compressed; `name` is what it is called.
    pub fn compression(&self, name: &str, file: &SourceFile) -> Result<LayerCompression> {
        let magic = file.magic().map_err(|error| self.unreadable(name, &error))?;
        compression_of(&magic).map_err(|Unsupported(found)| {
            self.bad(name, "a layer that is plain, or compressed with gzip or zstd", format!("one in {found}"))
        })
    }

    /// Says what is wrong with a file.
    pub fn bad(&self, member: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        bad_archive(&self.label(), member, expected, found)
    }

    fn unreadable(&self, member: &str, error: &io::Error) -> Error {
        self.bad(member, "a file that can be read", error.to_string())
    }
}

/// Says what is wrong with a member of an archive, or a file of a layout.
pub(crate) fn bad_archive(archive: &str, member: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
    // Names and values are the archive's: they may hold what moves a terminal's cursor.
    Error::BadArchive {
        archive: archive.to_owned(),
        member: shown(member),
        expected: escape(&expected.into()).into_owned(),
        found: escape(&found.into()).into_owned(),
    }
}

/// A file of a source, or a part of one: read once, from its start. A copy begins where it stands.
#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl SourceFile {
    /// Takes `size` bytes of `file` from `at`.
    pub fn part(file: Arc<File>, at: u64, size: u64) -> Self {
        Self { file, at, left: size }
    }

    /// Gives how many bytes are left.
    pub fn size(&self) -> u64 {
        self.left
    }

    /// Gives its first bytes, for [`compression_of`]. Reads none of them away.
    fn magic(&self) -> io::Result<Vec<u8>> {
        let mut magic = Vec::new();
        self.clone().take(MAGIC_MAX).read_to_end(&mut magic)?;
        Ok(magic)
    }
}

/// How many bytes [`compression_of`] looks at.
pub(crate) const MAGIC_MAX: u64 = 10;

/// A compression that stos knows by sight alone: the name of its format, which is its tool's too.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsupported(pub &'static str);

/// Tells by the first bytes of a stream how it is compressed (RFC 1952 §2.3.1, RFC 8878 §3.1.1; .xz format §2.1.1.1; bzip2's
/// header, and the π or √π of its first block). No tar begins so.
pub(crate) fn compression_of(magic: &[u8]) -> std::result::Result<LayerCompression, Unsupported> {
    match magic {
        [0x1f, 0x8b, ..] => Ok(LayerCompression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(LayerCompression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(Unsupported("xz")),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
        | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Err(Unsupported("bzip2")),
        _ => Ok(LayerCompression::None),
    }
}

impl Read for SourceFile {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let count = self.file.read_at(&mut into[..most], self.at)?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has been cut short"));
        }
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("secret"), b"s").unwrap();
        std::fs::write(dir.path().join("in/a"), b"0123456789").unwrap();
        for (target, link) in [("../secret", "out"), ("/etc/passwd", "absolute"), ("a", "inner"), ("loop", "loop")] {
            std::os::unix::fs::symlink(target, dir.path().join("in").join(link)).unwrap();
        }
        let path = dir.path().join("in");
        let files = Files::of_directory(File::open(&path).unwrap(), path);
        (dir, files)
    }

    #[test]
    fn nothing_leads_out_of_a_directory() {
        let (_dir, files) = directory();
        assert_eq!(files.read("a", 10).unwrap(), b"0123456789");
        assert_eq!(files.read("inner", 10).unwrap(), b"0123456789");
        for name in ["none", "a/b", "out", "absolute"] {
            assert!(files.find(name).unwrap().is_none(), "{name}");
        }
        for name in ["../secret", "/etc/passwd", "x/../../secret", "."] {
            assert!(matches!(files.find(name), Err(Error::BadArchive { .. })), "{name}");
        }
        assert!(matches!(files.find("loop"), Err(Error::Sys(_))));
        assert!(matches!(files.open("none"), Err(Error::BadArchive { found, .. }) if found == "none"));
        assert!(matches!(files.read("a", 9), Err(Error::BadArchive { found, .. }) if found == "10 bytes"));
    }

    #[test]
    fn a_part_is_read_from_its_start_and_a_cut_file_says_so() {
        let (_dir, files) = directory();
        let file = files.open("a").unwrap().file;
        let mut text = String::new();
        SourceFile::part(file.clone(), 2, 3).read_to_string(&mut text).unwrap();
        assert_eq!(text, "234");
        let error = SourceFile::part(file, 8, 3).read_to_string(&mut text).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn compression_is_seen_in_the_first_bytes() {
        for (magic, expected) in [
            (&b"\x1f\x8b\x08\0"[..], Ok(LayerCompression::Gzip)),
            (b"\x28\xb5\x2f\xfd", Ok(LayerCompression::Zstd)),
            (b"etc/", Ok(LayerCompression::None)),
            (b"\x1f", Ok(LayerCompression::None)),
            (b"", Ok(LayerCompression::None)),
            (b"\xfd7zXZ\0\0\x04\xe6\xd6", Err(Unsupported("xz"))),
            (b"BZh91AY&SY", Err(Unsupported("bzip2"))),
            (b"BZh9\x17\x72\x45\x38\x50\x90", Err(Unsupported("bzip2"))),
            (b"BZh9/a/file", Ok(LayerCompression::None)),
        ] {
            assert_eq!(compression_of(magic), expected, "{magic:?}");
        }
    }
}
