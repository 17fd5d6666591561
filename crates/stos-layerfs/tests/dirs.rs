// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The backend `dirs`, and what it has in common with the other one: tars come back, layers change sides, damage is found.

mod fixture;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fixture::Fixture;
use stos_layerfs::{Backend as _, BackendKind, Error, Integrity, LayerFs, LayerOutcome};
use stos_spec::{DiffId, LayerCompression};
use stos_store::Store;
use stos_sys::mount::UpperDirs;
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::tree::{Options, Tree};

/// Layers with everything that makes a tar more than its files: names that are replaced, links, members without a record,
/// trailing bytes.
fn tars() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..700_000_u32).map(|number| (number * 7 / 3) as u8).collect();
    let base = TarBuilder::new()
        .entry(Entry::directory("d").mode(0o750))
        .entry(Entry::file("d/replaced", "the first of three"))
        .entry(Entry::file("d/replaced", "the second"))
        .entry(Entry::file("d/noise", noise))
        .entry(Entry::hard_link("d/link", "d/noise"))
        .entry(Entry::file("d/noise", "another"))
        .entry(Entry::directory("gone"))
        .entry(Entry::file("gone/deep", "in a directory that becomes a file"))
        .entry(Entry::file("gone", "a file"))
        .entry(Entry::file(".wh..wh.plnk/1.2", "aufs's own"))
        .entry(Entry::symlink("s", "d"))
        .entry(Entry::file("s/through", "a link"))
        .entry(Entry::file("empty", ""));
    let mut with_trailer = base.finish();
    with_trailer.extend_from_slice(b"bytes after the end");
    let upper = TarBuilder::new()
        .whiteout("d/link")
        .opaque("gone")
        .entry(Entry::file("bin/implied", "x"))
        .entry(Entry::hard_link("far", "d/noise"))
        .entry(Entry::file("empty/below", "a file"));
    vec![with_trailer, upper.finish_unterminated(), TarBuilder::new().finish()]
}

fn read(layerfs: &LayerFs, layer: DiffId) -> std::io::Result<Vec<u8>> {
    let mut reader = layerfs.open_tar(layer).unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    assert_eq!(reader.size(), bytes.len() as u64);
    Ok(bytes)
}

#[test]
fn every_tar_comes_back_byte_for_byte() {
    stos_testkit::require!(Need::Root);
    for kind in BackendKind::ALL {
        let fixture = Fixture::of(kind);
        for tar in tars() {
            let layer = fixture.add(&tar).unwrap();
            assert!(read(&fixture.layerfs, layer).unwrap() == tar, "{kind}");
            let kept = fixture.layerfs.kept(layer).unwrap().unwrap();
            assert_eq!((kept.tar_bytes, kept.diff_id), (tar.len() as u64, layer));
            assert_eq!(fixture.layerfs.kinds_of(layer).unwrap(), [kind]);
        }
    }
    let error = Fixture::new().layerfs.open_tar(DiffId::of(b"none")).err().unwrap();
    assert!(matches!(error, Error::NoSuchLayer(_)), "{error}");
}

#[test]
fn layers_change_sides_without_a_download() {
    stos_testkit::require!(Need::Root);
    for kind in BackendKind::ALL {
        let fixture = Fixture::of(kind);
        let tars = &tars()[..1];
        let expected = fixture.see(tars).unwrap();
        let layers: Vec<_> = tars.iter().map(|tar| DiffId::of(tar)).collect();
        let other = fixture.layerfs.clone().with_backend(kind.other());
        let before = fixture.layerfs.kept(layers[0]).unwrap();
        let chain = other.ensure_sound_chain(&layers, Integrity::Full).unwrap();
        assert_eq!((chain.kind(), chain.layers()), (kind.other(), layers.clone()));
        let point = other.ensure_chain_mounted(&chain).unwrap();
        let found = stos_testkit::tree::Tree::read(&point, &stos_testkit::tree::Options::default()).unwrap();
        expected.assert_same(&found);
        // The store holds both kinds of it, of the same blob.
        assert_eq!(fixture.layerfs.kinds_of(layers[0]).unwrap(), BackendKind::ALL);
        assert_eq!(other.backend(kind.other()).kept(layers[0]).unwrap(), before);
        assert_eq!(fixture.layerfs.layers().unwrap(), layers);
        assert_eq!(fixture.layerfs.chains().unwrap(), [chain.chain_id()]);
        // What a container stands on goes with both.
        fixture.layerfs.remove_chain(chain.chain_id()).unwrap();
        fixture.layerfs.remove_layer(layers[0]).unwrap();
        assert!(fixture.layerfs.kinds_of(layers[0]).unwrap().is_empty());
        assert!(!point.exists());
    }
}

