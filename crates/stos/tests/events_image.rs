// SPDX-License-Identifier: Apache-2.0 OR MIT
//! events of all containers from images and of images: who writes which, and who reads them.

mod sandbox;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::Sandbox;
use sandbox::shell::{Shell, eventually};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::require;

/// What runs until it is killed.
const FOREVER: [&str; 4] = ["shell:1", "sh", "-c", "trap : USR1; while :; do sleep 0.1; done"];

/// The directory of the only store's events.
fn journal(sandbox: &Sandbox) -> PathBuf {
    let stores: Vec<_> = fs::read_dir(sandbox.root().join("events")).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(stores.len(), 1);
    stores[0].path()
}

fn parse(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// What has happened, as far as it fits.
fn past(sandbox: &Sandbox, options: &[&str]) -> Vec<Value> {
    parse(&sandbox.ok(&[&["events", "--stream=false", "--format", "json"], options].concat()))
}

/// What happened, in words.
fn told(events: &[Value]) -> Vec<String> {
    let word = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| format!("{} {}", word(event, "Type"), word(event, "Status"))).collect()
}

/// The words alone.
fn statuses(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["Status"].as_str().unwrap()).collect()
}

/// `stos events` that goes on, and where its output goes.
struct Follower {
    child: Child,
    output: PathBuf,
}

impl Follower {
    fn spawn(sandbox: &Sandbox, name: &str, options: &[&str]) -> Self {
        let output = sandbox.path(name);
        let mut command = sandbox.command();
        command.args(["events", "--format", "json"]).args(options).stdout(File::create(&output).unwrap());
        Self { child: command.spawn().unwrap(), output }
    }

    /// One that shows what comes from now on: names come and go until it has seen one.
    fn from_now(sandbox: &Sandbox) -> Self {
        let follower = Self::spawn(sandbox, "follower", &[]);
        eventually("it follows", || {
            sandbox.ok(&["tag", "shell:1", "probe:1"]);
            sandbox.ok(&["untag", "probe:1", "probe:1"]);
            !follower.events().is_empty()
        });
        follower
    }

