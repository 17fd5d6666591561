// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is damaged and can be made again is made again, once, in one step; what cannot is named until a pull replaces it.

mod fixture;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use fixture::Fixture;
use stos_layerfs::LayerOutcome;
use stos_layerfs::seal::Seal;
use stos_layerfs::{ChainRecord, Error, Integrity, LayerRecord};
use stos_spec::{BlobDigest, DiffId, LayerCompression};
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// Does something to a file.
type Damage = fn(&Path);

/// Makes a record say what cannot be.
type Contradiction = fn(&mut ChainRecord);

fn tar(name: &str) -> Vec<u8> {
    TarBuilder::new().entry(Entry::file(name, name.repeat(800))).finish()
}

/// A store with a chain of two layers.
struct Scene {
    fixture: Fixture,
    layers: Vec<DiffId>,
    record: ChainRecord,
}

impl Scene {
    fn new() -> Self {
        let fixture = Fixture::new();
        let layers = vec![fixture.add(&tar("low")).unwrap(), fixture.add(&tar("high")).unwrap()];
        let record = fixture.layerfs.erofs().ensure_chain(&layers).unwrap();
        Self { fixture, layers, record }
    }

    fn sound(&self, integrity: Integrity) -> stos_layerfs::Result<ChainRecord> {
        self.fixture.layerfs.erofs().ensure_sound_chain(&self.layers, integrity)
    }

    fn layer_record(&self, layer: DiffId) -> LayerRecord {
        self.fixture.layerfs.erofs().layer_record(layer).unwrap().unwrap()
    }

    fn write_layer_record(&self, record: &LayerRecord) {
        let json = serde_json::to_vec(record).unwrap();
        fs::write(self.fixture.layer_file(record.diff_id, "layer.json"), json).unwrap();
    }

    fn write_chain_record(&self, record: &ChainRecord) {
        fs::write(self.fixture.chain_file(record, "chain.json"), serde_json::to_vec(record).unwrap()).unwrap();
    }

