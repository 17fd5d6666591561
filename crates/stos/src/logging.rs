// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the trace goes, how much of it, and how its lines look.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::{Global, LogFormat};
use crate::failure::Failure;
use crate::progress::LogBesideBars;

/// Starts logging: to stderr warnings only, unless somebody asked for a log: by `--log`, `--log-format json` or `--debug`.
///
/// `STOS_LOG` overrides the level (`debug`, `stos_layerfs=trace`). In bundle mode JSON lines are runc's.
pub fn start(global: &Global) -> Result<(), Failure> {
    let is_wanted = global.log.is_some() || global.log_format == LogFormat::Json;
    let level = match (global.debug, is_wanted) {
        (true, _) => "debug",
        (false, true) => "info",
        (false, false) => "warn",
    };
    let filter = EnvFilter::try_from_env("STOS_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let writer = match &global.log {
        Some(path) => {
            let file = File::options().append(true).create(true).open(path);
            BoxMakeWriter::new(Arc::new(file.with_context(|| format!("cannot open the log {}", path.display()))?))
        }
        None => BoxMakeWriter::new(|| LogBesideBars),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    match global.log_format {
        LogFormat::Json if global.bundle_mode => builder.event_format(RuntimeLines).init(),
        LogFormat::Json => builder.json().with_current_span(false).init(),
        LogFormat::Text => builder.with_target(false).compact().init(),
    }
    Ok(())
}

/// Lines as runc writes them: objects with `level`, `msg` and `time`. containerd's shim (go-runc) and podman read the last one of
/// level "error" for what has failed.
struct RuntimeLines;

impl<S, N> FormatEvent<S, N> for RuntimeLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        writeln!(writer, "{}", line(fields.0, *event.metadata().level()))
    }
}

fn line(mut fields: Map<String, Value>, level: Level) -> Value {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let message = fields.remove("message").unwrap_or_default();
    fields.insert("msg".into(), message);
    fields.insert("level".into(), level.into());
    let now = jiff::Timestamp::now();
    // Seconds are enough for runc.
    let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    fields.insert("time".into(), now.to_string().into());
    Value::Object(fields)
}

/// The fields of an event, as JSON.
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_runc_s() {
        let fields = [("message", "it \"failed\""), ("container", "x")].map(|(k, v)| (k.to_owned(), v.into()));
        let line = line(fields.into_iter().collect(), Level::ERROR);
        assert_eq!((&line["level"], &line["msg"]), (&"error".into(), &"it \"failed\"".into()));
        assert_eq!(line["container"], "x");
        assert!(line["time"].as_str().is_some_and(|time| time.len() == "2026-01-01T00:00:00Z".len()), "{line}");
    }
}
