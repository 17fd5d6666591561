// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Damaged indexes.

use super::*;
use crate::error::IndexProblem;
use crate::tarball::testing::{Tar, entries};
use crate::{Error, IndexReader, LayerInput, Merger};

fn sample() -> Tar {
    Tar::new()
        .directory("d/", 0o755)
        .pax(&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.user.b", b"2"), ("mtime", b"-1.5")])
        .file("d/file", "content")
        .symlink("d/link", "file")
        .hard_link("d/hard", "d/file")
        .device("d/null", b'3', 1, 3)
        .file("e/.wh.x", "")
        .file("e/.wh..wh..opq", "")
        .end()
}

fn problem(index: &[u8]) -> IndexProblem {
    match entries(index).unwrap_err() {
        Error::Index { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

/// An index of our own making, with a right checksum.
fn forge(records: &[u8], count: u8) -> Vec<u8> {
    let mut index = [MAGIC, &[2][..], records, &[kind::END, count, 0, 0]].concat();
    index.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
    index
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    let tar = sample();
    let index = tar.index().unwrap();
    assert_eq!(entries(&index).unwrap().len(), 7);
    for at in 0..index.len() {
        for flip in [0x01, 0x80, 0xff, 0x20] {
            let mut damaged = index.clone();
            damaged[at] ^= flip;
            assert!(matches!(entries(&damaged), Err(Error::Index { .. })), "byte {at} ^ {flip:#x}");
            assert!(Merger::new().add_layer(tar.layer(1), &*damaged).is_err(), "byte {at} ^ {flip:#x}");
        }
        assert!(matches!(entries(&index[..at]), Err(Error::Index { .. })), "cut at {at}");
    }
    let longer = [&index[..], b"x"].concat();
    assert_eq!(problem(&longer), IndexProblem::TrailingBytes);
}

#[test]
fn other_files_and_versions_are_told_apart() {
    assert_eq!(problem(b"\x7fELF0123456789"), IndexProblem::Magic { found: b"\x7fELF0123".to_vec() });
    for found in [1, 3] {
        let index = [&b"STOSIDX\n"[..], &[found]].concat();
        assert_eq!(problem(&index), IndexProblem::Version { expected: 2, found: found.into() });
    }
    assert_eq!(problem(b"STOS"), IndexProblem::Truncated);
}

#[test]
fn impossible_records_are_refused_even_with_a_right_checksum() {
    let fifo = |path: &[u8]| [&[kind::FIFO, 0, path.len() as u8], path, &[0, 0, 0, 0, 0]].concat();
    assert_eq!(entries(&forge(&fifo(b"a"), 1)).unwrap().len(), 1);
    assert_eq!(problem(&forge(&fifo(b"a"), 2)), IndexProblem::Count { expected: 2, found: 1 });
    for (records, what) in [
        (fifo(b""), "type of the root"),
        (fifo(b"a/"), "path"),
        (fifo(b"/a"), "path"),
        (fifo(b"a/../b"), "path"),
        (fifo(b"a\0"), "path"),
        (vec![kind::FIFO, 1, 1, b'a'], "shared path length"),
        (vec![kind::FIFO, 0, 0xff, 0xff, 0xff, 0xff, 0x7f], "path length"),
        (vec![kind::FIFO, 0, 1, b'a', 0xff, 0xff, 0x7f], "mode"),
        (vec![kind::FIFO, 0, 1, b'a', 0, 0xff, 0xff, 0xff, 0xff, 0x1f], "uid"),
        (vec![0x0f, 0, 1, b'a'], "record kind"),
        (vec![kind::WHITEOUT | HAS_XATTRS, 0, 1, b'a'], "record kind"),
        (vec![kind::HARD_LINK, 0, 1, b'a', 0], "link target"),
        (vec![kind::HARD_LINK, 0, 1, b'a', 2, b'.', b'.'], "hard link target"),
        (vec![kind::FIFO | HAS_XATTRS, 0, 1, b'a', 0, 0, 0, 0, 0, 0], "size of all attributes"),
        (vec![kind::FIFO | HAS_XATTRS, 0, 1, b'a', 0, 0, 0, 0, 0, 1, 9], "attribute namespace"),
        (vec![kind::FIFO | HAS_XATTRS, 0, 1, b'a', 0, 0, 0, 0, 0, 2, 1, 0, 0, 1, 0, 0], "order of attributes"),
        (vec![kind::CHARACTER, 0, 1, b'a', 0, 0, 0, 0, 0, 0x80, 0x20, 0], "major number"),
        ([&[kind::REGULAR, 0, 1, b'a', 0, 0, 0, 0, 0, 1][..], &[0xff; 9], &[0x7f]].concat(), "number"),
        ([&[kind::REGULAR, 0, 1, b'a', 0, 0, 0, 0, 0, 1][..], &[0xff; 8], &[0x7f]].concat(), "extent"),
        ([&[kind::SPARSE, 0, 1, b'a', 0, 0, 0, 0, 0, 1][..], &[0xff; 8], &[0x7f]].concat(), "extent"),
        (vec![kind::SPARSE, 0, 1, b'a', 0, 0, 0, 0, 0, 0], "size of a sparse file"),
    ] {
        let found = problem(&forge(&records, 1));
        assert_eq!(found, IndexProblem::Record { what }, "{}", records.escape_ascii());
    }
}

#[test]
fn the_trailer_says_how_long_the_tar_is() {
    let tar = sample().raw(b"trailing");
    let index = tar.index().unwrap();
    let mut reader = IndexReader::new(&*index).unwrap();
    assert_eq!(reader.totals(), None);
    while reader.next_entry().unwrap().is_some() {}
    assert_eq!(reader.totals().unwrap().tar_bytes, tar.0.len() as u64);
    assert!(reader.next_entry().unwrap().is_none());
    let shorter = LayerInput { tar_bytes: 10_000_000, ..tar.layer(1) };
    assert!(matches!(Merger::new().add_layer(shorter, &*index), Err(Error::Merge { .. })));
}

#[test]
fn a_reader_that_gives_single_bytes_is_enough() {
    struct Dribble<'a>(&'a [u8]);
    impl std::io::Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }
    let index = sample().index().unwrap();
    let mut reader = IndexReader::new(Dribble(&index)).unwrap();
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        found.push(entry);
    }
    assert_eq!(found, entries(&index).unwrap());
}
