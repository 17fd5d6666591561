// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tar rules, one table or test for each.

use super::testing::Tar;
use crate::{
    DataPlace, Entry, EntryKind, Error, Metadata, Namespace, TarIndexer, TarProblem, Timestamp, Xattr, index_tar,
};

fn metadata() -> Metadata {
    Metadata { mode: 0o644, mtime: Timestamp { seconds: 1000, nanoseconds: 0 }, ..Metadata::default() }
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry { path: path.into(), kind }
}

fn regular(path: &str, size: u64, block: u64) -> Entry {
    entry(path, EntryKind::Regular { metadata: metadata(), size, place: DataPlace::Tar, block })
}

/// The single entry of a tar.
fn only(tar: &Tar) -> Entry {
    let mut entries = tar.entries().unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

fn only_metadata(tar: &Tar) -> Metadata {
    match only(tar).kind {
        EntryKind::Regular { metadata, .. } | EntryKind::Directory(metadata) | EntryKind::Symlink { metadata, .. } => {
            metadata
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_type_of_entry() {
    let tar = Tar::new()
        .directory("./", 0o700)
        .file("a", "hello")
        .file("empty", "")
        .header("old", 0, 3, |_| {})
        .data(b"old")
        .header("contiguous", b'7', 1, |_| {})
        .data(b"c")
        .symlink("link", "../x")
        .hard_link("hard", "/a")
        .device("char", b'3', 4095, 1_048_575)
        .device("block", b'4', 8, 1)
        .header("fifo", b'6', 0, |_| {})
        .device("gone", b'3', 0, 0)
        .device("kept", b'4', 0, 0)
        .file("d/.wh.x", "")
        .file("d/.wh..wh..opq", "")
        .file(".wh..wh.plnk/1", "aufs")
        .header("label", b'V', 0, |_| {})
        .end();
    let directory = Metadata { mode: 0o700, ..metadata() };
    let expected = vec![
        entry("", EntryKind::Directory(directory)),
        regular("a", 5, 2),
        regular("empty", 0, 0),
        regular("old", 3, 5),
        regular("contiguous", 1, 7),
        entry("link", EntryKind::Symlink { metadata: metadata(), target: b"../x".to_vec() }),
        entry("hard", EntryKind::HardLink { target: b"a".to_vec() }),
        entry("char", EntryKind::CharacterDevice { metadata: metadata(), major: 4095, minor: 1_048_575 }),
        entry("block", EntryKind::BlockDevice { metadata: metadata(), major: 8, minor: 1 }),
        entry("fifo", EntryKind::Fifo(metadata())),
        entry("gone", EntryKind::Whiteout),
        entry("kept", EntryKind::BlockDevice { metadata: metadata(), major: 0, minor: 0 }),
        entry("d/x", EntryKind::Whiteout),
        entry("d", EntryKind::Opaque),
    ];
    assert_eq!(tar.entries().unwrap(), expected);
}

#[test]
fn a_regular_file_that_ends_in_a_slash_is_a_directory_and_its_data_are_skipped() {
    for type_flag in [0, b'0', b'7'] {
        let tar = Tar::new().header("d/", type_flag, 5, |_| {}).data(b"12345").file("after", "").end();
        let entries = tar.entries().unwrap();
        assert_eq!(entries, [entry("d", EntryKind::Directory(metadata())), regular("after", 0, 0)]);
    }
    let tar = Tar::new().pax(&[("path", b"from-pax/")]).header("d", b'0', 0, |_| {}).end();
    assert_eq!(only(&tar), entry("from-pax", EntryKind::Directory(metadata())));
}

#[test]
fn directories_of_other_tars() {
    // GNU's incremental dumps list in a directory's data what was there.
    let tar = Tar::new().header("d/", b'D', 9, |_| {}).data(b"Yfile\0\0\0\0").file("d/file", "");
    assert_eq!(tar.entries().unwrap(), [entry("d", EntryKind::Directory(metadata())), regular("d/file", 0, 0)]);
    assert_eq!(only(&Tar::new().header("", b'5', 0, |_| {})), entry("", EntryKind::Directory(metadata())));
}

#[test]
fn types_without_data_have_none_whatever_their_size_says() {
    for type_flag in b'1'..=b'6' {
        let tar = Tar::new()
            .header("x", type_flag, 4096, |header| header.as_old_mut().linkname[0] = b'y')
            .file("after", "z")
            .end();
        assert_eq!(tar.entries().unwrap()[1], regular("after", 1, 2), "{}", char::from(type_flag));
    }
}

#[test]
fn the_pax_size_wins_over_the_header_s() {
    // CVE-2025-62518: a reader that believes the header's 0 finds "smuggled" in the data.
    let inner = Tar::new().file("smuggled", "").0;
    let size = inner.len().to_string();
    let tar = Tar::new().pax(&[("size", size.as_bytes())]).header("outer", b'0', 0, |_| {}).data(&inner).end();
    assert_eq!(only(&tar), regular("outer", 512, 3));
    // The override is the next entry's alone, and not that of a long name between.
    let tar = Tar::new()
        .pax(&[("size", b"3")])
        .gnu_long(b'L', b"long")
        .header("a", b'0', 0, |_| {})
        .data(b"abc")
        .file("b", "")
        .end();
    assert_eq!(tar.entries().unwrap(), [regular("long", 3, 5), regular("b", 0, 0)]);
}

#[test]
fn names_come_from_gnu_then_pax_then_ustar() {
    let long = "d/".repeat(200) + "f";
    let path = |tar: &Tar| String::from_utf8(only(tar).path).unwrap();
    assert_eq!(path(&Tar::new().pax(&[("path", long.as_bytes())]).file("a", "")), long);
    assert_eq!(path(&Tar::new().gnu_long(b'L', long.as_bytes()).file("a", "")), long);
    assert_eq!(path(&Tar::new().pax(&[("path", b"p")]).gnu_long(b'L', b"g").file("a", "")), "g");
    assert_eq!(path(&Tar::new().gnu_long(b'L', b"").file("a", "")), "a");
    assert_eq!(path(&Tar::new().pax(&[("path", b"")]).file("a", "")), "a");
    assert_eq!(path(&Tar::new().pax(&[("path", b"p")]).pax(&[("uid", b"1")]).file("a", "")), "a");
    let tar = Tar::new().pax(&[("linkpath", b"p")]).gnu_long(b'K', b"g").symlink("a", "u");
    assert_eq!(only(&tar), entry("a", EntryKind::Symlink { metadata: metadata(), target: b"g".to_vec() }));
}

#[test]
fn names_of_the_header_formats() {
    let edit_prefix = |header: &mut tar::Header| header.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"pre");
    let path = |tar: Tar| String::from_utf8(only(&tar).path).unwrap();
    assert_eq!(path(Tar::new().header("n", b'0', 0, edit_prefix)), "pre/n");
    let star = |header: &mut tar::Header| {
        edit_prefix(header);
        header.as_mut_bytes()[476..488].copy_from_slice(b"00000000000 ");
        header.as_mut_bytes()[508..].copy_from_slice(b"tar\0");
    };
    assert_eq!(path(Tar::new().header("n", b'0', 0, star)), "pre/n");
    let old = |header: &mut tar::Header| {
        edit_prefix(header);
        header.as_mut_bytes()[257..265].fill(0);
    };
    assert_eq!(path(Tar::new().header("n", b'0', 0, old)), "n");
    let gnu = |field: &'static [u8]| {
        move |header: &mut tar::Header| {
            header.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
            header.as_mut_bytes()[345..345 + field.len()].copy_from_slice(field);
        }
    };
    assert_eq!(path(Tar::new().header("n", b'0', 0, gnu(b"13371371371\0"))), "n");
    assert_eq!(path(Tar::new().header("n", b'0', 0, gnu(b"old/docker"))), "old/docker/n");
    // A name of exactly 100 bytes has no terminator.
    assert_eq!(path(Tar::new().file(&"n".repeat(100), "")), "n".repeat(100));
    let tar = Tar::new().header("", b'0', 0, |header| header.as_old_mut().name[..3].copy_from_slice(b"\xff\xfe\n"));
    assert_eq!(only(&tar).path, b"\xff\xfe\n");
}

#[test]
fn ids_times_and_modes() {
    let with = |edit: fn(&mut tar::Header)| only_metadata(&Tar::new().header("a", b'0', 0, edit));
    let pax = |key, value: &str| only_metadata(&Tar::new().pax(&[(key, value.as_bytes())]).file("a", ""));
    assert_eq!(with(|header| header.set_uid(0xffff_fffe)).uid, 0xffff_fffe);
    assert_eq!(with(|header| header.set_gid(0o7777777)).gid, 0o7777777);
    assert_eq!(with(|header| header.set_mode(0o104755)).mode, 0o4755);
    assert_eq!(pax("uid", "4294967294").uid, 0xffff_fffe);
    assert_eq!(pax("gid", "70000").gid, 70_000);
    let negative = with(|header| header.as_old_mut().mtime = [0xff; 12]);
    assert_eq!(negative.mtime, Timestamp { seconds: -1, nanoseconds: 0 });
    assert_eq!(pax("mtime", "-1.25").mtime, Timestamp { seconds: -2, nanoseconds: 750_000_000 });
    assert_eq!(pax("mtime", "253402300800.5").mtime, Timestamp { seconds: 253_402_300_800, nanoseconds: 500_000_000 });
    assert_eq!(pax("atime", "nonsense"), metadata());
}

#[test]
fn sizes_in_base_256_and_beyond_a_tebibyte() {
    let size = (3u64 << 40) + 1;
    let header = Tar::new().header("huge", b'0', size, |_| {});
    let mut indexer = TarIndexer::new(Vec::new());
    indexer.push(&header.0).unwrap();
    let problem = match indexer.finish().unwrap_err() {
        Error::Tar { entry, problem, .. } => (entry, problem),
        other => panic!("{other}"),
    };
    assert_eq!(problem, ("huge".into(), TarProblem::Truncated { part: "data", expected: size, found: 0 }));
    for size in [u64::MAX >> 1, (1 << 63) - 512] {
        let size = size.to_string();
        let (_, problem) = Tar::new().pax(&[("size", size.as_bytes())]).file("a", "").problem();
        assert!(matches!(problem, TarProblem::Number { field: "size", .. }), "{problem}");
    }
    let (_, problem) = Tar::new().header("a", b'0', 0, |header| header.as_old_mut().size = [0xff; 12]).problem();
    assert!(matches!(problem, TarProblem::Number { field: "size", .. }), "{problem}");
}

#[test]
fn xattrs_are_kept_sorted_and_filtered() {
    let acl = crate::acl::WITH_MASK;
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.user.b", b"\0binary\xff="),
        ("SCHILY.xattr.user.a", b""),
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.security.selinux", b"label"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.system.posix_acl_access", acl),
        ("SCHILY.xattr.system.posix_acl_default", acl),
        ("LIBARCHIVE.xattr.user.c", b"Yw=="),
        ("SCHILY.xattr.user.b", b"twice"),
    ];
    let xattr = |namespace, name: &str, value: &[u8]| Xattr { namespace, name: name.into(), value: value.into() };
    let mut expected = vec![
        xattr(Namespace::User, "a", b""),
        xattr(Namespace::User, "b", b"twice"),
        xattr(Namespace::AccessAcl, "", acl),
        xattr(Namespace::Security, "capability", capability),
    ];
    assert_eq!(only_metadata(&Tar::new().pax(records).file("a", "")).xattrs, expected);
    expected.insert(3, xattr(Namespace::DefaultAcl, "", acl));
    assert_eq!(only_metadata(&Tar::new().pax(records).directory("a", 0o755)).xattrs, expected);
}

