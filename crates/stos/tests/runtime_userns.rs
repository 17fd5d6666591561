// SPDX-License-Identifier: Apache-2.0 OR MIT
//! User namespaces, new and joined; mounts with mapped ids; time namespaces.

mod runtime_scene;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use runtime_scene::{Bundle, Runtime};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::require;

const HOST: u32 = 100_000;

fn range(container: u32, host: u32, size: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": size}])
}

/// Gives a bundle a user namespace, and its root filesystem to that one's root.
fn with_users(bundle: &Bundle) {
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", range(0, HOST, 65_536));
    bundle.set("/linux/gidMappings", range(0, HOST, 65_536));
    give(&bundle.rootfs(""), HOST);
}

fn give(path: &Path, id: u32) {
    let status = Command::new("chown").args(["-Rh", &format!("{id}:{id}")]).arg(path).status().unwrap();
    assert!(status.success());
}

/// Lets others than root reach a bundle, as runtimes before us need it.
fn open_way(runtime: &Runtime) {
    fs::set_permissions(runtime.path(""), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A process in namespaces of its own, for others to join. It ends when it is dropped.
struct Holder(Child);

impl Holder {
    fn new(unshare: &[&str]) -> Self {
        let child = Command::new("unshare").args(unshare).args(["sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        let holder = Self(child);
        runtime_scene::eventually(|| {
            let name = fs::read_to_string(format!("/proc/{}/comm", holder.0.id())).unwrap_or_default();
            name == "sleep\n"
        });
        holder
    }

    fn namespace(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ids_are_those_of_the_namespace() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    open_way(&runtime);
    let script =
        "id -u; cat /proc/self/uid_map; touch /made; stat -c %u /made /dev/shm /proc/1; cat /proc/self/setgroups";
    let bundle = runtime.bundle(&["sh", "-c", script]);
    with_users(&bundle);
    let ran = runtime.run_bundle(&bundle, "ids");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let said: Vec<_> = ran.stdout.split_ascii_whitespace().collect();
    assert_eq!(said, ["0", "0", "100000", "65536", "0", "0", "0", "allow"]);
    assert_eq!(fs::metadata(bundle.rootfs("made")).unwrap().uid(), HOST);
}

#[test]
fn streams_can_be_opened_again() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        // It gives the streams to nobody here.
        return;
    }
    open_way(&runtime);
    let script = "echo out > /dev/stdout; echo err > /dev/stderr";
    let bundle = runtime.bundle(&["sh", "-c", script]);
    with_users(&bundle);
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let ran = runtime.run_bundle(&bundle, "streams");
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "out\n", "err\n"));
    bundle.set("/process/args", json!(["sh", "-c", "while :; do sleep 1; done"]));
    let id = runtime.started(&bundle, "streams");
    for user in [&[][..], &["--user", "1001:1001"]] {
        let ran = runtime.run(&[&["exec"], user, &[&id, "sh", "-c", script]].concat());
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "out\n", "err\n"), "{user:?}");
    }
}

#[test]
fn a_mount_takes_the_place_of_a_device_of_the_host() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    open_way(&runtime);
    let bundle = runtime.bundle(&["stat", "-c", "%t:%T", "/dev/random"]);
    with_users(&bundle);
    let bind = json!({"destination": "/dev/random", "type": "bind", "source": "/dev/urandom", "options": ["bind"]});
    bundle.push("/mounts", bind);
    let ran = runtime.run_bundle(&bundle, "device");
    // runc binds its own over it.
    let expected = if runtime.is_ours() { "1:9\n" } else { "1:8\n" };
    assert_eq!((ran.code, ran.stdout.as_str()), (0, expected), "{}", ran.stderr);
}

#[test]
fn another_user_has_its_groups_and_no_power_over_the_host() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    open_way(&runtime);
    let secret = runtime.path("secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let bundle = runtime.bundle(&["sh", "-c", "id -u; id -g; id -G; cat /secret; echo $?"]);
    with_users(&bundle);
    bundle.push(
        "/mounts",
        json!({"destination": "/secret", "type": "bind", "source": secret, "options": ["bind", "ro"]}),
    );
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [1002]}));
    let ran = runtime.run_bundle(&bundle, "user");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "1000\n1001\n1001 1002\n1\n"), "{}", ran.stderr);
}

