// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A node: a real containerd, 1.6 or 2.x, a snapshotter, and a registry.
//!
//! `$STOS_CONTAINERD` names directories with `containerd`, `ctr` and the shim, as `PATH` does. Without it there are two releases where both
//! are found: the one in `PATH`, and the newer one in the root that `cargo xtask setup --peers` makes, which this machine's C library may
//! be too old for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stos_engine::Engine;
use stos_engine::image::list_images;
use stos_store::SnapshotKind;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

use super::cri::Cri;

/// Nothing takes so long here; a test that waits longer has failed. A clean-up that was disturbed again and again is tried once a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// containerd, a snapshotter and a registry.
pub struct Node {
    snapshotter: Child,
    containerd: Child,
    pub registry: DockerRegistry,
    pub dir: tempfile::TempDir,
    pub is_old: bool,
    programs: PathBuf,
    cgroup: String,
}

/// What there is of containerd's in a directory.
const PROGRAMS: [&str; 3] = ["containerd", "ctr", "containerd-shim-runc-v2"];

/// The directories with releases of containerd that run here.
fn releases() -> Vec<PathBuf> {
    let found = match std::env::var_os("STOS_CONTAINERD") {
        Some(given) => std::env::split_paths(&given).collect(),
        None => {
            let installed = environment::tool("containerd").and_then(|path| path.parent().map(Path::to_owned));
            installed.into_iter().chain([environment::cache().join("peers/sid/usr/bin")]).collect::<Vec<_>>()
        }
    };
    let runs = |dir: &PathBuf| version_of(dir).is_some() && PROGRAMS.iter().all(|name| dir.join(name).exists());
    found.into_iter().filter(runs).collect()
}

