// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The newest of the other engines and tools, in a Debian sid root of their own, to be measured beside stos.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use stos_testkit::environment;

use super::debian;
use crate::process::{Run, output, step};

const PACKAGES: &str = "podman containerd crun runc umoci skopeo buildah netavark aardvark-dns nftables catatonit conmon erofs-utils busybox-static procps python3-minimal \
                        hyperfine jq time ca-certificates";

/// Enters the root in `$ROOT` within a mount namespace of its own, so nothing stays mounted, and becomes the command.
const ENTER: &str = r#"set -e
mkdir -p "$ROOT/host" "$ROOT/.old"
mount --bind "$ROOT" "$ROOT"
mount --rbind / "$ROOT/host"
for place in proc sys dev; do mount --rbind "/$place" "$ROOT/$place"; done
cd "$ROOT"
pivot_root . .old
cd /
umount -l /.old
exec "$@""#;

/// Makes the root where it is missing, and prints the versions of what is in it.
pub fn ensure(cache: &Path) -> anyhow::Result<()> {
    let (directory, log) = (cache.join("peers"), cache.join("peers.log"));
    let (root, ready) = (root(), directory.join("ready"));
    // It says which packages are there.
    if fs::read_to_string(&ready).ok().as_deref() != Some(PACKAGES) {
        fs::create_dir_all(&directory)?;
        let bootstrap = || {
            if root.exists() {
                fs::remove_dir_all(&root)?;
            }
            let mut bootstrap = Command::new("debootstrap");
            bootstrap.args(["--variant=minbase", "sid"]).arg(&root).arg(debian::archive(cache)?).run_logged(&log)
        };
        if !ready.exists() {
            step("bootstrapping Debian sid", bootstrap)?;
        }
        step("installing the peers in it", || {
            let (update, options) = (debian::update_script(), debian::AS_ROOT.join(" "));
            let install = format!("install --quiet --yes --no-install-recommends {PACKAGES}");
            let script = format!("{update} && apt-get {options} {install}");
            let mut chroot = Command::new("chroot");
            chroot.arg(&root).args(["sh", "-c", &script]).env("DEBIAN_FRONTEND", "noninteractive").run_logged(&log)
        })?;
        fs::write(&ready, PACKAGES)?;
    }
    let versions = "podman --version; containerd --version; crun --version | head -1; runc --version | head -1; \
                    umoci --version | head -1; skopeo --version";
    eprint!("{}", output(command(&["sh".into(), "-c".into(), versions.into()]))?);
    Ok(())
}

/// Becomes a command inside the peers' root; returns only where that fails.
pub fn enter(arguments: &[String]) -> anyhow::Result<()> {
    let ready = environment::cache().join("peers/ready");
    anyhow::ensure!(ready.exists(), "the peers are not there: run `cargo xtask setup --peers` first");
    Err(command(arguments).exec()).context("running unshare")
}

/// Where the peers are.
pub fn root() -> PathBuf {
    environment::cache().join("peers/sid")
}

/// Gives the command that runs `arguments` inside the peers' root.
pub fn command(arguments: &[String]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"]).args(arguments);
    command.env("ROOT", root()).env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
    command
}
