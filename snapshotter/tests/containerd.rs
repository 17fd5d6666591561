// SPDX-License-Identifier: Apache-2.0 OR MIT
//! With a real containerd, 1.6 or 2.x: what `ctr` and the CRI plugin pull lies in the store, and containers run from it.
//!
//! It is looked for in `$STOS_CONTAINERD`, a directory with `containerd`, `ctr` and the shim, else in `PATH`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use stos_engine::Engine;
use stos_engine::image::list_images;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};
use tonic::body::Body;

/// Nothing takes so long here; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// containerd, a snapshotter and a registry.
struct Node {
    snapshotter: Child,
    containerd: Child,
    registry: DockerRegistry,
    dir: tempfile::TempDir,
    programs: PathBuf,
}

/// The directory with containerd's programs.
fn programs() -> Option<PathBuf> {
    let given = std::env::var_os("STOS_CONTAINERD").map(PathBuf::from);
    let found = given.map(|dir| dir.join("containerd")).or_else(|| environment::tool("containerd"))?;
    let dir = found.parent()?.to_owned();
    (dir.join("containerd").exists() && dir.join("ctr").exists()).then_some(dir)
}

fn needs<'a>() -> [Need<'a>; 4] {
    let text = "containerd and ctr, in PATH or in $STOS_CONTAINERD";
    [Need::Root, Need::Tool("docker-registry"), Need::Tool("runc"), Need::Condition(programs().is_some(), text)]
}

fn image() -> Image {
    let shell = Layer::gzip(rootfs::host_shell().unwrap());
    let file = TarBuilder::new().entry(Entry::file("greeting", b"hello\n")).finish();
    ImageBuilder::new().layer(shell).layer(Layer::gzip(file)).command(&["/bin/sh"]).build()
}

impl Node {
    fn start() -> Self {
        let dir = environment::scratch();
        let programs = programs().unwrap();
        let registry = DockerRegistry::start(&dir.path().join("registry")).unwrap();
        image().push(registry.address(), "app", "1").unwrap();
        std::fs::write(dir.path().join("snapshotter.toml"), "[registry]\ntls-verify = false\n").unwrap();
        let version = Command::new(programs.join("containerd")).arg("--version").output().unwrap();
        let is_old = String::from_utf8_lossy(&version.stdout).split([' ', 'v']).any(|word| word.starts_with("1."));
        let config = containerd_config(dir.path(), registry.address(), is_old);
        std::fs::write(dir.path().join("containerd.toml"), config).unwrap();
        let snapshotter = start_snapshotter(dir.path());
        let containerd = start_containerd(&programs, dir.path());
        let node = Self { snapshotter, containerd, registry, dir, programs };
        let answers = |node: &Self| node.ctr(&["version"]).status.success();
        node.eventually("containerd", answers);
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn reference(&self) -> String {
        format!("{}/app:1", self.registry.address())
    }

    fn ctr(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(self.programs.join("ctr"));
        command.env("PATH", path_with(&self.programs)).stdin(Stdio::null());
        command.arg("--address").arg(self.path("c.sock")).arg("--timeout=60s").args(arguments).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.ctr(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.path(name)).unwrap_or_default();
        read("snapshotter.log") + &read("containerd.log")
    }

    #[track_caller]
    fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "no {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn restart_snapshotter(&mut self) {
        self.snapshotter.kill().unwrap();
        self.snapshotter.wait().unwrap();
        self.snapshotter = start_snapshotter(self.dir.path());
    }

    /// The images of the store.
    fn images(&self) -> usize {
        let engine = Engine::open_for_reading(&self.path("data"), &self.path("run")).unwrap();
        list_images(&engine).unwrap().len()
    }

    fn snapshots(&self) -> usize {
        let store = stos_store::Store::open_for_reading(&self.path("data")).unwrap();
        store.snapshots().unwrap().len()
    }

    /// What is mounted below the node's directory, by type.
    fn mounts(&self, kind: &str) -> usize {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let prefix = self.dir.path().to_str().unwrap().to_owned();
        let is_one = |line: &&str| {
            let words: Vec<_> = line.split(' ').collect();
            words[1].starts_with(&prefix) && words[2] == kind
        };
        mounts.lines().filter(is_one).count()
    }

    /// Runs a container to its end, and one that goes on; looks into it, also after the snapshotter was killed; and removes it.
    fn run_containers(&mut self) {
        let reference = self.reference();
        let said = self.ok(&["run", "--rm", "--net-host", "--snapshotter=stos", &reference, "one", "cat", "/greeting"]);
        assert_eq!(said, "hello\n");
        self.ok(&["run", "-d", "--net-host", "--snapshotter=stos", &reference, "two", "sleep", "1000"]);
        self.ok(&["task", "exec", "--exec-id=a", "two", "sh", "-c", "echo mine > /mine"]);
        assert_eq!(self.mounts("erofs").max(1), 1, "one mount, where the image is the store's");
        self.restart_snapshotter();
        assert_eq!(self.ok(&["task", "exec", "--exec-id=b", "two", "cat", "/mine", "/greeting"]), "mine\nhello\n");
        let usage = ["snapshots", "--snapshotter=stos", "usage", "two"];
        // containerd connects anew after a while.
        self.eventually("connection", |node| node.ctr(&usage).status.success());
        let usage = self.ok(&usage);
        assert!(usage.lines().nth(1).is_some_and(|line| line.starts_with("two")), "{usage}");
        // A container that was killed ends with 137, and ctr with it.
        self.ctr(&["task", "rm", "--force", "two"]);
        self.ok(&["container", "rm", "two"]);
        self.eventually("end of the mounts", |node| node.mounts("overlay") == 0 && node.mounts("erofs") == 0);
    }

