// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a pull of a layer cannot do without, and nothing else: its blob is received, inflated, hashed as what it is and as what it inflates
//! to, and written durably, all at once. Nothing is looked at and nothing is compared.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, ScopedJoinHandle};

use anyhow::Context;
use nix::unistd::fdatasync;

use super::images;
use super::limits::{BUFFER, Hashes, WRITE_BEHIND, begin_writing, pieces};

/// How many buffers wait between two threads.
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
    /// Whether the blob is not inflated: as many bytes as the layer has are made of nothing instead.
    pub is_made_up: bool,
}

/// Pulls a layer from `blob` to the file at `path`.
pub fn pull(blob: impl Read + Send, wanted: &Wanted<'_>, path: &Path) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let (received, compressed) = pipe();
    let (inflated, tar) = pipe();
    thread::scope(|scope| {
        let receive = scope.spawn(move || copy(blob, &received));
        let inflate = scope.spawn(move || match wanted.is_made_up {
            true => make_up(&compressed, &inflated, wanted),
            false => copy(images::inflate(compressed, wanted.media_type)?, &inflated),
        });
        let mut behind = None;
        let written = hash_and_write(&file, tar, wanted, |total| {
            let (tell, flushed) = behind.get_or_insert_with(|| {
                let (tell, told) = channel();
                (tell, scope.spawn(|| flush(&file, told)))
            });
            // It has gone where it has failed.
            !flushed.is_finished() && tell.send(total).is_ok()
        });
        let flushed = behind.map(|(tell, flush)| {
            drop(tell);
            flush
        });
        // Who fails first has the others end early.
        join(receive)?;
        join(inflate)?;
        flushed.map_or(Ok(()), join)?;
        written?;
        file.sync_all().map_err(Into::into)
    })
}

fn join(thread: ScopedJoinHandle<'_, anyhow::Result<()>>) -> anyhow::Result<()> {
    thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked"))
}

/// Gives a layer's bytes without inflating any, as its blob comes.
fn make_up(blob: &Output, layer: &Input, wanted: &Wanted<'_>) -> anyhow::Result<()> {
    let (mut received, mut made) = (0, 0);
    while let Some(buffer) = blob.next() {
        received += buffer.len() as u64;
        blob.give_back(buffer);
        let until = wanted.tar_size * received / wanted.size;
        for piece in pieces(until - made) {
            let mut buffer = layer.buffer();
            buffer.resize(piece, 7);
            if layer.full.send(buffer).is_err() {
                return Ok(());
            }
        }
        made = until;
    }
    Ok(())
}

/// Writes and hashes the layer, and hashes as many bytes as there are of its blob beside it. `behind` is told how far it has come, and says
/// whether to go on.
fn hash_and_write(
    mut file: &File,
    tar: Output,
    wanted: &Wanted<'_>,
    mut behind: impl FnMut(u64) -> bool,
) -> anyhow::Result<()> {
    let blob = vec![7; BUFFER];
    let (mut hashes, mut total, mut hashed) = (Hashes::default(), 0, 0);
    while let Some(buffer) = tar.next() {
        file.write_all(&buffer)?;
        total += buffer.len() as u64;
        // So much of the blob is in it.
        let of_blob = (wanted.size * total / wanted.tar_size).saturating_sub(hashed);
        hashed += of_blob;
        hashes.add([&blob[..usize::try_from(of_blob)?.min(BUFFER)], &buffer]);
        tar.give_back(buffer);
        if total >= WRITE_BEHIND && !behind(total) {
            break;
        }
    }
    hashes.finish();
    anyhow::ensure!(total == wanted.tar_size, "{total} bytes came of {}", wanted.tar_size);
    Ok(())
}

/// Has the kernel write what has come, and the disk keep it.
fn flush(file: &File, behind: Receiver<u64>) -> anyhow::Result<()> {
    let (mut told, mut flushed) = (0, 0);
    for total in behind {
        if total - told >= WRITE_BEHIND {
            begin_writing(file, told, total)?;
            told = total;
        }
        if total - flushed >= FLUSH {
            fdatasync(file)?;
            flushed = total;
        }
    }
    Ok(())
}

/// Where buffers go, and come back when they have been read.
struct Input {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

/// Where they come from.
struct Output {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

fn pipe() -> (Input, Output) {
    let (full, out) = sync_channel(DEPTH);
    let (empty, back) = channel();
    (Input { full, empty: back }, Output { full: out, empty, current: Vec::new(), at: 0 })
}

impl Input {
    /// A used one, where one has come back.
    fn buffer(&self) -> Vec<u8> {
        self.empty.try_recv().unwrap_or_default()
    }
}

impl Output {
    fn next(&self) -> Option<Vec<u8>> {
        self.full.recv().ok()
    }

    fn give_back(&self, buffer: Vec<u8>) {
        // Who has gone needs none.
        let _ = self.empty.send(buffer);
    }
}

impl BufRead for Output {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len()
            && let Some(next) = self.next()
        {
            let used = std::mem::replace(&mut self.current, next);
            self.give_back(used);
            self.at = 0;
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for Output {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

/// Hands on all that comes, as long as somebody reads it.
fn copy(mut from: impl Read, to: &Input) -> anyhow::Result<()> {
    loop {
        let mut buffer = to.buffer();
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        while filled < BUFFER {
            match from.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        buffer.truncate(filled);
        if filled == 0 || to.full.send(buffer).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn a_layer_is_written_to_its_last_byte() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer");
        let layer: Vec<u8> = (0..3 * BUFFER as u64 + 1).map(|number| number.to_le_bytes()[0]).collect();
        let tar_size = layer.len() as u64;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&layer).unwrap();
        for (media_type, blob) in [("tar", layer.clone()), ("tar+gzip", gzip.finish().unwrap())] {
            let wanted = Wanted { media_type, size: blob.len() as u64, tar_size, is_made_up: false };
            pull(&blob[..], &wanted, &path).unwrap();
            assert!(std::fs::read(&path).unwrap() == layer, "{media_type}");
            // Enough for some of it to be written behind.
            let wanted = Wanted { tar_size: WRITE_BEHIND + 1, is_made_up: true, ..wanted };
            pull(&blob[..], &wanted, &path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), WRITE_BEHIND + 1, "{media_type}");
        }
    }

    #[test]
    fn what_fails_first_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer");
        let many = vec![1; 8 * BUFFER];
        let wanted = Wanted { media_type: "tar", size: 10, tar_size: 10, is_made_up: false };
        let told = |blob: &[u8], wanted: &Wanted<'_>, path: &Path| pull(blob, wanted, path).unwrap_err().to_string();
        assert_eq!(told(&[1; 9], &wanted, &path), "9 bytes came of 10");
        let gzip = Wanted { media_type: "tar+gzip", ..wanted };
        assert_eq!(told(&many, &gzip, &path), "invalid gzip header");
        let full = told(&many, &Wanted { size: 8 << 18, tar_size: 8 << 18, ..wanted }, Path::new("/dev/full"));
        assert!(full.contains("No space left"), "{full}");
    }
}
