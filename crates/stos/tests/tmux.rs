// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers in a real terminal, which tmux is: its screen is what a person would see.

mod sandbox;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use sandbox::shell::eventually;
use sandbox::{Sandbox, output, pty};
use stos_testkit::guard::Need;
use stos_testkit::require;

/// A tmux server of the test's own with one window, in which a shell runs.
struct Tmux {
    socket: String,
}

impl Tmux {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let socket = format!("stos-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let tmux = Self { socket };
        // A shell that says nothing but its prompt.
        tmux.ok(&["new-session", "-d", "-x", "80", "-y", "24", "PS1='host> ' exec bash --norc"]);
        tmux.waits_at("host>");
        tmux
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket, "-f", "/dev/null"]).args(arguments);
        command.env("TERM", "xterm").env("LC_ALL", "C.UTF-8").env_remove("TMUX").stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let ran = output(&mut self.command(arguments));
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    fn screen(&self) -> String {
        self.ok(&["capture-pane", "-p"])
    }

    /// Types a line.
    fn line(&self, line: &str) {
        self.ok(&["send-keys", "-l", line]);
        self.keys(&["Enter"]);
    }

    /// Presses keys, by their tmux names.
    fn keys(&self, keys: &[&str]) {
        self.ok(&[&["send-keys"], keys].concat());
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        eventually(text, || self.screen().contains(text));
    }

    /// The last line that is not empty.
    #[track_caller]
    fn waits_at(&self, prompt: &str) {
        eventually(prompt, || {
            self.screen().trim_end().lines().last().is_some_and(|line| line.trim_end() == prompt.trim_end())
        });
    }

    fn resize(&self, columns: &str, rows: &str) {
        self.ok(&["resize-window", "-x", columns, "-y", rows]);
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        drop(self.command(&["kill-server"]).status());
    }
}

/// The words that lead a shell to stos in a sandbox.
fn stos(sandbox: &Sandbox, line: &str) -> String {
    let command = sandbox.command();
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_str().unwrap()).collect();
    let set = command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value?.to_str()?)));
    format!("env {} {} {line}", set.collect::<Vec<_>>().join(" "), words.join(" "))
}

/// A script of the host's shell that is short to type: long lines would wrap.
fn script(sandbox: &Sandbox, name: &str, line: &str) -> String {
    let path = sandbox.path(&format!("{name}.sh"));
    std::fs::write(&path, format!("{}\n", stos(sandbox, line))).unwrap();
    format!("sh {}", path.display())
}

const NEEDS: [Need<'static>; 4] = [Need::Root, Need::Binary, Need::Tool("tmux"), Need::Tool("busybox")];

#[test]
fn a_shell_has_jobs_and_the_window_s_size() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let (sandbox, tmux) = (pty::sandbox(), Tmux::new());
    let bash = "run -it --rm --name j -e PS1='in> ' term:1 bash --norc";
    tmux.line(&script(&sandbox, "run", bash));
    tmux.waits_at("in>");
    tmux.line("stty size");
    tmux.shows("24 80");
    tmux.resize("100", "30");
    tmux.line("until test \"$(stty size)\" = '30 100'; do sleep 0.05; done; stty size");
    tmux.shows("30 100\n");
    tmux.line("sh -c 'echo go$((1+1)); sleep 1000'");
    tmux.shows("go2");
    // A child that is stopped before its execve(2) holds its parent in vfork(2), which then does not stop.
    eventually("it sleeps", || sandbox.ok(&["top", "j", "args"]).lines().any(|line| line == "sleep 1000"));
    tmux.keys(&["C-z"]);
    tmux.shows("Stopped");
    // What is typed before the prompt would be shown twice.
    tmux.waits_at("in>");
    tmux.line("fg");
    tmux.waits_at("sh -c 'echo go$((1+1)); sleep 1000'");
    // bash says so before the job has the terminal, and lets it go on when it has.
    eventually("it goes on", || {
        let top = sandbox.ok(&["top", "j", "state", "args"]);
        let mut job = top.lines().filter(|line| line.contains("sleep 1000")).peekable();
        job.peek().is_some() && job.all(|line| line.starts_with('S'))
    });
    tmux.keys(&["C-c"]);
    tmux.waits_at("in>");
    tmux.line("echo code=$?");
    tmux.shows("code=130");
    tmux.line("sh -c 'echo go$((2+2)); exec sleep 1000'");
    tmux.shows("go4");
    tmux.keys(&["C-\\"]);
    tmux.shows("Quit");
    tmux.line("exit 9");
    tmux.waits_at("host>");
    tmux.line("echo host=$?; stty -a | grep -o ' echo \\| icanon'");
    tmux.shows("host=9\n icanon\n echo\n");
}

#[test]
fn an_editor_has_the_whole_screen() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let (sandbox, tmux) = (pty::sandbox(), Tmux::new());
    sandbox.ok(&["run", "-d", "--name", "c", "term:1", "sleep", "1000"]);
    for (number, start) in ["run -it --rm -v ", "exec -it c "].iter().enumerate() {
        let shared = sandbox.path(&format!("shared{number}"));
        std::fs::create_dir(&shared).unwrap();
        let line = if number == 0 {
            format!("{start}{}:/shared term:1 busybox vi /shared/file", shared.display())
        } else {
            format!("{start}busybox vi /file")
        };
        tmux.line(&script(&sandbox, "vi", &line));
        // Tildes down to the line of the status, which is the last.
        eventually("the editor is there", || {
            let screen = tmux.screen();
            screen.lines().filter(|line| *line == "~").count() == 22
                && screen.lines().last().is_some_and(|line| line.contains("file"))
        });
        tmux.keys(&["i", "first", "Enter", "second", "Escape"]);
        // The status tells the mode; a key right behind Escape would be taken for one of its sequences.
        let is_in_command_mode = || tmux.screen().trim_end().lines().last().is_some_and(|line| line.starts_with('-'));
        eventually("it is typed", || tmux.screen().starts_with("first\nsecond\n~\n") && is_in_command_mode());
        tmux.keys(&["k", "0", "x"]);
        eventually("it is changed", || tmux.screen().starts_with("irst\nsecond\n~\n"));
        tmux.line(":wq");
        tmux.waits_at("host>");
        tmux.line("clear");
        tmux.waits_at("host>");
        let written = if number == 0 {
            std::fs::read_to_string(shared.join("file")).unwrap()
        } else {
            sandbox.ok(&["exec", "c", "cat", "/file"])
        };
        assert_eq!(written, "irst\nsecond\n");
    }
}

#[test]
fn a_session_is_left_and_found_again() {
    require!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let (sandbox, tmux) = (pty::sandbox(), Tmux::new());
    tmux.line(&script(&sandbox, "run", "run -it --name t -e PS1='in> ' term:1 sh"));
    tmux.waits_at("in>");
    tmux.line("kept=here; echo set$((1+1))");
    tmux.shows("set2");
    tmux.waits_at("in>");
    tmux.keys(&["C-p", "C-q"]);
    // The cursor stays where the container left it.
    tmux.waits_at("in> host>");
    tmux.line("clear; echo code=$?");
    tmux.shows("code=0");
    tmux.line(&script(&sandbox, "attach", "attach t"));
    tmux.line("echo is=$kept");
    tmux.shows("is=here");
    tmux.line("exit 4");
    tmux.waits_at("host>");
    tmux.line("echo code=$?");
    tmux.shows("code=4");
    assert_eq!(sandbox.ok(&["wait", "t"]), "4\n");
}
