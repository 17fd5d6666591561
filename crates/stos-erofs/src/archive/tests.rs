// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is written is what our own indexer reads, byte for byte the same each time.

use std::io::{self, Read};

use super::{DataRange, Names, TarWriter};
use crate::tarball::testing::entries;
use crate::{DataPlace, Entry, EntryKind, Error, Metadata, Namespace, TarProblem, Timestamp, Xattr, index_tar};

fn at(seconds: i64, nanoseconds: u32) -> Timestamp {
    Timestamp { seconds, nanoseconds }
}

fn plain() -> Metadata {
    Metadata { mode: 0o644, uid: 1, gid: 2, mtime: at(1_000_000_000, 0), xattrs: Vec::new() }
}

fn entry(path: impl AsRef<[u8]>, kind: EntryKind) -> Entry {
    Entry { path: path.as_ref().to_vec(), kind }
}

fn file(path: impl AsRef<[u8]>, metadata: Metadata, size: u64) -> Entry {
    entry(path, EntryKind::Regular { metadata, size, place: DataPlace::Tar, block: 0 })
}

fn xattr(namespace: Namespace, name: &[u8], value: &[u8]) -> Xattr {
    Xattr { namespace, name: name.into(), value: value.into() }
}

/// Every kind of entry, and for each field the values that fit and that do not.
fn everything() -> Vec<Entry> {
    let long = |len: usize| vec![b'x'; len];
    let deep = vec!["d".repeat(200); 20].join("/").into_bytes();
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut attributes = vec![
        xattr(Namespace::User, b"a", b"\0=\n\xff"),
        xattr(Namespace::User, b"large", &vec![b'v'; 60_000]),
        xattr(Namespace::AccessAcl, b"", acl),
        xattr(Namespace::Trusted, b"t", b"1"),
        xattr(Namespace::Security, b"capability", capability),
    ];
    attributes.sort();
    vec![
        entry("", EntryKind::Directory(Metadata { mode: 0o1777, ..plain() })),
        entry("d", EntryKind::Directory(Metadata { xattrs: vec![xattr(Namespace::DefaultAcl, b"", acl)], ..plain() })),
        entry("d/e", EntryKind::Opaque),
        entry("gone", EntryKind::Whiteout),
        entry("d/gone", EntryKind::Whiteout),
        entry([&b"d/"[..], &long(251)].concat(), EntryKind::Whiteout),
        entry([&b"d/"[..], &long(255)].concat(), EntryKind::Whiteout),
        file("a", Metadata { mode: 0o7777, ..plain() }, 5),
        file("empty", plain(), 0),
        file("block", plain(), 512),
        file(long(100), plain(), 1),
        file(long(101), plain(), 1),
        file([&long(150)[..], b"/", &long(90)].concat(), plain(), 1),
        file(&deep, plain(), 1),
        entry([&deep[..], b"/dir"].concat(), EntryKind::Directory(plain())),
        file("d/é", plain(), 1),
        file(b"d/\xff\xfe\n", plain(), 1),
        file("large ids", Metadata { uid: 2_097_151, gid: 2_097_152, ..plain() }, 0),
        file("larger ids", Metadata { uid: u32::MAX - 1, gid: 2_097_151, ..plain() }, 0),
        file("fraction", Metadata { mtime: at(1, 120_000_000), ..plain() }, 0),
        file("before", Metadata { mtime: at(-2, 500_000_000), ..plain() }, 0),
        file("late", Metadata { mtime: at(0o77_777_777_777, 0), ..plain() }, 0),
        file("later", Metadata { mtime: at(0o100_000_000_000, 999_999_999), ..plain() }, 0),
        file("attributes", Metadata { xattrs: attributes, ..plain() }, 3),
        entry("link", EntryKind::Symlink { metadata: plain(), target: b"../x".to_vec() }),
        entry("long link", EntryKind::Symlink { metadata: plain(), target: long(4095) }),
        entry("odd link", EntryKind::Symlink { metadata: plain(), target: b"\xff/\xc3\xa9".to_vec() }),
        entry("hard", EntryKind::HardLink { target: b"a".to_vec() }),
        entry("long hard", EntryKind::HardLink { target: deep }),
        entry("char", EntryKind::CharacterDevice { metadata: plain(), major: 4095, minor: 1_048_575 }),
        entry("disk", EntryKind::BlockDevice { metadata: plain(), major: 0, minor: 0 }),
        entry("fifo", EntryKind::Fifo(plain())),
    ]
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for entry in entries {
        writer.append(entry, io::repeat(b'y')).unwrap();
    }
    writer.finish().unwrap()
}

