// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers unpacked by themselves, as their trees say, and stacked by overlayfs with the corrections on top: the kernel
//! shows what it shows of the merged image.

mod fixture;

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Cursor;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fixture::Fixture;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::fs::{chownat, lsetxattr, mkfifoat, mknodat, utimensat};
use stos_erofs::{
    Correction, Entry as LayerEntry, EntryKind, Error, IndexReader, LayerInput, LayerTree, Metadata, Namespace,
    SpecialFile, Stack, Step, index_tar,
};
use stos_spec::DiffId;
use stos_sys::mount::MountPlan;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::tree::{Options, Tree};

fn tar() -> TarBuilder {
    TarBuilder::new()
}

fn at(root: &Path, path: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(path))
}

fn set_metadata(path: &Path, metadata: &Metadata, is_symlink: bool) {
    let (uid, gid) = (metadata.uid, metadata.gid);
    let owner = (Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)));
    chownat(CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    if !is_symlink {
        fs::set_permissions(path, Permissions::from_mode(u32::from(metadata.mode))).unwrap();
    }
    for xattr in &metadata.xattrs {
        assert_eq!(xattr.namespace, Namespace::Trusted, "all that this test makes");
        let name = [b"trusted.", xattr.name.as_slice()].concat();
        lsetxattr(path, name.as_slice(), &xattr.value, XattrFlags::empty()).unwrap();
    }
    let mtime = Timespec { tv_sec: metadata.mtime.seconds, tv_nsec: i64::from(metadata.mtime.nanoseconds) };
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: mtime };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn make_node(path: &Path, kind: FileType, major: u32, minor: u32) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), rustix::fs::makedev(major, minor)).unwrap();
}

fn make_opaque(path: &Path) {
    lsetxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
}

/// A layer with its own directory.
struct Unpacked {
    diff: PathBuf,
    orphans: PathBuf,
}

impl Unpacked {
    fn new(dir: &Path, tar: &[u8], index: &[u8]) -> Self {
        let unpacked = Self { diff: dir.join("diff"), orphans: dir.join("orphans") };
        fs::create_dir_all(&unpacked.diff).unwrap();
        fs::create_dir(&unpacked.orphans).unwrap();
        let tar_file = tempfile::tempfile().unwrap();
        tar_file.write_all_at(tar, 0).unwrap();
        let (mut tree, mut reader) = (LayerTree::new(), IndexReader::new(index).unwrap());
        let mut number = 0;
        while let Some(entry) = reader.next_entry().unwrap() {
            let step = |step: Step<'_>| {
                unpacked.step(number, &entry, &tar_file, step);
                Ok::<_, Error>(())
            };
            tree.apply(number, &entry, step).unwrap();
            number += 1;
        }
        for state in tree.directories() {
            let path = at(&unpacked.diff, &state.path);
            if state.opaque {
                make_opaque(&path);
            }
            set_metadata(&path, &state.metadata, false);
        }
        unpacked
    }

    fn orphan(&self, number: u64) -> PathBuf {
        self.orphans.join(number.to_string())
    }

    fn step(&self, number: u64, entry: &LayerEntry, tar: &File, step: Step<'_>) {
        let at = |path| at(&self.diff, path);
        match step {
            Step::Imply { path } => fs::create_dir(at(path)).unwrap(),
            Step::Remove { path } => match at(path).symlink_metadata().unwrap().is_dir() {
                true => fs::remove_dir_all(at(path)).unwrap(),
                false => fs::remove_file(at(path)).unwrap(),
            },
            Step::Orphan { number, path } => fs::hard_link(at(path), self.orphan(number)).unwrap(),
            Step::Unplaced { number } => create(&self.orphan(number), entry, tar),
            Step::Create { path } => {
                assert!(at(path).symlink_metadata().is_err(), "entry {number}");
                create(&at(path), entry, tar);
            }
            Step::Update { path } => assert!(at(path).is_dir()),
            Step::Link { path, target } => fs::hard_link(at(target), at(path)).unwrap(),
            Step::Whiteout { path } => make_node(&at(path), FileType::CharacterDevice, 0, 0),
            // Told of each directory in the end.
            Step::Opaque { path } => assert!(at(path).is_dir()),
        }
    }
}

