// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Each fuzz target over the inputs that the repository keeps: they hold, and none is without input.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use stos_fuzz_targets::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names_in(directory: &str, suffix: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(directory)).unwrap();
    let name = |name: String| name.strip_suffix(suffix).map(str::to_owned);
    entries.filter_map(|entry| name(entry.unwrap().file_name().into_string().unwrap())).collect()
}

#[test]
fn every_target_has_a_binary_and_seeds() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in("fuzz_targets", ".rs"), targets);
    assert_eq!(names_in("seeds", ""), targets);
    let dictionaries = names_in("dictionaries", ".dict");
    assert!(dictionaries.is_subset(&targets), "{dictionaries:?}");
}

#[test]
fn what_must_hold_holds_for_the_seeds() {
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let seeds = fs::read_dir(fuzz().join("seeds").join(name)).unwrap();
        let paths: Vec<_> = seeds.map(|seed| seed.unwrap().path()).collect();
        assert!(!paths.is_empty(), "{name}");
        for path in paths {
            let input = fs::read(&path).unwrap();
            if std::panic::catch_unwind(|| target(&input)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
