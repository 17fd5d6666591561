// SPDX-License-Identifier: Apache-2.0 OR MIT
//! logs: what containers from images wrote.

use std::io::{self, Write};

use jiff::Timestamp;
use stos_engine::container::{self, ContainerRecord, ContainerState};
use stos_engine::log::journalctl::JournalReader;
use stos_engine::log::{FOLLOW_INTERVAL, LogLine, LogReader, Stream, Take};
use stos_engine::service::LogDriver;
use stos_engine::{Engine, restart};

use super::life::only_image_mode;
use crate::cli::{Global, Logs};
use crate::failure::Failure;
use crate::target::{self, Target};

/// One container whose log is shown.
struct Source {
    engine: Box<Engine>,
    record: Box<ContainerRecord>,
    reader: Reader,
    /// Of each stream: the line that has begun and not ended, and whether it is shown.
    unfinished: [Option<bool>; 2],
    is_done: bool,
}

/// What the container's log driver has written.
enum Reader {
    File(LogReader),
    Journal(JournalReader),
}

impl Reader {
    fn read_lines(&mut self, is_last: bool, take: Take<'_>) -> io::Result<()> {
        match self {
            Self::File(reader) => reader.read_lines(take),
            Self::Journal(reader) => reader.read_lines(is_last, take),
        }
    }
}

/// Which lines are shown, and how.
struct View<'a> {
    args: &'a Logs,
    /// Which source's line has begun on each of our streams, and not ended.
    begun: [Option<usize>; 2],
}

/// Prints what containers wrote, each stream to its own.
pub fn logs(global: &Global, args: &Logs) -> Result<u8, Failure> {
    let find = |query: &String| source(global, args, query);
    let mut sources = args.containers.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    let mut view = View { args, begun: [None; 2] };
    loop {
        let is_past = args.until.is_some_and(|until| until <= Timestamp::now());
        for (at, source) in sources.iter_mut().enumerate().filter(|(_, source)| !source.is_done) {
            // Asked before the log is read, so that what was written before the end is seen.
            let is_running = args.follow && !is_past && is_running(source);
            match view.show(at, source, !is_running) {
                // Who reads us has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
                other => other?,
            }
            source.is_done = !is_running;
        }
        if sources.iter().all(|source| source.is_done) {
            return Ok(0);
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

fn source(global: &Global, args: &Logs, query: &str) -> Result<Source, Failure> {
    let (engine, record) = match target::find_to_read(global, query)? {
        Target::Image(engine, record) => (engine, record),
        Target::Bundle(_, id) => return Err(only_image_mode("logs", &id)),
    };
    let reader = reader(&engine, &record, args)?;
    Ok(Source { engine, record, reader, unfinished: [None; 2], is_done: false })
}

fn reader(engine: &Engine, record: &ContainerRecord, args: &Logs) -> Result<Reader, Failure> {
    let log = &record.service.log;
    let own = engine.store().container_dir(&record.id).join("log");
    if let Some(path) = log.file(&own) {
        return Ok(Reader::File(match args.tail.0 {
            Some(count) => LogReader::tail(&path, count).map_err(stos_store::Error::io("read", &path))?,
            None => LogReader::new(&path),
        }));
    }
    let unreadable = |reason: String| Failure::message(format!("container {}: {reason}", record.name), 125);
    match log.driver {
        LogDriver::Journald => match JournalReader::open(&record.id, args.tail.0) {
            Ok(reader) => Ok(Reader::Journal(reader)),
            Err(error) => {
                Err(unreadable(format!("its output is in the journal, and journalctl cannot be run: {error}")))
            }
        },
        // podman's words.
        driver => Err(unreadable(format!(
            "this container is using the '{}' log driver, cannot read logs: this container is not logging output",
            driver.name()
        ))),
    }
}

fn is_running(source: &Source) -> bool {
    let state = container::state(&source.engine, &source.record.id);
    // Its monitor may start it again, and the log goes on.
    matches!(state, Ok(ContainerState::Running(_)))
        || matches!(state, Ok(ContainerState::Exited(_)))
            && restart::is_awaited(&source.engine, &source.record).unwrap_or(false)
}

impl View<'_> {
    /// Prints what is new of one container, perhaps for the last time.
    fn show(&mut self, at: usize, source: &mut Source, is_last: bool) -> io::Result<()> {
        let prefix = match (self.args.containers.len(), self.args.names) {
            (1, _) => String::new(),
            (_, true) => format!("{} ", source.record.name),
            (_, false) => format!("{} ", source.record.id.short()),
        };
        let (mut out, mut err) = (io::BufWriter::new(io::stdout().lock()), io::stderr().lock());
        let unfinished = &mut source.unfinished;
        source.reader.read_lines(is_last, &mut |line| match line.stream {
            Stream::Stdout => self.print(at, line, &prefix, unfinished, &mut out),
            Stream::Stderr => self.print(at, line, &prefix, unfinished, &mut err),
        })?;
        out.flush()
    }

    fn print(
        &mut self,
        at: usize,
        line: &LogLine<'_>,
        prefix: &str,
        unfinished: &mut [Option<bool>; 2],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let stream = line.stream as usize;
        let begins = unfinished[stream].is_none();
        // Whether a line is shown is decided where it begins.
        let is_shown = unfinished[stream].unwrap_or_else(|| self.is_in_time(line.time));
        unfinished[stream] = (!line.is_end()).then_some(is_shown);
        if !is_shown {
            return Ok(());
        }
        let interrupts = self.begun[stream].is_some_and(|other| other != at);
        if interrupts {
            // Another container's line that has not ended.
            out.write_all(b"\n")?;
        }
        if begins || interrupts {
            out.write_all(prefix.as_bytes())?;
            if self.args.timestamps {
                out.write_all(line.time)?;
                out.write_all(b" ")?;
            }
        }
        self.begun[stream] = (!line.is_end()).then_some(at);
        out.write_all(line.text)
    }

    /// Whether what was written then is asked for: after `--since` and before `--until` (podman-logs(1)). What has no time that can
    /// be read is shown.
    fn is_in_time(&self, time: &[u8]) -> bool {
        if self.args.since.is_none() && self.args.until.is_none() {
            return true;
        }
        let time = std::str::from_utf8(time).ok().and_then(|text| text.parse::<Timestamp>().ok());
        time.is_none_or(|time| {
            self.args.since.is_none_or(|since| time > since) && self.args.until.is_none_or(|until| time < until)
        })
    }
}
