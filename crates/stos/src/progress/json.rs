// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An object for each event, one a line, for a program. docs/progress.md promises the events and their fields.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use stos_engine::pull::{Announced, PullProgress};
use stos_spec::BlobDigest;

use super::tally::Tally;
use super::{Shown, write_line};
use crate::failure::{Failure, printable};

/// How often a layer that is under way is told of at most.
const PERIOD: Duration = Duration::from_millis(200);

/// What is told. Times are milliseconds.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Resolved {
        image: Option<String>,
        manifest: Option<BlobDigest>,
        image_id: BlobDigest,
        platform: String,
        layers: usize,
        bytes: u64,
    },
    LayerStart {
        layer: BlobDigest,
        total: Option<u64>,
    },
    LayerProgress {
        layer: BlobDigest,
        bytes: u64,
        total: Option<u64>,
    },
    LayerDone {
        layer: BlobDigest,
        present: bool,
        bytes: Option<u64>,
        milliseconds: u128,
    },
    MergeStart,
    Merged {
        milliseconds: u128,
    },
    Done {
        bytes: u64,
        present: usize,
        milliseconds: u128,
    },
    Failed {
        message: String,
        hint: Option<String>,
    },
}

/// Shows progress in JSON.
pub struct Json(Mutex<Tally>);

impl Json {
    pub fn new() -> Self {
        Self(Mutex::new(Tally::new(Instant::now())))
    }

    /// Events are written while this is held, so that each layer's come in their order.
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What nobody has said is 0.
fn known(size: u64) -> Option<u64> {
    (size > 0).then_some(size)
}

fn write(event: &Event) {
    // Nothing in an event is what JSON cannot say.
    if let Ok(line) = serde_json::to_string(event) {
        write_line(line);
    }
}

fn resolved(image: &Announced<'_>, bytes: u64) -> Event {
    Event::Resolved {
        image: image.image.map(ToString::to_string),
        manifest: image.manifest,
        image_id: image.image_id,
        platform: image.platform.to_string(),
        layers: image.layers.len(),
        bytes,
    }
}

/// More of a layer has come. Tells of it where that is due.
fn advance(tally: &mut Tally, blob: BlobDigest, count: u64, now: Instant) -> Option<Event> {
    let layer = tally.advance(blob, count)?;
    if now.saturating_duration_since(layer.told.0) < PERIOD {
        return None;
    }
    layer.told = (now, layer.received);
    Some(Event::LayerProgress { layer: blob, bytes: layer.received, total: known(layer.size) })
}

fn finish(tally: &mut Tally, blob: BlobDigest, was_present: bool, now: Instant) -> Event {
    let done = tally.finish(blob, was_present, now);
    let bytes = if was_present { known(done.bytes) } else { Some(done.bytes) };
    Event::LayerDone { layer: blob, present: was_present, bytes, milliseconds: done.took.as_millis() }
}

/// JSON escapes what lies below U+0020 alone, and whoever reads it may show it.
fn failed(failure: &Failure) -> Event {
    Event::Failed { message: printable(&failure.to_string()), hint: failure.hint().as_deref().map(printable) }
}

impl PullProgress for Json {
    fn resolved(&self, image: &Announced<'_>) {
        let mut tally = self.tally();
        let bytes = tally.announce(image, Instant::now());
        write(&resolved(image, bytes));
    }

    fn layer_started(&self, blob: BlobDigest, size: u64) {
        let mut tally = self.tally();
        tally.start(blob, size, Instant::now());
        write(&Event::LayerStart { layer: blob, total: known(size) });
    }

    fn layer_advanced(&self, blob: BlobDigest, count: u64) {
        let mut tally = self.tally();
        if let Some(event) = advance(&mut tally, blob, count, Instant::now()) {
            write(&event);
        }
    }

    fn layer_done(&self, blob: BlobDigest, was_present: bool) {
        let mut tally = self.tally();
        write(&finish(&mut tally, blob, was_present, Instant::now()));
    }

