// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Applies one layer to an existing directory, as it would be applied to the layers below it: `stos layer apply`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use stos_erofs::{Entry, LayerTree, NoSink, TarIndexer, TarSink};
use stos_spec::{DiffId, LayerCompression};
use stos_sys::rooted::Root;

use super::layer::unpack_failure;
use super::unpack::{Orphans, UnpackError, Unpacker};
use crate::error::{Error, LayerLabel, Result};
use crate::ingest::{IngestRequest, check_diff_id, check_inodes, check_room, flow};
use crate::layer_stream::LayerStream;
use crate::room::Room;
use existing::{Existing, Mounts};

mod existing;

/// How many bytes are kept between two looks at the disk's room.
const LOOK_AT_ROOM: u64 = 16 << 20;

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
/// and the safety of a pull: whiteouts remove, symlinks are followed within the directory, nothing outside is touched, whatever
/// another process does to the directory meanwhile. What is mounted below it counts as outside: a layer that changes something there
/// is refused.
///
/// The tar is read twice, the first time to look at it: one that is refused changes nothing. What cannot be read twice, a
/// pipe, is kept meanwhile in a file without a name on the directory's filesystem. Only a disk that fails later leaves a part
/// of the layer behind, and the error says so. The layer may take as much of the disk as a pull may.
///
/// What an entry describes has its attributes in the end, and no others but the host's labels and overlayfs's; nothing inherits
/// an ACL.
///
/// # Errors
/// As a pull's, of the layer that `label` names.
pub fn apply_tar(target: &Path, tar: impl Read + AsFd, label: &LayerLabel) -> Result<Applied> {
    let mut tar = seekable(target, tar, label)?;
    let root = Root::open(target)?.on_one_mount();
    let disk = File::from(root.open_directory(Path::new(""))?);
    let room = Room::of(&disk).map_err(Error::io("measure the disk of", target))?;
    let compression = compression_of(&mut tar, label)?;
    let (max_size, reserve) = (room.largest_layer(), room.reserve());
    let request = IngestRequest { label, blob: None, compression, diff_id: None, max_size, reserve };
    let disk = Disk { file: disk, path: target };
    let look = || {
        let Existing { tree, mounts } = Existing::read(&root)?;
        Ok(Look { tree, mounts })
    };
    let looked = pass(request, &disk, &mut tar, look, |_| Ok(()))?;
    tar.seek(SeekFrom::Start(0)).map_err(Error::io("read again", target))?;
    let request = IngestRequest { diff_id: Some(looked.diff_id), ..request };
    // What has changed meanwhile is seen.
    let tree = Existing::read(&root)?.tree;
    let begin = || Ok(Unpacker::new(root, tree, Orphans::Drop, io::sink()));
    let applied = pass(request, &disk, &mut tar, begin, |unpacker| {
        unpacker.finish()?;
        Ok(())
    });
    applied.map_err(|error| Error::HalfApplied { target: target.to_owned(), source: Box::new(error) })
}

/// The directory, to measure the disk that it is on.
struct Disk<'a> {
    file: File,
    path: &'a Path,
}

/// Lets the tar flow into a sink.
fn pass<S: TarSink + Send>(
    request: IngestRequest<'_>,
    disk: &Disk<'_>,
    tar: &mut File,
    begin: impl FnOnce() -> Result<S> + Send,
    end: impl FnOnce(S) -> Result<()> + Send,
) -> Result<Applied> {
    let write = |from: &mut LayerStream| {
        let refuse = |error| unpack_failure(request, Path::new("layer.index"), error);
        let mut indexer = TarIndexer::with_sink(io::sink(), begin()?);
        let mut written = 0;
        while let Some(buffer) = from.next_buffer() {
            written += buffer.len() as u64;
            if written > request.max_size {
                return Err(Error::TooLarge { layer: request.label.clone(), limit: request.max_size });
            }
            indexer.push(buffer).map_err(refuse)?;
            check_room(request, &disk.file, disk.path, written)?;
            check_inodes(request, &disk.file, disk.path)?;
        }
        let indexed = indexer.finish().map_err(refuse)?;
        end(indexed.sink)?;
        let (entries, tar_bytes) = (indexed.summary.entries, indexed.summary.tar_bytes);
        Ok((entries, tar_bytes))
    };
    let (received, (entries, tar_bytes)) = flow(request, tar, &|_| {}, write)?;
    let applied = Applied { diff_id: received.diff_id, entries, tar_bytes };
    // What was read is what was looked at.
    check_diff_id(request, applied.diff_id)?;
    Ok(applied)
}

