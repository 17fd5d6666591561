// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Applies one layer to an existing directory, as it would be applied to the layers below it: `stos layer apply`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata as Stat};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use stos_erofs::{DataPlace, Entry, EntryKind, LayerTree, Metadata, NoSink, TarIndexer, TarSink, Timestamp, Xattr};
use stos_spec::{DiffId, DigestHasher, LayerCompression};
use stos_sys::rooted::Root;
use stos_sys::xattr;

use super::inode::as_path;
use super::layer::unpack_failure;
use super::unpack::{Orphans, UnpackError, Unpacker};
use crate::error::{Error, LayerLabel, Result};
use crate::ingest::{IngestRequest, check_diff_id, flow};
use crate::pipe::PipeReader;

/// What was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// What the uncompressed tar hashes to.
    pub diff_id: DiffId,
    /// How many entries it has.
    pub entries: u64,
    /// Its length in bytes.
    pub tar_bytes: u64,
}

/// Applies the layer that `tar` is (plain, gzip or zstd, told by its first bytes) to the directory `target`, with the meaning
/// and the safety of a pull: whiteouts remove, symlinks are followed within the directory, nothing outside is touched.
///
/// The tar is read twice, the first time to look at it: one that is refused changes nothing. What cannot be read twice, a
/// pipe, is kept meanwhile in a file without a name on the directory's filesystem. Only a disk that fails later leaves a part
/// of the layer behind, and the error says so.
///
/// # Errors
/// As a pull's, of the layer that `label` names.
pub fn apply_tar(target: &Path, tar: impl Read + AsFd, label: &LayerLabel) -> Result<Applied> {
    let mut tar = seekable(target, tar, label)?;
    let root = Root::open(target)?;
    let existing = Existing::read(&root)?;
    let compression = compression_of(&mut tar, label)?;
    let request = IngestRequest { label, blob: None, compression, diff_id: None, max_size: u64::MAX, reserve: 0 };
    let looked = pass(request, &mut tar, || Ok(Look { tree: existing.tree()? }), |_| Ok(()))?;
    tar.seek(SeekFrom::Start(0)).map_err(Error::io("read again", target))?;
    let request = IngestRequest { diff_id: Some(looked.diff_id), ..request };
    let begin = || Ok(Unpacker::new(root, existing.tree()?, Orphans::Drop, io::sink()));
    let applied = pass(request, &mut tar, begin, |unpacker| {
        unpacker.finish()?;
        Ok(())
    });
    applied.map_err(|error| Error::HalfApplied { target: target.to_owned(), source: Box::new(error) })
}

/// Lets the tar flow into a sink.
fn pass<S: TarSink + Send>(
    request: IngestRequest<'_>,
    tar: &mut File,
    begin: impl FnOnce() -> Result<S> + Send,
    end: impl FnOnce(S) -> Result<()> + Send,
) -> Result<Applied> {
    let write = |from: &PipeReader| {
        let refuse = |error| unpack_failure(request, Path::new("layer.index"), error);
        let mut indexer = TarIndexer::with_sink(io::sink(), begin()?);
        let mut hasher = DigestHasher::default();
        while let Some(buffer) = from.next_buffer() {
            indexer.push(&buffer).map_err(refuse)?;
            hasher.update(&buffer);
            from.give_back(buffer);
        }
        let indexed = indexer.finish().map_err(refuse)?;
        end(indexed.sink)?;
        let (entries, tar_bytes) = (indexed.summary.entries, indexed.summary.tar_bytes);
        Ok(Applied { diff_id: DiffId::from_bytes(hasher.finish()), entries, tar_bytes })
    };
    let (_, applied) = flow(request, tar, &|_| {}, write)?;
    // What was read is what was looked at.
    check_diff_id(request, applied.diff_id)?;
    Ok(applied)
}

/// Looks at what each entry would do, and does nothing.
struct Look {
    tree: LayerTree,
}

impl TarSink for Look {
    fn entry(&mut self, number: u64, entry: &Entry) -> io::Result<()> {
        let applied: std::result::Result<(), UnpackError> = self.tree.apply(number, entry, |_| Ok(()));
        applied.map_err(io::Error::other)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        NoSink.data(offset, bytes)
    }

    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        NoSink.raw(bytes)
    }
}

