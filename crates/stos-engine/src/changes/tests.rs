// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Upper directories made by hand, with what overlayfs writes there and what it would not.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode as FileMode, makedev, mknodat};
use stos_erofs::{Names, TarWriter};
use stos_sys::xattr;
use stos_testkit::guard::Need;

use super::layer::TreeWriter;
use super::{ChangeKind, Event, Mode, MountPoints, Node, Walk};
use crate::Result;
use crate::error::Error;

/// Two trees in a directory of their own.
struct Trees {
    dir: tempfile::TempDir,
}

impl Trees {
    /// Makes the directories `lower` and `upper`, and in both what the lists say: `d/` a directory, `d/f` a file, `d/f!` a whiteout,
    /// `d/*` a directory that is opaque.
    fn new(lower: &[&str], upper: &[&str]) -> Self {
        let trees = Self { dir: stos_testkit::environment::scratch() };
        for (root, paths) in [(trees.lower(), lower), (trees.upper(), upper)] {
            fs::create_dir(&root).unwrap();
            paths.iter().for_each(|path| make(&root, path));
        }
        trees
    }

    fn lower(&self) -> PathBuf {
        self.dir.path().join("lower")
    }

    fn upper(&self) -> PathBuf {
        self.dir.path().join("upper")
    }

    fn walk(&self, mode: Mode) -> Walk {
        let root = |path| Node::root(path).unwrap();
        Walk::new(root(&self.upper()), Some(root(&self.lower())), mode, MountPoints::default())
    }

    /// What a walk tells, a word for each event; all directories look alike.
    fn events(&self, mode: Mode) -> Vec<String> {
        same_times(&self.lower());
        same_times(&self.upper());
        let mut told = Vec::new();
        let run = self.walk(mode).run(&mut |event| {
            let word = |sign: &str, path: &[u8]| format!("{sign}{}", String::from_utf8_lossy(path));
            told.push(match event {
                Event::Entry { kind: ChangeKind::Added, path, .. } => word("+", path),
                Event::Entry { path, .. } => word("~", path),
                Event::Opaque { path } => word("*", path),
                Event::Covered { path } => word("?", path),
                Event::Deleted { path, is_hidden: false } => word("-", path),
                Event::Deleted { path, is_hidden: true } => word("(-)", path),
            });
            Ok(())
        });
        run.unwrap();
        told
    }

    /// The tar of a walk.
    fn tar(&self, mode: Mode) -> Result<Vec<u8>> {
        let mut writer = TreeWriter::new(TarWriter::with_names(Vec::new(), Names::OfLayer), "tree", false);
        self.walk(mode).run(&mut |event| writer.write(event))?;
        writer.finish()
    }
}

fn make(root: &Path, path: &str) {
    let at = root.join(path.trim_end_matches(['/', '!', '*']));
    match path.as_bytes().last() {
        Some(b'/') => fs::create_dir(&at).unwrap(),
        Some(b'*') => {
            fs::create_dir(&at).unwrap();
            xattr::set(File::open(&at).unwrap(), c"trusted.overlay.opaque", b"y").unwrap();
        }
        Some(b'!') => {
            mknodat(CWD, &at, FileType::CharacterDevice, FileMode::empty(), makedev(0, 0)).unwrap();
        }
        _ => fs::write(&at, path).unwrap(),
    }
}

