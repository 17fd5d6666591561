// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packages of the host's Debian, and the archive that the host takes them from.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use stos_testkit::environment::{has_python_module, tool};

use crate::process::{Run, output, step};

/// A program, and the package that has it.
const TOOLS: [(&str, &str); 32] = [
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("crun", "crun"),
    ("runc", "runc"),
    ("containerd", "containerd"),
    ("buildah", "buildah"),
    ("debootstrap", "debootstrap"),
    ("zstd", "zstd"),
    ("xz", "xz-utils"),
    ("bzip2", "bzip2"),
    ("python3", "python3-minimal"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("ps", "procps"),
    ("cc", "build-essential"),
    ("g++", "g++"),
    // These four build ISA-L for the feature `isal`.
    ("nasm", "nasm"),
    ("autoconf", "autoconf"),
    ("automake", "automake"),
    ("libtoolize", "libtool"),
    ("dbus-daemon", "dbus-daemon"),
    ("tmux", "tmux"),
    ("busybox", "busybox-static"),
    ("strace", "strace"),
    ("valgrind", "valgrind"),
    // Networks of containers: what makes them, what it makes rules with, and what looks at them.
    ("netavark", "netavark"),
    ("aardvark-dns", "aardvark-dns"),
    ("iptables-save", "iptables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    // Reads units as the manager does, without one that runs.
    ("systemd-analyze", "systemd"),
];

/// Modules of Debian's Python that tests need, and the package that brings each.
const MODULES: [(&str, &str); 2] = [("dbus", "python3-dbus"), ("gi", "python3-gi")];

/// Lets apt take lists whose dates are not ours, from a mirror that lags behind or on a machine whose clock does. Only for a
/// second try: the dates are what keeps an attacker from serving old lists.
pub const ANY_DATE: [&str; 4] = ["-o", "Acquire::Check-Valid-Until=false", "-o", "Acquire::Check-Date=false"];

/// Lets apt write where its own user may not: below a home directory, or in a container of buildah's.
pub const AS_ROOT: [&str; 2] = ["-o", "APT::Sandbox::User=root"];

/// Where Debian's archive is for everyone.
const DEBIAN: &str = "http://deb.debian.org/debian";

/// Installs the tools that are missing, if any.
pub fn install_tools(cache: &Path) -> anyhow::Result<()> {
    let tools = TOOLS.iter().filter(|(name, _)| tool(name).is_none());
    let modules = MODULES.iter().filter(|(name, _)| !has_python_module(name));
    let missing: Vec<&str> = tools.chain(modules).map(|(_, package)| *package).collect();
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
        stop_services(cache, &missing)
    })?;
    for (name, package) in TOOLS {
        anyhow::ensure!(tool(name).is_some(), "the package {package} has not brought the program {name}");
    }
    for (name, package) in MODULES {
        anyhow::ensure!(has_python_module(name), "the package {package} has not brought the module {name}");
    }
    Ok(())
}

/// Packages that start a service of the same name. Tests start their own, so it goes where it came with us.
const SERVICES: [&str; 2] = ["docker-registry", "containerd"];

fn stop_services(cache: &Path, installed: &[&str]) -> anyhow::Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let came = SERVICES.into_iter().filter(|name| installed.contains(name));
    came.map(|name| ["disable", "--now", name])
        .try_for_each(|words| Command::new("systemctl").args(words).run_logged(&cache.join("apt.log")))
}

fn update(cache: &Path) -> anyhow::Result<()> {
    update_with(&cache.join("apt.log"), || apt_get([]))
}

/// Fetches the lists by `apt_get`, and where that fails once more whatever their dates.
pub fn update_with(log: &Path, apt_get: impl Fn() -> Command) -> anyhow::Result<()> {
    let Err(first) = apt_get().arg("update").run_logged(log) else { return Ok(()) };
    if apt_get().args(ANY_DATE).arg("update").run_logged(log).is_err() {
        return Err(first);
    }
    eprint!("apt's lists have dates that are not ours … ");
    Ok(())
}

/// The same for a shell script: the command that fetches the lists, or fails.
pub fn update_script() -> String {
    let (root, any_date) = (AS_ROOT.join(" "), ANY_DATE.join(" "));
    format!("{{ apt-get {root} --quiet update || apt-get {root} {any_date} --quiet update; }}")
}

/// `apt-get` that asks nothing.
pub fn apt_get<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet").args(arguments);
    command
}

/// The URI of the Debian archive that the host's own release comes from, as debootstrap can take it.
pub fn archive(cache: &Path) -> anyhow::Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"');
    let targets = || {
        let format = "$(REPO_URI) $(COMPONENT) $(RELEASE) $(CODENAME)";
        output(apt_get(["indextargets", "--format", format, "Created-By: Packages"]))
    };
    if let Some(archive) = find_archive(&targets()?, codename) {
        return Ok(fetchable(archive));
    }
    // Without the lists (a fresh image of a container) apt does not know its targets yet.
    update(cache)?;
    let archive = find_archive(&targets()?, codename).map(fetchable);
    archive.with_context(|| format!("apt has no source for {codename} main"))
}

