// SPDX-License-Identifier: Apache-2.0 OR MIT
//! containerd under the same faults: its pull, which the daemon does, with the daemon killed or without room at points spread over all that
//! it changes from its start on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use nix::errno::Errno;
use stos_testkit::registry::{Options, Registry};

use super::peers::{SLACK, size};
use super::tracer::{Fault, trace};
use crate::process::{Run, output};
use crate::setup;
use crate::small_images::{base, image, publish};

/// Starts the daemon on the store in `$STORE`, runs `$1`, and ends it; exits as `$1` did.
const WITH_DAEMON: &str = r#"mkdir -p "$STORE" "$STATE"
# One that was killed has left its socket.
rm -f "$STATE/sock" "$STATE/ttrpc"
printf 'version = 3\nroot = "%s/root"\nstate = "%s/state"\ndisabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s/sock"\n[ttrpc]\naddress = "%s/ttrpc"\n' "$STORE" "$STATE" "$STATE" "$STATE" >"$STATE/config.toml"
containerd --config "$STATE/config.toml" >"$STATE/log" 2>&1 &
daemon=$!
ctr() { command ctr --address "$STATE/sock" "$@"; }
for _ in $(seq 200); do [ -S "$STATE/sock" ] && break; kill -0 $daemon 2>/dev/null || break; sleep 0.02; done
eval "$1"
code=$?
kill $daemon 2>/dev/null
wait $daemon 2>/dev/null
exit $code"#;

/// Brings the image `$IMAGE`.
const PULL: &str = "ctr images pull --plain-http \"$IMAGE\" >/dev/null";
/// Prints the marker of the image `$IMAGE`.
const MARKER: &str = r#"mkdir -p "$STATE/mnt"; ctr images mount "$IMAGE" "$STATE/mnt" >/dev/null && cat "$STATE/mnt/srv/marker"; code=$?; ctr images unmount --rm "$STATE/mnt" >/dev/null 2>&1; (exit $code)"#;
/// Removes the image `$IMAGE`, and waits for the sweep.
const REMOVE: &str = "ctr images rm --sync \"$IMAGE\" >/dev/null; ctr content prune references >/dev/null";

struct Containerd {
    scratch: tempfile::TempDir,
    _registry: Registry,
    small: String,
    kept: String,
}

/// Strikes at so many points of a pull, killed and with a full disk, and prints what containerd loses.
pub fn run(points: usize) -> anyhow::Result<()> {
    let containerd = Containerd::new()?;
    println!("{}", output(setup::peers::command(&["containerd", "--version"].map(str::to_owned)))?.trim());
    containerd.strike_evenly(points)
}

impl Containerd {
    fn new() -> anyhow::Result<Self> {
        let registry = Registry::start(Options::default());
        let base = base()?;
        let (small, kept) = (
            publish(&registry, "small", &image(&base, "small\n")),
            publish(&registry, "kept", &image(&base, "kept\n")),
        );
        let scratch = tempfile::Builder::new().prefix("stos-peers-").tempdir_in("/var/tmp")?;
        let containerd = Self { scratch, _registry: registry, small, kept };
        std::fs::create_dir(containerd.scratch.path().join("trace"))?;
        output(containerd.command(PULL, &containerd.kept))?;
        Command::new("cp").arg("-a").arg(containerd.store()).arg(containerd.scratch.path().join("before")).run()?;
        Ok(containerd)
    }

    fn store(&self) -> PathBuf {
        self.scratch.path().join("store")
    }

    fn command(&self, script: &str, image: &str) -> Command {
        let mut command = setup::peers::command(&["sh", "-c", WITH_DAEMON, "sh", script].map(str::to_owned));
        command.env("STORE", format!("/host{}", self.store().display())).env("IMAGE", image);
        // Its sockets' paths are short.
        command.env("STATE", format!("/run/stos-faults-{}", std::process::id()));
        command
    }

    fn restore(&self) -> anyhow::Result<u64> {
        Command::new("rm").arg("-rf").arg(self.store()).run()?;
        Command::new("cp").arg("-a").arg(self.scratch.path().join("before")).arg(self.store()).run()?;
        size(&self.store())
    }

    fn strike_evenly(&self, points: usize) -> anyhow::Result<()> {
        let trace_directory = self.scratch.path().join("trace");
        let pull = |strike| trace(&self.command(PULL, &self.small), "containerd", strike, &trace_directory);
        self.restore()?;
        let whole = pull(None)?;
        ensure!(whole.succeeded(), "containerd's pull without a fault: {}", whole.stderr);
        ensure!(self.marker(&self.small)?.is_none(), "containerd's image without a fault");
        let calls = whole.points.len();
        let (mut faults, mut losses) = (0, BTreeMap::<String, usize>::new());
        for number in 0..points {
            for fault in [Fault::Kill, Fault::Error(Errno::ENOSPC)] {
                let bytes = self.restore()?;
                let traced = match pull(Some((calls * (2 * number + 1) / (2 * points), fault))) {
                    Ok(traced) if traced.struck.is_none() => continue,
                    Ok(traced) => Some(traced),
                    Err(error) if error.to_string().starts_with("it hung") => None,
                    Err(error) => return Err(error),
                };
                faults += 1;
                for loss in self.losses(traced.as_ref().map(|traced| traced.succeeded()), bytes)? {
                    *losses.entry(format!("{fault}: {loss}")).or_default() += 1;
                }
            }
        }
        let survived = if losses.is_empty() { "all" } else { "not all" };
        println!("{:<8} {calls:>7} {faults:>7} {survived:>9}", "pull");
        for (loss, count) in &losses {
            println!("{count:>5} × {loss}");
        }
        Ok(())
    }

    /// What is wrong with an image; `None` where its marker is right.
    fn marker(&self, image: &str) -> anyhow::Result<Option<String>> {
        let expected = if image == self.kept { "kept\n" } else { "small\n" };
        let shown = self.command(MARKER, image).output().context("running ctr")?;
        let (said, why) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
        let why = why.lines().next_back().unwrap_or_default().replace(image, "IMAGE");
        Ok((said != expected).then(|| if why.is_empty() { format!("its file says {said:?}") } else { why }))
    }

    /// `succeeded` is what the pull said; `None` where it hung.
    fn losses(&self, succeeded: Option<bool>, bytes: u64) -> anyhow::Result<Vec<String>> {
        let mut losses = Vec::new();
        if succeeded.is_none() {
            losses.push("it hangs for a minute, and is killed".to_owned());
        }
        if let Some(why) = self.marker(&self.kept)? {
            losses.push(format!("an image that was there before cannot be used: {why}"));
        }
        if succeeded == Some(true)
            && let Some(why) = self.marker(&self.small)?
        {
            losses.push(format!("it succeeded, and the image cannot be used: {why}"));
        }
        let again = self.command(PULL, &self.small).output().context("running ctr")?;
        if !again.status.success() {
            losses.push("the same pull fails afterwards".to_owned());
        } else if let Some(why) = self.marker(&self.small)? {
            losses.push(format!("the image of the next pull cannot be used: {why}"));
        }
        self.command(REMOVE, &self.small).output().context("running ctr")?;
        if size(&self.store())? > bytes + SLACK {
            losses.push("bytes stay after the image is removed and the content pruned".to_owned());
        }
        Ok(losses)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = Command::new("rm").arg("-rf").arg(self.scratch.path()).status();
    }
}
