// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Containers that are started again when they have ended, and that stay ended when somebody wants so.

mod sandbox;

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sandbox::Output;
use sandbox::shell::{Shell, eventually};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::require;

/// What lives for a moment, and says that it did.
const SHORT: &str = "echo life; exit 3";

/// What runs until it is asked to end, or fails when it finds `/fail`.
const FOREVER: &str = "trap 'exit 0' TERM; echo life; while [ ! -e /fail ]; do sleep 0.05; done; rm /fail; exit 9";

fn begin(shell: &Shell, name: &str, policy: &str, script: &str) {
    shell.sandbox.ok(&["run", "-d", "--name", name, "--restart", policy, "shell:1", "sh", "-c", script]);
}

fn inspect(shell: &Shell, name: &str) -> Value {
    shell.sandbox.json(&["inspect", name])[0].clone()
}

fn count(shell: &Shell, name: &str) -> u64 {
    inspect(shell, name)["RestartCount"].as_u64().unwrap()
}

fn lives(shell: &Shell, name: &str) -> usize {
    shell.sandbox.ok(&["logs", name]).lines().filter(|line| *line == "life").count()
}

/// Its monitor, while it runs.
fn monitor(shell: &Shell, name: &str) -> i32 {
    let id = inspect(shell, name)["id"].as_str().unwrap().to_owned();
    let state = std::fs::read_to_string(shell.sandbox.root().join("containers").join(&id).join("state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    i32::try_from(state["creator"]["pid"].as_i64().unwrap()).unwrap()
}

/// Whether a process is gone, or nobody has reaped it yet.
fn has_ended(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn what_fails_is_started_again_so_often_and_its_log_goes_on() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    begin(&shell, "web", "on-failure:2", SHORT);
    eventually("it has had all its lives", || lives(&shell, "web") == 3 && shell.status("web") == "stopped");
    assert_eq!(shell.sandbox.ok(&["wait", "web"]), "3\n");
    let shown = inspect(&shell, "web");
    assert_eq!(shown["HostConfig"]["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 2}));
    assert_eq!((&shown["RestartCount"], &shown["State"]["ExitCode"]), (&json!(2), &json!(3)));
    // Somebody who starts it gives it as many again.
    shell.sandbox.ok(&["start", "web"]);
    eventually("it has had three more", || lives(&shell, "web") == 6);
    let events = ["events", "--stream=false", "--filter", "container=web", "--format", "{{.Status}}"];
    let events = shell.sandbox.ok(&events);
    assert_eq!(events.lines().filter(|event| *event == "start").count(), 6, "{events}");
    // What has succeeded is left alone.
    begin(&shell, "good", "on-failure", "echo life");
    assert_eq!(shell.sandbox.ok(&["wait", "good"]), "0\n");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!((lives(&shell, "good"), count(&shell, "good")), (1, 0));
}

#[test]
fn what_somebody_stops_stays_ended() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for policy in ["always", "unless-stopped"] {
        begin(&shell, "web", policy, FOREVER);
        shell.sandbox.ok(&["exec", "web", "touch", "/fail"]);
        eventually("it was started again", || lives(&shell, "web") == 2 && shell.status("web") == "running");
        let pid = monitor(&shell, "web");
        shell.sandbox.ok(&["stop", "web"]);
        eventually("its monitor has ended", || has_ended(pid));
        assert_eq!((shell.status("web").as_str(), count(&shell, "web")), ("stopped", 1));
        // Somebody may start it again, and then the policy holds again.
        shell.sandbox.ok(&["start", "web"]);
        assert_eq!(count(&shell, "web"), 0);
        shell.sandbox.ok(&["kill", "-s", "KILL", "web"]);
        assert_eq!(shell.sandbox.ok(&["wait", "web"]), "137\n");
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(shell.status("web"), "stopped");
        shell.sandbox.ok(&["start", "web"]);
        shell.sandbox.ok(&["restart", "web"]);
        assert_eq!(shell.status("web"), "running");
        shell.sandbox.ok(&["rm", "-f", "web"]);
        assert_eq!(shell.sandbox.ok(&["ps", "-aq"]), "");
    }
}

#[test]
fn a_wait_for_the_next_life_is_ended_too() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let waits = |name: &str, lives_before: usize| {
        // Each wait is longer: the fourth is most of a second.
        eventually("it waits", || lives(&shell, name) >= lives_before && shell.status(name) == "stopped");
    };
    begin(&shell, "stop", "always", SHORT);
    waits("stop", 4);
    assert_eq!(shell.sandbox.ok(&["container", "prune", "--force"]), "", "it is not forgotten");
    shell.sandbox.ok(&["stop", "stop"]);
    for (name, command) in
        [("kill", &["kill", "kill"][..]), ("all", &["stop", "--all"]), ("all-kill", &["kill", "--all"])]
    {
        begin(&shell, name, "always", SHORT);
        waits(name, 4);
        // A signal that asks for something else finds nobody, unless it comes in a life.
        eventually("it finds nobody", || shell.sandbox.run(&["kill", "-s", "HUP", name]).code == 1);
        shell.sandbox.ok(command);
    }
    let all = ["stop", "kill", "all", "all-kill"];
    // One that was killed in a life has yet to end.
    eventually("all have ended", || all.iter().all(|name| shell.status(name) == "stopped"));
    let total = || all.map(|name| lives(&shell, name));
    let before = total();
    begin(&shell, "gone", "always", SHORT);
    waits("gone", 4);
    shell.sandbox.ok(&["rm", "-f", "gone"]);
    assert_eq!(shell.sandbox.run(&["inspect", "gone"]).code, 1);
    // A start meanwhile takes it over: there is one monitor.
    begin(&shell, "over", "on-failure:9", "test -e /up || { echo life; exit 1; }; while :; do sleep 0.05; done");
    // Its sixth wait is of seconds.
    waits("over", 6);
    shell.sandbox.ok(&["start", "over"]);
    std::thread::sleep(Duration::from_millis(2000));
    assert_eq!(total(), before);
    // Those before count no more.
    let over = usize::try_from(count(&shell, "over")).unwrap();
    assert!(over + 6 <= lives(&shell, "over"), "the row begins anew: {over}");
    shell.sandbox.ok(&["rm", "-f", "over"]);
    assert_eq!(shell.sandbox.ok(&["ps", "-aq"]).lines().count(), 4);
}

#[test]
fn a_monitor_that_was_taken_over_leaves_what_runs_alone() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let mounted = || shell.sandbox.mounts("tmpfs").iter().filter(|path| path.ends_with("memory")).count();
    shell.sandbox.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory"]);
    let script = "read n < /count || n=0; echo life; echo $((n+1)) > /count; [ $n -lt 4 ] || exec sleep 1000; exit 1";
    let options = ["run", "-d", "--name", "web", "--restart", "always", "-v", "memory:/m"];
    shell.sandbox.ok(&[&options[..], &["shell:1", "sh", "-c", script]].concat());
    // The pause is most of a second: somebody comes first. Who is slower finds that it runs.
    eventually("it waits", || {
        let lives = lives(&shell, "web");
        lives == 5 || (lives == 4 && shell.status("web") == "stopped")
    });
    shell.sandbox.ok(&["start", "web"]);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!((shell.status("web").as_str(), mounted()), ("running", 1));
    shell.sandbox.ok(&["stop", "-t", "0", "web"]);
    assert_eq!(mounted(), 0);
}

#[test]
fn a_policy_may_change_while_it_runs() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    begin(&shell, "web", "no", FOREVER);
    shell.sandbox.ok(&["update", "--restart", "always", "web"]);
    assert_eq!(inspect(&shell, "web")["HostConfig"]["RestartPolicy"]["Name"], json!("always"));
    shell.sandbox.ok(&["exec", "web", "touch", "/fail"]);
    eventually("it was started again", || lives(&shell, "web") == 2 && shell.status("web") == "running");
    shell.sandbox.ok(&["update", "--restart", "no", "web"]);
    shell.sandbox.ok(&["exec", "web", "touch", "/fail"]);
    assert_eq!(shell.sandbox.ok(&["wait", "web"]), "9\n");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(shell.status("web"), "stopped");
    assert!(
        shell.sandbox.run(&["update", "--restart", "sometimes", "web"]).stderr.contains("not a valid restart policy")
    );
}

