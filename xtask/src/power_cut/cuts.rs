// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the power is cut, and what is on the disk then.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::disk::{Event, Pages, Record};

/// What becomes of writes that no flush has followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unflushed {
    /// All are there.
    Kept,
    /// None is.
    Lost,
    /// Some are, each whole.
    Some,
    /// Of each, some of its sectors of so many bytes are.
    Torn(usize),
}

/// One power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// After so many events.
    pub position: usize,
    /// What the disk does.
    pub unflushed: Unflushed,
    /// What decides where something is left to chance.
    pub seed: u64,
}

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "after event {}, unflushed writes ", self.position)?;
        match self.unflushed {
            Unflushed::Kept => formatter.write_str("kept"),
            Unflushed::Lost => formatter.write_str("lost"),
            Unflushed::Some => write!(formatter, "kept or lost by seed {:#x}", self.seed),
            Unflushed::Torn(sector) => write!(formatter, "torn in sectors of {sector} bytes by seed {:#x}", self.seed),
        }
    }
}

/// Chance that can be repeated: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub struct Chance(u64);

impl Chance {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Puts disks together as cuts leave them. Cuts come in the order of their positions.
pub struct Replay<'a> {
    record: &'a Record,
    durable: Pages,
    /// So many events are in `durable`.
    flushed: usize,
    ignores_flushes: bool,
}

impl<'a> Replay<'a> {
    /// Begins where the log does.
    pub fn new(record: &'a Record) -> Self {
        Self { record, durable: record.base.clone(), flushed: 0, ignores_flushes: false }
    }

    /// A disk that takes flushes and does nothing: of its writes none is ever safe.
    pub fn without_flushes(record: &'a Record) -> Self {
        Self { ignores_flushes: true, ..Self::new(record) }
    }

