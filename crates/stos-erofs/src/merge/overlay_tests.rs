// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers by themselves and stacked, against the merger, by random layers.

use super::disk::Disk;
use super::random::{Random, apply, index, input};
use super::tree::Tree;
use super::{Correction, LayerTree, Stack};
use crate::index::Entry;
use crate::{EntryKind, Error};

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
            layers.push(random.layer(&mut truth, layer, seed % 3 != 0));
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
        (lowers, stack.corrections(reopen).unwrap())
    }
}

/// Unpacks a layer by itself; after each entry the directory must be what the tree says.
fn unpack(tag: u8, entries: &[Entry], seed: u64) -> Disk {
    let (mut disk, mut tree) = (Disk::new(), LayerTree::new());
    for (number, entry) in entries.iter().enumerate() {
        let number = number as u64;
        let step = |step: super::Step<'_>| {
            disk.step(tag, number, entry, step);
            Ok::<_, Error>(())
        };
        tree.apply(number, entry, step).unwrap();
        assert_eq!(disk.list(), Disk::of(tree.tree(), |_| tag).list(), "seed {seed}, entry {number}: {entries:#?}");
        let mut data: Vec<_> = tree.places().map(|(number, _)| number).chain(disk.orphans.keys().copied()).collect();
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
        let truth = Disk::of(&case.truth, |layer| case.tags[layer]);
        assert_eq!(shown.list(), truth.list(), "seed {seed}: {:#?} {corrections:#?}", case.layers);
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
            random.layer(&mut truth, layer, seed % 3 != 0);
        }
        let base = Disk::of(&truth, |_| 0).entries();
        let (mut truth, mut tree) = (Tree::new(), LayerTree::in_place());
        for (number, entry) in base.iter().enumerate() {
            apply(&mut truth, 0, number as u32, entry).unwrap();
            tree.add_existing(entry).unwrap();
        }
        let mut disk = Disk::of(&truth, |_| 0);
        disk.stamps = true;
        let mut failed = false;
        for number in 0..random.below(10) as u32 {
            let entry = random.entry(seed % 3 != 0);
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
            assert_eq!(disk.list(), Disk::of(&truth, |layer| layer as u8).list(), "seed {seed}: {base:#?}");
        }
    }
    assert!(applied > 5000 && refused > 500, "{applied} {refused}");
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
