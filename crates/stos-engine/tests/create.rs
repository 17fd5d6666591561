// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The stages of `create`, one by one: what each promises, what it refuses, and that nothing is seen before the last.

mod fixture;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fixture::{Fixture, blob, builder, diff_id, options};
use stos_engine::container::{ContainerRecord, ContainerState, record, state};
use stos_engine::create::{
    Draft, create_container_from_image, finalize_container_creation, mount_image_layers, optimize_layer_access,
    setup_container_metadata, setup_layerfs_for_container,
};
use stos_engine::filesystem::create_container_filesystem;
use stos_engine::pull::Silent;
use stos_engine::validate::{
    ValidatedImage, check_image_configuration, validate_image_before_create, validate_image_manifest,
    verify_layer_integrity,
};
use stos_engine::{CreateOptions, Error, MountOption, PullPolicy, Stage};
use stos_layerfs::{Error as LayerError, Integrity};
use stos_spec::{ConfigError, Platform};
use stos_store::{Error as StoreError, ImageRecord};
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// An image of this machine's shell, with a user and a volume.
fn shell() -> ImageBuilder {
    let more = TarBuilder::new()
        .entry(Entry::directory("etc"))
        .entry(Entry::file("etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"))
        .entry(Entry::directory("srv"))
        .entry(Entry::file("srv/data", "from the image\n"))
        .finish();
    let builder = ImageBuilder::new().layer(Layer::gzip(rootfs::host_shell().unwrap())).layer(Layer::plain(more));
    builder.command(&["/bin/sh"])
}

struct Scene {
    fixture: Fixture,
    image: Image,
    name: String,
    record: ImageRecord,
}

impl Scene {
    fn new() -> Self {
        Self::of(&shell())
    }

    fn of(builder: &ImageBuilder) -> Self {
        let (fixture, image) = (Fixture::new(), builder.build());
        let name = fixture.serve(&image, "1");
        let record = fixture.pull(&name).unwrap().image;
        Self { fixture, image, name, record }
    }

    fn validated(&self) -> ValidatedImage {
        let engine = &self.fixture.engine;
        validate_image_before_create(engine, self.record.clone(), &Platform::host(), Integrity::Sealed).unwrap()
    }

    fn create(&self, options: &CreateOptions) -> Result<ContainerRecord, Error> {
        create_container_from_image(&self.fixture.engine, &self.name, options, &Silent)
    }

    /// No container, no name, nothing in staging.
    #[track_caller]
    fn assert_nothing_of_a_container(&self) {
        for directory in ["containers", "names", "staging"] {
            assert_eq!(self.fixture.names(directory), Vec::<String>::new(), "{directory}");
        }
    }
}

fn user(user: &str) -> CreateOptions {
    CreateOptions { user: Some(user.to_owned()), ..CreateOptions::default() }
}

fn command(words: &[&str]) -> CreateOptions {
    CreateOptions { command: words.iter().map(ToString::to_string).collect(), ..CreateOptions::default() }
}

fn bind(source: &str, target: &str) -> MountOption {
    let (read_only, recursive) = (true, false);
    MountOption { source: source.into(), target: target.into(), read_only, recursive, options: Vec::new() }
}

fn named(name: &str) -> CreateOptions {
    CreateOptions { name: Some(name.parse().unwrap()), ..CreateOptions::default() }
}

/// The stages as `create_container_from_image` calls them, on a real image from a real registry.
#[test]
fn every_stage_on_a_real_image() {
    stos_testkit::require!(Need::Root, Need::Image("deb:12"));
    let (fixture, registry) = (Fixture::new(), DockerRegistry::start_over_cache().unwrap());
    let engine = &fixture.engine;
    let name = format!("{}/deb:12", registry.address());
    let pulled = fixture.pull(&name).unwrap();
    assert_eq!(Some(pulled.image.manifest.digest.to_string()), stos_testkit::environment::image_digest("deb:12"));

    let loaded = validate_image_manifest(engine, pulled.image).unwrap();
    check_image_configuration(&loaded, &Platform::host()).unwrap();
    let chain = verify_layer_integrity(engine, &loaded, Integrity::Full).unwrap();
    assert_eq!(chain.layers().len(), loaded.manifest.layers.len());
    let validated =
        validate_image_before_create(engine, loaded.record.clone(), &Platform::host(), Integrity::Sealed).unwrap();
    assert_eq!(validated.chain, chain);

    assert_eq!(optimize_layer_access(&chain), &chain);
    mount_image_layers(engine, &chain).unwrap();
    assert_eq!(setup_layerfs_for_container(engine, &chain, Integrity::Sealed).unwrap(), chain);
    let root = engine.layerfs().chain_mount_point(chain.kind(), chain.chain_id());
    assert!(root.join("usr/bin/dpkg").is_file(), "one mount, at its place, however often it is asked for");

    let options = CreateOptions { user: Some("nobody".to_owned()), ..command(&["sleep", "1"]) };
    let draft = Draft::new(engine, &name, &validated, &options).unwrap();
    let volumes = draft.filesystem().unwrap();
    assert_eq!(volumes, []);
    let metadata = setup_container_metadata(&draft, &volumes).unwrap();
    assert_eq!(metadata.command, ["sleep", "1"]);
    assert!(fixture.names("containers").is_empty() && fixture.names("names").is_empty(), "nothing is seen yet");
    let created = finalize_container_creation(draft, metadata).unwrap();

    let dir = engine.store().container_dir(&created.id);
    assert_eq!(record(engine, &created.id).unwrap(), Some(created.clone()));
    assert_eq!(state(engine, &created.id).unwrap(), ContainerState::Created);
    let upper = fs::metadata(dir.join("upper")).unwrap();
    let image_root = fs::metadata(&root).unwrap();
    assert_eq!((upper.mode(), upper.mtime()), (image_root.mode(), image_root.mtime()));
    let config: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["user"]["uid"], 65534, "nobody, by the image's own passwd");
    assert_eq!(fixture.names("names"), [created.name.to_string()]);

    let second = create_container_from_image(engine, &name, &named("second"), &Silent).unwrap();
    assert_eq!((second.chain, second.name.as_str()), (chain.chain_id(), "second"));
    assert_eq!(fixture.names("staging"), Vec::<String>::new());
}

