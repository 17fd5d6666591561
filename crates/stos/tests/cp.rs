// SPDX-License-Identifier: Apache-2.0 OR MIT
//! cp into and out of containers from images: where things go, what belongs to them, and that a hostile container leads nobody out.

mod sandbox;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use sandbox::shell::{Shell, eventually};
use sandbox::{Output, tool};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::ImageBuilder;

const IDLE: &str = "echo up; exec sleep 1000";

/// A shell with a container that runs, called `up`, and one that was never started, called `down`.
fn two() -> Shell {
    let shell = Shell::new();
    shell.sandbox.ok(&["run", "-d", "--name", "up", "shell:1", "sh", "-c", IDLE]);
    shell.sandbox.ok(&["create", "--name", "down", "shell:1", "sh", "-c", IDLE]);
    eventually("it is up", || shell.sandbox.ok(&["logs", "up"]) == "up\n");
    shell
}

fn on_both(shell: &Shell, test: impl Fn(&str)) {
    for container in ["up", "down"] {
        test(container);
        let left = shell.sandbox.mounts("overlay");
        assert!(left.is_empty(), "{container}: {left:?}");
    }
}

fn cp(shell: &Shell, options: &[&str]) -> Output {
    shell.sandbox.run(&[&["cp"], options].concat())
}

#[track_caller]
fn copied(shell: &Shell, options: &[&str]) {
    let output = cp(shell, options);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{options:?}");
}

