// SPDX-License-Identifier: Apache-2.0 OR MIT
//! diff, commit, export: what a container has made of its image is told, kept, and the same everywhere.

mod sandbox;

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sandbox::shell::{Shell, eventually};
use sandbox::{Sandbox, tool};
use serde_json::{Value, json};
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::file_capability;
use stos_testkit::tree::{Options, Tree};

/// What a container brings itself: its pseudo-filesystems, and the files that name it.
const OWN_OF_CONTAINER: [&str; 6] = ["proc", "sys", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf"];

/// Does everything to files and directories of a Debian image that a container can do, then waits.
const DEEDS: &str = r#"set -e
rm /etc/motd; rm -r /usr/share/doc                          # deleted
rm /etc/issue; mkdir /etc/issue; echo x > /etc/issue/file   # file -> directory
rm -r /usr/share/locale; echo x > /usr/share/locale         # directory -> file
rm -r /var/opt; ln -s /etc /var/opt                         # directory -> symlink
rm /etc/os-release; mkfifo /etc/os-release                  # symlink -> FIFO
rm -r /usr/share/info; mkdir -p /usr/share/info/sub; echo n > /usr/share/info/sub/new  # opaque
chmod 4711 /bin/ls; chmod 1770 /srv; chown 12345:54321 /etc/fstab /home
ln /etc/shells /etc/shells.hard; echo more >> /etc/shells; echo one > /one; ln /one /two; ln /one /srv/three
mv /etc/passwd- /etc/group- /opt/; mv /opt/group- /etc/group.moved
mkdir -p /new/a/b; mv /new /renamed; cp -a /etc/skel /etc/skel2
mknod /srv/fifo p; ln -s nowhere /srv/dangling; touch -d '1960-01-01 00:00:00.123456789' /srv/old
truncate -s 64M /srv/sparse; printf end | dd of=/srv/sparse bs=1 seek=33554432 conv=notrunc status=none
printf 'x' > "$(printf '/srv/\377\n')"; head -c 300000 /dev/urandom > /srv/random; : > /srv/empty; : > /srv/attributes
touch /ready; exec sleep 600
"#;

/// An image of this machine's shell, of three layers, with the tools that make changes.
fn shell() -> Shell {
    let tools = rootfs::host_programs(&["wc"]).unwrap();
    Shell::of(&ImageBuilder::new().layer(Layer::gzip(tools)))
}

fn root_of(sandbox: &Sandbox, container: &str) -> PathBuf {
    let state = sandbox.json(&["state", container]);
    let pid = state["pid"].as_u64().filter(|pid| *pid > 0).unwrap_or_else(|| panic!("no pid in {state}"));
    Path::new("/proc").join(pid.to_string()).join("root")
}

/// What a container sees, but for what it brings itself.
fn seen(root: &Path) -> Tree {
    Tree::read(root, &Options { exclude: &OWN_OF_CONTAINER, ..Options::default() }).unwrap()
}

/// What an image holds, as a container of it sees that.
fn seen_in_new(sandbox: &Sandbox, image: &str) -> Tree {
    let id = sandbox.ok(&["run", "-d", "--entrypoint", "sleep", image, "600"]);
    let tree = seen(&root_of(sandbox, id.trim()));
    sandbox.ok(&["delete", "--force", id.trim()]);
    tree
}

fn diff_ids(sandbox: &Sandbox, image: &str) -> Vec<String> {
    let image = sandbox.json(&["inspect", image]);
    let layers = image[0]["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["diff_id"].as_str().unwrap().to_owned()).collect()
}

/// Saves an image as an OCI layout.
fn saved(sandbox: &Sandbox, image: &str, name: &str) -> PathBuf {
    let layout = sandbox.path(&format!("{name}.layout"));
    sandbox.ok(&["save", "-q", "--format", "oci-dir", "-o", layout.to_str().unwrap(), image]);
    layout
}

/// Unpacks the image that `save` writes with umoci.
fn unpacked(sandbox: &Sandbox, image: &str, name: &str) -> PathBuf {
    let (layout, into) = (saved(sandbox, image, name), sandbox.path(name));
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap();
    let source = format!("{}:{tag}", layout.display());
    tool("umoci", &["raw", "unpack", "--image", &source, into.to_str().unwrap()]);
    into
}

/// The tar of an image's topmost layer, as `save` writes it.
fn top_tar(sandbox: &Sandbox, image: &str, name: &str) -> PathBuf {
    let layer = diff_ids(sandbox, image).pop().unwrap();
    saved(sandbox, image, name).join("blobs/sha256").join(layer.trim_start_matches("sha256:"))
}

/// Leaves out what [`seen`] leaves out.
fn without_own(tree: Tree) -> Tree {
    let is_own = |path: &[u8]| {
        OWN_OF_CONTAINER
            .iter()
            .any(|own| path.strip_prefix(own.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'))
    };
    Tree { nodes: tree.nodes.into_iter().filter(|(path, _)| !is_own(path)).collect() }
}

#[test]
fn everything_that_a_container_did_is_in_the_new_image() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("umoci"), Need::Tool("tar"), Need::Image("deb:12"));
    sandbox::on_both_backends(check_everything);
}

fn check_everything() {
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start_over_cache().unwrap();
    let reference = format!("{}/deb:12", registry.address());
    sandbox.pull(&reference);
    sandbox.ok(&["run", "-d", "--name", "busy", &reference, "bash", "-c", DEEDS]);
    let root = root_of(&sandbox, "busy");
    eventually("all is done", || root.join("ready").exists());
    for path in ["srv/attributes", "bin/ls"] {
        let file = File::open(root.join(path)).unwrap();
        stos_sys::xattr::set(&file, c"user.note", b"a\0b=c\n").unwrap();
        stos_sys::xattr::set(&file, c"trusted.note", b"t").unwrap();
        stos_sys::xattr::set(&file, c"security.capability", &file_capability(1 << 10)).unwrap();
    }
    let expected = seen(&root);

    let id = sandbox.ok(&["commit", "-a", "somebody", "-m", "all of it", "-c", "ENV A=b", "busy", "team/all:1"]);
    let image = sandbox.json(&["inspect", "team/all:1"]);
    assert_eq!(image[0]["id"], json!(format!("sha256:{}", id.trim())));
    let config = &image[0]["config"];
    assert_eq!(config["author"], json!("somebody"));
    let history = config["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&history["comment"], &history["author"]), (&json!("all of it"), &json!("somebody")));
    assert!(config["config"]["Env"].as_array().unwrap().contains(&json!("A=b")));
    let base = sandbox.json(&["inspect", &reference]);
    assert_eq!(image[0]["layers"][0], base[0]["layers"][0], "the base's layer is the blob that it was");

    expected.assert_same(&seen_in_new(&sandbox, "team/all:1"));
    let umoci = Tree::read(&unpacked(&sandbox, "team/all:1", "umoci"), &Options::default()).unwrap();
    expected.assert_same(&without_own(umoci));

    // The same upper gives the same layer: nothing but the configuration is new.
    sandbox.ok(&["commit", "busy", "team/again"]);
    assert_eq!(diff_ids(&sandbox, "team/again"), diff_ids(&sandbox, "team/all:1"));

    let (tar, exported) = (sandbox.path("export.tar"), sandbox.path("exported"));
    sandbox.ok(&["export", "-o", tar.to_str().unwrap(), "busy"]);
    fs::create_dir(&exported).unwrap();
    let options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"];
    tool("tar", &[&options[..], &[tar.to_str().unwrap(), "-C", exported.to_str().unwrap()]].concat());
    expected.assert_same(&without_own(Tree::read(&exported, &Options::default()).unwrap()));
    for mounted in ["proc", "sys"] {
        assert_eq!(fs::read_dir(exported.join(mounted)).unwrap().count(), 0, "{mounted} is not in it");
    }
}

#[test]
fn the_new_image_runs_as_its_container_did() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let config = json!({"Entrypoint": ["sh", "-c"], "Env": ["PATH=/bin:/usr/bin", "A=1"], "Labels": {"x": "1"}, "Volumes": {"/v": {}},
        "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT", "Healthcheck": {"Test": ["NONE"]}});
    let shell = Shell::of(&ImageBuilder::new().set("/config", config));
    let sandbox = &shell.sandbox;
    let made = |options: &[&str], arguments: &[&str], changes: &[&str]| {
        sandbox.ok(&[&["create", "--name", "c"], options, &["shell:1"], arguments].concat());
        let id = sandbox.ok(&[&["commit"], changes, &["c"]].concat());
        sandbox.ok(&["delete", "c"]);
        sandbox.json(&["inspect", id.trim()])[0]["config"]["config"].clone()
    };
    let base = sandbox.json(&["inspect", "shell:1"])[0]["config"]["config"].clone();
    assert_eq!(made(&[], &[], &[]), base, "nothing was asked for");

    let options = ["-e", "A=2", "-e", "B=3", "-w", "/srv", "-u", "7:8", "-l", "y=2", "--hostname", "h"];
    let mut expected = base.clone();
    expected["Cmd"] = json!(["echo", "x y"]);
    expected["Env"] = json!(["PATH=/bin:/usr/bin", "A=2", "B=3"]);
    expected["WorkingDir"] = json!("/srv");
    expected["User"] = json!("7:8");
    expected["Labels"] = json!({"x": "1", "y": "2"});
    assert_eq!(made(&options, &["echo", "x y"], &[]), expected);
    // What is changed goes over that.
    expected["Cmd"] = json!(["z"]);
    expected["Env"] = json!(["PATH=/bin:/usr/bin", "A=4", "B=3"]);
    assert_eq!(made(&options, &["echo", "x y"], &["-c", "CMD [\"z\"]", "-c", "ENV A=4"]), expected);

    let mut expected = base;
    expected["Entrypoint"] = json!(["/bin/sh"]);
    expected.as_object_mut().unwrap().remove("Cmd");
    assert_eq!(made(&["--entrypoint", "/bin/sh"], &[], &[]), expected, "an entrypoint drops the image's command");
    expected["Cmd"] = json!(["-c", "true"]);
    assert_eq!(made(&["--entrypoint", "/bin/sh"], &["-c", "true"], &[]), expected);

    let file = sandbox.path("id");
    sandbox.ok(&["create", "--name", "c", "shell:1"]);
    let id = sandbox.ok(&["commit", "-f", "oci", "--iidfile", file.to_str().unwrap(), "c", "twice:1"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), id.trim());
    let docker = sandbox.run(&["commit", "--format", "docker", "c"]);
    assert!(docker.code != 0 && docker.stderr.contains("docker-archive"), "{docker:?}");
}

/// The names of all chains, whichever backend has them.
fn chains(sandbox: &Sandbox) -> Vec<String> {
    let kept = ["chains/sha256", "dirs/chains/sha256"]
        .into_iter()
        .filter(|directory| sandbox.data_root().join(directory).is_dir());
    kept.flat_map(|directory| sandbox.names(directory)).collect()
}

/// The lines of `diff`.
fn diff(sandbox: &Sandbox, arguments: &[&str]) -> Vec<String> {
    sandbox.ok(&[&["diff"], arguments].concat()).lines().map(str::to_owned).collect()
}

#[test]
fn changes_are_listed_as_podman_does() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(check_listed);
}

fn check_listed() {
    let shell = shell();
    let sandbox = &shell.sandbox;
    let volume = sandbox.path("volume");
    fs::create_dir(&volume).unwrap();
    let volume = format!("{}:/mnt/deep/point", volume.display());
    let script = "echo x > /srv/new; rm /bin/plain; echo y >> /srv/data; mkdir -p /a/b; : > /a/b/c; : > /mnt/deep/point/inside; \
                  ln -s /etc /a/link; : > /a.x";
    sandbox.ok(&["run", "--name", "c", "-v", &volume, "shell:1", "sh", "-c", script]);
    let expected = [
        "A /a",
        "A /a/b",
        "A /a/b/c",
        "A /a/link",
        "A /a.x",
        "C /bin",
        "D /bin/plain",
        "C /srv",
        "C /srv/data",
        "A /srv/new",
    ];
    assert_eq!(diff(sandbox, &["c"]), expected, "neither the mount points nor what is mounted there");
    let found: Value = sandbox.json(&["diff", "--format", "json", "c"]);
    assert_eq!(found["deleted"], json!(["/bin/plain"]));
    assert_eq!(found["changed"], json!(["/bin", "/srv", "/srv/data"]));
    assert_eq!(found["added"].as_array().unwrap().len(), 6);

    // Of one that did nothing there is nothing to tell, started or not.
    sandbox.ok(&["create", "--name", "idle", "-v", &volume, "shell:1"]);
    assert_eq!(diff(sandbox, &["idle"]), [""; 0]);
    sandbox.ok(&["run", "--name", "quiet", "-v", &volume, "shell:1", "sh", "-c", ":"]);
    assert_eq!(diff(sandbox, &["quiet"]), [""; 0]);
    sandbox.ok(&["commit", "--include-volumes", "-c", "VOLUME /other", "quiet", "volumes"]);
    let config = sandbox.json(&["inspect", "volumes"])[0]["config"]["config"].clone();
    assert_eq!(config["Volumes"], json!({ "/mnt/deep/point": {}, "/other": {} }));

    // Images: the topmost layer, and two of them.
    let chains = chains(sandbox);
    let top = diff(sandbox, &["shell:1"]);
    assert!(top.contains(&"C /bin".to_owned()) && top.contains(&"A /bin/lost".to_owned()), "{top:?}");
    assert!(!top.iter().any(|line| line.ends_with("/bin/sh")), "{top:?}");
    assert_eq!(self::chains(sandbox), chains, "what was merged to be compared is gone");
    sandbox.ok(&["commit", "c", "changed"]);
    assert_eq!(diff(sandbox, &["changed", "shell:1"]), expected);
    assert_eq!(sandbox.ok(&["image", "diff", "changed"]).lines().collect::<Vec<_>>(), expected);
    let back = diff(sandbox, &["shell:1", "changed"]);
    assert!(back.contains(&"A /bin/plain".to_owned()) && back.contains(&"D /a".to_owned()), "{back:?}");
    assert_eq!(diff(sandbox, &["changed", "changed"]), [""; 0]);

    for arguments in
        [&["diff", "c", "shell:1"][..], &["diff", "none"], &["diff", "changed", "none"], &["image", "diff", "idle"]]
    {
        let refused = sandbox.run(arguments);
        assert!(refused.code == 1 && refused.stdout.is_empty(), "{arguments:?}: {refused:?}");
    }
}

#[test]
fn a_file_of_the_same_size_and_time_is_still_another() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(check_same_size);
}

