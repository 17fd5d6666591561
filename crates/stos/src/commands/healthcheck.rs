// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The group `healthcheck`.

use stos_engine::health::{self, HealthStatus};

use super::life::only_image_mode;
use crate::cli::{Global, HealthcheckCommand};
use crate::failure::Failure;
use crate::table;
use crate::target::{self, Target};

/// Runs a command of the group.
pub fn run(global: &Global, command: HealthcheckCommand) -> Result<u8, Failure> {
    let HealthcheckCommand::Run(args) = command;
    check(global, &args.container).map_err(|failure| failure.with_exit_code(125))
}

/// Checks a container's health at once. As podman has it nothing is said where it is healthy.
fn check(global: &Global, container: &str) -> Result<u8, Failure> {
    let (engine, record) = match target::find(global, container)? {
        Target::Image(engine, record) => (engine, record),
        Target::Bundle(_, id) => return Err(only_image_mode("healthcheck", &id)),
    };
    if health::run(&engine, &record)? {
        return Ok(0);
    }
    // The check, whatever the container's status is after it.
    table::print_line(HealthStatus::Unhealthy)?;
    Ok(1)
}
