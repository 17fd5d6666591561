// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the output of a container goes, and that `logs` reads it there.

mod sandbox;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sandbox::shell::{Shell, eventually};
use serde_json::{Value, json};
use stos_engine::log::journald::SOCKET;
use stos_testkit::guard::Need;
use stos_testkit::require;

const SCRIPT: &str = "echo two >&2; echo one; echo three; printf part";

// Two streams are two pipes: which is read first is known where the one is written to when the other has been read.
const IN_TURN: &str = "echo two >&2; while [ ! -e /go ]; do sleep 0.02; done; echo one; echo three; printf part";

fn ran(shell: &Shell, name: &str, options: &[&str], script: &str) {
    let line = [&["run", "--name", name], options, &["shell:1", "sh", "-c", script]].concat();
    let run = shell.sandbox.run(&line);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

fn log_config(shell: &Shell, name: &str) -> Value {
    shell.sandbox.json(&["inspect", name])[0]["HostConfig"]["LogConfig"].clone()
}

fn path(shell: &Shell, name: &str) -> PathBuf {
    log_config(shell, name)["Path"].as_str().unwrap().into()
}

#[test]
fn files_of_both_forms_are_read_with_every_option() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for driver in ["k8s-file", "json-file"] {
        let run = ["run", "-d", "--name", driver, "--log-driver", driver, "shell:1", "sh", "-c", IN_TURN];
        shell.sandbox.ok(&run);
        let logs = |options: &[&str]| shell.sandbox.run(&[&["logs"], options, &[driver]].concat());
        eventually("the first line is logged", || logs(&[]).stderr == "two\n");
        shell.sandbox.ok(&["exec", driver, "touch", "/go"]);
        assert_eq!(shell.sandbox.ok(&["wait", driver]), "0\n");
        let all = logs(&[]);
        assert_eq!((all.stdout.as_str(), all.stderr.as_str()), ("one\nthree\npart", "two\n"), "{driver}");
        assert_eq!(logs(&["--tail", "2"]).stdout, "three\npart", "{driver}");
        let stamped = logs(&["-t", "--tail", "2"]).stdout;
        let time = stamped.split(' ').next().unwrap();
        time.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{driver}: {time}: {error}"));
        assert_eq!(logs(&["--until", "1h", "--since", "1h"]).stdout, "one\nthree\npart", "{driver}");
        assert_eq!(logs(&["--until", "2020-01-01T00:00:00Z"]).stdout, "", "{driver}");
        assert_eq!(logs(&["-f"]).stdout, "one\nthree\npart", "{driver}");
        assert_eq!(log_config(&shell, driver)["Type"], json!(driver));
    }
    let text = fs::read_to_string(path(&shell, "k8s-file")).unwrap();
    assert!(text.lines().next().unwrap().ends_with(" stderr F two"), "{text}");
    assert!(text.ends_with(" stdout P part\n"), "{text}");
    let text = fs::read_to_string(path(&shell, "json-file")).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> = records.iter().map(|record| record["log"].as_str().unwrap()).collect();
    assert_eq!(records.len(), 4, "{text}");
    assert!(["one\n", "two\n", "three\n", "part"].iter().all(|line| said.contains(line)), "{text}");
    assert!(records.iter().all(|record| record["time"].as_str().unwrap().ends_with('Z')));
}

#[test]
fn the_default_is_what_it_was() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    ran(&shell, "web", &[], "echo one");
    let config = log_config(&shell, "web");
    let expected = json!({"Type": "k8s-file", "Config": null, "Path": config["Path"], "Tag": "", "Size": "33.554MB"});
    assert_eq!(config, expected);
    assert!(path(&shell, "web").ends_with("log") && path(&shell, "web").exists());
}

#[test]
fn a_file_of_one_s_own_is_bounded_and_no_line_is_lost_to_who_follows() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for driver in ["k8s-file", "json-file"] {
        let file = shell.sandbox.path(&format!("{driver}.log"));
        let (path_option, name) = (format!("path={}", file.display()), format!("own-{driver}"));
        let options = ["--log-driver", driver, "--log-opt", &path_option, "--log-opt", "max-size=4k"];
        let script = "while [ ! -e /go ]; do sleep 0.02; done; i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo end";
        shell.sandbox.ok(&[&["run", "-d", "--name", &name], &options[..], &["shell:1", "sh", "-c", script]].concat());
        let follower = shell.sandbox.command().args(["logs", "-f", &name]).stdout(Stdio::piped()).spawn().unwrap();
        // Who begins later may find lines put aside twice.
        let fds = format!("/proc/{}/fd", follower.id());
        eventually("it follows", || {
            let fds = fs::read_dir(&fds).into_iter().flatten().flatten();
            fds.map(|fd| fs::read_link(fd.path())).any(|to| to.is_ok_and(|to| to.ends_with(format!("{driver}.log"))))
        });
        shell.sandbox.ok(&["exec", &name, "touch", "/go"]);
        let shown = String::from_utf8(follower.wait_with_output().unwrap().stdout).unwrap();
        let expected: String = (0..2000).map(|number| format!("line {number}\n")).collect();
        assert!(shown == format!("{expected}end\n"), "{driver}: {} bytes", shown.len());
        let tail = shell.sandbox.ok(&["logs", "--tail", "3", &name]);
        assert_eq!(tail, "line 1998\nline 1999\nend\n");
        assert_eq!(log_config(&shell, &name)["Path"], json!(file));
        shell.sandbox.ok(&["rm", &name]);
        assert!(file.exists(), "what lies elsewhere stays");
    }
}

