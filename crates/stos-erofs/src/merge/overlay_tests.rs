// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers by themselves and stacked, against the merger, by random layers.

use super::disk::Disk;
use super::random::{Random, apply, brief, index, input};
use super::tree::Tree;
use super::{Correction, LayerTree, MergedEntry, MergedLayer, Stack, Step};
use crate::{Entry, EntryKind, Error, MergeProblem, Metadata};

fn all(layers: &[Vec<Entry>]) -> String {
    layers.iter().enumerate().map(|(number, layer)| format!("\nlayer {number}:{}", brief(layer))).collect()
}

/// What a random case is made of: the layers, the lowest first, and the tag of each.
struct Case {
    layers: Vec<Vec<Entry>>,
    tags: Vec<u8>,
    truth: Tree,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (mut truth, mut layers, mut tags): (_, Vec<Vec<Entry>>, Vec<u8>) = (Tree::new(), Vec::new(), Vec::new());
        for layer in 0..1 + random.below(4) as u16 {
            // Now and then an earlier layer once more, where that is legal.
            let earlier = random.below(4 * u64::from(layer) + 1) as usize;
            if let Some(entries) = layers.get(earlier).cloned() {
                let mut next = truth.clone();
                if entries
                    .iter()
                    .enumerate()
                    .all(|(number, entry)| apply(&mut next, layer, number as u32, entry).is_ok())
                {
                    truth = next;
                    tags.push(tags[earlier]);
                    layers.push(entries);
                    continue;
                }
            }
            layers.push(random.layer(&mut truth, layer, !seed.is_multiple_of(3)));
            tags.push(layer as u8);
        }
        Self { layers, tags, truth }
    }

    fn stack(&self) -> (Vec<usize>, Vec<Correction>) {
        let inputs: Vec<_> = self.tags.iter().map(|&tag| input(tag)).collect();
        let mut stack = Stack::new(&inputs);
        self.layers.iter().for_each(|layer| stack.add_layer(&*index(layer)).unwrap());
        let lowers = stack.lowers().to_vec();
        let reopen = |layer: usize| Ok(std::io::Cursor::new(index(&self.layers[layer])));
        let corrections = stack.corrections(reopen).unwrap();
        assert_eq!(corrections.is_empty(), corrections.iter().next().is_none());
        (lowers, corrections.iter().collect())
    }
}

/// Unpacks a layer by itself; after each entry the directory must be what the tree says.
fn unpack(tag: u8, entries: &[Entry], seed: u64) -> Disk {
    let (mut disk, mut tree) = (Disk::new(), LayerTree::new());
    for (number, entry) in entries.iter().enumerate() {
        let number = number as u64;
        let step = |step: Step<'_>| {
            disk.step(tag, number, entry, step);
            Ok::<_, Error>(())
        };
        tree.apply(number, entry, step).unwrap();
        assert_eq!(
            disk.list(),
            Disk::of(tree.tree(), |_| tag).list(),
            "seed {seed}, entry {number}:{}",
            brief(entries)
        );
        let places = tree.places();
        let named = places.files.iter().map(|&(number, _)| u64::from(number));
        let mut data: Vec<_> = named.chain(disk.orphans.keys().copied()).collect();
        data.sort_unstable();
        let all = (0..=number).filter(|&n| matches!(entries[n as usize].kind, EntryKind::Regular { .. }));
        assert_eq!(data, all.collect::<Vec<_>>(), "seed {seed}: all data are kept once");
    }
    let before = disk.list();
    tree.directories().for_each(|state| disk.finish(state));
    assert_eq!(disk.list(), before, "seed {seed}");
    disk
}

