// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Networks of containers, made by the real netavark: who reaches whom, and that nothing of it stays.
//!
//! Each test has a network namespace of its own for a host: bridges, routes, rules and the loopback there are no others'. So what is
//! left can be told to the last rule, and this machine's firewall is not touched.

mod sandbox;

use std::fs;
use std::process::Command;

use sandbox::host::{Host, answers, busybox, names, require_networks};
use sandbox::output;
use sandbox::shell::eventually;
use stos_testkit::environment::tool;
use stos_testkit::image_builder::ImageBuilder;

#[test]
fn two_containers_reach_each_other_by_address_and_by_name() {
    require_networks!();
    let host = Host::new();
    assert_eq!(host.ok(&["network", "create", "web"]), "web\n");
    let tools = busybox();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let script = answers(7000, "hello");
    let server = [
        &["run", "-d", "--stop-signal", "KILL", "--name", "server", "--network", "web:alias=db", "--hostname", "srv"],
        tools.as_slice(),
        &["shell:1", "sh", "-c", &script],
    ]
    .concat();
    host.ok(&server);
    host.sleeper("client", &[&["--stop-signal", "KILL", "--network", "web"], tools.as_slice()].concat());
    let address = host.address("server", "web");
    assert!(address.starts_with("10.89."), "{address}");
    let asks = |of: &str| {
        let script = format!("/host-bin/busybox nc -w 5 {of} </dev/null");
        host.run(&["exec", "client", "sh", "-c", &script]).stdout
    };
    // It listens anew for each that asks, and names are learnt in the background.
    for name in [address.as_str(), "server", "db"] {
        eventually("it answers", || asks(&format!("{name} 7000")) == "hello\n");
    }
    // One that comes later is known too, to those that were there before.
    let late = answers(7001, "late");
    host.ok(&[&["run", "-d", "--name", "late", "--network", "web"], tools.as_slice(), &["shell:1", "sh", "-c", &late]]
        .concat());
    eventually("the late one answers", || asks("late 7001") == "late\n");
    host.ok(&["delete", "-f", "late"]);
    eventually("its name is nobody's", || {
        let lost = host.run(&["exec", "client", "/host-bin/busybox", "nc", "-w", "5", "late", "7001"]);
        lost.code != 0 && lost.stderr.contains("bad address")
    });
    // Its files say who it is, and whom it asks.
    let hosts = host.inside("server", "cat /etc/hosts");
    assert!(
        hosts.contains(&format!("{address}\tsrv server\n")) && hosts.contains("host.containers.internal"),
        "{hosts}"
    );
    let resolv = host.inside("client", "cat /etc/resolv.conf");
    assert!(resolv.contains("search dns.podman") && resolv.contains("nameserver 10.89."), "{resolv}");
    let inspected = host.json(&["network", "inspect", "web"]);
    assert_eq!(inspected[0]["containers"].as_object().unwrap().len(), 2);
    host.refused(2, &["web", "client", "server"], &["network", "rm", "web"]);
    assert_eq!(host.ok(&["network", "rm", "-f", "web"]), "web\n");
    assert_eq!(host.ok(&["ps", "-aq"]), "");
    host.assert_nothing_is_left();
}

