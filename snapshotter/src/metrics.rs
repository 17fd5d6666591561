// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Counters, told in Prometheus's text format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stos_engine::pull::PullProgress;
use stos_spec::BlobDigest;
use stos_store::SnapshotKind;
use tonic::Code;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::snapshots::Snapshotter;

/// How a pull ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PullResult {
    /// The image is there.
    Done,
    /// It is another one than containerd unpacks.
    Other,
    /// It could not be pulled.
    Failed,
}

/// Where the layer of a snapshot came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerSource {
    /// There was a snapshot of it.
    Present,
    /// An image of the store had it, or has got it.
    Provided,
    /// containerd unpacks it.
    Unpacked,
}

/// What is counted, since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    counts: Mutex<Counts>,
    pulled_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    /// By method and code.
    requests: BTreeMap<(&'static str, &'static str), u64>,
    request_seconds: BTreeMap<&'static str, Seconds>,
    pulls: BTreeMap<PullResult, u64>,
    layers: BTreeMap<LayerSource, u64>,
    stages: BTreeMap<String, Seconds>,
    garbage_objects: u64,
    garbage_bytes: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Seconds {
    count: u64,
    sum: f64,
}

impl Seconds {
    fn add(&mut self, seconds: f64) {
        self.count += 1;
        self.sum += seconds;
    }
}

impl Metrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that has been answered.
    pub fn count_request(&self, method: &'static str, code: Code, took: Duration) {
        let mut counts = self.counts();
        *counts.requests.entry((method, code_name(code))).or_default() += 1;
        counts.request_seconds.entry(method).or_default().add(took.as_secs_f64());
    }

    /// Counts a pull that has ended.
    pub fn count_pull(&self, result: PullResult) {
        *self.counts().pulls.entry(result).or_default() += 1;
    }

    /// Counts a layer that containerd has asked for.
    pub fn count_layer(&self, source: LayerSource) {
        *self.counts().layers.entry(source).or_default() += 1;
    }

    /// Counts what a sweep has removed.
    pub fn count_garbage(&self, objects: usize, bytes: u64) {
        let mut counts = self.counts();
        counts.garbage_objects += objects as u64;
        counts.garbage_bytes += bytes;
    }

    /// Counts a stage of the engine that is done.
    pub fn count_stage(&self, stage: &str, seconds: f64) {
        let mut counts = self.counts();
        match counts.stages.get_mut(stage) {
            Some(known) => known.add(seconds),
            None => counts.stages.entry(stage.to_owned()).or_default().add(seconds),
        }
    }

    /// Gives all of it, with what the snapshots are now.
    pub fn text(&self, snapshotter: &Snapshotter) -> String {
        let mut text = Text(String::new());
        self.write_counts(&mut text);
        let mut kinds = BTreeMap::from([("active", 0), ("committed", 0), ("view", 0)]);
        for snapshot in snapshotter.metadata.all() {
            let kind = match snapshot.record.kind {
                SnapshotKind::Active => "active",
                SnapshotKind::Committed => "committed",
                SnapshotKind::View => "view",
            };
            *kinds.entry(kind).or_default() += 1;
        }
        text.family("snapshots", "gauge", "Snapshots, by what they are for.");
        for (kind, count) in kinds {
            text.sample("snapshots", &[("kind", kind)], count);
        }
        text.family("chain_mounts", "gauge", "Images that are mounted for snapshots.");
        text.sample("chain_mounts", &[], snapshotter.leftovers().chains.len());
        text.0
    }

    fn write_counts(&self, text: &mut Text) {
        let counts = self.counts();
        text.family("requests_total", "counter", "Requests that were answered, by method and gRPC code.");
        for ((method, code), count) in &counts.requests {
            text.sample("requests_total", &[("method", method), ("code", code)], count);
        }
        text.summary("request_seconds", "How long requests took.", "method", counts.request_seconds.iter());
        text.family("pulls_total", "counter", "Pulls, by how they ended.");
        for (result, word) in [(PullResult::Done, "done"), (PullResult::Other, "other"), (PullResult::Failed, "failed")]
        {
            text.sample("pulls_total", &[("result", word)], counts.pulls.get(&result).unwrap_or(&0));
        }
        text.family("pull_bytes_total", "counter", "Bytes of layers that pulls have fetched.");
        text.sample("pull_bytes_total", &[], self.pulled_bytes.load(Ordering::Relaxed));
        text.family("layers_total", "counter", "Layers that containerd asked for, by where they came from.");
        let sources = [
            (LayerSource::Present, "snapshot"),
            (LayerSource::Provided, "store"),
            (LayerSource::Unpacked, "containerd"),
        ];
        for (source, word) in sources {
            text.sample("layers_total", &[("source", word)], counts.layers.get(&source).unwrap_or(&0));
        }
        text.summary("stage_seconds", "How long stages of the engine took.", "stage", counts.stages.iter());
        text.family("gc_objects_total", "counter", "Objects that sweeps of the store have removed.");
        text.sample("gc_objects_total", &[], counts.garbage_objects);
        text.family("gc_bytes_total", "counter", "Bytes that sweeps of the store have given back.");
        text.sample("gc_bytes_total", &[], counts.garbage_bytes);
    }
}