fn local(shell: &Shell, name: &str) -> PathBuf {
    let dir = shell.sandbox.path(name);
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// What a file of a container holds.
fn text(shell: &Shell, container: &str, path: &str) -> String {
    let to = local(shell, "text").join("file");
    copied(shell, &[&format!("{container}:{path}"), to.to_str().unwrap()]);
    fs::read_to_string(to).unwrap()
}

#[test]
fn files_and_directories_go_where_podman_puts_them() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = two();
    let from = local(&shell, "from");
    fs::write(from.join("file"), "text").unwrap();
    fs::create_dir_all(from.join("dir/deep")).unwrap();
    fs::write(from.join("dir/deep/inner"), "inner").unwrap();
    symlink("/etc/passwd", from.join("dir/link")).unwrap();
    let (file, dir) = (from.join("file"), from.join("dir"));
    let (file, dir) = (file.to_str().unwrap(), dir.to_str().unwrap());
    on_both(&shell, |container| {
        let at = |path: &str| format!("{container}:{path}");
        copied(&shell, &[file, &at("/srv")]);
        assert_eq!(text(&shell, container, "/srv/file"), "text");
        copied(&shell, &[file, &at("srv/other")]);
        assert_eq!(text(&shell, container, "/srv/other"), "text", "a relative path counts from the root");
        copied(&shell, &[file, &at("/srv/data")]);
        assert_eq!(text(&shell, container, "/srv/data"), "text", "what is there is replaced");
        copied(&shell, &[dir, &at("/new")]);
        assert_eq!(text(&shell, container, "/new/deep/inner"), "inner");
        copied(&shell, &[dir, &at("/new")]);
        assert_eq!(text(&shell, container, "/new/dir/deep/inner"), "inner", "into what is there by now");
        copied(&shell, &[&format!("{dir}/."), &at("/srv")]);
        assert_eq!(text(&shell, container, "/srv/deep/inner"), "inner");
        for refused in [
            [file, &at("/none/file")],
            [file, &at("/none/")],
            [file, &at("/srv/file/")],
            [dir, &at("/srv/file")],
            ["/none", &at("/srv")],
            [&format!("{file}/"), &at("/srv")],
            [&at("/none"), "/tmp"],
            [&at("/srv/file/"), "/tmp"],
            [&at("/srv"), file],
        ] {
            assert_eq!(cp(&shell, &refused).code, 1, "{refused:?}");
        }
        let out = local(&shell, "out");
        copied(&shell, &[&at("/new"), out.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(out.join("new/dir/deep/inner")).unwrap(), "inner");
        assert_eq!(fs::read_link(out.join("new/link")).unwrap(), Path::new("/etc/passwd"), "as it is");
        copied(&shell, &[&at("/new/."), out.join("named").to_str().unwrap()]);
        assert!(out.join("named/deep/inner").exists());
        copied(&shell, &[&at("/new/link"), out.to_str().unwrap()]);
        let passwd = fs::read_to_string(out.join("passwd")).unwrap();
        assert_eq!(passwd, text(&shell, container, "/etc/passwd"), "followed in the container, and named so");
    });
    for refused in [["up", "down"], ["-", "-"], ["-", "/tmp"], [file, dir], ["none:/x", "/tmp"]] {
        assert_eq!(cp(&shell, &refused).code, 1, "{refused:?}");
    }
}

#[test]
fn what_comes_in_is_the_container_s_user_s_and_what_comes_out_is_ours() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::of(&ImageBuilder::new().user("user"));
    shell.sandbox.ok(&["create", "--name", "c", "shell:1", "sh", "-c", "stat -c '%u %g %a' /srv/in /srv/kept /srv/d"]);
    let from = local(&shell, "from");
    for name in ["in", "kept"] {
        fs::write(from.join(name), name).unwrap();
        fs::set_permissions(from.join(name), fs::Permissions::from_mode(0o4751)).unwrap();
        std::os::unix::fs::chown(from.join(name), Some(7), Some(8)).unwrap();
        fs::set_permissions(from.join(name), fs::Permissions::from_mode(0o4751)).unwrap();
    }
    let past = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 0);
    fs::create_dir(from.join("d")).unwrap();
    fs::set_permissions(from.join("d"), fs::Permissions::from_mode(0o1700)).unwrap();
    fs::File::open(from.join("in")).unwrap().set_modified(past).unwrap();
    fs::File::open(from.join("d")).unwrap().set_modified(past).unwrap();
    let path = |name: &str| from.join(name).to_str().unwrap().to_owned();
    copied(&shell, &[&path("in"), "c:/srv"]);
    copied(&shell, &["-a=false", &path("kept"), "c:/srv"]);
    copied(&shell, &["--archive", &path("d"), "c:/srv"]);
    // Whose another's file becomes, has not its rights.
    assert_eq!(shell.sandbox.run(&["start", "-a", "c"]).stdout, "1000 1000 751\n7 8 4751\n1000 1000 1700\n");
    let out = local(&shell, "out");
    copied(&shell, &["c:/srv/.", out.to_str().unwrap()]);
    let (kept, of_in) = (fs::metadata(out.join("kept")).unwrap(), fs::metadata(out.join("in")).unwrap());
    assert_eq!((kept.uid(), kept.gid(), kept.mode() & 0o7777), (0, 0, 0o751));
    assert_eq!((of_in.uid(), of_in.mtime()), (0, 1_000_000));
    assert_eq!(fs::metadata(out.join("d")).unwrap().mtime(), 1_000_000);
}