#[test]
fn a_wanted_layer_is_made_of_what_the_other_backend_keeps() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::of(BackendKind::Erofs);
    let tar = tars().remove(0);
    let layer = fixture.add(&tar).unwrap();
    let dirs = Fixture::over(fixture.layerfs.clone().with_backend(BackendKind::Dirs));
    let outcome = dirs.ingest(b"no such blob", LayerCompression::None, layer).unwrap();
    assert!(matches!(outcome, LayerOutcome::Present));
    // Damaged there, it is fetched.
    drop(fixture.layerfs.backend(BackendKind::Dirs).take_layer(layer).unwrap());
    let path = fixture.layer_file(layer, "layer.tar");
    let mut bytes = fs::read(&path).unwrap();
    bytes[600] ^= 1;
    fs::write(&path, bytes).unwrap();
    let outcome = dirs.ingest(&tar, LayerCompression::None, layer).unwrap();
    assert!(matches!(outcome, LayerOutcome::Fetched(_)));
    assert_eq!(dirs.layerfs.kinds_of(layer).unwrap(), BackendKind::ALL);
    assert!(read(&dirs.layerfs, layer).unwrap() == tar, "of two forms the one that is intact is read");
    drop(dirs.layerfs.backend(BackendKind::Dirs).take_layer(layer).unwrap());
    let error = read(&dirs.layerfs, layer).unwrap_err();
    assert!(error.to_string().contains(&layer.to_string()), "{error}");
}

struct Scene {
    fixture: Fixture,
    layers: Vec<DiffId>,
}

impl Scene {
    fn new() -> Self {
        let fixture = Fixture::of(BackendKind::Dirs);
        let base = TarBuilder::new()
            .entry(Entry::directory("d").xattr("user.mark", b"1"))
            .entry(Entry::file("d/f", "content").mode(0o640))
            .entry(Entry::symlink("s", "d"))
            .entry(Entry::char_device("null", 1, 3));
        let upper = TarBuilder::new().entry(Entry::hard_link("d/g", "d/f")).whiteout("s");
        let layers = [base, upper].map(|tar| fixture.add(&tar.finish()).unwrap()).to_vec();
        let scene = Self { fixture, layers };
        scene.sound(Integrity::Full).unwrap();
        scene
    }

    fn sound(&self, integrity: Integrity) -> stos_layerfs::Result<stos_layerfs::Chain> {
        self.fixture.layerfs.ensure_sound_chain(&self.layers, integrity)
    }

    fn layer(&self, number: usize) -> PathBuf {
        self.fixture.layerfs.dirs().layer_dir(self.layers[number])
    }
}

