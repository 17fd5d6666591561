// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The group `volume`. Exit codes are podman's: 125 for what fails, but 1 for a volume that is not there to be removed and 2 for one that
//! is used.

mod remove;

use std::collections::BTreeMap;

use serde_json::Value;
use stos_engine::volumes::{
    DRIVER, Volume as VolumeInfo, VolumeError, VolumeFilter, VolumeRequest, create_volume, inspect_volume, list_volumes,
};

use super::each;
use crate::cli::{Global, Volume, VolumeCreate, VolumeExists, VolumeInspect, VolumeLs};
use crate::failure::Failure;
use crate::template::{Context, Template};
use crate::{options, table, target};

/// Runs a command of the group.
pub fn run(global: &Global, command: Volume) -> Result<u8, Failure> {
    let done = match command {
        Volume::Create(args) => create(global, &args),
        Volume::Ls(args) => list(global, &args),
        Volume::Inspect(args) => inspect(global, &args),
        Volume::Rm(args) => remove::remove(global, &args),
        Volume::Prune(args) => remove::prune(global, &args),
        Volume::Exists(args) => exists(global, &args),
    };
    done.map_err(|failure| failure.with_exit_code(125))
}

/// Makes a volume and prints its name.
fn create(global: &Global, args: &VolumeCreate) -> Result<u8, Failure> {
    let name = args.name.as_deref().map(str::parse).transpose()?;
    if args.driver != DRIVER {
        let volume = args.name.clone().unwrap_or_default();
        return Err(stos_engine::Error::from(VolumeError::Driver { volume, driver: args.driver.clone() }).into());
    }
    let mut request = VolumeRequest {
        name,
        labels: args.label.iter().map(|text| options::parse_label(text)).collect::<anyhow::Result<_>>()?,
        options: args.opt.iter().map(|text| read_option(text)).collect::<Result<BTreeMap<_, _>, _>>()?,
        ignore: args.ignore,
    };
    for (key, id) in [("uid", args.uid), ("gid", args.gid)] {
        request.options.extend(id.map(|id| (key.to_owned(), id.to_string())));
    }
    table::print_line(create_volume(&target::engine(global)?, request)?)?;
    Ok(0)
}

/// An option without a value is one whose value is empty.
fn read_option(text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err(Failure::message(format!("--opt {text:?}: expected KEY=VALUE"), 125)),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    }
}

fn list(global: &Global, args: &VolumeLs) -> Result<u8, Failure> {
    let filters = read_filters(&args.filters)?;
    let template = match args.format.as_str() {
        "table" | "json" | "{{json .}}" => None,
        text => Some(Template::parse(text.strip_prefix("table ").unwrap_or(text))?),
    };
    let volumes =
        if global.data_root.is_dir() { list_volumes(&target::reader(global)?, &filters)? } else { Vec::new() };
    match (template, args.format.as_str()) {
        (Some(template), format) => print_by(&template, format.starts_with("table "), args.noheading, &volumes)?,
        (None, "table") if args.quiet => table::print_lines(volumes.iter().map(|volume| &volume.name))?,
        (None, "table") => {
            let rows: Vec<_> = volumes.iter().map(|volume| vec![DRIVER.to_owned(), volume.name.to_string()]).collect();
            table::print_under(if args.noheading { None } else { Some(&["DRIVER", "VOLUME NAME"]) }, &rows)?;
        }
        (None, _) => table::print_json(&volumes)?,
    }
    Ok(0)
}

fn print_by(template: &Template, is_table: bool, noheading: bool, volumes: &[VolumeInfo]) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for volume in volumes {
        lines.push(template.render(&Context { document: serde_json::to_value(volume)?, shown: Value::Null })?);
    }
    if !is_table {
        return Ok(lines.iter().try_for_each(table::print_line)?);
    }
    let header = template.header(&[("Name", "VOLUME NAME")]);
    Ok(table::print_cells(if noheading { None } else { Some(&header) }, &lines)?)
}

fn read_filters(texts: &[String]) -> Result<Vec<VolumeFilter>, Failure> {
    Ok(texts.iter().map(|text| text.parse::<VolumeFilter>()).collect::<Result<_, _>>()?)
}

/// Prints all that is known of volumes, as one JSON array or by a template a line each.
fn inspect(global: &Global, args: &VolumeInspect) -> Result<u8, Failure> {
    if args.volumes.is_empty() && !args.all {
        return Err(Failure::message("provide one or more volume names or use --all", 125));
    }
    let template = if args.format == "json" { None } else { Some(Template::parse(&args.format)?) };
    let engine = target::reader(global)?;
    let names = match args.all {
        true => list_volumes(&engine, &[])?.iter().map(|volume| volume.name.to_string()).collect(),
        false => args.volumes.clone(),
    };
    let mut found = Vec::new();
    let code = each(global, &names, |name| {
        let volume = serde_json::to_value(inspect_volume(&engine, name)?)?;
        match &template {
            Some(template) => table::print_line(template.render(&Context { document: volume, shown: Value::Null })?)?,
            None => found.push(volume),
        }
        Ok(())
    });
    if template.is_none() {
        table::print_json(&found)?;
    }
    Ok(if code == 0 { 0 } else { 125 })
}

/// Tells by the exit code whether there is a volume.
fn exists(global: &Global, args: &VolumeExists) -> Result<u8, Failure> {
    if !global.data_root.is_dir() {
        return Ok(1);
    }
    let Ok(name) = args.volume.parse() else { return Ok(1) };
    let engine = target::reader(global)?;
    Ok(u8::from(!engine.store().volume_dir(&name).is_dir()))
}
