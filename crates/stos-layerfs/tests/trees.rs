// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the kernel shows of layers that are odd and legal; and which attacks never get that far.

mod fixture;

use std::os::unix::ffi::OsStrExt;

use fixture::Fixture;
use stos_erofs::{Error as TarError, MergeProblem, TarProblem};
use stos_layerfs::{BackendKind, Error, Integrity};
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, Format, TarBuilder, file_capability, posix_acl};
use stos_testkit::tree::{Node, Options, Tree};

fn tar() -> TarBuilder {
    TarBuilder::new()
}

/// A base that the layers over it change.
fn base() -> TarBuilder {
    tar()
        .entry(Entry::directory("d").mode(0o750).owner(3, 4).mtime(5, 6))
        .entry(Entry::file("d/a", "a"))
        .entry(Entry::directory("d/s"))
        .entry(Entry::file("d/s/b", "b"))
        .entry(Entry::file("f", "f"))
        .entry(Entry::symlink("l", "d/s"))
}

#[test]
fn every_kind_of_file_and_attribute_is_there() {
    stos_testkit::require!(Need::Root);
    let acl = posix_acl(&[(1, 6, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]);
    let capability = file_capability(1 << 10);
    let tree = Fixture::new().tree(&[tar()
        .entry(Entry::file("setuid", "x").mode(0o6755).xattr("security.capability", &capability))
        .entry(Entry::directory("sticky").mode(0o1777).xattr("system.posix_acl_default", &acl))
        .entry(Entry::file("acl", "").mode(0o640).xattr("system.posix_acl_access", &acl))
        .entry(Entry::char_device("null", 1, 3))
        .entry(Entry::block_device("disk", 259, 70_000))
        .entry(Entry::fifo("fifo").mode(0o600))
        .entry(Entry::file("owned", "").owner(4_000_000_000, 3_000_000_000))
        .entry(Entry::file("gnu", "").owner(4_000_000_000, 65_536).format(Format::Gnu))
        .entry(Entry::file("old", "").mtime(-2, 500_000_000))
        .entry(Entry::file("late", "").mtime(1 << 40, 1))
        .entry(Entry::file("marked", "").xattr("user.binary", b"\0=\n\xff").xattr("trusted.mark", b"1"))
        .entry(Entry::hard_link("also", "marked"))
        .entry(Entry::symlink("link", "/absolute/../nowhere"))]);
    let node = |path: &str| tree.nodes.get(path.as_bytes()).unwrap_or_else(|| panic!("{path} is missing"));
    let xattr = |path: &str, name: &str| node(path).xattrs.get(name.as_bytes()).cloned();

    assert_eq!((node("setuid").mode, xattr("setuid", "security.capability")), (0o6755, Some(capability)));
    assert_eq!((node("sticky").mode, xattr("sticky", "system.posix_acl_default")), (0o1777, Some(acl.clone())));
    assert_eq!((node("acl").mode, xattr("acl", "system.posix_acl_access")), (0o640, Some(acl)));
    assert_eq!((node("null").kind, node("null").device), ("char device", (1, 3)));
    assert_eq!((node("disk").kind, node("disk").device), ("block device", (259, 70_000)));
    assert_eq!((node("fifo").kind, node("fifo").mode), ("fifo", 0o600));
    assert_eq!((node("owned").uid, node("owned").gid), (4_000_000_000, 3_000_000_000));
    assert_eq!((node("gnu").uid, node("gnu").gid), (4_000_000_000, 65_536));
    assert_eq!(node("old").mtime, (-2, 500_000_000));
    assert_eq!(node("late").mtime, (1 << 40, 1));
    assert_eq!(xattr("marked", "user.binary"), Some(b"\0=\n\xff".to_vec()));
    assert_eq!(xattr("marked", "trusted.mark"), Some(b"1".to_vec()));
    assert_eq!(node("also"), &Node { link_group: Some(b"also".to_vec()), ..node("marked").clone() });
    assert_eq!((node("link").kind, &*node("link").target), ("symlink", &b"/absolute/../nowhere"[..]));
}

/// The kernel is asked itself: the same is set on a file, and what that has then is what both backends must show.
#[test]
fn acls_and_capabilities_are_what_linux_makes_of_them() {
    const NONE: u32 = u32::MAX;
    stos_testkit::require!(Need::Root);
    let minimal = posix_acl(&[(1, 6, NONE), (4, 4, NONE), (32, 0, NONE)]);
    let masked = posix_acl(&[(1, 7, NONE), (4, 5, NONE), (16, 2, NONE), (32, 4, NONE)]);
    let named = posix_acl(&[(1, 6, 1), (2, 7, 1000), (4, 0, 2), (8, 5, 7), (16, 6, 3), (32, 1, 4)]);
    let capability = file_capability(1 << 10 | 1 << 35);
    let of_root = |root: u32| [&[capability[0], 0, 0, 3], &capability[4..], &root.to_le_bytes()].concat();
    let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
    let cases = [
        ("minimal", b'0', access, &minimal),
        ("masked", b'0', access, &masked),
        ("named", b'0', access, &named),
        ("directory", b'5', access, &minimal),
        ("default", b'5', default, &minimal),
        ("default-named", b'5', default, &named),
        ("fifo", b'6', access, &named),
        ("two", b'0', "security.capability", &capability),
        ("three", b'0', "security.capability", &of_root(1000)),
        ("three-of-root", b'0', "security.capability", &of_root(0)),
    ];
    let set = stos_testkit::environment::scratch();
    let mut layer = tar();
    for (name, kind, attribute, value) in cases {
        layer.push(&Entry::of_kind(kind, name).mode(0o4711).xattr(attribute, value));
        let path = set.path().join(name);
        match kind {
            b'0' => std::fs::write(&path, "").unwrap(),
            b'5' => std::fs::create_dir(&path).unwrap(),
            _ => rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::empty()).unwrap(),
        }
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o4711)).unwrap();
        rustix::fs::lsetxattr(&path, attribute, value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    // Linux executes files with these, but no longer sets or reads them.
    let one = [&[1, 0, 0, 1], &capability[4..12]].concat();
    layer.push(&Entry::file("one", "").xattr("security.capability", &one));

    let found = Fixture::new().tree(&[layer]);
    let expected = Tree::read(set.path(), &Options::default()).unwrap();
    for (name, ..) in cases {
        let of = |tree: &Tree| tree.nodes.get(name.as_bytes()).map(|node| (node.mode, node.xattrs.clone()));
        assert_eq!(of(&found), of(&expected), "{name}");
    }
    assert_eq!((found.nodes[&b"minimal"[..]].mode, found.nodes[&b"masked"[..]].mode), (0o4640, 0o4724));
    let expected = [&[1, 0, 0, 2], &capability[4..12], &[0; 8]].concat();
    assert_eq!(found.nodes[&b"one"[..]].xattrs[&b"security.capability"[..]], expected);
}

