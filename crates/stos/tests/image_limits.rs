// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits and devices of containers from images: each option in a container, and each refusal by the option's name.

mod sandbox;

use std::fs;

use sandbox::cgroup::{control, is_v1};
use sandbox::shell::Shell;
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::image_builder::ImageBuilder;

const MEBIBYTE: u64 = 1 << 20;

/// A container that sleeps with these options; gives its pid.
#[track_caller]
fn started(shell: &Shell, name: &str, options: &[&str]) -> i64 {
    shell.sandbox.ok(&[&["run", "-d", "--name", name], options, &["shell:1", "sleep", "1000"]].concat());
    shell.sandbox.json(&["state", name])["pid"].as_i64().unwrap()
}

/// `create OPTIONS shell:1`, which must fail with 125, name the option, and leave DATA-ROOT as it was.
#[track_caller]
fn refused(shell: &Shell, options: &[&str], said: &str) {
    let before = shell.sandbox.listing();
    let output = shell.sandbox.run(&[&["create"], options, &["shell:1", "sh"]].concat());
    assert_eq!(output.code, 125, "{options:?}: {}", output.stderr);
    before.assert_same(&shell.sandbox.listing());
    let option = options[0].split('=').next().unwrap();
    let named = output.stderr.contains(option) || option == "-c" || option == "-m";
    assert!(named && output.stderr.contains(said), "{options:?}: {}", output.stderr);
}

#[test]
fn limits_are_in_the_kernel_s_files() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let memory = ["-m", "64m", "--memory-reservation", "32m"];
    let time = ["--cpus", "0.5", "-c", "512", "--cpuset-cpus", "0", "--cpuset-mems", "0"];
    let pid = started(&shell, "all", &[&memory[..], &time, &["--pids-limit", "77"]].concat());
    assert_eq!(control(pid, "memory", "memory.limit_in_bytes", "memory.max"), (64 * MEBIBYTE).to_string());
    assert_eq!(control(pid, "memory", "memory.soft_limit_in_bytes", "memory.low"), (32 * MEBIBYTE).to_string());
    // Memory and swap together are twice the memory.
    let swap = if is_v1("memory") { 128 } else { 64 } * MEBIBYTE;
    assert_eq!(control(pid, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), swap.to_string());
    let quota = if is_v1("cpu") { "50000" } else { "50000 100000" };
    assert_eq!(control(pid, "cpu", "cpu.cfs_quota_us", "cpu.max"), quota);
    let shares = if is_v1("cpu") { "512" } else { "59" };
    assert_eq!(control(pid, "cpu", "cpu.shares", "cpu.weight"), shares);
    assert_eq!(control(pid, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(control(pid, "cpuset", "cpuset.mems", "cpuset.mems"), "0");
    assert_eq!(control(pid, "pids", "pids.max", "pids.max"), "77");
    let pid =
        started(&shell, "more", &["--memory=64m", "--memory-swap=96m", "--cpu-period=50000", "--cpu-quota=25000"]);
    let swap = if is_v1("memory") { 96 } else { 32 } * MEBIBYTE;
    assert_eq!(control(pid, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), swap.to_string());
    let quota = if is_v1("cpu") { "25000" } else { "25000 50000" };
    assert_eq!(control(pid, "cpu", "cpu.cfs_quota_us", "cpu.max"), quota);
}

#[test]
fn without_options_processes_alone_are_limited() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let pid = started(&shell, "plain", &[]);
    assert_eq!(control(pid, "pids", "pids.max", "pids.max"), "2048");
    let quota = if is_v1("cpu") { "-1" } else { "max 100000" };
    assert_eq!(control(pid, "cpu", "cpu.cfs_quota_us", "cpu.max"), quota);
    let own = |file: &str| fs::read_to_string(file).unwrap();
    assert_eq!(own(&format!("/proc/{pid}/limits")), own("/proc/self/limits"), "no limit is raised");
    assert_eq!(own(&format!("/proc/{pid}/oom_score_adj")), own("/proc/self/oom_score_adj"));
    for (name, limit) in [("none", "-1"), ("zero", "0")] {
        let pid = started(&shell, name, &["--pids-limit", limit]);
        assert_eq!(control(pid, "pids", "pids.max", "pids.max"), "max");
    }
}

