// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers from images with a terminal and with clients: run -it, attach, detach, and who is not read or killed.

mod sandbox;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use sandbox::pty::{self, Pty};
use sandbox::shell::eventually;
use sandbox::{Sandbox, output};
use stos_testkit::guard::Need;
use stos_testkit::require;

/// ctrl-p, ctrl-q.
const DETACH: &str = "\x10\x11";

fn spawn(sandbox: &Sandbox, arguments: &[&str]) -> Pty {
    Pty::spawn(sandbox.command().args(arguments), 33, 77)
}

fn status(sandbox: &Sandbox, container: &str) -> String {
    sandbox.json(&["state", container])["status"].as_str().unwrap().to_owned()
}

/// The number of a container's monitor.
fn monitor(sandbox: &Sandbox, container: &str) -> Pid {
    let id = sandbox.json(&["state", container])["id"].as_str().unwrap().to_owned();
    let state = fs::read(sandbox.root().join("containers").join(id).join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    Pid::from_raw(i32::try_from(state["creator"]["pid"].as_i64().unwrap()).unwrap()).unwrap()
}

/// How many clients a container's monitor has; that it listens on is a socket too.
fn clients(sandbox: &Sandbox, container: &str) -> usize {
    let monitor = monitor(sandbox, container);
    let fds = fs::read_dir(format!("/proc/{}/fd", monitor.as_raw_nonzero())).unwrap();
    let links = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    links.filter(|to| to.to_string_lossy().starts_with("socket:")).count().saturating_sub(1)
}

#[test]
fn a_terminal_in_the_foreground_is_ours() {
    require!(Need::Root, Need::Binary, Need::Tool("setsid"));
    let sandbox = pty::sandbox();
    let mut run = spawn(&sandbox, &["run", "-it", "--name", "t", "term:1", "sh"]);
    run.send("tty; stty size; echo T$TERM\r");
    assert!(run.expect("Txterm").contains("/dev/pts/0\r\n33 77\r\n"), "{}", run.shown);
    run.resize(40, 100);
    // Keys may overtake the size.
    run.send("until [ \"$(stty size)\" = '40 100' ]; do sleep 0.05; done; echo sized$((1+1))\r");
    run.expect("sized2");
    run.send("echo go$((1+1)); sleep 1000\r");
    run.expect("go2");
    // Before that a key would be the shell's own.
    eventually("it sleeps", || sandbox.ok(&["top", "t", "args"]).lines().any(|line| line == "sleep 1000"));
    run.send("\x03");
    run.send("echo code$?\r");
    run.expect("code130");
    run.send("exit 7\r");
    assert_eq!(run.wait(), 7);
    assert!(sandbox.ok(&["logs", "t"]).contains("code130"), "the terminal's output is logged");
    // Without a terminal of ours it has one all the same, and what is piped in is typed.
    let mut piped = sandbox.command();
    piped.args(["run", "-it", "--rm", "term:1", "sh"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut piped = piped.spawn().unwrap();
    piped.stdin.take().unwrap().write_all(b"tty; exit 5\n").unwrap();
    let piped = piped.wait_with_output().unwrap();
    assert_eq!(piped.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&piped.stdout).contains("/dev/pts/0\r\n"), "{piped:?}");
    assert_eq!(sandbox.names("containers").len(), 1);
}

#[test]
fn without_input_a_terminal_s_keys_are_signals() {
    require!(Need::Root, Need::Binary, Need::Tool("setsid"));
    let sandbox = pty::sandbox();
    let script = "trap 'echo told; exit 4' INT; echo up; while :; do sleep 0.05; done";
    let mut run = spawn(&sandbox, &["run", "-t", "--rm", "term:1", "sh", "-c", script]);
    run.expect("up");
    run.send("\x03");
    run.expect("told");
    assert_eq!(run.wait(), 4);
}

/// How many clients a container has had so far: each is told of when its monitor has taken it.
fn attached(sandbox: &Sandbox, container: &str) -> usize {
    let filter = format!("container={container}");
    sandbox.ok(&["events", "--stream=false", "-f", &filter, "-f", "event=attach"]).lines().count()
}

#[test]
fn a_container_is_left_and_attached_to_again() {
    require!(Need::Root, Need::Binary, Need::Tool("setsid"));
    let sandbox = pty::sandbox();
    let mut run = spawn(&sandbox, &["run", "-it", "--name", "t", "term:1", "sh"]);
    run.send("kept=yes; echo ready$((1+1))\r");
    run.expect("ready2\r\n");
    run.expect("# ");
    run.send(DETACH);
    assert_eq!((run.wait(), run.shown.as_str()), (0, ""), "nothing is said");
    assert_eq!(status(&sandbox, "t"), "running");
    let mut first = spawn(&sandbox, &["attach", "t"]);
    first.send("echo $kept$((2+2))\r");
    first.expect("yes4");
    let mut looker = spawn(&sandbox, &["attach", "--no-stdin", "t"]);
    let mut third = spawn(&sandbox, &["start", "-ai", "--detach-keys", "ctrl-a,x", "t"]);
    // Each is there when it sees what it has brought about, or what others do.
    third.send("echo third$((3+3))\r");
    third.expect("third6");
    first.expect("third6");
    // Who only looks brings nothing about.
    eventually("the looker is there", || attached(&sandbox, "t") == 4);
    looker.send("echo never$((9+9))\r");
    third.send("echo again$((4+4))\r");
    looker.expect("again8");
    // The beginning of the keys alone is typed.
    third.send("echo \x01p$((5+5))\r");
    third.expect("p10");
    third.send("\x01x");
    assert_eq!(third.wait(), 0);
    first.send("exit 9\r");
    assert_eq!((first.wait(), looker.wait()), (9, 9));
    assert!(!sandbox.ok(&["logs", "t"]).contains("never18"));
    assert_eq!(sandbox.ok(&["wait", "t"]), "9\n");
    let mut again = spawn(&sandbox, &["start", "-ai", "--detach-keys", "", "t"]);
    again.send("echo \x10\x11back$((6+6))\r");
    again.expect("back12");
    again.send("exit 3\r");
    assert_eq!(again.wait(), 3);
}

#[test]
fn a_terminal_waits_in_the_background_for_who_attaches() {
    require!(Need::Root, Need::Binary, Need::Tool("setsid"));
    let sandbox = pty::sandbox();
    sandbox.ok(&["run", "-dit", "--rm", "--name", "t", "term:1", "sh"]);
    let mut client = spawn(&sandbox, &["attach", "t"]);
    client.send("stty size; echo here$((1+1))\r");
    assert!(client.expect("here2").contains("33 77"));
    client.send("exit 6\r");
    assert_eq!(client.wait(), 6);
    eventually("it is gone", || sandbox.names("containers").is_empty());
}

#[test]
fn open_input_takes_what_clients_give_until_one_ends_it() {
    require!(Need::Root, Need::Binary);
    let sandbox = pty::sandbox();
    sandbox.ok(&["run", "-d", "-i", "--name", "i", "term:1", "sh", "-c", "cat; echo end"]);
    let mut typing = sandbox.command();
    let mut typing = typing.args(["attach", "i"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keys = typing.stdin.take().unwrap();
    keys.write_all(b"one\n").unwrap();
    eventually("it is read", || sandbox.ok(&["logs", "i"]) == "one\n");
    typing.kill().unwrap();
    typing.wait().unwrap();
    // Who goes without a word ends nothing, who looks only neither.
    let mut looking = sandbox.command();
    let looking = looking.args(["attach", "--no-stdin", "i"]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("it looks", || attached(&sandbox, "i") == 2);
    let mut last = sandbox.command();
    let mut last = last.args(["attach", "i"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    last.stdin.take().unwrap().write_all(b"two\n").unwrap();
    let last = last.wait_with_output().unwrap();
    assert_eq!((last.status.code(), String::from_utf8_lossy(&last.stdout).as_ref()), (Some(0), "two\nend\n"));
    assert!(looking.wait_with_output().unwrap().status.success());
    assert_eq!(sandbox.ok(&["logs", "i"]), "one\ntwo\nend\n");
    // In the foreground without a terminal there are keys where they are asked for.
    let left = |options: &[&str]| {
        let mut run = sandbox.command();
        run.args(["run", "-i", "--name", "k"]).args(options).args(["term:1", "cat"]);
        let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        run.stdin.take().unwrap().write_all(b"a\x10\x11b").unwrap();
        let run = run.wait_with_output().unwrap();
        assert_eq!(run.status.code(), Some(0));
        let state = status(&sandbox, "k");
        sandbox.ok(&["delete", "-f", "k"]);
        (String::from_utf8_lossy(&run.stdout).into_owned(), state)
    };
    assert_eq!(left(&[]), ("a\x10\x11b".to_owned(), "stopped".to_owned()));
    assert_eq!(left(&["--detach-keys", "ctrl-p,ctrl-q"]).1, "running");
}

#[test]
fn input_that_cannot_be_read_is_at_its_end() {
    require!(Need::Root, Need::Binary);
    let sandbox = pty::sandbox();
    let with_directory =
        |arguments: &[&str]| output(sandbox.command().args(arguments).stdin(fs::File::open("/").unwrap())).code;
    // The process outlives the first read.
    let script = "sleep 0.2; exit 3";
    assert_eq!(with_directory(&["run", "-it", "--name", "t", "term:1", "sh", "-c", script]), 3);
    assert_eq!(with_directory(&["run", "-i", "--detach-keys", "x", "--rm", "term:1", "sh", "-c", script]), 3);
    sandbox.ok(&["run", "-d", "--name", "c", "term:1", "sleep", "1000"]);
    assert_eq!(with_directory(&["exec", "-it", "c", "sh", "-c", script]), 3);
}

#[test]
fn clients_that_do_not_read_stall_nothing() {
    require!(Need::Root, Need::Binary);
    let sandbox = pty::sandbox();
    // Each burst is less than what is kept for a client, and all together are more.
    let (bursts, lines) = (10, 40_000);
    let script = format!("for burst in $(seq {bursts}); do read go; seq {lines}; done; read go; exit 3");
    sandbox.ok(&["run", "-d", "-i", "--name", "loud", "term:1", "sh", "-c", &script]);
    let client = |arguments: &[&str]| -> Child {
        let mut command = sandbox.command();
        command.args(["attach"]).args(arguments).arg("loud");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (mut deaf, mut dead) = (client(&["--no-stdin"]), client(&["--no-stdin"]));
    let mut typing = client(&[]);
    eventually("all are there", || clients(&sandbox, "loud") == 3);
    dead.kill().unwrap();
    dead.wait().unwrap();
    let mut keys = typing.stdin.take().unwrap();
    let burst: String = (1..=lines).map(|number| format!("{number}\n")).collect();
    let mut reader = typing.stdout.take().unwrap();
    let mut seen = vec![0; burst.len()];
    for _ in 0..bursts {
        keys.write_all(b"go\n").unwrap();
        std::io::Read::read_exact(&mut reader, &mut seen).unwrap();
        assert!(seen == burst.as_bytes(), "who reads gets everything, though another does not");
    }
    let everything = burst.repeat(bursts);
    assert!(sandbox.ok(&["logs", "loud"]) == everything);
    keys.write_all(b"go\n").unwrap();
    assert_eq!(typing.wait().unwrap().code(), Some(3));
    assert_eq!(sandbox.ok(&["wait", "loud"]), "3\n");
    drop(deaf.stdin.take());
    let deaf = deaf.wait_with_output().unwrap();
    // It was read late: what was left out is told.
    assert!(deaf.stdout.len() < everything.len() && everything.as_bytes().starts_with(&deaf.stdout[..1 << 16]));
    assert!(String::from_utf8_lossy(&deaf.stderr).contains("missing"), "{}", String::from_utf8_lossy(&deaf.stderr));
}

#[test]
fn a_killed_monitor_is_told_to_its_clients() {
    require!(Need::Root, Need::Binary, Need::Tool("setsid"));
    let sandbox = pty::sandbox();
    // Without its monitor it loses its terminal, as every program does whose terminal goes: SIGHUP.
    let script = "trap '' HUP; echo up; exec sleep 1000";
    let mut run = spawn(&sandbox, &["run", "-it", "--name", "orphan", "term:1", "sh", "-c", script]);
    run.expect("up");
    kill_process(monitor(&sandbox, "orphan"), Signal::KILL).unwrap();
    assert_eq!(run.wait(), 125);
    run.expect("runs without a monitor");
    assert_eq!(status(&sandbox, "orphan"), "running");
    let refused = sandbox.run(&["attach", "orphan"]);
    assert!(refused.code == 125 && refused.stderr.contains("without a monitor"), "{}", refused.stderr);
    assert_eq!(sandbox.ok(&["exec", "orphan", "echo", "alive"]), "alive\n");
    sandbox.ok(&["kill", "-s", "KILL", "orphan"]);
    let waited = sandbox.run(&["wait", "orphan"]);
    assert!(waited.code == 1 && waited.stderr.contains("unknown"), "{}", waited.stderr);
    sandbox.ok(&["delete", "orphan"]);
    // And a client that is killed leaves its container.
    let mut run = spawn(&sandbox, &["run", "-it", "--name", "left", "term:1", "sh"]);
    run.send("echo up$((1+1))\r");
    run.expect("up2");
    run.signal(Signal::KILL);
    run.child.wait().unwrap();
    let mut client = spawn(&sandbox, &["attach", "left"]);
    client.send("exit 8\r");
    assert_eq!(client.wait(), 8);
}

#[test]
fn a_suspended_monitor_is_told_and_waited_for_no_longer() {
    require!(Need::Root, Need::Binary);
    let sandbox = pty::sandbox();
    sandbox.ok(&["run", "-d", "--name", "s", "term:1", "sleep", "1000"]);
    // One that has attached before finds it listening.
    let mut client = sandbox.command().args(["attach", "s"]).spawn().unwrap();
    eventually("it is attached", || clients(&sandbox, "s") == 1);
    client.kill().unwrap();
    client.wait().unwrap();
    let monitor = monitor(&sandbox, "s");
    kill_process(monitor, Signal::STOP).unwrap();
    let refused = sandbox.run(&["attach", "--latest"]);
    assert!(refused.code == 125 && refused.stderr.contains("suspended"), "{}", refused.stderr);
    kill_process(monitor, Signal::CONT).unwrap();
    sandbox.ok(&["delete", "-f", "s"]);
}

#[test]
fn a_monitor_without_room_for_a_client_waits_at_rest() {
    require!(Need::Root, Need::Binary);
    let sandbox = pty::sandbox();
    sandbox.ok(&["run", "-d", "--name", "s", "term:1", "sleep", "1000"]);
    let monitor = monitor(&sandbox, "s");
    let id = sandbox.json(&["state", "s"])["id"].as_str().unwrap().to_owned();
    let directory = fs::File::open(sandbox.root().join("containers").join(id)).unwrap();
    // Its path may be longer than unix(7) allows.
    let socket = format!("/proc/self/fd/{}/attach", std::os::fd::AsRawFd::as_raw_fd(&directory));
    eventually("it listens", || fs::exists(&socket).unwrap());
    let few = Rlimit { current: Some(16), maximum: Some(16) };
    prlimit(Some(monitor), Resource::Nofile, few).unwrap();
    let several: Vec<_> = (0..16).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    // One that looks again and again never sleeps.
    let status = format!("/proc/{}/status", monitor.as_raw_nonzero());
    let sleeps = || {
        std::thread::sleep(std::time::Duration::from_millis(2));
        fs::read_to_string(&status).unwrap().contains("State:\tS")
    };
    eventually("it is at rest", || (0..50).all(|_| sleeps()));
    drop(several);
    let client = sandbox.command().args(["attach", "s"]).spawn().unwrap();
    eventually("there is room again", || attached(&sandbox, "s") == 1);
    sandbox.ok(&["delete", "-f", "s"]);
    assert_eq!(client.wait_with_output().unwrap().status.code(), Some(137));
}

#[test]
fn signals_in_the_foreground_go_to_the_process() {
    require!(Need::Root, Need::Binary);
    let sandbox = pty::sandbox();
    // 13, 21 and 22 may be about our own streams. 37 is RTMIN+3, for systemd "halt".
    let signals = [1, 2, 3, 6, 10, 12, 14, 16, 18, 20, 24, 25, 26, 27, 29, 30, 37, 64];
    let traps: String = signals.iter().map(|signal| format!("trap 'echo {signal}' {signal}; ")).collect();
    let script = format!("{traps} trap 'echo 15; exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    let sends = |client: &mut Child, container: &str, log_before: &str| {
        let says = |line: &str| {
            let said = || sandbox.run(&["logs", container]).stdout;
            eventually(line, || {
                said().strip_prefix(log_before).is_some_and(|said| said.lines().any(|said| said == line))
            });
        };
        says("ready");
        for signal in signals.iter().chain(&[28, 23, 13, 15]) {
            let sent = output(Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", client.id())));
            assert_eq!(sent.code, 0, "{signal}: {}", sent.stderr);
            if ![28, 23, 13].contains(signal) {
                says(&signal.to_string());
            }
        }
        assert_eq!(client.wait().unwrap().code(), Some(7));
    };
    let spawn = |arguments: &[&str]| {
        sandbox.command().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    sends(&mut spawn(&["run", "--name", "s", "term:1", "sh", "-c", &script]), "s", "");
    let before = sandbox.ok(&["logs", "s"]);
    sandbox.ok(&["start", "s"]);
    eventually("it is up", || sandbox.ok(&["logs", "s"]).matches("ready").count() == 2);
    let mut client = spawn(&["attach", "s"]);
    eventually("it is attached", || clients(&sandbox, "s") == 1);
    sends(&mut client, "s", &before);
}

#[test]
fn without_sig_proxy_a_signal_ends_the_client_alone() {
    require!(Need::Root, Need::Binary, Need::Tool("setsid"));
    let sandbox = pty::sandbox();
    let mut run = spawn(&sandbox, &["run", "-it", "--sig-proxy=false", "--name", "t", "term:1", "sh"]);
    run.send("echo up$((1+1))\r");
    run.expect("up2");
    run.signal(Signal::TERM);
    assert_eq!(run.wait(), -Signal::TERM.as_raw(), "and the terminal is given back");
    assert_eq!(status(&sandbox, "t"), "running");
    let mut plain = sandbox.command();
    plain.args(["run", "--sig-proxy=false", "--name", "p", "term:1", "sh", "-c", "echo up; exec sleep 1000"]);
    let mut plain = plain.stdout(Stdio::null()).spawn().unwrap();
    eventually("it is up", || sandbox.run(&["logs", "p"]).stdout == "up\n");
    plain.kill().unwrap();
    plain.wait().unwrap();
    assert_eq!(status(&sandbox, "p"), "running");
}

#[test]
fn what_cannot_be_attached_to_is_named() {
    require!(Need::Root, Need::Binary);
    let sandbox = pty::sandbox();
    sandbox.ok(&["create", "-it", "--name", "c", "term:1"]);
    for (arguments, code, said) in [
        (&["attach", "c"][..], 125, "created"),
        (&["attach", "nobody"], 125, "nobody"),
        (&["attach", "--detach-keys", "ctrl-1", "c"], 125, "is no key"),
        (&["run", "--detach-keys", "ab", "term:1"], 125, "is no key"),
        (&["start", "-ai", "c", "c"], 125, "one container"),
        (&["start", "--sig-proxy=false", "c"], 125, "--sig-proxy"),
        (&["run", "-d", "--detach-keys", "a", "term:1"], 125, "--detach-keys"),
        (&["attach", "-l", "c"], 125, "--latest"),
        (&["exec", "-l", "true"], 125, "created"),
        (&["run", "--bundle", ".", "--tty", "id"], 1, "--tty"),
        (&["run", "--bundle", ".", "--detach-keys", "a", "id"], 1, "--detach-keys"),
    ] {
        let refused = sandbox.run(arguments);
        assert!(
            refused.code == code && refused.stderr.contains(said),
            "{arguments:?}: {} {}",
            refused.code,
            refused.stderr
        );
    }
}
