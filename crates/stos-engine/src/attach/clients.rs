// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The monitor's half of a session: any number of clients, none of which it waits for.
//!
//! What a client has not read yet is kept for it up to [`BACKLOG_MAX`]; then output is left out, and it is told how much. One exception
//! is the client that has started the container and stands for its caller: it is read for as a pipe's reader is, so the container waits
//! for it while it lives and stays. Input is kept up to [`INPUT_MAX`]; then clients' frames wait in their sockets.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::termios::{Winsize, tcsetwinsize};
use stos_sys::SysError;
use stos_sys::process::clone::{CloneOptions, Cloned, clone_process, exit_now};
use stos_sys::signals::SignalFd;

use super::frame::{Frame, FrameReader};
use super::{SOCKET, Size, StreamOptions};
use crate::error::Result;
use crate::log::Stream;
use crate::relay::wait;

/// What is kept for a client that does not read, in bytes: some screens of a large terminal, many times over.
const BACKLOG_MAX: usize = 1 << 20;

/// What the client that has started the container may leave unread before the container waits, in bytes.
const FIRST_BACKLOG_MAX: usize = 64 << 10;

/// What is kept of input that the container does not read, in bytes.
const INPUT_MAX: usize = 64 << 10;

/// How many clients there may be at once. More are turned away.
pub(crate) const CLIENTS_MAX: usize = 64;

/// How long those that attached later may take, all together, to read the last output of a container that has ended.
const LAST_OUTPUT_PATIENCE: Duration = Duration::from_secs(10);

/// Where the container's input goes.
#[derive(Debug)]
pub(crate) enum Input {
    /// Nowhere: it is empty, or the caller's own.
    None,
    /// Into a pipe.
    Pipe(File),
    /// Into the terminal, whose size can be set.
    Terminal(File),
}

/// All clients of a container.
#[derive(Debug)]
pub(crate) struct Clients {
    streams: StreamOptions,
    listener: Option<UnixListener>,
    /// Whether who comes is not looked at for now: there was no room for another descriptor.
    is_resting: bool,
    clients: Vec<Client>,
    input: Input,
    /// What was typed and has found no room yet, from `written` on.
    typed: Vec<u8>,
    written: usize,
    /// Whether the input ends when all that was typed is written.
    ends_input: bool,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    reader: FrameReader,
    /// What it has not been sent, from `sent` on.
    pending: Vec<u8>,
    sent: usize,
    /// How many bytes of output were left out since.
    skipped: u64,
    /// Whether it has started the container, which waits for it.
    is_first: bool,
    is_gone: bool,
}

impl Clients {
    /// Those of a container whose input is `input`; `first` is the socket of who has started it, where that is another process.
    pub(crate) fn new(streams: StreamOptions, input: Input, first: Option<OwnedFd>) -> Result<Self> {
        let mut clients = Self {
            streams,
            listener: None,
            is_resting: false,
            clients: Vec::new(),
            input,
            typed: Vec::new(),
            written: 0,
            ends_input: false,
        };
        if let Input::Pipe(file) | Input::Terminal(file) = &clients.input {
            let failed = || SysError::at("fcntl", || "O_NONBLOCK".to_owned());
            fcntl_setfl(file, fcntl_getfl(file).map_err(failed())? | OFlags::NONBLOCK).map_err(failed())?;
        }
        if let Some(socket) = first {
            clients.add(socket, true);
        }
        Ok(clients)
    }

