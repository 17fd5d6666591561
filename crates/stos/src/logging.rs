// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the trace goes, and how much of it.

use std::fs::File;
use std::sync::Arc;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::cli::{Global, LogFormat};
use crate::failure::Failure;
use crate::progress::LogBesideBars;

/// Starts logging: to stderr warnings only, unless somebody asked for a log: by `--log`, `--log-format json` or `--debug`.
///
/// `STOS_LOG` overrides the level (`debug`, `stos_layerfs=trace`).
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
        LogFormat::Json => builder.json().with_current_span(false).init(),
        LogFormat::Text => builder.with_target(false).compact().init(),
    }
    Ok(())
}
