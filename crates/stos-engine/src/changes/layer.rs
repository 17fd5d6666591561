// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The files of a walk as a tar: the layer of a container's changes, or its whole tree.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use rustix::fs::FileType;
use rustix::io::Errno;
use stos_erofs::{DataRange, Entry, EntryKind, Metadata, TarWriter};
use stos_layerfs::BackendKind;
use stos_spec::DiffId;
use stos_spec::text::escape;
use stos_sys::process::user_namespace::IdMappings;

use super::links::{LINKS_MAX, Links};
use super::{Event, Node};
use crate::Engine;
use crate::error::{Error, Result};
use crate::user_namespace::numbered_inside;

/// A hole below this length is written out: a map of every small one would be longer than what it saves, and where the
/// filesystem puts them is its own affair.
const HOLE_MIN: u64 = 64 << 10;
/// How many runs a map has at most; where there are more, larger holes are written out too. A map of 16 Ki always fits what
/// readers take ([`stos_erofs::MAX_SPARSE_MAP`]).
const RANGES_MAX: usize = 16 << 10;

/// How much one EROFS can address, over all its layers: blocks of 512 bytes, counted in 32 bits. A sparse file takes there what its
/// size says.
const EROFS_MAX: u64 = (u32::MAX as u64 - 1) * stos_erofs::BLOCK;

/// Writes what a walk tells of into a tar.
pub(crate) struct TreeWriter<W: Write> {
    tar: TarWriter<W>,
    links: Links,
    /// How many bytes the backend can still address, if there is a limit; each hole counts.
    room: Option<u64>,
    /// The bytes of sparse files so far, holes and all.
    sparse_bytes: u64,
    /// Whether nobody is told of what is left out.
    is_quiet: bool,
    /// Whose numbers owners have; empty for the host's.
    ids: IdMappings,
}

impl<W: Write> TreeWriter<W> {
    /// `tree` is what people call what is written.
    pub(crate) fn new(tar: TarWriter<W>, tree: impl Into<String>, is_quiet: bool) -> Self {
        let ids = IdMappings::default();
        Self { tar, links: Links::new(tree.into(), LINKS_MAX), room: None, sparse_bytes: 0, is_quiet, ids }
    }

    /// Writes the numbers of owners as a user namespace has them: what is read shows those of the host.
    pub(crate) fn with_ids(self, ids: IdMappings) -> Self {
        Self { ids, ..self }
    }

    /// Refuses a sparse file that the backend of new layers could not address on top of `layers`, when it is met.
    pub(crate) fn for_layer_on(mut self, engine: &Engine, layers: &[DiffId]) -> Result<Self> {
        self.room = match engine.layerfs.kind_of_new()? {
            BackendKind::Erofs => Some(EROFS_MAX.saturating_sub(addressed_bytes(engine, layers)?)),
            BackendKind::Dirs => None,
        };
        Ok(self)
    }

    /// Ends the tar.
    pub(crate) fn finish(self) -> Result<W> {
        self.tar.finish().map_err(|source| Error::WriteTar { path: String::new(), source })
    }

    /// Writes what was met.
    pub(crate) fn write(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Entry { path, node, .. } => self.write_node(path, node).map_err(|error| match error {
                Error::Sys(source) => Error::Tree { path: shown(path), source },
                other => other,
            }),
            Event::Opaque { path } => self.append(path, EntryKind::Opaque),
            Event::Deleted { is_hidden: true, .. } => Ok(()),
            Event::Covered { path } => {
                if !self.is_quiet {
                    tracing::warn!(path = shown(path), "something is mounted on the file: left out");
                }
                Ok(())
            }
            Event::Deleted { path, .. } => self.append(path, EntryKind::Whiteout),
        }
    }

    fn write_node(&mut self, path: &[u8], node: &Node) -> Result<()> {
        let metadata = node.metadata_and(&mut |name| {
            if !self.is_quiet {
                let attribute = escape(&name.to_string_lossy()).into_owned();
                tracing::warn!(path = shown(path), attribute, "the attribute cannot be kept in a tar: left out");
            }
        })?;
        let metadata = numbered_inside(metadata, &self.ids);
        if !node.is_directory() && self.write_link(path, node, &metadata)? {
            return Ok(());
        }
        let (major, minor) = node.device();
        let kind = match node.file_type() {
            FileType::RegularFile => return self.write_file(path, node, &metadata),
            FileType::Directory => EntryKind::Directory(metadata),
            FileType::Symlink => EntryKind::Symlink { metadata, target: node.target()? },
            FileType::CharacterDevice => EntryKind::CharacterDevice { metadata, major, minor },
            FileType::BlockDevice => EntryKind::BlockDevice { metadata, major, minor },
            FileType::Fifo => EntryKind::Fifo(metadata),
            _ if self.is_quiet => return Ok(()),
            _ => {
                tracing::warn!(path = shown(path), "a socket cannot be kept in a tar: left out");
                return Ok(());
            }
        };
        self.append(path, kind)
    }

    fn append(&mut self, path: &[u8], kind: EntryKind) -> Result<()> {
        let entry = Entry { path: path.to_vec(), kind };
        self.tar.append(&entry, io::empty()).map_err(failed(path))
    }

    /// Writes a further name of a file that has been written; `false` where this is the first.
    fn write_link(&mut self, path: &[u8], node: &Node, metadata: &Metadata) -> Result<bool> {
        let may_be_linked = matches!(
            node.file_type(),
            FileType::RegularFile
                | FileType::Symlink
                | FileType::Fifo
                | FileType::CharacterDevice
                | FileType::BlockDevice
        );
        if node.names_of_file() < 2 || !may_be_linked {
            return Ok(false);
        }
        let Some(first) = self.links.take(path, node)? else { return Ok(false) };
        self.tar.append_link(path, metadata, &first).map_err(failed(path))?;
        Ok(true)
    }

    /// Writes a regular file of the size that it has when it is opened, whatever becomes of it meanwhile.
    fn write_file(&mut self, path: &[u8], node: &Node, metadata: &Metadata) -> Result<()> {
        let mut file = node.open_data()?;
        let read = |error| stos_store::Error::io("read", shown(path))(error);
        let size = file.metadata().map_err(read)?.len();
        let ranges = data_ranges(&file, size).map_err(read)?;
        let Some(ranges) = ranges else {
            file.rewind().map_err(read)?;
            return self.tar.append_file(path, metadata, size, file).map_err(failed(path));
        };
        self.sparse_bytes = self.sparse_bytes.saturating_add(size);
        if let Some(room) = self.room
            && self.sparse_bytes.saturating_add(self.tar.position()) > room
        {
            return Err(Error::SparseTooLarge { path: shown(path), size, limit: room });
        }
        let runs = Runs { file, ranges: &ranges, at: 0 };
        self.tar.append_sparse(path, metadata, size, &ranges, runs).map_err(failed(path))
    }
}

