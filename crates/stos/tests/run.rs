// SPDX-License-Identifier: Apache-2.0 OR MIT
//! run, and start -a: streams, exit codes, signals, and what a container's process finds around it.

mod sandbox;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::output;
use sandbox::shell::{Shell, eventually};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::{ImageBuilder, Layer};
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// podman's default capabilities (containers-common, `default_capabilities`), by their numbers in capability.h.
const PODMAN_CAPABILITIES: [u32; 11] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31];

fn spawn(shell: &Shell, arguments: &[&str]) -> Child {
    let mut stos = shell.sandbox.command();
    stos.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    stos.spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn streams_stay_apart_and_codes_pass_through() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let ran = shell.run(&[], "echo out; echo err >&2; printf 'no end'; exit 200");
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (200, "out\nno end", "err\n"));
    assert_eq!(shell.run(&[], "kill -9 $$; exit 7").code, 7, "a first process is deaf to its own signals");
    for code in [0, 1, 125, 126, 127, 128, 255] {
        assert_eq!(shell.run(&[], &format!("exit {code}")).code, code);
    }
    let bytes = shell.sandbox.command().args(["run", "--rm", "shell:1", "sh", "-c", "printf '\\377\\000\\n'"]).output();
    assert_eq!(bytes.unwrap().stdout, b"\xff\0\n");
    shell.sandbox.ok(&["create", "--name", "attached", "shell:1", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    for _ in 0..2 {
        let started = shell.sandbox.run(&["start", "-a", "attached"]);
        assert_eq!((started.code, started.stdout.as_str(), started.stderr.as_str()), (3, "out\n", "err\n"));
    }
}

#[test]
fn a_process_that_a_signal_ends_gives_128_and_the_signal() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    shell.sandbox.ok(&["run", "-d", "--name", "victim", "shell:1", "sleep", "1000"]);
    // From outside its namespace SIGKILL ends a first process whatever it handles.
    shell.sandbox.ok(&["kill", "-s", "KILL", "victim"]);
    assert_eq!(shell.sandbox.ok(&["wait", "victim"]), "137\n");
    assert_eq!(shell.sandbox.json(&["list", "--format", "json"])[0]["exit_code"], 137);
    let mut stos = spawn(&shell, &["run", "--rm", "--name", "attached", "shell:1", "sleep", "1000"]);
    eventually("it runs", || shell.sandbox.run(&["state", "attached"]).stdout.contains("\"running\""));
    eventually("it is killed", || shell.sandbox.run(&["kill", "-s", "9", "attached"]).code == 0);
    assert_eq!(stos.wait().unwrap().code(), Some(137));
}

#[test]
fn create_run_and_start_say_why_a_command_cannot_run() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let loader = TarBuilder::new()
        .entry(Entry::file("bin/garbage", "\u{1}\u{2} no program").mode(0o755))
        .entry(Entry::symlink("bin/loop", "loop"))
        .entry(Entry::symlink("bin/out", "../../../../../../usr/bin/env"))
        .finish();
    let shell = Shell::of(&ImageBuilder::new().layer(Layer::plain(loader)));
    shell.says(&[], ":");
    let before = shell.sandbox.listing();
    for (command, code, said) in [
        ("no-such", 127, "PATH"),
        ("/no/such/command", 127, "/no"),
        ("/bin/no-such", 127, "/bin/no-such"),
        ("/srv/data/x", 127, "/srv/data"),
        ("lost", 127, "/no/interpreter"),
        ("/bin/out", 127, "/bin/out"),
        ("/bin/loop", 127, "/bin/loop"),
        ("plain", 126, "plain"),
        ("/bin/plain", 126, "/bin/plain"),
        ("/srv", 126, "/srv"),
        ("/", 126, "/"),
    ] {
        for how in [&["create"][..], &["run", "--rm"], &["run", "-d", "--rm"]] {
            let output = shell.sandbox.run(&[how, &["shell:1", command]].concat());
            assert_eq!(output.code, code, "{how:?} {command}: {}", output.stderr);
            assert!(output.stderr.contains(said), "{how:?} {command}: {}", output.stderr);
        }
    }
    // The kernel alone can tell that this is no program.
    for how in [&["run", "--rm"][..], &["run", "-d", "--rm"]] {
        let output = shell.sandbox.run(&[how, &["shell:1", "garbage"]].concat());
        assert_eq!(output.code, 126, "{how:?}: {}", output.stderr);
        assert!(output.stderr.contains("garbage"), "{}", output.stderr);
    }
    before.assert_same(&shell.sandbox.listing());
}