#[test]
fn acls_as_text_count_where_there_is_no_binary_one() {
    let text: (&str, &[u8]) = ("SCHILY.acl.access", b"user::rwx\ngroup::r-x\nmask::-w-\nother::r--\n");
    let default: (&str, &[u8]) = ("SCHILY.acl.default", text.1);
    let binary: (&str, &[u8]) = ("SCHILY.xattr.system.posix_acl_access", b"");
    let named: (&str, &[u8]) = ("SCHILY.acl.access", b"user::rwx,user:lp:r--,group::r-x,mask::r-x,other::r--");
    let namespaces = |records: &[(&str, &[u8])]| {
        let xattrs = only_metadata(&Tar::new().pax(records).directory("d", 0o755)).xattrs;
        xattrs.into_iter().map(|xattr| (xattr.namespace, xattr.value)).collect::<Vec<_>>()
    };
    let acl = crate::acl::WITH_MASK.to_vec();
    assert_eq!(namespaces(&[default, text]), [(Namespace::AccessAcl, acl.clone()), (Namespace::DefaultAcl, acl)]);
    let mode: (&str, &[u8]) = ("SCHILY.acl.access", b"u::rwx,g::r-x,o::r--");
    let metadata = only_metadata(&Tar::new().pax(&[mode]).directory("d", 0o1755));
    assert_eq!((metadata.mode, metadata.xattrs), (0o1754, Vec::new()), "it says no more than a mode");
    assert_eq!(only_metadata(&Tar::new().pax(&[text]).directory("d", 0o755)).mode, 0o724);
    assert_eq!(namespaces(&[text, binary]), []);
    assert_eq!(namespaces(&[named]), []);
}

