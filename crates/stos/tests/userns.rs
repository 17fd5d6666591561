// SPDX-License-Identifier: Apache-2.0 OR MIT
//! --userns, --uidmap, --gidmap: a container with users of its own, on layers that nobody has changed for it.

mod sandbox;

use std::collections::BTreeSet;
use std::fs;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sandbox::pty::Pty;
use sandbox::shell::{Shell, eventually};
use sandbox::{on_both_backends, output};
use serde_json::json;
use stos_sys::mount::{MountPlan, UpperDirs, attach, detach, enter_private_namespace};
use stos_testkit::environment;
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
    let tools = rootfs::host_programs(&["chmod", "chown", "id", "stat", "tty"]).unwrap();
    let files = TarBuilder::new()
        .entry(Entry::directory("etc"))
        .entry(Entry::directory("vol").owner(1000, 1001))
        .entry(Entry::file("vol/first", "of the image\n").owner(7, 8))
        .entry(Entry::file("far", "of nobody here\n").owner(60_000, 60_001))
        .entry(Entry::file("bin/able", "x").mode(0o755).xattr("security.capability", file_capability(1 << 10)))
        .finish();
    ImageBuilder::new()
        .layer(Layer::plain(tools))
        .layer(Layer::plain(files))
        .set("/config/Volumes", json!({"/vol": {}}))
}

fn shell() -> Shell {
    Shell::of(&image())
}

/// Owner and group of a file, as numbers.
fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path.as_ref()).unwrap_or_else(|error| panic!("{:?}: {error}", path.as_ref()));
    (metadata.uid(), metadata.gid())
}

/// The files of the one volume that a container has.
fn volume(shell: &Shell, container: &str) -> PathBuf {
    shell
        .sandbox
        .ok(&["inspect", "--format", "{{range .Mounts}}{{if .Name}}{{.Source}}{{end}}{{end}}", container])
        .trim()
        .into()
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
        let layers =
            stos_testkit::tree::Tree::read(&shell.sandbox.data_root().join("layers"), &Default::default()).unwrap();
        up(&shell, "c", &MAP);
        let says = |script: &str| shell.sandbox.ok(&["exec", "c", "sh", "-c", script]);
        assert_eq!(says("id -u; id -g"), "0\n0\n");
        assert_eq!(says("stat -c %u:%g / /srv/data /bin/sh /far"), "0:0\n1000:1000\n0:0\n65534:65534\n");
        let map = fs::read_to_string(format!("/proc/{}/uid_map", pid(&shell, "c"))).unwrap();
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "300000", "2000"]);
        assert_eq!(owner(format!("/proc/{}", pid(&shell, "c"))), (HOST, HOST));
        // New files, changed ones, owners given away, and what is gone.
        says(
            "echo x >/new; mkdir /dir; chown 1000:1001 /dir; echo more >>/srv/data; rm /bin/plain; chown 5:6 /bin/lost",
        );
        assert_eq!(says("stat -c %u:%g /new /dir /srv/data /bin/lost"), "0:0\n1000:1001\n1000:1000\n5:6\n");
        let upper = directory(&shell, "c").join("upper");
        let on_disk = |name: &str| owner(upper.join(name));
        assert_eq!(
            ["", "new", "dir", "srv/data", "bin/lost", "bin/plain"].map(on_disk),
            [(0, 0), (0, 0), (1000, 1001), (1000, 1000), (5, 6), (0, 0)]
        );
        let root = PathBuf::from(format!("/proc/{}/root", pid(&shell, "c")));
        assert_eq!((owner(root.join("new")), owner(root.join("dir"))), ((HOST, HOST), (HOST + 1000, HOST + 1001)));
        // Nothing beyond the range, and nothing that is nobody's.
        assert_ne!(shell.sandbox.run(&["exec", "c", "chown", "2000", "/new"]).code, 0);
        assert_ne!(shell.sandbox.run(&["exec", "c", "chown", "0", "/far"]).code, 0);
        assert_ne!(shell.sandbox.run(&["exec", "c", "sh", "-c", "echo x >/far"]).code, 0);
        assert_eq!(shell.sandbox.names("layers"), before);
        let after =
            stos_testkit::tree::Tree::read(&shell.sandbox.data_root().join("layers"), &Default::default()).unwrap();
        after.assert_same(&layers);
    });
}

