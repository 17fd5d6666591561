// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An OCI runtime as engines call it: by runc's command line, on bundles of a test's own.
//!
//! `$STOS_TEST_RUNTIME` is the runtime under test, a path; without it the stos that was built, by another name, as engines call it.
//! So the suite tests the contract, and not us. What is a promise of stos alone asks [`Runtime::is_ours`].

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stos_testkit::{environment, rootfs};

/// The variable that names the runtime under test.
const RUNTIME: &str = "STOS_TEST_RUNTIME";

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a command gave.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; -1 where a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
}

/// A runtime with a state directory of its own. When it is dropped its containers are deleted.
pub struct Runtime {
    program: PathBuf,
    dir: tempfile::TempDir,
    ids: RefCell<Vec<String>>,
}

/// A bundle: `config.json` and `rootfs`, with this machine's shell in it.
pub struct Bundle {
    /// Its directory.
    pub dir: PathBuf,
}

impl Runtime {
    /// Takes the runtime under test.
    pub fn new() -> Self {
        let dir = environment::scratch();
        let program = match std::env::var_os(RUNTIME) {
            Some(path) => path.into(),
            None => {
                let link = dir.path().join("runc");
                symlink(environment::stos(), &link).unwrap();
                link
            }
        };
        Self { program, dir, ids: RefCell::default() }
    }

    /// Whether it is stos.
    pub fn is_ours(&self) -> bool {
        std::env::var_os(RUNTIME).is_none()
    }

    /// Whether it is another runtime, of this name: for what that one is known to do otherwise.
    pub fn is_called(&self, name: &str) -> bool {
        !self.is_ours() && self.program.file_name().is_some_and(|own| own == name)
    }

    /// A path for whatever else the test needs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The state directory.
    pub fn root(&self) -> PathBuf {
        self.path("run")
    }

    /// The runtime with the option that leads it here.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(self.root())
            .env_remove("STOS_DATA_ROOT")
            .env_remove("STOS_ROOT")
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end. For commands that leave a container behind there is [`create`](Self::create), and `exec -d` with streams of
    /// its own: nobody may wait here for the end of streams that a container has.
    pub fn run(&self, arguments: &[&str]) -> Output {
        output(self.command().args(arguments))
    }

    /// Whether it knows a command: runtimes need not have all of runc's.
    pub fn has(&self, command: &str) -> bool {
        self.run(&[command, "--help"]).code == 0
    }

    /// Runs it with something on its standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let file = self.path("input");
        fs::write(&file, input).unwrap();
        output(self.command().args(arguments).stdin(File::open(file).unwrap()))
    }

    /// Runs it and gives what it printed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {}", output.stderr);
        output.stdout
    }

    /// An id that no other test has: ids name cgroups, which all tests share.
    pub fn id(&self, name: &str) -> String {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let id = format!("{name}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        self.ids.borrow_mut().push(id.clone());
        id
    }

    /// A bundle whose process is `args`.
    pub fn bundle(&self, args: &[&str]) -> Bundle {
        let number = (0..).find(|number| !self.path(&format!("bundle-{number}")).exists()).unwrap();
        let dir = self.path(&format!("bundle-{number}"));
        let root = dir.join("rootfs");
        fs::create_dir_all(&root).unwrap();
        let archive = self.path("root.tar");
        if !archive.exists() {
            let programs = [&rootfs::TOOLS[..], &["readlink", "stty", "tty"]].concat();
            fs::write(&archive, rootfs::host_programs(&programs).unwrap()).unwrap();
        }
        let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&root).status().unwrap();
        assert!(unpacked.success());
        fs::write(dir.join("config.json"), config(args).to_string()).unwrap();
        Bundle { dir }
    }

    /// Creates a container; its streams go to files, which [`said`](Self::said) reads.
    pub fn create(&self, bundle: &Bundle, id: &str) -> Output {
        self.create_with(bundle, id, &[])
    }

    /// The same with options.
    pub fn create_with(&self, bundle: &Bundle, id: &str, options: &[&str]) -> Output {
        let mut create = self.command();
        create.arg("create").arg("--bundle").arg(&bundle.dir).args(options).arg(id);
        self.detached(create, id)
    }

    /// Runs a command that leaves a process behind with the command's streams.
    pub fn detached(&self, mut command: Command, id: &str) -> Output {
        let open = |name: String| File::options().create(true).append(true).open(self.path(&name)).unwrap();
        let errors = self.path(&format!("{id}.errors"));
        fs::write(&errors, "").unwrap();
        command.stdout(open(format!("{id}.out"))).stderr(open(format!("{id}.errors")));
        let status = command.status().unwrap();
        let stderr = fs::read_to_string(&errors).unwrap();
        Output { code: status.code().unwrap_or(-1), stdout: String::new(), stderr }
    }

    /// What a container has written to its standard output so far.
    pub fn said(&self, id: &str) -> String {
        fs::read_to_string(self.path(&format!("{id}.out"))).unwrap_or_default()
    }

    /// Creates and starts a container.
    #[track_caller]
    pub fn started(&self, bundle: &Bundle, name: &str) -> String {
        let id = self.id(name);
        let created = self.create(bundle, &id);
        assert_eq!(created.code, 0, "{}", created.stderr);
        self.ok(&["start", &id]);
        id
    }

    /// Runs a bundle to its end, in the foreground, and gives what it said.
    pub fn run_bundle(&self, bundle: &Bundle, name: &str) -> Output {
        output(self.command().args(["run", "--bundle"]).arg(&bundle.dir).arg(self.id(name)))
    }

    /// The state of a container, as it prints it.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    /// Its status.
    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }

    /// Waits until a container has this status.
    #[track_caller]
    pub fn wait_for(&self, id: &str, status: &str) {
        eventually(|| self.status(id) == status);
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // What a failed test leaves must not outlive it; there is nobody to tell if it does.
        for id in self.ids.borrow().iter() {
            self.run(&["delete", "--force", id]);
        }
    }
}

