// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods: what their containers share, and that nothing of it stays. With the real netavark, each on a host of its own.

mod sandbox;

use std::fs;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::host::{Host, answers, busybox, names, processes, require_networks};
use sandbox::output;
use sandbox::shell::eventually;
use serde_json::{Value, json};

/// What pods need beside networks.
trait Pods {
    fn pod(&self, options: &[&str]) -> String;
    fn in_pod(&self, pod: &str, name: &str, script: &str);
    fn pod_status(&self, pod: &str) -> String;
    fn infra(&self, pod: &str) -> i64;
    fn assert_no_pod_is_left(&self);
}

impl Pods for Host {
    /// Makes a pod, and gives its id.
    #[track_caller]
    fn pod(&self, options: &[&str]) -> String {
        self.ok(&[&["pod", "create"], options].concat()).trim().to_owned()
    }

    /// Runs a script in a container of a pod, with busybox at hand.
    #[track_caller]
    fn in_pod(&self, pod: &str, name: &str, script: &str) {
        let tools = busybox();
        let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
        let words = [&["run", "-d", "--pod", pod, "--name", name], tools.as_slice(), &["shell:1", "sh", "-c", script]];
        self.ok(&words.concat());
    }

    #[track_caller]
    fn pod_status(&self, pod: &str) -> String {
        self.ok(&["pod", "inspect", "--format", "{{.State}}", pod]).trim().to_owned()
    }

    /// The number of the infra process; 0 for none.
    #[track_caller]
    fn infra(&self, pod: &str) -> i64 {
        self.json(&["pod", "inspect", pod])[0]["InfraPid"].as_i64().unwrap()
    }

    /// Fails where anything is left of any pod: beside what networks leave a process, a record or a name.
    #[track_caller]
    fn assert_no_pod_is_left(&self) {
        self.assert_nothing_is_left();
        let sandbox = &self.shell.sandbox;
        for directory in ["pods", "names", "containers", "staging"] {
            assert_eq!(sandbox.names(directory), [""; 0], "{directory}");
        }
    }
}

const SLEEP: &str = "trap 'exit 0' TERM; while true; do sleep 1000 & wait; done";

fn kill(pid: i64) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    let is_gone = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with(['Z', 'X']))
    };
    eventually("the process is gone", is_gone);
}

fn parent(pid: i64) -> i64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

/// Kills a container's process, and its monitor before.
fn kill_with_monitor(host: &Host, name: &str) {
    let pid = host.json(&["state", name])["pid"].as_i64().unwrap();
    kill(parent(pid));
    kill(pid);
    eventually("it has ended", || host.shell.status(name) == "stopped");
}

