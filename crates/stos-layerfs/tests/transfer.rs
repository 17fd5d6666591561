// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers go from one data root to another: whole and proved, or not at all.

mod fixture;

use std::fs;
use std::io::Read;

use fixture::Fixture;
use stos_layerfs::{BackendKind, Error, LayerFs, Transfer};
use stos_spec::DiffId;
use stos_store::Store;
use stos_testkit::guard::Need;
use stos_testkit::tar_builder::{Entry, TarBuilder};

fn tar(name: &str) -> Vec<u8> {
    let mut tar = TarBuilder::new()
        .entry(Entry::directory("d"))
        .entry(Entry::file(format!("d/{name}"), vec![b'x'; 9000]))
        .whiteout("d/old")
        .sparse_pax("sparse", 4 << 20, &[(1 << 20, name.as_bytes())])
        .finish();
    tar.extend_from_slice(b"bytes after the end");
    tar
}

fn read(layerfs: &LayerFs, layer: DiffId) -> Vec<u8> {
    let mut bytes = Vec::new();
    layerfs.open_tar(layer).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_copy_is_the_same_layer_in_whatever_form() {
    stos_testkit::require!(Need::Root);
    for (from, to) in [
        (BackendKind::Erofs, BackendKind::Erofs),
        (BackendKind::Erofs, BackendKind::Dirs),
        (BackendKind::Dirs, BackendKind::Erofs),
    ] {
        let (from, to) = (Fixture::of(from), Fixture::of(to));
        let layer = from.add(&tar("a")).unwrap();
        assert_eq!(from.layerfs.copy_layer(layer, &to.layerfs).unwrap(), Transfer::Copied);
        assert!(read(&to.layerfs, layer) == tar("a"));
        assert_eq!(to.layerfs.kept(layer).unwrap(), from.layerfs.kept(layer).unwrap(), "its record says the same");
        assert_eq!(from.layerfs.copy_layer(layer, &to.layerfs).unwrap(), Transfer::Present);
        let locks = fs::read_dir(to.data_root().join("locks")).unwrap();
        let names: Vec<_> = locks.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["lease"]);
    }
}

#[test]
fn a_damaged_layer_arrives_nowhere_and_stays() {
    stos_testkit::require!(Need::Root);
    let (from, to) = (Fixture::new(), Fixture::new());
    let [good, bad] = ["good", "bad"].map(|name| from.add(&tar(name)).unwrap());
    let path = from.layer_file(bad, "layer.tar");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1600] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = from.layerfs.copy_layer(bad, &to.layerfs).unwrap_err();
    assert!(matches!(error, Error::DamagedLayer { .. }), "{error}");
    assert!(error.to_string().contains("is damaged") && error.to_string().contains(&bad.to_string()), "{error}");
    {
        let _right = from.layerfs.store().try_sweep_right().unwrap().unwrap();
        from.layerfs.move_layer(bad, &to.layerfs).unwrap_err();
        assert_eq!(from.layerfs.move_layer(good, &to.layerfs).unwrap(), Transfer::Copied);
    }
    assert_eq!(from.layerfs.layers().unwrap(), [bad]);
    assert_eq!(to.layerfs.layers().unwrap(), [good]);
    let error = from.layerfs.copy_layer(good, &to.layerfs).unwrap_err();
    assert!(matches!(error, Error::NoSuchLayer(layer) if layer == good), "{error}");
    assert_eq!(stos_store::files::list_names(&to.layerfs.store().staging_area()).unwrap(), Vec::<String>::new());
}

#[test]
fn a_sync_tells_of_each_layer_and_heals_the_target() {
    stos_testkit::require!(Need::Root);
    let (from, to) = (Fixture::of(BackendKind::Dirs), Fixture::new());
    let layers: Vec<_> = ["a", "b", "c"].iter().map(|name| from.add(&tar(name)).unwrap()).collect();
    let none = DiffId::of(b"none");
    let asked = [layers[0], none, layers[1]];
    let report = from.layerfs.sync_layers(Some(&asked), &to.layerfs).unwrap();
    assert_eq!((report.copied, report.present), (vec![layers[0], layers[1]], vec![]));
    assert!(matches!(report.failed[..], [(layer, Error::NoSuchLayer(_))] if layer == none));
    // What is wrong there is replaced.
    fs::write(to.layer_file(layers[0], "layer.tar"), "rot").unwrap();
    let report = from.layerfs.sync_layers(None, &to.layerfs).unwrap();
    let mut copied = vec![layers[0], layers[2]];
    copied.sort_unstable();
    assert_eq!((report.copied, report.present, report.failed.len()), (copied, vec![layers[1]], 0));
    assert!(read(&to.layerfs, layers[0]) == tar("a"));
    assert!(to.layerfs.erofs().has_layer(layers[0]).unwrap());
}

#[test]
fn a_store_is_no_target_for_itself() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let layer = fixture.add(&tar("a")).unwrap();
    let link = fixture.run_root().join("link");
    std::os::unix::fs::symlink(fixture.data_root(), &link).unwrap();
    let same = LayerFs::new(Store::open(&link).unwrap(), &fixture.run_root());
    let refused = |error: Error| assert!(matches!(error, Error::SameStore { .. }), "{error}");
    refused(fixture.layerfs.copy_layer(layer, &same).unwrap_err());
    refused(fixture.layerfs.sync_layers(None, &same).unwrap_err());
    refused(fixture.layerfs.move_layer(layer, &same).unwrap_err());
    assert_eq!(fixture.layerfs.layers().unwrap(), [layer]);
}
