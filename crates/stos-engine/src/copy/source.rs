// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tree as a stream of entries, each file read through its own descriptor.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, SeekFrom, seek};
use rustix::io::Errno;
use stos_erofs::{DataPlace, Entry, EntryKind, TarSink};
use stos_spec::text::escape;
use stos_sys::process::user_namespace::IdMappings;

use super::sink::TreeSink;
use crate::changes::layer::TreeWriter;
use crate::changes::{ChangeKind, Event, Mode, MountPoints, Node, Walk};
use crate::error::Result;
use crate::user_namespace::numbered_inside;

/// How much of a file is read at once.
const PIECE: usize = 256 << 10;

/// What of a container's root is the kernel's or the machine's, and left out where the whole root is copied (podman does so too).
const NOT_OF_ROOT: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// Walks a file or a directory, the root of a container without what is not its own. Paths begin with `name`.
fn walk(node: Node, name: &[u8], is_root: bool, visit: &mut dyn FnMut(&[u8], &Node) -> Result<()>) -> Result<()> {
    if !node.is_directory() {
        return visit(name, &node);
    }
    let mut walk = Walk::new(node, None, Mode::Trees, MountPoints::default());
    walk.leaves_out = if is_root { &NOT_OF_ROOT } else { &[] };
    walk.run(&mut |event| match event {
        Event::Entry { path, node, .. } => {
            let whole = match (name, path) {
                (_, b"") => name.to_vec(),
                (b"", _) => path.to_vec(),
                _ => [name, b"/", path].concat(),
            };
            visit(&whole, node)
        }
        Event::Opaque { .. } | Event::Deleted { .. } | Event::Covered { .. } => Ok(()),
    })
}

/// Writes a tree into a tar.
pub(super) fn write_tar<W: io::Write>(node: Node, name: &[u8], is_root: bool, tar: &mut TreeWriter<W>) -> Result<()> {
    walk(node, name, is_root, &mut |path, node| match path {
        // What is in a directory, without it.
        b"" => Ok(()),
        path => tar.write(Event::Entry { kind: ChangeKind::Added, path, node }),
    })
}

/// Hands a tree on to be made again.
///
/// Owners have the numbers that `ids` map those of the host to.
pub(super) fn feed(node: Node, name: &[u8], is_root: bool, ids: &IdMappings, sink: &mut TreeSink<'_>) -> Result<()> {
    let failure = sink.failure();
    let mut number = 0;
    let mut buffer = vec![0; PIECE];
    walk(node, name, is_root, &mut |path, node| {
        let fed = feed_node(path, node, (number, ids), sink, &mut buffer);
        number += 1;
        match fed {
            Err(error) => Err(failure.take().unwrap_or(error)),
            Ok(()) => Ok(()),
        }
    })
}

fn feed_node(
    path: &[u8],
    node: &Node,
    (number, ids): (u64, &IdMappings),
    sink: &mut TreeSink<'_>,
    buffer: &mut [u8],
) -> Result<()> {
    let metadata = numbered_inside(node.metadata()?, ids);
    let (major, minor) = node.device();
    let mut data = None;
    let kind = match node.file_type() {
        FileType::RegularFile => {
            let file = node.open_data()?;
            let size = file.metadata().map_err(read_failed(path))?.len();
            data = Some((file, size));
            EntryKind::Regular { metadata, size, place: DataPlace::Tar, block: 0 }
        }
        FileType::Directory => EntryKind::Directory(metadata),
        FileType::Symlink => EntryKind::Symlink { metadata, target: node.target()? },
        FileType::CharacterDevice => EntryKind::CharacterDevice { metadata, major, minor },
        FileType::BlockDevice => EntryKind::BlockDevice { metadata, major, minor },
        FileType::Fifo => EntryKind::Fifo(metadata),
        _ => {
            tracing::warn!(path = shown(path), "a socket cannot be copied: left out");
            return Ok(());
        }
    };
    let failed = |error| stos_store::Error::io("write", shown(path))(error);
    sink.entry(number, &Entry { path: path.to_vec(), kind }).map_err(failed)?;
    match data {
        Some((file, size)) => feed_data(&file, size, path, sink, buffer),
        None => Ok(()),
    }
}

/// Hands on the data of a file of the size that it had, hole by hole: one that has grown meanwhile ends there, and what was cut off
/// it is a hole.
fn feed_data(file: &File, size: u64, path: &[u8], sink: &mut TreeSink<'_>, buffer: &mut [u8]) -> Result<()> {
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            // The filesystem does not tell.
            Err(Errno::INVAL) => at,
            start => start.map_err(|errno| read_failed(path)(errno.into()))?.max(at),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Err(Errno::NXIO | Errno::INVAL) => size,
            end => end.map_err(|errno| read_failed(path)(errno.into()))?.min(size),
        };
        at = start;
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            match file.read_at(&mut buffer[..wanted], at) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    let failed = |error| stos_store::Error::io("write", shown(path))(error);
                    sink.data(at, &buffer[..count]).map_err(failed)?;
                    at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_failed(path)(error).into()),
            }
        }
    }
    Ok(())
}

fn read_failed(path: &[u8]) -> impl FnOnce(io::Error) -> stos_store::Error + '_ {
    move |error| stos_store::Error::io("read", shown(path))(error)
}

fn shown(path: &[u8]) -> String {
    escape(&String::from_utf8_lossy(path)).into_owned()
}
