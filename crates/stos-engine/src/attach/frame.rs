// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames between a monitor and its clients: one byte for the kind, the length of the payload in four bytes, little-endian, and the
//! payload.

use crate::log::Stream;

/// What a payload may hold, in bytes. Longer frames are none.
pub(crate) const FRAME_MAX: usize = 64 << 10;

const HEADER: usize = 5;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// From the monitor, first of all: whether the container has a terminal, and whether its input can be written.
    Hello { tty: bool, input: bool },
    /// From the monitor: output.
    Output(Stream, &'a [u8]),
    /// From the monitor: so many bytes of output were left out here, for the client had not read what came before.
    Skipped(u64),
    /// From the monitor, last of all: how the container has ended, as a shell tells it.
    Exited(i32),
    /// From the client: input.
    Input(&'a [u8]),
    /// From the client: there will be no more input, from anybody.
    EndOfInput,
    /// From the client: rows and columns of its terminal.
    Size(u16, u16),
}

/// Something else than frames came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Frame<'_> {
    /// Appends the frame to `bytes`. Output and input that are too long for one frame become several.
    pub(crate) fn write_to(&self, bytes: &mut Vec<u8>) {
        match *self {
            Self::Hello { tty, input } => push(bytes, b'h', &[u8::from(tty), u8::from(input)]),
            Self::Output(Stream::Stdout, data) => push_all(bytes, b'o', data),
            Self::Output(Stream::Stderr, data) => push_all(bytes, b'e', data),
            Self::Skipped(count) => push(bytes, b's', &count.to_le_bytes()),
            Self::Exited(code) => push(bytes, b'x', &code.to_le_bytes()),
            Self::Input(data) => push_all(bytes, b'i', data),
            Self::EndOfInput => push(bytes, b'c', &[]),
            Self::Size(rows, columns) => {
                let ([r0, r1], [c0, c1]) = (rows.to_le_bytes(), columns.to_le_bytes());
                push(bytes, b'w', &[r0, r1, c0, c1]);
            }
        }
    }
}

fn push_all(bytes: &mut Vec<u8>, kind: u8, data: &[u8]) {
    data.chunks(FRAME_MAX).for_each(|chunk| push(bytes, kind, chunk));
}

fn push(bytes: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or_else(|_| unreachable!("a payload is at most FRAME_MAX long"));
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
}

fn parse(kind: u8, payload: &[u8]) -> Result<Frame<'_>, Malformed> {
    Ok(match (kind, payload) {
        (b'h', &[tty, input]) => Frame::Hello { tty: tty != 0, input: input != 0 },
        (b'o', data) => Frame::Output(Stream::Stdout, data),
        (b'e', data) => Frame::Output(Stream::Stderr, data),
        (b's', count) => Frame::Skipped(u64::from_le_bytes(count.try_into().map_err(|_| Malformed)?)),
        (b'x', code) => Frame::Exited(i32::from_le_bytes(code.try_into().map_err(|_| Malformed)?)),
        (b'i', data) => Frame::Input(data),
        (b'c', []) => Frame::EndOfInput,
        (b'w', &[r0, r1, c0, c1]) => Frame::Size(u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1])),
        _ => return Err(Malformed),
    })
}

/// Takes a stream apart. It holds less than one frame and what was pushed last.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    bytes: Vec<u8>,
    /// Up to here they are taken.
    taken: usize,
}

impl FrameReader {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Gives the next frame that is whole.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, Malformed> {
        let left = &self.bytes[self.taken..];
        let Some((&[kind, l0, l1, l2, l3], rest)) = left.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if length > FRAME_MAX {
            return Err(Malformed);
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        self.taken += HEADER + length;
        parse(kind, payload).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let long = vec![7; FRAME_MAX + 1];
        let frames = [
            Frame::Hello { tty: true, input: false },
            Frame::Output(Stream::Stdout, b"out"),
            Frame::Output(Stream::Stderr, b"err"),
            Frame::Skipped(1 << 40),
            Frame::Input(b""),
            Frame::EndOfInput,
            Frame::Size(24, 80),
            Frame::Exited(-1),
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write_to(&mut bytes));
        // Nothing to say is said by no frame.
        let expected: Vec<_> = frames.iter().filter(|frame| **frame != Frame::Input(b"")).copied().collect();
        for step in [1, 2, 7, bytes.len()] {
            let (mut reader, mut found) = (FrameReader::default(), Vec::new());
            for chunk in bytes.chunks(step) {
                reader.push(chunk);
                while let Some(frame) = reader.next().unwrap() {
                    found.push(format!("{frame:?}"));
                }
            }
            assert_eq!(found, expected.iter().map(|frame| format!("{frame:?}")).collect::<Vec<_>>());
        }
        let mut bytes = Vec::new();
        Frame::Input(&long).write_to(&mut bytes);
        let mut reader = FrameReader::default();
        reader.push(&bytes);
        assert_eq!(reader.next(), Ok(Some(Frame::Input(&long[1..]))));
        assert_eq!(reader.next(), Ok(Some(Frame::Input(&[7]))));
        assert_eq!(reader.next(), Ok(None));
    }

    #[test]
    fn what_is_no_frame_is_told() {
        let bad: [&[u8]; 5] =
            [b"?\0\0\0\0", b"i\x01\0\x01\0", b"i\xff\xff\xff\xff", b"w\x01\0\0\0\0", b"c\x01\0\0\0\0"];
        for bytes in bad {
            let mut reader = FrameReader::default();
            reader.push(bytes);
            assert_eq!(reader.next(), Err(Malformed), "{bytes:?}");
        }
    }
}