#[test]
fn what_it_joins_may_be_down_for_a_while() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    shell.sandbox.ok(&["run", "-d", "--name", "db", "shell:1", "sh", "-c", FOREVER]);
    let options = ["run", "-d", "--name", "web", "--pid", "container:db", "--restart", "always"];
    shell.sandbox.ok(&[&options[..], &["shell:1", "sh", "-c", FOREVER]].concat());
    shell.sandbox.ok(&["kill", "db"]);
    // Its process went with the other's, and each life that cannot begin counts.
    eventually("it was tried again", || count(&shell, "web") >= 2 && shell.status("web") == "stopped");
    shell.sandbox.ok(&["start", "db"]);
    eventually("it runs again", || shell.status("web") == "running");
    shell.sandbox.ok(&["stop", "web"]);
}

#[test]
fn who_has_started_it_in_the_foreground_is_told_of_the_first_end() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "echo life; read line < /count || line=0; echo $((line+1)) > /count; exit 5";
    let run = shell.sandbox.run(&["run", "--name", "web", "--restart", "on-failure:2", "shell:1", "sh", "-c", script]);
    assert_eq!((run.code, run.stdout.as_str()), (5, "life\n"), "{}", run.stderr);
    eventually("it has had all its lives", || lives(&shell, "web") == 3);
    // With --rm it goes after the last. The second waits to be seen.
    let script = "read n < /count || n=0; echo $((n+1)) > /count; echo life; [ $n -ne 1 ] || while [ ! -e /go ]; do sleep 0.05; done; exit 3";
    let options = ["run", "-d", "--rm", "--name", "rm", "--restart", "on-failure:2", "shell:1", "sh", "-c", script];
    shell.sandbox.ok(&options);
    eventually("it has its second life", || lives(&shell, "rm") == 2);
    assert_eq!(shell.sandbox.ok(&["ps", "-aq", "--filter", "name=rm"]).lines().count(), 1, "it does not go between");
    shell.sandbox.ok(&["exec", "rm", "touch", "/go"]);
    eventually("it has gone", || shell.sandbox.ok(&["ps", "-aq", "--filter", "name=rm"]).is_empty());
    let events = ["events", "--stream=false", "--filter", "container=rm", "--format", "{{.Status}}"];
    let events = shell.sandbox.ok(&events);
    assert_eq!(events.lines().filter(|event| *event == "start").count(), 3, "{events}");
}

