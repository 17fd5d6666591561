// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Terminals of containers: over a console socket, as engines have them, and on a terminal of our own.

mod runtime_scene;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use runtime_scene::{Bundle, Output, Runtime, output};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::require;
use stos_testkit::shell::through_shell;

/// A console socket, and the terminal that comes over it.
struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    fn new(runtime: &Runtime, name: &str) -> Self {
        let path = runtime.path(name);
        Self { listener: UnixListener::bind(&path).unwrap(), path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn master(&self) -> fs::File {
        let (stream, _) = self.listener.accept().unwrap();
        stos_runtime::console::receive(&stream).unwrap().expect("a terminal").into()
    }
}

/// Reads a terminal until its last user has gone: then reading fails.
fn read_all(mut master: &fs::File) -> String {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        said.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&said).replace("\r\n", "\n")
}

fn with_terminal(runtime: &Runtime, script: &str) -> Bundle {
    let bundle = runtime.bundle(&["sh", "-c", script]);
    bundle.set("/process/terminal", json!(true));
    bundle
}

/// Runs a command on a terminal of 33 rows and 77 columns, which script(1) makes, with `typed` to type. Gives what is shown.
fn on_terminal(command: &Command, before: &str, after: &str, typed: &str) -> Output {
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let line = format!("stty rows 33 cols 77; {before} {}; code=$?; {after} exit $code", words.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"]);
    script.env("TERM", "xterm").env("SHELL", "/bin/sh").env_remove("STOS_ROOT").env_remove("STOS_DATA_ROOT");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(typed.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    drop(keys);
    let text = String::from_utf8_lossy(&ended.stdout).replace('\r', "");
    Output { code: ended.status.code().unwrap_or(-1), stdout: text, stderr: String::new() }
}

#[test]
fn a_created_container_has_the_terminal_that_it_has_sent() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let script = "tty; stty size; stat -c %t:%T:%u /dev/console; echo to the tty >/dev/tty; read line; echo \"got $line\"; \
                  ls -1 /proc/self/fd";
    let bundle = with_terminal(&runtime, script);
    bundle.set("/process/consoleSize", json!({"height": 12, "width": 34})).set("/process/user/uid", json!(1000));
    let (console, id) = (Console::new(&runtime, "console"), runtime.id("console"));
    let created = runtime.create_with(&bundle, &id, &["--console-socket", console.path()]);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let master = console.master();
    runtime.ok(&["start", &id]);
    (&master).write_all(b"typed\n").unwrap();
    let said = read_all(&master);
    // 0x88 is the major number of Unix98 slaves; the console is the very first terminal, and the user's own.
    // crun has no console in a bundle without a mount of /dev.
    let console = if runtime.is_called("crun") { "" } else { "88:0:1000\n" };
    for line in ["/dev/pts/0\n", "12 34\n", console, "to the tty\n", "got typed\n", "0\n1\n2\n3\n"] {
        assert!(said.contains(line), "{line:?}: {said}");
    }
    runtime.wait_for(&id, "stopped");
    assert_eq!(runtime.said(&id), "", "nothing goes to the caller's streams");
}

#[test]
fn a_further_process_has_a_terminal_of_its_own() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = runtime.started(&runtime.bundle(&["sleep", "1000"]), "exec");
    let console = Console::new(&runtime, "console");
    let mut exec = runtime.command();
    exec.args(["exec", "--tty", "--detach", "--console-socket", console.path(), "--user", "1000"]);
    exec.args([&id, "sh", "-c", "tty; read line; echo \"got $line\"; echo again >/dev/tty"]);
    let ran = runtime.detached(exec, &id);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let master = console.master();
    (&master).write_all(b"typed\n").unwrap();
    let said = read_all(&master);
    for line in ["/dev/pts/0\n", "got typed\nagain\n"] {
        assert!(said.contains(line), "{line:?}: {said}");
    }
}

