// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Copies and compares regular files by their data, holes left out: a file of a layer may be far longer than the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use stos_store::Error as StoreError;

use super::inode::refused;
use crate::room::Room;

/// How many bytes are handled at a time.
const PIECE: usize = 256 << 10;
/// How many bytes are written between two looks at the disk's room.
const LOOK_AT_ROOM: u64 = 16 << 20;

/// Copies the data of `from` into the empty file `to`, and its length; `reserve` bytes of the disk must stay free. `path` is for
/// errors.
pub(super) fn copy_data(from: &File, to: &File, reserve: u64, path: &[u8]) -> Result<(), StoreError> {
    let copied = try_copy(from, to, reserve);
    copied.map_err(refused("copy", path))
}

fn try_copy(from: &File, to: &File, reserve: u64) -> io::Result<()> {
    let len = from.metadata()?.len();
    let mut buffer = vec![0; PIECE];
    let (mut written, mut looked) = (0, 0);
    let mut position = next_data(from, 0, len)?;
    while position < len {
        let end = seek_or(from, SeekFrom::Hole(position), len)?.min(len);
        while position < end {
            let wanted = PIECE.min((end - position).try_into().unwrap_or(PIECE));
            let count = read_at(from, &mut buffer[..wanted], position)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all_at(&buffer[..count], position)?;
            position += count as u64;
            written += count as u64;
            if written - looked >= LOOK_AT_ROOM {
                looked = written;
                check_room(to, reserve, written)?;
            }
        }
        position = next_data(from, position, len)?;
    }
    to.set_len(len)
}

/// Stops a copy before the disk is full.
fn check_room(to: &File, reserve: u64, written: u64) -> io::Result<()> {
    let free = Room::of(to)?.bytes;
    if free >= reserve {
        return Ok(());
    }
    let said =
        format!("the disk is nearly full: {free} bytes are free after {written} of the copy, and {reserve} must stay");
    Err(io::Error::new(io::ErrorKind::StorageFull, said))
}

/// Tells whether two files have the same length and the same bytes.
pub(super) fn has_same_data(left: &File, right: &File) -> io::Result<bool> {
    let len = left.metadata()?.len();
    if right.metadata()?.len() != len {
        return Ok(false);
    }
    let (mut one, mut other) = (vec![0; PIECE], vec![0; PIECE]);
    let mut position = 0;
    loop {
        position = next_data(left, position, len)?.min(next_data(right, position, len)?);
        if position >= len {
            return Ok(true);
        }
        let wanted = PIECE.min((len - position).try_into().unwrap_or(PIECE));
        left.read_exact_at(&mut one[..wanted], position)?;
        right.read_exact_at(&mut other[..wanted], position)?;
        if one[..wanted] != other[..wanted] {
            return Ok(false);
        }
        position += wanted as u64;
    }
}

/// Gives where the next data are, `len` where none are.
fn next_data(file: &File, position: u64, len: u64) -> io::Result<u64> {
    match position < len {
        true => seek_or(file, SeekFrom::Data(position), len),
        false => Ok(len),
    }
}

/// Seeks; `len` where nothing is left. A filesystem that knows no holes has data everywhere.
fn seek_or(file: &File, to: SeekFrom, len: u64) -> io::Result<u64> {
    match (seek(file, to), to) {
        (Err(Errno::NXIO), _) => Ok(len),
        (Err(Errno::INVAL | Errno::OPNOTSUPP), SeekFrom::Data(position)) => Ok(position),
        (Err(Errno::INVAL | Errno::OPNOTSUPP), _) => Ok(len),
        (found, _) => Ok(found?),
    }
}

fn read_at(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, position) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn file() -> File {
        tempfile::tempfile_in("/var/tmp").unwrap()
    }

    #[test]
    fn a_copy_has_the_holes_of_the_file() {
        let (from, to) = (file(), file());
        let far = 1 << 40;
        from.write_all_at(b"start", 0).unwrap();
        from.write_all_at(&[7; 300_000], far).unwrap();
        from.set_len(2 << 40).unwrap();
        copy_data(&from, &to, 0, b"f").unwrap();
        let stat = to.metadata().unwrap();
        assert!(stat.len() == 2 << 40 && stat.blocks() * 512 < 2 << 20, "{stat:?}");
        assert!(has_same_data(&from, &to).unwrap());
        to.write_all_at(b"8", far + 299_999).unwrap();
        assert!(!has_same_data(&from, &to).unwrap());
        // Zeros are what a hole is.
        to.write_all_at(b"\x07", far + 299_999).unwrap();
        to.write_all_at(&[0; 9], far / 2).unwrap();
        assert!(has_same_data(&from, &to).unwrap() && has_same_data(&to, &from).unwrap());
        to.set_len(9).unwrap();
        assert!(!has_same_data(&from, &to).unwrap());
    }

    #[test]
    fn a_copy_leaves_room_and_names_the_file() {
        let (from, to) = (file(), file());
        from.write_all_at(&vec![1; 2 * LOOK_AT_ROOM as usize], 0).unwrap();
        let error = copy_data(&from, &to, u64::MAX, b"a/big").unwrap_err();
        assert!(error.is_full() && error.to_string().contains("a/big"), "{error}");
        assert_eq!(to.metadata().unwrap().len(), LOOK_AT_ROOM);
    }
}
