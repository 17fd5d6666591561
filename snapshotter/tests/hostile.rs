// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Callers on the daemon's socket who mean no good, or too much: each call has the code that containerd expects, and what others have
//! is not harmed.
#![expect(clippy::print_stderr, reason = "how far it came, shown where it fails")]

mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::process::Signal;
use scene::daemon::{Daemon, prepare};
use scene::wire::{block_on, snapshots as client};
use stos_snapshotter::api::snapshots::*;
use stos_testkit::guard::Need;
use tonic::Code;
use tonic::codegen::tokio_stream::StreamExt;

/// How many snapshots are open at once.
const OPEN: usize = 10_000;
/// How many connections there are.
const CALLERS: usize = 8;

/// Has each of the callers, on a connection of its own, do its part.
fn together(socket: &Path, part: impl AsyncFn(usize, Caller) + Sync) {
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let part = &part;
            scope.spawn(move || block_on(async { part(caller, Caller(client(socket).await)).await }));
        }
    });
}

struct Caller(snapshots_client::SnapshotsClient<scene::wire::Channel>);

impl Caller {
    async fn remove(&mut self, key: &str) -> Code {
        let request = RemoveSnapshotRequest { key: key.to_owned(), ..Default::default() };
        code(self.0.remove(request).await)
    }

    async fn prepare(&mut self, key: &str, parent: &str) -> Code {
        code(self.0.prepare(PrepareSnapshotRequest { parent: parent.to_owned(), ..prepare(key) }).await)
    }

    async fn commit(&mut self, name: &str, key: &str) -> Code {
        let (name, key) = (name.to_owned(), key.to_owned());
        code(self.0.commit(CommitSnapshotRequest { name, key, ..Default::default() }).await)
    }
}

/// Gives the code of an answer; no answer is our own fault.
#[track_caller]
fn code<T>(got: Result<T, tonic::Status>) -> Code {
    let code = got.as_ref().map_or_else(tonic::Status::code, |_| Code::Ok);
    assert!(!matches!(code, Code::Internal | Code::Unknown | Code::DataLoss), "{:?}", got.err());
    code
}

/// All snapshots, by name.
fn list(daemon: &Daemon) -> BTreeMap<String, Info> {
    block_on(async {
        let mut stream =
            client(&daemon.socket()).await.list(ListSnapshotsRequest::default()).await.unwrap().into_inner();
        let mut all = BTreeMap::new();
        while let Some(part) = stream.next().await {
            all.extend(part.unwrap().info.into_iter().map(|info| (info.name.clone(), info)));
        }
        all
    })
}

#[test]
fn ten_thousand_open_snapshots_are_kept_through_a_kill_and_go() {
    stos_testkit::require!(Need::Root);
    let daemon = Daemon::start();
    let keys = |caller: usize| (caller..OPEN).step_by(CALLERS).map(|number| format!("key-{number}"));
    let started = std::time::Instant::now();
    together(&daemon.socket(), async |caller, mut client| {
        for key in keys(caller) {
            assert_eq!(client.prepare(&key, "").await, Code::Ok);
        }
    });
    eprintln!("{OPEN} prepared within {:?}", started.elapsed());
    assert_eq!(list(&daemon).len(), OPEN);
    let (_, dir) = daemon.end(Signal::KILL);
    std::fs::remove_file(dir.path().join("log")).unwrap();
    let started = std::time::Instant::now();
    let daemon = Daemon::start_in(dir, |command| command);
    eprintln!("read again within {:?}", started.elapsed());
    assert_eq!(list(&daemon).len(), OPEN);
    let started = std::time::Instant::now();
    together(&daemon.socket(), async |caller, mut client| {
        for key in keys(caller) {
            assert_eq!(client.remove(&key).await, Code::Ok);
            assert_eq!(client.remove(&key).await, Code::NotFound);
        }
    });
    eprintln!("removed within {:?}", started.elapsed());
    assert!(list(&daemon).is_empty());
    // It cleans up before it ends.
    let (status, dir) = daemon.end(Signal::TERM);
    assert!(status.success());
    for place in ["data/snapshots", "data/staging"] {
        let left = std::fs::read_dir(dir.path().join(place)).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name != "images.json").collect();
        assert!(left.is_empty(), "{place}: {left:?}");
    }
}

#[test]
fn callers_who_fight_for_the_same_names_get_codes_and_break_nothing() {
    stos_testkit::require!(Need::Root);
    const NAMES: [&str; 6] = ["a", "b", "../../etc", "c\nd", "", "\u{0}"];
    let daemon = Daemon::start();
    block_on(async {
        let mut honest = Caller(client(&daemon.socket()).await);
        assert_eq!(honest.prepare("key", "").await, Code::Ok);
        assert_eq!(honest.commit("mine", "key").await, Code::Ok);
        assert_eq!(honest.prepare("open", "mine").await, Code::Ok);
    });
    let seen = std::sync::Mutex::new(BTreeSet::new());
    together(&daemon.socket(), async |caller, mut client| {
        // A sequence of its own for each (Numerical Recipes' generator).
        let mut state = caller as u64;
        let mut next = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % bound
        };
        for _ in 0..150 {
            let (one, other) = (NAMES[next(NAMES.len())], NAMES[next(NAMES.len())]);
            let got = match next(8) {
                0 | 1 => client.prepare(one, if one == other { "" } else { other }).await,
                2 | 3 => client.commit(one, other).await,
                4 => client.remove(one).await,
                5 => client.remove("mine").await,
                6 => client.commit("mine", one).await,
                _ => client.prepare(one, "no such parent").await,
            };
            seen.lock().unwrap().insert(format!("{got:?}"));
        }
    });
    let seen: Vec<_> = seen.into_inner().unwrap().into_iter().collect();
    assert_eq!(seen, ["AlreadyExists", "FailedPrecondition", "InvalidArgument", "NotFound", "Ok"]);
    let check = |all: &BTreeMap<String, Info>| {
        assert_eq!(all["open"].parent, "mine");
        for info in all.values().filter(|info| !info.parent.is_empty()) {
            let parent = all.get(&info.parent).unwrap_or_else(|| panic!("{info:?} has lost its parent"));
            assert_eq!(parent.kind(), Kind::Committed);
        }
        for info in all.values() {
            let mut below = info;
            for _ in 0..all.len() {
                let Some(parent) = all.get(&below.parent) else { break };
                below = parent;
            }
            assert!(below.parent.is_empty(), "the parents of {info:?} form a circle");
        }
    };
    let before = list(&daemon);
    check(&before);
    let (_, dir) = daemon.end(Signal::KILL);
    assert!(!dir.path().join("etc").exists());
    std::fs::remove_file(dir.path().join("log")).unwrap();
    let daemon = Daemon::start_in(dir, |command| command);
    let after = list(&daemon);
    assert_eq!(before, after);
    block_on(async {
        let mut honest = Caller(client(&daemon.socket()).await);
        // The uppermost first, as many times as there are.
        for name in after.keys().cycle().take(after.len() * after.len()) {
            honest.remove(name).await;
        }
    });
    assert!(list(&daemon).is_empty());
}