    fn forget_chain(&self) {
        fs::remove_dir_all(self.fixture.layerfs.store().chain_dir(self.record.chain_id)).unwrap();
    }
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Seals a file as it stands under its old digest: what rot that nothing wrote looks like.
fn rot(path: &Path, at: u64, seal: &mut Seal) {
    flip(path, at);
    let metadata = fs::metadata(path).unwrap();
    seal.mtime = (metadata.mtime(), metadata.mtime_nsec());
    seal.ctime = (metadata.ctime(), metadata.ctime_nsec());
}

#[track_caller]
fn assert_damaged(result: stos_layerfs::Result<ChainRecord>, layer: DiffId, name: &str) {
    let error = result.unwrap_err();
    assert!(
        matches!(&error, Error::DamagedLayer { layer: at, path, .. } if *at == layer && path.ends_with(name)),
        "expected damage of {name}, found {error}"
    );
}

#[test]
fn of_many_that_find_a_damaged_image_one_makes_it_again() {
    for _ in 0..5 {
        let scene = Scene::new();
        let image = scene.fixture.chain_file(&scene.record, "image.erofs");
        let good = fs::read(&image).unwrap();
        flip(&image, 1700);
        let barrier = Barrier::new(8);
        let records: Vec<_> = std::thread::scope(|scope| {
            let work = || {
                barrier.wait();
                scene.sound(Integrity::Sealed).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(fs::read(&image).unwrap(), good);
        assert!(records.iter().all(|record| *record == records[0]), "all use the one that is there");
        assert_ne!(records[0].image.inode, scene.record.image.inode);
        assert_eq!(scene.sound(Integrity::Full).unwrap(), records[0]);
        assert_eq!(stos_store::files::list_names(&scene.fixture.data_root().join("staging")).unwrap(), [""; 0]);
    }
}

#[test]
fn a_missing_image_is_made_again_however_closely_one_looks() {
    for integrity in [Integrity::None, Integrity::Sealed, Integrity::Full] {
        let scene = Scene::new();
        let image = scene.fixture.chain_file(&scene.record, "image.erofs");
        let good = fs::read(&image).unwrap();
        fs::remove_file(&image).unwrap();
        scene.sound(integrity).unwrap();
        assert_eq!(fs::read(&image).unwrap(), good);
    }
}

#[test]
fn rot_that_was_found_once_stays_found_until_the_layer_is_replaced() {
    let mut scene = Scene::new();
    let layer = scene.layers[1];
    let path = scene.fixture.layer_file(layer, "layer.tar");
    let mut chain = scene.record.clone();
    rot(&path, 600, &mut chain.layers[1].tar);
    let known = LayerRecord { tar: chain.layers[1].tar.clone(), ..scene.layer_record(layer) };
    scene.write_layer_record(&known);
    scene.write_chain_record(&chain);
    scene.record = chain;
    scene.sound(Integrity::Sealed).unwrap();
    assert!(scene.fixture.layerfs.erofs().has_layer(layer).unwrap(), "nothing has looked at its bytes yet");
    assert_damaged(scene.sound(Integrity::Full), layer, "layer.tar");
    assert_damaged(scene.sound(Integrity::Sealed), layer, "layer.tar");
    scene.fixture.add(&tar("high")).unwrap();
    let renewed = scene.sound(Integrity::Full).unwrap();
    assert_eq!(scene.sound(Integrity::Sealed).unwrap(), renewed);
}

#[test]
fn a_rotten_image_is_made_again_once_it_is_found() {
    let scene = Scene::new();
    let image = scene.fixture.chain_file(&scene.record, "image.erofs");
    let good = fs::read(&image).unwrap();
    let mut chain = scene.record.clone();
    rot(&image, 1700, &mut chain.image);
    scene.write_chain_record(&chain);
    scene.sound(Integrity::Full).unwrap();
    assert_eq!(fs::read(&image).unwrap(), good);
}

#[test]
fn a_damaged_index_is_made_again_from_a_tar_that_proves_right() {
    let damages: [(&str, Damage); 4] = [
        ("a flipped byte", |index| flip(index, 20)),
        ("cut short", |index| File::options().write(true).open(index).unwrap().set_len(10).unwrap()),
        ("no file", |index| fs::remove_file(index).unwrap()),
        ("the index of another tar", |index| {
            let other = Fixture::new();
            let layer = other.add(&TarBuilder::new().entry(Entry::file("x", "x".repeat(9000))).finish()).unwrap();
            fs::copy(other.layer_file(layer, "layer.index"), index).unwrap();
        }),
    ];
    for (case, damage) in damages {
        let scene = Scene::new();
        let index = scene.fixture.layer_file(scene.layers[0], "layer.index");
        let good = fs::read(&index).unwrap();
        damage(&index);
        scene.forget_chain();
        let record = scene.sound(Integrity::Full).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(record.image.sha256, scene.record.image.sha256, "{case}");
        assert_eq!(fs::read(&index).unwrap(), good, "{case}");
        let sealed = scene.layer_record(scene.layers[0]).index;
        assert_eq!(sealed.look(&index).unwrap(), stos_layerfs::seal::SealState::Intact, "{case}");

        // From a tar that is damaged too nothing can be made.
        damage(&index);
        flip(&scene.fixture.layer_file(scene.layers[0], "layer.tar"), 600);
        scene.forget_chain();
        assert_damaged(scene.sound(Integrity::Sealed), scene.layers[0], "layer.tar");
        assert_eq!(stos_store::files::list_names(&scene.fixture.data_root().join("locks")).unwrap(), [""; 0], "{case}");
    }
}

#[test]
fn indexes_that_changed_places_make_no_image_of_wrong_files() {
    let fixture = Fixture::new();
    // As long as each other, so that each index fits the other's tar.
    let layers = ["one", "two"].map(|name| fixture.add(&tar(name)).unwrap());
    let record = fixture.layerfs.erofs().ensure_chain(&layers).unwrap();
    let image = fixture.chain_file(&record, "image.erofs");
    let good = fs::read(&image).unwrap();
    let indexes = layers.map(|layer| fixture.layer_file(layer, "layer.index"));
    let right = indexes.each_ref().map(|index| fs::read(index).unwrap());
    for (index, bytes) in indexes.iter().zip(right.iter().rev()) {
        fs::write(index, bytes).unwrap();
    }
    fs::remove_file(&image).unwrap();
    fixture.layerfs.erofs().ensure_sound_chain(&layers, Integrity::Sealed).unwrap();
    assert_eq!(fs::read(&image).unwrap(), good);
    assert_eq!(indexes.map(|index| fs::read(index).unwrap()), right);
}

#[test]
fn an_image_of_other_indexes_is_made_again() {
    let mut scene = Scene::new();
    scene.record.layers[1].index = BlobDigest::of(b"other");
    scene.write_chain_record(&scene.record);
    assert_eq!(scene.sound(Integrity::Sealed).unwrap(), scene.record, "one stat a file does not tell");
    let again = scene.sound(Integrity::Full).unwrap();
    assert_eq!(again.layers[1].index, scene.layer_record(scene.layers[1]).index.sha256);
    assert_ne!(again.image.inode, scene.record.image.inode);

    // As a version wrote it that did not record them.
    let mut old = serde_json::to_value(&again).unwrap();
    old["layers"][0].as_object_mut().unwrap().remove("index").unwrap();
    fs::write(scene.fixture.chain_file(&again, "chain.json"), old.to_string()).unwrap();
    assert_ne!(scene.sound(Integrity::Sealed).unwrap().image.inode, again.image.inode);
}

#[test]
fn a_pull_makes_an_index_again_and_fetches_nothing() {
    let damages: [Damage; 2] = [|index| flip(index, 20), |index| fs::remove_file(index).unwrap()];
    for damage in damages {
        let scene = Scene::new();
        let layer = scene.layers[0];
        let index = scene.fixture.layer_file(layer, "layer.index");
        let good = fs::read(&index).unwrap();
        damage(&index);
        let outcome = scene.fixture.ingest(b"fetched", LayerCompression::None, layer).unwrap();
        assert!(matches!(outcome, LayerOutcome::Present));
        assert_eq!(fs::read(&index).unwrap(), good);

        // A tar that has rotted unseen is no tar to make it from: the layer comes anew.
        damage(&index);
        let mut known = scene.layer_record(layer);
        rot(&scene.fixture.layer_file(layer, "layer.tar"), 600, &mut known.tar);
        scene.write_layer_record(&known);
        let outcome = scene.fixture.ingest(&tar("low"), LayerCompression::None, layer).unwrap();
        assert!(matches!(outcome, LayerOutcome::Fetched(_)));
        assert_eq!(fs::read(&index).unwrap(), good);
    }
}

#[test]
fn a_chain_takes_over_the_seal_of_a_layer_that_was_replaced() {
    let scene = Scene::new();
    let layer = scene.layers[1];
    fs::remove_file(scene.fixture.layer_file(layer, "layer.tar")).unwrap();
    scene.fixture.add(&tar("high")).unwrap();
    let renewed = scene.sound(Integrity::Sealed).unwrap();
    assert_eq!(renewed.layers[1].tar, scene.layer_record(layer).tar);
    assert_eq!(scene.fixture.layerfs.erofs().chain_record(&scene.layers).unwrap(), Some(renewed));

    // Without hashing: whatever the pull has sealed is taken as it is.
    let mut known = scene.layer_record(layer);
    rot(&scene.fixture.layer_file(layer, "layer.tar"), 600, &mut known.tar);
    scene.write_layer_record(&known);
    assert_eq!(scene.sound(Integrity::Sealed).unwrap().layers[1].tar, known.tar);
}

#[test]
fn a_layer_that_is_proved_by_hashing_is_sealed_again() {
    let scene = Scene::new();
    let layer = scene.layers[0];
    let path = scene.fixture.layer_file(layer, "layer.tar");
    File::options().write(true).open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(scene.fixture.layerfs.erofs().has_layer(layer).unwrap());
    assert_eq!(scene.layer_record(layer).tar.mtime, (0, 0));
}

#[test]
fn a_record_that_contradicts_its_own_name_is_damaged() {
    let damages: [(&str, Contradiction); 4] = [
        ("layers in another order", |record| record.layers.reverse()),
        ("a layer too few", |record| record.layers.truncate(1)),
        ("another tar", |record| record.layers[0].tar.sha256 = BlobDigest::of(b"x")),
        ("a device of no layer", |record| record.devices[0].layer = DiffId::of(b"x")),
    ];
    for (case, damage) in damages {
        let scene = Scene::new();
        let mut record = scene.record.clone();
        damage(&mut record);
        scene.write_chain_record(&record);
        assert_eq!(scene.fixture.layerfs.erofs().chain_record(&scene.layers).unwrap(), None, "{case}");
        let again = scene.sound(Integrity::Full).unwrap();
        assert_eq!(again.image.sha256, scene.record.image.sha256, "{case}");
    }

    // A tar under the digest that its own record gives it, in the place of another: full of what nobody asked for.
    let scene = Scene::new();
    let (layer, other) = (scene.layers[0], tar("other"));
    let mut record = scene.layer_record(layer);
    fs::write(scene.fixture.layer_file(layer, "layer.tar"), &other).unwrap();
    let file = File::open(scene.fixture.layer_file(layer, "layer.tar")).unwrap();
    record.tar = Seal::of(&file, BlobDigest::of(&other), Path::new("layer.tar")).unwrap();
    scene.write_layer_record(&record);
    assert!(!scene.fixture.layerfs.erofs().has_layer(layer).unwrap());
    scene.forget_chain();
    assert_damaged(scene.sound(Integrity::Sealed), layer, "layer.json");
    fs::write(scene.fixture.layer_file(layer, "layer.json"), "{").unwrap();
    assert_damaged(scene.sound(Integrity::Sealed), layer, "layer.json");
    fs::remove_dir_all(scene.fixture.layer_file(layer, "")).unwrap();
    assert!(matches!(scene.sound(Integrity::Sealed), Err(Error::NoSuchLayer(at)) if at == layer));
}

#[test]
fn whoever_looks_while_a_layer_and_its_chain_are_replaced_finds_them() {
    let scene = Scene::new();
    let layer = scene.layers[0];
    let paths = [scene.fixture.layer_file(layer, "layer.json"), scene.fixture.chain_file(&scene.record, "image.erofs")];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut missing = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                missing.extend(paths.iter().filter(|path| File::open(path).is_err()));
            }
            missing
        });
        for _ in 0..50 {
            flip(&scene.fixture.layer_file(layer, "layer.tar"), 600);
            flip(&paths[1], 1700);
            scene.fixture.add(&tar("low")).unwrap();
            scene.sound(Integrity::Sealed).unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(reader.join().unwrap(), Vec::<&std::path::PathBuf>::new());
    });
}