#[test]
fn damage_of_an_unpacked_layer_is_found_and_named_and_the_next_pull_heals_it() {
    stos_testkit::require!(Need::Root);
    type Damage = fn(&Path);
    let cases: [(&str, bool, Damage); 12] = [
        ("content", false, |layer| fs::write(layer.join("diff/d/f"), "CONTENT").unwrap()),
        ("length", false, |layer| fs::write(layer.join("diff/d/f"), "cont").unwrap()),
        ("mode", false, |layer| {
            fs::set_permissions(layer.join("diff/d/f"), fs::Permissions::from_mode(0o600)).unwrap()
        }),
        ("owner", false, |layer| std::os::unix::fs::lchown(layer.join("diff/d"), Some(7), None).unwrap()),
        ("target", true, |layer| {
            fs::remove_file(layer.join("diff/s")).unwrap();
            symlink("/etc", layer.join("diff/s")).unwrap();
        }),
        ("kind", true, |layer| {
            fs::remove_file(layer.join("diff/null")).unwrap();
            fs::write(layer.join("diff/null"), "").unwrap();
        }),
        ("one more", true, |layer| fs::write(layer.join("diff/more"), "").unwrap()),
        ("one less", true, |layer| fs::remove_file(layer.join("diff/s")).unwrap()),
        ("deep", false, |layer| fs::write(layer.join("diff/d/more"), "").unwrap()),
        ("attribute", false, |layer| {
            let dir = fs::File::open(layer.join("diff/d")).unwrap();
            stos_sys::xattr::set(&dir, c"user.mark", b"2").unwrap();
        }),
        ("opaque", false, |layer| {
            let dir = fs::File::open(layer.join("diff/d")).unwrap();
            stos_sys::xattr::set(&dir, c"trusted.overlay.opaque", b"y").unwrap();
        }),
        ("the tar's rest", false, |layer| {
            let path = layer.join("layer.rest");
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (case, is_sealed, damage) in cases {
        let scene = Scene::new();
        let tar = read(&scene.fixture.layerfs, scene.layers[0]).unwrap();
        damage(&scene.layer(0));
        if is_sealed {
            let error = scene.sound(Integrity::Sealed).unwrap_err();
            assert!(
                matches!(&error, Error::DamagedLayer { layer, .. } if *layer == scene.layers[0]),
                "{case}: {error}"
            );
        }
        let error = scene.sound(Integrity::Full).unwrap_err();
        let Error::DamagedLayer { layer, expected, found, .. } = &error else { panic!("{case}: {error}") };
        assert!(*layer == scene.layers[0] && expected != found, "{case}: {error}");
        // Now the seal is broken: nothing is created from it.
        let error = scene.sound(Integrity::Sealed).unwrap_err();
        assert!(matches!(error, Error::DamagedLayer { .. }), "{case}: {error}");
        let outcome = scene.fixture.ingest(&tar, LayerCompression::None, scene.layers[0]).unwrap();
        assert!(matches!(outcome, LayerOutcome::Fetched(_)), "{case}");
        scene.sound(Integrity::Full).unwrap();
    }
}

#[test]
fn what_is_damaged_in_one_form_is_made_of_the_other_or_fetched_into_the_form_that_is_there() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let tar = read(&scene.fixture.layerfs, scene.layers[0]).unwrap();
    // Nobody asks for a backend now, and the host could have the other one.
    let undecided = LayerFs::new(scene.fixture.layerfs.store().clone(), &scene.fixture.run_root());
    let either = Fixture::over(undecided);
    let damage = || fs::remove_file(scene.layer(0).join("diff/null")).unwrap();
    let sound = || either.layerfs.ensure_sound_chain(&scene.layers, Integrity::Sealed);

    damage();
    assert!(matches!(sound().unwrap_err(), Error::DamagedLayer { .. }));
    let outcome = either.ingest(&tar, LayerCompression::None, scene.layers[0]).unwrap();
    assert!(matches!(outcome, LayerOutcome::Fetched(_)));
    assert_eq!(either.layerfs.kinds_of(scene.layers[0]).unwrap(), [BackendKind::Dirs], "healed where it is");
    assert_eq!(sound().unwrap().kind(), BackendKind::Dirs);
    let outcome = either.ingest(&tar, LayerCompression::None, scene.layers[0]).unwrap();
    assert!(matches!(outcome, LayerOutcome::Present), "one sound form is enough");

    let erofs = either.layerfs.ensure_sound_chain_of(BackendKind::Erofs, &scene.layers, Integrity::Full).unwrap();
    assert_eq!(erofs.kind(), BackendKind::Erofs);
    damage();
    let dirs = either.layerfs.ensure_sound_chain_of(BackendKind::Dirs, &scene.layers, Integrity::Full).unwrap();
    assert_eq!(dirs.kind(), BackendKind::Dirs);
    assert!(scene.layer(0).join("diff/null").exists());
}

#[test]
fn what_is_replaced_stays_until_nobody_can_stand_on_it() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let tar = read(&scene.fixture.layerfs, scene.layers[0]).unwrap();
    let chain = scene.sound(Integrity::Sealed).unwrap();
    let upper = tempfile::tempdir_in(scene.fixture.data_root()).unwrap();
    for name in ["upper", "work"] {
        fs::create_dir(upper.path().join(name)).unwrap();
    }
    let (upper, work) = (upper.path().join("upper"), upper.path().join("work"));
    let plan = scene.fixture.layerfs.container_plan(&chain, UpperDirs { upper, work, volatile: true }).unwrap();
    let mount = plan.mount_detached().unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount)));
    // The layer is fetched again, and the corrections are made again, under a root that is in use.
    fs::write(scene.layer(0).join("layer.rest"), "damaged").unwrap();
    scene.fixture.ingest(&tar, LayerCompression::None, scene.layers[0]).unwrap();
    let dirs = scene.fixture.layerfs.dirs();
    fs::write(dirs.chain_dir(chain.chain_id()).join("stack.json"), "{").unwrap();
    scene.sound(Integrity::Full).unwrap();
    assert_eq!(fs::read_to_string(root.join("d/f")).unwrap(), "content");
    assert!(root.join("d/g").exists() && !root.join("s").exists());
    let kept = dirs.replaced().unwrap();
    let mut digits: Vec<_> = kept.iter().map(|old| old.digits.as_str()).collect();
    let mut expected = [chain.chain_id().hex().to_string(), scene.layers[0].hex().to_string()];
    digits.sort_unstable();
    expected.sort();
    assert_eq!(digits, expected);
    assert!(kept.iter().all(|old| old.path.is_dir() && old.since <= std::time::SystemTime::now()));
}