#[test]
fn a_published_port_answers_from_the_host_and_is_nobody_else_s() {
    require_networks!();
    let host = Host::of(&ImageBuilder::new().set("/config/ExposedPorts", serde_json::json!({"7000/tcp": {}})));
    let tools = busybox();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let script = answers(7000, "published");
    host.ok(&[
        &["run", "-d", "--name", "web", "-p", "127.0.0.1:18080:7000"],
        tools.as_slice(),
        &["shell:1", "sh", "-c", &script],
    ]
    .concat());
    let asks = |port: &str| {
        output(host.command(&["busybox", "nc", "-w", "5", "127.0.0.1", port]).stdin(std::process::Stdio::null()))
    };
    eventually("the port answers", || asks("18080").stdout == "published\n");
    assert_eq!(host.ok(&["port", "web"]), "7000/tcp -> 127.0.0.1:18080\n");
    assert_eq!(host.ok(&["port", "web", "7000"]), "127.0.0.1:18080\n");
    host.refused(1, &["7001/tcp is not published"], &["port", "web", "7001"]);
    let listed = host.ok(&["ps", "--format", "{{.Ports}} {{.Networks}}"]);
    assert_eq!(listed, "127.0.0.1:18080->7000/tcp podman\n");
    let settings = host.json(&["inspect", "web"])[0]["NetworkSettings"].clone();
    assert_eq!(settings["Ports"]["7000/tcp"][0]["HostPort"], "18080", "{settings}");
    // It is taken: the second one does not start, and leaves nothing.
    host.refused(125, &["18080", "hint: "], &["run", "--name", "two", "-p", "18080:80", "shell:1", "ls"]);
    assert_eq!(host.ok(&["ps", "-a", "--filter", "name=two", "--format", "{{.Status}}"]), "Created\n");
    host.ok(&["rm", "two"]);
    // A free one for each that the image exposes.
    host.ok(&["create", "--name", "all", "-P", "--expose", "9000/udp", "shell:1", "ls"]);
    let all = host.ok(&["port", "all"]);
    assert!(all.contains("7000/tcp -> 0.0.0.0:") && all.contains("9000/udp -> 0.0.0.0:"), "{all}");
    // The port comes back with the container.
    host.ok(&["restart", "--time", "0", "web"]);
    eventually("the port answers again", || asks("18080").stdout == "published\n");
    host.ok(&["stop", "--time", "0", "web"]);
    host.assert_nothing_is_left();
    assert_ne!(asks("18080").code, 0);
}

#[test]
fn more_ports_are_published_than_files_may_be_open_and_no_more_than_can_be() {
    require_networks!();
    let host = Host::new();
    let limited = |limit: &str, words: &[&str]| {
        let stos = host.stos_command(words);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")]).arg(stos.get_program()).args(stos.get_args());
        for (name, value) in stos.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        output(&mut command)
    };
    let ports = ["run", "--rm", "-p", "20000-20599:20000-20599", "shell:1", "sh", "-c", "ulimit -Sn"];
    let ran = limited("ulimit -Sn 256", &ports);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "256\n"), "{ran:?}");
    let ran = limited("ulimit -n 256", &ports);
    assert!(ran.code == 125 && ran.stderr.contains("takes an open file") && ran.stderr.contains("hint: "), "{ran:?}");
    host.ok(&["delete", "-f", "--all"]);
    host.assert_nothing_is_left();
}

#[test]
fn none_reaches_nothing_and_container_shares() {
    require_networks!();
    let host = Host::new();
    let tools = busybox();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let links = "ls /sys/class/net";
    let none = host.ok(&["run", "--rm", "--network", "none", "shell:1", "sh", "-c", links]);
    assert_eq!(none, "lo\n");
    let answering = answers(7000, "reached");
    let one = ["run", "-d", "--name", "one", "--network", "bridge", "--add-host", "db:10.9.9.9"];
    host.ok(&[&one, tools.as_slice(), &["shell:1", "sh", "-c", &answering]].concat());
    let asks = format!("/host-bin/busybox nc -w 2 {} 7000 </dev/null", host.address("one", "podman"));
    let ran = |network: &str| {
        host.run(&[&["run", "--rm", "--network", network], tools.as_slice(), &["shell:1", "sh", "-c", &asks]].concat())
    };
    // It may not listen yet.
    eventually("it is reached", || ran("podman").stdout == "reached\n");
    let alone = ran("none");
    assert_eq!((alone.code, alone.stdout.as_str()), (1, ""), "{}", alone.stderr);
    let both = host.ok(&[
        &["run", "--rm", "--network", "container:one"],
        tools.as_slice(),
        &["shell:1", "sh", "-c", &format!("{links}; cat /etc/hosts")],
    ]
    .concat());
    assert!(both.contains("eth0\n") && both.contains("10.9.9.9\tdb\n"), "{both}");
    // The host is reached, and a network that is none of its own is not.
    host.ok(&["network", "create", "--internal", "inner"]);
    let add_host = ["run", "--rm", "--add-host", "me:host-gateway", "shell:1", "cat", "/etc/hosts"];
    let lonely = host.run(&[&add_host[..2], &["--network", "inner"], &add_host[2..]].concat());
    assert!(lonely.code == 0 && !lonely.stdout.contains("\tme\n"), "{lonely:?}");
    assert!(lonely.stderr.contains("host-gateway"), "{lonely:?}");
    let shared = host.ok(&[&add_host[..2], &["--network", "host"], &add_host[2..]].concat());
    assert!(shared.contains("\tme\n"), "{shared}");
    host.sleeper("two", &[&["--network", "inner"], tools.as_slice()].concat());
    let routes = host.inside("two", "/host-bin/busybox ip route");
    assert!(!routes.contains("default"), "{routes}");
    host.ok(&["stop", "--time", "0", "one"]);
    host.refused(
        125,
        &["join the network of", "one", "hint: "],
        &["run", "--rm", "--network", "container:one", "shell:1", "ls"],
    );
    host.ok(&["rm", "-f", "one", "two"]);
    host.assert_nothing_is_left();
}

