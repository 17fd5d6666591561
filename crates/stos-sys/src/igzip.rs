// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Intel's igzip (ISA-L), which inflates a third faster than what is written in Rust: built in with the feature `isal`.

use std::fmt;

use isal_sys::igzip_lib as igzip;

/// Inflates gzip members (RFC 1952), with their headers and checksums.
pub struct Inflater {
    /// Some 90 KiB, with what was put out last: later bytes refer to it.
    state: Box<igzip::inflate_state>,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes that were taken of the input.
    pub taken: usize,
    /// Bytes that were put into the output.
    pub put: usize,
    /// Whether the member has ended, and its checksum was right.
    pub is_end: bool,
}

/// What igzip says of a stream that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// No member begins here.
    #[error("invalid gzip header")]
    Header,
    /// The deflated data are broken.
    #[error("corrupt deflate stream")]
    Data,
    /// The data are not those that were compressed.
    #[error("wrong checksum of a gzip member")]
    Checksum,
}

impl Inflater {
    /// Begins with a member.
    pub fn new() -> Self {
        let state = Box::<igzip::inflate_state>::new_zeroed();
        // SAFETY: the state is a C struct of integers, arrays of them and pointers, for which zeros are a value.
        let mut state = unsafe { state.assume_init() };
        // SAFETY: the state is ours, and of the size that the function knows.
        unsafe { igzip::isal_inflate_init(&raw mut *state) };
        state.crc_flag = igzip::ISAL_GZIP;
        Self { state }
    }

    /// Begins with the next member.
    pub fn reset(&mut self) {
        // SAFETY: the state was initialized by `new`.
        unsafe { igzip::isal_inflate_reset(&raw mut *self.state) };
        self.state.crc_flag = igzip::ISAL_GZIP;
    }

    /// Takes what it can of `input`, and puts what comes of it into `output`.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, InflateError> {
        let (available, room) = (length(input.len()), length(output.len()));
        let state = &mut *self.state;
        // It is not written to.
        state.next_in = input.as_ptr().cast_mut();
        state.avail_in = available;
        state.next_out = output.as_mut_ptr();
        state.avail_out = room;
        // SAFETY: the state was initialized by `new`; both pointers lead to as many bytes as it is told, and are forgotten below.
        let code = unsafe { igzip::isal_inflate(&raw mut *state) };
        let step = Step {
            taken: (available - state.avail_in) as usize,
            put: (room - state.avail_out) as usize,
            is_end: state.block_state == igzip::isal_block_state_ISAL_BLOCK_FINISH,
        };
        (state.next_in, state.avail_in) = (std::ptr::null_mut(), 0);
        (state.next_out, state.avail_out) = (std::ptr::null_mut(), 0);
        match code {
            0.. => Ok(step),
            igzip::ISAL_INVALID_WRAPPER | igzip::ISAL_UNSUPPORTED_METHOD => Err(InflateError::Header),
            igzip::ISAL_INCORRECT_CHECKSUM => Err(InflateError::Checksum),
            _ => Err(InflateError::Data),
        }
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf hello | gzip -n`.
    const HELLO: [u8; 25] =
        [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36, 5, 0, 0, 0];

    #[test]
    fn a_member_comes_out_whatever_the_steps() {
        let mut inflater = Inflater::new();
        let mut out = [0; 16];
        let whole = Step { taken: HELLO.len(), put: 5, is_end: true };
        assert_eq!((inflater.step(&HELLO, &mut out), &out[..5]), (Ok(whole), &b"hello"[..]));
        inflater.reset();
        let (mut text, mut is_end) = (Vec::new(), false);
        for byte in HELLO {
            let mut rest = &[byte][..];
            while !is_end {
                let mut out = [0; 1];
                let step = inflater.step(rest, &mut out).unwrap();
                text.extend_from_slice(&out[..step.put]);
                rest = &rest[step.taken..];
                is_end = step.is_end;
                if (step.taken, step.put) == (0, 0) {
                    break;
                }
            }
        }
        assert_eq!((text.as_slice(), is_end), (&b"hello"[..], true));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let step = |at: usize, byte: u8| {
            let mut bytes = HELLO;
            bytes[at] = byte;
            Inflater::new().step(&bytes, &mut [0; 16]).unwrap_err()
        };
        assert_eq!((step(0, 0), step(2, 9)), (InflateError::Header, InflateError::Header));
        assert_eq!(step(10, 0xff), InflateError::Data);
        assert_eq!(step(17, 0), InflateError::Checksum);
        assert_eq!(step(21, 6), InflateError::Checksum, "of the length");
    }
}
