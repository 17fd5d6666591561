// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Each honoured key of `config.json`, as the container sees it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;

use crate::fixture::Bundle;

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this module.
        pub const TESTS: &[(&str, fn())] = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use tests;

tests![
    the_default_bundle_runs,
    exit_codes_and_signals_pass_through,
    namespaces_are_new,
    namespaces_are_joined,
    namespaces_of_the_host_are_not_changed,
    the_loopback_is_up,
    hostname_and_domainname_are_set,
    the_root_is_read_only_or_not,
    standard_mounts_have_their_options,
    binds_have_their_options,
    a_remount_changes_a_mount,
    a_remount_changes_what_is_below,
    the_propagation_of_a_bind_is_set,
    the_cgroup_view_is_the_containers_own,
    cgroups_are_entered,
    devices_are_made,
    device_rules_hold,
    masked_and_read_only_paths_hold,
    sysctls_are_set,
    users_groups_and_umask_are_set,
    home_comes_from_passwd,
    the_working_directory_is_made,
    capabilities_are_what_is_asked,
    no_new_privileges_is_set,
    limits_are_set,
    the_oom_score_is_set,
    a_plan_is_the_root,
    a_user_is_looked_up_in_the_container,
    pipes_belong_to_the_user,
    named_fifos_keep_their_owner,
    signals_are_as_a_program_expects,
];

fn the_default_bundle_runs() {
    assert_eq!(Bundle::new("echo hello; echo $0 $PATH").run().ok().lines().next(), Some("hello"));
}

fn exit_codes_and_signals_pass_through() {
    assert_eq!(Bundle::new("exit 7").run().code, 7);
    // The first process of a pid namespace ignores its own signals, so a child is killed and its code passed on.
    assert_eq!(Bundle::new("sh -c 'kill -9 $$'; exit $?").run().code, 137);
}

fn namespaces_are_new() {
    let kinds = ["pid", "net", "ipc", "uts", "mnt", "cgroup"];
    let bundle =
        Bundle::with("for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done; echo $$", |config| {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "cgroup"}));
        });
    let output = bundle.run().ok();
    let mut lines = output.lines();
    for kind in kinds {
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(lines.next(), host.to_str(), "{kind}");
    }
    assert_eq!(lines.next(), Some("1"));
    let shared = Bundle::with("readlink /proc/self/ns/net", |config| {
        config["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}]);
        config["hostname"] = json!("");
    });
    assert_eq!(shared.run().ok(), fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
}

fn namespaces_are_joined() {
    let other = Bundle::new("sleep 1000");
    other.create().ok();
    other.start().ok();
    let pid = other.state()["pid"].as_i64().unwrap();
    let kinds = [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    let script = "for n in pid net ipc uts; do readlink /proc/self/ns/$n; done; echo $$; hostname";
    let joining = Bundle::with(script, |config| {
        let paths = kinds.map(|(kind, file)| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
        config["linux"]["namespaces"] = json!(paths);
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "mount"}));
        config["hostname"] = json!("");
    });
    let output = joining.run().ok();
    let mut lines = output.lines();
    for (_, file) in kinds {
        assert_eq!(lines.next(), fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap().to_str());
    }
    assert_ne!(lines.next(), Some("1"));
    assert_eq!(lines.next(), Some("box"));
    assert_eq!(other.state()["status"], "running");
    other.delete(true).ok();
    // A path that is another kind of namespace is refused.
    let wrong = Bundle::with("true", |config| {
        config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network", "path": "/proc/self/ns/uts"}]);
        config["hostname"] = json!("");
    });
    assert!(wrong.run().failed(1).contains("setns"));
}

