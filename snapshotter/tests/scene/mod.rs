// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tests of the snapshotter share: a store of its own, a registry in this process, the service called as containerd calls it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod cri;
pub mod daemon;
pub mod node;
pub mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stos_engine::Engine;
use stos_layerfs::BackendKind;
use stos_snapshotter::Snapshotter;
use stos_snapshotter::api::snapshots::snapshots_server::Snapshots;
use stos_snapshotter::api::snapshots::*;
use stos_snapshotter::api::types::Mount;
use stos_snapshotter::config::Settings;
use stos_snapshotter::metrics::Metrics;
use stos_snapshotter::service::Service;
use stos_spec::{ChainId, DiffId};
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::registry::{Options, Registry};
use stos_testkit::tar_builder::{Entry, TarBuilder};
use tonic::codegen::tokio_stream::StreamExt;
use tonic::{Code, Request, Status};

/// The label of a layer's chain.
pub const REF: &str = "containerd.io/snapshot.ref";
/// The label of an image's name.
pub const IMAGE: &str = "containerd.io/snapshot/cri.image-ref";

/// A store that is served.
pub struct Scene {
    pub registry: Registry,
    pub snapshotter: Arc<Snapshotter>,
    pub service: Service,
    pub runtime: tokio::runtime::Runtime,
    pub dir: Dir,
}

/// Where its store is. What is mounted there goes with it.
pub struct Dir(tempfile::TempDir);

impl Dir {
    pub fn new() -> Self {
        Self(environment::scratch())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// What a call gives, by its code.
pub type Got<T> = Result<T, Status>;

/// Settings that reach a registry without TLS.
pub fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.registry.tls_verify = Some(false);
    settings
}

impl Scene {
    pub fn new() -> Self {
        let dir = Dir::new();
        let engine = engine(&dir);
        Self::of(dir, engine)
    }

    /// With layers kept as directories, whatever the host can have.
    pub fn with_dirs() -> Self {
        let dir = Dir::new();
        let engine = engine(&dir).with_backend(BackendKind::Dirs);
        Self::of(dir, engine)
    }

    fn of(dir: Dir, engine: Engine) -> Self {
        let (snapshotter, service) = open(&dir, engine);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { registry: Registry::start(Options::default()), snapshotter, service, runtime, dir }
    }

    /// The same store, served anew, as after a crash.
    pub fn restarted(self) -> Self {
        let Self { registry, snapshotter, service, runtime, dir } = self;
        drop((service, snapshotter));
        let (snapshotter, service) = open(&dir, engine(&dir));
        Self { registry, snapshotter, service, runtime, dir }
    }

    pub fn engine(&self) -> Engine {
        engine(&self.dir)
    }

