// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hooks of all six kinds: when and where they run, what they are told, and what their failure means.

mod runtime_scene;

use std::fs;
use std::path::Path;

use runtime_scene::{Bundle, Runtime, eventually};
use serde_json::{Value, json};
use stos_testkit::guard::Need;
use stos_testkit::require;

/// A hook that runs a script with the shell.
fn shell(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["hook", "-c", script], "env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin", "KEY=value"]})
}

/// Has each hook of the host append its name and its mount namespace to a file, and keep the state that it is told.
fn record_all(runtime: &Runtime, bundle: &Bundle) {
    let dir = runtime.path("");
    let dir = dir.display();
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        let script = format!("echo {kind} $(readlink /proc/self/ns/mnt) >> {dir}/order; cat > {dir}/{kind}.json");
        bundle.push(&format!("/hooks/{kind}"), shell(&script));
    }
    // It sees the container's files.
    bundle
        .push("/hooks/startContainer", shell("echo $0 $KEY $(ls -l /proc/self/ns/mnt) > /started; cat > /state.json"));
}

fn kinds(runtime: &Runtime) -> Vec<String> {
    let order = fs::read_to_string(runtime.path("order")).unwrap_or_default();
    order.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn told(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn hooks_run_at_their_moments_in_their_namespaces() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "test -e /started && echo hooked; sleep 1000"]);
    bundle.set("/annotations", json!({"a.example/key": "value"}));
    record_all(&runtime, &bundle);
    let id = runtime.id("hooks");
    let created = runtime.create(&bundle, &id);
    assert_eq!(created.code, 0, "{}", created.stderr);
    // runc 1.1 runs poststart too early.
    let early = kinds(&runtime).into_iter().filter(|kind| runtime.is_ours() || kind != "poststart");
    assert_eq!(early.collect::<Vec<_>>(), ["prestart", "createRuntime", "createContainer"]);
    assert!(!bundle.rootfs("started").exists());
    let pid = runtime.state(&id)["pid"].clone();
    runtime.ok(&["start", &id]);
    eventually(|| runtime.said(&id) == "hooked\n");
    assert_eq!(kinds(&runtime).last().unwrap(), "poststart");
    runtime.ok(&["kill", &id, "KILL"]);
    runtime.wait_for(&id, "stopped");
    assert_eq!(kinds(&runtime).len(), 4);
    runtime.ok(&["delete", &id]);
    assert_eq!(kinds(&runtime).last().unwrap(), "poststop");
    let order = fs::read_to_string(runtime.path("order")).unwrap();
    let namespace = |kind: &str| {
        let line = order.lines().find(|line| line.starts_with(&format!("{kind} "))).unwrap();
        line.split(' ').nth(1).unwrap().to_owned()
    };
    let own = fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        assert_eq!(namespace(kind), own, "{kind}");
    }
    assert_ne!(namespace("createContainer"), own);
    let started = fs::read_to_string(bundle.rootfs("started")).unwrap();
    assert!(started.starts_with("hook value ") && started.trim().ends_with(&namespace("createContainer")), "{started}");
    let mut states = Vec::new();
    if !runtime.is_called("crun") {
        // Which has a status of its own.
        states.push((bundle.rootfs("state.json"), "created"));
    }
    for (kind, status) in [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ] {
        states.push((runtime.path(&format!("{kind}.json")), status));
    }
    for (path, status) in states {
        let state = told(&path);
        // crun has been through with the creation by then; runc runs those of poststart at any moment after it.
        let is_crun_s = runtime.is_called("crun") && (status, &state["status"]) == ("creating", &json!("created"));
        let is_any = !runtime.is_ours() && status == "running";
        assert!(state["status"] == status || is_crun_s || is_any, "{path:?}: {}", state["status"]);
        assert_eq!(
            (&state["id"], &state["bundle"]),
            (&json!(id), &json!(bundle.dir.canonicalize().unwrap())),
            "{path:?}"
        );
        assert_eq!(state["annotations"]["a.example/key"], "value", "{path:?}");
        let runs_in_container = path.starts_with(&bundle.dir) || path.ends_with("createContainer.json");
        match runs_in_container {
            // As it sees itself (runtime.md, "State").
            // crun tells that of createContainer none.
            true => assert!(state["pid"] == 1 || runtime.is_called("crun"), "{path:?}: {}", state["pid"]),
            false if status == "stopped" => {}
            false => assert_eq!(state["pid"], pid, "{path:?}"),
        }
    }
}

