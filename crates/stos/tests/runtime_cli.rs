// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rest of runc's command line: global options, the log that engines read, descriptors, lists, documents.

mod runtime_scene;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use runtime_scene::{Runtime, output};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::shell::through_shell;
use stos_testkit::{environment, require};

/// What go-runc's `getLastRuntimeError` gives: the message of the last line of level "error".
fn last_error(log: &str) -> Option<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = lines.filter(|line| line["level"] == "error" && line["time"].is_string());
    errors.next_back().and_then(|line| line["msg"].as_str().map(str::to_owned))
}

#[test]
fn errors_are_in_the_log_that_engines_read() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        // It has words of its own, by which engines know it.
        return;
    }
    let log = runtime.path("log.json");
    let with_log = |arguments: &[&str]| {
        output(runtime.command().arg("--log").arg(&log).args(["--log-format", "json"]).args(arguments))
    };
    let refused = with_log(&["state", "no-such-container"]);
    assert_eq!(refused.code, 1);
    let said = last_error(&fs::read_to_string(&log).unwrap()).expect("an error in the log");
    assert!(said.contains("does not exist"), "{said}");
    let bundle = runtime.bundle(&["no-such-command"]);
    let dir = bundle.dir.to_str().unwrap();
    assert_ne!(with_log(&["run", "--bundle", dir, &runtime.id("log")]).code, 0);
    let said = last_error(&fs::read_to_string(&log).unwrap()).unwrap();
    assert!(said.contains("no-such-command") && said.contains("executable file not found in $PATH"), "{said}");
    assert_ne!(with_log(&["state", "--no-such-option", "x"]).code, 0);
    if runtime.is_ours() {
        let said = last_error(&fs::read_to_string(&log).unwrap()).unwrap();
        assert!(said.contains("--no-such-option"), "{said}");
    }
    // What is refused before the command begins is in it too, and not an older error.
    for (arguments, named) in [
        (&["--rootless", "true", "state", "x"][..], "--rootless"),
        (&["--systemd-cgroup", "create", "--bundle", dir, "x"], "--systemd-cgroup"),
        (&["create", "--rm", "--bundle", dir, "x"], "--rm"),
    ] {
        if runtime.is_ours() {
            fs::remove_file(&log).unwrap();
            assert_eq!(with_log(arguments).code, 1);
            let said = last_error(&fs::read_to_string(&log).unwrap()).unwrap();
            assert!(said.contains(named), "{said}");
        }
    }
    // Text is for people: any form will do that names what has failed.
    let text = runtime.path("log.text");
    output(runtime.command().arg("--log").arg(&text).args(["--debug", "state", "no-such-container"]));
    assert!(fs::read_to_string(&text).unwrap().contains("does not exist"));
}

/// An engine may call it by its own name (`ctr run --runc-binary stos`).
#[test]
fn errors_are_in_the_log_by_whatever_name_it_is_called() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        return;
    }
    let log = runtime.path("log.json");
    for (arguments, named) in [
        (&["create", "--bundle", "/no/such", "x"][..], "/no/such"),
        (&["exec", "--no-such-option", "x"], "--no-such-option"),
        (&["--systemd-cgroup", "run", "--bundle", ".", "x"], "--systemd-cgroup"),
        (&["state", "no-such-container"], "no-such-container"),
    ] {
        let mut stos = Command::new(environment::stos());
        stos.arg("--root").arg(runtime.root()).arg("--data-root").arg(runtime.path("data"));
        assert_ne!(output(stos.arg("--log").arg(&log).args(["--log-format", "json"]).args(arguments)).code, 0);
        let said = last_error(&fs::read_to_string(&log).unwrap()).expect("an error in the log");
        assert!(said.contains(named), "{said}");
        fs::remove_file(&log).unwrap();
    }
}

/// Root's rights are missed before anything is begun: that is in the log too, where the user may write it.
#[test]
fn who_is_not_root_reads_it_in_the_log() {
    require!(Need::Root, Need::Binary, Need::Tool("setpriv"));
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // Others run without root's rights.
        return;
    }
    // A place that anybody may reach.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let program = dir.path().join("runc");
    runtime_scene::copy_program(environment::stos(), &program);
    for path in [dir.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let log = dir.path().join("log.json");
    let mut refused = Command::new("setpriv");
    refused.args(["--reuid", "65534", "--clear-groups", "--"]).arg(&program).arg("--log").arg(&log);
    assert_eq!(output(refused.args(["--log-format", "json", "state", "x"])).code, 1);
    let said = last_error(&fs::read_to_string(&log).unwrap()).expect("an error in the log");
    assert!(said.contains("must run as root"), "{said}");
}