#[test]
fn a_container_of_its_own_users_has_all_that_others_have() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    up(
        &shell,
        "c",
        &[
            &MAP[..],
            &[
                "--init",
                "--tmpfs",
                "/mem:uid=1000,gid=5,mode=700,notmpcopyup",
                "--shm-size",
                "1m",
                "--ulimit",
                "nofile=100:200",
            ],
        ]
        .concat(),
    );
    let says = |script: &str| shell.sandbox.ok(&["exec", "c", "sh", "-c", script]);
    // Its own files are its root's, and it can write them.
    assert_eq!(says("stat -c %u:%g /etc/hosts /etc/hostname /dev/shm /proc/1 /mem"), "0:0\n0:0\n0:0\n0:0\n1000:5\n");
    says("echo 1.2.3.4 x >>/etc/hosts; echo x >/dev/shm/x; echo x >/tmp/x; echo x >/dev/null");
    assert_eq!(says("stat -c %u:%g /dev/pts /dev/pts/ptmx; ulimit -n"), "0:0\n0:0\n100\n");
    let others = shell.sandbox.ok(&[
        "exec",
        "--user",
        "user",
        "c",
        "sh",
        "-c",
        "id -u; id -g; id -G; echo x >/dev/stdout; echo $HOME",
    ]);
    assert_eq!(others, "1000\n1000\n1000\nx\n/home/user\n");
    let top = shell.sandbox.ok(&["top", "c", "user", "huser", "uid", "args"]);
    let line = top.lines().find(|line| line.contains("sleep 1000")).unwrap_or_else(|| panic!("{top}"));
    assert_eq!(line.split_whitespace().take(3).collect::<Vec<_>>(), ["root", "300000", "0"]);
    assert!(shell.sandbox.ok(&["stats", "--no-stream", "c"]).contains('c'));
    shell.sandbox.ok(&["pause", "c"]);
    shell.sandbox.ok(&["unpause", "c"]);
    let inspected = shell.sandbox.json(&["inspect", "c"]);
    let range = json!([{"container": 0, "host": HOST, "size": 2000}]);
    assert_eq!(inspected[0]["user_namespace"], json!({"mode": "private", "users": range, "groups": range}));
    // What it was it is again.
    says("echo kept >/kept; chown user /kept");
    shell.sandbox.ok(&["stop", "-t", "0", "c"]);
    shell.sandbox.ok(&["start", "c"]);
    assert_eq!(says("cat /kept; stat -c %U /kept"), "kept\nuser\n");
    assert!(says("cat /etc/hosts").ends_with("1.2.3.4 x\n"));
    assert_eq!(owner(directory(&shell, "c").join("upper/kept")), (1000, 0));
}

#[test]
fn a_file_s_capabilities_count_for_the_namespace() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let cat = environment::tool("cat").unwrap();
    // CAP_NET_BIND_SERVICE, which containers have by default.
    let able = Entry::file("bin/able", fs::read(cat).unwrap()).mode(0o755);
    let able = able.xattr("security.capability", file_capability(1 << 10));
    let tar = TarBuilder::new().entry(able).finish();
    on_both_backends(|| {
        let shell = Shell::of(&ImageBuilder::new().layer(Layer::plain(tar.clone())));
        for options in [&["--user", "user"][..], &["--user", "user", MAP[0], MAP[1]]] {
            let status = shell.says(options, "able /proc/self/status");
            let effective = status.lines().find(|line| line.starts_with("CapEff:")).unwrap();
            assert!(effective.ends_with("0000000000000400"), "{options:?}: {effective}");
        }
    });
}

#[test]
fn streams_are_the_container_s_user_s() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    for user in ["0", "user"] {
        let said = shell.run(
            &[&MAP[..], &["--user", user]].concat(),
            "echo out >/dev/stdout; echo err >/dev/stderr; cat /proc/self/fd/0",
        );
        assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (0, "out\n", "err\n"));
    }
    let command = {
        let mut command = shell.sandbox.command();
        command.args(["run", "--rm", "-it", "--uidmap", "0:300000:2000", "--user", "user", "shell:1", "sh"]);
        command
    };
    let mut pty = Pty::spawn(&command, 24, 80);
    pty.send("stat -c %u:%g $(tty) /dev/console; echo x >/dev/tty; echo done$((1+1))\n");
    let shown = pty.expect("done2");
    assert_eq!(shown.matches("1000:5").count(), 2, "{shown}");
    pty.send("exit\n");
    assert_eq!(pty.wait(), 0);
}

