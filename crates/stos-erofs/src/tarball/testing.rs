// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A builder of odd and hostile tars, and what tests do with them.

use std::io;

use crate::{
    DataPlace, Entry, EntryKind, IndexReader, LayerInput, Result, TarIndexer, TarProblem, TarSink, assemble_tar,
    index_tar,
};

/// One `length key=value\n` record of a PAX header.
pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = 3 + key.len() + value.len();
    let mut len = body;
    while body + len.to_string().len() != len {
        len = body + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A tar in the making.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Appends a ustar header with a right checksum after `edit` has changed what it wants; mode 0644, mtime 1000.
    pub(crate) fn header(mut self, name: &str, type_flag: u8, size: u64, edit: impl FnOnce(&mut tar::Header)) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(type_flag));
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(1000);
        header.set_uid(0);
        header.set_gid(0);
        edit(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    /// Appends data and padding.
    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &str) -> Self {
        self.header(name, b'0', data.len() as u64, |_| {}).data(data.as_bytes())
    }

    pub(crate) fn directory(self, name: &str, mode: u32) -> Self {
        self.header(name, b'5', 0, |header| header.set_mode(mode))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.link(name, b'2', target)
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(name, b'1', target)
    }

    fn link(self, name: &str, type_flag: u8, target: &str) -> Self {
        self.header(name, type_flag, 0, |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    pub(crate) fn device(self, name: &str, type_flag: u8, major: u32, minor: u32) -> Self {
        self.header(name, type_flag, 0, |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.header("PaxHeaders.0/x", b'x', data.len() as u64, |_| {}).data(&data)
    }

    /// Appends a GNU long name (`L`) or link (`K`).
    pub(crate) fn gnu_long(self, type_flag: u8, name: &[u8]) -> Self {
        self.header("././@LongLink", type_flag, name.len() as u64 + 1, |_| {}).data(&[name, b"\0"].concat())
    }

    pub(crate) fn end(mut self) -> Self {
        self.0.resize(self.0.len() + 1024, 0);
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn index(&self) -> Result<Vec<u8>> {
        index_tar(&*self.0, Vec::new()).map(|(index, _)| index)
    }

    /// The layer of that tar, tagged with a number.
    pub(crate) fn layer(&self, tag: u8) -> LayerInput {
        LayerInput { tag: [tag; 32], tar_bytes: self.0.len() as u64, extra_bytes: self.extra_bytes() }
    }

    pub(crate) fn extra_bytes(&self) -> u64 {
        index_tar(&*self.0, Vec::new()).map_or(0, |(_, summary)| summary.extra_bytes)
    }

    pub(crate) fn entries(&self) -> Result<Vec<Entry>> {
        entries(&self.index()?)
    }

    /// The problem that indexing must end with, and the entry that it must name.
    pub(crate) fn problem(&self) -> (String, TarProblem) {
        match self.index().unwrap_err() {
            crate::Error::Tar { entry, problem, .. } => (entry, problem),
            other => panic!("not a tar's problem: {other}"),
        }
    }

    /// Indexes in pieces of that length.
    pub(crate) fn index_in_pieces(&self, len: usize) -> Result<Vec<u8>> {
        let mut indexer = TarIndexer::new(Vec::new());
        self.0.chunks(len).try_for_each(|piece| indexer.push(piece))?;
        indexer.finish().map(|indexed| indexed.out)
    }
}

pub(crate) fn entries(index: &[u8]) -> Result<Vec<Entry>> {
    let mut reader = IndexReader::new(index)?;
    std::iter::from_fn(|| reader.next_entry().transpose()).collect()
}

/// Keeps everything that it is given.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Kept {
    pub(crate) raw: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// By the entry's number: where its data belong, and what they are, neighbours joined.
    pub(crate) data: Vec<Vec<(u64, Vec<u8>)>>,
}

impl TarSink for Kept {
    fn entry(&mut self, number: u64, entry: &Entry) -> io::Result<()> {
        assert_eq!(number, self.entries.len() as u64);
        self.entries.push(entry.clone());
        self.data.push(Vec::new());
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(!bytes.is_empty());
        let runs = self.data.last_mut().unwrap();
        match runs.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == offset => run.extend_from_slice(bytes),
            _ => runs.push((offset, bytes.to_vec())),
        }
        Ok(())
    }

    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        assert!(!bytes.is_empty());
        self.raw.extend_from_slice(bytes);
        Ok(())
    }
}

impl Kept {
    /// Takes a tar apart that comes in pieces of that length.
    pub(crate) fn of(tar: &[u8], len: usize) -> Self {
        let mut indexer = TarIndexer::with_sink(Vec::new(), Self::default());
        tar.chunks(len).try_for_each(|piece| indexer.push(piece)).unwrap();
        let indexed = indexer.finish().unwrap();
        assert_eq!(indexed.sink.entries, entries(&indexed.out).unwrap());
        indexed.sink
    }

    pub(crate) fn assemble(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let len =
            assemble_tar(&*self.raw, &mut out, |number, offset, len, to| to.write_all(self.at(number, offset, len)));
        assert_eq!(len.unwrap(), out.len() as u64);
        out
    }

    /// The extra file of that length.
    pub(crate) fn extra(&self, len: u64) -> Vec<u8> {
        let mut extra = vec![0; len as usize];
        for (entry, runs) in self.entries.iter().zip(&self.data) {
            if let EntryKind::Regular { place: DataPlace::Extra, block, .. } = entry.kind {
                for (offset, run) in runs {
                    extra[(block * 512 + offset) as usize..][..run.len()].copy_from_slice(run);
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
