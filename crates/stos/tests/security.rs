// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Options about how a container from an image is confined, and whose namespaces it has: each does what it says, or is refused by name.

mod sandbox;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sandbox::output;
use sandbox::shell::{Shell, eventually};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::rootfs;

/// A sandbox with an image of this machine's shell, and of what looks at a process.
fn shell() -> Shell {
    let tools = rootfs::host_programs(&["readlink", "tr", "umount", "rmdir"]).unwrap();
    Shell::of(&ImageBuilder::new().layer(Layer::plain(tools)))
}

/// What a container's process has, by its /proc/self/status.
fn status(shell: &Shell, options: &[&str], key: &str) -> String {
    let said = shell.says(options, &format!("grep ^{key}: /proc/self/status"));
    said.split_whitespace().nth(1).unwrap().to_owned()
}

fn mask(numbers: &[u32]) -> String {
    format!("{:016x}", numbers.iter().map(|number| 1_u64 << number).sum::<u64>())
}

#[test]
fn capabilities_are_those_that_were_asked_for() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    // CAP_KILL is 5, CAP_NET_RAW 13, CAP_SYS_CHROOT 18.
    assert_eq!(status(&shell, &["--cap-drop", "ALL", "--cap-add", "kill,CAP_NET_RAW"], "CapEff"), mask(&[5, 13]));
    assert_eq!(status(&shell, &["--cap-drop", "all"], "CapBnd"), mask(&[]));
    let default = status(&shell, &[], "CapBnd");
    assert_eq!(status(&shell, &["--cap-add", "chown"], "CapBnd"), default);
    let user = ["--user", "1000", "--cap-add", "net_raw"];
    assert_eq!(status(&shell, &user, "CapEff"), mask(&[13]));
    assert_eq!(status(&shell, &user, "CapAmb"), mask(&[13]));
    assert_ne!(status(&shell, &user, "CapBnd"), default);
    assert_eq!(status(&shell, &["--user", "1000"], "CapEff"), mask(&[]));
}

#[test]
fn what_cannot_be_had_is_refused_by_name_before_anything_is_made() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let garbage = shell.sandbox.path("garbage.json");
    fs::write(&garbage, "{").unwrap();
    let garbage = format!("seccomp={}", garbage.display());
    for (options, named) in [
        (&["--cap-add", "CAP_FLY"][..], "--cap-add \"CAP_FLY\": there is no such capability"),
        (&["--cap-drop", "fly"], "--cap-drop \"fly\""),
        (&["--cap-add", "kill", "--cap-drop", "KILL"], "--cap-add \"CAP_KILL\""),
        (&["--security-opt", "seccomp=/no/such"], "/no/such"),
        (&["--security-opt", &garbage], "garbage.json"),
        (&["--security-opt", "label=type:spc_t"], "label=type:spc_t"),
        (&["--security-opt", "no-such"], "no-such"),
        (&["--security-opt", "mask=proc"], "mask \"proc\""),
        (&["--ipc", "hosts"], "--ipc \"hosts\""),
        (&["--ipc", "none", "--shm-size", "1m"], "--shm-size \"1048576\""),
        (&["--pid", "container:no-such"], "no-such"),
        (&["--pid", "some"], "--pid \"some\""),
        (&["--uts", "host", "--hostname", "x"], "--hostname \"x\""),
    ] {
        let refused = shell.run(options, ":");
        assert_eq!(refused.code, 125, "{options:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(named), "{options:?}: {}", refused.stderr);
    }
    if !fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y")) {
        let refused = shell.run(&["--security-opt", "apparmor=p"], ":");
        assert!(refused.code == 125 && refused.stderr.contains("AppArmor is not enabled"), "{}", refused.stderr);
    }
    assert_eq!(shell.sandbox.names("containers"), Vec::<String>::new());
    shell.says(&["--security-opt", "label=disable", "--security-opt", "apparmor=unconfined", "--userns", "host"], ":");
}

