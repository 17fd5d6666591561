// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon's log, on stderr: an object a line, or text for people. Its level can be changed while it runs.

use std::sync::Arc;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::LogFormat;
use crate::metrics::{Metrics, StageTimes};

/// Changes the level.
#[derive(Debug, Clone)]
pub struct Level(reload::Handle<Targets, Registry>);

impl Level {
    /// Logs what `targets` say from now on.
    pub fn set(&self, targets: Targets) {
        // It fails only where nobody logs any more.
        let _ = self.0.reload(targets);
    }
}

/// Starts the log. Times of stages go to `metrics`, whatever the level.
pub fn start(targets: Targets, format: LogFormat, metrics: Arc<Metrics>) -> Level {
    let (filter, handle) = reload::Layer::new(targets);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.with_target(false).compact().boxed(),
    };
    let stages = Targets::new().with_target("stos_engine", LevelFilter::INFO);
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter));
    registry.with(StageTimes(metrics).with_filter(stages)).init();
    Level(handle)
}