#[test]
fn after_a_boot_those_are_started_that_should_be() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for (name, policy) in [
        ("always", "always"),
        ("unless", "unless-stopped"),
        ("stopped", "unless-stopped"),
        ("failure", "on-failure:3"),
        ("no", "no"),
    ] {
        shell.sandbox.ok(&["create", "--name", name, "--restart", policy, "shell:1", "sh", "-c", FOREVER]);
    }
    for name in ["always", "stopped"] {
        shell.sandbox.ok(&["start", name]);
        eventually("it hears signals", || lives(&shell, name) == 1);
        shell.sandbox.ok(&["stop", name]);
    }
    // One that had no policy yet when it was stopped.
    shell.sandbox.ok(&["run", "-d", "--name", "late", "shell:1", "sh", "-c", FOREVER]);
    shell.sandbox.ok(&["stop", "-t", "0", "late"]);
    shell.sandbox.ok(&["update", "--restart", "unless-stopped", "late"]);
    let fit = |filter: &str| {
        let names = shell.sandbox.ok(&["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]);
        let mut names: Vec<_> = names.lines().map(str::to_owned).collect();
        names.sort_unstable();
        names.join(" ")
    };
    assert_eq!(fit("should-start-on-boot=true"), "always unless");
    assert_eq!(fit("restart-policy=unless-stopped"), "late stopped unless");
    assert_eq!(fit("restart-policy=on-failure"), "failure");
    assert_eq!(shell.sandbox.run(&["ps", "--filter", "restart-policy=sometimes"]).code, 1);
    shell.sandbox.ok(&["start", "--all", "--filter", "should-start-on-boot=true"]);
    let running = || fit("status=running");
    assert_eq!(running(), "always unless");
    // What runs already is no error.
    shell.sandbox.ok(&["start", "--all", "--filter", "restart-policy=always"]);
    assert_eq!(running(), "always unless");
}

#[test]
fn a_monitor_that_is_asked_to_end_stops_its_container_and_starts_it_no_more() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    begin(&shell, "web", "unless-stopped", FOREVER);
    eventually("it hears signals", || lives(&shell, "web") == 1);
    kill_process(Pid::from_raw(monitor(&shell, "web")).unwrap(), Signal::TERM).unwrap();
    assert_eq!(shell.sandbox.ok(&["wait", "web"]), "0\n");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(shell.status("web"), "stopped");
    let filter = ["ps", "-aq", "--filter", "should-start-on-boot=true"];
    assert_eq!(shell.sandbox.ok(&filter).lines().count(), 1, "nobody has stopped it");
}