#[test]
fn a_host_s_default_acl_gets_into_no_layer() {
    stos_testkit::require!(Need::Root);
    let acl = posix_acl(&[(1, 7, u32::MAX), (2, 7, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)]);
    let dir = stos_testkit::environment::scratch();
    let set = rustix::fs::lsetxattr(dir.path(), "system.posix_acl_default", &acl, rustix::fs::XattrFlags::empty());
    set.unwrap();
    let tree = Fixture::at(dir, BackendKind::Dirs).see(&[base().finish()]).unwrap();
    for (path, node) in &tree.nodes {
        assert!(node.xattrs.is_empty(), "{}: {:?}", path.escape_ascii(), node.xattrs);
    }
    assert_eq!(tree.nodes[&b"d"[..]].mode, 0o750);
}

#[test]
fn what_overlayfs_or_a_host_would_obey_never_arrives() {
    stos_testkit::require!(Need::Root);
    let smuggled = Entry::directory("d")
        .xattr("trusted.overlay.redirect", b"/etc")
        .xattr("trusted.overlay.opaque", b"y")
        .xattr("user.overlay.opaque", b"y")
        .xattr("security.selinux", b"system_u:object_r:etc_t:s0")
        .xattr("user.kept", b"1");
    let metacopy = Entry::file("f", "").xattr("trusted.overlay.metacopy", b"").xattr("trusted.overlayed", b"kept");
    let tree = Fixture::new().tree(&[base(), tar().entry(smuggled).entry(metacopy)]);
    let names = |path: &str| tree.nodes[path.as_bytes()].xattrs.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names("d"), [b"user.kept".to_vec()]);
    assert_eq!(names("f"), [b"trusted.overlayed".to_vec()]);
    assert!(tree.nodes.contains_key(&b"d/a"[..]), "an opaque attribute hides nothing");

    // A character device 0:0 is overlayfs's own whiteout: it removes, and is never seen.
    let fixture = Fixture::new();
    let names =
        fixture.names(&[base(), tar().entry(Entry::char_device("f", 0, 0)).entry(Entry::char_device("n", 0, 0))]);
    assert_eq!(names, ["d", "d/a", "d/s", "d/s/b", "l"]);
}