#[test]
fn what_only_the_start_can_see_has_the_same_codes() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("plain"), "x").unwrap();
    let volume = format!("{}:/mnt", host.path().display());
    for (command, code) in [("/mnt/none", 127), ("/mnt/plain", 126), ("/mnt", 126)] {
        let id = shell.sandbox.ok(&["create", "-v", &volume, "shell:1", command]);
        for how in [&["start"][..], &["start", "-a"]] {
            let output = shell.sandbox.run(&[how, &[id.trim()]].concat());
            assert_eq!(output.code, code, "{how:?} {command}: {}", output.stderr);
            assert!(output.stderr.contains(command), "{how:?} {command}: {}", output.stderr);
        }
        assert_ne!(shell.status(id.trim()), "running");
        shell.sandbox.ok(&["delete", id.trim()]);
        let ran = shell.sandbox.run(&["run", "--rm", "-v", &volume, "shell:1", command]);
        assert_eq!(ran.code, code, "{command}: {}", ran.stderr);
    }
    assert!(shell.sandbox.names("containers").is_empty() && shell.sandbox.names("names").is_empty());
}

#[test]
fn a_command_line_that_cannot_be_read_is_125_or_1() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let sandbox = sandbox::Sandbox::new();
    for (words, expected) in [
        (&["run", "--no-such", "x"][..], 125),
        (&["create"], 125),
        (&["start", "--no-such"], 125),
        (&["run", "--pull", "sometimes", "x"], 125),
        (&["start", "no-such"], 125),
        (&["create", "--bundle", "x", "--name", "y", "id"], 1),
        (&["run", "--no-such", "image", "ls", "-b"], 125),
        (&["run", "--pid-file", "p", "image"], 125),
        (&["--log", "/no/dir/x", "run", "x"], 125),
        (&["--log", "/no/dir/x", "run", "--bundle", "x", "x"], 1),
        (&["--log", "/no/dir/x", "list"], 1),
        (&["start", "-a", "one", "two"], 125),
        (&["start", "one", "two"], 125),
        (&["wait"], 1),
        (&["wait", "no-such"], 1),
        (&["logs", "no-such"], 1),
        (&["state", "no-such"], 1),
        (&["kill", "no-such"], 1),
        (&["stop", "no-such"], 1),
        (&["delete", "no-such"], 1),
        (&["no-such-command"], 1),
        (&["delete", "--force", "no-such"], 0),
        (&["--help"], 0),
        (&["--version"], 0),
    ] {
        let output = sandbox.run(words);
        assert_eq!(output.code, expected, "{words:?}: {}", output.stderr);
        assert_eq!(output.stderr.is_empty(), expected == 0, "{words:?}");
    }
}

#[test]
fn another_user_is_told_in_one_line() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("setpriv"));
    // Where anybody may execute it.
    let dir = tempfile::Builder::new()
        .prefix("stos-test-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .unwrap();
    let binary = dir.path().join("stos");
    // By a process of its own: while we had the copy open for writing another test might fork, and then it is busy.
    sandbox::tool("cp", &[stos_testkit::environment::stos().as_path(), &binary]);
    for (words, expected) in [
        (&["run", "x"][..], 125),
        (&["create", "x"], 125),
        (&["start", "x"], 125),
        (&["run", "--bundle", "x", "x"], 1),
        (&["list"], 1),
    ] {
        let mut stos = std::process::Command::new("setpriv");
        stos.args(["--reuid=1000", "--regid=1000", "--clear-groups"]).arg(&binary);
        let ran = output(stos.args(words));
        assert_eq!((ran.code, ran.stderr.lines().count()), (expected, 1), "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("must run as root"), "{words:?}: {}", ran.stderr);
    }
}

#[test]
fn of_several_containers_each_has_its_turn() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for name in ["one", "two"] {
        shell.sandbox.ok(&["create", "--name", name, "shell:1", "sh", "-c", "sleep 1000"]);
    }
    let both = |words: &[&str], code: i32, stdout: &str| {
        let ran = shell.sandbox.run(&[words, &["one", "none", "two"]].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (code, stdout), "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("\"none\"") && ran.stderr.contains("hint:"), "{words:?}: {}", ran.stderr);
    };
    both(&["start"], 125, "one\ntwo\n");
    both(&["kill", "-s", "KILL"], 1, "one\ntwo\n");
    both(&["wait"], 1, "137\n137\n");
    both(&["stop", "-t", "18446744073709551615"], 1, "one\ntwo\n");
    both(&["delete"], 1, "one\ntwo\n");
    assert!(shell.sandbox.names("containers").is_empty());
    let removed = shell.sandbox.run(&["rmi", "--format", "json", "none:1", "shell:1"]);
    assert_eq!(removed.code, 1);
    let json: serde_json::Value = serde_json::from_str(&removed.stdout).unwrap();
    assert_eq!(json[0]["deleted"].as_array().unwrap().len(), 1, "{json}");
}