/// What `containerd --version` says; `None` where it does not run.
fn version_of(dir: &Path) -> Option<String> {
    let output = Command::new(dir.join("containerd")).arg("--version").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Has each release of containerd do a test, on a node of its own.
pub fn on_each_release(test: impl Fn(Node)) {
    on_each_release_with(&[], test);
}

/// The same where the test needs more.
#[expect(clippy::print_stderr, reason = "which release fails")]
pub fn on_each_release_with(further: &[Need<'_>], test: impl Fn(Node)) {
    let releases = releases();
    let text = "containerd, ctr and the shim, in PATH or in $STOS_CONTAINERD (cargo xtask setup)";
    let own =
        [Need::Root, Need::Tool("docker-registry"), Need::Tool("runc"), Need::Condition(!releases.is_empty(), text)];
    if !stos_testkit::guard::met(&[&own, further].concat()) {
        return;
    }
    for release in releases {
        let node = Node::start(&release);
        eprintln!("containerd {}", if node.is_old { "1.x" } else { "2.x" });
        test(node);
    }
}

/// The image that pods are paused by: the host's shell, which sleeps.
fn pause() -> Image {
    let shell = Layer::gzip(rootfs::host_shell().unwrap());
    ImageBuilder::new().layer(shell).command(&["/bin/sleep", "1000000"]).build()
}

/// An image that stands on the same layer, and has a file more.
pub fn image() -> Image {
    image_with("greeting", "hello\n")
}

/// The same with another file.
pub fn image_with(name: &str, text: &str) -> Image {
    let shell = Layer::gzip(rootfs::host_shell().unwrap());
    let file = TarBuilder::new().entry(Entry::file(name, text.as_bytes())).finish();
    ImageBuilder::new().layer(shell).layer(Layer::gzip(file)).command(&["/bin/sh"]).build()
}

impl Node {
    /// Starts all of it; the registry has `app:1` and `pause:1`.
    fn start(release: &Path) -> Self {
        static NODES: AtomicU32 = AtomicU32::new(0);
        let dir = environment::scratch();
        // By themselves: what else lies there, another runc, is not asked for.
        let programs = dir.path().join("bin");
        std::fs::create_dir(&programs).unwrap();
        for name in PROGRAMS {
            std::os::unix::fs::symlink(release.join(name), programs.join(name)).unwrap();
        }
        let registry = DockerRegistry::start(&dir.path().join("registry")).unwrap();
        image().push(registry.address(), "app", "1").unwrap();
        pause().push(registry.address(), "pause", "1").unwrap();
        std::fs::write(dir.path().join("snapshotter.toml"), "[registry]\ntls-verify = false\n").unwrap();
        let is_old = version_of(release).unwrap().split([' ', 'v']).any(|word| word.starts_with("1."));
        let config = containerd_config(dir.path(), registry.address(), is_old);
        std::fs::write(dir.path().join("containerd.toml"), config).unwrap();
        let cgroup = format!("/stos-test-{}-{}", std::process::id(), NODES.fetch_add(1, Ordering::Relaxed));
        let snapshotter = start_snapshotter(dir.path());
        let containerd = start_containerd(&programs, dir.path());
        let node = Self { snapshotter, containerd, registry, dir, is_old, programs, cgroup };
        node.eventually("containerd", |node| node.ctr(&["version"]).status.success());
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The name of an image of the registry.
    pub fn image_name(&self, name: &str) -> String {
        format!("{}/{name}:1", self.registry.address())
    }

    pub fn reference(&self) -> String {
        self.image_name("app")
    }

    pub fn ctr(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.programs.join("ctr"));
        command.env("PATH", path_with(&self.programs)).stdin(Stdio::null());
        command.arg("--address").arg(self.path("c.sock")).arg("--timeout=60s").args(arguments).output().unwrap()
    }

    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.ctr(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}\n{}", self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.path(name)).unwrap_or_default();
        read("snapshotter.log") + &read("containerd.log")
    }

    #[track_caller]
    pub fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if Instant::now() >= deadline {
                let (snapshots, mounts) = (self.snapshots_by_kind(), self.mounts_by_kind());
                let images = self.images();
                panic!("no {what}: {snapshots:?} snapshots, {images} images, {mounts:?}: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the snapshotter, as the kernel does where memory is short, and starts another one.
    pub fn restart_snapshotter(&mut self) {
        self.snapshotter.kill().unwrap();
        self.snapshotter.wait().unwrap();
        self.snapshotter = start_snapshotter(self.dir.path());
    }

    /// The same with containerd. Its shims go on.
    pub fn restart_containerd(&mut self) {
        self.containerd.kill().unwrap();
        self.containerd.wait().unwrap();
        self.containerd = start_containerd(&self.programs, self.dir.path());
    }

    /// The CRI plugin. It begins to serve some time after containerd does.
    #[track_caller]
    pub fn cri(&self) -> Cri {
        let cri = Cri { socket: self.path("c.sock"), cgroup: self.cgroup.clone(), logs: self.path("logs") };
        self.eventually("CRI", |_| cri.images().is_ok() && cri.containers().is_ok());
        cri
    }

    /// The images of the store.
    pub fn images(&self) -> usize {
        let engine = Engine::open_for_reading(&self.path("data"), &self.path("run")).unwrap();
        list_images(&engine).unwrap().len()
    }

    /// The snapshots of the store: those that others stand on, and those of containers.
    pub fn snapshots_by_kind(&self) -> (usize, usize) {
        let store = stos_store::Store::open_for_reading(&self.path("data")).unwrap();
        let all = store.snapshots().unwrap();
        let is_committed = |kind| kind == SnapshotKind::Committed;
        let committed = all.iter().filter(|(_, record)| is_committed(record.as_ref().unwrap().kind)).count();
        (committed, all.len() - committed)
    }

    pub fn snapshots(&self) -> usize {
        let (committed, others) = self.snapshots_by_kind();
        committed + others
    }

    /// What is mounted below the node's directory, by type.
    pub fn mounts_by_kind(&self) -> BTreeMap<String, usize> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mut counts = BTreeMap::new();
        for line in mounts.lines() {
            let words: Vec<_> = line.split(' ').collect();
            if Path::new(words[1]).starts_with(self.dir.path()) {
                *counts.entry(words[2].to_owned()).or_default() += 1;
            }
        }
        counts
    }

    pub fn mounts(&self, kind: &str) -> usize {
        self.mounts_by_kind().get(kind).copied().unwrap_or(0)
    }

    /// The cgroups of pods that are there.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let below = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
        let is_directory = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        self.pod_roots().into_iter().flat_map(below).filter(is_directory).map(|entry| entry.path()).collect()
    }

    /// The cgroup that pods are made in, in each hierarchy.
    fn pod_roots(&self) -> Vec<PathBuf> {
        let name = self.cgroup.trim_start_matches('/');
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        let roots = hierarchies.chain(["/sys/fs/cgroup".into()]).map(|hierarchy| hierarchy.join(name));
        roots.filter(|root| root.is_dir()).collect()
    }

    /// The processes that name the node's containerd: shims, and what has them as ancestors.
    pub fn processes(&self) -> Vec<i32> {
        let socket = self.path("c.sock").display().to_string();
        let (mut parents, mut found) = (BTreeMap::new(), Vec::new());
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let words = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok());
            parents.insert(pid, parent.unwrap_or(0));
            if words.contains("containerd-shim") && words.contains(&socket) {
                found.push(pid);
            }
        }
        loop {
            let is_new = |(pid, parent): &(&i32, &i32)| found.contains(*parent) && !found.contains(*pid);
            let more: Vec<i32> = parents.iter().filter(is_new).map(|(pid, _)| *pid).collect();
            if more.is_empty() {
                return found;
            }
            found.extend(more);
        }
    }

    /// Has containerd collect its garbage, and waits for that: by itself it tells a snapshotter of removals only with the next
    /// collection, which comes after some number of other changes.
    #[track_caller]
    pub fn collect(&self) {
        let lease = self.ok(&["leases", "create"]);
        self.ok(&["leases", "delete", "--sync", lease.trim()]);
    }

    /// Gives up what a containerd that was killed was about: its leases keep that for a day.
    pub fn give_up_leases(&self) {
        for namespace in ["default", "k8s.io"] {
            for lease in self.ok(&["--namespace", namespace, "leases", "ls", "-q"]).split_whitespace() {
                self.ok(&["--namespace", namespace, "leases", "delete", lease]);
            }
        }
    }

    /// Waits until containers have left no snapshot and no mount.
    #[track_caller]
    pub fn assert_no_snapshot_is_left(&self) {
        self.collect();
        self.eventually("end of the containers' snapshots", |node| node.snapshots_by_kind().1 == 0);
        self.eventually("end of the mounts", |node| node.mounts_by_kind().is_empty());
    }

    /// The same, and no task, cgroup or process.
    #[track_caller]
    pub fn assert_no_container_is_left(&self) {
        self.assert_no_snapshot_is_left();
        self.eventually("end of the processes", |node| node.processes().is_empty());
        for namespace in ["default", "k8s.io"] {
            for what in ["tasks", "containers"] {
                assert_eq!(self.ok(&["--namespace", namespace, what, "ls", "-q"]), "", "{namespace}: {what}");
            }
        }
        self.eventually("end of the cgroups", |node| node.cgroups().is_empty());
    }

    /// Removes an image, with all that only it has used.
    #[track_caller]
    pub fn remove_image(&self) {
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
        // Of a test that has failed.
        for pid in self.processes() {
            let _ = rustix::process::Pid::from_raw(pid)
                .map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        for point in points.into_iter().rev().filter(|point| Path::new(point).starts_with(self.dir.path())) {
            let _ = Command::new("umount").arg("-l").arg(point).status();
        }
        for cgroup in self.cgroups().into_iter().chain(self.pod_roots()) {
            let _ = std::fs::remove_dir(cgroup);
        }
    }
}

