// SPDX-License-Identifier: Apache-2.0 OR MIT
//! import: a root filesystem in a tar becomes an image that runs, that others read, and whose layer is that tar.

mod sandbox;

use std::fs::{self, File};

use sandbox::{Sandbox, output, tool};
use serde_json::json;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::digest;
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::tree::{Options, Tree};

#[test]
fn a_tar_becomes_an_image_that_runs() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("skopeo"), Need::Tool("gzip"), Need::Tool("zstd"));
    let sandbox = Sandbox::new();
    let tar = rootfs::host_shell().unwrap();
    let plain = sandbox.path("root.tar");
    fs::write(&plain, &tar).unwrap();
    let path = plain.to_str().unwrap();
    let changes =
        ["ENV A=b", "CMD [\"/bin/sh\", \"-c\", \"echo $A; pwd\"]", "WORKDIR /tmp", "LABEL who=me", "EXPOSE 80"];
    let mut arguments = vec!["import", "-m", "made here"];
    arguments.extend(changes.iter().flat_map(|change| ["--change", change]));
    arguments.extend([path, "base:1"]);
    let id = sandbox.ok(&arguments).trim().to_owned();
    let found = sandbox.json(&["inspect", "base:1"])[0].clone();
    assert_eq!(found["id"], json!(id));
    assert_eq!(found["layers"][0]["diff_id"], json!(digest(&tar)), "the tar is the layer");
    assert_eq!(found["config"]["config"]["Labels"], json!({"who": "me"}));
    assert_eq!(found["config"]["config"]["ExposedPorts"], json!({"80/tcp": {}}));
    assert_eq!(sandbox.names("chains/sha256").len(), 1, "whole when import returns");
    let history = sandbox.json(&["history", "--format", "json", "base:1"]);
    assert_eq!((&history[0]["comment"], history.as_array().unwrap().len()), (&json!("made here"), 1));
    assert_eq!(sandbox.ok(&["run", "--rm", "base:1"]), "b\n/tmp\n");
    let archive = sandbox.path("saved.tar");
    sandbox.ok(&["save", "-o", archive.to_str().unwrap(), "base:1"]);
    let config = tool("skopeo", &["inspect", "--raw", "--config", &format!("docker-archive:{}", archive.display())]);
    assert_eq!(digest(config.as_bytes()), id);

    // Compressed, from a stream, without a name: the same layer.
    for compress in ["gzip", "zstd"] {
        let packed = sandbox.path("packed");
        let mut packer = std::process::Command::new(compress);
        packer.arg("-c").stdin(File::open(&plain).unwrap()).stdout(File::create(&packed).unwrap());
        assert!(packer.status().unwrap().success());
        let said = output(sandbox.command().args(["image", "import", "-"]).stdin(File::open(&packed).unwrap()));
        assert_eq!(said.code, 0, "{said:?}");
        let found = &sandbox.json(&["inspect", said.stdout.trim()])[0];
        assert_eq!(
            (&found["layers"][0]["diff_id"], &found["name"]),
            (&json!(digest(&tar)), &json!(null)),
            "{compress}"
        );
        assert_eq!(sandbox.ok(&["run", "--rm", said.stdout.trim(), "/bin/sh", "-c", "echo x"]), "x\n");
    }
    assert_eq!(sandbox.names("layers/sha256").len(), 1);
}

#[test]
fn what_is_no_root_filesystem_leaves_nothing() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    // What every store has, its locks too.
    drop(sandbox.run(&["import", "/dev/null"]));
    let before = sandbox.listing();
    let good = TarBuilder::new().entry(Entry::file("f", "x".repeat(2000))).finish();
    for (case, bytes, more, expected) in [
        ("empty", Vec::new(), vec![], "found nothing"),
        ("cut", good[..1000].to_vec(), vec![], "layer"),
        ("no tar", b"x".repeat(2000), vec![], "layer"),
        ("hostile", TarBuilder::new().entry(Entry::file("../f", "")).finish(), vec![], ".."),
        ("cut gzip", b"\x1f\x8b\x08\0\0".to_vec(), vec![], "layer"),
        ("a change that is none", good.clone(), vec!["-c", "RUN x"], "expected CMD"),
        ("a change that breaks a rule", good.clone(), vec!["-c", "VOLUME /a/../b"], "config.Volumes"),
        ("a name with a digest", good.clone(), vec![], "digest"),
        ("a name that is none", good, vec![], "A//B"),
    ] {
        let path = sandbox.path("x.tar");
        fs::write(&path, bytes).unwrap();
        let named = format!("a@{}", digest(b""));
        let mut arguments = vec!["import"];
        arguments.extend(more);
        arguments.push(path.to_str().unwrap());
        arguments.extend(match case {
            "a name with a digest" => Some(named.as_str()),
            "a name that is none" => Some("A//B"),
            _ => None,
        });
        let said = sandbox.run(&arguments);
        assert!(said.code == 1 && said.stdout.is_empty() && said.stderr.contains(expected), "{case}: {said:?}");
        before.assert_same(&sandbox.listing());
    }
    assert_eq!(sandbox.run(&["import", "/no/such"]).code, 1);
}

#[test]
fn a_directory_becomes_an_image_of_the_same_tree() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("umoci"), Need::Tool("tar"), Need::Image("deb:12"));
    let sandbox = Sandbox::new();
    let source = format!("{}:{}", environment::layout().display(), environment::layout_tag("deb:12"));
    let (root, back) = (sandbox.path("root"), sandbox.path("back"));
    tool("umoci", &["raw", "unpack", "--image", &source, root.to_str().unwrap()]);
    let id = sandbox.ok(&["import", root.to_str().unwrap(), "own:12"]).trim().to_owned();
    assert_eq!(sandbox.ok(&["run", "--rm", "own:12", "echo", "hello"]), "hello\n");
    let layout = sandbox.path("layout");
    sandbox.ok(&["save", "-q", "--format", "oci-dir", "-o", layout.to_str().unwrap(), "own:12"]);
    let saved = format!("{}:docker.io/library/own:12", layout.display());
    tool("umoci", &["raw", "unpack", "--image", &saved, back.to_str().unwrap()]);
    let read = |path: &std::path::Path| Tree::read(path, &Options::default()).unwrap();
    assert!(read(&root).nodes.len() > 2_000);
    read(&root).assert_same(&read(&back));
    // The same directory, through a symlink, is the same layer.
    let link = sandbox.path("link");
    std::os::unix::fs::symlink(&root, &link).unwrap();
    let again = sandbox.ok(&["import", link.to_str().unwrap()]).trim().to_owned();
    assert_ne!(again, id, "made at another time");
    assert_eq!(sandbox.names("layers/sha256").len(), 1);
    // What would be a whiteout is no file of an image.
    fs::write(root.join("tmp/.wh.x"), "").unwrap();
    let said = sandbox.run(&["import", root.to_str().unwrap()]);
    assert!(said.code == 1 && said.stderr.contains("tmp/.wh.x"), "{said:?}");
    assert_eq!((sandbox.names("layers/sha256").len(), sandbox.names("staging").len()), (1, 0));
}
