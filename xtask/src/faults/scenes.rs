// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The commands that faults strike, what each needs, and how it is told that nothing is lost or half-made after one.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use stos_testkit::environment;
use stos_testkit::registry::{Options, Registry};

use super::tracer::{Fault, Traced, trace};
use crate::place::Place;
use crate::small_images::{self, publish};

/// How long a container may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store with an image and a container that must outlive everything, and what the commands work on.
pub struct World {
    place: Place,
    scratch: tempfile::TempDir,
    _registry: Registry,
    small: String,
    kept: String,
    /// How much a pull of the small image changes, once that has been counted.
    pull_points: OnceCell<usize>,
}

/// One command.
pub struct Scene {
    /// Its name.
    pub name: &'static str,
    /// Makes what it needs. Called before each run.
    prepare: fn(&World) -> anyhow::Result<()>,
    /// The command.
    arguments: fn(&World) -> Vec<String>,
    /// Holds what is there against what it said, has it succeed, and cleans up. Gives what had come of it.
    settle: fn(&World, &Traced) -> anyhow::Result<&'static str>,
}

/// All of them.
pub const SCENES: &[Scene] = &[
    Scene { name: "pull", prepare: World::without_small, arguments: World::pull, settle: World::settle_image },
    Scene { name: "load", prepare: World::without_small, arguments: World::load, settle: World::settle_image },
    Scene { name: "create", prepare: World::with_small, arguments: World::create, settle: World::settle_container },
    Scene { name: "start", prepare: World::with_victim, arguments: World::start, settle: World::settle_start },
    Scene { name: "run --rm", prepare: World::with_small, arguments: World::run, settle: World::settle_run },
    Scene { name: "delete", prepare: World::with_victim, arguments: World::delete, settle: World::settle_delete },
    Scene { name: "commit", prepare: World::with_source, arguments: World::commit, settle: World::settle_commit },
    Scene { name: "rmi", prepare: World::with_small, arguments: World::remove, settle: World::settle_removal },
    Scene { name: "system gc", prepare: World::with_garbage, arguments: World::sweep, settle: World::settle_sweep },
];

impl World {
    /// Makes the store, the images and the registry.
    pub fn new(binary: PathBuf) -> anyhow::Result<Self> {
        let place = Place::new(binary)?;
        let registry = Registry::start(Options::default());
        let base = small_images::base()?;
        let image = |text| small_images::image(&base, text);
        let (small, kept) =
            (publish(&registry, "small", &image("small\n")), publish(&registry, "kept", &image("kept\n")));
        let world = Self {
            place,
            scratch: environment::scratch(),
            _registry: registry,
            small,
            kept,
            pull_points: OnceCell::new(),
        };
        world.place.ok(&["pull", "--quiet", "--tls-verify=false", &world.kept])?;
        world.place.ok(&["create", "--name", "kept", &world.kept, "cat", "/srv/marker"])?;
        world.place.ok(&["pull", "--quiet", "--tls-verify=false", &world.small])?;
        world.place.ok(&["save", "--output", &world.archive(), &world.small])?;
        Ok(world)
    }

    fn archive(&self) -> String {
        self.scratch.path().join("small.tar").display().to_string()
    }

    /// Runs a scene's command with a fault, or without, then tells what had come of it.
    pub fn play(&self, scene: &Scene, strike: Option<(usize, Fault)>) -> anyhow::Result<(Traced, &'static str)> {
        (scene.prepare)(self).context("preparing")?;
        let arguments = (scene.arguments)(self);
        let words: Vec<_> = arguments.iter().map(String::as_str).collect();
        let traced = trace(&self.place.stos(&words), "stos", strike, self.scratch.path())?;
        let said = || format!("exit code {:?}, stderr: {}", traced.code, traced.stderr.trim());
        let outcome = self.judge(scene, &traced).with_context(said)?;
        Ok((traced, outcome))
    }

