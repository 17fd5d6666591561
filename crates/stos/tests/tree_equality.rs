// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Each path of the real images is what `umoci unpack` makes of it: in the merged image, and as a container sees it.

mod sandbox;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sandbox::{Sandbox, tool};
use serde_json::Value;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::tree::{Options, Tree};

/// What a container brings itself: its pseudo-filesystems, and the files that name it.
const OWN_OF_CONTAINER: [&str; 6] = ["proc", "sys", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf"];

#[test]
fn deb_is_what_umoci_unpacks() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("umoci"), Need::Image("deb:12"));
    compare("deb:12", 2_000, "erofs");
}

#[test]
fn sci_is_what_umoci_unpacks() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("umoci"), Need::Image("sci:2"));
    compare("sci:2", 20_000, "erofs");
}

#[test]
fn deb_in_directories_is_what_umoci_unpacks() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("umoci"), Need::Image("deb:12"));
    compare("deb:12", 2_000, "dirs");
}

#[test]
fn sci_in_directories_is_what_umoci_unpacks() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("umoci"), Need::Image("sci:2"));
    compare("sci:2", 20_000, "dirs");
}

/// Compares every path of an image that has at least `least` of them, as a backend shows it.
fn compare(image: &str, least: usize, backend: &str) {
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start_over_cache().unwrap();
    let reference = format!("{}/{image}", registry.address());
    sandbox.ok(&["--layerfs", backend, "pull", "-q", "--tls-verify=false", &reference]);
    let chain = sandbox.json(&["inspect", &reference])[0]["chain_id"].as_str().unwrap().to_owned();
    let run = ["--layerfs", backend, "run", "-d", "--entrypoint", "sleep", &reference, "1000000"];
    let id = sandbox.ok(&run).trim().to_owned();
    let unpacked = unpack(&sandbox, image);

    let expected = Tree::read(&unpacked, &Options::default()).unwrap();
    assert!(expected.nodes.len() > least, "{} paths in {image}", expected.nodes.len());
    assert!(expected.nodes.values().any(|node| node.link_group.is_some()), "no hard link is compared");
    let mounted = match backend {
        "erofs" => sandbox.root().join("chains").join(chain.trim_start_matches("sha256:")),
        // A container stacks the layers itself: the view is for people.
        _ => sandbox.ok(&["--layerfs", backend, "image", "mount", &reference]).trim().into(),
    };
    expected.assert_same(&Tree::read(&mounted, &Options::default()).unwrap());

    let options = Options { exclude: &OWN_OF_CONTAINER, ..Options::default() };
    let seen = Tree::read(&root_of(&sandbox, &id), &options).unwrap();
    let own = |path: &[u8]| OWN_OF_CONTAINER.iter().any(|own| is_below(path, own.as_bytes()));
    let expected = Tree { nodes: expected.nodes.into_iter().filter(|(path, _)| !own(path)).collect() };
    expected.assert_same(&seen);
}

fn unpack(sandbox: &Sandbox, image: &str) -> PathBuf {
    let unpacked = sandbox.path("unpacked");
    let source = format!("{}:{}", environment::layout().display(), environment::layout_tag(image));
    tool("umoci", &["raw", "unpack", "--image", &source, unpacked.to_str().unwrap()]);
    unpacked
}

/// The root of a running container, through its first process.
fn root_of(sandbox: &Sandbox, id: &str) -> PathBuf {
    let state: Value = sandbox.json(&["state", id]);
    let pid = state["pid"].as_u64().filter(|pid| *pid > 0).unwrap_or_else(|| panic!("no pid in {state}"));
    let root = Path::new("/proc").join(pid.to_string()).join("root");
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    assert_ne!(device(&root.join(".")), device(Path::new("/")), "the container has a root of its own");
    root
}

fn is_below(path: &[u8], ancestor: &[u8]) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
