// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask coverage`: runs the tests with instrumented programs, and tells which lines and which public functions they execute.
//!
//! Counters are kept in files that are mapped into memory (`%c`), for much of what stos does ends in execve(2), _exit(2) or SIGKILL, and what
//! an ordinary instrumented program writes at its exit would be lost. LLVM's tools must be of the version that the compiler has: they
//! come from the toolchain, from this machine, or from the root that `setup --peers` makes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;
use stos_testkit::environment;

use crate::process::{Run, output, step};
use crate::setup;
use crate::workspace::{Metadata, cargo_program, in_workspace};

/// Whose public functions must all be executed: pull, validation, LayerFS and create.
const WHOLE: [&str; 6] = ["stos-engine", "stos-erofs", "stos-layerfs", "stos-registry", "stos-spec", "stos-store"];
/// What instruments, and has the counters where they can be mapped.
const FLAGS: &str = "-Cinstrument-coverage -Cllvm-args=-runtime-counter-relocation";

/// Runs all tests, or with `quick` those of the libraries alone, or none with `report_only`, where the last run's counters count; fails where a public function of [`WHOLE`] is not executed.
pub fn run(quick: bool, report_only: bool) -> anyhow::Result<()> {
    let tools = match Tools::find()? {
        Some(tools) => tools,
        // They would have to be installed, in a root that has to be made first.
        None if quick => {
            eprintln!("NOT MEASURED: there is no llvm-cov here of the version that the compiler has");
            return Ok(());
        }
        None => Tools::install()?,
    };
    setup::run(false)?;
    let target = Metadata::load()?.target_directory.join("coverage");
    let profiles = target.join("profiles");
    if profiles.exists() && !report_only {
        fs::remove_dir_all(&profiles)?;
    }
    fs::create_dir_all(&profiles)?;
    let cargo = |arguments: &[&str]| {
        let mut command = in_workspace(Command::new("env"));
        command.arg("--default-signal=INT,QUIT,HUP").arg(cargo_program()).args(arguments);
        command
            .env("RUSTFLAGS", FLAGS)
            .env("CARGO_TARGET_DIR", &target)
            .env("LLVM_PROFILE_FILE", profiles.join("%8m%c.profraw"));
        command
    };
    let mut scope = vec!["--workspace", "--exclude", "xtask"];
    if quick {
        scope.extend(["--exclude", "stos"]);
    }
    step("build the instrumented binary", || cargo(&["build", "--quiet", "--package", "stos"]).run())?;
    let binary = target.join("debug/stos");
    let objects = step("build the instrumented tests", || {
        objects(cargo(&[&["test", "--no-run", "--message-format", "json"][..], &scope].concat()))
    })?;
    // It bounds the memory of a monitor, and the counters of each take five times that.
    let without = ["--", "--skip", "a_thousand_containers_run_at_once"];
    let mut tests = cargo(&[&["test", "--quiet", "--no-fail-fast"][..], &scope, &without].concat());
    tests.env(environment::BINARY, &binary).env(environment::CACHE, environment::cache());
    let log = target.join("tests.log");
    if !report_only {
        fs::write(&log, "")?;
    }
    // What fails here passes or fails in `cargo xtask test`; here it counts what was executed.
    if !report_only && let Err(error) = step("run the tests", || tests.run_logged(&log)) {
        eprintln!("some failed under instrumentation: {error:#}");
    }
    let merged = target.join("merged.profdata");
    step("merge the counters", || tools.merge(&profiles, &merged))?;
    let objects: BTreeSet<_> = objects.into_iter().chain([binary]).collect();
    let report = step("map them to the sources", || tools.export(&merged, &objects))?;
    print(&report.lines_by_crate());
    let missed = report.missed()?;
    println!("\npublic functions of {} that no test has executed: {}", WHOLE.join(", "), missed.len());
    for (place, name) in &missed {
        println!("  {place} {name}");
    }
    anyhow::ensure!(quick || missed.is_empty(), "{} public functions are executed by no test", missed.len());
    Ok(())
}

