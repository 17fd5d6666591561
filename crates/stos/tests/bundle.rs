// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bundles made by `crun spec` and `runc spec`, through the command line: runc's habits, and DATA-ROOT never opened.

mod sandbox;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sandbox::{Output, Sandbox, output, tool};
use serde_json::{Value, json};
use stos_testkit::environment;
use stos_testkit::guard::Need;
use stos_testkit::rootfs;

/// A bundle as `MAKER spec` writes it, with this machine's shell as its root.
struct Bundle {
    sandbox: Sandbox,
    dir: PathBuf,
}

impl Bundle {
    fn new(maker: &str, args: &[&str]) -> Self {
        let sandbox = Sandbox::new();
        let dir = sandbox.path("bundle");
        fs::create_dir_all(dir.join("rootfs")).unwrap();
        fs::write(dir.join("root.tar"), rootfs::host_shell().unwrap()).unwrap();
        let (archive, root) = (dir.join("root.tar"), dir.join("rootfs"));
        tool("tar", &["-xf".as_ref(), archive.as_os_str(), "-C".as_ref(), root.as_os_str()]);
        let made = output(Command::new(environment::tool(maker).unwrap()).arg("spec").current_dir(&dir));
        assert_eq!(made.code, 0, "{maker}: {}", made.stderr);
        let bundle = Self { sandbox, dir };
        bundle.set("/process/terminal", json!(false));
        bundle.set("/process/args", json!(args));
        bundle
    }

    /// Changes one value of config.json; its parent must be there.
    fn set(&self, pointer: &str, value: Value) {
        let path = self.dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        fs::write(path, config.to_string()).unwrap();
    }

    fn create(&self, id: &str) -> Output {
        let mut create = self.sandbox.command();
        create.args(["create", "--bundle"]).arg(&self.dir).arg(id);
        // Its streams go to the container, which outlives it: nobody may wait for their end here.
        let log = fs::File::options().create(true).append(true).open(self.sandbox.path("output")).unwrap();
        let errors = self.sandbox.path("errors");
        create.stdout(log).stderr(fs::File::create(&errors).unwrap()).stdin(Stdio::null());
        let status = create.status().unwrap();
        Output { code: status.code().unwrap_or(-1), stdout: String::new(), stderr: fs::read_to_string(errors).unwrap() }
    }

    fn status(&self, id: &str) -> String {
        self.sandbox.json(&["state", id])["status"].as_str().unwrap().to_owned()
    }

    fn output(&self) -> String {
        fs::read_to_string(self.sandbox.path("output")).unwrap_or_default()
    }

    /// What bundle mode leaves in ROOT, without the list of deleted ids.
    fn left(&self) -> Vec<String> {
        let names = |dir: &str| fs::read_dir(self.sandbox.root().join(dir)).map(|entries| entries.count()).unwrap_or(0);
        ["containers", "staging"].into_iter().filter(|dir| names(dir) > 0).map(str::to_owned).collect()
    }
}

/// An id that no other test has: ids name cgroups, which all tests share.
fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

fn wait_until_stopped(bundle: &Bundle, id: &str) {
    let start = std::time::Instant::now();
    while bundle.status(id) != "stopped" {
        assert!(start.elapsed().as_secs() < 60, "{id} does not end");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn a_life(maker: &str) {
    let bundle = Bundle::new(maker, &["sh", "-c", "echo in the bundle; hostname; touch /x || echo read-only"]);
    let sandbox = &bundle.sandbox;
    let id = unique(maker);
    let id = id.as_str();
    let created = bundle.create(id);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let state = sandbox.json(&["state", id]);
    assert_eq!((&state["status"], &state["id"]), (&json!("created"), &json!(id)));
    assert!(state["pid"].as_i64().unwrap() > 0);
    assert_eq!(bundle.output(), "", "nothing runs before the start");
    assert_ne!(bundle.create(id).code, 0, "the id is taken");
    sandbox.ok(&["start", id]);
    wait_until_stopped(&bundle, id);
    let said = bundle.output();
    assert!(said.starts_with("in the bundle\n") && said.contains("read-only"), "{said}");
    assert_eq!(sandbox.ok(&["list", "-q"]), format!("{id}\n"));
    sandbox.ok(&["delete", id]);
    assert_ne!(sandbox.run(&["delete", id]).code, 0);
    sandbox.ok(&["delete", "--force", id]);
    assert_eq!(bundle.left(), Vec::<String>::new());
    assert!(!sandbox.data_root().exists(), "bundle mode has opened DATA-ROOT");
}

#[test]
fn a_bundle_of_crun_lives() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("crun"));
    a_life("crun");
}

#[test]
fn a_bundle_of_runc_lives() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("runc"));
    a_life("runc");
}