    fn remove_image(&self) {
        self.ok(&["images", "rm", "--sync", &self.reference()]);
        self.eventually("end of the snapshots", |node| node.snapshots() == 0);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for child in [&mut self.containerd, &mut self.snapshotter] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        for point in points.into_iter().rev().filter(|point| point.starts_with(self.dir.path().to_str().unwrap())) {
            let _ = Command::new("umount").arg("-l").arg(point).status();
        }
    }
}

/// The daemon's binary: beside the directory of the running test (`target/PROFILE/deps`).
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("stos-snapshotter")
}

fn path_with(programs: &Path) -> String {
    format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default())
}

fn start_snapshotter(dir: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("snapshotter.log")).unwrap();
    let mut command = Command::new(binary());
    for (option, name) in
        [("--address", "s.sock"), ("--data-root", "data"), ("--root", "run"), ("--config", "snapshotter.toml")]
    {
        command.arg(option).arg(dir.join(name));
    }
    command.env_remove("STOS_LAYERFS").stdin(Stdio::null()).stderr(log).spawn().unwrap()
}

fn start_containerd(programs: &Path, dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("containerd.log")).unwrap();
    let mut command = Command::new(programs.join("containerd"));
    command.arg("--config").arg(dir.join("containerd.toml")).env("PATH", path_with(programs));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn containerd_config(dir: &Path, registry: &str, is_old: bool) -> String {
    let hosts = dir.join("hosts").join(registry);
    std::fs::create_dir_all(&hosts).unwrap();
    let mut file = std::fs::File::create(hosts.join("hosts.toml")).unwrap();
    writeln!(file, "server = \"http://{registry}\"").unwrap();
    let at = dir.display();
    let common = format!(
        "root = \"{at}/c-root\"\nstate = \"{at}/c-state\"\n[grpc]\naddress = \"{at}/c.sock\"\n\
         [proxy_plugins.stos]\ntype = \"snapshot\"\naddress = \"{at}/s.sock\"\n"
    );
    if is_old {
        return format!(
            "version = 2\n{common}[plugins.\"io.containerd.grpc.v1.cri\"]\nstream_server_port = \"0\"\n\
             restrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"stos\"\n\
             disable_snapshot_annotations = false\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{at}/hosts\"\n"
        );
    }
    format!(
        "version = 3\n{common}[proxy_plugins.stos.exports]\nenable_remote_snapshot_annotations = \"true\"\n\
         [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = \"linux/{arch}\"\nsnapshotter = \"stos\"\n\
         [plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"stos\"\ndisable_snapshot_annotations = false\n\
         [plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"{at}/hosts\"\n",
        arch = stos_testkit::image_builder::architecture(),
    )
}

/// What of the CRI (kubernetes/cri-api, runtime/v1/api.proto) a pull needs.
mod cri {
    /// An image's name.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ImageSpec {
        #[prost(string, tag = "1")]
        pub image: String,
    }

    /// Asks for a pull, or for a removal.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ImageRequest {
        #[prost(message, optional, tag = "1")]
        pub image: Option<ImageSpec>,
    }

    /// What was pulled; nothing of a removal.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ImageResponse {
        #[prost(string, tag = "1")]
        pub image_ref: String,
    }
}

/// A connection as tonic's client wants one.
struct Channel(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Calls a method of the CRI's image service.
fn cri_call(socket: &Path, method: &'static str, image: &str) -> Result<String, tonic::Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut grpc = tonic::client::Grpc::with_origin(Channel(sender), "http://localhost".parse().unwrap());
        grpc.ready().await.unwrap();
        let request = cri::ImageRequest { image: Some(cri::ImageSpec { image: image.to_owned() }) };
        let codec = tonic_prost::ProstCodec::<cri::ImageRequest, cri::ImageResponse>::default();
        let path = http::uri::PathAndQuery::from_static(method);
        Ok(grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner().image_ref)
    })
}

#[test]
fn ctr_pulls_runs_and_removes() {
    if !stos_testkit::guard::met(&needs()) {
        return;
    }
    let mut node = Node::start();
    node.ok(&["images", "pull", "--plain-http", "--snapshotter=stos", &node.reference()]);
    assert_eq!(node.snapshots(), 2);
    node.run_containers();
    node.remove_image();
    node.eventually("end of the image", |node| node.images() == 0);
}

#[test]
fn the_cri_plugin_pulls_by_the_snapshotter() {
    if !stos_testkit::guard::met(&needs()) {
        return;
    }
    let node = Node::start();
    let (socket, reference) = (node.path("c.sock"), node.reference());
    // The plugin begins to serve some time after containerd does.
    let pull = "/runtime.v1.ImageService/PullImage";
    node.eventually("CRI", |_| {
        !cri_call(&socket, pull, "").is_err_and(|status| {
            matches!(status.code(), tonic::Code::Unimplemented | tonic::Code::Unavailable)
                || status.message().contains("not initialized")
        })
    });
    let pulled = cri_call(&socket, pull, &reference).unwrap_or_else(|status| panic!("{status:?}: {}", node.log()));
    assert!(pulled.starts_with("sha256:"), "{pulled}");
    assert_eq!((node.images(), node.snapshots()), (1, 2), "the store has it: {}", node.log());
    let content = node.ok(&["-n", "k8s.io", "content", "ls", "-q"]);
    for layer in image().layers {
        assert!(!content.contains(&layer.digest), "containerd has downloaded no layer: {content}");
    }
    cri_call(&socket, "/runtime.v1.ImageService/RemoveImage", &reference).unwrap();
    node.eventually("end of the image", |node| node.snapshots() == 0 && node.images() == 0);
}
