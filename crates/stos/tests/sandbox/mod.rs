// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A DATA-ROOT and a ROOT of a test's own, and the binary that works on them.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod cgroup;
pub mod host;
pub mod pods;
pub mod pty;
pub mod screen;
pub mod shell;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use stos_testkit::environment;
use stos_testkit::image_builder::{Blob, Image};
use stos_testkit::registry::{self, Registry};
use stos_testkit::tree::{Options, Tree};

/// What a command gave.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; -1 where a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
}

/// Both roots in one temporary directory. When it is dropped its containers and mounts go.
pub struct Sandbox {
    dir: tempfile::TempDir,
    backend: Option<&'static str>,
}

thread_local! {
    static BACKEND: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Runs a test once with each way of keeping layers.
pub fn on_both_backends(test: impl Fn()) {
    for backend in ["erofs", "dirs"] {
        on_backend(backend, &test);
    }
}

/// Runs a test with one way of keeping layers.
pub fn on_backend(backend: &'static str, test: impl FnOnce()) {
    BACKEND.set(Some(backend));
    test();
    BACKEND.set(None);
}

impl Sandbox {
    /// Makes an empty one.
    pub fn new() -> Self {
        Self { dir: environment::scratch(), backend: BACKEND.get() }
    }

    /// A directory for whatever else the test needs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What lasts.
    pub fn data_root(&self) -> PathBuf {
        self.path("data")
    }

    /// What a reboot may lose.
    pub fn root(&self) -> PathBuf {
        self.path("run")
    }

    /// The binary with the options that lead it here.
    pub fn command(&self) -> Command {
        self.command_on(&self.data_root())
    }

    /// The same on another DATA-ROOT.
    pub fn command_on(&self, data_root: &Path) -> Command {
        let mut command = Command::new(environment::stos());
        command.env_remove("STOS_DATA_ROOT").env_remove("STOS_ROOT").stdin(Stdio::null());
        // Where netavark is installed a container would have a network of this machine's.
        command.env("STOS_NETWORK", "none");
        self.configure(&mut command);
        command.arg("--data-root").arg(data_root).arg("--root").arg(self.root());
        if let Some(backend) = self.backend {
            command.arg("--layerfs").arg(backend);
        }
        command
    }

    /// Leads a command to a configuration of the test's own: of this machine none counts, no `registries.conf` says anything,
    /// and every image is accepted.
    fn configure(&self, command: &mut Command) {
        for variable in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(variable).env_remove(variable.to_uppercase());
        }
        for variable in
            ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "CONTAINERS_POLICY_CONF", "XDG_CACHE_HOME", "INVOCATION_ID"]
        {
            command.env_remove(variable);
        }
        let home = self.home();
        let registries = home.join("registries.conf");
        // Where a user's are there, the machine's do not count.
        let policy = home.join(".config/containers/policy.json");
        for directory in [&home.join("run"), &home.join(".config/containers/registries.d")] {
            fs::create_dir_all(directory).unwrap();
        }
        for (path, text) in [(&registries, ""), (&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)] {
            if !path.exists() {
                fs::write(path, text).unwrap();
            }
        }
        command
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .env("XDG_RUNTIME_DIR", home.join("run"));
        command.env("CONTAINERS_REGISTRIES_CONF", registries);
    }

    /// The user's directory, with `registries.conf`, `.config` and `run` (what a logout of the machine may lose).
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Runs it.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Output {
        output(self.command().args(arguments))
    }

    /// Runs it and gives what it printed.
    ///
    /// # Panics
    /// Where it fails.
    #[track_caller]
    pub fn ok<A: AsRef<OsStr> + std::fmt::Debug>(&self, arguments: &[A]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {}", output.stderr);
        output.stdout
    }

    /// Runs it and gives the JSON that it printed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }

    /// Pulls from a registry on loopback and gives the digest that it printed.
    #[track_caller]
    pub fn pull(&self, reference: &str) -> String {
        self.ok(&["pull", "--tls-verify=false", reference]).trim().to_owned()
    }

    /// A directory for `--cert-dir` with an authority's certificate in PEM, or with nothing.
    pub fn certs(&self, authority: Option<&str>) -> String {
        let directory = self.path("certs");
        fs::create_dir_all(&directory).unwrap();
        if let Some(pem) = authority {
            fs::write(directory.join("ca.crt"), pem).unwrap();
        }
        directory.into_os_string().into_string().unwrap()
    }

    /// The directory of a layer.
    pub fn layer_dir(&self, diff_id: &str) -> PathBuf {
        self.data_root().join("layers/sha256").join(diff_id.trim_start_matches("sha256:"))
    }

    /// The directory of a chain.
    pub fn chain_dir(&self, chain_id: &str) -> PathBuf {
        self.data_root().join("chains/sha256").join(chain_id.trim_start_matches("sha256:"))
    }

    /// The names in a directory of DATA-ROOT, sorted.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.data_root().join(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The mount points of a filesystem type below both roots, as the host sees them: other tests mount at the same time.
    pub fn mounts(&self, fstype: &str) -> Vec<PathBuf> {
        let root = fs::canonicalize(self.dir.path()).unwrap();
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mine = fields.filter(|fields| Path::new(fields[1]).starts_with(&root));
        mine.filter(|fields| fstype.is_empty() || fields[2] == fstype).map(|fields| fields[1].into()).collect()
    }

    /// All of DATA-ROOT, to be compared later; see [`stable`].
    pub fn listing(&self) -> Tree {
        stable(&self.data_root())
    }

    /// All of ROOT but for the events, which grow with whatever succeeds.
    pub fn run_listing(&self) -> Tree {
        let mut tree = stable(&self.root());
        tree.nodes.retain(|path, _| !path.starts_with(b"events/"));
        tree
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // What a failed test leaves must not outlive it; there is nobody to tell if it does.
        if let Ok(containers) = fs::read_dir(self.data_root().join("containers")) {
            let ids: Vec<_> = containers.flatten().map(|entry| entry.file_name()).collect();
            for id in ids {
                self.run(&[OsStr::new("delete"), OsStr::new("--force"), &id]);
            }
        }
        for mount in self.mounts("").iter().rev() {
            drop(stos_sys::mount::detach(mount));
        }
    }
}

