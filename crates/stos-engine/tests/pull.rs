// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `pull_image_from_registry`: everything verified is in the store, or nothing is; and which promise was broken, by kind.

mod fixture;

use std::sync::Mutex;

use fixture::{Fixture, blob, builder, diff_id, layer, options};
use stos_engine::Error;
use stos_engine::pull::{Announced, PullProgress, pull_image_from_registry};
use stos_layerfs::{BackendKind, Error as LayerError};
use stos_registry::Error as RegistryError;
use stos_spec::{BlobDigest, ConfigError, DiffId, ImageRef, ManifestError, Platform};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Dialect, Fault, Image, ImageBuilder, Layer};
use stos_testkit::registry::{self, Rule};
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// Pulls what must fail, looks that the store is as empty as before, and gives the error.
#[track_caller]
fn refused(fixture: &Fixture, reference: &str) -> Error {
    let error = fixture.pull(reference).unwrap_err();
    fixture.assert_empty();
    error
}

#[test]
fn a_pull_stores_every_document_and_layer() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let image = builder().build();
    let pulled = fixture.pull(&fixture.serve(&image, "1")).unwrap();
    assert_eq!(pulled.image.manifest.digest, blob(&image.manifest.digest));
    assert_eq!(pulled.image.image_id, blob(&image.config.digest));
    assert_eq!(pulled.fetched_bytes, image.layers.iter().map(|layer| layer.size).sum::<u64>());
    assert_eq!(pulled.present_layers, 0);
    let store = fixture.engine.store();
    for document in [&image.manifest, &image.config] {
        assert_eq!(store.read_blob(blob(&document.digest)).unwrap().get(), document.bytes.as_ref().unwrap());
    }
    let mut layers: Vec<DiffId> = image.diff_ids.iter().map(|id| diff_id(id)).collect();
    layers.sort();
    assert_eq!(store.layers().unwrap(), layers);
    assert_eq!(store.chains().unwrap().len(), 1, "the merged index is there when pull returns");

    let again = fixture.pull(&fixture.reference("1")).unwrap();
    assert_eq!((again.fetched_bytes, again.present_layers), (0, 2));
    assert_eq!(store.images().unwrap().len(), 1);
}

#[test]
fn an_image_that_is_there_takes_one_request() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let image = builder().build();
    fixture.serve(&image, "1");
    let index = Image::index(Dialect::Oci, &[&image]);
    fixture.registry.put_manifest("app", Some("list"), &index.media_type, index.bytes.as_ref().unwrap());
    for tag in ["1", "list"] {
        let reference = fixture.reference(tag);
        let first = fixture.pull(&reference).unwrap();
        fixture.registry.take_requests();
        let second = fixture.pull(&reference).unwrap();
        assert_eq!(second.image.manifest.digest, first.image.manifest.digest);
        assert_eq!(fixture.registry.take_requests(), [format!("GET /v2/app/manifests/{tag}")]);
    }
    // What the store has of it and is damaged is fetched again.
    let manifest = fixture.engine.store().blob_path(blob(&image.manifest.digest));
    std::fs::write(&manifest, b"{}").unwrap();
    fixture.pull(&fixture.reference("list")).unwrap();
    assert_eq!(std::fs::read(&manifest).unwrap(), *image.manifest.bytes.as_ref().unwrap());
}

#[test]
fn each_fault_of_a_layer_has_its_kind() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let good = builder().build();
    let serve = |fault| {
        let image = builder().fault(fault).build();
        (fixture.serve(&image, "1"), image)
    };
    let at = blob(&good.layers[1].digest);
    let size = good.layers[1].size;

    let (reference, image) = serve(Fault::LayerBytes(1));
    let actual = BlobDigest::of(image.layers[1].bytes.as_ref().unwrap());
    let error = refused(&fixture, &reference);
    let Error::Layers(LayerError::BlobDigest { blob, found }) = error else { panic!("{error}") };
    assert_eq!((blob, found), (at, actual));

    let (reference, _) = serve(Fault::LayerSize(1));
    let error = refused(&fixture, &reference);
    let Error::Registry(RegistryError::SizeMismatch { expected, found, .. }) = error else { panic!("{error}") };
    assert_eq!((expected, found), (size + 1, size));

    let (reference, _) = serve(Fault::DiffId(0));
    let error = refused(&fixture, &reference);
    let Error::Layers(LayerError::DiffId { expected, found, .. }) = error else { panic!("{error}") };
    assert_eq!((expected, found), (DiffId::of(b"another tar"), diff_id(&good.diff_ids[0])));
}