#[test]
fn containers_of_a_pod_share_localhost_ports_host_name_and_memory() {
    require_networks!();
    let host = Host::new();
    let id = host.pod(&["--name", "web", "-p", "127.0.0.1:18090:7000", "--label", "tier=front"]);
    assert_eq!((id.len(), host.pod_status("web").as_str()), (64, "Created"));
    host.in_pod("web", "server", &answers(7000, "hello"));
    host.in_pod("web", "client", SLEEP);
    let asks = || host.inside("client", "/host-bin/busybox nc -w 5 127.0.0.1 7000 </dev/null");
    let from_host = || {
        let words = ["busybox", "nc", "-w", "5", "127.0.0.1", "18090"];
        output(host.command(&words).stdin(Stdio::null())).stdout
    };
    eventually("the server answers", || {
        host.run(&["exec", "client", "/host-bin/busybox", "nc", "-w", "5", "server", "7000"]).stdout == "hello\n"
    });
    assert_eq!(asks(), "hello\n");
    eventually("the port answers", || from_host() == "hello\n");
    // One host name, one network, one memory, and the files that say so.
    for name in ["server", "client"] {
        assert_eq!(host.inside(name, "cat /proc/sys/kernel/hostname; cat /etc/hostname"), "web\nweb\n");
        let pod = host.json(&["inspect", name])[0]["Pod"].clone();
        assert_eq!(pod, json!(id));
    }
    for kind in ["net", "ipc", "uts"] {
        let of = |name: &str| host.inside(name, &format!("/host-bin/busybox readlink /proc/self/ns/{kind}"));
        assert_eq!(of("server"), of("client"), "{kind}");
        let own = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(of("server").trim(), own.to_str().unwrap(), "{kind}");
    }
    for kind in ["pid", "mnt"] {
        let of = |name: &str| host.inside(name, &format!("/host-bin/busybox readlink /proc/self/ns/{kind}"));
        assert_ne!(of("server"), of("client"), "{kind}");
    }
    host.inside("server", "echo shared >/dev/shm/file");
    assert_eq!(host.inside("client", "cat /dev/shm/file"), "shared\n");
    let hosts = host.inside("client", "cat /etc/hosts");
    let address = host.address("client", "podman");
    assert!(hosts.contains(&format!("{address}\tweb\n")) && hosts.contains("127.0.0.1\tserver\n"), "{hosts}");
    assert_eq!(hosts, host.inside("server", "cat /etc/hosts"));
    assert_eq!(host.inside("client", "cat /etc/resolv.conf"), host.inside("server", "cat /etc/resolv.conf"));
    // Who lists sees it.
    let processes = host.ok(&["pod", "top", "web", "args"]);
    assert!(processes.contains("nc -l -p 7000") && processes.contains("sleep 1000"), "{processes}");
    let listed = host.ok(&["ps", "--pod", "--filter", "pod=web", "--format", "{{.Names}} {{.PodName}} {{.Ports}}"]);
    assert_eq!(listed, "server web 127.0.0.1:18090->7000/tcp\nclient web 127.0.0.1:18090->7000/tcp\n");
    assert!(host.ok(&["ps", "--pod"]).lines().next().unwrap().contains("POD ID"));
    assert_eq!(host.ok(&["port", "client"]), "7000/tcp -> 127.0.0.1:18090\n");
    let table = host.ok(&["pod", "ls"]);
    let header: Vec<_> =
        table.lines().next().unwrap().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(header, ["POD ID", "NAME", "STATUS", "CREATED", "INFRA ID", "# OF CONTAINERS"]);
    assert!(table.lines().nth(1).unwrap().starts_with(&format!("{}  web   Running", &id[..12])), "{table}");
    assert!(table.lines().nth(1).unwrap().ends_with(" 2"), "{table}");
    // All of it comes back after a stop, and after a restart.
    for again in [&["pod", "stop", "-t", "5", "web"][..], &["pod", "restart", "web"]] {
        host.ok(again);
        if again[1] == "stop" {
            assert_eq!(host.pod_status("web"), "Exited");
            assert_ne!(from_host(), "hello\n");
            host.assert_nothing_is_left();
            assert_eq!(host.ok(&["pod", "start", "web"]), "web\n");
        }
        assert_eq!(host.pod_status("web"), "Running");
        eventually("the port answers again", || from_host() == "hello\n");
        eventually("the server answers again", || asks() == "hello\n");
        assert_eq!(host.inside("server", "ls /dev/shm"), "");
    }
    assert_eq!(host.ok(&["pod", "rm", "-f", "web"]), format!("{id}\n"));
    host.assert_no_pod_is_left();
}

#[test]
fn a_pod_s_status_is_podman_s() {
    require_networks!();
    let host = Host::new();
    host.pod(&["web"]);
    // Nothing but what is shared: podman's infra container would run.
    host.ok(&["pod", "start", "web"]);
    assert_eq!((host.pod_status("web").as_str(), host.infra("web")), ("Running", 0));
    host.in_pod("web", "one", SLEEP);
    host.ok(&["create", "--pod", "web", "--name", "two", "shell:1", "sh", "-c", SLEEP]);
    assert_eq!(host.pod_status("web"), "Degraded");
    host.ok(&["start", "two"]);
    assert_eq!(host.pod_status("web"), "Running");
    host.ok(&["pod", "pause", "web"]);
    assert_eq!((host.pod_status("web").as_str(), host.shell.status("two").as_str()), ("Paused", "paused"));
    host.refused(125, &["cannot pause pod web", "it is Paused"], &["pod", "pause", "web"]);
    host.ok(&["pod", "unpause", "web"]);
    host.ok(&["pod", "kill", "-s", "KILL", "web"]);
    eventually("both have ended", || ["one", "two"].iter().all(|name| host.shell.status(name) == "stopped"));
    assert_eq!(host.pod_status("web"), "Degraded", "what is shared is still there");
    host.ok(&["pod", "stop", "web"]);
    assert_eq!(host.pod_status("web"), "Exited");
    host.ok(&["create", "--pod", "web", "--name", "three", "shell:1", "ls"]);
    assert_eq!(host.pod_status("web"), "Stopped");
    for (filter, found) in [("status=stopped", 1), ("status=running", 0), ("name=we", 1), ("label=a", 0)] {
        assert_eq!(host.ok(&["pod", "ps", "-q", "--filter", filter]).lines().count(), found, "{filter}");
    }
    let shown = host.ok(&["pod", "ls", "--format", "{{.Name}} {{.NumberOfContainers}} {{.ContainerNames}}"]);
    assert_eq!(shown, "web 3 one,two,three\n");
    assert_eq!(host.ok(&["pod", "prune", "--force"]).len(), 65);
    host.assert_no_pod_is_left();
}

