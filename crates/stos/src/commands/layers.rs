// SPDX-License-Identifier: Apache-2.0 OR MIT
//! layer: ls, inspect, apply, export, merge, copy, mv, sync.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;

use serde_json::json;
use stos_engine::Engine;
use stos_engine::layers::{self, LayerSummary};
use stos_engine::save::SaveTarget;
use stos_layerfs::{LayerLabel, LayerState, SyncReport, Transfer, dirs};
use stos_spec::DiffId;

use super::each;
use crate::cli::{
    Format, Global, Layer, LayerApply, LayerCopy, LayerExport, LayerInspect, LayerLs, LayerMerge, LayerMv, LayerSync,
};
use crate::failure::Failure;
use crate::{table, target};

/// How much of a tar is written at once.
const BUFFER: usize = 256 << 10;

/// Runs a command of the group `layer`.
pub fn run(global: &Global, command: Layer) -> Result<u8, Failure> {
    match command {
        Layer::Ls(args) => list(global, &args),
        Layer::Inspect(args) => inspect(global, &args),
        Layer::Apply(args) => apply(&args),
        Layer::Export(args) => export(global, &args),
        Layer::Merge(args) => merge(global, &args),
        Layer::Copy(args) => copy(global, &args),
        Layer::Mv(args) => move_away(global, &args),
        Layer::Sync(args) => sync(global, &args),
    }
}

fn list(global: &Global, args: &LayerLs) -> Result<u8, Failure> {
    let layers = layers::list_layers(&target::reader(global)?)?;
    match args.format {
        Format::Json => table::print_json(&layers)?,
        Format::Table if args.quiet => layers.iter().try_for_each(|layer| table::print_line(layer.diff_id))?,
        Format::Table => {
            let rows: Vec<_> = layers.iter().map(row).collect();
            table::print(&["DIFFID", "SIZE", "ENTRIES", "BACKEND", "IMAGES", "SOURCE"], &rows)?;
        }
    }
    Ok(0)
}

fn row(layer: &LayerSummary) -> Vec<String> {
    let backends = layer.backends.iter().map(|form| match form.state {
        LayerState::Intact => form.backend.to_string(),
        LayerState::Changed => format!("{} (changed)", form.backend),
        LayerState::Damaged => format!("{} (damaged)", form.backend),
    });
    vec![
        layer.diff_id.short(),
        layer.size.map_or_else(|| "-".to_owned(), table::size),
        layer.entries.map_or_else(|| "-".to_owned(), |entries| entries.to_string()),
        backends.collect::<Vec<_>>().join(", "),
        layer.images.to_string(),
        layer.source.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// Finds layers, or none of them.
fn find(engine: &Engine, queries: &[String]) -> Result<Vec<DiffId>, Failure> {
    Ok(queries.iter().map(|query| layers::find_layer(engine, query)).collect::<Result<_, _>>()?)
}

/// Prints what there is, then tells what is missing.
fn inspect(global: &Global, args: &LayerInspect) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    let mut found = Vec::new();
    let code = each(global, &args.layers, |query| {
        found.push(layers::find_layer(&engine, query)?);
        Ok(())
    });
    table::print_json(&layers::inspect_layers(&engine, &found)?)?;
    Ok(code)
}

/// Applies a tar to a directory and prints its diffID. It needs no data root, and makes none.
fn apply(args: &LayerApply) -> Result<u8, Failure> {
    let (tar, name) = match &args.input {
        Some(path) => (File::open(path).map_err(stos_store::Error::io("open", path))?, path.display().to_string()),
        None if io::stdin().is_terminal() => {
            return Err(Failure::message("cannot read a tar from a terminal: use --input, or redirect", 1));
        }
        None => (File::from(io::stdin().as_fd().try_clone_to_owned()?), "standard input".to_owned()),
    };
    let applied = dirs::apply_tar(&args.directory, tar, &LayerLabel::Origin(name))?;
    table::print_line(applied.diff_id)?;
    Ok(0)
}

fn export(global: &Global, args: &LayerExport) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    let layer = layers::find_layer(&engine, &args.layer)?;
    write_tar(args.output.as_deref(), |target| Ok(layers::export_layer(&engine, layer, target)?))
}