#[test]
fn each_fault_of_a_document_has_its_kind() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    for (fault, count) in [(Fault::DiffIdExtra, 3), (Fault::DiffIdLost, 1)] {
        let image = builder().fault(fault).build();
        let error = refused(&fixture, &fixture.serve(&image, "1"));
        let Error::Config { digest, source: ConfigError::DiffIdCount { expected: 2, found } } = error else {
            panic!("{error}")
        };
        assert_eq!((digest, found), (blob(&image.config.digest), count));
    }
    let image = builder().fault(Fault::ConfigBytes).build();
    let error = refused(&fixture, &fixture.serve(&image, "1"));
    assert!(error.to_string().contains(&image.config.digest), "{error}");
    assert!(matches!(error, Error::Registry(RegistryError::DigestMismatch { .. })), "{error:?}");

    let foreign = builder().platform("linux", "riscv64", "").build();
    let error = refused(&fixture, &fixture.serve(&foreign, "1"));
    let Error::Config { source: ConfigError::Platform { expected, found }, .. } = error else { panic!("{error}") };
    assert_eq!((expected, found), (Platform::host(), Platform::new("linux", "riscv64", None)));

    let index = Image::index(Dialect::Oci, &[&foreign]);
    let bytes = index.bytes.as_ref().unwrap();
    fixture.registry.put_manifest("app", Some("list"), &index.media_type, bytes);
    let error = refused(&fixture, &fixture.reference("list"));
    let Error::Manifest { digest, source: ManifestError::NoPlatform { wanted, found } } = error else {
        panic!("{error}")
    };
    assert_eq!((digest, wanted), (blob(&index.digest), Platform::host()));
    assert!(found.contains("linux/riscv64"), "{found}");
}

#[test]
fn what_a_registry_does_wrong_is_told_as_its_error() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let image = builder().build();
    let reference = fixture.serve(&image, "1");
    let layer = format!("/blobs/{}", image.layers[0].digest);
    let hurt = |fault| {
        fixture.registry.clear_rules();
        fixture.registry.add_rule(Rule::on(layer.clone()).fault(fault));
        refused(&fixture, &reference)
    };
    let error = hurt(registry::Fault::status(404));
    assert!(matches!(error, Error::Registry(RegistryError::NotFound { .. })), "{error:?}");
    let error = hurt(registry::Fault::status(503));
    assert!(matches!(error, Error::Registry(RegistryError::Server { status: 503, .. })), "{error:?}");
    let error = hurt(registry::Fault::Truncate(20));
    assert!(matches!(error, Error::Registry(RegistryError::Truncated { found: 20, .. })), "{error:?}");
    let error = hurt(registry::Fault::Endless);
    assert!(matches!(error, Error::Registry(RegistryError::TooLong { .. })), "{error:?}");
    let error = hurt(registry::Fault::Corrupt);
    assert!(matches!(error, Error::Layers(LayerError::BlobDigest { .. })), "{error:?}");
    fixture.registry.clear_rules();
    let error = refused(&fixture, &fixture.reference("404"));
    assert!(matches!(error, Error::Registry(RegistryError::NotFound { .. })), "{error:?}");
    // Whatever happened, the next pull is whole.
    fixture.pull(&reference).unwrap();
}

