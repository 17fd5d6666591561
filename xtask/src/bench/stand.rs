// SPDX-License-Identifier: Apache-2.0 OR MIT
//! All that is measured, from within the peers' root: each part of the benchmark in turn, each engine in turn.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::book::Book;
use super::clock::{self, Sample};
use super::engines::{self, Act, Engine};
use super::{
    Group, containers, disk, images, inside, interrupt, limits, machine, network, pulls, scale, snapshotter, space,
};
use crate::hierarchy::Hierarchy;
use crate::process::step;

/// What the process that measures is told; paths are those of its root.
#[derive(Debug, Serialize, Deserialize)]
pub struct Settings {
    /// stos.
    pub binary: PathBuf,
    /// Other builds of it, with their names.
    pub builds: Vec<(String, PathBuf)>,
    /// This program.
    pub measurer: PathBuf,
    /// The file system that all work on.
    pub disk: PathBuf,
    /// The cache that setup fills.
    pub cache: PathBuf,
    /// The OCI image layout of the real images.
    pub layout: PathBuf,
    /// stos's snapshotter; `None` where it is not measured.
    pub snapshotter: Option<PathBuf>,
    /// The program that does what a start has to, and nothing else; `None` without a compiler.
    pub bare: Option<PathBuf>,
    /// Where the registry with the images listens.
    pub registry: String,
    /// That registry's process.
    pub registry_pid: u32,
    /// The same with TLS.
    pub tls: String,
    /// The directory with the certificate of its CA, `ca.crt`.
    pub certificates: PathBuf,
    /// Where a registry listens that may be written to.
    pub sink: String,
    /// Where it keeps what it gets.
    pub sink_storage: PathBuf,
    /// Where the results go.
    pub results: PathBuf,
    /// Whether this is the peers' root.
    pub has_peers: bool,
    /// Whether there are fewer of everything.
    pub is_quick: bool,
    /// How many of what takes seconds.
    pub rounds: usize,
    /// These parts alone; all where it is empty.
    pub only: Vec<Group>,
}

impl Settings {
    /// Whether a part is asked for.
    pub fn wants(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }

    /// How many of what takes milliseconds.
    pub fn repeats(&self) -> usize {
        if self.is_quick { 3 } else { 21 }
    }
}

/// The engines, and what they have.
pub struct Stand {
    /// What was told.
    pub settings: Settings,
    /// Who is measured.
    pub engines: Vec<Box<dyn Engine>>,
    /// Which engine has which image.
    present: Mutex<BTreeSet<(String, String)>>,
}

/// Measures what the settings in the file ask for, and saves the results after each part.
pub fn measure(settings: &Path) -> anyhow::Result<()> {
    let text = fs::read(settings).with_context(|| settings.display().to_string())?;
    let settings: Settings = serde_json::from_slice(&text)?;
    interrupt::watch()?;
    let _hierarchy = settings.has_peers.then(Hierarchy::mount);
    let results = settings.results.clone();
    let engines = step("starting the engines", || engines::find(&settings))?;
    let stand = Stand { settings, engines, present: Mutex::default() };
    let mut book = Book::default();
    book.facts.extend(machine());
    book.facts.extend(versions(&stand)?);
    let (rounds, repeats) = (stand.settings.rounds, stand.settings.repeats());
    let samples = format!("{rounds} of what takes seconds, {repeats} of what takes milliseconds");
    book.facts.insert("samples".into(), samples);
    type Part = fn(&Stand, &mut Book) -> anyhow::Result<()>;
    let parts: [(Group, &str, Part); 9] = [
        (Group::Pulls, "cold pulls", pulls::measure),
        (Group::Network, "pulls of what is there, and pushes", network::measure),
        (Group::Limits, "limits", limits::measure),
        (Group::Space, "space", space::measure),
        (Group::Containers, "containers, one at a time", containers::measure),
        (Group::Layers, "many layers", scale::measure_layers),
        (Group::Scale, "many containers", scale::measure),
        (Group::Inside, "within containers", inside::measure),
        (Group::Snapshotter, "under containerd", snapshotter::measure),
    ];
    let mut went = Ok(());
    for (group, name, part) in parts {
        if stand.settings.wants(group) {
            eprintln!("measuring: {name}");
            went = step(name, || part(&stand, &mut book));
            book.save(&results)?;
            if went.is_err() {
                break;
            }
        }
    }
    if went.is_err() {
        end_containers(&stand.settings.disk)?;
    }
    stand.clear();
    went
}

