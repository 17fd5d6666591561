// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a pull of a layer cannot do without, and nothing else: its blob is received, inflated, hashed as what it is and as what it inflates
//! to, and written durably, all at once. Nothing is looked at and nothing is compared.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::fdatasync;

use super::images;
use super::limits::{BUFFER, Hashes, WRITE_BEHIND, pieces};

/// Buffers between two threads.
const DEPTH: usize = 4;
/// The disk is told to be done with what it has after so many bytes.
const FLUSH: u64 = 64 << 20;

/// A layer that is to be pulled.
pub struct Wanted<'a> {
    /// How its blob is compressed.
    pub media_type: &'a str,
    /// The blob's bytes.
    pub size: u64,
    /// The layer's bytes.
    pub tar_size: u64,
    /// Whether the blob is not inflated: as many bytes as the layer has come from nowhere instead.
    pub is_made_up: bool,
}

/// Pulls a layer from `blob` to the file at `path`.
pub fn pull(blob: impl Read + Send, wanted: &Wanted<'_>, path: &Path) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let (received, mut compressed) = pipe();
    let (inflated, tar) = pipe();
    let (written, behind) = sync_channel(1 << 16);
    thread::scope(|scope| {
        let receive = scope.spawn(move || copy(blob, received));
        let inflate = scope.spawn(move || {
            if wanted.is_made_up {
                return make_up(&compressed, &inflated, wanted);
            }
            let mut tar = images::inflate(&mut compressed, wanted.media_type)?;
            copy(&mut tar, inflated)
        });
        let flush = scope.spawn(|| flush(&file, behind));
        let write = hash_and_write(&file, tar, wanted, written);
        for thread in [receive, inflate, flush] {
            thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked"))?;
        }
        write
    })
}

/// Gives a layer's bytes without inflating any, as its blob comes.
fn make_up(blob: &Output, layer: &Input, wanted: &Wanted<'_>) -> anyhow::Result<()> {
    let (mut received, mut made) = (0, 0);
    while let Some(buffer) = blob.next() {
        received += buffer.len() as u64;
        blob.give_back(buffer);
        let until = wanted.tar_size * received / wanted.size;
        for piece in pieces(until - made) {
            let mut buffer = layer.empty.recv()?;
            buffer.resize(piece, 7);
            layer.full.send(buffer)?;
        }
        made = until;
    }
    Ok(())
}

/// Hashes and writes the layer, and hashes as many bytes as there are of its blob beside it.
fn hash_and_write(mut file: &File, tar: Output, wanted: &Wanted<'_>, behind: SyncSender<u64>) -> anyhow::Result<()> {
    let blob = vec![7; BUFFER];
    let (mut hashes, mut total, mut hashed) = (Hashes::default(), 0, 0);
    while let Some(buffer) = tar.next() {
        file.write_all(&buffer)?;
        total += buffer.len() as u64;
        // So much of the blob is in it.
        let of_blob = wanted.size * total / wanted.tar_size - hashed;
        hashed += of_blob;
        hashes.add([&blob[..usize::try_from(of_blob)?.min(BUFFER)], &buffer]);
        tar.give_back(buffer);
        behind.send(total)?;
    }
    anyhow::ensure!(total == wanted.tar_size, "{total} bytes came of {}", wanted.tar_size);
    hashes.finish();
    Ok(())
}

/// Has the kernel write what has come, and the disk keep it.
fn flush(file: &File, behind: Receiver<u64>) -> anyhow::Result<()> {
    let (mut told, mut flushed) = (0, 0);
    for total in behind {
        if total - told >= WRITE_BEHIND {
            let (offset, length) = (i64::try_from(told)?, i64::try_from(total - told)?);
            posix_fadvise(file.as_fd(), offset, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            told = total;
        }
        if total - flushed >= FLUSH {
            fdatasync(file)?;
            flushed = total;
        }
    }
    file.sync_all().map_err(Into::into)
}

/// Where buffers go, and come back when they have been read.
struct Input {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

/// Where they come from.
struct Output {
    full: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

fn pipe() -> (Input, Output) {
    let (full, out) = sync_channel(DEPTH);
    let (empty, back) = sync_channel(DEPTH + 2);
    for _ in 0..DEPTH {
        let _ = empty.send(vec![0; BUFFER]);
    }
    (Input { full, empty: back }, Output { full: out, empty, current: Vec::new(), at: 0 })
}

impl Output {
    fn next(&self) -> Option<Vec<u8>> {
        self.full.recv().ok()
    }

    fn give_back(&self, buffer: Vec<u8>) {
        // Nobody wants it any more at the end.
        let _ = self.empty.send(buffer);
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            let Some(next) = self.next() else { return Ok(0) };
            let last = std::mem::replace(&mut self.current, next);
            self.at = 0;
            if !last.is_empty() {
                self.give_back(last);
            }
        }
        let count = buffer.len().min(self.current.len() - self.at);
        buffer[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn copy(mut from: impl Read, to: Input) -> anyhow::Result<()> {
    loop {
        let mut buffer = to.empty.recv()?;
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        while filled < BUFFER {
            match from.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        buffer.truncate(filled);
        if filled == 0 {
            return Ok(());
        }
        to.full.send(buffer)?;
        if filled < BUFFER {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_written_to_its_last_byte() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer");
        let blob: Vec<u8> = (0..3 * BUFFER as u64 + 1).map(|number| number.to_le_bytes()[0]).collect();
        let size = blob.len() as u64;
        let wanted = Wanted { media_type: "tar", size, tar_size: size, is_made_up: false };
        pull(&blob[..], &wanted, &path).unwrap();
        assert!(std::fs::read(&path).unwrap() == blob);
        let wanted = Wanted { tar_size: 2 * size + 1, is_made_up: true, ..wanted };
        pull(&blob[..], &wanted, &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * size + 1);
    }

    #[test]
    fn what_is_not_whole_fails() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer");
        let wanted = Wanted { media_type: "tar", size: 10, tar_size: 10, is_made_up: false };
        let error = pull(&[1; 9][..], &wanted, &path).unwrap_err();
        assert!(error.to_string().contains("9 bytes came of 10"), "{error}");
        let wanted = Wanted { media_type: "tar+gzip", ..wanted };
        assert!(pull(&[1; 10][..], &wanted, &path).is_err());
    }
}