#[test]
fn refused_entries_are_named() {
    use TarProblem::*;
    let long = vec![b'x'; 256];
    let deep = b"x/".repeat(2049);
    let target = vec![b't'; 4096];
    let bad_acl: &[(&str, &[u8])] = &[("SCHILY.xattr.system.posix_acl_access", b"user::rwx")];
    let v7 = |header: &mut tar::Header| header.as_mut_bytes()[257..265].fill(0);
    type Check = fn(&TarProblem) -> bool;
    let cases: Vec<(Tar, &str, Check)> = vec![
        (Tar::new().file("../a", ""), "../a", |p| matches!(p, ParentComponent { what: "name", .. })),
        (Tar::new().file("a/../b", ""), "a/../b", |p| matches!(p, ParentComponent { .. })),
        (Tar::new().hard_link("a", "../b"), "a", |p| matches!(p, ParentComponent { what: "hard link target", .. })),
        (Tar::new().hard_link("a", ""), "a", |p| matches!(p, EmptyTarget { what: "hard link target" })),
        (Tar::new().hard_link("a", "./"), "a", |p| matches!(p, EmptyTarget { .. })),
        (Tar::new().symlink("a", ""), "a", |p| matches!(p, EmptyTarget { what: "symbolic link target" })),
        (Tar::new().pax(&[("linkpath", &target)]).symlink("a", "b"), "a", |p| {
            matches!(p, PathTooLong { what: "symbolic link target", limit: 4095, found: 4096 })
        }),
        (Tar::new().file("", ""), "", |p| matches!(p, EmptyName)),
        (Tar::new().file(".", ""), ".", |p| matches!(p, RootNotDirectory { found: '0' })),
        (Tar::new().symlink("/", "a"), "/", |p| matches!(p, RootNotDirectory { found: '2' })),
        (Tar::new().gnu_long(b'L', &long).file("a", ""), "", |p| matches!(p, ComponentTooLong { found: 256 })),
        (Tar::new().gnu_long(b'L', &deep).file("a", ""), "", |p| matches!(p, PathTooLong { found: 4097, .. })),
        (Tar::new().file(".wh.", ""), ".wh.", |p| matches!(p, WhiteoutName { .. })),
        (Tar::new().file("d/.wh..", ""), "d/.wh..", |p| matches!(p, WhiteoutName { .. })),
        (Tar::new().file(".wh...", ""), ".wh...", |p| matches!(p, WhiteoutName { .. })),
        (Tar::new().header("q", b'Q', 0, |_| {}), "q", |p| matches!(p, UnknownType { found: 'Q' })),
        (Tar::new().header("s", b'S', 0, |_| {}), "s", |p| matches!(p, SparseForm { .. })),
        (Tar::new().pax(&[("GNU.sparse.major", b"1")]).file("s", ""), "s", |p| matches!(p, SparseForm { .. })),
        (Tar::new().pax(&[("GNU.sparse.map", b"0,1")]).file("s", ""), "s", |p| matches!(p, Number { .. })),
        (Tar::new().header("u", b'0', 0, |h| h.set_uid(u64::from(u32::MAX))), "u", |p| {
            matches!(p, Number { field: "uid", expected: "0 to 4294967294", .. })
        }),
        (Tar::new().header("u", b'0', 0, |h| h.set_uid(1 << 32)), "u", |p| matches!(p, Number { field: "uid", .. })),
        (
            Tar::new().header("u", b'0', 0, |h| h.as_old_mut().uid = [0xff; 8]),
            "u",
            |p| matches!(p, Number { field: "uid", found, .. } if found == "-1"),
        ),
        (Tar::new().pax(&[("gid", b"4294967296")]).file("g", ""), "g", |p| matches!(p, Number { field: "gid", .. })),
        (Tar::new().pax(&[("gid", b"4294967295")]).file("g", ""), "g", |p| matches!(p, Number { field: "gid", .. })),
        (Tar::new().header("m", b'0', 0, |h| h.as_old_mut().mode = *b"0000999\0"), "m", |p| {
            matches!(p, Number { field: "mode", .. })
        }),
        (Tar::new().device("c", b'3', 4096, 0), "c", |p| matches!(p, Number { field: "devmajor", .. })),
        (Tar::new().device("c", b'4', 0, 1_048_576), "c", |p| matches!(p, Number { field: "devminor", .. })),
        (Tar::new().header("v7", b'3', 0, v7), "v7", |p| matches!(p, Number { field: "devmajor", .. })),
        (Tar::new().header("v7", b'4', 0, v7), "v7", |p| matches!(p, Number { field: "devmajor", .. })),
        (Tar::new().pax(bad_acl).file("acl", ""), "acl", |p| matches!(p, Xattr { .. })),
        (Tar::new().pax(&[("path", b"a\0b")]).file("n", ""), "", |p| matches!(p, PaxRecord { .. })),
        (Tar::new().pax(&[("linkpath", b"a\0b")]).symlink("n", "t"), "", |p| matches!(p, PaxRecord { .. })),
        (Tar::new().header("x", b'x', 3, |_| {}).data(b"abc").file("n", ""), "x", |p| matches!(p, PaxRecord { .. })),
        (Tar::new().header("x", b'x', (1 << 20) + 1, |_| {}), "x", |p| {
            matches!(p, ExtendedHeaderTooLarge { limit: 1_048_576, found: 1_048_577 })
        }),
        (Tar::new().header("x", b'L', 1 << 30, |_| {}), "x", |p| matches!(p, ExtendedHeaderTooLarge { .. })),
        (Tar::new().pax(&[("path", b"p")]).end(), "p", |p| matches!(p, DanglingExtendedHeader)),
        (Tar::new().pax(&[("path", b"p")]), "p", |p| matches!(p, DanglingExtendedHeader)),
        (Tar::new().gnu_long(b'L', b"p"), "p", |p| matches!(p, DanglingExtendedHeader)),
        (Tar::new().raw(&[0; 512]).file("after", ""), "", |p| matches!(p, LoneZeroBlock)),
        (Tar::new().raw(&[b'x'; 512]), "", |p| matches!(p, Checksum { .. })),
    ];
    for (number, (tar, name, check)) in cases.into_iter().enumerate() {
        let (entry, problem) = tar.problem();
        assert!(check(&problem), "case {number}: {problem}");
        assert!(name.is_empty() || entry == name, "case {number}: names {entry:?}, not {name:?}");
    }
}

