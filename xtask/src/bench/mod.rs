// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench`: stos beside the other engines, in turn, in one run; medians and ratios.
//!
//! Times vary with the machine and the hour, ratios of one run do not: quote those.
//!
//! | module | what it is about |
//! |---|---|
//! | [`disk`] | the file system that all work on |
//! | [`clock`] | runs commands and times them |
//! | [`book`] | the samples |
//! | [`engines`] | who is measured, and how each does each thing |
//! | [`images`] | the images that only the benchmark uses |
//! | [`stand`] | all of it together, within the peers' root |
//! | [`pulls`], [`network`] | cold pulls and removals; pulls of what is there, and pushes |
//! | [`containers`], [`scale`] | create, run, exec, stop, delete; the same beside others, at once, and with many layers |
//! | [`inside`], [`space`] | reading and writing within containers; memory, disk, mounts |
//! | [`interrupt`] | signals end it with nothing left |
//! | [`snapshotter`] | containerd with stos's snapshotter, beside its own |
//! | [`limits`] | the same work without an engine: what the machine allows |
//! | [`targets`] | what is wanted, and whether it holds |
//! | [`report`], [`plot`] | the tables and drawings of `docs/performance.md` |
//!
//! The process that measures is this one, executed again inside the root that `setup --peers` made: there stos and every peer is a plain
//! command of it, so nobody pays for a wrapper.

mod bare_pull;
mod bare_start;
mod book;
mod clock;
mod containers;
mod disk;
mod engines;
mod images;
mod inside;
mod interrupt;
mod limits;
mod network;
mod plot;
mod pulls;
mod report;
mod scale;
mod snapshotter;
mod space;
mod stand;
mod targets;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::{Args, ValueEnum};
use stos_testkit::docker_registry::{DockerRegistry, DockerRegistryOptions};
use stos_testkit::environment;

use crate::process::{Run, output, step};
use crate::setup;
use crate::workspace::{Metadata, binary_under_test, cargo};
use book::Book;
use disk::Disk;
pub use stand::Settings;

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Cold pulls and removals
    Pulls,
    /// Pulls of what is there, and pushes
    Network,
    /// Create, run, exec, stop and delete, one at a time
    Containers,
    /// The same beside others that run, and at once
    Scale,
    /// The same with many layers
    Layers,
    /// Reads and writes within containers
    Inside,
    /// Memory, disk, mounts
    Space,
    /// containerd with stos's snapshotter, beside its own
    Snapshotter,
    /// The same work without an engine
    Limits,
}

/// The options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub struct Options {
    /// How many of what takes seconds, by each engine in turn
    #[arg(long)]
    rounds: Option<usize>,
    /// These parts alone: pulls,network,containers,scale,layers,inside,space,snapshotter,limits
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// Fewer of everything: to see that all of it works
    #[arg(long)]
    quick: bool,
    /// Write bench/results.json and docs/performance.md, as a full run with peers does
    #[arg(long)]
    write: bool,
    /// Write them from this file of results instead of measuring
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rounds", "only", "quick"])]
    from: Option<PathBuf>,
    /// Take the other parts from this file of results: a run that was cut short goes on
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    onto: Option<PathBuf>,
    /// Another build of stos, measured as `stos NAME` too
    #[arg(long, value_name = "NAME=FILE")]
    build: Vec<String>,
    /// In the peers' root already: the settings
    #[arg(long, hide = true, value_name = "FILE")]
    inside: Option<PathBuf>,
    /// Do one stage of a pull alone; the work is in the file
    #[arg(long, hide = true, value_name = "FILE")]
    stage: Option<PathBuf>,
    /// Run a command and print the peak of its memory in bytes
    #[arg(last = true, hide = true)]
    peak: Vec<String>,
}

/// Does what the options say.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(settings) = &options.inside {
        return stand::measure(settings);
    }
    if let Some(work) = &options.stage {
        return limits::stage(work);
    }
    if let [program, arguments @ ..] = &*options.peak {
        return space::print_peak(program, arguments);
    }
    let results = workspace()?.join("bench/results.json");
    if let Some(from) = &options.from {
        return report::write(&Book::load(from)?, &results);
    }
    let mut book = measure(options)?;
    if let Some(onto) = &options.onto {
        let mut earlier = Book::load(onto)?;
        earlier.update(book);
        book = earlier;
    }
    print!("{}", report::text(&book));
    let is_full = !options.quick && options.only.is_empty() && book.facts.contains_key("podman");
    if options.write || is_full {
        report::write(&book, &results)?;
    }
    Ok(())
}

