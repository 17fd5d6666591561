// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A builder of odd and hostile tars, and what tests do with them.

use crate::{Entry, IndexReader, LayerInput, Result, TarIndexer, TarProblem, index_tar};

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

    fn extra_bytes(&self) -> u64 {
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