#[test]
fn a_pax_header_of_a_mebibyte_is_read() {
    let value = vec![b'c'; (1 << 20) - 20];
    let record = super::testing::pax_record("comment", &value);
    assert_eq!(record.len(), (1 << 20) - 20 + 17);
    let tar = Tar::new().pax(&[("comment", &value)]).file("a", "");
    assert_eq!(only(&tar).path, b"a");
}

#[test]
fn checksums_may_be_signed() {
    let tar = Tar::new().header("\u{e9}", b'0', 0, |_| {});
    let mut block = tar.0.clone();
    block[148..156].fill(b' ');
    let signed: i64 = block.iter().map(|&byte| i64::from(byte as i8)).sum();
    block[148..156].copy_from_slice(format!("{signed:06o}\0 ").as_bytes());
    assert_ne!(block, tar.0);
    assert_eq!(only(&Tar(block.clone())).path, "\u{e9}".as_bytes());
    block[0] ^= 1;
    assert!(matches!(Tar(block).problem().1, TarProblem::Checksum { .. }));
}

#[test]
fn the_end_of_the_archive() {
    let summary = |tar: &Tar| index_tar(&*tar.0, Vec::new()).unwrap().1;
    let one = Tar::new().file("a", "x");
    for (tar, trailing) in [
        (Tar::new(), 0),
        (Tar::new().end(), 0),
        (one.clone(), 0),
        (one.clone().raw(&[0; 512]), 0),
        (one.clone().end(), 0),
        (one.clone().end().raw(&[0; 8704]), 8704),
        (one.clone().end().raw(b"junk"), 4),
        (one.clone().end().file("b", "ignored"), 1024),
    ] {
        let summary = summary(&tar);
        assert_eq!(summary.tar_bytes, tar.0.len() as u64);
        assert_eq!(summary.trailing_bytes, trailing);
        assert_eq!(summary.entries, u64::from(tar.0.starts_with(b"a")));
        assert_eq!(summary.index_bytes, tar.index().unwrap().len() as u64);
    }
    // Data without their padding, at the very end: the kernel could not read their last block.
    let (_, problem) = Tar(one.0[..515].to_vec()).problem();
    assert_eq!(problem, TarProblem::Truncated { part: "padding", expected: 511, found: 2 });
}

