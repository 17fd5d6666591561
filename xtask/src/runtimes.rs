// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask runtimes`: `run` and `exec` of one bundle, by stos beside today's crun and runc: in turn, with pauses between and without,
//! and each by itself.
//!
//! The pauses count: on cgroup v1 and v2 a process that is moved by its number waits for the kernel after an idle moment, and engines
//! start containers at moments of their own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use stos_testkit::environment;

use crate::process::Run;
use crate::setup;
use crate::workspace::build_release;

/// How each runtime is called, in the order of the table.
const RUNTIMES: [&str; 3] = ["stos", "crun", "runc"];

/// How the runtimes take turns.
#[derive(Clone, Copy)]
enum Turns {
    /// One command of each, then the next of each, after so many milliseconds.
    After(u64),
    /// All of one, then all of the next. Who moves processes by their number finds the kernel ready for it then: it stays so for a few
    /// milliseconds after each move.
    Alone,
}

const TURNS: [Turns; 3] = [Turns::After(0), Turns::After(150), Turns::Alone];

impl std::fmt::Display for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::After(0) => f.write_str("in turn, no pauses"),
            Self::After(pause) => write!(f, "in turn, pauses of {pause} ms"),
            Self::Alone => f.write_str("each by itself, no pauses"),
        }
    }
}

/// What the bundle needs of the machine that it is measured on: the hierarchy without which crun refuses a host with cgroups of both versions.
const BEFORE: &str = r#"if [ ! -f /sys/fs/cgroup/cgroup.controllers ]; then
mkdir -p /sys/fs/cgroup/hugetlb && mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb; fi
"$@"; code=$?
find /sys/fs/cgroup/hugetlb -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null
umount /sys/fs/cgroup/hugetlb 2>/dev/null; exit $code"#;

/// A program that does nothing but end, or sleep: what it takes itself is the same for all.
const PROGRAM: &str = "#include <unistd.h>\nint main(int c, char **v) { if (c > 1) for (;;) pause(); return 0; }\n";

/// Measures, in the root that `setup --peers` made.
pub fn run(rounds: usize) -> anyhow::Result<()> {
    setup::run(true)?;
    let binary = build_release()?;
    let work = environment::scratch();
    let root = work.path().join("bundle/rootfs");
    fs::create_dir_all(&root)?;
    fs::write(work.path().join("program.c"), PROGRAM)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-static", "-o"]).arg(root.join("program")).arg(work.path().join("program.c")).run()?;
    // Called by another name stos is a runtime and nothing else. It is installed as the others are, by a copy: the page cache holds what
    // a linker has written in small pieces, which are slower to map.
    fs::copy(&binary, work.path().join("runc-stos")).context("installing stos")?;
    let inside = |path: &Path| format!("/host{}", path.display());
    let own = env::current_exe().context("finding xtask itself")?;
    let arguments = ["sh", "-c", BEFORE, "sh", &inside(&own), "runtimes", "--rounds", &rounds.to_string()];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
    arguments.extend(["--inside".to_owned(), inside(work.path())]);
    setup::peers::command(&arguments).run()
}

/// The same inside that root, with everything in `work`.
pub fn measure(work: &Path, rounds: usize) -> anyhow::Result<()> {
    let bundle = work.join("bundle");
    let mut spec = Command::new("crun");
    spec.args(["spec", "--bundle"]).arg(&bundle).run()?;
    let text = fs::read_to_string(bundle.join("config.json"))?;
    let mut config: serde_json::Value = serde_json::from_str(&text)?;
    config["process"]["terminal"] = false.into();
    let mut write = |arguments: &[&str]| {
        config["process"]["args"] = arguments.into();
        fs::write(bundle.join("config.json"), config.to_string())
    };
    println!("{:<32} {:>8} {:>8} {:>8}   of crun's, of runc's", "milliseconds", RUNTIMES[0], RUNTIMES[1], RUNTIMES[2]);
    write(&["/program"])?;
    for turns in TURNS {
        let run = |name: &str| {
            let mut command = runtime(work, name);
            command.args(["run", "--bundle"]).arg(&bundle).arg("measured");
            command
        };
        table("run", rounds, turns, run)?;
    }
    write(&["/program", "stay"])?;
    for name in RUNTIMES {
        runtime(work, name).args(["create", "--bundle"]).arg(&bundle).arg(format!("of-{name}")).run()?;
        runtime(work, name).arg("start").arg(format!("of-{name}")).run()?;
    }
    let measured = TURNS.into_iter().try_for_each(|turns| {
        let exec = |name: &str| {
            let mut command = runtime(work, name);
            command.arg("exec").arg(format!("of-{name}")).arg("/program");
            command
        };
        table("exec", rounds, turns, exec)
    });
    for name in RUNTIMES {
        runtime(work, name).args(["delete", "--force"]).arg(format!("of-{name}")).run()?;
    }
    measured
}

fn runtime(work: &Path, name: &str) -> Command {
    let program = if name == "stos" { work.join("runc-stos") } else { PathBuf::from(name) };
    let mut command = Command::new(program);
    // Capabilities that crun's own bundle makes ambient are no concern of the measure.
    command.arg("--root").arg(work.join(name)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Measures each, and prints the medians with their ratios.
fn table(what: &str, rounds: usize, turns: Turns, command: impl Fn(&str) -> Command) -> anyhow::Result<()> {
    let mut times = [const { Vec::new() }; RUNTIMES.len()];
    for turn in 0..rounds * RUNTIMES.len() {
        let (at, pause) = match turns {
            Turns::After(pause) => (turn % RUNTIMES.len(), pause),
            Turns::Alone => (turn / rounds, 0),
        };
        let mut command = command(RUNTIMES[at]);
        sleep(Duration::from_millis(pause));
        let start = Instant::now();
        let status = command.status().with_context(|| format!("running {}", RUNTIMES[at]))?;
        times[at].push(start.elapsed());
        anyhow::ensure!(status.success(), "{}, {what}: {status}", RUNTIMES[at]);
    }
    let [own, crun, runc] = times.map(|mut times| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1000.0
    });
    let what = format!("{what}, {turns}");
    println!("{what:<32} {own:>8.2} {crun:>8.2} {runc:>8.2}   {:.2}, {:.2}", own / crun, own / runc);
    Ok(())
}