#[test]
fn names_are_bytes_within_the_root() {
    stos_testkit::require!(Need::Root);
    let long = format!("{}/{}", vec!["d".repeat(250); 14].join("/"), "n".repeat(255));
    let tree = Fixture::new().tree(&[tar()
        .entry(Entry::file("/absolute/f", "1"))
        .entry(Entry::file("././dots//./f", "2"))
        .entry(Entry::file(b"latin-\xe9\xff", "3"))
        .entry(Entry::file(&long, "4"))
        .entry(Entry::file("space and\nnewline", "5"))
        .entry(Entry::file("twice", "not this"))
        .entry(Entry::file("twice", "6"))
        .entry(Entry::symlink("escape", "../../../../../../tmp"))
        .entry(Entry::file("escape/inside", "7"))
        .entry(Entry::file("gone/f", ""))
        .entry(Entry::symlink("gone", "elsewhere"))]);
    let size_of = |path: &[u8]| tree.nodes.get(path).map(|node| (node.kind, node.size));
    for path in
        [&b"absolute/f"[..], b"dots/f", b"latin-\xe9\xff", long.as_bytes(), b"space and\nnewline", b"tmp/inside"]
    {
        assert_eq!(size_of(path), Some(("file", 1)), "{}", path.escape_ascii());
    }
    assert_eq!(size_of(b"twice"), Some(("file", 1)));
    assert_eq!((size_of(b"gone"), size_of(b"gone/f")), (Some(("symlink", 0)), None));
    let implied = &tree.nodes[&b"absolute"[..]];
    assert_eq!((implied.mode, implied.uid, implied.mtime), (0o755, 0, (0, 0)), "a parent that no entry names");
}

#[test]
fn whiteouts_remove_what_lies_below() {
    stos_testkit::require!(Need::Root);
    let cases: [(&str, TarBuilder, &[&str]); 9] = [
        ("a file", tar().whiteout("f"), &["d", "d/a", "d/s", "d/s/b", "l"]),
        ("a directory", tar().whiteout("d"), &["f", "l"]),
        ("nothing", tar().whiteout("none").whiteout("none/deeper"), &["d", "d/a", "d/s", "d/s/b", "f", "l"]),
        (
            "a directory that comes again, first",
            tar().entry(Entry::directory("d")).entry(Entry::file("d/n", "")).whiteout("d"),
            &["d", "d/n", "f", "l"],
        ),
        (
            "a directory that comes again, last",
            tar().whiteout("d").entry(Entry::directory("d")).entry(Entry::file("d/n", "")),
            &["d", "d/n", "f", "l"],
        ),
        ("opaque before its siblings", tar().opaque("d").entry(Entry::file("d/n", "")), &["d", "d/n", "f", "l"]),
        ("opaque after its siblings", tar().entry(Entry::file("d/n", "")).opaque("d"), &["d", "d/n", "f", "l"]),
        ("within an opaque directory", tar().opaque("d").whiteout("d/a").whiteout("d/n"), &["d", "f", "l"]),
        ("the whole root", tar().entry(Entry::file(".wh..wh..opq", "")).entry(Entry::file("n", "")), &["n"]),
    ];
    for (case, top, expected) in cases {
        assert_eq!(Fixture::new().names(&[base(), top]), expected, "{case}");
    }
    // Of a first layer they mean nothing, and no ghost of them is seen.
    assert_eq!(Fixture::new().names(&[tar().whiteout("x").opaque("d").entry(Entry::file("d/a", ""))]), ["d", "d/a"]);
    // A directory that is merely implied by a higher layer keeps what the lower one says of it.
    let kept = Fixture::new().tree(&[base(), tar().entry(Entry::file("d/n", ""))]);
    let directory = &kept.nodes[&b"d"[..]];
    assert_eq!((directory.mode, directory.uid, directory.gid, directory.mtime), (0o750, 3, 4, (5, 6)));
}