#[test]
fn what_a_pod_decides_its_containers_cannot() {
    require_networks!();
    let host = Host::new();
    let id = host.pod(&["--name", "web"]);
    let run = |options: &[&str], said: &[&str]| {
        host.refused(125, said, &[&["run", "--rm"], options, &["shell:1", "ls"]].concat());
    };
    let of_network = "network cannot be configured when it is shared with a pod";
    run(
        &["--pod", "web", "-p", "80:80"],
        &["published or exposed ports must be defined when the pod is created", of_network, "hint: "],
    );
    run(&["--pod", "web", "--network", "host"], &["networks must be defined when the pod is created", of_network]);
    run(&["--pod", "web", "--dns", "9.9.9.9"], &["--dns", of_network]);
    run(
        &["--pod", "web", "--add-host", "a:10.0.0.1"],
        &["extra host entries must be specified on the pod", of_network],
    );
    run(&["--pod", "web", "--hostname", "other"], &["cannot set hostname when joining the pod UTS namespace"]);
    run(&["--pod", "web", "--userns", "auto"], &["--userns and --pod cannot be set together"]);
    run(&["--pod", "none"], &["no pod with name or ID \"none\" found: no such pod", "hint: ", "new:NAME"]);
    run(&["--pod", "web", "--shm-size", "1m"], &["its pod's shared memory"]);
    run(&["--pod", "new:"], &["new pod name must be at least one character"]);
    // A name is a container's or a pod's.
    host.refused(125, &["web", "pod already exists", "hint: "], &["create", "--name", "web", "shell:1", "ls"]);
    host.refused(125, &["web", "pod already exists"], &["pod", "create", "web"]);
    host.ok(&["create", "--name", "one", "shell:1", "ls"]);
    host.refused(125, &["one", "is taken by container"], &["pod", "create", "one"]);
    host.refused(125, &["web", "pod already exists"], &["rename", "one", "web"]);
    host.refused(125, &["pod name"], &["pod", "create", "a/b"]);
    // What contradicts itself makes no pod.
    for (options, said) in [
        (&["--infra=false", "-p", "80:80"][..], "without an infra container"),
        (&["--infra=false", "--share", "net"], "cannot set share(net) namespaces without an infra container"),
        (&["--share", "ipc", "--hostname", "h"], "do not share the host's name"),
        (&["--network", "none-such"], "none-such"),
        (&["--network", "container:one"], "a pod's network is its own"),
        (&["--share", "all"], "expected ipc, net, uts, pid and cgroup"),
        (&["--ip", "192.0.2.1"], "10.88.0.0/16"),
    ] {
        host.refused(125, &[said], &[&["pod", "create", "bad"], options].concat());
    }
    assert_eq!(host.run(&["pod", "exists", "bad"]).code, 1);
    assert_eq!(host.run(&["pod", "exists", &id[..6]]).code, 0);
    host.refused(1, &["no such pod"], &["pod", "rm", "bad"]);
    host.ok(&["pod", "rm", "--ignore", "bad"]);
    // With containers that run it stays; one of its containers may go.
    host.in_pod("web", "stays", SLEEP);
    host.in_pod("web", "goes", SLEEP);
    host.refused(125, &["goes", "stays", "running", "hint: "], &["pod", "rm", "web"]);
    host.ok(&["rm", "-f", "goes"]);
    assert_eq!(host.json(&["pod", "inspect", "web"])[0]["NumContainers"], 1);
    // A port that is somebody's is told at the start, and nothing of it stays.
    host.pod(&["--name", "one-port", "-p", "18091:80"]);
    host.pod(&["--name", "same-port", "-p", "18091:81"]);
    host.ok(&["pod", "start", "one-port"]);
    host.refused(125, &["18091"], &["pod", "start", "same-port"]);
    assert_eq!(host.pod_status("same-port"), "Created");
    // Without a container's own words it has what the pod does not share.
    host.pod(&["--name", "alone", "--infra=false"]);
    assert_eq!(
        host.ok(&["run", "--rm", "--pod", "alone", "--hostname", "own", "shell:1", "cat", "/etc/hostname"]),
        "own\n"
    );
    host.ok(&["pod", "rm", "-f", "--all"]);
    host.ok(&["rm", "one"]);
    host.assert_no_pod_is_left();
}