#[test]
fn tars_go_in_and_come_out() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("tar"));
    let shell = two();
    let from = local(&shell, "from");
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/b/file"), "text").unwrap();
    fs::hard_link(from.join("a/b/file"), from.join("a/hard")).unwrap();
    let archive = shell.sandbox.path("in.tar.gz");
    tool("tar", &["-C", from.to_str().unwrap(), "-czf", archive.to_str().unwrap(), "a"]);
    on_both(&shell, |container| {
        let unpack = |path: &Path, target: &str| {
            let mut command = shell.sandbox.command();
            let stdin = Stdio::from(fs::File::open(path).unwrap());
            sandbox::output(command.args(["cp", "-", &format!("{container}:{target}")]).stdin(stdin))
        };
        let unpacked = unpack(&archive, "/srv");
        assert_eq!((unpacked.code, unpacked.stderr.as_str()), (0, ""));
        assert_eq!(text(&shell, container, "/srv/a/b/file"), "text");
        assert_eq!(text(&shell, container, "/srv/a/hard"), "text");
        assert_eq!(unpack(&archive, "/srv/data").code, 1, "no directory");
        assert_eq!(unpack(&archive, "/none").code, 1);
        assert_eq!(unpack(Path::new("/etc/passwd"), "/srv").code, 1, "no tar");
        let out = shell.sandbox.path("out.tar");
        let pack = |path: &str| {
            let mut command = shell.sandbox.command();
            let stdout = Stdio::from(fs::File::create(&out).unwrap());
            let status = command.args(["cp", &format!("{container}:{path}"), "-"]).stdout(stdout).status();
            assert!(status.unwrap().success(), "{path}");
            tool("tar", &["-tf", out.to_str().unwrap()]).lines().map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(pack("/srv/a"), "a/ a/b/ a/b/file a/hard");
        assert_eq!(pack("/srv/a/."), "b/ b/file hard");
        assert_eq!(pack("/srv/data"), "data");
        let all = pack("/");
        assert!(all.contains("etc/passwd") && !all.contains("proc/"), "{all}");
    });
}

#[test]
fn directories_and_other_files_replace_each_other_only_if_told() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = two();
    let from = local(&shell, "from");
    fs::create_dir_all(from.join("x/data")).unwrap();
    fs::write(from.join("file"), "text").unwrap();
    fs::write(from.join("x/data/in"), "in").unwrap();
    let x = format!("{}/.", from.join("x").display());
    on_both(&shell, |container| {
        let srv = format!("{container}:/srv");
        let refused = cp(&shell, &[&x, &srv]);
        assert!(refused.code == 1 && refused.stderr.contains("cannot replace data"), "{}", refused.stderr);
        assert_eq!(text(&shell, container, "/srv/data"), "from the image\n");
        copied(&shell, &["--overwrite", &x, &srv]);
        assert_eq!(text(&shell, container, "/srv/data/in"), "in");
        let back = local(&shell, "back");
        fs::create_dir_all(back.join("data")).unwrap();
        fs::write(back.join("data/old"), "").unwrap();
        fs::rename(back.join("data"), back.join("file")).unwrap();
        copied(&shell, &[from.join("file").to_str().unwrap(), &srv]);
        let file = format!("{container}:/srv/file");
        assert_eq!(cp(&shell, &[&format!("{container}:/srv/."), back.to_str().unwrap()]).code, 1);
        assert!(back.join("file/old").exists());
        copied(&shell, &["--overwrite", &format!("{container}:/srv/."), back.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(back.join("file")).unwrap(), "text");
        copied(&shell, &[&file, back.to_str().unwrap()]);
    });
}

#[test]
fn volumes_and_mounts_are_where_the_container_has_them() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::of(&ImageBuilder::new().set("/config/Volumes", json!({"/vol": {}})));
    let host = local(&shell, "host");
    let (rw, ro) = (format!("{}:/rw", host.display()), format!("{}:/ro:ro", host.display()));
    shell.sandbox.ok(&["create", "--name", "c", "-v", &rw, "-v", &ro, "shell:1", "sh", "-c", "cat /vol/file"]);
    let from = local(&shell, "from").join("file");
    fs::write(&from, "text").unwrap();
    let from = from.to_str().unwrap();
    for path in ["c:/vol", "c:/rw"] {
        copied(&shell, &[from, path]);
    }
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "text");
    assert_eq!(cp(&shell, &[from, "c:/ro/other"]).code, 1);
    assert!(!host.join("other").exists());
    assert_eq!(text(&shell, "c", "/ro/file"), "text");
    assert!(text(&shell, "c", "/etc/hosts").contains("localhost"), "it never ran, and has what it brings itself");
    assert_eq!(shell.sandbox.run(&["start", "-a", "c"]).stdout, "text");
    copied(&shell, &[from, "c:/etc/hosts"]);
    assert_eq!(text(&shell, "c", "/etc/hosts"), "text", "what is mounted is written in place");
}