fn check_same_size() {
    let shell = shell();
    let script = "touch -r /srv/data /t; printf 'FROM the image\\n' > /srv/data; touch -r /t /srv/data; rm /t";
    shell.sandbox.ok(&["run", "--name", "c", "shell:1", "sh", "-c", script]);
    shell.sandbox.ok(&["commit", "c", "same"]);
    assert_eq!(diff(&shell.sandbox, &["same", "shell:1"]), ["C /srv", "C /srv/data"]);
}

#[test]
fn hostile_trees_are_read_as_they_are() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let sandbox = &shell.sandbox;
    let script =
        "rm -rf /srv; ln -s /proc/self/root/etc /srv; ln -s / /root-link; : > \"$(printf '/a\\nD \\377')\"; sleep 600";
    sandbox.ok(&["run", "-d", "--name", "c", "shell:1", "sh", "-c", script]);
    let root = root_of(sandbox, "c");
    let odd = root.join(std::ffi::OsStr::from_bytes(b"a\nD \xff"));
    eventually("the files are there", || fs::symlink_metadata(&odd).is_ok());
    let listed = diff(sandbox, &["c"]);
    assert_eq!(listed, ["A /a\\nD \\xff", "A /root-link", "C /srv"]);

    // As deep as a path can be, and deeper than any path that can be named: that is told, and nothing is made of it.
    let fifty = vec!["d"; 50].join("/");
    let nest = |times: u32| format!("i=0; while [ $i -lt {times} ]; do mkdir -p {fifty}; cd {fifty}; i=$((i+1)); done");
    sandbox.ok(&["run", "--name", "allowed", "shell:1", "sh", "-c", &nest(40)]);
    assert_eq!(diff(sandbox, &["allowed"]).len(), 2000);
    sandbox.ok(&["commit", "allowed", "allowed"]);
    sandbox.ok(&["run", "--rm", "allowed", "sh", "-c", &format!("cd {fifty}/{fifty}/{fifty}")]);
    sandbox.ok(&["run", "--name", "deep", "shell:1", "sh", "-c", &nest(60)]);
    let layers = sandbox.names("layers/sha256");
    for command in ["diff", "commit"] {
        let refused = sandbox.run(&[command, "deep"]);
        assert!(refused.code == 1 && refused.stderr.contains("2048"), "{command}: {refused:?}");
    }
    assert_eq!(sandbox.names("layers/sha256"), layers);
    // A whiteout's name for a file is no file in a layer.
    sandbox.ok(&["run", "--name", "wh", "shell:1", "sh", "-c", ": > /srv/.wh.data"]);
    let refused = sandbox.run(&["commit", "wh"]);
    assert!(refused.code == 1 && refused.stderr.contains("/srv/.wh.data"), "{refused:?}");
    assert_eq!(sandbox.names("layers/sha256"), layers);
    let tar = sandbox.path("wh.tar");
    sandbox.ok(&["export", "-o", tar.to_str().unwrap(), "wh"]);
    assert!(tool("tar", &["-tf", tar.to_str().unwrap()]).contains("srv/.wh.data"));
}

