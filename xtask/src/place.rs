// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A DATA-ROOT and a ROOT of a command's own, with the binary that works on them. What it leaves goes with it.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::Context;

use crate::process::output;

/// A DATA-ROOT and a ROOT, with the binary that works on them.
pub struct Roots {
    binary: PathBuf,
    data_root: PathBuf,
    root: PathBuf,
    options: Vec<String>,
}

/// Both roots, in one directory below `/var/tmp`.
pub struct Place {
    directory: tempfile::TempDir,
    roots: Roots,
}

impl Place {
    /// Makes an empty one.
    pub fn new(binary: PathBuf) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("stos-xtask-").tempdir_in("/var/tmp")?;
        let roots = Roots::new(binary, directory.path().join("data"), directory.path().join("run"), &[]);
        Ok(Self { directory, roots })
    }
}

impl Deref for Place {
    type Target = Roots;

    fn deref(&self) -> &Roots {
        &self.roots
    }
}

impl Roots {
    /// Takes what is there, or will be; `options` are further global ones.
    pub fn new(binary: PathBuf, data_root: PathBuf, root: PathBuf, options: &[&str]) -> Self {
        Self { binary, data_root, root, options: options.iter().map(|&option| option.to_owned()).collect() }
    }

    /// What lasts.
    pub fn data_root(&self) -> &Path {
        &self.data_root
    }

    /// stos with the options that lead it here.
    pub fn stos(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_remove("STOS_DATA_ROOT").env_remove("STOS_ROOT").env_remove("STOS_LAYERFS");
        // Whether netavark is installed or not, a container is the same.
        command.env("STOS_NETWORK", "none");
        command.arg("--data-root").arg(&self.data_root).arg("--root").arg(&self.root).args(&self.options);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs it and gives what it printed.
    pub fn ok(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(self.stos(arguments))
    }

    /// Runs it and gives all of how that went.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.stos(arguments).output().with_context(|| format!("running stos {}", arguments.join(" ")))
    }

    /// The names in a directory of DATA-ROOT; none where it is not there.
    pub fn names(&self, directory: &str) -> anyhow::Result<Vec<String>> {
        names(&self.data_root.join(directory))
    }

    /// The names in a directory of ROOT; none where it is not there.
    pub fn run_names(&self, directory: &str) -> anyhow::Result<Vec<String>> {
        names(&self.root.join(directory))
    }

    /// What DATA-ROOT takes of the disk, in bytes, by `du`.
    pub fn disk_use(&self) -> anyhow::Result<u64> {
        disk_use(&self.data_root)
    }

    /// Fails where `check --full` finds damage, or something is left in staging.
    pub fn check(&self) -> anyhow::Result<()> {
        self.ok(&["system", "check", "--full"])?;
        let left = self.names("staging")?;
        anyhow::ensure!(left.is_empty(), "staging holds {left:?}");
        Ok(())
    }

    /// Fails where a sweep has left locks of single objects, or lists of leases.
    pub fn check_locks(&self) -> anyhow::Result<()> {
        let mut left = self.names("locks")?;
        left.retain(|name| name.contains('-'));
        anyhow::ensure!(left.is_empty(), "locks hold {left:?}");
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let cleaned = self.names("containers").and_then(|ids| {
            let mut command = self.stos(&["delete", "--force"]);
            if ids.is_empty() { Ok(String::new()) } else { output(command.args(ids)) }
        });
        // Images first have their chains' mounts taken away.
        let cleaned = cleaned.and_then(|_| self.ok(&["image", "prune", "--all", "--force"]));
        detach_below(self.directory.path());
        if let Err(error) = cleaned {
            eprintln!("not everything in {} could be cleaned: {error:#}", self.directory.path().display());
        }
    }
}

/// What a directory takes of the disk, in bytes, by `du`.
pub fn disk_use(directory: &Path) -> anyhow::Result<u64> {
    let printed = output(Command::new("du").args(["-s", "-B1"]).arg(directory))?;
    printed.split_whitespace().next().and_then(|word| word.parse().ok()).with_context(|| format!("du: {printed:?}"))
}

fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Detaches what is mounted below a directory, the innermost first.
pub fn detach_below(directory: &Path) {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points =
        table.lines().filter_map(|line| line.split(' ').nth(1)).filter(|point| Path::new(point).starts_with(directory));
    for point in points.collect::<Vec<_>>().into_iter().rev() {
        let _ = Command::new("umount").args(["--lazy", point]).status();
    }
}
