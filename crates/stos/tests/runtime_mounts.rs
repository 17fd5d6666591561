// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mounts: every option of config.md, and how the root's mounts pass on what is mounted.

mod runtime_scene;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use runtime_scene::{Bundle, Output, Runtime, output};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::require;

/// A bundle that shows its mount table.
fn showing(runtime: &Runtime) -> Bundle {
    runtime.bundle(&["cat", "/proc/self/mountinfo"])
}

/// The line of a mount table for a destination: its own options, optional fields, and the filesystem's options.
#[track_caller]
fn line(table: &str, destination: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
    let line = table.lines().rev().find(|line| line.split(' ').nth(4) == Some(destination));
    let line = line.unwrap_or_else(|| panic!("{destination} is not in {table}"));
    let (before, after) = line.split_once(" - ").unwrap();
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let fields: Vec<_> = before.split(' ').collect();
    let optional = fields[6..].iter().map(|field| (*field).to_owned()).collect();
    (list(fields[5]), optional, list(after.split(' ').nth(2).unwrap_or_default()))
}

#[test]
fn options_of_a_filesystem() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = showing(&runtime);
    let all = [
        (
            vec!["ro", "nosuid", "nodev", "noexec", "noatime"],
            vec!["ro", "nosuid", "nodev", "noexec", "noatime"],
            vec![],
        ),
        (vec!["rw", "suid", "dev", "exec", "strictatime", "nodiratime"], vec!["rw", "nodiratime"], vec![]),
        (vec!["relatime", "async"], vec!["rw", "relatime"], vec![]),
        (vec!["sync", "dirsync"], vec!["rw"], vec!["sync", "dirsync"]),
        (vec!["size=64k", "mode=700"], vec!["rw"], vec!["size=64k", "mode=700"]),
    ];
    for (at, (options, ..)) in all.iter().enumerate() {
        bundle.push(
            "/mounts",
            json!({"destination": format!("/m{at}"), "type": "tmpfs", "source": "tmpfs", "options": options}),
        );
    }
    let ran = runtime.run_bundle(&bundle, "options");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for (at, (_, own, of_filesystem)) in all.iter().enumerate() {
        let (found, _, found_of_filesystem) = line(&ran.stdout, &format!("/m{at}"));
        assert!(own.iter().all(|option| found.iter().any(|found| found == option)), "{own:?}: {found:?}");
        let has = |option: &&str| found_of_filesystem.iter().any(|found| found == option);
        assert!(of_filesystem.iter().all(has), "{of_filesystem:?}: {found_of_filesystem:?}");
        if own[0] == "rw" {
            assert!(!found.iter().any(|found| ["nosuid", "nodev", "noexec"].contains(&found.as_str())), "{found:?}");
        }
    }
}

#[test]
fn newer_options_of_a_filesystem() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // runc 1.1 knows neither.
        return;
    }
    let bundle = showing(&runtime);
    let options = ["nosymfollow", "lazytime", "defaults"];
    bundle.push("/mounts", json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": options}));
    let ran = runtime.run_bundle(&bundle, "newer");
    let (own, _, of_filesystem) = line(&ran.stdout, "/m");
    assert!(own.iter().any(|option| option == "nosymfollow"), "{own:?}");
    assert!(of_filesystem.iter().any(|option| option == "lazytime"), "{of_filesystem:?}");
    for (option, kind) in [("no-such-option", "tmpfs"), ("iversion", "tmpfs"), ("sync", "bind"), ("tmpcopyup", "proc")]
    {
        let bundle = showing(&runtime);
        bundle.push("/mounts", json!({"destination": "/m", "type": kind, "source": "/", "options": [option]}));
        let ran = runtime.run_bundle(&bundle, "unknown");
        assert!(ran.code != 0 && ran.stderr.contains(option), "{option}: {}", ran.stderr);
    }
}