/// A path to the caller's own namespace is as good as none: what would change it is refused.
fn namespaces_of_the_host_are_not_changed() {
    let own = |kind: &str| format!("/proc/{}/ns/{kind}", std::process::id());
    let joining = |kind: &str, file: &str| {
        let bundle = Bundle::new("true");
        bundle.configure(|config| {
            let joined = json!({"type": kind, "path": own(file)});
            config["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}, joined]);
            if kind != "uts" {
                config["hostname"] = json!("");
            }
        });
        bundle
    };
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let error = joining("uts", "uts").run().failed(1);
    assert!(error.contains("hostname: it would change the host"), "{error}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), hostname);
    // Nor is the first process's, for a caller who has another. That first process is one of ours here, with a name of its own.
    let first = joining("uts", "uts");
    first.configure(|config| config["linux"]["namespaces"][2]["path"] = json!("/proc/1/ns/uts"));
    let run = first.command(&["run", "--bundle", &first.path().display().to_string(), &first.id]);
    let mut elsewhere = std::process::Command::new("unshare");
    elsewhere.args([
        "--uts",
        "--pid",
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        "\"$@\"; exit $?",
        "sh",
        "unshare",
        "--uts",
    ]);
    elsewhere.arg(run.get_program()).args(run.get_args());
    let error = crate::fixture::Outcome::from(elsewhere.output().unwrap()).failed(1);
    assert!(error.contains("hostname: it would change the host"), "{error}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), hostname);
    let network = joining("network", "net");
    network.run().ok();
    network.configure(|config| config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"}));
    let error = network.run().failed(1);
    assert!(error.contains("linux.sysctl net/ipv4/ip_forward: it would change the host"), "{error}");
    let mounts = Bundle::with("true", |config| {
        config["linux"]["namespaces"] = json!([{"type": "uts"}, {"type": "mount", "path": own("mnt")}]);
    });
    // Other mounts come and go with other tests; those of the bundle's own are looked for after each run.
    let table = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let lasts = |line: &&str| ["/", "/proc", "/sys", "/dev"].contains(&line.split(' ').nth(4).unwrap());
        table.lines().filter(lasts).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = table();
    assert!(mounts.run().failed(1).contains("mounts: it would change the host"));
    assert_eq!(table(), before);
}

fn the_loopback_is_up() {
    let flags = Bundle::new("cat /sys/class/net/lo/flags").run().ok();
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap();
    assert_eq!(flags & 1, 1, "IFF_UP");
}

fn hostname_and_domainname_are_set() {
    let bundle =
        Bundle::with("hostname; cat /proc/sys/kernel/domainname", |config| config["domainname"] = json!("example.org"));
    assert_eq!(bundle.run().ok(), "box\nexample.org");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(host.trim(), "box");
}

fn the_root_is_read_only_or_not() {
    let script = "touch /file 2>/dev/null && echo writable || echo read-only";
    assert_eq!(Bundle::new(script).run().ok(), "read-only");
    let writable = Bundle::with(script, |config| config["root"]["readonly"] = json!(false));
    assert_eq!(writable.run().ok(), "writable");
    assert!(writable.rootfs().join("file").exists());
}

/// The mount options and superblock options of the last mount at `destination`.
fn mount_line(mountinfo: &str, destination: &str) -> (String, String, String) {
    let line = mountinfo.lines().rev().find(|line| line.split(' ').nth(4) == Some(destination));
    let line = line.unwrap_or_else(|| panic!("no mount at {destination}: {mountinfo}"));
    let (mount, superblock) = line.split_once(" - ").unwrap();
    let after: Vec<&str> = superblock.split(' ').collect();
    (mount.split(' ').nth(5).unwrap().to_owned(), after[0].to_owned(), after[2].to_owned())
}

fn standard_mounts_have_their_options() {
    let mountinfo = Bundle::new("cat /proc/self/mountinfo").run().ok();
    let (options, fstype, superblock) = mount_line(&mountinfo, "/dev");
    assert_eq!((options.as_str(), fstype.as_str()), ("rw,nosuid", "tmpfs"));
    assert!(superblock.contains("size=65536k") && superblock.contains("mode=755"), "{superblock}");
    let (options, fstype, superblock) = mount_line(&mountinfo, "/dev/pts");
    assert_eq!((options.as_str(), fstype.as_str()), ("rw,nosuid,noexec,relatime", "devpts"));
    assert!(superblock.contains("gid=5") && superblock.contains("ptmxmode=666"), "{superblock}");
    assert_eq!(mount_line(&mountinfo, "/dev/shm").0, "rw,nosuid,nodev,noexec,relatime");
    assert_eq!(mount_line(&mountinfo, "/dev/mqueue").1, "mqueue");
    assert_eq!(mount_line(&mountinfo, "/sys").0, "ro,nosuid,nodev,noexec,relatime");
    assert_eq!(mount_line(&mountinfo, "/proc").1, "proc");
    // Nothing of the host is in view.
    assert!(!mountinfo.contains("/host") && mountinfo.lines().all(|line| !line.contains("shared:")), "{mountinfo}");
}

fn binds_have_their_options() {
    let bundle = Bundle::new(
        "cat /proc/self/mountinfo; cat /data/file /single; touch /data/new 2>&1 || echo kept; touch /rw/new",
    );
    for dir in ["data", "rw", "nested/below"] {
        fs::create_dir_all(bundle.path().join(dir)).unwrap();
    }
    fs::write(bundle.path().join("data/file"), "one\n").unwrap();
    fs::write(bundle.path().join("single"), "two\n").unwrap();
    bundle.mount("/data", "bind", "data", &["rbind", "ro", "nosuid", "nodev", "noexec"]);
    bundle.mount("/single", "bind", &bundle.path().join("single").display().to_string(), &["bind", "noatime"]);
    bundle.mount("/rw", "", "rw", &["bind", "rw", "nosymfollow"]);
    let output = bundle.run().ok();
    assert!(mount_line(&output, "/data").0.starts_with("ro,nosuid,nodev,noexec"), "{output}");
    assert!(mount_line(&output, "/single").0.contains("noatime"), "{output}");
    assert!(mount_line(&output, "/rw").0.contains("nosymfollow"), "{output}");
    assert!(output.contains("one\ntwo\n") && output.ends_with("kept"), "{output}");
    assert!(bundle.path().join("rw/new").exists() && !bundle.path().join("data/new").exists());
    // Mount points were made, and their parent looks as before.
    assert!(bundle.rootfs().join("data").is_dir() && bundle.rootfs().join("single").is_file());
    let missing = Bundle::new("true");
    missing.mount("/x", "bind", "/no/such/source", &["rbind"]);
    let error = missing.run().failed(1);
    assert!(error.contains("/no/such/source") && error.contains("\"/x\"") && error.contains("rbind"), "{error}");
}

fn a_remount_changes_a_mount() {
    let bundle = Bundle::new("grep ' /tmp ' /proc/self/mountinfo");
    bundle.mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "size=1m"]);
    bundle.mount("/tmp", "", "", &["remount", "ro", "noexec"]);
    let output = bundle.run().ok();
    assert_eq!(mount_line(&output, "/tmp").0, "ro,noexec,relatime");
    let none = Bundle::new("true");
    none.mount("/tmp", "bind", "", &["remount", "bind", "ro"]);
    assert!(none.run().failed(1).contains("mount_setattr"));
}

fn a_remount_changes_what_is_below() {
    let bundle = Bundle::new("cat /proc/self/mountinfo");
    bundle.mount("/tmp", "tmpfs", "tmpfs", &["nosuid"]);
    bundle.mount("/tmp/below", "tmpfs", "tmpfs", &["nodev"]);
    bundle.mount("/tmp", "", "", &["remount", "rro", "noexec"]);
    let output = bundle.run().ok();
    assert_eq!(mount_line(&output, "/tmp").0, "ro,noexec,relatime");
    assert_eq!(mount_line(&output, "/tmp/below").0, "ro,nodev,relatime");
}

fn the_propagation_of_a_bind_is_set() {
    let bundle = Bundle::new("cat /proc/self/mountinfo");
    fs::create_dir(bundle.path().join("data")).unwrap();
    bundle.mount("/tmp", "bind", "data", &["rbind", "rshared"]);
    let output = bundle.run().ok();
    let line = output.lines().find(|line| line.split(' ').nth(4) == Some("/tmp")).unwrap();
    assert!(line.contains("shared:"), "{line}");
}

fn the_cgroup_view_is_the_containers_own() {
    let bundle = Bundle::new(
        "cat /proc/self/mountinfo; mkdir /sys/fs/cgroup/x 2>/dev/null || echo kept; cat /proc/self/cgroup; ls /sys/fs/cgroup/*",
    );
    let output = bundle.run().ok();
    let hybrid = !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let views: Vec<_> = output.lines().filter(|line| line.contains(" /sys/fs/cgroup")).collect();
    assert!(
        views.iter().all(|line| line.split(' ').nth(5).unwrap().starts_with("ro,nosuid,nodev,noexec")),
        "{views:?}"
    );
    let roots = views.iter().filter(|line| line.contains(" - cgroup")).map(|line| line.split(' ').nth(3).unwrap());
    for root in roots {
        assert_eq!(root, format!("/stos-{}", bundle.id));
    }
    assert!(output.contains("kept"));
    if hybrid {
        assert!(views.len() > 2, "{views:?}");
        assert!(output.contains("cgroup.procs"), "{output}");
    }
    // Options for what is below count as those for the mount itself.
    let recursive = Bundle::with("cat /proc/self/mountinfo", |config| {
        config["mounts"][6]["options"] = json!(["rro", "rnosymfollow", "rshared"]);
    });
    let output = recursive.run().ok();
    let mut views = output.lines().filter(|line| line.contains(" /sys/fs/cgroup")).peekable();
    assert!(views.peek().is_some(), "{output}");
    for line in views {
        let options = line.split(' ').nth(5).unwrap();
        assert!(options.starts_with("ro") && options.ends_with("nosymfollow") && line.contains("shared:"), "{line}");
    }
    // With a namespace the paths themselves are hidden.
    let namespaced = Bundle::with("cat /proc/self/cgroup", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "cgroup"}));
    });
    let output = namespaced.run().ok();
    assert!(output.lines().all(|line| line.ends_with(":/")), "{output}");
}