    fn merge_started(&self) {
        self.tally().start_merge(Instant::now());
        write(&Event::MergeStart);
    }

    fn merge_done(&self) {
        write(&Event::Merged { milliseconds: self.tally().merge_took(Instant::now()).as_millis() });
    }

    fn done(&self) {
        let all = self.tally().summary(Instant::now());
        write(&Event::Done { bytes: all.received, present: all.present, milliseconds: all.took.as_millis() });
    }
}

impl Shown for Json {
    fn failed(&self, failure: &Failure) {
        write(&failed(failure));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tally::testing::{announced, blob};
    use super::*;

    fn value(event: &Event) -> Value {
        serde_json::to_value(event).unwrap()
    }

    #[test]
    fn each_event_has_its_fields_and_begins_with_its_name() {
        let (manifest, image_id, layer) = (blob("manifest"), blob("config"), blob("1"));
        let event = announced(&[(layer, 70)], |image| resolved(image, 70));
        let expected = json!({
            "event": "resolved", "image": "a.example/app:1", "manifest": manifest, "image_id": image_id,
            "platform": "linux/amd64", "layers": 1, "bytes": 70,
        });
        assert_eq!(value(&event), expected);
        assert!(serde_json::to_string(&event).unwrap().starts_with(r#"{"event":"resolved","#));
        for (event, expected) in [
            (Event::LayerStart { layer, total: None }, json!({"event": "layer-start", "layer": layer, "total": null})),
            (Event::MergeStart, json!({"event": "merge-start"})),
            (Event::Merged { milliseconds: 3 }, json!({"event": "merged", "milliseconds": 3})),
            (
                Event::Done { bytes: 1, present: 2, milliseconds: 3 },
                json!({"event": "done", "bytes": 1, "present": 2, "milliseconds": 3}),
            ),
            (
                Event::Failed { message: "a\nb".to_owned(), hint: None },
                json!({"event": "failed", "message": "a\nb", "hint": null}),
            ),
        ] {
            assert_eq!(value(&event), expected);
            assert!(!serde_json::to_string(&event).unwrap().contains('\n'));
        }
    }

    #[test]
    fn a_failure_moves_no_cursor() {
        let event = failed(&Failure::message("a\u{9b}2J\u{1b}[2J\u{202e}\u{7f}\nb", 1));
        let expected = json!({"event": "failed", "message": "a\\u{9b}2J\\u{1b}[2J\\u{202e}\\u{7f}\nb", "hint": null});
        assert_eq!(value(&event), expected);
    }

    #[test]
    fn a_layer_is_told_of_five_times_a_second_at_most() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let (layer, other) = (blob("1"), blob("2"));
        let mut tally = Tally::new(start);
        tally.start(layer, 1000, start);
        tally.start(other, 0, start);
        let told = |event: Option<Event>| event.as_ref().map(value);
        assert_eq!(told(advance(&mut tally, layer, 10, after(199))), None);
        let expected = json!({"event": "layer-progress", "layer": layer, "bytes": 20, "total": 1000});
        assert_eq!(told(advance(&mut tally, layer, 10, after(200))), Some(expected));
        assert_eq!(told(advance(&mut tally, layer, 10, after(399))), None);
        let expected = json!({"event": "layer-progress", "layer": other, "bytes": 5, "total": null});
        assert_eq!(told(advance(&mut tally, other, 5, after(399))), Some(expected), "each layer for itself");
        let expected =
            json!({"event": "layer-done", "layer": other, "present": false, "bytes": 5, "milliseconds": 500});
        assert_eq!(value(&finish(&mut tally, other, false, after(500))), expected);
        let told_per_second = (0..1000).filter(|at| advance(&mut tally, layer, 1, after(1000 + at)).is_some()).count();
        assert!(told_per_second <= 5, "{told_per_second}");
    }
}