#[test]
fn a_container_that_runs_and_writes_can_be_committed() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("tar"));
    let shell = shell();
    let sandbox = &shell.sandbox;
    let script = "echo kept > /kept; i=0; while :; do i=$((i+1)); echo \"$i $i $i $i $i $i $i $i\" >> /grows; [ $((i % 50)) = 0 ] && : > /grows; \
                  : > /tmp$((i % 7)); rm -rf /dir; mkdir -p /dir/$((i % 5)); echo $i > /dir/file; rm -f /tmp$(((i + 3) % 7)); done";
    sandbox.ok(&["run", "-d", "--name", "c", "shell:1", "sh", "-c", script]);
    let root = root_of(sandbox, "c");
    eventually("it writes", || root.join("grows").exists());
    for number in 0..8 {
        let name = format!("snap:{number}");
        sandbox.ok(&["commit", "c", &name]);
        assert_eq!(sandbox.ok(&["run", "--rm", &name, "sh", "-c", "cat /kept; [ -f /grows ]"]), "kept\n");
        let tar = top_tar(sandbox, &name, &format!("saved{number}"));
        tool("tar", &["-tf", tar.to_str().unwrap()]);
        let tar = sandbox.path("export.tar");
        sandbox.ok(&["export", "-o", tar.to_str().unwrap(), "c"]);
        tool("tar", &["-tf", tar.to_str().unwrap()]);
        diff(sandbox, &["c"]);
    }
    sandbox.ok(&["stop", "-t", "0", "c"]);
    sandbox.ok(&["commit", "c", "end"]);
    assert_eq!(sandbox.ok(&["run", "--rm", "end", "sh", "-c", "cat /kept"]), "kept\n");
}

