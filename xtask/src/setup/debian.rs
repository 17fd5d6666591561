// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packages of the host's Debian, and the archive that the host takes them from.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use stos_testkit::environment::tool;

use crate::process::{Run, output, step};

/// A program, and the package that has it.
const TOOLS: [(&str, &str); 9] = [
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("crun", "crun"),
    ("runc", "runc"),
    ("buildah", "buildah"),
    ("debootstrap", "debootstrap"),
    ("busybox", "busybox-static"),
    ("jq", "jq"),
];

/// Lets apt work where the archive's mirror lags behind its dates, and where its own user may not write.
pub const APT_OPTIONS: [&str; 6] =
    ["-o", "Acquire::Check-Valid-Until=false", "-o", "Acquire::Check-Date=false", "-o", "APT::Sandbox::User=root"];

/// Installs the tools that are missing, if any.
pub fn install_tools(cache: &Path) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(name, _)| tool(name).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    anyhow::ensure!(
        tool("apt-get").is_some(),
        "this is no Debian: install these yourself, then run this again: {names}"
    );
    step(&format!("installing {names}"), || {
        update(cache)?;
        apt_get(["install", "--yes", "--no-install-recommends"]).args(&missing).run_logged(&cache.join("apt.log"))?;
        if missing.contains(&"docker-registry") { stop_registry_service(cache) } else { Ok(()) }
    })?;
    for (name, package) in TOOLS {
        anyhow::ensure!(tool(name).is_some(), "the package {package} has not brought the program {name}");
    }
    Ok(())
}

/// Debian's package starts the registry as a service on port 5000; the tests start their own, so it goes where it came with us.
fn stop_registry_service(cache: &Path) -> anyhow::Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    Command::new("systemctl").args(["disable", "--now", "docker-registry"]).run_logged(&cache.join("apt.log"))
}

fn update(cache: &Path) -> anyhow::Result<()> {
    apt_get(["update"]).run_logged(&cache.join("apt.log"))
}

/// `apt-get` that asks nothing.
pub fn apt_get<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet").args(APT_OPTIONS).args(arguments);
    command
}

/// The URI of the Debian archive that the host's own release comes from.
pub fn archive(cache: &Path) -> anyhow::Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"');
    let targets =
        || output(apt_get(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]));
    if let Some(archive) = find_archive(&targets()?, codename) {
        return Ok(archive);
    }
    // Without the lists (a fresh image of a container) apt does not know its targets yet.
    update(cache)?;
    find_archive(&targets()?, codename).with_context(|| format!("apt has no source for {codename} main"))
}

fn find_archive(targets: &str, codename: &str) -> Option<String> {
    let wanted = |line: &&str| line.split(' ').skip(1).eq([codename, "main"]);
    targets.lines().find(wanted).and_then(|line| line.split(' ').next()).map(|uri| uri.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_one_of_the_release_itself() {
        let targets = "http://a.example/debian-security/ bookworm-security main\nhttp://b.example/debian/ bookworm contrib\n\
                       http://c.example/debian/ bookworm main\n";
        assert_eq!(find_archive(targets, "bookworm").as_deref(), Some("http://c.example/debian"));
        assert_eq!(find_archive(targets, "trixie"), None);
    }
}