/// A registry of the test's own, and the files that it serves.
pub struct Hub {
    /// The registry.
    pub registry: Registry,
    layouts: tempfile::TempDir,
}

impl Hub {
    /// Starts one that speaks plain HTTP with everyone.
    pub fn new() -> Self {
        Self::with(registry::Options::default())
    }

    /// Starts one with options of its own.
    pub fn with(options: registry::Options) -> Self {
        Self { registry: Registry::start(options), layouts: tempfile::tempdir().unwrap() }
    }

    /// Serves an image, faults included, and gives the reference.
    pub fn serve(&self, image: &Image, repository: &str, tag: &str) -> String {
        self.serve_layout(repository, tag, |layout| image.write_layout(layout, tag))
    }

    /// Serves an index over images.
    pub fn serve_index(&self, index: &Blob, images: &[&Image], repository: &str, tag: &str) -> String {
        self.serve_layout(repository, tag, |layout| Image::write_index_layout(index, images, layout, tag))
    }

    fn serve_layout(&self, repository: &str, tag: &str, write: impl Fn(&Path) -> io::Result<()>) -> String {
        let layout = tempfile::tempdir_in(self.layouts.path()).unwrap().keep();
        write(&layout).unwrap();
        self.registry.serve_layout(&layout, repository).unwrap();
        format!("{}/{repository}:{tag}", self.registry.address())
    }

    /// How often blobs were asked for since the last time, by digest.
    pub fn take_blob_requests(&self) -> Vec<String> {
        let requests = self.registry.take_requests();
        let blobs = requests.iter().filter(|request| request.starts_with("GET "));
        blobs.filter_map(|request| Some(request.split_once("/blobs/")?.1.to_owned())).collect()
    }
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a tool and gives what it printed.
///
/// # Panics
/// Where it fails.
#[track_caller]
pub fn tool<A: AsRef<OsStr>>(name: &str, arguments: &[A]) -> String {
    let program = environment::tool(name).unwrap_or_else(|| panic!("{name} is not installed"));
    let output = output(Command::new(program).args(arguments));
    assert_eq!(output.code, 0, "{name}: {}{}", output.stdout, output.stderr);
    output.stdout
}

/// A tree but for what no command can leave alone: a directory's mtime tells that something was made in it and is gone
/// again. Everything else of it counts: names, contents, modes, owners, and the mtimes of files.
pub fn stable(root: &Path) -> Tree {
    let mut tree = Tree::read(root, &Options::default()).unwrap();
    for node in tree.nodes.values_mut().filter(|node| node.kind == "directory") {
        node.mtime = (0, 0);
    }
    tree
}