    /// What it has shown; the last line may not be whole yet.
    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.output).unwrap();
        parse(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }

    fn of_containers(&self) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["Type"] == "container").collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_follower_sees_a_whole_life() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let follower = Follower::from_now(sandbox);
    let create = ["create", "--name", "web", "--label", "a=b"];
    let id = sandbox.ok(&[&create[..], &FOREVER].concat());
    let id = id.trim();
    sandbox.ok(&["start", "web"]);
    sandbox.ok(&["exec", "web", "sh", "-c", ":"]);
    assert_eq!(sandbox.run(&["exec", "web", "sh", "-c", "exit 3"]).code, 3);
    assert_eq!(sandbox.run(&["exec", "web", "/none"]).code, 127);
    sandbox.ok(&["pause", "web"]);
    assert_eq!(sandbox.run(&["pause", "web"]).code, 1);
    sandbox.ok(&["unpause", "web"]);
    sandbox.ok(&["rename", "web", "www"]);
    sandbox.ok(&["update", "--pids-limit", "55", "www"]);
    sandbox.ok(&["kill", "-s", "USR1", "www"]);
    sandbox.ok(&["kill", "-s", "0", "www"]);
    let file = sandbox.path("file");
    fs::write(&file, "").unwrap();
    sandbox.ok(&["cp", file.to_str().unwrap(), "www:/file"]);
    sandbox.ok(&["commit", "-q", "www", "made:1"]);
    sandbox.ok(&["export", "-o", sandbox.path("tree.tar").to_str().unwrap(), "www"]);
    sandbox.ok(&["restart", "-t", "0", "www"]);
    sandbox.ok(&["stop", "-t", "0", "www"]);
    sandbox.ok(&["stop", "www"]);
    for look in [&["ps", "-a"][..], &["inspect", "www"], &["logs", "www"], &["wait", "www"], &["diff", "www"]] {
        sandbox.ok(look);
    }
    assert_eq!(sandbox.run(&["kill", "www"]).code, 1);
    sandbox.ok(&["rm", "www"]);
    let expected = [
        ("create", "web", None),
        ("start", "web", None),
        ("exec", "web", None),
        ("exec_died", "web", Some(0)),
        ("exec", "web", None),
        ("exec_died", "web", Some(3)),
        ("pause", "web", None),
        ("unpause", "web", None),
        ("rename", "www", None),
        ("update", "www", None),
        ("kill", "www", None),
        ("commit", "www", None),
        ("export", "www", None),
        // Its monitor read its record before it was renamed.
        ("died", "www", Some(137)),
        ("cleanup", "www", None),
        ("stop", "www", None),
        ("start", "www", None),
        ("restart", "www", None),
        ("died", "www", Some(137)),
        ("cleanup", "www", None),
        ("stop", "www", None),
        ("remove", "www", None),
    ];
    eventually("it has seen the end", || {
        follower.of_containers().last().is_some_and(|event| event["Status"] == "remove")
    });
    let seen = follower.of_containers();
    let mut shown: Vec<_> = seen
        .iter()
        .map(|event| {
            assert!(event["ID"] == id && event["Attributes"] == json!({"a": "b"}), "{event}");
            assert!(event["Image"].as_str().unwrap().ends_with("/shell:1"), "{event}");
            let code = event["ContainerExitCode"].as_i64();
            (event["Status"].as_str().unwrap(), event["Name"].as_str().unwrap(), code)
        })
        .collect();
    // Who stops it waits no more than a second for its monitor to be through.
    for at in 1..shown.len() {
        if (shown[at - 1].0, shown[at].0) == ("stop", "cleanup") {
            shown.swap(at - 1, at);
        }
    }
    assert_eq!(shown, expected);
    let by_order = seen.iter().filter(|event| event["Status"] != "stop");
    let times: Vec<_> = by_order.map(|event| event["timeNano"].as_i64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(past(sandbox, &["--filter", "type=container"]), seen, "what is past is told in the same words");
}

#[test]
fn a_container_that_goes_with_its_process_tells_all_from_one_command() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    assert_eq!(shell.run(&["--name", "one"], "exit 3").code, 3);
    let events = past(sandbox, &["-f", "container=one"]);
    assert_eq!(statuses(&events), ["create", "start", "attach", "died", "remove"]);
    assert_eq!(events[3]["ContainerExitCode"], 3);
    assert!(events[3].get("OOMKilled").is_none());
    // In the background nobody is attached; with keys that leave it there is a session.
    sandbox.ok(&["run", "-d", "--rm", "--name", "two", "shell:1", "sh", "-c", ":"]);
    eventually("it has gone", || statuses(&past(sandbox, &["-f", "container=two"])).last() == Some(&"remove"));
    assert_eq!(statuses(&past(sandbox, &["-f", "container=two"])), ["create", "start", "died", "remove"]);
    sandbox.ok(&["run", "--rm", "--name", "three", "--sig-proxy=false", "shell:1", "sh", "-c", ":"]);
    let expected = ["create", "start", "attach", "died", "remove"];
    eventually("it has gone", || statuses(&past(sandbox, &["-f", "container=three"])) == expected);
    // What cannot be created, and what cannot be started.
    assert_eq!(sandbox.run(&["run", "--rm", "--name", "four", "shell:1", "/none"]).code, 127);
    assert!(past(sandbox, &["-f", "container=four"]).is_empty());
    // What is mounted may have the command, so that only the start tells.
    fs::create_dir(sandbox.path("mounted")).unwrap();
    let mount = format!("{}:/mnt", sandbox.path("mounted").display());
    assert_eq!(sandbox.run(&["run", "--rm", "--name", "five", "-v", &mount, "shell:1", "/none"]).code, 127);
    assert_eq!(statuses(&past(sandbox, &["-f", "container=five"])), ["create", "remove"]);
    // Asked to end by another command.
    sandbox.ok(&[&["run", "-d", "--rm", "--name", "stopped"][..], &FOREVER].concat());
    sandbox.ok(&["stop", "-t", "0", "stopped"]);
    let events = || past(sandbox, &["-f", "container=stopped"]);
    // Who stops it waits no more than a second for its monitor to be through.
    eventually("it has gone", || statuses(&events()).contains(&"remove"));
    let events = events();
    let mut told = statuses(&events);
    assert_eq!(told[..3], ["create", "start", "died"]);
    told[3..].sort_unstable();
    assert_eq!(told[3..], ["remove", "stop"]);
    // Who attaches later.
    sandbox.ok(&[&["run", "-d", "--name", "six"][..], &FOREVER].concat());
    let mut command = sandbox.command();
    let mut attached = command.args(["attach", "six"]).stdout(Stdio::null()).spawn().unwrap();
    eventually("it is told", || statuses(&past(sandbox, &["-f", "container=six"])).last() == Some(&"attach"));
    sandbox.ok(&["rm", "-f", "six"]);
    attached.wait().unwrap();
    assert_eq!(
        statuses(&past(sandbox, &["-f", "container=six"])),
        ["create", "start", "attach", "died", "cleanup", "remove"]
    );
    // A process that nobody waits for.
    sandbox.ok(&[&["run", "-d", "--name", "seven"][..], &FOREVER].concat());
    sandbox.ok(&["exec", "-d", "seven", "sh", "-c", "touch /done"]);
    eventually("it has ended", || sandbox.run(&["exec", "seven", "sh", "-c", "test -e /done"]).code == 0);
    assert_eq!(statuses(&past(sandbox, &["-f", "container=seven"]))[..4], ["create", "start", "exec", "exec"]);
    sandbox.ok(&["rm", "-f", "seven"]);
}

