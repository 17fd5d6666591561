// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The last lines of a log, found from its end: however large it is, one block of it is in memory.

use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::{LogReader, Stream, json, older, open_if_there, parse_line, read_whole};

/// How much is read at once.
const BLOCK: usize = 64 << 10;

/// How much of a record is looked at: its time, stream and tag take less.
const HEAD: usize = 64;

impl LogReader {
    /// Reads the last `count` lines of the log at `path`, and from there on. As podman counts them: a line that was written in
    /// parts is one, and of both streams together there are `count`.
    pub fn tail(path: &Path, count: u64) -> io::Result<Self> {
        let mut reader = Self::new(path);
        let (aside, Some(mut current)) = open_both(path)? else { return Ok(reader) };
        let mut search = Search::new(count);
        let start = search.back_through(current.get_ref())?;
        current.seek(SeekFrom::Start(start))?;
        if let Some(mut aside) = aside {
            if search.is_done() {
                reader.done = Some(read_whole(aside));
            } else {
                let start = search.back_through(aside.get_ref())?;
                aside.seek(SeekFrom::Start(start))?;
                reader.pending = Some(aside);
            }
        }
        reader.skip = search.skipped;
        reader.current = Some(current);
        Ok(reader)
    }
}

type Both = (Option<BufReader<File>>, Option<BufReader<File>>);

/// Opens what was put aside and the log, as they belong together.
fn open_both(path: &Path) -> io::Result<Both> {
    loop {
        let (current, aside) = (open_if_there(path)?, open_if_there(&older(path))?);
        let inode = |file: &Option<BufReader<File>>| file.as_ref().map(|file| file.get_ref().metadata()).transpose();
        match (inode(&aside)?, inode(&current)?) {
            // Put aside between the two.
            (Some(aside), Some(current)) if aside.ino() == current.ino() => {}
            (Some(_), None) if path.exists() => {}
            // Put aside, and nothing was written since.
            (Some(_), None) => return Ok((None, aside)),
            _ => return Ok((aside, current)),
        }
    }
}

/// What is known on the way back from the end.
struct Search {
    /// How many lines are still wanted.
    wanted: u64,
    /// Of each stream: whether a line that is wanted has been met, whose parts may lie further back.
    is_open: [bool; 2],
    /// Of each stream: whether a record of it has been met.
    is_seen: [bool; 2],
    /// Of each stream: how many records that are not wanted lie behind the first that is.
    skipped: [u64; 2],
}

impl Search {
    fn new(wanted: u64) -> Self {
        Self { wanted, is_open: [false; 2], is_seen: [false; 2], skipped: [0; 2] }
    }

    fn is_done(&self) -> bool {
        self.wanted == 0 && self.is_open == [false; 2]
    }

    /// Goes back through a file until everything that is wanted lies behind, and gives where that begins.
    fn back_through(&mut self, file: &File) -> io::Result<u64> {
        let mut records = Records::of(file)?;
        let mut start = records.begins;
        while !self.is_done() {
            let Some(head) = records.back()? else { return Ok(0) };
            if let Some((stream, is_end)) = head
                && self.meet(stream, is_end)
                && self.is_done()
            {
                // What lies behind this record is all.
                return Ok(start);
            }
            start = records.begins;
        }
        Ok(start)
    }

    /// Takes a record into account, the next one back. Tells whether it is none of what is wanted.
    fn meet(&mut self, stream: Stream, is_end: bool) -> bool {
        let at = stream as usize;
        // At the very end of the log there may be a line that goes on.
        let ends_line = is_end || !self.is_seen[at];
        self.is_seen[at] = true;
        if ends_line {
            self.is_open[at] = self.wanted > 0;
            self.wanted = self.wanted.saturating_sub(1);
        }
        let is_unwanted = !self.is_open[at];
        if is_unwanted && !self.is_done() {
            self.skipped[at] += 1;
        }
        is_unwanted
    }
}

/// The records of a file, the last one first.
struct Records<'a> {
    file: &'a File,
    block: Vec<u8>,
    /// Where the block lies.
    at: u64,
    /// Where the record that was met last begins.
    begins: u64,
}

