// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a user hands in: a directory, an archive, a stream; compressed as a whole, or not.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use stos_spec::LayerCompression;
use stos_store::{Staging, Store, files};

use super::archive::Archive;
use super::files::{Files, MAGIC_MAX, Unsupported, compression_of};
use crate::Engine;
use crate::error::{Error, Result};

/// How much is written between two looks at the disk, in bytes.
const ROOM_STEP: u64 = 64 << 20;
/// The share of the free disk that a copy leaves to others: one part in so many.
const RESERVE_PARTS: u64 = 10;

/// Images in files.
#[derive(Debug)]
pub enum ImageInput {
    /// A directory or a file.
    Path(PathBuf),
    /// A stream, such as standard input, and what people call it.
    Stream(File, String),
}

/// An input that is open, and the copy of it that goes with this.
pub(crate) struct OpenInput {
    pub files: Files,
    /// The path that the policy knows the input by; that of a stream is empty.
    pub path: PathBuf,
    /// Holds the copy.
    _spool: Option<Staging>,
}

impl OpenInput {
    /// Opens a directory or a tar. What is compressed, or cannot be read twice, is copied into staging first.
    pub fn open(engine: &Engine, input: ImageInput) -> Result<Self> {
        let (file, label, path) = match input {
            ImageInput::Path(given) => {
                let file = files::open(&given)?;
                let path = whereabouts(&file)?;
                if file.metadata().map_err(stos_store::Error::io("stat", &given))?.is_dir() {
                    return Ok(Self { files: Files::of_directory(file, given), path, _spool: None });
                }
                (file, given.display().to_string(), path)
            }
            ImageInput::Stream(file, label) => (file, label, PathBuf::new()),
        };
        let mut stream = RawInput::new(file, &label)?;
        if stream.compression == LayerCompression::None && stream.is_seekable {
            return Ok(Self { files: Files::Archive(Archive::scan(stream.file, &label)?), path, _spool: None });
        }
        let staged = engine.store.stage()?;
        let copy = staged.path().join("input.tar");
        let compression = stream.compression;
        spool(engine.store(), decompressed(&mut stream, compression)?, &copy, &label)?;
        Ok(Self { files: Files::Archive(Archive::scan(files::open(&copy)?, &label)?), path, _spool: Some(staged) })
    }
}

/// Gives the path of what has been opened, without symlinks: what lies at the name that was given may be something else by now. Empty
/// for what has none: a pipe that `/dev/stdin` leads to, a file that has been removed.
fn whereabouts(file: &File) -> Result<PathBuf> {
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let metadata = file.metadata().map_err(stos_store::Error::io("stat", &link))?;
    if metadata.nlink() == 0 || !(metadata.is_file() || metadata.is_dir()) {
        return Ok(PathBuf::new());
    }
    Ok(std::fs::read_link(&link).map_err(stos_store::Error::io("read the link", &link))?)
}

/// A stream of which the first bytes have been looked at.
pub(crate) struct RawInput {
    magic: io::Cursor<Vec<u8>>,
    file: File,
    /// How it is compressed.
    pub compression: LayerCompression,
    /// Whether the file can be read from its start, which is where the stream begins.
    is_seekable: bool,
}

impl RawInput {
    /// Looks at the first bytes of a stream; `label` is what people call it.
    ///
    /// # Errors
    /// [`Error::UnsupportedCompression`] for what stos does not decompress.
    pub fn new(mut file: File, label: &str) -> Result<Self> {
        let refuse = |error| stos_store::Error::io("read", label)(error);
        let metadata = file.metadata().map_err(refuse)?;
        let is_seekable = metadata.is_file() && file.stream_position().map_err(refuse)? == 0;
        let mut magic = Vec::new();
        (&mut file).take(MAGIC_MAX).read_to_end(&mut magic).map_err(refuse)?;
        let compression = compression_of(&magic)
            .map_err(|Unsupported(format)| Error::UnsupportedCompression { input: label.to_owned(), format })?;
        Ok(Self { magic: io::Cursor::new(magic), file, compression, is_seekable })
    }

    /// Tells whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.magic.get_ref().is_empty()
    }
}

impl Read for RawInput {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.magic.read(into)? {
            0 => self.file.read(into),
            count => Ok(count),
        }
    }
}