#[test]
fn binds_show_the_host_s_ids_and_volumes_the_image_s() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let bound = shell.sandbox.path("bound");
    fs::create_dir(&bound).unwrap();
    for (name, id) in [("hosts", 0), ("theirs", HOST + 1000)] {
        fs::write(bound.join(name), "x").unwrap();
        fs::set_permissions(bound.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        chown(bound.join(name), Some(id), Some(id)).unwrap();
    }
    let bind = format!("{}:/bound", bound.display());
    up(&shell, "c", &[&MAP[..], &["-v", &bind]].concat());
    let says = |script: &str| shell.sandbox.ok(&["exec", "c", "sh", "-c", script]);
    assert_eq!(says("stat -c %u:%g /bound/hosts /bound/theirs; cat /bound/theirs"), "65534:65534\n1000:1000\nx");
    assert_ne!(shell.sandbox.run(&["exec", "c", "cat", "/bound/hosts"]).code, 0);
    assert_eq!(says("stat -c %u:%g /vol /vol/first; cat /vol/first"), "1000:1001\n7:8\nof the image\n");
    shell.sandbox.ok(&["exec", "--user", "user", "c", "sh", "-c", "echo x >/vol/new"]);
    assert_eq!(owner(volume(&shell, "c").join("new")), (1000, 1000), "as in the upper directory");
}

#[test]
fn files_are_copied_with_the_container_s_ids() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    up(&shell, "up", &MAP);
    shell.sandbox.ok(&[&["create", "--name", "down"], &MAP[..], &["--user", "user", "shell:1"]].concat());
    let local = shell.sandbox.path("local");
    fs::create_dir_all(local.join("dir")).unwrap();
    fs::write(local.join("dir/file"), "text").unwrap();
    chown(local.join("dir/file"), Some(33), Some(34)).unwrap();
    let (dir, out) = (local.join("dir"), shell.sandbox.path("out"));
    let (dir, out) = (dir.to_str().unwrap(), out.to_str().unwrap());
    for (container, user) in [("up", (0, 0)), ("down", (1000, 1000))] {
        let at = |path: &str| format!("{container}:{path}");
        shell.sandbox.ok(&["cp", dir, &at("/owned")]);
        shell.sandbox.ok(&["cp", "-a=false", dir, &at("/kept")]);
        shell.sandbox.ok(&["cp", &format!("{dir}/file"), &at("/vol/in")]);
        let upper = directory(&shell, container).join("upper");
        assert_eq!(owner(upper.join("owned/file")), user, "{container}");
        assert_eq!(owner(upper.join("kept/file")), (33, 34), "{container}");
        assert_eq!(owner(volume(&shell, container).join("in")), user, "{container}");
        shell.sandbox.ok(&["cp", &at("/srv/data"), out]);
        assert_eq!((fs::read_to_string(out).unwrap().as_str(), owner(out)), ("from the image\n", (0, 0)));
        // As a tar, with the numbers that the container sees.
        let tar = shell.sandbox.command().args(["cp", &at("/kept"), "-"]).output().unwrap().stdout;
        let header = tar.chunks(512).find(|block| block.starts_with(b"kept/file\0")).unwrap();
        let octal = |field: &[u8]| {
            u32::from_str_radix(std::str::from_utf8(field).unwrap().trim_end_matches(['\0', ' ']), 8).unwrap()
        };
        assert_eq!((octal(&header[108..116]), octal(&header[116..124])), (33, 34));
        let again = shell.sandbox.path("again.tar");
        fs::write(&again, &tar).unwrap();
        shell.sandbox.ok(&["exec", "up", "mkdir", "-p", &format!("/from-{container}")]);
        let mut unpack = shell.sandbox.command();
        unpack.args(["cp", "-a=false", "-", &format!("up:/from-{container}")]).stdin(fs::File::open(&again).unwrap());
        let unpacked = output(&mut unpack);
        assert_eq!(unpacked.code, 0, "{}", unpacked.stderr);
        let seen = shell.sandbox.ok(&["exec", "up", "stat", "-c", "%u:%g", &format!("/from-{container}/kept/file")]);
        assert_eq!(seen, "33:34\n");
        // An id that the container has not cannot be kept in it.
        chown(local.join("dir/file"), Some(HOST), Some(34)).unwrap();
        let refused = shell.sandbox.run(&["cp", "-a=false", dir, &at("/beyond")]);
        assert!(refused.code != 0 && refused.stderr.contains("id 300000 is not mapped"), "{}", refused.stderr);
        chown(local.join("dir/file"), Some(33), Some(34)).unwrap();
    }
    shell.sandbox.ok(&["cp", "up:/kept", "down:/across"]);
    shell.sandbox.ok(&["cp", "-a=false", "up:/kept", "down:/across-kept"]);
    let upper = directory(&shell, "down").join("upper");
    assert_eq!((owner(upper.join("across/file")), owner(upper.join("across-kept/file"))), ((1000, 1000), (33, 34)));
    assert_eq!(shell.sandbox.mounts("overlay"), Vec::<PathBuf>::new());
}

