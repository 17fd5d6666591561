// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an image or a bundle may try to get out of a container, each with where the field learned it. A runtime that follows names
//! where it should hold descriptors fails here.

mod runtime_scene;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use runtime_scene::{Bundle, Runtime, cgroup_of, eventually, output};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::require;

/// The standard mounts without some.
fn without(bundle: &Bundle, is_out: impl Fn(&str) -> bool) {
    let mounts = bundle.config()["mounts"].as_array().unwrap().clone();
    let kept = mounts.into_iter().filter(|mount| !is_out(mount["destination"].as_str().unwrap()));
    bundle.set("/mounts", kept.collect());
}

/// Puts a link in the place of a directory of the image.
fn link(bundle: &Bundle, target: impl AsRef<std::path::Path>, name: &str) {
    let path = bundle.rootfs(name);
    if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        fs::remove_dir_all(&path).unwrap();
    }
    symlink(target, path).unwrap();
}

/// CVE-2019-5736: the container overwrites the runtime's binary through `/proc/PID/exe`.
#[test]
fn the_runtime_s_binary_cannot_be_written() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    the_binary_holds(&runtime, |program| Command::new(program));
}

/// The same where the kernel does not let us change in place what we run from: then we are executed again.
#[test]
fn nor_can_it_where_it_is_executed_again() {
    require!(Need::Root, Need::Binary, Need::Tool("python3"));
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        return;
    }
    // prctl(PR_SET_MM) gives EPERM (a filter of seccomp(2)): load the number; 157 or 167 is prctl; load its first argument; 35.
    let number = if cfg!(target_arch = "x86_64") { 157 } else { 167 };
    let script = format!(
        "import ctypes, os, struct, sys\n\
         rules = [(0x20, 0, 0, 0), (0x15, 0, 3, {number}), (0x20, 0, 0, 16), (0x15, 0, 1, 35), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)]\n\
         code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))\n\
         program = struct.pack('HxxxxxxQ', len(rules), ctypes.addressof(code))\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0\n\
         assert libc.prctl(35, 14, 0, 0, 0) == -1 and ctypes.get_errno() == 1\n\
         os.execv(sys.argv[1], sys.argv[1:])"
    );
    the_binary_holds(&runtime, |program| {
        let mut python = Command::new("python3");
        python.args(["-c", &script]).arg(program);
        python
    });
}

/// Creates a container by a copy of the runtime, started by `start`, and tries to write to the copy as a container would.
fn the_binary_holds(runtime: &Runtime, start: impl FnOnce(&std::path::Path) -> Command) {
    let bundle = runtime.bundle(&["sh", "-c", ":"]);
    let id = runtime.id("exe");
    // A copy, by the same name, which nobody else executes: else "text file busy" would hide what counts.
    let own = runtime.command();
    fs::create_dir(runtime.path("copy")).unwrap();
    let copy = runtime.path("copy").join(std::path::Path::new(own.get_program()).file_name().unwrap());
    runtime_scene::copy_program(own.get_program(), &copy);
    let content = fs::read(&copy).unwrap();
    let mut create = start(&copy);
    create
        .args(own.get_args())
        .args(["create", "--bundle"])
        .arg(&bundle.dir)
        .arg(&id)
        .stdin(std::process::Stdio::null());
    let created = runtime.detached(create, &id);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let pid = runtime.state(&id)["pid"].as_i64().unwrap();
    let exe = fs::File::open(format!("/proc/{pid}/exe")).unwrap();
    runtime.ok(&["delete", "--force", &id]);
    runtime_scene::eventually(|| fs::read_link(format!("/proc/{pid}/exe")).is_err());
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&exe));
    match fs::OpenOptions::new().write(true).open(again) {
        Err(error) => assert!(error.kind() != std::io::ErrorKind::ExecutableFileBusy, "{error}"),
        // A sealed copy in memory can be opened, and not written.
        Ok(mut file) => drop(std::io::Write::write_all(&mut file, b"#!/bin/false").unwrap_err()),
    }
    assert!(fs::read(&copy).unwrap() == content, "the runtime's binary is another");
}

