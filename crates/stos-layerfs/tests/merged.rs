// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Several layers made one: on any base it means what they mean one after the other, and its bytes follow from them alone.

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use fixture::Fixture;
use serde_json::Value;
use stos_layerfs::{BackendKind, Error};
use stos_spec::{DiffId, LayerCompression};
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn tar() -> TarBuilder {
    TarBuilder::new()
}

/// What the layers stand on.
fn base() -> Vec<u8> {
    tar()
        .entry(Entry::directory("d").mode(0o750).owner(3, 4).mtime(5, 6))
        .entry(Entry::file("d/a", "base a").xattr("user.mark", b"base"))
        .entry(Entry::file("d/b", "base b"))
        .entry(Entry::directory("full"))
        .entry(Entry::file("full/of", "things"))
        .entry(Entry::file("f", "base f").mode(0o600))
        .entry(Entry::symlink("l", "d"))
        .finish()
}

/// Three layers that write over, remove, link and replace what is theirs, each other's and the base's.
fn layers() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..300_000_u32).map(|number| (number * 7 / 3) as u8).collect();
    let first = tar()
        .entry(Entry::directory("n").mode(0o711).mtime(7, 8))
        .entry(Entry::file("n/one", noise.clone()).owner(10, 20).xattr("user.n", b"1"))
        .entry(Entry::file("n/two", "two"))
        .entry(Entry::hard_link("n/two-too", "n/two"))
        .entry(Entry::file("d/a", "first a"))
        .sparse_pax("sparse", 40 << 20, &[(4 << 20, &noise), (30 << 20, b"tail")])
        .whiteout("d/b")
        .entry(Entry::char_device("n/null", 1, 3))
        .finish();
    let second = tar()
        .entry(Entry::hard_link("n/one-again", "n/one"))
        .entry(Entry::hard_link("linked-from-base", "f"))
        .entry(Entry::file("n/two", "another two"))
        .opaque("full")
        .entry(Entry::file("full/new", "new"))
        .entry(Entry::fifo("n/fifo"))
        .entry(Entry::file("gone", "soon"))
        .finish();
    let third = tar()
        .whiteout("gone")
        .whiteout("n/null")
        .entry(Entry::symlink("n/link", "../d/a"))
        .entry(Entry::directory("l").mode(0o700))
        .entry(Entry::file("l/in", "a directory that was a symlink"))
        .entry(Entry::file("d/a", "third a").mode(0o4755))
        .finish();
    vec![first, second, third]
}

#[test]
fn one_layer_means_what_several_mean() {
    stos_testkit::require!(Need::Root);
    let mut diff_ids = Vec::new();
    for kind in BackendKind::ALL {
        let fixture = Fixture::of(kind);
        let base = fixture.add(&base()).unwrap();
        let layers: Vec<_> = layers().iter().map(|tar| fixture.add(tar).unwrap()).collect();
        let merged = fixture.layerfs.merge_layers(&layers).unwrap();
        assert_eq!((merged.source.as_str(), merged.blob.hex()), ("3 layers, merged", merged.diff_id.hex()));
        diff_ids.push(merged.diff_id);
        let expected = fixture.see_layers(&[&[base], &layers[..]].concat()).unwrap();
        assert!(expected.nodes.len() > 15 && !expected.nodes.contains_key(&b"gone"[..]));
        expected.assert_same(&fixture.see_layers(&[base, merged.diff_id]).unwrap());
        // Also without a base, where no link needs one.
        let alone = [layers[0], layers[2]];
        let merged = fixture.layerfs.merge_layers(&alone).unwrap().diff_id;
        fixture.see_layers(&alone).unwrap().assert_same(&fixture.see_layers(&[merged]).unwrap());
        // And in parts: any two neighbours first.
        let lower = fixture.layerfs.merge_layers(&layers[..2]).unwrap().diff_id;
        let both = fixture.layerfs.merge_layers(&[lower, layers[2]]).unwrap().diff_id;
        expected.assert_same(&fixture.see_layers(&[base, both]).unwrap());
    }
    assert_eq!(diff_ids[0], diff_ids[1], "the bytes do not depend on who keeps the layers");
}

#[test]
fn a_merged_layer_is_written_as_it_would_be_kept() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::of(BackendKind::Dirs);
    let layers: Vec<_> = layers().iter().map(|tar| fixture.add(tar).unwrap()).collect();
    let mut written = Vec::new();
    fixture.layerfs.write_merged_layer(&layers, &mut written).unwrap();
    assert_eq!(fixture.layerfs.layers().unwrap().len(), 3, "nothing is kept");
    // 40 MiB of a sparse file are a few blocks of the tar.
    assert!(written.len() < 2 << 20, "{} bytes", written.len());
    let kept = fixture.layerfs.merge_layers(&layers).unwrap();
    assert_eq!((DiffId::of(&written), written.len() as u64), (kept.diff_id, kept.tar_bytes));
    let mut read = Vec::new();
    fixture.layerfs.open_tar(kept.diff_id).unwrap().read_to_end(&mut read).unwrap();
    assert!(read == written);
}

