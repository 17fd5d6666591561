// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the journal has of a container, read by journalctl(1) as JSON lines.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Deserialize;
use stos_store::ContainerId;

use super::{LogLine, Stream, Take};

/// Reads a container's entries. Dropped, journalctl is ended.
#[derive(Debug)]
pub struct JournalReader {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Whether new entries are waited for: then what is there is all for now.
    follows: bool,
    line: Vec<u8>,
}

impl JournalReader {
    /// Begins to read: all entries, or the last `tail` ones; and with `follows` those that come.
    ///
    /// # Errors
    /// Of the kind `NotFound` where there is no journalctl.
    pub fn open(id: &ContainerId, tail: Option<u64>, follows: bool) -> io::Result<Self> {
        let mut command = Command::new("journalctl");
        command.args(["--quiet", "--no-pager", "--output=json"]);
        command.arg(format!("--lines={}", tail.map_or_else(|| "all".to_owned(), |count| count.to_string())));
        if follows {
            command.arg("--follow");
        }
        command.arg(format!("CONTAINER_ID_FULL={id}"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, output: BufReader::new(output), follows, line: Vec::new() })
    }

    /// Hands every entry that is there and was not handed before to `take`; without `follows` all of them.
    pub fn read_lines(&mut self, take: Take<'_>) -> io::Result<()> {
        while !self.follows || self.has_more()? {
            self.line.clear();
            if self.output.read_until(b'\n', &mut self.line)? == 0 {
                return self.check_end();
            }
            hand(&self.line, take)?;
        }
        Ok(())
    }

    fn has_more(&self) -> io::Result<bool> {
        if !self.output.buffer().is_empty() {
            return Ok(true);
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut [PollFd::new(self.output.get_ref(), PollFlags::IN)], Some(&now)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn check_end(&mut self) -> io::Result<()> {
        // It has said why on our standard error.
        match self.child.wait()? {
            status if status.success() => Ok(()),
            status => Err(io::Error::other(format!("journalctl: {status}"))),
        }
    }
}

impl Drop for JournalReader {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An entry, as `--output=json` has it: what is no text is an array of bytes.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time: String,
    #[serde(rename = "MESSAGE")]
    message: Option<Message>,
    #[serde(rename = "PRIORITY")]
    priority: Option<String>,
    #[serde(rename = "CONTAINER_PARTIAL_MESSAGE")]
    partial: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Text(String),
    Bytes(Vec<u8>),
}

/// Takes an entry apart. What is none of ours is passed over.
fn hand(line: &[u8], take: Take<'_>) -> io::Result<()> {
    let Ok(entry) = serde_json::from_slice::<Entry>(line) else { return Ok(()) };
    let mut text = match entry.message {
        Some(Message::Text(text)) => text.into_bytes(),
        Some(Message::Bytes(bytes)) => bytes,
        None => return Ok(()),
    };
    if entry.partial.is_none() {
        text.push(b'\n');
    }
    let stream = if entry.priority.as_deref() == Some("3") { Stream::Stderr } else { Stream::Stdout };
    let time = entry.time.parse().ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
    let time = time.map(|time| format!("{time:.6}")).unwrap_or_default();
    take(&LogLine { time: time.as_bytes(), stream, text: &text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(line: &str) -> Option<(String, Stream, Vec<u8>)> {
        let mut found = None;
        hand(line.as_bytes(), &mut |line| {
            found = Some((String::from_utf8_lossy(line.time).into_owned(), line.stream, line.text.to_vec()));
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn entries_are_lines_again() {
        let time = "2026-01-31T12:00:00.000001Z".to_owned();
        let entry = |rest: &str| handed(&format!("{{\"__REALTIME_TIMESTAMP\":\"1769860800000001\",{rest}}}"));
        assert_eq!(
            entry(r#""MESSAGE":"one","PRIORITY":"6","_PID":"1""#),
            Some((time.clone(), Stream::Stdout, b"one\n".to_vec()))
        );
        assert_eq!(
            entry(r#""MESSAGE":"pa","PRIORITY":"3","CONTAINER_PARTIAL_MESSAGE":"true""#),
            Some((time.clone(), Stream::Stderr, b"pa".to_vec()))
        );
        assert_eq!(entry(r#""MESSAGE":[255,10,0]"#), Some((time, Stream::Stdout, vec![255, 10, 0, 10])));
        assert_eq!(entry(r#""MESSAGE":null"#), None);
        assert_eq!(handed("-- No entries --"), None);
    }
}