    fn judge(&self, scene: &Scene, traced: &Traced) -> anyhow::Result<&'static str> {
        ensure!(!traced.stderr.contains("panicked"), "it panicked");
        ensure!(
            traced.code.is_none_or(|code| code == 0) || traced.stderr.contains("Error"),
            "it failed without a word"
        );
        let outcome = (scene.settle)(self, traced)?;
        self.place.ok(&["system", "gc"])?;
        self.wait_for_monitor(traced)?;
        self.place.check()?;
        self.place.check_locks()?;
        let left = [self.place.run_names("staging")?, self.place.run_names("containers")?].concat();
        ensure!(left.is_empty(), "ROOT holds {left:?}");
        let said = self.place.ok(&["start", "--attach", "kept"]).context("the container that was there before")?;
        ensure!(said == "kept\n", "the container that was there before said {said:?}");
        let containers = self.containers()?;
        ensure!(containers == ["kept"], "expected the one container, found {containers:?}");
        let cgroups = left_cgroups(traced);
        ensure!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
        Ok(outcome)
    }

    /// A monitor whose command was killed may still be about to remove its container.
    fn wait_for_monitor(&self, traced: &Traced) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let staged = [self.place.names("staging")?, self.place.run_names("staging")?].concat();
            let locks = self.place.names("locks")?;
            let is_free = staged.is_empty() && !locks.iter().any(|name| name.contains('-'));
            let is_over = is_free && self.place.run_names("containers")?.is_empty();
            if is_over && left_cgroups(traced).is_empty() || start.elapsed() >= PATIENCE {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn containers(&self) -> anyhow::Result<Vec<String>> {
        let printed = self.place.ok(&["ps", "--all", "--format", "{{.Names}}"])?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    fn has_container(&self, name: &str) -> anyhow::Result<bool> {
        Ok(self.containers()?.iter().any(|found| found == name))
    }

    fn has_image(&self, image: &str) -> anyhow::Result<bool> {
        Ok(self.place.run(&["image", "inspect", image])?.status.success())
    }

    fn remove_image(&self, image: &str) -> anyhow::Result<()> {
        if self.has_image(image)? { self.place.ok(&["rmi", image]).map(drop) } else { Ok(()) }
    }

    /// The image is whole: its two layers give what was put into them.
    fn prove_small(&self) -> anyhow::Result<()> {
        let script = "cat /srv/symlink; test ! -e /etc/passwd; wc -c < /srv/link";
        let said = self.place.ok(&["run", "--rm", &self.small, "sh", "-c", script])?;
        ensure!(said == "small\n300000\n", "a container of the image said {said:?}");
        Ok(())
    }
}

// What a command needs.
impl World {
    fn without_small(&self) -> anyhow::Result<()> {
        self.remove_image(&self.small)?;
        // A load and a pull of one name bring different manifests, and the first one would keep the layers.
        self.place.ok(&["image", "prune", "--force"]).map(drop)
    }

    fn with_small(&self) -> anyhow::Result<()> {
        if self.has_image(&self.small)? { Ok(()) } else { self.again(&self.pull()) }
    }

    fn with_victim(&self) -> anyhow::Result<()> {
        self.with_small()?;
        self.again(&self.create())
    }

    /// A container that has changed its files.
    fn with_source(&self) -> anyhow::Result<()> {
        self.with_small()?;
        self.remove_image("localhost/committed:1")?;
        self.place
            .ok(&["run", "--name", "source", &self.small, "sh", "-c", "echo new > /srv/new; rm /srv/link"])
            .map(drop)
    }

    /// What a pull leaves that is killed near its end.
    fn with_garbage(&self) -> anyhow::Result<()> {
        self.without_small()?;
        let arguments = self.pull();
        let words: Vec<_> = arguments.iter().map(String::as_str).collect();
        let whole = match self.pull_points.get() {
            Some(points) => *points,
            None => {
                let points = trace(&self.place.stos(&words), "stos", None, self.scratch.path())?.points.len();
                self.without_small()?;
                *self.pull_points.get_or_init(|| points)
            }
        };
        trace(&self.place.stos(&words), "stos", Some((whole * 3 / 4, Fault::Kill)), self.scratch.path())?;
        Ok(())
    }

    fn again(&self, arguments: &[String]) -> anyhow::Result<()> {
        let words: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.place.ok(&words).map(drop)
    }
}

// The commands.
impl World {
    fn pull(&self) -> Vec<String> {
        words(&["pull", "--quiet", "--tls-verify=false", &self.small])
    }

    fn load(&self) -> Vec<String> {
        words(&["load", "--quiet", "--input", &self.archive()])
    }

    fn create(&self) -> Vec<String> {
        words(&["create", "--name", "victim", &self.small, "sh", "-c", "echo out; exit 3"])
    }

    fn start(&self) -> Vec<String> {
        words(&["start", "victim"])
    }

    fn run(&self) -> Vec<String> {
        words(&["run", "--rm", "--name", "victim", &self.small, "sh", "-c", "echo out"])
    }

    fn delete(&self) -> Vec<String> {
        words(&["delete", "victim"])
    }

    fn commit(&self) -> Vec<String> {
        words(&["commit", "--quiet", "source", "localhost/committed:1"])
    }

    fn remove(&self) -> Vec<String> {
        words(&["rmi", &self.small])
    }

    fn sweep(&self) -> Vec<String> {
        words(&["system", "gc"])
    }
}

// What there is afterwards.
impl World {
    fn settle_image(&self, traced: &Traced) -> anyhow::Result<&'static str> {
        let is_there = self.has_image(&self.small)?;
        ensure!(is_there || !traced.succeeded(), "it succeeded, and there is no image");
        if is_there {
            self.prove_small().context("the image that was there")?;
        }
        self.again(&self.pull()).context("the next pull")?;
        self.prove_small()?;
        Ok(if is_there { "the image was there, whole" } else { "no image" })
    }

    fn settle_container(&self, traced: &Traced) -> anyhow::Result<&'static str> {
        let is_there = self.has_container("victim")?;
        ensure!(is_there || !traced.succeeded(), "it succeeded, and there is no container");
        if !is_there {
            self.again(&self.create()).context("the next create")?;
        }
        self.prove_victim()?;
        self.place.ok(&["delete", "victim"])?;
        Ok(if is_there { "the container was there, whole" } else { "no container" })
    }

    /// The container can be started and does what it was made for.
    fn prove_victim(&self) -> anyhow::Result<()> {
        let started = self.place.run(&["start", "--attach", "victim"])?;
        let (said, why) = (String::from_utf8_lossy(&started.stdout), String::from_utf8_lossy(&started.stderr));
        ensure!(started.status.code() == Some(3) && said == "out\n", "start: {}, {said:?}, {why}", started.status);
        Ok(())
    }

    fn settle_start(&self, traced: &Traced) -> anyhow::Result<&'static str> {
        let status = self.status_at_rest("victim")?;
        ensure!(!traced.succeeded() || status == "stopped", "it succeeded, and the container is {status}");
        let logged = self.place.ok(&["logs", "victim"])?;
        ensure!(["", "out\n"].contains(&logged.as_str()), "the log says {logged:?}");
        self.prove_victim()?;
        self.place.ok(&["delete", "victim"])?;
        Ok(match (status.as_str(), logged.as_str()) {
            ("stopped", "out\n") => "it had run",
            ("stopped", _) => "it had run, and its output is lost with its monitor",
            _ => "it had not run",
        })
    }

    /// Waits until a container runs no more.
    fn status_at_rest(&self, container: &str) -> anyhow::Result<String> {
        let start = Instant::now();
        loop {
            let state: serde_json::Value = serde_json::from_str(&self.place.ok(&["state", container])?)?;
            let status = state["status"].as_str().unwrap_or_default();
            if matches!(status, "created" | "stopped") {
                return Ok(status.to_owned());
            }
            ensure!(start.elapsed() < PATIENCE, "container {container} is still {status}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn settle_run(&self, traced: &Traced) -> anyhow::Result<&'static str> {
        let is_there = self.has_container("victim")?;
        ensure!(!is_there || !traced.succeeded(), "it succeeded, and the container is still there");
        // With --rm it goes by itself once it has run; one that has not is still to be started.
        if is_there && self.has_container("victim")? {
            self.place.ok(&["delete", "--force", "--ignore", "victim"])?;
        }
        self.again(&self.run()).context("the next run")?;
        Ok(if is_there { "the container was there" } else { "no container" })
    }

    fn settle_delete(&self, traced: &Traced) -> anyhow::Result<&'static str> {
        let is_there = self.has_container("victim")?;
        ensure!(!is_there || !traced.succeeded(), "it succeeded, and the container is still there");
        if is_there {
            self.prove_victim()?;
            self.again(&self.delete()).context("the next delete")?;
        }
        // Its name is free.
        self.again(&self.create())?;
        self.again(&self.delete())?;
        Ok(if is_there { "the container was there, whole" } else { "no container" })
    }

    fn settle_commit(&self, traced: &Traced) -> anyhow::Result<&'static str> {
        let image = "localhost/committed:1";
        let prove = || -> anyhow::Result<()> {
            let said =
                self.place.ok(&["run", "--rm", image, "sh", "-c", "cat /srv/new /srv/marker; test ! -e /srv/link"])?;
            ensure!(said == "new\nsmall\n", "a container of the image said {said:?}");
            Ok(())
        };
        let is_there = self.has_image(image)?;
        ensure!(is_there || !traced.succeeded(), "it succeeded, and there is no image");
        if is_there {
            prove().context("the image that was there")?;
        }
        self.again(&self.commit()).context("the next commit")?;
        prove()?;
        self.place.ok(&["delete", "source"])?;
        self.place.ok(&["rmi", image])?;
        Ok(if is_there { "the image was there, whole" } else { "no image" })
    }

    fn settle_removal(&self, traced: &Traced) -> anyhow::Result<&'static str> {
        let is_there = self.has_image(&self.small)?;
        ensure!(!is_there || !traced.succeeded(), "it succeeded, and the image is still there");
        if is_there {
            self.prove_small()?;
            self.again(&self.remove()).context("the next rmi")?;
        }
        Ok(if is_there { "the image was there, whole" } else { "no image" })
    }

    fn settle_sweep(&self, traced: &Traced) -> anyhow::Result<&'static str> {
        let is_clean = self.place.names("staging")?.is_empty();
        // What the disk does not let go of is told, and goes with the next command.
        let is_told = traced.stderr.contains("the next command tries again");
        ensure!(is_clean || is_told || !traced.succeeded(), "it succeeded, and staging holds something");
        self.again(&self.sweep()).context("the next sweep")?;
        self.again(&self.pull())?;
        self.prove_small()?;
        Ok(if is_clean { "staging was clean" } else { "something was left for the next sweep" })
    }
}

fn words(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|word| (*word).to_owned()).collect()
}

/// The cgroups that the command has touched and are still there.
fn left_cgroups(traced: &Traced) -> BTreeSet<PathBuf> {
    let container = |path: &Path| {
        let own = path
            .ancestors()
            .find(|above| above.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"stos-")))?;
        (own.starts_with("/sys/fs/cgroup") && own.exists()).then(|| own.to_owned())
    };
    traced.points.iter().filter_map(|point| container(&point.path)).collect()
}
