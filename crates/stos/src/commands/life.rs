// SPDX-License-Identifier: Apache-2.0 OR MIT
//! wait, logs, state, kill, stop, delete: what is done to containers of either mode.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;
use stos_engine::container::{self, ContainerState};
use stos_engine::lifecycle;
use stos_engine::log::{FOLLOW_INTERVAL, LogReader, Stream};
use stos_runtime::tombstones;

use super::each;
use crate::cli::{Delete, Global, Kill, Logs, State, Stop, Wait};
use crate::failure::Failure;
use crate::table;
use crate::target::{self, Target};

/// A hundred years, in seconds: longer than anybody waits, and a time that can be added to another.
const FOREVER: u64 = 100 * 365 * 86400;

fn only_image_mode(what: &str, id: &stos_runtime::ContainerId) -> Failure {
    Failure::message(format!("container {id} is a bundle's: {what} is for containers from images"), 1)
}

/// Waits for containers and prints their exit codes.
pub fn wait(global: &Global, args: &Wait) -> Result<u8, Failure> {
    Ok(each(global, &args.containers, |query| match target::find(global, query)? {
        Target::Image(engine, record) => {
            let exit = lifecycle::wait(&engine, &record)?;
            if exit.oom_killed {
                tracing::warn!(container = %record.name, "the kernel killed a process of it for want of memory");
            }
            Ok(table::print_line(exit.exit_code)?)
        }
        Target::Bundle(_, id) => Err(only_image_mode("wait", &id)),
    }))
}

/// Prints what a container wrote, each stream to its own.
pub fn logs(global: &Global, args: &Logs) -> Result<u8, Failure> {
    let (engine, record) = match target::find_to_read(global, &args.container)? {
        Target::Image(engine, record) => (engine, record),
        Target::Bundle(_, id) => return Err(only_image_mode("logs", &id)),
    };
    let mut reader = LogReader::new(&engine.store().container_dir(&record.id).join("log"));
    loop {
        // Asked before the log is read, so that what was written before the end is seen.
        let is_running = match container::state(&engine, &record.id) {
            Ok(state) => matches!(state, ContainerState::Running(_)),
            Err(_) => false,
        };
        let read = reader.read_available(&mut |stream, bytes| match stream {
            Stream::Stdout => io::stdout().write_all(bytes),
            Stream::Stderr => io::stderr().write_all(bytes),
        });
        let read = read.and_then(|()| io::stdout().flush());
        match read {
            // Who reads us has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            other => other?,
        }
        if !args.follow || !is_running {
            return Ok(0);
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
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
    let (containers, signal) = args.containers_and_signal(global.bundle_mode);
    let signal = match signal.unwrap_or("TERM") {
        // None: whether there is a process to signal, as kill(2) has it.
        "0" => 0,
        name => stos_runtime::parse_signal(name)?,
    };
    Ok(each(global, containers, |query| match target::find(global, query)? {
        Target::Bundle(states, id) => Ok(stos_runtime::lifecycle::kill(&states, &id, signal, args.all)?),
        Target::Image(_, record) if args.all => {
            Err(Failure::message(format!("container {}: --all is for bundle mode", record.name), 1))
        }
        Target::Image(engine, record) => Ok(lifecycle::kill(&engine, &record, signal)?),
    }))
}

/// Stops containers one after the other.
pub fn stop(global: &Global, args: &Stop) -> Result<u8, Failure> {
    let patience = Duration::from_secs(args.time.min(FOREVER));
    Ok(each(global, &args.containers, |query| {
        match target::find(global, query)? {
            Target::Image(engine, record) => lifecycle::stop(&engine, &record, patience)?,
            Target::Bundle(_, id) => return Err(only_image_mode("stop", &id)),
        }
        Ok(table::print_line(query)?)
    }))
}

/// Deletes containers. With `--force` one that is gone is deleted already.
pub fn delete(global: &Global, args: &Delete) -> Result<u8, Failure> {
    Ok(each(global, &args.containers, |query| match delete_one(global, query, args.force) {
        Err(failure) if args.force && failure.is_missing_container() => Ok(()),
        other => other,
    }))
}

fn delete_one(global: &Global, query: &str, force: bool) -> Result<(), Failure> {
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
        Ok(Target::Image(engine, record)) => lifecycle::delete(&engine, &record, force)?,
        Err(failure) if force && failure.is_damaged_container() => {
            lifecycle::delete_damaged(&target::engine(global)?, query)?;
        }
        Err(failure) => return Err(failure),
    }
    Ok(table::print_line(query)?)
}
