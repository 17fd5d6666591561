// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What goes wrong while commits, exports and imports are made: nothing is lost, and it is told by name.

mod sandbox;

use std::fs;

use sandbox::shell::{Shell, eventually};
use sandbox::{Hub, Sandbox};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::tar_builder::{Entry, TarBuilder};
use stos_testkit::tree::{Options, Tree};

/// The tree that no index and no tar can hold: nested too deep for a path.
const TOO_DEEP: &str =
    "echo x > /first; p=d/d/d/d/d/d/d/d/d/d; i=0; while [ $i -lt 230 ]; do mkdir -p $p; cd $p; i=$((i+1)); done";

#[test]
fn an_export_that_fails_leaves_the_file_that_was_there() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox: &Sandbox = &shell.sandbox;
    sandbox.ok(&["run", "--name", "c", "shell:1", "sh", "-c", TOO_DEEP]);
    let (dir, tar) = (sandbox.path("exports"), sandbox.path("exports/c.tar"));
    fs::create_dir(&dir).unwrap();
    fs::write(&tar, "of yesterday").unwrap();
    let refused = sandbox.run(&["export", "-o", tar.to_str().unwrap(), "c"]);
    assert!(refused.code == 1 && refused.stderr.contains("nested more than"), "{refused:?}");
    assert_eq!(fs::read_to_string(&tar).unwrap(), "of yesterday");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing beside it");
    assert_eq!(sandbox.run(&["export", "-o", "/dev/full", "c"]).code, 1);
    assert_eq!(sandbox.run(&["export", "-o", dir.to_str().unwrap(), "c"]).code, 1, "a directory");

    sandbox.ok(&["run", "--name", "d", "shell:1", "sh", "-c", ": > /new"]);
    sandbox.ok(&["export", "-o", tar.to_str().unwrap(), "d"]);
    assert!(sandbox::tool("tar", &["-tf", tar.to_str().unwrap()]).lines().any(|name| name == "new"));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    let piped = sandbox.command().args(["export", "d"]).output().unwrap();
    assert!(piped.status.success() && piped.stdout == fs::read(&tar).unwrap(), "another tar than that of `-o`");
}