/// Looks at what each entry would do, and does nothing.
struct Look {
    tree: LayerTree,
    mounts: Mounts,
}

impl TarSink for Look {
    fn entry(&mut self, number: u64, entry: &Entry) -> io::Result<()> {
        let Self { tree, mounts } = self;
        let applied: std::result::Result<(), UnpackError> = tree.apply(number, entry, |step| Ok(mounts.check(&step)?));
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
    let room = Room::of(&spool).map_err(Error::io("measure the disk of", target))?;
    keep(tar, &mut spool, room.reserve(), target, label)?;
    spool.rewind().map_err(Error::io("read again", target))?;
    Ok(spool)
}

/// Writes the tar into a file, and leaves the disk as much room as a pull does.
fn keep(mut tar: impl Read, spool: &mut File, reserve: u64, target: &Path, label: &LayerLabel) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let (mut written, mut looked) = (0, 0);
    loop {
        match tar.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                spool.write_all(&buffer[..count]).map_err(Error::io("keep the tar in", target))?;
                written += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Source { layer: label.clone(), source }),
        }
        if written - looked < LOOK_AT_ROOM {
            continue;
        }
        looked = written;
        let free = Room::of(&*spool).map_err(Error::io("measure the disk of", target))?.bytes;
        if free < reserve {
            return Err(Error::NoRoom { layer: label.clone(), written, free, reserve });
        }
    }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use stos_testkit::tar_builder::{Entry as Item, TarBuilder};

    use super::*;
    use crate::dirs::inode::Place;

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

    /// A filesystem of so many MiB, mounted until the test ends.
    struct Mounted(std::path::PathBuf);

    impl Mounted {
        fn new(at: &Path, size: u32) -> Self {
            let mounted = run("mount", &["-t", "tmpfs", "-o", &format!("size={size}m"), "stos-test"], at);
            assert!(mounted);
            Self(at.to_owned())
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            run("umount", &["-l"], &self.0);
        }
    }

    fn run(tool: &str, arguments: &[&str], at: &Path) -> bool {
        std::process::Command::new(tool).args(arguments).arg(at).status().is_ok_and(|status| status.success())
    }

    #[test]
    fn what_is_mounted_in_the_directory_is_not_the_layer_s() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = target();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("mnt/m")).unwrap();
        let mounted = Mounted::new(&root.join("mnt/m"), 1);
        fs::write(root.join("mnt/m/kept"), "kept").unwrap();
        let tar = |item: Item| TarBuilder::new().entry(Item::file("new", "new")).entry(item).finish();
        let cases = [
            tar(Item::file("mnt/m/x", "")),
            tar(Item::directory("mnt/m")),
            tar(Item::file("mnt", "in its place")),
            tar(Item::file("mnt/.wh.m", "")),
            tar(Item::file("mnt/.wh..wh..opq", "")),
        ];
        for (number, tar) in cases.iter().enumerate() {
            let error = apply(&root, tar, false).unwrap_err();
            assert!(error.to_string().contains("mnt/m"), "{number}: {error}");
            assert!(!root.join("new").exists(), "{number}: nothing has changed");
        }
        apply(&root, &tar(Item::file("mnt/beside", "")), false).unwrap();
        assert!(root.join("new").exists() && root.join("mnt/beside").exists());
        // One that is mounted after the look.
        let place = File::open(root.join("mnt")).unwrap();
        let place = Place { dir: place.as_fd(), name: Path::new("m"), path: b"mnt/m" };
        let place_error = Root::open(&root).unwrap().on_one_mount().open_directory(Path::new("mnt/m")).unwrap_err();
        assert_eq!(place_error.errno, rustix::io::Errno::XDEV);
        assert!(super::super::unpack::remove(place).unwrap_err().to_string().contains("mnt/m"));
        assert_eq!(fs::read(root.join("mnt/m/kept")).unwrap(), b"kept");
        drop(mounted);
    }

    #[test]
    fn a_layer_takes_no_more_of_the_disk_than_a_pull_may() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = target();
        let root = dir.path().join("root");
        let mounted = Mounted::new(&root, 48);
        let tar = TarBuilder::new().entry(Item::file("big", vec![0; 64 << 20])).finish();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let gzip = gzip.finish().unwrap();
        for is_pipe in [false, true] {
            let error = apply(&root, &gzip, is_pipe).unwrap_err();
            assert!(matches!(error, Error::TooLarge { .. }), "{error}");
            assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "it was only looked at");
        }
        let error = apply(&root, &tar, true).unwrap_err();
        assert!(matches!(error, Error::NoRoom { .. }), "{error}");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        drop(mounted);
    }

    fn attributes(path: &Path) -> Vec<String> {
        let names = stos_sys::xattr::list(File::open(path).unwrap()).unwrap();
        let mut names: Vec<_> = names.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        names.retain(|name| name != "security.selinux");
        names.sort();
        names
    }

    #[test]
    fn a_described_directory_has_its_attributes_alone_and_nothing_inherits_acls() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = target();
        let root = dir.path().join("root");
        let acl = stos_testkit::tar_builder::posix_acl(&[
            (1, 7, u32::MAX),
            (2, 7, 5),
            (4, 5, u32::MAX),
            (16, 7, u32::MAX),
            (32, 5, u32::MAX),
        ]);
        for name in ["described", "changed"] {
            fs::create_dir(root.join(name)).unwrap();
            let directory = File::open(root.join(name)).unwrap();
            for attribute in [c"system.posix_acl_default", c"system.posix_acl_access"] {
                stos_sys::xattr::set(&directory, attribute, &acl).unwrap();
            }
            for attribute in [c"user.old", c"trusted.old", c"trusted.overlay.mine"] {
                stos_sys::xattr::set(&directory, attribute, b"1").unwrap();
            }
        }
        let tar = TarBuilder::new()
            .entry(Item::directory("described").mode(0o750).xattr("user.new", b"2"))
            .entry(Item::file("described/file", "").mode(0o640))
            .entry(Item::file("changed/file", "").mode(0o640))
            .entry(Item::directory("changed/dir").mode(0o710))
            .entry(Item::fifo("changed/fifo").mode(0o620))
            .entry(Item::file("changed/implied/file", ""))
            .finish();
        apply(&root, &tar, false).unwrap();
        assert_eq!(attributes(&root.join("described")), ["trusted.overlay.mine", "user.new"]);
        let kept =
            ["system.posix_acl_access", "system.posix_acl_default", "trusted.old", "trusted.overlay.mine", "user.old"];
        assert_eq!(attributes(&root.join("changed")), kept);
        let modes = [
            ("described", 0o750),
            ("described/file", 0o640),
            ("changed/file", 0o640),
            ("changed/dir", 0o710),
            ("changed/fifo", 0o620),
            ("changed/implied", 0o755),
        ];
        for (name, mode) in modes {
            let path = root.join(name);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{name}");
            if name != "described" && name != "changed/fifo" {
                assert_eq!(attributes(&path), Vec::<String>::new(), "{name}");
            }
        }
        let fifo = rustix::fs::open(root.join("changed/fifo"), OFlags::PATH, Mode::empty()).unwrap();
        assert!(
            !stos_sys::xattr::list_by_path(&fifo).unwrap().iter().any(|name| name.to_bytes().starts_with(b"system."))
        );
    }

    /// Whatever becomes of the layer: another process exchanges a directory and a symlink all the time.
    #[test]
    fn nothing_outside_is_touched_while_another_process_swaps_names() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = target();
        let (root, outside) = (dir.path().join("root"), dir.path().join("beside"));
        fs::create_dir_all(outside.join("deep")).unwrap();
        fs::write(outside.join("deep/kept"), "kept").unwrap();
        symlink(&outside, root.join("s")).unwrap();
        let before = fs::metadata(&outside).unwrap();
        let tar = TarBuilder::new()
            .entry(Item::file("d/deep", "a file where a directory was"))
            .entry(Item::fifo("d/fifo").mode(0o4777).owner(7, 7))
            .entry(Item::symlink("d/link", "x").owner(7, 7))
            .whiteout("d/kept")
            .entry(Item::directory("d").mode(0o777).owner(7, 7))
            .finish();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                use rustix::fs::{CWD, RenameFlags, renameat_with};
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // Where one of them is missing just now there is nothing to exchange.
                    let _ = renameat_with(CWD, root.join("d"), CWD, root.join("s"), RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..60 {
                let _ = fs::create_dir_all(root.join("d/deep/more"));
                let _ = apply(&root, &tar, false);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let after = fs::metadata(&outside).unwrap();
        assert_eq!((before.mode(), before.uid(), before.ctime()), (after.mode(), after.uid(), after.ctime()));
        assert_eq!(fs::read(outside.join("deep/kept")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}