#[test]
fn a_container_that_runs_comes_and_goes_between_networks() {
    require_networks!();
    let host = Host::new();
    for name in ["a", "b"] {
        host.ok(&["network", "create", name]);
    }
    host.sleeper("web", &["--network", "a"]);
    host.refused(1, &["\"w w\"", "letters"], &["network", "connect", "--alias", "w w", "b", "web"]);
    host.ok(&["network", "connect", "--ip", "10.89.1.77", "--alias", "www", "b", "web"]);
    assert_eq!(host.address("web", "b"), "10.89.1.77");
    assert!(host.inside("web", "cat /etc/hosts").contains("10.89.1.77\t"));
    host.refused(1, &["connected to network b already"], &["network", "connect", "b", "web"]);
    host.ok(&["network", "disconnect", "a", "web"]);
    assert_eq!(host.ok(&["ps", "--format", "{{.Networks}}"]), "b\n");
    host.refused(1, &["not connected to network a"], &["network", "disconnect", "a", "web"]);
    host.ok(&["restart", "--time", "0", "web"]);
    assert_eq!(host.address("web", "b"), "10.89.1.77");
    assert_eq!(host.ok(&["network", "prune", "-f"]), "a\n");
    host.ok(&["delete", "-f", "web"]);
    host.assert_nothing_is_left();
}

/// A netavark that does what it is asked for, and then something else.
fn netavark_and(host: &Host, then: &str) -> String {
    let path = host.shell.sandbox.path("netavark-and-more").display().to_string();
    let script = format!("#!/bin/sh\n{} \"$@\"\n{then}\n", tool("netavark").unwrap().display());
    // By a process of its own: while we had it open for writing another test might fork, and then it is busy.
    let write = "printf %s \"$2\" >\"$1\" && chmod 755 \"$1\"";
    sandbox::tool("sh", &["-c", write, "sh", path.as_str(), script.as_str()]);
    path
}

#[test]
fn a_killed_connect_or_disconnect_is_made_good_by_the_next() {
    require_networks!();
    let host = Host::new();
    for name in ["a", "b"] {
        host.ok(&["network", "create", name]);
    }
    host.sleeper("web", &["--network", "a"]);
    let killing = netavark_and(&host, "kill -9 $PPID");
    let networks = || host.ok(&["ps", "--format", "{{.Networks}}"]);
    let links = || host.inside("web", "ls /sys/class/net");
    let killed = |command: &str| {
        let ran = host.run(&["--netavark", &killing, "network", command, "b", "web"]);
        assert_ne!(ran.code, 0, "{ran:?}");
    };
    for (cut_short, next, expected, found) in [
        ("connect", "connect", "a,b\n", "eth0\neth1\nlo\n"),
        ("disconnect", "disconnect", "a\n", "eth0\nlo\n"),
        ("connect", "disconnect", "a\n", "eth0\nlo\n"),
    ] {
        killed(cut_short);
        host.ok(&["network", next, "b", "web"]);
        assert_eq!((networks().as_str(), links().as_str()), (expected, found), "{next} after {cut_short}");
    }
    host.ok(&["network", "connect", "b", "web"]);
    killed("disconnect");
    host.refused(1, &["connected to network b already"], &["network", "connect", "b", "web"]);
    host.ok(&["network", "disconnect", "b", "web"]);
    host.ok(&["network", "connect", "b", "web"]);
    assert_eq!(links(), "eth0\neth1\nlo\n");
    host.ok(&["delete", "-f", "web"]);
    host.assert_nothing_is_left();
}

