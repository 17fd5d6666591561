// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Health checks of containers: what is checked, what is told of it, and that a check harms nobody.

mod sandbox;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::shell::{Shell, cgroups_of, eventually};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::image_builder::ImageBuilder;
use stos_testkit::require;

/// What runs until it is asked to end, and makes `/ready` when it hears that.
const FOREVER: [&str; 4] =
    ["shell:1", "sh", "-c", "trap 'exit 0' TERM; touch /ready 2> /dev/null; while :; do sleep 0.05; done"];

const FAST: [&str; 2] = ["--health-interval", "50ms"];

fn begin(shell: &Shell, name: &str, options: &[&str]) {
    shell.sandbox.ok(&[&["run", "-d", "--name", name], options, &FOREVER].concat());
}

fn inspect(shell: &Shell, name: &str) -> Value {
    shell.sandbox.json(&["inspect", name])[0].clone()
}

fn health(shell: &Shell, name: &str) -> Value {
    inspect(shell, name)["State"]["Health"].clone()
}

fn status(shell: &Shell, name: &str) -> String {
    health(shell, name)["Status"].as_str().unwrap_or_default().to_owned()
}

fn last(health: &Value) -> Value {
    health["Log"].as_array().and_then(|log| log.last()).cloned().unwrap_or_default()
}

#[test]
fn a_container_becomes_healthy_and_unhealthy_and_is_told_so() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "echo checked by $(id -u) in $PWD; test -e /up";
    begin(&shell, "web", &[&FAST[..], &["--health-cmd", script, "--health-retries", "2", "-w", "/srv"]].concat());
    eventually("it is unhealthy", || status(&shell, "web") == "unhealthy");
    let found = health(&shell, "web");
    assert!(found["FailingStreak"].as_u64().unwrap() >= 2, "{found}");
    assert_eq!((&last(&found)["ExitCode"], &last(&found)["Output"]), (&json!(1), &json!("checked by 0 in /srv\n")));
    let shown = |format: &str, filter: &str| shell.sandbox.ok(&["ps", "--format", format, "--filter", filter]);
    assert!(shown("{{.Status}}", "health=unhealthy").ends_with(" (unhealthy)\n"));
    shell.sandbox.ok(&["exec", "web", "touch", "/up"]);
    assert_eq!(shell.sandbox.ok(&["wait", "--condition=healthy", "web"]), "-1\n");
    eventually("five are kept", || health(&shell, "web")["Log"].as_array().unwrap().len() == 5);
    let found = health(&shell, "web");
    assert_eq!((&found["Status"], &found["FailingStreak"]), (&json!("healthy"), &json!(0)));
    assert!(shown("{{.Status}}", "health=healthy").contains("Up ") && shown("{{.Names}}", "health=none").is_empty());
    let of_config = inspect(&shell, "web")["Config"]["Healthcheck"].clone();
    let expected =
        json!({"Test": ["CMD-SHELL", script], "Interval": 50_000_000, "Timeout": 30_000_000_000_u64, "Retries": 2});
    assert_eq!(of_config, expected);
    let events =
        ["events", "--stream=false", "--filter", "event=health_status", "--format", "{{.Name}} {{.HealthStatus}}"];
    // A check is told of after it was noted.
    eventually("it is told", || shell.sandbox.ok(&events).lines().any(|event| event == "web healthy"));
    let events = shell.sandbox.ok(&events);
    let at = |line: &str| events.lines().position(|event| event == line).unwrap_or_else(|| panic!("{line}: {events}"));
    assert!(at("web starting") < at("web unhealthy") && at("web unhealthy") < at("web healthy"));
    shell.sandbox.ok(&["stop", "web"]);
    assert_eq!(status(&shell, "web"), "stopped");
    assert!(!shell.sandbox.ok(&["ps", "-a", "--format", "{{.Status}}"]).contains("healthy"));
    // Each start begins anew.
    shell.sandbox.ok(&["start", "web"]);
    eventually("it is healthy again", || status(&shell, "web") == "healthy");
}

