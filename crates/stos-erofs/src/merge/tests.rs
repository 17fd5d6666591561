// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The merge rules, one test or table for each, and a random test against a simple model.

use stos_testkit::merge_model as model;

use crate::image::testing::merge;
use crate::tarball::testing::Tar;
use crate::{Error, LayerInput, MergeProblem, Merger};

/// What the image of these layers lists, without its root.
fn listed(tars: &[Tar]) -> Vec<String> {
    merge(tars).unwrap().list().split_off(1)
}

fn problem(tars: &[Tar]) -> (usize, String, MergeProblem) {
    match merge(tars).map(|_| ()).unwrap_err() {
        Error::Merge { layer, entry, problem } => (layer, entry, problem),
        other => panic!("{other}"),
    }
}

fn tar() -> Tar {
    Tar::new()
}

#[test]
fn whiteouts_act_on_lower_layers_only_in_any_order() {
    let lower =
        tar().directory("d", 0o700).file("d/a", "1").file("d/b", "1").directory("d/s", 0o711).file("d/s/x", "1");
    let cases: &[(Tar, &[&str])] = &[
        (tar().file("d/.wh.a", ""), &["d 700 d", "f 644 d/b 1", "d 711 d/s", "f 644 d/s/x 1"]),
        (
            tar().file("d/.wh.none", "").file("none/.wh.x", "").file("d/a/.wh.x", ""),
            &["d 700 d", "f 644 d/a 1", "f 644 d/b 1", "d 711 d/s", "f 644 d/s/x 1"],
        ),
        (tar().file(".wh.d", ""), &[]),
        (tar().device("d", b'3', 0, 0), &[]),
        // The same name in the same layer stays, whichever comes first.
        (tar().file(".wh.d", "").file("d", "new"), &["f 644 d new"]),
        (tar().file("d", "new").file(".wh.d", ""), &["f 644 d new"]),
        (
            tar().file("d/.wh.a", "").file("d/a", "2").file("d/.wh.b", "").file("d/.wh.s", ""),
            &["d 700 d", "f 644 d/a 2"],
        ),
        (
            tar().file("d/a", "2").file("d/.wh.a", "").file("d/.wh.b", "").file("d/.wh.s", ""),
            &["d 700 d", "f 644 d/a 2"],
        ),
        // A directory that is removed and made again, explicitly or by what lies in it, is a new one.
        (tar().file(".wh.d", "").directory("d", 0o750).file("d/n", "2"), &["d 750 d", "f 644 d/n 2"]),
        (tar().directory("d", 0o750).file("d/n", "2").file(".wh.d", ""), &["d 750 d", "f 644 d/n 2"]),
        (tar().file(".wh.d", "").file("d/s/n", "2"), &["d 755 d", "d 755 d/s", "f 644 d/s/n 2"]),
        (tar().file("d/s/n", "2").file(".wh.d", ""), &["d 755 d", "d 755 d/s", "f 644 d/s/n 2"]),
        (
            tar().file("d/s/n", "2").file("d/.wh.s", "").file("d/.wh.a", "").file("d/.wh.b", ""),
            &["d 700 d", "d 755 d/s", "f 644 d/s/n 2"],
        ),
    ];
    for (number, (upper, expected)) in cases.iter().enumerate() {
        assert_eq!(listed(&[lower.clone(), upper.clone()]), *expected, "case {number}");
    }
    assert_eq!(listed(&[tar().file(".wh.x", "").file("d/.wh..wh..opq", "").file("a", "")]), ["f 644 a"]);
}