/// Runs a command of the runtime in a mount namespace of the test's own, prepared by a script, so that nothing shows on the host.
fn run_in(runtime: &Runtime, bundle: &Bundle, before: &str, after: &str) -> Output {
    let own = runtime.command();
    let mut command = Command::new("unshare");
    let script = format!("{before} && \"$@\"; code=$?; {after}; exit $code");
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(own.get_program()).args(own.get_args());
    output(command.args(["run", "--bundle"]).arg(&bundle.dir).arg(runtime.id("in")))
}

#[test]
fn recursive_options_count_for_what_is_below() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let dir = runtime.path("data");
    fs::create_dir_all(dir.join("below")).unwrap();
    let before = format!("mount -t tmpfs t {0} && mkdir {0}/below && mount -t tmpfs t {0}/below", dir.display());
    for (options, above, below) in [
        (vec!["rbind", "rro", "rnosuid"], "ro", "ro"),
        (vec!["rbind", "ro"], "ro", "rw"),
        (vec!["rbind", "rro", "rw"], "rw", "ro"),
    ] {
        if !runtime.is_ours() && options[2..] == ["rw"] {
            continue;
        }
        let bundle = showing(&runtime);
        bundle.push("/mounts", json!({"destination": "/data", "type": "bind", "source": dir, "options": options}));
        let ran = run_in(&runtime, &bundle, &before, ":");
        assert_eq!(ran.code, 0, "{options:?}: {}", ran.stderr);
        assert_eq!(line(&ran.stdout, "/data").0[0], above, "{options:?}");
        assert_eq!(line(&ran.stdout, "/data/below").0[0], below, "{options:?}");
    }
}

#[test]
fn a_tmpfs_begins_with_what_it_hides() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let script =
        "cat /data/file /data/link; stat -c %a:%u /data /data/file /data/dir; ls /data/dir; echo new > /data/new";
    let bundle = runtime.bundle(&["sh", "-c", script]);
    let data = bundle.rootfs("data");
    fs::create_dir_all(data.join("dir/deep")).unwrap();
    fs::write(data.join("file"), "old\n").unwrap();
    symlink("file", data.join("link")).unwrap();
    for (path, mode) in [("", 0o1777), ("file", 0o640), ("dir", 0o711)] {
        fs::set_permissions(data.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::chown(data.join("file"), Some(1000), None).unwrap();
    bundle
        .push("/mounts", json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    let ran = runtime.run_bundle(&bundle, "copyup");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "old\nold\n1777:0\n640:1000\n711:0\ndeep\n"), "{}", ran.stderr);
    assert!(!data.join("new").exists());
    if runtime.is_ours() {
        // What is copied is there before the mount is read-only.
        bundle.set("/process/args", json!(["sh", "-c", "cat /data/file; echo x > /data/y || echo read-only"]));
        bundle.set("/mounts/7/options", json!(["tmpcopyup", "ro"]));
        let ran = runtime.run_bundle(&bundle, "copyup-ro");
        assert_eq!(ran.stdout, "old\nread-only\n", "{}", ran.stderr);
        // A symlink that leads out of the root is copied, not what it points at.
        let secret = runtime.path("secret");
        fs::write(&secret, "secret").unwrap();
        fs::remove_file(data.join("link")).unwrap();
        symlink(&secret, data.join("link")).unwrap();
        bundle.set("/process/args", json!(["sh", "-c", "cat /data/link || echo nothing"]));
        assert_eq!(runtime.run_bundle(&bundle, "copyup-link").stdout, "nothing\n");
    }
}