/// CVE-2019-19921, CVE-2023-27561: `/proc` or `/sys` of the image is a symlink, so that what is masked is a decoy.
#[test]
fn proc_and_sys_are_where_they_are_asked_for() {
    require!(Need::Root, Need::Binary);
    for name in ["proc", "sys"] {
        let runtime = Runtime::new();
        let bundle = runtime.bundle(&["sh", "-c", "echo ran"]);
        fs::create_dir_all(bundle.rootfs("decoy")).unwrap();
        link(&bundle, "/decoy", name);
        let ran = runtime.run_bundle(&bundle, "link");
        assert!(ran.code != 0 && ran.stdout.is_empty(), "{name}: {}", ran.stdout);
    }
}

/// CVE-2019-16884: a mount over the part of procfs that labels are written to.
#[test]
fn a_mount_does_not_cover_procfs() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // runc 1.1 and crun 1.8 mount some of these.
        return;
    }
    for destination in ["/proc/self/attr", "/proc/sys", "/proc/sysrq-trigger/..", "/proc/1/attr"] {
        let bundle = runtime.bundle(&["sh", "-c", "echo ran"]);
        bundle.push("/mounts", json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
        let ran = runtime.run_bundle(&bundle, "cover");
        assert!(ran.code != 0 && ran.stdout.is_empty(), "{destination}: {}", ran.stdout);
    }
}

/// CVE-2021-30465: a mount's target is a symlink out of the root, as a volume of another container may make it meanwhile.
#[test]
fn a_mount_does_not_leave_the_root() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "echo ran"]);
    let outside = runtime.path("outside");
    fs::create_dir(&outside).unwrap();
    link(&bundle, &outside, "absolute");
    link(&bundle, "../../../../../../../../../../../tmp", "relative");
    let volume = runtime.path("volume");
    fs::create_dir(&volume).unwrap();
    symlink(format!("../../../../../../../..{}", outside.display()), volume.join("deep")).unwrap();
    for (destination, kind, source) in [
        ("/absolute/in", "tmpfs", "tmpfs".into()),
        ("/relative/stos-test-escape", "tmpfs", "tmpfs".into()),
        ("/volume", "bind", volume.display().to_string()),
        ("/volume/deep/in", "tmpfs", "tmpfs".into()),
    ] {
        let options = if kind == "bind" { json!(["bind"]) } else { json!([]) };
        bundle.push("/mounts", json!({"destination": destination, "type": kind, "source": source, "options": options}));
    }
    // Whether it runs is the runtime's say; what it does on the host is not.
    drop(runtime.run_bundle(&bundle, "target"));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!std::path::Path::new("/tmp/stos-test-escape").exists());
}

/// The race itself: a volume whose content changes between a directory and a symlink to the host while mounts go through it.
#[test]
fn a_target_that_is_swapped_meanwhile() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let volume = runtime.path("volume");
    let outside = runtime.path("outside");
    fs::create_dir_all(volume.join("dir")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(format!("../../../../../../../../..{}", outside.display()), volume.join("link")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let swap = || {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            renameat_with(CWD, volume.join("dir"), CWD, volume.join("link"), RenameFlags::EXCHANGE).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(swap);
        for _ in 0..20 {
            let bundle = runtime.bundle(&["sh", "-c", ":"]);
            bundle.push(
                "/mounts",
                json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["bind"]}),
            );
            bundle.push("/mounts", json!({"destination": "/volume/dir/in", "type": "tmpfs", "source": "tmpfs"}));
            drop(runtime.run_bundle(&bundle, "race"));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// CVE-2024-21626: a working directory or a command behind a descriptor of the host that leaked.
#[test]
fn no_descriptor_leads_out() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let leaking = |bundle: &Bundle, name: &str| {
        let own = runtime.command();
        let mut command = Command::new("sh");
        command.args(["-c", "exec 7</ 9</etc \"$@\"", "sh"]).arg(own.get_program()).args(own.get_args());
        output(command.args(["run", "--bundle"]).arg(&bundle.dir).arg(runtime.id(name)))
    };
    let bundle = runtime.bundle(&["sh", "-c", "ls -l /proc/self/fd"]);
    let ran = leaking(&bundle, "fds");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stdout.lines().any(|line| line.ends_with("-> /") || line.ends_with("-> /etc")), "{}", ran.stdout);
    for number in 3..14 {
        let bundle = runtime.bundle(&["sh", "-c", "cat ../../../../../../etc/hostname; ls"]);
        bundle.set("/process/cwd", json!(format!("/proc/self/fd/{number}")));
        fs::create_dir_all(bundle.rootfs("etc")).unwrap();
        fs::write(bundle.rootfs("etc/hostname"), "the image's\n").unwrap();
        let ran = leaking(&bundle, "cwd");
        assert!(ran.code != 0 || ran.stdout.starts_with("the image's\n"), "{number}: {}", ran.stdout);
    }
}