/// Engines' hooks mount what they have below the root's own path, in the container's mount namespace.
#[test]
fn a_hook_s_mount_below_the_root_is_the_container_s() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["cat", "/mnt/of-hook"]);
    fs::create_dir_all(bundle.rootfs("mnt")).unwrap();
    let mnt = bundle.rootfs("mnt");
    let mnt = mnt.display();
    bundle.push("/hooks/createContainer", shell(&format!("mount -t tmpfs hook {mnt} && echo seen > {mnt}/of-hook")));
    let ran = runtime.run_bundle(&bundle, "mounts");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "seen\n"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(bundle.rootfs("mnt")).unwrap().count(), 0, "the host has it too");
    if runtime.is_called("crun") {
        // Its process has no root yet when the hook enters.
        return;
    }
    // From the runtime's namespace by the process that is told.
    let bundle = runtime.bundle(&["cat", "/mnt/of-hook"]);
    fs::create_dir_all(bundle.rootfs("mnt")).unwrap();
    let mnt = bundle.rootfs("mnt");
    let mnt = mnt.display();
    let pid = r#"pid=$(sed 's/.*"pid": *\([0-9]*\).*/\1/')"#;
    let script = format!("{pid}; nsenter -t $pid -m sh -c 'mount -t tmpfs hook {mnt} && echo entered > {mnt}/of-hook'");
    bundle.push("/hooks/createRuntime", shell(&script));
    let ran = runtime.run_bundle(&bundle, "entered");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "entered\n"), "{}", ran.stderr);
}

#[test]
fn a_failed_hook_undoes_the_create() {
    require!(Need::Root, Need::Binary);
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let runtime = Runtime::new();
        let bundle = runtime.bundle(&["sh"]);
        let file = runtime.path("poststop");
        bundle.push(&format!("/hooks/{kind}"), shell("echo a reason >&2; exit 3"));
        bundle.push("/hooks/poststop", shell(&format!("touch {}", file.display())));
        let id = runtime.id(kind);
        let created = runtime.create(&bundle, &id);
        assert_ne!(created.code, 0, "{kind}");
        if runtime.is_ours() {
            let said = format!("hooks.{kind}[0] /bin/sh: exit code 3: a reason");
            assert!(created.stderr.contains(&said), "{}", created.stderr);
        }
        // crun runs none of them where the create has failed.
        assert!(file.exists() || runtime.is_called("crun"), "{kind}: what is destroyed has its hooks");
        assert_ne!(runtime.run(&["state", &id]).code, 0, "{kind}");
        // The id is free.
        bundle.set("/hooks", json!({}));
        assert_eq!(runtime.create(&bundle, &id).code, 0, "{kind}");
    }
}

#[test]
fn a_failed_hook_of_the_start_ends_the_container() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["touch", "/command-ran"]);
    bundle.push("/hooks/startContainer", shell("echo a reason; exit 4"));
    let id = runtime.id("start");
    assert_eq!(runtime.create(&bundle, &id).code, 0);
    let started = runtime.run(&["start", &id]);
    if runtime.is_ours() {
        // Others find out when nobody listens any more.
        assert_ne!(started.code, 0);
        assert!(
            started.stderr.contains("hooks.startContainer[0] /bin/sh: exit code 4: a reason"),
            "{}",
            started.stderr
        );
    }
    runtime.wait_for(&id, "stopped");
    assert!(!bundle.rootfs("command-ran").exists());
    runtime.ok(&["delete", &id]);
}

