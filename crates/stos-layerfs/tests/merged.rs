// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Several layers made one: on any base it means what they mean one after the other, and its bytes follow from them alone.

mod fixture;

use std::io::Read;

use fixture::Fixture;
use stos_layerfs::{BackendKind, Error};
use stos_spec::DiffId;
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