#[test]
fn stacked_layers_and_their_corrections_show_the_truth() {
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..4000 {
        let case = Case::new(seed);
        let disks: Vec<_> =
            case.layers.iter().zip(&case.tags).map(|(entries, &tag)| unpack(tag, entries, seed)).collect();
        let (lowers, corrections) = case.stack();
        let mut shown = Disk::new();
        lowers.iter().for_each(|&lower| shown.stack(&disks[lower]));
        assert!(!lowers.is_empty() || !corrections.is_empty(), "seed {seed}: something has the root");
        // The same tar is one directory.
        let by_tag: Vec<_> = case
            .tags
            .iter()
            .map(|tag| disks[case.tags.iter().rposition(|other| other == tag).unwrap()].clone())
            .collect();
        let mut top = Disk::new();
        for correction in &corrections {
            let name = format!("{correction:?}");
            *counts.entry(name.split(' ').next().unwrap().to_owned()).or_insert(0) += 1;
            top.correct(correction.clone(), &by_tag);
        }
        *counts.entry(format!("none {}", corrections.is_empty())).or_insert(0) += 1;
        if !corrections.is_empty() {
            shown.stack(&top);
        }
        assert!(!shown.lists_whiteouts(), "seed {seed}:{} {corrections:#?}", all(&case.layers));
        let truth = Disk::of(&case.truth, |layer| case.tags[layer]);
        assert_eq!(shown.list(), truth.list(), "seed {seed}:{} {corrections:#?}", all(&case.layers));
    }
    let least = [("Copy", 1), ("Directory", 1000), ("Make", 20), ("Node", 500), ("Orphan", 10), ("Whiteout", 500)];
    for (name, least) in least.into_iter().chain([("none true", 1000), ("none false", 1000)]) {
        assert!(counts.get(name).is_some_and(|&count| count >= least), "{name}: {counts:?}");
    }
}

#[test]
fn a_layer_applied_in_place_gives_what_the_merger_gives() {
    let (mut applied, mut refused) = (0, 0);
    for seed in 0..4000 {
        let mut random = Random::new(seed);
        let mut truth = Tree::new();
        for layer in 0..1 + random.below(2) as u16 {
            random.layer(&mut truth, layer, !seed.is_multiple_of(3));
        }
        let base = Disk::of(&truth, |_| 0).entries();
        let (mut truth, mut tree) = (Tree::new(), LayerTree::in_place());
        for (number, entry) in base.iter().enumerate() {
            apply(&mut truth, 0, number as u32, entry).unwrap();
            tree.add_existing(entry).unwrap();
        }
        assert_eq!(tree.directories().count(), 0, "seed {seed}");
        let mut disk = Disk::of(&truth, |_| 0);
        disk.stamps = true;
        let mut failed = false;
        for number in 0..random.below(10) as u32 {
            let entry = random.entry(!seed.is_multiple_of(3));
            let expected = apply(&mut truth, 1, number, &entry);
            let found = tree.apply(u64::from(number), &entry, |step| {
                disk.step(1, u64::from(number), &entry, step);
                Ok::<_, Error>(())
            });
            match (expected, found) {
                (Ok(()), Ok(())) => applied += 1,
                (Err(expected), Err(Error::Merge { layer: 1, problem, .. })) => {
                    assert_eq!(problem, expected, "seed {seed}");
                    refused += 1;
                    failed = true;
                    break;
                }
                other => panic!("seed {seed}, entry {number}: {other:?}"),
            }
        }
        tree.directories().for_each(|state| disk.finish(state));
        if !failed {
            assert_eq!(disk.list(), Disk::of(&truth, |layer| layer as u8).list(), "seed {seed}:{}", brief(&base));
        }
    }
    assert!(applied > 5000 && refused > 500, "{applied} {refused}");
}

/// Tells whether the entries have a symbolic link of the base among their parents.
fn goes_through_a_link(base: &Disk, entries: &[Entry]) -> bool {
    let through = |path: &[u8]| path.iter().enumerate().any(|(at, &byte)| byte == b'/' && base.is_symlink(&path[..at]));
    entries.iter().any(|entry| match &entry.kind {
        EntryKind::HardLink { target } => through(&entry.path) || through(target),
        EntryKind::Opaque => through(&entry.path) || base.is_symlink(&entry.path),
        _ => through(&entry.path),
    })
}