/// Lets a tar be written to a file, or to standard output where that is no terminal.
fn write_tar(output: Option<&Path>, write: impl FnOnce(SaveTarget<'_>) -> Result<(), Failure>) -> Result<u8, Failure> {
    match output {
        Some(path) => write(SaveTarget::Path(path))?,
        None if io::stdout().is_terminal() => {
            return Err(Failure::message("a tar is nothing for a terminal: use -o FILE, or redirect", 1));
        }
        None => {
            // Not through the line buffer of `io::stdout`.
            let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            write(SaveTarget::Stream(&mut BufWriter::with_capacity(BUFFER, stdout)))?;
        }
    }
    Ok(0)
}

fn merge(global: &Global, args: &LayerMerge) -> Result<u8, Failure> {
    let engine = target::engine(global)?;
    let layers = find(&engine, &args.layers)?;
    if let Some(output) = &args.output {
        let output = Some(output.as_path()).filter(|output| *output != Path::new("-"));
        return write_tar(output, |target| Ok(layers::export_merged_layer(&engine, &layers, target)?));
    }
    let kept = engine.layerfs().merge_layers(&layers).map_err(stos_engine::Error::from)?;
    table::print_line(kept.diff_id)?;
    let note = "note: no image uses the layer: it goes when `stos rmi` next removes what is unused";
    // With stderr closed there is nobody to tell.
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{note}\n"));
    Ok(0)
}

/// Opens the other data root.
fn other_engine(global: &Global, data_root: &Path) -> Result<Engine, Failure> {
    target::engine(&Global { data_root: data_root.to_owned(), ..global.clone() })
}

fn copy(global: &Global, args: &LayerCopy) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    let to = other_engine(global, &args.to)?;
    Ok(each(global, &args.layers, |query| {
        let layer = layers::find_layer(&engine, query)?;
        let done = engine.layerfs().copy_layer(layer, to.layerfs()).map_err(stos_engine::Error::from)?;
        Ok(table::print_line(format_args!("{}: {layer}", said(done)))?)
    }))
}

fn said(done: Transfer) -> &'static str {
    match done {
        Transfer::Copied => "Copied",
        Transfer::Present => "Present",
    }
}

fn move_away(global: &Global, args: &LayerMv) -> Result<u8, Failure> {
    let engine = target::engine(global)?;
    let to = other_engine(global, &args.to)?;
    Ok(each(global, &args.layers, |query| {
        let layer = layers::find_layer(&engine, query)?;
        layers::move_layer(&engine, layer, &to)?;
        Ok(table::print_line(format_args!("Moved: {layer}"))?)
    }))
}

fn sync(global: &Global, args: &LayerSync) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    let wanted = find(&engine, &args.layers)?;
    let wanted = Some(wanted.as_slice()).filter(|wanted| !wanted.is_empty());
    let to = other_engine(global, &args.to)?;
    let report = engine.layerfs().sync_layers(wanted, to.layerfs()).map_err(stos_engine::Error::from)?;
    let SyncReport { copied, present, failed } = report;
    if args.format == Format::Json {
        let failures: Vec<_> =
            failed.iter().map(|(layer, error)| json!({"diff_id": layer, "error": error.to_string()})).collect();
        table::print_json(&json!({"copied": copied, "present": present, "failed": failures}))?;
    } else {
        copied.iter().try_for_each(|layer| table::print_line(format_args!("Copied: {layer}")))?;
        present.iter().try_for_each(|layer| table::print_line(format_args!("Present: {layer}")))?;
    }
    let code = u8::from(!failed.is_empty());
    for (_, error) in failed {
        Failure::from(stos_engine::Error::from(error)).report(global);
    }
    Ok(code)
}