    pub fn data_root(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Gives an image to the registry, and its name.
    pub fn serve(&self, image: &Image, name: &str) -> String {
        image.push(&self.registry.address(), name, "1").unwrap();
        self.registry.take_requests();
        format!("{}/{name}:1", self.registry.address())
    }

    pub fn prepare(&self, key: &str, parent: &str, labels: &[(&str, &str)]) -> Got<Vec<Mount>> {
        let request = PrepareSnapshotRequest {
            snapshotter: "stos".into(),
            key: key.into(),
            parent: parent.into(),
            labels: map(labels),
        };
        let done = self.runtime.block_on(self.service.prepare(Request::new(request)));
        Ok(done?.into_inner().mounts)
    }

    pub fn view(&self, key: &str, parent: &str) -> Got<Vec<Mount>> {
        let request = ViewSnapshotRequest {
            snapshotter: "stos".into(),
            key: key.into(),
            parent: parent.into(),
            labels: BTreeMap::new(),
        };
        Ok(self.runtime.block_on(self.service.view(Request::new(request)))?.into_inner().mounts)
    }

    pub fn mounts(&self, key: &str) -> Got<Vec<Mount>> {
        let request = MountsRequest { snapshotter: "stos".into(), key: key.into() };
        Ok(self.runtime.block_on(self.service.mounts(Request::new(request)))?.into_inner().mounts)
    }

    pub fn commit(&self, name: &str, key: &str) -> Got<()> {
        let labels = BTreeMap::from([("committed".to_owned(), "yes".to_owned())]);
        let request = CommitSnapshotRequest { snapshotter: "stos".into(), name: name.into(), key: key.into(), labels };
        self.runtime.block_on(self.service.commit(Request::new(request))).map(|_| ())
    }

    pub fn remove(&self, key: &str) -> Got<()> {
        let request = RemoveSnapshotRequest { snapshotter: "stos".into(), key: key.into() };
        self.runtime.block_on(self.service.remove(Request::new(request))).map(|_| ())
    }

    pub fn stat(&self, key: &str) -> Got<Info> {
        let request = StatSnapshotRequest { snapshotter: "stos".into(), key: key.into() };
        Ok(self.runtime.block_on(self.service.stat(Request::new(request)))?.into_inner().info.unwrap())
    }

    pub fn update(&self, name: &str, labels: &[(&str, &str)], mask: &[&str]) -> Got<Info> {
        let info = Info { name: name.into(), labels: map(labels), ..Info::default() };
        let paths = mask.iter().map(ToString::to_string).collect();
        let request = UpdateSnapshotRequest {
            snapshotter: "stos".into(),
            info: Some(info),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        Ok(self.runtime.block_on(self.service.update(Request::new(request)))?.into_inner().info.unwrap())
    }

    pub fn usage(&self, key: &str) -> Got<UsageResponse> {
        let request = UsageRequest { snapshotter: "stos".into(), key: key.into() };
        Ok(self.runtime.block_on(self.service.usage(Request::new(request)))?.into_inner())
    }

    pub fn list(&self, filters: &[&str]) -> Got<Vec<Info>> {
        let filters = filters.iter().map(ToString::to_string).collect();
        let request = ListSnapshotsRequest { snapshotter: "stos".into(), filters };
        self.runtime.block_on(async {
            let mut stream = self.service.list(Request::new(request)).await?.into_inner();
            let mut all = Vec::new();
            while let Some(part) = stream.next().await {
                all.extend(part?.info);
            }
            Ok(all)
        })
    }

    pub fn names(&self, filters: &[&str]) -> Vec<String> {
        self.list(filters).unwrap().into_iter().map(|info| info.name).collect()
    }

    pub fn cleanup(&self) {
        let request = CleanupRequest { snapshotter: "stos".into() };
        self.runtime.block_on(self.service.cleanup(Request::new(request))).unwrap();
        // What another test has just forked holds our locks until it has become its program. Where something is damaged no try helps.
        for _ in 0..100 {
            if !self.snapshotter.clean().is_partial {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Asks for each layer of an image as containerd does when it unpacks one; gives the code of each answer, and the name of the
    /// uppermost committed snapshot.
    pub fn unpack(&self, image: &Image, reference: Option<&str>) -> (Vec<Code>, String) {
        let (mut parent, mut codes) = (String::new(), Vec::new());
        for chain in chains(image) {
            let mut labels = vec![(REF, chain.as_str())];
            labels.extend(reference.map(|reference| (IMAGE, reference)));
            let key = format!("default/1/extract-1-a {chain}");
            match self.prepare(&key, &parent, &labels) {
                Err(status) => {
                    codes.push(status.code());
                    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
                    // As containerd looks for what is there already.
                    let filter = format!("labels.\"{REF}\"=={chain},parent==\"{parent}\"");
                    let found = self.names(&[&filter]);
                    assert_eq!(found.len(), 1, "{found:?}");
                    parent = found.into_iter().next().unwrap();
                }
                Ok(_) => {
                    codes.push(Code::Ok);
                    parent = format!("default/2/{chain}");
                    self.commit(&parent, &key).unwrap();
                }
            }
        }
        (codes, parent)
    }

    /// The chains that are mounted below ROOT.
    pub fn mounted(&self) -> Vec<String> {
        let run = self.dir.path().join("run/chains/").display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        points.filter_map(|point| point.strip_prefix(&run).map(str::to_owned)).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let run = self.path().join("run");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        for point in points.into_iter().rev().filter(|point| point.starts_with(run.to_str().unwrap())) {
            let _ = std::process::Command::new("umount").arg("-l").arg(point).status();
        }
    }
}

/// The daemon's binary: beside the directory of the running test (`target/PROFILE/deps`).
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("stos-snapshotter")
}

/// The command line: `$STOS_BIN`, else what the main workspace has built last.
pub fn stos() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let built = ["release/stos", "debug/stos"].map(|name| workspace.join(name));
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let given = std::env::var_os(environment::BINARY).map(PathBuf::from);
    given.or_else(|| built.into_iter().filter(|path| path.is_file()).max_by_key(age))
}

/// What a test of the command line needs beside root.
pub fn needs_stos<'a>() -> Need<'a> {
    Need::Condition(stos().is_some(), "stos, of $STOS_BIN or ../target (cargo build --release at the top)")
}

/// Runs a command of the command line on the store in `dir`, and gives what it has printed.
#[track_caller]
pub fn run_stos(dir: &Path, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(stos().unwrap());
    command.arg("--data-root").arg(dir.join("data")).arg("--root").arg(dir.join("run"));
    let output = command.args(arguments).env_remove("STOS_LAYERFS").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn engine(dir: &Dir) -> Engine {
    Engine::open(&dir.path().join("data"), &dir.path().join("run")).unwrap()
}

fn open(dir: &Dir, engine: Engine) -> (Arc<Snapshotter>, Service) {
    let opened = Snapshotter::open(engine, &dir.path().join("run"), settings(), Arc::new(Metrics::default()));
    let snapshotter = Arc::new(opened.unwrap());
    snapshotter.recover().unwrap();
    let service = Service::new(Arc::clone(&snapshotter), Arc::default());
    (snapshotter, service)
}

pub fn map(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// An image with one file a layer.
pub fn image(layers: &[(&str, &str)]) -> Image {
    let builder = ImageBuilder::new().command(&["/none"]);
    let layer =
        |name: &str, text: &str| Layer::gzip(TarBuilder::new().entry(Entry::file(name, text.as_bytes())).finish());
    layers.iter().fold(builder, |builder, (name, text)| builder.layer(layer(name, text))).build()
}

/// The chains of an image's layers, the lowest first.
pub fn chains(image: &Image) -> Vec<String> {
    let layers: Vec<DiffId> = image.diff_ids.iter().map(|digest| digest.parse().unwrap()).collect();
    (1..=layers.len()).map(|count| ChainId::of_layers(&layers[..count]).unwrap().to_string()).collect()
}

#[track_caller]
pub fn code<T: std::fmt::Debug>(got: Got<T>) -> Code {
    got.map_or_else(|status| status.code(), |got| panic!("expected a refusal, got {got:?}"))
}

/// The value of an option of the one mount.
#[track_caller]
pub fn option(mounts: &[Mount], name: &str) -> String {
    assert_eq!(mounts.len(), 1);
    let prefix = format!("{name}=");
    let found = mounts[0].options.iter().find_map(|option| option.strip_prefix(&prefix));
    found.unwrap_or_else(|| panic!("no {name} in {mounts:?}")).to_owned()
}
