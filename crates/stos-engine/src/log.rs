// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's log: podman's k8s-file lines, bounded in size. Docker's JSON lines (`json`), the journal (`journald`) or nobody may have the
//! output instead (`sink`).
//!
//! ```text
//! 2026-01-31T12:00:00.000000000+00:00 stdout F a whole line
//! 2026-01-31T12:00:00.000000000+00:00 stderr P a part, to be continued
//! ```
//!
//! When `log` has grown to [`LOG_MAX`], or what was asked for, it becomes `log.1`, in place of an older one, and a new one begins: at most
//! twice that stays. A reader holds a shared lock on the file that it has not read to its end; what would then be lost is put aside later, when
//! the reader has come so far, or the file has grown to eight times its size, and 16 MiB.

pub mod journalctl;
pub mod journald;
mod json;
mod sink;
mod tail;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use stos_store::Error as StoreError;

use crate::error::Result;

use json::JsonLines;
pub(crate) use sink::Log;

/// How large a log file grows before it is put aside, in bytes.
pub const LOG_MAX: u64 = 32 << 20;

/// How many times its size a file may grow for a reader that has not read what was put aside before; and how far at least, in bytes, for small
/// ones: who follows looks ten times a second.
const PATIENCE: (u64, u64) = (8, 16 << 20);

/// Which of its streams a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn of_name(name: &[u8]) -> Option<Self> {
        match name {
            b"stdout" => Some(Self::Stdout),
            b"stderr" => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// How the lines of a log look.
#[derive(Debug)]
enum Format {
    K8s,
    Json(JsonLines),
}

/// Writes a log.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    max: u64,
    format: Format,
    lines: Vec<u8>,
}

impl LogWriter {
    /// Opens the log at `path` to go on after what is there.
    pub fn open(path: &Path, max: u64) -> Result<Self> {
        let file = open_to_append(path).map_err(StoreError::io("open", path))?;
        let size = file.metadata().map_err(StoreError::io("stat", path))?.len();
        let format = Format::K8s;
        let mut writer = Self { path: path.to_owned(), file, size, max, format, lines: Vec::new() };
        writer.end_last_record().map_err(StoreError::io("write", path))?;
        Ok(writer)
    }

    /// Writes docker's JSON lines instead.
    #[must_use]
    pub fn with_json(self) -> Self {
        Self { format: Format::Json(JsonLines::default()), ..self }
    }

    /// Ends a record that was cut short, by a power cut say: the next would go on in its line.
    fn end_last_record(&mut self) -> io::Result<()> {
        let mut last = [b'\n'];
        if self.size > 0 {
            self.file.read_exact_at(&mut last, self.size - 1)?;
        }
        if last != [b'\n'] {
            self.file.write_all(b"\n")?;
            self.size += 1;
        }
        Ok(())
    }