#[test]
fn corrections_are_made_again_where_they_are_not_what_they_were() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let chain = scene.sound(Integrity::Sealed).unwrap();
    let dir = scene.fixture.layerfs.dirs().chain_dir(chain.chain_id());
    let top = dir.join("top");
    let see = || scene.fixture.see_layers(&scene.layers).unwrap();
    let good = see();
    let cases: [(&str, &dyn Fn()); 5] = [
        ("one more", &|| fs::write(top.join("more"), "").unwrap()),
        ("one less", &|| fs::remove_file(top.join("d/g")).unwrap()),
        ("another file", &|| {
            fs::remove_file(top.join("d/g")).unwrap();
            fs::write(top.join("d/g"), "content").unwrap();
        }),
        ("none", &|| fs::remove_dir_all(&top).unwrap()),
        ("no record", &|| fs::write(dir.join("stack.json"), "{").unwrap()),
    ];
    for (case, damage) in cases {
        damage();
        scene.sound(Integrity::Full).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert!(good.differences(&see()).is_empty(), "{case}");
    }
}

#[test]
fn a_copy_of_the_data_root_is_healthy() {
    stos_testkit::require!(Need::Root, Need::Tool("cp"));
    let scene = Scene::new();
    let good = scene.fixture.see_layers(&scene.layers).unwrap();
    let place = stos_testkit::environment::scratch();
    let copied = std::process::Command::new("cp").arg("-a").arg(scene.fixture.data_root()).arg(place.path()).status();
    assert!(copied.unwrap().success());
    let store = Store::open(&place.path().join("data")).unwrap();
    let copy = LayerFs::new(store, &scene.fixture.run_root()).with_backend(BackendKind::Dirs);
    let copy = Fixture::over(copy);
    assert!(!copy.layerfs.dirs().is_layer_intact(scene.layers[0]).unwrap());
    assert!(good.differences(&copy.see_layers(&scene.layers).unwrap()).is_empty());
    copy.layerfs.ensure_sound_chain(&scene.layers, Integrity::Sealed).unwrap();
    assert!(copy.layerfs.dirs().is_layer_intact(scene.layers[0]).unwrap());
}

