// SPDX-License-Identifier: Apache-2.0 OR MIT
//! system df: what the store takes of the disk.

use std::io;

use stos_engine::usage::{DiskUsage, ImageUsage, Row, VolumeUsage, disk_usage};
use stos_spec::ImageRef;

use crate::cli::{Format, Global, SystemDf};
use crate::failure::Failure;
use crate::{table, target};

/// Tells what the store takes, and with `verbose` which image, container and layer.
pub fn df(global: &Global, args: &SystemDf) -> Result<u8, Failure> {
    let usage = disk_usage(&target::reader(global)?)?;
    match args.format {
        Format::Json => table::print_json(&usage)?,
        Format::Table => {
            print_summary(&usage)?;
            if args.verbose {
                print_images(&usage)?;
                print_containers(&usage)?;
                print_volumes(&usage)?;
                print_layers(&usage)?;
            }
        }
    }
    Ok(0)
}

fn print_summary(usage: &DiskUsage) -> io::Result<()> {
    let none = || "-".to_owned();
    let line = |name: &str, counts: Option<(usize, usize)>, size, reclaimable| {
        let (total, active) =
            counts.map_or_else(|| (none(), none()), |(total, active)| (total.to_string(), active.to_string()));
        vec![name.to_owned(), total, active, table::size(size), share(reclaimable, size)]
    };
    let row = |name, row: &Row| line(name, Some((row.total, row.active)), row.size, row.reclaimable);
    let summary = &usage.summary;
    let reclaimable = summary.images.reclaimable
        + summary.containers.reclaimable
        + summary.volumes.reclaimable
        + summary.unused.reclaimable;
    let mut rows = vec![
        row("Images", &summary.images),
        row("Containers", &summary.containers),
        row("Local Volumes", &summary.volumes),
        row("Unused", &summary.unused),
        line("Other", None, summary.other.size, 0),
        line("Total", None, usage.total, reclaimable),
    ];
    // Where containerd keeps any.
    if summary.snapshots.total > 0 {
        rows.insert(3, row("Snapshots", &summary.snapshots));
    }
    table::print(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows)
}

/// A part of a whole, as podman writes it.
fn share(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
    format!("{} ({percent:.0}%)", table::size(part))
}

fn print_images(usage: &DiskUsage) -> io::Result<()> {
    table::print_line("\nImages:")?;
    let header =
        ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS", "STATE"];
    let rows: Vec<_> = usage.images.iter().flat_map(image_rows).collect();
    table::print(&header, &rows)
}

/// A line for each of its names.
fn image_rows(image: &ImageUsage) -> Vec<Vec<String>> {
    let none = || "<none>".to_owned();
    let row = |(repository, tag)| {
        let state = match (image.damaged, image.mounted) {
            (true, _) => "damaged",
            (false, true) => "mounted",
            (false, false) => "",
        };
        vec![
            repository,
            tag,
            image.id.short(),
            image.created.as_deref().map_or_else(|| "-".to_owned(), table::ago),
            table::size(image.size),
            table::size(image.shared_size),
            table::size(image.unique_size),
            image.containers.to_string(),
            state.to_owned(),
        ]
    };
    if image.names.is_empty() {
        return vec![row((none(), none()))];
    }
    let read = |name: &String| match name.parse::<ImageRef>() {
        Ok(reference) => (reference.name(), reference.tag().map_or_else(none, str::to_owned)),
        Err(_) => (name.clone(), none()),
    };
    image.names.iter().map(|name| row(read(name))).collect()
}

fn print_containers(usage: &DiskUsage) -> io::Result<()> {
    table::print_line("\nContainers:")?;
    let unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rows = usage.containers.iter().map(|container| {
        vec![
            container.id.short().to_owned(),
            unknown(&container.image),
            container.status.to_owned(),
            table::size(container.size),
            unknown(&container.name),
        ]
    });
    table::print(&["CONTAINER ID", "IMAGE", "STATUS", "SIZE", "NAME"], &rows.collect::<Vec<_>>())
}

fn print_volumes(usage: &DiskUsage) -> io::Result<()> {
    table::print_line("\nLocal Volumes:")?;
    let row = |volume: &VolumeUsage| vec![volume.name.to_string(), volume.links.to_string(), table::size(volume.size)];
    table::print(&["VOLUME NAME", "LINKS", "SIZE"], &usage.volumes.iter().map(row).collect::<Vec<_>>())
}

fn print_layers(usage: &DiskUsage) -> io::Result<()> {
    table::print_line("\nLayers:")?;
    let rows = usage.layers.iter().map(|layer| {
        vec![layer.diff_id.short(), table::size(layer.size), layer.images.to_string(), layer.containers.to_string()]
    });
    table::print(&["DIFFID", "SIZE", "IMAGES", "CONTAINERS"], &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_told_in_percent() {
        assert_eq!(share(0, 0), "0 B (0%)");
        assert_eq!(share(500, 1000), "500 B (50%)");
        assert_eq!(share(1000, 1000), "1 kB (100%)");
    }
}