#[test]
fn devices_work_and_belong_to_nobody() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    open_way(&runtime);
    let script = "echo x > /dev/null && head -c 3 /dev/zero > /z && stat -c %s /z && stat -c %t:%T /dev/full && stat -c %u /dev/tty";
    let bundle = runtime.bundle(&["sh", "-c", script]);
    with_users(&bundle);
    let ran = runtime.run_bundle(&bundle, "devices");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "3\n1:7\n65534\n"), "{}", ran.stderr);
    // One that the host does not have cannot be made there.
    let device = json!({"path": "/dev/none", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0});
    bundle.push("/linux/devices", device);
    let ran = runtime.run_bundle(&bundle, "none");
    // crun leaves it out.
    assert!(runtime.is_called("crun") || (ran.code != 0 && ran.stderr.contains("/dev/none")), "{}", ran.stderr);
}

/// The host's own mounts are locked together: what they hide stays hidden, and what is read-only stays so.
#[test]
fn limits_and_the_oom_score_are_the_launch_s() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    open_way(&runtime);
    let bundle = runtime.bundle(&["sh", "-c", "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj"]);
    with_users(&bundle);
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]));
    bundle.set("/process/oomScoreAdj", json!(321));
    let ran = runtime.run_bundle(&bundle, "limits");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "77\n88\n321\n"), "{}", ran.stderr);
}

#[test]
fn a_bundle_that_its_user_cannot_reach_runs() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // Others look the root up as the container's root.
        return;
    }
    fs::set_permissions(runtime.path(""), fs::Permissions::from_mode(0o700)).unwrap();
    let data = runtime.path("data");
    fs::write(&data, "data\n").unwrap();
    let bundle = runtime.bundle(&["cat", "/data"]);
    with_users(&bundle);
    bundle.push("/mounts", json!({"destination": "/data", "type": "bind", "source": data, "options": ["bind"]}));
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "id -u >&2; exit $(id -u)"]});
    bundle.push("/hooks/createContainer", hook);
    let ran = runtime.run_bundle(&bundle, "unreachable");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "data\n"), "{}", ran.stderr);
}

#[test]
fn a_user_namespace_is_joined() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    open_way(&runtime);
    let holder = Holder::new(&["--user", "--net"]);
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", holder.0.id()), "0 100000 65536").unwrap();
    }
    let bundle = runtime.bundle(&["sh", "-c", "ls -l /proc/self/ns/user /proc/self/ns/net; id -u"]);
    give(&bundle.rootfs(""), HOST);
    bundle.push("/linux/namespaces", json!({"type": "user", "path": holder.namespace("user")}));
    let at = bundle.config()["linux"]["namespaces"].as_array().unwrap().iter().position(|it| it["type"] == "network");
    let pointer = format!("/linux/namespaces/{}", at.unwrap());
    bundle.set(&pointer, json!({"type": "network", "path": holder.namespace("net")}));
    if !runtime.is_ours() {
        // They want the mappings said again.
        bundle.set("/linux/uidMappings", range(0, HOST, 65_536));
        bundle.set("/linux/gidMappings", range(0, HOST, 65_536));
    }
    let expected = |kind: &str| fs::read_link(holder.namespace(kind)).unwrap().display().to_string();
    let ran = runtime.run_bundle(&bundle, "joined");
    for kind in ["user", "net"] {
        assert!(ran.stdout.contains(&expected(kind)), "{} {}", ran.stdout, ran.stderr);
    }
    assert!(ran.stdout.ends_with("\n0\n"), "{}", ran.stdout);
    if runtime.is_ours() {
        bundle.set("/linux/uidMappings", range(0, HOST + 1, 65_536));
        bundle.set("/linux/gidMappings", range(0, HOST, 65_536));
        let ran = runtime.run_bundle(&bundle, "other-mappings");
        assert!(ran.code != 0 && ran.stderr.contains("linux.uidMappings"), "{}", ran.stderr);
    }
}