/// CVE-2025-31133: `/dev/null` of the image is a link, and a mask binds what it leads to over what it should hide.
#[test]
fn a_mask_is_the_host_s_null_device() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "echo x > /proc/timer_list; cat /proc/timer_list"]);
    without(&bundle, |destination| destination.starts_with("/dev"));
    link(&bundle, "/proc/sys/kernel/core_pattern", "dev/null");
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let ran = runtime.run_bundle(&bundle, "null");
    // Refused, or masked by the real device.
    if runtime.is_ours() {
        assert!(ran.code != 0 && ran.stdout.is_empty(), "{}", ran.stdout);
        assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
    }
}

/// CVE-2025-52565: `/dev/console` and `/dev/pts` of the image lead into procfs before that is protected.
#[test]
fn devices_of_the_image_lead_nowhere() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "echo ran"]);
    without(&bundle, |destination| destination.starts_with("/dev"));
    for name in ["console", "zero", "full"] {
        link(&bundle, "/proc/sys/kernel/core_pattern", &format!("dev/{name}"));
    }
    let ran = runtime.run_bundle(&bundle, "dev");
    if runtime.is_ours() {
        assert!(ran.code != 0 && ran.stderr.contains("/dev/"), "{}", ran.stderr);
    }
    // A link in the place of a mount point of /dev is resolved in the root.
    let bundle = runtime.bundle(&["sh", "-c", "echo ran"]);
    bundle.push("/mounts", json!({"destination": "/dev/pts/../../proc/sys", "type": "tmpfs", "source": "tmpfs"}));
    let ran = runtime.run_bundle(&bundle, "dots");
    assert!(ran.code != 0 || !runtime.is_ours(), "{}", ran.stdout);
}

/// CVE-2025-52881: what the runtime writes to procfs goes to a file that a shared mount has put in its place. Here the image's procfs
/// is none at all, and what is written for the container must go to the kernel, or nowhere.
#[test]
fn what_is_written_to_procfs_is_the_kernel_s() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        return;
    }
    let bundle = runtime.bundle(&["sh", "-c", "cat /proc/sys/net/ipv4/ip_forward"]);
    // A decoy that a runtime finds which writes after pivot_root, by names.
    without(&bundle, |destination| destination == "/proc");
    fs::create_dir_all(bundle.rootfs("proc/sys/net/ipv4")).unwrap();
    fs::create_dir_all(bundle.rootfs("proc/self/attr")).unwrap();
    for name in ["proc/sys/net/ipv4/ip_forward", "proc/self/oom_score_adj", "proc/self/attr/exec"] {
        fs::write(bundle.rootfs(name), "decoy\n").unwrap();
    }
    bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    bundle.set("/process/oomScoreAdj", json!(99));
    bundle.set("/linux/maskedPaths", json!([]));
    bundle.set("/linux/readonlyPaths", json!([]));
    bundle.set("/process/args", json!(["sleep", "1000"]));
    let id = runtime.started(&bundle, "decoy");
    let pid = runtime.state(&id)["pid"].as_i64().unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), "99\n");
    let forward = ["-t", &pid.to_string(), "-n", "cat", "/proc/sys/net/ipv4/ip_forward"].map(str::to_owned);
    assert_eq!(output(Command::new("nsenter").args(forward)).stdout, "1\n");
    for name in ["proc/sys/net/ipv4/ip_forward", "proc/self/oom_score_adj", "proc/self/attr/exec"] {
        assert_eq!(fs::read_to_string(bundle.rootfs(name)).unwrap(), "decoy\n", "{name}");
    }
}

