// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the spans that `stos --log-format json` reports as they close: one JSON object a line.

use std::time::Duration;

use serde_json::Value;

/// A stage that stos has been through.
#[derive(Debug, PartialEq)]
pub struct Span {
    /// The function's name.
    pub name: String,
    /// How many spans it lay within.
    pub depth: usize,
    /// From its opening to its close.
    pub time: Duration,
    /// Its field `bytes`, where it has one.
    pub bytes: Option<u64>,
}

/// The spans in the order of their opening: each before those within it. Lines that are no closing span are left out.
pub fn closed(log: &str) -> Vec<Span> {
    // They close inside out, so reading backwards gives each before those within it, and the latest first.
    let mut spans: Vec<Span> = log.lines().rev().filter_map(span).collect();
    for depth in 0..spans.iter().map(|span| span.depth + 1).max().unwrap_or(0) {
        reverse_siblings(&mut spans, depth);
    }
    spans
}

/// Turns each run of siblings at `depth`, with all that is within them, into the order of time.
fn reverse_siblings(spans: &mut Vec<Span>, depth: usize) {
    let mut ordered: Vec<Span> = Vec::with_capacity(spans.len());
    let mut families: Vec<Vec<Span>> = Vec::new();
    for span in spans.drain(..) {
        if span.depth < depth {
            ordered.extend(families.drain(..).rev().flatten());
            ordered.push(span);
        } else if span.depth == depth || families.is_empty() {
            families.push(vec![span]);
        } else if let Some(family) = families.last_mut() {
            family.push(span);
        }
    }
    ordered.extend(families.into_iter().rev().flatten());
    *spans = ordered;
}

fn span(line: &str) -> Option<Span> {
    let event: Value = serde_json::from_str(line).ok()?;
    let fields = &event["fields"];
    if fields["message"] != "close" {
        return None;
    }
    let time = duration(fields["time.busy"].as_str()?)? + duration(fields["time.idle"].as_str()?)?;
    let depth = event["spans"].as_array().map_or(0, Vec::len);
    Some(Span { name: event["span"]["name"].as_str()?.to_owned(), depth, time, bytes: event["span"]["bytes"].as_u64() })
}

/// Reads `1.23ms`, `4µs`, `5.6s` and `70ns`.
fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let scale = match &text[at..] {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" | "us" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Duration::try_from_secs_f64(text[..at].parse::<f64>().ok()? * scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(name: &str, above: usize, busy: &str) -> String {
        let above: Vec<Value> = (0..above).map(|_| serde_json::json!({ "name": "above" })).collect();
        let fields = serde_json::json!({ "message": "close", "time.busy": busy, "time.idle": "0ns" });
        serde_json::json!({ "level": "INFO", "fields": fields, "span": { "name": name, "bytes": 7 }, "spans": above })
            .to_string()
    }

    #[test]
    fn spans_come_in_the_order_of_the_story() {
        let log = [
            close("a1", 1, "1ms"),
            close("a2x", 2, "1ms"),
            close("a2", 1, "1.5ms"),
            close("a", 0, "2s"),
            "no json".into(),
            r#"{"fields":{"message":"hello"}}"#.into(),
            close("b1", 1, "1µs"),
            close("b", 0, "3ns"),
        ];
        let spans = closed(&log.join("\n"));
        let names: Vec<_> = spans.iter().map(|span| (span.name.as_str(), span.depth)).collect();
        assert_eq!(names, [("a", 0), ("a1", 1), ("a2", 1), ("a2x", 2), ("b", 0), ("b1", 1)]);
        assert_eq!(spans[2].time, Duration::from_micros(1500));
        assert_eq!(spans[0].bytes, Some(7));
    }

    #[test]
    fn durations_have_units() {
        let read = ["2s", "1.5ms", "4µs", "70ns", "5 apples", "x"].map(duration);
        let expected = [2_000_000_000, 1_500_000, 4_000, 70].map(|nanoseconds| Some(Duration::from_nanos(nanoseconds)));
        assert_eq!(read[..4], expected);
        assert_eq!(read[4..], [None, None]);
    }
}
