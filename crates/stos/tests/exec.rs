// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Further processes in containers from images, and an init for them to be left to.

mod sandbox;

use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::pty::{self, Pty};
use sandbox::shell::eventually;
use sandbox::{Sandbox, output};
use stos_testkit::guard::Need;
use stos_testkit::require;

fn running(sandbox: &Sandbox, options: &[&str]) {
    sandbox.ok(&[&["run", "-d", "--name", "c"], options, &["term:1", "sleep", "1000"]].concat());
}

/// Whether a command line like this one runs in the container.
fn runs(sandbox: &Sandbox, what: &str) -> bool {
    runs_in(sandbox, "c", what)
}

fn runs_in(sandbox: &Sandbox, container: &str, what: &str) -> bool {
    sandbox.ok(&["exec", container, "ps", "-eo", "args"]).lines().any(|line| line == what)
}

#[test]
fn a_process_in_the_background_is_nobody_s() {
    require!(Need::Root, Need::Binary, Need::Tool("setsid"));
    let sandbox = pty::sandbox();
    running(&sandbox, &[]);
    let script = "ls -l /proc/self/fd >/streams; exec sleep 2000";
    assert_eq!(sandbox.ok(&["exec", "-d", "c", "sh", "-c", script]), "");
    eventually("it runs", || runs(&sandbox, "sleep 2000"));
    let streams = sandbox.ok(&["exec", "c", "sh", "-c", "cat /streams"]);
    assert_eq!(streams.matches("/dev/null").count(), 2, "input and errors: {streams}");
    assert_eq!(sandbox.ok(&["exec", "-d", "-t", "c", "sh", "-c", "tty >/tty; exec sleep 3000"]), "");
    eventually("it runs", || runs(&sandbox, "sleep 3000"));
    assert_eq!(sandbox.ok(&["exec", "c", "cat", "/tty"]), "/dev/pts/0\n");
    // Its terminal stays open: what is written there is nobody's, and does not stop who writes.
    let loud = "seq 100000; echo done >/done";
    sandbox.ok(&["exec", "-dt", "c", "sh", "-c", loud]);
    eventually("it has written everything", || sandbox.run(&["exec", "c", "cat", "/done"]).stdout == "done\n");
    for (command, code) in [(&["no-such"][..], 127), (&["/etc/passwd"], 126)] {
        let refused = sandbox.run(&[&["exec", "-d", "c"], command].concat());
        assert!(refused.code == code && !refused.stderr.is_empty(), "{command:?}: {}", refused.code);
    }
    // What keeps terminals open goes with the processes.
    sandbox.ok(&["delete", "-f", "c"]);
    let root = sandbox.root().display().to_string();
    let left = || output(std::process::Command::new("ps").args(["-eo", "args"])).stdout;
    eventually("nobody is left", || !left().lines().any(|line| line.contains(&root)));
}

#[test]
fn a_process_has_a_terminal_and_can_be_left() {
    require!(Need::Root, Need::Binary, Need::Tool("setsid"));
    let sandbox = pty::sandbox();
    running(&sandbox, &[]);
    let exec = |options: &[&str], command: &[&str]| {
        let words = [&["exec"], options, &["c"], command].concat();
        Pty::spawn(sandbox.command().args(words), 33, 77)
    };
    let mut shell = exec(&["-it"], &["sh"]);
    shell.send("stty size; echo T$TERM; sleep 4000\r");
    assert!(shell.expect("Txterm").contains("33 77"));
    shell.resize(20, 50);
    // Before that a key would be the shell's own.
    eventually("it sleeps", || runs(&sandbox, "sleep 4000"));
    shell.send("\x03");
    // Keys may overtake the size.
    shell.send("until [ \"$(stty size)\" = '20 50' ]; do sleep 0.05; done; echo sized$((1+1))\r");
    shell.expect("sized2");
    shell.send("sleep 5000\r");
    eventually("it runs", || runs(&sandbox, "sleep 5000"));
    shell.expect("sleep 5000");
    shell.shown.clear();
    shell.send("\x10\x11");
    assert_eq!(shell.wait(), 0);
    assert_eq!(shell.shown.trim(), "", "nothing is said");
    assert!(runs(&sandbox, "sleep 5000"));
    let mut other = exec(&["-it", "--detach-keys", "z"], &["sh"]);
    other.send("echo \x10\x11up$((1+1))\r");
    other.expect("up2");
    other.send("exit 6\r");
    assert_eq!(other.wait(), 6);
    // Nothing can be typed: Ctrl-C is a signal.
    let mut silent = exec(&["-t"], &["sh", "-c", "trap 'exit 4' INT; echo up; while :; do sleep 0.05; done"]);
    silent.expect("up");
    silent.send("\x03");
    assert_eq!(silent.wait(), 4);
    assert_eq!(sandbox.run(&["exec", "-t", "c", "sh", "-c", "tty; exit 3"]).code, 3, "without a terminal of ours");
}

