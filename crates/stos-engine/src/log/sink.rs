// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a monitor writes a container's output: what its log driver says.

use std::io;

use super::journald::Journal;
use super::{LogWriter, Stream};
use crate::Engine;
use crate::container::{ContainerRecord, now};
use crate::error::Result;
use crate::service::LogDriver;

/// A container's log, whatever it is.
#[derive(Debug)]
pub(crate) struct Log {
    /// The log in the container's own directory. It is made for every driver, for it tells that the container was started.
    own: LogWriter,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Own,
    File(LogWriter),
    Journal(Journal),
    Nobody,
}

impl Log {
    /// Opens it to go on after what is there.
    pub(crate) fn open(engine: &Engine, record: &ContainerRecord) -> Result<Self> {
        let choice = &record.service.log;
        let file = |path: &std::path::Path| {
            let writer = LogWriter::open(path, choice.max_size())?;
            Ok::<_, crate::Error>(if choice.driver == LogDriver::JsonFile { writer.with_json() } else { writer })
        };
        let own = file(&engine.log_path(&record.id))?;
        let target = match (choice.driver, &choice.path) {
            (LogDriver::K8sFile | LogDriver::JsonFile, None) => Target::Own,
            (LogDriver::K8sFile | LogDriver::JsonFile, Some(path)) => Target::File(file(path)?),
            (LogDriver::Journald, _) => Target::Journal(Journal::open(record)?),
            (LogDriver::None | LogDriver::Passthrough, _) => Target::Nobody,
        };
        Ok(Self { own, target })
    }

    /// A file's alone.
    #[cfg(test)]
    pub(crate) fn of_file(own: LogWriter) -> Self {
        Self { own, target: Target::Own }
    }

    /// Logs what came from `stream` in one piece.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        match &mut self.target {
            Target::Own => self.own.write(stream, bytes, &log_time()),
            Target::File(file) => file.write(stream, bytes, &log_time()),
            Target::Journal(journal) => journal.write(stream, bytes),
            Target::Nobody => Ok(()),
        }
    }

    /// Logs what was kept back, at the end of a life.
    pub(crate) fn finish(&mut self) {
        let finished = match &mut self.target {
            Target::Own => self.own.finish(&log_time()),
            Target::File(file) => file.finish(&log_time()),
            Target::Journal(_) | Target::Nobody => Ok(()),
        };
        if let Err(error) = finished {
            tracing::warn!(%error, "cannot write the end of the container's log");
        }
    }

    /// Removes a log that nothing was ever written to: the container's process never ran.
    pub(crate) fn discard_empty(&self) -> Result<()> {
        self.own.discard_empty()
    }
}

/// The time in the form of podman's log lines.
fn log_time() -> String {
    let mut time = now();
    time.truncate(time.len() - 1);
    time.push_str("+00:00");
    time
}