#[test]
fn opaque_directories_in_any_order() {
    let lower = tar().directory("d", 0o700).file("d/a", "1").directory("d/s", 0o711).file("d/s/x", "1").file("e", "1");
    let cases: &[(Tar, &[&str])] = &[
        (tar().file("d/.wh..wh..opq", ""), &["d 700 d", "f 644 e 1"]),
        (tar().file("d/.wh..wh..opq", "").file("d/n", "2"), &["d 700 d", "f 644 d/n 2", "f 644 e 1"]),
        (tar().file("d/n", "2").file("d/.wh..wh..opq", ""), &["d 700 d", "f 644 d/n 2", "f 644 e 1"]),
        (tar().file("d/s/n", "2").file("d/.wh..wh..opq", ""), &["d 700 d", "d 755 d/s", "f 644 d/s/n 2", "f 644 e 1"]),
        (tar().file("d/.wh..wh..opq", "").file("d/s/n", "2"), &["d 700 d", "d 755 d/s", "f 644 d/s/n 2", "f 644 e 1"]),
        (tar().file("d/s/.wh..wh..opq", "").file("d/.wh..wh..opq", ""), &["d 700 d", "f 644 e 1"]),
        (
            tar().file("d/s/.wh..wh..opq", "").directory("d/s", 0o750),
            &["d 700 d", "f 644 d/a 1", "d 750 d/s", "f 644 e 1"],
        ),
        (tar().file(".wh..wh..opq", "").file("n", "2"), &["f 644 n 2"]),
        (tar().file("n", "2").file(".wh..wh..opq", ""), &["f 644 n 2"]),
    ];
    for (number, (upper, expected)) in cases.iter().enumerate() {
        assert_eq!(listed(&[lower.clone(), upper.clone()]), *expected, "case {number}");
    }
    // A marker holds for its own layer; the next one's acts again.
    let again = tar().file("d/.wh..wh..opq", "").file("d/3", "");
    let three = [lower, tar().file("d/.wh..wh..opq", "").file("d/2", ""), again];
    assert_eq!(listed(&three), ["d 700 d", "f 644 d/3", "f 644 e 1"]);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let lower = tar().directory("d", 0o700).file("d/a", "1").file("f", "1").symlink("l", "d");
    let cases: &[(Tar, &[&str])] = &[
        (tar().directory("d", 0o711), &["d 711 d", "f 644 d/a 1", "f 644 f 1", "l l d"]),
        (tar().file("d", "2"), &["f 644 d 2", "f 644 f 1", "l l d"]),
        (tar().symlink("d", "f").directory("d", 0o711), &["d 711 d", "f 644 f 1", "l l d"]),
        (tar().directory("f", 0o711).file("f/n", "2"), &["d 700 d", "f 644 d/a 1", "d 711 f", "f 644 f/n 2", "l l d"]),
        // A directory over a link to a directory replaces the link.
        (
            tar().directory("l", 0o711).file("l/n", "2"),
            &["d 700 d", "f 644 d/a 1", "f 644 f 1", "d 711 l", "f 644 l/n 2"],
        ),
        (tar().file("f", "2").file("f", "3"), &["d 700 d", "f 644 d/a 1", "f 644 f 3", "l l d"]),
        (
            tar().header("f", b'6', 0, |_| {}).device("l", b'4', 8, 0x1ff),
            &["d 700 d", "f 644 d/a 1", "p 644 f", "dev 644 l 0x1008ff"],
        ),
    ];
    for (number, (upper, expected)) in cases.iter().enumerate() {
        assert_eq!(listed(&[lower.clone(), upper.clone()]), *expected, "case {number}");
    }
}

#[test]
fn a_directory_takes_the_later_metadata_with_its_attributes() {
    let with = |key, value: &[u8]| tar().pax(&[(key, value), ("mtime", b"5.25"), ("uid", b"7")]).directory("d", 0o711);
    let lower = with("SCHILY.xattr.user.old", b"1");
    let upper = with("SCHILY.xattr.user.new", b"2");
    let tree = merge(&[lower.clone(), upper]).unwrap().tree();
    let xattrs: Vec<_> = tree["d"].xattrs.keys().cloned().collect();
    assert_eq!(xattrs, [(1, b"new".to_vec())]);
    assert_eq!((tree["d"].mtime, tree["d"].uid), ((5, 250_000_000), 7));
    let tree = merge(&[lower, tar().file("d/x", "")]).unwrap().tree();
    assert_eq!((tree["d"].mode, tree["d"].xattrs.len()), (0o040_711, 1), "merely implied: the lower one's stay");
}

#[test]
fn implied_parents_and_the_root() {
    let image = merge(&[tar().file("a/b/c", "1")]).unwrap();
    for path in ["", "a", "a/b"] {
        let node = &image.tree()[path];
        assert_eq!((node.mode, node.uid, node.gid, node.mtime), (0o040_755, 0, 0, (0, 0)), "{path:?}");
    }
    assert_eq!(listed(&[tar().file("a/b/c", "1").directory("a", 0o700)]), ["d 700 a", "d 755 a/b", "f 644 a/b/c 1"]);
    let image = merge(&[tar().directory("./", 0o1777).file("a", ""), tar().file("b", "")]).unwrap();
    assert_eq!(image.list(), ["d 1777", "f 644 a", "f 644 b"]);
    assert_eq!(merge(&[]).unwrap().list(), ["d 755"]);
}