/// Gives the tar as a file that can be read twice, from where it stands now.
fn seekable(target: &Path, tar: impl Read + AsFd, label: &LayerLabel) -> Result<File> {
    let broken = |source| Error::Source { layer: label.clone(), source };
    let position = rustix::fs::seek(&tar, rustix::fs::SeekFrom::Current(0));
    if position == Ok(0) {
        // A file, at its start. Opened anew where that is possible; a descriptor of its own does as well.
        return Ok(File::from(tar.as_fd().try_clone_to_owned().map_err(broken)?));
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let spool = rustix::fs::open(target, flags, Mode::RUSR | Mode::WUSR);
    let mut spool = File::from(spool.map_err(Error::io("make a file without a name in", target))?);
    let mut tar = tar;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match tar.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => spool.write_all(&buffer[..count]).map_err(Error::io("keep the tar in", target))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
    }
    spool.rewind().map_err(Error::io("read again", target))?;
    Ok(spool)
}

/// Tells a compression by the first bytes (RFC 1952 §2.3.1; RFC 8878 §3.1.1, §3.1.2), and stands at the start again.
fn compression_of(tar: &mut File, label: &LayerLabel) -> Result<LayerCompression> {
    let broken = |source| Error::Source { layer: label.clone(), source };
    let mut magic = Vec::new();
    Read::by_ref(tar).take(4).read_to_end(&mut magic).map_err(broken)?;
    tar.rewind().map_err(broken)?;
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => LayerCompression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => LayerCompression::Zstd,
        _ => LayerCompression::None,
    })
}

/// What a directory holds before a layer is applied to it.
struct Existing {
    entries: Vec<Entry>,
}

impl Existing {
    /// Reads the names below `root`, parents first, without following a symlink.
    fn read(root: &Root) -> Result<Self> {
        let mut existing = Self { entries: Vec::new() };
        let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        let mut pending = vec![Vec::new()];
        while let Some(path) = pending.pop() {
            let dir = root.open_directory(as_path(&path))?;
            let place = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            let file = File::from(dir);
            existing
                .entries
                .push(Entry { path: path.clone(), kind: EntryKind::Directory(directory_metadata(&file, &path)?) });
            for name in fs::read_dir(&place).map_err(Error::io("list", &place))? {
                let name = name.map_err(Error::io("list", &place))?.file_name().into_vec();
                let stat = fs::symlink_metadata(place.join(OsStr::from_bytes(&name)));
                let stat = stat.map_err(Error::io("stat", as_path(&name)))?;
                let child = if path.is_empty() { name.clone() } else { [&path, b"/".as_slice(), &name].concat() };
                if stat.is_dir() {
                    pending.push(child);
                    continue;
                }
                let kind = match links.get(&(stat.dev(), stat.ino())) {
                    Some(first) => EntryKind::HardLink { target: first.clone() },
                    None => kind_of(&stat, &place.join(OsStr::from_bytes(&name)))?,
                };
                if stat.nlink() > 1 {
                    links.entry((stat.dev(), stat.ino())).or_insert_with(|| child.clone());
                }
                existing.entries.push(Entry { path: child, kind });
            }
        }
        Ok(existing)
    }

    fn tree(&self) -> Result<LayerTree> {
        let mut tree = LayerTree::in_place();
        // Directories first: a hard link's target may stand in one that comes later.
        for is_link in [false, true] {
            let wanted = |entry: &&Entry| matches!(entry.kind, EntryKind::HardLink { .. }) == is_link;
            for entry in self.entries.iter().filter(wanted) {
                tree.add_existing(entry).map_err(|source| Error::Tar {
                    layer: LayerLabel::Origin("the existing directory".to_owned()),
                    source,
                })?;
            }
        }
        Ok(tree)
    }
}

/// What stands at a name, as far as an entry after it asks.
fn kind_of(stat: &Stat, path: &Path) -> Result<EntryKind> {
    let metadata = Metadata::default();
    let kind = stat.file_type();
    Ok(if kind.is_file() {
        EntryKind::Regular { metadata, size: 0, place: DataPlace::Tar, block: 0 }
    } else if kind.is_symlink() {
        let target = fs::read_link(path).map_err(Error::io("read the symlink", path))?;
        EntryKind::Symlink { metadata, target: target.into_os_string().into_vec() }
    } else {
        debug_assert!(kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device());
        EntryKind::Fifo(metadata)
    })
}