#[test]
fn what_happens_to_images_is_told() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let pulled = past(sandbox, &[]);
    assert_eq!(told(&pulled), ["image pull"]);
    let reference = format!("{}/shell:1", shell.hub.registry.address());
    let id = sandbox.json(&["images", "--format", "json"])[0]["id"].clone();
    assert_eq!((&pulled[0]["Name"], &pulled[0]["Attributes"]), (&json!(reference), &Value::Null));
    assert_eq!(id, format!("sha256:{}", pulled[0]["ID"].as_str().unwrap()));
    let archive = sandbox.path("a.tar").to_str().unwrap().to_owned();
    let tree = sandbox.path("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    let other = format!("{}/other:1", shell.hub.registry.address());
    for command in [
        &["tag", "shell:1", "a.example/x:1"][..],
        &["tag", "shell:1", "a.example/x:1"],
        &["push", "--tls-verify=false", "-q", "shell:1", &other],
        &["save", "-q", "-o", &archive, "a.example/x:1"],
        &["untag", "a.example/x:1", "a.example/x:1"],
        &["load", "-q", "-i", &archive],
        &["rmi", "a.example/x:1"],
        &["import", "-q", tree.to_str().unwrap(), "a.example/y:1"],
        &["image", "mount", "a.example/y:1"],
        &["image", "unmount", "a.example/y:1"],
        &["untag", "a.example/y:1"],
        &["image", "prune", "-f"],
        &["images"],
        &["image", "prune", "-f"],
        &["rmi", "shell:1"],
    ] {
        sandbox.ok(command);
    }
    assert_eq!(sandbox.run(&["rmi", "shell:1"]).code, 1);
    assert_eq!(sandbox.run(&["pull", "--retry", "0", "--tls-verify=false", "127.0.0.1:1/x"]).code, 1);
    let events = past(sandbox, &[]);
    let shown: Vec<_> =
        events[1..].iter().map(|event| (event["Status"].as_str().unwrap(), event["Name"].as_str())).collect();
    assert_eq!(
        shown,
        [
            ("tag", Some("a.example/x:1")),
            ("push", Some(other.as_str())),
            ("save", Some(archive.as_str())),
            ("untag", Some("a.example/x:1")),
            ("loadfromarchive", Some(archive.as_str())),
            ("untag", Some("a.example/x:1")),
            ("import", Some("a.example/y:1")),
            ("mount", Some("a.example/y:1")),
            ("unmount", Some("a.example/y:1")),
            ("untag", Some("a.example/y:1")),
            ("remove", None),
            ("untag", Some(reference.as_str())),
            ("remove", Some(reference.as_str())),
        ]
    );
    assert!(events.iter().all(|event| event["ID"].as_str().is_some_and(|id| id.len() == 64)));
}

