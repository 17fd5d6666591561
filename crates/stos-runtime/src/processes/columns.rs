// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can be told of a process: podman's format descriptors and those of ps(1), with podman's headers.

use std::fs;

use stos_sys::process::credentials::CAPABILITY_NAMES;

use super::read::Process;
use super::{View, duration, nanoseconds};

/// What is told of each process.
pub struct Column {
    /// The descriptor.
    pub name: &'static str,
    /// What stands above it.
    pub header: &'static str,
    /// AIX's code for it (ps(1), "AIX FORMAT DESCRIPTORS"); empty where there is none.
    code: &'static str,
    pub(super) value: fn(&Process, &mut View) -> String,
}

const fn column(
    name: &'static str,
    code: &'static str,
    header: &'static str,
    value: fn(&Process, &mut View) -> String,
) -> Column {
    Column { name, header, code, value }
}

/// What is shown where nothing is asked for: podman's columns.
const DEFAULT: [&str; 8] = ["user", "pid", "ppid", "pcpu", "etime", "tty", "time", "args"];

static COLUMNS: [Column; 31] = [
    column("args", "%a", "COMMAND", |process, _| {
        // As ps(1) has it of one that shows none.
        if process.args.is_empty() { format!("[{}]", process.comm) } else { process.args.clone() }
    }),
    column("capamb", "", "AMBIENT CAPS", |process, _| capabilities(process.capabilities[4])),
    column("capbnd", "", "BOUNDING CAPS", |process, _| capabilities(process.capabilities[3])),
    column("capeff", "", "EFFECTIVE CAPS", |process, _| capabilities(process.capabilities[2])),
    column("capinh", "", "INHERITED CAPS", |process, _| capabilities(process.capabilities[0])),
    column("capprm", "", "PERMITTED CAPS", |process, _| capabilities(process.capabilities[1])),
    column("comm", "%c", "COMMAND", |process, _| process.comm.clone()),
    column("etime", "%t", "ELAPSED", |process, view| duration(view.elapsed(process))),
    column("group", "%G", "GROUP", |process, view| view.group(process.groups[1])),
    column("groups", "", "GROUPS", |process, view| {
        process.more_groups.iter().map(|id| view.group(*id)).collect::<Vec<_>>().join(",")
    }),
    column("hgroup", "", "HGROUP", |process, view| view.host.group(process.groups[1])),
    column("hgroups", "", "HGROUPS", |process, view| {
        process.more_groups.iter().map(|id| view.host.group(*id)).collect::<Vec<_>>().join(",")
    }),
    column("hpid", "", "HPID", |process, _| process.pid.to_string()),
    column("huser", "", "HUSER", |process, view| view.host.user(process.users[1])),
    column("label", "", "LABEL", |process, _| {
        let label = fs::read_to_string(format!("/proc/{}/attr/current", process.pid)).unwrap_or_default();
        Some(label.trim_end_matches(['\0', '\n'])).filter(|label| !label.is_empty()).unwrap_or("?").to_owned()
    }),
    column("nice", "%n", "NI", |process, _| process.nice.to_string()),
    column("pcpu", "%C", "%CPU", |process, view| {
        let elapsed = view.elapsed(process);
        let used = nanoseconds(process.cpu_ticks);
        let percent = if elapsed == 0 { 0.0 } else { used as f64 / elapsed as f64 * 100.0 };
        format!("{percent:.3}")
    }),
    column("pgid", "%r", "PGID", |process, view| view.inside(&process.ns_groups).to_string()),
    column("pid", "%p", "PID", |process, view| view.inside(&process.ns_pids).to_string()),
    column("ppid", "%P", "PPID", |process, view| view.inside(&process.ns_parents).to_string()),
    column("rgroup", "%g", "RGROUP", |process, view| view.group(process.groups[0])),
    column("rss", "", "RSS", |process, _| process.rss.to_string()),
    column("ruser", "%u", "RUSER", |process, view| view.user(process.users[0])),
    column("seccomp", "", "SECCOMP", |process, _| {
        match process.seccomp {
            0 => "disabled",
            1 => "strict",
            _ => "filter",
        }
        .to_owned()
    }),
    column("state", "", "STATE", |process, _| process.state.clone()),
    column("stime", "", "STIME", |process, view| {
        let elapsed = i64::try_from(view.elapsed(process)).unwrap_or(i64::MAX);
        let started = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_nanos(elapsed));
        started.map_or_else(|_| "?".to_owned(), |time| format!("{time:.0}"))
    }),
    column("time", "%x", "TIME", |process, _| duration(nanoseconds(process.cpu_ticks))),
    column("tty", "%y", "TTY", |process, _| terminal(process.tty)),
    column("uid", "", "UID", |process, view| view.users.inside(process.users[1]).to_string()),
    column("user", "%U", "USER", |process, view| view.user(process.users[1])),
    column("vsz", "%z", "VSZ", |process, _| process.vsz.to_string()),
];

/// Every descriptor.
#[cfg(test)]
pub(super) const NAMES: [&str; 31] = {
    let mut names = [""; 31];
    let mut at = 0;
    while at < 31 {
        names[at] = COLUMNS[at].name;
        at += 1;
    }
    names
};

/// Finds the columns of descriptors, which are words or words with commas between; without any podman's default ones. The first
/// that is none is the error.
pub fn columns(words: &[String]) -> Result<Vec<&'static Column>, String> {
    let words: Vec<&str> = match words {
        [] => DEFAULT.to_vec(),
        words => words.iter().flat_map(|word| word.split(',')).collect(),
    };
    let find = |word: &str| {
        let fits = |column: &&Column| column.name == word || (column.code == word && !word.is_empty());
        COLUMNS.iter().find(fits).ok_or_else(|| word.to_owned())
    };
    words.into_iter().map(find).collect()
}

/// Names with commas between, `none`, or `full` for all that there are.
fn capabilities(mask: u64) -> String {
    let all = (1_u64 << CAPABILITY_NAMES.len()) - 1;
    if mask == 0 {
        return "none".to_owned();
    }
    if mask & all == all {
        return "full".to_owned();
    }
    let names = CAPABILITY_NAMES.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| *name);
    names.collect::<Vec<_>>().join(",")
}

/// A terminal's device number as its name below `/dev` (Documentation/admin-guide/devices.txt); `?` for none.
fn terminal(number: u32) -> String {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match (major, minor) {
        (0, 0) => "?".to_owned(),
        (136..=143, minor) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, 0..64) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".to_owned(),
        _ => format!("{major}:{minor}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> Result<String, String> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        columns(&words).map(|found| found.iter().map(|column| column.name).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn descriptors_are_found_by_name_and_by_code() {
        assert_eq!(names(&[]), Ok(DEFAULT.join(" ")));
        assert_eq!(names(&["pid,hpid", "%C"]), Ok("pid hpid pcpu".to_owned()));
        assert_eq!(names(&["pid", "bogus"]), Err("bogus".to_owned()));
        assert_eq!(names(&["pid,"]), Err(String::new()));
    }

    #[test]
    fn capabilities_and_terminals_have_names() {
        assert_eq!(capabilities(0), "none");
        assert_eq!(capabilities(0x21), "CHOWN,KILL");
        assert_eq!(capabilities(u64::MAX), "full");
        for (number, name) in
            [(0, "?"), (34_817, "pts/1"), (0x401, "tty1"), (0x441, "ttyS1"), (0x501, "console"), (0x10_8800, "pts/256")]
        {
            assert_eq!(terminal(number), name, "{number:#x}");
        }
    }
}
