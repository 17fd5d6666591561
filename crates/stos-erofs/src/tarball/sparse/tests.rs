// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sparse members in their four forms, and every way in which a map can lie.

use crate::error::{ImageProblem, MergeProblem, TarProblem};
use crate::image::testing::merge;
use crate::tarball::testing::{Kept, Tar};
use crate::{DataPlace, EntryKind, Error, LayerInput, MAX_SPARSE_MAP, Merger, extra_tag, index_tar};

/// A segment of a map: where and how long.
type Map = [(u64, u64)];

/// The fields of GNU's map, into a header or a block after it.
fn put_map(block: &mut [u8], at: usize, map: &Map) {
    for (slot, (offset, len)) in map.iter().enumerate() {
        let entry = format!("{offset:011o}\0{len:011o}\0");
        block[at + 24 * slot..][..24].copy_from_slice(entry.as_bytes());
    }
}

/// A member in GNU's old form, with a map of any length, whatever it says.
fn gnu(tar: Tar, name: &str, real_size: u64, map: &Map, data: &[u8]) -> Tar {
    let (first, rest) = map.split_at(map.len().min(4));
    let mut tar = tar.header(name, b'S', data.len() as u64, |header| {
        let block = header.as_mut_bytes();
        block[257..265].copy_from_slice(b"ustar  \0");
        put_map(block, 386, first);
        block[482] = u8::from(!rest.is_empty());
        block[483..495].copy_from_slice(format!("{real_size:011o}\0").as_bytes());
    });
    let mut chunks = rest.chunks(21).peekable();
    while let Some(chunk) = chunks.next() {
        let mut block = [0; 512];
        put_map(&mut block, 0, chunk);
        block[504] = u8::from(chunks.peek().is_some());
        tar = tar.raw(&block);
    }
    tar.data(data)
}

fn pax_0_0(tar: Tar, name: &str, real_size: u64, map: &Map, data: &[u8]) -> Tar {
    let numbers: Vec<_> = map.iter().map(|(offset, len)| (offset.to_string(), len.to_string())).collect();
    let (size, count) = (real_size.to_string(), map.len().to_string());
    let mut records = vec![("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.numblocks", count.as_bytes())];
    for (offset, len) in &numbers {
        records.extend([("GNU.sparse.offset", offset.as_bytes()), ("GNU.sparse.numbytes", len.as_bytes())]);
    }
    tar.pax(&records).header(name, b'0', data.len() as u64, |_| {}).data(data)
}

fn pax_0_1(tar: Tar, name: &str, real_size: u64, map: &Map, data: &[u8]) -> Tar {
    let numbers: Vec<_> = map.iter().flat_map(|(offset, len)| [offset.to_string(), len.to_string()]).collect();
    let (size, count) = (real_size.to_string(), map.len().to_string());
    tar.pax(&[
        ("GNU.sparse.name", name.as_bytes()),
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", count.as_bytes()),
        ("GNU.sparse.map", numbers.join(",").as_bytes()),
    ])
    .header("GNUSparseFile.1/x", b'0', data.len() as u64, |_| {})
    .data(data)
}

fn pax_1_0(tar: Tar, name: &str, real_size: u64, map: &Map, data: &[u8]) -> Tar {
    let lines: String = map.iter().map(|(offset, len)| format!("{offset}\n{len}\n")).collect();
    text_map(tar, name, real_size, format!("{}\n{lines}", map.len()).as_bytes(), data)
}

/// PAX 1.0 with any text for a map.
fn text_map(tar: Tar, name: &str, real_size: u64, text: &[u8], data: &[u8]) -> Tar {
    let mut body = text.to_vec();
    body.resize(body.len().next_multiple_of(512), 0);
    body.extend_from_slice(data);
    let size = real_size.to_string();
    tar.pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", name.as_bytes()),
        ("GNU.sparse.realsize", size.as_bytes()),
    ])
    .header("GNUSparseFile.1/x", b'0', body.len() as u64, |_| {})
    .data(&body)
}

type Form = fn(Tar, &str, u64, &Map, &[u8]) -> Tar;
const FORMS: [(&str, Form); 4] = [("gnu", gnu), ("0.0", pax_0_0), ("0.1", pax_0_1), ("1.0", pax_1_0)];

/// What a file with that map holds.
fn expand(real_size: u64, map: &Map, data: &[u8]) -> Vec<u8> {
    let mut file = vec![0; real_size as usize];
    let mut at = 0;
    for &(offset, len) in map {
        file[offset as usize..][..len as usize].copy_from_slice(&data[at..][..len as usize]);
        at += len as usize;
    }
    file
}