#[test]
fn a_size_holds_for_the_file_and_the_one_beside_it() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for driver in ["k8s-file", "json-file"] {
        let script = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done";
        ran(&shell, driver, &["--log-driver", driver, "--log-opt", "max-size=4k"], script);
        let file = path(&shell, driver);
        for file in [file.clone(), PathBuf::from(format!("{}.1", file.display()))] {
            let size = fs::metadata(&file).unwrap().len();
            assert!((2048..=4096).contains(&size) || file == path(&shell, driver), "{}: {size}", file.display());
            assert!(size <= 4096, "{}: {size}", file.display());
        }
        assert!(shell.sandbox.ok(&["logs", driver]).ends_with("line 498\nline 499\n"));
        assert_eq!(log_config(&shell, driver)["Size"], json!("4.096kB"));
    }
}

#[test]
fn what_keeps_nothing_says_so() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let run = shell.sandbox.run(&["run", "--name", "none", "--log-driver", "none", "shell:1", "sh", "-c", SCRIPT]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("one\nthree\npart", "two\n"), "who looks sees it");
    let logs = shell.sandbox.run(&["logs", "none"]);
    assert!(logs.code == 125 && logs.stderr.contains("this container is not logging output"), "{}", logs.stderr);
    assert_eq!(shell.status("none"), "stopped");
    let options = ["run", "--name", "pass", "--log-driver", "passthrough", "shell:1", "sh", "-c", SCRIPT];
    let run = shell.sandbox.run(&options);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("one\nthree\npart", "two\n"));
    assert!(shell.sandbox.run(&["logs", "pass"]).stderr.contains("passthrough"));
}

#[test]
fn in_the_background_the_caller_s_streams_are_passed_through() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let file = shell.sandbox.path("output");
    let mut command = shell.sandbox.command();
    command.args(["run", "-d", "--name", "pass", "--log-driver", "passthrough", "shell:1", "sh", "-c", SCRIPT]);
    assert!(command.stdout(fs::File::create(&file).unwrap()).status().unwrap().success());
    assert_eq!(shell.sandbox.ok(&["wait", "pass"]), "0\n");
    eventually("it was written", || fs::read_to_string(&file).unwrap().contains("three\npart"));
}

#[test]
fn a_journal_that_is_not_there_is_told_at_once() {
    require!(
        Need::Root,
        Need::Binary,
        Need::Condition(!Path::new(SOCKET).exists(), "a machine without systemd's journal")
    );
    let shell = Shell::new();
    let refused = shell.sandbox.run(&["create", "--log-driver", "journald", "shell:1"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains(SOCKET) && refused.stderr.contains("hint:"), "{}", refused.stderr);
    assert_eq!(shell.sandbox.ok(&["ps", "-aq"]), "");
}

#[test]
fn options_that_a_driver_does_not_have_are_refused() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for (options, said) in [
        (&["--log-driver", "syslog"][..], "k8s-file, json-file, journald, none, passthrough"),
        (&["--log-opt", "labels=x"], "max-size=SIZE"),
        (&["--log-opt", "max-size=big"], "512m"),
        (&["--log-opt", "max-size=0"], "above 0"),
        (&["--log-opt", "path=relative"], "absolute path"),
        (&["--log-opt", "path=/no/such/dir/log"], "its directory is not there"),
        (&["--log-opt", "tag=x"], "journald"),
        (&["--log-driver", "none", "--log-opt", "max-size=1m"], "keeps no file"),
        (&["-t", "--log-driver", "passthrough"], "--tty"),
    ] {
        let refused = shell.sandbox.run(&[&["create"], options, &["shell:1"]].concat());
        assert_eq!(refused.code, 125, "{options:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{options:?}: {}", refused.stderr);
    }
    assert_eq!(shell.sandbox.ok(&["ps", "-aq"]), "");
}