/// Gives every directory the same time, from the bottom up.
fn same_times(path: &Path) {
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            same_times(&entry.path());
        }
    }
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn an_upper_directory_is_read_as_overlayfs_shows_it() {
    stos_testkit::require!(Need::Root);
    let lower = ["a/", "a/x", "a/y", "b/", "b/c/", "b/c/d", "b/e", "f", "g/", "g/h"];
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &[]),
        // Copied up, with nothing in it.
        (&["a/", "b/", "b/c/"], &[]),
        (&["a/", "a/new"], &["~", "~a", "+a/new"]),
        (&["a/", "a/x"], &["~", "~a", "~a/x"]),
        (&["a/", "a/x!"], &["~", "~a", "-a/x"]),
        (&["a!", "f!"], &["~", "-a", "-f"]),
        // Whiteouts of what never was, also in a directory of the container's own.
        (&["none!", "new/", "new/none!", "a/", "a/none!"], &["~", "+new"]),
        // File and directory in each other's place.
        (&["f/", "f/x", "g"], &["~", "~f", "+f/x", "~g"]),
        // What an opaque directory has is there, what it lacks is hidden, in its directories too.
        (&["b*", "b/c/", "b/new"], &["~", "~b", "*b", "~b/c", "(-)b/c/d", "(-)b/e", "+b/new"]),
        (&["b*", "b/c/", "b/c/d", "b/e!"], &["~", "~b", "*b", "~b/c", "~b/c/d", "(-)b/e"]),
        // Opaque, and nothing below it.
        (&["new*", "new/x"], &["~", "+new", "+new/x"]),
    ];
    for (upper, expected) in cases {
        let found = Trees::new(&lower, upper).events(Mode::Overlay);
        assert_eq!(found, *expected, "{upper:?}");
    }
}

#[test]
fn a_union_is_all_that_overlayfs_shows() {
    stos_testkit::require!(Need::Root);
    let lower = ["a/", "a/x", "a/y", "b/", "b/c/", "b/c/d", "b/e", "f", "g/", "g/h"];
    let upper = ["a/", "a/x!", "a/new", "b*", "b/c/", "f!", "g"];
    let found = Trees::new(&lower, &upper).events(Mode::Union);
    assert_eq!(found, ["+", "+a", "+a/new", "+a/y", "+b", "+b/c", "+g"]);
    assert_eq!(Trees::new(&["a/", "a/b/", "a/b/c"], &[]).events(Mode::Union), ["+", "+a", "+a/b", "+a/b/c"]);
}

#[test]
fn whole_trees_are_compared_by_what_they_hold() {
    stos_testkit::require!(Need::Root);
    let trees =
        Trees::new(&["a/", "a/x", "gone/", "gone/y", "same", "time"], &["a/", "a/new", "same", "time", "zero!"]);
    for name in ["same", "time"] {
        let modified = fs::metadata(trees.lower().join(name)).unwrap().modified().unwrap();
        File::options().write(true).open(trees.upper().join(name)).unwrap().set_modified(modified).unwrap();
    }
    let time = File::options().write(true).open(trees.upper().join("time")).unwrap();
    time.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(trees.events(Mode::Trees), ["~", "~a", "+a/new", "-a/x", "-gone", "~time", "+zero"]);
}

#[test]
fn a_layer_is_the_same_each_time_and_keeps_what_files_have_in_common() {
    stos_testkit::require!(Need::Root);
    let trees = Trees::new(&["d/", "d/old"], &["d*", "d/one", "gone!"]);
    let upper = trees.upper();
    fs::hard_link(upper.join("d/one"), upper.join("d/two")).unwrap();
    symlink("one", upper.join("d/link")).unwrap();
    fs::hard_link(upper.join("d/link"), upper.join("z")).unwrap();
    fs::set_permissions(upper.join("d/one"), fs::Permissions::from_mode(0o4711)).unwrap();
    xattr::set(File::open(upper.join("d")).unwrap(), c"trusted.overlay.impure", b"y").unwrap();
    let tar = trees.tar(Mode::Overlay).unwrap();
    assert_eq!(tar, trees.tar(Mode::Overlay).unwrap());
    let names: Vec<_> = stos_names(&tar);
    assert_eq!(names, ["./", "d/", "d/.wh..wh..opq", "d/link", "d/one", "d/two", "z"]);
    let text = tar.escape_ascii().to_string();
    assert!(!text.contains("overlay"), "attributes of overlayfs stay where they are");
}

