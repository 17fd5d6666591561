// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the workspace, its target directory and cargo are, by `cargo metadata`.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;
use stos_testkit::environment;

use crate::process::{Run, output};

/// What `cargo metadata --no-deps` says, as far as it is used here.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// The members.
    pub packages: Vec<Package>,
    /// The directory that builds go to.
    pub target_directory: PathBuf,
    /// The directory of the workspace's Cargo.toml.
    pub workspace_root: PathBuf,
}

/// One member.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// What it depends on, members and others.
    pub dependencies: Vec<Dependency>,
}

/// One dependency of a member.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// The other crate's name.
    pub name: String,
    /// `None` for a normal one, else `dev` or `build`.
    pub kind: Option<String>,
}

impl Metadata {
    /// Asks cargo.
    pub fn load() -> anyhow::Result<Self> {
        let text = output(cargo(["metadata", "--no-deps", "--format-version", "1"]))?;
        serde_json::from_str(&text).context("reading cargo metadata")
    }

    /// The release binary.
    pub fn binary(&self) -> PathBuf {
        self.target_directory.join("release/stos")
    }
}

/// The cargo that runs us, in the workspace's root.
pub fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = in_workspace(Command::new(cargo_program()));
    command.args(arguments);
    command
}

/// The cargo that runs us.
pub fn cargo_program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A command that runs cargo, in the workspace's root.
///
/// What cargo told us of our own package is not passed on: build scripts that look at it would run anew each time.
pub fn in_workspace(mut command: Command) -> Command {
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for (name, _) in env::vars_os() {
        let is_ours =
            name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if is_ours {
            command.env_remove(name);
        }
    }
    command
}

/// Tells whether this is CI, where nothing may be left out.
pub fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true")
}

/// The binary that the tests' variable names, or the release binary, built.
pub fn binary_under_test() -> anyhow::Result<PathBuf> {
    env::var_os(environment::BINARY).map_or_else(build_release, |path| Ok(PathBuf::from(path)))
}

/// Builds the release binary and gives its path.
pub fn build_release() -> anyhow::Result<PathBuf> {
    cargo(["build", "--release", "--package", "stos"]).run()?;
    let path = Metadata::load()?.binary();
    anyhow::ensure!(path.is_file(), "cargo build --release has left no {}", path.display());
    Ok(path)
}