#[test]
fn what_becomes_of_it_elsewhere_has_the_container_s_ids() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    up(&shell, "c", &MAP);
    let deeds =
        "echo x >/new; chown 1000:1001 /new; chmod 4755 /new; mkdir /d; chown 5 /d; rm /bin/plain; echo y >>/srv/data";
    shell.sandbox.ok(&["exec", "c", "sh", "-c", deeds]);
    let diff = shell.sandbox.ok(&["diff", "c"]);
    let mut lines: Vec<_> = diff.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A /d", "A /new", "C /bin", "C /srv", "C /srv/data", "D /bin/plain"]);
    let check = |options: &[&str], image: &str| {
        let run =
            [&["run", "--rm"], options, &[image, "stat", "-c", "%u:%g %a", "/new", "/d", "/srv/data", "/bin/able"]]
                .concat();
        assert_eq!(shell.sandbox.ok(&run), "1000:1001 4755\n5:0 755\n1000:1000 644\n0:0 755\n", "{options:?} {image}");
    };
    shell.sandbox.ok(&["commit", "-q", "c", "made:1"]);
    check(&[], "made:1");
    check(&["--uidmap", "0:500000:2000"], "made:1");
    let tar = shell.sandbox.path("c.tar");
    shell.sandbox.ok(&["export", "-o", tar.to_str().unwrap(), "c"]);
    shell.sandbox.ok(&["import", tar.to_str().unwrap(), "exported:1"]);
    check(&[], "exported:1");
    shell.sandbox.ok(&["stop", "-t", "0", "c"]);
    shell.sandbox.ok(&["commit", "-q", "c", "stopped:1"]);
    check(&[], "stopped:1");
}

#[test]
fn namespaces_of_the_host_devices_and_settings_go_with_it() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let says = |options: &[&str], script: &str| shell.says(&[&MAP[..], options].concat(), script);
    assert_eq!(says(&["--network", "host"], "stat -f -c %T /sys; test -d /sys/class/net/lo && id -u"), "sysfs\n0\n");
    let written = shell.run(&[&MAP[..], &["--network", "host"]].concat(), "echo x >/sys/kernel/profiling");
    assert_ne!(written.code, 0);
    assert!(says(&["--pid", "host"], "cat /proc/$$/status").contains("NSpid:\t"));
    let own = std::process::id().to_string();
    assert_eq!(says(&["--pid", "host"], &format!("test -d /proc/{own} && echo there")), "there\n");
    says(&["--ipc", "host"], "test -d /dev/shm");
    says(&["--uts", "host", "--cgroupns", "host"], "hostname; ls /sys/fs/cgroup");
    says(&["--ipc", "host", "--pid", "host", "--network", "host", "--uts", "host", "--cgroupns", "host"], ":");
    assert_eq!(says(&["--privileged"], "id -u; stat -c %u:%g /srv/data; echo x >/dev/null"), "0\n1000:1000\n");
    assert_eq!(
        says(
            &["--sysctl", "net.ipv4.ping_group_range=0 5", "--sysctl", "kernel.shmmni=77"],
            "cat /proc/sys/kernel/shmmni"
        ),
        "77\n"
    );
    assert_eq!(
        says(
            &["--device", "/dev/null:/dev/other", "--device", "/dev/zero"],
            "head -c 2 /dev/zero | cat >/dev/other; stat -c %t:%T /dev/other"
        ),
        "1:3\n"
    );
    says(&["--read-only"], "echo x >/tmp/x; echo x >/run/x");
    assert_ne!(shell.run(&[&MAP[..], &["--read-only"]].concat(), "echo x >/x").code, 0);
    // A namespace without the terminals' group has terminals all the same.
    assert_eq!(shell.says(&["--uidmap", "0:300000:3"], "stat -c %u:%g /dev/pts"), "0:0\n");
}