#[test]
fn global_options_are_taken_or_refused() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["echo", "ran"]);
    for options in [&["--rootless", "auto"][..], &["--rootless=false"], &["--criu", "/no/such/criu"]] {
        if !runtime.is_ours() && options[0] == "--criu" {
            continue;
        }
        let ran =
            output(runtime.command().args(options).arg("run").arg("--bundle").arg(&bundle.dir).arg(runtime.id("g")));
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "ran\n"), "{options:?}: {}", ran.stderr);
    }
    if runtime.is_ours() {
        for options in [&["--systemd-cgroup"][..], &["--rootless", "true"]] {
            if options[0] == "--systemd-cgroup" && std::path::Path::new("/run/systemd/system").is_dir() {
                continue;
            }
            let ran = output(runtime.command().args(options).arg("run").arg("--bundle").arg(&bundle.dir).arg("x"));
            assert!(ran.code == 1 && ran.stderr.contains(options[0]), "{options:?}: {}", ran.stderr);
        }
    }
}

#[test]
fn run_keeps_a_container_by_asking_and_takes_runc_s_options() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        // 1.8 has fewer options.
        return;
    }
    let bundle = runtime.bundle(&["sh", "-c", "exit 3"]);
    let id = runtime.id("keep");
    let kept = output(runtime.command().args(["run", "--keep", "--bundle"]).arg(&bundle.dir).arg(&id));
    assert_eq!(kept.code, 3, "{}", kept.stderr);
    assert_eq!(runtime.status(&id), "stopped");
    runtime.ok(&["delete", &id]);
    let id = runtime.id("options");
    let ran =
        output(runtime.command().args(["run", "--no-subreaper", "--no-new-keyring", "-b"]).arg(&bundle.dir).arg(&id));
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    if runtime.is_ours() {
        let refused = runtime.create_with(&bundle, &runtime.id("pivot"), &["--no-pivot"]);
        assert!(refused.code == 1 && refused.stderr.contains("--no-pivot"), "{}", refused.stderr);
    }
}

/// Without a pid namespace what loses its parent becomes the runtime's, which must reap it.
#[test]
fn run_reaps_orphans_and_waits_for_its_own() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle =
        runtime.bundle(&["sh", "-c", "for n in 1 2 3; do (sh -c 'sleep 0.05; exit 9' &); done; sleep 0.4; exit 5"]);
    let own: Vec<_> = bundle.config()["linux"]["namespaces"].as_array().unwrap().clone();
    bundle.set("/linux/namespaces", own.into_iter().filter(|it| it["type"] != "pid").collect());
    assert_eq!(runtime.run_bundle(&bundle, "orphans").code, 5);
}

#[test]
fn sockets_and_further_descriptors_reach_the_container() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let script = "echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; cat <&3; cat <&4; ls /proc/self/fd";
    let bundle = runtime.bundle(&["sh", "-c", script]);
    let (one, two) = (runtime.path("one"), runtime.path("two"));
    fs::write(&one, "first\n").unwrap();
    fs::write(&two, "second\n").unwrap();
    let set = format!(
        "exec 3<{} 4<{} 5</; export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=web",
        one.display(),
        two.display()
    );
    let mut run = runtime.command();
    run.args(["run", "--preserve-fds", "1", "--bundle"]).arg(&bundle.dir).arg(runtime.id("listen"));
    let ran = output(&mut through_shell(&set, &run));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // runc passes no names.
    let names = if runtime.is_ours() { " web" } else { "" };
    // crun gives no pid before it is 1.9.
    let pid = if runtime.is_called("crun") { "" } else { " 1" };
    assert_eq!(
        ran.stdout.replace(" \n", "\n").replace("  ", " "),
        format!("1{pid}{names}\nfirst\nsecond\n0\n1\n2\n3\n4\n5\n")
    );
    // They are somebody else's.
    let mut run = runtime.command();
    run.args(["run", "--bundle"]).arg(&bundle.dir).arg(runtime.id("other"));
    let ran = output(&mut through_shell(&set.replace("$$", "1"), &run));
    let is_first = |line: &str| line == "first";
    assert!(runtime.is_called("crun") || !ran.stdout.lines().any(is_first), "{}", ran.stdout);
}