/// Files of an overlay whose layers lie on several filesystems have other devices than its directories.
#[test]
fn a_tmpfs_begins_with_what_an_overlay_of_two_filesystems_has() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "cat /data/one/file /data/two; cat /data/mount/file || echo nothing"]);
    fs::create_dir_all(bundle.rootfs("data/one")).unwrap();
    fs::create_dir(bundle.rootfs("data/mount")).unwrap();
    fs::write(bundle.rootfs("data/one/file"), "one\n").unwrap();
    bundle
        .push("/mounts", json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    // What is mounted in it is no part of it (runc copies that too).
    let mount = if runtime.is_ours() {
        "mount -t tmpfs none rootfs/data/mount && echo x > rootfs/data/mount/file"
    } else {
        ":"
    };
    let before = format!(
        "cd {} && mkdir other && mount -t tmpfs none other && mkdir -p other/data && echo two > other/data/two && \
         mount -t overlay -o lowerdir=other:rootfs none rootfs && {mount}",
        bundle.dir.display()
    );
    let ran = run_in(&runtime, &bundle, &before, ":");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "one\ntwo\nnothing\n"), "{}", ran.stderr);
}

#[test]
fn the_propagation_of_a_mount_is_set() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = showing(&runtime);
    for option in ["shared", "rslave", "private", "unbindable"] {
        let destination = format!("/{option}");
        bundle.push(
            "/mounts",
            json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": [option]}),
        );
    }
    let ran = runtime.run_bundle(&bundle, "propagation");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let optional = |destination: &str| line(&ran.stdout, destination).1;
    assert!(optional("/rslave").is_empty() && optional("/private").is_empty());
    if !runtime.is_called("crun") {
        // crun does it before the root's own, which then goes over it.
        assert!(optional("/shared")[0].starts_with("shared:"));
        assert_eq!(optional("/unbindable"), ["unbindable"]);
    }
}

/// Where the mounts of a table are, by their numbers.
fn by_number(table: &Path) -> BTreeMap<String, String> {
    let table = fs::read_to_string(table).unwrap();
    let lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.map(|fields| (fields[0].to_owned(), fields[4].to_owned())).collect()
}

#[test]
fn the_propagation_of_the_root_is_set() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    // The host's tree is shared, as systemd makes it.
    let (before_it, after_it) = (runtime.path("before"), runtime.path("after"));
    let before = format!("mount --make-rshared / && cat /proc/self/mountinfo > {}", before_it.display());
    let after = format!("cat /proc/self/mountinfo > {}", after_it.display());
    for (propagation, expected) in
        [("", "master:"), ("slave", "master:"), ("rprivate", ""), ("shared", "shared:"), ("unbindable", "unbindable")]
    {
        if !runtime.is_ours() && propagation == "unbindable" {
            // They make the host's tree so, which then cannot be bound.
            continue;
        }
        let bundle = showing(&runtime);
        bundle.set("/linux/rootfsPropagation", json!(propagation));
        let ran = run_in(&runtime, &bundle, &before, &after);
        assert_eq!(ran.code, 0, "{propagation}: {}", ran.stderr);
        // What is mounted here must not show in the namespace that it is run in.
        let (old, new) = (by_number(&before_it), by_number(&after_it));
        assert!(new.keys().all(|number| old.contains_key(number)), "{propagation}: {old:?} {new:?}");
        // Nor may anything go there; a copy of another test's mount does, when that removes its directory.
        let mut lasting = old.iter().filter(|(_, place)| ["/", "/proc", "/sys", "/dev"].contains(&place.as_str()));
        assert!(lasting.all(|(number, _)| new.contains_key(number)), "{propagation}: {old:?} {new:?}");
        let (_, optional, _) = line(&ran.stdout, "/");
        if runtime.is_ours() {
            assert!(optional.first().map_or("", String::as_str).starts_with(expected), "{propagation}: {optional:?}");
            assert_eq!(optional.is_empty(), expected.is_empty(), "{propagation}: {optional:?}");
        }
    }
    let bundle = showing(&runtime);
    bundle.set("/linux/rootfsPropagation", json!("both"));
    // crun takes what it does not know for nothing.
    assert!(runtime.run_bundle(&bundle, "both").code != 0 || runtime.is_called("crun"));
}

