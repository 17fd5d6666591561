// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands about images; pull, images, inspect and rmi are told here.

pub mod archive;
mod filter;
pub mod history;
pub mod mounts;
pub mod names;
pub mod prune;
pub mod push;

use serde_json::{Value, json};
use stos_engine::image::{self, ImageSummary, LoadedImage};
use stos_engine::location::{ImageLocation, pull_image};
use stos_engine::{Engine, container, pods};

use super::each;
use crate::cli::{Format, Global, Image, Images, Inspect, Pull, Rmi};
use crate::failure::Failure;
use crate::template::{Context, Template};
use crate::{options, progress, table, target};

/// Runs a command of the group `image`.
pub fn run(global: &Global, command: Image) -> Result<u8, Failure> {
    match command {
        Image::Ls(args) => list(global, &args),
        Image::Pull(args) => pull(global, &args),
        Image::Push(args) => push::push(global, &args),
        Image::Inspect(args) => inspect_images(global, &args),
        Image::Rm(args) => remove(global, &args),
        Image::Tag(args) => names::tag(global, &args),
        Image::Untag(args) => names::untag(global, &args),
        Image::History(args) => history::history(global, &args),
        Image::Save(args) => archive::save(global, &args),
        Image::Load(args) => archive::load(global, &args),
        Image::Diff(args) => super::changes::diff_images(global, &args),
        Image::Mount(args) => mounts::mount(global, &args),
        Image::Unmount(args) => mounts::unmount(global, &args),
        Image::Import(args) => archive::import(global, &args),
        Image::Prune(args) => prune::prune(global, &args),
        Image::Exists(args) => super::exists::image(global, &args),
        Image::Verify(args) => super::system::check::verify(global, &args),
    }
}

/// Pulls an image and prints its manifest's digest.
pub fn pull(global: &Global, args: &Pull) -> Result<u8, Failure> {
    let image = progress::reporter(&args.progress)?.watch(|progress| {
        let location: ImageLocation = args.reference.parse()?;
        let options = options::pull_options(&args.registry)?;
        Ok(pull_image(&target::engine(global)?, &location, &options, progress)?)
    })?;
    table::print_line(image.manifest.digest)?;
    if image.reference.is_none() && !args.progress.quiet {
        archive::note(format_args!("it has no name there: `stos tag {} NAME` gives it one", image.image_id.short()));
    }
    Ok(0)
}

/// Lists the images.
pub fn list(global: &Global, args: &Images) -> Result<u8, Failure> {
    let template = match args.format.as_str() {
        "table" | "json" | "{{json .}}" => None,
        text => Some(Template::parse(text.strip_prefix("table ").unwrap_or(text))?),
    };
    let mut images = image::list_images(&target::reader(global)?)?;
    filter::keep(&mut images, &args.filter, args.image.as_deref())?;
    match (template, args.format.as_str()) {
        (Some(template), format) => {
            let has_header = format.starts_with("table ") && !args.noheading;
            print_by(&template, has_header, &images, args.no_trunc)?;
        }
        (None, "table") if args.quiet => {
            let mut told = std::collections::BTreeSet::new();
            // One of several names is one image.
            for image in images.iter().filter(|image| told.insert(image.id)) {
                table::print_line(shown_id(image, args.no_trunc))?;
            }
        }
        (None, "table") => {
            let rows: Vec<_> = images.iter().map(|image| row(image, args.no_trunc)).collect();
            let header = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
            table::print_under((!args.noheading).then_some(&header[..]), &rows)?;
        }
        (None, _) => table::print_json(&images)?,
    }
    Ok(0)
}

/// Prints a line for each image, with podman's names for what its table shows.
fn print_by(template: &Template, is_table: bool, images: &[ImageSummary], no_trunc: bool) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for image in images {
        let cells = row(image, no_trunc);
        let shown = json!({
            "Repository": cells[0], "Tag": cells[1], "ID": cells[2], "CreatedSince": cells[3], "Size": cells[4],
            "CreatedAt": image.created.as_deref().unwrap_or("-"),
        });
        rows.push(template.render(&Context { document: serde_json::to_value(image)?, shown })?);
    }
    if !is_table {
        return Ok(rows.iter().try_for_each(table::print_line)?);
    }
    Ok(table::print_cells(Some(&template.header(&[("ID", "IMAGE ID"), ("CreatedSince", "CREATED")])), &rows)?)
}

fn shown_id(image: &ImageSummary, no_trunc: bool) -> String {
    if no_trunc { image.id.to_string() } else { image.id.short() }
}

fn row(image: &ImageSummary, no_trunc: bool) -> Vec<String> {
    let none = || "<none>".to_owned();
    vec![
        image.repository.clone().unwrap_or_else(none),
        image.tag.clone().unwrap_or_else(none),
        shown_id(image, no_trunc),
        image.created.as_deref().map_or_else(|| "-".to_owned(), table::ago),
        table::size(image.size),
    ]
}

/// Prints all that is known of images, containers and pods, as a JSON array.
pub fn inspect(global: &Global, args: &Inspect) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    inspect_each(global, &args.format, &args.names, &mut |name| inspect_one(&engine, name))
}

/// Prints all that is known of images, as a JSON array; a container's name is none.
fn inspect_images(global: &Global, args: &Inspect) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    inspect_each(global, &args.format, &args.names, &mut |name| {
        inspect_image(&engine, &image::find_image(&engine, name)?)
    })
}

/// The same for containers alone.
pub fn inspect_containers(global: &Global, args: &Inspect) -> Result<u8, Failure> {
    let engine = target::reader(global)?;
    inspect_each(global, &args.format, &args.names, &mut |name| {
        inspect_container(&engine, &container::find(&engine, name)?)
    })
}