#[test]
fn a_pod_comes_with_its_first_container_or_not_at_all() {
    require_networks!();
    let host = Host::new();
    host.refused(125, &["no-such"], &["run", "--pod", "new:web", "--pull", "never", "no-such:1"]);
    host.refused(127, &["/no/such"], &["create", "--pod", "new:web", "shell:1", "/no/such"]);
    assert_eq!(host.ok(&["pod", "ls", "-q"]), "");
    let words = ["run", "-d", "--pod", "new:web", "--name", "one", "-p", "127.0.0.1:18092:7000", "--hostname", "named"];
    host.ok(&[&words[..], &["shell:1", "sh", "-c", SLEEP]].concat());
    assert_eq!(host.inside("one", "cat /proc/sys/kernel/hostname"), "named\n");
    assert_eq!(host.ok(&["port", "one"]), "7000/tcp -> 127.0.0.1:18092\n");
    host.refused(125, &["pod already exists"], &["run", "--pod", "new:web", "shell:1", "ls"]);
    // A file has its id, and another pod takes its place on request alone.
    let file = host.shell.sandbox.path("pod.id");
    let file = file.to_str().unwrap();
    let id = host.pod(&["--name", "web", "--replace", "--pod-id-file", file]);
    assert_eq!(fs::read_to_string(file).unwrap(), id);
    assert_eq!(host.ok(&["ps", "-aq"]), "");
    host.refused(125, &["it exists"], &["pod", "create", "--pod-id-file", file]);
    host.ok(&["run", "--pod-id-file", file, "--name", "told", "shell:1", "sh", "-c", "echo from the container"]);
    assert_eq!(host.ok(&["pod", "logs", "--names", "web"]), "from the container\n");
    host.refused(125, &["not in pod web"], &["pod", "logs", "-c", &other_container(&host), "web"]);
    host.ok(&["pod", "rm", "-f", "--pod-id-file", file]);
    host.ok(&["rm", "--all"]);
    host.assert_no_pod_is_left();
}

/// A container of no pod, by its name.
fn other_container(host: &Host) -> String {
    host.ok(&["create", "--name", "other", "shell:1", "ls"]);
    "other".to_owned()
}

