// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the stages that `stos --log-format json` reports as they end: one JSON object a line.

use std::time::Duration;

use serde_json::Value;

/// A stage that stos has been through.
#[derive(Debug, PartialEq)]
pub struct Stage {
    /// Its name in the story of the command.
    pub name: String,
    /// How many stages it lay within.
    pub depth: usize,
    /// From its beginning to its end.
    pub time: Duration,
    /// The bytes that it concerned, if any.
    pub bytes: Option<u64>,
}

/// The stages in the order of their beginning: each before those within it. Lines that tell of no stage are left out.
pub fn finished(log: &str) -> Vec<Stage> {
    // They end inside out, so reading backwards gives each before those within it, and the latest first.
    let mut stages: Vec<Stage> = log.lines().rev().filter_map(stage).collect();
    for depth in 0..stages.iter().map(|stage| stage.depth + 1).max().unwrap_or(0) {
        reverse_siblings(&mut stages, depth);
    }
    stages
}

/// Turns each run of siblings at `depth`, with all that is within them, into the order of time.
fn reverse_siblings(stages: &mut Vec<Stage>, depth: usize) {
    let mut ordered: Vec<Stage> = Vec::with_capacity(stages.len());
    let mut families: Vec<Vec<Stage>> = Vec::new();
    for stage in stages.drain(..) {
        if stage.depth < depth {
            ordered.extend(families.drain(..).rev().flatten());
            ordered.push(stage);
        } else if stage.depth == depth || families.is_empty() {
            families.push(vec![stage]);
        } else if let Some(family) = families.last_mut() {
            family.push(stage);
        }
    }
    ordered.extend(families.into_iter().rev().flatten());
    *stages = ordered;
}

fn stage(line: &str) -> Option<Stage> {
    let event: Value = serde_json::from_str(line).ok()?;
    let time = Duration::try_from_secs_f64(event["ms"].as_f64()? / 1000.0).ok()?;
    // The event lies in the stage's own span, which does not count.
    let depth = event["spans"].as_array().map_or(0, |spans| spans.len().saturating_sub(1));
    let bytes = event["bytes"].as_u64().filter(|bytes| *bytes > 0);
    Some(Stage { name: event["stage"].as_str()?.to_owned(), depth, time, bytes })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn done(name: &str, above: usize, ms: f64, bytes: u64) -> String {
        let spans: Vec<Value> = (0..=above).map(|_| json!({ "name": "stage" })).collect();
        json!({ "level": "info", "msg": "stage done", "stage": name, "bytes": bytes, "ms": ms, "spans": spans })
            .to_string()
    }

    #[test]
    fn stages_come_in_the_order_of_the_story() {
        let log = [
            done("a1", 1, 1.0, 7),
            done("a2x", 2, 1.0, 0),
            done("a2", 1, 1.5, 0),
            done("a", 0, 2000.0, 0),
            "no json".into(),
            r#"{"msg":"hello"}"#.into(),
            done("b1", 1, 1.0, 0),
            done("b", 0, 3.0, 0),
        ];
        let stages = finished(&log.join("\n"));
        let names: Vec<_> = stages.iter().map(|stage| (stage.name.as_str(), stage.depth)).collect();
        assert_eq!(names, [("a", 0), ("a1", 1), ("a2", 1), ("a2x", 2), ("b", 0), ("b1", 1)]);
        assert_eq!(stages[2].time, Duration::from_micros(1500));
        assert_eq!((stages[1].bytes, stages[2].bytes), (Some(7), None));
    }
}