#[test]
fn a_layer_that_is_damaged_or_not_there_makes_none() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let layers: Vec<_> = layers().iter().map(|tar| fixture.add(tar).unwrap()).collect();
    let error = fixture.layerfs.merge_layers(&[layers[0], DiffId::of(b"none")]).unwrap_err();
    assert!(matches!(error, Error::NoSuchLayer(layer) if layer == DiffId::of(b"none")), "{error}");
    assert!(matches!(fixture.layerfs.merge_layers(&[]).unwrap_err(), Error::NoLayers));
    let path = fixture.layer_file(layers[1], "layer.tar");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[700] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = fixture.layerfs.merge_layers(&layers).unwrap_err();
    assert!(matches!(error, Error::DamagedLayer { layer, .. } if layer == layers[1]), "{error}");
    // Two names of the base that change places cannot be said in one layer.
    let link = |name: &str, target: &str| tar().entry(Entry::hard_link(name, target));
    let crossed = [
        link("x", "a").entry(Entry::hard_link("y", "b")).finish(),
        link("a", "y").entry(Entry::hard_link("b", "x")).finish(),
        tar().whiteout("x").whiteout("y").finish(),
    ];
    let crossed: Vec<_> = crossed.iter().map(|tar| fixture.add(tar).unwrap()).collect();
    let error = fixture.layerfs.merge_layers(&crossed).unwrap_err();
    assert!(matches!(error, Error::Merge { .. }), "{error}");
    assert_eq!(fixture.layerfs.layers().unwrap().len(), 6);
    assert_eq!(stos_store::files::list_names(&fixture.layerfs.store().staging_area()).unwrap(), Vec::<String>::new());
}

/// A sequence of numbers that is the same in every run (Knuth's MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// The names that layers have put, and whether each is a directory; of links to directories there are none.
type Names = BTreeMap<String, bool>;

fn remove_tree(names: &mut Names, path: &str) {
    let below = format!("{path}/");
    names.retain(|name, _| name != path && !name.starts_with(&below));
}

/// A layer over `names`, which become what they are with it. Every parent has an entry, and what is removed is there.
fn random_layer(numbers: &mut Numbers, names: &mut Names) -> TarBuilder {
    const PLACES: [&str; 7] = ["", "p/", "q/", "p/r/", "q/s/", "a/", "p/b/"];
    const LEAVES: [&str; 4] = ["a", "b", "c", "s"];
    let lower = names.clone();
    let (mut layer, mut own) = (tar(), BTreeSet::<String>::new());
    let put_parents = |layer: TarBuilder, names: &mut Names, own: &mut BTreeSet<String>, mode: u32, path: &str| {
        let ends = path.match_indices('/').map(|(end, _)| end);
        ends.fold(layer, |layer, end| {
            let parent = &path[..end];
            if names.get(parent) == Some(&false) {
                remove_tree(names, parent);
                own.remove(parent);
            }
            names.insert(parent.to_owned(), true);
            match own.insert(parent.to_owned()) {
                true => layer.entry(Entry::directory(parent).mode(mode)),
                false => layer,
            }
        })
    };
    for step in 0..4 + numbers.below(9) {
        let path = format!("{}{}", numbers.of(&PLACES), numbers.of(&LEAVES));
        let below = format!("{path}/");
        let is_own = own.contains(&path) || own.iter().any(|own| own.starts_with(&below));
        let files: Vec<_> = names.iter().filter(|(_, is_dir)| !**is_dir).map(|(name, _)| name.clone()).collect();
        let action = numbers.below(8);
        let is_lower = lower.contains_key(&path) && names.contains_key(&path);
        if action < 2 && (is_own || !is_lower) || action == 2 && lower.get(&path) != Some(&true) {
            continue;
        }
        if action < 2 {
            layer = layer.whiteout(&path);
            remove_tree(names, &path);
            // What the layer itself has made of a parent meanwhile is not undone by it.
            continue;
        }
        if action == 2 && !is_own && names.get(&path) == Some(&true) {
            layer = put_parents(layer, names, &mut own, 0o755, &below);
            layer = layer.opaque(&path);
            names.retain(|name, _| !name.starts_with(&below));
            continue;
        }
        layer = put_parents(layer, names, &mut own, 0o700 + numbers.below(64) as u32, &path);
        let target = (action == 7 && !files.is_empty()).then(|| numbers.of(&files).clone());
        // The parents may have taken the target's place.
        let target = target.filter(|target| names.get(target) == Some(&false) && *target != path);
        remove_tree(names, &path);
        own.retain(|name| *name != path && !name.starts_with(&below));
        let entry = match target {
            Some(target) if names.contains_key(&target) => Entry::hard_link(&path, &target),
            _ => Entry::file(&path, format!("{step} of {}", own.len())).mode(0o600 + numbers.below(64) as u32),
        };
        layer = layer.entry(entry);
        names.insert(path.clone(), false);
        own.insert(path);
    }
    layer
}