#[test]
fn manifests_that_are_damaged_or_missing_are_refused() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let engine = &scene.fixture.engine;
    let path = engine.store().blob_path(blob(&scene.image.manifest.digest));
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[1..]).unwrap();
    let error = validate_image_manifest(engine, scene.record.clone()).unwrap_err();
    assert!(matches!(&error, Error::Store(StoreError::DamagedBlob { path: named, .. }) if *named == path), "{error}");
    fs::remove_file(&path).unwrap();
    let error = validate_image_manifest(engine, scene.record.clone()).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::NoSuchBlob(_))), "{error}");
}

#[test]
fn configurations_for_elsewhere_are_refused() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let loaded = validate_image_manifest(&scene.fixture.engine, scene.record.clone()).unwrap();
    let wanted = Platform::new("linux", "riscv64", None);
    let error = check_image_configuration(&loaded, &wanted).unwrap_err();
    let Error::Config { digest, source: ConfigError::Platform { expected, found } } = error else { panic!("{error}") };
    assert_eq!((digest, expected, found), (blob(&scene.image.config.digest), wanted, Platform::host()));
}

#[test]
fn layers_that_are_damaged_are_refused_by_name() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let engine = &scene.fixture.engine;
    let loaded = validate_image_manifest(engine, scene.record.clone()).unwrap();
    let layer = diff_id(&scene.image.diff_ids[1]);
    let tar = engine.store().layer_dir(layer).join("layer.tar");
    fs::write(&tar, "something else").unwrap();
    let error = verify_layer_integrity(engine, &loaded, Integrity::Sealed).unwrap_err();
    let Error::Layers(LayerError::DamagedLayer { layer: found, path, .. }) = &error else { panic!("{error}") };
    assert_eq!((*found, path), (layer, &tar));
    verify_layer_integrity(engine, &loaded, Integrity::None).unwrap();
}

#[test]
fn layers_that_cannot_be_mounted_are_named_and_leave_no_mount() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let engine = &scene.fixture.engine;
    let chain = scene.validated().chain;
    let tar = engine.store().layer_dir(chain.layers()[0]).join("layer.tar");
    fs::remove_file(&tar).unwrap();
    let setup = setup_layerfs_for_container(engine, &chain, Integrity::Sealed).map(drop);
    for error in [mount_image_layers(engine, &chain), setup].map(Result::unwrap_err) {
        assert!(error.to_string().contains(tar.to_str().unwrap()), "{error}");
    }
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    // Where `/` is shared, ROOT/chains is a mount of itself, and stays.
    let point = engine.layerfs().chain_mount_point(chain.kind(), chain.chain_id());
    assert!(!table.contains(point.to_str().unwrap()), "{table}");
}

#[test]
fn a_filesystem_holds_what_the_image_has_at_its_volumes() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::of(&shell().set("/config/Volumes", serde_json::json!({"/srv": {}, "/new": {}})));
    let engine = &scene.fixture.engine;
    let validated = scene.validated();
    setup_layerfs_for_container(engine, &validated.chain, Integrity::Sealed).unwrap();
    let bound = bind("/tmp", "/new");
    let options = CreateOptions { mounts: vec![bound], ..CreateOptions::default() };
    let draft = Draft::new(engine, &scene.name, &validated, &options).unwrap();
    let volumes = draft.filesystem().unwrap();
    assert_eq!(volumes.iter().map(|volume| volume.used.target.as_str()).collect::<Vec<_>>(), ["/srv"]);
    let metadata = setup_container_metadata(&draft, &volumes).unwrap();
    let created = finalize_container_creation(draft, metadata).unwrap();
    let data = engine.store().container_dir(&created.id).join(&volumes[0].source).join("data");
    assert_eq!(fs::read_to_string(data).unwrap(), "from the image\n");

    let image_root = engine.layerfs().chain_mount_point(validated.chain.kind(), validated.chain.chain_id());
    let error = create_container_filesystem(Path::new("/proc/no/such"), &image_root).unwrap_err();
    assert!(error.to_string().contains("/proc/no/such"), "{error}");
}