#[test]
fn wait_waits_for_a_container_that_was_never_started() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    shell.sandbox.ok(&["create", "--name", "later", "shell:1", "sh", "-c", "exit 3"]);
    let waiter = spawn(&shell, &["wait", "later"]);
    shell.sandbox.ok(&["start", "later"]);
    assert_eq!(waiter.wait_with_output().unwrap().stdout, b"3\n");
}

#[test]
fn standard_input_is_empty_unless_it_is_asked_for() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for (options, expected) in [(&["run", "--rm"][..], "end\n"), (&["run", "--rm", "-i"], "typed\nend\n")] {
        let mut stos = spawn(&shell, &[options, &["shell:1", "sh", "-c", "cat; echo end"]].concat());
        // Without -i nobody reads it: the pipe may be closed already.
        let _ = stos.stdin.take().unwrap().write_all(b"typed\n");
        let output = stos.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{options:?}");
    }
    assert_eq!(shell.says(&[], "stat -Lc %t:%T /proc/self/fd/0"), "1:3\n", "/dev/null");
}

#[test]
fn signals_reach_the_process_and_its_code_comes_back() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "for s in HUP INT QUIT TERM USR1 USR2; do trap \"echo $s\" $s; done; trap 'exit 4' TERM; echo up; \
                  while :; do sleep 0.05; done";
    let mut stos = spawn(&shell, &["run", "--rm", "shell:1", "sh", "-c", script]);
    let mut lines = BufReader::new(stos.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    for (sent, said) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        signal(&stos, sent);
        assert_eq!(lines.next().unwrap().unwrap(), said);
    }
    signal(&stos, Signal::TERM);
    assert_eq!(stos.wait().unwrap().code(), Some(4));
    assert!(shell.sandbox.names("containers").is_empty());
}

#[test]
fn a_reader_that_goes_away_does_not_stop_the_container() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "echo first; while ! test -e /tmp/go; do sleep 0.01; done; echo second; exit 6";
    let mut stos = spawn(&shell, &["run", "--name", "alone", "shell:1", "sh", "-c", script]);
    let mut line = String::new();
    BufReader::new(stos.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    let id = shell.sandbox.json(&["state", "alone"])["id"].as_str().unwrap().to_owned();
    let pid = shell.sandbox.json(&["state", "alone"])["pid"].as_i64().unwrap();
    fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    assert_eq!(stos.wait().unwrap().code(), Some(6));
    assert_eq!(shell.sandbox.ok(&["logs", &id]), "first\nsecond\n");
}

#[test]
fn detached_it_prints_the_id_and_returns_at_once() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let start = Instant::now();
    // Its streams are the container's no longer: else this would wait for their end.
    let id = shell.sandbox.ok(&["run", "-d", "shell:1", "sleep", "1000"]);
    assert!(start.elapsed() < Duration::from_secs(100));
    assert_eq!(id, format!("{}\n", shell.sandbox.names("containers")[0]));
    assert_eq!(shell.status(id.trim()), "running");
    shell.sandbox.ok(&["delete", "-f", id.trim()]);
}