#[test]
fn any_layers_become_one_that_means_the_same() {
    stos_testkit::require!(Need::Root);
    let fixtures = BackendKind::ALL.map(Fixture::of);
    let (mut numbers, mut compared, mut refused) = (Numbers(7), 0, 0);
    for round in 0..60 {
        let mut names = Names::new();
        let tars: Vec<_> = (0..4).map(|_| random_layer(&mut numbers, &mut names).finish()).collect();
        let mut diff_ids = Vec::new();
        for fixture in &fixtures {
            let layers: Vec<_> = tars.iter().map(|tar| fixture.add(tar).unwrap()).collect();
            let merged = match fixture.layerfs.merge_layers(&layers[1..]) {
                Ok(merged) => merged.diff_id,
                Err(Error::Merge { .. }) => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            diff_ids.push(merged);
            let expected = fixture.see_layers(&layers).unwrap();
            let found: Vec<_> = expected.nodes.keys().filter(|path| !path.is_empty()).cloned().collect();
            let modelled: Vec<_> = names.keys().map(|name| name.as_bytes().to_vec()).collect();
            assert_eq!(found, modelled, "round {round}");
            expected.assert_same(&fixture.see_layers(&[layers[0], merged]).unwrap());
            compared += expected.nodes.len();
        }
        assert!(diff_ids.windows(2).all(|pair| pair[0] == pair[1]), "round {round}");
    }
    assert!(compared > 500 && refused < 40, "{compared} paths compared, {refused} refused");
}

/// The layers of a real image as blobs, the lowest first, with their diffIDs.
fn layers_of(image: &str) -> Vec<(Vec<u8>, DiffId)> {
    let blob = |digest: &str| {
        let name = digest.trim_start_matches("sha256:");
        std::fs::read(environment::layout().join("blobs/sha256").join(name)).unwrap()
    };
    let document = |digest: &str| serde_json::from_slice::<Value>(&blob(digest)).unwrap();
    let manifest = document(&environment::image_digest(image).unwrap());
    let config = document(manifest["config"]["digest"].as_str().unwrap());
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap().clone();
    let layers = manifest["layers"].as_array().unwrap().clone();
    let pairs = layers.iter().zip(&diff_ids);
    pairs.map(|(layer, id)| (blob(layer["digest"].as_str().unwrap()), id.as_str().unwrap().parse().unwrap())).collect()
}

fn ingest_all(fixture: &Fixture, layers: &[(Vec<u8>, DiffId)]) -> Vec<DiffId> {
    let ingest = |(blob, diff_id): &(Vec<u8>, DiffId)| {
        fixture.ingest(blob, LayerCompression::Gzip, *diff_id).unwrap();
        *diff_id
    };
    layers.iter().map(ingest).collect()
}

#[test]
fn layers_over_a_distribution_become_one() {
    stos_testkit::require!(Need::Root, Need::Image("deb:12"));
    let deb = layers_of("deb:12");
    let over = [
        tar()
            .entry(Entry::hard_link("usr/bin/sh-too", "usr/bin/dash"))
            .whiteout("usr/share/doc")
            .entry(Entry::file("etc/motd", "first"))
            .finish(),
        tar()
            .entry(Entry::file("usr/share/doc/only", "one"))
            .entry(Entry::hard_link("sh-again", "usr/bin/sh-too"))
            .entry(Entry::file("bin/new", "through a symlink of the base"))
            .finish(),
        tar().whiteout("etc/motd").opaque("var").entry(Entry::file("var/x", "x")).finish(),
    ];
    let mut diff_ids = Vec::new();
    for kind in BackendKind::ALL {
        let fixture = Fixture::of(kind);
        let mut layers = ingest_all(&fixture, &deb);
        let own: Vec<_> = over.iter().map(|tar| fixture.add(tar).unwrap()).collect();
        let merged = fixture.layerfs.merge_layers(&own).unwrap().diff_id;
        let with_merged = [&layers[..], &[merged]].concat();
        layers.extend(own);
        let expected = fixture.see_layers(&layers).unwrap();
        assert!(expected.nodes.len() > 1_000 && expected.nodes.contains_key(&b"usr/bin/new"[..]));
        expected.assert_same(&fixture.see_layers(&with_merged).unwrap());
        let whole = fixture.layerfs.merge_layers(&layers).unwrap().diff_id;
        expected.assert_same(&fixture.see_layers(&[whole]).unwrap());
        diff_ids.push((merged, whole));
    }
    assert_eq!(diff_ids[0], diff_ids[1]);
}

#[test]
fn a_hundred_layers_become_one() {
    stos_testkit::require!(Need::Root, Need::Image("many:100"));
    let blobs = layers_of("many:100");
    let mut diff_ids = Vec::new();
    for kind in BackendKind::ALL {
        let fixture = Fixture::of(kind);
        let layers = ingest_all(&fixture, &blobs);
        assert!(layers.len() > 100);
        let whole = fixture.layerfs.merge_layers(&layers).unwrap().diff_id;
        fixture.see_layers(&layers).unwrap().assert_same(&fixture.see_layers(&[whole]).unwrap());
        diff_ids.push(whole);
    }
    assert_eq!(diff_ids[0], diff_ids[1]);
}