#[test]
fn every_form_has_the_same_meaning_in_pieces_of_any_length() {
    let many: Vec<_> = (0..200).map(|number| (number * 1000, 7)).collect();
    let maps: [(u64, &Map); 5] = [
        (200_000, &many),
        (100_000, &[(0, 1), (1, 600), (90_000, 10_000), (100_000, 0)]),
        (5000, &[(5000, 0)]),
        (513, &[(0, 513)]),
        (0, &[(0, 0)]),
    ];
    for (form, make) in FORMS {
        for (real_size, map) in maps {
            let packed: u64 = map.iter().map(|(_, len)| len).sum();
            let data: Vec<u8> = (0..packed).map(|at| (at % 251) as u8 + 1).collect();
            let tar = make(Tar::new().file("before", "b"), "d/sparse", real_size, map, &data).file("after", "a").end();
            let kept = Kept::of(&tar.0, usize::MAX);
            let paths: Vec<_> = kept.entries.iter().map(|entry| entry.path.as_slice()).collect();
            assert_eq!(paths, [&b"before"[..], b"d/sparse", b"after"], "{form}");
            let given: usize = kept.data[1].iter().map(|(_, run)| run.len()).sum();
            assert_eq!(given as u64, packed, "{form}: holes are not given");
            assert!(kept.assemble() == tar.0, "{form} {real_size}");
            for len in [1, 511, 512, 513, 700] {
                assert!(Kept::of(&tar.0, len) == kept, "{form} {real_size} in pieces of {len}");
            }
            let tree = merge(&[tar]).unwrap().tree();
            assert!(tree["d/sparse"].data == expand(real_size, map, &data), "{form} {real_size}");
            assert_eq!((&*tree["before"].data, &*tree["after"].data), (&b"b"[..], &b"a"[..]), "{form}");
        }
    }
}

#[test]
fn each_has_its_place_in_the_extra_file_and_only_what_is_a_file_has_one() {
    let map: &Map = &[(0, 4)];
    let mut tar = Tar::new();
    for name in ["a", "b", ".wh.gone", "c/", ".wh..wh.aufs", "a"] {
        tar = gnu(tar, name, 5000, map, b"data");
    }
    tar = gnu(tar, "empty", 0, &[], b"").end();
    let places: Vec<_> = tar
        .entries()
        .unwrap()
        .into_iter()
        .filter_map(|entry| match entry.kind {
            EntryKind::Regular { place, block, .. } => Some((entry.path, place, block)),
            _ => None,
        })
        .collect();
    let extra = |path: &str, block| (path.as_bytes().to_vec(), DataPlace::Extra, block);
    let empty = (b"empty".to_vec(), DataPlace::Tar, 0);
    assert_eq!(places, [extra("a", 0), extra("b", 16), extra("a", 32), empty]);
    let (_, summary) = index_tar(&*tar.0, Vec::new()).unwrap();
    assert_eq!((summary.extra_bytes, summary.entries), (3 * 8192, 6));
    assert!(Kept::of(&tar.0, 100).assemble() == tar.0);
}

#[test]
fn a_real_name_wins_over_all_others_where_the_member_is_sparse() {
    let path = |tar: Tar| String::from_utf8(tar.entries().unwrap().remove(0).path).unwrap();
    assert_eq!(path(pax_1_0(Tar::new().gnu_long(b'L', b"long"), "real", 1, &[(0, 1)], b"x")), "real");
    assert_eq!(path(pax_0_0(Tar::new(), "plain", 1, &[(0, 1)], b"x")), "plain");
    assert_eq!(path(Tar::new().pax(&[("GNU.sparse.name", b"real"), ("path", b"p")]).file("a", "")), "p");
    assert_eq!(path(gnu(Tar::new().gnu_long(b'L', b"long"), "short", 1, &[(0, 1)], b"x")), "long");
}

#[track_caller]
fn refused(tar: &Tar, check: fn(&TarProblem) -> bool) {
    let (entry, problem) = tar.problem();
    assert!(check(&problem), "{problem}");
    assert_eq!(entry, "s", "{problem}");
}