fn path_with(programs: &Path) -> String {
    format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default())
}

fn start_snapshotter(dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("snapshotter.log")).unwrap();
    let mut command = Command::new(super::binary());
    for (option, name) in
        [("--address", "s.sock"), ("--data-root", "data"), ("--root", "run"), ("--config", "snapshotter.toml")]
    {
        command.arg(option).arg(dir.join(name));
    }
    command.env_remove("STOS_LAYERFS").stdin(Stdio::null()).stderr(log).spawn().unwrap()
}

fn start_containerd(programs: &Path, dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("containerd.log")).unwrap();
    let mut command = Command::new(programs.join("containerd"));
    command.arg("--config").arg(dir.join("containerd.toml")).env("PATH", path_with(programs));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn containerd_config(dir: &Path, registry: &str, is_old: bool) -> String {
    let hosts = dir.join("hosts").join(registry);
    std::fs::create_dir_all(&hosts).unwrap();
    let mut file = File::create(hosts.join("hosts.toml")).unwrap();
    writeln!(file, "server = \"http://{registry}\"").unwrap();
    let at = dir.display();
    let common = format!(
        "root = \"{at}/c-root\"\nstate = \"{at}/c-state\"\n[grpc]\naddress = \"{at}/c.sock\"\n\
         [proxy_plugins.stos]\ntype = \"snapshot\"\naddress = \"{at}/s.sock\"\n"
    );
    let opt = format!("[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{at}/opt\"\n");
    // Without CAP_SYS_RESOURCE a score cannot be lowered.
    if is_old {
        return format!(
            "version = 2\n{common}{opt}[plugins.\"io.containerd.grpc.v1.cri\"]\nstream_server_port = \"0\"\n\
             restrict_oom_score_adj = true\nsandbox_image = \"{registry}/pause:1\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"stos\"\n\
             disable_snapshot_annotations = false\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{at}/hosts\"\n"
        );
    }
    format!(
        "version = 3\n{common}[proxy_plugins.stos.exports]\nenable_remote_snapshot_annotations = \"true\"\n\
         {opt}[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n\
         [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = \"linux/{arch}\"\nsnapshotter = \"stos\"\n\
         [plugins.\"io.containerd.cri.v1.runtime\"]\nrestrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"stos\"\ndisable_snapshot_annotations = false\n\
         [plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"{registry}/pause:1\"\n\
         [plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"{at}/hosts\"\n",
        arch = stos_testkit::image_builder::architecture(),
    )
}