/// The lines of `/proc/PID/cgroup` whose hierarchies are mounted here: one of v1 that somebody has elsewhere is nobody's to enter.
fn of_mounted_hierarchies(table: &str) -> Vec<&str> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let has = |names: &str| {
        let mut options = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        options
            .any(|it| it[2] == "cgroup" && it[3].split(',').any(|option| names.split(',').any(|name| name == option)))
    };
    let lines = table.lines().filter(|line| {
        let names = line.split(':').nth(1).unwrap();
        names.is_empty() || has(names)
    });
    lines.collect()
}

fn cgroups_are_entered() {
    let bundle = Bundle::new("cat /proc/self/cgroup");
    let output = bundle.run().ok();
    let entered = of_mounted_hierarchies(&output);
    let own = format!("/stos-{}", bundle.id);
    assert!(!entered.is_empty() && entered.iter().all(|line| line.ends_with(&own)), "{output}");
    let own = Bundle::new("cat /proc/self/cgroup");
    let path = format!("/stos-parent-{}/inner", own.id);
    own.configure(|config| config["linux"]["cgroupsPath"] = json!(path));
    let output = own.run().ok();
    assert!(of_mounted_hierarchies(&output).iter().all(|line| line.ends_with(&path)), "{output}");
    assert!(
        crate::fixture::cgroups_named(&format!("parent-{}", own.id)).is_empty(),
        "the parent was made for it, and goes with it"
    );
}

