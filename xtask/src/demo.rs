// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask demo`: an image made from this machine's own shell goes to a registry on loopback, and from there becomes a
//! container. Needs nothing but Rust, root and a Linux with a shell; leaves nothing behind.

mod stages;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::registry::{self, Registry};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

use crate::process::output;
use crate::workspace::build_release;

/// What the container runs.
const SCRIPT: &str = r#"cat /srv/hello
echo "$(id -un) in $(pwd), process $$ of its own, on $(uname -s) $(uname -r)"
echo "the root has: $(echo /*)"
"#;

/// Runs the demo.
pub fn run() -> anyhow::Result<()> {
    anyhow::ensure!(Need::Root.unmet().is_none(), "a container needs root: run the demo as root");
    let binary = build_release()?;
    let storage = tempfile::tempdir()?;
    let registry = Loopback::start(storage.path())?;
    let image = hello_image()?;
    println!("\nstos: from an image reference to a running container\n");
    println!("  registry  {} on {}", registry.name(), registry.address());
    println!("  image     {} layers made from this machine's own shell\n", image.layers.len());
    println!("  {:<40} {:>10} {:>10}", "stage", "bytes", "ms");
    let start = Instant::now();
    image.push(&registry.address(), "demo/hello", "1")?;
    line("push", Some(stored_size(&image)), start.elapsed());
    let scene = Scene::new(binary)?;
    let reference = format!("{}/demo/hello:1", registry.address());
    let result = scene.play(&reference, &image);
    let cleaned = scene.leave();
    result.and(cleaned)
}

/// Two layers: the shell, and a greeting on top.
fn hello_image() -> anyhow::Result<Image> {
    let shell = rootfs::host_shell().context("making a root filesystem from this machine's shell")?;
    let greeting = TarBuilder::new()
        .entry(Entry::directory("srv"))
        .entry(Entry::file("srv/hello", "hello from a container\n").owner(1000, 1000))
        .finish();
    let builder = ImageBuilder::new().layer(Layer::gzip(shell)).layer(Layer::gzip(greeting));
    Ok(builder.command(&["/bin/sh", "-c", SCRIPT]).user("user").working_dir("/srv").build())
}

/// What goes over the wire: config, layers and manifest.
fn stored_size(image: &Image) -> u64 {
    image.blobs().chain([&image.manifest]).map(|blob| blob.size).sum()
}

/// The registry that the machine has: the real one, or the testkit's.
enum Loopback {
    Docker(DockerRegistry),
    Testkit(Registry),
}

impl Loopback {
    fn start(storage: &Path) -> anyhow::Result<Self> {
        if environment::tool("docker-registry").is_some() {
            return Ok(Self::Docker(DockerRegistry::start(storage)?));
        }
        Ok(Self::Testkit(Registry::start(registry::Options::default())))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Docker(_) => "docker-registry",
            Self::Testkit(_) => "the testkit's own",
        }
    }

    fn address(&self) -> String {
        match self {
            Self::Docker(registry) => registry.address().to_owned(),
            Self::Testkit(registry) => registry.address(),
        }
    }
}

/// A data-root and a root of their own.
struct Scene {
    binary: PathBuf,
    directory: tempfile::TempDir,
}

impl Scene {
    fn new(binary: PathBuf) -> anyhow::Result<Self> {
        // Not /tmp, which may be a tmpfs: EROFS cannot be mounted from a file on one.
        let directory = tempfile::Builder::new().prefix("stos-demo-").tempdir_in("/var/tmp")?;
        Ok(Self { binary, directory })
    }

    fn play(&self, reference: &str, image: &Image) -> anyhow::Result<()> {
        let digest = self.stage("pull", &["pull", "--tls-verify=false", reference], Some(stored_size(image)))?;
        anyhow::ensure!(
            digest.trim() == image.manifest.digest,
            "pull printed {digest}, expected {}",
            image.manifest.digest
        );
        self.stage("create", &["create", "--name", "hello", "--pull", "never", reference], None)?;
        self.stage("start", &["start", "hello"], None)?;
        let code = self.stage("wait", &["wait", "hello"], None)?;
        let said = self.stage("logs", &["logs", "hello"], None)?;
        self.stage("delete", &["delete", "hello"], None)?;
        self.stage("rmi", &["rmi", reference], None)?;
        println!("\n  {}", digest.trim());
        println!("  the container said, and left with exit code {}:\n", code.trim());
        for line in said.lines() {
            println!("    {line}");
        }
        println!();
        anyhow::ensure!(code.trim() == "0", "the container's exit code is {}, expected 0", code.trim());
        anyhow::ensure!(said.contains("hello from a container"), "the container has not said hello");
        Ok(())
    }

    /// Runs one command of stos and prints its time from outside, and below it its own stages. Gives its stdout.
    fn stage(&self, name: &str, arguments: &[&str], bytes: Option<u64>) -> anyhow::Result<String> {
        let log = self.directory.path().join("log.json");
        fs::write(&log, "")?;
        let mut command = Command::new(&self.binary);
        command.arg("--data-root").arg(self.path("data")).arg("--root").arg(self.path("run"));
        command.arg("--log").arg(&log).args(["--log-format", "json"]).args(arguments).stdin(Stdio::null());
        let start = Instant::now();
        let output = command.output().with_context(|| format!("running {}", self.binary.display()))?;
        let elapsed = start.elapsed();
        if !output.status.success() {
            // What stos says is what the reader needs, as it is.
            std::io::stderr().write_all(&output.stderr)?;
            anyhow::bail!("stos {}: {}", arguments.join(" "), output.status);
        }
        line(name, bytes, elapsed);
        for stage in stages::finished(&fs::read_to_string(&log)?) {
            line(&format!("{}· {}", "  ".repeat(stage.depth), stage.name), stage.bytes, stage.time);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Removes everything. A mount that stos has left is a fault: it is detached, and named.
    fn leave(self) -> anyhow::Result<()> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
        let left: Vec<&Path> = places.filter(|place| place.starts_with(self.directory.path())).collect();
        for place in left.iter().rev() {
            let mut unmount = Command::new("umount");
            unmount.arg("--lazy").arg(place);
            output(unmount)?;
        }
        self.directory.close().context("removing the demo's files")?;
        anyhow::ensure!(left.is_empty(), "stos has left mounts: {left:?}");
        Ok(())
    }
}

fn line(name: &str, bytes: Option<u64>, time: Duration) {
    let bytes = bytes.map_or(String::new(), readable);
    println!("  {name:<40} {bytes:>10} {:>10.1}", time.as_secs_f64() * 1000.0);
}

/// `1.6 MB`: powers of 1,000, one digit after the point.
fn readable(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([999, 1_000, 1_234_567].map(readable), ["999 B", "1.0 kB", "1.2 MB"]);
    }

    #[test]
    fn the_image_is_what_the_script_needs() {
        let image = hello_image().unwrap();
        assert_eq!(image.layers.len(), 2);
        assert!(stored_size(&image) > 100_000);
    }
}