#[test]
fn several_commits_at_once_make_one_layer() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let sandbox = &shell.sandbox;
    sandbox.ok(&["run", "--name", "c", "shell:1", "sh", "-c", "cp -r /bin /copy; echo x > /x"]);
    let quiet = std::process::Stdio::null;
    let start =
        |number: u32| sandbox.command().args(["commit", "c", &format!("n:{number}")]).stdout(quiet()).spawn().unwrap();
    for mut commit in (0..6).map(start).collect::<Vec<_>>() {
        assert!(commit.wait().unwrap().success());
    }
    let layers = diff_ids(sandbox, "n:0");
    (1..6).for_each(|number| assert_eq!(diff_ids(sandbox, &format!("n:{number}")), layers));
    assert_eq!(sandbox.names("layers/sha256").len(), 4);
    assert_eq!(sandbox.names("staging"), [""; 0]);
    // Who reads the beginning alone is no failure.
    let mut diff = sandbox.command();
    let mut diff = diff.args(["diff", "c"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(diff.stdout.take());
    assert!(diff.wait().unwrap().success());
}

#[test]
fn commits_stand_on_commits() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("umoci"));
    sandbox::on_both_backends(check_levels);
}

fn check_levels() {
    let shell = shell();
    let sandbox = &shell.sandbox;
    let steps = [
        "mkdir -p /d/e; echo 1 > /d/e/one; echo 1 > /d/two; rm /srv/data; echo 1 > /link; ln /link /srv/link",
        "rm /d/e/one; rm -r /d; mkdir -p /d/e; echo 2 > /d/e/other; echo back > /srv/data; rm /link",
        "rm -r /d/e; echo 3 > /d/e; rm /srv/data; mkdir /srv/data; : > /srv/data/x; echo 3 >> /srv/link",
    ];
    let mut image = "shell:1".to_owned();
    for (number, step) in steps.into_iter().enumerate() {
        let (container, next) = (format!("c{number}"), format!("level:{number}"));
        let script = format!("{step}; : > /ready{number}; sleep 600");
        sandbox.ok(&["run", "-d", "--name", &container, &image, "sh", "-c", &script]);
        let root = root_of(sandbox, &container);
        eventually("it has done its step", || root.join(format!("ready{number}")).exists());
        let expected = seen(&root);
        sandbox.ok(&["commit", &container, &next]);
        expected.assert_same(&seen_in_new(sandbox, &next));
        let umoci = Tree::read(&unpacked(sandbox, &next, &format!("umoci{number}")), &Options::default()).unwrap();
        expected.assert_same(&without_own(umoci));
        image = next;
    }
    assert_eq!(diff_ids(sandbox, &image).len(), 6);
    // The images below stay what they were, and go when nothing needs them.
    assert_eq!(sandbox.ok(&["run", "--rm", "level:0", "sh", "-c", "cat /d/e/one"]), "1\n");
}