#[test]
fn a_container_stands_on_the_directories_themselves() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let chain = scene.sound(Integrity::Sealed).unwrap();
    let upper = UpperDirs { upper: "/u".into(), work: "/w".into(), volatile: false };
    let plan = scene.fixture.layerfs.container_plan(&chain, upper).unwrap();
    let top = scene.fixture.layerfs.dirs().chain_dir(chain.chain_id()).join("top");
    assert_eq!(plan.lowers, [top, scene.layer(1).join("diff"), scene.layer(0).join("diff")]);
}

#[test]
fn a_stack_of_more_layers_than_overlayfs_takes_is_refused_by_number() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::of(BackendKind::Dirs);
    let tar = |number: usize| TarBuilder::new().entry(Entry::file(format!("f{number}"), "")).finish();
    let tars: Vec<_> = (0..500).map(tar).collect();
    assert_eq!(fixture.see(&tars[..499]).unwrap().nodes.len(), 500);
    let error = fixture.see(&tars).unwrap_err();
    assert!(matches!(error, Error::TooManyLayers { limit: 499, found: 500, .. }), "{error}");
}

#[test]
fn the_backend_is_the_one_asked_for_else_the_one_that_has_the_layers() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::of(BackendKind::Dirs);
    let layers = [fixture.add(&tars()[0]).unwrap()];
    let undecided = LayerFs::new(fixture.layerfs.store().clone(), &fixture.run_root());
    assert_eq!(undecided.kind_of_new().unwrap(), BackendKind::Erofs, "where this runs");
    assert_eq!(undecided.ensure_sound_chain(&layers, Integrity::Sealed).unwrap().kind(), BackendKind::Dirs);
    assert!(undecided.kinds_of(layers[0]).unwrap() == [BackendKind::Dirs]);
    let chain = undecided.ensure_sound_chain_of(BackendKind::Erofs, &layers, Integrity::Sealed).unwrap();
    assert_eq!(chain.kind(), BackendKind::Erofs);
    assert!(undecided.stand_in(&chain, Integrity::Sealed).unwrap().is_none(), "this host can mount it");
    let error = fixture
        .layerfs
        .dirs()
        .container_plan(&chain, UpperDirs { upper: "/u".into(), work: "/w".into(), volatile: false });
    assert!(matches!(error, Err(Error::OtherBackend { .. })));
}

#[test]
fn the_smallest_layer_takes_the_inodes_that_are_counted_for_it() {
    stos_testkit::require!(Need::Root);
    for kind in BackendKind::ALL {
        let fixture = Fixture::of(kind);
        let layer = fixture.add(&TarBuilder::new().finish()).unwrap();
        let chain = fixture.layerfs.ensure_sound_chain(&[layer], Integrity::Sealed).unwrap().chain_id();
        let (store, dirs) = (fixture.layerfs.store(), fixture.layerfs.dirs());
        let (layer, chain) = match kind {
            BackendKind::Erofs => (store.layer_dir(layer), store.chain_dir(chain)),
            BackendKind::Dirs => (dirs.layer_dir(layer), dirs.chain_dir(chain)),
        };
        let inodes = |path: &Path| Tree::read(path, &Options::default()).unwrap().nodes.len() as u64;
        assert_eq!(inodes(&layer), kind.least_inodes_of_layer(), "{kind}");
        assert_eq!(inodes(&chain), kind.least_inodes_of_chain(), "{kind}");
        assert!(fixture.layerfs.is_kept(DiffId::of(&TarBuilder::new().finish())).unwrap());
        assert!(!fixture.layerfs.is_kept(DiffId::of(b"another")).unwrap());
    }
}
