// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `validate_image_before_create`: what has been damaged on disk is found, named, and healed where it can be.

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};

use fixture::{Fixture, blob, builder, diff_id};
use stos_engine::validate::{ValidatedImage, validate_image_before_create};
use stos_engine::{Error, Result};
use stos_layerfs::seal::SealState;
use stos_layerfs::{Error as LayerError, Integrity};
use stos_spec::{ChainId, ConfigError, DiffId, Platform};
use stos_store::{Error as StoreError, ImageRecord};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::Image;

/// Does something to a file.
type Damage = fn(&Path);

struct Scene {
    fixture: Fixture,
    image: Image,
    record: ImageRecord,
}

impl Scene {
    fn new() -> Self {
        Self::of(builder().build())
    }

    fn of(image: Image) -> Self {
        let fixture = Fixture::new();
        let record = fixture.pull(&fixture.serve(&image, "1")).unwrap().image;
        Self { fixture, image, record }
    }

    fn validate(&self, integrity: Integrity) -> Result<ValidatedImage> {
        validate_image_before_create(&self.fixture.engine, self.record.clone(), &Platform::host(), integrity)
    }

    fn layer(&self, number: usize) -> DiffId {
        diff_id(&self.image.diff_ids[number])
    }

    fn layer_file(&self, number: usize, name: &str) -> PathBuf {
        self.fixture.engine.store().layer_dir(self.layer(number)).join(name)
    }

    fn chain_file(&self, name: &str) -> PathBuf {
        let layers: Vec<_> = (0..self.image.diff_ids.len()).map(|number| self.layer(number)).collect();
        self.fixture.engine.store().chain_dir(ChainId::of_layers(&layers).unwrap()).join(name)
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_whole_image_is_valid_however_closely_one_looks() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    for integrity in [Integrity::Sealed, Integrity::Full, Integrity::None] {
        let valid = scene.validate(integrity).unwrap();
        assert_eq!(valid.chain.layers(), [scene.layer(0), scene.layer(1)]);
        assert_eq!(valid.image.config_bytes, *scene.image.config.bytes.as_ref().unwrap());
    }
}

#[test]
fn a_damaged_document_is_named_and_comes_back_with_a_pull() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    for document in [&scene.image.manifest, &scene.image.config] {
        let path = scene.fixture.engine.store().blob_path(blob(&document.digest));
        flip(&path, 20);
        let error = scene.validate(Integrity::None).unwrap_err();
        let Error::Store(StoreError::DamagedBlob { path: named, .. }) = &error else { panic!("{error}") };
        assert_eq!(*named, path);
        assert!(error.to_string().contains(&document.digest), "{error}");
        fs::remove_file(&path).unwrap();
        let error = scene.validate(Integrity::None).unwrap_err();
        assert!(matches!(error, Error::Store(StoreError::NoSuchBlob(digest)) if digest == blob(&document.digest)));
        scene.fixture.pull(&scene.fixture.reference("1")).unwrap();
        scene.validate(Integrity::Full).unwrap();
    }
}

#[test]
fn a_damaged_layer_is_found_named_and_healed_by_a_pull() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let damages: [(&str, Damage); 3] = [
        ("a flipped byte", |tar| flip(tar, 600)),
        ("a byte too few", |tar| fs::write(tar, &fs::read(tar).unwrap()[1..]).unwrap()),
        ("no file", |tar| fs::remove_file(tar).unwrap()),
    ];
    for (case, damage) in damages {
        let tar = scene.layer_file(1, "layer.tar");
        damage(&tar);
        for integrity in [Integrity::Sealed, Integrity::Full] {
            let error = scene.validate(integrity).unwrap_err();
            let Error::Layers(LayerError::DamagedLayer { layer, path, .. }) = &error else { panic!("{case}: {error}") };
            assert_eq!((*layer, path), (scene.layer(1), &tar), "{case}");
        }
        scene.fixture.registry.take_requests();
        scene.fixture.pull(&scene.fixture.reference("1")).unwrap();
        let requests = scene.fixture.registry.take_requests();
        let fetched: Vec<_> = requests.iter().filter(|request| request.contains("/blobs/")).collect();
        assert!(fetched.len() == 1 && fetched[0].ends_with(&scene.image.layers[1].digest), "{case}: {fetched:?}");
        scene.validate(Integrity::Full).unwrap();
    }
}

