// SPDX-License-Identifier: Apache-2.0 OR MIT
//! system check and verify, each kind of damage on each backend: named by the check, refused or healed by create as documented, healed
//! by a repair and by the next pull, with nothing fetched but what is damaged.

mod health_scene;
mod sandbox;

use health_scene::{Damage, Scene, damage, findings};
use serde_json::json;
use stos_testkit::guard::Need;

/// What `create` does of damaged files.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Create {
    /// It is refused, however closely it looks.
    Refuses,
    /// It goes well: the file is not read, or it is made again.
    Goes,
    /// It goes well, and is refused where every byte is looked at.
    RefusesFull,
}
use Create::{Goes, Refuses, RefusesFull};

/// One kind of damage, and what comes of it.
struct Case {
    /// The file below DATA-ROOT, with `TOP` and the like for digits.
    path: &'static str,
    damage: Damage,
    /// Under which object it is named.
    object: &'static str,
    create: Create,
    /// What a repair asks the registry for.
    fetched: &'static [&'static str],
    /// What a pull does, besides the manifest.
    pulled: &'static [&'static str],
}

fn case(
    path: &'static str,
    damage: Damage,
    object: &'static str,
    create: Create,
    fetched: &'static [&'static str],
    pulled: &'static [&'static str],
) -> Case {
    Case { path, damage, object, create, fetched, pulled }
}

const NONE: &[&str] = &[];
const TOP: &[&str] = &["blobs/TOP"];
const BASE: &[&str] = &["blobs/BASE"];
const CONFIG: &[&str] = &["blobs/CONFIG"];

#[rustfmt::skip]
fn erofs_cases() -> Vec<Case> {
    use Damage::{Cut, Empty, Flip, Remove};
    vec![
        case("layers/sha256/TOP/layer.tar", Flip(1500), "layer TOP", Refuses, TOP, TOP),
        case("layers/sha256/TOP/layer.tar", Cut, "layer TOP", Refuses, TOP, TOP),
        case("layers/sha256/TOP/layer.tar", Empty, "layer TOP", Refuses, TOP, TOP),
        case("layers/sha256/TOP/layer.tar", Remove, "layer TOP", Refuses, TOP, TOP),
        case("layers/sha256/TOP", Remove, "layer TOP", Refuses, TOP, TOP),
        // No mount reads it.
        case("layers/sha256/TOP/layer.index", Flip(20), "layer TOP", Goes, NONE, NONE),
        case("layers/sha256/TOP/layer.index", Cut, "layer TOP", Goes, NONE, NONE),
        case("layers/sha256/TOP/layer.index", Remove, "layer TOP", Goes, NONE, NONE),
        case("layers/sha256/TOP/layer.json", Empty, "layer TOP", RefusesFull, NONE, NONE),
        case("layers/sha256/TOP/layer.json", Remove, "layer TOP", RefusesFull, NONE, NONE),
        case("chains/sha256/CHAIN/image.erofs", Flip(1700), "chain CHAIN", Goes, NONE, NONE),
        case("chains/sha256/CHAIN/image.erofs", Cut, "chain CHAIN", Goes, NONE, NONE),
        case("chains/sha256/CHAIN/image.erofs", Remove, "chain CHAIN", Goes, NONE, NONE),
        case("chains/sha256/CHAIN/chain.json", Empty, "chain CHAIN", Goes, NONE, NONE),
        case("chains/sha256/CHAIN/chain.json", Remove, "chain CHAIN", Goes, NONE, NONE),
        case("chains/sha256/CHAIN", Remove, "chain CHAIN", Goes, NONE, NONE),
    ]
}

#[rustfmt::skip]
fn dirs_cases() -> Vec<Case> {
    use Damage::{Add, Cut, Empty, Flip, Remove};
    vec![
        // Seen by who looks at every byte alone: see docs/on-disk.md.
        case("dirs/layers/sha256/TOP/diff/etc/top", Flip(100), "layer TOP", RefusesFull, TOP, TOP),
        // A file that a hard link of the layer above leads to.
        case("dirs/layers/sha256/BASE/diff/bin/app", Flip(100), "layer BASE", RefusesFull, BASE, BASE),
        case("dirs/layers/sha256/TOP/diff/etc/top", Remove, "layer TOP", RefusesFull, TOP, TOP),
        case("dirs/layers/sha256/TOP/diff/etc", Add, "layer TOP", RefusesFull, NONE, TOP),
        case("dirs/layers/sha256/TOP/diff", Add, "layer TOP", Refuses, NONE, TOP),
        case("dirs/layers/sha256/TOP/diff", Remove, "layer TOP", Refuses, TOP, TOP),
        case("dirs/layers/sha256/TOP/layer.index", Flip(20), "layer TOP", RefusesFull, TOP, TOP),
        case("dirs/layers/sha256/TOP/layer.rest", Cut, "layer TOP", RefusesFull, TOP, TOP),
        case("dirs/layers/sha256/TOP/layer.json", Empty, "layer TOP", RefusesFull, NONE, NONE),
        case("dirs/layers/sha256/TOP", Remove, "layer TOP", Refuses, TOP, TOP),
        case("dirs/chains/sha256/CHAIN/top", Add, "chain CHAIN", Goes, NONE, NONE),
        case("dirs/chains/sha256/CHAIN/top", Remove, "chain CHAIN", Goes, NONE, NONE),
        case("dirs/chains/sha256/CHAIN/stack.json", Empty, "chain CHAIN", Goes, NONE, NONE),
        case("dirs/chains/sha256/CHAIN", Remove, "chain CHAIN", Goes, NONE, NONE),
    ]
}