fn create(path: &Path, entry: &LayerEntry, tar: &File) {
    let metadata = match &entry.kind {
        EntryKind::Directory(metadata) => {
            fs::create_dir(path).unwrap();
            metadata
        }
        EntryKind::Regular { metadata, size, block, .. } => {
            let mut data = vec![0; *size as usize];
            tar.read_exact_at(&mut data, block * stos_erofs::BLOCK).unwrap();
            fs::write(path, data).unwrap();
            metadata
        }
        EntryKind::Symlink { metadata, target } => {
            symlink(OsStr::from_bytes(target), path).unwrap();
            metadata
        }
        EntryKind::Fifo(metadata) => {
            mkfifoat(CWD, path, Mode::from_raw_mode(0o600)).unwrap();
            metadata
        }
        EntryKind::BlockDevice { metadata, major, minor } => {
            make_node(path, FileType::BlockDevice, *major, *minor);
            metadata
        }
        other => panic!("{other:?}"),
    };
    set_metadata(path, metadata, matches!(entry.kind, EntryKind::Symlink { .. }));
}

/// Makes the directory of corrections.
fn correct(root: &Path, corrections: &[Correction], layers: &[Unpacked]) {
    fs::create_dir(root).unwrap();
    for correction in corrections {
        let path = at(root, correction.path());
        match correction {
            Correction::Whiteout { .. } => make_node(&path, FileType::CharacterDevice, 0, 0),
            Correction::Directory { path: relative, .. } if relative.is_empty() => {}
            Correction::Directory { opaque, .. } => {
                fs::create_dir(&path).unwrap();
                if *opaque {
                    make_opaque(&path);
                }
            }
            Correction::Node { layer, source, .. } => fs::hard_link(at(&layers[*layer].diff, source), path).unwrap(),
            Correction::Orphan { layer, number, .. } => fs::hard_link(layers[*layer].orphan(*number), path).unwrap(),
            Correction::Make { metadata, file, .. } => {
                match file {
                    SpecialFile::Symlink(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
                    SpecialFile::Fifo => mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap(),
                    SpecialFile::BlockDevice(number) => {
                        make_node(&path, FileType::BlockDevice, number >> 8 & 0xfff, number & 0xff);
                    }
                    SpecialFile::CharacterDevice(_) => panic!("none in this test"),
                }
                set_metadata(&path, metadata, matches!(file, SpecialFile::Symlink(_)));
            }
            Correction::Link { target, .. } => fs::hard_link(at(root, target), path).unwrap(),
            Correction::Copy { .. } => panic!("no layer is there twice: {correction:?}"),
        }
    }
    for correction in corrections.iter().rev() {
        if let Correction::Directory { path, metadata, .. } = correction {
            set_metadata(&at(root, path), metadata, false);
        }
    }
}

/// Adds all layers, of which the indexes are these.
fn stack(tars: &[Vec<u8>], indexes: &[Vec<u8>]) -> Result<Stack, Error> {
    let input = |tar: &Vec<u8>| LayerInput { tag: *DiffId::of(tar).as_bytes(), tar_bytes: tar.len() as u64 };
    let mut stack = Stack::new(&tars.iter().map(input).collect::<Vec<_>>());
    indexes.iter().try_for_each(|index| stack.add_layer(index.as_slice()))?;
    Ok(stack)
}

fn indexes(tars: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Error> {
    tars.iter().map(|tar| index_tar(tar.as_slice(), Vec::new()).map(|(index, _)| index)).collect()
}

/// What overlayfs shows of the layers, and how many corrections it took.
fn stacked_tree(tars: &[TarBuilder]) -> (Tree, usize) {
    let dir = environment::scratch();
    let tars: Vec<_> = tars.iter().map(|tar| tar.clone().finish()).collect();
    let indexes = indexes(&tars).unwrap();
    let layer = |number: usize| Unpacked::new(&dir.path().join(number.to_string()), &tars[number], &indexes[number]);
    let layers: Vec<_> = (0..tars.len()).map(layer).collect();
    let stack = stack(&tars, &indexes).unwrap();
    let mut lowers: Vec<_> = stack.lowers().iter().map(|&lower| layers[lower].diff.clone()).collect();
    let corrections = stack.corrections(|layer| Ok(Cursor::new(&indexes[layer]))).unwrap();
    let corrections: Vec<_> = corrections.iter().collect();
    if !corrections.is_empty() {
        lowers.push(dir.path().join("corrections"));
        correct(lowers.last().unwrap(), &corrections, &layers);
    }
    if lowers.is_empty() {
        lowers.push(layers[0].diff.clone());
    }
    lowers.reverse();
    let mount = MountPlan { lowers, upper: None }.mount_detached().unwrap();
    let root = format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd());
    (Tree::read(Path::new(&root), &Options::default()).unwrap(), corrections.len())
}

#[test]
fn layers_that_need_those_below() {
    stos_testkit::require!(Need::Root);
    let base = tar()
        .entry(Entry::directory("").mode(0o711).mtime(7, 0))
        .entry(Entry::directory("usr").mode(0o750).owner(3, 4).mtime(5, 6).xattr("trusted.mark", b"1"))
        .entry(Entry::directory("usr/bin").mtime(8, 0))
        .entry(Entry::file("usr/bin/sh", "shell"))
        .entry(Entry::file("usr/bin/old", "old"))
        .entry(Entry::symlink("bin", "usr/bin"))
        .entry(Entry::directory("opt/app"))
        .entry(Entry::file("opt/app/lib", "library"));
    let cases = [
        (tar().entry(Entry::file("usr/bin/new", "new")), "implied parents keep their metadata"),
        (tar().entry(Entry::file("bin/new", "new")), "parents that are links below"),
        (tar().whiteout("bin/old"), "a whiteout through such a parent"),
        (tar().opaque("bin"), "an opaque marker through such a parent"),
        (tar().entry(Entry::hard_link("usr/bin/bash", "usr/bin/sh")), "a hard link to a file below"),
        (tar().entry(Entry::hard_link("usr/bin/bash", "bin/sh")).whiteout("usr/bin/sh"), "and its target goes"),
        (tar().opaque("."), "an opaque root"),
        (tar().entry(Entry::directory("d")).whiteout("d/x"), "a whiteout in a directory that no other layer has"),
        (tar().whiteout("opt").entry(Entry::file("opt/app/lib2", "2")), "a directory that is made anew"),
        (
            tar().entry(Entry::file("bin/a", "a")).entry(Entry::symlink("bin", "opt")),
            "an orphan that is seen after all",
        ),
        (
            tar().entry(Entry::fifo("bin/a")).entry(Entry::hard_link("p", "bin/a")).entry(Entry::file("bin", "")),
            "the same",
        ),
    ];
    let fixture = Fixture::new();
    for (upper, why) in cases {
        let top = tar().entry(Entry::file("top", why));
        let tars = [base.clone(), upper, top];
        let (found, corrections) = stacked_tree(&tars);
        assert!(corrections > 0, "{why}");
        let differences = fixture.tree(&tars).differences(&found);
        assert!(differences.is_empty(), "{why}: {differences:#?}");
    }
}

/// A small generator, so that a failure can be had again from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn path(&mut self) -> String {
        let names: Vec<_> = (0..=self.below(3)).map(|_| ["a", "b", "c"][self.below(3)]).collect();
        names.join("/")
    }

    fn add(&mut self, tar: TarBuilder, number: usize) -> TarBuilder {
        let path = self.path();
        let entry = match self.below(15) {
            0..=2 => Entry::directory(&path).mode(0o700 + self.below(8) as u32),
            3..=5 => Entry::file(&path, format!("content {number}")),
            6..=8 => Entry::hard_link(&path, self.path()),
            9..=10 => return tar.whiteout(&path),
            11 => return tar.opaque(&path),
            12 => Entry::fifo(&path),
            _ => Entry::symlink(&path, ["a", "/b", "..", "../b/", "c/./a", "/b/c"][self.below(6)]),
        };
        tar.entry(entry.mtime(number as i64, 1).owner(number as u64, 1))
    }
}

#[test]
fn random_layers() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let mut corrected = 0;
    for seed in 1..=40 {
        let mut random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut tars: Vec<TarBuilder> = Vec::new();
        for layer in 0..3 {
            tars.push(tar());
            for number in 0..10 {
                let mut next = tars.clone();
                next[layer] = random.add(next[layer].clone(), 10 * layer + number);
                let finished: Vec<_> = next.iter().map(|tar| tar.clone().finish()).collect();
                if stack(&finished, &indexes(&finished).unwrap()).is_ok() {
                    tars = next;
                }
            }
        }
        let (found, corrections) = stacked_tree(&tars);
        let differences = fixture.tree(&tars).differences(&found);
        assert!(differences.is_empty(), "seed {seed}: {differences:#?}");
        corrected += usize::from(corrections > 0);
    }
    assert!(corrected > 20, "{corrected}");
}