/// The names in a tar, by GNU tar.
fn stos_names(tar: &[u8]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t"), tar).unwrap();
    let output = std::process::Command::new("tar").arg("-tf").arg(dir.path().join("t")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_new_file_with_the_number_of_a_removed_one_is_no_link_to_it() {
    stos_testkit::require!(Need::Root);
    // ext4 gives a removed file's number to the next one, unless somebody else makes one first; others may never do so.
    let is_proved = (0..100).any(|_| walk_while_a_file_is_replaced());
    let scratch = stos_testkit::environment::scratch();
    assert!(is_proved || rustix::fs::statfs(scratch.path()).unwrap().f_type != 0xef53, "no number came again");
}

/// Replaces a file of two names by another of two names that looks the same, while a walk is between the first's. Tells whether the
/// second got the first's number.
fn walk_while_a_file_is_replaced() -> bool {
    let trees = Trees::new(&[], &["a", "m"]);
    let at = |name: &str| trees.upper().join(name);
    fs::hard_link(at("a"), at("z")).unwrap();
    let number = |name: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(at(name)).unwrap());
    let first = number("a");
    let mut writer = TreeWriter::new(TarWriter::with_names(Vec::new(), Names::OfLayer), "tree", false);
    let run = trees.walk(Mode::Overlay).run(&mut |event| {
        let is_between = matches!(event, Event::Entry { path: b"m", .. });
        writer.write(event)?;
        if is_between {
            let old = fs::metadata(at("a")).unwrap();
            ["a", "z"].iter().for_each(|name| fs::remove_file(at(name)).unwrap());
            fs::write(at("z"), vec![b'z'; old.len() as usize]).unwrap();
            File::open(at("z")).unwrap().set_modified(old.modified().unwrap()).unwrap();
            fs::hard_link(at("z"), at("y")).unwrap();
        }
        Ok(())
    });
    run.unwrap();
    let tar = writer.finish().unwrap();
    let (index, _) = stos_erofs::index_tar(tar.as_slice(), Vec::new()).unwrap();
    let mut reader = stos_erofs::IndexReader::new(index.as_slice()).unwrap();
    let kept = std::iter::from_fn(|| reader.next_entry().unwrap()).find(|entry| entry.path == b"z").unwrap();
    assert!(matches!(kept.kind, stos_erofs::EntryKind::Regular { .. }), "{kept:?}");
    number("z") == first
}

#[test]
fn what_a_tar_cannot_hold_is_named() {
    stos_testkit::require!(Need::Root);
    for name in [".wh.x", ".wh..wh..opq"] {
        let trees = Trees::new(&[], &["d/", &format!("d/{name}")]);
        match trees.tar(Mode::Overlay).unwrap_err() {
            Error::WriteTar { path, .. } => assert_eq!(path, format!("/d/{name}")),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_attribute_that_no_tar_can_hold_is_left_out() {
    stos_testkit::require!(Need::Root);
    let trees = Trees::new(&[], &["f"]);
    let file = File::open(trees.upper().join("f")).unwrap();
    for (name, value) in [(c"user.a=b", &b"x"[..]), (c"user.kept", b"x"), (c"trusted.overlay.x=y", b"x")] {
        xattr::set(&file, name, value).unwrap();
    }
    // Not every filesystem takes as much as the kernel.
    let is_long_there = xattr::set(&file, c"user.long", &vec![0; 65_536]).is_ok();
    let root = Node::root(&trees.upper()).unwrap();
    let node = root.child(b"f").unwrap().unwrap();
    let mut left_out = Vec::new();
    let metadata = node.metadata_and(&mut |name| left_out.push(name.to_owned())).unwrap();
    let expected = if is_long_there {
        vec![c"user.a=b".to_owned(), c"user.long".to_owned()]
    } else {
        vec![c"user.a=b".to_owned()]
    };
    assert_eq!(left_out, expected);
    assert_eq!(metadata.xattrs.iter().map(|xattr| xattr.name.as_slice()).collect::<Vec<_>>(), [b"kept"]);
    assert_eq!(index(&trees.tar(Mode::Overlay).unwrap()), [(b"f".to_vec(), false)]);
}

#[test]
fn names_of_255_bytes_are_removed_too() {
    stos_testkit::require!(Need::Root);
    let long = "n".repeat(255);
    let trees = Trees::new(&[&long], &[&format!("{long}!")]);
    let tar = trees.tar(Mode::Overlay).unwrap();
    assert_eq!(index(&tar), [(long.into_bytes(), true)]);
}

/// The paths in a tar by our indexer, and whether they are whiteouts.
fn index(tar: &[u8]) -> Vec<(Vec<u8>, bool)> {
    let (index, _) = stos_erofs::index_tar(tar, Vec::new()).unwrap();
    let mut reader = stos_erofs::IndexReader::new(index.as_slice()).unwrap();
    let entries = std::iter::from_fn(|| reader.next_entry().unwrap()).filter(|entry| !entry.path.is_empty());
    entries.map(|entry| (entry.path, entry.kind == stos_erofs::EntryKind::Whiteout)).collect()
}

#[test]
fn a_file_with_holes_takes_what_its_data_do() {
    stos_testkit::require!(Need::Root);
    let trees = Trees::new(&[], &["sparse", "ends", "small", "plain"]);
    let open = |name: &str| File::options().write(true).open(trees.upper().join(name)).unwrap();
    let sparse = open("sparse");
    sparse.set_len(1 << 40).unwrap();
    for at in [4096, 1 << 20, (1 << 30) + 12_345, (1 << 40) - 3] {
        sparse.write_all_at(b"end", at).unwrap();
    }
    open("ends").set_len(1 << 30).unwrap();
    // Holes too small for a map.
    open("small").set_len(50_000).unwrap();
    open("plain").write_all_at(&vec![1; 200_000], 0).unwrap();
    let tar = trees.tar(Mode::Overlay).unwrap();
    assert!(tar.len() < 1 << 20, "{} bytes", tar.len());
    let dir = tempfile::tempdir_in(trees.dir.path()).unwrap();
    let mut child = std::process::Command::new("tar");
    child.args(["-xSf", "-", "-C"]).arg(dir.path()).stdin(std::process::Stdio::piped());
    let mut child = child.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &tar).unwrap();
    assert!(child.wait().unwrap().success());
    for name in ["ends", "small", "plain"] {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        File::open(dir.path().join(name)).unwrap().take(300_000).read_to_end(&mut left).unwrap();
        File::open(trees.upper().join(name)).unwrap().take(300_000).read_to_end(&mut right).unwrap();
        assert_eq!(left, right, "{name}");
        assert_eq!(
            fs::metadata(dir.path().join(name)).unwrap().len(),
            fs::metadata(trees.upper().join(name)).unwrap().len()
        );
    }
    let found = File::open(dir.path().join("sparse")).unwrap();
    assert_eq!(found.metadata().unwrap().len(), 1 << 40);
    for at in [4096, 1 << 20, (1 << 30) + 12_345, (1 << 40) - 3] {
        let mut bytes = [0; 3];
        found.read_exact_at(&mut bytes, at).unwrap();
        assert_eq!(&bytes, b"end", "at {at}");
    }
}

#[test]
fn a_root_that_is_a_symlink_or_gone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/etc", dir.path().join("link")).unwrap();
    assert!(matches!(Node::root(&dir.path().join("link")), Err(Error::Sys(_))));
    assert!(matches!(Node::root(&dir.path().join("none")), Err(Error::Sys(_))));
    assert!(!Node::root(dir.path()).unwrap().is_mount_root().unwrap());
    assert!(Node::root(Path::new("/proc")).unwrap().is_mount_root().unwrap());
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
    fs::create_dir(&odd).unwrap();
    assert_eq!(Node::root(dir.path()).unwrap().names().unwrap(), [b"link".to_vec(), b"\xff".to_vec()]);
}
