// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file goes to disk while it grows, and nobody who writes to it waits for the disk.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How far a file may be ahead of the disk before its writing there begins, in bytes.
const WRITE_BEHIND: u64 = 16 << 20;
/// How much of it the disk may keep in its own cache, in bytes. Measured on disks of 300 to 500 MB/s: twice as much makes no difference,
/// four times as much a longer wait at the end.
const FLUSH: u64 = 64 << 20;

/// Sends a file to disk by a thread of its own, which begins once there is something to send: small files have none.
///
/// The thread also has the disk empty its cache now and then: one flush at the end would wait for all that the disk has only taken
/// note of, with nothing left to do meanwhile. A disk that flushes takes no other writes, and then only these threads wait.
#[derive(Debug, Default)]
pub(crate) struct WriteBehind {
    handed: u64,
    sender: Option<Sender>,
}

#[derive(Debug)]
struct Sender {
    shared: Arc<(Mutex<Progress>, Condvar)>,
    thread: JoinHandle<io::Result<()>>,
}

#[derive(Debug, Default)]
struct Progress {
    written: u64,
    is_over: bool,
}

impl WriteBehind {
    /// Tells that `file` has `written` bytes by now.
    pub(crate) fn advance(&mut self, file: &File, written: u64) -> io::Result<()> {
        if written - self.handed < WRITE_BEHIND {
            return Ok(());
        }
        self.handed = written;
        if self.sender.is_none() {
            self.sender = Some(Sender::start(file.try_clone()?)?);
        }
        self.tell(|progress| progress.written = written);
        Ok(())
    }

    /// Waits for what is under way. A failure to write is told here, and by no later fsync(2).
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.end()
    }

    fn tell(&self, change: impl FnOnce(&mut Progress)) {
        let Some(sender) = &self.sender else { return };
        let (progress, changed) = &*sender.shared;
        change(&mut progress.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_one();
    }

    fn end(&mut self) -> io::Result<()> {
        self.tell(|progress| progress.is_over = true);
        let Some(sender) = self.sender.take() else { return Ok(()) };
        sender.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        // Who drops it has failed otherwise.
        drop(self.end());
    }
}

impl Sender {
    fn start(file: File) -> io::Result<Self> {
        let shared = Arc::<(Mutex<Progress>, Condvar)>::default();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("write-behind".into()).spawn(move || send(&file, &theirs))?;
        Ok(Self { shared, thread })
    }
}

fn send(file: &File, shared: &(Mutex<Progress>, Condvar)) -> io::Result<()> {
    let (progress, changed) = shared;
    let (mut sent, mut flushed) = (0, 0);
    loop {
        let mut now = progress.lock().unwrap_or_else(PoisonError::into_inner);
        while !now.is_over && now.written == sent {
            now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        // Whoever ends it syncs the file as a whole.
        if now.is_over {
            return Ok(());
        }
        let written = now.written;
        drop(now);
        stos_sys::sync::start_write_behind(file, sent, written - sent);
        sent = written;
        if sent - flushed >= FLUSH {
            file.sync_data()?;
            flushed = sent;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_large_file_is_sent_and_a_small_one_has_no_thread() {
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        let mut behind = WriteBehind::default();
        behind.advance(&file, WRITE_BEHIND - 1).unwrap();
        assert!(behind.sender.is_none());
        for piece in 1..=5 {
            file.write_all(&vec![1; WRITE_BEHIND as usize]).unwrap();
            behind.advance(&file, piece * WRITE_BEHIND).unwrap();
        }
        assert!(behind.sender.is_some());
        behind.finish().unwrap();
    }

    #[test]
    fn a_disk_that_fails_is_told_of() {
        // Nothing can be made durable there.
        let (_reader, writer) = io::pipe().unwrap();
        let file = File::from(OwnedFd::from(writer));
        let mut behind = WriteBehind::default();
        behind.advance(&file, FLUSH).unwrap();
        let sender = behind.sender.as_ref().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !sender.thread.is_finished() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(behind.finish().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