#[test]
fn system_calls_are_filtered_by_default_by_a_file_or_not_at_all() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let seccomp = |option: &str| status(&shell, &["--security-opt", option], "Seccomp");
    assert_eq!((status(&shell, &[], "Seccomp").as_str(), seccomp("seccomp=unconfined").as_str()), ("2", "0"));
    // docker's form: a rule counts where the container has the capability.
    let file = shell.sandbox.path("profile.json");
    let rule = |capability: &str| json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errno": "ENOSPC", "errnoRet": 28, "includes": {"caps": [capability]}});
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}, {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []}],
        "syscalls": [rule("CAP_NET_RAW")],
    });
    fs::write(&file, profile.to_string()).unwrap();
    let option = format!("seccomp={}", file.display());
    shell.says(&["--security-opt", &option], "mkdir /new");
    let denied = shell.run(&["--security-opt", &option, "--cap-add", "net_raw"], "mkdir /new");
    assert!(denied.code != 0 && denied.stderr.contains("No space"), "{}", denied.stderr);
    // The container keeps what it was created with.
    shell.sandbox.ok(&[
        "create",
        "--name",
        "kept",
        "--security-opt",
        &option,
        "--cap-add",
        "net_raw",
        "shell:1",
        "mkdir",
        "/new",
    ]);
    fs::remove_file(&file).unwrap();
    for _ in 0..2 {
        assert_ne!(shell.sandbox.run(&["start", "-a", "kept"]).code, 0);
    }
    assert_eq!(status(&shell, &["--privileged"], "Seccomp"), "0");
}

#[test]
fn the_configuration_holds_the_whole_profile() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    shell.sandbox.ok(&["create", "--name", "c", "shell:1"]);
    let inspected = shell.sandbox.json(&["inspect", "c"]);
    let config = inspected.as_array().map_or(&inspected, |list| &list[0])["config"].clone();
    assert_eq!(config["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(config["linux"]["seccomp"]["defaultErrnoRet"], 38);
    // A further process is under it too.
    shell.sandbox.ok(&["run", "-d", "--name", "d", "shell:1", "sleep", "1000"]);
    let said = shell.sandbox.ok(&["exec", "d", "grep", "^Seccomp:", "/proc/self/status"]);
    assert_eq!(said.split_whitespace().nth(1), Some("2"));
}

#[test]
fn no_new_privileges_are_gained() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let gains = |option: &str| status(&shell, &["--security-opt", option], "NoNewPrivs");
    assert_eq!((gains("no-new-privileges").as_str(), gains("no-new-privileges=false").as_str()), ("1", "0"));
}

#[test]
fn paths_are_hidden_and_shown() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    assert_eq!(shell.says(&["--security-opt", "mask=/srv:/etc/hostname"], "ls /srv; cat /etc/hostname"), "");
    assert_eq!(shell.says(&[], "cat /srv/data"), "from the image\n");
    let timers =
        "grep -q . /proc/interrupts && echo shown; echo x 2>/dev/null > /proc/sys/kernel/domainname && echo written";
    assert_eq!(shell.run(&[], timers).stdout, "");
    assert_eq!(shell.run(&["--security-opt", "unmask=/proc/inter*"], timers).stdout, "shown\n");
    assert_eq!(shell.run(&["--security-opt", "unmask=/proc/sys"], timers).stdout, "written\n");
    assert_eq!(shell.run(&["--security-opt", "unmask=ALL"], timers).stdout, "shown\nwritten\n");
    let options = ["--security-opt", "proc-opts=hidepid=2"];
    assert!(shell.says(&options, "grep ' /proc proc' /proc/mounts").contains("hidepid="));
}

#[test]
fn a_privileged_container_has_the_host_s_devices_and_may_mount() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let script = "ls /dev/kmsg && grep ' /sys sysfs' /proc/mounts && grep -q . /proc/interrupts && echo all";
    let said = shell.says(&["--privileged"], script);
    assert!(said.contains("/dev/kmsg") && said.contains("sysfs rw") && said.ends_with("all\n"), "{said}");
    assert!(shell.run(&[], "ls /dev/kmsg").code != 0);
    let bounding = fs::read_to_string("/proc/self/status").unwrap();
    let ours = bounding.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap().to_owned();
    assert_eq!(status(&shell, &["--privileged"], "CapEff"), ours);
    assert_eq!(status(&shell, &["--privileged", "--cap-drop", "all"], "CapEff"), mask(&[]));
}

#[test]
fn a_read_only_root_has_directories_that_can_be_written() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let write = "for place in /run /tmp /var/tmp /dev/shm /dev /srv /etc/hosts; do target=$place; test -d $place && target=$place/new; \
                 (echo x >> $target) 2>/dev/null && echo $place; done; true";
    assert_eq!(shell.says(&["--read-only"], write), "/run\n/tmp\n/var/tmp\n/dev/shm\n/dev\n");
    assert_eq!(shell.says(&["--read-only", "--read-only-tmpfs=false"], write), "");
    assert!(shell.says(&["--read-only", "--read-only-tmpfs=false"], "echo x > /dev/null; echo y").starts_with('y'));
    let source = shell.sandbox.path("source");
    fs::create_dir(&source).unwrap();
    shell.says(&["--read-only", "-v", &format!("{}:/tmp", source.display())], "echo x > /tmp/new");
    assert!(source.join("new").exists(), "what is mounted by name counts more");
}