#[test]
fn one_without_changes_gives_a_layer_without_entries() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(check_no_changes);
}

fn check_no_changes() {
    let shell = shell();
    let sandbox = &shell.sandbox;
    sandbox.ok(&["create", "--name", "c", "shell:1"]);
    let id = sandbox.ok(&["commit", "c"]);
    let layers = diff_ids(sandbox, id.trim());
    assert_eq!(layers.len(), 4);
    assert_eq!(tool("tar", &["-tf", top_tar(sandbox, id.trim(), "empty").to_str().unwrap()]), "");
    assert_eq!(sandbox.ok(&["run", "--rm", id.trim(), "sh", "-c", "cat /srv/data"]), "from the image\n");

    // The image's names may be gone: the container still knows what it stands on.
    sandbox.ok(&["rmi", "-f", "shell:1"]);
    sandbox.ok(&["commit", "c", "later"]);
    assert_eq!(diff_ids(sandbox, "later"), layers);

    // Nothing of a commit that fails is left.
    let before = sandbox.listing();
    for arguments in [
        &["commit", "-c", "RUN x", "c", "bad"][..],
        &["commit", "c", "bad@sha256:0000000000000000000000000000000000000000000000000000000000000000"],
        &["commit", "-c", "WORKDIR x\0", "c"][..1],
        &["commit", "none", "bad"],
    ] {
        assert_ne!(sandbox.run(arguments).code, 0, "{arguments:?}");
    }
    before.assert_same(&sandbox.listing());
}