#[test]
fn the_image_s_check_is_made_as_the_container_s_user_unless_it_is_told_otherwise() {
    require!(Need::Root, Need::Binary);
    let check = json!({"Test": ["CMD", "sh", "-c", "id -u; exit 3"], "Interval": 50_000_000, "Retries": 1});
    let shell = Shell::of(&ImageBuilder::new().user("user").set("/config/Healthcheck", check));
    begin(&shell, "own", &[]);
    eventually("it is unhealthy", || status(&shell, "own") == "unhealthy");
    let entry = last(&health(&shell, "own"));
    assert_eq!((&entry["ExitCode"], &entry["Output"]), (&json!(3), &json!("1000\n")));
    begin(&shell, "other", &["--health-cmd", "[\"true\", \"x\"]", "--health-retries", "7"]);
    let config = inspect(&shell, "other")["Config"]["Healthcheck"].clone();
    assert_eq!(config["Test"], json!(["CMD", "true", "x"]));
    assert_eq!((&config["Interval"], &config["Retries"]), (&json!(50_000_000), &json!(7)));
    for (name, options) in [("none", &["--no-healthcheck"][..]), ("word", &["--health-cmd", "none"])] {
        begin(&shell, name, options);
        let shown = inspect(&shell, name);
        assert_eq!(
            (&shown["State"]["Health"], &shown["Config"]["Healthcheck"]),
            (&Value::Null, &Value::Null),
            "{name}"
        );
    }
    assert_eq!(shell.sandbox.ok(&["ps", "-q", "--filter", "health=none"]).lines().count(), 2);
}

#[test]
fn somebody_may_ask_for_a_check_at_any_time() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let options = ["--health-cmd", "test -e /up", "--health-interval", "disable", "--health-retries", "2"];
    begin(&shell, "web", &options);
    let check = || shell.sandbox.run(&["healthcheck", "run", "web"]);
    assert_eq!(
        health(&shell, "web"),
        json!({"Status": "starting", "FailingStreak": 0, "Log": []}),
        "none is made by itself"
    );
    let failed = check();
    assert_eq!((failed.code, failed.stdout.as_str()), (1, "unhealthy\n"), "{}", failed.stderr);
    assert_eq!(status(&shell, "web"), "starting", "one failure does not decide it");
    let failed = check();
    assert_eq!((failed.code, failed.stdout.as_str(), status(&shell, "web").as_str()), (1, "unhealthy\n", "unhealthy"));
    shell.sandbox.ok(&["exec", "web", "touch", "/up"]);
    let passed = check();
    assert_eq!((passed.code, passed.stdout.as_str(), status(&shell, "web").as_str()), (0, "", "healthy"));
    // Frozen, it cannot be checked, and that is no failure of its.
    shell.sandbox.ok(&["pause", "web"]);
    assert_eq!(check().code, 125);
    shell.sandbox.ok(&["unpause", "web"]);
    assert_eq!((check().code, &health(&shell, "web")["FailingStreak"]), (0, &json!(0)));
    shell.sandbox.ok(&["stop", "web"]);
    let refused = check();
    assert!(refused.code == 125 && refused.stderr.contains("running"), "{}", refused.stderr);
    begin(&shell, "plain", &[]);
    let refused = shell.sandbox.run(&["healthcheck", "run", "plain"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("container plain has no defined healthcheck"), "{}", refused.stderr);
    assert!(shell.sandbox.run(&["wait", "--condition=healthy", "plain"]).stderr.contains("no defined healthcheck"));
    assert_eq!(shell.sandbox.run(&["healthcheck", "run", "nobody"]).code, 125);
}

#[test]
fn whatever_a_container_has_of_its_own_its_checks_have() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "cat /proc/self/uid_map; touch /x || echo read-only";
    let check = ["--health-cmd", script, "--health-interval", "disable"];
    let options = ["-t", "--read-only", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", "--pid", "host"];
    begin(&shell, "web", &[&check[..], &options].concat());
    assert_eq!(shell.sandbox.run(&["healthcheck", "run", "web"]).code, 0);
    let output = last(&health(&shell, "web"))["Output"].as_str().unwrap().to_owned();
    assert_eq!(output.split_whitespace().take(3).collect::<Vec<_>>(), ["0", "100000", "65536"]);
    assert!(output.ends_with("read-only\n"), "{output}");
    // With the host's processes a check does not go with the container's first one by itself.
    let hangs = ["--pid", "host", "--health-cmd", "sleep 76543", "--health-interval", "50ms"];
    begin(&shell, "hangs", &hangs);
    eventually("it is being checked", || shell.sandbox.ok(&["top", "hangs", "args"]).contains("sleep 76543"));
    shell.sandbox.ok(&["stop", "hangs"]);
    let id = inspect(&shell, "hangs")["id"].as_str().unwrap().to_owned();
    assert_eq!(cgroups_of(&id), Vec::<String>::new());
}