#[test]
fn a_pod_with_shared_processes_has_a_first_one_that_leads_nowhere() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "--share", "+pid"]);
    host.in_pod("web", "one", SLEEP);
    host.in_pod("web", "two", SLEEP);
    let infra = host.infra("web");
    assert!(infra > 0);
    assert_eq!(host.inside("one", "cat /proc/1/comm"), "stos-pause\n");
    let seen = host.inside("one", "cat /proc/*/cmdline | /host-bin/busybox tr '\\0' ' '");
    assert!(seen.contains("stos-pause") && !seen.contains("--data-root"), "{seen}");
    let sleepers = |name: &str| {
        let script = "/host-bin/busybox ps -o comm | /host-bin/busybox grep -c sleep";
        host.run(&["exec", name, "sh", "-c", script]).stdout
    };
    eventually("each sees the other's process", || sleepers("one") == "2\n" && sleepers("two") == "2\n");
    // Not even who may trace finds anything of the host's there.
    let tools = busybox();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let words = [
        &["run", "--rm", "--pod", "web", "--cap-add", "SYS_PTRACE"],
        tools.as_slice(),
        &["shell:1", "sh", "-c", "ls -a /proc/1/root/"],
    ];
    let found = host.ok(&words.concat());
    assert_eq!(found.split_whitespace().collect::<Vec<_>>(), [".", ".."], "{found}");
    assert_ne!(host.run(&["exec", "one", "ls", "/proc/1/root/"]).code, 0);
    // From within nothing ends it, and it has no rights.
    host.inside("one", "kill -KILL 1; kill -TERM 1; true");
    let status = fs::read_to_string(format!("/proc/{infra}/status")).unwrap();
    for line in ["CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_eq!(fs::read_dir(format!("/proc/{infra}/fd")).unwrap().count(), 0);
    // It reaps what loses its parent.
    host.inside("one", "(true & exec sleep 0.01) & exit 0");
    eventually("nothing is left to reap", || !host.inside("one", "/host-bin/busybox ps -o stat,comm").contains("Z"));
    // Killed, it takes all of them along; and a new one is made at the next start.
    kill(infra);
    eventually("both have ended", || ["one", "two"].iter().all(|name| host.shell.status(name) == "stopped"));
    host.ok(&["pod", "start", "web"]);
    assert_eq!(host.pod_status("web"), "Running");
    assert!(host.infra("web") > 0 && host.infra("web") != infra);
    eventually("each sees the other's process again", || sleepers("one") == "2\n");
    host.ok(&["pod", "rm", "-f", "web"]);
    host.assert_no_pod_is_left();
    assert!(!processes().iter().any(|line| line.starts_with("stos-pause")));
}

#[test]
fn ports_are_held_again_when_their_holder_was_killed() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "-p", "18093:7000"]);
    host.in_pod("web", "one", SLEEP);
    let network = host.inside("one", "/host-bin/busybox readlink /proc/self/ns/net");
    let first = host.infra("web");
    kill(first);
    assert_eq!((host.infra("web"), host.shell.status("one").as_str()), (0, "running"));
    // The next container brings another one, and is where the first is.
    host.in_pod("web", "two", SLEEP);
    assert_eq!(host.inside("two", "/host-bin/busybox readlink /proc/self/ns/net"), network);
    assert!(host.infra("web") > 0);
    host.refused(125, &["18093"], &["run", "--rm", "-p", "18093:80", "shell:1", "ls"]);
    host.ok(&["pod", "rm", "-f", "web"]);
    host.assert_no_pod_is_left();
}

#[test]
fn killed_monitors_leave_nothing_that_the_next_command_does_not_clear() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "-p", "18094:7000"]);
    for next in
        [&["pod", "stop", "web"][..], &["pod", "restart", "web"], &["pod", "start", "web"], &["pod", "rm", "web"]]
    {
        if host.run(&["container", "exists", "one"]).code == 0 {
            host.ok(&["pod", "start", "web"]);
        } else {
            host.in_pod("web", "one", SLEEP);
        }
        kill_with_monitor(&host, "one");
        assert_eq!(host.pod_status("web"), "Degraded");
        host.ok(next);
        match next[1] {
            "stop" => host.assert_nothing_is_left(),
            "rm" => {}
            _ => assert_eq!(host.pod_status("web"), "Running"),
        }
    }
    host.assert_no_pod_is_left();
    // One that should stop with its last container does so at the next sweep.
    host.pod(&["--name", "web", "--exit-policy", "stop"]);
    host.in_pod("web", "one", SLEEP);
    kill_with_monitor(&host, "one");
    assert!(host.ok(&["system", "gc"]).contains("pod"));
    assert_eq!(host.pod_status("web"), "Exited");
    host.ok(&["pod", "rm", "web"]);
    host.assert_no_pod_is_left();
}

#[test]
fn with_exit_policy_stop_a_pod_ends_with_its_last_container() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "--exit-policy", "stop", "-p", "18095:7000"]);
    host.in_pod("web", "one", SLEEP);
    host.in_pod("web", "two", SLEEP);
    host.ok(&["stop", "one"]);
    assert_eq!(host.pod_status("web"), "Degraded");
    host.ok(&["stop", "two"]);
    eventually("the pod has stopped", || host.pod_status("web") == "Exited");
    host.assert_nothing_is_left();
    host.ok(&["start", "one"]);
    assert_eq!(host.pod_status("web"), "Degraded");
    host.ok(&["rm", "-f", "one", "two"]);
    eventually("the pod has stopped", || host.pod_status("web") == "Exited");
    host.ok(&["pod", "rm", "web"]);
    host.assert_no_pod_is_left();
}

