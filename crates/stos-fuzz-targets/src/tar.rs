// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Layers, as tars.

use std::io;

use stos_erofs::{BLOCK, DataPlace, Entry, EntryKind, IndexReader, TarIndexer, TarSink, assemble_tar, index_tar};

use crate::check_message;

/// Indexes a layer: four bytes say how, what follows is the tar. Where the first is odd every header that looks like one
/// gets its right checksum, which no fuzzer finds by itself; the others are the lengths of the pieces that it comes in.
///
/// Whole or in pieces, the tar gives one index or one error. The index reads back as the entries that the sink was given,
/// is not longer than the tar, and every byte of the tar goes to the sink once: of what it kept the tar can be made again.
pub fn tar_index(data: &[u8]) {
    let Some((tar, lengths)) = tar_of(data) else { return };
    match (index_tar(&*tar, Vec::new()), in_pieces(&tar, lengths)) {
        (Ok((index, summary)), Ok((pieces, kept))) => {
            assert!(index == pieces, "another index");
            assert_eq!(summary.tar_bytes, tar.len() as u64);
            assert!(index.len() <= tar.len() + 64, "{} bytes of index", index.len());
            let mut reader = IndexReader::new(&*index).unwrap();
            let entries: Vec<_> =
                std::iter::from_fn(|| reader.next_entry().transpose()).collect::<Result<_, _>>().unwrap();
            assert_eq!(entries, kept.entries);
            let totals = reader.totals().unwrap();
            assert_eq!((totals.entries, totals.tar_bytes), (summary.entries, summary.tar_bytes));
            assert_eq!(totals.extra_bytes, summary.extra_bytes);
            assert!(kept.assemble() == tar, "another tar");
        }
        (Err(whole), Err(pieces)) => {
            check_message(&whole);
            assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
        }
        (whole, pieces) => panic!("{:?} {:?}", whole.map(|(_, summary)| summary), pieces.map(drop)),
    }
}

/// Gives the tar that an input stands for, and the lengths of its pieces.
pub(crate) fn tar_of(data: &[u8]) -> Option<(Vec<u8>, [usize; 3])> {
    let (how, tar) = data.split_first_chunk::<4>()?;
    let mut tar = tar.to_vec();
    if how[0] % 2 == 1 {
        repair_checksums(&mut tar);
    }
    let lengths = [usize::from(how[1]) + 1, usize::from(how[2]) * 16 + 1, usize::from(how[3]) * 256 + 1];
    Some((tar, lengths))
}

fn repair_checksums(tar: &mut [u8]) {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Gives the index of a tar that comes in pieces, and what a sink was given.
pub(crate) fn in_pieces(tar: &[u8], lengths: [usize; 3]) -> stos_erofs::Result<(Vec<u8>, Kept)> {
    let mut indexer = TarIndexer::with_sink(Vec::new(), Kept::default());
    let (mut rest, mut lengths) = (tar, lengths.into_iter().cycle());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
        indexer.push(piece)?;
        rest = after;
    }
    assert_eq!(indexer.position(), tar.len() as u64);
    let indexed = indexer.finish()?;
    Ok((indexed.out, indexed.sink))
}

/// Keeps everything that it is given.
#[derive(Default)]
pub(crate) struct Kept {
    raw: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// By the entry's number: where its data belong, and what they are, neighbours joined.
    data: Vec<Vec<(u64, Vec<u8>)>>,
}

impl TarSink for Kept {
    fn entry(&mut self, number: u64, entry: &Entry) -> io::Result<()> {
        assert_eq!(number, self.entries.len() as u64);
        self.entries.push(entry.clone());
        self.data.push(Vec::new());
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let runs = self.data.last_mut().unwrap();
        match runs.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == offset => run.extend_from_slice(bytes),
            Some((start, run)) => {
                assert!(*start + (run.len() as u64) < offset, "offsets rise");
                runs.push((offset, bytes.to_vec()));
            }
            None => runs.push((offset, bytes.to_vec())),
        }
        Ok(())
    }

    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.extend_from_slice(bytes);
        Ok(())
    }
}

impl Kept {
    fn assemble(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        let written =
            assemble_tar(&*self.raw, &mut tar, |number, offset, len, to| to.write_all(self.at(number, offset, len)));
        assert_eq!(written.unwrap(), tar.len() as u64);
        tar
    }

    /// Gives the extra file of that length, with the data of sparse files.
    pub(crate) fn extra(&self, len: u64) -> Vec<u8> {
        let mut extra = vec![0; len as usize];
        for (entry, runs) in self.entries.iter().zip(&self.data) {
            if let EntryKind::Regular { place: DataPlace::Extra, block, .. } = entry.kind {
                for (offset, run) in runs {
                    extra[(block * BLOCK + offset) as usize..][..run.len()].copy_from_slice(run);
                }
            }
        }
        extra
    }

    fn at(&self, number: u64, offset: u64, len: u64) -> &[u8] {
        let runs = &self.data[number as usize];
        let (start, run) = runs.iter().rfind(|(start, _)| *start <= offset).unwrap();
        &run[(offset - start) as usize..][..len as usize]
    }
}