    /// Writes the disk after a cut to an empty file.
    pub fn write(&mut self, cut: &Cut, file: &File) -> io::Result<()> {
        self.advance(cut.position);
        file.set_len(self.record.size)?;
        self.durable.write_to(file)?;
        let mut chance = Chance::new(cut.seed);
        // Not each cut loses half of them.
        let odds = chance.next() % 4;
        let mut is_kept = || chance.next() % 5 <= odds;
        for event in &self.record.log[self.flushed..cut.position] {
            let Event::Write { offset, bytes } = event else { continue };
            match cut.unflushed {
                Unflushed::Kept => file.write_all_at(bytes, *offset)?,
                Unflushed::Lost => {}
                Unflushed::Some if is_kept() => file.write_all_at(bytes, *offset)?,
                Unflushed::Some => {}
                Unflushed::Torn(sector) => {
                    for (number, part) in bytes.chunks(sector).enumerate().filter(|_| is_kept()) {
                        file.write_all_at(part, offset + (number * sector) as u64)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes over what the last flush before `position` has made durable.
    fn advance(&mut self, position: usize) {
        let log = &self.record.log;
        let last = log[self.flushed..position].iter().rposition(|event| *event == Event::Flush);
        let Some(last) = last.filter(|_| !self.ignores_flushes) else { return };
        let end = self.flushed + last + 1;
        for event in &log[self.flushed..end] {
            if let Event::Write { offset, bytes } = event {
                self.durable.write(*offset, bytes);
            }
        }
        self.flushed = end;
    }
}

/// The cuts of a log: right before each flush and halfway to the next, and right after the return of each command, at one of `returns`.
///
/// What there is right before a flush, with all writes kept, is also what there is right after it, and what there is right before the next
/// one with all of them lost.
///
/// With `quick` these are an even sample of about so many, and all of those after a return.
pub fn choose(log: &[Event], returns: &[usize], seed: u64, quick: Option<usize>) -> Vec<Cut> {
    let mut chance = Chance::new(seed);
    let mut cut = |position, unflushed| Cut { position, unflushed, seed: chance.next() };
    let (first, last) = (returns.first().copied().unwrap_or(0), returns.last().copied().unwrap_or(0));
    let flushes: Vec<usize> = (first..last).filter(|&at| log[at] == Event::Flush).collect();
    let mut spread = Vec::new();
    for (number, &flush) in flushes.iter().enumerate() {
        let next = flushes.get(number + 1).copied().unwrap_or(last);
        let some = [Unflushed::Some, Unflushed::Torn(4096)][number % 2];
        spread.push(cut(flush, Unflushed::Kept));
        spread.push(cut(flush, if number % 8 == 3 { Unflushed::Torn(512) } else { some }));
        let between = (flush + 1).midpoint(next);
        if between > flush + 1 && between < next {
            let kept = [Unflushed::Kept, Unflushed::Torn(4096), Unflushed::Some][number % 3];
            spread.push(cut(between, kept));
        }
    }
    let mut cuts = Vec::new();
    for (number, &position) in returns.iter().enumerate() {
        cuts.push(cut(position, Unflushed::Lost));
        if quick.is_none() {
            cuts.extend([Unflushed::Kept, Unflushed::Some].map(|unflushed| cut(position, unflushed)));
            cuts.push(cut(position, if number % 2 == 0 { Unflushed::Torn(4096) } else { Unflushed::Torn(512) }));
        }
    }
    let wanted = quick.map_or(spread.len(), |wanted| wanted.saturating_sub(cuts.len()).min(spread.len()));
    cuts.extend((0..wanted).map(|number| spread[number * spread.len() / wanted]));
    cuts.sort_by_key(|cut| cut.position);
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64, byte: u8) -> Event {
        Event::Write { offset, bytes: vec![byte; 8192] }
    }

    /// Two writes, a flush, a write over the first, one elsewhere.
    fn record() -> Record {
        let log = vec![write(0, 1), write(8192, 2), Event::Flush, write(0, 3), write(16_384, 4), Event::Flush];
        Record { size: 24_576, base: Pages::default(), log }
    }

    fn disk(replay: &mut Replay<'_>, position: usize, unflushed: Unflushed, seed: u64) -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        replay.write(&Cut { position, unflushed, seed }, &file).unwrap();
        let mut bytes = vec![0; 24_576];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes.chunks(4096).map(|sector| sector[0]).collect()
    }

    #[test]
    fn only_what_no_flush_has_followed_can_be_lost() {
        let record = record();
        let mut replay = Replay::new(&record);
        assert_eq!(disk(&mut replay, 2, Unflushed::Lost, 0), [0; 6]);
        assert_eq!(disk(&mut replay, 2, Unflushed::Kept, 0), [1, 1, 2, 2, 0, 0]);
        assert_eq!(disk(&mut replay, 5, Unflushed::Lost, 0), [1, 1, 2, 2, 0, 0]);
        assert_eq!(disk(&mut replay, 5, Unflushed::Kept, 0), [3, 3, 2, 2, 4, 4]);
        let torn: Vec<_> = (0..100).map(|seed| disk(&mut replay, 5, Unflushed::Torn(4096), seed)).collect();
        assert!(torn.iter().all(|disk| [1, 3].contains(&disk[0]) && disk[2..4] == [2, 2] && [0, 4].contains(&disk[5])));
        assert!(torn.iter().any(|disk| disk[0] != disk[1]), "a write is torn");
        let some: Vec<_> = (0..100).map(|seed| disk(&mut replay, 5, Unflushed::Some, seed)).collect();
        assert!(some.iter().all(|disk| disk[0] == disk[1] && disk[4] == disk[5]));
        assert!(some.iter().any(|disk| disk[0] == 1 && disk[4] == 4), "a later write is there and an earlier one not");
        assert_eq!(some[7], disk(&mut replay, 5, Unflushed::Some, 7), "a seed repeats a cut");
        assert_eq!(disk(&mut replay, 6, Unflushed::Lost, 0), [3, 3, 2, 2, 4, 4]);
    }

    #[test]
    fn a_disk_that_ignores_flushes_loses_what_they_had_covered() {
        let record = record();
        assert_eq!(disk(&mut Replay::without_flushes(&record), 6, Unflushed::Lost, 0), [0; 6]);
    }

    #[test]
    fn a_sample_has_each_return_and_is_spread_over_the_whole() {
        let log: Vec<_> = (0..1000).map(|number| if number % 5 == 4 { Event::Flush } else { write(0, 0) }).collect();
        let returns = [10, 500, 990];
        let all = choose(&log, &returns, 1, None);
        let some = choose(&log, &returns, 1, Some(60));
        assert_eq!(some.len(), 60);
        assert!(
            all.len() > 500 && some.is_sorted_by_key(|cut| cut.position) && all.is_sorted_by_key(|cut| cut.position)
        );
        for position in returns {
            assert!(some.iter().any(|cut| cut.position == position), "{position}");
        }
        assert!(some.iter().filter(|cut| cut.position > 500).count() > 20);
        assert!(some.iter().chain(&all).all(|cut| (10..=990).contains(&cut.position)));
        for at in (14..990).step_by(5) {
            assert!(all.iter().any(|cut| cut.position == at && cut.unflushed == Unflushed::Kept), "{at}");
        }
    }
}