#[test]
fn a_merged_layer_means_on_any_base_what_its_layers_mean() {
    const MERGED: u16 = 9;
    let (mut equal, mut outside, mut refused, mut links) = (0, 0, 0, 0);
    for seed in 0..6000 {
        let mut random = Random::new(seed);
        // Links in the layers or in the base.
        let links_in_base = seed.is_multiple_of(3);
        let mut truth = Tree::new();
        random.layer(&mut truth, 0, links_in_base);
        random.layer(&mut truth, 0, links_in_base);
        let mut on_base = truth.clone();
        let base = Disk::of(&truth, |_| 0);
        let mut merged = MergedLayer::new();
        let mut layers = Vec::new();
        for layer in 1..2 + random.below(3) as u16 {
            layers.push(random.layer(&mut truth, layer, !links_in_base));
        }
        let added = layers.iter().try_for_each(|layer| merged.add_layer(&*index(layer)));
        if goes_through_a_link(&base, &layers.concat()) || merged.has_emptied_directory() {
            outside += 1;
            continue;
        }
        let mut entries = Vec::new();
        let result = added.and_then(|()| {
            merged.entries(|entry| {
                entries.push(entry);
                Ok::<_, Error>(())
            })
        });
        if let Err(error) = result {
            let Error::Merge { problem, .. } = &error else { panic!("seed {seed}: {error}") };
            // Without what lies below, links of the layers can seem to lead in circles.
            let expected = matches!(problem, MergeProblem::DependsOnLower { .. } | MergeProblem::TooManyLinks { .. });
            assert!(expected, "seed {seed}: {error}{}", all(&layers));
            refused += 1;
            continue;
        }
        for (number, MergedEntry { entry, .. }) in entries.iter().enumerate() {
            apply(&mut on_base, MERGED, number as u32, entry)
                .unwrap_or_else(|error| panic!("seed {seed}: {entry:?}: {error}{}", all(&layers)));
            links += usize::from(matches!(entry.kind, EntryKind::HardLink { .. }));
        }
        let mut found = Disk::of(&on_base, |layer| layer as u8);
        found.rename(|tag, number| match tag == MERGED as u8 {
            true => entries[number as usize].source.map(|(layer, number)| (layer as u8 + 1, number)).unwrap(),
            false => (tag, number),
        });
        let expected = Disk::of(&truth, |layer| layer as u8);
        assert_eq!(
            found.list(),
            expected.list(),
            "seed {seed}:{}\nmerged:{}",
            all(&layers),
            brief(entries.iter().map(|merged| &merged.entry))
        );
        equal += 1;
    }
    let counts = [equal, outside, refused, links];
    assert!(counts.into_iter().zip([5000, 300, 5, 500]).all(|(found, least)| found >= least), "{counts:?}");
}

#[test]
fn in_place_directories_that_have_changed_are_given_and_no_others() {
    let mut tree = LayerTree::in_place();
    let existing = [directory(""), directory("d"), directory("d/s"), directory("e"), directory("e/s"), file("e/s/f")];
    existing.iter().for_each(|entry| tree.add_existing(entry).unwrap());
    let mut apply = |entry: &Entry| {
        tree.apply(0, entry, |_| Ok::<_, Error>(())).unwrap();
        tree.directories()
            .map(|state| (String::from_utf8(state.path).unwrap(), state.metadata.mode))
            .collect::<Vec<_>>()
    };
    let given = |paths: &[(&str, u16)]| paths.iter().map(|&(path, mode)| (path.to_owned(), mode)).collect::<Vec<_>>();
    assert_eq!(apply(&whiteout("e/s/none")), []);
    assert_eq!(apply(&whiteout("e/s/f")), given(&[("e/s", 0o700)]));
    assert_eq!(apply(&file("d/s/n")), given(&[("d/s", 0o700), ("e/s", 0o700)]));
    // Both directories are new ones now: their old metadata go with all that was not the layer's.
    assert_eq!(apply(&opaque("")), given(&[("d/s", 0o755), ("d", 0o755), ("", 0o700)]));
}

#[test]
fn the_callers_error_comes_back_as_it_is() {
    #[derive(Debug)]
    enum Mine {
        Full,
        Layer(Error),
    }
    impl From<Error> for Mine {
        fn from(error: Error) -> Self {
            Self::Layer(error)
        }
    }
    let entry = Entry { path: b"a".to_vec(), kind: EntryKind::Whiteout };
    let mut tree = LayerTree::new();
    assert!(matches!(tree.apply(0, &entry, |_| Err(Mine::Full)), Err(Mine::Full)));
    let again = tree.apply(1, &entry, |_| Err(Mine::Full));
    assert!(matches!(again, Err(Mine::Layer(Error::UsedAfterError { object: "LayerTree" }))));
}

fn file(path: &str) -> Entry {
    entry(
        path,
        EntryKind::Regular {
            metadata: Metadata { mode: 0o644, ..Metadata::default() },
            size: 0,
            place: crate::DataPlace::Tar,
            block: 0,
        },
    )
}

