// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Docker's json-file lines, written and read.
//!
//! ```text
//! {"log":"a whole line\n","stream":"stdout","time":"2026-01-31T12:00:00.000000000Z"}
//! {"log":"a part, to be continued","stream":"stderr","time":"2026-01-31T12:00:00.000000000Z"}
//! ```
//!
//! JSON is text: bytes that are no UTF-8 become U+FFFD, as docker has it. A character that a read has cut in two is none of those.

use serde::{Deserialize, Serialize};

use super::Stream;

/// What stands between the text and its stream. In the text a quotation mark stands behind a backslash.
const BEFORE_STREAM: &[u8] = br#"","stream":""#;

/// How much of the end of a record is looked at: its stream and its time take less.
pub(super) const TAIL: usize = 128;

#[derive(Serialize, Deserialize)]
struct Record<'a> {
    log: std::borrow::Cow<'a, str>,
    stream: std::borrow::Cow<'a, str>,
    time: std::borrow::Cow<'a, str>,
}

/// What a writer keeps of each stream: a character whose end has not come yet.
#[derive(Debug, Default)]
pub(super) struct JsonLines {
    held: [Vec<u8>; 2],
}

impl JsonLines {
    /// Appends the records of what came from `stream` in one piece, at `time` (RFC 3339).
    pub(super) fn write(&mut self, out: &mut Vec<u8>, stream: Stream, bytes: &[u8], time: &str) {
        let held = &mut self.held[stream as usize];
        let joined;
        let mut bytes = bytes;
        if !held.is_empty() {
            held.extend_from_slice(bytes);
            joined = std::mem::take(held);
            bytes = &joined;
        }
        let (now, later) = bytes.split_at(bytes.len() - unfinished(bytes));
        for line in now.split_inclusive(|&byte| byte == b'\n') {
            push(out, stream, line, time);
        }
        *held = later.to_vec();
    }

    /// Appends what is left at the end: half characters.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>, time: &str) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let held = std::mem::take(&mut self.held[stream as usize]);
            if !held.is_empty() {
                push(out, stream, &held, time);
            }
        }
    }
}

fn push(out: &mut Vec<u8>, stream: Stream, line: &[u8], time: &str) {
    let time = time.strip_suffix("+00:00").map_or_else(|| time.into(), |time| format!("{time}Z").into());
    let record = Record { log: String::from_utf8_lossy(line), stream: stream.name().into(), time };
    // Strings are always JSON.
    out.extend_from_slice(serde_json::to_string(&record).unwrap_or_default().as_bytes());
    out.push(b'\n');
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let last = bytes.len() - bytes.len().min(3);
    let start = bytes[last..].iter().rposition(|byte| byte & 0xC0 != 0x80).map(|at| last + at);
    let Some(start) = start else { return 0 };
    match std::str::from_utf8(&bytes[start..]) {
        Err(error) if error.error_len().is_none() => bytes.len() - start,
        _ => 0,
    }
}

/// Tells whether a record is one of these, by its first byte: a line of the other form begins with a digit.
pub(super) fn is_json(record: &[u8]) -> bool {
    record.first() == Some(&b'{')
}

/// Turns a record into a line of the other form, in `line`; `false` where it is none.
pub(super) fn to_line(record: &[u8], line: &mut Vec<u8>) -> bool {
    let Ok(record) = serde_json::from_slice::<Record<'_>>(record) else { return false };
    let (tag, end) = if record.log.ends_with('\n') { ('F', "") } else { ('P', "\n") };
    line.clear();
    line.extend_from_slice(format!("{} {} {tag} {}{end}", record.time, record.stream, record.log).as_bytes());
    true
}

/// Reads of the end of a record which stream it is of, and whether a line ends with it.
pub(super) fn of_tail(tail: &[u8]) -> Option<(Stream, bool)> {
    let at = tail.windows(BEFORE_STREAM.len()).rposition(|window| window == BEFORE_STREAM)?;
    let (text, rest) = (&tail[..at], &tail[at + BEFORE_STREAM.len()..]);
    let stream = Stream::of_name(rest.split(|&byte| byte == b'"').next()?)?;
    // `\n`, and not a backslash of the text's own before an n.
    let is_end = text
        .strip_suffix(b"n")
        .is_some_and(|text| text.iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1);
    Some((stream, is_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-31T12:00:00.000000000+00:00";

    fn written(pieces: &[&[u8]]) -> String {
        let (mut lines, mut out) = (JsonLines::default(), Vec::new());
        pieces.iter().for_each(|piece| lines.write(&mut out, Stream::Stdout, piece, TIME));
        lines.finish(&mut out, TIME);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn records_are_docker_s() {
        assert_eq!(
            written(&[b"a \"b\"\npart"]),
            "{\"log\":\"a \\\"b\\\"\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-31T12:00:00.000000000Z\"}\n\
             {\"log\":\"part\",\"stream\":\"stdout\",\"time\":\"2026-01-31T12:00:00.000000000Z\"}\n"
        );
    }

    #[test]
    fn a_character_that_was_cut_is_whole_again() {
        let euro = "€".as_bytes();
        let lines = written(&[&euro[..1], &euro[1..2], &euro[2..], b"\n"]);
        assert!(lines.contains("\"log\":\"€\"") && !lines.contains('\u{fffd}'), "{lines}");
        assert_eq!(written(&[b"x\xff\n"]).matches('\u{fffd}').count(), 1);
        assert_eq!(written(&[&euro[..2]]).matches('\u{fffd}').count(), 1, "at the very end there is no more of it");
        assert_eq!(
            [unfinished(b""), unfinished(b"ab"), unfinished(b"\x80\x80\x80"), unfinished(b"a\xf0\x9f")],
            [0, 0, 0, 2]
        );
    }

    #[test]
    fn a_record_is_read_again_whole_and_by_its_end() {
        for (text, is_end) in
            [("line\n", true), ("part", false), ("\\n", false), ("\\\n", true), ("\",\"stream\":\"stderr\n", true)]
        {
            let record = written(&[text.as_bytes()]);
            let first = record.lines().next().unwrap();
            assert!(is_json(first.as_bytes()));
            assert_eq!(of_tail(first.as_bytes()), Some((Stream::Stdout, is_end)), "{text:?}");
            let mut line = Vec::new();
            assert!(to_line(first.as_bytes(), &mut line));
            let read = super::super::parse_line(&line).unwrap();
            assert_eq!((read.text, read.is_end()), (text.as_bytes(), is_end));
            assert_eq!(read.time, b"2026-01-31T12:00:00.000000000Z");
        }
        assert!(!to_line(b"{\"log\": 1}", &mut Vec::new()) && of_tail(b"{}").is_none());
    }
}