#[test]
fn another_container_s_shared_memory_is_shared_while_both_run() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    shell.sandbox.ok(&[
        "run",
        "-d",
        "--name",
        "first",
        "--ipc",
        "shareable",
        "shell:1",
        "sh",
        "-c",
        "echo one > /dev/shm/of-first; exec sleep 1000",
    ]);
    let has_written = || shell.sandbox.run(&["exec", "first", "cat", "/dev/shm/of-first"]).stdout == "one\n";
    eventually("it has written", has_written);
    let pid = || shell.sandbox.json(&["state", "first"])["pid"].to_string();
    let script = "readlink /proc/self/ns/ipc; cat /dev/shm/of-first; echo two > /dev/shm/of-second; grep -c ' /dev/shm ' /proc/self/mountinfo; \
                  grep ' /dev/shm ' /proc/self/mountinfo";
    // What else is bound is opened in the same way then.
    let shared = ["--ipc", "container:first", "-v", &format!("{}:/host:ro", shell.sandbox.path("").display())];
    shell.sandbox.ok(&[&["create", "--name", "second"][..], &shared, &["shell:1", "sh", "-c", script]].concat());
    let expected = format!("{}\none\n1\n", namespace(&pid(), "ipc"));
    let seen = shell.sandbox.run(&["start", "-a", "second"]);
    assert!(seen.stdout.starts_with(&expected), "{}{}", seen.stdout, seen.stderr);
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(seen.stdout.contains(option), "{option}: {}", seen.stdout);
    }
    assert_eq!(shell.sandbox.ok(&["exec", "first", "cat", "/dev/shm/of-second"]), "two\n");
    // While it does not run it has none, and nothing of another's is written into it.
    let source = shell.sandbox.path("file");
    fs::write(&source, "x").unwrap();
    shell.sandbox.ok(&["cp", source.to_str().unwrap(), "second:/dev/shm"]);
    assert!(!shell.sandbox.run(&["exec", "first", "cat", "/dev/shm/file"]).stdout.contains('x'));
    shell.sandbox.ok(&["stop", "-t", "0", "first"]);
    let refused = shell.sandbox.run(&["start", "-a", "second"]);
    assert!(refused.code == 125 && refused.stderr.contains("ipc namespace of container first"), "{}", refused.stderr);
    // The next process of the first one has another memory, which is the one that is seen.
    shell.sandbox.ok(&["start", "first"]);
    eventually("it has written again", has_written);
    let expected = format!("{}\none\n1\n", namespace(&pid(), "ipc"));
    let seen = shell.sandbox.run(&["start", "-a", "second"]);
    assert!(seen.stdout.starts_with(&expected), "{}{}", seen.stdout, seen.stderr);
}

#[test]
fn a_place_for_shared_memory_that_another_has_as_a_symlink_is_not_followed() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    // With all rights the other may put there what it likes.
    let script = "umount /dev/shm; rmdir /dev/shm; ln -s /etc /dev/shm; exec sleep 1000";
    shell.sandbox.ok(&["run", "-d", "--name", "first", "--privileged", "shell:1", "sh", "-c", script]);
    let is_symlink = || shell.sandbox.run(&["exec", "first", "readlink", "/dev/shm"]).stdout == "/etc\n";
    eventually("the other has made its symlink", is_symlink);
    let refused = shell.run(&["--ipc", "container:first"], ":");
    assert!(
        refused.code == 125 && refused.stderr.contains("/dev/shm of another mount namespace"),
        "{}",
        refused.stderr
    );
    let own = shell.says(&["--ipc", "none"], "test -e /dev/shm || readlink /proc/self/ns/ipc");
    assert!(own.starts_with("ipc:") && own.trim() != namespace("self", "ipc"), "{own}");
}

/// Where a namespace of a process is.
fn namespace(pid: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().into_os_string().into_string().unwrap()
}

#[test]
fn namespaces_are_the_host_s_where_that_is_asked_for() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    for (option, kind) in [("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--cgroupns", "cgroup")] {
        let read = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(shell.says(&[option, "host"], &read).trim(), namespace("self", kind), "{option}");
        assert_ne!(shell.says(&[option, "private"], &read).trim(), namespace("self", kind), "{option}");
    }
    let host = output(std::process::Command::new("uname").arg("-n")).stdout;
    assert_eq!(
        shell.says(&["--uts", "host"], "cat /proc/sys/kernel/hostname /etc/hostname; echo $HOSTNAME"),
        host.repeat(3)
    );
    let pid = std::process::id();
    assert_eq!(shell.says(&["--pid", "host"], &format!("test -d /proc/{pid} && echo seen")), "seen\n");
    let shared = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    assert_eq!(shell.says(&["--ipc", "host"], &format!("test -e {} && echo seen", shared.path().display())), "seen\n");
}

