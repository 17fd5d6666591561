// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Monitors and commands that are killed, suspended or not read from, and records that are damaged.

mod sandbox;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::shell::{Shell, cgroups_of, eventually};
use serde_json::{Value, json};
use stos_testkit::guard::Need;

fn run_state(shell: &Shell, id: &str) -> PathBuf {
    shell.sandbox.root().join("containers").join(id).join("state.json")
}

fn container(shell: &Shell, id: &str) -> PathBuf {
    shell.sandbox.data_root().join("containers").join(id)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Changes one value of a JSON file.
fn set(path: &Path, key: &str, value: Value) {
    let mut json = read(path);
    json[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

fn signal(pid: i64, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Kills the monitor of a detached container, and waits until it is gone.
fn kill_monitor(shell: &Shell, id: &str) {
    let pid = read(&run_state(shell, id))["creator"]["pid"].as_i64().unwrap();
    signal(pid, Signal::KILL);
    eventually("the monitor is gone", || is_gone(pid));
}

fn is_gone(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with(['Z', 'X']))
}

/// An attached stos whose output nobody has read yet.
fn attached(shell: &Shell, arguments: &[&str]) -> Child {
    let mut stos = shell.sandbox.command();
    stos.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    stos.spawn().unwrap()
}

#[test]
fn a_monitor_killed_before_it_recorded_the_process_leaves_one_that_is_found() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for end in [&["kill", "-s", "KILL", "early"][..], &["stop", "-t", "0", "early"], &["delete", "-f", "early"]] {
        let id = shell.sandbox.ok(&["run", "-d", "--name", "early", "shell:1", "sleep", "1000"]);
        let id = id.trim();
        let state = run_state(&shell, id);
        let pid = read(&state)["init"]["pid"].as_i64().unwrap();
        kill_monitor(&shell, id);
        // As the state was between the execution of the command and its second record.
        set(&state, "init", Value::Null);
        assert_eq!(shell.status("early"), "running");
        assert_eq!(shell.sandbox.json(&["state", "early"])["pid"], json!(pid));
        assert_eq!(shell.sandbox.run(&["delete", "early"]).code, 1, "it runs");
        shell.sandbox.ok(end);
        eventually("its process is gone", || is_gone(pid));
        shell.sandbox.ok(&["delete", "-f", "early"]);
        assert_eq!(cgroups_of(id), Vec::<String>::new(), "{end:?}");
        assert!(shell.sandbox.names("containers").is_empty() && shell.sandbox.names("names").is_empty());
    }
}

#[test]
fn an_end_and_a_start_are_never_at_once() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let id = shell.sandbox.ok(&["run", "-d", "--name", "again", "shell:1", "sleep", "1000"]);
    let state = read(&run_state(&shell, id.trim()));
    let lock = fs::File::open(container(&shell, id.trim())).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    shell.sandbox.ok(&["kill", "-s", "KILL", "again"]);
    // While somebody decides about the container, its monitor waits with all that the end means.
    let monitor = state["creator"]["pid"].to_string();
    let is_waiter = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(1) == Some(&"->") && fields.get(5) == Some(&monitor.as_str())
    };
    eventually("the monitor waits", || fs::read_to_string("/proc/locks").unwrap().lines().any(is_waiter));
    assert!(!container(&shell, id.trim()).join("exit.json").exists());
    assert_eq!(shell.status("again"), "running");
    drop(lock);
    assert_eq!(shell.sandbox.ok(&["wait", "again"]), "137\n");
    shell.sandbox.ok(&["start", "again"]);
    assert_eq!(shell.status("again"), "running");
}

