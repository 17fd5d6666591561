// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a command finds done already, by another that was killed before it was durable: it must make it durable before it says so.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::faults::tracer::trace;
use crate::place::Place;

/// Does things a second time, and fails where one of them does not sync the directory that shows what is there. `image` is in the store;
/// `scratch` is a directory for what is not to be looked at.
pub fn check(place: &Place, image: &str, scratch: &Path) -> anyhow::Result<()> {
    let inspected: serde_json::Value = serde_json::from_str(&place.ok(&["inspect", image])?)?;
    let layer = inspected[0]["layers"][0]["diff_id"].as_str().context("an image without layers")?;
    let target = place.data_root().with_file_name("copies");
    let there = target.display().to_string();
    let again: [(&[&str], &Path, &str); 2] = [
        (&["tag", image, "localhost/again:1"], place.data_root(), "images"),
        (&["layer", "copy", "--to", &there, layer], &target, "layers/sha256"),
    ];
    for (words, data_root, directory) in again {
        place.ok(words)?;
        let traced = trace(&place.stos(words), "stos", None, scratch)?;
        let shown = data_root.join(directory);
        let syncs = traced.points.iter().any(|point| point.call == "fsync" && point.path == shown);
        ensure!(traced.succeeded() && syncs, "a second {} does not sync {directory}", words[..2].join(" "));
    }
    Ok(())
}
