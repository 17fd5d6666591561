// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use super::*;

fn sample(root: &Path) {
    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(root.join("d/f"), "data").unwrap();
    fs::hard_link(root.join("d/f"), root.join("a")).unwrap();
    symlink("d/f", root.join("s")).unwrap();
    fs::write(root.join("x"), "x").unwrap();
    for path in ["d/f", "x", "d", ""] {
        let file = File::open(root.join(path)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_000, 7)).unwrap();
    }
    let times = rustix::fs::Timespec { tv_sec: 5, tv_nsec: 6 };
    let times = rustix::fs::Timestamps { last_access: times, last_modification: times };
    rustix::fs::utimensat(rustix::fs::CWD, root.join("s"), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn differences(change: impl FnOnce(&Path)) -> Vec<(String, &'static str)> {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    sample(&one);
    sample(&two);
    change(&two);
    let (one, two) = Tree::read_both(&one, &two, &Options::default()).unwrap();
    one.differences(&two).into_iter().map(|d| (String::from_utf8(d.path).unwrap(), d.what)).collect()
}

/// Restores the time that a change of a directory's entries has moved.
fn keep_time(directory: &Path) {
    File::open(directory).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_000, 7)).unwrap();
}

#[test]
fn equal_trees_have_no_difference() {
    assert_eq!(differences(|_| {}), []);
}

#[test]
fn each_field_is_seen() {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    let mode = |root: &Path| fs::set_permissions(root.join("x"), Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(differences(mode), [("x".to_owned(), "mode")]);
    let nanosecond = |root: &Path| {
        let file = File::open(root.join("x")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_000, 8)).unwrap();
    };
    assert_eq!(differences(nanosecond), [("x".to_owned(), "mtime")]);
    let same_size = |root: &Path| {
        fs::write(root.join("x"), "y").unwrap();
        keep_time(&root.join("x"));
    };
    assert_eq!(differences(same_size), [("x".to_owned(), "sha256")]);
    let xattr = |root: &Path| {
        rustix::fs::setxattr(root.join("x"), "user.k", b"v", rustix::fs::XattrFlags::empty()).unwrap();
    };
    assert_eq!(differences(xattr), [("x".to_owned(), "xattrs")]);
    let target = |root: &Path| {
        fs::remove_file(root.join("s")).unwrap();
        symlink("d/g", root.join("s")).unwrap();
        keep_time(root);
    };
    assert_eq!(differences(target), [("s".to_owned(), "mtime"), ("s".to_owned(), "target")]);
}

#[test]
fn missing_unexpected_and_split_links_are_seen() {
    let moved = |root: &Path| {
        fs::rename(root.join("x"), root.join("y")).unwrap();
        keep_time(root);
    };
    assert_eq!(differences(moved), [("x".to_owned(), "missing"), ("y".to_owned(), "unexpected")]);
    let split = |root: &Path| {
        fs::remove_file(root.join("a")).unwrap();
        fs::write(root.join("a"), "data").unwrap();
        keep_time(&root.join("a"));
        keep_time(root);
    };
    assert_eq!(differences(split), [("a".to_owned(), "link_group"), ("d/f".to_owned(), "link_group")]);
}

#[test]
fn excluded_paths_are_not_read() {
    let directory = tempfile::tempdir().unwrap();
    sample(directory.path());
    let options = Options { exclude: &["d", "s"], contents: false, ..Options::default() };
    let tree = Tree::read(directory.path(), &options).unwrap();
    let paths: Vec<_> = tree.nodes.keys().map(Vec::as_slice).collect();
    assert_eq!(paths, [&b""[..], b"a", b"x"]);
    assert_eq!(tree.nodes[&b"x"[..]].sha256, "");
}

#[test]
#[should_panic(expected = "/x: mode: expected 0644, found 0600")]
fn a_failed_assertion_names_path_and_values() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    sample(&one);
    sample(&two);
    for (root, mode) in [(&one, 0o644), (&two, 0o600)] {
        fs::set_permissions(root.join("x"), fs::Permissions::from_mode(mode)).unwrap();
    }
    let (one, two) = Tree::read_both(&one, &two, &Options::default()).unwrap();
    one.assert_same(&two);
}

#[test]
fn an_unreadable_root_is_named() {
    let error = Tree::read(Path::new("/nonexistent/tree"), &Options::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
