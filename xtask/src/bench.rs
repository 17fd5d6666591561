// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench`: stos beside the other engines, in turn, in one run; medians and ratios.
//!
//! Times vary with the machine and the hour, ratios of one run do not: quote those. All engines work on one new ext4 with a
//! journal, in a file of the host's: on the host's own filesystem the times hang on its history (ext4 without a journal
//! steps over every inode freed in the last minutes).

mod network;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::environment;

use crate::process::output;
use crate::setup;
use crate::workspace::build_release;

/// How often a container is created for a median.
const CREATES: usize = 41;
/// The bytes of the filesystem that all engines work on: several times what any of them needs.
const DISK_SIZE: u64 = 8 << 30;

/// Pulls `image` with containerd and removes it; prints nanoseconds until it says so, until all is on disk, and of the removal.
/// The daemon's start is not charged.
const CONTAINERD: &str = r#"dir=$1 ref=$2
mkdir -p "$dir"
printf 'version = 3\nroot = "%s/root"\nstate = "%s/state"\ndisabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s/sock"\n' "$dir" "$dir" "$dir" >"$dir/config.toml"
containerd --config "$dir/config.toml" >"$dir/log" 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon 2>/dev/null || true' EXIT
for i in $(seq 100); do ctr -a "$dir/sock" version >/dev/null 2>&1 && break; sleep 0.1; done
start=$(date +%s%N)
ctr -a "$dir/sock" image pull --plain-http "$ref" >"$dir/pull.log" 2>&1 || { cat "$dir/pull.log" >&2; exit 1; }
end=$(date +%s%N)
sync -f "$dir"
durable=$(date +%s%N)
ctr -a "$dir/sock" image rm --sync "$ref" >/dev/null
echo $((end - start)) $((durable - start)) $(($(date +%s%N) - durable))"#;

/// Pulls `image` with podman; prints the same.
const PODMAN: &str = r#"dir=$1 ref=$2
mkdir -p "$dir"
start=$(date +%s%N)
podman --root "$dir/root" --runroot "$dir/run" --storage-driver overlay pull -q --tls-verify=false "$ref" >/dev/null
end=$(date +%s%N)
sync -f "$dir"
durable=$(date +%s%N)
podman --root "$dir/root" --runroot "$dir/run" --storage-driver overlay rmi -a -f >/dev/null
echo $((end - start)) $((durable - start)) $(($(date +%s%N) - durable))"#;

/// Measures cold pulls of sci:2, pulls of what is there, pushes, and creates from deb:12 and many:100.
pub fn run(rounds: usize) -> anyhow::Result<()> {
    anyhow::ensure!(rounds > 0, "expected at least one round");
    setup::run(false)?;
    let binary = build_release()?;
    let registry = DockerRegistry::start_over_cache()?;
    let disk = Disk::new()?;
    let bench = Bench { binary, disk, address: registry.address().to_owned() };
    bench.versions()?;
    bench.pulls(rounds)?;
    bench.present_pulls()?;
    bench.pushes(rounds)?;
    bench.creates()
}

/// A filesystem of the benchmark's own, gone when dropped.
struct Disk {
    directory: tempfile::TempDir,
    device: String,
}

impl Disk {
    fn new() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("stos-bench-").tempdir_in("/var/tmp")?;
        let (image, place) = (directory.path().join("image"), directory.path().join("disk"));
        // Written once: the first write to a hole or to preallocated blocks costs several times the second.
        let mut file = fs::File::create(&image)?;
        std::io::copy(&mut std::io::repeat(0).take(DISK_SIZE), &mut file)
            .with_context(|| image.display().to_string())?;
        file.sync_all()?;
        fs::create_dir(&place)?;
        output(tool("mkfs.ext4")?.args(["-q", "-E", "nodiscard"]).arg(&image))?;
        let device = output(tool("losetup")?.args(["--direct-io=on", "--find", "--show"]).arg(&image))?;
        let disk = Self { directory, device: device.trim().to_owned() };
        output(tool("mount")?.arg(&disk.device).arg(&place))?;
        Ok(disk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("disk").join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = tool("umount").and_then(|mut umount| output(umount.arg(self.path(""))));
        let detached = tool("losetup").and_then(|mut losetup| output(losetup.arg("--detach").arg(&self.device)));
        if let Err(error) = unmounted.and(detached) {
            eprintln!("the benchmark's filesystem stays: {error:#}");
        }
    }
}

fn tool(name: &str) -> anyhow::Result<Command> {
    environment::tool(name).map(Command::new).with_context(|| format!("{name} is not there"))
}

/// How long a pull took.
struct Pull {
    /// Until the engine said that it had the image.
    done: Duration,
    /// Until the image would have outlasted a power cut: stos says so only then, the others say nothing of it.
    durable: Duration,
    /// The removal of the image afterwards.
    removed: Duration,
}

struct Bench {
    binary: PathBuf,
    disk: Disk,
    address: String,
}

impl Bench {
    fn versions(&self) -> anyhow::Result<()> {
        println!("kernel {}", output(uname())?.trim());
        if has_peers() {
            let script = "podman --version; containerd --version | cut -d' ' -f1-3";
            print!("{}", output(setup::peers::command(&["sh".into(), "-c".into(), script.into()]))?);
        } else {
            println!("no peers: `cargo xtask setup --peers` installs them");
        }
        Ok(())
    }