#[test]
fn a_connection_to_a_network_that_is_removed_meanwhile_is_taken_back() {
    require_networks!();
    let host = Host::new();
    for name in ["a", "b"] {
        host.ok(&["network", "create", name]);
    }
    host.sleeper("web", &["--network", "a"]);
    let removing = netavark_and(&host, &format!("rm -f {}", host.config_dir().join("b.json").display()));
    let said = ["no such network: \"b\""];
    host.refused(1, &said, &["--netavark", &removing, "network", "connect", "b", "web"]);
    assert_eq!(host.ok(&["ps", "--format", "{{.Networks}}"]), "a\n");
    assert_eq!(host.inside("web", "ls /sys/class/net"), "eth0\nlo\n");
    assert!(!host.inside("web", "cat /etc/hosts").contains("10.89.1."));
    host.ok(&["delete", "-f", "web"]);
    host.assert_nothing_is_left();
}

#[test]
fn a_removal_and_a_creation_at_once_leave_no_container_without_its_network() {
    require_networks!();
    let host = Host::new();
    for round in 0..8 {
        let name = format!("c{round}");
        host.ok(&["network", "create", "web"]);
        let created = std::thread::scope(|scope| {
            let creation = scope.spawn(|| host.run(&["create", "--name", &name, "--network", "web", "shell:1", "ls"]));
            let mut command = [&["network", "rm", "web"][..], &["network", "prune", "-f"]].into_iter().cycle();
            while !creation.is_finished() {
                host.run(command.next().unwrap());
            }
            creation.join().unwrap()
        });
        match created.code {
            0 => host.ok(&["network", "exists", "web"]),
            _ => {
                assert!(created.stderr.contains("no such network: \"web\""), "{created:?}");
                assert_eq!(host.ok(&["ps", "-aq"]), "");
                host.ok(&["network", "create", "--ignore", "web"])
            }
        };
        host.ok(&["delete", "-f", "--all"]);
        host.ok(&["network", "rm", "web"]);
    }
    host.assert_nothing_is_left();
}

#[test]
fn a_container_that_uses_a_network_ends_as_it_wants_when_that_goes_by_force() {
    require_networks!();
    let host = Host::new();
    host.ok(&["network", "create", "web"]);
    let out = host.shell.sandbox.path("out");
    fs::create_dir(&out).unwrap();
    let script = "trap 'echo bye >/out/said; exit 0' TERM; echo >/out/ready; while :; do sleep 0.1; done";
    let mount = format!("{}:/out", out.display());
    for (name, options) in [("polite", &[][..]), ("goes", &["--rm"])] {
        let run = ["run", "-d", "--name", name, "--network", "web", "-v", &mount];
        host.ok(&[&run, options, &["shell:1", "sh", "-c", script]].concat());
        eventually("it is ready", || out.join("ready").exists());
        fs::remove_file(out.join("ready")).unwrap();
    }
    host.ok(&["network", "rm", "-f", "web"]);
    assert_eq!(fs::read_to_string(out.join("said")).unwrap(), "bye\n");
    eventually("both have gone", || host.ok(&["ps", "-aq"]).is_empty());
    host.assert_nothing_is_left();
}

