// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A real service with data: Debian's Redis on a named volume, through restarts, a killed monitor, a new container and a new image; and its
//! health, told truly.

mod sandbox;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::Sandbox;
use sandbox::shell::eventually;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::guard::Need;

struct Service {
    sandbox: Sandbox,
    registry: DockerRegistry,
}

impl Service {
    fn new() -> Self {
        Self { sandbox: Sandbox::new(), registry: DockerRegistry::start_over_cache().unwrap() }
    }

    fn image(&self, tag: &str) -> String {
        let image = format!("{}/redis:{tag}", self.registry.address());
        self.sandbox.ok(&["pull", "-q", "--tls-verify=false", &image]);
        image
    }

    fn begin(&self, image: &str, options: &[&str]) {
        let run = ["run", "-d", "--name", "db", "-v", "data:/data"];
        self.sandbox.ok(&[&run[..], options, &[image]].concat());
    }

    fn client(&self, words: &[&str]) -> String {
        self.sandbox.ok(&[&["exec", "db", "redis-cli"], words].concat())
    }

    fn health(&self) -> String {
        self.sandbox.ok(&["inspect", "-f", "{{.State.Health.Status}}", "db"]).trim().to_owned()
    }

    #[track_caller]
    fn becomes(&self, status: &str) {
        let start = Instant::now();
        while self.health() != status {
            assert!(start.elapsed() < Duration::from_secs(60), "it is {:?} and not {status:?}", self.health());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The server's process, as the host has it.
    fn server(&self) -> Pid {
        let pid = self.sandbox.json(&["state", "db"])["pid"].as_i64().unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    /// The monitor, which is the server's parent.
    fn monitor(&self) -> Pid {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server().as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        Pid::from_raw(line.trim().parse().unwrap()).unwrap()
    }
}

#[test]
fn redis_keeps_its_data_and_its_health_is_told_truly() {
    stos_testkit::require!(Need::Root, Need::Binary, Need::Image("redis:1"), Need::Image("redis:2"));
    let service = Service::new();
    let sandbox = &service.sandbox;
    service.begin(&service.image("1"), &["--restart", "on-failure:3"]);
    // The check is the image's own.
    service.becomes("healthy");
    let is_listed = || sandbox.ok(&["ps", "--format", "{{.Status}}"]).contains("(healthy)");
    // A check may fail now and then, for it has two seconds.
    eventually("it is listed as healthy", is_listed);
    assert_eq!(service.client(&["set", "key", "kept"]), "OK\n");

    // A server that hangs is not well, and is again when it goes on.
    kill_process(service.server(), Signal::STOP).unwrap();
    service.becomes("unhealthy");
    kill_process(service.server(), Signal::CONT).unwrap();
    service.becomes("healthy");

    sandbox.ok(&["restart", "db"]);
    service.becomes("healthy");
    assert_eq!(service.client(&["get", "key"]), "kept\n");

    // A server that dies is started again, by its policy.
    let first = service.server();
    kill_process(first, Signal::KILL).unwrap();
    let start = Instant::now();
    while sandbox.run(&["exec", "db", "redis-cli", "get", "key"]).stdout != "kept\n" {
        assert!(start.elapsed() < Duration::from_secs(60), "nobody has started it again");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_ne!(service.server(), first);
    assert_eq!(sandbox.ok(&["inspect", "-f", "{{.RestartCount}}", "db"]), "1\n");

    // Without its monitor it lives on, and nobody says that it is well: nobody looks.
    kill_process(service.monitor(), Signal::KILL).unwrap();
    service.becomes("unknown");
    assert_eq!(service.client(&["set", "second", "kept too"]), "OK\n");
    eventually("a check succeeds", || sandbox.run(&["healthcheck", "run", "db"]).code == 0);
    sandbox.ok(&["stop", "db"]);
    sandbox.ok(&["start", "db"]);
    service.becomes("healthy");
    assert_eq!(service.client(&["get", "second"]), "kept too\n");

    // The volume is not its container's.
    let used = sandbox.run(&["volume", "rm", "data"]);
    assert!(used.code != 0 && used.stderr.contains("data"), "{}", used.stderr);
    sandbox.ok(&["rm", "-f", "-v", "db"]);
    service.begin(&service.image("1"), &[]);
    service.becomes("healthy");
    assert_eq!(service.client(&["mget", "key", "second"]), "kept\nkept too\n");

    // Nor the image's.
    service.begin(&service.image("2"), &["--replace"]);
    service.becomes("healthy");
    assert_eq!(sandbox.ok(&["exec", "db", "cat", "/version"]), "2\n");
    assert_eq!(service.client(&["mget", "key", "second"]), "kept\nkept too\n");
    sandbox.ok(&["rm", "-f", "db"]);
    sandbox.ok(&["volume", "rm", "data"]);
}