/// What a directory gets back when something in it has changed.
fn directory_metadata(directory: &File, path: &[u8]) -> Result<Metadata> {
    let stat = directory.metadata().map_err(Error::io("stat", "a directory"))?;
    let mut all = Vec::new();
    for name in xattr::list(directory)? {
        if let Some(value) = xattr::get(directory, &name)? {
            all.push((name.into_bytes(), value));
        }
    }
    Ok(Metadata {
        mode: (stat.mode() & 0o7777) as u16,
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: Timestamp { seconds: stat.mtime(), nanoseconds: stat.mtime_nsec() as u32 },
        xattrs: Xattr::of_file(all).map_err(|problem| {
            Error::io("keep the extended attributes of", as_path(path))(io::Error::other(problem))
        })?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use stos_testkit::tar_builder::{Entry as Item, TarBuilder};

    use super::*;

    fn label() -> LayerLabel {
        LayerLabel::Origin("the tar".to_owned())
    }

    /// Applies a tar that comes as a file, or through a pipe.
    fn apply(target: &Path, tar: &[u8], is_pipe: bool) -> Result<Applied> {
        if !is_pipe {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(tar).unwrap();
            file.rewind().unwrap();
            return apply_tar(target, file, &label());
        }
        let (reader, mut writer) = io::pipe().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || drop(writer.write_all(tar)));
            apply_tar(target, reader, &label())
        })
    }

    fn target() -> tempfile::TempDir {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir_all(dir.path().join("root/usr/bin")).unwrap();
        fs::write(dir.path().join("root/usr/bin/old"), "old").unwrap();
        fs::write(dir.path().join("outside"), "outside").unwrap();
        symlink("usr/bin", dir.path().join("root/bin")).unwrap();
        symlink(dir.path().join("outside"), dir.path().join("root/out")).unwrap();
        dir
    }

    #[test]
    fn a_layer_is_applied_to_what_is_there() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let tar = TarBuilder::new()
            .entry(Item::file("bin/new", "new").mode(0o750))
            .whiteout("usr/bin/old")
            .entry(Item::hard_link("link", "bin/new"))
            .entry(Item::file("out", "a file now"))
            .finish();
        for is_pipe in [false, true] {
            let dir = target();
            let root = dir.path().join("root");
            let before = fs::metadata(root.join("usr/bin")).unwrap();
            let applied = apply(&root, &tar, is_pipe).unwrap();
            assert_eq!((applied.entries, applied.diff_id), (4, DiffId::of(&tar)));
            assert_eq!(fs::read(root.join("usr/bin/new")).unwrap(), b"new");
            assert_eq!(
                fs::metadata(root.join("link")).unwrap().ino(),
                fs::metadata(root.join("bin/new")).unwrap().ino()
            );
            assert!(!root.join("usr/bin/old").exists());
            assert_eq!(fs::read(root.join("out")).unwrap(), b"a file now");
            assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"outside");
            // The layer says nothing of this directory.
            let after = fs::metadata(root.join("usr/bin")).unwrap();
            assert_eq!(
                (after.mtime(), after.mtime_nsec(), after.mode()),
                (before.mtime(), before.mtime_nsec(), before.mode())
            );
        }
    }

    #[test]
    fn a_compressed_layer_is_told_by_its_first_bytes() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let tar = TarBuilder::new().entry(Item::file("new", "new")).finish();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        for compressed in [gzip.finish().unwrap(), zstd::encode_all(&tar[..], 3).unwrap()] {
            for is_pipe in [false, true] {
                let dir = target();
                let applied = apply(&dir.path().join("root"), &compressed, is_pipe).unwrap();
                assert_eq!((applied.diff_id, applied.tar_bytes), (DiffId::of(&tar), tar.len() as u64));
                assert_eq!(fs::read(dir.path().join("root/new")).unwrap(), b"new");
            }
        }
    }

    #[test]
    fn a_refused_layer_changes_nothing() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let good = || TarBuilder::new().entry(Item::file("new", "new"));
        let mut cut = good().entry(Item::file("big", vec![1; 9000])).finish();
        cut.truncate(5000);
        let cases = [
            ("a parent that is a file", good().entry(Item::file("usr/bin/old/x", "")).finish()),
            ("a link to nothing", good().entry(Item::hard_link("l", "none")).finish()),
            ("a parent component", good().entry(Item::file("../x", "")).finish()),
            ("cut", cut),
        ];
        for (case, tar) in cases {
            for is_pipe in [false, true] {
                let dir = target();
                let error = apply(&dir.path().join("root"), &tar, is_pipe).unwrap_err();
                assert!(matches!(error, Error::Tar { .. }) && error.to_string().contains("the tar"), "{case}: {error}");
                let mut names: Vec<_> =
                    fs::read_dir(dir.path().join("root")).unwrap().map(|e| e.unwrap().file_name()).collect();
                names.sort();
                assert_eq!(names, ["bin", "out", "usr"], "{case}");
            }
        }
        let dir = target();
        let error = apply(&dir.path().join("none"), &good().finish(), false).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