#[test]
fn parents_that_are_links_are_followed_within_the_root() {
    let lower = tar().directory("real", 0o700).directory("real/sub", 0o700).directory("x", 0o700);
    let cases: &[(Tar, &[&str])] = &[
        (tar().symlink("l", "real").file("l/n", "2"), &["l l real", "f 644 real/n 2"]),
        (tar().symlink("l", "/real/sub").file("l/n", "2"), &["l l /real/sub", "f 644 real/sub/n 2"]),
        (tar().symlink("x/l", "../../../../real/").file("x/l/n", "2"), &["f 644 real/n 2", "l x/l ../../../../real/"]),
        (tar().symlink("x/l", "..").file("x/l/real/n", "2"), &["f 644 real/n 2", "l x/l .."]),
        (
            tar().symlink("l", "k").symlink("k", "./real//sub/../.").file("l/n", "2"),
            &["l k ./real//sub/../.", "l l k", "f 644 real/n 2"],
        ),
        // In vain: made where the link points.
        (
            tar().symlink("l", "/gone/../made/deep").file("l/n", "2"),
            &["l l /gone/../made/deep", "d 755 made", "d 755 made/deep", "f 644 made/deep/n 2"],
        ),
        // The last component is not followed.
        (tar().symlink("l", "real").file("l", "2"), &["f 644 l 2"]),
        (tar().symlink("l", "real").directory("l", 0o711), &["d 711 l"]),
        (tar().symlink("l", "/").file("l/.wh.x", ""), &["l l /"]),
        (tar().symlink("l", "/real").file("l/.wh..wh..opq", ""), &["l l /real"]),
    ];
    let base = ["d 700 real", "d 700 real/sub", "d 700 x"];
    for (number, (upper, expected)) in cases.iter().enumerate() {
        let mut expected: Vec<_> = base.iter().chain(*expected).map(|line| (*line).to_owned()).collect();
        if number == 8 {
            expected.retain(|line| line != "d 700 x");
        }
        if number == 9 {
            expected.retain(|line| line != "d 700 real/sub");
        }
        let mut found = listed(&[lower.clone(), upper.clone()]);
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "case {number}");
    }
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let chain = |links: usize| {
        let mut tar = tar().directory("l0", 0o700);
        for link in 1..=links {
            tar = tar.symlink(&format!("l{link}"), &format!("l{}", link - 1));
        }
        tar.file(&format!("l{links}/n"), "")
    };
    assert!(listed(&[chain(40)]).contains(&"f 644 l0/n".to_owned()));
    let (layer, entry, found) = problem(&[chain(41)]);
    assert_eq!((layer, entry.as_str(), found), (0, "l41/n", MergeProblem::TooManyLinks { limit: 40 }));
    let (_, _, found) = problem(&[tar().symlink("a", "b").symlink("b", "a").file("a/n", "")]);
    assert_eq!(found, MergeProblem::TooManyLinks { limit: 40 });
}

#[test]
fn a_parent_that_is_a_file_is_an_error_that_names_both() {
    let (layer, entry, found) = problem(&[tar().file("d/f", ""), tar().symlink("l", "d").file("l/f/n", "")]);
    assert_eq!((layer, entry.as_str()), (1, "l/f/n"));
    assert_eq!(found, MergeProblem::ParentNotDirectory { parent: "d/f".into() });
}

#[test]
fn hard_links_share_their_inode_across_layers() {
    let lower = tar().file("a", "1").symlink("s", "a").directory("d", 0o700).file("d/f", "2");
    let cases: &[(Tar, &[&str])] = &[
        (tar().hard_link("z", "a"), &["f 644 a 1", "d 700 d", "f 644 d/f 2", "l s a", "= z a"]),
        // The link's own metadata are ignored, the target is not followed.
        (tar().hard_link("z", "./s"), &["f 644 a 1", "d 700 d", "f 644 d/f 2", "l s a", "= z s"]),
        (
            tar().symlink("l", "d").hard_link("z", "l/f"),
            &["f 644 a 1", "d 700 d", "f 644 d/f 2", "l l d", "l s a", "= z d/f"],
        ),
        (tar().hard_link("n/z", "a"), &["f 644 a 1", "d 700 d", "f 644 d/f 2", "d 755 n", "= n/z a", "l s a"]),
        // To itself, directly or by way of a link.
        (tar().hard_link("a", "a"), &["f 644 a 1", "d 700 d", "f 644 d/f 2", "l s a"]),
        (tar().symlink("l", "d").hard_link("d/f", "l/f"), &["f 644 a 1", "d 700 d", "f 644 d/f 2", "l l d", "l s a"]),
        // Over a file and over a directory.
        (tar().hard_link("s", "a"), &["f 644 a 1", "d 700 d", "f 644 d/f 2", "= s a"]),
        (tar().hard_link("d", "a"), &["f 644 a 1", "= d a", "l s a"]),
        // A name replaced or removed leaves the others.
        (tar().hard_link("z", "a").file("a", "3"), &["f 644 a 3", "d 700 d", "f 644 d/f 2", "l s a", "f 644 z 1"]),
        (tar().hard_link("z", "a").file(".wh.a", ""), &["d 700 d", "f 644 d/f 2", "l s a", "f 644 z 1"]),
    ];
    for (number, (upper, expected)) in cases.iter().enumerate() {
        assert_eq!(listed(&[lower.clone(), upper.clone()]), *expected, "case {number}");
    }
    let tree = merge(&[lower, tar().hard_link("y", "a").hard_link("z", "y")]).unwrap().tree();
    assert_eq!((tree["a"].links, tree["d"].links, tree[""].links), (3, 2, 3));
}

