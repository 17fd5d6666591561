// SPDX-License-Identifier: Apache-2.0 OR MIT
//! logs of containers from images: its end, a time, several containers at once.

mod sandbox;

use sandbox::shell::{Shell, eventually};
use stos_testkit::guard::Need;

fn ran(shell: &Shell, name: &str, script: &str) {
    let run = shell.sandbox.run(&["run", "--name", name, "shell:1", "sh", "-c", script]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

#[test]
fn the_end_of_a_log_is_shown() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let logs = |options: &[&str]| shell.sandbox.run(&[&["logs"], options, &["web"]].concat());
    ran(&shell, "web", "for i in 1 2 3 4 5; do echo $i; done; printf end");
    assert_eq!(logs(&["--tail", "2"]).stdout, "5\nend");
    assert_eq!(logs(&["--tail", "0"]).stdout, "");
    for all in ["all", "-1", "99"] {
        assert_eq!(logs(&["--tail", all]).stdout, "1\n2\n3\n4\n5\nend", "{all}");
    }
    assert_eq!(logs(&["--tail", "some"]).code, 1);
    assert_eq!(logs(&["-f", "--tail", "1"]).stdout, "end", "what has ended is not waited for");
}

#[test]
fn a_follower_goes_on_after_the_tail() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "echo 1; echo 2; while [ ! -e /go ]; do sleep 0.05; done; echo 3";
    shell.sandbox.ok(&["run", "-d", "--name", "web", "shell:1", "sh", "-c", script]);
    eventually("it has written", || shell.sandbox.ok(&["logs", "web"]) == "1\n2\n");
    let mut command = shell.sandbox.command();
    let follower = command.args(["logs", "-f", "--tail=1", "web"]).stdout(std::process::Stdio::piped()).spawn();
    shell.sandbox.ok(&["exec", "web", "touch", "/go"]);
    let output = follower.unwrap().wait_with_output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    // The third line may have been written before the follower looked for the last one.
    assert!(shown == "2\n3\n" || shown == "3\n", "{shown:?}");
}

#[test]
fn lines_are_chosen_by_time_and_show_it() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let logs = |options: &[&str]| shell.sandbox.run(&[&["logs"], options, &["web"]].concat());
    // Each waits until the one before has been read: its time is that of the reading.
    let until = |file: &str| format!("while [ ! -e {file} ]; do sleep 0.05; done");
    let script = format!("echo first; {}; printf sec; {}; echo ond >&2; echo ond", until("/a"), until("/b"));
    shell.sandbox.ok(&["run", "-d", "--name", "web", "shell:1", "sh", "-c", &script]);
    for (read, next) in [("first\n", "/a"), ("first\nsec", "/b")] {
        eventually("it is logged", || logs(&[]).stdout == read);
        shell.sandbox.ok(&["exec", "web", "touch", next]);
    }
    assert_eq!(shell.sandbox.ok(&["wait", "web"]), "0\n");
    let timed = logs(&["-t"]);
    let lines: Vec<_> = timed.stdout.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line.1).collect::<Vec<_>>(), ["first", "second"], "{}", timed.stdout);
    assert!(timed.stderr.ends_with(" ond\n"), "{}", timed.stderr);
    let (first, second) = (lines[0].0, lines[1].0);
    assert!(first.parse::<jiff::Timestamp>().unwrap() < second.parse::<jiff::Timestamp>().unwrap());
    assert_eq!(logs(&["--since", first]).stdout, "second\n", "after, not at");
    let until = logs(&["--until", second]);
    assert_eq!((until.stdout.as_str(), until.stderr.as_str()), ("first\n", ""));
    assert_eq!(logs(&["--since", "1h"]).stdout, "first\nsecond\n");
    assert_eq!(logs(&["--since", "0", "--until", "1h"]).stdout, "first\nsecond\n");
    assert_eq!(logs(&["--until", "1000000000", "-f"]).stdout, "");
    assert_eq!(logs(&["--tail", "3", "--until", second]).stdout, "first\n");
    assert_eq!(logs(&["--since", "soon"]).code, 1);
}

#[test]
fn several_containers_are_told_apart() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    ran(&shell, "one", "printf begun");
    ran(&shell, "two", "echo 2");
    let named = shell.sandbox.ok(&["logs", "-n", "one", "two"]);
    assert_eq!(named, "one begun\ntwo 2\n");
    let id = shell.sandbox.json(&["inspect", "two"])[0]["id"].as_str().unwrap()[..12].to_owned();
    assert!(shell.sandbox.ok(&["logs", "one", "two"]).ends_with(&format!("{id} 2\n")));
    assert_eq!(shell.sandbox.ok(&["logs", "-n", "two"]), "2\n", "one alone needs no name");
    assert_eq!(shell.sandbox.run(&["logs", "one", "none"]).code, 1);
}