/// Decompresses what an archive as a whole is compressed with. A zstd window is at most 128 MiB, as for zstd(1).
pub(crate) fn decompressed<'a>(source: impl Read + 'a, compression: LayerCompression) -> Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        LayerCompression::None => Box::new(source),
        LayerCompression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(source)),
        LayerCompression::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(source);
            Box::new(decoder.map_err(stos_store::Error::io("begin", "a zstd stream"))?)
        }
    })
}

/// Copies a stream into a new file, and stops before the disk is full: an archive may inflate without end.
fn spool(store: &Store, mut from: impl Read, path: &Path, label: &str) -> Result<()> {
    let mut file = files::create_new(path)?;
    let mut buffer = vec![0; 256 << 10];
    let reserve = free_bytes(store)? / RESERVE_PARTS;
    let (mut written, mut looked) = (0_u64, 0_u64);
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let expected = "an archive that can be read and decompressed";
                return Err(super::files::bad_archive(label, "the whole", expected, error.to_string()));
            }
        };
        file.write_all(&buffer[..count]).map_err(stos_store::Error::io("write", path))?;
        written += count as u64;
        if written - looked >= ROOM_STEP {
            looked = written;
            let free = free_bytes(store)?;
            if free < reserve {
                let layer = stos_layerfs::LayerLabel::Origin(label.to_owned());
                return Err(Error::Layers(stos_layerfs::Error::NoRoom { layer, written, free, reserve }));
            }
        }
    }
}

fn free_bytes(store: &Store) -> Result<u64> {
    let disk = rustix::fs::statvfs(store.root()).map_err(stos_store::Error::io("measure the disk of", store.root()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::io::SeekFrom;

    use stos_testkit::tar_builder::{Entry, TarBuilder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn names_in_staging(engine: &Engine) -> usize {
        files::list_names(&engine.store().staging_area()).unwrap().len()
    }

    #[test]
    fn the_policy_s_path_is_that_of_what_was_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = std::fs::canonicalize(dir.path()).unwrap();
        let (path, link) = (at.join("a"), at.join("b"));
        std::fs::write(&path, "text").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let file = File::open(&link).unwrap();
        std::fs::remove_file(&link).unwrap();
        assert_eq!(whereabouts(&file).unwrap(), path);
        assert_eq!(whereabouts(&File::open(&at).unwrap()).unwrap(), at);
        std::fs::remove_file(&path).unwrap();
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        for nowhere in [file, File::from(pipe), File::open("/dev/null").unwrap()] {
            assert_eq!(whereabouts(&nowhere).unwrap(), PathBuf::new());
        }
    }

    #[test]
    fn what_is_compressed_or_has_no_start_is_copied_and_the_copy_goes() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap();
        let tar = TarBuilder::new().entry(Entry::file("a", "text")).finish();
        let file = |bytes: &[u8], at: u64| {
            let path = dir.path().join(files::unique_name());
            std::fs::write(&path, bytes).unwrap();
            let mut file = File::open(path).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            ImageInput::Stream(file, "input".to_owned())
        };
        let zstd = zstd::stream::encode_all(&tar[..], 1).unwrap();
        for (case, input, copies) in [
            ("plain", file(&tar, 0), 0),
            ("gzip", file(&gzip(&tar), 0), 1),
            ("two members", file(&[gzip(&tar[..700]), gzip(&tar[700..])].concat(), 0), 1),
            ("zstd", file(&zstd, 0), 1),
            ("from the middle of a file", file(&[b"head", &tar[..]].concat(), 4), 1),
        ] {
            let open = OpenInput::open(&engine, input).unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(
                (open.files.read("a", 10).unwrap(), names_in_staging(&engine)),
                (b"text".to_vec(), copies),
                "{case}"
            );
            drop(open);
            assert_eq!(names_in_staging(&engine), 0, "{case}");
        }
        for (case, input) in [
            ("gzip that is cut", file(&gzip(&tar)[..30], 0)),
            ("garbage after gzip", file(&[gzip(&tar), b"x".to_vec()].concat(), 0)),
            ("zstd that is cut", file(&zstd[..20], 0)),
            ("gzip of no tar", file(&gzip(&[b'x'; 2000]), 0)),
            ("no file", ImageInput::Path(dir.path().join("none"))),
        ] {
            assert!(OpenInput::open(&engine, input).is_err(), "{case}");
            assert_eq!(names_in_staging(&engine), 0, "{case}");
        }
    }
}
