// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The processes of a container, as it sees them and as the host does: podman's `top` (podman-top(1)), read from `/proc` alone. The
//! container needs no ps(1) for it.

mod columns;
mod read;

use std::collections::HashMap;
use std::path::Path;

use stos_sys::process::identity::{ticks_per_second, ticks_since_boot};
use stos_sys::rooted::Root;

pub use columns::{Column, columns};

use crate::accounts::{group_name, user_name};
use crate::error::Result;
use crate::state::RunState;
use read::{IdMap, Process};

/// Gives a line for each process of a container that runs, with what `columns` ask for. One that ends meanwhile is left out.
pub fn list(run: &RunState, columns: &[&Column]) -> Result<Vec<Vec<String>>> {
    let Some(init) = &run.init else { return Ok(Vec::new()) };
    let Some(first) = Process::read(init.pid) else { return Ok(Vec::new()) };
    let mut view = View::new(&first);
    let processes: Vec<_> = run.cgroup.processes()?.into_iter().filter_map(Process::read).collect();
    Ok(processes
        .iter()
        .map(|process| columns.iter().map(|column| (column.value)(process, &mut view)).collect())
        .collect())
}

/// What is needed to tell of a process in the container's words.
pub(crate) struct View {
    /// Which of a process's numbers the container's own pid namespace knows it by.
    level: usize,
    users: IdMap,
    groups: IdMap,
    container: Names,
    host: Names,
    /// The time since the boot, in ticks.
    now: u64,
}

impl View {
    fn new(first: &Process) -> Self {
        let root = |path: String| Root::open(Path::new(&path)).ok();
        Self {
            level: first.ns_pids.len().saturating_sub(1),
            users: IdMap::read(first.pid, "uid_map"),
            groups: IdMap::read(first.pid, "gid_map"),
            container: Names::of(root(format!("/proc/{}/root", first.pid))),
            host: Names::of(root("/".to_owned())),
            now: ticks_since_boot(),
        }
    }

    /// A number in the container's pid namespace; 0 is none of its processes.
    fn inside(&self, numbers: &[i32]) -> i32 {
        numbers.get(self.level).copied().unwrap_or(0)
    }

    fn user(&mut self, id: u32) -> String {
        let id = self.users.inside(id);
        self.container.user(id)
    }

    fn group(&mut self, id: u32) -> String {
        let id = self.groups.inside(id);
        self.container.group(id)
    }

    /// Nanoseconds since the process's start.
    fn elapsed(&self, process: &Process) -> u128 {
        nanoseconds(self.now.saturating_sub(process.start_time))
    }
}

/// Names of users and groups as account files have them; the number where they have none.
struct Names {
    root: Option<Root>,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    fn of(root: Option<Root>) -> Self {
        Self { root, users: HashMap::new(), groups: HashMap::new() }
    }

    fn user(&mut self, id: u32) -> String {
        let find = || self.root.as_ref().and_then(|root| user_name(root, id)).unwrap_or_else(|| id.to_string());
        self.users.entry(id).or_insert_with(find).clone()
    }

    fn group(&mut self, id: u32) -> String {
        let find = || self.root.as_ref().and_then(|root| group_name(root, id)).unwrap_or_else(|| id.to_string());
        self.groups.entry(id).or_insert_with(find).clone()
    }
}

fn nanoseconds(ticks: u64) -> u128 {
    u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second())
}

/// Gives nanoseconds as Go and so podman print a time: `1h2m3.5s`, `340ms`, `0s`.
pub fn duration(nanoseconds: u128) -> String {
    let with_part = |whole: u128, part: u128, digits: usize, unit: &str| {
        let part = format!("{part:0digits$}");
        let part = part.trim_end_matches('0');
        if part.is_empty() { format!("{whole}{unit}") } else { format!("{whole}.{part}{unit}") }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => with_part(nanoseconds / 1_000, nanoseconds % 1_000, 3, "µs"),
        1_000_000..1_000_000_000 => with_part(nanoseconds / 1_000_000, nanoseconds % 1_000_000, 6, "ms"),
        _ => {
            let (seconds, part) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let seconds = with_part(seconds % 60, part, 9, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_go_prints_them() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5µs"),
            (5_441_615, "5.441615ms"),
            (340_000_000, "340ms"),
            (1_000_000_000, "1s"),
            (61_050_000_000, "1m1.05s"),
            (3_600_000_000_000, "1h0m0s"),
            (90_061_000_000_001, "25h1m1.000000001s"),
        ] {
            assert_eq!(duration(nanoseconds), expected);
        }
    }

    #[test]
    fn names_come_from_account_files_and_else_numbers_stay() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "web:x:7:8::/:/bin/sh\n").unwrap();
        std::fs::write(dir.path().join("etc/group"), "staff:x:8:web\n").unwrap();
        let mut names = Names::of(Root::open(dir.path()).ok());
        assert_eq!((names.user(7), names.user(9)), ("web".to_owned(), "9".to_owned()));
        assert_eq!((names.group(8), names.group(9)), ("staff".to_owned(), "9".to_owned()));
        assert_eq!(Names::of(None).user(7), "7");
    }

    #[test]
    fn a_process_is_told_in_all_columns() {
        let own = Process::read(std::process::id().cast_signed()).unwrap();
        let mut view = View::new(&own);
        let of = |name: &str, view: &mut View| (columns(&[name.to_owned()]).unwrap()[0].value)(&own, view);
        assert_eq!(of("hpid", &mut view), std::process::id().to_string());
        for name in columns::NAMES {
            assert!(!of(name, &mut view).is_empty() || ["groups", "hgroups", "label"].contains(&name), "{name}");
        }
    }
}