#[test]
fn what_is_shown_can_be_chosen() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    for (name, label) in [("one", "a=1"), ("two", "a=2")] {
        sandbox.ok(&["create", "--name", name, "--label", label, "shell:1"]);
        sandbox.ok(&["rm", name]);
    }
    let count = |options: &[&str]| past(sandbox, options).len();
    for (options, expected) in [
        (&[][..], 5),
        (&["-f", "type=container"], 4),
        (&["-f", "container=one"], 2),
        (&["-f", "container=one", "-f", "container=two", "-f", "event=create"], 2),
        (&["-f", "label=a"], 4),
        (&["-f", "label=a=2", "--filter", "status=remove"], 1),
        (&["-f", "image=shell:1"], 1),
        (&["-f", "type=volume"], 0),
        (&["--since", "1h"], 5),
        (&["--until", "1000000000"], 0),
        (&["--since", "0", "--until", "1h"], 5),
    ] {
        assert_eq!(count(options), expected, "{options:?}");
    }
    let events = past(sandbox, &[]);
    let time = |at: usize| {
        let nanos = events[at]["timeNano"].as_i64().unwrap();
        jiff::Timestamp::from_nanosecond(nanos.into()).unwrap().to_string()
    };
    assert_eq!(past(sandbox, &["--since", &time(1)]), events[2..], "after, not at");
    assert_eq!(past(sandbox, &["--since", &time(0), "--until", &time(3)]), events[1..3]);
    // A time that is past ends a stream too, and one that comes.
    assert_eq!(parse(&sandbox.ok(&["events", "--format", "json", "--until", &time(3)])), events[..3]);
    assert_eq!(parse(&sandbox.ok(&["events", "--format", "json", "--until", "100ms"])), events);
    let lines = sandbox.ok(&["events", "--stream=false", "--no-trunc=false", "-f", "container=one"]);
    let id = events[1]["ID"].as_str().unwrap();
    let first = lines.lines().next().unwrap();
    let image = events[1]["Image"].as_str().unwrap();
    assert!(first.ends_with(&format!(" +0000 UTC container create {} (image={image}, name=one, a=1)", &id[..12])));
    assert!(sandbox.ok(&["events", "--stream=false"]).contains(id), "ids are whole by default");
    let template = ["events", "--stream=false", "-f", "label=a", "--format", "{{.Status}} {{.Name}} {{.Attributes.a}}"];
    assert_eq!(sandbox.ok(&template), "create one 1\nremove one 1\ncreate two 2\nremove two 2\n");
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    for (options, said) in [
        (&["--stream=false", "-f", "pod=x"][..], "expected container, event, image, label or type"),
        (&["--stream=false", "-f", "x"], "expected KEY=VALUE"),
        (&["--stream=false", "--since", "soon"], "expected a time"),
        (&["--stream=false", "--format", "{{.Nothing}}"], "no field .Nothing"),
        (&["--stream=false", "--format", "{{.ID"], "--format"),
        (&["--stats"], "CONTAINER"),
        (&["--filter", "event=died", "web"], "--filter"),
        (&["--since", "1m", "web"], "--since"),
    ] {
        let refused = sandbox.run(&[&["events"], options].concat());
        assert!(refused.code == 1 && refused.stderr.contains(said), "{options:?}: {refused:?}");
    }
    // podman knows more words, so one that fits nothing is no mistake; but who waits for it is told.
    let unknown = sandbox.run(&["events", "--stream=false", "-f", "event=checkpoint"]);
    assert!(unknown.code == 0 && unknown.stdout.is_empty() && unknown.stderr.contains("checkpoint"), "{unknown:?}");
}