#[test]
fn who_does_not_read_a_terminal_s_output_keeps_nothing_from_its_process() {
    require!(Need::Root, Need::Binary);
    let sandbox = pty::sandbox();
    running(&sandbox, &[]);
    let exec = |what: &[&str]| {
        let mut command = sandbox.command();
        command.args(["exec", "-t", "c"]).args(what).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let ends = |child: &mut Child| {
        let mut ended = None;
        let deadline = Instant::now() + Duration::from_secs(60);
        while ended.is_none() && Instant::now() < deadline {
            ended = child.try_wait().unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(child.kill());
        ended.and_then(|status| status.code())
    };
    // One that goes ends nothing, and is written to no more.
    let mut gone = exec(&["sh", "-c", "seq 100000; exit 4"]);
    drop(gone.stdout.take());
    assert_eq!(ends(&mut gone), Some(4));
    // One that is slow keeps no signal from it, and gets everything in the end.
    let mut slow = exec(&["seq", "100000000"]);
    let mut output = slow.stdout.take().unwrap();
    let held = || rustix::io::ioctl_fionread(&output).unwrap();
    eventually("the pipe is full", || {
        let count = held();
        let is_same = |_| {
            std::thread::sleep(Duration::from_millis(2));
            held() == count
        };
        count > 0 && (0..50).all(is_same)
    });
    let full = usize::try_from(held()).unwrap();
    kill_process(Pid::from_child(&slow), Signal::TERM).unwrap();
    eventually("it is told", || !sandbox.ok(&["top", "c", "args"]).contains("seq"));
    let mut shown = String::new();
    output.read_to_string(&mut shown).unwrap();
    let in_order = (1..).zip(shown.lines()).all(|(number, line)| number.to_string().starts_with(line));
    assert!(shown.len() >= full && in_order, "{shown}");
    assert_eq!(ends(&mut slow), Some(143));
}

#[test]
fn options_change_the_process() {
    require!(Need::Root, Need::Binary);
    let sandbox = pty::sandbox();
    running(&sandbox, &["-e", "OWN=1"]);
    let list = sandbox.path("list");
    fs::write(&list, "# a comment\nA=file\nB=file\n").unwrap();
    let mut exec = sandbox.command();
    exec.args(["exec", "--env-file"]).arg(&list);
    exec.args(["-e", "B=option", "-e", "PASSED", "c", "sh", "-c", "echo $OWN $A $B $PASSED"]).env("PASSED", "on");
    assert_eq!(output(&mut exec).stdout, "1 file option on\n");
    let capabilities = |options: &[&str]| {
        let words = [
            &["exec"],
            options,
            &["c", "sh", "-c", "while read a b; do case $a in CapBnd:) echo $b;; esac; done </proc/self/status"],
        ];
        sandbox.ok(&words.concat())
    };
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap().to_owned();
    assert_eq!(capabilities(&["--privileged"]).trim(), own);
    assert_ne!(capabilities(&[]).trim(), own);
    assert_eq!(sandbox.ok(&["exec", "-l", "sh", "-c", "echo $OWN"]), "1\n");
    let refused = sandbox.run(&["exec", "--process", "x", "c"]);
    assert!(refused.code == 125 && refused.stderr.contains("--process"), "{}", refused.stderr);
}

/// podman 5.8 does so too: what a user was given by `--cap-add` is that user's.
#[test]
fn another_user_has_not_the_capabilities_of_the_container_s() {
    require!(Need::Root, Need::Binary);
    let sandbox = pty::sandbox();
    for options in [&[][..], &["--security-opt", "no-new-privileges"]] {
        running(&sandbox, &[&["--user", "1000", "--cap-add", "KILL"], options].concat());
        let capabilities = |options: &[&str]| {
            let script = "while read a b; do case $a in CapEff:|CapBnd:) echo $b;; esac; done </proc/self/status";
            let said = sandbox.ok(&[&["exec"], options, &["c", "sh", "-c", script]].concat());
            said.lines().map(|mask| u64::from_str_radix(mask, 16).unwrap()).collect::<Vec<_>>()
        };
        let own = capabilities(&[]);
        assert_eq!(own[0], 1 << 5);
        assert_eq!(capabilities(&["--user", "1000"]), own);
        assert_eq!(capabilities(&["--user", "1001"]), [0, own[1]]);
        assert_eq!(capabilities(&["--user", "0"]), [own[1], own[1]]);
        assert_eq!(capabilities(&["--user", "1001", "--privileged"])[0], 0);
        sandbox.ok(&["rm", "-f", "c"]);
    }
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    require!(Need::Root, Need::Binary, Need::Tool("setsid"));
    let sandbox = pty::sandbox();
    let script = "trap 'exit 6' USR1; (sleep 0.1 & exec true); echo up; while :; do sleep 0.05; done";
    sandbox.ok(&["run", "-d", "--init", "--name", "c", "term:1", "sh", "-c", script]);
    eventually("it is up", || sandbox.ok(&["logs", "c"]) == "up\n");
    let processes = || sandbox.ok(&["exec", "c", "ps", "-eo", "pid,ppid,stat,comm"]);
    let rows = || {
        processes()
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    assert_eq!((&*rows()[0][0], &*rows()[0][3]), ("1", "stos-init"));
    assert!(rows().iter().any(|row| row[1] == "1" && row[3] == "sh"));
    eventually("the orphan is reaped", || !rows().iter().any(|row| row[2].starts_with('Z')));
    // What we were called with, and with what environment, is none of the container's business.
    let read = |file: &str| sandbox.run(&["exec", "c", "cat", &format!("/proc/1/{file}")]);
    assert_eq!(read("cmdline").stdout.trim_end_matches('\0'), "stos-init");
    assert_ne!(read("environ").code, 0);
    assert_ne!(sandbox.run(&["exec", "c", "ls", "/proc/1/fd/0"]).code, 0);
    sandbox.ok(&["kill", "-s", "USR1", "c"]);
    assert_eq!(sandbox.ok(&["wait", "c"]), "6\n");
    let run = |command: &[&str]| sandbox.run(&[&["run", "--rm", "--init", "term:1"], command].concat());
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(run(&["sh", "-c", "echo out; exit 3"]).code, 3);
    assert_eq!(run(&["no-such"]).code, 127);
    // Found, and then it cannot be executed: the init's child tells.
    let bad = sandbox.path("bad");
    fs::write(&bad, "#!/no/interpreter\n").unwrap();
    fs::set_permissions(&bad, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let volume = format!("{}:/bad", bad.display());
    let lost = sandbox.run(&["run", "--rm", "--init", "-v", &volume, "term:1", "/bad"]);
    assert!(lost.code == 127 && lost.stderr.contains("/no/interpreter"), "{} {}", lost.code, lost.stderr);
    // In a pid namespace that is not the container's own its orphans are the init's too.
    let script = "sh -c 'sleep 1000 & echo $!'; exec sleep 1000";
    sandbox.ok(&["run", "-d", "--init", "--pid", "host", "--name", "h", "term:1", "sh", "-c", script]);
    let orphan = || sandbox.ok(&["logs", "h"]).trim().to_owned();
    eventually("the orphan is there", || !orphan().is_empty());
    let init = sandbox.json(&["state", "h"])["pid"].to_string();
    let parent = || {
        let status = fs::read_to_string(format!("/proc/{}/status", orphan())).unwrap();
        status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap().to_owned()
    };
    eventually("the orphan has another parent", || parent() == init);
    sandbox.ok(&["rm", "-f", "h"]);
    // Job control, though the shell leads no session.
    let mut shell = Pty::spawn(
        sandbox.command().args([
            "run",
            "-it",
            "--rm",
            "--name",
            "j",
            "--init",
            "term:1",
            "bash",
            "--norc",
            "--noediting",
        ]),
        24,
        80,
    );
    shell.send("sh -c 'echo go$((1+1)); sleep 1000; echo woken'\r");
    shell.expect("go2");
    // A child that is stopped before its execve(2) holds its parent in vfork(2), which then does not stop.
    eventually("it sleeps", || runs_in(&sandbox, "j", "sleep 1000"));
    shell.send("\x1a");
    shell.expect("Stopped");
    // What is typed before the prompt would be shown twice.
    shell.expect("# ");
    let sleeps = || sandbox.ok(&["exec", "j", "ps", "-C", "sleep", "-o", "stat="]);
    // The shell waits for its child, not for that one's.
    eventually("it has stopped too", || sleeps().starts_with('T'));
    shell.send("fg\r");
    shell.expect("fg\r\nsh -c");
    // The shell names the job, then gives it the terminal, then has it go on: a key before that interrupts nobody.
    eventually("it goes on", || sleeps().starts_with('S'));
    shell.send("\x03");
    // A shell that has been interrupted throws away what was typed before its prompt.
    shell.expect("# ");
    shell.send("exit 5\r");
    assert_eq!(shell.wait(), 5);
}