fn read(tar: &[u8]) -> Vec<Entry> {
    entries(&index_tar(tar, Vec::new()).unwrap().0).unwrap()
}

/// Where the data stand is the tar's own affair.
fn without_blocks(mut entries: Vec<Entry>) -> Vec<Entry> {
    for entry in &mut entries {
        if let EntryKind::Regular { block, .. } = &mut entry.kind {
            *block = 0;
        }
    }
    entries
}

#[test]
fn our_indexer_reads_what_was_written() {
    let (all, tar) = (everything(), write(&everything()));
    for (found, expected) in without_blocks(read(&tar)).iter().zip(&all) {
        assert_eq!(found, expected);
    }
    assert_eq!(read(&tar).len(), all.len());
    assert_eq!(tar, write(&all), "the same bytes each time");
    assert!(tar.ends_with(&[0; 1024]));
}

#[test]
fn ustar_alone_where_it_is_enough() {
    let entries = [
        entry("d", EntryKind::Directory(plain())),
        file("d/a", plain(), 5),
        file(["x".repeat(155), "y".repeat(100)].join("/"), plain(), 0),
        entry("s", EntryKind::Symlink { metadata: plain(), target: vec![b't'; 100] }),
    ];
    assert_eq!(write(&entries).len(), 512 * (4 + 1 + 2));
}

#[test]
fn a_size_of_8_gib_is_told_by_pax() {
    for (size, pax) in [((8 << 30) - 1, false), (8 << 30, true)] {
        // The head of the tar is enough.
        let mut head = Head(Vec::new());
        let failed = TarWriter::new(&mut head).append(&file("big", plain(), size), io::empty()).unwrap_err();
        assert!(matches!(failed, Error::Io { .. }), "{failed}");
        let header = if pax { &head.0[1024..] } else { &head.0[..] };
        let expected: &[u8] = if pax { b"00000000000\0" } else { b"77777777777\0" };
        assert_eq!(&header[124..136], expected);
        assert_eq!(head.0[512..].starts_with(b"19 size=8589934592\n"), pax);
    }
}

/// Takes two KiB.
struct Head(Vec<u8>);

impl io::Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = 2048_usize.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend_from_slice(&bytes[..room]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn data_have_the_promised_size_whatever_the_reader_gives() {
    for given in [0_u64, 1, 511, 512, 70_000, 200_000] {
        let mut writer = TarWriter::new(Vec::new());
        writer.append(&file("a", plain(), 70_000), io::repeat(b'y').take(given)).unwrap();
        writer.append(&file("b", plain(), 1), &b"z"[..]).unwrap();
        let tar = writer.finish().unwrap();
        let kept = given.min(70_000) as usize;
        assert!(tar[512..512 + kept].iter().all(|&byte| byte == b'y'), "{given}");
        assert!(tar[512 + kept..512 + 70_144].iter().all(|&byte| byte == 0), "{given}");
        assert_eq!(read(&tar).len(), 2, "{given}");
    }
}

#[test]
fn a_reader_that_fails_ends_the_tar() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    let mut writer = TarWriter::new(Vec::new());
    assert!(matches!(writer.append(&file("a", plain(), 7), Broken), Err(Error::Io { .. })));
    assert!(matches!(writer.append(&file("b", plain(), 0), io::empty()), Err(Error::UsedAfterError { .. })));
    assert!(matches!(writer.finish(), Err(Error::UsedAfterError { .. })));
}