#[test]
fn metadata_refuse_what_the_image_does_not_have() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let engine = &scene.fixture.engine;
    let validated = scene.validated();
    setup_layerfs_for_container(engine, &validated.chain, Integrity::Sealed).unwrap();
    type Expected = fn(&Error) -> bool;
    let cases: [(CreateOptions, Expected); 4] = [
        (user("nobody-here"), |error| matches!(error, Error::User { user, .. } if user == "nobody-here")),
        (
            command(&["no-such"]),
            |error| matches!(error, Error::CommandNotFound { command, .. } if command == "no-such"),
        ),
        (command(&["/srv"]), |error| matches!(error, Error::CommandNotExecutable { .. })),
        (user("4294967296"), |error| error.to_string().contains("4294967296")),
    ];
    for (options, is_expected) in cases {
        let draft = Draft::new(engine, &scene.name, &validated, &options).unwrap();
        let volumes = draft.filesystem().unwrap();
        let error = setup_container_metadata(&draft, &volumes).unwrap_err();
        assert!(is_expected(&error), "{error}");
        drop(draft);
        scene.assert_nothing_of_a_container();
    }
    let draft_options = user("user:0");
    let draft = Draft::new(engine, &scene.name, &validated, &draft_options).unwrap();
    let metadata = setup_container_metadata(&draft, &[]).unwrap();
    assert_eq!((metadata.command, metadata.chain), (vec!["/bin/sh".to_owned()], validated.chain.chain_id()));
}

#[test]
fn a_commit_is_whole_or_nothing() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let engine = &scene.fixture.engine;
    let first = scene.create(&named("taken")).unwrap();
    let validated = scene.validated();
    let options = named("taken");
    let draft = Draft::new(engine, &scene.name, &validated, &options).unwrap();
    let volumes = draft.filesystem().unwrap();
    let metadata = setup_container_metadata(&draft, &volumes).unwrap();
    let error = finalize_container_creation(draft, metadata).unwrap_err();
    let Error::Store(StoreError::NameTaken { name, id }) = &error else { panic!("{error}") };
    assert_eq!((name.as_str(), id.as_str()), ("taken", first.id.as_str()));
    assert_eq!(scene.fixture.names("containers"), [first.id.to_string()]);
    assert_eq!(scene.fixture.names("names"), ["taken"]);
    assert_eq!(scene.fixture.names("staging"), Vec::<String>::new());
}

#[test]
fn a_failure_names_its_stage_and_leaves_no_trace() {
    stos_testkit::require!(Need::Root);
    let scene = Scene::new();
    let missing = bind("/no/such", "/x");
    let elsewhere = {
        let mut pull = options();
        pull.platform = Platform::new("linux", "riscv64", None);
        CreateOptions { pull, pull_policy: PullPolicy::Never, ..CreateOptions::default() }
    };
    let cases = [
        (CreateOptions { mounts: vec![missing], ..CreateOptions::default() }, Stage::Filesystem),
        (elsewhere, Stage::Validate),
        (user("nobody-here"), Stage::Metadata),
        (command(&["no-such"]), Stage::Metadata),
    ];
    for (options, expected) in cases {
        let error = scene.create(&options).unwrap_err();
        let Error::Create { image, stage, .. } = &error else { panic!("{error}") };
        assert_eq!((image, *stage), (&scene.name, expected), "{error}");
        scene.assert_nothing_of_a_container();
    }
    let never = CreateOptions { pull_policy: PullPolicy::Never, ..CreateOptions::default() };
    let error = create_container_from_image(&scene.fixture.engine, "no-such:1", &never, &Silent).unwrap_err();
    assert!(
        matches!(&error, Error::Create { stage: Stage::Pull, source, .. } if matches!(**source, Error::NotPulled { .. }))
    );
    let taken = scene.create(&named("taken")).unwrap();
    let error = scene.create(&named("taken")).unwrap_err();
    assert!(matches!(error, Error::Create { stage: Stage::Finalize, .. }), "{error}");
    assert_eq!(scene.fixture.names("containers"), [taken.id.to_string()]);
}

#[test]
fn an_image_that_is_missing_is_pulled_first() {
    stos_testkit::require!(Need::Root);
    let fixture = Fixture::new();
    let name = fixture.serve(&builder().layer(Layer::gzip(rootfs::host_shell().unwrap())).build(), "1");
    let options = CreateOptions { pull: options(), ..command(&["/bin/sh"]) };
    let created = create_container_from_image(&fixture.engine, &name, &options, &Silent).unwrap();
    assert_eq!((created.image, fixture.names("containers").len()), (name, 1));
}