    fn stos(&self, place: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--data-root").arg(place.join("data")).arg("--root").arg(place.join("run"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Each round pulls with every engine once, into nothing.
    fn pulls(&self, rounds: usize) -> anyhow::Result<()> {
        let reference = format!("{}/sci:2", self.address);
        let mut engines = ["stos", "stos dirs", "containerd", "podman"].map(|name| (name, Vec::<Pull>::new()));
        for round in 0..rounds {
            for (name, taken) in &mut engines {
                if !name.starts_with("stos") && !has_peers() {
                    continue;
                }
                let place = self.disk.path(&format!("{}-{round}", name.replace(' ', "-")));
                write_back();
                taken.push(match *name {
                    "stos" => self.pull_with_stos(&place, "erofs", &reference)?,
                    "stos dirs" => self.pull_with_stos(&place, "dirs", &reference)?,
                    "containerd" => pull_with_peer(CONTAINERD, &place, &reference)?,
                    _ => pull_with_peer(PODMAN, &place, &reference)?,
                });
                fs::remove_dir_all(&place).with_context(|| place.display().to_string())?;
            }
        }
        println!("\ncold pull of sci:2 from docker-registry on loopback and its removal, {rounds} rounds in turn");
        println!("  {:<12} {:>10} {:>17}   {:>10} {:>17}   {:>10}", "", "done", "", "on disk", "", "removed");
        let middle = |taken: &[Pull], of: fn(&Pull) -> Duration| median(&taken.iter().map(of).collect::<Vec<_>>());
        let seconds = |taken: &[Pull]| {
            [middle(taken, |pull| pull.done), middle(taken, |pull| pull.durable), middle(taken, |pull| pull.removed)]
                .map(|time| time.as_secs_f64())
        };
        let own = seconds(&engines[0].1);
        for (name, taken) in engines.iter().filter(|(_, taken)| !taken.is_empty()) {
            let [done, durable, removed] = seconds(taken);
            let ratios = [done / own[0], durable / own[1], removed / own[2]];
            println!(
                "  {name:<12} {done:>8.2} s {:>9.2} × stos   {durable:>8.2} s {:>9.2} × stos   {removed:>8.3} s {:>9.2} × stos",
                ratios[0], ratios[1], ratios[2]
            );
        }
        Ok(())
    }

    fn pull_with_stos(&self, place: &Path, backend: &str, reference: &str) -> anyhow::Result<Pull> {
        let start = Instant::now();
        output(self.stos(place, &["--layerfs", backend, "pull", "--quiet", "--tls-verify=false", reference]))?;
        let done = start.elapsed();
        let mut sync = tool("sync")?;
        output(sync.arg("-f").arg(place))?;
        let durable = start.elapsed();
        output(self.stos(place, &["rmi", reference]))?;
        Ok(Pull { done, durable, removed: start.elapsed() - durable })
    }

    /// Creates from both images in turn; the time is that of the whole process.
    fn creates(&self) -> anyhow::Result<()> {
        let place = self.disk.path("create");
        let images = ["deb:12", "many:100"];
        let cases = [("deb:12", "erofs"), ("many:100", "erofs"), ("deb:12", "dirs"), ("many:100", "dirs")];
        for (image, backend) in cases {
            let reference = format!("{}/{image}", self.address);
            output(self.stos(&place, &["--layerfs", backend, "pull", "--quiet", "--tls-verify=false", &reference]))?;
            output(self.stos(&place, &["--layerfs", backend, "create", "--pull", "never", &reference]))?;
        }
        let mut times: [Vec<Duration>; 5] = Default::default();
        for _ in 0..CREATES {
            for ((image, backend), taken) in cases.iter().zip(&mut times) {
                let start = Instant::now();
                output(self.stos(&place, &["--layerfs", backend, "create", "--pull", "never", image]))?;
                taken.push(start.elapsed());
            }
            let start = Instant::now();
            output(Command::new("/bin/true"))?;
            times[4].push(start.elapsed());
        }
        let base = median(&times[0]);
        println!("\ncreate from a local image, {CREATES} times in turn, whole process, durable");
        let names = cases.map(|(image, backend)| format!("{image} {backend}")).into_iter();
        for (name, taken) in names.chain(["/bin/true".to_owned()]).zip(&times) {
            let middle = median(taken);
            let ratio = middle.as_secs_f64() / base.as_secs_f64();
            println!("  {name:<14} {:>8.2} ms  {ratio:>6.2} × deb:12", middle.as_secs_f64() * 1000.0);
        }
        let list = output(self.stos(&place, &["list", "--quiet"]))?;
        let mut delete = self.stos(&place, &["delete", "--force"]);
        delete.args(list.split_whitespace());
        output(delete)?;
        for image in images {
            // With its image the mount of its layers goes too.
            output(self.stos(&place, &["rmi", &format!("{}/{image}", self.address)]))?;
        }
        Ok(())
    }
}

fn pull_with_peer(script: &str, place: &Path, reference: &str) -> anyhow::Result<Pull> {
    let inside = format!("/host{}", place.display());
    let words = ["bash", "-euc", script, "bench", &inside, reference].map(str::to_owned);
    let printed = output(setup::peers::command(&words))?;
    let times = printed.split_whitespace().map(|word| word.parse().map(Duration::from_nanos));
    match times.collect::<Result<Vec<_>, _>>().as_deref() {
        Ok([done, durable, removed]) => Ok(Pull { done: *done, durable: *durable, removed: *removed }),
        _ => anyhow::bail!("the peer printed {printed:?}"),
    }
}

fn has_peers() -> bool {
    environment::cache().join("peers/ready").exists()
}

fn uname() -> Command {
    let mut command = Command::new("uname");
    command.arg("-rm");
    command
}

/// Writes back what is dirty, so that no engine pays for the one before it.
fn write_back() {
    // A benchmark without it is only noisier.
    let _ = Command::new("sync").status();
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let times = [3, 1, 2].map(Duration::from_secs);
        assert_eq!(median(&times), Duration::from_secs(2));
        assert_eq!(median(&[]), Duration::ZERO);
    }
}
