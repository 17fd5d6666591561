// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A bundle in a temporary directory, a runtime to run it with, and a check that nothing stays behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The argument that makes the test binary a runtime.
pub const MARKER: &str = "--be-the-runtime";

/// Tools in the root, beside the shell.
const TOOLS: [&str; 17] = [
    "cat", "echo", "env", "head", "hostname", "id", "ls", "mkdir", "mknod", "readlink", "rm", "sleep", "stat", "touch",
    "grep", "mount", "dd",
];

/// A bundle and its ROOT.
pub struct Bundle {
    dir: TempDir,
    /// Unique on the machine: cgroups are named by it.
    pub id: String,
}

/// What a command of the runtime gave.
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// The trimmed stdout of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout.trim_end().to_owned()
    }

    /// The stderr of a command that must have failed with `code`.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stderr
    }
}

impl Bundle {
    /// A root of the host's shell and tools, and a configuration like that of `runc spec` that runs `script`.
    pub fn new(script: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let id = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bundle = Self { dir, id };
        make_rootfs(&bundle.rootfs());
        bundle.configure(|config| config["process"]["args"] = json!(["/bin/sh", "-c", script]));
        bundle
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    /// Changes the configuration.
    pub fn configure(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("config.json");
        let mut config = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).expect("JSON"),
            Err(_) => default_config(),
        };
        change(&mut config);
        fs::write(path, config.to_string()).expect("config.json");
    }

    /// A bundle whose configuration is changed once.
    pub fn with(script: &str, change: impl FnOnce(&mut Value)) -> Self {
        let bundle = Self::new(script);
        bundle.configure(change);
        bundle
    }

    /// Adds a mount.
    pub fn mount(&self, destination: &str, fstype: &str, source: &str, options: &[&str]) {
        self.configure(|config| {
            let mount = json!({"destination": destination, "type": fstype, "source": source, "options": options});
            config["mounts"].as_array_mut().expect("mounts").push(mount);
        });
    }

    /// A command of the runtime: this binary.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("our own binary"));
        command.arg(MARKER);
        command.arg("--root").arg(self.root()).args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command of the runtime and collects what it says.
    pub fn call(&self, arguments: &[&str]) -> Outcome {
        self.command(arguments).output().expect("the runtime").into()
    }

    /// Runs the container to its end.
    pub fn run(&self) -> Outcome {
        let path = self.path().display().to_string();
        let outcome = self.call(&["run", "--bundle", &path, &self.id]);
        self.assert_nothing_left();
        outcome
    }

    /// As the engine launches it: with further flags of the helper.
    pub fn launch(&self, flags: &[&str]) -> Outcome {
        let path = self.path().display().to_string();
        let outcome = self.call(&[&["launch", "--bundle", &path], flags, &[&self.id]].concat());
        self.assert_nothing_left();
        outcome
    }

    /// Creates the container, with its output in files of the bundle: its processes outlive the call.
    #[track_caller]
    pub fn create(&self) -> Outcome {
        let output = |name: &str| fs::File::create(self.path().join(name)).expect("a file");
        let path = self.path().display().to_string();
        let pid_file = self.path().join("pid").display().to_string();
        let mut command = self.command(&["create", "--bundle", &path, "--pid-file", &pid_file, &self.id]);
        let status = command.stdout(output("stdout")).stderr(output("stderr")).status().expect("the runtime");
        Outcome { code: status.code().unwrap_or(-1), stdout: self.output("stdout"), stderr: self.output("stderr") }
    }

    pub fn output(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).expect("output")
    }

    pub fn start(&self) -> Outcome {
        self.call(&["start", &self.id])
    }

    /// The container's state, as the runtime prints it.
    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state", &self.id]).ok()).expect("JSON")
    }

    /// Waits until the state is `status`.
    #[track_caller]
    pub fn await_status(&self, status: &str) {
        wait_until(&format!("{} is {status}", self.id), || self.state()["status"] == status);
    }

    pub fn delete(&self, force: bool) -> Outcome {
        let outcome =
            if force { self.call(&["delete", "--force", &self.id]) } else { self.call(&["delete", &self.id]) };
        if outcome.code == 0 {
            self.assert_nothing_left();
        }
        outcome
    }

    /// No cgroup, mount, or file of the container is there.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let cgroups = cgroups_named(&self.id);
        assert!(cgroups.is_empty(), "cgroups left: {cgroups:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let own = self.path().display().to_string();
        assert!(!mounts.contains(&own), "mounts left: {mounts}");
        for place in ["containers", "staging"] {
            let left: Vec<_> = fs::read_dir(self.root().join(place)).into_iter().flatten().collect();
            assert!(left.is_empty(), "files left: {left:?}");
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // After a failed test: the container must not outlive it.
        if self.root().join("containers").join(&self.id).exists() {
            drop(self.command(&["delete", "--force", &self.id]).status());
        }
    }
}

/// Directories below `/sys/fs/cgroup` that hold `id` in their name.
pub fn cgroups_named(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            // Ids end in a number: stos-test-1-1 is not stos-test-1-10.
            if entry.file_name().to_string_lossy().strip_prefix("stos-") == Some(id) {
                found.push(entry.path());
            }
            waiting.push(entry.path());
        }
    }
    found
}

/// Waits for a condition that is sure to come.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a child of a test, by its own handle.
pub fn end(mut child: Child) {
    drop(child.kill());
    drop(child.wait());
}

/// Where a program of the host lies.
fn find(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
}

/// The libraries of a program, as ldd(1) lists them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_ascii_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn make_rootfs(root: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/user"] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    let put = |from: &Path, to: PathBuf| {
        fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
        if !to.exists() {
            fs::copy(from, &to).expect("a copy");
        }
    };
    for tool in TOOLS.iter().chain(&["sh"]) {
        let Some(program) = find(tool) else { continue };
        for library in libraries(&program) {
            put(&library, root.join(library.strip_prefix("/").expect("absolute")));
        }
        put(&program, root.join("bin").join(tool));
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001:user:/home/user:/bin/sh\n")
        .expect("passwd");
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1001:\nextra:x:2000:user\n").expect("group");
    symlink("/etc/passwd", root.join("etc/link")).expect("a symlink");
}

/// What `runc spec` writes, without a terminal.
fn default_config() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
