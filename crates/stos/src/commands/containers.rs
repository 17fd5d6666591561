// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The group `container`, and container prune.

use std::io::{self, Write};

use stos_engine::container::{self, ContainerState};
use stos_engine::lifecycle;
use stos_engine::prune::PruneFilter;
use stos_engine::{Engine, Error, restart};
use stos_store::ContainerId;

use super::images::prune::is_answered_yes;
use super::{cp, create, exists, images, life, limits, logs, ps};
use crate::cli::{Container, ContainerPrune, Global};
use crate::failure::Failure;
use crate::{table, target};

/// Runs a command of the group.
pub fn run(global: &Global, command: Container) -> Result<u8, Failure> {
    match command {
        Container::Ls(args) => ps::ps(global, &args),
        Container::Prune(args) => prune(global, &args),
        Container::Inspect(args) => images::inspect_containers(global, &args),
        Container::Start(args) => create::start(global, &args),
        Container::Stop(args) => life::stop(global, &args),
        Container::Restart(args) => create::restart(global, &args),
        Container::Kill(args) => life::kill(global, &args),
        Container::Pause(args) => limits::pause(global, &args),
        Container::Unpause(args) => limits::resume(global, &args),
        Container::Wait(args) => life::wait(global, &args),
        Container::Cp(args) => cp::cp(global, &args),
        Container::Logs(args) => logs::logs(global, &args),
        Container::Rename(args) => life::rename(global, &args),
        Container::Rm(args) => life::delete(global, &args),
        Container::Exists(args) => exists::container(global, &args),
    }
}

/// Removes the containers from images that do not run, and prints their ids. Asks first, unless by force. One that somebody starts
/// or removes meanwhile is passed over, and so is one that `run --rm` is about to start, or its monitor to start again.
fn prune(global: &Global, args: &ContainerPrune) -> Result<u8, Failure> {
    let filters = args.filters.iter().map(|text| text.parse::<PruneFilter>()).collect::<Result<Vec<_>, _>>()?;
    let question = match args.filters.is_empty() {
        true => "all containers that do not run".to_owned(),
        false => {
            format!("all containers that do not run and fit {}", stos_spec::text::shown(&args.filters.join(", ")))
        }
    };
    if !args.force && !is_answered_yes(&question)? {
        return Ok(0);
    }
    let (removed, code) = prune_containers(global, &target::engine(global)?, &filters)?;
    table::print_lines(&removed)?;
    Ok(code)
}

/// Removes those that fit, and gives their ids and the exit code: what fails for one is told, and keeps no other from its turn.
pub(super) fn prune_containers(
    global: &Global,
    engine: &Engine,
    filters: &[PruneFilter],
) -> Result<(Vec<ContainerId>, u8), Failure> {
    let (mut removed, mut code) = (Vec::new(), 0);
    for (id, record) in container::list(engine)? {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                // With stderr closed there is nobody to tell.
                let _ = writeln!(io::stderr(), "container {}: {error}: left alone", id.short());
                continue;
            }
        };
        let is_awaited = record.run_by.as_ref().map_or(Ok(false), |starter| starter.is_alive());
        if restart::is_awaited(engine, &record)? {
            continue;
        }
        let fits = filters.iter().all(|filter| filter.fits_container(&record));
        if !fits || is_awaited? || matches!(container::state(engine, &id), Ok(ContainerState::Running(_))) {
            continue;
        }
        match lifecycle::delete(engine, &record, false) {
            Ok(()) => removed.push(id),
            Err(Error::ContainerState { .. } | Error::NoSuchContainer(_)) => {}
            Err(error) => {
                Failure::from(error).report(global);
                code = 1;
            }
        }
    }
    Ok((removed, code))
}
