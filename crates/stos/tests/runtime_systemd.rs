// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--systemd-cgroup`: what systemd is asked, and what is done with its answers. A stand-in speaks for it, on a bus of the test's own.

mod runtime_scene;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use runtime_scene::{Bundle, Output, Runtime, eventually, output};
use serde_json::json;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::require;

/// A manager that does what systemd does with a scope: a directory in its own hierarchy and in the v2 tree, and the process in it. What
/// it is asked it writes down.
const STAND_IN: &str = r#"
import os, sys, dbus, dbus.service, dbus.bus, dbus.mainloop.glib
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
log = open(sys.argv[1], 'a', buffering=1)
result = sys.argv[2]
roots = [p for p in ('/sys/fs/cgroup/systemd', '/sys/fs/cgroup/unified', '/sys/fs/cgroup') if os.path.exists(p + '/cgroup.procs')]
bus = dbus.bus.BusConnection(os.environ['DBUS_SYSTEM_BUS_ADDRESS'])
name = dbus.service.BusName('org.freedesktop.systemd1', bus)
M = 'org.freedesktop.systemd1.Manager'
class Manager(dbus.service.Object):
    job = 0
    def say(self, what, unit, properties=()):
        shown = ' '.join('%s=%s' % (k, list(map(int, v)) if isinstance(v, dbus.Array) else v) for k, v in properties)
        log.write('%s %s %s\n' % (what, unit, shown))
    def queue(self, unit, outcome):
        Manager.job += 1
        path = dbus.ObjectPath('/org/freedesktop/systemd1/job/%d' % Manager.job)
        GLib.idle_add(lambda: self.JobRemoved(dbus.UInt32(Manager.job), path, unit, outcome) and False)
        return path
    @dbus.service.method('org.freedesktop.DBus.Properties', in_signature='ss', out_signature='v')
    def Get(self, interface, name):
        return dbus.String('252.1-test', variant_level=1)
    @dbus.service.method(M, in_signature='ssa(sv)a(sa(sv))', out_signature='o')
    def StartTransientUnit(self, unit, mode, properties, aux):
        self.say('start', unit, properties)
        if result == 'done':
            asked = dict(properties)
            for root in roots:
                path = os.path.join(root, asked['Slice'], unit)
                os.makedirs(path, exist_ok=True)
                open(path + '/cgroup.procs', 'w').write(str(int(asked['PIDs'][0])))
        return self.queue(unit, result)
    @dbus.service.method(M, in_signature='sba(sv)')
    def SetUnitProperties(self, unit, runtime, properties):
        self.say('set', unit, properties)
    @dbus.service.method(M, in_signature='ss', out_signature='o')
    def StopUnit(self, unit, mode):
        self.say('stop', unit)
        return self.queue(unit, 'done')
    @dbus.service.method(M, in_signature='s')
    def ResetFailedUnit(self, unit):
        self.say('reset', unit)
    @dbus.service.signal(M, signature='uoss')
    def JobRemoved(self, number, job, unit, outcome):
        pass
Manager(bus, '/org/freedesktop/systemd1')
log.write('ready\n')
GLib.MainLoop().run()
"#;

struct Systemd {
    daemons: Vec<Child>,
    address: String,
    log: PathBuf,
}

impl Systemd {
    /// Starts the bus and the manager, whose jobs all end with `result`.
    fn start(runtime: &Runtime, result: &str) -> Self {
        let (socket, log) = (runtime.path("bus"), runtime.path("asked"));
        let address = format!("unix:path={}", socket.display());
        let bus = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--address", &address])
            .stderr(Stdio::null())
            .spawn();
        let mut systemd = Self { daemons: vec![bus.unwrap()], address, log };
        eventually(|| UnixStream::connect(&socket).is_ok());
        let stand_in = Command::new(environment::PYTHON)
            .args(["-c", STAND_IN])
            .arg(&systemd.log)
            .arg(result)
            .env("DBUS_SYSTEM_BUS_ADDRESS", &systemd.address)
            .spawn();
        systemd.daemons.push(stand_in.unwrap());
        eventually(|| systemd.asked().contains("ready"));
        systemd
    }

    fn asked(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The runtime where `/run/systemd/system` exists: in a mount namespace of its own.
    fn command(&self, runtime: &Runtime, arguments: &[&str]) -> Command {
        let inner = runtime.command();
        let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .arg("--systemd-cgroup")
            .args(arguments)
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.address)
            .env_remove("STOS_DATA_ROOT")
            .env_remove("STOS_ROOT")
            .stdin(Stdio::null());
        command
    }