#[test]
fn one_that_cannot_be_removed_or_read_keeps_none_of_the_rest() {
    require_networks!();
    let host = Host::new();
    for name in ["a", "b", "c"] {
        host.ok(&["network", "create", name]);
    }
    let held = host.config_dir().join("b.json");
    let held = held.to_str().unwrap();
    sandbox::tool("mount", &["--bind", held, held]);
    let pruned = host.run(&["network", "prune", "-f"]);
    sandbox::tool("umount", &[held]);
    assert_eq!((pruned.code, pruned.stdout.as_str()), (1, "a\nc\n"), "{pruned:?}");
    assert!(pruned.stderr.contains("b.json"), "{pruned:?}");
    // A record that nobody can read: who only looks is told of the rest, and nothing is removed.
    host.sleeper("web", &["--network", "b"]);
    let broken = host.ok(&["create", "--network", "none", "shell:1", "ls"]);
    let record = host.shell.sandbox.data_root().join("containers").join(broken.trim()).join("container.json");
    let whole = fs::read(&record).unwrap();
    fs::write(&record, "{").unwrap();
    let shown = host.json(&["network", "inspect", "b"]);
    assert_eq!(shown[0]["containers"].as_object().unwrap().len(), 1, "{shown}");
    host.refused(1, &["container.json"], &["network", "prune", "-f"]);
    host.refused(1, &["container.json"], &["network", "rm", "b"]);
    fs::write(&record, whole).unwrap();
    host.ok(&["delete", "-f", "--all"]);
    host.assert_nothing_is_left();
}

#[test]
fn a_network_with_users_of_its_own_shows_its_interfaces() {
    require_networks!();
    let host = Host::new();
    let found = host.ok(&[
        "run",
        "--rm",
        "--uidmap",
        "0:100000:65536",
        "--sysctl",
        "net.ipv4.conf.eth0.forwarding=1",
        "shell:1",
        "sh",
        "-c",
        "ls /sys/class/net; cat /proc/sys/net/ipv4/conf/eth0/forwarding",
    ]);
    assert_eq!(found, "eth0\nlo\n1\n");
    host.assert_nothing_is_left();
}