#[test]
fn hard_links_without_a_file_at_their_end_are_errors_that_name_both() {
    let missing = |target: &str| MergeProblem::LinkTargetMissing { target: target.into() };
    let cases = [
        (tar().hard_link("a", "b").file("b", ""), missing("b")),
        (tar().hard_link("a", "x/y"), missing("x/y")),
        (tar().file("b", "").file(".wh.c", "").hard_link("a", "c"), missing("c")),
        (tar().directory("d", 0o700).hard_link("a", "d"), MergeProblem::LinkTargetDirectory { target: "d".into() }),
        // It would replace the directory that its target lies in.
        (tar().file("a/b/f", "").hard_link("a", "a/b/f"), missing("a/b/f")),
    ];
    for (upper, expected) in cases {
        assert_eq!(problem(&[tar().file("c", ""), upper]), (1, "a".into(), expected));
    }
}

#[test]
fn an_index_must_belong_to_its_tar() {
    let tar = tar().file("a", "1").end();
    let index = tar.index().unwrap();
    let mut merger = Merger::new();
    let shorter = LayerInput { tag: [0; 32], tar_bytes: 512, extra_bytes: 0 };
    let error = merger.add_layer(shorter, &*index).unwrap_err();
    let expected = MergeProblem::DataOutsideTar { end: 513, tar_bytes: 512 };
    assert!(matches!(error, Error::Merge { layer: 0, problem, .. } if problem == expected));
    assert!(matches!(merger.add_layer(tar.layer(0), &*index), Err(Error::UsedAfterError { .. })));
    assert!(matches!(merger.write(Vec::new()), Err(Error::UsedAfterError { .. })));
}

/// `l0` to the root, and each further link to so many bytes of `d/` below the one before.
fn chain_of_long_links(links: usize, len: usize) -> Tar {
    let step = "d/".repeat(len / 2);
    (1..=links).fold(tar().symlink("l0", "."), |tar, link| {
        let target = format!("l{}/{step}", link - 1);
        tar.pax(&[("linkpath", target.as_bytes())]).symlink(&format!("l{link}"), "long")
    })
}

#[test]
fn links_are_followed_through_16_kib_of_targets() {
    // `l0` is one byte, each further target three more than its step.
    assert!(merge(&[chain_of_long_links(4, 4092).file("l4/n", "")]).is_ok());
    let (_, entry, found) = problem(&[chain_of_long_links(5, 3274).file("l5/n", "")]);
    assert_eq!((entry.as_str(), found), ("l5/n", MergeProblem::LinksTooLong { limit: 16_384 }));
}

/// The limit that the merge of a layer of so many entries runs into.
fn memory_limit(tar: &Tar) -> u64 {
    match problem(std::slice::from_ref(tar)) {
        (0, _, MergeProblem::TooMany { what: "bytes of names, attributes and implied parents", limit }) => limit,
        (_, entry, other) => panic!("{entry}: {other}"),
    }
}

#[test]
fn few_entries_cannot_imply_parents_without_end() {
    // Two entries make 6,000 directories, and the next two elsewhere.
    let implied = |times: u64| {
        let target = format!("s/{}", "d/".repeat(2000));
        let chain = chain_of_long_links(2, 4000).pax(&[("linkpath", target.as_bytes())]).symlink("l0", "long");
        (0..times).fold(chain, |tar, time| tar.symlink("s", &format!("r{time}")).file("l2/n", ""))
    };
    assert_eq!(merge(&[implied(10)]).unwrap().summary.inodes, 1 + 3 + 1 + 10 * (1 + 6000 + 1));
    let limit = memory_limit(&implied(100));
    assert!((32 << 20..33 << 20).contains(&limit), "{limit}");
    // No links at all, a path of 2,048 components an entry.
    let long = (0..200).fold(tar(), |tar, number| {
        let path = format!("{number:04}/{}n", "d/".repeat(2045));
        tar.pax(&[("path", path.as_bytes())]).file("long", "")
    });
    memory_limit(&long);
}

