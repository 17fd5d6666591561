// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Examinations of layers and chains: they name what is wrong, heal nothing, and write seals only where they may.

mod fixture;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fixture::Fixture;
use stos_layerfs::{Backend, BackendKind, Error, Examination, Integrity, LayerFs, LayerRequest, Problem, Remade};
use stos_spec::media_type::OCI_LAYER;
use stos_spec::{BlobDigest, ChainId, Descriptor, DiffId, LayerCompression};
use stos_store::Store;
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::tree::{Options, Tree};

const SEALED: Examination = Examination { integrity: Integrity::Sealed, reseals: true };
const FULL: Examination = Examination { integrity: Integrity::Full, reseals: true };
/// In a store that may only be read.
const READ_ONLY: Examination = Examination { integrity: Integrity::Full, reseals: false };

/// A store with a chain of two layers, the upper one with a sparse file.
struct Scene {
    fixture: Fixture,
    kind: BackendKind,
    layers: Vec<DiffId>,
    chain: ChainId,
}

impl Scene {
    fn new(kind: BackendKind) -> Self {
        let fixture = Fixture::of(kind);
        let low = TarBuilder::new().entry(Entry::file("low", "low".repeat(800))).finish();
        let high = TarBuilder::new()
            .entry(Entry::hard_link("link", "low"))
            .sparse_pax("sparse", 1 << 20, &[(4096, b"some data")])
            .finish();
        let layers = vec![fixture.add(&low).unwrap(), fixture.add(&high).unwrap()];
        fixture.layerfs.ensure_sound_chain(&layers, Integrity::Sealed).unwrap();
        let chain = ChainId::of_layers(&layers).unwrap();
        Self { fixture, kind, layers, chain }
    }

    fn backend(&self) -> &dyn Backend {
        self.fixture.layerfs.backend(self.kind)
    }

    /// What is wrong, of both layers and the chain: the paths below DATA-ROOT.
    fn examine(&self, how: Examination) -> Vec<(String, Problem)> {
        let layers = self.layers.iter().map(|layer| self.backend().examine_layer(*layer, how).unwrap());
        let chain = self.backend().examine_chain(self.chain, how).unwrap();
        let faults = layers.collect::<Vec<_>>().into_iter().chain([chain]).flat_map(|examined| examined.faults);
        let name = |path: &Path| path.strip_prefix(self.fixture.data_root()).unwrap().display().to_string();
        faults.map(|fault| (name(&fault.path), fault.problem)).collect()
    }

    fn layer_dir(&self) -> PathBuf {
        match self.kind {
            BackendKind::Erofs => self.fixture.layerfs.store().layer_dir(self.layers[1]),
            BackendKind::Dirs => self.fixture.layerfs.dirs().layer_dir(self.layers[1]),
        }
    }

    fn chain_dir(&self) -> PathBuf {
        match self.kind {
            BackendKind::Erofs => self.fixture.layerfs.store().chain_dir(self.chain),
            BackendKind::Dirs => self.fixture.layerfs.dirs().chain_dir(self.chain),
        }
    }

    fn tree(&self) -> Tree {
        Tree::read(&self.fixture.data_root(), &Options::default()).unwrap()
    }
}

fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 30).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 30).unwrap();
}

#[test]
fn each_file_is_named_and_none_is_healed() {
    stos_testkit::require!(Need::Root);
    type Damage = fn(&Path);
    let damages: [(&str, Damage, Problem); 3] = [
        ("flipped", flip, Problem::Altered),
        ("cut", |path| File::options().write(true).open(path).unwrap().set_len(1).unwrap(), Problem::Size),
        ("gone", |path| fs::remove_file(path).unwrap(), Problem::Missing),
    ];
    let files = [
        (BackendKind::Erofs, "layer", &["layer.tar", "layer.index", "layer.extra"][..]),
        (BackendKind::Erofs, "chain", &["image.erofs"]),
        (BackendKind::Dirs, "layer", &["layer.index", "layer.rest"]),
    ];
    for (kind, object, names) in files {
        for name in names {
            for (what, damage, problem) in damages {
                let scene = Scene::new(kind);
                assert_eq!(scene.examine(FULL), []);
                let dir = if object == "layer" { scene.layer_dir() } else { scene.chain_dir() };
                damage(&dir.join(name));
                let before = scene.tree();
                for how in [SEALED, FULL, READ_ONLY] {
                    let found = scene.examine(how);
                    let place = dir.strip_prefix(scene.fixture.data_root()).unwrap().join(name).display().to_string();
                    assert_eq!(found.len(), 1, "{kind} {name} {what} {how:?}: {found:?}");
                    assert_eq!(found[0], (place, problem), "{kind} {what} {how:?}");
                }
                before.assert_same(&scene.tree());
            }
        }
    }
}