#[test]
fn what_fails_takes_back_only_what_it_added() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let tar = |name: &str, data: &str| {
        let path = sandbox.path(name);
        fs::write(&path, TarBuilder::new().entry(Entry::file("f", data)).finish()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (good, bad) = (tar("good.tar", "good"), tar("bad.tar", "bad"));
    sandbox.ok(&["run", "--name", "c", "shell:1", "sh", "-c", "echo c > /c"]);
    // A layer that nothing reaches, as a command leaves one that was killed.
    sandbox.ok(&["import", &good, "good"]);
    let index = sandbox.data_root().join("images/index.json");
    let without = fs::read(&index).unwrap();
    sandbox.ok(&["import", &tar("more.tar", "more"), "more"]);
    fs::write(&index, without).unwrap();
    let before = sandbox.listing();

    let none = sandbox.path("none");
    assert_eq!(sandbox.run(&["import", none.to_str().unwrap()]).code, 1);
    before.assert_same(&sandbox.listing());
    let url = sandbox.run(&["import", "HTTPS://example.org/root.tar", "i"]);
    assert!(url.code == 1 && url.stderr.contains("curl -fL HTTPS://example.org/root.tar |"), "{url:?}");
    before.assert_same(&sandbox.listing());
    let nowhere = sandbox.path("nowhere");
    let mut command = sandbox.command_on(&nowhere);
    assert_eq!(sandbox::output(command.args(["import", none.to_str().unwrap()])).code, 1);
    assert!(!nowhere.exists(), "a store is not made for what is not there");

    // What fails when the layer and the chain are there already: documents cannot be written.
    let blobs = sandbox.data_root().join("images/blobs/sha256");
    let blobs = blobs.to_str().unwrap();
    sandbox::tool("mount", &["--bind", blobs, blobs]);
    sandbox::tool("mount", &["-o", "remount,bind,ro", blobs]);
    let failed = [&["import", &bad, "bad"][..], &["commit", "c", "bad"]].map(|arguments| sandbox.run(arguments));
    sandbox::tool("umount", &[blobs]);
    for failed in failed {
        assert!(failed.code == 1 && failed.stderr.contains("images/blobs"), "{failed:?}");
    }
    before.assert_same(&sandbox.listing());
}

/// How many chains each backend has made.
fn chains(sandbox: &Sandbox) -> (usize, usize) {
    let count = |dir: &str| fs::read_dir(sandbox.data_root().join(dir)).map_or(0, Iterator::count);
    (count("chains/sha256"), count("dirs/chains/sha256"))
}

#[test]
fn a_container_is_read_under_a_lease_and_by_its_own_backend() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    sandbox.ok(&["run", "--name", "c", "shell:1", "sh", "-c", "echo x > /x"]);
    let tar = sandbox.path("c.tar");
    let had = chains(sandbox);
    for (arguments, more) in
        [(&["diff", "c"][..], 0), (&["export", "-o", tar.to_str().unwrap(), "c"], 0), (&["commit", "c"], 1)]
    {
        let other = if had == (1, 0) { "dirs" } else { "erofs" };
        sandbox.ok(&[&["--layerfs", other], arguments].concat());
        let (erofs, dirs) = chains(sandbox);
        // A commit's own image is of the backend that was asked for.
        assert_eq!(erofs + dirs, 1 + more, "{arguments:?}");
    }

    let lease = fs::File::open(sandbox.data_root().join("locks/lease")).unwrap();
    rustix::fs::flock(&lease, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut diff = sandbox.command().args(["diff", "c"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let waits = || {
        fs::read_to_string("/proc/locks")
            .unwrap()
            .lines()
            .any(|lock| lock.contains("->") && lock.split_whitespace().any(|word| word == diff.id().to_string()))
    };
    eventually("the diff waits for its lease", waits);
    drop(lease);
    assert!(diff.wait().unwrap().success());
}

#[test]
fn an_import_stays_on_the_mount_that_it_was_given() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = Sandbox::new();
    let root = sandbox.path("root");
    for path in ["point", "own/deep"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::write(root.join("file"), "own").unwrap();
    fs::write(root.join("own/deep/f"), "own").unwrap();
    let (point, file, outside) = (root.join("point"), root.join("file"), sandbox.path("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "of another").unwrap();
    // Of the same filesystem: its device number tells nothing.
    sandbox::tool("mount", &["--bind".as_ref(), outside.as_os_str(), point.as_os_str()]);
    sandbox::tool("mount", &["--bind".as_ref(), outside.join("secret").as_os_str(), file.as_os_str()]);
    let import = |more: &[&str]| sandbox.run(&[&["import"], more, &[root.to_str().unwrap(), "i"]].concat());
    let (told, quiet) = (import(&[]), import(&["-q"]));
    let _ = [&point, &file].map(|path| sandbox::tool("umount", &[path]));
    assert!(told.code == 0 && told.stderr.contains("/file"), "{told:?}");
    assert!(quiet.code == 0 && quiet.stderr.is_empty(), "{quiet:?}");
    let path = sandbox.ok(&["image", "mount", "i"]);
    let tree = Tree::read(path.trim().as_ref(), &Options::default()).unwrap();
    let names: Vec<_> = tree.nodes.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    sandbox.ok(&["image", "unmount", "i"]);
    assert_eq!(names, ["", "own", "own/deep", "own/deep/f", "point"]);
}

#[test]
fn sparse_files_beyond_what_erofs_can_address_are_told_when_they_are_met() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let made = sandbox.path("holes");
    fs::create_dir(&made).unwrap();
    let id = sandbox.ok(&["run", "-d", "--name", "c", "shell:1", "sh", "-c", ":"]);
    sandbox.ok(&["wait", "c"]);
    let upper = sandbox.data_root().join("containers").join(id.trim()).join("upper");
    for dir in [&made, &upper] {
        for name in ["a", "b"] {
            fs::File::create(dir.join(name)).unwrap().set_len(1500 << 30).unwrap();
        }
    }
    let before = sandbox.names("layers/sha256");
    for arguments in [&["import", made.to_str().unwrap(), "holes"][..], &["commit", "c", "holes"]] {
        if chains(sandbox).0 > 0 {
            let refused = sandbox.run(&[&["--layerfs", "erofs"], arguments].concat());
            assert!(refused.code == 1 && refused.stderr.contains("/b: a sparse file"), "{refused:?}");
            assert!(refused.stderr.contains("hint: with `--layerfs dirs`"), "{refused:?}");
            assert_eq!(sandbox.names("layers/sha256"), before);
        }
    }
    for arguments in [&["import", made.to_str().unwrap(), "holes"][..], &["commit", "c", "holes"]] {
        sandbox.ok(&[&["--layerfs", "dirs"], arguments].concat());
    }
}

#[test]
fn a_terabyte_of_nothing_in_a_shared_layer_is_not_read() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(check_shared_holes);
}

fn check_shared_holes() {
    let sandbox = Sandbox::new();
    let root = sandbox.path("root");
    let file = |name: &str, size: u64| {
        fs::create_dir_all(&root).unwrap();
        fs::File::create(root.join(name)).unwrap().set_len(size).unwrap();
        let tar = sandbox.path("add.tar");
        sandbox::tool("tar", &["-cSf", tar.to_str().unwrap(), "-C", root.to_str().unwrap(), name]);
        fs::read(tar).unwrap()
    };
    let (huge, small, other) = (file("huge", 1 << 40), file("small", 10), file("other", 10));
    let hub = Hub::new();
    let base = ImageBuilder::new().command(&["/x"]).layer(Layer::gzip(huge));
    for (tag, top) in [("1", small), ("2", other)] {
        sandbox.pull(&hub.serve(&base.clone().layer(Layer::gzip(top)).build(), "holes", tag));
    }
    // With its holes read, this would take many minutes.
    assert_eq!(sandbox.ok(&["diff", "holes:2", "holes:1"]), "A /other\nD /small\n");
}
