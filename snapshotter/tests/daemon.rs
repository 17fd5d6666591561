// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon as systemd and people run it: its sockets, its signals, its metrics, its end.

mod scene;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use scene::binary;
use scene::daemon::{Daemon, PATIENCE, config, prepare};
use scene::wire::{block_on, snapshots as client};
use stos_snapshotter::api::snapshots::*;
use stos_testkit::environment;
use stos_testkit::guard::Need;
use tonic::Code;
use tonic::codegen::tokio_stream::StreamExt;

#[test]
fn codes_and_lists_come_over_the_wire() {
    stos_testkit::require!(Need::Root);
    let daemon = Daemon::start();
    block_on(async {
        let mut client = client(&daemon.socket()).await;
        for number in 0..250 {
            client.prepare(prepare(&format!("key-{number}"))).await.unwrap();
        }
        let taken = client.prepare(prepare("key-1")).await.unwrap_err();
        assert_eq!((taken.code(), taken.message()), (Code::AlreadyExists, "snapshot key-1: already exists"));
        let none = client.stat(StatSnapshotRequest { key: "none".into(), ..Default::default() }).await.unwrap_err();
        assert_eq!(none.code(), Code::NotFound);
        let mut list = client.list(ListSnapshotsRequest::default()).await.unwrap().into_inner();
        let mut parts = Vec::new();
        while let Some(part) = list.next().await {
            parts.push(part.unwrap().info.len());
        }
        assert_eq!(parts, [100, 100, 50]);
        // Larger than any message may be.
        let labels = [("k".to_owned(), "v".repeat(5 << 20))].into();
        let refused = client.prepare(PrepareSnapshotRequest { labels, ..prepare("large") }).await.unwrap_err();
        assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted), "{refused:?}");
    });
    let text = daemon.metrics("/metrics");
    for line in [
        "stos_snapshotter_requests_total{method=\"Prepare\",code=\"OK\"} 250",
        "stos_snapshotter_requests_total{method=\"Prepare\",code=\"AlreadyExists\"} 1",
        "stos_snapshotter_snapshots{kind=\"active\"} 250",
    ] {
        assert!(text.lines().any(|found| found.trim_end() == line), "{line} in\n{text}");
    }
    assert!(daemon.metrics("/").starts_with("HTTP/1.1 404"));
    let (status, _) = daemon.end(rustix::process::Signal::TERM);
    assert!(status.success());
}

#[test]
fn who_asks_for_metrics_and_never_ends_keeps_nobody_else_from_them() {
    stos_testkit::require!(Need::Root);
    let daemon = Daemon::start();
    let connect = || UnixStream::connect(daemon.dir.path().join("metrics")).unwrap();
    let mut idle: Vec<_> = (0..40).map(|_| connect()).collect();
    let mut asked = connect();
    // Not asked to close, it closes.
    asked.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    asked.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    asked.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("stos_snapshotter_snapshots"), "{text}");
    for stream in &mut idle {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(stream.read_to_end(&mut Vec::new()).is_ok(), "it is ended");
    }
}

#[test]
fn what_is_no_grpc_harms_nobody() {
    stos_testkit::require!(Need::Root);
    let daemon = Daemon::start();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // It may be reset: only that it ends counts.
        let _ = stream.read_to_end(&mut answer);
    }
    block_on(async {
        client(&daemon.socket()).await.prepare(prepare("key")).await.unwrap();
    });
}

#[test]
fn killed_at_any_time_it_knows_what_it_has_answered() {
    stos_testkit::require!(Need::Root);
    let mut daemon = Daemon::start();
    for round in 0..5 {
        block_on(async {
            let mut client = client(&daemon.socket()).await;
            client.prepare(prepare(&format!("key-{round}"))).await.unwrap();
            let commit = CommitSnapshotRequest {
                name: format!("name-{round}"),
                key: format!("key-{round}"),
                ..CommitSnapshotRequest::default()
            };
            client.commit(commit).await.unwrap();
            client.prepare(prepare(&format!("open-{round}"))).await.unwrap();
        });
        let (status, dir) = daemon.end(rustix::process::Signal::KILL);
        assert!(!status.success());
        // Its socket file is left, and replaced.
        assert!(dir.path().join("socket").exists());
        std::fs::remove_file(dir.path().join("log")).unwrap();
        daemon = Daemon::start_in(dir, |command| command);
        block_on(async {
            let mut client = client(&daemon.socket()).await;
            let all = client.list(ListSnapshotsRequest::default()).await.unwrap().into_inner().next().await;
            assert_eq!(all.unwrap().unwrap().info.len(), 2 * (round + 1));
        });
    }
}