#[test]
fn the_first_failure_ends_the_other_layers_where_they_are() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let image = ImageBuilder::new().layer(noise_layer()).layer(layer("small")).command(&["/f"]).build();
    let reference = fixture.serve(&image, "1");
    // The large one would take minutes.
    let pause = std::time::Duration::from_millis(100);
    let large = format!("/blobs/{}", image.layers[0].digest);
    fixture.registry.add_rule(Rule::on(large).fault(registry::Fault::Trickle(100, pause)));
    let small = format!("/blobs/{}", image.layers[1].digest);
    fixture.registry.add_rule(Rule::on(small).fault(registry::Fault::status(404)));
    let started = std::time::Instant::now();
    let error = refused(&fixture, &reference);
    assert!(matches!(error, Error::Registry(RegistryError::NotFound { .. })), "{error:?}");
    let minutes = image.layers[0].size / 100 / 10 / 60;
    assert!(minutes > 2 && started.elapsed().as_secs() < 30 * minutes, "{:?} of {minutes} min", started.elapsed());
}

/// A layer that stays large when compressed.
fn noise_layer() -> Layer {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..300_000).map(|_| next()).collect();
    Layer::gzip(TarBuilder::new().entry(Entry::file("noise", noise)).finish())
}

#[test]
fn what_other_tools_have_added_stays_when_an_image_goes() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let image = builder().build();
    fixture.pull(&fixture.serve(&image, "1")).unwrap();
    let store = fixture.engine.store();
    let put = |bytes: Vec<u8>| {
        let blob = stos_spec::Verified::trust(bytes);
        store.put_blob(&blob).unwrap();
        serde_json::json!({"mediaType": "a/b", "digest": blob.digest(), "size": blob.get().len()})
    };
    let (config, layer) = (put(b"{}".to_vec()), put(b"a layer".to_vec()));
    let manifest = put(serde_json::json!({"config": config, "layers": [layer]}).to_string().into_bytes());
    let index = put(serde_json::json!({"manifests": [manifest]}).to_string().into_bytes());
    put(b"garbage".to_vec());
    let path = store.images_dir().join("index.json");
    let mut layout: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    layout["manifests"].as_array_mut().unwrap().push(index.clone());
    std::fs::write(&path, layout.to_string()).unwrap();

    stos_engine::image::remove_image(&fixture.engine, &fixture.reference("1"), false).unwrap();
    let mut kept: Vec<BlobDigest> =
        [&config, &layer, &manifest, &index].map(|entry| blob(entry["digest"].as_str().unwrap())).to_vec();
    kept.sort();
    assert_eq!(store.blobs().unwrap(), kept);
    let layout: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(layout["manifests"], serde_json::json!([index]));
}

#[test]
fn indexes_lead_to_an_image_or_nowhere() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let image = builder().build();
    fixture.serve(&image, "1");
    let (mut target, mut kind) = (image.manifest.digest, Dialect::Oci.manifest());
    for depth in 1..=4 {
        let size = fixture.registry.manifest("app", &target).unwrap().1.len();
        let platform = serde_json::json!({"os": "linux", "architecture": stos_testkit::image_builder::architecture()});
        let entry = serde_json::json!({"mediaType": kind, "digest": target, "size": size, "platform": platform});
        kind = Dialect::Oci.index();
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}).to_string();
        target = fixture.registry.put_manifest("app", Some(&format!("depth{depth}")), kind, index.as_bytes());
    }
    let error = refused(&fixture, &fixture.reference("depth4"));
    assert!(matches!(error, Error::NestedIndex { depth: 3, .. }), "{error:?}");
    let pulled = fixture.pull(&fixture.reference("depth3")).unwrap();
    assert!(pulled.image.index_digest.is_some());
}

#[test]
fn a_layer_that_is_there_stays_when_another_pull_fails() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let good = ImageBuilder::new().layer(layer("low")).command(&["/f"]).build();
    fixture.pull(&fixture.serve(&good, "good")).unwrap();
    let before = (fixture.names("layers/sha256"), fixture.names("chains/sha256"), fixture.names("images/blobs/sha256"));
    let bad = builder().layer(layer("top")).fault(Fault::LayerBytes(2)).build();
    fixture.pull(&fixture.serve(&bad, "bad")).unwrap_err();
    let after = (fixture.names("layers/sha256"), fixture.names("chains/sha256"), fixture.names("images/blobs/sha256"));
    assert_eq!(after, before);
    assert_eq!(fixture.names("staging"), Vec::<String>::new());
}

