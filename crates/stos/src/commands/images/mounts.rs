// SPDX-License-Identifier: Apache-2.0 OR MIT
//! image mount, image unmount.

use std::collections::BTreeSet;

use serde_json::json;
use stos_engine::Engine;
use stos_engine::image_mount::{self, MountedImage};

use super::super::each;
use crate::cli::{Format, Global, ImageMount, ImageUnmount};
use crate::failure::Failure;
use crate::{table, target};

/// Mounts images and prints where: the path alone for one, ID and path for more or for all. Without images lists those that are mounted.
pub fn mount(global: &Global, args: &ImageMount) -> Result<u8, Failure> {
    let engine = target::engine(global)?;
    let images = if args.all { all_images(&engine)? } else { args.images.clone() };
    if images.is_empty() && !args.all {
        let mounted = image_mount::mounted_images(&engine)?;
        match args.format {
            Format::Json => table::print_json(&mounted.iter().map(described).collect::<Vec<_>>())?,
            Format::Table => mounted.iter().try_for_each(|image| print(&name_of(image), image))?,
        }
        return Ok(0);
    }
    let mut all = Vec::new();
    let code = each(global, &images, |name| {
        let image = image_mount::mount_image(&engine, name)?;
        match args.format {
            Format::Json => all.push(described(&image)),
            Format::Table if images.len() == 1 && !args.all => table::print_line(image.path.display())?,
            Format::Table => print(&image.id.short(), &image)?,
        }
        Ok(())
    });
    if args.format == Format::Json {
        table::print_json(&all)?;
    }
    Ok(code)
}

/// The IDs of all images, each once.
fn all_images(engine: &Engine) -> Result<Vec<String>, Failure> {
    let images = engine.store().images()?.into_iter();
    let ids: BTreeSet<String> = images.map(|image| image.image_id.hex().to_string()).collect();
    Ok(ids.into_iter().collect())
}

fn name_of(image: &MountedImage) -> String {
    image.names.first().cloned().unwrap_or_else(|| image.id.short())
}

fn print(name: &str, image: &MountedImage) -> std::io::Result<()> {
    table::print_line(format_args!("{name}  {}", image.path.display()))
}

/// An image as podman's JSON has it.
fn described(image: &MountedImage) -> serde_json::Value {
    json!({ "id": image.id.hex(), "Repositories": image.names, "mountpoint": image.path })
}

/// Unmounts images and prints their IDs.
pub fn unmount(global: &Global, args: &ImageUnmount) -> Result<u8, Failure> {
    let engine = target::engine(global)?;
    if args.all {
        image_mount::unmount_all_images(&engine, args.force)?.iter().try_for_each(|id| table::print_line(id.hex()))?;
        return Ok(0);
    }
    Ok(each(global, &args.images, |name| {
        let id = image_mount::unmount_image(&engine, name, args.force)?;
        Ok(table::print_line(id.hex())?)
    }))
}
