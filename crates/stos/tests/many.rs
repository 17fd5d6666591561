// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A thousand containers of one image at once: what each costs the host, and that nothing of them stays.

mod sandbox;

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use sandbox::shell::{Shell, cgroups_of, eventually};
use stos_testkit::guard::Need;
use stos_testkit::require;

const CONTAINERS: usize = 1000;

/// As many as this machine has processors for, and some that wait for the disk.
const AT_A_TIME: usize = 4;

/// What may stay in memory for each container besides its own processes. A debug build is relocated when it starts, which makes most of its
/// constants its own.
const MOST_PRIVATE_KIB: u64 = if cfg!(debug_assertions) { 4096 } else { 1024 };

/// `Pss_Anon` of a process, in KiB: what it alone takes of memory (proc(5), `smaps_rollup`).
fn private_memory(pid: i64) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The parent of a process (field 4 of its `stat`).
fn parent(pid: i64) -> i64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_thousand_containers_run_at_once_and_nothing_of_them_stays() {
    require!(Need::Root, Need::Binary);
    let shell = Shell::new();
    let sandbox = &shell.sandbox;
    let start = |number: usize| {
        let name = format!("c{number}");
        sandbox.ok(&["run", "-d", "--name", &name, "shell:1", "sleep", "100000"]).trim().to_owned()
    };
    let first = start(0);
    // Other tests mount at the same time.
    let host_mounts = || sandbox.mounts("").len();
    let mounts = host_mounts();
    let next = AtomicUsize::new(1);
    let mut ids: BTreeSet<String> = std::thread::scope(|scope| {
        let one = || {
            let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
            numbers.take_while(|&number| number < CONTAINERS).map(start).collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(one)).collect();
        all.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    ids.insert(first.clone());
    assert_eq!(ids.len(), CONTAINERS);
    let listed = sandbox.json(&["list", "--format", "json"]);
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>(), ids);
    assert!(listed.iter().all(|line| line["status"] == "running"));
    assert!(host_mounts() < mounts + CONTAINERS / 10, "{mounts} mounts have become {}", host_mounts());
    for line in listed {
        let monitor = parent(line["pid"].as_i64().unwrap());
        let private = private_memory(monitor);
        assert!(private <= MOST_PRIVATE_KIB, "{private} KiB of the monitor of {}", line["id"]);
    }
    let all: Vec<_> = ["delete", "--force"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    sandbox.ok(&all);
    assert_eq!(sandbox.ok(&["list", "--quiet"]), "");
    for directory in ["containers", "names", "staging"] {
        assert_eq!(sandbox.names(directory), [""; 0], "{directory}");
    }
    assert_eq!(fs::read_dir(sandbox.root().join("containers")).unwrap().count(), 0);
    let left: Vec<_> = cgroups_of("").into_iter().filter(|path| ids.iter().any(|id| path.contains(id))).collect();
    assert_eq!(left, [""; 0]);
    eventually("no process is left", || {
        let ours = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        pids.filter(|pid| pid.parse::<u32>().is_ok()).all(|pid| !ours(&pid).contains(&first))
    });
}
