// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--layerfs erofs` and `--layerfs dirs`: the same commands give the same results; one store may hold both kinds.

mod sandbox;

use std::fs;
use std::path::Path;
use std::process::Command;

use sandbox::{Sandbox, tool};
use serde_json::{Value, json};
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::digest;

const BACKENDS: [&str; 2] = ["erofs", "dirs"];

/// Every path, type, mode, owner, time, link target and size of `/usr`; a directory's size is its filesystem's affair.
const SURVEY: &str = "find /usr -type d -printf '%p %m %U %G %T@\\n' -o -printf '%p %y %m %U %G %T@ %l %s\\n' | sort | sha256sum; \
                      find /etc /usr/lib -type f -not -path '/etc/host*' -not -path /etc/resolv.conf -print0 | sort -z | xargs -0 cat | sha256sum";

/// Deletes, replaces, changes modes, renames, links and makes new.
const CHANGES: &str = "rm -r /usr/share/doc; rm /etc/motd; mkdir /etc/motd; mv /etc/passwd /etc/users; chmod 711 /opt; \
                       echo new >/root/new; ln /root/new /root/link; ln -s new /root/symlink; rm -r /srv; \
                       mkdir /srv; echo in >/srv/in; cat /etc/debian_version";

/// A sandbox with a store that is used through one backend.
struct Through<'a> {
    sandbox: &'a Sandbox,
    backend: &'a str,
}

impl Through<'_> {
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.sandbox.ok(&[&["--layerfs", self.backend], arguments].concat())
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Asserts that nothing of any image or container is left, of either backend.
#[track_caller]
fn assert_empty(sandbox: &Sandbox) {
    for directory in ["layers/sha256", "chains/sha256", "dirs/layers/sha256", "dirs/chains/sha256", "staging"] {
        if sandbox.data_root().join(directory).exists() {
            assert_eq!(sandbox.names(directory), Vec::<String>::new(), "{directory}");
        }
    }
    let points = fs::read_dir(sandbox.root().join("chains")).into_iter().flatten();
    assert_eq!(points.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new());
    let mounts = sandbox.mounts("");
    // Where `/` is shared, ROOT/chains is a mount of itself.
    assert!(mounts.iter().all(|mount| mount.ends_with("run/chains")), "{mounts:?}");
}

/// Pull, run, create, start, diff, commit, save, load and rmi through one backend: what each of them tells.
fn story(reference: &str, backend: &str) -> Vec<(&'static str, String)> {
    let sandbox = Sandbox::new();
    let stos = Through { sandbox: &sandbox, backend };
    let mut told = vec![("pull", stos.ok(&["pull", "-q", "--tls-verify=false", reference]))];
    told.push(("survey", stos.ok(&["run", "--rm", reference, "sh", "-c", SURVEY])));
    stos.ok(&["create", "--name", "web", reference, "sh", "-c", CHANGES]);
    stos.ok(&["start", "web"]);
    told.push(("wait", stos.ok(&["wait", "web"])));
    told.push(("logs", stos.ok(&["logs", "web"])));
    told.push(("diff", stos.ok(&["diff", "web"])));
    stos.ok(&["commit", "-q", "web", "changed:1"]);
    told.push(("image diff", stos.ok(&["image", "diff", "changed:1"])));
    // A directory that overlayfs merges has one link, whatever is in it: that is not compared.
    let look = "ls -A /etc/motd /srv; stat -c '%n %h %a %F' /root/* /etc/users; stat -c %a /opt; cat /root/link; test ! -e /usr/share/doc";
    told.push(("changed", stos.ok(&["run", "--rm", "changed:1", "sh", "-c", look])));
    stos.ok(&["delete", "web"]);

    for (format, name) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        let path = sandbox.path(name);
        stos.ok(&["save", "-q", "--format", format, "-o", text(&path), reference]);
        told.push((format, digest(&fs::read(&path).unwrap())));
        let other = Sandbox::new();
        let there = Through { sandbox: &other, backend };
        told.push(("load", there.ok(&["load", "-q", "-i", text(&path)])));
        told.push(("survey", there.ok(&["run", "--rm", reference, "sh", "-c", SURVEY])));
        let state = there.json(&["layer", "ls", "--format", "json"])[0]["backends"].clone();
        assert_eq!(state, json!([{"backend": backend, "state": "intact"}]));
        there.ok(&["rmi", reference]);
        assert_empty(&other);
    }
    let path = sandbox.path("changed.tar");
    stos.ok(&["save", "-q", "-o", text(&path), "changed:1"]);
    tool("skopeo", &["inspect", "--raw", "--config", &format!("docker-archive:{}", path.display())]);
    told.push(("rmi", stos.ok(&["rmi", "changed:1", reference]).lines().next().unwrap_or_default().to_owned()));
    assert_empty(&sandbox);
    told
}

#[test]
fn every_command_tells_the_same() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("skopeo"), Need::Image("deb:12"));
    let registry = DockerRegistry::start_over_cache().unwrap();
    let reference = format!("{}/deb:12", registry.address());
    let [one, other] = BACKENDS.map(|backend| story(&reference, backend));
    assert_eq!(one.len(), other.len());
    assert!(one.iter().any(|(what, said)| *what == "changed" && said.contains("new\n")), "{one:?}");
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one, other);
    }
}

