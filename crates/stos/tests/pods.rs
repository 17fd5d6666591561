// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods: what their containers share, and what they cannot say themselves. With the real netavark, each on a host of its own.

mod sandbox;

use std::fs;
use std::process::Stdio;

use sandbox::host::{Host, answers, busybox, names, require_networks};
use sandbox::output;
use sandbox::pods::{Pods, SLEEP};
use sandbox::shell::eventually;
use serde_json::json;

#[test]
fn containers_of_a_pod_share_localhost_ports_host_name_and_memory() {
    require_networks!();
    let host = Host::new();
    let id = host.pod(&["--name", "web", "-p", "127.0.0.1:18090:7000", "--label", "tier=front"]);
    assert_eq!((id.len(), host.pod_status("web").as_str()), (64, "Created"));
    host.in_pod("web", "server", &answers(7000, "hello"));
    host.in_pod("web", "client", SLEEP);
    let asks = || {
        let script = "/host-bin/busybox nc -w 5 127.0.0.1 7000 </dev/null";
        host.run(&["exec", "client", "sh", "-c", script]).stdout
    };
    let from_host = || {
        let words = ["busybox", "nc", "-w", "5", "127.0.0.1", "18090"];
        output(host.command(&words).stdin(Stdio::null())).stdout
    };
    eventually("the server answers", || {
        host.run(&["exec", "client", "/host-bin/busybox", "nc", "-w", "5", "server", "7000"]).stdout == "hello\n"
    });
    // It listens anew for each that asks.
    eventually("it answers on the loopback", || asks() == "hello\n");
    eventually("the port answers", || from_host() == "hello\n");
    // One host name, one network, one memory, and the files that say so.
    for name in ["server", "client"] {
        assert_eq!(host.inside(name, "cat /proc/sys/kernel/hostname; cat /etc/hostname"), "web\nweb\n");
        assert_eq!(host.ok(&["inspect", "--format", "{{.Pod}}", name]).trim(), id);
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
    assert_eq!(host.json(&["inspect", "web"])[0]["Id"], json!(id));
    // Who lists sees it.
    let used = host.ok(&["pod", "stats", "--no-stream", "web"]);
    assert!(used.starts_with("POD           CID") && used.matches(&id[..12]).count() == 2, "{used}");
    eventually("both are seen", || {
        let processes = host.ok(&["pod", "top", "web", "args"]);
        processes.contains("nc -l -p 7000") && processes.contains("sleep 1000")
    });
    let listed = host.ok(&[
        "ps",
        "--pod",
        "--filter",
        "pod=web",
        "--format",
        "{{.Names}} {{.PodName}} {{.Networks}} {{.Ports}}",
    ]);
    assert_eq!(listed, "server web podman 127.0.0.1:18090->7000/tcp\nclient web podman 127.0.0.1:18090->7000/tcp\n");
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
fn others_of_a_network_find_a_pod_by_its_name() {
    require_networks!();
    let host = Host::new();
    host.ok(&["network", "create", "back"]);
    host.pod(&["--name", "web", "--network", "back:alias=site", "--add-host", "other:192.0.2.7"]);
    host.in_pod("web", "server", &answers(7000, "from the pod"));
    let tools = busybox();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    host.sleeper("client", &[&["--network", "back"], tools.as_slice()].concat());
    for name in ["web", "site", &host.address("server", "back")] {
        let script = format!("/host-bin/busybox nc -w 5 {name} 7000 </dev/null");
        eventually("it answers", || host.run(&["exec", "client", "sh", "-c", &script]).stdout == "from the pod\n");
    }
    assert!(host.inside("server", "cat /etc/hosts").contains("192.0.2.7\tother\n"));
    assert!(host.inside("server", "cat /etc/resolv.conf").contains("search dns.podman"));
    host.refused(1, &["no networks of its own", "in a pod"], &["network", "disconnect", "back", "server"]);
    host.ok(&["pod", "rm", "-f", "web"]);
    host.ok(&["rm", "-f", "client"]);
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
    assert_eq!(host.ok(&["pod", "pause", "web"]), host.ok(&["pod", "ls", "-q", "--no-trunc"]));
    host.ok(&["pod", "unpause", "web"]);
    host.ok(&["pod", "pause", "web"]);
    host.ok(&["pod", "unpause", "web"]);
    host.ok(&["pod", "kill", "-s", "KILL", "web"]);
    eventually("both have ended", || ["one", "two"].iter().all(|name| host.shell.status(name) == "stopped"));
    assert_eq!(host.pod_status("web"), "Degraded", "what is shared is still there");
    host.refused(125, &["list the processes of pod web", "Degraded", "hint: "], &["pod", "top", "web"]);
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
    host.refused(1, &["web", "pod already exists"], &["rename", "one", "web"]);
    host.refused(125, &["pod name"], &["pod", "create", "a/b"]);
    // What contradicts itself makes no pod.
    for (options, said) in [
        (&["--infra=false", "-p", "80:80"][..], "you must have an infra container to publish port bindings"),
        (&["--infra=false", "--network", "none"], "without an infra container"),
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
    host.refused(125, &["pod.json"], &["start", "one"]);
    host.refused(125, &["pod.json", "hint: "], &["pod", "rm", "web"]);
    host.ok(&["pod", "rm", "-f", "web"]);
    host.assert_no_pod_is_left();
    // A container whose pod is gone says so.
    host.pod(&["--name", "lost"]);
    host.ok(&["create", "--pod", "lost", "--name", "two", "shell:1", "ls"]);
    let pods = host.shell.sandbox.data_root().join("pods");
    fs::remove_dir_all(pods.join(&names(&pods)[0])).unwrap();
    host.refused(125, &["two", "no such pod"], &["start", "two"]);
    let found = host.run(&["system", "check"]);
    assert!(found.code == 1 && found.stdout.contains("two"), "{found:?}");
    host.ok(&["rm", "two"]);
}