/// A shell on a machine whose /etc/subuid and /etc/subgid say what a test wants: the thread, and all that it starts, is in a mount
/// namespace of its own.
struct Machine(Shell);

impl Machine {
    fn new(subordinate: &str) -> Self {
        let shell = shell();
        enter_private_namespace().unwrap();
        let dirs = ["upper", "work"].map(|name| shell.sandbox.path("etc").join(name));
        for dir in &dirs {
            fs::create_dir_all(dir).unwrap();
        }
        for name in ["subuid", "subgid"] {
            fs::write(dirs[0].join(name), subordinate).unwrap();
        }
        let [upper, work] = dirs;
        let upper = UpperDirs { upper, work, volatile: false };
        let etc = MountPlan { lowers: vec!["/etc".into()], upper: Some(upper), ids: None }.mount_detached().unwrap();
        attach(etc.as_fd(), Path::new("/etc")).unwrap();
        Self(shell)
    }

    /// First id on the host and number of a container's users, and of its groups.
    fn range(&self, container: &str) -> [(u64, u64); 2] {
        let inspected = self.sandbox.json(&["inspect", container]);
        let users = &inspected[0]["user_namespace"];
        assert_eq!(users["mode"], "auto");
        ["users", "groups"].map(|kind| {
            assert_eq!(users[kind].as_array().unwrap().len(), 1, "{users}");
            (users[kind][0]["host"].as_u64().unwrap(), users[kind][0]["size"].as_u64().unwrap())
        })
    }

    fn create(&self, name: &str, userns: &str) -> sandbox::Output {
        self.sandbox.run(&["create", "--name", name, "--userns", userns, "shell:1", "sleep", "1000"])
    }
}

impl Deref for Machine {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.0
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.sandbox.run(&["delete", "--all", "--force"]);
        let root = fs::canonicalize(self.sandbox.path("")).unwrap();
        let table = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        for mount in table.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(mount).starts_with(&root) {
                drop(detach(Path::new(mount)));
            }
        }
    }
}

#[test]
fn each_container_has_a_range_that_no_other_has() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let machine = Machine::new("alice:1:9\ncontainers:400000:5000\n");
    let sandbox = &machine.sandbox;
    assert_eq!(
        machine.says(&["--userns", "auto"], "cat /proc/self/uid_map").split_whitespace().collect::<Vec<_>>(),
        ["0", "400000", "1024"]
    );
    machine.create("one", "auto");
    machine.create("two", "auto");
    assert_eq!((machine.range("one"), machine.range("two")), ([(400_000, 1024); 2], [(401_024, 1024); 2]));
    // It keeps its range, and nobody else gets it, whether it runs or not.
    for _ in 0..2 {
        sandbox.ok(&["start", "one"]);
        let map = fs::read_to_string(format!("/proc/{}/gid_map", pid(&machine, "one"))).unwrap();
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "400000", "1024"]);
        sandbox.ok(&["stop", "-t", "0", "one"]);
    }
    // Ids that are given by hand are taken too.
    sandbox.ok(&["create", "--name", "hand", "--uidmap", "0:402048:100", "--gidmap", "0:1:1024", "shell:1"]);
    machine.create("three", "auto:size=2000");
    assert_eq!(machine.range("three"), [(402_148, 2000), (402_048, 2000)]);
    let none = machine.create("four", "auto");
    assert_eq!(none.code, 125);
    assert!(
        none.stderr
            .contains("1024 ids are needed, and of those that /etc/subuid gives the user containers only 852 are free"),
        "{}",
        none.stderr
    );
    assert!(none.stderr.contains("hint: remove containers"), "{}", none.stderr);
    // What is gone gives its range back; pieces are put together where they must.
    sandbox.ok(&["delete", "one"]);
    machine.create("four", "auto");
    assert_eq!(machine.range("four"), [(400_000, 1024); 2]);
    sandbox.ok(&["delete", "four"]);
    assert_eq!(machine.create("pieces", "auto:size=1500").code, 0);
    let inspected = sandbox.json(&["inspect", "pieces"]);
    let pieces =
        json!([{"container": 0, "host": 400_000, "size": 1024}, {"container": 1024, "host": 404_148, "size": 476}]);
    assert_eq!(inspected[0]["user_namespace"]["users"], pieces);
    sandbox.ok(&["start", "pieces"]);
    sandbox.ok(&["exec", "pieces", "sh", "-c", "echo x >/x && chown 1100:1100 /x"]);
    assert_eq!(owner(directory(&machine, "pieces").join("upper/x")), (1100, 1100));
}

