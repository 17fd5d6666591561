// SPDX-License-Identifier: Apache-2.0 OR MIT
//! volume rm and volume prune.

use std::io::{self, Write};

use stos_engine::Error;
use stos_engine::volumes::{RemoveOptions, VolumeError, find_volume, prune_volumes, remove_volume};

use super::read_filters;
use crate::cli::{Global, VolumePrune, VolumeRm};
use crate::commands::images::prune::is_answered_yes;
use crate::commands::life::patience;
use crate::commands::{each, report};
use crate::failure::Failure;
use crate::{table, target};

/// Removes volumes and prints what they were called by. With `--force` one that is gone is removed already.
pub fn remove(global: &Global, args: &VolumeRm) -> Result<u8, Failure> {
    if args.volumes.is_empty() && !args.all {
        return Err(Failure::message("choose either one or more volumes or all", 125));
    }
    let engine = target::engine(global)?;
    let names = match args.all {
        true => engine.store().volumes()?.iter().map(ToString::to_string).collect(),
        false => args.volumes.clone(),
    };
    let options = RemoveOptions { force: args.force.then(|| patience(args.time)) };
    Ok(each(global, &names, |query| {
        let removed = find_volume(&engine, query).and_then(|name| remove_volume(&engine, &name, options));
        match removed {
            Ok(()) => Ok(table::print_line(query)?),
            // Of all some may have gone meanwhile.
            Err(Error::Volume(VolumeError::NotFound(_))) if args.force || args.all => Ok(()),
            Err(error) => {
                let code = match &error {
                    Error::Volume(VolumeError::NotFound(_)) => 1,
                    Error::Volume(VolumeError::InUse { .. }) => 2,
                    _ => 125,
                };
                Err(Failure::from(error).with_exit_code(code))
            }
        }
    }))
}

/// Removes the volumes that no container uses, and prints their names. Asks first, unless by force.
pub fn prune(global: &Global, args: &VolumePrune) -> Result<u8, Failure> {
    let filters = read_filters(&args.filters)?;
    let which = match args.filters.is_empty() {
        true => String::new(),
        false => format!(" that fit {}", stos_spec::text::shown(&args.filters.join(", "))),
    };
    if !args.force && !is_answered_yes(&format!("all volumes not used by at least one container{which}"))? {
        return Ok(0);
    }
    let (pruned, attempts) = prune_volumes(&target::engine(global)?, &filters)?;
    pruned.iter().try_for_each(|volume| table::print_line(&volume.name))?;
    let freed = pruned.iter().map(|volume| volume.bytes).sum();
    // With stderr closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "Freed: {}", table::size(freed));
    Ok(report(global, attempts))
}