#[test]
fn maps_that_lie_are_refused_in_every_form() {
    use TarProblem::*;
    let zeros = vec![(0, 0); MAX_SPARSE_MAP as usize / 4];
    type Check = fn(&TarProblem) -> bool;
    let cases: [(u64, &Map, &[u8], Check); 7] = [
        (100, &[(0, 10), (9, 1)], &[1; 11], |p| matches!(p, SparseMap { found, .. } if found == "1 bytes at 9 of 100")),
        (100, &[(50, 1), (0, 1)], &[1; 2], |p| matches!(p, SparseMap { .. })),
        (100, &[(91, 10)], &[1; 10], |p| matches!(p, SparseMap { .. })),
        (100, &[(101, 0)], &[], |p| matches!(p, SparseMap { .. })),
        (100, &[(0, 10)], &[1; 9], |p| matches!(p, SparseData { expected: 10, found: 9 })),
        (100, &[(0, 10)], &[1; 11], |p| matches!(p, SparseData { expected: 10, found: 11 })),
        (100, &[], &[1; 3], |p| matches!(p, SparseData { expected: 0, found: 3 })),
    ];
    for (form, make) in FORMS {
        for (real_size, map, data, check) in &cases {
            // An empty map of 0.1 is none.
            if form != "0.1" || !map.is_empty() {
                refused(&make(Tar::new(), "s", *real_size, map, data), *check);
            }
        }
    }
    for make in [gnu, pax_1_0] {
        refused(&make(Tar::new(), "s", 1, &zeros, b""), |p| matches!(p, SparseMapTooLarge { limit: MAX_SPARSE_MAP }));
    }
    refused(&pax_0_0(Tar::new(), "s", u64::MAX >> 1, &[(u64::MAX >> 1, u64::MAX >> 1)], b""), |p| {
        matches!(p, SparseMap { .. })
    });
}

#[test]
fn forms_that_are_none_are_refused() {
    use TarProblem::*;
    let pax = |records: &[(&str, &str)], type_flag, data: &[u8]| {
        let records: Vec<_> = records.iter().map(|(key, value)| (*key, value.as_bytes())).collect();
        Tar::new().pax(&records).header("s", type_flag, data.len() as u64, |_| {}).data(data)
    };
    let (major, minor, size) = ("GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.realsize");
    refused(
        &pax(&[(major, "2"), (minor, "0"), (size, "1")], b'0', b""),
        |p| matches!(p, SparseForm { found } if found == "PAX 2.0"),
    );
    refused(&pax(&[(major, "1")], b'0', b""), |p| matches!(p, SparseForm { .. }));
    refused(&pax(&[(major, "1"), (minor, "0"), (size, "1")], b'2', b""), |p| matches!(p, SparseForm { .. }));
    refused(&pax(&[(major, "1"), (minor, "0"), (size, "1")], b'5', b""), |p| matches!(p, SparseForm { .. }));
    refused(&Tar::new().header("s", b'S', 0, |_| {}), |p| matches!(p, SparseForm { .. }));
    // Without a real size, or the number of segments, or with another one.
    refused(&pax(&[(major, "1"), (minor, "0")], b'0', &[b'0'; 512]), |p| matches!(p, Number { .. }));
    refused(&pax(&[("GNU.sparse.map", "0,1"), (size, "1")], b'0', b"x"), |p| {
        matches!(p, Number { field: "GNU.sparse.numblocks", .. })
    });
    for (count, map) in [("2", "0,1"), ("1", "0"), ("1", "0,1,"), ("1", "0,-1"), ("1", "0, 1")] {
        let records = [("GNU.sparse.numblocks", count), ("GNU.sparse.map", map), (size, "1")];
        refused(&pax(&records, b'0', b"x"), |p| matches!(p, Number { .. } | SparseMap { .. }));
    }
    for text in [&b"1\n0\nx\n"[..], b"-1\n", b"\n", b"99999999999999999999\n", b"1\n0\n\n", b"1 \n0\n1\n", &[b'1'; 600]]
    {
        refused(&text_map(Tar::new(), "s", 9, text, b""), |p| matches!(p, Number { .. }));
    }
    // A map that the data are too short for.
    refused(&text_map(Tar::new(), "s", 9, b"200\n0\n0\n", b""), |p| matches!(p, Number { .. } | SparseMap { .. }));
    refused(&pax(&[(major, "1"), (minor, "0"), (size, "1")], b'0', b"1\n0\n1\n"), |p| matches!(p, SparseMap { .. }));
    let negative = gnu(Tar::new(), "s", 9, &[], b"");
    let edited = Tar::new().header("s", b'S', 0, |header| {
        header.as_mut_bytes().copy_from_slice(&negative.0[..512]);
        header.as_mut_bytes()[386..398].fill(0xff);
    });
    refused(&edited, |p| matches!(p, Number { field: "sparse offset", .. }));
    // Of a volume label it means nothing.
    assert_eq!(pax(&[(major, "2")], b'V', b"").entries().unwrap(), []);
}

