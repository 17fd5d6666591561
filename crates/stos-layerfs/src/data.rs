// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data of a layer's files, whichever backend keeps it, and where their holes are.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use stos_erofs::{BLOCK, DataPlace, DataRange};
use stos_spec::DiffId;
use stos_store::files;

use crate::dirs::{Files, Places};
use crate::error::{Error, Result};
use crate::extra::LAYER_EXTRA;
use crate::pipe::is_zero;

/// The grain in which holes are told from data, in bytes: by what the data are, not by where a filesystem has its holes.
const GRAIN: u64 = 4096;
/// A hole below this length is written out: a map of every small one would be longer than what it saves.
const HOLE_MIN: u64 = 64 << 10;
/// How many runs a map has at most; where there are more, larger holes are written out too.
const RUNS_MAX: usize = 16 << 10;

/// What a layer consists of: its index, and the data of its files. Nothing of it stays open, so there may be many.
#[derive(Debug)]
pub struct LayerData {
    layer: DiffId,
    dir: PathBuf,
    /// Of a layer that is unpacked.
    places: Option<Places>,
}

/// The data of a file: a run of a file of the store.
#[derive(Debug)]
pub struct FileData {
    file: File,
    start: u64,
    size: u64,
}

impl LayerData {
    /// One that is kept as `layer.tar` and `layer.extra`.
    pub(crate) fn of_tar(layer: DiffId, dir: PathBuf) -> Self {
        Self { layer, dir, places: None }
    }

    /// One that is unpacked.
    pub(crate) fn of_directory(layer: DiffId, dir: PathBuf, places: Places) -> Self {
        Self { layer, dir, places: Some(places) }
    }

    /// Opens the layer's index.
    pub fn open_index(&self) -> Result<File> {
        Ok(files::open(&self.index_path())?)
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.dir.join("layer.index")
    }

    /// Opens the data of the regular file that is entry `number`; `size`, `place` and `block` are the index's.
    ///
    /// # Errors
    /// Where the layer does not have that file.
    pub fn open_file(&self, number: u64, size: u64, place: DataPlace, block: u64) -> Result<FileData> {
        let (file, start) = match (&self.places, place) {
            (Some(places), _) => (Files::open(&self.dir, places.clone())?.open_file(number)?, 0),
            (None, DataPlace::Tar) => (files::open(&self.dir.join("layer.tar"))?, block * BLOCK),
            (None, DataPlace::Extra) => (files::open(&self.dir.join(LAYER_EXTRA))?, block * BLOCK),
        };
        Ok(FileData { file, start, size })
    }

    /// Says that the data of an entry are not there.
    pub(crate) fn damaged(&self, number: u64, found: &str) -> Error {
        let expected = format!("the data of entry {number}");
        Error::DamagedLayer { layer: self.layer, path: self.dir.clone(), expected, found: found.to_owned() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl FileData {
    /// Gives the data, zeros for holes. What is not there is an error, and no zeros.
    pub fn reader(&self) -> impl Read + '_ {
        RunReader { data: self, at: 0, end: self.size }
    }

    /// Gives the data of `runs`, one after the other.
    pub fn reader_of<'a>(&'a self, runs: &'a [DataRange]) -> impl Read + 'a {
        let reader = |run: &DataRange| RunReader { data: self, at: run.offset, end: run.offset + run.len };
        ChainedReader { runs: runs.iter().map(reader).collect::<Vec<_>>().into_iter(), current: None }
    }

    /// Gives the runs that hold anything but zeros, in order, small holes between them left out; `None` where the file has no
    /// hole worth a map. The same data give the same runs on every filesystem.
    pub fn runs(&self) -> io::Result<Option<Vec<DataRange>>> {
        if self.size < HOLE_MIN {
            return Ok(None);
        }
        let mut runs = Runs::new();
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < self.size {
            let Some((data, hole)) = self.next_stored(at)? else { break };
            // Every grain that any of it lies in.
            let begin = (data / GRAIN * GRAIN).max(at);
            let end = hole.next_multiple_of(GRAIN).min(self.size);
            self.scan(begin, end, &mut buffer, &mut runs)?;
            at = end;
        }
        let runs = runs.runs;
        let is_dense = match runs.as_slice() {
            [run] => run.offset == 0 && self.size - run.len < HOLE_MIN,
            _ => false,
        };
        Ok((!is_dense).then_some(runs))
    }

    /// Gives the next part from `at` on that the filesystem stores, as offsets within the data; `None` where there is none.
    fn next_stored(&self, at: u64) -> io::Result<Option<(u64, u64)>> {
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(self.start + at)) {
            Err(Errno::NXIO) => return Ok(None),
            // The filesystem does not tell.
            Err(Errno::INVAL) => return Ok(Some((at, self.size))),
            data => data? - self.start,
        };
        if data >= self.size {
            return Ok(None);
        }
        let hole = match rustix::fs::seek(&self.file, SeekFrom::Hole(self.start + data)) {
            Err(Errno::NXIO) => self.size,
            hole => hole? - self.start,
        };
        Ok(Some((data, hole.clamp(data + 1, self.size))))
    }

    /// Looks at the grains between two places.
    fn scan(&self, begin: u64, end: u64, buffer: &mut Vec<u8>, runs: &mut Runs) -> io::Result<()> {
        let mut at = begin;
        while at < end {
            let count = (end - at).min(64 * GRAIN);
            buffer.resize(count as usize, 0);
            self.file.read_exact_at(buffer, self.start + at)?;
            for (grain, bytes) in buffer.chunks(GRAIN as usize).enumerate() {
                if !is_zero(bytes) {
                    let offset = at + grain as u64 * GRAIN;
                    runs.add(offset, offset + bytes.len() as u64);
                }
            }
            at += count;
        }
        Ok(())
    }
}

/// Runs of data in the making.
struct Runs {
    runs: Vec<DataRange>,
    hole_min: u64,
}

impl Runs {
    fn new() -> Self {
        Self { runs: Vec::new(), hole_min: HOLE_MIN }
    }