#[test]
fn who_does_not_read_keeps_neither_signals_nor_the_end() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    // The shell waits beside what writes: so a signal finds it whether the pipes are full or not.
    let script = "trap 'exit 5' TERM; (i=0; while :; do echo line $i; i=$((i+1)); done) & wait";
    for by_stop in [false, true] {
        let mut stos = attached(&shell, &["run", "--name", "unread", "shell:1", "sh", "-c", script]);
        let mut out = BufReader::new(stos.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "line 0\n");
        // Of its 64 KiB, in pages that small writes leave partly empty.
        eventually("the pipe fills up", || rustix::io::ioctl_fionread(out.get_ref()).unwrap() >= 24 << 10);
        if by_stop {
            shell.sandbox.ok(&["stop", "-t", "60", "unread"]);
        } else {
            signal(i64::from(stos.id()), Signal::TERM);
        }
        assert_eq!(shell.sandbox.ok(&["wait", "unread"]), "5\n");
        assert_eq!(shell.status("unread"), "stopped");
        // What had been written arrives when somebody reads.
        let lines: Vec<_> = out.lines().map(Result::unwrap).collect();
        assert!(lines.len() > 1000);
        assert!(lines.iter().zip(1..).take(lines.len() - 1).all(|(line, number)| *line == format!("line {number}")));
        assert_eq!(stos.wait().unwrap().code(), Some(5));
        shell.sandbox.ok(&["delete", "unread"]);
    }
}

#[test]
fn one_pipe_for_both_streams_is_not_waited_for_either() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "trap 'exit 5' TERM; (while :; do echo out; done) & (while :; do echo err >&2; done) & wait";
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = shell.sandbox.command();
    command.args(["run", "--name", "both", "shell:1", "sh", "-c", script]);
    let mut stos = command.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
    // It holds the writing end, too.
    drop(command);
    let mut page = [0; 4096];
    for _ in 0..20 {
        eventually("the pipe fills up", || rustix::io::ioctl_fionread(&reader).unwrap() >= 24 << 10);
        // Room for one of the two.
        reader.read_exact(&mut page).unwrap();
    }
    signal(i64::from(stos.id()), Signal::TERM);
    assert_eq!(shell.sandbox.ok(&["wait", "both"]), "5\n");
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    assert_eq!(stos.wait().unwrap().code(), Some(5));
}

#[test]
fn of_two_starts_that_must_fail_none_succeeds() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let host = tempfile::tempdir().unwrap();
    // Covered by a mount, so only the start can tell.
    let volume = format!("{}:/mnt", host.path().display());
    let id = shell.sandbox.ok(&["create", "-v", &volume, "shell:1", "/mnt/no-such-command"]);
    for _ in 0..10 {
        let start = || shell.sandbox.command().args(["start", id.trim()]).stderr(Stdio::null()).spawn().unwrap();
        let both = [start(), start()];
        for mut one in both {
            assert_eq!(one.wait().unwrap().code(), Some(127));
        }
    }
    assert_eq!(shell.status(id.trim()), "created");
}

#[test]
fn a_name_that_leads_to_another_container_is_not_believed() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let [one, two] = ["one", "two"].map(|name| shell.sandbox.ok(&["create", "--name", name, "shell:1"]));
    let link = shell.sandbox.data_root().join("names/two");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(one.trim(), &link).unwrap();
    assert_eq!(shell.sandbox.json(&["state", "two"])["id"], two.trim());
    shell.sandbox.ok(&["delete", "two"]);
    assert_eq!(shell.sandbox.names("containers"), [one.trim()]);
}