/// A network namespace that the host owns, as engines make them, with a user namespace that is new: joined before it.
#[test]
fn a_namespace_of_the_host_is_joined_with_new_users() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    open_way(&runtime);
    let holder = Holder::new(&["--net"]);
    let bundle = runtime.bundle(&["ls", "-l", "/proc/self/ns/net"]);
    with_users(&bundle);
    // A new sysfs belongs to whoever owns the network namespace.
    let mounts = bundle.config()["mounts"].as_array().unwrap().clone();
    bundle.set("/mounts", mounts.into_iter().filter(|it| it["type"] != "sysfs" && it["type"] != "cgroup").collect());
    let namespaces = bundle.config()["linux"]["namespaces"].as_array().unwrap().clone();
    let at = namespaces.iter().position(|it| it["type"] == "network").unwrap();
    bundle.set(&format!("/linux/namespaces/{at}"), json!({"type": "network", "path": holder.namespace("net")}));
    let ran = runtime.run_bundle(&bundle, "host-net");
    let expected = fs::read_link(holder.namespace("net")).unwrap();
    assert!(ran.code == 0 && ran.stdout.contains(expected.to_str().unwrap()), "{} {}", ran.stdout, ran.stderr);
}

#[test]
fn what_a_user_namespace_cannot_do_is_named() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        return;
    }
    open_way(&runtime);
    for (pointer, value, said) in [
        ("/linux/uidMappings", json!([]), "linux.uidMappings"),
        ("/linux/uidMappings", range(1, HOST, 10), "linux.uidMappings"),
        ("/process/user", json!({"uid": 70_000, "gid": 0}), "process.user.uid"),
        ("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": u64::MAX}]), "process.rlimits"),
        ("/mounts", json!([{"destination": "/x", "type": "ext4", "source": "/dev/none"}]), "\"/x\""),
    ] {
        let bundle = runtime.bundle(&["sh", "-c", ":"]);
        with_users(&bundle);
        bundle.set(pointer, value);
        let ran = runtime.run_bundle(&bundle, "named");
        assert_ne!(ran.code, 0, "{pointer}");
        assert!(ran.stderr.contains(said), "{pointer}: {}", ran.stderr);
    }
}

/// A directory of `id`'s, with a file in it.
fn directory_of(runtime: &Runtime, id: u32) -> std::path::PathBuf {
    let dir = runtime.path(&format!("of-{id}"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    for path in [&dir, &dir.join("file")] {
        chown(path, Some(id), Some(id)).unwrap();
    }
    dir
}

#[test]
fn a_mount_shows_mapped_ids() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // runc 1.1 knows none; crun has an option of its own.
        return;
    }
    open_way(&runtime);
    let dir = directory_of(&runtime, 500);
    let mount = |extra: Value, options: &[&str]| {
        let mut mount = json!({"destination": "/data", "type": "bind", "source": dir, "options": options});
        mount.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        mount
    };
    let mapped = json!({"uidMappings": range(500, 700, 1), "gidMappings": range(500, 701, 1)});
    // Without a user namespace.
    let bundle = runtime.bundle(&["sh", "-c", "stat -c %u:%g /data/file; touch /data/made"]);
    bundle.push("/mounts", mount(mapped.clone(), &["rbind", "idmap"]));
    bundle.set("/process/user", json!({"uid": 700, "gid": 701}));
    let ran = runtime.run_bundle(&bundle, "idmap");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "700:701\n"), "{}", ran.stderr);
    let made = fs::metadata(dir.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (500, 500));
    // With one: the mount's ids are the host's, and the namespace maps these again.
    let bundle = runtime.bundle(&["stat", "-c", "%u:%g", "/data/file"]);
    with_users(&bundle);
    let to_host = json!({"uidMappings": range(500, HOST + 7, 1), "gidMappings": range(500, HOST + 8, 1)});
    bundle.push("/mounts", mount(to_host, &["bind"]));
    let ran = runtime.run_bundle(&bundle, "both");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "7:8\n"), "{}", ran.stderr);
    // The option alone means the container's own mappings: what root has on disk is root's inside.
    let bundle = runtime.bundle(&["stat", "-c", "%u:%g", "/data/file"]);
    with_users(&bundle);
    bundle.push("/mounts", mount(json!({}), &["bind", "idmap"]));
    let ran = runtime.run_bundle(&bundle, "own");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "500:500\n"), "{}", ran.stderr);
    let refused = |extra: Value, options: &[&str], said: &str| {
        let bundle = runtime.bundle(&["sh", "-c", ":"]);
        bundle.push("/mounts", mount(extra, options));
        let ran = runtime.run_bundle(&bundle, "refused");
        assert!(ran.code != 0 && ran.stderr.contains(said), "{said}: {}", ran.stderr);
    };
    refused(json!({}), &["bind", "idmap"], "mounts[7].options: expected uidMappings");
    refused(json!({"uidMappings": range(0, 1, 1)}), &["bind"], "mounts[7].gidMappings");
    refused(
        json!({"type": "tmpfs", "uidMappings": range(0, 1, 1), "gidMappings": range(0, 1, 1)}),
        &[],
        "mounts[7].uidMappings",
    );
}