impl<'a> Records<'a> {
    /// A record that is still being written is none yet.
    fn of(file: &'a File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let mut records = Self { file, block: Vec::new(), at: size, begins: size };
        records.begins = records.newline_before(size)?.map_or(0, |newline| newline + 1);
        Ok(records)
    }

    /// Goes back by a record, and gives its stream and whether a line ends with it; `Some(None)` for one that is none.
    fn back(&mut self) -> io::Result<Option<Option<(Stream, bool)>>> {
        let end = self.begins;
        if end == 0 {
            return Ok(None);
        }
        self.begins = self.newline_before(end - 1)?.map_or(0, |newline| newline + 1);
        let head = self.bytes_at(self.begins, HEAD.min(usize::try_from(end - self.begins).unwrap_or(HEAD)))?;
        if json::is_json(&head) {
            let from = self.begins.max(end.saturating_sub(json::TAIL as u64));
            let tail = self.bytes_at(from, usize::try_from(end - from).unwrap_or(json::TAIL))?;
            return Ok(Some(json::of_tail(&tail)));
        }
        let is_end = head.splitn(4, |&byte| byte == b' ').nth(2) == Some(b"F");
        Ok(Some(parse_line(&head).map(|line| (line.stream, is_end))))
    }

    /// Gives bytes of the file, from the block where it has them.
    fn bytes_at(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let from = usize::try_from(at.saturating_sub(self.at)).unwrap_or(usize::MAX);
        match self.block.get(from..from.saturating_add(length)).filter(|_| at >= self.at) {
            Some(known) => bytes.copy_from_slice(known),
            None => self.file.read_exact_at(&mut bytes, at)?,
        }
        Ok(bytes)
    }

    /// Finds the last newline before the offset `end`.
    fn newline_before(&mut self, end: u64) -> io::Result<Option<u64>> {
        let mut end = end;
        loop {
            let known = usize::try_from(end.saturating_sub(self.at)).unwrap_or(0).min(self.block.len());
            if let Some(found) = self.block[..known].iter().rposition(|&byte| byte == b'\n') {
                return Ok(Some(self.at + found as u64));
            }
            if self.at == 0 {
                return Ok(None);
            }
            end = self.at;
            self.at = end.saturating_sub(BLOCK as u64);
            self.block.resize(usize::try_from(end - self.at).unwrap_or(BLOCK), 0);
            self.file.read_exact_at(&mut self.block, self.at)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogWriter;
    use super::*;

    fn lines(reader: &mut LogReader) -> Vec<String> {
        let mut lines = Vec::new();
        let mut take = |line: &super::super::LogLine<'_>| {
            lines.push(String::from_utf8_lossy(line.text).into_owned());
            Ok(())
        };
        reader.read_lines(&mut take).unwrap();
        lines
    }

    fn tail(path: &Path, count: u64) -> Vec<String> {
        lines(&mut LogReader::tail(path, count).unwrap())
    }

    fn log(max: u64) -> (tempfile::TempDir, std::path::PathBuf, LogWriter) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let writer = LogWriter::open(&path, max).unwrap();
        (dir, path, writer)
    }

    #[test]
    fn the_last_lines_are_those_that_were_written_last() {
        let (_dir, path, mut writer) = log(1 << 20);
        assert_eq!(tail(&path, 3), [""; 0]);
        for (stream, text) in [(Stream::Stdout, "1\n2\n"), (Stream::Stderr, "3\n"), (Stream::Stdout, "4\n")] {
            writer.write(stream, text.as_bytes(), "T").unwrap();
        }
        assert_eq!(tail(&path, 0), [""; 0]);
        assert_eq!(tail(&path, 1), ["4\n"]);
        assert_eq!(tail(&path, 3), ["2\n", "3\n", "4\n"]);
        assert_eq!(tail(&path, 99), ["1\n", "2\n", "3\n", "4\n"]);
        let mut reader = LogReader::tail(&path, 1).unwrap();
        assert_eq!(lines(&mut reader), ["4\n"]);
        writer.write(Stream::Stdout, b"5\n", "T").unwrap();
        assert_eq!(lines(&mut reader), ["5\n"], "it goes on from there");
    }

