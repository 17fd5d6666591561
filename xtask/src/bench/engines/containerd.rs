// SPDX-License-Identifier: Apache-2.0 OR MIT
//! containerd, by its own client `ctr`, with one of its snapshotters or stos's, and runc. Daemons are started once beforehand: that is not
//! charged.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;

use super::{Act, Engine, STAY};

/// A running containerd; it ends when this is dropped.
pub struct Containerd {
    name: String,
    place: PathBuf,
    state: PathBuf,
    snapshotter: &'static str,
    daemon: Child,
    /// That of stos.
    proxy: Option<Child>,
}

impl Containerd {
    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// Where it does not; its log is named.
    pub fn start(name: &str, place: PathBuf, snapshotter: &'static str) -> anyhow::Result<Self> {
        Self::start_by(name, place, snapshotter, None)
    }

    /// The same with stos's snapshotter, which is that program.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with_stos(name: &str, place: PathBuf, program: &Path) -> anyhow::Result<Self> {
        Self::start_by(name, place, "stos", Some(program))
    }

    fn start_by(name: &str, place: PathBuf, snapshotter: &'static str, program: Option<&Path>) -> anyhow::Result<Self> {
        // Its sockets' paths are short.
        let state = PathBuf::from(format!("/run/stos-bench-{}-{snapshotter}", std::process::id()));
        fs::create_dir_all(&state)?;
        fs::create_dir_all(&place)?;
        let (shown, root) = (state.display(), place.join("root"));
        let cri = r#"["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"]"#;
        let mut config = format!(
            "version = 3\nroot = {root:?}\nstate = \"{shown}/state\"\ndisabled_plugins = {cri}\n\
             [grpc]\naddress = \"{shown}/sock\"\n[ttrpc]\naddress = \"{shown}/ttrpc\"\n"
        );
        if snapshotter == "erofs" {
            // As its documentation has it: layers become EROFS images as they are applied.
            config.push_str(
                "[plugins.'io.containerd.service.v1.diff-service']\ndefault = [\"erofs\", \"walking\"]\n\
                 sync_fs = false\n",
            );
        }
        if program.is_some() {
            let (arch, plugin) = (stos_testkit::image_builder::architecture(), "io.containerd.transfer.v1.local");
            config.push_str(&format!(
                "[proxy_plugins.stos]\ntype = \"snapshot\"\naddress = \"{shown}/stos.sock\"\n\
                 [proxy_plugins.stos.exports]\nenable_remote_snapshot_annotations = \"true\"\n\
                 [[plugins.'{plugin}'.unpack_config]]\nplatform = \"linux/{arch}\"\nsnapshotter = \"stos\"\n"
            ));
        }
        let proxy = program.map(|program| start_proxy(program, &state, &place)).transpose()?;
        let (path, log) = (state.join("config.toml"), place.join("log"));
        fs::write(&path, config)?;
        let file = File::create(&log)?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&path).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let daemon = command.spawn().context("running containerd")?;
        let started = Self { name: name.to_owned(), place, state, snapshotter, daemon, proxy };
        for _ in 0..200 {
            let mut version = started.ctr(&["version"]);
            if version.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
                return Ok(started);
            }
            sleep(Duration::from_millis(50));
        }
        anyhow::bail!("containerd does not answer: {}", fs::read_to_string(&log).unwrap_or_default())
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.state.join("sock")).args(arguments);
        command
    }

    /// Cgroups are called by the container alone, and there are two daemons.
    fn own(&self, name: &str) -> String {
        format!("{}-{name}", self.snapshotter)
    }

    fn of_image(&self, verb: &[&str], name: &str, image: &str, words: &[&str]) -> Command {
        let mut command = self.ctr(verb);
        command.args(["--snapshotter", self.snapshotter, "--user", "0", image, &self.own(name)]).args(words);
        command
    }
}

impl Engine for Containerd {
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> &Path {
        &self.place
    }

    fn daemon(&self) -> Option<u32> {
        Some(self.daemon.id())
    }

    fn commands(&self, act: Act<'_>) -> Option<Vec<Command>> {
        let one = |arguments: &[&str]| vec![self.ctr(arguments)];
        Some(match act {
            // The service that pulls by default knows only the default snapshotter.
            Act::Pull(image) if self.snapshotter == "erofs" => {
                one(&["image", "pull", "--local", "--snapshotter", "erofs", "--plain-http", image])
            }
            Act::Pull(image) if self.proxy.is_some() => {
                one(&["image", "pull", "--snapshotter", "stos", "--plain-http", image])
            }
            Act::Pull(image) => one(&["image", "pull", "--plain-http", image]),
            Act::RemoveImage(image) => one(&["image", "rm", "--sync", image]),
            Act::Create(image, name, words) => vec![self.of_image(&["container", "create"], name, image, words)],
            Act::StartAttached(name) => one(&["task", "start", &self.own(name)]),
            Act::Run(image, name, words) => vec![self.of_image(&["run", "--rm"], name, image, words)],
            Act::Spawn(image, name) => vec![self.of_image(&["run", "--detach"], name, image, &STAY)],
            Act::Exec(name, words) => {
                let mut command = self.ctr(&["task", "exec", "--exec-id", "further", &self.own(name)]);
                command.args(words);
                vec![command]
            }
            // It kills, waits, and removes the task; the container stays.
            Act::Stop(name) => one(&["task", "delete", "--force", &self.own(name)]),
            Act::Delete(name) => one(&["container", "rm", &self.own(name)]),
            Act::Destroy(name) => {
                let mut both = one(&["task", "delete", "--force", &self.own(name)]);
                both.extend(one(&["container", "rm", &self.own(name)]));
                both
            }
            Act::Nothing => one(&["version"]),
        })
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.daemon.id().cast_signed());
        // Gone already is as good.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        drop(self.daemon.wait());
        end_shims(&self.state);
        if let Some(mut proxy) = self.proxy.take() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(proxy.id().cast_signed()),
                nix::sys::signal::Signal::SIGTERM,
            );
            drop(proxy.wait());
        }
        crate::place::detach_below(&self.state);
        drop(fs::remove_dir_all(&self.state));
    }
}

/// Starts stos's snapshotter, with a store in `place`.
fn start_proxy(program: &Path, state: &Path, place: &Path) -> anyhow::Result<Child> {
    let config = state.join("stos.toml");
    fs::write(&config, "[registry]\ntls-verify = false\n")?;
    let mut command = Command::new(program);
    command.arg("--address").arg(state.join("stos.sock")).arg("--data-root").arg(place.join("stos"));
    command.arg("--root").arg(state.join("stos")).arg("--config").arg(&config);
    command.stdin(Stdio::null()).stderr(File::create(place.join("stos.log"))?);
    command.spawn().with_context(|| program.display().to_string())
}

/// Ends the shims that outlive the daemon: those whose command line names its socket.
fn end_shims(state: &Path) {
    let socket = state.display().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if words.contains("containerd-shim") && words.contains(&socket) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
