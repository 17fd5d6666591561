// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Readiness (sd_notify(3)): a caller with NOTIFY_SOCKET hears of the container's, as runc's `notify_socket.go` has it.

mod runtime_scene;

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};

use runtime_scene::{Bundle, Runtime, eventually, output};
use serde_json::json;
use stos_testkit::guard::Need;
use stos_testkit::require;
use stos_testkit::service_manager::ServiceManager;

const SCRIPT: &str =
    "trap 'exit 6' USR1; echo $NOTIFY_SOCKET; test -w $NOTIFY_SOCKET && echo writable; while :; do sleep 0.05; done";

/// What the tests do with a service manager.
trait OfRuntime {
    /// A command of the runtime that the manager waits for.
    fn command(&self, runtime: &Runtime) -> Command;

    /// Hears that a container is ready, and reads on until whoever tells that may end.
    fn hears_of(&self, teller: &mut Child, pid: i64, runtime: &Runtime);
}

impl OfRuntime for ServiceManager {
    fn command(&self, runtime: &Runtime) -> Command {
        let mut command = runtime.command();
        command.env("NOTIFY_SOCKET", self.address());
        command
    }

    fn hears_of(&self, teller: &mut Child, pid: i64, runtime: &Runtime) {
        assert_eq!(self.hears(), "READY=1\n");
        assert_eq!(self.hears(), format!("MAINPID={pid}\n"));
        // runc has barriers since 1.1.
        if runtime.is_ours() {
            // It waits until this has been read, with the pipe that comes along.
            assert_eq!(teller.try_wait().unwrap(), None);
            assert_eq!(self.hears(), "BARRIER=1");
        }
    }
}

fn bundle(runtime: &Runtime) -> Bundle {
    let bundle = runtime.bundle(&["sh", "-c", SCRIPT]);
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    bundle
}

/// Says something as the container would. Its own way there is the mount, which this goes through.
fn say(runtime: &Runtime, id: &str, text: &str) {
    let pid = &runtime.state(id)["pid"];
    let path = format!("/proc/{pid}/root/run/notify/notify.sock");
    UnixDatagram::unbound().unwrap().send_to(text.as_bytes(), path).unwrap();
}

#[test]
fn the_start_waits_for_the_readiness_and_passes_it_on() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        // It hands the directory of the manager's own socket in.
        return;
    }
    let manager = ServiceManager::at(&runtime.path("manager"));
    let (bundle, id) = (bundle(&runtime), runtime.id("start"));
    let mut create = manager.command(&runtime);
    create.arg("create").arg("--bundle").arg(&bundle.dir).arg(&id);
    let created = runtime.detached(create, &id);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let mut start = manager.command(&runtime).args(["start", &id]).spawn().unwrap();
    eventually(|| runtime.said(&id) == "/run/notify/notify.sock\nwritable\n");
    say(&runtime, &id, "STATUS=soon");
    say(&runtime, &id, "READY=1\nSTATUS=up");
    manager.hears_of(&mut start, runtime.state(&id)["pid"].as_i64().unwrap(), &runtime);
    while !runtime.is_ours() && start.try_wait().unwrap().is_none() {
        // A barrier, maybe.
        manager.hears_nothing();
    }
    assert_eq!(start.wait().unwrap().code(), Some(0));
    assert!(manager.hears_nothing());
    assert_eq!(runtime.ok(&["exec", &id, "sh", "-c", "echo $NOTIFY_SOCKET"]), "\n", "it is none of its business");
}

#[test]
fn a_container_in_the_background_becomes_the_main_process() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        return;
    }
    let manager = ServiceManager::named(&format!("stos-test-{}", std::process::id()));
    let (bundle, id) = (bundle(&runtime), runtime.id("background"));
    let out = File::create(runtime.path(&format!("{id}.out"))).unwrap();
    let mut run = manager.command(&runtime);
    run.args(["run", "-d", "--bundle"]).arg(&bundle.dir).arg(&id).stdout(out);
    let mut run = run.spawn().unwrap();
    eventually(|| runtime.said(&id).contains("writable"));
    say(&runtime, &id, "READY=1");
    manager.hears_of(&mut run, runtime.state(&id)["pid"].as_i64().unwrap(), &runtime);
    while !runtime.is_ours() && run.try_wait().unwrap().is_none() {
        manager.hears_nothing();
    }
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(runtime.status(&id), "running");
}