#[test]
fn with_rm_nothing_stays_however_it_ends() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    shell.says(&[], ":");
    let (before, run_before) = (shell.sandbox.listing(), shell.sandbox.run_listing());
    assert_eq!(shell.run(&["--name", "gone"], "exit 9").code, 9);
    shell.sandbox.ok(&["run", "-d", "--rm", "--name", "gone", "shell:1", "sh", "-c", "sleep 1000"]);
    shell.sandbox.ok(&["stop", "-t", "0", "gone"]);
    let is_gone = || shell.sandbox.names("containers").is_empty() && shell.sandbox.names("names").is_empty();
    // Its monitor removes it when it has ended.
    eventually("it has gone", is_gone);
    shell.sandbox.ok(&["run", "-d", "--rm", "--name", "gone", "shell:1", "echo", "x"]);
    eventually("it has gone again", is_gone);
    shell.sandbox.ok(&["run", "-d", "--rm", "--name", "gone", "shell:1", "sleep", "1000"]);
    shell.sandbox.ok(&["delete", "--force", "gone"]);
    let staging = || shell.sandbox.names("staging").is_empty();
    eventually("nothing is left in staging", staging);
    before.assert_same(&shell.sandbox.listing());
    run_before.assert_same(&shell.sandbox.run_listing());
}

#[test]
fn the_process_may_do_what_podman_s_may() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let all = PODMAN_CAPABILITIES.iter().fold(0_u64, |mask, bit| mask | 1 << bit);
    for (user, effective) in [("0", all), ("0:7", all), ("1000", 0), ("user", 0)] {
        let status = shell.says(&["-u", user], "cat /proc/self/status");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let mask = |name: &str| u64::from_str_radix(&field(name), 16).unwrap();
        let masks = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(mask);
        assert_eq!(
            masks,
            [0, effective, effective, all, 0],
            "{user}: inheritable, permitted, effective, bounding, ambient"
        );
        assert_eq!(field("NoNewPrivs:"), "0", "podman sets it only where asked");
        assert_eq!(field("SigBlk:"), "0000000000000000", "no signal is blocked");
        assert_eq!(field("SigIgn:"), "0000000000000000", "no signal is ignored");
    }
    // What the set leaves out is refused.
    assert_ne!(shell.run(&[], "hostname other").code, 0, "CAP_SYS_ADMIN");
}

#[test]
fn kernel_interfaces_are_masked_or_read_only() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for path in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/timer_list",
        "/proc/interrupts",
    ] {
        let script = format!("test -e {path} || exit 0; test -c {path} && head -c 1 {path}");
        assert_eq!(shell.says(&[], &script), "", "{path}");
    }
    for path in ["/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"] {
        assert_eq!(shell.says(&[], &format!("test -e {path} || exit 0; ls -A {path}")), "", "{path}");
    }
    let mounts = shell.says(&[], "cat /proc/self/mounts");
    let options = |target: &str| {
        let line = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(target));
        line.map(|line| line.split(' ').nth(3).unwrap().split(',').collect::<Vec<_>>())
    };
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys", "/sys/fs/cgroup"] {
        // Kernels are built without some of them.
        if !std::path::Path::new(path).exists() {
            continue;
        }
        let options = options(path).unwrap_or_else(|| panic!("{path} is no mount: {mounts}"));
        assert!(options.contains(&"ro"), "{path}: {options:?}");
    }
    for (path, expected) in [
        ("/proc", "nosuid,nodev,noexec"),
        ("/dev", "nosuid"),
        ("/dev/shm", "nosuid,nodev,noexec"),
        ("/sys", "nosuid,nodev,noexec"),
    ] {
        let options = options(path).unwrap();
        assert!(expected.split(',').all(|option| options.contains(&option)), "{path}: {options:?}");
    }
    let sources: Vec<_> = mounts.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    for expected in
        ["overlay /", "proc /proc", "tmpfs /dev", "devpts /dev/pts", "shm /dev/shm", "mqueue /dev/mqueue", "sysfs /sys"]
    {
        assert!(sources.iter().any(|source| source == expected), "{expected}: {sources:?}");
    }
    assert_eq!(shell.run(&[], "echo b > /proc/sysrq-trigger").code, 2);
}