    /// Logs what came from `stream` in one piece, at `time` (RFC 3339). What does not end with a newline is a part.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], time: &str) -> io::Result<()> {
        self.lines.clear();
        match &mut self.format {
            Format::K8s => write_lines(&mut self.lines, stream, bytes, time),
            Format::Json(lines) => lines.write(&mut self.lines, stream, bytes, time),
        }
        self.keep()
    }

    /// Logs what was kept back, at the end of a life.
    pub fn finish(&mut self, time: &str) -> io::Result<()> {
        self.lines.clear();
        if let Format::Json(lines) = &mut self.format {
            lines.finish(&mut self.lines, time);
        }
        self.keep()
    }

    /// Writes the records into as many files as they take, whole ones into each.
    fn keep(&mut self) -> io::Result<()> {
        let mut from = 0;
        while from < self.lines.len() {
            let rest = &self.lines[from..];
            let mut count = fitting(rest, self.max.saturating_sub(self.size));
            if count == 0 && self.size > 0 && self.may_rotate() {
                self.rotate()?;
                continue;
            }
            if count == 0 {
                // A record longer than a file, or a reader that is waited for: a file's worth more, and then it is looked at again.
                let first = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1);
                count = fitting(rest, self.max).max(first);
            }
            self.append(from..from + count)?;
            from += count;
        }
        Ok(())
    }

    /// Whether nobody has still to read what was put aside before.
    fn may_rotate(&self) -> bool {
        if self.size > self.max.saturating_mul(PATIENCE.0).max(PATIENCE.1) {
            return true;
        }
        let Ok(older) = File::open(older(&self.path)) else { return true };
        flock(&older, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// Appends some of the records. Those that found room stay; of one that found room in part nothing does, or the next would go on in its
    /// line.
    fn append(&mut self, records: std::ops::Range<usize>) -> io::Result<()> {
        let records = &self.lines[records];
        let mut written = 0;
        let mut result = Ok(());
        while result.is_ok() && written < records.len() {
            match self.file.write(&records[written..]) {
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => result = Err(error),
            }
        }
        let whole = records[..written].iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        self.size += whole as u64;
        if whole < written {
            self.file.set_len(self.size)?;
        }
        result
    }

    /// Removes a log that nothing was ever written to: the container's process never ran.
    pub fn discard_empty(&self) -> Result<()> {
        if self.size == 0 && !older(&self.path).exists() {
            stos_store::files::remove_file(&self.path)?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        match std::fs::rename(&self.path, older(&self.path)) {
            // It was put aside before, and there was no room for a new one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        self.file = open_to_append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// How many bytes of whole records fit into `room`.
fn fitting(records: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(records.len());
    records[..room].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1)
}

fn write_lines(out: &mut Vec<u8>, stream: Stream, bytes: &[u8], time: &str) {
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let tag = if line.ends_with(b"\n") { 'F' } else { 'P' };
        out.extend_from_slice(format!("{time} {} {tag} ", stream.name()).as_bytes());
        out.extend_from_slice(line);
        if tag == 'P' {
            out.push(b'\n');
        }
    }
}

fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// A line of a log, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// When it was written (RFC 3339).
    pub time: &'a [u8],
    /// Where it was written to.
    pub stream: Stream,
    /// What was written: with its newline, unless it is a part.
    pub text: &'a [u8],
}

impl LogLine<'_> {
    /// Whether a line ends here; else what the stream holds next goes on with it.
    pub fn is_end(&self) -> bool {
        self.text.ends_with(b"\n")
    }
}

/// Who takes what is read of a log.
pub type Take<'a> = &'a mut dyn FnMut(&LogLine<'_>) -> io::Result<()>;

/// Reads a log from its beginning, or from a line near its end ([`LogReader::tail`]).
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    /// What was put aside before the reader began, from where it is wanted.
    pending: Option<BufReader<File>>,
    current: Option<BufReader<File>>,
    /// How many records of each stream are passed over: of lines that begin before the first one that is wanted.
    skip: [u64; 2],
    /// The file that was read to its end before; held open, so that no other gets its inode number.
    done: Option<File>,
    line: Vec<u8>,
    /// A line of another form, in this one.
    turned: Vec<u8>,
}

impl LogReader {
    /// Reads the log at `path`, and what was put aside of it before. A log that is not there yet is empty.
    pub fn new(path: &Path) -> Self {
        let (line, turned) = (Vec::new(), Vec::new());
        Self { path: path.to_owned(), pending: None, current: None, skip: [0; 2], done: None, line, turned }
    }

    /// Hands everything that is there and was not handed before to `take`, without the log's own prefix.
    pub fn read_available(&mut self, take: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>) -> io::Result<()> {
        self.read_lines(&mut |line| take(line.stream, line.text))
    }

    /// The same line by line, each with its time.
    pub fn read_lines(&mut self, take: Take<'_>) -> io::Result<()> {
        if let Some(mut older) = self.pending.take() {
            self.drain(&mut older, take)?;
            self.done = Some(read_whole(older));
        }
        loop {
            let mut file = match self.current.take() {
                Some(file) => file,
                None => match self.next_file(take)? {
                    Some(file) => file,
                    None => return Ok(()),
                },
            };
            self.drain(&mut file, take)?;
            if is_current(file.get_ref(), &self.path)? {
                self.current = Some(file);
                return Ok(());
            }
            // Put aside: it grows no more, but it may have since it was read.
            self.drain(&mut file, take)?;
            // The next is held before this one is let go: of the two no more than one is put aside meanwhile.
            let next = self.next_file_after(file, take)?;
            match next {
                Some(next) => self.current = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Opens what follows a file that was read to its end.
    fn next_file_after(&mut self, read: BufReader<File>, take: Take<'_>) -> io::Result<Option<BufReader<File>>> {
        let known = read.get_ref().try_clone()?;
        self.done = Some(known);
        let next = self.next_file(take)?;
        if let Some(done) = &self.done {
            unlock(done);
        }
        drop(read);
        Ok(next)
    }

    /// Opens `log`, then hands out what was put aside since the last file. In this order a file that is put aside meanwhile
    /// is one of the two.
    fn next_file(&mut self, take: Take<'_>) -> io::Result<Option<BufReader<File>>> {
        let next = open_if_there(&self.path)?;
        let Some(mut older) = open_if_there(&older(&self.path))? else { return Ok(next) };
        let is_known = |known: Option<&File>| -> io::Result<bool> {
            Ok(known.map(File::metadata).transpose()?.map(|known| known.ino())
                == Some(older.get_ref().metadata()?.ino()))
        };
        if !is_known(self.done.as_ref())? && !is_known(next.as_ref().map(BufReader::get_ref))? {
            self.drain(&mut older, take)?;
            self.done = Some(read_whole(older));
        }
        Ok(next)
    }

    fn drain(&mut self, file: &mut BufReader<File>, take: Take<'_>) -> io::Result<()> {
        loop {
            self.line.clear();
            let count = file.read_until(b'\n', &mut self.line)?;
            if count == 0 {
                return Ok(());
            }
            if !self.line.ends_with(b"\n") {
                // A line that is still being written: read whole next time.
                file.seek(SeekFrom::Current(-i64::try_from(count).unwrap_or(0)))?;
                return Ok(());
            }
            let line = match json::is_json(&self.line) {
                true if json::to_line(&self.line, &mut self.turned) => &self.turned,
                true => continue,
                false => &self.line,
            };
            let Some(line) = parse_line(line) else { continue };
            match &mut self.skip[line.stream as usize] {
                0 => take(&line)?,
                left => *left -= 1,
            }
        }
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => {
            // Whoever writes the log holds no lock for longer than a moment; where there is none to be had, nothing is promised.
            let _ = flock(&file, FlockOperation::LockShared);
            Ok(Some(BufReader::new(file)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lets a file go that was read to its end. It is kept open, so that no other gets its inode number.
fn read_whole(file: BufReader<File>) -> File {
    let file = file.into_inner();
    unlock(&file);
    file
}

fn unlock(file: &File) {
    // Else it is let go when it is closed.
    let _ = flock(file, FlockOperation::Unlock);
}

fn is_current(file: &File, path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(named) => Ok(named.ino() == file.metadata()?.ino()),
        // Between rename and creation, or the container is gone: nothing more to read for now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Takes a log line apart. Lines that are none of ours are passed over.
fn parse_line(line: &[u8]) -> Option<LogLine<'_>> {
    let mut words = line.splitn(4, |&byte| byte == b' ');
    let (time, stream, tag, text) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let stream = Stream::of_name(stream)?;
    let text = match tag {
        b"F" => text,
        b"P" => text.strip_suffix(b"\n").unwrap_or(text),
        _ => return None,
    };
    Some(LogLine { time, stream, text })
}

/// How long `logs -f` waits between two looks at a log that does not grow.
pub const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Copies a pipe's available bytes into `buffer`; `Ok(0)` at its end.
pub(crate) fn read_once(mut pipe: impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match pipe.read(buffer) {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
