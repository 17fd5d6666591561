// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Gives a case's layers to both backends, each with a store of its own beside the canary.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use stos_layerfs::backend::Origin;
use stos_layerfs::{BackendKind, Error, IngestRequest, LayerLabel, Result};
use stos_spec::media_type::OCI_LAYER;
use stos_spec::{BlobDigest, Descriptor, DiffId};
use stos_testkit::tree::{Options, Tree};

use super::canary::World;
use super::case::{Aim, Case, Layer, Outcome, Problem, Refusal, Sight, View};
use crate::fixture::{Fixture, as_ext4_holds_it};

/// Runs a case on both backends.
#[track_caller]
pub fn run(case: fn(&Aim) -> Case) {
    let world = World::new();
    let case = case(&Aim(world.canary()));
    let trees: Vec<_> = BackendKind::ALL.into_iter().filter_map(|kind| run_on(kind, &case, &world)).collect();
    if let [erofs, dirs] = &trees[..] {
        as_ext4_holds_it(erofs).assert_equal(&as_ext4_holds_it(dirs));
    }
}

trait AssertEqual {
    fn assert_equal(&self, other: &Self);
}

impl AssertEqual for Tree {
    /// As `assert_same`, for trees that may be empty too.
    #[track_caller]
    fn assert_equal(&self, other: &Self) {
        let differences: Vec<_> = self.differences(other).iter().map(ToString::to_string).collect();
        assert!(differences.is_empty(), "erofs is expected, dirs is found:\n{}", differences.join("\n"));
    }
}

/// Gives what is shown, if the layers are not to be refused; nothing else has changed.
#[track_caller]
fn run_on(kind: BackendKind, case: &Case, world: &World) -> Option<Tree> {
    let room = world.room();
    let name = room.path().file_name().unwrap().to_str().unwrap().to_owned();
    let who = format!("{kind} ({})", case.source);
    let before = world.snapshot(&name);
    // A hard link's target must not be looked for in the working directory (CVE-2026-50163).
    let links_of_ours = || fs::metadata("Cargo.toml").unwrap().nlink();
    let links = links_of_ours();
    let fixture = Fixture::at(room, kind);
    let tree = outcome(&fixture, kind, case, &who);
    check_room(&fixture, &who);
    before.assert_untouched(&world.snapshot(&name), &who);
    assert_eq!(links_of_ours(), links, "{who}: a link into the working directory");
    tree
}

#[track_caller]
fn outcome(fixture: &Fixture, kind: BackendKind, case: &Case, who: &str) -> Option<Tree> {
    let mut kept = Vec::new();
    let added = case.layers.iter().try_for_each(|layer| add(fixture, kind, case, layer).map(|id| kept.push(id)));
    match (&case.outcome, added.and_then(|()| fixture.show(&kept))) {
        (Outcome::Refused(refusal), Err(error)) => {
            check_refusal(refusal, &error, who);
            check_nothing_is_kept(fixture, kind, kept.len(), who);
            None
        }
        (Outcome::Refused(refusal), Ok(_)) => panic!("{who}: expected {}, found nothing wrong", refusal.kind),
        (Outcome::Shown(_), Err(error)) => panic!("{who}: {error}"),
        (Outcome::Shown(sights), Ok(point)) => {
            let tree = Tree::read(&point, &Options { exclude: &["deep"], ..Options::default() }).unwrap();
            check_sights(sights, &View { tree: &tree, point: &point }, who);
            check_tars(fixture, case, &kept, who);
            Some(tree)
        }
    }
}

/// However odd a layer is, its very bytes are given back.
#[track_caller]
fn check_tars(fixture: &Fixture, case: &Case, kept: &[DiffId], who: &str) {
    for (layer, &diff_id) in case.layers.iter().zip(kept) {
        let mut bytes = Vec::new();
        fixture.layerfs.open_tar(diff_id).unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes == layer.tar, "{who}: the layer's tar is another one");
    }
}

fn add(fixture: &Fixture, kind: BackendKind, case: &Case, layer: &Layer) -> Result<DiffId> {
    let diff_id = DiffId::of(&layer.tar);
    let Some(bound) = case.bound else {
        return fixture.ingest(&layer.blob, layer.compression, diff_id).map(|_| diff_id);
    };
    let blob = Descriptor::new(OCI_LAYER, BlobDigest::of(&layer.blob), layer.blob.len() as u64);
    let request = IngestRequest {
        label: &LayerLabel::from(blob.digest),
        blob: Some(&blob),
        compression: layer.compression,
        diff_id: Some(diff_id),
        max_size: bound,
        reserve: 0,
    };
    let origin = Origin { media_type: OCI_LAYER, source: "test/layer", blob: None };
    let backend = fixture.layerfs.backend(kind);
    backend.commit_layer(backend.stage_layer(request, origin, &mut &layer.blob[..], &|_| {})?)?;
    Ok(diff_id)
}

#[track_caller]
fn check_refusal(refusal: &Refusal, error: &Error, who: &str) {
    let Refusal { is, kind, says } = refusal;
    assert!(is(Problem::from(error)), "{who}: expected {kind}, found {error:?}");
    assert!(error.to_string().contains(says), "{who}: expected {says:?} in: {error}");
}

#[track_caller]
fn check_sights(sights: &[Sight], view: &View<'_>, who: &str) {
    let missing: Vec<_> = sights.iter().filter_map(|sight| sight.check(view).err()).collect();
    let names: Vec<_> = view.tree.nodes.keys().map(|path| path.escape_ascii().to_string()).collect();
    assert!(missing.is_empty(), "{who}:\n{}\namong {names:?}", missing.join("\n"));
}

/// Of a refused layer nothing is there, and layers that are refused together have no chain. A layer that is legal by itself
/// stays until it is collected.
#[track_caller]
fn check_nothing_is_kept(fixture: &Fixture, kind: BackendKind, kept: usize, who: &str) {
    let backend = fixture.layerfs.backend(kind);
    assert_eq!(backend.layers().unwrap().len(), kept, "{who}: layers");
    assert_eq!(backend.chains().unwrap(), [], "{who}: chains");
    assert!(
        !fixture.run_root().join("chains").exists() || count(&fixture.run_root().join("chains")) == 0,
        "{who}: mounts"
    );
}

/// The store holds nothing but what a store holds.
#[track_caller]
fn check_room(fixture: &Fixture, who: &str) {
    let data = fixture.data_root();
    for directory in ["staging", "locks"] {
        assert_eq!(count(&data.join(directory)), 0, "{who}: {directory}");
    }
    assert_eq!(count(data.parent().unwrap()), 2, "{who}: something stands beside DATA-ROOT and ROOT");
    let known = ["stos.json", "images", "layers", "chains", "containers", "names", "staging", "locks", "dirs"];
    for entry in fs::read_dir(&data).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&&*name), "{who}: {name} in DATA-ROOT");
    }
}

fn count(directory: &std::path::Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}