/// Finds the release among apt's targets, by its code name or, where the source says `stable`, by the one in its lists.
fn find_archive<'a>(targets: &'a str, codename: &str) -> Option<&'a str> {
    let wanted = |line: &&str| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some("main") && words.any(|word| word == codename)
    };
    targets.lines().find(wanted)?.split(' ').next()
}

/// Gives a URI that debootstrap can take too. Of apt's mirror lists (Debian's cloud images have one) that is the first
/// mirror; for what only apt can read it is Debian's own.
fn fetchable(uri: &str) -> String {
    let can_take = |uri: &&str| ["http:", "https:", "file:"].iter().any(|scheme| uri.starts_with(scheme));
    if can_take(&uri) {
        return uri.trim_end_matches('/').to_owned();
    }
    let list = uri.strip_prefix("mirror+file:").map(|path| format!("/{}", path.trim_matches('/')));
    let list = list.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let mirror = list.lines().filter_map(|line| line.split_whitespace().next()).find(can_take);
    mirror.unwrap_or(DEBIAN).trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_one_of_the_release_itself() {
        let targets = "http://a.example/debian-security/ main bookworm-security bookworm-security\n\
                       http://b.example/debian/ contrib bookworm bookworm\nhttp://c.example/debian/ main bookworm \n\
                       http://d.example/debian/ main testing trixie\n";
        assert_eq!(find_archive(targets, "bookworm"), Some("http://c.example/debian/"));
        assert_eq!(find_archive(targets, "trixie"), Some("http://d.example/debian/"), "the source says testing");
        assert_eq!(find_archive(targets, "sid"), None);
    }

    #[test]
    fn an_archive_is_one_that_debootstrap_can_take() {
        let list = tempfile::NamedTempFile::new().unwrap();
        fs::write(&list, "# ours\ntor+http://x.onion/\nhttps://m.example/debian/ priority:1\nhttp://n.example/\n")
            .unwrap();
        let path = list.path().display();
        for (uri, expected) in [
            ("http://c.example/debian/", "http://c.example/debian"),
            ("file:/srv/debian/", "file:/srv/debian"),
            (&format!("mirror+file:{path}/"), "https://m.example/debian"),
            (&format!("mirror+file://{path}"), "https://m.example/debian"),
            ("mirror+file:/no/such/list/", DEBIAN),
            ("cdrom://[Debian]/", DEBIAN),
        ] {
            assert_eq!(fetchable(uri), expected, "{uri}");
        }
    }

    #[test]
    fn dates_are_overlooked_only_after_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let apt = |script: &'static str| {
            move || {
                let mut command = Command::new("sh");
                command.args(["-c", script, "apt-get"]);
                command
            }
        };
        update_with(&log, apt(r#"echo "good: $*""#)).unwrap();
        update_with(&log, apt(r#"echo "late: $*"; test $# -gt 1"#)).unwrap();
        assert!(update_with(&log, apt(r#"echo "gone: $*"; false"#)).is_err());
        let any_date = ANY_DATE.join(" ");
        let expected = ["good: update", "late: update", &format!("late: {any_date} update"), "gone: update"];
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(said.lines().take(4).collect::<Vec<_>>(), expected);
    }

    /// What no package of [`TOOLS`] brings: Debian's essential packages, what comes with Rust's linker (`ldd`), and what
    /// [`super::super::erofs_utils`] installs.
    const ELSEWHERE: [&str; 16] = [
        "bash",
        "setsid",
        "du",
        "chroot",
        "cp",
        "fsck.erofs",
        "gzip",
        "ionice",
        "ldd",
        "mount",
        "script",
        "setpriv",
        "sh",
        "tar",
        "touch",
        "unshare",
    ];

    #[test]
    fn each_tool_that_a_test_needs_is_installed() {
        let crates = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates"));
        let mut needed = std::collections::BTreeSet::new();
        let mut open = vec![crates.to_owned()];
        while let Some(place) = open.pop() {
            if place.is_dir() {
                open.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
            } else if place.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&place).unwrap();
                let names = text.split("Need::Tool(\"").skip(1).filter_map(|rest| rest.split('"').next());
                needed.extend(names.filter(|name| *name != "no-such-tool").map(str::to_owned));
            }
        }
        assert!(needed.contains("umoci"), "{needed:?}");
        needed.retain(|name| !TOOLS.iter().any(|(tool, _)| tool == name) && !ELSEWHERE.contains(&name.as_str()));
        assert!(needed.is_empty(), "setup installs none of {needed:?}");
    }
}