fn devices_are_made() {
    let script = "for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$d; done; \
        stat -c '%a %u:%g %t:%T' /dev/mine /dev/deep/block; stat -c %F /dev/fifo; readlink /dev/fd /dev/stdin /dev/ptmx; echo x > /dev/null";
    let bundle = Bundle::with(script, |config| {
        config["linux"]["devices"] = json!([
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/deep/block", "type": "b", "major": 7, "minor": 200},
            {"path": "/dev/fifo", "type": "p"}
        ]);
    });
    let output = bundle.run().ok();
    assert!(
        output.contains("/dev/null character special file 1:3 666")
            && output.contains("/dev/tty character special file 5:0 666"),
        "{output}"
    );
    assert!(output.contains("640 5:6 1:3") && output.contains("666 0:0 7:c8") && output.contains("fifo"), "{output}");
    assert!(output.ends_with("/proc/self/fd\n/proc/self/fd/0\npts/ptmx"), "{output}");
}

fn device_rules_hold() {
    // A device that needs no privilege to open, and that no default rule allows: fuse.
    let script = "mknod /tmp/d c 10 229 && echo made; dd if=/tmp/d of=/dev/null count=0 2>&1";
    let with_mknod = |config: &mut serde_json::Value| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_MKNOD"));
        }
        config["root"]["readonly"] = json!(false);
    };
    let denied = Bundle::with(script, with_mknod).run();
    assert!(
        denied.stdout.starts_with("made\n") && denied.stdout.contains("Operation not permitted"),
        "{}",
        denied.stdout
    );
    let allowed = Bundle::with(script, with_mknod);
    allowed.configure(|config| {
        let rules = config["linux"]["resources"]["devices"].as_array_mut().unwrap();
        rules.push(json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}));
    });
    let allowed = allowed.run();
    // Where the machine has no such driver the kernel says that, and not that it may not be used.
    assert!(allowed.stdout.starts_with("made\n") && !allowed.stdout.contains("not permitted"), "{}", allowed.stdout);
    // A part of what is allowed is denied: v2 can, v1 would ignore it.
    let hole = Bundle::with(script, with_mknod);
    hole.configure(|config| {
        let rules = config["linux"]["resources"]["devices"].as_array_mut().unwrap();
        rules.push(json!({"allow": true, "type": "c", "major": 10, "access": "rw"}));
        rules.push(json!({"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rw"}));
    });
    let hole = hole.run();
    if std::path::Path::new("/sys/fs/cgroup/devices").exists() {
        assert!(hole.failed(1).contains("cannot punch the hole \"c 10:229 rw\" in \"c 10:* rw\""));
    } else {
        assert!(hole.stdout.contains("Operation not permitted"), "{}", hole.stdout);
    }
    assert_eq!(Bundle::new("head -c2 /dev/zero | cat > /dev/null && echo used").run().ok(), "used");
    let half = Bundle::with("true", |config| {
        config["linux"]["resources"]["devices"] = json!([{"allow": false, "type": "a", "access": "w"}])
    });
    assert!(half.run().failed(1).contains("linux.resources.devices[0].type"));
}