/// Prints what is known of each as one JSON array, or by a template a line each.
pub(super) fn inspect_each(
    global: &Global,
    format: &str,
    names: &[String],
    inspect: &mut dyn FnMut(&str) -> Result<Value, Failure>,
) -> Result<u8, Failure> {
    if format != "json" {
        let template = Template::parse(format)?;
        return Ok(each(global, names, |name| {
            let context = Context { document: inspect(name)?, shown: Value::Null };
            Ok(table::print_line(template.render(&context)?)?)
        }));
    }
    let mut found = Vec::new();
    let code = each(global, names, |name| {
        found.push(inspect(name)?);
        Ok(())
    });
    table::print_json(&found)?;
    Ok(code)
}

fn inspect_one(engine: &Engine, name: &str) -> Result<Value, Failure> {
    match container::find(engine, name) {
        Ok(record) => inspect_container(engine, &record),
        Err(stos_engine::Error::NoSuchContainer(_)) => match image::find_image(engine, name) {
            Ok(image) => inspect_image(engine, &image),
            Err(stos_engine::Error::Store(stos_store::Error::NoSuchImage(_))) => match pods::find(engine, name) {
                Ok(pod) => super::pod::inspect_pod(engine, pod),
                Err(_) => Err(Failure::message(format!("no such image or container: {name:?}"), 1)),
            },
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn inspect_container(engine: &Engine, record: &container::ContainerRecord) -> Result<Value, Failure> {
    let state = container::state(engine, &record.id)?;
    let dir = engine.store().container_dir(&record.id);
    let config: Option<Value> = stos_store::files::read_json(&dir.join("config.json"))?;
    let (pid, exit) = match &state {
        container::ContainerState::Running(run) => (run.init.as_ref().map(|init| init.pid), None),
        container::ContainerState::Exited(exit) => (None, Some(exit)),
        _ => (None, None),
    };
    let mut value = serde_json::to_value(record)?;
    // Under podman's name, and as podman has it: the id alone.
    if let Some(members) = value.as_object_mut() {
        members.remove("pod");
    }
    value["Pod"] = json!(record.pod.as_ref().map_or("", |pod| pod.id.as_str()));
    value["state"] = json!({
        "status": state.status(),
        "running": matches!(state.status(), "running" | "paused"),
        "paused": state.status() == "paused",
        "pid": pid,
        "exit_code": exit.map(|exit| exit.exit_code),
        "oom_killed": exit.is_some_and(|exit| exit.oom_killed),
        "started_at": exit.map(|exit| &exit.started),
        "finished_at": exit.map(|exit| &exit.finished),
        "exit": exit,
    });
    value["config"] = config.unwrap_or_default();
    value["NetworkSettings"] = super::network_settings::settings(engine, record)?;
    value["log_path"] = json!(dir.join("log"));
    super::service_settings::add(&mut value, engine, record, &state)?;
    value["Mounts"] = json!(stos_engine::volumes::mounts_from_outside(engine, record)?);
    Ok(value)
}

fn inspect_image(engine: &Engine, image: &LoadedImage) -> Result<Value, Failure> {
    let layers = image.config.diff_ids.iter().zip(&image.manifest.layers).map(|(diff_id, layer)| {
        let size = engine.layerfs().kept(*diff_id).ok().flatten().map(|kept| kept.tar_bytes);
        json!({
            "diff_id": diff_id,
            "blob": layer.descriptor.digest,
            "media_type": layer.descriptor.media_type,
            "compressed_size": layer.descriptor.size,
            "size": size,
        })
    });
    let layers: Vec<Value> = layers.collect();
    let config: Value = serde_json::from_slice(&image.config_bytes)?;
    Ok(json!({
        "id": image.record.image_id,
        "name": image.record.reference,
        "digest": image.record.manifest.digest,
        "index_digest": image.record.index_digest,
        "media_type": image.record.manifest.media_type,
        "chain_id": image.chain_id()?,
        "pulled": image.record.pulled,
        "platform": image.config.platform,
        "layers": layers,
        // podman's names.
        "Os": image.config.platform.os,
        "Architecture": image.config.platform.architecture,
        "RepoTags": image.record.reference.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Created": config["created"],
        "Config": config["config"],
        "Labels": config["config"]["Labels"],
        "config": config,
    }))
}

/// All names of all images; of one without a name its ID.
fn every_name(engine: &Engine) -> Result<Vec<String>, Failure> {
    let name = |image: ImageSummary| match (image.repository, image.tag) {
        (Some(repository), Some(tag)) => format!("{repository}:{tag}"),
        (Some(repository), None) => format!("{repository}@{}", image.digest),
        _ => image.id.to_string(),
    };
    Ok(image::list_images(engine)?.into_iter().map(name).collect())
}

/// Removes images.
pub fn remove(global: &Global, args: &Rmi) -> Result<u8, Failure> {
    let engine = target::engine(global)?;
    let mut all = Vec::new();
    let images = if args.all { every_name(&engine)? } else { args.images.clone() };
    let code = each(global, &images, |name| {
        let removed = match image::remove_image(&engine, name, args.force) {
            Err(stos_engine::Error::Store(stos_store::Error::NoSuchImage(_))) if args.ignore || args.all => {
                return Ok(());
            }
            other => other.map_err(Failure::of_rmi)?,
        };
        if args.format == Format::Table {
            removed.untagged.iter().try_for_each(|name| table::print_line(format!("Untagged: {name}")))?;
            removed.deleted.iter().try_for_each(|id| table::print_line(format!("Deleted: {id}")))?;
        }
        all.push(removed);
        Ok(())
    });
    if args.format == Format::Json {
        table::print_json(&all)?;
    }
    Ok(code)
}