#[test]
fn a_cut_anywhere_is_an_error_or_an_entry_s_boundary() {
    let tar = Tar::new()
        .pax(&[("path", b"long")])
        .file("a", &"x".repeat(700))
        .gnu_long(b'L', b"other")
        .file("b", "y")
        .directory("c", 0o755);
    let mut accepted = Vec::new();
    for len in 0..tar.0.len() {
        match Tar(tar.0[..len].to_vec()).index() {
            Ok(_) => accepted.push(len),
            Err(Error::Tar { problem, .. }) => assert!(
                matches!(problem, TarProblem::Truncated { .. } | TarProblem::DanglingExtendedHeader),
                "{len}: {problem}"
            ),
            Err(other) => panic!("{len}: {other}"),
        }
    }
    // Data end at 1536 + 700 and 4096 + 1, and are padded.
    assert_eq!(accepted, [0, 2560, 4608]);
    let (entry, problem) = Tar(tar.0[..1600].to_vec()).problem();
    assert_eq!((entry.as_str(), problem), ("long", TarProblem::Truncated { part: "data", expected: 700, found: 64 }));
    let (_, problem) = Tar(tar.0[..4600 + 100].to_vec()).problem();
    assert_eq!(problem, TarProblem::Truncated { part: "header", expected: 512, found: 92 });
    let (_, problem) = Tar(tar.0[..515].to_vec()).problem();
    assert_eq!(problem, TarProblem::Truncated { part: "extended header", expected: 13, found: 3 });
}

