// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Buffers that go from one thread to the next and back: bounded, reused, copied nowhere.

use std::io::{self, BufRead, Read};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

/// The size of a buffer in bytes: large enough that a hand-over costs nothing beside its bytes.
pub(crate) const BUFFER_SIZE: usize = 256 << 10;
/// How many buffers may wait between two threads: enough to smooth bursts, and a bound on memory.
const DEPTH: usize = 4;

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

impl PipeWriter {
    /// Gives an empty buffer: a used one where there is one. Its length is 0, its capacity [`BUFFER_SIZE`].
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER_SIZE))
    }

    /// Hands a buffer on, waiting for room. `false` says that nobody reads any more.
    pub(crate) fn send(&self, buffer: Vec<u8>) -> bool {
        self.full.send(buffer).is_ok()
    }
}

impl PipeReader {
    /// Takes the next buffer whole; `None` at the end.
    pub(crate) fn next_buffer(&mut self) -> Option<Vec<u8>> {
        self.full.recv().ok()
    }

    /// Gives a buffer back for reuse.
    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        // A writer that has gone needs no buffers.
        let _ = self.empty.send(buffer);
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

/// Fills `buffer` up to [`BUFFER_SIZE`] or the end of `source`; tells whether the source may have more.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_buffers_come_back() {
        let (writer, mut reader) = pipe();
        let text: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
        let received = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut source = text.as_slice();
                let writer = writer;
                loop {
                    let mut buffer = writer.buffer();
                    let more = fill(&mut source, &mut buffer).unwrap();
                    assert!(writer.send(buffer));
                    if !more {
                        break;
                    }
                }
            });
            let mut received = Vec::new();
            reader.read_to_end(&mut received).unwrap();
            received
        });
        assert!(received == text);
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