#[test]
fn a_check_that_hangs_is_killed_with_all_that_it_has_started() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    // One of them has lost its parent.
    let script = "(sleep 98765 &) ; echo begun; sleep 98765";
    let options = ["--health-cmd", script, "--health-interval", "disable", "--health-timeout", "300ms"];
    begin(&shell, "web", &options);
    // Its time may be over before it has begun.
    eventually("it hangs in its midst", || {
        let start = Instant::now();
        assert_eq!(shell.sandbox.run(&["healthcheck", "run", "web"]).code, 1);
        assert!(start.elapsed() < Duration::from_secs(60));
        let entry = last(&health(&shell, "web"));
        assert_eq!(entry["ExitCode"], json!(-1));
        entry["Output"] == json!("healthcheck command exceeded timeout of 300ms\nbegun\n")
    });
    let left = shell.sandbox.ok(&["top", "web", "args"]);
    assert!(!left.contains("98765"), "{left}");
    let id = inspect(&shell, "web")["id"].as_str().unwrap().to_owned();
    let below = cgroups_of("health-").into_iter().filter(|path| path.contains(&id)).collect::<Vec<_>>();
    assert_eq!(below, Vec::<String>::new());
}

#[test]
fn what_is_frozen_is_not_checked_and_a_check_that_is_frozen_goes_on_after_the_thaw() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let options = [&FAST[..], &["--health-cmd", "sleep 65432", "--health-timeout", "200ms"]].concat();
    begin(&shell, "web", &options);
    eventually("it is being checked", || shell.sandbox.ok(&["top", "web", "args"]).contains("sleep 65432"));
    shell.sandbox.ok(&["pause", "web"]);
    // One that was over just then may still be told, whenever that is; no other one.
    let look = |_| {
        std::thread::sleep(Duration::from_millis(100));
        last(&health(&shell, "web"))
    };
    let mut seen: Vec<_> = (0..15).map(look).collect();
    seen.dedup();
    assert!(seen.len() <= 2, "{seen:?}");
    let before = seen.pop().unwrap();
    shell.sandbox.ok(&["unpause", "web"]);
    eventually("checks go on", || last(&health(&shell, "web")) != before);
    assert_eq!(last(&health(&shell, "web"))["ExitCode"], json!(-1));
    shell.sandbox.ok(&["pause", "web"]);
    shell.sandbox.ok(&["stop", "-t", "0", "web"]);
    assert_eq!(shell.status("web"), "stopped");
}

#[test]
fn what_a_check_leaves_behind_becomes_the_container_s() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let script = "sleep 87654 > /dev/null 2>&1 & exit 0";
    begin(&shell, "web", &["--health-cmd", script, "--health-interval", "disable"]);
    assert_eq!(shell.sandbox.run(&["healthcheck", "run", "web"]).code, 0);
    assert!(shell.sandbox.ok(&["top", "web", "args"]).contains("87654"));
    let id = inspect(&shell, "web")["id"].as_str().unwrap().to_owned();
    shell.sandbox.ok(&["stop", "web"]);
    assert_eq!(cgroups_of(&id), Vec::<String>::new(), "it has gone with it");
}

#[test]
fn a_check_that_cannot_be_made_or_hangs_holds_nothing_up() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let missing = [&FAST[..], &["--health-cmd", "[\"/no/such\", \"x\"]", "--health-retries", "1"]].concat();
    begin(&shell, "missing", &missing);
    eventually("it is unhealthy", || status(&shell, "missing") == "unhealthy");
    let entry = last(&health(&shell, "missing"));
    assert_eq!(entry["ExitCode"], json!(127));
    assert!(entry["Output"].as_str().unwrap().contains("/no/such"), "{entry}");
    assert_eq!(shell.status("missing"), "running");
    // One that ends in the middle of a check is not held up by it, and its output goes on meanwhile.
    let script = "trap 'exit 7' TERM; while :; do echo on; sleep 0.05; done";
    let check = ["--health-cmd", "sleep 1000", "--health-timeout", "1h"];
    shell.sandbox.ok(&[&["run", "-d", "--name", "slow"], &check[..], &["shell:1", "sh", "-c", script]].concat());
    eventually("it is being checked", || shell.sandbox.ok(&["top", "slow", "args"]).contains("sleep 1000"));
    let before = shell.sandbox.ok(&["logs", "slow"]).len();
    eventually("it writes", || shell.sandbox.ok(&["logs", "slow"]).len() > before + 20);
    let start = Instant::now();
    shell.sandbox.ok(&["stop", "-t", "60", "slow"]);
    assert_eq!(shell.sandbox.ok(&["wait", "slow"]), "7\n");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(last(&health(&shell, "slow")), Value::Null, "a check that was cut short has found nothing");
}

#[test]
fn output_is_cut_and_failures_of_the_start_do_not_count() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let long = "i=0; while [ $i -lt 3000 ]; do printf 0123456789; i=$((i+1)); done; exit 1";
    let options = [&FAST[..], &["--health-cmd", long, "--health-retries", "1", "--health-start-period", "1h"]].concat();
    begin(&shell, "web", &options);
    eventually("it was checked", || last(&health(&shell, "web")) != Value::Null);
    let found = health(&shell, "web");
    assert_eq!((&found["Status"], &found["FailingStreak"]), (&json!("starting"), &json!(0)));
    assert_eq!(last(&found)["Output"].as_str().unwrap().len(), 500);
    assert!(shell.sandbox.ok(&["ps", "--format", "{{.Status}}"]).ends_with(" (starting)\n"));
}