/// The test programs that hold code of ours: those of the libraries. What lies in `crates/stos/tests` drives the binary.
fn objects(mut build: Command) -> anyhow::Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        manifest_path: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        kind: Vec<String>,
    }
    let text = output(&mut build)?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let holds_code = |message: &Message| {
        let is_of_binary = message.manifest_path.as_ref().is_some_and(|path| path.ends_with("crates/stos/Cargo.toml"));
        let is_test = message.target.as_ref().is_some_and(|target| target.kind.iter().any(|kind| kind == "test"));
        !(is_of_binary && is_test)
    };
    Ok(messages.filter(holds_code).filter_map(|message| message.executable).collect())
}

/// A line of what the compiler says of itself.
fn about_compiler(key: &str) -> anyhow::Result<String> {
    let about = output(Command::new("rustc").arg("-vV"))?;
    let value = about.lines().find_map(|line| line.strip_prefix(key));
    Ok(value.with_context(|| format!("rustc -vV does not tell its {key}"))?.trim().to_owned())
}

/// The compiler's major version of LLVM.
fn llvm_version() -> anyhow::Result<String> {
    let version = about_compiler("LLVM version:")?;
    Ok(version.split('.').next().unwrap_or_default().to_owned())
}

/// Where Debian has the programs of a version.
fn directory_of(major: &str) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}/bin"))
}

/// llvm-profdata and llvm-cov.
struct Tools {
    directory: PathBuf,
    /// Whether they are in the peers' root.
    is_in_peers: bool,
}

impl Tools {
    /// Those of the toolchain, of this machine, or of the peers' root.
    fn find() -> anyhow::Result<Option<Self>> {
        let host = about_compiler("host:")?;
        let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let of_toolchain = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin");
        let debians = directory_of(&llvm_version()?);
        let is_there = |directory: &PathBuf| directory.join("llvm-cov").is_file();
        let in_peers = setup::peers::root().join(debians.strip_prefix("/")?);
        Ok(match [of_toolchain, debians.clone()].into_iter().find(is_there) {
            Some(directory) => Some(Self { directory, is_in_peers: false }),
            None => is_there(&in_peers).then_some(Self { directory: debians, is_in_peers: true }),
        })
    }

    /// Installs them in the peers' root. Debian drops a version of LLVM when the next one comes.
    fn install() -> anyhow::Result<Self> {
        setup::run(true)?;
        let major = llvm_version()?;
        let directory = directory_of(&major);
        let script = format!(
            "test -x {0}/llvm-cov || {{ apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends llvm-{major}; }} > /tmp/llvm.log 2>&1 || {{ tail -5 /tmp/llvm.log >&2; exit 1; }}",
            directory.display()
        );
        output(setup::peers::command(&["sh", "-c", &script].map(str::to_owned)))
            .with_context(|| format!("installing llvm-{major}"))?;
        Ok(Self { directory, is_in_peers: true })
    }

    fn command(&self, tool: &str, arguments: Vec<String>) -> Command {
        let tool = self.directory.join(tool);
        if self.is_in_peers {
            return setup::peers::command(&[vec![tool.display().to_string()], arguments].concat());
        }
        let mut command = Command::new(tool);
        command.args(arguments);
        command
    }

    /// What a path of ours is called where they run.
    fn path(&self, path: &Path) -> String {
        format!("{}{}", if self.is_in_peers { "/host" } else { "" }, path.display())
    }

    fn merge(&self, profiles: &Path, merged: &Path) -> anyhow::Result<()> {
        let mut arguments = vec![
            "merge".to_owned(),
            "-sparse".to_owned(),
            "-failure-mode=warn".to_owned(),
            "-o".to_owned(),
            self.path(merged),
        ];
        for entry in fs::read_dir(profiles)? {
            arguments.push(self.path(&entry?.path()));
        }
        output(&mut self.command("llvm-profdata", arguments)).map(drop)
    }

    fn export(&self, merged: &Path, objects: &BTreeSet<PathBuf>) -> anyhow::Result<Report> {
        let mut arguments = vec![
            "export".to_owned(),
            "-format=text".to_owned(),
            "-skip-expansions".to_owned(),
            format!("-instr-profile={}", self.path(merged)),
        ];
        arguments.push("-ignore-filename-regex=/(rustc|registry|stos-testkit)/".to_owned());
        for (number, object) in objects.iter().enumerate() {
            if number > 0 {
                arguments.push("-object".to_owned());
            }
            arguments.push(self.path(object));
        }
        let text = output(&mut self.command("llvm-cov", arguments))?;
        let export: Export = serde_json::from_str(&text).context("reading llvm-cov's export")?;
        export.data.into_iter().next().context("llvm-cov has exported nothing")
    }
}