fn directory(path: &str) -> Entry {
    entry(path, EntryKind::Directory(Metadata { mode: 0o700, ..Metadata::default() }))
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink { metadata: Metadata::default(), target: target.into() })
}

fn hard_link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink { target: target.into() })
}

fn whiteout(path: &str) -> Entry {
    entry(path, EntryKind::Whiteout)
}

fn opaque(path: &str) -> Entry {
    entry(path, EntryKind::Opaque)
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry { path: path.into(), kind }
}

/// The steps of a layer, in a line each.
fn steps(entries: &[Entry]) -> Vec<String> {
    let (mut tree, mut lines) = (LayerTree::new(), Vec::new());
    for (number, entry) in entries.iter().enumerate() {
        let step = |step: Step<'_>| {
            let path = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
            lines.push(match step {
                Step::Imply { path: at } => format!("imply {}", path(at)),
                Step::Remove { path: at } => format!("remove {}", path(at)),
                Step::Orphan { number, path: at } => format!("orphan {number} {}", path(at)),
                Step::Unplaced { number } => format!("unplaced {number}"),
                Step::Create { path: at } => format!("create {}", path(at)),
                Step::Update { path: at } => format!("update {}", path(at)),
                Step::Link { path: at, target } => format!("link {} {}", path(at), path(target)),
                Step::Whiteout { path: at } => format!("whiteout {}", path(at)),
                Step::Opaque { path: at } => format!("opaque {}", path(at)),
            });
            Ok::<_, Error>(())
        };
        tree.apply(number as u64, entry, step).unwrap();
    }
    lines
}

#[test]
fn the_steps_of_a_layer_by_itself() {
    let cases: &[(&[Entry], &[&str])] = &[
        (&[directory(""), file("a")], &["update ", "create a"]),
        (&[file("d/e/f")], &["imply d", "imply d/e", "create d/e/f"]),
        (&[file("d/f"), directory("d")], &["imply d", "create d/f", "update d"]),
        // Whiteouts: of what the layer has not, of what it has, of a directory in either order, twice.
        (&[whiteout("d/x"), whiteout("d/x")], &["imply d", "whiteout d/x"]),
        (&[whiteout("d/x"), whiteout("d")], &["imply d", "whiteout d/x", "remove d", "whiteout d"]),
        (&[whiteout("d"), whiteout("d/x"), opaque("d")], &["whiteout d"]),
        (&[whiteout("f"), file("f")], &["whiteout f", "remove f", "create f"]),
        (&[file("f"), whiteout("f")], &["create f"]),
        (&[whiteout("d"), directory("d")], &["whiteout d", "remove d", "create d", "opaque d"]),
        (&[directory("d"), whiteout("d")], &["create d", "opaque d"]),
        (&[whiteout("d"), file("d/f")], &["whiteout d", "remove d", "imply d", "opaque d", "create d/f"]),
        (&[whiteout("d/x"), opaque("d")], &["imply d", "whiteout d/x", "opaque d", "remove d/x"]),
        (&[opaque("d"), whiteout("d/x"), opaque("d")], &["imply d", "opaque d"]),
        // One kind over another: a directory then hides what may be below.
        (&[file("f"), directory("f")], &["create f", "orphan 0 f", "remove f", "create f", "opaque f"]),
        (
            &[directory("d"), file("d/f"), file("d")],
            &["create d", "create d/f", "orphan 1 d/f", "remove d", "create d"],
        ),
        // A hard link keeps its file; one that replaces the last other name of nothing does too.
        (&[file("a"), hard_link("b", "a"), file("a")], &["create a", "link b a", "remove a", "create a"]),
        (&[file("a"), hard_link("a", "a")], &["create a"]),
        // Of files that the layer does not have nothing is made, nor of what lies below them.
        (&[hard_link("a", "low"), hard_link("b", "a")], &[]),
        (&[file("a"), hard_link("a", "low")], &["create a", "orphan 0 a", "remove a"]),
        (&[hard_link("a", "low"), file("a/f"), symlink("a/s", "x")], &["unplaced 1"]),
        (&[hard_link("a", "low"), directory("a")], &["create a", "opaque a"]),
        // Links of the layer itself are followed.
        (
            &[symlink("l", "/d/../e"), file("l/f"), whiteout("l/x")],
            &["create l", "imply e", "create e/f", "whiteout e/x"],
        ),
    ];
    for (entries, expected) in cases {
        assert_eq!(steps(entries), *expected, "{}", brief(*entries));
    }
}