/// Masked and read-only paths hold, whatever leads to them, and however often they are named.
#[test]
fn masks_hold() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let script = "cat /etc/secret /again; ls /etc/dir; echo x > /etc/kept; echo x > /proc/sys/kernel/domainname";
    let bundle = runtime.bundle(&["sh", "-c", script]);
    fs::create_dir_all(bundle.rootfs("etc/dir/below")).unwrap();
    for name in ["secret", "kept"] {
        fs::write(bundle.rootfs("etc").join(name), name).unwrap();
    }
    link(&bundle, "etc/secret", "again");
    bundle.set("/linux/maskedPaths", json!(["/etc/secret", "/etc/secret", "/etc/dir", "/no/such/path"]));
    if runtime.is_ours() {
        bundle.push("/linux/maskedPaths", json!("/etc/secret/below"));
    }
    bundle.set("/linux/readonlyPaths", json!(["/etc/kept", "/proc/sys", "/no/such/path", "/etc/dir"]));
    let ran = runtime.run_bundle(&bundle, "masks");
    assert_eq!(ran.stdout, "", "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("Read-only").count(), 2, "{}", ran.stderr);
    assert_eq!(fs::read_to_string(bundle.rootfs("etc/kept")).unwrap(), "kept");
}

/// Each name of what is masked already is masked.
#[test]
fn masks_may_be_named_twice() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "cat /proc/keys /proc/1/net/dev; ls /sys/firmware; echo ran"]);
    for path in ["/proc/keys", "/proc//keys", "/sys/firmware", "/sys/firmware/", "/proc/sys/../keys"] {
        bundle.push("/linux/maskedPaths", json!(path));
    }
    if runtime.is_ours() {
        // Two names of one directory, by a symlink of the kernel's; runc takes those of its own process.
        bundle.push("/linux/maskedPaths", json!("/proc/net"));
        bundle.push("/linux/maskedPaths", json!("/proc/self/net"));
        bundle.push("/linux/readonlyPaths", json!("/proc/sys"));
    } else {
        bundle.set("/process/args", json!(["sh", "-c", "cat /proc/keys; ls /sys/firmware; echo ran"]));
    }
    let ran = runtime.run_bundle(&bundle, "twice");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "ran\n"), "{}", ran.stderr);
}

/// The tunnel device is there for engines that ask for it by `linux.devices` alone (opencontainers/runc issue 4454), and no other misc device.
#[test]
fn tunnels_may_be_used_and_other_devices_not() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    // A device without a driver is no matter: the rules come first.
    let script = "for name in tun fuse; do case $( (: <>/dev/$name) 2>&1 ) in *'not permitted'*) echo 1;; *) echo 0;; esac; done";
    let bundle = runtime.bundle(&["sh", "-c", script]);
    for (name, minor) in [("tun", 200), ("fuse", 229)] {
        let device =
            json!({"path": format!("/dev/{name}"), "type": "c", "major": 10, "minor": minor, "fileMode": 0o666});
        bundle.push("/linux/devices", device);
    }
    let ran = runtime.run_bundle(&bundle, "tun");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "0\n1\n"), "{}", ran.stderr);
}

/// A container that may write to its cgroups nests them deeper than any path reaches: it is killed and deleted all the same.
#[test]
fn cgroups_are_removed_however_deep_they_are() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // runc 1.1 and crun 1.8 leave such a tree behind.
        return;
    }
    // Ten at a time: each takes a process.
    let deep = "cd /sys/fs/cgroup; [ ! -d pids ] || cd pids; i=0; ten=x/x/x/x/x/x/x/x/x/x; \
                while [ $i -lt 230 ]; do mkdir -p $ten && cd -P $ten || exit 1; i=$((i+1)); done 2>/dev/null; \
                echo deep; while :; do sleep 1; done";
    let bundle = runtime.bundle(&["sh", "-c", deep]);
    without(&bundle, |destination| destination == "/sys/fs/cgroup");
    bundle.push(
        "/mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}),
    );
    let id = runtime.started(&bundle, "deep");
    eventually(|| runtime.said(&id).contains("deep") || runtime.status(&id) == "stopped");
    assert_eq!((runtime.said(&id).as_str(), runtime.status(&id).as_str()), ("deep\n", "running"));
    let pid = runtime.state(&id)["pid"].as_i64().unwrap();
    let cgroup = cgroup_of(pid, "pids").or_else(|| cgroup_of(pid, "")).unwrap();
    assert!(cgroup.join("x/x/x").is_dir());
    runtime.ok(&["kill", "--all", &id, "KILL"]);
    runtime.wait_for(&id, "stopped");
    runtime.ok(&["delete", "--force", &id]);
    assert!(!cgroup.exists());
}