#[test]
fn links_and_files_change_places() {
    stos_testkit::require!(Need::Root);
    let top = tar()
        .entry(Entry::directory("l"))
        .entry(Entry::file("l/n", ""))
        .entry(Entry::symlink("d", "elsewhere"))
        .entry(Entry::hard_link("h", "f"))
        .entry(Entry::directory("f"));
    let tree = Fixture::new().tree(&[base(), top]);
    let kinds: Vec<_> =
        tree.nodes.iter().skip(1).map(|(path, node)| (path.escape_ascii().to_string(), node.kind)).collect();
    let expected = [("d", "symlink"), ("f", "directory"), ("h", "file"), ("l", "directory"), ("l/n", "file")];
    assert_eq!(kinds, expected.map(|(path, kind)| (path.to_owned(), kind)));

    // A hard link into a lower layer is the very same file, and through a parent that is a link as well.
    let links = tar().entry(Entry::hard_link("h", "f")).entry(Entry::hard_link("g", "l/b"));
    let tree = Fixture::new().tree(&[base(), links]);
    assert_eq!(tree.nodes[&b"h"[..]].link_group.as_deref(), Some(&b"f"[..]));
    assert_eq!(tree.nodes[&b"g"[..]].link_group, tree.nodes[&b"d/s/b"[..]].link_group);
}

#[test]
fn a_directory_may_hold_100_000_names() {
    stos_testkit::require!(Need::Root);
    let mut many = tar().entry(Entry::directory("many"));
    for number in 0..100_000 {
        many.push(&Entry::file(format!("many/{number}"), ""));
    }
    let fixture = Fixture::new();
    let record = fixture.merge(&[many]).unwrap();
    let directory = fixture.mount(&record, Integrity::Sealed).unwrap().join("many");
    let mut names: Vec<u32> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| std::str::from_utf8(entry.unwrap().file_name().as_bytes()).unwrap().parse().unwrap())
        .collect();
    names.sort_unstable();
    assert!(names.into_iter().eq(0..100_000));
    assert!((0..100_000).step_by(997).all(|number| directory.join(number.to_string()).is_file()));
    assert!(!directory.join("100000").exists());
}

#[test]
fn attacks_are_refused_by_kind() {
    stos_testkit::require!(Need::Root);
    let refused = |tar: TarBuilder| {
        let fixture = Fixture::new();
        let error = fixture.merge(&[base(), tar]).unwrap_err();
        assert_eq!(std::fs::read_dir(fixture.data_root().join("staging")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(fixture.data_root().join("locks")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(fixture.data_root().join("chains/sha256")).unwrap().count(), 0);
        error
    };
    let problem = |tar: TarBuilder| match refused(tar) {
        Error::Tar { source: TarError::Tar { problem, .. }, .. } => problem,
        other => panic!("{other}"),
    };
    let merge_problem = |tar: TarBuilder| match refused(tar) {
        Error::Merge { source: TarError::Merge { layer: 1, problem, .. }, .. } => problem,
        other => panic!("{other}"),
    };
    for name in ["..", "../x", "a/../../x", "/..", "a/.."] {
        let found = problem(tar().entry(Entry::file(name, "")));
        assert!(matches!(found, TarProblem::ParentComponent { what: "name", .. }), "{name}: {found}");
    }
    let found = problem(tar().entry(Entry::hard_link("h", "../../etc/passwd")));
    assert!(matches!(found, TarProblem::ParentComponent { what: "hard link target", .. }), "{found}");
    let found = problem(tar().entry(Entry::symlink("s", "t".repeat(4096))));
    assert!(matches!(found, TarProblem::PathTooLong { what: "symbolic link target", .. }), "{found}");
    let found = problem(tar().entry(Entry::file("f", "").xattr("system.posix_acl_access", b"junk")));
    assert!(matches!(found, TarProblem::Xattr { .. }), "{found}");
    for name in [".wh.", ".wh..", ".wh..."] {
        assert!(matches!(problem(tar().entry(Entry::file(name, ""))), TarProblem::WhiteoutName { .. }), "{name}");
    }
    let missing = |target: &str| MergeProblem::LinkTargetMissing { target: target.to_owned() };
    for target in ["none", "etc/passwd", "l/none"] {
        assert_eq!(merge_problem(tar().entry(Entry::hard_link("h", target))), missing(target));
    }
    let before = tar().entry(Entry::hard_link("h", "later")).entry(Entry::file("later", ""));
    assert_eq!(merge_problem(before), missing("later"));
    let found = merge_problem(tar().entry(Entry::hard_link("h", "d")));
    assert!(matches!(found, MergeProblem::LinkTargetDirectory { .. }), "{found}");
    let found = merge_problem(tar().entry(Entry::file("f/below", "")));
    assert!(matches!(found, MergeProblem::ParentNotDirectory { .. }), "{found}");
    let links = tar().entry(Entry::symlink("x", "y")).entry(Entry::symlink("y", "x"));
    let found = merge_problem(links.entry(Entry::file("x/f", "")));
    assert!(matches!(found, MergeProblem::TooManyLinks { .. }), "{found}");
}