/// Kills what a part that failed has left: the processes of containers that stay, by their command and by a mount of this disk.
fn end_containers(disk: &Path) -> anyhow::Result<()> {
    let device = fs::metadata(disk)?.dev();
    let device = format!(" {}:{} ", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let name = disk.parent().and_then(Path::file_name).context("the disk's own directory")?.to_string_lossy();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if !read("cmdline").split_terminator('\0').eq(engines::STAY) {
            continue;
        }
        // Some bind files of the disk, others name it in the options of their overlay.
        let mounts = read("mountinfo");
        if mounts.contains(&device) || mounts.contains(&*name) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    Ok(())
}

/// Names the engines as they name themselves.
fn versions(stand: &Stand) -> anyhow::Result<Vec<(String, String)>> {
    let mut asked = vec![("stos", stand.settings.binary.display().to_string(), "--version")];
    if stand.settings.has_peers {
        let peers = ["podman", "containerd", "crun", "runc", "umoci", "skopeo"];
        asked.extend(peers.map(|name| (name, name.to_owned(), "--version")));
    }
    let first = |(name, program, argument): (&str, String, &str)| {
        let said = clock::output(Command::new(program).arg(argument))?;
        Ok((name.to_owned(), said.lines().next().unwrap_or_default().to_owned()))
    };
    asked.into_iter().map(first).collect()
}

impl Stand {
    /// A reference at the registry: `deb:12`.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.settings.registry)
    }

    /// The engines that can do something.
    pub fn engines_for(&self, act: Act<'_>) -> Vec<&dyn Engine> {
        self.engines.iter().map(AsRef::as_ref).filter(|engine| engine.commands(act).is_some()).collect()
    }

    /// The engine of that name.
    pub fn engine(&self, name: &str) -> Option<&dyn Engine> {
        self.engines.iter().map(AsRef::as_ref).find(|engine| engine.name() == name)
    }

    /// Has an engine pull an image where it has not, untimed. Engines that pull nothing have what they need.
    pub fn ensure_image(&self, engine: &dyn Engine, reference: &str) -> anyhow::Result<()> {
        let key = (engine.name().to_owned(), reference.to_owned());
        if self.present.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return Ok(());
        }
        perform(engine, Act::Pull(reference))?;
        self.present.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        Ok(())
    }

    /// Has an engine remove an image that it was made to pull, untimed.
    pub fn drop_image(&self, engine: &dyn Engine, reference: &str) -> anyhow::Result<()> {
        let key = (engine.name().to_owned(), reference.to_owned());
        if self.present.lock().unwrap_or_else(PoisonError::into_inner).remove(&key) {
            perform(engine, Act::RemoveImage(reference))?;
        }
        Ok(())
    }

    /// Removes every image that engines were made to pull; what cannot be removed goes with the disk.
    pub fn clear(&self) {
        let present = std::mem::take(&mut *self.present.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, reference) in present {
            if let Some(Err(error)) = self.engine(&name).map(|engine| perform(engine, Act::RemoveImage(&reference))) {
                eprintln!("  {name}: {error:#}");
            }
        }
    }

    /// All is cold, but the engine's program, and of the registry's storage the image.
    pub fn chill(&self, engine: &dyn Engine, image: &str) -> anyhow::Result<()> {
        disk::chill()?;
        for layer in images::manifest(image)?.layers {
            disk::warm_file(&images::blob(&layer.digest))?;
        }
        perform(engine, Act::Nothing).map(drop)
    }
}

/// Has an engine do something.
pub fn perform(engine: &dyn Engine, act: Act<'_>) -> anyhow::Result<Sample> {
    clock::time(&mut commands(engine, act)?)
}

/// The same, with the time of the first byte on stdout.
pub fn perform_with_output(engine: &dyn Engine, act: Act<'_>) -> anyhow::Result<Sample> {
    clock::time_first_byte(&mut commands(engine, act)?)
}

/// The commands of an act that an engine has.
pub fn commands(engine: &dyn Engine, act: Act<'_>) -> anyhow::Result<Vec<Command>> {
    engine.commands(act).with_context(|| format!("{} has no {act:?}", engine.name()))
}
