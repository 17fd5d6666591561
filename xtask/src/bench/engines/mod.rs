// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The engines that are measured, and how each does each thing: as plain commands, none of them behind a shell.
//!
//! All live on the benchmark's disk, each in a directory of its own.

mod containerd;
mod oci;
mod podman;
mod stos;

use std::path::{Path, PathBuf};
use std::process::Command;

pub use containerd::Containerd;
pub use oci::{CopyAndUnpack, Runtime, UnpackAndCreate};
pub use podman::Podman;
pub use stos::Stos;

/// What an engine is asked to do. Images are references at the registry; containers have the given names.
#[derive(Debug, Clone, Copy)]
pub enum Act<'a> {
    /// Fetch an image, until it can be run.
    Pull(&'a str),
    /// Remove an image, and all that only it has used.
    RemoveImage(&'a str),
    /// Make a container of a local image that will run the command.
    Create(&'a str, &'a str, &'a [&'a str]),
    /// Start a container that was created, with its output.
    StartAttached(&'a str),
    /// Make a container of a local image, run the command with its output, and remove the container.
    Run(&'a str, &'a str, &'a [&'a str]),
    /// Make and start a container that stays, [`STAY`].
    Spawn(&'a str, &'a str),
    /// Run a further command in a container.
    Exec(&'a str, &'a [&'a str]),
    /// End a container that will not end by itself, with SIGKILL.
    Stop(&'a str),
    /// Remove a container that has ended or never begun.
    Delete(&'a str),
    /// Remove a container, whatever it does.
    Destroy(&'a str),
    /// The least that the program can do: brings it into the page cache.
    Nothing,
}

/// What a container runs that stays.
pub const STAY: [&str; 2] = ["sleep", "1000000"];

/// One engine.
pub trait Engine: Send + Sync {
    /// Its name in tables.
    fn name(&self) -> &str;

    /// The commands that do it, in order; `None` where the engine has no such thing.
    fn commands(&self, act: Act<'_>) -> Option<Vec<Command>>;

    /// Where it keeps all that it has.
    fn place(&self) -> &Path;

    /// The process that works for its commands, where there is one: what that uses is the engine's.
    fn daemon(&self) -> Option<u32> {
        None
    }

    /// Whether it is a kind of stos.
    fn is_ours(&self) -> bool {
        self.name().starts_with("stos")
    }
}

/// Which engines there are: ours with both backends and other builds of it, and where the peers are, those.
///
/// # Errors
/// Where a daemon does not start.
pub fn find(settings: &super::Settings) -> anyhow::Result<Vec<Box<dyn Engine>>> {
    let place = |name: &str| settings.disk.join(name.replace(' ', "-"));
    let stos = |name: &str, binary: &Path, backend| Stos::new(name, binary.to_owned(), place(name), backend);
    let mut engines: Vec<Box<dyn Engine>> = Vec::new();
    for (name, backend) in [("stos", "erofs"), ("stos dirs", "dirs")] {
        engines.push(Box::new(stos(name, &settings.binary, backend)));
    }
    for (name, binary) in &settings.builds {
        engines.push(Box::new(stos(&format!("stos {name}"), binary, "erofs").only_pulls()));
    }
    if settings.has_peers {
        engines.push(Box::new(Podman::new(place("podman"))));
        for snapshotter in ["overlayfs", "erofs"] {
            let name = format!("containerd {snapshotter}");
            engines.push(Box::new(Containerd::start(&name, place(&name), snapshotter)?));
        }
        engines.push(Box::new(CopyAndUnpack::new(place("skopeo+umoci"))));
        engines.push(Box::new(UnpackAndCreate::new(place("umoci+crun"), settings.layout.clone())?));
        for name in ["crun", "runc"] {
            engines.push(Box::new(Runtime::new(name, place(name), settings.disk.join("bundles"), &settings.layout)?));
        }
    }
    Ok(engines)
}

/// What podman and stos say alike, and where they differ.
struct PodmanWords<'a> {
    /// Further options of a container that is made.
    of_image: &'a [&'a str],
    /// Removes one that has ended.
    delete: &'a [&'a str],
    /// Removes one, whatever it does.
    destroy: &'a [&'a str],
}

impl PodmanWords<'_> {
    /// Gives the command of an act; `command` makes one of its arguments.
    fn command(&self, act: Act<'_>, command: impl Fn(&[&str]) -> Command) -> Command {
        let of_image = |verb: &[&str], name: &str, image: &str, words: &[&str]| {
            let mut made = command(verb);
            made.args(["--name", name, "--pull", "never", "--user", "0"]).args(self.of_image);
            made.args(["--entrypoint", words[0], image]).args(&words[1..]);
            made
        };
        let on = |verb: &[&str], name: &str| command(&[verb, &[name]].concat());
        match act {
            Act::Pull(image) => on(&["pull", "--quiet", "--tls-verify=false"], image),
            Act::RemoveImage(image) => on(&["rmi"], image),
            Act::Create(image, name, words) => of_image(&["create"], name, image, words),
            Act::StartAttached(name) => on(&["start", "--attach"], name),
            Act::Run(image, name, words) => of_image(&["run", "--rm"], name, image, words),
            Act::Spawn(image, name) => of_image(&["run", "--detach"], name, image, &STAY),
            Act::Exec(name, words) => command(&[&["exec", name], words].concat()),
            Act::Stop(name) => on(&["stop", "--time", "0"], name),
            Act::Delete(name) => on(self.delete, name),
            Act::Destroy(name) => on(self.destroy, name),
            Act::Nothing => command(&["--version"]),
        }
    }
}

/// `registry/repository:tag` without the registry: `deb:12`.
fn short(reference: &str) -> &str {
    reference.rsplit_once('/').map_or(reference, |(_, name)| name)
}

fn program(name: impl Into<PathBuf>, arguments: &[&str]) -> Command {
    let mut command = Command::new(name.into());
    command.args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(commands: Option<Vec<Command>>) -> Vec<String> {
        let shown = |command: &Command| {
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        commands.unwrap_or_default().iter().map(shown).collect()
    }

    #[test]
    fn each_engine_has_its_words() {
        let stos = Stos::new("stos", "/bin/stos".into(), "/d/stos".into(), "erofs");
        let image = "127.0.0.1:1/deb:12";
        let run = words(stos.commands(Act::Run(image, "a", &["echo", "hello"])));
        assert!(
            run[0].ends_with("run --rm --name a --pull never --user 0 --entrypoint echo 127.0.0.1:1/deb:12 hello"),
            "{run:?}"
        );
        let podman = Podman::new("/d/podman".into());
        let exec = words(podman.commands(Act::Exec("a", &["/bin/true"])));
        assert!(exec[0].ends_with("exec a /bin/true"), "{exec:?}");
        let pull = words(CopyAndUnpack::new("/d/umoci".into()).commands(Act::Pull(image)));
        assert_eq!(pull.len(), 2);
        assert!(pull[1].ends_with("unpack --image /d/umoci/layout:deb-12 /d/umoci/deb-12"), "{pull:?}");
        assert!(podman.commands(Act::Nothing).is_some() && stos.is_ours() && !podman.is_ours());
        assert!(CopyAndUnpack::new("/d/umoci".into()).commands(Act::Stop("a")).is_none());
        let build = stos.only_pulls();
        assert!(build.commands(Act::Stop("a")).is_none() && build.commands(Act::Pull(image)).is_some());
    }
}