#[test]
fn a_monitor_that_is_asked_to_end_starts_no_sick_container_again() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "trap 'echo ending; while [ ! -e /go ]; do sleep 0.05; done; exit 0' TERM; echo life; while :; do sleep 0.05; done";
    let options = ["run", "-d", "--name", "web", "--health-cmd", "test ! -e /sick", "--health-interval", "50ms"];
    let action = ["--health-retries", "1", "--health-on-failure", "restart", "--stop-timeout", "1000"];
    shell.sandbox.ok(&[&options[..], &action, &["shell:1", "sh", "-c", script]].concat());
    eventually("it hears signals", || lives(&shell, "web") == 1);
    let monitor = Pid::from_raw(monitor(&shell, "web")).unwrap();
    shell.sandbox.ok(&["exec", "web", "touch", "/sick"]);
    eventually("it is asked to end", || shell.sandbox.ok(&["logs", "web"]).contains("ending"));
    kill_process(monitor, Signal::TERM).unwrap();
    shell.sandbox.ok(&["exec", "web", "touch", "/go"]);
    assert_eq!(shell.sandbox.ok(&["wait", "web"]), "0\n");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!((shell.status("web").as_str(), lives(&shell, "web")), ("stopped", 1));
}

#[test]
fn a_container_has_its_own_time_to_end() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let deaf = ["shell:1", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"];
    let stop = |name: &str, create: &[&str], options: &[&str]| {
        shell.sandbox.ok(&[&["run", "-d", "--name", name], create, &deaf].concat());
        eventually("it is up", || shell.sandbox.ok(&["logs", name]) == "up\n");
        shell.sandbox.run(&[&["stop"], options, &[name]].concat())
    };
    // After how long it was killed is said.
    let is_killed_after = |ran: Output, seconds: &str| {
        assert!(ran.code == 0 && ran.stderr.split_whitespace().any(|word| word == seconds), "{ran:?}");
    };
    is_killed_after(stop("own", &["--stop-timeout", "1"], &[]), "seconds=1");
    is_killed_after(stop("asked", &["--stop-timeout", "1000"], &["--time", "0"]), "seconds=0");
    let timeout = |name: &str| inspect(&shell, name)["Config"]["StopTimeout"].clone();
    assert_eq!((timeout("own"), timeout("asked")), (json!(1), json!(1000)));
    shell.sandbox.ok(&["create", "--name", "plain", "shell:1"]);
    assert_eq!(timeout("plain"), json!(10));
    shell.sandbox.ok(&["start", "own"]);
    eventually("it is up again", || shell.sandbox.ok(&["logs", "own"]) == "up\nup\n");
    is_killed_after(shell.sandbox.run(&["restart", "own"]), "seconds=1");
    let refused = shell.sandbox.run(&["create", "--stop-timeout", "soon", "shell:1"]);
    assert_eq!(refused.code, 125);
}

#[test]
fn policies_that_are_none_are_refused() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for (options, said) in [
        (&["--restart", "sometimes"][..], "not a valid restart policy"),
        (&["--restart", "on-failure:x"], "not a valid restart policy"),
        (&["--restart", "always:3"], "not a valid restart policy"),
        (&["--rm", "--restart", "always"], "the --rm option conflicts with --restart"),
        (&["--rm", "--restart", "unless-stopped"], "the --rm option conflicts with --restart"),
    ] {
        let refused = shell.sandbox.run(&[&["create"], options, &["shell:1"]].concat());
        assert_eq!(refused.code, 125, "{options:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{options:?}: {}", refused.stderr);
    }
    assert_eq!(shell.sandbox.ok(&["ps", "-aq"]), "");
}