#[rustfmt::skip]
fn document_cases() -> Vec<Case> {
    use Damage::{Empty, Flip, Remove};
    vec![
        case("images/blobs/sha256/MANIFEST", Flip(30), "manifest MANIFEST", Refuses, &["manifests/MANIFEST"], NONE),
        case("images/blobs/sha256/MANIFEST", Remove, "manifest MANIFEST", Refuses, &["manifests/MANIFEST"], NONE),
        case("images/blobs/sha256/CONFIG", Flip(30), "configuration CONFIG", Refuses, CONFIG, CONFIG),
        case("images/blobs/sha256/CONFIG", Empty, "configuration CONFIG", Refuses, CONFIG, CONFIG),
        case("images/blobs/sha256/CONFIG", Remove, "configuration CONFIG", Refuses, CONFIG, CONFIG),
    ]
}

fn suffer(scene: &Scene, case: &Case) {
    let said = format!("{} {:?}", case.path, case.damage);
    let path = scene.path(case.path);
    let digits = |list: &[&str]| -> Vec<String> {
        let blob = |layer: usize| format!("blobs/{}", scene.layers[layer].1);
        let full = |name: &&str| name.replace("blobs/TOP", &blob(1)).replace("blobs/BASE", &blob(0));
        let digest = |name: String| name.replace("MANIFEST", &scene.manifest).replace("CONFIG", &scene.config);
        list.iter().map(full).map(digest).collect()
    };

    // Named, and nothing is changed.
    damage(&path, case.damage);
    let before = scene.sandbox.listing();
    let (code, report) = scene.check(&["--full"]);
    assert_eq!(code, 1, "{said}: {report:#}");
    let (object, id) = case.object.split_once(' ').unwrap();
    let found = findings(&report);
    let named =
        found.iter().find(|(item, _)| item["object"] == object && item["id"] == format!("sha256:{}", scene.filled(id)));
    let (_, finding) = named.unwrap_or_else(|| panic!("{said}: {report:#}"));
    let place = finding["path"].as_str().unwrap_or_default();
    let wanted = scene.filled(case.path);
    assert!(place.starts_with(&wanted) || wanted.starts_with(place), "{said}: {finding:#}");
    assert_eq!((&finding["severity"], &finding["outcome"]["state"]), (&json!("damage"), &json!("found")), "{said}");
    assert_eq!(finding["images"], json!([scene.reference]), "{said}");
    before.assert_same(&scene.sandbox.listing());
    let verified = scene.sandbox.run(&["verify", "--full", "app:1"]);
    assert_eq!(verified.code, 1, "{said}: {}", verified.stdout);
    assert!(verified.stdout.contains(&scene.filled(id)) && verified.stderr.contains("hint: "), "{said}");
    assert_eq!(scene.requests(), [""; 0], "{said}");

    // Repaired, by what is there or by a fetch of that alone.
    let (code, report) = scene.repair(&["--full"]);
    assert_eq!((code, &report["healthy"]), (0, &json!(true)), "{said}: {report:#}");
    assert!(
        findings(&report).iter().all(|(_, finding)| finding["outcome"]["state"] == "repaired"),
        "{said}: {report:#}"
    );
    assert_eq!(scene.requests(), digits(case.fetched), "{said}");
    scene.assert_clean(&said);
    assert_eq!(scene.create(&["--verify=full"]).code, 0, "{said}");

    // Refused or healed by create, healed by the next pull.
    damage(&scene.path(case.path), case.damage);
    let created = scene.create(&[]);
    assert_eq!(created.code == 0, case.create != Refuses, "{said}: {}", created.stderr);
    if case.create != Goes {
        let created = scene.create(&["--verify=full"]);
        assert_eq!(created.code, 125, "{said}: {}", created.stderr);
        assert!(created.stderr.contains("hint: `stos pull`"), "{said}: {}", created.stderr);
    }
    let pulled = scene.pull();
    assert_eq!(pulled.code, 0, "{said}: {}", pulled.stderr);
    let expected = [vec!["manifests/1".to_owned()], digits(case.pulled)].concat();
    assert_eq!(scene.requests(), expected, "{said}");
    scene.assert_clean(&said);
}

#[test]
fn damage_of_tars_and_merged_images_is_named_and_healed() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_backend("erofs", || {
        let scene = Scene::new();
        scene.assert_clean("before");
        erofs_cases().iter().for_each(|case| suffer(&scene, case));
    });
}

#[test]
fn damage_of_unpacked_layers_is_named_and_healed() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_backend("dirs", || {
        let scene = Scene::new();
        scene.assert_clean("before");
        dirs_cases().iter().for_each(|case| suffer(&scene, case));
    });
}

#[test]
fn damage_of_documents_is_named_and_healed() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(|| {
        let scene = Scene::new();
        document_cases().iter().for_each(|case| suffer(&scene, case));
    });
}