#[test]
fn called_as_a_runtime_it_is_runc_s() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let runc = shell.sandbox.path("runc");
    std::os::unix::fs::symlink(stos_testkit::environment::stos(), &runc).unwrap();
    let mut command = std::process::Command::new(&runc);
    let refused = sandbox::output(command.arg("--root").arg(shell.sandbox.root()).arg("events"));
    assert!(refused.code == 1 && refused.stderr.contains("expected a container"), "{refused:?}");
    shell.sandbox.ok(&[&["run", "-d", "--name", "web"][..], &FOREVER].concat());
    let stats: Value = serde_json::from_str(&shell.sandbox.ok(&["events", "--stats", "web"])).unwrap();
    assert_eq!(stats["type"], "stats");
    shell.sandbox.ok(&["rm", "-f", "web"]);
}

#[test]
fn who_reads_no_more_ends_it() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let mut command = shell.sandbox.command();
    let mut child = command.args(["events", "--since", "1h"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    assert!(line.contains(" image pull "), "{line}");
    drop(reader);
    // Nothing happens any more.
    assert!(child.wait().unwrap().success());
}

#[test]
fn many_writers_lose_nothing_while_generations_change() {
    require!(Need::Root, Need::Binary);
    const WRITERS: usize = 16;
    const EACH: usize = 4;
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let directory = journal(sandbox);
    // As full as it gets, with an event of another kind, a torn one, and lines that are none.
    let old = r#"{"time":"2026-01-01T00:00:00Z","type":"image","status":"save","id":"0123"}"#;
    let mut log = File::options().append(true).open(directory.join("log")).unwrap();
    log.write_all(format!("{old}\n").repeat(999_000 / (old.len() + 1)).as_bytes()).unwrap();
    log.write_all(format!("\n{{}}\nno event\n{}", &old[..30]).as_bytes()).unwrap();
    let follower = Follower::spawn(sandbox, "follower", &["--since", "1h", "-f", "event=tag"]);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                (0..EACH).for_each(|at| {
                    sandbox.ok(&["tag", "shell:1", &format!("a.example/x:{writer}-{at}")]);
                });
            });
        }
    });
    assert!(directory.join("log.1").exists(), "it has changed generations");
    let mut expected: Vec<_> = (0..WRITERS * EACH).map(|n| format!("a.example/x:{}-{}", n / EACH, n % EACH)).collect();
    expected.sort();
    let names = |events: &[Value]| {
        let mut names: Vec<_> = events.iter().map(|event| event["Name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&past(sandbox, &["-f", "event=tag"])), expected);
    eventually("the follower has them all", || follower.events().len() >= expected.len());
    assert_eq!(names(&follower.events()), expected);
}

#[test]
fn who_waits_for_long_keeps_no_generation() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let has_open = |pid: u32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().map(|fd| fs::read_link(fd.path()));
        links.flatten().any(|path| path.starts_with(sandbox.root().join("events")))
    };
    let mut command = sandbox.command();
    let attached = command.args(["run", "--name", "web"]).args(FOREVER).stdout(Stdio::null()).spawn().unwrap();
    eventually("it runs", || statuses(&past(sandbox, &["-f", "container=web"])).contains(&"attach"));
    let mut command = sandbox.command();
    let mut exec = command.args(["exec", "web", "sleep", "1000"]).stdout(Stdio::null()).spawn().unwrap();
    eventually("it runs too", || statuses(&past(sandbox, &["-f", "container=web"])).contains(&"exec"));
    for pid in [attached.id(), exec.id()] {
        eventually("it is closed", || !has_open(pid));
    }
    sandbox.ok(&["rm", "-f", "web"]);
    exec.wait().unwrap();
    attached.wait_with_output().unwrap();
    let mut told = past(sandbox, &["-f", "container=web"]);
    told.sort_by_key(|event| event["Status"].as_str().map(str::to_owned));
    assert_eq!(statuses(&told), ["attach", "cleanup", "create", "died", "exec", "exec_died", "remove", "start"]);
}