/// Ends a pod with one container as a power cut does: its processes and all mounts are gone. ROOT is gone too, or on a disk it tells of
/// another boot.
fn reboot(host: &Host, keeps_root: bool) {
    let infra = host.infra("web");
    let pid = host.json(&["state", "one"])["pid"].as_i64().unwrap();
    for pid in [parent(pid), pid, infra].into_iter().filter(|pid| *pid > 1) {
        kill(pid);
    }
    let sandbox = &host.shell.sandbox;
    for mount in sandbox.mounts("").iter().rev() {
        stos_sys::mount::detach(mount).unwrap();
    }
    if !keeps_root {
        fs::remove_dir_all(sandbox.root()).unwrap();
        return;
    }
    let other = json!("8d4a02b8-0000-4000-8000-5f7a5a2f6f2c");
    for (directory, keys) in [("containers", &["creator", "init"][..]), ("pods", &["infra"])] {
        for name in names(&sandbox.root().join(directory)) {
            let path = sandbox.root().join(directory).join(name).join("state.json");
            let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            for key in keys.iter().filter(|key| !state[**key].is_null()).collect::<Vec<_>>() {
                // The number is that of a living process of this boot.
                state[*key]["pid"] = json!(std::process::id());
                state[*key]["boot_id"] = other.clone();
            }
            if directory == "pods" {
                state["boot_id"] = other.clone();
            }
            fs::write(&path, state.to_string()).unwrap();
        }
    }
}

#[test]
fn a_pod_starts_again_after_a_reboot() {
    require_networks!();
    for (keeps_root, share) in [(true, "+pid"), (false, "ipc,net,uts")] {
        let host = Host::new();
        host.pod(&["--name", "web", "-p", "18096:7000", "--share", share]);
        host.in_pod("web", "one", &answers(7000, "again"));
        reboot(&host, keeps_root);
        // The host's side of the network went with the machine.
        for link in host.on(&["ip", "-o", "link"]).lines().filter_map(|line| line.split(": ").nth(1)) {
            if link != "lo" {
                let _ = output(&mut host.command(&["ip", "link", "delete", link.split('@').next().unwrap()]));
            }
        }
        host.on(&["iptables", "-t", "nat", "-F"]);
        assert_eq!(host.pod_status("web"), "Exited", "{share}");
        host.ok(&["pod", "start", "web"]);
        assert_eq!(host.pod_status("web"), "Running", "{share}");
        let words = ["busybox", "nc", "-w", "5", "127.0.0.1", "18096"];
        eventually("the port answers", || output(host.command(&words).stdin(Stdio::null())).stdout == "again\n");
        host.ok(&["pod", "rm", "-f", "web"]);
        assert_eq!(host.shell.sandbox.names("pods"), [""; 0]);
    }
}

