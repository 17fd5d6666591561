// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The commands that are run before the power goes, and what each of them promises by its return.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use anyhow::Context;
use stos_testkit::registry::{Options, Registry};

use super::disk::{Disk, Record};
use super::ledger::{Ledger, Step};
use super::stand::{self, Format, Loop, Mount};
use crate::place::{Place, Roots, detach_below};
use crate::small_images::{self, publish};

/// Prints what tells one image from another.
pub const PROOF: &str = "cat /srv/marker; test -e /srv/new && cat /srv/new; stat -c '%n %s' /srv/*; \
                         test -e /etc/passwd && echo passwd; test -L /srv/symlink";

/// The label of a container that says what it prints when it is started; one without runs until it is stopped.
pub const SAYS: &str = "says";

/// Where everything is, and what images there are.
pub struct World {
    binary: PathBuf,
    _registry: Registry,
    /// Pulled, made containers of, committed from.
    small: String,
    /// Shares the lower layer.
    other: String,
    /// Pulled with its blobs.
    blobs: String,
    /// Pulled after the cut.
    pub new: String,
    // It lies on the tmpfs, which lies on the directory, and they go in this order.
    memory: Option<Mount>,
    directory: tempfile::TempDir,
}

/// What has happened on a disk.
pub struct Played {
    /// What the disk was told.
    pub record: Record,
    /// The commands; the first is none, of the empty disk.
    pub steps: Vec<Step>,
    /// What a container of each image prints for [`PROOF`], by image id.
    pub proofs: BTreeMap<String, String>,
}

impl World {
    /// Makes the images and the directory; mounts must be private.
    pub fn new(binary: PathBuf) -> anyhow::Result<Self> {
        let registry = Registry::start(Options::default());
        let base = small_images::base()?;
        let image = |name: &str| publish(&registry, name, &small_images::image(&base, &format!("{name}\n")));
        let [small, other, blobs, new, loaded] = ["small", "other", "blobs", "new", "loaded"].map(image);
        let directory = tempfile::Builder::new().prefix("stos-power-cut-").tempdir_in("/var/tmp")?;
        let memory = Some(Mount::in_memory(directory.path())?);
        let world = Self { binary, _registry: registry, small, other, blobs, new, memory, directory };
        for name in ["fuse", "disk", "roots"] {
            std::fs::create_dir(world.path(name))?;
        }
        let elsewhere = Place::new(world.binary.clone())?;
        elsewhere.ok(&["pull", "--quiet", "--tls-verify=false", &loaded])?;
        elsewhere.ok(&["tag", &loaded, "localhost/loaded:1"])?;
        elsewhere.ok(&["save", "--output", &world.archive(), "localhost/loaded:1"])?;
        #[cfg(target_arch = "x86_64")]
        super::repeats::check(&elsewhere, "localhost/loaded:1", &world.path("roots"))?;
        Ok(world)
    }

