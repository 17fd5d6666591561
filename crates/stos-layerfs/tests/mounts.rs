// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mounts of chains: many at once, replaced without a gap, swept with their store's chains alone.

mod fixture;

use std::fs;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use fixture::Fixture;
use stos_layerfs::{Error, Integrity, LayerFs};
use stos_store::Store;
use stos_sys::mount::{UpperDirs, mount_identity};
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// Says to the test's own process, started again, that it is in a mount namespace of its own.
const INSIDE: &str = "STOS_TEST_SHARED_NAMESPACE";

fn is_mounted(path: &std::path::Path) -> bool {
    mount_identity(path).unwrap().is_some_and(|identity| identity.is_mount_root)
}

fn chain(fixture: &Fixture, name: &str) -> stos_layerfs::ChainRecord {
    fixture.merge(&[TarBuilder::new().entry(Entry::file("name", name))]).unwrap()
}

#[test]
fn chains_mounted_at_once_on_a_shared_root_hide_none() {
    stos_testkit::require!(Need::Root, Need::Tool("unshare"));
    if std::env::var_os(INSIDE).is_none() {
        let test = ["--exact", "chains_mounted_at_once_on_a_shared_root_hide_none", "--nocapture"];
        let inside = Command::new(environment::tool("unshare").unwrap())
            .args(["--mount", "--propagation", "shared"])
            .arg(std::env::current_exe().unwrap())
            .args(test)
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&inside.stdout);
        assert!(
            inside.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&inside.stderr)
        );
        return;
    }
    for _ in 0..10 {
        let fixture = Fixture::new();
        let names: Vec<_> = (0..8).map(|number| format!("chain {number}")).collect();
        let records: Vec<_> = names.iter().map(|name| chain(&fixture, name)).collect();
        let barrier = Barrier::new(records.len());
        std::thread::scope(|scope| {
            for record in &records {
                let (fixture, barrier) = (&fixture, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    fixture.mount(record, Integrity::Sealed).unwrap();
                });
            }
        });
        for (name, record) in names.iter().zip(&records) {
            let point = fixture.layerfs.erofs().chain_mount_point(record.chain_id);
            assert!(is_mounted(&point), "{name} is hidden");
            assert_eq!(fs::read_to_string(point.join("name")).unwrap(), *name);
        }
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let area = fixture.run_root().join("chains");
        let areas = table.lines().filter(|line| line.split(' ').nth(4) == area.to_str());
        assert_eq!(areas.count(), 1, "one private area, and it is private: {table}");
        let run_root = fixture.run_root();
        drop(fixture);
        assert!(!run_root.exists(), "the test leaves nothing behind");
    }
}

#[test]
fn a_mount_is_replaced_without_a_gap_and_kept_where_the_new_one_fails() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let mut record = chain(&fixture, "x");
    let layers = [record.layers[0].diff_id];
    let point = fixture.mount(&record, Integrity::Sealed).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut gaps = 0;
            while !is_over.load(Ordering::Relaxed) {
                gaps += usize::from(!is_mounted(&point));
            }
            gaps
        });
        for _ in 0..50 {
            let before = mount_identity(&point).unwrap();
            fs::remove_file(fixture.chain_file(&record, "image.erofs")).unwrap();
            record = fixture.layerfs.erofs().ensure_sound_chain(&layers, Integrity::Sealed).unwrap();
            fixture.layerfs.erofs().ensure_chain_mounted(&record).unwrap();
            assert_ne!(mount_identity(&point).unwrap(), before);
        }
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(watcher.join().unwrap(), 0);
    });

    let before = mount_identity(&point).unwrap();
    record.image.inode += 1;
    fs::write(fixture.layer_file(layers[0], "layer.tar"), "").unwrap();
    let error = fixture.layerfs.erofs().ensure_chain_mounted(&record).unwrap_err();
    assert!(matches!(error, Error::DamagedLayer { .. }), "{error}");
    assert_eq!(mount_identity(&point).unwrap(), before, "the old mount is still there");
}

#[test]
fn a_plan_needs_the_mount() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let record = chain(&fixture, "x");
    let upper = || UpperDirs { upper: "/u".into(), work: "/w".into(), volatile: false };
    let point = fixture.mount(&record, Integrity::Sealed).unwrap();
    assert_eq!(
        fixture.layerfs.erofs().container_plan(record.chain_id, upper()).unwrap().lowers,
        std::slice::from_ref(&point)
    );
    stos_sys::mount::detach(&point).unwrap();
    let error = fixture.layerfs.erofs().container_plan(record.chain_id, upper()).unwrap_err();
    assert!(matches!(&error, Error::NotMounted { path, .. } if *path == point), "{error}");
}

#[test]
fn a_sweep_takes_the_mounts_of_its_own_store_that_no_chain_needs() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let place = tempfile::tempdir().unwrap();
    let other = LayerFs::new(Store::open(place.path()).unwrap(), &fixture.run_root());
    let (kept, gone) = (chain(&fixture, "kept"), chain(&fixture, "gone"));
    for record in [&kept, &gone] {
        fixture.mount(record, Integrity::Sealed).unwrap();
    }
    // As a crash between making the place and mounting there leaves it.
    let half = fixture.run_root().join("chains").join(DIGITS);
    fs::create_dir(&half).unwrap();
    fs::remove_dir_all(fixture.layerfs.store().chain_dir(gone.chain_id)).unwrap();
    let strays = |layerfs: &LayerFs, dry_run| {
        let mut strays = layerfs.sweep_mounts(dry_run).unwrap();
        strays.sort();
        strays
    };
    let digits = gone.chain_id.hex().to_string();
    assert_eq!(strays(&fixture.layerfs, true).len(), 2, "the half one and the one that is gone");
    assert_eq!((strays(&other, true), half.exists()), (vec![DIGITS.to_owned()], true));
    assert_eq!(strays(&other, false), [DIGITS]);
    other.unmount_chain(gone.chain_id).unwrap();
    assert!(!half.exists());
    assert!(is_mounted(&fixture.layerfs.erofs().chain_mount_point(gone.chain_id)), "another store's is not touched");
    assert_eq!(strays(&fixture.layerfs, false), [digits]);
    let (kept, gone) = (kept.chain_id.hex(), fixture.layerfs.erofs().chain_mount_point(gone.chain_id));
    assert!(!gone.exists());
    let mut names = vec![kept.to_string(), format!("{kept}.json")];
    names.sort();
    assert_eq!(stos_store::files::list_names(&fixture.run_root().join("chains")).unwrap(), names);
}

const DIGITS: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
