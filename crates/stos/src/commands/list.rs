// SPDX-License-Identifier: Apache-2.0 OR MIT
//! list: containers of both modes.

use std::collections::HashSet;

use serde::Serialize;
use stos_engine::container::{self, ContainerState};
use stos_runtime::lifecycle::list_bundles;
use stos_runtime::state::OciState;

use crate::cli::{Format, Global, List};
use crate::failure::Failure;
use crate::{table, target};

/// A line of the list.
#[derive(Serialize)]
struct Line {
    id: String,
    name: Option<String>,
    mode: &'static str,
    image: Option<String>,
    bundle: String,
    command: Vec<String>,
    pid: i32,
    status: String,
    exit_code: Option<i32>,
    /// Whether the kernel killed a process of it for want of memory; known when it has ended.
    oom_killed: Option<bool>,
    created: String,
}

/// Lists the containers of image mode, then those of bundle mode. In bundle mode only the latter, as runc.
pub fn list(global: &Global, args: &List) -> Result<u8, Failure> {
    if global.bundle_mode {
        let bundles = list_bundles(&target::run_states(global), |_| false)?;
        match args.format {
            // Whatever the format is, as runc has it.
            _ if args.quiet => table::print_lines(bundles.iter().map(|state| &state.id))?,
            Format::Json => table::print_json(&bundles.into_iter().map(with_owner).collect::<Vec<_>>())?,
            Format::Table => {
                let rows: Vec<_> = bundles.iter().map(bundle_row).collect();
                table::print(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], &rows)?;
            }
        }
        return Ok(0);
    }
    let mut lines = if global.data_root.is_dir() { image_lines(global)? } else { Vec::new() };
    let known: HashSet<_> = lines.iter().map(|line| line.id.clone()).collect();
    let bundles = list_bundles(&target::run_states(global), |id| known.contains(id.as_str()))?;
    lines.extend(bundles.into_iter().map(bundle_line));
    match args.format {
        Format::Json => table::print_json(&lines)?,
        Format::Table if args.quiet => table::print_lines(lines.iter().map(|line| &line.id))?,
        Format::Table => {
            let rows: Vec<_> = lines.iter().map(row).collect();
            table::print(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PID", "NAME"], &rows)?;
        }
    }
    Ok(0)
}

fn image_lines(global: &Global) -> Result<Vec<Line>, Failure> {
    let engine = target::reader(global)?;
    let mut lines = Vec::new();
    for (id, record) in container::list(&engine)? {
        let bundle = engine.store().container_dir(&id).display().to_string();
        let found = record.and_then(|record| Ok((container::state(&engine, &id)?, record)));
        let (state, record) = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(container = %id, %error, "its record cannot be read");
                lines.push(unreadable_line(id.to_string(), bundle));
                continue;
            }
        };
        let (pid, exit_code) = match &state {
            ContainerState::Running(run) => (run.init.as_ref().map_or(0, |init| init.pid), None),
            ContainerState::Exited(exit) => (0, Some(exit.exit_code)),
            _ => (0, None),
        };
        let oom_killed = match &state {
            ContainerState::Exited(exit) => Some(exit.oom_killed),
            _ => None,
        };
        lines.push(Line {
            oom_killed,
            bundle,
            id: id.to_string(),
            name: Some(record.name.to_string()),
            mode: "image",
            image: Some(record.image),
            command: record.command,
            pid,
            status: state.status().to_owned(),
            exit_code,
            created: record.created,
        });
    }
    Ok(lines)
}

/// A container of which nothing is known but that it is there.
fn unreadable_line(id: String, bundle: String) -> Line {
    Line {
        id,
        name: None,
        mode: "image",
        image: None,
        bundle,
        command: Vec::new(),
        pid: 0,
        status: "unreadable".to_owned(),
        exit_code: None,
        oom_killed: None,
        created: String::new(),
    }
}

fn bundle_line(state: OciState) -> Line {
    Line {
        id: state.id,
        name: None,
        mode: "bundle",
        image: None,
        bundle: state.bundle.display().to_string(),
        command: Vec::new(),
        pid: state.pid,
        status: state.status.to_string(),
        exit_code: None,
        oom_killed: None,
        created: state.created.to_string(),
    }
}

fn row(line: &Line) -> Vec<String> {
    let id = if line.mode == "image" { line.id[..12].to_owned() } else { line.id.clone() };
    let mut command: String = line.command.join(" ").chars().take(24).collect();
    if command.len() < line.command.join(" ").len() {
        command.push('…');
    }
    let status = match line.exit_code {
        Some(code) if line.oom_killed == Some(true) => format!("{} ({code}, out of memory)", line.status),
        Some(code) => format!("{} ({code})", line.status),
        None => line.status.clone(),
    };
    vec![
        id,
        line.image.clone().unwrap_or_else(|| line.bundle.clone()),
        command,
        table::ago(&line.created),
        status,
        line.pid.to_string(),
        line.name.clone().unwrap_or_default(),
    ]
}

/// runc's `state` names no owner and its `list` does: only root can make containers.
fn with_owner(state: OciState) -> OciState {
    if state.owner.is_empty() { OciState { owner: "root".to_owned(), ..state } } else { state }
}

fn bundle_row(state: &OciState) -> Vec<String> {
    let owner = if state.owner.is_empty() { "root" } else { &state.owner };
    vec![
        state.id.clone(),
        state.pid.to_string(),
        state.status.to_string(),
        state.bundle.display().to_string(),
        state.created.to_string(),
        owner.to_owned(),
    ]
}