#[test]
fn what_v1_alone_limits_is_refused_on_v2() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let options = ["--memory=64m", "--memory-swappiness=7", "--oom-kill-disable"];
    if is_v1("memory") {
        let pid = started(&shell, "v1", &options);
        assert_eq!(control(pid, "memory", "memory.swappiness", ""), "7");
        assert!(control(pid, "memory", "memory.oom_control", "").starts_with("oom_kill_disable 1"));
        let pid = started(&shell, "default", &["--memory-swappiness=-1"]);
        let own = control(i64::from(std::process::id()), "memory", "memory.swappiness", "");
        assert_eq!(control(pid, "memory", "memory.swappiness", ""), own);
    } else {
        refused(&shell, &["--memory-swappiness=7"], "cgroup v2 has no such limit");
        refused(&shell, &["--oom-kill-disable"], "cgroup v2 has no such limit");
    }
}

#[test]
fn a_limit_of_processes_bites() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "sleep 1000 & sleep 1000 & echo all";
    let few = shell.run(&["--pids-limit", "2"], script);
    assert!(few.code != 0 && few.stdout.is_empty(), "{few:?}");
    assert_eq!(shell.says(&["--pids-limit", "3"], script), "all\n");
}

#[test]
fn processes_have_their_limits() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let show = "ulimit -Sn; ulimit -Hn; ulimit -Hc; ulimit -Sf";
    let options = ["--ulimit", "nofile=100:200", "--ulimit", "core=0", "--ulimit", "fsize=1048576:2097152"];
    assert_eq!(shell.says(&options, show), "100\n200\n0\n2048\n");
    let own = stos_sys::process::credentials::limit("RLIMIT_NOFILE").unwrap();
    assert_eq!(shell.says(&["--ulimit", "nofile=64:-1"], show).lines().nth(1), Some(own.1.to_string().as_str()));
    let pid = started(&shell, "host", &["--ulimit", "host"]);
    let limits = |pid: &str| fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert_eq!(limits(&pid.to_string()), limits("self"));
    let nr_open: u64 = fs::read_to_string("/proc/sys/fs/nr_open").unwrap().trim().parse().unwrap();
    let above = format!("--ulimit=nofile={}", nr_open.max(own.1) + 1);
    refused(&shell, &[&above], " is above ");
    refused(&shell, &["--ulimit=nofile=5:2"], "the soft limit 5 is above the hard limit 2");
    refused(&shell, &["--ulimit=bogus=1"], "expected one of cpu, fsize");
    for value in ["nofile", "nofile=x", "=1"] {
        refused(&shell, &["--ulimit", value], "expected NAME=SOFT");
    }
}

#[test]
fn a_limit_that_only_a_privilege_raises_is_granted_to_who_has_it() {
    stos_testkit::require!(Need::Root, Need::Binary);
    use stos_sys::process::credentials::{capability_bit, limit, permitted_capabilities};
    let shell = Shell::new();
    let (_, own) = limit("RLIMIT_SIGPENDING").unwrap();
    let asked = format!("sigpending={}", own + 1);
    if permitted_capabilities().unwrap() & capability_bit("SYS_RESOURCE").unwrap() == 0 {
        refused(&shell, &["--ulimit", &asked], "CAP_SYS_RESOURCE is missing");
    } else {
        let shown = shell.says(&["--ulimit", &asked], "cat /proc/self/limits");
        let line = shown.lines().find(|line| line.starts_with("Max pending signals")).unwrap();
        assert!(line.contains(&(own + 1).to_string()), "{line}");
    }
}