#[test]
fn pulls_at_once_share_one_download() {
    stos_testkit::require!(Need::Root);
    for kind in BackendKind::ALL {
        pull_at_once(&Fixture::of(kind));
    }
}

fn pull_at_once(fixture: &Fixture) {
    let image = builder().build();
    let reference = fixture.serve(&image, "1");
    // The first to come holds the layer's lock while its bytes trickle.
    let pause = std::time::Duration::from_millis(20);
    fixture.registry.add_rule(Rule::on("/blobs/").fault(registry::Fault::Trickle(16, pause)));
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..8).map(|_| scope.spawn(|| fixture.pull(&reference).unwrap())).collect();
        let fetched: u64 = pulls.into_iter().map(|pull| pull.join().unwrap().fetched_bytes).sum();
        assert_eq!(fetched, image.layers.iter().map(|layer| layer.size).sum::<u64>());
    });
    let requests = fixture.registry.take_requests();
    for layer in &image.layers {
        let count = requests.iter().filter(|request| request.starts_with("GET") && request.contains(&layer.digest));
        assert_eq!(count.count(), 1, "{}", layer.digest);
    }
    assert_eq!(fixture.engine.store().images().unwrap().len(), 1);
    assert_eq!(fixture.names("locks"), ["images", "lease"]);
}

/// What has been told, a line for each call, and the bytes of layers.
#[derive(Default)]
struct Told(Mutex<Vec<String>>, Mutex<u64>);

impl Told {
    fn line(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

impl PullProgress for Told {
    fn resolved(&self, image: &Announced<'_>) {
        let bytes: u64 = image.layers.iter().map(|(_, size)| size).sum();
        let (name, manifest) = (image.image.unwrap(), image.manifest.unwrap());
        self.line(format!("{name} {manifest} {} {} {} {bytes}", image.image_id, image.platform, image.layers.len()));
    }
    fn layer_advanced(&self, _: BlobDigest, count: u64) {
        *self.1.lock().unwrap() += count;
    }
    fn layer_done(&self, blob: BlobDigest, was_present: bool) {
        self.line(format!("{blob} {was_present}"));
    }
    fn merge_started(&self) {
        self.line("merge".to_owned());
    }
    fn merge_done(&self) {
        self.line("merged".to_owned());
    }
    fn done(&self) {
        self.line("done".to_owned());
    }
}

#[test]
fn progress_counts_every_byte_and_tells_each_step() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let image = builder().build();
    let reference: ImageRef = fixture.serve(&image, "1").parse().unwrap();
    let size = image.layers.iter().map(|layer| layer.size).sum::<u64>();
    for was_present in [false, true] {
        let told = Told::default();
        pull_image_from_registry(&fixture.engine, &reference, &options(), &told).unwrap();
        let mut lines = told.0.into_inner().unwrap();
        lines[1..3].sort();
        let (manifest, config) = (&image.manifest.digest, &image.config.digest);
        let mut layers: Vec<_> = image.layers.iter().map(|layer| format!("{} {was_present}", layer.digest)).collect();
        layers.sort();
        let mut expected = vec![format!("{reference} {manifest} {config} linux/amd64 2 {size}")];
        expected.extend(layers);
        expected.extend(["merge", "merged", "done"].map(str::to_owned));
        assert_eq!(lines, expected);
        assert_eq!(*told.1.lock().unwrap(), if was_present { 0 } else { size });
    }
}

#[test]
fn a_pull_that_fails_is_never_told_to_be_done() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let image = builder().fault(Fault::LayerBytes(1)).build();
    let reference = fixture.serve(&image, "1").parse().unwrap();
    let told = Told::default();
    pull_image_from_registry(&fixture.engine, &reference, &options(), &told).unwrap_err();
    let lines = told.0.into_inner().unwrap();
    assert!(lines.len() < 3 && lines[0].starts_with(&reference.to_string()), "{lines:?}");
    assert!(!lines.iter().any(|line| line == "done" || line.starts_with("merge")), "{lines:?}");
}
