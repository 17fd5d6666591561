// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SHA-256 of several streams at a time, by the processor's instructions for it.
//!
//! An instruction of SHA-256 waits for the one before it of the same stream: two streams in turn take hardly longer than one. Where the
//! processor has no such instructions, or is no x86-64, there is no [`Sha256Unit`], and each stream is hashed by itself.

/// What a SHA-256 has come to after a number of whole blocks.
pub type State = [u32; 8];

/// How many bytes a block has (FIPS 180-4 §5.2.1).
pub const BLOCK: usize = 64;

/// Where every SHA-256 begins (FIPS 180-4 §5.3.3).
pub const INITIAL: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The processor's instructions for SHA-256; whoever has this may use them.
#[derive(Debug, Clone, Copy)]
pub struct Sha256Unit(Found);

#[cfg(target_arch = "x86_64")]
type Found = ();
#[cfg(not(target_arch = "x86_64"))]
type Found = std::convert::Infallible;

impl Sha256Unit {
    /// Finds the instructions; `None` where the processor has none.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("sha") && std::arch::is_x86_feature_detected!("sse4.1") {
            return Some(Self(()));
        }
        None
    }

    /// Takes the next blocks of each stream: as many whole ones as the shortest of `bytes` has. Gives the number of bytes taken of each.
    pub fn compress<const N: usize>(self, states: [&mut State; N], bytes: [&[u8]; N]) -> usize {
        let blocks = bytes.map(|bytes| bytes.as_chunks::<BLOCK>().0);
        let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` has found the instructions, and only it makes one of this.
        unsafe {
            x86::compress(states, blocks.map(|blocks| &blocks[..count]));
        }
        #[cfg(not(target_arch = "x86_64"))]
        match (self.0, states) {}
        count * BLOCK
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi64x,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
        _mm_storeu_si128,
    };

    use super::{BLOCK, State};

    /// The constants of the rounds (FIPS 180-4 §4.2.2), four for each step.
    const ROUNDS: [[u32; 4]; 16] = [
        [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
        [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
        [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
        [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
        [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
        [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
        [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
        [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
        [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
        [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
        [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
        [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
        [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
        [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
        [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
        [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
    ];

    /// The same number of blocks of each stream.
    #[target_feature(enable = "sha,sse4.1")]
    pub(super) fn compress<const N: usize>(states: [&mut State; N], blocks: [&[[u8; BLOCK]]; N]) {
        let mut halves = [[_mm_set_epi64x(0, 0); 2]; N];
        for (half, state) in halves.iter_mut().zip(&states) {
            *half = load_state(state);
        }
        for at in 0..blocks.first().map_or(0, |blocks| blocks.len()) {
            let before = halves;
            let mut words = [[_mm_set_epi64x(0, 0); 4]; N];
            for (words, blocks) in words.iter_mut().zip(&blocks) {
                *words = load_block(&blocks[at]);
            }
            // Written out: the registers that a step uses must be known to the compiler.
            step::<N, 0>(&mut halves, &mut words);
            step::<N, 1>(&mut halves, &mut words);
            step::<N, 2>(&mut halves, &mut words);
            step::<N, 3>(&mut halves, &mut words);
            step::<N, 4>(&mut halves, &mut words);
            step::<N, 5>(&mut halves, &mut words);
            step::<N, 6>(&mut halves, &mut words);
            step::<N, 7>(&mut halves, &mut words);
            step::<N, 8>(&mut halves, &mut words);
            step::<N, 9>(&mut halves, &mut words);
            step::<N, 10>(&mut halves, &mut words);
            step::<N, 11>(&mut halves, &mut words);
            step::<N, 12>(&mut halves, &mut words);
            step::<N, 13>(&mut halves, &mut words);
            step::<N, 14>(&mut halves, &mut words);
            step::<N, 15>(&mut halves, &mut words);
            for (half, before) in halves.iter_mut().zip(before) {
                *half = [_mm_add_epi32(half[0], before[0]), _mm_add_epi32(half[1], before[1])];
            }
        }
        for (state, half) in states.into_iter().zip(halves) {
            store_state(state, half);
        }
    }

    /// Four rounds of each stream, in turn. `words` holds the last 16 words of the message schedule (FIPS 180-4 §6.2.2).
    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn step<const N: usize, const STEP: usize>(halves: &mut [[__m128i; 2]; N], words: &mut [[__m128i; 4]; N]) {
        let constants = load_words(&ROUNDS[STEP]);
        let mut sums = [constants; N];
        for (sum, words) in sums.iter_mut().zip(words.iter_mut()) {
            let [now, next, third, last] = [0, 1, 2, 3].map(|after| (STEP + after) % 4);
            if STEP >= 4 {
                let partial = _mm_sha256msg1_epu32(words[now], words[next]);
                let partial = _mm_add_epi32(partial, _mm_alignr_epi8::<4>(words[last], words[third]));
                words[now] = _mm_sha256msg2_epu32(partial, words[last]);
            }
            *sum = _mm_add_epi32(words[now], constants);
        }
        for (half, sum) in halves.iter_mut().zip(&sums) {
            half[1] = _mm_sha256rnds2_epu32(half[1], half[0], *sum);
        }
        for (half, sum) in halves.iter_mut().zip(&sums) {
            half[0] = _mm_sha256rnds2_epu32(half[0], half[1], _mm_shuffle_epi32::<0x0e>(*sum));
        }
    }

    /// The state as the instructions want it: the words A, B, E, F in one register, C, D, G, H in the other, the first one uppermost.
    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn load_state(state: &State) -> [__m128i; 2] {
        let [low, high] = halves_of(state);
        let cdab = _mm_shuffle_epi32::<0xb1>(load_words(low));
        let efgh = _mm_shuffle_epi32::<0x1b>(load_words(high));
        [_mm_alignr_epi8::<8>(cdab, efgh), _mm_blend_epi16::<0xf0>(efgh, cdab)]
    }

    /// The reverse.
    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn store_state(state: &mut State, [abef, cdgh]: [__m128i; 2]) {
        let feba = _mm_shuffle_epi32::<0x1b>(abef);
        let dchg = _mm_shuffle_epi32::<0xb1>(cdgh);
        let words = [_mm_blend_epi16::<0xf0>(feba, dchg), _mm_alignr_epi8::<8>(dchg, feba)];
        for (half, words) in state.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            // SAFETY: it is 16 bytes, and the instruction wants no alignment.
            unsafe { _mm_storeu_si128(half.as_mut_ptr().cast(), words) };
        }
    }

    /// A block's 16 words, which are big-endian.
    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn load_block(block: &[u8; BLOCK]) -> [__m128i; 4] {
        let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let mut words = [order; 4];
        for (words, bytes) in words.iter_mut().zip(block.as_chunks::<16>().0) {
            // SAFETY: it is 16 bytes, and the instruction wants no alignment.
            *words = _mm_shuffle_epi8(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }, order);
        }
        words
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn load_words(words: &[u32; 4]) -> __m128i {
        // SAFETY: it is 16 bytes, and the instruction wants no alignment.
        unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
    }

    fn halves_of(state: &State) -> [&[u32; 4]; 2] {
        let (halves, _) = state.as_chunks::<4>();
        [&halves[0], &halves[1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4's example of two blocks, "abcdbcde…", padded by hand.
    fn two_blocks() -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..56].copy_from_slice(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq");
        bytes[56] = 0x80;
        bytes[126..].copy_from_slice(&448_u16.to_be_bytes());
        bytes
    }

    const TWO_BLOCKS: State =
        [0x248d_6a61, 0xd206_38b8, 0xe5c0_2693, 0x0c3e_6039, 0xa33c_e459, 0x64ff_2167, 0xf6ec_edd4, 0x19db_06c1];

    /// The instructions; a processor that says that it has them is believed.
    #[expect(clippy::print_stderr, reason = "a test that cannot run says why")]
    fn unit() -> Option<Sha256Unit> {
        let unit = Sha256Unit::detect();
        let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        assert_eq!(unit.is_some(), processors.contains(" sha_ni"));
        if unit.is_none() {
            eprintln!("not tested: this processor has no instructions for SHA-256 that stos uses");
        }
        unit
    }

    #[test]
    fn one_stream_and_several_come_to_the_digest_of_the_standard() {
        let Some(unit) = unit() else { return };
        let bytes = two_blocks();
        let mut alone = INITIAL;
        assert_eq!(unit.compress([&mut alone], [&bytes]), 128);
        assert_eq!(alone, TWO_BLOCKS);
        let (mut one, mut other, mut third) = (INITIAL, INITIAL, INITIAL);
        assert_eq!(unit.compress([&mut one, &mut other], [&bytes, &bytes[..64]]), 64, "the shortest counts");
        assert_eq!(one, other);
        assert_ne!(one, TWO_BLOCKS);
        assert_eq!(unit.compress([&mut one, &mut third], [&bytes[64..], &[7; 100]]), 64);
        assert_eq!(one, TWO_BLOCKS);
        assert_ne!(third, other);
    }

    #[test]
    fn less_than_a_block_is_left() {
        let Some(unit) = unit() else { return };
        let mut state = INITIAL;
        assert_eq!(unit.compress([&mut state], [&[1; 63]]), 0);
        assert_eq!(unit.compress([&mut state, &mut INITIAL.clone()], [&[1; 640], &[]]), 0);
        assert_eq!(state, INITIAL);
    }
}
