// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a `config.json` may leave out, may say besides, and may say in other words.

mod runtime_scene;

use std::fs;

use runtime_scene::Runtime;
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::require;
use stos_testkit::shell::through_shell;

/// config.md, "Extensibility": newer engines say more than a runtime knows.
#[test]
fn keys_that_are_unknown_are_ignored_and_told_once() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sleep", "1000"]);
    let log = runtime.path("log");
    let pointers = [
        "/inventedLater",
        "/process/inventedLater",
        "/process/user/inventedLater",
        "/mounts/0/inventedLater",
        "/linux/inventedLater",
        "/linux/resources/memory/inventedLater",
        "/linux/seccomp/inventedLater",
    ];
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    for pointer in pointers {
        bundle.set(pointer, json!({"any": ["thing"]}));
    }
    let id = runtime.id("later");
    let mut create = runtime.command();
    create.arg("--log").arg(&log).args(["create", "--bundle"]).arg(&bundle.dir).arg(&id);
    let created = runtime.detached(create, &id);
    assert_eq!(created.code, 0, "{}", created.stderr);
    runtime.ok(&["start", &id]);
    runtime.ok(&["exec", &id, "sh", "-c", ":"]);
    if !runtime.is_ours() {
        return;
    }
    let log = fs::read_to_string(log).unwrap();
    for pointer in pointers {
        let key = pointer.trim_start_matches('/').replace('/', ".").replace("mounts.0", "mounts[0]");
        let told = log.lines().filter(|line| line.ends_with(&format!("={key}"))).count();
        assert_eq!(told, 1, "{key}: {log}");
    }
    let again = runtime.run(&["exec", &id, "sh", "-c", ":"]);
    assert_eq!((again.code, again.stderr.as_str()), (0, ""), "create has told them");
}

/// The schema demands `cwd` and `args` alone.
#[test]
fn a_process_without_user_is_root_s() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "id -u; id -g; sleep 1000"]);
    let mut config = bundle.config();
    config["process"].as_object_mut().unwrap().remove("user");
    fs::write(bundle.dir.join("config.json"), config.to_string()).unwrap();
    let id = runtime.started(&bundle, "nobody");
    runtime_scene::eventually(|| runtime.said(&id) == "0\n0\n");
    let file = runtime.path("process.json");
    let exec = |process: &Value| {
        fs::write(&file, process.to_string()).unwrap();
        runtime.run(&["exec", "--process", file.to_str().unwrap(), &id])
    };
    let process = json!({"args": ["id", "-u"], "cwd": "/", "env": ["PATH=/bin:/usr/bin"]});
    let ran = exec(&process);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "0\n"), "{}", ran.stderr);
    if !runtime.is_ours() {
        return;
    }
    for (key, value) in [("user", json!([])), ("cwd", json!("tmp")), ("cwd", json!(7))] {
        let mut process = process.clone();
        process[key] = value;
        let refused = exec(&process);
        assert_ne!(refused.code, 0, "{process}");
        let said = &refused.stderr;
        assert!(said.contains("process.json: ") && !said.contains("config.json"), "{said}");
    }
}

/// What is before a `..` need not be there.
#[test]
fn destinations_are_cleaned() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let script = "test -e /missing && echo made; test -d /gone && echo made; cat /file; stat -c %F /dev/extra";
    let bundle = runtime.bundle(&["sh", "-c", script]);
    let volume = runtime.path("volume");
    fs::write(&volume, "in place\n").unwrap();
    bundle.push(
        "/mounts",
        json!({"destination": "/missing/../file", "type": "bind", "source": volume, "options": ["bind"]}),
    );
    bundle.push("/linux/devices", json!({"path": "/gone/../dev/./extra", "type": "c", "major": 1, "minor": 3}));
    let ran = runtime.run_bundle(&bundle, "cleaned");
    // crun makes what is before the `..`.
    let is_there = ran.stdout.ends_with("in place\ncharacter special file\n");
    assert!(ran.code == 0 && is_there, "{}{}", ran.stdout, ran.stderr);
    assert!(!ran.stdout.contains("made") || runtime.is_called("crun"), "{}", ran.stdout);
}