#[test]
fn a_restored_store_is_sealed_again_unless_it_may_only_be_read() {
    stos_testkit::require!(Need::Root);
    for kind in BackendKind::ALL {
        let scene = Scene::new(kind);
        for dir in [scene.layer_dir(), scene.chain_dir()] {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_none_or(|extension| extension != "json") {
                    File::open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
                }
            }
        }
        let records: Vec<_> = [
            scene.layer_dir().join("layer.json"),
            scene.chain_dir().join(match kind {
                BackendKind::Erofs => "chain.json",
                BackendKind::Dirs => "stack.json",
            }),
        ]
        .into();
        let read = || records.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
        let before = read();
        // No entry describes the root of `diff`, so its time is free.
        assert_eq!(scene.examine(READ_ONLY), [], "{kind}");
        assert_eq!(read(), before, "{kind}");
        assert_eq!(scene.examine(SEALED), [], "{kind}");
        assert_ne!(read(), before, "{kind}");
        assert!(scene.backend().is_layer_intact(scene.layers[1]).unwrap(), "{kind}");
        let examined = scene.backend().examine_layer(scene.layers[1], SEALED).unwrap();
        assert_eq!(examined.hashed, 0, "{kind}: its new seals hold");
    }
}

#[test]
fn records_are_told_from_what_they_are_about() {
    stos_testkit::require!(Need::Root);
    for kind in BackendKind::ALL {
        for text in ["", "{}", "[1"] {
            let scene = Scene::new(kind);
            let (layer, chain) = (scene.layer_dir().join("layer.json"), scene.chain_dir());
            let chain = chain.join(if kind == BackendKind::Erofs { "chain.json" } else { "stack.json" });
            fs::write(&layer, text).unwrap();
            fs::write(&chain, text).unwrap();
            let name = |path: &Path| path.strip_prefix(scene.fixture.data_root()).unwrap().display().to_string();
            let expected = [(name(&layer), Problem::Unreadable), (name(&chain), Problem::Unreadable)];
            assert_eq!(scene.examine(SEALED), expected, "{kind} {text:?}");
            // The tar alone tells that the layer is right.
            let layerfs = &scene.fixture.layerfs;
            assert_eq!(layerfs.remake_of_own(kind, scene.layers[1], None).unwrap(), Remade::Made);
            let kept = scene.backend().kept(scene.layers[1]).unwrap().unwrap();
            assert_eq!((kept.source.as_str(), kept.blob.hex()), ("repaired", scene.layers[1].hex()));
            layerfs.ensure_sound_chain(&scene.layers, Integrity::Sealed).unwrap();
            assert_eq!(scene.examine(FULL), [], "{kind} {text:?}");
        }
    }
}

#[test]
fn what_has_no_right_tar_is_not_made_of_itself() {
    stos_testkit::require!(Need::Root);
    for (kind, name) in [(BackendKind::Erofs, "layer.tar"), (BackendKind::Dirs, "layer.rest")] {
        let scene = Scene::new(kind);
        flip(&scene.layer_dir().join(name));
        let before = scene.tree();
        let layerfs = &scene.fixture.layerfs;
        assert_eq!(layerfs.remake_of_own(kind, scene.layers[1], None).unwrap(), Remade::Impossible);
        assert_eq!(layerfs.remake_of_other(kind, scene.layers[1]).unwrap(), Remade::Impossible, "there is none");
        let mut after = scene.tree();
        // Locks come and go.
        for path in [&b"locks"[..], b"staging"] {
            after.nodes.insert(path.to_vec(), before.nodes[path].clone());
        }
        before.assert_same(&after);
    }
}