fn masked_and_read_only_paths_hold() {
    let script = "stat -c '%t:%T' /proc/keys; ls -A /sys/firmware; (echo 1 > /proc/sys/vm/drop_caches) 2>&1; grep ' /proc/sys ' /proc/self/mountinfo";
    let output = Bundle::new(script).run().ok();
    let first = output.lines().next().unwrap();
    assert!(first == "1:3" || !std::path::Path::new("/proc/keys").exists(), "{output}");
    assert!(output.contains("ead-only file system"), "{output}");
    assert!(mount_line(&output, "/proc/sys").0.starts_with("ro"), "{output}");
    let own = Bundle::with("cat /etc/passwd; ls -A /home; touch /tmp/x || echo kept", |config| {
        config["linux"]["maskedPaths"] = json!(["/etc/passwd", "/home", "/no/such", "/etc/passwd/below"]);
        config["linux"]["readonlyPaths"] = json!(["/tmp", "/gone"]);
        config["root"]["readonly"] = json!(false);
    });
    assert_eq!(own.run().ok(), "kept");
    assert!(!fs::read_to_string(own.rootfs().join("etc/passwd")).unwrap().is_empty());
}

fn sysctls_are_set() {
    let bundle = Bundle::with("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni", |config| {
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel/shmmni": "99"});
    });
    assert_eq!(bundle.run().ok(), "1\n99");
    for (key, part) in [
        ("kernel.panic", "belongs to no namespace"),
        ("vm.swappiness", "belongs to no namespace"),
        ("net..x", "/proc/sys"),
    ] {
        let refused = Bundle::with("true", |config| config["linux"]["sysctl"] = json!({key: "0"}));
        let error = refused.run().failed(1);
        assert!(error.contains(&format!("linux.sysctl.{key}")) && error.contains(part), "{error}");
    }
    let hosts = Bundle::with("true", |config| {
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);
    });
    assert!(hosts.run().failed(1).contains("a namespace that the setting belongs to"));
}