#[test]
fn files_that_containers_share_are_there_before_either_has_run() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let owner = ["create", "--name", "owner", "--network", "none", "--add-host", "db:10.9.9.9"];
    shell.sandbox.ok(&[&owner[..], &["shell:1", "sleep", "1000"]].concat());
    let ids = ["--uidmap", "0:100000:65536"];
    let joiner = ["create", "--name", "joiner", "--network", "container:owner", "shell:1", "cat", "/etc/hosts"];
    shell.sandbox.ok(&joiner);
    let mapped = ["create", "--name", "mapped", "--network", "none"];
    let write = "echo more >> /etc/hosts && stat -c %u /etc/hosts";
    shell.sandbox.ok(&[&mapped[..], &ids, &["shell:1", "sh", "-c", write]].concat());
    let hosts = text(&shell, "joiner", "/etc/hosts");
    assert!(hosts.contains("10.9.9.9\tdb\n") && hosts == text(&shell, "owner", "/etc/hosts"), "{hosts}");
    let from = local(&shell, "from").join("file");
    fs::write(&from, "10.9.9.8 other\n").unwrap();
    copied(&shell, &[from.to_str().unwrap(), "joiner:/etc/hosts"]);
    shell.sandbox.ok(&["start", "owner"]);
    assert_eq!(shell.sandbox.ok(&["start", "-a", "joiner"]), "10.9.9.8 other\n");
    assert_eq!(text(&shell, "owner", "/etc/hosts"), "10.9.9.8 other\n");
    assert!(text(&shell, "mapped", "/etc/hosts").contains("localhost"));
    assert_eq!(shell.sandbox.ok(&["start", "-a", "mapped"]), "0\n", "they are its root's");
}

/// What is mounted in a container that runs is no mount point to the kernel's mind, who asks from outside: it would be unmounted.
#[test]
fn what_is_mounted_in_a_container_that_runs_stays_mounted() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let (host, ro, a, b) = (local(&shell, "host"), local(&shell, "ro"), local(&shell, "a"), local(&shell, "b"));
    for (dir, name) in [(&host, "rw"), (&host, "ro"), (&b, "kept")] {
        fs::write(dir.join(name), "of the host").unwrap();
    }
    let binds = [
        format!("{}:/srv/rw", host.join("rw").display()),
        format!("{}:/srv/ro:ro", host.join("ro").display()),
        format!("{}:/data", a.display()),
        format!("{}:/data/b", b.display()),
        format!("{}:/data/deep/ro:ro", ro.display()),
    ];
    let binds: Vec<&str> = binds.iter().flat_map(|bind| ["-v", bind]).collect();
    shell.sandbox.ok(&[&["run", "-d", "--name", "c"], &binds[..], &["shell:1", "sleep", "1000"]].concat());
    let mounts = || shell.sandbox.ok(&["exec", "c", "cat", "/proc/self/mountinfo"]);
    let before = mounts();
    let from = local(&shell, "from");
    for name in ["file", "b", "deep"] {
        fs::write(from.join(name), "text").unwrap();
    }
    symlink("elsewhere", from.join("link")).unwrap();
    let path = |name: &str| from.join(name).to_str().unwrap().to_owned();
    copied(&shell, &[&path("file"), "c:/srv/rw"]);
    assert_eq!(fs::read_to_string(host.join("rw")).unwrap(), "text");
    copied(&shell, &[&path("file"), "c:/etc/hosts"]);
    assert_eq!(shell.sandbox.ok(&["exec", "c", "cat", "/etc/hosts"]), "text");
    let refused = cp(&shell, &[&path("file"), "c:/srv/ro"]);
    assert!(refused.code == 1 && refused.stderr.contains("write in place ro"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(host.join("ro")).unwrap(), "of the host");
    // Neither what is mounted is emptied nor what holds it.
    for (name, said) in
        [("b", "cannot replace b, a mount point that is no file"), ("deep", "cannot replace ro, a mount point, with")]
    {
        let whole = local(&shell, "whole");
        fs::copy(path(name), whole.join(name)).unwrap();
        let refused = cp(&shell, &["--overwrite", &format!("{}/.", whole.display()), "c:/data"]);
        assert!(refused.code == 1 && refused.stderr.contains(said), "{name}: {}", refused.stderr);
    }
    assert_eq!(fs::read_to_string(b.join("kept")).unwrap(), "of the host");
    assert_eq!(fs::read_dir(&from).unwrap().count(), 4);
    let links = local(&shell, "links");
    symlink("elsewhere", links.join("rw")).unwrap();
    let refused = cp(&shell, &[&format!("{}/.", links.display()), "c:/srv"]);
    assert!(
        refused.stderr.contains("cannot replace rw, a mount point, with anything but a file"),
        "{}",
        refused.stderr
    );
    assert_eq!(mounts(), before);
    let left = shell.sandbox.ok(&["exec", "c", "sh", "-c", "ls -A /srv /etc /data | grep stos-cp || true"]);
    assert_eq!(left, "");
}