impl PullProgress for Metrics {
    fn layer_advanced(&self, _blob: BlobDigest, count: u64) {
        self.pulled_bytes.fetch_add(count, Ordering::Relaxed);
    }
}

/// Lines of the text format.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP stos_snapshotter_{name} {help}\n# TYPE stos_snapshotter_{name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        let braced = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.line(format_args!("stos_snapshotter_{name}{braced} {value}\n"));
    }

    fn summary<'a, K: AsRef<str> + 'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (K, &'a Seconds)>,
    ) {
        self.family(name, "summary", help);
        for (key, seconds) in values {
            self.sample(&format!("{name}_sum"), &[(label, key.as_ref())], seconds.sum);
            self.sample(&format!("{name}_count"), &[(label, key.as_ref())], seconds.count);
        }
    }

    fn line(&mut self, arguments: std::fmt::Arguments<'_>) {
        // A String takes everything.
        let _ = self.0.write_fmt(arguments);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The code's name as gRPC writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::InvalidArgument => "InvalidArgument",
        Code::PermissionDenied => "PermissionDenied",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        _ => "Internal",
    }
}

/// Takes the times of stages from the engine's own trace.
pub struct StageTimes(pub std::sync::Arc<Metrics>);

impl<S: Subscriber> Layer<S> for StageTimes {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut done = StageDone::default();
        event.record(&mut done);
        if let (Some(stage), Some(ms)) = (done.stage, done.ms) {
            self.0.count_stage(&stage, ms / 1000.0);
        }
    }
}

#[derive(Default)]
struct StageDone {
    stage: Option<String>,
    ms: Option<f64>,
}

impl Visit for StageDone {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "stage" {
            self.stage = Some(value.to_owned());
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "ms" {
            self.ms = Some(value);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn std::fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_in_the_text_format() {
        let metrics = Metrics::default();
        metrics.count_request("Stat", Code::NotFound, Duration::from_millis(500));
        metrics.count_request("Stat", Code::Ok, Duration::from_millis(500));
        metrics.count_pull(PullResult::Failed);
        metrics.layer_advanced(BlobDigest::of(b"x"), 7);
        metrics.layer_advanced(BlobDigest::of(b"x"), 5);
        metrics.count_layer(LayerSource::Provided);
        metrics.count_stage("odd\"stage", 1.5);
        metrics.count_garbage(2, 4096);
        let mut text = Text(String::new());
        metrics.write_counts(&mut text);
        for line in [
            "# TYPE stos_snapshotter_requests_total counter",
            "stos_snapshotter_requests_total{method=\"Stat\",code=\"NotFound\"} 1",
            "stos_snapshotter_request_seconds_sum{method=\"Stat\"} 1",
            "stos_snapshotter_request_seconds_count{method=\"Stat\"} 2",
            "stos_snapshotter_pulls_total{result=\"done\"} 0",
            "stos_snapshotter_pulls_total{result=\"failed\"} 1",
            "stos_snapshotter_pull_bytes_total 12",
            "stos_snapshotter_layers_total{source=\"store\"} 1",
            "stos_snapshotter_stage_seconds_sum{stage=\"odd\\\"stage\"} 1.5",
            "stos_snapshotter_gc_objects_total 2",
            "stos_snapshotter_gc_bytes_total 4096",
        ] {
            assert!(text.0.lines().any(|found| found == line), "{line} in\n{}", text.0);
        }
    }

    #[test]
    fn stages_of_the_engine_are_counted() {
        use tracing_subscriber::layer::SubscriberExt;
        let metrics = std::sync::Arc::new(Metrics::default());
        let subscriber = tracing_subscriber::registry().with(StageTimes(metrics.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(stage = "layers", bytes = 1, ms = 250.0, "stage done");
            tracing::info!(ms = 1.0, "no stage");
            tracing::info!(stage = "no time");
        });
        let counts = metrics.counts();
        assert_eq!(counts.stages.len(), 1);
        assert_eq!((counts.stages["layers"].count, counts.stages["layers"].sum), (1, 0.25));
    }
}