#[test]
fn sockets_are_left_out_and_holes_stay_holes() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(check_holes);
}

fn check_holes() {
    let shell = shell();
    let sandbox = &shell.sandbox;
    sandbox.ok(&["run", "-d", "--name", "c", "shell:1", "sh", "-c", "sleep 600"]);
    let root = root_of(sandbox, "c");
    let socket = std::os::unix::net::UnixListener::bind(root.join("srv/socket")).unwrap();
    let sparse = File::create(root.join("srv/sparse")).unwrap();
    sparse.set_len(10 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 5 << 30).unwrap();
    drop((socket, sparse));
    let committed = sandbox.run(&["commit", "c", "s"]);
    assert!(committed.code == 0 && committed.stderr.contains("/srv/socket"), "{committed:?}");
    assert_eq!(sandbox.run(&["commit", "-q", "c", "s"]).stderr, "");
    let tar = top_tar(sandbox, "s", "saved");
    assert!(fs::metadata(&tar).unwrap().len() < 1 << 20, "10 GiB of nothing take nothing");
    let script = "[ ! -e /srv/socket ] && wc -c < /srv/sparse";
    assert_eq!(sandbox.ok(&["run", "--rm", "s", "sh", "-c", script]).trim(), (10_u64 << 30).to_string());
}

#[test]
fn a_mounted_image_stays_until_it_is_unmounted() {
    stos_testkit::require!(Need::Root, Need::Binary);
    sandbox::on_both_backends(check_image_mount);
}