    #[test]
    fn a_line_in_parts_is_one_and_whole() {
        let (_dir, path, mut writer) = log(1 << 20);
        writer.write(Stream::Stdout, b"old\nlo", "T").unwrap();
        writer.write(Stream::Stderr, b"bad\n", "T").unwrap();
        writer.write(Stream::Stdout, b"n", "T").unwrap();
        writer.write(Stream::Stdout, b"g\n", "T").unwrap();
        assert_eq!(tail(&path, 1), ["lo", "n", "g\n"], "a line of the other stream between is not of it");
        assert_eq!(tail(&path, 2), ["lo", "bad\n", "n", "g\n"]);
        writer.write(Stream::Stdout, b"prompt> ", "T").unwrap();
        assert_eq!(tail(&path, 1), ["prompt> "], "a line that has not ended counts");
        assert_eq!(tail(&path, 2), ["lo", "n", "g\n", "prompt> "]);
    }

    #[test]
    fn what_was_put_aside_is_read_where_it_is_wanted() {
        let (_dir, path, mut writer) = log(200);
        for number in 0..20 {
            writer.write(Stream::Stdout, format!("{number:04}\n").as_bytes(), "T").unwrap();
        }
        assert!(older(&path).exists());
        let all = lines(&mut LogReader::new(&path));
        for count in 0..=all.len() {
            assert_eq!(tail(&path, count as u64), all[all.len() - count..], "{count}");
        }
        let mut reader = LogReader::tail(&path, 2).unwrap();
        for number in 20..26 {
            writer.write(Stream::Stdout, format!("{number:04}\n").as_bytes(), "T").unwrap();
        }
        let expected: Vec<_> = (18..26).map(|number| format!("{number:04}\n")).collect();
        assert_eq!(lines(&mut reader), expected, "put aside after the reader began");
    }

    #[test]
    fn the_last_lines_of_json_records_are_the_same_ones() {
        let (_dir, path, writer) = log(1 << 20);
        let mut writer = writer.with_json();
        let long = "\\\"".repeat(200);
        for (stream, text) in [
            (Stream::Stdout, "1\nlo"),
            (Stream::Stderr, "bad\n"),
            (Stream::Stdout, "ng\n"),
            (Stream::Stdout, long.as_str()),
        ] {
            writer.write(stream, text.as_bytes(), "2026-01-31T12:00:00.000000000+00:00").unwrap();
        }
        assert_eq!(tail(&path, 1), [long.as_str()]);
        assert_eq!(tail(&path, 2), ["lo", "ng\n", long.as_str()], "a line of the other stream between is not of it");
        assert_eq!(tail(&path, 3), ["lo", "bad\n", "ng\n", long.as_str()]);
        assert_eq!(tail(&path, 9), lines(&mut LogReader::new(&path)));
    }

    #[test]
    fn a_record_longer_than_a_block_and_one_not_yet_whole() {
        let (_dir, path, mut writer) = log(1 << 30);
        let long = "x".repeat(3 * BLOCK + 7);
        writer.write(Stream::Stdout, format!("first\n{long}\nlast\n").as_bytes(), "T").unwrap();
        let mut file = File::options().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, b"T stdout F not yet").unwrap();
        assert_eq!(tail(&path, 1), ["last\n"]);
        assert_eq!(tail(&path, 2), [format!("{long}\n"), "last\n".to_owned()]);
        assert_eq!(tail(&path, 3).len(), 3);
        assert_eq!(tail(&path, 4).len(), 3);
    }

    #[test]
    fn every_tail_of_a_large_log_is_its_end() {
        let (_dir, path, mut writer) = log(1 << 30);
        for number in 0..20_000_u32 {
            let stream = if number.is_multiple_of(3) { Stream::Stderr } else { Stream::Stdout };
            writer.write(stream, format!("{number}\n").as_bytes(), "2026-01-31T12:00:00.000000000Z").unwrap();
        }
        for count in [1, 10, 2000, 19_999, 20_000] {
            let shown = tail(&path, count);
            assert_eq!((shown.len() as u64, shown[0].trim()), (count, (20_000 - count).to_string().as_str()));
        }
    }
}
