// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How an image came to be, step by step, as its configuration tells it.

use serde::Serialize;
use stos_spec::config::History;
use stos_spec::{BlobDigest, DiffId};

use crate::Engine;
use crate::image::LoadedImage;

/// A step of an image's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryStep {
    /// The image, for its last step; of the others only layers are left.
    pub id: Option<BlobDigest>,
    /// When (RFC 3339); `None` where nobody says, or what is said is no time.
    pub created: Option<String>,
    /// By which command.
    pub created_by: String,
    /// A note.
    pub comment: String,
    /// The layer that it made.
    pub layer: Option<DiffId>,
    /// The bytes of that layer, uncompressed: 0 for a step without one, or one that the store lacks.
    pub size: u64,
}

/// Gives an image's history, the last step first.
///
/// Builders may tell of more or fewer layers than there are, or nothing at all: a step beyond the last layer has none, and a
/// layer that no step tells of gets a step of its own.
pub fn image_history(engine: &Engine, image: &LoadedImage) -> Vec<HistoryStep> {
    let size = |layer: DiffId| {
        // One whose record is damaged is told elsewhere.
        engine.layerfs.kept(layer).ok().flatten().map_or(0, |kept| kept.tar_bytes)
    };
    steps(&image.config.history, &image.config.diff_ids, image.record.image_id, size)
}

fn steps(
    history: &[History],
    layers: &[DiffId],
    image_id: BlobDigest,
    size: impl Fn(DiffId) -> u64,
) -> Vec<HistoryStep> {
    let mut layers = layers.iter().copied();
    let step = |told: &History, layer: Option<DiffId>| HistoryStep {
        id: None,
        created: told.created.clone().filter(|time| time.parse::<jiff::Timestamp>().is_ok()),
        created_by: told.created_by.clone().unwrap_or_default(),
        comment: told.comment.clone().unwrap_or_default(),
        layer,
        size: layer.map_or(0, &size),
    };
    let mut steps: Vec<HistoryStep> =
        history.iter().map(|told| step(told, if told.empty_layer { None } else { layers.next() })).collect();
    steps.extend(layers.map(|layer| step(&History::default(), Some(layer))));
    if let Some(last) = steps.last_mut() {
        last.id = Some(image_id);
    }
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, empty_layer: bool) -> History {
        let created = Some(if text == "odd" { "yesterday" } else { "2024-01-01T00:00:00Z" }.to_owned());
        History { created, created_by: Some(text.to_owned()), empty_layer, ..History::default() }
    }

    #[test]
    fn steps_and_layers_need_not_agree() {
        let layers = [DiffId::of(b"0"), DiffId::of(b"1")];
        let size = |layer| if layer == layers[0] { 100 } else { 200 };
        for (history, expected) in [
            (vec![told("a", false), told("b", true), told("c", false)], vec![("c", 200), ("b", 0), ("a", 100)]),
            (vec![told("a", false)], vec![("", 200), ("a", 100)]),
            (vec![], vec![("", 200), ("", 100)]),
            (vec![told("a", true)], vec![("", 200), ("", 100), ("a", 0)]),
            (
                vec![told("a", false), told("b", false), told("c", false), told("odd", false)],
                vec![("odd", 0), ("c", 0), ("b", 200), ("a", 100)],
            ),
        ] {
            let steps = steps(&history, &layers, BlobDigest::of(b"id"), size);
            let seen: Vec<_> = steps.iter().map(|step| (step.created_by.as_str(), step.size)).collect();
            assert_eq!(seen, expected, "{history:?}");
            assert_eq!(steps[0].id, Some(BlobDigest::of(b"id")));
            assert!(steps[1..].iter().all(|step| step.id.is_none()));
            assert!(steps.iter().all(|step| step.created_by != "odd" || step.created.is_none()));
        }
        assert_eq!(steps(&[], &[], BlobDigest::of(b"id"), |_| 0), []);
    }
}