#[test]
fn memory_is_mounted_as_asked() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let mounts = |options: &[&str], target: &str| {
        let table = shell.says(options, "cat /proc/self/mounts");
        let lines: Vec<_> = table.lines().filter(|line| line.split(' ').nth(1) == Some(target)).collect();
        assert_eq!(lines.len(), 1, "{target}: {table}");
        lines[0].split(' ').skip(2).take(2).collect::<Vec<_>>().join(" ")
    };
    assert!(mounts(&[], "/dev/shm").contains("size=65536k"));
    assert!(mounts(&["--shm-size", "1m"], "/dev/shm").contains("size=1024k"));
    assert!(mounts(&["--tmpfs", "/dev/shm:size=8k"], "/dev/shm").contains("size=8k"));
    // Half of the machine's memory is the kernel's default; 0 is no limit at all.
    assert_eq!(shell.says(&["--shm-size", "0"], "df -P /dev/shm | { read h; read a size b; echo $size; }"), "0\n");
    let plain = mounts(&["--tmpfs", "/mem"], "/mem");
    assert!(plain.starts_with("tmpfs rw,nosuid,nodev,") && !plain.contains("noexec"), "{plain}");
    let special = mounts(&["--tmpfs", "/mem:ro,suid,dev,noexec,size=1m,mode=700"], "/mem");
    assert!(special.starts_with("tmpfs ro,noexec,") && special.contains("size=1024k,mode=700"), "{special}");
    // It begins with what the image has there, unless that is not wanted.
    assert_eq!(shell.says(&["--tmpfs", "/srv"], "cat /srv/data"), "from the image\n");
    assert_eq!(shell.says(&["--tmpfs", "/srv:notmpcopyup"], "ls /srv"), "");
    let deep = ["--tmpfs", "/mem/deep", "--tmpfs", "/mem"];
    assert_eq!(shell.says(&deep, "echo x > /mem/deep/f; ls /mem"), "deep\n");
    assert_eq!(shell.says(&["--read-only", "--tmpfs", "/tmp"], "echo x > /tmp/f; cat /tmp/f"), "x\n");
    for value in ["rel", "/", "/a/../b", "/x:bogus", "/x:size=", "/proc/x", "/sys", "/dev"] {
        refused(&shell, &["--tmpfs", value], "--tmpfs");
    }
    let twice = shell.sandbox.run(&["create", "--tmpfs", "/x", "-v", "/tmp:/x", "shell:1"]);
    assert!(twice.code == 125 && twice.stderr.contains("duplicate mount destination"), "{twice:?}");
    for value in ["x", "-1"] {
        refused(&shell, &[&format!("--shm-size={value}")], "--shm-size");
    }
}

#[test]
fn devices_of_the_host_are_given_by_number() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let show = "stat -c '%n %t:%T %F' /dev/given";
    let given = "/dev/given 1:b character special file\n";
    // /dev/kmsg is none of the devices that every container has.
    assert_eq!(shell.says(&["--device", "/dev/kmsg:/dev/given"], show), given);
    // Nothing is written: whether it may be is asked when it is opened.
    let open = ": > /dev/given && echo opened";
    assert_eq!(shell.says(&["--device", "/dev/kmsg:/dev/given:w"], open), "opened\n");
    let refused_by_rule = shell.run(&["--device", "/dev/kmsg:/dev/given:r"], open);
    assert!(refused_by_rule.code != 0 && refused_by_rule.stderr.contains("not permitted"), "{refused_by_rule:?}");
    assert_ne!(shell.run(&[], "test -e /dev/kmsg").code, 0);
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/kmsg", dir.path().join("link")).unwrap();
    let link = format!("{}:/dev/given", dir.path().join("link").display());
    assert_eq!(shell.says(&["--device", &link], show), given);
    if fs::exists("/dev/net/tun").unwrap() {
        assert_eq!(shell.says(&["--device", "/dev/net:/dev/more"], "ls /dev/more"), "tun\n");
    }
    refused(&shell, &["--device", "/dev/no-such"], "No such file");
    refused(&shell, &["--device", "/etc/passwd"], "no device");
    refused(&shell, &["--device", dir.path().to_str().unwrap()], "no device");
    for value in ["/dev/null:x", "/dev/null:/dev/x:rx", "null", "/dev/null:/a/../b"] {
        refused(&shell, &["--device", value], "expected");
    }
}

#[test]
fn a_rule_lets_devices_be_used() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    // A bind of the node alone gives no right to it.
    let (bind, open) = ("/dev/kmsg:/given:rw", ": > /given && echo opened");
    let before = shell.run(&["-v", bind], open);
    assert!(before.code != 0 && before.stderr.contains("not permitted"), "{before:?}");
    let read = shell.run(&["-v", bind, "--device-cgroup-rule", "c 1:11 r"], open);
    assert!(read.code != 0 && read.stderr.contains("not permitted"), "{read:?}");
    assert_eq!(shell.says(&["-v", bind, "--device-cgroup-rule", "c 1:11 w"], open), "opened\n");
    assert_eq!(shell.says(&["-v", bind, "--device-cgroup-rule", "c 1:* rwm"], open), "opened\n");
    for value in ["", "c", "z 1:3 r", "c 1:3 x", "c x:3 r", "a 1:* rwm"] {
        refused(&shell, &["--device-cgroup-rule", value], "--device-cgroup-rule");
    }
}

#[test]
fn settings_of_the_kernel_are_the_container_s_own() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let options = ["--sysctl", "net.ipv4.ip_unprivileged_port_start=80", "--sysctl", "kernel.shmmni=99"];
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni";
    assert_eq!(shell.says(&options, script), "80\n99\n");
    let of_host = fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
    assert_ne!(of_host, "99\n");
    refused(&shell, &["--sysctl=net.ipv4.ip_forward=1", "--network=host"], "the container has the host's network");
    refused(&shell, &["--sysctl=kernel.panic=5"], "it belongs to no namespace");
    refused(&shell, &["--sysctl=net/../kernel/panic=5"], "a setting below /proc/sys");
    refused(&shell, &["--sysctl=foo"], "a name and a value");
}

