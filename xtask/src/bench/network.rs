// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What hangs on the network: a pull of what is there, and a push.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use stos_testkit::docker_registry::{DockerRegistry, DockerRegistryOptions};
use stos_testkit::environment;
use stos_testkit::proxy::{self, Proxy};

use super::{Bench, has_peers, median, tool, write_back};
use crate::process::output;
use crate::setup;

/// How often an image that is there is pulled for a median.
const PRESENT_PULLS: usize = 21;

/// How long a byte takes to the registry, and one back.
const LATENCY: Duration = Duration::from_millis(50);

/// Pulls `from` and pushes it to `to` with podman; prints nanoseconds of the push.
const PODMAN_PUSH: &str = r#"dir=$1 from=$2 to=$3
mkdir -p "$dir"
podman() { command podman --root "$dir/root" --runroot "$dir/run" --storage-driver overlay "$@"; }
podman pull -q --tls-verify=false "$from" >/dev/null
sync -f "$dir"
start=$(date +%s%N)
podman push -q --tls-verify=false "$from" "$to" >/dev/null
echo $(($(date +%s%N) - start))
podman rmi -a -f >/dev/null"#;

impl Bench {
    /// Pulls an image that is there through a way with latency, and asks for its manifest with curl, in turn.
    pub(super) fn present_pulls(&self) -> anyhow::Result<()> {
        println!(
            "\npull of deb:12 where it is there, {LATENCY:?} each way, {PRESENT_PULLS} times in turn, whole process"
        );
        for tls in [false, true] {
            let options = DockerRegistryOptions { read_only: true, tls, ..DockerRegistryOptions::default() };
            let registry = DockerRegistry::start_with(&environment::registry_storage(), options)?;
            let way = proxy::Options { latency: LATENCY, ..proxy::Options::default() };
            let proxy = Proxy::start(registry.address(), way);
            let place = self.disk.path("present");
            let certs = self.disk.path("certs");
            fs::create_dir_all(&certs)?;
            let ca = certs.join("ca.crt");
            fs::write(&ca, registry.ca_pem().unwrap_or_default())?;
            let reference = format!("{}/deb:12", proxy.address());
            let trust = if tls { format!("--cert-dir={}", certs.display()) } else { "--tls-verify=false".to_owned() };
            let pull = || self.stos(&place, &["pull", "--quiet", &trust, &reference]);
            output(pull())?;
            let scheme = if tls { "https" } else { "http" };
            let url = format!("{scheme}://{}/v2/deb/manifests/12", proxy.address());
            let mut times: [Vec<Duration>; 2] = Default::default();
            for _ in 0..PRESENT_PULLS {
                let start = Instant::now();
                let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
                output(tool("curl")?.args(["-fsI", "-o", "/dev/null", "-H", accept, "--cacert"]).arg(&ca).arg(&url))?;
                times[0].push(start.elapsed());
                let start = Instant::now();
                output(pull())?;
                times[1].push(start.elapsed());
            }
            let base = median(&times[0]).as_secs_f64();
            for (name, taken) in ["curl -sI", "stos pull"].iter().zip(&times) {
                let middle = median(taken).as_secs_f64();
                println!("  {name:<9} {scheme:<5} {:>8.1} ms  {:>5.2} × curl", middle * 1000.0, middle / base);
            }
            output(self.stos(&place, &["rmi", &reference]))?;
        }
        Ok(())
    }

    /// Each round pushes with every engine once, to a registry that has nothing of it.
    pub(super) fn pushes(&self, rounds: usize) -> anyhow::Result<()> {
        let from = format!("{}/sci:2", self.address);
        let place = self.disk.path("push");
        output(self.stos(&place, &["pull", "--quiet", "--tls-verify=false", &from]))?;
        let names = ["stos gzip", "stos zstd", "stos none", "podman gzip"];
        let mut engines = names.map(|name| (name, Vec::<Duration>::new(), 0));
        for round in 0..rounds {
            for (name, taken, sent) in &mut engines {
                if name.starts_with("podman") && !has_peers() {
                    continue;
                }
                let storage = self.disk.path(&format!("pushed-{round}"));
                let registry = DockerRegistry::start_with(&storage, DockerRegistryOptions::default())?;
                let to = format!("{}/sci:2", registry.address());
                write_back();
                taken.push(match name.strip_prefix("stos ") {
                    Some(compress) => {
                        let start = Instant::now();
                        let compress = format!("--compress={compress}");
                        output(self.stos(&place, &["push", "--quiet", "--tls-verify=false", &compress, &from, &to]))?;
                        start.elapsed()
                    }
                    None => self.push_with_podman(&from, &to)?,
                });
                let bytes = output(tool("du")?.args(["-sb"]).arg(&storage))?;
                *sent = bytes.split_whitespace().next().unwrap_or_default().parse()?;
                drop(registry);
                fs::remove_dir_all(&storage)?;
            }
        }
        println!("\npush of sci:2 to an empty docker-registry on loopback, {rounds} rounds in turn");
        let base = median(&engines[0].1).as_secs_f64();
        for (name, taken, sent) in engines.iter().filter(|(_, taken, _)| !taken.is_empty()) {
            let middle = median(taken).as_secs_f64();
            println!("  {name:<12} {middle:>8.2} s  {:>6.2} × stos   {:>6} MB", middle / base, sent / 1_000_000);
        }
        output(self.stos(&place, &["rmi", &from]))?;
        Ok(())
    }

    fn push_with_podman(&self, from: &str, to: &str) -> anyhow::Result<Duration> {
        let place = self.disk.path("podman-push");
        let inside = format!("/host{}", place.display());
        let words = ["bash", "-euc", PODMAN_PUSH, "bench", &inside, from, to].map(str::to_owned);
        let mut command: Command = setup::peers::command(&words);
        let printed = output(&mut command)?;
        fs::remove_dir_all(&place)?;
        Ok(Duration::from_nanos(printed.trim().parse()?))
    }
}