#[test]
fn the_merged_index_is_made_again_where_it_is_damaged_or_gone() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = scene.chain_file("image.erofs");
    let good = fs::read(&image).unwrap();
    let damages: [(&str, &dyn Fn()); 5] = [
        ("a flipped byte", &|| flip(&image, 1700)),
        ("cut short", &|| fs::write(&image, &good[..1024]).unwrap()),
        ("no image", &|| fs::remove_file(&image).unwrap()),
        ("a record that is none", &|| fs::write(scene.chain_file("chain.json"), "{").unwrap()),
        ("no chain", &|| fs::remove_dir_all(image.parent().unwrap()).unwrap()),
    ];
    for (case, damage) in damages {
        damage();
        let valid = scene.validate(Integrity::Sealed).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(fs::read(&image).unwrap(), good, "{case}: the same layers give the same bytes");
        assert_eq!(scene.validate(Integrity::Full).unwrap().chain, valid.chain, "{case}");
        assert_eq!(scene.fixture.names("staging"), Vec::<String>::new(), "{case}");
    }
}

#[test]
fn a_missing_index_is_no_matter_until_it_is_needed_and_made_again_then() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let index = scene.layer_file(0, "layer.index");
    let good = [fs::read(&index).unwrap(), fs::read(scene.chain_file("image.erofs")).unwrap()];
    fs::remove_file(&index).unwrap();
    scene.validate(Integrity::Sealed).unwrap();
    assert!(!index.exists());
    let merge = || {
        fs::remove_dir_all(scene.chain_file("")).unwrap();
        scene.validate(Integrity::Sealed).unwrap();
    };
    let full = || drop(scene.validate(Integrity::Full).unwrap());
    let pull = || {
        scene.fixture.registry.take_requests();
        assert_eq!(scene.fixture.pull(&scene.fixture.reference("1")).unwrap().fetched_bytes, 0);
        let requests = scene.fixture.registry.take_requests();
        assert!(!requests.iter().any(|request| request.contains("/blobs/")), "{requests:?}");
    };
    let needs: [(&str, &dyn Fn()); 3] = [("a merge", &merge), ("a look at every byte", &full), ("a pull", &pull)];
    let damages: [Damage; 2] = [|index| flip(index, 20), |index| fs::remove_file(index).unwrap()];
    for (case, need) in needs {
        for damage in damages {
            fs::write(&index, &good[0]).unwrap();
            damage(&index);
            need();
            assert_eq!([fs::read(&index).unwrap(), fs::read(scene.chain_file("image.erofs")).unwrap()], good, "{case}");
        }
    }
}

#[test]
fn a_pull_heals_the_merged_index_and_what_it_says_of_a_layer_that_came_anew() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let image = scene.chain_file("image.erofs");
    let good = fs::read(&image).unwrap();
    let damages: [(&str, Damage); 3] = [
        ("a flipped byte", |image| flip(image, 1700)),
        ("cut short", |image| fs::write(image, &fs::read(image).unwrap()[..1024]).unwrap()),
        ("no image", |image| fs::remove_file(image).unwrap()),
    ];
    for (case, damage) in damages {
        damage(&image);
        scene.fixture.pull(&scene.fixture.reference("1")).unwrap();
        assert_eq!(fs::read(&image).unwrap(), good, "{case}");
    }
    let tar = scene.layer_file(1, "layer.tar");
    flip(&tar, 600);
    scene.fixture.pull(&scene.fixture.reference("1")).unwrap();
    let record =
        scene.fixture.engine.layerfs().erofs().chain_record(&[scene.layer(0), scene.layer(1)]).unwrap().unwrap();
    assert_eq!(record.layers[1].tar.look(&tar).unwrap(), SealState::Intact, "the next create hashes nothing");
}

#[test]
fn an_image_of_another_platform_is_not_for_here() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let wanted = Platform::new("linux", "riscv64", None);
    let engine = &scene.fixture.engine;
    let error = validate_image_before_create(engine, scene.record.clone(), &wanted, Integrity::Sealed).unwrap_err();
    let Error::Config { digest, source: ConfigError::Platform { expected, found } } = error else { panic!("{error}") };
    assert_eq!((digest, expected, found), (blob(&scene.image.config.digest), wanted, Platform::host()));
}

#[test]
fn a_stop_signal_that_is_none_is_refused() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::of(builder().set("/config/StopSignal", "SIGNONE".into()).build());
    let error = scene.validate(Integrity::Sealed).unwrap_err();
    assert!(matches!(error, Error::Runtime(_)) && error.to_string().contains("SIGNONE"), "{error}");
}