#[test]
fn what_cannot_be_read_of_the_store_is_named_with_a_way_out() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for file in ["images/index.json", "stos.json"] {
        let path = shell.sandbox.data_root().join(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, "").unwrap();
        let output = shell.sandbox.run(&["images"]);
        assert_eq!(output.code, 1, "{file}");
        assert!(
            output.stderr.contains(path.to_str().unwrap()) && output.stderr.contains("hint: "),
            "{}",
            output.stderr
        );
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn a_suspended_stos_is_told_and_can_be_deleted() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let mut stos = attached(&shell, &["run", "--name", "asleep", "shell:1", "sh", "-c", "echo up; sleep 1000"]);
    let mut line = String::new();
    BufReader::new(stos.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let id = shell.sandbox.json(&["state", "asleep"])["id"].as_str().unwrap().to_owned();
    signal(i64::from(stos.id()), Signal::STOP);
    let stopped = shell.sandbox.run(&["stop", "-t", "0", "asleep"]);
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    assert!(stopped.stderr.contains(&stos.id().to_string()), "{}", stopped.stderr);
    let killed = shell.sandbox.run(&["kill", "asleep"]);
    assert!(killed.stderr.contains("it is ending, expected running"), "{}", killed.stderr);
    shell.sandbox.ok(&["delete", "-f", "asleep"]);
    assert_eq!(stos.wait().unwrap().code(), None, "it was killed");
    assert_eq!(cgroups_of(&id), Vec::<String>::new());
    assert!(shell.sandbox.names("containers").is_empty());
}

#[test]
fn a_damaged_record_harms_no_other_container_and_can_be_deleted() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let good = sandbox.ok(&["create", "--name", "good", "shell:1"]);
    for damage in ["", "{", "{\"version\": 1}"] {
        let id = sandbox.ok(&["run", "-d", "--name", "bad", "shell:1", "sleep", "1000"]);
        let id = id.trim();
        fs::write(container(&shell, id).join("container.json"), damage).unwrap();
        let list = sandbox.json(&["list", "--format", "json"]);
        let line = list.as_array().unwrap().iter().find(|line| line["id"] == json!(id)).unwrap();
        assert_eq!(line["status"], json!("unreadable"), "{damage}");
        assert!(list.as_array().unwrap().iter().any(|line| line["name"] == json!("good")));
        assert_eq!(sandbox.json(&["state", &good[..12]])["status"], json!("created"));
        let refused = sandbox.run(&["delete", id]);
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("container.json") && refused.stderr.contains("hint:"), "{}", refused.stderr);
        sandbox.ok(&["delete", "-f", id]);
        assert_eq!(cgroups_of(id), Vec::<String>::new(), "its process is gone");
        assert_eq!(
            (sandbox.names("containers"), sandbox.names("names")),
            (vec![good.trim().to_owned()], vec!["good".into()])
        );
    }
    let id = sandbox.ok(&["create", "shell:1"]);
    fs::remove_file(container(&shell, id.trim()).join("container.json")).unwrap();
    sandbox.ok(&["delete", "-f", id.trim()]);
    assert_eq!(sandbox.names("containers").len(), 1);
}

#[test]
fn a_record_of_another_version_is_refused_and_kept() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let id = shell.sandbox.ok(&["create", "--rm", "--name", "newer", "shell:1"]);
    let record = container(&shell, id.trim()).join("container.json");
    fs::write(&record, "{\"version\": 2, \"of\": \"another form\"}").unwrap();
    let line = &shell.sandbox.json(&["list", "--format", "json"])[0];
    assert_eq!(line["status"], json!("unreadable"));
    for arguments in [&["start", "newer"][..], &["delete", "newer"], &["delete", "-f", "newer"], &["state", id.trim()]]
    {
        let refused = shell.sandbox.run(arguments);
        assert_ne!(refused.code, 0, "{arguments:?}");
        assert!(refused.stderr.contains("expected version 1, found 2"), "{arguments:?}: {}", refused.stderr);
    }
    let layers = shell.sandbox.names("layers/sha256");
    shell.sandbox.run(&["rmi", "-f", "shell:1"]);
    assert!(record.exists());
    assert_eq!(shell.sandbox.names("layers/sha256"), layers, "what it needs is unknown: nothing is swept");
}