#[test]
fn run_passes_the_exit_code_and_kill_the_signal() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("runc"));
    let bundle = Bundle::new("runc", &["sh", "-c", "exit 11"]);
    let dir = bundle.dir.to_str().unwrap();
    assert_eq!(bundle.sandbox.run(&["run", "--bundle", dir, &unique("r")]).code, 11);
    bundle.set("/process/args", json!(["sleep", "1000"]));
    let id = unique("k");
    assert_eq!(bundle.create(&id).code, 0);
    bundle.sandbox.ok(&["start", &id]);
    assert_ne!(bundle.sandbox.run(&["delete", &id]).code, 0, "it runs");
    bundle.sandbox.ok(&["kill", &id, "KILL"]);
    wait_until_stopped(&bundle, &id);
    bundle.sandbox.ok(&["delete", &id]);
    assert_eq!(bundle.left(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("runc"));
    for (pointer, value, said) in [
        ("/process/terminal", json!(true), "terminal"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "seccomp"),
        ("/linux/resources/unified", json!({"no_such.max": "1"}), "linux.resources.unified.no_such.max"),
        ("/hooks", json!({"prestart": [{"path": "bin/true"}]}), "hooks.prestart[0].path"),
        ("/linux/intelRdt", json!({"closID": "x"}), "intelRdt"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "memoryPolicy"),
        ("/linux/netDevices", json!({"eth0": {"name": "eth0"}}), "netDevices"),
        ("/process/apparmorProfile", json!("profile"), "process.apparmorProfile: AppArmor is not enabled"),
        ("/process/args", json!(["no-such-command"]), "no-such-command"),
    ] {
        let bundle = Bundle::new("runc", &["sh"]);
        bundle.set(pointer, value);
        let id = unique("x");
        let created = bundle.create(&id);
        let refused = if created.code == 0 { bundle.sandbox.run(&["start", &id]) } else { created };
        assert_ne!(refused.code, 0, "{pointer}");
        assert!(refused.stderr.contains(said), "{pointer}: {}", refused.stderr);
        bundle.sandbox.ok(&["delete", "--force", &id]);
        assert_eq!(bundle.left(), Vec::<String>::new(), "{pointer}");
    }
    let bundle = Bundle::new("runc", &["sh"]);
    for id in ["", "..", ".", "a/b", "../x", &"x".repeat(1025)] {
        assert_ne!(bundle.create(id).code, 0, "{id}");
        assert_eq!(bundle.left(), Vec::<String>::new(), "{id}");
    }
}

#[test]
fn a_container_of_an_image_is_none_of_an_engine_s() {
    stos_testkit::require!(Need::Root, Need::Binary);
    let shell = sandbox::shell::Shell::new();
    let id = shell.sandbox.ok(&["run", "-d", "shell:1", "sleep", "1000"]);
    let link = shell.sandbox.path("runc");
    symlink(environment::stos(), &link).unwrap();
    let runc = |arguments: &[&str]| output(Command::new(&link).arg("--root").arg(shell.sandbox.root()).args(arguments));
    assert_eq!(runc(&["list", "-q"]).stdout, "");
    for command in ["state", "kill", "delete"] {
        let refused = runc(&[command, id.trim()]);
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("does not exist"), "{}", refused.stderr);
    }
    assert_eq!(shell.status(id.trim()), "running");
}

#[test]
fn called_by_another_name_it_is_a_runtime() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Tool("runc"));
    let bundle = Bundle::new("runc", &["sh", "-c", "echo as runc"]);
    let link = bundle.sandbox.path("runc");
    symlink(environment::stos(), &link).unwrap();
    let runc = |arguments: &[&str], dir: &Path| {
        let mut command = Command::new(&link);
        command.arg("--root").arg(bundle.sandbox.root()).args(arguments).current_dir(dir).env_remove("STOS_DATA_ROOT");
        output(&mut command)
    };
    let ran = runc(&["run", &unique("named")], &bundle.dir);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "as runc\n"), "{}", ran.stderr);
    assert_eq!(runc(&["state", &unique("named")], &bundle.dir).code, 1);
    let refused = runc(&["create", "--network", "host", &unique("named")], &bundle.dir);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("--network"), "{}", refused.stderr);
    let pid_file = bundle.sandbox.path("pid");
    let detached = Command::new(&link)
        .arg("--root")
        .arg(bundle.sandbox.root())
        .args(["create", "--pid-file"])
        .arg(&pid_file)
        .arg(unique("named"))
        .current_dir(&bundle.dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(detached.unwrap().success(), "the bundle is the current directory");
    assert!(fs::read_to_string(&pid_file).unwrap().parse::<i32>().unwrap() > 0);
    assert_eq!(runc(&["delete", "--force", &unique("named")], &bundle.dir).code, 0);
    assert_eq!(bundle.left(), Vec::<String>::new());
}
