// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Output that goes to systemd's journal, by its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL): a datagram an entry, with podman's
//! fields.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Stream;
use crate::container::ContainerRecord;
use crate::error::{Error, Result};

/// Where the journal listens (sd_journal_send(3)).
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a journal may take that does not read, before a line is lost: it must not hold the container up for long.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long after that it is not waited for: it has what there is room for, and the rest is lost.
const REST: Duration = Duration::from_secs(5);

/// Tells whether a journal listens here.
///
/// # Errors
/// Why there is none, in words.
pub(crate) fn check() -> std::result::Result<(), String> {
    match UnixDatagram::unbound().and_then(|socket| socket.connect(SOCKET)) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("no journal of systemd listens on {SOCKET}: {error}")),
    }
}

/// The journal, for one container.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// What each entry of it has.
    fields: Vec<u8>,
    entry: Vec<u8>,
    /// Until when it is not waited for, where it was slow.
    rests_until: Option<Instant>,
}

impl Journal {
    pub(super) fn open(record: &ContainerRecord) -> Result<Self> {
        check().map_err(|reason| Error::Option { option: "--log-driver", value: "journald".to_owned(), reason })?;
        let tag = record.service.log.tag.as_deref();
        let names = [record.name.as_str(), record.id.short(), record.id.as_str()];
        Self::to(Path::new(SOCKET), names, tag)
            .map_err(|error| Error::from(stos_store::Error::io("open", SOCKET)(error)))
    }

    /// `names` are the container's name, and the id short and whole.
    fn to(path: &Path, [name, short, whole]: [&str; 3], tag: Option<&str>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut fields = Vec::new();
        push(&mut fields, "CONTAINER_NAME", name.as_bytes());
        push(&mut fields, "CONTAINER_ID", short.as_bytes());
        push(&mut fields, "CONTAINER_ID_FULL", whole.as_bytes());
        push(&mut fields, "SYSLOG_IDENTIFIER", tag.unwrap_or(name).as_bytes());
        if let Some(tag) = tag {
            push(&mut fields, "CONTAINER_TAG", tag.as_bytes());
        }
        Ok(Self { socket, path: path.to_owned(), fields, entry: Vec::new(), rests_until: None })
    }

    /// Sends what came from `stream` in one piece, an entry a line. What does not end with a newline is a part, and says so.
    ///
    /// # Errors
    /// The last one: a line that cannot be sent keeps none of the rest from its turn.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        // As conmon has it: info, and error.
        let priority = match stream {
            Stream::Stdout => "6",
            Stream::Stderr => "3",
        };
        let mut sent = Ok(());
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.entry.clear();
            push(&mut self.entry, "PRIORITY", priority.as_bytes());
            match line.strip_suffix(b"\n") {
                Some(line) => push(&mut self.entry, "MESSAGE", line),
                None => {
                    push(&mut self.entry, "MESSAGE", line);
                    push(&mut self.entry, "CONTAINER_PARTIAL_MESSAGE", b"true");
                }
            }
            self.entry.extend_from_slice(&self.fields);
            if let Err(error) = self.send() {
                sent = Err(error);
            }
        }
        sent
    }

    /// Sends an entry: waits for a slow journal, but not again and again.
    fn send(&mut self) -> io::Result<()> {
        if self.rests_until.is_some_and(|until| until <= Instant::now()) {
            self.rests_until = None;
            self.socket.set_nonblocking(false)?;
        }
        // By its path each time: the journal may have been started anew.
        match self.socket.send_to(&self.entry, &self.path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.rests_until.is_none() => {
                self.rests_until = Some(Instant::now() + REST);
                self.socket.set_nonblocking(true)?;
                Err(error)
            }
            other => other.map(drop),
        }
    }
}

/// Adds a field: as text, or with its length where a newline is in it.
fn push(entry: &mut Vec<u8>, key: &str, value: &[u8]) {
    entry.extend_from_slice(key.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_datagram_with_podman_s_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::to(&path, ["web", "0123", "012345"], Some("a tag")).unwrap();
        journal.write(Stream::Stdout, b"one\n\xfftwo\npart").unwrap();
        journal.write(Stream::Stderr, b"bad\n").unwrap();
        let entry = || {
            let mut buffer = [0; 4096];
            let count = server.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        };
        let same = "CONTAINER_NAME=web\nCONTAINER_ID=0123\nCONTAINER_ID_FULL=012345\nSYSLOG_IDENTIFIER=a tag\nCONTAINER_TAG=a tag\n";
        assert_eq!(entry(), format!("PRIORITY=6\nMESSAGE=one\n{same}"));
        assert_eq!(entry(), format!("PRIORITY=6\nMESSAGE=\u{fffd}two\n{same}"));
        assert_eq!(entry(), format!("PRIORITY=6\nMESSAGE=part\nCONTAINER_PARTIAL_MESSAGE=true\n{same}"));
        assert_eq!(entry(), format!("PRIORITY=3\nMESSAGE=bad\n{same}"));
        // It is started anew.
        drop(server);
        std::fs::remove_file(&path).unwrap();
        journal.write(Stream::Stdout, b"lost\n").unwrap_err();
        let server = UnixDatagram::bind(&path).unwrap();
        journal.write(Stream::Stdout, b"again\n").unwrap();
        assert!(server.recv(&mut [0; 4096]).unwrap() > 0);
    }

    #[test]
    fn a_journal_that_does_not_read_is_waited_for_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = UnixDatagram::bind(&path).unwrap();
        server.set_nonblocking(true).unwrap();
        let mut journal = Journal::to(&path, ["web", "0123", "012345"], None).unwrap();
        // More than the kernel keeps for it (net.unix.max_dgram_qlen), however much that is.
        let lines = "line\n".repeat(5000);
        assert_eq!(journal.write(Stream::Stdout, lines.as_bytes()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(journal.rests_until.is_some());
        // However slow this machine is: a wait would begin another rest.
        let rests_until = Some(Instant::now() + Duration::from_secs(3600));
        journal.rests_until = rests_until;
        journal.write(Stream::Stdout, b"lost\n").unwrap_err();
        assert_eq!(journal.rests_until, rests_until);
        // Once it reads again it has what comes, though it is not waited for yet.
        while server.recv(&mut [0; 4096]).is_ok() {}
        journal.write(Stream::Stdout, b"again\n").unwrap();
        let mut buffer = [0; 4096];
        let count = server.recv(&mut buffer).unwrap();
        assert!(buffer[..count].starts_with(b"PRIORITY=6\nMESSAGE=again\n"));
        journal.rests_until = Some(Instant::now());
        journal.write(Stream::Stdout, b"waits again\n").unwrap();
        assert_eq!(journal.rests_until, None);
    }

    #[test]
    fn a_field_with_a_newline_has_its_length() {
        let mut entry = Vec::new();
        push(&mut entry, "KEY", b"a\nb");
        assert_eq!(entry, b"KEY\n\x03\0\0\0\0\0\0\0a\nb\n");
    }
}
