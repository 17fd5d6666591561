// SPDX-License-Identifier: Apache-2.0 OR MIT
//! wait, state, kill, stop, rename, delete: what is done to containers of either mode.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use stos_engine::Engine;
use stos_engine::container::{self, ContainerRecord, ContainerState};
use stos_engine::health::{self, HealthStatus};
use stos_engine::lifecycle;
use stos_engine::rename::rename_container;
use stos_runtime::tombstones;

use super::{each, is_running, named_or_all, named_or_all_at_work};
use crate::cli::{Condition, Delete, Global, Kill, Rename, State, Stop, Wait};
use crate::failure::Failure;
use crate::pod_options::read_id;
use crate::table;
use crate::target::{self, Target};

/// What bundle mode sends where no signal is given, as runc does.
const TERM: i32 = 15;

/// What image mode sends, as podman does: nobody survives it.
const KILL: i32 = 9;

/// How long a killed process may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A hundred years, in seconds: longer than anybody waits, and a time that can be added to another.
const FOREVER: u64 = 100 * 365 * 86400;

/// What is said of a bundle's container.
pub(super) fn only_image_mode(what: &str, id: &stos_runtime::ContainerId) -> Failure {
    Failure::message(format!("container {id} is a bundle's: {what} is for containers from images"), 1)
}

/// How long that is, in what can be added to a time.
pub(super) fn patience(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(FOREVER))
}

/// How long a container is given to end: as it was asked for, for ever where that is below zero, else as it has it itself.
pub(super) fn patience_with(record: &ContainerRecord, asked: Option<i64>) -> Duration {
    match asked {
        Some(seconds) => patience(u64::try_from(seconds).unwrap_or(FOREVER)),
        None => patience(record.service.stop_timeout()),
    }
}

/// Waits for containers and prints their exit codes; -1 where what came is another condition than the end.
pub fn wait(global: &Global, args: &Wait) -> Result<u8, Failure> {
    Ok(each(global, &args.containers, |query| {
        let (engine, record) = match target::find(global, query) {
            Ok(Target::Image(engine, record)) => (engine, record),
            Ok(Target::Bundle(_, id)) => return Err(only_image_mode("wait", &id)),
            Err(failure) if args.ignore && failure.is_missing_container() => return Ok(table::print_line(-1)?),
            Err(failure) => return Err(failure),
        };
        if args.condition == [Condition::Stopped] {
            let exit = lifecycle::wait(&engine, &record)?;
            if exit.oom_killed {
                tracing::warn!(container = %record.name, "the kernel killed a process of it for want of memory");
            }
            return Ok(table::print_line(exit.exit_code)?);
        }
        Ok(table::print_line(wait_for(&engine, &record, args)?)?)
    }))
}

/// Looks again and again until one of the conditions holds.
fn wait_for(engine: &Engine, record: &ContainerRecord, args: &Wait) -> Result<i32, Failure> {
    let wants_health = args.condition.iter().any(|condition| OF_HEALTH.contains(condition));
    if wants_health && record.service.healthcheck.is_none() {
        return Err(stos_engine::Error::NoHealthcheck { container: record.name.to_string() }.into());
    }
    loop {
        let state = container::state(engine, &record.id)?;
        let condition = match state.status() {
            "created" => Condition::Created,
            "paused" => Condition::Paused,
            "running" => Condition::Running,
            _ => Condition::Stopped,
        };
        if condition == Condition::Created && container::record(engine, &record.id)?.is_none() {
            return Err(stos_engine::Error::NoSuchContainer(record.name.to_string()).into());
        }
        if wants_health
            && let Some(health) = health_of(engine, record, &state)?
            && args.condition.contains(&health)
        {
            return Ok(-1);
        }
        if args.condition.contains(&condition) {
            return match (condition, state) {
                (Condition::Stopped, _) => Ok(lifecycle::wait(engine, record)?.exit_code),
                _ => Ok(-1),
            };
        }
        std::thread::sleep(args.interval);
    }
}

const OF_HEALTH: [Condition; 2] = [Condition::Healthy, Condition::Unhealthy];

/// What a container's checks have decided; `None` where they have not.
fn health_of(engine: &Engine, record: &ContainerRecord, state: &ContainerState) -> Result<Option<Condition>, Failure> {
    let health = health::health(engine, record, state)?;
    match health.map(|health| health.status) {
        Some(HealthStatus::Healthy) => Ok(Some(Condition::Healthy)),
        Some(HealthStatus::Unhealthy) => Ok(Some(Condition::Unhealthy)),
        Some(HealthStatus::Unknown) => {
            let said = format!(
                "container {} runs without a monitor: that was killed, and nobody checks its health",
                record.name
            );
            Err(Failure::message(said, 125))
        }
        _ => Ok(None),
    }
}

/// Gives a container another name.
pub fn rename(global: &Global, args: &Rename) -> Result<u8, Failure> {
    match target::find(global, &args.container)? {
        Target::Image(engine, record) => rename_container(&engine, &record, &args.name)?,
        Target::Bundle(_, id) => return Err(only_image_mode("rename", &id)),
    }
    Ok(0)
}