fn check_image_mount() {
    let shell = shell();
    let sandbox = &shell.sandbox;
    let path = PathBuf::from(sandbox.ok(&["image", "mount", "shell:1"]).trim());
    assert_eq!(fs::read_to_string(path.join("srv/data")).unwrap(), "from the image\n");
    assert!(File::create(path.join("new")).is_err(), "it cannot be written");
    let list = sandbox.json(&["image", "mount", "--format", "json"]);
    assert_eq!(list[0]["mountpoint"], json!(path));
    assert!(sandbox.ok(&["image", "mount"]).contains("shell:1"));

    // A sweep does not touch it, nor does the end of containers.
    sandbox.ok(&["run", "--name", "c", "shell:1", "sh", "-c", "echo x > /x"]);
    sandbox.ok(&["commit", "c", "other"]);
    sandbox.ok(&["delete", "c"]);
    sandbox.ok(&["rmi", "other"]);
    assert!(path.join("srv/data").is_file());
    let refused = sandbox.run(&["rmi", "shell:1"]);
    assert!(refused.code == 1 && refused.stderr.contains("image unmount"), "{refused:?}");

    // Mounted twice, it is unmounted twice.
    assert_eq!(sandbox.ok(&["image", "mount", "shell:1"]).trim(), path.to_str().unwrap());
    sandbox.ok(&["image", "unmount", "shell:1"]);
    assert!(path.join("srv/data").is_file());
    sandbox.ok(&["image", "umount", "shell:1"]);
    assert!(!path.exists());
    assert_eq!(sandbox.run(&["image", "unmount", "shell:1"]).code, 1);
    assert_eq!(sandbox.ok(&["image", "mount"]), "");
    assert_eq!(sandbox.json(&["image", "mount", "--format", "json"]), json!([]));

    for arguments in [&["image", "unmount", "--force", "shell:1"][..], &["image", "unmount", "--all", "--force"]] {
        sandbox.ok(&["image", "mount", "shell:1"]);
        sandbox.ok(&["image", "mount", "shell:1"]);
        sandbox.ok(arguments);
        assert!(!path.exists());
    }
    // What cannot be recorded is not mounted: nobody would find it.
    sandbox.ok(&["image", "mount", "shell:1"]);
    let record = path.with_file_name("mount.json");
    sandbox::tool("umount", &[&path]);
    sandbox::tool("mount", &["--bind".as_ref(), record.as_os_str(), record.as_os_str()]);
    assert_ne!(sandbox.run(&["image", "mount", "shell:1"]).code, 0);
    sandbox::tool("umount", &[&record]);
    assert!(!path.join("srv").exists());
    sandbox.ok(&["image", "mount", "shell:1"]);
    sandbox.ok(&["image", "unmount", "shell:1"]);
    assert!(!path.exists());
    // All of them, each once, however many names it has.
    sandbox.ok(&["tag", "shell:1", "again:1"]);
    assert_eq!(sandbox.ok(&["image", "mount", "--all"]).lines().count(), 1);
    assert!(sandbox.ok(&["image", "mount", "-a"]).trim().ends_with(path.to_str().unwrap()));
    sandbox.ok(&["image", "unmount", "--all", "--force"]);
    sandbox.ok(&["rmi", "again:1"]);

    // An image that is gone while another command keeps the sweep away is still mounted, and found.
    let id = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
    for name in ["shell:1", &id[..12]] {
        sandbox.ok(&["image", "mount", "shell:1"]);
        let lease = File::open(sandbox.data_root().join("locks/lease")).unwrap();
        rustix::fs::flock(&lease, rustix::fs::FlockOperation::LockShared).unwrap();
        sandbox.ok(&["rmi", "--force", "shell:1"]);
        assert!(path.join("srv/data").is_file());
        assert_eq!(sandbox.ok(&["image", "unmount", name]).trim(), id);
        assert!(!path.exists());
        drop(lease);
        sandbox.pull(&shell.hub.serve(&shell.image, "shell", "1"));
    }
    assert_eq!(sandbox.run(&["image", "unmount", &id[..12]]).code, 1);

    sandbox.ok(&["image", "mount", "shell:1"]);
    sandbox.ok(&["rmi", "--force", "shell:1"]);
    assert!(!path.exists());
    assert!(sandbox.mounts("erofs").is_empty() && sandbox.mounts("overlay").is_empty());
}