#[test]
fn pieces_of_any_length_give_the_same_index() {
    let tar = Tar::new()
        .pax(&[("path", b"long"), ("SCHILY.xattr.user.x", &[7; 3000])])
        .file("a", &"x".repeat(1500))
        .header("g", b'g', 600, |_| {})
        .data(&[b'g'; 600])
        .gnu_long(b'K', &[b't'; 600])
        .symlink("b", "y")
        .file("c", &"z".repeat(512))
        .end()
        .raw(b"trailing");
    let expected = tar.index().unwrap();
    for len in [1, 7, 511, 512, 513, 1024, 4096] {
        assert_eq!(tar.index_in_pieces(len).unwrap(), expected, "{len}");
    }
}

#[test]
fn global_headers_are_passed_over_and_do_not_disturb_what_is_pending() {
    let global = |tar: Tar| tar.header("g", b'g', 11, |_| {}).data(b"11 path=no\n");
    let tar = global(global(Tar::new()).pax(&[("path", b"yes")])).file("a", "").file("b", "");
    let paths: Vec<_> = tar.entries().unwrap().into_iter().map(|entry| entry.path).collect();
    assert_eq!(paths, [b"yes".to_vec(), b"b".to_vec()]);
}

#[test]
fn what_the_tar_crate_writes_is_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = "very-long-name/".repeat(20) + "file";
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o600);
    builder.append_data(&mut header, &long, &b"data"[..]).unwrap();
    let tar = Tar(builder.into_inner().unwrap());
    let entry = only(&tar);
    assert_eq!(entry.path, long.as_bytes());
    assert!(matches!(entry.kind, EntryKind::Regular { size: 4, block: 3, .. }), "{entry:?}");
}

#[test]
fn after_an_error_nothing_works() {
    let mut indexer = TarIndexer::new(Vec::new());
    indexer.push(&[b'x'; 512]).unwrap_err();
    assert!(matches!(indexer.push(b"more"), Err(Error::UsedAfterError { .. })));
    assert!(matches!(indexer.finish(), Err(Error::UsedAfterError { .. })));
}

#[test]
fn a_layer_has_so_many_entries_and_no_more() {
    let indexed = |tar: Tar, limit| {
        let mut indexer = TarIndexer::new(Vec::new());
        indexer.max_entries = limit;
        indexer.push(&tar.0).and_then(|()| indexer.finish())
    };
    // What makes no record does not count.
    let tar = || Tar::new().file("a", "").file(".wh..wh.plnk", "").file("a", "");
    assert_eq!(indexed(tar(), 2).unwrap().summary.entries, 2);
    let error = indexed(tar().file("third", ""), 2).unwrap_err();
    let problem = TarProblem::TooManyEntries { limit: 2 };
    assert!(matches!(&error, Error::Tar { entry, problem: p, .. } if entry == "third" && *p == problem), "{error}");
    assert_eq!(TarIndexer::new(Vec::new()).max_entries, crate::MAX_ENTRIES);
}