    /// Listens in the container's run directory.
    pub(crate) fn listen(&mut self, run_directory: &Path) -> Result<()> {
        let (directory, name) = socket_in(run_directory)?;
        let failed = |error: io::Error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            SysError::new("bind", run_directory.join(SOCKET).display().to_string(), errno)
        };
        let listener = UnixListener::bind(name).map_err(failed)?;
        drop(directory);
        listener.set_nonblocking(true).map_err(failed)?;
        self.listener = Some(listener);
        Ok(())
    }

    fn add(&mut self, socket: OwnedFd, is_first: bool) {
        let mut client = Client {
            socket,
            reader: FrameReader::default(),
            pending: Vec::new(),
            sent: 0,
            skipped: 0,
            is_first,
            is_gone: false,
        };
        Frame::Hello { tty: self.streams.tty, input: self.takes_input() }.write_to(&mut client.pending);
        client.flush();
        self.clients.push(client);
    }

    fn takes_input(&self) -> bool {
        self.streams.interactive && !matches!(self.input, Input::None)
    }

    fn has_typed(&self) -> bool {
        self.written < self.typed.len()
    }

    fn is_input_full(&self) -> bool {
        self.typed.len() - self.written >= INPUT_MAX
    }

    /// Whether output must wait for who has started the container.
    pub(crate) fn is_behind(&self) -> bool {
        self.clients.iter().any(|client| client.is_first && client.pending() >= FIRST_BACKLOG_MAX)
    }

    /// Appends what is waited for. [`step`](Self::step) takes what has happened to it, in the same order.
    pub(crate) fn add_to<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(self.polled_listener().map(|listener| PollFd::new(listener, PollFlags::IN)));
        let reads = if self.is_input_full() { PollFlags::empty() } else { PollFlags::IN };
        fds.extend(self.clients.iter().map(|client| {
            let writes = if client.pending() > 0 { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::new(&client.socket, reads | writes)
        }));
        if let (true, Input::Pipe(file) | Input::Terminal(file)) = (self.has_typed(), &self.input) {
            fds.push(PollFd::new(file, PollFlags::OUT));
        }
    }

    fn polled_listener(&self) -> Option<&UnixListener> {
        self.listener.as_ref().filter(|_| !self.is_resting)
    }

    /// Whether somebody may be waiting to come who is not looked at: poll(2) would tell of them without end. To be tried again soon.
    pub(crate) fn is_resting(&self) -> bool {
        self.is_resting
    }

    /// Does what was waited for.
    pub(crate) fn step(&mut self, happened: &[PollFlags]) {
        let of_listener = usize::from(self.polled_listener().is_some()).min(happened.len());
        let (of_listener, of_clients) = happened.split_at(of_listener);
        self.is_resting = false;
        // Those that come now are not among those that something has happened to.
        for at in 0..self.clients.len() {
            let happened = of_clients.get(at).copied().unwrap_or(PollFlags::empty());
            if happened.contains(PollFlags::OUT) {
                self.clients[at].flush();
            }
            if happened.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                self.receive(at);
            }
        }
        self.clients.retain(|client| !client.is_gone);
        self.write_input();
        if of_listener.first().is_some_and(|happened| !happened.is_empty()) {
            self.accept();
        }
    }

    /// Takes the next who has come; `false` where nobody is taken. One at a time: poll(2) tells of the next.
    fn accept(&mut self) -> bool {
        let Some(listener) = &self.listener else { return false };
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                let is_nobody =
                    matches!(Errno::from_io_error(&error), Some(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED));
                self.is_resting = !is_nobody;
                return false;
            }
        };
        if self.clients.len() < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
            self.add(stream.into(), false);
        }
        true
    }

    /// Takes what a client has sent. Of one that sends no frames nothing more is heard.
    fn receive(&mut self, at: usize) {
        let mut buffer = [0; 16 << 10];
        let client = &mut self.clients[at];
        match recv(&client.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => client.is_gone = true,
            Ok((count, _)) => client.reader.push(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => return,
            Err(_) => client.is_gone = true,
        }
        let takes_input = self.takes_input() && !self.ends_input;
        loop {
            match self.clients[at].reader.next() {
                Ok(Some(Frame::Input(bytes))) if takes_input => self.typed.extend_from_slice(bytes),
                Ok(Some(Frame::EndOfInput)) => self.ends_input |= matches!(self.input, Input::Pipe(_)),
                Ok(Some(Frame::Size(rows, columns))) => set_size(&self.input, (rows, columns)),
                Ok(None) => return,
                Ok(Some(Frame::Input(_))) => {}
                Ok(Some(_)) | Err(_) => {
                    self.clients[at].is_gone = true;
                    return;
                }
            }
        }
    }

    fn write_input(&mut self) {
        let (Input::Pipe(file) | Input::Terminal(file)) = &self.input else { return };
        while self.written < self.typed.len() {
            match rustix::io::write(file, &self.typed[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    // Nobody will read it any more.
                    self.written = self.typed.len();
                    self.ends_input |= matches!(self.input, Input::Pipe(_));
                }
            }
        }
        self.typed.clear();
        self.written = 0;
        if self.ends_input {
            self.input = Input::None;
        }
    }

    /// Sends output to all of them.
    pub(crate) fn send(&mut self, stream: Stream, bytes: &[u8]) {
        for client in &mut self.clients {
            client.send(stream, bytes);
        }
    }

    /// Tells all of them how the container has ended, and waits until they have read that: for who has started it without a limit, as for
    /// a pipe's reader, but for a signal; for the rest not long.
    pub(crate) fn finish(&mut self, code: i32, signals: &SignalFd) -> Result<()> {
        // Who has come meanwhile is told too.
        while self.accept() {}
        self.listener = None;
        for client in &mut self.clients {
            client.tell_skipped();
            Frame::Exited(code).write_to(&mut client.pending);
            client.flush();
        }
        let deadline = Instant::now() + LAST_OUTPUT_PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.clients
                .retain(|client| !client.is_gone && client.pending() > 0 && (client.is_first || !left.is_zero()));
            if self.clients.is_empty() {
                return Ok(());
            }
            let waits_for_first = self.clients.iter().all(|client| client.is_first);
            let timeout = Timespec::try_from(left).ok().filter(|_| !waits_for_first);
            let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
            fds.extend(self.clients.iter().map(|client| PollFd::new(&client.socket, PollFlags::OUT)));
            wait(&mut fds, timeout.as_ref())?;
            if signals.next_signal()?.is_some() {
                return Ok(());
            }
            self.clients.iter_mut().for_each(Client::flush);
        }
    }
}