fn users_groups_and_umask_are_set() {
    let bundle = Bundle::with("id -u; id -g; id -G; umask; touch /tmp/made; stat -c %a /tmp/made", |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o27});
        config["root"]["readonly"] = json!(false);
    });
    bundle.mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"]);
    assert_eq!(bundle.run().ok(), "1000\n1001\n1001 7 8\n0027\n640");
    assert_eq!(Bundle::new("umask").run().ok(), "0022");
    let overflow =
        Bundle::with("id -u", |config| config["process"]["user"] = json!({"uid": 4_294_967_295_u32, "gid": 0}));
    assert!(overflow.run().failed(1).contains("process.user"));
}

fn home_comes_from_passwd() {
    assert_eq!(Bundle::new("echo $HOME").run().ok(), "/root");
    let user =
        |uid: u32| Bundle::with("echo $HOME", |config| config["process"]["user"] = json!({"uid": uid, "gid": 0}));
    assert_eq!(user(1000).run().ok(), "/home/user");
    assert_eq!(user(4711).run().ok(), "/");
    let given =
        Bundle::with("echo $HOME", |config| config["process"]["env"].as_array_mut().unwrap().push(json!("HOME=/mine")));
    assert_eq!(given.run().ok(), "/mine");
}

fn the_working_directory_is_made() {
    let bundle = Bundle::with("echo $PWD; stat -c %a .", |config| config["process"]["cwd"] = json!("/srv/a/b"));
    assert_eq!(bundle.run().ok(), "/srv/a/b\n755");
    let file = Bundle::with("true", |config| config["process"]["cwd"] = json!("/etc/passwd"));
    assert!(file.run().failed(1).contains("working directory /etc/passwd: it is not a directory"));
}

fn capabilities_are_what_is_asked() {
    let sets = |output: &str| -> Vec<u64> {
        output
            .lines()
            .map(|line| u64::from_str_radix(line.split_ascii_whitespace().last().unwrap(), 16).unwrap())
            .collect()
    };
    let three = 1 << 29 | 1 << 5 | 1 << 10;
    // Inheritable, permitted, effective, bounding, ambient.
    assert_eq!(sets(&Bundle::new("grep ^Cap /proc/self/status").run().ok()), [0, three, three, three, 0]);
    let ambient = Bundle::with("grep ^Cap /proc/self/status", |config| {
        let kill = json!(["CAP_KILL"]);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        config["process"]["capabilities"] =
            json!({"bounding": kill, "permitted": kill, "effective": kill, "inheritable": kill, "ambient": kill});
    });
    assert_eq!(sets(&ambient.run().ok()), [1 << 5; 5]);
    let none = Bundle::with("grep ^Cap /proc/self/status", |config| {
        drop(config["process"].as_object_mut().unwrap().remove("capabilities"))
    });
    assert_eq!(sets(&none.run().ok()), [0; 5]);
    let lacking: u64 =
        !sets(fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("CapPrm")).unwrap())[0];
    if lacking & 1 << 24 != 0 {
        let wish = json!(["CAP_SYS_RESOURCE"]);
        let more = Bundle::with("true", |config| {
            config["process"]["capabilities"] = json!({"bounding": wish, "permitted": wish})
        });
        assert!(more.run().failed(1).contains("CAP_SYS_RESOURCE"));
    }
}

fn no_new_privileges_is_set() {
    assert!(Bundle::new("grep NoNewPrivs /proc/self/status").run().ok().ends_with('1'));
    let off =
        Bundle::with("grep NoNewPrivs /proc/self/status", |config| config["process"]["noNewPrivileges"] = json!(false));
    assert!(off.run().ok().ends_with('0'));
}