#[test]
fn containers_that_are_created_at_once_have_ranges_of_their_own() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let machine = Machine::new("containers:400000:100000\n");
    let creating: Vec<_> = (0..8)
        .map(|number| {
            let mut stos = machine.sandbox.command();
            let name = format!("c{number}");
            stos.args(["create", "--name", &name, "--userns", "auto", "shell:1"])
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            (name, stos.spawn().unwrap())
        })
        .collect();
    let mut seen = BTreeSet::new();
    for (name, child) in creating {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let [users, groups] = machine.range(&name);
        assert_eq!((users, users.1), (groups, 1024));
        seen.insert(users.0);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), (0..8).map(|number| 400_000 + number * 1024).collect::<Vec<_>>());
    assert!(!machine.sandbox.names("locks").contains(&"user-ids".to_owned()));
}

#[test]
fn a_range_is_as_large_as_the_image_and_the_user_need() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let machine = Machine::new("containers:400000:300000\n");
    let size = |options: &[&str]| {
        let map = machine.says(&[&["--userns"], options].concat(), "cat /proc/self/uid_map");
        map.split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!(size(&["auto"]), "1024");
    assert_eq!(size(&["auto", "--user", "2000:3000"]), "3001");
    assert_eq!(size(&["auto:size=500"]), "500");
    let map = machine.says(
        &["--userns", "auto:size=10,uidmapping=5:7:1,gidmapping=0:8:2"],
        "cat /proc/self/uid_map /proc/self/gid_map",
    );
    let lines: Vec<Vec<_>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [["0", "400000", "5"], ["6", "400005", "4"], ["5", "7", "1"], ["2", "400000", "8"], ["0", "8", "2"]];
    assert_eq!(lines, expected.map(|line| line.to_vec()));
    for (options, said) in [
        (&["auto:size=100", "--user", "100"][..], "the user namespace has no uid 100"),
        (&["auto", "--user", "65536"], "hint: --userns auto:size=65537"),
        (&["auto:uidmapping=0:400000:0"], "--userns \"0:400000:0\""),
    ] {
        let refused = machine.run(&[&["--userns"], options].concat(), ":");
        assert!(refused.code == 125 && refused.stderr.contains(said), "{options:?}: {}", refused.stderr);
    }
}

#[test]
fn without_ids_to_give_it_says_which_line_is_missing() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let machine = Machine::new("alice:500000:70000\nalice:600000:10\n");
    let refused = machine.create("c", "auto");
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("/etc/subuid has no range of ids for the user containers"), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: add a line to /etc/subuid such as containers:"), "{}", refused.stderr);
    let map = machine.says(&["--subuidname", "alice"], "cat /proc/self/gid_map");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "500000", "70000", "70000", "600000", "10"]);
    let refused = machine.run(&["--subgidname", "bob"], ":");
    assert!(refused.code == 125 && refused.stderr.contains("no range of ids for the user bob"), "{}", refused.stderr);
    assert_eq!(machine.sandbox.names("containers"), Vec::<String>::new());
}