/// Gives what layers take of what an EROFS can address.
fn addressed_bytes(engine: &Engine, layers: &[DiffId]) -> Result<u64> {
    let mut sum = 0_u64;
    for &layer in layers {
        let bytes = match engine.layerfs.erofs().layer_record(layer)? {
            Some(record) => record.tar.size + record.extra.map_or(0, |extra| extra.size),
            None => engine.layerfs.kept(layer)?.map_or(0, |kept| kept.tar_bytes),
        };
        sum = sum.saturating_add(bytes);
    }
    Ok(sum)
}

fn failed(path: &[u8]) -> impl FnOnce(stos_erofs::Error) -> Error + '_ {
    move |source| Error::WriteTar { path: shown(path), source }
}

fn shown(path: &[u8]) -> String {
    escape(&format!("/{}", String::from_utf8_lossy(path))).into_owned()
}

/// Gives the runs of a file's data, in whole blocks; `None` where it has no hole worth a map.
fn data_ranges(file: &File, size: u64) -> io::Result<Option<Vec<DataRange>>> {
    let mut ranges: Vec<DataRange> = Vec::new();
    let (mut at, mut hole_min) = (0, HOLE_MIN);
    while at < size {
        let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            // Nothing but a hole from here on.
            Err(Errno::NXIO) => break,
            // The filesystem does not tell.
            Err(Errno::INVAL) => return Ok(None),
            start => start?.min(size),
        };
        let end = match rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start)) {
            Err(Errno::NXIO) => size,
            end => end?.min(size),
        };
        // The file may have been cut short meanwhile.
        if end <= start {
            break;
        }
        at = end;
        add_run(&mut ranges, start, end, size, hole_min);
        if ranges.len() > RANGES_MAX {
            hole_min *= 4;
            let all = std::mem::take(&mut ranges);
            all.iter().for_each(|run| add_run(&mut ranges, run.offset, run.offset + run.len, size, hole_min));
        }
    }
    let is_whole = matches!(ranges.as_slice(), [run] if run.offset == 0 && run.len == size);
    let last = ranges.last().map_or(0, |run| run.offset + run.len);
    if size < HOLE_MIN
        || is_whole
        || (ranges.len() <= 1 && ranges.first().is_some_and(|run| run.offset == 0) && size - last < HOLE_MIN)
    {
        return Ok(None);
    }
    Ok(Some(ranges))
}

/// Adds a run, and with it the hole before where that is too small to count.
fn add_run(ranges: &mut Vec<DataRange>, start: u64, end: u64, size: u64, hole_min: u64) {
    let block = stos_erofs::BLOCK;
    let (start, end) = (start / block * block, end.next_multiple_of(block).min(size));
    match ranges.last_mut() {
        Some(last) if start < last.offset + last.len + hole_min => {
            last.len = end.max(last.offset + last.len) - last.offset
        }
        None if start < hole_min => ranges.push(DataRange { offset: 0, len: end }),
        _ => ranges.push(DataRange { offset: start, len: end - start }),
    }
}

/// The data of the runs, one after the other. Each keeps its length: where the file has become shorter, zeros come.
struct Runs<'a> {
    file: File,
    ranges: &'a [DataRange],
    /// How many bytes of the first of them have been given.
    at: u64,
}

impl Read for Runs<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some((range, rest)) = self.ranges.split_first() else { return Ok(0) };
        if self.at == range.len {
            (self.ranges, self.at) = (rest, 0);
            return self.read(into);
        }
        let wanted = into.len().min(usize::try_from(range.len - self.at).unwrap_or(usize::MAX));
        self.file.seek(SeekFrom::Start(range.offset + self.at))?;
        let read = match self.file.read(&mut into[..wanted])? {
            0 => {
                into[..wanted].fill(0);
                wanted
            }
            read => read,
        };
        self.at += read as u64;
        Ok(read)
    }
}