fn limits_are_set() {
    let bundle = Bundle::with("ulimit -Sn; ulimit -Hn; ulimit -c", |config| {
        config["process"]["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    });
    assert_eq!(bundle.run().ok(), "100\n200\n0");
    let twice =
        json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}, {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}]);
    let cases = [
        (twice, "process.rlimits[1].type"),
        (json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]), "process.rlimits[0].soft"),
        (json!([{"type": "RLIMIT_NOFILE", "soft": 1_u64 << 40, "hard": 1_u64 << 40}]), "RLIMIT_NOFILE"),
    ];
    for (limits, part) in cases {
        let refused = Bundle::with("true", |config| config["process"]["rlimits"] = limits);
        assert!(refused.run().failed(1).contains(part), "{part}");
    }
}

fn the_oom_score_is_set() {
    let bundle = Bundle::with("cat /proc/self/oom_score_adj", |config| config["process"]["oomScoreAdj"] = json!(500));
    assert_eq!(bundle.run().ok(), "500");
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(Bundle::new("cat /proc/self/oom_score_adj").run().ok(), own.trim());
}

fn a_plan_is_the_root() {
    // An overlay cannot lie on an overlay: a tmpfs of the machine's takes upper and work.
    let upper = tempfile::tempdir_in("/dev/shm").unwrap();
    for dir in ["upper", "work"] {
        fs::create_dir(upper.path().join(dir)).unwrap();
    }
    let bundle = Bundle::with("echo changed > /etc/new; cat /etc/new; ls /made", |config| {
        config["root"]["readonly"] = json!(false)
    });
    fs::create_dir(bundle.path().join("data")).unwrap();
    fs::write(bundle.path().join("data/one"), "").unwrap();
    bundle.mount("/made", "bind", "data", &["bind"]);
    bundle.mount("/home/below", "bind", "data", &["bind"]);
    fs::set_permissions(bundle.rootfs().join("home"), fs::Permissions::from_mode(0o711)).unwrap();
    let of = |path: std::path::PathBuf| fs::metadata(path).map(|at| (at.mtime(), at.mtime_nsec(), at.mode())).unwrap();
    let (root, home) = (of(upper.path().join("upper")), of(bundle.rootfs().join("home")));
    let output = bundle.launch(&["--upper", &upper.path().display().to_string()]);
    assert_eq!(output.ok(), "changed\none");
    assert!(!bundle.rootfs().join("etc/new").exists() && !bundle.rootfs().join("made").exists());
    assert!(upper.path().join("upper/etc/new").exists());
    assert_eq!((of(upper.path().join("upper")), of(upper.path().join("upper/home"))), (root, home));
}

fn a_user_is_looked_up_in_the_container() {
    let run = |user: &str| Bundle::new("id -u; id -g; id -G; echo $HOME").launch(&["--user", user]);
    assert_eq!(run("user").ok(), "1000\n1001\n1001 2000\n/home/user");
    assert_eq!(run("user:extra").ok(), "1000\n2000\n2000\n/home/user");
    assert_eq!(run("4711").ok(), "4711\n0\n0\n/");
    assert!(run("nobody").failed(1).contains("user \"nobody\" not found in the container's /etc/passwd"));
    assert!(run("user:none").failed(1).contains("group \"none\" not found in the container's /etc/group"));
}

fn pipes_belong_to_the_user() {
    let script = "stat -L -c %u /proc/self/fd/1; echo again > /dev/stdout";
    assert_eq!(Bundle::new(script).launch(&["--user", "user", "--pipe", "yes"]).ok(), "1000\nagain");
}

fn named_fifos_keep_their_owner() {
    let bundle = Bundle::new("true");
    let (path, fifo) = (bundle.path().display().to_string(), bundle.path().join("fifo"));
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let stdin = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let arguments = ["launch", "--bundle", &path, "--user", "user", "--pipe", "yes", &bundle.id];
    let output = bundle.command(&arguments).stdin(stdin).output().unwrap();
    crate::fixture::Outcome::from(output).ok();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&fifo).unwrap()), 0);
}

fn signals_are_as_a_program_expects() {
    let output = Bundle::new("grep -E '^Sig(Blk|Ign)' /proc/self/status").run().ok();
    let masks: Vec<_> = output.lines().map(|line| line.split_ascii_whitespace().last().unwrap()).collect();
    assert_eq!(masks, ["0000000000000000"; 2]);
}
