// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A host of a test's own, with networks: bridges, routes, rules and the loopback there are no others'.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use stos_testkit::environment::tool;
use stos_testkit::image_builder::ImageBuilder;

use super::shell::{Shell, eventually};
use super::{Output, output};

/// A host of the test's own, with a store that has an image of the shell.
pub struct Host {
    /// Its store.
    pub shell: Shell,
    name: String,
}

/// What tests need: netavark with aardvark-dns, and what makes and looks at network namespaces.
#[allow(unused_macros, reason = "each test binary uses a part of it")]
macro_rules! require_networks {
    () => {
        stos_testkit::require!(
            stos_testkit::guard::Need::Root,
            stos_testkit::guard::Need::Binary,
            stos_testkit::guard::Need::Tool("ip"),
            stos_testkit::guard::Need::Tool("nsenter"),
            stos_testkit::guard::Need::Tool("iptables-save"),
            stos_testkit::guard::Need::Tool("busybox"),
            stos_testkit::guard::Need::Tool("netavark"),
            stos_testkit::guard::Need::Tool("aardvark-dns"),
        );
    };
}

#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub(crate) use require_networks;

impl Host {
    /// With an image whose configuration says nothing but the command.
    pub fn new() -> Self {
        Self::of(&ImageBuilder::new())
    }

    /// With an image of this configuration.
    pub fn of(builder: &ImageBuilder) -> Self {
        let shell = Shell::of(builder);
        let name = format!("stos-test-{}", unique());
        let host = Self { shell, name };
        ip(&["netns", "add", &host.name]);
        host.on(&["ip", "link", "set", "lo", "up"]);
        host
    }

    /// Runs a program on this host.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(tool("nsenter").unwrap());
        command.arg(format!("--net=/run/netns/{}", self.name)).args(words);
        command
    }

    #[track_caller]
    pub fn on(&self, words: &[&str]) -> String {
        let found = output(&mut self.command(words));
        assert_eq!(found.code, 0, "{words:?}: {}", found.stderr);
        found.stdout
    }

    /// stos on this host, with networks of its own.
    pub fn stos_command(&self, words: &[&str]) -> Command {
        let stos = self.shell.sandbox.command();
        let mut command = self.command(&[]);
        command.arg(stos.get_program()).args(stos.get_args());
        for (name, value) in stos.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env_remove("STOS_NETWORK").env("STOS_NETWORK_CONFIG_DIR", self.config_dir());
        command.args(words);
        command
    }

    pub fn config_dir(&self) -> std::path::PathBuf {
        self.shell.sandbox.path("networks")
    }

    pub fn run(&self, words: &[&str]) -> Output {
        output(&mut self.stos_command(words))
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let found = self.run(words);
        assert_eq!(found.code, 0, "{words:?}: {}", found.stderr);
        found.stdout
    }

    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(words)).unwrap()
    }

    /// Refused with this code, and these words in what is said.
    #[track_caller]
    pub fn refused(&self, code: i32, said: &[&str], words: &[&str]) {
        let found = self.run(words);
        let has_all = said.iter().all(|word| found.stderr.contains(word));
        assert!(found.code == code && has_all, "{words:?}: {found:?}");
    }

    /// Starts a container that only lives.
    #[track_caller]
    pub fn sleeper(&self, name: &str, options: &[&str]) {
        self.ok(&[&["run", "-d", "--name", name], options, &["shell:1", "sleep", "1000"]].concat());
    }

    /// What `script` prints in a container.
    #[track_caller]
    pub fn inside(&self, container: &str, script: &str) -> String {
        self.ok(&["exec", container, "sh", "-c", script])
    }

    /// The address of a container in one network.
    #[track_caller]
    pub fn address(&self, container: &str, network: &str) -> String {
        let settings = self.json(&["inspect", container])[0]["NetworkSettings"].clone();
        settings["Networks"][network]["IPAddress"].as_str().unwrap_or_else(|| panic!("{settings}")).to_owned()
    }

    /// Fails where anything is left of any container's network: an interface, a rule, a lease, a name, a mount or a process.
    #[track_caller]
    pub fn assert_nothing_is_left(&self) {
        self.assert_taken_down();
        let leases = self.shell.sandbox.root().join("netavark/stos-leases");
        for network in names(&leases) {
            let left: Vec<_> =
                names(&leases.join(network)).into_iter().filter(|name| !name.starts_with("last-")).collect();
            assert_eq!(left, [""; 0], "leases");
        }
    }

    /// The same but for leases: one whose holder was killed is free, and goes when somebody looks at its address.
    #[track_caller]
    pub fn assert_taken_down(&self) {
        // Those of a namespace that is gone the kernel removes in its own time.
        eventually("the loopback alone is left", || self.on(&["ip", "-o", "link"]).lines().count() == 1);
        let rules = self.on(&["iptables-save"]);
        let left: Vec<_> = rules.lines().filter(|line| line.starts_with("-A") && line.contains("10.")).collect();
        assert_eq!(left, [""; 0], "rules");
        let root = self.shell.sandbox.root();
        for of in ["networks", "pods", "pod-networks"] {
            assert_eq!(names(&root.join(of)), [""; 0], "{of}");
        }
        let names_left = names(&root.join("netavark/aardvark-dns"));
        assert!(names_left.iter().all(|name| name == "aardvark.pid"), "{names_left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for of in ["networks", "pods", "pod-networks"] {
            assert!(!mounts.contains(root.join(of).to_str().unwrap()), "{mounts}");
        }
        eventually("aardvark-dns ends with the last container", || {
            !processes().iter().any(|line| line.contains("aardvark-dns") && line.contains(root.to_str().unwrap()))
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Before the host: containers are taken down on it.
        let _ = self.run(&["pod", "rm", "--force", "--all"]);
        let _ = self.run(&["delete", "--force", "--all"]);
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// A number that no other test has.
fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    u64::from(std::process::id()) << 16 | NEXT.fetch_add(1, Ordering::Relaxed)
}

#[track_caller]
fn ip(words: &[&str]) {
    let found = output(Command::new("ip").args(words));
    assert_eq!(found.code, 0, "{words:?}: {}", found.stderr);
}

pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The command lines of all processes; those that have ended have none.
pub fn processes() -> Vec<String> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let lines = pids.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok());
    lines.map(|line| line.replace('\0', " ")).collect()
}

/// A script that answers each connection to a port of the container with a word, by busybox's `nc`.
pub fn answers(port: u16, word: &str) -> String {
    format!("while true; do echo {word} | /host-bin/busybox nc -l -p {port}; done")
}

/// What a container has of the host, to have `nc`, `wget` and `nslookup`.
pub fn busybox() -> Vec<String> {
    let directory = tool("busybox").unwrap().parent().unwrap().display().to_string();
    vec!["-v".into(), format!("{directory}:/host-bin:ro")]
}
