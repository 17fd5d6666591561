// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two SHA-256 at a time: that of a blob, and that of the layer in it.

use stos_spec::DigestHasher;
use stos_sys::sha256::{BLOCK, INITIAL, Sha256Unit, State};

/// Computes the SHA-256 of two streams from pieces of both.
pub(crate) enum TwoHashers {
    /// In turn, by the processor's instructions.
    Together(Sha256Unit, [Lane; 2]),
    /// One after the other.
    Apart([DigestHasher; 2]),
}

impl Default for TwoHashers {
    fn default() -> Self {
        Sha256Unit::detect().map_or_else(Self::apart, |unit| Self::Together(unit, [Lane::default(), Lane::default()]))
    }
}

impl TwoHashers {
    fn apart() -> Self {
        Self::Apart([DigestHasher::default(), DigestHasher::default()])
    }

    /// Takes the next piece of each; either may be empty. Pieces of one length, in whole blocks, are the fastest.
    pub(crate) fn update(&mut self, pieces: [&[u8]; 2]) {
        match self {
            Self::Together(unit, lanes) => {
                let [one, other] = lanes;
                let [piece, other_piece] =
                    [one.complete_block(*unit, pieces[0]), other.complete_block(*unit, pieces[1])];
                let taken = unit.compress([&mut one.state, &mut other.state], [piece, other_piece]);
                one.take_rest(*unit, &piece[taken..]);
                other.take_rest(*unit, &other_piece[taken..]);
            }
            Self::Apart(hashers) => {
                for (hasher, piece) in hashers.iter_mut().zip(pieces) {
                    hasher.update(piece);
                }
            }
        }
    }

    /// Gives the 32 bytes of each digest.
    pub(crate) fn finish(self) -> [[u8; 32]; 2] {
        match self {
            Self::Together(unit, lanes) => lanes.map(|lane| lane.finish(unit)),
            Self::Apart(hashers) => hashers.map(DigestHasher::finish),
        }
    }
}

/// A SHA-256 on its way.
pub(crate) struct Lane {
    state: State,
    /// What has come of a block that is not whole.
    partial: [u8; BLOCK],
    /// How many bytes have come.
    length: u64,
}

impl Default for Lane {
    fn default() -> Self {
        Self { state: INITIAL, partial: [0; BLOCK], length: 0 }
    }
}

impl Lane {
    fn partial_length(&self) -> usize {
        (self.length % BLOCK as u64) as usize
    }

    /// Takes what makes a begun block whole, and gives the rest, which is still to be taken but is counted by now.
    fn complete_block<'a>(&mut self, unit: Sha256Unit, piece: &'a [u8]) -> &'a [u8] {
        let begun = self.partial_length();
        self.length += piece.len() as u64;
        if begun == 0 {
            return piece;
        }
        let (head, rest) = piece.split_at(piece.len().min(BLOCK - begun));
        self.partial[begun..][..head.len()].copy_from_slice(head);
        if begun + head.len() == BLOCK {
            unit.compress([&mut self.state], [&self.partial]);
        }
        rest
    }

    /// Takes what is left of a piece, from the start of a block.
    fn take_rest(&mut self, unit: Sha256Unit, piece: &[u8]) {
        let taken = unit.compress([&mut self.state], [piece]);
        let rest = &piece[taken..];
        self.partial[..rest.len()].copy_from_slice(rest);
    }

    /// Pads what has come (FIPS 180-4 §5.1.1).
    fn finish(mut self, unit: Sha256Unit) -> [u8; 32] {
        let begun = self.partial_length();
        let mut end = [0; 2 * BLOCK];
        end[..begun].copy_from_slice(&self.partial[..begun]);
        end[begun] = 0x80;
        let length = if begun + 1 + size_of::<u64>() <= BLOCK { BLOCK } else { 2 * BLOCK };
        end[length - size_of::<u64>()..length].copy_from_slice(&(self.length * 8).to_be_bytes());
        unit.compress([&mut self.state], [&end[..length]]);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn noise(length: usize, seed: u32) -> Vec<u8> {
        (0..length as u32).map(|at| ((at ^ seed).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    /// Both ways, whichever the processor has.
    fn all() -> impl Iterator<Item = TwoHashers> {
        [TwoHashers::default(), TwoHashers::apart()].into_iter()
    }

    #[test]
    fn every_length_has_its_digest() {
        let bytes = noise(300, 1);
        for length in 0..=bytes.len() {
            for mut hashers in all() {
                hashers.update([&bytes[..length], &bytes[length..]]);
                let expected: [[u8; 32]; 2] = [&bytes[..length], &bytes[length..]].map(|it| Sha256::digest(it).into());
                assert_eq!(hashers.finish(), expected, "{length}");
            }
        }
    }

    #[test]
    fn pieces_of_any_lengths_are_one_stream() {
        let streams = [noise(70_000, 2), noise(90_001, 3)];
        let expected: [[u8; 32]; 2] = [Sha256::digest(&streams[0]).into(), Sha256::digest(&streams[1]).into()];
        for sizes in [[1, 1], [64, 64], [63, 65], [0, 7], [4096, 1], [1000, 4096], [1 << 20, 1 << 20]] {
            for mut hashers in all() {
                let mut rests = [&streams[0][..], &streams[1][..]];
                while rests.iter().any(|rest| !rest.is_empty()) {
                    let mut pieces = [&[][..]; 2];
                    for ((piece, rest), size) in pieces.iter_mut().zip(&mut rests).zip(sizes) {
                        // A stream of no pieces comes when the other is over.
                        let size = if size == 0 { usize::MAX } else { size };
                        (*piece, *rest) = rest.split_at(rest.len().min(size));
                    }
                    hashers.update(pieces);
                }
                assert_eq!(hashers.finish(), expected, "{sizes:?}");
            }
        }
    }
}