#[test]
fn it_reads_its_configuration_again_and_keeps_it_where_that_is_wrong() {
    stos_testkit::require!(Need::Root);
    let daemon = Daemon::start();
    let file = daemon.dir.path().join("config.toml");
    std::fs::write(&file, "[pul]\n").unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.eventually("refusal", |daemon| {
        let log = daemon.log();
        log.contains("the configuration stays as it was") && log.contains("unknown field `pul`")
    });
    std::fs::write(&file, config(&daemon.dir.path().join("metrics"), "info,stos=debug")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.eventually("reload", |daemon| daemon.log().contains("configuration read again"));
    block_on(async {
        let mut client = client(&daemon.socket()).await;
        client.stat(StatSnapshotRequest { key: "none".into(), ..Default::default() }).await.unwrap_err();
    });
    daemon.eventually("debug line", |daemon| daemon.log().contains("\"refused\""));
    let (status, dir) = daemon.end(rustix::process::Signal::TERM);
    assert!(status.success() && !dir.path().join("socket").exists());
    // Until then it may be about to write one.
    for line in std::fs::read_to_string(dir.path().join("log")).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string() && line["message"].is_string() && line["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn a_second_one_on_the_same_store_or_socket_is_refused() {
    stos_testkit::require!(Need::Root);
    let daemon = Daemon::start();
    let elsewhere = environment::scratch();
    let mut other = Command::new(binary());
    other.current_dir(elsewhere.path()).args(["--data-root", "data", "--root", "run"]);
    let refused = other.arg("--address").arg(daemon.socket()).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("another process answers there"), "{text}");
    for (option, value) in [("--config", "/no/such.toml"), ("--layerfs", "zfs"), ("--log-format", "xml")] {
        let mut wrong = Command::new(binary());
        let refused = wrong.current_dir(elsewhere.path()).args([option, value]).output().unwrap();
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains(value), "{option}: {text}");
    }
}

#[test]
fn systemd_may_make_the_socket_and_hears_when_it_is_ready() {
    stos_testkit::require!(Need::Root, Need::Tool("python3"));
    let dir = environment::scratch();
    std::fs::write(dir.path().join("config.toml"), config(&dir.path().join("metrics"), "info")).unwrap();
    let notify = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).unwrap();
    // As systemd does: the socket is descriptor 3, and the variables name the process that it becomes.
    let script = "import os, socket, sys\n\
        s = socket.socket(socket.AF_UNIX); s.bind('socket'); s.listen()\n\
        s.fileno() == 3 or os.dup2(s.fileno(), 3); os.set_inheritable(3, True)\n\
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n\
        os.execv(sys.argv[1], sys.argv[1:])";
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(binary()).args(["--address", "elsewhere"]);
    python.args(["--data-root", "data", "--root", "run", "--config", "config.toml"]);
    python.env("NOTIFY_SOCKET", dir.path().join("notify")).current_dir(dir.path()).stderr(log);
    let daemon = Daemon { child: python.spawn().unwrap(), dir };
    let heard = || {
        let mut heard = [0; 64];
        let count = notify.recv(&mut heard).unwrap();
        String::from_utf8_lossy(&heard[..count]).into_owned()
    };
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(heard(), "READY=1");
    block_on(async {
        client(&daemon.socket()).await.prepare(prepare("key")).await.unwrap();
    });
    assert!(!daemon.dir.path().join("elsewhere").exists());
    let (status, dir) = daemon.end(rustix::process::Signal::TERM);
    assert!(status.success() && dir.path().join("socket").exists(), "the socket is systemd's");
    assert_eq!(heard(), "STOPPING=1");
}