#[test]
fn what_is_unhealthy_is_killed_stopped_or_restarted_where_that_is_asked_for() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let with = |action: &'static str| {
        [&FAST[..], &["--health-cmd", "test ! -e /ready", "--health-retries", "1", "--health-on-failure", action]]
            .concat()
    };
    // The restart policy does not undo it.
    begin(&shell, "kill", &[&with("kill")[..], &["--restart", "always"]].concat());
    assert_eq!(shell.sandbox.ok(&["wait", "kill"]), "137\n");
    begin(&shell, "stop", &[&with("stop")[..], &["--stop-timeout", "60"]].concat());
    assert_eq!(shell.sandbox.ok(&["wait", "stop"]), "0\n");
    // In later lives the file is there at once.
    begin(&shell, "again", &[&with("restart")[..], &["--stop-timeout", "1"]].concat());
    eventually("it was started again", || inspect(&shell, "again")["RestartCount"].as_u64() >= Some(2));
    shell.sandbox.ok(&["stop", "again"]);
    assert_eq!(shell.status("again"), "stopped");
    assert_eq!(shell.status("kill"), "stopped");
}

#[test]
fn where_no_check_is_made_by_itself_who_asks_for_one_does_what_follows() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for (action, status, code) in [("kill", "stopped", "137\n"), ("stop", "stopped", "0\n"), ("restart", "running", "")]
    {
        let check = ["--health-cmd", "test -e /up", "--health-interval", "disable", "--health-retries", "2"];
        let then = ["--health-on-failure", action, "--restart", "always", "--stop-timeout", "60"];
        let options = [&check[..], &then].concat();
        begin(&shell, action, &options);
        eventually("it hears signals", || shell.sandbox.run(&["exec", action, "test", "-e", "/ready"]).code == 0);
        let pid = || shell.sandbox.json(&["state", action])["pid"].clone();
        let first = pid();
        let check = || shell.sandbox.run(&["healthcheck", "run", action]);
        assert_eq!((check().code, pid()), (1, first.clone()), "one failure does not decide it");
        assert_eq!(check().code, 1);
        if !code.is_empty() {
            assert_eq!(shell.sandbox.ok(&["wait", action]), code);
        }
        assert_eq!(shell.status(action), status);
        assert_ne!(pid(), first);
    }
}

#[test]
fn nobody_is_called_healthy_whom_nobody_checks() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    begin(&shell, "web", &[&FAST[..], &["--health-cmd", "true"]].concat());
    eventually("it is healthy", || status(&shell, "web") == "healthy");
    let id = inspect(&shell, "web")["id"].as_str().unwrap().to_owned();
    let state = std::fs::read_to_string(shell.sandbox.root().join("containers").join(&id).join("state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    let monitor = i32::try_from(state["creator"]["pid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(monitor).unwrap(), Signal::KILL).unwrap();
    eventually("it is not known", || status(&shell, "web") == "unknown");
    assert_eq!(shell.sandbox.ok(&["ps", "-q", "--filter", "health=healthy"]), "");
    let waited = shell.sandbox.run(&["wait", "--condition=healthy", "web"]);
    assert!(waited.code == 125 && waited.stderr.contains("monitor"), "{}", waited.stderr);
    assert_eq!(shell.sandbox.run(&["healthcheck", "run", "web"]).code, 0, "who asks is answered");
}

#[test]
fn bad_options_are_refused_before_there_is_a_container() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    for (options, said) in [
        (&["--health-cmd", "true", "--health-interval", "soon"][..], "such as 30s"),
        (&["--health-cmd", "true", "--health-timeout", "0"], "greater than 0"),
        (&["--health-cmd", "true", "--health-start-period=-1s"], "such as 30s"),
        (&["--health-cmd", "true", "--health-retries", "0"], "greater than 0"),
        (&["--health-cmd", ""], "expected a command"),
        (&["--health-cmd", "[]"], "expected a command"),
        (&["--health-cmd", "true", "--no-healthcheck"], "--health-cmd"),
        (&["--health-on-failure", "kill"], "without a health check"),
        (&["--health-on-failure", "explode", "--health-cmd", "true"], "explode"),
        (&["--health-interval", "5s"], "there is no health check"),
    ] {
        let refused = shell.sandbox.run(&[&["create"], options, &["shell:1"]].concat());
        assert_eq!(refused.code, 125, "{options:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{options:?}: {}", refused.stderr);
    }
    assert_eq!(shell.sandbox.ok(&["ps", "-aq"]), "");
}