#[test]
fn another_s_users_are_shared() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    up(&shell, "first", &MAP);
    up(&shell, "second", &["--userns", "container:first", "--pid", "container:first"]);
    let namespace = |container: &str| fs::read_link(format!("/proc/{}/ns/user", pid(&shell, container))).unwrap();
    assert_eq!(namespace("first"), namespace("second"));
    let says = |script: &str| shell.sandbox.ok(&["exec", "second", "sh", "-c", script]);
    assert_eq!(says("echo x >/new; chown 7:8 /new; stat -c %u:%g /new /srv/data /vol/first"), "7:8\n1000:1000\n7:8\n");
    assert_eq!(owner(directory(&shell, "second").join("upper/new")), (7, 8));
    assert_eq!(shell.sandbox.json(&["inspect", "second"])[0]["user_namespace"]["mode"], "container");
    // The namespace is that of the process that the other now has.
    shell.sandbox.ok(&["stop", "-t", "0", "second", "first"]);
    let refused = shell.sandbox.run(&["start", "second"]);
    assert!(refused.code == 125 && refused.stderr.contains("join the"), "{}", refused.stderr);
    shell.sandbox.ok(&["start", "first", "second"]);
    assert_eq!(namespace("first"), namespace("second"));
    assert_eq!(says("stat -c %u:%g /new"), "7:8\n");
    // Who has the host's users shares those.
    up(&shell, "plain", &[]);
    assert_eq!(
        shell.says(&["--userns", "container:plain"], "cat /proc/self/uid_map").split_whitespace().nth(2),
        Some("4294967295")
    );
    // Names and cgroups may be another's whose users are the host's, and the host's users may see who has their own.
    let name = shell.sandbox.ok(&["exec", "plain", "hostname"]);
    let joins = ["--uts", "container:plain", "--cgroupns", "container:plain"];
    assert_eq!(shell.says(&[&MAP[..], &joins].concat(), "hostname"), name);
    eventually("it sleeps", || shell.says(&["--pid", "container:first"], "cat /proc/1/comm") == "sleep\n");
    let refused = shell.run(&["--userns", "container:plain", "--pid", "container:first"], ":");
    assert!(refused.code == 125 && refused.stderr.contains("--pid \"container:first\""), "{}", refused.stderr);
}

#[test]
fn ids_can_be_kept() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let said = shell.says(
        &["--userns", "keep-id:uid=1000,gid=1000"],
        "id -u; id -g; stat -c %u:%g /srv/data /far; echo x >/srv/data; cat /proc/self/uid_map",
    );
    let own = fs::read_to_string("/proc/self/uid_map").unwrap();
    let size = own.split_whitespace().nth(2).unwrap();
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["1000", "1000", "1000:1000", "60000:60001", "0", "0", size]
    );
    assert_ne!(
        fs::read_link("/proc/self/ns/user").unwrap().to_str().unwrap(),
        shell
            .says(&["--userns", "keep-id"], "stat -c %N /proc/self/ns/user")
            .trim()
            .rsplit(' ')
            .next()
            .unwrap()
            .trim_matches('\'')
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    for (options, said) in [
        (&["--userns", "keep"][..], "--userns \"keep\": expected host, auto"),
        (&["--userns", "nomap"], "--userns \"nomap\""),
        (&["--userns", "private"], "--userns \"private\" needs a mapping"),
        (&["--userns", "ns:/proc/1/ns/user"], "--userns \"ns:/proc/1/ns/user\" is not supported"),
        (&["--userns", "container:none"], "none"),
        (&["--userns", "auto", "--uidmap", "0:1:1"], "exclude each other"),
        (
            &["--uidmap", "0:300000:1000", "--uidmap", "5:500000:1"],
            "--uidmap \"5:500000:1\": it has ids inside that 0:300000:1000 has too",
        ),
        (
            &["--uidmap", "0:300000:1000", "--gidmap", "0:1:2,2:2:1"],
            "--gidmap \"2:2:1\": it has ids outside that 0:1:2",
        ),
        (&["--uidmap", "0:4294967290:10"], "--uidmap \"0:4294967290:10\""),
        (&["--uidmap", "1:300000:10"], "--uidmap \"1:300000:10\": id 0 must be mapped"),
        (&["--uidmap", "0:300000:10", "--user", "10"], "the user namespace has no uid 10"),
        (&["--uidmap", "0:300000:10", "--user", "0:10"], "the user namespace has no gid 10"),
        (&["--uidmap", "what"], "--uidmap \"what\""),
    ] {
        let refused = shell.run(options, ":");
        assert_eq!(refused.code, 125, "{options:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{options:?}: {}", refused.stderr);
    }
    assert_eq!(shell.sandbox.names("containers"), Vec::<String>::new());
}