    /// A path below the directory, in memory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the disk's file system is mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.path("disk")
    }

    fn archive(&self) -> String {
        self.path("loaded.tar").display().to_string()
    }

    /// DATA-ROOT on the disk, with an empty ROOT as after a reboot.
    pub fn roots(&self, layerfs: &str) -> anyhow::Result<(Roots, tempfile::TempDir)> {
        let root = tempfile::tempdir_in(self.path("roots"))?;
        let options = ["--layerfs", layerfs];
        Ok((Roots::new(self.binary.clone(), self.mount_point().join("data"), root.path().to_owned(), &options), root))
    }

    /// The commands.
    fn commands(&self) -> Vec<Vec<String>> {
        let (small, other, blobs) = (self.small.as_str(), self.other.as_str(), self.blobs.as_str());
        let (archive, tree) = (self.archive(), self.path("source.tar").display().to_string());
        let committed = "localhost/committed:1";
        let pull = |image| vec!["pull", "--quiet", "--tls-verify=false", image];
        let writes = "echo new > /srv/new; rm -f /srv/link; cat /etc/hostname > /srv/host; echo out";
        let brief = "test -e /srv/once || sleep 0.3; touch /srv/once; echo brief";
        let commands = [
            pull(small),
            vec!["create", "--name", "one", "--label", "says=small\n", small, "cat", "/srv/marker"],
            vec!["start", "--attach", "one"],
            vec!["run", "--name", "source", "--label", "says=out\n", small, "sh", "-c", writes],
            vec!["commit", "--quiet", "--change", "VOLUME /volume", "source", committed],
            vec!["tag", small, "localhost/tagged:1"],
            vec!["load", "--quiet", "--input", &archive],
            pull(other),
            vec!["create", "--name", "volume", "--label", "says=small\n", committed, "cat", "/srv/marker"],
            vec!["rename", "one", "first"],
            vec!["create", "--name", "doomed", other, "cat", "/srv/marker"],
            vec!["tag", other, "localhost/tagged:1"],
            vec!["run", "--detach", "--name", "long", small, "sh", "-c", "echo up; sleep 1000"],
            vec!["exec", "long", "sh", "-c", "echo more > /srv/more"],
            vec!["delete", "doomed"],
            vec!["update", "--pids-limit", "100", "long"],
            vec!["stop", "--time", "0", "long"],
            vec!["run", "--rm", other, "sh", "-c", "echo gone > /srv/gone"],
            vec!["run", "--detach", "--name", "brief", "--label", "says=brief\n", small, "sh", "-c", brief],
            // Looks each millisecond, and so sees the end as soon as it is written down.
            vec!["wait", "--condition", "created", "--condition", "stopped", "--interval", "1ms", "brief"],
            vec!["rmi", "localhost/loaded:1"],
            vec!["load", "--quiet", "--input", &archive],
            vec!["create", "--name", "doomed", "--label", "says=loaded\n", "localhost/loaded:1", "cat", "/srv/marker"],
            vec!["start", "--attach", "first"],
            vec!["export", "--output", &tree, "source"],
            vec!["import", "--quiet", &tree, "localhost/imported:1"],
            vec!["rmi", other],
            pull(other),
            vec!["pull", "--quiet", "--keep-blobs", "--tls-verify=false", blobs],
            vec!["untag", "localhost/imported:1"],
            vec!["delete", "first"],
            vec!["system", "gc"],
        ];
        commands.into_iter().map(|words| words.into_iter().map(str::to_owned).collect()).collect()
    }

    /// Runs the commands on a new disk.
    pub fn play(&self, format: &Format, layerfs: &str) -> anyhow::Result<Played> {
        let disk = Disk::serve(&self.path("fuse"), format.size)?;
        let played = self.play_on(&disk, format, layerfs);
        // Also after a failure: a loop device goes a moment after its mount.
        let freed = stand::wait_until_detached(disk.path());
        let (steps, proofs) = played?;
        freed?;
        Ok(Played { record: disk.into_record(format.size)?, steps, proofs })
    }

    fn play_on(
        &self,
        disk: &Disk,
        format: &Format,
        layerfs: &str,
    ) -> anyhow::Result<(Vec<Step>, BTreeMap<String, String>)> {
        let device = Loop::attach(disk.path())?;
        device.format(format)?;
        disk.begin_log();
        let point = self.mount_point();
        let mount = device.mount(format, &point)?;
        stand::check_that_flushes_arrive(disk, &point)?;
        let (roots, root) = self.roots(layerfs)?;
        let played = self.run_commands(disk, &roots);
        if played.is_err() {
            let _ = roots.run(&["stop", "--all", "--time", "0"]);
        }
        detach_below(root.path());
        let unmounted = mount.unmount();
        let played = played?;
        unmounted?;
        Ok(played)
    }

    fn run_commands(&self, disk: &Disk, roots: &Roots) -> anyhow::Result<(Vec<Step>, BTreeMap<String, String>)> {
        let now = disk.position();
        let mut steps = vec![Step { words: "nothing".to_owned(), begun: now, ended: now, ledger: Ledger::default() }];
        let mut proofs = BTreeMap::new();
        for words in self.commands() {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let begun = disk.position();
            if words[0] == "tag" {
                self.interrupt(roots, &words, steps.len())?;
            }
            roots.ok(&words)?;
            let ended = disk.position();
            let mut ledger = Ledger::read(roots).with_context(|| format!("after stos {}", words.join(" ")))?;
            if let ["run", "--detach", "--name", name, ..] = words[..] {
                // Meanwhile it may have ended by itself, which this command has not promised.
                let own = ledger.containers.values_mut().filter(|container| container.inspected["name"] == name);
                own.for_each(|container| container.state = serde_json::Value::Null);
            }
            let images: Vec<(String, String)> =
                ledger.images.iter().map(|(name, image)| (name.clone(), id_of(image))).collect();
            steps.push(Step { words: words.join(" "), begun, ended, ledger });
            for (name, id) in images {
                if let Entry::Vacant(proof) = proofs.entry(id) {
                    proof.insert(roots.ok(&["run", "--rm", &name, "sh", "-c", PROOF])?);
                }
            }
        }
        Ok((steps, proofs))
    }

    /// Kills a command before its last fsync(2), when what it does can be seen by everyone. Run again it finds nothing to do, and yet
    /// promises that it is done.
    #[cfg(target_arch = "x86_64")]
    fn interrupt(&self, roots: &Roots, words: &[&str], number: usize) -> anyhow::Result<()> {
        use crate::faults::tracer::{Fault, trace};
        let name = format!("localhost/trial:{number}");
        let trial = [&words[..words.len() - 1], &[name.as_str()]].concat();
        let whole = trace(&roots.stos(&trial), "stos", None, &self.path("roots"))?;
        let last = whole.points.iter().rposition(|point| point.call == "fsync").context("nothing is synced")?;
        let struck = trace(&roots.stos(words), "stos", Some((last, Fault::Kill)), &self.path("roots"))?;
        anyhow::ensure!(struck.code.is_none(), "{} was not killed", words.join(" "));
        Ok(())
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn interrupt(&self, _roots: &Roots, _words: &[&str], _number: usize) -> anyhow::Result<()> {
        Ok(())
    }

    /// Puts an empty file for a disk into memory.
    pub fn new_image(&self) -> anyhow::Result<(PathBuf, std::fs::File)> {
        let path = self.path("image");
        Ok((path.clone(), create(&path)?))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        detach_below(self.directory.path());
        drop(self.memory.take());
    }
}

/// Makes an empty file, in place of what is there.
pub fn create(path: &Path) -> anyhow::Result<std::fs::File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    std::fs::File::create_new(path).with_context(|| path.display().to_string())
}

/// The id of an image as `inspect` shows it.
pub fn id_of(image: &serde_json::Value) -> String {
    image["id"].as_str().unwrap_or_default().to_owned()
}