#[test]
fn in_the_foreground_it_is_shown_on_ours() {
    require!(Need::Root, Need::Binary, Need::Tool("script"));
    let runtime = Runtime::new();
    let bundle = with_terminal(&runtime, "stty size; read line; echo \"got $line\"; exit 9");
    let mut run = runtime.command();
    run.args(["run", "--bundle"]).arg(&bundle.dir).arg(runtime.id("run"));
    // Others give the terminal its size after the process may have asked for it.
    let ran = on_terminal(&run, "before=$(stty -g);", "test \"$before\" = \"$(stty -g)\" && echo restored;", "typed\n");
    assert_eq!(ran.code, 9, "{}", ran.stdout);
    assert!(
        (!runtime.is_ours() || ran.stdout.contains("33 77\n")) && ran.stdout.contains("got typed\nrestored\n"),
        "{}",
        ran.stdout
    );
    let id = runtime.started(&runtime.bundle(&["sleep", "1000"]), "exec");
    let mut exec = runtime.command();
    exec.args(["exec", "-t", &id, "sh", "-c", "stty size; read line; echo \"got $line\"; exit 8"]);
    let ran =
        on_terminal(&exec, "before=$(stty -g);", "test \"$before\" = \"$(stty -g)\" && echo restored;", "typed\n");
    assert_eq!(ran.code, 8, "{}", ran.stdout);
    assert!(
        (!runtime.is_ours() || ran.stdout.contains("33 77\n")) && ran.stdout.contains("got typed\nrestored\n"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_signal_in_the_foreground_ends_the_process_and_restores_the_terminal() {
    require!(Need::Root, Need::Binary, Need::Tool("script"));
    let runtime = Runtime::new();
    let script = "trap 'echo told; exit 4' TERM; echo >/ready; while :; do sleep 0.05; done";
    let bundle = with_terminal(&runtime, script);
    let pid = runtime.path("pid");
    let mut run = runtime.command();
    run.args(["run", "--bundle"]).arg(&bundle.dir).arg(runtime.id("term"));
    let run = through_shell(&format!("echo $$ >{}", pid.display()), &run);
    let kill = format!(
        "before=$(stty -g); (while ! test -s {}; do sleep 0.05; done; kill -TERM $(cat {})) &",
        bundle.rootfs("ready").display(),
        pid.display()
    );
    let ran = on_terminal(&run, &kill, "test \"$before\" = \"$(stty -g)\" && echo restored;", "");
    assert!(ran.code == 4 && ran.stdout.contains("told\n") && ran.stdout.contains("restored\n"), "{}", ran.stdout);
}

#[test]
fn sockets_and_terminals_go_together() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let (console, id) = (Console::new(&runtime, "console"), runtime.id("refused"));
    let socket = ["--console-socket", console.path()];
    let bundle = with_terminal(&runtime, "true");
    let refused = runtime.create(&bundle, &id);
    assert!(refused.code != 0 && refused.stderr.contains("socket"), "{}", refused.stderr);
    let in_foreground = output(runtime.command().args(["run"]).args(socket).arg("--bundle").arg(&bundle.dir).arg(&id));
    // crun sends the terminal away in the foreground too.
    assert!(in_foreground.code != 0 || !runtime.is_ours());
    let nowhere = runtime.create_with(&bundle, &id, &["--console-socket", "/no/such/socket"]);
    assert_ne!(nowhere.code, 0);
    bundle.set("/process/terminal", json!(false));
    let without = runtime.create_with(&bundle, &id, &socket);
    // crun leaves a socket unused that nobody needs.
    assert!(without.code != 0 || !runtime.is_ours());
    if runtime.is_ours() {
        assert_ne!(runtime.run(&["state", &id]).code, 0, "nothing is left of it");
    }
}

/// CVE-2025-52565 and its kin: what is covered, and what covers it, must not be the image's choice.
#[test]
fn a_decoy_is_no_terminal() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // Others follow the symlink inside the root, or make a terminal of the host.
        return;
    }
    let (console, id) = (Console::new(&runtime, "console"), runtime.id("decoy"));
    let without = |bundle: &Bundle, destinations: &[&str]| {
        let mounts = bundle.config()["mounts"].as_array().unwrap().clone();
        let kept = |mount: &serde_json::Value| !destinations.iter().any(|path| mount["destination"] == *path);
        bundle.set("/mounts", mounts.into_iter().filter(kept).collect());
    };
    let bundle = with_terminal(&runtime, "true");
    without(&bundle, &["/dev"]);
    fs::create_dir_all(bundle.rootfs("dev/pts")).unwrap();
    for made in ["dev/shm", "dev/mqueue"] {
        fs::create_dir_all(bundle.rootfs(made)).unwrap();
    }
    fs::write(bundle.rootfs("victim"), "untouched").unwrap();
    std::os::unix::fs::symlink("/victim", bundle.rootfs("dev/console")).unwrap();
    let refused = runtime.create_with(&bundle, &id, &["--console-socket", console.path()]);
    assert!(refused.code != 0 && refused.stderr.contains("/dev/console"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(bundle.rootfs("victim")).unwrap(), "untouched");
    fs::remove_file(bundle.rootfs("dev/console")).unwrap();
    without(&bundle, &["/dev", "/dev/pts"]);
    fs::write(bundle.rootfs("dev/pts/ptmx"), "").unwrap();
    let refused = runtime.create_with(&bundle, &id, &["--console-socket", console.path()]);
    assert!(refused.code != 0 && refused.stderr.contains("devpts"), "{}", refused.stderr);
}
