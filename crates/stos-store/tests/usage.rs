// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What trees take, beside du(1). Not among the unit tests: a child has all descriptors until it has become its program, and locks of other
//! tests with them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use stos_store::usage::{measure_areas, measure_tree};

/// What du(1) says, which is the measure of all this.
fn du(path: &Path) -> u64 {
    let output = std::process::Command::new("du").args(["-s", "-B1"]).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn inodes(path: &Path) -> u64 {
    let output = std::process::Command::new("du").args(["-s", "--inodes"]).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn allocated(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_tree_takes_what_du_says() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::create_dir_all(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/big"), vec![1; 1 << 20]).unwrap();
    fs::write(root.join("a/data"), vec![1; 100_000]).unwrap();
    fs::hard_link(root.join("a/data"), root.join("a/b/again")).unwrap();
    fs::hard_link(dir.path().join("outside/big"), root.join("shared")).unwrap();
    symlink(dir.path().join("outside"), root.join("link")).unwrap();
    symlink("x".repeat(3000), root.join("a/long")).unwrap();
    fs::write(root.join(OsString::from_vec(b"n\n\xff\x1b[2J".to_vec())), "odd").unwrap();
    let sparse = File::create(root.join("a/sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(&[1; 5000], 1 << 29).unwrap();
    rustix::fs::mkfifoat(CWD, root.join("fifo"), Mode::RUSR).unwrap();
    let usage = measure_tree(&root).unwrap();
    assert_eq!(usage.bytes(), du(&root));
    assert_eq!(usage.inodes(), inodes(&root));
    assert!(usage.problems.is_empty(), "{:?}", usage.problems);
    assert!(measure_tree(&root.join("none")).unwrap_err().is_not_found());
}

#[test]
fn no_tree_is_too_deep() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    // Deeper than a path can be long, with something to come back for on each level.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
    let name = "d".repeat(100);
    for _ in 0..200 {
        for name in [name.as_str(), "e"] {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
        }
        at = openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
    }
    let usage = measure_tree(dir.path()).unwrap();
    assert!(usage.problems.is_empty(), "{:?}", usage.problems);
    assert_eq!(usage.bytes(), du(dir.path()));
    stos_store::files::remove_tree(&dir.keep()).unwrap();
}

#[test]
fn areas_and_the_rest_are_the_whole() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let root = dir.path();
    for path in ["l/sha/one/diff", "l/sha/two", "c/x", "s/t"] {
        fs::create_dir_all(root.join(path)).unwrap();
        fs::write(root.join(path).join("file"), vec![1; 10_000]).unwrap();
    }
    fs::write(root.join("c/plain"), vec![1; 5000]).unwrap();
    fs::write(root.join("top"), "x").unwrap();
    // A file of two areas and of none counts where it is met first.
    fs::hard_link(root.join("l/sha/two/file"), root.join("c/x/linked")).unwrap();
    fs::hard_link(root.join("l/sha/two/file"), root.join("s/linked")).unwrap();
    let areas = ["l/sha", "none", "c"].map(PathBuf::from);
    let usage = measure_areas(root, &areas).unwrap();
    assert_eq!(usage.total(), du(root));
    let names = |at: usize| usage.areas[at].iter().map(|(name, _)| name.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((names(0), names(1), names(2)), (vec!["one", "two"], vec![], vec!["plain", "x"]));
    let linked = allocated(&root.join("l/sha/two/file"));
    let two = allocated(&root.join("l/sha/two")) + linked;
    assert_eq!(usage.areas[0][1].1, two);
    assert_eq!(usage.areas[2][0].1, allocated(&root.join("c/plain")));
    assert_eq!(usage.areas[2][1].1, du(&root.join("c/x")) - linked);
}
