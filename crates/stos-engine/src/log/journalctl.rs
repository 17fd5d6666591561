// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the journal has of a container, read by journalctl(1) as JSON lines.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;
use stos_store::ContainerId;

use super::{LogLine, Stream, Take};

/// How often who follows asks: each time journalctl begins anew, for by its `--follow` nobody knows when all that is there has come.
const INTERVAL: Duration = Duration::from_millis(500);

/// Reads a container's entries. Dropped, journalctl is ended.
#[derive(Debug)]
pub struct JournalReader {
    program: PathBuf,
    id: ContainerId,
    /// The last entry that there was.
    cursor: Option<String>,
    /// Whether entries that were there at the beginning are passed over.
    skips: bool,
    running: Option<Journalctl>,
    asked: Option<Instant>,
    line: Vec<u8>,
}

impl JournalReader {
    /// Begins to read: all entries, or the last `tail` ones and what comes.
    ///
    /// # Errors
    /// Of the kind `NotFound` where there is no journalctl.
    pub fn open(id: &ContainerId, tail: Option<u64>) -> io::Result<Self> {
        Self::by(Path::new("journalctl"), id, tail)
    }

    fn by(program: &Path, id: &ContainerId, tail: Option<u64>) -> io::Result<Self> {
        let (program, id, skips) = (program.to_owned(), id.clone(), tail == Some(0));
        let mut reader = Self { program, id, cursor: None, skips, running: None, asked: None, line: Vec::new() };
        // Of none the last one is read, to go on after it.
        reader.running = Some(reader.ask(tail.map(|count| count.max(1)))?);
        Ok(reader)
    }

    fn ask(&self, tail: Option<u64>) -> io::Result<Journalctl> {
        let mut command = Command::new(&self.program);
        command.args(["--quiet", "--no-pager", "--output=json"]);
        command.arg(format!("--lines={}", tail.map_or_else(|| "all".to_owned(), |count| count.to_string())));
        if let Some(cursor) = &self.cursor {
            command.arg(format!("--after-cursor={cursor}"));
        }
        command.arg(format!("CONTAINER_ID_FULL={}", self.id));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Journalctl { child, output: BufReader::new(output) })
    }

    /// Hands every entry that is there and was not handed before to `take`; who asks again soon finds nothing, unless it is for the last time.
    pub fn read_lines(&mut self, is_last: bool, take: Take<'_>) -> io::Result<()> {
        let mut journalctl = match self.running.take() {
            Some(first) => first,
            None if !is_last && self.asked.is_some_and(|asked| asked.elapsed() < INTERVAL) => return Ok(()),
            None => {
                if is_last {
                    self.wait_for_journal();
                }
                self.ask(None)?
            }
        };
        loop {
            self.line.clear();
            if journalctl.output.read_until(b'\n', &mut self.line)? == 0 {
                break;
            }
            // What is none of ours is passed over.
            let Ok(entry) = serde_json::from_slice::<Entry>(&self.line) else { continue };
            self.cursor = entry.cursor.clone().or(self.cursor.take());
            if !self.skips {
                hand(entry, take)?;
            }
        }
        self.skips = false;
        self.asked = Some(Instant::now());
        // It has said why on our standard error.
        match journalctl.child.wait()? {
            status if status.success() => Ok(()),
            status => Err(io::Error::other(format!("journalctl: {status}"))),
        }
    }

    /// Waits until the journal has written what it has received. Where it does not say so it is read as it is.
    fn wait_for_journal(&self) {
        let mut command = Command::new(&self.program);
        drop(command.arg("--sync").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status());
    }
}

/// A journalctl that runs.
#[derive(Debug)]
struct Journalctl {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Drop for Journalctl {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An entry, as `--output=json` has it: what is no text is an array of bytes.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "__CURSOR")]
    cursor: Option<String>,
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

/// Takes an entry apart.
fn hand(entry: Entry, take: Take<'_>) -> io::Result<()> {
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
    use std::io::Write;

    use super::*;

    fn handed(line: &str) -> Option<(String, Stream, Vec<u8>)> {
        let mut found = None;
        hand(serde_json::from_str(line).unwrap(), &mut |line| {
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
    }

    /// A journalctl that reads a file of entries, and the lines that come of it.
    struct Fake {
        dir: tempfile::TempDir,
        id: ContainerId,
    }

    impl Fake {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let script = "#!/bin/sh\n# Of --lines and --after-cursor the file knows the numbers of lines.\ncd \"${0%/*}\"\nafter=0; lines=+1\n\
                for word; do case $word in\n\
                --sync) touch synced; exit 0;;\n--lines=all) ;;\n--lines=*) lines=${word#*=};;\n\
                --after-cursor=*) after=${word#*=};;\nesac; done\n\
                tail -n +$((after+1)) entries | tail -n $lines\necho '-- No entries --'\n";
            // Another process writes it: a file that this one has open for writing could not be run by another thread's child (ETXTBSY).
            let mut shell = Command::new("sh");
            shell.args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"]).arg(dir.path().join("journalctl"));
            let mut shell = shell.stdin(Stdio::piped()).spawn().unwrap();
            shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(shell.wait().unwrap().success());
            Self { dir, id: ContainerId::random() }
        }

        /// Has entries of these numbers.
        fn has(&self, count: usize) {
            let entry = |n| format!("{{\"__CURSOR\":\"{n}\",\"__REALTIME_TIMESTAMP\":\"1\",\"MESSAGE\":\"{n}\"}}\n");
            std::fs::write(self.dir.path().join("entries"), (1..=count).map(entry).collect::<String>()).unwrap();
        }

        fn open(&self, tail: Option<u64>) -> JournalReader {
            JournalReader::by(&self.dir.path().join("journalctl"), &self.id, tail).unwrap()
        }
    }

    fn read(reader: &mut JournalReader, is_last: bool) -> String {
        let mut text = String::new();
        let take = &mut |line: &LogLine<'_>| {
            text.push_str(&String::from_utf8_lossy(line.text).replace('\n', " "));
            Ok(())
        };
        reader.read_lines(is_last, take).unwrap();
        text
    }

    #[test]
    fn who_follows_has_every_entry_once_up_to_the_last() {
        let journal = Fake::new();
        for (tail, first) in [(None, "1 2 3 "), (Some(2), "2 3 "), (Some(0), "")] {
            journal.has(3);
            let mut reader = journal.open(tail);
            assert_eq!(read(&mut reader, false), first);
            journal.has(5);
            // As if no time had passed, whatever did.
            reader.asked = Some(Instant::now() + Duration::from_secs(3600));
            assert_eq!(read(&mut reader, false), "", "it is too soon");
            reader.asked = None;
            assert_eq!(read(&mut reader, false), "4 5 ");
            journal.has(6);
            assert_eq!(read(&mut reader, true), "6 ");
            assert!(journal.dir.path().join("synced").exists());
        }
        // Of one that has ended, or has written nothing yet.
        assert_eq!(read(&mut journal.open(None), true), "1 2 3 4 5 6 ");
        journal.has(0);
        let mut reader = journal.open(Some(0));
        assert_eq!(read(&mut reader, false), "");
        journal.has(2);
        assert_eq!(read(&mut reader, true), "1 2 ");
        let missing = JournalReader::by(&journal.dir.path().join("none"), &journal.id, None);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
