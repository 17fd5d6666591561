// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The map of a sparse file, PAX format 1.0 (GNU tar manual, "Storing Sparse Files").

use crate::BLOCK;
use crate::MAX_SPARSE_MAP;
use crate::error::TarProblem;

/// A run of a sparse file's data; what lies between runs are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRange {
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes, not 0; a multiple of 512 in all runs but the last.
    pub len: u64,
}

/// Writes the map that stands before the data, padded to whole blocks: decimal lines, the number of runs, then offset and
/// length of each. Gives the map, and the length of all data.
///
/// A file that ends in a hole gets a run of no bytes at its end: GNU tar takes the file's length from there.
pub(super) fn encode(size: u64, ranges: &[DataRange]) -> Result<(Vec<u8>, u64), TarProblem> {
    let refuse = |reason| TarProblem::Unwritable { reason };
    let (mut end, mut data_len) = (0, 0);
    let mut lines = String::new();
    for (at, range) in ranges.iter().enumerate() {
        // GNU tar begins each run on a block of the archive, others put one after the other.
        if range.len % BLOCK != 0 && at + 1 < ranges.len() {
            return Err(refuse("a run of its data is not of whole blocks"));
        }
        if range.len == 0 || range.offset < end {
            return Err(refuse("the runs of its data are empty or not in order"));
        }
        end = match range.offset.checked_add(range.len) {
            Some(end) if end <= size => end,
            _ => return Err(refuse("a run of its data ends behind the file")),
        };
        data_len += range.len;
        lines.push_str(&format!("{}\n{}\n", range.offset, range.len));
    }
    let ends_in_hole = end < size || ranges.is_empty();
    if ends_in_hole {
        lines.push_str(&format!("{size}\n0\n"));
    }
    let mut map = format!("{}\n{lines}", ranges.len() + usize::from(ends_in_hole)).into_bytes();
    if map.len() as u64 > MAX_SPARSE_MAP {
        return Err(refuse("more runs of data than a reader takes"));
    }
    map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
    Ok((map, data_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(offset: u64, len: u64) -> DataRange {
        DataRange { offset, len }
    }

    #[test]
    fn maps_are_whole_blocks_and_end_where_the_file_does() {
        let cases: &[(u64, &[DataRange], &str, u64)] = &[
            (0, &[], "1\n0\n0\n", 0),
            (100, &[], "1\n100\n0\n", 0),
            (100, &[run(0, 100)], "1\n0\n100\n", 100),
            (2000, &[run(0, 512), run(1990, 10)], "2\n0\n512\n1990\n10\n", 522),
            (100, &[run(10, 20)], "2\n10\n20\n100\n0\n", 20),
        ];
        for (size, ranges, expected, data) in cases {
            let (map, data_len) = encode(*size, ranges).unwrap();
            assert_eq!((map.len() % 512, data_len), (0, *data));
            assert_eq!(std::str::from_utf8(&map).unwrap().trim_end_matches('\0'), *expected);
        }
        for ranges in [
            &[run(0, 0)][..],
            &[run(5, 512), run(516, 1)],
            &[run(0, 5), run(9, 1)],
            &[run(999, 2)],
            &[run(u64::MAX, 2)],
        ] {
            assert!(matches!(encode(1000, ranges), Err(TarProblem::Unwritable { .. })), "{ranges:?}");
        }
    }
}