impl Clients {
    /// The same by a process of its own, for a monitor that goes on. Nobody is a client any more.
    pub(crate) fn finish_aside(&mut self, code: i32, signals: &SignalFd) -> Result<()> {
        while self.accept() {}
        self.input = Input::None;
        if self.clients.is_empty() {
            self.listener = None;
            return Ok(());
        }
        // Our sibling: whoever is our parent reaps it.
        let options = CloneOptions { as_sibling: true, ..CloneOptions::default() };
        match clone_process(options).map_err(stos_runtime::Error::from)? {
            Cloned::Child => exit_now(i32::from(self.finish(code, signals).is_err())),
            Cloned::Parent { .. } => {
                self.listener = None;
                self.clients.clear();
                Ok(())
            }
        }
    }
}

impl Client {
    fn pending(&self) -> usize {
        self.pending.len() - self.sent
    }

    fn send(&mut self, stream: Stream, bytes: &[u8]) {
        if !self.is_first && self.pending() + bytes.len() > BACKLOG_MAX {
            self.skipped += bytes.len() as u64;
            return;
        }
        self.tell_skipped();
        Frame::Output(stream, bytes).write_to(&mut self.pending);
        self.flush();
    }

    fn tell_skipped(&mut self) {
        if self.skipped > 0 {
            Frame::Skipped(std::mem::take(&mut self.skipped)).write_to(&mut self.pending);
        }
    }

    /// Sends what its socket takes without waiting.
    fn flush(&mut self) {
        while self.sent < self.pending.len() && !self.is_gone {
            match send(&self.socket, &self.pending[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.is_gone = true,
            }
        }
        if self.sent == self.pending.len() {
            // What a burst has taken is given back.
            self.pending = Vec::new();
            self.sent = 0;
        } else if self.sent >= FIRST_BACKLOG_MAX {
            self.pending.drain(..self.sent);
            self.sent = 0;
        }
    }
}

fn set_size(input: &Input, (rows, columns): Size) {
    if let Input::Terminal(master) = input {
        // A terminal that has been hung up has no size.
        let _ = tcsetwinsize(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 });
    }
}

/// The socket's name by a descriptor of its directory: with a long ROOT the path is longer than the 108 bytes of unix(7).
fn socket_in(run_directory: &Path) -> std::result::Result<(OwnedFd, PathBuf), SysError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(run_directory, flags, Mode::empty())
        .map_err(SysError::at("open", || run_directory.display().to_string()))?;
    let name = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(SOCKET);
    Ok((directory, name))
}

