// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Buffers that go from one thread to the next and back: bounded, reused, copied nowhere.

use std::io::{self, BufRead, Read};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

/// The size of a buffer in bytes: large enough that a hand-over costs nothing beside its bytes.
pub(crate) const BUFFER_SIZE: usize = 256 << 10;
/// How many buffers may wait between two threads: enough to smooth bursts, and a bound on memory.
pub(crate) const DEPTH: usize = 4;

/// The end that fills buffers.
pub(crate) struct PipeWriter {
    full: Sender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

/// The end that takes them, in order; the stream ends when the writer is dropped.
pub(crate) struct PipeReader {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    taken: usize,
}

/// Makes a pipe.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (full_sender, full_receiver) = bounded(DEPTH);
    let (empty_sender, empty_receiver) = unbounded();
    let writer = PipeWriter { full: full_sender, empty: empty_receiver };
    (writer, PipeReader { full: full_receiver, empty: empty_sender, current: Vec::new(), taken: 0 })
}

/// Makes a pipe with two readers: what the first gives back the second reads, as it came, and only what that gives back is used again.
/// The first waits for the second as a writer does for a reader, and goes on without it where it has gone.
pub(crate) fn relay() -> (PipeWriter, PipeReader, PipeReader) {
    let (writer, second) = pipe();
    let (spent, full) = bounded(DEPTH);
    let first = PipeReader { full: second.full, empty: spent, current: Vec::new(), taken: 0 };
    (writer, first, PipeReader { full, ..second })
}

impl PipeWriter {
    /// Gives a buffer for [`fill`]: a used one, with what it held, where one has come back. Its capacity is [`BUFFER_SIZE`].
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER_SIZE))
    }

    /// Hands a buffer on, waiting for room. `false` says that nobody reads any more.
    pub(crate) fn send(&self, buffer: Vec<u8>) -> bool {
        self.full.send(buffer).is_ok()
    }
}

impl PipeReader {
    /// Gives what buffers come by, for who waits for several pipes at once.
    pub(crate) fn full(&self) -> &Receiver<Vec<u8>> {
        &self.full
    }

    /// Takes the next buffer whole; `None` at the end.
    pub(crate) fn next_buffer(&self) -> Option<Vec<u8>> {
        self.full.recv().ok()
    }

    /// Gives a buffer back for reuse. Not cleared: [`fill`] would write zeros over every byte of it before the next ones.
    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        // A writer that has gone needs no buffers.
        let _ = self.empty.send(buffer);
    }

    /// Gives back what is in hand and all that still comes.
    pub(crate) fn give_back_all(mut self) {
        let current = std::mem::take(&mut self.current);
        if current.capacity() > 0 {
            self.give_back(current);
        }
        while let Some(buffer) = self.next_buffer() {
            self.give_back(buffer);
        }
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.taken == self.current.len() {
            let Ok(next) = self.full.recv() else { return Ok(&[]) };
            let used = std::mem::replace(&mut self.current, next);
            self.taken = 0;
            if used.capacity() > 0 {
                self.give_back(used);
            }
        }
        Ok(&self.current[self.taken..])
    }

    fn consume(&mut self, count: usize) {
        self.taken += count;
    }
}

impl Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(into.len());
        into[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Fills `buffer` from its start up to [`BUFFER_SIZE`] or the end of `source`, and cuts it there; tells whether the source may
/// have more. What it held is gone.
pub(crate) fn fill(source: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut filled = 0;
    buffer.resize(BUFFER_SIZE, 0);
    let outcome = loop {
        if filled == BUFFER_SIZE {
            break Ok(true);
        }
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break Ok(false),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    buffer.truncate(filled);
    outcome
}

/// Tells whether there are only zeros. Real data say no at once.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let words = bytes.chunks_exact(16);
    let rest = words.remainder();
    rest.iter().all(|&byte| byte == 0) && words.into_iter().all(|word| word == [0; 16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_told_from_anything_else() {
        for len in [0, 1, 15, 16, 17, 4096, 4101] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{len} {at}");
                bytes[at] = 0;
            }
        }
    }

    /// Writes `text` into a pipe, and gives the number of buffers that this took.
    fn write_all(writer: &PipeWriter, mut text: &[u8]) -> usize {
        let mut made = 0;
        loop {
            let mut buffer = writer.empty.try_recv().unwrap_or_else(|_| {
                made += 1;
                writer.buffer()
            });
            let more = fill(&mut text, &mut buffer).unwrap();
            assert!(writer.send(buffer));
            if !more {
                return made;
            }
        }
    }

    #[test]
    fn bytes_come_out_in_order_and_buffers_come_back() {
        let text: Vec<u8> = (0..9_000_000_u32).map(|number| (number / 7) as u8).collect();
        for is_relay in [false, true] {
            let (writer, reader, second) = if is_relay {
                let (writer, reader, second) = relay();
                (writer, reader, Some(second))
            } else {
                let (writer, reader) = pipe();
                (writer, reader, None)
            };
            let (received, again, made) = std::thread::scope(|scope| {
                let made = scope.spawn(|| {
                    let writer = writer;
                    write_all(&writer, &text)
                });
                let again = scope.spawn(|| second.map(read_to_end));
                let received = read_to_end(reader);
                (received, again.join().unwrap(), made.join().unwrap())
            });
            assert!(received == text);
            assert!(again.is_none_or(|again| again == text));
            // What two pipes hold, and one in each hand; the text takes 35.
            assert!(made <= 2 * DEPTH + 4, "{made} buffers");
        }
    }

    fn read_to_end(mut reader: PipeReader) -> Vec<u8> {
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        reader.give_back_all();
        received
    }

    #[test]
    fn the_first_reader_outlives_the_second() {
        let (writer, first, second) = relay();
        drop(second);
        for _ in 0..3 * DEPTH {
            assert!(writer.send(writer.buffer()));
            first.give_back(first.next_buffer().unwrap());
        }
    }

    #[test]
    fn a_used_buffer_is_cut_to_what_it_holds_now() {
        let mut buffer = vec![7; BUFFER_SIZE];
        assert!(!fill(&mut &b"abc"[..], &mut buffer).unwrap());
        assert_eq!(buffer, b"abc");
    }

    #[test]
    fn a_writer_learns_that_nobody_reads() {
        let (writer, reader) = pipe();
        drop(reader);
        assert!(!writer.send(writer.buffer()));
    }

    #[test]
    fn a_source_that_fails_says_so() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        assert_eq!(fill(&mut Fails, &mut Vec::new()).unwrap_err().to_string(), "broken");
    }
}