impl Bundle {
    /// The configuration.
    pub fn config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join("config.json")).unwrap()).unwrap()
    }

    /// Sets one value of the configuration; objects on the way are made.
    pub fn set(&self, pointer: &str, value: Value) -> &Self {
        let mut config = self.config();
        let mut at = &mut config;
        for key in pointer.trim_start_matches('/').split('/') {
            at = match key.parse::<usize>() {
                Ok(index) if at.is_array() => &mut at[index],
                _ => &mut at[key],
            };
        }
        *at = value;
        fs::write(self.dir.join("config.json"), config.to_string()).unwrap();
        self
    }

    /// Adds an item to a list of the configuration.
    pub fn push(&self, pointer: &str, value: Value) -> &Self {
        let mut list = self.config().pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        list.push(value);
        self.set(pointer, list.into())
    }

    /// A path of the root filesystem, from outside.
    pub fn rootfs(&self, path: &str) -> PathBuf {
        self.dir.join("rootfs").join(path)
    }
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    Output { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Copies a program. cp(1) does it: nobody can execute a file that we have open to write, nor one that a child of ours still has, which
/// another test starts at that moment.
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let copied = Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status().unwrap();
    assert!(copied.success());
}

/// Waits until something holds.
///
/// # Panics
/// Where it does not within [`PATIENCE`].
#[track_caller]
pub fn eventually(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "it does not come about");
        sleep(Duration::from_millis(5));
    }
}

/// Where a process is in the hierarchy of a v1 controller, or in the v2 tree (`""`): the directory as mounted, if it is.
pub fn cgroup_of(pid: i64, controller: &str) -> Option<PathBuf> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = table.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        (names.split(',').any(|name| name == controller)).then(|| path.trim_start_matches('/').to_owned())
    })?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let is_it = match controller {
            "" => fields[2] == "cgroup2",
            name => fields[2] == "cgroup" && fields[3].split(',').any(|option| option == name),
        };
        is_it.then(|| PathBuf::from(fields[1]))
    })?;
    Some(mount.join(path)).filter(|path| Path::new(path).exists())
}

/// What a control file of a process's cgroup holds: of the v1 controller, or of the v2 tree where that has no v1 hierarchy.
#[track_caller]
pub fn control(pid: i64, controller: &str, v1: &str, v2: &str) -> String {
    let path = match cgroup_of(pid, controller) {
        Some(directory) => directory.join(v1),
        None => cgroup_of(pid, "").expect("a cgroup").join(v2),
    };
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

/// What `runc spec` asks for, without a terminal.
fn config(args: &[&str]) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!({
        // crun 1.8 takes no later one.
        "ociVersion": if std::env::var_os(RUNTIME).is_some() { "1.0.2" } else { "1.2.0" },
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "runtime",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