#[derive(Deserialize)]
struct Export {
    data: Vec<Report>,
}

/// What llvm-cov exports, as far as it is used here.
#[derive(Deserialize)]
struct Report {
    files: Vec<File>,
    functions: Vec<Function>,
}

#[derive(Deserialize)]
struct File {
    filename: PathBuf,
    summary: Summary,
}

#[derive(Deserialize)]
struct Summary {
    lines: Counts,
}

#[derive(Deserialize, Default, Clone, Copy)]
struct Counts {
    count: u64,
    covered: u64,
}

#[derive(Deserialize)]
struct Function {
    count: u64,
    filenames: Vec<PathBuf>,
    /// The first number of the first is the line that the function begins in.
    regions: Vec<Vec<u64>>,
}

impl Report {
    fn lines_by_crate(&self) -> BTreeMap<String, Counts> {
        let mut crates = BTreeMap::<String, Counts>::new();
        for file in &self.files {
            let Some((name, _)) = place(&file.filename) else { continue };
            let counts = crates.entry(name).or_default();
            counts.count += file.summary.lines.count;
            counts.covered += file.summary.lines.covered;
        }
        crates
    }

    /// Public functions of [`WHOLE`] that were not executed, by their place. A generic one has several bodies, one of which is enough.
    fn missed(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut executed = BTreeMap::<(PathBuf, u64), u64>::new();
        for function in &self.functions {
            let (Some(file), Some(line)) =
                (function.filenames.first(), function.regions.first().and_then(|region| region.first()))
            else {
                continue;
            };
            if place(file).is_some_and(|(name, _)| WHOLE.contains(&name.as_str())) {
                *executed.entry((file.clone(), *line)).or_default() += function.count;
            }
        }
        let mut missed = Vec::new();
        for ((file, line), count) in executed {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let first = text.lines().nth(usize::try_from(line)?.saturating_sub(1)).unwrap_or_default().trim_start();
            if let (0, Some(rest)) = (count, first.strip_prefix("pub ")) {
                let name = rest.split("fn ").nth(1).and_then(|rest| rest.split(['(', '<']).next()).unwrap_or(rest);
                let (crate_name, inside) = place(&file).unwrap_or_default();
                missed.push((format!("{crate_name}/{inside}:{line}"), name.to_owned()));
            }
        }
        Ok(missed)
    }
}

/// The crate that a source file belongs to, and its path in it; `None` for what is none of ours, or no code of a crate.
fn place(file: &Path) -> Option<(String, String)> {
    let text = file.to_str()?;
    let (_, below) = text.rsplit_once("/crates/")?;
    let (name, inside) = below.split_once('/')?;
    inside.starts_with("src/").then(|| (name.to_owned(), inside.to_owned()))
}

fn print(crates: &BTreeMap<String, Counts>) {
    println!("\n{:<16} {:>8} {:>9} {:>7}", "crate", "lines", "executed", "share");
    let all = crates.values().fold(Counts::default(), |sum, counts| Counts {
        count: sum.count + counts.count,
        covered: sum.covered + counts.covered,
    });
    for (name, Counts { count, covered }) in
        crates.iter().map(|(name, counts)| (name.as_str(), *counts)).chain([("all", all)])
    {
        println!("{name:<16} {count:>8} {covered:>9} {:>6.1}%", 100.0 * covered as f64 / count.max(1) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_belongs_to_its_crate() {
        let of = |path: &str| place(Path::new(path));
        assert_eq!(of("/x/crates/stos-spec/src/user.rs"), Some(("stos-spec".to_owned(), "src/user.rs".to_owned())));
        assert_eq!(of("/x/crates/stos/tests/run.rs"), None);
        assert_eq!(of("/rustc/abc/library/core/src/str.rs"), None);
    }
}