#[test]
fn in_the_foreground_the_runtime_is_the_main_process() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        return;
    }
    let manager = ServiceManager::at(&runtime.path("manager"));
    let bundle = bundle(&runtime);
    let run = |id: &str| {
        let out = File::create(runtime.path(&format!("{id}.out"))).unwrap();
        let mut run = manager.command(&runtime);
        let run = run.args(["run", "--bundle"]).arg(&bundle.dir).arg(id).stdout(out).spawn().unwrap();
        eventually(|| runtime.said(id).contains("writable"));
        run
    };
    let interrupt = |run: &Child| {
        let pid = rustix::process::Pid::from_child(run);
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    };
    let id = runtime.id("foreground");
    let mut child = run(&id);
    say(&runtime, &id, "READY=1");
    let pid = i64::from(child.id());
    manager.hears_of(&mut child, pid, &runtime);
    interrupt(&child);
    while !runtime.is_ours() && child.try_wait().unwrap().is_none() {
        manager.hears_nothing();
    }
    assert_eq!(child.wait().unwrap().code(), Some(6));
    // runc passes no signal on before the container is ready, nor sees its end.
    if runtime.is_ours() {
        let mut child = run(&runtime.id("early"));
        interrupt(&child);
        assert_eq!(child.wait().unwrap().code(), Some(6));
        assert!(manager.hears_nothing());
    }
}

#[test]
fn nobody_waits_for_what_cannot_come() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if runtime.is_called("crun") {
        return;
    }
    let manager = ServiceManager::at(&runtime.path("manager"));
    // It ends, and has said nothing.
    let (bundle, id) = (runtime.bundle(&["sh", "-c", "echo $NOTIFY_SOCKET"]), runtime.id("silent"));
    let mut create = manager.command(&runtime);
    create.arg("create").arg("--bundle").arg(&bundle.dir).arg(&id);
    assert_eq!(runtime.detached(create, &id).code, 0);
    let started = output(manager.command(&runtime).args(["start", &id]));
    assert_eq!((started.code, manager.hears_nothing()), (0, true), "{}", started.stderr);
    eventually(|| runtime.said(&id) == "/run/notify/notify.sock\n");
    // Without a manager there is no socket.
    for variable in [None, Some("")] {
        let mut run = runtime.command();
        variable.map(|empty| run.env("NOTIFY_SOCKET", empty));
        let ran = output(run.args(["run", "--bundle"]).arg(&bundle.dir).arg(runtime.id("none")));
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "\n"), "{}", ran.stderr);
    }
    if runtime.is_ours() {
        // Created for nobody: who starts it has nothing to wait for. runc refuses to start it.
        bundle.set("/process/args", json!(["sleep", "1000"]));
        let id = runtime.id("unasked");
        assert_eq!(runtime.create(&bundle, &id).code, 0);
        assert_eq!(output(manager.command(&runtime).args(["start", &id])).code, 0);
        // A manager that is gone is no reason to end what runs.
        let id = runtime.id("gone");
        let mut create = runtime.command();
        create.env("NOTIFY_SOCKET", "/no/such/socket").arg("create").arg("--bundle").arg(&bundle.dir).arg(&id);
        assert_eq!(runtime.detached(create, &id).code, 0);
        let mut start = runtime.command();
        let mut start = start.env("NOTIFY_SOCKET", "/no/such/socket").args(["start", &id]).spawn().unwrap();
        runtime.wait_for(&id, "running");
        say(&runtime, &id, "READY=1");
        assert_eq!(start.wait().unwrap().code(), Some(0));
        assert_eq!(runtime.status(&id), "running");
    }
}

/// The path of a socket may have 108 bytes (unix(7)); an id alone may be longer.
#[test]
fn a_long_id_is_no_obstacle() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // runc binds by the path.
        return;
    }
    let manager = ServiceManager::at(&runtime.path("manager"));
    let (bundle, id) = (bundle(&runtime), runtime.id(&"long".repeat(25)));
    let mut child = manager.command(&runtime);
    let out = File::create(runtime.path(&format!("{id}.out"))).unwrap();
    let mut child = child.args(["run", "-d", "--bundle"]).arg(&bundle.dir).arg(&id).stdout(out).spawn().unwrap();
    eventually(|| runtime.said(&id).contains("writable"));
    say(&runtime, &id, "READY=1");
    manager.hears_of(&mut child, runtime.state(&id)["pid"].as_i64().unwrap(), &runtime);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(fs::exists(runtime.root().join("containers").join(&id).join("notify/notify.sock")).unwrap());
}
