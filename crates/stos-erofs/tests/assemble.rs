// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tars taken apart and made again: the same bytes, whoever wrote them.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use stos_erofs::{Entry as Record, TarSink, assemble_tar, index_tar, index_tar_into};
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, Format, RawHeader, TarBuilder};

/// Keeps the data of each entry as they come, and all else.
#[derive(Default)]
struct Parts {
    raw: Vec<u8>,
    data: Vec<Vec<(u64, Vec<u8>)>>,
}

impl TarSink for Parts {
    fn entry(&mut self, _: u64, _: &Record) -> io::Result<()> {
        self.data.push(Vec::new());
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.data.last_mut().unwrap().push((offset, bytes.to_vec()));
        Ok(())
    }

    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.extend_from_slice(bytes);
        Ok(())
    }
}

/// Pieces of an odd length, so that nothing ends where they do.
struct Pieces<'a>(&'a [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = into.len().min(1009);
        self.0.read(&mut into[..len])
    }
}

/// Takes a tar apart and makes it again; gives how many entries it has.
#[track_caller]
fn comes_back(tar: &[u8], what: &str) -> usize {
    let split = index_tar_into(Pieces(tar), Vec::new(), Parts::default());
    let split = split.unwrap_or_else(|error| panic!("{what}: {error}"));
    let (index, _) = index_tar(tar, Vec::new()).unwrap();
    assert!(split.out == index, "{what}: the sink changes nothing of the index");
    let parts = split.sink;
    let mut out = Vec::new();
    let len = assemble_tar(Pieces(&parts.raw), &mut out, |number, offset, len, to| {
        let mut left = len;
        for (at, piece) in parts.data[number as usize].iter().filter(|(at, _)| *at >= offset && *at < offset + len) {
            assert_eq!(*at, offset + len - left, "{what}");
            to.write_all(piece)?;
            left -= piece.len() as u64;
        }
        Ok(())
    });
    assert_eq!(len.unwrap_or_else(|error| panic!("{what}: {error}")), tar.len() as u64, "{what}");
    assert!(out == tar, "{what}");
    parts.data.len()
}

fn odd(format: Format) -> TarBuilder {
    let long = "long/".repeat(30) + "name";
    let x = vec![b'x'; 70_000];
    TarBuilder::new()
        .entry(Entry::directory("./"))
        .entry(Entry::file(&long, &x).owner(4_000_000, 7).mtime(-5, 3).format(format))
        .entry(Entry::file("twice", "1").format(format))
        .entry(Entry::file("twice", "22").format(format))
        .entry(Entry::hard_link("hard", "twice").format(format))
        .entry(Entry::symlink("link", &long).format(format))
        .entry(Entry::char_device("null", 1, 3).format(format))
        .whiteout("gone")
        .opaque("d")
        .entry(Entry::file(".wh..wh.aufs", "left by aufs").format(format))
        .entry(Entry::file(".wh.data", "data of a whiteout").format(format))
        .entry(Entry::of_kind(b'V', "label"))
        .entry(Entry::of_kind(b'D', "dump").data("Yfile\0"))
        .entry(Entry::file("slash/", "no file's").format(format))
        .pax_global(&[("comment", b"global")])
        .raw_entry(&RawHeader::ustar("by-hand").size(600).checksum(), &[b'h'; 600])
}

#[test]
fn what_the_builders_write() {
    for format in [Format::Pax, Format::Gnu, Format::Ustar] {
        let tar = odd(format);
        comes_back(&tar.clone().finish(), "whole");
        comes_back(&tar.clone().finish_unterminated(), "without an end");
        comes_back(&[tar.clone().finish(), b"bytes after the end".to_vec()].concat(), "bytes after the end");
        comes_back(&[tar.clone().finish(), tar.finish()].concat(), "two archives");
    }
    let data = [3; 3000];
    let segments: &[(u64, &[u8])] = &[(512, &data), (1 << 20, &data[..1]), (3 << 20, &data)];
    let sparse = odd(Format::Pax)
        .sparse_gnu("gnu", 4 << 20, segments)
        .sparse_pax("1.0", 4 << 20, segments)
        .sparse_pax_0_0("0.0", 4 << 20, segments)
        .sparse_pax_0_1("0.1", 4 << 20, segments)
        .sparse_gnu(".wh.sparse", 4 << 20, segments)
        .entry(Entry::file("after", "a"));
    comes_back(&sparse.finish(), "sparse");
    for end in 0..2048 {
        // Cut where the builders would not: what is no error must come back.
        let tar = TarBuilder::new().entry(Entry::file("f", [1; 700])).finish();
        if index_tar(&tar[..end.min(tar.len())], Vec::new()).is_ok() {
            comes_back(&tar[..end.min(tar.len())], "cut");
        }
    }
}

#[test]
fn what_the_tar_crate_writes() {
    // Long names as GNU's, as Go's archive/tar writes them for docker.
    let mut builder = tar::Builder::new(Vec::new());
    for (name, len) in [("short".to_owned(), 5), ("deep/".repeat(40) + "name", 100_000), ("empty".to_owned(), 0)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(len);
        builder.append_data(&mut header, name, io::repeat(b'y').take(len)).unwrap();
    }
    assert_eq!(comes_back(&builder.into_inner().unwrap(), "tar crate"), 3);
}

fn write_tree(root: &Path) {
    fs::create_dir_all(root.join("directory")).unwrap();
    fs::write(root.join("directory/file"), vec![b'f'; 12_345]).unwrap();
    fs::write(root.join("directory").join("n".repeat(200)), "long").unwrap();
    fs::hard_link(root.join("directory/file"), root.join("hard")).unwrap();
    std::os::unix::fs::symlink("directory/file", root.join("link")).unwrap();
    let sparse = fs::File::create_new(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    for part in 0..60 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[b's'; 4096], part << 20).unwrap();
    }
}

#[test]
fn what_gnu_tar_writes_in_every_format() {
    stos_testkit::require!(Need::Tool("tar"));
    let place = environment::scratch();
    write_tree(place.path());
    let forms: [&[&str]; 9] = [
        &["--format=v7"],
        &["--format=ustar"],
        &["--format=oldgnu", "--sparse"],
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=gnu", "--sparse", "--blocking-factor=64", "--label=label"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ];
    for form in forms {
        let output = Command::new(environment::tool("tar").unwrap())
            .args(form)
            .args(["-cf", "-", "-C"])
            .arg(place.path())
            .arg(".")
            .output()
            .unwrap();
        // v7 and ustar leave out what they have no field for, with a warning and exit status 2.
        assert!(output.stdout.len() > 100_000, "{form:?}: {}", String::from_utf8_lossy(&output.stderr));
        let entries = comes_back(&output.stdout, &format!("{form:?}"));
        assert!((6..=7).contains(&entries), "{form:?}: {entries} entries");
    }
}