/// Prints a container's state as the runtime specification has it.
pub fn state(global: &Global, args: &State) -> Result<u8, Failure> {
    match target::find_to_read(global, &args.container)? {
        Target::Bundle(states, id) => table::print_json(&stos_runtime::lifecycle::state(&states, &id)?)?,
        Target::Image(engine, record) => {
            let state = container::state(&engine, &record.id)?;
            let pid = match &state {
                ContainerState::Running(run) => run.init.as_ref().map_or(0, |init| init.pid),
                _ => 0,
            };
            let dir = engine.store().container_dir(&record.id);
            let mut annotations = json!({"dev.stos.name": record.name, "dev.stos.image": record.image});
            if let ContainerState::Exited(exit) = &state {
                annotations["dev.stos.exit-code"] = json!(exit.exit_code.to_string());
                annotations["dev.stos.oom-killed"] = json!(exit.oom_killed.to_string());
            }
            table::print_json(&json!({
                "ociVersion": "1.2.0",
                "id": record.id,
                "pid": pid,
                "status": state.status(),
                "bundle": dir,
                "rootfs": dir.join("rootfs"),
                "created": record.created,
                "annotations": annotations,
                "owner": "",
            }))?;
        }
    }
    Ok(0)
}

/// Sends a signal.
pub fn kill(global: &Global, args: &Kill) -> Result<u8, Failure> {
    let (named, signal) = args.containers_and_signal(global.bundle_mode);
    let given = match signal {
        // None: whether there is a process to signal, as kill(2) has it.
        Some("0") => Some(0),
        name => name.map(stos_runtime::parse_signal).transpose()?,
    };
    let containers = named_or_all_at_work(global, named, args.all && named.is_empty())?;
    let to_all_processes = args.all && !named.is_empty();
    Ok(each(global, &containers, |query| match target::find(global, query)? {
        Target::Bundle(states, id) => {
            Ok(stos_runtime::lifecycle::kill(&states, &id, given.unwrap_or(TERM), to_all_processes)?)
        }
        Target::Image(_, record) if to_all_processes => {
            let reason = "--all with a container is for bundle mode: alone it means all containers";
            Err(Failure::message(format!("container {}: {reason}", record.name), 1))
        }
        Target::Image(engine, record) => {
            let signal = given.unwrap_or(KILL);
            lifecycle::kill(&engine, &record, signal)?;
            if signal == KILL {
                // As podman has it: what follows finds that it has ended.
                wait_until_ended(&engine, &record)?;
            }
            Ok(table::print_line(query)?)
        }
    }))
}

/// Waits for the end of a container that was killed; not for ever, for a process may hang in the kernel.
fn wait_until_ended(engine: &Engine, record: &ContainerRecord) -> Result<(), Failure> {
    let deadline = Instant::now() + KILL_PATIENCE;
    while is_running(&container::state(engine, &record.id)?) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The containers that are named, and those whose ids are in `files`. With `ignore` a file that is not there names none.
fn with_id_files(named: &[String], files: &[PathBuf], ignore: bool) -> Result<Vec<String>, Failure> {
    let mut all = named.to_vec();
    for path in files {
        let is_missing = || path.metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        match read_id("container", "--cidfile", path) {
            Ok(id) => all.push(id),
            Err(_) if ignore && is_missing() => {}
            Err(error) => return Err(Failure::from(error).with_exit_code(125)),
        }
    }
    Ok(all)
}

/// Stops containers one after the other.
pub fn stop(global: &Global, args: &Stop) -> Result<u8, Failure> {
    let named = with_id_files(&args.containers, &args.cidfile, args.ignore)?;
    let containers = named_or_all_at_work(global, &named, args.all)?;
    Ok(each(global, &containers, |query| {
        match target::find(global, query) {
            Ok(Target::Image(engine, record)) => {
                let patience = patience_with(&record, args.time);
                lifecycle::stop(&engine, &record, patience)?;
            }
            Ok(Target::Bundle(_, id)) => return Err(only_image_mode("stop", &id)),
            // Of all some may have gone meanwhile.
            Err(failure) if (args.ignore || args.all) && failure.is_missing_container() => return Ok(()),
            Err(failure) => return Err(failure),
        }
        Ok(table::print_line(query)?)
    }))
}

/// Deletes containers. With `--force` or `--ignore` one that is gone is deleted already.
pub fn delete(global: &Global, args: &Delete) -> Result<u8, Failure> {
    let named = with_id_files(&args.containers, &args.cidfile, args.ignore)?;
    let containers = named_or_all(global, &named, args.all, |_| true)?;
    let may_be_gone = args.force || args.ignore || args.all;
    Ok(each(global, &containers, |query| match delete_one(global, query, args) {
        Err(failure) if may_be_gone && failure.is_missing_container() => Ok(()),
        other => other,
    }))
}

fn delete_one(global: &Global, query: &str, args: &Delete) -> Result<(), Failure> {
    let force = args.force;
    let states = target::run_states(global);
    if let Ok(id) = query.parse::<stos_runtime::ContainerId>() {
        // An engine may delete twice what bundle mode had: that must never hit an image's container of such a name.
        let is_gone = matches!(states.read(&id), Err(stos_runtime::Error::NotFound { .. }));
        if force && is_gone && tombstones::contains(&states, &id)? {
            return Ok(());
        }
    }
    match target::find(global, query) {
        Ok(Target::Bundle(states, id)) => return Ok(stos_runtime::lifecycle::delete(&states, &id, force)?),
        Ok(Target::Image(engine, record)) => {
            if args.time.is_some() {
                lifecycle::stop(&engine, &record, patience_with(&record, args.time))?;
            }
            match args.volumes {
                true => lifecycle::delete_with_volumes(&engine, &record, force)?,
                false => lifecycle::delete(&engine, &record, force)?,
            }
        }
        Err(failure) if force && failure.is_damaged_container() => {
            lifecycle::delete_damaged(&target::engine(global)?, query)?;
        }
        Err(failure) => return Err(failure),
    }
    Ok(table::print_line(query)?)
}
