// SPDX-License-Identifier: Apache-2.0 OR MIT
//! --userns, --uidmap, --gidmap: a container with users of its own, on layers that nobody has changed for it.

mod sandbox;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::UnmountFlags;
use sandbox::pty::Pty;
use sandbox::shell::{Shell, eventually};
use sandbox::{on_both_backends, output};
use serde_json::json;
use stos_sys::mount::{MountPlan, UpperDirs, attach, enter_private_namespace};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder, file_capability};

/// Where container ids begin on the host, where a test says it itself.
const HOST: u32 = 300_000;
const MAP: [&str; 2] = ["--uidmap", "0:300000:2000"];
const IDLE: &str = "echo up; exec sleep 1000";

/// An image with users, with owners of all kinds, and with a volume.
fn image() -> ImageBuilder {
    let tools = rootfs::host_programs(&["busybox", "chown", "id", "stat", "tty"]).unwrap();
    let files = TarBuilder::new()
        .entry(Entry::directory("etc"))
        .entry(Entry::file("etc/passwd", "root:x:0:0::/:/bin/sh\nweb:x:1000:1001::/srv:/bin/sh\nnobody:x:65534:65534::/:/x\n"))
        .entry(Entry::file("etc/group", "root:x:0:\ntty:x:5:\nwww:x:1001:\nmore:x:1002:web\n"))
        .entry(Entry::directory("vol").owner(1000, 1001))
        .entry(Entry::file("vol/first", "of the image\n").owner(7, 8))
        .entry(Entry::file("far", "of nobody here\n").owner(60_000, 60_001))
        .entry(Entry::file("bin/able", "x").mode(0o755).xattr("security.capability", &file_capability(1 << 10)))
        .finish();
    ImageBuilder::new().layer(Layer::plain(tools)).layer(Layer::plain(files)).set("/config/Volumes", json!({"/vol": {}}))
}

fn shell() -> Shell {
    Shell::of(&image())
}

/// Owner and group of a file, as numbers.
fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path.as_ref()).unwrap_or_else(|error| panic!("{:?}: {error}", path.as_ref()));
    (metadata.uid(), metadata.gid())
}

fn directory(shell: &Shell, container: &str) -> PathBuf {
    let id = shell.sandbox.json(&["inspect", container])[0]["id"].as_str().unwrap().to_owned();
    shell.sandbox.data_root().join("containers").join(id)
}

fn pid(shell: &Shell, container: &str) -> u64 {
    shell.sandbox.json(&["state", container])["pid"].as_u64().unwrap()
}

/// Starts a container that stays.
fn up(shell: &Shell, name: &str, options: &[&str]) {
    shell.sandbox.ok(&[&["run", "-d", "--name", name], options, &["shell:1", "sh", "-c", IDLE]].concat());
    eventually("it is up", || shell.sandbox.ok(&["logs", name]) == "up\n");
}

#[test]
fn ids_inside_are_the_image_s_and_on_the_host_those_of_the_mapping() {
    stos_testkit::require!(Need::Root, Need::Binary);
    on_both_backends(|| {
        let shell = shell();
        let before = shell.sandbox.names("layers");
        let layers = stos_testkit::tree::Tree::read(&shell.sandbox.data_root().join("layers"), &Default::default()).unwrap();
        up(&shell, "c", &MAP);
        let says = |script: &str| shell.sandbox.ok(&["exec", "c", "sh", "-c", script]);
        assert_eq!(says("id -u; id -g"), "0\n0\n");
        assert_eq!(says("stat -c %u:%g / /srv/data /bin/sh /far"), "0:0\n1000:1000\n0:0\n65534:65534\n");
        let map = fs::read_to_string(format!("/proc/{}/uid_map", pid(&shell, "c"))).unwrap();
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "300000", "2000"]);
        assert_eq!(owner(format!("/proc/{}", pid(&shell, "c"))), (HOST, HOST));
        // New files, changed ones, owners given away, and what is gone.
        says("echo x >/new; mkdir /dir; chown 1000:1001 /dir; echo more >>/srv/data; rm /bin/plain; chown 5:6 /bin/lost");
        assert_eq!(says("stat -c %u:%g /new /dir /srv/data /bin/lost"), "0:0\n1000:1001\n1000:1000\n5:6\n");
        let upper = directory(&shell, "c").join("upper");
        let on_disk = |name: &str| owner(upper.join(name));
        assert_eq!(["", "new", "dir", "srv/data", "bin/lost", "bin/plain"].map(on_disk), [(0, 0), (0, 0), (1000, 1001), (1000, 1000), (5, 6), (0, 0)]);
        let root = PathBuf::from(format!("/proc/{}/root", pid(&shell, "c")));
        assert_eq!((owner(root.join("new")), owner(root.join("dir"))), ((HOST, HOST), (HOST + 1000, HOST + 1001)));
        // Nothing beyond the range, and nothing that is nobody's.
        assert_ne!(shell.sandbox.run(&["exec", "c", "chown", "2000", "/new"]).code, 0);
        assert_ne!(shell.sandbox.run(&["exec", "c", "chown", "0", "/far"]).code, 0);
        assert_ne!(shell.sandbox.run(&["exec", "c", "sh", "-c", "echo x >/far"]).code, 0);
        assert_eq!(shell.sandbox.names("layers"), before);
        let after = stos_testkit::tree::Tree::read(&shell.sandbox.data_root().join("layers"), &Default::default()).unwrap();
        after.assert_same(&layers);
    });
}