#[test]
fn a_store_holds_both_and_containers_stay_with_theirs() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Image("deb:12"));
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start_over_cache().unwrap();
    let reference = format!("{}/deb:12", registry.address());
    let [erofs, dirs] = BACKENDS.map(|backend| Through { sandbox: &sandbox, backend });
    erofs.ok(&["pull", "-q", "--tls-verify=false", &reference]);
    let root_type = "awk '$2 == \"/\" {print $3, $4}' /proc/mounts";
    erofs.ok(&["create", "--name", "first", &reference, "sh", "-c", root_type]);
    drop(registry);
    // No network is needed for the other kind, and no word at the start of a container changes what it stands on.
    dirs.ok(&["create", "--name", "second", "--pull=never", &reference, "sh", "-c", root_type]);
    let survey = |stos: &Through<'_>| stos.ok(&["run", "--rm", "--pull=never", &reference, "sh", "-c", SURVEY]);
    assert_eq!(survey(&erofs), survey(&dirs));
    for (name, backend) in [("first", "erofs"), ("second", "dirs")] {
        for through in [&erofs, &dirs] {
            through.ok(&["start", name]);
            assert_eq!(through.ok(&["wait", name]), "0\n");
        }
        let id = sandbox.json(&["inspect", name])[0]["id"].as_str().unwrap().to_owned();
        let record = fs::read(sandbox.data_root().join("containers").join(id).join("container.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&record).unwrap()["backend"], json!(backend));
    }
    let info = sandbox.json(&["system", "info", "--format", "json"]);
    assert_eq!((&info["layers"], &info["layers_by_backend"]), (&json!(1), &json!({"erofs": 1, "dirs": 1})));
    assert!(sandbox.ok(&["layer", "ls"]).contains(" erofs, dirs "));
    let layer = sandbox.ok(&["layer", "ls", "-q"]).trim().to_owned();
    let chains = sandbox.json(&["layer", "inspect", &layer])[0]["chains"].clone();
    assert_eq!(chains[0]["backends"], json!(["erofs", "dirs"]));
    for stos in [&erofs, &dirs] {
        let info = stos.json(&["system", "info", "--format", "json"]);
        assert_eq!(info["layerfs"]["backend"], json!(stos.backend));
    }
    // Both forms go with the image, and no earlier than their containers.
    sandbox.ok(&["delete", "first", "second"]);
    sandbox.ok(&["rmi", &reference]);
    assert_empty(&sandbox);
}

/// A data root on a tmpfs, which Linux mounts no EROFS image from.
fn on_tmpfs(sandbox: &Sandbox) {
    fs::create_dir(sandbox.data_root()).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=2g", "tmpfs"]).arg(sandbox.data_root()).status();
    assert!(mounted.unwrap().success());
}

#[test]
fn where_erofs_cannot_be_mounted_directories_are_chosen() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Image("deb:12"));
    let sandbox = Sandbox::new();
    on_tmpfs(&sandbox);
    let info = sandbox.json(&["system", "info", "--format", "json"]);
    assert_eq!(info["layerfs"]["backend"], json!("dirs"), "{info}");
    let registry = DockerRegistry::start_over_cache().unwrap();
    let reference = format!("{}/deb:12", registry.address());
    let refused = sandbox.run(&["--layerfs", "erofs", "pull", "-q", "--tls-verify=false", &reference]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("cannot have the layer backend `erofs`"), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: "), "{}", refused.stderr);
    sandbox.pull(&reference);
    let backends = |sandbox: &Sandbox| sandbox.json(&["layer", "ls", "--format", "json"])[0]["backends"].clone();
    assert_eq!(backends(&sandbox), json!([{"backend": "dirs", "state": "intact"}]));
    let survey = |sandbox: &Sandbox| sandbox.ok(&["run", "--rm", "--pull=never", &reference, "sh", "-c", SURVEY]);
    let seen = survey(&sandbox);

    // A store that was made where EROFS can be mounted serves here too, without the registry.
    let (from, moved) = (Sandbox::new(), Sandbox::new());
    from.pull(&reference);
    drop(registry);
    assert_eq!(survey(&from), seen);
    on_tmpfs(&moved);
    let copied = Command::new("cp").arg("-a").arg(from.data_root().join(".")).arg(moved.data_root()).status();
    assert!(copied.unwrap().success());
    assert_eq!(backends(&moved)[0]["backend"], json!("erofs"));
    assert_eq!(survey(&moved), seen);
    assert_eq!(backends(&moved)[1], json!({"backend": "dirs", "state": "intact"}));
    for sandbox in [&sandbox, &moved] {
        sandbox.ok(&["rmi", &reference]);
        // The data root itself is a mount here.
        assert_eq!(sandbox.mounts("overlay"), Vec::<std::path::PathBuf>::new());
        assert_eq!(sandbox.names("dirs/layers/sha256"), Vec::<String>::new());
        assert_eq!(sandbox.names("layers/sha256"), Vec::<String>::new());
    }
}