#[test]
fn a_copy_goes_from_container_to_container_and_never_into_itself() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = two();
    copied(&shell, &["up:/srv", "down:/copy"]);
    assert_eq!(text(&shell, "down", "/copy/data"), "from the image\n");
    copied(&shell, &["down:/copy/data", "up:/srv/other"]);
    assert_eq!(text(&shell, "up", "/srv/other"), "from the image\n");
    shell.sandbox.ok(&["create", "--name", "third", "shell:1"]);
    copied(&shell, &["down:/copy", "third:/"]);
    assert_eq!(text(&shell, "third", "/copy/data"), "from the image\n");
    on_both(&shell, |container| {
        let at = |path: &str| format!("{container}:{path}");
        copied(&shell, &[&at("/srv"), &at("/again")]);
        assert_eq!(text(&shell, container, "/again/data"), "from the image\n");
        for target in ["/srv", "/srv/new"] {
            let refused = cp(&shell, &[&at("/srv"), &at(target)]);
            assert!(refused.code == 1 && refused.stderr.contains("into itself"), "{target}: {}", refused.stderr);
        }
    });
}

#[test]
fn symlinks_of_the_container_lead_nowhere_but_into_it() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = two();
    let outside = local(&shell, "outside");
    fs::write(outside.join("secret"), "secret").unwrap();
    let from = local(&shell, "from").join("file");
    fs::write(&from, "text").unwrap();
    let links = local(&shell, "links");
    symlink(outside.join("secret"), links.join("file")).unwrap();
    symlink(&outside, links.join("dir")).unwrap();
    symlink("../../../../../../../../../..", links.join("up")).unwrap();
    symlink("/proc/self/root", links.join("magic")).unwrap();
    on_both(&shell, |container| {
        copied(&shell, &[links.to_str().unwrap(), &format!("{container}:/links")]);
        let at = |path: &str| format!("{container}:/links/{path}");
        for path in [
            "file",
            "dir/secret",
            &format!("up{}/secret", outside.display()),
            &format!("magic{}/secret", outside.display()),
        ] {
            let to = local(&shell, "to");
            assert_eq!(cp(&shell, &[&at(path), to.to_str().unwrap()]).code, 1, "{path}");
            assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "{path}");
        }
        for path in ["file", "dir", "dir/new", &format!("up{}", outside.display())] {
            cp(&shell, &[from.to_str().unwrap(), &at(path)]);
        }
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        // Nor does one of ours that is in the way of what comes out.
        let to = local(&shell, "to");
        symlink(&outside, to.join("srv")).unwrap();
        assert_eq!(cp(&shell, &[&format!("{container}:/srv"), to.to_str().unwrap()]).code, 1);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    });
}

