// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The real images that tests and benchmarks use, made by the tools that people use.
//!
//! ```text
//! deb:12    one layer, a Debian minbase root                     (about  95 MB compressed, 200 MB unpacked)
//! sci:2     that + python3, numpy, scipy, perl, git and an app   (about 540 MB compressed, 1.3 GB, 39,000 files)
//! many:100  deb:12 + 100 small layers                            (how things scale with layers)
//! redis:1   deb:12 + redis with a health check, docker's types   (a service with data)
//! redis:2   that + one layer                                     (its update)
//! ```
//!
//! Each stands on what the registry in the cache has, so a run that was cut short goes on where it stopped.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::environment;

use super::debian;
use crate::process::{Run, output, step};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SCIENCE: &str = "python3 python3-numpy python3-scipy perl git ca-certificates";
const SMALL_LAYERS: usize = 100;

/// Makes the images that are missing.
pub fn ensure(cache: &Path) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        environment::IMAGES.into_iter().filter(|image| environment::image_digest(image).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let workshop = Workshop::open(cache)?;
    for image in missing {
        step(&format!("making the image {image}"), || workshop.make(image))?;
    }
    workshop.close()
}

/// Where images are made: a registry over the cache's storage, and a store for buildah that is thrown away.
struct Workshop {
    cache: PathBuf,
    directory: PathBuf,
    registry: DockerRegistry,
}

