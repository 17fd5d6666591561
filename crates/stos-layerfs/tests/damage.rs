// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files that are not what was proved: what a look at the seals finds, what hashing every byte finds, what is healthy.

mod fixture;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use fixture::Fixture;
use stos_layerfs::{ChainRecord, Error, Integrity, LayerFs, LayerRecord};
use stos_spec::{BlobDigest, DiffId};
use stos_store::Store;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::tree::{Options, Tree};

fn chain(fixture: &Fixture) -> ChainRecord {
    let lower = TarBuilder::new().entry(Entry::file("low", "l".repeat(2000)));
    let upper = TarBuilder::new().entry(Entry::file("high", "h".repeat(2000)));
    fixture.merge(&[lower, upper]).unwrap()
}

fn layers(record: &ChainRecord) -> Vec<DiffId> {
    record.layers.iter().map(|layer| layer.diff_id).collect()
}

/// Flips the last bit of a byte in place. With `keep_mtime` the time of the last change is put back, as an attacker would:
/// the inode's own (ctime) cannot be.
fn flip(path: &Path, at: u64, keep_mtime: bool) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    if keep_mtime {
        file.set_modified(before).unwrap();
    }
}

/// Writes a file's present times and inode into a record, as if its bits had rotted without a write.
fn seal_as_it_stands(path: &Path, seal: &mut stos_layerfs::seal::Seal) {
    let metadata = fs::metadata(path).unwrap();
    seal.inode = metadata.ino();
    seal.mtime = (metadata.mtime(), metadata.mtime_nsec());
    seal.ctime = (metadata.ctime(), metadata.ctime_nsec());
}

#[track_caller]
fn damaged_layer(error: Error, layer: DiffId, path: &Path) -> (String, String) {
    match error {
        Error::DamagedLayer { layer: named, path: at, expected, found } if named == layer && at == path => {
            (expected, found)
        }
        other => panic!("expected damage of {}, found {other}", path.display()),
    }
}

#[test]
fn a_flipped_byte_is_found_by_the_seal_with_its_time_restored_or_not() {
    for keep_mtime in [false, true] {
        let fixture = Fixture::new();
        let record = chain(&fixture);
        let layer = record.layers[1].diff_id;
        let tar = fixture.layer_file(layer, "layer.tar");
        flip(&tar, 600, keep_mtime);
        let found = BlobDigest::of(&fs::read(&tar).unwrap()).to_string();
        let error = fixture.layerfs.erofs().verify_chain(&record, Integrity::Sealed).unwrap_err();
        assert_eq!(damaged_layer(error, layer, &tar), (layer.to_string(), found.clone()), "{keep_mtime}");
        let error = fixture.layerfs.erofs().verify_chain(&record, Integrity::Full).unwrap_err();
        assert_eq!(damaged_layer(error, layer, &tar), (layer.to_string(), found), "{keep_mtime}");
        assert_eq!(fixture.layerfs.erofs().verify_chain(&record, Integrity::None).unwrap(), record);
        assert!(!fixture.layerfs.erofs().has_layer(layer).unwrap(), "a pull must fetch it again");
        assert!(fixture.layerfs.erofs().has_layer(record.layers[0].diff_id).unwrap());
    }
}

#[test]
fn bits_that_rot_silently_are_found_by_hashing_alone() {
    for name in ["layer.tar", "layer.index"] {
        let fixture = Fixture::new();
        let mut record = chain(&fixture);
        let layer = record.layers[0].diff_id;
        let path = fixture.layer_file(layer, name);
        let good = fs::read(&path).unwrap();
        flip(&path, 10, true);
        if name == "layer.tar" {
            seal_as_it_stands(&path, &mut record.layers[0].tar);
        } else {
            let mut sealed = fixture.layerfs.erofs().layer_record(layer).unwrap().unwrap();
            seal_as_it_stands(&path, &mut sealed.index);
            fs::write(fixture.layer_file(layer, "layer.json"), serde_json::to_vec(&sealed).unwrap()).unwrap();
        }
        assert_eq!(fixture.layerfs.erofs().verify_chain(&record, Integrity::Sealed).unwrap(), record, "{name}");
        let full = fixture.layerfs.erofs().verify_chain(&record, Integrity::Full);
        if name == "layer.tar" {
            damaged_layer(full.unwrap_err(), layer, &path);
        } else {
            assert_eq!(full.unwrap(), record);
            assert_eq!(fs::read(&path).unwrap(), good, "made again from its tar");
        }
    }
    let fixture = Fixture::new();
    let mut record = chain(&fixture);
    let image = fixture.chain_file(&record, "image.erofs");
    flip(&image, 1700, true);
    seal_as_it_stands(&image, &mut record.image);
    assert_eq!(fixture.layerfs.erofs().verify_chain(&record, Integrity::Sealed).unwrap(), record);
    let error = fixture.layerfs.erofs().verify_chain(&record, Integrity::Full).unwrap_err();
    assert!(matches!(&error, Error::DamagedChain { path, .. } if *path == image), "{error}");
}

#[test]
fn a_flipped_byte_of_the_image_is_found_by_the_seal() {
    for keep_mtime in [false, true] {
        let fixture = Fixture::new();
        let record = chain(&fixture);
        let image = fixture.chain_file(&record, "image.erofs");
        flip(&image, 1700, keep_mtime);
        let error = fixture.layerfs.erofs().verify_chain(&record, Integrity::Sealed).unwrap_err();
        let sha256 = record.image.sha256.to_string();
        assert!(
            matches!(&error, Error::DamagedChain { path, expected, found, .. }
            if *path == image && *expected == sha256 && *found != sha256),
            "{error}"
        );
    }
}