#[test]
fn a_container_that_swaps_a_directory_for_a_symlink_leads_nobody_out() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let outside = local(&shell, "outside");
    fs::write(outside.join("data"), "secret of the host").unwrap();
    let swap = format!(
        "mkdir -p /play/real; echo inside > /play/real/data; ln -s {} /play/link; echo up; \
         while :; do mv -T /play/real /play/dir; mv -T /play/dir /play/real; mv -T /play/link /play/dir; \
         mv -T /play/dir /play/link; done",
        outside.display()
    );
    shell.sandbox.ok(&["run", "-d", "--name", "c", "shell:1", "sh", "-c", &swap]);
    eventually("it swaps", || shell.sandbox.ok(&["logs", "c"]) == "up\n");
    let from = local(&shell, "from");
    fs::create_dir(from.join("dir")).unwrap();
    fs::write(from.join("dir/data"), "from outside").unwrap();
    let (from_file, from_dir) = (from.join("dir/data"), format!("{}/.", from.display()));
    let has_read = AtomicBool::new(false);
    for _ in 0..40 {
        for source in ["c:/play/dir/data", "c:/play/dir/.", "c:/play"] {
            let to = local(&shell, "to");
            cp(&shell, &[source, to.to_str().unwrap()]);
            for found in tool("find", &[to.to_str().unwrap(), "-type", "f"]).lines() {
                let text = fs::read_to_string(found).unwrap();
                assert!(text == "inside\n" || text == "from outside" || text.is_empty(), "{source}: {text:?}");
                has_read.store(true, Ordering::Relaxed);
            }
        }
        cp(&shell, &[from_file.to_str().unwrap(), "c:/play/dir/data"]);
        cp(&shell, &[from_file.to_str().unwrap(), "c:/play/dir"]);
        cp(&shell, &["--overwrite", &from_dir, "c:/play"]);
        assert_eq!(fs::read_to_string(outside.join("data")).unwrap(), "secret of the host");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
    assert!(has_read.into_inner(), "nothing was ever copied: the test proves nothing");
}

/// They say that they are empty, and so would be their copies.
#[test]
fn files_of_the_kernel_are_refused() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = two();
    let to = local(&shell, "to");
    let target = to.to_str().unwrap();
    for (source, target, filesystem) in [
        ("up:/proc/version", target, "proc"),
        ("up:/sys/kernel", target, "sysfs"),
        ("up:/proc/version", "-", "proc"),
        ("/proc/version", "up:/srv", "proc"),
    ] {
        let refused = cp(&shell, &[source, target]);
        let path = source.trim_start_matches("up:");
        let said = format!("{path} is the kernel's and cannot be copied: it lies on {filesystem}");
        assert!(refused.code == 1 && refused.stderr.contains(&said), "{source}: {}", refused.stderr);
        assert_eq!((refused.stdout.as_str(), fs::read_dir(&to).unwrap().count()), ("", 0));
    }
}

#[test]
fn a_copy_that_is_killed_leaves_no_mount_and_lets_the_container_start() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = two();
    let mut command = shell.sandbox.command();
    let mut copy = command.args(["cp", "-", "down:/srv"]).stdin(Stdio::piped()).spawn().unwrap();
    let table = format!("/proc/{}/mounts", copy.id());
    eventually("the container's root is mounted for the copy", || {
        fs::read_to_string(&table).is_ok_and(|mounts| mounts.lines().any(|line| line.contains("/work overlay ")))
    });
    assert!(shell.sandbox.mounts("overlay").is_empty(), "the host sees it");
    let mut start = shell.sandbox.command().args(["start", "down"]).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(shell.status("down"), "created", "it waits for the copy");
    copy.kill().unwrap();
    copy.wait().unwrap();
    assert!(start.wait().unwrap().success());
    assert_eq!(shell.status("down"), "running");
    assert!(shell.sandbox.mounts("overlay").is_empty());
}