/// Connects to who listens in a run directory; `None` where nobody does.
pub(crate) fn connect_in(run_directory: &Path) -> Result<Option<UnixStream>> {
    let (_directory, name) = match socket_in(run_directory) {
        Err(error) if error.errno == Errno::NOENT => return Ok(None),
        other => other?,
    };
    match UnixStream::connect(name) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Err(SysError::new("connect", run_directory.join(SOCKET).display().to_string(), errno).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const OPEN: StreamOptions = StreamOptions { tty: false, interactive: true };

    /// Lets the monitor do what there is to do.
    fn turn(clients: &mut Clients) {
        let happened: Vec<PollFlags> = {
            let mut fds = Vec::new();
            clients.add_to(&mut fds);
            wait(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
            fds.iter().map(PollFd::revents).collect()
        };
        clients.step(&happened);
    }

    fn frames(reader: &mut FrameReader) -> Vec<String> {
        std::iter::from_fn(|| reader.next().unwrap().map(|frame| format!("{frame:?}"))).collect()
    }

    #[test]
    fn what_is_left_out_is_told_and_what_is_kept_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let mut clients = Clients::new(StreamOptions::default(), Input::None, None).unwrap();
        assert!(connect_in(directory.path()).unwrap().is_none());
        clients.listen(directory.path()).unwrap();
        let mut client = connect_in(directory.path()).unwrap().unwrap();
        turn(&mut clients);
        let chunk = vec![b'x'; CHUNK];
        let sent = 100;
        (0..sent).for_each(|_| clients.send(Stream::Stdout, &chunk));
        assert!(!clients.is_behind(), "nobody waits for one that came later");
        assert!(clients.clients[0].pending.len() <= BACKLOG_MAX + FIRST_BACKLOG_MAX);
        let (mut reader, mut buffer, mut seen) = (FrameReader::default(), vec![0; 1 << 16], Vec::new());
        client.set_nonblocking(true).unwrap();
        loop {
            turn(&mut clients);
            match client.read(&mut buffer) {
                Ok(count) => reader.push(&buffer[..count]),
                Err(_) if clients.clients[0].pending() == 0 => break,
                Err(_) => {}
            }
            seen.extend(frames(&mut reader));
        }
        clients.send(Stream::Stderr, b"last");
        let count = client.read(&mut buffer).unwrap();
        reader.push(&buffer[..count]);
        seen.extend(frames(&mut reader));
        assert_eq!(seen[0], "Hello { tty: false, input: false }");
        let whole = seen.iter().filter(|frame| frame.starts_with("Output(Stdout")).count();
        assert!(whole > 0 && whole < sent);
        let missing = (sent - whole) * CHUNK;
        let end = [format!("Skipped({missing})"), "Output(Stderr, [108, 97, 115, 116])".to_owned()];
        assert_eq!(seen[seen.len() - 2..], end);
    }

    const CHUNK: usize = super::super::frame::FRAME_MAX;

    #[test]
    fn output_waits_for_who_has_started_the_container() {
        let (own, other) = UnixStream::pair().unwrap();
        let mut clients = Clients::new(StreamOptions::default(), Input::None, Some(other.into())).unwrap();
        let chunk = vec![b'x'; CHUNK];
        let mut sent = 0;
        while !clients.is_behind() {
            clients.send(Stream::Stdout, &chunk);
            sent += 1;
            assert!(sent < 100);
        }
        drop(own);
        turn(&mut clients);
        assert!(!clients.is_behind() && clients.clients.is_empty(), "one that is gone is waited for no longer");
    }

    #[test]
    fn input_is_bounded_and_ends_once() {
        let (mut pipe, writer) = std::io::pipe().unwrap();
        let (mut own, other) = UnixStream::pair().unwrap();
        let input = Input::Pipe(File::from(OwnedFd::from(writer)));
        let mut clients = Clients::new(OPEN, input, Some(other.into())).unwrap();
        own.set_nonblocking(true).unwrap();
        let mut bytes = Vec::new();
        (0..64).for_each(|_| Frame::Input(&[b'y'; CHUNK]).write_to(&mut bytes));
        let mut written = 0;
        for _ in 0..1000 {
            written += own.write(&bytes[written..]).unwrap_or(0);
            turn(&mut clients);
        }
        assert!(written < bytes.len(), "who types too much waits");
        assert!(clients.typed.len() < 2 * INPUT_MAX + CHUNK);
        // It is read on as the container reads.
        let reads = std::thread::spawn(move || {
            let mut all = Vec::new();
            pipe.read_to_end(&mut all).map(|_| all.len())
        });
        Frame::EndOfInput.write_to(&mut bytes);
        while written < bytes.len() || !matches!(clients.input, Input::None) {
            written += own.write(&bytes[written..]).unwrap_or(0);
            turn(&mut clients);
        }
        assert_eq!(reads.join().unwrap().unwrap(), 64 * CHUNK);
        assert!(!clients.takes_input());
    }

    #[test]
    fn who_comes_at_the_very_end_is_told_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut clients = Clients::new(StreamOptions::default(), Input::None, None).unwrap();
        clients.listen(directory.path()).unwrap();
        let mut late: Vec<_> = (0..3).map(|_| connect_in(directory.path()).unwrap().unwrap()).collect();
        clients.finish(3, &SignalFd::new(&[]).unwrap()).unwrap();
        for client in &mut late {
            let (mut reader, mut bytes) = (FrameReader::default(), Vec::new());
            client.read_to_end(&mut bytes).unwrap();
            reader.push(&bytes);
            assert_eq!(frames(&mut reader), ["Hello { tty: false, input: false }", "Exited(3)"]);
        }
    }

    #[test]
    fn too_many_and_who_sends_nonsense_are_turned_away() {
        let directory = tempfile::tempdir().unwrap();
        let mut clients = Clients::new(OPEN, Input::None, None).unwrap();
        clients.listen(directory.path()).unwrap();
        let mut all: Vec<_> = (0..=CLIENTS_MAX)
            .map(|_| {
                let client = connect_in(directory.path()).unwrap().unwrap();
                turn(&mut clients);
                client
            })
            .collect();
        assert_eq!(clients.clients.len(), CLIENTS_MAX);
        let mut text = Vec::new();
        assert_eq!(all.pop().unwrap().read_to_end(&mut text).unwrap(), 0);
        all[0].write_all(b"GET / HTTP/1.1\r\n").unwrap();
        turn(&mut clients);
        assert_eq!(clients.clients.len(), CLIENTS_MAX - 1);
    }
}