#[test]
fn layers_that_need_nothing_of_those_below_need_no_corrections() {
    let layers = vec![
        vec![
            directory(""),
            directory("usr"),
            directory("usr/bin"),
            file("usr/bin/a"),
            hard_link("usr/bin/b", "usr/bin/a"),
        ],
        vec![],
        vec![directory(""), directory("usr"), whiteout("usr/bin"), symlink("bin", "usr/bin"), directory("opt")],
        vec![directory(""), directory("opt"), opaque("opt"), file("opt/f"), directory("usr"), file("usr/bin/c")],
    ];
    let mut case = case(layers);
    assert_eq!(case.stack(), (vec![0, 2, 3], Vec::new()));
    // The whiteout has made the directory a new one, which is implied; the link is followed where its layer has it not.
    case.layers[3].extend([file("bin/d"), hard_link("e", "usr/bin/c")]);
    let (_, corrections) = case.stack();
    let root = Metadata { mode: 0o700, ..Metadata::default() };
    let bin = Metadata { mode: 0o755, ..Metadata::default() };
    let expected = [
        Correction::Directory { path: b"".to_vec(), metadata: root.clone(), opaque: false },
        Correction::Directory { path: b"usr".to_vec(), metadata: root, opaque: false },
        Correction::Directory { path: b"usr/bin".to_vec(), metadata: bin, opaque: false },
        Correction::Node { path: b"bin".to_vec(), layer: 2, source: b"bin".to_vec(), number: 3 },
        Correction::Node { path: b"usr/bin/d".to_vec(), layer: 3, source: b"bin/d".to_vec(), number: 6 },
    ];
    assert_eq!(corrections, expected);
}