/// A descriptor for each would not fit below the limit that the caller has; the container's own is as the caller's.
#[test]
fn there_may_be_many_mounts() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        // It has as many as the caller's soft limit allows.
        return;
    }
    let script = "ulimit -S -n; ulimit -H -n; n=0; while read a b c d e f; do test $e = /m && n=$((n + 1)); done < /proc/self/mountinfo; echo $n";
    let bundle = runtime.bundle(&["sh", "-c", script]);
    let volume = runtime.path("volume");
    fs::create_dir(&volume).unwrap();
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", format!("ulimit -S -n >> {}/limits", volume.display())]});
    for users in [false, true] {
        let mut config = bundle.config();
        let mounts = config["mounts"].as_array_mut().unwrap();
        if users {
            let range = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            config["linux"]["uidMappings"] = range.clone();
            config["linux"]["gidMappings"] = range;
            config["hooks"] = json!({"createRuntime": [hook.clone()], "createContainer": [hook.clone()]});
        } else {
            let mount = json!({"destination": "/m", "type": "bind", "source": volume, "options": ["bind"]});
            mounts.extend(std::iter::repeat_n(mount, 300));
        }
        fs::write(bundle.dir.join("config.json"), config.to_string()).unwrap();
        let mut run = runtime.command();
        run.args(["run", "--bundle"]).arg(&bundle.dir).arg(runtime.id("many"));
        let ran = runtime_scene::output(&mut through_shell("ulimit -S -n 200 && ulimit -H -n 4096", &run));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let said: Vec<_> = ran.stdout.lines().collect();
        // runc 1.1 leaves the container the higher limit that Go gives to itself.
        assert!(!runtime.is_ours() || said[0] == "200", "{}", ran.stdout);
        assert_eq!(said[1..], ["4096", "300"]);
    }
    let of_hooks = fs::read_to_string(volume.join("limits")).unwrap();
    assert!(!runtime.is_ours() || of_hooks == "200\n200\n", "{of_hooks}");
}

/// Engines know capabilities that a runtime of last year does not.
#[test]
fn unknown_capabilities_are_left_out() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["cat", "/proc/self/status"]);
    for set in ["bounding", "effective", "permitted"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!(["CAP_KILL", "CAP_OF_TOMORROW"]));
    }
    bundle.set("/process/capabilities/ambient", json!([])).set("/process/capabilities/inheritable", json!([]));
    let ran = runtime.run_bundle(&bundle, "capability");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("CapBnd:\t0000000000000020\n"), "{}", ran.stdout);
    assert!(!runtime.is_ours() || ran.stderr.matches("CAP_OF_TOMORROW").count() == 1, "{}", ran.stderr);
}

#[test]
fn values_of_another_type_are_told_with_their_key() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    for (pointer, value, key) in [
        ("/process/env", json!(["A=b", "FOO"]), "process.env"),
        ("/process/env", json!(["=b"]), "process.env"),
        ("/process/user/uid", json!(-1), "process.user.uid"),
        ("/linux/resources/pids/limit", json!("many"), "linux.resources.pids.limit"),
        ("/mounts/0/options", json!("ro"), "mounts[0].options"),
    ] {
        let bundle = runtime.bundle(&["true"]);
        bundle.set(pointer, value);
        let ran = runtime.run_bundle(&bundle, "type");
        // crun hands the environment on as it is.
        assert!(ran.code != 0 || (runtime.is_called("crun") && key == "process.env"), "{pointer}");
        assert!(!runtime.is_ours() || ran.stderr.contains(&format!("config.json: {key}: ")), "{}", ran.stderr);
    }
    if runtime.is_ours() {
        let id = runtime.started(&runtime.bundle(&["sleep", "1000"]), "type");
        let updated = runtime.run_with_input(&["update", "--resources", "-", &id], r#"{"cpu": {"shares": "x"}}"#);
        assert!(updated.code != 0 && updated.stderr.contains("linux.resources.cpu.shares: "), "{}", updated.stderr);
    }
}