#[test]
fn ridmap_counts_for_what_is_below() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        return;
    }
    for (option, expected) in [("idmap", "700\n500\n"), ("ridmap", "700\n700\n")] {
        let runtime = Runtime::new();
        let dir = directory_of(&runtime, 500);
        let below = dir.join("below");
        fs::create_dir(&below).unwrap();
        let below = below.display();
        let script =
            format!("mount -t tmpfs below {below} && touch {below}/file && chown 500:500 {below}/file && exec \"$@\"");
        let bundle = runtime.bundle(&["stat", "-c", "%u", "/data/file", "/data/below/file"]);
        let mappings = range(500, 700, 1);
        bundle.push(
            "/mounts",
            json!({
                "destination": "/data", "type": "bind", "source": dir, "options": ["rbind", option],
                "uidMappings": mappings, "gidMappings": mappings
            }),
        );
        // The mount below is in a namespace of the test's own.
        let own = runtime.command();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, "sh"]).arg(own.get_program()).args(own.get_args());
        command.args(["run", "--bundle"]).arg(&bundle.dir).arg(runtime.id(option));
        let ran = runtime_scene::output(&mut command);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, expected), "{option}: {}", ran.stderr);
    }
}

#[test]
fn clocks_have_their_offsets() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // runc 1.1 knows no time namespaces.
        return;
    }
    let bundle =
        runtime.bundle(&["sh", "-c", "cat /proc/self/timens_offsets; cat /proc/uptime; ls -l /proc/self/ns/time"]);
    bundle.push("/linux/namespaces", json!({"type": "time"}));
    bundle.set(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 1_000_000, "nanosecs": 7}, "monotonic": {"secs": 2_000_000}}),
    );
    let own = fs::read_link("/proc/self/ns/time").unwrap().display().to_string();
    for users in [false, true] {
        if users {
            open_way(&runtime);
            with_users(&bundle);
        }
        let ran = runtime.run_bundle(&bundle, "clocks");
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let words: Vec<_> = ran.stdout.split_ascii_whitespace().collect();
        assert_eq!(words[..6], ["monotonic", "2000000", "0", "boottime", "1000000", "7"], "{}", ran.stdout);
        assert!(words[6].parse::<f64>().unwrap() > 1_000_000.0, "{}", ran.stdout);
        assert!(words.last().unwrap().starts_with("time:") && !ran.stdout.contains(&own), "{}", ran.stdout);
    }
    // Without offsets it is a namespace all the same.
    let bundle = runtime.bundle(&["ls", "-l", "/proc/self/ns/time"]);
    bundle.push("/linux/namespaces", json!({"type": "time"}));
    let ran = runtime.run_bundle(&bundle, "plain");
    assert!(ran.stdout.contains("time:") && !ran.stdout.contains(&own), "{} {}", ran.stdout, ran.stderr);
    bundle.set("/linux/timeOffsets", json!({"boottime": {"secs": -1_000_000_000}}));
    let ran = runtime.run_bundle(&bundle, "before-the-boot");
    assert!(ran.code != 0 && ran.stderr.contains("linux.timeOffsets"), "{}", ran.stderr);
}

/// A life with the process between: it is created, waits, is killed, and leaves nothing.
#[test]
fn a_life_with_all_of_it() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        return;
    }
    open_way(&runtime);
    let bundle = runtime.bundle(&["sleep", "1000"]);
    with_users(&bundle);
    bundle.push("/linux/namespaces", json!({"type": "time"}));
    bundle.set("/linux/timeOffsets", json!({"monotonic": {"secs": 5}}));
    let id = runtime.id("whole");
    let created = runtime.create(&bundle, &id);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let pid = runtime.state(&id)["pid"].as_i64().unwrap();
    assert_eq!(runtime.status(&id), "created");
    runtime.ok(&["start", &id]);
    runtime_scene::eventually(|| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n"));
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(map.split_ascii_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    runtime.ok(&["delete", "--force", &id]);
    // Whoever adopts it may not have reaped it.
    assert!(fs::read_link(format!("/proc/{pid}/exe")).is_err());
    assert_ne!(runtime.run(&["state", &id]).code, 0);
}