    fn add(&mut self, start: u64, end: u64) {
        join(&mut self.runs, start, end, self.hole_min);
        if self.runs.len() > RUNS_MAX {
            self.hole_min *= 4;
            let all = std::mem::take(&mut self.runs);
            all.iter().for_each(|run| join(&mut self.runs, run.offset, run.offset + run.len, self.hole_min));
        }
    }
}

/// Adds a run, and with it the hole before where that is too small to count.
fn join(runs: &mut Vec<DataRange>, start: u64, end: u64, hole_min: u64) {
    match runs.last_mut() {
        Some(last) if start < last.offset + last.len + hole_min => last.len = end - last.offset,
        None if start < hole_min => runs.push(DataRange { offset: 0, len: end }),
        _ => runs.push(DataRange { offset: start, len: end - start }),
    }
}

/// Reads the data from `at` to `end`.
struct RunReader<'a> {
    data: &'a FileData,
    at: u64,
    end: u64,
}

impl Read for RunReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = into.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        match self.data.file.read_at(&mut into[..wanted], self.data.start + self.at)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.at += count as u64;
                Ok(count)
            }
        }
    }
}

struct ChainedReader<'a> {
    runs: std::vec::IntoIter<RunReader<'a>>,
    current: Option<RunReader<'a>>,
}

impl Read for ChainedReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(current) = &mut self.current {
                let count = current.read(into)?;
                if count > 0 || into.is_empty() {
                    return Ok(count);
                }
            }
            match self.runs.next() {
                Some(next) => self.current = Some(next),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `size` bytes with data at `places`, stored with holes or without, its data from `start` on.
    fn data(size: u64, places: &[u64], is_sparse: bool, start: u64) -> FileData {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.set_len(start + size).unwrap();
        if !is_sparse {
            file.write_all_at(&vec![0; (start + size) as usize], 0).unwrap();
        }
        places.iter().for_each(|&at| file.write_all_at(b"x", start + at).unwrap());
        FileData { file, start, size }
    }

    #[test]
    fn runs_follow_from_the_data_alone() {
        let size = (1 << 20) + 100;
        let places = [5000, 300_000, 304_000, 900_000, size - 1];
        let expected = [
            DataRange { offset: 0, len: 8192 },
            DataRange { offset: 299_008, len: 8192 },
            DataRange { offset: 897_024, len: 4096 },
            DataRange { offset: 1 << 20, len: 100 },
        ];
        for (is_sparse, start) in [(true, 0), (false, 0), (true, 512), (false, 512), (true, 7 * 512)] {
            let data = data(size, &places, is_sparse, start);
            let runs = data.runs().unwrap().unwrap();
            assert_eq!(runs, expected, "{is_sparse} {start}");
            let mut bytes = Vec::new();
            data.reader_of(&runs).read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, runs.iter().map(|run| run.len).sum::<u64>());
            assert_eq!(bytes.iter().filter(|&&byte| byte == b'x').count(), places.len());
        }
        assert_eq!(data(1 << 20, &[], true, 0).runs().unwrap().unwrap(), []);
        assert_eq!(data(1 << 20, &[(1 << 20) - 70_000, 70_000, 140_000], true, 0).runs().unwrap().unwrap().len(), 3);
        // Not worth a map.
        assert_eq!(data(60_000, &[], true, 0).runs().unwrap(), None);
        let full: Vec<u64> = (0..16).map(|grain| grain * 65_536).collect();
        assert_eq!(data(1 << 20, &full, true, 0).runs().unwrap(), None);
    }

    #[test]
    fn many_small_runs_become_few() {
        let mut runs = Runs::new();
        for number in 0..100_000_u64 {
            runs.add(number * 80_000, number * 80_000 + 4096);
        }
        assert!(runs.runs.len() <= RUNS_MAX, "{}", runs.runs.len());
        let last = runs.runs.last().unwrap();
        assert_eq!(last.offset + last.len, 99_999 * 80_000 + 4096);
    }

    #[test]
    fn data_that_are_not_there_are_no_zeros() {
        let mut short = data(10, &[1], true, 0);
        short.size = 20;
        let error = short.reader().read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