#[test]
fn few_entries_cannot_bring_attributes_without_end() {
    let with = |count: u8, distinct: bool| {
        (0..count).fold(tar(), |tar, number| {
            let value = vec![if distinct { number } else { 0 }; 65_000];
            let names = ["a", "b", "c", "d"].map(|name| format!("SCHILY.xattr.user.{name}"));
            let records: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_slice())).collect();
            tar.pax(&records).file(&format!("f{number}"), "")
        })
    };
    assert_eq!(merge(&[with(140, false)]).unwrap().summary.inodes, 141, "equal ones are kept once");
    memory_limit(&with(140, true));
}

#[test]
fn deep_and_wide_trees() {
    // Deeper than any path, by way of links; nothing may recurse.
    let deep = chain_of_long_links(4, 4000).file("l4/n", "");
    assert_eq!(merge(std::slice::from_ref(&deep)).unwrap().summary.inodes, 1 + 5 + 4 * 2000 + 1);
    let removed = merge(&[deep.clone(), tar().file(".wh.d", "")]).unwrap();
    assert_eq!(removed.summary.inodes, 1 + 5);
    let opaque = merge(&[deep, tar().file("l4/m", "").file(".wh..wh..opq", "")]).unwrap();
    assert_eq!(opaque.summary.inodes, 1 + 4 * 2000 + 1);
    let mut wide = tar();
    for name in 0..20_000 {
        wide = wide.header(&format!("w/{name}"), b'6', 0, |_| {});
    }
    assert_eq!(listed(&[wide.clone()]).len(), 20_001);
    assert_eq!(listed(&[wide, tar().file("w/.wh..wh..opq", "")]), ["d 755 w"]);
}

/// A small generator, so that a failure can be had again from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn path(&mut self) -> String {
        let names: Vec<_> = (0..1 + self.below(3)).map(|_| ["a", "b", "c"][self.below(3) as usize]).collect();
        names.join("/")
    }

    fn step(&mut self, number: usize, links: bool) -> model::Step {
        const TARGETS: [&str; 11] = ["a", "b", "/a", "/b/c", "..", "../b/", "c/./a", "c/b/../a", "../../a", ".", "/"];
        let path = self.path();
        match self.below(if links { 13 } else { 10 }) {
            0..=2 => model::Step::Directory(path, 0o700 + self.below(8) as u32),
            3..=5 => model::Step::Regular(path, format!("content {number}")),
            6..=7 => model::Step::HardLink(path, self.path()),
            8 => model::Step::Whiteout(path),
            9 => model::Step::Opaque(path),
            _ => model::Step::Symlink(path, TARGETS[self.below(11) as usize].to_owned()),
        }
    }
}

#[test]
fn random_layers_merge_as_the_model_does() {
    let (mut merged, mut with_links, mut also_in_order, mut refused) = (0, 0, 0, 0);
    for seed in 1..4000u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let links = seed % 2 == 0;
        let (mut tree, mut valid, mut number) = (model::Tree::new(), true, 0);
        let (mut in_order, mut deletions_first) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let mut steps = Vec::new();
            for _ in 0..random.below(9) {
                number += 1;
                steps.push(random.step(number, links));
                // Most random steps after some others are in error: leave most of those out.
                if model::apply(&mut tree.clone(), &steps).is_none() && random.below(20) != 0 {
                    steps.pop();
                }
            }
            valid &= model::apply(&mut tree, &steps).is_some();
            in_order.push(Tar(model::write(&steps)));
            steps.sort_by_key(|step| !step.is_deletion());
            deletions_first.push(Tar(model::write(&steps)));
            if !valid {
                break;
            }
        }
        if !valid {
            assert!(merge(&deletions_first).is_err(), "seed {seed}");
            refused += 1;
            continue;
        }
        assert_eq!(listed(&deletions_first), model::list(&tree), "seed {seed}");
        merged += 1;
        // What a deletion means is up to the links that are there at the time.
        if links {
            with_links += 1;
            continue;
        }
        // An entry below a lower file that only a later whiteout removes is in error.
        if let Ok(image) = merge(&in_order) {
            assert_eq!(image.list().split_off(1), model::list(&tree), "seed {seed}, in order");
            also_in_order += 1;
        }
    }
    let counts = [merged, with_links, also_in_order, refused];
    assert!(counts.into_iter().zip([3000, 1500, 1400, 100]).all(|(found, least)| found > least), "{counts:?}");
}
