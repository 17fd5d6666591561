// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask runtimes`: `run` and `exec` of one bundle, by stos beside today's crun and runc, in turn, with pauses between and without.
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
    // Called by another name stos is a runtime and nothing else.
    std::os::unix::fs::symlink(format!("/host{}", binary.display()), work.path().join("runc-stos"))?;
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
    println!("{:<24} {:>8} {:>8} {:>8}   of crun's, of runc's", "milliseconds", RUNTIMES[0], RUNTIMES[1], RUNTIMES[2]);
    write(&["/program"])?;
    for pause in [0, 150] {
        let run = |name: &str| {
            let mut command = runtime(work, name);
            command.args(["run", "--bundle"]).arg(&bundle).arg("measured");
            command
        };
        table(&format!("run, pauses of {pause} ms"), rounds, pause, run)?;
    }
    write(&["/program", "stay"])?;
    for name in RUNTIMES {
        runtime(work, name).args(["create", "--bundle"]).arg(&bundle).arg(format!("of-{name}")).run()?;
        runtime(work, name).arg("start").arg(format!("of-{name}")).run()?;
    }
    let measured = [0, 150].iter().try_for_each(|pause| {
        let exec = |name: &str| {
            let mut command = runtime(work, name);
            command.arg("exec").arg(format!("of-{name}")).arg("/program");
            command
        };
        table(&format!("exec, pauses of {pause} ms"), rounds, *pause, exec)
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

/// Measures each in turn, and prints the medians with their ratios.
fn table(what: &str, rounds: usize, pause: u64, command: impl Fn(&str) -> Command) -> anyhow::Result<()> {
    let mut times = [const { Vec::new() }; RUNTIMES.len()];
    for _ in 0..rounds {
        for (name, times) in RUNTIMES.iter().zip(&mut times) {
            let mut command = command(name);
            sleep(Duration::from_millis(pause));
            let start = Instant::now();
            let status = command.status().with_context(|| format!("running {name}"))?;
            times.push(start.elapsed());
            anyhow::ensure!(status.success(), "{name}, {what}: {status}");
        }
    }
    let [own, crun, runc] = times.map(|mut times| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1000.0
    });
    println!("{what:<24} {own:>8.2} {crun:>8.2} {runc:>8.2}   {:.2}, {:.2}", own / crun, own / runc);
    Ok(())
}