/// Prepares everything, and measures inside the peers' root where there is one.
fn measure(options: &Options) -> anyhow::Result<Book> {
    setup::run(false)?;
    images::ensure()?;
    let (binary, measurer) = (binary_under_test()?, measurer(options)?);
    let disk = step("making the disk", || Disk::new(options.quick))?;
    let registries = Registries::start(&disk)?;
    let has_peers = environment::cache().join("peers/ready").exists();
    let seen = |path: &Path| {
        if has_peers { Path::new("/host").join(path.strip_prefix("/").unwrap_or(path)) } else { path.into() }
    };
    let results = disk.path().join("results.json");
    let settings = Settings {
        binary: seen(&installed(&binary, &disk, "stos")?),
        builds: builds(options)?
            .into_iter()
            .map(|(name, path)| Ok((name.clone(), seen(&installed(&path, &disk, &format!("stos-{name}"))?))))
            .collect::<anyhow::Result<_>>()?,
        measurer: seen(&measurer),
        disk: seen(&disk.path()),
        cache: seen(&environment::cache()),
        layout: seen(&environment::layout()),
        snapshotter: match has_peers && (options.only.is_empty() || options.only.contains(&Group::Snapshotter)) {
            true => Some(seen(&installed(&snapshotter::program()?, &disk, "stos-snapshotter")?)),
            false => None,
        },
        bare: bare_start::compile(&disk).map(|path| seen(&path)),
        registry: registries.cache.address().to_owned(),
        registry_pid: registries.cache.pid(),
        tls: registries.tls.address().to_owned(),
        certificates: seen(&registries.certificates),
        sink: registries.sink.address().to_owned(),
        sink_storage: seen(&disk.path().join("sink")),
        results: seen(&results),
        has_peers,
        is_quick: options.quick,
        rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 5 }),
        only: options.only.clone(),
    };
    anyhow::ensure!(settings.rounds > 0, "expected at least one round");
    let path = disk.path().join("settings.json");
    fs::write(&path, serde_json::to_vec(&settings)?)?;
    let words =
        [settings.measurer.display().to_string(), "bench".into(), "--inside".into(), seen(&path).display().to_string()];
    let mut command = if has_peers {
        setup::peers::command(&words)
    } else {
        eprintln!("no peers: `cargo xtask setup --peers` installs them; stos is measured alone");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]).args(&words);
        command
    };
    command.env(environment::CACHE, &settings.cache).env_remove("TMPDIR");
    let went = interrupt::run(&mut command);
    if !results.exists() {
        went.and_then(|()| anyhow::bail!("nothing was measured"))?;
        unreachable!("a bail is an error");
    }
    let mut book = Book::load(&results)?;
    if let Err(error) = went {
        // What was measured before is not lost.
        let kept = env::temp_dir().join("stos-bench-results.json");
        book.save(&kept)?;
        return Err(error.context(format!("what was measured before is in {}", kept.display())));
    }
    if settings.wants(Group::Containers) {
        containers::flushes(&binary, &disk, &settings, &mut book)?;
    }
    Ok(book)
}

/// The registries that run outside the peers' root, for they are programs of the host's.
struct Registries {
    cache: DockerRegistry,
    tls: DockerRegistry,
    sink: DockerRegistry,
    certificates: PathBuf,
}

impl Registries {
    fn start(disk: &Disk) -> anyhow::Result<Self> {
        let tls = DockerRegistryOptions { read_only: true, tls: true, ..DockerRegistryOptions::default() };
        let tls = DockerRegistry::start_with(&environment::registry_storage(), tls)?;
        let certificates = disk.path().join("certificates");
        fs::create_dir_all(&certificates)?;
        fs::write(certificates.join("ca.crt"), tls.ca_pem().unwrap_or_default())?;
        let sink = DockerRegistry::start(&disk.path().join("sink"))?;
        Ok(Self { cache: DockerRegistry::start_over_cache()?, tls, sink, certificates })
    }
}

/// A binary as it would be installed, by a copy: the page cache holds what a linker has written in small pieces, which are slower to map.
fn installed(binary: &Path, disk: &Disk, name: &str) -> anyhow::Result<PathBuf> {
    let path = disk.path().join("bin").join(name);
    fs::create_dir_all(disk.path().join("bin"))?;
    fs::copy(binary, &path).with_context(|| binary.display().to_string())?;
    Ok(path)
}

fn builds(options: &Options) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let parse = |word: &String| -> anyhow::Result<(String, PathBuf)> {
        let (name, path) = word.split_once('=').with_context(|| format!("{word:?} is no NAME=FILE"))?;
        Ok((name.to_owned(), PathBuf::from(path)))
    };
    options.build.iter().map(parse).collect()
}

/// What measures: this program, built as stos is, for what the limits do must not be slower by its build. Where a binary of stos is given
/// nothing is built.
fn measurer(options: &Options) -> anyhow::Result<PathBuf> {
    if options.quick || env::var_os(environment::BINARY).is_some() {
        return env::current_exe().context("finding xtask itself");
    }
    cargo(["build", "--release", "--package", "xtask"]).run()?;
    Ok(Metadata::load()?.binary().with_file_name("xtask"))
}

fn workspace() -> anyhow::Result<PathBuf> {
    Ok(Metadata::load()?.workspace_root)
}

/// What the machine is, for the report.
fn machine() -> Vec<(String, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let count = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let model = field(&cpu, "model name").unwrap_or_else(|| env::consts::ARCH.to_owned());
    let date = output(Command::new("date").args(["-u", "+%Y-%m-%d"])).unwrap_or_default();
    [
        ("processors", format!("{count} × {model}")),
        ("memory", field(&memory, "MemTotal").unwrap_or_default()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("date", date),
    ]
    .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
    .into()
}