/// Starts a command and goes on.
fn begin(host: &Host, words: &[&str]) -> Child {
    host.stos_command(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn commands_at_once_on_one_pod_agree() {
    require_networks!();
    let host = Host::new();
    host.pod(&["--name", "web", "-p", "18097:7000", "--share", "+pid"]);
    for name in ["a", "b", "c"] {
        host.ok(&["create", "--pod", "web", "--name", name, "shell:1", "sh", "-c", SLEEP]);
    }
    // One of them makes what is shared, the others find it.
    let all = ["start a", "start b", "start c", "pod start web", "pod start web"];
    let started: Vec<_> = all.iter().map(|line| begin(&host, &line.split(' ').collect::<Vec<_>>())).collect();
    for child in started {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!(host.pod_status("web"), "Running");
    assert_eq!(host.inside("a", "cat /proc/1/comm"), "stos-pause\n");
    let same = |name: &str| {
        let pid = host.json(&["state", name])["pid"].as_i64().unwrap();
        ["net", "ipc", "uts", "pid"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap())
    };
    assert!(same("a") == same("b") && same("b") == same("c"));
    // Who comes while it goes is in time, or is told; and nothing of it stays.
    for _ in 0..5 {
        let mut children = vec![begin(&host, &["pod", "rm", "-f", "web"])];
        for _ in 0..3 {
            children.push(begin(&host, &["run", "-d", "--rm", "--pod", "web", "shell:1", "sleep", "1000"]));
        }
        children.push(begin(&host, &["pod", "stop", "-t", "0", "web"]));
        for child in children {
            drop(child.wait_with_output().unwrap());
        }
        host.ok(&["pod", "rm", "-f", "--ignore", "web"]);
        assert_eq!(host.ok(&["ps", "-aq"]), "");
        host.assert_no_pod_is_left();
        host.pod(&["--name", "web"]);
    }
}

#[test]
fn twenty_pods_come_and_go_and_leave_nothing() {
    require_networks!();
    let host = Host::new();
    host.ok(&["network", "create", "many"]);
    for number in 0..20 {
        let name = format!("p{number}");
        let port = format!("127.0.0.1:{}:80", 18100 + number);
        // Each kind that there is: with a process or without.
        let options = match number % 4 {
            0 => vec!["-p", &port],
            1 => vec!["--share", "+pid,cgroup"],
            2 => vec!["--network", "none"],
            _ => vec![],
        };
        let network = if number % 4 == 2 { vec![] } else { vec!["--network", "many"] };
        host.pod(&[&["--name", name.as_str()], options.as_slice(), network.as_slice()].concat());
        host.ok(&["run", "-d", "--pod", &name, "--name", &format!("c{number}"), "shell:1", "sleep", "1000"]);
    }
    assert_eq!(host.ok(&["pod", "ps", "-q", "--filter", "status=running"]).lines().count(), 20);
    let found = host.json(&["network", "inspect", "many"]);
    assert_eq!(found[0]["containers"].as_object().unwrap().len(), 15);
    host.refused(2, &["many", "p0"], &["network", "rm", "many"]);
    assert_eq!(host.ok(&["network", "prune", "--force"]), "");
    host.ok(&["pod", "stop", "-t", "0", "--all"]);
    host.assert_nothing_is_left();
    host.ok(&["pod", "start", "--all"]);
    host.ok(&["network", "rm", "-f", "many"]);
    assert_eq!(host.ok(&["pod", "ls", "-q"]).lines().count(), 5);
    host.ok(&["pod", "rm", "-f", "--all"]);
    host.assert_no_pod_is_left();
}

#[test]
fn a_check_knows_pods() {
    require_networks!();
    let host = Host::new();
    let id = host.pod(&["--name", "web"]);
    host.ok(&["create", "--pod", "web", "--name", "one", "shell:1", "ls"]);
    let checked = host.ok(&["system", "check"]);
    assert!(checked.contains("healthy") && checked.contains("1 pod"), "{checked}");
    assert_eq!(host.ok(&["system", "gc", "--dry-run"]).matches("pod").count(), 0);
    let names_dir = host.shell.sandbox.data_root().join("names");
    fs::remove_file(names_dir.join("web")).unwrap();
    assert_eq!(host.run(&["system", "check"]).code, 1);
    host.ok(&["system", "check", "--repair"]);
    assert!(names_dir.join("web").symlink_metadata().is_ok());
    // A record that is lost is told, with who needs it; force removes it with its containers.
    let record = host.shell.sandbox.data_root().join("pods").join(&id).join("pod.json");
    fs::write(&record, "{").unwrap();
    let found = host.run(&["system", "check"]);
    assert!(found.code == 1 && found.stdout.contains("pod.json") && found.stdout.contains("one"), "{found:?}");
    host.refused(125, &["pod.json", "hint: "], &["start", "one"]);
    host.refused(125, &["pod.json", "hint: "], &["pod", "rm", "web"]);
    host.ok(&["pod", "rm", "-f", "web"]);
    host.assert_no_pod_is_left();
    // A container whose pod is gone says so.
    host.pod(&["--name", "lost"]);
    host.ok(&["create", "--pod", "lost", "--name", "two", "shell:1", "ls"]);
    let pods = host.shell.sandbox.data_root().join("pods");
    fs::remove_dir_all(pods.join(&names(&pods)[0])).unwrap();
    host.refused(125, &["two", "no such pod", "hint: "], &["start", "two"]);
    let found = host.run(&["system", "check"]);
    assert!(found.code == 1 && found.stdout.contains("two"), "{found:?}");
    host.ok(&["rm", "two"]);
}