#[test]
fn what_is_sound_is_not_made_again() {
    stos_testkit::require!(Need::Root);
    let never = || -> Result<&[u8], Error> { panic!("nothing is fetched") };
    for kind in BackendKind::ALL {
        let fixture = Fixture::of(kind);
        let tar = TarBuilder::new().entry(Entry::file("f", "content")).finish();
        let layer = DiffId::of(&tar);
        let blob = Descriptor::new(OCI_LAYER, BlobDigest::of(&tar), tar.len() as u64);
        let compression = LayerCompression::None;
        let request = LayerRequest { diff_id: layer, blob: &blob, compression, source: "test", keep_blob: true };
        fixture.layerfs.ensure_layer(request, || Ok::<_, Error>(tar.as_slice()), &|_| {}).unwrap();
        let other = LayerFs::new(fixture.layerfs.store().clone(), &fixture.run_root()).with_backend(kind.other());
        let request = LayerRequest { keep_blob: false, ..request };
        other.ensure_layer(request, never, &|_| {}).unwrap();
        let before = Tree::read(&fixture.data_root(), &Options::default()).unwrap();
        let layerfs = &fixture.layerfs;
        assert_eq!(layerfs.remake_of_own(kind, layer, None).unwrap(), Remade::WasSound, "{kind}");
        assert_eq!(layerfs.remake_of_other(kind, layer).unwrap(), Remade::WasSound, "{kind}");
        assert_eq!(layerfs.remake_of_blob(kind, request, never).unwrap(), Remade::WasSound, "{kind}");
        assert_eq!(layerfs.replace_blob(request, never).unwrap(), Remade::WasSound, "{kind}");
        let mut after = Tree::read(&fixture.data_root(), &Options::default()).unwrap();
        // Locks come and go.
        after.nodes.insert(b"locks".to_vec(), before.nodes[&b"locks"[..]].clone());
        before.assert_same(&after);
        // And what is not is.
        fs::write(layerfs.store().blob_path(blob.digest), "x").unwrap();
        let open = || Ok::<_, Error>(tar.as_slice());
        assert_eq!(layerfs.replace_blob(request, open).unwrap(), Remade::Made, "{kind}");
        let record = match kind {
            BackendKind::Erofs => layerfs.store().layer_dir(layer).join("layer.json"),
            BackendKind::Dirs => layerfs.dirs().layer_dir(layer).join("layer.json"),
        };
        fs::write(&record, "").unwrap();
        assert_eq!(layerfs.remake_of_other(kind, layer).unwrap(), Remade::Made, "{kind}");
        fs::write(&record, "").unwrap();
        assert_eq!(layerfs.remake_of_blob(kind, request, open).unwrap(), Remade::Made, "{kind}");
    }
}

#[test]
fn what_only_trying_could_tell_is_no_damage_where_nothing_may_be_written() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::of(BackendKind::Dirs);
    // A time that not every filesystem holds, and an ACL that says no more than the mode, which none keeps.
    let acl =
        [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255];
    let odd = |entry: Entry| entry.mode(0o644).mtime(1 << 40, 0).xattr("system.posix_acl_access", acl);
    let low = TarBuilder::new().entry(odd(Entry::directory("d"))).entry(Entry::file("d/plain", "plain")).finish();
    // The stack gets a directory again that this one merely implies.
    let high = TarBuilder::new().entry(odd(Entry::file("d/odd", "odd"))).finish();
    let layers = [fixture.add(&low).unwrap(), fixture.add(&high).unwrap()];
    let chain = fixture.layerfs.ensure_sound_chain(&layers, Integrity::Full).unwrap().chain_id();
    let format = r#"{"version": 1, "incompatible": ["layerfs-1"], "read_only_compatible": ["quota"]}"#;
    fs::write(fixture.data_root().join("stos.json"), format).unwrap();
    let store = Store::open_for_reading(&fixture.data_root()).unwrap();
    let layerfs = LayerFs::new(store, &fixture.run_root());
    let dirs = layerfs.backend(BackendKind::Dirs);
    let undecided = |examined: stos_layerfs::Examined| {
        assert_eq!(examined.faults, []);
        examined.undecided.into_iter().map(|fault| fault.path).collect::<Vec<_>>()
    };
    let place = |layer: usize, name: &str| layerfs.dirs().layer_dir(layers[layer]).join("diff").join(name);
    assert_eq!(undecided(dirs.examine_layer(layers[0], READ_ONLY).unwrap()), [place(0, "d")]);
    assert_eq!(undecided(dirs.examine_layer(layers[1], READ_ONLY).unwrap()), [place(1, "d/odd")]);
    let top = layerfs.dirs().chain_dir(chain).join("top");
    assert_eq!(undecided(dirs.examine_chain(chain, READ_ONLY).unwrap()), [top.join("d")]);
    layerfs.prove_layer(layers[0]).unwrap();
    // What is damaged is told all the same.
    fs::remove_file(place(0, "d/plain")).unwrap();
    let examined = dirs.examine_layer(layers[0], READ_ONLY).unwrap();
    assert_eq!(examined.faults.len(), 1, "{examined:?}");
    fs::write(top.join("more"), "").unwrap();
    assert_eq!(dirs.examine_chain(chain, READ_ONLY).unwrap().faults.len(), 1);
}
