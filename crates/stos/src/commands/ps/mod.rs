// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ps: containers of both modes as podman lists them, or the processes of one as runc does.

mod filter;
pub mod processes;
mod row;

use std::cmp::Ordering;

use serde_json::Value;

use crate::cli::{Global, Ps, PsSort};
use crate::failure::Failure;
use crate::table;
use crate::template::{Context, Template};

use filter::Filters;
use row::{Row, Wanted};

/// How the headers of some fields differ from their names.
const HEADERS: [(&str, &str); 5] = [
    ("ID", "CONTAINER ID"),
    ("CreatedHuman", "CREATED"),
    ("ImageID", "IMAGE ID"),
    ("Pod", "POD ID"),
    ("PodName", "PODNAME"),
];

/// How the list looks.
enum Look {
    Table,
    Json,
    Quiet,
    Template { template: Template, is_table: bool },
}

/// Lists containers, or the processes of one.
pub fn ps(global: &Global, args: &Ps) -> Result<u8, Failure> {
    if let Some((query, options)) = args.words.split_first() {
        return processes::list(global, args, query, options);
    }
    if global.bundle_mode {
        return Err(Failure::message("ps: expected the id of a container", 1));
    }
    let look = look(args)?;
    let filters = Filters::read(global, &args.filters)?;
    let uses = |name: &str| match &look {
        Look::Template { template, .. } => template.may_use(name),
        Look::Json => true,
        Look::Table | Look::Quiet => false,
    };
    let wanted = Wanted {
        mounts: uses("Mounts") || filters.need_mounts(),
        size: args.size || args.sort == PsSort::Size,
        pods: args.pod || uses("Pod") || uses("PodName") || filters.need_pods(),
    };
    let mut rows = row::rows(global, wanted, &mut |row| filters.fit(row))?;
    // podman shows all where a status is asked for, and where the last ones are.
    let shows_all = args.all || args.latest || args.last.is_some() || filters.ask_for_status();
    rows.retain(|row| shows_all || row.state == "running");
    rows.sort_by(by_created);
    if let Some(count) = args.last.or(args.latest.then_some(1)) {
        rows.drain(..rows.len().saturating_sub(count));
    }
    rows.sort_by(|a, b| order(args.sort, a, b));
    print(args, &look, &rows)?;
    Ok(0)
}

/// Gives the ids of the containers from images that fit the filters, and whose state does.
pub(super) fn ids_that_fit(
    global: &Global,
    filters: &[String],
    fits: fn(&str) -> bool,
) -> Result<Vec<String>, Failure> {
    let filters = Filters::read(global, filters)?;
    let wanted = Wanted { mounts: filters.need_mounts(), size: false, pods: filters.need_pods() };
    let mut rows = row::rows(global, wanted, &mut |row| !row.is_bundle && fits(row.state) && filters.fit(row))?;
    rows.sort_by(by_created);
    Ok(rows.into_iter().map(|row| row.id).collect())
}

fn look(args: &Ps) -> Result<Look, Failure> {
    let text = match args.format.as_deref() {
        None if args.quiet => return Ok(Look::Quiet),
        None | Some("table") => return Ok(Look::Table),
        Some("json" | "{{json .}}") => return Ok(Look::Json),
        Some(text) => text,
    };
    let (text, is_table) = text.strip_prefix("table ").map_or((text, false), |rest| (rest, true));
    Ok(Look::Template { template: Template::parse(text)?, is_table })
}

fn by_created(a: &Row, b: &Row) -> Ordering {
    (a.created, &a.id).cmp(&(b.created, &b.id))
}

fn order(by: PsSort, a: &Row, b: &Row) -> Ordering {
    match by {
        PsSort::Created => by_created(a, b),
        PsSort::Runningfor => by_created(b, a),
        PsSort::Command => a.command.cmp(&b.command),
        PsSort::Id => a.id.cmp(&b.id),
        PsSort::Image => a.image.cmp(&b.image),
        PsSort::Names => a.name.cmp(&b.name),
        PsSort::Size => a.size.cmp(&b.size),
        PsSort::Status => (a.state, a.exit_code).cmp(&(b.state, b.exit_code)),
    }
}

fn print(args: &Ps, look: &Look, rows: &[Row]) -> Result<(), Failure> {
    let (template, is_table) = match look {
        Look::Json => return Ok(table::print_json(&rows.iter().map(Row::document).collect::<Vec<Value>>())?),
        Look::Quiet => return Ok(rows.iter().try_for_each(|row| table::print_line(row.shown_id(args.no_trunc)))?),
        Look::Table => return print_table(args, rows),
        Look::Template { template, is_table } => (template, *is_table),
    };
    let mut lines = Vec::new();
    for row in rows {
        let context = Context { document: row.document(), shown: row.shown(args.no_trunc) };
        lines.push(template.render(&context)?);
    }
    if !is_table {
        return Ok(lines.iter().try_for_each(table::print_line)?);
    }
    let header = template.header(&HEADERS);
    Ok(table::print_cells(if args.noheading { None } else { Some(&header) }, &lines)?)
}

fn print_table(args: &Ps, rows: &[Row]) -> Result<(), Failure> {
    let mut header = vec!["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    if args.pod {
        header.extend(["POD ID", "PODNAME"]);
    }
    if args.size {
        header.push("SIZE");
    }
    let cells = |row: &Row| {
        let mut cells = vec![
            row.shown_id(args.no_trunc),
            row.image.clone(),
            row.shown_command(args.no_trunc),
            row.created_human(),
            row.status(),
            row.shown_ports(),
            row.name.clone(),
        ];
        if args.pod {
            cells.extend([row.shown_pod_id(args.no_trunc).to_owned(), row.pod.1.clone()]);
        }
        cells.extend(args.size.then(|| row.shown_size()));
        cells
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    Ok(table::print_under(if args.noheading { None } else { Some(&header) }, &rows)?)
}