#[test]
fn what_is_removed_or_cannot_be_written_fails_no_command() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let follower = Follower::from_now(sandbox);
    let events = sandbox.root().join("events");
    sandbox.ok(&[&["run", "-d", "--name", "web"][..], &FOREVER].concat());
    eventually("it has begun", || statuses(&follower.of_containers()) == ["create", "start"]);
    // The monitor has the file open. All at once: the follower makes it again.
    fs::rename(&events, sandbox.path("away")).unwrap();
    sandbox.ok(&["rm", "-f", "web"]);
    eventually("it goes on", || statuses(&follower.of_containers()).last() == Some(&"remove"));
    assert_eq!(statuses(&follower.of_containers()), ["create", "start", "died", "cleanup", "remove"]);
    drop(follower);
    fs::remove_dir_all(&events).unwrap();
    fs::write(&events, "in the way").unwrap();
    let run = shell.run(&[], "exit 3");
    assert_eq!((run.code, run.stderr.matches("events cannot be told").count()), (3, 1), "{run:?}");
    assert_eq!(sandbox.run(&["events", "--stream=false"]).code, 1);
    assert_eq!(sandbox.run(&["events"]).code, 1);
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn kill(pid: &Value) {
    let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    eventually("it is gone", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with(['Z', 'X']))
    });
}

#[test]
fn an_end_that_no_monitor_saw_is_told_by_who_clears_it_away() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    for (name, lives, clear, expected) in [
        ("stopped", true, &["stop", "-t", "0", "stopped"][..], &["create", "start", "died", "stop"][..]),
        ("removed", false, &["rm", "removed"], &["create", "start", "died", "remove"]),
        ("forced", true, &["rm", "-f", "forced"], &["create", "start", "died", "remove"]),
        ("started", false, &["start", "started"], &["create", "start", "died", "start"]),
    ] {
        let id = sandbox.ok(&[&["run", "-d", "--name", name][..], &FOREVER].concat());
        let state = read(&sandbox.root().join("containers").join(id.trim()).join("state.json"));
        kill(&state["creator"]["pid"]);
        if !lives {
            kill(&state["init"]["pid"]);
        }
        // Who only looks writes nothing.
        sandbox.ok(&["ps", "-a"]);
        assert_eq!(
            statuses(&past(sandbox, &["-f", &format!("container={}", id.trim())])),
            ["create", "start"],
            "{name}"
        );
        sandbox.ok(clear);
        let events = past(sandbox, &["-f", &format!("container={}", id.trim())]);
        assert_eq!(statuses(&events), expected, "{name}");
        assert!(events[2].get("ContainerExitCode").is_none(), "nobody knows it");
        if name != "started" {
            sandbox.run(&["rm", name]);
        }
    }
    // One that goes with its process: the next command that sees it.
    let id = sandbox.ok(&[&["run", "-d", "--rm"][..], &FOREVER].concat());
    let state = read(&sandbox.root().join("containers").join(id.trim()).join("state.json"));
    kill(&state["creator"]["pid"]);
    kill(&state["init"]["pid"]);
    sandbox.ok(&["ps", "-a"]);
    let events = past(sandbox, &["-f", &format!("container={}", id.trim())]);
    assert_eq!(statuses(&events), ["create", "start", "died", "remove"]);
    sandbox.ok(&["rm", "-f", "started"]);
}

#[test]
fn stores_that_share_a_root_have_events_of_their_own() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let mut other = sandbox.command_on(&sandbox.path("other"));
    let told = sandbox::output(other.args(["events", "--stream=false"]));
    assert_eq!((told.code, told.stdout.as_str()), (0, ""));
    assert_eq!(past(sandbox, &[]).len(), 1);
}
