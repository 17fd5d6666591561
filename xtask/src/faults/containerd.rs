// SPDX-License-Identifier: Apache-2.0 OR MIT
//! containerd under the same faults: its pull, which the daemon does, with the daemon killed or without room at points spread over all that
//! it changes from its start on.

use std::process::Command;

use anyhow::{Context, ensure};

use super::peers::{HANGS, SLACK, Store, strike_evenly};
use super::tracer::Traced;
use crate::place::disk_use;
use crate::process::output;
use crate::setup;

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

/// What the store is called before the pull.
const BEFORE: &str = "before";

struct Containerd(Store);

/// Strikes at so many points of a pull, killed and with a full disk, and prints what containerd loses.
pub fn run(points: usize) -> anyhow::Result<()> {
    let containerd = Containerd::new()?;
    println!("{}", output(setup::peers::command(&["containerd", "--version"].map(str::to_owned)))?.trim());
    containerd.strike_evenly(points)
}

impl Containerd {
    fn new() -> anyhow::Result<Self> {
        let containerd = Self(Store::new()?);
        output(containerd.command(PULL, &containerd.0.kept))?;
        containerd.0.keep(BEFORE)?;
        Ok(containerd)
    }

    fn command(&self, script: &str, image: &str) -> Command {
        let mut command = setup::peers::command(&["sh", "-c", WITH_DAEMON, "sh", script].map(str::to_owned));
        command.env("STORE", self.0.seen("store")).env("IMAGE", image);
        // Its sockets' paths are short.
        command.env("STATE", format!("/run/stos-faults-{}", std::process::id()));
        command
    }

    fn strike_evenly(&self, points: usize) -> anyhow::Result<()> {
        let pull = |strike| self.0.trace(&self.command(PULL, &self.0.small), "containerd", strike);
        let restore = || self.0.restore(BEFORE);
        restore()?;
        let whole = pull(None)?;
        ensure!(whole.succeeded(), "containerd's pull without a fault: {}", whole.stderr);
        ensure!(self.marker(&self.0.small)?.is_none(), "containerd's image without a fault");
        let losses = |traced: Option<&Traced>, bytes| self.losses(traced.map(Traced::succeeded), bytes);
        strike_evenly("pull", points, whole.points.len(), restore, pull, losses)
    }

    /// What is wrong with an image; `None` where its marker is right.
    fn marker(&self, image: &str) -> anyhow::Result<Option<String>> {
        let expected = if image == self.0.kept { "kept\n" } else { "small\n" };
        let shown = self.command(MARKER, image).output().context("running ctr")?;
        let (said, why) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
        let why = why.lines().next_back().unwrap_or_default().replace(image, "IMAGE");
        Ok((said != expected).then(|| if why.is_empty() { format!("its file says {said:?}") } else { why }))
    }

    /// `succeeded` is what the pull said; `None` where it hung.
    fn losses(&self, succeeded: Option<bool>, bytes: u64) -> anyhow::Result<Vec<String>> {
        let mut losses = Vec::new();
        if succeeded.is_none() {
            losses.push(HANGS.to_owned());
        }
        if let Some(why) = self.marker(&self.0.kept)? {
            losses.push(format!("an image that was there before cannot be used: {why}"));
        }
        if succeeded == Some(true)
            && let Some(why) = self.marker(&self.0.small)?
        {
            losses.push(format!("it succeeded, and the image cannot be used: {why}"));
        }
        let again = self.command(PULL, &self.0.small).output().context("running ctr")?;
        if !again.status.success() {
            losses.push("the same pull fails afterwards".to_owned());
        } else if let Some(why) = self.marker(&self.0.small)? {
            losses.push(format!("the image of the next pull cannot be used: {why}"));
        }
        self.command(REMOVE, &self.0.small).output().context("running ctr")?;
        if disk_use(&self.0.store())? > bytes + SLACK {
            losses.push("bytes stay after the image is removed and the content pruned".to_owned());
        }
        Ok(losses)
    }
}