#[test]
fn what_no_tar_can_say_is_refused_and_named() {
    let odd = Metadata { xattrs: vec![xattr(Namespace::User, b"a=b", b"")], ..plain() };
    let mut cases = vec![
        file("x/../y", plain(), 0),
        file("/x", plain(), 0),
        file("", plain(), 0),
        file("a\0b", plain(), 0),
        file("x".repeat(256), plain(), 0),
        file(vec!["d"; 2049].join("/"), plain(), 0),
        file(".wh.x", plain(), 0),
        file("d/.wh..wh..opq", plain(), 0),
        file("d/.wh..wh.x/y", plain(), 0),
        file("attribute", odd, 0),
        entry("", EntryKind::Whiteout),
        entry(".wh.x", EntryKind::Whiteout),
        entry("l", EntryKind::Symlink { metadata: plain(), target: Vec::new() }),
        entry("l", EntryKind::Symlink { metadata: plain(), target: vec![b'x'; 4096] }),
        entry("l", EntryKind::Symlink { metadata: plain(), target: b"a\0b".to_vec() }),
        entry("h", EntryKind::HardLink { target: b"../x".to_vec() }),
        entry("h", EntryKind::HardLink { target: b"/x".to_vec() }),
        entry("c", EntryKind::CharacterDevice { metadata: plain(), major: 0, minor: 0 }),
        entry("c", EntryKind::CharacterDevice { metadata: plain(), major: 4096, minor: 0 }),
    ];
    for case in cases.drain(..) {
        let mut writer = TarWriter::new(Vec::new());
        match writer.append(&case, io::empty()).unwrap_err() {
            Error::Tar { entry, .. } => assert_eq!(entry.is_empty(), case.path.is_empty(), "{case:?}"),
            other => panic!("{case:?}: {other}"),
        }
        assert_eq!(writer.position(), 0, "nothing of it is written");
    }
}

#[test]
fn names_are_free_where_the_tar_is_no_layer() {
    let mut writer = TarWriter::with_names(Vec::new(), Names::Free);
    for name in [".wh.x", ".wh.", "d/.wh..wh..opq", ".wh..wh.aufs/x"] {
        writer.append(&file(name, plain(), 0), io::empty()).unwrap();
    }
    let tar = writer.finish().unwrap();
    let names: Vec<_> =
        tar::Archive::new(&tar[..]).entries().unwrap().map(|e| e.unwrap().path_bytes().to_vec()).collect();
    assert_eq!(names, [&b".wh.x"[..], b".wh.", b"d/.wh..wh..opq", b".wh..wh.aufs/x"]);
}

#[test]
fn links_carry_what_their_file_has() {
    let mut writer = TarWriter::new(Vec::new());
    let metadata = Metadata { uid: 3_000_000, mode: 0o4755, ..plain() };
    writer.append(&file("a", metadata.clone(), 1), &b"x"[..]).unwrap();
    writer.append_link(b"b", &metadata, b"a").unwrap();
    let tar = writer.finish().unwrap();
    assert_eq!(read(&tar)[1], entry("b", EntryKind::HardLink { target: b"a".to_vec() }));
    for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o4755);
        let uid = entry.pax_extensions().unwrap().unwrap().next().unwrap().unwrap();
        assert_eq!((uid.key(), uid.value()), (Ok("uid"), Ok("3000000")));
    }
}

#[test]
fn ranges_of_a_sparse_file_are_checked_before_anything_is_written() {
    let mut writer = TarWriter::new(Vec::new());
    let ranges = [DataRange { offset: 8, len: 512 }, DataRange { offset: 4, len: 1 }];
    let failed = writer.append_sparse(b"s", &plain(), 1000, &ranges, io::repeat(1)).unwrap_err();
    assert!(
        matches!(&failed, Error::Tar { entry, problem: TarProblem::Unwritable { .. }, .. } if entry == "s"),
        "{failed}"
    );
    assert_eq!(writer.position(), 0);
}

#[test]
fn our_indexer_reads_sparse_files() {
    let mut writer = TarWriter::new(Vec::new());
    let ranges = [DataRange { offset: 4096, len: 512 }, DataRange { offset: 1 << 33, len: 100 }];
    writer.append_sparse(b"d/s", &plain(), 1 << 34, &ranges, io::repeat(1)).unwrap();
    writer.append_sparse(b"d/hole", &plain(), 1 << 20, &[], io::empty()).unwrap();
    let found = read(&writer.finish().unwrap());
    let sizes = found.iter().map(|entry| match &entry.kind {
        EntryKind::Regular { size, metadata, .. } => (entry.path.as_slice(), *size, metadata.clone()),
        other => panic!("{other:?}"),
    });
    let sizes = sizes.collect::<Vec<_>>();
    assert_eq!(sizes, [(&b"d/s"[..], 1 << 34, plain()), (b"d/hole", 1 << 20, plain())]);
}