/// They are the image's programs.
#[test]
fn hooks_of_the_start_are_under_the_filter_and_the_limits() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    for no_new_privileges in [true, false] {
        let bundle = runtime.bundle(&["cat", "/of-hook"]);
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let denied = json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]);
        bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": denied}));
        let script = "exec >/of-hook; mkdir /made 2>/dev/null || echo denied; cat /proc/self/status";
        let mut hook = shell(script);
        hook["timeout"] = json!(600);
        bundle.push("/hooks/startContainer", hook);
        let ran = runtime.run_bundle(&bundle, "filtered");
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        // CAP_KILL, CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE.
        for line in ["denied", "CapEff:\t0000000020000420", "CapPrm:\t0000000020000420", "Seccomp:\t2"] {
            assert!(ran.stdout.lines().any(|said| said == line), "{line}: {}", ran.stdout);
        }
    }
    // No file may be larger than nothing, and neither the state nor what is said is one.
    let bundle = runtime.bundle(&["sh", "-c", ":"]);
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0}]));
    bundle.push("/hooks/startContainer", shell("test -n \"$(cat)\" && echo said"));
    let ran = runtime.run_bundle(&bundle, "limited");
    // crun writes its own state under the limit.
    assert!(ran.code == 0 || runtime.is_called("crun"), "{}", ran.stderr);
}

#[test]
fn what_fails_after_the_start_changes_nothing() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // runc 1.1 kills the container when poststart fails.
        return;
    }
    let bundle = runtime.bundle(&["sleep", "1000"]);
    let file = runtime.path("second");
    for kind in ["poststart", "poststop"] {
        bundle.push(&format!("/hooks/{kind}"), shell("exit 1"));
        bundle.push(&format!("/hooks/{kind}"), shell(&format!("echo {kind} >> {}", file.display())));
    }
    let id = runtime.started(&bundle, "after");
    assert_eq!(runtime.status(&id), "running");
    runtime.ok(&["delete", "--force", &id]);
    assert_eq!(fs::read_to_string(file).unwrap(), "poststart\npoststop\n");
}

#[test]
fn a_hook_that_takes_too_long_fails() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh"]);
    let mut hook = shell("exec sleep 1000");
    hook["timeout"] = json!(1);
    bundle.push("/hooks/createRuntime", hook);
    let id = runtime.id("slow");
    let created = runtime.create(&bundle, &id);
    assert_ne!(created.code, 0);
    if runtime.is_ours() {
        assert!(created.stderr.contains("did not end within 1 s"), "{}", created.stderr);
    }
    assert_ne!(runtime.run(&["state", &id]).code, 0);
}

#[test]
fn the_longest_timeout_is_no_timeout() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sh", "-c", "echo ran"]);
    // Beyond what a clock of nanoseconds can add: runc counts it as one that has passed, and crun in 32 bits.
    let timeout = match runtime.is_called("crun") {
        true => i64::from(i32::MAX),
        false if runtime.is_ours() => i64::MAX,
        false => 9_000_000_000,
    };
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        let mut hook = shell("exit 0");
        hook["timeout"] = json!(timeout);
        bundle.push(&format!("/hooks/{kind}"), hook);
    }
    let ran = runtime.run_bundle(&bundle, "patient");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "ran\n"), "{}", ran.stderr);
}

#[test]
fn hooks_that_cannot_be_are_refused() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    for (hook, said) in
        [(json!({"path": "bin/true"}), "hooks.prestart[0].path"), (json!({"path": "/no/such/hook"}), "/no/such/hook")]
    {
        let bundle = runtime.bundle(&["sh", "-c", ":"]);
        bundle.push("/hooks/prestart", hook);
        let created = runtime.create(&bundle, &runtime.id("refused"));
        assert_ne!(created.code, 0, "{said}");
        if runtime.is_ours() {
            assert!(created.stderr.contains(said), "{}", created.stderr);
        }
    }
}

/// Who stays in the foreground keeps signals for the container: a hook is its own program.
#[test]
fn hooks_of_a_container_in_the_foreground_hear_all_signals() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["echo"]);
    let masks = runtime.path("masks");
    for kind in ["createRuntime", "createContainer", "poststart", "poststop"] {
        bundle.push(&format!("/hooks/{kind}"), shell(&format!("grep SigBlk /proc/self/status >> {}", masks.display())));
    }
    let ran = runtime.run_bundle(&bundle, "signals");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(fs::read_to_string(&masks).unwrap(), "SigBlk:\t0000000000000000\n".repeat(4));
}