#[test]
fn sizes_and_missing_files_are_told_without_hashing() {
    let fixture = Fixture::new();
    let record = chain(&fixture);
    let layer = record.layers[0].diff_id;
    let tar = fixture.layer_file(layer, "layer.tar");
    let size = record.layers[0].tar.size;
    for (length, found) in [(size - 1, format!("{} bytes", size - 1)), (size + 1, format!("{} bytes", size + 1))] {
        File::options().write(true).open(&tar).unwrap().set_len(length).unwrap();
        let error = fixture.layerfs.erofs().verify_chain(&record, Integrity::Sealed).unwrap_err();
        assert_eq!(damaged_layer(error, layer, &tar), (format!("{size} bytes"), found));
    }
    fs::remove_file(&tar).unwrap();
    let error = fixture.layerfs.erofs().verify_chain(&record, Integrity::Sealed).unwrap_err();
    assert_eq!(damaged_layer(error, layer, &tar), ("a file".into(), "none".into()));

    // No mount reads an index: only who looks at everything misses it, and brings it back.
    let layer = record.layers[1].diff_id;
    let good = fs::read(fixture.layer_file(layer, "layer.index")).unwrap();
    let other = Fixture::new();
    let record = chain(&other);
    let index = other.layer_file(layer, "layer.index");
    fs::remove_file(&index).unwrap();
    other.layerfs.erofs().verify_chain(&record, Integrity::Sealed).unwrap();
    assert!(!index.exists());
    other.layerfs.erofs().verify_chain(&record, Integrity::Full).unwrap();
    assert_eq!(fs::read(&index).unwrap(), good);
}

#[test]
fn a_touched_file_is_healthy_and_sealed_again() {
    let fixture = Fixture::new();
    let record = chain(&fixture);
    let layer = record.layers[0].diff_id;
    let tar = fixture.layer_file(layer, "layer.tar");
    File::options().write(true).open(&tar).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let renewed = fixture.layerfs.erofs().verify_chain(&record, Integrity::Sealed).unwrap();
    assert_ne!(renewed, record);
    assert_eq!(renewed.layers[0].tar.mtime, (0, 0));
    assert_eq!(fixture.layerfs.erofs().chain_record(&layers(&record)).unwrap(), Some(renewed.clone()));
    let written: LayerRecord = fixture.layerfs.erofs().layer_record(layer).unwrap().unwrap();
    assert_eq!(written.tar, renewed.layers[0].tar);
    assert_eq!(fixture.layerfs.erofs().verify_chain(&renewed, Integrity::Sealed).unwrap(), renewed);
}

#[test]
fn a_copy_of_the_data_root_is_healthy_and_sealed_again() {
    stos_testkit::require!(Need::Root, Need::Tool("cp"));
    let fixture = Fixture::new();
    let record = chain(&fixture);
    let original = fixture.mount(&record, Integrity::Sealed).unwrap();
    let place = environment::scratch();
    let data_root: PathBuf = place.path().join("copy");
    let copied = std::process::Command::new(environment::tool("cp").unwrap())
        .arg("-a")
        .args([fixture.data_root(), data_root.clone()])
        .status()
        .unwrap();
    assert!(copied.success());
    let layerfs = LayerFs::new(Store::open(&data_root).unwrap(), &place.path().join("run"));
    let found = layerfs.erofs().chain_record(&layers(&record)).unwrap().unwrap();
    assert_eq!(found, record);
    let renewed = layerfs.erofs().verify_chain(&found, Integrity::Sealed).unwrap();
    assert_ne!(renewed.image.inode, record.image.inode);
    assert_eq!(renewed.image.sha256, record.image.sha256);
    assert_eq!(layerfs.erofs().chain_record(&layers(&record)).unwrap(), Some(renewed.clone()));
    assert!(renewed.layers.iter().all(|layer| layerfs.erofs().has_layer(layer.diff_id).unwrap()));
    let copy = layerfs.erofs().ensure_chain_mounted(&renewed).unwrap();
    let (expected, found) = Tree::read_both(&original, &copy, &Options::default()).unwrap();
    layerfs.erofs().unmount_chain(record.chain_id).unwrap();
    // Where `/` is shared it is a mount of itself; elsewhere there is nothing to detach.
    drop(stos_sys::mount::detach(&place.path().join("run/chains")));
    expected.assert_same(&found);
    // One damaged byte in the copy is not covered up by the new seals.
    flip(&data_root.join("layers/sha256").join(record.layers[0].diff_id.hex()).join("layer.tar"), 600, false);
    assert!(matches!(layerfs.erofs().verify_chain(&renewed, Integrity::Sealed), Err(Error::DamagedLayer { .. })));
}

#[test]
fn a_replaced_layer_is_mounted_anew() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let record = chain(&fixture);
    let point = fixture.mount(&record, Integrity::Sealed).unwrap();
    let held = File::open(point.join("low")).unwrap();
    let layer = record.layers[0].diff_id;
    let tar = fixture.layer_file(layer, "layer.tar");
    let bytes = fs::read(&tar).unwrap();
    flip(&tar, 600, false);
    fixture.add(&bytes).unwrap();
    let before = fs::metadata(&point).unwrap().dev();
    let point = fixture.mount(&record, Integrity::Sealed).unwrap();
    assert_ne!(fs::metadata(&point).unwrap().dev(), before, "another mount");
    assert_eq!(fs::read(point.join("low")).unwrap(), "l".repeat(2000).as_bytes());
    let again = fixture.mount(&record, Integrity::Sealed).unwrap();
    assert_eq!(fs::metadata(again).unwrap().dev(), fs::metadata(&point).unwrap().dev(), "the same mount");
    assert_eq!(held.metadata().unwrap().len(), 2000, "who had it open keeps the old one");
}