#[test]
fn a_flipped_bit_anywhere_is_an_error_or_comes_back_as_it_is() {
    let map: Vec<_> = (0..30).map(|number| (number * 1000, 1)).collect();
    let mut accepted = 0;
    for (form, make) in FORMS {
        let tar = make(Tar::new(), "s", 30_000, &map, &[7; 30]).file("after", "a").end().0;
        for at in 0..tar.len() {
            for flip in [0x01, 0x08, 0x80] {
                let mut damaged = Tar(tar.clone());
                damaged.0[at] ^= flip;
                match damaged.index() {
                    Ok(_) => assert!(Kept::of(&damaged.0, 4096).assemble() == damaged.0, "{form} {at} ^ {flip:#x}"),
                    Err(Error::Tar { .. }) => continue,
                    Err(other) => panic!("{form} {at} ^ {flip:#x}: {other}"),
                }
                accepted += 1;
            }
        }
    }
    assert!(accepted > 1000, "{accepted}: padding and data may be anything");
}

#[test]
fn a_map_that_is_cut_short_is_told() {
    let many: Vec<_> = (0..100).map(|number| (number * 10, 0)).collect();
    for make in [gnu, pax_1_0] {
        let tar = make(Tar::new(), "s", 1000, &many, b"");
        let (entry, problem) = Tar(tar.0[..tar.0.len() - 100].to_vec()).problem();
        let fits =
            matches!(problem, TarProblem::Truncated { part: "sparse map", expected, found } if expected == found + 100);
        assert!(fits && entry == "s", "{entry}: {problem}");
    }
}

#[test]
fn numbers_are_of_19_digits_at_most() {
    let zeros = |count: usize| "0".repeat(count).into_bytes();
    let map = |digits: usize| [zeros(digits - 1), b"1\n0\n0\n".to_vec()].concat();
    assert!(text_map(Tar::new(), "s", 10, &map(19), b"").index().is_ok());
    // Zeros without end mean a number as well, and each byte more would be parsed with all before it.
    for text in [map(20), zeros(1 << 20)] {
        refused(&text_map(Tar::new(), "s", 10, &text, b""), |p| {
            matches!(p, TarProblem::Number { field: "sparse map", .. })
        });
    }
}

#[test]
fn sizes_beyond_all_bounds_are_refused() {
    let half = (1_u64 << 62) + 1;
    let tar = pax_0_0(pax_0_0(Tar::new(), "r", half, &[(half, 0)], b""), "s", half, &[(half, 0)], b"");
    refused(&tar, |p| matches!(p, TarProblem::Number { field: "realsize", .. }));
    // More blocks than EROFS can address.
    let size = 3 << 40;
    let tar = pax_1_0(Tar::new(), "s", size, &[(size, 0)], b"");
    let mut merger = Merger::new();
    merger.add_layer(tar.layer(1), &*tar.index().unwrap()).unwrap();
    let error = merger.write(Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Image(ImageProblem::TooLarge { .. })), "{error}");
}

#[test]
fn the_extra_file_is_a_device_of_its_own() {
    let sparse = |tar| gnu(tar, "s", 9000, &[(4096, 4)], b"data");
    let layers = [sparse(Tar::new()), sparse(Tar::new().file("plain", "x")), Tar::new().file("s", "over").end()];
    let devices = |layers: &[Tar]| {
        let summary = merge(layers).unwrap().summary;
        summary.devices.iter().map(|device| (device.layer, device.place, device.blocks)).collect::<Vec<_>>()
    };
    let extra = DataPlace::Extra;
    assert_eq!(devices(&layers[..1]), [(0, extra, 24)]);
    assert_eq!(devices(&layers[..2]), [(1, DataPlace::Tar, 4), (1, extra, 24)]);
    assert_eq!(devices(&layers), [(1, DataPlace::Tar, 4), (2, DataPlace::Tar, 4)]);
    let summary = merge(&layers[..1]).unwrap().summary;
    assert_eq!(summary.devices[0].tag, extra_tag(&[0; 32]));
    assert_ne!(extra_tag(&[0; 32]), extra_tag(&[1; 32]));
}

#[test]
fn an_extra_file_of_another_length_is_refused() {
    let tar = gnu(Tar::new(), "s", 9000, &[(4096, 4)], b"data").end();
    let index = tar.index().unwrap();
    let problem = |extra_bytes| match Merger::new().add_layer(LayerInput { extra_bytes, ..tar.layer(1) }, &*index) {
        Err(Error::Merge { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(8999), MergeProblem::DataOutsideExtra { end: 9000, extra_bytes: 8999 });
    assert_eq!(problem(16384), MergeProblem::ExtraLength { expected: 16384, found: 12288 });
}
