// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a sink is given, and the tar that is made again of it.

use std::io;

use super::TarSink;
use crate::tarball::testing::{Kept, Tar};
use crate::{Entry, EntryKind, Error, TarIndexer, assemble_tar};

fn odd_tar() -> Tar {
    Tar::new()
        .directory("./", 0o755)
        .pax(&[("path", b"long/name"), ("size", b"1500")])
        .header("a", b'0', 7, |_| {})
        .data(&[b'x'; 1500])
        .file("empty", "")
        .file("twice", "first")
        .file("twice", "second")
        .hard_link("hard", "twice")
        .file("d/.wh.gone", "data of a whiteout")
        .file(".wh..wh.plnk/1", "data of what aufs left")
        .header("dir/", b'0', 5, |_| {})
        .data(b"named")
        .header("list", b'D', 6, |_| {})
        .data(b"Yfile\0")
        .header("label", b'V', 0, |_| {})
        .header("g", b'g', 11, |_| {})
        .data(b"11 path=no\n")
        .gnu_long(b'L', &[b'n'; 200])
        .header("n", b'7', 512, |_| {})
        .data(&[b'7'; 512])
}

#[test]
fn a_sink_is_given_each_byte_once_and_they_make_the_same_tar() {
    let ends = [
        odd_tar(),
        odd_tar().end(),
        odd_tar().end().raw(&[0; 8704]),
        odd_tar().end().file("after", "the end"),
        odd_tar().raw(&[0; 512]),
        Tar::new(),
        Tar::new().end(),
    ];
    for (number, Tar(tar)) in ends.iter().enumerate() {
        let whole = Kept::of(tar, usize::MAX);
        let files: usize = whole.data.iter().flatten().map(|(_, run)| run.len()).sum();
        assert_eq!(whole.raw.len() + files, tar.len(), "{number}");
        assert!(whole.assemble() == *tar, "{number}");
        for len in [1, 7, 511, 512, 513, 4096] {
            assert!(Kept::of(tar, len) == whole, "{number} in pieces of {len}");
        }
    }
}

#[test]
fn only_files_of_the_index_have_data() {
    let kept = Kept::of(&odd_tar().end().0, 1000);
    let of_files: Vec<_> = kept.entries.iter().zip(&kept.data).filter(|(_, runs)| !runs.is_empty()).collect();
    let expected = [("long/name", 1500), ("twice", 5), ("twice", 6), (&"n".repeat(200), 512)];
    assert_eq!(of_files.len(), expected.len());
    for ((entry, runs), (name, len)) in of_files.into_iter().zip(expected) {
        assert!(matches!(entry.kind, EntryKind::Regular { size, .. } if size == len), "{entry:?}");
        assert_eq!((entry.path.as_slice(), runs.len()), (name.as_bytes(), 1));
        assert_eq!((runs[0].0, runs[0].1.len() as u64), (0, len));
    }
    assert_eq!(kept.data[3], [(0, b"first".to_vec())]);
    assert_eq!(kept.data[4], [(0, b"second".to_vec())]);
}

/// An error of the sink's own.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("full after {0} calls")]
struct Full(u32);

/// Fails at the call of that number.
struct FailsAt(u32, u32);

impl FailsAt {
    fn call(&mut self) -> io::Result<()> {
        self.1 += 1;
        if self.1 > self.0 { Err(io::Error::other(Full(self.0))) } else { Ok(()) }
    }
}

impl TarSink for FailsAt {
    fn entry(&mut self, _: u64, _: &Entry) -> io::Result<()> {
        self.call()
    }

    fn data(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        self.call()
    }

    fn raw(&mut self, _: &[u8]) -> io::Result<()> {
        self.call()
    }
}

#[test]
fn a_sink_gets_its_own_error_back() {
    let tar = Tar::new().file("a", "data").end();
    // Header, entry, data, padding, two blocks of zeros.
    for calls in 0..6 {
        let mut indexer = TarIndexer::with_sink(Vec::new(), FailsAt(calls, 0));
        match indexer.push(&tar.0).unwrap_err() {
            Error::Sink { source } => assert_eq!(source.downcast::<Full>().unwrap(), Full(calls)),
            other => panic!("{calls}: {other}"),
        }
        assert!(matches!(indexer.push(b"x"), Err(Error::UsedAfterError { .. })), "{calls}");
    }
    let mut indexer = TarIndexer::with_sink(Vec::new(), FailsAt(6, 0));
    indexer.push(&tar.0).unwrap();
    assert_eq!(indexer.finish().unwrap().sink.1, 6);
}

#[test]
fn the_index_s_writer_and_the_sink_fail_apart() {
    struct Fails;
    impl io::Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("index"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut indexer = TarIndexer::with_sink(Fails, Kept::default());
    indexer.push(&odd_tar().0).unwrap();
    assert!(matches!(indexer.finish(), Err(Error::Io { operation: "write the layer index", .. })));
}

#[test]
fn data_that_are_not_what_was_asked_for_are_refused() {
    let tar = Tar::new().file("a", "").file("b", "data").end();
    let raw = Kept::of(&tar.0, 512).raw;
    for (given, found) in [(&b""[..], 0), (b"dat", 3), (b"data!", 5)] {
        let error = assemble_tar(&*raw, Vec::new(), |_, _, _, out| out.write_all(given)).unwrap_err();
        assert!(
            matches!(error, Error::DataLength { number: 1, expected: 4, found: told } if told == found),
            "{given:?}: {error}"
        );
    }
    let error = assemble_tar(&*raw, Vec::new(), |_, _, _, _| Err(io::Error::other(Full(9)))).unwrap_err();
    match error {
        Error::Data { number: 1, source } => assert_eq!(source.downcast::<Full>().unwrap(), Full(9)),
        other => panic!("{other}"),
    }
    let cut = assemble_tar(&raw[..700], Vec::new(), |_, _, _, out| out.write_all(b"data")).unwrap_err();
    assert!(matches!(cut, Error::Tar { .. }), "{cut}");
}
