// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The docker-archive: layers, configurations, `manifest.json`, and `repositories` for old readers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::sink::Sink;
use super::{Saved, SavedImage, document, write_layer};
use crate::Engine;
use crate::error::Result;

/// Writes the images. The same images always give the same bytes.
pub(super) fn write(engine: &Engine, images: &[SavedImage], sink: &mut dyn Sink) -> Result<Saved> {
    let (mut written, mut entries) = (BTreeSet::new(), Vec::<Value>::new());
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for SavedImage { image, names } in images {
        let layers: Vec<String> = image.config.diff_ids.iter().map(|layer| format!("{}.tar", layer.hex())).collect();
        for (layer, name) in image.config.diff_ids.iter().zip(&layers) {
            if written.insert(name.clone()) {
                write_layer(engine, image, *layer, name, sink)?;
            }
        }
        let config = format!("{}.json", image.record.image_id.hex());
        if written.insert(config.clone()) {
            sink.add_bytes(&config, &image.config_bytes)?;
        }
        let tags: Vec<String> = names.iter().map(ToString::to_string).collect();
        // Two manifests of one configuration are one image here.
        match entries.iter_mut().find(|entry| entry["Config"] == json!(config)) {
            Some(entry) => append(&mut entry["RepoTags"], &tags),
            None => entries.push(json!({ "Config": config, "RepoTags": tags, "Layers": layers })),
        }
        for name in names {
            let top = image.config.diff_ids.last().map(|layer| layer.hex()).unwrap_or_default();
            let tag = name.tag().unwrap_or_default().to_owned();
            repositories.entry(name.name()).or_default().insert(tag, top);
        }
    }
    sink.add_bytes("manifest.json", &document(&json!(entries)))?;
    if !repositories.is_empty() {
        sink.add_bytes("repositories", &document(&json!(repositories)))?;
    }
    Ok(Saved::default())
}

fn append(list: &mut Value, tags: &[String]) {
    if let Some(list) = list.as_array_mut() {
        list.extend(tags.iter().map(|tag| json!(tag)));
    }
}