    fn create(&self, runtime: &Runtime, bundle: &Bundle, id: &str) -> Output {
        let dir = bundle.dir.to_str().unwrap();
        runtime.detached(self.command(runtime, &["create", "--bundle", dir, id]), id)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            // Ours, and nothing of them is to stay.
            drop(daemon.kill());
            drop(daemon.wait());
        }
    }
}

/// The cgroups of a process, as `/proc` has them.
fn cgroups(pid: u64) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()
}

#[test]
fn a_scope_is_made_changed_and_stopped() {
    require!(Need::Root, Need::Binary, Need::Tool("dbus-daemon"), Need::PythonModule("dbus"), Need::PythonModule("gi"));
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // Where systemd is looked for is each runtime's own affair.
        return;
    }
    let systemd = Systemd::start(&runtime, "done");
    let bundle = runtime.bundle(&["sleep", "1000"]);
    let id = runtime.id("scope");
    let slice = format!("stostest{}.slice", std::process::id());
    bundle.set("/linux/cgroupsPath", format!("{slice}:stos:{id}").into());
    bundle.set("/linux/resources/pids", json!({"limit": 33}));
    let created = systemd.create(&runtime, &bundle, &id);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let pid = runtime.state(&id)["pid"].as_u64().unwrap();
    let unit = format!("stos-{id}.scope");
    let asked = systemd.asked();
    for expected in
        [&format!("start {unit} "), "Delegate=1", "TasksMax=33", &format!("Slice={slice}"), &format!("PIDs=[{pid}]")]
    {
        assert!(asked.contains(expected), "{expected}: {asked}");
    }
    let place = format!("/{slice}/{unit}");
    let own = cgroups(pid);
    assert!(own.lines().filter(|line| !line.contains("hugetlb")).all(|line| line.ends_with(&place)), "{own}");
    runtime.ok(&["start", &id]);
    // Later commands know by the record whose the cgroups are.
    let updated = output(&mut systemd.command(&runtime, &["update", "--pids-limit", "44", &id]));
    assert_eq!(updated.code, 0, "{}", updated.stderr);
    assert!(systemd.asked().contains(&format!("set {unit} TasksMax=44")), "{}", systemd.asked());
    runtime.ok(&["pause", &id]);
    runtime.ok(&["resume", &id]);
    let deleted = output(&mut systemd.command(&runtime, &["delete", "--force", &id]));
    assert_eq!(deleted.code, 0, "{}", deleted.stderr);
    assert!(systemd.asked().contains(&format!("stop {unit}")), "{}", systemd.asked());
    for hierarchy in stos_runtime::mounted_hierarchies().unwrap() {
        let left = hierarchy.mount_point.join(&slice);
        assert!(!left.join(&unit).exists(), "{}", left.display());
        // The slice is the machine's, which is the test here.
        drop(std::fs::remove_dir(left));
    }
}

#[test]
fn a_scope_that_cannot_be_had_leaves_nothing() {
    require!(Need::Root, Need::Binary, Need::Tool("dbus-daemon"), Need::PythonModule("dbus"), Need::PythonModule("gi"));
    let runtime = Runtime::new();
    if !runtime.is_ours() {
        // Where systemd is looked for is each runtime's own affair.
        return;
    }
    let bundle = runtime.bundle(&["true"]);
    let dir = bundle.dir.to_str().unwrap();
    if !std::path::Path::new("/run/systemd/system").exists() {
        // Before anything is made: systemd does not run this machine.
        let id = runtime.id("none");
        let refused = runtime.run(&["--systemd-cgroup", "create", "--bundle", dir, &id]);
        assert!(refused.code == 1 && refused.stderr.contains("/run/systemd/system"), "{}", refused.stderr);
        assert!(!runtime.root().join("containers").join(&id).exists());
    }
    let systemd = Systemd::start(&runtime, "failed");
    let id = runtime.id("failed");
    let failed = systemd.create(&runtime, &bundle, &id);
    assert!(failed.code == 1 && failed.stderr.contains("found \"failed\""), "{}", failed.stderr);
    assert!(systemd.asked().contains(&format!("stop stos-{id}.scope")), "{}", systemd.asked());
    assert_ne!(runtime.run(&["state", &id]).code, 0);
    bundle.set("/linux/cgroupsPath", "/a/path".into());
    let id = runtime.id("path");
    let refused = systemd.create(&runtime, &bundle, &id);
    assert!(refused.code == 1 && refused.stderr.contains("SLICE:PREFIX:NAME"), "{}", refused.stderr);
}