/// The entries of merged layers, in a line each, or the path that depends on what is below.
fn merged_entries(layers: &[&[Entry]]) -> Result<Vec<String>, String> {
    let mut merged = MergedLayer::new();
    layers.iter().for_each(|layer| merged.add_layer(&*index(layer)).unwrap());
    let mut entries = Vec::new();
    let done = merged.entries(|MergedEntry { entry, .. }| {
        entries.push(entry);
        Ok::<_, Error>(())
    });
    match done {
        Ok(()) => Ok(brief(&entries).lines().skip(1).map(|line| line.trim().to_owned()).collect()),
        Err(Error::Merge { problem: MergeProblem::DependsOnLower { path }, .. }) => Err(path),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn merged_layers_keep_what_they_do_to_those_below() {
    let cases: &[(&[&[Entry]], &[&str])] = &[
        (&[&[file("a")], &[whiteout("a")]], &["a: Whiteout"]),
        (&[&[whiteout("a")], &[file("a")]], &["a: Regular"]),
        (&[&[whiteout("d")], &[file("d/f")]], &["d: Directory", "d: Opaque", "d/f: Regular"]),
        (&[&[file("d/a")], &[opaque("d"), file("d/b")]], &["d: Opaque", "d/b: Regular"]),
        (&[&[file("z"), hard_link("a", "z")], &[whiteout("z")]], &["a: Regular", "z: Whiteout"]),
        // Files of the layers below keep their names though others come in their places.
        (&[&[hard_link("z", "b")], &[file("b")]], &["z: hard link to b", "b: Regular"]),
        (
            &[&[hard_link("z", "b")], &[hard_link("d/y", "z"), whiteout("z"), whiteout("b")]],
            &["d/y: hard link to b", "b: Whiteout", "z: Whiteout"],
        ),
        (
            &[&[hard_link("z", "d/b")], &[whiteout("d"), hard_link("d/y", "z")]],
            &["d: Directory", "d/y: hard link to d/b", "d: Opaque", "z: hard link to d/y"],
        ),
        (
            &[&[hard_link("a", "b"), hard_link("b", "c"), hard_link("c", "d")]],
            &["a: hard link to b", "b: hard link to c", "c: hard link to d"],
        ),
    ];
    for (layers, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|&line| line.to_owned()).collect();
        assert_eq!(merged_entries(layers), Ok(expected));
    }
    let swap = [hard_link("t", "a"), hard_link("a", "b"), hard_link("b", "t")];
    assert_eq!(merged_entries(&[&swap]).unwrap(), ["t: hard link to a", "a: hard link to b", "b: hard link to t"]);
    assert_eq!(merged_entries(&[&swap, &[whiteout("t")]]), Err("a".to_owned()));
}

fn case(layers: Vec<Vec<Entry>>) -> Case {
    Case { tags: (0..layers.len() as u8).collect(), layers, truth: Tree::new() }
}

#[test]
fn a_layer_that_is_there_twice_is_stacked_once() {
    let twice = vec![file("x")];
    let mut case = case(vec![twice.clone(), vec![hard_link("z", "x")], twice]);
    case.tags[2] = 0;
    // Two files: the one that the link keeps, and the one that came in its place.
    let root = Metadata { mode: 0o755, ..Metadata::default() };
    let copy = Correction::Copy { path: b"z".to_vec(), layer: 0, source: Some(b"x".to_vec()), number: 0 };
    let expected = [Correction::Directory { path: Vec::new(), metadata: root, opaque: false }, copy];
    assert_eq!(case.stack(), (vec![1, 2], expected.to_vec()));
}

/// Links that lead deeper than any path: `l0` to the root, each further one 2,000 directories below the one before.
fn deep_links() -> Vec<Entry> {
    let step = "d/".repeat(2000);
    let link = |number: usize| symlink(&format!("l{number}"), &format!("l{}/{step}", number - 1));
    std::iter::once(symlink("l0", ".")).chain((1..=4).map(link)).collect()
}

#[test]
fn nothing_recurses_and_nothing_is_walked_again_and_again() {
    let deep = [deep_links(), vec![file("l4/n"), whiteout("l4/x"), whiteout("d")]].concat();
    let lines = steps(&deep);
    assert_eq!((lines.len(), lines.last().unwrap().as_str()), (5 + 8000 + 3, "opaque d"));
    // The second layer does not know where the links lead.
    let (lowers, corrections) = case(vec![deep_links(), vec![file("l4/n")]]).stack();
    let count = |wanted: fn(&Correction) -> bool| corrections.iter().filter(|correction| wanted(correction)).count();
    assert_eq!(lowers, [0, 1]);
    assert_eq!(count(|correction| matches!(correction, Correction::Directory { .. })), 1 + 8000);
    assert_eq!(count(|correction| matches!(correction, Correction::Node { .. })), 2, "l4 and n");
    let mut merged = MergedLayer::new();
    merged.add_layer(&*index(&deep)).unwrap();
    let error = merged.entries(|_| Ok::<_, Error>(())).unwrap_err();
    let limit = 4096;
    assert!(matches!(error, Error::Merge { problem: MergeProblem::TooMany { limit: l, .. }, .. } if l == limit));

    // 20,000 names that come, go, and come again; 20,000 links to files below, each in the way of the one before.
    let names = |make: fn(&str) -> Entry| (0..20_000).map(move |name| make(&format!("w/{name}")));
    let wide: Vec<_> = names(file).chain(names(whiteout)).chain([whiteout("w")]).chain(names(directory)).collect();
    assert_eq!(steps(&wide).len(), 1 + 20_000 + 1 + 4 * 20_000);
    let links = (0..20_000).map(|name| hard_link(&format!("w/{name}"), &format!("w/{}", name + 1)));
    assert_eq!(merged_entries(&[&links.collect::<Vec<_>>()]).unwrap().len(), 20_000);
}

#[test]
fn few_entries_cannot_imply_directories_without_end() {
    let many = (0..100).flat_map(|time| [symlink("l0", &format!("r{time}")), file("l4/n")]);
    let (mut tree, links) = (LayerTree::new(), deep_links());
    let mut apply = |entry: &Entry| tree.apply(0, entry, |_| Ok::<_, Error>(()));
    links.iter().for_each(|entry| apply(entry).unwrap());
    let error = many.map(|entry| apply(&entry)).find_map(Result::err).unwrap();
    let Error::Merge { problem: MergeProblem::TooMany { limit, .. }, .. } = error else { panic!("{error}") };
    assert!((32 << 20..33 << 20).contains(&limit), "{limit}");
}
