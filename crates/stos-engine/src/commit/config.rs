// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was asked for when a container was created becomes the configuration of its image, as podman and docker have it
//! (podman's `libpod/container_commit.go`): entrypoint, command, environment, working directory, user, labels.
//!
//! Only what differs from the base is written: the rest of its configuration stays word for word, volumes, ports and the stop
//! signal among it. What stos itself gives a container's environment is left out.

use serde_json::{Value, json};
use stos_spec::ImageConfig;
use stos_store::files;

use crate::Engine;
use crate::build::ConfigDocument;
use crate::container::ContainerRecord;
use crate::error::Result;
use crate::options::CreateOptions;
use crate::spec::environment;

/// What counts of a container's `config.json`.
#[derive(Debug, Default, serde::Deserialize)]
struct Runtime {
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    process: Process,
}

#[derive(Debug, Default, serde::Deserialize)]
struct Process {
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    cwd: String,
}

/// Lays the container's configuration over that of its image, `base`.
pub(super) fn lay_over(
    engine: &Engine,
    container: &ContainerRecord,
    base: &ImageConfig,
    config: &mut ConfigDocument,
) -> Result<()> {
    let path = engine.store.container_dir(&container.id).join("config.json");
    let runtime: Runtime = files::read_json(&path)?.unwrap_or_default();
    let (entrypoint, command) = split_command(container, base);
    for (key, own, of_image) in [("Entrypoint", entrypoint, &base.entrypoint), ("Cmd", command, &base.cmd)] {
        match own {
            own if own == of_image => {}
            [] => drop(config.process().remove(key)),
            own => drop(config.process().insert(key.to_owned(), json!(own))),
        }
    }
    let mut set = |key: &str, value: Value| drop(config.process().insert(key.to_owned(), value));
    if runtime.process.cwd != base.working_dir && !(base.working_dir.is_empty() && runtime.process.cwd == "/") {
        set("WorkingDir", json!(runtime.process.cwd));
    }
    if container.user != base.user {
        set("User", json!(container.user.to_string()));
    }
    if container.labels != base.labels {
        set("Labels", json!(container.labels));
    }
    let env = lay_environment(base, &runtime);
    if env != base.env {
        set("Env", json!(env));
    }
    Ok(())
}

/// Tells the entrypoint from the command. The record of an old container does not say where it ends: then it is the image's where
/// the container runs that, else all is the command.
fn split_command<'a>(container: &'a ContainerRecord, base: &ImageConfig) -> (&'a [String], &'a [String]) {
    let args = &container.command[..];
    let known = container.entrypoint.as_deref().unwrap_or(&base.entrypoint);
    let at = if args.starts_with(known) { known.len() } else { 0 };
    args.split_at(at)
}

/// Gives the image's environment with what a container of it has not by itself.
fn lay_environment(base: &ImageConfig, runtime: &Runtime) -> Vec<String> {
    let by_itself = environment(base, &CreateOptions::default(), &runtime.hostname);
    let mut env = base.env.clone();
    for entry in runtime.process.env.iter().filter(|entry| !by_itself.contains(entry)) {
        let name = entry.split('=').next();
        match env.iter_mut().find(|known| known.split('=').next() == name) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    env
}
