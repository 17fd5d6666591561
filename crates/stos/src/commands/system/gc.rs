// SPDX-License-Identifier: Apache-2.0 OR MIT
//! system gc: what nothing reaches any more goes.

use stos_engine::gc::{GC_PATIENCE, collect_garbage};

use crate::cli::{Format, Global, SystemGc};
use crate::failure::Failure;
use crate::{table, target};

/// Removes what nothing reaches and prints each thing with what it took; or only prints it.
pub fn gc(global: &Global, args: &SystemGc) -> Result<u8, Failure> {
    let engine = target::engine(global)?;
    let report = collect_garbage(&engine, args.dry_run, GC_PATIENCE)?;
    if args.format == Format::Json {
        table::print_json(&report)?;
        return Ok(0);
    }
    let rows: Vec<_> = report
        .removed
        .iter()
        .map(|garbage| vec![garbage.kind.to_string(), garbage.id.clone(), table::size(garbage.bytes)])
        .collect();
    if !rows.is_empty() {
        table::print(&["KIND", "ID", "SIZE"], &rows)?;
    }
    let verb = if args.dry_run { "would free" } else { "freed" };
    table::print_line(format_args!("{verb} {}", table::size(report.bytes)))?;
    Ok(0)
}
