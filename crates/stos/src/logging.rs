// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the trace goes, how much of it, and how its lines look.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::{Global, LogFormat};
use crate::failure::Failure;
use crate::progress::LogBesideBars;

/// Starts logging: to stderr warnings only, unless somebody asked for a log: by `--log`, `--log-format json` or `--debug`.
///
/// `STOS_LOG` overrides the level (`debug`, `stos_layerfs=trace`).
pub fn start(global: &Global) -> Result<(), Failure> {
    let is_wanted = global.log.is_some() || global.log_format == LogFormat::Json;
    let level = match (global.debug, is_wanted) {
        (true, _) => Level::DEBUG,
        (false, true) => Level::INFO,
        (false, false) => Level::WARN,
    };
    let filter = match std::env::var("STOS_LOG") {
        Ok(asked) => asked.parse::<Targets>().with_context(|| format!("STOS_LOG is {asked:?}"))?,
        Err(_) => Targets::new().with_default(level),
    };
    let writer = match &global.log {
        Some(path) => {
            let file = File::options().append(true).create(true).open(path);
            BoxMakeWriter::new(Arc::new(file.with_context(|| format!("cannot open the log {}", path.display()))?))
        }
        None => BoxMakeWriter::new(|| LogBesideBars),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let registry = tracing_subscriber::registry();
    match global.log_format {
        LogFormat::Json => {
            let layer = layer.fmt_fields(JsonFields::new()).event_format(RuntimeLines);
            registry.with(layer.with_filter(filter)).init();
        }
        LogFormat::Text => registry.with(layer.with_target(false).compact().with_filter(filter)).init(),
    }
    Ok(())
}

/// Lines as runc writes them: objects with `level`, `msg`, `time` and the event's fields. containerd's shim (go-runc) and podman read the
/// last one of level "error" for what has failed, and they may call the runtime by any name: so they are in either mode. `spans` are the
/// stages that an event lies in, the outermost first, where there are any.
struct RuntimeLines;

impl<S, N> FormatEvent<S, N> for RuntimeLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let spans = context.event_scope().into_iter().flat_map(|scope| scope.from_root());
        let spans: Vec<_> =
            spans.map(|span| span_of(span.name(), span.extensions().get::<FormattedFields<N>>())).collect();
        if !spans.is_empty() {
            fields.0.insert("spans".into(), spans.into());
        }
        writeln!(writer, "{}", line(fields.0, *event.metadata().level()))
    }
}

fn span_of<N>(name: &str, fields: Option<&FormattedFields<N>>) -> Value {
    let mut span: Map<_, _> = fields.and_then(|fields| serde_json::from_str(&fields.fields).ok()).unwrap_or_default();
    span.insert("name".into(), name.into());
    Value::Object(span)
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
    fields.insert("time".into(), format!("{:.3}", jiff::Timestamp::now()).into());
    Value::Object(fields)
}

/// The fields of an event, as JSON.
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
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
    fn a_span_has_its_fields() {
        let fields = FormattedFields::<JsonFields>::new(r#"{"stage":"layerfs"}"#.to_owned());
        assert_eq!(span_of("stage", Some(&fields)), serde_json::json!({"name": "stage", "stage": "layerfs"}));
        assert_eq!(span_of::<JsonFields>("x", None), serde_json::json!({"name": "x"}));
    }

    #[test]
    fn a_line_is_runc_s() {
        let fields = [("message", "it \"failed\""), ("container", "x")].map(|(k, v)| (k.to_owned(), v.into()));
        let line = line(fields.into_iter().collect(), Level::ERROR);
        assert_eq!((&line["level"], &line["msg"]), (&"error".into(), &"it \"failed\"".into()));
        assert_eq!(line["container"], "x");
        assert!(line["time"].as_str().is_some_and(|time| time.len() == "2026-01-01T00:00:00.000Z".len()), "{line}");
    }
}