#[test]
fn lists_and_states_are_runc_s() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sleep", "1000"]);
    let id = runtime.started(&bundle, "list");
    let list: Value = serde_json::from_str(&runtime.ok(&["list", "--format", "json"])).unwrap();
    let line = &list.as_array().unwrap()[0];
    assert_eq!((&line["id"], &line["status"]), (&json!(id), &json!("running")));
    assert_eq!((&line["bundle"], &line["owner"]), (&json!(bundle.dir.canonicalize().unwrap()), &json!("root")));
    assert_eq!(line["pid"], runtime.state(&id)["pid"]);
    let table = runtime.ok(&["list"]);
    let header: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header[..4],
        ["NAME", "PID", "STATUS", "BUNDLE"].map(|word| if header[0] == "ID" && word == "NAME" { "ID" } else { word })
    );
    assert_eq!(runtime.ok(&["list", "-q"]).trim(), id);
    runtime.ok(&["kill", &id, "0"]);
    assert_eq!(runtime.status(&id), "running");
    if !runtime.is_called("crun") {
        assert_eq!(runtime.ok(&["list", "-q", "-f", "json"]).trim(), id);
        runtime.ok(&["exec", "--no-new-privs=true", "--tty=false", &id, "echo"]);
    }
    let version = runtime.ok(&["--version"]);
    assert!(version.contains(" version ") && version.lines().any(|line| line.starts_with("spec: 1.")), "{version}");
    if runtime.is_ours() {
        // runc has it where the processor has.
        let refused = runtime.run(&["update", "--l3-cache-schema", "L3:0=f", &id]);
        assert!(refused.code == 1 && refused.stderr.contains("--l3-cache-schema"), "{}", refused.stderr);
    }
    runtime.ok(&["kill", "--all", &id, "KILL"]);
    runtime.wait_for(&id, "stopped");
    runtime.ok(&["delete", "--force", &id]);
    runtime.ok(&["delete", "--force", &id]);
}

#[test]
fn a_configuration_to_begin_with_can_be_run() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["true"]);
    let dir = bundle.dir.to_str().unwrap();
    let in_place = runtime.run(&["spec", "--bundle", dir]);
    assert_ne!(in_place.code, 0, "what is there stays");
    assert_eq!(bundle.config()["hostname"], "runtime");
    fs::remove_file(bundle.dir.join("config.json")).unwrap();
    runtime.ok(&["spec", "--bundle", dir]);
    assert_eq!(bundle.config()["process"]["args"], json!(["sh"]));
    bundle.set("/process/terminal", json!(false)).set("/process/args", json!(["echo", "begun"]));
    let ran = runtime.run_bundle(&bundle, "spec");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "begun\n"), "{}", ran.stderr);
    fs::remove_file(bundle.dir.join("config.json")).unwrap();
    runtime.ok(&["spec", "--rootless", "--bundle", dir]);
    assert!(runtime.is_called("crun") || bundle.config()["linux"]["uidMappings"].is_array());
}

#[test]
fn features_are_told() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let features = runtime.run(&["features"]);
    if features.code != 0 && !runtime.is_ours() {
        // crun has them since 1.9.
        return;
    }
    let features: Value = serde_json::from_str(&features.stdout).unwrap();
    assert!(features["ociVersionMin"].as_str().unwrap().starts_with("1."));
    for (list, word) in [
        (&features["mountOptions"], "rbind"),
        (&features["linux"]["namespaces"], "mount"),
        (&features["linux"]["capabilities"], "CAP_SYS_ADMIN"),
    ] {
        assert!(list.as_array().unwrap().contains(&json!(word)), "{word}");
    }
    assert_eq!(features["linux"]["cgroup"]["v1"], true);
}

#[test]
fn checkpoints_are_refused() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let id = runtime.started(&runtime.bundle(&["sleep", "1000"]), "checkpoint");
    if runtime.is_ours() {
        for arguments in [&["checkpoint", "--leave-running", &id][..], &["restore", "-d", "--bundle", "x", "y"]] {
            let refused = runtime.run(arguments);
            assert!(refused.code == 1 && refused.stderr.contains("checkpointed"), "{}", refused.stderr);
        }
    }
    assert_eq!(runtime.status(&id), "running");
}