#[test]
fn dev_has_what_the_specification_lists() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let listed = shell.says(&[], "cd /dev; stat -c '%n %F %a %t:%T' *; stat -c '%n %N' fd stdin stdout stderr ptmx");
    for expected in [
        "null character special file 666 1:3",
        "zero character special file 666 1:5",
        "full character special file 666 1:7",
        "random character special file 666 1:8",
        "urandom character special file 666 1:9",
        "tty character special file 666 5:0",
        "shm directory 1777 0:0",
        "pts directory 755 0:0",
        "fd 'fd' -> '/proc/self/fd'",
        "stdin 'stdin' -> '/proc/self/fd/0'",
        "stdout 'stdout' -> '/proc/self/fd/1'",
        "stderr 'stderr' -> '/proc/self/fd/2'",
        "ptmx 'ptmx' -> 'pts/ptmx'",
    ] {
        assert!(listed.lines().any(|line| line == expected), "{expected}: {listed}");
    }
    let names = shell.says(&[], "ls /dev");
    let mut names: Vec<_> = names.lines().collect();
    names.sort_unstable();
    let known = [
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    let beyond: Vec<_> = names.iter().filter(|name| !known.contains(name)).collect();
    assert!(beyond.is_empty(), "{beyond:?}");
}

#[test]
fn namespaces_are_the_container_s_own_and_no_descriptor_leaks() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let seen = shell.says(&[], "for n in pid ipc uts mnt cgroup net; do stat -Lc $n:%i /proc/self/ns/$n; done");
    for line in seen.lines() {
        let (name, inode) = line.split_once(':').unwrap();
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(!ours.to_str().unwrap().contains(inode), "{name} is the host's");
    }
    // A descriptor of the caller's, and whatever stos has open itself.
    let leak = tempfile::tempfile().unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let fds = shell.says(&[], "for fd in /proc/1/fd/*; do test -L $fd && echo ${fd##*/}; done; true");
    let fds: Vec<_> = fds.lines().collect();
    drop(leak);
    assert_eq!(&fds[..3], ["0", "1", "2"]);
    // dash keeps a copy of its script's stream at 10 or above, no other.
    assert!(fds[3..].iter().all(|fd| fd.parse::<u32>().unwrap() >= 10), "{fds:?}");
    let processes = shell.says(&[], "for entry in /proc/[0-9]*; do echo ${entry##*/}; done");
    assert_eq!(processes, "1\n", "other processes are not seen");
}

#[test]
fn ten_thousand_lines_a_second_arrive_whole_and_in_order() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "i=0; while [ $i -lt 30000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";
    let lines = |name: &str| (0..30_000).map(|number| format!("{name} {number}\n")).collect::<String>();
    let ran = shell.run(&["--name", "loud"], script);
    assert!(ran.stdout == lines("out") && ran.stderr == lines("err"), "{} {}", ran.stdout.len(), ran.stderr.len());
    shell.sandbox.ok(&["run", "-d", "--name", "loud", "shell:1", "sh", "-c", script]);
    assert_eq!(shell.sandbox.ok(&["wait", "loud"]), "0\n");
    let logs = shell.sandbox.run(&["logs", "loud"]);
    assert!(logs.stdout == lines("out") && logs.stderr == lines("err"), "{} {}", logs.stdout.len(), logs.stderr.len());
}

#[test]
fn a_log_is_bounded() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let programs = rootfs::host_programs(&["cat", "head", "yes"]).unwrap();
    let shell = Shell::of(&ImageBuilder::new().layer(Layer::plain(programs)));
    let id = shell.sandbox.ok(&[
        "run",
        "-d",
        "shell:1",
        "sh",
        "-c",
        "yes 0123456789012345678901234567890 | head -c 50000000; echo last",
    ]);
    assert_eq!(shell.sandbox.ok(&["wait", id.trim()]), "0\n");
    let dir = shell.sandbox.data_root().join("containers").join(id.trim());
    let size = |name: &str| fs::metadata(dir.join(name)).map_or(0, |metadata| metadata.len());
    let (current, older) = (size("log"), size("log.1"));
    assert!(current <= 32 << 20 && older <= 32 << 20 && older > 0, "{current} {older}");
    let logs = shell.sandbox.ok(&["logs", id.trim()]);
    assert!(logs.ends_with("0123456789012345678901234567890\nlast\n"));
}

#[test]
fn an_image_is_called_by_any_of_its_names() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let image_id = shell.image.config.digest.trim_start_matches("sha256:");
    let address = shell.hub.registry.address().to_owned();
    let digest = &shell.image.manifest.digest;
    for name in
        ["shell:1", &format!("{address}/shell:1"), &format!("{address}/shell@{digest}"), image_id, &image_id[..12]]
    {
        let run = output(shell.sandbox.command().args(["run", "--rm", "--pull=never", name, "echo", "it"]));
        assert_eq!(run.stdout, "it\n", "{name}: {}", run.stderr);
    }
}