impl Workshop {
    fn open(cache: &Path) -> anyhow::Result<Self> {
        let directory = cache.join("work");
        clear(&directory)?;
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)?;
        let registry = DockerRegistry::start(&environment::registry_storage()).context("starting docker-registry")?;
        Ok(Self { cache: cache.to_owned(), directory, registry })
    }

    fn close(self) -> anyhow::Result<()> {
        drop(self.registry);
        clear(&self.directory)
    }

    fn make(&self, image: &str) -> anyhow::Result<()> {
        match image {
            "deb:12" => self.make_debian(),
            "sci:2" => self.make_science(),
            "many:100" => self.make_many(),
            "redis:1" => self.make_redis(),
            "redis:2" => self.update_redis(),
            other => anyhow::bail!("there is no recipe for {other}"),
        }?;
        self.publish(image)
    }

    fn make_debian(&self) -> anyhow::Result<()> {
        let root = self.directory.join("minbase");
        let mut bootstrap = Command::new("debootstrap");
        bootstrap.args(["--variant=minbase", "bookworm"]).arg(&root).arg(debian::archive(&self.cache)?);
        bootstrap.run_logged(&self.log())?;
        let container = self.start_from("scratch")?;
        self.buildah(["add", "--quiet", &container, &root.display().to_string(), "/"])?;
        self.buildah(["config", "--cmd", r#"["bash"]"#, "--env", PATH, &container])?;
        self.commit(&container, "deb:12")
    }

    fn make_science(&self) -> anyhow::Result<()> {
        let container = self.start_from_registry("deb:12")?;
        let (update, options) = (debian::update_script(), debian::AS_ROOT.join(" "));
        let script = format!(
            "{update} && DEBIAN_FRONTEND=noninteractive apt-get {options} install --quiet --yes --no-install-recommends \
             {SCIENCE} && rm -rf /var/lib/apt/lists/*"
        );
        self.buildah(["run", "--network", "host", &container, "--", "sh", "-c", &script])?;
        self.commit(&container, "sci:1")?;
        let app = self.directory.join("app");
        write_app(&app)?;
        let container = self.start_from("localhost/sci:1")?;
        self.buildah(["add", "--quiet", &container, &app.display().to_string(), "/srv/app"])?;
        let settings = ["--entrypoint", r#"["python3","-c","print(42)"]"#, "--workingdir", "/srv/app"];
        let [entrypoint, entrypoint_value, directory, directory_value] = settings;
        self.buildah(["config", entrypoint, entrypoint_value, directory, directory_value, &container])?;
        self.buildah(["config", "--user", "1000:1000", "--env", "APP=1", &container])?;
        self.commit(&container, "sci:2")
    }

    fn make_many(&self) -> anyhow::Result<()> {
        let mut container = self.start_from_registry("deb:12")?;
        let file = self.directory.join("layer");
        for number in 1..=SMALL_LAYERS {
            fs::write(&file, format!("{number}\n"))?;
            self.buildah(["add", "--quiet", &container, &file.display().to_string(), &format!("/layers/{number}")])?;
            let name = format!("many:{number}");
            self.commit(&container, &name)?;
            if number < SMALL_LAYERS {
                container = self.start_from(&format!("localhost/{name}"))?;
            }
        }
        Ok(())
    }

    /// A service that keeps data in a volume, and says how it is.
    fn make_redis(&self) -> anyhow::Result<()> {
        let container = self.start_from_registry("deb:12")?;
        let (update, options) = (debian::update_script(), debian::AS_ROOT.join(" "));
        let script = format!(
            "{update} && DEBIAN_FRONTEND=noninteractive apt-get {options} install --quiet --yes --no-install-recommends \
             redis-server && rm -rf /var/lib/apt/lists/* && mkdir -p /data && chown redis:redis /data"
        );
        self.buildah(["run", "--network", "host", &container, "--", "sh", "-c", &script])?;
        let command = r#"["redis-server","--dir","/data","--appendonly","yes","--save","","--bind","127.0.0.1"]"#;
        self.buildah(["config", "--cmd", command, "--user", "redis", "--volume", "/data", &container])?;
        // OCI's configuration has no health check, docker's has.
        let check = ["config", "--healthcheck", "CMD-SHELL redis-cli ping | grep -q PONG"];
        let [config, option, healthcheck] = check;
        let times = ["--healthcheck-interval", "1s", "--healthcheck-timeout", "2s", "--healthcheck-retries", "2"];
        let [interval, one, timeout, two, retries, count] = times;
        self.buildah([config, option, healthcheck, interval, one, timeout, two, retries, count, &container])?;
        self.commit_as("docker", &container, "redis:1")
    }

    fn update_redis(&self) -> anyhow::Result<()> {
        let container = self.start_from_registry("redis:1")?;
        let file = self.directory.join("version");
        fs::write(&file, "2\n")?;
        self.buildah(["add", "--quiet", &container, &file.display().to_string(), "/version"])?;
        self.commit_as("docker", &container, "redis:2")
    }

    /// Pushes to the registry, copies to the layout, and writes the digest, in this order: the digest is the mark that all
    /// is there.
    fn publish(&self, image: &str) -> anyhow::Result<()> {
        let address = self.registry.address();
        let tag = environment::layout_tag(image);
        let file = self.directory.join("digest");
        let remote = format!("docker://{address}/{image}");
        let name = format!("localhost/{image}");
        self.buildah([
            "push",
            "--quiet",
            "--tls-verify=false",
            "--signature-policy",
            &self.policy(),
            "--digestfile",
            &file.display().to_string(),
            &name,
            &remote,
        ])?;
        let digest = fs::read_to_string(&file)?;
        // A layout has no docker types.
        if !image.starts_with("redis:") {
            let mut copy = Command::new("skopeo");
            let options = ["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--preserve-digests"];
            copy.args(options).arg(&remote);
            copy.arg(format!("oci:{}:{tag}", environment::layout().display())).run_logged(&self.log())?;
        }
        let images = self.cache.join("images");
        fs::create_dir_all(&images)?;
        let staged = images.join(".staged");
        fs::write(&staged, format!("{}\n", digest.trim()))?;
        fs::rename(staged, images.join(format!("{tag}.digest"))).map_err(Into::into)
    }

    fn start_from_registry(&self, image: &str) -> anyhow::Result<String> {
        self.start_from(&format!("docker://{}/{image}", self.registry.address()))
    }

    /// Starts a working container and gives its name.
    fn start_from(&self, image: &str) -> anyhow::Result<String> {
        let mut command = self.command();
        command.args(["from", "--quiet", "--tls-verify=false", "--signature-policy", &self.policy(), image]);
        Ok(output(command)?.trim().to_owned())
    }

    fn commit(&self, container: &str, name: &str) -> anyhow::Result<()> {
        self.commit_as("oci", container, name)
    }

    fn commit_as(&self, format: &str, container: &str, name: &str) -> anyhow::Result<()> {
        let name = format!("localhost/{name}");
        let policy = self.policy();
        self.buildah(["commit", "--quiet", "--rm", "--format", format, "--signature-policy", &policy, container, &name])
    }

    fn buildah<const N: usize>(&self, arguments: [&str; N]) -> anyhow::Result<()> {
        self.command().args(arguments).run_logged(&self.log())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("buildah");
        // A store of our own: the user's images stay out of it, and it goes away with the work directory.
        command.arg("--root").arg(self.directory.join("storage")).arg("--runroot").arg(self.directory.join("run"));
        command.env("BUILDAH_ISOLATION", "chroot").env("BUILDAH_HISTORY", "false");
        command
    }

    fn policy(&self) -> String {
        self.directory.join("policy.json").display().to_string()
    }

    fn log(&self) -> PathBuf {
        self.cache.join("images.log")
    }
}

/// Removes the work directory of this or an interrupted run, and what it has left mounted there.
fn clear(directory: &Path) -> anyhow::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|place| Path::new(place).starts_with(directory));
    for place in below.collect::<Vec<_>>().into_iter().rev() {
        output({
            let mut unmount = Command::new("umount");
            unmount.arg(place);
            unmount
        })?;
    }
    fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))
}

/// Writes 500 files of up to 8 kB in 20 directories: the same bytes and times on every machine.
fn write_app(directory: &Path) -> anyhow::Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut random = Random(0x5705_0001);
    for number in 1..=500 {
        let parent = directory.join(format!("d{}", number % 20));
        fs::create_dir_all(&parent)?;
        let bytes: Vec<u8> = (0..random.next() % 8000).map(|_| random.next() as u8).collect();
        let mut file = File::create(parent.join(format!("f{number}")))?;
        file.write_all(&bytes)?;
        file.set_modified(time)?;
    }
    Ok(())
}

/// Marsaglia's xorshift, 64 bits: enough for bytes that do not compress.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }
}

#[cfg(test)]
mod tests {
    use stos_testkit::tree::{Options, Tree};

    use super::*;

    #[test]
    fn the_app_is_the_same_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        write_app(&one).unwrap();
        write_app(&two).unwrap();
        let (one, two) = Tree::read_both(&one, &two, &Options::default()).unwrap();
        let files = |tree: &Tree| tree.nodes.values().filter(|node| node.kind == "file").cloned().collect::<Vec<_>>();
        assert_eq!(files(&one).len(), 500);
        assert!(files(&one) == files(&two), "two runs have written different files");
    }
}
