// SPDX-License-Identifier: Apache-2.0 OR MIT
//! wait, logs, state, kill, stop, delete: what is done to containers of either mode.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;
use stos_engine::container::{self, ContainerState};
use stos_engine::lifecycle;
use stos_engine::log::{FOLLOW_INTERVAL, LogReader, Stream};
use stos_runtime::tombstones;

use crate::cli::{Containers, Delete, Global, Kill, Logs, OneContainer, Stop};
use crate::failure::Failure;
use crate::table;
use crate::target::{self, Target};

fn only_image_mode(what: &str, id: &stos_runtime::ContainerId) -> Failure {
    Failure::message(format!("container {id} is a bundle's: {what} is for containers from images"), 1)
}

/// Waits for containers and prints their exit codes.
pub fn wait(global: &Global, args: &Containers) -> Result<u8, Failure> {
    for query in &args.containers {
        match target::find(global, query)? {
            Target::Image(engine, record) => table::print_line(lifecycle::wait(&engine, &record)?.exit_code)?,
            Target::Bundle(_, id) => return Err(only_image_mode("wait", &id)),
        }
    }
    Ok(0)
}

/// Prints what a container wrote, each stream to its own.
pub fn logs(global: &Global, args: &Logs) -> Result<u8, Failure> {
    let (engine, record) = match target::find(global, &args.container)? {
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
pub fn state(global: &Global, args: &OneContainer) -> Result<u8, Failure> {
    match target::find(global, &args.container)? {
        Target::Bundle(states, id) => table::print_json(&stos_runtime::lifecycle::state(&states, &id)?)?,
        Target::Image(engine, record) => {
            let state = container::state(&engine, &record.id)?;
            let pid = match &state {
                ContainerState::Running(run) => run.init.as_ref().map_or(0, |init| init.pid),
                _ => 0,
            };
            let dir = engine.store().container_dir(&record.id);
            table::print_json(&json!({
                "ociVersion": "1.2.0",
                "id": record.id,
                "pid": pid,
                "status": state.status(),
                "bundle": dir,
                "rootfs": dir.join("rootfs"),
                "created": record.created,
                "annotations": {"dev.stos.name": record.name, "dev.stos.image": record.image},
                "owner": "",
            }))?;
        }
    }
    Ok(0)
}

/// Sends a signal.
pub fn kill(global: &Global, args: &Kill) -> Result<u8, Failure> {
    let text = args.signal.as_deref().or(args.runc_signal.as_deref()).unwrap_or("TERM");
    let signal = stos_runtime::parse_signal(text)?;
    match target::find(global, &args.container)? {
        Target::Bundle(states, id) => stos_runtime::lifecycle::kill(&states, &id, signal, args.all)?,
        Target::Image(_, record) if args.all => {
            return Err(Failure::message(format!("container {}: --all is for bundle mode", record.name), 1));
        }
        Target::Image(engine, record) => lifecycle::kill(&engine, &record, signal)?,
    }
    Ok(0)
}

/// Stops containers one after the other.
pub fn stop(global: &Global, args: &Stop) -> Result<u8, Failure> {
    for query in &args.containers {
        match target::find(global, query)? {
            Target::Image(engine, record) => lifecycle::stop(&engine, &record, Duration::from_secs(args.time))?,
            Target::Bundle(_, id) => return Err(only_image_mode("stop", &id)),
        }
        table::print_line(query)?;
    }
    Ok(0)
}

/// Deletes containers. With `--force` one that is gone is deleted already.
pub fn delete(global: &Global, args: &Delete) -> Result<u8, Failure> {
    for query in &args.containers {
        match delete_one(global, query, args.force) {
            Err(failure) if args.force && failure.is_missing_container() => {}
            other => other?,
        }
    }
    Ok(0)
}

fn delete_one(global: &Global, query: &str, force: bool) -> Result<(), Failure> {
    let states = target::run_states(global);
    if let Ok(id) = query.parse::<stos_runtime::ContainerId>() {
        // An engine may delete twice what bundle mode had: that must never hit an image's container of such a name.
        if force && states.read(&id).is_err() && tombstones::contains(&states, &id)? {
            return Ok(());
        }
    }
    match target::find(global, query)? {
        Target::Bundle(states, id) => stos_runtime::lifecycle::delete(&states, &id, force)?,
        Target::Image(engine, record) => {
            lifecycle::delete(&engine, &record, force)?;
            table::print_line(query)?;
        }
    }
    Ok(())
}
