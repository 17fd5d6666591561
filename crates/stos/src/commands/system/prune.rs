// SPDX-License-Identifier: Apache-2.0 OR MIT
//! system prune: pods and containers that do not run, images that nobody uses, and volumes where that is asked for (podman-system-prune(1)).

use std::io::{self, Write};

use stos_engine::prune::{PruneFilter, PruneOptions, prune_images};
use stos_engine::volumes::{VolumeFilter, prune_volumes};

use crate::cli::{Global, SystemPrune};
use crate::commands::containers::prune_containers;
use crate::commands::images::prune::is_answered_yes;
use crate::commands::pod::prune_pods;
use crate::commands::report;
use crate::failure::Failure;
use crate::{table, target};

/// Removes them in this order, so that what the first used can go too, and prints the ids of each kind. Asks first, unless by force.
pub fn prune(global: &Global, args: &SystemPrune) -> Result<u8, Failure> {
    let filters = args.filters.iter().map(|text| text.parse::<PruneFilter>()).collect::<Result<Vec<_>, _>>()?;
    let of_volumes = args.filters.iter().map(|text| text.parse::<VolumeFilter>()).collect::<Result<Vec<_>, _>>()?;
    if !args.force && !is_answered_yes(&question(args))? {
        return Ok(0);
    }
    let engine = target::engine(global)?;
    let (pods, code_of_pods) = prune_pods(global, &engine, &filters)?;
    print("Deleted Pods", &pods)?;
    let (containers, code) = prune_containers(global, &engine, &filters)?;
    print("Deleted Containers", &containers)?;
    let images = prune_images(&engine, &PruneOptions { all: args.all, filters })?;
    print("Deleted Images", &images.deleted)?;
    let (mut freed, mut code_of_volumes) = (images.freed, 0);
    if args.volumes {
        let (volumes, attempts) = prune_volumes(&engine, &of_volumes)?;
        print("Deleted Volumes", &volumes.iter().map(|volume| &volume.name).collect::<Vec<_>>())?;
        freed += volumes.iter().map(|volume| volume.bytes).sum::<u64>();
        code_of_volumes = report(global, attempts);
    }
    // With stderr closed there is nobody to tell.
    let _ = writeln!(
        io::stderr(),
        "Freed by images{}: {}",
        if args.volumes { " and volumes" } else { "" },
        table::size(freed)
    );
    Ok(code.max(code_of_pods).max(code_of_volumes))
}

fn print(header: &str, ids: &[impl std::fmt::Display]) -> io::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    table::print_line(header)?;
    table::print_lines(ids)
}

fn question(args: &SystemPrune) -> String {
    let images =
        if args.all { "all images without at least one container associated with them" } else { "all dangling images" };
    let mut what = vec!["all pods that have ended", "all containers that do not run", images];
    if args.volumes {
        what.push("all volumes not used by at least one container");
    }
    let which = match args.filters.is_empty() {
        true => String::new(),
        false => format!(" that fit {}", stos_spec::text::shown(&args.filters.join(", "))),
    };
    format!("{}{which}", what.join(", "))
}