#[test]
fn another_container_s_namespaces_are_those_of_the_process_that_it_has() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    shell.sandbox.ok(&["run", "-d", "--name", "first", "--hostname", "shared", "shell:1", "sleep", "1000"]);
    let all = ["--pid", "container:first", "--uts", "container:first", "--cgroupns", "container:first"];
    // The words of a program can be read a moment after it has begun.
    let script = "cat /proc/sys/kernel/hostname; until grep -q . /proc/1/cmdline; do sleep 0.05; done; \
                  tr '\\0' ' ' < /proc/1/cmdline; for kind in pid uts cgroup; do readlink /proc/self/ns/$kind; done";
    shell.sandbox.ok(&[&["create", "--name", "second"][..], &all, &["shell:1", "sh", "-c", script]].concat());
    let expected = || {
        let pid = shell.sandbox.json(&["state", "first"])["pid"].to_string();
        ["pid", "uts", "cgroup"].map(|kind| namespace(&pid, kind)).join("\n")
    };
    let start = || shell.sandbox.run(&["start", "-a", "second"]);
    let first = (start(), expected());
    assert_eq!(first.0.stdout, format!("shared\nsleep 1000 {}\n", first.1), "{}", first.0.stderr);
    // A later start of the other is another process.
    shell.sandbox.ok(&["stop", "-t", "0", "first"]);
    let refused = start();
    assert_eq!(refused.code, 125);
    assert!(
        refused.stderr.contains("namespace of container first: it is stopped, expected running"),
        "{}",
        refused.stderr
    );
    shell.sandbox.ok(&["start", "first"]);
    let second = (start(), expected());
    assert_eq!(second.0.stdout, format!("shared\nsleep 1000 {}\n", second.1), "{}", second.0.stderr);
    shell.sandbox.ok(&["delete", "--force", "first"]);
    let refused = start();
    assert!(refused.code == 125 && refused.stderr.contains("no such container"), "{}", refused.stderr);
}

#[test]
fn a_container_in_another_s_pid_namespace_ends_with_all_that_it_has() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    // Other tests run beside this one.
    let marked = format!("sleep 4{}", std::process::id());
    for option in [&["--pid", "host"][..], &["--pid", "container:other"]] {
        if option[1] != "host" {
            shell.sandbox.ok(&["run", "-d", "--name", "other", "shell:1", "sleep", "1000"]);
        }
        shell.sandbox.ok(&[
            &["run", "-d", "--name", "one"][..],
            option,
            &["shell:1", "sh", "-c", &format!("{marked} & sleep 1000")],
        ]
        .concat());
        let left = || output(std::process::Command::new("pgrep").args(["-f", "-x", &marked])).stdout;
        eventually("it runs", || !left().is_empty());
        shell.sandbox.ok(&["stop", "-t", "0", "one"]);
        eventually("all of it has ended", || left().is_empty());
        shell.sandbox.ok(&["delete", "one"]);
    }
    assert_eq!(shell.status("other"), "running");
}

#[test]
fn a_record_without_these_words_is_still_read() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = shell();
    let id = shell.sandbox.ok(&["create", "--name", "old", "shell:1", "sh", "-c", ":"]);
    let path = shell.sandbox.data_root().join("containers").join(id.trim()).join("container.json");
    let record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(record.get("joins").is_none(), "it joins nothing, and says nothing");
    assert_eq!(shell.sandbox.run(&["start", "-a", "old"]).code, 0);
}

#[test]
fn nobody_but_root_reaches_the_store() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("setpriv"));
    let shell = shell();
    // What lasts, what a reboot takes, and what a container that runs has in both.
    let secret = "echo secret > /secret; echo secret; exec sleep 1000";
    shell.sandbox.ok(&["run", "-d", "--name", "first", "shell:1", "sh", "-c", secret]);
    eventually("it has written", || shell.sandbox.ok(&["logs", "first"]) == "secret\n");
    for root in [shell.sandbox.data_root(), shell.sandbox.root()] {
        // Even where the root itself is open to all, as of a package that made it.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let mut seen = std::process::Command::new("setpriv");
        seen.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "find"])
            .arg(&root)
            .args(["-mindepth", "2"]);
        let seen = output(&mut seen);
        assert_eq!(seen.stdout, "", "{}", seen.stderr);
        let open: Vec<_> = fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| {
                let metadata = entry.metadata().unwrap();
                metadata.is_dir() && metadata.permissions().mode() & 0o077 != 0
            })
            .collect();
        assert!(open.is_empty(), "{open:?}");
    }
}
