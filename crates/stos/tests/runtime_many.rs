// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A thousand containers come and go, one after the other and sixteen at a time, and nothing of them stays: no mount, no cgroup, no
//! process, no file, and no descriptor of anybody into what they had.

mod runtime_scene;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use runtime_scene::{Bundle, Runtime, eventually, output};
use stos_testkit::guard::Need;
use stos_testkit::require;

/// Fewer of another runtime's: it is compared, and not proved.
const OF_OTHERS: usize = 100;
const CONTAINERS: usize = 1000;
const AT_A_TIME: usize = 16;

/// Creates, starts and deletes one container.
fn live(command: &dyn Fn() -> Command, bundle: &Bundle, id: &str) {
    let run = |arguments: &[&str]| {
        let ended = command().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(ended.success(), "{arguments:?}: {ended}");
    };
    run(&["create", "--bundle", bundle.dir.to_str().unwrap(), id]);
    run(&["start", id]);
    run(&["delete", "--force", id]);
}

/// All files below a directory.
fn tree(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

/// Mounts in which one of these paths is named; others come and go with other tests.
fn mounts(paths: [&Path; 2]) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| paths.iter().any(|path| line.contains(path.to_str().unwrap()))).count()
}

/// Processes in a cgroup whose name has `mark`, and those that have a file below `root` open.
fn processes(mark: &str, root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten().filter(|entry| entry.path().join("stat").exists()) {
        let table = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let has_file = files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file.starts_with(root));
        if table.contains(mark) || has_file {
            found.push(fs::read_to_string(entry.path().join("stat")).unwrap_or_default());
        }
    }
    found
}

#[test]
fn of_a_thousand_containers_nothing_stays() {
    require!(Need::Root, Need::Binary);
    let runtime = Runtime::new();
    let bundle = runtime.bundle(&["sleep", "1000"]);
    let containers = if runtime.is_ours() { CONTAINERS } else { OF_OTHERS };
    let mark = runtime.id("many");
    let (rootfs, root) = (bundle.rootfs(""), runtime.root());
    let program = runtime.command().get_program().to_owned();
    // A `Runtime` itself is for one thread.
    let command = || {
        let mut command = Command::new(&program);
        command.arg("--root").arg(&root).env_remove("STOS_ROOT").env_remove("STOS_DATA_ROOT").stdin(Stdio::null());
        command
    };
    // The runtime's own directories are made by the first.
    live(&command, &bundle, &format!("{mark}-first"));
    let cgroups =
        || tree(Path::new("/sys/fs/cgroup")).into_iter().filter(|path| path.to_string_lossy().contains(&mark));
    let tombstones = |path: &PathBuf| path.ends_with("tombstones");
    let files = || tree(&root).into_iter().filter(|path| !tombstones(path)).collect::<BTreeSet<_>>();
    let mounts = || mounts([&rootfs, &root]);
    let before = (mounts(), files(), tree(&rootfs));
    for number in 0..containers {
        live(&command, &bundle, &format!("{mark}-{number}"));
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= containers {
                        break;
                    }
                    live(&command, &bundle, &format!("{mark}-side-{number}"));
                }
            });
        }
    });
    assert_eq!(output(command().args(["list", "--quiet"])).stdout, "");
    assert_eq!((mounts(), files(), tree(&rootfs)), before);
    assert_eq!(cgroups().collect::<Vec<_>>(), Vec::<PathBuf>::new());
    // A process that was killed is gone when its parent has been told.
    eventually(|| processes(&mark, &root).is_empty());
}