#[test]
fn what_should_have_gone_with_its_process_goes_at_the_next_look() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    // The monitor is killed, then the container.
    let id = sandbox.ok(&["run", "-d", "--rm", "--name", "left", "shell:1", "sleep", "1000"]);
    let pid = sandbox.json(&["state", "left"])["pid"].as_i64().unwrap();
    kill_monitor(&shell, id.trim());
    assert_eq!(shell.status("left"), "running", "it lives on");
    signal(pid, Signal::KILL);
    eventually("its process is gone", || is_gone(pid));
    assert_eq!(sandbox.json(&["list", "--format", "json"]), json!([]));
    assert!(sandbox.names("containers").is_empty() && sandbox.names("names").is_empty());
    assert_eq!(cgroups_of(id.trim()), Vec::<String>::new());
    // `run` is killed between the commit and the claim; `create --rm` waits for its first start.
    let kept = sandbox.ok(&["create", "--rm", "--name", "kept", "shell:1", "echo", "ran"]);
    let id = sandbox.ok(&["create", "--rm", "--name", "half", "shell:1"]);
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = json!({"pid": child.id(), "start_time": 1, "boot_id": "none"});
    child.wait().unwrap();
    set(&container(&shell, id.trim()).join("container.json"), "run_by", dead);
    assert_eq!(sandbox.run(&["start", "half"]).code, 125);
    assert_eq!(sandbox.names("containers"), [kept.trim()]);
    assert_eq!(sandbox.ok(&["start", "-a", "kept"]), "ran\n");
    assert!(sandbox.names("containers").is_empty() && sandbox.names("names").is_empty());
}

#[test]
fn a_detached_monitor_keeps_nothing_of_its_caller_s() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let log = shell.sandbox.path("stos.log");
    let mut stos = shell.sandbox.command();
    stos.arg("--log").arg(&log).args(["run", "-d", "--name", "kept", "shell:1", "sleep", "1000"]);
    assert_eq!(sandbox::output(&mut stos).code, 0);
    drop(writer);
    // Ends only when nobody holds the other end any more.
    assert_eq!(std::io::read_to_string(reader).unwrap(), "");
    shell.sandbox.ok(&["stop", "-t", "0", "kept"]);
    // Its own log it keeps.
    eventually("the monitor has told the end", || fs::read_to_string(&log).unwrap().contains("ended"));
}

#[test]
fn a_caller_that_ignores_sigchld_learns_the_code() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let mut caller = std::process::Command::new("env");
    caller.arg("--ignore-signal=CHLD").arg(stos_testkit::environment::stos());
    caller.arg("--data-root").arg(shell.sandbox.data_root()).arg("--root").arg(shell.sandbox.root());
    let ran = sandbox::output(caller.args(["run", "--rm", "--network", "none", "shell:1", "sh", "-c", "exit 42"]));
    assert_eq!(ran.code, 42, "{}", ran.stderr);
    assert!(shell.sandbox.names("containers").is_empty());
}

#[test]
fn a_code_comes_back_though_it_cannot_be_written_down() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "echo up; while ! test -e /go; do sleep 0.01; done; exit 6";
    let mut stos = attached(&shell, &["run", "--name", "unwritten", "shell:1", "sh", "-c", script]);
    let mut line = String::new();
    BufReader::new(stos.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let state = shell.sandbox.json(&["state", "unwritten"]);
    let exit = container(&shell, state["id"].as_str().unwrap()).join("exit.json");
    // No rename can replace it.
    fs::create_dir_all(exit.join("x")).unwrap();
    fs::write(format!("/proc/{}/root/go", state["pid"]), "").unwrap();
    assert_eq!(stos.wait().unwrap().code(), Some(6));
    fs::remove_dir_all(&exit).unwrap();
    assert_eq!(shell.status("unwritten"), "stopped");
    assert_eq!(cgroups_of(state["id"].as_str().unwrap()), Vec::<String>::new());
}

#[test]
fn a_container_whose_own_files_a_power_cut_emptied_starts_with_them() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let said = "cat /etc/hostname /etc/hosts; hostname 2>/dev/null || cat /proc/sys/kernel/hostname";
    for options in [&["--hostname", "own.example"][..], &["--uts", "host"]] {
        let arguments = [&["create", "--name", "c"][..], options, &["shell:1", "sh", "-c", said]].concat();
        let id = shell.sandbox.ok(&arguments);
        let whole = shell.sandbox.ok(&["start", "--attach", "c"]);
        let dir = container(&shell, id.trim());
        fs::write(dir.join("hosts"), "").unwrap();
        fs::remove_file(dir.join("hostname")).unwrap();
        assert_eq!(shell.sandbox.ok(&["start", "--attach", "c"]), whole);
        shell.sandbox.ok(&["delete", "c"]);
    }
}
