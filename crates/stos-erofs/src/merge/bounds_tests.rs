// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a few small entries cannot have of memory and time.

use super::random::{index, input};
use super::resolve::resolve;
use super::tree::Tree;
use super::{LayerTree, MergedLayer, Merger, Stack};
use crate::{DataPlace, Entry, EntryKind, Error, LayerInput, MergeProblem, Metadata, Result};

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry { path: path.into(), kind }
}

fn file(path: &str) -> Entry {
    let metadata = Metadata::default();
    entry(path, EntryKind::Regular { metadata, size: 0, place: DataPlace::Tar, block: 0 })
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink { metadata: Metadata::default(), target: target.into() })
}

fn whiteout(path: &str) -> Entry {
    entry(path, EntryKind::Whiteout)
}

fn too_many(result: Result<()>) -> (usize, &'static str, u64) {
    match result.unwrap_err() {
        Error::Merge { layer, problem: MergeProblem::TooMany { what, limit }, .. } => (layer, what, limit),
        other => panic!("{other}"),
    }
}

fn apply_all(tree: &mut LayerTree, entries: &[Entry]) -> Result<()> {
    (0..).zip(entries).try_for_each(|(number, entry)| tree.apply(number, entry, |_| Ok::<_, Error>(())))
}

#[test]
fn entries_of_all_layers_are_counted_together() {
    let what = "entries of all layers together";
    let layer = index(&[file("a"), file("b")]);
    let mut merger = Merger::new();
    merger.bounds.max_entries = 3;
    merger.add_layer(input(1), &*layer).unwrap();
    assert_eq!(too_many(merger.add_layer(input(2), &*layer)), (1, what, 3));

    let mut merged = MergedLayer::new();
    merged.layers.bounds.max_entries = 3;
    merged.add_layer(&*layer).unwrap();
    assert_eq!(too_many(merged.add_layer(&*layer)), (1, what, 3));

    let mut tree = LayerTree::in_place();
    tree.bounds.max_entries = 3;
    tree.add_existing(&file("old")).unwrap();
    // The same name again and again takes no memory, and counts.
    assert_eq!(too_many(apply_all(&mut tree, &[file("a"), file("a"), file("a")])), (1, what, 3));
    let again = apply_all(&mut tree, &[file("a")]).unwrap_err();
    assert!(matches!(again, Error::UsedAfterError { .. }), "{again}");
}

#[test]
fn each_component_is_a_step() {
    let tree = Tree::new();
    for (path, steps) in [("a/b/c", 3), ("a/../b", 6), ("", 6)] {
        resolve(&tree, path.as_bytes()).unwrap();
        assert_eq!(tree.steps(), steps, "{path}");
    }
}

/// Two entries of 100 bytes that have 6,000 directories made, and one that removes them.
fn makes_and_removes(times: usize) -> Vec<Entry> {
    let step = "d/".repeat(2000);
    let links = ["l1", "l2"].map(|link| symlink(link, &format!("{}/{step}", if link == "l1" { "l0" } else { "l1" })));
    let cycle = |time: usize| {
        let top = format!("r{time}");
        [symlink("l0", &format!("{top}/{step}")), file("l2/n"), file(&top)]
    };
    links.into_iter().chain((0..times).flat_map(cycle)).collect()
}

#[test]
fn few_entries_cannot_have_directories_made_and_removed_without_end() {
    let (few, many) = (makes_and_removes(10), makes_and_removes(100));
    let limit = |what, limit| what == "steps along parents" && (1 << 24..(1 << 24) + 256 * 302).contains(&limit);
    let merge = |entries| Merger::new().add_layer(input(1), &*index(entries));
    merge(&few).unwrap();
    let (_, what, found) = too_many(merge(&many));
    assert!(limit(what, found), "{what} {found}");
    for tree in [LayerTree::new, LayerTree::in_place] {
        apply_all(&mut tree(), &few).unwrap();
        let (_, what, found) = too_many(apply_all(&mut tree(), &many));
        assert!(limit(what, found), "{what} {found}");
    }
}

#[test]
fn whiteouts_of_many_layers_cannot_imply_directories_without_end() {
    // 60 whiteouts imply 120,000 directories that only a layer by itself has: each fits, all together do not.
    let deep = "d/".repeat(2000);
    let layer = |number: u8| {
        let entries: Vec<_> = (0..60).map(|name| whiteout(&format!("{number}-{name}/{deep}x"))).collect();
        index(&entries)
    };
    let inputs: Vec<LayerInput> = (0..4).map(input).collect();
    let mut stack = Stack::new(&inputs);
    stack.add_layer(&*layer(0)).unwrap();
    let (_, what, limit) = too_many((1..4).try_for_each(|number| stack.add_layer(&*layer(number))));
    assert_eq!(what, "bytes of names, attributes and implied parents");
    assert!((32 << 20..33 << 20).contains(&limit), "{limit}");
}

#[test]
fn links_wait_for_the_file_whose_place_their_directory_takes() {
    let hard_link = |path: &str, target: &str| entry(path, EntryKind::HardLink { target: target.into() });
    let directory = entry("d", EntryKind::Directory(Metadata::default()));
    let given = |entries: &[Entry]| {
        let (mut merged, mut paths) = (MergedLayer::new(), Vec::new());
        merged.add_layer(&*index(entries)).unwrap();
        merged.entries(|given| {
            paths.push(String::from_utf8(given.entry.path).unwrap());
            Ok::<_, Error>(())
        })?;
        Ok(paths)
    };
    let mut entries = vec![hard_link("k", "d"), directory, hard_link("d/k", "k")];
    entries.extend((0..3).map(|name| hard_link(&format!("d/{name}"), &format!("x{name}"))));
    assert_eq!(given(&entries).unwrap(), ["k", "d", "d/0", "d/1", "d/2", "d/k"]);
    // The file is left with a name in that directory alone. None of the links can come first.
    entries.push(file("k"));
    let error: Error = given(&entries).unwrap_err();
    let expected = MergeProblem::DependsOnLower { path: "d".into() };
    assert!(matches!(&error, Error::Merge { problem, .. } if *problem == expected), "{error}");
}