#[test]
fn scores_and_annotations_are_set() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    assert_eq!(shell.says(&["--oom-score-adj", "777"], "cat /proc/self/oom_score_adj"), "777\n");
    let annotations = ["--annotation", "org.example.a=b=c", "--annotation=x=1", "--annotation=x=2"];
    shell.sandbox.ok(&[&["create", "--name", "noted"], &annotations[..], &["shell:1"]].concat());
    let found = shell.sandbox.json(&["inspect", "noted"])[0]["config"]["annotations"].clone();
    assert_eq!((&found["org.example.a"], &found["x"]), (&json!("b=c"), &json!("2")));
    refused(&shell, &["--annotation=foo"], "a name and a value");
    refused(&shell, &["--annotation=dev.stos.container=x"], "stos's own");
    for score in ["-1001", "1001", "x"] {
        refused(&shell, &[&format!("--oom-score-adj={score}")], "--oom-score-adj");
    }
}

#[test]
fn what_cannot_be_granted_is_told_by_option() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for (options, said) in [
        (&["--memory=4k"][..], "expected at least 524288 bytes"),
        (&["-m", "-1"], "expected bytes"),
        (&["--memory=x"], "expected bytes"),
        (&["--memory-swap=1g"], "needs a --memory"),
        (&["--memory-swap=32m", "--memory=64m"], "expected at least the 67108864 of --memory"),
        (&["--memory-reservation=65m", "--memory=64m"], "expected at most the 67108864 of --memory"),
        (&["--memory-swappiness=101"], "101"),
        (&["--cpus=4096"], "this machine has "),
        (&["--cpus=0.001"], "at least 0.01"),
        (&["--cpus=1", "--cpu-quota=50000"], "--cpu-quota"),
        (&["--cpus=1", "--cpu-period=50000"], "--cpu-period"),
        (&["--cpu-quota=409600000"], "this machine has "),
        (&["--cpu-quota=5"], "at least 1000"),
        (&["--cpu-period=5"], "1000 to 1000000"),
        (&["--cpu-shares=1"], "2 to 262144"),
        (&["-c", "1"], "--cpu-shares"),
        (&["--cpuset-cpus=4095"], "4095 is not available: this machine has 0"),
        (&["--cpuset-cpus=x"], "numbers and ranges"),
        (&["--cpuset-mems=1023"], "1023 is not available"),
        (&["--pids-limit=-2"], "-2"),
        (&["--blkio-weight=9"], "10 to 1000"),
    ] {
        refused(&shell, options, said);
    }
}

#[test]
fn a_volume_of_the_image_gives_way_to_memory() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::of(&ImageBuilder::new().set("/config/Volumes", json!({"/srv": {}})));
    let table = shell.says(&["--tmpfs", "/srv"], "cat /proc/self/mounts");
    let kinds: Vec<_> = table.lines().filter(|line| line.split(' ').nth(1) == Some("/srv")).collect();
    assert!(kinds.len() == 1 && kinds[0].starts_with("tmpfs /srv tmpfs "), "{table}");
    shell.sandbox.ok(&["create", "--name", "covered", "--tmpfs", "/srv", "shell:1"]);
    assert!(!shell.sandbox.data_root().join("volumes").exists());
}

#[test]
fn what_only_the_kernel_knows_is_told_at_the_start() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let weighed = shell.run(&["--blkio-weight", "200"], "echo weighed");
    // Not every kernel has the file.
    let is_told = weighed.code == 125 && weighed.stderr.contains("linux.resources.blockIO.weight: ");
    assert!(is_told || weighed.stdout == "weighed\n", "{weighed:?}");
    // No network has a setting of that name.
    let output = shell.run(&["--sysctl", "net.no.such=1"], "true");
    assert!(
        output.code == 125 && (output.stderr.contains("net.no.such") || output.stderr.contains("net/no/such")),
        "{output:?}"
    );
    assert!(shell.sandbox.names("containers").is_empty());
    shell.sandbox.ok(&["create", "--name", "late", "--sysctl", "net.no.such=1", "shell:1"]);
    assert_ne!(shell.sandbox.run(&["start", "late"]).code, 0);
    assert_eq!(shell.status("late"), "created");
}
