// SPDX-License-Identifier: Apache-2.0 OR MIT
//! exec: a further process in a container of either mode.

use std::os::fd::AsFd;

use rustix::fs::{CWD, OFlags};
use stos_runtime::{ContainerId, Identity, Mode, ProcessChanges};
use stos_spec::UserSpec;

use super::bundle;
use crate::cli::{Exec, Global};
use crate::failure::Failure;
use crate::options;
use crate::target::{self, Target};

/// What runc's exec fails with, whatever fails.
pub const BUNDLE_FAILURE: u8 = 255;

/// Runs a further process. Bundle mode's failures are 255, those of containers from images 125, 126 and 127.
pub fn exec(global: &Global, args: &Exec) -> Result<u8, Failure> {
    if global.bundle_mode {
        // One of an image's is none of an engine's; the record tells, which is read once.
        return exec_in_bundle(&target::run_states(global), args.container().parse(), args);
    }
    match target::find_to_read(global, args.container()).map_err(|failure| failure.with_exit_code(125))? {
        Target::Bundle(states, id) => exec_in_bundle(&states, Ok(id), args),
        Target::Image(engine, record) => {
            let states = engine.run_states();
            exec_in_image(&states, args, &record).map_err(|failure| {
                let code = exit_code(&failure);
                failure.with_exit_code(code)
            })
        }
    }
}

fn exec_in_bundle(
    states: &stos_runtime::StateDirectory,
    id: Result<ContainerId, stos_runtime::id::IdError>,
    args: &Exec,
) -> Result<u8, Failure> {
    let executed = id.map_err(|error| stos_runtime::Error::from(error).into()).and_then(|id| {
        if args.interactive {
            return Err(Failure::message("--interactive is for containers from images", BUNDLE_FAILURE));
        }
        bundle::exec(states, &id, args)
    });
    executed.map_err(|failure: Failure| failure.with_exit_code(BUNDLE_FAILURE))
}

fn exit_code(failure: &Failure) -> u8 {
    let code = failure.runtime_error().and_then(stos_runtime::Error::exit_code);
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125)
}

fn exec_in_image(
    states: &stos_runtime::StateDirectory,
    args: &Exec,
    record: &stos_engine::container::ContainerRecord,
) -> Result<u8, Failure> {
    if args.detach || args.process.is_some() {
        let option = if args.detach { "--detach" } else { "--process" };
        return Err(Failure::message(format!("{option} is for bundle mode"), 125));
    }
    let user = args.user.as_deref().map(str::parse::<UserSpec>).transpose()?;
    let env = options::environment_entries(&args.env)?;
    let changes: ProcessChanges = bundle::changes(args, env)?;
    if !args.interactive {
        let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
        rustix::stdio::dup2_stdin(null.as_fd())?;
    }
    let identity = Identity::LookUp(user.as_ref().unwrap_or(&record.user));
    let id: ContainerId = record.id.to_string().parse()?;
    bundle::exec_as(states, &id, Mode::Image, args, &changes, identity)
}