/// With a shared root a volume gives back to the host what is mounted in it, as engines offer it; else never.
#[test]
fn a_shared_volume_gives_back() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    for (root, expected) in [("shared", "given back"), ("rslave", "kept")] {
        let dir = runtime.path("volume");
        fs::create_dir_all(&dir).unwrap();
        let bundle = runtime.bundle(&["/bin/mounter", "-t", "tmpfs", "of-container", "/volume/sub"]);
        runtime_scene::copy_program("/bin/mount", bundle.rootfs("bin/mounter"));
        for place in ["lib", "lib64", "usr"] {
            let options = ["rbind", "ro"];
            bundle.push("/mounts", json!({"destination": format!("/{place}"), "type": "bind", "source": format!("/{place}"), "options": options}));
        }
        bundle.push(
            "/mounts",
            json!({"destination": "/volume", "type": "bind", "source": dir, "options": ["rbind", "rshared"]}),
        );
        bundle.set("/linux/rootfsPropagation", json!(root));
        for set in ["bounding", "effective", "permitted"] {
            bundle.set(&format!("/process/capabilities/{set}"), json!(["CAP_SYS_ADMIN"]));
        }
        let dir = dir.display();
        let before = format!("mount -t tmpfs v {dir} && mount --make-shared {dir} && mkdir {dir}/sub");
        let after = "grep -q of-container /proc/self/mountinfo && echo given back || echo kept";
        let ran = run_in(&runtime, &bundle, &before, after);
        assert_eq!((ran.code, ran.stdout.trim()), (0, expected), "{root}: {}", ran.stderr);
    }
}

/// It would have no effect on the container's process, and on later ones it would.
#[test]
fn nothing_covers_the_root() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // runc 1.1 mounts it where the container's process does not see it.
        return;
    }
    for (destination, kind) in [("/", "tmpfs"), ("/data", "tmpfs"), ("/data", "bind"), ("/etc/..", "sysfs")] {
        let bundle = runtime.bundle(&["sh", "-c", "echo it runs"]);
        symlink("/", bundle.rootfs("data")).unwrap();
        let source = runtime.path("");
        let options = if kind == "bind" { json!(["rbind"]) } else { json!([]) };
        bundle.push("/mounts", json!({"destination": destination, "type": kind, "source": source, "options": options}));
        let ran = runtime.run_bundle(&bundle, "covered");
        assert_ne!((ran.code, ran.stdout.as_str()), (0, "it runs\n"), "{destination}");
        assert!(ran.stderr.contains("refused: it would cover the root"), "{destination} {kind}: {}", ran.stderr);
    }
    for key in ["/linux/readonlyPaths", "/linux/maskedPaths"] {
        let bundle = runtime.bundle(&["sh", "-c", "echo it runs"]);
        bundle.push(key, json!("/"));
        let ran = runtime.run_bundle(&bundle, "covered");
        assert_ne!(ran.code, 0, "{key}");
        assert!(ran.stderr.contains("mount at \"/\" refused: it would cover the root"), "{key}: {}", ran.stderr);
    }
    // A change of the root's own mount is seen by all.
    let bundle = runtime.bundle(&["sh", "-c", "while :; do sleep 1; done"]);
    bundle.push("/mounts", json!({"destination": "/", "source": "", "options": ["remount", "bind", "ro"]}));
    let id = runtime.started(&bundle, "read-only");
    let said = runtime.run(&["exec", &id, "sh", "-c", "echo x > /made || echo read-only"]);
    assert_eq!(said.stdout, "read-only\n", "{}", said.stderr);
}

#[test]
fn a_mount_takes_the_place_of_a_default_device() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["stat", "-c", "%t:%T", "/dev/random", "/dev/urandom"]);
    let bind = json!({"destination": "/dev/random", "type": "bind", "source": "/dev/urandom", "options": ["bind"]});
    bundle.push("/mounts", bind);
    let ran = runtime.run_bundle(&bundle, "device");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "1:9\n1:9\n"), "{}", ran.stderr);
}