#[test]
fn what_cannot_be_is_told_and_leaves_nothing() {
    require_networks!();
    let host = Host::new();
    host.ok(&["network", "create", "--subnet", "10.77.0.0/29", "small"]);
    let run = |options: &[&'static str]| [&["run", "--rm"], options, &["shell:1", "ls"]].concat();
    for (said, options) in [
        (&["no such network: \"nowhere\"", "hint: "][..], &["--network", "nowhere"][..]),
        (&["10.78.0.1", "10.77.0.0/29"], &["--network", "small:ip=10.78.0.1"]),
        (&["10.77.0.1", "gateway"], &["--network", "small", "--ip", "10.77.0.1"]),
        (&["expected [[IP:][HOST]:]CONTAINER"], &["-p", "80:x"]),
        (&["--ip"], &["--network", "none", "--ip", "10.77.0.3"]),
        (&["no such container: \"nobody\""], &["--network", "container:nobody"]),
        (&["/no/such"], &["--network", "ns:/no/such"]),
        (&["same port of the host"], &["-p", "8000:80", "-p", "8000:81"]),
        (&["\"a b\"", "letters"], &["--network", "bridge", "--network-alias", "a b"]),
        (&["\"a,b\"", "letters"], &["--network", "small", "--network-alias", "a,b"]),
        (&["host-gateway"], &["--network", "none", "--add-host", "me:host-gateway"]),
        (&["host-gateway"], &["--network", "ns:/proc/self/ns/net", "--add-host", "me:host-gateway"]),
    ] {
        host.refused(125, said, &run(options));
    }
    for (said, words) in [
        (&["expected ADDRESS/BITS"][..], &["--subnet", "10.77.0.0/99"][..]),
        (&["overlaps 10.77.0.0/29, which network small has", "hint: "], &["--subnet", "10.77.0.0/16"]),
        (&["no machine's address"], &["--subnet", "10.66.0.0/24", "--gateway", "10.67.0.1"]),
        (&["expected bridge, macvlan or ipvlan"], &["-d", "overlay"]),
    ] {
        host.refused(1, said, &[&["network", "create"], words, &["x"]].concat());
    }
    host.refused(1, &["\"small\" exists already"], &["network", "create", "small"]);
    assert_eq!(host.ok(&["network", "create", "--ignore", "small"]), "small\n");
    host.refused(1, &["default network"], &["network", "rm", "podman"]);
    host.refused(1, &[], &["network", "exists", "nowhere"]);
    host.ok(&["network", "exists", "small"]);
    // Five of its addresses are for containers. The sixth finds none, and one that has been taken is told by whom.
    for number in 0..5 {
        host.sleeper(&format!("c{number}"), &["--network", "small"]);
    }
    host.refused(125, &["every address from 10.77.0.1 to 10.77.0.6 is taken"], &run(&["--network", "small"]));
    host.refused(125, &["10.77.0.4 is taken by container", "hint: "], &run(&["--network", "small:ip=10.77.0.4"]));
    // netavark cannot: what it says is told. A namespace has no second loopback, and no bridge of its name.
    host.on(&["ip", "link", "add", "dummy7", "type", "bridge"]);
    host.ok(&["network", "create", "--opt", "vlan=7", "--interface-name", "lo", "odd"]);
    host.refused(125, &["netavark cannot make the networks odd: "], &run(&["--network", "odd"]));
    host.on(&["ip", "link", "delete", "dummy7"]);
    let missing = host.run(&["--netavark", "/no/netavark", "run", "--rm", "--network", "bridge", "shell:1", "ls"]);
    assert!(missing.code == 125 && missing.stderr.contains("apt-get install netavark"), "{missing:?}");
    host.ok(&["delete", "-f", "--all"]);
    host.assert_nothing_is_left();
}

#[test]
fn a_killed_monitor_s_networks_go_with_what_comes_next() {
    require_networks!();
    let host = Host::new();
    for (name, next) in [("a", &["start", "a"][..]), ("b", &["delete", "b"]), ("c", &["stop", "--time", "0", "c"])] {
        host.sleeper(name, &["-p", "18081:80"]);
        let pid = host.json(&["state", name])["pid"].as_i64().unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let monitor = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().to_owned();
        for process in [monitor, pid.to_string()] {
            assert_eq!(output(Command::new("kill").args(["-KILL", &process])).code, 0);
        }
        eventually("it has ended", || host.shell.status(name) == "stopped");
        host.ok(next);
        if name == "a" {
            assert!(host.on(&["ip", "-o", "link"]).contains("podman0"));
            host.ok(&["delete", "-f", name]);
        }
        host.assert_nothing_is_left();
    }
}

#[test]
fn a_network_namespace_that_was_unmounted_keeps_nothing_from_going() {
    require_networks!();
    let host = Host::new();
    host.sleeper("web", &["-p", "18082:80"]);
    let networks = host.shell.sandbox.root().join("networks");
    let namespace = networks.join(&names(&networks)[0]).join("ns");
    assert_eq!(output(Command::new("umount").arg(&namespace)).code, 0);
    host.ok(&["delete", "-f", "web"]);
    host.assert_nothing_is_left();
}

fn come_and_go(count: usize) {
    let host = Host::new();
    host.ok(&["network", "create", "many"]);
    let start = |number: usize| host.sleeper(&format!("c{number}"), &["--rm", "--network", "many"]);
    for number in 0..count {
        start(number);
    }
    let found = host.json(&["network", "inspect", "many"]);
    let addresses: std::collections::BTreeSet<_> = found[0]["containers"]
        .as_object()
        .unwrap()
        .values()
        .map(|container| container["interfaces"]["eth0"]["subnets"][0]["ipnet"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(addresses.len(), count);
    host.ok(&["stop", "--time", "0", "--all"]);
    eventually("all have gone", || host.ok(&["ps", "-aq"]).is_empty());
    host.assert_nothing_is_left();
}

#[test]
fn twenty_come_and_go_and_leave_nothing() {
    require_networks!();
    come_and_go(20);
}

#[test]
fn a_hundred_come_and_go_and_leave_nothing() {
    require_networks!();
    come_and_go(100);
}
