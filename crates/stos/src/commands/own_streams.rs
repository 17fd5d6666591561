// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our own standard streams, where we stand between them and a process: nothing here waits, so who does not read or type keeps no signal
//! from the process.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::stdio::stdin;
use stos_engine::attach::{KeyScanner, write_now};

/// What is typed to us.
pub struct Typing {
    keys: KeyScanner,
    /// Whether there may be more.
    is_open: bool,
}

impl Typing {
    /// Looks for these keys in it; `is_open` where it is for the process at all.
    pub fn new(keys: KeyScanner, is_open: bool) -> Self {
        Self { keys, is_open }
    }

    /// Whether there may be more of it.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Appends what there is, and tells whether the keys that leave the process were among it. To be called when poll(2) tells of it.
    pub fn read(&mut self, typed: &mut Vec<u8>) -> bool {
        let mut buffer = [0; 4096];
        match rustix::io::read(stdin(), &mut buffer) {
            Ok(count @ 1..) => return self.keys.scan(&buffer[..count], typed),
            Err(Errno::INTR | Errno::AGAIN) => return false,
            // EIO: our own terminal is gone.
            Ok(_) | Err(Errno::IO) => {}
            // That of a directory, say. The process is there all the same, and gets no more.
            Err(error) => tracing::warn!(%error, "standard input cannot be read"),
        }
        self.is_open = false;
        self.keys.finish(typed);
        false
    }
}

/// One of our streams that is written to.
pub struct Output {
    stream: BorrowedFd<'static>,
    pending: Vec<u8>,
    sent: usize,
    /// Whether the reader has gone.
    is_closed: bool,
}

impl Output {
    /// To this stream.
    pub fn new(stream: BorrowedFd<'static>) -> Self {
        Self { stream, pending: Vec::new(), sent: 0, is_closed: false }
    }

    /// The stream: to be polled while something is pending.
    pub fn stream(&self) -> BorrowedFd<'static> {
        self.stream
    }

    /// Whether something has found no room yet.
    pub fn is_pending(&self) -> bool {
        self.sent < self.pending.len()
    }

    /// Writes what finds room, and keeps the rest. Where the reader has gone it is thrown away.
    pub fn write(&mut self, bytes: &[u8]) {
        if !self.is_closed {
            self.pending.extend_from_slice(bytes);
            self.flush();
        }
    }

    /// Writes what was kept, as far as there is room.
    pub fn flush(&mut self) {
        while self.is_pending() {
            match write_now(self.stream, &self.pending[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.is_closed = true;
                    self.sent = self.pending.len();
                }
            }
        }
        self.pending.clear();
        self.sent = 0;
    }
}
