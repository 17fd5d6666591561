// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers that need those below them: unpacked alone and stacked they show, with their corrections, what the merged image shows.

mod fixture;

use fixture::Fixture;
use stos_erofs::{LayerInput, Merger, index_tar};
use stos_layerfs::{BackendKind, Integrity};
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn tar() -> TarBuilder {
    TarBuilder::new()
}

/// Compares what both backends show of the layers; gives how many corrections the stack took.
#[track_caller]
fn corrections(fixture: &Fixture, tars: &[TarBuilder], why: &str) -> u64 {
    let tars: Vec<_> = tars.iter().map(|tar| tar.clone().finish()).collect();
    let expected = Fixture::of(BackendKind::Erofs).see(&tars).unwrap();
    let differences = expected.differences(&fixture.see(&tars).unwrap());
    assert!(differences.is_empty(), "{why}: {differences:#?}");
    let layers: Vec<_> = tars.iter().map(|tar| stos_spec::DiffId::of(tar)).collect();
    let dirs = fixture.layerfs.dirs();
    let record = dirs.stack_record(&layers).unwrap().unwrap();
    // What was made is what a look at every byte expects.
    fixture.layerfs.ensure_sound_chain(&layers, Integrity::Full).unwrap();
    assert_eq!(dirs.stack_record(&layers).unwrap().unwrap(), record, "{why}");
    record.corrections
}

#[test]
fn layers_that_need_those_below() {
    stos_testkit::require!(Need::Root);
    let base = tar()
        .entry(Entry::directory("").mode(0o711).mtime(7, 0))
        .entry(Entry::directory("usr").mode(0o750).owner(3, 4).mtime(5, 6).xattr("trusted.mark", b"1"))
        .entry(Entry::directory("usr/bin").mtime(8, 0))
        .entry(Entry::file("usr/bin/sh", "shell"))
        .entry(Entry::file("usr/bin/old", "old"))
        .entry(Entry::symlink("bin", "usr/bin"))
        .entry(Entry::directory("opt/app"))
        .entry(Entry::file("opt/app/lib", "library"));
    let cases = [
        (tar().entry(Entry::file("usr/bin/new", "new")), "implied parents keep their metadata"),
        (tar().entry(Entry::file("bin/new", "new")), "parents that are links below"),
        (tar().whiteout("bin/old"), "a whiteout through such a parent"),
        (tar().opaque("bin"), "an opaque marker through such a parent"),
        (tar().entry(Entry::hard_link("usr/bin/bash", "usr/bin/sh")), "a hard link to a file below"),
        (tar().entry(Entry::hard_link("usr/bin/bash", "bin/sh")).whiteout("usr/bin/sh"), "and its target goes"),
        (tar().opaque("."), "an opaque root"),
        (tar().entry(Entry::directory("d")).whiteout("d/x"), "a whiteout in a directory that no other layer has"),
        (
            tar().entry(Entry::file("bin/a", "a")).entry(Entry::symlink("bin", "opt")),
            "an orphan that is seen after all",
        ),
        (
            tar().entry(Entry::fifo("bin/a")).entry(Entry::hard_link("p", "bin/a")).entry(Entry::file("bin", "")),
            "the same",
        ),
    ];
    let fixture = Fixture::of(BackendKind::Dirs);
    for (upper, why) in cases {
        let top = tar().entry(Entry::file("top", why));
        assert!(corrections(&fixture, &[base.clone(), upper, top], why) > 0, "{why}");
    }
    let plain = tar().entry(Entry::directory("")).entry(Entry::directory("usr")).entry(Entry::file("usr/new", ""));
    let anew = tar().whiteout("opt").entry(Entry::file("opt/app/lib2", "2"));
    for (upper, why) in [(plain, "nothing to correct"), (anew, "a directory that is made anew")] {
        assert_eq!(corrections(&fixture, &[base.clone(), upper], why), 0, "{why}");
    }
}

/// A small generator, so that a failure can be had again from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn path(&mut self) -> String {
        let names: Vec<_> = (0..=self.below(3)).map(|_| ["a", "b", "c"][self.below(3)]).collect();
        names.join("/")
    }

    fn add(&mut self, tar: TarBuilder, number: usize) -> TarBuilder {
        let path = self.path();
        let entry = match self.below(15) {
            0..=2 => Entry::directory(&path).mode(0o700 + self.below(8) as u32),
            3..=5 => Entry::file(&path, format!("content {number}")),
            6..=8 => Entry::hard_link(&path, self.path()),
            9..=10 => return tar.whiteout(&path),
            11 => return tar.opaque(&path),
            12 => Entry::fifo(&path),
            _ => Entry::symlink(&path, ["a", "/b", "..", "../b/", "c/./a", "/b/c"][self.below(6)]),
        };
        tar.entry(entry.mtime(number as i64, 1).owner(number as u64, 1))
    }
}

#[test]
fn random_layers() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::of(BackendKind::Dirs);
    let mut corrected = 0;
    for seed in 1..=40 {
        let mut random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut tars: Vec<TarBuilder> = Vec::new();
        for layer in 0..3 {
            tars.push(tar());
            for number in 0..10 {
                let mut next = tars.clone();
                next[layer] = random.add(next[layer].clone(), 10 * layer + number);
                if merges(&next) {
                    tars = next;
                }
            }
        }
        corrected += u64::from(corrections(&fixture, &tars, &format!("seed {seed}")) > 0);
    }
    assert!(corrected > 20, "{corrected}");
}

/// Tells whether the layers contradict each other nowhere.
fn merges(tars: &[TarBuilder]) -> bool {
    let mut merger = Merger::new();
    tars.iter().all(|tar| {
        let tar = tar.clone().finish();
        let tag = *stos_spec::DiffId::of(&tar).as_bytes();
        let input = LayerInput { tag, tar_bytes: tar.len() as u64, extra_bytes: 0 };
        index_tar(tar.as_slice(), Vec::new()).is_ok_and(|(index, _)| merger.add_layer(input, index.as_slice()).is_ok())
    })
}
