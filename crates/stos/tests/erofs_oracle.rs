// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is on disk, judged by others: sha256 by hand, fsck.erofs of erofs-utils, GNU tar, and the kernel's mount table.

mod sandbox;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use sandbox::{Sandbox, tool};
use serde_json::Value;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::guard::Need;
use stos_testkit::tree::{Options, Tree, sha256_of_file};

/// An image that has been pulled.
struct Pulled {
    sandbox: Sandbox,
    reference: String,
    inspected: Value,
}

fn pull(image: &str) -> Pulled {
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start_over_cache().unwrap();
    let reference = format!("{}/{image}", registry.address());
    sandbox.pull(&reference);
    let inspected = sandbox.json(&["inspect", &reference])[0].clone();
    Pulled { sandbox, reference, inspected }
}

impl Pulled {
    fn chain_dir(&self) -> PathBuf {
        self.sandbox.chain_dir(self.inspected["chain_id"].as_str().unwrap())
    }

    /// The diffIDs that the image's configuration names, as others read them out of it.
    fn diff_ids(&self) -> Vec<String> {
        let ids = self.inspected["config"]["rootfs"]["diff_ids"].as_array().unwrap();
        ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    fn layers_hash_to_their_diff_ids(&self, count: usize) {
        let diff_ids = self.diff_ids();
        assert_eq!(diff_ids.len(), count);
        for diff_id in diff_ids {
            let found = sha256_of_file(&self.sandbox.layer_dir(&diff_id).join("layer.tar")).unwrap();
            assert_eq!(format!("sha256:{found}"), diff_id);
        }
    }

    /// `--device` for each layer's file that the image's data lie in, in the order of its device table.
    fn devices(&self) -> Vec<OsString> {
        let chain: Value = serde_json::from_slice(&fs::read(self.chain_dir().join("chain.json")).unwrap()).unwrap();
        let devices = chain["devices"].as_array().unwrap();
        assert!(!devices.is_empty());
        let text = |device: &Value, key: &str| device[key].as_str().unwrap().to_owned();
        let path = |device: &Value| {
            self.sandbox.layer_dir(&text(device, "layer")).join(format!("layer.{}", text(device, "file")))
        };
        devices.iter().map(|device| OsString::from(format!("--device={}", path(device).display()))).collect()
    }

    fn fsck(&self, options: &[&str]) {
        let mut arguments = self.devices();
        arguments.extend(options.iter().map(OsString::from));
        arguments.push(self.chain_dir().join("image.erofs").into());
        tool("fsck.erofs", &arguments);
    }
}

fn needs(image: &str) -> [Need<'_>; 4] {
    [Need::Root, Need::Binary, Need::Tool("fsck.erofs"), Need::Image(image)]
}

/// fsck.erofs before 1.8 reads no devices of 512-byte blocks.
fn fsck_is_new_enough() -> Need<'static> {
    let version = stos_testkit::environment::tool("fsck.erofs").map(|_| tool("fsck.erofs", &["--version"]));
    let number = version.as_deref().and_then(|text| text.lines().next()?.split_whitespace().last().map(str::to_owned));
    let mut parts = number.iter().flat_map(|number| number.split('.')).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    Need::Condition(version >= (1, 8), "fsck.erofs of at least 1.8")
}

#[test]
fn deb_is_what_tar_extracts() {
    let [root, binary, fsck, image] = needs("deb:12");
    stos_testkit::require!(root, binary, fsck, image, Need::Tool("tar"), fsck_is_new_enough());
    let pulled = pull("deb:12");
    pulled.layers_hash_to_their_diff_ids(1);
    pulled.fsck(&["--extract"]);

    let (ours, theirs) = (pulled.sandbox.path("fsck"), pulled.sandbox.path("tar"));
    fs::create_dir(&theirs).unwrap();
    pulled.fsck(&[&format!("--extract={}", ours.display()), "--preserve", "--xattrs"]);
    let layer = pulled.sandbox.layer_dir(&pulled.diff_ids()[0]).join("layer.tar");
    let (layer, directory) = (layer.to_str().unwrap(), theirs.to_str().unwrap());
    let options =
        ["--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*", "-C", directory, "-xf", layer];
    tool("tar", &options);
    let mut expected = Tree::read(&theirs, &Options::default()).unwrap();
    assert!(expected.nodes.len() > 2_000, "{} paths", expected.nodes.len());
    let found = Tree::read(&ours, &Options::default()).unwrap();
    // The layer has no entry for the root: tar leaves it as it was made just now, the image has it at the epoch.
    expected.nodes.get_mut(&b""[..]).unwrap().mtime = (0, 0);
    expected.assert_same(&found);
}

#[test]
fn sci_passes_fsck() {
    let [root, binary, fsck, image] = needs("sci:2");
    stos_testkit::require!(root, binary, fsck, image, fsck_is_new_enough());
    let pulled = pull("sci:2");
    pulled.layers_hash_to_their_diff_ids(3);
    assert_eq!(pulled.devices().len(), 3);
    pulled.fsck(&["--extract"]);
}

#[test]
fn many_layers_pass_fsck_and_run_from_one_mount() {
    let [root, binary, fsck, image] = needs("many:100");
    stos_testkit::require!(root, binary, fsck, image, fsck_is_new_enough());
    let pulled = pull("many:100");
    pulled.layers_hash_to_their_diff_ids(101);
    pulled.fsck(&["--extract"]);

    let sandbox = &pulled.sandbox;
    assert_eq!(sandbox.mounts("erofs"), Vec::<PathBuf>::new(), "nothing is mounted before it is needed");
    for _ in 0..2 {
        sandbox.ok(&["run", "-d", "--entrypoint", "sleep", &pulled.reference, "600"]);
    }
    // Two containers, 101 layers, and the host sees one mount.
    let chain = pulled.inspected["chain_id"].as_str().unwrap().trim_start_matches("sha256:");
    assert_eq!(sandbox.mounts(""), [fs::canonicalize(sandbox.root()).unwrap().join("chains").join(chain)]);
    assert_eq!(sandbox.mounts("erofs").len(), 1);
    for id in sandbox.names("containers") {
        let pid = sandbox.json(&["state", &id])["pid"].as_u64().unwrap();
        let root = root_mount(Path::new(&format!("/proc/{pid}/mountinfo")));
        assert!(root.contains(" - overlay "), "{root}");
        assert_eq!(root.matches("lowerdir").count(), 1, "{root}");
        sandbox.ok(&["delete", "--force", &id]);
    }
}

/// The line of a mount table that is the root's.
fn root_mount(table: &Path) -> String {
    let table = fs::read_to_string(table).unwrap();
    table.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root").to_owned()
}
